"""The edges of a command, as a process: one line, the right exit code, and no finished work reported as failure."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Result, checked

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX descriptors and signals")
MAIN = [sys.executable, "-m", "splade_edge.runtime.cli.main"]
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a command by a shell that may close or redirect what it is given; names may be bytes."""

    def shell(*args: object, streams: str = "", check: int | None = 0, **environment: str) -> Result:
        words = [os.fsencode(str(arg)) if not isinstance(arg, bytes) else arg for arg in (*MAIN, *args)]
        process = subprocess.run(
            [b"sh", b"-c", f'"$@" {streams}'.encode(), b"sh", *words],
            capture_output=True,
            env={**os.environ, "PYTHONUNBUFFERED": "", "COLUMNS": "120", **environment},
            cwd=tmp_path,
        )
        out, err = (data.decode("utf-8", "backslashreplace") for data in (process.stdout, process.stderr))
        err = re.sub("(?m)^Encoding: .*\n", "", err)  # progress, on a machine that does other things too
        return checked(Result(process.returncode, out, err), check)

    return shell


def one_line(result: Result) -> str:
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("splade-edge")
    return result.stderr


@pytest.mark.parametrize(
    ("command", "streams", "reason", "unbuffered"),
    [
        ("info", ">&-", "Bad file descriptor", ""),
        ("info", ">/dev/full", "No space left", ""),
        ("--help", ">/dev/full", "No space left", "1"),
        ("--help", ">&-", "Bad file descriptor", ""),
        ("--version", ">/dev/full", "No space left", ""),
    ],
)
def test_output_that_is_the_work(
    run: Run, index: Path, command: str, streams: str, reason: str, unbuffered: str
) -> None:
    arguments = (command, index) if command == "info" else (command,)
    line = one_line(run(*arguments, streams=streams, check=1, PYTHONUNBUFFERED=unbuffered))
    assert line.startswith(f"splade-edge: error: standard output: {reason}")


def test_a_summary_that_cannot_be_printed(run: Run, tiny_pair: Path, corpus: Path, tmp_path: Path) -> None:
    made, streams = tmp_path / "made", ">/dev/full"
    line = one_line(run("index", tiny_pair, corpus, "-o", made, "--threads", 1, streams=streams))
    assert f"warning: the index {made} is made, but standard output does not take the summary" in line
    line = one_line(run("delete", made, "cats", "--json", streams=streams))
    assert f"warning: the change of {made} is committed, but" in line
    assert json.loads(run("info", made, "--json").stdout)["documents"] == 3
    (made / "segments/00000001/block_impacts.u8").unlink()
    line = one_line(run("check", made, "--repair", streams=streams))
    assert f"warning: the repaired index is in {made}, but standard output does not take the summary" in line
    assert "not checked" not in run("check", made).stdout


def test_a_summary_that_nobody_reads(run: Run, tiny_pair: Path, corpus: Path, tmp_path: Path) -> None:
    done = run("index", tiny_pair, corpus, "-o", "made", "--threads", 1, streams="| (exec <&-; sleep 0)")
    assert done.stderr == ""
    assert (tmp_path / "made/splade_edge_index.json").is_file()


def test_no_stream_at_all(run: Run, tiny_pair: Path, corpus: Path, tmp_path: Path) -> None:
    """A file that took the number of a closed stream would get what is written to the stream."""
    run("index", tiny_pair, corpus, "-o", "made", "--threads", 1, streams=">&- 2>&- <&-")
    assert "not checked" not in run("check", "made").stdout
    for streams in ("2>&-", "2>/dev/full", ">&- 2>&-"):
        for wrong in (("info", "none"), ("nope",), ("search", "made", "cat", "-k", "x"), ("export", "none")):
            assert run(*wrong, streams=streams, check=2).stderr == ""
    for command in (("--version",), ("--help",), ("search", "--help")):
        run(*command, streams=">&- 2>&-", check=1)
    line = one_line(run("search", "made", "-", streams="<&-", check=2))
    assert line == "splade-edge: error: <stdin>: cannot be read after line 0 (Bad file descriptor)\n"


@pytest.mark.parametrize("columns", ["0", "1", "x"])
def test_columns(run: Run, index: Path, columns: str) -> None:
    """A width that is none is not taken, and one too small for a table is made larger."""
    shown = run("search", index, "cat", COLUMNS=columns).stdout.splitlines()
    assert shown[0].startswith("score")
    assert max(map(len, shown)) > 10


def test_names_that_are_too_long(run: Run, index: Path, tiny_pair: Path, corpus: Path, tmp_path: Path) -> None:
    long = "x" * 300
    for arguments in (("info", long), ("search", long, "cat"), ("index", tiny_pair, corpus, "-o", long)):
        assert "File name too long; use a shorter name" in one_line(run(*arguments, check=2))
    assert "File name too long" in one_line(run("index", tiny_pair, f"{long}.jsonl", "-o", "out", check=2))
    deep = tmp_path / "/".join(["d" * 50] * 12)  # the system takes it, SQLite does not
    shutil.copytree(index, deep / "index")
    assert "path of more than 500 bytes; use a place with a shorter one" in one_line(
        run("search", deep / "index", "cat", check=2)
    )
    assert "path of more than 500 bytes" in one_line(run("index", tiny_pair, corpus, "-o", deep / "new", check=2))
    assert sorted(p.name for p in deep.iterdir()) == ["index"]


