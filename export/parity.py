"""Does an exported graph give the vectors of the library that made its checkpoint? Measured on text, through the
runtime's own encoder: tokenizer, prompts, lengths and dropped terms included.

For each graph: the largest absolute difference of a weight, the text it occurs on and its share of the largest weight,
the cosine of the vectors, how many of a text's heaviest terms are the same, and how many of the ten best documents of a
query are. Whom it is compared with is the :mod:`witness`'s to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from ..models.checkpoint import Checkpoint, Role
from ..models.layout import Side
from ..runtime.artifact import Form, Precision
from ..runtime.encoder import Encoder
from ..runtime.errors import ArtifactError, ParityError
from .auto.report import Choice
from .texts import SampleTexts, corner_texts
from .witness import Witness

# Largest allowed difference of a weight: of a float32 graph from the witness, where the largest weight is up to 1, and
# of a text alone from the same in a batch. Larger weights allow more, to this share of them; small ones less.
TOLERANCE = 1e-4
RELATIVE_TOLERANCE = 1e-3
TOP_TERMS = 20
RANKING_DEPTH = 10
_TEXTS_ALONE = 6
# Texts of more tokens are compared by their tokens only: attention over them takes minutes and gigabytes.
MOST_TOKENS = 2048

Matrix = npt.NDArray[np.float32]
Kind = Literal["query", "document", "odd"]


class GraphParity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One graph against the witness. Overlaps are mean shares in [0, 1]; ``worst_text`` is where the largest error is;
    ``relative_error`` is that error divided by the largest weight of all texts.
    """

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
    relative_error: float = 0.0
    witness: str = ""

    @property
    def output(self) -> str:
        """The graph, as messages name it."""
        return f"{self.role}/{self.backend}/{self.precision}"


class WitnessReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom a side was compared with.

    ``reason``: why that is not sentence-transformers; "" where it is. ``failed``: texts that the witness itself fails
    on. ``half_precision``: how far the library's own vectors are from float32, relative to the largest weight, where
    the checkpoint is stored in half precision. ``by_tokens``: texts of so many tokens that only these are compared.
    """

    role: Role
    name: str
    reason: str = ""
    failed: list[str] = []
    by_tokens: int = 0
    half_precision: float | None = None


class ParityReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``parity.json``: every graph of an artifact or a pair, whom it was compared with, and the libraries' versions.

    ``choice`` is what ``--recipe auto`` tried, None without it.
    """

    tolerance_fp32: float
    top_terms: int
    ranking_depth: int
    versions: dict[str, str]
    graphs: list[GraphParity]
    choice: Choice | None = None
    witnesses: list[WitnessReport] = []


@dataclass(frozen=True)
class Reference:
    """The witness's vectors of one encoder's parity texts.

    ``texts``: (side, text). ``vectors``: float32 ``[len(texts), vocab]``. ``queries`` and ``documents`` are the rows
    that rank each other.
    """

    role: Role
    texts: tuple[tuple[Side, str], ...]
    vectors: Matrix
    queries: slice
    documents: slice
    witness: WitnessReport
    cut: bool = False  # only the largest weights are kept

    @property
    def largest(self) -> float:
        """The largest weight of all texts."""
        return float(self.vectors.max(initial=0))

    @property
    def tolerance(self) -> float:
        """Largest allowed difference of a weight of a float32 graph."""
        return min(TOLERANCE * max(1.0, self.largest), RELATIVE_TOLERANCE * self.largest) or TOLERANCE


def reference_vectors(checkpoint: Checkpoint, samples: SampleTexts, witness: Witness, *, paired: bool) -> Reference:
    """Encode the parity texts with the witness.

    Parameters
    ----------
    checkpoint : Checkpoint
        The side that is exported.
    samples : SampleTexts
        The bundled texts; those that reach the corners of the checkpoint are added.
    witness : Witness
        What to compare with.
    paired : bool
        Whether the encoder is one side of a pair. Then it encodes the texts of its own side, else all.

    Returns
    -------
    Reference
        The vectors of the witness.
    """
    queries = samples.queries if checkpoint.role != "document" or not paired else ()
    documents = samples.documents if checkpoint.role != "query" or not paired else ()
    # A lone encoder of one side ranks the other side's texts as its own.
    own: dict[Side, Side] = {"query": "query", "document": "document"}
    if checkpoint.role != "both":
        own = dict.fromkeys(own, checkpoint.role)
    texts: list[tuple[Side, str]] = [(own["query"], text) for text in queries]
    texts += [(own["document"], text) for text in documents]
    for side in checkpoint.sides:
        texts += [(side, text) for text in (*samples.odd, *corner_texts(checkpoint, side))]
    kept: list[tuple[Side, str]] = []
    vectors: list[Matrix] = []
    failed: list[str] = []
    by_tokens = 0
    counts = [0, 0]
    for place, (side, text) in enumerate(texts):
        if len(checkpoint.token_ids(text, side)) > MOST_TOKENS:
            by_tokens += 1
            continue
        vector = witness.encode(text, side)
        if vector is None:
            failed.append(_shortened(text))
            continue
        kept.append((side, text))
        vectors.append(vector)
        counts[0] += place < len(queries)
        counts[1] += len(queries) <= place < len(queries) + len(documents)
    return Reference(
        role=checkpoint.role,
        texts=tuple(kept),
        vectors=np.stack(vectors) if vectors else np.zeros((0, checkpoint.vocab_size), np.float32),
        queries=slice(0, counts[0]),
        documents=slice(counts[0], sum(counts)),
        cut=checkpoint.max_active_dims is not None,
        witness=WitnessReport(checkpoint.role, witness.name, witness.reason, failed, by_tokens),
    )


