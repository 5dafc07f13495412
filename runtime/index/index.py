"""An open index: top k documents of a query vector, stored documents, and the contribution of each term."""

from __future__ import annotations

import heapq
import itertools
import weakref
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..artifact import MANIFEST_NAME as ARTIFACT_MANIFEST
from ..artifact import is_pair
from ..directory import Directory
from ..document import Document
from ..errors import IndexFormatError, IndexReplacedError, InputError, IntegrityError, SpladeEdgeError, StorageError
from ..files import absolute_path, reading
from ..forking import Threads, cached_property, undivided
from ..manifest import check_hashes, check_sizes
from ..masks import frozen, is_frozen
from ..scorer.dispatch import Scorer
from ..scorer.filter_mask import AllowedUnits
from ..threads import resolve_threads
from ..vectors import SparseVector
from .layout import MANIFEST_NAME, IndexManifest, read_manifest_file
from .segment import Segment, refuse_future
from .segment_view import Found, SegmentView, close_all, merged, open_segments

if TYPE_CHECKING:
    from ..filters.fields import FieldCounts
    from ..filters.predicate import Predicate
    from ..filters.selection import IndexSelector, Selection

Vector: TypeAlias = SparseVector | tuple[npt.ArrayLike, npt.ArrayLike]
_TOGETHER = 512  # queries handed to the threads at a time


