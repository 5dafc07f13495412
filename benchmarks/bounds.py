"""What bounds a search: the bytes it has to read, the time this machine takes to read them, and the time of the search.

Term-at-a-time scoring reads all postings of the query's terms. Block-max traversal reads the block maxima of frequent
terms, the postings of the others, and little more. The time to read is measured: the same bytes are combined by
exclusive or, eight at a time, which does nothing but wait for memory. Queries follow each other as they come, so a
query's bytes are as far away as in use. All times are of this thread.

Command: ``python -m benchmarks.bounds COLLECTION INDEX``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .report import Report, add_report_arguments, publish
from .workload import Collection, Query

Arrays = list[npt.NDArray[Any]]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bounds", description=__doc__)
    parser.add_argument("collection", type=Path, metavar="COLLECTION", help="for its queries")
    parser.add_argument("index", type=Path, metavar="INDEX", help="its index")
    parser.add_argument("--k", default="10,1000", metavar="K,K")
    parser.add_argument("--queries", type=int, default=200, metavar="N")
    add_report_arguments(parser)
    args = parser.parse_args(argv)
    from splade_edge.runtime.index import Index
    from splade_edge.runtime.scorer import block_max as visit
    from splade_edge.runtime.warming import use_kernels

    use_kernels()
    index, collection = Index.open(args.index), Collection(args.collection)
    report = Report(
        "What bounds a search", ["queries", ">k", "way", ">KB", ">read ms", ">GB/s", ">search ms", ">search / read"]
    )
    results = []
    for name in ("short", "long"):
        queries = collection.queries(name)[: args.queries]
        for k in map(int, args.k.split(",")):
            for way, label, bytes_of in (
                (visit.BY_CHUNKS, "visits", read_by_block_max),
                (visit.BY_POSTINGS, "scan", read_by_taat),
            ):
                index._scorer.by_kernels.way = way
                parts = [bytes_of(index, query) for query in queries]
                size = float(np.mean([sum(a.nbytes for a in part) for part in parts]))
                read = _mean_seconds([_reading(part) for part in parts])
                search = _mean_seconds([_searching(index, query, k) for query in queries])
                row = {"set": name, "k": k, "way": label, "bytes": size, "read": read, "search": search}
                results.append(row)
                times = (f"{read * 1e3:.3f}", f"{size / read / 1e9:.1f}", f"{search * 1e3:.3f}", f"{search / read:.1f}")
                report.rows.append([name, str(k), label, f"{size / 1e3:,.0f}", *times])
    publish(args, "bounds", [report], results)


def read_by_taat(index: Any, query: Query) -> Arrays:
    """The bytes that term-at-a-time scoring reads: all postings of the query's terms.

    Of the postings of postponed terms only some are read, so this is an upper bound.

    Parameters
    ----------
    index : Index
        The index.
    query : Query
        The query.

    Returns
    -------
    arrays
        The parts of the index's files.
    """
    s = index._segment
    ranges = [s.posting_range(int(term)) for term in query[0]]
    return [array[a:b] for a, b in ranges for array in (s.posting_units, s.posting_impacts)]


def read_by_block_max(index: Any, query: Query) -> Arrays:
    """The bytes that block-max traversal reads: the block maxima of frequent terms, the postings of the others.

    Parameters
    ----------
    index : Index
        The index.
    query : Query
        The query.

    Returns
    -------
    arrays
        The parts of the index's files.
    """
    s = index._segment
    rows = s.term_rows[query[0]]
    rare = query[0][rows < 0], query[1][rows < 0]
    return [s.chunk_impacts[row] for row in rows[rows >= 0].tolist()] + read_by_taat(index, rare)


def _reading(arrays: Arrays) -> Callable[[], object]:
    words = [a.view(np.uint8)[: a.nbytes // 8 * 8] for a in arrays]
    # unaligned views are copied by NumPy: begin at a multiple of eight
    aligned = [w[-w.ctypes.data % 8 :] for w in words]
    views = [w[: w.size // 8 * 8].view(np.uint64) for w in aligned if w.size >= 16]
    return lambda: [np.bitwise_xor.reduce(view) for view in views]


def _searching(index: Any, query: Query, k: int) -> Callable[[], object]:
    return lambda: index.search_vector(query, k)


def _mean_seconds(calls: list[Callable[[], object]]) -> float:
    """Each once in turn, four times; the smallest mean of a turn after the first."""
    means = []
    for _ in range(4):
        seconds = 0.0
        for call in calls:
            start = time.thread_time()
            call()
            seconds += time.thread_time() - start
        means.append(seconds / len(calls))
    return min(means[1:])


if __name__ == "__main__":
    main()
