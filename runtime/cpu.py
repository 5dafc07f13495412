"""What this CPU can do, as far as quantized graphs depend on it."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
# An `isa` of a manifest -> what x86 needs for it, in the names of LLVM. Without VNNI, 8-bit weights times 8-bit
# activations saturate in 16 bits there; other architectures add such products up in 32 bits.
_NEEDS: dict[str, tuple[str, ...]] = {"any": (), "vnni": ("avx512vnni", "avxvnni")}


def is_known(isa: str) -> bool:
    """Whether this release knows an ``isa`` of a manifest."""
    return isa in _NEEDS


def supports(isa: str, features: frozenset[str] | None = None) -> bool:
    """Whether this CPU computes a graph for ``isa`` rightly. ``features``: LLVM's names; None asks this machine."""
    needed = _NEEDS.get(isa)
    if needed is None:
        return False
    if not needed or platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return not set(needed).isdisjoint(x86_features() if features is None else features)


@cache
def x86_features() -> frozenset[str]:
    """The instruction sets of this CPU in LLVM's names (``avx2``, ``avx512vnni``)."""
    try:  # what Linux says costs nothing; importing LLVM takes longer than a query
        lines = _CPUINFO.read_text(encoding="ascii", errors="replace").splitlines()
        flags = next(line for line in lines if line.startswith("flags"))
        return frozenset(flag.replace("_", "") for flag in flags.partition(":")[2].split())
    except (OSError, StopIteration):
        import llvmlite.binding

        return frozenset(name for name, present in llvmlite.binding.get_host_cpu_features().items() if present)
