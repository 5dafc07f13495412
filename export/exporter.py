"""The pipeline: checkpoint -> pooled graph -> ONNX and OpenVINO, fp32 and int8 -> parity -> artifact."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from ..models.checkpoint import Checkpoint, holds_pair, open_checkpoint
from ..models.layout import SIDES, Side
from ..models.tokenizing import write_tokenizer
from ..runtime.artifact import (
    ARTIFACT_FORMAT,
    MANIFEST_NAME,
    VERSION,
    Artifact,
    ArtifactManifest,
    Backend,
    Kind,
    Source,
    Variant,
    write_artifact_manifest,
    write_pair_manifest,
)
from ..runtime.encoder import Encoder
from ..runtime.encoder.tokenizer import vocabulary_sha256
from ..runtime.errors import CheckpointError
from ..runtime.files import storage_errors
from ..runtime.staging import staged_directory
from ..runtime.version import MADE_BY
from .card import artifact_card, pair_card
from .graphs import graph_count, write_graphs, write_table
from .parity import (
    RANKING_DEPTH,
    TOLERANCE,
    TOP_TERMS,
    GraphParity,
    ParityReport,
    Reference,
    measure,
    reference_vectors,
)
from .recipes import Recipe, choose_recipe
from .request import ExportRequest, check_request
from .texts import SampleTexts, calibration_texts, parity_texts

T = TypeVar("T")
# (steps done, steps in all, what runs next)
Progress = Callable[[int, int, str], None]
_LICENCE_FILES = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*")
_MEASURED_WITH = ("torch", "transformers", "onnxruntime", "openvino", "nncf")


@dataclass(frozen=True)
class ExportResult:
    """What was written: the artifact or pair at ``path``, its parity, and remarks on the checkpoint."""

    path: Path
    report: ParityReport
    notes: tuple[str, ...]


def export(request: ExportRequest, progress: Progress | None = None) -> ExportResult:
    """Export a checkpoint to ``request.output``, which holds a finished artifact (or pair) afterwards, or is unchanged.

    Raises InputError (an option, an output that exists), CheckpointError, ExportError, ParityError (a float32 graph is
    off by more than 1e-4), StorageError.
    """
    check_request(request)
    calibration = calibration_texts(request.calibration)
    sources = _sources(request)
    graphs = graph_count(request.backends, int8=request.int8)
    steps = _Steps(progress, len(sources) * (3 + 2 * graphs))
    checkpoints = [
        steps.run(f"opening {spec}", partial(open_checkpoint, spec, side, request.options)) for spec, side in sources
    ]
    _check_pair(checkpoints)
    # A table is one step in place of all graphs, and so is its comparison.
    steps.expect(sum(3 + 2 * (1 if c.model is None else graphs) for c in checkpoints))
    samples = parity_texts()
    with (
        staged_directory(request.output, manifest=MANIFEST_NAME, force=request.force) as staging,
        storage_errors(request.output),
    ):
        job = _Job(request, steps, samples, calibration, paired=len(checkpoints) == 2)
        report = job.write(checkpoints, staging)
    steps.finish()
    return ExportResult(request.output, report, _notes(checkpoints, report))


def versions() -> dict[str, str]:
    """The versions of the libraries that take part in parity."""
    return {name: importlib.metadata.version(name) for name in _MEASURED_WITH}


def make_report(graphs: list[GraphParity]) -> ParityReport:
    """A parity report of these graphs, under the tolerances and versions of this process."""
    return ParityReport(
        tolerance_fp32=TOLERANCE,
        top_terms=TOP_TERMS,
        ranking_depth=RANKING_DEPTH,
        versions=versions(),
        graphs=graphs,
    )


class _Steps:
    """Counts steps for the progress callback."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress or (lambda done, total, what: None)
        self._total = total
        self._done = 0

    def run(self, what: str, action: Callable[[], T]) -> T:
        self._progress(self._done, self._total, what)
        result = action()
        self._done += 1
        return result

    def expect(self, total: int) -> None:
        """How many steps there are, once that is known better."""
        self._total = total

    def finish(self) -> None:
        self._progress(self._total, self._total, "done")


