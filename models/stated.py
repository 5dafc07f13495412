"""What the files of a checkpoint state besides its architecture: role, licence, query idf, terms without weight."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..runtime.errors import CheckpointError, InputError
from ..runtime.idf import LARGEST_POWER, check_power
from .checkpoint import Role
from .families import QuerySide
from .layout import Side


def stated_query_idf(config: Any, directory: Path) -> float:
    """``query_idf`` of a checkpoint's ``config.json``, 0 without it. Raises CheckpointError."""
    stated = getattr(config, "query_idf", 0.0)
    try:
        return check_power(stated)
    except InputError:
        raise CheckpointError(
            f"{directory / 'config.json'} has query_idf {stated!r}, which is no number from 0 to {LARGEST_POWER}"
        ) from None


def only_role(name: str, query_side: QuerySide, stated: Side | None) -> Role:
    """The role of the only encoder of a checkpoint whose side was not named.

    Raises CheckpointError if ``name`` is one side of a pair.
    """
    if stated is not None:
        raise CheckpointError(f"{name} was trained as the {stated} encoder of a pair; say --role {stated}")
    if query_side == "own encoder":
        raise CheckpointError(f"{name} is one side of a pair; say which with --role query or --role document")
    return "both"


def dropped_terms(names: tuple[str, ...], special_tokens: dict[str, int], tokenizer: Any) -> tuple[int, ...]:
    """The ids of the special tokens of these names, such as ``"cls_token"``; ``"all"`` stands for every one.

    Returns the ids in ascending order.
    """
    if "all" in names:
        return tuple(sorted(set(tokenizer.all_special_ids)))
    return tuple(sorted({special_tokens[name] for name in names if name in special_tokens}))


def stated_licence(directories: Sequence[Path]) -> str:
    """``license:`` in the front matter of the first README.md that states one, or "unknown"."""
    from huggingface_hub import ModelCard

    for directory in directories:
        readme = directory / "README.md"
        if not readme.is_file():
            continue
        try:
            licence = ModelCard(readme.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.get("license")
        except (ValueError, OSError, TypeError):
            continue
        if isinstance(licence, list):
            licence = ", ".join(map(str, licence))
        if licence:
            return str(licence)
    return "unknown"
