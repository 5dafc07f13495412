"""Block-max pruning (Ding & Suel, SIGIR 2011; Mallia, Suel & Tonellotto, SIGIR 2024).

For each chunk of 64 units the largest impacts of the query's terms add up to a bound. The chunks of the highest bounds
are scored first; they give a threshold, and only chunks whose bound reaches it are scored at all.
"""

from __future__ import annotations

import math

import numpy as np

from . import STRIP_BITS
from .arrays import F32, F64, I32, I64, U8, U16, U32, U64, Bools
from .bounds import CHUNKS, GROUPS, add_maxima, add_postings, best_of_groups, find_peaks, needed, reaching, sort_chunks
from .chunks import score_chunks
from .numba_cache import kernel
from .query import DONE, SCAN, find_blocks, make_whole, read_query
from .sorting import raise_bar

# Which way to go: what costs less, or one of them (scan remains where there is no block-max data).
CHEAPER, BY_CHUNKS, BY_POSTINGS = range(3)
SLACK_FOUND = 16  # candidates beyond k before the bar is raised
STRETCH = 128  # chunks after which the choice of the way is looked at again
LEAST_FIRST, MOST_FIRST = 16, 64  # chunks that give the first bar
SMALLEST = 5e-324  # every unit that shares a term scores at least this
# What things cost, in nanoseconds; measured by benchmarks/choice.py. They decide between the two ways, nothing else.
COST_BOUND, COST_RARE = 0.06, 1.5
COST_CHUNK, COST_CHUNK_TERM = 40.0, 22.0
COST_ADD, COST_UNIT, COST_LIST = 0.8, 0.05, 20.0


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
        length = np.float64(starts[j, windows] - starts[j, 0])
        postings += length
        if rows[j] >= 0:
            frequent += 1
        else:
            infrequent += 1
            rows[j] = -infrequent
            rare += length
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
