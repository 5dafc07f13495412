"""The logarithm against float64, and the same bits where NumPy uses other instructions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from splade_edge.runtime.encoder.native.logarithm import log1p

from ..transformers import write_transformer_artifact

NO_JIT = os.environ.get("NUMBA_DISABLE_JIT") == "1"
LARGEST = 0x7F7FFFFF  # the bits of the largest float32
# Every exponent, the neighbourhood of each power of two and of where the exponent is counted up, and 1 + x near 1.
BITS = np.unique(
    np.concatenate(
        [
            np.linspace(1, LARGEST, 1_000_003).astype(np.uint32),
            np.random.default_rng(0).integers(1, LARGEST, 500_000).astype(np.uint32),
            *(np.arange(-500, 500) + x for x in np.float32([2.0**-24, 0.41421356, 1, 1.8284271, 3]).view(np.uint32)),
            *((e << 23) + np.arange(-20, 20) for e in range(1, 255)),
        ]
    ).clip(1, LARGEST)
).astype(np.uint32)
SAMPLE = BITS.view(np.float32)


def test_is_within_a_unit_in_the_last_place() -> None:
    exact = np.log1p(SAMPLE.astype(np.float64))
    unit = np.spacing(exact.astype(np.float32)).astype(np.float64)
    found = log1p(SAMPLE)
    assert found.dtype == np.float32
    assert (np.abs(found - exact) / unit).max() < 0.51
    assert (found > 0).all()
    assert (np.diff(found) >= 0).all()


def test_what_is_not_a_number_above_zero() -> None:
    assert log1p(np.float32([0, np.inf])).tolist() == [0, np.inf]
    assert log1p(np.empty(0, np.float32)).size == 0


@pytest.mark.skipif(NO_JIT, reason="there is one form")
def test_the_kernel_computes_the_same() -> None:
    from splade_edge.runtime.encoder.native import decoder_kernels

    values = np.append(SAMPLE, np.float32([0, np.inf]))
    expected = log1p(values)
    decoder_kernels.log1p(values, values.size - 1)
    np.testing.assert_array_equal(values.view(np.uint32), expected.view(np.uint32))


PROGRAM = """
import hashlib, sys
import numpy as np
from splade_edge.runtime.encoder import Encoder
from splade_edge.runtime.encoder.native.logarithm import log1p
from tests import tiny
from tests.oracle import numpy_alone
from tests.runtime.test_logarithm import SAMPLE
digest = hashlib.sha256(log1p(SAMPLE).tobytes())
rng = np.random.default_rng(0)
with numpy_alone():
    encoder = Encoder.open(sys.argv[1], threads=1)
    for text in [" ".join(rng.choice(tiny.WORDS, rng.integers(0, 14))) for _ in range(15)]:
        vector = encoder.encode_query(text)
        digest.update(vector.indices.tobytes() + vector.values.tobytes())
print(digest.hexdigest())
print(hashlib.sha256(np.log(SAMPLE + np.float32(1)).tobytes()).hexdigest())
"""


def test_the_bits_do_not_depend_on_the_cpu(tmp_path) -> None:
    """The whole kernel form in NumPy, its instructions beyond the baseline switched off."""
    path = write_transformer_artifact(tmp_path / "a", normalization="all terms", max_active_dims=9)
    features = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    if not features:
        pytest.skip("NumPy uses no instructions beyond its baseline on this CPU")
    found = []
    for disabled in ([], features):
        environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": " ".join(disabled)}
        process = subprocess.run(
            [sys.executable, "-W", "error", "-c", PROGRAM, path],
            env=environment,
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr
        found.append(process.stdout.split())
    (ours, numpys), (ours_without, numpys_without) = found
    assert ours == ours_without
    if numpys == numpys_without:
        pytest.skip("np.log gives the same without these instructions here, so this shows nothing of the logarithm")
