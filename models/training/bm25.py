"""BM25 as Lucene computes it, for the column beside ours: Kamphuis et al., ECIR 2020, variant "Lucene (accurate)".

    idf(t) = ln(1 + (N - df + 0.5) / (df + 0.5))
    score = sum of idf * tf / (tf + k1 * (1 - b + b * length / mean length))

Text is lower-cased, cut into words, freed of Lucene's English stop words and stemmed by Snowball's English stemmer.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

K1, B = 0.9, 0.4
# Lucene's EnglishAnalyzer.ENGLISH_STOP_WORDS_SET
STOP_WORDS = frozenset(
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this "  # noqa: SIM905
    "to was will with".split()
)
_WORD = re.compile(r"(?u)\b\w\w+\b")


class Bm25:
    """An index of texts, held in memory."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._stemmer = importlib.import_module("Stemmer").Stemmer("english")  # PyStemmer
        self._terms: dict[str, int] = {}
        rows, columns = [], []
        count = 0
        for row, text in enumerate(texts):
            words = self._words(text)
            columns += [self._terms.setdefault(word, len(self._terms)) for word in words]
            rows += [row] * len(words)
            count = row + 1
        ones = np.ones(len(rows))
        # Building from coordinates adds up repeated entries: term frequencies.
        tf = sp.csr_matrix((ones, (rows, columns)), shape=(count, len(self._terms)))
        length = np.asarray(tf.sum(axis=1)).ravel()
        df = np.bincount(tf.indices, minlength=len(self._terms))
        idf = np.log(1 + (count - df + 0.5) / (df + 0.5))
        norm = K1 * (1 - B + B * length / max(length.mean(), 1e-9))
        weights = tf.copy()
        weights.data = idf[tf.indices] * tf.data / (tf.data + np.repeat(norm, np.diff(tf.indptr)))
        self._by_document = weights
        self._by_term = weights.T.tocsr()

    @property
    def document_vectors(self) -> sp.csr_matrix:
        """Term weights of the documents, CSR ``[documents, terms]``; their dot product with queries is BM25."""
        return self._by_document

    def vectors(self, queries: Sequence[str]) -> sp.csr_matrix:
        """Count the terms of queries.

        Parameters
        ----------
        queries : sequence of str
            The queries.

        Returns
        -------
        CSR matrix ``[queries, terms]``
            The counts.
        """
        rows, columns = [], []
        for row, text in enumerate(queries):
            found = [self._terms[word] for word in self._words(text) if word in self._terms]
            columns += found
            rows += [row] * len(found)
        return sp.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(queries), len(self._terms)))

    def scores(self, queries: Sequence[str], documents: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Score some documents.

        Parameters
        ----------
        queries : sequence of str
            The queries.
        documents : int64 array
            Positions of the documents.

        Returns
        -------
        float64 array ``[queries, len(documents)]``
            The scores.
        """
        dense: npt.NDArray[np.float64] = (self.vectors(queries) @ self._by_document[documents].T).toarray()
        return dense

    def all_scores(self, queries: Sequence[str]) -> npt.NDArray[np.float64]:
        """Score all documents.

        Parameters
        ----------
        queries : sequence of str
            The queries.

        Returns
        -------
        float64 array ``[queries, documents]``
            The scores.
        """
        dense: npt.NDArray[np.float64] = (self.vectors(queries) @ self._by_term).toarray()
        return dense

    def rank(self, queries: Sequence[str], k: int) -> list[list[int]]:
        """Rank all documents.

        Parameters
        ----------
        queries : sequence of str
            The queries.
        k : int
            The most documents for each query.

        Returns
        -------
        list of list of int
            Positions of the documents, best first.
        """
        return rank_exactly(self.vectors(queries), self._by_term, k)

    def _words(self, text: str) -> list[str]:
        words = [word for word in _WORD.findall(text.lower()) if word not in STOP_WORDS]
        return list(self._stemmer.stemWords(words))


def rank_exactly(queries: sp.csr_matrix, by_term: sp.csr_matrix, k: int) -> list[list[int]]:
    """Find the top k by exact dot product in float64: score descending, then document ascending.

    Parameters
    ----------
    queries : CSR matrix ``[queries, terms]``
        The query vectors.
    by_term : CSR matrix ``[terms, documents]``
        The document vectors, by term.
    k : int
        The most documents for each query.

    Returns
    -------
    list of list of int
        Positions of the documents with a positive score.
    """
    rankings: list[list[int]] = []
    step = max(1, (64 << 20) // (8 * max(1, by_term.shape[1])))
    for start in range(0, queries.shape[0], step):
        for scores in (queries[start : start + step] @ by_term).toarray():
            found = np.flatnonzero(scores > 0)
            if found.size > k:
                floor = np.partition(scores[found], found.size - k)[found.size - k]
                found = found[scores[found] >= floor]
            order = found[np.lexsort((found, -scores[found]))][:k]
            rankings.append(order.tolist())
    return rankings
