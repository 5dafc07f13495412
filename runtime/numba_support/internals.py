"""Everything of Numba and llvmlite that is not their public API and that splade-edge uses. No other file may use any.

Numba promises nothing about these names. ``tests/runtime/test_numba_internals.py`` checks each of them, and says which
one a new release has changed. The upper bound of ``numba`` in ``pyproject.toml`` is raised after that test has passed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.compiler_lock import global_compiler_lock
from numba.core.serialize import dumps
from numba.np.arrayobj import make_array, populate_array

__all__ = [
    "CacheFiles",
    "array_data",
    "array_from_address",
    "array_shape",
    "call_llvm",
    "compiler_locks",
    "cpu_features",
    "disk_cache",
    "disk_cache_place",
    "dumps",
    "key_disk_cache",
    "replace_disk_cache_files",
    "wrap_disk_cache",
]


class CacheFiles(Protocol):
    """What Numba's cache of one kernel asks of the object that reads and writes its files."""

    def load(self, key: Any) -> Any:
        """Return the data stored under ``key``, or None."""

    def save(self, key: Any, data: Any) -> None:
        """Store ``data`` under ``key``."""

    def flush(self) -> None:
        """Forget all data."""


# --- Locks


def compiler_locks() -> list[Any]:
    """Return the locks that Numba and LLVM hold while they compile or load code.

    Returns
    -------
    list
        Reentrant locks with ``acquire`` and ``release``: Numba's, and LLVM's where this llvmlite has one.
    """
    llvm = getattr(getattr(llvmlite.binding.ffi.lib, "_lock", None), "_lock", None)
    return [global_compiler_lock] if llvm is None else [global_compiler_lock, llvm]


# --- The cache of one kernel


def disk_cache(dispatcher: Any) -> Any | None:
    """Return the object through which a compiled function is cached on disk.

    Parameters
    ----------
    dispatcher
        What ``numba.njit(cache=True)`` returns.

    Returns
    -------
    object or None
        None where there is no cache, as without the JIT.
    """
    found = getattr(dispatcher, "_cache", None)
    return found if hasattr(found, "save_overload") else None


def disk_cache_place(disk: Any) -> tuple[str, str, Any]:
    """Return where a cache keeps its files, and for which source.

    Parameters
    ----------
    disk
        From :func:`disk_cache`.

    Returns
    -------
    tuple
        The directory, the beginning of the files' names, and the time and size of the source file.
    """
    return disk._cache_path, disk._impl.filename_base, disk._impl.locator.get_source_stamp()


def replace_disk_cache_files(disk: Any, files: CacheFiles) -> None:
    """Let another object read and write the files of a cache.

    Parameters
    ----------
    disk
        From :func:`disk_cache`.
    files
        That object.
    """
    disk._cache_file = files


def key_disk_cache(disk: Any, stamp: str) -> None:
    """Make a stamp part of the key of every signature, so that code stored with another stamp is not found.

    Parameters
    ----------
    disk
        From :func:`disk_cache`.
    stamp
        Any text.
    """
    key = disk._index_key
    disk._index_key = lambda signature, codegen: (*key(signature, codegen), stamp)


def wrap_disk_cache(
    disk: Any,
    load: Callable[[Callable[..., object]], Callable[..., object]],
    save: Callable[[Callable[..., None]], Callable[..., None]],
) -> None:
    """Replace the functions of a cache that load and save the code of a signature.

    Parameters
    ----------
    disk
        From :func:`disk_cache`.
    load, save
        Make the new function from the old one.
    """
    disk.load_overload = load(disk.load_overload)
    disk.save_overload = save(disk.save_overload)


# --- Writing intrinsics


def array_data(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """Return the LLVM pointer to the first element of an array.

    Parameters
    ----------
    context, builder
        The target context and the LLVM builder of an intrinsic.
    kind
        The Numba type of the array.
    array
        The LLVM value of the array.
    """
    return make_array(kind)(context, builder, array).data


def array_shape(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """Return the LLVM value of the shape of an array, which has a 64-bit integer for each dimension.

    Parameters
    ----------
    context, builder
        The target context and the LLVM builder of an intrinsic.
    kind
        The Numba type of the array.
    array
        The LLVM value of the array.
    """
    return make_array(kind)(context, builder, array).shape


def array_from_address(context: Any, builder: Any, kind: Any, address: Any, lengths: Sequence[Any]) -> Any:
    """Return the LLVM value of an array whose data begin at an address. Nothing keeps the data alive.

    Parameters
    ----------
    context, builder
        The target context and the LLVM builder of an intrinsic.
    kind
        The Numba type of the array, of C order.
    address
        LLVM integer of 64 bits.
    lengths
        LLVM integers of 64 bits, one for each dimension.
    """
    item = context.get_data_type(kind.dtype)
    size = context.get_constant(types.intp, context.get_abi_sizeof(item))
    strides = [size]
    for length in reversed(lengths[1:]):
        strides.insert(0, builder.mul(strides[0], length))
    made = make_array(kind)(context, builder)
    data = builder.inttoptr(address, item.as_pointer())
    populate_array(made, data=data, shape=lengths, strides=strides, itemsize=size, meminfo=None)
    return made._getvalue()


def call_llvm(builder: Any, name: str, result: Any, arguments: Sequence[Any]) -> Any:
    """Call an intrinsic function of LLVM, and return its result.

    Parameters
    ----------
    builder
        The LLVM builder of an intrinsic.
    name
        For example ``llvm.sqrt.f32``.
    result
        The LLVM type of the result.
    arguments
        LLVM values.
    """
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def cpu_features(context: Any) -> frozenset[str]:
    """Return the features of the CPU that is compiled for, in LLVM's names (``avx2``, ``avx512vnni``).

    Parameters
    ----------
    context
        The target context of an intrinsic.
    """
    *_, flags = context.codegen().magic_tuple()
    return frozenset(flag[1:] for flag in flags.split(",") if flag.startswith("+"))
