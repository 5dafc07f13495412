"""Does an exported graph compute what PyTorch computes? Measured on text, through the runtime's own encoder.

For each graph: the largest absolute difference of a weight and the text it occurs on, the cosine of the vectors, how
many of a text's heaviest terms are the same, and how many of the ten best documents of a query are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from ..models.checkpoint import Checkpoint, Role
from ..models.reference import ReferenceEncoder
from ..runtime.artifact import Form, Precision
from ..runtime.encoder import Encoder
from ..runtime.errors import ArtifactError, ParityError
from .choice import Choice
from .texts import SampleTexts

# Largest allowed difference of a weight: of a float32 graph from PyTorch, and of a text alone from the same in a batch.
TOLERANCE = 1e-4
TOP_TERMS = 20
RANKING_DEPTH = 10
_TEXTS_ALONE = 6

Matrix = npt.NDArray[np.float32]
Kind = Literal["query", "document", "odd"]


class GraphParity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One graph against PyTorch. Overlaps are mean shares in [0, 1]; ``worst_text`` is where the largest error is."""

    role: Role
    backend: Form
    precision: Precision
    recipe: str
    texts: int
    max_abs_error: float
    worst_text: str
    cosine_min: float
    cosine_mean: float
    top_terms_overlap: float
    ranking_overlap: float

    @property
    def output(self) -> str:
        """The graph, as messages name it."""
        return f"{self.role}/{self.backend}/{self.precision}"


class ParityReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``parity.json``: every graph of an artifact or a pair, and the versions it was measured with.

    ``choice`` is what ``--recipe auto`` tried, None without it.
    """

    tolerance_fp32: float
    top_terms: int
    ranking_depth: int
    versions: dict[str, str]
    graphs: list[GraphParity]
    choice: Choice | None = None


@dataclass(frozen=True)
class Reference:
    """The PyTorch vectors of one encoder's parity texts.

    ``vectors``: float32 ``[len(texts), vocab]``. ``queries`` and ``documents`` are the rows that rank each other.
    """

    role: Role
    texts: tuple[str, ...]
    vectors: Matrix
    queries: slice
    documents: slice


def reference_vectors(checkpoint: Checkpoint, samples: SampleTexts, *, paired: bool) -> Reference:
    """Encode the parity texts with PyTorch. A paired encoder gets those of its own side, a lone one all of them."""
    queries = samples.queries if checkpoint.role != "document" or not paired else ()
    documents = samples.documents if checkpoint.role != "query" or not paired else ()
    texts = (*queries, *documents, *samples.odd)
    return Reference(
        role=checkpoint.role,
        texts=texts,
        vectors=ReferenceEncoder(checkpoint).encode(texts),
        queries=slice(0, len(queries)),
        documents=slice(len(queries), len(queries) + len(documents)),
    )


def measure(encoder: Encoder, reference: Reference, counterpart: Reference | None) -> GraphParity:
    """Compare one graph with its reference; documents or queries it does not encode come from ``counterpart``.

    Raises ParityError if a float32 graph differs by more than ``TOLERANCE``, if any graph gives weights that are not
    finite, or if one that claims not to depend on the batch does.
    """
    variant = encoder.variant
    output = f"{reference.role}/{variant.backend}/{variant.precision}"
    vectors = _encode(encoder, reference.texts, output)
    errors = np.abs(vectors - reference.vectors).max(axis=1)
    worst = int(errors.argmax())
    cosines = _cosines(vectors, reference.vectors)
    result = GraphParity(
        role=reference.role,
        backend=variant.backend,
        precision=variant.precision,
        recipe=variant.recipe,
        texts=len(reference.texts),
        max_abs_error=float(errors[worst]),
        worst_text=_shortened(reference.texts[worst]),
        cosine_min=float(cosines.min()),
        cosine_mean=float(cosines.mean()),
        top_terms_overlap=_top_overlap(vectors, reference.vectors, TOP_TERMS),
        ranking_overlap=_ranking_overlap(vectors, reference, counterpart),
    )
    # "not <=" so that a NaN fails too.
    if variant.precision == "fp32" and not result.max_abs_error <= TOLERANCE:
        raise _differs(output, result.max_abs_error, reference.texts[worst], "PyTorch")
    if variant.batch_invariant:
        _check_alone(encoder, reference.texts, vectors, output)
    return result


def _encode(encoder: Encoder, texts: Sequence[str], output: str) -> Matrix:
    vectors = np.zeros((len(texts), encoder.vocab_size), np.float32)
    try:
        for row, encoded in zip(vectors, encoder.encode(texts), strict=True):
            row[encoded.vector.indices] = encoded.vector.values
    except ArtifactError as error:
        raise ParityError(f"{output} cannot be compared: {error}", output=output, error=np.inf, text="") from error
    return vectors


def _check_alone(encoder: Encoder, texts: Sequence[str], together: Matrix, output: str) -> None:
    """A few texts again, one at a time: their vectors must be those of the batch."""
    for row in np.linspace(0, len(texts) - 1, _TEXTS_ALONE, dtype=int):
        alone = _encode(encoder, [texts[row]], output)[0]
        error = float(np.abs(alone - together[row]).max())
        if not error <= TOLERANCE:
            raise _differs(output, error, texts[row], "itself in a batch")


def _differs(output: str, error: float, text: str, what: str) -> ParityError:
    return ParityError(
        f"{output} differs from {what} by {error:.2e} (at most {TOLERANCE:.0e}) on the text {_shortened(text)!r}; "
        "nothing was written: export without this backend, or report the architecture",
        output=output,
        error=error,
        text=text,
    )


def _cosines(a: Matrix, b: Matrix) -> npt.NDArray[np.float64]:
    """Row-wise cosine; 1 where both rows are zero, 0 where one is."""
    dots = np.einsum("ij,ij->i", a, b, dtype=np.float64)
    norms = np.linalg.norm(a.astype(np.float64), axis=1) * np.linalg.norm(b.astype(np.float64), axis=1)
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    cosines: npt.NDArray[np.float64] = np.where(both_zero, 1.0, dots / np.where(norms > 0, norms, 1.0))
    return cosines


def _top_overlap(a: Matrix, b: Matrix, depth: int) -> float:
    """Mean share of the ``depth`` largest positive entries of ``b``'s rows that are among those of ``a``'s."""
    shares = []
    for row_a, row_b in zip(a, b, strict=True):
        wanted = {int(i) for i in np.argsort(-row_b, kind="stable")[:depth] if row_b[i] > 0}
        found = {int(i) for i in np.argsort(-row_a, kind="stable")[:depth] if row_a[i] > 0}
        shares.append(len(wanted & found) / len(wanted) if wanted else float(not found))
    return float(np.mean(shares)) if shares else 1.0


def _ranking_overlap(vectors: Matrix, reference: Reference, counterpart: Reference | None) -> float:
    """Mean overlap of the best documents of each query, scored with these vectors and with the reference's."""
    queries = documents = reference
    if counterpart is not None:
        queries, documents = (reference, counterpart) if reference.role == "query" else (counterpart, reference)
    reference_queries = queries.vectors[queries.queries]
    reference_documents = documents.vectors[documents.documents]
    encodes_queries = reference.role in ("query", "both")
    encodes_documents = reference.role in ("document", "both")
    scores = (vectors[reference.queries] if encodes_queries else reference_queries) @ (
        vectors[reference.documents] if encodes_documents else reference_documents
    ).T
    return _top_overlap(scores, reference_queries @ reference_documents.T, RANKING_DEPTH)


def _shortened(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[:length] + "…"
