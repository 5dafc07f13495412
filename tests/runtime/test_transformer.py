"""Our own encoder: the kernel against NumPy to the last bit, and NumPy against a naive BERT in float64."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splade_edge.runtime import Document, Searcher, build_index
from splade_edge.runtime.artifact import TransformerPart, open_artifact, write_artifact_manifest
from splade_edge.runtime.encoder import Encoder
from splade_edge.runtime.encoder.native import transformer as module
from splade_edge.runtime.encoder.native.session import NativeSession
from splade_edge.runtime.errors import ArtifactError, InputError

from .. import tiny
from ..oracle import numpy_alone
from ..transformers import TINY, write_transformer, write_transformer_artifact

NO_JIT = os.environ.get("NUMBA_DISABLE_JIT") == "1"
needs_jit = pytest.mark.skipif(NO_JIT, reason="the kernel is made of instructions")
VOCABULARY = 200
PARTS = [
    TINY,
    TransformerPart(1, 96, 3, 64, 70, 1e-5, tied=False),
    TransformerPart(3, 64, 1, 32, 70, 1e-12, tied=True),
    TransformerPart(1, 128, 2, 1056, 70, 1e-12, tied=True),  # products beyond what float32 counts
]


@pytest.fixture(scope="module", params=range(len(PARTS)))
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> NativeSession:
    part = PARTS[request.param]
    path = tmp_path_factory.mktemp("t") / "int8.bin"
    write_transformer(path, part, VOCABULARY)
    return NativeSession(path, part, "log1p_relu", VOCABULARY, part.positions, 1)


@needs_jit
@pytest.mark.parametrize("length", [*range(1, 20), 31, 32, 33, 47, 48, 49, 64])
def test_the_kernel_computes_what_numpy_computes(session: NativeSession, length: int) -> None:
    ids = np.random.default_rng(length).integers(0, VOCABULARY, length)
    (mine, scale), (other, other_scale) = session._in_kernel(ids), session._in_numpy(ids)
    assert scale == other_scale
    np.testing.assert_array_equal(mine, other)


def naive(session: NativeSession, ids: np.ndarray) -> np.ndarray:
    """A BERT in float64 from the same weights, its activations not rounded."""
    t, part = session._transformer, session._transformer.part
    products = [(m * s[:, None].astype(float), b.astype(float)) for m, s, b in t.products()]
    dense = iter(products)

    def linear(x: np.ndarray) -> np.ndarray:
        matrix, bias = next(dense)
        return x @ matrix.T + bias

    def norm(x: np.ndarray, which: int) -> np.ndarray:
        x = x - x.mean(axis=1, keepdims=True)
        return x / np.sqrt((x * x).mean(axis=1, keepdims=True) + part.epsilon) * t.norms[which, 0] + t.norms[which, 1]

    def gelu(x: np.ndarray) -> np.ndarray:
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    x = norm(t.words[ids] * t.words_scale[ids, None].astype(float) + t.positions[: len(ids)], 0)
    for layer in range(part.layers):
        heads = np.split(linear(x), 3 * part.heads, axis=1)
        contexts = []
        for head in range(part.heads):
            q, k, v = (heads[i * part.heads + head] for i in range(3))
            scores = q @ k.T / math.sqrt(q.shape[1])
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            contexts.append(weights / weights.sum(axis=1, keepdims=True) @ v)
        x = norm(x + linear(np.concatenate(contexts, axis=1)), 2 * layer + 1)
        x = norm(x + linear(gelu(linear(x))), 2 * layer + 2)
    return norm(gelu(linear(x)), 2 * part.layers + 1)


@pytest.mark.parametrize("length", [1, 7, 40])
def test_is_a_bert_up_to_rounding(session: NativeSession, length: int) -> None:
    ids = np.random.default_rng(length).integers(0, VOCABULARY, length)
    activations, scale = session._in_numpy(ids)
    mine, exact = (activations.astype(float) - 128) * scale, naive(session, ids)
    cosine = (mine * exact).sum() / math.sqrt((mine**2).sum() * (exact**2).sum())
    assert cosine > 0.99


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-80, 0, width=32), min_size=1, max_size=40))
def test_exp(values: list[float]) -> None:
    x = np.array(values, np.float32)
    np.testing.assert_allclose(module.exponential(x), np.exp(x.astype(float)), rtol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40))
def test_gelu(values: list[float]) -> None:
    x = np.array(values, np.float32)
    exact = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()]
    np.testing.assert_allclose(module.gelu(x), exact, rtol=1e-6, atol=2e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 99))
def test_packing(blocks: int, groups: int, seed: int) -> None:
    matrix = np.random.default_rng(seed).integers(-127, 128, (32 * blocks, 4 * groups)).astype(np.int8)
    packed = module.pack(matrix)
    np.testing.assert_array_equal(module.unpack(packed, *matrix.shape), matrix)
    assert packed[:4].tolist() == matrix[0, :4].tolist()
    assert packed[4:8].tolist() == matrix[1, :4].tolist()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_transformer_artifact(tmp_path_factory.mktemp("artifact") / "a")


@pytest.mark.parametrize("threads", [1, 2])
def test_texts_alone_in_batches_and_on_threads(path: Path, threads: int) -> None:
    texts = ["cat", "", "the supersonic boundary layer of a river and the engine wing flow heat", "dog fish bird"] * 5
    encoder = Encoder.open(path, threads=threads)
    with numpy_alone():
        alone = [Encoder.open(path, threads=1).encode_query(text) for text in texts]
    for vector, other in zip(encoder.encode_query(texts), alone, strict=True):
        assert vector.indices.size
        np.testing.assert_array_equal(vector.indices, other.indices)
        np.testing.assert_array_equal(vector.values, other.values)


def test_a_search_loads_no_engine(path: Path, tmp_path: Path) -> None:
    build_index(tmp_path / "index", [Document("1", "", "cat river"), Document("2", "", "dog")], path, path)
    with Searcher.open(tmp_path / "index", threads=1) as searcher:
        expected = [(hit.id, hit.score) for hit in searcher.search("cat in the river")]
    code = f"""
