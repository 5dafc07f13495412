"""Hard negatives: the documents that a retriever ranks high, found with the product's own index."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from ...runtime.build.index_writer import IndexWriter
from ...runtime.document import Document
from ...runtime.errors import InputError
from ...runtime.files import storage_errors, write_file_durably
from ...runtime.idf import Factors
from ...runtime.index import Index
from ...runtime.vectors import SparseBatch
from ..stated import stated_query_idf
from ..weights import load_config, weights_sha256
from .bm25 import Bm25
from .collections import Collection
from .evaluation import encode_all
from .settings import EncoderSettings
from .side import Side


def mine(
    queries: SparseBatch,
    documents: SparseBatch,
    vocabulary: int,
    depth: int,
    directory: Path | None = None,
    idf: float = 0.0,
) -> npt.NDArray[np.int64]:
    """Find the best documents of each query.

    Parameters
    ----------
    queries : SparseBatch
        The query vectors.
    documents : SparseBatch
        The document vectors.
    vocabulary : int
        The number of terms.
    depth : int
        The most documents for each query.
    directory : Path, optional
        Where a temporary index is made. By default the system's temporary directory.
    idf : float
        The exponent of the terms' inverse document frequency that query weights are multiplied with.

    Returns
    -------
    int64 array ``[queries, depth]``
        Positions of the documents, best first, -1 where there are fewer.
    """
    found = np.full((len(queries), depth), -1, np.int64)
    if not documents.indices.size:
        return found
    with tempfile.TemporaryDirectory(dir=directory) as place:
        writer = IndexWriter(Path(place) / "index", vocabulary)
        for number in range(len(documents)):
            writer.add_document(Document(str(number)))
        writer.add_vectors(documents)
        writer.finish()
        index = Index.open(Path(place) / "index")
        factors = Factors(index, vocabulary, idf)
        for row, query in enumerate(queries):
            units = index.search_vector(factors.times(query), depth)[0]
            found[row, : units.size] = units
        del index
    return found


def mine_with_bm25(collection: Collection, depth: int, directory: Path | None = None) -> npt.NDArray[np.int64]:
    """Find the best documents of every query of a collection by BM25 (see :func:`mine`).

    Parameters
    ----------
    collection : Collection
        The collection.
    depth : int
        The most documents for each query.
    directory : Path, optional
        Where a temporary index is made.

    Returns
    -------
    int64 array ``[queries, depth]``
        Positions of the documents, best first, -1 where there are fewer.
    """
    bm25 = Bm25(collection.documents)
    documents = bm25.document_vectors
    queries = _batch(bm25.vectors(collection.queries))
    return mine(queries, _batch(documents), documents.shape[1], depth, directory)


def mine_with_pair(
    collection: Collection, depth: int, query: Side, document: Side, directory: Path | None = None
) -> npt.NDArray[np.int64]:
    """Find the best documents of every query of a collection by a SPLADE pair (see :func:`mine`).

    Parameters
    ----------
    collection : Collection
        The collection.
    depth : int
        The most documents for each query.
    query, document : Side
        The encoders of the two sides.
    directory : Path, optional
        Where a temporary index is made.

    Returns
    -------
    int64 array ``[queries, depth]``
        Positions of the documents, best first, -1 where there are fewer.
    """
    documents = encode_all(document, collection.documents)
    queries = _batch(encode_all(query, collection.queries))
    return mine(queries, _batch(documents), documents.shape[1], depth, directory, query.query_idf)


class Miner:
    """Mines with a pair, or with BM25 where ``pair`` is None; keeps what it found in the directory ``cache``.

    ``lengths``: tokens of a query and a document. Raises InputError if ``pair`` is not one.
    """

    def __init__(self, pair: str | None, lengths: tuple[int, int], cache: Path, device: torch.device) -> None:
        self._cache = cache
        self._device = device
        self._settings: list[EncoderSettings] = []
        self._key = "bm25"
        if pair is not None:
            for side, length in zip(("query", "document"), lengths, strict=True):
                root = Path(pair) / side
                if not (root / "config.json").is_file():
                    raise InputError(f"the miner {pair} has no {side}/ with a checkpoint")
                self._settings.append(EncoderSettings(base=str(root), frozen=True, max_length=length))
                self._key += f" {weights_sha256(root)} {length}"
            root = Path(pair) / "query"
            if power := stated_query_idf(load_config(root, trust_remote_code=False), root):
                self._key += f" idf {power}"

    def negatives(self, collection: Collection, depth: int) -> npt.NDArray[np.int64]:
        """Find the best documents of every query of a collection.

        Parameters
        ----------
        collection : Collection
            The collection.
        depth : int
            The most documents for each query.

        Returns
        -------
        int64 array ``[queries, depth]``
            Positions of the documents, best first, -1 where there are fewer.
        """
        key = hashlib.sha256(f"{self._key} {depth} {collection.fingerprint}".encode()).hexdigest()[:32]
        path = self._cache / f"negatives-{key}.i64"
        shape = (len(collection.queries), depth)
        if path.is_file() and path.stat().st_size == 8 * shape[0] * shape[1]:
            return np.fromfile(path, np.int64).reshape(shape)
        with storage_errors(path):
            self._cache.mkdir(parents=True, exist_ok=True)
        if self._settings:
            query, document = (Side(settings, [], 0, self._device) for settings in self._settings)
            found = mine_with_pair(collection, depth, query, document, self._cache)
        else:
            found = mine_with_bm25(collection, depth, self._cache)
        write_file_durably(path, found.tobytes())
        return found


def _batch(matrix: sp.csr_matrix) -> SparseBatch:
    matrix = matrix.tocsr()
    matrix.sum_duplicates()
    matrix.sort_indices()
    return SparseBatch(matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data.astype(np.float32))
