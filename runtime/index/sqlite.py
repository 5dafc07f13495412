"""SQLite files of a segment: written once, within a directory that is committed by rename, and read as immutable."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import InputError, IntegrityError, StorageError
from ..files import operations
from .untrusted import Limits, check_schema

# Until the directory is committed by rename a file needs neither a journal nor syncs of its own.
_PRAGMAS = ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "temp_store=MEMORY", "cache_size=-32768")

# SQLite refuses a path of 512 bytes; ours are extended by its own suffixes.
_LONGEST_PATH = 500


class SqliteWriter:
    """A new file with one open transaction. Raises StorageError where the system refuses a write."""

    def __init__(self, path: Path, schema: str) -> None:
        self._path = path
        check_length(path)
        with self.writing():
            self.connection = sqlite3.connect(path, isolation_level=None)
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
    """An open file; safe from several threads. Raises IntegrityError for whatever SQLite objects to.

    ``schema``: the statements it was made with; None, to save what can be saved: any tables and indexes.
    """

    def __init__(self, path: Path, schema: str | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        check_length(path)
        # One connection, opened now: a later one could meet another file, should the index be replaced.
        # immutable=1: no locks and no journal, so a read-only medium is fine.
        uri = f"file:{quote(os.fsencode(path.absolute()))}?mode=ro&immutable=1"
        try:
            self._connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
            self._limits = Limits(self._connection, path.stat().st_size)
        except sqlite3.Error as error:
            raise self.damaged(str(error)) from None
        found = self.query("SELECT type, name, sql FROM sqlite_master")  # SQLite opens the file at its first use
        if (reason := check_schema(found, schema)) is not None:
            self._connection.close()
            raise self.damaged(reason)

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a statement."""
        try:
            with self._lock:
                self._limits.begin()
                return list(self._limits.rows(self._connection.execute(sql, parameters)))
        except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:
            raise self.damaged(str(error)) from None

    def query_in_parts(self, sql: str, parameters: Sequence[Any], rows: int) -> Iterator[list[tuple[Any, ...]]]:
        """The rows of a statement, so many at a time; other threads may ask in between."""
        try:
            with self._lock:
                self._limits.begin()
                found = self._limits.rows(self._connection.execute(sql, parameters))
            while True:
                with self._lock:
                    self._limits.begin()
                    part = list(islice(found, rows))
                if not part:
                    return
                yield part
        except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:
            raise self.damaged(str(error)) from None

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._limits.size

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


def check_length(path: Path) -> None:
    """Raise InputError for a path that is too long for SQLite, which would only say that it cannot open the file."""
    if len(os.fsencode(path.absolute())) > _LONGEST_PATH:
        raise InputError(f"{path} has a path of more than {_LONGEST_PATH} bytes; use a place with a shorter one")
