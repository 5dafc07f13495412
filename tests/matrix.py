"""Layouts x architectures against sentence-transformers: ``python -m tests.matrix [ARCHITECTURE ...]`` prints them.

The runtime's vectors are compared with those of the library, asked here, not with the export's own report.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from splade_edge.export.exporter import export
from splade_edge.export.request import ExportRequest
from splade_edge.runtime import Encoder
from splade_edge.runtime.artifact import open_artifact

from . import architectures, library
from .library import Normalize, Router, SparseStaticEmbedding, SpladePooling, mlm, splade

TEXTS = (
    "when did the oil crisis of the year 1 2 3 begin in kenya",
    "",
    " Kenya, WARSAW! prime number; café 12 \t",
    "oxygen \x00 [SEP] <mask> </s> \u732b",
    "the steam engine and the war " * 12,
)


@dataclass(frozen=True)
class Row:
    """The largest difference of a float32 weight, as a share of the largest, and the least mean cosine of int8."""

    layout: str
    architecture: str
    fp32: float
    int8_onnx: float
    int8_kernel: float | None
    int8_openvino: float


def _prompted(place: Path, case: str) -> Any:
    encoder = mlm(architectures.write(place / "a", case), query_length=9, document_length=30)
    return splade(encoder, SpladePooling(), prompts={"query": "who : ", "document": "the "})


def _routed(place: Path, case: str) -> Any:
    sides = [[mlm(architectures.write(place / name, case, seed=i)), SpladePooling()] for i, name in enumerate("ab")]
    return splade(Router.for_query_document(*sides))


def _poolings(place: Path, case: str) -> Any:
    encoder = mlm(architectures.write(place / "a", case))
    return splade(
        Router.for_query_document([encoder, SpladePooling("max", "log1p_relu")], [encoder, SpladePooling("sum")])
    )


def _largest(place: Path, case: str) -> Any:
    return splade(mlm(architectures.write(place / "a", case)), SpladePooling(), Normalize(), max_active_dims=16)


def _look_up(place: Path, case: str) -> Any:
    words = architectures.tokenizer(case)
    weights = torch.rand(len(words), generator=torch.Generator().manual_seed(3))
    encoder = mlm(architectures.write(place / "a", case))
    return splade(Router.for_query_document([SparseStaticEmbedding(words, weights)], [encoder, SpladePooling()]))


LAYOUTS: dict[str, Callable[[Path, str], Any]] = {
    "prompts and lengths a side": _prompted,
    "router of two encoders": _routed,
    "one encoder, two poolings": _poolings,
    "normalized, largest 16": _largest,
    "look-up": _look_up,
}


def measure(layout: str, architecture: str, place: Path) -> Row:
    """Save, export and compare one row."""
    LAYOUTS[layout](place / "parts", architecture).save_pretrained(str(place / "c"))
    result = export(ExportRequest(place / "out", str(place / "c"), options=architectures.options()))
    assert {witness.name for witness in result.report.witnesses} == {"sentence-transformers"}
    worst = 0.0
    cosines: dict[str, list[float]] = {"onnx": [], "kernel": [], "openvino": []}
    for side in ("query", "document"):
        expected = library.vectors(place / "c", side, TEXTS)
        artifact = open_artifact(place / "out", "query" if side == "query" else "document")
        for variant in artifact.manifest.variants:
            found = np.zeros((len(TEXTS), artifact.manifest.vocab_size), np.float32)
            encoder = Encoder(artifact, variant, 1, "query" if side == "query" else "document")
            for row, encoded in zip(found, encoder.encode(TEXTS), strict=True):
                row[encoded.vector.indices] = encoded.vector.values
            width = expected.shape[1]
            if variant.precision == "fp32":
                worst = max(worst, float(np.abs(found[:, :width] - expected).max() / expected.max()))
            else:
                norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
                dots = (found[:, :width] * expected).sum(axis=1)
                equal = ~found.any(axis=1) & ~expected.any(axis=1)
                cosines[variant.backend].append(float(np.where(equal, 1, dots / np.maximum(norms, 1e-30)).mean()))
    least = {name: min(values, default=None) for name, values in cosines.items()}
    assert least["onnx"] is not None
    assert least["openvino"] is not None
    return Row(layout, architecture, worst, least["onnx"], least["kernel"], least["openvino"])


def rows(names: list[str]) -> Iterator[Row]:
    """Every layout of every architecture."""
    for architecture in names:
        for layout in LAYOUTS:
            with tempfile.TemporaryDirectory() as place:
                yield measure(layout, architecture, Path(place))


def main(arguments: list[str]) -> None:
    print("| architecture | layout | fp32, worst difference | int8 ONNX, mean cosine | kernel | OpenVINO |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for row in rows(arguments or list(architectures.REQUIRED)):
        kernel = "–" if row.int8_kernel is None else f"{row.int8_kernel:.5f}"
        print(
            f"| {row.architecture} | {row.layout} | {row.fp32:.1e} | {row.int8_onnx:.5f} | {kernel} "
            f"| {row.int8_openvino:.5f} |",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
