"""Writing the postings of a segment in bounded memory: collect vectors, spill inverted runs, merge them by term.

Peak memory is about ``memory_bytes`` plus, a run, an array the size of the vocabulary. A run is a buffer of vectors
sorted by term; runs are made in unit order, so the merge is a concatenation a term. Weights stay float32 until the
merge, because the scale (largest weight / 255) is known only at the end.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..files import operations, storage_errors
from ..scorer import WINDOW_BITS
from ..vectors import SparseBatch
from . import invert
from .checksum import checksum
from .layout import FREQUENT, KTH_LEVELS, MAX_IMPACT, MAX_UNITS, SEGMENT_ARRAYS, chunks, spans
from .reorder import Sketcher

# Bytes at the peak: buffering and inverting take 8 + 8 a posting, merging 8 + 1 + 4 + 1 + 2 and block arrays.
BYTES_A_POSTING = 24
_MIN_MEMORY = 8 << 20


@dataclass(frozen=True)
class PostingCounts:
    """What was written: ``units``, ``postings``, ``blocks``, ``rows`` of block-max data and how many of their
    chunks are ``occupied``, the ``scale``, and what quantization did.
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
    """A buffer of vectors in term order: ``term_ptr`` int64 ``[V+1]``, ``units`` uint32 and ``weights`` float32.

    A spilled run has the files of the last two. They are read a range at a time, not mapped: pages of a map would count
    as our memory.
    """

    term_ptr: npt.NDArray[np.int64]
    units: npt.NDArray[np.uint32] | Path
    weights: npt.NDArray[np.float32] | Path

    def range_of(self, values: npt.NDArray[Any] | Path, dtype: npt.DTypeLike, first: int, last: int) -> Any:
        """The units or weights of terms first..last-1."""
        a, b = int(self.term_ptr[first]), int(self.term_ptr[last])
        if not isinstance(values, Path):
            return values[a:b]
        part = np.fromfile(values, dtype, b - a, offset=a * np.dtype(dtype).itemsize)
        part.flags.writeable = False  # as the arrays in memory are: one compiled kernel serves both
        return part


