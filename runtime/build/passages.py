"""Splitting long documents into overlapping passages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from ..encoder.cutting import MOST_CHARACTERS, first_part
from ..encoder.tokenizer import TextTokenizer, TokenSpans, clean_text
from ..errors import InputError


@dataclass(frozen=True)
class Passages:
    """How documents are split into passages. Special tokens and the title are not counted.

    Attributes
    ----------
    max_tokens
        The most tokens of a passage.
    overlap
        Tokens that a passage shares with the one before.

    Raises
    ------
    InputError
        Unless ``0 <= overlap < max_tokens``.
    """

    max_tokens: int
    overlap: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise InputError(f"passages of {self.max_tokens} tokens; give at least 1")
        if not 0 <= self.overlap < self.max_tokens:
            raise InputError(
                f"an overlap of {self.overlap} tokens; give 0 to {self.max_tokens - 1}, less than a passage"
            )


class PassageSpan(NamedTuple):
    """Which part of which document a vector stands for.

    Attributes
    ----------
    document
        The document's ordinal in its segment.
    start, end
        The range of characters in the document's text.
    """

    document: int
    start: int
    end: int


def split(text: str, tokenizer: TextTokenizer, max_tokens: int, overlap: int = 0) -> list[tuple[int, int]]:
    """Split a text into passages.

    A text that fits is one passage. Every token is in at least one passage. A passage ends at white space if the last
    half of it has some, else between words, else (in a word longer than a passage) anywhere. So a passage may be
    shorter than ``max_tokens``, and may share fewer tokens than ``overlap`` with the one before.

    A text of more characters than the tokenizer is given at most is split into parts of about that size, which share no
    tokens.

    Parameters
    ----------
    text
        The text; lone surrogates are replaced first, see :func:`clean_text`.
    tokenizer
        The tokenizer of the document encoder.
    max_tokens
        The most tokens of a passage.
    overlap
        Tokens that a passage shares with the one before.

    Returns
    -------
    list of (int, int)
        Start and end of each passage, in characters.

    Raises
    ------
    InputError
        For sizes that :class:`Passages` refuses.
    """
    Passages(max_tokens, overlap)
    text = clean_text(text)
    found: list[tuple[int, int]] = []
    at, most = 0, min(MOST_CHARACTERS, tokenizer.most_characters)
    while at < len(text) or not found:
        part = first_part(text[at : at + 2 * MOST_CHARACTERS], most)[0]
        if not (found and part.isspace()):
            found += ((at + start, at + end) for start, end in _split(part, tokenizer, max_tokens, overlap))
        at += len(part)
    return found


def _split(text: str, tokenizer: TextTokenizer, max_tokens: int, overlap: int) -> list[tuple[int, int]]:
    spans = tokenizer.spans(text)
    if len(spans.offsets) <= max_tokens:
        return [(0, len(text))]
    ranges = token_ranges(_breaks(text, spans), max_tokens, overlap)
    return [(spans.offsets[start][0], spans.offsets[end - 1][1]) for start, end in ranges]


class Break(IntEnum):
    """How good it is to end a passage before a token."""

    INSIDE_WORD = 0
    WORD = 1
    SPACE = 2


def token_ranges(breaks: Sequence[Break], max_tokens: int, overlap: int) -> list[tuple[int, int]]:
    """Choose the tokens of each passage.

    Parameters
    ----------
    breaks
        One for each token, and one for the end of the text.
    max_tokens
        The most tokens of a passage.
    overlap
        Tokens that a passage shares with the one before.

    Returns
    -------
    list of (int, int)
        The range of tokens of each passage.
    """
    tokens = len(breaks) - 1

    def end_of(start: int) -> int:
        high = min(start + max_tokens, tokens)
        near = range(high, high - (high - start + 1) // 2, -1)
        return _first(breaks, Break.SPACE, near) or _first(breaks, Break.WORD, range(high, start, -1)) or high

    ranges = [(0, end_of(0))]
    while ranges[-1][1] < tokens:
        start, end = ranges[-1]
        # A passage must end behind the one before; if an overlap leaves no room for that, there is no overlap.
        starts = [token for token in range(max(end - overlap, start + 1), end) if end_of(token) > end]
        next_start = _first(breaks, Break.SPACE, starts) or _first(breaks, Break.WORD, starts) or end
        ranges.append((next_start, end_of(next_start)))
    return ranges


def _first(breaks: Sequence[Break], least: Break, tokens: Iterable[int]) -> int | None:
    """The first of ``tokens`` (never 0) before which the break is at least as good as ``least``."""
    return next((token for token in tokens if breaks[token] >= least), None)


def _breaks(text: str, spans: TokenSpans) -> list[Break]:
    breaks = []
    for i, ((start, _), word) in enumerate(zip(spans.offsets, spans.words, strict=True)):
        # Byte-level tokenizers count the blank before a word as part of it.
        if start == 0 or text[start - 1].isspace() or text[start : start + 1].isspace():
            breaks.append(Break.SPACE)
        else:
            breaks.append(Break.WORD if word is None or i == 0 or word != spans.words[i - 1] else Break.INSIDE_WORD)
    return [*breaks, Break.SPACE]
