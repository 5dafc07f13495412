"""Searching one segment with a query vector: validation, workspace, and the call of the kernels."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from . import WINDOW, kernels
from .arrays import Bools, Sums

if TYPE_CHECKING:
    from ..index.segment import Segment

MAX_TERMS = 1 << 20
# Largest accumulators, and the widest margin that 16 bits may have, as a share of the largest possible sum.
_LIMITS = np.array([65535.0, 4294967295.0, 0.01])

_ALL = np.empty(0, np.bool_)


class _Workspace(threading.local):
    """Buffers of one thread, grown as queries need; the accumulators are all zero between calls."""

    def __init__(self) -> None:
        self.sums16, self.sums32 = np.zeros(WINDOW, np.uint16), np.zeros(WINDOW, np.uint32)
        self.state = np.zeros(4, np.int64)
        self.slots = np.zeros(WINDOW, np.uint32)
        self.terms = self.k = -1  # nothing reserved, not even for a query without terms

    def reserve(self, terms: int, k: int) -> None:
        """Make room for a query of ``terms`` terms and ``k`` results."""
        if terms > self.terms:
            self.terms = terms = max(64, 2 * terms)
            self.first, self.last, self.cursor = (np.empty(terms, np.uint64) for _ in range(3))
            self.used = np.empty(terms, np.float32)
            self.rounded16, self.rounded32 = np.empty(terms, np.uint16), np.empty(terms, np.uint32)
        if k > self.k:
            self.k = k = max(128, k)
            capacity = 2 * k + 2 * kernels.SPARSE + kernels.CHUNK
            self.found_units, self.found_sums, self.work = (np.empty(capacity, np.uint32) for _ in range(3))
            self.top_scores, self.top_units = np.empty(k + capacity, np.float64), np.empty(k + capacity, np.uint32)


class SegmentScorer:
    """Exact top k over a segment; safe from several threads."""

    def __init__(self, segment: Segment) -> None:
        from ..index.layout import KTH_LEVELS

        self._segment = segment
        self._levels = np.array(KTH_LEVELS, np.int64)
        self._workspace = _Workspace()

    def search(
        self, terms: npt.ArrayLike, weights: npt.ArrayLike, k: int, allowed: Bools | None = None
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float64]]:
        """(units uint32, scores float64 without the scale) of the top k, best first; units that share no term are left
        out.

        ``terms``: integers ``[n]``, distinct, in any order. ``weights``: float32 ``[n]``, finite, >= 0.
        ``allowed``: bool ``[units]``, the units that may be found; None: all.
        Raises InputError for anything else, IntegrityError for damaged postings.
        """
        t, w = _query_arrays(terms, weights)
        s = self._segment
        ws = self._workspace
        k = min(k, s.units)
        ws.reserve(t.size, k)
        while True:
            code, n, bits, step, above, margin, ties, threshold = kernels.prepare(
                t, w, k, s.term_blocks, s.term_impacts, self._levels, s.touched,
                ws.first, ws.last, ws.used, ws.rounded16, ws.rounded32, _LIMITS,
            )  # fmt: skip
            if code == kernels.OK:
                break
            if code == kernels.UNTOUCHED:
                s.touch(t)
            elif code == kernels.UNSORTED:
                order = np.argsort(t, kind="stable")
                t, w = t[order], w[order]
                if (t[1:] == t[:-1]).any():
                    raise InputError("a query vector names a term twice; add up the weights of equal terms")
            elif code == kernels.BAD_TERM:
                raise InputError(f"term {t[n]} of the query is outside the index's vocabulary of {s.vocab_size}")
            else:
                raise InputError("query weights must be finite and not negative")
        if n == 0 or k == 0:
            return np.empty(0, np.uint32), np.empty(0, np.float64)
        try:
            if allowed is not None:
                threshold = 1  # the k-th largest impacts of a term may be of units that are excluded
            top = self._run(k, n, bits, step, above, margin, ties, threshold, _ALL if allowed is None else allowed)
        except BaseException:  # a KeyboardInterrupt between two kernels leaves sums behind
            self._workspace = _Workspace()
            raise
        return ws.top_units[:top].copy(), ws.top_scores[:top].copy()

    def _run(
        self,
        k: int,
        n: int,
        bits: int,
        step: float,
        above: float,
        margin: int,
        ties: bool,
        threshold: int,
        allowed: Bools,
    ) -> int:
        """Scan and score until the last window; the results are in the workspace. Returns how many there are."""
        s, ws = self._segment, self._workspace
        rounded: Sums
        sums: Sums
        rounded, sums = (ws.rounded16, ws.sums16) if bits == 16 else (ws.rounded32, ws.sums32)
        ws.cursor[:n] = ws.first[:n]
        ws.state[:] = 0, -1, 0, threshold
        top = 0
        done = False
        while not done:
            done = kernels.scan(
                ws.first[:n], ws.last[:n], rounded[:n], k, margin, s.block_windows, s.block_impacts, s.block_postings,
                s.posting_units, s.posting_impacts, s.units, allowed, sums, ws.cursor, ws.found_units, ws.found_sums,
                ws.work, ws.state,
            )  # fmt: skip
            top, threshold = kernels.take_exact(
                ws.state[kernels.FOUND], top, k, step, above, ties, ws.first[:n], ws.last[:n], ws.used[:n],
                s.block_windows, s.block_postings, s.posting_units, s.posting_impacts, ws.slots, ws.found_units,
                ws.work, ws.top_scores, ws.top_units,
            )  # fmt: skip
            ws.state[kernels.FOUND] = 0
            ws.state[kernels.THRESHOLD] = max(threshold, ws.state[kernels.THRESHOLD])
        return top


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
    return np.ascontiguousarray(t, np.int64), w
