"""Kernels that compute sketches of vectors and order them by the leaves of a 2-means tree. See reordering.py.

A sketch is a random projection of a vector on ``DIMENSIONS`` directions of random signs (Achlioptas, "Database-friendly
random projections", 2003), scaled to one length and rounded to int8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..numba_support.arrays import F32, I32, I64, U8, U32
from ..numba_support.cache import inline_kernel, kernel

Sketches = npt.NDArray[np.int8]

DIMENSIONS = 128
LENGTH = 320.0  # of a sketch, short enough that few components exceed 8 bits
LEAF = 24  # a range of at most this many units is not split any further
SPLIT_SAMPLE = 512  # units of the sample that a split is computed on
ROUNDS = 6
SMALLER = 8  # each side of a split has at least 1/SMALLER of the units


@kernel
def sketch(indptr: I64, indices: I32, values: F32, signs: Sketches, term_weights: F32, out: Sketches) -> None:
    """Compute the sketch of each row of a CSR matrix.

    The weight of a term is the square root of its value, times ``term_weights``. The root keeps a few large values from
    dominating the others. A row without any weight has a sketch of zeros.

    Parameters
    ----------
    indptr
        int64 ``[rows + 1]``, CSR row pointers.
    indices
        int32 ``[nnz]``, term ids.
    values
        float32 ``[nnz]``, positive.
    signs
        int8 ``[vocab, DIMENSIONS]``, +1 or -1.
    term_weights
        float32 ``[vocab]``, see :func:`.reordering.term_weights`.
    out
        int8 ``[rows, DIMENSIONS]``, filled with the sketches.
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
    """Add to the sums of a range of units what posting lists contribute: :func:`sketch` by term, before rounding.

    Parameters
    ----------
    list_ptr
        int64 ``[lists + 1]``, the range of each posting list in ``units`` and ``impacts``.
    units
        uint32 ``[postings]``.
    impacts
        uint8 ``[postings]``.
    scale
        Weight of one impact step.
    first_term
        Term id of the first list; the others follow.
    signs
        int8 ``[vocab, DIMENSIONS]``, +1 or -1.
    term_weights
        float32 ``[vocab]``.
    low
        The first unit of the range.
    sums
        float32 ``[units of the range, DIMENSIONS]``, added to.
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
    """Compute sketches from the sums of :func:`add_postings`.

    Parameters
    ----------
    sums
        float32 ``[units, DIMENSIONS]``.
    out
        int8 ``[units, DIMENSIONS]``, filled.
    """
    for row in range(sums.shape[0]):
        round_sketch(sums[row], out[row])


@inline_kernel
def round_sketch(total: F32, out: Sketches) -> None:
    """Scale a sum to the length of a sketch and round it. Zero stays zero.

    Parameters
    ----------
    total
        float32 ``[DIMENSIONS]``.
    out
        int8 ``[DIMENSIONS]``, filled.
    """
    norm = np.float32(0.0)
    for d in range(DIMENSIONS):
        norm += total[d] * total[d]
    factor = np.float32(LENGTH) / np.sqrt(norm) if norm > 0.0 else np.float32(0.0)
    for d in range(DIMENSIONS):
        out[d] = np.int8(min(127.0, max(-127.0, np.rint(total[d] * factor))))


@inline_kernel
def add_signed(total: F32, value: float, signs: Sketches) -> None:
    """Add ``value * signs`` to ``total``.

    Parameters
    ----------
    total
        float32 ``[DIMENSIONS]``, added to.
    value
        The weight of a term.
    signs
        int8 ``[DIMENSIONS]``, +1 or -1.
    """
    for d in range(DIMENSIONS):
        total[d] += value * np.float32(signs[d])


@inline_kernel
def dot(a: F32, b: Sketches) -> Any:
    """Inner product of a direction and a sketch. It is summed in eight parts, so that the loop is vectorised.

    Parameters
    ----------
    a
        float32 ``[DIMENSIONS]``.
    b
        int8 ``[DIMENSIONS]``.

    Returns
    -------
    float32
        The inner product.
    """
    lanes = np.zeros(8, np.float32)
    for d in range(0, DIMENSIONS, 8):
        for i in range(8):
            lanes[i] += a[d + i] * np.float32(b[d + i])
    return lanes[0] + lanes[1] + lanes[2] + lanes[3] + lanes[4] + lanes[5] + lanes[6] + lanes[7]


@inline_kernel
def split_direction(sketches: Sketches, low: int, high: int, direction: F32) -> Any:
    """Find the direction that splits a range of sketches in two, by 2-means on a sample of the range.

    Parameters
    ----------
    sketches
        int8 ``[units, DIMENSIONS]``.
    low, high
        The range of rows.
    direction
        float32 ``[DIMENSIONS]``, filled: from the second mean to the first.

    Returns
    -------
    float32
        Sketches whose inner product with ``direction`` is at least this are nearer to the first mean.
    """
    step = max(1, (high - low) // SPLIT_SAMPLE)
    # Start with two dissimilar units: twice from a unit to the one least like it.
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
    """Put sketches into the order of the leaves of a 2-means tree.

    Parameters
    ----------
    sketches
        int8 ``[units, DIMENSIONS]``, permuted in place.
    order
        uint32 ``[units]``, a permutation of the rows, permuted along with them.
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
            middle_row = partition(sketches, order, values, low, high, middle)
            if middle_row - low < least or high - middle_row < least:  # the units are (nearly) all alike
                middle_row = (low + high) >> 1
            # Continue with the smaller part, so that the stack has at most log2(units) entries.
            if middle_row - low <= high - middle_row:
                stack[depth, 0], stack[depth, 1] = middle_row, high
                high = middle_row
            else:
                stack[depth, 0], stack[depth, 1] = low, middle_row
                low = middle_row
            depth += 1


@inline_kernel
def partition(sketches: Sketches, order: U32, values: F32, low: int, high: int, middle: float) -> int:
    """Move the rows with ``values >= middle`` to the front of a range, as in quicksort.

    Parameters
    ----------
    sketches
        int8 ``[units, DIMENSIONS]``, permuted in place.
    order
        uint32 ``[units]``, permuted along with them.
    values
        float32 ``[units]``, permuted along with them.
    low, high
        The range of rows.
    middle
        The value to compare with.

    Returns
    -------
    int
        The position where the other rows begin.
    """
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
