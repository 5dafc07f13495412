"""Changing an index directory: what is added and deleted becomes visible in one step, by a new manifest.

A transaction is the only writer of an index. New data goes into files that the manifest does not list yet. These files
are flushed to the disk, then the manifest is replaced, and only then files that no manifest lists any more are removed.
So if a writer dies at any point, the index is that of the last manifest, and the next writer removes the rest.

The modules that write postings load Numba. They are imported where they are needed, so that a delete starts fast.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from ..build.documents_writer import DuplicateIdError
from ..build.limits import BLOCK_MAX_FROM, DEFAULT_MEMORY
from ..build.tombstones_writer import pack_tombstones, write_tombstones
from ..document import Document
from ..errors import InputError
from ..files import operations, storage_errors
from ..forking import Owner
from ..index.index import Index
from ..index.layout import MAX_UNITS, SEGMENTS, TOMBSTONES, VERSION, IndexManifest, Statistics
from ..index.segment import Segment, segment_files
from ..manifest import FileEntry, encode_manifest
from ..vectors import SparseBatch
from ..version import MADE_BY
from .hold import WriterHold
from .merge_policy import to_merge
from .parts import Part, settings_of
from .record import in_use

if TYPE_CHECKING:
    from ..build.passages import PassageSpan
    from ..build.segment_writer import SegmentWriter


@dataclass(frozen=True)
class Commit:
    """What a commit has done.

    Attributes
    ----------
    generation
        The generation of the index; the same as before if there was nothing to do.
    added, updated, deleted
        Documents that were added under new ids, replaced, and deleted.
    documents, segments
        Documents and segments of the index now.
    merged
        Segments that were merged or rewritten.
    clipped
        Weights above 255 steps of the index's scale.
    """

    generation: int
    added: int
    updated: int
    deleted: int
    documents: int
    segments: int
    merged: int
    clipped: int


class Transaction:
    """The one writer of an index directory, until :meth:`close`. Nothing is visible before :meth:`commit`.

    Parameters
    ----------
    path
        The index directory.
    memory_bytes
        Memory for postings.

    Raises
    ------
    IndexLockedError
        If there is another writer.
    IndexFormatError
        If there is no index, or one that this release cannot read.
    IntegrityError
        If the index is damaged.
    StorageError
        If the system refuses to read or write.
    """

    def __init__(self, path: str | Path, *, memory_bytes: int = DEFAULT_MEMORY) -> None:
        self._memory_bytes = memory_bytes
        self._owner = Owner()
        self._closed = self._broken = False
        self._pending: SegmentWriter | None = None
        with contextlib.ExitStack() as stack:
            self._hold = WriterHold(Path(path))
            stack.callback(self._hold.close)
            self.path, self._root = self._hold.directory.path, self._hold.root
            self.index = Index.of(self._hold.directory)
            stack.callback(lambda: self.index.close())  # the index of the last commit
            self._hold.clean()
            self._begin()
            self._closing = stack.pop_all()

    def _begin(self) -> None:
        manifest = self.index.manifest
        self.settings = manifest.settings or settings_of(self.index.segments[0].segment)
        self._deleted = [view.deleted for view in self.index.segments]  # copied before the first delete
        # An index without weights has no scale yet. The first weights that are added set it.
        self._scale = manifest.scale if manifest.has_scale else None
        self._pending = None
        self._pending_deleted: set[int] = set()
        self._segments_written = 0
        self._statistics = manifest.statistics
        self.added = self.updated = self.deleted = 0

    @property
    def units(self) -> int:
        """Vectors added since the last commit."""
        return 0 if self._pending is None else self._pending.units

    def add_documents(self, documents: Sequence[Document], *, replace: bool = False) -> list[int | InputError]:
        """Store documents. Their vectors must follow, see :meth:`add_vectors`.

        Parameters
        ----------
        documents
            At most 500 documents.
        replace
            Whether a document replaces the one that has its id; if not, such an id is refused.

        Returns
        -------
        list of int or InputError
            For each document its ordinal in the new segment, or the reason why it is not stored.

        Raises
        ------
        InputError
            If the writer is closed, or an earlier change failed.
        StorageError
            If the documents cannot be written.
        """
        self._refuse_broken()
        if self._pending is None:
            from ..build.segment_writer import SegmentWriter

            self._pending = SegmentWriter(
                self._root,
                self._next_segment(),
                self.index.manifest.vocab_size,
                passages=self.settings.passages,
                fields=self.settings.fields,
                memory_bytes=self._memory_bytes,
                scale=self._scale,
                block_max=self.settings.block_max,
                unique=False,
            )
        ids = [document.id for document in documents]
        stored = self._find(ids)
        pending = {i: at for i, at in self._pending.latest(ids).items() if at not in self._pending_deleted}
        results: list[int | InputError] = []
        if not replace:
            used = stored.keys() | pending.keys()
            fresh = []
            for document in documents:
                if document.id in used:
                    results.append(
                        DuplicateIdError(f"the id {document.id!r} was used before; update replaces its document")
                    )
                else:
                    used.add(document.id)
                    fresh.append(document)
                    results.append(len(fresh))  # replaced by the ordinal below
            new = iter(self._pending.add_documents(fresh))
            results = [r if isinstance(r, InputError) else next(new) for r in results]
            self.added += sum(not isinstance(r, InputError) for r in results)
            return results
        results = self._pending.add_documents(documents)
        for document, result in zip(documents, results, strict=True):
            if isinstance(result, InputError):
                continue
            if document.id in pending:
                self._pending_deleted.add(pending[document.id])
            elif document.id in stored:
                self._delete(*stored[document.id])
                self.updated += 1
            else:
                self.added += 1
            pending[document.id] = result
        return results

    def add_vectors(self, batch: SparseBatch, spans: Sequence[PassageSpan] | None = None) -> None:
        """Append the vectors of the documents that :meth:`add_documents` has stored.

        Parameters
        ----------
        batch
            The vectors.
        spans
            In an index of passages: one entry for each vector, documents ascending.

        Raises
        ------
        InputError
            For malformed vectors or spans, or more units than an index holds.
        StorageError
            If postings cannot be written.
        """
        if self._pending is None:
            if len(batch):
                raise InputError("add documents before their vectors")
            return
        if sum(view.segment.units for view in self.index.segments) + self.units + len(batch) > MAX_UNITS:
            raise InputError(f"an index holds at most {MAX_UNITS} documents or passages; begin another")
        self._pending.add_vectors(batch, spans)

    def delete(self, ids: Sequence[str]) -> list[str]:
        """Delete documents by id.

        Parameters
        ----------
        ids
            Ids of documents.

        Returns
        -------
        list of str
            The ids that no document has.

        Raises
        ------
        InputError
            If the writer is closed, or an earlier change failed.
        """
        self._refuse_broken()
        missing = []
        for start in range(0, len(ids), 500):
            part = list(dict.fromkeys(ids[start : start + 500]))
            stored = self._find(part)
            pending = {} if self._pending is None else self._pending.latest(part)
            for document_id in part:
                if document_id in pending and pending[document_id] not in self._pending_deleted:
                    self._pending_deleted.add(pending[document_id])
                elif document_id in stored:
                    self._delete(*stored[document_id])
                else:
                    missing.append(document_id)
                    continue
                self.deleted += 1
        return missing

    def missing(self, ids: Sequence[str]) -> list[str]:
        """Find the ids that no document has.

        Parameters
        ----------
        ids
            Ids to look for.

        Returns
        -------
        list of str
            Those that no document has, each once.
        """
        found = set(self._find(ids))
        if self._pending is not None:
            for start in range(0, len(ids), 500):
                latest = self._pending.latest(ids[start : start + 500])
                found |= {i for i, at in latest.items() if at not in self._pending_deleted}
        return [document_id for document_id in dict.fromkeys(ids) if document_id not in found]

    def count(self, *, truncated: int = 0, bad_lines: int = 0) -> None:
        """Add to the statistics of the index.

        Parameters
        ----------
        truncated
            Units that were truncated.
        bad_lines
            Lines that were skipped.
        """
        s = self._statistics
        self._statistics = msgspec.structs.replace(
            s, truncated=s.truncated + truncated, bad_lines=s.bad_lines + bad_lines
        )

    def _find(self, ids: Sequence[str]) -> dict[str, tuple[int, int]]:
        """(segment, ordinal) by id, of the committed documents that are not deleted."""
        found = {}
        for position, view in enumerate(self.index.segments):
            deleted = self._deleted[position]
            for document_id, ordinal in view.segment.documents.find(ids):
                if deleted is None or not deleted[ordinal]:
                    found[document_id] = position, ordinal
        return found

    def _delete(self, position: int, ordinal: int) -> None:
        deleted, committed = self._deleted[position], self.index.segments[position].deleted
        if deleted is None:
            deleted = self._deleted[position] = np.zeros(
                self.index.segments[position].segment.entry.documents, np.bool_
            )
        elif deleted is committed:
            deleted = self._deleted[position] = deleted.copy()
        deleted[ordinal] = True

    def commit(self, *, compact: bool = False) -> Commit:
        """Make all changes since the last commit visible in one step.

        Parameters
        ----------
        compact
            Whether all segments are merged into one; if not, merge_policy.py decides.

        Returns
        -------
        Commit
            What was done.

        Raises
        ------
        InputError
            If the writer is closed, or an earlier change failed.
        IndexReplacedError
            If another process has replaced the index. Nothing was committed.
        StorageError
            If the system refuses to write. The index is that of the last commit, unless the very last flush failed:
            then it may be either.
        """
        self._refuse_broken()
        self._broken = True
        base = self.index.manifest
        parts = self._parts()
        old = {entry.path for entry in base.segments}
        news = any(part.changed and (part.live or part.entry.path in old) for part in parts)
        parts = [part for part in parts if part.live]
        if compact:
            clean = len(parts) == 1 and not parts[0].dead
            runs = [range(len(parts))] if parts and not clean else []
        else:
            runs = to_merge([part.live for part in parts], [part.dead for part in parts]) if news else []
        merged = sum(len(run) for run in runs)
        if news or runs:
            self._hold.refuse_replaced(base)  # checked before hours of merging
        for run in reversed(runs):
            parts[run.start : run.stop] = [self._merge(parts[run.start : run.stop])]
        done = self.added, self.updated, self.deleted
        if not (news or runs):
            self._hold.clean()
            self._begin()
            self._broken = False
            return Commit(base.generation, *done, base.live, len(base.segments), 0, 0)
        manifest, tombstones = self._next_manifest(parts)
        encoded = encode_manifest(manifest)
        self._hold.note(tombstones, sorted(in_use(base.files) - in_use(manifest.files)), encoded[1])
        write_tombstones(self._root, tombstones)
        self._sync(manifest)
        # opened first, because an index that cannot be opened must not be committed
        committed = Index(self._hold.directory, manifest, self.index)
        try:
            self._hold.replace_manifest(manifest, encoded, base)
        except BaseException:
            committed.close()
            raise
        previous, self.index = self.index, committed
        previous.close()
        clipped = manifest.statistics.clipped - base.statistics.clipped
        self._hold.clean()
        self._begin()
        self._broken = False
        return Commit(manifest.generation, *done, manifest.live, len(manifest.segments), merged, clipped)

    def refuse_closed(self) -> None:
        """Check that the writer is open, and that this is the process that opened it.

        Raises
        ------
        InputError
            If it is not.
        """
        self._owner.refuse_child(f"this writer of {self.path}")
        if self._closed:
            raise InputError(f"this writer of {self.path} is closed; open another")

    def _refuse_broken(self) -> None:
        self.refuse_closed()
        if self._broken:
            raise InputError(f"an earlier change of {self.path} failed; close this writer and open another")

    def _parts(self) -> list[Part]:
        """All segments, the new one last."""
        manifest = self.index.manifest
        parts = [
            Part(entry, segment_files(manifest, entry), deleted, deleted is not view.deleted)
            for entry, view, deleted in zip(manifest.segments, self.index.segments, self._deleted, strict=True)
        ]
        if self._pending is not None and self._pending.documents:
            from ..build.segment_writer import list_segment

            entry, counts = self._pending.finish(block_max_from=BLOCK_MAX_FROM)
            deleted = np.zeros(entry.documents, np.bool_)
            deleted[list(self._pending_deleted)] = True
            parts.append(
                Part(entry, list_segment(self._root, entry.path), deleted if deleted.any() else None, changed=True)
            )
            if counts.postings and not deleted.all():
                self._scale = counts.scale
            s = self._statistics
            self._statistics = Statistics(
                truncated=s.truncated,
                empty=s.empty + counts.empty,
                below_half_a_step=s.below_half_a_step + counts.below_half_a_step,
                clipped=s.clipped + counts.clipped,
                bad_lines=s.bad_lines,
            )
        elif self._pending is not None:
            self._pending.abort()
        self._pending = None
        return parts

    def _merge(self, parts: Sequence[Part]) -> Part:
        """Merge segments into one, without their deleted documents."""
        from ..build.segment_writer import list_segment
        from .merge import Source, merge_segments

        opened = {view.segment.entry.path: view.segment for view in self.index.segments}
        with contextlib.ExitStack() as stack:
            sources = []
            for part in parts:
                segment = opened.get(part.entry.path)
                if segment is None:
                    manifest = msgspec.structs.replace(self.index.manifest, files=part.files)
                    segment = Segment(self._root, manifest, part.entry)
                    stack.callback(segment.close)
                sources.append(Source(segment, part.deleted))
            scale = self._scale or self.index.manifest.scale
            entry = merge_segments(self._root, self._next_segment(), sources, self.settings, scale, self._memory_bytes)
        return Part(entry, list_segment(self._root, entry.path), None, changed=True)

    def _next_segment(self) -> str:
        """A name for a new segment (generation and number) that was never used. It is noted on the disk."""
        self._segments_written += 1
        name = f"{SEGMENTS}/{self.index.manifest.generation + 1:08d}-{self._segments_written}"
        name = self._hold.free_name(name)
        self._hold.note([name])
        return name

    def _next_manifest(self, parts: Sequence[Part]) -> tuple[IndexManifest, dict[str, bytes]]:
        """The manifest of the next generation, and the new tombstones, by name."""
        base = self.index.manifest
        generation = base.generation + 1
        files = {n: e for n, e in base.files.items() if not n.startswith((f"{SEGMENTS}/", f"{TOMBSTONES}/"))}
        entries = []
        new: dict[str, bytes] = {}
        for part in parts:
            entry = part.entry
            files |= part.files
            if part.changed and part.dead:
                assert part.deleted is not None
                name = self._hold.free_name(f"{TOMBSTONES}/{generation:08d}.{entry.path.rpartition('/')[2]}", new)
                new[name] = pack_tombstones(part.deleted)
                files[name] = FileEntry(len(new[name]), hashlib.sha256(new[name]).hexdigest())
                entry = msgspec.structs.replace(entry, tombstones=name, deleted=part.dead)
            elif entry.tombstones is not None:
                files[entry.tombstones] = base.files[entry.tombstones]
            entries.append(entry)
        manifest = msgspec.structs.replace(
            base,
            version=VERSION,
            generation=generation,
            files=files,
            scale=self._scale or base.scale,
            segments=entries,
            settings=self.settings,
            statistics=self._statistics,
            made_by=MADE_BY,
        )
        return manifest, new

    def _sync(self, manifest: IndexManifest) -> None:
        """Flush the files that are new in a manifest, and the directories they are in."""
        new = [self._root / name for name in manifest.files if name not in self.index.manifest.files]
        with storage_errors(self._root):
            for path in new:
                operations.sync(path)
            directories = {above for path in new for above in (path.parent, path.parent.parent) if above.relative}
            for directory in sorted(directories, key=lambda d: d.relative.count("/"), reverse=True):
                operations.sync(directory)

    def close(self) -> None:
        """Discard what was not committed, and release the lock.

        In a child of the process that opened the writer nothing happens, because all of it is the parent's.
        """
        if self._closed:
            return
        self._closed = True
        with self._closing:
            if not self._owner.is_here:
                return
            if self._pending is not None:
                self._pending.abort()
                self._pending = None
            self._hold.clean()
