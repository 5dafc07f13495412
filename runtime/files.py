"""Files that are either whole or absent: hashing, fsync, and replacement by rename."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import sqlite3
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from .directory import EXCHANGE, AnyPath, Entry, locations, open_descriptor, renameat2
from .errors import InputError, IntegrityError, StorageError
from .forking import new_lock, private

STAGING_PREFIX = ".splade-edge-"
# There is no such file; what that means the caller knows. All other errors are the system's.
NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_PART = 1 << 20  # bytes read at a time
P = TypeVar("P", Path, Entry, AnyPath)


class FileOperations:
    """What writing an index does to the disk; all of it goes through :data:`operations`, so that tests can make any one
    operation fail, or end the process there.
    """

    def create(self, path: AnyPath, mode: str = "wb") -> BinaryIO:
        """Open a file for writing (``wb``, ``ab`` to append, ``xb`` where it must not exist)."""
        file: BinaryIO = path.open(mode)  # type: ignore[assignment]  # binary
        private(file)
        return file

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
    """SHA-256 of a file's bytes, as 64 hex digits. Raises FileNotFoundError, StorageError."""
    with reading(path), path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


class OpenFile:
    """A file to be read that stays the one it was when it was opened, whatever lies at its path later. Safe from
    several threads, and in several processes after a fork: nobody moves an offset that others go by.

    Raises FileNotFoundError, StorageError; InputError where it was closed.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path
        self._lock = new_lock()  # or another file could have the descriptor by the time it is read
        with reading(path):
            descriptor = open_descriptor(path, os.O_RDONLY)
        self._descriptor: int | None = descriptor
        self._end = weakref.finalize(self, os.close, descriptor)

    def close(self) -> None:
        """Close the file; nothing can be read afterwards."""
        with self._lock:
            self._descriptor = None
            self._end()

    def status(self) -> os.stat_result:
        """Its identity and size."""
        with self._lock, reading(self.path):
            return os.fstat(self._opened())

    def is_at(self, path: str | Path) -> bool:
        """Whether it is this very file that lies at a path now."""
        try:
            return os.path.samestat(self.status(), os.stat(path))  # noqa: PTH116 - it takes both
        except OSError:
            return False

    def names(self) -> list[Path]:
        """Paths at which it may lie now: the one the system knows, and the one it was opened by."""
        with self._lock:
            return locations(self._opened(), self.path)

    def parts(self, end: int | None = None) -> Iterator[bytes]:
        """Its bytes, some at a time, up to ``end``."""
        at = 0
        while end is None or at < end:
            size = _PART if end is None else min(_PART, end - at)
            with self._lock, reading(self.path):
                data = _read_at(self._opened(), size, at)
            if not data:
                return
            yield data
            at += len(data)

    def sha256(self) -> str:
        """SHA-256 of its bytes, as 64 hex digits."""
        digest = hashlib.sha256()
        for part in self.parts():
            digest.update(part)
        return digest.hexdigest()

    def _opened(self) -> int:
        if self._descriptor is None:
            raise closed(self.path)
        return self._descriptor


def _read_at(descriptor: int, size: int, at: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, at)
    os.lseek(descriptor, at, os.SEEK_SET)  # Windows, where nothing forks
    return os.read(descriptor, size)


def closed(path: AnyPath) -> InputError:
    """The error for a file that was closed before."""
    return InputError(f"{path} is closed; open it again")


@contextlib.contextmanager
def reading(path: str | AnyPath) -> Iterator[None]:
    """Turn an OSError of a read under ``path`` into a StorageError of one line. That there is no such file goes
    through: see :data:`NOT_THERE`. Raises InputError for a name that no file can have.
    """
    try:
        yield
    except NOT_THERE:
        raise
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(f"{path}: {error.strerror}; use a shorter name") from error
        raise cannot_read(path, error) from error


def absolute_path(path: str | Path) -> Path:
    """A path that does not depend on the working directory, without ``..``; links in it stay. Raises StorageError where
    there is no such directory any more.
    """
    try:
        return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow a link
    except FileNotFoundError as error:
        raise StorageError(
            f"the working directory was removed, and {path} is relative to it; change to another, or give a full path"
        ) from error


# Each error of the system has its own remedy. None of them says that a file is damaged.
_REMEDIES = {
    errno.EACCES: "let this user read it, or run as one who may",
    errno.EPERM: "let this user read it, or run as one who may",
    errno.EMFILE: "this process has too many files open: raise the limit (ulimit -n), or close what is not needed",
    errno.ENFILE: "all processes together have too many files open: end some, or raise the system's limit",
    errno.ENOMEM: "there is too little memory: close other programs, or raise the limit (ulimit -v)",
    errno.ESTALE: "the file server has put another file in its place: open it again, or mount it anew",
    errno.EIO: "the disk or the network failed, and the system's log may say why: try again, or copy it from elsewhere",
    errno.ELOOP: "links lead in a circle: mend them",
    errno.EINTR: "try again",
    errno.EAGAIN: "try again",
    errno.ETIMEDOUT: "the file server does not answer: try again when it does",
}


def cannot_read(path: str | AnyPath, error: OSError) -> StorageError:
    """The error for a refused read, with the system's name for it and what helps; to be raised ``from`` the other."""
    name = errno.errorcode.get(error.errno or 0, "")
    what = f"{error.strerror or error}{f' ({name})' if name else ''}"
    remedy = remedy_of(error) or "see what that is, and try again"
    return StorageError(f"cannot read {path}: {what}; {remedy}")


def remedy_of(error: OSError) -> str | None:
    """What helps against a refusal of the system; None where that depends on what was asked of it."""
    return _REMEDIES.get(error.errno or 0)


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
def storage_errors(target: AnyPath, allow: str = "choose another output") -> Iterator[None]:
    """Turn an OSError of a write under ``target`` into a StorageError of one line; ``allow``: what to do where there is
    no permission.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            reason = "the disk is full; free space and run the command again"
        elif error.errno == errno.EFBIG:
            reason = "the file would exceed the size the system allows (ulimit -f)"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            why = "the file system is read-only" if error.errno == errno.EROFS else "no permission to write there"
            reason = f"{why}; {allow}"
        elif error.errno == errno.ENAMETOOLONG:
            reason = "the name is too long; choose a shorter one"
        else:
            reason = error.strerror or str(error)
            if error.errno in _REMEDIES:
                reason += f" ({errno.errorcode[error.errno]}); {_REMEDIES[error.errno]}"
        raise StorageError(f"cannot write {target}: {reason}") from error


def safe_join(root: P, relative: str) -> P:
    """``root / relative`` for a path that comes from a manifest. Raises IntegrityError if it leaves ``root``."""
    parts = relative.split("/")
    if any(c in relative for c in "\\:\0") or any(p in ("", ".", "..") for p in parts) or not _is_name(parts):
        raise IntegrityError(
            f"{root}: its manifest names a file outside the directory ({relative[:100]!r}); do not use it"
        )
    return root.joinpath(*parts)


def _is_name(parts: list[str]) -> bool:
    """Whether a system may have a file of this name: no surrogates, and no longer than any takes."""
    try:
        lengths = [len(part.encode()) for part in parts]
    except UnicodeEncodeError:
        return False
    return max(lengths) <= 255 and sum(lengths) <= 1000
