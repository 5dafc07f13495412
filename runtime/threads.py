"""How many threads to use, when the caller does not say."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import InputError

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")


def resolve_threads(threads: int | None) -> int:
    """``threads`` if it is a positive integer; for None the CPUs this process may use. Raises InputError."""
    if threads is None:
        return available_cpus()
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads is {threads!r}; give a whole number of at least 1")
    most = max(16, 8 * available_cpus())
    if threads > most:  # the engines start them all, and spin
        raise InputError(f"threads is {threads}; this process may use {available_cpus()} CPUs: give at most {most}")
    return threads


def available_cpus(quota_file: Path = _CGROUP_V2) -> int:
    """CPUs this process may use: its affinity mask, cut to a container's CPU quota (cgroup v2), at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS and Windows
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text(encoding="ascii").split()
        if quota != "max":
            cpus = min(cpus, -(-int(quota) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        pass  # no cgroup v2, or one we do not understand: the affinity mask stands
    return max(1, cpus)
