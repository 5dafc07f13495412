"""Batches as a function of the step number alone, so that a run resumed at step n goes on exactly as it would have.

Every batch comes from one collection: its other documents are then harder negatives than those of another subject.
Within a collection each query is seen once before any is seen twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .collections import Collection, shares

I64 = npt.NDArray[np.int64]
# Words of a fragment, inclusive.
_FRAGMENT = (2, 16)


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
    """Some successive words of a text, as a query for it: unsupervised, and with words that no judged query has."""
    words = text.split()
    start = int(rng.integers(len(words))) if words else 0
    return " ".join(words[start : start + int(rng.integers(_FRAGMENT[0], _FRAGMENT[1] + 1))])


class Sampler:
    """Draws batches. ``negatives[c]``: int64 ``[queries, depth]``, mined documents, best first, -1 where there are
    none.
    """

    def __init__(
        self,
        collections: Sequence[Collection],
        negatives: Sequence[I64 | None],
        *,
        batch: int,
        per_query: int,
        steps: int,
        seed: int,
        fragments: float = 0.0,
    ) -> None:
        self._collections = collections
        self._negatives = negatives
        self._batch = batch
        self._per_query = per_query
        self._seed = seed
        self._fragments = fragments
        rng = np.random.default_rng([seed, 0])
        self._choice = rng.choice(len(collections), steps, p=shares(collections))

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        number = int(self._choice[step])
        collection = self._collections[number]
        rng = np.random.default_rng([self._seed, 1, step])
        queries = self._next_queries(number, step)
        texts = [collection.queries[q] for q in queries]
        relevant = [collection.positives[q] for q in queries]
        for row in np.flatnonzero(rng.random(queries.size) < self._fragments):
            document = int(rng.integers(len(collection.documents)))
            queries[row], texts[row] = -1, fragment(collection.documents[document], rng)
            relevant[row] = np.array([document], np.int64)
        positives = np.array([rng.choice(r) for r in relevant], np.int64)
        columns = [positives]
        mined = self._negatives[number]
        if self._per_query and mined is not None:
            for query, known in zip(queries, relevant, strict=True):
                if query < 0:
                    continue
                candidates = mined[query][mined[query] >= 0]
                candidates = candidates[~np.isin(candidates, known)]
                columns.append(rng.permutation(candidates)[: self._per_query])
        documents, place = np.unique(np.concatenate(columns), return_inverse=True)
        return Batch(
            collection=number,
            texts=texts,
            queries=queries,
            documents=documents,
            positive=place[: queries.size].astype(np.int64),
            relevant=np.stack([np.isin(documents, r) for r in relevant]),
        )

    def _next_queries(self, number: int, step: int) -> I64:
        """The collection's queries in a new order each epoch; an epoch's last batch may reach into the next one."""
        train = self._collections[number].train
        start = int((self._choice[:step] == number).sum()) * self._batch
        drawn = []
        for epoch in range(start // train.size, (start + self._batch - 1) // train.size + 1):
            drawn.append(np.random.default_rng([self._seed, 2, number, epoch]).permutation(train))
        offset = start % train.size
        return np.concatenate(drawn)[offset : offset + self._batch]
