"""What a search is asked: the query's arrays, and which units may be found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from . import CHUNK
from .arrays import U8, U32, Bools

MAX_TERMS = 1 << 20


@dataclass(frozen=True)
class AllowedUnits:
    """A filter: ``units`` bool ``[units]`` in the segment's own order, ``chunks`` uint8: 1 where a chunk has one."""

    units: Bools
    chunks: U8
    excluded: int

    @classmethod
    def of(cls, units: Bools, original: U32) -> AllowedUnits:
        """The filter that lets the units pass where ``units``, bool by unit, is True. ``original``: the segment's own
        order, empty where it has none.
        """
        if original.size:
            units = units[original]
        units = writeable(units)
        firsts = np.arange(0, units.size, CHUNK)
        chunks = np.logical_or.reduceat(units, firsts) if units.size else units
        return cls(units, chunks.view(np.uint8), units.size - int(np.count_nonzero(units)))


def query_arrays(terms: npt.ArrayLike, weights: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
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
    return writeable(np.ascontiguousarray(t, np.int64)), writeable(w)


def writeable(array: Any) -> Any:
    """The array, or a copy of one that is read-only: to Numba that is another type, which it would compile for."""
    return array if array.flags.writeable else array.copy()
