"""The one way manifests are written and read: JSON with a version and a digest of itself.

A manifest is a frozen ``msgspec.Struct``. On disk it is indented JSON with one more key, ``"digest"``: the SHA-256 of
the same JSON without that key. So a flipped byte in the manifest is found as surely as one in the files it lists.
"""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from .directory import AnyPath
from .errors import IntegrityError, SpladeEdgeError, StorageError
from .files import NOT_THERE, reading, safe_join, sha256_file, write_file_durably

M = TypeVar("M", bound="Manifest")
_MAX_BYTES = 8 << 20  # of a manifest: in memory it takes some fifty times as much at worst
_MISSING = "is missing"


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file as the manifest describes it: ``size`` in bytes, ``sha256`` as 64 hex digits."""

    size: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every manifest has: a ``format`` name, a ``version``, and ``files`` by path relative to the manifest."""

    format: str
    version: int
    files: dict[str, FileEntry]


def describe_file(path: AnyPath) -> FileEntry:
    """Size and SHA-256 of a file on disk."""
    return FileEntry(size=path.stat().st_size, sha256=sha256_file(path))


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write ``manifest`` to ``path`` in one step (see :func:`~splade_edge.runtime.files.write_file_durably`)."""
    write_file_durably(path, encode_manifest(manifest)[0])


def encode_manifest(manifest: Manifest) -> tuple[bytes, str]:
    """A manifest as it is written, and the digest in it."""
    body = msgspec.to_builtins(manifest)
    digest = hashlib.sha256(_indented(body)).hexdigest()
    return _indented({**body, "digest": digest}) + b"\n", digest


def read_manifest(
    path: AnyPath,
    kind: type[M],
    *,
    format: str,  # noqa: A002 - it is the key's name
    version: int,
    error: type[SpladeEdgeError],
    known: dict[bytes, M] | None = None,
) -> M:
    """Read and validate a manifest. ``known``: manifests by their bytes, which are not validated again.

    Raises ``error`` if it is missing, of another format, or newer than ``version``; IntegrityError if it is damaged;
    StorageError if the system does not let it be read.
    """
    try:
        with reading(path):
            if path.stat().st_size > _MAX_BYTES:
                raise IntegrityError(f"{path} is damaged: it is larger than any manifest; make the directory again")
            raw = path.read_bytes()
    except IsADirectoryError as failure:
        raise error(f"cannot read {path}: {failure.strerror}") from None
    except NOT_THERE:
        raise error(f"{path.parent} has no {path.name}: it is not a {format} directory, or it is incomplete") from None
    if known is not None and raw in known:
        return known[raw]
    try:
        body: Any = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as failure:
        raise IntegrityError(f"{path} is damaged ({failure}); copy or make the directory again") from None
    digest = body.pop("digest", None) if isinstance(body, dict) else None
    if not isinstance(body, dict) or body.get("format") != format:
        raise error(f"{path} is not the manifest of a {format} directory")
    found = body.get("version")
    if isinstance(found, int) and found > version:
        raise error(f"{path} has {format} version {found}; this release reads up to {version}: upgrade splade-edge")
    if not isinstance(found, int) or found < 1:
        raise IntegrityError(f"{path} is damaged (its version is {found!r}); copy or make the directory again")
    if digest is None or digest != _digest(body):
        raise IntegrityError(f"{path} is damaged or was edited (its digest does not match); copy or make it again")
    try:
        manifest = msgspec.convert(body, kind)
    except (msgspec.ValidationError, RecursionError) as failure:
        raise IntegrityError(f"{path} is damaged ({failure}); copy or make the directory again") from None
    if known is not None:
        known[raw] = manifest
    return manifest


def damaged_files(
    root: AnyPath, files: dict[str, FileEntry], unreadable: dict[str, StorageError] | None = None
) -> dict[str, str]:
    """Listed files that are not as listed, by name, with the reason.

    What the system does not let us read may well be whole, so it is no damage: such files go to ``unreadable``, or
    StorageError is raised for the first.
    """
    damaged = {}
    for name, entry in files.items():
        path = safe_join(root, name)
        try:
            reason = _wrong_size(path, entry)
            if reason is None and sha256_file(path) != entry.sha256:
                reason = "is damaged (its SHA-256 does not match)"
        except NOT_THERE:  # gone since its size was looked at
            reason = _MISSING
        except StorageError as error:
            if unreadable is None:
                raise
            unreadable[name] = error
            continue
        if reason is not None:
            damaged[name] = reason
    return damaged


def check_sizes(root: AnyPath, files: dict[str, FileEntry]) -> None:
    """Every listed file exists with the listed size. Raises IntegrityError naming the first that does not, StorageError
    where the system does not tell.
    """
    for name, entry in files.items():
        path = safe_join(root, name)
        if reason := _wrong_size(path, entry):
            raise IntegrityError(f"{path} {reason}; copy or make {root} again")


def check_hashes(root: AnyPath, files: dict[str, FileEntry]) -> None:
    """Every listed file has the listed size and SHA-256. Raises IntegrityError naming the first that does not,
    StorageError where the system does not let it be read.
    """
    check_sizes(root, files)
    for name, entry in files.items():
        for reason in damaged_files(root, {name: entry}).values():
            raise IntegrityError(f"{safe_join(root, name)} {reason}; copy or make {root} again")


def _wrong_size(path: AnyPath, entry: FileEntry) -> str | None:
    try:
        with reading(path):
            status = path.stat()
    except NOT_THERE:
        return _MISSING
    if not stat.S_ISREG(status.st_mode):
        return "is not a file"
    return None if status.st_size == entry.size else f"has {status.st_size} bytes instead of {entry.size}"


def _digest(body: dict[str, Any]) -> str | None:
    """The digest of a manifest that was read; None for what has none (numbers and depths that we never write)."""
    try:
        return hashlib.sha256(_indented(body)).hexdigest()
    except (msgspec.MsgspecError, RecursionError, OverflowError, ValueError):
        return None


def _indented(body: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(body, order="deterministic"), indent=1)
