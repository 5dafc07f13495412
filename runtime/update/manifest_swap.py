"""The step that makes a commit: one manifest takes the place of another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TypeVar

from ..directory import Entry
from ..errors import SpladeEdgeError
from ..files import operations, storage_errors
from ..manifest import Manifest

M = TypeVar("M", bound=Manifest)


def swap_manifest(
    path: Entry,
    temporary: Entry,
    data: bytes,
    expected: M,
    read: Callable[[Entry], M],
    check: Callable[[], None] = lambda: None,
) -> bool:
    """Put a manifest (its bytes) in the place of the one at ``path``, if that is ``expected``; False, and it stays,
    where it is another. ``temporary``: a file beside it, which is used and removed; ``read`` gives the manifest in a
    file; ``check`` is called at the last moment, and may raise.

    Where the system can swap two files, what was taken out is looked at once more, and put back if it was another after
    all. Raises StorageError, and what ``read`` and ``check`` do.
    """
    with storage_errors(path):
        try:
            with operations.create(temporary) as file:
                operations.write(file, data)
            operations.sync(temporary)
            check()
            if read(path) != expected:
                return False
            if operations.replace(temporary, path, keep=True) and not _holds(temporary, expected, read):
                operations.replace(temporary, path, keep=True)
                return False
            operations.sync(path.parent)
            return True
        finally:
            with contextlib.suppress(OSError):  # the next writer will
                operations.remove(temporary)


def _holds(path: Entry, expected: M, read: Callable[[Entry], M]) -> bool:
    try:
        return read(path) == expected
    except SpladeEdgeError:
        return False
