"""nDCG@10 of the held-out queries during training, on a part of each corpus that takes seconds to encode.

The part holds the relevant documents, the best ones of BM25 or of the run's ``miner`` (the hard cases) and others at
random, so its figures are higher than those of the whole corpus: they compare steps of runs with each other, nothing
else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch

from ...runtime.idf import idf_factors
from .bm25 import rank_exactly
from .collections import Collection
from .side import Side


@dataclass(frozen=True)
class Probe:
    """The part of a collection that is searched. ``documents``: positions, int64, ascending."""

    collection: Collection
    documents: npt.NDArray[np.int64]


def make_probes(
    collections: Sequence[Collection], negatives: Sequence[npt.NDArray[np.int64] | None], documents: int
) -> list[Probe]:
    """Choose the part of each collection with held-out queries that is searched during training.

    Parameters
    ----------
    collections : sequence of Collection
        All collections of the run.
    negatives : sequence of (int64 array ``[queries, depth]`` or None)
        Mined documents of each collection's queries.
    documents : int
        How many documents all probes have together.

    Returns
    -------
    list of Probe
        One for each collection with held-out queries.
    """
    chosen = [(c, n) for c, n in zip(collections, negatives, strict=True) if c.held_out.size]
    probes = []
    for collection, mined in chosen:
        rng = np.random.default_rng(0)
        wanted = [np.concatenate([collection.positives[q] for q in collection.held_out])]
        if mined is not None:
            best = mined[collection.held_out, :5]
            wanted.append(best[best >= 0])
        core = np.unique(np.concatenate(wanted))
        rest = np.setdiff1d(np.arange(len(collection.documents)), core)
        extra = rng.permutation(rest)[: max(0, documents // len(chosen) - core.size)]
        probes.append(Probe(collection, np.sort(np.concatenate([core, extra]))))
    return probes


@torch.inference_mode()
def encode_all(side: Side, texts: Sequence[str], batch: int = 32) -> sp.csr_matrix:
    """Encode texts.

    Parameters
    ----------
    side : Side
        The encoder.
    texts : sequence of str
        The texts.
    batch : int
        Texts of a batch.

    Returns
    -------
    CSR matrix ``[len(texts), vocab]``
        The weights.
    """
    ids = side.ids(texts)
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    rows: list[sp.csr_matrix] = []
    for start in range(0, len(order), batch):
        rows.append(sp.csr_matrix(side.encoder([ids[i] for i in order[start : start + batch]]).cpu().numpy()))
    return sp.vstack(rows, format="csr")[np.argsort(order)]


def ndcg(probe: Probe, query: Side, document: Side) -> tuple[float, float, float]:
    """Measure a probe.

    Parameters
    ----------
    probe : Probe
        The part of a collection to search.
    query, document : Side
        The encoders of the two sides.

    Returns
    -------
    tuple of float
        nDCG@10, mean terms of a query, mean terms of a document.
    """
    collection = probe.collection
    q = encode_all(query, [collection.queries[i] for i in collection.held_out])
    d = encode_all(document, [collection.documents[i] for i in probe.documents])
    found = ndcg_of(collection, q, d.T.tocsr(), query.query_idf, probe.documents)
    return found, q.nnz / q.shape[0], d.nnz / d.shape[0]


def ndcg_of(
    collection: Collection,
    q: sp.csr_matrix,
    by_term: sp.csr_matrix,
    idf: float = 0.0,
    documents: npt.NDArray[np.int64] | None = None,
) -> float:
    """Measure nDCG@10 of the held-out queries, by ir-measures.

    Parameters
    ----------
    collection : Collection
        It has the queries' judgements.
    q : CSR matrix ``[held-out queries, vocab]``
        The vectors of the queries.
    by_term : CSR matrix ``[vocab, columns]``
        The vectors of the documents, by term.
    idf : float
        The exponent of :func:`idf_factors`.
    documents : int64 array ``[columns]``, optional
        The documents that the columns are. By default all of the collection.

    Returns
    -------
    float
        The mean over queries.
    """
    import ir_measures

    factors = idf_factors(np.diff(by_term.indptr).astype(np.int64), by_term.shape[1], idf)

    places = np.arange(by_term.shape[1]) if documents is None else documents
    run = {
        str(i): {str(places[column]): float(-rank) for rank, column in enumerate(ranking)}
        for i, ranking in enumerate(rank_exactly(q.multiply(factors).tocsr(), by_term, 10))
    }
    qrels = {str(i): {str(d): 1 for d in collection.positives[q]} for i, q in enumerate(collection.held_out)}
    value = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10]
    return float(value)
