"""Compiling kernels: cached on disk where that is possible, and working where it is not.

Numba keeps compiled code beside the source file or in the user's cache directory. On a read-only or HOME-less host it
has neither and refuses to compile at all; we then compile without a cache and say once how to place one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar, cast

import numba

from ..errors import SpladeEdgeWarning

F = TypeVar("F", bound=Callable[..., object])
_warned = False


def kernel(function: F) -> F:
    """Compile ``function`` in nopython mode on its first call, without the GIL, cached on disk where possible."""
    try:
        return cast(F, numba.njit(nogil=True, cache=True)(function))
    except RuntimeError:  # "no locator available": nowhere to keep the cache
        global _warned
        if not _warned:
            _warned = True
            warnings.warn(
                "compiled kernels cannot be cached here, so every start compiles them again (some seconds); "
                "set NUMBA_CACHE_DIR to a writable directory",
                SpladeEdgeWarning,
                stacklevel=3,
            )
        return cast(F, numba.njit(nogil=True)(function))


def inline_kernel(function: F) -> F:
    """Like :func:`kernel`, for small helpers that kernels call: never cached by themselves."""
    return cast(F, numba.njit(nogil=True)(function))
