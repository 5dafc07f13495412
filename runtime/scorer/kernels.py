"""The scorer: exact top k of a query vector, by one of two ways.

The score of a unit is a sum in float64, over the query's terms in ascending id, of float64(float32 weight) x impact.
Results are ordered by score descending, then by original unit ascending. Neither way approximates a score:

:func:`visit`, block-max pruning (Ding & Suel, SIGIR 2011; Mallia, Suel & Tonellotto, SIGIR 2024). For each chunk of 64
units the largest impacts of the query's terms add up to a bound. The chunks of the highest bounds are scored first;
they give a threshold, and only chunks whose bound reaches it are scored at all. Bounds are 16-bit integers: weights
are rounded up to q with weight <= q * step, and sums saturate at 65,535, which stands for no bound.

:func:`scan`, term at a time (Lin & Trotman, ICTIR 2015). The units are cut into strips of 4,096, whose accumulators
stay in the first-level cache; all postings of a strip are added, and the strip is searched for sums that reach the
threshold. Where the sums of float64 are exact, the accumulators are integers of 64 bits: float32 weights are whole
multiples of one power of two, and float64 adds multiples of a power of two without rounding as long as they stay below
2^53 of them. Then integers give the very same sum, in less time.

:func:`visit` decides: it goes over to :func:`scan` where too many chunks reach the threshold, or where the segment has
no chunk data.

Numba habits that decide the speed: unsigned indices (no wrap-around test), slices given to small helpers
(they vectorise), accumulators cleared with one fill. All kernels stand in this one file, because
Numba finds a cached kernel stale only when the file of that kernel has changed, not that of a helper it calls.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import CHUNK, CHUNK_BITS, SPAN_BITS, WINDOW, WINDOW_BITS
from .arrays import F32, F64, I32, I64, U8, U16, U32, U64, Bools, Sums
from .numba_cache import inline_kernel, kernel

CHUNKS = WINDOW // CHUNK  # of a window
# Chunks are grouped for a quick look at the highest bounds: group g of a window has its chunks g, g + 64, g + 128…
GROUPS = 64
STRIP_BITS = 12
STRIP = 1 << STRIP_BITS
STRIPS = WINDOW // STRIP  # of a window
# With fewer postings in a strip than this, their accumulators are cleared one by one.
SPARSE = STRIP // 32
# From so many results on they are sorted by radix.
RADIX_FROM = 64
RADIX_BITS = 11
KEYS = float(1 << (2 * RADIX_BITS))
SORT_BUCKETS = 64
SLACK_FOUND = 16  # candidates beyond k before the bar is raised
PEAK_BINS, PEAK_SHIFT = 1024, 6
BATCH = 16  # chunks scored together, at most
STRETCH = 128  # chunks after which the choice of the way is looked at again
LEAST_FIRST, MOST_FIRST = 16, 64  # chunks that give the first bar
UNBOUNDED = np.uint16(65535)
SMALLEST = 5e-324  # every unit that shares a term scores at least this
# Bounds are compared with the threshold less this share, which covers the rounding of float64 in q and step.
SLACK = 1e-9
# What things cost, in nanoseconds; measured by benchmarks/choice.py. They decide between the two ways, nothing else.
COST_BOUND, COST_RARE = 0.06, 1.5
COST_CHUNK, COST_CHUNK_TERM = 40.0, 22.0
COST_ADD, COST_UNIT, COST_LIST = 0.8, 0.05, 20.0


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
def select_top(scores: F64, units: U32, size: int, k: int) -> None:
    """Bring the k best (k < size) to the front, the k-th at ``k - 1``, by quickselect in place."""
    low, high, want = 0, size - 1, k - 1
    while low < high:
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
        if want <= j:
            high = j
        elif want >= i:
            low = i
        else:
            break


@inline_kernel
def high_cut(values: U16, wanted: int) -> Any:
    """A value that at least ``wanted`` of the values reach, and not many more; 0 where fewer are positive."""
    counts = np.zeros(PEAK_BINS, np.int64)
    for i in range(values.size):
        counts[values[i] >> np.uint16(PEAK_SHIFT)] += 1
    seen = 0
    for b in range(PEAK_BINS - 1, 0, -1):
        seen += counts[b]
        if seen >= wanted:
            return np.uint16(b << PEAK_SHIFT)
    return np.uint16(0)


# Which way to go: what costs less, or one of them (scan remains where there is no block-max data).
CHEAPER, BY_CHUNKS, BY_POSTINGS = range(3)
# What visit found: results, that scan is to go on, or what is wrong with the query.
DONE, SCAN, UNSORTED, BAD_TERM, BAD_WEIGHT, UNTOUCHED = range(6)


@inline_kernel
def read_query(
    terms: I64,
    weights: F32,
    term_blocks: U64,
    term_rows: I32,
    touched: U8,
    kept: I64,
    used: F64,
    rows: I64,
) -> tuple[int, int]:
    """Validate a query: (code, terms that have postings and weight; or the position of a bad one).

    Fills ``kept`` (term ids), ``used`` (weights) and ``rows`` (of block-max data, or -1).
    """
    n = 0
    untouched = False
    for i in range(terms.size):
        t = terms[i]
        w = np.float64(weights[i])
        if t < 0 or t >= touched.size:
            return BAD_TERM, i
        if i > 0 and t <= terms[i - 1]:
            return UNSORTED, i
        if not (w >= 0.0 and w < np.inf):
            return BAD_WEIGHT, i
        if w == 0.0 or term_blocks[t] == term_blocks[t + 1]:
            continue
        untouched |= touched[t] == 0
        kept[n], used[n], rows[n] = t, w, term_rows[t]
        n += 1
    return (UNTOUCHED if untouched else DONE), n


@inline_kernel
def find_blocks(
    n: int,
    kept: I64,
    used: F64,
    term_blocks: U64,
    block_windows: U16,
    block_impacts: U8,
    block_postings: U64,
    starts: U64,
    tops: F64,
) -> None:
    """``starts[j, w]``: first posting of term j in window w or later, one column more than there are windows;
    ``tops[w]``: no unit in the window has a higher score.
    """
    windows = tops.size
    tops[:] = 0.0
    for j in range(n):
        block, last = term_blocks[kept[j]], term_blocks[kept[j] + 1]
        for w in range(windows):
            starts[j, w] = block_postings[block]
            if block < last and block_windows[block] == w:
                tops[w] += used[j] * block_impacts[block]
                block += np.uint64(1)
        starts[j, windows] = block_postings[last]


@inline_kernel
def raise_bar(found: int, k: int, bar: float, scores: F64, units: U32) -> tuple[int, float]:
    """Keep the k best of the candidates: (how many there are, the score that others must reach)."""
    if found < k:
        return found, bar
    if found > k:
        select_top(scores, units, found, k)
        return k, scores[k - 1]
    lowest = scores[0]
    for i in range(k):
        lowest = min(lowest, scores[i])
    return k, lowest


@inline_kernel
def add_maxima(bounds: U16, weight: Any, maxima: U8) -> None:
    """bounds += weight * maxima, saturating; ``weight`` (uint16) times 255 is at most 65,535."""
    for i in range(maxima.size):
        part = np.uint16(weight * maxima[i])
        total = np.uint16(bounds[i] + part)
        bounds[i] = total if total >= part else UNBOUNDED


@inline_kernel
def add_postings(bounds: U16, weight: Any, units: U16, impacts: U8, places: U16) -> None:
    """bounds[chunk] += weight * the largest impact of a block's postings in the chunk, saturating.

    ``places[chunk]``: 1 + the position of the chunk's first posting, or 0. Without branches: whether two neighbours
    share a chunk cannot be predicted.
    """
    places[:] = 0
    last = np.uint16(CHUNKS)
    base = np.uint16(0)
    top = np.uint8(0)
    place = np.uint16(0)
    for i in range(units.size):
        chunk = units[i] >> np.uint16(CHUNK_BITS)
        same = chunk == last
        base = base if same else bounds[chunk]
        top = max(top, impacts[i]) if same else impacts[i]
        place = place if same else np.uint16(i + 1)
        part = np.uint16(weight * top)
        total = np.uint16(base + part)
        bounds[chunk] = total if total >= part else UNBOUNDED
        places[chunk] = place
        last = chunk


@inline_kernel
def find_peaks(bounds: U16, peaks: U16) -> None:
    """``peaks[g]``: the highest bound in group g of a window's chunks."""
    peaks[:] = 0
    for low in range(0, bounds.size, GROUPS):
        part = bounds[low : low + GROUPS]
        for i in range(part.size):
            peaks[i] = max(peaks[i], part[i])


