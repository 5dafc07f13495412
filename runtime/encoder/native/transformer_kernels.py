"""A BERT encoder with its head in int8: what :mod:`transformer` computes, number for number, in one kernel.

Between the int8 products everything is float32, in loops over neighbours in memory, which LLVM makes vector code of;
the products of attention are float32 too, in tiles of 4 x 16 in registers. exp and erf are written out, for a call
cannot be vectorized, and divisions do not raise, for the same reason. No sum may be taken in another order than there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...numba_support.arrays import F32, I32, I64, U8
from ...numba_support.cache import kernel, vector_kernel
from .products import BLOCK, FLOATS, TILES, float_tile, scaled_tile
from .quantized_rows import largest_magnitude, normalize, to_bytes
from .transformer import ERF, EXP, LANES, LEAST_EXPONENT, LEVELS, LN2_HIGH, LN2_LOW, LOG2_E, ROUNDER, SMALLEST

_tile_small, _tile_middle, _tile_large = (scaled_tile(positions) for positions in TILES)
_SMALL, _MIDDLE, _LARGE = TILES
_ROWS = 4
_float_tile = float_tile(_ROWS)
HALF, ONE = np.float32(0.5), np.float32(1.0)
E1, E2, E3, E4, E5, E6 = ERF
P2, P3, P4, P5, P6 = EXP[2:]


@vector_kernel
def quantize(values: F32, out: U8, scales: F32) -> None:
    """Each row of ``values`` as bytes around 128, and its scale."""
    size = values.shape[1]
    from_, into = values.reshape(-1), out.reshape(-1)
    for p in range(values.shape[0]):
        largest = max(largest_magnitude(from_, p * size, size), SMALLEST)
        scales[p] = largest / LEVELS
        to_bytes(from_, p * size, size, LEVELS / largest, into, p * size)


@vector_kernel
def normalize_rows(values: F32, norm: F32, epsilon: Any) -> None:
    """Layer normalization of each row, in place; ``norm``: gain and bias."""
    size = values.shape[1]
    flat, gain, bias = values.reshape(-1), norm[0], norm[1]
    for p in range(values.shape[0]):
        normalize(flat, p * size, size, gain, bias, epsilon)


@vector_kernel
def multiply(
    bytes_: U8, token_scales: F32, rows: Any, first: int, offset: I32, scale: F32, bias: F32, column: int, out: F32
) -> None:
    """``out`` ``[positions, columns]``: the product with a matrix whose rows begin at ``first`` of ``rows`` and whose
    columns are those from ``column`` on of ``offset``, ``scale`` and ``bias``. Positions are as many as in ``TILES``,
    or more.
    """
    length, hidden = bytes_.shape
    columns = out.shape[1]
    bytes_flat, out_flat = bytes_.reshape(-1), out.reshape(-1)
    tiles = (length + _LARGE - 1) // _LARGE
    size = _SMALL if tiles * _SMALL >= length else _MIDDLE if tiles * _MIDDLE >= length else _LARGE
    for block in range(columns // BLOCK):
        row = first + block * BLOCK * hidden
        term = column + block * BLOCK
        for tile in range(tiles):
            p = min(tile * size, length - size)
            result = p * columns + block * BLOCK
            if size == _LARGE:
                _tile_large(
                    rows, row, bytes_flat, p * hidden, hidden, offset, scale, bias, term, token_scales, p,
                    out_flat, result, columns,
                )  # fmt: skip
            elif size == _MIDDLE:
                _tile_middle(
                    rows, row, bytes_flat, p * hidden, hidden, offset, scale, bias, term, token_scales, p,
                    out_flat, result, columns,
                )  # fmt: skip
            else:
                _tile_small(
                    rows, row, bytes_flat, p * hidden, hidden, offset, scale, bias, term, token_scales, p,
                    out_flat, result, columns,
                )  # fmt: skip


@vector_kernel
def gelu(row: F32) -> None:
    """x (1 + erf(x / sqrt 2)) / 2, in place."""
    for i in range(row.size):
        x = row[i]
        a = abs(x)
        q = ONE + a * (E1 + a * (E2 + a * (E3 + a * (E4 + a * (E5 + a * E6)))))
        q *= q
        q *= q
        q *= q
        q *= q
        tail = HALF / q  # (1 - erf) / 2 of the magnitude
        row[i] = x * (ONE - tail if x > 0 else tail)


@vector_kernel
def exponentials(values: F32, exponents: I32) -> None:
    """exp of 16 values that are not above 0, in place."""
    for i in range(LANES):
        x = values[i] if values[i] > LEAST_EXPONENT else LEAST_EXPONENT
        n = (x * LOG2_E + ROUNDER) - ROUNDER
        exponents[i] = (np.int32(n) + np.int32(127)) << np.int32(23)
        r = x - n * LN2_HIGH - n * LN2_LOW
        values[i] = ONE + r * (ONE + r * (P2 + r * (P3 + r * (P4 + r * (P5 + r * P6)))))
    powers = exponents.view(np.float32)
    for i in range(LANES):
        values[i] *= powers[i]


@vector_kernel
def attend(mixed: F32, length: int, heads: int, out: F32, queries: F32, scores: F32) -> None:
    """Attention of each head over ``mixed`` ``[positions, 3 x hidden]`` (queries, keys, values): ``out`` ``[positions,
    hidden]``. Workspace: ``queries`` ``[width, padded]`` and ``scores`` ``[positions, padded]``, with the length padded
    to a multiple of 16. A score's row is its key, so that all loops go along the queries, or along a value.
    """
    positions, hidden = out.shape
    width = hidden // heads
    padded = queries.shape[1]
    root = ONE / np.sqrt(np.float32(width))
    exponents = np.empty(LANES, np.int32)
    largest, total = np.empty(padded, np.float32), np.empty(padded, np.float32)
    all_mixed, all_queries, all_scores, all_out = (
        mixed.reshape(-1), queries.reshape(-1), scores.reshape(-1), out.reshape(-1),
    )  # fmt: skip
    for head in range(heads):
        at = head * width
        for i in range(length):
            query = mixed[i, at : at + width]
            for d in range(width):
                queries[d, i] = query[d] * root
        for chunk in range(0, padded, LANES):
            most, sums = largest[chunk : chunk + LANES], total[chunk : chunk + LANES]
            for tile in range(0, positions, _ROWS):
                j = min(tile, positions - _ROWS)
                _float_tile(
                    all_mixed, j * 3 * hidden + hidden + at, 3 * hidden, 1, all_queries, chunk, padded, width,
                    all_scores, j * padded + chunk, padded,
                )  # fmt: skip
            most[:] = np.float32(-np.inf)
            for j in range(length):
                row = scores[j, chunk : chunk + LANES]
                for i in range(LANES):
                    most[i] = row[i] if row[i] > most[i] else most[i]
            sums[:] = 0
            for j in range(length):
                row = scores[j, chunk : chunk + LANES]
                for i in range(LANES):
                    row[i] -= most[i]
                exponentials(row, exponents)
                for i in range(LANES):
                    sums[i] += row[i]
        for tile in range(0, positions, _ROWS):
            i = min(tile, positions - _ROWS)
            for d in range(0, width, FLOATS):
                _float_tile(
                    all_scores, i, 1, padded, all_mixed, 2 * hidden + at + d, 3 * hidden, length,
                    all_out, i * hidden + at + d, hidden,
                )  # fmt: skip
        for i in range(length):
            context, share = out[i, at : at + width], ONE / total[i]
            for d in range(width):
                context[d] *= share


@vector_kernel
def add(values: F32, more: F32) -> None:
    """values += more."""
    from_, into = more.reshape(-1), values.reshape(-1)
    for i in range(into.size):
        into[i] += from_[i]


@vector_kernel
def embed(ids: I64, words: Any, words_scale: F32, places: F32, values: F32) -> None:
    """The sum of each token's embeddings to a row of ``values``."""
    for p in range(ids.size):
        word, own, place, row = words[ids[p]], words_scale[ids[p]], places[p], values[p]
        for i in range(row.size):
            row[i] = np.float32(word[i]) * own + place[i]


