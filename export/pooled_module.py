"""The graph that is exported: token ids and mask in, SPLADE weights ``[batch, vocab]`` out.

For max pooling the order of the papers is changed without changing the result. ``max`` commutes with every
non-decreasing function, so the maximum over the sequence comes first and bias, relu and log1p work on
``[batch, vocab]`` instead of ``[batch, length, vocab]``. Padding is kept out of the maximum by replacing the hidden
rows of padded positions with the first attended row (a "row mask"), which adds no candidate to the maximum.

Masking ``[batch, length, hidden]`` instead of the logits ``[batch, length, vocab]`` is the cheaper way. Measured on
the default query encoder, one thread, ONNX Runtime fp32: row mask 1.34 / 1.66 / 2.99 ms at 1x8 / 1x16 / 1x32, logit
mask 1.47 / 1.85 / 3.36 ms; 8x64: 57 against 68 ms. Taking the first *attended* row instead of row 0 costs nothing that
can be measured and makes left padding right; a row without any attended position gets the zero vector.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..models.checkpoint import Checkpoint
from ..models.families import COMMUTING_POOLINGS
from ..models.head import Decoder, HiddenTap, find_decoder
from ..models.pooling import ACTIVATIONS, POOLINGS


def pooled_graph(checkpoint: Checkpoint) -> nn.Module:
    """Build the module to export for a checkpoint.

    Further inputs of an architecture (BERT's ``token_type_ids``) are left to its defaults, which are constants inside
    the graph. The parameters are those of ``checkpoint.model``, so tied weights stay tied; the model is not changed.

    Parameters
    ----------
    checkpoint : Checkpoint
        An encoder with a model.

    Returns
    -------
    torch.nn.Module
        ``forward(input_ids, attention_mask) -> weights``: int64 ``[batch, length]`` twice, float32 ``[batch,
        vocab_size]``.

    References
    ----------
    Formal et al., "SPLADE v2", arXiv:2109.10086, for the arithmetic.
    """
    if checkpoint.pooling not in COMMUTING_POOLINGS:
        return _PoolLast(checkpoint).eval()
    decoder = find_decoder(checkpoint.model)
    return (_PoolLogits(checkpoint) if decoder is None else _PoolFirst(checkpoint, decoder)).eval()


class _Pooled(nn.Module):
    """A model with its pooling and activation."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.encoder: Any = checkpoint.model
        self.pooling = POOLINGS[checkpoint.pooling]
        self.activation = ACTIVATIONS[checkpoint.activation]

    def logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Float ``[batch, length, vocab]``."""
        logits: Tensor = self.encoder(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


class _PoolFirst(_Pooled):
    """max over the sequence, then bias, activation."""

    def __init__(self, checkpoint: Checkpoint, decoder: Decoder) -> None:
        super().__init__(checkpoint)
        self.hidden = HiddenTap(checkpoint.model, decoder)
        self.weight = decoder.weight
        # In one dimension here and not in forward(): PyTorch folds small constants only, and a decoder is found in an
        # int8 graph by its bias being stored.
        bias = decoder.bias
        if bias is not None and bias.dim() > 1:
            bias = nn.Buffer(bias.detach().reshape(-1))
        self.bias = bias

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = _attended_rows(self.hidden(input_ids, attention_mask), attention_mask)
        pooled = self.pooling(nn.functional.linear(hidden, self.weight))
        if self.bias is not None:
            pooled = pooled + self.bias
        return self.activation(pooled) * attention_mask.amax(dim=1, keepdim=True)


class _PoolLogits(_Pooled):
    """max over the logits of the whole model, then activation."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        pooled = self.pooling(_attended_rows(self.logits(input_ids, attention_mask), attention_mask))
        return self.activation(pooled) * attention_mask.amax(dim=1, keepdim=True)


class _PoolLast(_Pooled):
    """Activation of every logit, then pooling: for poolings that do not commute with the activation."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        weights = self.activation(self.logits(input_ids, attention_mask))
        return self.pooling(weights * attention_mask.unsqueeze(-1))


def _attended_rows(values: Tensor, attention_mask: Tensor) -> Tensor:
    """``values`` ``[batch, length, width]`` with those of the first attended position in place of padded ones'."""
    first = attention_mask.argmax(dim=1, keepdim=True).unsqueeze(-1).expand(-1, -1, values.shape[-1])
    return torch.where(attention_mask.unsqueeze(-1) > 0, values, values.gather(1, first))
