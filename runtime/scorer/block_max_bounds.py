"""Bounds of chunks: how much a unit in a chunk can score at most, and which chunks have high bounds.

Bounds are 16-bit integers: weights are rounded up to q with weight <= q * step, and sums saturate at 65,535, which
stands for no bound.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..numba_support.arrays import I64, U8, U16, U32
from ..numba_support.cache import inline_kernel
from ..numba_support.simd import LANES, add_scaled, at_least, count_bits, highest, lowest_bit, prefetch
from . import BLOCK_BITS, BLOCK_SIZE, RANGE_SIZE

RANGE_BLOCKS = RANGE_SIZE // BLOCK_SIZE  # of a window
SORT_BUCKETS = 64
UNBOUNDED = np.uint16(65535)
# Bounds are compared with the threshold less this share, which covers the rounding of float64 in q and step.
SLACK = 1e-9


@inline_kernel
def rounded(weight: float, step: float) -> Any:
    """A weight as a multiple of the step, rounded up; at most 257, so that its product with an impact fits 16 bits."""
    return np.uint16(min(257.0, math.ceil(weight / step)))


@inline_kernel
def add_maxima(bounds: U16, weight: Any, maxima: U8) -> None:
    """bounds += weight * maxima, saturating; ``weight`` (uint16) times 255 is at most 65,535."""
    whole = maxima.size & -LANES
    for i in range(0, whole, LANES):
        add_scaled(bounds, weight, maxima, i)
    for i in range(whole, maxima.size):
        part = np.uint16(weight * maxima[i])
        total = np.uint16(bounds[i] + part)
        bounds[i] = total if total >= part else UNBOUNDED


@inline_kernel
def fetch_maxima(maxima: U8) -> None:
    """Ask for maxima that are to be added."""
    for i in range(np.uint64(0), np.uint64(maxima.size), np.uint64(LANES)):
        prefetch(maxima, i)


@inline_kernel
def add_postings(bounds: U16, weight: Any, units: U16, impacts: U8, places: U16) -> None:
    """bounds[chunk] += weight * the largest impact of a block's postings in the chunk, saturating.

    ``places[chunk]``: the position of a posting of the chunk; of a chunk that has none it stays what it was. Without
    branches: whether two neighbours share a chunk cannot be predicted.
    """
    last = np.uint16(RANGE_BLOCKS)
    top = np.uint16(0)
    for i in range(np.uint64(units.size)):
        chunk = units[i] >> np.uint16(BLOCK_BITS)
        before = top if chunk == last else np.uint16(0)
        top = max(before, np.uint16(impacts[i]))
        part = np.uint16(weight * (top - before))
        total = np.uint16(bounds[chunk] + part)
        bounds[chunk] = total if total >= part else UNBOUNDED
        places[chunk] = i
        last = chunk


@inline_kernel
def keep_passing(bounds: U16, passing: U8) -> None:
    """Set the bounds to 0 where ``passing`` is 0, not 1."""
    for i in range(bounds.size):
        bounds[i] *= passing[i]


@inline_kernel
def needed(bar: float, step: float, keep: float) -> Any:
    """The bound that a chunk needs to hold a unit of score ``bar``; ``keep`` below 1 asks for more than that."""
    return np.uint16(math.ceil(min(65535.0, max(1.0, bar / step * (1.0 - SLACK) / keep))))


@inline_kernel
def find_peaks(bounds: U16, peaks: U16) -> None:
    """``peaks``: the largest of each 64 bounds."""
    for i in range(peaks.size):
        peaks[i] = highest(bounds, i * LANES)


@inline_kernel
def reaching(bounds: U16, peaks: U16, need: Any) -> Any:
    """How many bounds are at least ``need``, which is not 0. ``peaks``: no bound of 64 is larger; 0 beyond them."""
    count = np.int64(0)
    for some in range(0, peaks.size, LANES):
        high = at_least(peaks, some, need)
        while high:
            count += count_bits(at_least(bounds, (some + lowest_bit(high)) * LANES, need))
            high &= high - np.uint64(1)
    return count


@inline_kernel
def high_cut(bounds: U16, peaks: U16, least: Any, wanted: Any, most: Any) -> Any:
    """A value from ``least`` on that at least ``wanted`` bounds reach, or ``least``; at most ``most`` reach it unless
    too many are alike. By bisection: to count them takes a cycle or two for 64.
    """
    low, high = np.int64(least), np.int64(0)
    for i in range(peaks.size):
        high = max(high, np.int64(peaks[i]) + 1)
    while high - low > 1:
        middle = (low + high) >> 1
        count = reaching(bounds, peaks, np.uint16(middle))
        if count < wanted:
            high = middle
        else:
            low = middle
            if count <= most:
                break
    return np.uint16(low)


@inline_kernel
def collect(bounds: U16, peaks: U16, need: Any, most: Any, order: U32) -> int:
    """The chunks whose bound reaches ``need``, ascending: how many are in ``order``. From ``most`` on, and at most 63
    later, the rest is left out.
    """
    count = 0
    for some in range(0, peaks.size, LANES):
        high = at_least(peaks, some, need)
        while high and count < most:
            first = (some + lowest_bit(high)) * LANES
            reached = at_least(bounds, first, need)
            while reached:
                order[count] = first + lowest_bit(reached)
                count += 1
                reached &= reached - np.uint64(1)
            high &= high - np.uint64(1)
    return count


@inline_kernel
def sort_chunks(order: U32, count: int, bounds: U16, least: Any, place: I64) -> None:
    """Sort ``order[:count]`` by bound, roughly descending: into buckets; ``order[count:2 count]`` and ``place``, int64,
    are workspace.
    """
    top = least
    for i in range(count):
        top = max(top, bounds[order[i]])
    width = (np.uint32(top) - np.uint32(least)) // np.uint32(SORT_BUCKETS) + np.uint32(1)
    for b in range(SORT_BUCKETS + 1):
        place[b] = 0
    for i in range(count):
        place[(np.uint32(top) - np.uint32(bounds[order[i]])) // width + np.uint32(1)] += 1
    for b in range(SORT_BUCKETS):
        place[b + 1] += place[b]
    for i in range(count):
        bucket = (np.uint32(top) - np.uint32(bounds[order[i]])) // width
        order[count + place[bucket]] = order[i]
        place[bucket] += 1
    for i in range(count):  # NumPy's assignment of a slice would compile for two seconds
        order[i] = order[count + i]
