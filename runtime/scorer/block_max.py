"""Block-max pruning (Ding & Suel, SIGIR 2011; Mallia, Suel & Tonellotto, SIGIR 2024).

For each chunk of 64 units the largest impacts of the query's terms add up to a bound. The chunks of the highest bounds
are scored first; they give a threshold, and only chunks whose bound reaches it are scored at all. Where few results are
wanted, half of the terms say of most chunks that no unit reaches it, and these are not asked for the others.
"""

from __future__ import annotations

import math

import numpy as np

from ..numba_support.arrays import F32, F64, I64, U32
from ..numba_support.cache import inline_kernel, kernel
from ..numba_support.simd import LANES
from . import L2_TILE_BITS
from .block_max_bounds import (
    RANGE_BLOCKS,
    add_maxima,
    add_postings,
    collect,
    fetch_maxima,
    find_peaks,
    high_cut,
    keep_passing,
    needed,
    reaching,
    rounded,
    sort_chunks,
)
from .block_max_postings import score_chunks
from .maxscore import postpones
from .query import DONE, SCAN, SORT, find_blocks, heaviest_first, make_whole, read_query
from .topk import FEW, NONE, hand_over, raise_bar, sort_range
from .workspace import BAR, FOUND, TERMS, UNIT, chunks_of, open_filter, open_postings, open_workspace

# Which way to go: what costs less, or one of them (scan remains where there is no block-max data).
CHEAPER, BY_CHUNKS, BY_POSTINGS = range(3)
SLACK_FOUND = 16  # candidates beyond k before the bar is raised
BEST = 256  # chunks that are sorted by their bounds where there are many
STRETCH = 128  # chunks after which the choice of the way is looked at again
LEAST_FIRST, MOST_FIRST = 16, 64  # chunks that give the first bar
# So many terms are looked at in two steps: of fewer, a half says little; more take long to sort. For at most so many
# results a term: with more of them, most chunks have one.
LEAST_TERMS, MOST_TERMS, RESULTS_A_TERM = 4, 128, 4
# So many times as much as usual costs a chunk until there is a bar, as most have a unit that reaches it; and what two
# steps leave of a chunk's cost.
FIRST, EARLY = 1.2, 0.7
# How many times too high the guess of visits may be where two steps make them cheap, if to look at the bounds costs at
# most this share of the scan.
DOUBT, CHEAP = 2.0, 0.125
SMALLEST = 5e-324  # every unit that shares a term scores at least this
# What things cost, in nanoseconds, where queries follow each other and find the caches full of others' postings; fitted
# to synthetic collections and a real one (benchmarks/choice.py). They decide between the two ways, nothing else.
COST_BOUND, COST_RARE = 0.26, 2.3
COST_CHUNK, COST_CHUNK_TERM = 40.0, 19.0
COST_ADD, COST_UNIT, COST_LIST = 0.65, 0.12, 60.0
POSTPONED, ADDED = 0.5, 0.3  # the share of the postings that is left out for few results, less that for many
# Where a stretch costs less than this share of the scan, it is visited before the choice is looked at again, unless
# what is left costs more than HOPELESS scans: of many chunks the first few give a bar far below the last one.
PROBE, HOPELESS = 0.125, 4.0
STILL_REACH = 0.9  # of the chunks that reach the bar after the first visits, so many do when their turn comes
USUAL_DENSITY = 0.04  # the share of the units that a term of a query has; where it is larger, chunks differ less


@inline_kernel
def leave_to_scan(n: int, bar: float, ceiling: float, used: F64, whole: I64, state: F64) -> int:
    """Leave what the scan has to know, and say so."""
    state[BAR] = bar
    state[UNIT] = make_whole(n, ceiling, used, whole)
    return SCAN


