"""The registry of the engines that are timed side by side: ours, and those of :mod:`benchmarks.peers`.

Not run by itself. Used by :mod:`benchmarks.choice`, :mod:`benchmarks.scorer`, :mod:`benchmarks.scorer_worker`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .engine import Engine
from .peers import PEERS
from .workload import Collection, Query


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
        return self._index.search_vector((query[0], query[1]), k)


class SpladeEdgeReordered(SpladeEdge):
    """Ours, with documents in an order of its own; the answers number them as they came."""

    name = "splade-edge --reorder"
    reorder = True


_ALL: tuple[type[Engine], ...] = (SpladeEdge, SpladeEdgeReordered, *PEERS)
# Every engine by its name, ours first. `benchmarks.scorer --engines` takes these names.
ENGINES: dict[str, type[Engine]] = {engine.name: engine for engine in _ALL}
