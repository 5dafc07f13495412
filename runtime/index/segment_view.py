"""A segment as one generation of the index sees it: without the documents that are deleted, and numbered on from the
segments before it, as if the index had been built of what is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from ..directory import AnyPath
from ..document import Document
from ..errors import IntegrityError
from ..forking import cached_property, undivided
from ..numba_support.arrays import U32, Bools
from ..scorer.dispatch import Scorer
from ..scorer.filter_mask import AllowedUnits
from .layout import MAX_UNITS, IndexManifest
from .segment import Segment
from .tombstones import read_tombstones

if TYPE_CHECKING:
    from ..filters.selection import Selector


class Found(NamedTuple):
    """Results, best first: ordinals and units uint32 as the index numbers them, scores float64 without the scale."""

    ordinals: npt.NDArray[np.uint32]
    units: npt.NDArray[np.uint32]
    scores: npt.NDArray[np.float64]


class _Filtering:
    """What answers filters over a segment, made when it is first asked for. Views of equal content share it."""

    def __init__(self, segment: Segment, deleted: Bools | None) -> None:
        self._segment = segment
        self._deleted = deleted

    @cached_property
    def selector(self) -> Selector:
        with undivided:
            from ..filters.selection import Selector

        return Selector(self._segment.documents, self._segment.fields, self._deleted)


class SegmentView:
    """What is left of a segment. ``deleted``: bool ``[documents of the segment]``, or None.

    ``first_document`` and ``first_unit`` are the numbers of its first in the index; ``documents`` and ``units`` say how
    many are left.
    """

    def __init__(
        self,
        segment: Segment,
        scorer: Scorer,
        deleted: Bools | None,
        first_document: int,
        first_unit: int,
        filtering: _Filtering | None = None,
    ) -> None:
        self.segment = segment
        self.scorer = scorer
        self.deleted = deleted
        self.first_document = first_document
        self.first_unit = first_unit
        owners = segment.unit_documents
        self._alive_units: Bools | None = None
        if deleted is not None:
            self._alive_units = ~deleted if owners is None else ~deleted[owners]
        self.documents = segment.entry.documents - (0 if deleted is None else int(np.count_nonzero(deleted)))
        self.units = segment.units if self._alive_units is None else int(np.count_nonzero(self._alive_units))
        self._filtering = filtering or _Filtering(segment, deleted)

    def at(self, first_document: int, first_unit: int) -> SegmentView:
        """The same behind other segments."""
        if (first_document, first_unit) == (self.first_document, self.first_unit):
            return self
        return SegmentView(self.segment, self.scorer, self.deleted, first_document, first_unit, self._filtering)

    def search(
        self,
        terms: npt.ArrayLike,
        weights: npt.ArrayLike,
        k: int,
        passing: AllowedUnits | None,
        keep: float,
        floor: float,
        scale: float = 1.0,
    ) -> Found:
        """The top k documents, by their best units, of those whose score is at least ``floor``; scores are times
        ``scale``, the floor is not.

        ``passing``: from :meth:`allow`; None: all that is left.
        """
        passing = passing or self._passing
        ask = k
        owners = self.segment.unit_documents
        backend = self.scorer.backend(terms, weights)
        units, scores = backend.search(terms, weights, ask, passing, keep, floor, scale)
        documents = units
        if owners is not None:
            while True:
                # A document's best passage is its first in the list, so a list with k documents has the k best.
                documents, first = np.unique(owners[units], return_index=True)
                if documents.size >= k or units.size < ask:
                    break
                ask *= 4
                units, scores = backend.search(terms, weights, ask, passing, keep, floor, scale)
            best = np.sort(first)[:k]
            units, scores = units[best], scores[best]
            documents = owners[units]
        if self.deleted is not None:
            units = self._units[1][units]
            documents = units if owners is None else self._documents[1][documents]
        if self.first_unit:  # the numbers are uint32, and so are their sums
            documents, units = documents + np.uint32(self.first_document), units + np.uint32(self.first_unit)
        return Found(documents, units, scores)

    def allow(self, allowed: Bools) -> AllowedUnits:
        """The filter of the documents that are left, bool ``[documents]``, for :meth:`search`."""
        if self.deleted is not None:
            everything = np.zeros(self.deleted.size, np.bool_)
            everything[~self.deleted] = allowed
            allowed = everything
        owners = self.segment.unit_documents
        return self.scorer.allow(allowed if owners is None else allowed[owners])

    def frequencies(self, terms: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """In how many of the units that are left each of ``terms`` occurs, int64 ``[n]``."""
        if self._alive_units is None:
            return self.segment.frequencies(terms)
        return self.segment.frequencies_in(terms, self._alive_units)

    @property
    def selector(self) -> Selector:
        """What answers filters over the segment. The first use loads ``filters/``."""
        return self._filtering.selector

    @cached_property
    def _passing(self) -> AllowedUnits | None:
        return None if self._alive_units is None else self.scorer.allow(self._alive_units)

    @cached_property
    def _documents(self) -> tuple[U32, U32]:
        assert self.deleted is not None
        return _numbers(~self.deleted)

    @cached_property
    def _units(self) -> tuple[U32, U32]:
        assert self._alive_units is not None
        return _numbers(self._alive_units)

    def stored(self, ordinals: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
        """The segment's own ordinals of documents as the index numbers them."""
        local = ordinals - self.first_document
        return local if self.deleted is None else self._documents[0][local]

    def _stored_unit(self, unit: int) -> int:
        local = unit - self.first_unit
        return local if self.deleted is None else int(self._units[0][local])

    def read(self, ordinals: npt.NDArray[np.integer]) -> list[Document]:
        """The documents of these ordinals of the index."""
        return self.segment.documents.get(self.stored(ordinals).tolist())

    def find(self, ids: list[str]) -> dict[str, int]:
        """Of these ids, the segment's own ordinals of the documents that have them and are not deleted."""
        deleted = self.deleted
        return {
            document_id: ordinal
            for document_id, ordinal in self.segment.documents.find(ids)
            if deleted is None or not deleted[ordinal]
        }

    def has_deleted(self, deleted: Bools | None) -> bool:
        """Whether just these are deleted."""
        if deleted is None or self.deleted is None:
            return deleted is self.deleted
        return np.array_equal(deleted, self.deleted)

    def is_deleted(self, ordinal: int) -> bool:
        """Whether a document of the segment is deleted."""
        return self.deleted is not None and bool(self.deleted[ordinal])

    def ids(self) -> Iterator[str]:
        """The ids of what is left, in the order of their UTF-8 bytes."""
        return (document_id for document_id, at in self.segment.documents.ids() if not self.is_deleted(at))

    def number(self, ordinal: int) -> int:
        """The index's number of a document of the segment."""
        return self.first_document + (ordinal if self.deleted is None else int(self._documents[1][ordinal]))

    def span(self, unit: int) -> tuple[int, int] | None:
        """(start, end) of a passage, by its number in the index; None where units are documents."""
        spans = self.segment.unit_spans
        at = self._stored_unit(unit)
        return None if spans is None else (int(spans[at, 0]), int(spans[at, 1]))

    def impact(self, term: int, unit: int) -> int:
        """The impact of a term in a unit, by its number in the index."""
        return self.segment.impact(term, self._stored_unit(unit))


