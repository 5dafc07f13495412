"""What is asked of a traced ONNX graph: its products, what goes into them over text, and whether it pools first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from ..runtime.telemetry import no_telemetry

# int64 ``input_ids`` and ``attention_mask``, ``[1, length]``, of one text.
Inputs = Mapping[str, npt.NDArray[np.int64]]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Statistics:
    """The input of a product over the calibration text.

    Attributes
    ----------
    mean : float64 array ``[hidden]``
        The mean of each channel.
    largest : float32 array ``[hidden]``
        The largest magnitude of each channel.
    """

    mean: npt.NDArray[np.float64]
    largest: F32


def encoder_products(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Find the products of the encoder: MatMul nodes whose right operand is a stored matrix.

    The product whose maximum over the sequence is taken is the decoder, and is left out.

    Parameters
    ----------
    graph : onnx.GraphProto
        The traced graph.

    Returns
    -------
    list of onnx.NodeProto
        The nodes, in the order of the graph.
    """
    matrices = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
    decoded = {node.input[0] for node in graph.node if node.op_type == "ReduceMax"}
    return [
        node
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in matrices and node.output[0] not in decoded
    ]


def statistics_of(
    model: onnx.ModelProto, entering: Mapping[str, str], inputs: Sequence[Inputs]
) -> dict[str, Statistics]:
    """Measure what goes into products over texts.

    Parameters
    ----------
    model : onnx.ModelProto
        The graph; it is not changed.
    entering : mapping of str to str
        For each product, the name of the tensor that goes into it.
    inputs : sequence of Inputs
        The texts.

    Returns
    -------
    dict of str to Statistics
        The statistics of each product.
    """
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    tensors = sorted(set(entering.values()))
    for name in tensors:
        watched.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = open_session(watched)
    total: dict[str, Any] = dict.fromkeys(tensors, 0.0)
    largest: dict[str, Any] = dict.fromkeys(tensors, np.float32(0))
    for text in inputs:
        for name, values in zip(tensors, session.run(tensors, dict(text)), strict=True):
            rows = values.reshape(-1, values.shape[-1])
            total[name] = total[name] + rows.sum(axis=0, dtype=np.float64)
            largest[name] = np.maximum(largest[name], np.abs(rows).max(axis=0))
    tokens = sum(text["input_ids"].size for text in inputs)
    return {product: Statistics(total[name] / tokens, largest[name]) for product, name in entering.items()}


def pools_first(graph: onnx.GraphProto) -> bool:
    """Tell whether a graph takes the maximum of a product with a stored matrix, or with its transpose.

    Parameters
    ----------
    graph : onnx.GraphProto
        The traced graph.

    Returns
    -------
    bool
        Whether it does.
    """
    stored = {tensor.name for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        product = producers.get(node.input[0]) if node.op_type == "ReduceMax" else None
        if product is None or product.op_type != "MatMul":
            continue
        matrix = producers.get(product.input[1])
        if product.input[1] in stored or (
            matrix is not None and matrix.op_type == "Transpose" and matrix.input[0] in stored
        ):
            return True
    return False


def ancestors(nodes: list[onnx.NodeProto], values: Sequence[str]) -> list[onnx.NodeProto]:
    """Find the nodes that values depend on.

    Parameters
    ----------
    nodes : list of onnx.NodeProto
        All nodes, in topological order.
    values : sequence of str
        Names of the values.

    Returns
    -------
    list of onnx.NodeProto
        The nodes, in order.
    """
    producers = {output: i for i, node in enumerate(nodes) for output in node.output}
    found: set[int] = set()
    waiting = list(values)
    while waiting:
        i = producers.get(waiting.pop())
        if i is not None and i not in found:
            found.add(i)
            waiting += nodes[i].input
    return [nodes[i] for i in sorted(found)]


def open_session(model: onnx.ModelProto) -> Any:
    """Open an ONNX Runtime session of a model in memory.

    Parameters
    ----------
    model : onnx.ModelProto
        The model.

    Returns
    -------
    onnxruntime.InferenceSession
        A session on the CPU.
    """
    with no_telemetry():
        import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
