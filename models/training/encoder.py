"""The encoder in training: token ids to SPLADE weights, with a backward pass as sparse as the weights are.

    weight[t] = log(1 + relu(max over positions p of (hidden[p] . embedding[t]) + bias[t]))

After the maximum, at most one position a term gets a gradient, and only where the weight is above 0: a few hundred of
30,522 terms. So the logits are never kept; the backward pass finds the positions again for the active terms alone.
With 96 tokens this needs a third of the arithmetic of automatic differentiation and none of its memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class _MaxLogits(torch.autograd.Function):
    """Maximum logits over positions.

    ``hidden``: ``[batch, length, width]``; ``lengths``: positions that count, a list of ints; ``embeddings``:
    ``[vocab, width]``; ``bias``: ``[vocab]``. Returns float32 ``[batch, vocab]``; terms whose maximum is not above 0
    get no gradient, as the relu that follows gives them none.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, lengths: list[int], embeddings: Tensor, bias: Tensor) -> Tensor:
        out = torch.empty(len(lengths), embeddings.shape[0], device=hidden.device, dtype=torch.float32)
        columns = embeddings.to(hidden.dtype).T  # once, not once a text: under autocast they differ
        for row, length in enumerate(lengths):
            out[row] = (hidden[row, :length] @ columns).amax(dim=0)
        out += bias
        ctx.save_for_backward(hidden, embeddings, out)
        ctx.lengths = lengths
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        hidden, embeddings, out = ctx.saved_tensors
        grad = grad * (out > 0)
        needs_hidden, _, needs_embeddings, needs_bias = ctx.needs_input_grad
        grad_hidden = torch.zeros_like(hidden) if needs_hidden else None
        grad_embeddings = torch.zeros_like(embeddings) if needs_embeddings else None
        for row, length in enumerate(ctx.lengths):
            active = grad[row].nonzero()[:, 0]
            rows = embeddings[active].to(hidden.dtype)
            position = (hidden[row, :length] @ rows.T).argmax(dim=0)
            weight = grad[row, active].unsqueeze(1)
            if grad_hidden is not None:
                grad_hidden[row].index_add_(0, position, (weight * rows).to(hidden.dtype))
            if grad_embeddings is not None:
                grad_embeddings.index_add_(0, active, (weight * hidden[row, position]).to(embeddings.dtype))
        return grad_hidden, None, grad_embeddings, grad.sum(dim=0) if needs_bias else None


class SparseEncoder(nn.Module):
    """A BERT-like masked-language model as a SPLADE encoder. ``model``: a transformers model with a tied decoder."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.dense, self.norm, self.decoder = head_of(model)
        # The longest text it takes, in tokens.
        self.positions = int(model.config.max_position_embeddings)

    def forward(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Encode texts.

        Parameters
        ----------
        texts : sequence of sequence of int
            The token ids of each text, special ones included.

        Returns
        -------
        float32 tensor ``[len(texts), vocab]``
            The weights.
        """
        return torch.log1p(torch.relu(self.logits(texts)))

    def logits(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """The maximum logits of each text.

        Parameters
        ----------
        texts : sequence of sequence of int
            The token ids of each text.

        Returns
        -------
        float32 tensor ``[len(texts), vocab]``
            For each term the largest logit of any position.
        """
        lengths = [len(text) for text in texts]
        hidden = self.transformed(self.hidden(texts))
        if torch.is_autocast_enabled(hidden.device.type):
            # A layer norm gives float32 under CUDA's autocast. The backward pass runs without autocast: it finds
            # the same maxima only if both multiply in the same precision.
            hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
        result: Tensor = _MaxLogits.apply(hidden, lengths, self.decoder.weight, self.decoder.bias)  # type: ignore[no-untyped-call]
        return result

    def hidden(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """The last hidden states.

        Parameters
        ----------
        texts : sequence of sequence of int
            The token ids of each text.

        Returns
        -------
        tensor ``[len(texts), longest, width]``
            The states.
        """
        ids, mask = padded(texts, self.decoder.weight.device)
        states: Tensor = self.model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
        return states

    def transformed(self, states: Tensor) -> Tensor:
        """What the decoder multiplies.

        Parameters
        ----------
        states : tensor ``[..., width]``
            Hidden states.

        Returns
        -------
        tensor ``[..., width]``
            The states after the head's dense layer, activation and layer norm.
        """
        if hasattr(self.model, "cls"):
            states = self.model.cls.predictions.transform(states)
        else:
            states = self.norm(self.model.activation(self.dense(states)))
        return states


def padded(texts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Pad texts on the right with 0.

    Parameters
    ----------
    texts : sequence of sequence of int
        The token ids of each text.
    device : torch.device
        Where the tensors go.

    Returns
    -------
    tuple of int64 tensor ``[len(texts), longest]``
        Token ids and attention mask.
    """
    longest = max(map(len, texts))
    ids = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts], device=device)
    mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts], device=device)
    return ids, mask


def head_of(model: Any) -> tuple[nn.Linear, nn.LayerNorm, nn.Linear]:
    """Find the parts of a head.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A masked-language model.

    Returns
    -------
    tuple of Module
        Dense layer, layer norm (an activation lies between them), decoder.

    Raises
    ------
    ValueError
        If the model has another head.
    """
    if hasattr(model, "cls"):  # BERT
        predictions = model.cls.predictions
        return predictions.transform.dense, predictions.transform.LayerNorm, predictions.decoder
    if hasattr(model, "vocab_transform"):  # DistilBERT
        return model.vocab_transform, model.vocab_layer_norm, model.vocab_projector
    raise ValueError(f"a {type(model).__name__} cannot be trained; BERT and DistilBERT can")
