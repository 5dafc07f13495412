"""From a stream of documents to an index directory: join title and text, split into passages, encode, write, commit."""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .artifact_copy import copy_artifact
from ..artifact import Artifact, encoding_sha256, open_artifact
from .corpus import BadLines, Record
from ..document import Document
from ..encoder import Encoder
from ..encoder.tokenizer import TextTokenizer, clean_text
from ..errors import ArtifactError, InputError
from ..files import storage_errors
from ..index.layout import LOCK_NAME, MANIFEST_NAME, EncoderIdentity, IndexManifest, PassageSettings, Statistics, TextSettings
from .limits import DEFAULT_MEMORY
from ..locking import writer_lock
from ..numerics import NUMERICS
from .foreign_files import refuse_foreign_to_index
from .passages import Passages, PassageSpan, split
from .checkpointing import Note, ShardStore, encode_in_shards
from .staging import check_writable_target, staged_directory
from ..vectors import SparseBatch, SparseVector

if TYPE_CHECKING:
    from .index_writer import IndexWriter

QUERY_ENCODER = "encoder/query"
DOCUMENT_ENCODER = "encoder/document"
JOIN = "title + ' ' + text"
_BATCH = 32  # documents and vectors that the writer receives at a time; progress is reported after each batch


@dataclass(frozen=True)
class Progress:
    """The state of indexing.

    Attributes
    ----------
    documents
        Documents that are encoded.
    units
        Documents or passages that are encoded.
    merged
        The share of terms that are merged at the end, 0 to 1.
    """

    documents: int
    units: int
    merged: float


def join_title(title: str, text: str) -> str:
    """The text that is encoded of a document.

    Parameters
    ----------
    title, text
        The document's title and text.

    Returns
    -------
    str
        Both with a blank between them, or the one that is not empty.
    """
    return f"{title} {text}" if title and text else title or text


