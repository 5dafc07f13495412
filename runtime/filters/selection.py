"""From a filter to the documents it allows: from the indexes of fields where it can, by reading documents where not."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..forking import cached_property, new_lock
from ..masks import Mask, frozen
from .fields import FieldCounts, FieldReader, kind_of
from .formatting import format_field, format_predicate
from .matching import test_of
from .parser import WhereError, parse_where
from .predicate import ABSENT, And, Comparison, Field, In, Like, Not, Or, Predicate, comparisons
from .values import STORED

if TYPE_CHECKING:
    from ..index.documents import DocumentReader

CACHE_BYTES = 32 << 20  # of the answers kept: 32 filters of a million documents…
CACHE_FILTERS = 1000  # …and of a few documents no more than these
_FEW = 20  # documents are read one by one if they are fewer than one in so many, else all in order
_NAMES_SHOWN = 12
_KINDS = ("numbers", "strings", "booleans")


@dataclass(frozen=True)
class Step:
    """How a part of a filter (``what``) was answered: from an ``index`` of its field, or by a ``scan``; how many
    documents were ``read`` for it; and how many satisfy it.
    """

    what: str
    how: Literal["index", "scan"]
    read: int
    found: int


@dataclass(frozen=True)
class Selection:
    """The documents that a filter allows: bool ``[documents]`` in the order of insertion, without deleted ones, which
    nobody can change; and how it was answered.
    """

    allowed: Mask
    steps: tuple[Step, ...]

    @property
    def count(self) -> int:
        """Documents allowed."""
        return int(np.count_nonzero(self.allowed))


class Selector:
    """Answers filters over a segment, and remembers the latest answers. Safe from several threads.

    ``deleted``: bool ``[documents]``, which are never allowed; None: none.
    """

    def __init__(self, documents: DocumentReader, fields: FieldReader | None, deleted: Mask | None = None) -> None:
        self._documents = documents
        self._fields = fields
        self._alive = None if deleted is None else ~deleted
        self._lock = new_lock()
        self._cache: OrderedDict[Predicate, Selection] = OrderedDict()

    def select(self, predicate: Predicate) -> Selection:
        """The documents that satisfy a filter. Raises IntegrityError."""
        with self._lock:
            if predicate in self._cache:
                self._cache.move_to_end(predicate)
                return self._cache[predicate]
        steps: list[Step] = []
        allowed = self._answer(predicate, self._alive, steps)
        if self._alive is not None:
            allowed = (allowed & self._alive)[self._alive]
        selection = Selection(frozen(allowed), tuple(steps))
        with self._lock:
            self._cache[predicate] = selection
            while len(self._cache) > _kept(self._documents.count):
                self._cache.popitem(last=False)
        return selection

    @property
    def documents(self) -> int:
        """How many documents the segment has, deleted ones included."""
        return self._documents.count

    @property
    def fields(self) -> FieldReader | None:
        """The segment's fields; None where it was made before these were kept."""
        return self._fields

    def _answer(self, predicate: Predicate, candidates: Mask | None, steps: list[Step]) -> Mask:
        """Where the predicate is true; only for the ``candidates`` (None: all) it has to be right."""
        if not any(self._indexed(predicate)):
            return self._scan(predicate, candidates, steps)
        match predicate:
            case Not(part):
                return ~self._answer(part, candidates, steps)
            case And(parts):
                for part in self._by_cost(parts, And):
                    mask = self._answer(part, candidates, steps)
                    candidates = mask if candidates is None else candidates & mask
                assert candidates is not None
                return candidates
            case Or(parts):
                found = np.zeros(self._documents.count, np.bool_)
                for part in self._by_cost(parts, Or):
                    left = ~found if candidates is None else candidates & ~found
                    found |= self._answer(part, left, steps) & left
                return found
        assert self._fields is not None
        mask = self._fields.documents_where(predicate)
        undecided = self._fields.undecided(predicate)
        if candidates is not None:
            undecided = undecided[candidates[undecided]]
        read = map(test_of(predicate), self._documents.get_lazily(undecided))
        mask[undecided] = np.fromiter(read, np.bool_, undecided.size)
        alive = mask if self._alive is None else mask & self._alive
        steps.append(Step(format_predicate(predicate), "index", undecided.size, int(np.count_nonzero(alive))))
        return mask

    def _by_cost(self, parts: tuple[Predicate, ...], kind: type[And | Or]) -> Iterator[Predicate]:
        """What indexes answer, then what they answer in part, then the rest as one, so that documents are read once
        and only where the answer is still open.
        """
        yield from (part for part in parts if all(self._indexed(part)))
        yield from (part for part in parts if len(set(self._indexed(part))) == 2)
        rest = tuple(part for part in parts if not any(self._indexed(part)))
        if rest:
            yield rest[0] if len(rest) == 1 else kind(rest)

    def _indexed(self, predicate: Predicate) -> list[bool]:
        """For each comparison whether an index answers it."""
        return [self._fields is not None and self._fields.has_index(c.field) for c in comparisons(predicate)]

    def _scan(self, predicate: Predicate, candidates: Mask | None, steps: list[Step]) -> Mask:
        test = test_of(predicate)
        mask = np.zeros(self._documents.count, np.bool_)
        ordinals = None if candidates is None else np.flatnonzero(candidates)
        if ordinals is not None and ordinals.size * _FEW < mask.size:
            mask[ordinals] = np.fromiter(map(test, self._documents.get_lazily(ordinals)), np.bool_, ordinals.size)
            read = ordinals.size
        else:
            mask[:] = np.fromiter(map(test, self._documents.scan()), np.bool_, mask.size)
            read = mask.size
            if candidates is not None:
                mask &= candidates
        steps.append(Step(format_predicate(predicate), "scan", read, int(np.count_nonzero(mask))))
        return mask


