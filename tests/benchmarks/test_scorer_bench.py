"""The side-by-side harness, run on a small collection with the engines that need no peer."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import scorer
from benchmarks.engines import SpladeEdge
from benchmarks.oracle import Verdict
from benchmarks.scorer_report import Case


def test_engines_side_by_side(tmp_path, capsys):
    arguments = ["--documents", "2000", "--k", "5,50", "--queries", "20", "--check", "10", "--rounds", "2"]
    arguments += ["--engines", "splade-edge,SciPy", "--budget", "2", "--work", str(tmp_path / "work")]
    scorer.main([*arguments, "--output", str(tmp_path), "--json", str(tmp_path / "log.json")])
    log = json.loads((tmp_path / "log.json").read_text())
    cases = log["results"]["collections"][0]["cases"]
    assert {(c["engine"], c["set"], c["k"]) for c in cases} == {
        (engine, s, k) for engine in ("splade-edge", "SciPy") for s in ("short", "long") for k in (5, 50)
    }
    assert all(c["agree"] == 1.0 and c["recall"] == 1.0 for c in cases)
    assert all(c["identical"] == 1.0 for c in cases if c["engine"] == "splade-edge")
    assert (tmp_path / "latency-k.png").stat().st_size > 10_000
    assert "2,000 documents, short queries" in capsys.readouterr().out


def test_unknown_engine_is_refused():
    with pytest.raises(SystemExit, match="no engine is called Elastic"):
        scorer.main(["--engines", "Elastic"])


def test_a_query_counts_with_its_median_over_the_rounds():
    rounds = [[1e-3, 2e-3, 9e-3], [1e-3, 50e-3], [3e-3, 2e-3]]
    case = Case.of(SpladeEdge, 10, "short", 5, rounds, 0.5e-3, Verdict(1, 1.0, 1.0, 1.0))
    assert case.queries == 2
    assert case.mean == pytest.approx(1.5)
    assert case.best == pytest.approx(0.5)
    assert case.high == pytest.approx(25.5)
    assert np.isclose(case.low, 1.5)
