"""What the system does not let us read is told by the system's name for it, and is never called damaged."""

from __future__ import annotations

import builtins
import ctypes
import errno
import io
import os
import shutil
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from splade_edge.runtime import (
    Document,
    Encoder,
    Index,
    IndexUpdater,
    InputError,
    IntegrityError,
    Searcher,
    StorageError,
    build_index,
    open_artifact,
)
from splade_edge.runtime.build.checkpointing import partial_directory
from splade_edge.runtime.cli.info import describe
from splade_edge.runtime.index import segment
from splade_edge.runtime.index.sqlite import SqliteReader
from splade_edge.runtime.repair.check import check_index
from splade_edge.runtime.repair.recovery import repair_index

from .. import tiny
from ..storm import child_of
from ..transformers import write_transformer_artifact

WORDS = [word for word in tiny.WORDS if not word.startswith("##")]
KINDS = ["EACCES", "EPERM", "EMFILE", "ENFILE", "EIO", "ESTALE", "ENOMEM"]
WHERE = 'title != "Kenya" and n < 30'
nobody = pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two segments, one with deleted documents; arrays are mapped, and read; an encoder in a file of our own."""
    place = tmp_path_factory.mktemp("refused")
    encoder = write_transformer_artifact(place / "encoder")
    rng = np.random.default_rng(0)

    def documents(first: int, count: int) -> list[Document]:
        return [
            Document(f"d{n}", "Peru", " ".join(rng.choice(WORDS, 9)), {"n": n}) for n in range(first, first + count)
        ]

    build_index(place / "index", documents(0, 60), encoder, encoder, fields=["n"])
    with IndexUpdater.open(place / "index", document_encoder=encoder, threads=1) as updater:
        updater.add(documents(60, 5))
        updater.delete(["d7"])
    return place / "index"


@pytest.fixture
def index(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "index"))


def use(path: Path) -> None:
    """All that reads."""
    with Searcher.open(path, threads=1) as searcher:
        assert searcher.search("cat in the rain", 3)
        searcher.search("cat in the rain", 3, where=WHERE)
        assert searcher.index.find("nope") is None
        assert len(searcher.index.documents(range(64))) == 64


def check(path: Path) -> None:
    check_index(path).close()


def files_of(path: Path) -> list[str]:
    return sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file() and p.suffix != ".lock")


def whole(path: str | os.PathLike[str], dir_fd: int | None = None) -> Path:
    """Where a name lies that may be relative to an open directory."""
    return Path(path) if dir_fd is None else Path(f"/proc/self/fd/{dir_fd}").readlink() / path


@contextmanager
def refusing(refused: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The system refuses to open a file, by whatever call."""

    def refuse(opened: Callable[..., Any]) -> Callable[..., Any]:
        def open_or_refuse(path: Any, *args: Any, **options: Any) -> Any:
            if isinstance(path, str | os.PathLike) and whole(path, options.get("dir_fd")) == refused:
                raise OSError(number, os.strerror(number), str(path))
            return opened(path, *args, **options)

        return open_or_refuse

    with monkeypatch.context() as patch:
        for module, call in ((builtins, "open"), (io, "open"), (os, "open")):
            patch.setattr(module, call, refuse(getattr(module, call)))
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_and_every_kind(pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Also where arrays are mapped that are so small that they would be read."""
    number = getattr(errno, kind)
    for small in (segment.SMALL, 0):
        monkeypatch.setattr(segment, "SMALL", small)
        for name in files_of(pristine):
            refused: list[StorageError] = []
            for action in (use, check, lambda path: repair_index(path, tmp_path / "out")):
                with refusing(pristine / name, number, monkeypatch):
                    try:
                        action(pristine)
                    except StorageError as error:
                        refused.append(error)
            expected = f"cannot read {pristine / name}: {os.strerror(number)} ({kind}); "
            assert [str(error)[: len(expected)] for error in refused] == [expected] * len(refused)
            assert {error.errno for error in refused} == {number}
            assert not any("\n" in str(error) for error in refused)
            assert len(refused) >= 2, name  # a card or a report is not read by a search
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_directory(pristine: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    number = getattr(errno, kind)
    looked = os.stat

    def refuse(path: Any, *args: Any, **options: Any) -> Any:
        if isinstance(path, str | os.PathLike) and f"{pristine}/segments/" in str(whole(path, options.get("dir_fd"))):
            raise OSError(number, os.strerror(number), str(path))
        return looked(path, *args, **options)

    monkeypatch.setattr(os, "stat", refuse)
    for action in (use, check, repair_index):
        with pytest.raises(StorageError, match=rf"cannot read {pristine}/segments/.* \({kind}\); "):
            action(pristine)


@pytest.mark.parametrize(
    ("code", "damaged"),
    [
        (sqlite3.SQLITE_CANTOPEN, False),
        (sqlite3.SQLITE_IOERR, False),
        (sqlite3.SQLITE_IOERR_READ, False),
        (sqlite3.SQLITE_PERM, False),
        (sqlite3.SQLITE_NOMEM, False),
        (sqlite3.SQLITE_IOERR_SHORT_READ, True),
        (sqlite3.SQLITE_CORRUPT, True),
        (sqlite3.SQLITE_NOTADB, True),
        (sqlite3.SQLITE_ERROR, True),
        (None, True),
    ],
)
def test_what_sqlite_says(pristine: Path, code: int | None, damaged: bool) -> None:
    class Connection:
        def execute(self, *_: object) -> None:
            error = sqlite3.OperationalError("so it is")
            if code is not None:
                error.sqlite_errorcode = code
            raise error

        def close(self) -> None:
            pass

    reader = SqliteReader(pristine / "segments/00000001/documents.sqlite")
    whole, reader._connection = reader._connection, Connection()  # type: ignore[assignment]
    with pytest.raises(IntegrityError if damaged else StorageError, match="so it is"):
        reader.query("SELECT 1")
    reader._connection = whole
    assert reader.query("SELECT 1") == [(1,)]
    reader.close()


def test_sqlite_does_not_say_why(pristine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """We ask the system ourselves."""
    reader = SqliteReader(pristine / "segments/00000001/documents.sqlite")

    def refuse(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    class Connection:
        def execute(self, *_: object) -> None:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
            raise error

    reader._connection = Connection()  # type: ignore[assignment]
    monkeypatch.setattr(os, "pread", refuse)
    with pytest.raises(StorageError, match=r"documents\.sqlite: Input/output error \(EIO\); the disk or the network"):
        reader.query("SELECT 1")


@pytest.mark.skipif(os.name == "nt", reason="needs a limit on descriptors")
def test_no_descriptors_are_left(index: Path, tiny_pair: Path) -> None:
    """At whichever file they run out."""
    import resource

    def build(path: Path) -> None:
        build_index(path.with_name("built"), [Document("a", text="cat")], tiny_pair, force=True)

    def change(path: Path) -> None:
        with IndexUpdater.open(path.with_name("built"), document_encoder=tiny_pair, threads=1) as updater:
            updater.update([Document("b", text="dog"), Document("a", text="cat")])

    build(index)
    use(index)
    check(index)
    descriptors = Path("/proc/self/fd")
    used = len(list(descriptors.iterdir())) if descriptors.is_dir() else 64

    def limited(limit: int) -> Callable[[], str]:
        def work() -> str:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            said = []
            for action in (use, check, lambda path: repair_index(path), build, change):
                try:
                    action(index)
                    said.append("ok")
                except StorageError as error:
                    said.append(
                        "refused" if "(EMFILE); this process has too many files open" in str(error) else str(error)
                    )
            return " ".join(said)

        return work

    found = [child_of(limited(limit))() for limit in range(used, used + 36)]
    assert set(" ".join(found).split(" ")) == {"ok", "refused"}, found
    assert found[-1] == "ok ok ok ok ok"
    assert found[0] == "refused refused refused refused refused"


def as_nobody(action: Callable[[], object]) -> str:
    def work() -> str:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            return str(action())
        except StorageError as error:
            return f"StorageError: {error}"

    return child_of(work)()


@pytest.fixture
def theirs(pristine: Path) -> Iterator[Path]:
    """An index that everybody may read, in a directory that everybody may search; all that reads has been loaded. Not
    where pytest has its directories: a second pytest would close that to others.
    """
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        index = Path(shutil.copytree(pristine, Path(place) / "index"))
        for path in (index, *index.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        use(index)
        check(index)
        yield index


@nobody
class TestPermissions:
    def test_everything_may_be_read_and_nothing_written(self, theirs: Path) -> None:
        before = {name: (theirs / name).read_bytes() for name in files_of(theirs)}
        assert as_nobody(lambda: use(theirs)) == "None"
        assert as_nobody(lambda: check(theirs)) == "None"
        assert as_nobody(lambda: IndexUpdater.open(theirs)).startswith("StorageError: cannot write ")
        assert {name: (theirs / name).read_bytes() for name in files_of(theirs)} == before

    def test_files(self, theirs: Path) -> None:
        for name in files_of(theirs):
            (theirs / name).chmod(0)
            said = [as_nobody(partial(action, theirs)) for action in (use, check, repair_index)]
            refusal = f"StorageError: cannot read {theirs / name}: Permission denied (EACCES); let this user read it"
            assert [one.startswith(refusal) for one in said[1:]] == [True, True], said
            assert said[0] == "None" or said[0].startswith(refusal), said
            (theirs / name).chmod(0o644)

    def test_directories(self, theirs: Path) -> None:
        for directory in (theirs, *(p for p in theirs.rglob("*") if p.is_dir())):
            directory.chmod(0)
            for action in (use, check, repair_index):
                said = as_nobody(partial(action, theirs))
                assert said.startswith(f"StorageError: cannot read {directory}"), said
                assert "Permission denied (EACCES)" in said
            directory.chmod(0o755)

    def test_info(self, theirs: Path) -> None:
        theirs.chmod(0)
        said = as_nobody(lambda: describe(theirs))
        assert said.startswith(f"StorageError: cannot read {theirs}: Permission denied (EACCES); let this user"), said

    def test_repair_drops_only_what_it_is_told_to(self, theirs: Path) -> None:
        """Else what may be whole would be lost."""
        place = theirs.parent / "place"
        place.mkdir()
        place.chmod(0o777)
        name = f"segments/{sorted(p.name for p in (theirs / 'segments').iterdir())[-1]}/documents.sqlite"
        (theirs / name).chmod(0)
        said = as_nobody(lambda: repair_index(theirs, place / "out"))
        assert said.endswith("nothing is repaired, for it may be whole: --without-unreadable drops it")
        assert list(place.iterdir()) == []

        def repaired() -> list[str]:
            report = repair_index(theirs, place / "out", without_unreadable=True)
            assert report.rescued is None  # the documents are where nobody may read them
            return [*report.damaged, *report.lost]

        said = as_nobody(repaired)
        assert said.startswith(f"['{name}', ")
        assert "documents.sqlite is left out" in said
        assert sorted(p.name for p in place.iterdir()) == ["out"]
        check(place / "out")
        (theirs / name).chmod(0o644)
        check(theirs)

    def test_repair_does_not_call_damage_what_it_leaves_out(self, theirs: Path) -> None:
        """Who may read it has another remedy than who has to copy it again."""
        place = theirs.parent / "place"
        place.mkdir()
        place.chmod(0o777)
        (theirs / "encoder/query/tokenizer.json").chmod(0)
        said = as_nobody(lambda: repair_index(theirs, place / "out", without_unreadable=True).lost)
        assert f"{theirs}/encoder/query/tokenizer.json is left out (cannot read" in said
        assert "let this user read it" in said
        assert "damaged" not in said
        for file in (theirs / "segments").glob("*/documents.sqlite"):
            file.chmod(0)
        said = as_nobody(lambda: repair_index(theirs, place / "other", without_unreadable=True))
        assert said.startswith(f"BeyondRepairError: {theirs} is beyond repair without what cannot be read: cannot read")
        assert "let this user read it" in said
        assert "copy it again" not in said

    def test_what_cannot_be_listed_is_not_replaced(self, theirs: Path, tiny_pair: Path) -> None:
        """It may be of anybody."""
        theirs.parent.chmod(0o777)
        (theirs / "splade_edge_index.lock").touch()
        (theirs / "splade_edge_index.lock").chmod(0o666)
        (theirs / "segments/mine").mkdir(0o700)
        (theirs / "segments/mine/thesis.txt").write_text("mine")
        documents = [Document("a", text="cat")]
        build_index(theirs.parent / "other", documents, tiny_pair)  # all that writes has been loaded
        encoder, query = Encoder.open(tiny_pair, "document"), open_artifact(tiny_pair, "query")
        said = as_nobody(lambda: build_index(theirs, documents, encoder, query, force=True))
        assert said.startswith(f"StorageError: cannot read {theirs / 'segments/mine'}: Permission denied (EACCES)")
        assert (theirs / "segments/mine/thesis.txt").read_text() == "mine"

    def test_a_manifest_that_may_not_be_read(self, theirs: Path) -> None:
        (theirs / "splade_edge_index.json").chmod(0)
        place = theirs.parent / "place"
        place.mkdir()
        place.chmod(0o777)
        said = as_nobody(lambda: repair_index(theirs, place / "out"))
        assert "let this user read it" in said
        assert "without it the index is lost, and --without-unreadable only saves the documents that can be" in said
        said = as_nobody(lambda: repair_index(theirs, place / "out", without_unreadable=True))
        assert said.startswith(f"BeyondRepairError: {theirs} is beyond repair (cannot read ")
        assert f"documents that can be read are in {place}/out.rescued.jsonl: index them again" in said
        (place / "out.rescued.jsonl").unlink()
        (theirs / "segments").chmod(0)
        (theirs / "splade_edge_index.json").chmod(0o644)
        (theirs / "splade_edge_index.json").write_text("{")
        said = as_nobody(lambda: repair_index(theirs, place / "out"))
        assert said.startswith(f"StorageError: cannot read {theirs}/segments: Permission denied (EACCES)"), said
        assert list(place.iterdir()) == []
        (theirs / "segments").chmod(0o755)
        segment = sorted((theirs / "segments").iterdir())[0]
        segment.chmod(0)
        said = as_nobody(lambda: repair_index(theirs, place / "out"))
        assert said.startswith(f"StorageError: cannot read {segment}: Permission denied (EACCES)"), said
        assert said.endswith("and --without-unreadable only saves the documents that can be read")
        assert list(place.iterdir()) == []

    def test_an_index_that_may_not_be_replaced(self, theirs: Path, tiny_pair: Path) -> None:
        """The advice is one for the command that was given."""
        documents = [Document("a", text="cat")]
        build_index(theirs.parent / "other", documents, tiny_pair)  # all that writes has been loaded
        encoder, query = Encoder.open(tiny_pair, "document"), open_artifact(tiny_pair, "query")
        said = as_nobody(lambda: build_index(theirs, documents, encoder, query, force=True))
        assert said.endswith("no permission to write there; let this user write to it, or choose another output"), said
        said = as_nobody(lambda: IndexUpdater.open(theirs))
        assert said.endswith("let this user write to the index, or change a copy of it"), said
        name = next(iter(sorted(p.name for p in (theirs / "segments").iterdir())))
        file = theirs / f"segments/{name}/term_impacts.u8"
        file.write_bytes(bytes(file.stat().st_size))
        said = as_nobody(lambda: repair_index(theirs))
        assert said.endswith("no permission to write there; let this user write to it, or name an output (-o)"), said

    def test_a_child_that_changes_its_user(self, theirs: Path) -> None:
        """As workers of a server do: it reads what was open before."""
        for path in theirs.rglob("*"):
            path.chmod(0o700 if path.is_dir() else 0o600)
        theirs.chmod(0o700)
        with Searcher.open(theirs, threads=1) as searcher:
            expected = [hit.id for hit in searcher.search("cat in the rain", 3, where=WHERE)]
            said = as_nobody(
                lambda: (
                    [hit.id for hit in searcher.search("cat in the rain", 3, where=WHERE)],
                    searcher.index.find("nope"),
                )
            )
            assert said == str((expected, None))
            assert as_nobody(searcher.refresh).startswith(f"StorageError: cannot read {theirs}")

    def test_an_encoder(self, theirs: Path) -> None:
        encoder = theirs / "encoder/query"
        (encoder / "kernel/int8.bin").chmod(0)
        said = as_nobody(lambda: Encoder.open(encoder))
        assert said.startswith(f"StorageError: cannot read {encoder / 'kernel/int8.bin'}: Permission denied"), said
        said = as_nobody(lambda: Encoder.open(encoder, check=False))
        assert said.startswith(f"StorageError: cannot read {encoder / 'kernel/int8.bin'}: Permission denied"), said


def test_repair_without_what_cannot_be_read(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place: the original, which may be whole, stays beside it."""
    name = "segments/00000001/block_impacts.u8"
    with refusing(index / name, errno.EIO, monkeypatch):
        report = repair_index(index, without_unreadable=True)
    assert report.rebuilt == [name]
    assert report.lost == []
    assert "(EIO)" in report.damaged[name]
    assert report.original == index.with_name("index.damaged")
    check(report.original)
    check(index)


def test_a_path_with_two_slashes(index: Path) -> None:
    use(Path(f"/{index}"))
    check(Path(f"/{index}"))


@pytest.mark.parametrize("name", ["a b", "a?b#c%41", "ü☃", "mode=rw&x"])
def test_names_that_mean_something_elsewhere(index: Path, name: str) -> None:
    use(index.rename(index.with_name(name)))


def test_a_searcher_that_another_thread_closes(index: Path) -> None:
    """It is told so, wherever it was."""
    for _ in range(5):
        searcher = Searcher.open(index, threads=1)
        errors: list[BaseException] = []

        def work(searcher: Searcher = searcher, errors: list[BaseException] = errors) -> None:
            try:
                for n in range(100_000):
                    searcher.search("cat in the rain", 3, where=f"title != 'x{n}'")
                    searcher.index.find(f"x{n}")
            except BaseException as error:  # noqa: BLE001 - told by the main thread
                errors.append(error)  # noqa: B023

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        threading.Event().wait(0.05)
        searcher.close()
        for thread in threads:
            thread.join()
        assert [type(error) for error in errors] == [InputError] * 3
        assert all("is closed; open it again" in str(error) for error in errors)


def test_damage_is_still_damage(index: Path) -> None:
    """Bytes that were read, and are wrong; and files that are not there."""
    for name in ("documents.sqlite", "fields.sqlite", "posting_units.u16", "term_blocks.u64"):
        file = index / "segments/00000001" / name
        data = file.read_bytes()
        file.write_bytes(bytes([data[0] ^ 0xFF]) + data[1:])
        with pytest.raises(IntegrityError, match=name):
            check(index)
        file.unlink()
        with pytest.raises(IntegrityError, match=f"{name} is missing"):
            use(index)
        file.write_bytes(data)
    use(index)


def test_an_open_index_of_a_closed_one(index: Path) -> None:
    with Index.open(index) as opened:
        pass
    for action in (lambda: opened.documents([0]), lambda: opened.find("d1"), lambda: opened.fields):
        with pytest.raises(InputError, match="is closed; open it again"):
            action()


@pytest.mark.skipif(os.name == "nt", reason="pipes, and working directories that are removed")
def read_only(place: Path, action: Callable[[], object]) -> str:
    """What an action says in a child for which a directory is mounted read-only."""

    def work() -> str:
        libc = ctypes.CDLL(None, use_errno=True)
        new_namespace, private, bind, remounted = 0x20000, (1 << 18) | (1 << 14), 1 << 12, 1 | (1 << 5) | (1 << 12)
        target = os.fsencode(place)
        if libc.unshare(new_namespace) or libc.mount(None, b"/", None, private, None):
            return "no namespace"
        if libc.mount(target, target, None, bind, None) or libc.mount(None, target, None, remounted, None):
            return "no mount"
        try:
            return str(action())
        except StorageError as error:
            return f"StorageError: {error}"

    return child_of(work)()


@nobody
@pytest.mark.skipif(sys.platform != "linux", reason="mounts in a namespace of a process")
class TestReadOnlyMounts:
    def test_an_index_is_read_and_not_changed(self, theirs: Path, tiny_pair: Path) -> None:
        place, before = theirs.parent, {name: (theirs / name).read_bytes() for name in files_of(theirs)}
        build_index(place / "other", [Document("a", text="cat")], tiny_pair)  # all that writes has been loaded
        if (said := read_only(place, lambda: use(theirs))).startswith("no "):
            pytest.skip(f"{said} for a process here")
        assert said == "None"
        assert read_only(place, lambda: check(theirs)) == "None"
        for action in (
            lambda: IndexUpdater.open(theirs),
            lambda: build_index(place / "new", [Document("a", text="cat")], tiny_pair),
            lambda: build_index(theirs, [Document("a", text="cat")], tiny_pair, force=True),
        ):
            said = read_only(place, action)
            assert said.startswith("StorageError: cannot write "), said
            assert "the file system is read-only" in said, said
            assert "damaged" not in said
        assert {name: (theirs / name).read_bytes() for name in files_of(theirs)} == before

    def test_a_damaged_index_is_repaired_elsewhere(self, theirs: Path, tmp_path: Path) -> None:
        file = next(theirs.glob("segments/*/posting_impacts.u8"))
        file.write_bytes(bytes([*file.read_bytes()[:-1], 0]))
        assert read_only(theirs.parent, lambda: use(theirs)) in ("None", "no mount", "no namespace")
        said = read_only(theirs.parent, lambda: repair_index(theirs))
        if said.startswith("no "):
            pytest.skip(f"{said} for a process here")
        assert said.startswith("StorageError: cannot write ")
        assert "name an output (-o)" in said
        said = read_only(theirs.parent, lambda: repair_index(theirs, tmp_path / "saved").original)
        assert said == "None"
        check(tmp_path / "saved")


class TestOddPlaces:
    @pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path.parent / "none")])
    def test_a_lock_that_is_no_file(self, index: Path, make: Callable[[Path], object]) -> None:
        """Nothing waits for the other end of a pipe, and the error says what to do."""
        lock = index / "splade_edge_index.lock"
        lock.unlink(missing_ok=True)
        make(lock)
        with pytest.raises(StorageError, match=r"\.lock is not a regular file, so it is no lock; remove it"):
            IndexUpdater.open(index)
        assert os.path.lexists(lock)
        lock.rmdir() if lock.is_dir() else lock.unlink()
        IndexUpdater.open(index).close()

    def test_a_working_directory_that_was_removed(self, tiny_pair: Path, index: Path, tmp_path: Path) -> None:
        def work() -> str:
            gone = tmp_path / "gone"
            gone.mkdir()
            os.chdir(gone)
            gone.rmdir()
            Searcher.open(index).close()
            document = Document("a", "", "cat")
            for use in (
                lambda: build_index("new", [document], tiny_pair),
                lambda: Searcher.open("index"),
                lambda: Searcher.open("."),
                lambda: IndexUpdater.open("index"),
                lambda: repair_index("index"),
                lambda: partial_directory(Path("new")),
            ):
                with pytest.raises(StorageError, match=r"the working directory was removed, and .* full path"):
                    use()
            return "good"

        assert child_of(work)() == "good"