def measure(encoder: Encoder, reference: Reference, counterpart: Reference | None) -> GraphParity:
    """Compare one graph with its reference.

    Parameters
    ----------
    encoder : Encoder
        The graph, run as the runtime runs it.
    reference : Reference
        The vectors of the witness.
    counterpart : Reference or None
        The vectors of the pair's other side, to rank with.

    Returns
    -------
    GraphParity
        How far the vectors and the rankings differ.

    Raises
    ------
    ParityError
        If a float32 graph differs by more than ``reference.tolerance``, any graph gives weights that are not finite, or
        one that claims not to depend on the batch does.
    """
    variant = encoder.variant
    output = f"{reference.role}/{variant.backend}/{variant.precision}"
    vectors = _encode(encoder, reference.texts, output)
    errors = differences(vectors, reference.vectors, cut=reference.cut).max(axis=1)
    worst = int(errors.argmax())
    side, text = reference.texts[worst]
    cosines = _cosines(vectors, reference.vectors)
    result = GraphParity(
        role=reference.role,
        backend=variant.backend,
        precision=variant.precision,
        recipe=variant.recipe,
        texts=len(reference.texts),
        max_abs_error=float(errors[worst]),
        worst_text=_shortened(text),
        cosine_min=float(cosines.min()),
        cosine_mean=float(cosines.mean()),
        top_terms_overlap=_top_overlap(vectors, reference.vectors, TOP_TERMS),
        ranking_overlap=_ranking_overlap(vectors, reference, counterpart),
        relative_error=float(errors[worst] / reference.largest) if reference.largest else 0.0,
        witness=reference.witness.name,
    )
    # "not <=" so that a NaN fails too.
    if variant.precision == "fp32" and not result.max_abs_error <= reference.tolerance:
        what = f"{reference.witness.name} by {result.max_abs_error:.2e} (at most {reference.tolerance:.0e})"
        terms = _terms(encoder, vectors[worst], reference.vectors[worst])
        raise _differs(output, result.max_abs_error, side, text, what, terms)
    if variant.batch_invariant:
        _check_alone(encoder, reference.texts, vectors, output)
    return result


def differences(found: Matrix, expected: Matrix, *, cut: bool) -> Matrix:
    """The difference of each weight.

    Parameters
    ----------
    found, expected : float32 array ``[texts, vocab]``
        The weights to compare.
    cut : bool
        Whether only the largest weights were kept. Terms of equal weight at the cut may then stand for each other
        (PyTorch's ``topk`` promises no order).

    Returns
    -------
    float32 array ``[texts, vocab]``
        The differences.
    """
    gaps: Matrix = np.abs(found - expected)
    if cut:
        least = np.where(expected > 0, expected, np.inf).min(axis=1, keepdims=True)
        allowed = RELATIVE_TOLERANCE * least
        tied = ((found == 0) != (expected == 0)) & (np.abs(np.maximum(found, expected) - least) <= allowed)
        # As many came in as went out.
        balanced = (tied & (found > 0)).sum(axis=1) == (tied & (expected > 0)).sum(axis=1)
        gaps[tied & balanced[:, None]] = 0
    return gaps


def _encode(encoder: Encoder, texts: Sequence[tuple[Side, str]], output: str) -> Matrix:
    vectors = np.zeros((len(texts), encoder.vocab_size), np.float32)
    try:
        for side in sorted({side for side, _ in texts}):
            rows = [row for row, (of, _) in enumerate(texts) if of == side]
            for row, encoded in zip(rows, encoder.encode([texts[r][1] for r in rows], side), strict=True):
                vectors[row, encoded.vector.indices] = encoded.vector.values
    except ArtifactError as error:
        raise ParityError(f"{output} cannot be compared: {error}", output=output, error=np.inf, text="") from error
    return vectors


def _check_alone(encoder: Encoder, texts: Sequence[tuple[Side, str]], together: Matrix, output: str) -> None:
    """A few texts again, one at a time: their vectors must be those of the batch."""
    for row in np.linspace(0, len(texts) - 1, _TEXTS_ALONE, dtype=int):
        side, text = texts[row]
        alone = _encode(encoder, [(side, text)], output)[0]
        error = float(np.abs(alone - together[row]).max())
        if not error <= TOLERANCE * max(1.0, float(together[row].max())):
            what = f"itself in a batch by {error:.2e} (at most {TOLERANCE:.0e})"
            raise _differs(output, error, side, text, what, _terms(encoder, alone, together[row]))


def _differs(output: str, error: float, side: Side, text: str, what: str, terms: str) -> ParityError:
    return ParityError(
        f"{output} differs from {what} on the {side} text {_shortened(text)!r}: {terms}; "
        "nothing was written: export without this backend, or report the architecture",
        output=output,
        error=error,
        text=text,
    )


def _terms(encoder: Encoder, found: Matrix, expected: Matrix, count: int = 3) -> str:
    """The terms that differ most, with both weights."""
    order = np.argsort(-np.nan_to_num(np.abs(found - expected), nan=np.inf))[:count]
    return ", ".join(
        f"{encoder.vocabulary[term]} {found[term]:.4f} instead of {expected[term]:.4f}"
        for term in order.tolist()
        if found[term] != expected[term]
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
