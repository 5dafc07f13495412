"""What the libraries of others throw, as errors of ours that name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ArtifactError, SpladeEdgeError

_OURS = (SpladeEdgeError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)


@contextmanager
def tokenizers_errors(path: Path) -> Iterator[None]:
    """Turn whatever the ``tokenizers`` library throws into an ArtifactError of one line: it raises plain Exception, and
    a panic of its Rust code is a BaseException.
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
