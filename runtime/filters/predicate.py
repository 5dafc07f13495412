"""What a filter says.

Every comparison is true or false of a document, never unknown, and each is of one type: a number is compared with
numbers only, a string with strings only (by Unicode code points, so case counts and ISO dates are in order), a boolean
with booleans. A list satisfies what one of its elements does. A field that is absent, null, an empty list or an object
has no value: it satisfies no comparison but ``= null``, and so every ``!=``, which is exactly ``not =``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..forking import cached_property

# A value as it is compared and as it lies in SQLite, whose order over types is number < text < blob. Booleans are
# blobs, or True would equal 1; the empty blob stands for no value.
Key = int | float | str | bytes
ABSENT = b""
FALSE, TRUE = b"\x00", b"\x01"
LEAST, MOST = -(1 << 63), (1 << 63) - 1  # of SQLite's integers

RangeOperator = Literal["<", "<=", ">", ">="]


@dataclass(frozen=True)
class Field:
    """A stored field: ``("year",)``, or ``("author", "name")`` for a key within an object."""

    keys: tuple[str, ...]


@dataclass(frozen=True)
class In:
    """The field has one of ``values``. ``column``: its position in the text of the filter, from 1."""

    field: Field
    values: tuple[Key, ...]
    column: int = dataclasses.field(default=0, compare=False)


@dataclass(frozen=True)
class Range:
    """The field has a number or a string that is before or after ``value``."""

    field: Field
    operator: RangeOperator
    value: int | float | str
    column: int = dataclasses.field(default=0, compare=False)


@dataclass(frozen=True)
class Like:
    """The field has a string of this form: ``parts`` with anything between them; None in a part is any character."""

    field: Field
    parts: tuple[tuple[str | None, ...], ...]
    column: int = dataclasses.field(default=0, compare=False)

    @property
    def prefix(self) -> str:
        """What every match begins with."""
        first = self.parts[0]
        return "".join(c for c in (first[: first.index(None)] if None in first else first) if c is not None)

    @property
    def exact(self) -> bool:
        """Whether only :attr:`prefix` itself matches."""
        return len(self.parts) == 1 and None not in self.parts[0]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """For ``fullmatch``. The groups are atomic, so that many ``%`` in a long text take no exponential time."""
        first, *rest = ["".join("." if c is None else re.escape(c) for c in part) for part in self.parts]
        middle = "".join(f"(?>.*?{part})" for part in rest[:-1])
        return re.compile(first + middle + (".*" + rest[-1] if rest else ""), re.DOTALL)


@dataclass(frozen=True)
class Not:
    """What ``part`` is not true of."""

    part: Predicate


@dataclass(frozen=True)
class And:
    """What all ``parts`` are true of."""

    parts: tuple[Predicate, ...]


@dataclass(frozen=True)
class Or:
    """What one of ``parts`` is true of."""

    parts: tuple[Predicate, ...]


Comparison = In | Range | Like
Predicate = Comparison | Not | And | Or


def comparisons(predicate: Predicate) -> Iterator[Comparison]:
    """The comparisons of a predicate, from left to right."""
    match predicate:
        case Not(part):
            yield from comparisons(part)
        case And(parts) | Or(parts):
            for part in parts:
                yield from comparisons(part)
        case _:
            yield predicate


def to_key(value: str | float | bool | None) -> Key:
    """A JSON scalar as it is compared: whole numbers exactly, whatever their size."""
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return TRUE if value else FALSE
    return value


def as_indexed(key: Key) -> Key:
    """A value as it lies in an index of a field, where SQLite's integers end: beyond 64 bits it is the nearest double,
    so what equals that double there has to be compared again.
    """
    if isinstance(key, int) and not LEAST <= key <= MOST:
        try:
            return float(key)
        except OverflowError:
            return float("inf") if key > 0 else float("-inf")
    return key


def is_exact(key: Key) -> bool:
    """Whether an index of a field keeps all numbers that are near this one apart from it."""
    return not isinstance(key, int | float) or LEAST < key <= MOST
