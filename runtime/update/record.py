"""The record of what a writer is about to write or to remove, in the lock file, before it happens.

The next writer removes what a killed writer has left, and nothing else. Behind the line with the process id, the lock
file has one line for each file or directory that no manifest names: new segments, new tombstones, and the temporary
name of the next manifest. A name with a digest behind it is not needed any more once the manifest of that digest is
there. A line counts only if it is complete.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection, Mapping

from ..directory import Entry
from ..errors import IndexReplacedError
from ..files import STAGING_PREFIX, operations, storage_errors
from ..index.layout import DOCUMENTS_FILE, FIELDS_FILE, MANIFEST_NAME, SCRATCH, SEGMENT_ARRAYS, SEGMENTS, TOMBSTONES
from ..locking import WriterLock, write_whole

_LINE = re.compile(
    rf"((?:{SEGMENTS}|{TOMBSTONES})/\w[\w.-]*|{re.escape(STAGING_PREFIX + MANIFEST_NAME)}\.\w+)( [0-9a-f]{{64}})?"
)
_SEGMENT_FILES = (*SEGMENT_ARRAYS, DOCUMENTS_FILE, FIELDS_FILE, *SCRATCH)


class Record:
    """The lines of a lock file.

    Parameters
    ----------
    root
        The index directory.
    lock
        The lock, held.

    Raises
    ------
    StorageError
        If the lock file cannot be read.
    """

    def __init__(self, root: Entry, lock: WriterLock) -> None:
        self._root = root
        self._lock = lock
        with storage_errors(lock.path):
            os.lseek(lock.fd, 0, os.SEEK_SET)
            with os.fdopen(lock.fd, "rb", closefd=False) as file:
                self._written = file.read()
        lines = self._written.decode("utf-8", "replace").split("\n")[1:-1]
        # name -> the digest of the manifest that does without it; "": a writer that died has left it
        self._names = {match[1]: (match[2] or "").strip() for line in lines if (match := _LINE.fullmatch(line))}

    def add(self, names: Mapping[str, str]) -> None:
        """Note names on the disk before anything is done to them.

        Parameters
        ----------
        names
            By name, relative to the index: the digest of the manifest that does without it; "" if it is about to be
            made.

        Raises
        ------
        StorageError
            If the lock file cannot be written.
        IndexReplacedError
            If the lock file was removed.
        """
        new = {name: digest for name, digest in names.items() if self._names.get(name) != digest}
        if not new:
            return
        assert all(_LINE.fullmatch(_line(*item)) for item in new.items())
        with storage_errors(self._lock.path):
            os.lseek(self._lock.fd, 0, os.SEEK_END)
            self._written = b""  # unknown until the write has succeeded
            with os.fdopen(self._lock.fd, "wb", closefd=False) as file:
                operations.write(file, "".join(f"{_line(*item)}\n" for item in new.items()).encode())
            try:
                operations.sync(self._lock.path)
            except FileNotFoundError:
                raise IndexReplacedError(
                    f"{self._lock.path} was removed by another process; nothing was committed: open the index again"
                ) from None
        self._names |= new

    def clear(self, used: Collection[str], digest: Callable[[], str]) -> None:
        """Remove what was noted and is not used. What cannot be removed now stays noted.

        Parameters
        ----------
        used
            The names that the manifest that is there uses, see :func:`in_use`.
        digest
            Returns the digest of that manifest.
        """
        left = {}
        for name, without in self._names.items():
            if name not in used and (not without or without == digest()):
                try:
                    operations.remove(self._root / name, _SEGMENT_FILES)
                except OSError:  # it is open (on Windows), or holds a file that is not ours
                    left[name] = without
        self._names = left
        lines = "".join(f"{line}\n" for line in (os.getpid(), *(_line(*item) for item in left.items()))).encode()
        if lines != self._written:
            with contextlib.suppress(OSError):
                write_whole(self._lock.fd, lines)
                self._written = lines


def _line(name: str, digest: str) -> str:
    return f"{name} {digest}".strip()


def in_use(files: Collection[str]) -> set[str]:
    """The names that a :class:`Record` must not remove.

    Parameters
    ----------
    files
        The files that a manifest lists.

    Returns
    -------
    set of str
        These files, or the segment directories that they are in.
    """
    return {"/".join(name.split("/")[:2]) for name in files}
