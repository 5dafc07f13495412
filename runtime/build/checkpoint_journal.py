"""The batches that a long job has encoded since its last shard. With it a kill costs a minute at most.

A journal holds the vectors of batches, each under the digest of its token ids. The texts of a shard alone decide which
texts are encoded together. So a job that begins the shard again asks for the same batches and ends with the same bytes.
FORMAT.md describes the bytes.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..encoder.encoder import Batch, Run
from ..files import NOT_THERE, operations, reading, storage_errors
from ..vectors import SparseBatch, SparseVector

SECONDS = 30.0  # between two writes; even on the slowest machines a batch takes less than that
_MAGIC = b"SPLJRNL1"
_HEADER = struct.Struct("<8s32s32sQQ")  # magic, digests of encoder and token ids, texts, postings
_DIGEST_BYTES = 32


class Journal:
    """The batches of one shard.

    Parameters
    ----------
    path
        The journal's file, which need not exist. A damaged end of the file is ignored, and later overwritten.
    encoder
        The digest of everything that decides the vectors, 32 bytes, see :func:`.checkpointing.encoder_digest`.
    prepare
        Makes the directory. It is called before each write.

    Raises
    ------
    StorageError
        If the file is there and the system refuses to read it.
    """

    def __init__(self, path: Path, encoder: bytes, prepare: Callable[[], None]) -> None:
        self._path = path
        self._encoder = encoder
        self._prepare = prepare
        self._known, self._whole = _read(path, encoder)
        self._waiting: list[bytes] = []
        self._latest = time.monotonic()
        self.reused = 0

    def run(self, run: Run, batch: Batch) -> list[SparseVector]:
        """The vectors of a batch: from the journal if they are there, else from ``run``.

        Parameters
        ----------
        run
            Encodes a batch.
        batch
            Token ids of each text.

        Returns
        -------
        list of SparseVector
            One vector for each text of the batch.

        Raises
        ------
        StorageError
            If the journal cannot be written.
        """
        key = _key(batch)
        known = self._known.get(key)
        if known is not None and len(known) == len(batch):
            self.reused += len(batch)
            return known
        vectors = run(batch)
        self._waiting.append(_record(self._encoder, key, vectors))
        if time.monotonic() - self._latest >= SECONDS:
            self.keep()
        return vectors

    def keep(self) -> None:
        """Write to the disk what is not there yet.

        Nothing is written in the first :data:`SECONDS` seconds, unless the journal exists already.

        Raises
        ------
        StorageError
            If the journal cannot be written.
        """
        if self._waiting and (self._path.exists() or time.monotonic() - self._latest >= SECONDS):
            self._prepare()
            data = b"".join(self._waiting)
            with storage_errors(self._path):
                new = not self._path.exists()
                if not new:  # a record behind an incomplete one could not be read
                    os.truncate(self._path, self._whole)
                with operations.create(self._path, "ab") as file:
                    operations.write(file, data)
                operations.sync(self._path)
                if new:
                    operations.sync(self._path.parent)
            self._whole += len(data)
            self._waiting.clear()
        self._latest = time.monotonic()


def _key(batch: Batch) -> bytes:
    digest = hashlib.sha256()
    for ids in batch:
        digest.update(len(ids).to_bytes(8, "little") + np.asarray(ids, "<i8").tobytes())
    return digest.digest()


def _record(encoder: bytes, key: bytes, vectors: list[SparseVector]) -> bytes:
    batch = SparseBatch.stack(vectors)
    body = b"".join(
        (
            _HEADER.pack(_MAGIC, encoder, key, len(vectors), batch.indices.size),
            np.diff(batch.indptr).astype("<u4").tobytes(),
            batch.indices.astype("<i4").tobytes(),
            batch.values.astype("<f4").tobytes(),
        )
    )
    return body + hashlib.sha256(body).digest()


def _read(path: Path, encoder: bytes) -> tuple[dict[bytes, list[SparseVector]], int]:
    """The batches of this encoder in a file, and the length of its valid part (up to the first damaged record)."""
    found: dict[bytes, list[SparseVector]] = {}
    try:
        with reading(path):
            data = path.read_bytes()
    except NOT_THERE:
        return found, 0
    at = 0
    while at + _HEADER.size + _DIGEST_BYTES <= len(data):
        magic, made_with, key, texts, postings = _HEADER.unpack_from(data, at)
        counts = at + _HEADER.size
        indices, end = counts + 4 * texts, counts + 4 * texts + 8 * postings
        if magic != _MAGIC or hashlib.sha256(data[at:end]).digest() != data[end : end + _DIGEST_BYTES]:
            break
        indptr = np.concatenate([[0], np.cumsum(np.frombuffer(data, "<u4", texts, counts), dtype=np.int64)])
        if made_with == encoder and int(indptr[-1]) == postings:
            terms = np.frombuffer(data, "<i4", postings, indices).astype(np.int32, copy=False)
            weights = np.frombuffer(data, "<f4", postings, indices + 4 * postings).astype(np.float32, copy=False)
            found[key] = list(SparseBatch(indptr, terms, weights))
        at = end + _DIGEST_BYTES
    return found, at
