from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from .conftest import Cli

pytest.importorskip("ir_measures")


@pytest.fixture
def qrels(tmp_path: Path) -> Path:
    path = tmp_path / "qrels.tsv"
    path.write_text("query-id\tcorpus-id\tscore\nq1\tcats\t1\nq2\twings\t1\nq3\tbread\t1\nq4\tcats\t1\n", "utf-8")
    return path


def test_measures(cli: Cli, index: Path, queries: Path, qrels: Path) -> None:
    process = cli("eval", index, "--queries", queries, "--qrels", qrels)
    # q4 has no known word, finds nothing and counts as 0
    assert process.stdout.split() == ["queries", "4", "nDCG@10", "0.7500", "RR@10", "0.7500", "R@100", "0.7500"]
    assert process.stderr == "splade-edge: warning: 1 of the queries found nothing\n"


def test_json_and_saved_run(cli: Cli, index: Path, queries: Path, qrels: Path, tmp_path: Path) -> None:
    run = tmp_path / "run.txt"
    process = cli(
        "eval", index, "--queries", queries, "--qrels", qrels, "--measures", "P@1 AP", "--json", "--save-run", run
    )
    result = json.loads(process.stdout)
    assert result == {"queries": 4, "unjudged": 0, "unasked": 0, "k": 1000, "measures": {"P@1": 0.75, "AP": 0.75}}
    assert run.read_text("utf-8").startswith("q1 Q0 cats 1 ")


def test_queries_and_qrels_that_do_not_match_are_counted(cli: Cli, index: Path, queries: Path, tmp_path: Path) -> None:
    (tmp_path / "qrels.tsv").write_text("q1\tcats\t1\nelsewhere\tcats\t1\n", "utf-8")
    process = cli("eval", index, "--queries", queries, "--qrels", tmp_path / "qrels.tsv", "--json")
    assert process.stderr.splitlines() == [
        "splade-edge: warning: 3 of 4 queries have no judgement and are left out",
        f"splade-edge: warning: 1 of 2 judged queries are not in {queries} and are left out",
    ]
    assert json.loads(process.stdout)["measures"]["RR@10"] == 1.0
    (tmp_path / "qrels.tsv").write_text("elsewhere\tcats\t1\n", "utf-8")
    process = cli("eval", index, "--queries", queries, "--qrels", tmp_path / "qrels.tsv", check=2)
    assert "do they belong together?" in process.stderr


@pytest.mark.parametrize("measures", ["nonsense", "nDCG@", "", "RR@10 foo@3"])
def test_unknown_measures(cli: Cli, index: Path, queries: Path, qrels: Path, measures: str) -> None:
    process = cli("eval", index, "--queries", queries, "--qrels", qrels, "--measures", measures, check=2)
    assert "try 'nDCG@10 RR@10 R@100'" in process.stderr
    assert len(process.stderr.splitlines()) == 1


def test_the_returned_order_is_what_is_measured() -> None:
    """Tools order equal scores by id; here rank decides, so the second of two equal documents has RR 1/2."""
    import ir_measures
    from splade_edge.runtime.evaluation import evaluate

    measures = [ir_measures.parse_measure(name) for name in ("RR@10", "nDCG@10")]
    for ranking in (["a", "z"], ["z", "a"]):
        values = evaluate(measures, {"q": {ranking[1]: 1}, "none": {"a": 1}}, {"q": ranking, "none": []})
        assert values["RR@10"] == pytest.approx(0.5 / 2)
        assert values["nDCG@10"] == pytest.approx(1 / math.log2(3) / 2)


def test_without_the_extra(
    index: Path, queries: Path, qrels: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    from splade_edge.runtime.cli.main import main

    monkeypatch.setitem(sys.modules, "ir_measures", None)
    assert main(["eval", str(index), "--queries", str(queries), "--qrels", str(qrels)]) == 2
    assert capsys.readouterr().err == (
        "splade-edge: error: splade-edge eval needs the [eval] extra: "
        "pip install 'splade-edge[eval]' (in a clone: pip install '.[eval]')\n"
    )
