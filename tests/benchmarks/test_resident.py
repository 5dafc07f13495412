"""The benchmark of memory, small: it runs, and what it says adds up."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import resident


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_resident(tmp_path, capsys):
    arguments = ["--documents", "2000", "--memory", "8M", "--work", str(tmp_path / "work")]
    resident.main([*arguments, "--json", str(tmp_path / "log.json")])
    results = json.loads((tmp_path / "log.json").read_text())["results"]
    assert results["write"]["documents"] == results["search"]["documents"] == 2000
    assert results["write"]["peak_mb"] >= results["write"]["before_mb"] > 10
    steps = results["search"]["steps"]
    assert len(steps) == 5
    assert all(mb["anonymous"] > 10 and mb["files"] > 10 for mb in steps.values())
    assert "the writer's" in capsys.readouterr().out
