"""The stored fields of a segment: ids, titles, texts and metadata, in SQLite.

Why SQLite: it is in the standard library on every platform, reads one row without loading a column or a row group, has
an index for ids, opens in a millisecond, and its file format is promised to stay readable. The file is immutable once
its segment is committed and opened as such; every row carries a CRC-32, checked when the row is read. Indexes for
filters are in a file of their own (fields.py).
"""

from __future__ import annotations

import json
import sqlite3
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
from ..filters.predicate import Key
from ..filters.values import all_keys, is_deep
from ..forking import new_lock
from .sqlite import SqliteReader, SqliteWriter

_SCHEMA = """
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
_ROW = "ordinal, id, title, text, metadata, crc"
_INSERT = f"INTO documents ({_ROW}) VALUES (?, ?, ?, ?, ?, ?)"
_BATCH = 500  # rows a SELECT … IN, below SQLite's limit on parameters
_DECODER = msgspec.json.Decoder(dict[str, Any])
_LENGTH = struct.Struct("<Q").pack
MAX_DEPTH = 64  # of metadata that is stored
_MAX_DEPTH_READ = 500  # of metadata that earlier releases stored
LEAST_ROW = 8  # bytes that a document takes at least
_SCAN = 1000  # rows read at a time, so that other threads have their turn


class DuplicateIdError(InputError):
    """A document's id was added before."""


class StoredRow(NamedTuple):
    """A row of the table ``documents``."""

    ordinal: int
    id: str
    title: str
    text: str
    metadata: str
    crc: int


class Added(NamedTuple):
    """A document that was stored: its ``ordinal``, and the values of its metadata by field."""

    ordinal: int
    document: Document
    keys: dict[tuple[str, ...], list[Key]]


def row_crc(ordinal: int, fields: Sequence[str]) -> int:
    """The checksum of a row: CRC-32, begun with the ordinal, over id, title, text and metadata as FORMAT.md says."""
    crc = ordinal
    for field in fields:
        data = field.encode()
        crc = zlib.crc32(data, zlib.crc32(_LENGTH(len(data)), crc))
    return crc


def _is_unicode(text: str) -> bool:
    """Whether UTF-8 has it; lone surrogates come from command lines and file names in other encodings."""
    if text.isascii():  # for a long text that takes no memory
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _metadata(document: Document) -> tuple[str, dict[tuple[str, ...], list[Key]]]:
    """Metadata as JSON text, and its values. Raises InputError for what is not JSON."""
    if not isinstance(document.metadata, dict):
        raise InputError(f"the metadata of document {document.id!r} is not a dictionary with names as keys; mend it")
    if is_deep(document.metadata, MAX_DEPTH):
        raise InputError(f"the metadata of document {document.id!r} is nested more than {MAX_DEPTH} deep; flatten it")
    try:
        keys = all_keys(document.metadata)
        try:
            return msgspec.json.encode(document.metadata).decode(), keys
        except TypeError:  # subclasses of numbers and strings, which the standard library takes
            text = json.dumps(document.metadata, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            text.encode()
            return text, keys
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"the metadata of document {document.id!r} is not JSON ({error}); mend or drop it") from None


class DocumentWriter:
    """Writes a segment's documents; ordinals count from 0 in the order of :meth:`add`. ``unique``: each id once."""

    def __init__(self, path: AnyPath, *, unique: bool = True) -> None:
        self._file = SqliteWriter(path, _SCHEMA.format(unique="UNIQUE" if unique else ""))
        self._connection = self._file.connection
        self.count = 0

    def add(self, documents: Sequence[Document]) -> list[Added | InputError]:
        """Store documents. Where one cannot be stored, its place in the result has the reason: DuplicateIdError, or
        InputError for metadata that is not JSON. Raises StorageError.
        """
        results: list[Added | InputError] = []
        rows: list[tuple[Any, ...]] = []
        for document in documents:
            try:
                metadata, keys = _metadata(document)
                fields = (document.id, document.title, document.text, metadata)
                if not all(map(_is_unicode, fields)):
                    raise InputError(f"document {document.id!r} holds a lone surrogate; mend it")
            except InputError as error:
                results.append(error)
                continue
            ordinal = self.count + len(rows)
            rows.append((ordinal, *fields, row_crc(ordinal, fields)))
            results.append(Added(ordinal, document, keys))
        if not self._insert_all(rows):
            return self._add_each(results, rows)
        self.count += len(rows)
        return results

    def _insert_all(self, rows: list[tuple[Any, ...]]) -> bool:
        """Insert rows; if an id among them was used before, none."""
        with self._file.writing():
            if not rows or self._connection.executemany(f"INSERT OR IGNORE {_INSERT}", rows).rowcount == len(rows):
                return True
            self._connection.execute("DELETE FROM documents WHERE ordinal >= ?", (self.count,))
        return False

    def _add_each(self, results: list[Added | InputError], rows: list[tuple[Any, ...]]) -> list[Added | InputError]:
        """Insert rows one by one, where some have an id that was used before."""
        remaining = iter(rows)
        for place, result in enumerate(results):
            if isinstance(result, InputError):
                continue
            row = next(remaining)
            try:
                with self._file.writing():
                    values = (self.count, *row[1:-1], row_crc(self.count, row[1:-1]))
                    self._connection.execute(f"INSERT {_INSERT}", values)
            except sqlite3.IntegrityError:
                results[place] = DuplicateIdError(f"the id {row[1]!r} was used before; ids must be unique")
            else:
                results[place] = result._replace(ordinal=self.count)
                self.count += 1
        return results

    def latest(self, ids: Sequence[str]) -> dict[str, int]:
        """Of the ids that were added, the ordinals; the last where an id was used again. At most 500 at a time."""
        asked = list(filter(_is_unicode, ids))
        sql = f"SELECT id, MAX(ordinal) FROM documents WHERE id IN ({','.join('?' * len(asked))}) GROUP BY id"
        with self._file.writing():  # what does not fit the cache is written
            return dict(self._connection.execute(sql, asked))

    def copy(self, rows: Sequence[StoredRow]) -> list[Added]:
        """Store rows of another segment, whose checksums were compared, under new ordinals."""
        with self._file.writing():
            numbered = [(self.count + i, *row[1:-1]) for i, row in enumerate(rows)]
            values = [(*row, row_crc(row[0], row[1:])) for row in numbered]
            self._connection.executemany(f"INSERT {_INSERT}", values)
        added = []
        for i, row in enumerate(rows):
            metadata = _DECODER.decode(row.metadata)
            document = Document(row.id, row.title, row.text, metadata)
            added.append(Added(self.count + i, document, all_keys(metadata)))
        self.count += len(rows)
        return added

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    def abandon(self) -> None:
        """Close the file unfinished; it cannot be used."""
        self._file.abandon()


class DocumentReader:
    """Reads a segment's documents; safe from several threads. ``sha256`` is the file's, as the manifest has it."""

    def __init__(self, path: AnyPath, count: int, sha256: str | None = None) -> None:
        self._file = SqliteReader(path, None if sha256 is None else _SCHEMA.format(unique=""))
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
            rows = self._file.query(f"SELECT {_ROW} FROM documents WHERE ordinal IN ({marks})", part)
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
            sql = f"SELECT {_ROW} FROM documents WHERE ordinal >= ? AND ordinal < ? ORDER BY ordinal"
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
            part = list(filter(_is_unicode, dict.fromkeys(ids[start : start + _BATCH])))
            marks = ",".join("?" * len(part))
            rows = self._file.query(f"SELECT {_ROW} FROM documents WHERE id IN ({marks})", part)
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
