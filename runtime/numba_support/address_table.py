"""Arrays handed to a kernel as one address.

Numba takes 0.1 to 0.2 µs to take an array argument apart, and more for a read-only one. Forty arrays take longer than a
short query. So an :class:`AddressTable` holds the address and the size of each array, and the kernel makes the arrays
again with :func:`array_at`. Whoever makes a table keeps it for as long as kernels use its address.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba import types
from numba.extending import intrinsic

from .internals import array_from_address


class AddressTable:
    """Address and size of each array, then plain numbers, as uint64 at :attr:`address`. Keeps the arrays alive.

    Parameters
    ----------
    arrays
        Contiguous (C order), aligned arrays of any type.
    numbers
        Whole numbers, not negative.

    Raises
    ------
    ValueError
        If an array is not contiguous or not aligned.
    """

    def __init__(self, arrays: Sequence[npt.NDArray[Any]], numbers: Sequence[int] = ()) -> None:
        if not all(array.flags.c_contiguous and array.flags.aligned for array in arrays):
            raise ValueError("a kernel takes contiguous, aligned arrays")
        pairs = [(array.ctypes.data, array.size) for array in arrays]
        self._arrays = tuple(arrays)
        self._table = np.array([value for pair in pairs for value in pair] + list(numbers), np.uint64)
        self.address: int = self._table.ctypes.data


if numba.config.DISABLE_JIT:

    def array_at(address: Any, shape: Any, dtype: Any) -> Any:
        """Return the array of ``shape`` (a tuple of int64) and ``dtype`` (NumPy's) at an address (int64)."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size == 0:
            return np.empty(shape, dtype)
        return np.frombuffer((ctypes.c_byte * size).from_address(int(address)), dtype).reshape(shape)

else:

    @intrinsic  # type: ignore[untyped-decorator]
    def array_at(_typing: Any, address: Any, shape: Any, dtype: Any) -> Any:
        """Return the array of ``shape`` (a tuple of int64) and ``dtype`` (NumPy's) at an address (int64)."""
        array = types.Array(dtype.instance_type, len(shape), "C")

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            lengths = [builder.extract_value(args[1], i) for i in range(array.ndim)]
            return array_from_address(context, builder, array, args[0], lengths)

        return array(address, shape, dtype), generate
