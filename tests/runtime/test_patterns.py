"""Regular expressions of a tokenizer file: those of published tokenizers are taken, others where their work is bounded.

No pattern here that would explode is given to the library: it is refused before.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from splade_edge.runtime.build.passages import split
from splade_edge.runtime.encoder import cutting, patterns, tokenizer_check
from splade_edge.runtime.encoder.patterns import PUBLISHED, PUBLISHED_QUADRATIC, PatternError, Work, work
from splade_edge.runtime.encoder.tokenizer import TextTokenizer
from splade_edge.runtime.encoder.tokenizer_check import MAX_PATTERN, SHORT_CHARACTERS, check_tokenizer
from splade_edge.runtime.errors import ArtifactError
from tokenizers import Regex

from tests import tiny
from tests.runtime.test_cutting import Counting

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT_4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_2 = LLAMA_3.replace("{1,3}", "")


def body(pattern: str, **more: Any) -> str:
    part = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return json.dumps({"pre_tokenizer": part, "normalizer": None} | more)


@pytest.mark.parametrize("pattern", [LLAMA_3, GPT_4O, QWEN_2, " {2,}", r"\s+", r"(?:[(+*]|\(\+\))+"])
def test_patterns_of_published_tokenizers_are_taken(pattern: str) -> None:
    assert pattern in PUBLISHED
    assert check_tokenizer(Path("x"), body(pattern)) is None


@pytest.mark.parametrize("pattern", sorted(PUBLISHED | PUBLISHED_QUADRATIC))
def test_published_patterns_are_some(pattern: str) -> None:
    Regex(pattern)
    assert len(pattern) <= MAX_PATTERN
    short = None if pattern in PUBLISHED else SHORT_CHARACTERS
    assert check_tokenizer(Path("x"), body(pattern)) == short


def test_patterns_whose_texts_are_cut_elsewhere_are_published() -> None:
    assert cutting._PATTERNS <= PUBLISHED


@pytest.mark.parametrize(
    "pattern",
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}]*[\p{Ll}\p{Lm}]+(?i:'s|'t|'re)?|\p{N}{1,3}| ?[^\s]+[\r\n/]*|\s+(?!\S)",
        GPT_4O.replace("/", "_"),
        QWEN_2.replace(r"\p{L}+", r"[\p{L}_]+"),
        r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+",
        r"(?:ab|c)+d",
        "x+y",
        ".+",
        "x{1,60}x{1,60}y",
    ],
)
def test_unknown_patterns_with_bounded_work_get_shorter_texts(pattern: str) -> None:
    assert check_tokenizer(Path("x"), body(pattern)) == SHORT_CHARACTERS
    longer = {"type": "Replace", "pattern": {"String": "a"}, "content": "bbbb"}
    assert check_tokenizer(Path("x"), body(pattern, normalizer=longer)) == SHORT_CHARACTERS // 4


@pytest.mark.parametrize("pattern", ["a", r"\d{1,3}", r"[-_/]", r"(?<=[a-z])(?=[A-Z])", r"\p{Han}", "a|b|", r"\x{41}"])
def test_unknown_patterns_with_little_work(pattern: str) -> None:
    assert check_tokenizer(Path("x"), body(pattern)) is None


EXPLODING = [
    (r"(a+)+b", "repeats what repeats"),
    (r"(?:a?)*b", "repeats what repeats"),
    (r"(a|a)*b", "branches can begin with the same"),
    (r"(?:\p{L}|\w)+x", "branches can begin with the same"),
    (r"(?:a|ab|b)*c", "branches can begin with the same"),
    (r"(?:é|\p{Ll})*c", "branches can begin with the same"),
    (r"(?:[^a]|b)*c", "branches can begin with the same"),
    (r"(?:x{1,40}){1,40}y", "repeats what repeats"),
    (r"(?:(?:xx){1,9}z){1,9}y", "repeats what repeats"),
    (r"(?:a|)*b", "may be empty"),
    (r"a*a*a*b", "two repeats without a bound"),
    (r"\w+\d+x", "two repeats without a bound"),
    (r"x*?x*?y", "two repeats without a bound"),
    (r"(?:a+|b)(?:a*|c)d", "two repeats without a bound"),
    (r"a{1,900}a{1,900}b", "too many ways"),
    ("a{0,9}" * 8 + "b", "too many ways"),
    ("(a?|b?)" * 20 + "x", "too many ways"),
    ("|".join(f"x+{c}" for c in "abcdefghijklmnopq"), "too many ways"),
    (r"x{1,3}+y", "repeats what repeats"),
    (r"x{3}?y", "repeats what repeats"),
    (r"x**y", "repeats what repeats"),
    (r"(?i:ss)+t", "repeats what repeats"),
    (r"(?i:[ßs]+)", "plain letters where it ignores case"),
    (r"(?=(a+)+b)", "repeats what repeats"),
    (r"(?i)a", "of a kind that is not known"),
    (r"(?<n>a)\g<n>", "of a kind that is not known"),
    (r"(?(1)a)", "of a kind that is not known"),
    (r"[a&&b]", "of a kind that is not known"),
    (r"[[:alpha:]]", "of a kind that is not known"),
    (r"[a-\w]", "of a kind that is not known"),
    (r"a\1", "an escape that is not known"),
    ("(?:" * 30 + "a" + ")" * 30, "nested too deeply"),
    ("(a", "lacks a bracket"),
    ("a)", "a bracket too many"),
    ("[a", "of a kind that is not known"),
    ("a{", "no repeat"),
    ("a{,}", "without numbers"),
    ("a{3,2}", "the wrong way round"),
    ("*a", "repeats nothing"),
    (r"\b+", "takes no character"),
    ("\\", "an escape that is not known"),
]


@pytest.mark.parametrize(("pattern", "reason"), EXPLODING)
def test_what_may_explode_is_refused(pattern: str, reason: str) -> None:
    with pytest.raises(PatternError, match=reason):
        work(pattern)


def test_the_error_names_the_pattern_and_the_fix() -> None:
    """In one line, however long the pattern is."""
    for pattern in (r"(a+)+b", r"(a+)+b" + "x" * 300 + "\n"):
        with pytest.raises(ArtifactError) as caught:
            check_tokenizer(Path("some/tokenizer.json"), body(pattern))
        line = str(caught.value)
        assert line.startswith("some/tokenizer.json is no tokenizer that is safe to use (the pattern '(a+)+b")
        assert "take the tokenizer.json of the model's publisher, or write the pattern so that" in line
        assert "\n" not in line
        assert len(line) < 400


def test_the_library_is_not_asked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It only compiles a pattern when a file is read, but that may take long too."""
    from splade_edge.runtime.encoder import tokenizer

    class Never:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

    monkeypatch.setattr(tokenizer, "Tokenizer", Never())
    (tmp_path / "tokenizer.json").write_text(body(EXPLODING[0][0]), "utf-8")
    with pytest.raises(ArtifactError, match="repeats what repeats"):
        TextTokenizer(tmp_path / "tokenizer.json", 8)


