"""A process forks, and parent and child go on: with the same answers, and none with what is the other's."""

from __future__ import annotations

import importlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from splade_edge.runtime import Document, Encoder, Index, IndexUpdater, InputError, Searcher, build_index, forking
from splade_edge.runtime.artifact import MANIFEST_NAME, SideSettings
from splade_edge.runtime.build.checkpointing import ShardStore
from splade_edge.runtime.build.staging import staged_directory
from splade_edge.runtime.errors import IndexLockedError
from splade_edge.runtime.files import OpenFile, operations
from splade_edge.runtime.index import sqlite
from splade_edge.runtime.staged_file import staged_file

from benchmarks.changes import Changes, csr, stored

from .. import storm, tiny
from ..storm import child_of

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
QUERY = "cat in the rain"
WRITERS = """
import sys
from pathlib import Path
from tests import storm
faults = storm.writers(Path({path!r}), 10)
print(faults)
sys.exit(bool(faults))
"""


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return storm.write_indexes(tmp_path_factory.mktemp("storm"))


@pytest.fixture(params=["kernel", "onnx"])
def searcher(request: pytest.FixtureRequest, indexes: dict[str, Path]) -> Iterator[Searcher]:
    with Searcher.open(indexes[request.param], threads=2, backend=request.param) as opened:
        yield opened


@pytest.fixture
def written(tmp_path: Path) -> Path:
    Changes(size=30).build(tmp_path / "written")
    return tmp_path / "written"


def told(action: Callable[[], object], count: int = 1) -> list[str]:
    """What so many children say of the result."""
    return [outcome() for outcome in [child_of(lambda: repr(action()), seconds=30) for _ in range(count)]]


