from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splade_edge.runtime.artifact import (
    MANIFEST_NAME,
    Artifact,
    Variant,
    is_pair,
    open_all,
    open_artifact,
    variant_files,
)
from splade_edge.runtime.build.artifact_copy import copy_artifact
from splade_edge.runtime.errors import ArtifactError, IntegrityError, SpladeEdgeError

from .. import tiny


@pytest.fixture
def copy(tiny_artifact: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_artifact, tmp_path / "artifact")
    return tmp_path / "artifact"


@pytest.fixture
def pair(tiny_pair: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_pair, tmp_path / "pair")
    return tmp_path / "pair"


def test_open(tiny_artifact: Path) -> None:
    artifact = open_artifact(tiny_artifact)
    assert artifact.manifest.vocab_size == len(tiny.VOCABULARY)
    assert artifact.serves("query")
    assert artifact.serves("document")
    assert {"tokenizer.json", "onnx/fp32.onnx"} <= artifact.manifest.files.keys()
    assert MANIFEST_NAME not in artifact.manifest.files
    assert open_all(tiny_artifact) == [artifact]


def test_pair(pair: Path) -> None:
    assert is_pair(pair)
    assert not is_pair(pair / "query")
    query, document = open_all(pair)
    assert query.path == pair / "query"
    assert not query.serves("document")
    assert document.serves("document")
    assert open_artifact(pair, "document") == document
    with pytest.raises(ArtifactError, match="is a pair; name one of its encoders"):
        open_artifact(pair)


def test_wrong_role(pair: Path) -> None:
    with pytest.raises(ArtifactError, match="holds a query encoder, not a document encoder; name the pair's directory"):
        open_artifact(pair / "query", "document")


@pytest.mark.parametrize("name", ["tokenizer.json", "onnx/fp32.onnx"])
def test_damaged_files(copy: Path, name: str) -> None:
    file = copy / name
    raw = file.read_bytes()
    middle = len(raw) // 2
    file.write_bytes(raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :])
    with pytest.raises(IntegrityError, match="SHA-256 does not match"):
        open_artifact(copy)
    open_artifact(copy, check=False)
    file.write_bytes(raw[:-1])
    with pytest.raises(IntegrityError, match="bytes instead of"):
        open_artifact(copy)
    file.unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        open_artifact(copy)


@given(st.data())
@settings(deadline=None, max_examples=50)
def test_a_flipped_byte_in_any_file_is_found(tiny_pair: Path, tmp_path_factory, data: st.DataObject) -> None:
    pair = tmp_path_factory.getbasetemp() / "flipped"
    if not pair.exists():
        shutil.copytree(tiny_pair, pair)
    file = data.draw(st.sampled_from(sorted(p for p in pair.rglob("*") if p.is_file() and p.name != MANIFEST_NAME)))
    raw = file.read_bytes()
    position = data.draw(st.integers(0, len(raw) - 1))
    file.write_bytes(raw[:position] + bytes([raw[position] ^ 0x20]) + raw[position + 1 :])
    try:
        with pytest.raises(IntegrityError):
            open_all(pair)
    finally:
        file.write_bytes(raw)


def test_a_side_of_another_pair_is_found(pair: Path, tmp_path: Path) -> None:
    """Each side is intact, but they are not the two that were exported together."""
    shutil.rmtree(pair / "query")
    tiny.write_artifact(pair / "query", "query", seed=7)
    with pytest.raises(IntegrityError):
        open_artifact(pair, "document")


def test_missing_and_foreign_directories(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a directory; expected an exported artifact"):
        open_artifact(tmp_path / "none")
    with pytest.raises(ArtifactError, match=r"has no splade_edge\.json"):
        open_artifact(tmp_path)
    (copy / MANIFEST_NAME).write_bytes((copy / MANIFEST_NAME).read_bytes()[:100])
    with pytest.raises(IntegrityError, match="damaged"):
        open_artifact(copy)
    (copy / MANIFEST_NAME).unlink()
    with pytest.raises(ArtifactError, match="incomplete"):
        open_artifact(copy)


def test_variant_by_preference() -> None:
    def variant(backend: str, precision: str) -> Variant:
        return Variant(backend, precision, "x", "", "any", True)

    everything = [variant(b, p) for b in ("openvino", "onnx") for p in ("fp32", "int8")]
    artifact = with_variants(everything)
    assert artifact.variant() == variant("onnx", "int8")
    assert artifact.variant("openvino") == variant("openvino", "int8")
    assert artifact.variant(precision="fp32") == variant("onnx", "fp32")
    assert artifact.variant("openvino", "fp32") == variant("openvino", "fp32")
    with pytest.raises(ArtifactError, match=r"has no openvino int8 graph \(it has: onnx fp32\)"):
        with_variants([variant("onnx", "fp32")]).variant("openvino", "int8")


def with_variants(variants: list[Variant]) -> Artifact:
    from types import SimpleNamespace

    return Artifact(Path("artifact"), SimpleNamespace(variants=variants))


@pytest.mark.skipif(not tiny.HAS_OPENVINO, reason="no openvino")
def test_copy_with_some_graphs(tiny_artifact: Path, tmp_path: Path) -> None:
    source = open_artifact(tiny_artifact)
    (tmp_path / "copy").mkdir()
    copied = copy_artifact(source, tmp_path / "copy", lambda v: v.backend == "openvino")
    assert [v.backend for v in copied.manifest.variants] == ["openvino"]
    assert copied.manifest.files.keys() == {"tokenizer.json", "openvino/fp32.xml", "openvino/fp32.bin"}
    assert copied.manifest.vocabulary_sha256 == source.manifest.vocabulary_sha256
    (variant,) = copied.manifest.variants
    assert set(variant_files(variant)) < copied.manifest.files.keys()
    (tmp_path / "none").mkdir()
    with pytest.raises(ArtifactError, match="has no graph"):
        copy_artifact(source, tmp_path / "none", lambda v: False)


def test_a_manifest_that_names_a_file_outside(copy: Path) -> None:
    import msgspec
    from splade_edge.runtime.manifest import write_manifest

    manifest = open_artifact(copy).manifest
    outside = {**manifest.files, "../outside": manifest.files["tokenizer.json"]}
    write_manifest(copy / MANIFEST_NAME, msgspec.structs.replace(manifest, files=outside))
    with pytest.raises(SpladeEdgeError, match="outside the directory"):
        open_artifact(copy)
