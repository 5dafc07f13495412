"""Checkpoints of a run: everything that the next step depends on, as safetensors and JSON, replaced atomically."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch

from ...runtime.build.staging import staged_directory
from ...runtime.errors import InputError
from ..weights import weights_sha256
from .collections import Collection
from .indexed import vectors_sha256
from .runfile import PATHS
from .settings import RunFile

_STATE, _WEIGHTS = "state.json", "tensors.safetensors"


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """SHA-256 of a run's settings without names and paths, of the weights it starts from (with the indexes that it is
    fitted to), and of its collections.
    """

    settings: str
    weights: str
    collections: str


class TrainingState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a checkpoint holds beside tensors.

    ``step``: steps done. ``identity``: what the run is, so that it is not resumed as another one. ``levels``:
    regularizer weights (query, document).
    """

    step: int
    identity: Identity
    levels: tuple[float, float]


def write_checkpoint(
    directory: Path, state: TrainingState, models: Mapping[str, torch.nn.Module], optimizer: torch.optim.Optimizer
) -> None:
    """Write a checkpoint of a run, in place of the one that was there.

    Parameters
    ----------
    directory : Path
        The run's directory.
    state : TrainingState
        What a run is besides tensors.
    models : mapping of str to Module
        The encoders, by side.
    optimizer : torch.optim.Optimizer
        The optimizer.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
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
    directory: Path, identity: Identity, models: Mapping[str, torch.nn.Module], optimizer: torch.optim.Optimizer
) -> TrainingState | None:
    """Load the newest checkpoint of a run into its models and its optimizer.

    Parameters
    ----------
    directory : Path
        The run's directory.
    identity : Identity
        What the run is.
    models : mapping of str to Module
        The encoders, by side; they are changed.
    optimizer : torch.optim.Optimizer
        The optimizer; it is changed.

    Returns
    -------
    TrainingState or None
        The state, None if there is no checkpoint.

    Raises
    ------
    InputError
        If it belongs to another run or is damaged.
    """
    state = read_state(directory, identity)
    if state is None:
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Any] = load_file(directory / _WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise _damaged(directory, error) from error
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


def read_state(directory: Path, identity: Identity) -> TrainingState | None:
    """Read what a checkpoint of a run holds besides tensors.

    Parameters
    ----------
    directory : Path
        The run's directory.
    identity : Identity
        What the run is.

    Returns
    -------
    TrainingState or None
        The state, None if there is no checkpoint.

    Raises
    ------
    InputError
        If it belongs to another run or is damaged.
    """
    if not (directory / _STATE).is_file():
        return None
    try:
        state = msgspec.json.decode((directory / _STATE).read_bytes(), type=TrainingState)
    except (msgspec.DecodeError, OSError) as error:
        raise _damaged(directory, error) from error
    for what in Identity.__struct_fields__:
        if getattr(state.identity, what) != getattr(identity, what):
            raise InputError(f"{directory} belongs to a run with other {what}; choose another --output, or delete it")
    return state


def _damaged(directory: Path, error: Exception) -> InputError:
    return InputError(f"the checkpoint {directory} is damaged ({error}); delete it to start again")


def identity_of(run: RunFile, collections: Sequence[Collection]) -> Identity:
    """Say what a run is: two runs of the same identity go through the same steps.

    Parameters
    ----------
    run : RunFile
        The run.
    collections : sequence of Collection
        What it trains on.

    Returns
    -------
    Identity
        The identity.
    """
    settings = msgspec.to_builtins(run, builtin_types=(float, int, str))
    for table, key in PATHS:
        if settings.get(table) is not None:
            settings[table].pop(key, None)
    for entry in settings["sets"]:
        del entry["path"]
        entry.pop("index", None)
    del settings["name"]
    settings = {key: value for key, value in settings.items() if value != {}}  # a table of defaults, as one left out
    bases = [run.document and run.document.base, run.query and run.query.base]
    bases += [run.teacher.base, run.teacher.query_vectors, run.teacher.document_vectors]
    if run.training.miner:
        bases += [str(Path(run.training.miner) / side) for side in ("query", "document")]
    weights = [weights_sha256(Path(base)) if base else "-" for base in bases]
    weights += [vectors_sha256(entry.index) for entry in run.sets if entry.index]
    return Identity(
        settings=_sha256(msgspec.json.encode(settings, order="sorted").decode()),
        weights=_sha256(" ".join(weights)),
        collections=_sha256(" ".join(collection.fingerprint for collection in collections)),
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
