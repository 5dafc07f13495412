"""Changing an index directory: what is added and deleted becomes visible in one step, by a new manifest.

The only writer of what writer.py has made. Everything new goes into files that the manifest does not list yet; they
are flushed to the disk, then the manifest is replaced, and only then what no manifest lists any more is removed. So
whenever a writer dies, the index is that of the last manifest; what else lies there is removed by the next writer.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from ..build.documents_writer import DuplicateIdError
from ..build.segment_writer import PassageSpan, SegmentWriter, list_segment
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
from .merge import Source, merge_segments
from .merge_policy import SMALL, to_merge
from .parts import Part, settings_of
from .record import in_use


@dataclass(frozen=True)
class Commit:
    """What a commit did: its ``generation`` (the one before, where there was nothing to do), documents ``added`` under
    new ids, ``updated`` and ``deleted``, and the ``documents`` and ``segments`` there are now. ``merged``: segments
    that were written anew. ``clipped``: weights above 255 steps of the index's scale.
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

    Raises IndexLockedError where there is another, IndexFormatError, IntegrityError, StorageError.
    """

    def __init__(self, path: str | Path, *, memory_bytes: int = 512 << 20) -> None:
        self._memory_bytes = memory_bytes
        self._owner = Owner()
        self._closed = self._broken = False
        self._pending: SegmentWriter | None = None
        with contextlib.ExitStack() as stack:
            self._hold = WriterHold(Path(path))
            stack.callback(self._hold.close)
            self.path, self._root = self._hold.directory.path, self._hold.root
            self.index = Index.of(self._hold.directory)
            stack.callback(self._close_index)
            self._hold.clean()
            self._begin()
            self._closing = stack.pop_all()

    def _close_index(self) -> None:
        self.index.close()

    def _begin(self) -> None:
        manifest = self.index.manifest
        self.settings = manifest.settings or settings_of(self.index.segments[0].segment)
        self._deleted = [live.deleted for live in self.index.segments]  # replaced by a copy when one is deleted
        # Nothing has a scale yet where nothing has a weight: the first that come set it.
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

    @property
    def documents(self) -> int:
        """Documents stored since the last commit."""
        return 0 if self._pending is None else self._pending.documents

    def add_documents(self, documents: Sequence[Document], *, replace: bool = False) -> list[int | InputError]:
        """Store documents (at most 500); each place of the result is an ordinal for :meth:`add_vectors`, or why there
        is none. ``replace``: delete the document that has the id; else such an id is refused.
        """
        self._refuse_broken()
        if self._pending is None:
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
                    results.append(len(fresh))  # to be replaced by the ordinal
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
        """The vectors of the documents that :meth:`add_documents` stored; see :meth:`IndexWriter.add_vectors`."""
        if self._pending is None:
            if len(batch):
                raise InputError("add documents before their vectors")
            return
        if sum(live.segment.units for live in self.index.segments) + self.units + len(batch) > MAX_UNITS:
            raise InputError(f"an index holds at most {MAX_UNITS} documents or passages; begin another")
        self._pending.add_vectors(batch, spans)

    def delete(self, ids: Sequence[str]) -> list[str]:
        """Delete documents by id; returns the ids that no document has."""
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
        """Which of these ids no document has."""
        found = set(self._find(ids))
        if self._pending is not None:
            for start in range(0, len(ids), 500):
                latest = self._pending.latest(ids[start : start + 500])
                found |= {i for i, at in latest.items() if at not in self._pending_deleted}
        return [document_id for document_id in dict.fromkeys(ids) if document_id not in found]

    def count(self, *, truncated: int = 0, bad_lines: int = 0) -> None:
        """Add to the statistics of the index."""
        s = self._statistics
        self._statistics = msgspec.structs.replace(
            s, truncated=s.truncated + truncated, bad_lines=s.bad_lines + bad_lines
        )

    def _find(self, ids: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Of these ids, (segment, ordinal) of the committed documents that are not deleted."""
        found = {}
        for place, live in enumerate(self.index.segments):
            deleted = self._deleted[place]
            for document_id, ordinal in live.segment.documents.find(ids):
                if deleted is None or not deleted[ordinal]:
                    found[document_id] = place, ordinal
        return found

    def _delete(self, place: int, ordinal: int) -> None:
        deleted, committed = self._deleted[place], self.index.segments[place].deleted
        if deleted is None:
            deleted = self._deleted[place] = np.zeros(self.index.segments[place].segment.entry.documents, np.bool_)
        elif deleted is committed:
            deleted = self._deleted[place] = deleted.copy()
        deleted[ordinal] = True

    def commit(self, *, compact: bool = False, progress: Callable[[float], None] | None = None) -> Commit:
        """Make everything since the last commit visible in one step; segments are merged as policy.py says, with
        ``compact`` all into one. Raises StorageError; the index is then that of the last commit, unless the very last
        flush failed: then it may be either.
        """
        self._refuse_broken()
        self._broken = True
        base = self.index.manifest
        parts = self._parts(progress)
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
            self._hold.refuse_replaced(base)  # before hours of merging
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
        # before: what cannot be opened must not be committed
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
        """Raise InputError where the writer is closed, and in a child of the process that opened it."""
        self._owner.refuse_child(f"this writer of {self.path}")
        if self._closed:
            raise InputError(f"this writer of {self.path} is closed; open another")

    def _refuse_broken(self) -> None:
        self.refuse_closed()
        if self._broken:
            raise InputError(f"an earlier change of {self.path} failed; close this writer and open another")

    def _parts(self, progress: Callable[[float], None] | None) -> list[Part]:
        """All segments, the new one last."""
        manifest = self.index.manifest
        parts = [
            Part(entry, segment_files(manifest, entry), deleted, deleted is not live.deleted)
            for entry, live, deleted in zip(manifest.segments, self.index.segments, self._deleted, strict=True)
        ]
        if self._pending is not None and self._pending.documents:
            entry, counts = self._pending.finish(progress, block_max_from=SMALL)
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
        """One segment of several, without what is deleted."""
        opened = {live.segment.entry.path: live.segment for live in self.index.segments}
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
        """A name that was never used, and is noted: the generation, and a number within it."""
        self._segments_written += 1
        name = f"{SEGMENTS}/{self.index.manifest.generation + 1:08d}-{self._segments_written}"
        name = self._hold.free_name(name)
        self._hold.note([name])
        return name

    def _next_manifest(self, parts: Sequence[Part]) -> tuple[IndexManifest, dict[str, bytes]]:
        """The manifest of the next generation, and the tombstones in it that are to be written."""
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
        """Forget what was not committed, and let other writers in. In a child of the process that opened the writer
        nothing is done: all of it is the parent's.
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

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
