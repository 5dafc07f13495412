from __future__ import annotations

import argparse
import importlib.metadata
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from splade_edge.runtime.cli import command, console, main
from splade_edge.runtime.errors import SpladeEdgeWarning

from .conftest import Cli

COMMANDS = ["index", "add", "update", "delete", "compact", "search", "eval", "info", "check", "bench"]


def test_help_lists_every_command(cli_process: Cli) -> None:
    out = cli_process("--help").stdout
    for name in [*COMMANDS, "export"]:
        assert f"\n    {name} " in out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_has_examples(cli: Cli, name: str) -> None:
    out = cli(name, "--help").stdout
    assert f"splade-edge {name} " in out.partition("examples:")[2]
    assert "default: None" not in out
    if name in ("index", "add", "update", "search", "eval"):
        assert "(default: the CPUs this process may use)" in " ".join(out.split())
        assert "(default: " in out


def test_version(cli: Cli) -> None:
    assert cli("--version").stdout.startswith("splade-edge ")


@pytest.mark.parametrize(("arguments", "message"), [([], "usage: splade-edge"), (["nonsense"], "invalid choice")])
def test_usage(cli: Cli, arguments: list[str], message: str) -> None:
    process = cli(*arguments, check=2)
    assert message in process.stderr
    assert process.stdout == ""


def test_as_a_process(cli_process: Cli, cli: Cli, tiny_pair: Path, corpus: Path, tmp_path: Path) -> None:
    """The other tests call main() in this process; this one shows that it makes no difference."""
    process = cli_process("index", tiny_pair, "-", "-o", "index", cwd=tmp_path, stdin=corpus.read_text("utf-8"))
    assert process.stdout.startswith("index ")
    assert process.stderr == ""
    query = ("search", "index", "cat ☃", "--explain")
    assert cli_process(*query, cwd=tmp_path) == cli(*query, cwd=tmp_path)
    for wrong, code in ((("search", "index"), 2), (("info", "none"), 2), (("search", "none", "x"), 2)):
        process = cli_process(*wrong, cwd=tmp_path, check=code)
        assert process == cli(*wrong, cwd=tmp_path, check=code)
        assert process.stderr.startswith("splade-edge: error: ")
        assert len(process.stderr.splitlines()) == 1


LATE = "import atexit, sys; atexit.register(print, 'late'); from splade_edge.runtime.cli.main import run; "


@pytest.mark.parametrize(
    ("before", "arguments", "code", "late"),
    [
        ("", "'info', sys.argv[1]", 0, False),
        ("", "'search', sys.argv[1], 'cat', '-k', '2'", 0, False),
        ("", "'info', 'none'", 2, False),
        ("", "'info'", 2, True),  # argparse leaves by itself
        ("", "'--version'", 0, True),
        ("sys.setprofile(lambda *_: None); ", "'info', 'none'", 2, True),
        ("sys.settrace(lambda *_: None); ", "'info', 'none'", 2, True),
        (
            "import threading; threading.Thread(target=threading.main_thread().join).start(); ",
            "'info', 'none'",
            2,
            True,
        ),
        ("from splade_edge.runtime.cli import main; main.BUILT_IN.pop('info'); ", "'info', 'none'", 2, True),
    ],
)
def test_leaving_at_once(index: Path, before: str, arguments: str, code: int, late: bool) -> None:
    """Output and exit code are whole; what waits for the interpreter's end keeps it."""
    process = subprocess.run(
        [sys.executable, "-c", f"{LATE}{before}run([{arguments}])", index], capture_output=True, text=True
    )
    assert process.returncode == code
    assert ("late" in process.stdout) is late
    assert "Traceback" not in process.stderr
    if "search" in arguments:
        assert len(process.stdout.splitlines()) == 3
    elif code == 0 and not late:
        assert process.stdout.startswith("kind ")
        assert process.stdout.endswith("\n")
    elif code:
        assert process.stderr.startswith("splade-edge")
        assert len(process.stderr.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written(index: Path) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - pathlib opens it no other way
        process = subprocess.run(
            [sys.executable, "-m", "splade_edge.runtime.cli.main", "info", index],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert process.returncode == 1
    assert process.stderr == "splade-edge: error: standard output: No space left on device\n"


class Plugin:
    help = "a plug-in"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("word")

    def run(self, args: argparse.Namespace) -> int:
        if args.word == "module":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        console.write_out(args.word)
        return 7


class Point:
    value = "somewhere:command"

    def __init__(self, name: str, found: object) -> None:
        self.name = name
        self.found = found
        self.loads = 0

    def load(self) -> object:
        self.loads += 1
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


def test_plug_ins_load_only_when_called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    points = [Point("export", Plugin()), Point("other", Plugin())]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: points)
    with pytest.raises(SystemExit):
        main.main(["--help"])
    assert "plug-in (somewhere:command)" in capsys.readouterr().out
    assert [point.loads for point in points] == [0, 0]
    assert main.main(["other", "hello"]) == 7
    assert capsys.readouterr().out == "hello\n"
    assert [point.loads for point in points] == [0, 1]


@pytest.mark.parametrize(
    "points",
    [
        [],
        [Point("export", ModuleNotFoundError("No module named 'torch'", name="torch"))],
        [Point("export", Plugin())],
    ],
    ids=["not installed", "fails to import", "fails when run"],
)
def test_a_plug_in_without_its_extra_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], points: list[Point]
) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: points)
    assert main.main(["export", "module"]) == 2
    err = capsys.readouterr().err
    assert "pip install 'splade-edge[export]'" in err
    assert len(err.splitlines()) == 1


