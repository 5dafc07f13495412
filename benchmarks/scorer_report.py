"""Tables and plots of :mod:`benchmarks.scorer`.

Not run by itself. Used by :mod:`benchmarks.scorer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .engine import Engine
from .oracle import Verdict
from .report import Report

_OURS = "splade-edge"


@dataclass(frozen=True)
class Case:
    """One engine on one collection, query set and k. Times are milliseconds a query.

    ``mean``, ``p50`` and ``p99`` are over queries, of each query's median over the rounds; ``low`` and ``high`` are the
    smallest and largest mean of a round. ``best`` is the smaller of the mean and of the native batch call.
    """

    engine: str
    whole_numbers: bool
    exact: bool
    ordered: bool
    documents: int
    set: str
    k: int
    queries: int
    mean: float
    p50: float
    p99: float
    low: float
    high: float
    batch: float | None
    best: float
    agree: float
    identical: float
    recall: float

    @classmethod
    def of(
        cls, engine: type[Engine], documents: int, name: str, k: int, rounds: Sequence[Sequence[float]],
        batch: float | None, verdict: Verdict,
    ) -> Case:  # fmt: skip
        """Summarise the rounds; ``batch`` is in seconds a query."""
        queries = min(map(len, rounds))  # a slow engine may not have come through all within its budget
        times = np.array([r[:queries] for r in rounds]) * 1e3
        each = np.median(times, axis=0)
        mean = float(each.mean())
        batch_ms = None if batch is None else batch * 1e3
        return cls(
            engine=engine.name, whole_numbers=engine.whole_numbers, exact=engine.exact, ordered=engine.ordered,
            documents=documents, set=name, k=k, queries=queries, mean=mean, p50=float(np.median(each)),
            p99=float(np.percentile(each, 99)), low=float(times.mean(axis=1).min()),
            high=float(times.mean(axis=1).max()), batch=batch_ms,
            best=mean if batch_ms is None else min(mean, batch_ms),
            agree=verdict.agree, identical=verdict.identical, recall=verdict.recall,
        )  # fmt: skip


def reports(cases: Sequence[Case], built: Sequence[dict[str, Any]], notes: Sequence[str]) -> list[Report]:
    """A table a collection and query set, and one of sizes."""
    tables = []
    for documents, name in dict.fromkeys((case.documents, case.set) for case in cases):
        table = Report(
            f"{documents:,} documents, {name} queries: ms a query, one core",
            [
                ">k",
                "engine",
                ">mean",
                ">p50",
                ">p99",
                ">p99/mean",
                ">rounds",
                ">batch",
                ">x ours",
                ">agree",
                ">identical",
                ">recall",
                ">queries",
            ],
        )
        here = [case for case in cases if (case.documents, case.set) == (documents, name)]
        for k in dict.fromkeys(case.k for case in here):
            ours = next((case.best for case in here if case.k == k and case.engine == _OURS), None)
            for case in sorted((case for case in here if case.k == k), key=lambda case: case.best):
                table.rows.append(_row(case, ours))
        tables.append(table)
    if tables:
        tables[-1].notes += [*_LEGEND, *notes]
    sizes = Report("Indexes", ["documents", "engine", ">build s", ">disk MB", ">open s", ">resident MB", "version"])
    for engines in built:
        for name, facts in engines.items():
            sizes.rows.append(
                [
                    f"{facts['documents']:,}", name, f"{facts['build_seconds']:.1f}", f"{facts['disk_mb']:.0f}",
                    f"{facts['open_seconds']:.2f}", f"{facts['resident_mb']:.0f}", facts["version"],
                ]
            )  # fmt: skip
    sizes.notes.append(
        "Built in one process on the same core; ours stores empty documents too. Open: to the first answer, imports "
        "and kernels from the cache included, files in the page cache. MB are 10^6 bytes."
    )
    return [*tables, sizes]


_LEGEND = (
    "mean, p50, p99: over queries, of each query's median over the rounds, called from Python; rounds: smallest to "
    "largest mean of a round. batch: the engine's own call for many queries. x ours: the better of mean and batch over "
    "ours. * answers queries whose weights were rounded to whole numbers up to 32; † approximate.",
    "agree: lists with the exact scores within 1e-5 (for rounded queries: of those). identical: lists with the same "
    "documents in the same order and the same float64 scores as the NumPy oracle. recall: results that reach the k-th "
    "exact score. queries: how many were timed within the budget.",
)


def _row(case: Case, ours: float | None) -> list[str]:
    return [
        f"{case.k}",
        case.engine + ("*" if case.whole_numbers else "") + ("" if case.exact else " †"),
        f"{case.mean:.3f}",
        f"{case.p50:.3f}",
        f"{case.p99:.3f}",
        f"{case.p99 / case.mean:.1f}",
        f"{case.low:.3f}–{case.high:.3f}",
        "–" if case.batch is None else f"{case.batch:.3f}",
        f"{case.best / ours:.2f}" if ours else "–",
        f"{case.agree:.3f}",
        f"{case.identical:.3f}" if case.ordered else "–",
        f"{case.recall:.3f}",
        f"{case.queries}",
    ]


def plot(cases: Sequence[Case], output: Path) -> None:
    """``latency-k.png`` (a panel a collection and query set) and, with several sizes, ``latency-documents.png``."""
    output.mkdir(parents=True, exist_ok=True)
    sizes, ks = (sorted({getattr(case, name) for case in cases}) for name in ("documents", "k"))
    panels = [
        (f"{n:,} documents, {s}", [c for c in cases if (c.documents, c.set) == (n, s)]) for n in sizes for s in _SETS
    ]
    _figure(panels, "k", "k", output / "latency-k.png")
    if len(sizes) > 1:
        panels = [(f"k = {k}, {s}", [c for c in cases if (c.k, c.set) == (k, s)]) for k in ks for s in _SETS]
        _figure(panels, "documents", "documents", output / "latency-documents.png")


_SETS = ("short", "long")


def _figure(panels: Sequence[tuple[str, list[Case]]], x: str, label: str, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = -(-len(panels) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(10, 0.6 + 3.2 * rows), squeeze=False, sharex=True, sharey=True)
    engines = list(dict.fromkeys(case.engine for _, cases in panels for case in cases))
    engines.sort(key=lambda name: name != _OURS)
    for (title, cases), axis in zip(panels, axes.flat, strict=False):
        for number, engine in enumerate(engines):
            points = sorted((getattr(c, x), c.best) for c in cases if c.engine == engine)
            if points:
                axis.plot(
                    *zip(*points, strict=True), marker="o", markersize=4, color=f"C{number}",
                    linewidth=2.5 if engine == _OURS else 1.2, label=engine + _remark(cases, engine),
                )  # fmt: skip
        axis.set(title=title, xscale="log", yscale="log", xlabel=label, ylabel="ms a query, one core")
        axis.grid(visible=True, which="both", alpha=0.25)
    handles = {text: line for axis in axes.flat for line, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.tight_layout(rect=(0, 0.06 + 0.02 / rows, 1, 1))
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _remark(cases: Sequence[Case], engine: str) -> str:
    case = next(case for case in cases if case.engine == engine)
    return " (whole-number weights)" if case.whole_numbers else "" if case.exact else " (approximate)"
