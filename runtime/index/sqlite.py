"""SQLite files of a segment: written once, within a directory that is committed by rename, and read as immutable."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO
from urllib.parse import quote

from ..directory import AnyPath, locations
from ..errors import IntegrityError, StorageError
from ..files import operations, storage_errors

# Until the directory is committed by rename a file needs neither a journal nor syncs of its own.
_PRAGMAS = ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "temp_store=MEMORY", "cache_size=-32768")


class SqliteWriter:
    """A new file with one open transaction. Raises StorageError where the system refuses a write."""

    def __init__(self, path: AnyPath, schema: str) -> None:
        self._path = path
        with self.writing(), storage_errors(path), operations.create(path, "xb") as file:
            self.connection = _connect(file, path, "mode=rw", isolation_level=None)
        try:
            with self.writing():
                for pragma in _PRAGMAS:
                    self.connection.execute(f"PRAGMA {pragma}")
                self.connection.executescript(schema)
                self.connection.execute("BEGIN")
        except StorageError:
            self.abandon()
            raise

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Statements that may meet a full disk."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StorageError(f"cannot write {self._path}: {error}; free space and run the command again") from error

    def close(self) -> None:
        """Finish the file."""
        try:
            with self.writing():
                operations.commit(self.connection)
        finally:
            self.connection.close()

    def abandon(self) -> None:
        """Close the file unfinished; it cannot be used."""
        self.connection.close()


class SqliteReader:
    """An open file; safe from several threads. Raises IntegrityError for whatever SQLite objects to."""

    def __init__(self, path: AnyPath) -> None:
        self._path = path
        self._lock = threading.Lock()
        # One connection, opened now: a later one could meet another file, should the index be replaced.
        # immutable=1: no locks and no journal, so a read-only medium is fine.
        try:
            with path.open("rb") as file:
                self._connection = _connect(file, path, "mode=ro&immutable=1", check_same_thread=False)
        except OSError as error:
            raise self.damaged(str(error.strerror)) from None
        except sqlite3.Error as error:
            raise self.damaged(str(error)) from None

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a statement."""
        try:
            with self._lock:
                return list(self._connection.execute(sql, parameters))
        except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:
            raise self.damaged(str(error)) from None

    def query_in_parts(self, sql: str, parameters: Sequence[Any], rows: int) -> Iterator[list[tuple[Any, ...]]]:
        """The rows of a statement, so many at a time; other threads may ask in between."""
        try:
            with self._lock:
                cursor = self._connection.execute(sql, parameters)
            while True:
                with self._lock:
                    part = cursor.fetchmany(rows)
                if not part:
                    return
                yield part
        except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:
            raise self.damaged(str(error)) from None

    def check(self) -> None:
        """Check SQLite's own structures."""
        report = self.query("PRAGMA integrity_check")
        if report != [("ok",)]:
            raise self.damaged(str(report[0][0]))

    def close(self) -> None:
        """Close the file; nothing can be read afterwards."""
        with self._lock:
            self._connection.close()

    def damaged(self, detail: str) -> IntegrityError:
        """The error for a fault of this file."""
        detail = " ".join(detail.split())  # SQLite quotes a damaged schema with its line ends
        return IntegrityError(f"{self._path} is damaged ({detail}); copy the index again or build it anew")


def _connect(file: BinaryIO, path: AnyPath, options: str, **arguments: Any) -> sqlite3.Connection:
    """Have SQLite open the very file that is open as ``file``: it opens by path, so what it has opened is compared.

    Raises sqlite3.Error where it is at none of its paths.
    """
    last: sqlite3.Error = sqlite3.OperationalError("another file lies at its path")
    for where in locations(file.fileno(), path):
        uri = f"file:{quote(os.fsencode(where))}?{options}"
        try:
            connection: sqlite3.Connection = sqlite3.connect(uri, uri=True, **arguments)
        except sqlite3.Error as error:
            last = error
            continue
        try:
            connection.execute("PRAGMA schema_version")  # SQLite looks into the file at its first use
            if os.path.samestat(where.stat(), os.fstat(file.fileno())):
                return connection
        except OSError:
            pass  # it has just been moved
        except sqlite3.Error as error:
            last = error
        connection.close()
    raise last
