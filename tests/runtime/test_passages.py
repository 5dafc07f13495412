from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from splade_edge.runtime.build.passages import Break, Passages, split, token_ranges
from splade_edge.runtime.encoder.tokenizer import TextTokenizer, TokenSpans, clean_text
from splade_edge.runtime.errors import InputError

from .. import tiny


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tiny.write_tokenizer(path)
    return TextTokenizer(path, tiny.MAX_LENGTH)


def passages_of(text: str, tokenizer: TextTokenizer, max_tokens: int, overlap: int = 0) -> list[str]:
    return [text[start:end] for start, end in split(text, tokenizer, max_tokens, overlap)]


def test_a_short_text_is_one_passage(tokenizer: TextTokenizer) -> None:
    assert passages_of("  Cat dog. ", tokenizer, 3) == ["  Cat dog. "]
    assert passages_of("", tokenizer, 3) == [""]


def test_overlap(tokenizer: TextTokenizer) -> None:
    assert passages_of("a cat in the river of rain", tokenizer, 4, 2) == [
        "a cat in the",
        "in the river of",
        "river of rain",
    ]
    assert passages_of("a cat in the river of rain", tokenizer, 3) == ["a cat in", "the river of", "rain"]


def test_words_are_not_divided(tokenizer: TextTokenizer) -> None:
    # cats, dogs and raining are two tokens each
    assert passages_of("cats dogs raining the", tokenizer, 3, 1) == ["cats", "dogs", "raining the"]


def test_a_word_longer_than_a_passage_is_divided(tokenizer: TextTokenizer) -> None:
    assert passages_of("cat" + "s" * 5 + " dog", tokenizer, 2) == ["cats", "ss", "ss", "dog"]


def test_cuts_prefer_white_space(tokenizer: TextTokenizer) -> None:
    assert passages_of("the cat in the rain. a dog in the snow.", tokenizer, 6) == [
        "the cat in the rain.",
        "a dog in the snow.",
    ]
    assert passages_of("the cat in rain. a dog in snow.", tokenizer, 4) == ["the cat in", "rain. a dog", "in snow."]
    assert passages_of("cat,dog,bird,fish", tokenizer, 4) == ["cat,dog,", "bird,fish"]


word_list = st.lists(st.tuples(st.integers(1, 5), st.sampled_from([Break.WORD, Break.SPACE])), min_size=1, max_size=30)


@given(word_list, st.integers(1, 9), st.data())
def test_token_ranges(words: list[tuple[int, Break]], size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    breaks = [b for length, first in words for b in [first] + [Break.INSIDE_WORD] * (length - 1)] + [Break.SPACE]
    ranges = token_ranges(breaks, size, overlap)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == len(breaks) - 1
    for start, end in ranges:
        assert 0 < end - start <= size
        if max(length for length, _ in words) <= size:
            assert breaks[start] > Break.INSIDE_WORD
            assert breaks[end] > Break.INSIDE_WORD
    for (start, end), (next_start, next_end) in pairwise(ranges):
        assert start < next_start <= end < next_end
        assert end - next_start <= overlap


@given(st.lists(st.sampled_from(["cat", "dogs", "raining", "the", "☃", ",", "catsss"]), max_size=40))
def test_passages_are_slices_in_order(tokenizer: TextTokenizer, parts: list[str]) -> None:
    text = clean_text(" ".join(parts))
    assert "".join(passages_of(text, tokenizer, 5)).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (-1, 0), (4, 4), (4, -1), (4, 9)])
def test_bad_sizes(size: int, overlap: int) -> None:
    with pytest.raises(InputError, match="tokens; give"):
        Passages(size, overlap)


def test_a_text_that_is_split_in_parts(tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long text is never tokenized at once: every token is in a passage, and no passage reaches over a part's end."""
    from splade_edge.runtime.build import passages

    text = "the cat and dog  in rain " * 40 + "x" * 300
    monkeypatch.setattr(passages, "MOST_CHARACTERS", 100)
    seen: list[int] = []
    spans = tokenizer.spans

    def look(part: str) -> TokenSpans:
        seen.append(len(part))
        return spans(part)

    monkeypatch.setattr(tokenizer, "spans", look)
    found = split(text, tokenizer, 6, 2)
    assert max(seen) <= 200
    covered = {place for start, end in found for place in range(start, end)}
    assert all(place in covered for place, character in enumerate(text) if not character.isspace())
    assert all(start < end <= len(text) for start, end in found)
    assert split("", tokenizer, 6) == [(0, 0)]
