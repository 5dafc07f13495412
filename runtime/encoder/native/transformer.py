"""A BERT encoder of our own in int8: how its weights lie in a file, and what it computes, in NumPy.

The kernel in :mod:`transformer_kernels` computes the same, number for number: each sum is taken in the same order, and
exp and erf are written out in both. So it does not matter to a vector which of them made it.

Weights and activations of all products are int8: a scale for each row of a matrix, and one for each token. Embeddings
and normalizations are float32. The last activations are bytes with one scale a text, for :mod:`decoder`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...artifact import TransformerPart
from ...errors import ArtifactError, export_again
from ..graph_files import reading_graph
from .decoder import DecoderRows

F32 = npt.NDArray[np.float32]
# Rows are packed by so many, and 4 values of each together (see products.py).
BLOCK, GROUP = 32, 4
LANES = 16  # that a sum over a row is made in
_ALIGNED = 64  # bytes that each array in the file begins at a multiple of
_EXACT = 1 << 24  # sums of products are whole in float32 below this

LEVELS, ZERO, SMALLEST, ROUNDER = (np.float32(x) for x in (127, 128, 1e-12, 12582912))
# erf(x) is 1 - (1 + a1 x + … + a6 x^6)^-16, off by at most 3e-7 (Abramowitz & Stegun 7.1.28); here for x / sqrt(2).
ERF = tuple(
    np.float32(a * 0.5 ** (i / 2))
    for i, a in enumerate((0.0705230784, 0.0422820123, 0.0092705272, 0.0001520143, 0.0002765672, 0.0000430638), 1)
)
# exp(x) is 2^n times a polynomial in what is left of x; ln 2 in two parts, the first of few bits.
LOG2_E, LN2_HIGH, LN2_LOW = (np.float32(x) for x in (1.44269504, 0.693359375, -2.12194440e-4))
EXP = tuple(np.float32(1 / factorial) for factorial in (1, 1, 2, 6, 24, 120, 720))
LEAST_EXPONENT = np.float32(-87)


def matrices(part: TransformerPart) -> list[tuple[int, int]]:
    """(rows, columns) of each matrix, in the order of the file: of each layer queries, keys and values together, what
    joins the heads, the two of the feed-forward part; then the head's.
    """
    h, inner = part.hidden, part.inner
    return [(3 * h, h), (h, h), (inner, h), (h, inner)] * part.layers + [(h, h)]


def sections(part: TransformerPart, vocab_size: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The arrays of a file, in order: dtype and shape.

    ``rows`` are all matrices, packed; ``scale``, ``bias`` and ``offset`` (-128 times the sum) are of their rows.
    ``words`` are absent where the embeddings are the decoder's rows. ``positions`` hold what every token gets besides.
    ``norms``: gain and bias of the embeddings' normalization, the two of each layer, and the head's.
    """
    h, shapes = part.hidden, matrices(part)
    rows = sum(n for n, _ in shapes)
    words = {} if part.tied else {"words": ("<i1", (vocab_size, h)), "words_scale": ("<f4", (vocab_size,))}
    return {
        "decoder": ("<i1", (vocab_size, h)),
        "decoder_scale": ("<f4", (vocab_size,)),
        "decoder_bias": ("<f4", (vocab_size,)),
        **words,
        "positions": ("<f4", (part.positions, h)),
        "norms": ("<f4", (2 * part.layers + 2, 2, h)),
        "rows": ("<i1", (sum(n * k for n, k in shapes),)),
        "scale": ("<f4", (rows,)),
        "bias": ("<f4", (rows,)),
        "offset": ("<i4", (rows,)),
    }


