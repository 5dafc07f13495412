"""Which encoder backend is loaded, and that the native one is behind the same interface as the others."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import splade_edge.runtime.encoder

from .. import tiny
from ..transformers import write_transformer_artifact

ENCODER = Path(splade_edge.runtime.encoder.__file__).parent


def imported(file: Path) -> list[tuple[str, bool]]:
    """The modules that a module of encoder/ imports, relative to encoder/, and whether at its top level."""
    tree = ast.parse(file.read_text())
    top = {id(node) for node in tree.body}
    return [
        (name, id(node) in top)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 1
        for name in ([node.module] if node.module else [alias.name for alias in node.names])
    ]


def test_only_sessions_knows_the_native_backend_and_loads_it_when_it_is_needed() -> None:
    users = {
        (file.name, top)
        for file in ENCODER.glob("*.py")
        for name, top in imported(file)
        if name.split(".")[0] == "native"
    }
    assert users == {("sessions.py", False)}


@pytest.mark.parametrize(
    ("backend", "absent"),
    [
        ("kernel", ["onnx_session", "openvino_session", "table_session"]),
        ("onnx", ["openvino_session", "table_session", "native"]),
    ],
)
def test_an_encoder_loads_its_backend_alone(tmp_path: Path, backend: str, absent: list[str]) -> None:
    path = (
        write_transformer_artifact(tmp_path / "a")
        if backend == "kernel"
        else tiny.write_artifact(tmp_path / "a", "query")
    )
    script = f"""
import sys
from splade_edge.runtime import Encoder
Encoder.open({str(path)!r}, threads=1).encode_query("cat")
print(*[name for name in {absent!r} if "splade_edge.runtime.encoder." + name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
