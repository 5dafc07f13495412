"""What a step minimizes: contrastive and distillation losses on scores, and the regularizers that make vectors
sparse.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .settings import Penalty, RegularizerSettings


def contrastive_loss(scores: Tensor, positive: Tensor, relevant: Tensor) -> Tensor:
    """Cross-entropy of the positive among all documents of the batch, other relevant ones left out.

    ``scores``: ``[batch, columns]``; ``positive``: int64 ``[batch]``; ``relevant``: bool ``[batch, columns]``.
    """
    others = relevant.clone()
    others[torch.arange(len(positive)), positive] = False
    return F.cross_entropy(scores.masked_fill(others, -torch.inf), positive)


def distillation_loss(scores: Tensor, teacher: Tensor) -> Tensor:
    """KL divergence from the teacher's to the student's distribution over the documents of the batch, mean over
    queries.
    """
    return F.kl_div(scores.log_softmax(dim=1), teacher.log_softmax(dim=1), reduction="batchmean", log_target=True)


def imitation_loss(vectors: Tensor, teacher: Tensor) -> Tensor:
    """Squared error relative to the teacher vectors' squared length. Both: ``[batch, vocab]``."""
    return ((vectors - teacher) ** 2).sum() / (teacher**2).sum().clamp(min=1e-6)


def penalty(kind: Penalty, vectors: Tensor) -> Tensor:
    """``l1``: mean over texts of the sum of weights. ``flops``: sum over terms of the squared mean weight (Paria et
    al. 2020).
    """
    if kind == "l1":
        return vectors.sum(dim=1).mean()
    if kind == "flops":
        return (vectors.mean(dim=0) ** 2).sum()
    return vectors.new_zeros(())


class Regularizer:
    """The weight of a penalty: grown, then steered to a number of terms. ``level`` is its state in a checkpoint."""

    def __init__(self, settings: RegularizerSettings) -> None:
        self.settings = settings
        self.level = settings.weight

    def weight(self, step: int) -> float:
        """The weight at a step, counted from 0."""
        ramp = self.settings.ramp
        return self.level * min(1.0, (step + 1) / ramp) ** 2 if ramp else self.level

    def observe(self, step: int, terms: float) -> None:
        """Steer by the mean number of terms of the step's texts, once the ramp is over."""
        wanted = self.settings.terms
        if wanted is not None and step >= self.settings.ramp:
            self.level *= (max(terms, 0.5) / wanted) ** self.settings.steer
