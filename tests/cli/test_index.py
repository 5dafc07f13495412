from __future__ import annotations

import gzip
import json
import os
import shutil
from pathlib import Path

import pytest
from splade_edge.runtime.build import bundled
from splade_edge.runtime.cli.main import main
from splade_edge.runtime.index import Index

from .. import tiny
from .conftest import DOCUMENTS, Cli


def rows(table: str) -> dict[str, str]:
    return dict(line.rstrip().split("  ", 1) for line in table.splitlines() if "  " in line)


def test_summary(cli: Cli, tiny_pair: Path, corpus: Path, tmp_path: Path) -> None:
    process = cli("index", tiny_pair, corpus, "-o", tmp_path / "index")
    summary = {key: value.strip() for key, value in rows(process.stdout).items()}
    assert summary["documents"] == "4"
    assert summary["cut"] == "0 documents longer than 16 tokens"
    assert summary["skipped lines"] == "0"
    assert summary["time"].endswith("documents/s")
    assert process.stderr == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index"]


def test_json_summary(cli: Cli, tiny_pair: Path, corpus: Path, tmp_path: Path) -> None:
    process = cli("index", tiny_pair, corpus, "-o", tmp_path / "index", "--json")
    summary = json.loads(process.stdout)
    assert summary["documents"] == len(DOCUMENTS)
    assert summary["text"]["max_length"] == tiny.MAX_LENGTH
    assert summary["seconds"] > 0


def test_stdin_gzip_and_tsv_give_the_same_index(cli: Cli, tiny_pair: Path, tmp_path: Path) -> None:
    tsv = "".join(f"{d['_id']}\t{d['title']}\t{d['text']}\n" for d in DOCUMENTS)
    (tmp_path / "c.tsv").write_text(tsv, "utf-8")
    (tmp_path / "c.tsv.gz").write_bytes(gzip.compress(tsv.encode()))
    cli("index", tiny_pair, tmp_path / "c.tsv", "-o", tmp_path / "a")
    cli("index", tiny_pair, tmp_path / "c.tsv.gz", "-o", tmp_path / "b")
    cli("index", tiny_pair, "-", "-o", tmp_path / "c", stdin=tsv)
    segments = [sorted(p for p in (tmp_path / name / "segments").rglob("*") if p.is_file()) for name in "abc"]
    for others in zip(*segments, strict=True):
        if others[0].suffix != ".sqlite":
            assert len({p.read_bytes() for p in others}) == 1, others[0].name


