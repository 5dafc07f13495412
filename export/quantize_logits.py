"""int8 for the decoder of a graph that computes whole logits, because its maximum cannot be taken first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..runtime.errors import ExportError
from .int8_products import quantize_products
from .onnx_graph import ancestors, open_session, statistics_of
from .source import QuantizationSource


def quantize_logits(source: QuantizationSource, target: Path, *, weight_bits: int) -> None:
    """Multiply by the vocabulary matrix in int8, with a scale for every token and every term.

    All else stays float32. A text's vector does not depend on its batch.

    Parameters
    ----------
    source : QuantizationSource
        The float32 graph.
    target : Path
        The ONNX file to write.
    weight_bits : {7, 8}
        See :func:`quantize_vocabulary`.

    Raises
    ------
    ExportError
        If no product with a stored matrix gives the logits.
    """
    model = onnx.load(source.path)
    decoder = _fold_decoder(model)
    statistics = statistics_of(model, {decoder.name: decoder.input[0]}, source.inputs)
    quantize_products(model, {decoder.name}, weight_bits=weight_bits, statistics=statistics)
    onnx.save(model, target)


def _fold_decoder(model: onnx.ModelProto) -> onnx.NodeProto:
    """The last product that is as wide as the vocabulary, its matrix made an initializer of its own."""
    graph = model.graph
    vocabulary = graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in reversed([node for node in graph.node if node.op_type == "MatMul"]):
        matrix = _constant(model, node.input[1], constants)
        if matrix is None or matrix.ndim != 2 or matrix.shape[1] != vocabulary:
            continue
        if node.input[1] not in constants:
            folded = f"{node.name}_matrix"
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(matrix), folded))
            node.input[1] = folded
            _remove_unused(graph)
        return node
    raise ExportError("no product of the graph with a stored matrix gives the logits; export with --no-int8")


def _constant(
    model: onnx.ModelProto, name: str, constants: Mapping[str, onnx.TensorProto]
) -> npt.NDArray[np.float32] | None:
    """A value of a graph if it follows from stored tensors alone (a transposed or a joined matrix), else None."""
    if name in constants:
        stored: npt.NDArray[np.float32] = numpy_helper.to_array(constants[name])
        return stored
    nodes = ancestors(list(model.graph.node), (name,))
    given = {value for node in nodes for value in node.input} - {value for node in nodes for value in node.output}
    if not nodes or not given - {""} <= constants.keys():
        return None
    part = onnx.ModelProto()
    part.CopyFrom(model)
    for field in (part.graph.node, part.graph.input, part.graph.output, part.graph.initializer, part.graph.value_info):
        del field[:]
    part.graph.node.extend(nodes)
    part.graph.initializer.extend(constants[value] for value in sorted(given - {""}))
    part.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    computed: npt.NDArray[np.float32] = open_session(part).run([name], {})[0]
    return computed


def _remove_unused(graph: onnx.GraphProto) -> None:
    """Drop the nodes and tensors that no output depends on."""
    kept = ancestors(list(graph.node), tuple(output.name for output in graph.output))
    used = {value for node in kept for value in node.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(tensors)
