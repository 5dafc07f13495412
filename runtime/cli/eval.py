"""``splade-edge eval``: search all queries and compare with judgements."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

from .answers import add_searcher_arguments, answers, open_searcher
from .command import add_json_argument, positive_int
from .console import complain, json_line, key_values, new_console, write_out
from .progress import Progress

_EXAMPLES = """\
formats:
  queries  BEIR queries.jsonl(.gz) ("_id", "text") or TSV id<TAB>text
  qrels    BEIR TSV (query-id, corpus-id, score) or the four columns of TREC

examples:
  splade-edge eval index/ --queries queries.jsonl --qrels qrels/test.tsv
  splade-edge eval index/ --queries queries.tsv --qrels qrels.txt --measures "nDCG@10 R@1000" --save-run run.txt
  splade-edge eval index/ --queries queries.jsonl --qrels qrels/test.tsv --where 'lang = "en"'"""
DEFAULT_MEASURES = "nDCG@10 RR@10 R@100"
DEFAULT_DEPTH = 1000


class EvalCommand:
    """Thin: Searcher.search_many, then ir-measures."""

    help = "measure an index against judged queries"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """See :class:`Command`."""
        parser.description = "Search all queries that have judgements, and print measures (ir-measures names)."
        parser.epilog = _EXAMPLES
        parser.add_argument("index", metavar="DIR", help="the index directory")
        parser.add_argument("--queries", metavar="FILE", required=True, help="queries; - is standard input")
        parser.add_argument("--qrels", metavar="FILE", required=True, help="judgements")
        parser.add_argument("--measures", default=DEFAULT_MEASURES, help="names of measures, separated by spaces")
        parser.add_argument(
            "-k",
            type=positive_int,
            metavar="K",
            help=f"results a query (default: the largest cutoff of the measures, {DEFAULT_DEPTH} where one has none)",
        )
        parser.add_argument("--save-run", metavar="OUT", help="also write the results as a TREC run")
        add_searcher_arguments(parser)
        add_json_argument(parser, "the measures")

    def run(self, args: argparse.Namespace) -> int:
        """Print the measures; counts of queries left out go to standard error."""
        from ..errors import InputError
        from ..files import staged_file
        from ..trec import read_qrels, read_queries, write_run

        measures = _parse_measures(args.measures)
        qrels = read_qrels(args.qrels)
        queries = list(read_queries(args.queries))
        judged = [query for query in queries if query.id in qrels]
        unjudged, unasked = len(queries) - len(judged), len(qrels) - len(judged)
        if not judged:
            raise InputError(f"no query of {args.queries} has a judgement in {args.qrels}; do they belong together?")
        if unjudged:
            complain("warning", f"{unjudged} of {len(queries)} queries have no judgement and are left out")
        if unasked:
            complain("warning", f"{unasked} of {len(qrels)} judged queries are not in {args.queries} and are left out")
        depth = args.k or max((m.params.get("cutoff", DEFAULT_DEPTH) for m in measures), default=DEFAULT_DEPTH)
        searcher = open_searcher(args)
        results: dict[str, list[str]] = {}
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(staged_file(Path(args.save_run))) if args.save_run else None
            progress = stack.enter_context(Progress("Searching", "query", lambda: len(results) / len(judged)))
            for query, hits in answers(searcher, judged, depth, args.where):
                results[query.id] = [hit.id for hit in hits]
                if out is not None:
                    write_run(out, query.id, ((hit.id, hit.score) for hit in hits), args.tag)
                progress.update(len(results))
        values = evaluate(measures, {query.id: qrels[query.id] for query in judged}, results)
        if args.json:
            summary: dict[str, Any] = {"queries": len(judged), "unjudged": unjudged, "unasked": unasked, "k": depth}
            write_out(json_line({**summary, "measures": values}))
        else:
            rows = [("queries", f"{len(judged):,}"), *((name, f"{value:.4f}") for name, value in values.items())]
            new_console().print(key_values(rows))
        return 0


def evaluate(measures: list[Any], qrels: dict[str, dict[str, int]], results: dict[str, list[str]]) -> dict[str, float]:
    """Means over the queries of ``qrels`` of ranked document ids; a query without results counts as 0."""
    import ir_measures

    # The tools behind ir-measures order equal scores by document id; ranks as scores keep the order that was returned.
    run = {query: {doc: float(-rank) for rank, doc in enumerate(docs)} for query, docs in results.items()}
    values = ir_measures.calc_aggregate(measures, qrels, run)
    return {str(measure): float(values[measure]) for measure in measures}


def _parse_measures(names: str) -> list[Any]:
    """Measures of ir-measures. Raises MissingExtraError, InputError."""
    from ..errors import InputError, MissingExtraError

    try:
        import ir_measures
    except ModuleNotFoundError:
        raise MissingExtraError("splade-edge eval", "eval") from None
    measures = []
    for name in names.split():
        try:
            measures.append(ir_measures.parse_measure(name))
        except (NameError, ValueError, SyntaxError, TypeError, AttributeError) as error:
            raise InputError(f"unknown measure {name!r} ({error}); try {DEFAULT_MEASURES!r}") from None
    if not measures:
        raise InputError(f"no measure is named; try {DEFAULT_MEASURES!r}")
    return measures
