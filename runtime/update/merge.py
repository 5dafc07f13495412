"""Merging segments into one: the documents that are not deleted, in their order. Impacts are copied, so scores stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..build import clustering, inversion
from ..build.documents_writer import DocumentWriter
from ..build.fields_writer import FieldWriter
from ..build.limits import BLOCK_MAX_FROM
from ..build.postings_writer import BYTES_A_POSTING, SegmentFiles, move, term_range, write_array
from ..build.reordering import directions, similar_first, term_weights
from ..build.segment_writer import write_spans
from ..directory import AnyPath
from ..errors import IntegrityError
from ..files import operations, storage_errors
from ..filters import parse_field
from ..index.layout import DOCUMENTS_FILE, FIELDS_FILE, FREQUENT, SegmentEntry, SegmentSettings
from ..index.segment import Segment
from ..numba_support.arrays import U32, Bools
from ..scorer import RANGE_BITS

_SKETCH_BYTES = 4 * clustering.DIMENSIONS  # of the sums of a unit


class Source(NamedTuple):
    """A segment to merge.

    Attributes
    ----------
    segment
        The segment, open.
    deleted
        bool ``[documents]``, which of its documents are deleted; None: none.
    """

    segment: Segment
    deleted: Bools | None


def merge_segments(
    root: AnyPath,
    path: str,
    sources: Sequence[Source],
    settings: SegmentSettings,
    scale: float,
    memory_bytes: int,
) -> SegmentEntry:
    """Write one segment of several.

    Parameters
    ----------
    root
        The directory of the index.
    path
        The new segment's directory, relative to ``root``. It is made.
    sources
        The segments to merge, in order.
    settings
        The settings of the index.
    scale
        Weight of one impact step, the same in all sources.
    memory_bytes
        Memory for postings.

    Returns
    -------
    SegmentEntry
        The new segment's entry for the manifest.

    Raises
    ------
    IntegrityError
        If a source is damaged.
    StorageError
        If the system refuses to read or write.
    """
    directory = root / path
    for source in sources:
        source.segment.check_posting_files()
    with storage_errors(root):
        operations.make_directory(directory)
    documents = _merge_documents(directory, sources, settings)
    merge = _PostingMerge(sources, memory_bytes // BYTES_A_POSTING)
    if settings.passages:
        _merge_spans(directory, sources)
    large = merge.units >= BLOCK_MAX_FROM
    with storage_errors(directory):
        new_units = _write_order(directory, merge, scale, memory_bytes) if settings.reorder and large else None
        frequent = max(1, merge.units // FREQUENT) if settings.block_max and large else None
        with SegmentFiles(directory, merge.units, frequent) as out:
            for _, list_ptr, units, impacts in merge:
                if new_units is not None:
                    move(list_ptr, units, impacts, new_units)
                elif any(source.segment.original.size for source in sources):
                    move(list_ptr, units, impacts, np.arange(merge.units, dtype=np.uint32))
                out.append(list_ptr, units, impacts)
            postings, blocks = out.close_pointers()
    return SegmentEntry(
        path=path,
        documents=documents,
        units=merge.units,
        postings=postings,
        blocks=blocks,
        rows=out.rows,
        occupied=out.occupied,
        passages=settings.passages,
        reordered=new_units is not None,
    )


def _merge_documents(directory: AnyPath, sources: Sequence[Source], settings: SegmentSettings) -> int:
    """Copy the documents that are not deleted; returns how many."""
    documents = DocumentWriter(directory / DOCUMENTS_FILE)
    fields = FieldWriter(directory / FIELDS_FILE, [parse_field(name) for name in settings.fields])
    try:
        for segment, deleted in sources:
            for rows in segment.documents.rows():
                for added in documents.copy([r for r in rows if deleted is None or not deleted[r.ordinal]]):
                    fields.add(added)
        documents.close()
        fields.close(documents.count)
    except BaseException:
        documents.abandon()
        fields.abandon()
        raise
    return documents.count


def _merge_spans(directory: AnyPath, sources: Sequence[Source]) -> None:
    owners: list[npt.NDArray[np.int64]] = []
    spans: list[npt.NDArray[np.uint32]] = [np.empty((0, 2), np.uint32)]
    first = 0
    for segment, deleted in sources:
        assert segment.unit_documents is not None
        assert segment.unit_spans is not None
        kept = np.ones(segment.entry.documents, np.bool_) if deleted is None else ~deleted
        alive = kept[segment.unit_documents]
        owners.append((np.cumsum(kept) - 1 + first)[segment.unit_documents[alive]])
        spans.append(segment.unit_spans[alive])
        first += int(np.count_nonzero(kept))
    write_spans(directory, np.concatenate([np.empty(0, np.int64), *owners]), np.concatenate(spans))


class _PostingMerge:
    """Iterates over the postings of all sources, a range of terms at a time, any number of times.

    Items are (first term, list_ptr int64, units uint32, impacts uint8). Units are numbered in the order of insertion,
    without those that are deleted; ``units`` is their number. They ascend in each list, unless a source is reordered.
    """

    def __init__(self, sources: Sequence[Source], capacity: int) -> None:
        self._segments = [source.segment for source in sources]
        self._capacity = capacity
        self._numbers: list[tuple[U32, Bools | None]] = []  # by docid of a source: the new unit, and whether it is left
        self.units = 0
        for segment, deleted in sources:
            alive = np.ones(segment.units, np.bool_)
            if deleted is not None:
                alive = ~deleted if segment.unit_documents is None else ~deleted[segment.unit_documents]
            numbers = (np.cumsum(alive) - 1 + self.units).astype(np.uint32)
            self.units += int(np.count_nonzero(alive))
            order = segment.original if segment.original.size else slice(None)
            self._numbers.append((numbers[order], None if deleted is None else alive[order]))
        self.vocab_size = self._segments[0].vocab_size
        # postings of terms before t, in each source
        self._pointers = [s.block_postings[s.term_blocks].astype(np.int64) for s in self._segments]
        self.sizes = np.sum([np.diff(pointers) for pointers in self._pointers], axis=0)

    def __iter__(self) -> Iterator[tuple[int, npt.NDArray[np.int64], npt.NDArray[np.uint32], npt.NDArray[np.uint8]]]:
        first = 0
        while first < self.vocab_size:
            last = term_range(self.sizes, first, self._capacity)
            yield (first, *self._range(first, last))
            first = last

    def _range(
        self, first: int, last: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
        counts = np.zeros(last - first, np.int64)
        parts = []
        for segment, (numbers, alive), pointers in zip(self._segments, self._numbers, self._pointers, strict=True):
            docids, impacts = _postings(segment, first, last)
            if alive is not None:
                impacts[~alive[docids]] = 0  # place_run omits them
            inversion.count_kept(pointers, impacts, first, counts)
            postings = numbers[docids].astype(np.uint64)
            postings <<= np.uint64(32)  # the form that runs have
            parts.append((postings, impacts, pointers))
        list_ptr = np.zeros(counts.size + 1, np.int64)
        np.cumsum(counts, out=list_ptr[1:])
        units, merged = np.empty(int(list_ptr[-1]), np.uint32), np.empty(int(list_ptr[-1]), np.uint8)
        position = list_ptr[:-1].copy()
        for postings, impacts, pointers in parts:
            inversion.place_run(pointers, postings, impacts, first, position, units, merged)
        return list_ptr, units, merged


def _postings(segment: Segment, first: int, last: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
    """The postings of terms first..last-1, in the segment's own order: docids uint32, impacts (a copy)."""
    a, b = int(segment.term_blocks[first]), int(segment.term_blocks[last])
    lengths = np.diff(segment.block_postings[a : b + 1]).astype(np.int64)
    start, end = int(segment.block_postings[a]), int(segment.block_postings[b])
    docids = np.repeat(segment.block_windows[a:b].astype(np.uint32) << np.uint32(RANGE_BITS), lengths)
    docids |= segment.posting_units[start:end]
    if docids.size and int(docids.max()) >= segment.units:
        raise IntegrityError(f"{segment.root / segment.entry.path} has postings of units beyond the last")
    return docids, segment.posting_impacts[start:end].copy()


