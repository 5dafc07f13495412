"""One engine in a process of its own: builds its index, or answers timing requests that arrive on standard input.

Run by :mod:`benchmarks.scorer`, pinned to a core. A reply is a line that starts with ``RESULT``; what else an engine
prints is passed over.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from .engine import Engine
from .engines import ENGINES
from .memory import memory_mb
from .workload import Collection, by_term, rounded

REPLY = "RESULT "
_WARM_UP = 3  # queries before each timed pass; the first pass of a case is preceded by a whole untimed one


def main(argv: list[str] | None = None) -> None:
    """``build|serve ENGINE COLLECTION DIRECTORY``."""
    task, name, source, place = argv or sys.argv[1:]
    engine, collection, directory = ENGINES[name](), Collection(Path(source)), Path(place)
    if task == "build":
        by_term(collection)  # made once for all engines, and charged to none
        start = time.perf_counter()
        engine.build(collection, directory)
        _reply({"seconds": time.perf_counter() - start})
        return
    before = memory_mb()[0]
    start = time.perf_counter()
    engine.open(directory)
    _answer(engine, engine.prepare(_asked(engine, collection.queries("short")[0])), 10)
    opened = time.perf_counter() - start
    _reply({"open_seconds": opened, "resident_mb": memory_mb()[0] - before})
    prepared: dict[str, list[Any]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        name = request["set"]
        if name not in prepared:
            prepared = {name: [engine.prepare(_asked(engine, query)) for query in collection.queries(name)]}
        if request.get("first"):
            _read(directory)
        _reply(_serve(engine, prepared[name][: request["queries"]], request))


def _read(directory: Path) -> None:
    """Have an index in the page cache, which other engines' may have driven out: of one that is mapped into memory the
    budget would otherwise go on the disk.
    """
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(1 << 20):
                    pass


def _serve(engine: Engine, queries: list[Any], request: dict[str, Any]) -> dict[str, Any]:
    k = request["k"]
    if request["task"] == "answers":
        answers = [_answer(engine, query, k) for query in queries]
        np.savez(request["file"], *(part for answer in answers for part in answer))
        return {}
    if request["task"] == "batch":
        return {"seconds": engine.batch(queries, k)}
    gc.collect()
    gc.disable()
    # Untimed: a query may be the first to need a kernel that is compiled, or loaded, on its first call.
    _pass(engine, queries if request["first"] else queries[:_WARM_UP], k, request["budget"])
    seconds = _pass(engine, queries, k, request["budget"])
    gc.enable()
    return {"seconds": seconds}


def _pass(engine: Engine, queries: list[Any], k: int, budget: float) -> list[float]:
    """Seconds of each query, until the budget is spent."""
    seconds = []
    deadline = time.perf_counter() + budget
    for query in queries:
        start = time.perf_counter()
        engine.search(query, k)
        end = time.perf_counter()
        seconds.append(end - start)
        if end > deadline:
            break
    return seconds


def _asked(engine: Engine, query: Any) -> Any:
    return rounded(query) if engine.whole_numbers else query


def _answer(engine: Engine, query: Any, k: int) -> Any:
    return engine.answer(engine.search(query, k))


def _reply(value: dict[str, Any]) -> None:
    sys.stdout.write(REPLY + json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
