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
import shutil
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
from splade_edge.runtime import Document, Index, IndexUpdater, InputError, Searcher, build_index, use_kernels
from splade_edge.runtime.numba_support import backend as numpy_or_numba

from benchmarks.changes import Changes
from tests import tiny
from tests.transformers import write_transformer_artifact

COLD_FORKS = 10  # of each process that has just begun
SECONDS = 60.0  # that a child has
QUERIES = ("the cat in the rain", "supersonic flow", "bread flour oven water", "piano")
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
        except BaseException as error:  # noqa: BLE001 - told by the parent
            os.write(writing, f"{type(error).__name__}: {error}".encode()[:4000])
        os.close(writing)
        if clean:
            sys.exit(code)
        os._exit(code)
    os.close(writing)

    def outcome() -> str:
        said, code = b"", None
        while code is None and _goes_on(child, seconds):
            while select.select([reading], [], [], 0.005)[0]:
                part = os.read(reading, 1 << 16)
                if not part:
                    time.sleep(0.002)
                    break
                said += part
            ended, status = os.waitpid(child, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if ended else None
        if code is None:
            os.kill(child, signal.SIGUSR1)
            time.sleep(0.5)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            said = f"hang (said {said[:200]!r})".encode()
        else:
            # what it said last; no end is waited for, since another child may have the pipe, too
            while select.select([reading], [], [], 0)[0] and (part := os.read(reading, 1 << 16)):
                said += part
        os.close(reading)
        _seen.pop(child, None)
        return said.decode() if code in (None, 0, 1) else f"ended with {code} (said {said[:200]!r})"

    return outcome


_seen: dict[int, tuple[int, float]] = {}  # by process: its CPU time, in ticks, and when that was another


def _goes_on(process: int, seconds: float) -> bool:
    """Whether a process has done something in so many seconds, and no more than so many seconds of work. On a machine
    with much to do a process may wait long for its turn, and does not hang.
    """
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
    except OSError:
        ticks = 0
    now = time.monotonic()
    before, since = _seen.get(process, (-1, now))
    if ticks != before:
        _seen[process] = ticks, since = ticks, now
    return now - since < seconds and ticks < seconds * os.sysconf("SC_CLK_TCK")


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


def refused(backend: str | None, said: str) -> bool:
    """Whether a child was told that its engine is none for children."""
    return (
        backend == "openvino"
        and said.startswith("ArtifactError: ")
        and "OpenVINO works in no child of a process that has used it" in said
    )


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

        def work() -> str:
            return json.dumps(answers(searcher))

        def grandchild() -> str:
            return child_of(work)()

        with busy(actions) as errors:
            said: list[str] = []
            waiting: list[Callable[[], str]] = []
            for number in range(forks):
                waiting.append(child_of(grandchild if number % 10 == 9 else work, clean=bool(rng.integers(2))))
                time.sleep(rng.uniform(0, 0.02))
                if len(waiting) == 4:
                    said += [outcome() for outcome in waiting]
                    waiting.clear()
            said += [outcome() for outcome in waiting]
        faults += [other for other in said if other != expected and not refused(backend, other)]
        faults += [f"the parent: {error!r}" for error in errors]
        if json.dumps(answers(searcher)) != expected:
            faults.append("the parent answers otherwise afterwards")
    return faults


def cold(path: Path, forks: int, *, threads: int = 2, backend: Any = None, seed: int = 0) -> list[str]:
    """To be called in a fresh process: what went wrong in so many children, forked while all is loaded."""
    rng = np.random.default_rng(seed)
    numpy_or_numba._budget_left = 1e6 if seed % 2 else -1.0  # go over to the kernels soon, or at once
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
    return faults + [other for other in said if other != expected and not refused(backend, other)]


def _fork_on(action: Callable[[], str], stop: threading.Event, outcomes: list[Callable[[], str]]) -> None:
    while not stop.is_set() and len(outcomes) < COLD_FORKS:
        outcomes.append(child_of(action, clean=True))
        time.sleep(0.001)


def writers(path: Path, forks: int, seed: int = 0) -> list[str]:
    """What went wrong where a process forks at every step of writing, and its children do what they must not."""
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

            thread = threading.Thread(target=_fork_on, args=(spoil, stop, outcomes))
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


def write_indexes(directory: Path) -> dict[str, Path]:
    """A small index for each engine, by its name."""
    encoders = {
        "kernel": write_transformer_artifact(directory / "own"),
        "onnx": tiny.write_artifact(directory / "graph", openvino=tiny.HAS_OPENVINO),
    }
    rng = np.random.default_rng(0)
    words = [word for word in tiny.WORDS if not word.startswith("##")]
    documents = [
        Document(f"d{n}", ["Kenya", "Peru"][n % 2], " ".join(rng.choice(words, 9)), {"n": n}) for n in range(400)
    ]
    indexes = {}
    for name, encoder in encoders.items():
        build_index(directory / name, documents, encoder, encoder, fields=["n"])
        indexes[name] = directory / name
    if tiny.HAS_OPENVINO:
        indexes["openvino"] = indexes["onnx"]
    return indexes


def run_cold(path: Path, forks: int, backend: str) -> list[str]:
    """:func:`cold` in so many fresh processes that there are ``forks`` children."""
    faults = []
    for seed in range(-(-forks // COLD_FORKS)):
        command = [sys.executable, "-m", "tests.storm", "--kind", "cold", "--backend", backend, "--seed", str(seed)]
        command += ["--forks", str(COLD_FORKS), "--index", str(path)]
        process = subprocess.run(command, capture_output=True, encoding="utf-8")
        if process.returncode:
            faults.append(f"{process.stdout.strip()} {process.stderr.strip()[-2000:]}")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=__doc__)
    parser.add_argument("--forks", type=int, default=1000, help="children in all (default: %(default)s)")
    parser.add_argument("--index", type=Path, help="an index of texts that carries its query encoder (default: made)")
    parser.add_argument("--kind", choices=["warm", "cold"], help="one kind alone, in this process, on --index")
    parser.add_argument("--backend", choices=["onnx", "openvino", "kernel"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    counts: dict[str, int] = {}
    faults: list[str] = []
    if args.kind:
        run = warm if args.kind == "warm" else cold
        faults = run(args.index, args.forks, threads=args.threads, backend=args.backend, seed=args.seed)
        counts[args.kind] = args.forks
    else:
        work = Path(tempfile.mkdtemp())  # not for a block: at its end a child would remove it, too
        indexes = write_indexes(work) if args.index is None else {args.backend: args.index}
        each = args.forks // (len(indexes) * 10)
        for name, path in indexes.items():
            faults += warm(path, 8 * each, threads=args.threads, backend=name, seed=args.seed)
            faults += run_cold(path, each, name)
            counts[f"{name}, warm"], counts[f"{name}, cold"] = 8 * each, -(-each // COLD_FORKS) * COLD_FORKS
        faults += writers(work / "written", len(indexes) * each, args.seed)
        counts["writers"] = len(indexes) * each
        shutil.rmtree(work)
    for fault in faults[:10]:
        sys.stderr.write(fault[:2000] + "\n")
    sys.stdout.write(json.dumps({"children": counts, "faults": len(faults)}) + "\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
