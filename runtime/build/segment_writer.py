"""Writing one segment: its postings, its documents and their fields. The caller lists it in a manifest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ..document import Document
from ..directory import AnyPath
from ..errors import InputError
from ..files import operations, safe_join, storage_errors
from ..manifest import FileEntry, describe_file
from ..vectors import SparseBatch
from ..filters import parse_field
from ..index.layout import DOCUMENTS_FILE, FIELDS_FILE, SEGMENT_ARRAYS, SegmentEntry
from .documents_writer import DocumentWriter
from .fields_writer import FieldWriter
from .limits import DEFAULT_MEMORY
from .passages import PassageSpan
from .postings_writer import PostingCounts, PostingWriter


class SegmentWriter:
    """Writes one segment of an index.

    Parameters
    ----------
    root
        The directory of the index.
    path
        The segment's directory, relative to ``root``. It is made.
    vocab_size
        The number of terms.
    passages, fields, memory_bytes, scale, block_max, reorder
        See :class:`.index_writer.IndexWriter`.
    unique
        Whether an id may be used only once. If not, the caller must delete the earlier document.

    Raises
    ------
    InputError
        For options that are not valid.
    StorageError
        If the directory cannot be made.
    """

    def __init__(
        self,
        root: AnyPath,
        path: str,
        vocab_size: int,
        *,
        passages: bool = False,
        fields: Sequence[str] = (),
        memory_bytes: int = DEFAULT_MEMORY,
        scale: float | None = None,
        block_max: bool = True,
        reorder: bool = False,
        unique: bool = True,
    ) -> None:
        indexed = [parse_field(name) for name in fields]
        self._root = root
        self._path = path
        self.directory = root / path
        with storage_errors(root):
            operations.make_directory(self.directory)
        self._postings = PostingWriter(
            self.directory, vocab_size, memory_bytes=memory_bytes, scale=scale, block_max=block_max, reorder=reorder
        )
        self._reordered = reorder
        self._documents = DocumentWriter(self.directory / DOCUMENTS_FILE, unique=unique)
        self._fields = FieldWriter(self.directory / FIELDS_FILE, indexed)
        self._spans: list[npt.NDArray[np.uint32]] | None = [] if passages else None

    @property
    def documents(self) -> int:
        """Documents added so far."""
        return self._documents.count

    @property
    def units(self) -> int:
        """Vectors added so far."""
        return self._postings.units

    def add_documents(self, documents: Sequence[Document]) -> list[int | InputError]:
        """Store documents.

        Parameters
        ----------
        documents
            The documents.

        Returns
        -------
        list of int or InputError
            For each document its ordinal, or the reason why it is not stored.

        Raises
        ------
        StorageError
            If the documents cannot be written.
        """
        ordinals: list[int | InputError] = []
        for result in self._documents.add(documents):
            if isinstance(result, InputError):
                ordinals.append(result)
            else:
                self._fields.add(result)
                ordinals.append(result.ordinal)
        return ordinals

    def latest(self, ids: Sequence[str]) -> dict[str, int]:
        """Find documents that were added by their ids.

        Parameters
        ----------
        ids
            Ids to look for, at most 500.

        Returns
        -------
        dict of str to int
            The ordinals of the ids that were found; the last one if an id was used again.
        """
        return self._documents.latest(ids)

    def add_vectors(self, batch: SparseBatch, spans: Sequence[PassageSpan] | None = None) -> None:
        """Append the vectors of the next units.

        Parameters
        ----------
        batch
            The vectors.
        spans
            In an index of passages: one entry for each vector, documents ascending.

        Raises
        ------
        InputError
            For malformed vectors or spans.
        StorageError
            If postings cannot be written.
        """
        if self._spans is not None:
            if spans is None or len(spans) != len(batch):
                raise InputError(f"an index of passages needs the span of each of the {len(batch)} vectors")
            self._spans.append(_checked_spans(spans, self.documents))
        self._postings.add(batch)

    def finish(
        self, progress: Callable[[float], None] | None = None, *, block_max_from: int = 0
    ) -> tuple[SegmentEntry, PostingCounts]:
        """Merge the postings and close the files. Every document needs a unit.

        Parameters
        ----------
        progress
            Receives the share of terms that are merged, 0 to 1.
        block_max_from
            With fewer units there is no block-max data, because term-at-a-time is as fast then.

        Returns
        -------
        (SegmentEntry, PostingCounts)
            The segment's entry for the manifest, and what was written.

        Raises
        ------
        InputError
            If documents and vectors do not fit together.
        StorageError
            If a file cannot be written.
        """
        self._documents.close()
        self._fields.close(self.documents)
        counts = self._postings.finish(progress, block_max_from)
        if self._spans is not None:
            spans = np.concatenate([np.empty((0, 3), np.uint32), *self._spans])
            owners = spans[:, 0].astype(np.int64)
            if (np.diff(owners) < 0).any() or not np.array_equal(np.unique(owners), np.arange(self.documents)):
                raise InputError("passages must follow the order of their documents, each document with at least one")
            write_spans(self.directory, spans[:, 0], spans[:, 1:])
        elif self.documents != counts.units:
            raise InputError(f"documents and vectors differ in number: {self.documents} and {counts.units} were added")
        entry = SegmentEntry(
            path=self._path,
            documents=self.documents,
            units=counts.units,
            postings=counts.postings,
            blocks=counts.blocks,
            rows=counts.rows,
            occupied=counts.occupied,
            passages=self._spans is not None,
            reordered=self._reordered,
        )
        return entry, counts

    def abort(self) -> None:
        """Close open files without finishing; the caller removes the directory."""
        self._documents.abandon()
        self._fields.abandon()


def _checked_spans(spans: Sequence[PassageSpan], documents: int) -> npt.NDArray[np.uint32]:
    """Spans as uint32 ``[n, 3]``. Raises InputError for a span that no reader would accept."""
    for document, start, end in spans:
        if not 0 <= document < documents:
            raise InputError(f"a span is of document {document}; {documents} were added, counted from 0")
        if not 0 <= start <= end < 1 << 32:
            raise InputError(f"the span ({start}, {end}) of document {document} ends before it starts, or is no place")
    return np.array(spans, np.uint32).reshape(-1, 3)


def write_spans(directory: AnyPath, owners: npt.NDArray[np.integer], spans: npt.NDArray[np.integer]) -> None:
    """Write which document and which part of its text each unit of a segment is.

    Parameters
    ----------
    directory
        The directory of the segment.
    owners
        Integers ``[units]``, ordinals of documents.
    spans
        Integers ``[units, 2]``, start and end in characters.

    Raises
    ------
    StorageError
        If a file cannot be written.
    """
    with storage_errors(directory):
        for name, columns in (("unit_documents.u32", owners), ("unit_spans.u32", spans)):
            data = np.ascontiguousarray(columns, SEGMENT_ARRAYS[name].dtype)
            with operations.create(directory / name) as file:
                operations.write(file, data.tobytes())


def list_segment(root: AnyPath, path: str) -> dict[str, FileEntry]:
    """The files of a finished segment, as the manifest lists them.

    Parameters
    ----------
    root
        The directory of the index.
    path
        The segment's directory, relative to ``root``.

    Returns
    -------
    dict of str to FileEntry
        Size and SHA-256 by name relative to ``root``.

    Raises
    ------
    StorageError
        If a file cannot be read.
    """
    with storage_errors(root):
        names = sorted(p.name for p in safe_join(root, path).iterdir() if p.is_file())
        return {f"{path}/{name}": describe_file(safe_join(root, path) / name) for name in names}
