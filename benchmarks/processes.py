"""Fresh processes, pinned to a core, and what they cost: CPU time, wall time, peak memory.

Not run by itself. Used by :mod:`benchmarks.__main__`, :mod:`benchmarks.filters`, :mod:`benchmarks.indexing` and
others.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# One thread everywhere: an engine that starts a pool of its own would not be compared on one core.
ONE_THREAD = dict.fromkeys((f"{pool}_NUM_THREADS" for pool in ("NUMBA", "OMP", "OPENBLAS", "MKL", "RAYON")), "1")


class ChildError(RuntimeError):
    """A child process failed; the message has the last line it said."""


@dataclass(frozen=True)
class Usage:
    """What a process used: seconds of CPU (user and system) and of wall time, peak resident memory in MB (10^6)."""

    cpu: float
    wall: float
    peak_mb: float
    output: str


def pinned(command: Sequence[str], cpu: int | None) -> list[str]:
    """Pin a command to one core, where the system has ``taskset``.

    Parameters
    ----------
    command : sequence of str
        The command.
    cpu : int or None
        The core; None leaves the command alone.

    Returns
    -------
    list of str
        The command to run.
    """
    return [*(("taskset", "-c", str(cpu)) if cpu is not None and can_pin() else ()), *command]


def can_pin() -> bool:
    """Whether processes can be pinned here (Linux)."""
    return hasattr(os, "sched_setaffinity")


def module(name: str, *arguments: str) -> list[str]:
    """The command that runs a module of this package in this interpreter.

    Parameters
    ----------
    name : str
        The module.
    *arguments : str
        Its arguments.

    Returns
    -------
    list of str
        The command.
    """
    return [sys.executable, "-m", f"benchmarks.{name}", *arguments]


def measure(command: Sequence[str], *, cpu: int | None = None, env: Mapping[str, str] | None = None) -> Usage:
    """Run a command to its end.

    Peak memory is the kernel's (``wait4``), which never says less than this process's own peak had at the fork. So
    callers stay small.

    Parameters
    ----------
    command : sequence of str
        The command.
    cpu : int, optional
        The core to pin it to.
    env : mapping of str to str, optional
        Its environment.

    Returns
    -------
    Usage
        Its output, CPU time, wall time and peak memory.

    Raises
    ------
    ChildError
        If the command fails.
    """
    start = time.perf_counter()
    with subprocess.Popen(
        pinned(command, cpu),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    ) as child:
        # Outputs are short: both fit the pipes, so reading one after the other cannot block.
        assert child.stdout is not None
        assert child.stderr is not None
        output, complaint = child.stdout.read(), child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        tail = (complaint or output).strip().splitlines()[-1:] or ["no output"]
        raise ChildError(f"{Path(command[0]).name} failed with {child.returncode}: {tail[0][:300]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Usage(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss * unit / 1e6, output)


def directory_mb(path: Path) -> float:
    """Add up the sizes of all files under a directory.

    Parameters
    ----------
    path : Path
        The directory.

    Returns
    -------
    float
        Megabytes (10^6 bytes).
    """
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) / 1e6
