"""Checkpoints of a run: everything that the next step depends on, as safetensors and JSON, replaced atomically."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch

from ...runtime.errors import InputError
from ...runtime.staging import staged_directory

_STATE, _WEIGHTS = "state.json", "tensors.safetensors"


class TrainingState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a checkpoint holds beside tensors.

    ``step``: steps done. ``run_sha256``: of the run file's meaning, so that a run is not resumed as another one.
    ``levels``: regularizer weights (query, document).
    """

    step: int
    run_sha256: str
    levels: tuple[float, float]


def write_checkpoint(
    directory: Path, state: TrainingState, models: Mapping[str, torch.nn.Module], optimizer: torch.optim.Optimizer
) -> None:
    """Write, replacing the checkpoint that was there. Raises StorageError."""
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for side, model in models.items():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            tensors[f"{side}/{name}"] = parameter.detach().contiguous()
            for key, value in optimizer.state[parameter].items():
                tensors[f"{side}/{name}/{key}"] = value.contiguous()
    with staged_directory(directory, manifest=_STATE, force=True) as place:
        save_file({name: value.cpu() for name, value in tensors.items()}, place / _WEIGHTS)
        (place / _STATE).write_bytes(msgspec.json.encode(state))


def read_checkpoint(
    directory: Path, run_sha256: str, models: Mapping[str, torch.nn.Module], optimizer: torch.optim.Optimizer
) -> TrainingState | None:
    """Load the newest checkpoint into models and optimizer; None if there is none.

    Raises InputError if it belongs to another run or is damaged.
    """
    if not (directory / _STATE).is_file():
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = msgspec.json.decode((directory / _STATE).read_bytes(), type=TrainingState)
        tensors: dict[str, Any] = load_file(directory / _WEIGHTS)
    except (msgspec.DecodeError, SafetensorError, OSError) as error:
        raise InputError(f"the checkpoint {directory} is damaged ({error}); delete it to start again") from error
    if state.run_sha256 != run_sha256:
        raise InputError(f"{directory} belongs to a run with other settings; choose another --output, or delete it")
    with torch.no_grad():
        for side, model in models.items():
            for name, parameter in model.named_parameters():
                if not parameter.requires_grad:
                    continue
                key = f"{side}/{name}"
                parameter.copy_(tensors[key])
                optimizer.state[parameter] = {
                    part.removeprefix(key + "/"): value.to(parameter.device) if value.dim() else value
                    for part, value in tensors.items()
                    if part.startswith(key + "/")
                }
    return state


def run_digest(run: msgspec.Struct) -> str:
    """SHA-256 of a run file's settings."""
    import hashlib

    return hashlib.sha256(msgspec.json.encode(run, order="sorted")).hexdigest()
