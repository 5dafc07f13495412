"""Float32 weights kept as float16 where that loses nothing, which halves the files.

Checkpoints are usually published in float16; PyTorch widens them, and what was not changed on the way through a graph
narrows again exactly. A cast in the graph widens it when a session is made: both engines fold it there, so that
neither results nor speed change. Weights that would be rounded stay float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..runtime.telemetry import no_telemetry
from .to_openvino import write_openvino

# Below so many values a cast costs more than it saves.
_SMALLEST = 1024


def halve_weights(path: Path) -> None:
    """Store the weights of a graph file as float16 where that changes none of them; the file is rewritten.

    Parameters
    ----------
    path : Path
        The graph: ``.onnx`` or ``.xml``.
    """
    if path.suffix == ".onnx":
        _halve_onnx(path)
    else:
        _halve_openvino(path)


def _narrowed(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float16] | None:
    """The same values as float16, or None if that would change one of them or is not worth it."""
    if values.size < _SMALLEST:
        return None
    with np.errstate(over="ignore"):
        narrow = values.astype(np.float16)
    return narrow if np.array_equal(narrow.astype(np.float32), values) else None


def _halve_onnx(path: Path) -> None:
    model = onnx.load(path)
    casts = []
    for initializer in model.graph.initializer:
        if initializer.data_type != TensorProto.FLOAT:
            continue
        narrow = _narrowed(numpy_helper.to_array(initializer))
        if narrow is None:
            continue
        name = initializer.name
        initializer.CopyFrom(numpy_helper.from_array(narrow, f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], name=f"{name}.widen", to=TensorProto.FLOAT))
    if casts:
        # Before all nodes that use them: a graph is in topological order.
        nodes = [*casts, *model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        onnx.checker.check_model(model)
        onnx.save(model, path)


def _halve_openvino(path: Path) -> None:
    with no_telemetry():
        import openvino as ov
        from openvino import opset13 as ops

        model: Any = ov.Core().read_model(path)
        changed = False
        for node in model.get_ordered_ops():
            if node.get_type_name() != "Constant" or node.get_element_type() != ov.Type.f32:
                continue
            narrow = _narrowed(np.array(node.data))
            if narrow is not None:
                node.output(0).replace(ops.convert(ops.constant(narrow), "f32").output(0))
                changed = True
    if changed:
        # The weights were read from the file that is written: to another one first.
        beside = path.with_name("halved.xml")
        write_openvino(model, beside)
        del model
        for suffix in (".xml", ".bin"):
            beside.with_suffix(suffix).replace(path.with_suffix(suffix))
