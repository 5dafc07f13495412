"""How fields, values and filters are written."""

from __future__ import annotations

import json
import math
import re

from ..errors import InputError
from .predicate import ABSENT, FALSE, TRUE, And, Field, In, Key, Like, Not, Or, Predicate, Range

KEYWORDS = {"and", "or", "not", "in", "like", "is", "true", "false", "null"}
BARE_NAME = r"[^\W\d@$][\w@$:-]*|[@$][\w@$:-]+"
_BARE = re.compile(BARE_NAME)


def literal(value: str | float | bool | None) -> str:
    """A value as a filter names it, whatever is in it: ``f"lang = {literal(lang)}"``.

    Raises InputError for what is not a string, a finite number, a boolean or None.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, int | float) and math.isfinite(value):
        return json.dumps(value)
    raise InputError(f"{value!r} cannot be compared with; give a string, a number, a boolean or None")


def format_field(field: Field) -> str:
    """A field as a filter names it."""
    return ".".join(_format_name(key) for key in field.keys)


def format_predicate(predicate: Predicate) -> str:
    """A predicate as a text that parses to it."""
    match predicate:
        case In(field, (value,)):
            return f"{format_field(field)} = {_format_key(value)}"
        case In(field, values):
            return f"{format_field(field)} in ({', '.join(map(_format_key, values))})"
        case Range(field, operator, value):
            return f"{format_field(field)} {operator} {_format_key(value)}"
        case Like(field, parts):
            return f'{format_field(field)} like "{"%".join("".join(map(_format_wild, part)) for part in parts)}"'
        case Not(In(field, (value,))):
            return f"{format_field(field)} != {_format_key(value)}"
        case Not(part):
            return f"not {_within(part)}"
        case And(parts):
            return " and ".join(_within(part) for part in parts)
        case Or(parts):
            return " or ".join(_within(part) for part in parts)


def _within(predicate: Predicate) -> str:
    return f"({format_predicate(predicate)})" if isinstance(predicate, And | Or) else format_predicate(predicate)


def _format_name(name: str) -> str:
    if _BARE.fullmatch(name) and name.lower() not in KEYWORDS:
        return name
    return "`" + name.replace("`", "``") + "`"


def _format_key(key: Key) -> str:
    if isinstance(key, bytes):
        return literal({ABSENT: None, FALSE: False, TRUE: True}[key])
    return literal(key)


def _format_wild(character: str | None) -> str:
    if character is None:
        return "_"
    return "\\" + character if character in '%_\\"' else character
