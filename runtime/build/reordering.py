"""An order of units that puts similar ones next to each other, so that the bounds of chunks are tight.

A unit's vector is projected on random directions (a sketch). K-means over the sketches makes clusters; the clusters,
and the units in each, are put into the order of the leaves of a 2-means tree. The order changes speed and size, and
nothing else: ties between scores go by the original order.

The means are found on a sample, and the sketches may lie in a file: beyond the sample, 8 bytes a unit are held.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..directory import AnyPath
from ..files import operations
from ..vectors import SparseBatch
from .clustering import DIMENSIONS, LENGTH, Sketches, sketch, tree_order
from ..index.layout import FREQUENT

SAMPLE = 1 << 17  # units that the means are found on
CLUSTER = 256  # units of a cluster, about; larger where there would be more than so many clusters
MOST_CLUSTERS = 2048
ITERATIONS = 4
BLOCK = 8192  # units assigned to a cluster at a time


def directions(vocab_size: int) -> Sketches:
    """Random signs int8 ``[vocab_size, DIMENSIONS]``, always the same."""
    bits = np.random.default_rng(20260101).integers(0, 2, (vocab_size, DIMENSIONS), np.int8)
    return (2 * bits - 1).astype(np.int8)


def term_weights(counts: npt.NDArray[np.int64], units: int, frequent: int) -> npt.NDArray[np.float32]:
    """What a term counts for in sketches: its idf, and 0 where it is too rare (under ``frequent`` postings) to have
    block-max data: only these gain from the order.
    """
    weights = np.log(max(units, 1) / np.maximum(counts, 1)) * (counts >= frequent)
    return weights.astype(np.float32)


def similar_first(sketches: Sketches) -> npt.NDArray[np.uint32]:
    """The order, uint32 ``[units]``: which unit is first, second… ``sketches`` int8 ``[units, DIMENSIONS]``, may be
    mapped.
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
    """K-means by cosine on an evenly spaced sample, begun with equal parts of its tree: float32
    ``[clusters, DIMENSIONS]``, each of length 1.
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
        for c in np.flatnonzero(sizes).tolist():  # a mean that lost all its units stays where it was
            means[c] = sample[order[starts[c] : starts[c] + sizes[c]]].sum(axis=0, dtype=np.float32)
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), np.float32(1e-9))
    return means


def _tree(sketches: Sketches) -> npt.NDArray[np.uint32]:
    order = np.arange(len(sketches), dtype=np.uint32)
    tree_order(sketches, order)
    return order


class Sketcher:
    """Makes sketches of vectors as they come, into a file, and the order from them.

    What a term counts for is known from the first vectors that are added; the rest are taken to be like them.
    """

    def __init__(self, path: AnyPath, vocab_size: int) -> None:
        self._path = path
        self._signs = directions(vocab_size)
        self._weights: npt.NDArray[np.float32] | None = None
        self._units = 0

    def add(self, batch: SparseBatch) -> None:
        """The vectors of the next units."""
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
        """Which unit comes first, second…, uint32 ``[units]``."""
        if not self._units:
            return np.empty(0, np.uint32)
        with self._path.open("rb") as file:
            return similar_first(np.memmap(file, np.int8, "r", shape=(self._units, DIMENSIONS)))
