"""Kernels that turn vectors into posting lists: validate, invert a run, merge runs, compute block-max data.

layout.py defines the arrays of a segment. A *run* is a buffer of vectors in term order.
"""

# Loop variables that index are unsigned: Numba then omits the test for negative indices.

from __future__ import annotations

import numpy as np

from ..scorer import BLOCK_SIZE, BLOCK_BITS, SUPERBLOCK_BLOCKS, SUPERBLOCK_BITS, RANGE_SIZE
from ..numba_support.arrays import F32, I32, I64, U8, U16, U32, U64
from ..numba_support.cache import kernel

CHUNKS_A_WINDOW = RANGE_SIZE // BLOCK_SIZE
# The codes of validate_batch.
OK, BAD_POINTERS, BAD_TERM, UNSORTED, BAD_WEIGHT = range(5)


@kernel
def validate_batch(indptr: I64, indices: I32, values: F32, vocab_size: int) -> tuple[int, int]:
    """Find the first row of a CSR matrix that is not valid.

    A row is valid if its terms are in the vocabulary and strictly ascending, and its weights positive and finite.

    Parameters
    ----------
    indptr
        int64 ``[rows + 1]``.
    indices
        int32 ``[nnz]``, term ids.
    values
        float32 ``[nnz]``, weights.
    vocab_size
        The number of terms.

    Returns
    -------
    (int, int)
        A code (``BAD_POINTERS``, ``BAD_TERM``, ``UNSORTED`` or ``BAD_WEIGHT``) and the row; ``(OK, 0)`` if all are
        valid.
    """
    n = indptr.size - 1
    if n < 0 or indptr[0] != 0 or indptr[n] != indices.size or indices.size != values.size:
        return BAD_POINTERS, 0
    for row in range(n):
        if indptr[row + 1] < indptr[row] or indptr[row + 1] > indices.size:
            return BAD_POINTERS, row
        last = -1
        for i in range(indptr[row], indptr[row + 1]):
            term = indices[i]
            if term < 0 or term >= vocab_size:
                return BAD_TERM, row
            if term <= last:
                return UNSORTED, row
            last = term
            if not (values[i] > 0.0 and values[i] < np.inf):
                return BAD_WEIGHT, row
    return OK, 0


@kernel
def invert_run(indptr: I64, indices: I32, bits: U32, first_unit: int, term_ptr: I64, postings: U64) -> None:
    """Invert CSR rows into a run: counting sort by term, stable in the row.

    A posting is one number, because writing to one array and not to two halves the cache misses.

    Parameters
    ----------
    indptr
        int64 ``[rows + 1]``.
    indices
        int32 ``[nnz]``, term ids.
    bits
        uint32 ``[nnz]``, the bits of the float32 weights.
    first_unit
        The unit of row 0.
    term_ptr
        int64 ``[vocab + 1]``, filled: the range of each term in ``postings``.
    postings
        uint64 ``[nnz]``, filled: the unit in the high half, the bits of the weight in the low half.
    """
    vocab = term_ptr.size - 1
    term_ptr[:] = 0
    for i in range(indices.size):
        term_ptr[np.uint32(indices[i]) + np.uint64(1)] += 1
    for t in range(vocab):
        term_ptr[t + 1] += term_ptr[t]
    for row in range(indptr.size - 1):
        unit = np.uint64(first_unit + row) << np.uint64(32)
        for i in range(np.uint64(indptr[row]), np.uint64(indptr[row + 1])):
            term = np.uint32(indices[i])
            at = term_ptr[term]
            postings[np.uint64(at)] = unit | np.uint64(bits[i])
            term_ptr[term] = at + 1
    for t in range(vocab, 0, -1):  # each pointer has moved to the start of the next term: move it back
        term_ptr[t] = term_ptr[t - 1]
    term_ptr[0] = 0


@kernel
def quantize(weights: F32, scale: float, impacts: U8) -> tuple[int, int]:
    """Quantize weights to impacts: ``floor(weight / scale + 1/2)`` in float64, at most 255.

    Parameters
    ----------
    weights
        float32 ``[2 * postings]``, the postings of a run seen as float32: every other number is a weight.
    scale
        Weight of one impact step.
    impacts
        uint8 ``[postings]``, filled.

    Returns
    -------
    (int, int)
        How many were rounded to 0, and how many were above 255.
    """
    dropped = 0
    clipped = 0
    for i in range(np.uint64(impacts.size)):
        step = np.floor(np.float64(weights[np.uint64(2) * i]) / scale + 0.5)
        if step > 255.0:
            step = 255.0
            clipped += 1
        if step < 1.0:
            dropped += 1
        impacts[i] = np.uint8(step)
    return dropped, clipped


@kernel
def count_kept(term_ptr: I64, impacts: U8, first: int, counts: I64) -> None:
    """Count the impacts of each term that are not 0, in a range of terms of a run.

    Parameters
    ----------
    term_ptr
        int64 ``[vocab + 1]``, the range of each term in the run.
    impacts
        uint8 ``[postings of the range]``.
    first
        The first term of the range.
    counts
        int64 ``[terms of the range]``, added to.
    """
    base = term_ptr[first]
    for j in range(counts.size):
        for i in range(term_ptr[first + j] - base, term_ptr[first + j + 1] - base):
            if impacts[i] != 0:
                counts[j] += 1


