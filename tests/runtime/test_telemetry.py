"""Nothing of the engines' own reporting: no files in the home directory, no connection."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .. import tiny

# Every attempt to reach a host would go through one of these.
PROGRAM = """
import sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        sys.stderr.write(f"{event} {arguments}\\n")
sys.addaudithook(refuse)
from splade_edge.runtime import Encoder
encoder = Encoder.open(sys.argv[1], backend=sys.argv[2], threads=1)
print(encoder.encode_query("cat").indices.size)
if sys.argv[3] == "convert":
    from splade_edge.export.quantize_openvino import compress_weights
    from splade_edge.export.source import QuantizationSource
    from pathlib import Path
    source = QuantizationSource(Path(sys.argv[1]) / "onnx/fp32.onnx", [])
    compress_weights(source, Path("x.xml"), mode="INT8_ASYM")
"""


@pytest.mark.parametrize(("backend", "also"), [("onnx", ""), ("openvino", ""), ("onnx", "convert")])
def test_engines_leave_no_trace(tiny_artifact: Path, tmp_path: Path, backend: str, also: str) -> None:
    if (backend == "openvino" or also) and not tiny.HAS_OPENVINO:
        pytest.skip("OpenVINO is not installed")
    home = tmp_path / "home"
    home.mkdir()
    unset = ("ORT_DISABLE_TELEMETRY", "CI", "XDG_CACHE_HOME")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tiny_artifact), backend, also],
        env={**environment, "HOME": str(home), "USERPROFILE": str(home), "NUMBA_CACHE_DIR": str(tmp_path / "numba")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 0
    assert "socket." not in result.stderr
    assert "telemetry" not in result.stderr
    assert [str(path) for path in home.rglob("*") if path.is_file()] == []
