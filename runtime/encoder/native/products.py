"""int8 products of a block of rows and a tile of positions, held in registers: what our kernels are made of.

Rows are packed in blocks of 32: for each group of 4 hidden values the 4 bytes of each row, so that a 512-bit load is
one operand of VPDPBUSD (4 products of an unsigned and a signed byte added to an int32). A tile is 32 rows x up to 8
positions in registers. The instruction is chosen when a kernel is compiled, by the CPU that Numba compiles for:
AVX-512 VNNI, AVX-VNNI, AVX2, or plain vector code that LLVM fits to any CPU; all give the same integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ...numba_support.internals import call_llvm, cpu_features
from ...numba_support.vector_ir import index, load, pointers, splat, store

BLOCK = 32  # rows
GROUP = 4  # hidden values that one instruction multiplies
# Positions in a tile: a text is cut into tiles of one of these sizes, the last of which may overlap the one before. A
# text shorter than the largest has to be filled up to one of them.
TILES = (4, 6, 8)
FLOATS = 16  # of a float tile's row

_INT, _LONG, _SHORT = ir.IntType(32), ir.IntType(64), ir.IntType(16)


class _Machine:
    """How a CPU multiplies: ``lanes`` terms in a vector, and ``terms`` vectors x ``positions`` in its registers."""

    def __init__(self, builder: Any, lanes: int, terms: int, positions: int) -> None:
        self.builder, self.lanes, self.terms, self.positions = builder, lanes, terms, positions
        self.vector = ir.VectorType(_INT, lanes)

    def start(self, offset: Any) -> Any:
        """The accumulator before the first product; ``offset``: int32 ``[lanes]``, -128 x the sum of each row."""
        raise NotImplementedError

    def row(self, packed: Any) -> Any:
        """What is needed of 4 bytes of each term, given as int32 ``[lanes]``."""
        raise NotImplementedError

    def activation(self, packed: Any) -> Any:
        """What is needed of the 4 activations in one int32."""
        raise NotImplementedError

    def add(self, total: Any, activation: Any, row: Any) -> Any:
        """``total`` plus the 4 products."""
        raise NotImplementedError


class _Vnni(_Machine):
    """VPDPBUSD. Unsigned activations are 128 too large, which the offset takes back before the first product."""

    def start(self, offset: Any) -> Any:
        return offset

    def row(self, packed: Any) -> Any:
        return packed

    def activation(self, packed: Any) -> Any:
        return splat(self.builder, packed, self.lanes)

    def add(self, total: Any, activation: Any, row: Any) -> Any:
        name = f"llvm.x86.avx512.vpdpbusd.{32 * self.lanes}"
        return call_llvm(self.builder, name, self.vector, [total, activation, row])


class _Plain(_Machine):
    """Vector code that LLVM fits to any CPU: 16-bit products of even and odd bytes, two of which still fit in 16 bits
    (2 x 127 x 128), then widened and added.
    """

    def start(self, offset: Any) -> Any:
        return ir.Constant(self.vector, [0] * self.lanes)

    def row(self, packed: Any) -> Any:
        b = self.builder
        shorts = ir.VectorType(_SHORT, 2 * self.lanes)
        eight = ir.Constant(shorts, [8] * (2 * self.lanes))
        both = b.bitcast(packed, shorts)
        return b.ashr(b.shl(both, eight), eight), b.ashr(both, eight)

    def activation(self, packed: Any) -> Any:
        # x - 128 of an unsigned byte is the signed byte with the highest bit turned over.
        signed = self.builder.xor(packed, ir.Constant(_INT, 0x80808080))
        return self.row(splat(self.builder, signed, self.lanes))

    def add(self, total: Any, activation: Any, row: Any) -> Any:
        b = self.builder
        products = b.add(b.mul(activation[0], row[0]), b.mul(activation[1], row[1]))
        pairs = b.bitcast(products, self.vector)
        half = ir.Constant(self.vector, [16] * self.lanes)
        return b.add(b.add(total, b.ashr(b.shl(pairs, half), half)), b.ashr(pairs, half))


class _Avx2(_Plain):
    """VPMADDWD, which multiplies 16-bit numbers and adds pairs of products as 32-bit ones."""

    def add(self, total: Any, activation: Any, row: Any) -> Any:
        b = self.builder
        pairs = "llvm.x86.avx2.pmadd.wd"
        even, odd = (call_llvm(b, pairs, self.vector, [activation[i], row[i]]) for i in range(2))
        return b.add(total, b.add(even, odd))


# Code for CPUs with these features, in LLVM's names, best first: name, what it needs, and for how many registers.
_MACHINES: tuple[tuple[str, frozenset[str], type[_Machine], int], ...] = (
    ("avx512-vnni", frozenset({"avx512vnni", "avx512vl"}), _Vnni, 32),
    ("avx-vnni", frozenset({"avxvnni"}), _Vnni, 16),
    ("avx2", frozenset({"avx2"}), _Avx2, 16),
    ("plain", frozenset(), _Plain, 16),
)


def instruction(features: AbstractSet[str]) -> str:
    """Which code a CPU with these features gets: ``avx512-vnni``, ``avx-vnni``, ``avx2`` or ``plain``."""
    return next(name for name, needs, _, _ in _MACHINES if needs <= features)


def _machine(context: Any, builder: Any, positions: int) -> _Machine:
    """How the CPU that is compiled for multiplies, and the part of a tile that its registers hold."""
    found = instruction(cpu_features(context))
    kind, registers = next((kind, registers) for name, _, kind, registers in _MACHINES if name == found)
    return kind(builder, 16, 2, positions) if registers == 32 else kind(builder, 8, 2, min(positions, 4))


def largest_tile(positions: int) -> Callable[..., Any]:
    """An intrinsic: the products of one block with ``positions`` positions, and their maximum into ``best``."""

    @intrinsic
    def tile(  # type: ignore[no-untyped-def]
        typing, rows, first_row, activations, first_activation, hidden, offset, first_term, best
    ):
        """``rows`` int8 from ``first_row``; ``activations`` uint8 from ``first_activation``, ``hidden`` of them a
        position; ``offset`` int32 from ``first_term``; ``best`` int32 ``[32]``.
        """
        long = types.intp
        signature = types.void(rows, long, activations, long, long, offset, long, best)

        def generate(context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> Any:
            at = pointers(context, builder, signature, values)
            start, result = at(5, values[6], 4), at(7, index(0), 4)
            machine = _machine(context, builder, positions)
            row, activation = at(0, values[1], 1), at(2, values[3], 1)
            for terms, part in _parts(machine, positions):
                sums = _products(builder, machine, row, activation, start, values[4], terms, part)
                for term, values_ in zip(terms, sums, strict=True):
                    place = builder.gep(result, [index(4 * term)])
                    most = load(builder, place, machine.vector)
                    for value in values_:
                        most = builder.select(builder.icmp_signed(">", value, most), value, most)
                    store(builder, most, place)
            return context.get_dummy_value()

        return signature, generate

    return tile  # type: ignore[no-any-return]


def scaled_tile(positions: int) -> Callable[..., Any]:
    """An intrinsic: the products of one block with ``positions`` positions as floats,
    ``product * (position_scale * scale) + bias``.
    """

    @intrinsic
    def tile(  # type: ignore[no-untyped-def]
        typing, rows, first_row, activations, first_activation, hidden, offset, scale, bias, first_term,
        position_scales, first_position, result, first_result, stride
    ):  # fmt: skip
        """As :func:`largest_tile`, with ``scale`` and ``bias`` float32 from ``first_term``, ``position_scales`` float32
        from ``first_position``, ``result`` float32 from ``first_result``, ``stride`` of them a position.
        """
        long = types.intp
        signature = types.void(
            rows, long, activations, long, long, offset, scale, bias, long, position_scales, long, result, long, long
        )

        def generate(context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> Any:
            at = pointers(context, builder, signature, values)
            start, scales, biases = (at(array, values[8], 4) for array in (5, 6, 7))
            of_position, result = at(9, values[10], 4), at(11, values[12], 4)
            stride = builder.mul(values[13], index(4))
            machine = _machine(context, builder, positions)
            floats = ir.VectorType(ir.FloatType(), machine.lanes)
            row, activation = at(0, values[1], 1), at(2, values[3], 1)
            for terms, part in _parts(machine, positions):
                sums = _products(builder, machine, row, activation, start, values[4], terms, part)
                for p, position in enumerate(part):
                    one = load(builder, builder.gep(of_position, [index(4 * position)]), ir.FloatType())
                    own = splat(builder, one, machine.lanes)
                    out = builder.gep(result, [builder.mul(stride, index(position))])
                    for term, values_ in zip(terms, sums, strict=True):
                        place = index(4 * term)
                        by = builder.fmul(own, load(builder, builder.gep(scales, [place]), floats))
                        product = builder.fmul(builder.sitofp(values_[p], floats), by)
                        bias = load(builder, builder.gep(biases, [place]), floats)
                        store(builder, builder.fadd(product, bias), builder.gep(out, [place]))
            return context.get_dummy_value()

        return signature, generate

    return tile  # type: ignore[no-any-return]


def _parts(machine: _Machine, positions: int) -> Iterator[tuple[list[int], range]]:
    """The parts of a tile that the registers hold: the first term of each vector, and positions."""
    for term in range(0, BLOCK, machine.lanes * machine.terms):
        terms = [term + machine.lanes * i for i in range(machine.terms)]
        for position in range(0, positions, machine.positions):
            yield terms, range(position, min(position + machine.positions, positions))


def _products(
    builder: Any,
    machine: _Machine,
    row: Any,
    activation: Any,
    start: Any,
    hidden: Any,
    terms: list[int],
    part: range,
) -> list[list[Any]]:
    """A loop over the hidden values with one accumulator for each vector of terms and each position in ``part``: what
    they hold, by vector.
    """
    vectors, vector = range(len(terms)), machine.vector
    places = [index(4 * term) for term in terms]
    initial = [machine.start(load(builder, builder.gep(start, [place]), vector)) for place in places]
    positions = [builder.gep(activation, [builder.mul(hidden, index(position))]) for position in part]
    before = builder.block
    loop, end = builder.append_basic_block("products"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    at = builder.phi(_LONG)
    at.add_incoming(index(0), before)
    totals = [[builder.phi(vector) for _ in positions] for _ in vectors]
    block = builder.mul(at, index(BLOCK))
    rows = [machine.row(load(builder, builder.gep(row, [builder.add(block, place)]), vector)) for place in places]
    sums: list[list[Any]] = [[] for _ in vectors]
    for p, position in enumerate(positions):
        four = machine.activation(load(builder, builder.gep(position, [at]), _INT, 1))
        for i in vectors:
            sums[i].append(machine.add(totals[i][p], four, rows[i]))
    following = builder.add(at, index(GROUP))
    at.add_incoming(following, loop)
    for i in vectors:
        for total, value in zip(totals[i], sums[i], strict=True):
            total.add_incoming(initial[i], before)
            total.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", following, hidden), loop, end)
    builder.position_at_end(end)
    return sums


def float_tile(count: int) -> Callable[..., Any]:
    """An intrinsic: ``count`` rows of 16 floats, row r the sum over s, in ascending order, of ``a[r, s] * b[s]``."""

    @intrinsic
    def tile(  # type: ignore[no-untyped-def]
        typing, a, first_a, row_of_a, step_of_a, b, first_b, step_of_b, steps, result, first_result, stride
    ):
        """All arrays float32. ``a[r, s]`` is at ``first_a + r * row_of_a + s * step_of_a``; the 16 values of ``b[s]``
        begin at ``first_b + s * step_of_b``, those of row r of ``result`` at ``first_result + r * stride``.
        """
        long = types.intp
        signature = types.void(a, long, long, long, b, long, long, long, result, long, long)

        def generate(context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> Any:
            at = pointers(context, builder, signature, values)
            row_of_a, step_of_a, step_of_b, stride = (builder.mul(values[i], index(4)) for i in (2, 3, 6, 10))
            rows = [builder.gep(at(0, values[1], 4), [builder.mul(row_of_a, index(r))]) for r in range(count)]
            from_b, result = at(4, values[5], 4), at(8, values[9], 4)
            floats = ir.VectorType(ir.FloatType(), FLOATS)
            before = builder.block
            loop, end = builder.append_basic_block("sums"), builder.append_basic_block("done")
            builder.branch(loop)
            builder.position_at_end(loop)
            step = builder.phi(_LONG)
            step.add_incoming(index(0), before)
            totals = [builder.phi(floats) for _ in rows]
            vector = load(builder, builder.gep(from_b, [builder.mul(step, step_of_b)]), floats)
            place = builder.mul(step, step_of_a)
            following = builder.add(step, index(1))
            step.add_incoming(following, loop)
            sums = []
            for total, row in zip(totals, rows, strict=True):
                one = load(builder, builder.gep(row, [place]), ir.FloatType())
                sums.append(builder.fadd(total, builder.fmul(splat(builder, one, FLOATS), vector)))
                total.add_incoming(ir.Constant(floats, [0.0] * FLOATS), before)
                total.add_incoming(sums[-1], loop)
            builder.cbranch(builder.icmp_signed("<", following, values[7]), loop, end)
            builder.position_at_end(end)
            for r, value in enumerate(sums):
                store(builder, value, builder.gep(result, [builder.mul(stride, index(r))]))
            return context.get_dummy_value()

        return signature, generate

    return tile  # type: ignore[no-any-return]
