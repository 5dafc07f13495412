"""Adding a term's postings to accumulators."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numba_support.arrays import I64, U8, U16, U64, Sums
from ..numba_support.cache import inline_kernel
from ..numba_support.simd import prefetch

# Terms with so many postings in a window are added strip by strip.
LONG = np.uint64(1024)
# Postings that are added without asking in between whether the shelf ends.
AT_ONCE = 8
# Postings in a cache line.
LINE_OF_UNITS, LINE_OF_IMPACTS = np.uint64(32), np.uint64(64)


@inline_kernel
def fetch(units: U16, impacts: U8, first: Any, last: Any) -> None:
    """Ask for postings, the last one excluded; they need not exist."""
    for p in range(first, last + LINE_OF_UNITS, LINE_OF_UNITS):
        prefetch(units, p)
    for p in range(first, last + LINE_OF_IMPACTS, LINE_OF_IMPACTS):
        prefetch(impacts, p)


@inline_kernel
def add(sums: Sums, weight: Any, units: U16, impacts: U8, first: Any, last: Any, end: Any, limit: Any) -> Any:
    """sums[unit] += weight * impact for the postings from ``first`` whose unit is below ``end``; returns the next.

    Up to seven from ``end`` on are added too if they are below ``limit``, because to split eight costs as much as to
    add many: whoever clears or reads sums from ``end`` on does so when the rest has been added.
    """
    at = first
    while at + np.uint64(AT_ONCE) <= last and units[at] < end and units[at + np.uint64(AT_ONCE - 1)] < limit:
        for i in range(AT_ONCE):
            sums[units[at + np.uint64(i)]] += weight * impacts[at + np.uint64(i)]
        at += np.uint64(AT_ONCE)
    while at < last and units[at] < end:
        sums[units[at]] += weight * impacts[at]
        at += np.uint64(1)
    fetch(units, impacts, at, at + (at - first))
    return at


@inline_kernel
def add_and_test(
    sums: Sums,
    weight: Any,
    units: U16,
    impacts: U8,
    first: Any,
    last: Any,
    end: Any,
    least: Any,
    crossed: U16,
    crossings: int,
) -> tuple[Any, int]:
    """Like :func:`add`; the units whose sum comes to reach ``least`` are appended to ``crossed``. Returns the next
    posting, and how many have crossed.
    """
    at = first
    while at < last and units[at] < end:
        before = sums[units[at]]
        after = before + weight * impacts[at]
        sums[units[at]] = after
        if after >= least and before < least:
            crossed[crossings] = units[at]
            crossings += 1
        at += np.uint64(1)
    fetch(units, impacts, at, at + (at - first))
    return at, crossings


@inline_kernel
def add_all(
    these: I64, w: int, weights: Sums, sums: Sums, units: U16, impacts: U8, starts: U64, upcoming: U64, end: Any,
    limit: Any,
) -> None:  # fmt: skip
    """Add the postings below ``end`` that these terms have in window ``w``; see :func:`add`."""
    for i in range(these.size):
        j = np.uint64(these[i])
        upcoming[j] = add(sums, weights[j], units, impacts, upcoming[j], starts[j, w + 1], end, limit)


@inline_kernel
def long_first(n: Any, w: int, starts: U64, turns: I64, postponed: int, order: I64) -> tuple[int, int]:
    """``order``: the terms with many postings in a window, and from its end those with few, the last one first: whole
    numbers may be added in any order. Left out are those whose turn is before ``postponed``. Returns how many have
    many, and where those with few begin.
    """
    many, few = 0, n
    for j in range(n):
        if turns[j] < postponed:
            continue
        if starts[j, w + 1] - starts[j, w] >= LONG:
            order[many] = j
            many += 1
        else:
            few -= 1
            order[few] = j
    return many, few
