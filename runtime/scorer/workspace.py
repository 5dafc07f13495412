"""What the kernels work on: a segment's arrays, a filter, and a thread's workspace, each handed over as one address.

See numba_support/address_table.py. A kernel opens a table as a named tuple. Kernels write only to a workspace.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..numba_support.address_table import array_at
from ..numba_support.arrays import F64, I32, I64, U8, U16, U32, U64, Bools
from ..numba_support.cache import inline_kernel
from . import BLOCK_BITS, BLOCK_SIZE, SUPERBLOCK_BLOCKS


class Postings(NamedTuple):
    """A segment as its index has it; see index/layout.py. ``figures``: its spread."""

    term_blocks: U64
    term_impacts: U8
    term_rows: I32
    verified: U8
    block_windows: U16
    block_impacts: U8
    block_postings: U64
    chunk_impacts: U8
    span_postings: U16
    chunk_postings: U8
    units: U16
    impacts: U8
    original: U32
    levels: I64
    figures: F64
    unit_count: int


class Filter(NamedTuple):
    """``units`` bool ``[units]`` or empty, in memory padded to whole chunks with False; ``chunks``: 1 where a chunk has
    one; how many units are ``excluded``.
    """

    units: Bools
    chunks: U8
    excluded: int


class Workspace(NamedTuple):
    """Buffers of one thread; see search.py for their sizes."""

    state: F64  # what one kernel leaves for the next: see the names below
    kept: I64  # of the query's terms that have postings and weight: the id,
    used: F64  # the weight,
    whole: I64  # the weight as a whole number,
    rows: I64  # the row of block-max data, or -1 - the row of ``places``; in the scan, the terms in another order,
    starts: U64  # [terms, windows + 1]: the first posting in each window or later
    tops: F64  # [windows]: no unit in the window has a higher score
    promise: F64  # [windows]: how many of the best units may lie in it, see guess.py
    bounds: U16  # [chunks]
    peaks: U16  # the largest bound of each 64 chunks, or what it was before some were done with; 0 beyond them
    order: U32  # [2 * chunks]
    places: U16  # [rows, chunks]
    histogram: I64
    located: I64  # [2 * LOOKUPS]: chunks whose postings have been found, in two halves, see chunks.py
    sums: F64  # of a chunk; in the scan, costs of postponing terms
    firsts: U64  # [2 * max(LOOKUPS, terms)]: a term's first posting in each of these,
    counts: I64  # and how many there are
    begun: U64  # of each term, the first posting of a shelf,
    upcoming: U64  # and the next one to add
    crossed: U16
    late: I64  # terms that can be postponed, see late.py,
    late_rows: I64  # their rows of block-max data,
    turns: I64  # each term's place among these,
    typical: F64  # what it adds to a bound,
    room: I64  # and [chunks of a window] how much they add at most
    coarse_weights: I64  # weights as multiples of a step, rounded up, see coarse.py; for visits, of that of the bounds,
    coarse_sums: U16  # and [units of a window] their sums; for visits, of the units of the chunks of a half
    scores: F64  # of candidates
    units: U32
    keys: U32  # for sorting results
    ranks: U32
    ranks_too: U32


# Workspace.state: terms that are kept (or the position of a bad one), the bar, the unit of whole weights, candidates
# (or MISSED, see guess.py).
TERMS, BAR, UNIT, FOUND = range(4)


@inline_kernel
def chunks_of(units: int) -> int:
    """Chunks of so many units."""
    return (units + BLOCK_SIZE - 1) >> BLOCK_BITS


@inline_kernel
def open_postings(address: int) -> Postings:
    """The segment at an address."""
    t = array_at(address, (31,), np.int64)
    count = t[30]
    chunks = chunks_of(count)
    rows = t[15] // max(1, chunks)
    return Postings(
        array_at(t[0], (t[1],), np.uint64),
        array_at(t[2], (t[3] // t[27], t[27]), np.uint8),
        array_at(t[4], (t[5],), np.int32),
        array_at(t[6], (t[7],), np.uint8),
        array_at(t[8], (t[9],), np.uint16),
        array_at(t[10], (t[11],), np.uint8),
        array_at(t[12], (t[13],), np.uint64),
        array_at(t[14], (rows, chunks), np.uint8),
        array_at(
            t[16],
            (rows, (chunks * BLOCK_SIZE + BLOCK_SIZE * SUPERBLOCK_BLOCKS - 1) // (BLOCK_SIZE * SUPERBLOCK_BLOCKS)),
            np.uint16,
        ),
        array_at(t[18], (rows, chunks), np.uint8),
        array_at(t[20], (t[21],), np.uint16),
        array_at(t[22], (t[23],), np.uint8),
        array_at(t[24], (t[25],), np.uint32),
        array_at(t[26], (t[27],), np.int64),
        array_at(t[28], (t[29],), np.float64),
        count,
    )


@inline_kernel
def open_filter(address: int) -> Filter:
    """The filter at an address."""
    t = array_at(address, (5,), np.int64)
    return Filter(array_at(t[0], (t[1],), np.bool_), array_at(t[2], (t[3],), np.uint8), t[4])


@inline_kernel
def open_workspace(address: int) -> Workspace:
    """The workspace at an address."""
    t = array_at(address, (65,), np.int64)
    windows = t[64]
    chunks = t[17]
    return Workspace(
        array_at(t[0], (t[1],), np.float64),
        array_at(t[2], (t[3],), np.int64),
        array_at(t[4], (t[5],), np.float64),
        array_at(t[6], (t[7],), np.int64),
        array_at(t[8], (t[9],), np.int64),
        array_at(t[10], (t[11] // (windows + 1), windows + 1), np.uint64),
        array_at(t[12], (t[13],), np.float64),
        array_at(t[14], (t[15],), np.float64),
        array_at(t[16], (chunks,), np.uint16),
        array_at(t[18], (t[19],), np.uint16),
        array_at(t[20], (t[21],), np.uint32),
        array_at(t[22], (t[23] // max(1, chunks), chunks), np.uint16),
        array_at(t[24], (t[25],), np.int64),
        array_at(t[26], (t[27],), np.int64),
        array_at(t[28], (t[29],), np.float64),
        array_at(t[30], (t[31],), np.uint64),
        array_at(t[32], (t[33],), np.int64),
        array_at(t[34], (t[35],), np.uint64),
        array_at(t[36], (t[37],), np.uint64),
        array_at(t[38], (t[39],), np.uint16),
        array_at(t[40], (t[41],), np.int64),
        array_at(t[42], (t[43],), np.int64),
        array_at(t[44], (t[45],), np.int64),
        array_at(t[46], (t[47],), np.float64),
        array_at(t[48], (t[49],), np.int64),
        array_at(t[50], (t[51],), np.int64),
        array_at(t[52], (t[53],), np.uint16),
        array_at(t[54], (t[55],), np.float64),
        array_at(t[56], (t[57],), np.uint32),
        array_at(t[58], (t[59],), np.uint32),
        array_at(t[60], (t[61],), np.uint32),
        array_at(t[62], (t[63],), np.uint32),
    )
