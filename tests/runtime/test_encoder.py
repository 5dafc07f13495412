from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splade_edge.runtime.artifact import Backend, Variant, open_artifact
from splade_edge.runtime.encoder import Encoder
from splade_edge.runtime.encoder import encoder as encoder_module
from splade_edge.runtime.encoder.batches import next_batch, pad_right
from splade_edge.runtime.encoder.sessions import open_session
from splade_edge.runtime.errors import ArtifactError, InputError, IntegrityError, MissingExtraError

from .. import tiny

BACKENDS = ["onnx", pytest.param("openvino", marks=pytest.mark.skipif(not tiny.HAS_OPENVINO, reason="no openvino"))]
text_strategy = st.lists(st.sampled_from([*tiny.WORDS[:-2], "cats", "raining", "☃", ","]), max_size=30).map(" ".join)


@pytest.fixture(scope="module", params=BACKENDS)
def encoder(tiny_artifact: Path, request: pytest.FixtureRequest) -> Encoder:
    return Encoder.open(tiny_artifact, backend=request.param, threads=1)


def dense(encoder: Encoder, vector) -> np.ndarray:
    row = np.zeros(encoder.vocab_size, np.float32)
    row[vector.indices] = vector.values
    return row


def test_vectors_equal_a_numpy_reference(encoder: Encoder) -> None:
    text = "cats and the supersonic boundary layer"
    vector = encoder.encode_document(text)
    expected = tiny.reference(encoder.tokenizer.encode(text).ids)
    assert vector.indices.dtype == np.int32
    assert vector.values.dtype == np.float32
    assert (np.diff(vector.indices) > 0).all()
    assert 3 < vector.indices.size < encoder.vocab_size / 2
    np.testing.assert_allclose(dense(encoder, vector), expected, atol=1e-5)


