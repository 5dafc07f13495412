"""Naive oracles: what the kernels must compute, written in NumPy without a thought for speed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from splade_edge.runtime.build.index_writer import IndexWriter
from splade_edge.runtime.document import Document
from splade_edge.runtime.index import Index
from splade_edge.runtime.numba_support import backend
from splade_edge.runtime.scorer import block_max as visit
from splade_edge.runtime.vectors import SparseBatch


def top_k(
    impacts: np.ndarray, terms, weights, k: int, scale: float = 1.0, allowed=None
) -> tuple[list[int], list[float]]:
    """Exact top k of a dense ``[documents, vocab]`` integer matrix, as runtime/scorer/__init__.py defines it.

    One float64 addition a term, in ascending term id; the scale once at the end; score descending, then document.
    """
    scores = np.zeros(len(impacts))
    matched = np.zeros(len(impacts), bool)
    eligible = np.ones(len(impacts), bool) if allowed is None else allowed
    for term, weight in sorted(zip(np.asarray(terms).tolist(), np.asarray(weights, np.float32), strict=True)):
        if weight > 0:
            scores = scores + np.float64(weight) * impacts[:, term].astype(np.float64)
            matched |= impacts[:, term] > 0
    order = [i for i in np.lexsort((np.arange(len(scores)), -scores)) if matched[i] and eligible[i]][:k]
    return [int(i) for i in order], [float(scores[i] * scale) for i in order]


def quantize(weights: np.ndarray, scale: float) -> np.ndarray:
    """8-bit impacts of dense weights."""
    return np.minimum(np.floor(weights.astype(np.float64) / scale + 0.5), 255).astype(np.int64)


def csr(dense: np.ndarray) -> SparseBatch:
    """The rows of a dense matrix as a batch of sparse vectors."""
    rows, columns = np.nonzero(dense)
    indptr = np.zeros(len(dense) + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=len(dense)), out=indptr[1:])
    return SparseBatch(indptr, columns.astype(np.int32), dense[rows, columns].astype(np.float32))


def write_index(path: Path, dense: np.ndarray, *, scale: float | None = 1.0, batch: int = 1000, **options) -> Index:
    """Index the rows of a dense ``[documents, vocab]`` matrix, however few with block-max data; ids: ``d0``, ``d1``…"""
    path.mkdir(parents=True)
    writer = IndexWriter(path, dense.shape[1], scale=scale, **{"block_max_from": 0, **options})
    for start in range(0, len(dense), batch):
        rows = dense[start : start + batch]
        for i in range(len(rows)):
            writer.add_document(Document(f"d{start + i}", f"title {start + i}", f"text {start + i}", {"n": start + i}))
        writer.add_vectors(csr(rows))
    writer.finish()
    return Index.open(path)


@contextmanager
def numpy_alone() -> Iterator[None]:
    """What is searched and decoded within is never done by a kernel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "_budget_left", float("inf"))
        yield


def assert_exact(index: Index, impacts: np.ndarray, terms, weights, k: int, allowed=None) -> None:
    """Whether every way to search gives the documents and the very scores of :func:`top_k`."""
    expected, expected_scores = top_k(impacts, terms, weights, k, index.manifest.scale, allowed)
    for way in (visit.CHEAPER, visit.BY_CHUNKS, visit.BY_POSTINGS):
        index._scorer.by_kernels.way = way
        documents, scores = index.search_vector((terms, weights), k, allowed=allowed)
        assert documents.tolist() == expected
        assert scores.tolist() == expected_scores
    with numpy_alone():
        documents, scores = index.search_vector((terms, weights), k, allowed=allowed)
    assert documents.tolist() == expected
    assert scores.tolist() == expected_scores
