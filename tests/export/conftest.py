from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

for module in ("torch", "optimum", "openvino", "nncf"):
    pytest.importorskip(module)

from .. import checkpoints  # noqa: E402 - needs torch

# pytest collects log records of every level, and torch then writes a record for each of thousands of traced shapes.
logging.getLogger("torch.__trace").propagate = False


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT checkpoint. Do not write into it."""
    return checkpoints.write_checkpoint(tmp_path_factory.mktemp("bert") / "tiny-bert")


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pair of checkpoints. Do not write into it."""
    return checkpoints.write_pair(tmp_path_factory.mktemp("pair") / "tiny-pair")


@pytest.fixture(scope="session")
def traced_graphs() -> dict[str, bytes]:
    """ONNX graphs that this session has traced, for ``traced_once``."""
    return {}


@pytest.fixture
def traced_once(traced_graphs: dict[str, bytes]) -> Iterator[None]:
    """Trace equal modules once a session: tracing is seconds of work that most tests do not look at."""
    with pytest.MonkeyPatch.context() as patch:
        _remember_traces(patch, traced_graphs)
        yield


@pytest.fixture(scope="module")
def traced_per_module(traced_graphs: dict[str, bytes]) -> Iterator[None]:
    """:func:`traced_once` for the fixtures of a module."""
    with pytest.MonkeyPatch.context() as patch:
        _remember_traces(patch, traced_graphs)
        yield


def _remember_traces(patch: pytest.MonkeyPatch, traced: dict[str, bytes]) -> None:
    from splade_edge.export import variants

    write_onnx = variants.write_onnx

    def cached(graph: Any, description: Any, path: Path) -> None:
        activation = getattr(graph, "activation", None)
        digest = hashlib.sha256(f"{type(graph)} {getattr(activation, '__name__', '')} {graph}".encode())
        for tensor in graph.state_dict().values():
            digest.update(tensor.numpy().tobytes())
        key = digest.hexdigest()
        if key not in traced:
            write_onnx(graph, description, path)
            traced[key] = path.read_bytes()
        path.write_bytes(traced[key])

    patch.setattr(variants, "write_onnx", cached)


@pytest.fixture(scope="session")
def exported_pair(tmp_path_factory: pytest.TempPathFactory, pair: Path) -> Path:
    """The export of ``pair``, both backends and precisions. Do not write into it."""
    from splade_edge.export.exporter import export
    from splade_edge.export.request import ExportRequest

    output = tmp_path_factory.mktemp("exported") / "pair"
    export(ExportRequest(output=output, checkpoint=str(pair)))
    return output
