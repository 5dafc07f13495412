"""``splade-edge add``, ``update``, ``delete`` and ``compact``: change an index in one step that readers see whole."""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .command import add_json_argument, byte_size, positive_int
from .console import finished, human_bytes, human_seconds, json_line, key_values, new_console, warn, write_out
from .index import IndexingProgress, warn_of_skipped
from .info import bytes_below
from .progress import Progress

if TYPE_CHECKING:
    from ..update.transaction import Commit

_WHOLE = """\
The change is one step: until it is done, and if it fails or is killed, the index stays as it was. Searches that are
running keep what they have opened. One process at a time may change an index."""
_CORPUS = "corpus formats: as for splade-edge index (.jsonl, .tsv, .gz, - for standard input)"


class AddCommand:
    """The command ``add``: calls :meth:`IndexUpdater.add`."""

    help = "add documents to an index"
    name = "add"
    description = "Encode documents and add them to an index. An id that is in use is refused (see: update)."
    examples = """\
  splade-edge add index/ new.jsonl
  splade-edge add index/ new.jsonl --artifact artifact/      (an index without --with-document-encoder)
  zcat dump.gz | splade-edge add index/ - --on-error skip"""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """See :class:`Command`."""
        parser.description = f"{self.description}\n{_WHOLE}"
        parser.epilog = f"{_CORPUS}\n\nexamples:\n{self.examples}"
        parser.add_argument("index", metavar="DIR", help="the index directory")
        parser.add_argument("corpus", metavar="CORPUS", nargs="+", help="files of documents, - for standard input")
        parser.add_argument(
            "--artifact",
            metavar="PATH",
            help="the pair or document encoder that the index was made with; another is refused (default: the one the "
            "index carries, else the pair this installation carries)",
        )
        parser.add_argument(
            "--on-error",
            choices=("fail", "skip"),
            default="fail",
            help="at a line that cannot be used: stop and change nothing, or skip it and count it",
        )
        _add_memory(parser)
        parser.add_argument(
            "--threads", type=positive_int, metavar="N", help="threads (default: the CPUs this process may use)"
        )
        add_json_argument(parser, "the summary")

    def run(self, args: argparse.Namespace) -> int:
        """Encode, commit, and print what was done."""
        from ..build.corpus import read_corpus
        from ..build.lines import BadLines, ReadMeter, format_of, size_of
        from ..errors import InputError
        from ..update.updater import IndexUpdater

        started = time.monotonic()
        if args.corpus.count("-") > 1:
            raise InputError("standard input (-) is named twice; it can be read once")
        for source in args.corpus:
            format_of(source)
        sizes = [size_of(source) for source in args.corpus]
        bad_lines, meter = BadLines(args.on_error), ReadMeter()
        done = IndexingProgress(None if None in sizes else sum(size or 0 for size in sizes), meter)
        updater = IndexUpdater.open(
            args.index, document_encoder=args.artifact, threads=args.threads, memory_bytes=args.memory
        )
        with updater, Progress("Encoding", "document", done.fraction) as bar:
            records = done.count(read_corpus(args.corpus, bad_lines, meter))
            change = updater.add if self.name == "add" else updater.update
            change(records, bad_lines=bad_lines, progress=partial(done.show, bar))
            commit = updater.commit()
        warn_of_skipped(bad_lines)
        if commit.clipped:
            warn(
                "warning",
                f"{commit.clipped:,} weights are above the largest that the index's scale can tell apart, and were cut "
                "to it; if more documents are like these, build the index anew",
            )
        _report(args, commit, time.monotonic() - started, bad_lines.count)
        return 0


class UpdateCommand(AddCommand):
    """The command ``update``: calls :meth:`IndexUpdater.update`."""

    help = "replace documents of an index by id, and add those that are new"
    name = "update"
    description = (
        "Encode documents; each takes the place of the one that has its id, in one step, or is added if there is none."
    )
    examples = """\
  splade-edge update index/ changed.jsonl
  splade-edge update index/ changed.jsonl --artifact artifact/ --json"""


