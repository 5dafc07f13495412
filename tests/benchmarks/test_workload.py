"""The generated collections: reproducible, and of the shape that they promise."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.oracle import Oracle, best, scores_of
from benchmarks.workload import Collection, by_term, generate, rounded


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    path = tmp_path_factory.mktemp("collection")
    generate(path, 3000, queries=40)
    return Collection(path)


def test_same_seed_same_collection(collection, tmp_path):
    generate(tmp_path, 3000, queries=40)
    again = Collection(tmp_path)
    assert np.array_equal(again.terms, collection.terms)
    assert np.array_equal(again.impacts, collection.impacts)
    for a, b in zip(again.queries("long"), collection.queries("long"), strict=True):
        assert np.array_equal(a[0], b[0])
        assert np.array_equal(a[1], b[1])
    generate(tmp_path / "other", 3000, queries=40, seed=8)
    assert not np.array_equal(Collection(tmp_path / "other").terms[:1000], collection.terms[:1000])


def test_shape(collection):
    lengths = np.diff(collection.indptr)
    assert 125 < lengths.mean() < 140
    assert lengths.min() > 0
    assert collection.impacts.min() >= 1
    for start, end in zip(collection.indptr[:50], collection.indptr[1:51], strict=True):
        assert (np.diff(collection.terms[start:end].astype(int)) > 0).all()
    for name, low, high, mean in (("short", 4, 10, 6), ("long", 30, 60, 45)):
        queries = collection.queries(name)
        sizes = np.array([terms.size for terms, _ in queries])
        assert sizes.min() >= low - 1
        assert sizes.max() <= high
        assert abs(sizes.mean() - mean) < 0.15 * mean
        for terms, weights in queries:
            assert (np.diff(terms) > 0).all()
            assert weights.dtype == np.float32
            assert (weights > 0).all()


def test_chunks_are_the_whole(collection):
    parts = list(collection.chunks(700))
    assert np.array_equal(np.concatenate([terms for _, terms, _ in parts]), collection.terms)
    assert np.array_equal(np.concatenate([impacts for _, _, impacts in parts]), collection.impacts)
    assert sum(indptr.size - 1 for indptr, _, _ in parts) == collection.documents


def test_postings_are_the_transposed_documents(collection):
    indptr, documents, impacts = by_term(collection)
    dense = np.zeros((collection.documents, collection.vocab), np.uint8)
    rows = np.repeat(np.arange(collection.documents), np.diff(collection.indptr))
    dense[rows, collection.terms] = collection.impacts
    for term in (0, 17, collection.vocab - 1, int(np.diff(indptr).argmax())):
        a, b = indptr[term], indptr[term + 1]
        assert np.array_equal(documents[a:b], np.flatnonzero(dense[:, term]))
        assert np.array_equal(impacts[a:b], dense[documents[a:b], term])


def test_rounded_queries_are_whole_numbers():
    terms, weights = rounded((np.array([3, 9], np.int32), np.array([0.001, 2.5], np.float32)))
    assert terms.tolist() == [3, 9]
    assert weights.tolist() == [1.0, 32.0]


def test_oracle_tells_exact_from_nearly_exact(collection):
    query = collection.queries("short")[0]
    oracle = Oracle(collection, "short", 1, whole_numbers=False)
    documents, scores = best(scores_of(collection, query), 20)
    verdict = oracle.judge([(documents, scores)], 20)
    assert (verdict.agree, verdict.identical, verdict.recall) == (1.0, 1.0, 1.0)
    # float32 scores agree but are not the same numbers
    verdict = oracle.judge([(documents, scores.astype(np.float32).astype(np.float64))], 20)
    assert (verdict.agree, verdict.identical, verdict.recall) == (1.0, 0.0, 1.0)
    wrong = documents.copy()
    wrong[10:] = best(scores_of(collection, query), 1000)[0][-10:]
    verdict = oracle.judge([(wrong, scores)], 20)
    assert verdict.identical == 0.0
    assert verdict.recall == pytest.approx(0.5)
    verdict = oracle.judge([(documents[:5], scores[:5])], 20)
    assert (verdict.agree, verdict.recall) == (0.0, 0.25)


def test_best_breaks_ties_by_document():
    documents, scores = best(np.array([1.0, 2.0, 0.0, 2.0, 1.0, 1.0]), 4)
    assert documents.tolist() == [1, 3, 0, 4]
    assert scores.tolist() == [2.0, 2.0, 1.0, 1.0]