@kernel
def encode(
    ids: I64,
    words: Any,
    words_scale: F32,
    places: F32,
    layers: int,
    heads: int,
    inner: int,
    epsilon: Any,
    rows: Any,
    offset: I32,
    scale: F32,
    bias: F32,
    norms: F32,
    activations: U8,
) -> Any:
    """The transformer and its head: ``activations`` uint8 ``[length, hidden]`` around 128; returns their scale.

    ``ids`` int64 ``[length]``, within ``words`` int8 ``[vocab, hidden]`` and ``words_scale`` float32 ``[vocab]``;
    ``places`` float32 ``[>= length, hidden]``: what every token gets besides. ``rows`` int8: of each product the rows
    packed as in :mod:`products`, one after the other: for each layer queries, keys and values ``[3 x hidden]``,
    ``[hidden]``, ``[inner]``, ``[hidden]``; then the head's ``[hidden]``; ``offset`` int32, ``scale`` and ``bias``
    float32 of their columns. ``norms`` float32 ``[2 x layers + 2, 2, hidden]``: gain and bias of each layer
    normalization. ``hidden`` and ``inner`` are multiples of 32.
    """
    length, hidden = activations.shape
    # Rows of zeros fill a short text up to a tile.
    positions = _SMALL if length <= _SMALL else _MIDDLE if length <= _MIDDLE else max(length, _LARGE)
    values = np.zeros((positions, hidden), np.float32)
    bytes_, scales = np.empty((positions, hidden), np.uint8), np.empty(positions, np.float32)
    inner_bytes = np.empty((positions, inner), np.uint8)
    mixed, between = np.empty((positions, 3 * hidden), np.float32), np.empty((positions, inner), np.float32)
    result = np.zeros((positions, hidden), np.float32)
    padded = -(-max(length, positions) // LANES) * LANES
    queries, scores = np.zeros((hidden // heads, padded), np.float32), np.empty((positions, padded), np.float32)
    row, column = 0, 0
    embed(ids, words, words_scale, places, values)
    normalize_rows(values, norms[0], epsilon)
    for layer in range(layers):
        quantize(values, bytes_, scales)
        multiply(bytes_, scales, rows, row, offset, scale, bias, column, mixed)
        row, column = row + 3 * hidden * hidden, column + 3 * hidden
        attend(mixed, length, heads, result, queries, scores)
        quantize(result, bytes_, scales)
        multiply(bytes_, scales, rows, row, offset, scale, bias, column, result)
        row, column = row + hidden * hidden, column + hidden
        add(values, result)
        normalize_rows(values, norms[2 * layer + 1], epsilon)
        quantize(values, bytes_, scales)
        multiply(bytes_, scales, rows, row, offset, scale, bias, column, between)
        row, column = row + inner * hidden, column + inner
        gelu(between.reshape(-1))
        quantize(between, inner_bytes, scales)
        multiply(inner_bytes, scales, rows, row, offset, scale, bias, column, result)
        row, column = row + hidden * inner, column + hidden
        add(values, result)
        normalize_rows(values, norms[2 * layer + 2], epsilon)
    quantize(values, bytes_, scales)
    multiply(bytes_, scales, rows, row, offset, scale, bias, column, result)
    gelu(result.reshape(-1))
    normalize_rows(result, norms[2 * layers + 1], epsilon)
    flat, out = result.reshape(-1), activations.reshape(-1)
    largest = max(largest_magnitude(flat, 0, length * hidden), SMALLEST)
    to_bytes(flat, 0, length * hidden, LEVELS / largest, out, 0)
    return largest / LEVELS
