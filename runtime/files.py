"""Files that are either whole or absent: hashing, fsync, and replacement by rename."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .errors import InputError, IntegrityError, StorageError

if sys.platform != "win32":
    import fcntl

_STAGING_PREFIX = ".splade-edge-"


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def fsync_path(path: Path) -> None:
    """Flush a file or a directory to the disk; directories are skipped where the system cannot (Windows)."""
    if path.is_dir() and os.name == "nt":
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file_durably(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` in one step: a crash leaves the old bytes or the new ones.

    Raises StorageError when the system refuses the write.
    """
    temporary = path.with_name(f"{_STAGING_PREFIX}{path.name}.{secrets.token_hex(4)}")
    with storage_errors(path):
        try:
            with temporary.open("wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            temporary.replace(path)
            fsync_path(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def storage_errors(target: Path) -> Iterator[None]:
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
def staged_directory(target: Path, *, force: bool = False) -> Iterator[Path]:
    """A new directory beside ``target`` that takes its place when the block ends without an error.

    Everything in it is fsynced before the rename. On an error the staging directory is removed and ``target`` is as it
    was. A killed process leaves a ``.splade-edge-…`` sibling, which the next writer of the same target removes.

    Raises InputError when ``target`` exists and ``force`` is false, StorageError when the system refuses a write.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100 - resolve() would follow a link at the target itself
    check_writable_target(target, force=force)
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        staging = target.with_name(f"{_STAGING_PREFIX}{target.name}.{secrets.token_hex(4)}")
        staging.mkdir()
    lock = _try_lock(staging)
    try:
        with storage_errors(target):
            yield staging
            _fsync_tree(staging)
            _take_place(staging, target)
            fsync_path(target.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if lock is not None:
            os.close(lock)


@contextlib.contextmanager
def staged_file(target: Path) -> Iterator[IO[str]]:
    """A UTF-8 text file that takes the place of ``target`` when the block ends without an error, and is removed else.

    Raises StorageError when the system refuses a write.
    """
    temporary = target.with_name(f"{_STAGING_PREFIX}{target.name}.{secrets.token_hex(4)}")
    with storage_errors(target):
        file = temporary.open("w", encoding="utf-8", newline="\n")
    try:
        yield file
        with storage_errors(target):
            file.flush()
            os.fsync(file.fileno())
            file.close()
            temporary.replace(target)
    finally:
        with contextlib.suppress(OSError):  # a full disk was reported by the flush above
            file.close()
        temporary.unlink(missing_ok=True)


def check_writable_target(target: Path, *, force: bool) -> None:
    """Refuse an existing target early, before hours of work. Raises InputError."""
    if not os.path.lexists(target):
        return
    if not force:
        raise InputError(f"{target} exists; pass --force to replace it, or choose another output")
    if not target.is_dir() or target.is_symlink():
        raise InputError(f"{target} is not a directory; choose another output")
    if any(target.iterdir()) and not any((target / name).is_file() for name in OWNED_MANIFESTS):
        raise InputError(f"{target} was not made by splade-edge, so --force does not replace it; choose another output")


# A directory holding one of these was written by us, and may be replaced with --force.
OWNED_MANIFESTS = ("splade_edge.json", "splade_edge_index.json")


def _take_place(staging: Path, target: Path) -> None:
    """Rename ``staging`` to ``target``; an old directory ends up under the staging name, which the caller removes."""
    if not target.exists():
        staging.rename(target)
    elif not _exchange(staging, target):
        # Two renames: a kill between them leaves the old directory under ``.old``; the next writer puts it back.
        old = staging.with_name(staging.name + ".old")
        target.rename(old)
        try:
            staging.rename(target)
        except OSError:
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Swap two directories in one atomic step, where the system can (Linux ``renameat2``); False where it cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    at_fdcwd, rename_exchange = -100, 2
    return bool(renameat2(at_fdcwd, os.fsencode(a), at_fdcwd, os.fsencode(b), rename_exchange) == 0)


def _try_lock(directory: Path) -> int | None:
    """Hold an flock on a directory until the descriptor closes, so that a dead writer's staging can be told from a live
    one's; None where it is held by another process or the system has no flock."""
    if sys.platform == "win32":
        return None
    fd = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def _remove_leftovers(target: Path) -> None:
    """Remove staging directories of killed writers; put back an old directory if a kill fell between two renames."""
    for path in sorted(target.parent.glob(f"{_STAGING_PREFIX}{_glob_escape(target.name)}.*")):
        if not path.is_dir() or (lock := _try_lock(path)) is None:
            continue
        try:
            if path.name.endswith(".old") and not target.exists():
                path.rename(target)
            else:
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)


def _glob_escape(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _fsync_tree(root: Path) -> None:
    for directory, _, names in os.walk(root, topdown=False):
        for name in names:
            fsync_path(Path(directory) / name)
        fsync_path(Path(directory))


def safe_join(root: Path, relative: str) -> Path:
    """``root / relative`` for a path that comes from a manifest. Raises IntegrityError if it leaves ``root``."""
    parts = relative.split("/")
    if "\\" in relative or ":" in relative or any(p in ("", ".", "..") for p in parts):
        raise IntegrityError(f"{root}: its manifest names a file outside the directory ({relative!r}); do not use it")
    return root.joinpath(*parts)
