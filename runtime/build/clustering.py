"""Kernels that make sketches of vectors and put them into the order of a 2-means tree. See reordering.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..numba_support.arrays import F32, I32, I64, U8, U32
from ..numba_support.cache import inline_kernel, kernel

Sketches = npt.NDArray[np.int8]

DIMENSIONS = 128
LENGTH = 320.0  # of a sketch, so that a component rarely leaves its 8 bits
LEAF = 24  # units that the tree does not split any further
SPLIT_SAMPLE = 512  # units that a split is found with
ROUNDS = 6
SMALLER = 8  # a split leaves at least one unit in so many on either side


@kernel
def sketch(indptr: I64, indices: I32, values: F32, signs: Sketches, term_weights: F32, out: Sketches) -> None:
    """``out[row]``: the sketch of each CSR row, of one length; zero where no term counts.

    A term counts by the square root of its weight, so that a few heavy terms do not drown the others.
    """
    total = np.empty(DIMENSIONS, np.float32)
    for row in range(indptr.size - 1):
        total[:] = 0.0
        for i in range(indptr[row], indptr[row + 1]):
            factor = term_weights[indices[i]]
            if factor > 0.0:
                add_signed(total, np.sqrt(values[i]) * factor, signs[indices[i]])
        round_sketch(total, out[row])


@kernel
def add_postings(
    list_ptr: I64,
    units: U32,
    impacts: U8,
    scale: float,
    first_term: int,
    signs: Sketches,
    term_weights: F32,
    low: int,
    sums: F32,
) -> None:
    """:func:`sketch` from posting lists of terms from ``first_term`` on, before rounding: adds to ``sums[unit - low]``,
    float32 ``[units, DIMENSIONS]``, what the units in this range have of the terms.
    """
    high = low + sums.shape[0]
    for j in range(list_ptr.size - 1):
        factor = term_weights[first_term + j]
        if factor > 0.0:
            for i in range(list_ptr[j], list_ptr[j + 1]):
                unit = np.int64(units[i])
                if low <= unit < high:
                    weight = np.sqrt(np.float32(impacts[i] * scale))
                    add_signed(sums[unit - low], weight * factor, signs[first_term + j])


@kernel
def round_sketches(sums: F32, out: Sketches) -> None:
    """The sketches of sums of :func:`add_postings`."""
    for row in range(sums.shape[0]):
        round_sketch(sums[row], out[row])


@inline_kernel
def round_sketch(total: F32, out: Sketches) -> None:
    """Bring a sum to the length of a sketch; zero stays zero."""
    norm = np.float32(0.0)
    for d in range(DIMENSIONS):
        norm += total[d] * total[d]
    factor = np.float32(LENGTH) / np.sqrt(norm) if norm > 0.0 else np.float32(0.0)
    for d in range(DIMENSIONS):
        out[d] = np.int8(min(127.0, max(-127.0, np.rint(total[d] * factor))))


@inline_kernel
def add_signed(total: F32, value: float, signs: Sketches) -> None:
    """total += value * signs."""
    for d in range(DIMENSIONS):
        total[d] += value * np.float32(signs[d])


@inline_kernel
def dot(a: F32, b: Sketches) -> Any:
    """Inner product of a direction and a sketch, summed in eight lanes so that it vectorises."""
    lanes = np.zeros(8, np.float32)
    for d in range(0, DIMENSIONS, 8):
        for i in range(8):
            lanes[i] += a[d + i] * np.float32(b[d + i])
    return lanes[0] + lanes[1] + lanes[2] + lanes[3] + lanes[4] + lanes[5] + lanes[6] + lanes[7]


@inline_kernel
def split_direction(sketches: Sketches, low: int, high: int, direction: F32) -> Any:
    """2-means on a sample of the range: ``direction`` from one mean to the other; returns where the middle lies."""
    step = max(1, (high - low) // SPLIT_SAMPLE)
    # from a unit to the one least like it, twice: two ends of the range
    seed = low
    for _ in range(2):
        for d in range(DIMENSIONS):
            direction[d] = sketches[seed, d]
        worst = np.float32(np.inf)
        for u in range(low, high, step):
            likeness = dot(direction, sketches[u])
            if likeness < worst:
                worst, seed = likeness, u
    means = np.zeros((2, DIMENSIONS), np.float32)
    for d in range(DIMENSIONS):
        means[0, d], means[1, d] = direction[d], sketches[seed, d]
    middle = np.float32(0.0)
    for _ in range(ROUNDS):
        lengths = np.zeros(2, np.float32)
        for side in range(2):
            for d in range(DIMENSIONS):
                lengths[side] += means[side, d] * means[side, d]
        for d in range(DIMENSIONS):
            direction[d] = means[0, d] - means[1, d]
        middle = np.float32(0.5) * (lengths[0] - lengths[1])
        sums = np.zeros((2, DIMENSIONS), np.float32)
        counts = np.zeros(2, np.int64)
        for u in range(low, high, step):
            side = 0 if dot(direction, sketches[u]) >= middle else 1
            counts[side] += 1
            for d in range(DIMENSIONS):
                sums[side, d] += np.float32(sketches[u, d])
        if counts[0] == 0 or counts[1] == 0:
            break
        for side in range(2):
            for d in range(DIMENSIONS):
                means[side, d] = sums[side, d] / np.float32(counts[side])
    return middle


@kernel
def tree_order(sketches: Sketches, order: U32) -> None:
    """Bring ``order`` (a permutation of the sketches' rows) into the order of a 2-means tree's leaves.

    ``sketches`` int8 ``[units, DIMENSIONS]`` are permuted along with it.
    """
    direction = np.empty(DIMENSIONS, np.float32)
    values = np.empty(order.size, np.float32)
    stack = np.empty((128, 2), np.int64)
    stack[0, 0], stack[0, 1] = 0, order.size
    depth = 1
    while depth > 0:
        depth -= 1
        low, high = stack[depth, 0], stack[depth, 1]
        while high - low > LEAF:
            middle = split_direction(sketches, low, high, direction)
            left = 0
            for u in range(low, high):
                values[u] = dot(direction, sketches[u])
                left += values[u] >= middle
            least = max(1, (high - low) // SMALLER)
            if left < least or high - low - left < least:
                middle = np.median(values[low:high])
            cut = partition(sketches, order, values, low, high, middle)
            if cut - low < least or high - cut < least:  # (nearly) all alike
                cut = (low + high) >> 1
            # go on with the smaller part, so that the stack stays within log2(units)
            if cut - low <= high - cut:
                stack[depth, 0], stack[depth, 1] = cut, high
                high = cut
            else:
                stack[depth, 0], stack[depth, 1] = low, cut
                low = cut
            depth += 1


@inline_kernel
def partition(sketches: Sketches, order: U32, values: F32, low: int, high: int, middle: float) -> int:
    """Bring the units with ``values >= middle`` to the front of the range; returns where the others start."""
    i, j = low, high - 1
    while True:
        while i <= j and values[i] >= middle:
            i += 1
        while i <= j and values[j] < middle:
            j -= 1
        if i >= j:
            return i
        values[i], values[j] = values[j], values[i]
        order[i], order[j] = order[j], order[i]
        for d in range(DIMENSIONS):
            sketches[i, d], sketches[j, d] = sketches[j, d], sketches[i, d]
        i += 1
        j -= 1
