"""From a filter to documents: indexes of fields, scans and the definition agree; damage is named."""

from __future__ import annotations

import hashlib
import json
import operator
import sqlite3
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splade_edge.runtime import IndexUpdater
from splade_edge.runtime.build import fields_writer
from splade_edge.runtime.build.documents_writer import DocumentWriter, DuplicateIdError
from splade_edge.runtime.build.index_writer import IndexWriter
from splade_edge.runtime.document import Document
from splade_edge.runtime.errors import InputError, IntegrityError, StorageError
from splade_edge.runtime.filters import fields, parse_where
from splade_edge.runtime.filters import selection as select
from splade_edge.runtime.filters.matching import test_of as matcher
from splade_edge.runtime.filters.parser import WhereError
from splade_edge.runtime.filters.predicate import comparisons
from splade_edge.runtime.index import Index
from splade_edge.runtime.index.layout import MANIFEST_NAME
from splade_edge.runtime.manifest import describe_file, write_manifest

from tests.oracle import csr, top_k

from .test_where import metadata

FIELDS = Path("segments/00000001/fields.sqlite")


def write(path: Path, data: list[dict[str, object]], indexed: list[str], impacts: np.ndarray | None = None) -> Index:
    path.mkdir(parents=True, exist_ok=True)
    writer = IndexWriter(path, 4, fields=indexed, scale=1.0)
    writer.add_documents([Document(f"d{i}", f"title {i % 3}", f"text {i}", values) for i, values in enumerate(data)])
    writer.add_vectors(csr(np.ones((len(data), 4)) if impacts is None else impacts))
    writer.finish()
    return Index.open(path)


@pytest.fixture(scope="module")
def years(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """1,000 documents; year and lang are indexed, note is not."""
    data: list[dict[str, object]] = [
        {"year": 1990 + i % 40, "lang": "en" if i % 10 else "de", "note": f"n{i}", "author": {"name": "Ada"}}
        for i in range(1000)
    ]
    return write(tmp_path_factory.mktemp("years"), data, ["year", "lang"])


COMPARISONS = st.sampled_from(
    [
        "{} = 1", "{} != 1", "{} < 0", "{} <= 0.5", "{} > -1", "{} >= 2", "{} = null", "{} is not null", "{} = true",
        "{} in (1, 'a', false, null)", "{} not in ('b', 0)", "{} = 'a'", "{} < 'b'", "{} <= 'a'", "{} > ''",
        "{} >= 'aa'", "{} like 'a%'", "{} like '%b'", "{} like 'ab'", "{} like '_%'", "{} not like '%'",
        "{} > 'a\x00'", "{} like '\ud7ff%'", "{} like 'a\U0010ffff%'", "{} like '\U0010ffff%'", "{} < '\ue000'",
        "{} >= '\U0001f600'", "{} = 9007199254740992", "{} > 9007199254740992", "{} <= 9007199254740993",
        "{} >= 9223372036854775807", "{} < -9223372036854775808", "{} = 1180591620717411303424", "{} > 1e20",
        "{} = 9223372036854775809", "{} > 9223372036854775808", "{} in (18446744073709551615, 9223372036854775808)",
        "{} < 18446744073709551615", "{} >= 18446744073709551616", "{} <= -9223372036854775809",
    ]
)  # fmt: skip
NAMES = st.sampled_from(["x", "y", "z", "x.x", "y.z", "_id", "title", "text"])
PREDICATES = st.recursive(
    st.builds(str.format, COMPARISONS, NAMES),
    lambda inner: st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: "(" + " and ".join(parts) + ")"),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: "(" + " or ".join(parts) + ")"),
        inner.map(lambda part: f"not {part}"),
    ),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(
    data=st.lists(metadata, min_size=1, max_size=25),
    indexed=st.lists(st.sampled_from(["x", "y", "z", "x.x", "y.z", "title"]), unique=True),
    filters=st.lists(PREDICATES, min_size=1, max_size=8),
    flush=st.booleans(),
)
def test_indexes_scans_and_the_definition_agree(tmp_path_factory, data, indexed, filters, flush):
    with pytest.MonkeyPatch.context() as patch:
        if flush:
            patch.setattr(fields_writer, "_MAX_BYTES", 600)  # values are written in several runs
        patch.setattr(select.IndexSelector, "_refuse_misfit", lambda *_: None)
        index = write(tmp_path_factory.mktemp("i") / "index", data, indexed)
        documents = index.documents(range(len(data)))
        for text in filters:
            predicate = parse_where(text)
            selection = index.select(text)
            assert selection.allowed.tolist() == [matcher(predicate)(document) for document in documents], text
            scanned = [step.what for step in selection.steps if step.how == "scan"]
            unindexed = {c.field for c in comparisons(predicate)} - {parse_where(f"{n} = 1").field for n in indexed}
            assert bool(scanned) <= bool(unindexed)
        index.check()


