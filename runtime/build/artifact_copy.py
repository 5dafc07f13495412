"""Copying an artifact, or some of its graphs, into an index."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from ..artifact import Artifact, Variant, open_artifact, variant_files, write_artifact_manifest
from ..errors import ArtifactError, export_again
from ..files import safe_join


def copy_artifact(artifact: Artifact, destination: Path, keep: Callable[[Variant], bool]) -> Artifact:
    """Copy an artifact with some of its graphs, under a manifest that lists just these.

    Parameters
    ----------
    artifact
        What is copied.
    destination
        A directory; it is made if it is not there.
    keep
        Whether a graph is copied.

    Returns
    -------
    Artifact
        The copy, opened.

    Raises
    ------
    ArtifactError
        If no graph is copied.
    """
    variants = [v for v in artifact.manifest.variants if keep(v)]
    if not variants:
        raise ArtifactError(
            f"{artifact.path} has no graph of the precision asked for; {export_again('--int8')}, or with --fp32"
        )
    left_out = {name for v in artifact.manifest.variants if v not in variants for name in variant_files(v)}
    for name in artifact.manifest.files:
        if name not in left_out:
            target = safe_join(destination, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(artifact.file(name), target)
    write_artifact_manifest(destination, msgspec.structs.replace(artifact.manifest, variants=variants))
    return open_artifact(destination)
