"""Damage to the cache of a compiled kernel: the very same results, a warning at most, and a cache that is whole again.

``python -m tests.fuzz.cache SCRATCH COUNT SEED`` is started by the fuzzer; it prints defects, and fails where it dies.
"""

from __future__ import annotations

import random
import shutil
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import numba
from splade_edge.runtime import SpladeEdgeWarning
from splade_edge.runtime.numba_support import kernel_files
from splade_edge.runtime.numba_support.cache import kernel

from .mutations import changed_bytes

EXPECTED = [45, 22.5]


def probe(count: int, step: Any) -> Any:
    """What is compiled, for two types of ``step``."""
    total = step - step
    for number in range(count):
        total += number * step
    return total


def run(scratch: Path, count: int, seed: int) -> list[str]:
    """What so many mutations bring to light."""
    pristine, work = scratch / "pristine", scratch / "cache"
    placed = numba.config.CACHE_DIR
    try:
        numba.config.CACHE_DIR = str(pristine)
        assert _results()[0] == EXPECTED
        assert _results() == (EXPECTED, 2, [])
        numba.config.CACHE_DIR = str(work)
        faults = []
        for number in range(count):
            rng = random.Random(f"{seed} cache {number}")
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(pristine, work)
            done = _damage(work, rng)
            try:
                fault = _judge()
            except Exception:  # noqa: BLE001 - whatever it is, it is a defect
                fault = traceback.format_exc().replace("\n", " | ")
            if fault is not None:
                faults.append(f"cache: {number} {done}: {fault}")
        return faults
    finally:
        numba.config.CACHE_DIR = placed


def _damage(root: Path, rng: random.Random) -> str:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    assert len(files) == 3  # an index, and two of code
    done = []
    for _ in range(rng.choice((1, 1, 2))):
        path, other = rng.choice(files), rng.choice(files)
        kind = rng.choice(("cut", "cut", "flip", "byte", "zeros", "noise", "grow", "move", "empty", "delete", "copy"))
        if kind == "delete":
            path.unlink(missing_ok=True)
        elif kind == "copy":
            if other.exists() and other != path:
                shutil.copyfile(other, path)
        elif path.exists():
            path.write_bytes(b"" if kind == "empty" else changed_bytes(path.read_bytes(), kind, rng))
        done.append(f"{kind} {path.suffix}")
    return ", ".join(done)


def _judge() -> str | None:
    results, _, told = _results()
    if results != EXPECTED:
        return f"{results} instead of {EXPECTED}"
    if len(told) > 1 or any("is damaged; what is damaged is compiled again" not in text for text in told):
        return f"it said {told}"
    results, hits, told = _results()
    if (results, hits, told) != (EXPECTED, 2, []):
        return f"afterwards {results}, {hits} loaded, and it said {told}"
    return None


def _results() -> tuple[list[Any], int, list[str]]:
    """As a process that has just begun: what the kernel computes, how often the cache had it, and what was said."""
    kernel_files._warned = False
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", SpladeEdgeWarning)
        compiled: Any = kernel(probe)
        results = [compiled(10, 1), compiled(10, 0.5)]
    return results, sum(compiled.stats.cache_hits.values()), [str(one.message) for one in told]


if __name__ == "__main__":
    for defect in run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])):
        print(defect)
