"""Sessions whose vocabulary decoder is the native one: over all terms, or over those of an index."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...errors import ArtifactError
from ...forking import Threads, new_lock
from ...numba_support import backend
from ...vectors import SparseVector
from ..session import Ids, Session, Weights, check_inputs
from .decoder import ACTIVATIONS, Decoder, DecoderRows, KernelDecoder, NumpyDecoder

# The input of a vocabulary decoder: uint8 activations [length, hidden] around 128, and their scale.
Activated = tuple[npt.NDArray[np.uint8], np.float32]


class DecoderSession(Session):
    """A session that ends in the native vocabulary decoder.

    Only the rows that are decoded are held in memory; those of all terms are read from the file when they are needed.

    Parameters
    ----------
    path, vocab_size, max_length, threads
        See :class:`Session`.
    activation : str
        The activation of the manifest, a key of ``ACTIVATIONS``.

    Raises
    ------
    ArtifactError
        If the activation is unknown.
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
        """The decoder's input of each text.

        ``input_ids`` and ``attention_mask``: int64 ``[batch, length]``; ``lengths``: tokens of each text.
        """

    def restricted(self, terms: npt.NDArray[np.int32]) -> DecoderSession:
        """This session with the decoder rows of ``terms`` only. See :meth:`Session.restricted`."""
        session = copy.copy(self)
        session._terms, session._lock, session._decoder = terms, new_lock(), None
        return session

    def vectors(self, input_ids: Ids, attention_mask: Ids) -> list[SparseVector]:
        """See :meth:`Session.vectors`."""
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
        """See :meth:`Session.run`. Terms that are not decoded have no weight."""
        weights = np.zeros((len(input_ids), self.vocab_size), np.float32)
        for row, vector in zip(weights, self.vectors(input_ids, attention_mask), strict=True):
            row[vector.indices] = vector.values
        return weights

    def _run(self, input_ids: Ids, attention_mask: Ids) -> Weights:
        return self.run(input_ids, attention_mask)

    def _decoder_for(self, positions: int) -> Decoder:
        """The decoder for a batch of so many positions (tokens). It is made when it is first needed."""
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
        if numpy or backend.is_off():  # the kernel is written in LLVM instructions, so Numba cannot interpret it
            return NumpyDecoder(self._rows, self._terms, self._activation)
        return KernelDecoder(self._rows, self._terms, self._activation, self._pool, self.threads)
