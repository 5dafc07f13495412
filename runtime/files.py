"""Files that are either whole or absent: hashing, fsync, and replacement by rename."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .errors import IntegrityError, StorageError

STAGING_PREFIX = ".splade-edge-"


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def fsync_path(path: Path) -> None:
    """Flush a file or a directory to the disk; directories are skipped where the system cannot (Windows)."""
    if path.is_dir() and os.name == "nt":
        return
    fd = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_file_durably(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` in one step: a crash leaves the old bytes or the new ones.

    Raises StorageError when the system refuses the write.
    """
    temporary = path.with_name(f"{STAGING_PREFIX}{path.name}.{secrets.token_hex(4)}")
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
def staged_file(target: Path) -> Iterator[IO[str]]:
    """A UTF-8 text file that takes the place of ``target`` when the block ends without an error, and is removed else.

    A link is followed; what is not a regular file (a pipe, ``/dev/stdout``) is written to as it is. Raises StorageError
    when the system refuses a write.
    """
    if target.exists() and not target.is_file():
        with storage_errors(target), target.open("w", encoding="utf-8", newline="\n") as file:
            yield file
        return
    target = Path(os.path.realpath(target))
    temporary = target.with_name(f"{STAGING_PREFIX}{target.name}.{secrets.token_hex(4)}")
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


def safe_join(root: Path, relative: str) -> Path:
    """``root / relative`` for a path that comes from a manifest. Raises IntegrityError if it leaves ``root``."""
    parts = relative.split("/")
    if "\\" in relative or ":" in relative or any(p in ("", ".", "..") for p in parts):
        raise IntegrityError(f"{root}: its manifest names a file outside the directory ({relative!r}); do not use it")
    return root.joinpath(*parts)
