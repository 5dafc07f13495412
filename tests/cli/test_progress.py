from __future__ import annotations

import io
import sys
import time

import pytest
from splade_edge.runtime.build.corpus import Record
from splade_edge.runtime.build.indexing import Progress as IndexState
from splade_edge.runtime.build.lines import ReadMeter
from splade_edge.runtime.cli import progress
from splade_edge.runtime.cli.index import IndexingProgress
from splade_edge.runtime.document import Document


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_line_now_and_then(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Progress("Encoding", "document", lambda: 0.25) as bar:
        for step in range(1, 41):
            clock.now = 100.0 + step
            bar.update(step * 10)
        bar.phase("Merging")
        clock.now = 150.0
        bar.update(400)
    assert capsys.readouterr().err.splitlines() == [
        "Encoding: 150 documents, 10.0/s, 25%, about 45 s left",
        "Encoding: 300 documents, 10.0/s, 25%, about 2 min left",
        "Merging: 400 documents, 8.0/s, 25%, about 2 min left",
    ]


def test_an_unknown_end(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Progress("Encoding", "document", lambda: None) as bar:
        clock.now += 20
        bar.update(5)
    assert capsys.readouterr().err == "Encoding: 5 documents, 0.2/s\n"


def test_a_bar_on_a_terminal(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress.Progress("Encoding [x]", "document", lambda: 0.5) as bar:
        clock.now += 10
        bar.update(7)
    assert "Encoding [x]" in terminal.getvalue()
    assert "7 documents, 0.7/s, 50%, about 10 s left" in terminal.getvalue()


def test_the_share_that_is_done() -> None:
    meter = ReadMeter()
    state = IndexingProgress(1000, meter)
    assert state.fraction() is None
    records = state.count(Record(Document(str(i)), "") for i in range(4))
    for _ in range(4):
        next(records)
    meter.bytes_read = 1000
    with progress.Progress("", "", state.fraction) as bar:
        state.show(bar, IndexState(1, 1, 0.0))
        assert state.fraction() == 0.25  # all is read, but a quarter is encoded
        state.show(bar, IndexState(4, 4, 0.0))
        assert state.fraction() == 1.0
        state.show(bar, IndexState(4, 4, 0.5))
        assert state.fraction() == 0.5
    assert IndexingProgress(None, meter).fraction() is None
