"""Which instruction sets this CPU has, as far as quantized graphs depend on them."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
# An `isa` of a manifest -> what x86 needs for it, in the names of LLVM. Without VNNI, 8-bit weights times 8-bit
# activations saturate in 16 bits there; other architectures add such products up in 32 bits.
_NEEDS: dict[str, tuple[str, ...]] = {"any": (), "vnni": ("avx512vnni", "avxvnni")}


def is_known(isa: str) -> bool:
    """Return whether this release knows an ``isa`` of a manifest."""
    return isa in _NEEDS


def supports(isa: str, features: frozenset[str] | None = None) -> bool:
    """Return whether a CPU computes a quantized graph correctly.

    Parameters
    ----------
    isa
        The ``isa`` of a manifest: what the graph was quantized for.
    features
        Instruction sets of the CPU in LLVM's names. None: of this machine.

    Returns
    -------
    bool
        False also for an ``isa`` that this release does not know.
    """
    needed = _NEEDS.get(isa)
    if needed is None:
        return False
    if not needed or platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return not set(needed).isdisjoint(x86_features() if features is None else features)


@cache
def x86_features() -> frozenset[str]:
    """Return the instruction sets of this CPU in LLVM's names (``avx2``, ``avx512vnni``)."""
    try:  # reading Linux's list is fast; importing LLVM takes longer than a query
        lines = _CPUINFO.read_text(encoding="ascii", errors="replace").splitlines()
        flags = next(line for line in lines if line.startswith("flags"))
        return frozenset(flag.replace("_", "") for flag in flags.partition(":")[2].split())
    except (OSError, StopIteration):
        import llvmlite.binding

        return frozenset(name for name, present in llvmlite.binding.get_host_cpu_features().items() if present)
