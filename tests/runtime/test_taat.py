"""What the scan leaves out: frequent terms are postponed, the threshold is guessed, and sums are of 16 bits where these
are enough. Answers stay exact.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splade_edge.runtime.index.checksum import checksum
from splade_edge.runtime.numba_support import simd
from splade_edge.runtime.numba_support.cache import inline_kernel
from splade_edge.runtime.scorer import BLOCK_SIZE, RANGE_SIZE, SUPERBLOCK_BLOCKS
from splade_edge.runtime.scorer import block_max as visit
from splade_edge.runtime.scorer import maxscore as late
from splade_edge.runtime.scorer import taat as scan
from splade_edge.runtime.scorer import threshold as guess
from splade_edge.runtime.scorer import upper_bounds16 as coarse
from splade_edge.runtime.scorer.block_max_bounds import RANGE_BLOCKS
from splade_edge.runtime.scorer.numba_backend import SCANS_A_MISS, SegmentScorer

from tests.oracle import assert_exact, top_k, write_index

NO_JIT = os.environ.get("NUMBA_DISABLE_JIT") == "1"
LARGE = pytest.mark.skipif(NO_JIT, reason="takes minutes without the compiler")
QUICK = settings(max_examples=15 if NO_JIT else 60, deadline=None)


@inline_kernel
def use_equal_to(values, first, value):
    return simd.equal_to(values, first, value)


@inline_kernel
def use_equal_to_few(values, first, value):
    return simd.equal_to_few(values, first, value)


def scan_of(index):
    """The index's scorer, which shall scan."""
    index._scorer.by_kernels.way = visit.BY_POSTINGS
    return index._scorer.by_kernels


