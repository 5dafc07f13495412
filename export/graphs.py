"""All graph files of one artifact: each backend in fp32 and, by recipe, int8. Or the table in their place."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..models.checkpoint import Checkpoint
from ..models.look_up import Table
from ..runtime.artifact import Backend, Variant
from . import quantize_onnx, quantize_openvino
from .graph import pooled_graph
from .half_storage import halve_weights
from .inputs import SpladeExporterConfig
from .recipes import Recipe
from .split_decoder import split_decoder
from .texts import SampleTexts
from .to_onnx import write_onnx
from .to_openvino import read_openvino, write_openvino

_ONNX, _OPENVINO = ("onnx/fp32.onnx", "onnx/int8.onnx"), ("openvino/fp32.xml", "openvino/int8.xml")
_TABLE = "table.f32"
# Runs one step under a name, for progress.
Run = Callable[[str, Callable[[], Any]], Any]


def graph_count(backends: Sequence[Backend], *, int8: bool) -> int:
    """How many graphs :func:`write_graphs` writes."""
    return len(backends) * (2 if int8 else 1)


def write_graphs(
    checkpoint: Checkpoint,
    directory: Path,
    *,
    recipes: Mapping[Backend, Recipe | None],
    calibration: SampleTexts,
    run: Run,
) -> list[Variant]:
    """Write the graphs of every backend in ``recipes`` under ``directory`` and describe them.

    A backend whose recipe is None gets float32 only. Raises ExportError.
    """
    variants: list[Variant] = []
    with tempfile.TemporaryDirectory(dir=directory, ignore_cleanup_errors=True) as temporary:
        # OpenVINO converts the ONNX graph, so it is made in any case.
        source = directory / _ONNX[0] if "onnx" in recipes else Path(temporary) / "graph.onnx"
        source.parent.mkdir(exist_ok=True)
        description = SpladeExporterConfig(checkpoint.model.config)
        trace = f"{checkpoint.role}: onnx fp32"
        if "onnx" in recipes:
            run(trace, lambda: write_onnx(pooled_graph(checkpoint), description, source))
            variants.append(Variant("onnx", "fp32", _ONNX[0], "", "any", True))
            recipe = recipes["onnx"]
            if recipe is not None:
                run(f"{checkpoint.role}: onnx int8 ({recipe.name})", partial(_quantize_onnx, recipe, source, directory))
                variants.append(_int8_variant(recipe, _ONNX[1]))
        else:
            write_onnx(pooled_graph(checkpoint), description, source)
        if "openvino" in recipes:
            (directory / "openvino").mkdir()
            run(
                f"{checkpoint.role}: openvino fp32",
                lambda: write_openvino(read_openvino(source), directory / _OPENVINO[0]),
            )
            variants.append(Variant("openvino", "fp32", _OPENVINO[0], "", "any", True))
            recipe = recipes["openvino"]
            if recipe is not None:
                inputs = _calibration_inputs(checkpoint, calibration) if recipe.calibrated else []
                run(
                    f"{checkpoint.role}: openvino int8 ({recipe.name})",
                    partial(_quantize_openvino, recipe, source, directory, inputs),
                )
                variants.append(_int8_variant(recipe, _OPENVINO[1]))
    for variant in variants:
        halve_weights(directory / variant.path)
    return [split_decoder(directory, variant) for variant in variants]


def write_table(table: Table, directory: Path) -> Variant:
    """Write the table of a query side without an encoder: float32 ``[vocab_size]``, little-endian."""
    (directory / _TABLE).write_bytes(table.astype("<f4").tobytes())
    return Variant("table", "fp32", _TABLE, "", "any", True)


def _int8_variant(recipe: Recipe, path: str) -> Variant:
    return Variant(recipe.backend, "int8", path, recipe.name, recipe.isa, recipe.batch_invariant)


def _quantize_onnx(recipe: Recipe, source: Path, directory: Path) -> None:
    getattr(quantize_onnx, recipe.function)(source, directory / _ONNX[1], **recipe.options)


def _quantize_openvino(recipe: Recipe, source: Path, directory: Path, inputs: quantize_openvino.Calibration) -> None:
    function = getattr(quantize_openvino, recipe.function)
    model = read_openvino(source)
    model = function(model, inputs, **recipe.options) if recipe.calibrated else function(model, **recipe.options)
    write_openvino(model, directory / _OPENVINO[1])


def _calibration_inputs(checkpoint: Checkpoint, texts: SampleTexts) -> quantize_openvino.Calibration:
    """Token ids and masks of the calibration texts of the checkpoint's side, one text each, without padding."""
    queries = texts.queries if checkpoint.role != "document" else ()
    documents = texts.documents if checkpoint.role != "query" else ()
    inputs = []
    for text in (*queries, *documents):
        ids = checkpoint.tokenizer(text, truncation=True, max_length=checkpoint.max_length)["input_ids"]
        inputs.append({"input_ids": np.array([ids], np.int64), "attention_mask": np.ones((1, len(ids)), np.int64)})
    return inputs
