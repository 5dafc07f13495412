"""Scoring chunks of units: where each term's postings of a chunk are, and their sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import CHUNK, CHUNK_BITS, SPAN_BITS
from .arrays import F64, I64, U16, U32, U64, Bools
from .bounds import CHUNKS, SLACK, UNBOUNDED, needed, rounded
from .lanes import prefetch
from .memory import Postings, Workspace
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
def chunk_start(s: Postings, row: int, chunk: int) -> Any:
    """How many postings of a row's term come before a chunk in its window."""
    return np.uint64(s.span_postings[row, chunk >> SPAN_BITS]) + np.uint64(s.chunk_postings[row, chunk])


@inline_kernel
def fetch_offsets(chunks: U32, n: int, s: Postings, rows: I64) -> None:
    """Ask for what says where the postings of these chunks are."""
    for i in range(chunks.size):
        chunk = np.uint64(chunks[i])
        for j in range(n):
            if rows[j] >= 0:
                row = np.uint64(rows[j])
                prefetch(s.span_postings[row], chunk >> np.uint64(SPAN_BITS))
                prefetch(s.chunk_postings[row], chunk)


@inline_kernel
def find_postings(
    chunk: Any, n: int, s: Postings, rows: I64, starts: U64, places: U16, firsts: U64, counts: I64
) -> None:
    """Where each term's postings of a chunk are, ``firsts[j]`` and ``counts[j]``; they are asked for."""
    window = chunk // CHUNKS
    within = np.uint16(chunk % CHUNKS)
    last = within + 1 == CHUNKS or chunk + 1 == s.chunk_postings.shape[1]
    for j in range(n):
        row = rows[j]
        lo, hi = starts[j, window], starts[j, window + 1]
        if row >= 0:
            if not last:
                hi = lo + chunk_start(s, row, chunk + 1)
            lo += chunk_start(s, row, chunk)
        else:
            # A place may be left from a block before, so it is believed only if it leads to a posting of this chunk
            # (Briggs & Torczon, LOPLAS 1993): then no table has to be cleared.
            first = lo + np.uint64(places[-1 - row, chunk])
            end = first
            while end < hi and s.units[end] >> np.uint16(CHUNK_BITS) == within:
                end += np.uint64(1)
            while end > first > lo and s.units[first - np.uint64(1)] >> np.uint16(CHUNK_BITS) == within:
                first -= np.uint64(1)
            lo, hi = first, end
        firsts[j] = lo
        counts[j] = np.int64(hi - lo)
        prefetch(s.units, lo)
        prefetch(s.impacts, lo)


@inline_kernel
def locate(
    chunks: U32, at: int, together: int, need: Any, n: int, s: Postings, ws: Workspace, half: int
) -> tuple[int, int]:
    """Find the postings of the next chunks whose bound reaches ``need``, which are written to a half of ``located``:
    (the first chunk that was not looked at, how many).
    """
    size = 0
    while at < chunks.size and size < together:
        chunk = np.int64(chunks[at])
        at += 1
        if ws.bounds[chunk] >= need:
            ws.located[half * BATCH + size] = chunk
            slot = half * (ws.firsts.size >> 1) + size * n
            find_postings(chunk, n, s, ws.rows, ws.starts, ws.places, ws.firsts[slot:], ws.counts[slot:])
            size += 1
    return at, size


@inline_kernel
def leave_hopeful(chunks: U32, first: int, step: float, bar: float, s: Postings, ws: Workspace) -> Any:
    """Move those chunks to the front that may hold a unit that reaches the bar, by the sums of the ``first`` terms and
    what is left of the bound for the others; returns how many.
    """
    bounds, sums = ws.bounds, ws.sums
    room = ws.firsts.size >> 1
    together = min(BATCH, room // first)
    need = needed(bar, step, 1.0)
    half, kept = NONE, NONE
    fetch_offsets(chunks[: 2 * together], first, s, ws.rows)
    at, size = locate(chunks, NONE, together, need, first, s, ws, half)
    while size > 0:
        other = half ^ 1
        fetch_offsets(chunks[at + together : at + 2 * together], first, s, ws.rows)
        at, following = locate(chunks, at, together, need, first, s, ws, other)
        for b in range(size):
            chunk = ws.located[half * BATCH + b]
            sums[:] = 0.0
            slot = half * room + b * first
            others = np.int64(bounds[chunk])
            for j in range(first):
                weight = ws.used[j]
                begin = ws.firsts[slot + j]
                top = np.uint8(0)
                for p in range(begin, begin + np.uint64(ws.counts[slot + j])):
                    sums[s.units[p] & np.uint16(CHUNK - 1)] += weight * s.impacts[p]
                    top = max(top, s.impacts[p])
                others -= np.int64(rounded(weight, step)) * np.int64(top)
            if bounds[chunk] == UNBOUNDED or any_reaches(sums, bar * (1.0 - SLACK) - step * others):
                chunks[kept] = chunk
                kept += 1
            else:
                bounds[chunk] = 0
        half, size = other, following
    return kept


@inline_kernel
def score_chunks(
    chunks: U32, k: int, limit: int, step: float, keep: float, bar: float, n: int, s: Postings, ws: Workspace,
    allowed: Bools, first: int, found: int,
) -> tuple[int, float]:  # fmt: skip
    """Score the chunks whose bound reaches the bar, and raise it as they are found: (candidates, bar). ``first``: so
    many terms are looked at before the others, which then few chunks need; 0: none. It changes ``chunks``.

    Some chunks at a time: while the postings of some are added up, those of the next are located and on their way from
    memory, and so is what locates the ones after these. Cache misses are most of the time.
    """
    bounds, sums = ws.bounds, ws.sums
    if first > 0:
        chunks = chunks[: leave_hopeful(chunks, first, step, bar, s, ws)]
    room = ws.firsts.size >> 1
    together = min(BATCH, room // n)
    need = needed(bar, step, keep)
    half = NONE
    fetch_offsets(chunks[: 2 * together], n, s, ws.rows)
    at, size = locate(chunks, NONE, together, need, n, s, ws, half)
    while size > 0:
        other = half ^ 1
        fetch_offsets(chunks[at + together : at + 2 * together], n, s, ws.rows)
        at, following = locate(chunks, at, together, need, n, s, ws, other)
        for b in range(size):
            chunk = ws.located[half * BATCH + b]
            if bounds[chunk] < need:
                continue
            sums[:] = 0.0
            slot = half * room + b * n
            for j in range(n):
                weight = ws.used[j]
                begin = ws.firsts[slot + j]
                for p in range(begin, begin + np.uint64(ws.counts[slot + j])):
                    sums[s.units[p] & np.uint16(CHUNK - 1)] += weight * s.impacts[p]
            if any_reaches(sums, bar):  # few chunks have one
                for i in range(CHUNK):
                    if sums[i] >= bar:
                        unit = (chunk << CHUNK_BITS) + i
                        if unit < s.unit_count and (allowed.size == 0 or allowed[unit]):
                            ws.scores[found] = sums[i]
                            ws.units[found] = unit if s.original.size == 0 else s.original[unit]
                            found += 1
            bounds[chunk] = 0
            if found >= limit:
                found, bar = raise_bar(found, k, bar, ws.scores, ws.units)
        need = needed(bar, step, keep)
        half, size = other, following
    return found, bar
