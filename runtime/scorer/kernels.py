"""The scorer: windowed term-at-a-time accumulation with exact top k.

Units are cut into windows of 2^16. For a window, the postings of all query terms are added into one accumulator of
integers that stays in cache; chunks whose maximum reaches the threshold give candidates. Query weights are rounded to
integers q with weight ~ q * step, so an accumulator is within known margins of the score:

    accumulator - below  <=  score / step  <=  accumulator + above,
    above = sum over terms with weight/step > q of (weight/step - q) * (largest impact of the term),   below likewise.

Where the rounding is exact (``ties``), equal accumulators are equal scores and the later unit can be dropped at once.
Candidates that the margins cannot separate are scored again in float64, so the result is exact:

    score(unit) = scale * sum over query terms, in ascending term id, of float64(float32 weight) * impact,

ordered by score descending, then unit ascending. Window and threshold follow the idea of score-at-a-time accumulators
(Lin & Trotman, ICTIR 2015) and of MaxScore bounds (Turtle & Flood, 1995).

Numba habits that decide the speed: unsigned indices (no wrap-around test), slices given to small helpers
(they vectorise), accumulators cleared with one fill. All kernels stand in this one file, because
Numba finds a cached kernel stale only when the file of that kernel has changed, not that of a helper it calls.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import WINDOW, WINDOW_BITS
from .arrays import F32, F64, I64, U8, U16, U32, U64, Bools, Sums
from .numba_cache import inline_kernel, kernel

CHUNK = 128
STRIP = 16
# With fewer postings in a window than this, it is cheaper to visit them twice than to scan the window.
SPARSE = WINDOW // 16
# A binary search costs about as much as passing over so many postings.
SEARCH_COST = 16
# From so many results on they are sorted by radix.
RADIX_FROM = 64
RADIX_BITS = 11
KEYS = float(1 << (2 * RADIX_BITS))
# Covers the rounding of float64 in the margins themselves, in units of the accumulator.
SLACK = 0.25


@inline_kernel
def largest(values: Sums, length: int) -> Any:
    """Maximum of ``values[:length]``; with a constant length, a loop of this form vectorises."""
    top = values[0]
    for i in range(length):
        top = max(top, values[i])
    return top


@inline_kernel
def collect(chunk: Sums, unit: int, threshold: Any, found_units: U32, found_sums: U32, found: int) -> int:
    """Append the units of a chunk whose accumulator reaches the threshold; ``unit`` is the first. Returns how many."""
    for start in range(0, CHUNK, STRIP):
        strip = chunk[start : start + STRIP]
        if largest(strip, STRIP) >= threshold:
            for i in range(STRIP):
                if strip[i] >= threshold:
                    found_units[found] = np.uint32(unit + start + i)
                    found_sums[found] = strip[i]
                    found += 1
    return found


@inline_kernel
def add_block(accumulator: Sums, weight: Any, units: U16, impacts: U8) -> None:
    """accumulator[unit] += weight * impact for a block's postings."""
    for i in range(units.size):
        accumulator[units[i]] += weight * impacts[i]


@inline_kernel
def clear_excluded(accumulator: Sums, allowed: Bools) -> None:
    """Set to 0 the sums of units that are not allowed."""
    for i in range(allowed.size):
        accumulator[i] *= allowed[i]


@inline_kernel
def find_unit(units: U16, unit: Any) -> Any:
    """Position of ``unit`` in an ascending slice, or -1."""
    low = np.uint64(0)
    length = np.uint64(units.size)
    while length > np.uint64(1):
        half = length >> np.uint64(1)
        low += half if units[low + half - np.uint64(1)] < unit else np.uint64(0)
        length -= half
    return np.int64(low) if units[low] == unit else np.int64(-1)


