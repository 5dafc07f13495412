"""Writing the artifacts of one export: fp32 graphs, the int8 recipes asked for or chosen, parity, cards, manifests."""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from ..models.checkpoint import Checkpoint
from ..models.tokenizing import write_tokenizer
from ..runtime.artifact import (
    ARTIFACT_FORMAT,
    VERSION,
    Artifact,
    ArtifactManifest,
    Backend,
    Kind,
    Side,
    SideSettings,
    Source,
    Variant,
    variant_files,
    write_artifact_manifest,
    write_pair_manifest,
)
from ..runtime.encoder import Encoder
from ..runtime.encoder.tokenizer import vocabulary_sha256
from ..runtime.errors import CheckpointError
from ..runtime.numerics import NUMERICS
from ..runtime.version import MADE_BY
from .auto.report import Choice
from .auto.retrieval_sets import RetrievalSet
from .auto.search import Chooser, Contender, Graph
from .card import artifact_card, pair_card
from .half_storage import halve_weights
from .parity import (
    RANKING_DEPTH,
    TOLERANCE,
    TOP_TERMS,
    GraphParity,
    ParityReport,
    Reference,
    WitnessReport,
    measure,
    reference_vectors,
)
from .recipes import AUTO, KERNEL, choose_recipe, recipe_named
from .request import ExportRequest
from .source import QuantizationSource
from .texts import SampleTexts
from .tokens import check_choice, check_tokens
from .variants import adopt, trace, write_fp32, write_int8, write_table
from .witness import Witness, half_precision_gap, open_witness
from .write_kernel import LARGEST, obstacle

Run = Callable[[str, Callable[[], Any]], Any]
_LICENCE_FILES = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*")
_MEASURED_WITH = ("torch", "transformers", "sentence-transformers", "tokenizers", "onnxruntime", "openvino", "nncf")


@dataclass
class Draft:
    """An artifact on its way: the checkpoint's side, its directory, and the variants written so far."""

    checkpoint: Checkpoint
    directory: Path
    reference: Reference
    counterpart: Reference | None
    source: QuantizationSource | None = None  # None for a table
    variants: list[Variant] = field(default_factory=list)

    def artifact(self) -> Artifact:
        """As an artifact whose files are not listed yet."""
        return Artifact(self.directory, manifest_of(self.checkpoint, self.directory, self.variants))


