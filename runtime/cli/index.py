"""``splade-edge index``: documents in, an index directory out."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .command import add_engine_arguments, add_json_argument, byte_size, non_negative_int, positive_int
from .console import (
    finished,
    human_bytes,
    human_seconds,
    json_line,
    key_values,
    new_console,
    plural,
    warn,
    write_out,
)
from .info import FIELDS_SHOWN, KINDS, bytes_below, describe
from .progress import Progress

if TYPE_CHECKING:
    from ..build.corpus import Record
    from ..build.indexing import Progress as IndexState
    from ..build.lines import BadLines, ReadMeter
    from ..index.layout import IndexManifest

_DESCRIPTION = """\
Encode documents and write an index directory that holds all a device needs to search: 8-bit impacts by term, the
stored documents, and the query encoder.

Encoded vectors are kept in DIR.partial/ (8 bytes a posting) until the index is there: after a kill or an error the same
command goes on where it was. Nothing of it is used for other texts, another encoder or other options."""
_EXAMPLES = """\
corpus formats (.gz may follow any name):
  .jsonl   BEIR, an object a line: "_id", "title" (optional), "text"; all other keys are stored as metadata
  .tsv     id<TAB>text or id<TAB>title<TAB>text; a first line with columns called id and text is a header, which may
           name them in any order; all other columns are stored as metadata
  -        standard input, either of the two

