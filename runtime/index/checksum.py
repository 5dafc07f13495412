"""The checksum of a posting list and of a row of block-max data."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt


def checksum(*arrays: npt.NDArray[Any]) -> int:
    """CRC-32 of the bytes of contiguous arrays, one after the other; 0 of none."""
    value = 0
    for array in arrays:
        if array.size:
            value = zlib.crc32(array.view(np.uint8).data, value)
    return value
