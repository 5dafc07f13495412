from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from splade_edge.runtime.build import lines
from splade_edge.runtime.build.corpus import BadLines, Record, read_corpus
from splade_edge.runtime.document import Document
from splade_edge.runtime.errors import CorpusError, InputError


def read(path: Path, policy: str = "fail") -> tuple[list[Record], BadLines]:
    bad = BadLines(policy)
    return list(read_corpus([str(path)], bad)), bad


def test_beir_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"_id": "a", "title": "T", "text": "x", "url": "u", "n": [1]}\n\n{"_id":"b","text":""}\n', "utf-8")
    records, bad = read(path)
    assert records == [
        Record(Document("a", "T", "x", {"url": "u", "n": [1]}), f"{path}:1"),
        Record(Document("b", "", "", {}), f"{path}:3"),
    ]
    assert bad.count == 0


def test_tsv(tmp_path: Path) -> None:
    path = tmp_path / "corpus.tsv"
    path.write_bytes('1\ta "text"\r\n2\ttitle\ttext é\n3\t\n'.encode())
    documents = [record.document for record in read(path)[0]]
    assert documents == [Document("1", "", 'a "text"'), Document("2", "title", "text é"), Document("3", "", "")]


@pytest.mark.parametrize(
    ("header", "line", "document"),
    [
        ("id\ttext", "1\tx", Document("1", "", "x")),
        ("id\ttitle\ttext", "1\ta\tx", Document("1", "a", "x")),
        ("id\ttext\ttitle", "1\tx\ta", Document("1", "a", "x")),  # as in DPR's Wikipedia
        ("\ufeffID\tTitle\tPassage", "1\ta\tx", Document("1", "a", "x")),
        ("_id\tyear\ttext\tLang", "1\t1999\tx\ten", Document("1", "", "x", {"year": "1999", "Lang": "en"})),
    ],
)
def test_tsv_with_a_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str, line: str, document: Document
) -> None:
    path = tmp_path / "corpus.tsv"
    path.write_text(f"\n{header}\n{line}\n", "utf-8") if header[0] != "\ufeff" else path.write_text(f"{header}\n{line}")
    assert [record.document for record in read(path)[0]] == [document]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(path.read_bytes()))))
    assert [record.document for record in read_corpus(["-"], BadLines())] == [document]


@pytest.mark.parametrize("first", ["id\tname", "1\ttext", "id\ttext\ttext", "id\tpid\ttext", "text\tid of a text"])
def test_a_first_line_that_is_no_header(tmp_path: Path, first: str) -> None:
    path = tmp_path / "corpus.tsv"
    path.write_text(f"{first}\n", "utf-8")
    assert [record.document.id for record in read(path)[0]] == [first.split("\t")[0]]


def test_columns_other_than_the_headers(tmp_path: Path) -> None:
    path = tmp_path / "corpus.tsv"
    path.write_text("id\ttext\n1\ta\tb\nid\ttext\n", "utf-8")
    with pytest.raises(CorpusError, match=r"corpus.tsv:2: 3 columns where the header has 2"):
        read(path)
    records, bad = read(path, "skip")
    assert [record.document.id for record in records] == ["id"]  # only a first line is a header
    assert bad.count == 1


def test_gzip_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl.gz"
    path.write_bytes(gzip.compress(b'\xef\xbb\xbf{"_id": "a", "text": "x"}'))
    assert [r.document.id for r in read(path)[0]] == ["a"]
    plain = tmp_path / "plain.jsonl.gz"  # a browser may have decompressed it on the way
    plain.write_bytes(b'{"_id": "a", "text": "x"}')
    assert [r.document.id for r in read(plain)[0]] == ["a"]


@pytest.mark.parametrize("data", [b'{"_id": "a", "text": "x"}\n', b"a\tx\n", gzip.compress(b"a\tx\n", mtime=0)])
def test_stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(data)))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert list(read_corpus(["-"], BadLines())) == [Record(Document("a", "", "x"), "<stdin>:1")]
    assert not stdin.buffer.closed


