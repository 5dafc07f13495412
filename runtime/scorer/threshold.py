"""Guessing the threshold of a scan from the part of the segment that it has seen, and where the best units may lie.

The k-th best so far is a low threshold for a long time. If the r-th best of a share f of the units is taken instead,
about r / f of all units reach it; with an r above k f they are more than k, and still few. In the end it is counted
whether k candidates reach the guess, and if not, the segment is scanned anew without guesses: answers are exact in any
case. Of the units that equal the guess the candidates are the first ones, which are the best, but not all: where many
score alike a guess often fails.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..numba_support.arrays import F64, I64, U32, U64
from ..numba_support.cache import inline_kernel
from . import RANGE_BITS, RANGE_SIZE

# It is guessed first when so many units have been seen, and again when these are so many times as many.
FIRST, AGAIN = 1 << 13, 4
DEVIATIONS = 4.0  # so many standard deviations less than expected may reach a guess, and k still do
PARTS = 16  # of what has been seen, whose numbers of candidates say how evenly these lie
POWER = 6  # the best lie where most postings are: fitted to synthetic collections whose similar units lie together
# In the workspace's state, instead of the number of candidates: fewer than k reach the guess.
MISSED: Any = np.int64(-1)


@inline_kernel
def rank_to_keep(k: int, seen: int, units: int, spread: float) -> float:
    """The r for which r - DEVIATIONS * sqrt(spread * (1 - f) * r) = k f.

    Of the units that reach the r-th best of those seen, r (1 - f) / f are expected among the others, with a variance of
    spread * r (1 - f) / f^2: that of both counts, for units in random order if ``spread`` is 1.
    """
    share = seen / units
    deviation = DEVIATIONS * math.sqrt(spread * (1.0 - share))
    root = 0.5 * (deviation + math.sqrt(deviation * deviation + 4.0 * k * share))
    return root * root


@inline_kernel
def spread_of(places: U32, seen: int, counts: I64) -> float:
    """Variance over mean of how many candidates lie in each of the parts of what has been seen, at least 1: it is more
    where similar units lie together. ``counts``: workspace.
    """
    for part in range(PARTS):
        counts[part] = 0
    for i in range(places.size):
        counts[np.uint64(places[i]) * np.uint64(PARTS) // np.uint64(seen)] += 1
    squares = np.int64(0)
    for part in range(PARTS):
        squares += counts[part] * counts[part]
    mean = places.size / PARTS
    return max(1.0, (squares - PARTS * mean * mean) / (PARTS - 1) / mean)


@inline_kernel
def find_promise(n: int, units: int, used: F64, starts: U64, promise: F64) -> None:
    """``promise[w]``: how many of the best units window ``w`` may have, in proportion to the other windows: its units
    times a power of what their postings weigh on average.
    """
    usual = 0.0
    for j in range(n):
        usual += used[j] * np.float64(starts[j, promise.size] - starts[j, 0])
    usual = max(usual / units, 1e-300)
    for w in range(promise.size):
        own = 0.0
        for j in range(n):
            own += used[j] * np.float64(starts[j, w + 1] - starts[j, w])
        length = min(RANGE_SIZE, units - (w << RANGE_BITS))
        promise[w] = 1e-9 + length * (own / length / usual) ** POWER


@inline_kernel
def most_promising(promise: F64) -> Any:
    """The first window that promises most."""
    best = np.int64(0)
    for w in range(promise.size):
        if promise[w] > promise[best]:
            best = np.int64(w)
    return best


@inline_kernel
def count_reaching(scores: F64, bar: float) -> Any:
    """How many scores are at least ``bar``."""
    count = np.int64(0)
    for i in range(scores.size):
        count += scores[i] >= bar
    return count
