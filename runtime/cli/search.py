"""``splade-edge search``: one query or a file of them; answers as a table, as JSON or as a TREC run."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .answers import add_searcher_arguments, answers, is_truncated, open_searcher, warn_truncated
from .command import positive_int
from .console import cell, json_line, new_console, new_table, plural, write_out
from .progress import Progress

if TYPE_CHECKING:
    from rich.console import Console

    from ..evaluation.trec import Query
    from ..filters.selection import Selection
    from ..searcher import Explanation, Hit, Searcher
    from ..vectors import SparseVector

_EXAMPLES = """\
examples:
  splade-edge search index/ "how do birds navigate"
  splade-edge search index/ "how do birds navigate" -k 3 --explain
  xclip -o | splade-edge search index/ -
  splade-edge search index/ "how do birds navigate" --json
  splade-edge search index/ --queries queries.jsonl -k 1000 --run run.txt --tag my-run
  splade-edge search index/ --queries - --json < queries.tsv
  splade-edge search index/ "how do birds navigate" --where 'year >= 2020 and lang = "en"'

filters:
  year >= 2020, 2010 <= year < 2020, price != 1.5, free = true
  lang = "en", lang in ("en", "de"), not (lang = "en" or year = 2020)
  url like "https://%.org/%"   % is any text, _ any character; case counts, as in every comparison of strings
  author.name = "Ada"          a key within an object; a list satisfies what one of its elements does
  note is null                 the field is absent, null or empty; "!=" is true of such a document
  _id, title and text are fields too; `any name` goes in backticks
A number is compared with numbers only, a string with strings. Fields named by "splade-edge index --field" are answered
from an index; for others the documents are read (--explain shows it).

A query that begins with a dash goes behind --, as in: splade-edge search index/ -- "-1 as an exponent\""""
_SNIPPET = 300
_COLLAPSED = 1 << 20  # characters of a query; in a longer one white space stays, because splitting it takes much memory
_TERMS_SHOWN = 8


