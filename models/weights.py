"""Loading the masked-language model of a checkpoint so that nothing missing or unexpected goes unsaid."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ..runtime.errors import CheckpointError
from ..runtime.files import sha256_file
from .adapters import check_adapter, find_adapter, merge_adapter, without_adapter
from .quiet import quiet_transformers

_SAFE = ("model.safetensors", "model.safetensors.index.json")
# safetensors' names of what a model may be trained in; all others are quantized.
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# What a training framework puts before the names of all tensors, and what to save instead.
_WRAPPERS = {
    "module.": ("DataParallel or DistributedDataParallel", "model.module"),
    "_orig_mod.": ("torch.compile", "model._orig_mod"),
    "_fsdp_wrapped_module.": ("FullyShardedDataParallel", "the model inside"),
    "_forward_module.": ("DeepSpeed", "the model inside"),
    "model.": ("a Lightning module or another class with the encoder in an attribute", "its attribute model"),
    "base_model.model.": ("a peft model that was not merged", "model.merge_and_unload()"),
}
# Tensors that training leaves behind and that no SPLADE encoder computes with.
_HARMLESS = re.compile(r"(^|\.)(pooler\.|position_ids$|token_type_ids$|cls\.seq_relationship\.|nsp_head\.)")


def load_config(directory: Path, *, trust_remote_code: bool) -> Any:
    """Load the transformers configuration of an encoder.

    Parameters
    ----------
    directory : Path
        The encoder's directory; for an adapter its base's configuration is loaded.
    trust_remote_code : bool
        Whether code of the checkpoint may be run.

    Returns
    -------
    transformers.PretrainedConfig
        The configuration.

    Raises
    ------
    CheckpointError
        If it is absent or damaged, needs code that is not trusted or a package that is missing, the weights are
        quantized, or the architecture has no masked-language-model head.
    """
    adapter = find_adapter(directory)
    if adapter is not None:
        directory = adapter.base
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=trust_remote_code)
            config.return_dict = True  # how a model gives its logits is no matter of the checkpoint
    except ImportError as error:
        raise _lacks_package(directory, error) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # AttributeError: a key it cannot set
        if "trust_remote_code" in str(error):
            raise CheckpointError(
                f"{directory} needs its own code to load; read that code, then pass --trust-remote-code"
            ) from error
        raise _damaged(directory / "config.json", error) from error
    _check_full_precision(directory, config)
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
    """Load a masked-language model in float32 and evaluation mode, with eager attention.

    Parameters
    ----------
    directory : Path
        The encoder's directory. An adapter is merged into its base.
    config : transformers.PretrainedConfig
        What :func:`load_config` returned.
    allow_pickle : bool
        Whether weights that are a pickle may be opened.
    trust_remote_code : bool
        Whether code of the checkpoint may be run.

    Returns
    -------
    tuple of model and tuple of str
        The model, and notes on what was repaired.

    Raises
    ------
    CheckpointError
        If weights are missing, pickles, damaged, unexpected, of another shape or not finite, an adapter cannot be
        merged, or the model's class needs a package that is missing.
    MissingExtraError
        If there is an adapter and peft is not installed.
    """
    adapter = find_adapter(directory)
    if adapter is not None:
        check_adapter(adapter, allow_pickle=allow_pickle)
        directory = adapter.base
    pickled = not any((directory / name).is_file() for name in _SAFE)
    if pickled:
        _check_pickle(directory, allow_pickle)
    from transformers import AutoModelForMaskedLM

    try:
        with quiet_transformers(), without_adapter(directory) as place:
            model, info = AutoModelForMaskedLM.from_pretrained(
                place,
                config=config,
                dtype=torch.float32,
                attn_implementation="eager",
                use_safetensors=not pickled,
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
            )
    except ImportError as error:
        raise _lacks_package(directory, error) from error
    except (OSError, ValueError, RuntimeError, KeyError, EOFError) as error:
        raise _damaged(directory, error) from error
    except (SafetensorError, pickle.UnpicklingError) as error:
        raise _damaged(directory, error) from error
    notes = tuple(_check_loaded(directory, model, info))
    if adapter is not None:
        model, note = merge_adapter(model.eval(), adapter)
        notes += (note,)
    return model.eval(), notes


def weights_sha256(directory: Path) -> str:
    """Hash a checkpoint's weights.

    Parameters
    ----------
    directory : Path
        The encoder's directory.

    Returns
    -------
    str
        SHA-256 in hex of the one file, or of lines of shard name, tab and SHA-256. For an adapter: of the lines of its
        base's files, then of its own tensors and of its configuration, which scales them.
    """
    adapter = find_adapter(directory)
    files = weight_files(directory if adapter is None else adapter.base)
    if len(files) == 1 and adapter is None:
        return sha256_file(files[0])
    named = [(path.name, path) for path in files] + (adapter.files() if adapter else [])
    lines = "".join(f"{name}\t{sha256_file(path)}\n" for name, path in named)
    return hashlib.sha256(lines.encode()).hexdigest()


def weight_files(directory: Path) -> list[Path]:
    """List the files of a model's own weights.

    Parameters
    ----------
    directory : Path
        The encoder's directory.

    Returns
    -------
    list of Path
        By name: those in safetensors, or else the pickles.
    """
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        files = sorted(path for path in directory.glob(pattern) if not path.name.startswith("adapter_"))
        if files:
            return files
    return []


def stored_dtype(directory: Path) -> torch.dtype:
    """Find the dtype that most of a checkpoint's numbers are stored in.

    It is taken from the tensors, because ``config.json`` may state another one.

    Parameters
    ----------
    directory : Path
        The encoder's directory; for an adapter its base counts.

    Returns
    -------
    torch.dtype
        The dtype.

    Raises
    ------
    CheckpointError
        If there are no weights, or damaged files.
    """
    adapter = find_adapter(directory)
    base = directory if adapter is None else adapter.base
    numbers: Counter[torch.dtype] = Counter()
    try:
        for path in weight_files(base):
            for dtype, count in _stored(path):
                numbers[dtype] += count
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise _damaged(base, error) from error
    if not numbers:
        raise CheckpointError(f"{base} has no weights (model.safetensors); download the checkpoint again")
    return numbers.most_common(1)[0][0]


def _stored(path: Path) -> Iterator[tuple[torch.dtype, int]]:
    """The dtype and size of each tensor in a file; of safetensors, its header alone is read."""
    if path.suffix != ".safetensors":
        for tensor in torch.load(path, map_location="cpu", mmap=True, weights_only=True).values():
            yield tensor.dtype, tensor.numel()
        return
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 - it is no dictionary
            part = file.get_slice(name)
            count = 1
            for size in part.get_shape():
                count *= size
            yield _DTYPES.get(part.get_dtype(), torch.uint8), count


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
    if wrapper := _wrapper(info["unexpected_keys"], model):
        cause, instead = _WRAPPERS.get(wrapper, ("a class that the encoder was wrapped in", "the model inside"))
        raise CheckpointError(
            f"{directory} has {wrapper!r} before the names of its tensors, which comes of {cause}; save {instead} with "
            "save_pretrained(), or take the prefix off the names"
        )
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


def _wrapper(unexpected: Iterable[str], model: Any) -> str:
    """What stands before the names of a model's tensors in the file, where that is so of most that it does not know."""
    unknown = list(unexpected)
    known = set(model.state_dict())
    found: Counter[str] = Counter()
    for key in unknown:
        parts = key.split(".")
        for cut in range(1, len(parts)):
            if ".".join(parts[cut:]) in known:
                found[".".join(parts[:cut]) + "."] += 1
                break
    prefix, count = found.most_common(1)[0] if found else ("", 0)
    return prefix if 2 * count > len(unknown) else ""


def _check_full_precision(directory: Path, config: Any) -> None:
    """Raise CheckpointError for weights that another library stored in fewer bits."""
    stated = getattr(config, "quantization_config", None)
    if stated is None:
        return
    settings = stated if isinstance(stated, dict) else stated.to_dict()
    method = settings.get("quant_method") or "unknown"
    raise CheckpointError(
        f"{directory / 'config.json'} has quantization_config (quant_method {str(method)!r}): these weights are "
        "rounded already; export the checkpoint that they were made from, or one saved after model.dequantize()"
    )


def _lacks_package(directory: Path, error: ImportError) -> CheckpointError:
    """transformers names the packages in a sentence of its own, Python the module that it did not find."""
    text = " ".join(str(error).split())
    listed = re.search(r"not found in your environment: ([\w., -]+?)\. Run", text)
    quoted = re.search(r"requires the (?:`)?([\w.-]+)(?:`)? library", text)
    packages = listed[1].replace(",", "") if listed else quoted[1].lower() if quoted else error.name
    if not packages:
        return CheckpointError(f"{directory} does not load ({text[:200]}); install what it names")
    return CheckpointError(f"the model class of {directory} needs a package: pip install {packages}")


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
