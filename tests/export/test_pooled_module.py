"""The exported graphs against PyTorch: every architecture, backend, head, pooling and activation, in any shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import openvino as ov
import pytest
import torch
from splade_edge.export.inputs import SpladeExporterConfig
from splade_edge.export.pooled_module import pooled_graph
from splade_edge.export.to_onnx import write_onnx
from splade_edge.export.to_openvino import read_openvino, write_openvino
from splade_edge.models.checkpoint import Checkpoint
from splade_edge.models.head import find_decoder
from splade_edge.models.opening import open_checkpoint
from splade_edge.models.options import OpenOptions
from splade_edge.models.reference import ReferenceEncoder

from .. import checkpoints

CASES = [
    ("bert", True, "splade"),
    ("bert", False, "splade"),
    ("bert", True, "splade-v1"),
    ("distilbert", True, "splade"),
    ("distilbert", False, "opensearch-doc-v3"),
    ("roberta", True, "granite-sparse"),
    ("modernbert", True, "modernbert-splade"),
]
SHAPES = [(1, 1), (1, 5), (3, 2), (2, 31), (5, 64)]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(map(str, case)))
def exported(request, tmp_path_factory: pytest.TempPathFactory):
    architecture, tied, family = request.param
    directory = tmp_path_factory.mktemp("graph")
    path = checkpoints.write_checkpoint(directory / "c", architecture, tied=tied)
    side = "document" if family == "opensearch-doc-v3" else None
    checkpoint = open_checkpoint(str(path), side, OpenOptions(family=family))
    write_onnx(pooled_graph(checkpoint), SpladeExporterConfig(checkpoint.model.config), directory / "g.onnx")
    write_openvino(read_openvino(directory / "g.onnx"), directory / "g.xml")
    return checkpoint, directory


def run_onnx(path: Path, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(path).run(["weights"], {"input_ids": ids, "attention_mask": mask})[0]


def run_openvino(path: Path, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    compiled = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled({"input_ids": ids, "attention_mask": mask})["weights"]


def reference(checkpoint: Checkpoint, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    encoder = ReferenceEncoder(checkpoint)
    encoder.dropped_terms = torch.tensor([], dtype=torch.long)  # the runtime drops terms, not the graph
    return encoder.weights(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()


@pytest.mark.parametrize(("run", "file"), [(run_onnx, "g.onnx"), (run_openvino, "g.xml")])
def test_every_shape_and_padding(exported, run, file: str) -> None:
    checkpoint, directory = exported
    rng = np.random.default_rng(0)
    for batch, length in SHAPES:
        ids = rng.integers(5, checkpoints.VOCABULARY, (batch, length))
        mask = (np.arange(length) < rng.integers(1, length + 1, (batch, 1))).astype(np.int64)
        ids[mask == 0] = checkpoint.special_tokens["pad_token"]
        expected = reference(checkpoint, ids, mask)
        assert expected.any()
        np.testing.assert_allclose(run(directory / file, ids, mask), expected, atol=2e-5)


@pytest.mark.parametrize(("run", "file"), [(run_onnx, "g.onnx"), (run_openvino, "g.xml")])
def test_left_padding_gaps_and_empty_masks(exported, run, file: str) -> None:
    checkpoint, directory = exported
    rng = np.random.default_rng(1)
    ids = rng.integers(5, checkpoints.VOCABULARY, (4, 9))
    mask = np.ones((4, 9), np.int64)
    mask[0, :4] = 0
    mask[1, 2:5] = 0
    mask[2, :] = 0
    found, expected = run(directory / file, ids, mask), reference(checkpoint, ids, mask)
    attended = [0, 1, 3]
    np.testing.assert_allclose(found[attended], expected[attended], atol=2e-5)
    assert not found[2].any(), "a text without any attended token has no terms"


def test_the_checkpoint_is_not_changed(bert: Path) -> None:
    checkpoint = open_checkpoint(str(bert))
    before = ReferenceEncoder(checkpoint).encode(["the steam engine"])
    graph = pooled_graph(checkpoint)
    np.testing.assert_array_equal(ReferenceEncoder(checkpoint).encode(["the steam engine"]), before)
    shared = {id(p) for p in checkpoint.model.parameters()}
    assert {id(p) for p in graph.parameters()} <= shared, "a parameter was copied"


@pytest.mark.parametrize(("run", "file"), [(run_onnx, "g.onnx"), (run_openvino, "g.xml")])
def test_a_head_that_is_not_one_matrix_pools_its_logits(tmp_path: Path, run, file: str) -> None:
    """A scale after the decoder: what get_output_embeddings() names is linear, and does not give the logits."""
    checkpoint = open_checkpoint(str(checkpoints.write_checkpoint(tmp_path / "c")))
    head = checkpoint.model.cls
    head.register_forward_hook(lambda module, args, logits: 0.5 * torch.tanh(logits))
    assert find_decoder(checkpoint.model) is None
    write_onnx(pooled_graph(checkpoint), SpladeExporterConfig(checkpoint.model.config), tmp_path / "g.onnx")
    write_openvino(read_openvino(tmp_path / "g.onnx"), tmp_path / "g.xml")
    ids = np.random.default_rng(0).integers(5, checkpoints.VOCABULARY, (3, 11))
    mask = np.ones_like(ids)
    mask[0, :4] = mask[1, 7:] = mask[2] = 0
    found, expected = run(tmp_path / file, ids, mask), reference(checkpoint, ids, mask)
    assert expected[:2].any()
    np.testing.assert_allclose(found[:2], expected[:2], atol=2e-5)
    assert not found[2].any()
