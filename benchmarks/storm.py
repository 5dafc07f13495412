"""Fork a process that searches on several threads, again and again, and see that every child can do all it could.

``warm``: the parent has searched for a while; its threads search, filter, look ids up and encode while it forks, and a
child does the same and compares. ``cold``: a process forks while its threads load the engine and the kernels for the
first time. ``writers``: a process forks while it writes an index; a child can neither commit nor spoil what is written.
A child that is not done in time counts as a hang, and says where it is.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from splade_edge.runtime import Index, IndexUpdater, InputError, Searcher, use_kernels

SECONDS = 60.0  # that a child has
QUERIES = ("which country rationed gasoline", "who built it", "the cat in the rain", "a boat on the river")
WHERE = 'title != "Kenya"'


def answers(searcher: Searcher) -> list[Any]:
    """All that a worker of a server does, as it can be compared."""
    found: list[Any] = [[(h.id, h.score) for h in searcher.search(query, 5)] for query in QUERIES[:2]]
    found.append([(h.id, h.score) for h in searcher.search(QUERIES[2], 5, where=WHERE)])
    found.append([[h.id for h in hits] for hits in searcher.search_many(QUERIES * 4, 3)])
    found += [searcher.index.find("never"), searcher.index.find(found[0][0][0])]
    found.append([v.indices.tolist() for v in searcher.encoder.encode_query(list(QUERIES) * 3)])
    return found


def child_of(action: Callable[[], str], *, clean: bool = False, seconds: float = SECONDS) -> Callable[[], str]:
    """Fork; the child does something. Call what is returned to hear what came of it: a text, or why there is none.

    ``clean``: the child ends as any program does, else at once.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        code = 1
        try:
            os.write(writing, action().encode())
            code = 0
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode()[:4000])
        os.close(writing)
        if clean:
            sys.exit(code)
        os._exit(code)
    os.close(writing)
    end = time.monotonic() + seconds

    def outcome() -> str:
        said = b""
        while select.select([reading], [], [], max(0.0, end - time.monotonic()))[0]:
            part = os.read(reading, 1 << 16)
            if not part:
                break
            said += part
        os.close(reading)
        while time.monotonic() < end:
            if os.waitpid(child, os.WNOHANG)[0]:
                return said.decode()
            time.sleep(0.002)
        os.kill(child, signal.SIGUSR1)
        time.sleep(0.5)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return f"hang (said {said[:200]!r})"

    return outcome


@contextlib.contextmanager
def busy(actions: list[Callable[[], object]]) -> Iterator[list[BaseException]]:
    """Threads that do something each, over and over; what went wrong in them."""
    ended = threading.Event()
    errors: list[BaseException] = []

    def work(action: Callable[[], object]) -> None:
        try:
            while not ended.is_set():
                action()
        except BaseException as error:  # noqa: BLE001 - told by the main thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(action,), daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    try:
        yield errors
    finally:
        ended.set()
        for thread in threads:
            thread.join(SECONDS)


def warm(path: Path, forks: int, *, threads: int = 2, backend: Any = None, seed: int = 0) -> list[str]:
    """What went wrong in so many children of a parent that searches."""
    rng = np.random.default_rng(seed)
    faults: list[str] = []
    use_kernels()
    with Searcher.open(path, threads=threads, backend=backend) as searcher:
        expected = json.dumps(answers(searcher))
        actions: list[Callable[[], object]] = [
            lambda: answers(searcher),
            lambda: searcher.search(QUERIES[1], 10),
            lambda: searcher.index.select(f"title != 'x{time.monotonic_ns()}'"),  # never one of the answers kept
            lambda: searcher.search(QUERIES[3], 10, where=f"title like '%{time.monotonic_ns() % 10}%'"),
        ]

        def grandchild() -> str:
            return child_of(lambda: json.dumps(answers(searcher)))()

        with busy(actions) as errors:
            waiting: list[Callable[[], str]] = []
            for number in range(forks):
                if number % 10 == 9:
                    action = grandchild
                else:
                    action = lambda: json.dumps(answers(searcher))  # noqa: E731
                waiting.append(child_of(action, clean=bool(rng.integers(2))))
                time.sleep(rng.uniform(0, 0.02))
                if len(waiting) == 4:
                    faults += [said for said in (outcome() for outcome in waiting) if said != expected]
                    waiting.clear()
            faults += [said for said in (outcome() for outcome in waiting) if said != expected]
        faults += [f"the parent: {error!r}" for error in errors]
        if json.dumps(answers(searcher)) != expected:
            faults.append("the parent answers otherwise afterwards")
    return faults


