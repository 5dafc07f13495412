"""The file ``fields.sqlite`` of a segment: which fields its documents have, and indexes of those that were asked for.

An index of a field is an inverted one: (field, value) -> the documents that have it, in a b-tree ordered by value. So a
comparison is a range of the tree, and its answer a few arrays of ordinals instead of a row for each document. The file
is small, and its SHA-256 is checked before it answers for the first time. FORMAT.md has the tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..forking import new_lock
from .matching import key_test
from .parser import parse_field
from .predicate import ABSENT, Comparison, Field, In, Key, Like, Range, as_indexed, is_exact

if TYPE_CHECKING:
    from ..index.sqlite import SqliteReader

_ROWS = 4096  # of a range, fetched at a time


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


class FieldReader:
    """Answers comparisons from a segment's fields; safe from several threads. Raises IntegrityError for damage.

    Parameters
    ----------
    file
        The open file; who opened it closes it.
    documents
        Number of documents of the segment, deleted ones included.
    sha256
        Of the file, as the manifest has it: 64 hex digits.
    most_names
        The file has at most this number of names.
    """

    def __init__(self, file: SqliteReader, documents: int, sha256: str, most_names: int) -> None:
        self._file = file
        self._documents = documents
        self._sha256: str | None = sha256
        self._most_names = most_names
        self._lock = new_lock()
        self._counts: dict[Field, FieldCounts] = {}
        self._all_names = False

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
                    f"SELECT name, numbers, strings, booleans, field FROM names LIMIT {self._most_names + 1}"
                )
                if len(names) > self._most_names:
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
        values = comparison.values if isinstance(comparison, In) else (getattr(comparison, "value", ABSENT),)
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
                self._mark(everything, "", (counts.number,), In(Field(()), ()))
                if not everything.all():
                    raise self._file.damaged("an index of a field that leaves out documents")


def statement(condition: str, *, values: bool) -> str:
    """The SQL that finds the documents of a range of a field's values, with the values if wanted."""
    return f"SELECT ordinals{', value' * values} FROM field_values WHERE field = ?{condition}"


def ranges(comparison: Comparison) -> list[tuple[str, tuple[Key, ...]]]:
    """The ranges of values in which a comparison can be true: SQL conditions without a text of the user's, and their
    parameters. SQLite orders numbers before texts before blobs.
    """
    match comparison:
        case In(_, values):
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
