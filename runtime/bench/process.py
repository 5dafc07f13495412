"""The process that measures, as its parent sees it. worker.py is the other end."""

from __future__ import annotations

import json
import subprocess
import sys
from types import TracebackType
from typing import Any

from ..errors import InputError, SpladeEdgeError


class Worker:
    """A process that measures, until the end of the block.

    Parameters
    ----------
    what
        What is measured, for error messages.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._process = subprocess.Popen(
            [sys.executable, "-m", "splade_edge.runtime.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,  # so that an interrupt from the terminal does not reach it: the parent ends it
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, do: str, **arguments: Any) -> Any:
        """Send a command and wait for its answer.

        Parameters
        ----------
        do
            The name of a method of :class:`.worker.Bench`.
        arguments
            Its arguments, as JSON values.

        Returns
        -------
        object
            Its answer, as JSON values.

        Raises
        ------
        InputError, SpladeEdgeError
            What the command has raised, or that the process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            raise SpladeEdgeError(
                f"the process that measured {self._what} ended with {code}; is there enough memory for it?"
            )
        reply = json.loads(line)
        if "error" in reply:
            kind = InputError if reply["exit_code"] == InputError.exit_code else SpladeEdgeError
            raise kind(reply["error"])
        return reply["answer"]
