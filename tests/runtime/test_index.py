"""The index on disk: what is written is what the vectors say, however it was spilled; what is damaged is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splade_edge.runtime.build import postings_writer
from splade_edge.runtime.build.documents_writer import DuplicateIdError
from splade_edge.runtime.build.index_writer import IndexWriter
from splade_edge.runtime.build.passages import PassageSpan
from splade_edge.runtime.document import Document
from splade_edge.runtime.errors import IndexFormatError, InputError, IntegrityError
from splade_edge.runtime.index import Index
from splade_edge.runtime.index.checksum import checksum
from splade_edge.runtime.index.layout import KTH_LEVELS, MANIFEST_NAME, SEGMENT_ARRAYS, VERSION, IndexManifest
from splade_edge.runtime.manifest import describe_file, read_manifest, write_manifest
from splade_edge.runtime.vectors import SparseBatch

from tests.oracle import csr, numpy_alone, quantize, top_k, write_index

SEGMENT = Path("segments/00000001")
WITHOUT_PASSAGES = [name for name, spec in SEGMENT_ARRAYS.items() if spec.only != "passages"]


def weights(documents: int, vocab: int, seed: int = 0, density: float = 0.3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.lognormal(-1, 1, (documents, vocab)) * (rng.random((documents, vocab)) < density)).astype(np.float32)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A small index of 300 documents with an order of its own; copy it before changing it."""
    path = tmp_path_factory.mktemp("pristine") / "index"
    write_index(path, weights(300, 20), scale=None, reorder=True)
    return path


@pytest.fixture
def damaged(pristine, tmp_path):
    return Path(shutil.copytree(pristine, tmp_path / "index"))


def hashes(path: Path) -> dict[str, str]:
    return {
        str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in path.rglob("*") if p.is_file()
    }