@inline_kernel
def needed(bar: float, step: float, keep: float) -> Any:
    """The bound that a chunk needs to hold a unit of score ``bar``; ``keep`` below 1 asks for more than that."""
    return np.uint16(min(65535.0, max(1.0, math.ceil(bar / step * (1.0 - SLACK) / keep))))


@inline_kernel
def chunk_start(row: int, chunk: int, span_postings: U16, chunk_postings: U8) -> Any:
    """How many postings of a row's term come before a chunk in its window."""
    return np.uint64(span_postings[row, chunk >> SPAN_BITS]) + np.uint64(chunk_postings[row, chunk])


@inline_kernel
def find_postings(
    chunk: int,
    n: int,
    rows: I64,
    starts: U64,
    places: U16,
    span_postings: U16,
    chunk_postings: U8,
    units: U16,
    firsts: U64,
    counts: I64,
) -> None:
    """Where each term's postings of a chunk are: ``firsts[j]``, ``counts[j]``."""
    window = chunk // CHUNKS
    within = chunk % CHUNKS
    last = within + 1 == CHUNKS or chunk + 1 == chunk_postings.shape[1]
    for j in range(n):
        row = rows[j]
        lo, hi = starts[j, window], starts[j, window + 1]
        if row >= 0:
            if not last:
                hi = lo + chunk_start(row, chunk + 1, span_postings, chunk_postings)
            lo += chunk_start(row, chunk, span_postings, chunk_postings)
        else:
            place = places[-1 - row, chunk]
            if place > 0:
                lo += np.uint64(place - 1)
                end = lo + np.uint64(1)
                while end < hi and units[end] >> np.uint16(CHUNK_BITS) == within:
                    end += np.uint64(1)
                hi = end
            else:
                hi = lo
        firsts[j] = lo
        counts[j] = np.int64(hi - lo)


