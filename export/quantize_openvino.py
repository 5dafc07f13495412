"""int8 forms of an OpenVINO model, made by NNCF."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path

from ..runtime.telemetry import no_telemetry
from .source import QuantizationSource
from .to_openvino import read_openvino, write_openvino


def compress_weights(source: QuantizationSource, target: Path, *, mode: str) -> None:
    """Compress weights to 8 bits with a scale per row; the graph's activations stay float32.

    OpenVINO's CPU plugin multiplies such weights in int8 (dynamic quantization in groups of 32). Whether it does
    depends on the number of rows: a document alone and in a batch of 8 differed by 0.02.

    Parameters
    ----------
    source : QuantizationSource
        The float32 graph.
    target : Path
        The ``.xml`` file to write.
    mode : str
        The name of an ``nncf.CompressWeightsMode``.

    Raises
    ------
    ExportError
        If OpenVINO cannot convert the graph.
    """
    model = read_openvino(source.path)
    with _quiet_nncf():
        import nncf

        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode[mode])
    write_openvino(model, target)


def quantize_activations(
    source: QuantizationSource, target: Path, *, overflow_fix: bool, leave_out: float = 0.0
) -> None:
    """Quantize weights and activations after training, with SmoothQuant and scales from the calibration text.

    Parameters
    ----------
    source : QuantizationSource
        The float32 graph.
    target : Path
        The ``.xml`` file to write.
    overflow_fix : bool
        Whether weights keep to 7 bits, so that x86 without VNNI does not saturate.
    leave_out : float
        The share of the encoder's products that stays float32, the most sensitive first. OpenVINO keeps the names of
        ONNX nodes.

    Raises
    ------
    ExportError
        If OpenVINO cannot convert the graph.
    """
    model = read_openvino(source.path)
    left_out = sorted(source.left_out(leave_out))
    with _quiet_nncf():
        import nncf
        from nncf.quantization.advanced_parameters import OverflowFix

        model = nncf.quantize(
            model,
            nncf.Dataset([dict(inputs) for inputs in source.inputs]),
            subset_size=len(source.inputs),
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(names=left_out) if left_out else None,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=OverflowFix.ENABLE if overflow_fix else OverflowFix.DISABLE
            ),
        )
    write_openvino(model, target)


@contextlib.contextmanager
def _quiet_nncf() -> Iterator[None]:
    """NNCF prints progress bars and advice to stdout; our own progress says which step runs."""
    logger = logging.getLogger("nncf")
    level = logger.level
    with no_telemetry(), contextlib.redirect_stdout(io.StringIO()):
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
