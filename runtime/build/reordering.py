"""A docid permutation that puts similar units next to each other, so that the upper bounds of blocks are tight.

A unit's vector is projected on random directions (a sketch). K-means over the sketches makes clusters. The clusters,
and the units in each of them, are put into the order of the leaves of a 2-means tree. The order changes speed and size,
and nothing else: equal scores are ordered by the original units. That an order by similarity tightens bounds is from
Mallia et al. 2024 (BMP), who use recursive graph bisection (Dhulipala et al. 2016).

The means are found on a sample, and the sketches may be in a file. Beyond the sample, 8 bytes a unit are held.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..directory import AnyPath
from ..files import operations
from ..vectors import SparseBatch
from .clustering import DIMENSIONS, LENGTH, Sketches, sketch, tree_order
from ..index.layout import FREQUENT

SAMPLE = 1 << 17  # units of the sample that the means are computed on
CLUSTER = 256  # about the units of a cluster; it is larger if there would be more than MOST_CLUSTERS
MOST_CLUSTERS = 2048
ITERATIONS = 4
BLOCK = 8192  # units assigned to a cluster at a time


def directions(vocab_size: int) -> Sketches:
    """The random signs that sketches are made with. They are always the same.

    Parameters
    ----------
    vocab_size
        The number of terms.

    Returns
    -------
    ndarray
        int8 ``[vocab_size, DIMENSIONS]``, +1 or -1.
    """
    bits = np.random.default_rng(20260101).integers(0, 2, (vocab_size, DIMENSIONS), np.int8)
    return (2 * bits - 1).astype(np.int8)


def term_weights(counts: npt.NDArray[np.int64], units: int, frequent: int) -> npt.NDArray[np.float32]:
    """The weight of each term in sketches: its idf, or 0 if it is too rare to have block-max data.

    Only terms with block-max data gain from the order.

    Parameters
    ----------
    counts
        int64 ``[vocab]``, the postings of each term.
    units
        The number of units.
    frequent
        The least postings of a term with block-max data.

    Returns
    -------
    ndarray
        float32 ``[vocab]``.
    """
    weights = np.log(max(units, 1) / np.maximum(counts, 1)) * (counts >= frequent)
    return weights.astype(np.float32)


def similar_first(sketches: Sketches) -> npt.NDArray[np.uint32]:
    """Compute the order of units.

    Parameters
    ----------
    sketches
        int8 ``[units, DIMENSIONS]``, which may be memory-mapped.

    Returns
    -------
    ndarray
        uint32 ``[units]``: which unit is first, second, …
    """
    units = len(sketches)
    clusters = min(units // CLUSTER, MOST_CLUSTERS)
    if clusters < 2:
        return _tree(np.array(sketches))
    means = _find_means(sketches, clusters)
    means = means[_tree(np.clip(np.rint(means * LENGTH), -127, 127).astype(np.int8))]
    owner = np.empty(units, np.int32)
    for a in range(0, units, BLOCK):
        owner[a : a + BLOCK] = (sketches[a : a + BLOCK].astype(np.float32) @ means.T).argmax(axis=1)
    order = np.argsort(owner, kind="stable").astype(np.uint32)
    ends = np.cumsum(np.bincount(owner, minlength=clusters))
    for a, b in zip(ends - np.diff(ends, prepend=0), ends, strict=True):
        members = order[a:b]
        order[a:b] = members[_tree(sketches[members])]
    return order


def _find_means(sketches: Sketches, clusters: int) -> npt.NDArray[np.float32]:
    """K-means by cosine on an evenly spaced sample. It starts with equal parts of the sample's 2-means tree.

    Returns float32 ``[clusters, DIMENSIONS]``, each mean of length 1.
    """
    sample = np.array(sketches[:: -(-len(sketches) // SAMPLE)])
    owner = np.empty(len(sample), np.int64)
    owner[_tree(sample.copy())] = np.arange(len(sample)) * clusters // len(sample)
    means = np.zeros((clusters, DIMENSIONS), np.float32)
    for iteration in range(ITERATIONS):
        if iteration:
            for a in range(0, len(sample), BLOCK):
                owner[a : a + BLOCK] = (sample[a : a + BLOCK].astype(np.float32) @ means.T).argmax(axis=1)
        order = np.argsort(owner, kind="stable")
        sizes = np.bincount(owner, minlength=clusters)
        starts = np.cumsum(sizes) - sizes
        for c in np.flatnonzero(sizes).tolist():  # a mean without units stays as it was
            means[c] = sample[order[starts[c] : starts[c] + sizes[c]]].sum(axis=0, dtype=np.float32)
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), np.float32(1e-9))
    return means


def _tree(sketches: Sketches) -> npt.NDArray[np.uint32]:
    order = np.arange(len(sketches), dtype=np.uint32)
    tree_order(sketches, order)
    return order


class Sketcher:
    """Writes sketches of vectors into a file as the vectors come, and computes the order of units from them.

    The weights of terms are computed from the first vectors that are added; the others are assumed to be like them.

    Parameters
    ----------
    path
        The file, which is made.
    vocab_size
        The number of terms.
    """

    def __init__(self, path: AnyPath, vocab_size: int) -> None:
        self._path = path
        self._signs = directions(vocab_size)
        self._weights: npt.NDArray[np.float32] | None = None
        self._units = 0

    def add(self, batch: SparseBatch) -> None:
        """Append the sketches of the next units.

        Parameters
        ----------
        batch
            Their vectors.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        if self._weights is None:
            counts = np.bincount(batch.indices, minlength=len(self._signs))
            self._weights = term_weights(counts, len(batch), len(batch) // FREQUENT)
        sketches = np.empty((len(batch), DIMENSIONS), np.int8)
        sketch(batch.indptr, batch.indices, batch.values, self._signs, self._weights, sketches)
        self._path.parent.mkdir(exist_ok=True)
        with operations.create(self._path, "ab") as file:
            operations.write(file, sketches.data)
        self._units += len(batch)

    def order(self) -> npt.NDArray[np.uint32]:
        """Compute the order of all units.

        Returns
        -------
        ndarray
            uint32 ``[units]``: which unit is first, second, …
        """
        if not self._units:
            return np.empty(0, np.uint32)
        with self._path.open("rb") as file:
            return similar_first(np.memmap(file, np.int8, "r", shape=(self._units, DIMENSIONS)))
