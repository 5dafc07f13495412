"""Query weights by how rare their terms are in the index: the factors, what is counted, and what a search does."""

from __future__ import annotations

import itertools
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from splade_edge.runtime import Document, Encoder, Index, IndexUpdater, Passages, Searcher, build_index, open_artifact
from splade_edge.runtime.artifact import write_artifact_manifest
from splade_edge.runtime.errors import InputError, IntegrityError
from splade_edge.runtime.idf import idf_factors

from .. import oracle, tiny

QUERY = "cat in the rain with music"
DOCUMENTS = [
    Document(f"d{n}", "", text)
    for n, text in enumerate(
        ["cat dog", "the cat in the rain", "rain and snow", "music of the violin", "dog in the river", "cat and bird"]
        * 4
    )
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, tiny_pair: Path) -> Path:
    path = tmp_path_factory.mktemp("idf") / "index"
    build_index(path, DOCUMENTS, tiny_pair, with_document_encoder=True)
    return path


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(50, 10**9), st.floats(0, 4))
def test_factors_are_bm25s_idf_over_that_of_one_document(counts: list[int], units: int, power: float) -> None:
    found = idf_factors(np.array(counts, np.int64), units, power)
    assert found.dtype == np.float32

    def idf(n: int) -> float:
        return math.log(1 + (units - n + 0.5) / (n + 0.5))

    expected = [(idf(max(n, 1)) / idf(1)) ** power for n in counts]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert ((found >= 0) & (found <= 1)).all()
    if power <= 1:
        assert (found > 0).all()
    order = np.argsort(counts)
    assert (np.diff(found[order]) <= 0).all(), "the rarer a term, the more it weighs"


def test_a_term_of_every_document_keeps_some_weight_and_an_empty_index_all() -> None:
    assert (idf_factors(np.array([1000, 1, 0]), 1000, 0.5) > 0).all()
    assert idf_factors(np.array([1]), 1, 3.0).tolist() == [1.0]
    assert idf_factors(np.zeros(3, np.int64), 0, 1.0).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("reorder", [False, True], ids=["as given", "reordered"])
@pytest.mark.parametrize("passages", [None, Passages(4, 1)], ids=["whole", "passages"])
def test_frequencies_and_answers_are_those_of_a_rebuild(
    tmp_path: Path, tiny_pair: Path, passages: Passages | None, reorder: bool
) -> None:
    path = tmp_path / "index"
    build_index(path, DOCUMENTS[:9], tiny_pair, passages=passages, with_document_encoder=True, reorder=reorder)
    with IndexUpdater.open(path, threads=1) as updater:
        updater.add(DOCUMENTS[9:])
        updater.delete(["d1", "d5", "d14"])
    left = [document for document in DOCUMENTS if document.id not in ("d1", "d5", "d14")]
    build_index(tmp_path / "rebuilt", left, tiny_pair, passages=passages)
    with Index.open(path) as opened, Index.open(tmp_path / "rebuilt") as rebuilt:
        assert len(opened.segments) == 2
        terms = np.arange(len(tiny.VOCABULARY))
        expected = [rebuilt.segments[0].segment.postings(term)[0].size for term in terms.tolist()]
        np.testing.assert_array_equal(opened.frequencies(terms), expected)
        np.testing.assert_array_equal(rebuilt.frequencies(terms), expected)
        np.testing.assert_array_equal(opened.frequencies(terms[[7, 3, 7]]), np.array(expected)[[7, 3, 7]])
        assert opened.units == rebuilt.units >= max(expected) > 0
        assert opened.manifest.scale == rebuilt.manifest.scale
    with Searcher.open(path, idf=0.7) as searcher, Searcher.open(tmp_path / "rebuilt", idf=0.7) as other:
        for query in (QUERY, "dog river", "snow"):
            assert searcher.search(query, 50) == other.search(query, 50)


@pytest.mark.parametrize("power", [0.3, 1.0])
def test_a_search_is_that_of_the_weighted_vector(index: Path, power: float) -> None:
    with Searcher.open(index, threads=1, idf=power) as searcher, Searcher.open(index, threads=1) as plain:
        opened = searcher.index
        raw = searcher.encoder.encode_query(QUERY)
        assert plain.idf == 0
        np.testing.assert_array_equal(plain.encode_query(QUERY).values, raw.values)
        factors = idf_factors(opened.frequencies(np.arange(len(tiny.VOCABULARY))), opened.units, power)
        assert factors[raw.indices].min() < 0.9
        weighted = raw.values * factors[raw.indices]
        ordinals, scores = opened.search_vector((raw.indices, weighted), 10)
        hits = searcher.search(QUERY, 10)
        assert [(hit.ordinal, hit.score) for hit in hits] == list(zip(ordinals.tolist(), scores.tolist(), strict=True))
        assert (
            hits == next(searcher.search_many([QUERY], 10)) == searcher.search_vector(searcher.encode_query(QUERY), 10)
        )
        assert hits == searcher.search_vector(searcher.encode_for_search(QUERY), 10)
        assert [hit.score for hit in hits] != [hit.score for hit in plain.search(QUERY, 10)]
        explained = searcher.explain(QUERY, hits[0])
        assert sum(part.score for part in explained.contributions) == pytest.approx(hits[0].score, rel=1e-9)
        weights = dict(zip(raw.indices.tolist(), weighted.tolist(), strict=True))
        named = {searcher.encoder.vocabulary[term]: weight for term, weight in weights.items()}
        assert {part.term: part.weight for part in explained.contributions}.items() <= named.items()


