"""Long texts are cut before they are tokenized: an encoder reads some hundred tokens, and a text may have 64 MB.

A part of a text has the same first tokens as the whole if its end changes none of them. Where the pieces that a
pre-tokenizer makes (words, say) depend on nothing beyond them, a cut changes the last piece of the part alone. So the
part is long enough once its last piece comes behind the tokens that are kept. Until then it grows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .library_errors import tokenizers_errors

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

# A tokenizer is given at most so many characters. What lies beyond them counts as cut. They decide the tokens unless
# they are one word, all blank, or go to a tokenizer that makes no pieces.
MOST_CHARACTERS = 1 << 20
_LEAST_CHARACTERS = 1 << 14
_CHARACTERS_A_TOKEN = 16  # of the first part; few texts need a second one
_LONGEST_WORD = 1 << 12  # how far the next white space is looked for
_GROWTH = 4
_SPACE = re.compile(r"(?<![ \t\r\n])[ \t\r\n]")  # the first of a run


class Local(IntEnum):
    """Where a cut changes no piece but the one that it falls into."""

    NOWHERE = 0
    SPACE = 1
    ANYWHERE = 2


# By type: what normalizers and pre-tokenizers look at. Others are taken to look at the whole text.
_NORMALIZERS = {
    "BertNormalizer", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Strip", "Nmt", "Precompiled",
    "Prepend", "ByteLevel",
}  # fmt: skip
_PRE_TOKENIZERS = {
    "BertPreTokenizer": Local.ANYWHERE,
    "Whitespace": Local.ANYWHERE,
    "WhitespaceSplit": Local.ANYWHERE,
    "Metaspace": Local.ANYWHERE,
    "Digits": Local.ANYWHERE,
    "CharDelimiterSplit": Local.ANYWHERE,
    "Punctuation": Local.SPACE,
    "ByteLevel": Local.SPACE,  # its pattern has "'ll" as one piece, but "'", "l" as two
}
# The patterns of GPT-4, Llama 3 and Qwen 2, and runs of blanks: no piece reaches over white space into a word.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATTERNS = {
    _WORDS + r"\p{N}{1,3}" + _REST,
    _WORDS + r"\p{N}" + _REST,
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    " {2,}",
    r"\s+",
}


class Cut(NamedTuple):
    """The encoding of ``text``, a part of the text that was given; ``truncated``: some of that was cut, here or by the
    tokenizer; ``starts_late``: the part does not begin where the text does.
    """

    encoding: Encoding
    truncated: bool
    text: str
    starts_late: bool


class Cutter:
    """Tokenizes the part of a text that decides which tokens are kept. Made from a tokenizer, whose truncation may
    change afterwards; ``path`` is its file. It is given at most ``most`` characters, :data:`MOST_CHARACTERS` if None.
    """

    def __init__(
        self, tokenizer: Tokenizer, path: Path, *, add_special_tokens: bool = True, most: int | None = None
    ) -> None:
        self._path = path
        self._most = MOST_CHARACTERS if most is None else min(most, MOST_CHARACTERS)
        self._add_special_tokens = add_special_tokens
        added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        self._margin = 4 * max(map(len, added), default=0)  # a cut within an added token makes several pieces of it
        self._local = min(_of_normalizer(_state(tokenizer.normalizer)), _of_pieces(_state(tokenizer.pre_tokenizer)))
        if any(re.search(r"\s", content) for content in added):
            self._local = Local.NOWHERE

    def encode(self, tokenizer: Tokenizer, text: str, clean: Callable[[str], str]) -> Cut:
        """The encoding of ``clean(text)`` by a tokenizer that truncates (on either side).

        It has the tokens that the whole text would give, if as many characters decide them as the tokenizer is given
        at most (else those that so many characters give). It takes time and memory for these at most. Raises
        ArtifactError where the tokenizer fails.
        """
        if not isinstance(text, str) or len(text) <= min(_LEAST_CHARACTERS, self._most):
            text = clean(text)
            encoding = self._encode(tokenizer, text)
            return Cut(encoding, bool(encoding.overflowing), text, starts_late=False)
        truncation = tokenizer.truncation or {"max_length": MOST_CHARACTERS, "direction": "right"}
        left = truncation["direction"] == "left"
        size = max(_LEAST_CHARACTERS, _CHARACTERS_A_TOKEN * truncation["max_length"])
        while True:
            size = min(size if self._local else self._most, self._most)
            part, in_word = last_part(text, size) if left else first_part(text, size)
            whole = len(part) == len(text)
            part = clean(part)
            encoding = self._encode(tokenizer, part)
            if whole:
                return Cut(encoding, bool(encoding.overflowing), part, starts_late=False)
            if size == self._most or self._decides(encoding, len(part), in_word=in_word, left=left):
                return Cut(encoding, True, part, starts_late=left)
            size *= _GROWTH

    def _encode(self, tokenizer: Tokenizer, text: str) -> Encoding:
        with tokenizers_errors(self._path):
            return tokenizer.encode(text, add_special_tokens=self._add_special_tokens)

    def _decides(self, encoding: Encoding, length: int, *, in_word: bool, left: bool) -> bool:
        """Whether the piece at the cut comes behind (before) all tokens that are kept."""
        if in_word and self._local < Local.ANYWHERE:
            return False
        kept = [word for word in encoding.word_ids if word is not None]
        others = [word for other in encoding.overflowing for word in other.word_ids if word is not None]
        if not kept or not others:
            return False
        margin = self._margin if in_word else 0
        if left:
            starts = zip(encoding.offsets, encoding.word_ids, strict=True)
            first = min(start for (start, _), word in starts if word is not None)
            return min(others) < min(kept) and first >= margin
        return max(others) > max(kept) and max(end for _, end in encoding.offsets) <= length - margin


def first_part(text: str, size: int) -> tuple[str, bool]:
    """The first ``size`` characters of a text, grown to the next white space if there is some near; and whether a word
    is cut for all that.
    """
    if len(text) <= size:
        return text, False
    space = _SPACE.search(text, size, size + _LONGEST_WORD)
    return (text[: space.start()], False) if space else (text[:size], True)


def last_part(text: str, size: int) -> tuple[str, bool]:
    """The last ``size`` characters of a text, grown to the white space before; see :func:`first_part`."""
    if len(text) <= size:
        return text, False
    start = len(text) - size
    before = text[max(0, start - _LONGEST_WORD) : start]
    at = max(map(before.rfind, " \t\r\n"))
    if at >= 0:
        return text[start - len(before) + at + 1 :], False
    return text[start:], True


def _state(component: Any) -> dict[str, Any] | None:
    """A part of a tokenizer as its file has it."""
    state: dict[str, Any] | None = None if component is None else json.loads(component.__getstate__())
    return state


def _of_normalizer(state: dict[str, Any] | None) -> Local:
    if state is None or state["type"] in _NORMALIZERS:
        return Local.ANYWHERE
    if state["type"] == "Sequence":
        return min(map(_of_normalizer, state["normalizers"]), default=Local.ANYWHERE)
    if state["type"] == "Replace":
        return _of_pattern(state["pattern"])
    return Local.NOWHERE


def _of_pieces(state: dict[str, Any] | None) -> Local:
    if state is None:
        return Local.NOWHERE
    if state["type"] == "Sequence":
        return min(map(_of_pieces, state["pretokenizers"]), default=Local.NOWHERE)
    if state["type"] == "Split":
        return _of_pattern(state["pattern"])
    return _PRE_TOKENIZERS.get(state["type"], Local.NOWHERE)


def _of_pattern(pattern: dict[str, str]) -> Local:
    """A string of one character looks at no other; of the others only those that are known."""
    if len(pattern.get("String", "")) == 1:
        return Local.ANYWHERE
    return Local.SPACE if pattern.get("Regex") in _PATTERNS else Local.NOWHERE
