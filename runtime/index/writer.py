"""Writing an index directory: one segment, its manifest last. The only writer of the format in layout.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from ..artifact import MANIFEST_NAME as ARTIFACT_MANIFEST
from ..corpus import Document
from ..errors import InputError
from ..files import storage_errors
from ..manifest import FileEntry, describe_file, write_manifest
from ..scorer import WINDOW_BITS
from ..vectors import SparseBatch
from ..version import MADE_BY
from ..where import parse_field
from .documents import DocumentWriter
from .fields import FieldWriter
from .layout import (
    DOCUMENTS_FILE,
    FIELDS_FILE,
    INDEX_FORMAT,
    MANIFEST_NAME,
    SEGMENT_ARRAYS,
    VERSION,
    EncoderIdentity,
    IndexManifest,
    SegmentEntry,
    Statistics,
    TextSettings,
)
from .postings import PostingWriter

_SEGMENT = "segments/00000001"


class PassageSpan(NamedTuple):
    """Whose passage a vector is: the document's ordinal, and (start, end) in characters of its text."""

    document: int
    start: int
    end: int


class IndexWriter:
    """Writes an index into an empty directory. Add documents and their vectors in the same order, then :meth:`finish`.

    ``passages``: a document may have several vectors; then :meth:`add_vectors` takes their :class:`PassageSpan`.
    ``fields``: names of stored fields that get an index, so that filters on them read no documents.
    ``block_max``: write block-max data of the frequent terms; without it an index is smaller, and slower for few
    results. ``reorder``: put similar units next to each other, which changes nothing but speed and size.
    """

    def __init__(
        self,
        directory: Path,
        vocab_size: int,
        *,
        passages: bool = False,
        fields: Sequence[str] = (),
        memory_bytes: int = 512 << 20,
        scale: float | None = None,
        block_max: bool = True,
        reorder: bool = False,
    ) -> None:
        indexed = [parse_field(name) for name in fields]
        self._root = directory
        self._segment = directory / _SEGMENT
        with storage_errors(directory):
            self._segment.mkdir(parents=True)
        self._vocab_size = vocab_size
        self._postings = PostingWriter(
            self._segment, vocab_size, memory_bytes=memory_bytes, scale=scale, block_max=block_max, reorder=reorder
        )
        self._reordered = reorder
        self._documents = DocumentWriter(self._segment / DOCUMENTS_FILE)
        self._fields = FieldWriter(self._segment / FIELDS_FILE, indexed)
        self._spans: list[npt.NDArray[np.uint32]] | None = [] if passages else None

    @property
    def documents(self) -> int:
        """Documents added so far."""
        return self._documents.count

    @property
    def units(self) -> int:
        """Vectors added so far."""
        return self._postings.units

    def add_document(self, document: Document) -> int:
        """Store a document; returns its ordinal. Raises DuplicateIdError if its id was used before."""
        [result] = self.add_documents([document])
        if isinstance(result, InputError):
            raise result
        return result

    def add_documents(self, documents: Sequence[Document]) -> list[int | InputError]:
        """Store documents, faster than one at a time; each place of the result is the ordinal, or why there is none."""
        ordinals: list[int | InputError] = []
        for result in self._documents.add(documents):
            if isinstance(result, InputError):
                ordinals.append(result)
            else:
                self._fields.add(result)
                ordinals.append(result.ordinal)
        return ordinals

    def add_vectors(self, batch: SparseBatch, spans: Sequence[PassageSpan] | None = None) -> None:
        """Append unit vectors; with passages ``spans`` has one entry a vector, documents ascending.

        Raises InputError for malformed vectors or spans.
        """
        if self._spans is not None:
            if spans is None or len(spans) != len(batch):
                raise InputError(f"an index of passages needs the span of each of the {len(batch)} vectors")
            self._spans.append(np.array(spans, np.uint32).reshape(-1, 3))
        self._postings.add(batch)

    def finish(
        self,
        *,
        statistics: Statistics | None = None,
        vocabulary_sha256: str | None = None,
        query_encoder: str | None = None,
        document_encoder: str | None = None,
        document_vectors: EncoderIdentity | None = None,
        text: TextSettings | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> IndexManifest:
        """Merge the postings, close the files, and write the manifest. Every document needs a unit."""
        self._documents.close()
        self._fields.close(self.documents)
        counts = self._postings.finish(progress)
        if self._spans is not None:
            self._write_spans(np.concatenate([np.empty((0, 3), np.uint32), *self._spans]))
        elif self.documents != counts.units:
            raise InputError(f"documents and vectors differ in number: {self.documents} and {counts.units} were added")
        segment = SegmentEntry(
            path=_SEGMENT,
            documents=self.documents,
            units=counts.units,
            postings=counts.postings,
            blocks=counts.blocks,
            rows=counts.rows,
            occupied=counts.occupied,
            passages=self._spans is not None,
            reordered=self._reordered,
        )
        manifest = IndexManifest(
            format=INDEX_FORMAT,
            version=VERSION,
            files=self._list_files(),
            generation=1,
            features=[],
            vocab_size=self._vocab_size,
            vocabulary_sha256=vocabulary_sha256,
            scale=counts.scale,
            window_bits=WINDOW_BITS,
            segments=[segment],
            statistics=msgspec.structs.replace(
                statistics or Statistics(),
                empty=counts.empty,
                below_half_a_step=counts.below_half_a_step,
                clipped=counts.clipped,
            ),
            query_encoder=query_encoder,
            document_encoder=document_encoder,
            document_vectors=document_vectors,
            text=text,
            made_by=MADE_BY,
        )
        write_manifest(self._root / MANIFEST_NAME, manifest)
        return manifest

    def _list_files(self) -> dict[str, FileEntry]:
        """The segment's files, and of each encoder its manifest, which lists the rest."""
        with storage_errors(self._root):
            paths = [p for p in self._segment.iterdir() if p.is_file()]
            paths += self._root.glob(f"encoder/*/{ARTIFACT_MANIFEST}")
            return {p.relative_to(self._root).as_posix(): describe_file(p) for p in sorted(paths)}

    def _write_spans(self, spans: npt.NDArray[np.uint32]) -> None:
        owners = spans[:, 0].astype(np.int64)
        if (np.diff(owners) < 0).any() or not np.array_equal(np.unique(owners), np.arange(self.documents)):
            raise InputError("passages must follow the order of their documents, each document with at least one")
        with storage_errors(self._root):
            for name, columns in (("unit_documents.u32", spans[:, 0]), ("unit_spans.u32", spans[:, 1:])):
                data = np.ascontiguousarray(columns, SEGMENT_ARRAYS[name].dtype)
                (self._segment / name).write_bytes(data.tobytes())

    def abort(self) -> None:
        """Close open files without finishing; the caller removes the directory."""
        self._documents.abandon()
        self._fields.abandon()
