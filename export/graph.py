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

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..models.checkpoint import Checkpoint
from ..models.families import COMMUTING_POOLINGS
from ..models.pooling import ACTIVATIONS, POOLINGS
from ..models.weights import decoder_name
from ..runtime.errors import CheckpointError


def pooled_graph(checkpoint: Checkpoint) -> nn.Module:
    """The module to export for a checkpoint: ``forward(input_ids, attention_mask) -> weights``.

    Both inputs are int64 ``[batch, length]``; ``weights`` is float32 ``[batch, vocab_size]``. Further inputs of an
    architecture (BERT's ``token_type_ids``) are left to its defaults, which are constants inside the graph. Parameters
    are shared with ``checkpoint.model``, so tied weights stay tied; the checkpoint's model is not changed.
    """
    kind = _PoolFirst if checkpoint.pooling in COMMUTING_POOLINGS else _PoolLast
    return kind(checkpoint).eval()


class _PoolFirst(nn.Module):
    """max over the sequence, then bias, activation."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.encoder, self.decoder = _split_decoder(checkpoint.model)
        self.pooling = POOLINGS[checkpoint.pooling]
        self.activation = ACTIVATIONS[checkpoint.activation]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).logits
        first = attention_mask.argmax(dim=1, keepdim=True).unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
        hidden = torch.where(attention_mask.unsqueeze(-1) > 0, hidden, hidden.gather(1, first))
        pooled = self.pooling(nn.functional.linear(hidden, self.decoder.weight))
        if self.decoder.bias is not None:
            pooled = pooled + self.decoder.bias
        return self.activation(pooled) * attention_mask.amax(dim=1, keepdim=True)


class _PoolLast(nn.Module):
    """Activation of every logit, then pooling: for poolings that do not commute with the activation."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.encoder: Any = checkpoint.model
        self.pooling = POOLINGS[checkpoint.pooling]
        self.activation = ACTIVATIONS[checkpoint.activation]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits = self.encoder(input_ids=input_ids, attention_mask=attention_mask).logits
        return self.pooling(self.activation(logits) * attention_mask.unsqueeze(-1))


def _split_decoder(model: Any) -> tuple[Any, nn.Linear]:
    """A copy of ``model`` that stops before its decoder (its "logits" are the decoder's input), and the decoder.

    Only the module tree is copied; the parameters are the same objects. Raises CheckpointError if the logits do not
    come out of one linear layer.
    """
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}
    encoder = copy.deepcopy(model, tensors)
    name = decoder_name(encoder)
    decoder = encoder.get_submodule(name) if name else None
    if name is None or not isinstance(decoder, nn.Linear):
        raise CheckpointError(f"{type(model).__name__} has no linear decoder, so its graph cannot be pooled before it")
    parent, _, leaf = name.rpartition(".")
    setattr(encoder.get_submodule(parent), leaf, nn.Identity())
    return encoder, decoder
