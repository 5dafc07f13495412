"""Locks between processes. The system releases a lock when the process that holds it ends.

:func:`writer_lock` makes a process the one writer of an index: it locks the index's lock file, and the directory too
where the file system allows. :func:`try_lock_directory` locks a directory alone, so that the working directory of a
process that runs can be told from one that a killed process has left.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .directory import AnyPath, Entry
from .errors import IndexLockedError, StorageError
from .files import cannot_read, storage_errors
from .forking import Owner, private_descriptor

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

# Windows locks ranges of bytes, which nobody else can read then. This one is far behind the text.
_BYTE = 1 << 30
_ALLOW = "let this user write to the index, or change a copy of it"
_HELD = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK)


class WriterLock:
    """The lock of the writer of an index, held.

    Parameters
    ----------
    path
        The lock file.
    fd
        Its descriptor, locked.
    directory
        The descriptor of its directory, locked; None if the file system cannot lock directories.
    """

    def __init__(self, path: AnyPath, fd: int, directory: int | None) -> None:
        self.path = path
        self.fd = fd
        self._directory = directory
        self._owner = Owner()

    @property
    def exclusive(self) -> bool:
        """Whether the directory is locked too, so that no second writer comes in even if the lock file is removed."""
        return self._directory is not None

    def is_in_place(self) -> bool:
        """Whether the locked file is still the one at its path.

        Returns
        -------
        bool
            False if the file was removed or replaced.
        """
        return _is_at(self.fd, self.path)

    def release(self) -> None:
        """Let other writers in. A process that was forked from the holder only closes its own descriptors."""
        for fd in (self._directory, self.fd):
            if fd is not None:
                _unlock(fd, self._owner)


class DirectoryLock:
    """An exclusive lock on a directory, held until :meth:`release`.

    Parameters
    ----------
    fd
        The descriptor of the directory, which is locked already.
    """

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd
        self._owner = Owner()

    def release(self) -> None:
        """Let other processes take the lock. Another call does nothing.

        A process that was forked from the holder only closes its own descriptor.
        """
        if self._fd is not None:
            _unlock(self._fd, self._owner)
            self._fd = None


def try_lock_directory(directory: Path) -> DirectoryLock | None:
    """Lock a directory, without waiting.

    Parameters
    ----------
    directory
        An existing directory.

    Returns
    -------
    DirectoryLock or None
        None where another process holds the lock, or the file system or the operating system (Windows) has no locks on
        directories.

    Raises
    ------
    OSError
        If the directory cannot be opened.
    """
    if sys.platform == "win32":
        return None
    fd = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    private_descriptor(fd)
    return DirectoryLock(fd)


@contextmanager
def writer_lock(path: AnyPath, allow: str = _ALLOW) -> Iterator[WriterLock]:
    """Hold the lock of the writer of an index.

    The lock file is made if it is not there, and stays. Its first line is the process id of the holder. Its directory
    is locked too, if the file system allows.

    Parameters
    ----------
    path
        The lock file.
    allow
        What an error says to do where the file may not be written.

    Yields
    ------
    WriterLock
        The lock.

    Raises
    ------
    IndexLockedError
        If another process, or another writer of this one, holds the lock.
    StorageError
        If the file cannot be written or is no regular file, or the file system has no locks.
    """
    owner = Owner()
    while True:
        try:
            with storage_errors(path, allow):
                fd = _open(path)
        except StorageError as error:
            _refuse_other(path, error)
            raise
        private_descriptor(fd)
        directory: int | None = None
        try:
            _refuse_other(path)
            if not _try(fd, path):
                raise _locked(path, _holder(fd))
            directory = _try_directory(path)
        except BaseException:
            _unlock(fd, owner)
            raise
        lock = WriterLock(path, fd, directory)
        try:
            if lock.is_in_place():
                with storage_errors(path, allow):
                    _name_holder(fd)
                yield lock
                return
        finally:
            lock.release()


def _unlock(fd: int, owner: Owner) -> None:
    """Close a locked file and release its lock, even if something else still has the descriptor.

    In a child of the ``owner`` the lock stays with the parent.
    """
    private_descriptor(fd, closed=True)
    if owner.is_here and sys.platform != "win32":
        with suppress(OSError):  # a file system without locks
            fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def _refuse_other(path: AnyPath, cause: Exception | None = None) -> None:
    """Raise StorageError where something else than a regular file lies at the path of a lock."""
    try:
        mode = path.stat(follow_symlinks=False).st_mode
    except OSError:  # gone, or nothing that could be said better
        return
    if not stat.S_ISREG(mode):
        raise StorageError(
            f"{path} is not a regular file, so it is no lock; remove it: a writer makes it anew"
        ) from cause


def _locked(path: AnyPath, holder: str = "") -> IndexLockedError:
    return IndexLockedError(f"{path.parent} is being changed by another process{holder}; wait until it has ended")


def _open(path: AnyPath) -> int:
    """Open the lock file. Links are refused, because a process id would be written into their target."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # wait for no pipe
    name, dir_fd = path.directory.at(path.relative) if isinstance(path, Entry) else (str(path), None)
    return os.open(name, flags, 0o666, dir_fd=dir_fd)


def _try_directory(path: AnyPath) -> int | None:
    """Lock the directory of a lock file; None if the system cannot. Raises IndexLockedError."""
    if sys.platform == "win32":
        return None
    name, dir_fd = path.directory.at("") if isinstance(path, Entry) else (str(path.parent), None)
    try:
        fd = os.open(name, os.O_RDONLY, dir_fd=dir_fd)
    except PermissionError:
        return None
    except OSError as error:
        raise cannot_read(path.parent, error) from error
    private_descriptor(fd)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        private_descriptor(fd, closed=True)
        os.close(fd)
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
            raise _locked(path) from None
        return None  # NFS locks only files
    return fd


def _name_holder(fd: int) -> None:
    """Write our process id into the first line. The other lines stay (see update/record.py)."""
    os.lseek(fd, 0, os.SEEK_SET)
    with os.fdopen(fd, "rb", closefd=False) as file:
        _, end, rest = file.read().partition(b"\n")
    write_whole(fd, f"{os.getpid()}\n".encode() + (rest if end else b""))


def write_whole(fd: int, data: bytes) -> None:
    """Replace the content of an open file.

    Parameters
    ----------
    fd
        Its descriptor, open for writing.
    data
        The new content.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    os.lseek(fd, 0, os.SEEK_SET)
    while data:
        data = data[os.write(fd, data) :]
    os.truncate(fd, os.lseek(fd, 0, os.SEEK_CUR))


def _try(fd: int, path: AnyPath) -> bool:
    """Lock an open file; False if it is locked already."""
    try:
        if sys.platform == "win32":
            os.lseek(fd, _BYTE, os.SEEK_SET)
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
            os.lseek(fd, 0, os.SEEK_SET)
        else:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise StorageError(
            f"cannot lock {path}: {error.strerror}; keep the index on a file system that has locks to change it"
        ) from None
    return True


def _is_at(fd: int, path: AnyPath) -> bool:
    """Whether the locked file is still the one at its path. It may have been replaced before we had the lock."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False


def _holder(fd: int) -> str:
    """`` (process 123)``; "" if it is not known."""
    with suppress(OSError, ValueError):
        os.lseek(fd, 0, os.SEEK_SET)
        return f" (process {int(os.read(fd, 32))})"
    return ""
