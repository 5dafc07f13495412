"""Encoders that give weight to a text's own terms alone: tables, and graphs behind a mask by bag of words."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from splade_edge.runtime import Document, Encoder, Searcher, build_index
from splade_edge.runtime.artifact import VERSION, open_artifact, write_artifact_manifest
from splade_edge.runtime.errors import ArtifactError, IntegrityError

from .. import tiny

WEIGHTS = np.linspace(0, 2, len(tiny.VOCABULARY)).astype(np.float32)
CAT, DOG = tiny.VOCABULARY.index("cat"), tiny.VOCABULARY.index("dog")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tiny.write_table_artifact(tmp_path / "table", WEIGHTS, dropped_terms=(1, 2, 3))


def test_a_query_is_its_own_terms_once_each(table: Path) -> None:
    encoder = Encoder.open(table, "query")
    vector = encoder.encode_query("dog cat ☃ cat")
    assert vector.indices.tolist() == [CAT, DOG]
    np.testing.assert_array_equal(vector.values, WEIGHTS[[CAT, DOG]])
    assert vector.indices.dtype == np.int32
    assert encoder.encode_query("").indices.size == 0
    texts = ["cat", "", "river of the river"] * 200
    for text, many in zip(texts, encoder.encode_query(texts), strict=True):
        np.testing.assert_array_equal(many.indices, encoder.encode_query(text).indices)


@pytest.mark.parametrize("options", [{"backend": "onnx"}, {"backend": "openvino"}, {"precision": "int8"}])
def test_a_table_serves_whatever_engine_was_asked_for(table: Path, options: dict) -> None:
    assert Encoder.open(table, **options).variant.backend == "table"


def test_a_mask_keeps_what_the_graph_gives_the_texts_own_terms(tmp_path: Path) -> None:
    plain = tiny.write_artifact(tmp_path / "plain")
    masked = tiny.write_artifact(tmp_path / "masked", kind="masked encoder")
    text = "cats and the supersonic boundary layer"
    whole, own = Encoder.open(plain).encode_query(text), Encoder.open(masked).encode_query(text)
    ids = set(Encoder.open(plain).tokenizer.encode(text).ids)
    keep = np.isin(whole.indices, list(ids))
    assert 0 < keep.sum() < keep.size
    np.testing.assert_array_equal(own.indices, whole.indices[keep])
    np.testing.assert_array_equal(own.values, whole.values[keep])


def test_an_index_carries_the_table(table: Path, tiny_pair: Path, tmp_path: Path) -> None:
    documents = [Document("a", text="cat river"), Document("b", text="engine wing")]
    build_index(tmp_path / "index", documents, Encoder.open(tiny_pair, "document"), table)
    with Searcher.open(tmp_path / "index") as searcher:
        assert searcher.search("cat")[0].id == "a"
        assert searcher.explain("cat", searcher.search("cat")[0]).query == [("cat", float(WEIGHTS[CAT]))]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (WEIGHTS[:-1], "does not hold 43 float32 weights"),
        (np.where(np.arange(len(WEIGHTS)) == 7, np.nan, WEIGHTS).astype(np.float32), "negative or not finite"),
        (-WEIGHTS, "negative or not finite"),
    ],
)
def test_a_table_that_is_none(table: Path, weights: np.ndarray, message: str) -> None:
    (table / "table.f32").write_bytes(weights.tobytes())
    with pytest.raises(IntegrityError, match=r"table\.f32"):
        Encoder.open(table)
    with pytest.raises(ArtifactError, match=message):
        Encoder.open(table, check=False).encode_query("cat")
    (table / "table.f32").unlink()
    with pytest.raises(ArtifactError, match="cannot read"):
        Encoder.open(table, check=False)


def test_an_artifact_of_version_1_is_an_encoder(tmp_path: Path) -> None:
    """The first version had no ``kind``."""
    import hashlib
    import json

    path = tiny.write_artifact(tmp_path / "a")
    file = path / "splade_edge.json"
    body = json.loads(file.read_bytes())
    assert body["version"] == VERSION
    del body["kind"], body["digest"]
    body["version"] = 1
    old = msgspec.json.format(msgspec.json.encode(body, order="sorted"), indent=1)
    digest = hashlib.sha256(old).hexdigest()
    file.write_bytes(msgspec.json.format(msgspec.json.encode(body | {"digest": digest}, order="sorted"), indent=1))
    artifact = open_artifact(path)
    assert (artifact.manifest.version, artifact.manifest.kind) == (1, "encoder")
    write_artifact_manifest(path, artifact.manifest)
    assert open_artifact(path).manifest.version == VERSION
