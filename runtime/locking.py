"""One writer at a time: a lock on a file, which the system lets go of when the process that holds it ends."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import IndexLockedError, StorageError
from .files import storage_errors
from .forking import Owner, private_descriptor

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

# Windows locks ranges of bytes, and nobody else can read them: far behind the text.
_BYTE = 1 << 30
_HELD = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK)


@contextmanager
def writer_lock(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``, which is made if it is not there and stays. In it is the holder's process id.

    Raises IndexLockedError if another process, or another writer of this one, holds it; StorageError where it cannot be
    written, or the file system has no locks.
    """
    owner = Owner()
    while True:
        with storage_errors(path, "let this user write to the index, or change a copy of it"):
            fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        private_descriptor(fd)
        try:
            if not _try(fd, path):
                raise IndexLockedError(
                    f"{path.parent} is being changed by another process{_holder(fd)}; wait until it has ended"
                )
            if _is_at(fd, path):
                with storage_errors(path):
                    os.truncate(fd, 0)
                    os.write(fd, f"{os.getpid()}\n".encode())
                yield
                return
        finally:
            unlock(fd, owner)


def unlock(fd: int, owner: Owner) -> None:
    """Close a locked file, and let others have the lock even where something else still has its descriptor. In a child
    of the ``owner`` the parent keeps the lock.
    """
    private_descriptor(fd, closed=True)
    if owner.is_here and sys.platform != "win32":
        with suppress(OSError):  # a file system without locks
            fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def _try(fd: int, path: Path) -> bool:
    """Lock an open file; False where it is locked already."""
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


def _is_at(fd: int, path: Path) -> bool:
    """Whether the locked file is still the one at its path: the directory may have been replaced before we had it."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False


def _holder(fd: int) -> str:
    """`` (process 123)``, where it is known."""
    with suppress(OSError, ValueError):
        os.lseek(fd, 0, os.SEEK_SET)
        return f" (process {int(os.read(fd, 32))})"
    return ""
