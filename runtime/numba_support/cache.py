"""Compiling kernels: cached on disk where that is possible, and working where it is not.

Numba keeps compiled code beside the source file or in the user's cache directory. On a read-only host, or one without
HOME, it has neither place and refuses to compile at all. Here kernels are then compiled without a cache, and one
warning says how to place the cache.

Numba takes a cached kernel for fresh as long as the file of that kernel has the same time and size. That misses changes
in the helpers that the kernel calls from other files, and recompiles after a copy. Here the key of a kernel has a
digest of its file and of all files that it imports (sources.py). A change in one file recompiles what depends on it.

Numba also uses whatever its files hold: after a power cut it fails at every start, and a flipped bit is executed. Here
each file ends with a checksum, and a damaged file is thrown away and made again (kernel_files.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

from ..errors import SpladeEdgeWarning
from ..forking import hold
from .backend import on_compile
from .internals import (
    compiler_locks,
    disk_cache,
    disk_cache_place,
    key_disk_cache,
    replace_disk_cache_files,
    wrap_disk_cache,
)
from .kernel_files import KernelFiles
from .sources import source_digest

F = TypeVar("F", bound=Callable[..., object])
_warned = False

# A fork waits until other threads have compiled or loaded their kernels.
for _lock in compiler_locks():
    hold(_lock)


def kernel(function: F) -> F:
    """Compile a function in nopython mode on its first call, without the GIL, cached on disk where possible.

    Parameters
    ----------
    function
        What Numba can compile. Arguments have one signature each, or few: each is compiled and cached for itself.

    Returns
    -------
    Callable
        The same function, compiled; a Numba dispatcher, or ``function`` itself under ``NUMBA_DISABLE_JIT``.
    """
    try:
        dispatcher = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # "no locator available": nowhere to keep the cache
        _warn()
        return cast(F, numba.njit(nogil=True)(function))
    disk = disk_cache(dispatcher)
    if disk is not None:
        _check_and_key(disk, Path(function.__code__.co_filename))
    return cast(F, dispatcher)


def inline_kernel(function: F) -> F:
    """Like :func:`kernel`, for small helpers that kernels call: never cached by themselves."""
    return cast(F, numba.njit(nogil=True)(function))


def vector_kernel(function: F) -> F:
    """Like :func:`inline_kernel`, with divisions as NumPy's: one that may raise an error cannot be vectorized."""
    return cast(F, numba.njit(nogil=True, error_model="numpy")(function))


def _check_and_key(disk: Any, source: Path) -> None:
    """Let the cache of one kernel have checksums, and depend on the contents of its sources."""
    try:
        digest = source_digest(source)
    except OSError:  # in a zip file: then its time and size decide, as Numba does it
        digest = None
    directory, name, stamp = disk_cache_place(disk)
    files = KernelFiles(directory, name, stamp if digest is None else None)
    replace_disk_cache_files(disk, files)
    if digest is not None:
        key_disk_cache(disk, digest)
    wrap_disk_cache(disk, lambda load: _tell_of_misses(_compile_damaged(load, files)), _survive_a_full_disk)


def _compile_damaged(load: Callable[..., object], files: KernelFiles) -> Callable[..., object]:
    """What cannot be loaded is compiled: nothing but time is lost."""

    def load_or_not(*arguments: object) -> object:
        try:
            return load(*arguments)
        except OSError:  # another user's cache, or no descriptor is left
            return None
        except Exception:  # noqa: BLE001 - undamaged, and yet this Numba cannot use it: it raises what it likes
            files.throw_away()
            return None

    return load_or_not


def _tell_of_misses(load: Callable[..., object]) -> Callable[..., object]:
    """Before the first compilation, call the functions in ``on_compile``."""

    def load_or_tell(*arguments: object) -> object:
        loaded = load(*arguments)
        if loaded is None:
            while on_compile:
                on_compile.pop()()
        return loaded

    return load_or_tell


def _survive_a_full_disk(save: Callable[..., None]) -> Callable[..., None]:
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
