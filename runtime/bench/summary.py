"""Percentiles of the times of single calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Token lengths are shown in these ranges: up to 8, 9 to 16, …
LENGTHS = (8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Latency:
    """The times of single calls, in milliseconds. Percentiles are times that were measured (nearest rank).

    Attributes
    ----------
    calls
        The number of calls.
    mean, p50, p90, p99, longest
        Mean, percentiles and maximum.
    """

    calls: int
    mean: float
    p50: float
    p90: float
    p99: float
    longest: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Summarise times.

        Parameters
        ----------
        seconds
            Times of at least one call.

        Returns
        -------
        Latency
            The summary.
        """
        ms = 1e3 * np.asarray(seconds, np.float64)
        p50, p90, p99 = np.percentile(ms, (50, 90, 99), method="inverted_cdf").tolist()
        return cls(ms.size, float(ms.mean()), p50, p90, p99, float(ms.max()))


def length_range(tokens: int) -> str:
    """The range of token lengths that a text falls into.

    Parameters
    ----------
    tokens
        Tokens of the text.

    Returns
    -------
    str
        ``1–8``, ``9–16``, …
    """
    low = 1
    for high in LENGTHS:
        if tokens <= high:
            return f"{low}–{high}"
        low = high + 1
    return f"over {LENGTHS[-1]}"