@inline_kernel
def score_candidates(
    found: int,
    first: U64,
    last: U64,
    weights: F32,
    block_windows: U16,
    block_postings: U64,
    units: U16,
    impacts: U8,
    slots: U32,
    found_units: U32,
    places: U32,
    scores: F64,
) -> None:
    """``scores[i]`` = float64 sum over terms, ascending, of weight * impact for candidate i, without the scale.

    Candidates are grouped by ascending window. In each window and block the cheaper of two ways is taken: a binary
    search for each candidate, or one pass over the block with ``slots`` (an all-zero accumulator, left so) telling
    candidates.
    """
    begin = 0
    while begin < found:
        window = np.uint16(found_units[begin] >> np.uint32(WINDOW_BITS))
        end = begin
        while end < found and np.uint16(found_units[end] >> np.uint32(WINDOW_BITS)) == window:
            slots[found_units[end] & np.uint32(WINDOW - 1)] = end - begin + 1
            scores[end] = 0.0
            end += 1
        for j in range(first.size):
            a, b = first[j], last[j]
            at = find_unit(block_windows[a:b], window)
            if at < 0:
                continue
            block = a + np.uint64(at)
            lo, hi = block_postings[block], block_postings[block + np.uint64(1)]
            weight = np.float64(weights[j])
            if hi - lo > np.uint64(SEARCH_COST * (end - begin)):
                add_found(weight, units[lo:hi], impacts[lo:hi], found_units[begin:end], places, scores[begin:end])
            else:
                add_slots(weight, units[lo:hi], impacts[lo:hi], slots, scores[begin:end])
        for i in range(begin, end):
            slots[found_units[i] & np.uint32(WINDOW - 1)] = 0
        begin = end


@inline_kernel
def add_found(weight: Any, units: U16, impacts: U8, wanted: U32, places: U32, scores: F64) -> None:
    """scores[i] += weight * impact for each wanted unit that is in the block.

    One binary search a unit, all in step: the searches do not wait for each other's memory. ``places`` is workspace.
    """
    count = wanted.size
    places[:count] = 0
    length = np.uint32(units.size)
    while length > np.uint32(1):
        half = length >> np.uint32(1)
        for i in range(count):
            at = places[i] + half
            places[i] = at if units[at - np.uint32(1)] < np.uint16(wanted[i]) else places[i]
        length -= half
    for i in range(count):
        if units[places[i]] == np.uint16(wanted[i]):
            scores[i] += weight * np.float64(impacts[places[i]])


@inline_kernel
def add_slots(weight: Any, units: U16, impacts: U8, slots: U32, scores: F64) -> None:
    """scores[slots[unit] - 1] += weight * impact for the postings whose unit has a slot."""
    for i in range(units.size):
        slot = slots[units[i]]
        if slot != 0:
            scores[slot - 1] += weight * np.float64(impacts[i])


@inline_kernel
def ranks_below(score_a: float, unit_a: Any, score_b: float, unit_b: Any) -> bool:
    """Whether a comes after b: lower score, or the same score and a later unit."""
    return score_a < score_b or (score_a == score_b and unit_a > unit_b)


@inline_kernel
def sort_range(scores: F64, units: U32, first: int, last: int) -> None:
    """Sort ``[first, last]`` best first, in place: quicksort, then insertion sort of short ranges."""
    stack = np.empty((64, 2), np.int64)
    depth = 1
    stack[0, 0], stack[0, 1] = first, last
    while depth > 0:
        depth -= 1
        low, high = stack[depth, 0], stack[depth, 1]
        while high - low > 16:
            middle = (low + high) >> 1
            score, unit = scores[middle], units[middle]
            i, j = low, high
            while i <= j:
                while ranks_below(score, unit, scores[i], units[i]):
                    i += 1
                while ranks_below(scores[j], units[j], score, unit):
                    j -= 1
                if i <= j:
                    scores[i], scores[j] = scores[j], scores[i]
                    units[i], units[j] = units[j], units[i]
                    i += 1
                    j -= 1
            # keep the longer part for later, so that the stack stays within log2(size)
            if j - low > high - i:
                stack[depth, 0], stack[depth, 1] = low, j
                low = i
            else:
                stack[depth, 0], stack[depth, 1] = i, high
                high = j
            depth += 1
    for i in range(first + 1, last + 1):
        score, unit = scores[i], units[i]
        j = i - 1
        while j >= first and ranks_below(scores[j], units[j], score, unit):
            scores[j + 1] = scores[j]
            units[j + 1] = units[j]
            j -= 1
        scores[j + 1] = score
        units[j + 1] = unit


