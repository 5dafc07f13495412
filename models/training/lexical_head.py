"""A head for an encoder that has none: the closed form that makes a sentence encoder a lexical matcher before training.

An encoder trained for sentence similarity has no decoder, and a decoder tied to its word embeddings says little about
its last hidden states. But the states still tell which token they stand at. Let ``E`` be the centred embeddings and
``h`` a hidden state, centred, at a token ``t``. The linear map ``W`` that minimizes the weighted squares of

    E W h - onehot(t)        is        (E'E)^-1  (sum of w E[t] h')  (sum of w h h')^-1

After it the largest logit of most positions is the token's own, and the next ones are its neighbours in meaning: a
SPLADE encoder with one or two hundred terms a document, where a decoder without such a fit starts with 29,000. ``w``
is one over the square root of the token's frequency, so that function words do not decide.

BERT's transform is dense, gelu, layer norm. A large constant in the dense bias makes gelu the identity, and the layer
norm takes it out again with the mean; so the map fits into a plain BertForMaskedLM.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .encoder import SparseEncoder

# gelu(x) = x for x > 6 in float32; the mapped states have unit variance.
_LIFT = 10.0
# Of the weights' sum, on the diagonal.
_RIDGE = 1e-3
# Positions that the scale of the logits is measured on.
_SCALE_POSITIONS = 20_000


@torch.inference_mode()
def lexical_map(
    encoder: SparseEncoder, texts: Sequence[Sequence[int]], silent: Tensor, *, batch: int = 32
) -> tuple[Tensor, Tensor, float]:
    """Fit a linear map from hidden states to tokens, and the mean hidden state.

    Memory does not grow with the texts.

    Parameters
    ----------
    encoder : SparseEncoder
        The encoder.
    texts : sequence of sequence of int
        The token ids of each text.
    silent : bool tensor ``[vocab]``
        Terms that are not fitted.
    batch : int
        Texts of a batch.

    Returns
    -------
    tuple of float32 tensor ``[width, width]``, float32 tensor ``[width]`` and float
        The map, the mean, and the mean logit of a position's own token when mapped states have unit length.
    """
    embeddings = encoder.decoder.weight.float()
    vocabulary, width = embeddings.shape
    common = embeddings[~silent].mean(dim=0)
    e = embeddings - common
    counts = torch.bincount(torch.tensor([token for text in texts for token in text]), minlength=vocabulary)
    token_weight = counts.clamp(min=1).rsqrt() * ~silent
    # Sums over positions: of h, w, w h, w e, w h h', w e h'.
    h_sum, wh_sum, we_sum = torch.zeros(3, width, dtype=torch.float64).unbind()
    whh, weh = torch.zeros(2, width, width, dtype=torch.float64).unbind()
    positions, w_sum = 0, 0.0
    sample: list[tuple[Tensor, Tensor]] = []
    for h, t in _states(encoder, texts, batch):
        w = token_weight[t].unsqueeze(1)
        h_sum += h.sum(dim=0)
        wh_sum += (w * h).sum(dim=0)
        we_sum += (w * e[t]).sum(dim=0)
        whh += (w * h).T @ h
        weh += (w * e[t]).T @ h
        w_sum += float(w.sum())
        if positions < _SCALE_POSITIONS:
            sample.append((h, t))
        positions += len(t)
    centre = h_sum / positions
    outer = torch.outer(wh_sum, centre)
    covariance = whh - outer - outer.T + w_sum * torch.outer(centre, centre)
    cross = weh - torch.outer(we_sum, centre)
    gram = (e[~silent].T @ e[~silent]).double()
    ridge = _RIDGE * w_sum * torch.eye(width, dtype=torch.float64)
    w = (torch.linalg.solve(gram, cross) @ torch.linalg.inv(covariance + ridge)).float()
    # What all embeddings have in common would move all logits of a position together, and the layer norm takes the
    # mean over the width out: neither may carry anything.
    w = w - w.mean(dim=0, keepdim=True)
    unit = common / common.norm()
    w = w - torch.outer(unit, unit @ w)
    h, t = (torch.cat(part) for part in zip(*sample, strict=True))
    mapped = (h - centre.float()) @ w.T
    own = (torch.nn.functional.normalize(mapped, dim=1) * embeddings[t]).sum(dim=1)[~silent[t]].mean()
    return w / mapped.std(), centre.float(), float(own)


def _states(encoder: SparseEncoder, texts: Sequence[Sequence[int]], batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Hidden states float32 ``[positions, width]`` and their tokens ``[positions]``, some texts at a time."""
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    for start in range(0, len(order), batch):
        chosen = [texts[i] for i in order[start : start + batch]]
        hidden = encoder.hidden(chosen).float()
        yield (
            torch.cat([hidden[row, : len(text)] for row, text in enumerate(chosen)]),
            torch.tensor([token for text in chosen for token in text]),
        )


@torch.no_grad()
def install_lexical_head(encoder: SparseEncoder, w: Tensor, centre: Tensor, scale: float) -> None:
    """Write a map into the head, so that a position's logits are ``scale`` times those of a unit vector.

    Parameters
    ----------
    encoder : SparseEncoder
        The encoder; it is changed.
    w : float32 tensor ``[width, width]``
        The map.
    centre : float32 tensor ``[width]``
        The mean hidden state.
    scale : float
        The length of the vectors that the decoder multiplies.
    """
    encoder.dense.weight.copy_(w)
    encoder.dense.bias.copy_(_LIFT - w @ centre)
    encoder.norm.weight.fill_(scale / w.shape[0] ** 0.5)
    encoder.norm.bias.zero_()


def install_identity_head(encoder: SparseEncoder, scale: float) -> None:
    """Write a head that normalizes hidden states and changes nothing else (see :func:`install_lexical_head`).

    Parameters
    ----------
    encoder : SparseEncoder
        The encoder; it is changed.
    scale : float
        The length of the vectors that the decoder multiplies.
    """
    width = encoder.dense.weight.shape[0]
    install_lexical_head(encoder, torch.eye(width), torch.zeros(width), scale)