class PostingWriter:
    """Collects unit vectors in order and writes the posting files of a segment into ``directory``.

    ``scale``: weight of one impact step; None for largest weight / 255. ``memory_bytes`` bounds the buffers.
    ``block_max``: write block-max data of the frequent terms. ``reorder``: put similar units next to each other, see
    reorder.py; it holds 8 bytes a unit more, and a sample.
    """

    def __init__(
        self,
        directory: Path,
        vocab_size: int,
        *,
        memory_bytes: int = 512 << 20,
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
        self._pending: list[SparseBatch] = []
        self._pending_postings = 0
        self._pending_rows = 0
        self._runs: list[_Run] = []
        self._largest = 0.0
        self._empty = 0
        self.units = 0

    def add(self, batch: SparseBatch) -> None:
        """Append unit vectors, in unit order.

        Raises InputError for terms outside the vocabulary or not strictly ascending, weights not positive and finite.
        """
        batch = SparseBatch(
            np.ascontiguousarray(batch.indptr, np.int64),
            np.ascontiguousarray(batch.indices, np.int32),
            np.ascontiguousarray(batch.values, np.float32),
        )
        code, row = invert.validate_batch(batch.indptr, batch.indices, batch.values, self._vocab_size)
        if code != invert.OK:
            reason = {
                invert.BAD_POINTERS: "indptr does not match indices and values",
                invert.BAD_TERM: f"a term id outside the vocabulary of {self._vocab_size}",
                invert.UNSORTED: "term ids that are not strictly ascending",
                invert.BAD_WEIGHT: "a weight that is not positive and finite",
            }[code]
            raise InputError(f"vector {self.units + row} has {reason}")
        if self.units + len(batch) > MAX_UNITS:
            raise InputError(f"a segment holds at most {MAX_UNITS} documents or passages; split the corpus")
        for piece in self._pieces(batch):
            if self._pending_postings + piece.indices.size > self._capacity:
                self._spill()
            self._pending.append(piece)
            self._pending_postings += piece.indices.size
            self._pending_rows += len(piece)
            self.units += len(piece)
        self._empty += int((np.diff(batch.indptr) == 0).sum())
        if batch.values.size:
            self._largest = max(self._largest, float(batch.values.max()))

    def _pieces(self, batch: SparseBatch) -> list[SparseBatch]:
        """A batch cut so that no piece is more than a quarter of the buffer (a single row may be)."""
        limit = max(1, self._capacity // 4)
        if batch.indices.size <= limit:
            return [batch]
        pieces = []
        row = 0
        while row < len(batch):
            end = int(np.searchsorted(batch.indptr, batch.indptr[row] + limit, side="right")) - 1
            end = min(max(end, row + 1), len(batch))
            a, b = int(batch.indptr[row]), int(batch.indptr[end])
            pieces.append(SparseBatch(batch.indptr[row : end + 1] - a, batch.indices[a:b], batch.values[a:b]))
            row = end
        return pieces

    def _invert_pending(self) -> _Run:
        indptr = np.zeros(self._pending_rows + 1, np.int64)
        indices = np.empty(self._pending_postings, np.int32)
        values = np.empty(self._pending_postings, np.float32)
        row = at = 0
        while self._pending:  # pop as we copy, so that the pieces and the copy are not both held whole
            piece = self._pending.pop(0)
            indptr[row + 1 : row + len(piece) + 1] = piece.indptr[1:] + at
            indices[at : at + piece.indices.size] = piece.indices
            values[at : at + piece.values.size] = piece.values
            row += len(piece)
            at += piece.indices.size
        if self._sketches is not None:
            with storage_errors(self._directory):
                self._sketches.add(SparseBatch(indptr, indices, values))
        term_ptr = np.zeros(self._vocab_size + 1, np.int64)
        units, weights = np.empty(at, np.uint32), np.empty(at, np.float32)
        first = self.units - self._pending_rows
        invert.invert_run(indptr, indices, values, first, term_ptr, units, weights)
        for array in (term_ptr, units, weights):
            array.flags.writeable = False
        self._pending_postings = self._pending_rows = 0
        return _Run(term_ptr, units, weights)

    def _spill(self) -> None:
        """Write the buffer as an inverted run."""
        if not self._pending:
            return
        run = self._invert_pending()
        with storage_errors(self._directory):
            self._scratch.mkdir(exist_ok=True)
            number = len(self._runs)
            units, weights = (self._scratch / f"{number:06d}.{name}" for name in ("units", "weights"))
            for path, values in ((units, run.units), (weights, run.weights)):
                with operations.create(path) as f:
                    write_array(f, values)  # type: ignore[arg-type]
            self._runs.append(_Run(run.term_ptr, units, weights))

    def finish(self, progress: Callable[[float], None] | None = None, block_max_from: int = 0) -> PostingCounts:
        """Merge the runs and write the files. ``progress`` is told the share of terms done, 0 to 1. With less than
        ``block_max_from`` units there is no block-max data.
        """
        if self._runs:
            self._spill()
            runs = self._runs
        else:
            runs = [self._invert_pending()]
        scale = self._scale if self._scale is not None else (self._largest or float(MAX_IMPACT)) / MAX_IMPACT
        with storage_errors(self._directory), self._open_files(block_max_from) as files:
            place = None
            if self._sketches is not None:
                place = self._write_order(self._sketches.order())
            sizes = np.zeros(self._vocab_size, np.int64)
            for run in runs:
                sizes += np.diff(run.term_ptr)
            first = 0
            while first < self._vocab_size:
                last = term_range(sizes, first, self._capacity)
                list_ptr, units, impacts = self._merge(runs, first, last, scale, files)
                if place is not None:
                    move(list_ptr, units, impacts, place)
                files.append(list_ptr, units, impacts)
                first = last
                if progress is not None:
                    progress(first / self._vocab_size)
            postings, blocks = files.close_pointers()
        self._runs = []
        shutil.rmtree(self._scratch, ignore_errors=True)
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
        """Write which unit comes where; returns where each unit comes."""
        with operations.create(self._directory / "original_units.u32") as file:
            write_array(file, original)
        place = np.empty_like(original)
        place[original] = np.arange(original.size, dtype=np.uint32)
        return place

    def _merge(
        self, runs: list[_Run], first: int, last: int, scale: float, files: SegmentFiles
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32], npt.NDArray[np.uint8]]:
        """Postings of the terms first..last-1 over all runs: (list_ptr [terms + 1], units, impacts)."""
        counts = np.zeros(last - first, np.int64)
        quantized = []
        for run in runs:
            weights = run.range_of(run.weights, np.float32, first, last)
            impacts = np.empty(weights.size, np.uint8)
            dropped, clipped = invert.quantize(weights, scale, impacts)
            files.below_half_a_step += int(dropped)
            files.clipped += int(clipped)
            invert.count_kept(run.term_ptr, impacts, first, counts)
            quantized.append(impacts)
        list_ptr = np.zeros(counts.size + 1, np.int64)
        np.cumsum(counts, out=list_ptr[1:])
        units = np.empty(int(list_ptr[-1]), np.uint32)
        merged = np.empty(units.size, np.uint8)
        position = list_ptr[:-1].copy()
        for run, impacts in zip(runs, quantized, strict=True):
            run_units = run.range_of(run.units, np.uint32, first, last)
            invert.place_run(run.term_ptr, run_units, impacts, first, position, units, merged)
        return list_ptr, units, merged


class SegmentFiles:
    """The open posting files of a segment; terms are appended in ascending order.

    Terms of at least ``frequent`` postings get a row of block-max data; None: no term does.
    """

    def __init__(self, directory: Path, units: int, frequent: int | None) -> None:
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
        """Write the posting lists of the next terms."""
        terms = list_ptr.size - 1
        windows_in_all = (int(units.max()) >> WINDOW_BITS) + 1 if units.size else 0
        most = int(np.minimum(np.diff(list_ptr), windows_in_all).sum())
        local = np.empty(units.size, np.uint16)
        windows, starts = np.empty(most, np.uint16), np.empty(most, np.uint64)
        maxima, blocks_of = np.empty(most, np.uint8), np.empty(terms, np.int64)
        blocks = invert.cut_blocks(list_ptr, units, impacts, WINDOW_BITS, local, windows, starts, maxima, blocks_of)
        kth = np.empty((terms, len(KTH_LEVELS)), np.uint8)
        invert.kth_impacts(list_ptr, impacts, np.array(KTH_LEVELS, np.int64), kth)
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
        invert.chunk_row(units, impacts, maxima, bases, offsets)
        self._write("chunk_terms.u32", np.array([term], np.uint32))
        self._write("chunk_checksums.u32", np.array([checksum(maxima, bases, offsets)], np.uint32))
        self._write("chunk_impacts.u8", maxima)
        self._write("span_postings.u16", bases)
        self._write("chunk_postings.u8", offsets)
        self.rows += 1
        self.occupied += int(np.count_nonzero(maxima))

    def close_pointers(self) -> tuple[int, int]:
        """Write the end of the last block; returns (postings, blocks)."""
        self._write("block_postings.u64", np.array([self._postings], np.uint64))
        return self._postings, self._blocks

    def _write(self, name: str, array: npt.NDArray[np.generic]) -> None:
        write_array(self._files[name], np.ascontiguousarray(array, dtype=SEGMENT_ARRAYS[name].dtype))


def move(
    list_ptr: npt.NDArray[np.int64],
    units: npt.NDArray[np.uint32],
    impacts: npt.NDArray[np.uint8],
    place: npt.NDArray[np.uint32],
) -> None:
    """Give the units of posting lists their new places, and sort each list by them, in place."""
    for a, b in itertools.pairwise(list_ptr.tolist()):
        keys = (place[units[a:b]].astype(np.uint64) << np.uint64(8)) | impacts[a:b]
        keys.sort()
        units[a:b] = keys >> np.uint64(8)
        impacts[a:b] = keys.astype(np.uint8)


def write_array(file: BinaryIO, array: npt.NDArray[Any]) -> None:
    """Append the bytes of a contiguous array to a file."""
    operations.write(file, array.reshape(-1).view(np.uint8).data)


def term_range(sizes: npt.NDArray[np.int64], first: int, capacity: int) -> int:
    """The end of the longest range of terms from ``first`` whose postings fit the buffer; at least one term."""
    end = int(np.searchsorted(np.cumsum(sizes[first:]), capacity, side="right")) + first
    return min(max(end, first + 1), sizes.size)