def offsets(part: TransformerPart, vocab_size: int) -> tuple[dict[str, int], int]:
    """Where each array begins, and the size of the file."""
    at, found = 0, {}
    for name, (dtype, shape) in sections(part, vocab_size).items():
        at = -(-at // _ALIGNED) * _ALIGNED
        found[name] = at
        at += math.prod(shape) * np.dtype(dtype).itemsize
    return found, at


def pack(matrix: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """int8 ``[rows, columns]`` as kernels read it, flat."""
    rows, columns = matrix.shape
    fours = matrix.reshape(rows // BLOCK, BLOCK, columns // GROUP, GROUP)
    return np.ascontiguousarray(fours.transpose(0, 2, 1, 3)).reshape(-1)


def unpack(packed: npt.NDArray[np.int8], rows: int, columns: int) -> npt.NDArray[np.int8]:
    """The inverse of :func:`pack`."""
    fours = packed.reshape(rows // BLOCK, columns // GROUP, BLOCK, GROUP)
    return np.ascontiguousarray(fours.transpose(0, 2, 1, 3)).reshape(rows, columns)


def problem_with(part: TransformerPart) -> str:
    """What keeps a transformer of these sizes from running here, "" if nothing."""
    if min(part.layers, part.hidden, part.heads, part.inner, part.positions) < 1:
        return "a size below 1"
    if part.layers > 1000 or max(part.hidden, part.heads, part.inner, part.positions) > 1 << 20:
        return "a size beyond any encoder"
    if part.hidden % BLOCK or part.inner % BLOCK or part.hidden % (part.heads * LANES):
        return f"{part.hidden} values in {part.heads} heads, {part.inner} between; multiples of 32, and of 16 a head"
    if not 0 < part.epsilon < 1:
        return f"an epsilon of {part.epsilon}"
    return ""


@dataclass(frozen=True)
class Transformer:
    """A transformer's weights, mapped from its file; see :func:`sections`."""

    part: TransformerPart
    words: npt.NDArray[np.int8]
    words_scale: F32
    positions: F32
    norms: F32
    rows: npt.NDArray[np.int8]
    scale: F32
    bias: F32
    offset: npt.NDArray[np.int32]

    @classmethod
    def open(cls, path: Path, part: TransformerPart, vocab_size: int) -> tuple[Transformer, DecoderRows]:
        """The encoder in a file and its decoder. Raises ArtifactError if it does not hold them."""
        wrong = f"{path} does not hold the encoder that its manifest describes"
        if reason := problem_with(part):
            raise ArtifactError(f"{wrong} ({reason}); {export_again()}")
        starts, size = offsets(part, vocab_size)
        with reading_graph(path, wrong):
            if path.stat().st_size != size:
                raise ValueError
            found: dict[str, Any] = {
                name: np.asarray(np.memmap(path, dtype, "r", starts[name], shape))
                for name, (dtype, shape) in sections(part, vocab_size).items()
            }
        floats = [array for array in found.values() if array.dtype == np.float32]
        scales = [array for name, array in found.items() if name.endswith("scale")]
        if not (all(np.isfinite(array).all() for array in floats) and all(array.min() > 0 for array in scales)):
            raise ArtifactError(f"{path} has weights that are not finite; {export_again()}")
        decoder = DecoderRows(found.pop("decoder"), found.pop("decoder_scale"), found.pop("decoder_bias"))
        if part.tied:
            found |= {"words": decoder.weights, "words_scale": decoder.scale}
        return cls(part, **found), decoder

    def embed(self, ids: npt.NDArray[np.int64]) -> F32:
        """The sum of each token's embeddings, float32 ``[length, hidden]``."""
        values = np.multiply(self.words[ids], self.words_scale[ids, None], dtype=np.float32)
        values += self.positions[: ids.size]
        return values

    def products(self) -> Iterator[tuple[npt.NDArray[np.int8], F32, F32]]:
        """Each matrix with the scale and the bias of its rows."""
        at = row = 0
        for rows, columns in matrices(self.part):
            matrix = unpack(self.rows[at : at + rows * columns], rows, columns)
            yield matrix, self.scale[row : row + rows], self.bias[row : row + rows]
            at, row = at + rows * columns, row + rows

    def nanoseconds(self, length: int) -> float:
        """About how long :meth:`encode` takes for a text of ``length`` tokens."""
        return 1.5e6 * self.part.layers + self.rows.size * (2.0 + 0.06 * length)

    def encode(self, values: F32) -> tuple[npt.NDArray[np.uint8], np.float32]:
        """Activations uint8 ``[length, hidden]`` around 128 and their scale, of embeddings ``[length, hidden]``."""
        part, products = self.part, self.products()
        epsilon = np.float32(part.epsilon)
        values = normalize(values, self.norms[0], epsilon)
        for layer in range(part.layers):
            joined = multiply(attend(multiply(values, *next(products)), part.heads), *next(products))
            values = normalize(values + joined, self.norms[2 * layer + 1], epsilon)
            inner = multiply(gelu(multiply(values, *next(products))), *next(products))
            values = normalize(values + inner, self.norms[2 * layer + 2], epsilon)
        values = normalize(gelu(multiply(values, *next(products))), self.norms[-1], epsilon)
        largest = np.maximum(np.abs(values).max(), SMALLEST)
        return to_bytes(values, LEVELS / largest).astype(np.uint8), np.float32(largest / LEVELS)


def to_bytes(values: F32, levels: Any) -> F32:
    """Whole numbers around 128, so many ``levels`` a unit, as floats."""
    rounded: F32 = (values * levels + ROUNDER) - ROUNDER + ZERO
    return rounded


def multiply(values: F32, matrix: npt.NDArray[np.int8], scale: F32, bias: F32) -> F32:
    """``values`` ``[length, columns]``, quantized token by token, times int8 ``[rows, columns]``."""
    largest = np.maximum(np.abs(values).max(axis=1, keepdims=True), SMALLEST)
    dtype = np.float32 if 127 * 128 * matrix.shape[1] < _EXACT else np.float64
    signed: npt.NDArray[Any] = (to_bytes(values, LEVELS / largest) - ZERO).astype(dtype)
    widened: npt.NDArray[Any] = matrix.astype(dtype)
    sums = (signed @ widened.T).astype(np.float32)
    product: F32 = sums * (largest / LEVELS * scale) + bias
    return product


def sum_of_rows(values: F32) -> F32:
    """``[length, 1]``: 16 lanes, then halves."""
    lanes = np.add.accumulate(values.reshape(len(values), -1, LANES), axis=1)[:, -1]
    lanes = lanes[:, :8] + lanes[:, 8:]
    lanes = lanes[:, :4] + lanes[:, 4:]
    total: F32 = (lanes[:, 0] + lanes[:, 2]) + (lanes[:, 1] + lanes[:, 3])
    return total[:, None]


def normalize(values: F32, norm: F32, epsilon: np.float32) -> F32:
    """Layer normalization; ``norm``: gain and bias."""
    size = np.float32(values.shape[1])
    values = values - sum_of_rows(values) / size
    factor = np.float32(1) / np.sqrt(sum_of_rows(values * values) / size + epsilon)
    normalized: F32 = values * factor * norm[0] + norm[1]
    return normalized


def gelu(values: F32) -> F32:
    """x (1 + erf(x / sqrt 2)) / 2."""
    magnitude = np.abs(values)
    powers = np.full_like(magnitude, ERF[-1])
    for coefficient in reversed(ERF[:-1]):
        powers = coefficient + magnitude * powers
    powers = np.float32(1) + magnitude * powers
    with np.errstate(over="ignore"):  # the tail is 0 then
        for _ in range(4):
            powers = powers * powers
    tail = np.float32(0.5) / powers
    result: F32 = values * np.where(values > 0, np.float32(1) - tail, tail)
    return result


def exponential(values: F32) -> F32:
    """exp of values that are not above 0."""
    values = np.maximum(values, LEAST_EXPONENT)
    whole = (values * LOG2_E + ROUNDER) - ROUNDER
    rest = values - whole * LN2_HIGH - whole * LN2_LOW
    result = np.full_like(rest, EXP[-1])
    for coefficient in reversed(EXP[:-1]):
        result = coefficient + rest * result
    power = ((whole.astype(np.int32) + np.int32(127)) << np.int32(23)).view(np.float32)
    exponentials: F32 = result * power
    return exponentials


def attend(mixed: F32, heads: int) -> F32:
    """Attention over ``[length, 3 x hidden]`` (queries, keys, values): ``[length, hidden]``."""
    length, hidden = len(mixed), mixed.shape[1] // 3
    queries, keys, values = mixed.reshape(length, 3, heads, hidden // heads).transpose(1, 2, 0, 3)
    queries = queries * (np.float32(1) / np.sqrt(np.float32(hidden // heads)))
    # One term of each sum after the other: [heads, keys, queries], then [heads, queries, width].
    scores = np.zeros((heads, length, length), np.float32)
    for d in range(hidden // heads):
        scores += keys[:, :, d, None] * queries[:, None, :, d]
    weights = exponential(scores - scores.max(axis=1, keepdims=True))
    total = np.zeros((heads, length), np.float32)
    context = np.zeros((heads, length, hidden // heads), np.float32)
    for j in range(length):
        total += weights[:, j]
        context += weights[:, j, :, None] * values[:, j, None, :]
    context *= (np.float32(1) / total)[:, :, None]
    return np.ascontiguousarray(context.transpose(1, 0, 2)).reshape(length, hidden)
