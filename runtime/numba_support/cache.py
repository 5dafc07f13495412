"""Compiling kernels: cached on disk where that is possible, and working where it is not.

Numba keeps compiled code beside the source file or in the user's cache directory. On a read-only or HOME-less host it
has neither and refuses to compile at all; we then compile without a cache and say once how to place one.

Numba takes a cached kernel for fresh as long as the file of that kernel has the same time and size. That misses
changes in the helpers it calls from other files, and recompiles after a copy. Ours are keyed by the contents of all
modules beside the kernel's and beside this one: kernels may lie in several files, and none of other sources is loaded.

Numba also takes whatever its files hold: after a power cut it fails at every start, and a flipped bit is run. Ours end
with a checksum, and what does not fit it is thrown away and made again (kernel_files.py).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite.binding
import numba
from numba.core.compiler_lock import global_compiler_lock

from ..errors import SpladeEdgeWarning
from ..forking import hold
from .backend import on_compile
from .kernel_files import KernelFiles

F = TypeVar("F", bound=Callable[..., object])
_warned = False

# A kernel that another thread compiles or loads is compiled, or loaded, before a fork.
hold(global_compiler_lock)
if (_llvm := getattr(getattr(llvmlite.binding.ffi.lib, "_lock", None), "_lock", None)) is not None:
    hold(_llvm)


def kernel(function: F) -> F:
    """Compile ``function`` in nopython mode on its first call, without the GIL, cached on disk where possible."""
    try:
        dispatcher = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # "no locator available": nowhere to keep the cache
        _warn()
        return cast(F, numba.njit(nogil=True)(function))
    stored = getattr(dispatcher, "_cache", None)
    if stored is not None and hasattr(stored, "save_overload"):
        stored._cache_file = KernelFiles(stored._cache_path, f"{stored._impl.filename_base}.checked", None)
        _key_by_contents(stored, Path(function.__code__.co_filename).parent)
        stored.save_overload = _forgiving(stored.save_overload)
        stored.load_overload = _telling(_lenient(stored.load_overload, stored._cache_file))
    return cast(F, dispatcher)


def _key_by_contents(stored: Any, directory: Path) -> None:
    """Let Numba's cache of one kernel, in a module of ``directory``, depend on the contents of the sources alone."""
    try:
        sources = _digest(directory), _digest(Path(__file__).parent)
    except OSError:  # in a zip file, whose time and size Numba looks at
        return
    key = stored._index_key
    stored._index_key = lambda signature, codegen: (*key(signature, codegen), sources)
    stored._cache_file._source_stamp = None


@cache
def _digest(directory: Path) -> str:
    """Of all modules in a directory."""
    digest = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.suffix == ".py":
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _lenient(load: Callable[..., object], files: KernelFiles) -> Callable[..., object]:
    """What cannot be loaded is compiled: nothing but time is lost."""

    def load_or_not(*arguments: object) -> object:
        try:
            return load(*arguments)
        except OSError:  # another user's cache, or no descriptor is left
            return None
        except Exception:  # noqa: BLE001 - whole, and yet not what this Numba can use: it raises what it likes
            files.throw_away()
            return None

    return load_or_not


def _telling(load: Callable[..., object]) -> Callable[..., object]:
    def load_or_tell(*arguments: object) -> object:
        loaded = load(*arguments)
        if loaded is None:
            while on_compile:
                on_compile.pop()()
        return loaded

    return load_or_tell


def _forgiving(save: Callable[..., None]) -> Callable[..., None]:
    """A full disk while saving must not fail the search that compiled the kernel."""

    def save_or_warn(*arguments: object) -> None:
        try:
            save(*arguments)
        except OSError:
            _warn()

    return save_or_warn


def _warn() -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            "compiled kernels cannot be cached here, so every start compiles them again (some seconds); "
            "set NUMBA_CACHE_DIR to a writable directory with room",
            SpladeEdgeWarning,
            stacklevel=4,
        )


def inline_kernel(function: F) -> F:
    """Like :func:`kernel`, for small helpers that kernels call: never cached by themselves."""
    return cast(F, numba.njit(nogil=True)(function))


def vector_kernel(function: F) -> F:
    """Like :func:`inline_kernel`, with divisions as NumPy's: one that may raise an error cannot be vectorized."""
    return cast(F, numba.njit(nogil=True, error_model="numpy")(function))
