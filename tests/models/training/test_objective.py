from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from splade_edge.models.training.objective import (
    Regularizer,
    contrastive_loss,
    distillation_loss,
    imitation_loss,
    penalty,
)
from splade_edge.models.training.settings import RegularizerSettings


def test_contrastive_loss_leaves_other_relevant_documents_out() -> None:
    scores = torch.tensor([[1.0, 5.0, 2.0], [0.0, 1.0, 3.0]])
    relevant = torch.tensor([[True, True, False], [False, False, True]])
    expected = -(1 - math.log(math.exp(1) + math.exp(2))) - (3 - math.log(1 + math.exp(1) + math.exp(3)))
    found = contrastive_loss(scores, torch.tensor([0, 2]), relevant)
    assert float(found) == pytest.approx(expected / 2, rel=1e-5)


def test_distillation_is_the_kl_divergence() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 4, 6))
    p, q = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True) for x in (teacher, student))
    expected = (p * np.log(p / q)).sum(axis=1).mean()
    assert float(distillation_loss(torch.tensor(student), torch.tensor(teacher))) == pytest.approx(expected)
    assert float(distillation_loss(torch.tensor(teacher), torch.tensor(teacher))) == pytest.approx(0, abs=1e-9)


def test_penalties_and_imitation() -> None:
    vectors = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]])
    assert float(penalty("l1", vectors)) == 3.0
    assert float(penalty("flops", vectors)) == 2.0**2 + 1.0**2
    assert float(penalty("none", vectors)) == 0.0
    assert float(imitation_loss(vectors, vectors)) == 0.0
    assert float(imitation_loss(torch.zeros(2, 3), vectors)) == 1.0


def test_regularizer_grows_and_is_steered() -> None:
    regularizer = Regularizer(RegularizerSettings(penalty="l1", weight=0.1, ramp=10, terms=8, steer=0.5))
    assert regularizer.weight(0) == pytest.approx(0.001)
    assert regularizer.weight(4) == pytest.approx(0.025)
    assert regularizer.weight(9) == regularizer.weight(50) == pytest.approx(0.1)
    regularizer.observe(9, 100)  # still growing
    assert regularizer.weight(10) == pytest.approx(0.1)
    regularizer.observe(10, 32)
    assert regularizer.weight(11) == pytest.approx(0.2)
    regularizer.observe(11, 2)
    assert regularizer.weight(12) == pytest.approx(0.1)
