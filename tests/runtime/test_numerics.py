"""Artifacts and indexes of another number: what they still do, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import msgspec
import pytest
from splade_edge.runtime import Document, IndexUpdater, Searcher, build_index, numerics
from splade_edge.runtime.artifact import encoding_sha256, open_artifact, write_artifact_manifest
from splade_edge.runtime.encoder import Encoder
from splade_edge.runtime.errors import ArtifactError, SpladeEdgeWarning
from splade_edge.runtime.index import Index
from splade_edge.runtime.index.layout import VERSION
from splade_edge.runtime.vectors import SparseBatch

from .. import tiny

FIXTURE = Path(__file__).parents[1] / "fixtures" / "index-version-2"
NEW = Document("new", "", "cat in the snow", {"year": 2026})


@pytest.fixture(autouse=True)
def nothing_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numerics, "_warned", set())


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return tiny.write_artifact(tmp_path / "old", numerics=0)


def with_numerics(path: Path, number: int) -> Path:
    write_artifact_manifest(path, msgspec.structs.replace(open_artifact(path).manifest, numerics=number))
    return path


class TestArtifact:
    def test_one_warning_a_process_and_path(self, old: Path, tmp_path: Path) -> None:
        other = tiny.write_artifact(tmp_path / "other", numerics=0)
        message = (
            f"^{re.escape(str(old))} was exported before numerics {numerics.NUMERICS} \\(it has 0\\); its vectors may "
            "differ from its checkpoint's; export it again \\(splade-edge export .*\\) and index again "
            "\\(splade-edge index .*\\)$"
        )
        with pytest.warns(SpladeEdgeWarning, match=message):
            Encoder.open(old, threads=1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for path in (old, old.parent / "." / old.name):
                assert Encoder.open(path, threads=1).encode_query("cat").indices.size
        with pytest.warns(SpladeEdgeWarning, match="other was exported before"):
            Encoder.open(other, threads=1)

    def test_where_warnings_are_errors_each_attempt_is_one(self, old: Path) -> None:
        for _ in range(2):
            with pytest.raises(SpladeEdgeWarning, match="old was exported before"):
                Encoder.open(old, threads=1)

    def test_no_warning_where_nothing_is_encoded_or_all_is_well(self, old: Path, tiny_artifact: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            open_artifact(old)
            Encoder.open(tiny_artifact, threads=1)

    def test_of_a_later_release(self, old: Path) -> None:
        later = with_numerics(old, numerics.NUMERICS + 1)
        assert open_artifact(later).manifest.numerics == numerics.NUMERICS + 1
        with pytest.raises(ArtifactError, match=r"with numerics \d+; this release computes with \d+: upgrade"):
            Encoder.open(later, threads=1)

    def test_the_identity_of_older_artifacts_is_what_it_was(self) -> None:
        """Of an index that the code before wrote."""
        made_with = Index.open(FIXTURE / "index").manifest.document_vectors
        artifact = open_artifact(FIXTURE / "index/encoder/document")
        assert artifact.manifest.version == 5
        assert made_with is not None
        assert encoding_sha256(artifact, artifact.variant(), "document") == made_with.files_sha256
        assert made_with.numerics == 0


class TestIndex:
    def test_states_the_number(self, tiny_pair: Path, tmp_path: Path) -> None:
        manifest = build_index(tmp_path / "index", [NEW], tiny_pair)
        assert manifest.document_vectors is not None
        assert (manifest.version, manifest.document_vectors.numerics) == (VERSION, numerics.NUMERICS)

    def test_an_older_one_opens_and_searches(self) -> None:
        """Made by the code before numbers, with a segment added and a document deleted; it must open for ever."""
        with pytest.warns(SpladeEdgeWarning, match="encoder/query was exported before") as caught:
            searcher = Searcher.open(FIXTURE / "index", threads=1)
        assert len(caught) == 1
        searcher.index.check()
        assert (searcher.index.manifest.version, len(searcher.index)) == (2, 12)
        for case in json.loads((FIXTURE / "answers.json").read_text("utf-8")):
            vector = searcher.encode_query(case["query"])
            assert vector.indices.tolist() == case["vector"][0]
            assert vector.values.tolist() == pytest.approx(case["vector"][1], rel=1e-6)
            hits = [[hit.id, hit.score] for hit in searcher.search(case["query"], 5)]
            assert [document for document, _ in hits] == [document for document, _ in case["hits"]]
            assert [score for _, score in hits] == pytest.approx([score for _, score in case["hits"]], rel=1e-6)

    def test_an_older_one_changes_but_gets_no_new_texts(self, tmp_path: Path, tiny_artifact: Path) -> None:
        path = shutil.copytree(FIXTURE / "index", tmp_path / "index")
        with pytest.warns(SpladeEdgeWarning):
            vector = Encoder.open(path / "encoder/document", threads=1).encode_document(NEW.text)
        for given in (None, path / "encoder/document", tiny_artifact):
            for change in ("add", "update"):
                updater = IndexUpdater.open(path, document_encoder=given)
                with pytest.raises(ArtifactError, match=r"has vectors of numerics 0, .* with") as caught, updater:
                    getattr(updater, change)([NEW])
                number = numerics.NUMERICS if given == tiny_artifact else 0
                message = str(caught.value)
                assert f"exported with {number} and this release computes with {numerics.NUMERICS}" in message
                assert "splade-edge export" in message
                assert "splade-edge index" in message
                assert "\n" not in message
        assert Index.open(path).generation == 2
        with IndexUpdater.open(path) as updater:
            updater.delete(["d5"])
            updater.add_vectors([NEW], SparseBatch.stack([vector]))
        with IndexUpdater.open(path) as updater:
            updater.compact()
        index = Index.open(path)
        index.check()
        assert (index.manifest.version, len(index), len(index.segments)) == (VERSION, 12, 1)
        assert index.manifest.document_vectors is not None
        assert index.manifest.document_vectors.numerics == 0
        with pytest.warns(SpladeEdgeWarning, match="encoder/query was"):
            searcher = Searcher.open(path, threads=1)
        assert "new" in [hit.id for hit in searcher.search("snow")]

    @pytest.mark.parametrize("release", [2, 3])
    def test_all_three_numbers_must_be_equal(
        self, tiny_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: int
    ) -> None:
        build_index(tmp_path / "index", [NEW], tiny_pair, with_document_encoder=True)
        other = Document("2", "", "dog")
        with IndexUpdater.open(tmp_path / "index", threads=1) as updater:
            updater.add([other])
        monkeypatch.setattr(numerics, "NUMERICS", release)
        with (
            IndexUpdater.open(tmp_path / "index") as updater,
            pytest.raises(ArtifactError, match=r"numerics 1, .*with 1"),
        ):
            updater.update([other])
        newer = with_numerics(shutil.copytree(tiny_pair / "document", tmp_path / "newer"), 2)
        updater = IndexUpdater.open(tmp_path / "index", document_encoder=newer)
        with updater, pytest.raises(ArtifactError, match=f"with 2 and this release computes with {release}"):
            updater.update([other])

    def test_of_a_later_release(self, tiny_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("splade_edge.runtime.build.indexing.NUMERICS", numerics.NUMERICS + 1)
        build_index(tmp_path / "index", [NEW], tiny_pair)
        updater = IndexUpdater.open(tmp_path / "index", document_encoder=tiny_pair)
        with updater, pytest.raises(ArtifactError, match=r"would not fit those of the index; upgrade splade-edge$"):
            updater.update([NEW])

    def test_an_index_made_with_an_older_artifact_gets_no_new_texts(self, old: Path, tmp_path: Path) -> None:
        with pytest.warns(SpladeEdgeWarning, match="old was exported before"):
            build_index(tmp_path / "index", [NEW], old)
        updater = IndexUpdater.open(tmp_path / "index", document_encoder=old)
        with updater, pytest.raises(ArtifactError, match="exported with 0 and this release"):
            updater.add([Document("2")])


def test_the_command_line_warns_and_refuses_in_a_line(tmp_path: Path) -> None:
    path = shutil.copytree(FIXTURE / "index", tmp_path / "index")
    (tmp_path / "c.jsonl").write_text('{"_id": "new", "text": "cat"}\n', "utf-8")

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "splade_edge.runtime.cli.main", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    searched = run("search", path, "snow", "--threads", 1)
    assert searched.returncode == 0
    (warning,) = searched.stderr.splitlines()
    assert "exported before numerics" in warning
    added = run("add", path, tmp_path / "c.jsonl")
    assert added.returncode == 2
    (error,) = added.stderr.splitlines()
    assert "has vectors of numerics 0" in error
