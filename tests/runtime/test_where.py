"""Filters: what the language says, and that indexes of fields, scans and a naive oracle agree."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splade_edge.runtime.document import Document
from splade_edge.runtime.errors import InputError
from splade_edge.runtime.filters import Field, literal, parse_field, parse_where
from splade_edge.runtime.filters.formatting import format_field, format_predicate
from splade_edge.runtime.filters.matching import test_of as matcher
from splade_edge.runtime.filters.parser import WhereError
from splade_edge.runtime.filters.predicate import And, In, Like, Not, Or, Range
from splade_edge.runtime.filters.values import all_keys, keys_of

YEAR, LANG = Field(("year",)), Field(("lang",))


@pytest.mark.parametrize(
    ("text", "predicate"),
    [
        ("year = 2020", In(YEAR, (2020,))),
        ("year==2020.0", In(YEAR, (2020,))),
        ("year <> 2020", Not(In(YEAR, (2020,)))),
        ("year >= -2.5e3", Range(YEAR, ">=", -2500)),
        ("2000 <= year", Range(YEAR, ">=", 2000)),
        ("2000 <= year < 2010", And((Range(YEAR, ">=", 2000), Range(YEAR, "<", 2010)))),
        ('year>=2020 and lang = "en"', And((Range(YEAR, ">=", 2020), In(LANG, ("en",))))),
        ("not lang = 'en' OR year < 1", Or((Not(In(LANG, ("en",))), Range(YEAR, "<", 1)))),
        ("not (lang='en' or year<1)", Not(Or((In(LANG, ("en",)), Range(YEAR, "<", 1))))),
        (
            "lang='a' and lang='b' or lang='c'",
            Or((And((In(LANG, ("a",)), In(LANG, ("b",)))), In(LANG, ("c",)))),
        ),
        ("lang in ('en', \"de\", 3, true, null, 'en')", In(LANG, ("en", "de", 3, b"\x01", b""))),
        ("lang NOT IN ('en')", Not(In(LANG, ("en",)))),
        ("lang is null", In(LANG, (b"",))),
        ("lang is not null", Not(In(LANG, (b"",)))),
        ("lang != null", Not(In(LANG, (b"",)))),
        ("year = false", In(YEAR, (b"\x00",))),
        (r"""lang = "say \"a\\b\" 'x'" """, In(LANG, ("say \"a\\b\" 'x'",))),
        ("author.name = 1", In(Field(("author", "name")), (1,))),
        ("`author.name` = 1", In(Field(("author.name",)), (1,))),
        ("`a ``b`.dc:title-x = 1", In(Field(("a `b", "dc:title-x")), (1,))),
        ("größe = 1", In(Field(("größe",)), (1,))),
        ("`not` = 1", In(Field(("not",)), (1,))),
        ("lang like 'e%n_\\%\\_'", Like(LANG, (("e",), ("n", None, "%", "_")))),
        ("lang like 'a%%b'", Like(LANG, (("a",), ("b",)))),
        ("lang like '%'", Like(LANG, ((), ()))),
        ("year = 9223372036854775808", In(YEAR, (2.0**63,))),
    ],
)
def test_parse(text: str, predicate: object) -> None:
    assert parse_where(text) == predicate
    assert parse_where(format_predicate(parse_where(text))) == predicate


@pytest.mark.parametrize(
    ("text", "column", "reason"),
    [
        ("", 1, "it is empty"),
        ("lang = en", 8, 'en is not a value; put text in quotes ("en")'),
        ("year > ", 8, "a value (a number, a string in quotes, true, false or null) should stand here, not the end"),
        ("date >= 2020-01-01", 13, "put dates and other text in quotes"),
        ("year > 20x", 8, "a number ends in other characters"),
        ("lang = 'en", 8, "the string has no end"),
        ("`lang = 'en'", 1, "the name has no end"),
        ("a = 1 && b = 2", 7, "write and"),
        ("a = 1 | b = 2", 7, "write or"),
        ("! a = 1", 1, "write not"),
        ("a = “x”", 5, "use straight quotes"),
        ("a = 1 b = 2", 7, "and, or, or the end should stand here, not b"),
        ("(a = 1", 7, "and, or, or ) should stand here, not the end"),
        ("a = 1)", 6, "should stand here, not )"),
        ("a", 2, "a comparison of a (such as = or >=) should stand here"),
        ("a in 1", 6, "a list in parentheses"),
        ("a in (1 2)", 9, ", or ) should stand here, not 2"),
        ("a in ()", 7, "a value"),
        ("a < true", 3, "< orders numbers and strings; use = or !="),
        ("a <= null", 3, "<= orders numbers"),
        ("a like 3", 8, "a string in quotes"),
        ("a is 3", 6, "null should stand here, not 3"),
        ("a not = 3", 7, "in or like should stand here, not ="),
        ("a = 1e999", 5, "the number is too large"),
        ("a = " + "9" * 500, 5, "too many digits"),
        (r"a = 'C:\x'", 8, r"\x has no meaning here"),
        (r"a = '5\%'", 7, r"\% has no meaning here"),
        ("(" * 200 + "a = 1", 101, "nested more than 100 deep"),
        ("not " * 200 + "a = 1", 401, "nested more than 100 deep"),
        ("3 = 4", 5, "the name of a field should stand here, not 4"),
        ("a = 1;", 6, "';' has no meaning here"),
        ("a = ?", 5, "'?' has no meaning here"),
    ],
)
def test_faults_are_named_with_their_column(text: str, column: int, reason: str) -> None:
    with pytest.raises(WhereError, match=re.escape(reason)) as caught:
        parse_where(text)
    assert caught.value.column == column
    assert f"column {column}:" in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(alphabet="ab \"'`\\=<>!()%_.,0129-eandornotilkus\n☃\x00", max_size=40))
@settings(max_examples=500, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    column = 1
    try:
        predicate = parse_where(text)
    except WhereError as error:
        column = error.column
    else:
        assert parse_where(format_predicate(predicate)) == predicate
    assert 1 <= column <= len(text) + 1


@pytest.mark.parametrize("name", ["year = 1", "", "a b", "a.", "3", "'a'", "and"])
def test_not_the_name_of_a_field(name: str) -> None:
    with pytest.raises(InputError, match=r"is not the name of a field|wrong at column"):
        parse_field(name)


@given(st.text(), st.text())
def test_names_and_values_survive_their_spelling(name: str, value: str) -> None:
    field = Field((name, "x", name))
    assert parse_field(format_field(field)) == field
    assert parse_where(f"x = {literal(value)}") == In(Field(("x",)), (value,))


@pytest.mark.parametrize("value", [True, False, None, 0, -3, 2.5, 1e-300])
def test_literals(value: float | bool | None) -> None:
    document = Document("d", metadata={"x": value})
    assert matcher(parse_where(f"x = {literal(value)}"))(document)


@pytest.mark.parametrize("value", [math.nan, math.inf, [1], {}])
def test_no_literals(value: object) -> None:
    with pytest.raises(InputError, match="cannot be compared with"):
        literal(value)


DOCUMENT = Document(
    "d1",
    "A title",
    "line one\nline two",
    {
        "year": 2020,
        "price": 1.5,
        "lang": "en",
        "free": True,
        "nothing": None,
        "tags": ["a", "b", ["c"], None],
        "empty": [],
        "author": {"name": "Ada", "born": 1815},
        "authors": [{"name": "Ada"}, {"name": "Bob", "born": 1990}],
        "big": 2**70,
        "title": "hidden",
    },
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("year = 2020", True),
        ("year = 2020.0", True),
        ('year = "2020"', False),
        ('year >= "2020"', False),
        ("year < 2021 and price > 1", True),
        ("lang = 'EN'", False),
        ("lang > 'de' and lang < 'f'", True),
        ("free = true", True),
        ("free = 1", False),
        ("year = true", False),
        ("free != 1", True),
        ("nothing = null", True),
        ("absent = null", True),
        ("empty is null", True),
        ("author = null", True),
        ("lang = null", False),
        ("absent = 1", False),
        ("absent != 1", True),
        ("absent < 1 or absent >= 1", False),
        ("tags = 'c' and tags = 'a'", True),
        ("tags != 'a'", False),
        ("tags is null", False),
        ("author.name = 'Ada'", True),
        ("authors.name = 'Bob'", True),
        ("authors.born > 1900", True),
        ("authors.born.deeper = null", True),
        ("big > 1e21", True),
        ("big = 1180591620717411303424", True),
        ("_id = 'd1'", True),
        ("title = 'A title'", True),
        ("title = 'hidden'", False),
        ("text like '%one%two'", True),
        ("text like 'line_one_line two'", True),
        ("text like '%one'", False),
        ("lang like 'e'", False),
        ("year like '2%'", False),
        ("lang not in ('de', 'fr') and lang in ('x', 'en')", True),
    ],
)
def test_meaning(text: str, expected: bool) -> None:
    assert matcher(parse_where(text))(DOCUMENT) is expected


def test_many_wildcards_take_no_exponential_time() -> None:
    document = Document("d", text="a" * 20_000)
    assert not matcher(parse_where(f"text like '{'%a' * 50}%b'"))(document)
    assert matcher(parse_where(f"text like '{'%a' * 50}%'"))(document)


numbers = st.integers(-3, 3) | st.sampled_from(
    [0.5, -1.0, 2.0**70, 2.0**53, 2**53 + 1, 2**63, 2**63 + 1, 2**64 - 1, 2.0**64, -(2**63), -(2**63) - 1, 10**400]
)
# Around the surrogates, the last code point, and what C takes for the end of a text.
strings = st.text("ab%_", max_size=3) | st.text("a\x00é\ud7ff\ue000\U0001f600\U0010ffff", max_size=2)
scalars = st.none() | st.booleans() | numbers | strings
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner), max_leaves=5
)
metadata = st.dictionaries(st.sampled_from(["x", "y", "z"]), values, max_size=3)


@given(metadata, st.lists(st.sampled_from("xyz"), min_size=1, max_size=3))
def test_the_values_of_all_fields_are_those_of_each(data: dict[str, object], path: list[str]) -> None:
    assert (all_keys(data).get(tuple(path)) or [b""]) == keys_of(Document("d", metadata=data), Field(tuple(path)))


@given(st.text("ab%_.*", max_size=8), st.text("ab%_\\", max_size=6))
def test_like_is_what_sqlite_says(text: str, pattern: str) -> None:
    """SQLite's LIKE with an escape character, which ignores the case of ASCII letters; these have one case."""
    import sqlite3

    try:
        predicate = parse_where(f'x like "{pattern}"')
    except WhereError:  # a backslash before a letter
        return
    [(expected,)] = sqlite3.connect(":memory:").execute("SELECT ? LIKE ? ESCAPE '\\'", (text, pattern))
    assert matcher(predicate)(Document("d", metadata={"x": text})) == bool(expected)
