"""Laying out an int8 ONNX file so that its vocabulary decoder can also run outside the graph, for some terms only.

Protocol Buffers read a message that comes in two parts as one: repeated fields are appended, and a field that is itself
a message is merged. So the file begins with a graph that ends before the decoder (the "body", a model of its own), and
goes on with the decoder's nodes and tensors: its first bytes are one model, all of it is the other, nothing is stored
twice, and a reader needs no parser.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..runtime.artifact import BODY_OUTPUT_NAMES, DecoderPart, Variant
from ..runtime.errors import ExportError
from .onnx_graph import ancestors


@dataclass(frozen=True)
class _Decoder:
    """Names inside the graph that ``quantize_vocabulary`` makes: of the activations and their scale ``[batch, 1, 1]``,
    and of the initializers.
    """

    activations: str
    text_scale: str
    weights: str
    scale: str
    bias: str | None


def lay_out_decoder(directory: Path, variant: Variant) -> Variant:
    """Rewrite a graph file so that its decoder can also run outside it, and say where its parts are.

    Only a decoder that ``quantize_vocabulary`` made is laid out so; a graph of another kind is left alone. The whole
    file computes what it did before, and has the outputs of the body besides.

    Parameters
    ----------
    directory : Path
        The artifact's directory.
    variant : Variant
        An int8 ONNX variant; its file is rewritten.

    Returns
    -------
    Variant
        The variant with the byte offsets of the decoder's tensors.

    Raises
    ------
    ExportError
        If the file that was written is not the graph that was read.
    """
    path = directory / variant.path
    if variant.decoder is not None or variant.backend != "onnx" or variant.precision != "int8":
        return variant
    model = onnx.load(path)
    decoder = _find(model.graph)
    if decoder is None or model.functions:
        return variant
    weights, scale, bias = (_value(model.graph, name) for name in (decoder.weights, decoder.scale, decoder.bias))
    assert weights is not None
    assert scale is not None
    if weights.shape[1] % 4:  # the runtime multiplies by fours
        return variant
    tensors = {decoder.scale: scale.reshape(1, -1)}
    if bias is None:
        bias = np.zeros(len(weights), np.float32)
    tensors[decoder.bias or "no_bias"] = bias
    body, rest = _parts(model, decoder, tensors)
    head = body.SerializeToString(deterministic=True)
    data = head + rest.SerializeToString(deterministic=True)
    path.write_bytes(data)
    _check(path, model, decoder)
    return msgspec.structs.replace(
        variant,
        decoder=DecoderPart(
            body=len(head),
            hidden=weights.shape[1],
            weights=_place(data, weights.astype(np.int8, copy=False)),
            scale=_place(data, scale.astype("<f4")),
            bias=_place(data, bias.astype("<f4")),
        ),
    )


def _find(graph: onnx.GraphProto) -> _Decoder | None:
    """The decoder in a graph: activations, times int8 rows behind a transpose, and their maximum over the sequence."""
    producers = {output: node for node in graph.node for output in node.output}
    tensors = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "MatMulInteger":
            continue
        transpose = producers.get(node.input[1])
        if transpose is None or transpose.op_type != "Transpose" or transpose.input[0] not in tensors:
            continue
        weights = transpose.input[0]
        name = weights.removesuffix("_int8")
        text_scale, scale = f"{name}_text_scale", f"{name}_scale"
        if weights == name or text_scale not in producers or (scale not in tensors and scale not in producers):
            continue
        pooled = next((n for n in graph.node if f"{name}_product_scale" in n.input), None)
        if pooled is None:
            continue
        bias = next(
            (other for n in graph.node if n.op_type == "Add" and pooled.output[0] in n.input
             for other in n.input if other != pooled.output[0]),
            None,
        )  # fmt: skip
        return _Decoder(node.input[0], text_scale, weights, scale, bias)
    return None


def _value(graph: onnx.GraphProto, name: str | None) -> npt.NDArray[np.generic] | None:
    """An initializer, also where it is stored as float16 behind a cast (:mod:`half_storage`)."""
    if name is None:
        return None
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    if name in tensors:
        value: npt.NDArray[np.generic] = numpy_helper.to_array(tensors[name])
        return value
    cast = next((node for node in graph.node if name in node.output), None)
    if cast is None or cast.op_type != "Cast" or cast.input[0] not in tensors:
        raise ExportError(f"the graph's {name} is not a constant; export with --no-int8")
    widened: npt.NDArray[np.generic] = numpy_helper.to_array(tensors[cast.input[0]]).astype(np.float32)
    return widened


def _parts(
    model: onnx.ModelProto, decoder: _Decoder, tensors: dict[str, npt.NDArray[np.generic]]
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The body, and what it lacks of the whole model. ``tensors`` are stored in the second part, as float32."""
    graph = model.graph
    names = dict(zip((decoder.activations, decoder.text_scale), BODY_OUTPUT_NAMES, strict=True))
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(value, value) for value in values]
    nodes = [node for node in graph.node if not set(node.output) & tensors.keys()]
    inside = ancestors(nodes, BODY_OUTPUT_NAMES)
    used = {value for node in inside for value in node.input}
    body = onnx.ModelProto()
    body.CopyFrom(model)
    rest = onnx.ModelProto()
    for part, chosen in ((body.graph, inside), (rest.graph, [node for node in nodes if node not in inside])):
        del part.node[:]
        part.node.extend(chosen)
    del body.graph.initializer[:], body.graph.value_info[:], body.graph.output[:]
    body.graph.initializer.extend(t for t in graph.initializer if t.name in used)
    body.graph.output.extend(
        (
            helper.make_tensor_value_info(BODY_OUTPUT_NAMES[0], TensorProto.UINT8, ["batch", "length", "hidden"]),
            helper.make_tensor_value_info(BODY_OUTPUT_NAMES[1], TensorProto.FLOAT, ["batch", 1, 1]),
        )
    )
    outside = {value for node in rest.graph.node for value in node.input} - used
    rest.graph.initializer.extend(t for t in graph.initializer if t.name in outside and t.name not in tensors)
    rest.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in tensors.items())
    rest.graph.output.extend(graph.output)
    return body, rest


def _place(data: bytes, array: npt.NDArray[np.generic]) -> int:
    """Where an array's bytes begin; any place with the same bytes is as good."""
    start = data.find(array.tobytes())
    if start < 0:
        raise ExportError("a tensor of the decoder is not in the file as it should be")
    return start


def _check(path: Path, model: onnx.ModelProto, decoder: _Decoder) -> None:
    """Both readings of the file must be sound, and the whole one must have every node that was there."""
    whole = onnx.load(path)
    onnx.checker.check_model(whole)
    lost = len(model.graph.node) - len(whole.graph.node)
    casts = sum(
        node.op_type == "Cast" and bool({decoder.scale, decoder.bias} & set(node.output)) for node in model.graph.node
    )
    if lost != casts:
        raise ExportError(f"{path.name} was not written as it was read ({lost} nodes are gone)")
