"""A writer changes the index it opened, and no other; nor does a reader go on with another. See also `make soak`."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from splade_edge.runtime import Document, Index, IndexUpdater, Searcher, build_index
from splade_edge.runtime import directory as directories
from splade_edge.runtime import files as file_operations
from splade_edge.runtime.build import sqlite_writer
from splade_edge.runtime.build.sqlite_writer import SqliteWriter
from splade_edge.runtime.directory import Directory
from splade_edge.runtime.errors import IndexFormatError, IndexLockedError, IndexReplacedError, InputError, StorageError
from splade_edge.runtime.index import sqlite
from splade_edge.runtime.index.layout import LOCK_NAME, MANIFEST_NAME
from splade_edge.runtime.index.sqlite import SqliteReader
from splade_edge.runtime.repair.check import check_index
from splade_edge.runtime.repair.recovery import repair_index
from splade_edge.runtime.vectors import SparseBatch

from benchmarks.changes import csr, stored
from benchmarks.interruptions import change, contents, prepare
from benchmarks.swaps import tree

posix = pytest.mark.skipif(os.name == "nt", reason="directories that are open are not moved")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prepared") / "index"
    prepare(path)
    return path


@pytest.fixture
def index(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "index"))


def one(name: str = "new") -> tuple[list[Document], object]:
    return stored([name]), csr([np.ones(12, np.float32)])


class TestClosed:
    @pytest.mark.parametrize(
        "act",
        [
            lambda u: u.commit(), lambda u: u.compact(), lambda u: u.delete(["a"]), lambda u: u.add_vectors(*one()),
            lambda u: u.index.search_vector(([0], [1.0])), lambda u: u.delete(["a"], ignore_missing=True),
            lambda u: u.add_vectors([], SparseBatch.stack([])), lambda u: u.add([]), lambda u: u.delete([]),
        ],
    )  # fmt: skip
    def test_a_closed_writer_refuses(self, index: Path, act: Callable[[IndexUpdater], object]) -> None:
        updater = IndexUpdater.open(index)
        updater.add_vectors(*one())
        updater.close()
        before = tree(index)
        for _ in range(2):  # what was refused before is no other reason
            with pytest.raises(InputError, match="is closed; open"):
                act(updater)
        assert tree(index) == before

    def test_to_close_again_does_nothing_to_the_next_writer(self, index: Path) -> None:
        first = IndexUpdater.open(index)
        first.close()
        with IndexUpdater.open(index) as second:
            second.add_vectors(*one())
            first.close()
            with pytest.raises(IndexLockedError):
                IndexUpdater.open(index)
        with Index.open(index) as opened:
            assert opened.find("new") is not None
            opened.check()

    def test_a_directory_that_is_closed_is_not_another_that_has_its_number(self, tmp_path: Path) -> None:
        for name in "ab":
            (tmp_path / name).mkdir()
            (tmp_path / name / "x").write_text(name)
        first = Directory(tmp_path / "a")
        entry = first.root / "x"
        assert entry.read_bytes() == b"a"
        first.hold()
        first.release()
        assert entry.read_bytes() == b"a"
        first.release()
        second = Directory(tmp_path / "b")
        with pytest.raises(InputError, match="is closed; open it again"):
            entry.read_bytes()
        assert (second.root / "x").read_bytes() == b"b"
        second.release()
        with pytest.raises(InputError, match="is closed; open it again"):
            first.hold()

    @posix
    @pytest.mark.parametrize("act", [Index.refresh, Index.check])
    def test_nor_while_another_thread_closes_it(
        self, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[Index], object]
    ) -> None:
        """The number is free, and given to the next, between the look at it and the call that takes it."""
        opened = Index.open(index)
        other = Path(shutil.copytree(index, tmp_path / "other"))
        for path in other.rglob("*"):
            if path.is_file():
                path.write_bytes(b"another's")
        real, closed = os.open, threading.Event()

        def closing(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if dir_fd is not None and not closed.is_set():
                closed.set()
                opened.close()
                others.append(real(other, os.O_RDONLY))
            return real(path, flags, mode, dir_fd=dir_fd)

        others: list[int] = []
        monkeypatch.setattr(os, "open", closing)
        with contextlib.suppress(InputError):  # that it is closed
            act(opened)
        assert closed.is_set()
        os.close(others[0])


@posix
class TestPlaces:
    def test_a_relative_path_is_that_of_the_moment(self, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        other = Path(shutil.copytree(index, index.parent / "elsewhere/index"))
        before = tree(other)
        monkeypatch.chdir(index.parent)
        reader = Index.open("index")
        updater = IndexUpdater.open("index")
        monkeypatch.chdir(other.parent)
        updater.add_vectors(*one())
        updater.commit()
        assert reader.refresh().find("new") is not None
        monkeypatch.chdir("/")
        updater.delete(["new"])
        updater.commit()
        updater.close()
        assert reader.refresh().find("new") is None
        assert tree(other) == before

    def test_a_link_within_the_path(self, index: Path) -> None:
        """``link/../index`` is beside what the link leads to, not beside the link."""
        (index.parent / "deep/er").mkdir(parents=True)
        there = Path(shutil.copytree(index, index.parent / "deep/index"))
        (index.parent / "link").symlink_to("deep/er")
        before = tree(index)
        with IndexUpdater.open(index.parent / "link/../index") as updater:
            updater.add_vectors(*one())
        assert tree(index) == before
        assert Index.open(there).find("new") is not None

    @pytest.mark.parametrize("how", ["moved", "swapped", "flipped", "removed"])
    def test_a_reader_does_not_go_on_with_another(self, index: Path, how: str) -> None:
        other = index.with_name("other")
        shutil.copytree(index, other)
        with IndexUpdater.open(other) as updater:
            updater.add_vectors(*one("of the other"))
        path = index
        if how == "flipped":
            path = index.with_name("link")
            path.symlink_to(index)
        reader = Index.open(path)
        answer = reader.documents(range(len(reader)))
        if how == "flipped":
            path.unlink()
            path.symlink_to(other)
        elif how == "removed":
            shutil.rmtree(index)
        else:
            index.rename(index.with_name("moved"))
            if how == "swapped":
                other.rename(index)
        if how == "moved":
            with IndexUpdater.open(index.with_name("moved")) as updater:
                updater.add_vectors(*one())
            assert reader.refresh().find("new") is not None
        else:
            error = IndexFormatError if how == "removed" else IndexReplacedError
            with pytest.raises(error, match=r"has no splade|another directory lies at .* than the one that was opened"):
                reader.refresh()
        assert reader.documents(range(len(reader))) == answer

    def test_a_searcher_whose_index_is_replaced_while_it_is_opened(
        self, tmp_path: Path, tiny_pair: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("index", "other"):
            build_index(tmp_path / name, [Document(name, text="cat")], tiny_pair)
        opened = Index.open

        def meet(path: Path) -> Index:
            index = opened(path)
            (tmp_path / "index").rename(tmp_path / "moved")
            (tmp_path / "other").rename(tmp_path / "index")
            return index

        monkeypatch.setattr(Index, "open", meet)
        with pytest.raises(IndexReplacedError):
            Searcher.open(tmp_path / "index")

    def test_an_index_that_is_replaced_while_it_is_opened(self, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The one that is there then is opened."""
        other = Path(shutil.copytree(index, index.with_name("other")))
        with IndexUpdater.open(other) as updater:
            updater.add_vectors(*one())
        of = Index.of

        def meet(*arguments: object) -> Index:
            monkeypatch.setattr(Index, "of", of)
            shutil.rmtree(index)
            other.rename(index)
            return of(*arguments)

        monkeypatch.setattr(Index, "of", meet)
        assert Index.open(index).find("new") is not None


