"""Writing a new index directory of one segment; the manifest is written last. update/ changes an index later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from ..artifact import MANIFEST_NAME as ARTIFACT_MANIFEST
from ..document import Document
from ..errors import InputError
from ..files import storage_errors
from ..manifest import FileEntry, describe_file, write_manifest
from ..scorer import RANGE_BITS
from ..vectors import SparseBatch
from ..version import MADE_BY
from ..filters import parse_field
from ..filters.formatting import format_field
from ..index.layout import INDEX_FORMAT, MANIFEST_NAME, VERSION, EncoderIdentity, IndexManifest, SegmentSettings, Statistics, TextSettings
from .limits import BLOCK_MAX_FROM, DEFAULT_MEMORY
from .passages import PassageSpan
from .segment_writer import SegmentWriter, list_segment

_SEGMENT = "segments/00000001"


class IndexWriter:
    """Writes an index into an empty directory.

    Add documents and their vectors in the same order, then call :meth:`finish`.

    Parameters
    ----------
    directory
        An empty directory.
    vocab_size
        The number of terms.
    passages
        Whether a document may have several vectors; then :meth:`add_vectors` takes their spans.
    fields
        Names of stored fields that get an index, so that filters on them read no documents.
    memory_bytes
        Memory for postings, at least 8 MiB.
    scale
        Weight of one impact step; None: largest weight / 255.
    block_max
        Whether block-max data of the frequent terms is written. Without it an index is smaller, and slower for few
        results.
    block_max_from
        With fewer units there is no block-max data, because term-at-a-time is as fast then.
    reorder
        Whether similar units are put next to each other, which changes nothing but speed and size.

    Raises
    ------
    InputError
        For a scale, a memory size or a field name that is not valid.
    StorageError
        If the directory cannot be written.
    """

    def __init__(
        self,
        directory: Path,
        vocab_size: int,
        *,
        passages: bool = False,
        fields: Sequence[str] = (),
        memory_bytes: int = DEFAULT_MEMORY,
        scale: float | None = None,
        block_max: bool = True,
        block_max_from: int = BLOCK_MAX_FROM,
        reorder: bool = False,
    ) -> None:
        self._root = directory
        self._block_max_from = block_max_from
        self._vocab_size = vocab_size
        self._segment = SegmentWriter(
            directory,
            _SEGMENT,
            vocab_size,
            passages=passages,
            fields=fields,
            memory_bytes=memory_bytes,
            scale=scale,
            block_max=block_max,
            reorder=reorder,
        )
        self._settings = SegmentSettings(
            fields=list(dict.fromkeys(format_field(parse_field(name)) for name in fields)),
            passages=passages,
            block_max=block_max,
            reorder=reorder,
        )

    @property
    def documents(self) -> int:
        """Documents added so far."""
        return self._segment.documents

    @property
    def units(self) -> int:
        """Vectors added so far."""
        return self._segment.units

    def add_document(self, document: Document) -> int:
        """Store one document.

        Parameters
        ----------
        document
            The document.

        Returns
        -------
        int
            Its ordinal, from 0.

        Raises
        ------
        DuplicateIdError
            If its id was used before.
        InputError
            If its metadata cannot be stored.
        StorageError
            If the document cannot be written.
        """
        [result] = self.add_documents([document])
        if isinstance(result, InputError):
            raise result
        return result

    def add_documents(self, documents: Sequence[Document]) -> list[int | InputError]:
        """Store documents. This is faster than one at a time.

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
        return self._segment.add_documents(documents)

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
        self._segment.add_vectors(batch, spans)

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
        """Merge the postings, close the files and write the manifest. Every document needs a unit.

        Parameters
        ----------
        statistics
            What was counted while the documents were read.
        vocabulary_sha256
            Identifies the vocabulary of the encoders.
        query_encoder, document_encoder
            Directories of the encoders in the index, relative to it; None: the index does not carry one.
        document_vectors
            The graph that made the vectors.
        text
            How texts were joined and truncated.
        progress
            Receives the share of terms that are merged, 0 to 1.

        Returns
        -------
        IndexManifest
            The manifest as it was written.

        Raises
        ------
        InputError
            If documents and vectors do not fit together.
        StorageError
            If a file cannot be written.
        """
        segment, counts = self._segment.finish(progress, block_max_from=self._block_max_from)
        manifest = IndexManifest(
            format=INDEX_FORMAT,
            version=VERSION,
            files=self._list_files(),
            generation=1,
            features=[],
            vocab_size=self._vocab_size,
            vocabulary_sha256=vocabulary_sha256,
            scale=counts.scale,
            window_bits=RANGE_BITS,
            segments=[segment],
            settings=self._settings,
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
        """The segment's files, and the manifest of each encoder, which lists the encoder's files."""
        with storage_errors(self._root):
            encoders = {
                p.relative_to(self._root).as_posix(): describe_file(p)
                for p in sorted(self._root.glob(f"encoder/*/{ARTIFACT_MANIFEST}"))
            }
        return encoders | list_segment(self._root, _SEGMENT)

    def abort(self) -> None:
        """Close open files without finishing. The caller removes the directory."""
        self._segment.abort()