class TestGuess:
    @pytest.mark.parametrize("k", [1, 10, 1000])
    @pytest.mark.parametrize("share", [0.001, 0.1, 0.9])
    @pytest.mark.parametrize("spread", [1.0, 7.5])
    def test_rank_to_keep(self, k, share, spread):
        units = 1_000_000
        r = guess.rank_to_keep(k, int(share * units), units, spread)
        assert r - guess.DEVIATIONS * np.sqrt(spread * (1 - share) * r) == pytest.approx(k * share)

    def test_rank_is_k_when_all_units_have_been_seen(self):
        assert guess.rank_to_keep(10, 500, 500, 3.0) == pytest.approx(10)

    @QUICK
    @given(st.lists(st.integers(0, 9999), min_size=1, max_size=500))
    def test_spread(self, places):
        counts = np.bincount(np.array(places) * guess.PARTS // 10_000, minlength=guess.PARTS)
        found = guess.spread_of(np.array(places, np.uint32), 10_000, np.empty(guess.PARTS, np.int64))
        assert found == pytest.approx(max(1.0, counts.var(ddof=1) / counts.mean()))

    def test_promise(self):
        """By postings a unit, times weight; the last window has fewer units."""
        units = 3 * RANGE_SIZE + RANGE_SIZE // 4
        per_window = np.array([[1000, 2000, 1000, 250], [400, 800, 400, 100]])
        starts = np.zeros((2, 5), np.uint64)
        starts[:, 1:] = per_window.cumsum(1)
        promise = np.empty(4)
        guess.find_promise(2, units, np.array([2.0, 1.0]), starts, promise)
        assert promise / promise[0] == pytest.approx([1, 2**guess.POWER, 1, 0.25])
        assert guess.most_promising(promise) == 1
        promise[1] = 0.0
        assert guess.most_promising(promise) == 0
        guess.find_promise(1, units, np.array([2.0]), np.array([[0, 0, 0, 7, 7]], np.uint64), promise)
        assert (promise > 0).all()
        assert guess.most_promising(promise) == 2

    @pytest.mark.parametrize("best", ["anywhere", "begin", "first", "last", "together"])
    def test_exact_in_any_order(self, tmp_path, best):
        """Where all the best lie in what is seen before the first guess, it is too high."""
        rng = np.random.default_rng(3)
        k = 100
        impacts = rng.integers(10, 200, (40_000, 3)) * (rng.random((40_000, 3)) < 0.4)
        order = np.argsort(impacts.sum(1), kind="stable")
        if best == "begin":
            impacts[10_000:] //= 10
        elif best == "first":
            impacts = impacts[order[::-1]]
        elif best == "last":
            impacts = impacts[order]
        elif best == "together":
            impacts[12_000:12_400] = rng.integers(150, 256, (400, 3))
        index = write_index(tmp_path / "index", impacts, batch=10_000)
        scorer = scan_of(index)
        found, scores = index.search_vector(([0, 1, 2], [0.7, 0.9, 1.1]), k)
        expected = top_k(impacts, [0, 1, 2], [0.7, 0.9, 1.1], k, index.manifest.scale)
        assert (found.tolist(), scores.tolist()) == expected
        assert scorer._guess_from == (1 + SCANS_A_MISS if best == "begin" else 0)
        for k in (1, 7, 1000):
            assert_exact(index, impacts, [0, 2], [0.3, 1.7], k)

    def test_guesses_again_after_a_miss(self, tmp_path):
        index, _ = self.best_first(tmp_path)
        scorer = scan_of(index)
        guesses = []
        for _ in range(SCANS_A_MISS + 2):
            index.search_vector(([0, 1], [1.0, 0.3]), 300)
            guesses.append(scorer._guess_from)
        assert guesses == [1 + SCANS_A_MISS] * SCANS_A_MISS + [1 + 2 * SCANS_A_MISS] * 2

    def best_first(self, tmp_path, **options):
        """An index for which the first guess is too high."""
        impacts = np.random.default_rng(4).integers(100, 256, (20_000, 2))
        impacts[10_000:] //= 10
        return write_index(tmp_path / "index", impacts, batch=10_000, **options), impacts

    def test_no_guess_with_a_filter(self, tmp_path):
        index, impacts = self.best_first(tmp_path)
        allowed = np.arange(20_000) != 77
        assert_exact(index, impacts, [0, 1], [1.0, 0.3], 300, allowed)
        assert index._scorer.by_kernels._guess_from == 0

    @LARGE
    def test_no_guess_where_units_are_reordered(self, tmp_path):
        index, impacts = self.best_first(tmp_path, reorder=True)
        assert_exact(index, impacts, [0, 1], [1.0, 0.3], 300)
        assert index._scorer.by_kernels._guess_from == 0

    def test_ties_at_a_guess(self, tmp_path):
        """Where all that match score alike, the guess is their score; the best are the first k, more than it keeps."""
        rng = np.random.default_rng(8)
        impacts = 30 * (rng.random((30_000, 1)) < 0.125)
        index = write_index(tmp_path / "index", impacts, batch=10_000)
        scorer = scan_of(index)
        documents, _ = index.search_vector(([0], [0.3]), 1000)
        assert documents.tolist() == np.flatnonzero(impacts)[:1000].tolist()
        assert scorer._guess_from == 1 + SCANS_A_MISS

    @pytest.mark.parametrize("k", [50, 300, 1000])
    def test_few_scores(self, tmp_path, k):
        """Where many score alike, those that equal a guess may be among the best."""
        impacts = np.random.default_rng(9).integers(0, 4, (30_000, 3))
        index = write_index(tmp_path / "index", impacts, batch=10_000)
        for terms in ([0], [0, 1], [0, 1, 2]):
            assert_exact(index, impacts, terms, np.ones(len(terms)), k)


@pytest.fixture(scope="module")
def five_windows(tmp_path_factory):
    """(index, impacts) of five windows and a part of a chunk; the last term has the same impact everywhere."""
    rng = np.random.default_rng(5)
    units = 5 * RANGE_SIZE + BLOCK_SIZE + 5
    density = np.array([0.6, 0.4, 0.2, 0.1, 0.1, 0.05, 0.02, 0.01, 0.003, 0.0005, 0.3])
    impacts = np.minimum(255, 1 + rng.exponential(25, (units, density.size))).astype(np.uint8)
    impacts[:, -1] = 30
    impacts *= rng.random(impacts.shape) < density
    impacts[-1, :9] = 200  # the last unit of all is the best
    impacts[3 * RANGE_SIZE + 777] = [255] * 5 + [0, 0, 60, 0, 0, 0]  # one of the best by its frequent terms
    return write_index(tmp_path_factory.mktemp("windows") / "index", impacts, batch=50_000), impacts


@pytest.fixture(params=[coarse.EITHER, coarse.COARSE, coarse.FULL], ids=["either", "coarse", "full"])
def windows(request, five_windows):
    """The same, of whose scorer the kind of sums is set."""
    five_windows[0]._scorer.by_kernels.sums = request.param
    return five_windows


@LARGE
class TestPostponed:
    @pytest.mark.parametrize("k", [1, 10, 100, 1000])
    def test_exact(self, windows, k):
        index, impacts = windows
        rng = np.random.default_rng(k)
        for terms in (range(11), [0, 1, 7, 8], [2, 5, 6, 9], [0, 10], [10]):
            for weights in (rng.uniform(0.01, 3, len(terms)), rng.integers(1, 4, len(terms))):
                assert_exact(index, impacts, list(terms), np.asarray(weights, np.float32), k)

    @pytest.mark.parametrize("passing", [0.5, 0.01, "last", "ends"])
    def test_filters(self, windows, passing):
        index, impacts = windows
        allowed = np.random.default_rng(6).random(len(impacts)) < (passing if isinstance(passing, float) else 0)
        if passing == "last":
            allowed[-BLOCK_SIZE:] = True
        elif passing == "ends":
            allowed[:3000] = allowed[-3000:] = True
        for k in (10, 1000):
            assert_exact(index, impacts, [0, 1, 6, 7], np.array([0.05, 0.1, 1.0, 1.5], np.float32), k, allowed)

    def test_frequent_terms_can_decide(self, windows):
        """A unit that has little of the others, and needs all of the five that are postponed."""
        index, impacts = windows
        scan_of(index)
        terms, weights = [0, 1, 2, 3, 4, 7, 8], [0.1] * 5 + [1.0] * 2
        documents, scores = index.search_vector((terms, weights), 10)
        assert (documents.tolist(), scores.tolist()) == top_k(impacts, terms, weights, 10, index.manifest.scale)
        assert 3 * RANGE_SIZE + 777 in documents.tolist()

    @pytest.mark.parametrize("k", [10, 1000])
    def test_far_more_candidates_than_expected(self, tmp_path, k):
        """The last two windows are far richer than the others: in most of them nothing is postponed."""
        rng = np.random.default_rng(11)
        units, density = 6 * RANGE_SIZE, np.array([0.5, 0.3, 0.2, 0.02, 0.01])
        values = 1 + rng.exponential(4, (units, 5))
        values[4 * RANGE_SIZE :] *= 8
        impacts = (np.minimum(255, values) * (rng.random((units, 5)) < density)).astype(np.uint8)
        index = write_index(tmp_path / "index", impacts, batch=50_000)
        for index._scorer.by_kernels.sums in (coarse.EITHER, coarse.COARSE, coarse.FULL):
            for weights in ([0.1, 0.1, 0.1, 1.0, 1.5], [0.03, 0.03, 0.03, 1.0, 1.0]):
                assert_exact(index, impacts, range(5), weights, k)

    def test_floors(self, windows):
        index, impacts = windows
        scorer = scan_of(index)
        terms, weights = [0, 1, 6, 7], [0.05, 0.1, 1.0, 1.5]
        expected, expected_scores = top_k(impacts, terms, weights, 2000, 1.0)
        for at in (3, 150, 1500):
            floor = expected_scores[at]
            wanted = sum(score >= floor for score in expected_scores)
            units, scores = scorer.search(terms, np.float32(weights), 2000, floor=floor)
            assert units.tolist() == expected[:wanted]
            assert scores.tolist() == expected_scores[:wanted]

    def test_terms_are_postponed_where_they_add_little(self, windows):
        index, _ = windows
        scorer = scan_of(index)
        for weight, postponed in ((0.02, True), (20.0, False)):
            index.search_vector(([0, 6, 7], [weight, 1.0, 1.0]), 100)
            room = scorer._workspaces.mine._of_segment["room"]
            assert room.any() == postponed
            room[:] = 0
        assert scorer.latest_way == visit.BY_POSTINGS

    def test_reordered(self, tmp_path, five_windows):
        _, impacts = five_windows
        impacts = impacts[: 4 * RANGE_SIZE + 999]
        index = write_index(tmp_path / "index", impacts, batch=50_000, reorder=True)
        weights = np.array([0.02, 0.1, 1.0, 1.5, 0.3], np.float32)
        for index._scorer.by_kernels.sums in (coarse.EITHER, coarse.COARSE, coarse.FULL):
            for k in (10, 1000):
                assert_exact(index, impacts, [0, 1, 6, 7, 10], weights, k)


@pytest.mark.skipif(not NO_JIT, reason="compiled kernels hold these constants")
def test_postponed_without_the_compiler(tmp_path, monkeypatch):
    monkeypatch.setattr(late, "LEAST_WINDOWS", 2)
    monkeypatch.setattr(late, "COST_WINDOW", -np.inf)
    rng = np.random.default_rng(10)
    density, units = np.array([0.3, 0.2, 0.02, 0.01]), RANGE_SIZE + 5000
    impacts = rng.integers(1, 256, (units, 4)) * (rng.random((units, 4)) < density)
    impacts[-1] = 255
    impacts[RANGE_SIZE + 50 : RANGE_SIZE + 53] = [255, 255, 120, 120]  # among the best by the terms that are postponed
    index = write_index(tmp_path / "index", impacts, batch=10_000)
    scorer = scan_of(index)
    scorer.sums = coarse.FULL
    room = scorer._workspaces.mine._of_segment["room"]
    resumed = []

    def resume(*args):
        resumed.append(args)
        return late.resume(*args)

    monkeypatch.setattr(scan, "resume", resume)
    for far_more in (1e9, 0.0):  # or nothing is postponed after the first strip with a candidate
        monkeypatch.setattr(scan, "far_more", lambda expected, most=far_more: most)
        for weights in ([0.02, 0.03, 1.0, 1.5], [0.5, 0.5, 1.0, 1.0]):
            for allowed in (None, np.arange(len(impacts)) % 5 > 0):
                room[:] = 0
                found, scores = index.search_vector((range(4), weights), 100, allowed=allowed)
                assert room.any()
                expected = top_k(impacts, range(4), weights, 100, index.manifest.scale, allowed)
                assert (found.tolist(), scores.tolist()) == expected
        assert len(resumed) == (4 if far_more == 0.0 else 0)


@LARGE
def test_postings_in_a_wrong_order_are_not_read_through(tmp_path):
    """A posting that goes back to a strip which has been swept leaves a sum where the last window has no unit."""
    rng = np.random.default_rng(12)
    units = RANGE_SIZE + 69
    impacts = rng.integers(1, 50, (units, 1)) * (rng.random((units, 1)) < 0.3)
    index = write_index(tmp_path / "index", impacts, batch=10_000, reorder=True, block_max=False)
    segment = index.segments[0].segment
    for name in ("posting_units", "posting_impacts", "term_checksums"):
        setattr(segment, name, getattr(segment, name).copy())
    later = np.searchsorted(segment.posting_units[: segment.block_postings[1]], RANGE_SIZE - 4000)
    segment.posting_units[later], segment.posting_impacts[later] = 3 * (RANGE_SIZE // 4) + 1500, 255
    segment.term_checksums[0] = checksum(segment.posting_units, segment.posting_impacts)
    scorer = SegmentScorer(segment)
    scorer.way = visit.BY_POSTINGS
    found, scores = scorer.search([0], np.ones(1, np.float32), 2000)
    assert found.max() < units
    assert scores.max() < 50


class TestLookUp:
    @QUICK
    @given(
        data=st.data(),
        units=st.sampled_from([1, 63, 64, 65, 1000, RANGE_SIZE - 3]),
        density=st.sampled_from([0.01, 0.2, 1.0]),
    )
    def test_look_up(self, data, units, density):
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        before = data.draw(st.integers(0, 40))  # postings of windows before
        has = rng.random(units) < density
        postings = np.flatnonzero(has).astype(np.uint16)
        dense = np.where(has, rng.integers(1, 256, units), 0)
        chunks = -(-units // BLOCK_SIZE)
        starts = np.searchsorted(postings.astype(np.int64), np.arange(chunks) * BLOCK_SIZE)
        spans = starts[::SUPERBLOCK_BLOCKS].astype(np.uint16)
        offsets = (starts - starts[::SUPERBLOCK_BLOCKS].repeat(SUPERBLOCK_BLOCKS)[:chunks]).astype(np.uint8)
        places = np.sort(rng.choice(units, min(units, 40), replace=False)).astype(np.uint32)
        scores = rng.random(places.size)
        expected = scores + 0.5 * dense[places]
        late.look_up(
            places, scores, 0.5, np.uint64(before), np.uint64(before + postings.size), spans, offsets,
            np.concatenate([np.zeros(before, np.uint16), postings]),
            np.concatenate([np.full(before, 9, np.uint8), dense[has].astype(np.uint8)]),
        )  # fmt: skip
        assert scores.tolist() == expected.tolist()

    @pytest.mark.parametrize(("equal_to", "count"), [(use_equal_to, simd.LANES), (use_equal_to_few, simd.FEW_LANES)])
    def test_equal_to(self, equal_to, count):
        values = np.array([5, 1, 5, 65535, *range(100, 100 + 2 * count)], np.uint16)
        assert equal_to(values, np.uint64(0), np.uint16(5)) == 0b101
        assert equal_to(values, np.uint64(1), np.uint16(65535)) == 0b100
        assert equal_to(values, np.uint64(4), np.uint16(99 + count)) == 1 << (count - 1)
        assert equal_to(values, np.uint64(4), np.uint16(100 + count)) == 0

    def test_room(self):
        maxima = np.random.default_rng(7).integers(0, 256, (3, RANGE_BLOCKS + 10)).astype(np.uint8)
        room = np.full(RANGE_BLOCKS, 99)
        late.make_room(1, np.array([4, 0]), np.array([2, 1]), np.array([10, 0, 0, 0, 3]), maxima, room)
        assert (
            room[:10].tolist()
            == (3 * maxima[2, RANGE_BLOCKS:].astype(int) + 10 * maxima[1, RANGE_BLOCKS:].astype(int)).tolist()
        )
        assert not room[10:].any()

    def test_keeping(self):
        scores = np.array([1.0, 3.0, 2.0, 2.5])
        places = np.array([0, 70, 71, RANGE_SIZE + 64], np.uint32)
        room = np.zeros(RANGE_BLOCKS, np.int64)
        room[1] = 2  # of units 64 to 127
        assert late.keep_hopeful(scores, places, 3.0, 0.25, room) == 2
        assert (scores[:2].tolist(), places[:2].tolist()) == ([3.0, 2.5], [70, RANGE_SIZE + 64])
        for beat, kept in ((False, [70]), (True, [])):
            scores, places = np.array([3.0, 2.5]), np.array([70, 5], np.uint32)
            count = late.keep_reaching(scores, places, 3.0, beat, np.empty(0, np.uint32))
            assert places[:count].tolist() == kept
        reversed_units = np.arange(100, dtype=np.uint32)[::-1].copy()
        scores, places = np.array([3.0, 1.0]), np.array([70, 100], np.uint32)  # 100 is the place of no unit
        assert late.keep_reaching(scores, places, 2.0, False, reversed_units) == 1
        assert places[0] == 29

    def test_line_up(self):
        """Those first that have many postings for what they add; terms without block-max data never."""
        kept, used = np.arange(4), np.array([1.0, 0.1, 1.0, 5.0])
        starts = np.array([[0] * 4 + [n] for n in (1000, 1000, 10, 9000)], np.uint64)
        rows, maxima = np.array([0, 1, -1, 2], np.int32), np.full((3, 100), 10, np.uint8)
        order, its_rows, turns, typical = (
            np.empty(16, np.int64),
            np.empty(16, np.int64),
            np.empty(4, np.int64),
            np.empty(4),
        )
        count = late.line_up(4, kept, used, starts, rows, maxima, order, its_rows, turns, typical, np.empty(64))
        assert count == 3
        assert order[:3].tolist() == [1, 3, 0]
        assert its_rows[:3].tolist() == [1, 2, 0]
        assert turns.tolist() == [2, 0, late.NEVER, 1]
        assert typical[[0, 1, 3]].tolist() == [10.0, 1.0, 50.0]

    def test_only_so_many_line_up(self):
        n = late.MOST_LATE + 5
        starts = np.zeros((n, 5), np.uint64)
        starts[:, 4] = np.arange(1, n + 1)
        order, rows, turns = np.empty(16, np.int64), np.empty(16, np.int64), np.empty(n, np.int64)
        count = late.line_up(
            n, np.arange(n), np.ones(n), starts, np.zeros(n, np.int32), np.ones((1, 300), np.uint8), order, rows, turns,
            np.empty(n), np.empty(64),
        )  # fmt: skip
        assert count == late.MOST_LATE
        assert order.tolist() == list(range(n - 1, 4, -1))
        assert (turns[:5] == late.NEVER).all()

    def test_how_many(self):
        """All that save more than looking up costs; none where many units reach the bar."""
        starts = np.array([[0, 20_000], [0, 10_000], [0, 500]], np.uint64)
        typical = np.array([1.0, 1.0, 200.0])
        order = np.arange(3)
        ask = (starts, 0)
        assert late.how_many(order, typical, *ask, 2.0, 1.0, 100.0, 4, 32)[0] == 2
        assert late.how_many(order, typical, *ask, 2.0, 1000.0, 100.0, 4, 32)[0] == 0
        assert late.how_many(order, typical, *ask, 5000.0, 1.0, 100.0, 4, 32) == (0, 5000.0, 0.0)
        assert late.how_many(order[:0], typical, *ask, 2.0, 1.0, 100.0, 4, 32) == (0, 2.0, 0.0)
        few, many = (late.how_many(order[:1], typical, *ask, 2.0, 1.0, 1e9, 4, runs)[2] for runs in (1, 32))
        assert many - few == pytest.approx(31 * late.COST_RUN)

    def test_learn(self):
        assert late.learn(1.0, 600, 100.0) == 3.0
        assert late.learn(1.0, 200, 100.0) == 1.0
        assert late.learn(4.0, 10, 100.0) == 2.0
        assert late.learn(1.5, 10, 100.0) == 1.0
        assert late.learn(60.0, 1e6, 100.0) == late.MOST_EXCESS
        assert late.forget(8.0) == 4.0
        assert late.forget(1.5) == 1.0

    def test_whether_terms_are_postponed(self):
        assert late.postpones(3 * RANGE_SIZE + 1, 0)
        assert late.postpones(4 * RANGE_SIZE, 2 * RANGE_SIZE)
        assert not late.postpones(3 * RANGE_SIZE, 0)
        assert not late.postpones(4 * RANGE_SIZE, 2 * RANGE_SIZE + 1)

    def test_resume(self):
        """The postponed terms go on with the first posting of a chunk or of a later one."""
        spans, offsets = (
            np.array([[0, 7], [0, 4]], np.uint16),
            np.array([[0, 3, 3, 5, 0, 2], [0, 1, 2, 3, 0, 1]], np.uint8),
        )
        starts, upcoming = np.array([[100, 120], [0, 0], [500, 507]], np.uint64), np.zeros(3, np.uint64)
        order = np.array([1, -1, -1])
        many = late.resume(np.array([2, 0]), np.array([1, 0]), 5, 0, starts, upcoming, spans, offsets, order, 1)
        assert many == 3
        assert order.tolist() == [1, 2, 0]
        assert upcoming.tolist() == [109, 0, 505]
