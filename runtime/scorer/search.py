"""Searching one segment with a query vector: validation, workspace, and the call of the"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from . import CHUNK, WINDOW
from .arrays import U8, Bools, Sums
from .bounds import CHUNKS, GROUPS
from .chunks import BATCH
from .query import BAD_TERM, SCAN, UNSORTED, UNTOUCHED
from .scan import scan
from .sorting import take_best
from .visit import BY_CHUNKS, BY_POSTINGS, CHEAPER, SLACK_FOUND, visit

if TYPE_CHECKING:
    from ..index.segment import Segment

MAX_TERMS = 1 << 20
MAX_RARE = 128  # terms without block-max data that chunks are visited for; with more, the postings are scanned
_NONE_EXCLUDED = np.empty(0, np.bool_), np.empty(0, np.uint8)


@dataclass(frozen=True)
class AllowedUnits:
    """A filter: ``units`` bool ``[units]`` in the segment's own order, ``chunks`` uint8: 1 where a chunk has one."""

    units: Bools
    chunks: U8
    excluded: int


class _Workspace:
    """Buffers of one thread, grown as queries need; the accumulators are all zero between calls."""

    def __init__(self, windows: int) -> None:
        self.windows = windows
        groups = windows * GROUPS
        self.tops = np.empty(windows, np.float64)
        self.bounds = np.empty(windows * CHUNKS, np.uint16)
        self.peaks = np.empty(groups, np.uint16)
        self.order = np.empty(2 * windows * CHUNKS, np.uint32)
        self.sums = np.zeros(BATCH + CHUNK, np.float64)
        self.whole_sums, self.float_sums = np.zeros(2 * WINDOW, np.int64), np.zeros(2 * WINDOW, np.float64)
        # Room for a whole window, though a strip has 4,096 units: whatever a posting list holds must fit.
        self.crossed = np.empty(WINDOW, np.uint16)
        self.terms = self.k = -1  # nothing reserved, not even for a query without terms

    def reserve(self, terms: int, k: int) -> None:
        """Make room for a query of ``terms`` terms and ``k`` results."""
        if terms <= self.terms and k <= self.k:
            return
        if terms > self.terms:
            self.terms = terms = max(64, 2 * terms)
            self.kept, self.whole, self.rows = (np.empty(terms, np.int64) for _ in range(3))
            self.used = np.empty(terms, np.float64)
            self.places = np.empty((min(terms, MAX_RARE), self.bounds.size), np.uint16)
            lookups = max(512, terms + 1)
            self.firsts, self.counts = np.empty(lookups, np.uint64), np.empty(lookups + 1, np.int64)
            self.starts = np.empty((terms, self.windows + 1), np.uint64)
        if k > self.k:
            self.k = k = max(128, k)
            capacity = 2 * k + SLACK_FOUND + WINDOW
            self.scores, self.units = np.empty(capacity, np.float64), np.empty(capacity, np.uint32)
        # the last arguments of visit
        self.of_visit: Any = (
            self.kept, self.used, self.whole, self.rows, self.starts, self.tops, self.bounds, self.peaks, self.order,
            self.places, self.sums, self.firsts, self.counts, self.scores, self.units,
        )  # fmt: skip


class _Workspaces(threading.local):
    """A workspace for each thread."""

    def __init__(self, windows: int) -> None:
        self.mine = _Workspace(windows)


