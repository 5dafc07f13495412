"""An encoder in our own kernels: no engine is loaded for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from ...artifact import TransformerPart
from ...errors import ArtifactError
from ...forking import undivided
from ...numba_support import backend
from ...vectors import SparseVector
from ..session import Ids
from .decoder_session import Activated, DecoderSession
from .transformer import Transformer


class NativeSession(DecoderSession):
    """A BERT encoder in int8, in NumPy or in a kernel, which give the same. A text's vector does not depend on others:
    each is encoded by itself, without padding, several at once on ``threads`` threads.
    """

    def __init__(
        self, path: Path, part: TransformerPart, activation: str, vocab_size: int, max_length: int, threads: int
    ) -> None:
        super().__init__(path, activation, vocab_size, min(max_length, part.positions), threads)
        self._transformer, self._rows = Transformer.open(path, part, vocab_size)
        self._epsilon = np.float32(part.epsilon)

    def vector(self, ids: list[int]) -> SparseVector:
        """See :class:`Session`: the same as of a batch of one, without making one."""
        # A list of a query's size is looked through faster than an array is made of it.
        if not (0 < len(ids) <= self.max_length and min(ids) >= 0 and max(ids) < self.vocab_size):
            return super().vector(ids)
        encode = self._encode_for(self._transformer.nanoseconds(len(ids)))
        return self._decoded(self._decoder_for(len(ids)), self._checked(encode(np.array(ids, np.int64))))

    def _activations(self, input_ids: Ids, attention_mask: Ids, lengths: list[int]) -> Iterable[Activated]:
        encode = self._encode_for(sum(map(self._transformer.nanoseconds, lengths)))
        texts = [row[:length] for row, length in zip(input_ids, lengths, strict=True)]
        each = map if self._pool is None or len(texts) == 1 else self._pool.map
        return [self._checked(activated) for activated in each(encode, texts)]

    def _encode_for(self, nanoseconds: float) -> Callable[[Ids], Activated]:
        """What is to encode texts that take NumPy so long."""
        return self._in_numpy if backend.use_numpy(nanoseconds) or backend.is_off() else self._in_kernel

    def _checked(self, activated: Activated) -> Activated:
        if not math.isfinite(activated[1]):
            raise ArtifactError(f"{self.path} gives activations that are not finite; use another backend")
        return activated

    def _in_numpy(self, ids: Ids) -> Activated:
        return self._transformer.encode(self._transformer.embed(ids))

    def _in_kernel(self, ids: Ids) -> Activated:
        return in_kernel(self._transformer, self._epsilon, ids)


def in_kernel(transformer: Transformer, epsilon: np.float32, ids: Ids) -> Activated:
    """Encode one text with the kernel, and load Numba for it.

    Parameters
    ----------
    transformer : Transformer
        The weights.
    epsilon : float32
        Of the layer normalizations.
    ids : int64 [length]
        Token ids.

    Returns
    -------
    uint8 [length, hidden], float32
        Activations around 128, and their scale.
    """
    with undivided:
        from .transformer_kernels import encode

    t, part = transformer, transformer.part
    activations = np.empty((ids.size, part.hidden), np.uint8)
    scale = encode(
        ids,
        (t.words, t.words_scale, t.positions),
        (part.layers, part.heads, part.inner, epsilon),
        (t.rows, t.offset, t.scale, t.bias),
        t.norms,
        activations,
    )
    return activations, np.float32(scale)
