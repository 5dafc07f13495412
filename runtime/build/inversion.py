"""Kernels that turn vectors into postings: validate, invert a run, merge runs, cut blocks. See layout.py for the
terms.
"""

# Loop variables are unsigned where they index: Numba then leaves out the wrap-around test.

from __future__ import annotations

import numpy as np

from ..scorer import BLOCK_SIZE, BLOCK_BITS, SUPERBLOCK_BLOCKS, SUPERBLOCK_BITS, RANGE_SIZE
from ..numba_support.arrays import F32, I32, I64, U8, U16, U32, U64
from ..numba_support.cache import kernel

CHUNKS_A_WINDOW = RANGE_SIZE // BLOCK_SIZE
# What validate_batch found: the code, and the row where.
OK, BAD_POINTERS, BAD_TERM, UNSORTED, BAD_WEIGHT = range(5)


@kernel
def validate_batch(indptr: I64, indices: I32, values: F32, vocab_size: int) -> tuple[int, int]:
    """(code, row) of the first row whose terms are out of range or not strictly ascending, or whose weights are not
    positive and finite; (OK, 0) if there is none."""
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
    """Counting sort of CSR rows by term, stable in the row: fills ``term_ptr[V+1]`` and ``postings[nnz]``, a unit in
    the high half and the bits of its weight in the low one: writing to one place, not two, halves the cache misses.
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
    for t in range(vocab, 0, -1):  # every pointer has moved to its successor's start: move back
        term_ptr[t] = term_ptr[t - 1]
    term_ptr[0] = 0


@kernel
def quantize(weights: F32, scale: float, impacts: U8) -> tuple[int, int]:
    """impact = floor(weight / scale + 1/2) in float64, at most 255, of every other of ``weights`` (the low halves of
    postings). Returns (rounded to 0, clipped).
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
    """Add to ``counts[j]`` the non-zero impacts of term ``first + j`` in a run's slice that starts at term
    ``first``.
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
    """Append a run's non-zero postings to each term's list at ``position[j]``, which moves on."""
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
def cut_blocks(
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
    """Cut each posting list where the window changes.

    Fills ``local[p]`` (unit within its window) and, a block each, ``windows``, ``starts`` (first posting) and
    ``maxima``;
    ``blocks_of[j]`` is the number of blocks of list j. Returns the number of blocks.
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
def chunk_row(units: U32, impacts: U8, maxima: U8, bases: U16, offsets: U8) -> None:
    """Block-max data of one posting list: ``maxima[c]`` is the largest impact in chunk c; of the postings in its
    window, ``bases[s]`` come before its span s, and ``offsets[c]`` in the span before the chunk.
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
    """``out[j, l]``: the ``levels[l]``-th largest impact of list j, 0 where the list is shorter."""
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