class SegmentScorer:
    """Exact top k over a segment; safe from several threads."""

    def __init__(self, segment: Segment) -> None:
        from ..index.layout import KTH_LEVELS

        self._segment = segment
        self._levels = np.array(KTH_LEVELS, np.int64)
        # Tests and benchmarks set another way than the cheaper one; the answers are the same.
        self.way = self.latest_way = CHEAPER
        self._workspaces = _Workspaces(-(-segment.units // WINDOW))
        s = segment
        # the arguments of visit between the filter and the workspace
        self._of_visit: Any = (
            s.term_blocks, s.term_impacts, s.term_rows, s.touched, s.block_windows, s.block_impacts, s.block_postings,
            s.chunk_impacts, s.span_postings, s.chunk_postings, s.posting_units, s.posting_impacts, s.units, s.original,
        )  # fmt: skip

    def allow(self, units: Bools) -> AllowedUnits:
        """The filter that lets the units pass where ``units``, bool by unit, is True."""
        if self._segment.original.size:
            units = units[self._segment.original]
        units = _writeable(units)
        firsts = np.arange(0, units.size, CHUNK)
        chunks = np.logical_or.reduceat(units, firsts) if units.size else units
        return AllowedUnits(units, chunks.view(np.uint8), units.size - int(np.count_nonzero(units)))

    def search(
        self,
        terms: npt.ArrayLike,
        weights: npt.ArrayLike,
        k: int,
        allowed: AllowedUnits | None = None,
        keep: float = 1.0,
        floor: float = 0.0,
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float64]]:
        """(units uint32, scores float64 without the scale) of the top k, best first; units that share no term are left
        out.

        ``terms``: integers ``[n]``, distinct, in any order. ``weights``: float32 ``[n]``, finite, >= 0.
        ``allowed``: which units may be found; None: all. ``keep`` below 1: approximate, see :func:`.visit.visit`.
        ``floor``: a score without the scale, such as the k-th best of other segments; units that score less are not
        wanted, those that score as much are.
        Raises InputError for anything else, IntegrityError for damaged postings.
        """
        t, w = _query_arrays(terms, weights)
        s = self._segment
        ws = self._workspaces.mine
        k = min(k, s.units)
        ws.reserve(t.size, k)
        mask, mask_chunks = _NONE_EXCLUDED if allowed is None else (allowed.units, allowed.chunks)
        while True:
            code, n, bar, unit = visit(
                t, w, k, self.way, s.spread, self._levels, keep, floor, mask, mask_chunks,
                0 if allowed is None else allowed.excluded, *self._of_visit, *ws.of_visit,
            )  # fmt: skip
            if code <= SCAN:
                break
            if code == UNTOUCHED:
                s.touch(t)
            elif code == UNSORTED:
                order = np.argsort(t, kind="stable")
                t, w = t[order], w[order]
                if (t[1:] == t[:-1]).any():
                    raise InputError("a query vector names a term twice; add up the weights of equal terms")
            elif code == BAD_TERM:
                raise InputError(f"term {t[n]} of the query is outside the index's vocabulary of {s.vocab_size}")
            else:
                raise InputError("query weights must be finite and not negative")
        self.latest_way = BY_POSTINGS if code == SCAN else BY_CHUNKS
        if code == SCAN:
            whole = unit > 0.0
            weights_used: Sums = ws.whole if whole else ws.used
            sums: Sums = ws.whole_sums if whole else ws.float_sums
            n = scan(
                n, k, bar, unit if whole else 1.0, whole, mask, mask_chunks, weights_used, ws.rows, ws.starts,
                ws.tops, s.span_postings, s.chunk_postings, s.posting_units, s.posting_impacts, s.units, s.original,
                sums, ws.crossed, ws.scores, ws.units,
            )  # fmt: skip
        n = take_best(n, k, ws.scores, ws.units)
        return ws.units[:n].copy(), ws.scores[:n].copy()


def _query_arrays(
    terms: npt.ArrayLike, weights: npt.ArrayLike
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Terms as int64 and weights as float32, contiguous. Raises InputError for what cannot be a query vector."""
    try:
        t = np.asarray(terms)
        w = np.ascontiguousarray(weights, np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"terms and weights must be arrays of numbers ({error})") from None
    if t.size and t.dtype.kind not in "iu":
        raise InputError(f"terms must be integers, not {t.dtype}")
    if t.ndim != 1 or t.shape != w.shape or t.size > MAX_TERMS:
        raise InputError(f"terms and weights must be two arrays of one length, at most {MAX_TERMS}")
    return _writeable(np.ascontiguousarray(t, np.int64)), _writeable(w)


def _writeable(array: Any) -> Any:
    """The array, or a copy of one that is read-only: to Numba that is another type, which it would compile for."""
    return array if array.flags.writeable else array.copy()
