"""Sums of 16 bits: what they are and how candidates are scored. That answers stay exact is in test_scan.py, too."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splade_edge.runtime.scorer import CHUNK, SHELF, WINDOW, coarse, scan, visit
from splade_edge.runtime.scorer.bounds import CHUNKS

from tests.oracle import assert_exact, top_k, write_index

NO_JIT = os.environ.get("NUMBA_DISABLE_JIT") == "1"
LARGE = pytest.mark.skipif(NO_JIT, reason="takes minutes without the compiler")
QUICK = settings(max_examples=15 if NO_JIT else 60, deadline=None)
ALL = np.empty(0, np.bool_)


def coarse_scan_of(index):
    """The index's scorer, which shall scan by coarse sums."""
    scorer = index._scorer.by_kernels
    scorer.way, scorer.sums = visit.BY_POSTINGS, coarse.COARSE
    return scorer


class TestRoundUp:
    @QUICK
    @given(
        weights=st.lists(st.floats(2.0**-20, 2.0**20, width=32), min_size=1, max_size=coarse.MOST_TERMS),
        seed=st.integers(0, 2**32),
    )
    def test_bounds_and_fits(self, weights, seed):
        """No sum is below its score, and the largest one that there can be fits 16 bits."""
        used, n = np.array(weights), len(weights)
        most = np.random.default_rng(seed).integers(1, 256, (3, n))  # of each window
        rounded = np.empty(n, np.int64)
        step = coarse.round_up(n, most @ used, used, rounded)
        assert step > 0.0
        assert (rounded * step >= used * (1 - 1e-12)).all()
        assert (most @ rounded <= 65535).all()

    def test_too_many_terms(self):
        n = coarse.MOST_TERMS + 1
        assert coarse.round_up(n, np.array([255.0 * n]), np.ones(n), np.empty(n, np.int64)) == 0.0

    def test_nothing_to_divide_by(self):
        assert coarse.round_up(1, np.array([1e-300]), np.array([1e-302]), np.empty(1, np.int64)) == 0.0


