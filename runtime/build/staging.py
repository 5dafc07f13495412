"""Directories that appear whole or not at all: they are written beside the target, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from ..directory import EXCHANGE, NO_REPLACE
from ..directory import renameat2 as _renameat2
from ..errors import InputError
from ..files import NOT_THERE, STAGING_PREFIX, absolute_path, fsync_path, reading, storage_errors
from ..forking import Owner
from ..locking import try_lock_directory

_MOVE = "move it away, and run the command again"


@contextlib.contextmanager
def staged_directory(
    target: Path,
    *,
    manifest: str,
    force: bool = False,
    refuse: Callable[[Path], None] | None = None,
    keep: Path | None = None,
    may_force: bool = True,
) -> Iterator[Path]:
    """Make a directory that takes its target's place when the block ends without an error.

    Everything in it is flushed to the disk before the rename. After an error the temporary directory is removed and the
    target is as it was. A killed process leaves a ``.splade-edge-…`` sibling, which the next writer of the same target
    removes.

    Parameters
    ----------
    target
        Where the directory will be.
    manifest
        The file by which a directory of the same kind is recognised. Only such a directory is replaced.
    force
        Whether a directory that is there may be replaced.
    refuse
        Called with a directory that would be replaced; raises if it holds something else (see foreign_files.py).
    keep
        Where the directory that was replaced goes, beside the target; None: it is removed.
    may_force
        Whether the user has a ``--force`` to pass, which errors then advise.

    Yields
    ------
    pathlib.Path
        The temporary directory, empty.

    Raises
    ------
    InputError
        If the target may not be replaced.
    StorageError
        If the system refuses one of our writes. Errors of the block itself pass through.
    """
    target = absolute_path(target)
    check_writable_target(target, manifest=manifest, force=force, refuse=refuse)
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
    staging = target.with_name(f"{STAGING_PREFIX}{target.name}.{secrets.token_hex(4)}")
    lock = None
    owner = Owner()
    try:  # begins here, so that an interrupt right after mkdir() does not leave the directory
        with storage_errors(target):
            staging.mkdir()
            lock = try_lock_directory(staging)
        yield staging
        owner.refuse_child(f"the directory {target}, which is being written,")
        with storage_errors(target):
            _fsync_tree(staging)
            # Hours may have passed since the first check.
            check_writable_target(target, manifest=manifest, force=force, refuse=refuse)
            _take_place(staging, target, force=force, keep=keep, may_force=may_force)
            if lock is not None:
                lock.release()  # a process that waits for the target may become its writer now
            fsync_path(target.parent)
    finally:
        if owner.is_here:
            shutil.rmtree(staging, ignore_errors=True)
        if lock is not None:
            lock.release()


def check_writable_target(
    target: Path, *, manifest: str, force: bool, refuse: Callable[[Path], None] | None = None
) -> None:
    """Refuse a target that may not be written or replaced. Called early, before hours of work.

    Parameters
    ----------
    target
        Where a directory will be written.
    manifest
        The file by which a directory of the same kind is recognised.
    force
        Whether a directory that is there may be replaced.
    refuse
        Called with a directory that would be replaced; raises if it holds something else.

    Raises
    ------
    InputError
        If the target may not be written or replaced.
    StorageError
        If the target cannot be looked at.
    """
    if not os.path.lexists(target):
        return
    if target.is_symlink():
        raise InputError(f"{target} is a link, which is not replaced; name what it leads to, or choose another output")
    if not target.is_dir():
        raise InputError(f"{target} exists and is not a directory; choose another output")
    with reading(target):
        unknown = any(target.iterdir()) and not stat.S_ISREG(_mode(target / manifest))
    if unknown:
        raise InputError(f"{target} exists and has no {manifest}, so it is not replaced; choose another output")
    if not force:
        raise InputError(f"{target} exists; pass --force to replace it, or choose another output")
    if refuse is not None:
        refuse(target)


def _mode(path: Path) -> int:
    """The mode of a file, as in :mod:`stat`; 0 if there is none."""
    try:
        return path.stat().st_mode
    except NOT_THERE:
        return 0


def _take_place(staging: Path, target: Path, *, force: bool, keep: Path | None, may_force: bool) -> None:
    """Rename ``staging`` to ``target``.

    The old directory goes to ``keep``, or to the name of ``staging``, which the caller removes.
    """
    if not target.exists() or not force:
        if not _renameat2(staging, target, NO_REPLACE):
            if force:
                remedy = "run the command again"
            else:
                remedy = f"{'pass --force to replace it' if may_force else 'move it away'}, or choose another output"
            _rename_onto_nothing(staging, target, remedy)
    elif _renameat2(staging, target, EXCHANGE):
        if keep is not None:
            try:
                _rename_onto_nothing(staging, keep, _MOVE)
            except BaseException:
                _renameat2(staging, target, EXCHANGE)  # else the old directory would be removed as the temporary one
                raise
    else:
        # Two renames: a kill between them leaves the old directory under ``.old``; the next writer puts it back.
        old = keep or staging.with_name(staging.name + ".old")
        lock = try_lock_directory(target)
        try:
            try:
                _rename_onto_nothing(target, old, _MOVE)
                staging.rename(target)
            finally:  # also after an interrupt between the two
                if old.exists() and not target.exists():
                    old.rename(target)
                if keep is None:
                    shutil.rmtree(old, ignore_errors=True)
        finally:
            if lock is not None:
                lock.release()


def _rename_onto_nothing(staging: Path, target: Path, remedy: str) -> None:
    try:
        staging.rename(target)  # a directory replaces an empty directory at most
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR) or target.exists():
            raise InputError(f"{target} was made by another process meanwhile; {remedy}") from error
        raise


def _remove_leftovers(target: Path) -> None:
    """Remove staging directories of killed writers; put back an old directory if a kill fell between two renames."""
    leftover = re.compile(re.escape(f"{STAGING_PREFIX}{target.name}.") + r"[0-9a-f]{8}(\.old)?")
    for path in sorted(target.parent.iterdir()):
        if not leftover.fullmatch(path.name) or not path.is_dir() or (lock := try_lock_directory(path)) is None:
            continue
        try:
            if path.name.endswith(".old") and not target.exists():
                path.rename(target)
            else:
                shutil.rmtree(path, ignore_errors=True)
        finally:
            lock.release()


def _fsync_tree(root: Path) -> None:
    for directory, _, names in os.walk(root, topdown=False):
        for name in names:
            fsync_path(Path(directory) / name)
        fsync_path(Path(directory))
