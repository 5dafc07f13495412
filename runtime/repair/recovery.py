"""Recovery of a damaged index: a new index of everything that can be saved takes its place."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np

from ..artifact import MANIFEST_NAME as ARTIFACT_MANIFEST
from ..artifact import Artifact, ArtifactManifest, open_artifact, variant_files
from ..build.artifact_copy import copy_artifact
from ..build.foreign_files import refuse_foreign_to_index
from ..build.staging import staged_directory
from ..document import Document
from ..encoder.tokenizer import TextTokenizer
from ..errors import InputError, IntegrityError, SpladeEdgeError, StorageError
from ..files import absolute_path, reading, safe_join, storage_errors
from ..index.index import Index
from ..index.layout import DOCUMENTS_FILE, LOCK_NAME, MANIFEST_NAME, IndexManifest, SegmentEntry
from ..index.segment import segment_files
from ..index.tombstones import read_tombstones
from ..locking import writer_lock
from ..manifest import FileEntry, describe_file, write_manifest
from ..staged_file import staged_file
from .check import check_index, find_current_damage, read_index_manifest
from .postings_recovery import Bools, UnusableSegmentError
from .segment_recovery import SegmentRecovery, documents_of

RESCUED_SUFFIX = ".rescued.jsonl"
ORIGINAL_SUFFIX = ".damaged"
_SIDES = ("query", "document")


class BeyondRepairError(IntegrityError):
    """Nothing of an index can be searched any more. The message says where the saved documents are."""


@dataclass(frozen=True)
class Repair:
    """What a repair has done.

    Attributes
    ----------
    damaged
        The reason by the name of each damaged file, relative to the index.
    rebuilt
        Names of the damaged files that were rebuilt.
    lost
        What was lost, one line each. If nothing was, the index answers as before.
    rescued
        A file of documents, in BEIR form, that could be read but are not in the index any more; None if there are none.
    original
        Where the damaged index is now; None if it was not replaced.
    """

    damaged: dict[str, str]
    rebuilt: list[str]
    lost: list[str]
    rescued: Path | None
    original: Path | None = None


def repair_index(
    path: str | Path,
    output: str | Path | None = None,
    *,
    fields: Sequence[str] | None = None,
    without_unreadable: bool = False,
) -> Repair:
    """Write an index of everything that can be saved of another, checked in full.

    It replaces the damaged index in one step, or goes to ``output``. The index that is replaced stays beside it, under
    its name with ``.damaged``, until the user deletes it. An index without damage is left alone, and none is written.

    A file that the system refuses to read may be whole. So nothing is repaired then, unless ``without_unreadable`` is
    true.

    Parameters
    ----------
    path
        The index directory.
    output
        Where the new index goes; None: it replaces the damaged one.
    fields
        Names of stored fields that get an index where that has to be made again; None: those that had one.
    without_unreadable
        Whether a file that the system refuses to read counts as damaged.

    Returns
    -------
    Repair
        What was done.

    Raises
    ------
    BeyondRepairError
        If no segment can be searched. Its documents are saved as far as they can be read.
    InputError
        If ``output`` exists, or files of an earlier repair do.
    IndexFormatError
        If there is no index, or one that this release cannot read.
    IndexLockedError
        If another process is changing the index.
    StorageError
        If the system refuses to read or write.
    """
    path = Path(path)
    target = Path(output) if output is not None else path
    absolute = absolute_path(path)  # `.` has no name to add to
    rescue = target.with_name(target.name + RESCUED_SUFFIX)
    original = absolute.with_name(absolute.name + ORIGINAL_SUFFIX)
    if rescue.exists():
        raise InputError(f"{rescue} exists, of an earlier repair; move it away")
    manifest, damaged, unreadable = _damage_of(path, rescue, without_unreadable)
    if not damaged:
        check_index(path).close()
        return Repair({}, [], [], None)
    if output is None and os.path.lexists(original):
        raise InputError(f"{original} exists, of an earlier repair; move it away, or delete it if it is not needed")
    if output is not None and os.path.lexists(target):
        raise InputError(f"{target} exists; move it away, or choose another output")
    with contextlib.ExitStack() as held:
        if output is None and sys.platform != "win32":  # changes that a writer made meanwhile would be lost
            held.enter_context(writer_lock(path / LOCK_NAME, "let this user write to it, or name an output (-o)"))
            _refuse_changed(path, manifest)
        kept = original if output is None else None
        staging = held.enter_context(
            staged_directory(
                target,
                manifest=MANIFEST_NAME,
                force=output is None,
                refuse=refuse_foreign_to_index,
                keep=kept,
                may_force=False,
            )
        )
        repair = _Repairing(path, manifest, damaged, unreadable.keys(), staging, fields)
        repair.segments()
        _refuse_changed(path, manifest)  # with another output there is no lock: a writer may have removed files
        if manifest.segments and not repair.kept:
            raise _beyond_repair(path, "; ".join(repair.reasons), rescue, unreadable, without_unreadable)
        repair.encoders()
        repair.commit()
        with Index.open(staging) as index:
            index.check()
        rescued = 0
        if repair.unusable:
            rescued = _write_documents(rescue, (document for one in repair.unusable for _, document in one.documents()))
            if not rescued:
                rescue.unlink()
    return Repair(damaged, repair.rebuilt, repair.lost, rescue if rescued else None, kept)


def _damage_of(
    path: Path, rescue: Path, without_unreadable: bool
) -> tuple[IndexManifest, dict[str, str], dict[str, StorageError]]:
    """The manifest, the reason by damaged file, and the error by unreadable file. Raises as :func:`repair_index`."""
    unreadable: dict[str, StorageError] = {}
    try:
        read_index_manifest(path)
    except IntegrityError as error:
        raise _beyond_repair(path, str(error), rescue, unreadable, without_unreadable) from None
    except StorageError as error:
        if not without_unreadable:
            raise _refused([error], lost="the index") from error
        raise _beyond_repair(path, str(error), rescue, unreadable, without_unreadable) from None
    manifest, damaged = find_current_damage(path, unreadable)
    if unreadable and not without_unreadable:
        raise _refused(list(unreadable.values())) from next(iter(unreadable.values())).__cause__
    damaged |= {name: f"is left out ({error})" for name, error in unreadable.items()}
    return manifest, damaged, unreadable


def _refuse_changed(path: Path, manifest: IndexManifest) -> None:
    """Raise IntegrityError if a writer has committed to the index since its manifest was read."""
    if read_index_manifest(path) != manifest:
        raise IntegrityError(f"{path} was changed while it was read; run the command again")


def _refused(errors: Sequence[StorageError], lost: str | None = None) -> StorageError:
    """The error if something may not be read. ``lost``: what would not be saved without it."""
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    drops = (
        "--without-unreadable drops it"
        if lost is None
        else f"without it {lost} is lost, and --without-unreadable only saves the documents that can be read"
    )
    return StorageError(f"{errors[0]}{more}; nothing is repaired, for it may be whole: {drops}")


class _Repairing:
    """One repair, which writes the new index into ``staging``."""

    def __init__(
        self,
        path: Path,
        manifest: IndexManifest,
        damaged: Mapping[str, str],
        unreadable: Collection[str],
        staging: Path,
        fields: Sequence[str] | None,
    ) -> None:
        self._path = path
        self._manifest = manifest
        self._damaged = damaged
        self._unreadable = unreadable
        self._staging = staging
        self._fields = fields
        self._files: dict[str, FileEntry] = {}
        self.kept: list[SegmentEntry] = []
        self.unusable: list[SegmentRecovery] = []
        self.reasons: list[str] = []
        self.rebuilt: list[str] = []
        self.lost: list[str] = []
        self._sides: dict[str, str | None] = {}

    def segments(self) -> None:
        """Copy undamaged segments, rebuild damaged ones, leave out those that cannot be searched."""
        for position, entry in enumerate(self._manifest.segments):
            names = list(segment_files(self._manifest, entry))
            names += [entry.tombstones] if entry.tombstones else []
            if not self._damaged.keys() & set(names):
                for name in names:
                    self._copy(name)
                self.kept.append(entry)
                continue
            deleted = self._deleted(position)
            recovered = SegmentRecovery(
                self._path, self._manifest, entry, self._damaged.keys(), self._unreadable, deleted, self._term_name
            )  # fmt: skip
            directory = safe_join(self._staging, entry.path)
            try:
                with storage_errors(self._staging):
                    new = recovered.write(directory, self._fields)
            except UnusableSegmentError as error:
                shutil.rmtree(directory, ignore_errors=True)
                self.unusable.append(recovered)
                self.reasons.append(str(error))
                self.lost.append(f"{entry.path}, {entry.live:,} documents: {error}")
                continue
            self.kept.append(new.entry)
            self.rebuilt += new.rebuilt
            self.lost += new.lost
            for file in sorted(directory.iterdir()):
                self._files[f"{entry.path}/{file.name}"] = describe_file(file)

    def _deleted(self, position: int) -> Bools | None:
        """The deleted documents of a segment. If their file is damaged: those that a later document has replaced."""
        entry = self._manifest.segments[position]
        if entry.tombstones not in self._damaged:
            return read_tombstones(self._path, self._manifest, entry)
        later: set[str] = set()
        for other in self._manifest.segments[position + 1 :]:
            later.update(document.id for _, document in self._documents_of(other))
        deleted = np.zeros(entry.documents, np.bool_)
        own = [(ordinal, document.id) for ordinal, document in self._documents_of(entry)]
        for ordinal, document_id in reversed(own):
            deleted[ordinal] = document_id in later
            later.add(document_id)
        unknown = entry.deleted - int(deleted.sum())
        if unknown > 0:
            self.lost.append(
                f"which {unknown:,} of the {entry.documents:,} documents of {entry.path} were deleted: they are in "
                "the index again; delete them again"
            )
        return deleted

    def _documents_of(self, entry: SegmentEntry) -> Iterator[tuple[int, Document]]:
        """The documents of a segment that can be read."""
        name = f"{entry.path}/{DOCUMENTS_FILE}"
        return iter(()) if name in self._unreadable else documents_of(safe_join(self._path, name), entry.documents)

    def _term_name(self, term: int) -> str:
        return repr(self._vocabulary[term]) if self._vocabulary else str(term)

    @cached_property
    def _vocabulary(self) -> list[str]:
        """The terms by id, from an encoder's tokenizer; empty if none can be read."""
        for relative in (self._manifest.query_encoder, self._manifest.document_encoder):
            if relative is not None:
                with contextlib.suppress(SpladeEdgeError):
                    path = safe_join(self._path, f"{relative}/tokenizer.json")
                    tokenizer = TextTokenizer(path, 1 << 20)
                    return tokenizer.vocabulary(self._manifest.vocab_size)
        return []

    def encoders(self) -> None:
        """Copy the encoders, with their undamaged graphs."""
        for side in _SIDES:
            relative = getattr(self._manifest, f"{side}_encoder")
            self._sides[f"{side}_encoder"] = None
            if relative is None:
                continue
            prefix = f"{relative}/"
            damaged = {name.removeprefix(prefix) for name in self._damaged if name.startswith(prefix)}
            try:
                kept = self._copy_encoder(relative, damaged)
            except StorageError:
                raise
            except SpladeEdgeError as error:
                shutil.rmtree(self._staging / relative, ignore_errors=True)
                remedy = ": search with --query-encoder PAIR" if side == "query" else ""
                self.lost.append(f"the {side} encoder ({error}){remedy}")
                continue
            self.lost += [f"{prefix}{name}" for name in sorted(kept)]
            self._sides[f"{side}_encoder"] = relative
            name = f"{prefix}{ARTIFACT_MANIFEST}"
            self._files[name] = describe_file(self._staging / name)

    def _copy_encoder(self, relative: str, damaged: set[str]) -> set[str]:
        """Copy an encoder without its damaged graphs; returns the files that are left out."""
        directory = safe_join(self._path, relative)
        for name in (ARTIFACT_MANIFEST, "tokenizer.json"):
            if name in damaged:
                raise IntegrityError(f"{directory / name} {self._damaged[f'{relative}/{name}']}")
        manifest: ArtifactManifest = open_artifact(directory, check=False).manifest
        left_out = {name for v in manifest.variants if damaged & set(variant_files(v)) for name in variant_files(v)}
        left_out |= damaged
        whole = {name: entry for name, entry in manifest.files.items() if name not in left_out}
        variants = [v for v in manifest.variants if not left_out & set(variant_files(v))]
        copy = safe_join(self._staging, relative)
        with storage_errors(self._staging):
            copy.mkdir(parents=True)
            copy_artifact(
                Artifact(directory, msgspec.structs.replace(manifest, files=whole, variants=variants)),
                copy,
                lambda _: True,
            )
        return left_out

    def commit(self) -> None:
        """Write the manifest of the new index."""
        manifest = msgspec.structs.replace(
            self._manifest,
            files=dict(sorted(self._files.items())),
            generation=self._manifest.generation + 1,
            segments=self.kept,
            **self._sides,
        )
        write_manifest(self._staging / MANIFEST_NAME, manifest)

    def _copy(self, name: str) -> None:
        target = safe_join(self._staging, name)
        with storage_errors(self._staging):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(safe_join(self._path, name), target)
            self._files[name] = describe_file(target)
        if self._files[name] != self._manifest.files[name]:
            raise IntegrityError(f"{safe_join(self._path, name)} changed while it was copied; run the command again")


