"""The stored fields of a segment: ids, titles, texts and metadata, in SQLite.

Why SQLite: it is in the standard library on every platform, reads one row without loading a column or a row group, has
indexes for ids (and later for filters), opens in a millisecond, and its file format is promised to stay readable. The
file is immutable once its segment is committed and opened as such; every row carries a CRC-32, checked when the row is
read.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from ..corpus import Document
from ..errors import InputError, IntegrityError, StorageError

_SCHEMA = """
CREATE TABLE documents (
    ordinal INTEGER PRIMARY KEY,
    id TEXT NOT NULL,
    title TEXT NOT NULL,
    text TEXT NOT NULL,
    metadata TEXT NOT NULL,
    crc INTEGER NOT NULL
);
CREATE UNIQUE INDEX documents_id ON documents (id);
"""
_BATCH = 500  # rows a SELECT … IN, below SQLite's limit on parameters


class DuplicateIdError(InputError):
    """A document's id was added before."""


def _crc(fields: Iterable[str]) -> int:
    crc = 0
    for field in fields:
        data = field.encode()
        crc = zlib.crc32(data, zlib.crc32(len(data).to_bytes(8, "little"), crc))
    return crc


def _metadata_json(document: Document) -> str:
    """Metadata as JSON text. The standard library's encoder, because it refuses NaN, which others turn into null."""
    if not isinstance(document.metadata, dict) or not all(isinstance(key, str) for key in document.metadata):
        raise InputError(f"the metadata of document {document.id!r} is not a dictionary with names as keys; mend it")
    try:
        text = json.dumps(document.metadata, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the metadata of document {document.id!r} is not JSON ({error}); mend or drop it") from None
    return text


class DocumentWriter:
    """Writes a segment's documents; ordinals count from 0 in the order of :meth:`add`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = sqlite3.connect(path, isolation_level=None)
        try:
            # Until the directory is committed by rename the file needs neither a journal nor syncs of its own.
            for pragma in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-32768"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._connection.executescript(_SCHEMA)
            self._connection.execute("BEGIN")
        except sqlite3.OperationalError as error:
            self._connection.close()
            raise self._refused(error) from error
        self.count = 0

    def add(self, document: Document) -> int:
        """Store a document; returns its ordinal. Raises DuplicateIdError, InputError (metadata), StorageError."""
        fields = (document.id, document.title, document.text, _metadata_json(document))
        try:
            self._connection.execute(
                "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?)", (self.count, *fields, _crc(fields))
            )
        except sqlite3.IntegrityError:
            raise DuplicateIdError(f"the id {document.id!r} was used before; ids must be unique") from None
        except sqlite3.OperationalError as error:
            raise self._refused(error) from error
        self.count += 1
        return self.count - 1

    def close(self) -> None:
        """Finish the file."""
        try:
            self._connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise self._refused(error) from error
        finally:
            self._connection.close()

    def _refused(self, error: sqlite3.OperationalError) -> StorageError:
        return StorageError(f"cannot write {self._path}: {error}; free space and run the command again")

    def abandon(self) -> None:
        """Close the file unfinished; it cannot be used."""
        self._connection.close()


class DocumentReader:
    """Reads a segment's documents; safe from several threads."""

    def __init__(self, path: Path, count: int) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.count = count
        # One connection, opened now: a later one could meet another file, should the index be replaced.
        # immutable=1: no locks and no journal, so a read-only medium is fine.
        uri = f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1"
        try:
            self._connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
        except sqlite3.Error as error:
            raise self._damaged(str(error)) from None
        self._query("PRAGMA schema_version", ())  # SQLite opens the file at its first use

    def close(self) -> None:
        """Close the file; nothing can be read afterwards."""
        with self._lock:
            self._connection.close()

    def _query(self, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return list(self._connection.execute(sql, parameters))
        except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:
            raise self._damaged(str(error)) from None

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
            sql = f"SELECT ordinal, id, title, text, metadata, crc FROM documents WHERE ordinal IN ({marks})"
            found.update((row[0], self._document(row)) for row in self._query(sql, part))
        missing = [o for o in unique if o not in found]
        if missing:
            raise self._damaged(f"document {missing[0]} is missing")
        return [found[o] for o in wanted]

    def find(self, document_id: str) -> int | None:
        """The ordinal of an id, or None."""
        rows = self._query("SELECT ordinal FROM documents WHERE id = ?", (document_id,))
        return int(rows[0][0]) if rows else None

    def check(self) -> None:
        """Read every row and SQLite's own structures. Raises IntegrityError."""
        report = self._query("PRAGMA integrity_check", ())
        if report != [("ok",)]:
            raise self._damaged(str(report[0][0]))
        for start in range(0, self.count, 1000):
            self.get(range(start, min(start + 1000, self.count)))
        if self._query("SELECT COUNT(*) FROM documents", ()) != [(self.count,)]:
            raise self._damaged(f"it does not hold {self.count} documents")

    def _document(self, row: tuple[Any, ...]) -> Document:
        ordinal, *fields, crc = row
        if not all(isinstance(f, str) for f in fields) or _crc(fields) != crc:
            raise self._damaged(f"document {ordinal} does not match its checksum")
        try:
            metadata = msgspec.json.decode(fields[3], type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise self._damaged(f"metadata of document {ordinal}: {error}") from None
        return Document(id=fields[0], title=fields[1], text=fields[2], metadata=metadata)

    def _damaged(self, detail: str) -> IntegrityError:
        return IntegrityError(f"{self._path} is damaged ({detail}); copy the index again or build it anew")
