"""log(1 + x) of float32 numbers, with the same bits on every CPU.

NumPy's logarithm has code for several kinds of CPU, whose results differ in the last place, and so do those of C
libraries. Here it is written out in operations that IEEE 754 defines to the bit, in float64, and rounded to float32
once: with s = f / (2 + f), log(1 + f) is 2 s (1 + s^2 / 3 + s^4 / 5 + …), where 1 + x is 2^k (1 + f) with 1 + f between
the root of 1/2 and that of 2. So the error is at most 0.51 units in the last place. The kernel computes the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]

# The terms left out are below 6e-11 of the result.
SERIES = tuple(2.0 / n for n in (1, 3, 5, 7, 9, 11))
LN2 = 0.6931471805599453
# The bits of the root of 1/2, rounded up: what k is counted from.
ROOT_HALF = 0x3FE6A09E667F3BCD
MANTISSA_BITS = 52


def log1p(values: F32) -> F32:
    """log(1 + x) of float32 numbers that are not negative; infinity gives infinity."""
    x = values.astype(np.float64)
    whole = x + 1.0
    bits = whole.view(np.int64)
    exponent = (bits - ROOT_HALF) >> MANTISSA_BITS
    fraction = (bits - (exponent << MANTISSA_BITS)).view(np.float64) - 1.0
    fraction = np.where(exponent == 0, x, fraction)  # a small x has more bits than 1 + x
    s = fraction / (fraction + 2.0)
    square = s * s
    series = square * SERIES[-1] + SERIES[-2]
    for coefficient in reversed(SERIES[:-2]):
        series = series * square + coefficient
    logarithm = (exponent * LN2 + series * s).astype(np.float32)
    result: F32 = np.where(values < np.inf, logarithm, values)
    return result
