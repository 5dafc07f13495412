"""The k best of scored units, and their order: score descending, then original unit ascending."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numba_support.arrays import F64, I64, U32
from ..numba_support.cache import inline_kernel, kernel
from .workspace import FOUND, open_workspace

# Up to so many results are sorted by insertion, more by radix.
FEW = 64
# Up to so many candidates are selected from by comparing them, more by what bucket of scores they are in.
FEW_TO_SELECT = 256
RADIX_BITS = 11
RADIX = 1 << RADIX_BITS
NONE: Any = np.int64(0)  # a literal 0 is another type to Numba, for which helpers would be compiled once more
KEYS = float(1 << (2 * RADIX_BITS))


@inline_kernel
def ranks_below(score_a: float, unit_a: Any, score_b: float, unit_b: Any) -> bool:
    """Whether a comes after b: lower score, or the same score and a later unit."""
    return score_a < score_b or (score_a == score_b and unit_a > unit_b)


@inline_kernel
def sort_range(scores: F64, units: U32, ranks: U32, first: int, last: int) -> None:
    """Sort the candidates that ``ranks[first:last]`` names best first, in place: by insertion, or a heap of many."""
    size = last - first
    if size <= FEW:
        for i in range(first + 1, last):
            this = ranks[i]
            j = i
            while j > first and ranks_below(scores[ranks[j - 1]], units[ranks[j - 1]], scores[this], units[this]):
                ranks[j] = ranks[j - 1]
                j -= 1
            ranks[j] = this
        return
    # A heap with the worst on top; first it is built from the middle down, then its top goes to the end.
    start, end = size >> 1, size
    while end > 1:
        if start > 0:
            start -= 1
            this = ranks[first + start]
        else:
            end -= 1
            this = ranks[first + end]
            ranks[first + end] = ranks[first]
        at = start
        child = 2 * at + 1
        while child < end:
            below = ranks[first + child]
            if child + 1 < end:
                other = ranks[first + child + 1]
                if ranks_below(scores[other], units[other], scores[below], units[below]):
                    child += 1
                    below = other
            if not ranks_below(scores[below], units[below], scores[this], units[this]):
                break
            ranks[first + at] = below
            at = child
            child = 2 * at + 1
        ranks[first + at] = this


@inline_kernel
def sort_results(scores: F64, units: U32, size: int, ranks: U32, ranks_too: U32, keys: U32, counts: Any) -> None:
    """``ranks[:size]``: the candidates best first.

    Two passes of a radix sort over scores scaled to 22 bits, then a comparison sort of each run of equal keys: the
    mispredicted branches of a comparison sort cost more than all else in a search for many results.
    ``counts``: int64 ``[2 * RADIX]``, workspace, as are ``ranks_too`` and ``keys``.
    """
    least, most = np.inf, -np.inf
    for i in range(size):
        ranks[i] = i
        least = min(least, scores[i])
        most = max(most, scores[i])
    if size <= FEW or not most - least > 1e-290:  # few, all equal, or too close to scale
        sort_range(scores, units, ranks, NONE, size)
        return
    factor = (KEYS - 1) / (most - least)
    low_bits = np.uint32(RADIX - 1)
    high = np.uint32(RADIX)
    for v in range(2 * RADIX):
        counts[v] = 0
    for i in range(size):
        key = np.uint32(min(max((most - scores[i]) * factor, 0.0), KEYS - 1.0))
        keys[i] = key
        counts[key & low_bits] += 1
        counts[high + (key >> np.uint32(RADIX_BITS))] += 1
    low_total, high_total = 0, 0
    for v in range(RADIX):
        low_count, high_count = counts[v], counts[RADIX + v]
        counts[v], counts[RADIX + v] = low_total, high_total
        low_total += low_count
        high_total += high_count
    for i in range(size):
        v = keys[i] & low_bits
        ranks_too[counts[v]] = i
        counts[v] += 1
    for i in range(size):
        this = ranks_too[i]
        v = high + (keys[this] >> np.uint32(RADIX_BITS))
        ranks[counts[v]] = this
        counts[v] += 1
    first = NONE
    for i in range(1, size + 1):
        if i == size or keys[ranks[i]] != keys[ranks[first]]:
            if i - first > 1:
                sort_range(scores, units, ranks, first, i)
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
def lift_bar(found: int, k: int, bar: float, scores: F64, units: U32, counts: I64) -> tuple[int, float]:
    """Like :func:`raise_bar`, without comparing candidates where there are many: a few more than k may be kept. At
    least k score as much as the bar.
    """
    if found <= FEW_TO_SELECT or found < k:
        return raise_bar(found, k, bar, scores, units)
    most = least = scores[0]
    for i in range(1, found):
        most, least = max(most, scores[i]), min(least, scores[i])
    if not most - least > 1e-290:  # all equal, or too close to scale
        return raise_bar(found, k, bar, scores, units)
    factor = (RADIX - 1) / (most - least)
    for v in range(RADIX):
        counts[v] = 0
    for i in range(found):
        counts[np.uint32(min((most - scores[i]) * factor, RADIX - 1.0))] += 1
    cut = np.uint32(0)
    better = NONE
    while better < k:
        better += counts[cut]
        cut += np.uint32(1)
    if better > k + (k >> 2) + FEW:  # many alike
        return raise_bar(found, k, bar, scores, units)
    kept = NONE
    lowest = most
    for i in range(found):  # without branches, which would be foreseen every other time
        score = scores[i]
        keep = np.uint32(min((most - score) * factor, RADIX - 1.0)) < cut
        scores[kept], units[kept] = score, units[i]
        lowest = min(lowest, score if keep else most)
        kept += keep
    return kept, lowest


@inline_kernel
def hand_over(size: int, scale: float, scores: F64, units: U32, ranks: U32, out_units: U32, out_scores: F64) -> None:
    """Write the results in the order of ``ranks``, scores times the scale."""
    for i in range(size):
        out_units[i] = units[ranks[i]]
        out_scores[i] = scores[ranks[i]] * scale


@kernel
def take_best(k: int, scale: float, workspace: int, out_units: U32, out_scores: F64) -> int:
    """Make the k best of the workspace's candidates the results, sorted; returns how many there are."""
    ws = open_workspace(workspace)
    found: Any = np.int64(ws.state[FOUND])
    if found > ws.ranks.size:
        select_top(ws.scores, ws.units, found, k)
        found = np.int64(k)
    sort_results(ws.scores, ws.units, found, ws.ranks, ws.ranks_too, ws.keys, ws.histogram)
    found = min(found, np.int64(k))
    hand_over(found, scale, ws.scores, ws.units, ws.ranks, out_units, out_scores)
    return int(found)
