"""What an engine has to do to be timed, and the two that need no peer: ours, and SciPy as the plain baseline."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .workload import Collection, Query, by_term

Answer = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


class Engine(ABC):
    """An engine: :meth:`build` once into a directory; :meth:`open` and :meth:`search` in another process.

    ``modules``: what must be importable. ``whole_numbers``: query weights are rounded for it. ``exact``: it claims the
    exact top k up to float32 rounding; ``ordered``: in float64, ties by document. ``package``: whose version it is.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ()
    whole_numbers: ClassVar[bool] = False
    exact: ClassVar[bool] = True
    ordered: ClassVar[bool] = False
    shares_index_of: ClassVar[str] = ""

    @classmethod
    def missing(cls) -> list[str]:
        """Modules it needs that are not installed."""
        return [module for module in cls.modules if importlib.util.find_spec(module) is None]

    @abstractmethod
    def build(self, collection: Collection, directory: Path) -> None:
        """Index a collection into an empty directory."""

    @abstractmethod
    def open(self, directory: Path) -> None:
        """Open what :meth:`build` wrote."""

    def prepare(self, query: Query) -> Any:
        """A query as the engine takes it; not timed."""
        return query

    @abstractmethod
    def search(self, query: Any, k: int) -> Any:
        """Answer a prepared query; this call is timed."""

    def answer(self, result: Any) -> Answer:
        """(documents, scores) of what :meth:`search` returned; not timed."""
        documents, scores = result
        return np.asarray(documents, np.int64), np.asarray(scores, np.float64)

    def batch(self, queries: list[Any], k: int) -> float | None:
        """Seconds for all queries in one native call, for engines that have one."""
        return None


class SpladeEdge(Engine):
    """Ours, through the public call for vectors."""

    name = "splade-edge"
    package = "splade-edge"
    modules = ("splade_edge.runtime",)
    ordered = True
    reorder = False

    def build(self, collection: Collection, directory: Path) -> None:
        from splade_edge.runtime.build.index_writer import IndexWriter
        from splade_edge.runtime.document import Document
        from splade_edge.runtime.vectors import SparseBatch

        writer = IndexWriter(directory / "index", collection.vocab, scale=1.0, reorder=self.reorder)
        for indptr, terms, impacts in collection.chunks(20_000):
            writer.add_vectors(SparseBatch(indptr, terms.astype(np.int32), impacts.astype(np.float32)))
            numbers = range(writer.documents, writer.documents + indptr.size - 1)
            writer.add_documents([Document(str(number)) for number in numbers])
        writer.finish()

    def open(self, directory: Path) -> None:
        from splade_edge.runtime.index import Index
        from splade_edge.runtime.warming import use_kernels

        use_kernels()
        self._index = Index.open(directory / "index")

    def search(self, query: Query, k: int) -> Any:
        return self._index.search_vectors(query[0], query[1], k)


class SpladeEdgeReordered(SpladeEdge):
    """Ours, with documents in an order of its own; the answers number them as they came."""

    name = "splade-edge --reorder"
    reorder = True


class Scipy(Engine):
    """SciPy: a sparse query (1 x terms) times the sparse postings (terms x documents), then a partial sort."""

    name = "SciPy"
    package = "scipy"
    modules = ("scipy",)

    def build(self, collection: Collection, directory: Path) -> None:
        save_postings(collection, directory)

    def open(self, directory: Path) -> None:
        import scipy.sparse as sp

        indptr, documents, values, shape = load_postings(directory)
        self._postings = sp.csr_matrix((values, documents, indptr), shape=shape)

    def prepare(self, query: Query) -> Any:
        import scipy.sparse as sp

        terms, weights = query
        return sp.csr_matrix((weights, terms, [0, terms.size]), shape=(1, self._postings.shape[0]))

    def search(self, query: Any, k: int) -> Any:
        found = query @ self._postings
        scores = found.data
        k = min(k, scores.size)
        best = np.argpartition(scores, scores.size - k)[scores.size - k :]
        best = best[np.argsort(-scores[best], kind="stable")]
        return found.indices[best], scores[best]


def save_postings(collection: Collection, directory: Path) -> None:
    """The postings as plain arrays, impacts as float32: the index of engines that keep none of their own."""
    indptr, documents, impacts = by_term(collection)
    np.save(directory / "indptr.npy", indptr.astype(np.int32 if collection.postings < 2**31 else np.int64))
    np.save(directory / "documents.npy", documents)
    np.save(directory / "values.npy", impacts.astype(np.float32))
    np.save(directory / "shape.npy", [collection.vocab, collection.documents])


def load_postings(directory: Path) -> tuple[Any, Any, Any, tuple[int, int]]:
    """(indptr, documents, values, (vocab, documents)) of :func:`save_postings`, in memory."""
    indptr, documents, values, shape = (
        np.load(directory / f"{name}.npy") for name in ("indptr", "documents", "values", "shape")
    )
    return indptr, documents, values, (int(shape[0]), int(shape[1]))


def all_engines() -> dict[str, type[Engine]]:
    """Every engine by its name, ours first."""
    from . import peers

    classes: list[type[Engine]] = [SpladeEdge, SpladeEdgeReordered, *peers.PEERS, Scipy]
    return {engine.name: engine for engine in classes}
