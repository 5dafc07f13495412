"""Progress of long work on standard error: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from .console import human_seconds, new_console, plural, write_err

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Counts items and estimates the end. A context manager.

    Parameters
    ----------
    what
        What is being done.
    unit
        The noun of an item, in the singular.
    fraction
        Returns the share that is done, 0 to 1; None if it is unknown.
    """

    def __init__(self, what: str, unit: str, fraction: Callable[[], float | None]) -> None:
        self._what = what
        self._unit = unit
        self._fraction = fraction
        self._started = self._last_line = time.monotonic()
        self._bar: RichProgress | None = None

    def __enter__(self) -> Progress:
        if sys.stderr is not None and sys.stderr.isatty():
            from rich import progress as rich_progress

            self._bar = rich_progress.Progress(
                rich_progress.TextColumn("{task.description}", markup=False),
                rich_progress.BarColumn(),
                rich_progress.TextColumn("{task.fields[state]}", markup=False),
                console=new_console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(self._what, total=None, state="")
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            with self._visible():
                self._bar.stop()

    def update(self, done: int) -> None:
        """Show how many items are done.

        Parameters
        ----------
        done
            Items so far.
        """
        if self._bar is not None:
            fraction = self._fraction()
            with self._visible():
                self._bar.update(
                    self._task, total=None if fraction is None else 1.0, completed=fraction, state=self._state(done)
                )
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            write_err(f"{self._what}: {self._state(done)}\n")

    def phase(self, what: str) -> None:
        """Name the next step. Its items are counted by :meth:`update` too.

        Parameters
        ----------
        what
            What is being done now.
        """
        self._what = what
        if self._bar is not None:
            with self._visible():
                self._bar.update(self._task, description=what)

    @contextlib.contextmanager
    def _visible(self) -> Iterator[None]:
        """Draw the bar. If its terminal has gone, the work goes on without it."""
        try:
            yield
        except OSError:
            self._bar = None

    def _state(self, done: int) -> str:
        elapsed = time.monotonic() - self._started
        fraction = self._fraction()
        state = plural(done, self._unit)
        if elapsed > 1:
            state += f", {done / elapsed:,.1f}/s"
        if fraction is not None:
            state += f", {fraction:.0%}"
            if elapsed > 3 and 0 < fraction < 1:
                state += f", about {human_seconds(elapsed * (1 - fraction) / fraction)} left"
        return state
