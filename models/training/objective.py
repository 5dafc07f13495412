"""What a step minimizes: contrastive and distillation losses on scores, and the regularizers that make vectors
sparse.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .settings import Penalty, RegularizerSettings


def contrastive_loss(scores: Tensor, positive: Tensor, relevant: Tensor) -> Tensor:
    """Cross-entropy of the positive document among all documents of the batch; other relevant ones are left out.

    Parameters
    ----------
    scores : tensor ``[batch, columns]``
        The score of each document for each query.
    positive : int64 tensor ``[batch]``
        The column of each query's positive document.
    relevant : bool tensor ``[batch, columns]``
        Which documents are relevant.

    Returns
    -------
    tensor ``[]``
        The mean over queries.
    """
    others = relevant.clone()
    others[torch.arange(len(positive)), positive] = False
    return F.cross_entropy(scores.masked_fill(others, -torch.inf), positive)


def distillation_loss(scores: Tensor, teacher: Tensor) -> Tensor:
    """KL divergence from the teacher's to the student's distribution over the documents of the batch.

    Parameters
    ----------
    scores, teacher : tensor ``[batch, columns]``
        The scores of the student and of the teacher.

    Returns
    -------
    tensor ``[]``
        The mean over queries.
    """
    return F.kl_div(scores.log_softmax(dim=1), teacher.log_softmax(dim=1), reduction="batchmean", log_target=True)


def imitation_loss(vectors: Tensor, teacher: Tensor) -> Tensor:
    """Squared error relative to the squared length of the teacher's vectors.

    Parameters
    ----------
    vectors, teacher : tensor ``[batch, vocab]``
        The vectors of the student and of the teacher.

    Returns
    -------
    tensor ``[]``
        The loss.
    """
    return ((vectors - teacher) ** 2).sum() / (teacher**2).sum().clamp(min=1e-6)


def penalty(kind: Penalty, vectors: Tensor) -> Tensor:
    """The penalty that makes vectors sparse.

    Parameters
    ----------
    kind : {"l1", "flops", "none"}
        ``l1``: mean over texts of the sum of weights. ``flops``: sum over terms of the squared mean weight.
    vectors : tensor ``[batch, vocab]``
        The vectors.

    Returns
    -------
    tensor ``[]``
        The penalty, 0 for "none".

    References
    ----------
    Paria et al., "Minimizing FLOPs to learn efficient sparse representations", ICLR 2020.
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
        """The weight of the penalty at a step.

        Parameters
        ----------
        step : int
            The step, counted from 0.

        Returns
        -------
        float
            The weight; it grows quadratically until the ramp is over.
        """
        ramp = self.settings.ramp
        return self.level * min(1.0, (step + 1) / ramp) ** 2 if ramp else self.level

    def observe(self, step: int, terms: float) -> None:
        """Steer the weight by what a step saw, once the ramp is over.

        Parameters
        ----------
        step : int
            The step, counted from 0.
        terms : float
            The mean number of terms of the step's texts.
        """
        wanted = self.settings.terms
        if wanted is not None and step >= self.settings.ramp:
            self.level *= (max(terms, 0.5) / wanted) ** self.settings.steer
