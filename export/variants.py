"""The files of one artifact's variants: each backend in float32 and, by recipe, int8. Or the table instead."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from ..models.checkpoint import Checkpoint
from ..models.look_up import Table
from ..runtime.artifact import Backend, Side, Variant, variant_files
from ..runtime.errors import ExportError, SpladeEdgeError
from .backends import WRITERS
from .inputs import SpladeExporterConfig
from .onnx_graph import Inputs
from .pooled_module import pooled_graph
from .recipes import Recipe
from .source import QuantizationSource
from .texts import SampleTexts
from .to_onnx import root_cause, write_onnx

_TABLE = "table.f32"


def trace(checkpoint: Checkpoint, path: Path, calibration: SampleTexts) -> QuantizationSource:
    """Write the float32 ONNX graph of an encoder, from which all other graphs are made.

    Parameters
    ----------
    checkpoint : Checkpoint
        An encoder with a model.
    path : Path
        The ONNX file to write.
    calibration : SampleTexts
        The calibration texts, for the recipes.

    Returns
    -------
    QuantizationSource
        The graph with its calibration inputs.

    Raises
    ------
    ExportError
        If PyTorch cannot turn the model into a graph.
    """
    path.parent.mkdir(exist_ok=True)
    write_onnx(pooled_graph(checkpoint), SpladeExporterConfig(checkpoint.model.config), path)
    return QuantizationSource(path, calibration_inputs(checkpoint, calibration), checkpoint)


def write_fp32(source: QuantizationSource, directory: Path, backend: Backend) -> Variant:
    """Write the float32 graph of a backend.

    Parameters
    ----------
    source : QuantizationSource
        The traced ONNX graph.
    directory : Path
        The artifact's directory; the file is written under ``directory/backend/``.
    backend : {"onnx", "openvino"}
        The backend. "kernel" has no float32 form.

    Returns
    -------
    Variant
        The file as the manifest lists it.

    Raises
    ------
    ExportError
        If the backend cannot read the graph, or has no float32 form.
    """
    writer = WRITERS[backend]
    if writer.write_fp32 is None:
        raise ExportError(f"{backend} has no float32 form")
    path = f"{backend}/fp32{writer.suffix}"
    target = directory / path
    target.parent.mkdir(exist_ok=True)
    writer.write_fp32(source, target)
    return Variant(backend, "fp32", path, "", "any", source.batch_invariant)


def write_int8(recipe: Recipe, source: QuantizationSource, directory: Path, name: str = "") -> Variant:
    """Quantize an encoder by a recipe.

    Parameters
    ----------
    recipe : Recipe
        What to do; it names its backend.
    source : QuantizationSource
        The traced ONNX graph.
    directory : Path
        The artifact's directory; the file is written under ``directory/recipe.backend/``.
    name : str
        The name of the file without its suffix. By default the file is named by the CPUs it is for.

    Returns
    -------
    Variant
        The file as the manifest lists it.

    Raises
    ------
    ExportError
        If this encoder cannot be quantized so.
    """
    writer = WRITERS[recipe.backend]
    path = f"{recipe.backend}/{name or _int8_name(recipe)}{writer.suffix}"
    target = directory / path
    target.parent.mkdir(exist_ok=True)
    try:
        transformer = writer.quantizers[recipe.function](source, target, **recipe.options)
        if writer.compact is not None:
            writer.compact(target)
    except (SpladeEdgeError, OSError, MemoryError):
        raise
    except Exception as error:  # the quantizers of three libraries, each with errors of its own
        raise ExportError(
            f"the recipe {recipe.name!r} does not quantize this architecture for {recipe.asked_with} "
            f"({root_cause(error)}); choose another --recipe, or export with --no-int8"
        ) from error
    invariant = recipe.batch_invariant and source.batch_invariant
    variant = Variant(recipe.backend, "int8", path, recipe.name, recipe.isa, invariant, transformer=transformer)
    return variant if writer.complete is None else writer.complete(directory, variant)


def adopt(variant: Variant, recipe: Recipe, origin: Path, directory: Path) -> Variant:
    """Copy an int8 variant to where :func:`write_int8` would have written it.

    Parameters
    ----------
    variant : Variant
        The variant, made in ``origin``.
    recipe : Recipe
        The recipe it was made by.
    origin, directory : Path
        The directory it lies in, and the artifact's.

    Returns
    -------
    Variant
        The variant with its new path.
    """
    path = f"{recipe.backend}/{_int8_name(recipe)}{WRITERS[recipe.backend].suffix}"
    adopted = msgspec.structs.replace(variant, path=path)
    for old, new in zip(variant_files(variant), variant_files(adopted), strict=True):
        (directory / new).parent.mkdir(exist_ok=True)
        shutil.copyfile(origin / old, directory / new)
    return adopted


def write_table(table: Table, directory: Path) -> Variant:
    """Write the table of a query side without an encoder: float32 ``[vocab_size]``, little-endian.

    Parameters
    ----------
    table : float32 array ``[vocab_size]``
        The weight of each term.
    directory : Path
        The artifact's directory.

    Returns
    -------
    Variant
        The file as the manifest lists it.
    """
    (directory / _TABLE).write_bytes(table.astype("<f4").tobytes())
    return Variant("table", "fp32", _TABLE, "", "any", True)


def calibration_inputs(checkpoint: Checkpoint, texts: SampleTexts) -> list[Inputs]:
    """Tokenize the calibration texts of a checkpoint's sides.

    Parameters
    ----------
    checkpoint : Checkpoint
        The encoder.
    texts : SampleTexts
        The texts.

    Returns
    -------
    list of Inputs
        Int64 token ids and mask, ``[1, length]``, of each text; without padding.
    """
    of_side: dict[Side, Sequence[str]] = {"query": texts.queries, "document": texts.documents}
    inputs: list[Inputs] = []
    for side in checkpoint.sides:
        for ids in filter(None, (checkpoint.token_ids(text, side) for text in of_side[side])):
            inputs.append({"input_ids": np.array([ids], np.int64), "attention_mask": np.ones((1, len(ids)), np.int64)})
    return inputs


def _int8_name(recipe: Recipe) -> str:
    return "int8" if recipe.isa == "any" else f"int8-{recipe.isa}"
