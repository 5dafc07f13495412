"""What filters cost: storing fields, answering a filter from an index of its field or by reading documents, searching.

A collection of ``workload.py`` gets five fields: ``day`` (a number, 0..999), ``lang`` (a string, nine in ten the same)
and ``price`` (a number of its own for each document) with an index, ``note`` and ``rank`` without. Each filter is
answered by a freshly opened index (CPU time of its one thread); a search has its filter answered before.

Command: ``python -m benchmarks.filters --documents 1000000``.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from splade_edge.runtime.build.index_writer import IndexWriter
from splade_edge.runtime.document import Document
from splade_edge.runtime.index import Index
from splade_edge.runtime.vectors import SparseBatch
from splade_edge.runtime.warming import use_kernels

from .processes import measure, module
from .report import Report, add_report_arguments, publish, say
from .workload import Collection, collection_path

INDEXED = ("day", "lang", "price")
FILTERS = (
    "day = 500",
    "day < 10",
    "day >= 500",
    "lang = 'de'",
    "lang = 'en'",
    "price < {tenth}",
    "day = 500 and lang != 'de'",
    "day = 500 and note like '%7%'",
    "note like '%77%'",
    "rank = 500",
)
SEARCHED = ("price < {thousandth}", "price < {hundredth}", "price < {tenth}", "price < {half}")
_PARTS = {"half": 2, "tenth": 10, "hundredth": 100, "thousandth": 1000}
_BATCH = 5_000
_TEXT = " ".join(["the index of a field finds the documents that a filter allows without reading the others"] * 4)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.filters", description=__doc__)
    parser.add_argument("--documents", type=lambda text: int(float(text)), default=1_000_000, metavar="N")
    parser.add_argument("--collection", type=Path, metavar="DIR", help="a collection that exists, instead")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="fresh answers of each filter; medians")
    parser.add_argument("--k", type=int, default=10, metavar="K")
    parser.add_argument("--queries", type=int, default=200, metavar="N", help="queries searched with each filter")
    parser.add_argument("--work", type=Path, default=Path("build/bench/filters"), metavar="DIR")
    add_report_arguments(parser)
    args = parser.parse_args(argv)
    path = args.collection or collection_path(args.work, args.documents)
    if not (path / "meta.json").exists():
        say(f"generating {args.documents:,} documents")
        measure(module("workload", str(path), "--documents", str(args.documents)))
    collection = Collection(path)
    say("storing documents")
    storing = _store(collection, args.work)
    values = {name: f"{collection.documents // part}" for name, part in _PARTS.items()}
    say("answering filters")
    answers = [_answer(args.work / "index", where.format(**values), args.repeat) for where in FILTERS]
    say("searching")
    searches = _search(args, collection, [where.format(**values) for where in SEARCHED])
    results = {"storing": storing, "answers": answers, "searches": searches}
    publish(args, "filters", [_stored(storing), _answered(answers), _searched(searches, args.k)], results)


def documents(count: int) -> list[Document]:
    """The documents of the collection: ids, 56 words of text, and the fields."""
    rng = np.random.default_rng(0)
    prices = rng.permutation(count).tolist()
    days, ranks = rng.integers(0, 1000, (2, count)).tolist()
    english = (rng.random(count) < 0.9).tolist()
    return [
        Document(
            f"{price * 7919 % count:x}-{number}", "", _TEXT,
            {"day": day, "lang": "en" if en else "de", "price": price, "note": f"n{number}", "rank": rank},
        )
        for number, (price, day, rank, en) in enumerate(zip(prices, days, ranks, english, strict=True))
    ]  # fmt: skip


def _store(collection: Collection, work: Path) -> dict[str, Any]:
    """CPU seconds of storing all documents without and with indexes of fields, in turns; leaves the index."""
    everything = documents(collection.documents)
    gc.freeze()  # a million documents at once are the benchmark's, not the writer's
    cpu: dict[str, float] = {}
    for name, fields in (("no index", ()), ("three indexes", INDEXED)):
        shutil.rmtree(work / "index", ignore_errors=True)
        (work / "index").mkdir(parents=True)
        writer = IndexWriter(work / "index", collection.vocab, fields=fields, scale=1.0)
        start = time.process_time()
        for first in range(0, len(everything), _BATCH):
            writer.add_documents(everything[first : first + _BATCH])
        cpu[name] = time.process_time() - start
        if not fields:
            writer.abort()
    for indptr, terms, impacts in collection.chunks(_BATCH):
        writer.add_vectors(SparseBatch(indptr, terms.astype(np.int32), impacts.astype(np.float32)))
    manifest = writer.finish()
    sizes = {Path(name).name: entry.size for name, entry in manifest.files.items()}
    return {"cpu": cpu, "documents": collection.documents, "sizes": sizes}


def _answer(path: Path, where: str, repeat: int) -> dict[str, Any]:
    seconds, first = [], []
    for _ in range(repeat):
        with Index.open(path) as index:
            start = time.process_time()
            _ = index.fields  # hashes fields.sqlite
            first.append(time.process_time() - start)
            start = time.process_time()
            selection = index.select(where)
            seconds.append(time.process_time() - start)
    return {
        "filter": where, "seconds": median(seconds), "hash_seconds": median(first), "found": selection.count,
        "read": sum(step.read for step in selection.steps),
    }  # fmt: skip


def _search(args: argparse.Namespace, collection: Collection, filters: list[str]) -> list[dict[str, Any]]:
    """Mean over queries of each query's fastest of three searches, the filters in turns."""
    use_kernels()
    index = Index.open(args.work / "index")
    masks = {"none": None, **{where: index.select(where).allowed for where in filters}}
    found = []
    for name in ("short", "long"):
        queries = collection.queries(name)[: args.queries]
        for terms, weights in queries:
            index.search_vector((terms, weights), args.k)
        best = {where: np.full(len(queries), np.inf) for where in masks}
        for _ in range(3):
            for number, (terms, weights) in enumerate(queries):
                for where, allowed in masks.items():
                    start = time.perf_counter()
                    index.search_vector((terms, weights), args.k, allowed=allowed)
                    best[where][number] = min(best[where][number], time.perf_counter() - start)
        for where, allowed in masks.items():
            share = 1.0 if allowed is None else float(allowed.mean())
            found.append({"set": name, "filter": where, "share": share, "ms": 1e3 * float(best[where].mean())})
    return found