@inline_kernel
def score_chunks(
    chunks: U32,
    k: int,
    limit: int,
    step: float,
    keep: float,
    bar: float,
    bounds: U16,
    n: int,
    rows: I64,
    used: F64,
    starts: U64,
    places: U16,
    span_postings: U16,
    chunk_postings: U8,
    units: U16,
    impacts: U8,
    n_units: int,
    allowed: Bools,
    original: U32,
    sums: F64,
    firsts: U64,
    counts: I64,
    found: int,
    found_scores: F64,
    found_units: U32,
) -> tuple[int, int, float]:
    """Score the chunks whose bound reaches the bar, and raise it as they are found: (chunks scored, candidates, bar).

    Some chunks are taken together: first all their postings are located, then the first of each is read, and only then
    are they added up. So the cache misses, which are most of the time, are waited for together.
    """
    together = max(1, min(BATCH, firsts.size // n))
    need = needed(bar, step, keep)
    at = 0
    visited = 0
    while at < chunks.size:
        size = 0
        while at < chunks.size and size < together:
            chunk = np.int64(chunks[at])
            at += 1
            if bounds[chunk] >= need:
                sums[size] = chunk
                slot = size * n
                find_postings(
                    chunk, n, rows, starts, places, span_postings, chunk_postings, units, firsts[slot:], counts[slot:]
                )
                size += 1
        read = np.int64(0)
        for i in range(size * n):
            if counts[i] > 0:
                read += np.int64(units[firsts[i]]) + np.int64(impacts[firsts[i]])
        counts[counts.size - 1] = read  # so that the compiler keeps the loop
        for b in range(size):
            chunk = np.int64(sums[b])
            chunk_sums = sums[BATCH:]
            chunk_sums[:] = 0.0
            for j in range(n):
                weight = used[j]
                first = firsts[b * n + j]
                for p in range(first, first + np.uint64(counts[b * n + j])):
                    chunk_sums[units[p] & np.uint16(CHUNK - 1)] += weight * impacts[p]
            for i in range(CHUNK):
                if chunk_sums[i] >= bar:
                    unit = (chunk << CHUNK_BITS) + i
                    if unit < n_units and (allowed.size == 0 or allowed[unit]):
                        found_scores[found] = chunk_sums[i]
                        found_units[found] = unit if original.size == 0 else original[unit]
                        found += 1
            bounds[chunk] = 0
            if found >= limit:
                found, bar = raise_bar(found, k, bar, found_scores, found_units)
        visited += size
        need = needed(bar, step, keep)
    return visited, found, bar


@kernel
def visit(
    terms: I64,
    weights: F32,
    k: int,
    way: int,
    spread: float,
    levels: I64,
    keep: float,
    floor: float,
    allowed: Bools,
    allowed_chunks: U8,
    excluded: int,
    term_blocks: U64,
    term_impacts: U8,
    term_rows: I32,
    touched: U8,
    block_windows: U16,
    block_impacts: U8,
    block_postings: U64,
    chunk_impacts: U8,
    span_postings: U16,
    chunk_postings: U8,
    units: U16,
    impacts: U8,
    n_units: int,
    original: U32,
    kept: I64,
    used: F64,
    whole: I64,
    rows: I64,
    starts: U64,
    tops: F64,
    bounds: U16,
    peaks: U16,
    order: U32,
    places: U16,
    sums: F64,
    firsts: U64,
    counts: I64,
    found_scores: F64,
    found_units: U32,
) -> tuple[int, int, float, float]:
    """Answer a query by visiting chunks: (DONE, candidates, …); or (SCAN, terms, bar, unit) where :func:`scan` is to do
    it. :func:`take_best` makes the results of the candidates. Units that score less than ``floor`` are not wanted.
    """
    code, n = read_query(terms, weights, term_blocks, term_rows, touched, kept, used, rows)
    if code != DONE or n == 0:
        return code, n, 0.0, 0.0
    find_blocks(n, kept, used, term_blocks, block_windows, block_impacts, block_postings, starts, tops)
    level = 0
    while level < levels.size and levels[level] < k + excluded:
        level += 1
    # The k-th best score is at least this, or wanted to be: k units have so large an impact in one term.
    bar = max(SMALLEST, floor)
    ceiling = 0.0
    heaviest = 0.0
    postings = 0.0
    rare = 0.0
    frequent = 0
    infrequent = 0
    windows = tops.size
    for j in range(n):
        heaviest = max(heaviest, used[j])
        ceiling += used[j] * term_impacts[kept[j], 0]
        if level < levels.size:
            bar = max(bar, used[j] * term_impacts[kept[j], level])
        count = np.float64(starts[j, windows] - starts[j, 0])
        postings += count
        if rows[j] >= 0:
            frequent += 1
        else:
            infrequent += 1
            rows[j] = -infrequent
            rare += count
    n_chunks = chunk_impacts.shape[1]
    chunk_cost = COST_CHUNK + COST_CHUNK_TERM * n
    scan_cost = COST_ADD * postings + COST_UNIT * n_units + COST_LIST * n * (n_units >> STRIP_BITS)
    bound_cost = COST_BOUND * frequent * n_chunks + COST_RARE * rare
    if way == BY_CHUNKS:
        scan_cost = np.inf
    # How many chunks will reach the bar: fitted to collections of 100,000 and of 1,000,000 units.
    visits = 17.0 * k**0.77 * (1.0 + n / 45.0) * (n_chunks / 15_625.0) ** 0.45 * spread**3
    visits = min(visits, np.float64(n_chunks))
    first_visits = min(MOST_FIRST, max(LEAST_FIRST, k))
    if (
        chunk_impacts.size == 0
        or infrequent > places.shape[0]
        or way == BY_POSTINGS
        or (way == CHEAPER and bound_cost + chunk_cost * visits > scan_cost)
    ):
        return SCAN, n, bar, make_whole(n, ceiling, used, whole)
    step = max((ceiling if n <= 16 else 0.5 * ceiling) / 65535.0, heaviest / 257.0)
    for w in range(windows):
        tile = bounds[w * CHUNKS : min(n_chunks, (w + 1) * CHUNKS)]
        tile[:] = 0
        for j in range(n):
            weight = np.uint16(min(257.0, math.ceil(used[j] / step)))
            if rows[j] >= 0:
                add_maxima(tile, weight, chunk_impacts[rows[j], w * CHUNKS : w * CHUNKS + tile.size])
            else:
                lo, hi = starts[j, w], starts[j, w + 1]
                part = places[-1 - rows[j], w * CHUNKS : w * CHUNKS + tile.size]
                add_postings(tile, weight, units[lo:hi], impacts[lo:hi], part)
        if allowed.size > 0:
            passing = allowed_chunks[w * CHUNKS : w * CHUNKS + tile.size]
            for i in range(tile.size):
                tile[i] *= passing[i]
        find_peaks(tile, peaks[w * GROUPS : (w + 1) * GROUPS])
    limit = k + (k >> 2) + SLACK_FOUND // 2
    # The best chunk of each of the best groups gives a first bar; then all other chunks that reach it, best first.
    found = 0
    spent = 0.0
    for phase in range(2):
        found, bar = raise_bar(found, k, bar, found_scores, found_units)
        need = needed(bar, step, keep if found >= k else 1.0)
        if phase == 0:
            count = best_of_groups(peaks[: windows * GROUPS], bounds[:n_chunks], need, first_visits, order)
        else:
            count = reaching(peaks[: windows * GROUPS], bounds[:n_chunks], need, order)
            if found < k and 0.5 * count * chunk_cost > scan_cost:
                return SCAN, n, bar, make_whole(n, ceiling, used, whole)
            sort_chunks(order, count, bounds, need)
        for start in range(0, count, STRETCH):
            share = keep if found >= k else 1.0  # nothing is passed over before there are k results
            if phase == 1 and spent > 0.25 * scan_cost:
                need = needed(bar, step, share)
                left = 0
                for i in range(start, count):
                    left += bounds[order[i]] >= need
                if 0.6 * left * chunk_cost > scan_cost:
                    return SCAN, n, bar, make_whole(n, ceiling, used, whole)
            visited, found, bar = score_chunks(
                order[start : min(count, start + STRETCH)], k, limit, step, share, bar, bounds, n, rows, used, starts,
                places, span_postings, chunk_postings, units, impacts, n_units, allowed, original, sums, firsts, counts,
                found, found_scores, found_units,
            )  # fmt: skip
            spent += visited * chunk_cost
    return DONE, found, bar, 0.0


@inline_kernel
def best_of_groups(peaks: U16, bounds: U16, need: Any, wanted: int, order: U32) -> int:
    """The chunk of the highest bound in each of the ``wanted`` best groups or a few more: ``order[:…]``."""
    cut = max(need, high_cut(peaks, wanted))
    count = 0
    for group in range(peaks.size):
        if peaks[group] >= cut and count < 2 * wanted:
            first = (group // GROUPS) * CHUNKS + group % GROUPS
            best = first
            for chunk in range(first, min(bounds.size, (group // GROUPS + 1) * CHUNKS), GROUPS):
                if bounds[chunk] > bounds[best]:
                    best = chunk
            order[count] = best
            count += 1
    return count


@inline_kernel
def reaching(peaks: U16, bounds: U16, need: Any, order: U32) -> int:
    """All chunks whose bound reaches ``need``: how many are in ``order``."""
    count = 0
    for group in range(peaks.size):
        if peaks[group] >= need:
            first = (group // GROUPS) * CHUNKS + group % GROUPS
            for chunk in range(first, min(bounds.size, (group // GROUPS + 1) * CHUNKS), GROUPS):
                if bounds[chunk] >= need:
                    order[count] = chunk
                    count += 1
    return count


@inline_kernel
def make_whole(n: int, ceiling: float, used: F64, whole: I64) -> float:
    """The weights as integers times a power of two, which is returned; 0 where sums would not be exact."""
    least = 2000
    for j in range(n):
        least = min(least, math.frexp(used[j])[1])
    unit = math.ldexp(1.0, least - 24)  # float32 has 24 bits
    if not ceiling / unit < 9007199254740992.0:
        return 0.0
    for j in range(n):
        whole[j] = np.int64(used[j] / unit)
    return unit


@kernel
def take_best(found: int, k: int, scores: F64, units: U32) -> int:
    """The k best candidates, sorted, in front; returns how many there are."""
    if found > k:
        select_top(scores, units, found, k)
        found = k
    sort_results(scores, units, found)
    return found


@inline_kernel
def sort_chunks(order: U32, count: int, bounds: U16, least: Any) -> None:
    """Sort ``order[:count]`` by bound, roughly descending: into buckets; ``order[count:2 count]`` is workspace."""
    top = least
    for i in range(count):
        top = max(top, bounds[order[i]])
    width = (np.uint32(top) - np.uint32(least)) // np.uint32(SORT_BUCKETS) + np.uint32(1)
    place = np.zeros(SORT_BUCKETS + 1, np.int64)
    for i in range(count):
        place[(np.uint32(top) - np.uint32(bounds[order[i]])) // width + np.uint32(1)] += 1
    for b in range(SORT_BUCKETS):
        place[b + 1] += place[b]
    for i in range(count):
        bucket = (np.uint32(top) - np.uint32(bounds[order[i]])) // width
        order[count + place[bucket]] = order[i]
        place[bucket] += 1
    order[:count] = order[count : 2 * count]


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
    n: int,
    k: int,
    bar: float,
    unit: float,
    whole: bool,
    allowed: Bools,
    allowed_chunks: U8,
    weights: Sums,
    rows: I64,
    starts: U64,
    tops: F64,
    span_postings: U16,
    chunk_postings: U8,
    units: U16,
    impacts: U8,
    n_units: int,
    original: U32,
    accumulators: Sums,
    crossed: U16,
    found_scores: F64,
    found_units: U32,
) -> int:
    """Answer a query by adding up all postings; returns how many candidates there are."""
    # A unit indexes accumulators[WINDOW - base:], so that all strips use the same 4,096 of them.
    strip_sums = accumulators[WINDOW : WINDOW + STRIP]
    least = np.empty(1, accumulators.dtype)  # of a candidate's accumulator
    splits = np.empty((n, STRIPS + 1), np.uint64)
    limit = 2 * k + SLACK_FOUND
    found = 0
    ordered = original.size == 0
    full = False  # whether bar is the score of a k-th candidate: then a later unit must beat it, for ties go to earlier
    for w in range(tops.size):
        if tops[w] < bar:
            continue
        length = min(WINDOW, n_units - (w << WINDOW_BITS))
        for j in range(n):
            split_block(j, w, rows, starts, span_postings, chunk_postings, units, splits[j])
        for s in range((length + STRIP - 1) >> STRIP_BITS):
            base = (w << WINDOW_BITS) + (s << STRIP_BITS)
            size = min(STRIP, n_units - base)
            if allowed.size > 0:
                first_chunk = base >> CHUNK_BITS
                if not allowed_chunks[first_chunk : first_chunk + STRIP // CHUNK].any():
                    continue
            if whole:  # at least 1: bar / unit may be rounded to 0
                least[0] = max(1.0, math.floor(bar / unit) + 1 if full and ordered else math.ceil(bar / unit))
            else:
                least[0] = np.nextafter(bar, np.inf) if full and ordered else bar
            within = accumulators[WINDOW - (s << STRIP_BITS) : 2 * WINDOW - (s << STRIP_BITS)]
            crossings = 0
            postings = np.uint64(0)
            for j in range(n):
                lo, hi = splits[j, s], splits[j, s + 1]
                crossings = add_block(within, weights[j], units[lo:hi], impacts[lo:hi], least[0], crossed, crossings)
                postings += hi - lo
            for i in range(crossings):
                at = np.int64(crossed[i] & np.uint16(STRIP - 1))
                if at < size and (allowed.size == 0 or allowed[base + at]):
                    found_scores[found] = strip_sums[at] * unit
                    found_units[found] = base + at if ordered else original[base + at]
                    found += 1
            if postings < np.uint64(SPARSE):
                for j in range(n):
                    for p in range(splits[j, s], splits[j, s + 1]):
                        strip_sums[units[p] & np.uint16(STRIP - 1)] = 0
            else:
                strip_sums[:size] = 0
            if found >= limit:
                found, bar = raise_bar(found, k, bar, found_scores, found_units)
                full = True
    return found
