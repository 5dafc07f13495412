"""What the soak interrupts: one commit of each kind on a small index, and a hook at each of its file operations.

:mod:`benchmarks.soak` ends a writer there; :mod:`benchmarks.swaps` lets something else happen there.

Not run by itself. Used by :mod:`benchmarks.soak`, :mod:`benchmarks.swaps`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from splade_edge.runtime import Index, IndexUpdater
from splade_edge.runtime.files import FileOperations, operations

from .changes import Changes, csr, stored

# The methods of `FileOperations` that are watched.
OPERATIONS = ("create", "write", "commit", "make_directory", "sync", "replace", "remove")


class Cut:
    """Does something at one file operation: before it, or (``half``) in the middle of a write. ``seen`` names all;
    ``disk`` carries them out; ``next`` is done before the operation that follows.
    """

    def __init__(
        self, at: int, act: Callable[[str], None], *, half: bool = False, disk: FileOperations | None = None
    ) -> None:
        self.at, self.act, self.half = at, act, half
        self.disk = disk or FileOperations()
        self.seen: list[str] = []
        self.next: Callable[[], None] | None = None

    def __enter__(self) -> Cut:
        """From now on every file operation is counted."""
        for name in OPERATIONS:
            setattr(operations, name, self._counted(name, getattr(self.disk, name)))
        return self

    def __exit__(self, *_: object) -> None:
        """Put the operations back."""
        for name in OPERATIONS:
            operations.__dict__.pop(name, None)

    def _counted(self, name: str, action: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            self.seen.append(name)
            if len(self.seen) - 1 == self.at:
                if self.half and name == "write":
                    file, data = args
                    file.write(bytes(data)[: len(data) // 2])
                    file.flush()
                self.act(name)
            elif len(self.seen) - 2 == self.at and self.next is not None:
                self.next()
            return action(*args, **options)

        return counted


CASES = ("add", "delete", "update", "merge", "compact")


def change(path: Path, case: str) -> None:
    """Make one commit on the index of :func:`prepare`.

    Parameters
    ----------
    path : Path
        The index.
    case : str
        The kind of commit, one of ``CASES``.
    """
    rows = [np.arange(12, dtype=np.float32) % 5] * 3
    with IndexUpdater.open(path) as updater:
        if case == "add":
            updater.add_vectors(stored(["x", "y", "z"]), csr(rows))
        elif case == "delete":
            updater.delete(["d1-1", "d1-4"])
        elif case in ("update", "merge"):
            updater.add_vectors(stored(["d1-2", "y", "d1-2"]), csr(rows), replace=True)
            if case == "merge":
                updater.delete([d.id for d in updater.index.documents(range(len(updater.index) - 3)) if d.id != "d1-2"])
        elif case == "compact":
            updater.compact()


def prepare(path: Path) -> None:
    """Write a small index of two segments, with a deleted document.

    Parameters
    ----------
    path : Path
        The directory to write.
    """
    state = Changes(size=12)
    state.build(path)
    with IndexUpdater.open(path) as updater:
        updater.delete(["d1-3"])
        updater.add_vectors(*_three(), replace=False)


def _three() -> tuple[Any, Any]:
    return stored(["a", "b", "c"]), csr([np.ones(12, np.float32)] * 3)


def contents(path: Path) -> list[Any]:
    """Read all that can be seen of an index, after a full check of it.

    Parameters
    ----------
    path : Path
        The index.

    Returns
    -------
    list
        Its documents and the answers to two queries.
    """
    with Index.open(path) as index:
        index.check()
        documents = index.documents(range(len(index)))
        found = [index.search_vector((range(12), np.ones(12)), k) for k in (1, 100)]
        return [documents, *(a.tolist() for answer in found for a in answer)]
