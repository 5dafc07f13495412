"""A BERT encoder with its head in int8: what :mod:`transformer` computes, number for number, in one kernel.

Between the int8 products everything is float32, in loops over neighbours in memory, which LLVM makes vector code of;
the products of attention are float32 too, in tiles of 4 x 16 in registers. exp and erf are written out, for a call
cannot be vectorized, and divisions do not raise, for the same reason. No sum may be taken in another order than there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...numba_support.arrays import F32, I32, I64, U8
from ...numba_support.cache import kernel, vector_kernel
from .products import BLOCK, FLOATS, TILES, Matrices, Strided, Tokens, float_tile, scaled_tile
from .quantized_rows import largest_magnitude, normalize, to_bytes
from .transformer import ERF, EXP, LANES, LEAST_EXPONENT, LEVELS, LN2_HIGH, LN2_LOW, LOG2_E, ROUNDER, SMALLEST

_tile_small, _tile_middle, _tile_large = (scaled_tile(positions) for positions in TILES)
_SMALL, _MIDDLE, _LARGE = TILES
_ROWS = 4
_float_tile = float_tile(_ROWS)
HALF, ONE = np.float32(0.5), np.float32(1.0)
E1, E2, E3, E4, E5, E6 = ERF
P2, P3, P4, P5, P6 = EXP[2:]


class Embeddings(NamedTuple):
    """The embeddings of tokens and positions.

    Attributes
    ----------
    words : int8 [vocab, hidden]
    words_scale : float32 [vocab]
    positions : float32 [>= length, hidden]
        What a token gets besides, by its position.
    """

    words: Any
    words_scale: F32
    positions: F32


@vector_kernel
def quantize(values: F32, tokens: Tokens) -> None:
    """Quantize each row.

    Parameters
    ----------
    values : float32 [positions, hidden]
        What is quantized.
    tokens : Tokens
        Gets the bytes of each row, and its scale.
    """
    size = values.shape[1]
    from_, into = values.reshape(-1), tokens.values.reshape(-1)
    for p in range(values.shape[0]):
        largest = max(largest_magnitude(from_, p * size, size), SMALLEST)
        tokens.scales[p] = largest / LEVELS
        to_bytes(from_, p * size, size, LEVELS / largest, into, p * size)


@vector_kernel
def normalize_rows(values: F32, norm: F32, epsilon: Any) -> None:
    """Layer normalization of each row, in place.

    Parameters
    ----------
    values : float32 [positions, hidden]
        The rows.
    norm : float32 [2, hidden]
        Gain and bias.
    epsilon : float32
        Added to the variance.
    """
    size = values.shape[1]
    flat, gain, bias = values.reshape(-1), norm[0], norm[1]
    for p in range(values.shape[0]):
        normalize(flat, p * size, size, gain, bias, epsilon)


@vector_kernel
def multiply(tokens: Tokens, matrices: Matrices, first_byte: int, first_row: int, out: F32) -> None:
    """The product of quantized activations and one of the matrices.

    Parameters
    ----------
    tokens : Tokens [positions, hidden]
        Positions are as many as in ``TILES``, or more.
    matrices : Matrices
        All matrices of the transformer.
    first_byte, first_row : int
        Where the matrix begins in ``matrices.rows``, and in the other arrays.
    out : float32 [positions, rows]
        The result: as many columns as the matrix has rows.
    """
    length, hidden = tokens.values.shape
    tiles = (length + _LARGE - 1) // _LARGE
    size = _SMALL if tiles * _SMALL >= length else _MIDDLE if tiles * _MIDDLE >= length else _LARGE
    for block in range(out.shape[1] // BLOCK):
        column = block * BLOCK
        at, row = first_byte + column * hidden, first_row + column
        for tile in range(tiles):
            position = min(tile * size, length - size)
            if size == _LARGE:
                _tile_large(matrices, at, row, tokens, position, out, column)
            elif size == _MIDDLE:
                _tile_middle(matrices, at, row, tokens, position, out, column)
            else:
                _tile_small(matrices, at, row, tokens, position, out, column)


@vector_kernel
def gelu(row: F32) -> None:
    """x (1 + erf(x / sqrt 2)) / 2 of each value of ``row`` (float32 [n]), in place."""
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
    """exp of 16 values, in place.

    Parameters
    ----------
    values : float32 [16]
        None of them above 0.
    exponents : int32 [16]
        Workspace.
    """
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
    """Multi-head attention.

    A score's row is its key, so that all loops go along the queries, or along a value.

    Parameters
    ----------
    mixed : float32 [positions, 3 x hidden]
        Queries, keys and values of each position.
    length : int
        Tokens of the text; the other positions fill up a tile.
    heads : int
        Their width is ``hidden / heads``, a multiple of 16.
    out : float32 [positions, hidden]
        The result.
    queries : float32 [width, padded]
        Workspace, zeros beyond ``length``; ``padded``: the length rounded up to a multiple of 16.
    scores : float32 [positions, padded]
        Workspace.
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
                keys = Strided(all_mixed, j * 3 * hidden + hidden + at, 3 * hidden, 1)
                some_queries = Strided(all_queries, chunk, padded, 1)
                _float_tile(keys, some_queries, width, Strided(all_scores, j * padded + chunk, padded, 1))
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
                weights = Strided(all_scores, i, 1, padded)
                some_values = Strided(all_mixed, 2 * hidden + at + d, 3 * hidden, 1)
                _float_tile(weights, some_values, length, Strided(all_out, i * hidden + at + d, hidden, 1))
        for i in range(length):
            context, share = out[i, at : at + width], ONE / total[i]
            for d in range(width):
                context[d] *= share


