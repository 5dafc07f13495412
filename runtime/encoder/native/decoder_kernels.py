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
from .products import BLOCK, TILES, Matrices, largest_tile

_tile_small, _tile_middle, _tile_large = (largest_tile(positions) for positions in TILES)
_SMALL, _MIDDLE, _LARGE = TILES
_LOWEST = np.iinfo(np.int32).min
S0, S1, S2, S3, S4, S5 = SERIES


@vector_kernel
def log1p(values: F32, count: int) -> None:
    """log(1 + x), in place: what :mod:`logarithm` computes.

    Parameters
    ----------
    values : float32 [n]
        None of them negative.
    count : int
        How many of them, from the first.
    """
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
    matrix: tuple[Any, I32, F32, F32],
    activations: U8,
    text_scale: Any,
    logarithms: int,
    found: tuple[I32, F32],
) -> int:
    """Decode a text over a range of blocks, and keep the rows whose weight is above zero.

    Called from Python with plain tuples: Numba takes 0.5 µs longer to find the type of a named one.

    Parameters
    ----------
    first, last : int
        Blocks of 32 rows, the last one excluded.
    matrix : tuple
        The decoder: the fields of :class:`Matrices`. The rows that fill up its last block must have a bias below zero.
    activations : uint8 [length, hidden]
        Whole numbers around 128. ``length`` is in ``TILES`` or above them, ``hidden`` a multiple of 4.
    text_scale : float32
        What the activations are in units of.
    logarithms : int
        How many times log(1 + x) is taken of the sums.
    found : tuple
        int32 [n] for the rows, ascending, and float32 [n] for their weights, with room for every row of the range.

    Returns
    -------
    int
        How many rows were found.
    """
    length, hidden = activations.shape
    rows, offset, scale, bias = matrix
    packed = Matrices(rows, offset, scale, bias)
    terms, weights = found
    best = np.empty(BLOCK, np.int32)
    tiles = (length + _LARGE - 1) // _LARGE
    size = _SMALL if tiles * _SMALL >= length else _MIDDLE if tiles * _MIDDLE >= length else _LARGE
    count = 0
    for block in range(first, last):
        best[:] = _LOWEST
        row = block * BLOCK
        first_byte = row * hidden
        for tile in range(tiles):
            position = min(tile * size, length - size)
            if size == _LARGE:
                _tile_large(packed, first_byte, row, activations, position, best)
            elif size == _MIDDLE:
                _tile_middle(packed, first_byte, row, activations, position, best)
            else:
                _tile_small(packed, first_byte, row, activations, position, best)
        scales, biases = scale[row : row + BLOCK], bias[row : row + BLOCK]
        above = False
        for i in range(BLOCK):
            above |= np.float32(best[i]) * (text_scale * scales[i]) + biases[i] > 0
        if above:  # rare: a query has about 20 terms
            for i in range(BLOCK):
                value = np.float32(best[i]) * (text_scale * scales[i]) + biases[i]
                if value > 0:
                    terms[count] = row + i
                    weights[count] = value
                    count += 1
    for _ in range(logarithms):
        log1p(weights, count)
    return count