def test_steps() -> None:
    """Counted by hand: a repeat tries what follows at each of its ends, and only where that may begin there."""
    assert work("ab") == Work(4)
    assert work("x+") == Work(1, 1)
    assert work("x++x+y").growing < work("x+(?=z)y").growing
    assert work("x{1,10}y").fixed < work("x{1,10}xy").fixed
    with pytest.raises(PatternError):
        work("x+x+y")
    assert work("x++x+y").growing
    assert work(r"\p{Lu}*\p{Ll}+1").growing


def test_texts_are_cut_shorter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where work may grow with the square of a text, the library sees less of it, and it counts as cut."""
    path = tmp_path / "tokenizer.json"
    tiny.write_tokenizer(path)
    whole = json.loads(path.read_text("utf-8"))
    whole["normalizer"] = {
        "type": "Sequence",
        "normalizers": [whole["normalizer"], {"type": "Replace", "pattern": {"Regex": "x+(?=y)"}, "content": "x"}],
    }
    path.write_text(json.dumps(whole), "utf-8")
    monkeypatch.setattr(tokenizer_check, "SHORT_CHARACTERS", 100)
    tokenizer = TextTokenizer(path, 1000)
    assert tokenizer.most_characters == 100
    seen = Counting(tokenizer._tokenizer)
    monkeypatch.setattr(tokenizer, "_tokenizer", seen)
    text = "the cat " * 40
    got = tokenizer.encode(text)
    assert got.truncated
    assert 100 <= seen.longest <= 104
    assert not tokenizer.encode("the cat").truncated
    looked = Counting(tokenizer._whole)
    monkeypatch.setattr(tokenizer, "_whole", looked)
    found = split(text, tokenizer, 10)
    assert looked.longest <= 104
    assert "".join(text[start:end] for start, end in found).replace(" ", "") == text.replace(" ", "")


def test_kinds() -> None:
    parts = patterns._Parser(r"[^\p{L}a1]\P{L}\S[b-d]").whole()
    first, second, third, fourth = (part.kinds for part in parts.parts)
    assert not first & {"a", "z", "Lu", "1"}
    assert {"Nd", "2", "Mn"} <= first & second
    assert "Zs" not in third
    assert fourth == {"b", "c", "d"}
