"""``optimum-cli export splade``: the same command as ``splade-edge export``, found by optimum through its namespace.

optimum imports every module of ``optimum.commands.register`` when its command line starts, so nothing heavy is imported
here. It ignores what ``run`` returns; the exit code travels in SystemExit.
"""

from __future__ import annotations

import argparse

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand
from splade_edge.export.cli import command


class SpladeExportCommand(BaseOptimumCLICommand):  # type: ignore[misc]  # optimum has no type hints
    """Export a SPLADE checkpoint to an artifact of splade-edge."""

    COMMAND = CommandInfo(name="splade", help=command.help)

    @staticmethod
    def parse_args(parser: argparse.ArgumentParser) -> None:
        """Declare the arguments of ``splade-edge export``."""
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        command.add_arguments(parser)

    def run(self) -> None:
        """Export; exits with the code and the error line of ``splade-edge export``."""
        from splade_edge.runtime.cli.main import guarded

        raise SystemExit(guarded(lambda: command.run(self.args)))


REGISTER_COMMANDS = [(SpladeExportCommand, ExportCommand)]
