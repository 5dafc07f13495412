"""int8 forms of an OpenVINO model, made by NNCF."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..runtime.telemetry import no_telemetry

Calibration = Sequence[dict[str, npt.NDArray[np.int64]]]


def compress_weights(model: Any, *, mode: str) -> Any:
    """8-bit weights with a scale per row; the graph's activations stay float32. ``mode``: an nncf.CompressWeightsMode.

    OpenVINO's CPU plugin multiplies such weights in int8 (dynamic quantization in groups of 32), and whether it does
    depends on the number of rows: a document alone and in a batch of 8 differed by 0.02.
    """
    with _quiet_nncf():
        import nncf

        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode[mode])


def quantize_activations(model: Any, calibration: Calibration, *, overflow_fix: bool) -> Any:
    """Post-training quantization of weights and activations, with scales fixed from ``calibration`` inputs.

    ``overflow_fix`` keeps weights to 7 bits, so that x86 without VNNI does not saturate.
    """
    with _quiet_nncf():
        import nncf
        from nncf.quantization.advanced_parameters import OverflowFix

        return nncf.quantize(
            model,
            nncf.Dataset(list(calibration)),
            subset_size=len(calibration),
            model_type=nncf.ModelType.TRANSFORMER,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=OverflowFix.ENABLE if overflow_fix else OverflowFix.DISABLE
            ),
        )


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
