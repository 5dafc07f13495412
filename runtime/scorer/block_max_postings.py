"""Scoring chunks of units: where each term's postings of a chunk are, and their sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..numba_support.arrays import I64, U8, U16, U32, U64, Bools
from ..numba_support.cache import inline_kernel
from ..numba_support.simd import at_least, clear, lowest_bit, prefetch
from . import BLOCK_BITS, BLOCK_SIZE, SUPERBLOCK_BITS
from .block_max_bounds import RANGE_BLOCKS, UNBOUNDED, needed
from .topk import NONE, raise_bar
from .workspace import Postings, Workspace

# So many places of terms in chunks are asked for together: with more, what comes from memory drives out of the
# first-level cache what has not been used yet.
LOOKUPS = 8
ALL = np.uint64(0xFFFFFFFFFFFFFFFF)  # units of a chunk


@inline_kernel
def place_of(chunk: Any, start: Any, spans: U16, offsets: U8) -> Any:
    """The first posting in a chunk (uint64) or later, of a term whose postings in the window begin at ``start``."""
    return start + np.uint64(spans[chunk >> np.uint64(SUPERBLOCK_BITS)]) + np.uint64(offsets[chunk])


@inline_kernel
def fetch_offsets(chunks: U32, n: int, s: Postings, rows: I64) -> None:
    """Ask for what says where the postings of these chunks are."""
    for i in range(chunks.size):
        chunk = np.uint64(chunks[i])
        for j in range(n):
            if rows[j] >= 0:
                row = np.uint64(rows[j])
                prefetch(s.span_postings[row], chunk >> np.uint64(SUPERBLOCK_BITS))
                prefetch(s.chunk_postings[row], chunk)


@inline_kernel
def find_postings(
    chunk: Any, n: int, s: Postings, rows: I64, starts: U64, places: U16, firsts: U64, counts: I64
) -> None:
    """Where each term's postings of a chunk are, ``firsts[j]`` and ``counts[j]``; they are asked for."""
    window = chunk // RANGE_BLOCKS
    within = np.uint16(chunk % RANGE_BLOCKS)
    last = within + 1 == RANGE_BLOCKS or chunk + 1 == s.chunk_postings.shape[1]
    for j in range(n):
        row = rows[j]
        lo, hi = starts[j, window], starts[j, window + 1]
        if row >= 0:
            spans, offsets = s.span_postings[row], s.chunk_postings[row]
            if not last:
                hi = place_of(np.uint64(chunk + 1), lo, spans, offsets)
            lo = place_of(np.uint64(chunk), lo, spans, offsets)
        else:
            # A place may be left from a block before, so it is believed only if it leads to a posting of this chunk
            # (Briggs & Torczon, LOPLAS 1993): then no table has to be cleared.
            first = lo + np.uint64(places[-1 - row, chunk])
            end = first
            while end < hi and s.units[end] >> np.uint16(BLOCK_BITS) == within:
                end += np.uint64(1)
            while end > first > lo and s.units[first - np.uint64(1)] >> np.uint16(BLOCK_BITS) == within:
                first -= np.uint64(1)
            lo, hi = first, end
        firsts[j] = lo
        counts[j] = np.int64(hi - lo)
        prefetch(s.units, lo)
        prefetch(s.impacts, lo)
        prefetch(s.units, hi)  # one list in five ends in another cache line
        prefetch(s.impacts, hi)


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
            ws.located[half * LOOKUPS + size] = chunk
            slot = half * (ws.firsts.size >> 1) + size * n
            find_postings(chunk, n, s, ws.rows, ws.starts, ws.places, ws.firsts[slot:], ws.counts[slot:])
            size += 1
    return at, size


