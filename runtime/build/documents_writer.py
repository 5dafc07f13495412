"""Writing the stored fields of a segment; ``index/documents.py`` reads them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from ..directory import AnyPath
from ..document import Document
from ..errors import InputError
from ..filters.predicate import Key
from ..filters.values import all_keys
from ..index.documents import DOCUMENTS_SCHEMA, ROW, StoredRow, is_deep, is_unicode, row_crc
from .sqlite_writer import SqliteWriter

_INSERT = f"INTO documents ({ROW}) VALUES (?, ?, ?, ?, ?, ?)"
_DECODER = msgspec.json.Decoder(dict[str, Any])
MAX_DEPTH = 64  # of metadata that is stored


class DuplicateIdError(InputError):
    """A document's id was added before."""


class Added(NamedTuple):
    """A document that was stored: its ``ordinal``, and the values of its metadata by field."""

    ordinal: int
    document: Document
    keys: dict[tuple[str, ...], list[Key]]


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
        self._file = SqliteWriter(path, DOCUMENTS_SCHEMA.format(unique="UNIQUE" if unique else ""))
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
                if not all(map(is_unicode, fields)):
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
        asked = list(filter(is_unicode, ids))
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