class IndexSelector:
    """Answers filters over the segments of an index: what each allows, one after the other."""

    def __init__(self, selectors: Sequence[Selector]) -> None:
        self._selectors = selectors
        self._lock = new_lock()
        self._cache: OrderedDict[Predicate, Selection] = OrderedDict()  # where there are several segments

    def select(self, where: str | Predicate) -> Selection:
        """The documents that satisfy a filter. Raises WhereError, IntegrityError."""
        predicate = parse_where(where) if isinstance(where, str) else where
        for comparison in comparisons(predicate):
            self._refuse_misfit(comparison)
        if len(self._selectors) == 1:
            return self._selectors[0].select(predicate)
        with self._lock:
            if predicate in self._cache:
                self._cache.move_to_end(predicate)
                return self._cache[predicate]
        parts = [selector.select(predicate) for selector in self._selectors]
        allowed = np.concatenate([np.empty(0, np.bool_), *(part.allowed for part in parts)])
        selection = Selection(frozen(allowed), _added_up([step for part in parts for step in part.steps]))
        with self._lock:
            self._cache[predicate] = selection
            while len(self._cache) > _kept(allowed.size):
                self._cache.popitem(last=False)
        return selection

    @cached_property
    def fields(self) -> dict[Field, FieldCounts] | None:
        """The fields of all segments; None where one was made before these were kept."""
        total: dict[Field, FieldCounts] = {}
        readers = [selector.fields for selector in self._selectors]
        for reader in readers:
            if reader is None:
                return None
            for field, counts in reader.counts.items():
                before = total.get(field)
                total[field] = counts if before is None else before.plus(counts)
        # A segment whose documents have nothing in a field answers for it by reading them, unless it has an index too.
        unindexed = {f for r in readers if r is not None for f in total if not r.has_index(f)}
        return {f: c._replace(number=None) if f in unindexed else c for f, c in total.items()}

    def _refuse_misfit(self, comparison: Comparison) -> None:
        """Refuse a field that no document has, and a comparison with a type that the field never has."""
        if self.fields is None or not any(selector.documents for selector in self._selectors):
            return  # made before names were kept, or there is no document to have a field
        counts = self.fields.get(comparison.field)
        if comparison.field.keys in {(name,) for name in STORED}:
            counts = FieldCounts(0, 1, 0, None)
        if counts is None:
            if all(selector.fields is None or selector.fields.all_names for selector in self._selectors):
                raise WhereError(comparison.column, self._unknown(comparison.field))
            return
        if not all(s.fields and (s.fields.all_names or comparison.field in s.fields.counts) for s in self._selectors):
            return  # a segment of too many names, of which this is none that it counts
        wanted = _kinds(comparison)
        has = [kind for kind, count in enumerate(counts[:3]) if count]
        if wanted and has and not wanted & set(has):
            kinds = " and ".join(_KINDS[kind] for kind in has)
            name = format_field(comparison.field)
            hint = "; put the value in quotes" if wanted == {0} and has == [1] else ""
            if wanted == {1} and has == [0] and not isinstance(comparison, Like):
                hint = "; leave out the quotes"
            raise WhereError(
                comparison.column,
                f"{name} has {kinds} in this index, and is compared with {_KINDS[min(wanted)]}{hint}",
            )

    def _unknown(self, field: Field) -> str:
        name = format_field(field)
        names = [*STORED, *sorted(map(format_field, self.fields or {}))]
        parts = [other for other in names if other.startswith(f"{name}.")]
        if parts:
            return f"{name} is an object; name a part of it: {_listed(parts)}"
        near = difflib.get_close_matches(name, names, 1)
        hint = f" (do you mean {near[0]}?)" if near else ""
        return f"no document has the field {name}{hint}; there are {_listed(names)}"


def _added_up(steps: list[Step]) -> tuple[Step, ...]:
    """The steps of several segments as one: what was answered in the same way is added up."""
    total: dict[tuple[str, str], Step] = {}
    for step in steps:
        before = total.get((step.what, step.how))
        if before is not None:
            step = Step(step.what, step.how, before.read + step.read, before.found + step.found)
        total[step.what, step.how] = step
    return tuple(total.values())


def _kept(documents: int) -> int:
    """How many answers over so many documents are kept."""
    return max(1, min(CACHE_FILTERS, CACHE_BYTES // max(1, documents)))


def _kinds(comparison: Comparison) -> set[int]:
    """The types of what a field is compared with; empty if with null."""
    match comparison:
        case In(_, values):
            return {kind_of(value) for value in values if value != ABSENT}
        case Like():
            return {1}
    return {kind_of(comparison.value)}


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more (see splade-edge info)" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