@inline_kernel
def sort_results(scores: F64, units: U32, size: int) -> None:
    """Sort best first (score descending, unit ascending).

    Two passes of a radix sort over scores scaled to 22 bits, then a comparison sort of each run of equal keys: the
    mispredicted branches of a comparison sort cost more than all else in a search for many results.
    """
    if size <= RADIX_FROM:
        sort_range(scores, units, 0, size - 1)
        return
    least, most = scores[0], scores[0]
    for i in range(size):
        least = min(least, scores[i])
        most = max(most, scores[i])
    if not most - least > 1e-290:  # all equal, or too close to scale
        sort_range(scores, units, 0, size - 1)
        return
    factor = (KEYS - 1) / (most - least)
    keys = np.empty(size, np.uint32)
    order = np.empty(size, np.uint32)
    by_low = np.empty(size, np.uint32)
    place = np.zeros((2, 1 << RADIX_BITS), np.uint32)
    low_bits = np.uint32((1 << RADIX_BITS) - 1)
    for i in range(size):
        key = np.uint32(min(max((most - scores[i]) * factor, 0.0), KEYS - 1.0))
        keys[i] = key
        place[0, key & low_bits] += 1
        place[1, key >> np.uint32(RADIX_BITS)] += 1
    for p in range(2):
        total = np.uint32(0)
        for v in range(1 << RADIX_BITS):
            count = place[p, v]
            place[p, v] = total
            total += count
    for i in range(size):
        v = keys[i] & low_bits
        by_low[place[0, v]] = i
        place[0, v] += 1
    for i in range(size):
        v = keys[by_low[i]] >> np.uint32(RADIX_BITS)
        order[place[1, v]] = by_low[i]
        place[1, v] += 1
    old_scores = np.empty(size, np.float64)
    old_units = np.empty(size, np.uint32)
    for i in range(size):
        old_scores[i] = scores[i]
        old_units[i] = units[i]
    for i in range(size):
        scores[i] = old_scores[order[i]]
        units[i] = old_units[order[i]]
    first = 0
    for i in range(1, size + 1):
        if i == size or keys[order[i]] != keys[order[first]]:
            if i - first > 1:
                sort_range(scores, units, first, i - 1)
            first = i


@inline_kernel
def kth_largest(values: U32, size: int, k: int, work: U32) -> Any:
    """The k-th largest (k >= 1) of ``values[:size]``, by quickselect on a copy in ``work``."""
    for i in range(size):
        work[i] = values[i]
    low, high, want = 0, size - 1, k - 1
    while low < high:
        pivot = work[(low + high) >> 1]
        i, j = low, high
        while i <= j:
            while work[i] > pivot:
                i += 1
            while work[j] < pivot:
                j -= 1
            if i <= j:
                work[i], work[j] = work[j], work[i]
                i += 1
                j -= 1
        if want <= j:
            high = j
        elif want >= i:
            low = i
        else:
            break
    return work[want]


@inline_kernel
def keep_at_least(found_units: U32, found_sums: U32, size: int, threshold: Any) -> int:
    """Drop candidates whose accumulator is under the threshold; returns how many are left."""
    kept = 0
    for i in range(size):
        if found_sums[i] >= threshold:
            found_units[kept] = found_units[i]
            found_sums[kept] = found_sums[i]
            kept += 1
    return kept


# What scan does with: the first unit of the window to go on with, the chunk in it (-1: the window is new), how many
# candidates there are, and the threshold.
BASE, START, FOUND, THRESHOLD = range(4)


