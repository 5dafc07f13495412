"""Postponing terms of a scan: MaxScore (Turtle & Flood, IPM 1995) with the bounds of block-max data, window by window.

The most frequent terms have half of a query's postings and little of its scores. They are left out of a window's sums
where few units can reach the threshold with what these terms add at most in the unit's chunk. Such units are looked up
in the postings of these terms afterwards, so scores are what they are without it. How many units that will be is an
estimate, which learns from each window; where it is far off the rest of the window is added in full, or all of it where
sums are coarse (coarse.py).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..numba_support.arrays import F64, I32, I64, U8, U16, U32, U64
from ..numba_support.cache import inline_kernel
from ..numba_support.simd import FEW_LANES, equal_to_few, lowest_bit, prefetch
from . import BLOCK_BITS, RANGE_SIZE
from .accumulate import LONG
from .block_max_bounds import RANGE_BLOCKS
from .block_max_postings import place_of
from .topk import NONE

MOST_LATE = 16  # terms that are postponed at most
LEAST_WINDOWS = 4  # in smaller segments it gains nothing: the threshold is too low for too large a part of them
NEVER = 1 << 20  # the turn of a term that is not postponed
SAMPLE = 64  # chunks that say what a term usually adds to a bound
AHEAD: Any = np.int64(24)  # candidates whose postings are asked for ahead
TOGETHER = 3  # terms that are looked up before it is seen which candidates can still reach the threshold
# In nanoseconds: to add a posting, and a run of them; to look a unit up, to handle it; and what a window costs once.
COST_POSTING, COST_RUN, COST_LOOKUP, COST_SURVIVOR, COST_WINDOW = 0.25, 30.0, 12.0, 8.0, 1000.0
# Where the bounds of the postponed terms are a share x of the threshold, exp(a x + b x^2) times as many units have to
# be looked up as reach it: fitted to synthetic collections.
GROWTH, GROWTH_2 = 1.5, 12.0
TOLERATED = 2.0  # so many times as many candidates as expected are no reason to postpone less
FAR_MORE, AND_MORE = 8.0, 256  # with more than so many times as many, and these, a window is added in full
MOST_EXCESS = 64.0  # more is not learned at once, for it has to be forgotten, too


@inline_kernel
def postpones(units: int, excluded: int) -> bool:
    """Whether terms are postponed at all, in a segment of which a filter excludes so many units."""
    return units > (LEAST_WINDOWS - 1) * RANGE_SIZE and 2 * excluded <= units


@inline_kernel
def total(maxima: U8) -> Any:
    """The sum of maxima."""
    added = np.int64(0)
    for c in range(maxima.size):
        added += np.int64(maxima[c])
    return added


@inline_kernel
def line_up(
    n: int, kept: I64, used: F64, starts: U64, term_rows: I32, maxima: U8, late: I64, rows: I64, turns: I64,
    typical: F64, costs: F64,
) -> Any:  # fmt: skip
    """Fill ``late`` with the terms in the order in which they are postponed: those first that have many postings for
    what they add to bounds, ``typical``. ``rows``: of their block-max data; ``costs``: workspace. Returns how many
    there are; the ``turns`` of the others are NEVER.
    """
    count = NONE
    for j in range(n):
        turns[j] = NEVER
        row = term_rows[kept[j]]
        if row < 0:
            continue
        sample = maxima[row, :SAMPLE]
        typical[j] = used[j] * total(sample) / sample.size
        cost = typical[j] / np.float64(starts[j, -1] - starts[j, 0])
        at = count
        while at > 0 and cost < costs[at - 1]:
            at -= 1
        if at < MOST_LATE:
            count = min(count + 1, MOST_LATE)
            for x in range(count - 1, at, -1):
                costs[x], late[x] = costs[x - 1], late[x - 1]
            costs[at], late[at] = cost, j
    for x in range(count):
        turns[late[x]] = x
        rows[x] = term_rows[kept[late[x]]]
    return count


@inline_kernel
def how_many(
    late: I64, typical: F64, starts: U64, w: int, expected: float, excess: float, bar: float, runs: Any,
    long_runs: Any,
) -> tuple[Any, float, float]:  # fmt: skip
    """How many of the terms of ``late`` to postpone in window ``w``, of which ``expected`` units reach the bar, how
    many units will then be looked up, ``excess`` times as many as usual, and the nanoseconds that are saved. Postings
    are added in so many ``runs``, of terms with many in ``long_runs``.
    """
    best, candidates, most_saved = NONE, expected, COST_WINDOW
    share, saved = 0.0, 0.0
    for x in range(late.size):
        j = late[x]
        postings = starts[j, w + 1] - starts[j, w]
        saved += COST_POSTING * np.float64(postings)
        saved += COST_RUN * (long_runs if postings >= LONG else runs)
        share += typical[j] / bar
        survivors = expected * excess * math.exp(min(20.0, GROWTH * share + GROWTH_2 * share * share))
        spent = survivors * (COST_SURVIVOR + COST_LOOKUP * (x + 1)) - expected * COST_SURVIVOR
        if saved - spent > most_saved:
            best, candidates, most_saved = x + 1, survivors, saved - spent
    return best, candidates, most_saved if best > 0 else 0.0


@inline_kernel
def far_more(expected: float) -> float:
    """With more candidates than this, a window is not gone on with like this."""
    return FAR_MORE * expected + AND_MORE


@inline_kernel
def learn(excess: float, candidates: Any, expected: float) -> Any:
    """The excess after a window that had so many ``candidates`` instead of those ``expected``. It rises where they are
    more than TOLERATED times as many, to MOST_EXCESS at most, and falls otherwise, by half at most.
    """
    return min(MOST_EXCESS, max(1.0, excess * max(0.5, candidates / (TOLERATED * expected))))


@inline_kernel
def add_room(room: I64, weight: Any, maxima: U8) -> None:
    """room += weight * maxima."""
    for c in range(maxima.size):
        room[c] += weight * np.int64(maxima[c])


@inline_kernel
def make_room(w: int, late: I64, rows: I64, weights: Any, maxima: U8, room: I64) -> None:
    """``room``: what these terms add at most to a sum of whole or coarse weights, for each chunk of window ``w``."""
    room[:] = 0
    first, end = w * RANGE_BLOCKS, min(maxima.shape[1], (w + 1) * RANGE_BLOCKS)
    for x in range(late.size):
        add_room(room, weights[late[x]], maxima[rows[x], first:end])


@inline_kernel
def look_up(
    places: U32, scores: F64, weight: float, start: Any, end: Any, spans: U16, offsets: U8, units: U16, impacts: U8
) -> None:
    """scores += weight * impact, for units of a window in which a term has the postings from ``start`` to ``end``."""
    one = np.uint64(1)
    for i in range(places.size + AHEAD):
        if i < places.size:
            at = place_of(np.uint64(places[i]) >> np.uint64(BLOCK_BITS), start, spans, offsets)
            prefetch(units, at)
            prefetch(impacts, at)
        if i >= AHEAD:
            place = places[i - AHEAD]
            unit = np.uint16(place & np.uint32(RANGE_SIZE - 1))
            chunk = np.uint64(place) >> np.uint64(BLOCK_BITS)
            at, last = place_of(chunk, start, spans, offsets), end
            chunk += one
            if chunk & np.uint64(RANGE_BLOCKS - 1) != np.uint64(0) and chunk < np.uint64(offsets.size):
                last = place_of(chunk, start, spans, offsets)
            impact = np.int64(0)
            while at < last and at + np.uint64(FEW_LANES) <= np.uint64(units.size):
                equal = equal_to_few(units, at, unit)
                match = at + np.uint64(lowest_bit(equal | np.uint64(1 << (FEW_LANES - 1))))
                impact += np.int64(impacts[match]) if equal != np.uint64(0) and match < last else np.int64(0)
                at += np.uint64(FEW_LANES)
            while at < last:
                impact += np.int64(impacts[at]) if units[at] == unit else np.int64(0)
                at += one
            scores[i - AHEAD] += weight * impact


@inline_kernel
def keep_hopeful(scores: F64, places: U32, bar: float, unit: float, room: I64) -> Any:
    """Keep those candidates that reach the bar together with the room of their chunk; returns how many."""
    kept = NONE
    for i in range(places.size):
        score, place = scores[i], places[i]
        scores[kept], places[kept] = score, place
        kept += score + unit * room[(place >> np.uint32(BLOCK_BITS)) & np.uint32(RANGE_BLOCKS - 1)] >= bar
    return kept


@inline_kernel
def keep_reaching(scores: F64, places: U32, bar: float, beat: bool, original: U32) -> Any:
    """Keep those candidates that reach the bar, or beat it, as units by insertion; returns how many."""
    kept = NONE
    for i in range(places.size):
        score, place = scores[i], places[i]
        # A chunk at the end may have places without a unit, which reach no bar.
        if score > bar if beat else score >= bar:
            scores[kept] = score
            places[kept] = place if original.size == 0 else original[place]
            kept += 1
    return kept


@inline_kernel
def add_late(
    scores: F64, places: U32, w: int, late: I64, rows: I64, used: F64, whole_weights: Any, starts: U64, unit: float,
    bar: float, maxima: U8, spans: U16, offsets: U8, units: U16, impacts: U8, room: I64,
) -> Any:  # fmt: skip
    """Add to the candidates of window ``w`` what the postponed terms give, and keep those that may reach the bar;
    returns how many. ``room``: workspace.
    """
    found = places.size
    for x in range(late.size - 1, -1, -1):  # those first that add most
        j, row = late[x], rows[x]
        look_up(
            places[:found], scores, used[j], starts[j, w], starts[j, w + 1], spans[row], offsets[row], units, impacts
        )
        if x > 0 and (late.size - x) % TOGETHER == 0:
            make_room(w, late[:x], rows, whole_weights, maxima, room)
            found = keep_hopeful(scores, places[:found], bar, unit, room)
    return found


@inline_kernel
def forget(excess: float) -> Any:
    """The excess after a window that was done without postponing, or without coarse sums: it may have been that of one
    rich window.
    """
    return max(1.0, 0.5 * excess)


@inline_kernel
def resume(
    late: I64, rows: I64, chunk: int, w: int, starts: U64, upcoming: U64, spans: U16, offsets: U8, order: I64, many: Any
) -> Any:
    """Let the postponed terms be added from a chunk of window ``w`` on: they join the first ``many`` of ``order``, and
    their ``upcoming`` posting is the first in the chunk or later. Returns how many these are then.
    """
    for x in range(late.size):
        j = late[x]
        upcoming[j] = place_of(np.uint64(chunk), starts[j, w], spans[rows[x]], offsets[rows[x]])
        order[many] = j
        many += 1
    return many
