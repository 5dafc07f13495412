"""Families that a user describes in a file of his own: ``--family my.toml``.

The keys are the columns of the table in :mod:`families`; :data:`EXAMPLE` is a whole file.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, get_args

import msgspec

from ..runtime.errors import CheckpointError
from .families import SPECIAL_TOKENS, Activation, Family, Pooling, QuerySide, family_named

EXAMPLE = """\
name = "my-splade"                      # how the artifact calls it
pooling = "max"                         # max or sum, over the positions of a text
activation = "log1p_relu"               # log1p_relu, log1p_log1p_relu, or relu (without any logarithm)
query_side = "look-up"                  # same encoder, own encoder, masked encoder, look-up or bag of words
query_dropped = ["all"]                 # special tokens without weight: cls_token, sep_token, … or all
document_dropped = []
look_up = "idf.json"                    # only with look-up: token -> weight, a file of the checkpoint
max_length = 512                        # where the checkpoint states none; default: the model's positions
model_types = ["bert", "distilbert"]    # of its config.json; default: any
paper = "arXiv:2411.04403"
"""

_Name = Annotated[str, msgspec.Meta(pattern=r"^[\w.+-]{1,64}$")]
_SPECIAL = frozenset({*SPECIAL_TOKENS, "all"})


class _FamilyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: _Name
    pooling: Pooling
    activation: Activation
    query_side: QuerySide
    query_dropped: list[str] = []
    document_dropped: list[str] = []
    look_up: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    max_length: Annotated[int, msgspec.Meta(ge=3, le=1_000_000)] | None = None
    model_types: list[str] = []
    paper: str = ""


def family_from(text: str | Family) -> Family:
    """Find a family by its name, or read the file that describes one.

    Parameters
    ----------
    text : str or Family
        A name, the path of a ``.toml`` file, or a family, which is returned.

    Returns
    -------
    Family
        The family.

    Raises
    ------
    CheckpointError
        If there is no family of that name, or the file is not right.
    """
    if isinstance(text, Family):
        return text
    if text.lower().endswith(".toml") or "/" in text or "\\" in text:
        return read_family(Path(text))
    return family_named(text)


def read_family(path: Path) -> Family:
    """Read a family file.

    Parameters
    ----------
    path : Path
        The ``.toml`` file.

    Returns
    -------
    Family
        The family that it describes.

    Raises
    ------
    CheckpointError
        If a key is not right; the message names the file, the key and what it may be.
    """
    try:
        described = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _FamilyFile)
    except OSError as error:
        raise CheckpointError(f"cannot read the family file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CheckpointError(f"the family file {path} is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise CheckpointError(f"the family file {path} is not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise CheckpointError(f"the family file {path}: {_readable(str(error))}") from None
    for key in ("query_dropped", "document_dropped"):
        for name in getattr(described, key):
            if name not in _SPECIAL:
                raise CheckpointError(
                    f"the family file {path}: {key} has {name!r}; there are: {', '.join(sorted(_SPECIAL))}"
                )
    if described.look_up is not None and described.query_side != "look-up":
        raise CheckpointError(f'the family file {path}: look_up needs query_side = "look-up"')
    return Family(
        name=described.name,
        members=f"described by {path.name}",
        model_types=frozenset(described.model_types),
        pooling=described.pooling,
        activation=described.activation,
        query_sides=(described.query_side,),
        query_dropped=tuple(described.query_dropped),
        document_dropped=tuple(described.document_dropped),
        look_up=described.look_up,
        max_length=described.max_length,
        paper=described.paper,
        origin=str(path),
    )


def _readable(message: str) -> str:
    """msgspec's message with the key in front, and what it may be where that is a short list."""
    found = re.search(r" - at `\$\.?([^`]*)`$", message)
    if found is None:
        return message
    key = found[1]
    choices = {"pooling": get_args(Pooling), "activation": get_args(Activation), "query_side": get_args(QuerySide)}
    there_are = f"; there are: {', '.join(choices[key])}" if key in choices else ""
    return f"{key}: {message[: found.start()]}{there_are}"
