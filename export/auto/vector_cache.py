"""Encoded texts kept on disk, so that long work can be stopped and taken up again.

A file's name holds a hash of the texts, its directory one of everything else a vector depends on: the graph, the
tokenizer, what is applied to texts and weights, the engine and its version. So a cache cannot be stale, and may be
deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from itertools import islice
from pathlib import Path

import numpy as np

from ...runtime.artifact import Side, variant_files
from ...runtime.encoder import Encoder
from ...runtime.encoder.encoder import Encoded
from ...runtime.files import sha256_file
from ...runtime.numerics import NUMERICS
from ...runtime.vectors import SparseBatch

_CHUNK = 256


class VectorCache:
    """Encoded texts under ``directory/<key>/``; ``key`` names all that vectors depend on besides the text."""

    def __init__(self, directory: Path, key: Iterable[str]) -> None:
        self.directory = directory / hashlib.sha256("\n".join(key).encode()).hexdigest()[:16]
        self.directory.mkdir(parents=True, exist_ok=True)

    def encode(self, texts: Iterable[str], encode: Callable[[list[str]], list[Encoded]]) -> Iterator[Encoded]:
        """Encode texts, or read their vectors from disk where they were encoded before.

        Parameters
        ----------
        texts : iterable of str
            The texts, in order.
        encode : callable
            Encodes a list of texts that are not on disk.

        Returns
        -------
        iterator of Encoded
            The vector of each text, in order.
        """
        rest = iter(texts)
        while chunk := list(islice(rest, _CHUNK)):
            digest = hashlib.sha256("\x00".join(chunk).encode("utf-8", "surrogatepass")).hexdigest()
            path = self.directory / f"{digest[:32]}.npz"
            if not path.exists():
                self._write(path, encode(chunk))
            with np.load(path) as stored:
                vectors = SparseBatch(stored["indptr"], stored["indices"], stored["values"])
                facts = stored["facts"].tolist()
            for vector, (tokens, known, truncated) in zip(vectors, facts, strict=True):
                yield Encoded(vector, tokens, bool(known), bool(truncated))

    def _write(self, path: Path, encoded: list[Encoded]) -> None:
        batch = SparseBatch.stack([e.vector for e in encoded])
        facts = np.array([(e.tokens, e.known, e.truncated) for e in encoded], np.int64)
        staged = path.with_name(f".{os.getpid()}.npz")
        np.savez(staged, indptr=batch.indptr, indices=batch.indices, values=batch.values, facts=facts)
        staged.replace(path)


def encoder_cache(directory: Path, encoder: Encoder, side: Side | None = None) -> VectorCache:
    """Open the cache of one encoder's vectors.

    Parameters
    ----------
    directory : Path
        Where caches are kept; each encoder has a directory of its own below it.
    encoder : Encoder
        The encoder. Its files, its settings and the version of its engine are part of the key.
    side : {"query", "document"}, optional
        The side that texts are encoded as (None: see :class:`Encoder`).

    Returns
    -------
    VectorCache
        The cache, empty where nothing was encoded before.
    """
    artifact, variant = encoder.artifact, encoder.variant
    manifest = artifact.manifest
    engine = {"onnx": "onnxruntime", "openvino": "openvino", "table": "numpy", "kernel": "numpy"}[variant.backend]
    key = [
        *(sha256_file(artifact.file(name)) for name in (*variant_files(variant), "tokenizer.json")),
        f"{manifest.kind} {manifest.max_length} {manifest.dropped_terms} {variant.batch_invariant}",
        f"{NUMERICS} {manifest.numerics} {side} {manifest.sides} {manifest.adds_special_tokens}",
        f"{manifest.truncation_side} {manifest.split_special_tokens}",
        f"{manifest.max_active_dims} {manifest.normalization}",
        f"{engine} {metadata.version(engine)}",
    ]
    return VectorCache(directory, key)
