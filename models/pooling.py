"""Pooling and activation by name, in PyTorch. The names are those of :mod:`families`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor


def _log1p_relu(x: Tensor) -> Tensor:
    return torch.log1p(torch.relu(x))


def _log1p_log1p_relu(x: Tensor) -> Tensor:
    return torch.log1p(torch.log1p(torch.relu(x)))


def _max(weights: Tensor) -> Tensor:
    return weights.amax(dim=1)


def _sum(weights: Tensor) -> Tensor:
    return weights.sum(dim=1)


# Element-wise and non-decreasing, with f(x) = 0 for x <= 0.
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"log1p_relu": _log1p_relu, "log1p_log1p_relu": _log1p_log1p_relu, "relu": torch.relu}
)

# [batch, length, vocab] non-negative weights, zero at padding -> [batch, vocab].
POOLINGS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType({"max": _max, "sum": _sum})
