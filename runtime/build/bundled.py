"""The pair that an installation may carry: with the wheel of ``make dist`` indexing needs nothing more."""

from __future__ import annotations

from pathlib import Path

from ..artifact import MANIFEST_NAME
from ..errors import InputError

_DIRECTORY = Path(__file__).parents[1] / "pair"  # `make dist` puts it into runtime/


def bundled_pair() -> Path:
    """The directory of the exported pair inside this installation.

    Returns
    -------
    pathlib.Path
        A directory to open like any other exported pair.

    Raises
    ------
    InputError
        If this installation carries no pair.
    """
    if not (_DIRECTORY / MANIFEST_NAME).is_file():
        raise InputError(
            "this installation carries no pair of its own; name an exported one before the corpus: "
            "splade-edge index PAIR corpus.jsonl -o INDEX"
        )
    return _DIRECTORY
