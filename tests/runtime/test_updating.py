"""An index that lives: whatever was added, updated, deleted and merged, it answers as one built of what is left."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splade_edge.runtime import Document, Encoder, Index, IndexUpdater, Searcher, build_index
from splade_edge.runtime.artifact import open_artifact
from splade_edge.runtime.build.corpus import BadLines
from splade_edge.runtime.build.index_writer import IndexWriter
from splade_edge.runtime.build.passages import Passages, PassageSpan
from splade_edge.runtime.errors import (
    ArtifactError,
    CorpusError,
    IndexFormatError,
    IndexLockedError,
    IndexReplacedError,
    InputError,
    IntegrityError,
    SpladeEdgeWarning,
    StorageError,
)
from splade_edge.runtime.index import sqlite
from splade_edge.runtime.index.layout import LOCK_NAME, MANIFEST_NAME, VERSION
from splade_edge.runtime.manifest import write_manifest
from splade_edge.runtime.update import hold, merge, transaction
from splade_edge.runtime.update import merge_policy as policy
from splade_edge.runtime.vectors import SparseBatch, SparseVector

from tests import tiny
from tests.living import SCALE, Model, assert_same
from tests.oracle import csr, write_index

FIXTURES = Path(__file__).parents[1] / "fixtures" / "index-version-1"
LARGE = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="too slow without the JIT")
STEPS = ["add", "delete", "update", "mixed", "compact", "most"]
WORDS = [w for w in tiny.WORDS if not w.startswith("##")]


def names(path: Path) -> list[str]:
    return sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())


def listed(index: Index) -> list[str]:
    """The files an index may have."""
    return sorted([*index.manifest.files, MANIFEST_NAME, LOCK_NAME])


class TestAnswers:
    @settings(max_examples=10, deadline=None)
    @given(
        seed=st.integers(0, 10_000),
        passages=st.booleans(),
        reorder=st.booleans(),
        small=st.sampled_from([1, 16, 4096]),
        steps=st.lists(st.sampled_from(STEPS), min_size=1, max_size=6),
    )
    def test_are_those_of_a_rebuild(self, tmp_path_factory, seed, passages, reorder, small, steps):
        root = tmp_path_factory.mktemp("living")
        model = Model(9, seed, passages=passages)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(policy, "SMALL", small)
            for module in (merge, transaction):
                patch.setattr(module, "BLOCK_MAX_FROM", small)
            model.rebuild(root / "index", reorder=reorder).close()
            index = Index.open(root / "index")
            for n, step in enumerate(["add", *steps]):
                generation = Index.open(root / "index").generation
                with IndexUpdater.open(root / "index") as updater:
                    if step in ("add", "mixed"):
                        model.add(updater, model.new(int(model.rng.integers(1, 40))))
                    if step in ("delete", "mixed", "most"):
                        model.delete(updater, model.some(len(model.documents) - 1 if step == "most" else 5))
                    if step in ("update", "mixed"):
                        changed = model.some(6)
                        documents = [model.make(i) for i in [*changed, *changed[:2], f"new {n}"]]
                        model.add(updater, documents, replace=True)
                    if step == "compact":
                        updater.compact()
                index = index.refresh()
                assert index.generation <= generation + 1
                index.check()
                assert names(root / "index") == listed(index)
                expected = model.rebuild(root / f"rebuilt {n}", reorder=reorder)
                assert_same(index, expected, model.rng)
                expected.close()
            with IndexUpdater.open(root / "index") as updater:
                updater.compact()
            index = Index.open(root / "index")
            assert len(index.segments) == (1 if model.documents else 0)
            assert_same(index, Index.open(root / f"rebuilt {n}"), model.rng)

    @LARGE
    def test_a_compacted_index_is_that_of_a_rebuild_byte_by_byte(self, tmp_path):
        """All but the ids' uniqueness in the schema is the same file."""
        model = Model(6)
        model.rebuild(tmp_path / "index").close()
        for count in (3000, 2500, 2000):
            with IndexUpdater.open(tmp_path / "index") as updater:
                model.add(updater, model.new(count))
                model.delete(updater, model.some(300))
        with IndexUpdater.open(tmp_path / "index") as updater:
            commit = updater.compact()
        assert (commit.segments, commit.documents) == (1, len(model.documents))
        expected = model.rebuild(tmp_path / "rebuilt")
        [entry] = Index.open(tmp_path / "index").manifest.segments
        for path in (tmp_path / "rebuilt" / "segments/00000001").iterdir():
            assert (tmp_path / "index" / entry.path / path.name).read_bytes() == path.read_bytes(), path.name
        assert msgspec.structs.replace(entry, path="") == msgspec.structs.replace(
            expected.manifest.segments[0], path=""
        )

    @LARGE
    def test_large_segments_with_an_order_of_their_own(self, tmp_path):
        model = Model(8, 3)
        model.add(_Nothing(), model.new(5000))
        model.rebuild(tmp_path / "index", reorder=True).close()
        for count in (4500, 5000):
            with IndexUpdater.open(tmp_path / "index") as updater:
                model.add(updater, model.new(count))
                model.delete(updater, model.some(500))
        index = Index.open(tmp_path / "index")
        assert [s.reordered for s in index.manifest.segments] == [True, False, False]
        assert all(s.rows for s in index.manifest.segments)
        expected = model.rebuild(tmp_path / "rebuilt", reorder=True)
        assert_same(index, expected, model.rng, queries=3)
        with IndexUpdater.open(tmp_path / "index", memory_bytes=8 << 20) as updater:
            updater.compact()
        index = Index.open(tmp_path / "index")
        assert [s.reordered for s in index.manifest.segments] == [True]
        assert index._segment.spread == pytest.approx(expected._segment.spread, abs=0.05)
        index.check()
        assert_same(index, expected, model.rng, queries=3)

    def test_ties_go_to_the_last_insertion(self, tmp_path):
        write_index(tmp_path / "index", np.ones((5, 1))).close()
        with IndexUpdater.open(tmp_path / "index") as updater:
            updater.add_vectors([Document("d1"), Document("new")], csr(np.ones((2, 1))), replace=True)
        index = Index.open(tmp_path / "index")
        found, _ = index.search_vector(([0], [1.0]), 9)
        assert [d.id for d in index.documents(found)] == ["d0", "d2", "d3", "d4", "d1", "new"]

    def test_approximate_search_finds_k(self, tmp_path):
        model = Model(8, 1)
        model.rebuild(tmp_path / "index").close()
        for _ in range(3):
            with IndexUpdater.open(tmp_path / "index") as updater:
                model.add(updater, model.new(300))
        index = Index.open(tmp_path / "index")
        exact = index.search_vector((range(8), np.ones(8)), 20)[1]
        found = index.search_vector((range(8), np.ones(8)), 20, approximate=0.5)[1]
        assert found.size == 20
        assert (found <= exact).all()

    def test_search_many_and_a_mask_that_stays(self, tmp_path):
        model = Model(6, 2)
        model.rebuild(tmp_path / "index").close()
        for _ in range(2):
            with IndexUpdater.open(tmp_path / "index") as updater:
                model.add(updater, model.new(50))
        index = Index.open(tmp_path / "index")
        queries = [model.rng.random(6).astype(np.float32) for _ in range(30)]
        mask = model.rng.random(100) < 0.5
        many = index.search_many(
            [SparseVector(np.arange(6, dtype=np.int32), q) for q in queries], 5, threads=2, allowed=mask
        )
        for query, (ordinals, scores) in zip(queries, many, strict=True):
            expected = index.search_vector((range(6), query), 5, allowed=mask)
            assert (ordinals.tolist(), scores.tolist()) == (expected[0].tolist(), expected[1].tolist())
        with pytest.raises(InputError, match="give one bool for each of the 100 documents"):
            index.search_vector(([0], [1.0]), 5, allowed=mask[:99])
        for wrong in (-1, 100):
            with pytest.raises(InputError, match="no document"):
                index.documents([wrong])
            with pytest.raises(InputError, match="no unit"):
                index.span(wrong)

    def test_the_scale_stays_and_what_is_above_it_is_counted(self, tmp_path):
        write_index(tmp_path / "index", np.full((2, 2), 2.0), scale=None).close()
        with IndexUpdater.open(tmp_path / "index") as updater:
            updater.add_vectors([Document("loud")], csr(np.array([[9.0, 0.001]])))
            commit = updater.commit()
        assert commit.clipped == 1
        index = Index.open(tmp_path / "index")
        assert index.manifest.statistics.clipped == 1
        assert index.manifest.statistics.below_half_a_step == 1
        assert index.search_vector(([0], [1.0]))[1].tolist() == [2.0] * 3


