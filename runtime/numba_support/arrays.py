"""Short names for the arrays that kernels take, element type and width; and where they begin."""

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
# Accumulators of the scan, and its weights: whole numbers where their sums are exact; or accumulators of bounds.
Sums = npt.NDArray[np.uint16] | npt.NDArray[np.int64] | npt.NDArray[np.float64]

_LINE = 64  # bytes in a cache line


def cacheline_aligned(size: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Zeros that begin with a cache line: a vector register's load that lies across two takes two loads."""
    room = np.zeros(size * np.dtype(dtype).itemsize + _LINE, np.uint8)
    start = -room.ctypes.data % _LINE
    return room[start : start + room.size - _LINE].view(dtype)
