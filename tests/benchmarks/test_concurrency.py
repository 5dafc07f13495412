"""Reading while another process writes, for some seconds: the long form is ``python -m benchmarks.concurrency``."""

from __future__ import annotations

import json

import pytest
from splade_edge.runtime import Index, IndexUpdater

from benchmarks import concurrency
from benchmarks.changes import Changes


def test_readers_and_a_writer(tmp_path, capsys):
    arguments = ["--seconds", "4", "--threads", "8", "--processes", "2", "--documents", "80"]
    concurrency.main([*arguments, "--work", str(tmp_path), "--json", str(tmp_path / "log.json")])
    alone, together = json.loads((tmp_path / "log.json").read_text())
    assert (alone["commits"], alone["generations"]) == (0, 1)
    assert together["commits"] > 1
    assert together["generations"] > 1
    assert min(alone["searches"], together["searches"]) > 50
    assert "every answer was that of its generation" in capsys.readouterr().out


def test_a_wrong_answer_is_found(tmp_path):
    state = Changes()
    state.build(tmp_path / "index")
    index = Index.open(tmp_path / "index")
    assert state.all_wrong(index) is None
    with IndexUpdater.open(tmp_path / "index") as updater:
        updater.delete([state.answer(0, 1)[0][0]])
    assert "instead of" in (state.wrong(index.refresh(), 0) or "")
    assert "has the documents" in (state.all_wrong(index.refresh()) or "")
    with pytest.raises(AssertionError, match="generation"):
        state.step(IndexUpdater.open(tmp_path / "index"))
