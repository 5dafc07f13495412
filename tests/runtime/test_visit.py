"""Visiting chunks in two steps: half of the terms first, then the others where a unit may still reach the bar."""

from __future__ import annotations

import os

import numpy as np
import pytest
from splade_edge.runtime.scorer import CHUNK, chunks, query, visit

from tests.oracle import assert_exact, top_k, write_index

NO_JIT = os.environ.get("NUMBA_DISABLE_JIT") == "1"
WEIGHTS = {
    "alike": np.ones(7),
    "as encoders give them": np.array([0.3, 1.7, 0.9, 2.2, 0.05, 1.1, 0.6]),
    "far apart": np.logspace(-6, 6, 7),  # their float64 sums depend on the order: nothing is looked at first
}


def collection(units: int) -> np.ndarray:
    """Impacts of seven terms, of which the last but one is rare, in a collection whose neighbours are alike."""
    rng = np.random.default_rng(1)
    density = np.array([0.3, 0.2, 0.2, 0.1, 0.1, 0.001, 0.05])
    topic = np.repeat(rng.random((-(-units // 200), 7)) * 2, 200, axis=0)[:units]
    has = rng.random((units, 7)) < density * topic
    return np.minimum(255, 1 + rng.exponential(30, (units, 7))).astype(np.uint8) * has


def test_heaviest_first():
    kept, used, rows = np.array([2, 5, 7, 9]), np.array([1.0, 3.0, 0.5, 2.0]), np.array([0, -1, 1, 2])
    most = np.zeros((10, 2), np.uint8)
    most[[2, 5, 7, 9], 0] = [100, 10, 250, 200]
    query.heaviest_first(3, most, kept, used, rows)
    assert (kept.tolist(), used.tolist(), rows.tolist()) == ([7, 2, 5, 9], [0.5, 1.0, 3.0, 2.0], [1, 0, -1, 2])
    query.heaviest_first(4, most, kept, used, rows)
    assert kept.tolist() == [9, 7, 2, 5]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("reorder", [False, pytest.param(True, marks=pytest.mark.skipif(NO_JIT, reason="minutes"))])
def test_exact(tmp_path, weights, reorder):
    impacts = collection(6000 if NO_JIT else 40_000)
    index = write_index(tmp_path / "index", impacts, batch=10_000, reorder=reorder)
    some = np.random.default_rng(2).random(len(impacts)) < 0.3
    for terms in (range(7), [0, 2, 5, 6]):
        for k in (1, 10, 25, 200):
            for allowed in (None, some):
                assert_exact(index, impacts, list(terms), np.float32(WEIGHTS[weights][list(terms)]), k, allowed)


@pytest.mark.skipif(not NO_JIT, reason="compiled kernels hold what is replaced here")
@pytest.mark.parametrize("step", ["as it is", "saturated"])
def test_chunks_that_are_left(tmp_path, monkeypatch, step):
    """All that have a unit that reaches the bar, few others, and what is dropped is not asked for again."""
    impacts = collection(6000)
    weights = np.float32(WEIGHTS["as encoders give them"])
    index = write_index(tmp_path / "index", impacts, batch=10_000)
    index._scorer.by_kernels.way = visit.BY_CHUNKS
    scores = impacts.astype(float) @ weights.astype(float)
    scores = np.append(scores, np.zeros(-scores.size % CHUNK)).reshape(-1, CHUNK).max(1)
    left: list[tuple[int, int]] = []

    def watched(*args):
        stretch, terms, bar, n, bounds = args[0], args[1], args[6], args[7], args[9].bounds
        if step == "saturated":
            bounds[stretch] = chunks.UNBOUNDED
        before = stretch.copy()
        kept, found, raised = score_chunks(*args)
        if terms < n:
            dropped = np.setdiff1d(before, stretch[:kept])
            assert (scores[dropped] < bar).all()
            assert raised == bar
            assert bounds[stretch[:kept]].all()
            left.append((before.size, int(kept)))
        else:
            dropped = before
            assert kept == 0
        assert not bounds[dropped].any()
        return kept, found, raised

    score_chunks = visit.score_chunks
    monkeypatch.setattr(visit, "score_chunks", watched)
    found, best = index.search_vectors(range(7), weights, 10)
    assert (found.tolist(), best.tolist()) == top_k(impacts, range(7), weights, 10, index.manifest.scale)
    assert sum(kept for _, kept in left) < 0.7 * sum(size for size, _ in left) or step == "saturated"
    if step == "saturated":
        assert all(kept == size for size, kept in left)
    assert left
    left.clear()
    for approximate in (0.9, 1.0):
        index.search_vectors(range(7), weights, 10, approximate=approximate)
        assert bool(left) == (approximate == 1.0)
