"""Random encoders for our own kernels, without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from splade_edge.runtime.artifact import TransformerPart, Variant
from splade_edge.runtime.encoder.native.transformer import matrices, offsets, pack, sections

from .tiny import VOCABULARY, write_manifest, write_tokenizer

TINY = TransformerPart(layers=2, hidden=32, heads=2, inner=64, positions=64, epsilon=1e-12, tied=True)


def write_transformer(path: Path, part: TransformerPart, vocab_size: int, seed: int = 0) -> None:
    """The file of an encoder with random weights, about one term in five of which is active."""
    rng = np.random.default_rng(seed)
    found = [rng.integers(-127, 128, shape).astype(np.int8) for shape in matrices(part)]
    arrays = {
        "rows": np.concatenate([pack(matrix) for matrix in found]),
        "offset": np.concatenate([-128 * matrix.sum(axis=1, dtype=np.int32) for matrix in found]),
        "norms": rng.normal(1, 0.3, (2 * part.layers + 2, 2, part.hidden)) * np.array([1, 0.1])[:, None],
        "decoder_bias": rng.normal(-2, 1, vocab_size),
    }
    starts, size = offsets(part, vocab_size)
    data = bytearray(size)
    for name, (dtype, shape) in sections(part, vocab_size).items():
        if name in arrays:
            array = arrays[name]
        elif dtype == "<i1":
            array = rng.integers(-127, 128, shape)
        else:
            array = rng.uniform(1e-3, 4e-3, shape) if name.endswith("scale") else rng.normal(0, 0.1, shape)
        raw = np.ascontiguousarray(array, dtype).tobytes()
        data[starts[name] : starts[name] + len(raw)] = raw
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def write_transformer_artifact(path: Path, part: TransformerPart = TINY, **settings: Any) -> Path:
    """A whole artifact with one encoder, for both sides. ``settings``: other fields of the manifest."""
    write_transformer(path / "kernel/int8.bin", part, len(VOCABULARY))
    write_tokenizer(path / "tokenizer.json")
    variant = Variant("kernel", "int8", "kernel/int8.bin", "kernel", "any", True, transformer=part)
    write_manifest(path, "both", VOCABULARY, [variant], (), "encoder", **settings)
    return path
