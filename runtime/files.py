"""Files that are either whole or absent: hashing, fsync, and replacement by rename."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, BinaryIO, TypeVar

from .directory import EXCHANGE, AnyPath, Entry, renameat2
from .errors import IntegrityError, StorageError

STAGING_PREFIX = ".splade-edge-"
P = TypeVar("P", Path, Entry, AnyPath)


class FileOperations:
    """What writing an index does to the disk; all of it goes through :data:`operations`, so that tests can make any one
    operation fail, or end the process there.
    """

    def create(self, path: AnyPath, mode: str = "wb") -> BinaryIO:
        """Open a file for writing (``wb``, ``ab`` to append, ``xb`` where it must not exist)."""
        return path.open(mode)  # type: ignore[return-value]

    def write(self, file: BinaryIO, data: bytes | memoryview) -> None:
        """Append to an open file."""
        file.write(data)

    def commit(self, connection: sqlite3.Connection) -> None:
        """End the one transaction of a SQLite file."""
        connection.execute("COMMIT")

    def make_directory(self, path: AnyPath) -> None:
        """Make a directory, with parents; it must not exist."""
        path.mkdir(parents=True)

    def sync(self, path: AnyPath) -> None:
        """Flush a file or a directory to the disk; directories are skipped where the system cannot (Windows)."""
        if isinstance(path, Entry):
            path.sync()
            return
        if os.name == "nt" and path.is_dir():
            return
        fd = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def replace(self, source: AnyPath, target: AnyPath, *, keep: bool = False) -> bool:
        """Rename a file onto another, in one step. ``keep``: the other takes the first one's name, where the system can
        do that; returns whether it did.
        """
        if keep and renameat2(source, target, EXCHANGE):
            return True
        source.replace(target)  # type: ignore[arg-type] # both are paths, or both of an open directory
        return False

    def remove(self, path: AnyPath, only: Iterable[str] | None = None) -> None:
        """Remove a file or a whole directory; what is not there is no error. ``only``: see :meth:`Entry.remove`."""
        if isinstance(path, Entry):
            path.remove(only)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


operations = FileOperations()


def sha256_file(path: AnyPath) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def fsync_path(path: Path) -> None:
    """Flush a file or a directory to the disk, see :meth:`FileOperations.sync`."""
    operations.sync(path)


def write_file_durably(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` in one step: a crash leaves the old bytes or the new ones.

    Raises StorageError when the system refuses the write.
    """
    temporary = path.with_name(f"{STAGING_PREFIX}{path.name}.{secrets.token_hex(4)}")
    with storage_errors(path):
        try:
            with operations.create(temporary) as f:
                operations.write(f, data)
            operations.sync(temporary)
            operations.replace(temporary, path)
            operations.sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def storage_errors(target: AnyPath) -> Iterator[None]:
    """Turn an OSError of a write under ``target`` into a StorageError of one line."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            reason = "the disk is full; free space and run the command again"
        elif error.errno == errno.EFBIG:
            reason = "the file would exceed the size the system allows (ulimit -f)"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason = "no permission to write there; choose another output"
        else:
            reason = error.strerror or str(error)
        raise StorageError(f"cannot write {target}: {reason}") from error


@contextlib.contextmanager
def staged_file(target: Path) -> Iterator[IO[str]]:
    """A UTF-8 text file that takes the place of ``target`` when the block ends without an error, and is removed else.

    A link is followed; what is not a regular file (a pipe, ``/dev/stdout``) is written to as it is. Raises StorageError
    when the system refuses a write.
    """
    if target.exists() and not target.is_file():
        with storage_errors(target), target.open("w", encoding="utf-8", newline="\n") as stream:
            yield stream
        return
    target = Path(os.path.realpath(target))
    temporary = target.with_name(f"{STAGING_PREFIX}{target.name}.{secrets.token_hex(4)}")
    file: IO[str] | None = None
    try:
        with storage_errors(target):
            file = temporary.open("w", encoding="utf-8", newline="\n")
        yield file
        with storage_errors(target):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            temporary.replace(target)
    finally:
        if file is not None:
            with contextlib.suppress(OSError):  # a full disk was reported by the flush above
                file.close()
        with contextlib.suppress(OSError):  # where it could not be made it cannot be looked for either
            temporary.unlink(missing_ok=True)


def safe_join(root: P, relative: str) -> P:
    """``root / relative`` for a path that comes from a manifest. Raises IntegrityError if it leaves ``root``."""
    parts = relative.split("/")
    if "\\" in relative or ":" in relative or any(p in ("", ".", "..") for p in parts):
        raise IntegrityError(f"{root}: its manifest names a file outside the directory ({relative!r}); do not use it")
    return root.joinpath(*parts)
