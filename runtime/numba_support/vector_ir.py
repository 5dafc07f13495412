"""LLVM code that intrinsics are made of: addresses in arrays, loads, stores, and vectors of one value."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .internals import array_data, array_shape

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


def address(context: Any, builder: Any, kind: Any, array: Any, item: Any, size: int) -> Any:
    """Return a byte pointer to an item of an array.

    Parameters
    ----------
    context, builder
        The target context and the LLVM builder of an intrinsic.
    kind
        The Numba type of the array.
    array
        Its LLVM value.
    item
        The number of the item, an LLVM integer of 64 bits.
    size
        The bytes of an item.
    """
    data = array_data(context, builder, kind, array)
    return builder.gep(builder.bitcast(data, _BYTE.as_pointer()), [builder.mul(item, index(size))])


def row_size(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """Return the second dimension of an array of two; ``kind``: its Numba type."""
    return builder.extract_value(array_shape(context, builder, kind, array), 1)


def member(builder: Any, kind: Any, value: Any, field: int) -> tuple[Any, Any]:
    """Return the Numba type and the LLVM value of a field of a tuple; ``kind``: the tuple's Numba type."""
    return kind.types[field], builder.extract_value(value, field)
