"""LLVM code that intrinsics are made of: addresses in arrays, loads, stores, and vectors of one value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from .internals import array_data

_BYTE, _INT, _LONG = ir.IntType(8), ir.IntType(32), ir.IntType(64)


def index(value: int) -> Any:
    """Return a constant of 64 bits, to count addresses with."""
    return ir.Constant(_LONG, value)


def splat(builder: Any, value: Any, lanes: int) -> Any:
    """Return a vector of ``lanes`` times the same LLVM value."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    single = builder.insert_element(undefined, value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(_INT, lanes), [0] * lanes))


def load(builder: Any, pointer: Any, kind: Any, align: int = 4) -> Any:
    """Return the value of LLVM type ``kind`` at a pointer of any type, which is aligned to ``align`` bytes."""
    loaded = builder.load(builder.bitcast(pointer, kind.as_pointer()))
    loaded.align = align
    return loaded


def store(builder: Any, value: Any, pointer: Any, align: int = 4) -> None:
    """Store an LLVM value at a pointer of any type, which is aligned to ``align`` bytes."""
    stored = builder.store(value, builder.bitcast(pointer, value.type.as_pointer()))
    stored.align = align


def pointers(context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> Callable[[int, Any, int], Any]:
    """Return a function that finds items in the arrays among the arguments of an intrinsic.

    Parameters
    ----------
    context, builder, signature, values
        What Numba gives to the code generator of an intrinsic.

    Returns
    -------
    Callable
        ``at(n, item, size)``: a byte pointer to the item of that number (LLVM integer) in the n-th argument, which is
        an array of items of ``size`` bytes.
    """

    def at(array: int, item: Any, size: int) -> Any:
        data = array_data(context, builder, signature.args[array], values[array])
        return builder.gep(builder.bitcast(data, _BYTE.as_pointer()), [builder.mul(item, index(size))])

    return at