class TestWriting:
    @settings(max_examples=25, deadline=None)
    @given(seed=st.integers(0, 1000), documents=st.integers(1, 200), batch=st.integers(1, 64))
    def test_postings_are_the_quantized_vectors(self, tmp_path_factory, seed, documents, batch):
        dense = weights(documents, 12, seed)
        index = write_index(tmp_path_factory.mktemp("w") / "index", dense, scale=None, batch=batch)
        scale = index.manifest.scale
        assert scale == pytest.approx((dense.max() or 255.0) / 255)
        expected = quantize(dense, scale)
        for term in range(12):
            units, impacts = index._segment.postings(term)
            assert units.tolist() == np.flatnonzero(expected[:, term]).tolist()
            assert impacts.tolist() == expected[units, term].tolist()
            largest = sorted(impacts.tolist(), reverse=True)
            assert index._segment.term_impacts[term].tolist() == [
                largest[k - 1] if k <= len(largest) else 0 for k in KTH_LEVELS
            ]
        assert index.manifest.statistics.empty == int((~dense.any(axis=1)).sum())
        assert index.manifest.statistics.below_half_a_step == int(((dense > 0) & (expected == 0)).sum())
        index.check()

    def test_spilled_and_merged_is_the_same_bytes(self, tmp_path, monkeypatch):
        dense = weights(12_000, 9, density=0.5)
        whole = write_index(tmp_path / "whole", dense, scale=None, batch=1100)
        monkeypatch.setattr(postings_writer, "BYTES_A_POSTING", 1000)  # 8 MiB of memory: runs of 8,388 postings
        spilled = write_index(tmp_path / "spilled", dense, scale=None, batch=999, memory_bytes=8 << 20)
        assert hashes(tmp_path / "whole") == hashes(tmp_path / "spilled")
        assert spilled.manifest == whole.manifest
        assert not list((tmp_path / "spilled").rglob("runs"))

    def test_blocks_are_cut_at_windows(self, tmp_path):
        dense = np.zeros((150_000, 3), np.float32)
        dense[:, 1] = 1
        dense[[0, 65_535, 65_536, 149_999], 2] = 2
        index = write_index(tmp_path / "index", dense, batch=40_000)
        segment = index._segment
        assert np.diff(segment.term_blocks.astype(int)).tolist() == [0, 3, 3]
        assert segment.block_windows.tolist() == [0, 1, 2, 0, 1, 2]
        assert np.diff(segment.block_postings.astype(int)).tolist() == [65_536, 65_536, 18_928, 2, 1, 1]
        assert segment.impact(2, 65_536) == 2
        assert segment.impact(2, 65_537) == 0
        index.check()

    def test_vocabulary_over_16_bits(self, tmp_path):
        vocab = 300_000
        writer = IndexWriter(tmp_path, vocab, scale=1.0)
        for i, term in enumerate((0, 65_535, 65_536, vocab - 1)):
            writer.add_document(Document(str(i)))
            writer.add_vectors(SparseBatch(np.array([0, 1]), np.array([term]), np.array([i + 1.0])))
        writer.finish()
        index = Index.open(tmp_path)
        assert index.search_vector(([65_536], [1.0]))[0].tolist() == [2]
        assert index.search_vector(([vocab - 1, 0], [1.0, 1.0]))[0].tolist() == [3, 0]

    def test_fixed_scale_clips_and_counts(self, tmp_path):
        index = write_index(tmp_path / "index", np.array([[0.1, 2.0, 300.0]]), scale=1.0)
        assert index.manifest.statistics.clipped == 1
        assert index.manifest.statistics.below_half_a_step == 1
        assert index.search_vector(([2], [1.0]))[1].tolist() == [255.0]

    @pytest.mark.parametrize(("units", "block_max", "rows"), [(4095, True, 0), (4096, True, 3), (4096, False, 0)])
    def test_block_max_data_are_written_where_they_help(self, tmp_path, units, block_max, rows):
        """As later commits do: for fewer units, adding all postings up is as fast."""
        writer = IndexWriter(tmp_path, 3, scale=1.0, block_max=block_max)
        writer.add_documents([Document(str(n)) for n in range(units)])
        writer.add_vectors(csr(np.ones((units, 3))))
        manifest = writer.finish()
        assert manifest.segments[0].rows == rows
        assert manifest.settings is not None
        assert manifest.settings.block_max == block_max
        with Index.open(tmp_path) as index:
            index.check()
            assert index.search_vector(([1], [1.0]), 2)[0].tolist() == [0, 1]

    def test_documents_without_terms(self, tmp_path):
        index = write_index(tmp_path / "index", np.zeros((5, 4)), scale=None)
        assert len(index) == 5
        assert index.search_vector(([0], [1.0]))[0].size == 0
        index.check()

    def test_stored_fields_come_back(self, tmp_path):
        documents = [
            Document("a", "T", "x" * 100_000, {"year": 2020, "tags": ["é", None], "deep": {"x": 1.5}}),
            Document("日本 ' \" %", "", "", {}),
            Document("c", "title\ttab", "line\nline \U0001f600", {}),
        ]
        writer = IndexWriter(tmp_path, 2, scale=1.0)
        for document in documents:
            writer.add_document(document)
        writer.add_vectors(csr(np.ones((3, 2))))
        writer.finish()
        index = Index.open(tmp_path)
        assert index.documents([2, 0, 1, 0]) == [documents[2], documents[0], documents[1], documents[0]]
        assert [index.find(d.id) for d in documents] == [0, 1, 2]
        assert index.find("nobody") is None

    @pytest.mark.parametrize(
        ("indptr", "indices", "values", "message"),
        [
            ([0, 1], [4], [1.0], "vector 0 has a term id outside the vocabulary of 4"),
            ([0, 1], [-1], [1.0], "term id outside"),
            ([0, 0, 2], [2, 1], [1.0, 1.0], "vector 1 has term ids that are not strictly ascending"),
            ([0, 2], [1, 1], [1.0, 1.0], "not strictly ascending"),
            ([0, 1], [1], [0.0], "not positive and finite"),
            ([0, 1], [1], [np.nan], "not positive and finite"),
            ([0, 1], [1], [np.inf], "not positive and finite"),
            ([0, 3], [1], [1.0], "indptr does not match"),
            ([0, 2, 1], [1], [1.0], "indptr does not match"),
        ],
    )
    def test_malformed_vectors(self, tmp_path, indptr, indices, values, message):
        writer = IndexWriter(tmp_path, 4)
        with pytest.raises(InputError, match=message):
            writer.add_vectors(SparseBatch(np.array(indptr), np.array(indices), np.array(values)))

    def test_duplicate_ids_and_miscounts(self, tmp_path):
        writer = IndexWriter(tmp_path, 4)
        writer.add_document(Document("a"))
        with pytest.raises(DuplicateIdError, match="'a' was used before"):
            writer.add_document(Document("a"))
        with pytest.raises(InputError, match="differ in number: 1 and 0 were added"):
            writer.finish()

    def test_too_little_memory(self, tmp_path):
        with pytest.raises(InputError, match="at least 8M"):
            IndexWriter(tmp_path, 4, memory_bytes=1000)


