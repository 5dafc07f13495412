"""Writing which documents of a segment are deleted; ``index/tombstones.py`` reads it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..directory import Entry
from ..files import operations, storage_errors
from ..index.layout import TOMBSTONES
from ..numba_support.arrays import Bools


def pack_tombstones(deleted: Bools) -> bytes:
    """The bytes of a file for bool ``[documents]``, True where deleted: document d is bit d % 8 of byte d // 8."""
    return np.packbits(deleted, bitorder="little").tobytes()


def write_tombstones(root: Entry, files: Mapping[str, bytes]) -> None:
    """Write such files, by name below the index; their directory is made, and flushed, if it is not there."""
    folder = root / TOMBSTONES
    with storage_errors(folder):
        if files and not folder.is_dir():
            operations.make_directory(folder)
            operations.sync(root)
        for name, data in files.items():
            with operations.create(root / name, "xb") as file:
                operations.write(file, data)
