"""What every benchmark leaves: a table on the terminal, the same in Markdown, and a JSON log with the machine.

Not run by itself. Used by :mod:`benchmarks.__main__`, :mod:`benchmarks.bounds`, :mod:`benchmarks.choice` and others.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

_PACKAGES = (
    *("splade-edge", "numpy", "numba", "llvmlite", "scipy", "onnxruntime", "openvino", "tokenizers", "torch"),
    *("transformers", "splade-index", "pyterrier-pisa", "bmp", "pyseismic-lsr", "pystemmer", "ir-measures"),
)


@dataclass
class Report:
    """A table: ``columns`` with a leading ``>`` are right-aligned, ``notes`` stand under it."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def print(self) -> None:
        """To the terminal."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in self.columns:
            table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        out = console()
        out.print()
        out.print(self.title, style="bold")
        out.print(table)
        for note in self.notes:
            out.print(note, style="dim")

    def markdown(self) -> str:
        """As Markdown."""
        lines = [f"### {self.title}", ""]
        lines.append("| " + " | ".join(c.lstrip(">") for c in self.columns) + " |")
        lines.append("| " + " | ".join("---:" if c.startswith(">") else "---" for c in self.columns) + " |")
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        for note in self.notes:
            lines += ["", note]
        return "\n".join(lines) + "\n"


def console() -> Console:
    """A console on standard output that takes nothing for markup; wide where the output is a file."""
    return Console(width=None if sys.stdout.isatty() else 200, markup=False, highlight=False, emoji=False)


def say(message: str) -> None:
    """Write one line of progress to standard error.

    Parameters
    ----------
    message : str
        The line.
    """
    Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True).print(message, style="dim")


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``--json`` and ``--markdown``.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        The parser of a benchmark.
    """
    parser.add_argument("--json", type=Path, metavar="FILE", help="write settings, machine and all results as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as Markdown")


def publish(args: argparse.Namespace, name: str, reports: Sequence[Report], results: Any, shown: int = 0) -> None:
    """Print tables, and write the files that were asked for.

    Parameters
    ----------
    args : argparse.Namespace
        What a parser with :func:`add_report_arguments` has read.
    name : str
        The name of the benchmark.
    reports : sequence of Report
        The tables.
    results : object
        All results, for the JSON log.
    shown : int
        How many of the tables were printed before.
    """
    for report in reports[shown:]:
        report.print()
    console().print(machine_line(), style="dim")
    if args.markdown:
        args.markdown.parent.mkdir(parents=True, exist_ok=True)
        text = "\n".join(report.markdown() for report in reports)
        args.markdown.write_text(f"{text}\n{machine_line()}\n", encoding="utf-8")
    if args.json:
        settings = {k: v if isinstance(v, int | float | list) else str(v) for k, v in vars(args).items()}
        write_json(args.json, {"benchmark": name, "settings": settings, **environment(), "results": results})


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file in one step, so that a killed run leaves no half log.

    Parameters
    ----------
    path : Path
        The file.
    value : object
        What it holds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    staged.write_text(json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    staged.replace(path)


def environment() -> dict[str, Any]:
    """Machine, Python, versions of what is installed, and the time (UTC)."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "memory_gib": memory_gib(), "os": platform.platform()},
        "python": platform.python_version(),
        "versions": versions(_PACKAGES),
    }


def machine_line() -> str:
    """The machine in one line, for under a table."""
    versions_ = versions(("numpy", "numba", "onnxruntime", "openvino"))
    parts = [f"{cpu_model()}, {os.cpu_count()} cores, {memory_gib():.0f} GiB", f"Python {platform.python_version()}"]
    return "; ".join(parts + [f"{name} {version}" for name, version in versions_.items()]) + "."


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Find the versions of packages.

    Parameters
    ----------
    packages : iterable of str
        Their names.

    Returns
    -------
    dict of str to str
        The versions of those that are installed.
    """
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def cpu_model() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def memory_gib() -> float:
    """Physical memory, 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return 0.0
