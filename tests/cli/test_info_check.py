from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path

import pytest
from splade_edge.runtime.errors import ParityError

from .. import split, tiny
from .conftest import Cli


def test_info_of_an_index(cli: Cli, index: Path) -> None:
    about = json.loads(cli("info", index, "--json").stdout)
    assert (about["kind"], about["documents"], about["vocabulary"]) == ("index", 4, len(tiny.VOCABULARY))
    assert about["text"] == {"join": "title + ' ' + text", "max_length": tiny.MAX_LENGTH, "passages": None}
    assert about["statistics"]["truncated"] == 0
    assert about["query_encoder"]["licence"] == "Apache-2.0"
    assert 0 < about["scale"] < 1
    assert 0 < about["terms_in_use"] <= about["vocabulary"]
    table = cli("info", index).stdout
    for row in ("kind", "window", "scale", "text: join", "statistics: truncated", "query encoder: licence"):
        assert any(line.startswith(row) for line in table.splitlines()), row


def test_info_of_artifacts(cli: Cli, tiny_pair: Path) -> None:
    about = json.loads(cli("info", tiny_pair, "--json").stdout)
    assert (about["kind"], about["query"]["role"], about["document"]["role"]) == ("pair", "query", "document")
    about = json.loads(cli("info", tiny_pair / "query", "--json").stdout)
    assert about["kind"] == "artifact"
    assert about["graphs"][0]["backend"] == "onnx"
    assert about["graphs"][0]["decodes"] == "all terms"
    assert "graph" in cli("info", tiny_pair / "query").stdout


def test_info_of_a_graph_whose_decoder_runs_outside(cli: Cli, tmp_path: Path) -> None:
    path = split.write_split_artifact(tmp_path / "a", "query")
    assert json.loads(cli("info", path, "--json").stdout)["graphs"][0]["decodes"] == "any terms"
    assert "decodes an index's terms alone" in " ".join(cli("info", path).stdout.split())


@pytest.mark.parametrize("command", ["info", "check"])
def test_directories_that_are_not_ours(cli: Cli, tmp_path: Path, command: str) -> None:
    for path in (tmp_path, tmp_path / "none"):
        process = cli(command, path, check=None)
        assert process.returncode in (1, 2)
        assert str(path) in process.stderr
        assert len(process.stderr.splitlines()) == 1


def test_check_an_index(cli: Cli, index: Path) -> None:
    lines = cli("check", index).stdout.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("ok: ") for line in lines)


