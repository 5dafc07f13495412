from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .. import tiny
from .conftest import DOCUMENTS, QUERIES, Cli


def test_table(cli: Cli, index: Path) -> None:
    process = cli("search", index, "cat in the rain", "-k", 2)
    header, first, *rest = process.stdout.splitlines()
    assert header.split() == ["score", "id", "title", "text"]
    assert first.split()[1:3] == ["cats", "Cats"]
    assert len(rest) == 1
    assert process.stderr == ""


def test_lines_end_with_their_text_unless_on_a_terminal(cli: Cli, index: Path, tmp_path: Path) -> None:
    for arguments in (("search", index, "cat"), ("info", index)):
        lines = cli(*arguments).stdout.splitlines()
        assert lines
        assert lines == [line.rstrip() for line in lines]


def test_json(cli: Cli, index: Path) -> None:
    answer = json.loads(cli("search", index, "cat rain", "--json").stdout)
    assert answer.keys() == {"query", "cut", "hits"}
    best = answer["hits"][0]
    assert (best["id"], best["title"], best["text"], best["metadata"]) == (
        "cats",
        "Cats",
        DOCUMENTS[0]["text"],
        {"year": 1999},
    )
    scores = [hit["score"] for hit in answer["hits"]]
    assert scores == sorted(scores, reverse=True)


def test_explain_adds_up(cli: Cli, index: Path) -> None:
    answer = json.loads(cli("search", index, "cat rain", "--json", "--explain").stdout)
    weights = {term["term"]: term["weight"] for term in answer["terms"]}
    assert {"cat", "rain"} <= weights.keys()
    for hit in answer["hits"]:
        assert sum(term["score"] for term in hit["terms"]) == pytest.approx(hit["score"], rel=1e-9)
        assert all(term["weight"] == pytest.approx(weights[term["term"]]) for term in hit["terms"])
    table = cli("search", index, "cat rain", "--explain", "-k", 1).stdout
    assert "query term" in table
    assert f"{weights['cat']:.3f}" in table
    assert "cat " in table.splitlines()[-1] or "%" in table


def test_nothing_found_is_not_an_error(cli: Cli, index: Path) -> None:
    for query in ("", "☃☃", "\t", "zzzz"):
        process = cli("search", index, query)
        assert process.stdout == "No document shares a term with the query.\n"
        assert json.loads(cli("search", index, query, "--json").stdout)["hits"] == []


def test_long_and_odd_queries(cli: Cli, index: Path) -> None:
    assert "cats" in cli("search", index, "cat " * 10_000).stdout
    assert "cats" in cli("search", index, "--", "-cat").stdout
    assert "cats" in cli("search", index, b"cat \xff\xfe".decode("utf-8", "surrogateescape"), "--json").stdout


def test_k_over_the_collection(cli: Cli, index: Path) -> None:
    hits = json.loads(cli("search", index, "the cat", "-k", 10**9, "--json").stdout)["hits"]
    assert 1 <= len(hits) <= len(DOCUMENTS)


@pytest.mark.parametrize("k", ["0", "-1", "1.5", "ten", ""])
def test_bad_k(cli: Cli, index: Path, k: str) -> None:
    process = cli("search", index, "cat", "-k", k, check=2)
    assert process.stderr == (
        f"splade-edge search: error: argument -k: {k!r} is not a whole number of at least 1 "
        "(see splade-edge search --help)\n"
    )


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_backends_agree(cli: Cli, corpus: Path, tiny_artifact: Path, tmp_path: Path, backend: str) -> None:
    if backend == "openvino" and not tiny.HAS_OPENVINO:
        pytest.skip("no openvino")
    cli("index", tiny_artifact, corpus, "-o", tmp_path / "index", "--backend", backend)
    answer = json.loads(cli("search", tmp_path / "index", "wing", "--backend", backend, "--json").stdout)
    assert answer["hits"][0]["id"] == "wings"


