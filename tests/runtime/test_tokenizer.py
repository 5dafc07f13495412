from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from splade_edge.runtime.encoder.tokenizer import TextTokenizer, clean_text, vocabulary_sha256
from splade_edge.runtime.errors import ArtifactError

from .. import tiny


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tiny.write_tokenizer(path)
    return path


def test_truncation_and_padding_of_the_file_are_ignored(file: Path) -> None:
    tokenizer = TextTokenizer(file, max_length=8)
    assert len(tokenizer.encode("cat").ids) == 3  # the file pads to 12
    assert len(tokenizer.encode("cat " * 20).ids) == 8  # the file truncates to 5
    assert tokenizer.encode("cat " * 20).ids[-1] == tiny.VOCABULARY.index("[SEP]")


@given(st.text(st.characters(codec=None), max_size=30))
def test_any_python_string_can_be_tokenized(file: Path, text: str) -> None:
    ids = TextTokenizer(file, max_length=8).encode(text).ids
    assert ids[0] == 2
    assert 2 <= len(ids) <= 8
    clean_text(text).encode("utf-8")


@given(st.text())
def test_valid_text_is_left_alone(text: str) -> None:
    assert clean_text(text) == text


def test_surrogates() -> None:
    assert clean_text("a\ud800b") == "a\ufffdb"
    assert clean_text("\ud83d\ude00") == "😀"
    assert clean_text("x\udcff") == "x\ufffd"


def test_spans_are_whole_and_refer_to_the_text(file: Path) -> None:
    text = "Cats and  raining ☃, " * 10
    spans = TextTokenizer(file, max_length=4).spans(text)
    assert len(spans.offsets) == 7 * 10
    assert [text[a:b] for a, b in spans.offsets[:7]] == ["Cat", "s", "and", "rain", "ing", "☃", ","]
    assert spans.words[0] == spans.words[1] != spans.words[2]


def test_vocabulary_names_every_term(file: Path) -> None:
    terms = TextTokenizer(file, max_length=8).vocabulary(len(tiny.VOCABULARY) + 2)
    assert terms[:-2] == tiny.VOCABULARY
    assert terms[-2:] == [f"[{len(terms) - 2}]", f"[{len(terms) - 1}]"]


def test_vocabulary_digest_is_as_documented(file: Path, tmp_path: Path) -> None:
    size = len(tiny.VOCABULARY)
    text = "".join(f"{token}\t{term}\n" for term, token in enumerate(tiny.VOCABULARY))
    assert vocabulary_sha256(file, size) == hashlib.sha256(text.encode()).hexdigest()
    assert vocabulary_sha256(file, size - 1) != vocabulary_sha256(file, size)
    swapped = [*tiny.VOCABULARY[:-2], tiny.VOCABULARY[-1], tiny.VOCABULARY[-2]]
    tiny.write_tokenizer(tmp_path / "swapped.json", swapped)
    assert vocabulary_sha256(tmp_path / "swapped.json", size) != vocabulary_sha256(file, size)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"[1]"])
def test_a_file_that_is_no_tokenizer(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        TextTokenizer(tmp_path / "tokenizer.json", 8)


def test_no_room_for_a_token(file: Path) -> None:
    with pytest.raises(ArtifactError, match="a maximum length of 2 has no room beside 2 special tokens"):
        TextTokenizer(file, 2)
