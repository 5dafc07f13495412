"""Queries, judgements (qrels) and runs, in BEIR and TREC files. The only reader of each in the project."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import IO, NamedTuple

from ..build.corpus import checked_id, looks_like_json, parse_object, text_field, tsv_header
from ..build.lines import BadLines, Line, decode_line, format_of, read_lines
from ..errors import CorpusError, InputError

Qrels = dict[str, dict[str, int]]
Run = dict[str, list[tuple[str, float]]]


class Query(NamedTuple):
    """A query.

    Attributes
    ----------
    id
        Its id.
    text
        Its text, which may be empty.
    """

    id: str
    text: str


def read_queries(source: str) -> Iterator[Query]:
    """Read queries from BEIR ``queries.jsonl(.gz)`` (``_id``, ``text``) or TSV ``id<TAB>text``.

    A header of a TSV file is skipped, see :func:`~splade_edge.runtime.build.corpus.tsv_header`.

    Parameters
    ----------
    source
        The name of a file; ``-`` is standard input.

    Yields
    ------
    Query
        The queries, in order.

    Raises
    ------
    InputError
        If the file cannot be read.
    CorpusError
        For a line that cannot be used, or an id that is used twice.
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
    """Read judgements.

    BEIR: tab-separated ``query-id corpus-id score``, without a header or in the order that a header names. TREC:
    ``query 0 document grade``, separated by white space.

    Parameters
    ----------
    source
        The name of a file; ``-`` is standard input.

    Returns
    -------
    dict of str to dict of str to int
        Grades by query id and document id.

    Raises
    ------
    InputError
        If the file cannot be read.
    CorpusError
        For a line that cannot be used, a pair that is judged twice with different grades, or a file without judgements.
    """
    qrels: Qrels = {}
    order: tuple[int, ...] = (0, 1, 2)
    first = True
    for line in read_lines(source, BadLines("fail")):
        if not line.data.strip():
            continue
        try:
            columns = decode_line(line.data).split("\t")
            if len(columns) != 3:
                columns = " ".join(columns).split()
                if len(columns) != 4:
                    raise ValueError("neither query<TAB>document<TAB>grade nor the 4 columns of TREC qrels")
                del columns[1]
            elif first and (header := _qrels_header(columns)):
                order = header
                continue
            query, document, grade = (columns[position] for position in order)
            _judge(qrels.setdefault(checked_id(query), {}), checked_id(document), grade)
        except ValueError as error:
            raise CorpusError(f"{line.location}: {error}") from None
        finally:
            first = False
    if not qrels:
        raise CorpusError(f"{source} holds no judgements")
    return qrels


_HEADER = (
    {"query-id", "query_id", "qid", "query"},
    {"corpus-id", "corpus_id", "docid", "doc-id", "doc_id", "did", "pid", "document"},
    {"score", "grade", "label", "relevance", "rel"},
)


def _qrels_header(columns: list[str]) -> tuple[int, ...] | None:
    """The positions of query, document and grade, if the first line is a header."""
    names = [name.strip().lower() for name in columns]
    positions = [[position for position, name in enumerate(names) if name in known] for known in _HEADER]
    if all(len(found) == 1 for found in positions):
        return tuple(found[0] for found in positions)
    return (0, 1, 2) if names[2] == "score" else None


def _judge(judged: dict[str, int], document: str, grade: str) -> None:
    try:
        value = int(grade)
    except ValueError:
        raise ValueError(f"the grade {grade!r} is not a whole number; the columns are query, document, grade") from None
    if abs(value) >= 1 << 31:
        raise ValueError(f"the grade {grade!r} is beyond 31 bits; the columns are query, document, grade")
    if judged.setdefault(document, value) != value:
        raise ValueError(f"the document {document!r} was judged {judged[document]} for the same query; keep one grade")


def read_run(source: str) -> Run:
    """Read a TREC run: ``query Q0 document rank score tag``.

    Scores decide the order, as in trec_eval. Equal scores are ordered by rank.

    Parameters
    ----------
    source
        The name of a file; ``-`` is standard input.

    Returns
    -------
    dict of str to list of (str, float)
        Document ids and scores by query id, best first.

    Raises
    ------
    InputError
        If the file cannot be read.
    CorpusError
        For a line that cannot be used, or a file without a run.
    """
    found: dict[str, dict[str, tuple[float, int]]] = {}
    for line in read_lines(source, BadLines("fail")):
        if not line.data.strip():
            continue
        try:
            columns = decode_line(line.data).split()
            if len(columns) != 6:
                raise ValueError(f"{len(columns)} columns where a TREC run has 6: query Q0 document rank score tag")
            query, _, document, rank, score, _ = columns
            value = _number(score, "score")
            documents = found.setdefault(query, {})
            if document in documents:
                raise ValueError(f"the document {document!r} is there twice for the query {query!r}; keep one line")
            documents[document] = -value, int(_number(rank, "rank"))
        except ValueError as error:
            raise CorpusError(f"{line.location}: {error}") from None
    if not found:
        raise CorpusError(f"{source} holds no run")
    return {
        query: [(document, -documents[document][0]) for document in sorted(documents, key=documents.__getitem__)]
        for query, documents in found.items()
    }


def _number(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"the {what} {text!r} is not a number; the columns are query Q0 document rank score tag")
    return value


def write_run(out: IO[str], query_id: str, hits: Iterable[tuple[str, float]], tag: str) -> None:
    """Append the results of one query to a TREC run: ``query Q0 document rank score tag``.

    Parameters
    ----------
    out
        The run, open for writing.
    query_id
        The query's id.
    hits
        Document ids and scores, best first.
    tag
        The last column.

    Raises
    ------
    InputError
        If an id or the tag is empty or has white space, which the six columns cannot carry.
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