def test_the_answer_is_the_exact_top_k_of_what_is_allowed(tmp_path):
    rng = np.random.default_rng(0)
    impacts = rng.integers(0, 256, (500, 4)) * (rng.random((500, 4)) < 0.6)
    index = write(tmp_path / "i", [{"n": i % 7, "s": str(i)} for i in range(500)], ["n"], impacts)
    for text in ("n = 3", "n > 1 and n != 5", "s like '%7'", "n = 2 and s like '1%'", "n < 0"):
        allowed = index.select(text).allowed
        left = np.where(allowed[:, None], impacts, 0)
        for k in (1, 10, 600):
            ordinals, scores = index.search_vector(([0, 2], [0.5, 1.25]), k, allowed=allowed)
            assert (ordinals.tolist(), scores.tolist()) == top_k(left, [0, 2], [0.5, 1.25], k)


def plans(index: Index, text: str) -> list[str]:
    """SQLite's own word on how it finds the values of an (indexed) comparison."""
    [comparison] = comparisons(parse_where(text))
    reader = index._segment.fields
    number = reader.counts[comparison.field].number
    found = []
    for condition, parameters in fields.ranges(comparison):
        for values in (False, True):
            sql = "EXPLAIN QUERY PLAN " + fields.statement(condition, values=values)
            rows = reader._file.query(sql, (number, *parameters))
            found += [row[-1] for row in rows]
    return found


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("year = 2000", "field=? AND value=?"),
        ("year in (2000, 2001)", "field=? AND value=?"),
        ("year != null", "field=? AND value=?"),
        ("year >= 2000", "field=? AND value>? AND value<?"),
        ("year < 2000", "field=? AND value<?"),
        ("lang > 'd'", "field=? AND value>? AND value<?"),
        ("lang <= 'd'", "field=? AND value>? AND value<?"),
        ("lang like 'd%'", "field=? AND value>? AND value<?"),
    ],
)
def test_an_indexed_field_is_answered_by_a_range_of_its_index(years, text, bounds):
    assert set(plans(years, text)) == {f"SEARCH field_values USING PRIMARY KEY ({bounds})"}


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("year = 2000", [("year = 2000", "index", 0, 25)]),
        ("year = 2000 and lang = 'de'", [("year = 2000", "index", 0, 25), ('lang = "de"', "index", 0, 100)]),
        ("note = 'n10'", [('note = "n10"', "scan", 1000, 1)]),
        # 25 documents are left to read
        ("note like '%0' and year = 2000", [("year = 2000", "index", 0, 25), ('note like "%0"', "scan", 25, 25)]),
        (
            "lang = 'en' or note = 'n10' or note = 'n11'",
            [('lang = "en"', "index", 0, 900), ('note = "n10" or note = "n11"', "scan", 1000, 1)],
        ),
        (
            "year = 2000 and (lang = 'de' or note = 'n11')",
            [("year = 2000", "index", 0, 25), ('lang = "de"', "index", 0, 100), ('note = "n11"', "scan", 0, 0)],
        ),
        (
            "not (year < 2029 or text = 'text 39')",
            [("year < 2029", "index", 0, 975), ('text = "text 39"', "scan", 25, 1)],
        ),
    ],
)
def test_documents_are_read_only_where_no_index_answers(years, text, steps):
    found = years.select(text)
    assert [(s.what, s.how, s.read, s.found) for s in found.steps] == steps
    expected = [matcher(parse_where(text))(document) for document in years.documents(range(1000))]
    assert found.allowed.tolist() == expected
    assert found.count == sum(expected)


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("lang = 'en' and yaer > 3", 17, "no document has the field yaer (do you mean year?); there are "
         "_id, title, text, author.name, lang, note, year"),
        ("author = 'Ada'", 1, "author is an object; name a part of it: author.name"),
        ("year = '2000'", 1, "year has numbers in this index, and is compared with strings; leave out the quotes"),
        ("year like '20%'", 1, "year has numbers in this index, and is compared with strings"),
        ("lang >= 3", 1, "lang has strings in this index, and is compared with numbers; put the value in quotes"),
        ("title = true", 1, "title has strings in this index, and is compared with booleans"),
        ("title in (1, 2)", 1, "title has strings"),
    ],
)  # fmt: skip
def test_what_can_never_be_true_is_refused(years, text, column, message):
    with pytest.raises(WhereError) as caught:
        years.select(text)
    assert str(caught.value).startswith(f"the filter is wrong at column {column}: {message}")


