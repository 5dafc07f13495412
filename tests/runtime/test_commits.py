"""All or nothing: a commit that fails, dies or loses what was not flushed, at any of its file operations in turn."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from splade_edge.runtime import Index, IndexUpdater
from splade_edge.runtime.directory import AnyPath
from splade_edge.runtime.errors import StorageError
from splade_edge.runtime.files import FileOperations

from benchmarks.changes import csr, stored
from benchmarks.interruptions import CASES, Cut, change, contents, prepare
from benchmarks.soak import in_memory, operations_of

posix = pytest.mark.skipif(os.name == "nt", reason="forks")


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """In memory where that can be: what a flush is for is played by Disk, and a real one would take minutes."""
    with tempfile.TemporaryDirectory(dir=in_memory()) as path:
        prepare(Path(path) / "index")
        yield Path(path)


def fail(name: str) -> None:
    raise sqlite3.OperationalError("disk I/O error") if name == "commit" else OSError(errno.EIO, "I/O error")


@pytest.mark.parametrize("case", CASES)
def test_any_operation_may_fail(directory: Path, case: str) -> None:
    """The error has one line, the index is what it was, and the next writer can work."""
    before = contents(directory / "index")
    seen, after = operations_of(directory, case)
    assert {"write", "commit", "sync", "replace"} <= set(seen) or case == "delete"
    assert seen.count("replace") == 1
    for at in range(len(seen)):
        copy = Path(shutil.copytree(directory / "index", directory / "copy"))
        with Cut(at, fail):
            if seen[at] == "remove" and "replace" in seen[:at]:
                change(copy, case)  # the next writer will remove it
            else:
                with pytest.raises(StorageError, match="cannot write"):
                    change(copy, case)
        assert contents(copy) == (after if "replace" in seen[:at] else before), (at, seen[at])
        with IndexUpdater.open(copy) as updater:
            updater.add_vectors(stored(["the next"]), csr([np.ones(12, np.float32)]))
        with Index.open(copy) as index:
            files = {p.relative_to(copy).as_posix() for p in copy.rglob("*") if p.is_file()}
            assert files == {*index.manifest.files, "splade_edge_index.json", "splade_edge_index.lock"}
        shutil.rmtree(copy)


class Disk(FileOperations):
    """Knows what a power cut would leave: what was flushed, of files in directories that were flushed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = {p for p in root.rglob("*") if p.is_file()}
        self.names = set(root.rglob("*"))
        self.replaced: dict[Path, bytes] = {}

    def sync(self, path: AnyPath) -> None:
        super().sync(path)
        path = Path(str(path))
        if path.is_dir():
            self.names |= set(path.iterdir())
            self.replaced = {p: old for p, old in self.replaced.items() if p.parent != path}
        else:
            self.files.add(path)

    def replace(self, source: AnyPath, target: AnyPath, *, keep: bool = False) -> bool:
        assert Path(str(source)) in self.files, "renamed before it was flushed"
        self.replaced[Path(str(target))] = target.read_bytes()
        return super().replace(source, target, keep=keep)

    def lose(self, *, renames: bool) -> None:
        """Cut the power; ``renames``: those that were not flushed are lost too, else they have reached the disk."""
        for path in sorted(self.root.rglob("*")):
            if path not in self.names and path.exists() and path not in self.replaced:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            elif path.is_file() and path not in self.files and path not in self.replaced:
                path.write_bytes(path.read_bytes()[::2])
        for path, old in self.replaced.items() if renames else ():
            path.write_bytes(old)


class PowerCut(BaseException):
    """No handler of ours takes it for an error; what they do on the way out is done to a copy."""


@pytest.mark.parametrize("renames", [True, False], ids=["lost", "kept"])
@pytest.mark.parametrize("case", CASES)
def test_a_power_cut_loses_nothing_that_was_acknowledged(directory: Path, case: str, renames: bool) -> None:
    before = contents(directory / "index")
    seen, after = operations_of(directory, case)
    for at in range(len(seen) + 1):
        copy = Path(shutil.copytree(directory / "index", directory / "copy"))
        left, disk = directory / "left", Disk(copy)

        def cut(_: str, copy: Path = copy, left: Path = left) -> None:
            shutil.copytree(copy, left)  # as it is now
            raise PowerCut

        try:
            with Cut(at, cut, disk=disk):
                change(copy, case)
            shutil.copytree(copy, left)
        except PowerCut:
            pass
        shutil.rmtree(copy)
        left.rename(copy)
        disk.lose(renames=renames)
        renamed = "replace" in seen[:at] and not (renames and disk.replaced)
        assert contents(copy) == (after if renamed else before), (at, seen[at : at + 1])
        if at == len(seen):
            assert contents(copy) == after
        shutil.rmtree(copy)


@posix
@pytest.mark.parametrize(
    "arguments",
    [["--kills", "6"], ["--kills", "0", "--cuts", "6"], ["--kills", "0", "--swaps", "19"]],
    ids=["killed", "cut", "swapped"],
)
def test_soak(arguments: list[str]) -> None:
    """In a process without threads, which may fork."""
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", *arguments],
        cwd=Path(__file__).parents[2], capture_output=True, encoding="utf-8",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    counts = json.loads(process.stdout)
    assert counts.get("kills", 6) == 6
    assert counts.get("cuts", 99) > 30
    assert counts.get("refused for want of room", 99) > 20
    for mode, found in counts.get("swaps", {}).items():
        assert sum(found.values()) > 8, mode
        assert found["committed"] > 5 if "mo" in mode[:2] or "moment" in mode else found["refused"] > 5, mode