class TestSystems:
    """What is different elsewhere."""

    @pytest.mark.parametrize("case", ["add", "merge", "compact"])
    def test_without_descriptors_of_directories(self, index: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
        expected = Path(shutil.copytree(index, index.with_name("expected")))
        change(expected, case)
        monkeypatch.setattr(directories, "HAS_DIR_FD", False)
        change(index, case)
        assert tree(index).keys() == tree(expected).keys()
        assert contents(index) == contents(expected)

    @posix
    def test_without_them_another_directory_is_refused_at_once(
        self, index: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(directories, "HAS_DIR_FD", False)
        other = Path(shutil.copytree(index, index.with_name("other")))
        before = tree(other), tree(index)
        updater = IndexUpdater.open(index)
        updater.delete(["a"])
        index.rename(index.with_name("moved"))
        other.rename(index)
        with pytest.raises(IndexReplacedError):
            updater.add_vectors(*one())
        updater.close()
        assert (tree(index), tree(index.with_name("moved"))) == before

    def test_without_a_swap_of_files(self, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(file_operations, "renameat2", lambda *_: False)
        with IndexUpdater.open(index) as updater:
            updater.add_vectors(*one())
        with Index.open(index) as opened:
            assert opened.find("new") is not None
            assert tree(index).keys() == {*opened.manifest.files, MANIFEST_NAME}

    @posix
    def test_where_directories_have_no_locks(self, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The lock file alone keeps others out; who has lost it removes nothing, for another may be at work."""
        import fcntl
        import stat

        flock = fcntl.flock

        def files_alone(fd: int, operation: int) -> None:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                raise OSError(9, "Bad file descriptor")
            flock(fd, operation)

        monkeypatch.setattr("fcntl.flock", files_alone)
        updater = IndexUpdater.open(index)
        updater.add_vectors(*one())
        with pytest.raises(IndexLockedError):
            IndexUpdater.open(index)
        (index / LOCK_NAME).unlink()
        with IndexUpdater.open(index) as second:
            second.add_vectors(*one("second"))
        with pytest.raises(IndexReplacedError, match="was removed or replaced by another process"):
            updater.commit()
        before = tree(index)
        updater.close()
        assert tree(index) == before
        with Index.open(index) as opened:
            opened.check()
            assert opened.find("second") is not None
            assert opened.find("new") is None


@posix
class TestLinks:
    def test_a_lock_file_that_is_a_link_is_not_followed(self, index: Path) -> None:
        precious = index.with_name("precious")
        precious.write_text("kept")
        (index / LOCK_NAME).unlink()
        (index / LOCK_NAME).symlink_to(precious)
        with pytest.raises(StorageError, match=rf"{re.escape(LOCK_NAME)} is not a regular file"):
            IndexUpdater.open(index)
        assert precious.read_text() == "kept"

    @pytest.mark.parametrize("folder", ["segments", "tombstones"])
    def test_nothing_is_written_through_a_link(self, index: Path, folder: str) -> None:
        (index / folder).rename(index.with_name("away"))
        (index / folder).symlink_to(index.with_name("away"))
        Index.open(index).check()  # it may be read
        with pytest.raises(IndexFormatError, match="is a link, and may lead anywhere"):
            IndexUpdater.open(index)

    def test_nothing_is_removed_through_one(self, tmp_path: Path) -> None:
        (tmp_path / "root").mkdir()
        (tmp_path / "away/below").mkdir(parents=True)
        (tmp_path / "away/below/file").touch()
        (tmp_path / "root/link").symlink_to(tmp_path / "away")
        (tmp_path / "root/file").symlink_to(tmp_path / "away/below/file")
        root = Directory(tmp_path / "root").root
        for held in (True, False):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(directories, "HAS_DIR_FD", held)
                for name in ("link/below", "link/below/file"):
                    with pytest.raises(OSError, match=r"link|[Nn]ot a directory|symbolic"):
                        (root / name).remove()
        for name in ("link", "file", "nothing", "nothing/below"):
            (root / name).remove()
        assert (tmp_path / "away/below/file").exists()
        assert not list((tmp_path / "root").iterdir())


class TestSqlite:
    """It opens by path; what it has opened is compared with what we have."""

    @pytest.fixture
    def two(self, tmp_path: Path) -> tuple[Path, Path]:
        for name in "ab":
            writer = SqliteWriter(tmp_path / name, f"CREATE TABLE {name} (x)")
            writer.close()
        return tmp_path / "a", tmp_path / "b"

    def test_another_file_at_its_path_is_refused(self, two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
        a, b = two
        for module in (file_operations, sqlite_writer):
            monkeypatch.setattr(module, "locations", lambda *_: [b])
        assert SqliteReader(a).query("SELECT name FROM sqlite_master") == [("a",)]  # what is open is read
        before = b.read_bytes()
        with pytest.raises(StorageError, match="another file lies at its path"):
            SqliteWriter(a.with_name("c"), "CREATE TABLE x (x)")
        assert b.read_bytes() == before
        monkeypatch.setattr(file_operations, "locations", lambda *_: [b, a.with_name("none"), a])
        assert SqliteReader(a).query("SELECT name FROM sqlite_master") == [("a",)]

    @posix
    def test_a_directory_that_was_moved(self, two: tuple[Path, Path]) -> None:
        a, _ = two
        directory = Directory(a.parent)
        a.parent.rename(a.parent.with_name("moved"))
        a.parent.mkdir()
        shutil.copy(a.parent.with_name("moved") / "b", a)
        assert SqliteReader(directory.root / "a").query("SELECT name FROM sqlite_master") == [("a",)]
        writer = SqliteWriter(directory.root / "c", "CREATE TABLE c (x)")
        writer.close()
        assert (a.parent.with_name("moved") / "c").exists()
        assert not (a.parent / "c").exists()


class TestAWriterOvertakes:
    """A writer that commits while a reader opens removes what the reader was about to read."""

    @pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
    @pytest.mark.parametrize("read", ["open", "refresh", "check", "repair"])
    def test_at_each_step(
        self, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: str, stride: int
    ) -> None:
        left = 0  # steps until the writer overtakes; it has, or will not, at 0 and below

        def stepping(function: Callable[..., Any]) -> Callable[..., Any]:
            def step(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    change(path, "compact")
                return function(*args, **kwargs)

            return step

        for module, name in ((os, "open"), (sqlite, "connect"), (os, "stat"), (os, "fstat")):
            monkeypatch.setattr(module, name, stepping(getattr(module, name)))
        expected, overtaken, steps = None, True, 0
        while overtaken:
            path = Path(shutil.copytree(prepared, tmp_path / str(steps)))
            before = Index.open(path)
            if read == "refresh":
                change(path, "add")
            steps += stride
            left = steps
            if read == "repair":
                assert repair_index(path, tmp_path / "repaired").damaged == {}  # what was removed is no damage
                assert not (tmp_path / "repaired").exists()
                overtaken, left = left <= 0, 0
            index = (
                before.refresh() if read == "refresh" else check_index(path) if read == "check" else Index.open(path)
            )
            overtaken, left = overtaken if read == "repair" else left <= 0, 0
            answers = [d.id for d in index.documents(range(len(index)))]
            index.close()
            before.close()
            shutil.rmtree(path)
            expected = expected or answers
            assert answers == expected
        assert steps > 20

    def test_a_check_of_what_is_gone_is_no_damage(self, index: Path) -> None:
        with Index.open(index) as opened:
            change(index, "compact")
            with pytest.raises(IndexReplacedError, match="newer generation"):
                opened.check()


class TestForeignFiles:
    FOREIGN = ("thesis.txt", "segments/00000001/notes.txt", "segments/mine", "tombstones/of mine", "encoder/query/key")

    @pytest.fixture
    def built(self, tmp_path: Path, tiny_pair: Path) -> Path:
        documents = [Document(f"d{n}", text="cat dog") for n in range(5)]
        build_index(tmp_path / "index", documents, tiny_pair, fields=["n"], with_document_encoder=True)
        with IndexUpdater.open(tmp_path / "index") as updater:
            updater.add([Document("x", text="snow")])
            updater.delete(["d3"])
        return tmp_path / "index"

    @pytest.mark.parametrize("name", FOREIGN)
    def test_force_and_repair_refuse_to_remove_them(self, built: Path, tiny_pair: Path, name: str) -> None:
        (built / name).parent.mkdir(exist_ok=True)
        (built / name).write_text("mine")
        with pytest.raises(InputError, match=rf"holds files that are not of an index \({re.escape(name)}\)"):
            build_index(built, [Document("a", text="cat")], tiny_pair, force=True)
        damaged = built / "segments/00000001/block_impacts.u8"
        damaged.write_bytes(damaged.read_bytes() + b"x")
        with pytest.raises(InputError, match=rf"not of an index \({re.escape(name)}\)"):
            repair_index(built)
        assert (built / name).read_text() == "mine"
        assert repair_index(built, built.with_name("repaired")).rebuilt

    @posix
    def test_links_are_no_files_of_an_index(self, built: Path, tiny_pair: Path) -> None:
        (built / "segments/00000009").symlink_to(built.parent)
        with pytest.raises(InputError, match=r"not of an index \(segments/00000009\)"):
            build_index(built, [Document("a", text="cat")], tiny_pair, force=True)

    @pytest.mark.parametrize("what", ["whole", "no manifest", "no encoder's manifest", "left by a dead writer"])
    def test_a_damaged_index_has_none(self, built: Path, tiny_pair: Path, what: str) -> None:
        if what == "no manifest":
            (built / MANIFEST_NAME).write_bytes(b"{")
        elif what == "no encoder's manifest":
            (built / "encoder/query/splade_edge.json").write_bytes(b"\xff")
        elif what == "left by a dead writer":
            for name in ("segments/00000007-12/runs/000000.postings", "segments/00000007-12/posting_units.u16"):
                (built / name).parent.mkdir(parents=True, exist_ok=True)
                (built / name).touch()
            (built / f".splade-edge-{MANIFEST_NAME}.0123abcd").touch()
        build_index(built, [Document("a", text="cat")], tiny_pair, force=True)
        assert len(Index.open(built)) == 1