@given(st.lists(text_strategy, max_size=12), st.integers(1, 40))
@settings(deadline=None, max_examples=40)
def test_a_vector_does_not_depend_on_its_neighbours(tiny_artifact: Path, texts: list[str], budget: int) -> None:
    encoder = Encoder.open(tiny_artifact, check=False, threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder_module, "LOGITS_BUDGET_BYTES", budget * 4 * encoder.vocab_size)
        patch.setattr(encoder_module, "WINDOW", 5)
        together = list(encoder.encode(texts))
    assert len(together) == len(texts)
    for text, encoded in zip(texts, together, strict=True):
        np.testing.assert_allclose(
            dense(encoder, encoded.vector), dense(encoder, encoder.encode_document(text)), atol=1e-4
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_of_mixed_length(tiny_artifact: Path, backend: Backend) -> None:
    encoder = Encoder.open(tiny_artifact, backend=backend, threads=2)
    rng = random.Random(0)
    texts = [" ".join(rng.choices(tiny.WORDS, k=rng.randrange(20))) for _ in range(600)]
    for text, vector in zip(texts, encoder.encode_document(iter(texts)), strict=True):
        np.testing.assert_allclose(dense(encoder, vector), dense(encoder, encoder.encode_document(text)), atol=1e-4)


def test_encoding_is_lazy(encoder: Encoder) -> None:
    taken = 0

    def texts() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield "cat"

    vectors = encoder.encode_document(texts())
    assert taken == 0
    next(vectors)
    assert taken == encoder_module.WINDOW


def test_variants_that_are_not_batch_invariant_run_one_text_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder.open(tiny.write_artifact(tmp_path / "a", batch_invariant=False), threads=1)
    sizes = []
    run = encoder._session.run

    def count(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        sizes.append(ids.shape[0])
        return run(ids, mask)

    monkeypatch.setattr(encoder._session, "run", count)
    list(encoder.encode(["cat", "dog fish", "tree"] * 3))
    assert sizes == [1] * 9


def test_several_threads_share_an_encoder(encoder: Encoder) -> None:
    texts = [" ".join(random.Random(i).choices(tiny.WORDS, k=1 + i % 14)) for i in range(200)]
    alone = [encoder.encode_document(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(encoder.encode_document, texts))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a.indices, b.indices)
        np.testing.assert_array_equal(a.values, b.values)


def test_counts_tokens_and_truncation(encoder: Encoder) -> None:
    fits = " ".join(["cat"] * (tiny.MAX_LENGTH - 2))
    short, full, over = encoder.encode(["cat", fits, fits + " dog"])
    assert (short.tokens, short.truncated) == (3, False)
    assert (full.tokens, full.truncated) == (tiny.MAX_LENGTH, False)
    assert (over.tokens, over.truncated) == (tiny.MAX_LENGTH, True)
    np.testing.assert_array_equal(full.vector.values, over.vector.values)


@pytest.mark.parametrize("text", ["", "   ", "\x00", "\x00\x01"])
def test_a_text_without_words_gives_the_special_tokens_alone(encoder: Encoder, text: str) -> None:
    assert encoder.tokenizer.encode(text).ids == [2, 3]
    assert encoder.encode_query(text).indices.size == 0  # the tiny encoder gives special tokens no weight


def test_only_unknown_characters(encoder: Encoder) -> None:
    assert encoder.tokenizer.encode("☃☃ ☃").ids == [2, 1, 1, 3]
    assert encoder.encode_query("☃☃ ☃").indices.size == 0


def test_odd_unicode(encoder: Encoder) -> None:
    plain = encoder.encode_query("cat dog")
    for text in ["cat \ud800 dog", "cat\x00 dog", "cat \udcff\udcfe dog", "CAT\u00a0dog", "ca\x00t dog"]:
        vector = encoder.encode_query(text)
        np.testing.assert_array_equal(vector.indices, plain.indices)
    assert encoder.encode_query("\ud83d\ude00 cat").indices.size > 0  # a pair of surrogates is one character


def test_ten_thousand_words(encoder: Encoder) -> None:
    (encoded,) = encoder.encode(["cat dog " * 5000])
    assert (encoded.tokens, encoded.truncated) == (tiny.MAX_LENGTH, True)


def test_known_says_whether_there_is_anything_to_look_for(encoder: Encoder) -> None:
    texts = ["cat", "☃ cat", "☃☃ ☃", "", "[SEP]", " \x00 "]
    assert [encoded.known for encoded in encoder.encode(texts)] == [True, True, False, False, False, False]


def test_dropped_terms_are_zero(tmp_path: Path) -> None:
    cat = tiny.VOCABULARY.index("cat")
    encoder = Encoder.open(tiny.write_artifact(tmp_path / "a", dropped_terms=(cat,)), threads=1)
    vector = encoder.encode_query("cat dog")
    assert cat not in vector.indices
    assert tiny.VOCABULARY.index("dog") in vector.indices


def test_decode_lists_the_heaviest_terms_first(encoder: Encoder) -> None:
    terms = encoder.decode(encoder.encode_query("cat river"))
    assert {"cat", "river"} <= {term for term, _ in terms}
    assert [w for _, w in terms] == sorted((w for _, w in terms), reverse=True)
    assert encoder.decode(encoder.encode_query("cat river"), top=2) == terms[:2]


def test_sides_are_enforced(tiny_pair: Path) -> None:
    query = Encoder.open(tiny_pair, "query", threads=1)
    assert query.encode_query("cat").indices.size > 0
    with pytest.raises(ArtifactError, match="holds a query encoder; open the document side of its pair"):
        query.encode_document("cat")
    with pytest.raises(ArtifactError, match="is a pair; name one of its encoders"):
        Encoder.open(tiny_pair)
    with pytest.raises(ArtifactError, match="has no onnx int8 graph \\(it has: onnx fp32"):
        Encoder.open(tiny_pair, "query", backend="onnx", precision="int8")


@pytest.mark.parametrize("wrong", [5, None, b"cat", ["cat", 5], [b"cat"]])
def test_only_text_is_encoded(encoder: Encoder, wrong: object) -> None:
    with pytest.raises(InputError):
        list(encoder.encode_query(wrong))


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_bad_threads(tiny_artifact: Path, threads: int) -> None:
    with pytest.raises(InputError, match=r"threads is .*; give a whole number"):
        Encoder.open(tiny_artifact, threads=threads)


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        ([[-1, 4]], [[1, 1]], "token id -1 is outside the vocabulary"),
        ([[2, 10**6]], [[1, 1]], "token id 1000000 is outside"),
        ([[2, 4]], [[0, 1]], "padded on the left"),
        ([[2, 4]], [[0, 0]], "empty"),
        ([[2, 4, 5]], [[1, 0, 1]], "padded on the left"),
        ([[2, 4]], [[2, 1]], "pad on the right"),
        ([[2, 4]], [[1, -1]], "pad on the right"),
        ([[2, 4]], [[1]], "the mask is"),
        ([[]], [[]], "none 0"),
        ([[2] * (tiny.MAX_LENGTH + 1)], [[1] * (tiny.MAX_LENGTH + 1)], "17 tokens is longer than the 16"),
    ],
)
def test_sessions_refuse_what_the_graph_is_not_defined_on(encoder: Encoder, ids, mask, message: str) -> None:
    with pytest.raises(InputError, match=message):
        encoder._session.run(np.array(ids, np.int64), np.array(mask, np.int64))


def test_a_graph_that_is_not_ours(tmp_path: Path) -> None:
    artifact = tiny.write_artifact(tmp_path / "a")
    (artifact / "onnx/fp32.onnx").write_bytes(b"not a graph")
    with pytest.raises(ArtifactError, match=r"fp32\.onnx does not load in ONNX Runtime"):
        Encoder.open(artifact, check=False)
    tiny.write_graph(artifact / "onnx/fp32.onnx", output="scores")
    with pytest.raises(ArtifactError, match="gives scores, not input_ids, attention_mask and weights"):
        Encoder.open(artifact, check=False)
    tiny.write_graph(artifact / "onnx/fp32.onnx", vocab_size=100)
    encoder = Encoder.open(artifact, check=False)
    with pytest.raises(ArtifactError, match=r"gives float32 \[1, 100\] where its manifest promises"):
        encoder.encode_query("cat")


