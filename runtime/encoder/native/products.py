"""int8 products of a block of rows and a tile of positions, held in registers: what the native kernels are made of.

Rows are packed in blocks of 32: for each group of 4 hidden values the 4 bytes of each row, so that a 512-bit load is
one operand of VPDPBUSD (4 products of an unsigned and a signed byte, added to an int32). A tile is 32 rows x up to 8
positions in registers. The instruction is chosen when a kernel is compiled, by the CPU that Numba compiles for:
AVX-512 VNNI, AVX-VNNI, AVX2, or plain vector code that LLVM fits to any CPU. All give the same integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from ...numba_support.arrays import F32, I32, U8
from ...numba_support.internals import call_llvm, cpu_features
from ...numba_support.vector_ir import address, index, load, member, row_size, splat, store

BLOCK = 32  # rows
GROUP = 4  # hidden values that one instruction multiplies
# Positions in a tile: a text is cut into tiles of one of these sizes, the last of which may overlap the one before. A
# text shorter than the largest has to be filled up to one of them.
TILES = (4, 6, 8)
FLOATS = 16  # of a float tile's row

_INT, _LONG, _SHORT = ir.IntType(32), ir.IntType(64), ir.IntType(16)


class Matrices(NamedTuple):
    """int8 matrices with a scale and a bias a row. Several may lie one behind the other.

    Attributes
    ----------
    rows : int8 [bytes]
        The rows, packed as this module says.
    offset : int32 [rows]
        -128 times the sum of each row: it corrects products of activations that are 128 too large.
    scale, bias : float32 [rows]
        A row's result is ``product * (scale of the other factor * scale) + bias``.
    """

    rows: Any
    offset: I32
    scale: F32
    bias: F32


class Tokens(NamedTuple):
    """Quantized activations of a text.

    Attributes
    ----------
    values : uint8 [positions, hidden]
        Whole numbers around 128, C-contiguous; ``hidden`` is a multiple of 4.
    scales : float32 [positions]
        What the values of each position are in units of.
    """

    values: U8
    scales: F32


class Strided(NamedTuple):
    """A matrix within a flat array.

    Attributes
    ----------
    array : float32 [n]
    first : int
        The index of element (0, 0).
    row, step : int
        How far apart neighbouring rows and neighbouring columns are, in elements.
    """

    array: F32
    first: int
    row: int
    step: int


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
    """An intrinsic that multiplies one block with ``positions`` positions, and keeps the maximum over them."""

    @intrinsic
    def tile(typing, matrices, first_byte, first_row, values, position, best):  # type: ignore[no-untyped-def]
        """Raise ``best`` to the products of a block where they are larger.

        Parameters
        ----------
        matrices : Matrices
            What the block is part of.
        first_byte, first_row : int
            Where the block begins in ``matrices.rows``, and in the other arrays.
        values : uint8 [positions, hidden]
            See :class:`Tokens`.
        position : int
            The first of the positions.
        best : int32 [32]
            The maximum of each row so far.
        """
        long = types.intp
        signature = types.void(matrices, long, long, values, long, best)

        def generate(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
            machine = _machine(context, builder, positions)
            result = address(context, builder, signature.args[5], arguments[5], index(0), 4)
            operands = _operands(context, builder, signature.args[0], arguments[:3], signature.args[3], *arguments[3:5])
            for rows, part in _parts(machine, positions):
                for row, sums in zip(rows, _products(builder, machine, operands, rows, part), strict=True):
                    place = builder.gep(result, [index(4 * row)])
                    most = load(builder, place, machine.vector)
                    for value in sums:
                        most = builder.select(builder.icmp_signed(">", value, most), value, most)
                    store(builder, most, place)
            return context.get_dummy_value()

        return signature, generate

    return tile  # type: ignore[no-any-return]


def scaled_tile(positions: int) -> Callable[..., Any]:
    """An intrinsic that multiplies one block with ``positions`` positions, and scales the products to floats."""

    @intrinsic
    def tile(typing, matrices, first_byte, first_row, tokens, position, out, column):  # type: ignore[no-untyped-def]
        """Write ``product * (scale of the position * scale of the row) + bias``.

        Parameters
        ----------
        matrices, first_byte, first_row
            See :func:`largest_tile`.
        tokens : Tokens
            The other factor.
        position : int
            The first of the positions, in ``tokens`` and in ``out``.
        out : float32 [positions, columns]
            The result, C-contiguous.
        column : int
            The column of the block's first row in ``out``.
        """
        long = types.intp
        signature = types.void(matrices, long, long, tokens, long, out, long)

        def generate(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
            def of(argument: int, field: int, item: Any) -> Any:
                kind, value = member(builder, signature.args[argument], arguments[argument], field)
                return address(context, builder, kind, value, item, 4)

            machine = _machine(context, builder, positions)
            position = arguments[4]
            scales, biases, of_position = of(0, 2, arguments[2]), of(0, 3, arguments[2]), of(3, 1, position)
            columns = row_size(context, builder, signature.args[5], arguments[5])
            first = builder.add(builder.mul(position, columns), arguments[6])
            result = address(context, builder, signature.args[5], arguments[5], first, 4)
            stride = builder.mul(columns, index(4))
            floats = ir.VectorType(ir.FloatType(), machine.lanes)
            values = member(builder, signature.args[3], arguments[3], 0)
            operands = _operands(context, builder, signature.args[0], arguments[:3], *values, position)
            for rows, part in _parts(machine, positions):
                sums = _products(builder, machine, operands, rows, part)
                for p, at in enumerate(part):
                    one = load(builder, builder.gep(of_position, [index(4 * at)]), ir.FloatType())
                    token_scale = splat(builder, one, machine.lanes)
                    out_row = builder.gep(result, [builder.mul(stride, index(at))])
                    for row, row_sums in zip(rows, sums, strict=True):
                        place = index(4 * row)
                        by = builder.fmul(token_scale, load(builder, builder.gep(scales, [place]), floats))
                        product = builder.fmul(builder.sitofp(row_sums[p], floats), by)
                        bias = load(builder, builder.gep(biases, [place]), floats)
                        store(builder, builder.fadd(product, bias), builder.gep(out_row, [place]))
            return context.get_dummy_value()

        return signature, generate

    return tile  # type: ignore[no-any-return]


def _parts(machine: _Machine, positions: int) -> Iterator[tuple[list[int], range]]:
    """The parts of a tile that the registers hold: the first term of each vector, and positions."""
    for term in range(0, BLOCK, machine.lanes * machine.terms):
        terms = [term + machine.lanes * i for i in range(machine.terms)]
        for position in range(0, positions, machine.positions):
            yield terms, range(position, min(position + machine.positions, positions))


class _Operands(NamedTuple):
    """Addresses of a block and of the first position, and the number of hidden values."""

    rows: Any
    offset: Any
    values: Any
    hidden: Any


def _operands(
    context: Any, builder: Any, kind: Any, block: Sequence[Any], values_kind: Any, values: Any, position: Any
) -> _Operands:
    """The operands of a tile; ``block``: the matrices, and where the block begins in them."""
    matrices, first_byte, first_row = block
    rows = address(context, builder, *member(builder, kind, matrices, 0), first_byte, 1)
    offset = address(context, builder, *member(builder, kind, matrices, 1), first_row, 4)
    hidden = row_size(context, builder, values_kind, values)
    first = address(context, builder, values_kind, values, builder.mul(position, hidden), 1)
    return _Operands(rows, offset, first, hidden)


def _products(builder: Any, machine: _Machine, operands: _Operands, rows: list[int], part: range) -> list[list[Any]]:
    """A loop over the hidden values, with one accumulator for each vector of rows and each position in ``part``.

    Returns what the accumulators hold, by vector and position.
    """
    vectors, vector = range(len(rows)), machine.vector
    places = [index(4 * row) for row in rows]
    initial = [machine.start(load(builder, builder.gep(operands.offset, [place]), vector)) for place in places]
    positions = [builder.gep(operands.values, [builder.mul(operands.hidden, index(position))]) for position in part]
    before = builder.block
    loop, end = builder.append_basic_block("products"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    at = builder.phi(_LONG)
    at.add_incoming(index(0), before)
    totals = [[builder.phi(vector) for _ in positions] for _ in vectors]
    block = builder.mul(at, index(BLOCK))
    packed = [builder.gep(operands.rows, [builder.add(block, place)]) for place in places]
    weights = [machine.row(load(builder, pointer, vector)) for pointer in packed]
    sums: list[list[Any]] = [[] for _ in vectors]
    for p, position in enumerate(positions):
        four = machine.activation(load(builder, builder.gep(position, [at]), _INT, 1))
        for i in vectors:
            sums[i].append(machine.add(totals[i][p], four, weights[i]))
    following = builder.add(at, index(GROUP))
    at.add_incoming(following, loop)
    for i in vectors:
        for total, value in zip(totals[i], sums[i], strict=True):
            total.add_incoming(initial[i], before)
            total.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", following, operands.hidden), loop, end)
    builder.position_at_end(end)
    return sums


def float_tile(count: int) -> Callable[..., Any]:
    """An intrinsic for ``count`` rows of 16 floats: row r sums ``a[r, s] * b[s]`` over s, in ascending order."""

    @intrinsic
    def tile(typing, a, b, steps, out):  # type: ignore[no-untyped-def]
        """Write the product of two float matrices.

        Parameters
        ----------
        a : Strided [count, steps]
            The first factor.
        b : Strided [steps, 16]
            The second factor; the 16 values of a row are neighbours, so ``step`` is not used.
        steps : int
            Terms of each sum, at least 1.
        out : Strided [count, 16]
            The result, with neighbours as in ``b``.
        """
        signature = types.void(a, b, types.intp, out)

        def generate(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
            def at(argument: int) -> tuple[Any, Any, Any]:
                """Address of the first element, and the strides in bytes."""
                kind, value = signature.args[argument], arguments[argument]
                first, row, step = (member(builder, kind, value, field)[1] for field in (1, 2, 3))
                array = address(context, builder, *member(builder, kind, value, 0), first, 4)
                return array, builder.mul(row, index(4)), builder.mul(step, index(4))

            from_a, row_of_a, step_of_a = at(0)
            from_b, row_of_b, _ = at(1)
            result, stride, _ = at(3)
            rows = [builder.gep(from_a, [builder.mul(row_of_a, index(r))]) for r in range(count)]
            floats = ir.VectorType(ir.FloatType(), FLOATS)
            before = builder.block
            loop, end = builder.append_basic_block("sums"), builder.append_basic_block("done")
            builder.branch(loop)
            builder.position_at_end(loop)
            step = builder.phi(_LONG)
            step.add_incoming(index(0), before)
            totals = [builder.phi(floats) for _ in rows]
            vector = load(builder, builder.gep(from_b, [builder.mul(step, row_of_b)]), floats)
            place = builder.mul(step, step_of_a)
            following = builder.add(step, index(1))
            step.add_incoming(following, loop)
            sums = []
            for total, row in zip(totals, rows, strict=True):
                one = load(builder, builder.gep(row, [place]), ir.FloatType())
                sums.append(builder.fadd(total, builder.fmul(splat(builder, one, FLOATS), vector)))
                total.add_incoming(ir.Constant(floats, [0.0] * FLOATS), before)
                total.add_incoming(sums[-1], loop)
            builder.cbranch(builder.icmp_signed("<", following, arguments[2]), loop, end)
            builder.position_at_end(end)
            for r, value in enumerate(sums):
                store(builder, value, builder.gep(result, [builder.mul(stride, index(r))]))
            return context.get_dummy_value()

        return signature, generate

    return tile  # type: ignore[no-any-return]
