"""How much an approximate search misses, and how much time it saves, on queries at hand."""

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
    """``recall``: mean share of the exact answer that the approximate answer has, where documents of equal score may
    stand for one another; ``exact_ms`` and ``approximate_ms``: mean time a query on one thread.
    """

    recall: float
    exact_ms: float
    approximate_ms: float


def measure_approximation(
    index: Index, queries: Sequence[SparseVector], k: int, approximate: float, *, rounds: int = 3
) -> Approximation:
    """Compare ``index.search_vectors(…, approximate=…)`` with the exact search; a query counts by its fastest round.

    Raises InputError where no query finds anything.
    """
    use_kernels()  # NumPy is always exact
    shares, seconds = [], np.zeros(2)
    for query in queries:
        exact, found = (index.search_vectors(*query, k, approximate=how)[1] for how in (None, approximate))
        if not exact.size:
            continue
        shares.append(float((found >= exact[-1]).sum() / exact.size))
        best = np.full(2, np.inf)
        for _ in range(rounds):
            for i, how in enumerate((None, approximate)):
                start = time.perf_counter()
                index.search_vectors(*query, k, approximate=how)
                best[i] = min(best[i], time.perf_counter() - start)
        seconds += best
    if not shares:
        raise InputError("no query finds a document; there is nothing to compare")
    exact_ms, approximate_ms = seconds / len(shares) * 1000
    return Approximation(float(np.mean(shares)), float(exact_ms), float(approximate_ms))
