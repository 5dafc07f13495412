"""The benchmark of filters, small: what it answers is right, and the table says what was read."""

from __future__ import annotations

import json

from benchmarks import filters


def test_filters(tmp_path, capsys):
    arguments = ["--documents", "2000", "--repeat", "1", "--queries", "5", "--work", str(tmp_path / "work")]
    filters.main([*arguments, "--json", str(tmp_path / "log.json")])
    results = json.loads((tmp_path / "log.json").read_text())["results"]
    answers = {answer["filter"]: answer for answer in results["answers"]}
    everything = filters.documents(2000)
    assert answers["day < 10"]["found"] == sum(d.metadata["day"] < 10 for d in everything)
    assert answers["price < 200"] == {**answers["price < 200"], "found": 200, "read": 0}
    assert answers["rank = 500"]["read"] == 2000
    assert {s["share"] for s in results["searches"]} == {1.0, 0.5, 0.1, 0.01, 0.001}
    assert "Answering a filter" in capsys.readouterr().out