class TestPassages:
    def test_a_document_has_the_score_of_its_best_passage(self, tmp_path):
        rng = np.random.default_rng(0)
        owners = np.sort(rng.integers(0, 80, 600))
        owners = np.unique(owners, return_inverse=True)[1]
        impacts = rng.integers(0, 6, (600, 5))
        writer = IndexWriter(tmp_path, 5, passages=True, scale=1.0)
        for i in range(owners.max() + 1):
            writer.add_document(Document(f"d{i}", text="t" * 600))
        writer.add_vectors(csr(impacts), [PassageSpan(int(o), i, i + 1) for i, o in enumerate(owners)])
        writer.finish()
        index = Index.open(tmp_path)
        index.check()
        some = rng.random(len(index)) < 0.3
        for k, allowed in [(1, None), (3, None), (10, None), (79, None), (200, None), (1, some), (200, some)]:
            query = rng.choice(5, 3, replace=False), rng.random(3).astype(np.float32)
            expected: dict[int, tuple[float, int]] = {}
            for unit, score in zip(*top_k(impacts, *query, 600), strict=True):
                if allowed is None or allowed[owners[unit]]:
                    expected.setdefault(int(owners[unit]), (score, unit))
            ordinals, units, scores = index.search_units(query, k, allowed=allowed)
            assert list(zip(ordinals.tolist(), scores.tolist(), units.tolist(), strict=True)) == [
                (document, score, unit) for document, (score, unit) in list(expected.items())[:k]
            ]
            assert [index.span(int(u)) for u in units] == [(u, u + 1) for u in units]

    def test_a_span_of_a_document_that_is_not_there(self, tmp_path):
        writer = IndexWriter(tmp_path, 2, passages=True)
        writer.add_document(Document("a"))
        writer.add_document(Document("b"))
        with pytest.raises(InputError, match="a span is of document 2; 2 were added"):
            writer.add_vectors(csr(np.ones((2, 2))), [PassageSpan(o, 0, 1) for o in (0, 2)])

    @pytest.mark.parametrize("owners", [[0, 0], [1, 0]])
    def test_spans_must_cover_the_documents(self, tmp_path, owners):
        writer = IndexWriter(tmp_path, 2, passages=True)
        writer.add_document(Document("a"))
        writer.add_document(Document("b"))
        writer.add_vectors(csr(np.ones((2, 2))), [PassageSpan(o, 0, 1) for o in owners])
        with pytest.raises(InputError, match="passages must follow the order"):
            writer.finish()


