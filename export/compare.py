"""An artifact's vectors beside those of the library that made its checkpoint, on texts of the user's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..models.layout import Side
from ..models.options import OpenOptions
from ..runtime.artifact import Artifact, Backend, Precision
from ..runtime.encoder import Encoder
from .parity import differences
from .reopen import reopen
from .witness import open_witness

# Allowed difference of a weight, as a share of the largest weight of all texts.
TOLERANCES: dict[Precision, float] = {"fp32": 1e-3, "int8": 0.1}
_LARGEST_PLOTTED = 20_000

Weights = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Compared:
    """One text: terms with weight in the artifact's vector and in the witness's, the largest difference of a weight and
    the term where it is, and the cosine. ``weights``: float32 ``[2, terms]``, the witness's first, of the terms that
    either has.
    """

    side: Side
    text: str
    terms: int
    witness_terms: int
    difference: float
    term: str
    cosine: float
    weights: Weights


@dataclass(frozen=True)
class Comparison:
    """What the texts of one artifact gave. ``failed``: those that the witness cannot encode. ``graph`` is the one that
    was run, ``largest`` the largest weight of the witness.
    """

    graph: str
    witness: str
    reason: str
    texts: list[Compared]
    failed: list[str]

    @property
    def largest(self) -> float:
        """The largest weight of all texts."""
        return max((float(text.weights[0].max(initial=0)) for text in self.texts), default=0.0)

    @property
    def worst(self) -> float:
        """The largest difference of a weight, as a share of the largest weight."""
        difference = max((text.difference for text in self.texts), default=0.0)
        return difference / self.largest if self.largest else difference


def compare(
    artifact: Artifact,
    spec: str,
    texts: Iterable[str],
    sides: Iterable[Side],
    *,
    backend: Backend | None = None,
    precision: Precision | None = None,
    options: OpenOptions | None = None,
) -> Comparison:
    """Encode texts with an artifact's graph and with its checkpoint's witness.

    Parameters
    ----------
    artifact : Artifact
        The exported encoder.
    spec : str
        The checkpoint it was made from: a directory or a hub id.
    texts : iterable of str
        What to encode.
    sides : iterable of {"query", "document"}
        The sides that texts are encoded as; the artifact must serve them.
    backend : str, optional
        The backend of the graph. By default any.
    precision : {"fp32", "int8"}, optional
        Its precision. By default float32 where there is one.
    options : OpenOptions, optional
        What may be trusted when the checkpoint is opened.

    Returns
    -------
    Comparison
        The differences, text by text.

    Raises
    ------
    CheckpointError
        If the checkpoint cannot be opened, or the artifact was made from another one.
    ArtifactError
        If the artifact has no such graph.
    """
    precisions = {variant.precision for variant in artifact.manifest.variants if backend in (None, variant.backend)}
    variant = artifact.variant(backend, precision or ("fp32" if "fp32" in precisions else None))
    encoder = Encoder(artifact, variant)
    witness = open_witness(reopen(artifact, spec, options))
    found: list[Compared] = []
    failed: list[str] = []
    for text in texts:
        for side in sides:
            expected = witness.encode(text, side)
            if expected is None:
                failed.append(text)
            else:
                found.append(_compared(encoder, side, text, expected))
    return Comparison(f"{variant.backend} {variant.precision}", witness.name, witness.reason, found, failed)


def _compared(encoder: Encoder, side: Side, text: str, expected: Weights) -> Compared:
    vector = encoder.encode_text(text, side).vector
    ours = np.zeros_like(expected)
    ours[vector.indices] = vector.values
    cut = encoder.artifact.manifest.max_active_dims is not None
    gaps = differences(ours[None], expected[None], cut=cut)[0]
    worst = int(gaps.argmax())
    norms = float(np.linalg.norm(ours) * np.linalg.norm(expected))
    either = np.flatnonzero((ours > 0) | (expected > 0))
    return Compared(
        side=side,
        text=text,
        terms=int(np.count_nonzero(ours)),
        witness_terms=int(np.count_nonzero(expected)),
        difference=float(gaps[worst]),
        term=encoder.vocabulary[worst] if gaps[worst] else "",
        cosine=float(ours @ expected) / norms if norms else float(not either.size),
        weights=np.stack([expected[either], ours[either]]),
    )


def draw(comparison: Comparison, path: Path) -> None:
    """Draw weight against weight, one point for each term and text.

    Parameters
    ----------
    comparison : Comparison
        What was compared.
    path : Path
        The picture to write: ``.png``, ``.svg`` or ``.pdf``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    top = max(comparison.largest, 1e-6) * 1.05
    axes.plot([0, top], [0, top], color="0.7", linewidth=1, label="equal")
    for side in ("query", "document"):
        weights = [text.weights for text in comparison.texts if text.side == side]
        points = np.concatenate([np.zeros((2, 0), np.float32), *weights], axis=1)
        if points.shape[1]:
            kept = points[:, np.linspace(0, points.shape[1] - 1, min(points.shape[1], _LARGEST_PLOTTED)).astype(int)]
            axes.plot(*kept, ".", markersize=3, alpha=0.5, label=f"{side} weights ({points.shape[1]:,})")
    axes.set(
        xlabel=f"weight by {comparison.witness}",
        ylabel=f"weight by splade-edge ({comparison.graph})",
        title=f"largest difference: {comparison.worst:.1e} of the largest weight",
        xlim=(0, top),
        ylim=(0, top),
        aspect="equal",
    )
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=150)


def lines_of(path: Path) -> Iterator[str]:
    """Read the texts of a file.

    Parameters
    ----------
    path : Path
        A corpus or queries (JSON lines, TSV, ``.gz``), or one text on each line.

    Returns
    -------
    iterator of str
        Title and text of each document or query, or each line.

    Raises
    ------
    CorpusError
        If a line of a corpus cannot be read.
    InputError
        If the file cannot be read.
    """
    from ..runtime.build.corpus import BadLines, read_corpus
    from ..runtime.build.indexing import join_title
    from ..runtime.errors import InputError

    if path.suffix in (".jsonl", ".json", ".tsv", ".gz"):
        for record in read_corpus([str(path)], BadLines("fail")):
            yield join_title(record.document.title, record.document.text)
        return
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8; convert it, one text a line") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    yield from (line for line in text.splitlines() if line)
