"""The language of filters, read by recursive descent.

    filter      := conjunction ("or" conjunction)*
    conjunction := negation ("and" negation)*
    negation    := "not" negation | "(" filter ")" | comparison
    comparison  := field ("=" | "!=" | "<" | "<=" | ">" | ">=") value     "==" and "<>" are read as "=" and "!="
                 | value ("<" | …) field [("<" | …) value]                2000 <= year < 2010
                 | field ["not"] "in" "(" value ("," value)* ")"
                 | field ["not"] "like" string                            % any text, _ any character, \\% itself
                 | field "is" ["not"] "null"
    value       := string | number | "true" | "false" | "null"
    field       := name ("." name)*                                       author.name, `any name at all`

Strings are in single or double quotes, with ``\\`` before a quote or a backslash. Keywords are written in any case.
"""

from __future__ import annotations

import re
import sys
from typing import NamedTuple

from ..errors import InputError
from .formatting import BARE_NAME, KEYWORDS
from .predicate import And, Field, In, Key, Like, Not, Or, Predicate, Range, RangeOperator, to_key

MAX_LENGTH = 1 << 20
MAX_DEPTH = 100
_NAME = rf"(?:{BARE_NAME}|`(?:[^`]|``)*`)"
_TOKEN = re.compile(
    rf"""
      (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    | (?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
    | (?P<field>{_NAME}(?:\.{_NAME})*)
    | (?P<symbol><=|>=|!=|<>|==|[=<>(),])
    """,
    re.VERBOSE | re.DOTALL,
)
_PART = re.compile(_NAME)
_COMPARE = {"=", "==", "!=", "<>", "<", "<=", ">", ">="}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_HINTS = {
    "&": "write and",
    "|": "write or",
    "!": "write not, or !=",
    "“": 'use straight quotes, "',
    "”": 'use straight quotes, "',
    "‘": "use straight quotes, '",
    "’": "use straight quotes, '",
    '"': "the string has no end; close it with a quote",
    "'": "the string has no end; close it with a quote",
    "`": "the name has no end; close it with `",
}


class WhereError(InputError):
    """A filter that cannot be read, or does not fit the index; ``column`` is where, from 1."""

    def __init__(self, column: int, reason: str) -> None:
        super().__init__(f"the filter is wrong at column {column}: {reason}")
        self.column = column


class _Token(NamedTuple):
    kind: str  # string, number, field, symbol, keyword, end
    text: str
    column: int


def parse_where(text: str) -> Predicate:
    """A filter as a predicate. Raises WhereError with the column of the fault."""
    if not isinstance(text, str):
        raise InputError(f"a filter is a text such as 'year >= 2020', not {type(text).__name__}")
    if len(text) > MAX_LENGTH:
        raise InputError(f"the filter has {len(text):,} characters; at most {MAX_LENGTH:,} are read")
    return _Parser(text).whole()


def parse_field(text: str) -> Field:
    """A field's name as filters write it (``year``, ``author.name``, `` `any name` ``). Raises InputError."""
    tokens = _tokens(text)
    if len(tokens) != 2 or tokens[0].kind != "field":
        raise InputError(f"{text!r} is not the name of a field; put unusual names in `backticks`")
    return _field(tokens[0])


