"""Interrupts before anything is loaded. This module imports nothing that takes time."""

from __future__ import annotations

import os
import signal

INTERRUPTED = 130
LINE = b"splade-edge: error: interrupted\n"


def leave() -> None:
    """From now on, while modules are loaded, an interrupt ends the process at once, with one line."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, on_interrupt)


def on_interrupt(number: int, frame: object) -> None:
    """The signal handler of :func:`leave`.

    Parameters
    ----------
    number, frame
        As of any signal handler; not used.
    """
    try:  # noqa: SIM105 - contextlib takes as long as the rest
        os.write(2, LINE)
    except OSError:  # standard error is closed
        pass
    os._exit(INTERRUPTED)
