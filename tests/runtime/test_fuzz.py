"""Some hundred of the mutations of ``make fuzz``, and that the judge sees what is wrong."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest

from tests.fuzz import mutations, worker
from tests.fuzz.__main__ import run_cache, run_one, write_directories
from tests.fuzz.mutations import Tree
from tests.fuzz.probes import probe

MUTATIONS = 50
NAMES = ["plain", "reordered", "passages", "changed", "pair", "table", "split"]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {path.name: path for path in write_directories(tmp_path_factory.mktemp("fuzz") / "originals")}


@pytest.mark.parametrize("name", NAMES)
def test_an_error_or_the_very_same_answers(directories: dict[str, Path], tmp_path: Path, name: str) -> None:
    assert run_one(directories[name], tmp_path / "work", 0, MUTATIONS, 7, {}) == []


def test_a_damaged_cache_of_kernels_is_made_again(tmp_path: Path) -> None:
    """Whatever a power cut leaves: the same results, one warning at most, and nothing to say at the next start."""
    assert run_cache(tmp_path, 40, 7) == []


def test_the_judge(directories: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where damage is not found, that is a defect."""
    copy = tmp_path / "copy"
    shutil.copytree(directories["plain"], copy)
    pristine, tree = probe(copy), Tree.load(copy)
    name = "segments/00000001/posting_impacts.u8"
    tree.set(name, bytes(255 - b for b in tree.get(name)))
    tree.write()
    assert worker._judge(copy, tree, pristine, repair=True) is None
    tree.changed = {"splade_edge_index.json": b""}
    assert "names none of" in str(worker._judge(copy, tree, pristine, repair=False))
    monkeypatch.setattr("splade_edge.runtime.index.segment.checksum", lambda *arrays: FakeSum())
    assert "another answer in silence" in str(worker._judge(copy, tree, pristine, repair=False))


class FakeSum:
    """Equal to every checksum."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("vocab_size", -1, "vocab_size"),
        ("vocab_size", 2**64, "is damaged"),
        ("max_length", 2**64, "is damaged"),
        ("dropped_terms", [-1], "dropped_terms"),
        ("dropped_terms", [10**6], "drops a term beyond its 43"),
    ],
)
def test_forged_values(directories: dict[str, Path], tmp_path: Path, key: str, value: object, message: str) -> None:
    """Found by the fuzzer: a manifest whose digest is right, and whose values are not."""
    tree = Tree.load(Path(shutil.copytree(directories["pair"] / "query", tmp_path / "copy")))
    body = json.loads(tree.get("splade_edge.json"))
    tree.set("splade_edge.json", mutations._manifest({**body, key: value}))
    tree.write()
    [(kind, error)] = probe(tree.root).values()
    assert kind == "error"
    assert message in error


def test_forged_fields(directories: dict[str, Path], tmp_path: Path) -> None:
    """Values of other types than we write, and a schema that SQLite quotes in several lines."""
    name = "segments/00000001/fields.sqlite"
    for number, sql in enumerate(
        [
            "UPDATE names SET numbers = 'many'",
            "UPDATE field_values SET ordinals = 7",
            "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, 'first', x'01') WHERE "
            "name = 'field_values'",
        ]
    ):
        tree = Tree.load(Path(shutil.copytree(directories["plain"], tmp_path / str(number))))
        with sqlite3.connect(tree.root / name) as connection:
            connection.executescript(sql)
        connection.close()
        tree.set(name, (tree.root / name).read_bytes())
        mutations._mend_manifests(tree)
        tree.write()
        errors = [value for kind, value in probe(tree.root).values() if kind == "error"]
        assert errors
        assert all(name in error and "\n" not in error for error in errors)


@pytest.mark.parametrize(("code", "defect"), [
    ("import os; print('3 flip x', flush=True); os.abort()", "3 flip x: ended with -6"),
    ("print('3 flip x', flush=True); import time; time.sleep(60)", "3 flip x: no answer in 1 s"),
    ("print('3 flip x'); print('defect: wrong')", "3 flip x: wrong"),
])  # fmt: skip
def test_what_becomes_of_a_worker_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, defect: str
) -> None:
    from tests.fuzz import __main__ as fuzz

    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}"\n', "utf-8")
    python.chmod(0o700)
    monkeypatch.setattr(fuzz, "SECONDS", 1.0)
    monkeypatch.setattr(sys, "executable", str(python))
    assert run_one(tmp_path / "x", tmp_path / "work", 3, 4, 0, {}) == [f"x: {defect}"]