def _write_order(directory: AnyPath, merge: _PostingMerge, scale: float, memory_bytes: int) -> U32:
    """Write the docid permutation of reordering.py; returns its inverse: the new number of each unit."""
    weights = term_weights(merge.sizes, merge.units, merge.units // FREQUENT)
    signs = directions(merge.vocab_size)
    path = directory / "sketches"
    at_once = max(BLOCK_MAX_FROM, memory_bytes // _SKETCH_BYTES)
    with operations.create(path) as file:
        for low in range(0, merge.units, at_once):
            sums = np.zeros((min(at_once, merge.units - low), clustering.DIMENSIONS), np.float32)
            for first, list_ptr, units, impacts in merge:
                clustering.add_postings(list_ptr, units, impacts, scale, first, signs, weights, low, sums)
            sketches = np.empty(sums.shape, np.int8)
            clustering.round_sketches(sums, sketches)
            write_array(file, sketches)
    with path.open("rb") as sketched:
        original = similar_first(np.memmap(sketched, np.int8, "r", shape=(merge.units, clustering.DIMENSIONS)))
    operations.remove(path)
    with operations.create(directory / "original_units.u32") as file:
        write_array(file, original)
    new_units = np.empty_like(original)
    new_units[original] = np.arange(original.size, dtype=np.uint32)
    return new_units
