"""Sums of 16 bits that bound the scores of a window's units; the few that may be among the best are then scored.

To look at the accumulators of all units and to clear them takes longer than to add the postings of a short query, and
at a quarter of the width a quarter of that time. Weights are rounded up, so that no unit's sum is below its score, and
what reaches the threshold is looked up in all terms. That takes a threshold, which the first window gives, whose sums
are full ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numba_support.arrays import F64, I64, U8, U16, U32, U64, Bools
from ..numba_support.cache import inline_kernel
from ..numba_support.simd import LANES, at_least, clear, equal_to, flagged, lowest_bit
from . import BLOCK_BITS, BLOCK_SIZE, L1_TILE, L2_TILE, RANGE_SIZE
from .accumulate import LONG, add_all, long_first
from .block_max_bounds import SLACK, needed
from .maxscore import add_late, keep_hopeful, keep_reaching, look_up
from .topk import NONE

# What sums a scan adds after the first window: those that take less time, of 16 bits wherever possible, or full ones.
EITHER, COARSE, FULL = range(3)
COARSE_STRIP = L2_TILE  # units whose sums of 16 bits are as much as a first-level cache of 32 KB holds
MOST_ADDED = 0.1  # to the weights by rounding: of many terms 16 bits do not leave enough for each
# In nanoseconds, what is saved: for each unit and each posting, where all sums are looked at, where they are cleared
# together, and where they are cleared one by one. What it costs: to look a candidate up in a term, and once a window.
SAVED_DENSE, SAVED_MIDDLE, SAVED_SPARSE = (0.083, 0.0), (0.023, 0.65), (-0.032, 1.0)
SAVED_RUN = 12.0  # for each run of a term's postings
COST_LOOKUP, COST_WINDOW = 10.0, 300.0


@inline_kernel
def round_up(n: int, tops: F64, used: F64, weights: I64) -> float:
    """``weights``: those of ``used`` as multiples of the step that is returned, rounded up to more than they are; 0.0
    where that is too much. ``tops``: no unit of a window has a higher score. So no sum exceeds 65,535: rounding adds 1
    to each weight at most, and an impact is at most 255.
    """
    if n > 256:
        return 0.0
    top = 0.0
    for w in range(tops.size):
        top = max(top, tops[w])
    step = top / (65535.0 - 255.0 * n)
    if not step > 1e-290:  # so that quotients are finite
        return 0.0
    total, added = 0.0, 0.0
    for j in range(n):
        weights[j] = np.int64(used[j] / step) + 1
        total += used[j]
        added += weights[j] * step - used[j]
    return step if added <= MOST_ADDED * total else 0.0


@inline_kernel
def gain_of(n: int, length: int, w: int, starts: U64, dense: Any, sparse: Any, scored: float) -> float:
    """The nanoseconds that coarse sums save in window ``w`` if ``scored`` units are then scored. ``dense``, ``sparse``:
    what would be done otherwise, see scan.py.
    """
    postings = np.uint64(0)
    runs = 0
    for j in range(n):
        own = starts[j, w + 1] - starts[j, w]
        postings += own
        runs += RANGE_SIZE // L1_TILE if dense and own >= LONG else RANGE_SIZE // L2_TILE
        runs -= RANGE_SIZE // COARSE_STRIP if own >= LONG else 1
    unit, posting = SAVED_DENSE if dense else SAVED_SPARSE if sparse else SAVED_MIDDLE
    gain = unit * length + posting * np.float64(postings) + SAVED_RUN * runs
    return gain - COST_WINDOW - COST_LOOKUP * scored * n


@inline_kernel
def sweep_coarse(
    sums: U16, first: int, least: Any, room: I64, step: float, first_unit: int, passing: Bools, scores: F64,
    places: U32, found: Any,
) -> Any:  # fmt: skip
    """Make candidates of the sums of a strip that are at least ``least``, together with the room of their chunk if
    there is any, and set all to 0. A candidate's score is not below what it has in the terms that were added.
    """
    for group in range(first, first + COARSE_STRIP, BLOCK_SIZE):
        need = np.uint16(max(0, least - room[group >> BLOCK_BITS])) if room.size > 0 else np.uint16(least)
        reached = at_least(sums, group, need)
        if reached and passing.size > 0:
            reached &= flagged(passing, first_unit + group)
        while reached:
            place = group + lowest_bit(reached)
            scores[found], places[found] = step * sums[place], first_unit + place
            found += 1
            reached &= reached - np.uint64(1)
        clear(sums, group)
    return found


@inline_kernel
def gather_coarse(
    w: int, n: Any, length: int, first_unit: int, postponed: int, turns: I64, order: I64, weights: I64, sums: U16,
    bar: float, step: float, room: I64, starts: U64, upcoming: U64, units: U16, impacts: U8, passing: Bools,
    scores: F64, places: U32, most: float,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Make candidates of window ``w``, without the terms whose turn is before ``postponed``: see :func:`sweep_coarse`.
    Returns how many there are, of how many units, and whether these are all: with more than ``most`` it is given up.
    """
    many, few = long_first(n, w, starts, turns, postponed, order)
    least = np.int64(needed(bar, step, 1.0))
    end = np.uint32(RANGE_SIZE)
    found, seen = NONE, NONE
    add_all(order[few:n], w, weights, sums, units, impacts, starts, upcoming, end, end)
    for strip in range(0, length, COARSE_STRIP):
        add_all(order[:many], w, weights, sums, units, impacts, starts, upcoming, np.uint32(strip + COARSE_STRIP), end)
        seen = np.int64(min(length, strip + COARSE_STRIP))
        sums[seen : strip + COARSE_STRIP] = 0  # postings in a wrong order may have left sums where there is no unit
        found = sweep_coarse(sums, strip, least, room, step, first_unit, passing, scores, places, found)
        if found > most:
            sums[:] = 0
            break
    return found, seen, found <= most