class TestDamage:
    @settings(max_examples=150, deadline=None)
    @given(data=st.data())
    def test_a_flipped_byte_never_goes_unseen(self, pristine, tmp_path_factory, data):
        """Anywhere: opening, searching or checking names the damage, and no search gives another answer before."""
        names = sorted(str(p.relative_to(pristine)) for p in pristine.rglob("*") if p.is_file())
        name = data.draw(st.sampled_from(names))
        path = Path(shutil.copytree(pristine, tmp_path_factory.mktemp("d") / "index"))
        raw = bytearray((path / name).read_bytes())
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] ^= data.draw(st.integers(1, 255))
        (path / name).write_bytes(raw)
        expected = Index.open(pristine).search_vector((range(20), np.ones(20)), 300)

        def use() -> None:
            index = Index.open(path)
            answer = index.search_vector((range(20), np.ones(20)), 300)
            assert [a.tolist() for a in answer] == [e.tolist() for e in expected]
            index.check()

        with pytest.raises((IntegrityError, IndexFormatError)):
            use()

    @pytest.mark.parametrize("name", [*WITHOUT_PASSAGES, "documents.sqlite"])
    def test_missing_and_truncated(self, damaged, name):
        path = damaged / SEGMENT / name
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(IntegrityError, match=f"{name} has .* bytes instead of"):
            Index.open(damaged)
        path.unlink()
        with pytest.raises(IntegrityError, match=f"{name} is missing"):
            Index.open(damaged)

    def test_damaged_postings_are_found_when_first_read(self, damaged):
        path = damaged / SEGMENT / "posting_impacts.u8"
        raw = bytearray(path.read_bytes())
        raw[0] ^= 1  # the first posting of the first term that has any
        path.write_bytes(raw)
        index = Index.open(damaged)
        index.search_vector(([5, 6], [1.0, 1.0]))
        with pytest.raises(IntegrityError, match="postings of term 0 do not match their checksum"):
            index.search_vector(([0, 5], [1.0, 1.0]))

    def test_a_damaged_document_is_not_shown(self, damaged):
        path = damaged / SEGMENT / "documents.sqlite"
        raw = path.read_bytes()
        path.write_bytes(raw.replace(b"text 17", b"text 18", 1))
        index = Index.open(damaged)
        assert index.documents([16])[0].id == "d16"
        with pytest.raises(IntegrityError, match="document 17 does not match its checksum"):
            index.documents([17])

    def test_not_an_index(self, tmp_path):
        with pytest.raises(IndexFormatError, match="not a directory; make an index first"):
            Index.open(tmp_path / "nothing")
        with pytest.raises(IndexFormatError, match=r"has no splade_edge_index\.json"):
            Index.open(tmp_path)


def rewrite(path: Path, arrays: dict[str, np.ndarray] | None = None, **changes: object) -> None:
    """Change arrays and manifest fields and make all digests right again: only validation can object."""
    manifest = read_manifest(
        path / MANIFEST_NAME, IndexManifest, format="splade-edge-index", version=VERSION, error=IndexFormatError
    )
    files = dict(manifest.files)
    for name, array in (arrays or {}).items():
        (path / SEGMENT / name).write_bytes(array.astype(SEGMENT_ARRAYS[name].dtype).tobytes())
        files[str(SEGMENT / name)] = describe_file(path / SEGMENT / name)
    write_manifest(path / MANIFEST_NAME, msgspec.structs.replace(manifest, files=files, **changes))