BAD_JSON = [
    (b'{"text": "x"}', "no \"_id\": each line needs one, a string (its keys are: 'text')"),
    (b'{"_id": null, "text": "x"}', '"_id" is null'),
    (b'{"_id": 5, "text": "x"}', '"_id" is a number; it must be a string'),
    (b'{"_id": true, "text": "x"}', '"_id" is a boolean'),
    (b'{"_id": " ", "text": "x"}', "the id is empty"),
    (b'{"_id": "a"}', 'no "text"'),
    (b'{"_id": "a", "text": ["x"]}', '"text" is a array'),
    (b'{"_id": "a", "text": "x", "title": 3}', '"title" is a number'),
    (b'{"_id": "a", "text": "x\\u0000"}', '"text" holds a NUL character'),
    (b'{"_id": "a\\u0000", "text": "x"}', '"_id" holds a NUL character'),
    (b'{"_id": "a", "text": "\xff"}', "invalid UTF-8 (byte 0xff)"),
    (b'{"_id": "a", "text": "\\ud800"}', "not a line of JSON"),
    (b'{"_id": "a", "text": "x\x00"}', "NUL byte"),
    (b'{"_id": "a", "text": NaN}', "not a line of JSON"),
    (b'{"_id": "a", "text": "x"', "not a line of JSON"),
    (b'{"_id": "a", "text": "x"} extra', "not a line of JSON"),
    (b"[1, 2]", "a JSON array where an object with _id and text is expected"),
    (b"null", "a JSON null where"),
    (b'"text"', "a JSON string where"),
    (b"[" * 100_000, "nested too deeply"),
    (b"a\tb", "not a line of JSON"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_JSON, ids=[reason for _, reason in BAD_JSON])
def test_bad_json_lines(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "corpus.jsonl"
    good = b'{"_id": "good%d", "text": "x"}\n'
    path.write_bytes(good % 1 + line + b"\n" + good % 2)
    records, bad = read(path, "skip")
    assert [r.document.id for r in records] == ["good1", "good2"]
    assert bad.count == 1
    assert bad.messages[0].startswith(f"{path}:2: ")
    assert reason in bad.messages[0]
    with pytest.raises(CorpusError, match=r"corpus\.jsonl:2: "):
        read(path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"only", "1 column where id<TAB>text"),
        (b"a\tb\tc\td", "4 columns where"),
        (b"\ttext", "the id is empty"),
        (b"a\t\xe9t\xe9", "invalid UTF-8 (byte 0xe9)"),
        (b"a\tb\x00", "NUL byte"),
    ],
)
def test_bad_tsv_lines(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "corpus.tsv"
    path.write_bytes(b"1\tx\n" + line + b"\n2\ty")
    records, bad = read(path, "skip")
    assert [r.document.id for r in records] == ["1", "2"]
    assert reason in bad.messages[0]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_the_meter_counts_bytes_on_disk(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    data = pack(b"".join(b"%d\t%s\n" % (i, hashlib.sha256(b"%d" % i).hexdigest().encode()) for i in range(20_000)))
    for name in ("a.tsv", "b.tsv"):
        (tmp_path / name).write_bytes(data)
    meter = lines.ReadMeter()
    seen = []
    for _ in read_corpus([str(tmp_path / "a.tsv"), str(tmp_path / "b.tsv")], BadLines(), meter):
        seen.append(meter.bytes_read)
    assert seen == sorted(seen)
    assert seen[-1] == 2 * len(data)
    assert 0.4 * len(data) < seen[10_000] < 0.7 * len(data)


def test_only_the_first_messages_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b"no\n" * 50)
    records, bad = read(path, "skip")
    assert (records, bad.count, len(bad.messages)) == ([], 50, 10)


def test_a_line_without_end_is_reported_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 1 << 20)
    monkeypatch.setattr(lines, "_CHUNK", 1000)
    path = tmp_path / "corpus.tsv"
    path.write_bytes(b"1\t" + b"x" * (3 << 20) + b"\n2\ty\n")
    records, bad = read(path, "skip")
    assert [r.document.id for r in records] == ["2"]
    assert "longer than 1 MiB" in bad.messages[0]
    assert records[0].location == f"{path}:2"


@pytest.mark.parametrize("policy", ["skip", "fail"])
def test_damaged_gzip_always_ends_the_run(tmp_path: Path, policy: str) -> None:
    whole = gzip.compress(b"".join(json.dumps({"_id": str(i), "text": str(i)}).encode() + b"\n" for i in range(9999)))
    path = tmp_path / "corpus.jsonl.gz"
    for damaged in (whole[:-9], whole[: len(whole) // 2], whole[:999] + b"\x00\x01\x02" + whole[1002:]):
        path.write_bytes(damaged)
        with pytest.raises(CorpusError):
            read(path, policy)


def test_sources_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "dir.jsonl").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "dir.jsonl")
    (tmp_path / "x.csv").touch()
    with pytest.raises(InputError, match=r"cannot tell its format; name it \.jsonl or \.tsv"):
        read(tmp_path / "x.csv")
    with pytest.raises(InputError, match="does not exist"):
        lines.size_of(str(tmp_path / "none.jsonl"))


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    for name in ("fuzz.jsonl", "fuzz.tsv"):
        path = tmp_path_factory.getbasetemp() / name
        path.write_bytes(data)
        try:
            records, bad = read(path, "skip")
        except CorpusError:  # two bytes of gzip magic
            continue
        assert len(records) + bad.count <= data.count(b"\n") + 1
