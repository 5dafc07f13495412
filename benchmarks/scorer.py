"""Sparse retrieval engines side by side: milliseconds a query on one core, how exact, how large.

Every engine is built and timed in a process of its own, pinned to one core with one thread. Timing goes in rounds, and
in a round each case goes through all engines in turn, so that a slow minute of the machine hits all of them. A query's
time is its median over the rounds.

Command: ``python -m benchmarks.scorer --documents 100000,1000000 --k 10,100,1000 --output build/bench``.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from .engine import Engine
from .engines import ENGINES
from .oracle import Oracle
from .processes import ONE_THREAD, ChildError, directory_mb, module, pinned
from .report import add_report_arguments, publish, say
from .scorer_report import Case, plot, reports
from .scorer_worker import REPLY
from .workload import Collection, collection_path, generate


@dataclass
class Timings:
    """What the rounds said of one engine on one case: seconds of each query, a row a round; the native batch."""

    rounds: list[list[float]] = field(default_factory=list)
    batch: float | None = None


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scorer", description=__doc__)
    parser.add_argument("--documents", type=_numbers, default=[100_000], metavar="N,N", help="collections to generate")
    parser.add_argument(
        "--collection",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a collection that exists; repeatable",
    )
    parser.add_argument("--k", type=_numbers, default=[10, 1000], metavar="K,K")
    parser.add_argument("--engines", metavar="NAME,NAME", help="default: all that are installed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--budget", type=float, default=2.0, metavar="S", help="seconds for a case, an engine and a round"
    )
    parser.add_argument("--queries", type=int, default=1000, metavar="N", help="queries of a set to time")
    parser.add_argument("--check", type=int, default=50, metavar="N", help="queries whose answers are checked")
    parser.add_argument("--cpu", type=int, default=(os.cpu_count() or 1) - 1, metavar="N", help="the core to pin to")
    parser.add_argument(
        "--work", type=Path, default=Path("build/bench/scorer"), metavar="DIR", help="collections, indexes"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="write the plots there")
    add_report_arguments(parser)
    args = parser.parse_args(argv)
    chosen, notes = _choose(args.engines)
    collections = [_generated(args.work, count) for count in ([] if args.collection else args.documents)]
    results: list[dict[str, Any]] = []
    cases: list[Case] = []
    for path in [*args.collection, *collections]:
        facts, found = _run_collection(path, chosen, args, notes)
        cases += found
        results.append({**facts, "cases": [case.__dict__ for case in found]})
    tables = reports(cases, [r["engines"] for r in results], notes)
    publish(args, "scorer", tables, {"notes": notes, "collections": results})
    if args.output:
        plot(cases, args.output)


def _choose(names: str | None) -> tuple[list[type[Engine]], list[str]]:
    """The engines to run, and what is to be said of those that are not."""
    unknown = [name for name in (names or "").split(",") if name and name not in ENGINES]
    if unknown:
        raise SystemExit(f"no engine is called {', '.join(unknown)}; there are: {', '.join(ENGINES)}")
    chosen = [engine for name, engine in ENGINES.items() if not names or name in names.split(",")]
    notes = [f"{e.name} is left out: {', '.join(e.missing())} is not installed." for e in chosen if e.missing()]
    for note in notes:
        say(note)
    return [engine for engine in chosen if not engine.missing()], notes


def _generated(work: Path, documents: int) -> Path:
    path = collection_path(work, documents)
    if not (path / "meta.json").exists():
        say(f"generating {documents:,} documents")
        generate(path, documents)
    return path


def _run_collection(
    path: Path, engines: list[type[Engine]], args: argparse.Namespace, notes: list[str]
) -> tuple[dict[str, Any], list[Case]]:
    collection = Collection(path)
    facts: dict[str, Any] = {"documents": collection.documents, "postings": collection.postings, "engines": {}}
    with ExitStack() as stack:
        workers: dict[str, _Worker] = {}
        for engine, built in _built_all(engines, collection, args, notes):
            try:
                worker = stack.enter_context(_serving(engine, collection, args.cpu, Path(built["place"])))
            except ChildError as error:
                _leave_out(engine, collection, error, notes)
                continue
            workers[engine.name] = worker
            facts["engines"][engine.name] = {"documents": collection.documents, **built, **worker.opened}
        timings = {(s, k, name): Timings() for s in collection.sets for k in args.k for name in workers}
        for number in range(args.rounds):
            say(f"{collection.documents:,} documents, round {number + 1} of {args.rounds}")
            for s in collection.sets:
                for k in args.k:
                    # Each round starts with another engine: none always runs after the same one.
                    names = list(workers)[number % len(workers) :] + list(workers)[: number % len(workers)]
                    for name in names:
                        _time(workers[name], timings[s, k, name], s, k, args)
        cases = []
        for s in collection.sets:
            oracles = {whole: Oracle(collection, s, args.check, whole_numbers=whole) for whole in (False, True)}
            for (name_of_set, k, name), timing in timings.items():
                if name_of_set == s:
                    engine = workers[name].engine
                    answers = workers[name].answers(s, k, args.check)
                    verdict = oracles[engine.whole_numbers].judge(answers, k)
                    cases.append(Case.of(engine, collection.documents, s, k, timing.rounds, timing.batch, verdict))
    return facts, cases


def _built_all(
    engines: list[type[Engine]], collection: Collection, args: argparse.Namespace, notes: list[str]
) -> list[tuple[type[Engine], dict[str, Any]]]:
    """Every engine with the facts of its index, all built before the first is opened: some need much memory for it."""
    done = []
    for engine in engines:
        try:
            done.append((engine, _built(engine, collection, args)))
        except ChildError as error:
            _leave_out(engine, collection, error, notes)
    return done


def _leave_out(engine: type[Engine], collection: Collection, error: ChildError, notes: list[str]) -> None:
    notes.append(f"{engine.name} is left out of {collection.documents:,} documents: {error}")
    say(notes[-1])


def _time(worker: _Worker, timing: Timings, name: str, k: int, args: argparse.Namespace) -> None:
    request = {"set": name, "k": k, "queries": args.queries}
    timing.rounds.append(
        worker.ask({**request, "task": "time", "budget": args.budget, "first": not timing.rounds})["seconds"]
    )
    complete = len(timing.rounds[-1]) == args.queries
    if len(timing.rounds) == 1 and complete:  # once: some engines load their index again for it
        seconds = worker.ask({**request, "task": "batch"})["seconds"]
        timing.batch = None if seconds is None else seconds / args.queries


def _built(engine: type[Engine], collection: Collection, args: argparse.Namespace) -> dict[str, Any]:
    """Build an engine's index unless this very version of it did before; facts of the build."""
    place = args.work / "indexes" / f"{collection.path.name}-{engine.name.replace(' ', '-')}"
    stamp = place / "built.json"
    stamped = _stamp(engine)
    if stamp.exists():
        facts: dict[str, Any] = json.loads(stamp.read_text(encoding="utf-8"))
        if facts["stamp"] == stamped and facts["collection"] == str(collection.path.resolve()):
            return facts
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    say(f"{engine.name}: building its index of {collection.documents:,} documents")
    command = pinned(module("scorer_worker", "build", engine.name, str(collection.path), str(place)), args.cpu)
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **ONE_THREAD}, check=False)
    reply = next((line for line in done.stdout.splitlines() if line.startswith(REPLY)), None)
    if reply is None:
        raise ChildError(((done.stderr or done.stdout).strip().splitlines() or [f"exit {done.returncode}"])[-1][:300])
    facts = {
        "version": metadata.version(engine.package), "stamp": stamped, "place": str(place),
        "disk_mb": directory_mb(place),
        "collection": str(collection.path.resolve()), "build_seconds": json.loads(reply[len(REPLY) :])["seconds"],
    }  # fmt: skip
    stamp.write_text(json.dumps(facts), encoding="utf-8")
    return facts


