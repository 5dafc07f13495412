"""A head for an encoder that has none: the closed form that makes a sentence encoder a lexical matcher before training.

An encoder trained for sentence similarity has no decoder, and a decoder tied to its word embeddings says little about
its last hidden states. But the states still tell which token they stand at. Let ``E`` be the centred embeddings and
``h`` a hidden state, centred, at a token ``t``. The linear map ``W`` that minimizes the weighted squares of

    E W h - onehot(t)        is        (E'E)^-1  (sum of w E[t] h')  (sum of w h h')^-1

After it the largest logit of most positions is the token's own, and the next ones are its neighbours in meaning: a
SPLADE encoder with some 200 terms a document, where a decoder without such a fit starts with 29,000. ``w`` is one over
the square root of the token's frequency, so that function words do not decide.

BERT's transform is dense, gelu, layer norm. A large constant in the dense bias makes gelu the identity, and the layer
norm takes it out again with the mean; so the map fits into a plain BertForMaskedLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .encoder import SparseEncoder

# gelu(x) = x for x > 6 in float32; the mapped states have unit variance.
_LIFT = 10.0


@torch.inference_mode()
def lexical_map(
    encoder: SparseEncoder, texts: Sequence[Sequence[int]], silent: Tensor, *, batch: int = 32
) -> tuple[Tensor, Tensor, float]:
    """Fit ``W`` and the mean hidden state from token ids of texts.

    ``silent``: bool ``[vocab]``, terms that are not fitted. Returns float32 ``[width, width]``, ``[width]``, and the
    mean logit of a position's own token when mapped states have unit length.
    """
    embeddings = encoder.decoder.weight.float()
    vocabulary, width = embeddings.shape
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    states, tokens = [], []
    for start in range(0, len(order), batch):
        chosen = [texts[i] for i in order[start : start + batch]]
        hidden = encoder.hidden(chosen)
        for row, text in enumerate(chosen):
            states.append(hidden[row, : len(text)].float())
            tokens.append(torch.tensor(text))
    h, t = torch.cat(states), torch.cat(tokens)
    frequency = torch.bincount(t, minlength=vocabulary)
    weight = frequency[t].rsqrt() * ~silent[t]
    centre = h.mean(dim=0)
    h = h - centre
    common = embeddings[~silent].mean(dim=0)
    e = embeddings - common
    gram = e[~silent].T @ e[~silent]
    weighted = h * weight.unsqueeze(1)
    ridge = 1e-3 * weight.sum() * torch.eye(width)
    w = torch.linalg.solve(gram, e[t].T @ weighted) @ torch.linalg.inv(weighted.T @ h + ridge)
    # What all embeddings have in common would move all logits of a position together, and the layer norm takes the mean
    # over the width out: neither may carry anything.
    w = w - w.mean(dim=0, keepdim=True)
    unit = common / common.norm()
    w = w - torch.outer(unit, unit @ w)
    mapped = torch.nn.functional.normalize(h @ w.T, dim=1)
    own = (mapped * embeddings[t]).sum(dim=1)[~silent[t]].mean()
    return w / (h @ w.T).std(), centre, float(own)


@torch.no_grad()
def install_lexical_head(model: Any, w: Tensor, centre: Tensor, scale: float) -> None:
    """Write the map into a BERT head, so that a position's logits are ``scale`` times a unit vector's."""
    transform = model.cls.predictions.transform
    width = w.shape[0]
    transform.dense.weight.copy_(w)
    transform.dense.bias.copy_(_LIFT - w @ centre)
    transform.LayerNorm.weight.fill_(scale / width**0.5)
    transform.LayerNorm.bias.zero_()


@torch.no_grad()
def install_identity_head(model: Any, scale: float) -> None:
    """Let hidden states through, normalized, as :func:`install_lexical_head`."""
    transform = model.cls.predictions.transform
    width = transform.dense.weight.shape[0]
    transform.dense.weight.copy_(torch.eye(width))
    transform.dense.bias.fill_(_LIFT)
    transform.LayerNorm.weight.fill_(scale / width**0.5)
    transform.LayerNorm.bias.zero_()
