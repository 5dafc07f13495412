"""The exact answers, in plain NumPy: what "exact" means for the engines (see runtime/scorer/__init__.py).

score(d) = sum over the query's terms, ascending, of float64(float32 weight) * impact; score descending, then document.

Not run by itself. Used by :mod:`benchmarks.scorer`, :mod:`benchmarks.scorer_report`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .engine import Answer
from .workload import Collection, Query, by_term, rounded

F64 = npt.NDArray[np.float64]


def scores_of(collection: Collection, query: Query) -> F64:
    """Score every document.

    Parameters
    ----------
    collection : Collection
        The collection.
    query : Query
        The query.

    Returns
    -------
    float64 array ``[documents]``
        The scores.
    """
    indptr, documents, impacts = by_term(collection)
    scores = np.zeros(collection.documents)
    for term, weight in zip(*query, strict=True):
        a, b = int(indptr[term]), int(indptr[term + 1])
        scores[documents[a:b]] += np.float64(weight) * impacts[a:b].astype(np.float64)
    return scores


def best(scores: F64, k: int) -> Answer:
    """Select the top k of all positive scores.

    Parameters
    ----------
    scores : float64 array ``[documents]``
        The scores.
    k : int
        How many documents are asked for.

    Returns
    -------
    tuple of int64 array and float64 array
        Documents and scores, best first; ties by document.
    """
    found = np.flatnonzero(scores)
    if found.size > k:
        found = found[scores[found] >= np.partition(scores[found], found.size - k)[found.size - k]]
    order = found[np.lexsort((found, -scores[found]))][:k]
    return order, scores[order]


@dataclass(frozen=True)
class Verdict:
    """How an engine's lists compare with the exact ones: shares of ``lists`` queries, or of their results.

    ``agree``: lists whose scores are the exact ones, within 1e-5, whatever the order of equal ones. ``identical``:
    lists with the same documents and the same float64 scores in the same order. ``recall``: results whose true score
    reaches the k-th exact score.
    """

    lists: int
    agree: float
    identical: float
    recall: float


class Oracle:
    """Judges answers to the first ``count`` queries of a set."""

    def __init__(self, collection: Collection, name: str, count: int, *, whole_numbers: bool) -> None:
        self._all = [
            scores_of(collection, rounded(q) if whole_numbers else q) for q in collection.queries(name)[:count]
        ]

    def judge(self, answers: list[Answer], k: int) -> Verdict:
        """Compare answers with the exact ones.

        Parameters
        ----------
        answers : list of Answer
            One for each query of the oracle.
        k : int
            How many documents were asked for.

        Returns
        -------
        Verdict
            How far they agree.
        """
        agree, identical, recall = [], [], []
        for scores, (documents, given) in zip(self._all, answers, strict=False):
            true_documents, true_scores = best(scores, k)
            documents, given = documents[: true_scores.size], given[: true_scores.size]
            same_size = given.size == true_scores.size
            agree.append(same_size and np.allclose(np.sort(given)[::-1], true_scores, rtol=1e-5, atol=0))
            identical.append(
                same_size and np.array_equal(documents, true_documents) and np.array_equal(given, true_scores)
            )
            reached = scores[documents] >= true_scores[-1] * (1 - 1e-6) if true_scores.size else np.ones(1, bool)
            recall.append(reached.sum() / max(1, true_scores.size))
        return Verdict(len(agree), *(float(np.mean(x)) for x in (agree, identical, recall)))
