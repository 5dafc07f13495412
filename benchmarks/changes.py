"""A long sequence of changes to an index, the same in every process: after commit n the index must be state n.

Not run by itself. Used by :mod:`benchmarks.concurrency`, :mod:`benchmarks.interruptions`, :mod:`benchmarks.soak` and
others.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from splade_edge.runtime import Document, Index, IndexUpdater, SparseBatch
from splade_edge.runtime.build.index_writer import IndexWriter

VOCABULARY = 12


class Changes:
    """State ``number`` is that of generation ``number``: 1 is the index as it is built, and each commit is the next.

    ``documents``: id -> float32 ``[VOCABULARY]`` of whole impacts, in the order of (last) insertion. ``size``: about
    how many documents there are.
    """

    def __init__(self, seed: int = 0, size: int = 60) -> None:
        self.seed = seed
        self.size = size
        self.number = 1
        self.documents: dict[str, np.ndarray] = {}
        self._change(add=self._make(size))

    def build(self, path: Path) -> None:
        """Write state 1."""
        path.mkdir(parents=True)
        writer = IndexWriter(path, VOCABULARY, scale=1.0, fields=["n"])
        writer.add_documents(stored(list(self.documents)))
        writer.add_vectors(csr(list(self.documents.values())))
        writer.finish()

    def step(self, updater: IndexUpdater | None = None) -> None:
        """Go on to the next state: of the model, and, where one is given, of an index, by one commit."""
        self.number += 1
        rng = self._rng()
        kind = rng.choice(["add", "delete", "update", "all", "compact"], p=[0.35, 0.15, 0.2, 0.25, 0.05])
        ids = list(self.documents)
        add, update, delete = {}, {}, []
        if kind in ("add", "all") or len(ids) < self.size // 2:
            add = self._make(int(rng.integers(1, 1 + self.size // 4)))
        if kind in ("update", "all", "compact"):
            update = self._make(int(rng.integers(1, 6)), rng.choice(ids, 5, replace=False).tolist())
        if kind in ("delete", "all") or len(ids) > 2 * self.size:
            most = max(self.size // 4, len(ids) - self.size) if len(ids) > self.size else 5
            delete = [i for i in rng.choice(ids, most, replace=False).tolist() if i not in update]
            delete = delete or [next(i for i in ids if i not in update)]
        if updater is not None:
            for documents, replace in ((add, False), (update, True)):
                if documents:
                    updater.add_vectors(stored(list(documents)), csr(list(documents.values())), replace=replace)
            updater.delete(delete)
            commit = updater.compact() if kind == "compact" else updater.commit()
            if commit.generation != self.number:
                raise AssertionError(f"generation {commit.generation} where {self.number} was expected")
        self._change(add=add, update=update, delete=delete)

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng((self.seed, self.number))

    def _make(self, count: int, ids: list[str] | None = None) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, self.number, 1 if ids is None else 2))
        ids = [f"d{self.number}-{n}" for n in range(count)] if ids is None else ids[:count]
        vectors = rng.integers(1, 6, (len(ids), VOCABULARY)) * (rng.random((len(ids), VOCABULARY)) < 0.5)
        return dict(zip(ids, vectors.astype(np.float32), strict=True))

    def _change(
        self, add: dict[str, np.ndarray], update: dict[str, np.ndarray] | None = None, delete: list[str] | None = None
    ) -> None:
        for document_id in [*(update or {}), *(delete or [])]:
            del self.documents[document_id]
        self.documents |= add
        self.documents |= update or {}

    def query(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Some query: (terms, weights)."""
        rng = np.random.default_rng((self.seed, number, 3))
        return np.sort(rng.choice(VOCABULARY, 4, replace=False)), rng.integers(1, 4, 4).astype(np.float32)

    def answer(self, number: int, k: int) -> list[tuple[str, float]]:
        """The top k of that query, the plain way: (id, score)."""
        terms, weights = self.query(number)
        scores = np.array(list(self.documents.values()))[:, terms] @ weights  # whole numbers: exact in any order
        order = np.argsort(-scores, kind="stable")[:k]
        ids = list(self.documents)
        return [(ids[i], float(scores[i])) for i in order if scores[i] > 0]

    def wrong(self, index: Index, number: int, k: int = 10) -> str | None:
        """What is wrong with an index of this state's generation; ``number``: of the query it is asked."""
        found, scores = index.search_vector(self.query(number), k)
        answer = [(d.id, s) for d, s in zip(index.documents(found), scores.tolist(), strict=True)]
        if answer != self.answer(number, k):
            return f"generation {index.generation}, query {number}: {answer} instead of {self.answer(number, k)}"
        return None

    def all_wrong(self, index: Index) -> str | None:
        """:meth:`wrong`, of everything that is stored and several queries."""
        ids = [d.id for d in index.documents(range(len(index)))]
        if ids != list(self.documents):
            return f"generation {index.generation} has the documents {ids} instead of {list(self.documents)}"
        return next((fault for n in range(5) if (fault := self.wrong(index, n, 1000))), None)


def stored(ids: list[str]) -> list[Document]:
    """The documents of these ids."""
    return [Document(i, f"title {i}", f"text {i}", {"n": len(i)}) for i in ids]


def csr(rows: list[np.ndarray]) -> SparseBatch:
    """Rows as a batch of sparse vectors."""
    dense = np.array(rows)
    where, terms = np.nonzero(dense)
    pointers = np.searchsorted(where, np.arange(len(rows) + 1))
    return SparseBatch(pointers.astype(np.int64), terms.astype(np.int32), dense[where, terms].astype(np.float32))
