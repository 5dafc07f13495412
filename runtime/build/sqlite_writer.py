"""Writing the SQLite files of a segment: once, within a directory that is committed by rename."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from ..directory import AnyPath, locations, open_descriptor
from ..errors import StorageError
from ..files import operations, storage_errors
from ..forking import Owner, let_be, renew_in_child, undivided
from ..index.sqlite import check_length, connect

# Until the directory is committed by rename a file needs neither a journal nor syncs of its own.
_PRAGMAS = ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "temp_store=MEMORY", "cache_size=-32768")


class SqliteWriter:
    """A new file with one open transaction. Raises StorageError where the system refuses a write."""

    def __init__(self, path: AnyPath, schema: str) -> None:
        self._path = path
        self._owner = Owner()
        check_length(path)
        with self.writing(), storage_errors(path), operations.create(path, "xb") as file:
            self.connection = _connect_new(file, path)
        renew_in_child(self)
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
        self._owner.refuse_child(f"the file {self._path}, which is being written,")
        try:
            with undivided:
                yield
        except sqlite3.OperationalError as error:
            raise StorageError(f"cannot write {self._path}: {error}; free space and run the command again") from error

    def close(self) -> None:
        """Finish the file."""
        try:
            with self.writing():
                operations.commit(self.connection)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the file unfinished; it cannot be used."""
        if self._owner.is_here:
            with undivided:
                self.connection.close()

    def renew(self) -> None:
        """In a child: the connection is the parent's."""
        let_be(self.connection)


def _connect_new(file: BinaryIO, path: AnyPath) -> sqlite3.Connection:
    """Have SQLite open the very file that is open for writing: it opens by path, so what it has opened is compared.

    Raises sqlite3.Error where it is at none of its paths, OSError where the system refuses.
    """
    last: sqlite3.Error = sqlite3.OperationalError("another file lies at its path")
    for where in locations(file.fileno(), path):
        try:
            connection = connect(where, "mode=rw", isolation_level=None)
        except sqlite3.Error as error:
            last = error
            continue
        with suppress(OSError):  # it has just been moved
            if os.path.samestat(where.stat(), os.fstat(file.fileno())):
                return connection
        connection.close()
    os.close(open_descriptor(path, os.O_RDONLY))  # the system says why it refuses, as SQLite does not
    raise last
