"""The vocabulary decoder as one pass over int8 rows: products, maximum over positions, bias, and what is above zero.

    weight[t] = scale_of_text * scale[t] * max over positions p of sum over h of (a[p, h] - 128) * w[t, h]  +  bias[t]

with uint8 activations ``a`` and int8 rows ``w``: the arithmetic of the exported graph, integer for integer and then
float32 in the same order. A graph runs it as an integer product, a maximum, a cast and five passes over the
vocabulary, with int32 ``[length, vocab]`` in memory between the first two, where most of the time goes; here nothing
but the terms above zero is written.

Rows are packed in blocks of 32 terms: for each group of 4 hidden values the 4 bytes of each term, so that a 512-bit
load is one operand of VPDPBUSD (4 products of an unsigned and a signed byte added to an int32). A tile is 32 terms x
up to 8 positions in registers. The instruction is chosen when the kernel is compiled, by the CPU that Numba compiles
for: AVX-512 VNNI, AVX-VNNI, AVX2, or plain vector code that LLVM fits to any CPU; all give the same integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..scorer.arrays import F32, I32, U8
from ..scorer.numba_cache import kernel

BLOCK = 32  # terms
GROUP = 4  # hidden values that one instruction multiplies
# Positions in a tile: a text is cut into tiles of one of these sizes, the last of which may overlap the one before. A
# text shorter than the largest has to be filled up to one of them.
TILES = (4, 6, 8)

_BYTE, _INT, _LONG, _SHORT = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.IntType(16)


def _long(value: int) -> Any:
    return ir.Constant(_LONG, value)


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
        return _splat(self.builder, packed, self.lanes)

    def add(self, total: Any, activation: Any, row: Any) -> Any:
        form = ir.FunctionType(self.vector, [self.vector] * 3)
        name = f"llvm.x86.avx512.vpdpbusd.{32 * self.lanes}"
        return self.builder.call(
            cgutils.get_or_insert_function(self.builder.module, form, name), [total, activation, row]
        )


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
        return self.row(_splat(self.builder, signed, self.lanes))

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
        shorts = ir.VectorType(_SHORT, 2 * self.lanes)
        form = ir.FunctionType(self.vector, [shorts] * 2)
        pairs = cgutils.get_or_insert_function(b.module, form, "llvm.x86.avx2.pmadd.wd")
        even, odd = (b.call(pairs, [activation[i], row[i]]) for i in range(2))
        return b.add(total, b.add(even, odd))


def _splat(builder: Any, value: Any, lanes: int) -> Any:
    undefined = ir.Constant(ir.VectorType(_INT, lanes), ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_INT, lanes), [0] * lanes))


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
    *_, flags = context.codegen().magic_tuple()
    found = instruction({flag[1:] for flag in flags.split(",") if flag.startswith("+")})
    kind, registers = next((kind, registers) for name, _, kind, registers in _MACHINES if name == found)
    return kind(builder, 16, 2, positions) if registers == 32 else kind(builder, 8, 2, min(positions, 4))


def _tile(positions: int) -> Callable[..., Any]:
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
            def at(array: int, start: Any) -> Any:
                data = context.make_array(signature.args[array])(context, builder, values[array]).data
                return builder.gep(builder.bitcast(data, _BYTE.as_pointer()), [start])

            row = at(0, values[1])
            activation = at(2, values[3])
            start = at(5, builder.mul(values[6], _long(4)))
            result = at(7, _long(0))
            machine = _machine(context, builder, positions)
            for term in range(0, BLOCK, machine.lanes * machine.terms):
                for position in range(0, positions, machine.positions):
                    part = range(position, min(position + machine.positions, positions))
                    _products(builder, machine, row, activation, start, result, values[4], term, part)
            return context.get_dummy_value()

        return signature, generate

    return tile  # type: ignore[no-any-return]


def _products(
    builder: Any,
    machine: _Machine,
    row: Any,
    activation: Any,
    start: Any,
    result: Any,
    hidden: Any,
    term: int,
    part: range,
) -> None:
    """A loop over the hidden values with one accumulator for each vector of terms from ``term`` and each position in
    ``part``, then their maximum into ``result``.
    """
    lanes, vectors = machine.lanes, range(machine.terms)
    vector = machine.vector

    def load(pointer: Any, offset: Any, kind: Any, align: int) -> Any:
        loaded = builder.load(builder.bitcast(builder.gep(pointer, [offset]), kind.as_pointer()))
        loaded.align = align
        return loaded

    places = [_long(4 * (term + lanes * i)) for i in vectors]
    initial = [machine.start(load(start, place, vector, 4)) for place in places]
    positions = [builder.gep(activation, [builder.mul(hidden, _long(position))]) for position in part]
    before = builder.block
    loop, end = builder.append_basic_block("products"), builder.append_basic_block("largest")
    builder.branch(loop)
    builder.position_at_end(loop)
    at = builder.phi(_LONG)
    at.add_incoming(_long(0), before)
    totals = [[builder.phi(vector) for _ in positions] for _ in vectors]
    block = builder.mul(at, _long(BLOCK))
    rows = [machine.row(load(row, builder.add(block, place), vector, 4)) for place in places]
    sums: list[list[Any]] = [[] for _ in vectors]
    for p, position in enumerate(positions):
        four = machine.activation(load(position, at, _INT, 1))
        for i in vectors:
            sums[i].append(machine.add(totals[i][p], four, rows[i]))
    following = builder.add(at, _long(GROUP))
    at.add_incoming(following, loop)
    for i in vectors:
        for total, value in zip(totals[i], sums[i], strict=True):
            total.add_incoming(initial[i], before)
            total.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", following, hidden), loop, end)
    builder.position_at_end(end)
    for place, values in zip(places, sums, strict=True):
        largest = load(result, place, vector, 4)
        for value in values:
            largest = builder.select(builder.icmp_signed(">", value, largest), value, largest)
        stored = builder.store(largest, builder.bitcast(builder.gep(result, [place]), vector.as_pointer()))
        stored.align = 4


_tile_small, _tile_middle, _tile_large = (_tile(positions) for positions in TILES)
_SMALL, _MIDDLE, _LARGE = TILES
_LOWEST = np.iinfo(np.int32).min


@kernel
def decode(
    first: int,
    last: int,
    rows: Any,
    offset: I32,
    scale: F32,
    bias: F32,
    activations: U8,
    length: int,
    hidden: int,
    text_scale: Any,
    terms: I32,
    values: F32,
) -> int:
    """Write the places of the rows whose sum is above zero, ascending, to ``terms`` and their sums to ``values``.

    Blocks from ``first`` to ``last``: ``rows`` int8, packed; ``offset`` int32, ``scale``, ``bias`` float32 ``[blocks x
    32]``. ``activations`` uint8 ``[length x hidden]`` with ``length`` in ``TILES`` or above them, ``hidden`` a multiple
    of 4; ``text_scale`` float32. ``terms`` int32 and ``values`` float32 have room for every row. Returns how many.
    """
    best = np.empty(BLOCK, np.int32)
    tiles = (length + _LARGE - 1) // _LARGE
    size = _SMALL if tiles * _SMALL >= length else _MIDDLE if tiles * _MIDDLE >= length else _LARGE
    found = 0
    for block in range(first, last):
        best[:] = _LOWEST
        term = block * BLOCK
        row = term * hidden
        for tile in range(tiles):
            position = min(tile * size, length - size) * hidden
            if size == _LARGE:
                _tile_large(rows, row, activations, position, hidden, offset, term, best)
            elif size == _MIDDLE:
                _tile_middle(rows, row, activations, position, hidden, offset, term, best)
            else:
                _tile_small(rows, row, activations, position, hidden, offset, term, best)
        scales, biases = scale[term : term + BLOCK], bias[term : term + BLOCK]
        above = False
        for i in range(BLOCK):
            above |= np.float32(best[i]) * (text_scale * scales[i]) + biases[i] > 0
        if above:  # rare: a query has about 20 terms
            for i in range(BLOCK):
                value = np.float32(best[i]) * (text_scale * scales[i]) + biases[i]
                if value > 0:
                    terms[found] = term + i
                    values[found] = value
                    found += 1
    return found
