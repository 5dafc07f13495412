"""What a directory answers: each question's answer, or the error in its place."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from splade_edge.runtime import Encoder, Searcher, SpladeEdgeError
from splade_edge.runtime.artifact import Side, is_pair, open_all
from splade_edge.runtime.index.layout import MANIFEST_NAME as INDEX_MANIFEST
from splade_edge.runtime.repair.check import check_index

QUERIES = ("cat in the rain", "supersonic flow", "bread flour oven water", "piano", "☃")
FILTERS = ("n < 20", "lang = 'de'", "lang = 'de' and note like 'n1%'", "note = 'n7'")
Answer = tuple[str, Any]


def probe(path: Path) -> dict[str, Answer]:
    """Questions to an index, an artifact or a pair: ("answer", value) or ("error", message)."""
    return _index(path) if _is_index(path) else _artifact(path)


def check(path: Path) -> str | None:
    """What ``splade-edge check`` finds; None if nothing."""
    try:
        if _is_index(path):
            check_index(path).close()
        else:
            open_all(path)
    except SpladeEdgeError as error:
        return str(error)
    return None


def _is_index(path: Path) -> bool:
    return (path / INDEX_MANIFEST).exists() or (path / "segments").exists()


def _index(path: Path) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    opened = _ask(answers, "open", lambda: Searcher.open(path, threads=1), keep=False)
    if opened is None:
        return answers
    with opened as searcher:
        for query in QUERIES:
            for k in (3, 1000):
                _ask(answers, f"search {k} {query}", partial(searcher.search, query, k))
        for where in FILTERS:
            _ask(answers, f"where {where}", partial(searcher.search, QUERIES[0], 5, where=where))
        _ask(answers, "fields", lambda: searcher.index.fields)
        _ask(answers, "terms", lambda: searcher.index.terms.tolist())
        for document_id in ("d0", "d17", "d59", "none"):
            _ask(answers, f"find {document_id}", partial(searcher.index.find, document_id))
        _ask(answers, "documents", lambda: searcher.index.documents(range(len(searcher.index))))
        hits = answers[f"search 3 {QUERIES[0]}"]
        if hits[0] == "answer" and hits[1]:
            _ask(answers, "explain", lambda: searcher.explain(QUERIES[0], hits[1][0]))
    return answers


def _artifact(path: Path) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    sides: tuple[Side | None, ...] = ("query", "document") if is_pair(path) else (None,)
    for side in sides:
        encoder = _ask(answers, f"open {side}", partial(Encoder.open, path, side, threads=1), keep=False)
        if encoder is not None:
            for query in QUERIES:
                _ask(answers, f"{side} {query}", partial(_encode, encoder, query))
            _ask(answers, f"{side} some", partial(_encode_some, encoder, QUERIES[0]))
    return answers


def _encode_some(encoder: Encoder, text: str) -> list[Any]:
    return _encode(encoder.restricted(np.arange(0, 20, dtype=np.int32)), text)


def _encode(encoder: Encoder, text: str) -> list[Any]:
    encoded = encoder.encode_text(text)
    return [encoded.vector.indices.tolist(), encoded.vector.values.tolist(), *encoded[1:]]


def _ask(answers: dict[str, Answer], question: str, ask: Callable[[], Any], *, keep: bool = True) -> Any:
    try:
        value = ask()
    except SpladeEdgeError as error:
        answers[question] = ("error", str(error))
        return None
    answers[question] = ("answer", value if keep else None)
    return value
