"""What the scorer needs of a segment. ``index/segment.py`` has it; the scorer does not import the index."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..numba_support.arrays import I32, U8, U16, U32, U64


class ScoredSegment(Protocol):
    """The postings of a segment. :mod:`splade_edge.runtime.index.layout` says what the arrays mean.

    Attributes
    ----------
    units
        Number of documents that are scored (passages, where documents are split).
    vocab_size
        Number of terms, V.
    term_blocks, term_impacts, term_rows
        uint64 ``[V+1]``, uint8 ``[V, 4]`` and int32 ``[V]``: by term, its posting list segments, its k-th largest
        impacts, and its row of block-max data, or -1.
    verified
        uint8 ``[V]``: 1 for terms whose postings were compared with their checksums.
    block_windows, block_impacts, block_postings
        uint16 and uint8 ``[segments]``, uint64 ``[segments+1]``: by posting list segment, its docid range, its largest
        impact, and its first posting.
    chunk_impacts, chunk_postings, span_postings
        Block-max data: uint8 ``[rows, blocks]`` twice, and uint16 ``[rows, superblocks]``.
    posting_units, posting_impacts
        uint16 and uint8 ``[postings]``: the document within its docid range, and its impact.
    original
        uint32 ``[units]``, the docid permutation: by docid of the segment, the one by insertion. Empty where both are
        the same.
    spread
        How the frequent terms lie over the blocks: 1 as if by chance, less where similar documents are near.
    """

    units: int
    vocab_size: int
    term_blocks: U64
    term_impacts: U8
    term_rows: I32
    verified: U8
    block_windows: U16
    block_impacts: U8
    block_postings: U64
    chunk_impacts: U8
    chunk_postings: U8
    span_postings: U16
    posting_units: U16
    posting_impacts: U8
    original: U32
    spread: float

    def verify(self, terms: npt.NDArray[np.integer]) -> None:
        """Compare the postings of ``terms`` with their checksums, once a term.

        Raises
        ------
        IntegrityError
            They do not match.
        """
