"""The pipeline: checkpoint -> pooled graph -> ONNX and OpenVINO, fp32 and int8 -> parity -> artifact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..models.checkpoint import Checkpoint
from ..models.layout import SIDES, Side
from ..models.opening import holds_pair, open_checkpoint
from ..runtime.artifact import MANIFEST_NAME
from ..runtime.build.foreign_files import refuse_foreign_to_artifact
from ..runtime.build.staging import staged_directory
from ..runtime.errors import CheckpointError, InputError
from ..runtime.files import storage_errors
from .auto.retrieval_sets import BUNDLED, RetrievalSet, read_set, sample_set
from .job import Job, Run
from .parity import ParityReport, WitnessReport
from .recipes import AUTO
from .request import ExportRequest, check_request
from .texts import calibration_texts, parity_texts

T = TypeVar("T")
# (steps done, steps in all, what runs next)
Progress = Callable[[int, int, str], None]
_BUNDLED_SET = f"{BUNDLED}:train"
# By model type: those that must export, to both backends, in every release.
TESTED_ARCHITECTURES = frozenset(
    {"bert", "distilbert", "roberta", "xlm-roberta", "camembert", "mpnet", "deberta", "deberta-v2", "albert", "electra",
     "modernbert", "eurobert", "nomic_bert", "gte", "jina_embeddings_v3"}
)  # fmt: skip


@dataclass(frozen=True)
class ExportResult:
    """What was written: the artifact or pair at ``path``, its parity, and remarks on the checkpoint."""

    path: Path
    report: ParityReport
    notes: tuple[str, ...]


def export(request: ExportRequest, progress: Progress | None = None) -> ExportResult:
    """Export a checkpoint: ``request.output`` then holds a finished artifact (or pair), or is unchanged.

    Parameters
    ----------
    request : ExportRequest
        What to export, and how.
    progress : callable, optional
        Called with (steps done, steps in all, what runs next).

    Returns
    -------
    ExportResult
        What was written, its parity, and remarks on the checkpoint.

    Raises
    ------
    InputError
        For an option that is not possible, or an output that exists.
    CheckpointError
        If the checkpoint cannot be loaded exactly as it was trained.
    ExportError
        If the architecture cannot be exported or quantized.
    ParityError
        If a float32 graph gives other vectors than the library that made the checkpoint.
    StorageError
        If a file cannot be written.
    """
    check_request(request)
    calibration = calibration_texts(request.calibration)
    sources = _sources(request)
    steps = _Steps(progress)
    steps.expect(len(sources) * _steps_of(request))
    sets = evaluation_sets(request, steps.run)
    checkpoints = [
        steps.run(f"opening {spec}", partial(open_checkpoint, spec, side, request.options)) for spec, side in sources
    ]
    _check_pair(checkpoints)
    _check_ignored(request, checkpoints)
    if sets and checkpoints[0].role != "both" and len(checkpoints) == 1:
        raise InputError("--recipe auto ranks documents for queries, so it needs both sides: export the whole pair")
    # A table is one step in place of all graphs, and so is its comparison.
    steps.expect(sum(5 if c.model is None else _steps_of(request) for c in checkpoints))
    with (
        staged_directory(
            request.output, manifest=MANIFEST_NAME, force=request.force, refuse=refuse_foreign_to_artifact
        ) as staging,
        storage_errors(request.output),
    ):
        report = Job(request, steps.run, parity_texts(), calibration, sets).write(checkpoints, staging)
    steps.finish()
    return ExportResult(request.output, report, _notes(checkpoints, report))


def evaluation_sets(request: ExportRequest, run: Run) -> list[RetrievalSet]:
    """Read the retrieval sets that ``--recipe auto`` ranks.

    Parameters
    ----------
    request : ExportRequest
        It names the sets; without names the bundled one is taken.
    run : callable
        Runs one step under a name, for progress.

    Returns
    -------
    list of RetrievalSet
        A sample of each set; empty where no recipe is chosen by ranking.

    Raises
    ------
    InputError
        If two sets have the same name, or one cannot be read.
    """
    if AUTO not in request.recipes.values():
        return []

    def sample(spec: str) -> RetrievalSet:
        return sample_set(read_set(spec), request.eval_documents)

    specs = request.eval_data or (_BUNDLED_SET,)
    sets = [run(f"reading {spec}", partial(sample, spec)) for spec in specs]
    if len({data.name for data in sets}) != len(sets):
        raise InputError("two sets of --eval-data have the same name; give each directory a name of its own")
    return sets


def _steps_of(request: ExportRequest) -> int:
    """Steps of one encoder: opening, witness, tracing, writing; each graph and its parity; about 30 for a search."""
    graphs = len(request.backends) * (2 if request.int8 else 1)
    return 4 + 2 * graphs + 30 * list(request.recipes.values()).count(AUTO)


class _Steps:
    """Counts steps for the progress callback."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress or (lambda done, total, what: None)
        self._total = 1
        self._done = 0

    def run(self, what: str, action: Callable[[], T]) -> T:
        # How many recipes a search ranks is not known before.
        self._total = max(self._total, self._done + 1)
        self._progress(self._done, self._total, what)
        result = action()
        self._done += 1
        return result

    def expect(self, total: int) -> None:
        """How many steps there are, as far as is known."""
        self._total = total

    def finish(self) -> None:
        self._progress(self._total, self._total, "done")


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


def _check_ignored(request: ExportRequest, checkpoints: list[Checkpoint]) -> None:
    """Raise InputError for a key that was to be ignored and is not there: it may be misspelt."""
    there = {name for c in checkpoints for key in c.ignored for name in (key, key.partition(": ")[2])}
    for key in request.options.ignore:
        if key not in there:
            raise InputError(f"--ignore {key!r}: the checkpoint has no such key that is not known here; leave it out")


def _witness_notes(checkpoint: Checkpoint, witness: WitnessReport) -> list[str]:
    notes = []
    model_type = None if checkpoint.model is None else checkpoint.model.config.model_type
    if model_type is not None and model_type not in TESTED_ARCHITECTURES:
        notes.append(
            f"{model_type} is not among the architectures that every release is tested with; its vectors are "
            f"{witness.name}'s on all parity texts"
        )
    if witness.reason:
        notes.append(f"compared with {witness.name}, since {witness.reason}")
    if checkpoint.unknown:
        notes.append(
            f"not known to splade-edge: {'; '.join(checkpoint.unknown)}; sentence-transformers, which reads it, gives "
            "the same vectors on all parity texts"
        )
    if witness.failed:
        notes.append(
            f"{witness.name} itself fails on {len(witness.failed)} of the texts, such as {witness.failed[0]!r}"
        )
    if witness.half_precision is not None:
        notes.append(
            f"stored in {checkpoint.stored_dtype}; the library's own vectors in that precision are up to "
            f"{witness.half_precision:.1e} of the largest weight from these, which are of float32"
        )
    return notes


def _notes(checkpoints: list[Checkpoint], report: ParityReport) -> tuple[str, ...]:
    notes = [f"{c.role}: {note}" for c in checkpoints for note in c.notes]
    for checkpoint, witness in zip(checkpoints, report.witnesses, strict=True):
        notes += [f"{checkpoint.role}: {note}" for note in _witness_notes(checkpoint, witness)]
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
    if report.choice:
        notes += [
            f"no int8 recipe holds the ranking of the {role} encoder on {backend}: fp32 alone was written"
            for role, backend in report.choice.without_int8()
        ]
    return tuple(notes)
