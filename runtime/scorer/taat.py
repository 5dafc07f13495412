"""Scoring a term at a time (Lin & Trotman, ICTIR 2015).

The units are cut into shelves of 16,384, whose accumulators stay in the second-level cache; the postings of a shelf are
added, and its sums that reach the threshold are candidates. Where that is worth it, the terms with many postings are
added strip by strip of 2,048 units, in the first-level cache; the others have too few postings in a strip. Each term's
postings of the next shelf or strip are asked for when those of this one have been added: the lists are too many for the
processor to foresee. The threshold is guessed (guess.py), frequent terms are postponed (late.py), and after the first
window sums may be of 16 bits, which bound scores (coarse.py).

Where the sums of float64 are exact, the accumulators are integers of 64 bits: float32 weights are whole multiples of
one power of two, and float64 adds multiples of a power of two without rounding as long as they stay below 2^53 of them.
Then integers give the very same sum in any order, in less time.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..numba_support.arrays import F64, I64, U8, U16, U32, U64, Bools, Sums
from ..numba_support.cache import inline_kernel, kernel
from ..numba_support.simd import LANES, at_least, clear, lowest_bit
from . import BLOCK_BITS, BLOCK_SIZE, L1_TILE, L2_TILE, RANGE_BITS, RANGE_SIZE
from .accumulate import add_all, add_and_test, long_first
from .block_max import SLACK_FOUND
from .block_max_bounds import RANGE_BLOCKS
from .maxscore import (
    NEVER,
    add_late,
    far_more,
    forget,
    how_many,
    keep_reaching,
    learn,
    line_up,
    make_room,
    postpones,
    resume,
)
from .threshold import AGAIN, FIRST, MISSED, count_reaching, find_promise, most_promising, rank_to_keep, spread_of
from .topk import NONE, lift_bar
from .upper_bounds16 import COARSE, COARSE_STRIP, FULL, gain_of, gather_coarse, round_up, score_gathered
from .workspace import BAR, FOUND, TERMS, UNIT, open_filter, open_postings, open_workspace

# With fewer postings than one to so many units, accumulators are cleared one by one; with more, all sums are looked at
# in the end, instead of each when it grows.
SPARSE = 32
DENSE = 11


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
def gather(
    reached: Any, group: int, sums: Sums, unit: float, base: int, original: U32, scores: F64, units: U32, found: int
) -> int:
    """Make candidates of the sums from ``group`` on whose bits are 1; returns how many candidates there are."""
    while reached:
        place = group + lowest_bit(reached)
        scores[found] = sums[place] * unit
        units[found] = base + place if original.size == 0 else original[base + place]
        found += 1
        reached &= reached - np.uint64(1)
    return found


@inline_kernel
def sweep(
    sums: Sums, first: int, least: Any, unit: float, base: int, original: U32, scores: F64, units: U32, found: int
) -> int:
    """Make candidates of a strip's sums that are at least ``least``, and set all to 0."""
    for group in range(first, first + L1_TILE, LANES):
        found = gather(at_least(sums, group, least), group, sums, unit, base, original, scores, units, found)
        clear(sums, group)
    return found


@inline_kernel
def sweep_incomplete(
    sums: Sums, first: int, least: Any, room: I64, unit: float, base: int, scores: F64, units: U32, found: int
) -> int:
    """Like :func:`sweep`, for sums that reach ``least`` together with the room of their chunk; see late.py."""
    for chunk in range(room.size):
        group = first + chunk * BLOCK_SIZE
        reached = at_least(sums, group, least - room[chunk])
        found = gather(reached, group, sums, unit, base, units[:0], scores, units, found)
        clear(sums, group)
    return found


