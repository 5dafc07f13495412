"""In a process of its own: mutations of one directory, each judged. The parent sees a crash or a hang.

Prints ``seed what`` before each mutation and ``ok`` or ``defect: …`` after it.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import shutil
import traceback
import warnings
from pathlib import Path

from splade_edge.runtime import SpladeEdgeError, SpladeEdgeWarning
from splade_edge.runtime.repair.recovery import repair_index

from .mutations import MANIFESTS, Tree, damage, forge
from .probes import Answer, check, probe


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore", SpladeEdgeWarning)
    copy = args.scratch / "copy"
    shutil.rmtree(args.scratch, ignore_errors=True)
    shutil.copytree(args.directory, copy)
    pristine = probe(copy)
    assert all(kind == "answer" for kind, _ in pristine.values()), pristine
    assert check(copy) is None
    tree = Tree.load(copy)
    gc.collect()
    gc.freeze()  # compilers and engines stay: what is collected below is a mutation's
    for number in range(args.first, args.last):
        rng = random.Random(f"{args.seed} {args.directory.name} {number}")
        forged = rng.random() < 0.3
        done = (forge if forged else damage)(tree, rng)
        print(f"{number} {done}", flush=True)
        try:
            tree.write()
            fault = _judge_forged(copy) if forged else _judge(copy, tree, pristine, repair=rng.random() < 0.2)
        except BaseException:  # noqa: BLE001 - whatever it is, it is a defect
            fault = traceback.format_exc()
        print("ok" if fault is None else "defect: " + fault.replace("\n", " | "), flush=True)
        gc.collect()  # maps and connections go before the files do
        tree.restore()


def _judge(path: Path, tree: Tree, pristine: dict[str, Answer], *, repair: bool) -> str | None:
    """Bit rot: each question has the very same answer, or an error of one line that names a file that was touched."""
    names = [Path(name).name for name in tree.changed]
    if any(data in _manifests(tree) for data in tree.changed.values()):
        names.append(str(path))  # a whole manifest in another's place: its directory is what is wrong
    answers = probe(path)
    for question, (kind, value) in answers.items():
        if kind == "error":
            if (fault := _fault_of(value, names)) is not None:
                return f"{question}: {fault}"
        elif value != pristine[question][1]:
            return f"{question}: another answer in silence"
    found = check(path)
    if found is None:
        return "check finds nothing" if any(not _same_json(tree, name) for name in tree.changed) else None
    if (fault := _fault_of(found, names)) is not None:
        return f"check: {fault}"
    return _judge_repair(path, pristine) if repair and (path / "segments").exists() else None


def _same_json(tree: Tree, name: str) -> bool:
    """Whether a manifest still says the same: other white space is no damage."""
    try:
        return Path(name).name in MANIFESTS and bool(json.loads(tree.get(name)) == json.loads(tree.original[name]))
    except ValueError:
        return False


def _manifests(tree: Tree) -> list[bytes]:
    return [data for name, data in tree.original.items() if Path(name).name in MANIFESTS]


def _fault_of(message: str, names: list[str]) -> str | None:
    if "\n" in message or len(message) > 2000:
        return f"not one line: {message!r}"
    return None if any(name in message for name in names) else f"names none of {names}: {message}"


def _judge_repair(path: Path, pristine: dict[str, Answer]) -> str | None:
    """A repaired index is whole; where nothing was lost, it answers as before."""
    output = path.with_name("repaired")
    rescued = path.with_name("repaired.rescued.jsonl")
    try:
        report = repair_index(path, output)
        if (found := check(output)) is not None:
            return f"the repaired index is damaged: {found}"
        if not report.lost:
            answers = probe(output)
            # A segment that is written anew is without its deleted documents, which these two still count.
            asked = pristine.keys() - {"fields", "terms"}
            wrong = [question for question in sorted(asked) if answers.get(question) != pristine[question]]
            if wrong:
                return f"lost nothing, yet answers differ: {wrong} {answers[wrong[0]]}"
    except SpladeEdgeError as error:
        if "\n" in str(error):
            return f"not one line: {error}"
    finally:
        shutil.rmtree(output, ignore_errors=True)
        rescued.unlink(missing_ok=True)
    return None


def _judge_forged(path: Path) -> str | None:
    """Malice: any answer or error will do, as long as there is one."""
    for kind, value in probe(path).values():
        if kind == "error" and "\n" in value:
            return f"not one line: {value}"
    check(path)
    return None


if __name__ == "__main__":
    main()
