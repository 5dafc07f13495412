"""Scoring chunks of units: where each term's postings of a chunk are, and their sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import CHUNK, CHUNK_BITS, SPAN_BITS
from .arrays import F64, I64, U8, U16, U32, U64, Bools
from .bounds import CHUNKS, needed
from .numba_cache import inline_kernel
from .sorting import raise_bar

BATCH = 16  # chunks scored together, at most


@inline_kernel
def any_reaches(sums: F64, bar: float) -> Any:
    """Whether a sum is at least ``bar``; without branches, so that it vectorises."""
    seen = np.uint8(0)
    for i in range(sums.size):
        seen |= np.uint8(sums[i] >= bar)
    return seen != 0


@inline_kernel
def chunk_start(row: int, chunk: int, span_postings: U16, chunk_postings: U8) -> Any:
    """How many postings of a row's term come before a chunk in its window."""
    return np.uint64(span_postings[row, chunk >> SPAN_BITS]) + np.uint64(chunk_postings[row, chunk])


@inline_kernel
def find_postings(
    chunk: Any,
    n: int,
    rows: I64,
    starts: U64,
    places: U16,
    span_postings: U16,
    chunk_postings: U8,
    units: U16,
    firsts: U64,
    counts: I64,
) -> None:
    """Where each term's postings of a chunk are: ``firsts[j]``, ``counts[j]``."""
    window = chunk // CHUNKS
    within = chunk % CHUNKS
    last = within + 1 == CHUNKS or chunk + 1 == chunk_postings.shape[1]
    for j in range(n):
        row = rows[j]
        lo, hi = starts[j, window], starts[j, window + 1]
        if row >= 0:
            if not last:
                hi = lo + chunk_start(row, chunk + 1, span_postings, chunk_postings)
            lo += chunk_start(row, chunk, span_postings, chunk_postings)
        else:
            place = places[-1 - row, chunk]
            if place > 0:
                lo += np.uint64(place - 1)
                end = lo + np.uint64(1)
                while end < hi and units[end] >> np.uint16(CHUNK_BITS) == within:
                    end += np.uint64(1)
                hi = end
            else:
                hi = lo
        firsts[j] = lo
        counts[j] = np.int64(hi - lo)


@inline_kernel
def score_chunks(
    chunks: U32,
    k: int,
    limit: int,
    step: float,
    keep: float,
    bar: float,
    bounds: U16,
    n: int,
    rows: I64,
    used: F64,
    starts: U64,
    places: U16,
    span_postings: U16,
    chunk_postings: U8,
    units: U16,
    impacts: U8,
    n_units: int,
    allowed: Bools,
    original: U32,
    sums: F64,
    firsts: U64,
    counts: I64,
    found: int,
    found_scores: F64,
    found_units: U32,
) -> tuple[int, int, float]:
    """Score the chunks whose bound reaches the bar, and raise it as they are found: (chunks scored, candidates, bar).

    Some chunks are taken together: first all their postings are located, then the first of each is read, and only then
    are they added up. So the cache misses, which are most of the time, are waited for together.
    """
    together = max(1, min(BATCH, firsts.size // n))
    need = needed(bar, step, keep)
    at = 0
    visited = 0
    while at < chunks.size:
        size = 0
        while at < chunks.size and size < together:
            chunk = np.int64(chunks[at])
            at += 1
            if bounds[chunk] >= need:
                sums[size] = chunk
                slot = size * n
                find_postings(
                    chunk, n, rows, starts, places, span_postings, chunk_postings, units, firsts[slot:], counts[slot:]
                )
                size += 1
        read = np.int64(0)
        for i in range(size * n):
            if counts[i] > 0:
                read += np.int64(units[firsts[i]]) + np.int64(impacts[firsts[i]])
        counts[counts.size - 1] = read  # so that the compiler keeps the loop
        for b in range(size):
            chunk = np.int64(sums[b])
            chunk_sums = sums[BATCH:]
            chunk_sums[:] = 0.0
            for j in range(n):
                weight = used[j]
                first = firsts[b * n + j]
                for p in range(first, first + np.uint64(counts[b * n + j])):
                    chunk_sums[units[p] & np.uint16(CHUNK - 1)] += weight * impacts[p]
            if any_reaches(chunk_sums[:CHUNK], bar):  # few chunks have one
                for i in range(CHUNK):
                    if chunk_sums[i] >= bar:
                        unit = (chunk << CHUNK_BITS) + i
                        if unit < n_units and (allowed.size == 0 or allowed[unit]):
                            found_scores[found] = chunk_sums[i]
                            found_units[found] = unit if original.size == 0 else original[unit]
                            found += 1
            bounds[chunk] = 0
            if found >= limit:
                found, bar = raise_bar(found, k, bar, found_scores, found_units)
        visited += size
        need = needed(bar, step, keep)
    return visited, found, bar
