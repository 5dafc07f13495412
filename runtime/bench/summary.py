"""From the times of single calls to the figures that are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Token lengths are shown in these ranges: up to 8, 9 to 16, …
LENGTHS = (8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Latency:
    """Milliseconds of ``calls`` calls: mean, percentiles (nearest rank: a time that was measured), and the longest."""

    calls: int
    mean: float
    p50: float
    p90: float
    p99: float
    longest: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Of at least one call."""
        ms = 1e3 * np.asarray(seconds, np.float64)
        p50, p90, p99 = np.percentile(ms, (50, 90, 99), method="inverted_cdf").tolist()
        return cls(ms.size, float(ms.mean()), p50, p90, p99, float(ms.max()))


def length_range(tokens: int) -> str:
    """The range of token lengths that ``tokens`` falls into: ``1–8``, ``9–16``, …"""
    low = 1
    for high in LENGTHS:
        if tokens <= high:
            return f"{low}–{high}"
        low = high + 1
    return f"over {LENGTHS[-1]}"