def test_check_finds_damage_in_every_file_of_an_index(cli: Cli, index: Path, tmp_path: Path) -> None:
    from splade_edge.runtime.cli.main import main

    copy = tmp_path / "index"
    shutil.copytree(index, copy)
    assert main(["check", str(copy)]) == 0
    for file in sorted(p for p in copy.rglob("*") if p.is_file() and p.stat().st_size):
        raw = file.read_bytes()
        file.write_bytes(raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 0x10]) + raw[len(raw) // 2 + 1 :])
        assert main(["check", str(copy)]) == 1, file
        file.write_bytes(raw[:-3])  # the last byte of a manifest is a line end
        assert main(["check", str(copy)]) == 1, file
        file.unlink()
        assert main(["check", str(copy)]) in (1, 2), file
        file.write_bytes(raw)
    assert main(["check", str(copy)]) == 0


@pytest.mark.parametrize("part", ["tokenizer", "graph"])
def test_check_loads_the_encoders(cli: Cli, index: Path, tmp_path: Path, part: str) -> None:
    """Whose hashes may fit, and nobody can search with them."""
    from tests.fuzz import mutations
    from tests.fuzz.mutations import Tree

    copy = Path(shutil.copytree(index, tmp_path / "index"))
    assert "it loads, and encodes a text" in cli("check", copy).stdout
    tree = Tree.load(copy)
    if part == "tokenizer":
        body = json.loads(tree.get("encoder/query/tokenizer.json"))
        split = {"type": "Split", "pattern": {"Regex": "(a+)+b"}, "behavior": "Isolated", "invert": False}
        tree.set("encoder/query/tokenizer.json", json.dumps(body | {"pre_tokenizer": split}).encode())
    else:
        [name] = [n for n in tree.original if n.startswith("encoder/query/onnx/") and n.endswith(".onnx")]
        tree.set(name, b"forged" * (len(tree.get(name)) // 6))
    mutations._mend_manifests(tree)
    tree.write()
    process = cli("check", copy, check=2)
    [line] = process.stderr.splitlines()
    assert f"{copy}/encoder/query" in line
    assert {"tokenizer": "repeats what repeats", "graph": "onnx"}[part] in line


def test_check_an_artifact_says_what_was_not_checked(cli: Cli, tiny_pair: Path) -> None:
    lines = cli("check", tiny_pair, "--no-parity").stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["ok", "ok", "not checked", "not checked"]
    assert "parity with its checkpoint's library (--no-parity)" in lines[-1]
    checks = json.loads(cli("check", tiny_pair, "--no-parity", "--json").stdout)["checks"]
    assert [check["done"] for check in checks] == [True, True, False, False]


def test_check_repeats_the_parity_by_a_hook(
    tiny_pair: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from splade_edge.runtime.cli import check, main

    class Point:
        def __init__(self, hook: object) -> None:
            self.hook = hook

        def load(self) -> object:
            if isinstance(self.hook, Exception):
                raise self.hook
            return self.hook

    def check_with(hook: object) -> tuple[int, str, str]:
        found = {check.HOOK_GROUP: [Point(hook)]} if hook else {}
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group, **_: found.get(group, []))
        code = main.main(["check", str(tiny_pair / "query"), "--source", "there"])
        captured = capsys.readouterr()
        return code, captured.out.splitlines()[-1] if captured.out else "", captured.err

    calls = []
    assert check_with(lambda artifact, source: calls.append((artifact.path, source)))[:2] == (
        0,
        f"ok: {tiny_pair / 'query'}: parity with its checkpoint's library",
    )
    assert calls == [(tiny_pair / "query", "there")]
    code, line, _ = check_with(lambda artifact, source: "the checkpoint is not here")
    assert (code, line.startswith("not checked: "), "(the checkpoint is not here)" in line) == (0, True, True)
    code, line, _ = check_with(None)
    assert "is not installed" in line
    code, line, _ = check_with(ModuleNotFoundError("No module named 'torch'", name="torch"))
    assert (code, "pip install 'splade-edge[export]' (no module torch)" in line) == (0, True)

    def differs(artifact: object, source: object) -> None:
        raise ParityError("query onnx fp32 differs by 0.5", output="query/onnx/fp32", error=0.5, text="cat")

    code, _, err = check_with(differs)
    assert (code, err) == (1, "splade-edge: error: query onnx fp32 differs by 0.5\n")


def test_check_names_every_damaged_file(cli: Cli, index: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(index, tmp_path / "index"))
    flip(copy / "segments/00000001/block_impacts.u8")
    (copy / "segments/00000001/fields.sqlite").unlink()
    flip(copy / "encoder/query/tokenizer.json")
    for name in ("check", "verify"):
        process = cli(name, copy, check=1)
        assert process.stdout == ""
        assert len(process.stderr.splitlines()) == 1
        assert f"{copy}/segments/00000001/block_impacts.u8 is damaged (its SHA-256 does not match); " in process.stderr
        assert f"{copy}/segments/00000001/fields.sqlite is missing; " in process.stderr
        assert f"{copy}/encoder/query/tokenizer.json is damaged" in process.stderr
        assert process.stderr.endswith(f"save the rest with: splade-edge check {copy} --repair\n")


def test_repair(cli: Cli, index: Path, tiny_pair: Path, tmp_path: Path) -> None:
    copy, out = Path(shutil.copytree(index, tmp_path / "index")), tmp_path / "out"
    assert cli("check", copy, "--repair").stdout.splitlines()[0] == "nothing is damaged; nothing was written"
    flip(copy / "segments/00000001/block_impacts.u8")
    lines = cli("check", copy, "--repair", "-o", out).stdout.splitlines()
    assert lines[:3] == [
        "damaged: segments/00000001/block_impacts.u8 is damaged (its SHA-256 does not match)",
        "made again: segments/00000001/block_impacts.u8",
        "lost: nothing",
    ]
    assert all(line.startswith(f"ok: {out}") for line in lines[3:])
    search = ("the cat in the rain", "--json")
    assert cli("search", out, *search).stdout == cli("search", index, *search).stdout
    assert cli("check", copy, check=1).stdout == ""  # it is as it was
    assert f"{out} exists; move it away, or" in cli("check", copy, "--repair", "-o", out, check=2).stderr
    flip(copy / "encoder/query/onnx/fp32.onnx")
    report = json.loads(cli("check", copy, "--repair", "--json").stdout)
    assert (len(report["damaged"]), len(report["lost"]), report["rescued"]) == (2, 1, None)
    assert report["original"] == f"{tmp_path}/index.damaged"
    cli("search", copy, *search, "--query-encoder", tiny_pair)
    (copy / "segments/00000001/unit_documents.u32").unlink(missing_ok=True)
    flip(copy / "splade_edge_index.json")
    process = cli("check", copy, "--repair", check=1)
    assert process.stderr.endswith(
        f"its 4 documents that can be read are in {tmp_path}/index.rescued.jsonl: index them again\n"
    )
    cli("index", tiny_pair, tmp_path / "index.rescued.jsonl", "-o", tmp_path / "again")
    assert cli("search", tmp_path / "again", *search).stdout == cli("search", index, *search).stdout


def test_options_of_repair(cli: Cli, index: Path, tiny_pair: Path) -> None:
    assert "--output is for --repair; add it" in cli("check", index, "-o", "x", check=2).stderr
    assert "--field is for --repair; add it" in cli("check", index, "--field", "x", check=2).stderr
    assert "--without-unreadable is for --repair; add it" in cli("check", index, "--without-unreadable", check=2).stderr
    assert "and --repair is for an index" in cli("check", tiny_pair, "--repair", check=2).stderr


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(bytes(data))
