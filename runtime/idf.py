"""Query weights times how rare their terms are in the index that is searched.

A query encoder learned how rare words are from its training collections; an index knows it of its own documents.
Weights are multiplied with a power of the terms' inverse document frequency (idf) in the index. Its exponent lies
between 0 (off) and about 0.5.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .vectors import SparseVector

F32 = npt.NDArray[np.float32]

LARGEST_POWER = 4  # far beyond use: the commonest terms of a large index then weigh nothing in float32


class _Manifest(Protocol):
    @property
    def vocab_size(self) -> int: ...


class _Index(Protocol):
    """What :class:`Factors` asks of an index. A protocol, because index/ imports the artifact, which imports this."""

    @property
    def manifest(self) -> _Manifest: ...

    @property
    def units(self) -> int: ...

    def frequencies(self, terms: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]: ...


def check_power(power: object) -> float:
    """Check the exponent of the idf.

    Parameters
    ----------
    power : object
        What a user or a file gave.

    Returns
    -------
    float
        The exponent, from 0 to ``LARGEST_POWER``.

    Raises
    ------
    InputError
        If it is not a number in this range.
    """
    known = isinstance(power, int | float | np.integer | np.floating) and not isinstance(power, bool)
    value = float(power) if known else math.nan  # type: ignore[arg-type]
    if not 0.0 <= value <= LARGEST_POWER:
        raise InputError(f"the power of the idf is {power!r}; give a number from 0 (off) to {LARGEST_POWER}")
    return value


def inverse_document_frequency(frequencies: npt.NDArray[np.int64], units: int) -> npt.NDArray[np.float64]:
    """BM25's ``ln(1 + (units - n + 0.5) / (n + 0.5))`` (Robertson & Zaragoza 2009).

    As in Lucene it is above 0 for a term in every unit.

    Parameters
    ----------
    frequencies : int64 [n]
        In how many units each term occurs.
    units : int
        Documents of the index, or passages where documents are split.

    Returns
    -------
    float64 [n]
    """
    return np.log1p((units - frequencies + 0.5) / (frequencies + 0.5))


def idf_factors(frequencies: npt.NDArray[np.int64], units: int, power: float) -> F32:
    """The factors that a search multiplies query weights with: ``(idf / idf_1) ** power``.

    ``idf`` is the term's :func:`inverse_document_frequency`, and ``idf_1`` that of a term in one unit. So the rarest
    terms keep their weights, and so do terms that do not occur.

    Parameters
    ----------
    frequencies : int64 [n]
        In how many units each term occurs.
    units : int
        Documents of the index, or passages where documents are split.
    power : float
        The exponent.

    Returns
    -------
    float32 [n]
        Factors from 0 to 1.
    """
    if not units:
        return np.ones(frequencies.size, np.float32)
    idf = inverse_document_frequency(np.clip(frequencies, 1, units), units)
    rarest = inverse_document_frequency(np.array([1]), units)
    factors: F32 = ((idf / rarest) ** power).astype(np.float32)
    return factors


class Factors:
    """The factors of an index. Each is computed when a query first has its term. Safe from several threads.

    Parameters
    ----------
    index : Index
        The index that is searched.
    vocabulary : int
        Term ids of queries are below it. Terms that the index does not have keep their weight.
    power : float
        The exponent of the idf; 0 leaves queries as they are.
    """

    def __init__(self, index: _Index, vocabulary: int, power: float) -> None:
        self._index = index
        self._power = power
        self._known = np.full(vocabulary if power else 0, -1, np.float32)  # -1: not known yet

    def times(self, query: SparseVector) -> SparseVector:
        """Multiply the weights of a query.

        Parameters
        ----------
        query : SparseVector
            The encoder's vector.

        Returns
        -------
        SparseVector
            The same terms; the query itself where the exponent is 0.

        Raises
        ------
        IntegrityError
            If the index has damaged postings.
        """
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
