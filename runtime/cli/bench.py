"""``splade-edge bench``: how fast an artifact, a pair or an index is on this machine."""

from __future__ import annotations

import argparse
import dataclasses
import math
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .command import BACKENDS, positive_int, positive_ints, positive_seconds, shares
from .console import cell, json_line, new_console, new_table, warn, write_out

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ..artifact import Artifact, Side
    from ..bench import GraphReport, IndexReport, Latency

_DESCRIPTION = """\
Measure on this machine: for an artifact or a pair, every graph's latency by tokens of the text, documents a second and
memory; for an index, latency of encoding, scoring and reading the answers, queries a second, and memory."""
_EXAMPLES = """\
queries and documents:
  --queries     BEIR queries.jsonl(.gz), TSV (the last column), or one query a line; - is standard input
  --documents   a corpus as for splade-edge index
  Without them an index is asked words from its own documents, and encoders read made-up texts of --lengths tokens.

examples:
  splade-edge bench index/
  splade-edge bench index/ --queries queries.jsonl -k 10,100 --clients 1,4
  cut -f2 queries.tsv | splade-edge bench index/ --queries - --json
  splade-edge bench pair/ --backend onnx --documents corpus.jsonl
  splade-edge bench pair/query --lengths 8,16 --seconds 5

Times are of single calls, as this machine gave them: percentiles of all calls, after a warm-up. Graphs take turns, each
in a process of its own, whose memory is shown; --backend and --precision choose fewer, where memory is scarce. Nothing
else should run meanwhile; the load before is shown."""
DEFAULT_KS = (10, 100, 1000)
DEFAULT_SHARES = (0.9, 0.8)
QUERY_LENGTHS, DOCUMENT_LENGTHS = (8, 16, 32), (64, 128, 256)
MADE_TEXTS = 50  # of each length
BULK = 64  # made-up documents of a batch


