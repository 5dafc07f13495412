"""What the quality figures rest on: reading sets, BM25, exact ranking, intervals, and the cache of vectors."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import scipy.sparse as sp
from splade_edge.export.auto.retrieval_sets import RetrievalSet
from splade_edge.models.opening import open_checkpoint
from splade_edge.models.reference import ReferenceEncoder
from splade_edge.models.training.bm25 import Bm25, rank_exactly
from splade_edge.runtime.document import Document
from splade_edge.runtime.encoder.encoder import Encoded
from splade_edge.runtime.errors import InputError
from splade_edge.runtime.evaluation.trec import Query
from splade_edge.runtime.idf import idf_factors
from splade_edge.runtime.vectors import SparseBatch, SparseVector
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from benchmarks.cached_vectors import VectorCache
from benchmarks.pooled import pool, pooled_report
from benchmarks.quality import IMPACTS, REFERENCE, Outcome, differences_of, idle_weight, run_reference
from benchmarks.retrieval_sets import bootstrap_interval, measure_run, read_set

from .. import checkpoints


def write_set(path):
    (path / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(("a b", "c", "d"))]
    (path / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    queries = [{"_id": "q1", "text": "a"}, {"_id": "q2", "text": "c"}, {"_id": "unjudged", "text": "d"}]
    (path / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq2\td1\t1\nq1\td0\t1\n")
    return path


def test_measures_follow_the_order_of_the_ranking(tmp_path):
    data = read_set(str(write_set(tmp_path / "small")))
    assert [query.id for query in data.queries] == ["q1", "q2"]
    values = measure_run(data, [["d2", "d0"], []])
    assert values["RR@10"].tolist() == [0.5, 0.0]
    assert values["nDCG@10"].tolist() == pytest.approx([1 / math.log2(3), 0.0])
    assert values["R@100"].tolist() == [1.0, 0.0]


def test_a_set_may_search_the_corpus_of_another(tmp_path):
    write_set(tmp_path / "first")
    second = write_set(tmp_path / "second")
    (second / "corpus.jsonl").unlink()
    with pytest.raises(InputError, match=r"no corpus\.jsonl"):
        read_set(str(second))
    (second / "CORPUS").write_text("../first\n")
    assert len(read_set(f"{second}:test").documents) == 3


def test_bm25_is_the_formula():
    pytest.importorskip("Stemmer")
    texts = ["The cat sat with the cats", "a dog and a cat", "dogs running", "birds"]
    words = [["cat", "sat", "cat"], ["dog", "cat"], ["dog", "run"], ["bird"]]
    mean = np.mean([len(w) for w in words])

    def score(terms, document):
        total = 0.0
        for term in terms:
            df = sum(term in w for w in words)
            idf = math.log(1 + (len(words) - df + 0.5) / (df + 0.5))
            tf = document.count(term)
            total += idf * tf / (tf + 0.9 * (1 - 0.4 + 0.4 * len(document) / mean))
        return total

    expected = sorted(range(4), key=lambda i: (-score(["cat", "run"], words[i]), i))
    assert Bm25(texts).rank(["the cats run", "whale"], 10) == [
        [i for i in expected if score(["cat", "run"], words[i]) > 0],
        [],
    ]


def test_rank_exactly_breaks_ties_by_document():
    by_term = sp.csr_matrix(np.array([[1.0, 0, 2, 1, 1], [0, 0, 0, 0, 1]]))
    queries = sp.csr_matrix(np.array([[1.0, 0], [0, 0]]))
    assert rank_exactly(queries, by_term, 3) == [[2, 0, 3], []]


def test_interval_covers_the_mean_of_a_difference():
    difference = np.random.default_rng(1).normal(0.1, 1.0, 400)
    low, high = bootstrap_interval(difference, 2000)
    half = 1.96 * difference.std() / 20
    assert low == pytest.approx(difference.mean() - half, abs=0.02)
    assert high == pytest.approx(difference.mean() + half, abs=0.02)


def test_vectors_are_encoded_once(tmp_path):
    asked = []

    def encode(texts):
        asked.extend(texts)
        return [
            Encoded(SparseVector(np.array([len(t)], np.int32), np.array([1.5], np.float32)), len(t), True, False)
            for t in texts
        ]

    texts = [f"text {'x' * (i % 7)}{i}" for i in range(600)]
    first = list(VectorCache(tmp_path, ["graph"]).encode(texts, encode))
    again = list(VectorCache(tmp_path, ["graph"]).encode(iter(texts), encode))
    assert asked == texts
    assert [e.vector.indices.tolist() for e in again] == [[len(t)] for t in texts]
    assert [(e.tokens, e.known, e.truncated) for e in again] == [(e.tokens, e.known, e.truncated) for e in first]
    list(VectorCache(tmp_path, ["another graph"]).encode(texts[:1], encode))
    assert asked == [*texts, texts[0]]


def test_idle_weight_is_that_of_stop_words_punctuation_and_special_tokens(tmp_path):
    path = tmp_path / "tokenizer.json"
    terms = {"the": 0, "cat": 1, "[SEP]": 2, ",": 3, "[UNK]": 4}
    Tokenizer(WordLevel(terms, unk_token="[UNK]")).save(str(path))
    weights = np.array([1.0, 5.0, 0.5, 0.5], np.float32)
    batch = SparseBatch(np.array([0, 2, 4]), np.array([0, 1, 2, 3], np.int32), weights)
    assert idle_weight(batch, path) == pytest.approx(2 / 7)


def test_pooled_difference_is_over_the_queries_of_all_sets():
    def outcome(*values):
        return Outcome({"nDCG@10": np.array(values)}, 1.0, 1.0)

    first = {REFERENCE: outcome(1.0, 0.5, 0.0), "int8": outcome(0.7, 0.5, 0.0), "only here": outcome(1.0, 1.0, 1.0)}
    second = {REFERENCE: outcome(0.5), "int8": outcome(1.0)}
    differences = {
        name: {system: d["nDCG@10"] for system, d in differences_of(outcomes).items()}
        for name, outcomes in {"a": first, "b": second}.items()
    }
    pooled = pool(differences)
    assert list(pooled) == ["int8"]
    assert pooled["int8"]["queries"] == 4
    mean, low, high = pooled["int8"]["difference"]
    assert mean == pytest.approx((-0.3 + 0.5) / 4)
    assert low < mean < high
    assert pooled["int8"]["mean of sets"] == pytest.approx((-0.1 + 0.5) / 2)
    assert pooled_report(pooled).rows[0][:2] == ["int8", "4"]
    assert not differences_of({"BM25": outcome(1.0)})
    assert not differences_of({"int8": outcome(1.0)})
    [(system, found)] = differences_of({"int8": outcome(1.0, 0.2), "BM25": outcome(0.5, 0.5)}).items()
    assert system == "int8"
    np.testing.assert_allclose(found["nDCG@10"], [0.5, -0.3])


def test_the_reference_ranks_with_the_idf_that_a_search_has(tmp_path):
    pair = checkpoints.write_pair(tmp_path / "pair")
    config = json.loads((pair / "query" / "config.json").read_text())
    (pair / "query" / "config.json").write_text(json.dumps(config | {"query_idf": 2.0}))
    words = ["steam", "engine", "warsaw", "river", "music", "bread", "winter", "piano", "city", "snow"]
    documents = [Document(f"d{i}", "", " ".join(words[i:] + words[: i // 2])) for i in range(10)]
    queries = [Query(f"q{i}", " ".join(words[i : i + 3])) for i in range(8)]
    data = RetrievalSet("small", documents, queries, {f"q{i}": {f"d{i}": 1} for i in range(8)})

    def measured(idf):
        outcomes = run_reference(data, str(pair), tmp_path / "work", idf)
        return [outcomes[name].values["nDCG@10"].tolist() for name in (REFERENCE, IMPACTS)]

    assert measured(None) == measured(2.0)
    q, d = (ReferenceEncoder(open_checkpoint(str(pair), side)) for side in ("query", "document"))
    vectors = d.encode([document.text for document in documents]).astype(np.float64)
    weights = q.encode([query.text for query in queries]) * idf_factors((vectors > 0).sum(axis=0), 10, 2.0)
    ranked = [[f"d{i}" for i in np.argsort(-row, kind="stable")] for row in weights.astype(np.float64) @ vectors.T]
    assert measured(None)[0] == pytest.approx(measure_run(data, ranked)["nDCG@10"].tolist())
