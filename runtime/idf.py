"""Query weights times how rare their terms are in the index that is searched.

What a query encoder learned of rare and common words it learned on its training collections; the index knows those of
its own. A power between 0 (off) and about 0.5 of the terms' inverse document frequency there corrects the one by the
other.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .errors import InputError

F32 = npt.NDArray[np.float32]
LARGEST_POWER = 4.0


def check_power(power: float) -> float:
    """The power as a float. Raises InputError unless it is from 0 to ``LARGEST_POWER``."""
    value = float(power)
    if not (math.isfinite(value) and 0.0 <= value <= LARGEST_POWER):
        raise InputError(f"the power of the idf is {power!r}; give a number from 0 (off) to {LARGEST_POWER:g}")
    return value


def idf_factors(frequencies: npt.NDArray[np.int64], units: int, power: float) -> F32:
    """What a search multiplies query weights with: float32 ``[vocab]``, in (0, 1].

    ``frequencies``: int64 ``[vocab]``, in how many of the ``units`` each term occurs. The factor is ``(idf / idf_1) **
    power`` with BM25's ``idf = ln(1 + (units - n + 0.5) / (n + 0.5))`` (Robertson & Zaragoza 2009; as in Lucene, above
    0 for a term in every unit), and ``idf_1`` that of a term in one unit. So the rarest terms keep their weights, and
    so do terms that do not occur.
    """
    n = np.maximum(frequencies, 1).astype(np.float64)
    idf = np.log1p((units - n + 0.5) / (n + 0.5))
    rarest = np.log1p((units - 0.5) / 1.5)
    return ((idf / rarest) ** power).astype(np.float32) if units else np.ones(n.size, np.float32)