def test_run(cli: Cli, index: Path, queries: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.txt"
    process = cli("search", index, "--queries", queries, "-k", 2, "--run", out, "--tag", "mine")
    assert process.stdout == ""
    lines = [line.split() for line in out.read_text("utf-8").splitlines()]
    assert {line[0] for line in lines} == {"q1", "q2", "q3"}  # q4 finds nothing
    assert all(len(line) == 6 and line[1] == "Q0" and line[5] == "mine" for line in lines)
    assert lines[0][2:4] == ["cats", "1"]
    assert cli("search", index, "--queries", queries, "-k", 2, "--run", "-", "--tag", "mine").stdout == out.read_text(
        "utf-8"
    )
    for query, text in QUERIES:
        hits = json.loads(cli("search", index, text, "-k", 2, "--json").stdout)["hits"]
        ran = [(line[2], float(line[4])) for line in lines if line[0] == query]
        assert [doc for doc, _ in ran] == [hit["id"] for hit in hits]
        assert [score for _, score in ran] == pytest.approx([hit["score"] for hit in hits], rel=1e-6)


def test_queries_as_json_and_from_stdin(cli: Cli, index: Path) -> None:
    process = cli("search", index, "--queries", "-", "--json", "-k", 1, stdin="a\tcat\nb\twing\n")
    answers = [json.loads(line) for line in process.stdout.splitlines()]
    assert [(a["id"], a["query"], a["hits"][0]["id"]) for a in answers] == [
        ("a", "cat", "cats"),
        ("b", "wing", "wings"),
    ]


def test_approximate(cli: Cli, index: Path) -> None:
    exact, rough = (
        json.loads(cli("search", index, "cat in rain", "--json", *more).stdout)["hits"]
        for more in ([], ["--approximate", "0.5"])
    )
    assert {hit["id"]: hit["score"] for hit in rough}.items() <= {hit["id"]: hit["score"] for hit in exact}.items()
    for value in ("0", "1.5", "much"):
        assert "is not a number above 0, up to 1" in cli("search", index, "cat", "--approximate", value, check=2).stderr


def test_a_run_cannot_carry_ids_with_spaces(cli: Cli, tiny_pair: Path, tmp_path: Path) -> None:
    (tmp_path / "c.tsv").write_text("my cat\tcat\n", "utf-8")
    cli("index", tiny_pair, tmp_path / "c.tsv", "-o", tmp_path / "index")
    (tmp_path / "q.tsv").write_text("1\tcat\n", "utf-8")
    process = cli("search", tmp_path / "index", "--queries", tmp_path / "q.tsv", "--run", tmp_path / "run", check=2)
    assert "the document id 'my cat' has white space, which a TREC run cannot carry; use --json" in process.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either a QUERY or --queries FILE"),
        (["cat", "--queries", "q.tsv"], "give either a QUERY or --queries FILE"),
        (["--queries", "q.tsv"], "--queries needs one of --run OUT and --json"),
        (["--queries", "q.tsv", "--run", "x", "--json"], "--queries needs one of --run OUT and --json"),
        (["--queries", "q.tsv", "--run", "x", "--explain"], "a TREC run cannot carry --explain"),
        (["--queries", "q.tsv", "--json"], "q.tsv does not exist"),
        (["cat", "--run", "x"], "--run needs query ids"),
        (["cat", "--backend", "tpu"], "invalid choice: 'tpu'"),
    ],
)
def test_errors(cli: Cli, index: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    process = cli("search", index, *arguments, cwd=tmp_path, check=2)
    assert message in process.stderr
    assert len(process.stderr.splitlines()) == 1
    assert process.stdout == ""


def test_not_an_index(cli: Cli, tiny_pair: Path, tmp_path: Path) -> None:
    process = cli("search", tmp_path, "cat", check=2)
    assert f"{tmp_path} has no splade_edge_index.json" in process.stderr
    for path, what in ((tiny_pair, "a pair of encoders"), (tiny_pair / "query", "an encoder")):
        process = cli("search", path, "cat", check=2)
        assert process.stderr == (
            f"splade-edge: error: {path} is {what}, not an index; "
            f"make one with: splade-edge index {path} corpus.jsonl -o INDEX\n"
        )
    process = cli("search", tmp_path / "none", "cat", check=2)
    assert "none is not a directory; make an index first" in process.stderr


def test_a_damaged_index(cli: Cli, index: Path, tmp_path: Path) -> None:
    shutil.copytree(index, tmp_path / "index")
    file = tmp_path / "index/encoder/query/onnx/fp32.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    process = cli("search", tmp_path / "index", "cat", check=1)
    assert "fp32.onnx is damaged (its SHA-256 does not match)" in process.stderr
    assert len(process.stderr.splitlines()) == 1


EVIL = "cat [bold]rain[/bold] \x1b[31mred\x1b]0;title\x07 \x9b2J \u202eabc :smile:"


def test_stored_text_cannot_steer_the_terminal(cli: Cli, tiny_pair: Path, tmp_path: Path) -> None:
    document = {"_id": "e\x1b[1m", "title": EVIL, "text": EVIL}
    (tmp_path / "c.jsonl").write_text(json.dumps(document), "utf-8")
    cli("index", tiny_pair, tmp_path / "c.jsonl", "-o", tmp_path / "index")
    for arguments in (["--explain"], ["--json"], []):
        out = cli("search", tmp_path / "index", "cat", *arguments, columns=400).stdout
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(out)
        assert "[bold]rain[/bold]" in out
        assert ":smile:" in out
        if "--json" in arguments:
            assert json.loads(out)["hits"][0]["text"] == EVIL
        else:
            assert "\\x1b[31mred" in out
    process = cli("search", tmp_path / "\x1b[31m", "cat", check=2)
    assert "\x1b" not in process.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX pipe")
def test_a_closed_pipe_is_quiet(index: Path, tmp_path: Path) -> None:
    queries = "".join(f"{i}\tcat dog\n" for i in range(2000))
    process = subprocess.Popen(
        [sys.executable, "-m", "splade_edge.runtime.cli.main", "search", index, "--queries", "-", "--run", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    assert process.stderr
    process.stdin.write(queries.encode())
    process.stdin.close()
    process.stdout.readline()
    process.stdout.close()
    lines = process.stderr.read().splitlines()
    assert [line for line in lines if not line.startswith(b"Searching: ")] == []  # a slow machine shows progress
    process.stderr.close()
    assert process.wait() == 141


def test_idf(cli: Cli, index: Path) -> None:
    def scores(*options: object) -> list[float]:
        return [hit["score"] for hit in json.loads(cli("search", index, "cat rain", "--json", *options).stdout)["hits"]]

    assert scores("--idf", 0) == scores() != scores("--idf", 0.5)
    for text in ("-1", "nan", "much", "5"):
        process = cli("search", index, "cat", f"--idf={text}", check=2)
        assert f"--idf: {text!r} is not a number from 0 (off) to 4" in process.stderr


def test_a_query_from_standard_input(cli: Cli, index: Path) -> None:
    asked = cli("search", index, "-", "--json", stdin="cat\n\nin the rain\n").stdout
    assert json.loads(asked)["query"] == "cat in the rain"
    assert asked == cli("search", index, "cat in the rain", "--json").stdout
    assert "standard input holds no query" in cli("search", index, "-", stdin="\n", check=2).stderr
    assert cli("search", index, "-", stdin="\0", check=2).stderr.strip().endswith("is this a text file?")


def test_options_may_stand_before_the_query(cli: Cli, index: Path) -> None:
    expected = cli("search", index, "cat rain", "-k", 2, "--json").stdout
    assert cli("search", index, "-k", 2, "--json", "cat rain").stdout == expected
    assert cli("search", index, "-k", 2, "--json", "-", stdin="cat rain").stdout == expected
    assert (
        "unrecognized arguments: cat rain; put a QUERY" in cli("search", index, "-k", 2, "cat", "rain", check=2).stderr
    )
    assert "unrecognized arguments: --rain" in cli("search", index, "-k", 2, "--rain", check=2).stderr


def test_terms_that_no_document_has_are_told_apart(cli: Cli, tmp_path: Path, tiny_pair: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"_id": "a", "text": "cat"}\n')
    cli("index", tiny_pair, tmp_path / "corpus.jsonl", "-o", tmp_path / "index")
    lines = cli("search", tmp_path / "index", "cat violin snow", "--explain").stdout.splitlines()
    terms = lines[1 : lines.index("")]
    marked = ["in no document" in line for line in terms]
    assert any(marked)
    assert marked == sorted(marked)
    assert terms[0].split()[0] == "cat" or not marked[0]
