"""A damaged index is repaired: what a checksum proves stays, the rest is dropped and named, and nothing is made up."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import msgspec
import numpy as np
import pytest
from splade_edge.runtime import Document, Index, IndexUpdater, IntegrityError, Searcher, build_index, files
from splade_edge.runtime.build import staging
from splade_edge.runtime.build.passages import Passages
from splade_edge.runtime.errors import InputError, StorageError
from splade_edge.runtime.index.layout import INDEX_FORMAT, VERSION, IndexManifest
from splade_edge.runtime.manifest import read_manifest, write_manifest
from splade_edge.runtime.repair import postings_recovery, recovery
from splade_edge.runtime.repair.check import check_index
from splade_edge.runtime.repair.recovery import BeyondRepairError, Repair, repair_index

from tests import tiny
from tests.oracle import top_k, write_index

WORDS = [w for w in tiny.WORDS if not w.startswith("##")]
VOCAB = len(tiny.VOCABULARY)
SEGMENT = "segments/00000001"
LAYOUTS = {"plain": {}, "reordered": {"reorder": True}, "passages": {"passages": Passages(6, 2)}}
# Each needs no checksum of its own: it follows from the others, or is not needed with a single window.
DERIVED = {
    "term_blocks.u64", "term_impacts.u8", "term_checksums.u32", "block_windows.u16", "block_impacts.u8",
    "chunk_terms.u32", "chunk_checksums.u32", "chunk_impacts.u8", "span_postings.u16", "chunk_postings.u8",
    "fields.sqlite",
}  # fmt: skip


@pytest.fixture(scope="module", params=list(LAYOUTS), ids=list(LAYOUTS))
def pristine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_pair: Path) -> Path:
    """An index of 150 documents; copy it before changing it."""
    rng = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("pristine") / "index"
    documents = (
        Document(f"d{n}", " ".join(rng.choice(WORDS, 2)), " ".join(rng.choice(WORDS, rng.integers(1, 20))), {"n": n})
        for n in range(150)
    )
    build_index(path, documents, tiny_pair, fields=["n"], **LAYOUTS[request.param])
    return path


@pytest.fixture(autouse=True)
def no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What reaches the disk when is not what is tested here, and hundreds of directories are written."""
    monkeypatch.setattr(files.operations, "sync", lambda path: None)


@pytest.fixture
def damaged(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "index"))