def test_what_a_field_has_once_may_be_asked(tmp_path):
    index = write(tmp_path / "i", [{"a": 1}, {"a": "1"}, {"a": None}, {}], ["a", "later"])
    assert index.select("a = 1").allowed.tolist() == [True, False, False, False]
    assert index.select('a = "1"').allowed.tolist() == [False, True, False, False]
    assert index.select("a = null").allowed.tolist() == [False, False, True, True]
    assert index.select("a in (1, true)").count == 1
    assert index.select("later = 3").count == 0  # named when the index was made
    assert {name: counts[:3] for name, counts in index.fields.items()} == {"a": (1, 1, 0), "later": (0, 0, 0)}


def test_answers_are_kept_and_cannot_be_changed(years, monkeypatch):
    first = years.select("year = 2001")
    assert years.select("year=2001.0") is first
    with pytest.raises(ValueError, match="read-only"):
        first.allowed[0] = True
    monkeypatch.setattr(select, "CACHE_BYTES", 3000)
    for year in (2002, 2003):
        years.select(f"year = {year}")
    assert years.select("year = 2001") is first
    for year in (2004, 2005):
        years.select(f"year = {year}")
    assert len(years.segments[0].selector._cache) == 3
    assert years.select("year = 2002") is not first
    monkeypatch.setattr(select, "CACHE_FILTERS", 2)
    years.select("year = 2006")
    assert len(years.segments[0].selector._cache) == 2


def test_more_names_than_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(fields_writer, "MAX_NAMES", 5)
    index = write(tmp_path / "i", [{f"user {i}": i} for i in range(9)], ["`user 8`"])
    assert list(index.fields) == ["`user 0`", "`user 1`", "`user 2`", "`user 3`", "`user 8`"]
    assert index.select("`user 7` = 7").allowed.tolist() == [False] * 7 + [True, False]
    assert index.select("`user 8` = 8").allowed.tolist() == [False] * 8 + [True]
    assert index.select("nobody = 1").count == 0  # cannot be known to be wrong


def test_an_index_without_the_file(tmp_path):
    """One of before there were filters: scans answer everything."""
    index = write(tmp_path / "i", [{"a": i} for i in range(5)], ["a"])
    (tmp_path / "i" / FIELDS).unlink()
    files = {name: entry for name, entry in index.manifest.files.items() if name != str(FIELDS)}
    write_manifest(tmp_path / "i" / MANIFEST_NAME, msgspec.structs.replace(index.manifest, files=files))
    index = Index.open(tmp_path / "i")
    assert index.fields == {}
    selection = index.select("a >= 3")
    assert [step.how for step in selection.steps] == ["scan"]
    assert selection.count == 2
    assert index.select("b = 3").count == 0


def test_a_flipped_byte_is_found_before_the_first_answer(tmp_path):
    write(tmp_path / "i", [{"a": i} for i in range(50)], ["a"])
    raw = bytearray((tmp_path / "i" / FIELDS).read_bytes())
    for at in range(200, len(raw), 997):
        raw[at] ^= 1
        (tmp_path / "i" / FIELDS).write_bytes(raw)
        raw[at] ^= 1
        with Index.open(tmp_path / "i") as index, pytest.raises(IntegrityError, match=r"fields\.sqlite is damaged"):
            index.select("a = 3")


