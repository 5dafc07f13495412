"""What a step learns from that ranks documents: the losses of its scores and of its query vectors, weighted."""

from __future__ import annotations

import torch
from torch import Tensor

from .imitation import Imitated
from .objective import contrastive_loss, distillation_loss, imitation_loss
from .sampling import Batch
from .settings import RunFile
from .teacher import Teacher


def ranking_losses(
    run: RunFile, batch: Batch, scores: Tensor, q: Tensor, teacher: Teacher | None, imitated: Imitated | None
) -> tuple[dict[str, Tensor], float]:
    """What a step learns from, weighted: the positive documents, the teacher's scores, another encoder's vectors.

    Parameters
    ----------
    run : RunFile
        The weights of the losses.
    batch : Batch
        The texts of the step.
    scores : tensor ``[batch, columns]``
        The scores of the batch's documents, times the scale.
    q : tensor ``[batch, vocab]``
        The query vectors.
    teacher : Teacher or None
        What scores are distilled from.
    imitated : Imitated or None
        Whose query vectors are imitated.

    Returns
    -------
    tuple of dict of str to tensor ``[]`` and float
        The losses, and the share of queries whose positive document has the highest score.
    """
    positive = torch.from_numpy(batch.positive).to(scores.device)
    relevant = torch.from_numpy(batch.relevant).to(scores.device)
    parts = {"contrastive": run.training.contrastive * contrastive_loss(scores, positive, relevant)}
    if teacher is not None:
        parts["distillation"] = run.teacher.weight * distillation_loss(scores, teacher.scores(batch).to(scores.device))
    if imitated is not None:
        wanted = imitated.vectors(imitated.ids(batch.texts), run.training.bf16)
        parts["imitation"] = run.teacher.vector_weight * imitation_loss(q, wanted)
    return parts, float((scores.argmax(dim=1) == positive).float().mean())
