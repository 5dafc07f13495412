"""Type names for the arrays that kernels take, by element type and width; and arrays aligned to cache lines."""

from typing import Any

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
# Accumulators of the scan, and its weights: fixed point where their sums are exact; or accumulators of upper bounds.
Sums = npt.NDArray[np.uint16] | npt.NDArray[np.int64] | npt.NDArray[np.float64]

_LINE = 64  # bytes in a cache line


def cacheline_aligned(size: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return an array of zeros that begins with a cache line. A vector load across two lines costs two loads.

    Parameters
    ----------
    size
        Number of elements.
    dtype
        Type of the elements.

    Returns
    -------
    numpy.ndarray
        ``[size]``, contiguous.
    """
    padded = np.zeros(size * np.dtype(dtype).itemsize + _LINE, np.uint8)
    start = -padded.ctypes.data % _LINE
    return padded[start : start + padded.size - _LINE].view(dtype)