@dataclass
class _Job:
    """One export, with everything its steps share."""

    request: ExportRequest
    steps: _Steps
    samples: SampleTexts
    calibration: SampleTexts
    paired: bool

    def write(self, checkpoints: list[Checkpoint], staging: Path) -> ParityReport:
        """Write one artifact, or a pair of two, into ``staging``."""
        references = [
            self.steps.run(
                f"PyTorch vectors, {c.role}", partial(reference_vectors, c, self.samples, paired=self.paired)
            )
            for c in checkpoints
        ]
        if not self.paired:
            return self._write_artifact(checkpoints[0], staging, references[0], None)
        query, document = references
        directories = [staging / checkpoint.role for checkpoint in checkpoints]
        for directory in directories:
            directory.mkdir()
        reports = [
            self._write_artifact(checkpoint, directory, reference, counterpart)
            for checkpoint, directory, reference, counterpart in zip(
                checkpoints, directories, (query, document), (document, query), strict=True
            )
        ]
        report = make_report([graph for part in reports for graph in part.graphs])
        query_manifest, document_manifest = (
            _manifest(checkpoint, directory, []) for checkpoint, directory in zip(checkpoints, directories, strict=True)
        )
        card = pair_card(query_manifest, document_manifest, report)
        _write_json(staging / "parity.json", report)
        (staging / "README.md").write_text(card, encoding="utf-8")
        write_pair_manifest(staging, query="query", document="document", made_by=MADE_BY)
        return report

    def _write_artifact(
        self, checkpoint: Checkpoint, directory: Path, reference: Reference, counterpart: Reference | None
    ) -> ParityReport:
        write_tokenizer(checkpoint.tokenizer, directory / "tokenizer.json")
        run = self.steps.run
        if checkpoint.table is not None:
            variants = [run(f"query: {checkpoint.query_side}", partial(write_table, checkpoint.table, directory))]
        else:
            recipes = self._recipes(checkpoint)
            variants = write_graphs(checkpoint, directory, recipes=recipes, calibration=self.calibration, run=run)
        manifest = _manifest(checkpoint, directory, variants)
        artifact = Artifact(directory, manifest)
        graphs = [
            self.steps.run(
                f"parity of {checkpoint.role} {variant.backend} {variant.precision}",
                partial(_measure, artifact, variant, reference, counterpart),
            )
            for variant in variants
        ]
        report = make_report(graphs)
        self.steps.run(f"writing {checkpoint.role}", lambda: _finish(checkpoint, directory, manifest, report))
        return report

    def _recipes(self, checkpoint: Checkpoint) -> dict[Backend, Recipe | None]:
        """The int8 recipe of each backend to write; None for float32 only."""
        return {
            backend: choose_recipe(backend, checkpoint.pooling, self.request.recipes.get(backend))
            if self.request.int8
            else None
            for backend in self.request.backends
        }


def _sources(request: ExportRequest) -> list[tuple[str, Side | None]]:
    """(checkpoint, side) of each encoder to export; the query side of a pair first."""
    if request.query and request.document:
        return [(request.query, "query"), (request.document, "document")]
    if not request.checkpoint:  # check_request has said so
        return []
    if request.role is None and holds_pair(request.checkpoint, request.options):
        return [(request.checkpoint, side) for side in SIDES]
    return [(request.checkpoint, request.role)]


def _check_pair(checkpoints: list[Checkpoint]) -> None:
    """Both sides of a pair must give the same term the same id."""
    if len(checkpoints) != 2:
        return
    query, document = checkpoints
    if query.vocab_size != document.vocab_size or query.tokenizer.get_vocab() != document.tokenizer.get_vocab():
        raise CheckpointError(
            f"the query encoder ({query.vocab_size:,} terms) and the document encoder ({document.vocab_size:,} terms) "
            "do not share a vocabulary; name two sides of one pair"
        )


def _manifest(checkpoint: Checkpoint, directory: Path, variants: list[Variant]) -> ArtifactManifest:
    return ArtifactManifest(
        format=ARTIFACT_FORMAT,
        version=VERSION,
        files={},
        role=checkpoint.role,
        family=checkpoint.family.name,
        pooling=checkpoint.pooling,
        activation=checkpoint.activation,
        vocab_size=checkpoint.vocab_size,
        vocabulary_sha256=vocabulary_sha256(directory / "tokenizer.json", checkpoint.vocab_size),
        max_length=checkpoint.max_length,
        special_tokens=checkpoint.special_tokens,
        dropped_terms=list(checkpoint.dropped_terms),
        variants=variants,
        source=Source(
            checkpoint=checkpoint.located.name,
            revision=checkpoint.located.revision,
            weights_sha256=checkpoint.weights_sha256,
            licence=checkpoint.licence,
        ),
        made_by=MADE_BY,
        kind=_kind(checkpoint),
    )


def _kind(checkpoint: Checkpoint) -> Kind:
    if not checkpoint.own_terms:
        return "encoder"
    if checkpoint.table is None:
        return "masked encoder"
    return "look-up" if checkpoint.query_side == "look-up" else "bag of words"


def _measure(artifact: Artifact, variant: Variant, reference: Reference, counterpart: Reference | None) -> GraphParity:
    return measure(Encoder(artifact, variant), reference, counterpart)


def _finish(checkpoint: Checkpoint, directory: Path, manifest: ArtifactManifest, report: ParityReport) -> None:
    _write_json(directory / "parity.json", report)
    card = artifact_card(directory, manifest, checkpoint.family, report)
    (directory / "README.md").write_text(card, encoding="utf-8")
    for source in (checkpoint.root, checkpoint.directory):
        for pattern in _LICENCE_FILES:
            for path in source.glob(pattern):
                if path.is_file():
                    shutil.copyfile(path, directory / path.name)
    write_artifact_manifest(directory, manifest)


def _write_json(path: Path, report: ParityReport) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def _notes(checkpoints: list[Checkpoint], report: ParityReport) -> tuple[str, ...]:
    notes = [f"{c.role}: {note}" for c in checkpoints for note in c.notes]
    notes += [
        f"{c.role}: the checkpoint states no licence; pass --licence to record one"
        for c in checkpoints
        if c.licence == "unknown"
    ]
    notes += [
        f"{g.output} keeps {g.ranking_overlap:.0%} of the best {report.ranking_depth}: use fp32, or another --recipe"
        for g in report.graphs
        if g.ranking_overlap < 0.9
    ]
    return tuple(notes)
