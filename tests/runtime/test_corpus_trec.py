from __future__ import annotations

import io
from pathlib import Path

import pytest
from splade_edge.runtime.errors import CorpusError, InputError
from splade_edge.runtime.evaluation.trec import Query, read_qrels, read_queries, write_run


def test_queries(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"_id": "1", "text": "x", "metadata": {}}\n{"_id": "2", "text": ""}\n', "utf-8")
    assert list(read_queries(str(tmp_path / "q.jsonl"))) == [Query("1", "x"), Query("2", "")]
    (tmp_path / "q.tsv").write_text("1\tx y\r\n2\tz\n", "utf-8")
    assert list(read_queries(str(tmp_path / "q.tsv"))) == [Query("1", "x y"), Query("2", "z")]
    (tmp_path / "h.tsv").write_text("qid\tquery\n1\tx y\nqid\tquery\n", "utf-8")
    assert list(read_queries(str(tmp_path / "h.tsv"))) == [Query("1", "x y"), Query("qid", "query")]


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        ("q.jsonl", b'{"_id": "1", "text": "again"}', "the query id '1' was used before"),
        ("q.jsonl", b'{"_id": "2"}', 'no "text"'),
        ("q.jsonl", b"\xff", "invalid UTF-8|not a line of JSON"),
        ("q.tsv", b"1\tagain", "was used before"),
        ("q.tsv", b"2\ta\tb", "3 columns where id<TAB>text"),
        ("q.tsv", b"2\t\xff", "invalid UTF-8"),
        ("q.tsv", b"\tx", "the id is empty"),
    ],
)
def test_bad_queries(tmp_path: Path, name: str, line: bytes, reason: str) -> None:
    first = b'{"_id": "1", "text": "x"}\n' if name.endswith("jsonl") else b"1\tx\n"
    (tmp_path / name).write_bytes(first + line)
    with pytest.raises(CorpusError, match=rf"{name}:2: .*({reason})"):
        list(read_queries(str(tmp_path / name)))


def test_qrels(tmp_path: Path) -> None:
    path = tmp_path / "q.tsv"
    path.write_text("query-id\tcorpus-id\tscore\n1\ta b\t2\n1\tc\t0\n2\ta\t1\n", "utf-8")
    assert read_qrels(str(path)) == {"1": {"a b": 2, "c": 0}, "2": {"a": 1}}
    path.write_text("1\ta\t1\n", "utf-8")
    assert read_qrels(str(path)) == {"1": {"a": 1}}
    trec = tmp_path / "qrels.txt"
    trec.write_text("1 0 a 1\n1\t0\tb\t-1\n", "utf-8")
    assert read_qrels(str(trec)) == {"1": {"a": 1, "b": -1}}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("1 a\n", ":1: neither query"),
        ("1\ta\tgood\n", ":1: the grade 'good' is not a whole number"),
        ("1\t\t1\n", ":1: the id is empty"),
        ("", "holds no judgements"),
        ("query-id\tcorpus-id\tscore\n", "holds no judgements"),
    ],
)
def test_bad_qrels(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "q.tsv").write_text(content, "utf-8")
    with pytest.raises(CorpusError, match=reason):
        read_qrels(str(tmp_path / "q.tsv"))


def test_run() -> None:
    out = io.StringIO()
    write_run(out, "q1", [("d1", 2.5), ("d2", 1 / 3)], "tag")
    assert out.getvalue() == f"q1 Q0 d1 1 2.5 tag\nq1 Q0 d2 2 {1 / 3!r} tag\n"


@pytest.mark.parametrize(
    ("query", "document", "tag"), [("q 1", "d", "t"), ("q", "d\t1", "t"), ("q", "d", "a b"), ("q", "", "t")]
)
def test_a_run_cannot_carry_white_space(query: str, document: str, tag: str) -> None:
    with pytest.raises(InputError, match="has white space, which a TREC run cannot carry"):
        write_run(io.StringIO(), query, [(document, 1.0)], tag)
