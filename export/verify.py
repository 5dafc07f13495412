"""The hook of ``splade-edge check``: measure an artifact's parity again, where its source is at hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

from ..models.checkpoint import open_checkpoint
from ..models.families import FAMILIES, Activation, Family, Pooling, QuerySide
from ..models.layout import SIDES
from ..models.options import OpenOptions
from ..runtime.artifact import Artifact, ArtifactManifest
from ..runtime.cpu import supports
from ..runtime.encoder import Encoder
from ..runtime.errors import CheckpointError
from .parity import measure, reference_vectors
from .texts import parity_texts
from .witness import open_witness


def repeat_parity(artifact: Artifact, source: str | None = None) -> str | None:
    """Compare every graph of ``artifact`` with PyTorch once more; returns None, or why that was not possible.

    ``source`` says where the checkpoint is now; by default it is looked for where the manifest says. It is used only if
    its weights have the SHA-256 the manifest names. Raises ParityError as the export would.
    """
    manifest = artifact.manifest
    spec = source or manifest.source.checkpoint
    if source is None and not Path(spec).is_dir():
        return f"its source {spec} is not a directory here; name it with --source"
    lengths = {settings.max_length for settings in manifest.sides.values()} or {manifest.max_length}
    prompts = {side: settings.prompt for side, settings in manifest.sides.items()}
    options = OpenOptions(
        revision=manifest.source.revision or None if not Path(spec).is_dir() else None,
        family=_family(manifest),
        # Those of two sides can only be what the checkpoint states.
        max_length=lengths.pop() if len(lengths) == 1 and manifest.kind in ("encoder", "masked encoder") else None,
        prompt_query=prompts.get("query"),
        prompt_document=prompts.get("document"),
        max_active_dims=manifest.max_active_dims,
        tokenizer=manifest.tokenizer_from if manifest.tokenizer_from == "file" else None,
    )
    side = next((s for s in SIDES if s == manifest.role), None)
    try:
        checkpoint = open_checkpoint(spec, side, options)
    except CheckpointError as error:
        return str(error)
    if checkpoint.weights_sha256 != manifest.source.weights_sha256:
        return f"{spec} has other weights than those this artifact was made from"
    # Those of a family file are known by their ids only.
    checkpoint = replace(checkpoint, dropped_terms=tuple(manifest.dropped_terms))
    reference = reference_vectors(checkpoint, parity_texts(), open_witness(checkpoint), paired=False)
    elsewhere = [variant for variant in manifest.variants if not supports(variant.isa)]
    for variant in manifest.variants:
        if variant not in elsewhere:
            measure(Encoder(artifact, variant), reference, None)
    if elsewhere:
        return (
            f"its {elsewhere[0].backend} graph for {elsewhere[0].isa.upper()} does not run on this CPU; the others do"
        )
    return None


def _family(manifest: ArtifactManifest) -> str | Family:
    """The family an artifact was exported as; one that came from a family file is put together from the manifest."""
    if any(family.name == manifest.family for family in FAMILIES):
        return manifest.family
    every: tuple[QuerySide, ...] = get_args(QuerySide)
    usual = manifest.kind if manifest.kind != "encoder" else "own encoder" if manifest.role == "query" else every[0]
    return Family(
        name=manifest.family,
        members="",
        model_types=frozenset(),
        # A table has neither.
        pooling=next((p for p in get_args(Pooling) if p == manifest.pooling), "max"),
        activation=next((a for a in get_args(Activation) if a == manifest.activation), "log1p_relu"),
        query_sides=tuple(sorted(every, key=lambda side: side != usual)),
    )