def test_names_that_are_not_utf8(run: Run, tiny_pair: Path, corpus: Path, tmp_path: Path) -> None:
    name = b"n\xff"
    try:
        shutil.copyfile(corpus, tmp_path / os.fsdecode(name + b".jsonl"))
    except OSError:
        pytest.skip("the file system takes no such name")
    shutil.copytree(tiny_pair, tmp_path / os.fsdecode(b"pair" + name))
    run("index", b"pair" + name, name + b".jsonl", "-o", name, "--threads", 1, "--with-document-encoder")
    assert len(run("search", name, "cat").stdout.splitlines()) > 1
    assert json.loads(run("info", name, "--json").stdout)["documents"] == 4
    assert "not checked" not in run("check", name).stdout
    run("update", name, name + b".jsonl")
    run("delete", name, "cats")
    line = one_line(run("add", name, name + b".jsonl", check=2))
    assert "n\\udcff.jsonl:2: the id 'wings' was used before" in line


def test_an_error_that_would_echo_a_megabyte(run: Run, tiny_pair: Path, tmp_path: Path) -> None:
    (tmp_path / "big.jsonl").write_text(json.dumps({"k" * 1_000_000: 5}), "utf-8")
    line = one_line(run("index", tiny_pair, "big.jsonl", "-o", "out", check=2))
    assert len(line) < 1100
    assert 'big.jsonl:1: no "_id"' in line
    assert line.endswith("k')\n")
    line = one_line(run("search", "out", "cat", "--idf", "9" * 100_000, check=2))
    assert len(line) < 1100
    assert line.endswith("(see splade-edge search --help)\n")


RUNNING = "from splade_edge.runtime.cli import main; sys.exit(main.guarded(lambda: {}))"


@pytest.mark.parametrize(("module", "ours"), [("start", True), ("main", False)])
def test_an_interrupt_while_modules_are_loaded(module: str, ours: bool) -> None:
    """The console script is one line from its first import on; a library leaves interrupts alone."""
    code = "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(20)"
    code = f"import splade_edge.runtime.cli.{module}; {code}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    if ours:
        assert (done.returncode, done.stderr) == (130, "splade-edge: error: interrupted\n")
    else:
        assert "KeyboardInterrupt" in done.stderr


@pytest.mark.parametrize(
    "action",
    [
        "os.kill(os.getpid(), signal.SIGINT) or time.sleep(20)",
        "failing_import()",
        "callback()",
    ],
)
def test_an_interrupt_while_a_command_runs(action: str) -> None:
    """Whatever comes of it on the way: another error, or nothing where it fell into a finalizer."""
    code = """
import os, signal, sys, time
class Last:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
def callback():
    Last()
    time.sleep(20)
def failing_import():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(20)
    except KeyboardInterrupt:
        raise ImportError("a part of it is not there")
"""
    done = subprocess.run(
        [sys.executable, "-c", code + RUNNING.format(action)], capture_output=True, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "splade-edge: error: interrupted\n")


@pytest.mark.skipif(sys.platform != "linux", reason="counts in KiB")
def test_a_line_of_64_mb(tiny_pair: Path, tmp_path: Path) -> None:
    """It takes a few times its size, for it is cut before it is tokenized."""
    code = "import resource as r, subprocess, sys; subprocess.run(sys.argv[1:], check=True, capture_output=True); "
    code += "print(r.getrusage(r.RUSAGE_CHILDREN).ru_maxrss)"
    peaks = []
    for name, times in (("short", 1), ("long", 3_190_000)):
        corpus = tmp_path / f"{name}.jsonl"
        corpus.write_text(json.dumps({"_id": "a", "text": "the cat in the rain " * times}), "utf-8")
        words = ["index", tiny_pair, corpus, "-o", tmp_path / f"{name}-index", "--threads", 1]
        command = [sys.executable, "-c", code, *MAIN, *map(str, words)]
        peaks.append(int(subprocess.run(command, capture_output=True, check=True).stdout) / 1024)
    assert peaks[1] - peaks[0] < 300, peaks


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["none"]])
def test_an_interrupt_when_all_is_said(arguments: list[str]) -> None:
    """It comes too late, also where the command line ends before a command begins."""
    code = (
        "import atexit, os, signal; from splade_edge.runtime.cli import main; "
        f"atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT)); main.run({arguments})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert done.returncode == (2 if arguments == ["none"] else 0)
    assert "KeyboardInterrupt" not in done.stderr


def test_progress_that_nobody_reads(run: Run, tiny_pair: Path, corpus: Path, tmp_path: Path) -> None:
    """A line of progress on a broken standard error is no reason to end the work."""
    code = (
        "import sys; from splade_edge.runtime.cli import main, progress; progress.SECONDS_BETWEEN_LINES = 0.0; "
        "main.run(sys.argv[1:])"
    )
    words = [sys.executable, "-c", code, "index", str(tiny_pair), str(corpus), "-o", "made", "--threads", "1"]
    done = subprocess.run(["sh", "-c", '"$@" 2>/dev/full', "sh", *words], capture_output=True, cwd=tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "made/splade_edge_index.json").is_file()
