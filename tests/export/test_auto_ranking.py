"""Rankings in memory against naive formulas and ir-measures, and the reading and sampling of retrieval sets."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splade_edge.export.auto.ranking import Collection, bootstrap_interval, ndcg, rank_biased_overlap
from splade_edge.export.auto.retrieval_sets import BUNDLED, read_set, sample_set
from splade_edge.export.texts import calibration_texts, parity_texts
from splade_edge.runtime.errors import InputError
from splade_edge.runtime.idf import idf_factors
from splade_edge.runtime.vectors import SparseBatch, SparseVector

vectors = st.lists(
    st.dictionaries(st.integers(0, 12), st.floats(0.125, 3, width=32), max_size=6), min_size=1, max_size=15
)


def sparse(weights: dict[int, float]) -> SparseVector:
    terms = sorted(weights)
    return SparseVector(np.array(terms, np.int32), np.array([weights[t] for t in terms], np.float32))


@given(
    vectors,
    st.dictionaries(st.integers(0, 14), st.floats(0.125, 3, width=32), max_size=6),
    st.booleans(),
    st.sampled_from([0.0, 0.5]),
)
@settings(deadline=None)
def test_a_ranking_is_the_sorted_dot_products(
    documents: list[dict[int, float]], query: dict[int, float], impacts: bool, idf: float
) -> None:
    batch = SparseBatch.stack([sparse(d) for d in documents])
    scale = max((w for d in documents for w in d.values()), default=1) / 255
    frequencies = np.array([sum(term in document for document in documents) for term in range(15)])
    factors = idf_factors(frequencies, len(documents), idf)
    scores = []
    for document in documents:
        weights = {t: min(np.floor(w / scale + 0.5), 255) * scale if impacts else w for t, w in document.items()}
        scores.append(sum(query[t] * factors[t] * weights.get(t, 0) for t in sorted(query)))
    found = Collection(batch, impacts=impacts, idf=idf).best(sparse(query), 5)
    assert len(found) == min(5, sum(score > 0 for score in scores))
    np.testing.assert_allclose([scores[i] for i in found], sorted(scores, reverse=True)[: len(found)])
    assert list(found) == sorted(found, key=lambda i: (-round(scores[i], 9), i)) or len(set(scores)) == len(scores)


@given(st.lists(st.integers(0, 30), max_size=15, unique=True), st.dictionaries(st.integers(0, 30), st.integers(0, 3)))
@settings(deadline=None, max_examples=50)
def test_ndcg_is_that_of_ir_measures(ranking: list[int], grades: dict[int, int]) -> None:
    ir_measures = pytest.importorskip("ir_measures")
    names, judged = [f"d{i}" for i in ranking], {f"d{i}": grade for i, grade in grades.items()}
    if not judged:
        assert ndcg(names, judged) == 0
        return
    run = {"q": {name: -float(rank) for rank, name in enumerate(names)}}
    expected = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], {"q": judged}, run)[ir_measures.nDCG @ 10]
    assert ndcg(names, judged) == pytest.approx(expected, abs=1e-9)


def test_rank_biased_overlap() -> None:
    a = np.arange(50)
    assert rank_biased_overlap(a, a) == pytest.approx(1)
    assert rank_biased_overlap(a, a + 100) == 0
    assert rank_biased_overlap(a[:0], a[:0]) == 1
    assert rank_biased_overlap(a, a[:0]) == 0
    swapped_late, swapped_early = a.copy(), a.copy()
    swapped_late[[40, 41]], swapped_early[[0, 1]] = swapped_late[[41, 40]], swapped_early[[1, 0]]
    assert 1 > rank_biased_overlap(a, swapped_late) > rank_biased_overlap(a, swapped_early) > 0.85
    # By hand, p = 0.5: agreements 0, 1/2, 2/3 at depths 1 to 3.
    found = rank_biased_overlap(np.array([1, 2, 3]), np.array([2, 4, 3]), 0.5)
    assert found == pytest.approx(2 / 3 * 0.5**3 + (0 * 0.5 + 1 / 2 * 0.25 + 2 / 3 * 0.125) * (0.5 / 0.5))


def test_an_interval_has_the_mean_inside() -> None:
    difference = np.random.default_rng(1).normal(0.1, 1, 400)
    low, high = bootstrap_interval(difference)
    assert low < difference.mean() < high
    assert high - low == pytest.approx(4 * 1 / 20, rel=0.1)
    assert (low, high) == bootstrap_interval(difference)


def test_the_bundled_set_is_judged_and_apart_from_all_other_text() -> None:
    data = read_set(f"{BUNDLED}:train")
    assert len(data.queries) == len(data.qrels) == 400
    ids = {document.id for document in data.documents}
    assert all(judged.keys() <= ids for judged in data.qrels.values())
    texts = {d.text for d in data.documents} | {q.text for q in data.queries}
    for samples in (parity_texts(), calibration_texts()):
        assert not texts & {*samples.queries, *samples.documents}
    assert sample_set(data, 1000) == data


def write_set(path: Path, queries: int, documents: int, *, judged: bool = True) -> Path:
    path.mkdir()
    with gzip.open(path / "corpus.jsonl.gz", "wt") as corpus:
        corpus.writelines(
            json.dumps({"_id": f"d{i}", "title": "", "text": f"text {i}"}) + "\n" for i in range(documents)
        )
    (path / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": f"q{i}", "text": f"query {i}"}) + "\n" for i in range(queries))
    )
    if judged:
        (path / "qrels").mkdir()
        lines = "".join(f"q{i}\td{i % documents}\t1\n" for i in range(queries))
        (path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)
    return path


def test_a_sample_keeps_what_is_judged_and_is_the_same_each_time(tmp_path: Path) -> None:
    data = read_set(str(write_set(tmp_path / "set", 300, 2000)))
    sample = sample_set(data, 100)
    assert sample == sample_set(data, 100)
    assert len(sample.documents) == 100
    assert len(sample.queries) == 50
    ids = [document.id for document in sample.documents]
    assert all(judged.keys() <= set(ids) for judged in sample.qrels.values())
    assert ids == [document.id for document in data.documents if document.id in set(ids)], "in the order of the corpus"
    assert sample.qrels.keys() == {query.id for query in sample.queries}


def test_a_set_without_judgements(tmp_path: Path) -> None:
    data = read_set(str(write_set(tmp_path / "set", 600, 30, judged=False)))
    assert (len(data.queries), data.qrels) == (600, {})
    assert len(sample_set(data, 20).queries) == 500
    with pytest.raises(InputError, match=r"has 499 queries and no judgements .* at least 500 queries are needed"):
        read_set(str(write_set(tmp_path / "few", 499, 30, judged=False)))


def test_splits_and_colons(tmp_path: Path) -> None:
    path = write_set(tmp_path / "a:b", 3, 5)
    assert read_set(str(path)).name == "a:b"
    (path / "queries.train.jsonl").write_text('{"_id": "t", "text": "x"}\n')
    (path / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nt\td1\t2\n")
    train = read_set(f"{path}:train")
    assert (train.name, [q.id for q in train.queries], train.qrels) == ("a:b/train", ["t"], {"t": {"d1": 2}})
    with pytest.raises(InputError, match="is not a directory; a retrieval set is DIR or DIR:SPLIT"):
        read_set(str(tmp_path / "none"))
    (path / "corpus.jsonl.gz").unlink()
    with pytest.raises(InputError, match=r"has no corpus\.jsonl"):
        read_set(str(path))


def test_calibration_from_a_corpus(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    lines = [{"_id": str(i), "title": "" if i % 2 else f"title {i}", "text": f"word {i} " * 9} for i in range(1000)]
    corpus.write_text("".join(json.dumps(line) + "\n" for line in lines))
    texts = calibration_texts(corpus)
    assert texts == calibration_texts(corpus)
    assert len(texts.documents) == len(texts.queries) == 128
    assert any(text.startswith("title 0 word 0") for text in texts.documents)
    places = [int(text.split("word ")[1].split()[0]) for text in texts.documents]
    assert max(places) > 900, "spread over the corpus"
    assert all(len(query.split()) <= 12 for query in texts.queries)
    (tmp_path / "corpus.tsv").write_text("a\tsome text\n")
    assert calibration_texts(tmp_path / "corpus.tsv").documents == ("some text",)
    (tmp_path / "empty.tsv").write_text("a\t\n")
    with pytest.raises(InputError, match="no documents to calibrate on"):
        calibration_texts(tmp_path / "empty.tsv")
