"""What an index of N documents takes of memory: while it is written, when it is opened, and after searches.

The vectors of ``workload.py`` and documents of 56 words with five fields go through ``IndexWriter`` in one process;
another opens the index, searches and reads the answers. Anonymous memory is what the system cannot take back; pages of
mapped files it can.

Command: ``python -m benchmarks.resident --documents 1000000 --memory 512M``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from splade_edge.runtime.cli.command import byte_size

from .memory import AnonymousPeak, resident_mb
from .processes import ONE_THREAD, directory_mb, measure, module
from .report import Report, add_report_arguments, publish, say
from .workload import Collection, collection_path

_BATCH = 5_000
_SEARCHES = 100


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resident", description=__doc__)
    parser.add_argument("--documents", type=lambda text: int(float(text)), default=1_000_000, metavar="N")
    parser.add_argument("--collection", type=Path, metavar="DIR", help="a collection that exists, instead")
    parser.add_argument(
        "--memory", default="512M", metavar="SIZE", help="what the writer may use (default: %(default)s)"
    )
    parser.add_argument("--work", type=Path, default=Path("build/bench/resident"), metavar="DIR")
    parser.add_argument("--child", choices=("write", "search"), help=argparse.SUPPRESS)
    add_report_arguments(parser)
    args = parser.parse_args(argv)
    path = args.collection or collection_path(args.work, args.documents)
    if args.child:
        print(json.dumps((_write if args.child == "write" else _search)(path, args)))
        return
    if not (path / "meta.json").exists():
        say(f"generating {args.documents:,} documents")
        measure(module("workload", str(path), "--documents", str(args.documents)))
    results: dict[str, Any] = {}
    for child in ("write", "search"):
        say(child)
        command = module("resident", f"--child={child}", "--collection", str(path), "--memory", args.memory)
        usage = measure([*command, "--work", str(args.work)], env=ONE_THREAD)
        results[child] = json.loads(usage.output.splitlines()[-1])
    publish(args, "resident", [_written(results["write"], args), _searched(results["search"])], results)


def _write(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """In the child: write the index; anonymous memory before the first vector and at its peak."""
    from splade_edge.runtime.build.index_writer import IndexWriter
    from splade_edge.runtime.vectors import SparseBatch

    from .filters import INDEXED, documents

    collection = Collection(path)
    _tiny(args.work / "tiny", collection.vocab)
    index = args.work / "index"
    shutil.rmtree(index, ignore_errors=True)
    index.mkdir(parents=True)
    everything = documents(collection.documents)  # the benchmark's own, so they count as there before
    before = resident_mb()["anonymous"]
    with AnonymousPeak() as peak:
        writer = IndexWriter(
            index, collection.vocab, fields=INDEXED, scale=1.0, memory_bytes=byte_size(args.memory)
        )  # fmt: skip
        for indptr, terms, impacts in collection.chunks(_BATCH):
            writer.add_documents(everything[writer.documents : writer.documents + len(indptr) - 1])
            writer.add_vectors(SparseBatch(indptr, terms.astype(np.int32), impacts.astype(np.float32)))
        manifest = writer.finish()
    return {
        "before_mb": before, "peak_mb": peak.peak_mb, "documents": collection.documents,
        "postings": manifest.segments[0].postings,
    }  # fmt: skip


def _search(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """In the child: memory before the index is opened, and after each step."""
    from splade_edge.runtime import use_kernels
    from splade_edge.runtime.index import Index

    use_kernels()  # or NumPy would answer the small index, and the kernels' own memory be counted as the large one's
    collection = Collection(path)
    short, long = (collection.queries(name)[:_SEARCHES] for name in ("short", "long"))
    with Index.open(args.work / "tiny") as tiny:  # the engine's own memory: kernels, and what they allocate once
        for queries, k in ((short[:5], 10), (long[:5], 1000)):
            for terms, weights in queries:
                tiny.search_vector((terms, weights), k)
        tiny.select("day = 0")
    steps = {"Python, NumPy, Numba with the kernels": resident_mb()}
    start = time.perf_counter()
    index = Index.open(args.work / "index")
    seconds = time.perf_counter() - start
    steps["the index opened"] = resident_mb()
    for name, queries, k in (("short", short, 10), ("long", long, 1000)):
        for terms, weights in queries:
            index.documents(index.search_vector((terms, weights), k)[0][:10])
        steps[f"{_SEARCHES} {name} queries, k = {k}, ten documents read"] = resident_mb()
    index.select("day < 10")
    steps["one filter from an index"] = resident_mb()
    return {
        "steps": steps, "open_seconds": seconds, "index_mb": directory_mb(args.work / "index"), "documents": len(index),
    }  # fmt: skip


def _tiny(path: Path, vocab: int) -> None:
    """An index that makes all kernels load."""
    from splade_edge.runtime.build.index_writer import IndexWriter
    from splade_edge.runtime.vectors import SparseBatch

    from .filters import INDEXED, documents

    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    writer = IndexWriter(path, vocab, fields=INDEXED, scale=1.0)
    some = documents(10)
    writer.add_documents(some)
    terms = np.arange(vocab, dtype=np.int32)
    writer.add_vectors(
        SparseBatch(np.arange(len(some) + 1) * vocab, np.tile(terms, len(some)), np.ones(vocab * len(some), np.float32))
    )
    writer.finish()


def _written(written: dict[str, Any], args: argparse.Namespace) -> Report:
    what = f"{written['documents']:,} documents ({written['postings'] / 1e6:.0f} M postings)"
    table = Report(f"Writing {what}, --memory {args.memory}", ["", ">anonymous MB"])
    table.rows.append(["before the first vector", f"{written['before_mb']:.0f}"])
    table.rows.append(["peak", f"{written['peak_mb']:.0f}"])
    table.rows.append(["the writer's", f"{written['peak_mb'] - written['before_mb']:.0f}"])
    table.notes.append(
        f"--memory is {byte_size(args.memory) / 1e6:.0f} MB, for postings; fields and SQLite come on top."
    )
    return table


def _searched(searched: dict[str, Any]) -> Report:
    table = Report(
        f"Resident memory with an index of {searched['documents']:,} documents, {searched['index_mb']:.0f} MB on disk",
        ["after", ">resident MB", ">anonymous", ">mapped files"],
    )
    for step, mb in searched["steps"].items():
        table.rows.append(
            [step, f"{mb['anonymous'] + mb['files']:.0f}", f"{mb['anonymous']:.0f}", f"{mb['files']:.0f}"]
        )
    table.notes.append(f"Opening took {searched['open_seconds']:.2f} s, most of it SHA-256 of the pointers.")
    return table


if __name__ == "__main__":
    main()
