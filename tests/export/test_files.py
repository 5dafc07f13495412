"""What is in the written files: nothing of this machine, no weight twice, the same bytes every time."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from splade_edge.export.exporter import export
from splade_edge.export.inputs import SpladeExporterConfig
from splade_edge.export.parity import ParityReport
from splade_edge.export.pooled_module import pooled_graph
from splade_edge.export.quantize_vocabulary import quantize_vocabulary
from splade_edge.export.request import ExportRequest
from splade_edge.export.source import QuantizationSource
from splade_edge.export.to_onnx import write_onnx
from splade_edge.models.opening import open_checkpoint
from splade_edge.runtime import Encoder
from splade_edge.runtime.artifact import open_all, open_artifact

from .. import checkpoints

MACHINE = re.compile(rb"site-packages|/tmp/|/home/|/root/|stack_trace|\.py\b")


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_no_machine_paths(exported_pair: Path, pair: Path) -> None:
    found = files(exported_pair)
    assert any(name.endswith(".onnx") for name in found)
    for name, data in found.items():
        assert not MACHINE.search(data), name
        assert str(pair.parent).encode() not in data, name


def test_the_same_export_gives_the_same_bytes(tmp_path: Path, bert: Path) -> None:
    for name in ("a", "b"):
        export(ExportRequest(tmp_path / name, str(bert)))
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.usefixtures("traced_once")
def test_float32_graphs_can_be_left_out(tmp_path: Path, bert: Path) -> None:
    result = export(ExportRequest(tmp_path / "slim", str(bert), backends=("onnx",), fp32=False))
    artifact = open_artifact(tmp_path / "slim")
    assert [(v.backend, v.precision) for v in artifact.manifest.variants] == [("onnx", "int8")]
    assert [p.name for p in (tmp_path / "slim" / "onnx").iterdir()] == ["int8.onnx"]
    assert [g.output for g in result.report.graphs] == ["both/onnx/int8"]
    assert Encoder(artifact).encode_query("steam engine").indices.size > 0


@pytest.mark.usefixtures("traced_once")
def test_a_calibrated_recipe_is_deterministic(tmp_path: Path, bert: Path) -> None:
    for name in ("a", "b"):
        recipes = {"openvino": "activations"}
        export(ExportRequest(tmp_path / name, str(bert), backends=("openvino",), recipes=recipes))
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_tied_vocabulary_matrix_is_stored_once(tmp_path: Path) -> None:
    """At a real size: torch folds the transposed copy of a small matrix into a second constant."""
    default = Path(__file__).parents[2] / "models" / "default" / "query"
    checkpoint = open_checkpoint(str(default))
    write_onnx(pooled_graph(checkpoint), SpladeExporterConfig(checkpoint.model.config), tmp_path / "fp32.onnx")
    quantize_vocabulary(QuantizationSource(tmp_path / "fp32.onnx", []), tmp_path / "int8.onnx", weight_bits=7)
    for name, kind in (("fp32", onnx.TensorProto.FLOAT), ("int8", onnx.TensorProto.INT8)):
        tensors = onnx.load(tmp_path / f"{name}.onnx").graph.initializer
        assert [t.data_type for t in tensors if np.prod(t.dims) > 1e6] == [kind]


def test_manifest_report_and_card_tell_the_same(exported_pair: Path, pair: Path) -> None:
    report = msgspec.json.decode((exported_pair / "parity.json").read_bytes(), type=ParityReport)
    artifacts = open_all(exported_pair)
    assert [a.manifest.role for a in artifacts] == ["query", "document"]
    outputs = {f"{a.manifest.role}/{v.backend}/{v.precision}" for a in artifacts for v in a.manifest.variants}
    assert outputs == {g.output for g in report.graphs}
    assert len(outputs) == 8
    for artifact in artifacts:
        manifest = artifact.manifest
        assert manifest.source.checkpoint == pair.name
        assert manifest.source.licence == "apache-2.0"
        assert manifest.family == "efficient-splade"
        assert manifest.max_length == 32
        assert manifest.special_tokens["pad_token"] == 0
        card = (artifact.path / "README.md").read_text()
        assert card.startswith("---\nlicense: apache-2.0\n")
        assert manifest.source.weights_sha256 in card
        for variant in manifest.variants:
            assert f"`{variant.path}`" in card
            assert (variant.recipe == "") == (variant.precision == "fp32")
    for graph in report.graphs:
        assert graph.cosine_min > 0.9
        if graph.precision == "fp32":
            assert graph.max_abs_error < 1e-4
            assert graph.ranking_overlap > 0.95


def test_the_tokenizer_file_sets_neither_truncation_nor_padding(exported_pair: Path) -> None:
    tokenizer = json.loads((exported_pair / "query" / "tokenizer.json").read_bytes())
    assert tokenizer["truncation"] is None
    assert tokenizer["padding"] is None


@pytest.mark.usefixtures("traced_once")
def test_one_artifact_for_a_shared_encoder_with_its_licence_file(tmp_path: Path) -> None:
    path = checkpoints.write_sentence_transformers(tmp_path / "c")
    (path / "LICENSE").write_text("all rights")
    result = export(ExportRequest(output=tmp_path / "out", checkpoint=str(path), backends=("onnx",), int8=False))
    (artifact,) = open_all(result.path)
    assert artifact.manifest.role == "both"
    assert [v.path for v in artifact.manifest.variants] == ["onnx/fp32.onnx"]
    assert (result.path / "LICENSE").read_text() == "all rights"
    assert any("no licence" in note for note in result.notes)
    encoder = Encoder.open(result.path)
    query, document = encoder.encode_query("the steam engine"), encoder.encode_document("the steam engine")
    np.testing.assert_array_equal(query.indices, document.indices)


@pytest.mark.usefixtures("traced_once")
def test_openvino_alone_leaves_no_onnx_file(tmp_path: Path, bert: Path) -> None:
    export(ExportRequest(output=tmp_path / "out", checkpoint=str(bert), backends=("openvino",)))
    assert not [name for name in files(tmp_path / "out") if "onnx" in name]
