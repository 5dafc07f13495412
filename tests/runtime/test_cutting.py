"""A part of a text that is tokenized in place of the whole gives the same tokens."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from splade_edge.runtime.encoder import cutting
from splade_edge.runtime.encoder.cutting import Cutter, Local, first_part, last_part
from splade_edge.runtime.encoder.library_errors import tokenizers_errors
from splade_edge.runtime.encoder.tokenizer import TextTokenizer, clean_text
from splade_edge.runtime.errors import ArtifactError
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tests import tiny

# Words, accents that compose, characters that are words of their own, contractions, punctuation before line ends.
ALPHABET = [
    "a",
    "b",
    "ce",
    " ",
    "  ",
    "\n",
    "\t",
    "!",
    "'",
    "ll",
    "don't",
    ".",
    "漢",
    "字",
    "e\u0301",
    "é",
    "9",
    "9",
    "Σ",
    "[M]",
]
CORPUS = ["a b ce don't bell", "ab ceb! 99 9", "漢字 é é a", "b'll a'ce !\n\n9"]
GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=60, special_tokens=["[UNK]", "[M]"]))
    return tokenizer


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return trained_bpe(tokenizer)


def gpt4() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(GPT4), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return trained_bpe(tokenizer)


def trained_bpe(tokenizer: Tokenizer) -> Tokenizer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, special_tokens=["[M]"])
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=["<unk>", "[M]"], unk_token="<unk>")
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def whole_text() -> Tokenizer:
    """As Llama 2: no pieces, so nothing may be cut before the limit."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=60))
    return tokenizer


def with_blank_in_added_token() -> Tokenizer:
    tokenizer = word_piece()
    tokenizer.add_tokens([AddedToken("a b", normalized=False), AddedToken("ce  ", lstrip=True)])
    return tokenizer


MADE = {
    "WordPiece": (word_piece, Local.ANYWHERE),
    "byte level": (byte_level, Local.SPACE),
    "GPT-4": (gpt4, Local.SPACE),
    "Unigram": (unigram, Local.SPACE),
    "whole text": (whole_text, Local.NOWHERE),
    "added": (with_blank_in_added_token, Local.NOWHERE),
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "_LEAST_CHARACTERS", 24)
    monkeypatch.setattr(cutting, "_CHARACTERS_A_TOKEN", 2)
    monkeypatch.setattr(cutting, "_LONGEST_WORD", 6)


@pytest.mark.parametrize("direction", ["right", "left"])
@pytest.mark.parametrize("name", MADE)
def test_the_same_tokens(small: None, name: str, direction: str) -> None:
    make, local = MADE[name]
    tokenizer = make()
    cutter = Cutter(tokenizer, Path("x"))
    assert cutter._local == local
    rng = random.Random(name)
    cut = 0
    for n in range(600):
        letters = ALPHABET if n % 5 else [c for c in ALPHABET if not c.isspace()]
        text = "".join(rng.choices(letters, k=rng.randrange(1, 200)))
        tokenizer.enable_truncation(rng.choice((2, 5, 9)), direction=direction)
        counting = Counting(tokenizer)
        got, truncated, *_ = cutter.encode(counting, text, clean_text)
        wanted = tokenizer.encode(text)
        assert got.ids == wanted.ids, repr(text)
        assert truncated == bool(wanted.overflowing)
        cut += counting.longest < len(text)
    assert (cut > 100) is (local != Local.NOWHERE)


class Counting:
    """A tokenizer that remembers the longest text it was given."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.truncation = tokenizer.truncation
        self.longest = 0

    def encode(self, text: str, *, add_special_tokens: bool = True) -> Any:
        self.longest = max(self.longest, len(text))
        return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)


@pytest.mark.parametrize("direction", ["right", "left"])
@pytest.mark.parametrize(
    "text", ["a b " * 4000, "a" * 16_000, " " * 16_000, "漢字" * 8000], ids=["words", "word", "blank", "Han"]
)
@pytest.mark.parametrize("name", ["WordPiece", "byte level", "whole text"])
def test_no_more_than_the_limit(
    small: None, monkeypatch: pytest.MonkeyPatch, name: str, text: str, direction: str
) -> None:
    """Whatever a text is, a tokenizer is given a bounded part of it; the rest counts as cut."""
    monkeypatch.setattr(cutting, "MOST_CHARACTERS", 1000)
    tokenizer = MADE[name][0]()
    tokenizer.enable_truncation(8, direction=direction)
    counting = Counting(tokenizer)
    encoding, truncated, *_ = Cutter(tokenizer, Path("x")).encode(counting, text, clean_text)
    assert counting.longest <= 1006
    assert truncated
    assert len(encoding.ids) <= 8


def test_parts() -> None:
    assert first_part("ab cd", 9) == ("ab cd", False)
    assert first_part("ab  cd ef", 2) == ("ab", False)
    assert first_part("ab  cd ef", 3) == ("ab  cd", False)  # not within a run
    assert first_part("abcdef", 3) == ("abc", True)
    assert last_part("ab cd ef", 2) == ("ef", False)
    assert last_part("ab cd ef", 3) == ("cd ef", False)
    assert last_part("abcdef", 3) == ("def", True)


def test_a_text_of_64_mb_takes_no_more_than_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.write_tokenizer(tmp_path / "tokenizer.json")
    tokenizer = TextTokenizer(tmp_path / "tokenizer.json", 16)
    seen = Counting(tokenizer._tokenizer)
    monkeypatch.setattr(tokenizer, "_tokenizer", seen)
    text = "the cat " * (8 << 20)
    assert tokenizer.encode(text).ids == tokenizer.encode("the cat " * 20).ids
    assert tokenizer.encode(text).truncated
    assert seen.longest < 20_000


class Panic(BaseException):
    """As pyo3's PanicException: no Exception."""


@pytest.mark.parametrize("error", [Exception("line one\nline two"), Panic("a panic"), RuntimeError("")])
def test_what_the_library_throws(tmp_path: Path, error: BaseException) -> None:
    def fail() -> None:
        with tokenizers_errors(tmp_path / "tokenizer.json"):
            raise error

    with pytest.raises(ArtifactError) as caught:
        fail()
    reason = str(error).split("\n")[0] or "RuntimeError"
    assert str(caught.value).startswith(
        f"{tmp_path}/tokenizer.json is not a tokenizer this release of tokenizers reads"
    )
    assert f"({reason})" in str(caught.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), ArtifactError("ours")])
def test_what_passes_through(error: BaseException) -> None:
    def fail() -> None:
        with tokenizers_errors(Path("x")):
            raise error

    with pytest.raises(type(error)):
        fail()
