"""The hook of ``splade-edge check``: measure an artifact's parity again, where its source is at hand."""

from __future__ import annotations

from pathlib import Path

from ..runtime.artifact import Artifact
from ..runtime.cpu import supports
from ..runtime.encoder import Encoder
from ..runtime.errors import CheckpointError
from .parity import measure, reference_vectors
from .reopen import reopen
from .texts import parity_texts
from .witness import open_witness


def repeat_parity(artifact: Artifact, source: str | None = None) -> str | None:
    """Compare every graph of an artifact with its witness once more.

    Parameters
    ----------
    artifact : Artifact
        The exported encoder.
    source : str, optional
        Where the checkpoint is now. By default it is looked for where the manifest says. It is used only if its weights
        have the SHA-256 that the manifest names.

    Returns
    -------
    str or None
        None if the comparison was made, else why it was not possible.

    Raises
    ------
    ParityError
        As in an export.
    """
    manifest = artifact.manifest
    spec = source or manifest.source.checkpoint
    if source is None and not Path(spec).is_dir():
        return f"its source {spec} is not a directory here; name it with --source"
    try:
        checkpoint = reopen(artifact, spec)
    except CheckpointError as error:
        return str(error)
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