def build_index(
    output: str | Path,
    records: Iterable[Record] | Iterable[Document],
    document_encoder: Encoder | str | Path,
    query_encoder: Artifact | str | Path | None = None,
    *,
    passages: Passages | None = None,
    fields: Sequence[str] = (),
    with_document_encoder: bool = False,
    bad_lines: BadLines | None = None,
    memory_bytes: int = DEFAULT_MEMORY,
    reorder: bool = False,
    block_max: bool = True,
    force: bool = False,
    resume: str | Path | None = None,
    note: Note | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> IndexManifest:
    """Encode documents and write an index directory in one step. After an error or a kill there is no index.

    Encoding holds one look-ahead window of texts in memory.

    Parameters
    ----------
    output
        The index directory to make.
    records
        Documents, or :class:`Record` with their locations. Their order breaks ties between equal scores.
    document_encoder
        An encoder, or the directory of an artifact or a pair.
    query_encoder
        The artifact that the index carries. Only its graphs of the document encoder's precision are copied, or all if
        it has none of that precision. None: the query side of ``document_encoder``.
    passages
        How documents are split; None: one vector a document.
    fields
        Names of stored fields that get an index, so that filters on them read no documents.
    with_document_encoder
        Whether the index carries the document encoder too, to add documents later.
    bad_lines
        Receives duplicate ids and documents that cannot be stored. None: these are errors.
    memory_bytes
        Memory for postings.
    reorder, block_max
        See :class:`.index_writer.IndexWriter`.
    force
        Whether an index that is there may be replaced.
    resume
        A directory where encoded vectors are kept until the index is written. The same call after a kill or an error
        encodes only what is missing, and ends with the same bytes.
    note
        Receives one line about the vectors that are used again.
    progress
        Receives the state, some documents at a time.

    Returns
    -------
    IndexManifest
        The manifest of the index.

    Raises
    ------
    InputError
        If there are no documents, ``output`` exists, or ``resume`` is in use or something else.
    CorpusError
        For a bad line.
    ArtifactError
        For encoders that do not fit together or are of the wrong side.
    IndexLockedError
        If another process is changing the index that would be replaced.
    StorageError
        If the system refuses to write, for example because the disk is full.
    """
    from .index_writer import IndexWriter  # loads Numba, which a delete does not need

    output = Path(output)
    check_writable_target(output, manifest=MANIFEST_NAME, force=force, refuse=refuse_foreign_to_index)
    document_encoder, query_encoder = _open_sides(document_encoder, query_encoder)
    _check_sides(document_encoder, query_encoder)
    bad_lines = bad_lines or BadLines("fail")
    if passages is not None:
        _check_passages(passages, document_encoder)
    with contextlib.ExitStack() as held:
        # Changes that a writer made meanwhile would be lost. (Windows cannot rename a directory with an open file.)
        if sys.platform != "win32" and (output / MANIFEST_NAME).is_file():
            held.enter_context(writer_lock(output / LOCK_NAME, "let this user write to it, or choose another output"))
        shards = held.enter_context(_kept_shards(resume, document_encoder, note))
        staging = held.enter_context(
            staged_directory(output, manifest=MANIFEST_NAME, force=force, refuse=refuse_foreign_to_index)
        )
        writer = IndexWriter(
            staging,
            document_encoder.vocab_size,
            passages=passages is not None,
            fields=fields,
            memory_bytes=memory_bytes,
            reorder=reorder,
            block_max=block_max,
        )
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(writer.abort)
            truncated = encode_all(writer, records, document_encoder, passages, bad_lines, progress, shards)
            if writer.documents == 0:
                raise InputError("the corpus has no documents; nothing was written")
            with storage_errors(output):
                _copy_encoders(staging, document_encoder, query_encoder, with_document_encoder)
            variant = document_encoder.variant
            source = document_encoder.artifact.manifest
            manifest = writer.finish(
                statistics=Statistics(truncated=truncated, bad_lines=bad_lines.count),
                vocabulary_sha256=source.vocabulary_sha256,
                query_encoder=QUERY_ENCODER,
                document_encoder=DOCUMENT_ENCODER if with_document_encoder else None,
                document_vectors=EncoderIdentity(
                    checkpoint=source.source.checkpoint,
                    backend=variant.backend,
                    precision=variant.precision,
                    sha256=source.files[variant.path].sha256,
                    files_sha256=encoding_sha256(document_encoder.artifact, variant, "document"),
                    numerics=NUMERICS,
                ),
                text=TextSettings(
                    join=JOIN,
                    max_length=document_encoder.tokenizer_of("document").max_length,
                    passages=PassageSettings(passages.max_tokens, passages.overlap) if passages else None,
                ),
                progress=_merge_progress(progress, writer),
            )
    return manifest


@contextlib.contextmanager
def _kept_shards(directory: str | Path | None, encoder: Encoder, note: Note | None) -> Iterator[ShardStore | None]:
    """The store of encoded vectors, or None. Its files are removed when the block ends without an error."""
    if directory is None:
        yield None
        return
    store = ShardStore(Path(directory), encoder, note)
    keep = True
    try:
        yield store
        keep = False
    finally:
        store.close(keep=keep)


class Sink(Protocol):
    """Takes documents and their vectors in the same order, as :class:`.index_writer.IndexWriter` does."""

    @property
    def units(self) -> int:
        """Vectors added so far."""

    def add_documents(self, documents: Sequence[Document]) -> list[int | InputError]:
        """See :meth:`.index_writer.IndexWriter.add_documents`."""

    def add_vectors(self, batch: SparseBatch, spans: Sequence[PassageSpan] | None = None) -> None:
        """See :meth:`.index_writer.IndexWriter.add_vectors`."""


def encode_all(
    writer: Sink,
    records: Iterable[Record] | Iterable[Document],
    encoder: Encoder,
    passages: Passages | None,
    bad_lines: BadLines,
    progress: Callable[[Progress], None] | None,
    shards: ShardStore | None = None,
) -> int:
    """Encode and write all documents.

    Parameters
    ----------
    writer
        Receives documents and vectors.
    records
        Documents, or :class:`Record` with their locations.
    encoder
        The document encoder.
    passages
        How documents are split; None: one vector a document.
    bad_lines
        Receives documents that cannot be stored.
    progress
        Receives the state, some documents at a time.
    shards
        Where encoded vectors are kept; None: nowhere.

    Returns
    -------
    int
        How many units were truncated at the encoder's maximum length.

    Raises
    ------
    CorpusError
        For a document that cannot be stored, unless ``bad_lines`` skips it.
    InputError
        For a record that is not a document.
    StorageError
        If the system refuses to read or write.
    """
    spans: deque[PassageSpan] = deque()
    tokenizer = encoder.tokenizer_of("document")

    def texts() -> Iterator[str]:
        for document, ordinal in _store(writer, records, bad_lines):
            for start, end in unit_spans(document, tokenizer, passages):
                spans.append(PassageSpan(ordinal, start, end))
                yield join_title(document.title, document.text[start:end])

    truncated = 0
    vectors: list[SparseVector] = []

    def flush() -> None:
        done = [spans.popleft() for _ in vectors]
        writer.add_vectors(SparseBatch.stack(vectors), done if passages else None)
        vectors.clear()
        if progress is not None and done:
            progress(Progress(done[-1].document + 1, writer.units, 0.0))

    for encoded in encode_in_shards(encoder, texts(), shards):
        truncated += encoded.truncated
        vectors.append(encoded.vector if encoded.known else SparseVector(encoded.vector[0][:0], encoded.vector[1][:0]))
        if len(vectors) == _BATCH:
            flush()
    flush()
    return truncated


def _store(
    writer: Sink, records: Iterable[Record] | Iterable[Document], bad_lines: BadLines
) -> Iterator[tuple[Document, int]]:
    """Store documents in batches; yields those that were stored, with their ordinals."""
    numbered = enumerate(records)
    while batch := list(islice(numbered, _BATCH)):
        documents, locations = [], []
        for number, record in batch:
            document, location = record if isinstance(record, Record) else (record, f"document {number}")
            if not isinstance(document, Document):
                raise InputError(f"{location} is of type {type(document).__name__}; give Document objects")
            try:
                documents.append(_storable(document))
            except InputError as error:
                bad_lines.report(location, str(error))
            else:
                locations.append(location)
        for document, location, result in zip(documents, locations, writer.add_documents(documents), strict=True):
            if isinstance(result, InputError):  # an id used before, metadata that is not JSON
                bad_lines.report(location, str(result))
            else:
                yield document, result


def unit_spans(document: Document, tokenizer: TextTokenizer, passages: Passages | None) -> list[tuple[int, int]]:
    """The parts of a document's text that are encoded, each behind the title.

    If a title leaves too little room for a passage, the passages get shorter, down to a quarter of their size. A title
    that needs more than that is truncated at the encoder's maximum length, and counted as truncated.

    Parameters
    ----------
    document
        The document.
    tokenizer
        The tokenizer of the document encoder.
    passages
        How documents are split; None: the whole text is one part.

    Returns
    -------
    list of (int, int)
        Start and end of each part, in characters of the text.
    """
    if passages is None:
        return [(0, len(document.text))]
    room = tokenizer.room - len(tokenizer.spans(document.title[: tokenizer.most_characters]).offsets)
    tokens = min(passages.max_tokens, max(room, -(-passages.max_tokens // 4)))
    return split(document.text, tokenizer, tokens, min(passages.overlap, tokens - 1))


def _storable(document: Document) -> Document:
    """The document without lone surrogates, which neither UTF-8 nor SQLite can hold. Ids are never changed."""
    if clean_text(document.id) != document.id:
        raise InputError(f"the id {document.id!r} holds a lone surrogate; ids must be valid Unicode")
    return replace(document, title=clean_text(document.title), text=clean_text(document.text))


def _open_sides(
    document_encoder: Encoder | str | Path, query_encoder: Artifact | str | Path | None
) -> tuple[Encoder, Artifact]:
    """Open encoders that were given as directories."""
    if query_encoder is None:
        query_encoder = (
            document_encoder.artifact
            if isinstance(document_encoder, Encoder)
            else open_artifact(document_encoder, "query")
        )
    elif not isinstance(query_encoder, Artifact):
        query_encoder = open_artifact(query_encoder, "query")
    if not isinstance(document_encoder, Encoder):
        document_encoder = Encoder.open(document_encoder, "document")
    return document_encoder, query_encoder


def _check_sides(document_encoder: Encoder, query_encoder: Artifact) -> None:
    artifact = document_encoder.artifact
    if not artifact.serves("document"):
        raise ArtifactError(f"{artifact.path} holds a query encoder; documents need a document encoder")
    if not query_encoder.serves("query"):
        raise ArtifactError(f"{query_encoder.path} holds a document encoder; the index carries a query encoder")
    if artifact.manifest.vocabulary_sha256 != query_encoder.manifest.vocabulary_sha256:
        raise ArtifactError(
            f"{query_encoder.path} has another vocabulary than {artifact.path}; use the two encoders of one pair"
        )


def _check_passages(passages: Passages, encoder: Encoder) -> None:
    tokenizer = encoder.tokenizer_of("document")
    room, prompt = max(tokenizer.room, 0), " and its prompt" * bool(tokenizer.prompt)
    if passages.max_tokens > room:
        raise InputError(
            f"passages of {passages.max_tokens} tokens do not fit: the document encoder reads {room} "
            f"beside its special tokens{prompt}; ask for fewer"
        )


def _copy_encoders(
    staging: Path, document_encoder: Encoder, query_encoder: Artifact, with_document_encoder: bool
) -> None:
    precision = document_encoder.variant.precision
    has = any(v.precision == precision for v in query_encoder.manifest.variants)
    target = staging / QUERY_ENCODER
    target.mkdir(parents=True)
    copy_artifact(query_encoder, target, lambda v: v.precision == precision or not has)
    if with_document_encoder:
        target = staging / DOCUMENT_ENCODER
        target.mkdir()
        # Documents added later must get vectors from the very same graph.
        copy_artifact(document_encoder.artifact, target, lambda v: v == document_encoder.variant)


def _merge_progress(progress: Callable[[Progress], None] | None, writer: IndexWriter) -> Callable[[float], None] | None:
    if progress is None:
        return None
    return lambda share: progress(Progress(writer.documents, writer.units, share))
