"""The stored fields of a segment: ids, titles, texts and metadata, in SQLite.

Why SQLite: it is in the standard library on every platform, reads one row without loading a column or a row group, has
an index for ids, opens in a millisecond, and its file format is promised to stay readable. The file is immutable once
its segment is committed and opened as such; every row carries a CRC-32, checked when the row is read. Indexes for
filters are in a file of their own (``filters/fields.py``). ``build/documents_writer.py`` writes the file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ..directory import AnyPath
from ..document import Document
from ..errors import InputError
from ..forking import new_lock
from .sqlite import SqliteReader

DOCUMENTS_SCHEMA = """
CREATE TABLE documents (
    ordinal INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    title TEXT NOT NULL,
    text TEXT NOT NULL,
    metadata TEXT NOT NULL,
    crc INTEGER NOT NULL
);
CREATE {unique} INDEX documents_id ON documents (id);
"""
ROW = "ordinal, id, title, text, metadata, crc"
_BATCH = 500  # rows a SELECT … IN, below SQLite's limit on parameters
_DECODER = msgspec.json.Decoder(dict[str, Any])
_LENGTH = struct.Struct("<Q").pack
_MAX_DEPTH_READ = 500  # of metadata that earlier releases stored
LEAST_ROW = 8  # bytes that a document takes at least
_SCAN = 1000  # rows read at a time, so that other threads have their turn


class StoredRow(NamedTuple):
    """A row of the table ``documents``."""

    ordinal: int
    id: str
    title: str
    text: str
    metadata: str
    crc: int


def row_crc(ordinal: int, fields: Sequence[str]) -> int:
    """The checksum of a row: CRC-32, begun with the ordinal, over id, title, text and metadata as FORMAT.md says."""
    crc = ordinal
    for field in fields:
        data = field.encode()
        crc = zlib.crc32(data, zlib.crc32(_LENGTH(len(data)), crc))
    return crc


def is_unicode(text: str) -> bool:
    """Whether UTF-8 has it; lone surrogates come from command lines and file names in other encodings."""
    if text.isascii():  # for a long text that takes no memory
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_deep(value: Any, limit: int) -> bool:
    """Whether objects and lists are nested more than ``limit`` deep. Ends for a value that holds itself."""
    waiting = [iter([value])]
    while waiting:
        for item in waiting[-1]:
            if isinstance(item, dict | list | tuple):
                if len(waiting) > limit:
                    return True
                waiting.append(iter(item.values() if isinstance(item, dict) else item))
                break
        else:
            waiting.pop()
    return False


class DocumentReader:
    """Reads a segment's documents; safe from several threads. ``sha256`` is the file's, as the manifest has it."""

    def __init__(self, path: AnyPath, count: int, sha256: str | None = None) -> None:
        self._file = SqliteReader(path, None if sha256 is None else DOCUMENTS_SCHEMA.format(unique=""))
        self.count = count
        if sha256 is not None:
            self._check_count()
        self._sha256 = sha256
        self._lock = new_lock()

    def close(self) -> None:
        """Close the file; nothing can be read afterwards."""
        self._file.close()

    def _check_count(self) -> None:
        """That the file has the first and the last document, and room for those between: memory is taken for them."""
        ends = self._file.query("SELECT (SELECT MIN(ordinal) FROM documents), (SELECT MAX(ordinal) FROM documents)")
        if ends != [(0, self.count - 1) if self.count else (None, None)] or self.count * LEAST_ROW > self._file.size:
            self._file.close()
            raise self._file.damaged(f"it does not hold {self.count} documents")

    def get(self, ordinals: Sequence[int]) -> list[Document]:
        """The documents of these ordinals, in this order.

        Raises InputError for an ordinal out of range, IntegrityError for a damaged row.
        """
        wanted = [int(o) for o in ordinals]
        for ordinal in wanted:
            if not 0 <= ordinal < self.count:
                raise InputError(f"there is no document {ordinal}; the index has {self.count}, counted from 0")
        found: dict[int, Document] = {}
        unique = sorted(set(wanted))
        for start in range(0, len(unique), _BATCH):
            part = unique[start : start + _BATCH]
            marks = ",".join("?" * len(part))
            rows = self._file.query(f"SELECT {ROW} FROM documents WHERE ordinal IN ({marks})", part)
            found.update((row[0], self._document(row)) for row in rows)
        missing = [o for o in unique if o not in found]
        if missing:
            raise self._file.damaged(f"document {missing[0]} is missing")
        return [found[o] for o in wanted]

    def get_lazily(self, ordinals: npt.NDArray[np.integer]) -> Iterator[Document]:
        """:meth:`get` of many, some at a time."""
        for start in range(0, ordinals.size, _BATCH):
            yield from self.get(ordinals[start : start + _BATCH].tolist())

    def scan(self) -> Iterator[Document]:
        """All documents, by ordinal. Raises IntegrityError for a damaged row."""
        for rows in self._scan():
            yield from map(self._document, rows)

    def rows(self) -> Iterator[list[StoredRow]]:
        """All rows as they are stored, some at a time, by ordinal. Raises IntegrityError for a damaged one."""
        for rows in self._scan():
            for row in rows:
                self._document(row)
            yield [StoredRow(*row) for row in rows]

    def _scan(self) -> Iterator[list[tuple[Any, ...]]]:
        for start in range(0, self.count, _SCAN):
            stop = min(start + _SCAN, self.count)
            sql = f"SELECT {ROW} FROM documents WHERE ordinal >= ? AND ordinal < ? ORDER BY ordinal"
            rows = self._file.query(sql, (start, stop))
            if [row[0] for row in rows] != list(range(start, stop)):
                raise self._file.damaged(f"a document of {start} to {stop - 1} is missing")
            yield rows

    def find(self, ids: Sequence[str]) -> Iterator[tuple[str, int]]:
        """The (id, ordinal) of the documents that have one of these ids; deleted ones may have it too.

        What is found is checked as any row is. That nothing is found no row can prove, so the first time the SHA-256 of
        the whole file does.
        """
        for start in range(0, len(ids), _BATCH):
            part = list(filter(is_unicode, dict.fromkeys(ids[start : start + _BATCH])))
            marks = ",".join("?" * len(part))
            rows = self._file.query(f"SELECT {ROW} FROM documents WHERE id IN ({marks})", part)
            found = [(self._document(row).id, int(row[0])) for row in rows]
            for document_id, ordinal in found:
                if document_id not in part or not 0 <= ordinal < self.count:
                    raise self._file.damaged(f"the index of ids has document {ordinal} in another's place")
            if len({document_id for document_id, _ in found}) < len(part):
                self._check_hash()
            yield from found

    def _check_hash(self) -> None:
        with self._lock:
            if self._sha256 is None:
                return
            if self._file.sha256() != self._sha256:
                raise self._file.damaged("its SHA-256 does not match")
            self._sha256 = None

    def ids(self) -> Iterator[tuple[str, int]]:
        """All (id, ordinal) by id, in the order of its bytes."""
        sql = "SELECT id, ordinal FROM documents ORDER BY id"
        for rows in self._file.query_in_parts(sql, (), _SCAN):
            yield from rows

    def check(self) -> None:
        """Read every row and SQLite's own structures. Raises IntegrityError."""
        self._file.check()
        for _ in self.scan():
            pass
        if self._file.query("SELECT COUNT(*) FROM documents") != [(self.count,)]:
            raise self._file.damaged(f"it does not hold {self.count} documents")

    def _document(self, row: tuple[Any, ...]) -> Document:
        ordinal, document_id, title, text, metadata, crc = row
        if not (type(document_id) is type(title) is type(text) is type(metadata) is str) or crc not in (
            row_crc(start, (document_id, title, text, metadata)) for start in (ordinal, 0)
        ):  # the first indexes began all checksums with 0
            raise self._file.damaged(f"document {ordinal} does not match its checksum")
        try:
            decoded = _DECODER.decode(metadata)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise self._file.damaged(f"metadata of document {ordinal}: {error}") from None
        if metadata.count("{") + metadata.count("[") > _MAX_DEPTH_READ and is_deep(decoded, _MAX_DEPTH_READ):
            raise self._file.damaged(f"metadata of document {ordinal} is nested too deeply")
        return Document(document_id, title, text, decoded)
