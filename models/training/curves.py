"""A run's log as a picture: loss, sparsity and nDCG@10 over the steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from .loop import LOG_FILE

CURVES_FILE = "curves.png"
_LOSSES = (
    "loss",
    "contrastive",
    "distillation",
    "imitation",
    "masked tokens",
    "query penalty",
    "document penalty",
)


def draw_curves(directory: Path) -> Path:
    """Draw ``curves.png`` from a run's log.

    Parameters
    ----------
    directory : Path
        The run's directory.

    Returns
    -------
    Path
        The picture.
    """
    from matplotlib.figure import Figure

    lines = (directory / LOG_FILE).read_text(encoding="utf-8").splitlines()
    entries: list[dict[str, float]] = [json.loads(line) for line in lines if line.endswith("}")]
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    losses, terms, quality = figure.subplots(1, 3)
    for name in _LOSSES:
        _draw(losses, entries, name, name, smooth=25)
    losses.set(title="loss (mean of 25 steps)", xlabel="step", yscale="log")
    for name in ("query terms", "document terms"):
        _draw(terms, entries, name, name, smooth=25)
    terms.set(title="terms of a text", xlabel="step", yscale="log")
    for name in sorted({key for entry in entries for key in entry if key.startswith("ndcg/")}):
        _draw(quality, entries, name, name.removeprefix("ndcg/"), marker="o")
    quality.set(title="nDCG@10 of held-out queries", xlabel="step")
    for axes in (losses, terms, quality):
        if axes.lines:
            axes.legend(fontsize="small", frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(directory / CURVES_FILE, dpi=120)
    return directory / CURVES_FILE


def _draw(
    axes: object, entries: Sequence[dict[str, float]], key: str, label: str, smooth: int = 1, marker: str = ""
) -> None:
    points = [(entry["step"], entry[key]) for entry in entries if key in entry]
    if len(points) < 2 or not any(value > 0 for _, value in points):
        return
    steps, values = zip(*points, strict=True)
    means = [sum(part) / len(part) for i in range(len(values)) if (part := values[max(0, i + 1 - smooth) : i + 1])]
    axes.plot(steps, means, label=label, marker=marker)  # type: ignore[attr-defined]
