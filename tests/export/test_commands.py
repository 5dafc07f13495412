"""``splade-edge export`` and ``optimum-cli export splade``, as options and as processes."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
from splade_edge.export.options import add_export_arguments, request_from
from splade_edge.runtime.artifact import open_all

from .. import checkpoints

INSTALLED = any(p.name == "export" for p in importlib.metadata.entry_points(group="splade_edge.commands"))
COMMANDS = {
    "splade-edge": ["-m", "splade_edge.runtime.cli.main", "export"],
    "optimum-cli": ["-m", "optimum.commands.optimum_cli", "export", "splade"],
}
needs_install = pytest.mark.skipif(not INSTALLED, reason="needs splade-edge installed, for its entry points")


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_export_arguments(parser)
    return parser.parse_args([*arguments, "-o", "out"])


def run(command: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, *COMMANDS[command], *map(str, arguments)]
    return subprocess.run(
        line, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
    )


def test_options_become_a_request() -> None:
    request = request_from(
        parse("c", "--role", "query", "--backend", "openvino,onnx", "--no-int8", "--family", "splade", "--offline",
              "--max-length", "64", "--licence", "mit", "--recipe", "onnx=dynamic", "--revision", "r",
              "--query-idf", "0.3")
    )  # fmt: skip
    assert (request.checkpoint, request.role, request.output) == ("c", "query", Path("out"))
    assert request.backends == ("onnx", "openvino")
    assert not request.int8
    assert request.recipes == {"onnx": "dynamic"}
    options = request.options
    assert (options.family, options.max_length, options.licence, options.revision) == ("splade", 64, "mit", "r")
    assert options.query_idf == 0.3
    assert options.offline
    assert not options.allow_pickle
    assert not options.trust_remote_code


def test_auto_is_for_every_backend_without_a_recipe_of_its_own() -> None:
    assert request_from(parse("c", "--recipe", "auto")).recipes == {"onnx": "auto", "openvino": "auto"}
    assert request_from(parse("c", "--recipe", "auto", "--backend", "onnx")).recipes == {"onnx": "auto"}
    for arguments in (["onnx=rows", "auto"], ["auto", "onnx=rows"]):
        request = request_from(parse("c", *(word for name in arguments for word in ("--recipe", name))))
        assert request.recipes == {"onnx": "rows", "openvino": "auto"}
    request = request_from(
        parse("c", "--recipe", "onnx=auto", "--eval-data", "a", "--eval-data", "b:dev", "--max-ndcg-drop", "0.01",
              "--eval-documents", "50", "--search-cache", "k")
    )  # fmt: skip
    assert request.recipes == {"onnx": "auto"}
    assert (request.eval_data, request.eval_documents, request.max_ndcg_drop) == (("a", "b:dev"), 50, 0.01)
    assert request.search_cache == Path("k")


def test_defaults_are_both_backends_and_int8() -> None:
    request = request_from(parse("c"))
    assert request.backends == ("onnx", "openvino")
    assert request.int8
    assert not request.force


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "tflite"], "'tflite' is not a backend; there are: onnx, openvino"),
        (["--recipe", "dynamic"], "'dynamic' is neither auto nor BACKEND=NAME"),
        (["--recipe", "tflite=a"], "'tflite' is not a backend"),
        (["--query-idf", "-1"], "is not a number from 0 (off) to 4"),
        (["--max-length", "0"], "not a whole number of at least 1"),
    ],
)
def test_bad_options_say_what_is_possible(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse("c", *arguments)
    assert message in capsys.readouterr().err


@needs_install
@pytest.mark.parametrize("command", COMMANDS)
def test_export_as_a_process(command: str, tmp_path: Path) -> None:
    """Both commands: a table and an artifact; then the same refusal with the same code and line."""
    source = checkpoints.write_checkpoint(tmp_path / "tiny")
    output = tmp_path / "out"
    done = run(command, source, "-o", output, "--backend", "onnx", "--no-int8")
    assert done.returncode == 0, done.stderr
    assert "max abs error" in done.stdout
    assert f"wrote {output}" in done.stdout
    assert "splade-edge: note: both: the checkpoint states no licence" in done.stderr
    assert len(open_all(output)) == 1
    refused = run(command, source, "-o", output)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.splitlines()[-1] == (
        f"splade-edge: error: {output} exists; pass --force to replace it, or choose another output"
    )


@needs_install
@pytest.mark.parametrize("command", COMMANDS)
def test_help_as_a_process(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0, done.stderr
    for option in (
        "--query",
        "--document",
        "--role",
        "--backend",
        "--int8",
        "--offline",
        "--allow-pickle",
        "examples:",
    ):
        assert option in done.stdout


TYPOS = {
    "recipe": (["--recipe", "onnx=vocabulry"], "no int8 recipe 'vocabulry' for onnx; there are: auto, "),
    "recipe of a backend left out": (["--recipe", "openvino=weights", "--backend", "onnx"], "add it to --backend"),
    "nothing to write": (["--no-int8", "--no-fp32"], "leave nothing to write"),
    "recipe without int8": (["--recipe", "onnx=dynamic", "--no-int8"], "leave out --no-int8"),
    "family": (["--family", "splad"], "no family 'splad'; the families are: efficient-splade, "),
    "family file": (["--family", "my.toml"], "cannot read the family file my.toml: No such file"),
    "eval data": (["--eval-data", "x"], "are for --recipe auto"),
    "no such set": (["--recipe", "auto", "--eval-data", "no:train"], "no is not a directory; a retrieval set is DIR"),
    "limit": (["--recipe", "auto", "--max-ndcg-drop", "2"], "--max-ndcg-drop 2.0 is not possible"),
    "calibration": (["--calibration", "no.jsonl"], "cannot read no.jsonl"),
    "both kinds of source": (["--query", "x"], "name one CHECKPOINT"),
}


@pytest.mark.parametrize("typo", TYPOS)
def test_a_typing_error_is_found_before_pytorch_is_loaded(typo: str, tmp_path: Path) -> None:
    arguments, message = TYPOS[typo]
    script = f"""
import sys
sys.modules["torch"] = sys.modules["transformers"] = sys.modules["onnx"] = None
from splade_edge.export.cli import command
from splade_edge.export.options import add_export_arguments
from splade_edge.runtime.cli.main import guarded
import argparse
parser = argparse.ArgumentParser()
add_export_arguments(parser)
args = parser.parse_args({["checkpoint", "-o", str(tmp_path / "out"), *arguments]!r})
sys.exit(guarded(lambda: command.run(args)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@needs_install
def test_an_unknown_hub_id_without_a_network(tmp_path: Path) -> None:
    done = run("splade-edge", "nobody/nothing", "-o", tmp_path / "out", "--offline")
    assert done.returncode == 2
    assert done.stderr.startswith("splade-edge: error: nobody/nothing is not a directory")
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
