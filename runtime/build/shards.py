"""Vectors kept while a long job runs, so that a killed job goes on where it was.

    OUT.partial/splade_edge_partial.json   says what the directory is
    OUT.partial/000000.shard …             the vectors of consecutive texts, written one after the other
    OUT.partial/000007.journal             those of the shard that is being encoded, see journal.py

The input is cut by position alone, and a shard is encoded on its own: what is batched together, and with it the last
bit of every vector, depends on the shard's texts and on nothing else. A shard names the digest of the encoder that made
it and that of its texts; it is used again only where both are those of today. FORMAT.md has the bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import msgspec
import numpy as np

from ..artifact import variant_files
from ..encoder import Encoder
from ..encoder.encoder import LOGITS_BUDGET_BYTES, WINDOW, Encoded
from ..errors import InputError, StorageError
from ..files import NOT_THERE, absolute_path, reading, storage_errors, write_file_durably
from ..forking import Owner, private_descriptor
from .journal import Journal
from ..locking import unlock
from ..numerics import NUMERICS
from ..vectors import SparseBatch
from ..version import MADE_BY

if sys.platform != "win32":
    import fcntl

PARTIAL_SUFFIX = ".partial"
JOURNAL_SUFFIX = ".journal"
KEPT_FILES = "[0-9]*.*[dl]"  # shards and journals
SHARD_TEXTS = 1024
SHARD_CHARACTERS = 4 << 20  # long texts make a shard shorter, so that it can be held
MARKER_NAME = "splade_edge_partial.json"
_MARKER = b'{"format": "splade-edge-partial", "version": 1}\n'
_MAGIC = b"SPLSHRD1"
_HEADER = struct.Struct("<8s32s32sQQ")  # magic, digests of encoder and texts, texts, postings
_DIGEST_BYTES = 32
_TEXT = np.dtype([("postings", "<u4"), ("tokens", "<u4"), ("known", "u1"), ("truncated", "u1")])
_ENGINES = {"onnx": "onnxruntime", "openvino": "openvino"}

Note = Callable[[str], None]


class _Unusable(Enum):
    """Why a shard that is there is not used."""

    ENCODER = "encoder"
    TEXTS = "texts"
    DAMAGED = "damaged"


@dataclass(frozen=True)
class Shard:
    """Vectors of consecutive texts: digests of the ``encoder`` and of the ``texts``, 32 bytes each, and the vectors."""

    encoder: bytes
    texts: bytes
    encoded: list[Encoded]

    def to_bytes(self) -> bytes:
        """As it lies on disk; the last 32 bytes are the SHA-256 of all before them."""
        table = np.array([(e.vector.indices.size, e.tokens, e.known, e.truncated) for e in self.encoded], _TEXT)
        batch = SparseBatch.stack(e.vector for e in self.encoded)
        header = _HEADER.pack(_MAGIC, self.encoder, self.texts, len(self.encoded), batch.indices.size)
        body = b"".join(
            (header, table.tobytes(), batch.indices.astype("<i4").tobytes(), batch.values.astype("<f4").tobytes())
        )
        return body + hashlib.sha256(body).digest()

    @classmethod
    def from_bytes(cls, data: bytes) -> Shard:
        """Raises ValueError for bytes that :meth:`to_bytes` did not make."""
        body = memoryview(data)[:-_DIGEST_BYTES]
        if hashlib.sha256(body).digest() != data[-_DIGEST_BYTES:] or data[: len(_MAGIC)] != _MAGIC:
            raise ValueError("its SHA-256 does not match")
        _, encoder, texts, rows, postings = _HEADER.unpack_from(body)
        if len(body) != _HEADER.size + rows * _TEXT.itemsize + postings * 8:
            raise ValueError("its size does not match its header")
        table = np.frombuffer(body, _TEXT, rows, _HEADER.size)
        at = _HEADER.size + table.nbytes
        indices = np.frombuffer(body, "<i4", postings, at).astype(np.int32, copy=False)
        values = np.frombuffer(body, "<f4", postings, at + indices.nbytes).astype(np.float32, copy=False)
        indptr = np.concatenate([[0], np.cumsum(table["postings"], dtype=np.int64)])
        if int(indptr[-1]) != postings:
            raise ValueError("its vectors do not fill it")
        vectors = SparseBatch(indptr, indices, values)
        return cls(
            encoder,
            texts,
            [
                Encoded(vector, int(tokens), bool(known), bool(truncated))
                for vector, (_, tokens, known, truncated) in zip(vectors, table.tolist(), strict=True)
            ],
        )


def partial_directory(output: Path) -> Path:
    """Where the shards of an index lie while it is made."""
    return Path(f"{absolute_path(output)}{PARTIAL_SUFFIX}")


def encode_in_shards(encoder: Encoder, texts: Iterable[str], store: ShardStore | None = None) -> Iterator[Encoded]:
    """Encode texts lazily, in order, cut as a :class:`ShardStore` cuts them; what it holds already is not encoded."""
    for number, part in enumerate(_cut(texts)):
        if store is None:
            yield from encoder.encode(part, "document")
            continue
        key = _texts_digest(part)
        kept = store.read(number, key, len(part))
        if kept is not None:
            yield from kept
            continue
        encoded = []
        with store.journal(number) as journal:
            for one in encoder.through(journal.run).encode(part, "document"):
                encoded.append(one)
                if len(encoded) < len(part):  # the last one is given out when all are safe
                    yield one
            store.write(number, key, encoded)
        yield encoded[-1]
    if store is not None:
        store.end()


class ShardStore:
    """The shards of one job, in a directory of their own that only one process uses at a time.

    ``note`` is told, in a line each, what is used again and what is not, and why. The directory is made with the first
    shard. Raises InputError where it holds something else, or another process uses it.
    """

    def __init__(self, directory: Path, encoder: Encoder, note: Note | None = None) -> None:
        self.directory = directory
        self._encoder = encoder_digest(encoder)
        self._note = note or (lambda _: None)
        self._noted: set[_Unusable] = set()
        self._reused = 0
        self._told = False
        self._lock: int | None = None
        self._owner = Owner()
        if os.path.lexists(directory):
            self._take()

    @contextlib.contextmanager
    def journal(self, number: int) -> Iterator[Journal]:
        """What is kept of a shard while it is encoded; it goes when the shard is written. Raises StorageError."""
        path = self.directory / f"{number:06d}{JOURNAL_SUFFIX}"
        journal = Journal(path, self._encoder, self._prepare)
        try:
            yield journal
        except BaseException:
            if self._owner.is_here:  # a child that ends has nothing to keep
                with contextlib.suppress(StorageError):  # a full disk, which is told already
                    journal.keep()
            raise
        finally:
            self._reused += journal.reused
        with storage_errors(path):
            path.unlink(missing_ok=True)

    @property
    def shards(self) -> int:
        """Shards on disk."""
        return len(self._paths())

    def read(self, number: int, texts: bytes, count: int) -> list[Encoded] | None:
        """The vectors of a shard's texts, or None if they have to be made."""
        path = self._path(number)
        try:
            with reading(path):
                shard = Shard.from_bytes(path.read_bytes())
        except NOT_THERE:
            self._tell()
            return None
        except ValueError:
            self._say(_Unusable.DAMAGED, f"{path} is damaged and is made again")
            return None
        if shard.encoder != self._encoder:
            self._say(
                _Unusable.ENCODER,
                f"{self.directory} is of another encoder, engine, release or number of --threads; all is encoded again",
            )
            return None
        if shard.texts != texts or len(shard.encoded) != count:
            first = number * SHARD_TEXTS + 1
            self._say(
                _Unusable.TEXTS,
                f"{path} is of other texts than the corpus has now (or of other --passages); what differs is encoded "
                f"again, from text {first:,} on",
            )
            return None
        self._reused += count
        return shard.encoded

    def write(self, number: int, texts: bytes, encoded: list[Encoded]) -> None:
        """Keep a shard's vectors. Raises StorageError."""
        self._prepare()
        write_file_durably(self._path(number), Shard(self._encoder, texts, encoded).to_bytes())

    def _prepare(self) -> None:
        """Make the directory, and take it."""
        self._owner.refuse_child(f"the job whose vectors are kept in {self.directory}")
        if self._lock is None:
            with storage_errors(self.directory):
                self.directory.mkdir(parents=True, exist_ok=True)
            self._take()
        if not (self.directory / MARKER_NAME).exists():
            write_file_durably(self.directory / MARKER_NAME, _MARKER)

    def end(self) -> None:
        """The input has ended."""
        self._tell()

    def close(self, *, keep: bool) -> None:
        """Let go of the directory; without ``keep`` (or with nothing in it) remove what we wrote there."""
        if self._lock is None:
            return
        kept = sorted(self.directory.glob(KEPT_FILES))
        if self._owner.is_here and (not keep or not kept):
            with contextlib.suppress(OSError):  # what is not ours stays, and the directory with it
                for path in kept:
                    path.unlink()
                (self.directory / MARKER_NAME).unlink(missing_ok=True)
                self.directory.rmdir()
        unlock(self._lock, self._owner)
        self._lock = None

    def _take(self) -> None:
        if not self.directory.is_dir() or (
            any(self.directory.iterdir()) and not (self.directory / MARKER_NAME).is_file()
        ):
            raise InputError(
                f"{self.directory} is where encoded vectors are kept, and it is something else; "
                "move it away, or pass --no-resume"
            )
        if sys.platform == "win32":
            self._lock = os.open(os.devnull, os.O_RDONLY)
            return
        with storage_errors(self.directory):
            lock = os.open(self.directory, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise InputError(
                f"{self.directory} is in use by another process; wait for it, or choose another output"
            ) from None
        private_descriptor(lock)
        self._lock = lock

    def _paths(self) -> list[Path]:
        return sorted(self.directory.glob("[0-9]*.shard"))

    def _path(self, number: int) -> Path:
        return self.directory / f"{number:06d}.shard"

    def _say(self, reason: _Unusable, message: str) -> None:
        if reason not in self._noted:
            self._noted.add(reason)
            self._note(message)

    def _tell(self) -> None:
        """Say what was used again, once: where encoding begins, or at the end."""
        if self._reused and not self._told:
            self._told = True
            self._note(f"{self._reused:,} texts were encoded before and are taken from {self.directory}")


def encoder_digest(encoder: Encoder) -> bytes:
    """SHA-256 over what a text's vector depends on besides the text: files, settings, engine, how texts are cut. (The
    CPU is not in it: another one may give another last bit, which is no reason to throw hours of work away.)
    """
    manifest, variant = encoder.artifact.manifest, encoder.variant
    files = {name: manifest.files[name].sha256 for name in ("tokenizer.json", *variant_files(variant))}
    engine = _ENGINES.get(variant.backend)
    settings = msgspec.structs.replace(manifest, files={}, variants=[variant], made_by=MADE_BY)
    body = {
        "settings": msgspec.to_builtins(settings),
        "files": files,
        "numerics": NUMERICS,
        "engine": engine and importlib.import_module(engine).__version__,
        "threads": encoder.threads,  # some engines add up in another order with more of them
        "cut": [SHARD_TEXTS, SHARD_CHARACTERS, WINDOW, LOGITS_BUDGET_BYTES],
    }
    return hashlib.sha256(msgspec.json.encode(body, order="deterministic")).digest()


def _texts_digest(texts: list[str]) -> bytes:
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.digest()


def _cut(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts, so many at a time; fewer where they are long."""
    part: list[str] = []
    characters = 0
    for text in texts:
        part.append(text)
        characters += len(text)
        if len(part) == SHARD_TEXTS or characters >= SHARD_CHARACTERS:
            yield part
            part, characters = [], 0
    if part:
        yield part