class BenchCommand:
    """The command ``bench``: calls measure_encoder or measure_index and prints tables."""

    help = "measure an artifact, a pair or an index on this machine"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """See :class:`Command`."""
        parser.description, parser.epilog = _DESCRIPTION, _EXAMPLES
        parser.add_argument("directory", metavar="DIR", help="an artifact, a pair or an index")
        parser.add_argument("--queries", metavar="FILE", help="your queries; - is standard input")
        parser.add_argument("--documents", metavar="FILE", help="your documents (not for an index)")
        parser.add_argument(
            "--limit", type=positive_int, default=200, metavar="N", help="the most queries and documents taken"
        )
        parser.add_argument(
            "-k", type=positive_ints, metavar="K,K", help="results a query, of an index (default: 10,100,1000)"
        )
        parser.add_argument(
            "--lengths",
            type=positive_ints,
            metavar="N,N",
            help="tokens of made-up texts (default: 8,16,32 for queries, 64,128,256 for documents)",
        )
        parser.add_argument(
            "--clients",
            type=positive_ints,
            metavar="N,N",
            help="threads that search an index at once (default: 1, 2, 4, … up to the CPUs this process may use)",
        )
        parser.add_argument(
            "--approximate",
            type=shares,
            metavar="X,X",
            help="shares for approximate search (see splade-edge search), whose recall is measured (default: 0.9,0.8)",
        )
        parser.add_argument(
            "--seconds", type=positive_seconds, default=2.0, metavar="S", help="time for each case and graph"
        )
        parser.add_argument(
            "--threads", type=positive_int, default=1, metavar="N", help="threads of an encoder while texts are timed"
        )
        parser.add_argument("--backend", choices=BACKENDS, help="only this engine")
        parser.add_argument("--precision", choices=("fp32", "int8"), help="only this precision")
        parser.add_argument(
            "--query-encoder", metavar="DIR", help="for an index, another query encoder (default: the index's own)"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object with all figures")

    def run(self, args: argparse.Namespace) -> int:
        """Measure, then print."""
        from ..artifact import MANIFEST_NAME
        from ..bench.machine import this_machine
        from ..errors import InputError
        from ..index.layout import MANIFEST_NAME as INDEX_MANIFEST_NAME

        path = Path(args.directory)
        is_index = (path / INDEX_MANIFEST_NAME).exists()
        if not is_index and not (path / MANIFEST_NAME).exists():
            what = "is not an artifact, a pair or an index" if path.is_dir() else "is not a directory"
            raise InputError(f"{path} {what}; make one with splade-edge export or splade-edge index")
        _refuse_options(args, is_index=is_index)
        machine = this_machine()
        about: dict[str, Any] = {"path": str(path), "machine": dataclasses.asdict(machine)}
        console = new_console()
        if is_index:
            index, note = _bench_index(path, args)
            about |= {"kind": "index", "queries": note, "index": _plain(dataclasses.asdict(index))}
            tables = _index_tables(index)
        else:
            graphs, note = _bench_encoders(path, args)
            about |= {"kind": "encoder", "texts": note, "graphs": [_plain(dataclasses.asdict(g)) for g in graphs]}
            tables = _encoder_tables(graphs)
        if args.json:
            write_out(json_line(about))
            return 0
        for title, table in tables:
            console.print(title, style="bold")
            console.print(table)
            console.print()
        _notes(console, note, args, machine.line())
        return 0


def _refuse_options(args: argparse.Namespace, *, is_index: bool) -> None:
    from ..errors import InputError

    wrong = ("documents", "lengths") if is_index else ("k", "clients", "approximate", "query_encoder")
    for name in wrong:
        if getattr(args, name) is not None:
            option = "-k" if name == "k" else "--" + name.replace("_", "-")
            raise InputError(f"{option} is for {'artifacts and pairs' if is_index else 'an index'}; leave it out")
    if args.queries == "-" and args.documents == "-":
        raise InputError("standard input (-) is named twice; it can be read once")


def _bench_index(path: Path, args: argparse.Namespace) -> tuple[IndexReport, str]:
    from ..bench import measure_index
    from ..bench.texts import read_query_texts, sample_queries
    from ..index import Index
    from ..threads import available_cpus

    with Index.open(path) as index:
        queries = read_query_texts(args.queries, args.limit) if args.queries else sample_queries(index, args.limit)
    note = f"{len(queries)} queries " + ("of yours" if args.queries else "sampled from the documents (see --queries)")
    with ExitStack() as stack:
        report = measure_index(
            path, queries, ks=args.k or DEFAULT_KS, clients=args.clients or _doubling(available_cpus()),
            threads=args.threads, seconds=args.seconds, shares=args.approximate or DEFAULT_SHARES,
            query_encoder=args.query_encoder, backend=args.backend, precision=args.precision,
            report=stack.enter_context(Steps()).say,
        )  # fmt: skip
    return report, note


def _bench_encoders(path: Path, args: argparse.Namespace) -> tuple[list[GraphReport], str]:
    from ..artifact import is_pair, open_artifact
    from ..bench import measure_encoder
    from ..errors import ArtifactError, InputError

    sides: list[tuple[Side, Artifact]]
    if is_pair(path):
        sides = [("query", open_artifact(path, "query")), ("document", open_artifact(path, "document"))]
    else:
        artifact = open_artifact(path)
        sides = [(side, artifact) for side in ("query", "document") if artifact.serves(side)]
    for name, side in (("queries", "query"), ("documents", "document")):
        if getattr(args, name) and side not in dict(sides):
            raise InputError(f"{path} has no {side} encoder; leave out --{name}")
    reports: list[GraphReport] = []
    notes = []
    with ExitStack() as stack:
        steps = stack.enter_context(Steps())
        for side, artifact in sides:
            cases, bulk, note = _texts(artifact, side, args)
            notes.append(note)
            variants = [
                v for v in artifact.manifest.variants
                if args.backend in (None, v.backend) and args.precision in (None, v.precision)
            ]  # fmt: skip
            if not variants:
                artifact.variant(args.backend, args.precision)  # raises the list of graphs
            reports += measure_encoder(
                artifact.path, side, variants, cases, bulk, threads=args.threads, seconds=args.seconds, report=steps.say
            )
    if all(report.missing for report in reports):
        raise ArtifactError(reports[0].missing or "")
    return reports, "; ".join(notes)


def _texts(artifact: Artifact, side: Side, args: argparse.Namespace) -> tuple[dict[str, list[str]], list[str], str]:
    """Texts to encode one at a time, texts to encode in batches, and what they are."""
    from ..bench.texts import made_texts, read_document_texts, read_query_texts
    from ..encoder.tokenizer import TextTokenizer
    from ..errors import InputError

    given = args.queries if side == "query" else args.documents
    if given:
        read = read_query_texts if side == "query" else read_document_texts
        texts = read(given, args.limit)
        return {"": texts}, texts, f"{side} encoder: {len(texts)} texts of yours"
    m = artifact.manifest
    tokenizer = TextTokenizer.of(artifact, side)
    always, most = tokenizer.special_tokens + tokenizer.prompt_tokens, tokenizer.max_length
    wanted = args.lengths or (QUERY_LENGTHS if side == "query" else DOCUMENT_LENGTHS)
    lengths = [n for n in wanted if always < n <= most]
    if not lengths and args.lengths:
        raise InputError(
            f"the {side} encoder of {artifact.path} reads {always + 1} to {most} tokens; give such --lengths"
        )
    lengths = lengths or [min(most, always + max(wanted))]
    cases = {f"{n} tokens": made_texts(tokenizer, m.vocab_size, n, MADE_TEXTS) for n in lengths}
    bulk = made_texts(tokenizer, m.vocab_size, lengths[len(lengths) // 2], BULK)
    return cases, bulk, f"{side} encoder: made-up texts, in batches of {lengths[len(lengths) // 2]} tokens"


class Steps:
    """The step that is being measured, as one line of a terminal that the next step replaces. Removed at the end."""

    def __enter__(self) -> Steps:
        console = new_console(stderr=True)
        self._status = console.status("starting") if console.is_terminal else None
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def say(self, what: str) -> None:
        """Show the step that begins.

        Parameters
        ----------
        what
            The step.
        """
        if self._status is not None:
            self._status.update(cell(what))


def _latency_table(first: str) -> Table:
    return new_table(first, ">calls", ">mean ms", ">p50", ">p90", ">p99", ">longest")


def _latency_row(name: str, latency: Latency) -> list[str]:
    times = (latency.mean, latency.p50, latency.p90, latency.p99, latency.longest)
    return [name, f"{latency.calls:,}", *(f"{ms:.3f}" if ms < 10 else f"{ms:,.1f}" for ms in times)]


def _index_tables(index: IndexReport) -> list[tuple[str, Table]]:
    latency = _latency_table("one query at a time")
    for name, times in index.encode.items():
        latency.add_row(*_latency_row(f"encoding, {name}", times))
    for k in index.score:
        for name, part in (("scoring", index.score), ("reading the documents", index.read), ("the whole", index.whole)):
            latency.add_row(*_latency_row(f"{name}, k = {k:,}", part[k]))
    served = new_table("at once", ">queries a second", ">over one")
    one = index.queries_a_second.get(1, math.nan)
    for clients, rate in index.queries_a_second.items():
        ratio = "–" if math.isnan(one) else f"{rate / one:.2f}"
        served.add_row(f"{clients:,}", f"{rate:,.1f}", ratio)
    approximate = new_table("share", ">recall", ">ms", ">exact ms", ">times as fast")
    for share, found in index.approximate.items():
        fast, exact = found["approximate_ms"], found["exact_ms"]
        approximate.add_row(share, f"{found['recall']:.4f}", f"{fast:.3f}", f"{exact:.3f}", f"{exact / fast:.2f}")
    memory = new_table("", ">")
    memory.show_header = False
    memory.add_row("opened in", f"{index.open_seconds:.2f} s")
    memory.add_row("resident, opened", f"{index.opened_mb:,.0f} MB")
    memory.add_row("resident, at most", f"{index.peak_mb:,.0f} MB")
    title = (
        f"{index.documents:,} documents; queries of {index.tokens:.1f} tokens and {index.terms:.1f} terms on average; "
        f"{index.backend} {index.precision}"
    )
    first = f"k = {min(index.score):,}"
    tables = [(title, latency), (first, served)]
    if index.approximate:
        tables.append((f"Approximate scoring (--approximate), {first}", approximate))
    return [*tables, ("Process", memory)]


def _encoder_tables(graphs: list[GraphReport]) -> list[tuple[str, Table]]:
    latency = _latency_table("one text at a time")
    latency.columns[0].header = "one text at a time"
    rates = new_table("graph", ">texts/s", ">tokens/s", ">load s", ">resident MB", ">at most MB")
    for graph in graphs:
        name = f"{graph.side}, {graph.backend} {graph.precision}"
        if graph.missing:
            warn("warning", f"{name} is left out: {graph.missing}")
            continue
        for case, times in graph.latency.items():
            latency.add_row(*_latency_row(f"{name}, {case}", times))
        rates.add_row(
            name, f"{graph.texts_a_second:,.1f}", f"{graph.tokens_a_second:,.0f}", f"{graph.load_seconds:.2f}",
            f"{graph.loaded_mb:,.0f}", f"{graph.peak_mb:,.0f}",
        )  # fmt: skip
    return [("Latency", latency), ("In batches, and the process", rates)]


def _notes(console: Console, note: str, args: argparse.Namespace, machine: str) -> None:
    threads = f"{args.threads} thread{'s' * (args.threads > 1)}"
    console.print(cell(f"Encoder on {threads}; {note}.", "dim"))
    console.print(cell(f"{machine}.", "dim"))


def _doubling(most: int) -> list[int]:
    """1, 2, 4, … and ``most``."""
    return sorted({*(1 << i for i in range(most.bit_length()) if 1 << i <= most), most})


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
