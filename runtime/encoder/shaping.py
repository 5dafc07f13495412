"""What is done to a vector as a whole: only its largest weights are kept, or its length is made 1.

Sums are taken in one order, in float64, so that a vector has the same bits on every CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..artifact import ArtifactManifest, Normalization
from ..vectors import SparseVector

_SMALLEST_NORM = 1e-12  # as torch.nn.functional.normalize: what is shorter is divided by it


@dataclass(frozen=True)
class Shaping:
    """``max_active_dims``: how many of the largest weights are kept, of equal ones those of lower term ids; None: all.
    ``normalization``: L2, before or after that.
    """

    max_active_dims: int | None
    normalization: Normalization

    @classmethod
    def of(cls, manifest: ArtifactManifest) -> Shaping | None:
        """What a manifest asks for; None: nothing."""
        if manifest.max_active_dims is None and manifest.normalization == "none":
            return None
        return cls(manifest.max_active_dims, manifest.normalization)

    def apply(self, vector: SparseVector) -> SparseVector:
        """The vector that a text gets, of the weights of all its terms."""
        if self.normalization == "all terms":
            vector = normalized(vector)
        if self.max_active_dims is not None:
            vector = largest(vector, self.max_active_dims)
        return normalized(vector) if self.normalization == "kept terms" else vector


def largest(vector: SparseVector, count: int) -> SparseVector:
    """The ``count`` largest weights; of equal ones those of lower term ids."""
    if vector.indices.size <= count:
        return vector
    kept = np.sort(np.argsort(-vector.values, kind="stable")[:count])
    return SparseVector(vector.indices[kept], vector.values[kept])


def normalized(vector: SparseVector) -> SparseVector:
    """The vector divided by its L2 norm, or by 1e-12 where that is larger. Weights that become 0 are left out."""
    if not vector.indices.size:
        return vector
    squares = np.square(vector.values, dtype=np.float64)
    norm = np.sqrt(np.add.accumulate(squares)[-1])  # accumulate adds one after the other
    values = vector.values / np.float32(max(norm, _SMALLEST_NORM))
    kept = values > 0
    return SparseVector(vector.indices, values) if kept.all() else SparseVector(vector.indices[kept], values[kept])