def run_raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    def fail(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr(main, "_run", fail)
    return main.main([])


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 1, "out of memory"),
        (PermissionError(13, "Permission denied", "/x"), 1, "/x: Permission denied; let this user read it, or run as"),
    ],
)
def test_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, message: str
) -> None:
    assert run_raising(monkeypatch, error) == code
    assert message in capsys.readouterr().err


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError):
        run_raising(monkeypatch, KeyError("x"))


def test_warnings_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import warnings

    def warn(arguments: list[str]) -> int:
        warnings.warn("the cache is elsewhere", SpladeEdgeWarning, stacklevel=1)
        return 0

    monkeypatch.setattr(main, "_run", warn)
    with warnings.catch_warnings():
        assert main.main([]) == 0
    assert capsys.readouterr().err == "splade-edge: warning: the cache is elsewhere\n"


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_interrupted_indexing_leaves_nothing(tiny_pair: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "splade_edge.runtime.cli.main", "index", tiny_pair, "-", "-o", tmp_path / "index"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell starts background jobs with SIGINT ignored, and Python then leaves it so
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdin
    assert process.stderr
    process.stdin.write("".join(f"{i}\tcat dog\n" for i in range(2000)))
    process.stdin.flush()
    while not list(tmp_path.iterdir()):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.stderr.read() == "splade-edge: error: interrupted\n"
    process.stdin.close()
    process.stderr.close()
    assert process.wait() == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain  text\nand more", "plain text and more"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\x7f\x9bb", "a\\x7f\\x9bb"),
        ("\u202e\u2066", "\\u202e\\u2066"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
        ("é 漢字 👩\u200d🚀", "é 漢字 👩\u200d🚀"),
    ],
)
def test_printable(text: str, expected: str) -> None:
    assert console.printable(text) == expected


@pytest.mark.parametrize(
    ("text", "size"), [("512M", 512 << 20), ("2g", 2 << 30), ("1024KiB", 1 << 20), ("1048576", 1 << 20)]
)
def test_byte_size(text: str, size: int) -> None:
    assert command.byte_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1M", "1.5G", "12", "512 M", "1T"])
def test_bad_byte_size(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a size"):
        command.byte_size(text)


def test_plural() -> None:
    assert [console.plural(n, "document") for n in (0, 1, 2000)] == ["0 documents", "1 document", "2,000 documents"]
    assert [console.plural(n, "query") for n in (1, 2)] == ["1 query", "2 queries"]


def test_human_units() -> None:
    assert [console.human_bytes(n) for n in (5, 1536, 5 << 20, 3 << 30, 5 << 40)] == [
        "5 bytes",
        "1.5 KiB",
        "5.0 MiB",
        "3.0 GiB",
        "5.0 TiB",
    ]
    assert [console.human_seconds(n) for n in (5, 300, 9000)] == ["5 s", "5 min", "2.5 h"]
