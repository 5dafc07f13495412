"""The vocabulary decoder outside the graph: int8 rows of all terms, or of those that an index has postings of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ...forking import Threads, undivided
from ...numba_support.arrays import cacheline_aligned
from ...vectors import SparseVector
from .logarithm import log1p

Activations = npt.NDArray[np.uint8]
Weights = npt.NDArray[np.float32]
# A text is decoded by several threads from so many products on (about half a millisecond with VNNI).
_PARALLEL = 1 << 27
# Rows that the NumPy form holds as floats at a time.
_ROWS = 2048
# What it takes, in nanoseconds: a weight made a float, and multiplied.
_WIDEN, _MULTIPLY = 0.6, 0.04
# Beyond this, sums of products are not whole in float32.
_EXACT = 1 << 24


# By the name in an artifact's manifest: how many times log(1 + x) is taken of the sums that are above zero.
ACTIVATIONS = {"relu": 0, "log1p_relu": 1, "log1p_log1p_relu": 2}


@dataclass(frozen=True)
class DecoderRows:
    """The decoder of an artifact: ``weights`` int8 ``[vocab, hidden]``, ``scale`` and ``bias`` float32 ``[vocab]``."""

    weights: npt.NDArray[np.int8]
    scale: Weights
    bias: Weights

    def take(self, terms: npt.NDArray[np.int32] | None) -> DecoderRows:
        """The rows of these terms; None: all."""
        if terms is None:
            return self
        return DecoderRows(self.weights[terms], self.scale[terms], self.bias[terms])


class Decoder(ABC):
    """Activations of a text to its sparse vector, over the rows it was made with.

    ``rows``: see :class:`DecoderRows`. ``terms``: int32, ascending, the terms to keep; None: all. ``activation``: a
    name in ``ACTIVATIONS``. The vector has exactly the weights that all rows would give these terms.
    """

    def __init__(self, rows: DecoderRows, terms: npt.NDArray[np.int32] | None, activation: str) -> None:
        self.terms = terms
        self._logarithms = ACTIVATIONS[activation]

    def decode(self, activations: Activations, scale: np.float32) -> SparseVector:
        """The vector of a text: ``activations`` uint8 ``[length, hidden]`` around 128, in units of ``scale``."""
        places, weights = self._above_zero(np.ascontiguousarray(activations), np.float32(scale))
        return SparseVector(places if self.terms is None else self.terms[places], weights)

    @abstractmethod
    def _above_zero(self, activations: Activations, scale: np.float32) -> tuple[npt.NDArray[np.int32], Weights]:
        """The places of the rows whose weight is above zero, ascending, and the weights."""


class NumpyDecoder(Decoder):
    """In NumPy: float32 products of whole numbers, which are exact below 2^24. Slow, and needs neither Numba nor room:
    the rows become floats some at a time.
    """

    def __init__(self, rows: DecoderRows, terms: npt.NDArray[np.int32] | None, activation: str) -> None:
        super().__init__(rows, terms, activation)
        self._rows = rows.take(terms)
        exact = 127 * 128 * rows.weights.shape[1] < _EXACT
        self._dtype: npt.DTypeLike = np.float32 if exact else np.float64

    @staticmethod
    def nanoseconds(rows: int, hidden: int, positions: int) -> float:
        """About how long so many positions take."""
        return rows * hidden * (_WIDEN + _MULTIPLY * positions)

    def _above_zero(self, activations: Activations, scale: np.float32) -> tuple[npt.NDArray[np.int32], Weights]:
        signed: npt.NDArray[Any] = activations.astype(self._dtype) - 128
        rows = self._rows
        best = np.empty(len(rows.weights), np.float32)
        for start in range(0, best.size, _ROWS):
            part = rows.weights[start : start + _ROWS].astype(self._dtype)
            best[start : start + _ROWS] = (part @ signed.T).max(axis=1)
        sums = best * (scale * rows.scale) + rows.bias
        places = np.flatnonzero(sums > 0).astype(np.int32)
        weights = sums[places]
        for _ in range(self._logarithms):
            weights = log1p(weights)
        return places, weights


class KernelDecoder(Decoder):
    """In one pass of a kernel of our own (see :mod:`decoder_kernels`), over rows packed for it.

    ``pool`` and ``threads``: long texts are shared between so many threads.
    """

    def __init__(
        self,
        rows: DecoderRows,
        terms: npt.NDArray[np.int32] | None,
        activation: str,
        pool: Threads | None = None,
        threads: int = 1,
    ) -> None:
        super().__init__(rows, terms, activation)
        with undivided:
            from . import decoder_kernels, products

        self._decode, self._tiles, self._block = decoder_kernels.decode, products.TILES, products.BLOCK
        self._pool, self._threads = pool, threads
        kept = rows.take(terms)
        count, self._hidden = kept.weights.shape
        block, group = products.BLOCK, products.GROUP
        self._blocks = -(-count // block)
        places = self._blocks * block
        # The rows beyond the last term: products of 0 and a bias under 0, so that they are never above zero.
        scale, bias = np.ones(places, np.float32), np.full(places, -1, np.float32)
        scale[:count], bias[:count] = kept.scale, kept.bias
        offset = np.zeros(places, np.int32)
        self._packed = cacheline_aligned(places * self._hidden, np.int8)
        groups = self._hidden // group
        packed = self._packed.view(np.int32).reshape(self._blocks, groups, block)
        for start, part in _pieces(kept.weights, block):
            offset[start : start + len(part)] = -128 * part.sum(axis=1, dtype=np.int32)
            fours = np.zeros((-(-len(part) // block) * block, groups), np.int32)
            fours[: len(part)] = np.ascontiguousarray(part).view(np.int32)
            into = packed[start // block : start // block + len(fours) // block]
            into[:] = fours.reshape(-1, block, groups).transpose(0, 2, 1)
        self._matrix = (self._packed, offset, scale, bias)

    def _above_zero(self, activations: Activations, scale: np.float32) -> tuple[npt.NDArray[np.int32], Weights]:
        length = len(activations)
        if activations.dtype != np.uint8 or activations.shape != (length, self._hidden) or not length:
            raise ValueError(f"activations are {activations.dtype} {activations.shape}, not uint8 [>0, {self._hidden}]")
        room = next((size for size in self._tiles if size >= length), length)
        if room > length:  # a position twice does not change the maximum
            activations = activations[np.arange(room) % length]
        if self._pool is None or length * self._packed.size < _PARALLEL:
            return self._part(activations, scale, 0, self._blocks)
        bounds = np.linspace(0, self._blocks, self._threads + 1).astype(int).tolist()
        parts = self._pool.map(lambda part: self._part(activations, scale, *part), pairwise(bounds))
        places, weights = zip(*parts, strict=True)
        return np.concatenate(places), np.concatenate(weights)

    def _part(
        self, activations: Activations, scale: np.float32, first: int, last: int
    ) -> tuple[npt.NDArray[np.int32], Weights]:
        room = (last - first) * self._block
        places, weights = np.empty(room, np.int32), np.empty(room, np.float32)
        found = self._decode(first, last, self._matrix, activations, scale, self._logarithms, (places, weights))
        return places[:found].copy(), weights[:found].copy()


def _pieces(weights: npt.NDArray[np.int8], block: int) -> Iterator[tuple[int, npt.NDArray[np.int8]]]:
    """The rows some blocks at a time, which keeps what packing needs besides small."""
    step = 64 * block
    for start in range(0, len(weights), step):
        yield start, np.asarray(weights[start : start + step])
