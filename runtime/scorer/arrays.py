"""Short names for the arrays that kernels take: element type and width."""

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
# Accumulators of the scan, and its weights: whole numbers where their sums are exact.
Sums = npt.NDArray[np.int64] | npt.NDArray[np.float64]
