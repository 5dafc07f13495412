"""Whether a document satisfies a filter. The definition: what is answered from an index of a field must agree."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from ..document import Document
from .predicate import And, Comparison, In, Key, Like, Not, Or, Predicate, Range
from .values import keys_of

Test = Callable[[Document], bool]
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def test_of(predicate: Predicate) -> Test:
    """The predicate as a function of a document."""
    match predicate:
        case Not(part):
            inner = test_of(part)
            return lambda document: not inner(document)
        case And(parts):
            tests = [test_of(part) for part in parts]
            return lambda document: all(test(document) for test in tests)
        case Or(parts):
            tests = [test_of(part) for part in parts]
            return lambda document: any(test(document) for test in tests)
    target, satisfies = predicate.field, key_test(predicate)
    return lambda document: any(map(satisfies, keys_of(document, target)))


def key_test(comparison: Comparison) -> Callable[[Key], bool]:
    """A comparison as a function of one value."""
    match comparison:
        case In(_, values):
            return frozenset(values).__contains__
        case Like():
            pattern = comparison.pattern
            return lambda key: isinstance(key, str) and pattern.fullmatch(key) is not None
        case Range(_, sign, value):
            compare = _OPERATORS[sign]
            kind = (str,) if isinstance(value, str) else (int, float)
            return lambda key: isinstance(key, kind) and compare(key, value)
