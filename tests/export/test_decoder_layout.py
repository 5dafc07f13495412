"""One file, two graphs: its first bytes end before the decoder, all of it is what it was."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from splade_edge.export import variants
from splade_edge.export.decoder_layout import lay_out_decoder
from splade_edge.export.quantize_ort import quantize_dynamic
from splade_edge.export.recipes import choose_recipe
from splade_edge.export.source import QuantizationSource
from splade_edge.export.texts import calibration_texts
from splade_edge.models.opening import open_checkpoint
from splade_edge.models.options import OpenOptions
from splade_edge.runtime.artifact import Variant

from .. import checkpoints

INT8 = Variant("onnx", "int8", "onnx/int8.onnx", "vocabulary", "any", True)


@pytest.fixture(scope="module", params=["tied", "untied"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Variant]]:
    """A directory with the ONNX graphs of a small checkpoint, and their description."""
    directory = tmp_path_factory.mktemp(request.param)
    path = checkpoints.write_checkpoint(directory / "c", tied=request.param == "tied")
    checkpoint = open_checkpoint(str(path), options=OpenOptions(family="splade"))
    source = variants.trace(checkpoint, directory / "onnx/fp32.onnx", calibration_texts())
    recipe = choose_recipe("onnx", "max", "vocabulary")
    made = [variants.write_fp32(source, directory, "onnx"), variants.write_int8(recipe, source, directory)]
    return directory, made


def run(model: bytes, outputs: list[str]) -> list[np.ndarray]:
    import onnxruntime as ort

    rng = np.random.default_rng(0)
    ids = rng.integers(5, checkpoints.VOCABULARY, (3, 20))
    mask = (np.arange(20) < np.array([[20], [7], [1]])).astype(np.int64)
    return ort.InferenceSession(model).run(outputs, {"input_ids": ids, "attention_mask": mask})


def test_a_float32_graph_is_left_alone(written: tuple[Path, list[Variant]]) -> None:
    directory, made = written
    assert [v.decoder is None for v in made if v.precision == "fp32"] == [True]
    before = (directory / "onnx/fp32.onnx").read_bytes()
    (variant,) = (v for v in made if v.precision == "fp32")
    assert lay_out_decoder(directory, variant) == variant
    assert (directory / "onnx/fp32.onnx").read_bytes() == before


def test_the_parts_multiply_to_the_whole(written: tuple[Path, list[Variant]]) -> None:
    directory, made = written
    (part,) = (v.decoder for v in made if v.decoder is not None)
    data = (directory / "onnx/int8.onnx").read_bytes()
    onnx.checker.check_model(onnx.load_from_string(data[: part.body]))
    activations, scale = run(data[: part.body], ["activations", "activation_scale"])
    again, scale_again, weights = run(data, ["activations", "activation_scale", "weights"])
    np.testing.assert_array_equal(activations, again)
    np.testing.assert_array_equal(scale, scale_again)
    vocab = weights.shape[1]
    rows = np.frombuffer(data, np.int8, vocab * part.hidden, part.weights).reshape(vocab, part.hidden)
    row_scale, bias = (np.frombuffer(data, "<f4", vocab, start) for start in (part.scale, part.bias))
    best = ((activations.astype(np.int32) - 128) @ rows.T.astype(np.int32)).max(axis=1)
    sums = best.astype(np.float32) * (scale[:, 0] * row_scale) + bias
    np.testing.assert_allclose(np.log1p(np.maximum(sums, 0)), weights, rtol=1e-5, atol=1e-6)
    assert (weights > 0).any()
    assert np.abs(rows.astype(int)).max() == 63


def test_the_file_is_no_larger_for_it(written: tuple[Path, list[Variant]], tmp_path: Path) -> None:
    directory, made = written
    model = onnx.load(directory / "onnx/int8.onnx")
    onnx.save(model, tmp_path / "whole.onnx")
    assert abs((directory / "onnx/int8.onnx").stat().st_size - (tmp_path / "whole.onnx").stat().st_size) < 100
    (variant,) = (v for v in made if v.decoder is not None)
    assert lay_out_decoder(directory, variant) == variant  # once is enough


def test_other_quantized_graphs_are_left_alone(written: tuple[Path, list[Variant]], tmp_path: Path) -> None:
    directory, _ = written
    (tmp_path / "onnx").mkdir()
    quantize_dynamic(QuantizationSource(directory / "onnx/fp32.onnx", []), tmp_path / INT8.path, reduce_range=True)
    assert lay_out_decoder(tmp_path, INT8) == INT8
    shutil.copyfile(directory / "onnx/fp32.onnx", tmp_path / INT8.path)
    assert lay_out_decoder(tmp_path, INT8) == INT8
