"""Whether this CPU computes a quantized graph rightly."""

from __future__ import annotations

import platform

from ..artifact import Artifact, Variant
from ..errors import ArtifactError

# Features that an `isa` of a manifest needs on x86. Without VNNI, 8-bit weights times 8-bit activations saturate in 16
# bits there; other architectures do not have that instruction and add up in 32 bits.
_NEEDS = {"any": (), "vnni": ("avx512vnni", "avxvnni")}


def check_isa(artifact: Artifact, variant: Variant, features: frozenset[str] | None = None) -> None:
    """Raise ArtifactError if the graph is made for another CPU. ``features``: LLVM's names; None asks this machine."""
    if variant.isa not in _NEEDS:
        raise ArtifactError(f"{artifact.path} has a graph for {variant.isa!r} CPUs, unknown here; upgrade splade-edge")
    needed = _NEEDS[variant.isa]
    if not needed or platform.machine().lower() not in ("x86_64", "amd64"):
        return
    if features is None:
        features = host_features()
    if not any(feature in features for feature in needed):
        raise ArtifactError(
            f"{artifact.path}: its {variant.backend} {variant.precision} graph needs a CPU with {variant.isa.upper()}; "
            "use --precision fp32, or export with another --recipe"
        )


def host_features() -> frozenset[str]:
    """The instruction sets of this machine, by LLVM's names."""
    import llvmlite.binding

    return frozenset(name for name, present in llvmlite.binding.get_host_cpu_features().items() if present)
