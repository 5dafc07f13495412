"""One start, step by step, in a fresh process: prints CPU and wall time and resident memory after each step as JSON.

Run by :mod:`benchmarks.startup`. Until the first step only what the standard library needs for this file is imported.
"""

import time

_ENTRY = time.process_time()  # the interpreter, site-packages' hooks, and this file

import argparse  # noqa: E402
import importlib  # noqa: E402
import json  # noqa: E402
from pathlib import Path  # noqa: E402

from .memory import memory_mb  # noqa: E402


class _Steps:
    """Notes what each step cost since the one before."""

    def __init__(self) -> None:
        self.rows = [{"step": "Python", "cpu": _ENTRY, "wall": _ENTRY, "resident_mb": memory_mb()[0]}]
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def done(self, name: str) -> None:
        """The step that just ended was ``name``."""
        cpu, wall = time.process_time() - self._cpu, time.perf_counter() - self._wall
        self.rows.append({"step": name, "cpu": cpu, "wall": wall, "resident_mb": memory_mb()[0]})
        self._cpu, self._wall = time.process_time(), time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("index", type=Path)
    parser.add_argument("query")
    parser.add_argument("--backend", required=True)
    parser.add_argument("--query-encoder", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--kernels", action="store_true")
    args = parser.parse_args()
    steps = _Steps()
    engine = {"onnx": "onnxruntime"}.get(args.backend, args.backend)
    for module in ("numpy", "numba", "tokenizers", engine):
        if module != "kernel" and (module != "numba" or args.kernels):  # "kernel" is no engine
            importlib.import_module(module)
        steps.done(f"import {module if module != engine else 'engine'}")
    from splade_edge.runtime.artifact import open_artifact
    from splade_edge.runtime.encoder import Encoder
    from splade_edge.runtime.index import Index
    from splade_edge.runtime.searcher import Searcher
    from splade_edge.runtime.warming import use_kernels

    if args.kernels:
        use_kernels()
    steps.done("import splade_edge")
    index = Index.open(args.index)
    steps.done("open the index")
    artifact = open_artifact(args.query_encoder or args.index / str(index.manifest.query_encoder), "query")
    steps.done("check the encoder's files")
    encoder = Encoder(artifact, artifact.variant(args.backend), args.threads)
    searcher = Searcher(index, encoder, args.threads)
    steps.done("load the encoder")
    vector = searcher.encode_for_search(args.query)
    steps.done("encode the query")
    index.search_vector(vector, 10)
    steps.done("first search")
    searcher.search_vector(vector, 10)
    steps.done("search again, with texts")
    peak = memory_mb()[1]
    from importlib import metadata

    installed = {d.name.lower(): d.version for d in metadata.distributions()}
    shown = ("numpy", "numba", "scipy", "tokenizers", "onnxruntime", "openvino")
    versions = {name: installed.get(name, "absent") for name in shown}
    print(json.dumps({"steps": steps.rows, "peak_mb": peak, "versions": versions}))


if __name__ == "__main__":
    main()
