"""What makes a process the writer of one index directory, and of no other: the open directory, its lock, its manifest.

Whatever happens to the path, everything that is written or removed is in the directory that was opened. A commit is a
compare-and-swap: it is refused where another directory lies at the path, where the locked file is not the lock any
more, or where the manifest is not the one that was opened.
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

    Raises IndexLockedError where there is another, IndexFormatError, IntegrityError, StorageError.
    """

    def __init__(self, path: Path) -> None:
        with contextlib.ExitStack() as stack:
            self.directory = open_directory(path)
            stack.callback(self.directory.release)
            self.root = root = self.directory.root
            if not (root / MANIFEST_NAME).is_file():
                read_manifest_file(root / MANIFEST_NAME)  # says what is wrong with it
            for folder in (SEGMENTS, TOMBSTONES):
                if (root / folder).is_link():
                    raise IndexFormatError(
                        f"{root / folder} is a link, and may lead anywhere; put the files themselves there"
                    )
            self._lock = stack.enter_context(writer_lock(root / LOCK_NAME))
            self.directory.refuse_replaced()  # it may have been while we waited for nothing
            with storage_errors(root):  # if a writer died just before this, its manifest must not be lost any more
                operations.sync(root / MANIFEST_NAME)
                operations.sync(root)
            self._record = Record(root, self._lock)
            self._closing = stack.pop_all()
        self._temporary = f"{STAGING_PREFIX}{MANIFEST_NAME}.{secrets.token_hex(4)}"
        self._uncertain = False
        # so that the one manifest is not parsed, and made again, at each look
        self._known: dict[bytes, IndexManifest] = {}
        self._committed: tuple[IndexManifest | None, str] = None, ""

    def note(self, names: Iterable[str], leaving: Iterable[str] = (), digest: str = "") -> None:
        """Note what is about to be written, and what is ``leaving`` once the manifest of this ``digest`` is there (see
        :class:`Record`).
        """
        self._record.add(dict.fromkeys((self._temporary, *names), "") | dict.fromkeys(leaving, digest))

    def _manifest_in(self, path: Entry) -> IndexManifest:
        return read_manifest_file(path, self._known)

    def free_name(self, name: str, taken: Collection[str] = ()) -> str:
        """``name``, or with a number behind it, where a file of that name lies about that nobody told us of."""
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
        """Raise IndexReplacedError unless directory, lock and manifest are those that were opened."""
        self._refuse_other()
        if self._manifest_in(self.root / MANIFEST_NAME) != manifest:
            raise self._other_manifest()

    def replace_manifest(self, manifest: IndexManifest, encoded: tuple[bytes, str], expected: IndexManifest) -> None:
        """The commit: a manifest (and what :func:`encode_manifest` makes of it) in the place of what is ``expected``.
        Where it fails at the very end it may have taken place; nothing is removed after that, but by the next writer.
        """
        data, digest = encoded
        self._uncertain = True  # what the manifest lists that we meant to replace must not be removed
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
        """Remove what was noted and is not used by the manifest that is there now."""
        if self._uncertain or not (self._lock.exclusive or self._lock.is_in_place()):
            return
        with contextlib.suppress(SpladeEdgeError, OSError):
            manifest = self._manifest_in(self.root / MANIFEST_NAME)
            committed, digest = self._committed
            known = manifest is committed
            self._record.clear(in_use(manifest.files), lambda: digest if known else encode_manifest(manifest)[1])

    def close(self) -> None:
        """Let other writers in."""
        self._closing.close()
