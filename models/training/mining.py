"""Hard negatives: the documents that a retriever ranks high, found with the product's own index."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from ...runtime.corpus import Document
from ...runtime.errors import InputError
from ...runtime.index import Index
from ...runtime.index.writer import IndexWriter
from ...runtime.vectors import SparseBatch
from ..weights import weights_sha256
from .bm25 import Bm25
from .collections import Collection
from .evaluation import encode_all
from .runfile import EncoderSettings
from .side import Side


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


def mine_with_pair(collection: Collection, depth: int, query: Side, document: Side) -> npt.NDArray[np.int64]:
    """The best documents of every query of a collection by a SPLADE pair, as :func:`mine`."""
    documents = encode_all(document, collection.documents)
    return mine(_batch(encode_all(query, collection.queries)), _batch(documents), documents.shape[1], depth)


class Miner:
    """Mines with a pair, or with BM25 where ``pair`` is None; keeps what it found in the directory ``cache``."""

    def __init__(self, pair: str | None, lengths: tuple[int, int], cache: Path, device: torch.device) -> None:
        self._cache = cache
        self._by = "bm25"
        self._sides: tuple[Side, Side] | None = None
        if pair is not None:
            roots = [Path(pair) / side for side in ("query", "document")]
            for root in roots:
                if not (root / "config.json").is_file():
                    raise InputError(f"the miner {pair} has no {root.name}/ with a checkpoint")
            settings = [
                EncoderSettings(base=str(root), frozen=True, silent=[], max_length=length)
                for root, length in zip(roots, lengths, strict=True)
            ]
            self._sides = (Side(settings[0], [], 0, device), Side(settings[1], [], 0, device))
            self._by = hashlib.sha256("".join(map(weights_sha256, roots)).encode()).hexdigest()[:12]

    def negatives(self, collection: Collection, depth: int) -> npt.NDArray[np.int64]:
        """int64 ``[queries, depth]``, as :func:`mine`."""
        path = self._cache / f"{collection.name}-negatives-{self._by}.npy"
        if path.is_file():
            kept: npt.NDArray[np.int64] = np.load(path)
            if kept.ndim == 2 and kept.shape[0] == len(collection.queries) and kept.shape[1] >= depth:
                return kept[:, :depth]
        if self._sides is None:
            found = mine_with_bm25(collection, depth)
        else:
            found = mine_with_pair(collection, depth, *self._sides)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, found)
        return found


def _batch(matrix: sp.csr_matrix) -> SparseBatch:
    matrix = matrix.tocsr()
    matrix.sum_duplicates()
    matrix.sort_indices()
    return SparseBatch(matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data.astype(np.float32))
