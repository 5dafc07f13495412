"""Loading the masked-language model of a checkpoint so that nothing missing or unexpected goes unsaid."""

from __future__ import annotations

import contextlib
import hashlib
import math
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ..runtime.errors import CheckpointError
from ..runtime.files import sha256_file

_SAFE = ("model.safetensors", "model.safetensors.index.json")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# Tensors that training leaves behind and that no SPLADE encoder computes with.
_HARMLESS = re.compile(r"(^|\.)(pooler\.|position_ids$|token_type_ids$|cls\.seq_relationship\.|nsp_head\.)")


def load_config(directory: Path, *, trust_remote_code: bool) -> Any:
    """The transformers configuration of ``directory``.

    Raises CheckpointError: absent or damaged, code of the checkpoint that is not trusted, or an architecture without a
    masked-language-model head.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if "trust_remote_code" in str(error):
            raise CheckpointError(
                f"{directory} needs its own code to load; read that code, then pass --trust-remote-code"
            ) from error
        raise _damaged(directory / "config.json", error) from error
    custom = trust_remote_code and "AutoModelForMaskedLM" in (getattr(config, "auto_map", None) or {})
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING and not custom:
        raise CheckpointError(
            f"{directory} is a {config.model_type!r} model, which has no masked-language-model head; "
            "it is not a SPLADE encoder"
        )
    return config


def load_masked_lm(
    directory: Path, config: Any, *, allow_pickle: bool, trust_remote_code: bool
) -> tuple[Any, tuple[str, ...]]:
    """The model of ``directory`` in float32 and evaluation mode, with eager attention, and notes on what was repaired.

    ``config`` is that of :func:`load_config`. Raises CheckpointError: no weights, weights that are pickles, damaged
    files, tensors missing, unexpected, of another shape or not finite.
    """
    pickled = not any((directory / name).is_file() for name in _SAFE)
    if pickled:
        _check_pickle(directory, allow_pickle)
    from transformers import AutoModelForMaskedLM

    try:
        with quiet_transformers():
            model, info = AutoModelForMaskedLM.from_pretrained(
                directory,
                config=config,
                dtype=torch.float32,
                attn_implementation="eager",
                use_safetensors=not pickled,
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, EOFError) as error:
        raise _damaged(directory, error) from error
    except (SafetensorError, pickle.UnpicklingError) as error:
        raise _damaged(directory, error) from error
    notes = _check_loaded(directory, model, info)
    return model.eval(), tuple(notes)


def weights_sha256(directory: Path) -> str:
    """SHA-256 of a checkpoint's weights: of the one file, or of lines ``"name\\tsha256\\n"`` by shard name."""
    files = sorted(directory.glob("*.safetensors")) or sorted(directory.glob("pytorch_model*.bin"))
    if len(files) == 1:
        return sha256_file(files[0])
    lines = "".join(f"{path.name}\t{sha256_file(path)}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def stored_dtype(directory: Path) -> str:
    """The dtype of most weights on disk, such as ``"float16"``; "float32" where it is not told (a pickle)."""
    from safetensors import safe_open

    names = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
    sizes: dict[str, int] = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                tensor = file.get_slice(key)
                name = names.get(tensor.get_dtype())
                if name is not None:
                    sizes[name] = sizes.get(name, 0) + math.prod(tensor.get_shape())
    return max(sizes, key=lambda name: sizes[name], default="float32")


def decoder_name(model: Any) -> str | None:
    """Name of the linear layer that gives the logits, such as ``cls.predictions.decoder``; None if there is none."""
    decoder = model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is decoder), None)


def _check_pickle(directory: Path, allow_pickle: bool) -> None:
    if not any((directory / name).is_file() for name in _PICKLED):
        raise CheckpointError(f"{directory} has no weights (model.safetensors); download the checkpoint again")
    if not allow_pickle:
        raise CheckpointError(
            f"{directory} has its weights only as a pickle, which can run code when opened; convert it to safetensors, "
            "or pass --allow-pickle if you trust it"
        )


def _check_loaded(directory: Path, model: Any, info: dict[str, Any]) -> Iterator[str]:
    """Notes on harmless differences between file and model. Raises CheckpointError on any other."""
    missing = set(info["missing_keys"])
    notes = [note for key in sorted(missing) if (note := _repair_bias(model, key, missing))]
    missing -= {note.partition(" ")[0] for note in notes}
    mismatched = sorted(str(entry[0]) for entry in info["mismatched_keys"])
    if mismatched or info.get("error_msgs"):
        reason = (
            f"tensors of another shape than config.json says: {_listed(mismatched)}"
            if mismatched
            else str(info["error_msgs"])
        )
        raise CheckpointError(f"{directory} has {reason}; config and weights do not belong together")
    if missing:
        outside = [key for key in missing if not key.startswith(f"{model.base_model_prefix}.")]
        headless = len(outside) == len(missing) and any(key.endswith(".weight") for key in outside)
        what = "has no masked-language-model head, so it is not a SPLADE encoder" if headless else "is incomplete"
        raise CheckpointError(f"{directory} {what}: its weights lack {_listed(sorted(missing))}")
    unexpected = sorted(info["unexpected_keys"])
    harmful = [key for key in unexpected if not _HARMLESS.search(key)]
    if harmful:
        raise CheckpointError(
            f"{directory} has weights its architecture {type(model).__name__} does not use: {_listed(harmful)}; "
            "it would compute something else than was trained"
        )
    broken = [name for name, tensor in model.named_parameters() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise CheckpointError(
            f"{directory} has weights that are not finite: {_listed(broken)}; get the checkpoint again"
        )
    notes += [f"{key} is in the weights and not used" for key in unexpected]
    return iter(notes)


def _repair_bias(model: Any, key: str, missing: set[str]) -> str | None:
    """Copy a decoder bias from its other name.

    BERT-like heads keep one bias under two names, ``HEAD.bias`` and ``HEAD.decoder.bias``. Files of transformers 4 hold
    the first only, and transformers 5 leaves the second zero where the decoder is not tied.
    """
    if not key.endswith(".bias"):
        return None
    head = key.removesuffix(".bias").removesuffix(".decoder")
    other = f"{head}.bias" if key.endswith(".decoder.bias") else f"{head}.decoder.bias"
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if other in missing or other not in parameters or f"{head}.decoder.bias" not in parameters:
        return None
    with torch.no_grad():
        parameters[key].copy_(parameters[other])
    return f"{key} was taken from {other}, its other name"


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split())[:200]
    return CheckpointError(f"{path} does not load ({type(error).__name__}: {reason}); get the checkpoint again")


def _listed(keys: list[str], shown: int = 6) -> str:
    more = f" and {len(keys) - shown} more" if len(keys) > shown else ""
    return ", ".join(keys[:shown]) + more


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' progress bar and its load report off the terminal: what it would say is raised or noted."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