def test_an_operator_that_the_engine_does_not_have(tmp_path: Path) -> None:
    import onnx

    artifact = tiny.write_artifact(tmp_path / "a")
    graph = onnx.load(artifact / "onnx/fp32.onnx")
    next(node for node in graph.graph.node if node.op_type == "Relu").domain = "somewhere.else"
    graph.opset_import.append(onnx.helper.make_opsetid("somewhere.else", 1))
    onnx.save(graph, artifact / "onnx/fp32.onnx")
    with pytest.raises(ArtifactError, match=r"does not load in ONNX Runtime .*somewhere\.else.*upgrade it") as caught:
        Encoder.open(artifact, check=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [0, 1, -1])
def test_a_truncated_graph(tmp_path: Path, cut: int) -> None:
    artifact = tiny.write_artifact(tmp_path / "a")
    graph = artifact / "onnx/fp32.onnx"
    graph.write_bytes(graph.read_bytes()[:cut])
    with pytest.raises(IntegrityError, match=r"has \d+ bytes instead of"):
        Encoder.open(artifact)
    with pytest.raises(ArtifactError, match=r"fp32\.onnx (does not load|takes)") as caught:
        Encoder.open(artifact, check=False)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not tiny.HAS_OPENVINO, reason="no openvino")
def test_an_operator_that_openvino_does_not_have(tmp_path: Path) -> None:
    artifact = tiny.write_artifact(tmp_path / "a", openvino=True)
    graph = artifact / "openvino/fp32.xml"
    graph.write_text(graph.read_text().replace('type="ReLU"', 'type="Rectify"'))
    with pytest.raises(ArtifactError, match=r"does not load in OpenVINO .*Rectify") as caught:
        Encoder.open(artifact, backend="openvino", check=False)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not tiny.HAS_OPENVINO, reason="no openvino")
def test_a_broken_openvino_graph(tmp_path: Path) -> None:
    artifact = tiny.write_artifact(tmp_path / "a", openvino=True)
    (artifact / "openvino/fp32.bin").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"fp32\.xml does not load in OpenVINO"):
        Encoder.open(artifact, backend="openvino", check=False)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_weights_that_are_not_weights(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    encoder = Encoder.open(tiny_artifact, threads=1)
    bad = np.zeros((1, encoder.vocab_size), np.float32)
    bad[0, 7] = value
    monkeypatch.setattr(encoder._session, "_run", lambda ids, mask: bad)
    with pytest.raises(ArtifactError, match="negative or not finite"):
        encoder.encode_query("cat")


def test_openvino_absent(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    artifact = Encoder.open(tiny_artifact).artifact
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'splade-edge\[openvino\]'"):
        open_session(artifact, Variant("openvino", "fp32", "openvino/fp32.xml", "", "any", True), threads=1)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 200))
def test_a_batch_has_the_oldest_text_and_stays_within_the_budget(lengths: list[int], budget: int) -> None:
    waiting = dict(enumerate(lengths))
    batch = next_batch(waiting, budget)
    assert batch[0] == 0
    assert len(set(batch)) == len(batch)
    assert len(batch) == 1 or len(batch) * max(lengths[key] for key in batch) <= budget
    nearest = max(abs(lengths[key] - lengths[0]) for key in batch)
    assert all(abs(lengths[key] - lengths[0]) >= nearest for key in waiting.keys() - set(batch))


def test_pad_right() -> None:
    ids, mask = pad_right([[5, 6, 7], [8]], pad_id=1)
    assert ids.tolist() == [[5, 6, 7], [8, 1, 1]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_a_graph_for_another_cpu_is_refused(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import msgspec
    from splade_edge.runtime import cpu
    from splade_edge.runtime.encoder import cpu_requirements as isa

    artifact = open_artifact(tiny_artifact)
    variant = msgspec.structs.replace(artifact.variant("onnx"), isa="vnni")
    monkeypatch.setattr(cpu.platform, "machine", lambda: "x86_64")
    for features in ({"avx512vnni"}, {"avxvnni", "avx2"}):
        monkeypatch.setattr(cpu, "x86_features", lambda found=frozenset(features): found)
        isa.check_isa(artifact, variant)
    monkeypatch.setattr(cpu, "x86_features", lambda: frozenset({"avx2"}))
    with pytest.raises(ArtifactError, match="needs a CPU with VNNI; use --precision fp32"):
        isa.check_isa(artifact, variant)
    with pytest.raises(ArtifactError, match="needs a CPU with VNNI"):
        Encoder(artifact, variant)
    monkeypatch.setattr(cpu.platform, "machine", lambda: "aarch64")
    isa.check_isa(artifact, variant)
    with pytest.raises(ArtifactError, match="unknown here; upgrade splade-edge"):
        isa.check_isa(artifact, msgspec.structs.replace(variant, isa="sparc"))
