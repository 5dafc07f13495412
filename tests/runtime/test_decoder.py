"""The decoder against a naive oracle in 64-bit integers, on every kind of CPU that its kernel has code for."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splade_edge.runtime.encoder.native import decoder as module
from splade_edge.runtime.encoder.native.decoder import ACTIVATIONS, DecoderRows, KernelDecoder, NumpyDecoder
from splade_edge.runtime.encoder.native.logarithm import log1p

JIT = not numba.config.DISABLE_JIT
needs_jit = pytest.mark.skipif(not JIT, reason="the kernel is made of instructions")
KINDS = [NumpyDecoder, *([KernelDecoder] if JIT else [])]


def oracle(rows: DecoderRows, terms, activation: str, activations: np.ndarray, scale: np.float32):
    signed = activations.astype(np.int64) - 128
    best = (signed @ rows.weights.astype(np.int64).T).max(axis=0)
    sums = best.astype(np.float32) * (scale * rows.scale) + rows.bias
    weights = np.maximum(sums, np.float32(0))
    for _ in range(ACTIVATIONS[activation]):
        weights = log1p(weights)
    kept = np.arange(sums.size) if terms is None else terms
    kept = kept[weights[kept] > 0]
    return kept, weights[kept]


def make_rows(rng: np.random.Generator, count: int, hidden: int, extreme: bool) -> DecoderRows:
    low, high = ((-127, 128), (126, 128))[int(extreme)]
    weights = rng.integers(low, high, (count, hidden)).astype(np.int8)
    if extreme:
        weights *= rng.choice(np.array([-1, 1], np.int8), (count, 1))
    scale = rng.uniform(0.5, 2, count).astype(np.float32)
    return DecoderRows(weights, scale, rng.normal(0, 5, count).astype(np.float32))


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count, hidden, length = draw(st.integers(1, 100)), 4 * draw(st.integers(1, 20)), draw(st.integers(1, 30))
    rows = make_rows(rng, count, hidden, draw(st.booleans()))
    activations = rng.integers(1, 256, (length, hidden)).astype(np.uint8)
    if draw(st.booleans()):
        activations[:] = draw(st.sampled_from([1, 255]))
    terms = None
    if draw(st.booleans()):
        terms = np.flatnonzero(rng.random(count) < draw(st.sampled_from([0.0, 0.2, 0.9]))).astype(np.int32)
    scale = np.float32(draw(st.sampled_from([1e-12, 1e-4, 1e-3, 1.0])))
    return rows, terms, draw(st.sampled_from(sorted(ACTIVATIONS))), activations, scale


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=150)
@given(case=cases())
def test_equals_a_naive_oracle(kind, case) -> None:
    rows, terms, activation, activations, scale = case
    indices, values = oracle(*case)
    vector = kind(rows, terms, activation).decode(activations, scale)
    assert vector.indices.dtype == np.int32
    assert vector.values.dtype == np.float32
    assert vector.indices.tolist() == indices.tolist()
    np.testing.assert_array_equal(vector.values, values)


@pytest.mark.parametrize("kind", KINDS)
def test_products_beyond_float32_stay_exact(kind) -> None:
    rng = np.random.default_rng(0)
    rows = make_rows(rng, 40, 2048, extreme=True)
    activations = rng.integers(254, 256, (3, 2048)).astype(np.uint8)
    for scale in (np.float32(1), np.float32(1e-7)):
        indices, values = oracle(rows, None, "relu", activations, scale)
        vector = kind(rows, None, "relu").decode(activations, scale)
        assert vector.indices.tolist() == indices.tolist()
        np.testing.assert_array_equal(vector.values, values)


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_at_all(kind) -> None:
    rows = make_rows(np.random.default_rng(0), 10, 8, extreme=False)
    vector = kind(rows, np.empty(0, np.int32), "relu").decode(np.full((2, 8), 200, np.uint8), np.float32(1))
    assert vector.indices.size == vector.values.size == 0


@needs_jit
def test_a_kernel_is_given_nothing_else_than_it_reads() -> None:
    decoder = KernelDecoder(make_rows(np.random.default_rng(0), 10, 8, extreme=False), None, "relu")
    for wrong in (np.ones((2, 4), np.uint8), np.ones((2, 8), np.int8), np.ones((0, 8), np.uint8), np.ones(8, np.uint8)):
        with pytest.raises(ValueError, match="not uint8"):
            decoder.decode(wrong, np.float32(1))


@needs_jit
@pytest.mark.parametrize("threads", [2, 3, 7])
def test_threads_share_a_text(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PARALLEL", 0)
    rng = np.random.default_rng(threads)
    for count in (1, 33, 1000):
        rows = make_rows(rng, count, 16, extreme=False)
        activations = rng.integers(1, 256, (11, 16)).astype(np.uint8)
        with ThreadPoolExecutor(threads) as pool:
            shared = KernelDecoder(rows, None, "log1p_relu", pool, threads).decode(activations, np.float32(0.01))
        alone = KernelDecoder(rows, None, "log1p_relu").decode(activations, np.float32(0.01))
        np.testing.assert_array_equal(shared.indices, alone.indices)
        np.testing.assert_array_equal(shared.values, alone.values)


@needs_jit
def test_the_best_instruction_is_chosen() -> None:
    from splade_edge.runtime.encoder.native.products import instruction

    assert instruction({"avx2", "avxvnni", "avx512vnni", "avx512vl"}) == "avx512-vnni"
    assert instruction({"avx2", "avxvnni"}) == "avx-vnni"
    assert instruction({"avx2", "avx512vnni"}) == "avx2"
    assert instruction({"neon"}) == "plain"


PROGRAM = """
import sys
import numpy as np
from splade_edge.runtime.encoder.native.decoder import DecoderRows, KernelDecoder, NumpyDecoder
rng = np.random.default_rng(0)
rows = DecoderRows(
    rng.integers(-127, 128, (200, 36)).astype(np.int8), np.ones(200, np.float32), np.full(200, -60000, np.float32)
)
kernel, plain = KernelDecoder(rows, None, "relu"), NumpyDecoder(rows, None, "relu")
for length in (*range(1, 27), 64):
    activations = rng.integers(1, 256, (length, 36)).astype(np.uint8)
    mine, other = (d.decode(activations, np.float32(1)) for d in (kernel, plain))
    assert mine.indices.tolist() == other.indices.tolist(), length
    assert 0 < mine.indices.size < 200
    assert mine.values.tolist() == other.values.tolist(), length
from splade_edge.runtime.encoder.native import decoder_kernels
(code,) = decoder_kernels.decode.inspect_asm().values()
print([name for name in ("vpdpbusd", "vpmaddwd", "%zmm", "%ymm") if name in code])
"""


@needs_jit
@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="features of x86")
@pytest.mark.parametrize(
    ("features", "has", "has_not"),
    [
        ("+avx2,+avxvnni", {"vpdpbusd", "%ymm"}, {"%zmm"}),
        ("+avx2", {"vpmaddwd", "%ymm"}, {"vpdpbusd", "%zmm"}),
        ("", set(), {"vpdpbusd", "vpmaddwd", "%ymm"}),
    ],
)
def test_other_cpus_get_the_same_from_other_code(tmp_path, features: str, has: set, has_not: set) -> None:
    from llvmlite.binding import get_host_cpu_features

    host = get_host_cpu_features()
    if not all(host.get(feature.removeprefix("+")) for feature in features.split(",") if feature):
        pytest.skip(f"this CPU cannot run code for {features}")
    environment = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    found = set(eval(process.stdout))
    assert has <= found
    assert not has_not & found
