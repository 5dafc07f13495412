"""A tiny encoder as :mod:`tests.tiny`, quantized and laid out so that its decoder can run outside the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from splade_edge.runtime.artifact import Kind, Role, Variant

from .tiny import VOCABULARY, save_graph, tiny_weights, write_manifest, write_tokenizer


def write_pooled_graph(path: Path, vocab_size: int, seed: int = 0) -> None:
    """Float32, as the exporter traces it: padded rows repeat the first, the maximum comes right after the decoder, and
    word embeddings are the decoder's rows.
    """
    from onnx import helper

    embedding, bias = tiny_weights(vocab_size, seed)
    constants = {
        "decoder": embedding,
        "bias": bias,
        "one": np.array([1], np.float32),
        "zero": np.array([0], np.int64),
        "axis_last": np.array([2], np.int64),
        "axis_length": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["decoder", "input_ids"], ["rows"]),
        helper.make_node("Gather", ["rows", "zero"], ["first"], axis=1),
        helper.make_node("Unsqueeze", ["attention_mask", "axis_last"], ["mask_column"]),
        helper.make_node("Greater", ["mask_column", "zero"], ["attended"]),
        helper.make_node("Where", ["attended", "rows", "first"], ["hidden"]),
        helper.make_node("Transpose", ["decoder"], ["columns"], perm=[1, 0]),
        helper.make_node("MatMul", ["hidden", "columns"], ["logits"]),
        helper.make_node("ReduceMax", ["logits", "axis_length"], ["pooled"], keepdims=0),
        helper.make_node("Add", ["pooled", "bias"], ["biased"]),
        helper.make_node("Relu", ["biased"], ["positive"]),
        helper.make_node("Add", ["positive", "one"], ["shifted"]),
        helper.make_node("Log", ["shifted"], ["weights"]),
    ]
    save_graph(path, nodes, constants, "weights", vocab_size)


def write_split_artifact(
    path: Path,
    role: Role = "both",
    *,
    seed: int = 0,
    dropped_terms: tuple[int, ...] = (),
    kind: Kind = "encoder",
    weight_bits: int = 7,
    **settings: Any,
) -> Path:
    """A whole artifact with one graph, int8, split. ``settings``: other fields of the manifest."""
    from splade_edge.export.decoder_layout import lay_out_decoder
    from splade_edge.export.quantize_vocabulary import quantize_vocabulary
    from splade_edge.export.source import QuantizationSource

    path.mkdir(parents=True)
    write_tokenizer(path / "tokenizer.json")
    write_pooled_graph(path / "onnx/int8.onnx", len(VOCABULARY), seed)
    quantize_vocabulary(
        QuantizationSource(path / "onnx/int8.onnx", []), path / "onnx/int8.onnx", weight_bits=weight_bits
    )
    variant = lay_out_decoder(path, Variant("onnx", "int8", "onnx/int8.onnx", "vocabulary", "any", True))
    assert variant.decoder is not None
    write_manifest(path, role, VOCABULARY, [variant], dropped_terms, kind, **settings)
    return path
