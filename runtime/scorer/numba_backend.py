"""Searching one segment by the kernels: their workspace, and the call. Importing this loads Numba."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..numba_support.address_table import AddressTable
from ..numba_support.arrays import cacheline_aligned
from ..numba_support.simd import LANES
from . import BLOCK_SIZE, KTH_LEVELS, RANGE_SIZE
from .block_max import BY_CHUNKS, BY_POSTINGS, CHEAPER, SLACK_FOUND, visit
from .block_max_bounds import RANGE_BLOCKS, SORT_BUCKETS
from .block_max_postings import LOOKUPS
from .filter_mask import AllowedUnits, query_arrays
from .maxscore import MOST_LATE
from .query import BAD_TERM, SCAN, SORT, UNSORTED, UNTOUCHED
from .taat import scan
from .threshold import MISSED
from .topk import FEW, RADIX, take_best
from .upper_bounds16 import EITHER
from .workspace import FOUND, TERMS, UNIT, Postings, Workspace

if TYPE_CHECKING:
    from .segment import ScoredSegment

# After a guess that was too high the next so many scans go without one, but the last of them: there are collections
# whose order defeats it.
SCANS_A_MISS = 32
MAX_RARE = 128  # terms without block-max data that chunks are visited for; with more, the postings are scanned


_ALL = AllowedUnits(np.empty(0, np.bool_), np.empty(0, np.uint8), 0)
_ALL_ADDRESS = _ALL.address
# NumPy looks a dtype up more slowly by its scalar type.
_U32, _F64 = np.dtype(np.uint32), np.dtype(np.float64)


class _Workspace:
    """Buffers of one thread, grown as queries need; accumulators (``coarse_sums``, too) are all zero between calls,
    unless postings are in a wrong order.
    """

    def __init__(self, windows: int) -> None:
        self._windows = windows
        self._chunks = windows * RANGE_BLOCKS
        self.state = np.zeros(4, np.float64)
        self.whole_sums, self.float_sums = (
            cacheline_aligned(2 * RANGE_SIZE, np.int64),
            cacheline_aligned(2 * RANGE_SIZE, np.float64),
        )
        self.whole_least, self.float_least = np.array([0, -(1 << 62)]), np.array([0.0, -np.inf])
        self._of_segment: dict[str, npt.NDArray[Any]] = {
            "state": self.state,
            "tops": np.empty(windows, np.float64),
            "promise": np.empty(windows, np.float64),
            "bounds": cacheline_aligned(self._chunks, np.uint16),
            "peaks": cacheline_aligned((self._chunks // LANES + LANES - 1) & -LANES, np.uint16),
            "order": np.empty(2 * self._chunks, np.uint32),
            "histogram": np.empty(max(SORT_BUCKETS + 1, 2 * RADIX), np.int64),
            "located": np.empty(2 * LOOKUPS, np.int64),
            "sums": cacheline_aligned(BLOCK_SIZE, np.float64),
            "late": np.empty(MOST_LATE, np.int64),
            "late_rows": np.empty(MOST_LATE, np.int64),
            "room": cacheline_aligned(RANGE_BLOCKS, np.int64),
            "coarse_sums": cacheline_aligned(RANGE_SIZE, np.uint16),
            # Room for a whole window, though a shelf has 16,384 units: whatever a posting list holds must fit.
            "crossed": np.empty(RANGE_SIZE, np.uint16),
        }
        self.terms = self.k = -1
        self.reserve(64, 128)

    def reserve(self, terms: int, k: int) -> None:
        """Make room for a query of ``terms`` terms and ``k`` results."""
        self.terms = terms = self.terms if terms <= self.terms else 2 * terms
        self.k = k = max(self.k, k)
        lookups = 2 * max(LOOKUPS, terms)  # two halves: of chunks that are scored, and of those that come next
        capacity = 2 * k + SLACK_FOUND + FEW + RANGE_SIZE  # what a lift may leave, and a window
        self.used = np.empty(terms, np.float64)
        self.whole = np.empty(terms, np.int64)
        arrays: dict[str, npt.NDArray[Any]] = {
            **self._of_segment,
            "kept": np.empty(terms, np.int64),
            "used": self.used,
            "whole": self.whole,
            "rows": np.empty(terms, np.int64),
            "starts": np.empty((terms, self._windows + 1), np.uint64),
            "places": np.zeros((min(terms, MAX_RARE), self._chunks), np.uint16),
            "firsts": np.empty(lookups, np.uint64),
            "counts": np.empty(lookups, np.int64),
            "begun": np.empty(terms, np.uint64),
            "upcoming": np.empty(terms, np.uint64),
            "turns": np.empty(terms, np.int64),
            "typical": np.empty(terms, np.float64),
            "coarse_weights": np.empty(terms, np.int64),
            "scores": np.empty(capacity, np.float64),
            "units": np.empty(capacity, np.uint32),
            "keys": np.empty(2 * k + SLACK_FOUND, np.uint32),
            "ranks": np.empty(2 * k + SLACK_FOUND, np.uint32),
            "ranks_too": np.empty(2 * k + SLACK_FOUND, np.uint32),
        }
        self._table = AddressTable([arrays[name] for name in Workspace._fields], (self._windows,))
        self.address = self._table.address


class _Workspaces(threading.local):
    """A workspace for each thread."""

    def __init__(self, windows: int) -> None:
        self.mine = _Workspace(windows)


class SegmentScorer:
    """Exact top k over a segment; safe from several threads."""

    def __init__(self, segment: ScoredSegment) -> None:
        self._segment = s = segment
        # Tests and benchmarks set another way than the cheaper one; the answers are the same.
        self.way = self.latest_way = CHEAPER
        self.sums = EITHER  # COARSE: of 16 bits wherever that is possible; FULL: never
        self._scans = self._guess_from = 0  # threads may lose a count
        self._workspaces = _Workspaces(-(-segment.units // RANGE_SIZE))
        arrays = {
            **{name: getattr(s, name) for name in Postings._fields if hasattr(s, name) and name != "units"},
            "units": s.posting_units,
            "impacts": s.posting_impacts,
            "levels": np.array(KTH_LEVELS, np.int64),
            "figures": np.array([s.spread]),
        }
        self._table = AddressTable([arrays[name] for name in Postings._fields[:-1]], (s.units,))
        self._address = self._table.address

    def search(
        self,
        terms: npt.ArrayLike,
        weights: npt.ArrayLike,
        k: int,
        allowed: AllowedUnits | None = None,
        keep: float = 1.0,
        floor: float = 0.0,
        scale: float = 1.0,
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float64]]:
        """(units uint32, scores float64) of the top k, best first; units that share no term are left out. Scores are
        times ``scale``.

        ``terms``: integers ``[n]``, distinct, in any order. ``weights``: float32 ``[n]``, finite, >= 0.
        ``allowed``: which units may be found; None: all. ``keep`` below 1: approximate, see :func:`.visit.visit`.
        ``floor``: a score without the scale, such as the k-th best of other segments; units that score less are not
        wanted, those that score as much are.
        Raises InputError for anything else, IntegrityError for damaged postings.
        """
        t, w = query_arrays(terms, weights)
        s = self._segment
        ws = self._workspaces.mine
        k = min(k, s.units)
        if t.size > ws.terms or k > ws.k:
            ws.reserve(t.size, k)
        mask = _ALL_ADDRESS if allowed is None else allowed.address
        units, scores = np.empty(k, _U32), np.empty(k, _F64)
        while True:
            n = visit(t, w, k, self.way, keep, floor, scale, mask, self._address, ws.address, units, scores)
            if n >= SORT:
                break
            place = int(ws.state[TERMS])
            if n == UNTOUCHED:
                s.verify(t)
            elif n == UNSORTED:
                order = np.argsort(t, kind="stable")
                t, w = t[order], w[order]
                if (t[1:] == t[:-1]).any():
                    raise InputError("a query vector names a term twice; add up the weights of equal terms")
            elif n == BAD_TERM:
                raise InputError(f"term {t[place]} of the query is outside the index's vocabulary of {s.vocab_size}")
            else:
                raise InputError("query weights must be finite and not negative")
        self.latest_way = BY_POSTINGS if n == SCAN else BY_CHUNKS
        if n < 0:
            if n == SCAN:
                whole = bool(ws.state[UNIT] > 0.0)
                typed = (ws.whole, ws.whole_sums, ws.whole_least) if whole else (ws.used, ws.float_sums, ws.float_least)
                self._scans += 1
                scan(k, mask, self._address, ws.address, whole, self._scans >= self._guess_from, self.sums, *typed)
                if ws.state[FOUND] == MISSED:
                    self._guess_from = self._scans + SCANS_A_MISS
                    scan(k, mask, self._address, ws.address, whole, False, self.sums, *typed)
            n = take_best(k, scale, ws.address, units, scores)
        return (units, scores) if n == k else (units[:n].copy(), scores[:n].copy())
