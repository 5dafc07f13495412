"""In how many of some units each term occurs, by a kernel; :func:`.numpy_search.count` is the same in NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import WINDOW, WINDOW_BITS
from .arrays import I64, U8, U16, U64, Bools
from .numba_cache import kernel

if TYPE_CHECKING:
    from ..index.segment import Segment


@kernel
def count_in_lists(
    term_blocks: U64, windows: U16, block_postings: U64, units: U16, chosen: U8, wanted: U8, counts: I64
) -> None:
    """``counts[t]`` becomes how many postings of term ``t`` have a unit that is ``chosen``, 0 or 1 by place, whole
    windows; only windows that are ``wanted`` are looked at.
    """
    for t in range(counts.size):
        count = np.int64(0)
        for b in range(term_blocks[t], term_blocks[t + 1]):
            window = np.int64(windows[b])
            if wanted[window]:
                inside = chosen[window << WINDOW_BITS : (window + 1) << WINDOW_BITS]
                for p in range(block_postings[b], block_postings[b + 1]):
                    count += np.int64(inside[units[p]])
        counts[t] = count


def count(segment: Segment, places: Bools) -> I64:
    """As :func:`.numpy_search.count`."""
    whole = np.zeros((-(-places.size // WINDOW), WINDOW), np.uint8)
    whole.reshape(-1)[: places.size] = places
    wanted = np.asarray(whole.any(axis=1), np.uint8)
    counts = np.zeros(segment.vocab_size, np.int64)
    count_in_lists(
        segment.term_blocks, segment.block_windows, segment.block_postings, segment.posting_units, whole.reshape(-1),
        wanted, counts,
    )  # fmt: skip
    return counts