@kernel
def scan(
    first: U64,
    last: U64,
    rounded: Sums,
    k: int,
    margin: Any,
    block_windows: U16,
    block_impacts: U8,
    block_postings: U64,
    units: U16,
    impacts: U8,
    n_units: int,
    allowed: Bools,
    accumulator: Sums,
    cursor: U64,
    found_units: U32,
    found_sums: U32,
    work: U32,
    state: I64,
) -> bool:
    """Collect the candidates for the top k of a segment; False if they fill the buffer before the last window.

    Then the caller empties the buffer by :func:`take_exact`, raises the threshold, and calls again with the same
    ``state``.

    Query: ``first``/``last`` uint64 ``[n]`` (blocks of each term), ``rounded`` ``[n]`` (uint16 or uint32, as
    ``accumulator``), ``margin`` int64 as in the module's text. ``allowed``: bool ``[n_units]``, or ``[0]`` where all
    units are. Workspace: ``accumulator`` ``[2^16]``, all zero at the
    first call and after the last; ``cursor`` uint64 ``[n]``, equal to ``first`` at the first call; ``found_units``,
    ``found_sums``, ``work`` uint32 of one size, more than k + 2 SPARSE. ``state``: int64 ``[4]``, see above; its
    threshold is at least 1, and no unit of the top k has a smaller accumulator.
    """
    n = first.size
    full = found_units.size - CHUNK  # with more candidates, another chunk may not fit
    start = state[START]
    found = state[FOUND]
    threshold = state[THRESHOLD]
    for base in range(state[BASE], n_units, WINDOW):
        window = np.uint16(base >> WINDOW_BITS)
        length = min(WINDOW, n_units - base)
        if start < 0:
            start = 0
            bound = np.int64(0)
            postings = np.uint64(0)
            for j in range(n):
                c = cursor[j]
                if c < last[j] and block_windows[c] == window:
                    bound += np.int64(rounded[j]) * np.int64(block_impacts[c])
                    postings += block_postings[c + np.uint64(1)] - block_postings[c]
            visit = bound >= threshold and (allowed.size == 0 or allowed[base : base + length].any())
            sparse = postings < np.uint64(SPARSE)
            if visit and sparse and found + SPARSE > found_units.size:
                found, threshold = raise_threshold(found, threshold, k, margin, found_units, found_sums, work)
                if 2 * found > found_units.size:
                    state[BASE], state[START], state[FOUND], state[THRESHOLD] = base, -1, found, threshold
                    return False
            for j in range(n):
                c = cursor[j]
                if c < last[j] and block_windows[c] == window:
                    if visit:
                        lo, hi = block_postings[c], block_postings[c + np.uint64(1)]
                        add_block(accumulator, rounded[j], units[lo:hi], impacts[lo:hi])
                    cursor[j] = c + np.uint64(1)
            if visit and allowed.size > 0:
                clear_excluded(accumulator, allowed[base : base + length])
            if visit and sparse:
                for j in range(n):
                    c = cursor[j] - np.uint64(1)
                    if cursor[j] > first[j] and block_windows[c] == window:
                        for p in range(block_postings[c], block_postings[c + np.uint64(1)]):
                            local = units[p]
                            if accumulator[local] >= threshold:
                                found_units[found] = np.uint32(base) + np.uint32(local)
                                found_sums[found] = accumulator[local]
                                found += 1
                            accumulator[local] = 0
            if not visit or sparse:
                start = length
        for chunk_start in range(start, length, CHUNK):
            chunk = accumulator[chunk_start : chunk_start + CHUNK]  # past the last unit it is zero
            if largest(chunk, CHUNK) >= threshold:
                if found > full:
                    found, threshold = raise_threshold(found, threshold, k, margin, found_units, found_sums, work)
                    if 2 * found > found_units.size:
                        state[BASE], state[START], state[FOUND], state[THRESHOLD] = base, chunk_start, found, threshold
                        return False
                found = collect(chunk, base + chunk_start, threshold, found_units, found_sums, found)
        if start < length:
            accumulator[:length] = 0
        start = -1
    found, threshold = raise_threshold(found, threshold, k, margin, found_units, found_sums, work)
    state[BASE], state[START], state[FOUND], state[THRESHOLD] = n_units, -1, found, threshold
    return True


@inline_kernel
def raise_threshold(
    found: int, threshold: Any, k: int, margin: Any, found_units: U32, found_sums: U32, work: U32
) -> tuple[int, Any]:
    """The k-th largest accumulator less the margin is a threshold too; drop what is under it: (found, threshold)."""
    if found >= k:
        threshold = max(threshold, np.int64(kth_largest(found_sums, found, k, work)) - margin)
        found = keep_at_least(found_units, found_sums, found, threshold)
    return found, threshold


@kernel
def take_exact(
    found: int,
    top: int,
    k: int,
    step: float,
    above: float,
    ties: bool,
    first: U64,
    last: U64,
    weights: F32,
    block_windows: U16,
    block_postings: U64,
    units: U16,
    impacts: U8,
    slots: U32,
    found_units: U32,
    work: U32,
    top_scores: F64,
    top_units: U32,
) -> tuple[int, int]:
    """Score ``found`` candidates exactly and merge them into the ``top`` results so far.

    ``weights`` float32 ``[n]``; ``step``, ``above`` and ``ties`` as in the module's text; ``slots`` uint32 ``[2^16]``,
    all zero before and after; ``top_scores`` float64 (unscaled) and ``top_units`` uint32, room for top + found.
    Returns (how many results there are, at most k, best first; the threshold for later units).
    """
    score_candidates(
        found, first, last, weights, block_windows, block_postings, units, impacts,
        slots, found_units, work, top_scores[top:],
    )  # fmt: skip
    for i in range(found):
        top_units[top + i] = found_units[i]
    sort_results(top_scores, top_units, top + found)
    top = min(k, top + found)
    if top < k:
        return top, 1
    # A later unit must beat the k-th best, for ties go to the earlier one: accumulator > score / step - above.
    reach = top_scores[k - 1] / step - above
    return top, np.int64(np.rint(reach)) + 1 if ties else np.int64(max(1.0, np.floor(reach - SLACK)))