class _Nothing:
    """Takes what a model adds, for an index that is built later."""

    def add_vectors(self, *_: object, **__: object) -> None:
        pass


class TestPolicy:
    def test_tiers(self):
        sizes = [0, 4095, 4096, 16_383, 16_384, 65_536]
        assert [policy.tier(n) for n in sizes] == [0, 0, 1, 1, 2, 3]

    @pytest.mark.parametrize(
        ("live", "deleted", "runs"),
        [
            ([10] * 3, [0] * 3, []),
            ([10] * 4, [0] * 4, [range(4)]),
            ([10**6, 10, 10, 10, 10], [0] * 5, [range(1, 5)]),
            ([10**6, 10, 10, 10], [10**6 - 1, 0, 0, 0], []),
            ([10**6, 10, 10, 10], [10**6, 0, 0, 10], [range(1), range(3, 4)]),
            # the fourth of a tier takes the smaller ones between along, and what comes of it may be a fourth too
            ([5000, 10, 5000, 5000, 5000], [0] * 5, [range(5)]),
            ([20_000, 20_000, 20_000, 5000, 5000, 5000, 10, 10, 10, 5000], [0] * 10, [range(10)]),
            ([5000, 20_000, 5000, 5000, 5000], [0] * 5, []),
            ([], [], []),
        ],
    )
    def test_what_is_merged(self, live, deleted, runs):
        assert policy.to_merge(live, deleted) == runs

    def test_segments_stay_few_and_are_rarely_written_again(self):
        live, written = [], 0
        for _ in range(3000):
            live.append(500)
            for run in reversed(policy.to_merge(live, [0] * len(live))):
                written += sum(live[run.start : run.stop])
                live[run.start : run.stop] = [sum(live[run.start : run.stop])]
            assert len(live) <= 3 * (policy.tier(sum(live)) + 1)
        assert written < 7 * sum(live)


