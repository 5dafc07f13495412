"""From process start to the first answer: CPU time, wall time, peak memory, and which step takes them.

The command ``splade-edge search`` is run as a user runs it, in fresh processes: as it pleases (with a small index that
is in NumPy), and with Numba's kernels, whose disk cache is filled (warm) or empty (cold). Then the same steps are timed
one by one. Files are in the system's page cache throughout.

Command: ``python -m benchmarks.startup INDEX --python ENV/bin/python``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from .processes import ChildError, Usage, measure, module
from .report import Report, add_report_arguments, publish, say

_AS_IT_PLEASES, _WARM, _COLD = "as it pleases", "kernels, warm", "kernels, cold"
# The command with kernels from the start.
_KERNELS = (
    "from splade_edge.runtime import use_kernels; use_kernels(); from splade_edge.runtime.cli.main import run; run()"
)
_NAMES = {"kernel": "our kernels", "onnx": "ONNX Runtime", "openvino": "OpenVINO"}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("index", metavar="DIR", help="an index that carries a query encoder")
    parser.add_argument(
        "--python",
        default=sys.executable,
        metavar="FILE",
        help="interpreter of an environment with the runtime alone (Numba imports SciPy where it can; default: this)",
    )
    parser.add_argument("--query", default="which country rationed gasoline")
    parser.add_argument("--query-encoder", metavar="DIR", help="for an index without one")
    parser.add_argument("--backend", default="kernel,onnx,openvino", metavar="LIST")
    parser.add_argument(
        "--repeat", type=int, default=7, metavar="N", help="processes for each figure; medians are shown"
    )
    parser.add_argument(
        "--cold", type=int, default=1, metavar="N", help="processes that compile all kernels, some 10 s each; 0: none"
    )
    parser.add_argument("--cpu", type=int, metavar="N", help="pin to this core (default: not pinned)")
    add_report_arguments(parser)
    args = parser.parse_args(argv)
    notes, results = [], {}
    for backend in args.backend.split(","):
        for way in (_AS_IT_PLEASES, _WARM, *([_COLD] if args.cold else [])):
            say(f"{backend}, {way}")
            try:
                results[f"{backend}: {way}"] = _run(args, backend, way)
            except ChildError as error:
                notes.append(f"{_NAMES[backend]} is left out: {error}")
                break
    totals, steps = _totals(results), _steps(results)
    versions: dict[str, str] = next((result["versions"] for result in results.values()), {})
    steps.notes.append("Environment: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".")
    steps.notes += notes
    publish(args, "startup", [totals, steps], results)


def _run(args: argparse.Namespace, backend: str, way: str) -> dict[str, Any]:
    extra = ["--backend", backend] + (["--query-encoder", args.query_encoder] if args.query_encoder else [])
    program = ["-m", "splade_edge.runtime.cli.main"] if way == _AS_IT_PLEASES else ["-c", _KERNELS]
    search = [args.python, *program, "search", args.index, args.query, *extra]
    flag = [] if way == _AS_IT_PLEASES else ["--kernels"]
    stages = [args.python, *module("startup_stages", args.index, args.query, *flag, *extra)[1:]]
    with ExitStack() as stack:

        def place() -> str:
            return stack.enter_context(tempfile.TemporaryDirectory())

        shared = place()
        whole = _repeat(search, args, place if way == _COLD else lambda: shared, way)
        parts = [] if way == _COLD else _repeat(stages, args, lambda: shared, way)
    runs = [json.loads(usage.output.splitlines()[-1]) for usage in parts]
    steps = [
        {"step": rows[0]["step"], **{x: statistics.median(r[x] for r in rows) for x in ("cpu", "wall", "resident_mb")}}
        for rows in zip(*(run["steps"] for run in runs), strict=True)
    ]
    return {
        **{x: statistics.median(getattr(usage, x) for usage in whole) for x in ("cpu", "wall", "peak_mb")},
        "cpu_range": [min(u.cpu for u in whole), max(u.cpu for u in whole)],
        "steps": steps,
        "versions": runs[0]["versions"] if runs else {},
    }


def _repeat(command: Sequence[str], args: argparse.Namespace, cache: Callable[[], str], way: str) -> list[Usage]:
    if way != _COLD:  # a run that fills the cache
        measure(command, cpu=args.cpu, env={"NUMBA_CACHE_DIR": cache()})
    times = args.cold if way == _COLD else args.repeat
    return [measure(command, cpu=args.cpu, env={"NUMBA_CACHE_DIR": cache()}) for _ in range(times)]


def _totals(results: dict[str, dict[str, Any]]) -> Report:
    table = Report(
        "splade-edge search: process start to exit, one query",
        ["engine", "scorer and decoder", ">CPU s", ">lowest–highest", ">wall s", ">peak MB"],
    )
    for key, result in results.items():
        backend, way = key.split(": ")
        low, high = result["cpu_range"]
        table.rows.append(
            [
                _NAMES[backend], way, f"{result['cpu']:.2f}", f"{low:.2f}–{high:.2f}", f"{result['wall']:.2f}",
                f"{result['peak_mb']:.0f}",
            ]
        )  # fmt: skip
    return table


def _steps(results: dict[str, dict[str, Any]]) -> Report:
    table = Report(
        "The same, step by step: CPU ms / resident MB after the step",
        ["step", *(f">{_NAMES[key.split(': ')[0]]}, {key.split(': ')[1]}" for key in results if _COLD not in key)],
    )
    columns = [result["steps"] for key, result in results.items() if _COLD not in key]
    for rows in zip(*columns, strict=True):
        table.rows.append([rows[0]["step"], *(f"{1e3 * row['cpu']:.1f} / {row['resident_mb']:.0f}" for row in rows)])
    totals = [sum(row["cpu"] for row in steps) * 1e3 for steps in columns]
    table.rows.append(["sum", *(f"{total:.0f}" for total in totals)])
    table.notes.append(
        "Medians. The steps call the same functions in the same order in a process of their own; the command also "
        "parses its arguments, prints a table with rich, and shuts the interpreter down. MB are 10^6 bytes."
    )
    return table


if __name__ == "__main__":
    main()
