"""Adapters: checkpoints that hold the difference from a base model (LoRA and its kin), merged into that base by peft.

transformers loads such a directory by itself where peft is installed, and leaves the adapter beside the weights;
without peft it gives the base alone, and says nothing. Here the base is loaded without its adapter, the adapter is put
on and merged, and the merged model must give the logits of the unmerged one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..runtime.errors import CheckpointError, MissingExtraError
from .head import probe_tokens, run_model
from .hub import locate_checkpoint
from .quiet import quiet_transformers

ADAPTER_CONFIG = "adapter_config.json"
_SAFE, _PICKLED = "adapter_model.safetensors", "adapter_model.bin"
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
# Allowed difference of the merged model's logits from the unmerged one's, as a share of the largest.
_TOLERANCE = 1e-4
_BY_HAND = "merge it where it was trained (merge_and_unload() of peft, then save_pretrained) and export that"


@dataclass(frozen=True)
class Adapter:
    """An adapter on disk: its ``directory``, its ``kind`` (``peft_type``), and the directory of its ``base``.

    ``base_name`` is how to speak of the base; "" where it lies in the same directory.
    """

    directory: Path
    kind: str
    base: Path
    base_name: str

    @property
    def weights(self) -> Path:
        """The adapter's tensors: safetensors if it has any."""
        safe = self.directory / _SAFE
        return safe if safe.is_file() else self.directory / _PICKLED

    def files(self) -> list[tuple[str, Path]]:
        """Names and paths of what the merged weights are made of, beside the base's weights."""
        return [(path.name, path) for path in (self.directory / ADAPTER_CONFIG, self.weights)]


def find_adapter(directory: Path) -> Adapter | None:
    """Find the adapter in an encoder's directory.

    Its base is the model in the same directory. Without one it is the directory or the cached hub repository that the
    adapter names.

    Parameters
    ----------
    directory : Path
        The encoder's directory.

    Returns
    -------
    Adapter or None
        The adapter, None where there is none.

    Raises
    ------
    CheckpointError
        If the configuration is damaged, or the base is not on this machine or is an adapter itself.
    """
    path = directory / ADAPTER_CONFIG
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_bytes())
        kind, named, revision = (config.get(key) for key in ("peft_type", "base_model_name_or_path", "revision"))
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); get the adapter again") from error
    if not isinstance(kind, str):
        raise CheckpointError(f"{path} names no peft_type; get the adapter again")
    if (directory / "config.json").is_file() and any(_base_weights(directory)):
        return Adapter(directory, kind, directory, "")
    if not isinstance(named, str) or not named:
        raise CheckpointError(
            f"{path} names no base (base_model_name_or_path), and there is none beside it; {_BY_HAND}"
        )
    try:
        located = locate_checkpoint(named, revision=None if Path(named).is_dir() else revision, offline=True)
    except CheckpointError as error:
        raise CheckpointError(
            f"{directory} is an adapter of {named}, which is not here: neither a directory nor in the hub cache; "
            f"get it (hf download {named}), or {_BY_HAND}"
        ) from error
    if (located.path / ADAPTER_CONFIG).is_file():
        raise CheckpointError(f"{directory} is an adapter of {named}, which is an adapter itself; {_BY_HAND}")
    return Adapter(directory, kind, located.path, located.name)


def check_adapter(adapter: Adapter, *, allow_pickle: bool) -> None:
    """Check that an adapter can be merged.

    Parameters
    ----------
    adapter : Adapter
        The adapter.
    allow_pickle : bool
        Whether tensors that are a pickle may be opened.

    Raises
    ------
    CheckpointError
        If it has no tensors, or a pickle that may not be opened.
    MissingExtraError
        If peft is not installed.
    """
    if not adapter.weights.is_file():
        raise CheckpointError(f"{adapter.directory} has {ADAPTER_CONFIG} and no {_SAFE}; get the adapter again")
    if adapter.weights.name == _PICKLED and not allow_pickle:
        raise CheckpointError(
            f"{adapter.directory} has its adapter only as a pickle, which can run code when opened; save it as "
            "safetensors, or pass --allow-pickle if you trust it"
        )
    if importlib.util.find_spec("peft") is None:
        raise MissingExtraError(f"{adapter.directory} is a {adapter.kind} adapter; merging it", "adapters")


