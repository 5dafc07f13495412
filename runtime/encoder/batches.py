"""Grouping texts of similar length, so that little is computed on padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt


def next_batch(lengths: Mapping[int, int], token_budget: int) -> list[int]:
    """The first key of ``lengths`` and those nearest to it in length, while keys x longest stays in ``token_budget``.

    ``lengths``: waiting texts, oldest first, and their tokens. Starting from the oldest lets results leave in order
    without waiting for the whole window. At least one key is returned.
    """
    oldest = next(iter(lengths))
    batch = [oldest]
    longest = lengths[oldest]
    for key in sorted(lengths, key=lambda key: abs(lengths[key] - lengths[oldest])):
        if key == oldest:
            continue
        longest = max(longest, lengths[key])
        if (len(batch) + 1) * longest > token_budget:
            break
        batch.append(key)
    return batch


def pad_right(ids: Sequence[Sequence[int]], pad_id: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Token ids and mask, both int64 ``[batch, longest]``, of token id lists."""
    longest = max(len(row) for row in ids)
    input_ids = np.full((len(ids), longest), pad_id, np.int64)
    mask = np.zeros((len(ids), longest), np.int64)
    for i, row in enumerate(ids):
        input_ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return input_ids, mask