def test_the_file_that_was_opened_is_the_one_that_is_hashed(tmp_path):
    index = write(tmp_path / "i", [{"a": i} for i in range(50)], ["a"])
    (tmp_path / "i" / FIELDS).rename(tmp_path / "gone")
    (tmp_path / "i" / FIELDS).write_bytes(b"another index took its place")
    assert index.select("a = 3").count == 1


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("UPDATE field_values SET ordinals = x'0000' WHERE value = 3", "cut short"),
        ("UPDATE field_values SET ordinals = x'32000000' WHERE value = 3", "beyond the last"),
        ("UPDATE field_values SET ordinals = '0000' WHERE value = 3", "is none"),
        ("UPDATE field_values SET ordinals = 3 WHERE value = 3", "is none"),
        ("UPDATE summary SET documents = 51", "not of 50 documents"),
        ("UPDATE names SET name = '='", "not the name of a field|wrong at column"),
    ],
)
def test_lists_are_checked_even_where_the_hash_is_right(tmp_path, sql, message):
    path = tmp_path / "i"
    index = write(path, [{"a": i} for i in range(50)], ["a"])
    with sqlite3.connect(path / FIELDS) as connection:
        connection.execute(sql)
    connection.close()
    files = {**index.manifest.files, str(FIELDS): describe_file(path / FIELDS)}
    write_manifest(path / MANIFEST_NAME, msgspec.structs.replace(index.manifest, files=files))
    with pytest.raises(IntegrityError, match=message):
        Index.open(path).select("a = 3")


@pytest.mark.parametrize("indexed", [["a", "b"], []], ids=["indexed", "read"])
def test_whole_numbers_are_compared_exactly(tmp_path, indexed):
    numbers: list[float] = [
        2**63 - 1,
        2**63,
        2**63 + 1,
        2**63 + 2048,
        2**64 - 2,
        2**64 - 1,
        2**64,
        10**30,
        -(2**63),
        -(2**63) - 1,
    ]
    numbers += [float(2**63), 1e30, 2**53, 2**53 + 1]
    index = write(tmp_path / "i", [{"a": n, "b": [n, 1]} for n in numbers], indexed)
    with IndexUpdater.open(tmp_path / "i") as updater:
        updater.add_vectors([Document("last", metadata={"a": 2**64 - 3})], csr(np.ones((1, 4))))
        updater.delete(["d4"])
        updater.compact()
    del numbers[4]
    numbers.append(2**64 - 3)
    index = index.refresh()
    for value in numbers:
        for sign, test in {"=": operator.eq, "<": operator.lt, ">=": operator.ge, "!=": operator.ne}.items():
            expected = [test(n, value) for n in numbers]
            selection = index.select(f"a {sign} {json.dumps(value)}")
            assert selection.allowed.tolist() == expected, (sign, value)
            if indexed:  # only what the index cannot tell apart is read
                assert [step.how for step in selection.steps] == ["index"]
                assert selection.steps[0].read <= 6
        assert index.select(f"b = {json.dumps(value)}").allowed.tolist()[:-1] == [n == value for n in numbers[:-1]]
    assert index.select(f"b > 0 and a = {2**63}").count == 2
    with pytest.raises(WhereError, match="the number is too large"):
        index.select(f"a = {10**309}")


def test_a_mask_that_is_changed_is_looked_at_again(tmp_path):
    index = write(tmp_path / "i", [{"n": i % 2} for i in range(6)], ["n"])
    mask = np.array([True, False] * 3)
    mask.flags.writeable = False
    for wanted in ([0, 2, 4], [1, 3, 5], [1, 3, 5]):
        for _ in range(2):
            assert sorted(index.search_vector(([0], [1.0]), 9, allowed=mask)[0].tolist()) == wanted
        mask.flags.writeable = True
        mask[:] = [False, True] * 3
        mask.flags.writeable = False
    kept = index._latest_filter[2]
    index.search_vector(([0], [1.0]), 9, allowed=mask)
    assert index._latest_filter[2] is kept
    mask.shape = 2, 3
    with pytest.raises(InputError, match="shape"):
        index.search_vector(([0], [1.0]), 9, allowed=mask)
    # nor can an answer to a filter be changed, which the next one to ask is given too
    for several in (False, True):
        if several:
            with IndexUpdater.open(tmp_path / "i") as updater:
                updater.add_vectors([Document("x", metadata={"n": 0})], csr(np.ones((1, 4))))
            index = index.refresh()
        allowed = index.select("n = 1").allowed
        with pytest.raises(ValueError, match="cannot set WRITEABLE"):
            allowed.flags.writeable = True
        for _ in range(2):
            assert sorted(index.search_vector(([0], [1.0]), 9, allowed=allowed)[0].tolist()) == [1, 3, 5]
        assert index._latest_filter[0] is allowed


