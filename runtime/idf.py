"""Query weights times how rare their terms are in the index that is searched.

What a query encoder learned of rare and common words it learned on its training collections; the index knows those of
its own. A power between 0 (off) and about 0.5 of the terms' inverse document frequency there corrects the one by the
other.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .numba_support.arrays import F32
from .vectors import SparseVector

if TYPE_CHECKING:
    from .index import Index

LARGEST_POWER = 4  # far beyond use: the commonest terms of a large index then weigh nothing in float32


def check_power(power: object) -> float:
    """The power as a float. Raises InputError unless it is a number from 0 to ``LARGEST_POWER``."""
    known = isinstance(power, int | float | np.integer | np.floating) and not isinstance(power, bool)
    value = float(power) if known else math.nan  # type: ignore[arg-type]
    if not 0.0 <= value <= LARGEST_POWER:
        raise InputError(f"the power of the idf is {power!r}; give a number from 0 (off) to {LARGEST_POWER}")
    return value


def inverse_document_frequency(frequencies: npt.NDArray[np.int64], units: int) -> npt.NDArray[np.float64]:
    """BM25's ``ln(1 + (units - n + 0.5) / (n + 0.5))`` (Robertson & Zaragoza 2009; as in Lucene, above 0 for a term in
    every unit), float64, of terms that occur in ``frequencies`` of the ``units``.
    """
    return np.log1p((units - frequencies + 0.5) / (frequencies + 0.5))


def idf_factors(frequencies: npt.NDArray[np.int64], units: int, power: float) -> F32:
    """What a search multiplies query weights with: float32 ``[n]``, from 0 to 1.

    ``frequencies``: int64 ``[n]``, in how many of the ``units`` each term occurs. The factor is ``(idf / idf_1) **
    power`` with the terms' :func:`inverse_document_frequency`, and ``idf_1`` that of a term in one unit. So the rarest
    terms keep their weights, and so do terms that do not occur.
    """
    if not units:
        return np.ones(frequencies.size, np.float32)
    idf = inverse_document_frequency(np.clip(frequencies, 1, units), units)
    rarest = inverse_document_frequency(np.array([1]), units)
    factors: F32 = ((idf / rarest) ** power).astype(np.float32)
    return factors


class Factors:
    """The factors of an index, each found when a query first has its term. Safe from several threads.

    ``vocabulary``: how many terms a query may have; those that the index has not keep their weight.
    """

    def __init__(self, index: Index, vocabulary: int, power: float) -> None:
        self._index = index
        self._power = power
        self._known = np.full(vocabulary if power else 0, -1, np.float32)  # -1: not known yet

    def times(self, query: SparseVector) -> SparseVector:
        """The query with its weights multiplied. Raises IntegrityError for damaged postings."""
        if not self._power:
            return query
        terms, weights = query
        factors = self._known[terms]
        if terms.size and factors.min() < 0:
            self._find(terms[factors < 0])
            factors = self._known[terms]
        return SparseVector(terms, weights * factors)

    def _find(self, terms: npt.NDArray[np.int32]) -> None:
        frequencies = np.zeros(terms.size, np.int64)
        inside = terms < self._index.manifest.vocab_size
        frequencies[inside] = self._index.frequencies(terms[inside])
        self._known[terms] = idf_factors(frequencies, self._index.units, self._power)
