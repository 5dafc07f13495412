"""The checkpoint that an artifact was made from, opened again as it was then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

from ..models.checkpoint import Checkpoint
from ..models.families import FAMILIES, Activation, Family, Pooling, QuerySide
from ..models.layout import SIDES
from ..models.opening import open_checkpoint
from ..models.options import OpenOptions
from ..runtime.artifact import Artifact, ArtifactManifest
from ..runtime.errors import CheckpointError


def reopen(artifact: Artifact, spec: str, options: OpenOptions | None = None) -> Checkpoint:
    """Open a checkpoint with what the user asked for when an artifact was exported from it.

    Nothing else that the artifact states is taken over. So whatever it does differently from the checkpoint shows.

    Parameters
    ----------
    artifact : Artifact
        The exported encoder.
    spec : str
        The checkpoint: a directory or a hub id.
    options : OpenOptions, optional
        What may be trusted.

    Returns
    -------
    Checkpoint
        The checkpoint, opened.

    Raises
    ------
    CheckpointError
        If it cannot be opened, or has other weights than the artifact was made from.
    """
    manifest = artifact.manifest
    side = next((s for s in SIDES if s == manifest.role), None)
    revision = None if Path(spec).is_dir() else manifest.source.revision or None
    options = replace((options or OpenOptions()).asking(manifest.asked), revision=revision)
    own = "--family" in manifest.asked and options.family is None  # one that a file described
    if own or (not manifest.asked and not _is_known(manifest)):
        options = replace(options, family=_family(manifest))
    try:
        checkpoint = open_checkpoint(spec, side, options)
    except CheckpointError:  # artifacts of earlier releases do not say which family was asked for
        checkpoint = open_checkpoint(spec, side, replace(options, family=_family(manifest)))
    if manifest.version < 6 and _formula(checkpoint) != (manifest.pooling, manifest.activation, manifest.dropped_terms):
        checkpoint = open_checkpoint(spec, side, replace(options, family=_family(manifest)))
    if checkpoint.weights_sha256 != manifest.source.weights_sha256:
        raise CheckpointError(f"{spec} has other weights than those this artifact was made from")
    # Those of a family file are known by their ids only.
    return replace(checkpoint, dropped_terms=tuple(manifest.dropped_terms)) if own else checkpoint


def _is_known(manifest: ArtifactManifest) -> bool:
    return any(family.name == manifest.family for family in FAMILIES)


def _formula(checkpoint: Checkpoint) -> tuple[str, str, list[int]]:
    return checkpoint.pooling, checkpoint.activation, list(checkpoint.dropped_terms)


def _family(manifest: ArtifactManifest) -> str | Family:
    """The family an artifact was exported as; one that came from a family file is put together from the manifest."""
    if _is_known(manifest):
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
