"""Which postings of a damaged segment are as they were written, and new posting files made of them.

A posting list is verified by its CRC-32. Its position follows from pointers, which only the SHA-256 of their file
verifies. If these are damaged, a segment of one docid range (up to 65,536 units) can do with fewer of them. Arrays are
read with NumPy alone: no kernel follows an unchecked pointer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from ..build.postings_writer import SegmentFiles
from ..errors import IntegrityError
from ..files import NOT_THERE, reading
from ..index.checksum import checksum
from ..index.layout import FREQUENT, SEGMENT_ARRAYS, SegmentEntry, array_shape
from ..scorer import RANGE_BITS, RANGE_SIZE

Bools = npt.NDArray[np.bool_]
I64 = npt.NDArray[np.int64]
_POSTINGS = 4 << 20  # written at a time


class UnusableSegmentError(IntegrityError):
    """Nothing of a segment can be searched any more."""


class PostingRecovery:
    """The readable postings of a segment.

    Methods raise UnusableSegmentError if a file is missing without which postings cannot be told apart.

    Parameters
    ----------
    directory
        The segment's directory.
    entry
        Its entry in the manifest.
    vocab_size
        The number of terms.
    damaged
        Names of its files that are damaged.
    unreadable
        Names among them that must not be read.
    """

    def __init__(
        self,
        directory: Path,
        entry: SegmentEntry,
        vocab_size: int,
        damaged: Collection[str],
        unreadable: Collection[str] = (),
    ) -> None:
        self._directory = directory
        self._entry = entry
        self._vocab_size = vocab_size
        self._damaged = frozenset(damaged)
        self._unreadable = frozenset(unreadable)
        self._loaded: dict[str, npt.NDArray[Any]] = {}

    @cached_property
    def _one_window(self) -> bool:
        return self._entry.units <= RANGE_SIZE

    @cached_property
    def _term_blocks(self) -> I64:
        if "term_blocks.u64" not in self._damaged:
            blocks = self.array("term_blocks.u64").astype(np.int64)
        elif self._one_window and "term_impacts.u8" not in self._damaged:
            # in one docid range, a term with postings has one posting list segment
            present = self.array("term_impacts.u8")[:, 0] > 0
            blocks = np.concatenate([[0], np.cumsum(present)]).astype(np.int64)
        else:
            raise self.unusable("term_blocks.u64")
        if int(blocks[0]) != 0 or int(blocks[-1]) != self._entry.blocks or (np.diff(blocks) < 0).any():
            raise self.unusable("term_blocks.u64")
        return blocks

    @cached_property
    def _block_postings(self) -> I64:
        pointers = self.array("block_postings.u64")
        if "block_postings.u64" in self._damaged:
            # The checksum of a term verifies its first and last pointer, and none in between.
            if not self._one_window:
                raise self.unusable("block_postings.u64")
            pointers = np.minimum(pointers, np.uint64(self._entry.postings))
        return pointers.astype(np.int64)

    @cached_property
    def _block_windows(self) -> I64:
        if "block_windows.u16" not in self._damaged:
            return self.array("block_windows.u16").astype(np.int64)
        if self._one_window:
            return np.zeros(self._entry.blocks, np.int64)
        raise self.unusable("block_windows.u16")

    @cached_property
    def _ranges(self) -> tuple[I64, I64]:
        """First and last posting of each term; both 0 if the pointers are impossible."""
        first = self._block_postings[self._term_blocks[:-1]]
        last = self._block_postings[self._term_blocks[1:]]
        possible = (first <= last) & (last <= self._entry.postings)
        return np.where(possible, first, 0), np.where(possible, last, 0)

    @cached_property
    def counts(self) -> I64:
        """int64 ``[vocab]``: postings of each term, as far as known; at least 1 for a term with some."""
        first, last = self._ranges
        counts: I64 = np.maximum(last - first, np.diff(self._term_blocks) > 0)
        return counts

    @cached_property
    def readable(self) -> Bools:
        """bool ``[vocab]``: terms whose postings are as they were written."""
        terms = np.zeros(self._vocab_size, np.bool_)
        whole = not {"posting_units.u16", "posting_impacts.u8"} & self._damaged
        if "term_checksums.u32" in self._damaged and not whole:
            return terms
        units, impacts = self.array("posting_units.u16"), self.array("posting_impacts.u8")
        sums = self.array("term_checksums.u32").tolist()
        for term in np.flatnonzero(np.diff(self._term_blocks)).tolist():
            a, b = int(self._ranges[0][term]), int(self._ranges[1][term])
            if b == a:
                continue
            if "term_checksums.u32" not in self._damaged and checksum(units[a:b], impacts[a:b]) != sums[term]:
                continue
            docids = self._docids(term)
            terms[term] = (
                docids is not None
                and int(impacts[a:b].min()) > 0
                and int(docids[-1]) < self._entry.units
                and bool((np.diff(docids) > 0).all())
            )
        return terms

    def _docids(self, term: int) -> I64 | None:
        """The docids of a term; None if its pointers do not fit its postings."""
        a, b = int(self._term_blocks[term]), int(self._term_blocks[term + 1])
        lengths = np.diff(self._block_postings[a : b + 1])
        first, last = int(self._ranges[0][term]), int(self._ranges[1][term])
        if (lengths <= 0).any() or int(lengths.sum()) != last - first:
            return None
        windows = np.repeat(self._block_windows[a:b], lengths)
        docids: I64 = (windows << RANGE_BITS) + self.array("posting_units.u16")[first:last]
        return docids

    def write(self, directory: Path, keep: Bools) -> SegmentEntry:
        """Write the readable postings of the units that are kept.

        Parameters
        ----------
        directory
            The new segment's directory.
        keep
            bool ``[units]``. The units that are kept are renumbered.

        Returns
        -------
        SegmentEntry
            The new segment's entry. Its number of documents is still the old one.

        Raises
        ------
        UnusableSegmentError
            If the order of the units is lost.
        OSError
            If a file cannot be written.
        """
        terms = self.readable
        order = self._order()
        kept_docids = keep if order is None else keep[order]
        new_docids = np.cumsum(kept_docids) - 1
        units = int(kept_docids.sum())
        if order is not None:
            original = (np.cumsum(keep) - 1)[order[kept_docids]].astype(SEGMENT_ARRAYS["original_units.u32"].dtype)
            (directory / "original_units.u32").write_bytes(original.tobytes())
        everything = bool(kept_docids.all())
        impacts = self.array("posting_impacts.u8")
        frequent = max(1, units // FREQUENT) if self._entry.rows else None
        with SegmentFiles(directory, units, frequent) as files:
            for first, last in _batches(np.where(terms, self.counts, 0)):
                list_ptr = np.zeros(last - first + 1, np.int64)
                parts: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = []
                for term in range(first, last):
                    docids = self._docids(term) if terms[term] else None
                    if docids is None:
                        list_ptr[term - first + 1] = list_ptr[term - first]
                        continue
                    own = impacts[self._ranges[0][term] : self._ranges[1][term]]
                    if not everything:
                        own, docids = own[kept_docids[docids]], new_docids[docids[kept_docids[docids]]]
                    parts.append((docids.astype(np.uint32), np.asarray(own)))
                    list_ptr[term - first + 1] = list_ptr[term - first] + docids.size
                files.append(
                    list_ptr,
                    np.concatenate([np.empty(0, np.uint32), *(part[0] for part in parts)]),
                    np.concatenate([np.empty(0, np.uint8), *(part[1] for part in parts)]),
                )
            postings, blocks = files.close_pointers()
            rows, occupied = files.rows, files.occupied
        return msgspec.structs.replace(
            self._entry,
            units=units,
            postings=postings,
            blocks=blocks,
            rows=rows,
            occupied=occupied,
        )

    def _order(self) -> I64 | None:
        if not self._entry.reordered:
            return None
        order = self.array("original_units.u32").astype(np.int64)
        if "original_units.u32" in self._damaged or not np.array_equal(np.sort(order), np.arange(order.size)):
            raise self.unusable("original_units.u32")
        return order

    def array(self, name: str) -> npt.NDArray[Any]:
        """An array of the size that it should have, whatever its file holds. Zeros stand for what is missing.

        Parameters
        ----------
        name
            The name of a file in ``SEGMENT_ARRAYS``.

        Returns
        -------
        ndarray
            Its dtype and shape are those of ``SEGMENT_ARRAYS``.

        Raises
        ------
        StorageError
            If the system refuses to read the file.
        """
        if name not in self._loaded:
            spec = SEGMENT_ARRAYS[name]
            shape = array_shape(spec, self._entry, self._vocab_size)
            size = int(np.prod(shape))
            if size and name not in self._damaged:
                with reading(self._directory / name):
                    mapped = np.memmap(self._directory / name, np.dtype(spec.dtype), "r", shape=shape)
                self._loaded[name] = np.asarray(mapped)
            else:
                path = None if name in self._unreadable else self._directory / name
                self._loaded[name] = _fitted(path, np.dtype(spec.dtype), size).reshape(shape)
        return self._loaded[name]

    def unusable(self, name: str) -> UnusableSegmentError:
        """The error for a file without which no posting can be told.

        Parameters
        ----------
        name
            The name of the file.

        Returns
        -------
        UnusableSegmentError
            The error, to be raised.
        """
        return UnusableSegmentError(f"{self._directory / name} is damaged, and no posting can be told without it")


def _fitted(path: Path | None, dtype: np.dtype[Any], size: int) -> npt.NDArray[Any]:
    """The first ``size`` values of a file; zeros stand for missing ones. Raises StorageError."""
    data = b""
    with contextlib.suppress(*NOT_THERE):
        if path is not None:
            with reading(path), path.open("rb") as file:
                data = file.read(size * dtype.itemsize)
    return np.frombuffer(data.ljust(size * dtype.itemsize, b"\0"), dtype)


def _batches(counts: I64) -> Iterator[tuple[int, int]]:
    """Ranges of terms with about _POSTINGS postings and at least one term each."""
    ends = np.cumsum(counts)
    first = 0
    while first < counts.size:
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + _POSTINGS, side="right")))
        yield first, last
        first = last
