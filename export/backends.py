"""The registry of backends: how each one writes an encoder in float32 and in int8.

Which recipes a backend has is data, in :mod:`recipes`, and can be read before PyTorch is loaded.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..runtime.artifact import Backend, TransformerPart, Variant
from .decoder_layout import lay_out_decoder
from .half_storage import halve_weights
from .quantize_logits import quantize_logits
from .quantize_openvino import compress_weights, quantize_activations
from .quantize_ort import quantize_blocks, quantize_dynamic, quantize_static
from .quantize_rows import quantize_rows
from .quantize_vocabulary import quantize_vocabulary
from .recipes import Function
from .source import QuantizationSource
from .to_openvino import read_openvino, write_openvino
from .write_kernel import write_kernel

# Called with the source, the target, and the options of the recipe. A kernel form is described by what is returned.
Quantizer = Callable[..., TransformerPart | None]


@dataclass(frozen=True)
class BackendWriter:
    """How one backend writes its files.

    Attributes
    ----------
    suffix : str
        The suffix of the file that the manifest names.
    quantizers : dict of str to callable
        The function of each of the backend's recipes.
    write_fp32 : callable or None
        Writes the float32 graph of a source to a path. None for a backend with int8 only.
    compact : callable or None
        Makes a written file smaller without changing its values.
    complete : callable or None
        Takes the artifact's directory and the finished int8 variant, and returns the variant to list.
    """

    suffix: str
    quantizers: dict[Function, Quantizer]
    write_fp32: Callable[[QuantizationSource, Path], None] | None = None
    compact: Callable[[Path], None] | None = None
    complete: Callable[[Path, Variant], Variant] | None = None


def _write_onnx_fp32(source: QuantizationSource, target: Path) -> None:
    if target != source.path:
        shutil.copyfile(source.path, target)


def _write_openvino_fp32(source: QuantizationSource, target: Path) -> None:
    write_openvino(read_openvino(source.path), target)


WRITERS: Mapping[Backend, BackendWriter] = {
    "onnx": BackendWriter(
        ".onnx",
        {
            "quantize_vocabulary": quantize_vocabulary,
            "quantize_logits": quantize_logits,
            "quantize_rows": quantize_rows,
            "quantize_blocks": quantize_blocks,
            "quantize_static": quantize_static,
            "quantize_dynamic": quantize_dynamic,
        },
        write_fp32=_write_onnx_fp32,
        compact=halve_weights,
        complete=lay_out_decoder,
    ),
    "openvino": BackendWriter(
        ".xml",
        {"compress_weights": compress_weights, "quantize_activations": quantize_activations},
        write_fp32=_write_openvino_fp32,
        compact=halve_weights,
    ),
    "kernel": BackendWriter(".bin", {"write_kernel": write_kernel}),
}
