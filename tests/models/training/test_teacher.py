"""A teacher's scores against NumPy, and nDCG by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from splade_edge.models.training.bm25 import Bm25
from splade_edge.models.training.collections import Collection
from splade_edge.models.training.evaluation import Probe, ndcg
from splade_edge.models.training.sampling import Batch
from splade_edge.models.training.settings import SetSettings, TeacherSettings
from splade_edge.models.training.teacher import DenseEncoder, Teacher

QUERIES = (["oil crisis", "king war"], ["steam engine", "prime number", "oxygen"])
DOCUMENTS = (
    ["the oil of kenya", "a war king and the crisis", "pharmacy"],
    ["prime number 2", "steam force", "the engine of steam", "oxygen network"],
)


def _collection(number: int, lexical: float | None) -> Collection:
    settings = SetSettings(path=f"set{number}", lexical=lexical)
    none = [np.zeros(1, np.int64) for _ in QUERIES[number]]
    return Collection(f"set{number}", settings, DOCUMENTS[number], QUERIES[number], none, np.arange(2))


def test_scores_are_cosine_and_bm25_of_the_batchs_collection(base: Path, tmp_path: Path) -> None:
    collections = [_collection(0, None), _collection(1, 1.5)]
    bm25 = [Bm25(c.documents) for c in collections]
    teacher = Teacher(TeacherSettings(base=str(base), dense=7.0, lexical=0.4), collections, bm25, tmp_path)
    encoder = DenseEncoder(str(base), 128)
    cases = [
        (0, ["oil crisis", "king war"], [0, 1], [2, 0, 1], 0.4),
        (1, ["oxygen", "steam force"], [2, -1], [3, 1], 1.5),
    ]
    for number, texts, queries, documents, lexical in cases:
        chosen = np.array(documents)
        batch = Batch(number, texts, np.array(queries), chosen, np.zeros(2, np.int64), np.zeros((2, len(chosen)), bool))
        cosine = encoder.encode(texts) @ encoder.encode([DOCUMENTS[number][d] for d in documents]).T
        lexical_scores = bm25[number].scores(texts, chosen)
        assert lexical_scores.max() > 0.1
        found = teacher.scores(batch)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, 7 * cosine + lexical * lexical_scores, atol=2e-2)
    # float16 rows, so the tolerance; each half is far above it
    assert 7 * np.ptp(cosine) > 0.1


class _Fixed:
    """An encoder that gives each text the vector it is told."""

    query_idf = 0.0

    def __init__(self, vectors: dict[str, list[float]]) -> None:
        self._vectors = list(vectors.values())
        self._texts = list(vectors)

    def ids(self, texts: list[str]) -> list[list[int]]:
        return [[self._texts.index(text)] for text in texts]

    def encoder(self, ids: list[list[int]]) -> torch.Tensor:
        return torch.tensor([self._vectors[i] for (i,) in ids])


def test_ndcg_by_hand() -> None:
    documents = ["a", "b", "c", "d", "e"]
    positives = [np.array([0]), np.array([3, 1]), np.array([4])]
    none = np.empty(0, np.int64)
    collection = Collection("x", SetSettings(path="x"), documents, ["p", "q", "r"], positives, none, np.array([1, 2]))
    query = _Fixed({"q": [1.0, 0.0], "r": [0.0, 1.0]})
    # for q: d (relevant), c, b (relevant); for r: c, e (relevant)
    document = _Fixed({"b": [1.0, 0.0], "c": [2.0, 3.0], "d": [3.0, 0.0], "e": [0.0, 1.0]})
    probe = Probe(collection, np.array([1, 2, 3, 4]))
    value, query_terms, document_terms = ndcg(probe, query, document)
    first = (1 + 1 / math.log2(4)) / (1 + 1 / math.log2(3))
    second = 1 / math.log2(3)
    assert value == pytest.approx((first + second) / 2)
    assert query_terms == 1.0
    assert document_terms == 5 / 4
