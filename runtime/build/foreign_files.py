"""Which files in a directory of ours belong to it. Foreign files must not be lost when the directory is replaced."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from ..artifact import MANIFEST_NAME as ARTIFACT_MANIFEST
from ..errors import InputError
from ..files import STAGING_PREFIX, cannot_read, reading
from ..index.layout import DOCUMENTS_FILE, FIELDS_FILE, LOCK_NAME, MANIFEST_NAME, SCRATCH, SEGMENT_ARRAYS, SEGMENTS, TOMBSTONES

# The names that we give. Files that a killed writer has left belong to the index too.
_OF_SEGMENTS = "|".join(map(re.escape, (*SEGMENT_ARRAYS, DOCUMENTS_FILE, FIELDS_FILE, *SCRATCH)))
_OURS = re.compile(
    rf"{re.escape(MANIFEST_NAME)}|{re.escape(LOCK_NAME)}|{re.escape(STAGING_PREFIX + MANIFEST_NAME)}\.\w+"
    rf"|{SEGMENTS}/\d{{8}}[-\d]*/(?:{_OF_SEGMENTS})(?:/(?:sketches|\d+\.postings))?|{TOMBSTONES}/\d{{8}}[-.\d]*"
)
_ENCODERS = ("encoder/query", "encoder/document")
_NAMED = 5


def refuse_foreign_to_index(path: Path) -> None:
    """Refuse to replace an index directory that holds files that are not of an index. Links always count as such.

    Parameters
    ----------
    path
        The index directory.

    Raises
    ------
    InputError
        If there are foreign files; the message names them.
    StorageError
        If some files cannot be listed, or a manifest cannot be read.
    """
    listed = {name for encoder in _ENCODERS for name in _listed(path, encoder)}
    _refuse(path, "an index", [name for name in _files(path) if not _OURS.fullmatch(name) and not _has(listed, name)])


def refuse_foreign_to_artifact(path: Path) -> None:
    """Refuse to replace an artifact, or a pair of them, that holds other files.

    Parameters
    ----------
    path
        The directory of the artifact or pair.

    Raises
    ------
    InputError
        If there are foreign files; the message names them.
    StorageError
        If some files cannot be listed, or a manifest cannot be read.
    """
    listed = set(_listed(path, ""))
    _refuse(path, "an artifact", [name for name in _files(path) if not _has(listed, name)])


def _refuse(path: Path, what: str, foreign: list[str]) -> None:
    if foreign:
        more = f" and {len(foreign) - _NAMED} more" if len(foreign) > _NAMED else ""
        raise InputError(
            f"{path} holds files that are not of {what} ({', '.join(sorted(foreign)[:_NAMED])}{more}), and would be "
            "replaced as a whole: move them away, or choose another output"
        )


def _has(listed: set[str], name: str) -> bool:
    return name in listed or any(f"{above}/" in listed for above in _above(name))


def _above(name: str) -> Iterator[str]:
    """The directories that contain a file, the innermost first."""
    while name:
        name = name.rpartition("/")[0]
        yield name


def _listed(path: Path, directory: str) -> Iterator[str]:
    """The files of an artifact, or a pair, below ``path``.

    If a manifest cannot be parsed, its directory with ``/`` behind it stands for everything in it.
    """
    prefix = f"{directory}/".lstrip("/")
    manifest = f"{prefix}{ARTIFACT_MANIFEST}"
    if not (path / manifest).is_file():
        return
    yield manifest
    found = _names(path / manifest)
    if found is None:
        yield f"{directory}/"
        return
    names = [prefix + name for name in found]
    yield from names
    for name in names:
        if name.endswith(f"/{ARTIFACT_MANIFEST}") and name != manifest:
            yield from _listed(path, name.rpartition("/")[0])


def _names(manifest: Path) -> list[str] | None:
    """The files that a manifest lists; None if it is damaged. Raises StorageError if it cannot be read."""
    with reading(manifest):
        data = manifest.read_bytes()
    try:
        return list(msgspec.convert(msgspec.json.decode(data, type=dict[str, Any])["files"], dict[str, Any]))
    except (KeyError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _files(path: Path) -> Iterator[str]:
    """All files below a directory. Raises StorageError if some cannot be listed, because they may be foreign."""

    def refuse(error: OSError) -> None:
        raise cannot_read(error.filename, error)

    for directory, directories, names in os.walk(path, onerror=refuse):
        links = [name for name in directories if (Path(directory) / name).is_symlink()]
        for name in (*names, *links):
            yield (Path(directory) / name).relative_to(path).as_posix()
