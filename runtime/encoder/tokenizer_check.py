"""What a ``tokenizer.json`` may ask for: a file of a stranger must not make the library work, or grow a text, without
bounds.

The limits are far beyond what tokenizers of published encoders need. What is not known here is the library's to refuse.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from ..errors import ArtifactError

MAX_BYTES = 64 << 20
MAX_WORD = 10_000  # characters of a word that WordPiece looks up: its work grows with their square
MAX_GROWTH = 64  # how many times as long normalizers may make a text
MAX_PATTERN = 2_000  # characters of a regular expression
MAX_DEPTH = 16
# In a pattern without its escapes and classes: a group that repeats without a bound, and is repeated itself.
_ESCAPES = re.compile(r"\\(?:[pPx]\{[^}]*\}|.)|\[(?:[^\]\\]|\\.)*\]", re.DOTALL)
_GROUP = re.compile(r"\(([^()]*)\)(\??)([*+{]?)")
_UNBOUNDED = re.compile(r"[*+]|\{\d*,\}")


class _Model(msgspec.Struct):
    type: str | None = None
    max_input_chars_per_word: Any = None


class _File(msgspec.Struct):
    normalizer: Any = None
    pre_tokenizer: Any = None
    model: _Model | None = None


def check_tokenizer(path: Path, text: str) -> None:
    """Raise ArtifactError for a tokenizer file whose work would have no bounds."""
    if len(text) > MAX_BYTES:
        raise _refused(path, f"it is larger than {MAX_BYTES >> 20} MiB")
    try:
        file = msgspec.json.decode(text, type=_File)
        growth = _check(path, file.normalizer, MAX_DEPTH) * _check(path, file.pre_tokenizer, MAX_DEPTH)
    except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError) as error:
        raise _refused(path, str(error)) from None
    if growth > MAX_GROWTH:
        raise _refused(path, "it makes texts many times as long")
    longest = file.model.max_input_chars_per_word if file.model else None
    if longest is not None and (type(longest) is not int or not 0 <= longest <= MAX_WORD):
        raise _refused(path, f"max_input_chars_per_word is {longest!r}, at most {MAX_WORD} is read")


def _check(path: Path, part: Any, depth: int) -> int:
    """How many times as long a normalizer or a pre-tokenizer may make a text. Raises ArtifactError."""
    if part is None:
        return 1
    if not isinstance(part, dict) or depth == 0:
        raise _refused(path, "its normalizer or pre-tokenizer is none, or is nested too deeply")
    growth = 1
    for key in ("normalizers", "pretokenizers"):
        inner = part.get(key)
        if isinstance(inner, list):
            for each in inner:
                growth = min(growth * _check(path, each, depth - 1), MAX_GROWTH + 1)
    pattern = part.get("pattern")
    found = pattern.get("Regex") if isinstance(pattern, dict) else None
    if isinstance(found, str):
        _check_pattern(path, found)
    content = part.get("content")
    if part.get("type") == "Replace" and isinstance(content, str):
        string = pattern.get("String") if isinstance(pattern, dict) else None
        shortest = len(string.encode()) if isinstance(string, str) else 1
        if not shortest:
            raise _refused(path, "it replaces the empty string")
        growth *= max(1, -(-len(content.encode()) // shortest))
    return growth


def _check_pattern(path: Path, pattern: str) -> None:
    """Refuse what backtracking makes exponential: ``(a+)+`` and the like."""
    if len(pattern) > MAX_PATTERN:
        raise _refused(path, f"a pattern of {len(pattern):,} characters")
    rest = _ESCAPES.sub("x", pattern)
    if re.search(r"\\[1-9k]", pattern):
        raise _refused(path, "a pattern that refers back")
    while match := _GROUP.search(rest):
        inside, _, repeated = match.groups()
        unbounded = _UNBOUNDED.search(inside) is not None
        if unbounded and repeated:
            raise _refused(path, f"a pattern that repeats what repeats, {pattern[:80]!r}")
        # what is left of the group: something that repeats, or not
        rest = rest[: match.start()] + ("x+" if unbounded else "x") + rest[match.end() :]


def _refused(path: Path, reason: str) -> ArtifactError:
    return ArtifactError(f"{path} is no tokenizer that is safe to use ({reason}); do not use it, or export it again")
