from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from splade_edge.export import job, variants
from splade_edge.export.backends import WRITERS
from splade_edge.export.int8_products import quantize_products
from splade_edge.export.onnx_graph import Statistics, open_session
from splade_edge.export.quantize_openvino import compress_weights
from splade_edge.export.quantize_rows import quantize_rows
from splade_edge.export.quantize_vocabulary import quantize_vocabulary
from splade_edge.export.recipes import RECIPES, choose_recipe
from splade_edge.export.smooth import smooth_products
from splade_edge.export.texts import SampleTexts, calibration_texts, parity_texts
from splade_edge.models.opening import open_checkpoint
from splade_edge.models.options import OpenOptions
from splade_edge.models.pooling import POOLINGS
from splade_edge.models.tokenizing import write_tokenizer
from splade_edge.runtime import Encoder
from splade_edge.runtime.artifact import Artifact, Variant
from splade_edge.runtime.errors import ExportError, InputError
from splade_edge.runtime.telemetry import no_telemetry

from .. import checkpoints

TEXTS = ["the steam engine", "oxygen", "when did the oil crisis of the year 1 2 3 begin in kenya and warsaw", "prime"]
SAMPLES = SampleTexts(tuple(TEXTS), tuple(TEXTS))


def test_every_row_names_a_function_and_every_pooling_has_a_default() -> None:
    assert len({(r.backend, r.name) for r in RECIPES}) == len(RECIPES)
    made = {(backend, function) for backend, writer in WRITERS.items() for function in writer.quantizers}
    assert {(r.backend, r.function) for r in RECIPES} == made
    for pooling in POOLINGS:
        for backend in ("onnx", "openvino"):
            assert choose_recipe(backend, pooling).isa == "any"


def test_an_unknown_recipe_lists_those_there_are() -> None:
    with pytest.raises(InputError, match="there are: auto, vocabulary, logits, logits-vnni, dynamic"):
        choose_recipe("onnx", "max", "nope")
    with pytest.raises(InputError, match="not for sum pooling; there are: logits, logits-vnni, dynamic"):
        choose_recipe("onnx", "sum", "vocabulary")


@pytest.fixture(scope="module", params=["tied", "untied", "sum"])
def traced(request, tmp_path_factory: pytest.TempPathFactory):
    """A checkpoint and a directory with its float32 ONNX graph and tokenizer."""
    directory = tmp_path_factory.mktemp(request.param)
    path = checkpoints.write_checkpoint(directory / "c", tied=request.param != "untied", intermediate=64)
    family = "splade-v1" if request.param == "sum" else "splade"
    checkpoint = open_checkpoint(str(path), options=OpenOptions(family=family))
    write_tokenizer(checkpoint.tokenizer, directory / "tokenizer.json")
    source = variants.trace(checkpoint, directory / "onnx/fp32.onnx", SAMPLES)
    return checkpoint, directory, source


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: f"{r.backend}-{r.name}")
def test_each_recipe_gives_nearly_the_same_vectors_in_any_batch(traced, recipe, tmp_path: Path) -> None:
    checkpoint, directory, source = traced
    if directory.name.startswith("untied") and recipe.name not in ONE_OF_EACH:
        pytest.skip("the tied case is enough")
    if checkpoint.pooling not in recipe.poolings:
        with pytest.raises(ExportError, match="--no-int8"):
            variants.write_int8(recipe, source, tmp_path)
        return
    variant = variants.write_int8(recipe, source, tmp_path)
    assert variant.path.startswith(f"{variant.backend}/int8{'-vnni' if recipe.isa == 'vnni' else ''}.")
    (tmp_path / "tokenizer.json").write_bytes((directory / "tokenizer.json").read_bytes())
    int8 = open_encoder(checkpoint, tmp_path, variant)
    fp32 = open_encoder(checkpoint, directory, Variant("onnx", "fp32", "onnx/fp32.onnx", "", "any", True))
    together = [encoded.vector for encoded in int8.encode(TEXTS)]
    for text, vector, exact in zip(TEXTS, together, fp32.encode(TEXTS), strict=True):
        assert vector.dot(exact.vector) >= 0.97 * np.sqrt(vector.dot(vector) * exact.vector.dot(exact.vector))
        (alone,) = int8.encode([text])
        np.testing.assert_array_equal(alone.vector.indices, vector.indices)
        np.testing.assert_allclose(alone.vector.values, vector.values, atol=1e-4)


