"""Opening a segment: map its arrays, validate every pointer, and check each posting list before a kernel reads it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import numpy.typing as npt

from ..directory import AnyPath
from ..errors import IndexFormatError, IntegrityError
from ..files import NOT_THERE, reading, safe_join, sha256_file
from ..forking import cached_property, new_lock, undivided
from ..manifest import FileEntry, check_hashes
from ..numba_support.arrays import I64, U8, U16, U32, U64
from ..posting_layout import BLOCK_SIZE, KTH_LEVELS, RANGE_BITS, RANGE_SIZE, SUPERBLOCK_BLOCKS
from .checksum import checksum
from .documents import DocumentReader
from .layout import (
    DOCUMENTS_FILE,
    FIELDS_FILE,
    FIELDS_SCHEMA,
    MAX_NAMES,
    ArraySpec,
    IndexManifest,
    SegmentEntry,
    array_shape,
    chunks,
    segment_arrays,
)
from .sqlite import SqliteReader

if TYPE_CHECKING:
    from ..filters.fields import FieldReader

_ROW_FILES = "chunk_impacts.u8, span_postings.u16 or chunk_postings.u8"
# Smaller arrays are read, not mapped: a map takes a page at least, and a file descriptor, and segments may be many.
SMALL = 1 << 18
_SAME_ORDER = np.empty(0, np.uint32)
_SAME_ORDER.flags.writeable = False  # as mapped arrays are: kernels are compiled once


class Segment:
    """A segment's mapped arrays and its documents. File sizes were checked against the manifest before.

    Several generations of an index may hold one: each but the first calls :meth:`retain`, and each :meth:`close`.

    ``term_blocks`` uint64 ``[V+1]``; ``term_impacts`` uint8 ``[V, 4]``; ``block_windows`` uint16, ``block_impacts``
    uint8
    ``[blocks]``; ``block_postings`` uint64 ``[blocks+1]``; ``posting_units`` uint16, ``posting_impacts`` uint8
    ``[postings]``; ``unit_documents`` uint32 ``[units]`` and ``unit_spans`` uint32 ``[units, 2]``, or None where a
    unit is a document. ``chunk_impacts`` and ``chunk_postings`` uint8 ``[rows, chunks]``, ``span_postings`` uint16
    ``[rows, spans]``; ``term_rows`` int32 ``[V]`` is a term's row of them, or -1. ``verified`` uint8 ``[V]`` is 1 for
    terms whose postings were checked.
    """

    def __init__(self, root: AnyPath, manifest: IndexManifest, entry: SegmentEntry) -> None:
        self.root = root
        self.entry = entry
        self.units = entry.units
        self.vocab_size = manifest.vocab_size
        self._manifest = manifest
        self._holders = 1
        self._lock = new_lock()
        arrays: dict[str, Any] = {
            name: self._map(name, spec, array_shape(spec, entry, manifest.vocab_size))
            for name, spec in segment_arrays(entry).items()
        }
        self.term_blocks: U64 = arrays["term_blocks.u64"]
        self.term_impacts: U8 = arrays["term_impacts.u8"]
        self.term_checksums: U32 = arrays["term_checksums.u32"]
        self.block_windows: U16 = arrays["block_windows.u16"]
        self.block_impacts: U8 = arrays["block_impacts.u8"]
        self.block_postings: U64 = arrays["block_postings.u64"]
        self.chunk_terms: U32 = arrays["chunk_terms.u32"]
        self.chunk_checksums: U32 = arrays["chunk_checksums.u32"]
        self.chunk_impacts: U8 = arrays["chunk_impacts.u8"]
        self.span_postings: U16 = arrays["span_postings.u16"]
        self.chunk_postings: U8 = arrays["chunk_postings.u8"]
        self.posting_units: U16 = arrays["posting_units.u16"]
        self.posting_impacts: U8 = arrays["posting_impacts.u8"]
        # the docid permutation: by docid, the unit by insertion; empty where both are the same
        self.original: U32 = arrays.get("original_units.u32", _SAME_ORDER)
        self.unit_documents: U32 | None = arrays.get("unit_documents.u32")
        self.unit_spans: U32 | None = arrays.get("unit_spans.u32")
        self.verified = np.zeros(self.vocab_size, np.uint8)
        self._validate()
        self.term_rows = np.full(self.vocab_size, -1, np.int32)
        self.term_rows[self.chunk_terms] = np.arange(entry.rows, dtype=np.int32)
        self.spread = self._spread()
        documents = f"{entry.path}/{DOCUMENTS_FILE}"
        listed = manifest.files.get(documents)
        if listed is None:
            raise IntegrityError(f"{root}: its manifest does not list {documents}; copy the index again")
        self.documents = DocumentReader(safe_join(root, documents), entry.documents, listed.sha256)
        fields = f"{entry.path}/{FIELDS_FILE}"
        self._fields_listed = manifest.files.get(fields)
        self._fields_file: SqliteReader | None = None
        if self._fields_listed is not None:
            self._fields_file = SqliteReader(safe_join(root, fields), FIELDS_SCHEMA)

    @cached_property
    def fields(self) -> FieldReader | None:
        """The indexes of stored fields; None where the segment was made before these were kept. Loads ``filters/``."""
        if self._fields_file is None or self._fields_listed is None:
            return None
        with undivided:
            from ..filters.fields import FieldReader

        # The file has the names of at most MAX_NAMES fields, and those of fields with an index.
        return FieldReader(self._fields_file, self.entry.documents, self._fields_listed.sha256, 2 * MAX_NAMES)

    def retain(self) -> bool:
        """Hold the segment once more; False if it was closed already."""
        with self._lock:
            self._holders += self._holders > 0
            return self._holders > 0

    def close(self) -> None:
        """Close the stored documents when the last holder does; they cannot be read afterwards."""
        with self._lock:
            self._holders -= 1
            if self._holders:
                return
        self.documents.close()
        if self._fields_file is not None:
            self._fields_file.close()

    def is_of(self, manifest: IndexManifest, entry: SegmentEntry) -> bool:
        """Whether an entry of another manifest is this very segment, whatever of it is deleted."""
        mine, theirs = (msgspec.structs.replace(e, tombstones=None, deleted=0) for e in (self.entry, entry))
        return (
            mine == theirs
            and self.vocab_size == manifest.vocab_size
            and segment_files(self._manifest, mine) == segment_files(manifest, theirs)
        )

    def _map(self, name: str, spec: ArraySpec, shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
        relative = f"{self.entry.path}/{name}"
        path = safe_join(self.root, relative)
        listed = self._manifest.files.get(relative)
        expected = math.prod(shape) * np.dtype(spec.dtype).itemsize
        if listed is None or listed.size != expected:
            raise IntegrityError(f"{self.root}: its manifest does not give {relative} the {expected} bytes it needs")
        try:
            with reading(path):
                return self._mapped(path, name, spec, shape, listed.sha256)
        except (*NOT_THERE, ValueError) as error:  # gone or shorter since it was looked at
            raise self._damaged(name, str(error)) from None

    def _mapped(
        self, path: AnyPath, name: str, spec: ArraySpec, shape: tuple[int, ...], sha256: str
    ) -> npt.NDArray[np.generic]:
        if spec.pointer and sha256_file(path) != sha256:
            raise self._damaged(name, "its SHA-256 does not match")
        if math.prod(shape) * np.dtype(spec.dtype).itemsize <= SMALL:
            # not np.fromfile, to which a read that fails is the end of the file; read-only, as mapped arrays are
            return np.frombuffer(path.read_bytes(), spec.dtype).reshape(shape)
        with path.open("rb") as file:
            return np.asarray(np.memmap(file, np.dtype(spec.dtype), "r", shape=shape))

    def _validate(self) -> None:
        """Every pointer that a kernel follows. What it reads through them is checked a term at a time, by
        :meth:`verify`.
        """
        entry = self.entry
        _validate_pointers("term_blocks", self.term_blocks, entry.blocks, self._damaged, strict=False)
        _validate_pointers("block_postings", self.block_postings, entry.postings, self._damaged, strict=True)
        windows_in_all = -(-entry.units // RANGE_SIZE)
        if entry.blocks:
            if int(self.block_windows.max()) >= windows_in_all:
                raise self._damaged("block_windows", f"a window beyond the {entry.units} units")
            descends = np.flatnonzero(np.diff(self.block_windows.astype(np.int32)) <= 0) + 1
            if not np.isin(descends, self.term_blocks).all():
                raise self._damaged("block_windows", "windows of a term that do not ascend")
            if int(np.diff(self.block_postings).max()) > RANGE_SIZE:
                raise self._damaged("block_postings", "a block longer than its window")
            if int(self.block_impacts.min()) == 0:
                raise self._damaged("block_impacts", "a block without an impact")
        rows = self.chunk_terms.astype(np.int64)
        if rows.size and (int(rows[-1]) >= self.vocab_size or (np.diff(rows) <= 0).any()):
            raise self._damaged("chunk_terms", "terms that do not ascend within the vocabulary")
        if entry.documents > entry.units or (not entry.passages and entry.documents != entry.units):
            raise self._damaged("manifest", "its counts of documents and units disagree")
        if entry.reordered and not _is_order(self.original):
            raise self._damaged("original_units", "it is not an order of the units")
        if self.unit_documents is not None and entry.units:
            steps = np.diff(self.unit_documents.astype(np.int64), prepend=-1)
            if int(steps.min()) < 0 or int(steps.max()) > 1 or int(self.unit_documents[-1]) != entry.documents - 1:
                raise self._damaged("unit_documents", "documents that do not ascend one by one")
        if self.unit_spans is not None and (self.unit_spans[:, 0] > self.unit_spans[:, 1]).any():
            raise self._damaged("unit_spans", "a passage that ends before it starts")

    def _spread(self) -> float:
        """How evenly the frequent terms lie over the chunks: 1 as if by chance, less where similar units are near."""
        ends = self.block_postings[self.term_blocks[np.stack([self.chunk_terms, self.chunk_terms + 1])]].astype(float)
        by_chance = chunks(self.units) * -np.expm1(-(ends[1] - ends[0]) / max(1, chunks(self.units)))
        return float(self.entry.occupied / by_chance.sum()) if by_chance.size else 1.0

    def verify(self, terms: npt.NDArray[np.integer]) -> None:
        """Check the postings of ``terms`` against their checksums, once a term. Raises IntegrityError."""
        for term in terms[self.verified[terms] == 0].tolist():
            a, b = self.posting_range(term)
            units, impacts = self.posting_units[a:b], self.posting_impacts[a:b]
            if checksum(units, impacts) != int(self.term_checksums[term]):
                raise self._damaged(
                    "posting_units.u16 or posting_impacts.u8",
                    f"the postings of term {term} do not match their checksum",
                )
            if units.size and self._largest_unit(term) >= self.units:
                raise self._damaged("posting_units", f"term {term} has a unit beyond the last")
            if self.term_rows[term] >= 0:
                self._verify_row(term, int(self.term_rows[term]))
            self.verified[term] = 1

    def _verify_row(self, term: int, row: int) -> None:
        """Check a row of block-max data: its checksum, and the offsets that kernels follow."""
        if checksum(*(a[row] for a in (self.chunk_impacts, self.span_postings, self.chunk_postings))) != int(
            self.chunk_checksums[row]
        ):
            raise self._damaged(_ROW_FILES, f"the block-max data of term {term} do not match their checksum")
        a, b = int(self.term_blocks[term]), int(self.term_blocks[term + 1])
        # the offsets of each window, and after its last chunk the length of its block
        offsets = np.zeros((-(-self.units // RANGE_SIZE), RANGE_SIZE // BLOCK_SIZE + 1), np.int64)
        offsets[self.block_windows[a:b]] = np.diff(self.block_postings[a : b + 1]).astype(np.int64)[:, None]
        number = np.arange(self.chunk_postings.shape[1])
        offsets[number // (RANGE_SIZE // BLOCK_SIZE), number % (RANGE_SIZE // BLOCK_SIZE)] = self._offsets(row)
        if offsets[:, 0].any() or (np.diff(offsets) < 0).any():
            raise self._damaged("chunk_postings", f"offsets of term {term} that do not ascend within its blocks")

    def _offsets(self, row: int) -> I64:
        """Of each chunk, how many postings of its window come before it."""
        offsets: I64 = self.chunk_postings[row].astype(np.int64)
        offsets += np.repeat(self.span_postings[row], SUPERBLOCK_BLOCKS)[: offsets.size]
        return offsets

    def _largest_unit(self, term: int) -> int:
        """The largest unit in the last block of a term that has postings."""
        block = int(self.term_blocks[term + 1]) - 1
        a, b = int(self.block_postings[block]), int(self.block_postings[block + 1])
        return (int(self.block_windows[block]) << RANGE_BITS) + int(self.posting_units[a:b].max())

    def posting_range(self, term: int) -> tuple[int, int]:
        """The postings of a term: ``[first, last)``."""
        a, b = int(self.term_blocks[term]), int(self.term_blocks[term + 1])
        return int(self.block_postings[a]), int(self.block_postings[b])

    def postings(self, term: int) -> tuple[I64, U8]:
        """(units int64 ascending, impacts uint8) of a term, checked."""
        docids, impacts = self._docids(term)
        if not self.original.size:
            return docids, impacts
        units = self.original[docids].astype(np.int64)
        order = np.argsort(units)
        return units[order], impacts[order]

    def _docids(self, term: int) -> tuple[I64, U8]:
        """:meth:`postings` in the segment's own order."""
        self.verify(np.array([term]))
        a, b = int(self.term_blocks[term]), int(self.term_blocks[term + 1])
        lengths = np.diff(self.block_postings[a : b + 1]).astype(np.int64)
        first, last = self.posting_range(term)
        windows = np.repeat(self.block_windows[a:b].astype(np.int64), lengths)
        return (windows << RANGE_BITS) + self.posting_units[first:last], self.posting_impacts[first:last]

    def frequencies(self, terms: npt.NDArray[np.integer]) -> I64:
        """In how many units each of ``terms`` occurs, int64 ``[n]``."""
        first, last = (self.block_postings[self.term_blocks[at]].astype(np.int64) for at in (terms, terms + 1))
        counts: I64 = last - first
        return counts

    def frequencies_in(self, terms: npt.NDArray[np.integer], chosen: npt.NDArray[np.bool_]) -> I64:
        """In how many of the ``chosen`` units, bool ``[units]``, each of ``terms`` occurs, int64 ``[n]``.

        Raises IntegrityError for damaged postings.
        """
        found = (self._docids(term)[0] for term in terms.tolist())
        units = (self.original[docids] if self.original.size else docids for docids in found)
        return np.array([np.count_nonzero(chosen[of_term]) for of_term in units], np.int64)

    def impact(self, term: int, unit: int) -> int:
        """The impact of a term in a unit, 0 where it has none. Reads one block."""
        self.verify(np.array([term]))
        if self.original.size:
            unit = int(self._docid_of[unit])
        a, b = int(self.term_blocks[term]), int(self.term_blocks[term + 1])
        block = a + int(np.searchsorted(self.block_windows[a:b], unit >> RANGE_BITS))
        if block == b or int(self.block_windows[block]) != unit >> RANGE_BITS:
            return 0
        first, last = int(self.block_postings[block]), int(self.block_postings[block + 1])
        at = first + int(np.searchsorted(self.posting_units[first:last], unit & (RANGE_SIZE - 1)))
        return int(self.posting_impacts[at]) if at < last and self.posting_units[at] == unit & (RANGE_SIZE - 1) else 0

    @cached_property
    def _docid_of(self) -> U32:
        """By unit, its docid in a segment that has an order of its own."""
        docids = np.empty_like(self.original)
        docids[self.original] = np.arange(docids.size, dtype=np.uint32)
        return docids

    def check_posting_files(self) -> None:
        """Check the SHA-256 of the postings, for a reader of all of them. Raises IntegrityError."""
        names = (f"{self.entry.path}/{name}" for name in ("posting_units.u16", "posting_impacts.u8"))
        check_hashes(self.root, {name: self._manifest.files[name] for name in names})

    def check(self) -> None:
        """Everything that opening leaves out: all postings against their checksums and order, all documents."""
        self.verify(np.arange(self.vocab_size))
        starts = self.block_postings[:-1].astype(np.int64)
        if self.entry.postings:
            descends = np.flatnonzero(self.posting_units[1:] <= self.posting_units[:-1]) + 1
            if not np.isin(descends, starts).all():
                raise self._damaged("posting_units", "units of a block that do not ascend")
            if int(self.posting_impacts.min()) == 0:
                raise self._damaged("posting_impacts", "an impact of 0")
            if not np.array_equal(np.maximum.reduceat(self.posting_impacts, starts), self.block_impacts):
                raise self._damaged("block_impacts", "a largest impact that is not its block's")
        for term in range(self.vocab_size):
            a, b = self.posting_range(term)
            largest = -np.sort(-self.posting_impacts[a:b].astype(np.int16)) if b > a else np.empty(0, np.int16)
            expected = [int(largest[k - 1]) if k <= largest.size else 0 for k in KTH_LEVELS]
            if self.term_impacts[term].tolist() != expected:
                raise self._damaged("term_impacts", f"k-th largest impacts of term {term} that are not its own")
        for row, term in enumerate(self.chunk_terms.tolist()):
            self._check_row(term, row)
        self.documents.check()
        if self.fields is not None:
            self.fields.check()

    def _check_row(self, term: int, row: int) -> None:
        units, impacts = self._docids(term)
        maxima = np.zeros(chunks(self.units), np.uint8)
        np.maximum.at(maxima, units // BLOCK_SIZE, impacts)
        before = np.searchsorted(units, np.arange(maxima.size) * BLOCK_SIZE)
        first = before[np.arange(maxima.size) // (RANGE_SIZE // BLOCK_SIZE) * (RANGE_SIZE // BLOCK_SIZE)]
        if not np.array_equal(maxima, self.chunk_impacts[row]) or not np.array_equal(
            before - first, self._offsets(row)
        ):
            raise self._damaged(_ROW_FILES, f"block-max data of term {term} that are not its own")

    def _damaged(self, name: str, detail: str) -> IntegrityError:
        path = self.root / self.entry.path
        return IntegrityError(
            f"{path}: {name} is damaged ({detail}); copy the index again, build it anew, or save what is left with: "
            f"splade-edge check {self.root} --repair"
        )


def _is_order(units: U32) -> bool:
    """Whether each number below the size is there once."""
    if units.size and int(units.max()) >= units.size:
        return False
    seen = np.zeros(units.size, np.bool_)
    seen[units] = True
    return bool(seen.all())


def _validate_pointers(
    name: str,
    pointers: npt.NDArray[np.uint64],
    end: int,
    damaged: Callable[[str, str], IntegrityError],
    *,
    strict: bool,
) -> None:
    if int(pointers[0]) != 0 or int(pointers[-1]) != end:
        raise damaged(name, f"it does not run from 0 to {end}")
    if (pointers[1:] <= pointers[:-1] if strict else pointers[1:] < pointers[:-1]).any():
        raise damaged(name, "pointers that do not ascend")


def segment_files(manifest: IndexManifest, entry: SegmentEntry) -> dict[str, FileEntry]:
    """The files of a segment, without its tombstones."""
    return {name: file for name, file in manifest.files.items() if name.startswith(f"{entry.path}/")}


def refuse_future(manifest: IndexManifest, path: AnyPath) -> None:
    """Raise IndexFormatError for what only later releases can read."""
    if manifest.features:
        raise IndexFormatError(f"{path} was changed by a newer splade-edge; upgrade to read it")
    if manifest.window_bits != RANGE_BITS:
        raise IndexFormatError(
            f"{path} has windows of 2^{manifest.window_bits} units; this release reads 2^{RANGE_BITS}"
        )
