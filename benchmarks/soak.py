"""Kill a writer at random moments, again and again. Nothing that was acknowledged may be lost, and nothing may be half
there.

A child commits one change after the other, and says so after each. It is killed (SIGKILL) at a random moment;
meanwhile, and afterwards, a reader compares what it sees with the state of that generation. With --cuts a child is
ended at each single write, flush, rename and removal in turn, before and within it, and meets files that cannot grow.

Command: ``python -m benchmarks.soak --kills 1000 --cuts --swaps``.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from splade_edge.runtime import Index, IndexUpdater
from splade_edge.runtime.index.layout import LOCK_NAME, MANIFEST_NAME

from .changes import Changes
from .interruptions import CASES, Cut, change, contents, prepare
from .report import say
from .swaps import swap_everywhere


def soak(directory: Path, kills: int, *, seed: int = 0, most: float = 0.25) -> dict[str, Any]:
    """Kill writers at random moments, and check the index after each.

    Parameters
    ----------
    directory : Path
        Where the index is made.
    kills : int
        How many writers are killed.
    seed : int
        The seed of the changes and of the moments.
    most : float
        Seconds after its beginning within which a writer is killed.

    Returns
    -------
    dict of str to object
        Counts.

    Raises
    ------
    AssertionError
        If something acknowledged is lost, or something is half there.
    """
    rng = np.random.default_rng(seed)
    state = Changes(seed)
    state.build(directory / "index")
    index = Index.open(directory / "index")
    counts = {"kills": 0, "acknowledged": 0, "unacknowledged": 0, "looks": 0, "in the middle": 0}
    while counts["kills"] < kills:
        child, answers = _start(directory / "index", state)
        acknowledged = state.number
        if rng.random() < 0.9:  # else it may be killed before it has so much as opened the index
            select.select([answers], [], [], 60)
        end = time.monotonic() + rng.uniform(0, most)
        while (left := end - time.monotonic()) > 0:
            if select.select([answers], [], [], min(left, 0.01))[0]:
                acknowledged = _latest(answers, acknowledged)
            index = _look(index, state)
            counts["looks"] += 1
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        acknowledged = _latest(answers, acknowledged)
        os.close(answers)
        counts["kills"] += 1
        counts["in the middle"] += _leftovers(index.refresh())
        index = _look(index, state)
        if state.number < acknowledged:
            raise AssertionError(f"commit {acknowledged} was acknowledged, and is lost: generation {state.number}")
        counts["unacknowledged"] += state.number - acknowledged
        counts["acknowledged"] = acknowledged
        if fault := state.all_wrong(index):
            raise AssertionError(fault)
        if counts["kills"] % 20 == 0:
            Index.open(directory / "index").check()
            say(f"{counts['kills']} kills, generation {state.number}")
    IndexUpdater.open(directory / "index").close()
    if _leftovers(Index.open(directory / "index")):
        raise AssertionError("the next writer has not removed what dead ones left")
    return counts


def _start(path: Path, state: Changes) -> tuple[int, int]:
    """A child that commits until it is killed: (process, pipe of the states it has committed)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        os.set_blocking(reading, False)
        return child, reading
    try:
        with IndexUpdater.open(path) as updater:
            os.write(writing, b"%d\n" % state.number)
            while True:
                state.step(updater)
                os.write(writing, b"%d\n" % state.number)
    except BaseException as error:
        sys.stderr.write(f"the writer failed: {error!r}\n")
        raise
    finally:
        os._exit(1)


def _latest(answers: int, before: int) -> int:
    try:
        lines = os.read(answers, 1 << 16).split()
    except BlockingIOError:
        return before
    return int(lines[-1]) if lines else before


def _look(index: Index, state: Changes) -> Index:
    """See the newest generation, and compare it with the state of its number."""
    index = index.refresh()
    while state.number < index.generation:
        state.step()
    if fault := state.wrong(index, state.number):
        raise AssertionError(fault)
    return index


def _leftovers(index: Index) -> int:
    """1 if there are files that no generation has."""
    root = index.path
    known = {*index.manifest.files, MANIFEST_NAME, LOCK_NAME}
    return int(any(p.relative_to(root).as_posix() not in known for p in root.rglob("*") if p.is_file()))


