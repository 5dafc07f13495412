"""Writing one segment: its postings, its documents and their fields. Who lists it in a manifest is the caller."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

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
from .postings import PostingCounts, PostingWriter


class PassageSpan(NamedTuple):
    """Whose passage a vector is: the document's ordinal in its segment, and (start, end) in characters of its text."""

    document: int
    start: int
    end: int


class SegmentWriter:
    """Writes the segment ``path`` (relative) of the index at ``root``. Options: see :class:`IndexWriter`.

    ``unique``: False lets an id be used again; who does that must delete the earlier document.
    """

    def __init__(
        self,
        root: AnyPath,
        path: str,
        vocab_size: int,
        *,
        passages: bool = False,
        fields: Sequence[str] = (),
        memory_bytes: int = 512 << 20,
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
        """Store documents; each place of the result is the ordinal, or why there is none."""
        ordinals: list[int | InputError] = []
        for result in self._documents.add(documents):
            if isinstance(result, InputError):
                ordinals.append(result)
            else:
                self._fields.add(result)
                ordinals.append(result.ordinal)
        return ordinals

    def latest(self, ids: Sequence[str]) -> dict[str, int]:
        """Of the ids that were added, the ordinals; the last where an id was used again."""
        return self._documents.latest(ids)

    def add_vectors(self, batch: SparseBatch, spans: Sequence[PassageSpan] | None = None) -> None:
        """Append unit vectors; with passages ``spans`` has one entry a vector, documents ascending.

        Raises InputError for malformed vectors or spans.
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

        ``block_max_from``: with fewer units there is no block-max data, for adding all postings up is as fast.
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
    """Spans as uint32 ``[n, 3]``. Raises InputError for one that no reader would take."""
    for document, start, end in spans:
        if not 0 <= document < documents:
            raise InputError(f"a span is of document {document}; {documents} were added, counted from 0")
        if not 0 <= start <= end < 1 << 32:
            raise InputError(f"the span ({start}, {end}) of document {document} ends before it starts, or is no place")
    return np.array(spans, np.uint32).reshape(-1, 3)


def write_spans(directory: AnyPath, owners: npt.NDArray[np.integer], spans: npt.NDArray[np.integer]) -> None:
    """Write whose passages the units of a segment are, and where they are in the documents' texts."""
    with storage_errors(directory):
        for name, columns in (("unit_documents.u32", owners), ("unit_spans.u32", spans)):
            data = np.ascontiguousarray(columns, SEGMENT_ARRAYS[name].dtype)
            with operations.create(directory / name) as file:
                operations.write(file, data.tobytes())


def list_segment(root: AnyPath, path: str) -> dict[str, FileEntry]:
    """The files of a finished segment, as the manifest lists them."""
    with storage_errors(root):
        names = sorted(p.name for p in safe_join(root, path).iterdir() if p.is_file())
        return {f"{path}/{name}": describe_file(safe_join(root, path) / name) for name in names}
