"""Changing an index: add, update and delete documents by id, and commit it in one step.

What only adding needs (encoders, the corpus, passages) is imported where it is used, so that a delete starts fast.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from .. import numerics
from ..artifact import Artifact, Variant, encoding_sha256, open_artifact
from ..build.limits import DEFAULT_MEMORY
from ..document import Document
from ..errors import INDEX_AGAIN, ArtifactError, IndexFormatError, InputError, export_again
from ..files import safe_join
from ..index import Index
from ..index.layout import IndexManifest
from ..vectors import SparseBatch
from .transaction import Commit, Transaction

if TYPE_CHECKING:
    from ..build.corpus import BadLines, Record
    from ..build.indexing import Progress
    from ..build.passages import PassageSpan
    from ..encoder import Encoder

_BATCH = 500  # documents stored at a time


class IndexUpdater:
    """The one writer of an index.

    As a context manager it commits at the end of the block. If the block ends with an error, the changes are discarded.

    Readers see nothing before :meth:`commit`, and keep what they have opened (see :meth:`Index.refresh`). Segments are
    merged within :meth:`commit`, never in the background. Not safe from several threads. Make one with :meth:`open`.

    Parameters
    ----------
    transaction
        The writer of the index directory.
    document_encoder, threads
        See :meth:`open`.
    """

    def __init__(self, transaction: Transaction, document_encoder: str | Path | None, threads: int | None) -> None:
        self._transaction = transaction
        self._given = document_encoder
        self._threads = threads
        self._encoder: Encoder | None = None
        self._failed = False

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        document_encoder: str | Path | None = None,
        threads: int | None = None,
        memory_bytes: int = DEFAULT_MEMORY,
    ) -> IndexUpdater:
        """Become the writer of an index directory.

        Parameters
        ----------
        path
            The index directory.
        document_encoder
            The artifact or pair that the index was made with. It is needed to add documents, unless the index carries
            the encoder. It is refused unless it gives the vectors that the index was made of.
        threads
            Threads of the encoder; None: the CPUs that this process may use.
        memory_bytes
            Memory for postings, also while merging.

        Returns
        -------
        IndexUpdater
            The writer.

        Raises
        ------
        IndexLockedError
            If another process is changing the index.
        IndexFormatError
            If there is no index, or one that this release cannot read.
        IntegrityError
            If the index is damaged.
        StorageError
            If the system refuses to read or write.
        """
        return cls(Transaction(path, memory_bytes=memory_bytes), document_encoder, threads)

    @property
    def index(self) -> Index:
        """The index as of the last commit."""
        return self._transaction.index

    def add(
        self,
        records: Iterable[Record] | Iterable[Document],
        *,
        bad_lines: BadLines | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        """Encode documents and add them.

        Parameters
        ----------
        records
            Documents, or :class:`Record` with their locations.
        bad_lines
            Receives documents whose id is in use, or that cannot be stored. None: these are errors.
        progress
            Receives the state, some documents at a time.

        Raises
        ------
        CorpusError
            For a bad line.
        ArtifactError
            If there is no document encoder, or another one, or one whose vectors this release would compute in another
            way (see :mod:`splade_edge.runtime.numerics`).
        IndexFormatError
            If the index was made of vectors, not of texts.
        StorageError
            If the system refuses to read or write.
        """
        self._encode(records, bad_lines, progress, replace=False)

    def update(
        self,
        records: Iterable[Record] | Iterable[Document],
        *,
        bad_lines: BadLines | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        """Encode documents; each replaces the document that has its id, or is added if there is none.

        A replaced document counts as inserted now. So among equal scores it comes behind those that were there.

        Parameters
        ----------
        records, bad_lines, progress
            As for :meth:`add`.

        Raises
        ------
        CorpusError, ArtifactError, IndexFormatError, StorageError
            As for :meth:`add`.
        """
        self._encode(records, bad_lines, progress, replace=True)

    def add_vectors(
        self,
        documents: Sequence[Document],
        vectors: SparseBatch,
        spans: Sequence[PassageSpan] | None = None,
        *,
        replace: bool = False,
    ) -> None:
        """Add documents with vectors of your own.

        Parameters
        ----------
        documents
            The documents.
        vectors
            One vector for each document, in the same order; in an index of passages one for each span.
        spans
            In an index of passages: one entry for each vector. Its ``document`` counts from 0 within this call.
        replace
            Whether a document replaces the one that has its id, as in :meth:`update`.

        Raises
        ------
        InputError
            For ids that are in use, and for malformed vectors or spans.
        StorageError
            If the system refuses to read or write.
        """
        self._refuse_failed()
        passages = self._transaction.settings.passages
        if len(vectors) != len(spans if passages and spans is not None else documents):
            raise InputError(f"{len(vectors)} vectors do not fit {len(documents)} documents")
        self._failed = True
        ordinals: list[int] = []
        for start in range(0, len(documents), _BATCH):
            for result in self._transaction.add_documents(documents[start : start + _BATCH], replace=replace):
                if isinstance(result, InputError):
                    raise result
                ordinals.append(result)
        if passages and spans is not None:
            from ..build.passages import PassageSpan

            if any(not 0 <= span.document < len(ordinals) for span in spans):
                raise InputError(f"a span is of a document that is not one of the {len(ordinals)} given")
            spans = [PassageSpan(ordinals[span.document], span.start, span.end) for span in spans]
        self._transaction.add_vectors(vectors, spans)
        self._failed = False

    def delete(self, ids: Iterable[str], *, ignore_missing: bool = False) -> int:
        """Delete documents by id.

        Parameters
        ----------
        ids
            Ids of documents.
        ignore_missing
            Whether ids that no document has are ignored.

        Returns
        -------
        int
            How many documents were deleted.

        Raises
        ------
        InputError
            If an id is missing and ``ignore_missing`` is false (then nothing is deleted), or is not a string.
        """
        self._refuse_failed()
        ids = [ids] if isinstance(ids, str) else list(ids)
        for document_id in ids:
            if not isinstance(document_id, str):
                raise InputError(f"{document_id!r} is not an id; ids are strings")
        if not ignore_missing and (missing := self._transaction.missing(ids)):
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise InputError(f"no document has the id {missing[0]!r}{more}; nothing was deleted")
        before = self._transaction.deleted
        self._transaction.delete(ids)
        return self._transaction.deleted - before

    def commit(self) -> Commit:
        """Make all changes since the last commit visible in one step, and durable.

        Segments are merged if there are many of one size.

        Returns
        -------
        Commit
            What was done.

        Raises
        ------
        InputError
            If an earlier change failed.
        IndexReplacedError
            If another process has replaced the index. Nothing was committed.
        StorageError
            If the system refuses to write. The index is then as the last commit left it.
        """
        return self._commit(compact=False)

    def compact(self) -> Commit:
        """Commit, and merge all segments into one without deleted documents.

        Returns
        -------
        Commit
            What was done.

        Raises
        ------
        InputError, IndexReplacedError, StorageError
            As for :meth:`commit`.
        """
        return self._commit(compact=True)

    def _commit(self, *, compact: bool) -> Commit:
        self._refuse_failed()
        self._failed = True
        commit = self._transaction.commit(compact=compact)
        self._failed = False
        return commit

    def close(self) -> None:
        """Discard what was not committed, and let other writers in."""
        self._transaction.close()

    def __reduce__(self) -> tuple[object, ...]:
        """A writer cannot be pickled."""
        raise TypeError("a writer of an index cannot be sent to another process; open one there, after closing this")

    def __enter__(self) -> IndexUpdater:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if kind is None:
                self.commit()  # raises if a change failed and the caller caught its error
        finally:
            self.close()

    def _refuse_failed(self) -> None:
        self._transaction.refuse_closed()
        if self._failed:
            raise InputError(
                f"an earlier change of {self._transaction.path} failed, so none is committed; open it again"
            )

    def _encode(
        self,
        records: Iterable[Record] | Iterable[Document],
        bad_lines: BadLines | None,
        progress: Callable[[Progress], None] | None,
        *,
        replace: bool,
    ) -> None:
        from ..build.indexing import encode_all
        from ..build.lines import BadLines
        from ..build.passages import Passages

        self._refuse_failed()
        if self._encoder is None:
            self._encoder = open_document_encoder(self.index, self._given, self._threads)
        text = self.index.manifest.text
        assert text is not None  # open_document_encoder refuses such an index
        passages = Passages(text.passages.tokens, text.passages.overlap) if text.passages else None
        bad_lines = bad_lines or BadLines("fail")
        skipped = bad_lines.count
        self._failed = True  # until all documents are added
        sink = _Sink(self._transaction, replace=replace)
        truncated = encode_all(sink, records, self._encoder, passages, bad_lines, progress)
        self._transaction.count(truncated=truncated, bad_lines=bad_lines.count - skipped)
        self._failed = False


class _Sink:
    """A transaction as a :class:`.indexing.Sink` that adds or replaces."""

    def __init__(self, transaction: Transaction, *, replace: bool) -> None:
        self._transaction = transaction
        self._replace = replace

    @property
    def units(self) -> int:
        return self._transaction.units

    def add_documents(self, documents: Sequence[Document]) -> list[int | InputError]:
        return self._transaction.add_documents(documents, replace=self._replace)

    def add_vectors(self, batch: SparseBatch, spans: Sequence[PassageSpan] | None = None) -> None:
        self._transaction.add_vectors(batch, spans)


def open_document_encoder(index: Index, given: str | Path | None, threads: int | None) -> Encoder:
    """Open the graph that made the vectors of an index.

    Parameters
    ----------
    index
        The index.
    given
        An artifact or a pair; None: the encoder that the index carries, or the pair of this installation.
    threads
        Threads of the encoder; None: the CPUs that this process may use.

    Returns
    -------
    Encoder
        The document encoder.

    Raises
    ------
    ArtifactError
        If there is no encoder, or another one.
    IndexFormatError
        If the index was made of vectors, not of texts.
    """
    from ..build.indexing import JOIN
    from ..encoder import Encoder

    manifest = index.manifest
    if manifest.document_vectors is None or manifest.text is None:
        raise IndexFormatError(
            f"{index.path} was made of vectors, not of texts; add vectors (IndexUpdater.add_vectors)"
        )
    if manifest.text.join != JOIN:
        raise IndexFormatError(f"{index.path} joins title and text in a way this release does not know; upgrade")
    if given is None and manifest.document_encoder is None:
        given = _bundled_pair(index)
    path = Path(given) if given is not None else safe_join(index.path, manifest.document_encoder or "")
    artifact = open_artifact(path, "document")
    _check_numerics(index, artifact)
    return Encoder(artifact, _same_variant(artifact, manifest, carried=given is None), threads, "document")


def _check_numerics(index: Index, artifact: Artifact) -> None:
    """Raise ArtifactError if new vectors would be computed in another way than those of the index."""
    made_with = index.manifest.document_vectors
    assert made_with is not None
    numbers = made_with.numerics, artifact.manifest.numerics, numerics.NUMERICS
    if len(set(numbers)) == 1:
        return
    fix = "upgrade splade-edge" if max(numbers) > numbers[2] else f"{export_again()} and {INDEX_AGAIN}"
    raise ArtifactError(
        f"{index.path} has vectors of numerics {numbers[0]}, {artifact.path} was exported with {numbers[1]} and this "
        f"release computes with {numbers[2]}, so new vectors would not fit those of the index; {fix}"
    )


def _bundled_pair(index: Index) -> Path:
    """The pair of this installation, if the index was made with it. Raises ArtifactError if not."""
    from ..build.bundled import bundled_pair

    manifest = index.manifest
    with contextlib.suppress(InputError, ArtifactError):  # there is none, or it is another
        pair = bundled_pair()
        _same_variant(open_artifact(pair, "document", check=False), manifest, carried=False)
        return pair
    made_with = "" if manifest.document_vectors is None else f", of {manifest.document_vectors.checkpoint}"
    raise ArtifactError(
        f"{index.path} carries no document encoder; name the artifact it was made with (--artifact){made_with}"
    )


def _same_variant(artifact: Artifact, manifest: IndexManifest, *, carried: bool) -> Variant:
    """The graph of an artifact that an index was made with. Raises ArtifactError if it is not there."""
    made_with = manifest.document_vectors
    assert made_with is not None
    assert manifest.text is not None
    for variant in artifact.manifest.variants:
        if artifact.manifest.files[variant.path].sha256 != made_with.sha256:
            continue
        if made_with.files_sha256 is not None:
            if encoding_sha256(artifact, variant, "document") == made_with.files_sha256:
                return variant
        # Version 1 kept the hash of one file. That of OpenVINO has no weights, so only the index's own copy is trusted.
        elif (
            artifact.manifest.vocabulary_sha256 == manifest.vocabulary_sha256
            and artifact.manifest.max_length == manifest.text.max_length
            and (carried or variant.backend != "openvino")
        ):
            return variant
    raise ArtifactError(
        f"{artifact.path} is not the encoder that the index was made with ({made_with.checkpoint}, {made_with.backend} "
        f"{made_with.precision}, SHA-256 {made_with.sha256[:12]}…); its vectors would not fit the index"
    )
