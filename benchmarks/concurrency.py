"""Searching while another process changes the index: every answer is compared with that of its generation, and latency
is measured with and without the writer.

Threads of one process and of others each refresh and search, 5 ms apart; the writer commits one change after the
other (adds, updates, deletes, merges). All know the sequence of states, so a reader knows what each generation must
answer.

Command: ``python -m benchmarks.concurrency``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from multiprocessing.synchronize import Event, Semaphore
from pathlib import Path
from typing import Any

import numpy as np
from splade_edge.runtime import Index, IndexUpdater

from .changes import Changes
from .report import Report

_ASKED = 20  # different queries
_K = 10
_PAUSE = 0.005  # seconds between the searches of a thread: its latency is to be that of a search, not of a queue
_LEAST = 6  # the generation that is waited for on a busy machine


class _Expected:
    """The answers of each generation, found as readers come to it."""

    def __init__(self, seed: int, size: int) -> None:
        self._state = Changes(seed, size)
        self._lock = threading.Lock()
        self._answers: dict[int, list[list[tuple[str, float]]]] = {}

    def of(self, generation: int) -> list[list[tuple[str, float]]]:
        with self._lock:
            while generation not in self._answers:
                if self._state.number > max(self._answers, default=0):
                    self._answers[self._state.number] = [self._state.answer(n, _K) for n in range(_ASKED)]
                else:
                    self._state.step()
            return self._answers[generation]


def read(path: Path, seed: int, size: int, threads: int, ready: Semaphore, go: Event, stop: Event) -> dict[str, Any]:
    """Search on some threads until told to stop: milliseconds of each search, generations seen, and what was wrong."""
    expected = _Expected(seed, size)
    milliseconds: list[float] = []
    faults: list[str] = []
    generations: set[int] = set()

    def run(first: int) -> None:
        try:
            index = Index.open(path)
            state = Changes(seed, size)  # the queries are the same in all states
            index.search_vector(state.query(0), _K)
            ready.release()
            go.wait()
            for n in itertools.count(first):
                if stop.is_set():
                    return
                index = index.refresh()
                generations.add(index.generation)
                query = state.query(n % _ASKED)
                started = time.perf_counter()
                found, scores = index.search_vector(query, _K)
                documents = index.documents(found)
                milliseconds.append((time.perf_counter() - started) * 1000)
                answer = [(d.id, s) for d, s in zip(documents, scores.tolist(), strict=True)]
                time.sleep(_PAUSE)
                if answer != expected.of(index.generation)[n % _ASKED]:
                    faults.append(f"generation {index.generation}: {answer}")
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the finding
            faults.append(repr(error))

    workers = [threading.Thread(target=run, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return {"ms": milliseconds, "faults": faults, "generations": len(generations)}


def write(path: Path, seed: int, size: int, ready: Semaphore, go: Event, stop: Event) -> int:
    """Commit until told to stop; returns how many commits there were."""
    state = Changes(seed, size)
    with IndexUpdater.open(path) as updater:
        while state.number < updater.index.generation:
            state.step()
        before = state.number
        ready.release()
        go.wait()
        while not stop.is_set():
            state.step(updater)
    return state.number - before


def _in_process(what: str, results: Any, *arguments: Any) -> None:
    try:
        results.put((what, read(*arguments) if what == "read" else write(*arguments)))
    except BaseException as error:  # noqa: BLE001 - the parent must not wait for ever
        results.put((what, {"ms": [], "faults": [repr(error)], "generations": 0}))


def measure(
    directory: Path, seconds: float, *, threads: int, processes: int, size: int, writer: bool
) -> dict[str, Any]:
    """Readers on ``threads`` threads of a process and one thread each of ``processes`` others, with or without the
    writer; raises AssertionError for a wrong answer or an error.
    """
    path = directory / "index"
    Changes(7, size).build(path)
    context = multiprocessing.get_context("spawn")
    results, ready, go, stop = context.Queue(), context.Semaphore(0), context.Event(), context.Event()
    jobs: list[tuple[Any, ...]] = [
        ("read", results, path, 7, size, count, ready, go, stop) for count in [threads, *[1] * processes]
    ]
    if writer:
        jobs.append(("write", results, path, 7, size, ready, go, stop))
    started = [context.Process(target=_in_process, args=job, daemon=True) for job in jobs]
    for process in started:
        process.start()
    for _ in range(threads + processes + writer):
        ready.acquire(timeout=60)
    go.set()
    end = time.monotonic() + seconds
    index = Index.open(path)
    while time.monotonic() < end or (writer and index.generation < _LEAST and time.monotonic() < end + 120):
        time.sleep(0.2)
        index = index.refresh()
    stop.set()
    found = [results.get(timeout=120) for _ in started]
    for process in started:
        process.join()
    readers = [result for what, result in found if what == "read"]
    commits = [result for what, result in found if what == "write"]
    faults = [
        fault for reader in [*readers, *(c for c in commits if isinstance(c, dict))] for fault in reader["faults"]
    ]
    if faults:
        raise AssertionError(f"{len(faults)} faults, the first: {faults[0]}")
    milliseconds = np.concatenate([reader["ms"] for reader in readers])
    Index.open(path).check()
    return {
        "writer": writer,
        "searches": int(milliseconds.size),
        "commits": sum(commits),
        "generations": max(reader["generations"] for reader in readers),
        "p50_ms": float(np.percentile(milliseconds, 50)),
        "p99_ms": float(np.percentile(milliseconds, 99)),
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.concurrency", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--documents", type=int, default=2000, help="about how many the index has")
    parser.add_argument("--work", metavar="DIR", help="where the index lies (default: a temporary directory)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    how = {"threads": args.threads, "processes": args.processes, "size": args.documents}
    rows = []
    for writer in (False, True):
        with tempfile.TemporaryDirectory(dir=args.work) as work:
            rows.append(measure(Path(work), args.seconds, **how, writer=writer))
    if args.json:
        args.json.write_text(json.dumps(rows) + "\n", "utf-8")
    readers = f"{args.threads} threads and {args.processes} processes"
    report = Report(f"Reading on {readers}", ["", *(f">{c}" for c in ("searches", "commits", "p50 ms", "p99 ms"))])
    for row in rows:
        name = "with a writer" if row["writer"] else "without"
        counts = [f"{row[key]:,}" for key in ("searches", "commits")]
        report.rows.append([name, *counts, f"{row['p50_ms']:.2f}", f"{row['p99_ms']:.2f}"])
    report.notes.append(f"every answer was that of its generation; readers saw up to {rows[1]['generations']:,}")
    report.print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
