"""Writing a pooled graph as one ONNX file."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import traceback
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from ..models.quiet import quiet_transformers
from ..runtime.errors import ExportError
from .inputs import SpladeExporterConfig

OPSET = 18
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# Lines of a message that say where in a library's source it was raised, and headings.
_LOCATION = re.compile(r"(Exception from|Check '.*' failed at) |.*\.(cpp|hpp|h|cc):\d+|.*:$|=+$|-+$")


def write_onnx(module: nn.Module, description: SpladeExporterConfig, path: Path) -> None:
    """Export a module as one ONNX file: opset 18, weights inside, batch and length dynamic.

    The file has no metadata of this machine: the same export gives the same bytes.

    Parameters
    ----------
    module : torch.nn.Module
        What to export.
    description : SpladeExporterConfig
        Its inputs and outputs.
    path : Path
        The file to write.

    Raises
    ------
    ExportError
        If PyTorch cannot turn the module into a graph; the message has the innermost reason.
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
    except Exception as error:  # whatever the model's own code raises while it is traced, and three libraries'
        if isinstance(error, ExportError | OSError | MemoryError):
            raise
        raise ExportError(
            f"PyTorch cannot turn {type(getattr(module, 'encoder', module)).__name__} into an ONNX graph "
            f"({root_cause(error)}); this architecture cannot be exported"
        ) from error
    model = onnx.load(path)
    _name_squeezed_axes(model)
    _strip_metadata(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _name_squeezed_axes(model: onnx.ModelProto) -> None:
    """Say which axes a Squeeze removes, where PyTorch's ``squeeze()`` left it to the sizes.

    A batch of one text would lose its batch axis, too (mBART's decoder start tokens).
    """
    shapes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.value_info}
    for node in model.graph.node:
        if node.op_type != "Squeeze" or len(node.input) != 1 or node.input[0] not in shapes:
            continue
        axes = [i for i, size in enumerate(shapes[node.input[0]]) if size.dim_value == 1]
        name = f"{node.output[0]}_axes"
        model.graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), name))
        node.input.append(name)


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


def root_cause(error: BaseException, length: int = 160) -> str:
    """Describe the innermost error of a chain on one line of plain text.

    It says where in a model's code the error was raised, its type, and the first sentence of its message. PyTorch wraps
    errors in advice and program listings with terminal colours, OpenVINO in source locations.

    Parameters
    ----------
    error : BaseException
        The outermost error.
    length : int
        The most characters of the message.

    Returns
    -------
    str
        The description.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    places = [
        f"{Path(frame.filename).name} line {frame.lineno}: "
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).name.startswith("modeling_")
    ]
    return (places or [""])[-1] + _sentence(error, length)


def _sentence(error: BaseException, length: int) -> str:
    if type(error).__name__ == "GuardOnDataDependentSymNode":
        return "its code branches on the values of a tensor"
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines()]
    telling = [line for line in lines if line and not _LOCATION.match(line)]
    text = " ".join((telling or [""])[0].split())
    text = text if len(text) <= length else text[:length] + "…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextlib.contextmanager
def _quiet_torch() -> Iterator[None]:
    """Keep what PyTorch, transformers and the exporter say while they trace off the terminal; errors are raised.

    All logging is off meanwhile: PyTorch has dozens of loggers with handlers of their own, which are made on demand.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with quiet_transformers(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
