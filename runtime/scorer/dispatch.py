"""Searching one segment: in NumPy for as long as that is quicker than loading the kernels, then by them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..forking import cached_property, undivided
from ..numba_support import backend
from ..numba_support.arrays import Bools
from . import numpy_backend as numpy_search
from .filter_mask import AllowedUnits, query_arrays

if TYPE_CHECKING:
    from ..index.segment import Segment
    from .numba_backend import SegmentScorer


class Scorer:
    """Exact top k over a segment; safe from several threads."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment

    @cached_property
    def by_kernels(self) -> SegmentScorer:
        """The scorer by kernels; asking for it loads Numba."""
        with undivided:
            from .numba_backend import SegmentScorer

        return SegmentScorer(self._segment)

    def allow(self, units: Bools) -> AllowedUnits:
        """The filter that lets the units pass where ``units``, bool by unit, is True."""
        return AllowedUnits.of(units, self._segment.original)

    def search(
        self,
        terms: npt.ArrayLike,
        weights: npt.ArrayLike,
        k: int,
        allowed: AllowedUnits | None = None,
        keep: float = 1.0,
        floor: float = 0.0,
        scale: float = 1.0,
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float64]]:
        """See :meth:`SegmentScorer.search`. NumPy takes no notice of ``keep``: its answers are exact."""
        if backend.use_numpy(0):
            t, w = numpy_search.check_query(*query_arrays(terms, weights), self._segment.vocab_size)
            if backend.use_numpy(numpy_search.nanoseconds(self._segment, t)):
                units = None if allowed is None else allowed.units
                found, scores = numpy_search.search(self._segment, t, w, k, units, floor)
                return found, scores * scale
        return self.by_kernels.search(terms, weights, k, allowed, keep, floor, scale)
