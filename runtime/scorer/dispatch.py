"""Who searches a segment: NumPy for as long as that is quicker than loading the kernels, then they."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy.typing as npt

from ..forking import cached_property, undivided
from ..numba_support import backend
from ..numba_support.arrays import Bools
from . import numpy_backend
from .filter_mask import AllowedUnits, query_arrays

if TYPE_CHECKING:
    from .numba_backend import SegmentScorer
    from .segment import ScoredSegment

    Backend = SegmentScorer | numpy_backend.NumpyScorer


class Scorer:
    """Exact top k over a segment; safe from several threads."""

    def __init__(self, segment: ScoredSegment) -> None:
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

    def backend(self, terms: npt.ArrayLike, weights: npt.ArrayLike) -> Backend:
        """What is to search for a query: NumPy, until it has taken as long as loading the kernels takes.

        Parameters
        ----------
        terms, weights
            The query, as :meth:`SegmentScorer.search` takes it.

        Returns
        -------
        Backend
            Its ``search`` takes the same query.

        Raises
        ------
        InputError
            For a malformed query.
        """
        if backend.use_numpy(0):
            t, _ = numpy_backend.check_query(*query_arrays(terms, weights), self._segment.vocab_size)
            if backend.use_numpy(numpy_backend.nanoseconds(self._segment, t)):
                return numpy_backend.NumpyScorer(self._segment)
        return self.by_kernels
