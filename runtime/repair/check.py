"""Checks of an index: the SHA-256 of every file, then the postings and the stored documents."""

from __future__ import annotations

from pathlib import Path

from ..artifact import MANIFEST_NAME as ARTIFACT_MANIFEST
from ..artifact import open_artifact
from ..errors import IndexFormatError, IndexReplacedError, IntegrityError, StorageError
from ..files import safe_join
from ..index.index import Index
from ..index.layout import INDEX_FORMAT, MANIFEST_NAME, VERSION, IndexManifest
from ..index.segment import refuse_future
from ..manifest import damaged_files, read_manifest

_NAMED = 5  # an error names this many damaged files


def read_index_manifest(path: Path) -> IndexManifest:
    """Read the manifest of an index.

    Parameters
    ----------
    path
        The index directory.

    Returns
    -------
    IndexManifest
        The manifest.

    Raises
    ------
    IndexFormatError
        If there is none, or its version is too new.
    IntegrityError
        If it is damaged.
    StorageError
        If the system refuses to read it.
    """
    return read_manifest(
        path / MANIFEST_NAME, IndexManifest, format=INDEX_FORMAT, version=VERSION, error=IndexFormatError
    )


def find_damage(
    path: Path, manifest: IndexManifest, unreadable: dict[str, StorageError] | None = None
) -> dict[str, str]:
    """Find the files that are not as the manifest, or that of an encoder, lists them.

    Parameters
    ----------
    path
        The index directory.
    manifest
        Its manifest.
    unreadable
        Receives the files that the system refuses to read, with the error of each. None: the first such error is
        raised.

    Returns
    -------
    dict of str to str
        The reason by the file's name, relative to the index.

    Raises
    ------
    StorageError
        If a file cannot be read and ``unreadable`` is None.
    """
    damaged = damaged_files(path, manifest.files, unreadable)
    for relative in (manifest.query_encoder, manifest.document_encoder):
        if relative is not None and f"{relative}/{ARTIFACT_MANIFEST}" not in {*damaged, *(unreadable or ())}:
            directory = safe_join(path, relative)
            files = open_artifact(directory, check=False).manifest.files
            refused = None if unreadable is None else dict[str, StorageError]()
            damaged |= {
                f"{relative}/{name}": reason for name, reason in damaged_files(directory, files, refused).items()
            }
            if unreadable is not None:
                unreadable |= {f"{relative}/{name}": error for name, error in (refused or {}).items()}
    return damaged


def find_current_damage(
    path: Path, unreadable: dict[str, StorageError] | None = None
) -> tuple[IndexManifest, dict[str, str]]:
    """Find the damage of the newest generation. What a writer removes meanwhile is not missing: it is looked at anew.

    Parameters
    ----------
    path
        The index directory.
    unreadable
        See :func:`find_damage`.

    Returns
    -------
    IndexManifest
        The manifest of the generation that was read.
    dict of str to str
        See :func:`find_damage`.

    Raises
    ------
    SpladeEdgeError
        As :func:`check_index` and :func:`find_damage` do.
    """
    while True:
        manifest = read_index_manifest(path)
        refuse_future(manifest, path)
        found: dict[str, StorageError] | None = None if unreadable is None else {}
        try:
            damaged = find_damage(path, manifest, found)
        except (IntegrityError, StorageError):
            if read_index_manifest(path) == manifest:
                raise
            continue
        if (damaged or found) and read_index_manifest(path) != manifest:
            continue
        if unreadable is not None and found is not None:
            unreadable |= found
        return manifest, damaged


def check_index(path: str | Path) -> Index:
    """Check every byte of an index and its encoders, and open it.

    Parameters
    ----------
    path
        The index directory.

    Returns
    -------
    Index
        The index, open. The caller closes it.

    Raises
    ------
    IntegrityError
        If a file is damaged; the message names the damaged files.
    IndexFormatError
        If there is no index, or one that this release cannot read.
    StorageError
        If the system refuses to read a file.
    """
    path = Path(path)
    while True:
        manifest, damaged = find_current_damage(path)
        if damaged:
            names = [f"{path / name} {reason}" for name, reason in damaged.items()]
            more = f"; and {len(names) - _NAMED} more files" if len(names) > _NAMED else ""
            raise IntegrityError(
                f"{'; '.join(names[:_NAMED])}{more}; copy the index again, or save the rest with: "
                f"splade-edge check {path} --repair"
            )
        index = Index.open(path)
        try:
            index.check(hashed=index.manifest == manifest)
        except IndexReplacedError:
            index.close()
            continue
        except BaseException:
            index.close()
            raise
        return index
