"""int8 forms of an ONNX graph that ONNX Runtime's own quantizers make."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from ..runtime.telemetry import no_telemetry
from .quantize_vocabulary import quantize_vocabulary
from .smooth import smooth_products
from .source import QuantizationSource


def quantize_dynamic(
    source: QuantizationSource,
    target: Path,
    *,
    reduce_range: bool,
    operators: tuple[str, ...] = ("MatMul", "Gather"),
    leave_out: float = 0.0,
) -> None:
    """Quantize with ONNX Runtime: int8 weights per channel, uint8 activations scaled when they are computed.

    Activations are scaled per tensor, over the whole batch, so the graph is not batch-invariant.

    Parameters
    ----------
    source : QuantizationSource
        The float32 graph.
    target : Path
        The ONNX file to write.
    reduce_range : bool
        Whether weights get 7 bits, which x86 without VNNI needs.
    operators : tuple of str
        The kinds of nodes to quantize. "Gather" are the embeddings.
    leave_out : float
        The share of the encoder's products that stays float32, the most sensitive first. With 1 only the decoder is
        quantized.
    """
    with no_telemetry():
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization import quantize_dynamic as quantize

    model = onnx.load(source.path)
    _fold_transposed_weights(model.graph)
    with _quiet_onnxruntime():
        quantize(
            model,
            target,
            op_types_to_quantize=list(operators),
            per_channel=True,
            reduce_range=reduce_range,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=sorted(source.left_out(leave_out)),
        )


def quantize_static(
    source: QuantizationSource, target: Path, *, weight_bits: int, smooth: float, leave_out: float = 0.0
) -> None:
    """Quantize the encoder's products with activation scales from the calibration text (MinMax), after SmoothQuant.

    The vocabulary matrix is quantized as :func:`quantize_vocabulary` does. Percentile calibration is not offered: ONNX
    Runtime's fails on texts of different lengths.

    Parameters
    ----------
    source : QuantizationSource
        The float32 graph.
    target : Path
        The ONNX file to write.
    weight_bits : {7, 8}
        See :func:`quantize_vocabulary`.
    smooth : float
        SmoothQuant's alpha.
    leave_out : float
        The share of the products that stays float32, the most sensitive first.
    """
    with no_telemetry():
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType
        from onnxruntime.quantization import quantize_static as quantize

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no type hints
        def __init__(self) -> None:
            self._rest = iter(source.inputs)

        def get_next(self) -> dict[str, Any] | None:
            inputs = next(self._rest, None)
            return None if inputs is None else dict(inputs)

    chosen = sorted(set(source.products) - source.left_out(leave_out))
    with tempfile.TemporaryDirectory(dir=target.parent) as place:
        smoothed = Path(place) / "smoothed.onnx"
        quantize_vocabulary(source, smoothed, weight_bits=weight_bits)
        model = onnx.load(smoothed)
        smooth_products(model, chosen, source.statistics, smooth)
        onnx.save(model, smoothed)
        with _quiet_onnxruntime():
            quantize(
                smoothed,
                target,
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=weight_bits < 8,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["MatMul"],
                nodes_to_quantize=chosen,
            )


def quantize_blocks(source: QuantizationSource, target: Path, *, block: int, leave_out: float = 0.0) -> None:
    """Quantize weights to 8 bits in blocks with a scale each: ONNX Runtime's MatMulNBits at accuracy level 4.

    The vocabulary matrix is quantized as :func:`quantize_vocabulary` does, with 8 bits.

    Parameters
    ----------
    source : QuantizationSource
        The float32 graph.
    target : Path
        The ONNX file to write.
    block : int
        Weights of a block.
    leave_out : float
        The share of the products that stays float32, the most sensitive first.
    """
    quantize_vocabulary(source, target, weight_bits=8)
    with no_telemetry(), _quiet_onnxruntime():
        from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

        quantizer = MatMulNBitsQuantizer(
            onnx.load(target),
            algo_config=DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=True, accuracy_level=4, bits=8),
            nodes_to_exclude=sorted(source.left_out(leave_out)),
        )
        quantizer.process()
    onnx.save(quantizer.model.model, target)


def _fold_transposed_weights(graph: onnx.GraphProto) -> None:
    """Store transposed weights as they are multiplied: the quantizer passes over a product with a computed operand."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "Transpose" and n.input[0] in weights]:
        permutation = next(list(a.ints) for a in node.attribute if a.name == "perm")
        array = numpy_helper.to_array(weights[node.input[0]]).transpose(permutation)
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), node.output[0]))
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)


@contextlib.contextmanager
def _quiet_onnxruntime() -> Iterator[None]:
    """The quantizers log advice and progress, and one sets up the root logger on import; what fails is raised."""
    root = logging.getLogger()
    handlers, level, disabled = list(root.handlers), root.level, logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        root.setLevel(level)
        for handler in [h for h in root.handlers if h not in handlers]:
            root.removeHandler(handler)