def _stamp(engine: type[Engine]) -> str:
    """What an index depends on: the engine's version, the source of its adapter, and for ours the index's sources."""
    sources = [Path(inspect.getfile(engine))]
    if engine.package == "splade-edge":
        import splade_edge.runtime.index

        sources += sorted(Path(splade_edge.runtime.index.__file__).parent.glob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    return f"{metadata.version(engine.package)} {digest[:16]}"


class _Worker:
    """A running ``scorer_worker``."""

    def __init__(self, engine: type[Engine], child: subprocess.Popen[str], log: Path) -> None:
        self.engine = engine
        self._child = child
        self._log = log
        self.opened = self._read()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and wait for the reply. Raises ChildError."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(request) + "\n")
        self._child.stdin.flush()
        return self._read()

    def answers(self, name: str, k: int, queries: int) -> list[Any]:
        """The engine's answers to the first queries of a set."""
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / "answers.npz"
            self.ask({"task": "answers", "set": name, "k": k, "queries": queries, "file": str(file)})
            with np.load(file) as stored:
                parts = [stored[f"arr_{i}"] for i in range(len(stored.files))]
        return list(zip(parts[::2], parts[1::2], strict=True))

    def _read(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            if line.startswith(REPLY):
                reply: dict[str, Any] = json.loads(line[len(REPLY) :])
                return reply
        said = self._log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
        raise ChildError(f"its process ended with {self._child.wait()}: {said[-1][:300]}")


@contextmanager
def _serving(engine: type[Engine], collection: Collection, cpu: int, place: Path) -> Iterator[_Worker]:
    command = pinned(module("scorer_worker", "serve", engine.name, str(collection.path), str(place)), cpu)
    log = place / "log.txt"
    with log.open("w") as errors:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            env={**os.environ, **ONE_THREAD},
        )  # fmt: skip
        try:
            yield _Worker(engine, child, log)
        finally:
            child.kill()
            child.communicate()


def _numbers(text: str) -> list[int]:
    return [int(float(part)) for part in text.split(",")]


if __name__ == "__main__":
    start = time.perf_counter()
    main()
    say(f"took {time.perf_counter() - start:.0f} s")
