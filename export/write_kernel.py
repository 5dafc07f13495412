"""int8 for our own kernels: the weights of a BERT-like encoder, taken from the checkpoint and not from its graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import numpy_helper
from torch import nn
from transformers.activations import get_activation

from ..models.checkpoint import Checkpoint
from ..runtime.artifact import TransformerPart
from ..runtime.encoder.native.transformer import matrices, offsets, pack, problem_with, sections
from ..runtime.errors import ExportError
from .int8_products import quantize_rows_of
from .onnx_graph import encoder_products
from .source import QuantizationSource

F32 = npt.NDArray[np.float32]
# The hidden size up to which int8 is safe without a look at the ranking: BERT-tiny has 128.
LARGEST = 256


@dataclass(frozen=True)
class _Names:
    """Where an architecture keeps its weights (``{}``: the layer's number) and its sizes."""

    words: str
    positions: str
    types: str | None
    norms: tuple[str, str, str, str]  # of the embeddings, after attention, after the feed-forward part, of the head
    mixed: tuple[str, str, str]  # queries, keys, values
    others: tuple[str, str, str]  # what joins the heads, the two of the feed-forward part
    head: str
    decoder: str
    layers: str
    hidden: str
    heads: str
    inner: str
    activation: str


_BERT = "bert.encoder.layer.{}."
_DISTILBERT = "distilbert.transformer.layer.{}."
_ARCHITECTURES: Mapping[str, _Names] = {
    "BertForMaskedLM": _Names(
        "bert.embeddings.word_embeddings",
        "bert.embeddings.position_embeddings",
        "bert.embeddings.token_type_embeddings",
        (
            "bert.embeddings.LayerNorm",
            _BERT + "attention.output.LayerNorm",
            _BERT + "output.LayerNorm",
            "cls.predictions.transform.LayerNorm",
        ),
        (_BERT + "attention.self.query", _BERT + "attention.self.key", _BERT + "attention.self.value"),
        (_BERT + "attention.output.dense", _BERT + "intermediate.dense", _BERT + "output.dense"),
        "cls.predictions.transform.dense",
        "cls.predictions.decoder",
        "num_hidden_layers",
        "hidden_size",
        "num_attention_heads",
        "intermediate_size",
        "hidden_act",
    ),
    "DistilBertForMaskedLM": _Names(
        "distilbert.embeddings.word_embeddings",
        "distilbert.embeddings.position_embeddings",
        None,
        (
            "distilbert.embeddings.LayerNorm",
            _DISTILBERT + "sa_layer_norm",
            _DISTILBERT + "output_layer_norm",
            "vocab_layer_norm",
        ),
        (_DISTILBERT + "attention.q_lin", _DISTILBERT + "attention.k_lin", _DISTILBERT + "attention.v_lin"),
        (_DISTILBERT + "attention.out_lin", _DISTILBERT + "ffn.lin1", _DISTILBERT + "ffn.lin2"),
        "vocab_transform",
        "vocab_projector",
        "n_layers",
        "dim",
        "n_heads",
        "hidden_dim",
        "activation",
    ),
}


def obstacle(checkpoint: Checkpoint, largest: int | None = None) -> str:
    """Say what keeps a checkpoint from running in the runtime's own kernels.

    Parameters
    ----------
    checkpoint : Checkpoint
        The checkpoint.
    largest : int, optional
        The largest hidden size to allow.

    Returns
    -------
    str
        The reason; "" if there is none.
    """
    model = checkpoint.model
    names = _ARCHITECTURES.get(type(model).__name__)
    if names is None:
        return f"our kernels compute {', '.join(_ARCHITECTURES)}, not {type(model).__name__}"
    if not type(model).__module__.startswith("transformers.models."):
        return f"our kernels compute the {type(model).__name__} of transformers, not the checkpoint's own code"
    config = model.config
    if checkpoint.pooling != "max":
        return f"our kernels pool by the maximum, not by {checkpoint.pooling}"
    if not _is_gelu(getattr(config, names.activation)):
        return f"our kernels compute gelu, not {getattr(config, names.activation)}"
    if getattr(config, "position_embedding_type", None) not in (None, "absolute") or getattr(
        config, "is_decoder", False
    ):
        return "our kernels add absolute positions and look both ways"
    if reason := _misfit(model, names):
        return reason
    part = _part(model, names)
    if largest is not None and part.hidden > largest:
        return f"it has {part.hidden} hidden values"
    return problem_with(part)


def _is_gelu(name: object) -> bool:
    """Whether an activation of transformers is x (1 + erf(x / sqrt 2)) / 2, under whatever name."""
    x = torch.linspace(-6, 6, 241)
    with torch.inference_mode():
        found: torch.Tensor = get_activation(name)(x)
    return bool(torch.allclose(found, nn.functional.gelu(x), atol=1e-6))


def _misfit(model: Any, names: _Names) -> str:
    """What about a model's tensors and normalizations is not as its sizes say, "" if nothing."""
    part, weights = _part(model, names), model.state_dict()
    decoder = weights[f"{names.decoder}.weight"].shape
    if weights[f"{names.words}.weight"].shape != decoder:
        return f"it has {len(weights[f'{names.words}.weight'])} word embeddings and {decoder[0]} rows in its decoder"
    shapes = iter(matrices(part))
    for together in _products_of(names, part.layers):
        rows, columns = next(shapes)
        if any(weights[f"{name}.weight"].shape != (rows // len(together), columns) for name in together):
            return f"{together[0]} is not of the size that config.json says"
        if any(f"{name}.bias" not in weights for name in together):
            return f"{together[0]} has no bias"
    if f"{names.decoder}.bias" not in weights:
        return "its decoder has no bias"
    if any(model.get_submodule(name).eps != part.epsilon for name in _norms_of(names, part.layers)):
        return "its normalizations have more than one epsilon"
    return ""


def write_kernel(source: QuantizationSource, target: Path) -> TransformerPart:
    """Write an encoder for the runtime's own kernels.

    All matrices get 8 bits and a scale for each row, which is exact on every CPU: without VNNI the kernels multiply in
    16 bits. The shift of a product's mean that rounding makes is subtracted, as in :mod:`int8_products`.

    Parameters
    ----------
    source : QuantizationSource
        The traced graph; the weights are taken from its checkpoint.
    target : Path
        The file to write.

    Returns
    -------
    TransformerPart
        The sizes of the encoder, for the manifest.

    Raises
    ------
    ExportError
        Where :func:`obstacle` sees one.
    """
    reason = "a graph without its checkpoint" if source.checkpoint is None else obstacle(source.checkpoint)
    if source.checkpoint is None or reason:
        raise ExportError(f"not for our kernels ({reason}); choose another --recipe, or export with --no-int8")
    model = source.checkpoint.model
    names = _ARCHITECTURES[type(model).__name__]
    part = _part(model, names)
    weights = {name: tensor.detach().float().numpy() for name, tensor in model.state_dict().items()}
    vocab_size = len(weights[f"{names.decoder}.weight"])
    arrays: dict[str, npt.NDArray[Any]] = {
        "positions": weights[f"{names.positions}.weight"],
        "decoder_bias": weights[f"{names.decoder}.bias"],
        "norms": _norms(weights, names, part.layers),
        **_products(weights, names, part.layers, _means(source)),
    }
    if names.types is not None:
        arrays["positions"] = arrays["positions"] + weights[f"{names.types}.weight"][0]
    for name, tensor in (("decoder", names.decoder), ("words", names.words)):
        arrays[name], arrays[f"{name}_scale"] = quantize_rows_of(weights[f"{tensor}.weight"], 127)
    starts, size = offsets(part, vocab_size)
    data = np.zeros(size, np.uint8)
    for name, (dtype, shape) in sections(part, vocab_size).items():
        if arrays[name].shape != shape:
            raise ExportError(f"the checkpoint's {name} have the shape {arrays[name].shape}, not {shape}")
        found = np.ascontiguousarray(arrays[name], dtype).reshape(-1).view(np.uint8)
        data[starts[name] : starts[name] + found.size] = found
    target.write_bytes(data.data)
    return part


def _part(model: Any, names: _Names) -> TransformerPart:
    config, weights = model.config, model.state_dict()
    words, decoder = weights[f"{names.words}.weight"], weights[f"{names.decoder}.weight"]
    return TransformerPart(
        layers=int(getattr(config, names.layers)),
        hidden=int(getattr(config, names.hidden)),
        heads=int(getattr(config, names.heads)),
        inner=int(getattr(config, names.inner)),
        positions=len(weights[f"{names.positions}.weight"]),
        epsilon=float(model.get_submodule(names.norms[0]).eps),
        tied=words.shape == decoder.shape and bool((words == decoder).all()),
    )


def _norms_of(names: _Names, layers: int) -> list[str]:
    """The names of all normalizations, in the order of the file."""
    embeddings, attention, forward, head = names.norms
    return [embeddings, *(n.format(i) for i in range(layers) for n in (attention, forward)), head]


def _products_of(names: _Names, layers: int) -> list[list[str]]:
    """The names of all linear layers, in the order of ``transformer.matrices``; those of one matrix together."""
    order: list[list[str]] = []
    for layer in range(layers):
        order.append([name.format(layer) for name in names.mixed])
        order += [[name.format(layer)] for name in names.others]
    return [*order, [names.head]]


def _norms(weights: Mapping[str, F32], names: _Names, layers: int) -> F32:
    order = _norms_of(names, layers)
    return np.stack([np.stack([weights[f"{n}.weight"], weights[f"{n}.bias"]]) for n in order])


def _products(
    weights: Mapping[str, F32], names: _Names, layers: int, means: Mapping[bytes, npt.NDArray[np.float64]]
) -> dict[str, npt.NDArray[Any]]:
    """All matrices packed, in the order of ``transformer.matrices``; scale, corrected bias and offset of each row."""
    rows, scales, biases, sums = [], [], [], []
    for together in _products_of(names, layers):
        quantized, scale, bias = [], [], []
        for name in together:
            matrix = weights[f"{name}.weight"]
            part, of_rows = quantize_rows_of(matrix, 127)
            mean = means.get(matrix.tobytes())
            shift = 0.0 if mean is None else (matrix - part * of_rows[:, None]).astype(np.float64) @ mean
            quantized.append(part)
            scale.append(of_rows)
            bias.append((weights[f"{name}.bias"] + shift).astype(np.float32))
        matrix_of_all = np.concatenate(quantized)
        rows.append(pack(matrix_of_all))
        scales += scale
        biases += bias
        sums.append(-128 * matrix_of_all.sum(axis=1, dtype=np.int32))
    return {
        "rows": np.concatenate(rows),
        "scale": np.concatenate(scales),
        "bias": np.concatenate(biases),
        "offset": np.concatenate(sums),
    }


def _means(source: QuantizationSource) -> dict[bytes, npt.NDArray[np.float64]]:
    """By the bytes of a matrix ``[rows, columns]``: the mean of what the calibration text multiplies it with."""
    graph = onnx.load(source.path).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    means = {}
    for node in encoder_products(graph):
        matrix = np.ascontiguousarray(numpy_helper.to_array(tensors[node.input[1]]).T)
        means[matrix.tobytes()] = source.statistics[node.name].mean
    return means
