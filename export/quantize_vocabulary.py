"""The vocabulary matrix in int8: our own form, which serves the decoder and the word embeddings with one copy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..runtime.errors import ExportError
from .int8_products import quantize_rows_of
from .source import QuantizationSource

# Activations are unsigned bytes around 128.
_ACTIVATION_LEVELS = 127
_ACTIVATION_ZERO = 128


@dataclass(frozen=True)
class _Decoder:
    """The vocabulary projection inside a graph, ``reduce(input @ matrix)``.

    The matrix is an initializer: ``weight`` ``[hidden, vocab]``, or ``weight`` ``[vocab, hidden]`` behind ``transpose``
    where the word embeddings are the same tensor.
    """

    weight: str
    transpose: onnx.NodeProto | None
    matmul: onnx.NodeProto
    reduce: onnx.NodeProto


def quantize_vocabulary(source: QuantizationSource, target: Path, *, weight_bits: int) -> None:
    """Hold the vocabulary matrix in int8 and multiply by it in int8; everything else stays float32.

    The decoder is most of a small encoder's work, and the vocabulary matrix most of any encoder's size. Each term has a
    scale of its own, so one int8 copy serves both the decoder and, where the checkpoint ties them, the word embeddings.
    Activations are scaled per text: a padded row repeats an attended one, so a text's scale, and its vector, do not
    depend on its batch. The maximum over the sequence is taken on the int32 products, since scales are positive.

    Parameters
    ----------
    source : QuantizationSource
        The float32 graph.
    target : Path
        The ONNX file to write.
    weight_bits : {7, 8}
        7 is right on every CPU: x86 without VNNI adds two products of an unsigned and a signed byte in 16 bits with
        saturation, and 255 x 63 x 2 still fits where 255 x 127 x 2 does not. With 8 the graph needs VNNI.

    Raises
    ------
    ExportError
        If the graph does not pool first (sum pooling).
    """
    model = onnx.load(source.path)
    graph = model.graph
    decoder = _find_decoder(graph)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    matrix = numpy_helper.to_array(weights[decoder.weight])
    tied = decoder.transpose is not None
    quantized, scale = quantize_rows_of(matrix if tied else matrix.T, 2 ** (weight_bits - 1) - 1)
    name = decoder.weight
    graph.initializer.remove(weights[name])
    graph.initializer.extend(
        numpy_helper.from_array(array, f"{name}_{part}")
        for part, array in (
            ("int8", quantized),
            ("row_scale", scale[:, None]),
            ("scale", scale[None, :]),
            ("levels", np.float32(_ACTIVATION_LEVELS)),
            ("zero", np.float32(_ACTIVATION_ZERO)),
            ("zero_uint8", np.uint8(_ACTIVATION_ZERO)),
            ("smallest", np.float32(1e-12)),
            ("text_axes", np.array([1, 2], np.int64)),
            ("length_axis", np.array([1], np.int64)),
        )
    )
    hidden, pooled = decoder.matmul.input[0], decoder.reduce.output[0]
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node is decoder.transpose:
            continue
        if node is decoder.matmul:
            nodes.append(helper.make_node("Transpose", [f"{name}_int8"], [f"{name}_columns"], perm=[1, 0]))
            nodes += _quantized_activations(name, hidden)
        elif node is decoder.reduce:
            nodes += _pooled_products(name, pooled, keepdims=_keeps_dimensions(node))
        elif tied and node.op_type == "Gather" and node.input[0] == name:
            nodes += _gathered_rows(name, node)
        elif name in node.input:
            raise ExportError(f"the vocabulary matrix also feeds a {node.op_type}; export with --no-int8")
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    # Shapes of removed values would be wrong; the engine infers them again.
    del graph.value_info[:]
    onnx.checker.check_model(model)
    onnx.save(model, target)


def _find_decoder(graph: onnx.GraphProto) -> _Decoder:
    """The matrix product whose maximum over the sequence is taken, with its weight's transpose."""
    weights = {tensor.name for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    for reduce in graph.node:
        matmul = producers.get(reduce.input[0]) if reduce.op_type == "ReduceMax" else None
        if matmul is None or matmul.op_type != "MatMul":
            continue
        if matmul.input[1] in weights:
            return _Decoder(matmul.input[1], None, matmul, reduce)
        transpose = producers.get(matmul.input[1])
        if transpose is not None and transpose.op_type == "Transpose" and transpose.input[0] in weights:
            return _Decoder(transpose.input[0], transpose, matmul, reduce)
    raise ExportError("the graph does not take the maximum of its decoder first; export with --no-int8")


def _gathered_rows(name: str, gather: onnx.NodeProto) -> list[onnx.NodeProto]:
    # Encoder and decoder of a BART each look words up in the same matrix.
    ids, out = gather.input[1], gather.output[0]
    rows = f"{name}_rows_{out}"
    return [
        helper.make_node("Gather", [f"{name}_int8", ids], [f"{rows}_int8"], axis=0),
        helper.make_node("Gather", [f"{name}_row_scale", ids], [f"{rows}_scale"], axis=0),
        helper.make_node("Cast", [f"{rows}_int8"], [rows], to=TensorProto.FLOAT),
        helper.make_node("Mul", [rows, f"{rows}_scale"], [out]),
    ]


def _quantized_activations(name: str, hidden: str) -> list[onnx.NodeProto]:
    """uint8 activations with one scale a text, times the int8 matrix: int32 ``[batch, length, vocab]``."""
    return [
        helper.make_node("Abs", [hidden], [f"{name}_magnitude"]),
        helper.make_node("ReduceMax", [f"{name}_magnitude", f"{name}_text_axes"], [f"{name}_largest"], keepdims=1),
        helper.make_node("Max", [f"{name}_largest", f"{name}_smallest"], [f"{name}_range"]),
        helper.make_node("Div", [f"{name}_range", f"{name}_levels"], [f"{name}_text_scale"]),
        helper.make_node("Div", [hidden, f"{name}_text_scale"], [f"{name}_levelled"]),
        helper.make_node("Round", [f"{name}_levelled"], [f"{name}_rounded"]),
        helper.make_node("Add", [f"{name}_rounded", f"{name}_zero"], [f"{name}_shifted"]),
        helper.make_node("Cast", [f"{name}_shifted"], [f"{name}_uint8"], to=TensorProto.UINT8),
        helper.make_node(
            "MatMulInteger", [f"{name}_uint8", f"{name}_columns", f"{name}_zero_uint8"], [f"{name}_products"]
        ),
    ]


def _pooled_products(name: str, pooled: str, *, keepdims: bool) -> list[onnx.NodeProto]:
    """The maximum of the products over the sequence, scaled back to float32 ``[batch, vocab]``."""
    if keepdims:
        raise ExportError("the maximum over the sequence keeps its axis; export with --no-int8")
    axis = f"{name}_length_axis"
    return [
        helper.make_node("ReduceMax", [f"{name}_products", axis], [f"{name}_best"], keepdims=0),
        helper.make_node("Cast", [f"{name}_best"], [f"{name}_best_float"], to=TensorProto.FLOAT),
        helper.make_node("Squeeze", [f"{name}_text_scale", axis], [f"{name}_flat_scale"]),
        helper.make_node("Mul", [f"{name}_flat_scale", f"{name}_scale"], [f"{name}_product_scale"]),
        helper.make_node("Mul", [f"{name}_best_float", f"{name}_product_scale"], [pooled]),
    ]


def _keeps_dimensions(node: onnx.NodeProto) -> bool:
    return next((bool(a.i) for a in node.attribute if a.name == "keepdims"), True)