@inline_kernel
def add_coarse(first_sum: int, terms: Any, slot: int, s: Postings, ws: Workspace) -> Any:
    """Add the postings of a chunk, whose places begin at ``slot``, to 64 coarse sums; returns what these terms add to
    its bound.
    """
    added = np.int64(0)
    for j in range(terms):
        weight = ws.coarse_weights[j]
        begin = ws.firsts[slot + j]
        top = np.uint8(0)
        for p in range(begin, begin + np.uint64(ws.counts[slot + j])):
            ws.coarse_sums[(s.units[p] & np.uint16(BLOCK_SIZE - 1)) + np.uint16(first_sum)] += weight * s.impacts[p]
            top = max(top, s.impacts[p])
        added += weight * np.int64(top)
    return added


@inline_kernel
def gather_units(
    chunk: int, reached: Any, bar: float, n: int, slot: int, s: Postings, ws: Workspace, allowed: Bools, found: int
) -> int:
    """Make candidates of those units of a chunk whose bits are 1 that reach the bar; returns how many there are."""
    sums = ws.sums
    sums[:] = 0.0
    for j in range(n):
        begin = ws.firsts[slot + j]
        for p in range(begin, begin + np.uint64(ws.counts[slot + j])):
            sums[s.units[p] & np.uint16(BLOCK_SIZE - 1)] += ws.used[j] * s.impacts[p]
    while reached:
        place = lowest_bit(reached)
        unit = (chunk << BLOCK_BITS) + place
        if sums[place] >= bar and unit < s.unit_count and (allowed.size == 0 or allowed[unit]):
            ws.scores[found] = sums[place]
            ws.units[found] = unit if s.original.size == 0 else s.original[unit]
            found += 1
        reached &= reached - np.uint64(1)
    return found


@inline_kernel
def score_chunks(
    chunks: U32, terms: Any, k: int, limit: int, step: float, keep: float, bar: float, n: int, s: Postings,
    ws: Workspace, allowed: Bools, enough: Any, found: int,
) -> tuple[Any, int, float]:  # fmt: skip
    """Score the chunks whose bound reaches the bar, and raise it as they are found: (0, candidates, bar).

    With fewer ``terms`` than n, only these are looked at: (chunks left, candidates, bar). Those in which a unit may
    still reach the bar, with what is left of the bound for the others, are moved to the front of ``chunks``. Chunks
    that are done with have a bound of 0 from then on.

    Sums are coarse at first, in the steps of the bounds: from ``enough`` candidates on few chunks have one that reaches
    the bar. While the postings of some chunks are added up, those of the next are located and on their way from memory,
    and so is what locates the ones after these. Cache misses are most of the time.
    """
    bounds = ws.bounds
    room = ws.firsts.size >> 1
    together = max(1, LOOKUPS // terms)
    need, need_unit = needed(bar, step, keep), np.int64(needed(bar, step, 1.0))
    half, left = NONE, NONE
    fetch_offsets(chunks[: 2 * together], terms, s, ws.rows)
    at, size = locate(chunks, NONE, together, need, terms, s, ws, half)
    while size > 0:
        other = half ^ 1
        fetch_offsets(chunks[at + together : at + 2 * together], terms, s, ws.rows)
        at, following = locate(chunks, at, together, need, terms, s, ws, other)
        for b in range(size):
            chunk = ws.located[half * LOOKUPS + b]
            slot = half * room + b * terms
            reached = ALL
            if found >= enough or terms < n:
                rest = np.int64(bounds[chunk]) - add_coarse(b * BLOCK_SIZE, terms, slot, s, ws)
                least = min(np.int64(UNBOUNDED), need_unit - rest) if bounds[chunk] < UNBOUNDED else NONE
                reached = at_least(ws.coarse_sums, b * BLOCK_SIZE, np.uint16(max(NONE, least)))
                clear(ws.coarse_sums, b * BLOCK_SIZE)
            if reached and terms < n:
                chunks[left] = chunk
                left += 1
                continue
            if reached and bounds[chunk] >= need:
                found = gather_units(chunk, reached, bar, n, slot, s, ws, allowed, found)
                if found >= limit:
                    found, bar = raise_bar(found, k, bar, ws.scores, ws.units)
                    need, need_unit = needed(bar, step, keep), np.int64(needed(bar, step, 1.0))
            bounds[chunk] = 0
        half, size = other, following
    return left, found, bar
