"""How much work the regular expressions of a ``tokenizer.json`` may make: the library matches them by trying one way
after the other, and a pattern of a stranger may have more ways than anyone can wait for.

Patterns of published tokenizers are known by their exact text (:data:`PUBLISHED`, :data:`PUBLISHED_QUADRATIC`). Any
other is parsed, and :func:`work` counts the steps that matching it takes at most. Counted from its end, what is left of
a pattern behind each place, a :class:`Rest`, has a number of steps after which it has failed, and one after which it
has matched. They add up:

- A repeat of one character, ``x{1,9}`` or ``x+``, may end at each of its characters, and what follows is tried at each
  end; but not if it cannot begin with what repeats (``x+y``: it fails at once) or cannot fail (``x+`` at the end), nor
  if the repeat is possessive (``x++``).
- A group that repeats must have one way to match: nothing inside it repeats, its branches begin differently.

Where a repeat has no bound, it may take all n characters of a text. A pattern whose steps grow faster than n from one
place, thus faster than n^2 in all, is refused, as is everything that is not understood.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from dataclasses import dataclass
from functools import cache, reduce
from typing import NamedTuple

_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
_ANY_CASE = f"(?i:{_CONTRACTIONS})"
_SMILES = r"|N|O|S|P|F|I|b|c|n|o|s|p|\(|\)|\.|=|#|-|\+|\\|\/|:|~|@|\?|>>?|\*|\$|\%[0-9]{2}|[0-9]"
_MARKED = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BLANKS = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_PUNCTUATION = r"| ?[^\s\p{L}\p{N}]+"


def _letters(case: str = "") -> str:
    """Words that begin in upper or in lower case, as in o200k_base."""
    upper, lower = _MARKED
    return rf"[^\r\n\p{{L}}\p{{N}}]?{upper}*{lower}+{case}|[^\r\n\p{{L}}\p{{N}}]?{upper}+{lower}*{case}"


# Whose patterns: as in tokenizer.json on the hub, or as transformers 5 makes them (its models/*/tokenization_*.py,
# convert_slow_tokenizer.py and integrations/gguf) or llama.cpp quotes them (src/llama-vocab.cpp).
PUBLISHED = frozenset(
    {
        # GPT-2 and all whose ByteLevel was written out
        rf"{_CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+{_PUNCTUATION}|\s+(?!\S)|\s+",
        # GPT-4 (cl100k_base), Llama 3, GLM 4; Qwen 2, StableLM 2, Grok 2; Qwen 3.5; Seed-Coder; Jais 2
        rf"{_ANY_CASE}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{_PUNCTUATION}[\r\n]*{_BLANKS}",
        rf"{_ANY_CASE}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{_PUNCTUATION}[\r\n]*{_BLANKS}",
        rf"{_ANY_CASE}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*{_BLANKS}",
        rf"{_ANY_CASE}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+{_BLANKS}",
        rf"{_ANY_CASE}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{_PUNCTUATION}[\r\n]*|\s*[\r\n]+"
        + "".join(rf"|\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4))
        + r"|\s{1,2}(?!\S)|\s{1}",
        # cl100k_base as tiktoken has it now; Ling
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
        r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        # GPT-4o (o200k_base), Llama 4, gpt-oss; MiniMax M2; Mistral (Tekken)
        rf"{_letters(_ANY_CASE + '?')}|\p{{N}}{{1,3}}{_PUNCTUATION}[\r\n/]*{_BLANKS}",
        rf"{_letters(_ANY_CASE + '?')}|\p{{N}}{{1,3}}{_PUNCTUATION}[\r\n]*{_BLANKS}",
        rf"{_letters()}|\p{{N}}{_PUNCTUATION}[\r\n/]*{_BLANKS}",
        # EXAONE 4
        rf"{_ANY_CASE}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}{_PUNCTUATION}[\r\n/]?"
        r"|\s*[\r\n]|\s+(?!\S)|\s+",
        # DeepSeek (coder; 3 and R1)
        r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"\p{N}", r"\p{N}+", r"\p{N}{1,3}",
        "[一-龥ࠀ-一가-퟿]+", "[一-龥\u3040-ゟ゠-ヿ]+",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
        rf"|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*{_BLANKS}",
        # BLOOM
        r" ?[^(\s|[.,!?…。，、।۔،])]+",
        # Falcon; Chameleon
        r"[\p{P}\$\+<=>\^~\|`]+", "[0-9][0-9][0-9]", r"[\p{P}!-/:-@\[-`{-~]", r"([\t\n]|    |  )",
        # CLIP
        rf"{_CONTRACTIONS}|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+",
        rf"<\|startoftext\|>|<\|endoftext\|>|{_CONTRACTIONS}|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+",
        # T5, XLM-RoBERTa, ALBERT, Pegasus, BigBird, RemBERT; DeBERTa 2, BARThez; SeamlessM4T
        " {2,}", r"\s+", r"\n", r"\s{2,}|[\n\r\t]", r"[\n\r\t]", "^▁+$",
        # Molecules: rxnfp, DeepChem and ChemBERTa; a splitter of SMARTS
        rf"(\[[^\]]+]|Br?|Cl?{_SMILES})", rf"(\%\([0-9]{{3}}\)|\[[^\]]+]|Br?|Cl?{_SMILES})", r"(?:[(+*]|\(\+\))+",
    }
)  # fmt: skip
# Those that take n^2 steps for a text of n characters that is nothing but blanks, or digits.
PUBLISHED_QUADRATIC = frozenset(
    {
        " +▁",  # SeamlessM4T
        r"\s+$",  # DeepSeek
        r"\d{1,3}(?=(?:\d{3})*\b)",  # Aya
        r"(?=(\d{3})+(?!\d))",  # SuperBPE
    }
)
MOST_STEPS = 1 << 16  # from each place of a text, beside those that grow with it
MOST_STEPS_A_CHARACTER = 64  # from each place, for each character of a text
_FEW_STEPS = 64  # so many from each place of a text of any length


class PatternError(Exception):
    """Why a pattern is not taken."""


class Work(NamedTuple):
    """Steps from one place of a text of n characters: ``fixed + growing * n``."""

    fixed: int
    growing: int = 0

    @property
    def is_small(self) -> bool:
        """Whether a long text takes it too."""
        return not self.growing and self.fixed <= _FEW_STEPS

    @property
    def is_bounded(self) -> bool:
        """Whether a short text takes it."""
        return self.fixed <= MOST_STEPS and self.growing <= MOST_STEPS_A_CHARACTER

    def plus(self, *others: Work) -> Work:
        """The sum."""
        return Work(sum((o.fixed for o in others), self.fixed), sum((o.growing for o in others), self.growing))

    def times(self, other: Work) -> Work:
        """The product. Raises PatternError where it grows with n^2."""
        if self.growing and other.growing:
            raise PatternError("has two repeats without a bound, one behind the other, that can match the same")
        return Work(self.fixed * other.fixed, self.fixed * other.growing + self.growing * other.fixed)


def work(pattern: str) -> Work:
    """The steps that a pattern takes from one place at most. Raises PatternError."""
    if pattern in PUBLISHED:
        return Work(0)
    if pattern in PUBLISHED_QUADRATIC:
        return Work(0, 1)
    parsed = _Parser(pattern).whole()
    rest = parsed.before(Rest(Work(0), Work(0), 0, None, sure=True))
    total = rest.failed.plus(rest.matched)
    if not total.is_bounded:
        raise PatternError("has too many ways to match")
    return total


# What a character may be: each of the 128 of ASCII, and the general categories of the others.
_Kind = str
_ASCII = frozenset(map(chr, range(128)))
_CATEGORIES = frozenset(
    major + minor
    for major, minors in [
        ("L", "ultmo"),
        ("M", "nce"),
        ("N", "dlo"),
        ("P", "cdseifo"),
        ("S", "mcko"),
        ("Z", "slp"),
        ("C", "cfson"),
    ]
    for minor in minors
)
_ALL = _ASCII | _CATEGORIES


class Characters(NamedTuple):
    """A class of characters: all kinds of which it ``may`` have some, and those that it ``must`` have wholly."""

    may: frozenset[_Kind]
    must: frozenset[_Kind]

    def negated(self) -> Characters:
        """All others."""
        return Characters(_ALL - self.must, _ALL - self.may)


_ANYTHING = Characters(_ALL, frozenset())
_SPACE = Characters(frozenset("\t\n\v\f\r ") | {"Cc", "Zs", "Zl", "Zp"}, frozenset("\t\n\v\f\r ") | {"Zs", "Zl", "Zp"})


def _one(char: str) -> Characters:
    if char in _ASCII:
        return Characters(frozenset(char), frozenset(char))
    return Characters(_CATEGORIES, frozenset())  # its category may be another in the library's Unicode


@cache
def _property(name: str) -> Characters:
    negated, name = name.startswith("^"), name.lstrip("^")
    kinds = frozenset(kind for kind in _CATEGORIES if kind.startswith(name)) if len(name) in (1, 2) else frozenset()
    if not kinds:
        return _ANYTHING
    ascii_ = frozenset(char for char in _ASCII if unicodedata.category(char) in kinds)
    found = Characters(kinds | ascii_, kinds | ascii_)
    return found.negated() if negated else found


@dataclass(frozen=True)
class Rest:
    """A pattern from some place on: its steps if it fails, if it matches, and if it fails before it takes a character;
    what it begins with, None if it may match nothing; and whether it is sure to match.
    """

    failed: Work
    matched: Work
    at_once: int
    first: frozenset[_Kind] | None
    sure: bool


class _Node:
    def before(self, rest: Rest) -> Rest:
        """This, and ``rest`` behind it. Raises PatternError."""
        raise NotImplementedError

    def fixed(self) -> tuple[int, frozenset[_Kind]]:
        """Of what has one way to match, and takes a character: its parts, and what it begins with. Raises
        PatternError.
        """
        raise PatternError("repeats what repeats, or what may be empty")


@dataclass(frozen=True)
class _Character(_Node):
    kinds: frozenset[_Kind]

    def before(self, rest: Rest) -> Rest:
        return Rest(Work(1).plus(rest.failed), Work(1).plus(rest.matched), 1, self.kinds, sure=False)

    def fixed(self) -> tuple[int, frozenset[_Kind]]:
        return 1, self.kinds


@dataclass(frozen=True)
class _Condition(_Node):
    """What takes no character: an anchor, or what is looked for ahead or behind, in so many parts."""

    parts: int

    def before(self, rest: Rest) -> Rest:
        steps = Work(self.parts)
        first = None if rest.sure else rest.first
        return Rest(steps.plus(rest.failed), steps.plus(rest.matched), self.parts + rest.at_once, first, sure=False)


@dataclass(frozen=True)
class _AnyCase(_Node):
    """A group that ignores case: a letter may stand for two, so it must not repeat."""

    node: _Node

    def before(self, rest: Rest) -> Rest:
        return self.node.before(rest)


@dataclass(frozen=True)
class _Sequence(_Node):
    parts: tuple[_Node, ...]

    def before(self, rest: Rest) -> Rest:
        return reduce(lambda behind, part: part.before(behind), reversed(self.parts), rest)

    def fixed(self) -> tuple[int, frozenset[_Kind]]:
        found = [part.fixed() for part in self.parts]
        if not found:
            return super().fixed()
        return sum(parts for parts, _ in found), found[0][1]


@dataclass(frozen=True)
class _Choice(_Node):
    branches: tuple[_Node, ...]

    def before(self, rest: Rest) -> Rest:
        found = [branch.before(rest) for branch in self.branches]
        firsts = [each.first for each in found]
        sure = any(each.sure for each in found)
        return Rest(
            Work(0) if sure else Work(0).plus(*(each.failed for each in found)),
            Work(0).plus(*(each.failed for each in found), *(each.matched for each in found)),
            sum(each.at_once for each in found),
            None if None in firsts else frozenset().union(*(first for first in firsts if first is not None)),
            sure,
        )

    def fixed(self) -> tuple[int, frozenset[_Kind]]:
        parts, firsts = 0, frozenset[_Kind]()
        for branch in self.branches:
            more, first = branch.fixed()
            if firsts & first:
                raise PatternError("repeats a choice whose branches can begin with the same")
            parts, firsts = parts + more, firsts | first
        return parts, firsts


@dataclass(frozen=True)
class _Repeat(_Node):
    part: _Node
    least: int
    most: int | None
    possessive: bool

    def before(self, rest: Rest) -> Rest:
        if self.least == 0 and self.most == 1 and not self.possessive and not isinstance(self.part, _Character):
            return _Choice((self.part, _Sequence(()))).before(rest)  # whatever it is
        parts, kinds = self.part.fixed()
        taken = Work(0, parts) if self.most is None else Work(parts * self.most)
        ends = Work(1, 1) if self.most is None else Work(self.most - self.least + 1)
        if rest.sure:
            failed, matched = Work(parts * self.least), taken.plus(rest.matched)
        else:
            if self.possessive:
                tried = Work(0)
            elif rest.first is not None and not rest.first & kinds:
                tried = ends.times(Work(rest.at_once))
            else:
                tried = ends.times(rest.failed)
            failed = taken.plus(tried, rest.failed)
            matched = taken.plus(tried, rest.matched)
        if self.least:
            return Rest(failed, matched, parts, kinds, sure=False)
        first = None if rest.first is None else kinds | rest.first
        return Rest(failed, matched, parts + rest.at_once, first, sure=rest.sure)


_QUANTIFIER = re.compile(r"[*+?]|\{(\d{1,4})\}|\{(\d{0,4}),(\d{0,4})\}")
_GROUPS = re.compile(r"\((?:\?(i?:|<?[=!]))?")
_LETTERS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "a": "\a", "e": "\x1b"}
_CLASSES = {"s": _SPACE, "d": _property("Nd"), "w": _ANYTHING}
_MAX_DEPTH = 16


class _Parser:
    """Reads the part of the syntax that published tokenizers use; PatternError is raised for all else."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def whole(self) -> _Node:
        node = self._choice(0)
        if self._at < len(self._pattern):
            raise PatternError("has a bracket too many")
        return node

    def _choice(self, depth: int, *, any_case: bool = False) -> _Node:
        if depth > _MAX_DEPTH:
            raise PatternError("is nested too deeply")
        branches, parts = [], list[_Node]()
        while (char := self._peek()) not in ("", ")"):
            if char == "|":
                self._at += 1
                branches.append(_Sequence(tuple(parts)))
                parts = []
            else:
                parts.append(self._quantified(self._part(depth, any_case=any_case), any_case=any_case))
        branches.append(_Sequence(tuple(parts)))
        return branches[0] if len(branches) == 1 else _Choice(tuple(branches))

    def _part(self, depth: int, *, any_case: bool) -> _Node:
        char = self._peek()
        if any_case:
            # A letter of one case may be several of the other: only plain ones, which do not repeat, are counted on.
            if char not in _ASCII or char in "\\.[](){}*+?^$":
                raise PatternError("has more than plain letters where it ignores case")
            self._at += 1
            return _Character(_property("L").may | frozenset(char.lower() + char.upper()))
        if char == "(":
            return self._group(depth)
        if char == "[":
            return _Character(self._class().may)
        if char == "\\":
            if self._pattern[self._at + 1 : self._at + 2] in ("b", "B", "A", "z", "Z"):
                self._at += 2
                return _Condition(1)
            return _Character(self._escape().may)
        self._at += 1
        if char in "^$":
            return _Condition(1)
        if char in "*+?{":
            raise PatternError("repeats nothing")
        return _Character(_ALL if char == "." else _one(char).may)

    def _group(self, depth: int) -> _Node:
        match = _GROUPS.match(self._pattern, self._at)
        if match is None or self._pattern[match.end() : match.end() + 1] == "?":
            raise PatternError("has a group of a kind that is not known here")
        self._at = match.end()
        node = self._choice(depth + 1, any_case=match[1] == "i:")
        if self._peek() != ")":
            raise PatternError("lacks a bracket")
        self._at += 1
        if match[1] in ("=", "!", "<=", "<!"):
            branches = node.branches if isinstance(node, _Choice) else (node,)
            return _Condition(1 + sum(branch.fixed()[0] for branch in branches))
        return _AnyCase(node) if match[1] == "i:" else node

    def _quantified(self, node: _Node, *, any_case: bool) -> _Node:
        match = _QUANTIFIER.match(self._pattern, self._at)
        if match is None:
            if self._peek() == "{":
                raise PatternError("has a curly bracket that is no repeat")
            return node
        if any_case:
            raise PatternError("repeats where it ignores case")
        self._at = match.end()
        after = self._peek()
        if after and after in "?+":
            # Behind curly brackets these are repeats of their own.
            if match[0][0] == "{" and (after == "+" or match[1]):
                raise PatternError("repeats what repeats")
            self._at += 1
        else:
            after = ""
        if _QUANTIFIER.match(self._pattern, self._at):
            raise PatternError("repeats what repeats")
        if isinstance(node, _Condition):
            raise PatternError("repeats what takes no character")
        least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(match[0], (-1, None))
        if least < 0:
            least = int(match[1] or match[2] or 0)
            bound = match[1] or match[3]
            if not match[1] and not match[2] and not match[3]:
                raise PatternError("has a repeat without numbers")
            most = int(bound) if bound else None
            if most is not None and most < least:
                raise PatternError("has a repeat whose numbers are the wrong way round")
        return _Repeat(node, least, most, possessive=after == "+")

    def _class(self) -> Characters:
        self._at += 1
        negated = self._peek() == "^"
        self._at += negated
        found = Characters(frozenset(), frozenset())
        begin = self._at
        while (char := self._peek()) != "]" or self._at == begin:
            if char in ("", "[", "]") or self._pattern.startswith("&&", self._at):
                raise PatternError("has a class of characters of a kind that is not known here")
            if char == "\\":
                one = self._escape()
            else:
                self._at += 1
                one = _one(char)
            if self._peek() == "-" and self._pattern[self._at + 1 : self._at + 2] not in ("]", ""):
                one = self._range(char)
            found = Characters(found.may | one.may, found.must | one.must)
        self._at += 1
        return found.negated() if negated else found

    def _range(self, low: str) -> Characters:
        high = self._pattern[self._at + 1]
        self._at += 2
        if low == "\\" or high in "\\[":
            raise PatternError("has a range of characters of a kind that is not known here")
        ascii_ = frozenset(char for char in _ASCII if low <= char <= high)
        others = frozenset() if high in _ASCII else _CATEGORIES
        return Characters(ascii_ | others, ascii_)

    def _escape(self) -> Characters:
        match = re.compile(r"\\(?:[pP]\{(\^?[A-Za-z_]+)\}|x\{([0-9A-Fa-f]{1,6})\}|(.))", re.DOTALL).match(
            self._pattern, self._at
        )
        if match is None:
            raise PatternError("has an escape that is not known here")
        self._at = match.end()
        name, number, char = match.groups()
        if name:
            found = _property(name)
            return found.negated() if match[0][1] == "P" else found
        if number:
            code = int(number, 16)
            return _one(chr(code)) if code <= sys.maxunicode else _ANYTHING
        if char.lower() in _CLASSES:
            found = _CLASSES[char.lower()]
            return found.negated() if char.isupper() else found
        if char in _LETTERS:
            return _one(_LETTERS[char])
        if char.isalnum() or char not in _ASCII:
            raise PatternError("has an escape that is not known here")
        return _one(char)

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]
