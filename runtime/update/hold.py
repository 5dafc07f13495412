"""What makes a process the one writer of an index directory: the open directory, its lock, its manifest.

Whatever happens to the path, everything is written and removed in the directory that was opened. A commit is a
compare-and-swap. It is refused if another directory is at the path, if the locked file is not the lock any more, or if
the manifest is not the one that was opened.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Collection, Iterable
from pathlib import Path

from ..directory import Entry
from ..errors import IndexFormatError, IndexReplacedError, SpladeEdgeError
from ..files import STAGING_PREFIX, operations, storage_errors
from ..index.index import open_directory
from ..index.layout import LOCK_NAME, MANIFEST_NAME, SEGMENTS, TOMBSTONES, IndexManifest, read_manifest_file
from ..locking import writer_lock
from ..manifest import encode_manifest
from .manifest_swap import swap_manifest
from .record import Record, in_use


class WriterHold:
    """The hold of the one writer of an index, until :meth:`close`.

    Parameters
    ----------
    path
        The index directory.

    Raises
    ------
    IndexLockedError
        If there is another writer.
    IndexFormatError
        If there is no index, or one of its directories is a link.
    IntegrityError
        If the manifest is damaged.
    StorageError
        If the system refuses to read or write.
    """

    def __init__(self, path: Path) -> None:
        with contextlib.ExitStack() as stack:
            self.directory = open_directory(path)
            stack.callback(self.directory.release)
            self.root = root = self.directory.root
            if not (root / MANIFEST_NAME).is_file():
                read_manifest_file(root / MANIFEST_NAME)  # raises the reason
            for folder in (SEGMENTS, TOMBSTONES):
                if (root / folder).is_link():
                    raise IndexFormatError(
                        f"{root / folder} is a link, and may lead anywhere; put the files themselves there"
                    )
            self._lock = stack.enter_context(writer_lock(root / LOCK_NAME))
            self.directory.refuse_replaced()  # another process may have replaced it before we had the lock
            with storage_errors(root):  # a writer may have died before it flushed its manifest
                operations.sync(root / MANIFEST_NAME)
                operations.sync(root)
            self._record = Record(root, self._lock)
            self._closing = stack.pop_all()
        self._temporary = f"{STAGING_PREFIX}{MANIFEST_NAME}.{secrets.token_hex(4)}"
        self._uncertain = False
        # the parsed manifest, by its bytes, so that it is not parsed at each check
        self._known: dict[bytes, IndexManifest] = {}
        self._committed: tuple[IndexManifest | None, str] = None, ""

    def note(self, names: Iterable[str], leaving: Iterable[str] = (), digest: str = "") -> None:
        """Note on the disk what is about to be written, and what will not be needed any more (see record.py).

        Parameters
        ----------
        names
            Names, relative to the index, that are about to be written.
        leaving
            Names that are not needed once the manifest of ``digest`` is there.
        digest
            The digest of the next manifest.

        Raises
        ------
        StorageError
            If the lock file cannot be written.
        IndexReplacedError
            If the lock file was removed.
        """
        self._record.add(dict.fromkeys((self._temporary, *names), "") | dict.fromkeys(leaving, digest))

    def _manifest_in(self, path: Entry) -> IndexManifest:
        return read_manifest_file(path, self._known)

    def free_name(self, name: str, taken: Collection[str] = ()) -> str:
        """A name that no file has.

        Parameters
        ----------
        name
            The wanted name, relative to the index.
        taken
            Names that will be used, besides those of files.

        Returns
        -------
        str
            ``name``, or ``name`` with a number behind it.
        """
        found, number = name, 1
        while found in taken or self._exists(found):
            found, number = f"{name}-{number}", number + 1
        return found

    def _exists(self, name: str) -> bool:
        with contextlib.suppress(FileNotFoundError):
            (self.root / name).stat(follow_symlinks=False)
            return True
        return False

    def refuse_replaced(self, manifest: IndexManifest) -> None:
        """Check that directory, lock and manifest are those that were opened.

        Parameters
        ----------
        manifest
            The manifest that was opened.

        Raises
        ------
        IndexReplacedError
            If one of them is another.
        """
        self._refuse_other()
        if self._manifest_in(self.root / MANIFEST_NAME) != manifest:
            raise self._other_manifest()

    def replace_manifest(self, manifest: IndexManifest, encoded: tuple[bytes, str], expected: IndexManifest) -> None:
        """Commit: replace the manifest.

        Parameters
        ----------
        manifest
            The new manifest.
        encoded
            Its bytes and its digest, as :func:`.manifest.encode_manifest` returns them.
        expected
            The manifest that is replaced.

        Raises
        ------
        IndexReplacedError
            If directory, lock or manifest are not those that were opened. Nothing was committed.
        StorageError
            If the system refuses to write. If the very last step fails, the commit may have taken place. Then nothing
            is removed until the next writer comes.
        """
        data, digest = encoded
        self._uncertain = True  # until we know which manifest is there, nothing that one of them lists may be removed
        path, temporary = self.root / MANIFEST_NAME, self.root / self._temporary
        try:
            done = swap_manifest(path, temporary, data, expected, self._manifest_in, self._refuse_other)
        except IndexReplacedError:
            self._uncertain = False
            raise
        self._uncertain = False
        if not done:
            raise self._other_manifest()
        self._known = {data: manifest}
        self._committed = manifest, digest

    def _refuse_other(self) -> None:
        self.directory.refuse_replaced()
        if not self._lock.is_in_place():
            raise IndexReplacedError(
                f"{self.root / LOCK_NAME} was removed or replaced by another process, so it locks nobody out; nothing "
                "was committed: open the index again"
            )

    def _other_manifest(self) -> IndexReplacedError:
        return IndexReplacedError(
            f"{self.root / MANIFEST_NAME} was replaced by another process; nothing was committed: open the index again"
        )

    def clean(self) -> None:
        """Remove what was noted and is not used by the manifest that is there now. Errors are ignored."""
        if self._uncertain or not (self._lock.exclusive or self._lock.is_in_place()):
            return
        with contextlib.suppress(SpladeEdgeError, OSError):
            manifest = self._manifest_in(self.root / MANIFEST_NAME)
            committed, digest = self._committed
            known = manifest is committed
            self._record.clear(in_use(manifest.files), lambda: digest if known else encode_manifest(manifest)[1])

    def close(self) -> None:
        """Release the lock and the directory."""
        self._closing.close()
