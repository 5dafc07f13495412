"""``splade-edge export``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from .options import add_export_arguments, request_from

if TYPE_CHECKING:
    from .exporter import ExportResult


class ExportCommand:
    """Thin: reads options, shows progress, prints the parity table. A ``Command`` of :mod:`splade_edge.runtime.cli`."""

    help = "export a checkpoint or a pair to ONNX and OpenVINO, compared with its library"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the arguments."""
        add_export_arguments(parser)

    def run(self, args: argparse.Namespace) -> int:
        """Export, and print the parity table to standard output."""
        from ..runtime.cli.console import finished
        from ..runtime.cli.progress import Progress
        from .request import check_request

        request = request_from(args)
        check_request(request)  # before PyTorch is loaded, which takes seconds
        from .exporter import export

        share = [0.0]
        with Progress("exporting", "step", lambda: share[0]) as bar:

            def step(done: int, total: int, what: str) -> None:
                share[0] = done / total
                bar.phase(what)
                bar.update(done)

            result = export(request, step)
        with finished(f"{result.path} is written"):
            _show(result)
        return 0


def _show(result: ExportResult) -> None:
    from ..runtime.cli.console import cell, new_console, new_table, warn, write_out
    from .card import CHOICE_COLUMNS, COLUMNS, choice_rows, parity_rows

    # The witness is the same in every row of a side: it stands below the table, which has no room for it.
    table = new_table(*(name if place < 4 else f">{name}" for place, name in enumerate(COLUMNS[:-1])))
    for row in parity_rows(result.report.graphs):
        table.add_row(*map(cell, row[:-1]))
    new_console().print(table)
    named = dict.fromkeys(witness.name for witness in result.report.witnesses)
    write_out(
        "compared with "
        + "; ".join(
            f"{name} ({', '.join(w.role for w in result.report.witnesses if w.name == name)})" for name in named
        )
    )
    if result.report.choice:
        tried = new_table(*(f">{name}" if 2 < place < 8 else name for place, name in enumerate(CHOICE_COLUMNS)))
        for row in choice_rows(result.report.choice):
            tried.add_row(*map(cell, row))
        new_console().print(tried)
    sys.stdout.flush()
    for note in result.notes:
        warn("note", note)
    write_out(f"wrote {result.path}")


command = ExportCommand()
