"""Measuring the graphs of an encoder side by side, and an index."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..artifact import Side, Variant
from ..errors import SpladeEdgeError
from .process import Worker
from .summary import Latency, length_range

_TURN = 0.1  # seconds of calls before it is the turn of the next graph
_SEED = 0

Report = Callable[[str], None]


@dataclass
class GraphReport:
    """The figures of one graph.

    Attributes
    ----------
    side
        ``query`` or ``document``.
    backend, precision
        The graph.
    load_seconds
        From the files to a session.
    latency
        By tokens of the text.
    texts_a_second, tokens_a_second
        In batches.
    loaded_mb, peak_mb
        Resident memory of a process with this graph alone, after loading and at most, in MB (10^6 bytes).
    missing
        Why the graph could not be measured; None if it was.
    """

    side: str
    backend: str
    precision: str
    load_seconds: float = math.nan
    latency: dict[str, Latency] = field(default_factory=dict)
    texts_a_second: float = math.nan
    tokens_a_second: float = math.nan
    loaded_mb: float = 0.0
    peak_mb: float = 0.0
    missing: str | None = None


@dataclass
class IndexReport:
    """The figures of an index with its query encoder.

    Attributes
    ----------
    documents
        Documents of the index.
    backend, precision
        The graph of the query encoder.
    open_seconds
        To open index and encoder.
    tokens, terms
        Of a query, in the mean.
    encode
        Latency of encoding, by tokens of the query.
    score, read, whole
        Latency by k: of scoring, of reading the documents, and of encoding, scoring and reading together.
    queries_a_second
        By the number of clients.
    approximate
        By pruning factor: recall, and milliseconds of exact and approximate scoring.
    opened_mb, peak_mb
        Resident memory after opening and at most, in MB (10^6 bytes).
    """

    documents: int
    backend: str
    precision: str
    open_seconds: float
    tokens: float
    terms: float
    encode: dict[str, Latency]
    score: dict[int, Latency]
    read: dict[int, Latency]
    whole: dict[int, Latency]
    queries_a_second: dict[int, float]
    approximate: dict[str, dict[str, float]]
    opened_mb: float
    peak_mb: float


def measure_encoder(
    path: Path,
    side: Side,
    variants: Sequence[Variant],
    cases: Mapping[str, Sequence[str]],
    bulk: Sequence[str],
    *,
    threads: int,
    seconds: float,
    report: Report = lambda _: None,
) -> list[GraphReport]:
    """Measure the graphs of one encoder, each in a process of its own, in turns.

    Parameters
    ----------
    path
        The artifact.
    side
        ``query`` or ``document``.
    variants
        The graphs.
    cases
        Texts by the name of a case, encoded one at a time. A case named "" is reported by the lengths of its texts.
    bulk
        Texts that are encoded in batches.
    threads
        Threads of each encoder.
    seconds
        About the time for each graph and case.
    report
        Receives the step that begins.

    Returns
    -------
    list of GraphReport
        One for each graph. A graph that cannot be loaded (its engine is not installed) is reported as missing.

    Raises
    ------
    SpladeEdgeError
        If a process that measures fails.
    """
    reports = [GraphReport(side, v.backend, v.precision) for v in variants]
    with ExitStack() as stack:
        workers: list[tuple[GraphReport, Worker]] = []
        for graph in reports:
            name = f"{side} {graph.backend} {graph.precision}"
            report(f"loading {name}")
            worker = stack.enter_context(Worker(name))
            try:
                opened = worker.ask(
                    "open_encoder", path=str(path), side=side, backend=graph.backend, precision=graph.precision,
                    threads=threads,
                )  # fmt: skip
            except SpladeEdgeError as error:
                graph.missing = str(error)
                continue
            graph.load_seconds, graph.loaded_mb = opened["seconds"], worker.ask("memory")["now"]
            workers.append((graph, worker))
        for name, texts in cases.items():
            report(f"{side}: {name or 'texts one at a time'}")
            for (graph, _), found in zip(workers, _in_turns([w for _, w in workers], texts, seconds), strict=True):
                graph.latency |= {name: Latency.of(found["seconds"])} if name else _by_length(found)
        report(f"{side}: in batches")
        for _, worker in workers:
            worker.ask("encode_all", texts=list(bulk[:8]))
        spent: dict[int, list[tuple[float, int]]] = defaultdict(list)
        while workers and min(sum(s for s, _ in spent[i]) for i in range(len(workers))) < seconds:
            for i, (_, worker) in enumerate(workers):
                answer = worker.ask("encode_all", texts=list(bulk))
                spent[i].append((answer["seconds"], answer["tokens"]))
        for i, (graph, worker) in enumerate(workers):
            total = sum(s for s, _ in spent[i])
            graph.texts_a_second = len(bulk) * len(spent[i]) / total
            graph.tokens_a_second = sum(t for _, t in spent[i]) / total
            graph.peak_mb = worker.ask("memory")["most"]
    return reports


def measure_index(
    path: Path,
    queries: Sequence[str],
    *,
    ks: Sequence[int],
    clients: Sequence[int],
    threads: int,
    seconds: float,
    shares: Sequence[float] = (),
    query_encoder: str | None = None,
    backend: str | None = None,
    precision: str | None = None,
    report: Report = lambda _: None,
) -> IndexReport:
    """Measure an index: single queries, then queries of several clients at once, then approximate search.

    Parameters
    ----------
    path
        The index directory.
    queries
        Texts of queries.
    ks
        Numbers of results. Clients and approximate search use the first.
    clients
        Numbers of threads that search at once, each with an encoder of one thread.
    threads
        Threads of the encoder while single queries are timed.
    seconds
        About the time for single queries, and for each number of clients.
    shares
        Pruning factors of approximate search.
    query_encoder
        Another query encoder; None: the index's own.
    backend, precision
        The graph of the query encoder; None: the default.
    report
        Receives the step that begins.

    Returns
    -------
    IndexReport
        The figures.

    Raises
    ------
    SpladeEdgeError
        If the process that measures fails.
    """
    settings = {"path": str(path), "query_encoder": query_encoder, "backend": backend, "precision": precision}
    order = [queries[i] for i in np.random.default_rng(_SEED).permutation(len(queries))]
    with Worker(str(path)) as worker:
        report("opening the index")
        opened = worker.ask("open_index", **settings, threads=threads)
        opened_mb = worker.ask("memory")["now"]
        report("warming up")
        worker.ask("search", texts=order, ks=list(ks))  # compiles kernels, maps and checks postings
        report("one query at a time")
        found: dict[str, list[float]] = defaultdict(list)
        by_k: dict[str, dict[int, list[float]]] = {part: {k: [] for k in ks} for part in ("score", "read", "whole")}
        while sum(map(sum, by_k["whole"].values())) < seconds:
            answer = worker.ask("search", texts=order, ks=list(ks))
            for part in ("encode", "tokens", "terms"):
                found[part] += answer[part]
            for part, lists in by_k.items():
                for k in ks:
                    lists[k] += answer[part][str(k)]
        served = {}
        if threads != 1:
            worker.ask("open_index", **settings, threads=1)
            worker.ask("search", texts=order[:10], ks=list(ks[:1]))
        for number in clients:
            report(f"{number} at once")
            answer = worker.ask("serve", texts=order, k=ks[0], clients=number, seconds=seconds)
            served[number] = answer["queries"] / answer["seconds"]
        report("approximate search")
        approximate = worker.ask("approximate", texts=order, k=ks[0], shares=list(shares))
        peak_mb = worker.ask("memory")["most"]
    parts = {part: {k: Latency.of(times) for k, times in lists.items()} for part, lists in by_k.items()}
    return IndexReport(
        documents=opened["documents"], backend=opened["backend"], precision=opened["precision"],
        open_seconds=opened["seconds"], tokens=float(np.mean(found["tokens"])), terms=float(np.mean(found["terms"])),
        encode=_by_length({"seconds": found["encode"], "tokens": found["tokens"]}),
        score=parts["score"], read=parts["read"], whole=parts["whole"], queries_a_second=served,
        approximate=approximate, opened_mb=opened_mb, peak_mb=peak_mb,
    )  # fmt: skip


def _in_turns(workers: Sequence[Worker], texts: Sequence[str], seconds: float) -> list[dict[str, list[Any]]]:
    """Let all workers encode the same texts; returns ``seconds`` and ``tokens`` of each call.

    They take turns of about a tenth of a second, so that a slow minute of the machine affects all of them alike.
    """
    order = [texts[i] for i in np.random.default_rng(_SEED).permutation(len(texts))]
    found: list[dict[str, list[Any]]] = [{"seconds": [], "tokens": []} for _ in workers]
    for worker in workers:
        worker.ask("encode", texts=order[:20])
    at, size = 0, 1
    while found and min(sum(f["seconds"]) for f in found) < seconds:
        part = [order[(at + i) % len(order)] for i in range(size)]
        at += size
        first = at % len(workers)
        for i in (*range(first, len(workers)), *range(first)):
            answer = workers[i].ask("encode", texts=part)
            for key in found[i]:
                found[i][key] += answer[key]
        slowest = max(sum(f["seconds"]) / len(f["seconds"]) for f in found)
        size = max(1, min(len(order), int(_TURN / slowest)))
    return found


def _by_length(found: Mapping[str, Sequence[Any]]) -> dict[str, Latency]:
    """Latency by range of token length, short texts first, and of all."""
    times: dict[int, list[float]] = defaultdict(list)
    for seconds, tokens in zip(found["seconds"], found["tokens"], strict=True):
        times[tokens].append(seconds)
    ranges: dict[str, list[float]] = defaultdict(list)
    for tokens in sorted(times):
        ranges[length_range(tokens)] += times[tokens]
    latency = {f"{name} tokens": Latency.of(values) for name, values in ranges.items()}
    return latency if len(latency) == 1 else {**latency, "all": Latency.of(list(found["seconds"]))}
