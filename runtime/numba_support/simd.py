"""What kernels say to the processor in its own terms: 64 values at a time in vector registers, bits, and cache lines.

LLVM's vector types take the widest registers that there are, whatever they are: its own vectorizer leaves some of these
loops as they are and does others in four times the instructions. Without the JIT the same in NumPy.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

LANES = 64  # values that a function here takes
FEW_LANES = 16  # or those that look for one of a few

if numba.config.DISABLE_JIT:

    def prefetch(array: Any, place: Any) -> None:
        """Ask for the cache line of ``array[place]``, which may lie outside the array: nothing is read."""

    def at_least(values: Any, first: Any, least: Any) -> Any:
        """64 bits, the lowest for ``values[first]`` (int64 or uint16): whether the value is at least ``least``."""
        reached = values[first : first + LANES] >= least
        return int.from_bytes(np.packbits(reached, bitorder="little").tobytes(), "little")

    def equal_to(values: Any, first: Any, value: Any) -> Any:
        """64 bits, the lowest for ``values[first]`` (uint16): whether it equals ``value``."""
        return int.from_bytes(
            np.packbits(values[first : first + LANES] == value, bitorder="little").tobytes(), "little"
        )

    def equal_to_few(values: Any, first: Any, value: Any) -> Any:
        """Like :func:`equal_to`, 16 bits."""
        return int.from_bytes(
            np.packbits(values[first : first + FEW_LANES] == value, bitorder="little").tobytes(), "little"
        )

    def flagged(flags: Any, first: Any) -> Any:
        """64 bits, the lowest for ``flags[first]`` (bool), as many of which must be in memory."""
        return int.from_bytes(np.packbits(flags[first : first + LANES], bitorder="little").tobytes(), "little")

    def clear(values: Any, first: Any) -> None:
        """Set 64 values, from ``values[first]`` on, to 0."""
        values[first : first + LANES] = 0

    def highest(values: Any, first: Any) -> Any:
        """The largest of 64 values (uint16), from ``values[first]`` on."""
        return values[first : first + LANES].max()

    def add_scaled(totals: Any, factor: Any, values: Any, first: Any) -> None:
        """totals += factor * values, for 64 from ``first`` on: uint16, uint16, uint8. Sums saturate at 65,535, which
        products may not exceed.
        """
        sums = totals[first : first + LANES] + np.uint32(factor) * values[first : first + LANES]
        totals[first : first + LANES] = np.minimum(sums, 65535)

    def lowest_bit(bits: Any) -> Any:
        """The place of the lowest 1 of bits that are not all 0."""
        return (int(bits) & -int(bits)).bit_length() - 1

    def count_bits(bits: Any) -> Any:
        """How many are 1."""
        return int(bits).bit_count()

else:
    _BYTE, _INT, _LONG = (ir.IntType(bits) for bits in (8, 32, 64))

    def _vector_at(context: Any, builder: Any, kind: Any, array: Any, place: Any, lanes: int = LANES) -> Any:
        """The address of so many values of an array from a place on."""
        assert kind.layout == "C"
        data = make_array(kind)(context, builder, array).data
        vector = ir.VectorType(ir.IntType(kind.dtype.bitwidth), lanes)
        return builder.bitcast(builder.gep(data, [place]), vector.as_pointer())

    def _load(builder: Any, address: Any) -> Any:
        return builder.load(address, align=address.type.pointee.element.width // 8)

    def _splat(builder: Any, value: Any, lanes: int = LANES) -> Any:
        undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
        single = builder.insert_element(undefined, value, _INT(0))
        return builder.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(_INT, lanes), None))

    def _call(builder: Any, name: str, *values: Any) -> Any:
        """An operation of LLVM's whose result is of the type of its first operand."""
        kind = ir.FunctionType(values[0].type, [value.type for value in values])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)

    @intrinsic  # type: ignore[untyped-decorator]
    def prefetch(_typing: Any, array: Any, place: Any) -> Any:
        """Ask for the cache line of ``array[place]``, which may lie outside the array: nothing is read."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data = make_array(signature.args[0])(context, builder, args[0]).data
            kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _INT, _INT, _INT])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
            address = builder.bitcast(builder.gep(data, [args[1]]), _BYTE.as_pointer())
            builder.call(function, [address, _INT(0), _INT(3), _INT(1)])  # to read, keep, data
            return context.get_dummy_value()

        return types.void(array, place), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def at_least(_typing: Any, values: Any, first: Any, least: Any) -> Any:
        """64 bits, the lowest for ``values[first]`` (int64 or uint16): whether the value is at least ``least``."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            loaded = _load(builder, _vector_at(context, builder, signature.args[0], args[0], args[1]))
            compare = builder.icmp_unsigned if kind == types.uint16 else builder.icmp_signed
            return builder.bitcast(compare(">=", loaded, _splat(builder, args[2])), _LONG)

        kind = types.uint16 if values.dtype == types.uint16 else types.int64
        return types.uint64(values, types.int64, kind), generate

    def _equal(context: Any, builder: Any, signature: Any, args: Any, lanes: int) -> Any:
        loaded = _load(builder, _vector_at(context, builder, signature.args[0], args[0], args[1], lanes))
        equal = builder.icmp_unsigned("==", loaded, _splat(builder, args[2], lanes))
        bits = builder.bitcast(equal, ir.IntType(lanes))
        return bits if lanes == LANES else builder.zext(bits, _LONG)

    @intrinsic  # type: ignore[untyped-decorator]
    def equal_to(_typing: Any, values: Any, first: Any, value: Any) -> Any:
        """64 bits, the lowest for ``values[first]`` (uint16): whether it equals ``value``."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _equal(context, builder, signature, args, LANES)

        return types.uint64(values, types.uint64, types.uint16), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def equal_to_few(_typing: Any, values: Any, first: Any, value: Any) -> Any:
        """Like :func:`equal_to`, 16 bits."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _equal(context, builder, signature, args, FEW_LANES)

        return types.uint64(values, types.uint64, types.uint16), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def flagged(_typing: Any, flags: Any, first: Any) -> Any:
        """64 bits, the lowest for ``flags[first]`` (bool), as many of which must be in memory."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data = make_array(signature.args[0])(context, builder, args[0]).data
            vector = ir.VectorType(_BYTE, LANES)
            loaded = _load(builder, builder.bitcast(builder.gep(data, [args[1]]), vector.as_pointer()))
            return builder.bitcast(builder.icmp_unsigned("!=", loaded, ir.Constant(vector, None)), _LONG)

        return types.uint64(flags, types.int64), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def clear(_typing: Any, values: Any, first: Any) -> Any:
        """Set 64 values, from ``values[first]`` on, to 0."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            address = _vector_at(context, builder, signature.args[0], args[0], args[1])
            kind = address.type.pointee
            builder.store(ir.Constant(kind, None), address, align=kind.element.width // 8)
            return context.get_dummy_value()

        return types.void(values, types.int64), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def highest(_typing: Any, values: Any, first: Any) -> Any:
        """The largest of 64 values (uint16), from ``values[first]`` on."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            loaded = _load(builder, _vector_at(context, builder, signature.args[0], args[0], args[1]))
            kind = ir.FunctionType(ir.IntType(16), [loaded.type])
            name = f"llvm.vector.reduce.umax.v{LANES}i16"
            return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [loaded])

        return types.uint16(values, types.int64), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def add_scaled(_typing: Any, totals: Any, factor: Any, values: Any, first: Any) -> Any:
        """totals += factor * values, for 64 from ``first`` on: uint16, uint16, uint8. Sums saturate at 65,535, which
        products may not exceed.
        """

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            into = _vector_at(context, builder, signature.args[0], args[0], args[3])
            bytes_ = _load(builder, _vector_at(context, builder, signature.args[2], args[2], args[3]))
            product = builder.mul(builder.zext(bytes_, into.type.pointee), _splat(builder, args[1]))
            total = _call(builder, f"llvm.uadd.sat.v{LANES}i16", _load(builder, into), product)
            builder.store(total, into, align=2)
            return context.get_dummy_value()

        return types.void(totals, types.uint16, values, types.int64), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def lowest_bit(_typing: Any, bits: Any) -> Any:
        """The place of the lowest 1 of bits that are not all 0."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.cttz(args[0], ir.IntType(1)(1))

        return types.int64(types.uint64), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def count_bits(_typing: Any, bits: Any) -> Any:
        """How many are 1."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.ctpop(args[0])

        return types.int64(types.uint64), generate