def flip(path: Path, at: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 0x10
    path.write_bytes(bytes(data))


def contents(index: Index) -> tuple[list[Document], np.ndarray]:
    """The documents, and their largest impact for each term, int64 ``[documents, vocab]``."""
    impacts = np.zeros((len(index), VOCAB), np.int64)
    for term in range(VOCAB):
        ordinals, scores = index.search_vector(([term], [1.0]), len(index))
        impacts[ordinals, term] = np.rint(scores / index.manifest.scale)
    return index.documents(range(len(index))), impacts


def check_repaired(pristine: Path, repaired: Path, report: Repair) -> None:
    """What is left is what there was, but for documents and terms that the report calls lost."""
    before, after = Index.open(pristine), Index.open(repaired)
    documents, impacts = contents(before)
    left, found = contents(after)
    kept = [documents.index(document) for document in left]
    assert kept == sorted(kept)
    gone = impacts[kept].any(axis=0) & ~found.any(axis=0)
    impacts = np.where(gone, 0, impacts[kept])
    assert np.array_equal(found, impacts)
    lost = " ".join(report.lost)
    assert (f"of {SEGMENT}, from 0" in lost) == (len(kept) < len(documents))
    assert ("postings of" in lost) == bool(gone.any()), lost
    for term in np.flatnonzero(gone)[:5]:
        assert repr(tiny.VOCABULARY[term]) in lost
    if not any(segment.passages for segment in after.manifest.segments):
        weights = np.random.default_rng(0).random(VOCAB).astype(np.float32)
        expected = top_k(impacts, np.arange(VOCAB), weights, 20, after.manifest.scale)
        ordinals, scores = after.search_vector((np.arange(VOCAB), weights), 20)
        assert (ordinals.tolist(), scores.tolist()) == expected
    numbers = np.array([document.metadata["n"] for document in left])
    assert np.array_equal(after.select("n < 70").allowed, numbers < 70)
    check_index(repaired).close()


@pytest.mark.parametrize("damage", ["flip", "delete"])
def test_every_file(pristine: Path, damaged: Path, damage: str) -> None:
    reordered = Index.open(pristine).manifest.segments[0].reordered
    beyond = {"original_units.u32", "unit_documents.u32"}
    for file in sorted(p for p in (damaged / SEGMENT).iterdir() if p.stat().st_size):
        data = file.read_bytes()
        if damage == "flip":
            flip(file)
        else:
            file.unlink()
        output = damaged.with_name("out")
        with pytest.raises(IntegrityError, match=file.name):
            check_index(damaged)
        try:
            report = repair_index(damaged, output)
        except BeyondRepairError:
            rescued = damaged.with_name("out.rescued.jsonl")
            if file.name in DERIVED:
                raise
            if file.name != "documents.sqlite":
                assert len(rescued.read_text("utf-8").splitlines()) == 150
            rescued.unlink(missing_ok=True)
            assert not output.exists()
        else:
            assert file.name not in beyond
            assert list(report.damaged) == [f"{SEGMENT}/{file.name}"]
            check_repaired(pristine, output, report)
            if file.name in DERIVED:
                assert report.lost == [], file.name
                for name in ("posting_units.u16", file.name):
                    if not (reordered and name.endswith("sqlite")):
                        assert (output / SEGMENT / name).read_bytes() == (pristine / SEGMENT / name).read_bytes()
            shutil.rmtree(output)
        file.write_bytes(data)


def test_many_flips(pristine: Path, damaged: Path) -> None:
    """Anywhere in postings and documents, several at a time."""
    rng = np.random.default_rng(11)
    for _ in range(6):
        for name in rng.choice(["posting_units.u16", "posting_impacts.u8", "documents.sqlite"], 2):
            for _ in range(3):
                flip(damaged / SEGMENT / name, float(rng.random()))
        output = damaged.with_name("out")
        try:
            report = repair_index(damaged, output)
        except BeyondRepairError as error:
            if "documents.sqlite" not in str(error):
                raise
            damaged.with_name("out.rescued.jsonl").unlink(missing_ok=True)
        else:
            check_repaired(pristine, output, report)
            shutil.rmtree(output)
        shutil.rmtree(damaged)
        shutil.copytree(pristine, damaged)


def test_in_place(damaged: Path) -> None:
    path = damaged / SEGMENT / "block_impacts.u8"
    whole = path.read_bytes()
    flip(path)
    generation = msgspec.json.decode((damaged / "splade_edge_index.json").read_bytes())["generation"]
    flipped = path.read_bytes()
    report = repair_index(damaged)
    assert (report.rebuilt, report.lost, report.rescued) == ([f"{SEGMENT}/block_impacts.u8"], [], None)
    assert path.read_bytes() == whole
    original = damaged.with_name("index.damaged")
    assert report.original == original
    assert (original / SEGMENT / "block_impacts.u8").read_bytes() == flipped
    with check_index(damaged) as index:
        assert index.manifest.generation == generation + 1
    assert sorted(p.name for p in damaged.parent.iterdir()) == ["index", "index.damaged"]
    assert repair_index(damaged) == Repair({}, [], [], None)
    flip(path)
    with pytest.raises(InputError, match=r"index\.damaged exists, of an earlier repair; move it away, or delete it"):
        repair_index(damaged)
    shutil.rmtree(original)
    assert repair_index(damaged).original == original


def test_the_original_is_kept_where_directories_cannot_be_swapped(
    damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_renameat2", lambda *_: False)
    flip(damaged / SEGMENT / "block_impacts.u8")
    original = repair_index(damaged).original
    assert original == damaged.with_name("index.damaged")
    with pytest.raises(IntegrityError):
        check_index(original)
    check_index(damaged).close()


def test_the_original_is_not_removed_where_its_place_is_taken(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another process, at the last moment."""
    flip(damaged / SEGMENT / "block_impacts.u8")
    taken = staging._fsync_tree

    def take(path: Path) -> None:
        taken(path)
        (damaged.with_name("index.damaged") / "mine").mkdir(parents=True)

    monkeypatch.setattr(staging, "_fsync_tree", take)
    with pytest.raises(InputError, match="was made by another process meanwhile"):
        repair_index(damaged)
    with pytest.raises(IntegrityError, match=r"block_impacts\.u8"):
        check_index(damaged)


def test_the_old_index_stays_where_the_repair_fails(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(damaged / SEGMENT / "block_impacts.u8")

    def contents() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in damaged.rglob("*") if p.is_file() and p.suffix != ".lock"}

    before = contents()

    def fail(*_: object) -> None:
        raise StorageError("cannot write: the disk is full")

    monkeypatch.setattr(recovery, "write_manifest", fail)
    with pytest.raises(StorageError):
        repair_index(damaged)
    assert contents() == before
    assert [p.name for p in damaged.parent.iterdir()] == ["index"]


@pytest.mark.parametrize("name", ["onnx/fp32.onnx", "tokenizer.json", "splade_edge.json"])
def test_encoders(damaged: Path, tiny_pair: Path, name: str) -> None:
    expected = [hit.id for hit in Searcher.open(damaged).search("cat dog")]
    flip(damaged / "encoder/query" / name)
    with pytest.raises(IntegrityError, match=name):
        check_index(damaged)
    report = repair_index(damaged)
    assert len(report.lost) == 1
    assert "the query encoder" in report.lost[0]
    assert "search with --query-encoder PAIR" in report.lost[0]
    with check_index(damaged) as index:
        assert index.manifest.query_encoder is None
    assert [hit.id for hit in Searcher.open(damaged, query_encoder=tiny_pair).search("cat dog")] == expected


@pytest.mark.skipif(not tiny.HAS_OPENVINO, reason="needs OpenVINO")
def test_one_graph_of_two(tiny_artifact: Path, tmp_path: Path) -> None:
    build_index(tmp_path / "index", [Document("a", "", "cat"), Document("b", "", "dog")], tiny_artifact)
    flip(tmp_path / "index/encoder/query/openvino/fp32.bin")
    report = repair_index(tmp_path / "index")
    assert report.lost == ["encoder/query/openvino/fp32.bin", "encoder/query/openvino/fp32.xml"]
    searcher = Searcher.open(tmp_path / "index")
    assert [v.backend for v in searcher.encoder.artifact.manifest.variants] == ["onnx"]
    assert searcher.search("cat")[0].id == "a"


def test_a_damaged_manifest_is_beyond_repair(damaged: Path) -> None:
    flip(damaged / "splade_edge_index.json", 0.3)
    with pytest.raises(BeyondRepairError, match=r"150 documents that can be read are in .*index\.rescued\.jsonl"):
        repair_index(damaged)
    lines = damaged.with_name("index.rescued.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["_id"] for line in lines] == [f"d{n}" for n in range(150)]
    assert set(json.loads(lines[0])) == {"_id", "title", "text", "n"}
    with pytest.raises(InputError, match="of an earlier repair"):
        repair_index(damaged)


def test_a_row_under_another_ordinal_is_damage(pristine: Path, damaged: Path) -> None:
    """The checksum of a row covers its place."""
    with sqlite3.connect(damaged / SEGMENT / "documents.sqlite") as connection:
        connection.execute("UPDATE documents SET ordinal = 1000 WHERE ordinal = 3")
        connection.execute("UPDATE documents SET ordinal = 3 WHERE ordinal = 4")
        connection.execute("UPDATE documents SET ordinal = 4 WHERE ordinal = 1000")
    connection.close()
    with pytest.raises(IntegrityError, match=r"document 3 does not match its checksum"):
        Index.open(damaged).documents([3])
    report = repair_index(damaged)
    assert report.lost == [f"2 documents (numbers 3, 4 of {SEGMENT}, from 0)"]
    check_repaired(pristine, damaged, report)


def test_ids_are_not_found_by_a_damaged_index(pristine: Path, damaged: Path) -> None:
    assert Index.open(pristine).find("d7") == 7
    assert Index.open(pristine).find("none") is None
    with sqlite3.connect(damaged / SEGMENT / "documents.sqlite") as connection:
        connection.execute("DELETE FROM documents WHERE ordinal = 7")
    connection.close()
    with pytest.raises(IntegrityError, match=r"documents\.sqlite is damaged \(its SHA-256"):
        Index.open(damaged).find("d7")


@pytest.fixture
def changed(damaged: Path, tiny_pair: Path) -> Path:
    """The index after documents were added, updated and deleted: several segments with tombstones."""
    rng = np.random.default_rng(9)

    def text() -> str:
        return " ".join(rng.choice(WORDS, 5))

    with IndexUpdater.open(damaged, document_encoder=tiny_pair, threads=1) as updater:
        updater.add([Document(f"e{n}", "", text(), {"n": n}) for n in range(4)])
        updater.update([Document(f"d{n}", "", text(), {"n": n}) for n in (1, 2)])
        updater.delete(["d5", "d6", "d100"])
    with IndexUpdater.open(damaged, document_encoder=tiny_pair, threads=1) as updater:
        updater.add([Document("f", "", text(), {"n": 1})])
        updater.delete(["e1"])
    return damaged


def test_segments_and_tombstones(changed: Path, tiny_pair: Path, tmp_path: Path) -> None:
    whole, out = Path(shutil.copytree(changed, tmp_path / "whole")), tmp_path / "out"
    manifest = Index.open(whole).manifest
    [first, *others] = manifest.segments
    assert others
    assert first.deleted
    assert first.tombstones is not None
    documents, impacts = contents(Index.open(whole))
    for name in (f"{first.path}/block_impacts.u8", f"{first.path}/fields.sqlite", f"{others[-1].path}/term_impacts.u8"):
        flip(changed / name)
        report = repair_index(changed, out)
        assert (report.rebuilt, report.lost) == ([name], [])
        left, found = contents(Index.open(out))
        assert left == documents
        assert np.array_equal(found, impacts)
        assert Index.open(out).fields["n"].indexed
        shutil.rmtree(out)
        shutil.copyfile(whole / name, changed / name)
    # A segment that cannot be searched is left out, and its documents are saved; deleted ones are not.
    (changed / others[-1].path / "posting_impacts.u8").unlink()
    report = repair_index(changed)
    assert report.rescued == changed.with_name("index.rescued.jsonl")
    saved = [json.loads(line)["_id"] for line in report.rescued.read_text("utf-8").splitlines()]
    left = contents(Index.open(changed))[0]
    assert [d.id for d in left] + saved == [d.id for d in documents]
    assert "f" in saved
    with IndexUpdater.open(changed, document_encoder=tiny_pair, threads=1) as updater:  # and it can be changed again
        updater.add([Document(i, "", "cat") for i in saved])
    check_index(changed).close()


def test_lost_tombstones(changed: Path) -> None:
    """Updated documents are known by their successors; of the others nobody knows which were deleted."""
    with Index.open(changed) as index:
        first = index.manifest.segments[0]
        before = {document.id for document in index.documents(range(len(index)))}
    assert first.tombstones is not None
    flip(changed / first.tombstones)
    report = repair_index(changed)
    assert report.lost == [
        f"which 3 of the 150 documents of {first.path} were deleted: they are in the index again; delete them again"
    ]
    with check_index(changed) as index:
        after = [document.id for document in index.documents(range(len(index)))]
    assert len(set(after)) == len(after)
    assert set(after) - before == {"d5", "d6", "d100"}


def test_fields_that_get_an_index(damaged: Path) -> None:
    """The manifest knows which had one; before version 2 only the fields themselves did."""
    manifest = damaged / "splade_edge_index.json"
    old = read_manifest(manifest, IndexManifest, format=INDEX_FORMAT, version=VERSION, error=IntegrityError)
    write_manifest(manifest, msgspec.structs.replace(old, version=1, settings=None))
    (damaged / SEGMENT / "fields.sqlite").write_bytes(b"")
    report = repair_index(damaged, damaged.with_name("none"))
    assert "which fields had an index" in report.lost[0]
    assert not any(counts.indexed for counts in Index.open(damaged.with_name("none")).fields.values())
    report = repair_index(damaged, fields=["n"])
    assert report.lost == []
    assert Index.open(damaged).fields["n"].indexed


def test_many_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than one block a term, and postings written in several parts."""
    monkeypatch.setattr(postings_recovery, "_POSTINGS", 50_000)
    dense = np.zeros((150_000, 5), np.float32)
    dense[:, 1] = 1 + np.arange(150_000) % 7
    dense[::3, 2] = 9
    dense[[0, 65_535, 65_536, 149_999], 3] = 2
    index = write_index(tmp_path / "index", dense, batch=50_000)
    index.close()
    flip(tmp_path / "index" / SEGMENT / "posting_impacts.u8", 0.9)
    report = repair_index(tmp_path / "index")
    assert report.lost == [
        "50,000 postings of 1 term (2): documents are not found by these any more, until they are indexed again"
    ]
    dense[:, 2] = 0
    expected = top_k(dense.astype(np.int64), [1, 2, 3], [1.0, 1.0, 9.0], 6)[0]
    with check_index(tmp_path / "index") as index:
        assert index.search_vector(([1, 2, 3], [1.0, 1.0, 9.0]), 6)[0].tolist() == expected
    shutil.rmtree(tmp_path / "index.damaged")
    flip(tmp_path / "index" / SEGMENT / "block_postings.u64")
    with pytest.raises(BeyondRepairError, match=r"block_postings\.u64 is damaged, and no posting can be told without"):
        repair_index(tmp_path / "index")


def test_nothing_left_to_read(damaged: Path) -> None:
    """No way to search, no document: the error says what to do, and nothing is changed."""
    for database in damaged.glob("segments/*/documents.sqlite"):
        database.write_bytes(b"")
    (damaged / "splade_edge_index.json").write_text("{")
    with pytest.raises(BeyondRepairError, match="copy it again from where it is whole, or index the documents anew"):
        repair_index(damaged)
    assert not list(damaged.parent.glob("*.rescued.jsonl"))


def test_an_output_that_is_made_meanwhile(damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command has no --force, so none is advised."""
    from splade_edge.runtime.build import staging

    flip(next(damaged.glob("segments/*/posting_units.u16")))
    monkeypatch.setattr(staging, "_fsync_tree", lambda _: None)
    monkeypatch.setattr(staging, "_renameat2", lambda *_: False)

    def meanwhile(target: Path, **_: object) -> None:
        (target / "of another").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(staging, "check_writable_target", meanwhile)
    with pytest.raises(
        InputError, match=r"was made by another process meanwhile; move it away, or choose another output$"
    ):
        repair_index(damaged, tmp_path / "elsewhere")
