"""Runs side by side: ``python -m splade_edge.models.training.compare DIR...`` prints their last figures as a table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ...runtime.errors import InputError
from .loop import LOG_FILE


def last_figures(directory: Path) -> dict[str, float]:
    """Read the newest evaluation in a run's log.

    Parameters
    ----------
    directory : Path
        The run's directory.

    Returns
    -------
    dict of str to float
        The figures, with the step they were made at.

    Raises
    ------
    InputError
        If there is no log with an evaluation.
    """
    try:
        lines = (directory / LOG_FILE).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{directory} is not the directory of a run: {error}") from None
    entries = [json.loads(line) for line in lines if line.endswith("}")]  # a kill cuts the last line short
    evaluated = [entry for entry in entries if any(key.startswith("ndcg/") for key in entry)]
    if not evaluated:
        raise InputError(f"{directory} has no evaluation yet")
    newest: dict[str, float] = evaluated[-1]
    return newest


def table(directories: Sequence[Path]) -> str:
    """Compare runs in a table.

    Parameters
    ----------
    directories : sequence of Path
        The directories of the runs.

    Returns
    -------
    str
        Markdown, a row for each run: step, nDCG@10 of each probe and their mean, mean terms of queries and documents.
    """
    names = [directory.name for directory in directories]
    if len(set(names)) < len(names):
        names = list(map(str, directories))
    figures = dict(zip(names, map(last_figures, directories), strict=True))
    sets = sorted({key.partition("/")[2] for entry in figures.values() for key in entry if key.startswith("ndcg/")})
    rows = [["run", "step", *sets, "mean", "query terms", "document terms"]]
    for name, entry in figures.items():
        values = [entry[f"ndcg/{s}"] for s in sets if f"ndcg/{s}" in entry]
        cells = [f"{entry[f'ndcg/{s}']:.3f}" if f"ndcg/{s}" in entry else "–" for s in sets]
        terms = [_mean(entry, f"{side} terms/") for side in ("query", "document")]
        mean = f"{sum(values) / len(values):.3f}" if values else "–"
        rows.append([name, f"{entry['step']:.0f}", *cells, mean, *terms])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def _mean(entry: dict[str, float], prefix: str) -> str:
    values = [value for key, value in entry.items() if key.startswith(prefix)]
    return f"{sum(values) / len(values):.1f}" if values else "–"


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The command line."""
    from ...runtime.cli.console import write_out
    from ...runtime.cli.main import guarded

    parser = argparse.ArgumentParser(prog="python -m splade_edge.models.training.compare", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="DIR", help="directories of runs")
    args = parser.parse_args(argv)

    def action() -> int:
        write_out(table(args.runs))
        return 0

    sys.exit(guarded(action))


if __name__ == "__main__":
    main()
