"""The console script: interrupts are one line from here on, also while the command line itself is loaded."""

from __future__ import annotations

from typing import NoReturn

from . import interrupts

interrupts.leave()


def run() -> NoReturn:
    """Run ``splade-edge`` with the arguments of the process."""
    from .main import run as run_command

    run_command()