def operations_of(directory: Path, case: str) -> tuple[list[str], list[Any]]:
    """List the file operations of a kind of commit.

    Parameters
    ----------
    directory : Path
        It has the index of :func:`prepare` at ``index``.
    case : str
        The kind of commit.

    Returns
    -------
    tuple of list of str and list
        The operations, and what the commit makes of the index.
    """
    whole = Path(shutil.copytree(directory / "index", directory / "whole"))
    with Cut(-1, lambda _: None) as cut:
        change(whole, case)
    found = contents(whole)
    shutil.rmtree(whole)
    return cut.seen, found


def cut_everywhere(directory: Path, every: int = 1) -> dict[str, int]:
    """End a child at every file operation of every kind of commit, and within every write.

    Parameters
    ----------
    directory : Path
        Where the indexes are made.
    every : int
        Try every Nth operation only.

    Returns
    -------
    dict of str to int
        How many operations were tried for each kind.

    Raises
    ------
    AssertionError
        If the index is then in another state than before or after the commit.
    """
    prepare(directory / "index")
    before = contents(directory / "index")
    cuts: dict[str, int] = {}
    for case in CASES:
        seen, after = operations_of(directory, case)
        places = [(at, False) for at in range(len(seen))] + [(at, True) for at, n in enumerate(seen) if n == "write"]
        places = places[len(cuts) % every :: every]
        for at, half in places:
            copy = Path(shutil.copytree(directory / "index", directory / "cut"))
            _cut_child(copy, case, at, half=half)
            found = contents(copy)
            # what comes after the manifest's rename is the flush of that, and the removal of old files
            if found != (after if "replace" in seen[:at] else before):
                raise AssertionError(f"{case}, cut at operation {at} ({seen[at]}): another state than expected")
            IndexUpdater.open(copy).close()
            with Index.open(copy) as index:
                if _leftovers(index) or contents(copy) != found:
                    raise AssertionError(f"{case}, cut at operation {at} ({seen[at]}): not cleaned up")
            shutil.rmtree(copy)
        cuts[case] = len(places)
    return cuts


def _cut_child(path: Path, case: str, at: int, *, half: bool) -> None:
    """A child that ends at an operation."""
    child = os.fork()
    if not child:
        try:
            with Cut(at, lambda _: os._exit(9), half=half):
                change(path, case)
        finally:
            os._exit(1)
    if (code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])) != 9:
        raise AssertionError(f"{case}: the writer did not come to operation {at} (exit {code})")


def full_disk(directory: Path) -> int:
    """Make every kind of commit under limits on the size of a file, from nothing on.

    Parameters
    ----------
    directory : Path
        Where the indexes are made.

    Returns
    -------
    int
        How many commits were refused.

    Raises
    ------
    AssertionError
        If a refused commit changed the index, or a commit ended in another way.
    """
    import resource

    from splade_edge.runtime.errors import StorageError

    prepare(directory / "index")
    before = contents(directory / "index")
    refused = 0
    for case in CASES:
        for limit in [*range(0, 600, 60), *range(600, 40_000, 3_000), 1 << 30]:
            copy = Path(shutil.copytree(directory / "index", directory / "full"))
            child = os.fork()
            if not child:
                code = 1
                try:
                    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                    change(copy, case)
                    code = 0
                except StorageError:
                    code = 2
                finally:
                    os._exit(code)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if code not in (0, 2) or (code == 2 and contents(copy) != before) or (limit == 1 << 30 and code):
                raise AssertionError(f"{case} with files of at most {limit} bytes: exit {code}")
            refused += code == 2
            shutil.rmtree(copy)
    return refused


def in_memory() -> str | None:
    """A directory in memory, where a flush takes no time; None where there is none."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument(
        "--cuts", type=int, nargs="?", const=1, metavar="N", help="also end a writer at every (Nth) file operation"
    )
    parser.add_argument(
        "--swaps", type=int, nargs="?", const=1, metavar="N", help="also get in a writer's way at every (Nth) operation"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--work", metavar="DIR", help="where the indexes lie (default: in memory, which a killed process cannot tell)"
    )
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=args.work or in_memory()) as work:
        counts: dict[str, Any] = soak(Path(work) / "soak", args.kills, seed=args.seed) if args.kills else {}
        if args.cuts:
            counts["cuts"] = sum(cut_everywhere(Path(work) / "cuts", args.cuts).values())
            counts["refused for want of room"] = full_disk(Path(work) / "full")
        if args.swaps:
            counts["swaps"] = swap_everywhere(Path(work) / "swaps", args.swaps)
    counts["seconds"] = round(time.monotonic() - started)
    sys.stdout.write(json.dumps(counts) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