@inline_kernel
def look_along(places: U32, scores: F64, weight: float, start: Any, end: Any, units: U16, impacts: U8) -> None:
    """scores += weight * impact, for ascending units of a window in which a term has the postings from ``start`` to
    ``end``. These have just been added, so no offsets of chunks, which would come from memory, are asked for.
    """
    at, lanes = start, np.uint64(LANES)
    for i in range(places.size):
        unit = np.uint16(places[i] & np.uint32(RANGE_SIZE - 1))
        while at + lanes < end and units[at + lanes] <= unit:
            at += lanes
        impact = np.int64(0)
        if at + lanes <= np.uint64(units.size):
            equal = equal_to(units, at, unit)
            match = at + np.uint64(lowest_bit(equal | np.uint64(1 << (LANES - 1))))
            impact = np.int64(impacts[match]) * np.int64((equal != np.uint64(0)) & (match < end))
        else:
            for p in range(at, end):
                impact += np.int64(impacts[p]) if units[p] == unit else np.int64(0)
        scores[i] += weight * impact


@inline_kernel
def score_all(
    n: int, scores: F64, places: U32, w: int, turns: I64, late: I64, rows: I64, used: F64, starts: U64, spans: U16,
    offsets: U8, units: U16, impacts: U8,
) -> None:  # fmt: skip
    """The scores of ascending units of window ``w``; terms of ``late`` have been looked up before by their offsets."""
    for i in range(places.size):
        scores[i] = 0.0
    for j in range(n):
        start, end = starts[j, w], starts[j, w + 1]
        if turns[j] >= late.size:
            look_along(places, scores, used[j], start, end, units, impacts)
        else:
            row = rows[turns[j]]
            look_up(places, scores, used[j], start, end, spans[row], offsets[row], units, impacts)


@inline_kernel
def score_gathered(
    scores: F64, places: U32, n: int, w: int, turns: I64, late: I64, rows: I64, used: F64, whole_weights: Any,
    starts: U64, unit: float, bar: float, beat: bool, maxima: U8, spans: U16, offsets: U8, units: U16, impacts: U8,
    original: U32, room: I64,
) -> tuple[Any, Any]:  # fmt: skip
    """Score those candidates of window ``w`` that can reach the bar, and keep those that do, or beat it, as units by
    insertion; returns how many have been scored, and how many are kept. ``room``: workspace.
    """
    scored = np.int64(places.size)
    if late.size > 0:  # with what these terms add there are fewer candidates
        low = bar * (1.0 - SLACK)
        scored = add_late(
            scores, places, w, late, rows, used, whole_weights, starts, unit, low, maxima, spans, offsets, units,
            impacts, room,
        )  # fmt: skip
        scored = keep_hopeful(scores, places[:scored], low, 0.0, room)
    score_all(n, scores, places[:scored], w, turns, late, rows, used, starts, spans, offsets, units, impacts)
    return scored, keep_reaching(scores, places[:scored], bar, beat, original)
