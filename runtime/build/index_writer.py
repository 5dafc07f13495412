"""Writing a new index directory: one segment, its manifest last. What changes it later is in transaction.py."""

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
from ..filters.formatting import spell_field
from ..index.layout import INDEX_FORMAT, MANIFEST_NAME, VERSION, EncoderIdentity, IndexManifest, SegmentSettings, Statistics, TextSettings
from ..update.merge_policy import SMALL
from .segment_writer import PassageSpan, SegmentWriter, list_segment

__all__ = ["IndexWriter", "PassageSpan"]

_SEGMENT = "segments/00000001"


class IndexWriter:
    """Writes an index into an empty directory. Add documents and their vectors in the same order, then :meth:`finish`.

    ``passages``: a document may have several vectors; then :meth:`add_vectors` takes their :class:`PassageSpan`.
    ``fields``: names of stored fields that get an index, so that filters on them read no documents.
    ``block_max``: write block-max data of the frequent terms; without it an index is smaller, and slower for few
    results. ``block_max_from``: nor are there any for fewer units, where adding all postings up is as fast.
    ``reorder``: put similar units next to each other, which changes nothing but speed and size.
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
        block_max_from: int = SMALL,
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
            fields=list(dict.fromkeys(spell_field(parse_field(name)) for name in fields)),
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
        """Store a document; returns its ordinal. Raises DuplicateIdError if its id was used before."""
        [result] = self.add_documents([document])
        if isinstance(result, InputError):
            raise result
        return result

    def add_documents(self, documents: Sequence[Document]) -> list[int | InputError]:
        """Store documents, faster than one at a time; each place of the result is the ordinal, or why there is none."""
        return self._segment.add_documents(documents)

    def add_vectors(self, batch: SparseBatch, spans: Sequence[PassageSpan] | None = None) -> None:
        """Append unit vectors; with passages ``spans`` has one entry a vector, documents ascending.

        Raises InputError for malformed vectors or spans.
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
        """Merge the postings, close the files, and write the manifest. Every document needs a unit."""
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
        """The segment's files, and of each encoder its manifest, which lists the rest."""
        with storage_errors(self._root):
            encoders = {
                p.relative_to(self._root).as_posix(): describe_file(p)
                for p in sorted(self._root.glob(f"encoder/*/{ARTIFACT_MANIFEST}"))
            }
        return encoders | list_segment(self._root, _SEGMENT)

    def abort(self) -> None:
        """Close open files without finishing; the caller removes the directory."""
        self._segment.abort()
