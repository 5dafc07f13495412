"""Scoring a term at a time (Lin & Trotman, ICTIR 2015).

The units are cut into strips of 4,096, whose accumulators stay in the first-level cache; all postings of a strip are
added, and the strip is searched for sums that reach the threshold. Where the sums of float64 are exact, the
accumulators are integers of 64 bits: float32 weights are whole multiples of one power of two, and float64 adds
multiples of a power of two without rounding as long as they stay below 2^53 of them. Then integers give the very same
sum, in less time.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import CHUNK, CHUNK_BITS, STRIP, STRIP_BITS, STRIPS, WINDOW, WINDOW_BITS
from .arrays import I64, U8, U16, U64, Bools, Sums
from .bounds import CHUNKS
from .chunks import chunk_start
from .memory import BAR, FOUND, TERMS, UNIT, open_filter, open_postings, open_workspace
from .numba_cache import inline_kernel, kernel
from .sorting import NONE, raise_bar
from .visit import SLACK_FOUND

# With fewer postings in a strip than this, their accumulators are cleared one by one.
SPARSE = STRIP // 32


@inline_kernel
def lower_bound(units: U16, unit: Any) -> Any:
    """How many of an ascending slice are smaller than ``unit``."""
    low = np.uint64(0)
    length = np.uint64(units.size)
    while length > np.uint64(0):
        half = (length + np.uint64(1)) >> np.uint64(1)
        low += half if units[low + half - np.uint64(1)] < unit else np.uint64(0)
        length -= half
    return low


@inline_kernel
def any_of(flags: U8) -> Any:
    """Whether one is not 0."""
    seen = np.uint8(0)
    for i in range(flags.size):
        seen |= flags[i]
    return seen != 0


@inline_kernel
def forbid(sums: Sums, passing: Bools, lowest: Any) -> None:
    """Set the sums of the units that do not pass to ``lowest``; the others are 0."""
    for i in range(sums.size):
        sums[i] = 0 if passing[i] else lowest


@inline_kernel
def add_block(accumulator: Sums, weight: Any, units: U16, impacts: U8, least: Any, crossed: U16, crossings: int) -> int:
    """accumulator[unit] += weight * impact for a strip's postings; the units whose sum comes to reach ``least`` are
    appended to ``crossed``. Returns how many it has.
    """
    for i in range(units.size):
        before = accumulator[units[i]]
        after = before + weight * impacts[i]
        accumulator[units[i]] = after
        if after >= least and before < least:
            crossed[crossings] = units[i]
            crossings += 1
    return crossings


@inline_kernel
def split_block(
    j: int, window: int, rows: I64, starts: U64, span_postings: U16, chunk_postings: U8, units: U16, splits: U64
) -> None:
    """``splits[s]``: the first posting of term j in strip s of a window or later; one more than there are strips."""
    first, last = starts[j, window], starts[j, window + 1]
    splits[0], splits[STRIPS] = first, last
    row = rows[j]
    if row >= 0:
        chunk = window * CHUNKS
        for s in range(1, STRIPS):
            chunk += STRIP // CHUNK
            splits[s] = last
            if chunk < chunk_postings.shape[1]:
                splits[s] = first + chunk_start(row, chunk, span_postings, chunk_postings)
    else:
        for s in range(1, STRIPS):
            splits[s] = first + lower_bound(units[first:last], np.uint32(s << STRIP_BITS))


@kernel
def scan(
    k: int,
    allowed: int,
    segment: int,
    workspace: int,
    whole: bool,
    weights: Sums,
    accumulators: Sums,
    least: Sums,
) -> None:
    """Answer a query by adding up all postings; leaves candidates for :func:`.sorting.take_best`.

    ``weights``, ``accumulators`` and ``least`` are int64 where ``whole``, or float64; ``least[0]`` is workspace,
    ``least[1]`` stays below 0 whatever is added. The addresses are those that :func:`.visit.visit` had; it left the
    rest in the workspace.
    """
    s, ws, passing = open_postings(segment), open_workspace(workspace), open_filter(allowed)
    n, bar, unit = np.int64(ws.state[TERMS]), ws.state[BAR], ws.state[UNIT] if whole else 1.0
    units, impacts, starts, splits = s.units, s.impacts, ws.starts, ws.splits
    # A unit indexes accumulators[WINDOW - base:], so that all strips use the same 4,096 of them.
    strip_sums = accumulators[WINDOW : WINDOW + STRIP]
    limit = 2 * k + SLACK_FOUND
    found = NONE
    ordered = s.original.size == 0
    full = False  # whether bar is the score of a k-th candidate: then a later unit must beat it, for ties go to earlier
    for w in range(ws.tops.size):
        if ws.tops[w] < bar:
            continue
        length = min(WINDOW, s.unit_count - (w << WINDOW_BITS))
        for j in range(n):
            split_block(j, w, ws.rows, starts, s.span_postings, s.chunk_postings, units, splits[j])
        for strip in range((length + STRIP - 1) >> STRIP_BITS):
            base = (w << WINDOW_BITS) + (strip << STRIP_BITS)
            size = min(STRIP, s.unit_count - base)
            if passing.units.size > 0:
                first_chunk = base >> CHUNK_BITS
                if not any_of(passing.chunks[first_chunk : first_chunk + STRIP // CHUNK]):
                    continue
            if whole:  # at least 1: bar / unit may be rounded to 0
                least[0] = max(1.0, math.floor(bar / unit) + 1 if full and ordered else math.ceil(bar / unit))
            else:
                least[0] = np.nextafter(bar, np.inf) if full and ordered else bar
            within = accumulators[WINDOW - (strip << STRIP_BITS) : 2 * WINDOW - (strip << STRIP_BITS)]
            postings = np.uint64(0)
            for j in range(n):
                postings += splits[j, strip + 1] - splits[j, strip]
            # A unit that may not be found begins so low that it cannot cross. With few postings, it is looked at when
            # it has crossed.
            forbidding = passing.units.size > 0 and postings > np.uint64(STRIP // 2)
            if forbidding:
                forbid(strip_sums[:size], passing.units[base : base + size], least[1])
            crossings = NONE
            for j in range(n):
                lo, hi = splits[j, strip], splits[j, strip + 1]
                crossings = add_block(within, weights[j], units[lo:hi], impacts[lo:hi], least[0], ws.crossed, crossings)
            for i in range(crossings):
                at = np.int64(ws.crossed[i] & np.uint16(STRIP - 1))
                if at < size and (passing.units.size == 0 or passing.units[base + at]):
                    ws.scores[found] = strip_sums[at] * unit
                    ws.units[found] = base + at if ordered else s.original[base + at]
                    found += 1
            if postings < np.uint64(SPARSE):  # and so none is forbidden
                for j in range(n):
                    for p in range(splits[j, strip], splits[j, strip + 1]):
                        strip_sums[units[p] & np.uint16(STRIP - 1)] = 0
            else:
                strip_sums[:size] = 0
            if found >= limit:
                found, bar = raise_bar(found, k, bar, ws.scores, ws.units)
                full = True
    ws.state[FOUND] = found
