"""The retrieval sets a run learns from: texts, judgements, and which queries are held out."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...runtime.corpus import BadLines, read_corpus
from ...runtime.errors import InputError
from ...runtime.indexing import join_title
from ...runtime.trec import read_qrels, read_queries
from .runfile import SetSettings

# Held-out queries must not depend on the run's seed: runs that continue each other share them.
_HELD_OUT_SEED = 7


@dataclass(frozen=True)
class Collection:
    """A corpus and judged queries, by position.

    ``documents``: title and text, joined as the index joins them. ``positives[i]``: documents relevant to query ``i``.
    ``train``/``held_out``: positions of queries, int64; no document is relevant to one of each.
    """

    name: str
    settings: SetSettings
    documents: Sequence[str]
    queries: Sequence[str]
    positives: Sequence[npt.NDArray[np.int64]]
    train: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the texts and judgements: what is computed from a collection is kept under it."""
        digest = hashlib.sha256()
        for text in (*self.documents, *self.queries):
            digest.update(text.encode("utf-8", "surrogatepass") + b"\x00")
        for relevant in self.positives:
            digest.update(relevant.tobytes() + b"\x00")
        return digest.hexdigest()


def shares(collections: Sequence[Collection]) -> npt.NDArray[np.float64]:
    """How much of a run each collection gets, by its weight: float64 ``[len(collections)]``, summing to 1."""
    weights = np.array([collection.settings.weight for collection in collections], np.float64)
    share: npt.NDArray[np.float64] = weights / weights.sum()
    return share


def read_collection(settings: SetSettings) -> Collection:
    """Read a set in BEIR form (a file ``CORPUS`` in place of a corpus holds the path of the corpus to use).

    Raises InputError or CorpusError.
    """
    directory = Path(settings.path)
    if not directory.is_dir():
        raise InputError(f"the set {directory} is not a directory")
    pointer = directory / "CORPUS"
    corpus = directory / pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else directory
    qrels = read_qrels(str(directory / "qrels" / f"{settings.split}.tsv"))
    source = str(directory / settings.queries) if settings.queries else _find(directory, "queries")
    queries = [query for query in read_queries(source) if query.id in qrels]
    if not queries:
        raise InputError(f"none of the queries of {source} is judged in qrels/{settings.split}.tsv")
    ids: list[str] = []
    documents: list[str] = []
    for record in read_corpus([str(corpus) if corpus.is_file() else _find(corpus, "corpus")], BadLines("fail")):
        ids.append(record.document.id)
        documents.append(join_title(record.document.title, record.document.text))
    place = {name: position for position, name in enumerate(ids)}
    positives = []
    for query in queries:
        relevant = [place[d] for d, grade in qrels[query.id].items() if grade > 0 and d in place]
        positives.append(np.array(relevant, np.int64))
    judged = np.array([i for i, relevant in enumerate(positives) if relevant.size], np.int64)
    if not judged.size:
        raise InputError(f"{directory}: none of the documents judged relevant is in its corpus")
    if settings.held_out >= judged.size:
        raise InputError(
            f"{directory}: held_out = {settings.held_out} leaves none of {judged.size} queries to train on"
        )
    shuffled = np.random.default_rng(_HELD_OUT_SEED).permutation(judged)
    held_out = np.sort(shuffled[: settings.held_out])
    # A query that shares a relevant document with a held-out one would teach the answer to it.
    known = np.unique(np.concatenate([np.empty(0, np.int64), *(positives[q] for q in held_out)]))
    train = np.sort([q for q in shuffled[settings.held_out :] if not np.isin(positives[q], known).any()])
    if not train.size:
        raise InputError(f"{directory}: held_out = {settings.held_out} leaves no query without a held-out document")
    return Collection(directory.name, settings, documents, [q.text for q in queries], positives, train, held_out)


def _find(directory: Path, stem: str) -> str:
    for name in (f"{stem}.jsonl", f"{stem}.jsonl.gz"):
        if (directory / name).is_file():
            return str(directory / name)
    raise InputError(f"{directory} has no {stem}.jsonl or {stem}.jsonl.gz")