@dataclass
class Job:
    """One export, with everything its steps share. ``sets``: what ``--recipe auto`` ranks; empty without it."""

    request: ExportRequest
    run: Run
    samples: SampleTexts
    calibration: SampleTexts
    sets: list[RetrievalSet]

    def write(self, checkpoints: list[Checkpoint], staging: Path) -> ParityReport:
        """Write one artifact, or a pair of two.

        Parameters
        ----------
        checkpoints : list of Checkpoint
            One encoder, or the query and the document side.
        staging : Path
            The directory to write into.

        Returns
        -------
        ParityReport
            How every graph compares with its witness.

        Raises
        ------
        CheckpointError
            If nobody can vouch for what the checkpoint's files say.
        ExportError
            If a graph cannot be made.
        ParityError
            If a float32 graph gives other vectors than its witness.
        """
        paired = len(checkpoints) == 2
        witnesses = [self.run(f"witness, {c.role}", partial(self._witness, c)) for c in checkpoints]
        references = [
            self.run(f"vectors of the witness, {c.role}", partial(self._reference, c, witness, paired=paired))
            for c, witness in zip(checkpoints, witnesses, strict=True)
        ]
        drafts = []
        for place, (checkpoint, reference) in enumerate(zip(checkpoints, references, strict=True)):
            directory = staging / checkpoint.role if paired else staging
            directory.mkdir(exist_ok=True)
            drafts.append(Draft(checkpoint, directory, reference, references[1 - place] if paired else None))
        with tempfile.TemporaryDirectory(dir=staging, ignore_cleanup_errors=True) as place_for_work:
            work = Path(place_for_work)
            for draft, witness in zip(drafts, witnesses, strict=True):
                write_tokenizer(draft.checkpoint.tokenizer, draft.directory / "tokenizer.json")
                check_tokens(draft.checkpoint, draft.artifact(), self.samples, witness)
            del witnesses
            for draft in drafts:
                self._write_fp32(draft, work)
            choice = self._write_int8(drafts, work)
        reports = [self._finish(draft, choice) for draft in drafts]
        if not paired:
            return reports[0]
        report = make_report(
            [graph for part in reports for graph in part.graphs],
            [w for part in reports for w in part.witnesses],
            choice,
        )
        query, document = (draft.artifact().manifest for draft in drafts)
        _write_json(staging / "parity.json", report)
        (staging / "README.md").write_text(pair_card(query, document, report), encoding="utf-8")
        write_pair_manifest(staging, query="query", document="document", made_by=MADE_BY)
        return report

    def _witness(self, checkpoint: Checkpoint) -> Witness:
        """Whom a side is compared with. Raises CheckpointError where nobody can vouch for what its files say."""
        check_choice(checkpoint, self.samples)
        witness = open_witness(checkpoint)
        if checkpoint.unknown and witness.reason:
            keys = " ".join(f"--ignore {key.rpartition(': ')[2]!r}" for key in checkpoint.unknown)
            raise CheckpointError(
                f"{checkpoint.directory} has what is not known here ({'; '.join(checkpoint.unknown)}), and there is no "
                f"library to compare with ({witness.reason}); pass {keys} if it changes no vector"
            )
        return witness

    def _reference(self, checkpoint: Checkpoint, witness: Witness, *, paired: bool) -> Reference:
        reference = reference_vectors(checkpoint, self.samples, witness, paired=paired)
        if not witness.reason and checkpoint.half_precision:
            gap = half_precision_gap(checkpoint, reference.vectors, reference.texts)
            report = msgspec.structs.replace(reference.witness, half_precision=gap)
            reference = replace(reference, witness=report)
        return reference

    def _write_fp32(self, draft: Draft, work: Path) -> None:
        checkpoint, directory = draft.checkpoint, draft.directory
        if checkpoint.table is not None:
            what = f"query: {checkpoint.query_side}"
            draft.variants.append(self.run(what, partial(write_table, checkpoint.table, directory)))
            return
        # OpenVINO converts the ONNX graph, so it is made in any case.
        keep = "onnx" in self.request.backends
        path = directory / "onnx/fp32.onnx" if keep else work / f"{checkpoint.role}/fp32.onnx"
        path.parent.parent.mkdir(exist_ok=True)
        source = self.run(f"{checkpoint.role}: onnx fp32", partial(trace, checkpoint, path, self.calibration))
        draft.source = source
        for backend in self.request.backends:
            what = f"{checkpoint.role}: {backend} fp32"
            draft.variants.append(self.run(what, partial(write_fp32, source, directory, backend)))

    def _write_int8(self, drafts: list[Draft], work: Path) -> Choice | None:
        """The int8 graphs of every backend, by the recipes asked for or by a search; what the search found."""
        if not self.request.int8:
            return None
        chooser: Chooser | None = None
        for backend in self.request.backends:
            if self.request.recipes.get(backend) == AUTO:
                chooser = chooser or Chooser(
                    self.sets, max_ndcg_drop=self.request.max_ndcg_drop, cache=self.request.search_cache, run=self.run
                )
                self._search(chooser, backend, drafts, work)
                continue
            for draft in drafts:
                if draft.source is not None:
                    pooling, asked = draft.checkpoint.pooling, self.request.recipes.get(backend)
                    recipe = choose_recipe(backend, pooling, asked, pools_first=draft.source.pools_first)
                    recipes = [recipe]
                    if backend == "onnx" and asked is None and _is_for_kernels(draft.checkpoint):
                        recipes.append(recipe_named("onnx", KERNEL))
                    for chosen in recipes:
                        what = f"{draft.checkpoint.role}: {backend} int8 ({chosen.name})"
                        draft.variants.append(
                            self.run(what, partial(write_int8, chosen, draft.source, draft.directory))
                        )
        return chooser.choice() if chooser else None

    def _search(self, chooser: Chooser, backend: Backend, drafts: list[Draft], work: Path) -> None:
        sides: dict[Side, Graph] = {}
        contenders = []
        for draft in drafts:
            role = draft.checkpoint.role
            artifact = draft.artifact()
            exact = Graph(artifact, artifact.variant(backend, "fp32"))
            if role == "both":
                sides |= {"query": exact, "document": exact}
            else:
                sides[role] = exact
            if draft.source is not None:
                place = work / f"{role}-{backend}"
                place.mkdir(parents=True)
                shutil.copyfile(draft.directory / "tokenizer.json", place / "tokenizer.json")
                contenders.append(
                    Contender(
                        role, backend, draft.checkpoint.pooling, draft.source, place, artifact,
                        Encoder(*exact, threads=1), draft.reference, draft.counterpart,
                    )
                )  # fmt: skip
        chosen = chooser.choose(contenders, sides)
        for draft in drafts:
            for candidate in chosen.get(draft.checkpoint.role, []):
                if candidate.graph is not None:
                    origin = work / f"{draft.checkpoint.role}-{backend}"
                    draft.variants.append(adopt(candidate.graph.variant, candidate.recipe, origin, draft.directory))
        for contender in contenders:
            shutil.rmtree(contender.place, ignore_errors=True)

    def _finish(self, draft: Draft, choice: Choice | None) -> ParityReport:
        """Compare every graph with its witness, then write report, card, licence files and manifest."""
        checkpoint, directory = draft.checkpoint, draft.directory
        for variant in draft.variants:
            if variant.precision == "fp32" and draft.source is not None:
                # Not before: the other graphs were made from this one.
                halve_weights(directory / variant.path)
        made = draft.artifact()
        measured = [
            self.run(
                f"parity of {checkpoint.role} {variant.backend} {variant.precision}",
                partial(_measure, made, variant, draft.reference, draft.counterpart),
            )
            for variant in draft.variants
        ]
        draft.variants = [variant for variant in draft.variants if self._keeps(variant, draft.variants)]
        for variant in made.manifest.variants:
            if variant not in draft.variants:
                for name in variant_files(variant):
                    (directory / name).unlink()
        artifact = draft.artifact()
        graphs = [
            graph for variant, graph in zip(made.manifest.variants, measured, strict=True) if variant in draft.variants
        ]
        report = make_report(graphs, [draft.reference.witness], choice.of(checkpoint.role) if choice else None)
        _write_json(directory / "parity.json", report)
        card = artifact_card(directory, artifact.manifest, checkpoint, report)
        (directory / "README.md").write_text(card, encoding="utf-8")
        for source in (checkpoint.root, checkpoint.directory):
            for pattern in _LICENCE_FILES:
                for path in source.glob(pattern):
                    if path.is_file():
                        shutil.copyfile(path, directory / path.name)
        self.run(f"writing {checkpoint.role}", partial(write_artifact_manifest, directory, artifact.manifest))
        return report

    def _keeps(self, variant: Variant, made: list[Variant]) -> bool:
        """Whether a graph is part of the artifact, or was made for the comparison and for the int8 graph only."""
        # What our kernels run was made with the ONNX graph's help.
        stands_for = {"onnx": ("onnx", "kernel")}.get(variant.backend, (variant.backend,))
        quantized = any(other.backend in stands_for and other.precision == "int8" for other in made)
        return self.request.fp32 or variant.precision == "int8" or not quantized


