"""Retrieval sets in BEIR form, how well a ranking answers them, and how sure a difference is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from splade_edge.runtime.corpus import BadLines, Document, read_corpus
from splade_edge.runtime.errors import InputError
from splade_edge.runtime.trec import Query, read_qrels, read_queries

MEASURES = ("nDCG@10", "RR@10", "R@100")
DEPTH = 100

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RetrievalSet:
    """A corpus, its judged queries, and the judgements (query id -> document id -> grade)."""

    name: str
    documents: list[Document]
    queries: list[Query]
    qrels: dict[str, dict[str, int]]


def read_set(spec: str) -> RetrievalSet:
    """``DIR`` or ``DIR:SPLIT`` (default ``test``): ``corpus.jsonl[.gz]``, ``queries.jsonl[.gz]``, ``qrels/SPLIT.tsv``.

    A file ``CORPUS`` in place of a corpus holds the relative path of the corpus to search.
    Raises InputError or CorpusError.
    """
    place, _, split = spec.partition(":")
    directory = Path(place)
    pointer = directory / "CORPUS"
    corpus = (directory / pointer.read_text(encoding="utf-8").strip()) if pointer.is_file() else directory
    qrels = read_qrels(str(directory / "qrels" / f"{split or 'test'}.tsv"))
    queries = [query for query in read_queries(_find(directory, "queries")) if query.id in qrels]
    if len(queries) != len(qrels):
        raise InputError(f"{directory}: {len(qrels) - len(queries)} judged queries are not in its queries")
    source = str(corpus) if corpus.is_file() else _find(corpus, "corpus")
    documents = [record.document for record in read_corpus([source], BadLines("fail"))]
    name = directory.name + (f"/{split}" if split else "")
    return RetrievalSet(name, documents, queries, qrels)


def _find(directory: Path, stem: str) -> str:
    for name in (f"{stem}.jsonl", f"{stem}.jsonl.gz"):
        if (directory / name).is_file():
            return str(directory / name)
    raise InputError(f"{directory} has no {stem}.jsonl or {stem}.jsonl.gz")


def measure_run(data: RetrievalSet, rankings: Sequence[Sequence[str]]) -> dict[str, F64]:
    """Each measure for each query, float64 ``[queries]`` in the order of ``data.queries``; no answer counts as 0.

    ``rankings[i]``: document ids for query i, best first.
    """
    import ir_measures

    # The tools behind ir-measures order equal scores by document id; ranks as scores keep the order that was returned.
    run = {
        query.id: {document: float(-rank) for rank, document in enumerate(ranking)}
        for query, ranking in zip(data.queries, rankings, strict=True)
    }
    measures = {ir_measures.parse_measure(name): name for name in MEASURES}
    position = {query.id: i for i, query in enumerate(data.queries)}
    values = {name: np.zeros(len(data.queries)) for name in MEASURES}
    for value in ir_measures.iter_calc(list(measures), data.qrels, run):
        values[measures[value.measure]][position[value.query_id]] = value.value
    return values


def bootstrap_interval(difference: F64, resamples: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of per-query differences: paired bootstrap over queries, percentile method."""
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for i in range(0, resamples, 100):
        picks = rng.integers(0, difference.size, (min(100, resamples - i), difference.size))
        means[i : i + len(picks)] = difference[picks].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)