@vector_kernel
def add(values: F32, more: F32) -> None:
    """``values += more``, both float32 [positions, hidden]."""
    from_, into = more.reshape(-1), values.reshape(-1)
    for i in range(into.size):
        into[i] += from_[i]


@vector_kernel
def embed(ids: I64, embeddings: Embeddings, values: F32) -> None:
    """Sum the embeddings of each token.

    Parameters
    ----------
    ids : int64 [length]
        Token ids.
    embeddings : Embeddings
        What is summed.
    values : float32 [>= length, hidden]
        The result, a row a token; further rows stay as they are.
    """
    for p in range(ids.size):
        word, scale = embeddings.words[ids[p]], embeddings.words_scale[ids[p]]
        position, row = embeddings.positions[p], values[p]
        for i in range(row.size):
            row[i] = np.float32(word[i]) * scale + position[i]


@kernel
def encode(
    ids: I64,
    embeddings: tuple[Any, F32, F32],
    sizes: tuple[int, int, int, Any],
    matrices: tuple[Any, I32, F32, F32],
    norms: F32,
    activations: U8,
) -> Any:
    """The transformer and its head.

    Called from Python with plain tuples: Numba takes 0.5 µs longer to find the type of a named one, thrice a query.

    Parameters
    ----------
    ids : int64 [length]
        Token ids within ``embeddings.words``.
    embeddings : tuple
        The fields of :class:`Embeddings`; ``hidden`` is a multiple of 32.
    sizes : tuple
        Layers, heads, the width of the feed-forward part (a multiple of 32), and the epsilon (float32) of the layer
        normalizations.
    matrices : tuple
        The fields of :class:`Matrices`. The matrices lie one after the other: for each layer queries, keys and values
        ``[3 x hidden]``, ``[hidden]``, ``[inner]``, ``[hidden]``; then the head's ``[hidden]``.
    norms : float32 [2 x layers + 2, 2, hidden]
        Gain and bias of each layer normalization.
    activations : uint8 [length, hidden]
        The result, around 128.

    Returns
    -------
    float32
        What the activations are in units of.
    """
    length, hidden = activations.shape
    words, words_scale, word_places = embeddings
    layers, heads, inner, epsilon = sizes
    rows, offset, scale, bias = matrices
    packed = Matrices(rows, offset, scale, bias)
    # Rows of zeros fill a short text up to a tile.
    positions = _SMALL if length <= _SMALL else _MIDDLE if length <= _MIDDLE else max(length, _LARGE)
    values = np.zeros((positions, hidden), np.float32)
    scales = np.empty(positions, np.float32)
    tokens = Tokens(np.empty((positions, hidden), np.uint8), scales)
    inner_tokens = Tokens(np.empty((positions, inner), np.uint8), scales)
    mixed, between = np.empty((positions, 3 * hidden), np.float32), np.empty((positions, inner), np.float32)
    result = np.zeros((positions, hidden), np.float32)
    padded = -(-max(length, positions) // LANES) * LANES
    queries, scores = np.zeros((hidden // heads, padded), np.float32), np.empty((positions, padded), np.float32)
    at, row = 0, 0
    embed(ids, Embeddings(words, words_scale, word_places), values)
    normalize_rows(values, norms[0], epsilon)
    for layer in range(layers):
        quantize(values, tokens)
        multiply(tokens, packed, at, row, mixed)
        at, row = at + 3 * hidden * hidden, row + 3 * hidden
        attend(mixed, length, heads, result, queries, scores)
        quantize(result, tokens)
        multiply(tokens, packed, at, row, result)
        at, row = at + hidden * hidden, row + hidden
        add(values, result)
        normalize_rows(values, norms[2 * layer + 1], epsilon)
        quantize(values, tokens)
        multiply(tokens, packed, at, row, between)
        at, row = at + inner * hidden, row + inner
        gelu(between.reshape(-1))
        quantize(between, inner_tokens)
        multiply(inner_tokens, packed, at, row, result)
        at, row = at + hidden * inner, row + hidden
        add(values, result)
        normalize_rows(values, norms[2 * layer + 2], epsilon)
    quantize(values, tokens)
    multiply(tokens, packed, at, row, result)
    gelu(result.reshape(-1))
    normalize_rows(result, norms[2 * layers + 1], epsilon)
    flat, out = result.reshape(-1), activations.reshape(-1)
    largest = max(largest_magnitude(flat, 0, length * hidden), SMALLEST)
    to_bytes(flat, 0, length * hidden, LEVELS / largest, out, 0)
    return largest / LEVELS