@contextlib.contextmanager
def without_adapter(base: Path) -> Iterator[Path]:
    """Give a directory with all files of a base but the adapter's, so that transformers does not load it twice.

    Parameters
    ----------
    base : Path
        The directory of the base.

    Returns
    -------
    iterator of Path
        A context: the directory, which is removed afterwards.
    """
    if not (base / ADAPTER_CONFIG).is_file():
        yield base
        return
    with tempfile.TemporaryDirectory() as place:
        for path in base.resolve().iterdir():
            if not path.name.startswith("adapter_"):
                (Path(place) / path.name).symlink_to(path)
        yield Path(place)


def merge_adapter(model: Any, adapter: Adapter) -> tuple[Any, str]:
    """Merge an adapter into the weights of its base.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        The base in float32.
    adapter : Adapter
        The adapter.

    Returns
    -------
    tuple of model and str
        The merged model, and a note that says so.

    Raises
    ------
    CheckpointError
        If the adapter is of a kind that cannot be merged, its tensors do not fit, or merging changes the logits.
    """
    import peft

    try:
        with quiet_transformers():
            config = peft.PeftConfig.from_pretrained(str(adapter.directory))
            config.inference_mode = True
            if config.is_prompt_learning or config.is_adaption_prompt:
                raise CheckpointError(
                    f"{adapter.directory} is a {adapter.kind} adapter, which adds inputs and cannot be merged into "
                    "weights; export a checkpoint without it"
                )
            wrapped = peft.PeftModel(model, config)
            loaded = wrapped.load_adapter(str(adapter.directory), "default", torch_device="cpu")
            _check_keys(adapter, list(loaded.missing_keys), list(loaded.unexpected_keys))
            _untie(model)
            ids = probe_tokens(model)
            expected = run_model(model.eval(), ids, torch.ones_like(ids))
            merged = wrapped.merge_and_unload(safe_merge=True).eval()
    except (ValueError, TypeError, RuntimeError, AttributeError, NotImplementedError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{adapter.directory}: peft {peft.__version__} does not merge this {adapter.kind} adapter "
            f"({type(error).__name__}: {reason}); {_BY_HAND}"
        ) from error
    found = run_model(merged, ids, torch.ones_like(ids))
    if not float((found - expected).abs().max()) <= _TOLERANCE * float(expected.abs().max()):
        raise CheckpointError(
            f"{adapter.directory}: merging this {adapter.kind} adapter changes what it computes; {_BY_HAND}"
        )
    base = f"its base {adapter.base_name}" if adapter.base_name else "the base beside it"
    return merged, f"the {adapter.kind} adapter was merged into {base}"


def _check_keys(adapter: Adapter, missing: list[str], unexpected: list[str]) -> None:
    for what, keys in (("lacks", missing), ("has tensors that its base has no place for:", unexpected)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise CheckpointError(
                f"{adapter.weights} {what} {', '.join(sorted(keys)[:3])}{more}; adapter and base do not belong together"
            )


def _untie(model: nn.Module) -> None:
    """Give each adapted matrix a copy of its own, where another layer shares it: an adapter changes one of the two."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [module.get_base_layer() for module in model.modules() if isinstance(module, BaseTunerLayer)]
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for layer in adapted:
        weight = getattr(layer, "weight", None)
        if isinstance(weight, nn.Parameter) and owners.get(id(weight), 0) > 1:
            layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)


def _base_weights(directory: Path) -> Iterator[Path]:
    for pattern in _WEIGHTS:
        yield from (path for path in directory.glob(pattern) if not path.name.startswith("adapter_"))
