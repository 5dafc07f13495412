"""``splade-edge bench`` on the tiny encoder: what is measured is what was asked for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from splade_edge.runtime.bench import summary, texts
from splade_edge.runtime.bench.process import Worker
from splade_edge.runtime.bench.summary import Latency
from splade_edge.runtime.encoder.tokenizer import TextTokenizer
from splade_edge.runtime.errors import ArtifactError, InputError, SpladeEdgeError

from .. import tiny
from .conftest import QUERIES, Cli

QUICK = ("--seconds", "0.02")


def check_latency(latency: dict[str, float]) -> None:
    assert latency["calls"] >= 1
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["longest"]
    assert 0 < latency["mean"] <= latency["longest"]


def test_an_index(cli: Cli, index: Path, queries: Path) -> None:
    about = json.loads(
        cli(
            "bench",
            index,
            "--queries",
            queries,
            "-k",
            "2,1",
            "--clients",
            "1,3",
            "--approximate",
            "0.5,0.9",
            *QUICK,
            "--json",
        ).stdout
    )
    assert (about["kind"], about["queries"]) == ("index", f"{len(QUERIES)} queries of yours")
    found = about["index"]
    assert found["documents"] == 4
    for part in ("score", "read", "whole"):
        assert found[part].keys() == {"1", "2"}
        for latency in found[part].values():
            check_latency(latency)
            assert latency["calls"] % len(QUERIES) == 0
    for latency in found["encode"].values():
        check_latency(latency)
    assert found["whole"]["2"]["mean"] > found["score"]["2"]["mean"]
    assert found["queries_a_second"].keys() == {"1", "3"}
    assert found["approximate"].keys() == {"0.9", "0.5"}
    for share in found["approximate"].values():
        assert 0 < share["recall"] <= 1
        assert min(share["exact_ms"], share["approximate_ms"]) > 0
    assert all(rate > 0 for rate in found["queries_a_second"].values())
    assert about["machine"]["cpus"] >= 1
    if sys.platform == "linux":
        assert 10 < found["opened_mb"] <= found["peak_mb"]
        assert about["machine"]["cpu"]


def test_an_index_without_queries(cli: Cli, index: Path) -> None:
    process = cli("bench", index, "-k", 3, "--clients", 1, *QUICK)
    assert process.stderr == ""
    lines = process.stdout.splitlines()
    assert lines[0].startswith("4 documents; queries of ")
    assert any(line.startswith("encoding, ") for line in lines)
    assert any(line.startswith("scoring, k = 3 ") for line in lines)
    assert any(line.startswith("resident, at most ") for line in lines)
    assert "4 queries sampled from the documents (see --queries)" in process.stdout
    assert " cores" in process.stdout


@pytest.mark.parametrize(
    "stdin",
    ["cat dog\nthe rain\n", "1\tcat dog\n2\tthe rain\n", "qid\tquery\n1\tcat dog\n2\tthe rain\n",
     '{"_id": "1", "text": "cat dog"}\n{"text": "the rain"}\n'],
)  # fmt: skip
def test_queries_from_a_pipe(cli: Cli, index: Path, stdin: str) -> None:
    about = json.loads(cli("bench", index, "--queries", "-", "--clients", 1, *QUICK, "--json", stdin=stdin).stdout)
    assert about["queries"] == "2 queries of yours"
    assert about["index"]["tokens"] == 4.0  # both have two words and two special tokens
    assert about["index"]["encode"].keys() == {"1–8 tokens"}


def test_a_pair(cli: Cli, tiny_pair: Path, corpus: Path) -> None:
    about = json.loads(cli("bench", tiny_pair, "--documents", corpus, "--limit", 3, *QUICK, "--json").stdout)
    query, document = about["graphs"]
    assert (query["side"], query["backend"], query["precision"]) == ("query", "onnx", "fp32")
    assert query["latency"].keys() == {"8 tokens", "16 tokens"}  # it reads no 32
    assert document["side"] == "document"
    assert {"9–16 tokens"} <= document["latency"].keys()
    for graph in about["graphs"]:
        for latency in graph["latency"].values():
            check_latency(latency)
        assert graph["texts_a_second"] > 0
        assert graph["tokens_a_second"] > graph["texts_a_second"]
        assert graph["missing"] is None
        assert graph["load_seconds"] > 0
    assert "document encoder: 3 texts of yours" in about["texts"]


@pytest.mark.skipif(not tiny.HAS_OPENVINO, reason="needs openvino")
def test_an_artifact_with_two_engines(
    cli: Cli, tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = cli("bench", tiny_artifact, "--lengths", "4,9", *QUICK)
    rows = [line.split("  ")[0] for line in process.stdout.splitlines()]
    for side in ("query", "document"):
        for backend in ("onnx", "openvino"):
            assert f"{side}, {backend} fp32, 4 tokens" in rows
            assert f"{side}, {backend} fp32, 9 tokens" in rows
            assert f"{side}, {backend} fp32" in rows
    # without the engine the others are measured all the same
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino/__init__.py").write_text("raise ModuleNotFoundError('no', name='openvino')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = cli("bench", tiny_artifact, "--lengths", 4, *QUICK)
    assert "query, onnx fp32, 4 tokens" in process.stdout
    assert "openvino fp32, 4 tokens" not in process.stdout
    assert "splade-edge: warning: query, openvino fp32 is left out: " in process.stderr
    assert "pip install 'splade-edge[openvino]'" in process.stderr
    process = cli("bench", tiny_artifact, "--backend", "openvino", *QUICK, check=2)
    assert process.stdout == ""
    assert "pip install 'splade-edge[openvino]'" in process.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "none is not a directory; make one with splade-edge export or splade-edge index"),
        (["."], ". is not an artifact, a pair or an index"),
        (["{index}", "--documents", "x"], "--documents is for artifacts and pairs; leave it out"),
        (["{index}", "--lengths", "3"], "--lengths is for artifacts and pairs"),
        (["{pair}", "-k", "3"], "-k is for an index; leave it out"),
        (["{pair}", "--query-encoder", "x"], "--query-encoder is for an index"),
        (["{pair}", "--queries", "-", "--documents", "-"], "standard input (-) is named twice"),
        (["{pair}/query", "--documents", "x"], "has no document encoder; leave out --documents"),
        (["{pair}", "--lengths", "900"], "reads 3 to 16 tokens; give such --lengths"),
        (["{pair}", "--backend", "openvino"], "has no openvino graph (it has: onnx fp32)"),
        (["{pair}", "--queries", "none"], "none does not exist"),
        (["{index}", "--queries", "-"], "<stdin> has no queries"),
        (["{index}", "--seconds", "0"], "'0' is not a number of seconds above 0"),
        (["{index}", "--clients", "1,x"], "'x' is not a whole number of at least 1"),
        (["{index}", "--query-encoder", "{pair}/document"], "holds a document encoder, not a query encoder"),
    ],
)  # fmt: skip
def test_errors(cli: Cli, index: Path, tiny_pair: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    filled = [argument.format(index=index, pair=tiny_pair) for argument in arguments]
    process = cli("bench", *filled, cwd=tmp_path, check=2)
    assert message in process.stderr
    assert len(process.stderr.splitlines()) == 1
    assert process.stdout == ""


def test_an_index_that_stores_no_texts(cli: Cli, tiny_pair: Path, tmp_path: Path) -> None:
    cli("index", tiny_pair, "-", "-o", tmp_path / "index", stdin='{"_id": "1", "text": ""}\n')
    process = cli("bench", tmp_path / "index", check=2)
    assert "stores no texts to sample queries from; give some with --queries" in process.stderr


def test_latency() -> None:
    latency = Latency.of([i / 1000 for i in range(1, 101)])
    assert latency == Latency(100, pytest.approx(50.5), 50.0, 90.0, 99.0, 100.0)
    assert Latency.of([0.002]) == Latency(1, 2.0, 2.0, 2.0, 2.0, 2.0)


def test_ranges_of_length() -> None:
    assert [summary.length_range(n) for n in (1, 8, 9, 16, 17, 1024, 1025)] == [
        "1–8", "1–8", "9–16", "9–16", "17–32", "513–1024", "over 1024",
    ]  # fmt: skip


def test_made_texts_have_the_length_that_was_asked_for(tiny_artifact: Path) -> None:
    tokenizer = TextTokenizer(tiny_artifact / "tokenizer.json", tiny.MAX_LENGTH)
    for tokens in (3, 8, 16):
        made = texts.made_texts(tokenizer, len(tiny.VOCABULARY), tokens, 5)
        assert {len(tokenizer.encode(text).ids) for text in made} == {tokens}
        assert not any(tokenizer.encode(text).truncated for text in made)
        assert made == texts.made_texts(tokenizer, len(tiny.VOCABULARY), tokens, 5)


def test_a_process_that_dies_is_one_line() -> None:
    with Worker("the encoder") as worker:
        assert worker.ask("memory").keys() == {"now", "most"}
        worker._process.kill()
        with pytest.raises(SpladeEdgeError, match="the process that measured the encoder ended with -9"):
            worker.ask("memory")


def test_what_the_process_refuses(tmp_path: Path) -> None:
    with Worker("x") as worker, pytest.raises(InputError, match="is not a directory; make an index first"):
        worker.ask(
            "open_index", path=str(tmp_path / "none"), query_encoder=None, backend=None, precision=None, threads=1
        )
    assert ArtifactError.exit_code == InputError.exit_code


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_an_interrupt_ends_every_process(index: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "splade_edge.runtime.cli.main", "bench", index, "--seconds", "600"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (children := workers_of(process.pid)):
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "splade-edge: error: interrupted\n")
    # One that had only begun was not the command's to wait for yet; it ends by the same signal.
    end = time.monotonic() + 60
    while any(is_alive(child) for child in children) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(is_alive(child) for child in children)


def workers_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"bench.worker" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:  # it ended meanwhile
            continue
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_percentiles_are_times_that_were_measured() -> None:
    times = np.random.default_rng(0).random(37).tolist()
    latency = Latency.of(times)
    for value in (latency.p50, latency.p90, latency.p99, latency.longest):
        assert min(abs(value - 1e3 * t) for t in times) < 1e-9
