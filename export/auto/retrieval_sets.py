"""Retrieval sets in BEIR form, and samples of them that an encoder can go through in minutes."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

from ...runtime.build.corpus import BadLines, read_corpus
from ...runtime.document import Document
from ...runtime.errors import InputError
from ...runtime.evaluation.trec import Qrels, Query, read_qrels, read_queries

BUNDLED = Path(__file__).parents[1] / "samples" / "boolq"
# Without judgements, rankings are compared over at least so many queries.
LEAST_QUERIES = 500
_MOST_QUERIES = 500


@dataclass(frozen=True)
class RetrievalSet:
    """A corpus, queries, and judgements (query id -> document id -> grade), which are empty if there are none."""

    name: str
    documents: list[Document]
    queries: list[Query]
    qrels: Qrels


def locate_set(spec: str, default_split: str = "test") -> tuple[Path, str]:
    """Split ``DIR`` or ``DIR:SPLIT`` into a directory and a split.

    Parameters
    ----------
    spec : str
        What the user wrote. A colon may be part of a path.
    default_split : str
        The split where none is named.

    Returns
    -------
    tuple of Path and str
        The directory and the split.

    Raises
    ------
    InputError
        If there is no such directory.
    """
    if Path(spec).is_dir():  # a colon may be part of a path
        return Path(spec), default_split
    place, separator, split = spec.rpartition(":")
    directory = Path(place if separator else spec)
    if not directory.is_dir():
        raise InputError(f"{directory} is not a directory; a retrieval set is DIR or DIR:SPLIT in BEIR form")
    return directory, split


def read_set(spec: str, default_split: str = "test") -> RetrievalSet:
    """Read a retrieval set in BEIR form: ``corpus.jsonl[.gz]``, ``queries[.SPLIT].jsonl[.gz]``, ``qrels/SPLIT.tsv``.

    Queries without a judgement are left out. A directory without ``qrels/`` is a set without judgements. A file
    ``CORPUS`` in place of a corpus holds the relative path of the corpus to search.

    Parameters
    ----------
    spec : str
        ``DIR`` or ``DIR:SPLIT``.
    default_split : str
        The split where none is named.

    Returns
    -------
    RetrievalSet
        The whole set.

    Raises
    ------
    InputError
        If a file is missing, or there are neither judgements nor enough queries.
    CorpusError
        If a line of the corpus cannot be read.
    """
    directory, split = locate_set(spec, default_split)
    pointer = directory / "CORPUS"
    corpus = (directory / pointer.read_text(encoding="utf-8").strip()) if pointer.is_file() else directory
    queries = list(read_queries(_find(directory, f"queries.{split}") or _required(directory, "queries")))
    qrels: Qrels = {}
    if (directory / "qrels").is_dir():
        qrels = read_qrels(str(directory / "qrels" / f"{split}.tsv"))
        queries = [query for query in queries if query.id in qrels]
        if len(queries) != len(qrels):
            raise InputError(f"{directory}: {len(qrels) - len(queries)} judged queries are not in its queries")
    elif len(queries) < LEAST_QUERIES:
        raise InputError(
            f"{directory} has {len(queries)} queries and no judgements (qrels/); "
            f"without judgements at least {LEAST_QUERIES} queries are needed"
        )
    source = str(corpus) if corpus.is_file() else _required(corpus, "corpus")
    documents = [record.document for record in read_corpus([source], BadLines("fail"))]
    name = directory.name + ("" if split == default_split else f"/{split}")
    return RetrievalSet(name, documents, queries, qrels)


def sample_set(data: RetrievalSet, documents: int, seed: int = 0) -> RetrievalSet:
    """Take a sample of a set that an encoder can go through in minutes.

    Queries are taken at random until the documents judged for them are half of the sample, or 500 queries are taken;
    then other documents at random. The same set gives the same sample, in the order of the set.

    Parameters
    ----------
    data : RetrievalSet
        The whole set.
    documents : int
        The most documents to take.
    seed : int
        The seed of the drawing.

    Returns
    -------
    RetrievalSet
        The sample.
    """
    rng = random.Random(seed)
    order = rng.sample(range(len(data.queries)), len(data.queries))
    known = {document.id for document in data.documents}
    taken: list[int] = []
    needed: set[str] = set()
    for place in order:
        judged = known & data.qrels.get(data.queries[place].id, {}).keys()
        if len(taken) == _MOST_QUERIES or (taken and len(needed | judged) > documents // 2 and judged - needed):
            break
        taken.append(place)
        needed |= judged
    others = [i for i, document in enumerate(data.documents) if document.id not in needed]
    kept = set(rng.sample(others, min(len(others), max(0, documents - len(needed)))))
    queries = [data.queries[place] for place in sorted(taken)]
    return replace(
        data,
        documents=[d for i, d in enumerate(data.documents) if i in kept or d.id in needed],
        queries=queries,
        qrels={query.id: data.qrels[query.id] for query in queries if query.id in data.qrels},
    )


def _find(directory: Path, stem: str) -> str | None:
    found = (directory / f"{stem}{end}" for end in (".jsonl", ".jsonl.gz"))
    return next((str(path) for path in found if path.is_file()), None)


def _required(directory: Path, stem: str) -> str:
    found = _find(directory, stem)
    if found is None:
        raise InputError(f"{directory} has no {stem}.jsonl or {stem}.jsonl.gz")
    return found
