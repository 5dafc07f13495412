"""Whether this CPU computes a quantized graph rightly."""

from __future__ import annotations

from ..artifact import Artifact, Variant
from ..cpu import is_known, supports
from ..errors import ArtifactError, export_again


def check_isa(artifact: Artifact, variant: Variant) -> None:
    """Raise ArtifactError if the graph is made for another CPU."""
    if not is_known(variant.isa):
        raise ArtifactError(f"{artifact.path} has a graph for {variant.isa!r} CPUs, unknown here; upgrade splade-edge")
    if not supports(variant.isa):
        raise ArtifactError(
            f"{artifact.path}: its {variant.backend} {variant.precision} graph needs a CPU with {variant.isa.upper()}; "
            f"use --precision fp32, or {export_again('--recipe BACKEND=NAME')}"
        )
