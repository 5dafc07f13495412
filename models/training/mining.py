"""Hard negatives: the documents that a retriever ranks high, found with the product's own index."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from ...runtime.corpus import Document
from ...runtime.index import Index
from ...runtime.index.writer import IndexWriter
from ...runtime.vectors import SparseBatch
from .bm25 import Bm25
from .collections import Collection


def mine(queries: SparseBatch, documents: SparseBatch, vocabulary: int, depth: int) -> npt.NDArray[np.int64]:
    """The ``depth`` best documents of each query: int64 ``[queries, depth]``, best first, -1 where there are fewer."""
    found = np.full((len(queries), depth), -1, np.int64)
    with tempfile.TemporaryDirectory() as place:
        writer = IndexWriter(Path(place) / "index", vocabulary)
        for number in range(len(documents)):
            writer.add_document(Document(str(number)))
        writer.add_vectors(documents)
        writer.finish()
        index = Index.open(Path(place) / "index")
        for row, query in enumerate(queries):
            units = index.search_vectors(*query, depth)[0]
            found[row, : units.size] = units
        del index
    return found


def mine_with_bm25(collection: Collection, depth: int) -> npt.NDArray[np.int64]:
    """BM25's best documents of every query of a collection, as :func:`mine`."""
    bm25 = Bm25(collection.documents)
    documents = bm25.document_vectors
    return mine(_batch(bm25.vectors(collection.queries)), _batch(documents), documents.shape[1], depth)


def mined_negatives(collection: Collection, depth: int, path: Path) -> npt.NDArray[np.int64]:
    """What ``path`` holds, or BM25's best documents, which are then kept there."""
    if path.is_file():
        kept: npt.NDArray[np.int64] = np.load(path)
        if kept.ndim == 2 and kept.shape[0] == len(collection.queries) and kept.shape[1] >= depth:
            return kept[:, :depth]
    found = mine_with_bm25(collection, depth)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, found)
    return found


def _batch(matrix: sp.csr_matrix) -> SparseBatch:
    matrix = matrix.tocsr()
    matrix.sum_duplicates()
    matrix.sort_indices()
    return SparseBatch(matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data.astype(np.float32))
