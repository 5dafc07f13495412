"""Resident memory of this process. Imports next to nothing, so that it can be used where imports are measured."""

from __future__ import annotations


def memory_mb() -> tuple[float, float]:
    """(resident now, peak) in MB (10^6), from /proc; zeros where there is none."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123 - pathlib would be an import
            values = dict(line.split(":", 1) for line in file)
    except OSError:
        return 0.0, 0.0
    now, peak = (int(values[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))
    return now, peak
