"""Scoring a term at a time (Lin & Trotman, ICTIR 2015).

The units are cut into strips of 4,096, whose accumulators stay in the first-level cache; all postings of a strip are
added, and the strip is searched for sums that reach the threshold. Where the sums of float64 are exact, the
accumulators are integers of 64 bits: float32 weights are whole multiples of one power of two, and float64 adds
multiples of a power of two without rounding as long as they stay below 2^53 of them. Then integers give the very same
sum, in less time.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import CHUNK, CHUNK_BITS, STRIP, STRIP_BITS, WINDOW, WINDOW_BITS
from .arrays import F64, I64, U8, U16, U32, U64, Bools, Sums
from .bounds import CHUNKS
from .chunks import chunk_start
from .numba_cache import inline_kernel, kernel
from .sorting import raise_bar
from .visit import SLACK_FOUND

STRIPS = WINDOW // STRIP  # of a window
# With fewer postings in a strip than this, their accumulators are cleared one by one.
SPARSE = STRIP // 32


@inline_kernel
def lower_bound(units: U16, unit: Any) -> Any:
    """How many of an ascending slice are smaller than ``unit``."""
    low = np.uint64(0)
    length = np.uint64(units.size)
    while length > np.uint64(0):
        half = (length + np.uint64(1)) >> np.uint64(1)
        low += half if units[low + half - np.uint64(1)] < unit else np.uint64(0)
        length -= half
    return low


@inline_kernel
def add_block(accumulator: Sums, weight: Any, units: U16, impacts: U8, least: Any, crossed: U16, crossings: int) -> int:
    """accumulator[unit] += weight * impact for a strip's postings; the units whose sum comes to reach ``least`` are
    appended to ``crossed``. Returns how many it has.
    """
    for i in range(units.size):
        before = accumulator[units[i]]
        after = before + weight * impacts[i]
        accumulator[units[i]] = after
        if after >= least and before < least:
            crossed[crossings] = units[i]
            crossings += 1
    return crossings


@inline_kernel
def split_block(
    j: int, window: int, rows: I64, starts: U64, span_postings: U16, chunk_postings: U8, units: U16, splits: U64
) -> None:
    """``splits[s]``: the first posting of term j in strip s of a window or later; one more than there are strips."""
    first, last = starts[j, window], starts[j, window + 1]
    splits[0], splits[STRIPS] = first, last
    row = rows[j]
    if row >= 0:
        chunk = window * CHUNKS
        for s in range(1, STRIPS):
            chunk += STRIP // CHUNK
            splits[s] = last
            if chunk < chunk_postings.shape[1]:
                splits[s] = first + chunk_start(row, chunk, span_postings, chunk_postings)
    else:
        for s in range(1, STRIPS):
            splits[s] = first + lower_bound(units[first:last], np.uint32(s << STRIP_BITS))


@kernel
def scan(
    n: int,
    k: int,
    bar: float,
    unit: float,
    whole: bool,
    allowed: Bools,
    allowed_chunks: U8,
    weights: Sums,
    rows: I64,
    starts: U64,
    tops: F64,
    span_postings: U16,
    chunk_postings: U8,
    units: U16,
    impacts: U8,
    n_units: int,
    original: U32,
    accumulators: Sums,
    crossed: U16,
    found_scores: F64,
    found_units: U32,
) -> int:
    """Answer a query by adding up all postings; returns how many candidates there are."""
    # A unit indexes accumulators[WINDOW - base:], so that all strips use the same 4,096 of them.
    strip_sums = accumulators[WINDOW : WINDOW + STRIP]
    least = np.empty(1, accumulators.dtype)  # of a candidate's accumulator
    splits = np.empty((n, STRIPS + 1), np.uint64)
    limit = 2 * k + SLACK_FOUND
    found = 0
    ordered = original.size == 0
    full = False  # whether bar is the score of a k-th candidate: then a later unit must beat it, for ties go to earlier
    for w in range(tops.size):
        if tops[w] < bar:
            continue
        length = min(WINDOW, n_units - (w << WINDOW_BITS))
        for j in range(n):
            split_block(j, w, rows, starts, span_postings, chunk_postings, units, splits[j])
        for s in range((length + STRIP - 1) >> STRIP_BITS):
            base = (w << WINDOW_BITS) + (s << STRIP_BITS)
            size = min(STRIP, n_units - base)
            if allowed.size > 0:
                first_chunk = base >> CHUNK_BITS
                if not allowed_chunks[first_chunk : first_chunk + STRIP // CHUNK].any():
                    continue
            if whole:  # at least 1: bar / unit may be rounded to 0
                least[0] = max(1.0, math.floor(bar / unit) + 1 if full and ordered else math.ceil(bar / unit))
            else:
                least[0] = np.nextafter(bar, np.inf) if full and ordered else bar
            within = accumulators[WINDOW - (s << STRIP_BITS) : 2 * WINDOW - (s << STRIP_BITS)]
            crossings = 0
            postings = np.uint64(0)
            for j in range(n):
                lo, hi = splits[j, s], splits[j, s + 1]
                crossings = add_block(within, weights[j], units[lo:hi], impacts[lo:hi], least[0], crossed, crossings)
                postings += hi - lo
            for i in range(crossings):
                at = np.int64(crossed[i] & np.uint16(STRIP - 1))
                if at < size and (allowed.size == 0 or allowed[base + at]):
                    found_scores[found] = strip_sums[at] * unit
                    found_units[found] = base + at if ordered else original[base + at]
                    found += 1
            if postings < np.uint64(SPARSE):
                for j in range(n):
                    for p in range(splits[j, s], splits[j, s + 1]):
                        strip_sums[units[p] & np.uint16(STRIP - 1)] = 0
            else:
                strip_sums[:size] = 0
            if found >= limit:
                found, bar = raise_bar(found, k, bar, found_scores, found_units)
                full = True
    return found
