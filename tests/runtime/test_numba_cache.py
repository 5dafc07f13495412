"""Kernels compile where nothing can be cached: they work, and say how to place the cache."""

from __future__ import annotations

import ast
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import splade_edge.runtime as runtime
from splade_edge.runtime.numba_support import sources

from tests.fuzz import cache

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from splade_edge.runtime.scorer import probe
assert probe.__file__.startswith(sys.argv[1]), probe.__file__
print(int(probe.probe(10)))
print(probe.probe.stats.cache_path)
print(sum(probe.probe.stats.cache_hits.values()))
"""
PROBE = """
from ..numba_support.cache import kernel
from .probe_helper import halved
@kernel
def probe(x):
    return halved(x)
"""
HELPER = """
from ..numba_support.cache import inline_kernel
@inline_kernel
def halved(x):
    return x / 2
"""


# Two kernels, one of which has a helper; how often each was in the cache.
TWO = """
import sys
sys.path.insert(0, sys.argv[1])
from splade_edge.runtime.scorer import other, probe
kernels = probe.probe, other.other
print([int(one(10)) for one in kernels], [sum(one.stats.cache_hits.values()) for one in kernels])
"""
OTHER = """
from ..numba_support.cache import kernel
@kernel
def other(x):
    return x + 1
"""

FULL_DISK = """
import resource, signal, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from splade_edge.runtime.build import inversion as invert
assert invert.__file__.startswith(sys.argv[1]), invert.__file__
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
impacts = np.empty(3, np.uint8)
invert.quantize(np.array([0.1, 0, 2, 0, 3, 0], np.float32), 1.0, impacts)
print(impacts.tolist())
"""


@pytest.fixture
def copied(tmp_path):
    """The runtime as a package of its own, so that its directory can be made unfit for a cache.

    It has one more kernel, which calls a helper of another file.
    """
    shutil.copytree(
        Path(runtime.__file__).parent,
        tmp_path / "lib/splade_edge/runtime",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    scorer = tmp_path / "lib/splade_edge/runtime/scorer"
    (scorer / "probe.py").write_text(PROBE)
    (scorer / "probe_helper.py").write_text(HELPER)
    return tmp_path / "lib"


def run(lib: Path, program: str = PROGRAM, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {
        k: v
        for k, v in os.environ.items()
        if k not in ("HOME", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "NUMBA_DISABLE_JIT")
    }
    return subprocess.run(
        [sys.executable, "-I", "-B", "-c", program, str(lib)],
        env={**clean, **environment},
        capture_output=True,
        text=True,
    )


def unfit(lib: Path) -> dict[str, str]:
    """Neither the package nor the home can hold a cache. Files in the way stop root too, unlike permissions."""
    (lib / "splade_edge/runtime/scorer/__pycache__").write_text("in the way")
    (lib / "no-home").write_text("in the way")
    return {"HOME": str(lib / "no-home"), "XDG_CACHE_HOME": str(lib / "no-home")}


def test_without_a_place_for_the_cache(copied):
    result = run(copied, **unfit(copied))
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == "5"
    assert result.stderr.count("set NUMBA_CACHE_DIR to a writable directory") == 1


def test_the_cache_can_be_placed(copied, tmp_path):
    result = run(copied, NUMBA_CACHE_DIR=str(tmp_path / "cache"), **unfit(copied))
    assert result.returncode == 0, result.stderr
    assert "NUMBA_CACHE_DIR" not in result.stderr
    assert str(tmp_path / "cache") in result.stdout


def test_beside_the_source_by_default(copied):
    result = run(copied, HOME=str(copied))
    assert result.returncode == 0, result.stderr
    assert "SpladeEdgeWarning" not in result.stderr


def test_a_change_in_a_helper_of_another_file_is_noticed(copied, tmp_path):
    def outcome():
        result = run(copied, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
        assert result.returncode == 0, result.stderr
        value, _, hits = result.stdout.splitlines()
        return int(value), int(hits)

    assert outcome() == (5, 0)
    assert outcome() == (5, 1)
    helper = copied / "splade_edge/runtime/scorer/probe_helper.py"
    for path in (helper, helper.with_name("probe.py")):
        os.utime(path, (1, 1))
    assert outcome() == (5, 1)
    helper.write_text(helper.read_text().replace("x / 2", "x * 2"))
    assert outcome() == (20, 0)


def test_only_what_depends_on_a_changed_file_is_compiled_again(copied, tmp_path):
    scorer = copied / "splade_edge/runtime/scorer"
    (scorer / "other.py").write_text(OTHER)

    def outcome():
        result = run(copied, TWO, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def change(path, old, new):
        path.write_text(path.read_text().replace(old, new))

    assert outcome() == "[5, 11] [0, 0]"
    assert outcome() == "[5, 11] [1, 1]"
    change(scorer / "probe_helper.py", "x / 2", "x * 2")  # the caller, and nothing else
    assert outcome() == "[20, 11] [0, 1]"
    change(scorer / "other.py", "x + 1", "x + 2")
    assert outcome() == "[20, 12] [1, 0]"
    change(scorer / "topk.py", "from", "\nfrom")  # neither imports it
    assert outcome() == "[20, 12] [1, 1]"
    change(scorer.parent / "errors.py", "class", "\nclass")  # what compiles kernels imports it; they do not
    assert outcome() == "[20, 12] [1, 1]"
    change(scorer.parent / "numba_support/cache.py", "nogil=True", "nogil=True, fastmath=False")
    assert outcome() == "[20, 12] [0, 0]"


def test_the_sources_of_the_kernels():
    """Each kernel depends on what it imports: helpers of helpers, constants of packages, and not the other rooms."""
    root = Path(runtime.__file__).parent

    def sources_of(name):
        return {path.relative_to(root).as_posix() for path in sources.dependencies(root / name)}

    search = sources_of("scorer/block_max.py")
    assert {
        "scorer/__init__.py",
        "scorer/block_max_bounds.py",
        "numba_support/simd.py",
        "numba_support/internals.py",
    } <= search
    assert not any(name.startswith(("encoder/", "index/", "build/")) for name in search)
    assert "scorer/block_max.py" not in sources_of("scorer/topk.py")
    assert {"encoder/native/products.py", "numba_support/vector_ir.py"} <= sources_of(
        "encoder/native/decoder_kernels.py"
    )
    assert not any(name.startswith("scorer/") for name in sources_of("encoder/native/decoder_kernels.py"))


def test_what_kernels_import_is_found_by_the_text():
    """Python's own parser finds the same imports at the top of each file that a kernel depends on."""
    root = Path(runtime.__file__).parent
    kernels = [path for path in root.rglob("*.py") if "@kernel" in path.read_text()]
    assert len(kernels) >= 5
    for path in set().union(*map(sources.dependencies, kernels)) - {root / "numba_support/cache.py"}:
        expected = set()
        for node in ast.parse(path.read_text()).body:
            assert not (isinstance(node, ast.Import) and any("splade_edge" in name.name for name in node.names)), path
            if isinstance(node, ast.ImportFrom) and node.level:
                base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                some = [base / name.name for name in node.names] if base.is_dir() else []
                files = [p for b in (base, *some) for p in (b.with_name(f"{b.name}.py"), b / "__init__.py")]
                expected |= {file for file in files if file.is_file()}
        assert set(sources._imports(path, path.read_text())) == expected, path


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_full_disk_does_not_fail_the_kernel(copied, tmp_path):
    result = run(copied, FULL_DISK, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert result.returncode == 0, result.stderr
    assert result.stdout == "[0, 2, 3]\n"
    assert result.stderr.count("set NUMBA_CACHE_DIR to a writable directory") == 1


def test_a_cache_that_may_not_be_read_is_no_damage(tmp_path, monkeypatch):
    """It is another user's: nothing of it is removed, and nothing is called damaged."""
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path))
    assert cache._results() == (cache.EXPECTED, 0, [])
    files = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    assert len(files) == 3
    before = [path.read_bytes() for path in files]
    read = Path.read_bytes

    def refuse(path):
        if path.suffix in (".nbi", ".nbc"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        results, hits, told = cache._results()
    assert (results, hits) == (cache.EXPECTED, 0)
    assert all("cannot be cached here" in text for text in told)
    assert [path.read_bytes() for path in files] == before
    assert cache._results() == (cache.EXPECTED, 2, [])
