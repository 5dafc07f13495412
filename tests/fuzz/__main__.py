"""Runs the workers and says what they found; exits with 1 for a defect."""

from __future__ import annotations

import argparse
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from splade_edge.runtime import Document, Index, IndexUpdater, build_index
from splade_edge.runtime.build.passages import Passages

from tests import split, tiny

from .forge import run_forgeries

SECONDS = 60.0  # after which a mutation counts as a hang
_WORDS = [word for word in tiny.WORDS if not word.startswith("##")]
# Kernels as Python: an index that is out of bounds raises there, where compiled code would read on.
_MODES: tuple[dict[str, str], ...] = ({}, {"NUMBA_DISABLE_JIT": "1"})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--mutations", type=int, default=10_000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--forgeries", type=int, default=10_000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, other mutations")
    args = parser.parse_args()
    # Many small writes: in memory, where there is such a place.
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        (Path(scratch) / "forged").mkdir()
        defects = run(Path(scratch), args.mutations, args.seed, progress=True)
        defects += run_forgeries(Path(scratch) / "forged", args.forgeries, args.seed, write_directories, progress=True)
    for defect in defects:
        print(defect)
    print(f"{args.mutations:,} mutations, {args.forgeries:,} forgeries, {len(defects)} defects")
    return 1 if defects else 0


def run(scratch: Path, mutations: int, seed: int = 0, *, progress: bool = False) -> list[str]:
    """The defects that so many mutations bring to light."""
    if not mutations:
        return []
    directories = write_directories(scratch / "originals")
    defects: list[str] = []
    runs = [(directory, mode) for mode in _MODES for directory in directories]
    first = 0
    for number, (directory, mode) in enumerate(runs):
        last = mutations * (number + 1) // len(runs)
        started = time.monotonic()
        defects += run_one(directory, scratch / "work", first, last, seed, mode)
        if progress:
            name = f"{directory.name}{', without JIT' * bool(mode)}"
            print(f"{name}: {last - first:,} mutations in {time.monotonic() - started:.0f} s", flush=True)
        first = last
    count = max(20, mutations // 20)  # each compiles something
    defects += run_cache(scratch / "kernels", count, seed)
    if progress:
        print(f"cache of kernels: {count:,} mutations besides", flush=True)
    return defects


def run_cache(scratch: Path, count: int, seed: int) -> list[str]:
    """The defects of mutations of the cache of a kernel, in a process of its own: what it runs is machine code."""
    command = [sys.executable, "-m", "tests.fuzz.cache", str(scratch), str(count), str(seed)]
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_DISABLE_JIT"}
    process = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", env=environment)
    defects = process.stdout.splitlines()
    return defects if process.returncode == 0 else [*defects, f"cache: the process ended with {process.returncode}"]


def write_directories(root: Path) -> list[Path]:
    """Small directories of each kind."""
    root.mkdir(parents=True)
    pair = tiny.write_pair(root / "pair", query_idf=0.4)
    table = tiny.write_table_artifact(root / "table", np.linspace(0, 2, len(tiny.VOCABULARY)))
    whole = split.write_split_artifact(root / "split")
    document = pair / "document"
    build_index(root / "plain", _documents(), pair, fields=["n", "lang"], with_document_encoder=True)
    build_index(root / "reordered", _documents(), document, table, reorder=True)
    build_index(root / "passages", _documents(), whole, passages=Passages(6, 2), fields=["lang"])
    shutil.copytree(root / "plain", root / "changed")
    for first in (40, 100):  # an update takes the place of d40…d59, the rest is new
        with IndexUpdater.open(root / "changed", threads=1) as updater:
            updater.update([replace(document, id=f"d{first + n}") for n, document in enumerate(_documents()[:30])])
            updater.delete([f"d{first // 10}", f"d{first + 1}"])
    assert len(Index.open(root / "changed").manifest.segments) > 1
    return [root / "plain", root / "reordered", root / "passages", root / "changed", pair, table, whole]


def _documents() -> list[Document]:
    rng = np.random.default_rng(8)
    return [
        Document(
            f"d{n}", " ".join(rng.choice(_WORDS, 2)), " ".join(rng.choice(_WORDS, rng.integers(1, 20))),
            {"n": n, "lang": ["de", "en"][n % 3 == 0], "note": f"n{n}"},
        )
        for n in range(60)
    ]  # fmt: skip


def run_one(directory: Path, work: Path, first: int, last: int, seed: int, mode: dict[str, str]) -> list[str]:
    """The defects of mutations first..last-1 of a directory, whatever they do to the process."""
    defects: list[str] = []
    while first < last:
        command = [sys.executable, "-m", "tests.fuzz.worker", directory, work, first, last, "--seed", seed]
        with subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **mode},
        ) as process:
            current, judged, ended = _follow(process, defects, directory.name)
        if ended is None and judged:
            return defects
        if current is None:
            raise RuntimeError(f"the worker for {directory.name} did not start: {ended}")
        defects.append(f"{directory.name}: {current}: {ended or f'the process ended with {process.returncode}'}")
        first = int(current.split(" ", 1)[0]) + 1
    return defects


def _follow(process: subprocess.Popen[bytes], defects: list[str], name: str) -> tuple[str | None, bool, str | None]:
    """Read a worker to its end: the last mutation it began, whether that was judged, and what went wrong."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    selector = selectors.DefaultSelector()
    selector.register(descriptor, selectors.EVENT_READ)
    current, judged, rest, other = None, False, b"", ""
    while True:
        if not selector.select(SECONDS):
            process.kill()
            return current, False, f"no answer in {SECONDS:.0f} s"
        data = os.read(descriptor, 1 << 16)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            text = line.decode("utf-8", "replace")
            if text == "ok":
                judged = True
            elif text.startswith("defect: "):
                judged = True
                defects.append(f"{name}: {current}: {text.removeprefix('defect: ')}")
            elif text.partition(" ")[0].isdigit():
                current, judged = text, False
            else:
                other = text
    code = process.wait()
    return current, judged, None if code == 0 and (judged or current is None) else other or f"ended with {code}"


if __name__ == "__main__":
    sys.exit(main())
