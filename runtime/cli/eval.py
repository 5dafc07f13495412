"""``splade-edge eval``: search all queries, or take a run, and compare with judgements; compare two runs."""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evaluation import DEFAULT_DEPTH, DEFAULT_MEASURES
from .answers import add_searcher_arguments, answers, open_searcher
from .command import add_json_argument, positive_int
from .console import (
    cell,
    finished,
    json_line,
    key_values,
    new_console,
    new_table,
    plural,
    printable,
    warn,
    write_out,
)
from .progress import Progress

if TYPE_CHECKING:
    from ..evaluation.trec import Qrels, Query
    from ..searcher import Searcher

_DESCRIPTION = """\
Search all queries that have judgements, and print measures (ir-measures names). With --from-run a TREC run of any
engine is measured in place of an index. With --compare the measures of another run stand beside them, with p of a
two-sided paired randomisation test: how often random signs of the queries' differences give a mean as far from 0."""
_EXAMPLES = """\
formats:
  queries  BEIR queries.jsonl(.gz) ("_id", "text") or TSV id<TAB>text
  qrels    BEIR TSV (query-id, corpus-id, score) or the four columns of TREC
  runs     TREC: query Q0 document rank score tag (scores decide the order, ranks that of equal scores)

examples:
  splade-edge eval index/ --queries queries.jsonl --qrels qrels/test.tsv
  splade-edge eval index/ --queries queries.tsv --qrels qrels.txt --measures "nDCG@10 R@1000" --save-run run.txt
  splade-edge eval index/ --queries queries.jsonl --qrels qrels/test.tsv --where 'lang = "en"'
  splade-edge eval index/ --queries queries.jsonl --qrels qrels/test.tsv --exclude-self     (ArguAna, Quora, …)
  splade-edge eval --from-run bm25.txt --qrels qrels/test.tsv
  splade-edge eval index/ --queries queries.jsonl --qrels qrels/test.tsv --compare bm25.txt"""


@dataclass(frozen=True)
class _Asked:
    """What is measured.

    Attributes
    ----------
    qrels
        The judgements of the queries that count.
    queries
        These queries; None: those of the run.
    unjudged, unasked
        Queries without a judgement, and judged queries that were not given.
    """

    qrels: Qrels
    queries: list[Query] | None
    unjudged: int
    unasked: int


class EvalCommand:
    """The command ``eval``: searches queries or reads a run, then calls the functions of evaluation/measures.py."""

    help = "measure an index or a run against judged queries; compare two runs"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """See :class:`Command`."""
        parser.description, parser.epilog = _DESCRIPTION, _EXAMPLES
        parser.add_argument("index", metavar="DIR", nargs="?", help="the index directory (unless --from-run)")
        parser.add_argument(
            "--queries", metavar="FILE", help="queries; - is standard input (with --from-run: optional)"
        )
        parser.add_argument("--qrels", metavar="FILE", required=True, help="judgements")
        parser.add_argument("--measures", default=DEFAULT_MEASURES, help="names of measures, separated by spaces")
        parser.add_argument("--from-run", metavar="RUN", help="measure this TREC run; nothing is searched")
        parser.add_argument("--compare", metavar="RUN", help="a TREC run to compare with, by a paired test")
        parser.add_argument(
            "-k",
            type=positive_int,
            metavar="K",
            help=f"results a query (default: the largest cutoff of the measures, {DEFAULT_DEPTH} where one has none)",
        )
        parser.add_argument(
            "--exclude-self",
            action="store_true",
            help="leave out the document that has the query's own id, as BEIR does where queries are documents",
        )
        parser.add_argument("--save-run", metavar="OUT", help="also write the results as a TREC run")
        add_searcher_arguments(parser)
        add_json_argument(parser, "the measures")

    def run(self, args: argparse.Namespace) -> int:
        """Print the measures. Warnings say how many queries were left out."""
        from ..evaluation.measures import check_computable, depth_of, evaluate, parse_measures

        _check_arguments(args)
        measures = parse_measures(args.measures)
        depth = _depth(measures, args.k)
        asked = _asked(args)
        check_computable(measures, asked.qrels)
        other = None if args.compare is None else _from_run(args.compare, asked, depth, exclude_self=args.exclude_self)
        if args.from_run is None:
            results = _searched(args, asked, depth)
        else:
            results = _from_run(args.from_run, asked, depth, exclude_self=args.exclude_self)
        values = evaluate(measures, asked.qrels, results)
        compared = None if other is None else _compared(args.compare, measures, asked.qrels, results, other, values)
        with finished(f"the run is written to {args.save_run}" if args.save_run else None):
            _print(args, asked, depth, [str(m) for m in measures if depth_of(m) is None], values, compared)
        return 0