class Index:
    """One generation of an index directory, memory-mapped. It is safe from several threads.

    Opening validates the manifest, all file sizes and all pointers. A posting list is compared with its checksum when
    it is first read. :meth:`check` reads everything. An open index stays as it is, whatever a writer commits;
    :meth:`refresh` opens the newest generation. Deleted documents are not there: ordinals and units count the others,
    as in an index that was built of them alone.

    The directory is held open, so it may be moved. A closed index refuses everything with an InputError.

    Attributes
    ----------
    path
        Where the directory lay when it was opened; absolute.
    manifest
        What the generation says of itself.
    """

    def __init__(self, directory: Directory, manifest: IndexManifest, previous: Index | None = None) -> None:
        self.path = directory.path
        self.manifest = manifest
        self._directory = directory
        known = () if previous is None else previous.segments
        self._segments: list[SegmentView] = open_segments(directory.root, manifest, known)
        self._close = weakref.finalize(self, _let_go, [view.segment for view in self._segments], directory.hold())
        self._first_documents = np.array([view.first_document for view in self._segments], np.int64)
        self._first_units = np.array([view.first_unit for view in self._segments], np.int64)
        self._documents = sum(view.documents for view in self._segments)
        self._units = sum(view.units for view in self._segments)
        # what was given, its bytes then (None: they are so for ever), and what came of it
        self._latest_filter: tuple[npt.ArrayLike | None, bytes | None, list[AllowedUnits | None]] = None, None, []
        self._known: dict[bytes, IndexManifest] = {}  # our manifest by the bytes it was read as; never changed

    @classmethod
    def open(cls, path: str | Path) -> Index:
        """Open the newest generation of an index directory.

        Parameters
        ----------
        path
            The directory.

        Raises
        ------
        IndexFormatError
            It is not an index, or too new for this release.
        IntegrityError
            A file is missing or damaged.
        StorageError
            The system refuses to read.
        """
        while True:
            directory = open_directory(Path(path))
            try:
                return cls.of(directory)
            except SpladeEdgeError:
                if not directory.is_replaced():
                    raise
            finally:
                directory.release()

    def refresh(self) -> Index:
        """Open the newest generation of the directory, wherever that lies by now. This index stays open, as it is.

        Returns
        -------
        Index
            This very index if nothing was committed since it was opened. Else a new one, which shares the segments
            that are still in use with this one.

        Raises
        ------
        IndexReplacedError
            Another directory lies at :attr:`path`. See :meth:`open` for other errors.
        """
        self._refuse_closed()
        with self._directory.held():
            self._directory.refuse_replaced()
            known = self._known.copy()
            if read_manifest_file(self._directory.root / MANIFEST_NAME, known) == self.manifest:
                self._known = known
                return self
            return self.of(self._directory, self)

    @classmethod
    def of(cls, directory: Directory, previous: Index | None = None) -> Index:
        """Open the newest generation in a directory that is held open.

        Parameters
        ----------
        directory
            The index directory.
        previous
            An open generation; segments that it shares with the newest are not opened again.

        Raises
        ------
        SpladeEdgeError
            As :meth:`open` does.
        """
        root = directory.root
        while True:
            known: dict[bytes, IndexManifest] = {}
            manifest = read_manifest_file(root / MANIFEST_NAME, known)
            try:
                refuse_future(manifest, root)
                check_sizes(root, manifest.files)
                encoders = {n: entry for n, entry in manifest.files.items() if n.endswith(ARTIFACT_MANIFEST)}
                check_hashes(root, encoders)
                index = cls(directory, manifest, previous)
                index._known = known
                return index
            except (IntegrityError, StorageError):
                if read_manifest_file(root / MANIFEST_NAME) == manifest:
                    raise
                # a writer has removed what we were opening, which over a network is a stale handle

    @property
    def segments(self) -> list[SegmentView]:
        """The segments, in the order of insertion."""
        if not self._close.alive:
            self._refuse_closed()
        return self._segments

    def _refuse_closed(self) -> None:
        if not self._close.alive:
            raise InputError(f"the index {self.path} is closed; open it again")

    def refuse_replaced(self) -> None:
        """Raise IndexReplacedError where another directory lies at :attr:`path` than the one that was opened."""
        self._directory.refuse_replaced()

    def close(self) -> None:
        """Close the files; the index refuses everything afterwards. Its memory maps go with the object."""
        self._close()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled by its path: where it is unpickled, the newest generation that is there then is opened."""
        return Index.open, (self.path,)

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

    def search_vector(
        self,
        vector: Vector,
        k: int = 10,
        *,
        allowed: npt.NDArray[np.bool_] | None = None,
        approximate: float | None = None,
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float64]]:
        """Find the top k documents of a query vector.

        A score is ``scale`` times the float64 sum, over terms ascending, of weight x impact. A document with passages
        has the score of its best. Documents that share no term with the query are left out.

        Parameters
        ----------
        vector
            A SparseVector, or a pair of terms and weights: distinct term ids, integers ``[n]`` in any order, and
            float32 ``[n]``, finite, >= 0.
        k
            Number of documents, at least 1.
        allowed
            bool ``[documents]`` by ordinal: the answer is the exact top k of the documents where it is True. A
            read-only array that is given again is not looked at again.
        approximate
            A share in (0, 1]. Once k documents are found, a document is left unscored if this share of the upper bound
            of its score does not reach the k-th score. Scores stay exact, but better documents may be missing. None
            and 1 are exact.

        Returns
        -------
        ordinals
            uint32 ``[<= k]``, best first. Ties go to the document that was inserted first.
        scores
            float64 ``[<= k]``.

        Raises
        ------
        InputError
            For k < 1, a malformed vector or mask, or a closed index.
        IntegrityError
            For damaged postings.
        """
        ordinals, _, scores = self.search_units(vector, k, allowed=allowed, approximate=approximate)
        return ordinals, scores

    def search_units(
        self,
        vector: Vector,
        k: int = 10,
        *,
        allowed: npt.NDArray[np.bool_] | None = None,
        approximate: float | None = None,
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.float64]]:
        """:meth:`search_vector` with the best unit of each document.

        Returns
        -------
        ordinals, units
            uint32 ``[<= k]``, best first; a unit is the document itself, or a passage of it.
        scores
            float64 ``[<= k]``.
        """
        try:
            terms, weights = vector
        except (TypeError, ValueError):
            raise InputError("a query vector is a SparseVector, or a pair of terms and weights") from None
        # a plain int needs no further look, which takes as long as a tenth of a short query's way to the kernels
        if (type(k) is not int and (isinstance(k, bool) or not isinstance(k, int | np.integer))) or k < 1:
            raise InputError(f"k is {k!r}; ask for at least 1 result")
        keep = 1.0 if approximate is None else float(approximate)
        if not 0.0 < keep <= 1.0:
            raise InputError(f"approximate is {approximate!r}; give a share above 0, up to 1 (which is exact)")
        segments = self.segments
        if len(segments) == 1 and allowed is None:  # an index that was never changed: nothing to merge
            return segments[0].search(terms, weights, int(k), None, keep, 0.0, self.manifest.scale)
        passing = [None] * len(segments) if allowed is None else self._passing(allowed)
        found: Found | None = None
        floor = 0.0
        for view, units in zip(segments, passing, strict=True):
            part = view.search(terms, weights, int(k), units, keep, floor)
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
        """:meth:`search_vector` for each of many query vectors, lazily and in order.

        Parameters
        ----------
        queries
            The vectors.
        threads
            Number of threads; None: the CPUs that this process may use. The answers are those of one thread.
        k, allowed, approximate
            As in :meth:`search_vector`.

        Yields
        ------
        ordinals, scores
            As :meth:`search_vector` returns them.
        """
        if allowed is not None:
            allowed = frozen(_mask(allowed, len(self)))

        def answer(query: SparseVector) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float64]]:
            return self.search_vector(query, k, allowed=allowed, approximate=approximate)

        waiting = iter(queries)
        with Threads(resolve_threads(threads)) as pool:
            while some := list(islice(waiting, _TOGETHER)):
                yield from pool.map(answer, some)

    def _passing(self, allowed: npt.ArrayLike) -> list[AllowedUnits | None]:
        """The filters for the segments. Those of a read-only mask are kept, for the next query that comes with it."""
        given, as_given, kept = self._latest_filter
        if given is allowed and (as_given is None or _is_still(allowed, as_given)):
            return kept
        mask = _mask(allowed, len(self))
        passing: list[AllowedUnits | None] = [
            view.allow(mask[view.first_document : view.first_document + view.documents]) for view in self.segments
        ]
        if is_frozen(allowed):
            self._latest_filter = allowed, None, passing
        elif isinstance(allowed, np.ndarray) and allowed.base is None and not allowed.flags.writeable:
            self._latest_filter = allowed, mask.tobytes(), passing  # it can be made writable, and read-only again
        return passing

    def select(self, where: str | Predicate) -> Selection:
        """Find the documents that satisfy a filter, for ``allowed``.

        An indexed field is answered from its index, any other by reading the documents. The latest answers are kept.

        Parameters
        ----------
        where
            Such as ``year >= 2020 and lang = "en"``, or what :func:`parse_where` makes of it.

        Returns
        -------
        Selection
            The mask, and how it was answered.

        Raises
        ------
        WhereError
            For a filter that is malformed or does not fit the fields; the message names the column.
        IntegrityError
            For damaged files.
        """
        self._refuse_closed()
        return self._selector.select(where)

    @cached_property
    def _selector(self) -> IndexSelector:
        with undivided:
            from ..filters.selection import IndexSelector

        return IndexSelector([view.selector for view in self._segments])

    @property
    def fields(self) -> dict[str, FieldCounts]:
        """The stored fields by name: how many documents have a number, a string, a boolean in each, and whether it has
        an index. Empty for an index made before these were kept.
        """
        self._refuse_closed()
        with undivided:
            from ..filters.formatting import format_field

        return {format_field(field): counts for field, counts in (self._selector.fields or {}).items()}

    def documents(self, ordinals: Sequence[int] | npt.NDArray[np.integer]) -> list[Document]:
        """Read stored documents.

        Parameters
        ----------
        ordinals
            Their numbers in the index, ``[n]``.

        Returns
        -------
        list of Document
            In the same order.

        Raises
        ------
        InputError
            For an ordinal out of range.
        IntegrityError
            For a damaged row.
        """
        wanted = np.array([int(o) for o in ordinals], np.int64)
        for ordinal in wanted[(wanted < 0) | (wanted >= len(self))].tolist():
            raise InputError(f"there is no document {ordinal}; the index has {len(self)}, counted from 0")
        if len(self.segments) == 1:
            return self.segments[0].read(wanted)
        at = np.searchsorted(self._first_documents, wanted, side="right") - 1
        read = {
            position: iter(self.segments[position].read(wanted[at == position])) for position in np.unique(at).tolist()
        }
        return [next(read[position]) for position in at.tolist()]

    def frequencies(self, terms: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Count the units in which terms occur. Where documents of a segment are deleted, postings are read.

        Parameters
        ----------
        terms
            Term ids, integers ``[n]``.

        Returns
        -------
        ndarray
            int64 ``[n]``: document frequencies, over :attr:`units`.

        Raises
        ------
        IntegrityError
            For damaged postings.
        """
        asked = np.asarray(terms, np.int64)
        return sum((view.frequencies(asked) for view in self.segments), np.zeros(asked.size, np.int64))

    @property
    def units(self) -> int:
        """Number of what is scored: documents, or their passages."""
        return self._units

    @cached_property
    def terms(self) -> npt.NDArray[np.int32]:
        """The terms that occur, int32, ascending. Other terms cannot contribute to a score.

        Terms of deleted documents stay until their segment is merged.
        """
        occurs = np.zeros(self.manifest.vocab_size, np.bool_)
        for view in self.segments:
            occurs |= np.diff(view.segment.term_blocks) > 0
        return np.flatnonzero(occurs).astype(np.int32)

    def find(self, document_id: str) -> int | None:
        """The ordinal of a document id, or None."""
        for view in self.segments:
            for ordinal in view.find([document_id]).values():
                return view.number(ordinal)
        return None

    def known(self, document_ids: Iterable[str]) -> set[str]:
        """Those of the ids that a document has."""
        asked = list(document_ids)
        return {found for view in self.segments for found in view.find(asked)}

    def span(self, unit: int) -> tuple[int, int] | None:
        """(start, end) of a passage in characters of its document's text; None where units are documents."""
        return self._with_unit(unit).span(unit)

    def contributions(self, query: SparseVector, unit: int) -> npt.NDArray[np.float64]:
        """What each query term contributed to the score of a unit.

        Parameters
        ----------
        query
            The query vector.
        unit
            The unit's number in the index, as :meth:`search_units` returns it.

        Returns
        -------
        ndarray
            float64 ``[n]``: weight x impact x scale, in the order of the query's terms.

        Raises
        ------
        InputError
            For a unit out of range.
        IntegrityError
            For damaged postings.
        """
        view = self._with_unit(unit)
        impacts = np.array([view.impact(int(term), unit) for term in query.indices], np.float64)
        return query.values.astype(np.float64) * impacts * self.manifest.scale

    def _with_unit(self, unit: int) -> SegmentView:
        if not 0 <= unit < self._units:
            raise InputError(f"there is no unit {unit}; the index has {self._units}, counted from 0")
        return self.segments[int(np.searchsorted(self._first_units, unit, side="right")) - 1]

    def check(self, *, hashed: bool = False) -> None:
        """Check every byte: hashes of all files, order and maxima of postings, every stored document.

        Parameters
        ----------
        hashed
            Whether the hashes of all files have just been compared, so that they are not read for that again.

        Raises
        ------
        IntegrityError
            For damage.
        IndexReplacedError
            A writer has removed files of this generation meanwhile.
        """
        self._refuse_closed()
        try:
            if not hashed:
                with self._directory.held():
                    check_hashes(self._directory.root, self.manifest.files)
            for view in self.segments:
                view.segment.check()
            self._check_ids()
        except (IntegrityError, StorageError):
            with self._directory.held():
                now = read_manifest_file(self._directory.root / MANIFEST_NAME)
            if now == self.manifest:
                raise
            raise IndexReplacedError(
                f"{self.path} has a newer generation, and files of this one are gone; check that one: refresh()"
            ) from None

    def _check_ids(self) -> None:
        """No two documents that are not deleted have one id."""
        for one, other in itertools.pairwise(heapq.merge(*(view.ids() for view in self.segments), key=str.encode)):
            if one == other:
                raise IntegrityError(f"{self.path}: two documents have the id {one!r}; build the index anew")

    @property
    def _segment(self) -> Segment:
        """The first segment: the only one of an index that was never changed."""
        return self.segments[0].segment

    @property
    def _scorer(self) -> Scorer:
        return self.segments[0].scorer


