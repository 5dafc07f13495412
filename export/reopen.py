"""The checkpoint that an artifact was made from, opened again as it was then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

from ..models.checkpoint import Checkpoint, open_checkpoint
from ..models.families import FAMILIES, Activation, Family, Pooling, QuerySide
from ..models.layout import SIDES
from ..models.options import OpenOptions
from ..runtime.artifact import Artifact, ArtifactManifest
from ..runtime.errors import CheckpointError


def reopen(artifact: Artifact, spec: str, options: OpenOptions | None = None) -> Checkpoint:
    """Open ``spec`` with what the user overrode when ``artifact`` was exported; ``options`` say what may be trusted.

    Raises CheckpointError: it cannot be opened, or has other weights than the artifact was made from.
    """
    manifest = artifact.manifest
    side = next((s for s in SIDES if s == manifest.role), None)
    options = replace(
        options or OpenOptions(),
        revision=None if Path(spec).is_dir() else manifest.source.revision or None,
        prompt_query=manifest.sides["query"].prompt if "query" in manifest.sides else None,
        prompt_document=manifest.sides["document"].prompt if "document" in manifest.sides else None,
        max_active_dims=manifest.max_active_dims,
        tokenizer="file" if manifest.tokenizer_from == "file" else None,
    )
    try:
        checkpoint = open_checkpoint(spec, side, options)
    except CheckpointError:  # only a family that was asked for may open it
        checkpoint = open_checkpoint(spec, side, replace(options, family=_family(manifest)))
    if _formula(checkpoint) != (manifest.pooling, manifest.activation, manifest.dropped_terms):
        checkpoint = open_checkpoint(spec, side, replace(options, family=_family(manifest)))
    lengths = {settings.max_length for settings in manifest.sides.values()} or {manifest.max_length}
    if len(lengths) == 1 and lengths != {text.max_length for text in checkpoint.sides.values()}:
        # Those of two sides that differ can only be what the checkpoint states.
        checkpoint = open_checkpoint(spec, side, replace(checkpoint.options, max_length=manifest.max_length))
    if checkpoint.weights_sha256 != manifest.source.weights_sha256:
        raise CheckpointError(f"{spec} has other weights than those this artifact was made from")
    # Those of a family file are known by their ids only.
    return replace(checkpoint, dropped_terms=tuple(manifest.dropped_terms))


def _formula(checkpoint: Checkpoint) -> tuple[str, str, list[int]]:
    return checkpoint.pooling, checkpoint.activation, list(checkpoint.dropped_terms)


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
