"""An encoder in our own kernels: no engine is loaded for it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from .. import jit
from ..artifact import TransformerPart
from ..errors import ArtifactError
from .backends import Ids
from .split import Activated, DecodingSession
from .transformer import Transformer


class TransformerSession(DecodingSession):
    """A BERT encoder in int8, in NumPy or in a kernel, which give the same. A text's vector does not depend on others:
    each is encoded by itself, without padding, several at once on ``threads`` threads.
    """

    def __init__(
        self, path: Path, part: TransformerPart, activation: str, vocab_size: int, max_length: int, threads: int
    ) -> None:
        super().__init__(path, activation, vocab_size, min(max_length, part.positions), threads)
        self._transformer, self._rows = Transformer.open(path, part, vocab_size)
        self._epsilon = np.float32(part.epsilon)

    def _activations(self, input_ids: Ids, attention_mask: Ids, lengths: list[int]) -> Iterable[Activated]:
        numpy = jit.in_numpy(sum(map(self._transformer.nanoseconds, lengths))) or jit.is_off()
        encode = self._in_numpy if numpy else self._in_kernel
        texts = [row[:length] for row, length in zip(input_ids, lengths, strict=True)]
        each = map if self._pool is None or len(texts) == 1 else self._pool.map
        found = list(each(encode, texts))
        if not all(math.isfinite(scale) for _, scale in found):
            raise ArtifactError(f"{self.path} gives activations that are not finite; use another backend")
        return found

    def _in_numpy(self, ids: Ids) -> Activated:
        return self._transformer.encode(self._transformer.embed(ids, 0))

    def _in_kernel(self, ids: Ids) -> Activated:
        from .products import TILES
        from .transformer_kernels import encode

        t, part = self._transformer, self._transformer.part
        room = max(ids.size, next((size for size in TILES if size >= ids.size), ids.size))
        activations = np.empty((ids.size, part.hidden), np.uint8)
        scale = encode(
            t.embed(ids, room), ids.size, part.layers, part.heads, part.inner, self._epsilon, t.rows, t.offset,
            t.scale, t.bias, t.norms, activations,
        )  # fmt: skip
        return activations, np.float32(scale)
