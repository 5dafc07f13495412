"""SIMD for kernels: 64 values at a time in vector registers, operations on bits, and prefetching.

Written in LLVM's vector types, which use the widest registers of the CPU. LLVM's own vectorizer leaves some of these
loops as they are, and compiles others to four times the instructions. Without the JIT, NumPy does the same.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .internals import array_data, call_llvm
from .vector_ir import splat

LANES = 64  # values that a function here handles
FEW_LANES = 16  # the same for equal_to_few, for short lists

if numba.config.DISABLE_JIT:

    def prefetch(array: Any, position: Any) -> None:
        """Prefetch the cache line of ``array[position]``. Nothing is read; the position may lie outside of the array.

        Parameters
        ----------
        array
            Any type, one-dimensional, C order.
        position
            int64 or uint64.
        """

    def at_least(values: Any, first: Any, least: Any) -> Any:
        """Compare 64 values with a threshold.

        Parameters
        ----------
        values
            int64 or uint16, C order, ``[>= first + 64]``.
        first
            Position of the first value, int64.
        least
            The threshold, of the type of the values.

        Returns
        -------
        uint64
            One bit a value, the lowest for ``values[first]``: 1 where the value is at least ``least``.
        """
        reached = values[first : first + LANES] >= least
        return int.from_bytes(np.packbits(reached, bitorder="little").tobytes(), "little")

    def equal_to(values: Any, first: Any, value: Any) -> Any:
        """Compare 64 values with one value.

        Parameters
        ----------
        values
            uint16, C order, ``[>= first + 64]``.
        first
            Position of the first value, uint64.
        value
            uint16.

        Returns
        -------
        uint64
            One bit a value, the lowest for ``values[first]``: 1 where it equals ``value``.
        """
        return int.from_bytes(
            np.packbits(values[first : first + LANES] == value, bitorder="little").tobytes(), "little"
        )

    def equal_to_few(values: Any, first: Any, value: Any) -> Any:
        """Like :func:`equal_to`, for 16 values: the upper 48 bits are 0."""
        return int.from_bytes(
            np.packbits(values[first : first + FEW_LANES] == value, bitorder="little").tobytes(), "little"
        )

    def flagged(flags: Any, first: Any) -> Any:
        """Pack 64 flags into bits.

        Parameters
        ----------
        flags
            bool, C order, ``[>= first + 64]``.
        first
            Position of the first flag, int64.

        Returns
        -------
        uint64
            One bit a flag, the lowest for ``flags[first]``.
        """
        return int.from_bytes(np.packbits(flags[first : first + LANES], bitorder="little").tobytes(), "little")

    def clear(values: Any, first: Any) -> None:
        """Set 64 values to 0.

        Parameters
        ----------
        values
            Integers of any type, C order, ``[>= first + 64]``. Changed in position.
        first
            Position of the first value, int64.
        """
        values[first : first + LANES] = 0

    def highest(values: Any, first: Any) -> Any:
        """Find the largest of 64 values.

        Parameters
        ----------
        values
            uint16, C order, ``[>= first + 64]``.
        first
            Position of the first value, int64.

        Returns
        -------
        uint16
            The largest.
        """
        return values[first : first + LANES].max()

    def add_scaled(totals: Any, factor: Any, values: Any, first: Any) -> None:
        """Add ``factor * values`` to 64 totals. Sums saturate at 65,535.

        Parameters
        ----------
        totals
            uint16, C order, ``[>= first + 64]``. Changed in position.
        factor
            uint16. No product may exceed 65,535.
        values
            uint8, C order, ``[>= first + 64]``.
        first
            Position of the first total and of the first value, int64.
        """
        sums = totals[first : first + LANES] + np.uint32(factor) * values[first : first + LANES]
        totals[first : first + LANES] = np.minimum(sums, 65535)

    def lowest_bit(bits: Any) -> Any:
        """Return the number of the lowest 1 (int64, from 0) of ``bits`` (uint64), which may not be 0."""
        return (int(bits) & -int(bits)).bit_length() - 1

    def count_bits(bits: Any) -> Any:
        """Return how many of ``bits`` (uint64) are 1 (int64)."""
        return int(bits).bit_count()

else:
    _BYTE, _INT, _LONG = (ir.IntType(bits) for bits in (8, 32, 64))

    def _vector_at(context: Any, builder: Any, kind: Any, array: Any, position: Any, lanes: int = LANES) -> Any:
        """The address of ``lanes`` values of an array, from a position on."""
        assert kind.layout == "C"
        data = array_data(context, builder, kind, array)
        vector = ir.VectorType(ir.IntType(kind.dtype.bitwidth), lanes)
        return builder.bitcast(builder.gep(data, [position]), vector.as_pointer())

    def _load(builder: Any, address: Any) -> Any:
        return builder.load(address, align=address.type.pointee.element.width // 8)

    @intrinsic  # type: ignore[untyped-decorator]
    def prefetch(_typing: Any, array: Any, position: Any) -> Any:
        """As without the JIT, above."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data = array_data(context, builder, signature.args[0], args[0])
            address = builder.bitcast(builder.gep(data, [args[1]]), _BYTE.as_pointer())
            hints = [_INT(0), _INT(3), _INT(1)]  # to read, to keep in all caches, data
            call_llvm(builder, "llvm.prefetch.p0i8", ir.VoidType(), [address, *hints])
            return context.get_dummy_value()

        return types.void(array, position), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def at_least(_typing: Any, values: Any, first: Any, least: Any) -> Any:
        """As without the JIT, above."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            loaded = _load(builder, _vector_at(context, builder, signature.args[0], args[0], args[1]))
            compare = builder.icmp_unsigned if kind == types.uint16 else builder.icmp_signed
            return builder.bitcast(compare(">=", loaded, splat(builder, args[2], LANES)), _LONG)

        kind = types.uint16 if values.dtype == types.uint16 else types.int64
        return types.uint64(values, types.int64, kind), generate

    def _equal(context: Any, builder: Any, signature: Any, args: Any, lanes: int) -> Any:
        loaded = _load(builder, _vector_at(context, builder, signature.args[0], args[0], args[1], lanes))
        equal = builder.icmp_unsigned("==", loaded, splat(builder, args[2], lanes))
        bits = builder.bitcast(equal, ir.IntType(lanes))
        return bits if lanes == LANES else builder.zext(bits, _LONG)

    @intrinsic  # type: ignore[untyped-decorator]
    def equal_to(_typing: Any, values: Any, first: Any, value: Any) -> Any:
        """As without the JIT, above."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _equal(context, builder, signature, args, LANES)

        return types.uint64(values, types.uint64, types.uint16), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def equal_to_few(_typing: Any, values: Any, first: Any, value: Any) -> Any:
        """As without the JIT, above."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _equal(context, builder, signature, args, FEW_LANES)

        return types.uint64(values, types.uint64, types.uint16), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def flagged(_typing: Any, flags: Any, first: Any) -> Any:
        """As without the JIT, above."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data = array_data(context, builder, signature.args[0], args[0])
            vector = ir.VectorType(_BYTE, LANES)
            loaded = _load(builder, builder.bitcast(builder.gep(data, [args[1]]), vector.as_pointer()))
            return builder.bitcast(builder.icmp_unsigned("!=", loaded, ir.Constant(vector, None)), _LONG)

        return types.uint64(flags, types.int64), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def clear(_typing: Any, values: Any, first: Any) -> Any:
        """As without the JIT, above."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            address = _vector_at(context, builder, signature.args[0], args[0], args[1])
            kind = address.type.pointee
            builder.store(ir.Constant(kind, None), address, align=kind.element.width // 8)
            return context.get_dummy_value()

        return types.void(values, types.int64), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def highest(_typing: Any, values: Any, first: Any) -> Any:
        """As without the JIT, above."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            loaded = _load(builder, _vector_at(context, builder, signature.args[0], args[0], args[1]))
            return call_llvm(builder, f"llvm.vector.reduce.umax.v{LANES}i16", ir.IntType(16), [loaded])

        return types.uint16(values, types.int64), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def add_scaled(_typing: Any, totals: Any, factor: Any, values: Any, first: Any) -> Any:
        """As without the JIT, above."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            into = _vector_at(context, builder, signature.args[0], args[0], args[3])
            bytes_ = _load(builder, _vector_at(context, builder, signature.args[2], args[2], args[3]))
            product = builder.mul(builder.zext(bytes_, into.type.pointee), splat(builder, args[1], LANES))
            summands = [_load(builder, into), product]
            total = call_llvm(builder, f"llvm.uadd.sat.v{LANES}i16", product.type, summands)
            builder.store(total, into, align=2)
            return context.get_dummy_value()

        return types.void(totals, types.uint16, values, types.int64), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def lowest_bit(_typing: Any, bits: Any) -> Any:
        """As without the JIT, above."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.cttz(args[0], ir.IntType(1)(1))

        return types.int64(types.uint64), generate

    @intrinsic  # type: ignore[untyped-decorator]
    def count_bits(_typing: Any, bits: Any) -> Any:
        """As without the JIT, above."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.ctpop(args[0])

        return types.int64(types.uint64), generate
