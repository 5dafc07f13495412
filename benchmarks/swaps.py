"""The soak's second mode: at each file operation of a commit in turn, something else gets in its way. The directory is
moved, or swapped for another index; the lock is removed or replaced; the manifest is replaced.

Afterwards each of the two indexes is exactly what it was, or has the intended commit, and success is reported only
where the intended one has it.

Not run by itself. Used by :mod:`benchmarks.soak`.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from splade_edge.runtime import Index, IndexUpdater
from splade_edge.runtime.directory import EXCHANGE, renameat2
from splade_edge.runtime.errors import IndexLockedError, IndexReplacedError, SpladeEdgeError
from splade_edge.runtime.files import operations
from splade_edge.runtime.index.layout import LOCK_NAME, MANIFEST_NAME, read_manifest_file
from splade_edge.runtime.manifest import write_manifest

from .changes import Changes, csr, stored
from .interruptions import CASES, OPERATIONS, Cut, change, contents, prepare

Tree = dict[str, bytes]


@dataclass
class Stage:
    """Two indexes in a directory: the one that is changed, by way of ``path``, and ``other``, which may take its place.

    ``opened`` is where the former lies at the moment; ``manifest`` what somebody put in the place of its manifest.
    """

    path: Path
    opened: Path
    other: Path
    manifest: bytes | None = None
    second: list[str] = field(default_factory=list)  # what came of a second writer

    def moved(self) -> None:
        """The directory is moved away."""
        self.opened = self.path.rename(self.path.with_name("moved"))

    def swapped(self) -> None:
        """It is moved away, and the other takes its place."""
        self.moved()
        self.other = self.other.rename(self.path)

    def swapped_back(self) -> None:
        """All is as it was before :meth:`swapped`."""
        self.other = self.other.rename(self.path.with_name("other"))
        self.opened = self.opened.rename(self.path)

    def flipped(self) -> None:
        """The link at the path leads to the other."""
        self.path.unlink()
        self.path.symlink_to(self.other)

    def unlocked(self) -> None:
        """The lock file is removed."""
        (self.opened / LOCK_NAME).unlink(missing_ok=True)

    def locked_anew(self) -> None:
        """Another lock file takes its place."""
        self.unlocked()
        (self.opened / LOCK_NAME).write_bytes(b"1\n")

    def two_writers(self) -> None:
        """The lock file is removed, and a second writer commits, if it can."""
        self.unlocked()
        with contextlib.suppress(IndexLockedError), IndexUpdater.open(self.opened) as updater:
            updater.add_vectors(stored(["second"]), csr([np.ones(12, np.float32)]))
            self.second.append("began")
            updater.commit()
            self.second.append("committed")

    def manifest_replaced(self) -> None:
        """Somebody who took no lock has committed: the manifest is another, of the same segments."""
        path = self.opened / MANIFEST_NAME
        manifest = read_manifest_file(path)
        write_manifest(path, msgspec.structs.replace(manifest, generation=manifest.generation + 7))
        self.manifest = path.read_bytes()


# What happens at an operation, and at the next; what an open writer is given as its path.
MODES: dict[str, tuple[Callable[[Stage], None], Callable[[Stage], None] | None]] = {
    "moved": (Stage.moved, None),
    "swapped": (Stage.swapped, None),
    "swapped for a moment": (Stage.swapped, Stage.swapped_back),
    "link flipped": (Stage.flipped, None),
    "lock removed": (Stage.unlocked, None),
    "lock replaced": (Stage.locked_anew, None),
    "two writers": (Stage.two_writers, None),
    "manifest replaced": (Stage.manifest_replaced, None),
}


def swap_everywhere(directory: Path, every: int = 1) -> dict[str, dict[str, int]]:
    """Let each mode happen at each file operation of each kind of commit.

    Parameters
    ----------
    directory : Path
        Where the indexes are made.
    every : int
        Try every Nth operation only.

    Returns
    -------
    dict of str to dict of str to int
        How many commits of a mode were ``committed`` and ``refused``.

    Raises
    ------
    AssertionError
        If an index has something else than was reported.
    """
    prepare(directory / "index")
    Changes(seed=5, size=9).build(directory / "other")
    before = state(directory / "index")
    counts = {mode: {"committed": 0, "refused": 0} for mode in MODES}
    exchanges = _exchanges(directory)
    place = 0
    for case in CASES:
        whole = Path(shutil.copytree(directory / "index", directory / "whole"))
        with Cut(-1, lambda _: None) as cut:
            change(whole, case)
        seen, after = cut.seen, state(whole)
        shutil.rmtree(whole)
        for at in range(len(seen)):
            for mode in MODES:
                place += 1
                if place % every == 0:
                    with _stage(directory, mode) as stage:
                        done = _one(stage, mode, case, at, before, after)
                    if done != _expected(mode, at, seen.index("replace"), done, exchanges=exchanges):
                        raise AssertionError(f"{case}, {mode} at operation {at}: {'done' if done else 'refused'}")
                    counts[mode]["committed" if done else "refused"] += 1
    return counts


def _expected(mode: str, at: int, replaced: int, done: bool, *, exchanges: bool) -> bool:
    """Whether a commit has to be done; ``done`` where it may be, or not. The manifest is read behind the second
    operation, and looked at before it is ``replaced``; where files can be exchanged, also afterwards.
    """
    if mode == "moved" or at > replaced:
        return True
    if mode == "manifest replaced" and (at == replaced and exchanges):
        return False
    if mode == "swapped for a moment" or at == replaced or (mode == "manifest replaced" and at < 2):
        return done
    return False


def _exchanges(directory: Path) -> bool:
    """Whether the file system can exchange two files."""
    first, second = directory / "first", directory / "second"
    first.touch()
    second.touch()
    found = renameat2(first, second, EXCHANGE)
    first.unlink()
    second.unlink()
    return found


@contextlib.contextmanager
def _stage(directory: Path, mode: str) -> Iterator[Stage]:
    place = directory / "stage"
    place.mkdir()
    index = Path(shutil.copytree(directory / "index", place / "index"))
    other = Path(shutil.copytree(directory / "other", place / "other"))
    path = index
    if mode == "link flipped":
        path = place / "link"
        path.symlink_to(index)
    yield Stage(path, index, other)
    shutil.rmtree(place)


def _one(stage: Stage, mode: str, case: str, at: int, before: list[object], after: list[object]) -> bool:
    """One commit with something in its way; whether it was reported as done."""
    index, other = tree(stage.opened), tree(stage.other)
    what = f"{case}, {mode} at operation {at}"
    happens, then = MODES[mode]
    with Cut(at, lambda _: _unwatched(happens, stage)) as cut:
        if then is not None:
            cut.next = lambda: _unwatched(then, stage)
        try:
            change(stage.path, case)
            done = True
        except SpladeEdgeError as error:
            done = False
            if "\n" in str(error) or not isinstance(error, IndexReplacedError):
                raise AssertionError(f"{what}: {error!r}") from error
    if state(stage.opened) != (after if done else before):
        raise AssertionError(f"{what}: reported {'done' if done else 'refused'}, and the index has something else")
    if tree(stage.other) != other:
        raise AssertionError(f"{what}: the other index was changed")
    if stage.second == ["began"] or (stage.second and done):
        raise AssertionError(f"{what}: a second writer: {stage.second}")
    left = tree(stage.opened)
    if stage.manifest is not None and left[MANIFEST_NAME] == stage.manifest:
        index[MANIFEST_NAME] = stage.manifest
    if not done and left != index:
        raise AssertionError(f"{what}: refused, and the files differ: {left.keys() ^ index.keys()}")
    if stage.manifest is not None and not done and left[MANIFEST_NAME] != stage.manifest:
        raise AssertionError(f"{what}: refused, and somebody's manifest was undone")
    if done and mode == "moved" and stage.path.exists():
        raise AssertionError(f"{what}: something was made where the index was")
    with Index.open(stage.opened) as opened:
        files = {*opened.manifest.files, MANIFEST_NAME}
    # what only a manifest of ours did without is kept where another has come
    if left.keys() != files and not (done and stage.manifest is not None and files < left.keys()):
        raise AssertionError(f"{what}: left over: {left.keys() ^ files}")
    return done


def _unwatched(act: Callable[[Stage], None], stage: Stage) -> None:
    """What others do is none of the writer's operations."""
    watched = {name: operations.__dict__.pop(name) for name in OPERATIONS}
    try:
        act(stage)
    finally:
        operations.__dict__.update(watched)


def state(path: Path) -> list[object]:
    """Read all that can be seen of an index, after a full check, and which segments it has.

    Parameters
    ----------
    path : Path
        The index.

    Returns
    -------
    list
        What was read.
    """
    entries = read_manifest_file(path / MANIFEST_NAME).segments
    return [*contents(path), [(entry.documents, entry.deleted) for entry in entries]]


def tree(path: Path) -> Tree:
    """Read every file of an index but the lock, which tells of the writer.

    Parameters
    ----------
    path : Path
        The index.

    Returns
    -------
    dict of str to bytes
        The files by their relative paths.
    """
    return {
        found.relative_to(path).as_posix(): found.read_bytes()
        for found in sorted(path.rglob("*"))
        if found.is_file() and found.name != LOCK_NAME
    }
