"""Scoring chunks of units: where each term's postings of a chunk are, and their sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import CHUNK, CHUNK_BITS, SPAN_BITS
from .arrays import F64, I64, U8, U16, U32, U64, Bools
from .bounds import CHUNKS, needed
from .lanes import prefetch
from .numba_cache import inline_kernel
from .sorting import NONE, raise_bar

BATCH = 16  # chunks whose postings are asked for together, at most


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
def fetch_offsets(chunks: U32, n: int, rows: I64, span_postings: U16, chunk_postings: U8) -> None:
    """Ask for what says where the postings of these chunks are."""
    for i in range(chunks.size):
        chunk = np.uint64(chunks[i])
        for j in range(n):
            if rows[j] >= 0:
                row = np.uint64(rows[j])
                prefetch(span_postings[row], chunk >> np.uint64(SPAN_BITS))
                prefetch(chunk_postings[row], chunk)


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
    impacts: U8,
    firsts: U64,
    counts: I64,
) -> None:
    """Where each term's postings of a chunk are, ``firsts[j]`` and ``counts[j]``; they are asked for."""
    window = chunk // CHUNKS
    within = np.uint16(chunk % CHUNKS)
    last = within + 1 == CHUNKS or chunk + 1 == chunk_postings.shape[1]
    for j in range(n):
        row = rows[j]
        lo, hi = starts[j, window], starts[j, window + 1]
        if row >= 0:
            if not last:
                hi = lo + chunk_start(row, chunk + 1, span_postings, chunk_postings)
            lo += chunk_start(row, chunk, span_postings, chunk_postings)
        else:
            # A place may be left from a block before, so it is believed only if it leads to a posting of this chunk
            # (Briggs & Torczon, LOPLAS 1993): then no table has to be cleared.
            first = lo + np.uint64(places[-1 - row, chunk])
            end = first
            while end < hi and units[end] >> np.uint16(CHUNK_BITS) == within:
                end += np.uint64(1)
            while end > first > lo and units[first - np.uint64(1)] >> np.uint16(CHUNK_BITS) == within:
                first -= np.uint64(1)
            lo, hi = first, end
        firsts[j] = lo
        counts[j] = np.int64(hi - lo)
        prefetch(units, lo)
        prefetch(impacts, lo)


@inline_kernel
def locate(
    chunks: U32,
    at: int,
    together: int,
    need: Any,
    bounds: U16,
    n: int,
    rows: I64,
    starts: U64,
    places: U16,
    span_postings: U16,
    chunk_postings: U8,
    units: U16,
    impacts: U8,
    located: I64,
    firsts: U64,
    counts: I64,
) -> tuple[int, int]:
    """Find the postings of the next chunks whose bound reaches ``need``, which are written to ``located``: (the first
    chunk that was not looked at, how many).
    """
    size = 0
    while at < chunks.size and size < together:
        chunk = np.int64(chunks[at])
        at += 1
        if bounds[chunk] >= need:
            located[size] = chunk
            slot = size * n
            find_postings(
                chunk, n, rows, starts, places, span_postings, chunk_postings, units, impacts, firsts[slot:],
                counts[slot:],
            )  # fmt: skip
            size += 1
    return at, size


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
    located: I64,
    sums: F64,
    firsts: U64,
    counts: I64,
    found: int,
    found_scores: F64,
    found_units: U32,
) -> tuple[int, float]:
    """Score the chunks whose bound reaches the bar, and raise it as they are found: (candidates, bar). ``located``,
    ``firsts`` and ``counts`` have two halves, ``sums`` a place for each unit of a chunk.

    Some chunks at a time: while the postings of some are added up, those of the next are located and on their way from
    memory, and so is what locates the ones after these. Cache misses are most of the time.
    """
    room = firsts.size >> 1
    together = min(BATCH, room // n)
    need = needed(bar, step, keep)
    fetch_offsets(chunks[: 2 * together], n, rows, span_postings, chunk_postings)
    at, size = locate(
        chunks, NONE, together, need, bounds, n, rows, starts, places, span_postings, chunk_postings, units, impacts,
        located, firsts, counts,
    )  # fmt: skip
    half = NONE
    while size > 0:
        other = half ^ 1
        fetch_offsets(chunks[at + together : at + 2 * together], n, rows, span_postings, chunk_postings)
        at, following = locate(
            chunks, at, together, need, bounds, n, rows, starts, places, span_postings, chunk_postings, units, impacts,
            located[other * BATCH :], firsts[other * room :], counts[other * room :],
        )  # fmt: skip
        for b in range(size):
            chunk = located[half * BATCH + b]
            if bounds[chunk] < need:
                continue
            sums[:] = 0.0
            slot = half * room + b * n
            for j in range(n):
                weight = used[j]
                first = firsts[slot + j]
                for p in range(first, first + np.uint64(counts[slot + j])):
                    sums[units[p] & np.uint16(CHUNK - 1)] += weight * impacts[p]
            if any_reaches(sums, bar):  # few chunks have one
                for i in range(CHUNK):
                    if sums[i] >= bar:
                        unit = (chunk << CHUNK_BITS) + i
                        if unit < n_units and (allowed.size == 0 or allowed[unit]):
                            found_scores[found] = sums[i]
                            found_units[found] = unit if original.size == 0 else original[unit]
                            found += 1
            bounds[chunk] = 0
            if found >= limit:
                found, bar = raise_bar(found, k, bar, found_scores, found_units)
        need = needed(bar, step, keep)
        half, size = other, following
    return found, bar
