"""The command line as a process, and a small index to run it on."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from splade_edge.runtime.cli.main import main


class Result(NamedTuple):
    """What a command left behind."""

    returncode: int
    stdout: str
    stderr: str


Cli = Callable[..., Result]

DOCUMENTS: list[dict[str, Any]] = [
    {"_id": "cats", "title": "Cats", "text": "the cat and the dog in the rain", "year": 1999},
    {"_id": "wings", "title": "", "text": "supersonic flow of a wing and the boundary layer of the wing"},
    {"_id": "bread", "title": "Bread", "text": "a recipe of bread is flour water salt and an oven"},
    {"_id": "music", "title": "Music", "text": "piano violin and string song in the winter"},
]
QUERIES = [("q1", "cat in rain"), ("q2", "wing flow"), ("q3", "oven"), ("q4", "☃")]


@pytest.fixture(scope="session")
def cli_process() -> Cli:
    """Runs ``splade-edge ARGS…`` as a process of its own; a traceback fails the test."""

    def run(*args: object, check: int | None = 0, stdin: str = "", cwd: Path | None = None) -> Result:
        process = subprocess.run(
            [sys.executable, "-m", "splade_edge.runtime.cli.main", *map(str, args)],
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            env={**os.environ, "COLUMNS": "120"},
            cwd=cwd,
        )
        return checked(Result(process.returncode, process.stdout, process.stderr), check)

    return run


@pytest.fixture(scope="session")
def cli() -> Cli:
    """The same without the cost of a process: streams, warnings and directory are put back afterwards."""

    def run(
        *args: object, check: int | None = 0, stdin: str = "", cwd: Path | None = None, columns: int = 120
    ) -> Result:
        buffers = [io.BytesIO(data) for data in (stdin.encode(), b"", b"")]
        streams = [io.TextIOWrapper(buffer, encoding="utf-8") for buffer in buffers]
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
                patch.setattr(sys, name, stream)
            patch.setenv("COLUMNS", str(columns))
            if cwd is not None:
                patch.chdir(cwd)
            try:
                code = main([str(arg) for arg in args])
            except SystemExit as leave:  # argparse
                code = int(leave.code or 0)
        for stream in streams[1:]:
            stream.flush()
        out, err = (buffer.getvalue().decode() for buffer in buffers[1:])
        return checked(Result(code, out, err), check)

    return run


def checked(result: Result, code: int | None) -> Result:
    assert "Traceback" not in result.stderr, result.stderr
    assert code is None or result.returncode == code, result.stderr
    return result


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS), "utf-8")
    return path


@pytest.fixture(scope="session")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("queries") / "queries.jsonl"
    path.write_text("".join(json.dumps({"_id": i, "text": text}) + "\n" for i, text in QUERIES), "utf-8")
    return path


@pytest.fixture(scope="session")
def index(cli: Cli, tiny_pair: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of DOCUMENTS. Do not write into it."""
    path = tmp_path_factory.mktemp("index") / "index"
    cli("index", tiny_pair, corpus, "-o", path, "--threads", 1)
    return path
