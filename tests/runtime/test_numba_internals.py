"""What splade-edge uses of Numba's internals is there, and only one file uses any."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
import pytest
import splade_edge.runtime as runtime
from numba import types
from numba.extending import intrinsic
from splade_edge.runtime.numba_support import internals

ROOT = Path(runtime.__file__).parent
NO_JIT = os.environ.get("NUMBA_DISABLE_JIT") == "1"
# Modules of Numba and llvmlite that are their public API.
PUBLIC = {"numba", "numba.types", "numba.extending", "llvmlite", "llvmlite.ir", "llvmlite.binding"}
# What is used: module, name, parameters that are used (None: it is not called).
IMPORTED: list[tuple[str, str, str | None]] = [
    ("numba.core.cgutils", "get_or_insert_function", "module fnty name"),
    ("numba.core.compiler_lock", "global_compiler_lock", None),
    ("numba.core.serialize", "dumps", "obj"),
    ("numba.np.arrayobj", "make_array", "array_type"),
    ("numba.np.arrayobj", "populate_array", "array data shape strides itemsize meminfo"),
    ("llvmlite.binding", "ffi", None),
]
# Attributes of a compiled function's cache, by the path from the function.
CACHE = [
    "_cache",
    "_cache.load_overload",
    "_cache.save_overload",
    "_cache._index_key",
    "_cache._cache_file",
    "_cache._cache_file.load",
    "_cache._cache_file.save",
    "_cache._cache_file.flush",
    "_cache._cache_path",
    "_cache._impl.filename_base",
    "_cache._impl.locator.get_source_stamp",
]
# Attributes of what an intrinsic's code generator gets.
CONTEXT = [
    "codegen",
    "make_array",
    "get_data_type",
    "get_constant",
    "get_abi_sizeof",
    "get_dummy_value",
]


def lost(what: str) -> str:
    return (
        f"numba {numba.__version__} (llvmlite {llvmlite.__version__}) has no {what} that splade-edge uses; "
        "see runtime/numba_support/internals.py"
    )


def require(owner: Any, path: str, what: str) -> Any:
    for name in path.split("."):
        assert hasattr(owner, name), lost(what)
        owner = getattr(owner, name)
    return owner


@pytest.mark.parametrize(("module", "name", "parameters"), IMPORTED)
def test_what_is_imported(module: str, name: str, parameters: str | None) -> None:
    try:
        owner = importlib.import_module(module)
    except ImportError:
        pytest.fail(lost(module))
    found = require(owner, name, f"{module}.{name}")
    if parameters is not None:
        known = inspect.signature(found).parameters
        for parameter in parameters.split():
            assert parameter in known, lost(f"parameter {parameter} of {module}.{name}")


@pytest.mark.skipif(NO_JIT, reason="there is no cache")
@pytest.mark.parametrize("path", CACHE)
def test_the_cache_of_a_function(path: str) -> None:
    require(numba.njit(cache=True)(probe), path, f"Dispatcher.{path}")


@pytest.mark.skipif(NO_JIT, reason="there is no cache")
def test_the_cache_calls_what_is_replaced() -> None:
    """Numba asks the attributes that are set here, with the arguments that are expected."""
    function = numba.njit(cache=True)(probe)
    asked: list[Any] = []

    class Files:
        def load(self, key: Any) -> Any:
            asked.append(("load", key[-1]))

        def save(self, key: Any, data: Any) -> None:
            asked.append(("save", key[-1]))

    disk = internals.disk_cache(function)
    assert disk is not None
    internals.replace_disk_cache_files(disk, Files())
    internals.key_disk_cache(disk, "stamp")
    internals.wrap_disk_cache(disk, lambda load: load, lambda save: save)
    assert function(1) == 1
    assert asked == [("load", "stamp"), ("save", "stamp")], lost("_Cache of the same kind")


@pytest.mark.skipif(NO_JIT, reason="there is no code")
def test_what_an_intrinsic_gets() -> None:
    @intrinsic
    def first(_typing, array, length):
        kind = types.Array(types.int64, 1, "C")

        def generate(context, builder, signature, args):
            for name in CONTEXT:
                require(context, name, f"CPUContext.{name}")
            magic = context.codegen().magic_tuple()
            assert all(isinstance(part, str) for part in magic), lost("Codegen.magic_tuple of texts")
            assert internals.cpu_features(context) or not magic[-1]
            data = internals.array_data(context, builder, signature.args[0], args[0])
            address = builder.ptrtoint(data, context.get_data_type(types.int64))
            return internals.array_from_address(context, builder, kind, address, [args[1]])

        return kind(array, types.int64), generate

    @numba.njit
    def use(array, length):
        return first(array, length).sum()

    array = np.arange(10)
    assert use(array, 4) == 6


def test_the_locks() -> None:
    locks = internals.compiler_locks()
    assert len(locks) == 2, lost("lock around LLVM (llvmlite.binding.ffi.lib._lock._lock)")
    for lock in locks:
        require(lock, "acquire", "lock with acquire")
        require(lock, "release", "lock with release")


def probe(x: int) -> int:
    return x


def test_only_one_file_uses_internals() -> None:
    """Imports of private modules, and attributes of theirs, are in internals.py, and the tables above have them all."""
    users = {}
    for path in ROOT.rglob("*.py"):
        if found := _private_imports(path):
            users[path.relative_to(ROOT).as_posix()] = found
    assert list(users) == ["numba_support/internals.py"], users
    known = {f"{module}.{name}" for module, name, _ in IMPORTED} | {module for module, _, _ in IMPORTED}
    assert users["numba_support/internals.py"] <= known


def _private_imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module is not None:
            names = [(node.module, name.name) for name in node.names]
        elif isinstance(node, ast.Import):
            names = [(name.name, "") for name in node.names]
        elif isinstance(node, ast.Attribute) and (node.attr in ("ffi", "core") or node.attr.startswith("_cache_file")):
            owner = ast.unparse(node)
            names = [tuple(owner.rsplit(".", 1))] if owner.startswith(("numba.", "llvmlite.")) else []  # type: ignore[list-item]
        else:
            continue
        for module, name in names:
            if module.split(".")[0] in ("numba", "llvmlite") and module not in PUBLIC:
                found.add(f"{module}.{name}" if name else module)
            elif (module, name) == ("llvmlite.binding", "ffi"):
                found.add("llvmlite.binding.ffi")
    return found
