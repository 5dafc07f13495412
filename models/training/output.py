"""The encoders a run ends with, as checkpoints that transformers and ``splade-edge export`` open."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import torch

from ...runtime.staging import staged_directory
from ..weights import quiet_transformers

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def write_encoder(directory: Path, model: Any, tokenizer_from: str) -> None:
    """Write ``config.json``, ``model.safetensors`` (float16) and the tokenizer, replacing what was there. Raises
    StorageError.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with staged_directory(directory, manifest="config.json", force=True) as place, quiet_transformers():
        copy.deepcopy(model).to("cpu", torch.float16).save_pretrained(place)
        for name in _TOKENIZER_FILES:
            if (Path(tokenizer_from) / name).is_file():
                shutil.copyfile(Path(tokenizer_from) / name, place / name)
