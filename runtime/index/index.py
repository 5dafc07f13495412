"""An open index: top k documents of a query vector, stored documents, and the contribution of each term."""

from __future__ import annotations

import heapq
import itertools
import warnings
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
from .segment_view import Found, LiveSegment, close_all, merged, open_segments

if TYPE_CHECKING:
    from ..filters.fields import FieldCounts
    from ..filters.predicate import Predicate
    from ..filters.selection import IndexSelector, Selection

Vector: TypeAlias = SparseVector | tuple[npt.ArrayLike, npt.ArrayLike]
_TOGETHER = 512  # queries handed to the threads at a time


class Index:
    """One generation of an index directory, memory-mapped. Safe from several threads.

    Opening validates the manifest, all file sizes and all pointers; a posting list is checked against its checksum when
    it is first read; :meth:`check` reads everything. Whatever a writer commits meanwhile, an open index stays as it is;
    :meth:`refresh` opens what is newest. Documents that are deleted are not there: ordinals and units count what is
    left, as in an index built of these documents alone.

    The directory is held open, so it may be moved; ``path`` is absolute, and says where it lay. A closed index refuses
    everything with an InputError.
    """

    def __init__(self, directory: Directory, manifest: IndexManifest, previous: Index | None = None) -> None:
        self.path = directory.path
        self.manifest = manifest
        self._directory = directory
        known = () if previous is None else previous.segments
        self._segments: list[LiveSegment] = open_segments(directory.root, manifest, known)
        self._close = weakref.finalize(self, _let_go, [live.segment for live in self._segments], directory.hold())
        self._first_documents = np.array([live.first_document for live in self._segments], np.int64)
        self._first_units = np.array([live.first_unit for live in self._segments], np.int64)
        self._documents = sum(live.documents for live in self._segments)
        self._units = sum(live.units for live in self._segments)
        # what was given, its bytes then (None: they are so for ever), and what came of it
        self._latest_filter: tuple[npt.ArrayLike | None, bytes | None, list[AllowedUnits | None]] = None, None, []
        self._known: dict[bytes, IndexManifest] = {}  # our manifest by the bytes it was read as; never changed

    @classmethod
    def open(cls, path: str | Path) -> Index:
        """Open an index. Raises IndexFormatError (not an index, too new) or IntegrityError (damaged)."""
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
        """The newest generation: this very index if nothing was committed since it was opened, else a new one, which
        shares with this one the segments that are still in use. This one stays open, and as it is.

        It is of the directory that was opened, wherever that lies by now. Raises IndexReplacedError where another
        directory has taken its place, and what :meth:`open` does.
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
        """The newest generation in a directory that is held open; what it shares with ``previous`` is not opened again.
        Raises what :meth:`open` does.
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
    def segments(self) -> list[LiveSegment]:
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

    def search_vectors(
        self, terms: npt.ArrayLike, weights: npt.ArrayLike, k: int = 10, **options: Any
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.float64]]:
        """The former name of :meth:`search_vector`, with the vector as two parameters. It goes with 0.1.0."""
        warnings.warn("use Index.search_vector((terms, weights), k)", DeprecationWarning, stacklevel=2)
        return self.search_vector((terms, weights), k, **options)

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
        for live, units in zip(segments, passing, strict=True):
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
            live.allow(mask[live.first_document : live.first_document + live.documents]) for live in self.segments
        ]
        if is_frozen(allowed):
            self._latest_filter = allowed, None, passing
        elif isinstance(allowed, np.ndarray) and allowed.base is None and not allowed.flags.writeable:
            self._latest_filter = allowed, mask.tobytes(), passing  # it can be made writable, and read-only again
        return passing

    def select(self, where: str | Predicate) -> Selection:
        """The documents that satisfy a filter such as ``year >= 2020 and lang = "en"``, for ``allowed``.

        Fields that were indexed are answered from their index; others by reading the documents. The latest answers are
        kept. Raises WhereError (an InputError that names the column), IntegrityError.
        """
        self._refuse_closed()
        return self._selector.select(where)

    @cached_property
    def _selector(self) -> IndexSelector:
        with undivided:
            from ..filters.selection import IndexSelector

        return IndexSelector([live.selector for live in self._segments])

    @property
    def fields(self) -> dict[str, FieldCounts]:
        """The stored fields by name: how many documents have a number, a string, a boolean in each, and whether it has
        an index. Empty for an index made before these were kept.
        """
        self._refuse_closed()
        with undivided:
            from ..filters.formatting import spell_field

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
        IntegrityError, or IndexReplacedError where a writer has removed files of this generation meanwhile.
        """
        self._refuse_closed()
        try:
            with self._directory.held():
                check_hashes(self._directory.root, self.manifest.files)
            for live in self.segments:
                live.segment.check()
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
