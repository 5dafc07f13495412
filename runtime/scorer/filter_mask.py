"""What a search is asked: the query's arrays, and which units may be found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..forking import cached_property, undivided
from ..numba_support.arrays import U8, U32, Bools
from . import BLOCK_SIZE

if TYPE_CHECKING:
    from ..numba_support.address_table import AddressTable

MAX_TERMS = 1 << 20
# NumPy looks a dtype up more slowly by its scalar type.
_I64, _F32 = np.dtype(np.int64), np.dtype(np.float32)


class AllowedUnits:
    """A filter: which units of a segment may be found."""

    def __init__(self, units: Bools, chunks: U8, excluded: int) -> None:
        """``units`` bool ``[units]`` in the segment's own order, and False in memory beyond, up to a whole number of
        chunks: kernels read a chunk at a time. ``chunks`` uint8: 1 where a chunk has one.
        """
        self.units = units
        self._chunks = chunks
        self._excluded = excluded

    @classmethod
    def of(cls, units: Bools, original: U32) -> AllowedUnits:
        """The filter that lets the units pass where ``units``, bool by unit, is True. ``original``: the segment's own
        order, empty where it has none.
        """
        padded = np.zeros(-(-units.size // BLOCK_SIZE) * BLOCK_SIZE, np.bool_)
        padded[: units.size] = units[original] if original.size else units
        eights = padded.view(np.uint64).reshape(-1, BLOCK_SIZE // 8)
        chunks = np.bitwise_or.reduce(eights, axis=1) != 0
        return cls(padded[: units.size], chunks.view(np.uint8), units.size - int(np.count_nonzero(units)))

    @property
    def address(self) -> int:
        """Where the kernels find it; asking for it loads Numba."""
        return self._table.address

    @cached_property
    def _table(self) -> AddressTable:
        with undivided:
            from ..numba_support.address_table import AddressTable

        return AddressTable((self.units, self._chunks), (self._excluded,))


def query_arrays(terms: npt.ArrayLike, weights: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Terms as int64 and weights as float32, contiguous, of our own: to Numba, a read-only array is another type.

    Raises InputError for what cannot be a query vector.
    """
    try:
        if not isinstance(terms, np.ndarray):
            terms = np.asarray(terms)
        # an array's own method takes half the time of np.array
        w = weights.astype(_F32, "C") if type(weights) is np.ndarray else np.array(weights, _F32)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"terms and weights must be arrays of numbers ({error})") from None
    if terms.dtype.kind not in "iu" and terms.size:
        raise InputError(f"terms must be integers, not {terms.dtype}")
    if terms.ndim != 1 or terms.shape != w.shape or terms.size > MAX_TERMS:
        raise InputError(f"terms and weights must be two arrays of one length, at most {MAX_TERMS}")
    return terms.astype(_I64, "C") if type(terms) is np.ndarray else np.array(terms, _I64), w
