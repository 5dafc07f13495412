"""An open index: top k documents of a query vector, stored documents, and the contribution of each term."""

from __future__ import annotations

import heapq
import itertools
import weakref
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..artifact import MANIFEST_NAME as ARTIFACT_MANIFEST
from ..artifact import is_pair
from ..corpus import Document
from ..errors import IndexFormatError, InputError, IntegrityError, StorageError
from ..files import NOT_THERE, reading
from ..forking import Threads, cached_property
from ..manifest import check_hashes, check_sizes, read_manifest
from ..scorer.asked import AllowedUnits
from ..scorer.either import Scorer
from ..threads import resolve_threads
from ..vectors import SparseVector
from ..where import Predicate
from ..where.spelling import spell_field
from .fields import FieldCounts
from .layout import INDEX_FORMAT, MANIFEST_NAME, MAX_UNITS, VERSION, IndexManifest
from .live import Found, LiveSegment, merged
from .segment import Segment, refuse_future
from .select import IndexSelector, Selection
from .tombstones import read_tombstones

_TOGETHER = 512  # queries handed to the threads at a time


class Index:
    """One generation of an index directory, memory-mapped. Safe from several threads.

    Opening validates the manifest, all file sizes and all pointers; a posting list is checked against its checksum when
    it is first read; :meth:`check` reads everything. Whatever a writer commits meanwhile, an open index stays as it is;
    :meth:`refresh` opens what is newest. Documents that are deleted are not there: ordinals and units count what is
    left, as in an index built of these documents alone.
    """

    def __init__(self, path: Path, manifest: IndexManifest, previous: Index | None = None) -> None:
        self.path = path
        self.manifest = manifest
        self.segments: list[LiveSegment] = open_segments(path, manifest, () if previous is None else previous.segments)
        self._close = weakref.finalize(self, _close_all, [live.segment for live in self.segments])
        self._first_documents = np.array([live.first_document for live in self.segments], np.int64)
        self._first_units = np.array([live.first_unit for live in self.segments], np.int64)
        self._documents = sum(live.documents for live in self.segments)
        self._units = sum(live.units for live in self.segments)
        self._selector = IndexSelector([live.selector for live in self.segments])
        self._latest_filter: tuple[npt.NDArray[np.bool_] | None, list[AllowedUnits | None]] = (None, [])

    @classmethod
    def open(cls, path: str | Path) -> Index:
        """Open an index. Raises IndexFormatError (not an index, too new) or IntegrityError (damaged)."""
        path = Path(path)
        with reading(path):
            directory = path.is_dir()
            encoder = directory and (path / ARTIFACT_MANIFEST).exists() and not (path / MANIFEST_NAME).exists()
        if not directory:
            raise IndexFormatError(f"{path} is not a directory; make an index first (see: splade-edge index --help)")
        if encoder:
            what = "a pair of encoders" if is_pair(path) else "an encoder"
            raise IndexFormatError(
                f"{path} is {what}, not an index; make one with: splade-edge index {path} corpus.jsonl -o INDEX"
            )
        return cls._open_newest(path, None)

    def refresh(self) -> Index:
        """The newest generation: this very index if nothing was committed since it was opened, else a new one, which
        shares with this one the segments that are still in use. This one stays open, and as it is. Raises what
        :meth:`open` does.
        """
        if _read(self.path) == self.manifest:
            return self
        return self._open_newest(self.path, self)

    @classmethod
    def _open_newest(cls, path: Path, previous: Index | None) -> Index:
        while True:
            directory = _identity(path)
            manifest = _read(path)
            try:
                refuse_future(manifest, path)
                check_sizes(path, manifest.files)
                encoders = {n: entry for n, entry in manifest.files.items() if n.endswith(ARTIFACT_MANIFEST)}
                check_hashes(path, encoders)
                index = cls(path, manifest, previous)
            except (IntegrityError, StorageError):
                if _read(path) == manifest:
                    raise
                continue  # a writer has removed what we were opening, which over a network is a stale handle
            # Files of a directory are never overwritten, but the whole directory may have been replaced by another.
            if _read(path) == manifest or _identity(path) == directory:
                return index
            index.close()

    def close(self) -> None:
        """Close the stored documents; the index cannot be used afterwards. Its memory maps go with the object."""
        self._close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its path: where it is unpickled, the newest generation that is there then is opened."""
        return Index.open, (self.path.absolute(),)

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of documents."""
        return self._documents

    @property
    def generation(self) -> int:
        """How many commits made the index."""
        return self.manifest.generation

    def search_vectors(
        self,
        terms: npt.ArrayLike,
        weights: npt.ArrayLike,
        k: int = 10,
        *,
        allowed: npt.NDArray[np.bool_] | None = None,
        approximate: float | None = None,
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float64]]:
        """Exact top k documents of a query vector: (ordinals uint32, scores float64), at most k, best first.

        ``terms``: distinct term ids ``[n]``; ``weights``: float32 ``[n]``, finite, >= 0. A score is ``scale`` times the
        float64 sum, over terms ascending, of weight x impact; ties go to the document inserted first. A document with
        passages has the score of its best. Documents that share no term with the query are not returned.
        ``allowed``: bool ``[documents]`` by ordinal; the answer is the exact top k of the documents where it is True.
        What it takes to look at a mask is spared where the same read-only array is given again.
        ``approximate``: a share in (0, 1]; once k documents are found, others are left unscored where this share of the
        bound on their score does not reach the k-th. Scores stay exact, but better documents may be missing; None (or
        1) is exact.
        Raises InputError for k < 1, a malformed vector or mask, IntegrityError for damaged postings.
        """
        ordinals, _, scores = self.search_units(terms, weights, k, allowed=allowed, approximate=approximate)
        return ordinals, scores

    def search_units(
        self,
        terms: npt.ArrayLike,
        weights: npt.ArrayLike,
        k: int = 10,
        *,
        allowed: npt.NDArray[np.bool_] | None = None,
        approximate: float | None = None,
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.float64]]:
        """:meth:`search_vectors` with the best unit of each document: (ordinals, units, scores)."""
        # a plain int needs no further look, which takes as long as a tenth of a short query's way to the kernels
        if (type(k) is not int and (isinstance(k, bool) or not isinstance(k, int | np.integer))) or k < 1:
            raise InputError(f"k is {k!r}; ask for at least 1 result")
        keep = 1.0 if approximate is None else float(approximate)
        if not 0.0 < keep <= 1.0:
            raise InputError(f"approximate is {approximate!r}; give a share above 0, up to 1 (which is exact)")
        if len(self.segments) == 1 and allowed is None:  # an index that was never changed: nothing to merge
            return self.segments[0].search(terms, weights, int(k), None, keep, 0.0, self.manifest.scale)
        passing = [None] * len(self.segments) if allowed is None else self._passing(allowed)
        found: Found | None = None
        floor = 0.0
        for live, units in zip(self.segments, passing, strict=True):
            part = live.search(terms, weights, int(k), units, keep, floor)
            found = part if found is None else merged([found, part], int(k)) if part.scores.size else found
            if found.scores.size >= k:
                # later documents must do better than the k-th: ties go to the earlier
                floor = float(np.nextafter(found.scores[-1], np.inf))
        if found is None:
            return np.empty(0, np.uint32), np.empty(0, np.uint32), np.empty(0)
        return found.ordinals, found.units, found.scores * self.manifest.scale

    def search_many(
        self,
        queries: Iterable[SparseVector],
        k: int = 10,
        *,
        threads: int | None = None,
        allowed: npt.NDArray[np.bool_] | None = None,
        approximate: float | None = None,
    ) -> Iterator[tuple[npt.NDArray[np.uint32], npt.NDArray[np.float64]]]:
        """:meth:`search_vectors` for each query, in order, on ``threads`` threads (default: the CPUs this process may
        use). The answers are those of one thread.
        """
        if allowed is not None:
            allowed = _mask(allowed, len(self)).copy()
            allowed.flags.writeable = False

        def answer(query: SparseVector) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float64]]:
            return self.search_vectors(*query, k, allowed=allowed, approximate=approximate)

        waiting = iter(queries)
        with Threads(resolve_threads(threads)) as pool:
            while some := list(islice(waiting, _TOGETHER)):
                yield from pool.map(answer, some)

    def _passing(self, allowed: npt.ArrayLike) -> list[AllowedUnits | None]:
        """The filters for the segments. Those of a read-only mask are kept, for the next query that comes with it."""
        kept_mask, kept = self._latest_filter
        if kept_mask is allowed:
            return kept
        mask = _mask(allowed, len(self))
        passing: list[AllowedUnits | None] = [
            live.allow(mask[live.first_document : live.first_document + live.documents]) for live in self.segments
        ]
        if isinstance(allowed, np.ndarray) and allowed.base is None and not allowed.flags.writeable:
            self._latest_filter = allowed, passing
        return passing

    def select(self, where: str | Predicate) -> Selection:
        """The documents that satisfy a filter such as ``year >= 2020 and lang = "en"``, for ``allowed``.

        Fields that were indexed are answered from their index; others by reading the documents. The latest answers are
        kept. Raises WhereError (an InputError that names the column), IntegrityError.
        """
        return self._selector.select(where)

    @property
    def fields(self) -> dict[str, FieldCounts]:
        """The stored fields by name: how many documents have a number, a string, a boolean in each, and whether it has
        an index. Empty for an index made before these were kept.
        """
        return {spell_field(field): counts for field, counts in (self._selector.fields or {}).items()}

    def documents(self, ordinals: Sequence[int] | npt.NDArray[np.integer]) -> list[Document]:
        """The stored documents of these ordinals. Raises InputError (out of range) or IntegrityError (damaged)."""
        wanted = np.array([int(o) for o in ordinals], np.int64)
        for ordinal in wanted[(wanted < 0) | (wanted >= len(self))].tolist():
            raise InputError(f"there is no document {ordinal}; the index has {len(self)}, counted from 0")
        if len(self.segments) == 1:
            return self.segments[0].read(wanted)
        places = np.searchsorted(self._first_documents, wanted, side="right") - 1
        read = {
            int(place): iter(self.segments[place].read(wanted[places == place])) for place in np.unique(places).tolist()
        }
        return [next(read[place]) for place in places.tolist()]

    def frequencies(self, terms: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """In how many of the :attr:`units` each of ``terms`` occurs, int64 ``[n]``. Where documents of a segment are
        deleted, the terms' postings are read. Raises IntegrityError if they are damaged.
        """
        asked = np.asarray(terms, np.int64)
        return sum((live.frequencies(asked) for live in self.segments), np.zeros(asked.size, np.int64))

    @property
    def units(self) -> int:
        """Number of what is scored: documents, or their passages."""
        return self._units

    @cached_property
    def terms(self) -> npt.NDArray[np.int32]:
        """The terms that occur in the documents (also in deleted ones, until these are merged away), int32, ascending.
        No other can earn a document any score.
        """
        occurs = np.zeros(self.manifest.vocab_size, np.bool_)
        for live in self.segments:
            occurs |= np.diff(live.segment.term_blocks) > 0
        return np.flatnonzero(occurs).astype(np.int32)

    def find(self, document_id: str) -> int | None:
        """The ordinal of a document id, or None."""
        for live in self.segments:
            for ordinal in live.find([document_id]).values():
                return live.number(ordinal)
        return None

    def known(self, document_ids: Iterable[str]) -> set[str]:
        """Those of the ids that a document has."""
        asked = list(document_ids)
        return {found for live in self.segments for found in live.find(asked)}

    def span(self, unit: int) -> tuple[int, int] | None:
        """(start, end) of a passage in characters of its document's text; None where units are documents."""
        return self._with_unit(unit).span(unit)

    def contributions(self, query: SparseVector, unit: int) -> npt.NDArray[np.float64]:
        """What each query term earned in a unit: weight x impact x scale, float64 ``[n]``."""
        live = self._with_unit(unit)
        impacts = np.array([live.impact(int(term), unit) for term in query.indices], np.float64)
        return query.values.astype(np.float64) * impacts * self.manifest.scale

    def _with_unit(self, unit: int) -> LiveSegment:
        if not 0 <= unit < self._units:
            raise InputError(f"there is no unit {unit}; the index has {self._units}, counted from 0")
        return self.segments[int(np.searchsorted(self._first_units, unit, side="right")) - 1]

    def check(self) -> None:
        """Check every byte: hashes of all files, posting order and maxima, every stored document. Raises
        IntegrityError.
        """
        check_hashes(self.path, self.manifest.files)
        for live in self.segments:
            live.segment.check()
        self._check_ids()

    def _check_ids(self) -> None:
        """No two documents that are not deleted have one id."""
        for one, other in itertools.pairwise(heapq.merge(*(live.ids() for live in self.segments), key=str.encode)):
            if one == other:
                raise IntegrityError(f"{self.path}: two documents have the id {one!r}; build the index anew")

    @property
    def _segment(self) -> Segment:
        """The first segment: the only one of an index that was never changed."""
        return self.segments[0].segment

    @property
    def _scorer(self) -> Scorer:
        return self.segments[0].scorer


def open_segments(path: Path, manifest: IndexManifest, known: Sequence[LiveSegment] = ()) -> list[LiveSegment]:
    """The segments of a manifest, each as it is seen behind those before it. What is ``known`` is not opened again."""
    opened: list[LiveSegment] = []
    documents = units = 0
    entries = manifest.segments
    if len({e.path for e in entries}) < len(entries) or len({e.passages for e in entries}) > 1:
        raise IntegrityError(f"{path} is damaged (its segments do not fit together); build it anew")
    try:
        for entry in entries:
            deleted = read_tombstones(path, manifest, entry)
            live = next((live for live in known if live.segment.is_of(manifest, entry)), None)
            if live is None or not live.segment.retain():
                segment = Segment(path, manifest, entry)
                live = LiveSegment(segment, Scorer(segment), deleted, documents, units)
            elif live.has_deleted(deleted):
                live = live.at(documents, units)
            else:
                live = LiveSegment(live.segment, live.scorer, deleted, documents, units)
            opened.append(live)
            documents += live.documents
            units += live.units
        if units > MAX_UNITS:
            raise IntegrityError(f"{path} is damaged (it has {units} units); build it anew")
    except BaseException:
        _close_all([live.segment for live in opened])
        raise
    return opened


def _close_all(segments: Iterable[Segment]) -> None:
    for segment in segments:
        segment.close()


def _identity(path: Path) -> tuple[int, int]:
    """Which directory lies at the path."""
    try:
        with reading(path):
            found = path.stat()
    except NOT_THERE as error:
        raise IndexFormatError(f"cannot read {path}: {error.strerror}") from None
    return found.st_dev, found.st_ino


def _mask(allowed: npt.ArrayLike, documents: int) -> npt.NDArray[np.bool_]:
    mask = np.asarray(allowed)
    if mask.dtype != np.bool_ or mask.shape != (documents,):
        raise InputError(
            f"allowed is an array of {mask.dtype} of shape {mask.shape}; "
            f"give one bool for each of the {documents} documents"
        )
    return np.ascontiguousarray(mask)


def _read(path: Path) -> IndexManifest:
    return read_manifest(
        path / MANIFEST_NAME, IndexManifest, format=INDEX_FORMAT, version=VERSION, error=IndexFormatError
    )
