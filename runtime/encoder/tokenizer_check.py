"""What a ``tokenizer.json`` may ask for: a file of a stranger must not make the library work, or grow a text, without
bounds.

The limits are far beyond what tokenizers of published encoders need. What is not known here is the library's to refuse.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import ArtifactError

if TYPE_CHECKING:
    from .patterns import Work

MAX_BYTES = 64 << 20
MAX_WORD = 10_000  # characters of a word that WordPiece looks up: its work grows with their square
MAX_GROWTH = 64  # how many times as long normalizers may make a text
MAX_PATTERN = 2_000  # characters of a regular expression
MAX_DEPTH = 16
MAX_PARTS = 200  # normalizers, pre-tokenizers and decoders; each goes through the whole text
# A text that patterns may go through once for each of its characters is cut to so many.
SHORT_CHARACTERS = 1 << 13
_SHOWN = 60  # characters of a pattern in a message


class _Model(msgspec.Struct):
    type: str | None = None
    max_input_chars_per_word: Any = None


class _File(msgspec.Struct):
    normalizer: Any = None
    pre_tokenizer: Any = None
    decoder: Any = None
    model: _Model | None = None


@dataclass
class _Found:
    """What the parts of a file ask for together."""

    path: Path
    parts: int = 0
    growth: int = 1  # in bytes
    longer: int = 1  # in characters
    work: Work | None = None  # of its patterns, if it has any


def check_tokenizer(path: Path, text: str) -> int | None:
    """How many characters of a text the tokenizer of a file may be given; None: of any text. Raises ArtifactError for a
    file whose work would have no bounds.
    """
    if len(text) > MAX_BYTES:
        raise _refused(path, f"it is larger than {MAX_BYTES >> 20} MiB")
    found = _Found(path)
    try:
        file = msgspec.json.decode(text, type=_File)
        for part in (file.normalizer, file.pre_tokenizer):
            _check(found, part, MAX_DEPTH)
        growth, longer = found.growth, found.longer
        _check(found, file.decoder, MAX_DEPTH)  # decodes nothing here, but its patterns are compiled
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError) as error:
        raise _refused(path, str(error)) from None
    if growth > MAX_GROWTH:
        raise _refused(path, "it makes texts many times as long")
    longest = file.model.max_input_chars_per_word if file.model else None
    if longest is not None and (type(longest) is not int or not 0 <= longest <= MAX_WORD):
        raise _refused(path, f"max_input_chars_per_word is {longest!r}, at most {MAX_WORD} is read")
    if found.work is None:
        return None
    if not found.work.is_bounded:
        raise _refused(path, "its patterns together have too many ways to match")
    return None if found.work.is_small else SHORT_CHARACTERS // longer


def _check(found: _Found, part: Any, depth: int) -> None:
    """Add what a normalizer, a pre-tokenizer or a decoder asks for. Raises ArtifactError."""
    if part is None:
        return
    if not isinstance(part, dict) or depth == 0:
        raise _refused(found.path, "its normalizer or pre-tokenizer is none, or is nested too deeply")
    found.parts += 1
    if found.parts > MAX_PARTS:
        raise _refused(found.path, f"it has more than {MAX_PARTS} normalizers and pre-tokenizers")
    for key in ("normalizers", "pretokenizers", "decoders"):
        inner = part.get(key)
        if isinstance(inner, list):
            for each in inner:
                _check(found, each, depth - 1)
    pattern = part.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    if isinstance(regex, str):
        work = _work(found.path, regex)
        found.work = work if found.work is None else found.work.plus(work)
    content = part.get("content")
    if part.get("type") in ("Replace", None) and isinstance(content, str):  # old files do not say the type
        string = pattern.get("String") if isinstance(pattern, dict) else None
        if string == "":
            raise _refused(found.path, "it replaces the empty string")
        string = string if isinstance(string, str) else "x"
        found.growth = min(found.growth * max(1, -(-len(content.encode()) // len(string.encode()))), MAX_GROWTH + 1)
        found.longer = min(found.longer * max(1, -(-len(content) // len(string))), MAX_GROWTH)


def _work(path: Path, pattern: str) -> Work:
    """What a pattern takes. Raises ArtifactError where it may take too long, or is not understood."""
    from .patterns import PatternError, work  # WordPiece has none

    if len(pattern) > MAX_PATTERN:
        raise _refused(path, f"a pattern of {len(pattern):,} characters")
    try:
        return work(pattern)
    except PatternError as error:
        shown = pattern if len(pattern) <= _SHOWN else pattern[: _SHOWN - 1] + "…"
        raise ArtifactError(
            f"{path} is no tokenizer that is safe to use (the pattern {shown!r} {error}, and is not one that published "
            "tokenizers have); take the tokenizer.json of the model's publisher, or write the pattern so that no "
            "repeat is within another and none is followed by what it can match itself"
        ) from None


def _refused(path: Path, reason: str) -> ArtifactError:
    return ArtifactError(f"{path} is no tokenizer that is safe to use ({reason}); do not use it, or export it again")
