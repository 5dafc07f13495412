"""The k best of scored units, and their order: score descending, then original unit ascending."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arrays import F64, U32
from .numba_cache import inline_kernel, kernel

# From so many results on they are sorted by radix.
RADIX_FROM = 64
RADIX_BITS = 11
KEYS = float(1 << (2 * RADIX_BITS))


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


@kernel
def take_best(found: int, k: int, scores: F64, units: U32) -> int:
    """The k best candidates, sorted, in front; returns how many there are."""
    if found > k:
        select_top(scores, units, found, k)
        found = k
    sort_results(scores, units, found)
    return found
