"""The file ``fields.sqlite`` of a segment: which fields its documents have, and indexes of those that were asked for.

An index of a field is an inverted one: (field, value) -> the documents that have it, in a b-tree ordered by value. So a
comparison is a range of the tree, and its answer a few arrays of ordinals instead of a row for each document. The file
is small, and its SHA-256 is checked before it answers for the first time. FORMAT.md has the tables.
"""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..directory import AnyPath
from ..errors import InputError
from ..forking import new_lock
from ..index.documents import Added
from ..index.layout import MAX_FIELDS
from ..index.sqlite import SqliteReader, SqliteWriter
from .formatting import spell_field
from .matching import key_test
from .parser import parse_field
from .predicate import ABSENT, Among, Comparison, Field, Key, Like, Range, as_indexed, is_exact
from .values import STORED, keys_of

SCHEMA = """
CREATE TABLE names (
    name TEXT PRIMARY KEY,
    numbers INTEGER NOT NULL,
    strings INTEGER NOT NULL,
    booleans INTEGER NOT NULL,
    field INTEGER
) WITHOUT ROWID;
CREATE TABLE field_values (
    field INTEGER NOT NULL,
    value NOT NULL,
    first INTEGER NOT NULL,
    ordinals BLOB NOT NULL,
    PRIMARY KEY (field, value, first)
) WITHOUT ROWID;
CREATE TABLE summary (documents INTEGER NOT NULL, all_names INTEGER NOT NULL);
"""
MAX_NAMES = 10_000  # metadata keyed by user or by date would have a name for each
_MOST_NAMES = 2 * MAX_NAMES + 1  # no file has so many: names, and fields with an index
_MAX_BYTES = 32 << 20  # of values held before they are written
_BYTES_A_VALUE = 256  # of a dictionary's entry and its array
_ROWS = 4096  # of a range, fetched at a time
_STORED_PATHS = {(name,) for name in STORED}
_NOTHING: list[Key] = [ABSENT]
_TYPES = (int, str, bytes)  # by kind_of


class FieldCounts(NamedTuple):
    """How many documents have a number, a string, a boolean in a field, and the number of its index, if it has one."""

    numbers: int
    strings: int
    booleans: int
    number: int | None

    @property
    def indexed(self) -> bool:
        """Whether filters on the field are answered from an index."""
        return self.number is not None

    def plus(self, other: FieldCounts) -> FieldCounts:
        """The counts of both; with an index if both have one."""
        number = None if other.number is None else self.number
        numbers, strings, booleans = (mine + theirs for mine, theirs in zip(self[:3], other[:3], strict=True))
        return FieldCounts(numbers, strings, booleans, number)


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
        self._file = SqliteWriter(path, SCHEMA)

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
        rows = sorted((spell_field(Field(path)), *counts[path], numbers.get(path)) for path in self._names)
        with self._file.writing():
            self._file.connection.executemany("INSERT INTO names VALUES (?, ?, ?, ?, ?)", rows)
            self._file.connection.execute("INSERT INTO summary VALUES (?, ?)", (documents, int(self._all_names)))
        self._file.close()

    def abandon(self) -> None:
        """Close the file unfinished; it cannot be used."""
        self._file.abandon()