class DeleteCommand:
    """The command ``delete``: calls :meth:`IndexUpdater.delete`."""

    help = "delete documents of an index by id"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """See :class:`Command`."""
        parser.description = f"Delete documents by id.\n{_WHOLE}"
        parser.epilog = """\
examples:
  splade-edge delete index/ doc17 doc18
  splade-edge delete index/ --ids gone.txt           (an id a line; .gz is read too)
  cut -f1 gone.tsv | splade-edge delete index/ --ids - --on-error skip

An id that begins with a dash goes behind --, as in: splade-edge delete index/ -- -17"""
        parser.add_argument("index", metavar="DIR", help="the index directory")
        parser.add_argument("ids", metavar="ID", nargs="*", help="ids of documents")
        parser.add_argument("--ids", metavar="FILE", dest="file", help="a file of ids, one a line; - is standard input")
        parser.add_argument(
            "--on-error",
            choices=("fail", "skip"),
            default="fail",
            help="at an id that no document has: stop and delete nothing, or pass over it and count it",
        )
        _add_memory(parser)
        add_json_argument(parser, "the summary")

    def run(self, args: argparse.Namespace) -> int:
        """Delete, commit, and print what was done."""
        from ..errors import InputError
        from ..update.updater import IndexUpdater

        started = time.monotonic()
        if bool(args.ids) == (args.file is not None):
            raise InputError("give either IDs or --ids FILE")
        ids = list(dict.fromkeys(args.ids or _read_ids(args.file)))
        with IndexUpdater.open(args.index, memory_bytes=args.memory) as updater:
            found = updater.delete(ids, ignore_missing=args.on_error == "skip")
            commit = updater.commit()
        missing = len(ids) - found
        if missing:
            warn("skipped", f"{missing:,} ids that no document has")
        _report(args, commit, time.monotonic() - started, missing)
        return 0


class CompactCommand:
    """The command ``compact``: calls :meth:`IndexUpdater.compact`."""

    help = "merge an index into one segment without deleted documents"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """See :class:`Command`."""
        parser.description = (
            "Merge all segments of an index into one, and give back the room of deleted documents. Adding and\n"
            f"deleting merge by themselves what pays; this makes searches as fast as they get.\n{_WHOLE}"
        )
        parser.epilog = """\
examples:
  splade-edge compact index/
  splade-edge compact index/ --memory 2G --json"""
        parser.add_argument("index", metavar="DIR", help="the index directory")
        _add_memory(parser)
        add_json_argument(parser, "the summary")

    def run(self, args: argparse.Namespace) -> int:
        """Merge, commit, and print what was done."""
        from ..update.updater import IndexUpdater

        started = time.monotonic()
        with IndexUpdater.open(args.index, memory_bytes=args.memory) as updater:
            commit = updater.compact()
        _report(args, commit, time.monotonic() - started, 0)
        return 0


def _add_memory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--memory", metavar="SIZE", type=byte_size, default="512M", help="memory for postings, also while merging"
    )


def _read_ids(source: str) -> list[str]:
    """The ids of a file, one a line. Raises CorpusError."""
    from ..build.lines import BadLines, decode_line, read_lines

    bad_lines = BadLines("fail")
    ids = []
    for line in read_lines(source, bad_lines):
        try:
            document_id = decode_line(line.data)
        except ValueError as error:
            bad_lines.report(line.location, str(error))
        else:
            if document_id.strip():
                ids.append(document_id)
    return ids


def _report(args: argparse.Namespace, commit: Commit, seconds: float, skipped: int) -> None:
    path = Path(args.index)
    numbers: dict[str, Any] = {
        "added": commit.added,
        "updated": commit.updated,
        "deleted": commit.deleted,
        "skipped": skipped,
        "documents": commit.documents,
        "segments": commit.segments,
        "merged": commit.merged,
        "generation": commit.generation,
    }
    size = bytes_below(path)
    with finished(f"the change of {path} is committed"):
        if args.json:
            write_out(json_line({"path": str(path), **numbers, "bytes": size, "seconds": round(seconds, 3)}))
            return
        rows = [(name, f"{value:,}") for name, value in numbers.items() if value or name in ("documents", "generation")]
        new_console().print(
            key_values([("index", str(path)), *rows, ("size", human_bytes(size)), ("time", human_seconds(seconds))])
        )
