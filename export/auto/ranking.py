"""Rankings of a collection in memory, and how far two of them differ. NumPy alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ...runtime.idf import idf_factors
from ...runtime.vectors import SparseBatch, SparseVector

F64 = npt.NDArray[np.float64]
Ranking = npt.NDArray[np.intp]
DEPTH = 100
# Persistence of rank-biased overlap: 86 % of its weight is on the first ten ranks.
RBO_PERSISTENCE = 0.9


class Collection:
    """Inverted lists of document vectors. ``impacts``: weights rounded to 8 bits as in an index, else float64.
    ``idf``: the exponent of :func:`idf_factors` that query weights are multiplied with.
    """

    def __init__(self, documents: SparseBatch, *, impacts: bool, idf: float = 0.0) -> None:
        self._size = len(documents)
        values = documents.values.astype(np.float64)
        if impacts and values.size:
            scale = values.max() / 255
            values = np.minimum(np.floor(values / scale + 0.5), 255) * scale
        owners = np.repeat(np.arange(self._size), np.diff(documents.indptr))
        order = np.argsort(documents.indices, kind="stable")
        self._owners, self._values = owners[order], values[order]
        terms = documents.indices[order]
        self._starts = np.searchsorted(terms, np.arange(int(terms.max(initial=-1)) + 2))
        self._factors = idf_factors(np.diff(self._starts), self._size, idf)

    def best(self, query: SparseVector, depth: int = DEPTH) -> Ranking:
        """Rank the collection for a query.

        Parameters
        ----------
        query : SparseVector
            The query's vector.
        depth : int
            The most documents to return.

        Returns
        -------
        intp array ``[<= depth]``
            Positions of the documents with a positive score, best first; ties keep the order of the collection.
        """
        scores = np.zeros(self._size)
        for term, weight in zip(query.indices.tolist(), query.values.tolist(), strict=True):
            if term + 1 < len(self._starts):
                rows = slice(self._starts[term], self._starts[term + 1])
                scores[self._owners[rows]] += weight * self._factors[term] * self._values[rows]
        order = np.argsort(-scores, kind="stable")[:depth]
        return order[scores[order] > 0]


def ndcg(ranking: Sequence[str], grades: dict[str, int], depth: int = 10) -> float:
    """nDCG with the grade as gain, as ``nDCG@10`` of ir-measures computes it (a test compares).

    It is our own because the [export] extra is installed without [eval].

    Parameters
    ----------
    ranking : sequence of str
        Document ids, best first.
    grades : dict of str to int
        The judged documents of the query.
    depth : int
        How many ranks count.

    Returns
    -------
    float
        Between 0 and 1; 0 without relevant documents.

    References
    ----------
    Järvelin & Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002.
    """
    discounts = 1 / np.log2(np.arange(2, depth + 2))
    ideal = np.array(sorted((g for g in grades.values() if g > 0), reverse=True)[:depth], np.float64)
    if not ideal.size:
        return 0.0
    gains = np.array([max(grades.get(document, 0), 0) for document in ranking[:depth]], np.float64)
    return float(gains @ discounts[: gains.size] / (ideal @ discounts[: ideal.size]))


def rank_biased_overlap(a: Ranking, b: Ranking, persistence: float = RBO_PERSISTENCE) -> float:
    """Extrapolated rank-biased overlap of two rankings, to the depth of the shorter one.

    Parameters
    ----------
    a, b : intp array
        Documents, best first.
    persistence : float
        The probability of going on to the next rank, between 0 and 1.

    Returns
    -------
    float
        1 for equal rankings (two empty ones too), 0 where nothing is shared.

    References
    ----------
    Webber, Moffat & Zobel, "A similarity measure for indefinite rankings", TOIS 2010.
    """
    depth = min(len(a), len(b))
    if depth == 0:
        return float(len(a) == len(b))
    seen_a: set[int] = set()
    seen_b: set[int] = set()
    total = agreement = 0.0
    for rank in range(1, depth + 1):
        seen_a.add(int(a[rank - 1]))
        seen_b.add(int(b[rank - 1]))
        agreement = len(seen_a & seen_b) / rank
        total += agreement * persistence**rank
    return float(agreement * persistence**depth + total * (1 - persistence) / persistence)


def bootstrap_interval(difference: F64, resamples: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of per-query differences: paired bootstrap over queries, percentile method.

    Parameters
    ----------
    difference : float64 array ``[queries]``
        One difference for each query.
    resamples : int
        How many samples are drawn.
    seed : int
        The seed of the drawing.

    Returns
    -------
    tuple of float
        The lower and the upper end.

    References
    ----------
    Efron & Tibshirani, "An Introduction to the Bootstrap", 1993.
    """
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for i in range(0, resamples, 100):
        picks = rng.integers(0, difference.size, (min(100, resamples - i), difference.size))
        means[i : i + len(picks)] = difference[picks].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)