def open_directory(path: Path) -> Directory:
    """Hold an index directory open. Raises IndexFormatError where there is none, StorageError."""
    try:
        with reading(path):
            directory = Directory(path)
    except (FileNotFoundError, NotADirectoryError):
        absolute_path(path)  # whose directory may be gone
        raise IndexFormatError(
            f"{path} is not a directory; make an index first (see: splade-edge index --help)"
        ) from None
    except ValueError as error:
        raise IndexFormatError(f"cannot open {path}: {error}") from None
    root = directory.root
    if (root / ARTIFACT_MANIFEST).is_file() and not (root / MANIFEST_NAME).is_file():
        directory.release()
        what = "a pair of encoders" if is_pair(path) else "an encoder"
        raise IndexFormatError(
            f"{path} is {what}, not an index; make one with: splade-edge index {path} corpus.jsonl -o INDEX"
        )
    return directory


def _let_go(segments: Iterable[Segment], directory: Directory) -> None:
    close_all(segments)
    directory.release()


def _is_still(mask: npt.ArrayLike, data: bytes) -> bool:
    """Whether a mask has the bytes that it had: comparing these is faster than comparing arrays."""
    array = np.asarray(mask)
    return array.dtype == np.bool_ and array.shape == (len(data),) and array.tobytes() == data


def _mask(allowed: npt.ArrayLike, documents: int) -> npt.NDArray[np.bool_]:
    mask = np.asarray(allowed)
    if mask.dtype != np.bool_ or mask.shape != (documents,):
        raise InputError(
            f"allowed is an array of {mask.dtype} of shape {mask.shape}; "
            f"give one bool for each of the {documents} documents"
        )
    return np.ascontiguousarray(mask)
