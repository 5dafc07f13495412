"""Whether a text's logits depend on the padding of its batch, found by running the model.

Convolutions, Fourier transforms, pooled attention and hashing look across a text's end. What such a model gives a text
alone is what the text means to it, so its graphs are run one text at a time.
"""

from __future__ import annotations

from typing import Any

import torch

from ..runtime.errors import CheckpointError
from .head import embedding_rows, run_model

# Allowed difference of a weight log(1 + relu(logit)), as a share of the largest: what an artifact promises of a text in
# any batch. Rounding is below a hundredth of it, and the architectures that look at padding are above 1,000 times it.
TOLERANCE = 1e-4
PADDING_NOTE = "its vectors depend on the padding of a batch; texts are encoded one at a time"
_SHORT = 6
_LONG = (16, 64, 200)
# Tokens of the longest batch, for models with large vocabularies.
_LOGITS = 1 << 26


def depends_on_padding(model: Any, pad_id: int, longest: int) -> bool:
    """Tell whether a text of a few tokens gets other weights beside longer ones.

    A model that cannot be run on a padded batch depends on it, too.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The model, float32, in evaluation mode.
    pad_id : int
        The id that the shorter text is filled with, masked.
    longest : int
        Tokens of the longest text to try.

    Returns
    -------
    bool
        Whether it does.

    Raises
    ------
    CheckpointError
        If the model cannot be run on a text alone.
    """
    pad_id = pad_id if pad_id < embedding_rows(model) else 0
    short = _ids(model, pad_id, _SHORT)[None, :longest]
    alone = _weights(model, short, torch.ones_like(short))
    largest = max(float(alone.max()), 1e-6)
    for length in sorted({min(length, longest) for length in _LONG}):
        if length <= short.shape[1] or (length > _LONG[0] and 2 * length * alone.shape[-1] > _LOGITS):
            continue
        batch = torch.stack([_ids(model, pad_id, length), torch.full((length,), pad_id)])
        batch[1, : short.shape[1]] = short[0]
        mask = torch.ones_like(batch)
        mask[1, short.shape[1] :] = 0
        try:
            beside = _weights(model, batch, mask)[1, : short.shape[1]]
        except CheckpointError:
            return True
        # "not <=" so that a NaN counts as a difference.
        if not float((beside - alone[0]).abs().max()) <= TOLERANCE * largest:
            return True
    return False


def _weights(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.log1p(torch.relu(run_model(model, ids, mask)))


def _ids(model: Any, pad_id: int, length: int) -> torch.Tensor:
    """Int64 ``[length]``: tokens from all over the vocabulary, none of them padding."""
    known = [i for i in range(embedding_rows(model)) if i != pad_id]
    # A stride of about the golden ratio spreads them, and does not repeat soon.
    stride = max(1, int(len(known) * 0.618))
    return torch.tensor([known[(1 + i * stride) % len(known)] for i in range(length)])
