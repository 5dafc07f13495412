"""Writing the file ``fields.sqlite`` of a segment; ``filters/fields.py`` reads it."""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Sequence
from itertools import chain

from ..directory import AnyPath
from ..errors import InputError
from ..filters.fields import kind_of
from ..filters.formatting import format_field
from ..filters.predicate import ABSENT, Field, Key, as_indexed
from ..filters.values import STORED, keys_of
from ..index.layout import FIELDS_SCHEMA, MAX_FIELDS, MAX_NAMES
from .documents_writer import Added
from .sqlite_writer import SqliteWriter

_MAX_BYTES = 32 << 20  # of values held before they are written
_BYTES_A_VALUE = 256  # of a dictionary's entry and its array
_STORED_PATHS = {(name,) for name in STORED}
_NOTHING: list[Key] = [ABSENT]
_TYPES = (int, str, bytes)  # by kind_of


class FieldWriter:
    """Writes a segment's fields. ``indexed``: those that get an index."""

    def __init__(self, path: AnyPath, indexed: Sequence[Field]) -> None:
        self._indexed = list(dict.fromkeys(indexed))
        if len(self._indexed) > MAX_FIELDS:
            raise InputError(f"{len(self._indexed):,} fields are to get an index; name at most {MAX_FIELDS:,}")
        self._stored = [field.keys in _STORED_PATHS for field in self._indexed]
        # How many documents have a value of a type in a field.
        self._counts: Counter[tuple[tuple[str, ...], type]] = Counter()
        self._names = {field.keys for field in self._indexed}
        self._all_names = True
        self._values: list[dict[Key, array[int]]] = [{} for _ in self._indexed]
        self._held = 0
        self._file = SqliteWriter(path, FIELDS_SCHEMA)

    def add(self, added: Added) -> None:
        """Take the fields of a document that was stored; ordinals ascend."""
        for path, keys in added.keys.items():
            for kind in (type(keys[0]),) if len(keys) == 1 else {_TYPES[kind_of(key)] for key in keys}:
                if (path, kind) in self._counts:
                    self._counts[path, kind] += 1
                else:
                    self._count_new(path, kind)
        for field, stored, ordinals in zip(self._indexed, self._stored, self._values, strict=True):
            own = keys_of(added.document, field) if stored else added.keys.get(field.keys, _NOTHING)
            for key in own if len(own) == 1 else set(map(as_indexed, own)):
                if type(key) is int:
                    key = as_indexed(key)
                if key in ordinals:
                    ordinals[key].append(added.ordinal)
                else:
                    ordinals[key] = array("I", (added.ordinal,))
                    self._held += _BYTES_A_VALUE + (len(key) if isinstance(key, str) else 0)
            self._held += 4 * len(own)
        if self._held > _MAX_BYTES:
            self._flush()

    def _count_new(self, path: tuple[str, ...], kind: type) -> None:
        if path in _STORED_PATHS:  # metadata of this name cannot be asked for
            return
        if path not in self._names:
            if len(self._names) >= MAX_NAMES:
                self._all_names = False
                return
            self._names.add(path)
        self._counts[path, kind] = 1

    def _flush(self) -> None:
        """Write what is held, by value: a value has a row for each time."""
        for number, ordinals in enumerate(self._values):
            kinds: list[list[Key]] = [[], [], []]
            for key in ordinals:
                kinds[kind_of(key)].append(key)
            order = chain.from_iterable(sorted(keys) for keys in kinds)
            rows = ((number, key, ordinals[key][0], _bytes(ordinals[key])) for key in order)
            with self._file.writing():
                self._file.connection.executemany("INSERT INTO field_values VALUES (?, ?, ?, ?)", rows)
            ordinals.clear()
        self._held = 0

    def close(self, documents: int) -> None:
        """Finish the file of a segment of so many documents."""
        self._flush()
        numbers = {field.keys: number for number, field in enumerate(self._indexed)}
        counts = {path: [0, 0, 0] for path in self._names}
        for (path, kind), count in self._counts.items():
            counts[path][1 if issubclass(kind, str) else 2 if issubclass(kind, bytes) else 0] += count
        for path in self._names & _STORED_PATHS:
            counts[path][1] = documents
        rows = sorted((format_field(Field(path)), *counts[path], numbers.get(path)) for path in self._names)
        with self._file.writing():
            self._file.connection.executemany("INSERT INTO names VALUES (?, ?, ?, ?, ?)", rows)
            self._file.connection.execute("INSERT INTO summary VALUES (?, ?)", (documents, int(self._all_names)))
        self._file.close()

    def abandon(self) -> None:
        """Close the file unfinished; it cannot be used."""
        self._file.abandon()


def _bytes(ordinals: array[int]) -> bytes:
    if sys.byteorder == "big":
        ordinals.byteswap()
    return ordinals.tobytes()
