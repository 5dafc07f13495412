"""The console script. From here on an interrupt is one line, also while the command line itself is loaded."""

from __future__ import annotations

from .early import leave

leave()
TYPE_CHECKING = False  # typing takes longer to import than all of this
if TYPE_CHECKING:
    from typing import NoReturn


def run() -> NoReturn:
    """Run ``splade-edge`` with the arguments of the process, and end the process."""
    from .main import run as run_command

    run_command()
