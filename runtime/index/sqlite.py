"""The SQLite files of a segment, read as immutable. ``build/sqlite_writer.py`` writes them."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..directory import AnyPath
from ..errors import InputError, IntegrityError, StorageError
from ..files import NOT_THERE, OpenFile
from ..forking import let_be, new_lock, renew_in_child, undivided
from .sqlite_limits import Limits, check_schema

# What SQLite says where the system refuses, and where it read bytes that are wrong. The first are no damage.
_OF_THE_SYSTEM = {
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_MISUSE,
}  # fmt: skip
_BAD_BYTES = {sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS}
_MOST_IN_MEMORY = 1 << 30  # of a file that has no name any more, held in a child of the process that opened it

# SQLite refuses a path of 512 bytes; ours are extended by its own suffixes.
_LONGEST_PATH = 500


class SqliteReader:
    """An open file; safe from several threads, and in the children of a process.

    Raises IntegrityError for bytes that SQLite objects to, StorageError where the system does not let it read, and
    InputError where it was closed. A connection must not be used in a child, so that opens one of its own.

    ``schema``: the statements it was made with; None, to save what can be saved: any tables and indexes. ``size``:
    bytes of the file.
    """

    def __init__(self, path: AnyPath, schema: str | None = None) -> None:
        self._path = path
        self._schema = schema
        self._lock = new_lock()
        check_length(path)
        try:
            self._file = OpenFile(path)  # a later connection could meet another file, should the index be replaced
        except NOT_THERE as error:
            raise self.damaged(str(error.strerror)) from None
        self._connection: sqlite3.Connection | None = None
        self._limits: Limits
        try:
            self.size = self._file.status().st_size
            with self._lock, undivided, self._errors():
                self._opened()
        except BaseException:
            self.close()
            raise
        renew_in_child(self)

    def renew(self) -> None:
        """In a child: the connection is the parent's."""
        if self._connection is not None:
            let_be(self._connection)
            self._connection = None

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a statement."""
        with self._lock, undivided, self._errors():
            return list(self._rows(self._opened(), sql, parameters))

    def query_in_parts(self, sql: str, parameters: Sequence[Any], rows: int) -> Iterator[list[tuple[Any, ...]]]:
        """The rows of a statement, so many at a time; other threads may ask in between."""
        connection: sqlite3.Connection | None = None
        found: Iterator[tuple[Any, ...]] = iter(())
        given = 0
        while True:
            with self._lock, undivided, self._errors():
                if connection is None or connection is not self._opened():
                    connection = self._opened()
                    found = self._rows(connection, sql, parameters)
                    for _ in islice(found, given):  # what the parent was given
                        pass
                self._limits.begin()
                part = list(islice(found, rows))
            if not part:
                return
            given += len(part)
            yield part

    def sha256(self) -> str:
        """SHA-256 of the file's bytes, as 64 hex digits."""
        return self._file.sha256()

    def check(self) -> None:
        """Check SQLite's own structures."""
        report = self.query("PRAGMA integrity_check")
        if report != [("ok",)]:
            raise self.damaged(str(report[0][0]))

    def close(self) -> None:
        """Close the file; nothing can be read afterwards."""
        with self._lock, undivided:
            self._file.close()
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def damaged(self, detail: str) -> IntegrityError:
        """The error for a fault of this file."""
        detail = " ".join(detail.split())  # SQLite quotes a damaged schema with its line ends
        return IntegrityError(f"{self._path} is damaged ({detail}); copy the index again or build it anew")

    def _rows(self, connection: sqlite3.Connection, sql: str, parameters: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        self._limits.begin()
        return self._limits.rows(connection.execute(sql, parameters))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (UnicodeDecodeError, OverflowError) as error:
            raise self.damaged(str(error)) from None
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)  # Python's own errors have none
            if code is None or code in _BAD_BYTES or code & 0xFF not in _OF_THE_SYSTEM:
                raise self.damaged(str(error)) from None
            self._say_what_the_system_says()
            raise StorageError(f"cannot read {self._path}: SQLite says: {error}; try again") from error

    def _say_what_the_system_says(self) -> None:
        """Raise StorageError where we are refused as SQLite was, which does not tell why."""
        with suppress(*NOT_THERE):  # ours is open still
            OpenFile(self._path).close()
        for _ in self._file.parts():
            pass

    def _opened(self) -> sqlite3.Connection:
        """The connection, with its limits and its schema looked at; raises InputError where the file was closed."""
        if self._connection is None:
            connection = self._connect()
            try:
                self._limits = Limits(connection, self.size)
                found = self._rows(connection, "SELECT type, name, sql FROM sqlite_master", ())
                if (reason := check_schema(found, self._schema)) is not None:
                    raise self.damaged(reason)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        """A connection to the very file that is open, wherever it lies now."""
        for name in self._file.names():
            if not self._file.is_at(name):
                continue
            try:
                connection = connect(name, "mode=ro&immutable=1", check_same_thread=False)
            except sqlite3.OperationalError:
                if self._file.is_at(name) and _may_open(name):
                    raise
                continue  # it was moved or removed; or a child that has changed its user may not open what is open
            if self._file.is_at(name):
                return connection
            connection.close()
        size = self._file.status().st_size
        if size > _MOST_IN_MEMORY:
            raise StorageError(
                f"cannot read {self._path}: it has no name any more that this process may open, and is too large to be "
                "held in memory; open the index again"
            )
        connection = sqlite3.connect(":memory:", check_same_thread=False)
        connection.deserialize(b"".join(self._file.parts()))
        return connection


def check_length(path: AnyPath) -> None:
    """Raise InputError for a path that is too long for SQLite, which would only say that it cannot open the file."""
    if len(os.fsencode(Path(str(path)).absolute())) > _LONGEST_PATH:
        raise InputError(f"{path} has a path of more than {_LONGEST_PATH} bytes; use a place with a shorter one")


def _may_open(name: Path) -> bool:
    """Whether this user may open a file that is there. Raises StorageError where there is another obstacle."""
    try:
        OpenFile(name).close()
    except NOT_THERE:
        return False
    except StorageError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            return False
        raise
    return True


def connect(where: Path, options: str, **arguments: Any) -> sqlite3.Connection:
    """A connection to the file at a path. ``options``: those of SQLite's URIs. Raises sqlite3.Error."""
    # immutable=1: no locks and no journal, so a read-only medium is fine. Without an authority a path that begins with
    # two slashes would be taken for one.
    absolute = os.path.abspath(where)  # noqa: PTH100 - two slashes stay
    uri = f"file:{'//' * absolute.startswith('/')}{quote(os.fsencode(absolute))}?{options}"
    connection: sqlite3.Connection = sqlite3.connect(uri, uri=True, **arguments)
    try:
        connection.execute("PRAGMA schema_version").fetchall()  # SQLite opens the file at its first use
    except BaseException:
        connection.close()
        raise
    return connection
