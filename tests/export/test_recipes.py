from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from splade_edge.export import exporter, graphs, quantize_onnx, quantize_openvino
from splade_edge.export.recipes import RECIPES, choose_recipe
from splade_edge.export.texts import SampleTexts, calibration_texts, parity_texts
from splade_edge.models.checkpoint import open_checkpoint
from splade_edge.models.options import OpenOptions
from splade_edge.models.pooling import POOLINGS
from splade_edge.models.tokenizing import write_tokenizer
from splade_edge.runtime import Encoder
from splade_edge.runtime.artifact import Artifact, Variant
from splade_edge.runtime.errors import ExportError, InputError
from splade_edge.runtime.telemetry import no_telemetry

from .. import checkpoints

MODULES = {"onnx": quantize_onnx, "openvino": quantize_openvino}
TEXTS = ["the steam engine", "oxygen", "when did the oil crisis of the year 1 2 3 begin in kenya and warsaw", "prime"]


def test_every_row_names_a_function_and_every_pooling_has_a_default() -> None:
    assert len({(r.backend, r.name) for r in RECIPES}) == len(RECIPES)
    for recipe in RECIPES:
        assert callable(getattr(MODULES[recipe.backend], recipe.function))
    for pooling in POOLINGS:
        for backend in MODULES:
            assert choose_recipe(backend, pooling).isa == "any"


def test_an_unknown_recipe_lists_those_there_are() -> None:
    with pytest.raises(InputError, match="there are: vocabulary, dynamic"):
        choose_recipe("onnx", "max", "nope")
    with pytest.raises(InputError, match="not for sum pooling; there are: dynamic"):
        choose_recipe("onnx", "sum", "vocabulary")


@pytest.fixture(scope="module", params=["tied", "untied", "sum"])
def traced(request, tmp_path_factory: pytest.TempPathFactory):
    """A checkpoint and a directory with its float32 ONNX graph and tokenizer."""
    directory = tmp_path_factory.mktemp(request.param)
    path = checkpoints.write_checkpoint(directory / "c", tied=request.param != "untied")
    family = "splade-v1" if request.param == "sum" else "splade"
    checkpoint = open_checkpoint(str(path), options=OpenOptions(family=family))
    write_tokenizer(checkpoint.tokenizer, directory / "tokenizer.json")
    run = lambda what, action: action()  # noqa: E731
    graphs.write_graphs(checkpoint, directory, recipes={"onnx": None}, calibration=calibration_texts(), run=run)
    return checkpoint, directory


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: f"{r.backend}-{r.name}")
def test_each_recipe_gives_nearly_the_same_vectors_in_any_batch(traced, recipe, tmp_path: Path) -> None:
    checkpoint, directory = traced
    if checkpoint.pooling not in recipe.poolings:
        with pytest.raises(ExportError, match="--no-int8"):
            graphs._quantize_onnx(recipe, directory / "onnx/fp32.onnx", tmp_path)
        return
    (tmp_path / recipe.backend).mkdir()
    source = directory / "onnx/fp32.onnx"
    if recipe.backend == "onnx":
        graphs._quantize_onnx(recipe, source, tmp_path)
        path = "onnx/int8.onnx"
    else:
        inputs = graphs._calibration_inputs(checkpoint, SampleTexts(tuple(TEXTS), tuple(TEXTS)))
        graphs._quantize_openvino(recipe, source, tmp_path, inputs)
        path = "openvino/int8.xml"
    (tmp_path / "tokenizer.json").write_bytes((directory / "tokenizer.json").read_bytes())
    int8 = open_encoder(checkpoint, tmp_path, graphs._int8_variant(recipe, path))
    fp32 = open_encoder(checkpoint, directory, Variant("onnx", "fp32", "onnx/fp32.onnx", "", "any", True))
    together = [encoded.vector for encoded in int8.encode(TEXTS)]
    for text, vector, exact in zip(TEXTS, together, fp32.encode(TEXTS), strict=True):
        assert vector.dot(exact.vector) >= 0.97 * np.sqrt(vector.dot(vector) * exact.vector.dot(exact.vector))
        (alone,) = int8.encode([text])
        np.testing.assert_array_equal(alone.vector.indices, vector.indices)
        np.testing.assert_allclose(alone.vector.values, vector.values, atol=1e-4)


def open_encoder(checkpoint, directory: Path, variant: Variant) -> Encoder:
    return Encoder(Artifact(directory, exporter._manifest(checkpoint, directory, [variant])), variant)


@pytest.mark.parametrize("traced", ["tied", "untied"], indirect=True)
def test_padding_and_neighbours_do_not_change_the_vocabulary_recipe(traced, tmp_path: Path) -> None:
    """Its scales are per text, so that documents can be encoded in batches."""
    import onnxruntime as ort

    _, directory = traced
    quantize_onnx.quantize_vocabulary(directory / "onnx/fp32.onnx", tmp_path / "g.onnx", weight_bits=7)
    session = ort.InferenceSession(tmp_path / "g.onnx")
    run = partial(session.run, ["weights"])
    rng = np.random.default_rng(0)
    ids = rng.integers(5, checkpoints.VOCABULARY, (3, 20))
    mask = (np.arange(20) < np.array([[20], [7], [1]])).astype(np.int64)
    (together,) = run({"input_ids": ids, "attention_mask": mask})
    for row, length in enumerate((20, 7, 1)):
        one = slice(row, row + 1)
        (alone,) = run({"input_ids": ids[one, :length], "attention_mask": mask[one, :length]})
        np.testing.assert_allclose(alone[0], together[row], atol=2e-5)


def test_sample_texts_are_disjoint_and_bundled() -> None:
    parity, calibration = parity_texts(), calibration_texts()
    used = {*calibration.queries, *calibration.documents}
    assert not used & {*parity.queries, *parity.documents, *parity.odd}
    assert "" in parity.odd
    assert max(map(len, parity.odd)) > 2000


def test_quantizing_reports_to_nobody(traced) -> None:
    """openvino-telemetry answers a call with threads and processes that try to reach a server."""
    import multiprocessing

    from splade_edge.export.to_openvino import read_openvino

    _, directory = traced
    before = os.environ.get("CI")
    model = read_openvino(directory / "onnx/fp32.onnx")
    quantize_openvino.compress_weights(model, mode="INT8_ASYM")
    assert os.environ.get("CI") == before
    assert multiprocessing.active_children() == []
    assert not [t for t in threading.enumerate() if "ThreadPoolExecutor" in t.name]


def test_no_telemetry_restores_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, "", "false"):
        if value is None:
            monkeypatch.delenv("CI", raising=False)
        else:
            monkeypatch.setenv("CI", value)
        with pytest.raises(RuntimeError), no_telemetry():
            raise RuntimeError
        assert os.environ.get("CI") == value
