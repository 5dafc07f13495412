"""Reading a query: whether it is one, where its terms' postings are, and its weights as integers."""

from __future__ import annotations

import math

import numpy as np

from ..numba_support.arrays import F32, F64, I32, I64, U8, U16, U64
from ..numba_support.cache import inline_kernel

# What a kernel found, if not results: that the postings are to be scanned, that candidates are to be sorted, or what is
# wrong with the query.
DONE, SCAN, SORT, UNSORTED, BAD_TERM, BAD_WEIGHT, UNTOUCHED = range(0, -7, -1)


@inline_kernel
def read_query(
    terms: I64,
    weights: F32,
    term_blocks: U64,
    term_rows: I32,
    verified: U8,
    kept: I64,
    used: F64,
    rows: I64,
) -> tuple[int, int]:
    """Validate a query: (code, terms that have postings and weight; or the position of a bad one).

    Fills ``kept`` (term ids), ``used`` (weights) and ``rows`` (of block-max data, or -1).
    """
    n = 0
    untouched = False
    for i in range(terms.size):
        t = terms[i]
        w = np.float64(weights[i])
        if t < 0 or t >= verified.size:
            return BAD_TERM, i
        if i > 0 and t <= terms[i - 1]:
            return UNSORTED, i
        if not (w >= 0.0 and w < np.inf):
            return BAD_WEIGHT, i
        if w == 0.0 or term_blocks[t] == term_blocks[t + 1]:
            continue
        untouched |= verified[t] == 0
        kept[n], used[n], rows[n] = t, w, term_rows[t]
        n += 1
    return (UNTOUCHED if untouched else DONE), n


@inline_kernel
def heaviest_first(n: int, term_impacts: U8, kept: I64, used: F64, rows: I64) -> None:
    """Order the terms by the most that they can add to a score, descending."""
    for i in range(1, n):
        term, weight, row = kept[i], used[i], rows[i]
        most = weight * term_impacts[term, 0]
        j = i
        while j > 0 and used[j - 1] * term_impacts[kept[j - 1], 0] < most:
            kept[j], used[j], rows[j] = kept[j - 1], used[j - 1], rows[j - 1]
            j -= 1
        kept[j], used[j], rows[j] = term, weight, row


@inline_kernel
def find_blocks(
    n: int,
    kept: I64,
    used: F64,
    term_blocks: U64,
    block_windows: U16,
    block_impacts: U8,
    block_postings: U64,
    starts: U64,
    tops: F64,
) -> None:
    """``starts[j, w]``: first posting of term j in window w or later, one column more than there are windows;
    ``tops[w]``: no unit in the window has a higher score.
    """
    windows = tops.size
    tops[:] = 0.0
    for j in range(n):
        block, last = term_blocks[kept[j]], term_blocks[kept[j] + 1]
        for w in range(windows):
            starts[j, w] = block_postings[block]
            if block < last and block_windows[block] == w:
                tops[w] += used[j] * block_impacts[block]
                block += np.uint64(1)
        starts[j, windows] = block_postings[last]


@inline_kernel
def make_whole(n: int, ceiling: float, used: F64, whole: I64) -> float:
    """The weights as integers times a power of two, which is returned; 0 where sums would not be exact."""
    least = 2000
    for j in range(n):
        least = min(least, math.frexp(used[j])[1])
    unit = math.ldexp(1.0, least - 24)  # float32 has 24 bits
    if not ceiling / unit < 9007199254740992.0:
        return 0.0
    for j in range(n):
        whole[j] = np.int64(used[j] / unit)
    return unit