class TestUpdater:
    @pytest.fixture
    def index(self, tmp_path):
        model = Model(5)
        model.add(_Nothing(), model.new(20))
        model.rebuild(tmp_path / "index").close()
        return tmp_path / "index"

    def test_nothing_is_visible_before_the_commit_and_an_error_forgets_all(self, index):
        before = names(index)

        def fail() -> None:
            with IndexUpdater.open(index) as updater:
                updater.delete(["d1"])
                updater.add_vectors([Document("x")], csr(np.ones((1, 5))))
                assert len(Index.open(index)) == 20
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert len(Index.open(index)) == 20
        assert sorted([*before, LOCK_NAME]) == names(index)

    def test_nothing_to_do_is_no_generation(self, index):
        with IndexUpdater.open(index) as updater:
            assert updater.commit().generation == 1
            assert updater.compact().generation == 1
            updater.add_vectors([Document("x")], csr(np.ones((1, 5))))
            updater.delete(["x"])
        assert Index.open(index).generation == 1
        assert names(index) == listed(Index.open(index))

    def test_one_writer_at_a_time(self, index, tiny_pair):
        with IndexUpdater.open(index):
            with pytest.raises(IndexLockedError, match=rf"changed by another process \(process {os.getpid()}\)"):
                IndexUpdater.open(index)
            with pytest.raises(IndexLockedError):
                build_index(index, [], tiny_pair, force=True)
        IndexUpdater.open(index).close()

    @pytest.mark.skipif(os.name == "nt", reason="flock")
    def test_a_file_system_without_locks_is_not_taken_for_another_writer(self, index, monkeypatch):
        def refuse(*_: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr("fcntl.flock", refuse)
        with pytest.raises(StorageError, match=r"cannot lock .*\.lock: No locks available; keep the index on"):
            IndexUpdater.open(index)

    def test_several_commits_of_one_writer(self, index):
        with IndexUpdater.open(index) as updater:
            for n in range(6):
                updater.add_vectors([Document(f"x{n}")], csr(np.ones((1, 5))))
                commit = updater.commit()
                assert (commit.generation, commit.added, commit.documents) == (n + 2, 1, 21 + n)
            assert len(updater.index) == 26
            # an id that was deleted may come again
            updater.delete(["x3", "d4"])
            updater.add_vectors([Document("x3")], csr(np.ones((1, 5))))
            commit = updater.commit()
            assert (commit.added, commit.deleted, commit.documents) == (1, 2, 25)
        Index.open(index).check()

    def test_ids(self, index):
        with IndexUpdater.open(index) as updater:
            with pytest.raises(InputError, match=r"no document has the id 'nope' \(and 1 more\); nothing was deleted"):
                updater.delete(["d1", "nope", "nor this"])
            assert updater.delete(["d1", "d1", "nope"], ignore_missing=True) == 1
            assert updater.delete("d2") == 1
            with pytest.raises(InputError, match="ids are strings"):
                updater.delete([3])  # type: ignore[list-item]
            with pytest.raises(InputError, match="no document has the id 'd1'"):
                updater.delete(["d1"])
            updater.add_vectors([Document("d1"), Document("x")], csr(np.ones((2, 5))))
            assert updater.commit().documents == 20
        for again in (["d1"], ["y", "y"]):
            updater = IndexUpdater.open(index)
            updater.delete(["d5"])
            with pytest.raises(InputError, match="was used before"):
                updater.add_vectors([Document(i) for i in again], csr(np.ones((len(again), 5))))
            with pytest.raises(InputError, match=r"an earlier change of .* failed, so none is committed"), updater:
                pass  # the error was caught: leaving the block must not look as if all had been committed
            assert len(Index.open(index)) == 20

    def test_ids_that_utf_8_does_not_have(self, index):
        with IndexUpdater.open(index) as updater:
            updater.add_vectors([Document("x")], csr(np.ones((1, 5))))
            with pytest.raises(InputError, match=r"no document has the id '\\udcff'"):
                updater.delete(["d1", "\udcff"])
            assert updater.delete(["x", "\udcff"], ignore_missing=True) == 1
            assert updater.index.find("\udcff") is None
        for document in (Document("\udcff"), Document("y", text="\ud800")):
            with pytest.raises(InputError, match="holds a lone surrogate"), IndexUpdater.open(index) as updater:
                updater.add_vectors([document], csr(np.ones((1, 5))), replace=True)

    def test_vectors_that_do_not_fit(self, index):
        with IndexUpdater.open(index) as updater, pytest.raises(InputError, match="1 vectors do not fit 2 documents"):
            updater.add_vectors([Document("x"), Document("y")], csr(np.ones((1, 5))))
        with pytest.raises(InputError, match="outside the vocabulary of 5"), IndexUpdater.open(index) as updater:
            updater.add_vectors([Document("x")], csr(np.ones((1, 6))))
        with IndexUpdater.open(index) as updater, pytest.raises(IndexFormatError, match="made of vectors"):
            updater.add([Document("x")])

    def test_all_deleted_and_begun_again(self, index):
        with IndexUpdater.open(index) as updater:
            updater.delete([f"d{n}" for n in range(20)])
        empty = Index.open(index)
        empty.check()
        assert (len(empty), len(empty.segments), empty.terms.size, empty.fields) == (0, 0, 0, {})
        assert [a.size for a in empty.search_units(([0], [1.0]))] == [0, 0, 0]
        assert empty.select("year = 3").count == 0
        assert empty.find("d1") is None
        with IndexUpdater.open(index) as updater:
            updater.add_vectors([Document("d1", metadata={"year": 3})], csr(np.ones((1, 5))))
        index_again = empty.refresh()
        assert len(index_again) == 1
        assert index_again.select("year = 3").count == 1
        assert index_again.fields["year"].indexed
        assert index_again.manifest.scale == SCALE

    @pytest.mark.parametrize("documents", [0, 3])
    def test_the_first_weights_set_the_scale(self, tmp_path, documents):
        """Not a build without a single one: with a scale of 1, weights below a half would vanish."""
        writer = IndexWriter(tmp_path, 5)
        writer.add_documents([Document(f"d{n}") for n in range(documents)])
        writer.add_vectors(csr(np.zeros((documents, 5))))
        assert writer.finish().scale == 1.0
        index = Index.open(tmp_path)
        with IndexUpdater.open(tmp_path) as updater:
            updater.add_vectors([Document("empty too")], csr(np.zeros((1, 5))))
            assert updater.commit().generation == 2
            updater.add_vectors([Document("gone")], csr(np.full((1, 5), 9.0)))
            updater.delete(["gone"])
            updater.add_vectors([Document("x")], csr(np.array([[0.1, 0, 0.2, 0, 0]])))
            updater.commit()
            assert updater.index.manifest.scale == pytest.approx(9 / 255)  # as in a build of all that was given
        index = index.refresh()
        assert index.search_vector(([2], [1.0]))[1].tolist() == pytest.approx([0.2], abs=0.02)
        with IndexUpdater.open(tmp_path) as updater:
            updater.add_vectors([Document("y")], csr(np.array([[18.0, 0, 0, 0, 0]])))
            updater.compact()
        index = index.refresh()
        assert index.manifest.scale == pytest.approx(9 / 255)
        assert index.manifest.statistics.clipped == 1
        index.check()

    def test_a_scale_that_was_given_stays(self, tmp_path):
        IndexWriter(tmp_path, 5, scale=0.5).finish()
        with IndexUpdater.open(tmp_path) as updater:
            updater.add_vectors([Document("x")], csr(np.full((1, 5), 9.0)))
        assert Index.open(tmp_path).manifest.scale == 0.5

    def test_what_dead_writers_left_is_removed(self, index):
        """What they noted, that is: of what only looks like it, nothing is removed."""
        before = names(index)
        noted = ["segments/00000007-1/term_blocks.u64", "segments/00000007-1/runs/000000.postings"]
        noted += ["segments/00000008-1/posting_units.u16", "tombstones/00000007.1", f".splade-edge-{MANIFEST_NAME}.ab"]
        mine = ["segments/00000008-1/notes.txt", "segments/00000009-1/term_blocks.u64", "segments/00000001/old.txt"]
        mine += ["tombstones/00000008.1", f".splade-edge-{MANIFEST_NAME}.cd", "other/x"]
        for name in (*noted, *mine):
            (index / name).parent.mkdir(parents=True, exist_ok=True)
            (index / name).write_bytes(b"half")
        (index / "outside").symlink_to(index.with_name("elsewhere"))
        (index / "segments/00000010-1").symlink_to(index / "other")
        lines = ["segments/00000007-1", "segments/00000008-1", "tombstones/00000007.1", "segments/00000010-1"]
        lines += [f".splade-edge-{MANIFEST_NAME}.ab", "segments/00000001", f"tombstones/00000008.1 {'0' * 64}"]
        lines += ["other", "../elsewhere", "outside/x", "segments/..", "segments/00000009-1"]
        (index / LOCK_NAME).write_text("123\n" + "\n".join(lines))  # the last line has no end
        IndexUpdater.open(index).close()
        assert names(index) == sorted([*before, LOCK_NAME, *mine])
        assert not (index / "segments/00000010-1").is_symlink()
        assert (index / LOCK_NAME).read_text() == f"{os.getpid()}\nsegments/00000008-1\n"
        with IndexUpdater.open(index) as updater:  # names that are taken are not
            updater.add_vectors([Document("x")], csr(np.ones((1, 5))))
        assert set(mine) < set(names(index))

    def test_what_cannot_be_opened_is_not_committed(self, index, monkeypatch):
        """Nor is what was committed removed because it cannot be opened afterwards."""
        opened = Index.__init__

        def fail(self, path, manifest, previous=None):
            if manifest.generation == 2:
                raise OSError(errno.EMFILE, "Too many open files")
            opened(self, path, manifest, previous)

        before = Index.open(index)

        def change(patch):
            with IndexUpdater.open(index) as updater:
                updater.add_vectors([Document("x")], csr(np.ones((1, 5))))
                updater.delete(["d3"])
                patch.setattr(Index, "__init__", fail)
                updater.compact()

        with monkeypatch.context() as patch, pytest.raises(OSError, match="Too many open files"):
            change(patch)
        assert before.refresh() is before
        assert names(index) == listed(before)
        before.check()

    def test_an_interrupt_at_the_very_end_removes_nothing(self, index, monkeypatch):
        swap = hold.swap_manifest

        def interrupt(*arguments: Any) -> None:
            assert swap(*arguments)
            raise KeyboardInterrupt

        def change(patch):
            with IndexUpdater.open(index) as updater:
                updater.add_vectors([Document("x")], csr(np.ones((1, 5))))
                updater.delete(["d3"])
                patch.setattr(hold, "swap_manifest", interrupt)
                updater.compact()

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            change(patch)
        committed = Index.open(index)
        committed.check()
        assert (len(committed), committed.find("x"), committed.find("d3")) == (20, 19, None)
        IndexUpdater.open(index).close()
        assert names(index) == listed(committed)

    @pytest.mark.parametrize(
        "span",
        [(1, 0, 1), (-1, 0, 1), (0, 1, 0), (0, -1, 1), (0, 0, 1 << 32), (0, 1 << 70, 1 << 71)],
        ids=["document", "negative", "backwards", "before", "beyond", "huge"],
    )
    def test_spans_that_cannot_be(self, tmp_path, span):
        """They would make an index that cannot be opened."""
        model = Model(5, passages=True)
        model.add(_Nothing(), model.new(5))
        model.rebuild(tmp_path / "index").close()
        with pytest.raises(InputError, match="span"), IndexUpdater.open(tmp_path / "index") as updater:
            updater.add_vectors([Document("x")], csr(np.ones((1, 5))), [PassageSpan(*span)])
        with Index.open(tmp_path / "index") as index:
            assert (index.generation, len(index)) == (1, 5)

    def test_damage_is_not_copied_by_a_merge(self, index):
        path = index / "segments/00000001/posting_impacts.u8"
        data = bytearray(path.read_bytes())
        data[7] ^= 1
        path.write_bytes(data)
        updater = IndexUpdater.open(index)
        updater.add_vectors([Document("x")], csr(np.ones((1, 5))))
        with pytest.raises(IntegrityError, match=r"posting_impacts\.u8 is damaged"):
            updater.compact()
        updater.close()
        assert len(Index.open(index)) == 20

    @pytest.mark.parametrize("what", ["an artifact", "nothing"])
    def test_not_an_index(self, tmp_path, tiny_pair, what):
        path = tiny_pair if what == "an artifact" else tmp_path / "none"
        with pytest.raises(IndexFormatError, match=r"make (one|an index)"):
            IndexUpdater.open(path)
        assert not (path / LOCK_NAME).exists()


class TestReaders:
    def test_read_the_manifest_that_is_there(self, tmp_path):
        """Also where they know the one that was there before by its bytes."""
        write_index(tmp_path / "index", np.ones((3, 5)))
        path = tmp_path / "index" / MANIFEST_NAME
        with Index.open(tmp_path / "index") as opened, IndexUpdater.open(tmp_path / "index") as updater:
            for index in (opened, updater.index):
                whole = path.read_bytes()
                for _ in range(2):
                    assert index.refresh() is index
                    path.write_bytes(whole.replace(b'"generation": 1', b'"generation": 2'))
                    with pytest.raises(IntegrityError, match="digest"):
                        index.refresh()
                    path.write_bytes(whole)
                    assert index.refresh() is index

    def test_keep_their_snapshot(self, tmp_path):
        model = Model(6)
        model.add(_Nothing(), model.new(60))
        old = model.rebuild(tmp_path / "index")
        assert old.refresh() is old
        answers = old.search_vector((range(6), np.ones(6)), 60)
        documents = old.documents(range(60))
        with IndexUpdater.open(tmp_path / "index") as updater:
            model.delete(updater, model.some(50))
            model.add(updater, model.new(5))
            updater.compact()
        assert not (tmp_path / "index/segments/00000001").exists()
        assert [a.tolist() for a in old.search_vector((range(6), np.ones(6)), 60)] == [a.tolist() for a in answers]
        assert old.documents(range(60)) == documents
        assert old.select("year > 0").count == 60
        new = old.refresh()
        assert len(new) == 15
        old.close()
        assert_same(new, model.rebuild(tmp_path / "rebuilt"), model.rng)

    def test_share_what_is_still_in_use(self, tmp_path):
        model = Model(6)
        model.add(_Nothing(), model.new(60))
        first = model.rebuild(tmp_path / "index")
        first.select("note = 'n1'")
        with IndexUpdater.open(tmp_path / "index") as updater:
            model.add(updater, model.new(5))
        second = first.refresh()
        assert second.segments[0].segment is first.segments[0].segment
        assert second.segments[0].selector is first.segments[0].selector  # and its answers
        with IndexUpdater.open(tmp_path / "index") as updater:
            model.delete(updater, ["d1"])
        third = second.refresh()
        assert third.segments[0].segment is first.segments[0].segment
        assert third.segments[1].segment is second.segments[1].segment
        first.close()
        second.close()
        second.close()
        assert_same(third, model.rebuild(tmp_path / "rebuilt"), model.rng)
        third.close()
        for ask in (
            lambda: third.documents([0]), lambda: third.search_vector(([0], [1.0])), lambda: third.select("year = 1"),
            third.refresh, third.check, lambda: third.find("d2"), lambda: third.span(0), lambda: third.fields,
            lambda: list(third.search_many([SparseVector(np.array([0], np.int32), np.ones(1, np.float32))])),
            lambda: third.frequencies([0]),
        ):  # fmt: skip
            with pytest.raises(InputError, match="is closed; open it again"):
                ask()

    def test_a_reader_that_meets_a_commit_opens_what_came_of_it(self, tmp_path, monkeypatch):
        model = Model(6)
        model.add(_Nothing(), model.new(30))
        model.rebuild(tmp_path / "index").close()
        from splade_edge.runtime.index import index as module

        opened = module.open_segments

        def meet(*args):
            monkeypatch.setattr(module, "open_segments", opened)
            with IndexUpdater.open(tmp_path / "index") as updater:
                model.delete(updater, model.some(20))
            return opened(*args)

        monkeypatch.setattr(module, "open_segments", meet)
        index = Index.open(tmp_path / "index")
        assert (len(index), index.generation) == (10, 2)

    @pytest.mark.parametrize(("nth", "found"), [(1, (10, 2)), (2, (30, 1))], ids=["documents", "fields"])
    def test_files_that_go_while_they_are_opened(self, tmp_path, monkeypatch, nth, found):
        """After the first the second is gone; what is open stays, and is all that its generation needs."""
        model = Model(6)
        model.add(_Nothing(), model.new(30))
        model.rebuild(tmp_path / "index").close()
        opened = sqlite.SqliteReader.__init__
        seen = []

        def meet(self, path, *schema):
            opened(self, path, *schema)
            seen.append(path)
            if len(seen) == nth:
                with IndexUpdater.open(tmp_path / "index") as updater:
                    model.delete(updater, model.some(20))

        monkeypatch.setattr(sqlite.SqliteReader, "__init__", meet)
        index = Index.open(tmp_path / "index")
        assert (len(index), index.generation) == found
        assert len(index.documents(range(len(index)))) == len(index)
        assert index.find("never") is None  # the whole file is hashed, which has no name any more

    def test_another_index_in_its_place(self, tmp_path, tiny_pair, tiny_artifact):
        documents = [Document(f"d{n}", "", word) for n, word in enumerate(WORDS[:10])]
        build_index(tmp_path / "index", documents, tiny_pair)
        searcher = Searcher.open(tmp_path / "index", threads=1)
        hit = searcher.search("dog cat")[0]
        manifest = searcher.index.manifest
        other = msgspec.structs.replace(manifest, query_encoder=None)
        write_manifest(tmp_path / "index" / MANIFEST_NAME, other)
        with pytest.raises(ArtifactError, match="another query encoder has taken the place"):
            searcher.refresh()
        write_manifest(tmp_path / "index" / MANIFEST_NAME, manifest)
        with IndexUpdater.open(tmp_path / "index") as updater:
            updater.delete([hit.id])
        assert searcher.refresh()
        assert not searcher.refresh()
        with pytest.raises(InputError, match="is of an earlier generation of the index; search again"):
            searcher.explain("dog cat", hit)
        hit = searcher.search("dog cat")[0]
        build_index(tmp_path / "index", documents[::-1], tiny_pair, force=True)
        for _ in range(2):
            with pytest.raises(IndexReplacedError, match=r"another directory lies at .*index than .*; open it again$"):
                searcher.refresh()
            assert searcher.search("dog cat")[0] == hit
            build_index(tmp_path / "index", documents, tiny_artifact, force=True)
        (tmp_path / "index").rename(tmp_path / "moved")
        with pytest.raises(IndexFormatError, match=r"has no splade_edge_index\.json"):  # its own was removed
            searcher.refresh()


def documents(first: int, count: int) -> list[Document]:
    rng = np.random.default_rng(first)
    return [
        Document(f"d{n}", " ".join(rng.choice(WORDS, 2)), " ".join(rng.choice(WORDS, rng.integers(0, 30))), {"n": n})
        for n in range(first, first + count)
    ]


class TestTexts:
    @pytest.mark.parametrize("passages", [None, Passages(6, 2)], ids=["whole", "passages"])
    def test_answers_are_those_of_a_rebuild(self, tmp_path, tiny_pair, passages):
        corpus = documents(0, 60)
        build_index(tmp_path / "index", corpus, tiny_pair, passages=passages, with_document_encoder=True, fields=["n"])
        scale = Index.open(tmp_path / "index").manifest.scale
        searcher = Searcher.open(tmp_path / "index", threads=1)
        changed = [Document(d.id, d.title, "snow in the oven", {"n": -1}) for d in corpus[10:20]]
        with IndexUpdater.open(tmp_path / "index", threads=1) as updater:
            updater.add(documents(60, 25))
            updater.update(changed)
            updater.delete(["d3", "d70", "d15"])
        assert searcher.refresh()
        left = corpus[:10] + corpus[20:] + documents(60, 25) + changed
        left = [d for d in left if d.id not in ("d3", "d70", "d15")]
        rebuild(tmp_path / "rebuilt", left, tiny_pair, scale, passages)
        expected = Searcher.open(tmp_path / "rebuilt", threads=1)
        queries = ["snow in the oven", "cat dog winter", "violin", "piano bread flour rain"]
        many = searcher.search_many(queries, 9, where="n > 20 or n = -1")
        for query, batched in zip(queries, many, strict=True):
            assert searcher.search(query, 50) == expected.search(query, 50)
            hits = searcher.search(query, 9, where="n > 20 or n = -1")
            assert hits == expected.search(query, 9, where="n > 20 or n = -1") == batched
            assert [h.id for h in hits]
            for hit in hits:
                assert searcher.explain(query, hit) == expected.explain(query, hit)
        m = searcher.index.manifest.statistics
        assert m.truncated == (0 if passages else m.truncated)

    def test_bad_lines(self, tmp_path, tiny_pair):
        build_index(tmp_path / "index", documents(0, 5), tiny_pair, with_document_encoder=True)
        with (
            pytest.raises(CorpusError, match="document 1: the id 'd4' was used before"),
            IndexUpdater.open(tmp_path / "index") as updater,
        ):
            updater.add([Document("new"), Document("d4")])
        assert len(Index.open(tmp_path / "index")) == 5
        bad_lines = BadLines("skip")
        broken = Document("d2", metadata={"x": float("nan")})
        with IndexUpdater.open(tmp_path / "index") as updater:
            updater.add([Document("new"), Document("d4"), Document("new")], bad_lines=bad_lines)
            updater.update([broken, Document("d1", "", "snow")], bad_lines=bad_lines)
        index = Index.open(tmp_path / "index")
        assert bad_lines.count == 3
        assert index.manifest.statistics.bad_lines == 3
        assert len(index) == 6
        assert index.documents([index.find("d2") or 0])[0].metadata == {
            "n": 2
        }  # what cannot be stored replaces nothing

    def test_which_encoder(self, tmp_path, tiny_pair, tiny_artifact):
        other = tiny.write_artifact(tmp_path / "other", seed=3)
        build_index(tmp_path / "index", documents(0, 5), tiny_pair)
        with IndexUpdater.open(tmp_path / "index") as updater:
            with pytest.raises(ArtifactError, match="carries no document encoder; name the artifact it was made with"):
                updater.add([Document("x")])
            updater.delete(["d1"])
            updater.commit()
        for wrong, message in (
            (other, "is not the encoder that the index was made with"),
            (tiny_pair / "query", "holds a query encoder"),
        ):
            updater = IndexUpdater.open(tmp_path / "index", document_encoder=wrong)
            with updater, pytest.raises(ArtifactError, match=message):
                updater.add([Document("x")])
        for same in (tiny_pair, tiny_artifact):  # whatever it is called
            with IndexUpdater.open(tmp_path / "index", document_encoder=same) as updater:
                updater.update([Document("x", "", "snow")])
        assert Searcher.open(tmp_path / "index").search("snow")[0].id

    def test_the_graph_is_not_all_that_counts(self, tmp_path, tiny_pair):
        """The same graph behind another tokenizer, or cut elsewhere, gives other vectors."""
        build_index(tmp_path / "index", documents(0, 5), tiny_pair)
        other = shutil.copytree(tiny_pair / "document", tmp_path / "other")
        artifact = open_artifact(other)
        write_manifest(other / "splade_edge.json", msgspec.structs.replace(artifact.manifest, max_length=9))
        updater = IndexUpdater.open(tmp_path / "index", document_encoder=other)
        with pytest.raises(ArtifactError, match="is not the encoder"), updater:
            updater.add([Document("x")])


def rebuild(path: Path, corpus: list[Document], pair: Path, scale: float, passages: Passages | None) -> None:
    """build_index with the scale of another index."""
    with pytest.MonkeyPatch.context() as patch:
        init = IndexWriter.__init__
        patch.setattr(IndexWriter, "__init__", lambda self, *a, **o: init(self, *a, **{**o, "scale": scale}))
        build_index(
            path,
            corpus,
            Encoder.open(pair, "document", threads=1),
            open_artifact(pair, "query"),
            passages=passages,
            fields=["n"],
        )


class TestVersion1:
    """An index made before indexes could change, kept as it was made."""

    @pytest.mark.parametrize("name", ["plain", "passages"])
    def test_opens_for_ever(self, name):
        index = Index.open(FIXTURES / name)
        assert index.manifest.version == 1
        index.check()
        for case in json.loads((FIXTURES / "answers.json").read_text())[name]:
            allowed = None if case["where"] is None else index.select(case["where"]).allowed
            ordinals, units, scores = index.search_units(case["vector"], 10, allowed=allowed)
            ids = [d.id for d in index.documents(ordinals)]
            found = [list(hit) for hit in zip(ids, ordinals.tolist(), units.tolist(), scores.tolist(), strict=True)]
            assert found == case["hits"]

    @pytest.mark.parametrize("name", ["plain", "passages"])
    def test_can_be_changed(self, tmp_path, name):
        path = shutil.copytree(FIXTURES / name, tmp_path / "index")
        before = Index.open(path)
        with pytest.warns(SpladeEdgeWarning, match="encoder/query was exported before numerics"):
            vector = Searcher.open(path, threads=1).encoder.encode_query("snow and snow")
        documents = [Document("new", "", "snow and snow", {"year": 1991})]
        with IndexUpdater.open(path, threads=1) as updater:
            updater.delete(["d3"])
            spans = [PassageSpan(0, 0, 13)] if name == "passages" else None
            updater.add_vectors(documents, SparseBatch.stack([vector]), spans)
        with IndexUpdater.open(path, threads=1) as updater, pytest.raises(ArtifactError, match="of numerics 0"):
            updater.add(documents)
        index = Index.open(path)
        assert (index.manifest.version, index.generation, len(index)) == (VERSION, 2, 40)
        assert index.manifest.settings is not None
        assert index.manifest.settings.fields == ["year"]
        assert index.manifest.settings.reorder == (name == "passages")
        assert index.fields["year"].indexed
        index.check()
        searcher = Searcher.open(path, threads=1)
        assert "new" in [hit.id for hit in searcher.search("snow", 100)]
        assert "new" in [hit.id for hit in searcher.search("snow", 100, where="year = 1991")]
        with IndexUpdater.open(path) as updater:
            updater.compact()
        assert len(before) == 40
        assert before.find("d3") == 3
        assert len(Index.open(path).segments) == 1
