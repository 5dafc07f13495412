"""The index directory as data: what its manifest says and which arrays a segment has. FORMAT.md tells it in prose.

    INDEX/splade_edge_index.json     IndexManifest, replaced in one step by a commit
    INDEX/splade_edge_index.lock     held by the one process that changes the index
    INDEX/segments/00000001/…        immutable files of one segment: SEGMENT_ARRAYS, documents.sqlite, fields.sqlite
    INDEX/tombstones/…               which documents of a segment are deleted: a file a segment and generation
    INDEX/encoder/query/…            the query encoder, an artifact of its own
    INDEX/encoder/document/…         the document encoder, where the index was made with it

A *unit* is what is scored: a document, or a passage of one. The word stands only where the two must be told apart; the
scorer calls a unit a document. An *ordinal* is a document's number in the index, by insertion. A *docid* is a unit's
number in the order of its segment.

A posting is a unit and its 8-bit impact for a term. Docids are cut into ranges of 2^16, so that a posting is a uint16
and a uint8. They are also cut into blocks of 64 and superblocks of 256. A term that is frequent enough has a row of
block-max data: its largest impact in each block, and where in the posting list segment the block's postings start.

The names on the disk are older than these words:

    block_…     a posting list segment: the postings of a term in a docid range
    window      a docid range
    chunk_…     a block
    span_…      a superblock
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from ..directory import AnyPath
from ..errors import IndexFormatError
from ..manifest import Manifest, read_manifest
from ..posting_layout import BLOCK_SIZE, SUPERBLOCK_BLOCKS
from ..posting_layout import KTH_LEVELS as KTH_LEVELS

MANIFEST_NAME = "splade_edge_index.json"
LOCK_NAME = "splade_edge_index.lock"
SEGMENTS, TOMBSTONES = "segments", "tombstones"
INDEX_FORMAT = "splade-edge-index"
# 3 added `numerics` of the document vectors, which a writer must heed; 2 segments, tombstones and settings; 1 had one
# segment, which never changed
VERSION = 3

MAX_UNITS = 1 << 32
MAX_FIELDS = 10_000  # that get an index
MAX_NAMES = 10_000  # metadata keyed by user or by date would have a name for each
MAX_IMPACT = 255
NO_SCALE = 1.0  # of an index without a single weight

# A term has a row of block-max data from one posting in so many units on.
FREQUENT = 256

Extent = Literal["vocab", "vocab+1", "blocks", "blocks+1", "postings", "units", "rows", "rows x chunks", "rows x spans"]


@dataclass(frozen=True)
class ArraySpec:
    """One raw little-endian array file: ``dtype``, number of rows by what it counts, and values a row."""

    dtype: str
    extent: Extent
    columns: int = 1
    pointer: bool = False  # pointers are hashed and validated in full on open
    only: Literal["passages", "reordered"] | None = None  # segments that have the array; None: all


SEGMENT_ARRAYS: dict[str, ArraySpec] = {
    # blocks of term t: block_…[term_blocks[t]:term_blocks[t+1]]
    "term_blocks.u64": ArraySpec("<u8", "vocab+1", pointer=True),
    "term_impacts.u8": ArraySpec("<u1", "vocab", len(KTH_LEVELS), pointer=True),
    # CRC-32 of the bytes of term t's posting_units, then its posting_impacts
    "term_checksums.u32": ArraySpec("<u4", "vocab", pointer=True),
    "block_windows.u16": ArraySpec("<u2", "blocks", pointer=True),
    "block_impacts.u8": ArraySpec("<u1", "blocks", pointer=True),  # largest impact in the block
    "block_postings.u64": ArraySpec("<u8", "blocks+1", pointer=True),
    "chunk_terms.u32": ArraySpec("<u4", "rows", pointer=True),  # the frequent terms, ascending
    # CRC-32 of the bytes of the row's chunk_impacts, then its span_postings, then its chunk_postings
    "chunk_checksums.u32": ArraySpec("<u4", "rows", pointer=True),
    "chunk_impacts.u8": ArraySpec("<u1", "rows x chunks"),  # largest impact in the chunk, 0 without postings
    # where a chunk's postings start: of the term's postings in the window, those before its span of 4 chunks, and of
    # those in the span, those before the chunk
    "span_postings.u16": ArraySpec("<u2", "rows x spans"),
    "chunk_postings.u8": ArraySpec("<u1", "rows x chunks"),
    "posting_units.u16": ArraySpec("<u2", "postings"),  # unit within its window, ascending in a block
    "posting_impacts.u8": ArraySpec("<u1", "postings"),  # 1..255
    # the docid permutation: by docid of the segment, the unit by insertion
    "original_units.u32": ArraySpec("<u4", "units", pointer=True, only="reordered"),
    "unit_documents.u32": ArraySpec(
        "<u4", "units", pointer=True, only="passages"
    ),  # ascending; only where documents have passages
    # a passage's (start, end) in characters of its document's text; likewise
    "unit_spans.u32": ArraySpec("<u4", "units", columns=2, pointer=True, only="passages"),
}
DOCUMENTS_FILE = "documents.sqlite"
FIELDS_FILE = "fields.sqlite"  # absent in indexes made before it was thought of
FIELDS_SCHEMA = """
CREATE TABLE names (
    name TEXT PRIMARY KEY,
    numbers INTEGER NOT NULL,
    strings INTEGER NOT NULL,
    booleans INTEGER NOT NULL,
    field INTEGER
) WITHOUT ROWID;
CREATE TABLE field_values (
    field INTEGER NOT NULL,
    value NOT NULL,
    first INTEGER NOT NULL,
    ordinals BLOB NOT NULL,
    PRIMARY KEY (field, value, first)
) WITHOUT ROWID;
CREATE TABLE summary (documents INTEGER NOT NULL, all_names INTEGER NOT NULL);
"""
SCRATCH = ("runs", "sketches")  # in a segment while it is written


Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]


class SegmentEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One immutable segment: its directory below the index, and what it holds.

    ``rows`` are terms with block-max data, ``occupied`` counts their chunks with postings. ``reordered``: postings
    number the units in an order of the segment's own. ``tombstones`` is the file that says which documents are
    deleted, and ``deleted`` how many; None and 0 where none is.
    """

    path: str
    documents: Annotated[int, msgspec.Meta(ge=0, le=MAX_UNITS)]
    units: Annotated[int, msgspec.Meta(ge=0, le=MAX_UNITS)]
    postings: Count
    blocks: Count
    rows: Count
    occupied: Count
    passages: bool
    reordered: bool
    tombstones: str | None = None
    deleted: Annotated[int, msgspec.Meta(ge=0, le=MAX_UNITS)] = 0

    @property
    def live(self) -> int:
        """Documents that are not deleted."""
        return self.documents - self.deleted


class SegmentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How segments are written, now and later: names of the ``fields`` that get an index, whether documents have
    ``passages``, whether frequent terms get block-max data, whether similar units are put next to each other.
    """

    fields: Annotated[list[str], msgspec.Meta(max_length=MAX_FIELDS)]
    passages: bool
    block_max: bool
    reorder: bool


class PassageSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How documents were split: tokens a passage (without special tokens), tokens shared by neighbours."""

    tokens: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
    overlap: Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]


class TextSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How text became vectors: ``join`` of title and text, ``max_length`` in tokens with special tokens, passages."""

    join: str
    max_length: int
    passages: PassageSettings | None


class EncoderIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The graph that made the document vectors. ``sha256`` is that of the graph's file; ``files_sha256`` stands for all
    that a vector depends on (see :func:`splade_edge.runtime.artifact.encoding_sha256`), None in indexes of version 1.
    ``numerics`` is that of the release that made them (see :mod:`splade_edge.runtime.numerics`), 0 before version 3.
    """

    checkpoint: str
    backend: str
    precision: str
    sha256: str
    files_sha256: str | None = None
    numerics: int = 0


class Statistics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Counts from indexing: what was cut, what was left out, and why.

    ``truncated``: units longer than max_length; ``empty``: units without a term; ``below_half_a_step``: weights whose
    impact rounds to 0; ``clipped``: weights above 255 steps; ``bad_lines``: lines skipped under ``--on-error skip``.
    """

    truncated: Count = 0
    empty: Count = 0
    below_half_a_step: Count = 0
    clipped: Count = 0
    bad_lines: Count = 0


class IndexManifest(Manifest, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The manifest of an index. A weight is ``scale * impact``.

    ``segments`` are in the order of insertion; ``settings`` is None in version 1 alone. ``features`` are what a reader
    must know beyond this; ``generation`` counts commits. ``query_encoder`` and ``document_encoder`` are directories
    below the index; None in an index of bare vectors.
    """

    generation: Count
    features: list[str]
    vocab_size: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
    vocabulary_sha256: str | None
    scale: Annotated[float, msgspec.Meta(gt=0, lt=1e37)]  # times 255 it is a float32
    window_bits: int
    segments: list[SegmentEntry]
    statistics: Statistics
    query_encoder: str | None
    document_encoder: str | None
    document_vectors: EncoderIdentity | None
    text: TextSettings | None
    made_by: str
    settings: SegmentSettings | None = None

    @property
    def has_scale(self) -> bool:
        """False where nothing was ever measured with it: the first weights that come set it."""
        return self.scale != NO_SCALE or any(entry.postings for entry in self.segments)

    @property
    def live(self) -> int:
        """Documents that are not deleted."""
        return sum(segment.live for segment in self.segments)


def read_manifest_file(path: AnyPath, known: dict[bytes, IndexManifest] | None = None) -> IndexManifest:
    """The manifest in a file; ``known``: see :func:`read_manifest`. Raises IndexFormatError (none, too new),
    IntegrityError (damaged).
    """
    return read_manifest(path, IndexManifest, format=INDEX_FORMAT, version=VERSION, error=IndexFormatError, known=known)


def chunks(units: int) -> int:
    """Chunks of so many units; the last may be short."""
    return -(-units // BLOCK_SIZE)


def spans(units: int) -> int:
    """Spans of so many units; the last may be short."""
    return -(-units // (BLOCK_SIZE * SUPERBLOCK_BLOCKS))


def array_shape(spec: ArraySpec, segment: SegmentEntry, vocab_size: int) -> tuple[int, ...]:
    """Shape of a segment's array: one or two dimensions."""
    if spec.extent == "rows x chunks":
        return (segment.rows, chunks(segment.units))
    if spec.extent == "rows x spans":
        return (segment.rows, spans(segment.units))
    rows = {
        "vocab": vocab_size,
        "vocab+1": vocab_size + 1,
        "blocks": segment.blocks,
        "blocks+1": segment.blocks + 1,
        "postings": segment.postings,
        "units": segment.units,
        "rows": segment.rows,
    }[spec.extent]
    return (rows,) if spec.columns == 1 else (rows, spec.columns)


def segment_arrays(segment: SegmentEntry) -> dict[str, ArraySpec]:
    """The arrays a segment has, by file name."""
    has = {None: True, "passages": segment.passages, "reordered": segment.reordered}
    return {name: spec for name, spec in SEGMENT_ARRAYS.items() if has[spec.only]}
