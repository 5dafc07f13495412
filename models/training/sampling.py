"""Batches as a function of the step number alone, so that a run resumed at step n goes on exactly as it would have.

Every batch comes from one collection: its other documents are then harder negatives than those of another subject.
Within a collection each query is drawn once before any is drawn twice; a fragment takes the place of the one drawn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .collections import Collection, shares
from .vocabulary import STOP_WORDS

I64 = npt.NDArray[np.int64]
# Words of a fragment, of keywords and of random words, inclusive.
_FRAGMENT = (2, 16)
_KEYWORDS = (2, 8)
_RANDOM_WORDS = (2, 12)
_WORD = re.compile(r"[^\W\d_][\w-]{2,}")


@dataclass(frozen=True)
class Batch:
    """Texts of one step, all of collection number ``collection``.

    ``texts``: the queries; ``queries``: their positions, int64 ``[batch]``, -1 for one cut from a document.
    ``documents``: int64 ``[columns]``, unique; ``positive[i]`` is the column of query ``i``'s. ``relevant``: bool
    ``[batch, columns]``, true where the judgements call the document relevant.
    """

    collection: int
    texts: list[str]
    queries: I64
    documents: I64
    positive: I64
    relevant: npt.NDArray[np.bool_]


def fragment(text: str, rng: np.random.Generator) -> str:
    """Take some successive words of a text as a query for it.

    Such a query needs no judgement, and has words that no judged query has.

    Parameters
    ----------
    text : str
        The text.
    rng : numpy.random.Generator
        What draws.

    Returns
    -------
    str
        The words.
    """
    words = text.split()
    start = int(rng.integers(len(words))) if words else 0
    return " ".join(words[start : start + int(rng.integers(_FRAGMENT[0], _FRAGMENT[1] + 1))])


def keywords(text: str, rng: np.random.Generator) -> str:
    """Take some words of a text in any order, each once, without function words.

    Parameters
    ----------
    text : str
        The text.
    rng : numpy.random.Generator
        What draws.

    Returns
    -------
    str
        The words; empty where the text has fewer than two.
    """
    words = [word for word in dict.fromkeys(_WORD.findall(text)) if word.lower() not in STOP_WORDS]
    if len(words) < _KEYWORDS[0]:
        return ""
    wanted = int(rng.integers(_KEYWORDS[0], _KEYWORDS[1] + 1))
    return " ".join(words[i] for i in rng.permutation(len(words))[:wanted])


def cut_from(document: str, scattered: float, rng: np.random.Generator) -> tuple[str, bool]:
    """Cut a query from a document: keywords or a fragment.

    Parameters
    ----------
    document : str
        The document.
    scattered : float
        The probability of keywords, if the document has some.
    rng : numpy.random.Generator
        What draws.

    Returns
    -------
    tuple of str and bool
        The query, and whether it is keywords.
    """
    if scattered and rng.random() < scattered and (words := keywords(document, rng)):
        return words, True
    return fragment(document, rng), False


def _holds_fragment(document: str, text: str) -> bool:
    return text in " ".join(document.split())


def _holds_words(document: str, text: str) -> bool:
    return set(text.split()) <= set(_WORD.findall(document))


def random_words(words: Sequence[str], texts: int, rng: np.random.Generator) -> list[str]:
    """Make queries without a meaning, of words that are drawn one by one.

    Parameters
    ----------
    words : sequence of str
        The words to draw from.
    texts : int
        How many queries.
    rng : numpy.random.Generator
        What draws.

    Returns
    -------
    list of str
        The queries.
    """
    lengths = rng.integers(_RANDOM_WORDS[0], _RANDOM_WORDS[1] + 1, texts)
    return [" ".join(words[i] for i in rng.integers(len(words), size=length)) for length in lengths.tolist()]


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """What batches are made of.

    Attributes
    ----------
    batch : int
        Queries of a batch.
    per_query : int
        Mined documents that each query brings into the batch.
    steps : int
        Batches in all.
    seed : int
        Batches are a function of the seed and the step.
    everything : bool
        Whether a batch has all documents of its collection.
    fragments : float
        The share of queries that are cut from documents.
    keywords : float
        The share of these that are :func:`keywords`.
    """

    batch: int
    per_query: int
    steps: int
    seed: int
    everything: bool = False
    fragments: float = 0.0
    keywords: float = 0.0


class Sampler:
    """Draws batches.

    Parameters
    ----------
    collections : sequence of Collection
        What to draw from.
    negatives : sequence of (int64 array ``[queries, depth]`` or None)
        Mined documents of each collection's queries, best first, -1 where there are none.
    settings : BatchSettings
        What batches are made of.
    search : sequence of callable, optional
        For each collection, the documents nearest to texts, best first: the negatives of fragments. Without it
        fragments have none.
    """

    def __init__(
        self,
        collections: Sequence[Collection],
        negatives: Sequence[I64 | None],
        settings: BatchSettings,
        search: Sequence[Callable[[Sequence[str]], list[list[int]]]] | None = None,
    ) -> None:
        self._collections = collections
        self._negatives = negatives
        self._settings = settings
        self._search = search
        rng = np.random.default_rng([settings.seed, 0])
        self._choice = rng.choice(len(collections), settings.steps, p=shares(collections))

    def batch(self, step: int) -> Batch:
        """Draw the batch of a step.

        Parameters
        ----------
        step : int
            The step, counted from 0.

        Returns
        -------
        Batch
            The same for the same step.
        """
        number = int(self._choice[step])
        collection = self._collections[number]
        rng = np.random.default_rng([self._settings.seed, 1, step])
        queries = self._next_queries(number, step)
        texts = [collection.queries[q] for q in queries]
        relevant = [collection.positives[q] for q in queries]
        cut = np.flatnonzero(rng.random(queries.size) < self._settings.fragments)
        scattered = np.zeros(queries.size, np.bool_)
        for row in cut:
            document = int(rng.integers(len(collection.documents)))
            queries[row] = -1
            texts[row], scattered[row] = cut_from(collection.documents[document], self._settings.keywords, rng)
            relevant[row] = np.array([document], np.int64)
        positives = np.array([rng.choice(r) for r in relevant], np.int64)
        columns = [positives]
        if self._settings.everything:
            columns.append(np.arange(len(collection.documents)))
        if self._settings.per_query or self._settings.everything:
            mined = self._candidates(number, queries, texts, scattered, relevant)
            columns += [rng.permutation(candidates)[: self._settings.per_query] for candidates in mined]
        documents, place = np.unique(np.concatenate(columns), return_inverse=True)
        return Batch(
            collection=number,
            texts=texts,
            queries=queries,
            documents=documents,
            positive=place[: queries.size].astype(np.int64),
            relevant=np.stack([np.isin(documents, r) for r in relevant]),
        )

    def _candidates(
        self,
        number: int,
        queries: I64,
        texts: Sequence[str],
        scattered: npt.NDArray[np.bool_],
        relevant: list[I64],
    ) -> list[I64]:
        """The mined documents of each query that are not relevant to it. Documents that hold a fragment word for word,
        or all keywords, are relevant to it: ``relevant`` is extended by those found.
        """
        mined = self._negatives[number]
        documents = self._collections[number].documents
        candidates = [np.empty(0, np.int64) for _ in texts]
        if mined is not None:
            candidates = [
                mined[query][mined[query] >= 0] if query >= 0 else c
                for query, c in zip(queries, candidates, strict=True)
            ]
        cut = [row for row, query in enumerate(queries) if query < 0]
        found = self._search[number]([texts[row] for row in cut]) if self._search and cut else []
        for row, nearest in zip(cut, found, strict=False):
            candidates[row] = np.array(nearest, np.int64)
            holds = _holds_words if scattered[row] else _holds_fragment
            same = [d for d in nearest if holds(documents[d], texts[row])]
            relevant[row] = np.union1d(relevant[row], np.array(same, np.int64))
        return [c[~np.isin(c, known)] for c, known in zip(candidates, relevant, strict=True)]

    def _next_queries(self, number: int, step: int) -> I64:
        """The collection's queries in a new order each epoch; an epoch's last batch may reach into the next one."""
        train = self._collections[number].train
        start = int((self._choice[:step] == number).sum()) * self._settings.batch
        drawn = []
        for epoch in range(start // train.size, (start + self._settings.batch - 1) // train.size + 1):
            drawn.append(np.random.default_rng([self._settings.seed, 2, number, epoch]).permutation(train))
        offset = start % train.size
        return np.concatenate(drawn)[offset : offset + self._settings.batch]


def no_ranks(texts: Sequence[str]) -> list[list[int]]:
    """Stand for a BM25 that nobody asks.

    Parameters
    ----------
    texts : sequence of str
        The texts.

    Returns
    -------
    list of list of int
        An empty ranking for each.
    """
    return [[] for _ in texts]
