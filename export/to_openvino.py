"""Writing a pooled graph as an OpenVINO IR: ``NAME.xml`` and ``NAME.bin``.

The graph is converted from the ONNX file, not from PyTorch again: one tracing, and the two backends cannot drift apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..runtime.errors import ExportError
from ..runtime.telemetry import no_telemetry
from .to_onnx import root_cause


def read_openvino(onnx_path: Path) -> Any:
    """Convert an ONNX file.

    Parameters
    ----------
    onnx_path : Path
        The file.

    Returns
    -------
    openvino.Model
        The model.

    Raises
    ------
    ExportError
        If OpenVINO cannot convert it.
    """
    try:
        with no_telemetry():
            import openvino as ov

            return ov.convert_model(onnx_path)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ExportError(
            f"OpenVINO cannot convert this architecture ({root_cause(error)}); export with --backend onnx"
        ) from error


def write_openvino(model: Any, path: Path) -> None:
    """Save a model without changing the precision of its weights.

    Nodes are named by their position. OpenVINO numbers unnamed ones by a counter of the process, so the same model
    would give other bytes each time.

    Parameters
    ----------
    model : openvino.Model
        The model; its nodes are renamed.
    path : Path
        The ``.xml`` file to write; the ``.bin`` file is written beside it.
    """
    with no_telemetry():
        import openvino as ov

    for place, node in enumerate(model.get_ordered_ops()):
        if node.get_type_name() not in ("Parameter", "Result"):
            node.set_friendly_name(f"{node.get_type_name()}_{place}")
    ov.save_model(model, path, compress_to_fp16=False)
