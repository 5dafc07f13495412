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
    """Read the exponent ``query_idf`` of a checkpoint's ``config.json``.

    Parameters
    ----------
    config : transformers.PretrainedConfig
        The configuration.
    directory : Path
        The checkpoint's directory, for the message.

    Returns
    -------
    float
        The exponent; 0 where none is stated.

    Raises
    ------
    CheckpointError
        If it is not a possible exponent.
    """
    stated = getattr(config, "query_idf", 0.0)
    try:
        return check_power(stated)
    except InputError:
        raise CheckpointError(
            f"{directory / 'config.json'} has query_idf {stated!r}, which is no number from 0 to {LARGEST_POWER}"
        ) from None


def only_role(name: str, query_side: QuerySide, stated: Side | None) -> Role:
    """The role of the only encoder of a checkpoint whose side was not named.

    Parameters
    ----------
    name : str
        The name of the checkpoint, for the message.
    query_side : str
        What turns a query into weights.
    stated : {"query", "document"} or None
        The side that ``training.json`` states.

    Returns
    -------
    {"both"}
        The role.

    Raises
    ------
    CheckpointError
        If the checkpoint is one side of a pair.
    """
    if stated is not None:
        raise CheckpointError(f"{name} was trained as the {stated} encoder of a pair; say --role {stated}")
    if query_side == "own encoder":
        raise CheckpointError(f"{name} is one side of a pair; say which with --role query or --role document")
    return "both"


def dropped_terms(names: tuple[str, ...], special_tokens: dict[str, int], tokenizer: Any) -> tuple[int, ...]:
    """Find the ids of special tokens that get no weight.

    Parameters
    ----------
    names : tuple of str
        Names such as ``"cls_token"``; ``"all"`` stands for every special token.
    special_tokens : dict of str to int
        The id of each special token.
    tokenizer : transformers.PreTrainedTokenizerFast
        The tokenizer.

    Returns
    -------
    tuple of int
        The ids, ascending.
    """
    if "all" in names:
        return tuple(sorted(set(tokenizer.all_special_ids)))
    return tuple(sorted({special_tokens[name] for name in names if name in special_tokens}))


def stated_licence(directories: Sequence[Path]) -> str:
    """Read the licence that a checkpoint states: ``license:`` in the front matter of its README.md.

    Parameters
    ----------
    directories : sequence of Path
        Where to look; the first that states one counts.

    Returns
    -------
    str
        The licence, or "unknown".
    """
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
