"""Answering a stream of queries, for the commands search and eval."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from itertools import tee
from typing import TYPE_CHECKING

from .command import add_engine_arguments, exponent, share
from .console import warn

if TYPE_CHECKING:
    from ..evaluation.trec import Query
    from ..searcher import Hit, Searcher


def answers(
    searcher: Searcher, queries: Iterable[Query], k: int, where: str | None = None
) -> Iterator[tuple[Query, list[Hit]]]:
    """Search queries lazily, in order. At the end, warnings say how many were truncated or found nothing.

    Parameters
    ----------
    searcher
        The searcher.
    queries
        The queries.
    k
        Results of a query.
    where
        A filter; None: all documents.

    Yields
    ------
    (Query, list of Hit)
        Each query with its hits, best first.
    """
    asked, searched = tee(queries)
    truncated = empty = 0
    for query, hits in zip(asked, searcher.search_many((q.text for q in searched), k, where=where), strict=True):
        truncated += is_truncated(searcher, query.text)
        empty += not hits
        yield query, hits
    if truncated:
        warn_truncated(searcher, f"{truncated} of the queries: the text was")
    if empty:
        warn("warning", f"{empty} of the queries found nothing")


def is_truncated(searcher: Searcher, text: str) -> bool:
    """Whether the encoder reads only a part of a query.

    Parameters
    ----------
    searcher
        The searcher.
    text
        The query.

    Returns
    -------
    bool
        True if the query has more tokens than the encoder reads.
    """
    return searcher.encoder.tokenizer_of("query").encode(text).truncated


def warn_truncated(searcher: Searcher, what: str) -> None:
    """Warn that the end of a query was not read, or its beginning.

    Parameters
    ----------
    searcher
        The searcher.
    what
        The beginning of the message, up to its verb.
    """
    tokenizer = searcher.encoder.tokenizer_of("query")
    where = "after" if tokenizer.truncation_side == "right" else "before its last"
    warn("warning", f"{what} cut {where} {tokenizer.max_length} tokens; the rest was not searched for")


def add_searcher_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of :func:`open_searcher`, the filter, and the tag of a run.

    Parameters
    ----------
    parser
        The command's parser.
    """
    parser.add_argument(
        "--where",
        metavar="FILTER",
        help="search only the documents whose stored fields satisfy it, like 'year >= 2020 and lang = \"en\"'",
    )
    parser.add_argument("--tag", default="splade-edge", help="the run's last column")
    parser.add_argument(
        "--query-encoder",
        metavar="DIR",
        help="another query encoder of the same vocabulary (default: the index's own)",
    )
    parser.add_argument(
        "--approximate",
        metavar="SHARE",
        type=share,
        help="faster, but documents may be missed: pass over documents where this share (above 0, up to 1) of the "
        "bound on their score is too little; 1 is exact",
    )
    parser.add_argument(
        "--idf",
        metavar="POWER",
        type=exponent,
        help="multiply query weights with this power of the terms' inverse document frequency in the index; 0 leaves "
        "them as the encoder gives them (default: what the query encoder states; info shows it)",
    )
    add_engine_arguments(parser)


def open_searcher(args: argparse.Namespace) -> Searcher:
    """Open the searcher that the arguments ask for. A user at a terminal is told if kernels have to be compiled.

    Parameters
    ----------
    args
        Arguments of :func:`add_searcher_arguments`, and ``index``.

    Returns
    -------
    Searcher
        The searcher.

    Raises
    ------
    SpladeEdgeError
        What :meth:`Searcher.open` raises.
    """
    from ..numba_support.backend import on_compile
    from ..searcher import Searcher

    searcher = Searcher.open(
        args.index,
        backend=args.backend,
        precision=args.precision,
        threads=args.threads,
        query_encoder=args.query_encoder,
        approximate=args.approximate,
        idf=args.idf,
    )
    if sys.stderr.isatty():
        on_compile.append(lambda: warn("note", "compiling the kernels for this machine; later starts find them cached"))
    return searcher
