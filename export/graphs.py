"""The files of one artifact's graphs: each backend in fp32 and, by recipe, int8. Or the table in their place."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..models.checkpoint import Checkpoint
from ..models.look_up import Table
from ..runtime.artifact import Backend, Side, Variant, variant_files
from ..runtime.errors import ExportError, SpladeEdgeError
from .graph import pooled_graph
from .half_storage import halve_weights
from .inputs import SpladeExporterConfig
from .onnx_graph import Inputs
from .quantize_logits import quantize_logits
from .quantize_openvino import compress_weights, quantize_activations
from .quantize_ort import quantize_blocks, quantize_dynamic, quantize_static
from .quantize_rows import quantize_rows
from .quantize_vocabulary import quantize_vocabulary
from .recipes import Function, Recipe
from .source import QuantizationSource
from .split_decoder import split_decoder
from .texts import SampleTexts
from .to_onnx import root_cause, write_onnx
from .to_openvino import read_openvino, write_openvino
from .write_kernel import write_kernel

_SUFFIX = {"onnx": ".onnx", "openvino": ".xml", "kernel": ".bin"}
_TABLE = "table.f32"
FUNCTIONS: Mapping[Function, Callable[..., Any]] = {
    "quantize_vocabulary": quantize_vocabulary,
    "quantize_logits": quantize_logits,
    "quantize_rows": quantize_rows,
    "quantize_blocks": quantize_blocks,
    "quantize_static": quantize_static,
    "quantize_dynamic": quantize_dynamic,
    "compress_weights": compress_weights,
    "quantize_activations": quantize_activations,
    "write_kernel": write_kernel,
}


def trace(checkpoint: Checkpoint, path: Path, calibration: SampleTexts) -> QuantizationSource:
    """Write the float32 ONNX graph of an encoder, from which all others are made. Raises ExportError."""
    path.parent.mkdir(exist_ok=True)
    write_onnx(pooled_graph(checkpoint), SpladeExporterConfig(checkpoint.model.config), path)
    return QuantizationSource(path, calibration_inputs(checkpoint, calibration), checkpoint)


def write_fp32(source: QuantizationSource, directory: Path, backend: Backend) -> Variant:
    """Write the float32 graph of a backend under ``directory``."""
    path = f"{backend}/fp32{_SUFFIX[backend]}"
    target = directory / path
    target.parent.mkdir(exist_ok=True)
    if backend == "openvino":
        write_openvino(read_openvino(source.path), target)
    elif target != source.path:
        shutil.copyfile(source.path, target)
    return Variant(backend, "fp32", path, "", "any", source.batch_invariant)


def write_int8(recipe: Recipe, source: QuantizationSource, directory: Path, name: str = "") -> Variant:
    """Quantize by a recipe into ``directory``; the file is called ``name``, or by what CPUs it is for.

    Raises ExportError if this graph cannot be quantized so.
    """
    form = _form(recipe)
    path = f"{form}/{name or _int8_name(recipe)}{_SUFFIX[form]}"
    target = directory / path
    target.parent.mkdir(exist_ok=True)
    try:
        described = FUNCTIONS[recipe.function](source, target, **recipe.options)
        if form != "kernel":
            halve_weights(target)
    except (SpladeEdgeError, OSError, MemoryError):
        raise
    except Exception as error:  # the quantizers of three libraries, each with errors of its own
        raise ExportError(
            f"the recipe {recipe.name!r} does not quantize this architecture for {recipe.backend} "
            f"({root_cause(error)}); choose another --recipe, or export with --no-int8"
        ) from error
    invariant = recipe.batch_invariant and source.batch_invariant
    variant = Variant(form, "int8", path, recipe.name, recipe.isa, invariant)
    if form == "kernel":
        return msgspec.structs.replace(variant, transformer=described)
    return split_decoder(directory, variant)


def adopt(variant: Variant, recipe: Recipe, origin: Path, directory: Path) -> Variant:
    """Move a quantized graph that was made in ``origin`` to where :func:`write_int8` would have written it."""
    form = _form(recipe)
    path = f"{form}/{_int8_name(recipe)}{_SUFFIX[form]}"
    adopted = msgspec.structs.replace(variant, path=path)
    for old, new in zip(variant_files(variant), variant_files(adopted), strict=True):
        (directory / new).parent.mkdir(exist_ok=True)
        shutil.copyfile(origin / old, directory / new)
    return adopted


def write_table(table: Table, directory: Path) -> Variant:
    """Write the table of a query side without an encoder: float32 ``[vocab_size]``, little-endian."""
    (directory / _TABLE).write_bytes(table.astype("<f4").tobytes())
    return Variant("table", "fp32", _TABLE, "", "any", True)


def calibration_inputs(checkpoint: Checkpoint, texts: SampleTexts) -> list[Inputs]:
    """Token ids and masks of the calibration texts of the checkpoint's side, one text each, without padding."""
    of_side: dict[Side, Sequence[str]] = {"query": texts.queries, "document": texts.documents}
    inputs: list[Inputs] = []
    for side in checkpoint.sides:
        for ids in filter(None, (checkpoint.token_ids(text, side) for text in of_side[side])):
            inputs.append({"input_ids": np.array([ids], np.int64), "attention_mask": np.ones((1, len(ids)), np.int64)})
    return inputs


def _form(recipe: Recipe) -> Backend:
    return "kernel" if recipe.function == "write_kernel" else recipe.backend


def _int8_name(recipe: Recipe) -> str:
    return "int8" if recipe.isa == "any" else f"int8-{recipe.isa}"