# What prepare found in a query.
OK, UNSORTED, BAD_TERM, BAD_WEIGHT, UNTOUCHED = range(5)


@kernel
def prepare(
    terms: I64,
    weights: F32,
    k: int,
    term_blocks: U64,
    term_impacts: U8,
    levels: I64,
    touched: U8,
    first: U64,
    last: U64,
    used: F32,
    rounded16: U16,
    rounded32: U32,
    limits: F64,
) -> tuple[int, int, int, float, float, Any, bool, Any]:
    """Validate a query, find its blocks, and round its weights.

    ``terms`` int64 ``[n]`` strictly ascending, ``weights`` float32 ``[n]`` finite and >= 0. Fills ``first``, ``last``,
    ``used`` (weights) and one of ``rounded16``/``rounded32`` for the terms that have postings and weight.
    ``limits``: largest accumulator of 16 and of 32 bits, and the largest margin (a share of the limit) for 16 bits.
    Returns (code, terms used, bits, step, above, margin, ties, threshold); see :func:`scan` and :func:`take_exact`.
    """
    n = np.int64(0)
    ceiling = 0.0  # largest score any unit can have
    heads = np.int64(0)
    floor = 0.0  # the k-th best score is at least this: k units have so large an impact in one term
    level = 0
    while level < levels.size and levels[level] < k:
        level += 1
    untouched = False
    for i in range(terms.size):
        t = terms[i]
        w = np.float64(weights[i])
        if t < 0 or t >= touched.size:
            return BAD_TERM, i, 0, 0.0, 0.0, 0, False, 0
        if i > 0 and t <= terms[i - 1]:
            return UNSORTED, i, 0, 0.0, 0.0, 0, False, 0
        if not (w >= 0.0 and w < np.inf):
            return BAD_WEIGHT, i, 0, 0.0, 0.0, 0, False, 0
        a, b = term_blocks[t], term_blocks[t + 1]
        if w == 0.0 or a == b:
            continue
        untouched |= touched[t] == 0
        first[n] = a
        last[n] = b
        used[n] = weights[i]
        # rounded32 holds the term's largest impact until the weights are rounded
        rounded32[n] = term_impacts[t, 0]
        n += 1
        ceiling += w * term_impacts[t, 0]
        heads += np.int64(term_impacts[t, 0])
        if level < levels.size:
            floor = max(floor, w * term_impacts[t, level])
    if untouched:
        return UNTOUCHED, n, 0, 0.0, 0.0, 0, False, 0
    if n == 0:
        return OK, n, 16, 1.0, 0.0, 0, True, 1
    for bits in (16, 32):
        limit = limits[0] if bits == 16 else limits[1]
        if n == 1:
            step = np.float64(used[0])
        else:
            # sum of (w / step + 1) * impact stays under the limit, however the weights round
            step = ceiling / (limit - np.float64(heads)) if np.float64(heads) < limit else 0.0
        if step <= 0.0:
            continue
        above = 0.0
        below = 0.0
        total = 0.0
        exact = True
        for j in range(n):
            ratio = np.float64(used[j]) / step
            q = max(1.0, np.floor(ratio + 0.5))  # at least 1: a unit that matches has an accumulator above 0
            difference = (ratio - q) * rounded32[j]
            exact &= q * step == np.float64(used[j])
            total += q * rounded32[j]
            if difference > 0.0:
                above += difference
            else:
                below -= difference
        if bits == 16 and above + below > limits[2] * total and not exact:
            continue
        for j in range(n):
            q = max(1.0, np.floor(np.float64(used[j]) / step + 0.5))
            if bits == 16:
                rounded16[j] = np.uint16(q)
            else:
                rounded32[j] = np.uint32(q)
        ties = exact and total < 536870912.0  # 2^29 steps of 24 bits: float64 adds without rounding
        reach = floor / step
        if ties:
            return OK, n, bits, step, 0.0, np.int64(0), True, np.int64(max(1.0, np.rint(reach)))
        margin = np.int64(np.ceil(above + below + SLACK))
        return OK, n, bits, step, above, margin, False, np.int64(max(1.0, np.floor(reach - above - SLACK)))
    return BAD_WEIGHT, n, 0, 0.0, 0.0, 0, False, 0
