"""Graphs whose decoder runs outside of them, over all terms or those of an index."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from splade_edge.runtime.artifact import Artifact, Variant, open_artifact, write_artifact_manifest
from splade_edge.runtime.build.indexing import build_index
from splade_edge.runtime.document import Document
from splade_edge.runtime.encoder import Encoder
from splade_edge.runtime.encoder.batches import pad_right
from splade_edge.runtime.errors import ArtifactError, InputError
from splade_edge.runtime.searcher import Searcher

from .. import split, tiny

TEXTS = [
    "cat",
    "",
    "the supersonic boundary layer of a river and the engine wing flow heat",
    "bread flour oven water salt music",
    "dog fish bird tree",
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split.write_split_artifact(tmp_path_factory.mktemp("split") / "artifact")


@pytest.fixture(scope="module", params=[1, 2])
def encoder(path: Path, request: pytest.FixtureRequest) -> Encoder:
    return Encoder.open(path, threads=request.param)


def test_gives_what_the_whole_graph_gives(path: Path, encoder: Encoder) -> None:
    import onnxruntime as ort

    ids, mask = pad_right([encoder.tokenizer.encode(text).ids for text in TEXTS], 0)
    session = ort.InferenceSession(path / "onnx/int8.onnx")
    (whole,) = session.run(["weights"], {"input_ids": ids, "attention_mask": mask})
    mine = encoder._session.run(ids, mask)
    np.testing.assert_array_equal(mine > 0, whole > 0)
    np.testing.assert_allclose(mine, whole, rtol=3e-7)
    for text, row in zip(TEXTS, whole, strict=True):
        vector = encoder.encode_query(text)
        np.testing.assert_array_equal(vector.indices, np.flatnonzero(row))
        np.testing.assert_allclose(vector.values, row[vector.indices], rtol=3e-7)


def test_batches_and_neighbours_change_nothing(encoder: Encoder) -> None:
    for text, together in zip(TEXTS * 30, encoder.encode_query(TEXTS * 30), strict=True):
        alone = encoder.encode_query(text)
        np.testing.assert_array_equal(together.indices, alone.indices)
        np.testing.assert_array_equal(together.values, alone.values)


def test_restricted_to_any_terms_gives_the_same_weights(encoder: Encoder) -> None:
    every = range(encoder.vocab_size)
    rng = np.random.default_rng(0)
    for terms in ([], *([t] for t in every), every, *(np.flatnonzero(rng.random(len(every)) < 0.4) for _ in range(20))):
        some = encoder.restricted(np.asarray(terms, np.int32))
        for text in TEXTS:
            full, part = encoder.encode_query(text), some.encode_query(text)
            keep = np.isin(full.indices, terms)
            np.testing.assert_array_equal(part.indices, full.indices[keep])
            np.testing.assert_array_equal(part.values, full.values[keep])


@pytest.mark.parametrize("make", [tiny.write_artifact, split.write_split_artifact], ids=["whole", "split"])
def test_restricting_any_graph_twice_and_with_dropped_terms(tmp_path: Path, make) -> None:
    cat, dog, tree = (tiny.VOCABULARY.index(word) for word in ("cat", "dog", "tree"))
    encoder = Encoder.open(make(tmp_path / "a", dropped_terms=(cat,)), threads=1)
    text = "cat dog tree"
    assert cat not in encoder.encode_query(text).indices
    some = encoder.restricted(np.array([cat, dog, tree, 10**6]))
    assert some.encode_query(text).indices.tolist() == sorted([dog, tree])
    assert some.restricted(np.array([cat, dog])).encode_query(text).indices.tolist() == [dog]
    assert encoder.encode_query(text).indices.size > 2


def test_only_the_text_s_own_terms(tmp_path: Path) -> None:
    encoder = Encoder.open(split.write_split_artifact(tmp_path / "a", "query", kind="masked encoder"), threads=1)
    cat, dog = (tiny.VOCABULARY.index(word) for word in ("cat", "dog"))
    assert set(encoder.encode_query("cat dog").indices) == {cat, dog}
    assert encoder.restricted(np.array([dog])).encode_query("cat dog").indices.tolist() == [dog]


def test_without_compiled_kernels_the_same(path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    plain = Encoder.open(path, threads=1)
    for text in TEXTS:
        a, b = encoder.encode_query(text), plain.encode_query(text)
        np.testing.assert_array_equal(a.indices, b.indices)
        np.testing.assert_array_equal(a.values, b.values)
    assert type(plain._session._decoder).__name__ == "NumpyDecoder"


def test_a_search_knows_the_terms_of_the_index_and_answers_the_same(path: Path, tmp_path: Path) -> None:
    words = tiny.WORDS[3:-2]
    documents = [Document(str(i), "", " ".join(words[i : i + 3])) for i in range(0, 8)]
    # Some documents, so that some terms have no postings.
    build_index(tmp_path / "index", documents[:2], path, path)
    with Searcher.open(tmp_path / "index", threads=1) as searcher:
        terms = set(searcher.index.terms.tolist())
        assert 0 < len(terms) < searcher.encoder.vocab_size
        missing = 0
        for query in TEXTS:
            whole, part = searcher.encode_query(query), searcher.encode_for_search(query)
            keep = np.isin(whole.indices, searcher.index.terms)
            missing += int((~keep).sum())
            np.testing.assert_array_equal(part.indices, whole.indices[keep])
            np.testing.assert_array_equal(part.values, whole.values[keep])
            hits = searcher.search(query)
            assert hits == searcher.search_vector(whole) == next(searcher.search_many([query]))
            for hit in hits:
                assert sum(c.score for c in searcher.explain(query, hit).contributions) == pytest.approx(hit.score)
        assert missing


def test_an_index_tells_its_terms(path: Path, tmp_path: Path) -> None:
    build_index(tmp_path / "index", [Document("1", "", "cat river")], path, path)
    with Searcher.open(tmp_path / "index", threads=1) as searcher:
        expected = Encoder.open(path, threads=1).encode_document("cat river").indices
        assert searcher.index.terms.tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        ([[-1, 3]], [[1, 1]], "token id -1"),
        ([[2, 99]], [[1, 1]], "token id 99"),
        ([[2, 3]], [[0, 0]], "mask row is empty"),
        ([[2, 3]], [[0, 1]], "padded on the left"),
        ([[2] * 17], [[1] * 17], "longer than the 16"),
    ],
)
def test_refuses_what_the_graph_is_not_defined_on(encoder: Encoder, ids, mask, message: str) -> None:
    for method in (encoder._session.run, encoder._session.vectors):
        with pytest.raises(InputError, match=message):
            method(np.array(ids, np.int64), np.array(mask, np.int64))


def describe(path: Path, **changes: int) -> Variant:
    """Rewrite the manifest with another description of the decoder, hashes and all."""
    artifact = open_artifact(path)
    (variant,) = artifact.manifest.variants
    assert variant.decoder is not None
    variant = msgspec.structs.replace(variant, decoder=msgspec.structs.replace(variant.decoder, **changes))
    write_artifact_manifest(path, msgspec.structs.replace(artifact.manifest, variants=[variant]))
    return variant


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": 10**9}, "does not hold the decoder"),
        ({"weights": -1}, "does not hold the decoder"),
        ({"scale": 10**9}, "does not hold the decoder"),
        ({"bias": -4}, "does not hold the decoder"),
        ({"hidden": 0}, "does not hold the decoder"),
        ({"hidden": 10}, "does not hold the decoder"),
        ({"hidden": 10**12}, "does not hold the decoder"),
        ({"body": 10**9}, "does not hold the decoder"),
        ({"body": 0}, "does not hold the decoder"),
        ({"body": 100}, "does not load in ONNX Runtime|takes"),
        ({"hidden": 12}, "does not give finite 12 values a token"),
    ],
)
def test_a_description_that_is_wrong_is_one_line(tmp_path: Path, changes: dict, message: str) -> None:
    path = split.write_split_artifact(tmp_path / "a")
    describe(path, **changes)
    with pytest.raises(ArtifactError, match=message):
        Encoder.open(path, threads=1).encode_query("cat")


def test_a_decoder_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    path = split.write_split_artifact(tmp_path / "a")
    part = open_artifact(path).manifest.variants[0].decoder
    graph = path / "onnx/int8.onnx"
    data = bytearray(graph.read_bytes())
    for start in (part.scale, part.bias):
        damaged = data.copy()
        damaged[start : start + 4] = np.float32(np.nan).tobytes()
        graph.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="not finite"):
            Encoder(Artifact(path, open_artifact(path, check=False).manifest), threads=1)


def test_weights_that_are_not_finite_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder.open(path, threads=1)
    run = encoder._session._graph.run
    for scale, message in ((np.nan, "does not give finite"), (3e38, "weights that are not finite")):
        monkeypatch.setattr(
            encoder._session._graph, "run", lambda *a, x=scale: (run(*a)[0], np.full((1, 1, 1), x, np.float32))
        )
        with pytest.raises(ArtifactError, match=message):
            encoder.encode_query("cat")


def test_an_unknown_activation_is_refused(tmp_path: Path) -> None:
    path = split.write_split_artifact(tmp_path / "a")
    manifest = msgspec.structs.replace(open_artifact(path).manifest, activation="softplus")
    with pytest.raises(ArtifactError, match="'softplus', unknown here; upgrade"):
        Encoder(Artifact(path, manifest), threads=1)


def test_a_file_that_shrank_after_its_hash_was_checked(tmp_path: Path) -> None:
    path = split.write_split_artifact(tmp_path / "a")
    artifact = open_artifact(path)
    graph = path / "onnx/int8.onnx"
    graph.write_bytes(graph.read_bytes()[:-200])
    with pytest.raises(ArtifactError, match=r"does not hold the decoder|not finite"):
        Encoder(artifact, threads=1)
