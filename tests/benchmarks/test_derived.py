"""Collections made from others hold the same vectors."""

from __future__ import annotations

import numpy as np

from benchmarks.derived import reorder, save_queries
from benchmarks.workload import Collection, generate


def rows(collection):
    return sorted(
        (tuple(collection.terms[a:b].tolist()), tuple(collection.impacts[a:b].tolist()))
        for a, b in zip(collection.indptr[:-1], collection.indptr[1:], strict=True)
    )


def test_reordered_is_the_same_documents_in_another_order(tmp_path):
    generate(tmp_path / "a", 2000, queries=5)
    source = Collection(tmp_path / "a")
    reorder(source, tmp_path / "b")
    other = Collection(tmp_path / "b")
    assert other.documents == 2000
    assert other.sets == ["short", "long"]
    assert rows(other) == rows(source)
    assert not np.array_equal(other.terms, source.terms)


def test_a_collection_may_have_one_set(tmp_path):
    generate(tmp_path, 100, queries=3)
    collection = Collection(tmp_path)
    queries = collection.queries("long")
    (tmp_path / "queries_long.npz").unlink()
    save_queries(tmp_path, "short", queries)
    assert collection.sets == ["short"]
    for a, b in zip(collection.queries("short"), queries, strict=True):
        assert a[0].tolist() == b[0].tolist()
        assert a[1].tolist() == b[1].tolist()
