"""A directory held open: its files are reached whatever happens to its path meanwhile.

A path is made absolute once, when the directory is opened. From then on files are named relative to the open directory
(``dir_fd``), so a link that is flipped, a directory that is moved or another one at the path changes nothing. Where the
system has no such calls (Windows), each look at a file first compares what lies at the path with what was opened.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import stat
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Literal, overload

from .errors import IndexReplacedError, InputError
from .forking import new_lock

if sys.platform == "darwin":
    import fcntl

HAS_DIR_FD = {os.open, os.mkdir, os.stat, os.unlink, os.rmdir, os.rename} <= os.supports_dir_fd
_DIRECTORY = getattr(os, "O_DIRECTORY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_HOLD = getattr(os, "O_PATH", os.O_RDONLY) | _DIRECTORY  # to name files in it, one need not be allowed to list them
_FLAGS = {
    "rb": os.O_RDONLY,
    "wb": os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _NO_LINK,
    "ab": os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_LINK,
    "xb": os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK,
}
# Flags of Linux' renameat2(2), and its word for the current directory.
NO_REPLACE, EXCHANGE = 1, 2
_AT_FDCWD = -100


class Directory:
    """An open directory; ``path`` is absolute, and says where it lay when it was opened.

    Each holder but the first calls :meth:`hold`, and each :meth:`release`; the last closes it. Raises OSError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._fd = os.open(self.path, _HOLD) if HAS_DIR_FD else None
        self._identity = _identity(self.path.stat() if self._fd is None else os.fstat(self._fd))
        self._holders = 1
        self._lock = new_lock()
        self._close = weakref.finalize(self, _close, self._fd)

    @property
    def root(self) -> Entry:
        """The directory itself as an :class:`Entry`."""
        return Entry(self, "")

    def hold(self) -> Directory:
        """Keep it open once more. Raises InputError once it is closed."""
        with self._lock:  # which the end of another holder may ask for, wherever something is made
            is_open = self._holders > 0
            self._holders += is_open
        if not is_open:
            raise self._closed()
        return self

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep it open during the block, in which another thread may release it: its number would be another's."""
        self.hold()
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Close it when the last holder lets go; nothing in it can be reached afterwards."""
        with self._lock:
            self._holders -= 1
            if self._holders > 0:
                return
        self._close()

    def at(self, relative: str) -> tuple[str, int | None]:
        """What the system is given for a file: its name, and the descriptor that the name is relative to.

        Raises InputError once it is closed; IndexReplacedError where there are no such descriptors and another
        directory lies at the path.
        """
        if not self._close.alive:
            raise self._closed()
        if self._fd is not None:
            return relative or ".", self._fd
        if not self.is_in_place():
            raise IndexReplacedError(f"{self.path} is not the directory any more that was opened; open it again")
        return str(self.path / relative), None

    def _closed(self) -> InputError:
        return InputError(f"{self.path} is closed; open it again")

    def is_in_place(self) -> bool:
        """Whether it still lies at its path."""
        with contextlib.suppress(OSError):
            return _identity(self.path.stat()) == self._identity
        return False

    def is_replaced(self) -> bool:
        """Whether something else lies at its path. Where nothing does, it was moved (or removed)."""
        return not self.is_in_place() and os.path.lexists(self.path)

    def refuse_replaced(self) -> None:
        """Raise IndexReplacedError where something else lies at its path."""
        if self.is_replaced():
            raise IndexReplacedError(
                f"another directory lies at {self.path} than the one that was opened, which is as it was; open it again"
            )


@dataclass(frozen=True)
class Entry:
    """A file of an open directory: ``relative`` to it, with ``/``; empty for the directory itself.

    Has of :class:`Path` what the formats need. As text it is a path, for messages: the system is never given that.
    """

    directory: Directory
    relative: str

    def __str__(self) -> str:
        return str(self.directory.path / self.relative)

    def __truediv__(self, name: str) -> Entry:
        return Entry(self.directory, f"{self.relative}/{name}".lstrip("/"))

    def joinpath(self, *names: str) -> Entry:
        """The file of these names, one below the other."""
        return self / "/".join(names)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.relative.rpartition("/")[2] or self.directory.path.name

    @property
    def parent(self) -> Entry:
        """The directory that the file is in; never above the open one."""
        return Entry(self.directory, self.relative.rpartition("/")[0])

    def with_name(self, name: str) -> Entry:
        """Another file beside this one."""
        return self.parent / name

    @overload
    def open(self, mode: Literal["rb"] = "rb") -> BufferedReader: ...

    @overload
    def open(self, mode: str) -> BinaryIO: ...

    def open(self, mode: str = "rb") -> BinaryIO:
        """``rb``, ``wb``, ``ab`` or ``xb`` (it must not exist); the last three through no link."""
        fd = self._open(_FLAGS[mode])
        return os.fdopen(fd, mode.replace("x", "w"))  # type: ignore[return-value]

    def _open(self, flags: int) -> int:
        name, dir_fd = self.directory.at(self.relative)
        return os.open(name, flags | getattr(os, "O_BINARY", 0), 0o666, dir_fd=dir_fd)

    def read_bytes(self) -> bytes:
        """All that is in the file."""
        with self.open() as file:
            return file.read()

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """See :func:`os.stat`."""
        name, dir_fd = self.directory.at(self.relative)
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=follow_symlinks)

    def is_file(self) -> bool:
        """Whether a file is there, or a link to one."""
        with contextlib.suppress(OSError):
            return stat.S_ISREG(self.stat().st_mode)
        return False

    def is_dir(self) -> bool:
        """Whether a directory is there, or a link to one."""
        with contextlib.suppress(OSError):
            return stat.S_ISDIR(self.stat().st_mode)
        return False

    def is_link(self) -> bool:
        """Whether a link is there."""
        with contextlib.suppress(OSError):
            return stat.S_ISLNK(self.stat(follow_symlinks=False).st_mode)
        return False

    def iterdir(self) -> Iterator[Entry]:
        """The files in the directory."""
        if not HAS_DIR_FD:
            yield from (self / path.name for path in Path(self.directory.at(self.relative)[0]).iterdir())
            return
        fd = self._open(os.O_RDONLY | _DIRECTORY)
        try:
            names = os.listdir(fd)  # noqa: PTH208 - Path takes no descriptor
        finally:
            os.close(fd)
        yield from (self / name for name in names)

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Make a directory, as :meth:`Path.mkdir` does."""
        if parents and self.relative.count("/"):
            self.parent.mkdir(parents=True, exist_ok=True)
        name, dir_fd = self.directory.at(self.relative)
        try:
            os.mkdir(name, dir_fd=dir_fd)
        except FileExistsError:
            if not exist_ok or not self.is_dir():
                raise

    def sync(self) -> None:
        """Flush the file or the directory to the disk."""
        if os.name == "nt" and self.is_dir():
            return
        fd = self._open(os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def replace(self, target: Entry) -> None:
        """Rename the file onto another, in one step."""
        (name, dir_fd), (other, other_fd) = self.directory.at(self.relative), target.directory.at(target.relative)
        os.replace(name, other, src_dir_fd=dir_fd, dst_dir_fd=other_fd)

    def remove(self, only: Iterable[str] | None = None) -> None:
        """Remove a file, or a directory with all that is in it, through no link; what is not there is no error.

        ``only``: of a directory these alone, and then itself, if nothing else is in it.
        """
        with contextlib.suppress(FileNotFoundError), self._parent() as (prefix, dir_fd):
            name = prefix + self.name
            is_directory = stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode)
            if not is_directory:
                os.unlink(name, dir_fd=dir_fd)
            elif only is None:
                shutil.rmtree(name, dir_fd=dir_fd)
            else:
                for one in only:
                    (self / one).remove()
                os.rmdir(name, dir_fd=dir_fd)

    @contextlib.contextmanager
    def _parent(self) -> Iterator[tuple[str, int | None]]:
        """What a name in the parent begins with, and is relative to. Raises OSError where a link leads there."""
        names = self.relative.split("/")[:-1]
        if not HAS_DIR_FD:
            parents = [self.directory.root.joinpath(*names[:n]) for n in range(1, len(names) + 1)]
            if any(parent.is_link() for parent in parents):
                raise NotADirectoryError(f"{self} lies behind a link")
            yield self.directory.at(self.parent.relative)[0] + os.sep, None
            return
        fd = self.directory.root._open(os.O_RDONLY | _DIRECTORY)
        try:
            for name in names:
                below = os.open(name, os.O_RDONLY | _DIRECTORY | _NO_LINK, dir_fd=fd)
                os.close(fd)
                fd = below
            yield "", fd
        finally:
            os.close(fd)


