"""An open index: top k documents of a query vector, stored documents, and the contribution of each term."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..artifact import MANIFEST_NAME as ARTIFACT_MANIFEST
from ..artifact import is_pair
from ..corpus import Document
from ..errors import IndexFormatError, InputError, IntegrityError
from ..manifest import check_hashes, check_sizes, read_manifest
from ..scorer.either import Scorer
from ..scorer.query import AllowedUnits
from ..threads import resolve_threads
from ..vectors import SparseVector
from ..where import Predicate
from ..where.spelling import spell_field
from .fields import FieldCounts
from .layout import INDEX_FORMAT, MANIFEST_NAME, VERSION, IndexManifest
from .segment import Segment, refuse_future
from .select import Selection, Selector

_TOGETHER = 512  # queries handed to the threads at a time


class Index:
    """An index directory, memory-mapped. Safe from several threads.

    Opening validates the manifest, all file sizes and all pointers; a posting list is checked against its checksum when
    it is first read; :meth:`check` reads everything.
    """

    def __init__(self, path: Path, manifest: IndexManifest) -> None:
        self.path = path
        self.manifest = manifest
        self._segment = Segment(path, manifest, manifest.segments[0])
        self._scorer = Scorer(self._segment)
        self._selector = Selector(self._segment.documents, self._segment.fields)
        self._latest_filter: tuple[npt.NDArray[np.bool_] | None, AllowedUnits | None] = (None, None)

    @classmethod
    def open(cls, path: str | Path) -> Index:
        """Open an index. Raises IndexFormatError (not an index, too new) or IntegrityError (damaged)."""
        path = Path(path)
        if not path.is_dir():
            raise IndexFormatError(f"{path} is not a directory; make an index first (see: splade-edge index --help)")
        if (path / ARTIFACT_MANIFEST).exists() and not (path / MANIFEST_NAME).exists():
            what = "a pair of encoders" if is_pair(path) else "an encoder"
            raise IndexFormatError(
                f"{path} is {what}, not an index; make one with: splade-edge index {path} corpus.jsonl -o INDEX"
            )
        while True:
            manifest = _read(path)
            try:
                index = cls._open_once(path, manifest)
            except IntegrityError:
                if _read(path) == manifest:
                    raise
                continue  # replaced by a writer while we opened it
            if _read(path) == manifest:
                return index
            index.close()

    @classmethod
    def _open_once(cls, path: Path, manifest: IndexManifest) -> Index:
        refuse_future(manifest, path)
        check_sizes(path, manifest.files)
        check_hashes(path, {name: entry for name, entry in manifest.files.items() if name.endswith(ARTIFACT_MANIFEST)})
        return cls(path, manifest)

    def close(self) -> None:
        """Close the stored documents; the index cannot be used afterwards. Its memory maps go with the object."""
        self._segment.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Number of documents."""
        return self.manifest.segments[0].documents

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
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise InputError(f"k is {k!r}; ask for at least 1 result")
        keep = 1.0 if approximate is None else float(approximate)
        if not 0.0 < keep <= 1.0:
            raise InputError(f"approximate is {approximate!r}; give a share above 0, up to 1 (which is exact)")
        k = ask = int(k)
        owners = self._segment.unit_documents
        passing = None if allowed is None else self._passing(allowed)
        units, scores = self._scorer.search(terms, weights, ask, passing, keep)
        if owners is None:
            return units, units, scores * self.manifest.scale
        while True:
            # A document's best passage is its first in the list, so a list with k documents has the k best.
            ordinals, first = np.unique(owners[units], return_index=True)
            if ordinals.size >= k or units.size < ask:
                break
            ask *= 4
            units, scores = self._scorer.search(terms, weights, ask, passing, keep)
        best = np.sort(first)[:k]
        return owners[units[best]], units[best], scores[best] * self.manifest.scale

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
        with ThreadPoolExecutor(resolve_threads(threads)) as pool:
            while some := list(islice(waiting, _TOGETHER)):
                yield from pool.map(answer, some)

    def _passing(self, allowed: npt.ArrayLike) -> AllowedUnits:
        """The filter for the scorer. That of a read-only mask is kept, for the next query that comes with it."""
        kept_mask, kept = self._latest_filter
        if kept_mask is allowed and kept is not None:
            return kept
        mask = _mask(allowed, len(self))
        owners = self._segment.unit_documents
        passing = self._scorer.allow(mask if owners is None else mask[owners])
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
        fields = self._segment.fields
        return {} if fields is None else {spell_field(field): counts for field, counts in fields.counts.items()}

    def documents(self, ordinals: Sequence[int] | npt.NDArray[np.integer]) -> list[Document]:
        """The stored documents of these ordinals. Raises InputError (out of range) or IntegrityError (damaged)."""
        return self._segment.documents.get([int(o) for o in ordinals])

    @cached_property
    def terms(self) -> npt.NDArray[np.int32]:
        """The terms that occur in the documents, int32, ascending. No other can earn a document any score."""
        return np.flatnonzero(np.diff(self._segment.term_blocks)).astype(np.int32)

    def find(self, document_id: str) -> int | None:
        """The ordinal of a document id, or None."""
        return self._segment.documents.find(document_id)

    def span(self, unit: int) -> tuple[int, int] | None:
        """(start, end) of a passage in characters of its document's text; None where units are documents."""
        spans = self._segment.unit_spans
        return None if spans is None else (int(spans[unit, 0]), int(spans[unit, 1]))

    def contributions(self, query: SparseVector, unit: int) -> npt.NDArray[np.float64]:
        """What each query term earned in a unit: weight x impact x scale, float64 ``[n]``."""
        impacts = np.array([self._segment.impact(int(term), unit) for term in query.indices], np.float64)
        return query.values.astype(np.float64) * impacts * self.manifest.scale

    def check(self) -> None:
        """Check every byte: hashes of all files, posting order and maxima, every stored document. Raises
        IntegrityError.
        """
        check_hashes(self.path, self.manifest.files)
        self._segment.check()


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