class FieldReader:
    """Answers comparisons from a segment's fields; safe from several threads. Raises IntegrityError for damage."""

    def __init__(self, path: AnyPath, documents: int, sha256: str) -> None:
        self._documents = documents
        self._sha256: str | None = sha256
        self._lock = new_lock()
        self._file = SqliteReader(path, SCHEMA)
        self._counts: dict[Field, FieldCounts] = {}
        self._all_names = False

    def close(self) -> None:
        """Close the file; nothing can be asked afterwards."""
        self._file.close()

    @property
    def counts(self) -> dict[Field, FieldCounts]:
        """The fields of the documents, by name."""
        self._open()
        return self._counts

    @property
    def all_names(self) -> bool:
        """Whether :attr:`counts` has every field; not where there are too many."""
        self._open()
        return self._all_names

    def _open(self) -> None:
        """Check the file's hash, once, and read the names."""
        with self._lock:
            if self._sha256 is None:
                return
            if self._file.sha256() != self._sha256:
                raise self._file.damaged("its SHA-256 does not match")
            summary = self._file.query("SELECT documents, all_names FROM summary")
            if len(summary) != 1 or summary[0][0] != self._documents:
                raise self._file.damaged(f"it is not of {self._documents} documents")
            try:
                names = self._file.query(
                    f"SELECT name, numbers, strings, booleans, field FROM names LIMIT {_MOST_NAMES}"
                )
                if len(names) == _MOST_NAMES:
                    raise self._file.damaged("it has more names than any index")
                for name, *counts in names:
                    types = [type(value) for value in (name, *counts)]
                    if types[:4] != [str, int, int, int] or types[4] not in (int, type(None)):
                        raise self._file.damaged("its table of names holds other types")
                    self._counts[parse_field(name)] = FieldCounts(*counts)
            except InputError as error:
                raise self._file.damaged(str(error)) from None
            self._all_names = bool(summary[0][1])
            self._sha256 = None

    def has_index(self, field: Field) -> bool:
        """Whether comparisons of a field are answered without reading the documents."""
        counts = self.counts.get(field)
        return counts is not None and counts.indexed

    def documents_where(self, comparison: Comparison) -> npt.NDArray[np.bool_]:
        """bool ``[documents]``: where a comparison of an indexed field is true."""
        number = self.counts[comparison.field].number
        mask = np.zeros(self._documents, np.bool_)
        for condition, parameters in ranges(comparison):
            self._mark(mask, condition, (number, *map(as_indexed, parameters)), comparison)
        return mask

    def undecided(self, comparison: Comparison) -> npt.NDArray[np.intp]:
        """The documents, ascending, of which :meth:`documents_where` may say the wrong thing: their numbers are kept
        less exactly than what they are compared with.
        """
        values = comparison.values if isinstance(comparison, Among) else (getattr(comparison, "value", ABSENT),)
        near = tuple(dict.fromkeys(as_indexed(value) for value in values if not is_exact(value)))
        if not near:
            return np.empty(0, np.intp)
        mask = np.zeros(self._documents, np.bool_)
        for value in near:
            parameters = (self.counts[comparison.field].number, value)
            self._mark(mask, " AND value = ?", parameters, comparison)
        return np.flatnonzero(mask)

    def _mark(
        self, mask: npt.NDArray[np.bool_], condition: str, parameters: tuple[Any, ...], comparison: Comparison
    ) -> None:
        satisfies = key_test(comparison) if isinstance(comparison, Like) and not comparison.exact else None
        sql = statement(condition, values=satisfies is not None)
        for rows in self._file.query_in_parts(sql, parameters, _ROWS):
            try:
                blob = b"".join([row[0] for row in rows])  # refuses what is none, faster than a look at each
            except TypeError:
                raise self._file.damaged("a list of documents is none") from None
            if satisfies is not None:
                blob = b"".join([row[0] for row in rows if satisfies(row[1])])
            if len(blob) % 4:
                raise self._file.damaged("a list of documents is cut short")
            ordinals = np.frombuffer(blob, "<u4")
            if ordinals.size and int(ordinals.max()) >= self._documents:
                raise self._file.damaged("a document beyond the last")
            mask[ordinals] = True

    def check(self) -> None:
        """Check SQLite's structures and every list of documents."""
        self._open()
        self._file.check()
        for counts in self._counts.values():
            if counts.indexed:
                everything = np.zeros(self._documents, np.bool_)
                self._mark(everything, "", (counts.number,), Among(Field(()), ()))
                if not everything.all():
                    raise self._file.damaged("an index of a field that leaves out documents")


def _bytes(ordinals: array[int]) -> bytes:
    if sys.byteorder == "big":
        ordinals.byteswap()
    return ordinals.tobytes()


def statement(condition: str, *, values: bool) -> str:
    """The SQL that finds the documents of a range of a field's values, with the values if wanted."""
    return f"SELECT ordinals{', value' * values} FROM field_values WHERE field = ?{condition}"


def ranges(comparison: Comparison) -> list[tuple[str, tuple[Key, ...]]]:
    """The ranges of values in which a comparison can be true: SQL conditions without a text of the user's, and their
    parameters. SQLite orders numbers before texts before blobs.
    """
    match comparison:
        case Among(_, values):
            return [(" AND value = ?", (value,)) for value in values]
        case Like():
            below = _after(comparison.prefix)
            if comparison.exact:
                return [(" AND value = ?", (comparison.prefix,))]
            return [(" AND value >= ? AND value < ?", (comparison.prefix, below))]
        case Range(_, ">" | ">=" as sign, value):
            end: Key = b"" if isinstance(value, str) else ""
            return [(f" AND value {sign} ? AND value < ?", (value, end))]
        case Range(_, sign, str(value)):
            return [(f" AND value >= ? AND value {sign} ?", ("", value))]
        case Range(_, sign, value):
            return [(f" AND value {sign} ?", (value,))]


def _after(prefix: str) -> Key:
    """What no text beginning with ``prefix`` reaches: the least text after them all, or the least blob."""
    while prefix:
        last = ord(prefix[-1]) + 1
        if last <= 0x10FFFF:
            return prefix[:-1] + chr(0xE000 if 0xD800 <= last < 0xE000 else last)
        prefix = prefix[:-1]
    return ABSENT


def kind_of(key: Key) -> int:
    """0 for a number, 1 for a string, 2 for a boolean (or nothing): SQLite's order of types."""
    return 1 if isinstance(key, str) else 2 if isinstance(key, bytes) else 0
