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
    """8-bit weights with a scale per row; the graph's activations stay float32. ``mode``: an nncf.CompressWeightsMode.

    OpenVINO's CPU plugin multiplies such weights in int8 (dynamic quantization in groups of 32), and whether it does
    depends on the number of rows: a document alone and in a batch of 8 differed by 0.02.
    """
    model = read_openvino(source.path)
    with _quiet_nncf():
        import nncf

        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode[mode])
    write_openvino(model, target)


def quantize_activations(
    source: QuantizationSource, target: Path, *, overflow_fix: bool, leave_out: float = 0.0
) -> None:
    """Post-training quantization of weights and activations, with SmoothQuant, scales fixed from calibration text.

    ``overflow_fix`` keeps weights to 7 bits, so that x86 without VNNI does not saturate. ``leave_out``: the share of
    the encoder's products, the most sensitive first, that stays float32; OpenVINO keeps the names of ONNX nodes.
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
