"""Encoding for the benchmarks that can be stopped and taken up again (see splade_edge.export.auto.vector_cache).

Not run by itself. Used by :mod:`benchmarks.quality`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt
from splade_edge.export.auto.vector_cache import VectorCache, encoder_cache
from splade_edge.runtime.artifact import Artifact, Side, Variant
from splade_edge.runtime.encoder import Encoder
from splade_edge.runtime.encoder.encoder import Encoded
from splade_edge.runtime.vectors import SparseBatch, SparseVector


class CachedEncoder(Encoder):
    """The runtime's encoder for texts of one side, with its results kept on disk."""

    def __init__(self, artifact: Artifact, variant: Variant, threads: int | None, directory: Path, side: Side) -> None:
        super().__init__(artifact, variant, threads, side)
        self._side = side
        self._cache = encoder_cache(directory, self, side)

    def encode(self, texts: Iterable[str], side: Side | None = None) -> Iterator[Encoded]:
        """See :meth:`Encoder.encode`."""
        assert side in (None, self._side)
        parent = super().encode
        return self._cache.encode(texts, lambda chunk: list(parent(chunk, self._side)))


class CachedReference:
    """The PyTorch encoder of a checkpoint in float32, with its results kept on disk; opened when it is needed."""

    def __init__(self, checkpoint: str, side: str, directory: Path) -> None:
        from splade_edge.models.opening import open_checkpoint
        from splade_edge.models.reference import ReferenceEncoder

        opened = open_checkpoint(checkpoint, "query" if side == "query" else "document")
        self.query_idf = opened.query_idf
        self._reference = ReferenceEncoder(opened)
        tokenizer = opened.tokenizer.backend_tokenizer.to_str()
        self._cache = VectorCache(
            directory,
            [
                opened.weights_sha256,
                hashlib.sha256(tokenizer.encode()).hexdigest(),
                f"{opened.max_length} {opened.dropped_terms} {opened.pooling} {opened.activation}",
                f"torch {metadata.version('torch')} {metadata.version('transformers')}",
            ],
        )

    def encode(self, texts: Iterable[str]) -> SparseBatch:
        """The vectors of all texts."""
        return SparseBatch.stack([encoded.vector for encoded in self._cache.encode(texts, self._encode)])

    def _encode(self, texts: list[str]) -> list[Encoded]:
        by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        rows = self._reference.encode([texts[i] for i in by_length])
        found: list[Encoded] = [Encoded(SparseVector(np.empty(0, np.int32), np.empty(0, np.float32)), 0, True, False)]
        found *= len(texts)
        for i, row in zip(by_length, rows, strict=True):
            terms = np.flatnonzero(row)
            found[i] = Encoded(SparseVector(terms.astype(np.int32), row[terms]), 0, True, False)
        return found


class CachedDense:
    """A dense teacher's unit vectors, kept on disk in the same form: every column of a row."""

    def __init__(self, base: str, max_length: int, directory: Path) -> None:
        from splade_edge.models.training.teacher import DenseEncoder
        from splade_edge.models.weights import weights_sha256

        self._encoder = DenseEncoder(base, max_length)
        self._columns = np.arange(self._encoder.width, dtype=np.int32)
        versions = f"torch {metadata.version('torch')} {metadata.version('transformers')}"
        self._cache = VectorCache(directory, [weights_sha256(Path(base)), f"dense {max_length}", versions])

    def encode(self, texts: Iterable[str]) -> npt.NDArray[np.float32]:
        """float32 ``[texts, width]``."""
        vectors = [encoded.vector.values for encoded in self._cache.encode(texts, self._encode)]
        return np.stack(vectors) if vectors else np.empty((0, self._encoder.width), np.float32)

    def _encode(self, texts: list[str]) -> list[Encoded]:
        return [Encoded(SparseVector(self._columns, row), 0, True, False) for row in self._encoder.encode(texts)]
