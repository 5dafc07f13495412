"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from splade_edge.runtime.telemetry import no_telemetry
from splade_edge.runtime.warming import use_kernels

from . import tiny

if tiny.HAS_OPENVINO:
    with no_telemetry():  # whatever a test imports later, the engine has the silent stub
        importlib.import_module("openvino")


use_kernels()  # of the processes that tests start, those that ask little use NumPy


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder for both sides, ONNX and (where installed) OpenVINO. Do not write into it."""
    return tiny.write_artifact(tmp_path_factory.mktemp("tiny") / "artifact", openvino=tiny.HAS_OPENVINO)


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pair of a query and a document encoder, ONNX only. Do not write into it."""
    return tiny.write_pair(tmp_path_factory.mktemp("tiny") / "pair")
