"""A text file that is replaced when it is whole, such as a run or what could not be saved."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .files import STAGING_PREFIX, storage_errors
from .forking import Owner, private


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
    owner = Owner()
    try:
        with storage_errors(target):
            file = temporary.open("w", encoding="utf-8", newline="\n")
        private(file)
        yield file
        owner.refuse_child(f"the file {target}, which is being written,")
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
            if owner.is_here:
                temporary.unlink(missing_ok=True)