def _beyond_repair(
    path: Path, reason: str, rescue: Path, unreadable: Mapping[str, StorageError], without_unreadable: bool
) -> BeyondRepairError:
    """Save all documents that can be read, and return the error that says where they are.

    Raises StorageError if the system refuses to read some, and they must not be left out.
    """

    def saved() -> Iterator[Document]:
        for file in sorted(path.glob(f"segments/*/{DOCUMENTS_FILE}")):
            if file.relative_to(path).as_posix() in unreadable:
                continue
            try:
                yield from (document for _, document in documents_of(file))
            except StorageError as error:
                if not without_unreadable:
                    raise _refused([error], lost="the index") from error.__cause__

    if (path / "segments").exists() and not without_unreadable:
        with reading(path / "segments"):  # glob() takes a directory that it may not read for an empty one
            segments = [segment for segment in (path / "segments").iterdir() if segment.is_dir()]
        for segment in segments:
            try:
                with reading(segment):
                    next(segment.iterdir(), None)
            except StorageError as error:
                raise _refused([error], lost="the index") from error.__cause__
    count = _write_documents(rescue, saved())
    if not count:
        rescue.unlink()
        if unreadable:  # these files may be whole
            more = f" (and {len(unreadable) - 1} more)" if len(unreadable) > 1 else ""
            return BeyondRepairError(
                f"{path} is beyond repair without what cannot be read: {next(iter(unreadable.values()))}{more}"
            )
        return BeyondRepairError(
            f"{path} is beyond repair, and none of its documents can be read ({reason}): copy it again from where it "
            "is whole, or index the documents anew"
        )
    return BeyondRepairError(
        f"{path} is beyond repair ({reason}); its {count:,} documents that can be read are in {rescue}: "
        "index them again"
    )


def _write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Write documents in BEIR form; returns how many."""
    count = 0
    with staged_file(path) as file:
        for document in documents:
            line = {**document.metadata, "_id": document.id, "title": document.title, "text": document.text}
            file.write(msgspec.json.encode(line).decode() + "\n")
            count += 1
    return count