def test_a_type_is_refused_only_where_all_names_are_known(tmp_path, monkeypatch):
    """A segment with more fields than are counted may have the field with another type, and does not say so."""
    write(tmp_path / "i", [{"a": 1}], []).close()
    monkeypatch.setattr(fields_writer, "MAX_NAMES", 3)
    with IndexUpdater.open(tmp_path / "i") as updater:
        many = {f"x{n}": n for n in range(5)}
        updater.add_vectors([Document("x", metadata={**many, "a": "text"})], csr(np.ones((1, 4))))
    with Index.open(tmp_path / "i") as index:
        assert index.select("a = 'text'").allowed.tolist() == [False, True]
        assert index.select("x4 = 4").allowed.tolist() == [False, True]
        with pytest.raises(WhereError, match="x0 has numbers in this index, and is compared with strings"):
            index.select("x0 = 'text'")


def test_the_same_documents_give_the_same_bytes(tmp_path):
    data: list[dict[str, object]] = [{"a": i % 9, "b": ["x", i]} for i in range(300)]
    for name in "ab":
        write(tmp_path / name, data, ["a", "b"])
    first, second = (hashlib.sha256((tmp_path / name / FIELDS).read_bytes()).hexdigest() for name in "ab")
    assert first == second


def test_duplicates_within_and_across_batches(tmp_path):
    writer = DocumentWriter(tmp_path / "d.sqlite")
    first = writer.add([Document("a"), Document("b"), Document("a"), Document("c", metadata={"x": float("nan")})])
    assert [r.ordinal for r in first[:2]] == [0, 1]
    assert isinstance(first[2], DuplicateIdError)
    assert "is not JSON (nan is no JSON number)" in str(first[3])
    second = writer.add([Document("d"), Document("b"), Document("e")])
    assert [getattr(r, "ordinal", None) for r in second] == [2, None, 3]
    writer.close()
    with sqlite3.connect(tmp_path / "d.sqlite") as connection:
        assert connection.execute("SELECT ordinal, id FROM documents").fetchall() == [*enumerate("abde")]
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


@pytest.mark.parametrize(
    "bad", [{1: 2}, {"a": {1: 2}}, {"a": {1, 2}}, {"a": b"x"}, {"a": float("inf")}, {"a": "\ud800"}, [1]]
)
def test_metadata_that_is_no_json(tmp_path, bad):
    [result] = DocumentWriter(tmp_path / "d.sqlite").add([Document("a", metadata=bad)])
    assert "metadata of document 'a'" in str(result)


def test_metadata_of_numpy_comes_back(tmp_path):
    index = write(tmp_path / "i", [{"a": np.float64(1.5), "b": (1, 2), "c": 2**64}], ["a"])
    assert index.documents([0])[0].metadata == {"a": 1.5, "b": [1, 2], "c": 2**64}
    assert index.select("a = 1.5 and b = 2 and c > 1e19").count == 1


def test_a_full_disk_is_one_line(tmp_path):
    writer = fields_writer.FieldWriter(tmp_path / "f.sqlite", [])
    writer._file.connection.execute("PRAGMA max_page_count = 3")
    writer._names = {(str(i),) for i in range(5000)}
    with pytest.raises(StorageError, match=r"cannot write .*f\.sqlite: .*full"):
        writer.close(0)


def test_a_field_is_refused_where_documents_have_none_at_all(tmp_path):
    """Without any metadata every name is a slip; without any document none is."""
    for name, documents in (("bare", [Document("a")]), ("empty", [])):
        (tmp_path / name).mkdir()
        writer = IndexWriter(tmp_path / name, 2)
        writer.add_documents(documents)
        writer.add_vectors(csr(np.ones((len(documents), 2))))
        writer.finish()
        with Index.open(tmp_path / name) as index:
            if documents:
                with pytest.raises(WhereError, match="no document has the field year; there are _id, title"):
                    index.select("year > 3")
            else:
                assert index.select("year > 3").count == 0
