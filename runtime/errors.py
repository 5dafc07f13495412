"""Every error splade-edge raises on purpose. Each message is one line that names the fix.

The command line prints the message and leaves with ``exit_code``; a traceback means a defect.
"""

from __future__ import annotations

from typing import ClassVar

INDEX_AGAIN = "index again (splade-edge index ARTIFACT CORPUS -o DIR)"


def export_again(flags: str = "") -> str:
    """How an error asks to make an artifact anew: the command, with the ``flags`` that are meant."""
    return f"export it again (splade-edge export CHECKPOINT -o DIR{' ' * bool(flags)}{flags})"


class SpladeEdgeWarning(UserWarning):
    """Something works, but not as well as it could; the message says how to mend it."""


class SpladeEdgeError(Exception):
    """Base of all errors raised on purpose."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str = "") -> None:
        # What it quotes (a name in a manifest, the words of a library) may have line ends.
        super().__init__(" ".join(message.splitlines()))


class InputError(SpladeEdgeError):
    """The caller gave something that cannot be used: an option, a path, a query, a vector."""

    exit_code = 2


class CorpusError(InputError):
    """A line of a corpus, query or qrels file cannot be used; the message has file and line number."""


class CheckpointError(InputError):
    """A checkpoint is not a SPLADE encoder that can be opened as asked."""


class MissingExtraError(InputError):
    """An optional dependency is not installed; the message has the install command."""

    def __init__(self, what: str, extra: str) -> None:
        command = f"pip install 'splade-edge[{extra}]' (in a clone: pip install '.[{extra}]')"
        super().__init__(f"{what} needs the [{extra}] extra: {command}")


class ArtifactError(SpladeEdgeError):
    """An exported encoder is missing, of another role or version, or cannot run here."""

    exit_code = 2


class IndexFormatError(SpladeEdgeError):
    """An index directory is missing, incomplete, or of a version this release cannot read."""

    exit_code = 2


class IndexLockedError(SpladeEdgeError):
    """Another process is changing the index; readers are not kept from it."""


class IndexReplacedError(SpladeEdgeError):
    """The directory, the lock or the manifest of an open index is not the one any more that was opened."""


class IntegrityError(SpladeEdgeError):
    """A file of an artifact or an index is not the file its manifest describes."""


class ExportError(SpladeEdgeError):
    """A checkpoint cannot be turned into a graph, or a graph into its int8 form."""


class ParityError(SpladeEdgeError):
    """An exported graph does not compute what PyTorch computes.

    Attributes: ``output`` (role/backend/precision), ``error`` (max abs difference), ``text`` (where it occurred).
    """

    def __init__(self, message: str, *, output: str, error: float, text: str) -> None:
        super().__init__(message)
        self.output = output
        self.error = error
        self.text = text


class StorageError(SpladeEdgeError):
    """The operating system refused to read or to write (no permission, disk full, too many open files). Nothing is said
    of what lies there: it may well be whole.
    """

    @property
    def errno(self) -> int | None:
        """The system's number of the error, as in :mod:`errno`; None where it gave none."""
        return getattr(self.__cause__, "errno", None)
