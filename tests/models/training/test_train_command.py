"""``splade-edge train`` as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from splade_edge.runtime.locking import writer_lock

from .conftest import RunWriter

COMMAND = [sys.executable, "-m", "splade_edge.models.training"]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"COLUMNS": "120"},
    )


def test_trains_and_says_what_was_written(write_run: RunWriter, tmp_path: Path) -> None:
    done = run(write_run(), "-o", tmp_path / "out", "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"wrote {tmp_path / 'out' / 'pair'}"
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "cache", "checkpoint", "curves.png", "log.jsonl", "pair", "splade_edge_train.lock",
    }  # fmt: skip
    again = run(write_run(), "-o", tmp_path / "out", "--threads", "1")
    assert again.returncode == 0
    assert "going on after step 4 of 4" in again.stderr


def test_an_interrupt_keeps_the_state(write_run: RunWriter, tmp_path: Path) -> None:
    path = write_run(training="steps = 100000\nbatch = 4")
    process = subprocess.Popen([*COMMAND, path, "-o", tmp_path / "out", "--threads", "1"], stdout=subprocess.PIPE)
    log = tmp_path / "out" / "log.jsonl"
    deadline = time.monotonic() + 240
    while not (log.is_file() and log.read_text().count("\n") > 3) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert b"the same command goes on from there" in out
    assert (tmp_path / "out" / "checkpoint" / "state.json").is_file()


def test_faults_of_a_run_file_are_one_line(write_run: RunWriter, tmp_path: Path) -> None:
    wrong = run(write_run("[training2]\nx = 1"), "-o", tmp_path / "out")
    assert wrong.returncode == 2
    assert "training2" in wrong.stderr
    assert wrong.stderr.count("\n") == 1
    missing = run(tmp_path / "none.toml", "-o", tmp_path / "out")
    assert missing.returncode == 2
    assert "cannot read the run file" in missing.stderr
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    taken = run(write_run(), "-o", tmp_path / "file")
    assert taken.returncode == 2
    assert "is not a directory; choose another --output" in taken.stderr


def test_one_process_trains_in_a_directory(write_run: RunWriter, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with writer_lock(tmp_path / "out" / "splade_edge_train.lock"):
        second = run(write_run(), "-o", tmp_path / "out")
    assert second.returncode == 1
    assert f"{tmp_path / 'out'} is being changed by another process (process {os.getpid()})" in second.stderr
    assert second.stderr.count("\n") == 1
    assert not (tmp_path / "out" / "log.jsonl").exists()


def test_a_killed_run_ends_as_one_that_was_not(write_run: RunWriter, tmp_path: Path) -> None:
    path = write_run(training="steps = 60\nbatch = 4")
    assert run(path, "-o", tmp_path / "whole", "--threads", "1").returncode == 0
    process = subprocess.Popen([*COMMAND, path, "-o", tmp_path / "killed", "--threads", "1"], stdout=subprocess.PIPE)
    log = tmp_path / "killed" / "log.jsonl"
    while process.poll() is None and not (log.is_file() and log.read_text().count("\n") > 5):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert run(path, "-o", tmp_path / "killed", "--threads", "1").returncode == 0
    for side in ("query", "document"):
        whole, killed = (tmp_path / d / "pair" / side / "model.safetensors" for d in ("whole", "killed"))
        assert whole.read_bytes() == killed.read_bytes()
    assert log.read_text().count("\n") == 61
