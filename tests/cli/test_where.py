"""``--where`` and ``--field``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from splade_edge.runtime import Searcher, WhereError

from .conftest import Cli

CORPUS = [
    {"_id": f"d{i}", "text": "cat and dog " + "rain " * (i % 3), "year": 2000 + i, "lang": "en" if i % 2 else "de"}
    for i in range(10)
]


@pytest.fixture(scope="module")
def dated(cli: Cli, tiny_pair: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("where")
    (path / "c.jsonl").write_text("".join(json.dumps(document) + "\n" for document in CORPUS), "utf-8")
    process = cli("index", tiny_pair, path / "c.jsonl", "-o", path / "index", "--field", "year", "--threads", 1)
    assert process.stderr == ""
    return path / "index"


def ids(output: str) -> list[list[str]]:
    return [[hit["id"] for hit in json.loads(line)["hits"]] for line in output.splitlines()]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("year >= 2008", {8, 9}),
        ("year>=2005 and lang='en'", {5, 7, 9}),
        ('not (year > 2001 or lang = "de")', {1}),
        ("_id in ('d1', 'd4')", {1, 4}),
        ("2003 <= year < 2005", {3, 4}),
        ("year < 0", set()),
    ],
)
def test_only_what_satisfies_the_filter_is_found(cli: Cli, dated: Path, where: str, expected: set[int]) -> None:
    [found] = ids(cli("search", dated, "cat rain", "--json", "-k", 20, "--where", where).stdout)
    assert set(found) == {f"d{i}" for i in expected}
    [everything] = ids(cli("search", dated, "cat rain", "--json", "-k", 20).stdout)
    assert found == [i for i in everything if i in found]
    first_three = [
        line.split()[1] for line in cli("search", dated, "cat rain", "-k", 3, "--where", where).stdout.splitlines()
    ]
    if expected:
        assert first_three[1:] == found[:3]


def test_in_python(dated: Path) -> None:
    with Searcher.open(dated, threads=2) as searcher:
        everything = [hit.id for hit in searcher.search("cat rain", k=20)]
        late = [hit.id for hit in searcher.search("cat rain", k=20, where="year >= 2005")]
        assert late == [i for i in everything if int(i[1:]) >= 5]
        assert len(late) == 5
        even = np.arange(10) % 2 == 0
        both = searcher.search("cat rain", k=20, where="year >= 2005", allowed=even)
        assert [hit.id for hit in both] == [i for i in late if int(i[1:]) % 2 == 0]
        many = list(searcher.search_many(["cat rain", "dog"], k=20, where="year >= 2005"))
        assert [hit.id for hit in many[0]] == late
        assert {hit.id for hit in many[1]} == set(late)
        with pytest.raises(WhereError, match="column 1"):
            searcher.search_many(["cat"], where="jahr = 3")


def test_many_queries(cli: Cli, dated: Path, tmp_path: Path) -> None:
    (tmp_path / "q.tsv").write_text("1\tcat\n2\train\n", "utf-8")
    process = cli("search", dated, "--queries", tmp_path / "q.tsv", "--run", "-", "--where", "year = 2004")
    assert [line.split()[:3] for line in process.stdout.splitlines()] == [["1", "Q0", "d4"], ["2", "Q0", "d4"]]
    (tmp_path / "qrels.tsv").write_text("1\td3\t1\n2\td4\t1\n", "utf-8")
    arguments = ("eval", dated, "--queries", tmp_path / "q.tsv", "--qrels", tmp_path / "qrels.tsv", "--json")
    measures = json.loads(cli(*arguments, "--measures", "RR@10", "--where", "year = 2004").stdout)["measures"]
    assert measures == {"RR@10": 0.5}


def test_explain_says_what_was_read(cli: Cli, dated: Path) -> None:
    where = "year >= 2005 and lang = 'en'"
    out = cli("search", dated, "cat", "--explain", "--where", where).stdout
    assert [" ".join(line.split()) for line in out.splitlines()[:5]] == [
        "filter documents",
        "year >= 2005 5 from the index of the field",
        'lang = "en" 3 by reading 10 documents',
        "the whole filter 3",
        "",
    ]
    answer = json.loads(cli("search", dated, "cat", "--explain", "--where", where, "--json").stdout)
    assert answer["filter"] == {
        "documents": 3,
        "steps": [
            {"what": "year >= 2005", "how": "index", "read": 0, "found": 5},
            {"what": 'lang = "en"', "how": "scan", "read": 10, "found": 3},
        ],
    }


def test_nothing_is_found(cli: Cli, dated: Path) -> None:
    assert cli("search", dated, "cat", "--where", "year = 1").stdout == "No document satisfies the filter.\n"
    out = cli("search", dated, "☃", "--where", "year = 2001").stdout
    assert out == "The filter allows 1 document, none of which shares a term with the query.\n"


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("lang = en", "the filter is wrong at column 8: en is not a value; put text in quotes"),
        ("", "the filter is wrong at column 1: it is empty"),
        (
            "jahr = 3",
            "filter is wrong at column 1: no document has the field jahr; there are _id, title, text, lang,",
        ),
        (
            "year = '2005'",
            "column 1: year has numbers in this index, and is compared with strings; leave out",
        ),
        ("year = 1\n; DROP TABLE documents", "column 10: ';' has no meaning here"),
    ],
)
def test_faults_are_one_line(cli: Cli, dated: Path, tmp_path: Path, where: str, message: str) -> None:
    (tmp_path / "q.tsv").write_text("1\tcat\n", "utf-8")
    for query in (["cat"], ["cat", "--json"], ["--queries", tmp_path / "q.tsv", "--run", tmp_path / "run"]):
        process = cli("search", dated, *query, "--where", where, check=2)
        assert message in process.stderr
        assert len(process.stderr.splitlines()) == 1
        assert process.stdout == ""
    assert not (tmp_path / "run").exists()


def test_info_lists_the_fields(cli: Cli, dated: Path) -> None:
    about = json.loads(cli("info", dated, "--json").stdout)
    assert about["fields"] == {
        "lang": {"numbers": 0, "strings": 10, "booleans": 0, "index": False},
        "year": {"numbers": 10, "strings": 0, "booleans": 0, "index": True},
    }
    lines = [" ".join(line.split()) for line in cli("info", dated).stdout.splitlines()]
    assert "field: lang 10 strings" in lines
    assert "field: year 10 numbers, with an index" in lines
    assert "ok" in cli("check", dated).stdout


def test_fields_of_an_index(cli: Cli, tiny_pair: Path, corpus: Path, tmp_path: Path) -> None:
    process = cli("index", tiny_pair, corpus, "-o", tmp_path / "i", "--field", "yaer", "--field", "title", "--json")
    assert process.stderr == "splade-edge: warning: no document has the field yaer; fields with values: title, year\n"
    process = cli("index", tiny_pair, corpus, "-o", tmp_path / "j", "--field", "a b", check=2)
    assert process.stderr == (
        "splade-edge: error: 'a b' is not the name of a field; put unusual names in `backticks`\n"
    )
