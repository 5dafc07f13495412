"""Changing an index directory: what is added and deleted becomes visible in one step, by a new manifest.

The only writer of what writer.py has made. Everything new goes into files that the manifest does not list yet; they
are flushed to the disk, then the manifest is replaced, and only then what no manifest lists any more is removed. So
whenever a writer dies, the index is that of the last manifest; what else lies there is removed by the next writer.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from ..corpus import Document
from ..errors import InputError
from ..files import STAGING_PREFIX, operations, reading, storage_errors
from ..forking import Owner
from ..locking import writer_lock
from ..manifest import FileEntry, describe_file, write_manifest
from ..scorer.arrays import Bools
from ..vectors import SparseBatch
from ..version import MADE_BY
from ..where.spelling import spell_field
from .documents import DuplicateIdError
from .index import Index
from .layout import (
    LOCK_NAME,
    MANIFEST_NAME,
    MAX_UNITS,
    SEGMENTS,
    TOMBSTONES,
    VERSION,
    IndexManifest,
    SegmentEntry,
    SegmentSettings,
    Statistics,
)
from .merge import Source, merge_segments
from .policy import SMALL, to_merge
from .segment import Segment, segment_files
from .segment_writer import PassageSpan, SegmentWriter, list_segment
from .tombstones import write_tombstones

_OURS = re.compile(r"\d{8}[-.0-9a-z]*")  # names we give to segments and tombstones


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


@dataclass
class _Part:
    """A segment of the next generation: its entry and files, which documents are deleted, and if that is news."""

    entry: SegmentEntry
    files: dict[str, FileEntry]
    deleted: Bools | None
    changed: bool

    @property
    def dead(self) -> int:
        return 0 if self.deleted is None else int(np.count_nonzero(self.deleted))

    @property
    def live(self) -> int:
        return self.entry.documents - self.dead


class Transaction:
    """The one writer of an index directory, until :meth:`close`. Nothing is visible before :meth:`commit`.

    Raises IndexLockedError where there is another, IndexFormatError, IntegrityError, StorageError.
    """

    def __init__(self, path: str | Path, *, memory_bytes: int = 512 << 20) -> None:
        self.path = Path(path)
        self._memory_bytes = memory_bytes
        self._owner = Owner()
        self._closing = contextlib.ExitStack()
        with reading(self.path):
            if not (self.path / MANIFEST_NAME).is_file():
                Index.open(self.path)  # says what is wrong with it
        self._closing.enter_context(writer_lock(self.path / LOCK_NAME))
        try:
            with storage_errors(self.path):  # if a writer died just before this, its manifest must not be lost any more
                operations.sync(self.path / MANIFEST_NAME)
                operations.sync(self.path)
            self.index = Index.open(self.path)
            self._uncertain = self._broken = False
            self._clean()
            self._begin()
        except BaseException:
            self._closing.close()
            raise

    def _begin(self) -> None:
        manifest = self.index.manifest
        self.settings = manifest.settings or _settings(self.index)
        self._deleted = [live.deleted for live in self.index.segments]  # replaced by a copy when one is deleted
        self._pending: SegmentWriter | None = None
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
                self.path,
                self._next_segment(),
                self.index.manifest.vocab_size,
                passages=self.settings.passages,
                fields=self.settings.fields,
                memory_bytes=self._memory_bytes,
                scale=self.index.manifest.scale,
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
        for run in reversed(runs):
            parts[run.start : run.stop] = [self._merge(parts[run.start : run.stop])]
        done = self.added, self.updated, self.deleted
        if not (news or runs):
            self._clean()
            self._begin()
            self._broken = False
            return Commit(base.generation, *done, base.live, len(base.segments), 0, 0)
        manifest = self._next_manifest(parts)
        self._sync(manifest)
        committed = Index(self.path, manifest, self.index)  # before: what cannot be opened must not be committed
        try:
            self._uncertain = True  # until we go by the new manifest: to clean up by the old one would remove its files
            write_manifest(self.path / MANIFEST_NAME, manifest)
        except BaseException:
            committed.close()
            raise
        previous, self.index = self.index, committed
        self._uncertain = False
        previous.close()
        clipped = manifest.statistics.clipped - base.statistics.clipped
        self._clean()
        self._begin()
        self._broken = False
        return Commit(manifest.generation, *done, manifest.live, len(manifest.segments), merged, clipped)

    def refuse_child(self) -> None:
        """Raise InputError in a child of the process that opened the writer."""
        self._owner.refuse_child(f"this writer of {self.path}")

    def _refuse_broken(self) -> None:
        self.refuse_child()
        if self._broken:
            raise InputError(f"an earlier change of {self.path} failed; close this writer and open another")

    def _parts(self, progress: Callable[[float], None] | None) -> list[_Part]:
        """All segments, the new one last."""
        manifest = self.index.manifest
        parts = [
            _Part(entry, segment_files(manifest, entry), deleted, deleted is not live.deleted)
            for entry, live, deleted in zip(manifest.segments, self.index.segments, self._deleted, strict=True)
        ]
        if self._pending is not None and self._pending.documents:
            entry, counts = self._pending.finish(progress, block_max_from=SMALL)
            deleted = np.zeros(entry.documents, np.bool_)
            deleted[list(self._pending_deleted)] = True
            parts.append(
                _Part(entry, list_segment(self.path, entry.path), deleted if deleted.any() else None, changed=True)
            )
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

    def _merge(self, parts: Sequence[_Part]) -> _Part:
        """One segment of several, without what is deleted."""
        opened = {live.segment.entry.path: live.segment for live in self.index.segments}
        with contextlib.ExitStack() as stack:
            sources = []
            for part in parts:
                segment = opened.get(part.entry.path)
                if segment is None:
                    manifest = msgspec.structs.replace(self.index.manifest, files=part.files)
                    segment = Segment(self.path, manifest, part.entry)
                    stack.callback(segment.close)
                sources.append(Source(segment, part.deleted))
            scale = self.index.manifest.scale
            entry = merge_segments(self.path, self._next_segment(), sources, self.settings, scale, self._memory_bytes)
        return _Part(entry, list_segment(self.path, entry.path), None, changed=True)

    def _next_segment(self) -> str:
        """A name that was never used: the generation, and a number within it."""
        self._segments_written += 1
        return f"{SEGMENTS}/{self.index.manifest.generation + 1:08d}-{self._segments_written}"

    def _next_manifest(self, parts: Sequence[_Part]) -> IndexManifest:
        """The manifest of the next generation; tombstones that are news are written."""
        base = self.index.manifest
        generation = base.generation + 1
        files = {n: e for n, e in base.files.items() if not n.startswith((f"{SEGMENTS}/", f"{TOMBSTONES}/"))}
        entries = []
        for part in parts:
            entry = part.entry
            files |= part.files
            if part.changed and part.dead:
                assert part.deleted is not None
                name = f"{TOMBSTONES}/{generation:08d}.{entry.path.rpartition('/')[2]}"
                if not (self.path / TOMBSTONES).is_dir():
                    with storage_errors(self.path):
                        operations.make_directory(self.path / TOMBSTONES)
                write_tombstones(self.path / name, part.deleted)
                files[name] = describe_file(self.path / name)
                entry = msgspec.structs.replace(entry, tombstones=name, deleted=part.dead)
            elif entry.tombstones is not None:
                files[entry.tombstones] = base.files[entry.tombstones]
            entries.append(entry)
        return msgspec.structs.replace(
            base,
            version=VERSION,
            generation=generation,
            files=files,
            segments=entries,
            settings=self.settings,
            statistics=self._statistics,
            made_by=MADE_BY,
        )

    def _sync(self, manifest: IndexManifest) -> None:
        """Flush the files that are new in a manifest, and the directories they are in."""
        new = [self.path / name for name in manifest.files if name not in self.index.manifest.files]
        with storage_errors(self.path):
            for path in new:
                operations.sync(path)
            directories = {self.path, *(path.parent for path in new), *(path.parent.parent for path in new)}
            for directory in sorted(directories, key=lambda d: len(d.parts), reverse=True):
                operations.sync(directory)

    def _clean(self) -> None:
        """Remove what dead writers left and what no generation needs any more; what cannot be removed now, the next
        writer will."""
        files = self.index.manifest.files
        used = {name.split("/")[1] for name in files if name.startswith((f"{SEGMENTS}/", f"{TOMBSTONES}/"))}
        with contextlib.suppress(OSError):
            for folder in (SEGMENTS, TOMBSTONES):
                if (self.path / folder).is_dir():
                    for path in sorted((self.path / folder).iterdir()):
                        if path.name not in used and _OURS.fullmatch(path.name):
                            with contextlib.suppress(OSError):  # open, on Windows
                                operations.remove(path)
            for path in self.path.glob(f"{STAGING_PREFIX}{MANIFEST_NAME}.*"):
                operations.remove(path)

    def close(self) -> None:
        """Forget what was not committed, and let other writers in. In a child of the process that opened the writer
        nothing is done: all of it is the parent's.
        """
        with self._closing:
            if not self._owner.is_here:
                return
            if self._pending is not None:
                self._pending.abort()
                self._pending = None
            if not self._uncertain:
                self._clean()
            self.index.close()

    def __enter__(self) -> Transaction:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _settings(index: Index) -> SegmentSettings:
    """The settings of an index of version 1, from the one segment it has."""
    segment = index.segments[0].segment
    fields = {} if segment.fields is None else segment.fields.counts
    indexed = sorted((counts.number, field) for field, counts in fields.items() if counts.number is not None)
    return SegmentSettings(
        fields=[spell_field(field) for _, field in indexed],
        passages=segment.entry.passages,
        block_max=segment.entry.rows > 0 or not segment.entry.postings,
        reorder=segment.entry.reordered,
    )