class TestSweep:
    sums = np.zeros(WINDOW, np.uint16)

    def sweep(self, least, room=(), passing=ALL, first=SHELF, first_unit=WINDOW):
        scores, places = np.empty(SHELF), np.empty(SHELF, np.uint32)
        room = np.array(room, np.int64)
        found = coarse.sweep_coarse(
            self.sums, first, np.int64(least), room, 0.5, first_unit, passing, scores, places, np.int64(0)
        )
        return dict(zip(places[:found].tolist(), scores[:found].tolist(), strict=True))

    def test_candidates(self):
        values = {SHELF: 65535, SHELF + 70: 9, SHELF + 71: 10, 2 * SHELF - 1: 30_000}
        self.sums[list(values)] = list(values.values())
        found = self.sweep(10)
        assert found == {WINDOW + place: 0.5 * value for place, value in values.items() if value != 9}
        assert not self.sums.any()

    def test_only_its_strip(self):
        self.sums[[SHELF - 1, 2 * SHELF]] = 99
        assert self.sweep(1) == {}
        assert self.sums[[SHELF - 1, 2 * SHELF]].tolist() == [99, 99]
        self.sums[:] = 0

    def test_room(self):
        """A chunk's room counts for its units; where it is as much as is asked for, they all are candidates."""
        room = np.zeros(CHUNKS, np.int64)
        room[SHELF // CHUNK + 1], room[SHELF // CHUNK + 3] = 4, 10
        self.sums[SHELF : SHELF + 2 * CHUNK] = 6
        found = self.sweep(10, room)
        assert set(found) == {WINDOW + SHELF + CHUNK * chunk + i for chunk in (1, 3) for i in range(CHUNK)}
        assert found[WINDOW + SHELF + CHUNK] == 3.0
        assert found[WINDOW + SHELF + 3 * CHUNK] == 0.0

    def test_filter(self):
        """Places beyond the filter are those of no unit."""
        passing = np.ones(SHELF + 3 * CHUNK + 5, np.bool_)
        passing[SHELF + 2] = False
        room = np.zeros(CHUNKS, np.int64)
        room[SHELF // CHUNK + 3] = 1
        self.sums[SHELF : SHELF + 3] = 1
        found = self.sweep(1, room, passing, first_unit=0)
        assert sorted(found) == [SHELF, SHELF + 1, *range(SHELF + 3 * CHUNK, SHELF + 3 * CHUNK + 5)]


@QUICK
@given(
    data=st.data(),
    units=st.sampled_from([1, 63, 64, 65, 1000, WINDOW]),
    density=st.sampled_from([0.0, 0.001, 0.05, 0.3, 1.0]),
    after=st.sampled_from([0, 1, 100]),
)
def test_look_along(data, units, density, after):
    """Also where the postings of other terms, which may be of the same units, come before and after."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    before = data.draw(st.integers(0, 70))
    has = rng.random(units) < density
    dense = np.where(has, rng.integers(1, 256, units), 0)
    places = np.sort(rng.choice(units, min(units, data.draw(st.integers(1, 60))), replace=False)).astype(np.uint32)
    scores = rng.random(places.size)
    expected = scores + 0.5 * dense[places]
    postings = np.flatnonzero(has).astype(np.uint16)
    others = rng.integers(0, units, before + after).astype(np.uint16)
    coarse.look_along(
        places + np.uint32(WINDOW), scores, 0.5, np.uint64(before), np.uint64(before + postings.size),
        np.concatenate([others[:before], postings, others[before:]]),
        np.concatenate([np.full(before, 9), dense[has], np.full(after, 7)]).astype(np.uint8),
    )  # fmt: skip
    assert scores.tolist() == expected.tolist()


def test_gain():
    """More where few units reach the threshold and many postings are added in few runs."""
    starts = np.array([[0, 4000], [4000, 4100]], np.uint64)

    def gain(expected, dense=True, sparse=False, starts=starts):
        return coarse.gain_of(2, WINDOW, 0, starts, dense, sparse, expected)

    assert gain(10.0) > 0 > gain(1000.0)
    assert gain(10.0) - gain(20.0) == pytest.approx(10 * 2 * coarse.COST_LOOKUP)
    assert gain(10.0, dense=False) > gain(10.0, dense=False, sparse=True)
    assert gain(10.0, dense=False, sparse=True, starts=starts // np.uint64(100)) < 0


@LARGE
class TestExact:
    @pytest.mark.parametrize("k", [1, 300])
    def test_ties(self, tmp_path, k):
        """Where most units score alike, or nearly, coarse sums leave nearly all of them: it goes on in full."""
        rng = np.random.default_rng(1)
        impacts = rng.choice([0, 40, 41], (3 * WINDOW + 100, 2), p=[0.2, 0.4, 0.4])
        index = write_index(tmp_path / "index", impacts, batch=50_000)
        scorer = coarse_scan_of(index)
        for weights in ([1.0, 1.0], [0.7, 1e-6], [1e6, 0.3]):
            found, scores = index.search_vectors([0, 1], weights, k)
            assert (found.tolist(), scores.tolist()) == top_k(impacts, [0, 1], weights, k, index.manifest.scale)
            assert not scorer._workspaces.mine._of_segment["coarse_sums"].any()

    @pytest.mark.parametrize("terms", [1, coarse.MOST_TERMS, coarse.MOST_TERMS + 1])
    def test_number_of_terms(self, tmp_path, terms):
        rng = np.random.default_rng(terms)
        units = 2 * WINDOW + 77
        impacts = np.zeros((units, terms), np.uint8)
        for j in range(terms):
            having = rng.choice(units, units // 100 if j else units // 3, replace=False)
            impacts[having, j] = rng.integers(1, 256, having.size)
        index = write_index(tmp_path / "index", impacts, batch=50_000)
        index._scorer.by_kernels.sums = coarse.COARSE
        for weights in (np.ones(terms), rng.exponential(1.0, terms), np.logspace(-6, 6, terms)):
            assert_exact(index, impacts, range(terms), np.float32(weights), 100)

    def test_without_block_max_data(self, tmp_path):
        rng = np.random.default_rng(4)
        impacts = rng.integers(1, 256, (2 * WINDOW + 5, 4)) * (rng.random((2 * WINDOW + 5, 4)) < [0.3, 0.1, 0.01, 1e-4])
        index = write_index(tmp_path / "index", impacts, batch=50_000, block_max=False)
        coarse_scan_of(index)
        for k in (1, 10, 1000):
            found, scores = index.search_vectors(range(4), [0.2, 0.5, 1.0, 2.0], k)
            assert (found.tolist(), scores.tolist()) == top_k(impacts, range(4), [0.2, 0.5, 1.0, 2.0], k, 1.0)


@pytest.mark.skipif(not NO_JIT, reason="compiled kernels hold what is replaced here")
def test_without_the_compiler(tmp_path, monkeypatch):
    """The second window by coarse sums, with and without terms that are postponed; and given up."""
    rng = np.random.default_rng(10)
    density, units = np.array([0.3, 0.2, 0.02, 0.01]), WINDOW + 5003
    impacts = rng.integers(1, 256, (units, 4)) * (rng.random((units, 4)) < density)
    impacts[-1] = 255
    impacts[WINDOW + 50 : WINDOW + 53] = [255, 255, 120, 120]
    index = write_index(tmp_path / "index", impacts, batch=10_000)
    coarse_scan_of(index)
    done = []

    def score_gathered(*args):
        done.append(args[4].size)
        return coarse.score_gathered(*args)

    monkeypatch.setattr(scan, "score_gathered", score_gathered)
    for far_more, postponed in ((1e9, 0), (1e9, 2), (0.0, 0)):
        monkeypatch.setattr(scan, "far_more", lambda expected, most=far_more: most)
        monkeypatch.setattr(scan, "postpones", lambda *_, may=postponed > 0: may)
        monkeypatch.setattr(scan, "how_many", lambda *args, x=postponed: (np.int64(x), args[4], 1.0))
        for weights in ([0.02, 0.03, 1.0, 1.5], [0.5, 0.5, 1.0, 1.0]):
            for allowed in (None, np.arange(units) % 5 > 0):
                done.clear()
                found, scores = index.search_vectors(range(4), weights, 100, allowed=allowed)
                expected = top_k(impacts, range(4), weights, 100, index.manifest.scale, allowed)
                assert (found.tolist(), scores.tolist()) == expected
                assert done == ([] if far_more == 0.0 else [postponed])
