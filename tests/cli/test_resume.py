"""A killed ``splade-edge index`` goes on where it was, and ends with the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from splade_edge.runtime.build import checkpointing

from .. import tiny
from .conftest import Cli

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
SHARD = 16
WORDS = [word for word in tiny.WORDS if not word.startswith("##")]
# Kills itself at the n-th event: a shard is about to be written, is half written, or postings are merged.
DRIVER = """
import os, signal, sys
from splade_edge.runtime import files
from splade_edge.runtime.build import checkpoint_journal, checkpointing
from splade_edge.runtime.cli import index, main

when, count, *arguments = sys.argv[1:]
checkpointing.SHARD_TEXTS = 16
left = int(count)

def killing(function, *, only=lambda *_: True):
    def wrapped(*args, **kwargs):
        global left
        if only(*args):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapped

if when == "writing":
    checkpointing.ShardStore.write = killing(checkpointing.ShardStore.write)
elif when == "half written":
    os.fsync = killing(os.fsync)
elif when == "within a shard":
    checkpointing.SHARD_TEXTS, checkpoint_journal.SECONDS = 1024, 0.0
    checkpoint_journal.Journal.run = killing(checkpoint_journal.Journal.run)
elif when == "merging":
    index.IndexingProgress.show = killing(index.IndexingProgress.show, only=lambda _, __, state: state.merged)
main.run(arguments)
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(5)
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    lines = [
        {"_id": f"d{n}", "title": "", "text": " ".join(rng.choice(WORDS, rng.integers(1, 30))), "year": n % 7}
        for n in range(100)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpointing, "SHARD_TEXTS", SHARD)


def run_killed(when: str, count: int, *arguments: object, stdin: bytes | None = None) -> None:
    command = [sys.executable, "-c", DRIVER, when, str(count), *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith(".splade-edge-"))


