"""Cutting long documents into overlapping passages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .encoder.tokenizer import TextTokenizer, clean_text
from .errors import InputError


@dataclass(frozen=True)
class Passages:
    """How documents are cut: at most ``max_tokens`` tokens a passage, ``overlap`` of them shared with the one before.

    Special tokens and the title are not counted. Raises InputError unless ``0 <= overlap < max_tokens``.
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


def split(text: str, tokenizer: TextTokenizer, max_tokens: int, overlap: int = 0) -> list[tuple[int, int]]:
    """Passages of at most ``max_tokens`` tokens each, as (start, end) in characters of ``clean_text(text)``.

    A text that fits is one passage. Every token is in at least one passage. Cuts fall between words, unless one word
    alone is longer than a passage; so a passage may be shorter, and may share fewer tokens than ``overlap`` with the
    one before. Raises InputError for sizes that :class:`Passages` refuses.
    """
    Passages(max_tokens, overlap)
    text = clean_text(text)
    spans = tokenizer.spans(text)
    if len(spans.offsets) <= max_tokens:
        return [(0, len(text))]
    ranges = token_ranges(spans.words, max_tokens, overlap)
    return [(spans.offsets[start][0], spans.offsets[end - 1][1]) for start, end in ranges]


def token_ranges(words: Sequence[int | None], max_tokens: int, overlap: int) -> list[tuple[int, int]]:
    """The (start, end) token positions of each passage, given the number of the word each token belongs to."""
    starts_word = [i == 0 or word is None or word != words[i - 1] for i, word in enumerate(words)]
    starts_word.append(True)  # the end of the text
    ranges = []
    start = 0
    while True:
        end = min(start + max_tokens, len(words))
        end = next((cut for cut in range(end, start, -1) if starts_word[cut]), end)
        ranges.append((start, end))
        if end == len(words):
            return ranges
        # The overlap begins at a word and leaves room for the next whole word; where there is no such place, the next
        # passage starts where this one ended.
        word_end = next(cut for cut in range(end + 1, len(words) + 1) if starts_word[cut])
        earliest = max(end - overlap, start + 1, word_end - max_tokens)
        start = next((cut for cut in range(earliest, end) if starts_word[cut]), end)
