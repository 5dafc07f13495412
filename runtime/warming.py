"""Loading the kernels that answer queries, or compiling them, before there is a query.

Numba loads a kernel when it is first called with arguments of some types. So each is called once, with next to nothing,
by the way that queries take.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .artifact import TransformerPart
from .encoder.native.decoder import DecoderRows, KernelDecoder
from .encoder.native.session import in_kernel
from .encoder.native.transformer import BLOCK, Transformer, sections
from .scorer import numba_backend as search
from .scorer.block_max import BY_POSTINGS, CHEAPER

if TYPE_CHECKING:
    from .scorer.segment import ScoredSegment

_TERMS = np.arange(2)
# Of the same size: whole numbers in units of one. So far apart that no unit is fit for both: floats.
_WEIGHTS = (np.array([1.0, 1.0], np.float32), np.array([1e30, 1e-30], np.float32))


def load_kernels() -> None:
    """Load, or compile, all kernels that a query may need."""
    _load_scorer()
    _load_encoder()


def _load_scorer() -> None:
    scorer = search.SegmentScorer(_segment())
    for scorer.way in (CHEAPER, BY_POSTINGS):
        for weights in _WEIGHTS:
            scorer.search(_TERMS, weights, 1)


def _segment() -> ScoredSegment:
    """One unit that has both of two terms."""
    arrays: dict[str, Any] = {
        "term_blocks": np.arange(3, dtype=np.uint64),
        "term_impacts": np.array([[1, 0, 0, 0]] * 2, np.uint8),
        "term_rows": np.full(2, -1, np.int32),
        "verified": np.ones(2, np.uint8),
        "block_windows": np.zeros(2, np.uint16),
        "block_impacts": np.ones(2, np.uint8),
        "block_postings": np.arange(3, dtype=np.uint64),
        "chunk_impacts": np.empty((0, 1), np.uint8),
        "span_postings": np.empty((0, 1), np.uint16),
        "chunk_postings": np.empty((0, 1), np.uint8),
        "posting_units": np.zeros(2, np.uint16),
        "posting_impacts": np.ones(2, np.uint8),
        "original": np.empty(0, np.uint32),
    }
    return cast("ScoredSegment", SimpleNamespace(**arrays, units=1, vocab_size=2, spread=1.0))


def _load_encoder() -> None:
    part = TransformerPart(layers=1, hidden=BLOCK, heads=1, inner=BLOCK, positions=2, epsilon=1e-12, tied=False)
    found: dict[str, Any] = {name: np.ones(shape, dtype) for name, (dtype, shape) in sections(part, BLOCK).items()}
    for array in found.values():
        array.flags.writeable = False  # as mapped arrays are: to Numba that is another type
    rows = DecoderRows(found.pop("decoder"), found.pop("decoder_scale"), found.pop("decoder_bias"))
    activated = in_kernel(Transformer(part, **found), np.float32(part.epsilon), np.zeros(2, np.int64))
    KernelDecoder(rows, None, "relu").decode(*activated)
