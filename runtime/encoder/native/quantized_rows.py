"""Rows of float32 in registers of 16 values from end to end: normalized, and made bytes.

Written out in LLVM's vector code, because a loop that keeps 16 sums in an array writes them to memory in every step,
which takes three times as long. Sums are taken in the order of :mod:`transformer`. A row holds a multiple of 16 values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ...numba_support.internals import call_llvm
from ...numba_support.vector_ir import address, index, load, splat, store
from .transformer import LANES, ROUNDER, ZERO

_FLOAT, _LONG = ir.FloatType(), ir.IntType(64)
_FLOATS = ir.VectorType(_FLOAT, LANES)


@intrinsic
def normalize(typing, values, first, size, gain, bias, epsilon):  # type: ignore[no-untyped-def]
    """Layer normalization of a row, in place.

    Parameters
    ----------
    values : float32 [n]
        The array that holds the row.
    first, size : int
        Where the row begins in it, and its length: a multiple of 16.
    gain, bias : float32 [size]
        The parameters of the normalization.
    epsilon : float32
        Added to the variance.
    """
    signature = types.void(values, types.intp, types.intp, gain, bias, types.float32)

    def generate(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        b = builder
        row = address(context, b, signature.args[0], arguments[0], arguments[1], 4)
        gains, biases = (address(context, b, signature.args[i], arguments[i], index(0), 4) for i in (3, 4))
        count = b.uitofp(arguments[2], _FLOAT)

        def take(place: Any, total: Any) -> Any:
            return b.fadd(total, load(b, b.gep(row, [place]), _FLOATS))

        mean = splat(b, b.fdiv(_sum(b, _over(b, arguments[2], take)), count), LANES)

        def center(place: Any, total: Any) -> Any:
            rest = b.fsub(load(b, b.gep(row, [place]), _FLOATS), mean)
            store(b, rest, b.gep(row, [place]))
            return b.fadd(total, b.fmul(rest, rest))

        variance = b.fdiv(_sum(b, _over(b, arguments[2], center)), count)
        deviation = call_llvm(b, "llvm.sqrt.f32", _FLOAT, [b.fadd(variance, arguments[5])])
        factor = splat(b, b.fdiv(ir.Constant(_FLOAT, 1.0), deviation), LANES)

        def scale(place: Any, total: Any) -> Any:
            own = b.fmul(load(b, b.gep(row, [place]), _FLOATS), factor)
            own = b.fmul(own, load(b, b.gep(gains, [place]), _FLOATS))
            store(b, b.fadd(own, load(b, b.gep(biases, [place]), _FLOATS)), b.gep(row, [place]))
            return total

        _over(b, arguments[2], scale)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def largest_magnitude(typing, values, first, size):  # type: ignore[no-untyped-def]
    """The largest magnitude in a row; ``values``, ``first``, ``size`` as in :func:`normalize`. Returns float32."""
    signature = types.float32(values, types.intp, types.intp)

    def generate(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        b = builder
        row = address(context, b, signature.args[0], arguments[0], arguments[1], 4)

        def take(place: Any, largest: Any) -> Any:
            loaded = load(b, b.gep(row, [place]), _FLOATS)
            return _greater(b, call_llvm(b, f"llvm.fabs.v{LANES}f32", _FLOATS, [loaded]), largest)

        largest, lanes = _over(b, arguments[2], take), LANES
        while lanes > 1:
            lanes //= 2
            largest = _greater(b, *_halves(b, largest, lanes))
        return b.extract_element(largest, ir.Constant(ir.IntType(32), 0))

    return signature, generate


@intrinsic
def to_bytes(typing, values, first, size, levels, out, first_out):  # type: ignore[no-untyped-def]
    """Round a row to bytes around 128.

    Parameters
    ----------
    values, first, size
        See :func:`normalize`.
    levels : float32
        Bytes are ``round(value * levels) + 128``.
    out : uint8 [n]
        The array that holds the result.
    first_out : int
        Where the result begins in it.
    """
    signature = types.void(values, types.intp, types.intp, types.float32, out, types.intp)

    def generate(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        b = builder
        row = address(context, b, signature.args[0], arguments[0], arguments[1], 4)
        result = address(context, b, signature.args[4], arguments[4], arguments[5], 1)
        levels = splat(b, arguments[3], LANES)
        rounder, zero = (ir.Constant(_FLOATS, [float(x)] * LANES) for x in (ROUNDER, ZERO))
        whole, byte = (ir.VectorType(ir.IntType(bits), LANES) for bits in (32, 8))

        def write(place: Any, total: Any) -> Any:
            scaled = b.fmul(load(b, b.gep(row, [place]), _FLOATS), levels)
            rounded = b.fadd(b.fsub(b.fadd(scaled, rounder), rounder), zero)
            store(b, b.trunc(b.fptosi(rounded, whole), byte), b.gep(result, [b.lshr(place, index(2))]), 1)
            return total

        _over(b, arguments[2], write)
        return context.get_dummy_value()

    return signature, generate


def _over(builder: Any, size: Any, step: Callable[[Any, Any], Any]) -> Any:
    """A loop over a row of ``size`` floats: ``step`` of the place of 16 of them, in bytes, and the total so far, which
    begins with zeros, gives the next total.
    """
    end = builder.mul(size, index(4))
    before = builder.block
    loop, after = builder.append_basic_block("row"), builder.append_basic_block("after")
    builder.branch(loop)
    builder.position_at_end(loop)
    place, total = builder.phi(_LONG), builder.phi(_FLOATS)
    place.add_incoming(index(0), before)
    total.add_incoming(ir.Constant(_FLOATS, [0.0] * LANES), before)
    result = step(place, total)
    following = builder.add(place, index(4 * LANES))
    place.add_incoming(following, loop)
    total.add_incoming(result, loop)
    builder.cbranch(builder.icmp_signed("<", following, end), loop, after)
    builder.position_at_end(after)
    return result


def _halves(builder: Any, vector: Any, lanes: int) -> tuple[Any, Any]:
    """The first and the last ``lanes`` of twice as many."""
    kind = ir.VectorType(ir.IntType(32), lanes)
    first, last = (
        builder.shuffle_vector(vector, vector, ir.Constant(kind, [start + i for i in range(lanes)]))
        for start in (0, lanes)
    )
    return first, last


def _sum(builder: Any, lanes: Any) -> Any:
    """Of 16 lanes, in halves."""
    count = LANES
    while count > 1:
        count //= 2
        lanes = builder.fadd(*_halves(builder, lanes, count))
    return builder.extract_element(lanes, ir.Constant(ir.IntType(32), 0))


def _greater(builder: Any, value: Any, other: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", value, other), value, other)
