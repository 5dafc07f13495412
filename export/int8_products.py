"""Products of activations and a weight matrix in int8, a scale for every token and every column.

Each product becomes ``scale[token] * scale[column] * (int8 x int8)``. A token's scale depends on nothing but the token,
so a text's vector does not depend on its batch; the quantizers of the engines scale a whole batch.

Rounding a weight matrix W to W' shifts its output by ``x (W' - W)``, which is not zero on average: a few channels of a
transformer are large for every token. The mean shift over calibration text is subtracted (bias correction; Nagel et
al. 2019, arXiv:1906.04721). On the default document encoder that is nearly all of the loss: cosine .9926 -> .9975 with
8-bit weights, .867 -> .9935 with 7-bit ones (which x86 without VNNI needs).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from .onnx_graph import Statistics, encoder_products

# Activations are unsigned bytes around 128. Both names are part of the graphs that are written.
_LEVELS, _ZERO = 127, 128
_PREFIX = "rows"


def quantize_products(
    model: onnx.ModelProto, names: Collection[str], *, weight_bits: int, statistics: Mapping[str, Statistics]
) -> None:
    """Replace products of a graph by int8 ones, in place.

    Parameters
    ----------
    model : onnx.ModelProto
        The graph; it is changed.
    names : collection of str
        Names of the products to replace (see :func:`encoder_products`).
    weight_bits : {7, 8}
        Bits of a weight. 7 is right on every CPU; 8 needs VNNI on x86.
    statistics : mapping of str to Statistics
        What goes into each product, for the bias correction.

    References
    ----------
    Nagel et al., "Data-free quantization through weight equalization and bias correction", arXiv:1906.04721.
    """
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    chosen = {node.name for node in encoder_products(graph)} & set(names)
    constants = _Constants(graph)
    used = [name for node in graph.node for name in node.input]
    scaled: dict[str, str] = {}  # activations -> prefix of what was made of them, for products that share them
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.name not in chosen:
            nodes.append(node)
            continue
        entering, matrix = node.input[0], node.input[1]
        values = numpy_helper.to_array(weights[matrix])
        if entering not in scaled:
            scaled[entering] = f"{_PREFIX}_{entering}"
            nodes += _scaled_tokens(scaled[entering], entering, values.shape[0], constants)
        quantized, scale = quantize_rows_of(values.T, 2 ** (weight_bits - 1) - 1)
        shift = statistics[node.name].mean @ (values - quantized.T * scale).astype(np.float64)
        name = f"{_PREFIX}_{node.name}"
        constants.add(f"{name}_matrix", np.ascontiguousarray(quantized.T))
        constants.add(f"{name}_scale", scale)
        constants.add(f"{name}_shift", shift.astype(np.float32))
        if used.count(matrix) == 1:
            graph.initializer.remove(weights[matrix])
        nodes += _product(name, scaled[entering], node.output[0], values.shape[1], constants)
    del graph.node[:]
    graph.node.extend(nodes)
    # Shapes of removed values would be wrong; the engine infers them again.
    del graph.value_info[:]
    onnx.checker.check_model(model)


def quantize_rows_of(
    matrix: npt.NDArray[np.float32], levels: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Round the rows of a matrix to integers, with one scale for each row.

    Parameters
    ----------
    matrix : float32 array ``[rows, columns]``
        The weights.
    levels : int
        The largest magnitude of an integer.

    Returns
    -------
    tuple of int8 array ``[rows, columns]`` and float32 array ``[rows]``
        Integers in [-levels, levels], and the scales; a row of zeros has scale 1.
    """
    scale = np.abs(matrix).max(axis=1) / levels
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    return np.rint(matrix / scale[:, None]).astype(np.int8), scale


class _Constants:
    """Initializers of a graph, each name added once."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._names = {tensor.name for tensor in graph.initializer}

    def add(self, name: str, value: npt.ArrayLike) -> str:
        if name not in self._names:
            self._names.add(name)
            self._graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def _scaled_tokens(name: str, entering: str, hidden: int, constants: _Constants) -> list[onnx.NodeProto]:
    """``name_uint8`` ``[tokens, hidden]`` around 128, its scales ``name_column`` ``[tokens, 1]``, ``name_outer``."""
    last = constants.add(f"{_PREFIX}_last_axis", np.array([-1], np.int64))
    levels = constants.add(f"{_PREFIX}_levels", np.float32(_LEVELS))
    smallest = constants.add(f"{_PREFIX}_smallest", np.float32(1e-12))
    zero = constants.add(f"{_PREFIX}_zero", np.uint8(_ZERO))
    flat = constants.add(f"{_PREFIX}_flat_{hidden}", np.array([-1, hidden], np.int64))
    return [
        helper.make_node("Shape", [entering], [f"{name}_outer"], start=0, end=-1),
        helper.make_node("Reshape", [entering, flat], [f"{name}_flat"]),
        # Largest magnitude by two reductions: ReduceMax of Abs would write the magnitudes out first.
        helper.make_node("ReduceMax", [f"{name}_flat", last], [f"{name}_high"], keepdims=0),
        helper.make_node("ReduceMin", [f"{name}_flat", last], [f"{name}_low"], keepdims=0),
        helper.make_node("Neg", [f"{name}_low"], [f"{name}_minus_low"]),
        helper.make_node("Max", [f"{name}_high", f"{name}_minus_low", smallest], [f"{name}_largest"]),
        helper.make_node("Div", [f"{name}_largest", levels], [f"{name}_scale"]),
        helper.make_node("Shape", [f"{name}_scale"], [f"{name}_tokens"]),
        helper.make_node("Expand", [zero, f"{name}_tokens"], [f"{name}_zeros"]),
        helper.make_node(
            "QuantizeLinear", [f"{name}_flat", f"{name}_scale", f"{name}_zeros"], [f"{name}_uint8"], axis=0
        ),
        helper.make_node("Unsqueeze", [f"{name}_scale", last], [f"{name}_column"]),
    ]


def _product(name: str, scaled: str, leaving: str, width: int, constants: _Constants) -> list[onnx.NodeProto]:
    zero = f"{_PREFIX}_zero"
    columns = constants.add(f"{_PREFIX}_width_{width}", np.array([width], np.int64))
    return [
        helper.make_node("MatMulInteger", [f"{scaled}_uint8", f"{name}_matrix", zero], [f"{name}_int32"]),
        helper.make_node("DequantizeLinear", [f"{name}_int32", f"{name}_scale"], [f"{name}_unscaled"], axis=1),
        helper.make_node("Mul", [f"{name}_unscaled", f"{scaled}_column"], [f"{name}_scaled"]),
        helper.make_node("Add", [f"{name}_scaled", f"{name}_shift"], [f"{name}_corrected"]),
        helper.make_node("Concat", [f"{scaled}_outer", columns], [f"{name}_shape"], axis=0),
        helper.make_node("Reshape", [f"{name}_corrected", f"{name}_shape"], [leaving]),
    ]
