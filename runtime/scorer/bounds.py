"""Bounds of chunks: how much a unit in a chunk can score at most, and which chunks have high bounds.

Bounds are 16-bit integers: weights are rounded up to q with weight <= q * step, and sums saturate at 65,535, which
stands for no bound.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import CHUNK, CHUNK_BITS, WINDOW
from .arrays import I64, U8, U16, U32
from .numba_cache import inline_kernel

CHUNKS = WINDOW // CHUNK  # of a window
# Chunks are grouped for a quick look at the highest bounds: group g of a window has its chunks g, g + 64, g + 128…
GROUPS = 64
PEAK_BINS, PEAK_SHIFT = 1024, 6
SORT_BUCKETS = 64
UNBOUNDED = np.uint16(65535)
# Bounds are compared with the threshold less this share, which covers the rounding of float64 in q and step.
SLACK = 1e-9


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
def keep_passing(bounds: U16, passing: U8) -> None:
    """Set the bounds to 0 where ``passing`` is 0, not 1."""
    for i in range(bounds.size):
        bounds[i] *= passing[i]


@inline_kernel
def find_peaks(bounds: U16, peaks: U16) -> None:
    """``peaks[g]``: the highest bound in group g of a window's chunks."""
    peaks[:] = 0
    for low in range(0, bounds.size, GROUPS):
        part = bounds[low : low + GROUPS]
        for i in range(part.size):
            peaks[i] = max(peaks[i], part[i])


@inline_kernel
def high_cut(values: U16, wanted: int, counts: I64) -> Any:
    """A value that at least ``wanted`` of the values reach, and not many more; 0 where fewer are positive. ``counts``,
    int64, is workspace.
    """
    for b in range(PEAK_BINS):
        counts[b] = 0
    top = np.uint16(0)
    for i in range(values.size):
        top = max(top, values[i])
        counts[values[i] >> np.uint16(PEAK_SHIFT)] += 1
    seen = 0
    for b in range(np.int64(top >> np.uint16(PEAK_SHIFT)), 0, -1):
        seen += counts[b]
        if seen >= wanted:
            return np.uint16(b << PEAK_SHIFT)
    return np.uint16(0)


@inline_kernel
def needed(bar: float, step: float, keep: float) -> Any:
    """The bound that a chunk needs to hold a unit of score ``bar``; ``keep`` below 1 asks for more than that."""
    return np.uint16(min(65535.0, max(1.0, math.ceil(bar / step * (1.0 - SLACK) / keep))))


@inline_kernel
def best_of_groups(peaks: U16, bounds: U16, need: Any, wanted: int, order: U32, counts: I64) -> int:
    """The chunk of the highest bound in each of the ``wanted`` best groups or a few more: ``order[:…]``."""
    cut = max(need, high_cut(peaks, wanted, counts))
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
def as_they_lie(bounds: U16, need: Any, order: U32) -> int:
    """All chunks whose bound reaches ``need``, ascending: how many are in ``order``."""
    count = 0
    for chunk in range(np.uint64(bounds.size)):
        order[np.uint64(count)] = chunk
        count += bounds[chunk] >= need
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