def _tokens(text: str) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        if at == len(text):
            return [*tokens, _Token("end", "", at + 1)]
        match = _TOKEN.match(text, at)
        if match is None:
            hint = f"{text[at]!r} has no meaning here"
            if text[at].isdigit():
                hint = "a number ends in other characters; put text in quotes, and such a name in `backticks`"
            raise WhereError(at + 1, _HINTS.get(text[at], hint))
        kind = match.lastgroup or ""
        if kind == "field" and match[0].lower() in KEYWORDS:
            kind = "keyword"
        tokens.append(_Token(kind, match[0].lower() if kind == "keyword" else match[0], at + 1))
        at = match.end()


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0
        self._depth = 0

    def whole(self) -> Predicate:
        if self._next.kind == "end":
            raise WhereError(1, "it is empty; write something like year >= 2020")
        predicate = self._filter()
        if self._next.kind != "end":
            raise self._unexpected("and, or, or the end")
        return predicate

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self, *texts: str, kinds: tuple[str, ...] = ("symbol", "keyword")) -> _Token | None:
        """The next token if it is one of ``texts``."""
        token = self._next
        if token.kind not in kinds or token.text not in texts:
            return None
        self._at += 1
        return token

    def _unexpected(self, wanted: str) -> WhereError:
        token = self._next
        found = "the end" if token.kind == "end" else token.text if len(token.text) < 40 else token.text[:39] + "…"
        hint = ""
        if token.kind == "number" and self._at and self._tokens[self._at - 1].kind == "number":
            hint = "; put dates and other text in quotes"
        return WhereError(token.column, f"{wanted} should stand here, not {found}{hint}")

    def _filter(self) -> Predicate:
        parts = [self._conjunction()]
        while self._take("or"):
            parts.append(self._conjunction())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _conjunction(self) -> Predicate:
        parts = [self._negation()]
        while self._take("and"):
            parts.append(self._negation())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _negation(self) -> Predicate:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise WhereError(self._next.column, f"it is nested more than {MAX_DEPTH} deep")
        try:
            if self._take("not"):
                return Not(self._negation())
            if self._take("("):
                inner = self._filter()
                if not self._take(")"):
                    raise self._unexpected("and, or, or )")
                return inner
            return self._comparison()
        finally:
            self._depth -= 1

    def _comparison(self) -> Predicate:
        token = self._next
        if token.kind != "field":
            return self._value_first()
        self._at += 1
        field, column = _field(token), token.column
        if operator := self._take(*_COMPARE):
            return _compare(field, operator, self._value(), column)
        if self._take("is"):
            negated = self._take("not")
            if not self._take("null"):
                raise self._unexpected("null")
            return _negated(In(field, (to_key(None),), column), negated)
        negated = self._take("not")
        if self._take("in"):
            return _negated(In(field, self._values(), column), negated)
        if self._take("like"):
            if self._next.kind != "string":
                raise self._unexpected("a string in quotes, with % for any text,")
            parts = _wild_parts(self._next)
            self._at += 1
            return _negated(Like(field, parts, column), negated)
        if negated:
            raise self._unexpected("in or like")
        raise self._unexpected(f"a comparison of {token.text} (such as = or >=)")

    def _value_first(self) -> Predicate:
        """``2000 <= year`` and ``2000 <= year < 2010``."""
        if self._next.kind not in ("string", "number") and self._next.text not in ("true", "false", "null"):
            raise self._unexpected("a comparison (such as year >= 2020)")
        value = self._value()
        operator = self._take(*_COMPARE)
        if operator is None:
            raise self._unexpected("a comparison (such as = or >=)")
        token = self._next
        if token.kind != "field":
            raise self._unexpected("the name of a field")
        self._at += 1
        field, column = _field(token), token.column
        mirrored = operator._replace(text=_MIRRORED.get(operator.text, operator.text))
        first = _compare(field, mirrored, value, column)
        if second := self._take("<", "<=", ">", ">="):
            return And((first, _compare(field, second, self._value(), column)))
        return first

    def _values(self) -> tuple[Key, ...]:
        if not self._take("("):
            raise self._unexpected("a list in parentheses, such as (1, 2),")
        values = [self._value()]
        while self._take(","):
            values.append(self._value())
        if not self._take(")"):
            raise self._unexpected(", or )")
        return tuple(dict.fromkeys(values))

    def _value(self) -> Key:
        token = self._next
        if token.kind == "field":
            raise WhereError(
                token.column,
                f'{token.text} is not a value; put text in quotes ("{token.text}"); fields are not compared',
            )
        if token.kind == "symbol" or token.kind == "end" or token.text in KEYWORDS - {"true", "false", "null"}:
            raise self._unexpected("a value (a number, a string in quotes, true, false or null)")
        self._at += 1
        if token.kind == "string":
            return _unquoted(token)
        if token.kind == "number":
            return _number(token)
        return to_key({"true": True, "false": False, "null": None}[token.text])


def _compare(field: Field, operator: _Token, value: Key, column: int) -> Predicate:
    if operator.text in ("=", "=="):
        return In(field, (value,), column)
    if operator.text in ("!=", "<>"):
        return Not(In(field, (value,), column))
    if isinstance(value, bytes):
        raise WhereError(operator.column, f"{operator.text} orders numbers and strings; use = or != here")
    symbol: RangeOperator = operator.text  # type: ignore[assignment]
    return Range(field, symbol, value, column)


def _negated(predicate: Predicate, negation: _Token | None) -> Predicate:
    return Not(predicate) if negation else predicate


def _field(token: _Token) -> Field:
    keys = []
    for match in _PART.finditer(token.text):
        quoted = match[0].startswith("`")
        keys.append(match[0][1:-1].replace("``", "`") if quoted else match[0])
    return Field(tuple(keys))


def _number(token: _Token) -> int | float:
    if re.fullmatch(r"[+-]?\d+", token.text):
        if len(token.text) > 400:
            raise WhereError(token.column, "the number has too many digits")
        key: int | float = int(token.text)
    else:
        key = float(token.text)
    if not -sys.float_info.max <= key <= sys.float_info.max:
        raise WhereError(token.column, "the number is too large")
    return key


def _unquoted(token: _Token) -> str:
    return "".join(character for character, _ in _characters(token, escapable="\"'\\"))


def _wild_parts(token: _Token) -> tuple[tuple[str | None, ...], ...]:
    parts: list[list[str | None]] = [[]]
    for character, escaped in _characters(token, escapable="\"'\\%_"):
        if character == "%" and not escaped:
            parts.append([])
        else:
            parts[-1].append(None if character == "_" and not escaped else character)
    # %% is %
    return tuple(tuple(p) for i, p in enumerate(parts) if p or i in (0, len(parts) - 1))


def _characters(token: _Token, escapable: str) -> list[tuple[str, bool]]:
    """The characters of a string, and whether each stood behind a backslash."""
    characters = []
    inner = iter(enumerate(token.text[1:-1], token.column + 1))
    for column, character in inner:
        escaped = character == "\\"
        if escaped:
            _, character = next(inner)
            if character not in escapable:
                raise WhereError(column, f"\\{character} has no meaning here; write \\\\ for a backslash")
        characters.append((character, escaped))
    return characters
