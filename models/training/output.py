"""The encoders of a run, as checkpoints that transformers and ``splade-edge export`` open."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec
import torch

from ...runtime.build.staging import staged_directory
from ..layout import SIDES, TRAINING_FILE
from ..quiet import quiet_transformers
from ..stated import stated_licence
from .side import Side

PAIR_DIRECTORY = "pair"
_FROM_BASE = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "LICENSE",
)  # fmt: skip


def write_pair(directory: Path, sides: Mapping[str, Side], made_by: Mapping[str, object]) -> None:
    """Write the encoders of a run in one step, in place of what was there.

    Two sides become ``query/`` and ``document/``, a single one a plain checkpoint.

    Parameters
    ----------
    directory : Path
        The directory to write.
    sides : mapping of str to Side
        The encoders.
    made_by : mapping of str to object
        Run and step, for ``training.json``. ``role`` "query" is added where the only side is that of a pair's queries
        (see :func:`splade_edge.models.layout.stated_role`).

    Raises
    ------
    StorageError
        If a file cannot be written.
    """
    with staged_directory(directory, manifest=TRAINING_FILE, force=True) as place:
        for name, side in sides.items():
            _write_encoder(place if len(sides) == 1 else place / name, side)
        role = {"role": "query"} if sides.keys() == {"query"} else {}
        (place / TRAINING_FILE).write_bytes(msgspec.json.format(msgspec.json.encode({**made_by, **role})) + b"\n")


def _write_encoder(directory: Path, side: Side) -> None:
    """``config.json``, ``model.safetensors`` (float16), the tokenizer, and the licence that came with the base."""
    base = Path(side.settings.base)
    with quiet_transformers():
        copy.deepcopy(side.encoder.model).to("cpu", torch.float16).save_pretrained(directory)
    for name in _FROM_BASE:
        if (base / name).is_file():
            shutil.copyfile(base / name, directory / name)
    # That of a pair stands in its README.md, beside its sides.
    licence = stated_licence((base, base.parent) if base.name in SIDES else (base,))
    if licence != "unknown":
        (directory / "README.md").write_text(f"---\nlicense: {licence}\n---\nTrained by `splade-edge train`.\n")
