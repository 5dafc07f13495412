"""Visiting chunks in two steps: half of the terms first, then the others where a unit may still reach the bar."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splade_edge.runtime.scorer import BLOCK_SIZE, query
from splade_edge.runtime.scorer import block_max as visit

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


def apart(chunks: int, impact: int, *, terms: int = 4) -> np.ndarray:
    """So many chunks in which each term has one unit: bounds are high, and no score is."""
    impacts = np.zeros((chunks, BLOCK_SIZE, terms), np.uint8)
    impacts[:, range(terms), range(terms)] = impact
    return impacts


def tie() -> tuple[np.ndarray, list[float]]:
    """Units score what the bar is, in chunks that are looked at in two steps; the first of them is the best."""
    impacts = np.zeros((40, BLOCK_SIZE, 4), np.uint8)
    impacts[10:30] = apart(20, 50)
    impacts[0, 0] = impacts[20, 9] = 15
    return impacts, [1, 1, 1, 1]


def many_sums() -> tuple[np.ndarray, list[float]]:
    """Sums that wrapped if those of the chunks before were left."""
    impacts = np.zeros((50, BLOCK_SIZE, 4), np.uint8)
    impacts[:34, 6, 0] = impacts[:34, 7, 1] = 250
    impacts[:34, 8, 2:] = 1
    impacts[0, 9, :2] = 200
    impacts[36:40, 5, :2] = 190
    impacts[36:40, 6, 0] = impacts[36:40, 7, 1] = 210
    impacts[40, 5, :2] = 205
    return impacts, [1, 1, 0.01, 0.01]


def overflow() -> tuple[np.ndarray, list[float]]:
    """All bounds are saturated, and the best unit's sum of the first half of the terms does not fit 16 bits."""
    impacts = apart(300, 255)
    impacts[200, 9, :2] = 255
    return impacts, [1, 1, 1e-6, 1e-6]


@pytest.mark.parametrize("case", [tie, many_sums, overflow])
def test_hard_cases(tmp_path, case):
    impacts, weights = case()
    impacts = impacts.reshape(-1, impacts.shape[2])
    index = write_index(tmp_path / "index", impacts, batch=10_000)
    for k in (1, 2, 3):
        assert_exact(index, impacts, range(len(weights)), np.float32(weights), k)
    assert not index._scorer.by_kernels._workspaces.mine._of_segment["coarse_sums"].any()


def test_approximate_takes_all_of_a_visited_chunk(tmp_path):
    """The bar of units is the bar, whatever share of a bound has to reach it."""
    impacts = np.zeros((50, BLOCK_SIZE, 4), np.uint8)
    impacts[:34] = apart(34, 100)
    impacts[0, 9] = 33
    impacts[40] = apart(1, 90)[0]
    impacts[40, 9] = 40
    index = write_index(tmp_path / "index", impacts.reshape(-1, 4), batch=10_000)
    scorer = index._scorer.by_kernels
    scorer.way = visit.BY_CHUNKS
    units, scores = scorer.search(range(4), np.ones(4, np.float32), 1, None, 0.5)
    assert (units.tolist(), scores.tolist()) == ([40 * BLOCK_SIZE + 9], [160.0])


@pytest.mark.skipif(not NO_JIT, reason="compiled kernels hold what is replaced here")
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_small_collections(data, tmp_path_factory):
    """With so few chunks at first that small collections have others, which are looked at in two steps."""
    seed = data.draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    units, terms = data.draw(st.integers(200, 2000)), data.draw(st.integers(4, 9))
    low, high = data.draw(st.sampled_from([(1, 256), (1, 3), (100, 256), (255, 256)]))
    density = rng.choice([1.0, 0.5, 0.3, 0.1, 0.03, 0.002], terms)
    impacts = (rng.integers(low, high, (units, terms)) * (rng.random((units, terms)) < density)).astype(np.uint8)
    index = write_index(tmp_path_factory.mktemp("index") / "index", impacts, batch=10_000)
    scorer = index._scorer.by_kernels
    scorer.way = visit.BY_CHUNKS
    calls = []

    def counted(stretch, looked_at, k, limit, step, keep, bar, n, *others):
        calls.append((looked_at, n))
        return score_chunks(stretch, looked_at, k, limit, step, keep, bar, n, *others)

    score_chunks = visit.score_chunks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(visit, "score_chunks", counted)
        for name, value in {"LEAST_FIRST": 1, "MOST_FIRST": 1, "BEST": 4, "STRETCH": 5}.items():
            patch.setattr(visit, name, value)
        for weights in (rng.uniform(0.01, 3, terms), np.ones(terms), 10 ** rng.uniform(-3, 1, terms)):
            k = data.draw(st.sampled_from([1, 2, 5, 16]))
            allowed = rng.random(units) < 0.7 if data.draw(st.booleans()) else None
            passing = None if allowed is None else index._scorer.allow(allowed)
            expected, best = top_k(impacts, range(terms), np.float32(weights), k, 1.0, allowed)
            floor = best[len(best) // 2] if best and data.draw(st.booleans()) else 0.0
            count = sum(score >= floor for score in best)
            calls.clear()
            found, scores = scorer.search(range(terms), np.float32(weights), k, passing, 1.0, floor)
            assert (found.tolist(), scores.tolist()) == (expected[:count], best[:count])
            assert not scorer._workspaces.mine._of_segment["coarse_sums"].any()
            if floor > 0.0 and calls and calls[0][1] >= visit.LEAST_TERMS:  # as in a later segment: from the start
                assert calls[0][0] < calls[0][1]


@pytest.mark.skipif(not NO_JIT, reason="compiled kernels hold what is replaced here")
def test_chunks_that_are_left(tmp_path, monkeypatch):
    """All that have a unit that reaches the bar, few others, and what is dropped is not asked for again."""
    impacts = collection(6000)
    weights = np.float32(WEIGHTS["as encoders give them"])
    index = write_index(tmp_path / "index", impacts, batch=10_000)
    index._scorer.by_kernels.way = visit.BY_CHUNKS
    scores = impacts.astype(float) @ weights.astype(float)
    scores = np.append(scores, np.zeros(-scores.size % BLOCK_SIZE)).reshape(-1, BLOCK_SIZE).max(1)
    left: list[tuple[int, int]] = []

    def watched(stretch, looked_at, k, limit, step, keep, bar, n, segment, workspace, *others):
        before, bounds = stretch.copy(), workspace.bounds
        kept, found, raised = score_chunks(
            stretch, looked_at, k, limit, step, keep, bar, n, segment, workspace, *others
        )
        if looked_at < n:
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
    found, best = index.search_vector((range(7), weights), 10)
    assert (found.tolist(), best.tolist()) == top_k(impacts, range(7), weights, 10, index.manifest.scale)
    assert left
    assert sum(kept for _, kept in left) < 0.7 * sum(size for size, _ in left)
    left.clear()
    index.search_vector((range(7), weights), 10, approximate=0.9)
    assert not left