@kernel
def visit(
    terms: I64,
    weights: F32,
    k: int,
    way: int,
    keep: float,
    floor: float,
    scale: float,
    allowed: int,
    segment: int,
    workspace: int,
    out_units: U32,
    out_scores: F64,
) -> int:
    """Answer a query by visiting chunks: how many results there are, or one of the codes of query.py, which are
    negative: SCAN where :func:`.scan.scan` is to do it, SORT where :func:`.sorting.take_best` is to make the results of
    many candidates.

    ``allowed``, ``segment`` and ``workspace`` are addresses, see memory.py. Units that score less than ``floor`` are
    not wanted. ``keep`` below 1: chunks whose bound times ``keep`` does not reach the bar are left out.
    """
    s, ws, passing = open_postings(segment), open_workspace(workspace), open_filter(allowed)
    code, n = read_query(terms, weights, s.term_blocks, s.term_rows, s.verified, ws.kept, ws.used, ws.rows)
    ws.state[TERMS] = n
    if code != DONE or n == 0:
        return code
    used, rows, starts, bounds, peaks, order = ws.used, ws.rows, ws.starts, ws.bounds, ws.peaks, ws.order
    ceiling = 0.0
    for j in range(n):
        ceiling += used[j] * s.term_impacts[ws.kept[j], 0]
    early_terms = NONE
    in_steps = LEAST_TERMS <= n <= MOST_TERMS and k <= RESULTS_A_TERM * n and keep >= 1.0
    if in_steps and make_whole(n, ceiling, used, ws.whole) > 0.0:  # so sums are exact in any order
        # leave_to_scan makes whole weights anew, in this order
        heaviest_first(n, s.term_impacts, ws.kept, used, rows)
        early_terms = np.int64((n + 1) >> 1)
    find_blocks(n, ws.kept, used, s.term_blocks, s.block_windows, s.block_impacts, s.block_postings, starts, ws.tops)
    level = 0
    while level < s.levels.size and s.levels[level] < k + passing.excluded:
        level += 1
    # The k-th best score is at least this, or wanted to be: k units have so large an impact in one term.
    bar = max(SMALLEST, floor)
    heaviest = 0.0
    postings = 0.0
    rare = 0.0
    frequent = 0
    infrequent = 0
    windows = ws.tops.size
    for j in range(n):
        heaviest = max(heaviest, used[j])
        if level < s.levels.size:
            bar = max(bar, used[j] * s.term_impacts[ws.kept[j], level])
        length = np.float64(starts[j, windows] - starts[j, 0])
        postings += length
        if rows[j] >= 0:
            frequent += 1
        else:
            infrequent += 1
            rows[j] = -infrequent
            rare += length
    n_chunks = chunks_of(s.unit_count)
    chunk_cost = COST_CHUNK + COST_CHUNK_TERM * n
    first_cost = FIRST * chunk_cost
    if early_terms > 0:
        chunk_cost *= EARLY
    scan_cost = COST_ADD * postings
    if postpones(s.unit_count, passing.excluded):  # frequent ones of many terms, where few units reach the bar
        scan_cost *= 1.0 - min(1.0, n / 32.0) * (POSTPONED - ADDED * min(1.0, math.sqrt(1000.0 * k / s.unit_count)))
    scan_cost += COST_UNIT * s.unit_count + COST_LIST * n * (s.unit_count >> L2_TILE_BITS)
    bound_cost = COST_BOUND * frequent * n_chunks + COST_RARE * rare
    doubt = DOUBT if early_terms > 0 and bound_cost <= CHEAP * scan_cost else 1.0
    if way == BY_CHUNKS:
        scan_cost = np.inf
    # How many chunks will reach the bar: fitted to synthetic collections of 100,000 and of 1,000,000 units, the power
    # of the density to real vectors. The k best of a tenth of the units lie among the 10 k best of all.
    remaining = np.float64(max(1, s.unit_count - passing.excluded))
    visits = 27.0 * (k * s.unit_count / remaining) ** 0.77
    visits *= (1.0 + n / 45.0) * (n_chunks / 15_625.0) ** 0.45 * s.figures[0] ** 3
    visits *= max(1.0, postings / (n * s.unit_count * USUAL_DENSITY)) ** 3
    visits = min(visits, np.float64(n_chunks), remaining)
    first_visits = min(MOST_FIRST, max(LEAST_FIRST, k))
    visit_cost = chunk_cost * visits + (first_cost - chunk_cost) * min(visits, first_visits)
    if (
        s.chunk_impacts.size == 0
        or infrequent > ws.places.shape[0]
        or way == BY_POSTINGS
        or (way == CHEAPER and bound_cost + visit_cost > doubt * scan_cost)
    ):
        return leave_to_scan(n, bar, ceiling, used, ws.whole, ws.state)
    # Of many terms few bounds come near the ceiling; these are said to be unbounded, and the others finer.
    step = max((ceiling if n <= 16 else 0.5 * ceiling) / 65535.0, heaviest / 257.0)
    for j in range(n):
        ws.coarse_weights[j] = rounded(used[j], step)
    for w in range(windows):
        tile = bounds[w * RANGE_BLOCKS : (w + 1) * RANGE_BLOCKS]
        tile[:] = 0
        here, end = min(n_chunks, (w + 1) * RANGE_BLOCKS), min(n_chunks, (w + 2) * RANGE_BLOCKS)
        for j in range(n):
            weight = np.uint16(ws.coarse_weights[j])
            if rows[j] >= 0:
                maxima = s.chunk_impacts[rows[j]]
                add_maxima(tile, weight, maxima[w * RANGE_BLOCKS : here])
                fetch_maxima(maxima[here:end])
            else:
                lo, hi = starts[j, w], starts[j, w + 1]
                part = ws.places[-1 - rows[j], w * RANGE_BLOCKS : here]
                add_postings(tile, weight, s.units[lo:hi], s.impacts[lo:hi], part)
        if passing.units.size > 0:
            keep_passing(tile[: here - w * RANGE_BLOCKS], passing.chunks[w * RANGE_BLOCKS : here])
        find_peaks(tile, peaks[w * (RANGE_BLOCKS // LANES) : (w + 1) * (RANGE_BLOCKS // LANES)])
    limit = k + (k >> 2) + SLACK_FOUND // 2
    # A few chunks of the highest bounds give a first bar, and the best of those that reach it nearly the last one. The
    # rest come as they lie, which memory likes better.
    found, unseen = NONE, n_chunks
    enough = NONE if floor > 0.0 else np.int64(k)  # candidates that give a bar, if that of another segment is not there
    for phase in range(3):
        found, bar = raise_bar(found, k, bar, ws.scores, ws.units)
        need = needed(bar, step, keep if found >= k else 1.0)
        cut, most = need, np.int64(n_chunks)
        if phase == 0:
            most = np.int64(2 * first_visits)
            cut = high_cut(bounds, peaks, need, first_visits, most)
        elif phase == 1:
            count = reaching(bounds, peaks, need)
            unseen = count
            cost_left = STILL_REACH * chunk_cost * count
            worth_a_probe = STRETCH * chunk_cost < PROBE * scan_cost and cost_left < HOPELESS * scan_cost
            if cost_left > scan_cost and not worth_a_probe:
                return leave_to_scan(n, bar, ceiling, used, ws.whole, ws.state)
            if count > 2 * BEST:
                most = np.int64(2 * BEST)
                cut = high_cut(bounds, peaks, need, np.int64(BEST), most)
        count = collect(bounds, peaks, cut, most, order)
        if phase == 1:
            sort_chunks(order, count, bounds, cut, ws.histogram)
        elif phase == 2:
            unseen = count
        for start in range(0, count, STRETCH):
            share = keep if found >= k else 1.0  # nothing is passed over before there are k results
            # The bar only rises, so that at most ``unseen`` chunks reach it; they are counted only if these are many.
            if (start > 0 or phase == 2) and STILL_REACH * chunk_cost * unseen > scan_cost:
                cost_left = STILL_REACH * chunk_cost * reaching(bounds, peaks, needed(bar, step, share))
                if cost_left > scan_cost:
                    return leave_to_scan(n, bar, ceiling, used, ws.whole, ws.state)
            stretch = order[start : min(count, start + STRETCH)]
            unseen -= stretch.size
            looked_at = early_terms if early_terms > 0 and found >= enough else np.int64(n)
            while looked_at > 0:
                left, found, bar = score_chunks(
                    stretch, looked_at, k, limit, step, share, bar, n, s, ws, passing.units, enough, found
                )
                stretch, looked_at = stretch[:left], np.int64(n if looked_at < n else 0)
    found, bar = raise_bar(found, k, bar, ws.scores, ws.units)
    if found > FEW:
        ws.state[FOUND] = found
        return SORT
    for i in range(found):
        ws.ranks[i] = i
    sort_range(ws.scores, ws.units, ws.ranks, NONE, found)
    hand_over(found, scale, ws.scores, ws.units, ws.ranks, out_units, out_scores)
    return found
