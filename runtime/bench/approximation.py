"""How much an approximate search misses, and how much time it saves, for given queries."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..index import Index
from ..vectors import SparseVector
from ..warming import use_kernels


@dataclass(frozen=True)
class Approximation:
    """An approximate search compared with the exact one.

    Attributes
    ----------
    recall
        The mean share of the exact results that the approximate results have. Documents of equal score may stand for
        one another.
    exact_ms, approximate_ms
        Mean time of a query on one thread, in milliseconds.
    """

    recall: float
    exact_ms: float
    approximate_ms: float


def measure_approximation(
    index: Index, queries: Sequence[SparseVector], k: int, approximate: float, *, rounds: int = 3
) -> Approximation:
    """Compare ``index.search_vector(…, approximate=…)`` with the exact search.

    Parameters
    ----------
    index
        The index.
    queries
        Query vectors.
    k
        Results of a query.
    approximate
        The pruning factor, above 0, up to 1.
    rounds
        A query counts with its fastest round.

    Returns
    -------
    Approximation
        Recall and times.

    Raises
    ------
    InputError
        If no query finds a document.
    """
    use_kernels()  # NumPy is always exact
    shares, seconds = [], np.zeros(2)
    for query in queries:
        exact, found = (index.search_vector(query, k, approximate=how)[1] for how in (None, approximate))
        if not exact.size:
            continue
        shares.append(float((found >= exact[-1]).sum() / exact.size))
        best = np.full(2, np.inf)
        for _ in range(rounds):
            for i, how in enumerate((None, approximate)):
                start = time.perf_counter()
                index.search_vector(query, k, approximate=how)
                best[i] = min(best[i], time.perf_counter() - start)
        seconds += best
    if not shares:
        raise InputError("no query finds a document; there is nothing to compare")
    exact_ms, approximate_ms = seconds / len(shares) * 1000
    return Approximation(float(np.mean(shares)), float(exact_ms), float(approximate_ms))
