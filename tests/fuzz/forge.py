"""Forgeries, each judged in a process of its own that is forked from one where everything is loaded.

A forgery gives an error of ours or answers, within 60 s and 2 GB, and touches nothing outside its directory.
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import resource
import selectors
import shutil
import signal
import sys
import sysconfig
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from splade_edge.runtime import Document, IndexUpdater, SpladeEdgeError, SpladeEdgeWarning
from splade_edge.runtime.cli.info import _flatten, describe
from splade_edge.runtime.index.layout import MANIFEST_NAME as INDEX_MANIFEST
from splade_edge.runtime.repair.recovery import repair_index

from tests.transformers import write_transformer_artifact

from .forgeries import forgery
from .mutations import Tree
from .probes import check, probe

SECONDS = 60  # of the CPU
PATIENCE = 300  # seconds of the clock, on a machine that does other things too
BYTES = 2 << 30
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# What changes files, by what it says to an audit hook; the places of its paths, and of what they are relative to.
_CHANGES: dict[str, tuple[tuple[int, int], ...]] = {
    "os.remove": ((0, 1),), "os.rmdir": ((0, 1),), "os.mkdir": ((0, 2),), "os.rename": ((0, 2), (1, 3)),
    "os.link": ((0, 2), (1, 3)), "os.symlink": ((1, 2),), "os.truncate": ((0, -1),), "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),), "shutil.rmtree": ((0, 1),),
}  # fmt: skip
_NEVER = ("socket.", "subprocess.", "os.exec", "os.system", "os.posix_spawn", "webbrowser.", "urllib.")


def run_forgeries(
    scratch: Path,
    forgeries: int,
    seed: int,
    write_directories: Callable[[Path], list[Path]],
    *,
    progress: bool = False,
) -> list[str]:
    """The defects that so many forgeries bring to light."""
    warnings.simplefilter("ignore", SpladeEdgeWarning)
    directories = write_directories(scratch / "originals")
    directories.append(write_transformer_artifact(scratch / "originals/kernel"))
    defects: list[str] = []
    first = 0
    for number, directory in enumerate(directories):
        work = scratch / f"work-{directory.name}"
        copy = work / "copy"
        shutil.copytree(directory, copy)
        (work / "scratch").mkdir()
        ask(copy)  # everything is loaded and compiled before the first fork
        shutil.rmtree(copy)
        shutil.copytree(directory, copy)
        gc.collect()
        gc.freeze()
        last = forgeries * (number + 1) // len(directories)
        started, errors = time.monotonic(), 0
        for n in range(first, last):
            # whatever a child of the last one has left, the next begins with the same files
            outcome = judge_one(directory, copy, work, random.Random(f"{seed} {directory.name} {n}"))
            errors += outcome.endswith("error")
            if not outcome.startswith("ok"):
                defects.append(f"{directory.name} {n}: {outcome}")
        if progress:
            print(
                f"{directory.name}: {last - first:,} forgeries in {time.monotonic() - started:.0f} s, "
                f"{errors:,} refused, the others answered",
                flush=True,
            )
        first = last
    return defects


def judge_one(directory: Path, copy: Path, work: Path, rng: random.Random) -> str:
    """``ok: error`` or ``ok: answer``, or what is wrong."""
    beside = _listing(work, copy)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with contextlib.suppress(BaseException):
            _in_child(copy, work, rng, writer)
        os._exit(1)
    os.close(writer)
    said, code = _wait(child, reader)
    lines = said.decode("utf-8", "replace").splitlines() or ["nothing said"]
    done, found = lines[0], lines[-1]
    outside = _listing(work, copy) != beside
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(directory, copy)
    if outside:
        return f"{done}: something lies beside the directory"
    if code != 0 or not found.startswith("ok"):
        return f"{done}: {found if len(lines) > 1 else ''} (ended with {code})"
    return found


def _wait(child: int, reader: int) -> tuple[bytes, int | str]:
    """What a child said, and how it ended."""
    said, deadline = b"", time.monotonic() + PATIENCE
    with selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                os.close(reader)
                return said, f"no answer in {PATIENCE} s"
            data = os.read(reader, 1 << 16)
            if not data:
                break
            said += data
    os.close(reader)
    return said, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _listing(work: Path, copy: Path) -> list[tuple[str, int]]:
    """What lies beside a directory."""
    return sorted((str(p), p.stat().st_size) for p in work.rglob("*") if p.is_file() and copy not in p.parents)


def _in_child(copy: Path, work: Path, rng: random.Random, writer: int) -> None:
    def say(line: str) -> None:
        os.write(writer, line.encode("utf-8", "replace").replace(b"\n", b" | ") + b"\n")

    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)  # a panic of Rust tells of itself
    tree = Tree.load(copy)
    try:
        say(forgery(tree, rng, work / "scratch"))
        tree.write()
    except BaseException:
        say(f"defect: the forger failed: {traceback.format_exc()[-1500:]}")
        raise
    watch = Watch(work)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + BYTES, hard))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    try:
        with watch:
            errors = ask(copy, repair=work / "repaired" if rng.random() < 0.1 else None)
        bad = next((error for error in errors if "\n" in error), None)
        fault = f"not one line: {bad}" if bad else None
    except BaseException:  # noqa: BLE001 - whatever it is, it is a defect
        fault = traceback.format_exc()[-1500:]
    shutil.rmtree(work / "repaired", ignore_errors=True)
    for path in work.glob("repaired*"):
        path.unlink()
    if watch.seen:
        fault = f"touched {watch.seen[:3]}"
    say(f"defect: {fault}" if fault else f"ok: {'error' if errors else 'answer'}")
    os._exit(0)


def ask(path: Path, repair: Path | None = None) -> list[str]:
    """All that can be asked of a directory; the messages of the errors."""
    errors = [value for kind, value in probe(path).values() if kind == "error"]
    if (found := check(path)) is not None:
        errors.append(found)
    questions: list[Callable[[], Any]] = [lambda: _flatten(describe(path))]
    if (path / INDEX_MANIFEST).exists():
        questions.append(lambda: _change(path))
        if repair is not None:
            questions.append(lambda: repair_index(path, repair))
    for question in questions:
        try:
            question()
        except SpladeEdgeError as error:
            errors.append(str(error))
    return errors


def _change(path: Path) -> None:
    """Become the writer of an index of a stranger."""
    with IndexUpdater.open(path, threads=1) as updater:
        updater.delete(["d1"], ignore_missing=True)
        if updater.index.manifest.document_encoder is not None:
            updater.add([Document("new", "", "cat dog")])


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    return pages * resource.getpagesize()


class Watch:
    """Which files outside a directory Python is asked to open, or to change. Hooks cannot be taken off again."""

    def __init__(self, root: Path) -> None:
        self.seen: list[str] = []
        self._root = os.path.realpath(root) + os.sep
        known = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), *sys.path, str(Path.cwd())}
        caches = (os.environ.get("NUMBA_CACHE_DIR") or Path("~/.cache").expanduser(), "/proc", "/sys", "/dev")
        self._readable = tuple(os.path.realpath(path) + os.sep for path in (*known, *caches))
        self._on = False
        sys.addaudithook(self._hook)

    def __enter__(self) -> Watch:
        self._on = True
        return self

    def __exit__(self, *_: object) -> None:
        self._on = False

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        if event == "open":
            path, _, flags = arguments
            self._look(event, path, None, reading=not flags & _WRITES)
        elif event in _CHANGES:
            for path, directory in _CHANGES[event]:
                fd = arguments[directory] if 0 <= directory < len(arguments) else None
                self._look(event, arguments[path], fd if isinstance(fd, int) and fd >= 0 else None, reading=False)
        elif event.startswith(_NEVER):
            self.seen.append(event)

    def _look(self, event: str, path: Any, directory: int | None, *, reading: bool) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return  # a descriptor, which was opened before
        path = Path(os.fsdecode(path))
        if not path.is_absolute():
            if directory is None and event == "open":
                return  # below an open directory, of which this event says nothing; a look beside follows
            path = (Path.cwd() if directory is None else Path(f"/proc/self/fd/{directory}")) / path
        self._on = False  # what looks at a path is not looked at
        try:
            full = os.path.realpath(path)
        except ValueError:  # NUL
            return
        finally:
            self._on = True
        inside = (full + os.sep).startswith(self._root)
        if not inside and not (reading and (full + os.sep).startswith(self._readable)) and full != os.devnull:
            self.seen.append(f"{event} {full}")
