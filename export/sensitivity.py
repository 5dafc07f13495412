"""Which products of an encoder lose the most in int8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from ..runtime.artifact import OUTPUT_NAME
from .int8_products import quantize_products
from .onnx_graph import F32, Inputs, Statistics, open_session

# Texts that the sensitivity of each product is measured on, and the tokens of each that are used.
_TEXTS, _TOKENS = 16, 64


def by_sensitivity(
    path: Path, products: Sequence[str], statistics: Mapping[str, Statistics], inputs: Sequence[Inputs]
) -> list[str]:
    """Order products by how far each one alone, in int8, turns the vectors of the calibration text.

    Parameters
    ----------
    path : Path
        The float32 ONNX graph.
    products : sequence of str
        Names of its products (see :func:`encoder_products`).
    statistics : mapping of str to Statistics
        What goes into each product.
    inputs : sequence of Inputs
        The calibration texts. At most 16 of them, evenly spread, and the first 64 tokens of each are used.

    Returns
    -------
    list of str
        The products, the most sensitive one first.
    """
    texts = [{key: ids[:, :_TOKENS] for key, ids in text.items()} for text in _spread(inputs, _TEXTS)]
    exact = _vectors(onnx.load(path), texts)
    lost = {}
    for name in products:
        model = onnx.load(path)
        quantize_products(model, {name}, weight_bits=8, statistics=statistics)
        lost[name] = 1 - float(_cosines(_vectors(model, texts), exact).mean())
    return sorted(products, key=lambda name: -lost[name])


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` of ``items``, evenly spread."""
    positions = np.linspace(0, len(items) - 1, min(count, len(items)), dtype=int)
    return [items[position] for position in positions]


def _vectors(model: onnx.ModelProto, texts: Sequence[Inputs]) -> F32:
    session = open_session(model)
    return np.concatenate([session.run([OUTPUT_NAME], dict(inputs))[0] for inputs in texts])


def _cosines(a: F32, b: F32) -> npt.NDArray[np.float64]:
    dots = np.einsum("ij,ij->i", a, b, dtype=np.float64)
    norms = np.linalg.norm(a.astype(np.float64), axis=1) * np.linalg.norm(b.astype(np.float64), axis=1)
    cosines: npt.NDArray[np.float64] = dots / np.maximum(norms, 1e-12)
    return cosines
