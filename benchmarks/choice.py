"""Whether the scorer chooses the faster strategy: block-max traversal or term at a time, beside what it chose.

All queries are answered with one strategy after the other, in turns, in this process. So a query finds the caches full
of other queries' postings, as in use. A query's time is its fastest round, in time of this thread (other work on the
machine is left out). *over* is how much longer the choice takes than the better of the two strategies of a case;
*loss* compares with the better strategy of each single query, which takes foresight.

Command: ``python -m benchmarks.choice --documents 100000,1000000``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from .engines import SpladeEdge, SpladeEdgeReordered
from .report import Report, add_report_arguments, publish, say
from .workload import Collection, Query, collection_path, generate


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.choice", description=__doc__)
    parser.add_argument("--documents", default="100000,1000000", metavar="N,N")
    parser.add_argument("--collection", type=Path, metavar="DIR", help="another collection, instead of --documents")
    parser.add_argument("--k", default="1,10,100,1000,10000", metavar="K,K")
    parser.add_argument("--queries", type=int, default=300, metavar="N")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("build/bench/synthetic"), metavar="DIR")
    add_report_arguments(parser)
    args = parser.parse_args(argv)
    report = Report(
        "The scorer's choice: ms a query",
        ["documents", "order", "queries", ">k", ">chosen", ">visits", ">scan", ">chose visits", ">over", ">loss"],
        notes=[
            "Over: the choice over the better of both ways; loss: over the better way of each query. The answers are "
            "the same."
        ],
    )
    results = []
    for collection in _collections(args):
        documents = collection.documents
        for engine, order in ((SpladeEdge(), "as generated"), (SpladeEdgeReordered(), "reordered")):
            index = _open(engine, collection, args.work)
            for name in collection.sets:
                queries = collection.queries(name)[: args.queries]
                for k in map(int, args.k.split(",")):
                    say(f"{documents:,} documents {order}, {name}, k = {k}")
                    found = measure(index, queries, k, args.rounds)
                    results.append({"documents": documents, "order": order, "set": name, "k": k, **found})
                    report.rows.append(
                        [f"{documents:,}", order, name, f"{k:,}"]
                        + [f"{found[way]:.3f}" for way in ("chosen", "visits", "scan")]
                        + [f"{found['visited']:.0%}", f"{found['over']:.0%}", f"{found['loss']:.0%}"]
                    )
    publish(args, "choice", [report], results)


def measure(index: Any, queries: Sequence[Query], k: int, rounds: int) -> dict[str, float]:
    """Time both strategies and the scorer's choice between them.

    Parameters
    ----------
    index : Index
        The index.
    queries : sequence of Query
        The queries.
    k : int
        How many documents are asked for.
    rounds : int
        How often each query is timed.

    Returns
    -------
    dict of str to float
        Mean milliseconds of each strategy, the share of queries for which block-max traversal was chosen, and the loss.
    """
    from splade_edge.runtime.scorer import block_max as visit
    from splade_edge.runtime.warming import use_kernels

    use_kernels()
    ways = (visit.CHEAPER, visit.BY_CHUNKS, visit.BY_POSTINGS)
    best = np.full((len(queries), len(ways)), np.inf)
    visited = 0
    orders = list(permutations(range(len(ways))))
    for round_ in range(rounds):
        for j in orders[round_ % len(orders)]:
            index._scorer.by_kernels.way = ways[j]
            for i, query in enumerate(queries):
                start = time.thread_time()
                index.search_vector(query, k)
                best[i, j] = min(best[i, j], time.thread_time() - start)
                if ways[j] == visit.CHEAPER and not round_:
                    visited += index._scorer.by_kernels.latest_way == visit.BY_CHUNKS
    chosen, visits, scan = (float(ms) for ms in best.mean(axis=0) * 1000)
    loss = float(best[:, 0].sum() / best[:, 1:].min(axis=1).sum() - 1)
    over = chosen / min(visits, scan) - 1
    return {
        "chosen": chosen, "visits": visits, "scan": scan, "visited": visited / len(queries), "over": over, "loss": loss,
    }  # fmt: skip


def _collections(args: argparse.Namespace) -> Iterator[Collection]:
    if args.collection:
        yield Collection(args.collection)
        return
    for documents in map(int, args.documents.split(",")):
        path = collection_path(args.work, documents)
        if not (path / "meta.json").exists():
            say(f"generating {documents:,} documents")
            generate(path, documents)
        yield Collection(path)


def _open(engine: SpladeEdge, collection: Collection, work: Path) -> Any:
    from splade_edge.runtime.index import Index

    place = work / "indexes" / f"{collection.path.name}-choice-{engine.reorder}"
    if not (place / "index" / "splade_edge_index.json").exists():
        say(f"indexing {collection.documents:,} documents{', reordered' if engine.reorder else ''}")
        place.mkdir(parents=True, exist_ok=True)
        engine.build(collection, place)
    return Index.open(place / "index")


if __name__ == "__main__":
    main()