@kernel
def place_run(
    term_ptr: I64, postings: U64, run_impacts: U8, first: int, position: I64, units: U32, impacts: U8
) -> None:
    """Append the postings of a run whose impact is not 0 to the posting lists of a range of terms.

    Parameters
    ----------
    term_ptr
        int64 ``[vocab + 1]``, the range of each term in the run.
    postings
        uint64 ``[postings of the range]``, a unit in the high half of each.
    run_impacts
        uint8 ``[postings of the range]``.
    first
        The first term of the range.
    position
        int64 ``[terms of the range]``: where the next posting of each list goes. Moved on.
    units
        uint32 ``[postings of all runs]``, filled.
    impacts
        uint8 ``[postings of all runs]``, filled.
    """
    base = term_ptr[first]
    for j in range(position.size):
        at = np.uint64(position[j])
        for i in range(np.uint64(term_ptr[first + j] - base), np.uint64(term_ptr[first + j + 1] - base)):
            if run_impacts[i] != 0:
                units[at] = postings[i] >> np.uint64(32)
                impacts[at] = run_impacts[i]
                at += np.uint64(1)
        position[j] = np.int64(at)


@kernel
def split_posting_lists(
    list_ptr: I64,
    units: U32,
    impacts: U8,
    window_bits: int,
    local: U16,
    windows: U16,
    starts: U64,
    maxima: U8,
    blocks_of: I64,
) -> int:
    """Split each posting list into posting list segments, one for each docid range (window) with a posting in it.

    Parameters
    ----------
    list_ptr
        int64 ``[lists + 1]``, the range of each list.
    units
        uint32 ``[postings]``, ascending in each list.
    impacts
        uint8 ``[postings]``.
    window_bits
        A docid range has ``2 ** window_bits`` units.
    local
        uint16 ``[postings]``, filled: the unit within its docid range.
    windows
        uint16 ``[segments]``, filled: the docid range of each posting list segment.
    starts
        uint64 ``[segments]``, filled: the first posting of each.
    maxima
        uint8 ``[segments]``, filled: the largest impact of each.
    blocks_of
        int64 ``[lists]``, filled: the number of posting list segments of each list.

    Returns
    -------
    int
        The number of posting list segments of all lists. The arrays may be longer.
    """
    mask = np.uint32((1 << window_bits) - 1)
    bits = np.uint32(window_bits)
    block = -1
    for j in range(list_ptr.size - 1):
        before = block
        window = np.int64(-1)
        for i in range(list_ptr[j], list_ptr[j + 1]):
            w = np.int64(units[i] >> bits)
            if w != window:
                window = w
                block += 1
                windows[block] = w
                starts[block] = i
                maxima[block] = 0
            local[i] = units[i] & mask
            maxima[block] = max(maxima[block], impacts[i])
        blocks_of[j] = block - before
    return block + 1


@kernel
def block_max_row(units: U32, impacts: U8, maxima: U8, bases: U16, offsets: U8) -> None:
    """Compute the block-max data of one posting list (Ding & Suel 2011). On disk a block is a chunk, a superblock a span.

    Parameters
    ----------
    units
        uint32 ``[postings]``, ascending.
    impacts
        uint8 ``[postings]``.
    maxima
        uint8 ``[blocks]``, filled: the largest impact in each block.
    bases
        uint16 ``[superblocks]``, filled: postings of the same docid range before each superblock.
    offsets
        uint8 ``[blocks]``, filled: postings of the same superblock before each block.
    """
    p = np.uint64(0)
    window = p
    span = p
    for c in range(maxima.size):
        if c % CHUNKS_A_WINDOW == 0:
            window = p
        if c % SUPERBLOCK_BLOCKS == 0:
            span = p
            bases[c >> SUPERBLOCK_BITS] = np.uint16(p - window)
        offsets[c] = np.uint8(p - span)
        largest = np.uint8(0)
        while p < np.uint64(units.size) and np.int64(units[p] >> np.uint32(BLOCK_BITS)) == c:
            largest = max(largest, impacts[p])
            p += np.uint64(1)
        maxima[c] = largest


@kernel
def kth_impacts(list_ptr: I64, impacts: U8, levels: I64, out: U8) -> None:
    """Find the k-th largest impacts of each posting list, for threshold estimation (Petri et al. 2019).

    Parameters
    ----------
    list_ptr
        int64 ``[lists + 1]``, the range of each list.
    impacts
        uint8 ``[postings]``.
    levels
        int64 ``[levels]``, the values of k.
    out
        uint8 ``[lists, levels]``, filled; 0 where a list has fewer than k postings.
    """
    histogram = np.zeros(256, np.int64)
    for j in range(list_ptr.size - 1):
        histogram[:] = 0
        for i in range(list_ptr[j], list_ptr[j + 1]):
            histogram[impacts[i]] += 1
        for level in range(levels.size):
            seen = 0
            value = 0
            for v in range(255, 0, -1):
                seen += histogram[v]
                if seen >= levels[level]:
                    value = v
                    break
            out[j, level] = value
