"""The console script: interrupts are one line from here on, also while the command line itself is loaded."""

from __future__ import annotations

from .early import leave

leave()
TYPE_CHECKING = False  # typing takes longer to import than all of this
if TYPE_CHECKING:
    from typing import NoReturn


def run() -> NoReturn:
    """Run ``splade-edge`` with the arguments of the process."""
    from .main import run as run_command

    run_command()