class SearchCommand:
    """The command ``search``: calls search_many, search_vector and explain of the searcher."""

    help = "search an index"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """See :class:`Command`."""
        parser.description = "Search an index with one query, or with a file of queries."
        parser.epilog = _EXAMPLES
        parser.add_argument("index", metavar="DIR", help="the index directory")
        parser.add_argument(
            "query", metavar="QUERY", nargs="?", help="what to look for; - reads one query from standard input"
        )
        parser.add_argument("-k", type=positive_int, default=10, metavar="K", help="results a query")
        parser.add_argument(
            "--explain", action="store_true", help="show the query's terms, and which contributed to each score"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object a query, each on a line")
        parser.add_argument(
            "--queries",
            metavar="FILE",
            help='many queries: BEIR queries.jsonl(.gz) ("_id", "text") or TSV id<TAB>text; - is standard input',
        )
        parser.add_argument(
            "--run", metavar="OUT", help="write the answers to --queries as a TREC run; - is standard output"
        )
        add_searcher_arguments(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Search and print. Finding nothing is no error."""
        from ..errors import InputError
        from ..evaluation.trec import Query, read_queries
        from ..filters import parse_where

        if (args.query is None) == (args.queries is None):
            raise InputError("give either a QUERY or --queries FILE")
        if args.queries is None:
            if args.run:
                raise InputError("--run needs query ids; give the query by --queries FILE")
        else:
            if bool(args.run) == bool(args.json):
                raise InputError("--queries needs one of --run OUT and --json")
            if args.run and args.explain:
                raise InputError("a TREC run cannot carry --explain; use --json")
        if args.where is not None:
            parse_where(args.where)  # syntax errors are reported before anything is loaded
        queries: Iterable[Query]
        if args.queries is None:
            args.query = _query_from_stdin() if args.query == "-" else args.query
            queries = [Query("", args.query)]
        else:
            queries = read_queries(args.queries)
        searcher = open_searcher(args)
        if args.run:
            _write_run(searcher, queries, args)
        elif args.json:
            _write_json(searcher, queries, args)
        else:
            _print_table(searcher, args)
        return 0


def _query_from_stdin() -> str:
    """One query from standard input, which may have several lines."""
    from ..build.lines import BadLines, decode_line, read_lines
    from ..errors import InputError

    parts = []
    for line in read_lines("-", BadLines("fail")):
        try:
            parts.append(decode_line(line.data))
        except ValueError as error:
            raise InputError(f"{line.location}: {error}") from None
    query = " ".join(parts).strip()
    if len(query) <= _COLLAPSED:
        query = " ".join(query.split())
    if not query:
        raise InputError("standard input holds no query")
    return query


def _write_run(searcher: Searcher, queries: Iterable[Query], args: argparse.Namespace) -> None:
    from ..evaluation.trec import write_run
    from ..staged_file import staged_file

    with contextlib.ExitStack() as stack:
        out: IO[str] = sys.stdout if args.run == "-" else stack.enter_context(staged_file(Path(args.run)))
        progress = stack.enter_context(Progress("Searching", "query", lambda: None))
        for count, (query, hits) in enumerate(answers(searcher, queries, args.k, args.where), 1):
            write_run(out, query.id, ((hit.id, hit.score) for hit in hits), args.tag)
            progress.update(count)


def _write_json(searcher: Searcher, queries: Iterable[Query], args: argparse.Namespace) -> None:
    for query, hits in answers(searcher, queries, args.k, args.where):
        answer: dict[str, Any] = {} if args.queries is None else {"id": query.id}
        answer["query"] = query.text
        answer["cut"] = is_truncated(searcher, query.text)
        if args.explain:
            answer["encoded_text"] = searcher.read_query(query.text).text
        vector = searcher.encode_query(query.text) if args.explain else None
        if args.explain and args.where is not None:
            answer["filter"] = _filter(searcher.index.select(args.where))
        if vector is not None:
            answer["terms"] = [{"term": t, "weight": w} for t, w in searcher.encoder.decode(vector)]
        answer["hits"] = [_hit(searcher, vector, hit) for hit in hits]
        write_out(json_line(answer))


def _hit(searcher: Searcher, query: SparseVector | None, hit: Hit) -> dict[str, Any]:
    value = {"id": hit.id, "score": hit.score, "title": hit.title, "text": hit.text, "metadata": hit.metadata}
    if hit.passage is not None:
        value["passage"] = hit.passage
    if query is not None:
        contributions = searcher.explain(query, hit).contributions
        value["terms"] = [{"term": c.term, "weight": c.weight, "score": c.score} for c in contributions]
    return value


def _filter(selection: Selection) -> dict[str, Any]:
    steps = [{"what": s.what, "how": s.how, "read": s.read, "found": s.found} for s in selection.steps]
    return {"documents": selection.count, "steps": steps}


def _explain_filter(console: Console, selection: Selection) -> None:
    """Which part of a filter came from an index of its field, and what had to be read."""
    table = new_table("filter", ">documents", "")
    for step in selection.steps:
        how = "from the index of the field" if step.how == "index" else f"by reading {plural(step.read, 'document')}"
        table.add_row(cell(_shorten(step.what)), f"{step.found:,}", how)
    if len(selection.steps) > 1:
        table.add_row("the whole filter", f"{selection.count:,}", "")
    console.print(table)
    console.print()


def _explain_text(console: Console, searcher: Searcher, query: str) -> None:
    """The text that was encoded: with the prompt, and without what was truncated."""
    read, tokenizer = searcher.read_query(query), searcher.encoder.tokenizer_of("query")
    note = f" (cut at {tokenizer.max_length} tokens)" if read.truncated else ""
    console.print(cell(f"encoded{note}: {_shorten(read.text)}"))
    console.print()


def _print_table(searcher: Searcher, args: argparse.Namespace) -> None:
    import numpy as np

    from ..vectors import SparseVector

    console = new_console()
    query, explain = args.query, args.explain
    selection = None if args.where is None else searcher.index.select(args.where)
    # Only --explain shows terms that no document has.
    vector = searcher.encode_query(query) if explain else searcher.encode_for_search(query)
    if is_truncated(searcher, query):
        warn_truncated(searcher, "the query was")
    if explain and selection is not None:
        _explain_filter(console, selection)
    if explain:
        occurs = np.isin(vector.indices, searcher.index.terms)
        terms = new_table("query term", ">weight", "")
        for kept, note in ((occurs, ""), (~occurs, "in no document")):
            part = SparseVector(vector.indices[kept], vector.values[kept])
            for term, weight in searcher.encoder.decode(part):
                terms.add_row(cell(term), f"{weight:.3f}", note)
        console.print(terms)
        console.print()
        _explain_text(console, searcher, query)
    hits = searcher.search_vector(vector, args.k, allowed=None if selection is None else selection.allowed)
    if not hits:
        if selection is None:
            console.print("No document shares a term with the query.")
        elif selection.count:
            found = plural(selection.count, "document")
            console.print(f"The filter allows {found}, none of which shares a term with the query.")
        else:
            console.print("No document satisfies the filter.")
        return
    table = new_table(">score", "id", "title", "text")
    table.expand = True
    score, identifier, title, text = table.columns
    score.no_wrap = True
    identifier.overflow = "fold"  # an id must be shown whole
    title.max_width = 40
    text.ratio = 1  # takes the rest of the width
    text.no_wrap = not explain
    for hit in hits:
        snippet = hit.text if hit.passage is None else hit.passage
        table.add_row(f"{hit.score:.3f}", cell(hit.id), cell(hit.title), cell(_shorten(snippet)))
        if explain:
            table.add_row("", "", "", cell(_shares(searcher.explain(vector, hit), hit.score), "dim"))
    console.print(table)


def _shorten(text: str) -> str:
    """The beginning of a text, up to a word's end if there is one."""
    if len(text) <= _SNIPPET:
        return text
    head = text[:_SNIPPET]
    return (head.rpartition(" ")[0] or head) + " …"


def _shares(explanation: Explanation, score: float) -> str:
    """``wing 2.10 (40 %), flow 1.00 (19 %), …``: the terms that contributed most to a document's score."""
    shown, rest = explanation.contributions[:_TERMS_SHOWN], explanation.contributions[_TERMS_SHOWN:]
    parts = [f"{c.term} {c.score:.2f} ({c.score / score:.0%})" for c in shown]
    if rest:
        parts.append(f"{len(rest)} more terms {sum(c.score for c in rest):.2f}")
    return ", ".join(parts)