def test_factors_are_of_the_generation_that_is_searched(tmp_path: Path, tiny_pair: Path) -> None:
    path = tmp_path / "index"
    build_index(path, DOCUMENTS, tiny_pair, with_document_encoder=True)
    with Searcher.open(path, threads=1, idf=1.0) as searcher:
        before = searcher.encode_query("cat violin").values
        hit = searcher.search("cat violin")[0]
        with IndexUpdater.open(path, threads=1) as updater:
            updater.add([Document(f"more{n}", "", "cat dog fish") for n in range(40)])
        assert searcher.refresh()
        after = searcher.encode_query("cat violin").values
        with Searcher.open(path, threads=1, idf=1.0) as opened:
            np.testing.assert_array_equal(after, opened.encode_query("cat violin").values)
        assert not np.allclose(before, after)
        # and an earlier hit is explained as it would be found now
        now = {hit.id: hit.score for hit in searcher.search("cat violin", 50)}
        assert now[hit.id] != hit.score
        parts = searcher.explain("cat violin", hit).contributions
        assert sum(part.score for part in parts) == pytest.approx(now[hit.id], rel=1e-9)


def test_the_artifact_says_which_power(tmp_path: Path, tiny_pair: Path, index: Path) -> None:
    query = open_artifact(tiny_pair, "query")
    copy = tmp_path / "query"
    copy.mkdir()
    for name in query.manifest.files:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(query.file(name).read_bytes())
    write_artifact_manifest(copy, msgspec.structs.replace(query.manifest, query_idf=0.5))
    assert open_artifact(copy).manifest.query_idf == 0.5
    with (
        Searcher.open(index, threads=1, query_encoder=copy) as stated,
        Searcher.open(index, threads=1, idf=0.5) as asked,
    ):
        assert stated.idf == 0.5
        assert stated.search(QUERY) == asked.search(QUERY)
    with Searcher.open(index, threads=1, query_encoder=copy, idf=0.0) as off, Searcher.open(index, threads=1) as plain:
        assert off.search(QUERY) == plain.search(QUERY)
    # and an index carries it
    build_index(tmp_path / "index", DOCUMENTS, Encoder.open(tiny_pair, "document"), open_artifact(copy))
    with Searcher.open(tmp_path / "index", threads=1) as carried:
        assert carried.idf == 0.5


def test_terms_that_an_index_has_not_keep_their_weight(tmp_path: Path, tiny_pair: Path) -> None:
    """An index of vectors alone names no vocabulary, and may have fewer terms than the encoder."""
    dense = np.eye(4, 20, 10, dtype=np.float32)
    encoder = Encoder.open(tiny_pair, "query")
    with oracle.write_index(tmp_path / "index", dense) as index:
        searcher = Searcher(index, encoder, idf=1.0)
        raw = encoder.encode_query("cat in the rain")
        assert raw.indices.max() >= 20
        np.testing.assert_array_equal(searcher.encode_query("cat in the rain").values, raw.values)


def test_an_index_of_which_all_is_deleted(tmp_path: Path, tiny_pair: Path) -> None:
    build_index(tmp_path / "index", DOCUMENTS[:2], tiny_pair)
    with IndexUpdater.open(tmp_path / "index", threads=1) as updater:
        updater.delete(["d0", "d1"])
    with Searcher.open(tmp_path / "index", idf=0.5) as searcher:
        assert searcher.index.units == 0
        assert not searcher.index.frequencies([7, 8]).any()
        assert searcher.search("cat") == []
        assert np.isfinite(searcher.encode_query("cat").values).all()


def test_damaged_postings_are_named_before_they_are_counted(tmp_path: Path, tiny_pair: Path) -> None:
    path = tmp_path / "index"
    build_index(path, DOCUMENTS, tiny_pair)
    with IndexUpdater.open(path, threads=1) as updater:
        updater.delete(["d3"])
    [units] = path.glob("segments/*/posting_units.u16")
    units.write_bytes(bytes(units.stat().st_size))
    with Searcher.open(path, idf=0.5) as searcher, pytest.raises(IntegrityError, match="do not match their checksum"):
        searcher.encode_query("cat")


def test_many_threads_find_the_factors_of_one(index: Path) -> None:
    queries = [" ".join(words) for words in itertools.permutations(["cat", "rain", "music", "violin"], 3)] * 4
    with Searcher.open(index, threads=1, idf=0.5) as one, Searcher.open(index, threads=1, idf=0.5) as many:
        expected = [one.encode_query(query).values.tolist() for query in queries]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda query: many.encode_query(query).values.tolist(), queries)) == expected


def test_the_shipped_query_encoders_state_what_their_cards_say() -> None:
    models = Path(__file__).parents[2] / "models"
    for name in ("default", "v"):
        assert json.loads((models / name / "query" / "config.json").read_bytes())["query_idf"] == 0.4
    assert "query_idf = 0.4" in (models / "default" / "README.md").read_text()


@pytest.mark.parametrize("power", [-0.1, 4.5, math.nan, math.inf, True, "0.4"])
def test_a_power_that_is_none(index: Path, power: Any) -> None:
    with pytest.raises(InputError, match=r"the power of the idf is .*; give a number from 0"):
        Searcher.open(index, idf=power)
