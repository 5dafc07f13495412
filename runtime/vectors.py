"""Sparse vectors: one text's (indices, values), and batches of them in CSR form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class SparseVector(NamedTuple):
    """A text as weights over the vocabulary.

    ``indices``: int32 ``[n]``, term ids, strictly ascending. ``values``: float32 ``[n]``, positive and finite.
    """

    indices: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]

    def dot(self, other: SparseVector) -> float:
        """Dot product in float64."""
        _, mine, theirs = np.intersect1d(self.indices, other.indices, assume_unique=True, return_indices=True)
        return float(self.values[mine].astype(np.float64) @ other.values[theirs].astype(np.float64))


@dataclass(frozen=True)
class SparseBatch:
    """Vectors in CSR form: row ``i`` is ``indices[indptr[i]:indptr[i+1]]`` and the same slice of ``values``.

    ``indptr``: int64 ``[rows + 1]``; ``indices``: int32 ``[nnz]``, strictly ascending in a row; ``values``: float32
    ``[nnz]``.
    """

    indptr: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int32]
    values: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return self.indptr.size - 1

    def __getitem__(self, row: int) -> SparseVector:
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        row %= len(self)
        a, b = int(self.indptr[row]), int(self.indptr[row + 1])
        return SparseVector(self.indices[a:b], self.values[a:b])

    def __iter__(self) -> Iterator[SparseVector]:
        return (self[row] for row in range(len(self)))

    @classmethod
    def stack(cls, vectors: Iterable[SparseVector]) -> SparseBatch:
        """CSR batch of single vectors."""
        rows = list(vectors)
        indptr = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([row.indices.size for row in rows], out=indptr[1:])
        indices = np.concatenate([row.indices for row in rows]) if rows else np.empty(0, np.int32)
        values = np.concatenate([row.values for row in rows]) if rows else np.empty(0, np.float32)
        return cls(indptr, indices.astype(np.int32, copy=False), values.astype(np.float32, copy=False))


def from_dense(weights: npt.NDArray[np.float32]) -> SparseVector:
    """The non-zero entries of a dense ``[vocab]`` float32 row."""
    indices = np.flatnonzero(weights)
    return SparseVector(indices.astype(np.int32), weights[indices])
