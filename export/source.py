"""A float32 graph about to be quantized, and what calibration text says of it: computed when a recipe asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from ..models.checkpoint import Checkpoint
from ..runtime.artifact import OUTPUT_NAME
from ..runtime.telemetry import no_telemetry

# int64 ``input_ids`` and ``attention_mask``, ``[1, length]``, of one text.
Inputs = Mapping[str, npt.NDArray[np.int64]]
F32 = npt.NDArray[np.float32]
# Texts that the sensitivity of each product is measured on, and the tokens of each that are used.
_TEXTS, _TOKENS = 16, 64


@dataclass(frozen=True)
class Statistics:
    """A product's input over the calibration text: mean and largest magnitude of each channel, ``[hidden]``."""

    mean: npt.NDArray[np.float64]
    largest: F32


class QuantizationSource:
    """The float32 ONNX graph at ``path``, its calibration ``inputs``, and the ``checkpoint`` it was traced from."""

    def __init__(self, path: Path, inputs: Sequence[Inputs], checkpoint: Checkpoint | None = None) -> None:
        self.path = path
        self.inputs = inputs
        self.checkpoint = checkpoint

    @property
    def batch_invariant(self) -> bool:
        """Whether the float32 graph gives a text the same vector in any batch."""
        return self.checkpoint is None or not self.checkpoint.depends_on_padding

    @cached_property
    def pools_first(self) -> bool:
        """Whether the maximum is taken of what the decoder gives, before its bias: the graph ends in one matrix."""
        return splits(onnx.load(self.path).graph)

    @cached_property
    def products(self) -> list[str]:
        """Names of the encoder's products with a weight matrix, in the order of the graph; the decoder is not one."""
        return [node.name for node in encoder_products(onnx.load(self.path).graph)]

    @cached_property
    def statistics(self) -> dict[str, Statistics]:
        """What goes into each of ``products``, by its name."""
        model = onnx.load(self.path)
        return statistics_of(model, {node.name: node.input[0] for node in encoder_products(model.graph)}, self.inputs)

    @cached_property
    def by_sensitivity(self) -> list[str]:
        """``products``, the one first that alone in int8 turns the vectors of the calibration text furthest."""
        from .quantize_rows import quantize_products

        texts = [{key: ids[:, :_TOKENS] for key, ids in inputs.items()} for inputs in spread(self.inputs, _TEXTS)]
        exact = _vectors(onnx.load(self.path), texts)
        turned = {}
        for name in self.products:
            model = onnx.load(self.path)
            quantize_products(model, {name}, weight_bits=8, statistics=self.statistics)
            turned[name] = 1 - float(_cosines(_vectors(model, texts), exact).mean())
        return sorted(self.products, key=lambda name: -turned[name])

    def left_out(self, share: float) -> frozenset[str]:
        """The most sensitive ``share`` of ``products``, rounded up."""
        if share <= 0:
            return frozenset()
        if share >= 1:
            return frozenset(self.products)
        return frozenset(self.by_sensitivity[: -int(-share * len(self.products) // 1)])


def encoder_products(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The MatMul nodes whose right operand is a stored matrix, without the one whose maximum is taken (the decoder)."""
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
    """What goes into products over texts; ``entering`` names the tensor of each."""
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


def splits(graph: onnx.GraphProto) -> bool:
    """Whether a graph takes the maximum of a product with a stored matrix (or with a stored matrix's transpose)."""
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
    """The nodes that these values depend on, in order."""
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
    """An ONNX Runtime session of a model in memory."""
    with no_telemetry():
        import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` of ``items``, evenly spread."""
    places = np.linspace(0, len(items) - 1, min(count, len(items)), dtype=int)
    return [items[place] for place in places]


def _vectors(model: onnx.ModelProto, texts: Sequence[Inputs]) -> F32:
    session = open_session(model)
    return np.concatenate([session.run([OUTPUT_NAME], dict(inputs))[0] for inputs in texts])


def _cosines(a: F32, b: F32) -> npt.NDArray[np.float64]:
    dots = np.einsum("ij,ij->i", a, b, dtype=np.float64)
    norms = np.linalg.norm(a.astype(np.float64), axis=1) * np.linalg.norm(b.astype(np.float64), axis=1)
    cosines: npt.NDArray[np.float64] = dots / np.maximum(norms, 1e-12)
    return cosines