AnyPath = Path | Entry


def open_descriptor(path: AnyPath, flags: int) -> int:
    """:func:`os.open` of either kind of path."""
    return path._open(flags) if isinstance(path, Entry) else os.open(path, flags | getattr(os, "O_BINARY", 0))


def locations(fd: int, path: AnyPath) -> list[Path]:
    """Paths under which an open file may be found, for libraries that open by path; the likeliest first. What they have
    opened has to be compared with ``fd`` afterwards.
    """
    found = [Path(str(path)).absolute()]
    with contextlib.suppress(OSError):
        if sys.platform == "darwin":
            found.insert(0, Path(os.fsdecode(fcntl.fcntl(fd, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0"))))
        elif sys.platform == "linux":
            found.insert(0, Path(f"/proc/self/fd/{fd}").readlink())
    return found


def renameat2(a: AnyPath, b: AnyPath, flag: int) -> bool:
    """Rename without replacing, or swap, in one atomic step, where the system can (Linux); False where it did not."""
    system = _renameat2()
    if system is None:
        return False
    arguments: list[int | bytes] = []
    for path in (a, b):
        name, dir_fd = path.directory.at(path.relative) if isinstance(path, Entry) else (path, None)
        arguments += [_AT_FDCWD if dir_fd is None else dir_fd, os.fsencode(name)]
    return system(*arguments, flag) == 0


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    try:
        return ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return None


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
