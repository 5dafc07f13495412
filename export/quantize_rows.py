"""The recipe that quantizes the encoder's products token by token, and the vocabulary matrix."""

from __future__ import annotations

from pathlib import Path

import onnx

from .int8_products import quantize_products
from .quantize_vocabulary import quantize_vocabulary
from .smooth import smooth_products
from .source import QuantizationSource


def quantize_rows(
    source: QuantizationSource, target: Path, *, weight_bits: int, smooth: float = 0.0, leave_out: float = 0.0
) -> None:
    """Quantize the encoder's products token by token, and the vocabulary matrix as :func:`quantize_vocabulary` does.

    Parameters
    ----------
    source : QuantizationSource
        The float32 graph.
    target : Path
        The ONNX file to write.
    weight_bits : {7, 8}
        See :func:`quantize_vocabulary`.
    smooth : float
        SmoothQuant's alpha (see :mod:`smooth`), 0 for none.
    leave_out : float
        The share of the products that stays float32, the most sensitive first.

    Raises
    ------
    ExportError
        If the graph does not pool first.
    """
    quantize_vocabulary(source, target, weight_bits=weight_bits)
    model = onnx.load(target)
    chosen = set(source.products) - source.left_out(leave_out)
    statistics = source.statistics
    if smooth:
        statistics = smooth_products(model, chosen, statistics, smooth)
    quantize_products(model, chosen, weight_bits=weight_bits, statistics=statistics)
    onnx.save(model, target)