@pytest.mark.parametrize("options", [(), ("--passages", 6, "--overlap", 2, "--field", "year", "--reorder")])
@pytest.mark.parametrize(("when", "count"), [("writing", 3), ("half written", 4), ("merging", 1)])
def test_a_killed_run_goes_on(
    cli: Cli, tiny_pair: Path, corpus: Path, tmp_path: Path, when: str, count: int, options: tuple[object, ...]
) -> None:
    arguments = ("index", tiny_pair, corpus, "--threads", 1, *options)
    whole = cli(*arguments, "-o", tmp_path / "whole").stderr
    assert whole == ""
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    run_killed(when, count, *arguments, "-o", out)
    assert not out.exists()
    kept = len(list(partial.glob("*.shard")))
    if when == "merging":
        assert kept == -(-100 // SHARD) if not options else kept > -(-100 // SHARD)  # passages are more texts
    else:
        assert kept == {"writing": 2, "half written": 1}[when]
    resumed = cli(*arguments, "-o", out)
    assert "were encoded before and are taken from" in resumed.stderr
    assert len(resumed.stderr.splitlines()) == 1
    assert files(out) == files(tmp_path / "whole")
    assert names(tmp_path) == ["out", "whole"]


@pytest.mark.parametrize("torn", [False, True])
def test_work_within_a_shard_is_kept(
    cli: Cli, tiny_pair: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    """A slow machine takes long for 1,024 texts: what it has done is in a journal, batch by batch."""
    monkeypatch.setattr(checkpointing, "SHARD_TEXTS", 1024)
    # 43 terms of float32: two dozen tokens a batch
    monkeypatch.setattr("splade_edge.runtime.encoder.encoder.LOGITS_BUDGET_BYTES", 43 * 4 * 64)
    monkeypatch.setattr(checkpointing, "LOGITS_BUDGET_BYTES", 43 * 4 * 64)
    arguments = ("index", tiny_pair, corpus, "--threads", 1)
    cli(*arguments, "-o", tmp_path / "whole")
    driver = DRIVER.replace("left = int", "from splade_edge.runtime.encoder import encoder\n"
        "encoder.LOGITS_BUDGET_BYTES = checkpointing.LOGITS_BUDGET_BYTES = 43 * 4 * 64\nleft = int")  # fmt: skip
    monkeypatch.setitem(globals(), "DRIVER", driver)
    for count in (6, 10):  # the second gets further, since the first's work is not done again
        run_killed("within a shard", count, *arguments, "-o", tmp_path / "out")
    [journal] = (tmp_path / "out.partial").glob("*.journal")
    assert not list((tmp_path / "out.partial").glob("*.shard"))
    if torn:
        journal.write_bytes(journal.read_bytes()[:-5])
    resumed = cli(*arguments, "-o", tmp_path / "out").stderr
    assert "texts were encoded before and are taken from" in resumed
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert names(tmp_path) == ["out", "whole"]


def test_journals(tmp_path: Path) -> None:
    """A record that is not whole is written over; those of another encoder are passed over."""
    from splade_edge.runtime.build.checkpoint_journal import SECONDS, Journal
    from splade_edge.runtime.vectors import SparseVector

    def encode(batch: list[list[int]]) -> list[SparseVector]:
        made.append(batch)
        return [SparseVector(np.array(sorted(set(ids)), np.int32), np.ones(len(set(ids)), np.float32)) for ids in batch]

    made: list[list[list[int]]] = []
    path, batches = tmp_path / "000000.journal", [[[1, 2], [3]], [[4]], [[5, 6]]]

    def go(encoder: bytes, which: list[list[list[int]]]) -> int:
        journal = Journal(path, encoder, lambda: None)
        for batch in which:
            journal._latest -= SECONDS  # as if so long had passed
            got = journal.run(encode, batch)
            assert [v.indices.tolist() for v in got] == [sorted(set(ids)) for ids in batch]
        return journal.reused

    mine, other = b"m" * 32, b"o" * 32
    assert go(mine, batches[:2]) == 0
    assert go(mine, batches) == 3
    assert made == batches
    assert go(other, batches) == 0
    path.write_bytes(path.read_bytes()[:-1])  # half of the last record of the other
    assert go(mine, [*batches, [[7]]]) == 4
    assert go(mine, [[[7]]]) == 1
    assert go(other, batches[:2]) == 3


def test_what_was_kept_is_not_encoded_again(
    cli: Cli, tiny_pair: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_killed("merging", 1, "index", tiny_pair, corpus, "-o", tmp_path / "out", "--threads", 1)

    def refuse(*_: object) -> None:
        raise AssertionError("a text was encoded")

    monkeypatch.setattr(checkpointing.Encoder, "encode", refuse)
    cli("index", tiny_pair, corpus, "-o", tmp_path / "out", "--threads", 1)


def test_the_same_standard_input(cli: Cli, tiny_pair: Path, corpus: Path, tmp_path: Path) -> None:
    arguments = ("index", tiny_pair, "-", "-o", tmp_path / "out", "--threads", 1)
    run_killed("writing", 4, *arguments, stdin=corpus.read_bytes())
    process = cli(*arguments, stdin=corpus.read_text("utf-8"))
    assert "48 texts were encoded before" in process.stderr
    cli("index", tiny_pair, corpus, "-o", tmp_path / "whole", "--threads", 1)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


@pytest.mark.parametrize("batch_invariant", [True, False])
def test_nothing_stale_is_used(cli: Cli, tiny_pair: Path, corpus: Path, tmp_path: Path, batch_invariant: bool) -> None:
    """After a kill the corpus, an option or the encoder changes."""
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    run_killed("writing", 5, "index", tiny_pair, corpus, "-o", out, "--threads", 1)
    kept = tmp_path / "kept"
    partial.rename(kept)
    other = tiny.write_artifact(tmp_path / "other", seed=1, batch_invariant=batch_invariant)
    lines = corpus.read_text("utf-8").splitlines(keepends=True)
    changed = tmp_path / "changed.jsonl"
    changed.write_text("".join([*lines[:20], lines[20].replace('"text": "', '"text": "dog '), *lines[21:]]), "utf-8")
    inserted = tmp_path / "inserted.jsonl"
    inserted.write_text("".join(['{"_id": "new", "text": "cat"}\n', *lines]), "utf-8")
    cases: list[tuple[Path, Path, tuple[object, ...], int, str]] = [
        (tiny_pair, changed, (), 48, "000001.shard is of other texts"),
        (tiny_pair, inserted, (), 0, "000000.shard is of other texts"),
        (tiny_pair, corpus, ("--passages", 6), 0, "000000.shard is of other texts"),
        (tiny_pair, corpus, ("--threads", 2), 0, "is of another encoder, engine, release or number of --threads"),
        (other, corpus, (), 0, "is of another encoder, engine, release or number of --threads"),
        (tiny_pair, corpus, ("--memory", "8M", "--field", "year"), 64, ""),
    ]
    for number, (artifact, documents, options, reused, message) in enumerate(cases):
        arguments = ("index", artifact, documents, "--threads", 1, *options)
        cli(*arguments, "-o", tmp_path / f"whole{number}")
        shutil.copytree(kept, partial)
        process = cli(*arguments, "-o", out)
        assert message in process.stderr
        assert (f"{reused} texts were encoded before" in process.stderr) == bool(reused), process.stderr
        assert len(process.stderr.splitlines()) == bool(reused) + bool(message)
        assert files(out) == files(tmp_path / f"whole{number}")
        assert not partial.exists()
        shutil.rmtree(out)


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "swapped", "missing", "a directory"])
def test_a_damaged_shard_is_made_again(cli: Cli, tiny_pair: Path, corpus: Path, tmp_path: Path, damage: str) -> None:
    arguments = ("index", tiny_pair, corpus, "--threads", 1)
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    run_killed("merging", 1, *arguments, "-o", out)
    shard, neighbour = partial / "000002.shard", partial / "000003.shard"
    data = shard.read_bytes()
    if damage == "flipped":
        shard.write_bytes(data[:200] + bytes([data[200] ^ 4]) + data[201:])
    elif damage in ("cut", "empty"):
        shard.write_bytes(data[: -7 if damage == "cut" else 0])
    elif damage == "swapped":
        shard.write_bytes(neighbour.read_bytes())
        neighbour.write_bytes(data)
    elif damage == "missing":
        shard.unlink()
    else:
        shard.unlink()
        shard.mkdir()
        process = cli(*arguments, "-o", out, check=1)
        assert f"cannot write {shard}" in process.stderr.splitlines()[-1]
        shard.rmdir()
    process = cli(*arguments, "-o", out)
    lines = process.stderr.splitlines()
    if damage in ("flipped", "cut", "empty"):
        assert lines[0].endswith(f"{shard} is damaged and is made again")
    cli(*arguments, "-o", tmp_path / "whole")
    assert files(out) == files(tmp_path / "whole")


def test_an_error_keeps_what_was_encoded(cli: Cli, tiny_pair: Path, corpus: Path, tmp_path: Path) -> None:
    lines = corpus.read_text("utf-8").splitlines(keepends=True)
    path, out = tmp_path / "c.jsonl", tmp_path / "out"
    path.write_text("".join([*lines[:90], "not json\n", *lines[90:]]), "utf-8")
    process = cli("index", tiny_pair, path, "-o", out, "--threads", 1, check=2)
    note, error = process.stderr.splitlines()
    assert note == (
        f"splade-edge: note: what was encoded is kept in {tmp_path}/out.partial; the same command goes on from there"
    )
    assert f"{path}:91: not a line of JSON" in error
    process = cli("index", tiny_pair, path, "-o", out, "--threads", 1, "--on-error", "skip")
    assert "texts were encoded before" in process.stderr
    assert names(tmp_path) == ["c.jsonl", "out"]


def test_no_resume(cli: Cli, tiny_pair: Path, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial/mine").touch()
    arguments = ("index", tiny_pair, corpus, "-o", tmp_path / "out", "--threads", 1)
    process = cli(*arguments, check=2)
    assert "is where encoded vectors are kept, and it is something else; move it away" in process.stderr
    process = cli(*arguments, "--no-resume")
    assert process.stderr == ""
    assert names(tmp_path / "out.partial") == ["mine"]
    cli(*arguments[:-4], "-o", tmp_path / "other", "--threads", 1)
    assert files(tmp_path / "out") == files(tmp_path / "other")


def test_one_process_at_a_time(cli: Cli, tiny_pair: Path, corpus: Path, tmp_path: Path) -> None:
    run_killed("writing", 3, "index", tiny_pair, corpus, "-o", tmp_path / "out", "--threads", 1)
    encoder = checkpointing.Encoder.open(tiny_pair, "document", threads=1)
    store = checkpointing.ShardStore(tmp_path / "out.partial", encoder)
    process = cli("index", tiny_pair, corpus, "-o", tmp_path / "out", "--threads", 1, check=2)
    assert "is in use by another process" in process.stderr
    store.close(keep=True)
    cli("index", tiny_pair, corpus, "-o", tmp_path / "out", "--threads", 1)


def test_files_of_others_stay(cli: Cli, tiny_pair: Path, corpus: Path, tmp_path: Path) -> None:
    run_killed("writing", 3, "index", tiny_pair, corpus, "-o", tmp_path / "out", "--threads", 1)
    (tmp_path / "out.partial/notes.txt").write_text("mine", "utf-8")
    cli("index", tiny_pair, corpus, "-o", tmp_path / "out", "--threads", 1)
    assert names(tmp_path / "out.partial") == ["notes.txt"]
