"""A tiny encoder made by hand: embedding -> matmul -> mask -> max -> relu -> log1p, without PyTorch.

Every word of the vocabulary activates its own term and, through random directions, a few others.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from splade_edge.runtime.artifact import (
    ARTIFACT_FORMAT,
    VERSION,
    ArtifactManifest,
    Kind,
    Role,
    Source,
    Variant,
    write_artifact_manifest,
    write_pair_manifest,
)
from splade_edge.runtime.encoder.tokenizer import vocabulary_sha256
from splade_edge.runtime.numerics import NUMERICS
from splade_edge.runtime.telemetry import no_telemetry

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = (  # noqa: SIM905
    "the a of in and is cat dog fish bird tree river city engine wing flow heat boundary layer supersonic "
    "recipe bread flour oven water salt music piano string violin song winter snow summer sun rain cloud ##s ##ing"
).split()
VOCABULARY = SPECIAL + WORDS
MAX_LENGTH = 16
HAS_OPENVINO = importlib.util.find_spec("openvino") is not None


def write_tokenizer(path: Path, vocabulary: list[str] = VOCABULARY) -> None:
    """A BERT tokenizer, saved with truncation and padding that the runtime has to ignore."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(t, vocabulary.index(t)) for t in ("[CLS]", "[SEP]")],
    )
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=12, pad_id=0, pad_token="[PAD]")
    tokenizer.save(str(path))


def tiny_weights(vocab_size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embedding ``[vocab, 16]`` and decoder bias ``[vocab]``; special tokens embed to zero, so they earn nothing."""
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=(vocab_size, 16)).astype(np.float32)
    embedding[: len(SPECIAL)] = 0
    return embedding, np.full(vocab_size, -6.0, np.float32)


def reference(ids: list[int], vocab_size: int = len(VOCABULARY), seed: int = 0) -> np.ndarray:
    """What the graph computes for one unpadded text, in NumPy: float32 ``[vocab]``."""
    embedding, bias = tiny_weights(vocab_size, seed)
    logits = (embedding[ids] @ embedding.T).max(axis=0) + bias
    weights: np.ndarray = np.log1p(np.maximum(logits, 0))
    return weights


def write_graph(path: Path, vocab_size: int = len(VOCABULARY), seed: int = 0, output: str = "weights") -> None:
    from onnx import TensorProto, helper

    embedding, bias = tiny_weights(vocab_size, seed)
    constants = {
        "embedding": embedding,
        "decoder": np.ascontiguousarray(embedding.T),
        "bias": bias,
        "one": np.array([1], np.float32),
        "big": np.array([1e9], np.float32),
        "axis_last": np.array([2], np.int64),
        "axis_length": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "decoder"], ["logits"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["mask", "one"], ["mask_minus_one"]),
        helper.make_node("Mul", ["mask_minus_one", "big"], ["penalty"]),
        helper.make_node("Unsqueeze", ["penalty", "axis_last"], ["penalty_column"]),
        helper.make_node("Add", ["logits", "penalty_column"], ["masked"]),
        helper.make_node("ReduceMax", ["masked", "axis_length"], ["pooled"], keepdims=0),
        helper.make_node("Add", ["pooled", "bias"], ["biased"]),
        helper.make_node("Relu", ["biased"], ["positive"]),
        helper.make_node("Add", ["positive", "one"], ["shifted"]),
        helper.make_node("Log", ["shifted"], [output]),
    ]
    save_graph(path, nodes, constants, output, vocab_size)


def save_graph(path: Path, nodes: list[Any], constants: dict[str, np.ndarray], output: str, vocab_size: int) -> None:
    """Write an encoder's graph of these nodes: token ids and mask in, ``output`` out."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "length"])
            for n in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", vocab_size])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def write_artifact(
    path: Path,
    role: Role = "both",
    *,
    openvino: bool = False,
    batch_invariant: bool = True,
    vocabulary: list[str] = VOCABULARY,
    seed: int = 0,
    dropped_terms: tuple[int, ...] = (),
    kind: Kind = "encoder",
    query_idf: float = 0.0,
    **settings: Any,
) -> Path:
    """A whole artifact of the tiny encoder, with an ONNX graph and, if asked, an OpenVINO one. ``settings``: other
    fields of the manifest.
    """
    path.mkdir(parents=True)
    write_tokenizer(path / "tokenizer.json", vocabulary)
    write_graph(path / "onnx/fp32.onnx", len(vocabulary), seed)
    variants = [Variant("onnx", "fp32", "onnx/fp32.onnx", "", "any", batch_invariant)]
    if openvino:
        (path / "openvino").mkdir()
        with no_telemetry():
            import openvino as ov

            model = ov.convert_model(path / "onnx/fp32.onnx")
        ov.save_model(model, path / "openvino/fp32.xml", compress_to_fp16=False)
        variants.append(Variant("openvino", "fp32", "openvino/fp32.xml", "", "any", batch_invariant))
    write_manifest(path, role, vocabulary, variants, dropped_terms, kind, query_idf, **settings)
    return path


def write_table_artifact(path: Path, weights: np.ndarray, dropped_terms: tuple[int, ...] = (), **settings: Any) -> Path:
    """A query side without an encoder: a weight a term of VOCABULARY."""
    path.mkdir(parents=True)
    write_tokenizer(path / "tokenizer.json")
    (path / "table.f32").write_bytes(weights.astype("<f4").tobytes())
    variants = [Variant("table", "fp32", "table.f32", "", "any", True)]
    write_manifest(path, "query", VOCABULARY, variants, dropped_terms, "look-up", **settings)
    return path


def write_manifest(
    path: Path,
    role: Role,
    vocabulary: list[str],
    variants: list[Variant],
    dropped_terms: tuple[int, ...],
    kind: Kind,
    query_idf: float = 0.0,
    **settings: Any,
) -> None:
    manifest = ArtifactManifest(
        format=ARTIFACT_FORMAT,
        version=VERSION,
        files={},
        **{"numerics": NUMERICS, "max_length": MAX_LENGTH, **settings},
        role=role,
        family="tiny",
        pooling="max",
        activation="log1p_relu",
        vocab_size=len(vocabulary),
        vocabulary_sha256=vocabulary_sha256(path / "tokenizer.json", len(vocabulary)),
        special_tokens={"pad_token": 0, "unk_token": 1, "cls_token": 2, "sep_token": 3},
        dropped_terms=list(dropped_terms),
        variants=variants,
        source=Source("tiny", "", "0" * 64, "Apache-2.0"),
        made_by="tests",
        kind=kind,
        query_idf=query_idf,
    )
    write_artifact_manifest(path, manifest)


def write_pair(path: Path, query_idf: float = 0.0) -> Path:
    """A pair whose two sides differ in their weights."""
    write_artifact(path / "query", "query", query_idf=query_idf)
    write_artifact(path / "document", "document", seed=0)
    write_pair_manifest(path, query="query", document="document", made_by="tests")
    return path
