"""add, update, delete and compact on the command line."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from splade_edge.runtime import IndexUpdater
from splade_edge.runtime.index.layout import VERSION

from .conftest import DOCUMENTS, Cli

NEW: list[dict[str, Any]] = [
    {"_id": "rain", "title": "", "text": "rain and rain and a cloud", "year": 2021},
    {"_id": "snow", "title": "", "text": "snow in the winter", "year": 2022},
]


def lines(documents: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(document) + "\n" for document in documents)


@pytest.fixture
def living(index: Path, tmp_path: Path) -> Path:
    """A copy to write into; it carries no document encoder."""
    return Path(shutil.copytree(index, tmp_path / "living"))


def ids(cli: Cli, path: Path, query: str, *options: object) -> list[str]:
    return [hit["id"] for hit in json.loads(cli("search", path, query, "--json", *options).stdout)["hits"]]


def test_a_life(cli: Cli, living: Path, tiny_pair: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "new.jsonl"
    corpus.write_text(lines(NEW), "utf-8")
    out = cli("add", living, corpus, "--artifact", tiny_pair, "--threads", 1).stdout
    summary = dict(line.split()[:2] for line in out.splitlines())
    assert {**summary, "index": "", "size": "", "time": ""} == {
        "index": "", "added": "2", "documents": "6", "segments": "2", "generation": "2", "size": "", "time": "",
    }  # fmt: skip
    assert ids(cli, living, "rain cloud")[0] == "rain"
    assert set(ids(cli, living, "rain winter snow", "--where", "year >= 2021")) == {"rain", "snow"}
    changed = [{"_id": "cats", "text": "supersonic violin"}, {"_id": "fresh", "text": "salt"}]
    done = json.loads(cli("update", living, "-", "--artifact", tiny_pair, "--json", stdin=lines(changed)).stdout)
    assert (done["added"], done["updated"], done["documents"], done["generation"]) == (1, 1, 7, 3)
    assert "cats" in ids(cli, living, "supersonic violin")[:3]
    done = json.loads(cli("delete", living, "cats", "rain", "--json").stdout)
    assert (done["deleted"], done["documents"], done["generation"]) == (2, 5, 4)
    assert "cats" not in ids(cli, living, "supersonic violin")
    about = json.loads(cli("info", living, "--json").stdout)
    assert (about["documents"], about["generation"], about["version"]) == (5, 4, VERSION)
    assert about["deleted"] > 0
    assert "deleted ones, in " in cli("verify", living).stdout
    done = json.loads(cli("compact", living, "--json").stdout)
    assert (done["segments"], done["documents"], done["generation"]) == (1, 5, 5)
    assert json.loads(cli("info", living, "--json").stdout)["deleted"] == 0
    assert "merged" not in cli("compact", living).stdout
    cli("verify", living)
    assert cli("bench", living, "--seconds", "0.1", "-k", "1", check=None).returncode == 0


def test_delete_loads_neither_numba_nor_an_encoder(living: Path) -> None:
    code = (
        "import sys\n"
        "from splade_edge.runtime.cli.main import main\n"
        "assert main(['delete', sys.argv[1], 'cats']) == 0\n"
        "heavy = ('numba', 'llvmlite', 'onnxruntime', 'openvino', 'tokenizers', 'splade_edge.runtime.encoder')\n"
        "sys.exit([name for name in heavy if name in sys.modules] or 0)\n"
    )
    process = subprocess.run([sys.executable, "-c", code, living], capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, "")
    assert "deleted" in process.stdout


def test_ids_from_a_file(cli: Cli, living: Path, tmp_path: Path) -> None:
    (tmp_path / "gone.txt").write_text("cats\n\nnobody\nwings\ncats\n", "utf-8")
    error = cli("delete", living, "--ids", tmp_path / "gone.txt", check=2).stderr
    assert error == "splade-edge: error: no document has the id 'nobody'; nothing was deleted\n"
    assert json.loads(cli("info", living, "--json").stdout)["documents"] == len(DOCUMENTS)
    process = cli("delete", living, "--ids", "-", "--on-error", "skip", stdin="cats\nnobody\nwings\n")
    assert process.stderr == "splade-edge: skipped: 1 ids that no document has\n"
    assert json.loads(cli("info", living, "--json").stdout)["documents"] == len(DOCUMENTS) - 2


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (("delete", "INDEX"), "", "give either IDs or --ids FILE"),
        (("delete", "INDEX", "cats", "--ids", "-"), "", "give either IDs or --ids FILE"),
        (("delete", "INDEX", "\udcff"), "", "no document has the id"),  # a byte that is not UTF-8
        (("delete", "INDEX", "--ids", "none.txt"), "", "none.txt does not exist"),
        (("add", "INDEX", "-"), lines(NEW), "carries no document encoder; name the artifact it was made with"),
        (("add", "INDEX", "-", "-"), "", "standard input (-) is named twice"),
        (("add", "INDEX", "corpus.pdf"), "", "cannot tell its format"),
        (("add", "INDEX", "-", "--artifact", "PAIR"), lines(DOCUMENTS[:1]), "the id 'cats' was used before; update"),
        (("add", "INDEX", "-", "--artifact", "PAIR/query"), lines(NEW), "holds a query encoder"),
        (("compact", "PAIR"), "", "is a pair of encoders, not an index"),
        (("compact", "none"), "", "none is not a directory; make an index first"),
    ],
)  # fmt: skip
def test_errors(cli: Cli, living: Path, tiny_pair: Path, arguments: tuple[str, ...], stdin: str, message: str) -> None:
    given = [a.replace("INDEX", str(living)).replace("PAIR", str(tiny_pair)) for a in arguments]
    process = cli(*given, stdin=stdin, check=2)
    assert message in process.stderr
    assert len(process.stderr.splitlines()) == 1
    assert json.loads(cli("info", living, "--json").stdout)["generation"] == 1


def test_an_id_in_use_is_skipped(cli: Cli, living: Path, tiny_pair: Path) -> None:
    process = cli("add", living, "-", "--artifact", tiny_pair, "--on-error", "skip", stdin=lines([DOCUMENTS[0], *NEW]))
    assert "splade-edge: skipped: <stdin>:1: the id 'cats' was used before" in process.stderr
    assert "skipped" in process.stdout


def test_another_writer(cli: Cli, living: Path) -> None:
    with IndexUpdater.open(living):
        process = cli("delete", living, "cats", check=1)
    assert process.stderr == (
        f"splade-edge: error: {living} is being changed by another process (process {os.getpid()}); "
        "wait until it has ended\n"
    )


def test_add_finds_the_bundled_pair(
    cli: Cli, tiny_pair: Path, index: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As index does, where the index was made with it."""
    from splade_edge.runtime.build import bundled

    from tests import tiny

    mine = Path(shutil.copytree(index, tmp_path / "index"))
    (tmp_path / "new.jsonl").write_text('{"_id": "new", "text": "a bird"}\n', "utf-8")
    refusal = "carries no document encoder; name the artifact it was made with (--artifact), of tiny"
    assert refusal in cli("add", mine, tmp_path / "new.jsonl", check=2).stderr
    other = tiny.write_artifact(tmp_path / "other", seed=3)
    for place in (other, tmp_path / "none"):
        monkeypatch.setattr(bundled, "_DIRECTORY", place)
        assert refusal in cli("add", mine, tmp_path / "new.jsonl", check=2).stderr
    monkeypatch.setattr(bundled, "_DIRECTORY", tiny_pair)
    assert "added" in cli("add", mine, tmp_path / "new.jsonl", "--threads", 1).stdout


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.EACCES, "no permission to write there"), (errno.EROFS, "the file system is read-only")],
)
def test_an_index_that_may_not_be_changed(
    cli: Cli, index: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    """To choose another output is no advice for an index."""
    opened = os.open

    def refuse(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & os.O_RDWR:
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", refuse)
    process = cli("delete", index, "cats", check=1)
    assert process.stderr.endswith(f"{reason}; let this user write to the index, or change a copy of it\n")