def cold(path: Path, forks: int, *, threads: int = 2, backend: Any = None, seed: int = 0) -> list[str]:
    """To be called in a fresh process: what went wrong in so many children, forked while all is loaded."""
    rng = np.random.default_rng(seed)
    from splade_edge.runtime import jit

    jit._left = 1e6 if seed % 2 else -1.0  # go over to the kernels soon, or at once
    faults: list[str] = []
    with Searcher.open(path, threads=threads, backend=backend) as searcher:
        with busy([lambda: answers(searcher)] * 3) as errors:
            time.sleep(rng.uniform(0, 0.05))
            outcomes = []
            for _ in range(forks):
                outcomes.append(child_of(lambda: json.dumps(answers(searcher)), clean=bool(rng.integers(2))))
                time.sleep(rng.uniform(0, 0.1))
            said = [outcome() for outcome in outcomes]
        expected = json.dumps(answers(searcher))
        faults += [f"the parent: {error!r}" for error in errors]
    return faults + [other for other in said if other != expected]


def writers(path: Path, forks: int, seed: int = 0) -> list[str]:
    """What went wrong where a process forks at every step of writing, and its children do what they must not."""
    from .changes import Changes

    state = Changes(seed, size=400)
    state.build(path)
    faults = []
    done = 0
    while done < forks:
        with IndexUpdater.open(path) as updater:

            def spoil(updater: IndexUpdater = updater) -> str:
                said = []
                for action in (updater.commit, updater.compact, lambda: updater.delete(["d1-1"])):
                    try:
                        action()
                    except InputError as error:
                        said.append("refused" if "forked" in str(error) else str(error))
                updater.close()
                return " ".join(said)

            outcomes: list[Callable[[], str]] = []
            stop = threading.Event()

            def fork(outcomes: list[Callable[[], str]] = outcomes, spoil: Callable[[], str] = spoil) -> None:
                while not stop.is_set() and len(outcomes) < 10:
                    outcomes.append(child_of(spoil, clean=True))
                    time.sleep(0.001)

            thread = threading.Thread(target=fork)
            thread.start()
            for _ in range(3):
                state.step(updater)
            stop.set()
            thread.join()
            said = [outcome() for outcome in outcomes]
            faults += [other for other in said if other != "refused refused refused"]
            done += len(said)
        with Index.open(path) as index:
            index.check()
            if fault := state.all_wrong(index):
                faults.append(fault)
    return faults


def demo_index(directory: Path) -> Path:
    """An index of the sample corpus, with the pair that comes with the project."""
    raise NotImplementedError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storm", description=__doc__)
    parser.add_argument("index", metavar="INDEX", help="an index of texts that carries its query encoder")
    parser.add_argument("--forks", type=int, default=1000)
    parser.add_argument("--kind", choices=["warm", "cold", "writers"], help="one kind alone")
    parser.add_argument("--backend", choices=["onnx", "openvino", "kernel"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    path = Path(args.index)
    if args.kind == "writers":
        with tempfile.TemporaryDirectory() as work:
            faults = writers(Path(work) / "index", args.forks, args.seed)
    else:
        run = warm if args.kind == "warm" else cold
        faults = run(path, args.forks, threads=args.threads, backend=args.backend, seed=args.seed)
    for fault in faults[:10]:
        sys.stderr.write(fault[:500] + "\n")
    sys.stdout.write(json.dumps({"kind": args.kind, "forks": args.forks, "faults": len(faults)}) + "\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
