"""Loading the kernels that answer queries, or compiling them, before there is a query.

Numba loads a kernel when it is first called with arguments of some types. So each kernel is called once, with a segment
of one document and an encoder of one layer, through the same classes that queries use.

This module imports the scorer and the encoder; neither imports it. It does so inside of functions, because the kernels'
modules load Numba, and a process that disables the JIT or never calls :func:`use_kernels` should not pay for that.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .numba_support import backend

if TYPE_CHECKING:
    from .scorer.segment import ScoredSegment

_TERMS = np.arange(2)
# Weights of the same size become fixed point numbers; weights that far apart stay floats.
_WEIGHTS = (np.array([1.0, 1.0], np.float32), np.array([1e30, 1e-30], np.float32))


def use_kernels() -> None:
    """Use the compiled kernels, and never NumPy, from now on in this process.

    For a process that answers many queries: no later query waits for kernels. All kernels are loaded before this
    returns. Kernels that are not in the cache are compiled, which takes some seconds. With ``NUMBA_DISABLE_JIT`` set,
    nothing is loaded.
    """
    backend.never_use_numpy()
    if not backend.is_off():
        load_kernels()


def load_kernels() -> None:
    """Load every kernel that a query may need, or compile it where the cache does not have it."""
    _load_scorer()
    _load_encoder()


def _load_scorer() -> None:
    from .scorer.block_max import BY_POSTINGS, CHEAPER
    from .scorer.numba_backend import SegmentScorer

    scorer = SegmentScorer(_segment())
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
    from .artifact import TransformerPart
    from .encoder.native.decoder import DecoderRows, KernelDecoder
    from .encoder.native.session import in_kernel
    from .encoder.native.transformer import BLOCK, Transformer, sections

    part = TransformerPart(layers=1, hidden=BLOCK, heads=1, inner=BLOCK, positions=2, epsilon=1e-12, tied=False)
    found: dict[str, Any] = {name: np.ones(shape, dtype) for name, (dtype, shape) in sections(part, BLOCK).items()}
    for array in found.values():
        array.flags.writeable = False  # mapped arrays are read-only, which Numba takes for another type
    rows = DecoderRows(found.pop("decoder"), found.pop("decoder_scale"), found.pop("decoder_bias"))
    activated = in_kernel(Transformer(part, **found), np.float32(part.epsilon), np.zeros(2, np.int64))
    KernelDecoder(rows, None, "relu").decode(*activated)
