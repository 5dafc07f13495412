"""How the texts of a side are read: the prompt before them, the tokens they are cut to, and the norm of their vectors.

All as sentence-transformers does it, unless the user asks otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..runtime.artifact import UNLIMITED
from ..runtime.errors import CheckpointError
from .families import Family
from .layout import EncoderFiles, Side
from .options import OpenOptions

Normalization = Literal["none", "all terms", "kept terms"]
# A tokenizer that states no maximum length reports a number of this size.
_NO_LENGTH = 1_000_000


@dataclass(frozen=True)
class SideText:
    """What is done to the texts of one side: ``prompt`` is put before them, then they are cut to ``max_length`` tokens,
    the prompt and special tokens included.
    """

    prompt: str
    max_length: int


def read_by_encoder(
    side: Side, files: EncoderFiles, options: OpenOptions, tokenizer: Any, family: Family, max_positions: int
) -> SideText:
    """Find out how an encoder reads the texts of a side.

    Parameters
    ----------
    side : {"query", "document"}
        The side.
    files : EncoderFiles
        What the checkpoint states.
    options : OpenOptions
        What the user asked for instead.
    tokenizer : transformers.PreTrainedTokenizerFast
        The encoder's tokenizer.
    family : Family
        The encoder's family.
    max_positions : int
        The longest input that the encoder takes, in tokens.

    Returns
    -------
    SideText
        Prompt and maximum length.

    Raises
    ------
    CheckpointError
        If a length was asked for that the encoder cannot take.
    """
    asked, stated = options.max_length, files.transformer
    special = tokenizer.num_special_tokens_to_add()
    if asked is not None and not special < asked <= max_positions:
        raise CheckpointError(
            f"--max-length {asked} is not possible: {files.directory} takes up to {max_positions} tokens, and at least "
            f"{special + 1}, special ones included"
        )
    length = asked or stated.lengths.get(side) or stated.max_seq_length or _of_tokenizer(tokenizer) or family.max_length
    return SideText(_prompt(files, options, side), min(int(length or max_positions), max_positions))


def read_by_table(files: EncoderFiles, options: OpenOptions, tokenizer: Any, family: Family) -> SideText:
    """Find out how a table reads queries: without special tokens, so that none of them count.

    Parameters
    ----------
    files : EncoderFiles
        What the checkpoint states.
    options : OpenOptions
        What the user asked for instead.
    tokenizer : transformers.PreTrainedTokenizerFast
        The table's tokenizer.
    family : Family
        The table's family.

    Returns
    -------
    SideText
        Prompt and maximum length.
    """
    length = options.max_length or _of_tokenizer(tokenizer) or family.max_length or UNLIMITED
    return SideText(_prompt(files, options, "query"), int(length))


def check_room(sides: Mapping[Side, SideText], tokenizer: Any, special: int, files: EncoderFiles) -> None:
    """Check that special tokens and the prompt leave room for a text.

    Parameters
    ----------
    sides : mapping of side to SideText
        How the texts of each side are read.
    tokenizer : transformers.PreTrainedTokenizerFast
        The tokenizer.
    special : int
        How many special tokens a text gets.
    files : EncoderFiles
        The files of the side, for the message.

    Raises
    ------
    CheckpointError
        If they do not.
    """
    for side, settings in sides.items():
        prompt = len(tokenizer(settings.prompt, add_special_tokens=False)["input_ids"])
        if tokenizer.truncation_side == "left":  # then the prompt is cut first
            prompt = 0
        if settings.max_length <= special + prompt:
            raise CheckpointError(
                f"{files.directory} cuts {side} texts to {settings.max_length} tokens, which has no room beside "
                f"{special} special tokens and {prompt} of the prompt; correct its configuration, or "
                "pass --max-length, --prompt-query or --prompt-document"
            )


def normalization(files: EncoderFiles, options: OpenOptions) -> Normalization:
    """Find out whether vectors are normalized, and when.

    The ``Normalize`` module comes before the largest weights are chosen, the cosine after.

    Parameters
    ----------
    files : EncoderFiles
        What the checkpoint states.
    options : OpenOptions
        What the user asked for instead.

    Returns
    -------
    {"none", "all terms", "kept terms"}
        Which terms the L2 norm is taken of.
    """
    if files.model.cosine:
        return "kept terms" if options.max_active_dims or files.model.max_active_dims else "all terms"
    return "all terms" if files.normalized else "none"


def _prompt(files: EncoderFiles, options: OpenOptions, side: Side) -> str:
    asked = options.prompt(side)
    return files.model.prompts[side] if asked is None else asked


def _of_tokenizer(tokenizer: Any) -> int | None:
    return int(tokenizer.model_max_length) if tokenizer.model_max_length < _NO_LENGTH else None