examples:
  splade-edge index artifact/ corpus.jsonl -o index/
  splade-edge index artifact/ part1.jsonl.gz part2.jsonl.gz -o index/ --on-error skip
  zcat dump.gz | splade-edge index artifact/ - -o index/ --passages 128 --overlap 32
  splade-edge index artifact/ corpus.jsonl -o index/ --field year --field author.name
  splade-edge index corpus.jsonl -o index/               (with a wheel that carries a pair)
  splade-edge index artifact/ corpus.jsonl -o index/ --reorder --memory 2G
  splade-edge index artifact/ corpus.tsv -o index/ --force --backend openvino --precision int8 --threads 4"""
DEFAULT_PASSAGE_TOKENS = 128


class IndexCommand:
    """The command ``index``: checks early what can be checked, calls build_index, prints a summary."""

    help = "make an index directory from documents"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """See :class:`Command`."""
        parser.description, parser.epilog = _DESCRIPTION, _EXAMPLES
        parser.usage = "%(prog)s [ARTIFACT] CORPUS [CORPUS ...] -o DIR [options]"
        parser.add_argument(
            "inputs",
            metavar="[ARTIFACT] CORPUS",
            nargs="+",
            help="ARTIFACT, a directory: an exported pair, or an encoder made for both sides (default: the pair this "
            "installation carries, if it does); then the files of documents, - for standard input",
        )
        parser.add_argument("-o", "--output", metavar="DIR", required=True, help="the index directory to make")
        parser.add_argument("--force", action="store_true", help="replace an index that is there")
        parser.add_argument(
            "--on-error",
            choices=("fail", "skip"),
            default="fail",
            help="at a line that cannot be used or an id used before: stop, or skip it and count it",
        )
        parser.add_argument(
            "--passages",
            metavar="TOKENS",
            type=positive_int,
            nargs="?",
            const=DEFAULT_PASSAGE_TOKENS,
            help="split texts into passages of so many tokens and score a document by its best one "
            f"(without a number: {DEFAULT_PASSAGE_TOKENS}; default: one vector a document, longer texts are cut)",
        )
        parser.add_argument(
            "--overlap",
            metavar="TOKENS",
            type=non_negative_int,
            help="tokens that neighbouring passages share (default: a quarter of a passage)",
        )
        parser.add_argument(
            "--field",
            metavar="NAME",
            action="append",
            default=[],
            dest="fields",
            help="a stored field that gets an index, so that --where finds its documents without reading all (again "
            "for more fields)",
        )
        parser.add_argument(
            "--query-encoder",
            metavar="DIR",
            help="the artifact to carry for queries (default: the query side of ARTIFACT)",
        )
        parser.add_argument(
            "--with-document-encoder",
            action="store_true",
            help="carry the document encoder too, to add documents later",
        )
        parser.add_argument(
            "--memory",
            metavar="SIZE",
            type=byte_size,
            default="512M",
            help="memory for postings before they go to disk",
        )
        parser.add_argument(
            "--reorder",
            action="store_true",
            help="put similar documents next to each other: faster searches, slower indexing, the same answers",
        )
        parser.add_argument(
            "--no-block-max",
            action="store_true",
            help="leave out the block-max data: an index of 3 bytes a posting instead of 5.5, slower for few results",
        )
        parser.add_argument(
            "--no-resume", action="store_true", help="keep no encoded vectors, and use none that were kept"
        )
        add_engine_arguments(parser)
        add_json_argument(parser, "the summary")

    def run(self, args: argparse.Namespace) -> int:
        """Build the index and print what was done."""
        from ..artifact import open_artifact
        from ..build.checkpointing import partial_directory
        from ..build.corpus import read_corpus
        from ..build.foreign_files import refuse_foreign_to_index
        from ..build.indexing import build_index
        from ..build.lines import BadLines, ReadMeter, format_of, size_of
        from ..build.passages import Passages
        from ..build.staging import check_writable_target
        from ..encoder import Encoder
        from ..errors import InputError
        from ..filters import parse_field
        from ..index.layout import MANIFEST_NAME

        started = time.monotonic()
        output = Path(args.output)
        # All checks that need no encoder come before the encoders are loaded.
        if args.overlap is not None and not args.passages:
            raise InputError("--overlap is for passages; add --passages")
        if args.reorder and args.no_block_max:
            raise InputError("--reorder serves the block-max data; leave out --no-block-max")
        overlap = args.overlap if args.overlap is not None else (args.passages or 0) // 4
        passages = Passages(args.passages, overlap) if args.passages else None
        artifact, corpus = _inputs(args.inputs)
        if corpus.count("-") > 1:
            raise InputError("standard input (-) is named twice; it can be read once")
        for source in corpus:
            format_of(source)
        for name in args.fields:
            parse_field(name)
        sizes = [size_of(source) for source in corpus]
        check_writable_target(output, manifest=MANIFEST_NAME, force=args.force, refuse=refuse_foreign_to_index)
        query_artifact = open_artifact(args.query_encoder or artifact, "query")
        encoder = Encoder.open(
            artifact, "document", backend=args.backend, precision=args.precision, threads=args.threads
        )
        bad_lines, meter = BadLines(args.on_error), ReadMeter()
        done = IndexingProgress(None if None in sizes else sum(size or 0 for size in sizes), meter)
        partial = None if args.no_resume else partial_directory(output)
        with _kept(partial), Progress("Encoding", "document", done.fraction) as bar:
            manifest = build_index(
                output,
                done.count(read_corpus(corpus, bad_lines, meter)),
                encoder,
                query_artifact,
                passages=passages,
                fields=args.fields,
                with_document_encoder=args.with_document_encoder,
                bad_lines=bad_lines,
                memory_bytes=args.memory,
                reorder=args.reorder,
                block_max=not args.no_block_max,
                force=args.force,
                resume=partial,
                note=lambda line: warn("note", line),
                progress=lambda state: done.show(bar, state),
            )
        seconds = time.monotonic() - started
        warn_of_skipped(bad_lines)
        about = describe(output)
        for name in args.fields:
            _warn_of_an_empty_field(name, about["fields"])
        with finished(f"the index {output} is made"):
            if args.json:
                write_out(json_line({**about, "seconds": round(seconds, 3)}))
            else:
                new_console().print(key_values(_summary(manifest, output, seconds)))
        return 0


def _inputs(inputs: Sequence[str]) -> tuple[str, list[str]]:
    """The artifact and the corpus files. If the first argument is a corpus file, the bundled pair is used."""
    from ..build.bundled import bundled_pair
    from ..build.lines import names_a_corpus
    from ..errors import InputError

    first, *rest = inputs
    if not Path(first).is_dir() and names_a_corpus(first):
        return str(bundled_pair()), [first, *rest]
    if not rest:
        raise InputError(f"name the corpus after {first}: splade-edge index {first} corpus.jsonl -o INDEX")
    return first, rest


@contextmanager
def _kept(partial: Path | None) -> Iterator[None]:
    """Say where the encoded vectors are if the command ends early."""
    from ..build.checkpointing import KEPT_FILES

    try:
        yield
    except BaseException:
        if partial is not None and any(partial.glob(KEPT_FILES)):
            warn("note", f"what was encoded is kept in {partial}; the same command goes on from there")
        raise


def warn_of_skipped(bad_lines: BadLines) -> None:
    """Name the first lines that were skipped, and say how many more there were.

    Parameters
    ----------
    bad_lines
        The lines.
    """
    for message in bad_lines.messages:
        warn("skipped", message)
    if bad_lines.count > len(bad_lines.messages):
        warn("skipped", f"{bad_lines.count - len(bad_lines.messages):,} more lines")


class IndexingProgress:
    """The share of the corpus that is encoded: the share of bytes read, less the documents read but not yet encoded.

    Parameters
    ----------
    total_bytes
        The size of the corpus on disk; None: unknown.
    meter
        Counts the bytes that were read.
    """

    def __init__(self, total_bytes: int | None, meter: ReadMeter) -> None:
        self._total = total_bytes
        self._meter = meter
        self._read = 0
        self._encoded = 0
        self._merged: float | None = None

    def count(self, records: Iterable[Record]) -> Iterator[Record]:
        """Count the records that are read.

        Parameters
        ----------
        records
            The records.

        Yields
        ------
        Record
            The same records.
        """
        for record in records:
            self._read += 1
            yield record

    def show(self, bar: Progress, state: IndexState) -> None:
        """Pass the state of build_index on to the bar.

        Parameters
        ----------
        bar
            The bar.
        state
            The state.
        """
        self._encoded = state.documents
        if state.merged and self._merged is None:
            bar.phase("Merging postings")
        self._merged = state.merged or None
        bar.update(state.documents)

    def fraction(self) -> float | None:
        """The share that is done.

        Returns
        -------
        float or None
            0 to 1; None if the size of the input is unknown.
        """
        if self._merged is not None:
            return self._merged
        if not self._total or not self._read:
            return None
        return min(1.0, self._meter.bytes_read / self._total * self._encoded / self._read)


def _warn_of_an_empty_field(name: str, fields: dict[str, dict[str, Any]]) -> None:
    """A field that no document has is most likely misspelled."""
    from ..filters import format_field, parse_field

    with_values = [field for field, counts in fields.items() if any(counts[kind] for kind in KINDS)]
    if format_field(parse_field(name)) not in with_values:
        known = ", ".join(with_values[:FIELDS_SHOWN]) or "none"
        warn("warning", f"no document has the field {name}; fields with values: {known}")


def _summary(manifest: IndexManifest, output: Path, seconds: float) -> list[tuple[str, str]]:
    documents = sum(s.documents for s in manifest.segments)
    units = sum(s.units for s in manifest.segments)
    statistics = manifest.statistics
    rows = [("index", str(output)), ("documents", f"{documents:,}")]
    passages = any(s.passages for s in manifest.segments)
    if passages:
        rows.append(("passages", f"{units:,}"))
    unit = "passage" if passages else "document"
    max_length = manifest.text.max_length if manifest.text else 0
    rows += [
        ("postings", f"{sum(s.postings for s in manifest.segments):,}"),
        ("size", human_bytes(bytes_below(output))),
        ("cut", f"{plural(statistics.truncated, unit)} longer than {max_length} tokens"),
        ("without terms", plural(statistics.empty, unit)),
        ("skipped lines", f"{statistics.bad_lines:,}"),
        ("time", f"{human_seconds(seconds)}, {documents / max(seconds, 1e-9):,.1f} documents/s"),
    ]
    return rows