def test_several_files(cli: Cli, tiny_pair: Path, tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("1\tcat\n", "utf-8")
    (tmp_path / "b.jsonl").write_text('{"_id": "2", "text": "dog"}', "utf-8")
    cli("index", tiny_pair, tmp_path / "a.tsv", tmp_path / "b.jsonl", "-o", tmp_path / "index")
    assert json.loads(cli("info", tmp_path / "index", "--json").stdout)["documents"] == 2


BAD = '{"_id": "1", "text": "cat"}\nnot json\n{"_id": "1", "text": "dog"}\n{"_id": "2", "text": "dog"}\n'


def test_bad_lines_stop_the_run(cli: Cli, tiny_pair: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(BAD, "utf-8")
    process = cli("index", tiny_pair, path, "-o", tmp_path / "index", check=2)
    assert process.stderr.startswith(f"splade-edge: error: {path}:2: not a line of JSON")
    assert len(process.stderr.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["c.jsonl"]


def test_bad_lines_are_counted(cli: Cli, tiny_pair: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(BAD, "utf-8")
    process = cli("index", tiny_pair, path, "-o", tmp_path / "index", "--on-error", "skip")
    assert f"splade-edge: skipped: {path}:2: not a line of JSON" in process.stderr
    assert f"splade-edge: skipped: {path}:3: " in process.stderr
    assert "used before" in process.stderr
    assert rows(process.stdout)["skipped lines"].strip() == "2"
    assert json.loads(cli("info", tmp_path / "index", "--json").stdout)["statistics"]["bad_lines"] == 2


def test_invalid_utf8(cli: Cli, tiny_pair: Path, tmp_path: Path) -> None:
    path = tmp_path / "c.tsv"
    path.write_bytes(b"1\tcat\n2\tcaf\xe9\n")
    process = cli("index", tiny_pair, path, "-o", tmp_path / "index", check=2)
    assert f"{path}:2: invalid UTF-8 (byte 0xe9)" in process.stderr


def test_cut_documents_are_counted(cli: Cli, tiny_pair: Path, tmp_path: Path) -> None:
    (tmp_path / "c.tsv").write_text("1\t" + "cat " * 50 + "\n2\tdog\n", "utf-8")
    process = cli("index", tiny_pair, tmp_path / "c.tsv", "-o", tmp_path / "index")
    assert rows(process.stdout)["cut"].strip() == "1 document longer than 16 tokens"


def test_passages(cli: Cli, tiny_pair: Path, tmp_path: Path) -> None:
    text = "the dog and the fish of the river is in the city and the violin"
    (tmp_path / "c.tsv").write_text(f"1\t{text}\n2\tpiano\n", "utf-8")
    process = cli("index", tiny_pair, tmp_path / "c.tsv", "-o", tmp_path / "index", "--passages", 6, "--overlap", 2)
    assert int(rows(process.stdout)["passages"]) > 3
    hits = json.loads(cli("search", tmp_path / "index", "violin", "--json").stdout)["hits"]
    assert hits[0]["id"] == "1"
    assert "violin" in hits[0]["passage"]
    assert len(hits[0]["passage"]) < len(text)
    process = cli("index", tiny_pair, tmp_path / "c.tsv", "-o", tmp_path / "other", "--passages", check=2)
    assert "passages of 128 tokens do not fit" in process.stderr


@pytest.mark.parametrize("option", ["--reorder", "--no-block-max"])
def test_layouts_give_the_same_answers(cli: Cli, tiny_pair: Path, corpus: Path, tmp_path: Path, option: str) -> None:
    plain, other = tmp_path / "plain", tmp_path / "other"
    cli("index", tiny_pair, corpus, "-o", plain)
    cli("index", tiny_pair, corpus, "-o", other, option)
    manifest = Index.open(other).manifest
    assert manifest.settings is not None
    assert (manifest.segments[0].reordered, manifest.settings.block_max) == (
        option == "--reorder",
        option == "--reorder",
    )
    assert manifest.segments[0].rows == 0  # so small an index has no block-max data
    answers = [cli("search", index, "the cat in the rain", "--json").stdout for index in (plain, other)]
    assert answers[0] == answers[1]
    cli("check", other)


def test_the_index_carries_encoders(cli: Cli, tiny_pair: Path, corpus: Path, tmp_path: Path) -> None:
    cli("index", tiny_pair, corpus, "-o", tmp_path / "index", "--with-document-encoder")
    about = json.loads(cli("info", tmp_path / "index", "--json").stdout)
    assert about["query_encoder"]["role"] == "query"
    assert about["document_encoder"]["role"] == "document"
    shutil.move(tmp_path / "index", tmp_path / "moved")  # one directory is all a device needs
    assert "cats" in cli("search", tmp_path / "moved", "cat").stdout


def test_force(cli: Cli, tiny_pair: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    cli("index", tiny_pair, corpus, "-o", out)
    process = cli("index", tiny_pair, corpus, "-o", out, check=2)
    assert process.stderr == f"splade-edge: error: {out} exists; pass --force to replace it, or choose another output\n"
    cli("index", tiny_pair, corpus, "-o", out, "--force")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/x").touch()
    process = cli("index", tiny_pair, corpus, "-o", tmp_path / "mine", "--force", check=2)
    assert "has no splade_edge_index.json, so it is not replaced" in process.stderr
    assert (tmp_path / "mine/x").exists()


def test_an_empty_corpus(cli: Cli, tiny_pair: Path, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").touch()
    process = cli("index", tiny_pair, tmp_path / "c.jsonl", "-o", tmp_path / "index", check=2)
    assert "the corpus has no documents" in process.stderr
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{pair}", "{corpus}"], 2, "the following arguments are required: -o/--output"),
        (["{pair}", "none.jsonl", "-o", "x"], 2, "none.jsonl does not exist"),
        (["{pair}", "x.csv", "-o", "x"], 2, "cannot tell its format"),
        (["{pair}", "-", "-", "-o", "x"], 2, "standard input (-) is named twice"),
        (["{pair}/query", "{corpus}", "-o", "x"], 2, "holds a query encoder, not a document encoder"),
        (["{pair}/document", "{corpus}", "-o", "x"], 2, "holds a document encoder, not a query encoder"),
        (["none", "{corpus}", "-o", "x"], 2, "expected an exported artifact"),
        (["{corpus}", "{corpus}", "-o", "x"], 2, "carries no pair of its own; name an exported one"),
        (["{corpus}", "-o", "x"], 2, "carries no pair of its own; name an exported one"),
        (["{pair}", "-o", "x"], 2, "name the corpus after"),
        (["{pair}", "{corpus}", "-o", "x", "--threads", "0"], 2, "'0' is not a whole number of at least 1"),
        (["{pair}", "{corpus}", "-o", "x", "--memory", "1"], 2, "'1' is not a size of at least 1M"),
        (["{pair}", "{corpus}", "-o", "x", "--overlap", "3"], 2, "--overlap is for passages; add --passages"),
        (["{pair}", "{corpus}", "-o", "x", "--reorder", "--no-block-max"], 2, "leave out --no-block-max"),
        (["{pair}", "{corpus}", "-o", "x", "--passages", "4", "--overlap", "4"], 2, "an overlap of 4 tokens"),
        (["{pair}", "{corpus}", "-o", "x", "--precision", "int8"], 2, "has no int8 graph (it has: onnx fp32)"),
        (["{pair}", "{corpus}", "-o", "x", "--backend", "openvino"], 2, "has no openvino graph"),
    ],
)
def test_errors(
    cli: Cli, tiny_pair: Path, corpus: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    filled = [a.format(pair=tiny_pair, corpus=corpus) for a in arguments]
    process = cli("index", *filled, cwd=tmp_path, check=code)
    assert message in process.stderr
    assert len(process.stderr.splitlines()) == 1
    assert process.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_another_vocabulary(cli: Cli, tiny_pair: Path, corpus: Path, tmp_path: Path) -> None:
    other = tiny.write_artifact(tmp_path / "other", "query", vocabulary=[*tiny.VOCABULARY, "extra"])
    process = cli("index", tiny_pair, corpus, "-o", tmp_path / "index", "--query-encoder", other, check=2)
    assert "has another vocabulary than" in process.stderr


def test_a_query_encoder_of_another_artifact(cli: Cli, tiny_pair: Path, corpus: Path, tmp_path: Path) -> None:
    cli("index", tiny_pair / "document", corpus, "-o", tmp_path / "i", "--query-encoder", tiny_pair / "query")
    assert "cats" in cli("search", tmp_path / "i", "cat").stdout


@pytest.mark.skipif(os.name == "nt", reason="needs resource limits")
def test_a_full_disk(tiny_pair: Path, corpus: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000));"
        "from splade_edge.runtime.cli.main import run; run()"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, "index", tiny_pair, corpus, "-o", tmp_path / "index"],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    assert process.stderr.startswith("splade-edge: error: cannot write ")
    assert len(process.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_pair_of_the_installation(
    tiny_pair: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bundled, "_DIRECTORY", tiny_pair)
    assert main(["index", str(corpus), "-o", str(tmp_path / "one"), "--json"]) == 0
    assert main(["index", str(tiny_pair), str(corpus), "-o", str(tmp_path / "other"), "--json"]) == 0
    one, other = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert one["documents"] == other["documents"] > 0
    assert one["document_vectors"] == other["document_vectors"]