def _stored(storing: dict[str, Any]) -> Report:
    count, sizes = storing["documents"], storing["sizes"]
    table = Report(f"Storing {count:,} documents with five fields", ["", ">µs of CPU a document"])
    table.rows += [[name, f"{1e6 * seconds / count:.1f}"] for name, seconds in storing["cpu"].items()]
    table.notes.append(
        f"fields.sqlite with three indexes: {sizes['fields.sqlite'] / 1e6:.1f} MB, "
        f"{sizes['fields.sqlite'] / count / 3:.1f} bytes a document and field; "
        f"documents.sqlite: {sizes['documents.sqlite'] / 1e6:.0f} MB."
    )
    return table


def _answered(answers: list[dict[str, Any]]) -> Report:
    table = Report(
        "Answering a filter", ["filter", ">documents found", ">documents read", ">CPU ms", ">scan / this"],
    )  # fmt: skip
    scan = answers[-1]["seconds"]
    for answer in answers:
        table.rows.append(
            [
                answer["filter"], f"{answer['found']:,}", f"{answer['read']:,}", f"{1e3 * answer['seconds']:.2f}",
                f"{scan / answer['seconds']:,.0f}",
            ]
        )  # fmt: skip
    table.notes.append(
        f"Medians of fresh answers, files in the page cache; besides, checking the hash of fields.sqlite takes "
        f"{1e3 * median(a['hash_seconds'] for a in answers):.0f} ms, once for an open index. Repeated filters are kept."
    )
    return table


def _searched(searches: list[dict[str, Any]], k: int) -> Report:
    table = Report(f"Searching with a filter, k = {k}", ["queries", "filter", ">allowed", ">ms", ">over none"])
    none = {s["set"]: s["ms"] for s in searches if s["filter"] == "none"}
    for s in searches:
        table.rows.append(
            [s["set"], s["filter"], f"{s['share']:.1%}", f"{s['ms']:.3f}", f"{s['ms'] / none[s['set']]:.2f}"]
        )
    return table


if __name__ == "__main__":
    main()