def _numbers(alive: Bools) -> tuple[U32, U32]:
    """By number among those alive, the number among all; and the other way round."""
    numbers = np.cumsum(alive, dtype=np.uint32)
    numbers -= 1  # wraps where none came before, which nobody asks for
    return np.flatnonzero(alive).astype(np.uint32), numbers


def merged(parts: list[Found], k: int) -> Found:
    """The k best of results of segments in the order of insertion, which breaks ties."""
    scores = np.concatenate([part.scores for part in parts])
    order = np.argsort(-scores, kind="stable")[:k]
    ordinals, units = (np.concatenate([part[i] for part in parts])[order] for i in range(2))
    return Found(ordinals, units, scores[order])


def open_segments(path: AnyPath, manifest: IndexManifest, known: Sequence[SegmentView] = ()) -> list[SegmentView]:
    """The segments of a manifest, each as it is seen behind those before it. What is ``known`` is not opened again."""
    opened: list[SegmentView] = []
    documents = units = 0
    entries = manifest.segments
    if len({e.path for e in entries}) < len(entries) or len({e.passages for e in entries}) > 1:
        raise IntegrityError(f"{path} is damaged (its segments do not fit together); build it anew")
    try:
        for entry in entries:
            deleted = read_tombstones(path, manifest, entry)
            view = next((view for view in known if view.segment.is_of(manifest, entry)), None)
            if view is None or not view.segment.retain():
                segment = Segment(path, manifest, entry)
                view = SegmentView(segment, Scorer(segment), deleted, documents, units)
            elif view.has_deleted(deleted):
                view = view.at(documents, units)
            else:
                view = SegmentView(view.segment, view.scorer, deleted, documents, units)
            opened.append(view)
            documents += view.documents
            units += view.units
        if units > MAX_UNITS:
            raise IntegrityError(f"{path} is damaged (it has {units} units); build it anew")
    except BaseException:
        close_all([view.segment for view in opened])
        raise
    return opened


def close_all(segments: Iterable[Segment]) -> None:
    """Close segments, each for one of its holders."""
    for segment in segments:
        segment.close()
