"""The values of a document's fields: what is JSON, and what of it can be compared."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from ..document import Document
from .predicate import ABSENT, Field, Key, to_key

STORED = ("_id", "title", "text")  # fields that are no metadata; they hide metadata of the same name


def keys_of(document: Document, field: Field) -> list[Key]:
    """The values that a field has in a document; ``[ABSENT]`` if there is none."""
    if len(field.keys) == 1:
        name = field.keys[0]
        if name in STORED:
            return [document.id if name == "_id" else getattr(document, name)]
        value = document.metadata.get(name)
        if type(value) is str or type(value) is int:
            return [value]
    return list(_keys(document.metadata, field.keys)) or [ABSENT]


def _keys(value: Any, path: tuple[str, ...]) -> Iterator[Key]:
    if isinstance(value, dict):
        if path and path[0] in value:
            yield from _keys(value[path[0]], path[1:])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _keys(item, path)
    elif not path and value is not None:
        yield to_key(value)


def all_keys(metadata: dict[str, Any]) -> dict[tuple[str, ...], list[Key]]:
    """The values of every field that has one, by its keys.

    Raises TypeError for what is not JSON: names that are no strings, NaN and infinity, objects of other types.
    """
    found: dict[tuple[str, ...], list[Key]] = {}
    for name, value in metadata.items():
        # Most metadata is flat, and indexing asks for it a million times.
        kind = type(value)
        if type(name) is str and (kind is str or kind is int or (kind is float and value - value == 0)):
            found[(name,)] = [value]
        else:
            _collect({name: value}, (), found)
    return found


def _collect(value: Any, path: tuple[str, ...], found: dict[tuple[str, ...], list[Key]]) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str):
                raise TypeError(f"the name {name!r} is not a string")
            _collect(item, (*path, name), found)
    elif isinstance(value, list | tuple):
        for item in value:
            _collect(item, path, found)
    elif isinstance(value, str | int | float):  # booleans are ints
        if isinstance(value, float) and not math.isfinite(value):
            raise TypeError(f"{value!r} is no JSON number")
        found.setdefault(path, []).append(to_key(value))
    elif value is not None:
        raise TypeError(f"an object of type {type(value).__name__}")
