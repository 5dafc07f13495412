"""What can still be read of a damaged segment, and a new segment made of it.

Only what a checksum verifies is used: a whole file by its SHA-256, the postings of a term by their CRC-32, a document
by its own checksum. Nothing is guessed. What follows from these is computed again (maxima, block-max data, checksums,
the indexes of fields), so damage there loses nothing.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np

from ..build.documents_writer import Added, DocumentWriter
from ..build.fields_writer import FieldWriter
from ..document import Document
from ..errors import InputError, IntegrityError
from ..files import NOT_THERE, safe_join
from ..filters.parser import parse_field
from ..filters.predicate import Field
from ..filters.values import all_keys
from ..index.documents import LEAST_ROW, DocumentReader
from ..index.layout import DOCUMENTS_FILE, FIELDS_FILE, SEGMENT_ARRAYS, IndexManifest, SegmentEntry, segment_arrays
from ..index.sqlite import SqliteReader
from .postings_recovery import Bools, PostingRecovery, UnusableSegmentError

_DOCUMENTS = 1000  # read and written at a time
_NAMED = 5  # the report names this many lost terms and documents


@dataclass(frozen=True)
class NewSegment:
    """A segment that was rebuilt.

    Attributes
    ----------
    entry
        Its entry for the manifest.
    rebuilt
        Names of the damaged files, relative to the index.
    lost
        What was lost, one line each.
    """

    entry: SegmentEntry
    rebuilt: list[str]
    lost: list[str]


class SegmentRecovery:
    """The readable parts of a segment.

    Parameters
    ----------
    root
        The index directory.
    manifest
        Its manifest.
    entry
        The segment's entry in it.
    damaged
        Files of the index that are damaged.
    unreadable
        Files among them that the system refuses to read.
    deleted
        bool ``[documents]``, which documents are deleted; None: none.
    term_name
        Returns the name of a term that is lost, for the report.
    """

    def __init__(
        self,
        root: Path,
        manifest: IndexManifest,
        entry: SegmentEntry,
        damaged: Collection[str],
        unreadable: Collection[str] = (),
        deleted: Bools | None = None,
        term_name: Callable[[int], str] = str,
    ) -> None:
        self._root = root
        self._manifest = manifest
        self._entry = entry
        self._damaged = {name for name in (*segment_arrays(entry), DOCUMENTS_FILE, FIELDS_FILE) if
                         f"{entry.path}/{name}" in damaged}  # fmt: skip
        self._term_name = term_name
        self._deleted = np.zeros(entry.documents, np.bool_) if deleted is None else deleted
        self._directory = safe_join(root, entry.path)
        self._unreadable = {name for name in self._damaged if f"{entry.path}/{name}" in unreadable}
        self._postings = PostingRecovery(
            self._directory, entry, manifest.vocab_size, self._damaged, self._unreadable
        )  # fmt: skip

    def documents(self) -> Iterator[tuple[int, Document]]:
        """The documents that can be read and are not deleted.

        Yields
        ------
        (int, Document)
            Ordinal and document, ascending.

        Raises
        ------
        StorageError
            If the system refuses to read them.
        """
        if DOCUMENTS_FILE in self._unreadable:
            return
        for ordinal, document in documents_of(self._directory / DOCUMENTS_FILE, self._entry.documents):
            if not self._deleted[ordinal]:
                yield ordinal, document

    @cached_property
    def _readable_documents(self) -> Bools:
        mask = np.ones(self._entry.documents, np.bool_)
        if DOCUMENTS_FILE in self._damaged:
            mask[:] = False
            mask[[ordinal for ordinal, _ in self.documents()]] = True
        return mask

    def write(self, directory: Path, fields: Sequence[str] | None = None) -> NewSegment:
        """Write everything that can be saved as the files of a segment.

        Parameters
        ----------
        directory
            The new segment's directory. It is made.
        fields
            Names of stored fields that get an index; None: those that had one.

        Returns
        -------
        NewSegment
            The segment, and what was lost.

        Raises
        ------
        UnusableSegmentError
            If nothing can be searched.
        StorageError
            If the system refuses to read a file.
        OSError
            If a file cannot be written.
        """
        rebuilt, lost = [], []
        keep = self._readable_documents & ~self._deleted
        if not keep.any():
            why = "is left out" if DOCUMENTS_FILE in self._unreadable else "holds no document that can be read"
            raise UnusableSegmentError(f"{self._directory / DOCUMENTS_FILE} {why}")
        units_kept = self._units_kept(keep)
        counts, readable = self._postings.counts, self._postings.readable
        gone = np.flatnonzero((counts > 0) & ~readable)
        if gone.size and not readable.any():
            raise UnusableSegmentError(f"{self._directory} holds no postings that can be read")
        if gone.size:
            lost.append(
                f"{int(counts[gone].sum()):,} postings of {_plural(gone.size, 'term')} "
                f"({_some([self._term_name(term) for term in gone[: _NAMED + 1].tolist()], gone.size)}): documents are "
                "not found by these any more, until they are indexed again"
            )
        missing = np.flatnonzero(~keep & ~self._deleted)
        if missing.size:
            lost.append(
                f"{_plural(missing.size, 'document')} "
                f"(numbers {_some(missing[: _NAMED + 1].tolist(), missing.size)} of {self._entry.path}, from 0)"
            )
        directory.mkdir(parents=True)
        entry = msgspec.structs.replace(
            self._postings.write(directory, units_kept), documents=int(keep.sum()), tombstones=None, deleted=0
        )
        if self._entry.passages and not self._write_spans(directory, keep, units_kept):
            lost.append("where passages are in their documents' texts; the whole text is shown instead")
        indexed, known = self._indexed(fields)
        if not known:
            lost.append("which fields had an index, if any; name them with --field, or filters on them read documents")
        self._write_documents(directory, keep, indexed)
        rebuilt += [f"{self._entry.path}/{name}" for name in sorted(self._damaged)]
        return NewSegment(entry, rebuilt, lost)

    def _units_kept(self, documents: Bools) -> Bools:
        if not self._entry.passages:
            return documents
        if "unit_documents.u32" in self._damaged:
            raise self._postings.unusable("unit_documents.u32")
        owners = self._postings.array("unit_documents.u32")
        if owners.size and int(owners.max()) >= documents.size:
            raise self._postings.unusable("unit_documents.u32")
        return np.asarray(documents[owners])

    def _write_spans(self, directory: Path, keep: Bools, units_kept: Bools) -> bool:
        """Write document and span of each unit; returns whether the spans are known."""
        owners = self._postings.array("unit_documents.u32")[units_kept]
        known = "unit_spans.u32" not in self._damaged
        if known:
            spans = self._postings.array("unit_spans.u32")[units_kept]
        else:
            lengths = np.zeros(keep.size, np.uint32)
            for ordinal, document in self.documents():
                lengths[ordinal] = len(document.text)
            spans = np.stack([np.zeros(owners.size, np.uint32), lengths[owners]], axis=1)
        renumbered = (np.cumsum(keep) - 1)[owners]
        for name, values in (("unit_documents.u32", renumbered), ("unit_spans.u32", spans)):
            (directory / name).write_bytes(np.ascontiguousarray(values, SEGMENT_ARRAYS[name].dtype).tobytes())
        return known

    def _indexed(self, names: Sequence[str] | None) -> tuple[list[Field], bool]:
        """The fields that get an index, and whether it is known which fields had one."""
        if names is not None:
            return [parse_field(name) for name in names], True
        if self._manifest.settings is not None:
            return [parse_field(name) for name in self._manifest.settings.fields], True
        path = self._directory / FIELDS_FILE
        if FIELDS_FILE in self._unreadable:
            return [], False
        if not path.exists() and FIELDS_FILE not in self._damaged:
            return [], True
        with contextlib.suppress(IntegrityError, InputError):
            reader = SqliteReader(path)
            try:
                rows = reader.query("SELECT name FROM names WHERE field IS NOT NULL ORDER BY field")
                return [parse_field(str(name)) for (name,) in rows], True
            finally:
                reader.close()
        return [], False

    def _write_documents(self, directory: Path, keep: Bools, indexed: Sequence[Field]) -> None:
        whole = bool(keep.all())
        copied = whole and DOCUMENTS_FILE not in self._damaged
        documents = None if copied else DocumentWriter(directory / DOCUMENTS_FILE)
        fields = None
        if copied:
            shutil.copyfile(self._directory / DOCUMENTS_FILE, directory / DOCUMENTS_FILE)
        if copied and FIELDS_FILE not in self._damaged:
            if (self._directory / FIELDS_FILE).exists():
                shutil.copyfile(self._directory / FIELDS_FILE, directory / FIELDS_FILE)
            return
        try:
            fields = FieldWriter(directory / FIELDS_FILE, indexed)
            batch: list[Document] = []
            ordinal = 0
            for _, document in self.documents():
                if documents is None:
                    fields.add(Added(ordinal, document, all_keys(document.metadata)))
                    ordinal += 1
                    continue
                batch.append(document)
                if len(batch) == _DOCUMENTS:
                    _store(documents, fields, batch)
            if documents is not None:
                _store(documents, fields, batch)
                documents.close()
            fields.close(int(keep.sum()))
        except BaseException:
            for writer in (documents, fields):
                if writer is not None:
                    writer.abandon()
            raise


def documents_of(file: Path, count: int | None = None) -> Iterator[tuple[int, Document]]:
    """The documents of a file that are as they were written.

    Parameters
    ----------
    file
        A file of documents.
    count
        How many documents were written; None: unknown.

    Yields
    ------
    (int, Document)
        Ordinal and document, ascending.

    Raises
    ------
    StorageError
        If the system refuses to read the file.
    """
    try:
        if count is None:
            count = _documents_in(file)
        reader = DocumentReader(file, count)
    except (IntegrityError, *NOT_THERE):
        return
    try:
        for start in range(0, count, _DOCUMENTS):
            yield from _readable(reader, start, min(start + _DOCUMENTS, count))
    finally:
        reader.close()


def _documents_in(file: Path) -> int:
    reader = SqliteReader(file)
    try:
        [(last,)] = reader.query("SELECT MAX(ordinal) FROM documents")
    finally:
        reader.close()
    # A damaged ordinal may be any number. No row is smaller than LEAST_ROW.
    return min(last + 1, file.stat().st_size // LEAST_ROW) if isinstance(last, int) else 0


def _readable(reader: DocumentReader, start: int, stop: int) -> Iterator[tuple[int, Document]]:
    """The readable documents of a range. A range that cannot be read is halved."""
    ordinals = list(range(start, stop))
    try:
        yield from zip(ordinals, reader.get(ordinals), strict=True)
    except IntegrityError:
        if len(ordinals) > 1:
            middle = (start + stop) // 2
            yield from _readable(reader, start, middle)
            yield from _readable(reader, middle, stop)


def _store(documents: DocumentWriter, fields: FieldWriter, batch: list[Document]) -> None:
    for result in documents.add(batch):
        if isinstance(result, InputError):  # two documents have one id, and no checksum tells whose it is
            raise UnusableSegmentError(f"two documents have the same id ({result})")
        fields.add(result)
    batch.clear()


def _some(names: Sequence[object], count: int) -> str:
    more = f" and {count - _NAMED:,} more" if count > _NAMED else ""
    return ", ".join(map(str, names[:_NAMED])) + more


def _plural(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"
