"""Exceptions of other libraries (tokenizers, ONNX Runtime, OpenVINO) as errors of ours that name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import ArtifactError, SpladeEdgeError, export_again
from ..files import NOT_THERE, OpenFile

_OURS = (SpladeEdgeError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)


@contextmanager
def tokenizers_errors(path: Path) -> Iterator[None]:
    """Turn what the ``tokenizers`` library raises inside the ``with`` block into an ArtifactError of one line.

    The library raises plain Exception, and a panic of its Rust code is a BaseException.

    Parameters
    ----------
    path : Path
        The tokenizer's file, for the message.

    Raises
    ------
    ArtifactError
        If the library raises anything. Our own errors, interrupts and MemoryError pass through.
    """
    try:
        yield
    except _OURS:
        raise
    except BaseException as error:
        raise ArtifactError(
            f"{path} is not a tokenizer this release of tokenizers reads ({first_line(error)}); export it again, or "
            "upgrade tokenizers"
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def load_error(path: Path, engine: str, error: Exception) -> ArtifactError:
    """The error for a graph that an engine does not load.

    Parameters
    ----------
    path : Path
        The graph's file.
    engine : str
        Name and version of the engine.
    error : Exception
        What the engine raised.

    Returns
    -------
    ArtifactError
        To be raised by the caller.

    Raises
    ------
    StorageError
        If the file cannot be opened here either: then the system is at fault, not the graph.
    """
    with suppress(*NOT_THERE):
        OpenFile(path).close()
    return ArtifactError(f"{path} does not load in {engine} ({_last_line(error)}); upgrade it, or {export_again()}")


def run_error(path: Path, error: Exception) -> ArtifactError:
    """The error for a graph from ``path`` that fails while it encodes; ``error`` is what the engine raised."""
    return ArtifactError(f"{path} failed while encoding ({_last_line(error)}); try another backend or precision")


def _last_line(error: Exception) -> str:
    """The last line of an engine's message, which says the most; at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
