"""Encoders for our own kernels: which checkpoints, what is written, and that it is what PyTorch computes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch
from splade_edge.export import variants
from splade_edge.export import write_kernel as module
from splade_edge.export.exporter import export
from splade_edge.export.recipes import choose_recipe
from splade_edge.export.request import ExportRequest
from splade_edge.export.texts import SampleTexts
from splade_edge.models.checkpoint import Checkpoint
from splade_edge.models.opening import open_checkpoint
from splade_edge.models.options import OpenOptions
from splade_edge.models.reference import ReferenceEncoder
from splade_edge.models.tokenizing import write_tokenizer
from splade_edge.runtime.artifact import Artifact, open_artifact
from splade_edge.runtime.encoder import Encoder
from splade_edge.runtime.errors import ExportError

from .. import checkpoints

TEXTS = ["the steam engine", "oxygen", "when did the oil crisis of the year 1 2 3 begin in kenya and warsaw", ""]
SAMPLES = SampleTexts(tuple(TEXTS), tuple(TEXTS))


@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_nearly_what_pytorch_computes(tmp_path: Path, architecture: str, tied: bool) -> None:
    path = checkpoints.write_checkpoint(tmp_path / "c", architecture, tied=tied, intermediate=64)
    checkpoint = open_checkpoint(str(path), options=OpenOptions(family="splade"))
    write_tokenizer(checkpoint.tokenizer, tmp_path / "tokenizer.json")
    source = variants.trace(checkpoint, tmp_path / "onnx/fp32.onnx", SAMPLES)
    # Every product's mean was found in the graph: queries, keys, values, three others, the head.
    assert len(module._means(source)) == 7
    variant = variants.write_int8(choose_recipe("onnx", "max", "kernel"), source, tmp_path)
    assert (variant.backend, variant.path, variant.isa) == ("kernel", "kernel/int8.bin", "any")
    assert variant.transformer is not None
    assert variant.transformer.tied is tied
    from splade_edge.export.job import manifest_of

    encoder = Encoder(Artifact(tmp_path, manifest_of(checkpoint, tmp_path, [variant])), variant, 1)
    for text, exact in zip(TEXTS, ReferenceEncoder(checkpoint).encode(TEXTS), strict=True):
        vector = encoder.encode_query(text)
        mine = np.zeros_like(exact)
        mine[vector.indices] = vector.values
        assert mine @ exact / np.sqrt((mine @ mine) * (exact @ exact)) > 0.99


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pair")
    query = checkpoints.write_checkpoint(place / "q", intermediate=64)
    document = checkpoints.write_checkpoint(place / "d", "distilbert", intermediate=64, seed=1)
    request = ExportRequest(place / "pair", query=str(query), document=str(document), backends=("onnx",))
    report = export(request).report
    assert ("query", "kernel", "int8") in {(g.role, g.backend, g.precision) for g in report.graphs}
    return place / "pair"


def test_a_small_query_encoder_gets_one_and_a_document_encoder_does_not(pair: Path) -> None:
    query, document = (open_artifact(pair, side) for side in ("query", "document"))
    assert [(v.backend, v.precision) for v in query.manifest.variants] == [
        ("onnx", "fp32"), ("onnx", "int8"), ("kernel", "int8"),
    ]  # fmt: skip
    assert [(v.backend, v.precision) for v in document.manifest.variants] == [("onnx", "fp32"), ("onnx", "int8")]
    assert query.variant().backend == "kernel"
    assert query.variant("onnx").precision == "int8"
    assert query.variant(None, "fp32").backend == "onnx"
    assert "kernel" in (pair / "query/README.md").read_text("utf-8")


def test_asked_for_by_name(tmp_path: Path) -> None:
    path = checkpoints.write_checkpoint(tmp_path / "c", intermediate=64)
    export(ExportRequest(tmp_path / "out", str(path), backends=("onnx",), recipes={"onnx": "kernel"}, fp32=False))
    assert [v.backend for v in open_artifact(tmp_path / "out").manifest.variants] == ["kernel"]
    assert not (tmp_path / "out/onnx/fp32.onnx").exists()


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("roberta", {}, "not RobertaForMaskedLM"),
        ("modernbert", {}, "not ModernBertForMaskedLM"),
        ("bert", {"hidden_act": "relu"}, "our kernels compute gelu, not relu"),
        ("bert", {"position_embedding_type": "relative_key"}, "absolute positions"),
        ("bert", {"hidden_act": "gelu_new"}, "our kernels compute gelu, not gelu_new"),
        ("bert", {"is_decoder": True}, "look both ways"),
        ("bert", {"intermediate_size": 96}, "is not of the size that config.json says"),
        ("bert", {"num_attention_heads": 4}, "32 values in 4 heads"),
        ("distilbert", {"activation": "relu"}, "our kernels compute gelu, not relu"),
    ],
)
def test_what_they_cannot_run(tmp_path: Path, architecture: str, changes: dict, message: str) -> None:
    path = checkpoints.write_checkpoint(tmp_path / "c", architecture, intermediate=64)
    checkpoint = open_checkpoint(str(path), options=OpenOptions(family="splade-other"))
    for name, value in changes.items():
        setattr(checkpoint.model.config, name, value)
    assert message in module.obstacle(checkpoint)
    source = SimpleNamespace(checkpoint=checkpoint, path=tmp_path)
    with pytest.raises(ExportError, match="choose another --recipe"):
        variants.write_int8(choose_recipe("onnx", "max", "kernel"), source, tmp_path)


def test_too_large_to_be_a_default(tmp_path: Path) -> None:
    path = checkpoints.write_checkpoint(tmp_path / "c", intermediate=64)
    checkpoint = open_checkpoint(str(path), options=OpenOptions(family="splade"))
    assert module.obstacle(checkpoint, 32) == ""
    assert module.obstacle(checkpoint, 31) == "it has 32 hidden values"
    assert msgspec.to_builtins(module._part(checkpoint.model, module._ARCHITECTURES["BertForMaskedLM"]))["inner"] == 64


@pytest.mark.parametrize("name", ["gelu", "gelu_python"])
def test_names_of_the_same_gelu(tmp_path: Path, name: str) -> None:
    checkpoint = opened(tmp_path, "bert")
    checkpoint.model.config.hidden_act = name
    assert module.obstacle(checkpoint) == ""


def test_the_epsilon_is_that_of_the_normalizations(tmp_path: Path) -> None:
    """DistilBERT's is 1e-12 whatever config.json says, and BERT's is what it says."""
    checkpoint = opened(tmp_path / "d", "distilbert")
    checkpoint.model.config.layer_norm_eps = 0.5
    assert module._part(checkpoint.model, module._ARCHITECTURES["DistilBertForMaskedLM"]).epsilon == 1e-12
    checkpoint = opened(tmp_path / "b", "bert")
    checkpoint.model.cls.predictions.transform.LayerNorm.eps = 1e-3
    assert module.obstacle(checkpoint) == "its normalizations have more than one epsilon"


def test_word_embeddings_and_decoder_of_different_sizes(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, "bert", tied=False)
    checkpoint.model.bert.embeddings.word_embeddings.weight = torch.nn.Parameter(torch.zeros(70, 32))
    assert "70 word embeddings and 49 rows" in module.obstacle(checkpoint)


def test_code_of_the_checkpoint_may_compute_anything(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path, "bert")
    own = type("BertForMaskedLM", (type(checkpoint.model),), {"__module__": "transformers_modules.c"})
    checkpoint.model.__class__ = own
    assert "the checkpoint's own code" in module.obstacle(checkpoint)


@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_an_encoder_for_both_sides_gets_one(tmp_path: Path, architecture: str) -> None:
    path = checkpoints.write_checkpoint(tmp_path / "c", architecture, intermediate=64)
    export(ExportRequest(tmp_path / "out", str(path), backends=("onnx",), fp32=False))
    variants = open_artifact(tmp_path / "out").manifest.variants
    assert [(v.backend, v.batch_invariant) for v in variants] == [("onnx", True), ("kernel", True)]


def opened(path: Path, architecture: str, **options: bool) -> Checkpoint:
    written = checkpoints.write_checkpoint(path / "c", architecture, intermediate=64, **options)
    return open_checkpoint(str(written), options=OpenOptions(family="splade-other"))
