"""Checkpoints of a long encoding job: vectors are kept on disk, so that a killed job goes on where it was.

    OUT.partial/splade_edge_partial.json   says what the directory is
    OUT.partial/000000.shard …             the vectors of consecutive texts, written one after the other
    OUT.partial/000007.journal             those of the shard that is being encoded, see checkpoint_journal.py

Texts are divided into shards by position alone, and a shard is encoded on its own. So what is batched together, and
with it the last bit of every vector, depends on the texts of the shard and on nothing else. A shard carries the digest
of the encoder that made it and the digest of its texts. It is used again only if both are the same now. FORMAT.md
describes the bytes.
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
from ..forking import Owner
from .checkpoint_journal import Journal
from ..locking import DirectoryLock, try_lock_directory
from ..numerics import NUMERICS
from ..vectors import SparseBatch
from ..version import MADE_BY

PARTIAL_SUFFIX = ".partial"
JOURNAL_SUFFIX = ".journal"
KEPT_FILES = "[0-9]*.*[dl]"  # shards and journals
SHARD_TEXTS = 1024
SHARD_CHARACTERS = 4 << 20  # a shard of long texts has fewer of them, so that it fits into memory
MARKER_NAME = "splade_edge_partial.json"
_MARKER = b'{"format": "splade-edge-partial", "version": 1}\n'
_MAGIC = b"SPLSHRD1"
_HEADER = struct.Struct("<8s32s32sQQ")  # magic, digests of encoder and texts, texts, postings
_DIGEST_BYTES = 32
_TEXT = np.dtype([("postings", "<u4"), ("tokens", "<u4"), ("known", "u1"), ("truncated", "u1")])
_ENGINES = {"onnx": "onnxruntime", "openvino": "openvino"}

Note = Callable[[str], None]


class _Unusable(Enum):
    """Why an existing shard is not used."""

    ENCODER = "encoder"
    TEXTS = "texts"
    DAMAGED = "damaged"


@dataclass(frozen=True)
class Shard:
    """Vectors of consecutive texts.

    Attributes
    ----------
    encoder
        The digest of the encoder, 32 bytes, see :func:`encoder_digest`.
    texts
        The digest of the texts, 32 bytes.
    encoded
        One entry for each text.
    """

    encoder: bytes
    texts: bytes
    encoded: list[Encoded]

    def to_bytes(self) -> bytes:
        """The bytes of a shard's file.

        Returns
        -------
        bytes
            Header, table and vectors. The last 32 bytes are the SHA-256 of all bytes before them.
        """
        table = np.array([(e.vector.indices.size, e.tokens, e.known, e.truncated) for e in self.encoded], _TEXT)
        batch = SparseBatch.stack(e.vector for e in self.encoded)
        header = _HEADER.pack(_MAGIC, self.encoder, self.texts, len(self.encoded), batch.indices.size)
        body = b"".join(
            (header, table.tobytes(), batch.indices.astype("<i4").tobytes(), batch.values.astype("<f4").tobytes())
        )
        return body + hashlib.sha256(body).digest()

    @classmethod
    def from_bytes(cls, data: bytes) -> Shard:
        """Read the bytes of a shard's file.

        Parameters
        ----------
        data
            What :meth:`to_bytes` has returned.

        Returns
        -------
        Shard
            The shard. Its arrays may share memory with ``data``.

        Raises
        ------
        ValueError
            If the bytes are damaged.
        """
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
    """The directory of the shards of an index while the index is made.

    Parameters
    ----------
    output
        The directory of the index. If it is a link, the link is not followed.

    Returns
    -------
    pathlib.Path
        An absolute path beside the index.
    """
    return Path(f"{absolute_path(output)}{PARTIAL_SUFFIX}")


def encode_in_shards(encoder: Encoder, texts: Iterable[str], store: ShardStore | None = None) -> Iterator[Encoded]:
    """Encode texts lazily, in order, shard by shard. Shards that the store holds already are not encoded again.

    Parameters
    ----------
    encoder
        The document encoder.
    texts
        Texts to encode. At most one shard of them is held in memory.
    store
        Where shards are kept; None: nowhere.

    Yields
    ------
    Encoded
        The vector of each text, and what is known about it.

    Raises
    ------
    StorageError
        If a shard cannot be read or written.
    """
    for number, part in enumerate(_shards_of(texts)):
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
                if len(encoded) < len(part):  # the last one follows when the shard is on disk
                    yield one
            store.write(number, key, encoded)
        yield encoded[-1]
    if store is not None:
        store.end()


class ShardStore:
    """The shards in one directory, locked against other processes until :meth:`close`.

    Parameters
    ----------
    directory
        Need not exist; it is made at the first write.
    encoder
        The encoder whose vectors are kept.
    note
        Receives one line about each reason why shards are not used, and one about how many texts are used again.

    Raises
    ------
    InputError
        If the directory is something else, or another process uses it.
    StorageError
        If the directory cannot be opened.
    """

    def __init__(self, directory: Path, encoder: Encoder, note: Note | None = None) -> None:
        self.directory = directory
        self._encoder = encoder_digest(encoder)
        self._note = note or (lambda _: None)
        self._noted: set[_Unusable] = set()
        self._reused = 0
        self._told = False
        self._lock: DirectoryLock | None = None  # stays None on Windows
        self._taken = False
        self._owner = Owner()
        if os.path.lexists(directory):
            self._take()

    @contextlib.contextmanager
    def journal(self, number: int) -> Iterator[Journal]:
        """Keep the batches of a shard while it is encoded. The journal is removed when the block ends without an error.

        Parameters
        ----------
        number
            The shard's number, from 0.

        Yields
        ------
        Journal
            Its ``run`` encodes batches.

        Raises
        ------
        StorageError
            If the journal cannot be read or written.
        """
        path = self.directory / f"{number:06d}{JOURNAL_SUFFIX}"
        journal = Journal(path, self._encoder, self._prepare)
        try:
            yield journal
        except BaseException:
            if self._owner.is_here:  # a child of the process has nothing to keep
                with contextlib.suppress(StorageError):  # a full disk has been reported already
                    journal.keep()
            raise
        finally:
            self._reused += journal.reused
        with storage_errors(path):
            path.unlink(missing_ok=True)

    @property
    def shards(self) -> int:
        """The number of shards on disk."""
        return len(self._paths())

    def read(self, number: int, texts: bytes, count: int) -> list[Encoded] | None:
        """The vectors of a shard's texts, if they are there and valid.

        Parameters
        ----------
        number
            The shard's number, from 0.
        texts
            The digest of the texts, 32 bytes.
        count
            The number of texts.

        Returns
        -------
        list of Encoded or None
            None if the texts have to be encoded.

        Raises
        ------
        StorageError
            If the file is there and the system refuses to read it.
        """
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
        """Write a shard durably.

        Parameters
        ----------
        number
            The shard's number, from 0.
        texts
            The digest of the texts, 32 bytes.
        encoded
            One entry for each text.

        Raises
        ------
        StorageError
            If the file cannot be written.
        """
        self._prepare()
        write_file_durably(self._path(number), Shard(self._encoder, texts, encoded).to_bytes())

    def _prepare(self) -> None:
        """Make the directory and lock it."""
        self._owner.refuse_child(f"the job whose vectors are kept in {self.directory}")
        if not self._taken:
            with storage_errors(self.directory):
                self.directory.mkdir(parents=True, exist_ok=True)
            self._take()
        if not (self.directory / MARKER_NAME).exists():
            write_file_durably(self.directory / MARKER_NAME, _MARKER)

    def end(self) -> None:
        """Say how many texts were used again, if that has not been said. Called when the input has ended."""
        self._tell()

    def close(self, *, keep: bool) -> None:
        """Release the directory.

        Parameters
        ----------
        keep
            Whether shards and journals stay. If not, or if there are none, our files and the directory are removed;
            other files in it stay.
        """
        if not self._taken:
            return
        kept = sorted(self.directory.glob(KEPT_FILES))
        if self._owner.is_here and (not keep or not kept):
            with contextlib.suppress(OSError):  # files of others stay, and so does the directory
                for path in kept:
                    path.unlink()
                (self.directory / MARKER_NAME).unlink(missing_ok=True)
                self.directory.rmdir()
        if self._lock is not None:
            self._lock.release()
        self._lock, self._taken = None, False

    def _take(self) -> None:
        if not self.directory.is_dir() or (
            any(self.directory.iterdir()) and not (self.directory / MARKER_NAME).is_file()
        ):
            raise InputError(
                f"{self.directory} is where encoded vectors are kept, and it is something else; "
                "move it away, or pass --no-resume"
            )
        with storage_errors(self.directory):
            self._lock = try_lock_directory(self.directory)
        if self._lock is None and sys.platform != "win32":
            raise InputError(f"{self.directory} is in use by another process; wait for it, or choose another output")
        self._taken = True

    def _paths(self) -> list[Path]:
        return sorted(self.directory.glob("[0-9]*.shard"))

    def _path(self, number: int) -> Path:
        return self.directory / f"{number:06d}.shard"

    def _say(self, reason: _Unusable, message: str) -> None:
        if reason not in self._noted:
            self._noted.add(reason)
            self._note(message)

    def _tell(self) -> None:
        """Say once how many texts were used again: when encoding begins, or at the end."""
        if self._reused and not self._told:
            self._told = True
            self._note(f"{self._reused:,} texts were encoded before and are taken from {self.directory}")


def encoder_digest(encoder: Encoder) -> bytes:
    """SHA-256 over all that decides a vector besides its text: files, settings, engine, threads and sizes of batches.

    The CPU is not part of it. Another CPU may change the last bit of a vector, which is no reason to discard hours of
    work.

    Parameters
    ----------
    encoder
        The document encoder.

    Returns
    -------
    bytes
        32 bytes.
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
        "threads": encoder.threads,  # some engines sum in another order with more threads
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


def _shards_of(texts: Iterable[str]) -> Iterator[list[str]]:
    """Divide texts into shards; a shard of long texts has fewer of them."""
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
