"""A graph that ends before its vocabulary decoder, which runs outside of it: over all terms, or those of an index."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..artifact import BODY_OUTPUT_NAMES, DecoderPart
from ..errors import ArtifactError, export_again
from ..forking import Threads, new_lock
from ..numba_support import backend
from ..vectors import SparseVector
from .backends import Ids, OnnxGraph, Session, Weights, check_inputs, whole
from .native.decoder import ACTIVATIONS, Decoder, DecoderRows, KernelDecoder, NumpyDecoder

# uint8 activations [length, hidden] around 128, and what they are in units of.
Activated = tuple[npt.NDArray[np.uint8], np.float32]


class DecodingSession(Session):
    """A session whose vocabulary decoder is ours. Only the rows that are decoded are held in memory; those of all terms
    are read from the file when they are asked for.
    """

    def __init__(self, path: Path, activation: str, vocab_size: int, max_length: int, threads: int) -> None:
        super().__init__(path, vocab_size, max_length, threads)
        if activation not in ACTIVATIONS:
            raise ArtifactError(f"{path} has the activation {activation!r}, unknown here; upgrade splade-edge")
        self._activation = activation
        self._rows: DecoderRows
        self._pool = Threads(threads) if threads > 1 else None
        self._terms: npt.NDArray[np.int32] | None = None
        self._decoder: NumpyDecoder | KernelDecoder | None = None
        self._lock = new_lock()

    @abstractmethod
    def _activations(self, input_ids: Ids, attention_mask: Ids, lengths: list[int]) -> Iterable[Activated]:
        """Of each text, what its decoder is given."""

    def restricted(self, terms: npt.NDArray[np.int32]) -> DecodingSession:
        """This session with the decoder rows of these terms only (ascending)."""
        session = copy.copy(self)
        session._terms, session._lock, session._decoder = terms, new_lock(), None
        return session

    def vectors(self, input_ids: Ids, attention_mask: Ids) -> list[SparseVector]:
        """See :class:`Session`."""
        check_inputs(input_ids, attention_mask, self.vocab_size, self.max_length)
        lengths: list[int] = attention_mask.sum(axis=1).tolist()
        activations = self._activations(input_ids, attention_mask, lengths)
        decoder = self._decoder_for(sum(lengths))
        return [self._decoded(decoder, activated) for activated in activations]

    def _decoded(self, decoder: Decoder, activated: Activated) -> SparseVector:
        vector = decoder.decode(*activated)
        if not np.maximum.reduce(vector.values, initial=0) < np.inf:  # a NaN is not below it either
            raise ArtifactError(f"{self.path} gives weights that are not finite; use another precision")
        return vector

    def run(self, input_ids: Ids, attention_mask: Ids) -> Weights:
        """See :class:`Session`; terms that are not decoded have no weight."""
        weights = np.zeros((len(input_ids), self.vocab_size), np.float32)
        for row, vector in zip(weights, self.vectors(input_ids, attention_mask), strict=True):
            row[vector.indices] = vector.values
        return weights

    def _run(self, input_ids: Ids, attention_mask: Ids) -> Weights:
        return self.run(input_ids, attention_mask)

    def _decoder_for(self, positions: int) -> Decoder:
        """The decoder that so many positions are given to: made when it is first needed."""
        decoder = self._decoder
        if isinstance(decoder, KernelDecoder):
            return decoder
        count, hidden = self._rows.weights.shape
        if self._terms is not None:
            count = len(self._terms)
        numpy = backend.use_numpy(NumpyDecoder.nanoseconds(count, hidden, positions))
        with self._lock:
            if self._decoder is None or not (numpy or isinstance(self._decoder, KernelDecoder)):
                self._decoder = self._make_decoder(numpy=numpy)
            return self._decoder

    def _make_decoder(self, *, numpy: bool) -> NumpyDecoder | KernelDecoder:
        if numpy or backend.is_off():  # the kernel is made of instructions and has no other form
            return NumpyDecoder(self._rows, self._terms, self._activation)
        return KernelDecoder(self._rows, self._terms, self._activation, self._pool, self.threads)


class SplitSession(DecodingSession):
    """The body of a graph in ONNX Runtime, and its decoder in a kernel of our own.

    Gives what the whole graph gives, up to the last bit of a logarithm.
    """

    def __init__(
        self, path: Path, part: DecoderPart, activation: str, vocab_size: int, max_length: int, threads: int
    ) -> None:
        super().__init__(path, activation, vocab_size, max_length, threads)
        self._rows = _map_rows(path, part, vocab_size)
        self._graph = OnnxGraph(path, threads, BODY_OUTPUT_NAMES, part.body)

    def _activations(self, input_ids: Ids, attention_mask: Ids, lengths: list[int]) -> Iterable[Activated]:
        batch, length = input_ids.shape
        activations, scale = self._graph.run(np.ascontiguousarray(input_ids), np.ascontiguousarray(attention_mask))
        hidden = self._rows.weights.shape[1]
        if (
            activations.dtype != np.uint8
            or activations.shape != (batch, length, hidden)
            or scale.dtype != np.float32
            or scale.shape != (batch, 1, 1)
            or not np.isfinite(scale).all()
        ):
            raise ArtifactError(
                f"{self.path}: its graph does not give finite {hidden} values a token; {export_again()}"
            )
        return [(activations[i, : lengths[i]], scale[i, 0, 0]) for i in range(batch)]


def _map_rows(path: Path, part: DecoderPart, vocab_size: int) -> DecoderRows:
    """The decoder in the file. Raises ArtifactError if it does not lie there."""
    with whole(path, f"{path} does not hold the decoder that its manifest describes"):
        size = path.stat().st_size
        sizes = {part.weights: vocab_size * part.hidden, part.scale: 4 * vocab_size, part.bias: 4 * vocab_size}
        if part.hidden <= 0 or part.hidden % 4 or not 0 < part.body <= size:
            raise ValueError
        if any(start < 0 or start + length > size for start, length in sizes.items()):
            raise ValueError
        weights = np.memmap(path, np.int8, "r", part.weights, (vocab_size, part.hidden))
        scale, bias = (
            np.array(np.memmap(path, "<f4", "r", start, (vocab_size,)), np.float32) for start in (part.scale, part.bias)
        )
    if not (np.isfinite(scale).all() and np.isfinite(bias).all() and scale.min() > 0):
        raise ArtifactError(f"{path} has a decoder that is not finite; {export_again()}")
    return DecoderRows(np.asarray(weights), scale, bias)
