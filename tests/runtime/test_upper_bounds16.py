"""Sums of 16 bits: what they are and how candidates are scored. That answers stay exact is in test_scan.py, too."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splade_edge.runtime.index.checksum import checksum
from splade_edge.runtime.scorer import BLOCK_SIZE, L2_TILE, RANGE_SIZE, SUPERBLOCK_BLOCKS
from splade_edge.runtime.scorer import block_max as visit
from splade_edge.runtime.scorer import maxscore as late
from splade_edge.runtime.scorer import taat as scan
from splade_edge.runtime.scorer import upper_bounds16 as coarse
from splade_edge.runtime.scorer.block_max_bounds import RANGE_BLOCKS
from splade_edge.runtime.scorer.filter_mask import AllowedUnits
from splade_edge.runtime.scorer.numba_backend import SegmentScorer
from splade_edge.runtime.scorer.workspace import FOUND

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
        weights=st.lists(st.floats(2.0**-20, 2.0**20, width=32), min_size=1, max_size=40),
        seed=st.integers(0, 2**32),
    )
    def test_bounds_and_fits(self, weights, seed):
        """No sum is below its score, and the largest one that there can be fits 16 bits."""
        used, n = np.array(weights), len(weights)
        most = np.random.default_rng(seed).integers(1, 256, (3, n))  # of each window
        rounded = np.empty(n, np.int64)
        step = coarse.round_up(n, most @ used, used, rounded)
        unit = step or (most @ used).max() / (65535 - 255 * n)
        assert (rounded * unit > used * (1 - 1e-12)).all()
        assert (most @ rounded <= 65535).all()
        assert (step > 0.0) == (rounded.sum() * unit <= (1 + coarse.MOST_ADDED) * used.sum())

    @pytest.mark.parametrize(("terms", "coarsely"), [(8, True), (25, True), (60, False), (257, False), (500, False)])
    def test_many_terms(self, terms, coarsely):
        step = coarse.round_up(terms, np.array([255.0 * terms]), np.ones(terms), np.empty(terms, np.int64))
        assert (step > 0.0) == coarsely

    def test_nothing_to_divide_by(self):
        assert coarse.round_up(1, np.array([1e-300]), np.array([1e-302]), np.empty(1, np.int64)) == 0.0


class TestSweep:
    def setup_method(self):
        self.sums = np.zeros(RANGE_SIZE, np.uint16)

    def sweep(self, least, room=(), passing=ALL, first=L2_TILE, first_unit=RANGE_SIZE):
        scores, places = np.empty(L2_TILE), np.empty(L2_TILE, np.uint32)
        room = np.array(room, np.int64)
        found = coarse.sweep_coarse(
            self.sums, first, np.int64(least), room, 0.5, first_unit, passing, scores, places, np.int64(0)
        )
        return dict(zip(places[:found].tolist(), scores[:found].tolist(), strict=True))

    def test_candidates(self):
        values = {L2_TILE: 65535, L2_TILE + 70: 9, L2_TILE + 71: 10, 2 * L2_TILE - 1: 30_000}
        self.sums[list(values)] = list(values.values())
        found = self.sweep(10)
        assert found == {RANGE_SIZE + place: 0.5 * value for place, value in values.items() if value != 9}
        assert not self.sums.any()

    def test_only_its_strip(self):
        self.sums[[L2_TILE - 1, 2 * L2_TILE]] = 99
        assert self.sweep(1) == {}
        assert self.sums[[L2_TILE - 1, 2 * L2_TILE]].tolist() == [99, 99]

    def test_room(self):
        """A chunk's room counts for its units; where it is as much as is asked for, they all are candidates."""
        room = np.zeros(RANGE_BLOCKS, np.int64)
        room[L2_TILE // BLOCK_SIZE + 1], room[L2_TILE // BLOCK_SIZE + 3] = 4, 10
        self.sums[L2_TILE : L2_TILE + 2 * BLOCK_SIZE] = 6
        found = self.sweep(10, room)
        assert set(found) == {
            RANGE_SIZE + L2_TILE + BLOCK_SIZE * chunk + i for chunk in (1, 3) for i in range(BLOCK_SIZE)
        }
        assert found[RANGE_SIZE + L2_TILE + BLOCK_SIZE] == 3.0
        assert found[RANGE_SIZE + L2_TILE + 3 * BLOCK_SIZE] == 0.0

    def test_filter(self):
        """Places beyond the filter are those of no unit."""
        padded = np.ones(L2_TILE + 4 * BLOCK_SIZE, np.bool_)
        padded[L2_TILE + 2] = False
        padded[L2_TILE + 3 * BLOCK_SIZE + 5 :] = False
        passing = padded[: L2_TILE + 3 * BLOCK_SIZE + 5]
        room = np.zeros(RANGE_BLOCKS, np.int64)
        room[L2_TILE // BLOCK_SIZE + 3] = 1
        self.sums[L2_TILE : L2_TILE + 3] = 1
        found = self.sweep(1, room, passing, first_unit=0)
        assert sorted(found) == [L2_TILE, L2_TILE + 1, *range(L2_TILE + 3 * BLOCK_SIZE, L2_TILE + 3 * BLOCK_SIZE + 5)]


@QUICK
@given(
    data=st.data(),
    units=st.sampled_from([1, 63, 64, 65, 1000, RANGE_SIZE]),
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
        places + np.uint32(RANGE_SIZE), scores, 0.5, np.uint64(before), np.uint64(before + postings.size),
        np.concatenate([others[:before], postings, others[before:]]),
        np.concatenate([np.full(before, 9), dense[has], np.full(after, 7)]).astype(np.uint8),
    )  # fmt: skip
    assert scores.tolist() == expected.tolist()


def test_gain():
    """More where few units reach the threshold and many postings are added in few runs."""
    starts = np.array([[0, 4000], [4000, 4100]], np.uint64)

    def gain(scored, dense=True, sparse=False, starts=starts):
        return coarse.gain_of(2, RANGE_SIZE, 0, starts, dense, sparse, scored)

    assert gain(10.0) > 0 > gain(1000.0)
    assert gain(10.0) - gain(20.0) == pytest.approx(10 * 2 * coarse.COST_LOOKUP)
    assert gain(10.0, dense=False) > gain(10.0, dense=False, sparse=True)
    assert gain(10.0, dense=False, sparse=True, starts=starts // np.uint64(100)) < 0
    few, many = gain(10.0), gain(10.0, starts=np.array([[0, 4000], [4000, 8000]], np.uint64))
    assert many - few == pytest.approx(coarse.SAVED_RUN * (32 - 4 - (4 - 1)))


class TestCandidates:
    """Two terms, one of them in every unit, in the second window of a segment of two."""

    def setup_method(self):
        rng = np.random.default_rng(2)
        self.length = RANGE_SIZE - BLOCK_SIZE - 7
        rare = np.sort(rng.choice(self.length, 3000, replace=False)).astype(np.uint16)
        self.units = np.concatenate([np.arange(self.length, dtype=np.uint16), rare])
        self.impacts = np.concatenate([np.full(self.length, 5), rng.integers(1, 256, rare.size)]).astype(np.uint8)
        self.starts = np.array([[0, 0, self.length], [self.length, self.length, self.units.size]], np.uint64)
        self.used = np.array([1.0, 2.0])
        self.scores = np.full(self.length, 5.0)
        self.scores[rare] += 2.0 * self.impacts[self.length :]
        self.without = self.scores - 5.0
        self.weights = np.empty(2, np.int64)
        self.step = coarse.round_up(2, np.array([0.0, 5.0 + 2.0 * 255]), self.used, self.weights)
        self.found = np.empty(RANGE_SIZE), np.empty(RANGE_SIZE, np.uint32)

    def gather(self, bar, postponed=0, room=(), most=1e9, left=0):
        self.sums = np.zeros(RANGE_SIZE, np.uint16)
        self.sums[self.length :] = left
        turns = np.array([0, late.NEVER])
        return coarse.gather_coarse(
            1, np.int64(2), self.length, RANGE_SIZE, postponed, turns, np.empty(2, np.int64), self.weights, self.sums,
            bar, self.step, np.array(room, np.int64), self.starts, self.starts[:, 1].copy(), self.units, self.impacts,
            ALL, *self.found, most,
        )  # fmt: skip

    def test_gathered(self):
        count, seen, completed = self.gather(400.0)
        places = self.found[1][:count] - RANGE_SIZE
        assert (seen, completed) == (self.length, True)
        assert set(np.flatnonzero(self.scores >= 400.0)) <= set(places.tolist())
        assert count < 1.05 * (self.scores >= 400.0).sum()
        assert (self.found[0][:count] >= self.scores[places]).all()
        assert not self.sums.any()

    def test_postponed(self):
        """Without the term that is postponed nothing reaches more than the other one gives."""
        assert self.gather(2.0 * 255 + 3.0, postponed=1)[0] == 0
        most = (self.without >= 480.0).sum()
        assert most <= self.gather(485.0, postponed=1, room=np.full(RANGE_BLOCKS, 5 * self.weights[0]))[0] < 1.1 * most

    def test_sums_of_no_unit(self):
        """What damaged postings have left there makes no candidates: a filter has no place for them."""
        assert self.gather(400.0, left=65535)[0] == self.gather(400.0)[0]

    def test_given_up(self):
        count, seen, completed = self.gather(1.0, most=100)
        assert (count, seen, completed) == (L2_TILE, L2_TILE, False)
        assert not self.sums.any()

    @pytest.mark.parametrize("postponed", [0, 1])
    @pytest.mark.parametrize("beat", [False, True])
    def test_scored(self, postponed, beat):
        bar = np.sort(self.scores)[-50]
        row = np.full((1, 2 * RANGE_BLOCKS - 2), 5, np.uint8)  # of the term that is in every unit
        starts = np.arange(2 * RANGE_BLOCKS - 2) * BLOCK_SIZE % RANGE_SIZE
        spans, offsets = (
            starts[::SUPERBLOCK_BLOCKS][None].astype(np.uint16),
            (starts % (SUPERBLOCK_BLOCKS * BLOCK_SIZE))[None].astype(np.uint8),
        )
        room = np.zeros(RANGE_BLOCKS, np.int64)
        if postponed:
            late.make_room(1, np.zeros(1, np.int64), np.zeros(1, np.int64), self.weights, row, room)
        count, _, _ = self.gather(bar - 30.0, postponed, room if postponed else ())
        scores, places = self.found
        order, rows, turns = np.zeros(postponed, np.int64), np.zeros(1, np.int64), np.array([0, late.NEVER])
        scored, kept = coarse.score_gathered(
            scores[:count], places[:count], 2, 1, turns, order, rows, self.used, np.array([1, 2]), self.starts, 1.0,
            bar, beat, row, spans, offsets, self.units, self.impacts, np.empty(0, np.uint32), room,
        )  # fmt: skip
        wanted = np.flatnonzero(self.scores > bar if beat else self.scores >= bar)
        assert places[:kept].tolist() == (wanted + RANGE_SIZE).tolist()
        assert scores[:kept].tolist() == self.scores[wanted].tolist()
        assert scored < count if postponed else scored == count


@LARGE
class TestExact:
    @pytest.mark.parametrize("k", [1, 300])
    def test_ties(self, tmp_path, k):
        """Where most units score alike, or nearly, coarse sums leave nearly all of them: it goes on in full."""
        rng = np.random.default_rng(1)
        impacts = rng.choice([0, 40, 41], (3 * RANGE_SIZE + 100, 2), p=[0.2, 0.4, 0.4])
        index = write_index(tmp_path / "index", impacts, batch=50_000)
        scorer = coarse_scan_of(index)
        for weights in ([1.0, 1.0], [0.7, 1e-6], [1e6, 0.3]):
            found, scores = index.search_vector(([0, 1], weights), k)
            assert (found.tolist(), scores.tolist()) == top_k(impacts, [0, 1], weights, k, index.manifest.scale)
            assert not scorer._workspaces.mine._of_segment["coarse_sums"].any()

    @pytest.mark.parametrize("terms", [1, 20, 150])
    def test_number_of_terms(self, tmp_path, terms):
        rng = np.random.default_rng(terms)
        units = 2 * RANGE_SIZE + 77
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
        impacts = rng.integers(1, 256, (2 * RANGE_SIZE + 5, 4)) * (
            rng.random((2 * RANGE_SIZE + 5, 4)) < [0.3, 0.1, 0.01, 1e-4]
        )
        index = write_index(tmp_path / "index", impacts, batch=50_000, block_max=False)
        coarse_scan_of(index)
        for k in (1, 10, 1000):
            found, scores = index.search_vector((range(4), [0.2, 0.5, 1.0, 2.0]), k)
            assert (found.tolist(), scores.tolist()) == top_k(impacts, range(4), [0.2, 0.5, 1.0, 2.0], k, 1.0)

    def test_candidates_do_not_pile_up(self, tmp_path):
        """Where each window has better units than those before, the threshold rises with them."""
        rng = np.random.default_rng(6)
        impacts = (rng.integers(1, 30, (6 * RANGE_SIZE, 1)) * (rng.random((6 * RANGE_SIZE, 1)) < 0.01)).astype(np.uint8)
        for w in range(6):
            impacts[w * RANGE_SIZE + 5 : w * RANGE_SIZE + 205] = 60 + 20 * w
        index = write_index(tmp_path / "index", impacts, batch=50_000)
        scorer = coarse_scan_of(index)
        assert index.search_vector(([0], [1.0]), 1)[0].tolist() == [5 * RANGE_SIZE + 5]
        assert scorer._workspaces.mine.state[FOUND] <= 2 + visit.SLACK_FOUND

    @pytest.mark.parametrize("half", ["first", "last", "best"])
    def test_filters(self, tmp_path, half):
        """Windows in which nothing passes are left out, and units that do not are no candidates."""
        rng = np.random.default_rng(7)
        impacts = rng.integers(1, 60, (5 * RANGE_SIZE + 9, 3)) * (
            rng.random((5 * RANGE_SIZE + 9, 3)) < [0.3, 0.05, 0.01]
        )
        allowed = np.arange(len(impacts)) < len(impacts) // 2
        if half == "first":
            allowed = ~allowed
        elif half == "best":
            allowed = rng.random(len(impacts)) < 0.55
            impacts[~allowed] *= 4
        index = write_index(tmp_path / "index", impacts, batch=50_000)
        for index._scorer.by_kernels.sums in (coarse.EITHER, coarse.COARSE, coarse.FULL):
            for k in (1, 100):
                assert_exact(index, impacts, range(3), [0.3, 1.0, 1.5], k, allowed)


@LARGE
@pytest.mark.parametrize("filtered", [False, True])
def test_postings_in_a_wrong_order_are_not_read_through(tmp_path, filtered):
    """Postings that go back to strips which have been swept leave sums where the last window has no unit."""
    rng = np.random.default_rng(12)
    units = 2 * RANGE_SIZE + 69
    impacts = rng.integers(1, 50, (units, 1)) * (rng.random((units, 1)) < 0.3)
    index = write_index(tmp_path / "index", impacts, batch=50_000)
    segment = index.segments[0].segment
    for name in ("posting_units", "posting_impacts", "term_checksums"):
        setattr(segment, name, getattr(segment, name).copy())
    first, end = segment.block_postings[1:3].tolist()
    later = first + int(np.searchsorted(segment.posting_units[first:end].astype(int), RANGE_SIZE - 4000))
    segment.posting_units[later : later + 2] = 1500, L2_TILE + 1500
    segment.posting_impacts[later : later + 2] = 255
    segment.term_checksums[0] = checksum(segment.posting_units, segment.posting_impacts)
    scorer = SegmentScorer(segment)
    scorer.way, scorer.sums = visit.BY_POSTINGS, coarse.COARSE
    allowed = AllowedUnits.of(np.arange(units) != 7, segment.original) if filtered else None
    found, scores = scorer.search([0], np.ones(1, np.float32), 2000, allowed)
    assert found.max() < units
    assert scores.max() < 50
    assert scorer._workspaces.mine._of_segment["coarse_sums"][L2_TILE + 1500] > 0  # it has come that far


@pytest.fixture
def small_windows(tmp_path, monkeypatch):
    """An index of two windows; a scan without the compiler, and what it has called: names, and what of interest."""
    rng = np.random.default_rng(10)
    density, units = np.array([0.3, 0.2, 0.02, 0.01]), RANGE_SIZE + 5003
    impacts = rng.integers(1, 256, (units, 4)) * (rng.random((units, 4)) < density)
    impacts[-1] = 255
    impacts[RANGE_SIZE + 50 : RANGE_SIZE + 53] = [255, 255, 120, 120]
    index = write_index(tmp_path / "index", impacts, batch=10_000)
    index._scorer.by_kernels.way = visit.BY_POSTINGS
    calls = []

    def gather_coarse(*args):
        found, seen, completed = coarse.gather_coarse(*args)
        calls.append(("gather", int(found)))
        return found, seen, completed

    def score_gathered(*args):
        calls.append(("score", args[5].size))
        return coarse.score_gathered(*args)

    def lift(*args):
        calls.append(("lift", int(args[6])))
        return scan_lift(*args)

    scan_lift = scan.lift
    for function in (gather_coarse, score_gathered, lift):
        monkeypatch.setattr(scan, function.__name__, function)
    return index, impacts, calls


@pytest.mark.skipif(not NO_JIT, reason="compiled kernels hold what is replaced here")
class TestWithoutTheCompiler:
    @pytest.mark.parametrize(("far_more", "postponed"), [(1e9, 0), (1e9, 2), (0.0, 0)])
    def test_exact(self, small_windows, monkeypatch, far_more, postponed):
        """The second window by coarse sums, with and without terms that are postponed; and given up."""
        index, impacts, calls = small_windows
        index._scorer.by_kernels.sums = coarse.COARSE
        monkeypatch.setattr(scan, "far_more", lambda expected: far_more)
        monkeypatch.setattr(scan, "postpones", lambda *_: postponed > 0)
        monkeypatch.setattr(scan, "how_many", lambda *args: (np.int64(postponed), args[4], 1.0))
        for weights in ([0.02, 0.03, 1.0, 1.5], [0.5, 0.5, 1.0, 1.0]):
            for allowed in (None, np.arange(len(impacts)) % 5 > 0):
                calls.clear()
                found, scores = index.search_vector((range(4), weights), 100, allowed=allowed)
                expected = top_k(impacts, range(4), weights, 100, index.manifest.scale, allowed)
                assert (found.tolist(), scores.tolist()) == expected
                gathered = [count for name, count in calls if name == "gather"]
                assert len(gathered) == 1
                if far_more:
                    assert calls[-2:] == [("score", postponed), ("lift", len(impacts))]
                    assert gathered[0] < (3000 if postponed else 300)
                else:
                    assert ("score", postponed) not in calls

    @pytest.mark.parametrize("k", [10, 3000])
    def test_what_is_cheaper(self, small_windows, k):
        """Coarse sums for few results of many postings, which are more than those of a last part of a window."""
        index, _, calls = small_windows
        index.search_vector((range(4), [0.5, 0.5, 1.0, 1.0]), k)
        assert [name for name, _ in calls if name == "gather"] == (["gather"] if k == 10 else [])

    def test_learning(self, tmp_path, monkeypatch):
        """After a window that was given up more candidates are expected, and fewer after one with full sums."""
        rng = np.random.default_rng(3)
        # As many postings in each window, so that nothing tells that the second is richer.
        lowest = np.repeat([1, 230, 1, 1], RANGE_SIZE)[:, None]
        impacts = rng.integers(lowest, 256, (4 * RANGE_SIZE, 1)) * (rng.random((4 * RANGE_SIZE, 1)) < 0.01)
        index = write_index(tmp_path / "index", impacts, batch=50_000)
        index._scorer.by_kernels.way = visit.BY_POSTINGS
        excesses = []

        def plan(*args):
            likely, scored = args[8], args[10]
            excesses.append(scored / likely)
            return len(excesses) == 1, np.int64(0), likely

        monkeypatch.setattr(scan, "plan", plan)
        monkeypatch.setattr(scan, "far_more", lambda expected: 0.0)
        assert index.search_vector(([0], [1.0]), 50)[0].tolist() == top_k(impacts, [0], [1.0], 50)[0]
        assert excesses[0] == 1.0
        assert excesses[1] > 2.0
        assert excesses[2] == pytest.approx(excesses[1] / 2)

    def test_windows_that_are_left_out(self, tmp_path, monkeypatch):
        """Those in which nothing passes, and those whose best can at most equal what earlier units have."""
        impacts = (
            np.random.default_rng(3).integers(1, 9, (4 * RANGE_SIZE, 2))
            * (np.arange(4 * RANGE_SIZE) % 300 == 0)[:, None]
        )
        impacts[:, 1] = np.minimum(impacts[:, 1], 1)
        index = write_index(tmp_path / "index", impacts, batch=50_000)
        index._scorer.by_kernels.way = visit.BY_POSTINGS
        planned = []

        def plan(*args):
            planned.append(args[2])
            return scan_plan(*args)

        scan_plan = scan.plan
        monkeypatch.setattr(scan, "plan", plan)
        in_two = np.isin(np.arange(4 * RANGE_SIZE) // RANGE_SIZE, [0, 3])
        for term, allowed, windows in ((0, None, [1, 2, 3]), (0, in_two, [3]), (1, None, [])):
            planned.clear()
            found, _ = index.search_vector(([term], [1.0]), 100, allowed=allowed)
            assert found.tolist() == top_k(impacts, [term], [1.0], 100, 1.0, allowed)[0]
            assert planned == windows


class TestLearning:
    """What is done in the windows of a scan, by what the one before has found."""

    def plan(self, likely, scored, kind=coarse.EITHER, step=1e-4):
        starts = np.array([[0, 4000], [4000, 12_000]], np.uint64)
        return scan.plan(
            2,
            RANGE_SIZE,
            0,
            starts,
            True,
            False,
            np.empty(0, np.int64),
            np.ones(2),
            likely,
            1.0,
            scored,
            1.0,
            step,
            kind,
        )

    def test_plan(self):
        assert self.plan(10.0, 10.0) == (True, 0, 10.0)
        assert self.plan(10.0, 2000.0) == (False, 0, 10.0)
        assert self.plan(10.0, 2000.0, coarse.COARSE) == (True, 0, 10.0)
        assert self.plan(10.0, 10.0, step=0.0) == (False, 0, 10.0)