def _check_arguments(args: argparse.Namespace) -> None:
    from ..errors import InputError

    if (args.index is None) == (args.from_run is None):
        raise InputError("give either the directory of an index or --from-run RUN")
    if args.index is not None and args.queries is None:
        raise InputError("name the queries: --queries FILE")
    if args.from_run is not None:
        for option in ("save_run", "where", "query_encoder", "approximate", "idf", "backend", "precision", "threads"):
            if getattr(args, option) is not None:
                raise InputError(f"--{option.replace('_', '-')} is for searching, and --from-run searches nothing")


def _depth(measures: list[Any], k: int | None) -> int:
    """The number of results of a query. Raises InputError if ``k`` is less than the cutoff of a measure."""
    from ..errors import InputError
    from ..evaluation.measures import depth_of

    for measure in measures:
        if k is not None and (depth_of(measure) or 0) > k:
            raise InputError(f"-k {k} is less than {measure} looks at; leave -k out, or name a measure of that depth")
    return k or max(depth_of(measure) or DEFAULT_DEPTH for measure in measures)


def _asked(args: argparse.Namespace) -> _Asked:
    from ..errors import InputError
    from ..evaluation.trec import read_qrels, read_queries

    qrels = read_qrels(args.qrels)
    if args.queries is None:
        return _Asked(qrels, None, 0, 0)
    queries = list(read_queries(args.queries))
    judged = [query for query in queries if query.id in qrels]
    unjudged, unasked = len(queries) - len(judged), len(qrels) - len(judged)
    if not judged:
        documents = {document for judgements in qrels.values() for document in judgements}
        if any(query.id in documents for query in queries):
            raise InputError(
                f"{args.qrels} has the query ids of {args.queries} in its column of documents; the order is query, "
                "document, grade"
            )
        raise InputError(f"no query of {args.queries} has a judgement in {args.qrels}; do they belong together?")
    if unjudged:
        warn("warning", f"{unjudged} of {len(queries)} queries have no judgement and are left out")
    if unasked:
        warn("warning", f"{unasked} of {len(qrels)} judged queries are not in {args.queries} and are left out")
    return _Asked({query.id: qrels[query.id] for query in judged}, judged, unjudged, unasked)


def _searched(args: argparse.Namespace, asked: _Asked, depth: int) -> dict[str, list[str]]:
    """Search; returns the document ids by query id."""
    from ..evaluation.trec import write_run
    from ..staged_file import staged_file

    searcher = open_searcher(args)
    queries = asked.queries or []
    results: dict[str, list[str]] = {}
    own = 0
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(staged_file(Path(args.save_run))) if args.save_run else None
        progress = stack.enter_context(Progress("Searching", "query", lambda: len(results) / len(queries)))
        for query, hits in answers(searcher, queries, depth + args.exclude_self, args.where):
            if args.exclude_self:
                hits = [hit for hit in hits if hit.id != query.id][:depth]
            else:
                own += any(hit.id == query.id and query.text.strip() in (hit.text, hit.title) for hit in hits)
            results[query.id] = [hit.id for hit in hits]
            if out is not None:
                write_run(out, query.id, ((hit.id, hit.score) for hit in hits), args.tag)
            progress.update(len(results))
    if own:
        warn(
            "warning",
            f"{plural(own, 'query')} found {'itself' if own == 1 else 'themselves'}, a document with its id and text; "
            "BEIR leaves these out: --exclude-self",
        )
    _refuse_others(searcher, asked, results, args)
    return results


