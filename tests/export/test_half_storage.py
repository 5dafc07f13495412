from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from splade_edge.export.half_storage import halve_weights
from splade_edge.export.to_openvino import read_openvino, write_openvino
from splade_edge.runtime.telemetry import no_telemetry


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """``y = (x @ exact) @ rounded + small``: only the first matrix is a float16 matrix widened."""
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(32, 64)).astype(np.float16).astype(np.float32)
    rounded = rng.normal(size=(64, 64)).astype(np.float32)
    small = np.ones(64, np.float32)
    weights = [numpy_helper.from_array(v, n) for n, v in (("exact", exact), ("rounded", rounded), ("small", small))]
    nodes = [
        helper.make_node("MatMul", ["x", "exact"], ["a"]),
        helper.make_node("MatMul", ["a", "rounded"], ["b"]),
        helper.make_node("Add", ["b", "small"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 32])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 64])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], weights), opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    path = tmp_path / "graph.onnx"
    onnx.save(model, path)
    return path


INPUT = np.random.default_rng(1).normal(size=(3, 32)).astype(np.float32)


def test_onnx_weights_that_fit_are_halved_and_nothing_changes(graph: Path) -> None:
    before = ort.InferenceSession(graph).run(None, {"x": INPUT})[0]
    size = graph.stat().st_size
    halve_weights(graph)
    types = {i.name: i.data_type for i in onnx.load(graph).graph.initializer}
    assert types == {"exact.half": TensorProto.FLOAT16, "rounded": TensorProto.FLOAT, "small": TensorProto.FLOAT}
    assert size - graph.stat().st_size > 32 * 64 * 2 - 300
    np.testing.assert_array_equal(ort.InferenceSession(graph).run(None, {"x": INPUT})[0], before)
    again = graph.read_bytes()
    halve_weights(graph)
    assert graph.read_bytes() == again


def test_openvino_weights_that_fit_are_halved_and_nothing_changes(graph: Path) -> None:
    pytest.importorskip("openvino")
    path = graph.with_name("model.xml")
    write_openvino(read_openvino(graph), path)
    size = path.with_suffix(".bin").stat().st_size

    def run() -> np.ndarray:
        with no_telemetry():
            import openvino as ov

            compiled = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        result: np.ndarray = compiled([INPUT])[0].copy()
        return result

    before = run()
    halve_weights(path)
    assert path.with_suffix(".bin").stat().st_size == size - 32 * 64 * 2
    np.testing.assert_array_equal(run(), before)
    assert sorted(p.name for p in path.parent.iterdir()) == ["graph.onnx", "model.bin", "model.xml"]