def _is_for_kernels(checkpoint: Checkpoint) -> bool:
    """Whether an encoder gets a form for our kernels without being asked: a small one that serves queries.

    There int8 costs nothing that can be measured, and each search gains. Larger ones are ``--recipe auto``'s to judge.
    """
    small = checkpoint.role != "document" and checkpoint.model is not None
    return small and not obstacle(checkpoint, LARGEST)


def versions() -> dict[str, str]:
    """The versions of the libraries that take part in parity."""
    return {name: importlib.metadata.version(name) for name in _MEASURED_WITH}


def make_report(
    graphs: list[GraphParity], witnesses: list[WitnessReport], choice: Choice | None = None
) -> ParityReport:
    """A parity report under the tolerances and the versions of this process.

    Parameters
    ----------
    graphs : list of GraphParity
        The graphs that were compared.
    witnesses : list of WitnessReport
        What they were compared with.
    choice : Choice, optional
        What ``--recipe auto`` found.

    Returns
    -------
    ParityReport
        The report.
    """
    return ParityReport(
        tolerance_fp32=TOLERANCE,
        top_terms=TOP_TERMS,
        ranking_depth=RANKING_DEPTH,
        versions=versions(),
        graphs=graphs,
        choice=choice,
        witnesses=witnesses,
    )


def manifest_of(checkpoint: Checkpoint, directory: Path, variants: list[Variant]) -> ArtifactManifest:
    """The manifest of a checkpoint's side.

    Parameters
    ----------
    checkpoint : Checkpoint
        The side.
    directory : Path
        The artifact's directory, with its ``tokenizer.json``.
    variants : list of Variant
        The graphs that were written.

    Returns
    -------
    ArtifactManifest
        Without the list of files, which is made when the manifest is written.
    """
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
        variants=list(variants),
        source=Source(
            checkpoint=checkpoint.located.name,
            revision=checkpoint.located.revision,
            weights_sha256=checkpoint.weights_sha256,
            licence=checkpoint.licence,
        ),
        made_by=MADE_BY,
        kind=_kind(checkpoint),
        query_idf=checkpoint.query_idf,
        numerics=NUMERICS,
        sides={
            side: SideSettings(prompt=text.prompt, max_length=text.max_length)
            for side, text in sorted(checkpoint.sides.items())
        },
        adds_special_tokens=checkpoint.adds_special_tokens,
        truncation_side=checkpoint.tokenizer.truncation_side,
        split_special_tokens=bool(checkpoint.tokenizer.split_special_tokens),
        max_active_dims=checkpoint.max_active_dims,
        normalization=checkpoint.normalization,
        tokenizer_from=checkpoint.loaded.made_from,
        asked=checkpoint.options.asked(),
    )


def _kind(checkpoint: Checkpoint) -> Kind:
    if not checkpoint.lexical_only:
        return "encoder"
    if checkpoint.table is None:
        return "masked encoder"
    return "look-up" if checkpoint.query_side == "look-up" else "bag of words"


def _measure(artifact: Artifact, variant: Variant, reference: Reference, counterpart: Reference | None) -> GraphParity:
    return measure(Encoder(artifact, variant), reference, counterpart)


def _write_json(path: Path, report: ParityReport) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