def _refuse_others(searcher: Searcher, asked: _Asked, results: dict[str, list[str]], args: argparse.Namespace) -> None:
    """Raise InputError if the index has none of the judged documents."""
    from ..errors import InputError

    if any(document in asked.qrels[query] for query, found in results.items() for document in found):
        return
    judged = {document for judgements in asked.qrels.values() for document in judgements}
    if not searcher.index.known(judged):
        raise InputError(
            f"none of the {plural(len(judged), 'document')} judged in {args.qrels} is in {args.index}; "
            "do they belong together?"
        )
    warn("warning", f"no document that was found is judged in {args.qrels}")


def _from_run(source: str, asked: _Asked, depth: int, *, exclude_self: bool) -> dict[str, list[str]]:
    """The document ids of a run by query id."""
    from ..errors import InputError
    from ..evaluation.trec import read_run

    run = read_run(source)
    results = {}
    for query in asked.qrels:
        documents = [document for document, _ in run.get(query, ()) if not (exclude_self and document == query)]
        results[query] = documents[:depth]
    absent = sum(query not in run for query in asked.qrels)
    if absent == len(asked.qrels):
        raise InputError(f"{source} has none of the judged queries; do they belong together?")
    if absent:
        warn("warning", f"{absent} of {plural(len(asked.qrels), 'judged query')} are not in {source} and count as 0")
    if not any(document in asked.qrels[query] for query, found in results.items() for document in found):
        warn("warning", f"no document of {source} is judged")
    return results


def _compared(
    source: str,
    measures: list[Any],
    qrels: Qrels,
    results: dict[str, list[str]],
    other: dict[str, list[str]],
    values: dict[str, float],
) -> dict[str, Any]:
    """Another run's measures, the differences, and p of the paired randomisation test."""
    from ..evaluation.measures import by_query, evaluate, randomisation_test

    theirs = evaluate(measures, qrels, other)
    p = {str(m): randomisation_test(by_query(m, qrels, results) - by_query(m, qrels, other)) for m in measures}
    differences = {name: value - theirs[name] for name, value in values.items()}
    return {"run": source, "test": "paired randomisation", "measures": theirs, "differences": differences, "p": p}


def _print(
    args: argparse.Namespace,
    asked: _Asked,
    depth: int,
    endless: list[str],
    values: dict[str, float],
    compared: dict[str, Any] | None,
) -> None:
    """``endless``: measures without a cutoff, which look at all ``depth`` results."""
    queries = len(asked.qrels)
    if args.json:
        summary: dict[str, Any] = {"queries": queries, "unjudged": asked.unjudged, "unasked": asked.unasked, "k": depth}
        more = {} if compared is None else {"compared": compared}
        write_out(json_line({**summary, "measures": values, **more}))
        return
    rows = [("queries", f"{queries:,}")]
    if endless:
        rows.append(("results", f"{depth:,} a query at most, and {', '.join(endless)} of these"))
    if compared is None:
        new_console().print(key_values([*rows, *((name, f"{value:.4f}") for name, value in values.items())]))
        return
    new_console().print(key_values(rows))
    table = new_table(
        "measure",
        *(f">{printable(str(name))}" for name in (args.index or args.from_run, compared["run"])),
        ">difference",
        ">p",
    )
    for name, value in values.items():
        theirs, difference, p = (compared[key][name] for key in ("measures", "differences", "p"))
        chance = f"{p:.4f}" if p >= 0.0001 else "<0.0001"  # p is never 0
        table.add_row(cell(name, "bold"), f"{value:.4f}", f"{theirs:.4f}", f"{difference:+.4f}", chance)
    new_console().print(table)
