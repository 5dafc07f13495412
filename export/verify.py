"""The hook of ``splade-edge verify``: measure an artifact's parity again, where its source is at hand."""

from __future__ import annotations

from pathlib import Path

from ..models.checkpoint import OpenOptions, open_checkpoint
from ..models.layout import SIDES
from ..runtime.artifact import Artifact
from ..runtime.encoder import Encoder
from ..runtime.errors import CheckpointError
from .parity import measure, reference_vectors
from .texts import parity_texts


def repeat_parity(artifact: Artifact, source: str | None = None) -> str | None:
    """Compare every graph of ``artifact`` with PyTorch once more; returns None, or why that was not possible.

    ``source`` says where the checkpoint is now; by default it is looked for where the manifest says. It is used only if
    its weights have the SHA-256 the manifest names. Raises ParityError as the export would.
    """
    manifest = artifact.manifest
    spec = source or manifest.source.checkpoint
    if source is None and not Path(spec).is_dir():
        return f"its source {spec} is not a directory here; name it with --source"
    options = OpenOptions(
        revision=manifest.source.revision or None if not Path(spec).is_dir() else None,
        family=manifest.family,
        max_length=manifest.max_length,
    )
    side = next((s for s in SIDES if s == manifest.role), None)
    try:
        checkpoint = open_checkpoint(spec, side, options)
    except CheckpointError as error:
        return str(error)
    if checkpoint.weights_sha256 != manifest.source.weights_sha256:
        return f"{spec} has other weights than those this artifact was made from"
    reference = reference_vectors(checkpoint, parity_texts(), paired=False)
    for variant in manifest.variants:
        measure(Encoder(artifact, variant), reference, None)
    return None