def open_encoder(checkpoint, directory: Path, variant: Variant) -> Encoder:
    return Encoder(Artifact(directory, job.manifest_of(checkpoint, directory, [variant])), variant)


ONE_OF_EACH = {next(r.name for r in RECIPES if r.function == f) for w in WRITERS.values() for f in w.quantizers}
OURS = {
    "vocabulary": lambda source, target: quantize_vocabulary(source, target, weight_bits=7),
    "rows": lambda source, target: quantize_rows(source, target, weight_bits=7),
    "rows, smooth": lambda source, target: quantize_rows(source, target, weight_bits=8, smooth=0.5, leave_out=0.4),
}


@pytest.mark.parametrize("recipe", OURS)
@pytest.mark.parametrize("traced", ["tied", "untied"], indirect=True)
def test_padding_and_neighbours_do_not_change_our_own_recipes(traced, recipe: str, tmp_path: Path) -> None:
    """Their scales are per text and per token, so that documents can be encoded in batches."""
    import onnxruntime as ort

    _, _, source = traced
    OURS[recipe](source, tmp_path / "g.onnx")
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


@pytest.mark.parametrize("traced", ["tied"], indirect=True)
def test_a_product_by_rows_is_the_arithmetic_it_says(traced) -> None:
    """int8 x int8 with a scale a token and a column, and the mean shift taken back: in NumPy."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weight = rng.normal(size=(6, 4)).astype(np.float32)
    x = rng.normal(size=(2, 3, 6)).astype(np.float32)
    mean = rng.normal(size=6)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", "l", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", "l", 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    quantize_products(model, {"product"}, weight_bits=7, statistics={"product": Statistics(mean, np.ones(6))})
    assert [node.op_type for node in model.graph.node].count("MatMulInteger") == 1
    assert "w" not in {tensor.name for tensor in model.graph.initializer}
    (found,) = open_session(model).run(None, {"x": x})
    columns = np.abs(weight).max(axis=0) / 63
    rounded = np.rint(weight / columns)
    tokens = np.abs(x).max(axis=-1, keepdims=True) / 127
    expected = np.rint(x / tokens) @ rounded * tokens * columns + mean @ (weight - rounded * columns)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_smoothing_changes_no_result(traced) -> None:
    import onnx

    _, _, source = traced
    exact, smoothed = onnx.load(source.path), onnx.load(source.path)
    statistics = smooth_products(smoothed, set(source.products), source.statistics, 0.5)
    assert statistics.keys() == source.statistics.keys()
    inputs = dict(source.inputs[2])
    before, after = (open_session(model).run(["weights"], inputs)[0] for model in (exact, smoothed))
    np.testing.assert_allclose(after, before, atol=1e-4)
    assert len(smoothed.graph.node) > len(exact.graph.node)


def test_the_most_sensitive_products_are_left_out(traced) -> None:
    _, _, source = traced
    products = source.products
    assert sorted(source.by_sensitivity) == sorted(products)
    assert source.left_out(0) == frozenset()
    assert source.left_out(1) == frozenset(products)
    quarter = source.left_out(0.25)
    assert len(quarter) == -(-len(products) // 4)
    assert quarter == frozenset(source.by_sensitivity[: len(quarter)])


def test_sample_texts_are_disjoint_and_bundled() -> None:
    parity, calibration = parity_texts(), calibration_texts()
    used = {*calibration.queries, *calibration.documents}
    assert not used & {*parity.queries, *parity.documents, *parity.odd}
    assert "" in parity.odd
    assert max(map(len, parity.odd)) > 2000


def test_quantizing_reports_to_nobody(traced, tmp_path: Path) -> None:
    """openvino-telemetry answers a call with threads and processes that try to reach a server."""
    import multiprocessing

    _, _, source = traced
    before = os.environ.get("CI")
    compress_weights(source, tmp_path / "g.xml", mode="INT8_ASYM")
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
