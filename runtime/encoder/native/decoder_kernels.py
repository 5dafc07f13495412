"""The vocabulary decoder as one pass over int8 rows: products, maximum over positions, bias, and what is above zero.

    weight[t] = scale_of_text * scale[t] * max over positions p of sum over h of (a[p, h] - 128) * w[t, h]  +  bias[t]

with uint8 activations ``a`` and int8 rows ``w``: the arithmetic of the exported graph, integer for integer and then
float32 in the same order. Of what is above zero the logarithm is taken, as the activation says. A graph runs it as an
integer product, a maximum, a cast and five passes over the vocabulary, with int32 ``[length, vocab]`` in memory between
the first two, where most of the time goes; here nothing but the terms above zero is written.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...numba_support.arrays import F32, I32, U8
from ...numba_support.cache import kernel, vector_kernel
from .logarithm import LN2, MANTISSA_BITS, ROOT_HALF, SERIES
from .products import BLOCK, TILES, largest_tile

_tile_small, _tile_middle, _tile_large = (largest_tile(positions) for positions in TILES)
_SMALL, _MIDDLE, _LARGE = TILES
_LOWEST = np.iinfo(np.int32).min
S0, S1, S2, S3, S4, S5 = SERIES


@vector_kernel
def log1p(values: F32, count: int) -> None:
    """log(1 + x) of the first ``count`` values, none of them negative, in place: what :mod:`logarithm` computes."""
    whole = np.empty(1, np.float64)
    bits = whole.view(np.int64)
    for i in range(count):
        x = np.float64(values[i])
        if x == np.inf:
            continue
        whole[0] = x + 1.0
        exponent = (bits[0] - ROOT_HALF) >> MANTISSA_BITS
        bits[0] -= exponent << MANTISSA_BITS
        fraction = x if exponent == 0 else whole[0] - 1.0
        s = fraction / (fraction + 2.0)
        square = s * s
        series = ((((square * S5 + S4) * square + S3) * square + S2) * square + S1) * square + S0
        values[i] = np.float32(np.float64(exponent) * LN2 + series * s)


@kernel
def decode(
    first: int,
    last: int,
    rows: Any,
    offset: I32,
    scale: F32,
    bias: F32,
    activations: U8,
    length: int,
    hidden: int,
    text_scale: Any,
    logarithms: int,
    terms: I32,
    values: F32,
) -> int:
    """Write the places of the rows whose sum is above zero, ascending, to ``terms`` and their weights to ``values``:
    the sums, of which the logarithm of 1 + x is taken ``logarithms`` times.

    Blocks from ``first`` to ``last``: ``rows`` int8, packed; ``offset`` int32, ``scale``, ``bias`` float32 ``[blocks x
    32]``. ``activations`` uint8 ``[length x hidden]`` with ``length`` in ``TILES`` or above them, ``hidden`` a multiple
    of 4; ``text_scale`` float32. ``terms`` int32 and ``values`` float32 have room for every row. Returns how many.
    """
    best = np.empty(BLOCK, np.int32)
    tiles = (length + _LARGE - 1) // _LARGE
    size = _SMALL if tiles * _SMALL >= length else _MIDDLE if tiles * _MIDDLE >= length else _LARGE
    found = 0
    for block in range(first, last):
        best[:] = _LOWEST
        term = block * BLOCK
        row = term * hidden
        for tile in range(tiles):
            position = min(tile * size, length - size) * hidden
            if size == _LARGE:
                _tile_large(rows, row, activations, position, hidden, offset, term, best)
            elif size == _MIDDLE:
                _tile_middle(rows, row, activations, position, hidden, offset, term, best)
            else:
                _tile_small(rows, row, activations, position, hidden, offset, term, best)
        scales, biases = scale[term : term + BLOCK], bias[term : term + BLOCK]
        above = False
        for i in range(BLOCK):
            above |= np.float32(best[i]) * (text_scale * scales[i]) + biases[i] > 0
        if above:  # rare: a query has about 20 terms
            for i in range(BLOCK):
                value = np.float32(best[i]) * (text_scale * scales[i]) + biases[i]
                if value > 0:
                    terms[found] = term + i
                    values[found] = value
                    found += 1
    for _ in range(logarithms):
        log1p(values, found)
    return found
