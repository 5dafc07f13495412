"""What all backends need to read the file of a graph, and to check what the graph takes and gives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..artifact import INPUT_NAMES
from ..errors import ArtifactError, export_again
from ..files import NOT_THERE, reading


@contextmanager
def reading_graph(path: Path, wrong: str = "") -> Iterator[None]:
    """Turn errors of reading a graph's file into ours.

    Parameters
    ----------
    path : Path
        The file that is read inside the ``with`` block.
    wrong : str
        The message for a file that is not what it should be. The block says so by raising ValueError.

    Raises
    ------
    StorageError
        If the system refuses to read the file.
    ArtifactError
        If the file is gone, or if the block raises ValueError.
    """
    try:
        with reading(path):
            yield
    except NOT_THERE as error:
        raise ArtifactError(f"cannot read {path} ({error.strerror}); {export_again()}") from None
    except ValueError:
        raise ArtifactError(f"{wrong}; {export_again()}") from None


def is_utf8(path: Path) -> bool:
    """Whether an engine can be given the path. Engines take paths in UTF-8 only."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def check_names(path: Path, inputs: list[str], outputs: list[str], *, expected: tuple[str, ...]) -> None:
    """Check the names of a graph's inputs and outputs.

    Parameters
    ----------
    path : Path
        The graph's file, for the message.
    inputs, outputs : list of str
        The names that the graph has.
    expected : tuple of str
        The outputs it must have. Its inputs must be ``INPUT_NAMES``.

    Raises
    ------
    ArtifactError
        If a name is missing, or if there is another input.
    """
    if sorted(inputs) != sorted(INPUT_NAMES) or not set(expected) <= set(outputs):
        raise ArtifactError(
            f"{path} takes {', '.join(inputs)} and gives {', '.join(outputs)}, not {', '.join(INPUT_NAMES)} and "
            f"{', '.join(expected)}; {export_again()}"
        )
