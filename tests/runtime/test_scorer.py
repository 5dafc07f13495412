"""The kernels against the naive oracle: exact scores, exact order, ties by insertion order, at every k."""

from __future__ import annotations

import os
import threading

import numba
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from splade_edge.runtime import measure_approximation
from splade_edge.runtime.errors import InputError
from splade_edge.runtime.numba_support import simd
from splade_edge.runtime.numba_support.cache import inline_kernel
from splade_edge.runtime.scorer import L1_TILE, L2_TILE, RANGE_SIZE
from splade_edge.runtime.scorer import block_max as visit
from splade_edge.runtime.scorer import block_max_bounds as bounds
from splade_edge.runtime.scorer import block_max_postings as chunks
from splade_edge.runtime.scorer import numba_backend as search
from splade_edge.runtime.scorer import taat as scan
from splade_edge.runtime.scorer import topk as sorting
from splade_edge.runtime.scorer import workspace as memory
from splade_edge.runtime.vectors import SparseVector

from tests.oracle import assert_exact, csr, top_k, write_index

NO_JIT = os.environ.get("NUMBA_DISABLE_JIT") == "1"
LARGE = pytest.mark.skipif(NO_JIT, reason="takes minutes without the compiler")
QUICK = settings(max_examples=15 if NO_JIT else 60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def assert_exact_once(index, impacts, allowed):
    found = index.search_vector(([0, 2], [0.3, 1.1]), 20, allowed=allowed)
    expected = top_k(impacts, [0, 2], [0.3, 1.1], 20, index.manifest.scale, allowed)
    assert (found[0].tolist(), found[1].tolist()) == expected


# Intrinsics can be called from kernels alone.
@inline_kernel
def use_at_least(sums, first, least):
    return simd.at_least(sums, first, least)


@inline_kernel
def use_at_least_of_bounds(values, first, least):
    return simd.at_least(values, first, least)


@inline_kernel
def use_lowest_bit(bits):
    return simd.lowest_bit(bits)


@inline_kernel
def use_count_bits(bits):
    return simd.count_bits(bits)


@inline_kernel
def use_clear(sums, first):
    simd.clear(sums, first)


# a score, the next above it, the next below it
ROUND = (float, lambda score: float(np.nextafter(score, np.inf)), lambda score: float(np.nextafter(score, 0)))


@st.composite
def collections(draw):
    """Small collections from shapes that have broken scorers: ties, giant lists, empty documents, extreme impacts."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    documents, vocab = draw(st.integers(1, 400)), draw(st.integers(1, 30))
    values = draw(st.sampled_from([(1, 2), (1, 4), (255, 256), (1, 256)]))
    density = draw(st.sampled_from([0.02, 0.3, 1.0]))
    impacts = rng.integers(*values, (documents, vocab)) * (rng.random((documents, vocab)) < density)
    if draw(st.booleans()):
        impacts[:, 0] = draw(st.sampled_from([1, 255]))  # a term in every document
    if draw(st.booleans()):
        impacts = np.repeat(impacts[:1], documents, axis=0)  # all documents alike
    return impacts


def queries(vocab):
    weight = st.one_of(
        st.floats(0.0078125, 4.0, width=32),
        st.integers(1, 32).map(float),
        st.sampled_from([1e-6, 1e6, 1e-30, 1e30, 0.0, 1.0]),
    )
    return st.dictionaries(st.integers(0, vocab - 1), weight, min_size=1, max_size=vocab)


class TestAgainstOracle:
    @QUICK
    @given(data=st.data(), impacts=collections())
    def test_every_k(self, data, impacts, tmp_path_factory):
        index = write_index(tmp_path_factory.mktemp("i") / "index", impacts)
        for query in data.draw(st.lists(queries(impacts.shape[1]), min_size=1, max_size=5)):
            for k in {1, 10, len(impacts), len(impacts) + 1, data.draw(st.integers(1, len(impacts)))}:
                assert_exact(index, impacts, list(query), list(query.values()), k)

    @LARGE
    @pytest.mark.parametrize("documents", [RANGE_SIZE - 1, RANGE_SIZE, RANGE_SIZE + 1, 3 * RANGE_SIZE])
    @pytest.mark.parametrize("density", [0.001, 0.5])
    def test_windows(self, tmp_path, documents, density):
        rng = np.random.default_rng(documents)
        impacts = (rng.integers(1, 256, (documents, 6)) * (rng.random((documents, 6)) < density)).astype(np.uint8)
        impacts[-1] = 255  # the last unit of the last window wins
        index = write_index(tmp_path / "index", impacts, batch=50_000)
        for terms in ([0], [0, 3], range(6)):
            weights = rng.uniform(0.01, 3, len(terms)).astype(np.float32)
            for k in (1, 10, 1000):
                assert_exact(index, impacts, terms, weights, k)

    @LARGE
    def test_equal_scores_overflow_the_candidates(self, tmp_path):
        # more equal documents than the candidate buffer holds, with weights that do not round exactly
        impacts = np.full((20_000, 3), 7, np.uint8)
        impacts[10_000] = 8
        index = write_index(tmp_path / "index", impacts)
        for weights in ([0.1, 0.7, 0.30000001], [1, 1, 1]):
            for k in (1, 2, 100, 5000):
                assert_exact(index, impacts, [0, 1, 2], weights, k)

    @LARGE
    def test_near_ties_overflow_the_candidates(self, tmp_path):
        # all accumulators are nearly equal, and only the exact score tells the documents apart
        left = np.random.default_rng(3).integers(1, 255, 20_000)
        impacts = np.stack([left, 255 - left, np.full_like(left, 200)], axis=1)
        index = write_index(tmp_path / "index", impacts)
        for weights in ([0.1, 0.1000001, 0.7], [0.1000001, 0.1, 0.7], [1.7, 1.705, 0.013], [3.01, 2.999, 1.3]):
            for k in (1, 10, 1500, 5000):
                assert_exact(index, impacts, [0, 1, 2], weights, k)

    def test_a_few_units_of_two_windows(self, tmp_path):
        rng = np.random.default_rng(7)
        impacts = np.zeros((RANGE_SIZE + 500, 3), np.uint8)
        rows = rng.choice(len(impacts), 300, replace=False)
        impacts[rows] = rng.integers(0, 255, (300, 3))
        impacts[[0, RANGE_SIZE - 1, RANGE_SIZE, len(impacts) - 1]] = 200
        for layout in ({}, {"block_max": False}):
            index = write_index(tmp_path / str(len(layout)), impacts, batch=50_000, **layout)
            for k in (1, 10, 500):
                assert_exact(index, impacts, [0, 1, 2], [0.3, 1.7, 0.8], k)

    @LARGE
    def test_sparse_windows_overflow_the_candidates(self, tmp_path):
        # few postings in each window, near ties all of them, more in all than the candidate buffer holds
        rng = np.random.default_rng(6)
        impacts = np.zeros((8 * RANGE_SIZE, 2), np.uint8)
        rows = np.sort(rng.choice(len(impacts), 8 * 1900, replace=False))
        impacts[rows, 0] = rng.integers(1, 255, rows.size)
        impacts[rows, 1] = 255 - impacts[rows, 0]
        index = write_index(tmp_path / "index", impacts, batch=100_000)
        for weights in ([0.1, 0.1000001], [0.1000001, 0.1], [1.0, 1.0]):
            for k in (1, 10, 4000, 20_000):
                assert_exact(index, impacts, [0, 1], weights, k)

    @LARGE
    def test_all_of_a_full_window(self, tmp_path):
        # every unit of a window is a candidate, and the best is its last
        rng = np.random.default_rng(8)
        impacts = rng.integers(1, 200, (RANGE_SIZE + 1000, 2)).astype(np.uint8)
        impacts[RANGE_SIZE - 1] = 255
        index = write_index(tmp_path / "index", impacts, batch=50_000)
        for k in (len(impacts), len(impacts) - 1, RANGE_SIZE):
            assert_exact(index, impacts, [0, 1], [0.37, 1.21], k)

    def test_rounding_that_swaps_two_documents(self, tmp_path):
        # one term each: the document that is barely better has the accumulator that rounding may push below the other's
        pairs = 50 if NO_JIT else 500
        impacts = np.zeros((2 * pairs, 2 * pairs), np.uint8)
        rest = np.random.default_rng(4).integers(100, 256, pairs)
        for i in range(pairs):
            impacts[2 * i, 2 * i], impacts[2 * i + 1, 2 * i + 1] = 255, rest[i]
        index = write_index(tmp_path / "index", impacts)
        for i, weight in enumerate(np.random.default_rng(5).uniform(0.1, 3, pairs)):
            for better in (1.0001, 0.9999):
                weights = [weight, weight * 255 / rest[i] * better]
                assert_exact(index, impacts, [2 * i, 2 * i + 1], weights, 1)

    @LARGE
    def test_ascending_scores_overflow_the_candidates(self, tmp_path):
        # every document beats all before it, so the threshold rises all the time
        impacts = np.arange(1, 255)[np.sort(np.random.default_rng(0).integers(0, 254, (30_000, 4)), axis=0)]
        index = write_index(tmp_path / "index", impacts)
        for k in (1, 10, 3000):
            assert_exact(index, impacts, [0, 1, 2, 3], [0.3, 1.7, 0.01, 2.2], k)

    @LARGE
    def test_many_terms(self, tmp_path):
        rng = np.random.default_rng(1)
        impacts = rng.integers(0, 256, (600, 700))
        index = write_index(tmp_path / "index", impacts)
        for weights in (np.full(700, 255.0), rng.lognormal(0, 3, 700), np.r_[1e6, np.full(699, 1e-6)]):
            assert_exact(index, impacts, np.arange(700), weights.astype(np.float32), 50)

    def test_sums_that_float64_rounds_are_not_added_as_integers(self, tmp_path):
        # below 2^53 steps of the smallest weight's last bit, integers are exact; beyond, only float64 rounds as told
        impacts = np.random.default_rng(2).integers(200, 256, (300, 3))
        index = write_index(tmp_path / "index", impacts)
        for exponent in range(16, 40):
            weights = np.float32([1.0000001, 1.2345678 * 2.0**exponent, 0.9999999])
            assert_exact(index, impacts, [0, 1, 2], weights, 300)

    def test_bounds_that_overflow_16_bits_are_no_bounds(self, tmp_path):
        rng = np.random.default_rng(3)
        impacts = np.full((5000, 40), 255)
        impacts[rng.random((5000, 40)) < 0.01] = 1
        index = write_index(tmp_path / "index", impacts)
        for weights in (np.ones(40), rng.uniform(0.5, 1, 40)):
            assert_exact(index, impacts, range(40), weights.astype(np.float32), 10)


class TestLayouts:
    """The same answers from every layout an index may have."""

    LAYOUTS = ({"block_max": False}, {"reorder": True}, {"reorder": True, "memory_bytes": 8 << 20})

    @QUICK
    @given(data=st.data(), impacts=collections(), layout=st.sampled_from(LAYOUTS))
    def test_every_k(self, data, impacts, layout, tmp_path_factory):
        index = write_index(tmp_path_factory.mktemp("i") / "index", impacts, **layout)
        index.check()
        allowed = np.random.default_rng(len(impacts)).random(len(impacts)) < 0.5
        for query in data.draw(st.lists(queries(impacts.shape[1]), min_size=1, max_size=3)):
            for k in {1, 10, len(impacts), data.draw(st.integers(1, len(impacts)))}:
                assert_exact(index, impacts, list(query), list(query.values()), k)
                assert_exact(index, impacts, list(query), list(query.values()), k, allowed)

    @LARGE
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("density", [0.001, 0.3])
    def test_windows(self, tmp_path, layout, density):
        rng = np.random.default_rng(21)
        shape = 2 * RANGE_SIZE + 77, 8
        # groups of alike units, so that reordering has something to do, and many equal scores
        base = rng.integers(1, 256, (50, 8)) * (rng.random((50, 8)) < density * 3)
        impacts = (base[rng.integers(0, 50, shape[0])] * (rng.random(shape) < 0.7)).astype(np.uint8)
        index = write_index(tmp_path / "index", impacts, batch=50_000, **layout)
        for terms, weights in ((range(8), rng.uniform(0.1, 3, 8)), ([0, 5], [1.0, 1e-6]), ([3], [0.7])):
            for k in (1, 10, 1000, 20_000):
                assert_exact(index, impacts, terms, weights, k)

    @LARGE
    @pytest.mark.parametrize("units", [L1_TILE + 1, L2_TILE, L2_TILE + 63, RANGE_SIZE + L2_TILE + L1_TILE + 1])
    @pytest.mark.parametrize("layout", [{}, {"reorder": True}])
    def test_shelves_and_strips(self, tmp_path, layout, units):
        """Long and short lists; many sums to search, or few to test; whole shelves excluded; both kinds of sums."""
        rng = np.random.default_rng(units)
        density = np.array([0.9, 0.3, 0.04, 0.02, 0.01, 0.001, 0.0002])
        impacts = rng.integers(1, 256, (units, 7)) * (rng.random((units, 7)) < density)
        index = write_index(tmp_path / "index", impacts, batch=50_000, **layout)
        some = rng.random(units) < 0.3
        some[:L2_TILE] = False
        for terms, exponents in ((range(7), range(7)), (range(3, 7), range(4)), ([5, 6], [0, 0]), ([0, 6], [0, -60])):
            weights = [float(np.float32(rng.uniform(1, 2) * 2.0**-e)) for e in exponents]
            for k in (1, 2000):
                assert_exact(index, impacts, terms, weights, k)
                assert_exact(index, impacts, terms, weights, k, some)
                assert_exact(index, impacts, terms, weights, k, np.arange(units) == units - 1)

    @LARGE
    def test_a_long_list_that_ends_in_a_few_far_units(self, tmp_path):
        # postings that are added together lie in several shelves
        units = 2 * RANGE_SIZE
        rng = np.random.default_rng(12)
        impacts = np.zeros((units, 3), np.uint8)
        impacts[:, 0] = rng.integers(1, 5, units)
        for first in (0, RANGE_SIZE):
            impacts[first : first + 1500, 1] = 200
            impacts[first + rng.choice(np.arange(L2_TILE, RANGE_SIZE), 9, replace=False), 1] = 250
            impacts[first + L2_TILE - L1_TILE - 40 : first + L2_TILE - L1_TILE, 2] = 100
            impacts[first + L2_TILE + np.arange(1, 1100, 17), 2] = 255
            impacts[first + RANGE_SIZE - 1500 : first + RANGE_SIZE - 1, 2] = 90
        index = write_index(tmp_path / "index", impacts, batch=50_000)
        for k in (1, 100, 20_000):
            assert_exact(index, impacts, [0, 1, 2], [0.25, 1.5, 0.75], k)
            assert_exact(index, impacts, [0, 1], [0.3, 1.1], k)

    @LARGE
    def test_similar_units_come_together(self, tmp_path):
        rng = np.random.default_rng(5)
        topic = rng.integers(0, 40, 8000)
        impacts = np.zeros((8000, 400), np.uint8)
        for unit, t in enumerate(topic):
            impacts[unit, t * 10 + rng.choice(10, 6, replace=False)] = rng.integers(1, 255, 6)
        plain = write_index(tmp_path / "plain", impacts)
        ordered = write_index(tmp_path / "ordered", impacts, reorder=True)
        assert ordered._segment.spread < 0.5 < 0.95 < plain._segment.spread < 1.05
        for t in range(40):
            units, _ = ordered._segment.postings(t * 10)
            assert units.tolist() == plain._segment.postings(t * 10)[0].tolist()
            assert ordered._segment.impact(t * 10, int(units[0])) == plain._segment.impact(t * 10, int(units[0]))

    @LARGE
    def test_chunks_with_more_terms_than_fit_are_scanned(self, tmp_path):
        # 300 terms in a posting of 300 each: rare, and too many to be kept places of
        impacts = np.zeros((90_000, 300), np.uint8)
        for term in range(300):
            impacts[term :: 300 + term, term] = 1 + term % 255
        index = write_index(tmp_path / "index", impacts, batch=50_000)
        assert_exact(index, impacts, range(300), np.linspace(0.1, 2, 300), 20)


class TestLeavingForTheScan:
    """A query that began with visits may go over to the scan at several points; the answer is the same."""

    @pytest.fixture
    def index(self, tmp_path):
        rng = np.random.default_rng(31)
        impacts = rng.integers(1, 256, (6000, 2))  # no chunk's bound is below the best score
        return write_index(tmp_path / "index", impacts), impacts

    def watch(self, monkeypatch):
        """How many chunks are visited at a time."""
        visited = []
        score_chunks = visit.score_chunks

        def counted(*args):
            visited.append(args[0].size)
            return score_chunks(*args)

        monkeypatch.setattr(visit, "score_chunks", counted)
        return visited

    @pytest.mark.skipif(not numba.config.DISABLE_JIT, reason="compiled kernels hold the costs")
    @pytest.mark.parametrize(
        ("costs", "stretches"),
        [
            ({"PROBE": 0.0}, 1),  # after the first visits
            ({"PROBE": 1e9, "HOPELESS": 0.0}, 1),  # the same, as too much is left
            ({"PROBE": 1e9, "HOPELESS": 1e30, "STRETCH": 32}, 2),  # after a stretch of the best
            ({"PROBE": 1e9, "HOPELESS": 1e30, "STRETCH": 50}, 2),  # the same, with fewer left than have been visited
            ({"PROBE": 1e9, "HOPELESS": 1e30, "BEST": 2}, 2),  # after all of the best
        ],
    )
    def test_at_each_point(self, index, monkeypatch, costs, stretches):
        index, impacts = index
        visited = self.watch(monkeypatch)
        for name, value in (
            {"LEAST_FIRST": 2, "COST_CHUNK": 1e-9, "COST_CHUNK_TERM": 0.0, "STILL_REACH": 1e15} | costs
        ).items():
            monkeypatch.setattr(visit, name, value)
        expected = top_k(impacts, [0, 1], [0.5, 1.5], 3, index.manifest.scale)
        found = index.search_vector(([0, 1], [0.5, 1.5]), 3)
        assert (found[0].tolist(), found[1].tolist()) == expected
        assert index._scorer.by_kernels.latest_way == visit.BY_POSTINGS
        assert len(visited) == stretches

    @pytest.mark.skipif(not numba.config.DISABLE_JIT, reason="compiled kernels hold the costs")
    def test_among_the_first_chunks(self, tmp_path, monkeypatch):
        """Of these up to 63 more than wanted are taken, where each 64 chunks have one whose bound is low."""
        impacts = np.random.default_rng(0).integers(1, 3, (400, 64, 2)).astype(np.uint8)
        impacts[::64] = 0
        index = write_index(tmp_path / "index", impacts.reshape(-1, 2), batch=30_000)
        visited = self.watch(monkeypatch)
        for name in ("COST_ADD", "COST_UNIT", "COST_LIST", "COST_BOUND", "COST_RARE", "COST_CHUNK"):
            monkeypatch.setattr(visit, name, 0.0)
        for name, value in {"COST_ADD": 1e-9, "COST_CHUNK_TERM": 1e-12, "STILL_REACH": 1e15}.items():
            monkeypatch.setattr(visit, name, value)
        found, scores = index.search_vector(([0, 1], [0.5, 1.5]), 64)
        expected = top_k(impacts.reshape(-1, 2), [0, 1], [0.5, 1.5], 64, index.manifest.scale)
        assert (found.tolist(), scores.tolist()) == expected
        assert index._scorer.by_kernels.latest_way == visit.BY_POSTINGS
        assert visited == [visit.STRETCH]


class TestFloor:
    @QUICK
    @given(data=st.data(), impacts=collections(), layout=st.sampled_from(({}, {"reorder": True}, {"block_max": False})))
    def test_nothing_below_it_and_all_of_it(self, data, impacts, layout, tmp_path_factory):
        index = write_index(tmp_path_factory.mktemp("i") / "index", impacts, **layout)
        query = data.draw(queries(impacts.shape[1]))
        terms, weights = list(query), list(query.values())
        for k in {1, 10, data.draw(st.integers(1, len(impacts)))}:
            best, scores = top_k(impacts, terms, weights, k)
            floors = [0.0, *(f(scores[data.draw(st.integers(0, len(scores) - 1))]) for f in ROUND if scores)]
            for floor in floors:
                expected = [pair for pair in zip(best, scores, strict=True) if pair[1] >= floor]
                for way in (visit.CHEAPER, visit.BY_CHUNKS, visit.BY_POSTINGS):
                    index._scorer.by_kernels.way = way
                    found = index._scorer.backend(terms, weights).search(terms, weights, k, floor=floor)
                    assert list(zip(*(x.tolist() for x in found), strict=True)) == expected


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    rng = np.random.default_rng(2)
    impacts = rng.integers(1, 256, (40_000, 30)) * (rng.random((40_000, 30)) < 0.2)
    return write_index(tmp_path_factory.mktemp("a") / "index", impacts, batch=20_000), impacts


class TestApproximate:
    @LARGE
    def test_all_scores_are_exact_and_the_share_bounds_what_is_missed(self, collection):
        index, impacts = collection
        index._scorer.by_kernels.way = visit.BY_CHUNKS
        missed = 0
        for seed in range(20):
            rng = np.random.default_rng(seed)
            terms, weights = rng.choice(30, 6, replace=False), rng.uniform(0.1, 3, 6).astype(np.float32)
            best = top_k(impacts, terms, weights, 10)[1]
            for share in (0.3, 0.7, 1.0):
                documents, scores = index.search_vector((terms, weights), 10, approximate=share)
                true = dict(zip(*top_k(impacts, terms, weights, len(impacts)), strict=True))
                assert [true[d] for d in documents.tolist()] == scores.tolist()
                assert len(scores) == 10
                # a document that was passed over has a bound, and so a score, of at most the last score / share
                assert all(score * share <= scores[-1] for score in set(best) - set(scores.tolist()))
                missed += share < 1 and scores.tolist() != best
            assert scores.tolist() == best
        assert missed  # or the test shows nothing

    @LARGE
    def test_measured(self, collection):
        index, _ = collection
        rng = np.random.default_rng(9)
        queries = [
            SparseVector(np.sort(rng.choice(30, 6, replace=False)).astype(np.int32), rng.random(6, np.float32))
            for _ in range(8)
        ]
        index._scorer.by_kernels.way = visit.BY_CHUNKS
        exact, rough = (measure_approximation(index, queries, 10, share) for share in (1.0, 0.2))
        assert exact.recall == 1.0
        assert 0 < rough.recall < 1
        assert min(exact.exact_ms, rough.approximate_ms) > 0
        with pytest.raises(InputError, match="no query finds"):
            measure_approximation(index, [], 10, 0.5)

    @pytest.mark.parametrize("share", [0, -0.1, 1.01, float("nan")])
    def test_not_a_share(self, collection, share):
        with pytest.raises(InputError, match="above 0, up to 1"):
            collection[0].search_vector(([0], [1.0]), approximate=share)


class TestAllowed:
    @QUICK
    @given(data=st.data(), impacts=collections(), share=st.sampled_from([0.0, 0.01, 0.3, 0.99, 1.0]))
    def test_every_k(self, data, impacts, share, tmp_path_factory):
        index = write_index(tmp_path_factory.mktemp("i") / "index", impacts)
        allowed = np.random.default_rng(len(impacts)).random(len(impacts)) < share
        for query in data.draw(st.lists(queries(impacts.shape[1]), min_size=1, max_size=3)):
            for k in {1, 10, len(impacts), data.draw(st.integers(1, len(impacts)))}:
                assert_exact(index, impacts, list(query), list(query.values()), k, allowed)

    @LARGE
    @pytest.mark.parametrize("density", [0.001, 0.5])
    def test_windows(self, tmp_path, density):
        rng = np.random.default_rng(11)
        impacts = (
            rng.integers(1, 256, (3 * RANGE_SIZE + 5, 4)) * (rng.random((3 * RANGE_SIZE + 5, 4)) < density)
        ).astype(np.uint8)
        index = write_index(tmp_path / "index", impacts, batch=50_000)
        one_window = np.zeros(len(impacts), bool)
        one_window[RANGE_SIZE : 2 * RANGE_SIZE : 7] = True
        for allowed in (one_window, rng.random(len(impacts)) < 0.1, rng.random(len(impacts)) < 1e-4):
            for k in (1, 10, 1000):
                assert_exact(index, impacts, range(4), [0.3, 1.1, 2.0, 0.01], k, allowed)

    @pytest.mark.parametrize("layout", [{}, {"reorder": True}])
    def test_a_read_only_mask_is_prepared_once(self, tmp_path, monkeypatch, layout):
        impacts = np.random.default_rng(4).integers(0, 9, (500, 3))
        index = write_index(tmp_path / "index", impacts, **layout)
        prepared = []
        allow = index._scorer.allow

        def counted(mask):
            prepared.append(1)
            return allow(mask)

        monkeypatch.setattr(index._scorer, "allow", counted)
        mask, other = np.arange(500) % 3 == 0, np.arange(500) % 5 == 0
        for expected in (1, 2):  # one that may be written to is looked at every time
            assert_exact_once(index, impacts, mask)
            assert len(prepared) == expected
        mask[:] = ~mask
        assert_exact_once(index, impacts, mask)
        mask.flags.writeable = other.flags.writeable = False
        prepared.clear()
        for allowed, expected in ((mask, 1), (mask, 1), (other, 2), (other, 2), (mask, 3)):
            assert_exact_once(index, impacts, allowed)
            assert len(prepared) == expected

    @pytest.mark.parametrize("allowed", [[1, 0], [True], np.ones((2, 1), bool), np.ones(3, bool)])
    def test_not_a_mask(self, tmp_path, allowed):
        index = write_index(tmp_path / "index", np.ones((2, 2), int))
        with pytest.raises(InputError, match="one bool for each of the 2 documents"):
            index.search_vector(([0], [1.0]), 3, allowed=allowed)


@pytest.mark.skipif(NO_JIT, reason="nothing is compiled")
def test_kernels_are_compiled_once(tmp_path):
    impacts = np.random.default_rng(0).integers(0, 9, (300, 4))
    for number, layout in enumerate(({}, {"block_max": False}, {"reorder": True})):
        index = write_index(tmp_path / str(number), impacts, **layout)
        for terms in (np.array([0, 2]), np.array([0, 2], np.uint16), [2, 0], range(2)):
            for weights in (np.float32([0.5, 1]), np.array([0.5, 1]), [1, 2]):
                for allowed in (None, np.arange(300) % 2 == 0):
                    for array in (terms, weights, allowed):
                        if isinstance(array, np.ndarray):
                            array.flags.writeable = False
                    assert_exact(index, impacts, terms, weights, 5, allowed)
    assert len(visit.visit.signatures) == len(sorting.take_best.signatures) == 1
    assert len(scan.scan.signatures) <= 2  # integers, and float64


class TestQueries:
    @pytest.fixture
    def index(self, tmp_path):
        return write_index(tmp_path / "q", np.eye(5, 6, dtype=int) * 9 + np.eye(5, 6, 1, dtype=int))

    def test_order_of_terms_does_not_matter(self, index):
        a = index.search_vector(([0, 1, 4], [0.1, 0.2, 0.3]), 5)
        b = index.search_vector(([4, 0, 1], [0.3, 0.1, 0.2]), 5)
        assert [x.tolist() for x in a] == [x.tolist() for x in b]

    def test_no_match_is_an_empty_answer(self, tmp_path, index):
        assert index.search_vector(([], []), 3)[0].size == 0
        assert index.search_vector(([0], [0.0]), 3)[0].size == 0
        lonely = write_index(tmp_path / "index", np.array([[3, 0]]))
        assert lonely.search_vector(([1], [1.0]), 3)[0].size == 0

    @pytest.mark.parametrize(
        ("terms", "weights", "message"),
        [
            ([6], [1.0], "term 6 of the query is outside the index's vocabulary of 6"),
            ([-1], [1.0], "term -1 of the query is outside"),
            ([1, 1], [1.0, 1.0], "names a term twice"),
            ([3, 1, 3], [1.0, 1.0, 1.0], "names a term twice"),
            ([1], [-1.0], "finite and not negative"),
            ([1], [float("nan")], "finite and not negative"),
            ([1], [float("inf")], "finite and not negative"),
            ([1, 2], [1.0], "one length"),
        ],
    )
    def test_bad_vectors(self, index, terms, weights, message):
        with pytest.raises(InputError, match=message):
            index.search_vector((terms, weights), 3)

    @pytest.mark.parametrize("k", [0, -1, 2.5, True, None])
    def test_bad_k(self, index, k):
        with pytest.raises(InputError, match="ask for at least 1"):
            index.search_vector(([1], [1.0]), k)

    @pytest.mark.parametrize(
        ("terms", "weights"), [([1.7], [1.0]), (["a"], [1.0]), ([1], ["x"]), ([None], [1.0]), ([[1]], [[1.0]])]
    )
    def test_not_a_vector(self, index, terms, weights):
        with pytest.raises(InputError, match="terms"):
            index.search_vector((terms, weights), 3)

    def test_an_error_leaves_the_workspace_usable(self, index):
        expected = index.search_vector(([0, 1], [1.0, 2.0]), 5)[0].tolist()
        with pytest.raises(InputError):
            index.search_vector(([0, 99], [1.0, 2.0]), 5)
        assert index.search_vector(([0, 1], [1.0, 2.0]), 5)[0].tolist() == expected


def test_an_interrupt_between_kernels_does_no_harm(tmp_path, monkeypatch):
    impacts = np.random.default_rng(3).integers(0, 255, (20_000, 2))
    index = write_index(tmp_path / "index", impacts)
    index._scorer.by_kernels.way = visit.BY_POSTINGS

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(search, "scan", interrupted)
        with pytest.raises(KeyboardInterrupt):
            index.search_vector(([0, 1], [0.1, 0.1000001]), 3)
    assert_exact(index, impacts, [0, 1], [0.1, 0.1000001], 3)


def test_threads_give_the_serial_answers(tmp_path):
    rng = np.random.default_rng(5)
    impacts = rng.integers(0, 256, (1000, 40)) * (rng.random((1000, 40)) < 0.3)
    index = write_index(tmp_path / "index", impacts)
    work = [
        (rng.choice(40, 8, replace=False), rng.random(8, np.float32), int(rng.integers(1, 300))) for _ in range(100)
    ]
    expected = [[x.tolist() for x in index.search_vector(job[:2], job[2])] for job in work]
    wrong: list[int] = []

    def hammer(seed):
        for i in np.random.default_rng(seed).permutation(len(work)):
            if [x.tolist() for x in index.search_vector(work[i][:2], work[i][2])] != expected[i]:
                wrong.append(int(i))

    many = index.search_many([SparseVector(*job[:2]) for job in work], 7, threads=4)
    for job, (documents, scores) in zip(work, many, strict=True):
        alone = index.search_vector(job[:2], 7)
        assert (documents.tolist(), scores.tolist()) == (alone[0].tolist(), alone[1].tolist())
    threads = [threading.Thread(target=hammer, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


class TestHelpers:
    @QUICK
    @given(st.lists(st.integers(0, 65535), max_size=200, unique=True), st.integers(0, 65536))
    def test_lower_bound(self, units, wanted):
        array = np.array(sorted(units), np.uint16)
        assert scan.lower_bound(array, np.uint32(wanted)) == np.searchsorted(array.astype(int), wanted)

    @QUICK
    @given(
        sums=st.lists(st.integers(-(1 << 62), 1 << 53), min_size=64, max_size=64),
        least=st.integers(1, 1 << 53),
        first=st.sampled_from([0, 64, 128]),
    )
    def test_sums_that_reach(self, sums, least, first):
        array = np.full(192, -1, np.int64)
        array[first : first + 64] = sums
        array[first : first + 64 : 7] = least
        wanted = np.flatnonzero(array[first : first + 64] >= least)
        reached = int(use_at_least(array, first, least))
        assert [i for i in range(64) if reached >> i & 1] == wanted.tolist()
        assert use_lowest_bit(np.uint64(reached)) == wanted[0] == 0
        assert use_lowest_bit(np.uint64(reached & ~1)) == wanted[1]
        assert use_count_bits(np.uint64(reached)) == wanted.size
        use_clear(array, first)
        assert not array[first : first + 64].any()
        assert (np.delete(array, np.s_[first : first + 64]) == -1).all()

    @QUICK
    @given(st.lists(st.integers(0, 50), min_size=2, max_size=300), st.data())
    def test_select_top(self, values, data):
        k = data.draw(st.integers(1, len(values) - 1))
        scores, units = np.array(values, np.float64), np.arange(len(values), dtype=np.uint32)[::-1].copy()
        best = sorted(zip((-scores).tolist(), units.tolist(), strict=True))[:k]
        sorting.select_top(scores, units, len(values), k)
        assert sorted(zip((-scores[:k]).tolist(), units[:k].tolist(), strict=True)) == best
        assert (-scores[k - 1], units[k - 1]) == best[-1]

    @QUICK
    @given(
        values=st.lists(st.floats(0, 4, width=16), min_size=1, max_size=40),
        count=st.sampled_from([20, 300, 3000]),
        spread=st.sampled_from([0.0, 1e-300, 1e-9, 1.0, 1e300]),
        data=st.data(),
    )
    def test_lift_bar(self, values, count, spread, data):
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
        scores = rng.choice(values, count) + rng.random(count) * spread
        units = np.arange(count, dtype=np.uint32)
        k = data.draw(st.integers(1, count + 1))
        best = sorted(zip((-scores).tolist(), units.tolist(), strict=True))[:k]
        kept, bar = sorting.lift_bar(count, k, 0.25, scores, units, np.empty(2 * sorting.RADIX, np.int64))
        left = sorted(zip((-scores[:kept]).tolist(), units[:kept].tolist(), strict=True))
        assert left[:k] == best
        if count >= k:
            assert k <= kept <= k + (k >> 2) + sorting.FEW
            assert bar <= -best[-1][0]
            assert (scores[:kept] >= bar).sum() >= k
        else:
            assert (kept, bar) == (count, 0.25)

    @QUICK
    @given(st.lists(st.sampled_from([0, 1, 32767, 32768, 65535]), min_size=64, max_size=64), st.integers(1, 65535))
    def test_bounds_that_reach(self, values, least):
        reached = int(use_at_least_of_bounds(np.array([*values, *values], np.uint16), 64, np.uint16(least)))
        assert [reached >> i & 1 for i in range(64)] == [int(value >= least) for value in values]

    @QUICK
    @given(
        size=st.integers(1, 200),
        parts=st.lists(st.tuples(st.integers(1, 257), st.integers(0, 2**32)), min_size=1, max_size=5),
        top=st.sampled_from([1, 16, 256]),
    )
    def test_add_maxima(self, size, parts, top):
        found, expected = np.zeros(size, np.uint16), np.zeros(size, np.int64)
        for weight, seed in parts:
            maxima = np.random.default_rng(seed).integers(0, top, size).astype(np.uint8)
            bounds.add_maxima(found, np.uint16(weight), maxima)
            expected += weight * maxima.astype(np.int64)
        assert found.tolist() == np.minimum(expected, 65535).tolist()

    @QUICK
    @given(
        in_chunks=st.lists(st.integers(0, bounds.RANGE_BLOCKS - 1), max_size=60),
        weight=st.integers(1, 257),
        before=st.sampled_from([0, 100, 65500]),
        seed=st.integers(0, 2**32),
    )
    def test_add_postings(self, in_chunks, weight, before, seed):
        rng = np.random.default_rng(seed)
        units = np.unique([64 * chunk + rng.integers(0, 64) for chunk in in_chunks]).astype(np.uint16)
        impacts = rng.integers(1, 256, units.size).astype(np.uint8)
        totals = np.full(bounds.RANGE_BLOCKS, before, np.uint16)
        places = rng.integers(0, 65536, bounds.RANGE_BLOCKS).astype(np.uint16)
        before_places = places.copy()
        bounds.add_postings(totals, np.uint16(weight), units, impacts, places)
        expected = np.full(bounds.RANGE_BLOCKS, before)
        for chunk in set(in_chunks):
            expected[chunk] = min(65535, before + weight * int(impacts[units >> 6 == chunk].max()))
            assert units[places[chunk]] >> 6 == chunk
        assert totals.tolist() == expected.tolist()
        others = np.setdiff1d(np.arange(bounds.RANGE_BLOCKS), in_chunks)
        assert places[others].tolist() == before_places[others].tolist()

    @QUICK
    @given(values=st.lists(st.integers(0, 65535), min_size=1, max_size=40), least=st.integers(1, 65535), data=st.data())
    def test_chunks_that_reach(self, values, least, data):
        seed, count = data.draw(st.integers(0, 2**32)), 64 * data.draw(st.sampled_from([1, 3, 64, 70]))
        rng = np.random.default_rng(seed)
        values = rng.choice(np.array(values, np.uint16), count)
        peaks = np.zeros(count // 64 + -(count // 64) % 64, np.uint16)
        bounds.find_peaks(values, peaks[: count // 64])
        assert peaks.tolist() == [*values.reshape(-1, 64).max(1), *[0] * (peaks.size - count // 64)]
        values[rng.random(count) < data.draw(st.sampled_from([0.0, 0.5]))] = 0  # chunks that are done with
        least = np.uint16(least)
        enough = np.flatnonzero(values >= least)
        assert bounds.reaching(values, peaks, least) == enough.size
        order = np.empty(count + 64, np.uint32)
        found = bounds.collect(values, peaks, least, count, order)
        assert order[:found].tolist() == enough.tolist()
        most = data.draw(st.integers(1, count))
        found = bounds.collect(values, peaks, least, most, order)
        assert order[:found].tolist() == enough[:found].tolist()
        assert min(most, enough.size) <= found < most + 64
        wanted = data.draw(st.integers(1, most))
        cut = int(bounds.high_cut(values, peaks, least, wanted, most))
        reached = int((values >= cut).sum())
        assert (cut == least and reached == enough.size < wanted) or (cut >= least and reached >= wanted)
        assert reached <= most or (values > cut).sum() < wanted

    @QUICK
    @given(
        units=st.lists(st.integers(0, 2 * RANGE_SIZE - 1), max_size=80),
        asked=st.lists(st.integers(0, 2 * bounds.RANGE_BLOCKS - 1), min_size=1, max_size=20),
        seed=st.integers(0, 2**32),
    )
    def test_places_that_are_left_over_lead_nowhere(self, units, asked, seed):
        rng = np.random.default_rng(seed)
        alike = rng.integers(0, 640, 40)  # some chunks have many
        units = np.unique([*units, *alike, *(alike + RANGE_SIZE)])
        within = (units % RANGE_SIZE).astype(np.uint16)
        starts = np.array([[0, (units < RANGE_SIZE).sum(), units.size]], np.uint64)
        places = rng.integers(0, 2 * units.size, (1, 2 * bounds.RANGE_BLOCKS)).astype(np.uint16)
        impacts = np.ones(units.size, np.uint8)
        for w in range(2):
            part = slice(int(starts[0, w]), int(starts[0, w + 1]))
            totals = np.zeros(bounds.RANGE_BLOCKS, np.uint16)
            into = places[0, w * bounds.RANGE_BLOCKS : (w + 1) * bounds.RANGE_BLOCKS]
            bounds.add_postings(totals, np.uint16(1), within[part], impacts[part], into)
        firsts, counts = np.zeros(1, np.uint64), np.zeros(1, np.int64)
        nothing = dict.fromkeys(memory.Postings._fields, np.zeros(0, np.uint8))
        rows = {"span_postings": np.zeros((1, 1), np.uint16), "chunk_postings": np.zeros((1, 2048), np.uint8)}
        segment = memory.Postings(
            **nothing | rows | {"units": within, "impacts": impacts, "unit_count": 2 * RANGE_SIZE}
        )
        for chunk in {*asked, *(units >> 6).tolist()}:
            chunks.find_postings(chunk, 1, segment, np.array([-1]), starts, places, firsts, counts)
            expected = np.flatnonzero(units >> 6 == chunk)
            assert counts[0] == expected.size
            assert expected.size == 0 or firsts[0] == expected[0]

    @QUICK
    @given(st.lists(st.integers(1, 65535), min_size=1, max_size=300), st.data())
    def test_sort_chunks(self, values, data):
        values = np.array(values, np.uint16)
        chunks = data.draw(st.permutations(range(values.size)))
        order = np.array([*chunks, *chunks], np.uint32)
        bounds.sort_chunks(order, values.size, values, values.min(), np.empty(4096, np.int64))
        assert sorted(order[: values.size].tolist()) == list(range(values.size))
        width = (int(values.max()) - int(values.min())) // bounds.SORT_BUCKETS + 1
        assert (np.diff(values[order[: values.size]].astype(int)) < width).all()

    @QUICK
    @given(
        st.lists(st.floats(0, 4, width=16), max_size=300),
        st.sampled_from([1.0, 1e300, 1e-300, 5e-324]),
        st.sampled_from([[], [1e15], [0.0] * 100]),
    )
    def test_sort_results(self, values, factor, more):
        scores = np.array([*(v * factor for v in values), *more], np.float64)
        units = np.random.default_rng(0).permutation(scores.size).astype(np.uint32)
        expected = sorted(zip(scores.tolist(), units.tolist(), strict=True), key=lambda pair: (-pair[0], pair[1]))
        ranks, ranks_too, keys = (np.empty(scores.size, np.uint32) for _ in range(3))
        sorting.sort_results(scores, units, scores.size, ranks, ranks_too, keys, np.empty(2 * sorting.RADIX, np.int64))
        assert list(zip(scores[ranks].tolist(), units[ranks].tolist(), strict=True)) == expected


def test_csr_of_the_oracle_is_what_it_says():
    batch = csr(np.array([[0, 2], [0, 0], [3, 0]]))
    assert batch.indptr.tolist() == [0, 1, 1, 2]
    assert batch.indices.tolist() == [1, 0]
    assert batch.values.tolist() == [2.0, 3.0]
