"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import tiny


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder for both sides, ONNX and (where installed) OpenVINO. Do not write into it."""
    return tiny.write_artifact(tmp_path_factory.mktemp("tiny") / "artifact", openvino=tiny.HAS_OPENVINO)


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pair of a query and a document encoder, ONNX only. Do not write into it."""
    return tiny.write_pair(tmp_path_factory.mktemp("tiny") / "pair")
