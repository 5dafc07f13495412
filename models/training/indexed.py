"""Document vectors as an index holds them, and the scores of queries against all of them at once.

A search ranks by 8-bit impacts, so these are what a query encoder is fitted to, not the floats they were rounded from.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from ...runtime.encoder.tokenizer import vocabulary_sha256
from ...runtime.errors import InputError
from ...runtime.index import Index
from .collections import Collection

F32 = npt.NDArray[np.float32]


def read_vectors(path: str, collection: Collection, tokenizer: Path, size: int) -> sp.csr_matrix:
    """Read the vectors of a collection's documents from an index.

    Parameters
    ----------
    path : str
        The index.
    collection : Collection
        The collection; the index must be of its corpus.
    tokenizer : Path
        The query encoder's ``tokenizer.json``; it must be the index's.
    size : int
        The number of terms; it must be the index's.

    Returns
    -------
    float32 CSR matrix ``[vocab, documents]``
        The weights, by term.

    Raises
    ------
    InputError
        If the index is of another corpus or another vocabulary.
    IndexFormatError
        If it is no index.
    IntegrityError
        If it is damaged.
    """
    with Index.open(path) as index:
        known = index.manifest.vocabulary_sha256
        if index.manifest.vocab_size != size or (known and known != vocabulary_sha256(tokenizer, size)):
            raise InputError(f"{path} and the query encoder of {tokenizer.parent} have different vocabularies")
        if any(live.segment.entry.passages for live in index.segments):
            raise InputError(f"{path} has passages; a query encoder is fitted to an index of whole documents")
        places = _places(index, collection)
        units: list[npt.NDArray[np.int64]] = []
        impacts: list[npt.NDArray[np.uint8]] = []
        pointers = np.zeros(index.manifest.vocab_size + 1, np.int64)
        for term in index.terms.tolist():
            for live, place in zip(index.segments, places, strict=True):
                found, weights = live.segment.postings(term)
                documents = place[found]
                kept = documents >= 0
                units.append(documents[kept])
                impacts.append(weights[kept])
                pointers[term + 1] += units[-1].size
        scale = index.manifest.scale
    columns = np.concatenate([np.empty(0, np.int64), *units])
    values = np.concatenate([np.empty(0, np.uint8), *impacts]).astype(np.float32) * np.float32(scale)
    shape = (pointers.size - 1, len(collection.documents))
    return sp.csr_matrix((values, columns, np.cumsum(pointers)), shape=shape)


def vectors_sha256(path: str) -> str:
    """Hash the vectors of an index.

    Parameters
    ----------
    path : str
        The index.

    Returns
    -------
    str
        A digest in hex.

    Raises
    ------
    IndexFormatError
        If it is no index.
    IntegrityError
        If it is damaged.
    """
    with Index.open(path) as index:
        files, scale = index.manifest.files, index.manifest.scale
        segments = {entry.path: entry.tombstones for entry in index.manifest.segments}
    parts = [f"{scale!r}", *(f"{segment} {tombstones}" for segment, tombstones in segments.items())]
    parts += [
        f"{name} {files[name].sha256}"
        for name in sorted(files)
        if name.rpartition("/")[0] in segments or name in segments.values()
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _places(index: Index, collection: Collection) -> list[npt.NDArray[np.int64]]:
    """By segment, each document's position in the collection, -1 for a deleted one."""
    position = {name: number for number, name in enumerate(collection.ids)}
    places = []
    for live in index.segments:
        place = np.full(live.segment.entry.documents, -1, np.int64)
        for name, ordinal in live.segment.documents.ids():
            if live.is_deleted(ordinal):
                continue
            if name not in position:
                raise InputError(f"{index.path} has the document {name!r}, which is not in the corpus of the set")
            place[ordinal] = position[name]
        places.append(place)
    missing = np.setdiff1d(np.arange(len(position)), np.concatenate([np.empty(0, np.int64), *places]))
    if missing.size:
        raise InputError(
            f"{index.path} lacks {missing.size} of the {len(position)} documents of the set {collection.name}, such as "
            f"{collection.ids[missing[0]]!r}; index this corpus"
        )
    return places


class _Scores(torch.autograd.Function):
    """Dot products of dense queries ``[batch, vocab]`` and documents by term; the gradient is that of the terms above 0
    alone, as the relu before them gives the others none.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, by_term: sp.csr_matrix) -> Tensor:
        rows = queries.detach().cpu().numpy()
        scores = np.zeros((len(rows), by_term.shape[1]), np.float32)
        ctx.terms = [np.flatnonzero(row) for row in rows]
        ctx.by_term, ctx.like = by_term, queries
        for row, terms, out in zip(rows, ctx.terms, scores, strict=True):
            for term in terms:
                documents, weights = _postings(by_term, term)
                out[documents] += row[term] * weights  # a document occurs once in a list
        return torch.from_numpy(scores).to(queries.device)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        given = grads[0].detach().cpu().numpy()
        gradient = np.zeros(ctx.like.shape, np.float32)
        for row, terms, out in zip(given, ctx.terms, gradient, strict=True):
            for term in terms:
                documents, weights = _postings(ctx.by_term, term)
                out[term] = row[documents] @ weights
        return torch.from_numpy(gradient).to(ctx.like.device), None


def _postings(by_term: sp.csr_matrix, term: int) -> tuple[npt.NDArray[np.int32], F32]:
    start, end = by_term.indptr[term], by_term.indptr[term + 1]
    return by_term.indices[start:end], by_term.data[start:end]


def all_scores(queries: Tensor, by_term: sp.csr_matrix) -> Tensor:
    """Score every document.

    Parameters
    ----------
    queries : float32 tensor ``[batch, vocab]``
        The query vectors.
    by_term : CSR matrix ``[vocab, documents]``
        The document vectors, by term.

    Returns
    -------
    float32 tensor ``[batch, documents]``
        The dot products.
    """
    scores: Tensor = _Scores.apply(queries, by_term)  # type: ignore[no-untyped-call]
    return scores