import sys
from splade_edge.runtime import Searcher
print([(hit.id, hit.score) for hit in Searcher.open({str(tmp_path / "index")!r}).search("cat in the river")])
print([name for name in ("numba", "onnxruntime", "openvino") if name in sys.modules])
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.splitlines() == [str(expected), "[]"]
    assert expected


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": 3}, {"hidden": 64}, {"inner": 96}, {"positions": 65}, {"tied": False}, {"heads": 3}, {"heads": 0},
        {"layers": -1}, {"inner": 48}, {"epsilon": 0.0}, {"hidden": 1 << 40},
    ],
    ids=str,
)  # fmt: skip
def test_a_description_that_is_wrong_is_one_line(path: Path, changes: dict) -> None:
    part = msgspec.structs.replace(TINY, **changes)
    with pytest.raises(ArtifactError, match="does not hold the encoder that its manifest describes"):
        NativeSession(path / "kernel/int8.bin", part, "log1p_relu", len(tiny.VOCABULARY), 16, 1)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "int8.bin"
    write_transformer(file, TINY, VOCABULARY)
    starts, _ = module.offsets(TINY, VOCABULARY)
    for name, bad in (("norms", np.nan), ("bias", np.inf), ("scale", 0), ("words_scale", -1), ("decoder_scale", 0)):
        data = bytearray(file.read_bytes())
        if name in starts:
            data[starts[name] : starts[name] + 4] = np.float32(bad).tobytes()
            (tmp_path / name).write_bytes(data)
            with pytest.raises(ArtifactError, match="not finite"):
                NativeSession(tmp_path / name, TINY, "relu", VOCABULARY, 16, 1)


def test_a_variant_without_a_description(path: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(path, tmp_path / "a")
    artifact = open_artifact(tmp_path / "a")
    variants = [msgspec.structs.replace(v, transformer=None) for v in artifact.manifest.variants]
    write_artifact_manifest(tmp_path / "a", msgspec.structs.replace(artifact.manifest, variants=variants))
    with pytest.raises(ArtifactError, match="does not describe kernel"):
        Encoder.open(tmp_path / "a")


def test_ids_outside_the_vocabulary_are_refused(path: Path) -> None:
    session = Encoder.open(path, threads=1)._session
    for ids in ([[-1]], [[len(tiny.VOCABULARY)]]):
        with pytest.raises(InputError, match="outside the vocabulary"):
            session.vectors(np.array(ids), np.ones((1, 1), np.int64))
        with pytest.raises(InputError, match="outside the vocabulary"):
            session.vector(ids[0])
    for text, reason in (([], "none 0"), ([0] * (session.max_length + 1), "longer than")):
        with pytest.raises(InputError, match=reason):
            session.vector(text)
