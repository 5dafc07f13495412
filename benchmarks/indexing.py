"""What indexing costs: CPU time and peak memory of writing N vectors, and how large the index is.

The vectors go through ``IndexWriter``, the writer behind ``splade-edge index``, in a fresh process with one thread; a
second process converts the same matrix from CSR to CSC with SciPy, which is the least an inverted index can cost. No
encoder runs: that is two orders of magnitude slower than all of this.

Command: ``python -m benchmarks.indexing --documents 1000000 --memory 512M``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from splade_edge.runtime.cli.command import byte_size

from .memory import AnonymousPeak, memory_mb
from .processes import ONE_THREAD, measure, module
from .report import Report, add_report_arguments, publish, say
from .workload import Collection, collection_path

LAYOUTS: dict[str, dict[str, Any]] = {
    "default": {},
    "--no-block-max": {"block_max": False},
    "--reorder": {"reorder": True},
}
_BATCH = 5_000  # documents handed to the writer at a time
_WEIGHT = np.float32(3.5 / 255)  # of one impact step of the collection


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.indexing", description=__doc__)
    parser.add_argument("--documents", type=lambda text: int(float(text)), default=1_000_000, metavar="N")
    parser.add_argument("--collection", type=Path, metavar="DIR", help="a collection that exists, instead")
    parser.add_argument(
        "--memory", default="512M", metavar="SIZE", help="what the writer may use (default: %(default)s)"
    )
    parser.add_argument("--cpu", type=int, metavar="N", help="pin to this core")
    parser.add_argument("--work", type=Path, default=Path("build/bench/indexing"), metavar="DIR")
    parser.add_argument("--child", choices=("convert", *LAYOUTS), help=argparse.SUPPRESS)
    add_report_arguments(parser)
    args = parser.parse_args(argv)
    path = args.collection or collection_path(args.work, args.documents)
    if args.child:
        result = _convert(path) if args.child == "convert" else _write(path, args)
        print(json.dumps(result))
        return
    if not (path / "meta.json").exists():
        say(f"generating {args.documents:,} documents")
        # In a child: the memory this process has had would count as its children's.
        measure(module("workload", str(path), "--documents", str(args.documents)))
    results = {}
    for child in ("convert", *LAYOUTS):
        say(f"{child}")
        command = module("indexing", f"--child={child}", "--collection", str(path), "--memory", args.memory)
        usage = measure([*command, "--work", str(args.work)], cpu=args.cpu, env=ONE_THREAD)
        results[child] = json.loads(usage.output.splitlines()[-1])
    publish(args, "indexing", [_report(results, args)], results)


def _write(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """In the child: index the collection; CPU seconds of each part, memory, sizes."""
    from splade_edge.runtime.build.index_writer import IndexWriter
    from splade_edge.runtime.document import Document
    from splade_edge.runtime.vectors import SparseBatch

    collection = Collection(path)
    args.work.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="index-", dir=args.work))
    cpu = dict.fromkeys(("compile", "vectors", "documents", "finish"), 0.0)
    try:
        start = time.process_time()
        layout = LAYOUTS[args.child]
        small = IndexWriter(place / "warm-up", collection.vocab, memory_bytes=byte_size(args.memory), **layout)
        small.add_document(Document("0"))
        small.add_vectors(SparseBatch(np.array([0, 1]), np.array([5], np.int32), np.array([1.0], np.float32)))
        small.finish()
        cpu["compile"] = time.process_time() - start
        before = memory_mb()[0]
        wall = time.perf_counter()
        with AnonymousPeak() as anonymous:
            writer = IndexWriter(place / "index", collection.vocab, memory_bytes=byte_size(args.memory), **layout)
            for indptr, terms, impacts in collection.chunks(_BATCH):
                batch = SparseBatch(indptr, terms.astype(np.int32), impacts * _WEIGHT)
                start = time.process_time()
                writer.add_vectors(batch)
                cpu["vectors"] += time.process_time() - start
                start = time.process_time()
                writer.add_documents([Document(str(number)) for number in range(writer.documents, writer.units)])
                cpu["documents"] += time.process_time() - start
            start = time.process_time()
            manifest = writer.finish()
            cpu["finish"] = time.process_time() - start
        segment = manifest.segments[0]
        sizes = {name: entry.size for name, entry in manifest.files.items()}
        return {
            "cpu": cpu, "wall": time.perf_counter() - wall, "before_mb": before, "peak_mb": memory_mb()[1],
            "anonymous_peak_mb": anonymous.peak_mb, "documents": segment.documents,
            "postings": segment.postings, "sizes": sizes,
        }  # fmt: skip
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _convert(path: Path) -> dict[str, Any]:
    """In the child: SciPy's CSR to CSC of the same matrix, float32 weights; CPU seconds of three runs.

    The first has fresh memory to fault in, as ours has; the best of the three is the work alone.
    """
    import scipy.sparse as sp

    collection = Collection(path)
    parts = (collection.impacts * _WEIGHT, collection.terms.astype(np.int32), collection.indptr)
    matrix = sp.csr_matrix(parts, shape=(collection.documents, collection.vocab))
    seconds = []
    for _ in range(3):
        start = time.process_time()
        matrix.tocsc()
        seconds.append(time.process_time() - start)
    return {"cpu": seconds, "peak_mb": memory_mb()[1]}


def _report(results: dict[str, Any], args: argparse.Namespace) -> Report:
    scipy, some = results["convert"], results["default"]
    table = Report(
        f"Indexing {some['documents']:,} vectors, {some['postings']:,} postings, one thread, --memory {args.memory}",
        ["", *(f">{layout}" for layout in LAYOUTS)],
    )
    columns = [_column(results[layout], scipy) for layout in LAYOUTS]
    table.rows += [[name, *(column[name] for column in columns)] for name in columns[0]]
    table.notes.append(
        f"SciPy's CSR to CSC takes {scipy['cpu'][0]:.1f} s of CPU with fresh memory, {min(scipy['cpu']):.1f} s at "
        f"best, and {scipy['peak_mb']:.0f} MB."
    )
    table.notes.append(
        "Peak memory is the kernel's high-water mark of the process: Python, Numba, and pages of mapped files, which "
        "the system can take back; anonymous memory it cannot (sampled every 20 ms). The vectors are read a "
        f"batch of {_BATCH:,} at a time. Loading or compiling kernels ({some['cpu']['compile']:.1f} s) comes before."
    )
    return table


def _column(ours: dict[str, Any], scipy: dict[str, Any]) -> dict[str, str]:
    """The figures of one layout, by name."""
    cpu = ours["cpu"]
    postings = cpu["vectors"] + cpu["finish"]
    data = sum(size for name, size in ours["sizes"].items() if not name.endswith(".sqlite"))
    on_disk = sum(ours["sizes"].values())
    return {
        "CPU s: adding the vectors": f"{cpu['vectors']:.1f}",
        "CPU s: merging, checksums, manifest": f"{cpu['finish']:.1f}",
        "CPU s: storing the documents (ids only)": f"{cpu['documents']:.1f}",
        "adding and merging over SciPy, first / best": (
            f"{postings / scipy['cpu'][0]:.2f} / {postings / min(scipy['cpu']):.2f}"
        ),
        "wall s": f"{ours['wall']:.1f}",
        "peak MB": f"{ours['peak_mb']:.0f}",
        "peak of anonymous memory, MB": f"{ours['anonymous_peak_mb']:.0f}",
        "resident before the first vector, MB": f"{ours['before_mb']:.0f}",
        "bytes a posting, all files but the documents'": f"{data / ours['postings']:.3f}",
        "MB on disk without / with documents": f"{data / 1e6:.0f} / {on_disk / 1e6:.0f}",
    }


if __name__ == "__main__":
    main()
