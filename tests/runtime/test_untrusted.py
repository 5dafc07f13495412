"""Indexes and artifacts of strangers, whose checksums fit: an error of one line, in bounded time and memory."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from splade_edge.runtime import Document, Encoder, Index, IndexUpdater, Searcher, build_index
from splade_edge.runtime.build.documents_writer import MAX_DEPTH
from splade_edge.runtime.build.fields_writer import FieldWriter
from splade_edge.runtime.errors import ArtifactError, InputError, IntegrityError
from splade_edge.runtime.files import safe_join
from splade_edge.runtime.filters.predicate import Field
from splade_edge.runtime.index import sqlite_limits as untrusted
from splade_edge.runtime.index.documents import is_deep, row_crc
from splade_edge.runtime.index.sqlite import SqliteReader
from splade_edge.runtime.index.sqlite_limits import Limits, check_schema

from tests import tiny
from tests.fuzz import forge, mutations
from tests.fuzz.__main__ import write_directories
from tests.fuzz.mutations import Tree
from tests.transformers import write_transformer_artifact

DOCUMENTS, FIELDS = "segments/00000001/documents.sqlite", "segments/00000001/fields.sqlite"
MANIFEST = "splade_edge_index.json"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("untrusted")
    pair = tiny.write_pair(root / "pair")
    documents = [Document(f"d{n}", "", "cat dog", {"n": n, "lang": "en"}) for n in range(20)]
    build_index(root / "index", documents, pair, fields=["n"], with_document_encoder=True)
    return root / "index"


@pytest.fixture
def tree(original: Path, tmp_path: Path) -> Tree:
    return Tree.load(Path(shutil.copytree(original, tmp_path / "index")))


def edit(tree: Tree, name: str, sql: str) -> None:
    """Change a SQLite file, and make all hashes fit."""
    path = tree.root / name
    connection = sqlite3.connect(path)
    connection.create_function("row_crc", 5, lambda ordinal, *fields: row_crc(ordinal, fields))
    connection.executescript(sql)
    connection.close()
    tree.set(name, path.read_bytes())
    finish(tree)


def finish(tree: Tree) -> None:
    mutations._mend_manifests(tree)
    tree.write()


def set_value(tree: Tree, name: str, path: str, value: Any) -> None:
    body = json.loads(tree.get(name))
    *way, last = path.split("/")
    holder = body
    for key in way:
        holder = holder[int(key) if isinstance(holder, list) else key]
    holder[last] = value
    tree.set(name, mutations._manifest(body))


MOVED = "ALTER TABLE documents RENAME TO moved; "


@pytest.mark.parametrize(
    "sql",
    [
        MOVED + "CREATE VIEW documents AS SELECT * FROM moved",
        MOVED + "CREATE TABLE documents AS SELECT * FROM moved",
        "CREATE VIEW more AS SELECT 1",
        "CREATE TABLE more (a)",
        "CREATE TRIGGER more AFTER INSERT ON documents BEGIN SELECT 1; END",
        "ALTER TABLE documents ADD COLUMN more GENERATED ALWAYS AS (1)",
        "DROP INDEX documents_id; CREATE INDEX documents_id ON documents (id) WHERE ordinal > 1",
        "DROP INDEX documents_id",
    ],
)
def test_a_schema_that_is_not_ours(tree: Tree, sql: str) -> None:
    edit(tree, DOCUMENTS, sql)
    with pytest.raises(IntegrityError, match=r"documents.sqlite is damaged \(its schema "):
        Index.open(tree.root)


def test_fields_with_another_schema(tree: Tree) -> None:
    edit(tree, FIELDS, "ALTER TABLE names RENAME TO moved; CREATE VIEW names AS SELECT * FROM moved")
    with pytest.raises(IntegrityError, match=r"fields.sqlite is damaged \(its schema is another"):
        Index.open(tree.root)


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM documents",
        "DELETE FROM documents WHERE ordinal = 19",
        "UPDATE documents SET ordinal = 4294967294 WHERE ordinal = 19",
    ],
)
@pytest.mark.parametrize("count", [20, 2**32 - 1])
def test_documents_that_are_not_there(tree: Tree, sql: str, count: int) -> None:
    """Memory is taken by the number of documents: the file must have the first, the last, and room for the others."""
    for key, value in (("documents", count), ("units", count), ("rows", 0)):
        set_value(tree, MANIFEST, f"segments/0/{key}", value)
    for name in ("terms.u32", "checksums.u32", "impacts.u8", "postings.u8"):  # block-max data would have their size
        tree.set(f"segments/00000001/chunk_{name}", b"")
    tree.set("segments/00000001/span_postings.u16", b"")
    edit(tree, DOCUMENTS, sql)
    with pytest.raises(IntegrityError, match=rf"documents.sqlite is damaged \(it does not hold {count} documents"):
        Index.open(tree.root)


def test_more_names_than_any_index_has(tree: Tree) -> None:
    edit(
        tree, FIELDS,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 21000) "
        "INSERT INTO names SELECT 'f' || i, 1, 0, 0, NULL FROM n",
    )  # fmt: skip
    with Index.open(tree.root) as index, pytest.raises(IntegrityError, match="more names than any index"):
        index.select("n < 3")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("segments/0/rows", 2**62),
        ("segments/0/postings", 2**64 - 1),
        ("segments/0/rows", 2**40),
        ("vocab_size", 2**31 - 1),
        ("generation", 2**64 - 1),
        ("generation", -1),
        ("scale", 1e300),
        ("settings/fields", ["f"] * 100_000),
        ("text/passages", {"tokens": -1, "overlap": 0}),
        ("statistics/clipped", 2**63),
        ("query_encoder", "a\0b"),
        ("query_encoder", "x" * 300),
    ],
)
def test_numbers_and_names(tree: Tree, path: str, value: Any) -> None:
    set_value(tree, MANIFEST, path, value)
    finish(tree)
    with pytest.raises((IntegrityError, ArtifactError)) as caught:
        Searcher.open(tree.root)
    assert str(tree.root) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_more_fields_than_are_read(tmp_path: Path) -> None:
    """What a reader would refuse is not written."""
    with pytest.raises(InputError, match="10,001 fields are to get an index; name at most 10,000"):
        FieldWriter(tmp_path / "fields.sqlite", [Field((f"f{n}",)) for n in range(10_001)])


@pytest.mark.parametrize(
    "name", ["a\0b", "\ud800", "a/\ud800", "../x", "/x", "a//b", "", "C:x", "x" * 256, "ab/" * 600 + "a"]
)
def test_names_of_files(name: str) -> None:
    with pytest.raises(IntegrityError, match="names a file outside the directory"):
        safe_join(Path("root"), name)
    assert safe_join(Path("root"), "a/é").name == "é"


@pytest.mark.parametrize("what", [b"[" * 100_000, b'{"a":' * 100_000, b"1" * 100_000, b"[" * 900 + b"]" * 900])
def test_json_that_is_deep(tree: Tree, what: bytes) -> None:
    tree.set(MANIFEST, tree.get(MANIFEST).replace(b'"features": []', b'"features": ' + what))
    tree.write()
    with pytest.raises(IntegrityError, match="is damaged"):
        Index.open(tree.root)


def test_a_manifest_that_is_large(tree: Tree) -> None:
    tree.set(MANIFEST, tree.get(MANIFEST) + b" " * (9 << 20))
    tree.write()
    with pytest.raises(IntegrityError, match="larger than any manifest"):
        Index.open(tree.root)


class TestMetadata:
    def nested(self, depth: int) -> dict[str, Any]:
        value: Any = 1
        for n in range(depth - 1):
            value = [value] if n % 2 else {"a": value}
        return {"a": value}

    def test_the_way_in(self, tree: Tree, tmp_path: Path) -> None:
        assert not is_deep(self.nested(MAX_DEPTH), MAX_DEPTH)
        assert is_deep(self.nested(MAX_DEPTH + 1), MAX_DEPTH)
        with IndexUpdater.open(tree.root, threads=1) as updater:
            updater.add([Document("deep", "", "cat", self.nested(MAX_DEPTH))])
        with Index.open(tree.root) as index:
            assert index.documents([20])[0].metadata == self.nested(MAX_DEPTH)
        pair = tiny.write_pair(tmp_path / "pair")
        itself: dict[str, Any] = {}
        itself["a"] = itself
        for metadata in (self.nested(MAX_DEPTH + 1), itself):
            with pytest.raises(InputError, match=f"'deeper' is nested more than {MAX_DEPTH} deep; flatten it"):
                build_index(tmp_path / "new", [Document("deeper", "", "cat", metadata)], pair)

    @pytest.mark.parametrize("depth", [600, 3000, 100_000])
    def test_the_way_out(self, tree: Tree, depth: int) -> None:
        text = '{"a":' + "[" * depth + "]" * depth + "}"
        edit(tree, DOCUMENTS, f"UPDATE documents SET metadata = '{text}' WHERE ordinal = 3;"
             "UPDATE documents SET crc = row_crc(ordinal, id, title, text, metadata)")  # fmt: skip
        with Index.open(tree.root) as index:
            assert index.documents([2])[0].id == "d2"
            with pytest.raises(IntegrityError, match=r"documents.sqlite is damaged"):
                index.documents([3])


class TestLimits:
    """What SQLite does for a hostile file, shown on a harmless one whose budget is small."""

    def test_steps(self, original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        reader = SqliteReader(original / DOCUMENTS)
        assert len(reader.query("SELECT * FROM documents")) == 20
        monkeypatch.setattr(untrusted, "_STEPS", -(10**9))
        reader._connection.set_progress_handler(reader._limits._step, 10)
        with pytest.raises(IntegrityError, match="interrupted"):
            reader.query("SELECT a.id FROM documents a, documents b ORDER BY b.text")
        with pytest.raises(IntegrityError, match="interrupted"):
            list(reader.query_in_parts("SELECT a.id FROM documents a, documents b ORDER BY b.text", (), 3))

    def test_bytes(self) -> None:
        limits = Limits(sqlite3.connect(":memory:"), 1000)
        few = [(1, "a" * 1000)] * 60
        assert list(limits.rows(few)) == few
        with pytest.raises(sqlite3.DatabaseError, match="more than it holds"):
            list(limits.rows([(1, "a" * 1000)] * 80))
        with pytest.raises(sqlite3.DatabaseError, match="more than it holds"):
            list(limits.rows([(1,)] * 80_000))

    def test_what_is_off(self) -> None:
        connection = sqlite3.connect(":memory:")
        Limits(connection, 1000)
        for sql in (
            "CREATE TABLE a (b)",
            "ATTACH ':memory:' AS other",
            "SELECT " + "(" * 60 + "1" + ")" * 60 + "+1" * 60,
        ):
            with pytest.raises(sqlite3.Error):
                connection.execute(sql)

    def test_schemas(self) -> None:
        mine = "CREATE TABLE a (b);\nCREATE UNIQUE INDEX c ON a (b);"
        table, index = ("table", "a", "CREATE TABLE a\n (b)"), ("index", "c", "CREATE INDEX c ON a (b)")
        assert check_schema([table, index, ("index", "sqlite_autoindex_a_1", None)], mine) is None
        assert check_schema([table], mine) == "its schema lacks a table or an index"
        assert check_schema([table, index, ("table", "d", "CREATE TABLE d (b)")], mine) == "its schema is another"
        assert check_schema([table, ("view", "d", "…")], mine) == "its schema has a view"
        assert check_schema([table, ("trigger", "d", "…")], None) == "its schema has a trigger"
        assert check_schema([("table", "d", "CREATE TABLE d (b)")], None) is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("variants/0/transformer/layers", 2**40),
        ("variants/0/transformer/layers", 2**63),
        ("variants/0/transformer/hidden", 2**40),
        ("variants/0/transformer/inner", 2**31),
        ("variants/0/transformer/positions", 2**62),
        ("variants/0/path", "kernel/none.bin"),
        ("vocab_size", 2**31 - 1),
        ("max_length", 2**31 - 1),
        ("files", {}),
    ],
)
def test_sizes_of_encoders(tmp_path: Path, path: str, value: Any) -> None:
    tree = Tree.load(write_transformer_artifact(tmp_path / "artifact"))
    set_value(tree, "splade_edge.json", path, value)
    tree.write()
    with pytest.raises((IntegrityError, ArtifactError)):
        Encoder.open(tree.root)


def test_a_vocabulary_that_no_file_holds(tmp_path: Path) -> None:
    tree = Tree.load(tiny.write_table_artifact(tmp_path / "table", np.ones(len(tiny.VOCABULARY))))
    set_value(tree, "splade_edge.json", "vocab_size", 10**9)
    tree.write()
    with pytest.raises(IntegrityError, match="too few for 1000000000 terms"):
        Encoder.open(tree.root)


@pytest.mark.parametrize(
    ("part", "value", "reason"),
    [
        ("normalizer", {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}, "many times as long"),
        ("normalizer", {"pattern": {"String": "a"}, "content": "a" * 100}, "many times as long"),
        ("normalizer", {"type": "Sequence", "normalizers": [
            {"type": "Replace", "pattern": {"String": "a"}, "content": "aaa"}] * 9}, "many times as long"),
        ("normalizer", {"type": "Replace", "pattern": {"String": ""}, "content": "a"}, "replaces the empty string"),
        ("normalizer", {"type": "Replace", "pattern": {"Regex": "(a+)+b"}, "content": ""}, "repeats what repeats"),
        ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": r"(?:x(\w*))*"}, "behavior": "Isolated",
                           "invert": False}, "repeats what repeats"),
        ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": r"(a)\1"}, "behavior": "Isolated",
                           "invert": False}, "an escape that is not known"),
        ("decoder", {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"Regex": "(?:x{1,40}){1,40}y"}, "content": ""}]}, "repeats what repeats"),
        ("normalizer", {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 200}, "more than 200 normalizers"),
        ("normalizer", {"type": "Sequence", "normalizers": [
            {"type": "Replace", "pattern": {"Regex": "x+(?=y)"}, "content": "x"}] * 20}, "patterns together"),
        ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "a" * 3000}, "behavior": "Isolated",
                           "invert": False}, "a pattern of 3,000 characters"),
        ("normalizer", "BertNormalizer", "is none"),
        ("model", {"max_input_chars_per_word": 2**40}, "max_input_chars_per_word is 1099511627776"),
    ],
)  # fmt: skip
def test_tokenizers_whose_work_has_no_bounds(tmp_path: Path, part: str, value: Any, reason: str) -> None:
    """They are refused before the library sees them."""
    from splade_edge.runtime.encoder.tokenizer import TextTokenizer

    path = tmp_path / "tokenizer.json"
    tiny.write_tokenizer(path)
    body = json.loads(path.read_text("utf-8"))
    body[part] = body[part] | value if part == "model" else value
    path.write_text(json.dumps(body), "utf-8")
    with pytest.raises(ArtifactError, match="is no tokenizer that is safe to use") as caught:
        TextTokenizer(path, 16)
    assert reason in str(caught.value)


class TestForgeries:
    """A short form of `make fuzz`, and that the judge sees what is wrong."""

    def test_some(self, tmp_path: Path) -> None:
        assert forge.run_forgeries(tmp_path, 40, 5, write_directories) == []

    @pytest.mark.parametrize(
        ("ask", "defect"),
        [
            (lambda path, **_: 1 / 0, "ZeroDivisionError"),
            (lambda path, **_: np.ones(3 << 30, np.uint8).sum(), "MemoryError"),
            (lambda path, **_: ["two\nlines"], "not one line"),
            (lambda path, **_: (path.parents[2] / "outside").write_bytes(b""), "touched ['open "),
            (lambda path, **_: Path("/etc/passwd").read_bytes(), "touched ['open /etc/passwd'"),
            (lambda path, **_: (path.parent / "beside").write_bytes(b"") or [], "something lies beside"),
            (lambda path, **_: time.sleep(30), "no answer in 1 s"),
            (lambda path, **_: sum(n for n in iter(int, 1)), "ended with -24"),  # SIGXCPU
        ],
    )  # fmt: skip
    def test_the_judge(
        self, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Any, defect: str
    ) -> None:
        monkeypatch.setattr(forge, "ask", ask)
        monkeypatch.setattr(forge, "PATIENCE", 1 if "no answer" in defect else 300)
        monkeypatch.setattr(forge, "SECONDS", 1 if "-24" in defect else 60)
        work = tmp_path / "work"
        copy = Path(shutil.copytree(original, work / "copy"))
        (work / "scratch").mkdir()
        assert defect in forge.judge_one(original, copy, work, random.Random(1))
        assert Tree.load(copy).original == Tree.load(original).original