class TestValidation:
    """Files that are what their manifest says, and still must not reach a kernel."""

    def load(self, path, name):
        return np.fromfile(path / SEGMENT / name, SEGMENT_ARRAYS[name].dtype).copy()

    @pytest.mark.parametrize(
        ("name", "at", "value", "message"),
        [
            ("term_blocks.u64", 0, 1, "term_blocks is damaged"),
            ("term_blocks.u64", -1, 7, "does not run from 0 to 20"),
            ("term_blocks.u64", 5, 2**63, "pointers that do not ascend"),
            ("block_postings.u64", 3, 0, "pointers that do not ascend"),
            ("block_postings.u64", -1, 2**40, "does not run from 0"),
            ("block_windows.u16", 4, 1, "a window beyond the 300 units"),
            ("block_impacts.u8", 4, 0, "a block without an impact"),
            ("chunk_terms.u32", 3, 2, "terms that do not ascend within the vocabulary"),
            ("chunk_terms.u32", -1, 20, "terms that do not ascend within the vocabulary"),
            ("original_units.u32", 7, 300, "it is not an order of the units"),
            ("original_units.u32", 7, 2**32 - 1, "it is not an order of the units"),
            ("original_units.u32", 7, None, "it is not an order of the units"),
        ],
    )
    def test_pointers(self, damaged, name, at, value, message):
        array = self.load(damaged, name)
        array[at] = array[at + 1] if value is None else value
        rewrite(damaged, {name: array})
        with pytest.raises(IntegrityError, match=message):
            Index.open(damaged)

    @pytest.mark.parametrize(
        ("name", "at", "value"),
        [
            ("span_postings.u16", (4, 0), 1),  # the first chunk of a window starts at 0
            ("span_postings.u16", (4, 1), 65535),  # beyond the block
            ("chunk_postings.u8", (4, 2), 255),
            ("chunk_postings.u8", (4, 3), 0),  # before its neighbour
        ],
    )
    def test_offsets_of_chunks(self, damaged, name, at, value):
        names = "chunk_impacts.u8", "span_postings.u16", "chunk_postings.u8"
        arrays = {n: self.load(damaged, n).reshape(20, -1) for n in names}
        arrays[name][at] = value
        checksums = self.load(damaged, "chunk_checksums.u32")
        checksums[at[0]] = checksum(*(arrays[n][at[0]] for n in names))
        rewrite(damaged, {name: arrays[name], "chunk_checksums.u32": checksums})
        index = Index.open(damaged)
        index.search_vector(([3, 5], [1.0, 1.0]))
        with pytest.raises(IntegrityError, match="offsets of term 4 that do not ascend within its blocks"):
            index.search_vector(([3, 4], [1.0, 1.0]))

    def test_maxima_of_chunks(self, damaged):
        names = "chunk_impacts.u8", "span_postings.u16", "chunk_postings.u8"
        rows = {n: self.load(damaged, n).reshape(20, -1) for n in names}
        rows["chunk_impacts.u8"][4, 2] -= 1
        checksums = self.load(damaged, "chunk_checksums.u32")
        checksums[4] = checksum(*(rows[n][4] for n in names))
        rewrite(damaged, {"chunk_impacts.u8": rows["chunk_impacts.u8"], "chunk_checksums.u32": checksums})
        with pytest.raises(IntegrityError, match="block-max data of term 4 that are not its own"):
            Index.open(damaged).check()

    @pytest.mark.parametrize("seed", range(8))
    def test_hostile_postings_with_good_checksums_stay_in_bounds(self, damaged, seed):
        """Not the right answers, but answers: units in any order, often twice, and offsets that only ascend."""
        rng = np.random.default_rng(seed)
        term_blocks, pointers = self.load(damaged, "term_blocks.u64"), self.load(damaged, "block_postings.u64")
        units, impacts = self.load(damaged, "posting_units.u16"), self.load(damaged, "posting_impacts.u8")
        units[:] = rng.integers(0, [300, 3][seed % 2], units.size)
        names = "chunk_impacts.u8", "span_postings.u16", "chunk_postings.u8"
        rows = {n: self.load(damaged, n).reshape(20, -1) for n in names}
        of_terms, of_rows = np.zeros(20, np.uint32), np.zeros(20, np.uint32)
        for term in range(20):
            a, b = (int(pointers[block]) for block in term_blocks[term : term + 2])
            of_terms[term] = checksum(units[a:b], impacts[a:b])
            starts = np.sort(rng.integers(0, min(b - a, 255) + 1, rows[names[2]].shape[1]))
            starts[0] = 0
            rows["span_postings.u16"][term] = 0
            rows["chunk_postings.u8"][term] = starts
            of_rows[term] = checksum(*(rows[n][term] for n in names))
        changed = {"posting_units.u16": units, "term_checksums.u32": of_terms, "chunk_checksums.u32": of_rows}
        rewrite(damaged, {**rows, **changed})
        index = Index.open(damaged)
        for way in (*range(3), None):
            index._scorer.by_kernels.way = way or 0
            with nullcontext() if way is not None else numpy_alone():
                for k in (1, 50, 300):
                    for allowed in (None, rng.random(300) < 0.5):
                        found, _ = index.search_vector((range(20), rng.random(20)), k, allowed=allowed)
                        assert (found < 300).all()
        with pytest.raises(IntegrityError):
            index.check()

    def test_counts(self, damaged):
        manifest = Index.open(damaged).manifest
        segment = manifest.segments[0]
        for change in (
            {"units": 299},
            {"documents": 301},
            {"postings": 5},
            {"blocks": 3},
            {"passages": True},
            {"rows": 19},
        ):
            rewrite(damaged, segments=[msgspec.structs.replace(segment, **change)])
            with pytest.raises(IntegrityError):
                Index.open(damaged)

    def test_check_finds_what_only_check_reads(self, damaged):
        for name, change, message in (
            ("posting_units.u16", lambda a: a[::-1], "checksum"),
            ("chunk_impacts.u8", lambda a: a[::-1], "checksum"),
            ("posting_impacts.u8", lambda a: np.zeros_like(a), "checksum"),
            ("term_impacts.u8", lambda a: np.full_like(a, 255), "k-th largest impacts"),
            ("block_impacts.u8", lambda a: np.full_like(a, 255), "a largest impact that is not its block's"),
        ):
            original = self.load(damaged, name)
            rewrite(damaged, {name: change(original)})
            with pytest.raises(IntegrityError, match=message):
                Index.open(damaged).check()
            rewrite(damaged, {name: original})
        Index.open(damaged).check()

    def test_what_later_releases_write(self, damaged):
        rewrite(damaged, features=["from the future"])
        with pytest.raises(IndexFormatError, match="newer splade-edge"):
            Index.open(damaged)
        rewrite(damaged, features=[])
        rewrite(damaged, version=VERSION + 1)
        with pytest.raises(IndexFormatError, match=f"this release reads up to {VERSION}: upgrade"):
            Index.open(damaged)

    def test_segments_that_do_not_fit_together(self, damaged):
        manifest = Index.open(damaged).manifest
        segment = manifest.segments[0]
        bits = damaged / "bits"
        bits.write_bytes(np.packbits(np.arange(300) < 3, bitorder="little").tobytes())
        files = {**manifest.files, "bits": describe_file(bits)}
        for entries, message in (
            (manifest.segments * 2, "do not fit together"),
            ([msgspec.structs.replace(segment, tombstones="t")], "does not give t the 38 bytes"),
            ([msgspec.structs.replace(segment, deleted=3)], "names no file of them"),
            ([msgspec.structs.replace(segment, tombstones="bits", deleted=2)], "bits is damaged"),
            ([msgspec.structs.replace(segment, tombstones="../bits", deleted=3)], "outside the directory"),
        ):
            write_manifest(damaged / MANIFEST_NAME, msgspec.structs.replace(manifest, files=files, segments=entries))
            with pytest.raises(IntegrityError, match=message):
                Index.open(damaged)
        entries = [msgspec.structs.replace(segment, tombstones="bits", deleted=3)]
        write_manifest(damaged / MANIFEST_NAME, msgspec.structs.replace(manifest, files=files, segments=entries))
        index = Index.open(damaged)
        assert len(index) == 297
        index.check()
        bits.write_bytes(np.packbits(np.arange(300) % 100 == 0, bitorder="little").tobytes())
        with pytest.raises(IntegrityError, match="bits is damaged"):
            Index.open(damaged)

    def test_paths_that_leave_the_directory(self, damaged):
        manifest = Index.open(damaged).manifest
        rewrite(damaged, segments=[msgspec.structs.replace(manifest.segments[0], path="../elsewhere")])
        with pytest.raises((IntegrityError, InputError, IndexFormatError)):
            Index.open(damaged)

    def test_edited_manifest(self, damaged):
        path = damaged / MANIFEST_NAME
        body = json.loads(path.read_text())
        body["scale"] = 1.0
        path.write_text(json.dumps(body))
        with pytest.raises(IntegrityError, match="damaged or was edited"):
            Index.open(damaged)
