"""Masks of documents that nobody can change, so that what was computed of them can be kept."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


def frozen(mask: Mask) -> Mask:
    """Copy a mask so that it cannot be made writable again.

    Parameters
    ----------
    mask
        bool ``[n]``.

    Returns
    -------
    Mask
        bool ``[n]``; its identity stands for its content.
    """
    return np.frombuffer(mask.tobytes(), np.bool_)


def is_frozen(mask: object) -> bool:
    """Whether an object is an array that :func:`frozen` made."""
    base: object = mask.base if isinstance(mask, np.ndarray) else None
    return type(base) is bytes