@inline_kernel
def lift(
    found: int, k: int, limit: int, bar: float, beat: bool, guessed: float, seen: int, check: int, count: int,
    ordered: bool, scores: F64, units: U32, histogram: I64,
) -> tuple[int, float, bool, float, int]:  # fmt: skip
    """Raise the bar to a guess, if ``check`` of the ``count`` units have been seen, or if there are ``limit``
    candidates.

    Returns how many candidates there are, the bar, whether it must be beaten, the highest guess, and how many units
    will have been seen when it is guessed again. ``ordered``: the segment's units are in the order of insertion.
    """
    rank: Any = np.int64(k)
    guess = False
    if seen >= check:
        check = AGAIN * seen
        if rank_to_keep(k, seen, count, 1.0) < min(found, k):
            spread = spread_of(units[:found], seen, histogram)
            rank = np.int64(rank_to_keep(k, seen, count, spread)) + 1
            guess = rank < min(found, k)
    if guess or found >= limit:
        found, bar = lift_bar(found, min(rank, k), bar, scores, units, histogram)
        guessed = bar if guess else guessed
        beat = ordered
    return found, bar, beat, guessed, check


@inline_kernel
def whole_least(bar: float, unit: float, beat: bool) -> float:
    """The least whole sum that reaches the bar, or beats it; at least 1, for bar / unit may be rounded to 0."""
    return max(1.0, math.floor(bar / unit) + 1.0 if beat else math.ceil(bar / unit))


@inline_kernel
def plan(
    n: int, length: int, w: int, starts: U64, dense: Any, sparse: Any, late: I64, typical: F64, likely: float,
    excess: float, scored: float, bar: float, step: float, kind: int,
) -> tuple[bool, Any, float]:  # fmt: skip
    """Whether to add coarse sums in window ``w``, how many terms to postpone, and how many candidates there will be
    before these are looked up, if ``likely`` units reach the bar, and ``scored`` coarse sums do.
    """
    postponed, expected, saved = NONE, likely, 0.0
    if dense:
        postponed, expected, saved = how_many(
            late, typical, starts, w, likely, excess, bar, RANGE_SIZE // L2_TILE, RANGE_SIZE // L1_TILE
        )
    if not step > 0.0:
        return False, postponed, expected
    postponed_too, expected_too, saved_too = NONE, likely, 0.0
    if dense:
        postponed_too, expected_too, saved_too = how_many(
            late, typical, starts, w, likely, excess, bar, np.int64(1), RANGE_SIZE // COARSE_STRIP
        )
    if kind == COARSE or saved_too + gain_of(n, length, w, starts, dense, sparse, scored) > saved:
        return True, postponed_too, expected_too
    return False, postponed, expected


