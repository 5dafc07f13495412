"""Queries, qrels and runs: BEIR and TREC files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, NamedTuple

from .corpus import checked_id, looks_like_json, parse_object, text_field, tsv_header
from .errors import CorpusError, InputError
from .lines import BadLines, Line, decode_line, format_of, read_lines

Qrels = dict[str, dict[str, int]]


class Query(NamedTuple):
    """A query and its id."""

    id: str
    text: str


def read_queries(source: str) -> Iterator[Query]:
    """Queries of a BEIR ``queries.jsonl(.gz)`` (``_id``, ``text``) or a TSV ``id<TAB>text``; ``-`` is stdin.

    A header is passed over (see :func:`~splade_edge.runtime.corpus.tsv_header`).
    An empty text is kept. Raises CorpusError with file and line for a line that cannot be used or an id used twice.
    """
    as_json = {"jsonl": True, "tsv": False, None: None}[format_of(source)]
    seen: set[str] = set()
    first = True
    for line in read_lines(source, BadLines("fail")):
        if not line.data.strip():
            continue
        if as_json is None:
            as_json = looks_like_json(line.data)
        if first and not as_json and tsv_header(line.data):
            first = False
            continue
        first = False
        try:
            query = _query_from_json(line) if as_json else _query_from_tsv(line)
            if query.id in seen:
                raise ValueError(f"the query id {query.id!r} was used before; ids must be unique")
        except ValueError as error:
            raise CorpusError(f"{line.location}: {error}") from None
        seen.add(query.id)
        yield query


def read_qrels(source: str) -> Qrels:
    """Judgements: query id -> document id -> grade.

    BEIR: tab-separated ``query-id corpus-id score`` with that header (or without); TREC: ``query 0 document grade``
    separated by white space. Raises CorpusError with file and line.
    """
    qrels: Qrels = {}
    for line in read_lines(source, BadLines("fail")):
        if not line.data.strip():
            continue
        try:
            text = decode_line(line.data)
            columns = text.split("\t")
            if len(columns) != 3:
                columns = text.split()
                if len(columns) != 4:
                    raise ValueError("neither query<TAB>document<TAB>grade nor the 4 columns of TREC qrels")
                del columns[1]
            query, document, grade = columns
            if not qrels and grade.strip() == "score":
                continue
            try:
                qrels.setdefault(checked_id(query), {})[checked_id(document)] = int(grade)
            except ValueError:
                raise ValueError(f"the grade {grade!r} is not a whole number, or an id is empty") from None
        except ValueError as error:
            raise CorpusError(f"{line.location}: {error}") from None
    if not qrels:
        raise CorpusError(f"{source} holds no judgements")
    return qrels


def write_run(out: IO[str], query_id: str, hits: Iterable[tuple[str, float]], tag: str) -> None:
    """Append one query's (document id, score), best first, to a TREC run: ``query Q0 document rank score tag``.

    Raises InputError for an id or tag with white space, which the six columns cannot carry.
    """
    for name, value in (("query id", query_id), ("tag", tag)):
        _check_token(name, value)
    for rank, (document_id, score) in enumerate(hits, 1):
        _check_token("document id", document_id)
        out.write(f"{query_id} Q0 {document_id} {rank} {score!r} {tag}\n")


def _check_token(name: str, value: str) -> None:
    if not value or value.split() != [value]:
        raise InputError(f"the {name} {value!r} has white space, which a TREC run cannot carry; use --json instead")


def _query_from_json(line: Line) -> Query:
    value = parse_object(line.data)
    return Query(checked_id(text_field(value, "_id")), text_field(value, "text"))


def _query_from_tsv(line: Line) -> Query:
    columns = decode_line(line.data).split("\t")
    if len(columns) != 2:
        raise ValueError(f"{len(columns)} column{'s' * (len(columns) != 1)} where id<TAB>text is expected")
    return Query(checked_id(columns[0]), columns[1])
