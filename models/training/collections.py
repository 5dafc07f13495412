"""The retrieval sets a run learns from: texts, judgements, and which queries are held out."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...runtime.build.corpus import BadLines, read_corpus
from ...runtime.build.indexing import join_title
from ...runtime.errors import InputError
from ...runtime.evaluation.trec import read_qrels, read_queries
from .settings import SetSettings

# Held-out queries must not depend on the run's seed: runs that continue each other share them.
_HELD_OUT_SEED = 7


@dataclass(frozen=True)
class Collection:
    """A corpus and judged queries, by position.

    ``documents``: title and text, joined as the index joins them; ``ids``: their names. ``positives[i]``: documents
    relevant to query ``i``.
    ``train``/``held_out``: positions of queries, int64; no document is relevant to one of each, but where ``held_out``
    is a split of its own: then no text is one of each.
    """

    name: str
    settings: SetSettings
    documents: Sequence[str]
    queries: Sequence[str]
    positives: Sequence[npt.NDArray[np.int64]]
    train: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    ids: Sequence[str] = ()

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
    """How much of a run each collection gets, by its weight.

    Parameters
    ----------
    collections : sequence of Collection
        The collections.

    Returns
    -------
    float64 array ``[len(collections)]``
        The shares; they sum to 1.
    """
    weights = np.array([collection.settings.weight for collection in collections], np.float64)
    share: npt.NDArray[np.float64] = weights / weights.sum()
    return share


def read_collection(settings: SetSettings) -> Collection:
    """Read a set in BEIR form. A file ``CORPUS`` in place of a corpus holds the path of the corpus to use.

    Parameters
    ----------
    settings : SetSettings
        The set's table of the run file.

    Returns
    -------
    Collection
        Documents, queries and judgements.

    Raises
    ------
    InputError
        If a file is missing or does not fit the others.
    CorpusError
        If a line of the corpus cannot be read.
    """
    directory = Path(settings.path)
    if not directory.is_dir():
        raise InputError(f"the set {directory} is not a directory")
    pointer = directory / "CORPUS"
    corpus = directory / pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else directory
    learned = _read_judged(directory, settings.split, settings.queries)
    asked = _read_judged(directory, settings.dev, settings.dev_queries) if settings.dev else []
    ids: list[str] = []
    documents: list[str] = []
    for record in read_corpus([str(corpus) if corpus.is_file() else _find(corpus, "corpus")], BadLines("fail")):
        ids.append(record.document.id)
        documents.append(join_title(record.document.title, record.document.text))
    place = {name: position for position, name in enumerate(ids)}
    # Each split by itself: what is measured is judged by its own judgements.
    positives = [*_positives(learned, place), *_positives(asked, place)]
    queries = [text for text, _ in (*learned, *asked)]
    judged = np.array([i for i, relevant in enumerate(positives) if relevant.size], np.int64)
    own, dev = judged[judged < len(learned)], judged[judged >= len(learned)]
    if not own.size or (asked and not dev.size):
        raise InputError(f"{directory}: none of the documents judged relevant is in its corpus")
    if settings.dev:
        held_out = np.sort(np.random.default_rng(_HELD_OUT_SEED).permutation(dev)[: settings.held_out or dev.size])
        known_texts = {queries[q] for q in dev}
        train = np.array([q for q in own if queries[q] not in known_texts], np.int64)
        if not train.size:
            raise InputError(f"{directory}: every query of {settings.split} is one of {settings.dev}")
        return Collection(directory.name, settings, documents, queries, positives, train, held_out, ids)
    if settings.held_out >= own.size:
        raise InputError(f"{directory}: held_out = {settings.held_out} leaves none of {own.size} queries to train on")
    shuffled = np.random.default_rng(_HELD_OUT_SEED).permutation(own)
    held_out = np.sort(shuffled[: settings.held_out])
    # A query that shares a relevant document with a held-out one would teach the answer to it.
    known = np.unique(np.concatenate([np.empty(0, np.int64), *(positives[q] for q in held_out)]))
    train = np.sort([q for q in shuffled[settings.held_out :] if not np.isin(positives[q], known).any()])
    if not train.size:
        raise InputError(f"{directory}: held_out = {settings.held_out} leaves no query without a held-out document")
    return Collection(directory.name, settings, documents, queries, positives, train, held_out, ids)


Judged = tuple[str, list[str]]


def _read_judged(directory: Path, split: str, file: str | None) -> list[Judged]:
    """The queries of a split: text, and ids of the documents relevant to it. Raises InputError or CorpusError."""
    qrels = read_qrels(str(directory / "qrels" / f"{split}.tsv"))
    source = str(directory / file) if file else _find(directory, "queries")
    found = [
        (query.text, [d for d, grade in qrels[query.id].items() if grade > 0])
        for query in read_queries(source)
        if query.id in qrels
    ]
    if not found:
        raise InputError(f"none of the queries of {source} is judged in qrels/{split}.tsv")
    return found


def _positives(judged: Sequence[Judged], place: Mapping[str, int]) -> list[npt.NDArray[np.int64]]:
    """Documents relevant to each query. Queries of the same text share theirs: what one of them asks for is no wrong
    answer to another.
    """
    by_text: dict[str, dict[int, None]] = {}  # in the order of the judgements
    for text, relevant in judged:
        by_text.setdefault(text, {}).update((place[d], None) for d in relevant if d in place)
    return [np.array(list(by_text[text]), np.int64) for text, _ in judged]


def _find(directory: Path, stem: str) -> str:
    for name in (f"{stem}.jsonl", f"{stem}.jsonl.gz"):
        if (directory / name).is_file():
            return str(directory / name)
    raise InputError(f"{directory} has no {stem}.jsonl or {stem}.jsonl.gz")
