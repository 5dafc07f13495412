"""The scorer in NumPy: the same results as the kernels', for a process that asks too little to load them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..numba_support.arrays import F32, F64, I64, U32
from . import RANGE_BITS, RANGE_SIZE
from .filter_mask import AllowedUnits, query_arrays

if TYPE_CHECKING:
    from .segment import ScoredSegment

# What it takes, in nanoseconds: a posting added, a block of them started, a unit cleared and looked at.
_POSTING, _BLOCK, _UNIT = 8.0, 8000.0, 4.0


def nanoseconds(segment: ScoredSegment, terms: I64) -> float:
    """About how long :func:`search` takes; ``terms`` within the vocabulary."""
    first, last = segment.term_blocks[terms], segment.term_blocks[terms + 1]
    postings = int((segment.block_postings[last] - segment.block_postings[first]).sum())
    return _POSTING * postings + _BLOCK * int((last - first).sum()) + _UNIT * segment.units


def check_query(terms: I64, weights: F32, vocab_size: int) -> tuple[I64, F32]:
    """The query with its terms ascending and without those of no weight. Raises InputError."""
    if not (terms[1:] > terms[:-1]).all():
        order = np.argsort(terms, kind="stable")
        terms, weights = terms[order], weights[order]
        if (terms[1:] == terms[:-1]).any():
            raise InputError("a query vector names a term twice; add up the weights of equal terms")
    outside = (terms < 0) | (terms >= vocab_size)
    if outside.any():
        raise InputError(f"term {terms[outside][0]} of the query is outside the index's vocabulary of {vocab_size}")
    if not ((weights >= 0) & (weights < np.inf)).all():
        raise InputError("query weights must be finite and not negative")
    keep = weights > 0
    return terms[keep], weights[keep]


def search(
    segment: ScoredSegment, terms: I64, weights: F32, k: int, allowed: npt.NDArray[np.bool_] | None, floor: float = 0.0
) -> tuple[U32, F64]:
    """The exact top k, as :meth:`SegmentScorer.search` gives them. ``terms`` ascending, ``weights`` positive;
    ``allowed`` bool ``[units]`` in the segment's own order.
    """
    segment.verify(terms)
    sums = np.zeros(segment.units, np.float64)
    for term, weight in zip(terms.tolist(), weights.astype(np.float64), strict=True):
        for block in range(int(segment.term_blocks[term]), int(segment.term_blocks[term + 1])):
            a, b = int(segment.block_postings[block]), int(segment.block_postings[block + 1])
            window = int(segment.block_windows[block]) << RANGE_BITS
            # Units of a block are distinct, so each is added to once; terms ascend, so sums are rounded as everywhere.
            sums[window : window + RANGE_SIZE][segment.posting_units[a:b]] += weight * segment.posting_impacts[a:b]
    places = np.flatnonzero(sums >= floor if floor > 0.0 else sums)
    if allowed is not None:
        places = places[allowed[places]]
    scores = sums[places]
    units = segment.original[places] if segment.original.size else places.astype(np.uint32)
    if scores.size > k:
        reaching = scores >= np.partition(scores, scores.size - k)[scores.size - k]
        scores, units = scores[reaching], units[reaching]
    order = np.lexsort((units, -scores))[:k]
    return units[order], scores[order]


class NumpyScorer:
    """What :class:`.numba_backend.SegmentScorer` does, in NumPy."""

    def __init__(self, segment: ScoredSegment) -> None:
        self._segment = segment

    def search(
        self,
        terms: npt.ArrayLike,
        weights: npt.ArrayLike,
        k: int,
        allowed: AllowedUnits | None = None,
        keep: float = 1.0,
        floor: float = 0.0,
        scale: float = 1.0,
    ) -> tuple[U32, F64]:
        """See :meth:`.numba_backend.SegmentScorer.search`. ``keep`` has no effect: the answers are exact."""
        t, w = check_query(*query_arrays(terms, weights), self._segment.vocab_size)
        units = None if allowed is None else allowed.units
        found, scores = search(self._segment, t, w, k, units, floor)
        return found, scores * scale
