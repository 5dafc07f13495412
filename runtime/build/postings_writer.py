"""Writing the postings of a segment in bounded memory: collect vectors, spill inverted runs, merge them by term.

This is the sort-based inversion with runs on disk of Witten, Moffat & Bell ("Managing Gigabytes", 1999). A run is a
buffer of vectors sorted by term. Runs are made in the order of the units, so merging a term is a concatenation. Peak
memory is about ``memory_bytes``, plus for each run an array of the size of the vocabulary. Weights stay float32 until
the merge, because the scale (largest weight / 255) is known only at the end.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ..directory import AnyPath
from ..errors import InputError
from ..files import operations, storage_errors
from ..scorer import RANGE_BITS
from ..vectors import SparseBatch
from . import inversion
from ..index.checksum import checksum
from ..index.layout import FREQUENT, KTH_LEVELS, MAX_IMPACT, MAX_UNITS, NO_SCALE, SEGMENT_ARRAYS, chunks, spans
from .limits import DEFAULT_MEMORY
from .reordering import Sketcher

# Bytes at the peak: buffering and inverting take 8 + 8 a posting, merging 8 + 1 + 4 + 1 + 2 beside the last run's 8.
BYTES_A_POSTING = 24
_MIN_MEMORY = 8 << 20


@dataclass(frozen=True)
class PostingCounts:
    """What was written.

    Attributes
    ----------
    units
        Vectors.
    postings
        Impacts that are not 0.
    blocks
        Posting list segments.
    rows
        Terms with block-max data.
    occupied
        Blocks with a posting, over all these terms.
    scale
        Weight of one impact step.
    empty
        Vectors without terms.
    below_half_a_step
        Weights that were rounded to 0.
    clipped
        Weights above 255 steps.
    """

    units: int
    postings: int
    blocks: int
    rows: int
    occupied: int
    scale: float
    empty: int
    below_half_a_step: int
    clipped: int


@dataclass(frozen=True)
class _Run:
    """A buffer of vectors in term order.

    ``term_ptr`` is int64 ``[vocab + 1]``. ``postings`` is uint64: the unit in the high half, the bits of the float32
    weight in the low half. A spilled run has the path of their file instead. The file is read a range at a time and not
    mapped, because mapped pages would count as memory of this process.
    """

    term_ptr: npt.NDArray[np.int64]
    postings: npt.NDArray[np.uint64] | AnyPath

    def range_of(self, first: int, last: int) -> npt.NDArray[np.uint64]:
        """The postings of terms first..last-1."""
        a, b = int(self.term_ptr[first]), int(self.term_ptr[last])
        if isinstance(self.postings, np.ndarray):
            return self.postings[a:b]
        with self.postings.open("rb") as file:
            return np.fromfile(file, np.uint64, b - a, offset=a * 8)


class _Buffer:
    """Vectors that wait to be inverted, at most ``capacity`` postings.

    Its memory is allocated once, because fresh pages for each run would cost as much as filling them.
    """

    def __init__(self, capacity: int, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._indices = np.empty(capacity, np.int32)
        self._weights = np.empty(capacity, np.uint32)  # the bits of float32
        self._inverted = np.empty(0, np.uint64)
        self._lengths: list[npt.NDArray[np.int64]] = []
        self.room = capacity
        self.rows = 0

    def take(self, indptr: npt.NDArray[np.int64], indices: npt.NDArray[np.int32], bits: npt.NDArray[np.uint32]) -> int:
        """Copy as many of the first rows as fit; returns how many.

        ``indptr`` may start at any value; it is the offset of the first row in the other two arrays.
        """
        rows = int(np.searchsorted(indptr, indptr[0] + self.room, side="right")) - 1
        a, b = int(indptr[0]), int(indptr[rows])
        at = self._indices.size - self.room
        self._indices[at : at + b - a] = indices[a:b]
        self._weights[at : at + b - a] = bits[a:b]
        self._lengths.append(np.diff(indptr[: rows + 1]))
        self.room -= b - a
        self.rows += rows
        return rows

    def vectors(self) -> SparseBatch:
        """The vectors in the buffer; valid until :meth:`invert`."""
        size = self._indices.size - self.room
        indptr = np.zeros(self.rows + 1, np.int64)
        if self._lengths:
            np.cumsum(np.concatenate(self._lengths), out=indptr[1:])
        return SparseBatch(indptr, self._indices[:size], self._weights[:size].view(np.float32))

    def invert(self, batch: SparseBatch, first_unit: int) -> _Run:
        """Invert ``vectors()`` into a run, valid until the next call, and empty the buffer."""
        term_ptr = np.zeros(self._vocab_size + 1, np.int64)
        if self._inverted.size < batch.indices.size:
            self._inverted = np.empty(batch.indices.size, np.uint64)
        postings = self._inverted[: batch.indices.size]
        inversion.invert_run(batch.indptr, batch.indices, batch.values.view(np.uint32), first_unit, term_ptr, postings)
        self._lengths.clear()
        self.room, self.rows = self._indices.size, 0
        return _Run(term_ptr, postings)


class PostingWriter:
    """Collects the vectors of units in order and writes the posting files of a segment.

    Parameters
    ----------
    directory
        The directory of the segment.
    vocab_size
        The number of terms.
    memory_bytes
        Memory for the buffers, at least 8 MiB.
    scale
        Weight of one impact step; None: largest weight / 255.
    block_max
        Whether block-max data of the frequent terms is written.
    reorder
        Whether similar units are put next to each other, see reordering.py. It takes 8 bytes more for each unit, and a
        sample.

    Raises
    ------
    InputError
        For a scale that is not a positive number, or too little memory.
    """

    def __init__(
        self,
        directory: AnyPath,
        vocab_size: int,
        *,
        memory_bytes: int = DEFAULT_MEMORY,
        scale: float | None = None,
        block_max: bool = True,
        reorder: bool = False,
    ) -> None:
        if scale is not None and not (0.0 < scale < float("inf")):
            raise InputError(f"scale {scale} is not a positive number")
        if memory_bytes < _MIN_MEMORY:
            raise InputError(f"indexing needs at least {_MIN_MEMORY >> 20}M of memory; raise --memory")
        self._directory = directory
        self._scratch = directory / "runs"
        self._vocab_size = vocab_size
        self._scale = scale
        self._block_max = block_max
        self._sketches = Sketcher(self._scratch / "sketches", vocab_size) if reorder else None
        self._capacity = memory_bytes // BYTES_A_POSTING
        # A vector may be longer than a small buffer. The system provides memory only for pages that are written.
        self._buffer = _Buffer(max(self._capacity, vocab_size), vocab_size)
        self._runs: list[_Run] = []
        self._largest = 0.0
        self._empty = 0
        self.units = 0

    def add(self, batch: SparseBatch) -> None:
        """Append the vectors of the next units.

        Parameters
        ----------
        batch
            The vectors.

        Raises
        ------
        InputError
            For terms outside the vocabulary or not strictly ascending, for weights that are not positive and finite,
            and for more units than a segment holds.
        StorageError
            If a run cannot be written.
        """
        batch = SparseBatch(
            np.ascontiguousarray(batch.indptr, np.int64),
            np.ascontiguousarray(batch.indices, np.int32),
            np.ascontiguousarray(batch.values, np.float32),
        )
        code, row = inversion.validate_batch(batch.indptr, batch.indices, batch.values, self._vocab_size)
        if code != inversion.OK:
            reason = {
                inversion.BAD_POINTERS: "indptr does not match indices and values",
                inversion.BAD_TERM: f"a term id outside the vocabulary of {self._vocab_size}",
                inversion.UNSORTED: "term ids that are not strictly ascending",
                inversion.BAD_WEIGHT: "a weight that is not positive and finite",
            }[code]
            raise InputError(f"vector {self.units + row} has {reason}")
        if self.units + len(batch) > MAX_UNITS:
            raise InputError(f"a segment holds at most {MAX_UNITS} documents or passages; split the corpus")
        bits = batch.values.view(np.uint32)
        row = 0
        while row < len(batch):
            taken = self._buffer.take(batch.indptr[row:], batch.indices, bits)
            self.units += taken
            row += taken
            if row < len(batch):
                self._spill()
        self._empty += int((np.diff(batch.indptr) == 0).sum())
        if batch.values.size:
            self._largest = max(self._largest, float(batch.values.max()))

    def _invert_pending(self) -> _Run:
        batch = self._buffer.vectors()
        if self._sketches is not None:
            with storage_errors(self._directory):
                self._sketches.add(batch)
        return self._buffer.invert(batch, self.units - len(batch))

    def _spill(self) -> None:
        """Write the buffer as an inverted run."""
        if not self._buffer.rows:
            return
        run = self._invert_pending()
        with storage_errors(self._directory):
            self._scratch.mkdir(exist_ok=True)
            path = self._scratch / f"{len(self._runs):06d}.postings"
            with operations.create(path) as f:
                write_array(f, run.postings)  # type: ignore[arg-type]
            self._runs.append(_Run(run.term_ptr, path))

    def finish(self, progress: Callable[[float], None] | None = None, block_max_from: int = 0) -> PostingCounts:
        """Merge the runs and write the files.

        Parameters
        ----------
        progress
            Receives the share of terms that are merged, 0 to 1.
        block_max_from
            With fewer units there is no block-max data.

        Returns
        -------
        PostingCounts
            What was written.

        Raises
        ------
        StorageError
            If a file cannot be written.
        """
        runs = [*self._runs, self._invert_pending()]  # the last run stays in memory
        del self._buffer
        scale = self._scale or (self._largest / MAX_IMPACT) or NO_SCALE
        with storage_errors(self._directory), self._open_files(block_max_from) as files:
            new_units = None
            if self._sketches is not None:
                new_units = self._write_order(self._sketches.order())
            sizes = np.zeros(self._vocab_size, np.int64)
            for run in runs:
                sizes += np.diff(run.term_ptr)
            first = 0
            while first < self._vocab_size:
                last = term_range(sizes, first, self._capacity)
                list_ptr, units, impacts = self._merge(runs, first, last, scale, files)
                if new_units is not None:
                    move(list_ptr, units, impacts, new_units)
                files.append(list_ptr, units, impacts)
                first = last
                if progress is not None:
                    progress(first / self._vocab_size)
            postings, blocks = files.close_pointers()
        self._runs = []
        if self._scratch.is_dir():
            with contextlib.suppress(OSError):
                operations.remove(self._scratch)
        return PostingCounts(
            self.units,
            postings,
            blocks,
            files.rows,
            files.occupied,
            scale,
            self._empty,
            files.below_half_a_step,
            files.clipped,
        )

    def _open_files(self, block_max_from: int) -> SegmentFiles:
        wanted = self._block_max and self.units >= block_max_from
        frequent = max(1, self.units // FREQUENT) if wanted else None
        return SegmentFiles(self._directory, self.units, frequent)

    def _write_order(self, original: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        """Write the docid permutation; returns its inverse: the new number of each unit."""
        with operations.create(self._directory / "original_units.u32") as file:
            write_array(file, original)
        new_units = np.empty_like(original)
        new_units[original] = np.arange(original.size, dtype=np.uint32)
        return new_units

    def _merge(
        self, runs: list[_Run], first: int, last: int, scale: float, files: SegmentFiles
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
        """Postings of the terms first..last-1 over all runs: (list_ptr [terms + 1], units, impacts)."""
        counts = np.zeros(last - first, np.int64)
        quantized = []
        for run in runs:
            postings = run.range_of(first, last)
            impacts = np.empty(postings.size, np.uint8)
            dropped, clipped = inversion.quantize(postings.view(np.float32), scale, impacts)
            files.below_half_a_step += int(dropped)
            files.clipped += int(clipped)
            inversion.count_kept(run.term_ptr, impacts, first, counts)
            quantized.append((postings, impacts))
        list_ptr = np.zeros(counts.size + 1, np.int64)
        np.cumsum(counts, out=list_ptr[1:])
        units = np.empty(int(list_ptr[-1]), np.uint32)
        merged = np.empty(units.size, np.uint8)
        position = list_ptr[:-1].copy()
        for run, (postings, impacts) in zip(runs, quantized, strict=True):
            inversion.place_run(run.term_ptr, postings, impacts, first, position, units, merged)
        return list_ptr, units, merged


class SegmentFiles:
    """The open posting files of a segment. Terms are appended in ascending order. A context manager.

    Parameters
    ----------
    directory
        The directory of the segment.
    units
        The number of units.
    frequent
        Terms of at least this many postings get a row of block-max data; None: no term does.
    """

    def __init__(self, directory: AnyPath, units: int, frequent: int | None) -> None:
        self._directory = directory
        self._units = units
        self._frequent = frequent
        self._files: dict[str, BinaryIO] = {}
        self._terms = 0
        self._postings = 0
        self._blocks = 0
        self.rows = 0
        self.occupied = 0
        self.below_half_a_step = 0
        self.clipped = 0

    def __enter__(self) -> SegmentFiles:
        for name, spec in SEGMENT_ARRAYS.items():
            if spec.only is None:
                self._files[name] = operations.create(self._directory / name)
        self._write("term_blocks.u64", np.zeros(1, np.uint64))
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def append(
        self, list_ptr: npt.NDArray[np.int64], units: npt.NDArray[np.uint32], impacts: npt.NDArray[np.uint8]
    ) -> None:
        """Write the posting lists of the next terms.

        Parameters
        ----------
        list_ptr
            int64 ``[terms + 1]``, the range of each list.
        units
            uint32 ``[postings]``, ascending in each list.
        impacts
            uint8 ``[postings]``, at least 1.

        Raises
        ------
        OSError
            If a file cannot be written.
        """
        terms = list_ptr.size - 1
        windows_in_all = (int(units.max()) >> RANGE_BITS) + 1 if units.size else 0
        most = int(np.minimum(np.diff(list_ptr), windows_in_all).sum())
        local = np.empty(units.size, np.uint16)
        windows, starts = np.empty(most, np.uint16), np.empty(most, np.uint64)
        maxima, blocks_of = np.empty(most, np.uint8), np.empty(terms, np.int64)
        blocks = inversion.split_posting_lists(list_ptr, units, impacts, RANGE_BITS, local, windows, starts, maxima, blocks_of)
        kth = np.empty((terms, len(KTH_LEVELS)), np.uint8)
        inversion.kth_impacts(list_ptr, impacts, np.array(KTH_LEVELS, np.int64), kth)
        checksums = np.fromiter(
            (
                checksum(local[a:b], impacts[a:b])
                for a, b in zip(list_ptr[:-1].tolist(), list_ptr[1:].tolist(), strict=True)
            ),
            np.uint32,
            terms,
        )
        self._write("term_blocks.u64", (np.cumsum(blocks_of) + self._blocks).astype(np.uint64))
        self._write("term_impacts.u8", kth)
        self._write("term_checksums.u32", checksums)
        self._write("block_windows.u16", windows[:blocks])
        self._write("block_impacts.u8", maxima[:blocks])
        self._write("block_postings.u64", starts[:blocks] + np.uint64(self._postings))
        self._write("posting_units.u16", local)
        self._write("posting_impacts.u8", impacts)
        if self._frequent is not None:
            for term in np.flatnonzero(np.diff(list_ptr) >= self._frequent).tolist():
                a, b = int(list_ptr[term]), int(list_ptr[term + 1])
                self._append_row(self._terms + term, units[a:b], impacts[a:b])
        self._terms += terms
        self._postings += int(units.size)
        self._blocks += int(blocks)

    def _append_row(self, term: int, units: npt.NDArray[np.uint32], impacts: npt.NDArray[np.uint8]) -> None:
        maxima, offsets = np.empty(chunks(self._units), np.uint8), np.empty(chunks(self._units), np.uint8)
        bases = np.empty(spans(self._units), np.uint16)
        inversion.block_max_row(units, impacts, maxima, bases, offsets)
        self._write("chunk_terms.u32", np.array([term], np.uint32))
        self._write("chunk_checksums.u32", np.array([checksum(maxima, bases, offsets)], np.uint32))
        self._write("chunk_impacts.u8", maxima)
        self._write("span_postings.u16", bases)
        self._write("chunk_postings.u8", offsets)
        self.rows += 1
        self.occupied += int(np.count_nonzero(maxima))

    def close_pointers(self) -> tuple[int, int]:
        """Write the end of the last posting list segment.

        Returns
        -------
        (int, int)
            The numbers of postings and of posting list segments.
        """
        self._write("block_postings.u64", np.array([self._postings], np.uint64))
        return self._postings, self._blocks

    def _write(self, name: str, array: npt.NDArray[np.generic]) -> None:
        write_array(self._files[name], np.ascontiguousarray(array, dtype=SEGMENT_ARRAYS[name].dtype))


def move(
    list_ptr: npt.NDArray[np.int64],
    units: npt.NDArray[np.uint32],
    impacts: npt.NDArray[np.uint8],
    new_units: npt.NDArray[np.uint32],
) -> None:
    """Renumber the units of posting lists and sort each list by the new numbers, in new_units.

    Parameters
    ----------
    list_ptr
        int64 ``[lists + 1]``, the range of each list.
    units
        uint32 ``[postings]``, replaced.
    impacts
        uint8 ``[postings]``, permuted along with the units.
    new_units
        uint32 ``[units]``, the new number of each unit.
    """
    for a, b in itertools.pairwise(list_ptr.tolist()):
        keys = (new_units[units[a:b]].astype(np.uint64) << np.uint64(8)) | impacts[a:b]
        keys.sort()
        units[a:b] = keys >> np.uint64(8)
        impacts[a:b] = keys.astype(np.uint8)


def write_array(file: BinaryIO, array: npt.NDArray[Any]) -> None:
    """Append the bytes of an array to a file.

    Parameters
    ----------
    file
        The file, open for writing.
    array
        A contiguous array.
    """
    operations.write(file, array.reshape(-1).view(np.uint8).data)


def term_range(sizes: npt.NDArray[np.int64], first: int, capacity: int) -> int:
    """Find the longest range of terms whose postings fit the buffer; it has at least one term.

    Parameters
    ----------
    sizes
        int64 ``[vocab]``, the postings of each term.
    first
        The first term of the range.
    capacity
        The most postings.

    Returns
    -------
    int
        The end of the range.
    """
    end = int(np.searchsorted(np.cumsum(sizes[first:]), capacity, side="right")) + first
    return min(max(end, first + 1), sizes.size)