class TestStorms:
    @pytest.mark.parametrize("backend", ["kernel", "onnx", "openvino"])
    @pytest.mark.parametrize("kind", ["warm", "cold"])
    def test_no_child_hangs(self, indexes: dict[str, Path], backend: str, kind: str) -> None:
        if backend not in indexes:
            pytest.skip("needs OpenVINO")
        command = [sys.executable, "-m", "tests.storm", "--kind", kind, "--forks", "10", "--backend", backend]
        process = subprocess.run(
            [*command, "--index", str(indexes[backend])], capture_output=True, encoding="utf-8", timeout=300
        )
        assert process.returncode == 0, process.stdout + process.stderr
        assert '"faults": 0' in process.stdout

    def test_writers(self, tmp_path: Path) -> None:
        code = WRITERS.format(path=str(tmp_path / "i"))
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=300)
        assert process.returncode == 0, process.stdout + process.stderr

    def test_a_hang_and_a_wrong_answer_are_seen(self) -> None:
        reading, _ = os.pipe()
        assert child_of(lambda: "x")() == "x"
        assert child_of(lambda: str(1 // 0))() == "ZeroDivisionError: integer division or modulo by zero"
        assert child_of(lambda: os.read(reading, 1).decode(), seconds=0.3)() == "hang (said b'')"


class TestSearching:
    def test_filters_and_unknown_ids(self, searcher: Searcher, indexes: dict[str, Path]) -> None:
        """Whole files are hashed at the first of each: at the same time in all of the children."""
        assert told(lambda: len(searcher.search(QUERY, 3, where='title != "Kenya"')), 4) == ["3"] * 4
        assert told(lambda: searcher.index.find("nope"), 4) == ["None"] * 4
        assert told(lambda: searcher.index.select("n < 7").count, 2) == ["7"] * 2

    def test_pools(self, searcher: Searcher) -> None:
        def work() -> list[list[str]]:
            list(searcher.encoder.encode_query([QUERY] * 20))
            vectors = [searcher.encode_query(QUERY)] * 5
            assert len(list(searcher.index.search_many(vectors, 3, threads=2))) == 5
            return [[hit.id for hit in hits] for hits in searcher.search_many([QUERY, "piano"] * 4, 3)]

        expected = work()  # the pools are there
        assert told(work, 2) == [repr(expected)] * 2
        assert work() == expected

    def test_a_generator_goes_on_in_both(self, searcher: Searcher) -> None:
        expected = [[hit.id for hit in hits] for hits in searcher.search_many([QUERY, "piano"] * 700, 3)]
        begun = searcher.search_many([QUERY, "piano"] * 700, 3)
        first = [[hit.id for hit in next(begun)] for _ in range(3)]

        def rest() -> int:
            found = first + [[hit.id for hit in hits] for hits in begun]
            return int(found == expected)

        assert told(rest) == ["1"]
        assert rest() == 1

    def test_rows_go_on_in_both(self, searcher: Searcher) -> None:
        documents = searcher.index.segments[0].segment.documents
        rows = documents._file.query_in_parts("SELECT id FROM documents ORDER BY ordinal", (), 7)
        first = [next(rows), next(rows)]
        assert told(lambda: [r[0] for part in rows for r in part]) == [repr([f"d{n}" for n in range(14, 400)])]
        assert [r[0] for part in [*first, *rows] for r in part] == [f"d{n}" for n in range(400)]

    def test_a_child_opens_what_it_needs_where_it_lies(self, indexes: dict[str, Path], tmp_path: Path) -> None:
        """Moved, removed, and replaced by another: the parent's files are read."""
        for what in ("move", "remove", "replace"):
            path = Path(shutil.copytree(indexes["onnx"], tmp_path / what))
            with Searcher.open(path, threads=2, backend="onnx") as opened:
                expected = repr(storm.answers(opened))
                if what == "move":
                    path.rename(tmp_path / "elsewhere")
                else:
                    shutil.rmtree(path)
                if what == "replace":
                    documents = [Document(f"other{n}", "", "dog") for n in range(400)]
                    build_index(path, documents, indexes["onnx"].parent / "graph")
                assert told(partial(storm.answers, opened)) == [expected]
                assert repr(storm.answers(opened)) == expected

    def test_what_is_too_large_to_be_held_is_told(self, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sqlite, "_MOST_IN_MEMORY", 100)
        with Index.open(written) as index:
            shutil.rmtree(written)
            [said] = told(lambda: index.documents([0]))
            assert said.startswith("StorageError: cannot read ")
            assert "too large to be held in memory; open the index again" in said
            assert index.documents([0])

    def test_a_child_is_as_wary_of_a_file_as_its_parent(self, written: Path) -> None:
        with Index.open(written) as index:
            file = index.segments[0].segment.documents._file
            for ask in (file.query, lambda sql: list(file.query_in_parts(sql, (), 1))):
                [said] = told(partial(ask, "ATTACH ':memory:' AS other"))
                assert said.startswith("IntegrityError: ")
                assert "too many attached databases" in said
            file._schema = "CREATE TABLE another (a)"
            [said] = told(partial(file.query, "SELECT 1"))
            assert "its schema is another" in said

    @pytest.mark.skipif(not tiny.HAS_OPENVINO, reason="needs OpenVINO")
    def test_openvino_is_refused(self, indexes: dict[str, Path]) -> None:
        with Searcher.open(indexes["openvino"], threads=1, backend="openvino") as opened:
            expected = opened.search(QUERY, 1)
            for action in (
                lambda: opened.search(QUERY, 1),
                lambda: Encoder.open(indexes["onnx"].parent / "graph", backend="openvino"),
            ):
                [said] = told(action)
                assert said.startswith("ArtifactError: ")
                assert "start processes by spawn, or use another backend" in said
            assert opened.search(QUERY, 1) == expected


class TestPickling:
    def test_a_searcher_is_opened_again_with_its_settings(self, indexes: dict[str, Path]) -> None:
        with Searcher.open(indexes["onnx"], threads=2, idf=0.3, approximate=0.9, backend="onnx") as opened:
            with pickle.loads(pickle.dumps(opened)) as again:
                assert again.search(QUERY, 5) == opened.search(QUERY, 5)
                assert (again.threads, again.idf, again.approximate) == (2, 0.3, 0.9)
                assert again.encoder.variant == opened.encoder.variant
            some = opened.encoder.restricted(np.arange(10))
            assert pickle.loads(pickle.dumps(some)).encode_query(QUERY).indices.max() < 10

    def test_sides_and_shapes(self, tmp_path: Path) -> None:
        sides = {"query": SideSettings(prompt="the bird: ", max_length=8), "document": SideSettings(max_length=16)}
        path = tiny.write_artifact(tmp_path / "both", sides=sides, max_active_dims=3, normalization="all terms")
        terms = np.arange(0, len(tiny.VOCABULARY), 2)
        for side in (None, "query", "document"):
            encoder = Encoder.open(path, side, threads=1)
            for one in (encoder, encoder.restricted(terms), encoder.restricted(terms).restricted(np.arange(9))):
                again = pickle.loads(pickle.dumps(one))
                for expected, found in zip(one.encode([QUERY], "query"), again.encode([QUERY], "query"), strict=True):
                    assert found.vector.indices.tolist() == expected.vector.indices.tolist()
                    assert found.vector.values.tolist() == expected.vector.values.tolist()
            if side is None:
                with pytest.raises(InputError, match="reads queries otherwise"):
                    again.encode_text(QUERY)
            else:
                assert again.max_length == encoder.max_length == sides[side].max_length

    def test_some_terms_share_the_graph(self, indexes: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
        with Searcher.open(indexes["onnx"], threads=1, backend="onnx") as opened:
            monkeypatch.setattr(Encoder, "__init__", None)  # nothing is opened again
            some = opened.encoder.restricted(np.arange(10))
            given = some.through(lambda run, batch: run(batch))
            assert list(given.encode([QUERY], "query"))
            with pytest.raises(InputError, match="stays in its process"):
                pickle.dumps(given)

    def test_the_newest_generation_of_then(self, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(written.parent)
        with Index.open(written.name) as index:
            sent = pickle.dumps(index)
        with IndexUpdater.open(written) as updater:
            updater.delete(["d1-3"])
        monkeypatch.chdir("/")
        with pickle.loads(sent) as again:
            assert (again.generation, len(again)) == (2, 29)

    def test_another_encoder_in_its_place(self, tmp_path: Path) -> None:
        encoder = Encoder.open(tiny.write_artifact(tmp_path / "a"))
        sent = pickle.dumps(encoder)
        shutil.rmtree(tmp_path / "a")
        tiny.write_table_artifact(tmp_path / "a", np.linspace(0, 2, len(tiny.VOCABULARY)))
        with pytest.raises(Exception, match="has not the graph any more that it had"):
            pickle.loads(sent)

    def test_a_writer_stays(self, written: Path) -> None:
        with IndexUpdater.open(written) as updater, pytest.raises(TypeError, match="open one there, after closing"):
            pickle.dumps(updater)


class TestWriters:
    def test_a_child_can_do_nothing_with_it(self, written: Path) -> None:
        with IndexUpdater.open(written) as updater:
            updater.add_vectors(stored(["x"]), csr([np.ones(12, np.float32)]))
            before = sorted(written.rglob("*"))

            def spoil() -> str:
                said = []
                for action in (
                    lambda: updater.delete(["x"]),
                    lambda: updater.add_vectors(stored(["y"]), csr([np.ones(12, np.float32)])),
                    updater.commit,
                    updater.compact,
                    lambda: updater.__exit__(None, None, None),
                ):
                    with pytest.raises(InputError, match=rf"is of process {os.getppid()}, which forked; only that one"):
                        action()
                    said.append("refused")
                updater.close()
                return " ".join(said)

            assert child_of(spoil)() == "refused " * 4 + "refused"
            assert sorted(written.rglob("*")) == before
            with pytest.raises(IndexLockedError):
                IndexUpdater.open(written)  # the child has not let it go
        with Index.open(written) as index:
            index.check()
            assert index.find("x") == 30

    def test_the_lock_goes_with_its_writer_and_not_with_a_child(self, written: Path) -> None:
        reading, writing = os.pipe()
        updater = IndexUpdater.open(written)
        outcome = child_of(lambda: os.read(reading, 1).decode())
        updater.close()
        IndexUpdater.open(written).close()  # while the child lives
        os.write(writing, b"x")
        assert outcome() == "x"

    def test_the_lock_of_a_killed_writer_is_free_though_its_child_lives(self, written: Path) -> None:
        reading, writing = os.pipe()
        told_by, tell = os.pipe()
        parent = os.fork()
        if not parent:
            updater = IndexUpdater.open(written)
            child = os.fork()
            if not child:
                os.read(reading, 1)
                os._exit(0)
            os.write(tell, b"%d\n" % child)
            time.sleep(60)
            updater.close()
            os._exit(0)
        assert int(os.read(told_by, 20))
        with pytest.raises(IndexLockedError):
            IndexUpdater.open(written)
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        IndexUpdater.open(written).close()
        os.write(writing, b"x")

    def test_what_is_in_a_buffer_is_written_once(self, tmp_path: Path) -> None:
        file = operations.create(tmp_path / "file")
        operations.write(file, b"abc")
        assert child_of(lambda: str(file.close()))() == "None"
        operations.write(file, b"def")
        file.close()
        assert (tmp_path / "file").read_bytes() == b"abcdef"

    def test_a_staged_directory_is_the_parents(self, tmp_path: Path) -> None:
        with staged_directory(tmp_path / "target", manifest=MANIFEST_NAME) as staging:
            (staging / "a").write_text("a")

            def leave() -> str:
                with pytest.raises(InputError, match="which forked"):
                    staged.__exit__(None, None, None)
                return "left"

            staged = staged_directory(tmp_path / "other", manifest=MANIFEST_NAME)
            other = staged.__enter__()
            assert child_of(leave)() == "left"
            assert other.is_dir()
            staged.__exit__(None, None, None)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "target"]

    def test_a_staged_file_is_the_parents(self, tmp_path: Path) -> None:
        staged = staged_file(tmp_path / "file")
        file = staged.__enter__()
        file.write("abc")

        def leave() -> str:
            with pytest.raises(InputError, match="which forked"):
                staged.__exit__(None, None, None)
            return "left"

        assert child_of(leave)() == "left"
        file.write("def")
        staged.__exit__(None, None, None)
        assert (tmp_path / "file").read_text() == "abcdef"

    def test_shards_are_the_parents(self, tmp_path: Path, tiny_pair: Path) -> None:
        encoder = Encoder.open(tiny_pair, "document", threads=1)
        store = ShardStore(tmp_path / "i.partial", encoder)
        store.write(0, b"x" * 32, list(encoder.encode(["cat"])))
        assert told(partial(store.close, keep=False)) == ["None"]
        assert store.read(0, b"x" * 32, 1) is not None
        with pytest.raises(InputError, match="in use by another process"):
            ShardStore(tmp_path / "i.partial", encoder)
        reading, writing = os.pipe()
        outcome = child_of(lambda: os.read(reading, 1).decode())
        store.close(keep=True)
        ShardStore(tmp_path / "i.partial", encoder).close(keep=False)  # while the child lives
        os.write(writing, b"x")
        assert outcome() == "x"


class TestForking:
    def test_a_lock_that_another_thread_held_is_free(self) -> None:
        lock, ready, done = forking.new_lock(), threading.Event(), threading.Event()

        def hold() -> None:
            with lock:
                ready.set()
                done.wait(30)

        thread = threading.Thread(target=hold)
        thread.start()
        ready.wait()
        assert told(lambda: lock.acquire(timeout=5)) == ["True"]
        assert lock.locked()
        done.set()
        thread.join()

    def test_a_fork_waits_for_what_must_not_be_cut_in_two(self) -> None:
        ready, order = threading.Event(), []

        def work() -> None:
            with forking.undivided, forking.undivided:
                ready.set()
                time.sleep(0.2)
                order.append("ended")

        thread = threading.Thread(target=work)
        thread.start()
        ready.wait()
        assert told(lambda: order) == ["['ended']"]
        thread.join()
        with forking.undivided:  # a thread does not wait for itself, and is inside in the child, too
            assert told(lambda: forking.undivided.__exit__()) == ["None"]

    def test_a_fork_does_not_wait_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(forking, "PATIENCE", 0.1)
        ready, done = threading.Event(), threading.Event()

        def work() -> None:
            with forking.undivided:
                ready.set()
                done.wait(30)

        thread = threading.Thread(target=work)
        thread.start()
        ready.wait()
        assert told(lambda: "forked") == ["'forked'"]
        done.set()
        thread.join()

    def test_a_fork_waits_for_imports(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "slow_to_import.py").write_text("import time; time.sleep(0.5); DONE = 1\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        thread = threading.Thread(target=importlib.import_module, args=("slow_to_import",))
        thread.start()
        while "slow_to_import" not in sys.modules:
            time.sleep(0.001)
        assert told(lambda: importlib.import_module("slow_to_import").DONE) == ["1"]
        thread.join()

    def test_threads_that_fork_at_once(self) -> None:
        said: list[str] = []
        threads = [threading.Thread(target=lambda: said.extend(told(lambda: "x", 5))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert said == ["'x'"] * 20

    def test_a_server_that_forks_by_itself(self) -> None:
        """Some tell the interpreter of the child alone: nothing was taken before, and nothing is let go."""

        def work() -> str:
            forking._in_child()
            with forking.undivided:
                return "inside"

        assert child_of(work)() == "inside"

    def test_an_open_file_has_no_offset(self, tmp_path: Path) -> None:
        data = os.urandom(3 << 20)
        (tmp_path / "file").write_bytes(data)
        file = OpenFile(tmp_path / "file")
        (tmp_path / "file").unlink()
        outcomes = [child_of(file.sha256) for _ in range(3)]
        mine = file.sha256()
        assert {outcome() for outcome in outcomes} == {mine}
        parts = file.parts(1500)
        assert b"".join(parts) == data[:1500]
        file.close()
        file.close()
        with pytest.raises(InputError, match="file is closed; open it again"):
            file.sha256()