@kernel
def scan(
    k: int,
    allowed: int,
    segment: int,
    workspace: int,
    whole: bool,
    guess: bool,
    kind: int,
    weights: Sums,
    accumulators: Sums,
    least: Sums,
) -> None:
    """Answer a query by adding up postings of all units; leaves candidates for :func:`.sorting.take_best`.

    ``weights``, ``accumulators`` and ``least`` are int64 where ``whole``, or float64; ``least[0]`` is workspace,
    ``least[1]`` stays below 0 whatever is added. The addresses are those that :func:`.visit.visit` had; it left the
    rest in the workspace. Where ``guess`` is True the threshold is guessed: the candidates may be MISSED. ``kind``: of
    the sums, see coarse.py.
    """
    s, ws, passing = open_postings(segment), open_workspace(workspace), open_filter(allowed)
    n: Any = np.int64(ws.state[TERMS])
    bar, unit = ws.state[BAR], ws.state[UNIT] if whole else 1.0
    units, impacts, starts, upcoming, by_length = s.units, s.impacts, ws.starts, ws.upcoming, ws.rows
    # A unit indexes accumulators[WINDOW - base:], so that all shelves use the same 16,384 of them.
    shelf_sums = accumulators[RANGE_SIZE : RANGE_SIZE + L2_TILE]
    limit = 2 * k + SLACK_FOUND
    found = NONE
    able = NONE
    if whole and postpones(s.unit_count, passing.excluded):
        able = line_up(
            n, ws.kept, ws.used, starts, s.term_rows, s.chunk_impacts, ws.late, ws.late_rows, ws.turns, ws.typical,
            ws.sums,
        )  # fmt: skip
    else:
        ws.turns[:n] = NEVER
    step = 0.0
    if whole and kind != FULL and 2 * passing.excluded <= s.unit_count:
        step = round_up(n, ws.tops, ws.used, ws.coarse_weights)
    # Where units are in another order than the candidates', or not all of them pass, nothing is guessed.
    ordered = s.original.size == 0
    guesses = guess and ordered and passing.units.size == 0
    guessed, expected = 0.0, 0.0
    # So many times as many candidates as usual where terms are postponed, and as reach the bar where sums are coarse.
    excess, excess_coarse = 1.0, 1.0
    check: Any = np.int64(FIRST if guesses else s.unit_count + 1)  # more than will be seen: never
    # Whether bar is the score of a candidate and ties go to earlier units: later ones must beat it.
    beat: Any = np.bool_(False)  # a literal would be another type to Numba
    find_promise(n, s.unit_count, ws.used, starts, ws.promise)
    promised_before = 0.0
    for turn in range(np.int64(ws.tops.size)):
        # Where similar units lie together, few windows have most of the best, and give nearly the last threshold.
        w = turn if ordered else most_promising(ws.promise)
        promised, before = ws.promise[w], promised_before
        ws.promise[w] = 0.0
        promised_before += promised
        if ws.tops[w] < bar or (beat and ws.tops[w] == bar):
            continue
        if passing.units.size > 0 and not any_of(passing.chunks[w * RANGE_BLOCKS : (w + 1) * RANGE_BLOCKS]):
            continue
        length = min(RANGE_SIZE, s.unit_count - (w << RANGE_BITS))
        postings = np.uint64(0)
        for j in range(n):
            upcoming[j] = starts[j, w]
            postings += starts[j, w + 1] - starts[j, w]
        dense = whole and postings > np.uint64(length // DENSE)
        sparse = postings < np.uint64(length // SPARSE)
        first_unit = w << RANGE_BITS
        postponed, many, few, found_before = NONE, NONE, NONE, found
        if found > 0:  # so windows before this one have been added
            likely = np.float64(min(found, k))
            likely = (likely + math.sqrt(likely) + 1.0) * promised / before
            coarse, postponed, expected = plan(
                n, length, w, starts, dense, sparse, ws.late[:able], ws.typical, likely, excess, likely * excess_coarse,
                bar, step, kind,
            )  # fmt: skip
            if not coarse:
                excess_coarse = forget(excess_coarse)
            if postponed == 0:
                excess = forget(excess)
            if coarse:
                late = ws.late[:postponed]
                if postponed > 0:
                    make_room(w, late, ws.late_rows, ws.coarse_weights, s.chunk_impacts, ws.room)
                gathered, seen, completed = gather_coarse(
                    w, n, length, first_unit, postponed, ws.turns, by_length, ws.coarse_weights, ws.coarse_sums, bar,
                    step, ws.room[: RANGE_BLOCKS if postponed > 0 else 0], starts, upcoming, units, impacts,
                    passing.units, ws.scores[found:], ws.units[found:], far_more(expected),
                )  # fmt: skip
                if completed:
                    if postponed > 0:
                        excess = learn(excess, np.float64(gathered), expected)
                    scored, kept = score_gathered(
                        ws.scores[found : found + gathered], ws.units[found : found + gathered], n, w, ws.turns,
                        late, ws.late_rows, ws.used, weights, starts, unit, bar, beat, s.chunk_impacts, s.span_postings,
                        s.chunk_postings, units, impacts, s.original, ws.room,
                    )  # fmt: skip
                    excess_coarse = learn(excess_coarse, np.float64(scored), likely)
                    found, bar, beat, guessed, check = lift(
                        found + kept, k, limit, bar, beat, guessed, first_unit + length, check, s.unit_count, ordered,
                        ws.scores, ws.units, ws.histogram,
                    )  # fmt: skip
                    continue
                excess_coarse = learn(excess_coarse, gathered * length / seen, likely)
                postponed = NONE
                for j in range(n):
                    upcoming[j] = starts[j, w]
        if dense:
            many, few = long_first(n, w, starts, ws.turns, postponed, by_length)
            if postponed > 0:
                make_room(w, ws.late[:postponed], ws.late_rows, weights, s.chunk_impacts, ws.room)
        for shelf in range(0, length, L2_TILE):
            base = first_unit + shelf
            size = min(L2_TILE, s.unit_count - base)
            end = np.uint32(shelf + L2_TILE)
            if passing.units.size > 0 and postponed == 0:
                first_chunk = base >> BLOCK_BITS
                if not any_of(passing.chunks[first_chunk : first_chunk + L2_TILE // BLOCK_SIZE]):
                    for j in range(n):
                        upcoming[j] += lower_bound(units[upcoming[j] : starts[j, w + 1]], end)
                    continue
            within = accumulators[RANGE_SIZE - shelf : 2 * RANGE_SIZE - shelf]
            if dense:
                if passing.units.size > 0:  # a unit that may not be found begins so low that it cannot reach the bar
                    forbid(shelf_sums[:size], passing.units[base : base + size], least[1])
                add_all(by_length[few:n], w, weights, within, units, impacts, starts, upcoming, end, end)
                for strip in range(0, size, L1_TILE):
                    now = np.uint32(shelf + strip + L1_TILE)
                    add_all(by_length[:many], w, weights, within, units, impacts, starts, upcoming, now, end)
                    if strip + L1_TILE > size:  # postings in a wrong order may have left sums where there is no unit
                        shelf_sums[size : strip + L1_TILE] = 0
                    least[0] = whole_least(bar, unit, beat)
                    seen = base + min(strip + L1_TILE, size)
                    if postponed > 0:
                        room = ws.room[(shelf + strip) >> BLOCK_BITS : (shelf + strip + L1_TILE) >> BLOCK_BITS]
                        found = sweep_incomplete(
                            shelf_sums, strip, least[0], room, unit, base, ws.scores, ws.units, found
                        )  # fmt: skip
                        gathered, done = found - found_before, seen == first_unit + length
                        if gathered <= far_more(expected) and not done:
                            continue
                        excess = learn(excess, gathered * length / (seen - first_unit), expected)
                        scores, places = ws.scores[found_before:found], ws.units[found_before:found]
                        gathered = add_late(
                            scores, places, w, ws.late[:postponed], ws.late_rows, ws.used, weights, starts, unit, bar,
                            s.chunk_impacts, s.span_postings, s.chunk_postings, units, impacts, ws.room,
                        )  # fmt: skip
                        found = found_before + keep_reaching(
                            scores[:gathered], places[:gathered], bar, beat, s.original
                        )
                        if not done:
                            many = resume(
                                ws.late[:postponed], ws.late_rows, seen >> BLOCK_BITS, w, starts, upcoming,
                                s.span_postings, s.chunk_postings, by_length, many,
                            )  # fmt: skip
                            postponed = NONE
                    else:
                        found = sweep(shelf_sums, strip, least[0], unit, base, s.original, ws.scores, ws.units, found)
                    found, bar, beat, guessed, check = lift(
                        found, k, limit, bar, beat, guessed, seen, check, s.unit_count, ordered, ws.scores, ws.units,
                        ws.histogram,
                    )  # fmt: skip
                continue
            if whole:
                least[0] = whole_least(bar, unit, beat)
            else:
                least[0] = np.nextafter(bar, np.inf) if beat else bar
            crossings = NONE
            for j in range(n):
                ws.begun[j] = upcoming[j]
                upcoming[j], crossings = add_and_test(
                    within, weights[j], units, impacts, upcoming[j], starts[j, w + 1], end, least[0], ws.crossed,
                    crossings,
                )  # fmt: skip
            for i in range(crossings):
                place = np.int64(ws.crossed[i] & np.uint16(L2_TILE - 1))
                if place < size and (passing.units.size == 0 or passing.units[base + place]):
                    ws.scores[found] = shelf_sums[place] * unit
                    ws.units[found] = base + place if s.original.size == 0 else s.original[base + place]
                    found += 1
            if sparse:
                for j in range(n):
                    for p in range(ws.begun[j], upcoming[j]):
                        shelf_sums[units[p] & np.uint16(L2_TILE - 1)] = 0
            else:
                shelf_sums[:size] = 0
            seen = base + size
            found, bar, beat, guessed, check = lift(
                found, k, limit, bar, beat, guessed, seen, check, s.unit_count, ordered, ws.scores, ws.units,
                ws.histogram,
            )  # fmt: skip
    if guessed > 0.0 and count_reaching(ws.scores[:found], guessed) < k:
        found = MISSED
    ws.state[FOUND] = found
