"""The machine that figures were measured on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ..cpu import x86_features
from ..threads import available_cpus
from ..version import VERSION

_ISA = ("avx2", "avx512f", "avx512bf16", "avx512vnni", "avxvnni", "amx-int8", "neon", "dotprod", "i8mm", "sve")
_PACKAGES = ("numpy", "numba", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Machine:
    """The machine that figures were measured on.

    Attributes
    ----------
    cpu
        The model of the CPU.
    cores
        Its cores.
    cpus
        CPUs that this process may use.
    isa
        Instruction sets that matter here.
    load
        Processes that wanted a CPU in the minute before; None if the system does not tell.
    memory_gib
        Memory in GiB.
    system
        Operating system, architecture and Python.
    versions
        Versions of this package and of the libraries it uses.
    """

    cpu: str
    cores: int
    cpus: int
    isa: list[str]
    load: float | None
    memory_gib: float
    system: str
    versions: dict[str, str]

    def line(self) -> str:
        """One line for under a table.

        Returns
        -------
        str
            The machine.
        """
        load = "unknown" if self.load is None else f"{self.load:.1f}"
        parts = [
            f"{self.cpu}, {self.cpus} of {self.cores} cores, {self.memory_gib:.0f} GiB",
            " ".join(self.isa) or "no vector instructions that we know",
            f"load {load} before",
            self.system,
            ", ".join(f"{name} {version}" for name, version in self.versions.items()),
        ]
        return "; ".join(parts)


def this_machine() -> Machine:
    """Describe the machine as it is now.

    Returns
    -------
    Machine
        The machine.
    """
    found = x86_features()
    return Machine(
        cpu=_cpu_model(),
        cores=os.cpu_count() or 1,
        cpus=available_cpus(),
        isa=[name for name in _ISA if name in found],
        load=_load(),
        memory_gib=_memory_gib(),
        system=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        versions={"splade-edge": VERSION, **_versions()},
    )


def memory_mb() -> tuple[float, float]:
    """Resident memory of this process.

    Returns
    -------
    (float, float)
        Now and at most, in MB (10^6 bytes); zeros if /proc does not tell.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0, 0.0
    values = dict(line.split(":", 1) for line in lines)
    now, most = (int(values[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))
    return now, most


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None


def _memory_gib() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return 0.0


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
