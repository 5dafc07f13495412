"""Writing a pooled graph as one ONNX file."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from torch import nn

from ..runtime.errors import ExportError
from .inputs import SpladeExporterConfig

OPSET = 18


def write_onnx(module: nn.Module, description: SpladeExporterConfig, path: Path) -> None:
    """Export ``module`` to ``path`` (opset 18, weights inside, batch and length dynamic, no metadata of this machine).

    Raises ExportError if PyTorch cannot turn the module into a graph.
    """
    axes = {name: torch.export.Dim(name) for name in ("batch", "length")}
    shapes = {
        name: {axis: axes[label] for axis, label in dynamic.items()} for name, dynamic in description.inputs.items()
    }
    try:
        with _quiet_torch(), torch.inference_mode():
            program = torch.onnx.export(
                module,
                description.example_inputs(),
                None,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(description.inputs),
                output_names=list(description.outputs),
                dynamic_shapes=shapes,
                verbose=False,
            )
            if program is None:
                raise ExportError("torch.onnx.export gave no program; use torch 2.6 or newer")
            program.save(path, external_data=False)
    except (RuntimeError, torch.onnx.OnnxExporterError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ExportError(f"PyTorch cannot export this architecture to ONNX ({reason})") from error
    model = onnx.load(path)
    _strip_metadata(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _strip_metadata(model: onnx.ModelProto) -> None:
    """Remove what tells of the machine and of this source tree: stack traces, module paths, doc strings.

    What is left depends on the checkpoint and the versions alone, so the same export gives the same bytes.
    """
    graph = model.graph
    del model.metadata_props[:]
    model.doc_string = graph.doc_string = ""
    del graph.metadata_props[:]
    for holder in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        for item in holder:
            item.doc_string = ""
            del item.metadata_props[:]


@contextlib.contextmanager
def _quiet_torch() -> Iterator[None]:
    """Keep the exporter's notices (torchvision is absent, axes share names) off the terminal; errors are raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
