"""NumPy until the kernels are worth loading: the same answers, and no Numba in a process that asks little."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from splade_edge.runtime import Document, Passages, Searcher, build_index, use_kernels
from splade_edge.runtime.encoder.native.decoder import KernelDecoder, NumpyDecoder
from splade_edge.runtime.errors import InputError
from splade_edge.runtime.index import Index
from splade_edge.runtime.numba_support import backend

from .. import split, tiny
from ..oracle import numpy_alone, write_index
from ..transformers import write_transformer_artifact

NO_JIT = os.environ.get("NUMBA_DISABLE_JIT") == "1"
# Runs a command line in a fresh process; then tells, on standard error, whether it loaded Numba.
PROGRAM = """
import sys
from splade_edge.runtime import use_kernels
from splade_edge.runtime.cli.main import main
if sys.argv[1] == "kernels":
    use_kernels()
code = main(sys.argv[2:])
print("numba" in sys.modules, file=sys.stderr)
sys.exit(code)
"""
WORDS = tiny.WORDS[3:-2]


@pytest.fixture(scope="module", params=["documents", "passages", "reordered"])
def index(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """200 documents of 1 to 12 words, with an encoder whose decoder runs outside of its graph."""
    place = tmp_path_factory.mktemp(request.param)
    encoder = split.write_split_artifact(place / "encoder")
    rng = np.random.default_rng(0)
    documents = [
        Document(f"d{n}", "", " ".join(rng.choice(WORDS, rng.integers(1, 13))), {"n": n, "odd": bool(n % 2)})
        for n in range(200)
    ]
    passages = Passages(4, 1) if request.param == "passages" else None
    build_index(
        place / "index", documents, encoder, encoder, passages=passages, reorder=request.param == "reordered",
        fields=["n"],
    )  # fmt: skip
    return place / "index"


def command(way: str, *arguments: object) -> tuple[subprocess.CompletedProcess[str], bool]:
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, way, *map(str, arguments)], capture_output=True, encoding="utf-8"
    )
    assert process.returncode == 0, process.stderr
    return process, process.stderr.splitlines()[-1] == "True"


@pytest.mark.parametrize(
    "options",
    [
        ["-k", "3"],
        ["-k", "1000", "--json"],
        ["--explain", "--json"],
        ["--where", "n >= 50 and odd = true", "--json", "--explain"],
        ["--approximate", "1", "--json"],
    ],
    ids=" ".join,
)
def test_a_search_does_not_load_numba_and_answers_the_same(index: Path, options: list[str]) -> None:
    answers = {}
    for way in ("as it pleases", "kernels"):
        process, loaded = command(way, "search", index, f"{WORDS[0]} {WORDS[5]} {WORDS[9]}", *options)
        assert loaded is (way == "kernels")
        answers[way] = process.stdout
    assert answers["as it pleases"] == answers["kernels"]
    assert "d" in answers["kernels"]
    if "--json" in options:
        assert json.loads(answers["kernels"])["hits"]


def test_a_file_of_queries_goes_over_to_the_kernels(index: Path, tmp_path: Path, monkeypatch) -> None:
    with Searcher.open(index, threads=1) as expected, Searcher.open(index, threads=1) as searcher:
        queries = [f"{a} {b}" for a in WORDS for b in WORDS[:3]]
        # Enough for some of them.
        monkeypatch.setattr(backend, "_budget_left", 1e6)
        found = [searcher.search(query, 5) for query in queries]
        assert backend._budget_left < 0
        assert found == [expected.search(query, 5) for query in queries]


def test_the_decoder_changes_once(index: Path, monkeypatch) -> None:
    def kind(searcher: Searcher) -> Any:
        return type(searcher._state.encoder._session._decoder)

    with Searcher.open(index, threads=1) as searcher:
        assert kind(searcher) is type(None)
        with numpy_alone():
            before = searcher.encode_for_search(WORDS[0])
        assert kind(searcher) is NumpyDecoder
        after = searcher.encode_for_search(WORDS[0])
        assert kind(searcher) is (NumpyDecoder if NO_JIT else KernelDecoder)
        monkeypatch.setattr(backend, "_budget_left", 1e12)
        searcher.encode_for_search(WORDS[0])
        assert kind(searcher) is (NumpyDecoder if NO_JIT else KernelDecoder)
        np.testing.assert_array_equal(before.indices, after.indices)
        np.testing.assert_array_equal(before.values, after.values)


def test_the_budget_of_numpy_ends_for_good(monkeypatch) -> None:
    monkeypatch.setattr(backend, "_budget_left", 100.0)
    assert backend.use_numpy(0)
    assert backend.use_numpy(60)
    assert backend.use_numpy(40)
    assert not backend.use_numpy(1)
    assert not backend.use_numpy(0)
    monkeypatch.setattr(backend, "_budget_left", 100.0)
    use_kernels()
    assert not backend.use_numpy(0)


LOADED = """
import sys
from splade_edge.runtime import Searcher, use_kernels
use_kernels()
from splade_edge.runtime.encoder.native import decoder_kernels, transformer_kernels
from splade_edge.runtime.scorer import taat as scan, topk as sorting, block_max as visit
kernels = [visit.visit, scan.scan, sorting.take_best, decoder_kernels.decode, transformer_kernels.encode]
before = [len(kernel.overloads) for kernel in kernels]
with Searcher.open(sys.argv[1], threads=1) as searcher:
    for approximate in (None, 0.5):
        searcher.approximate = approximate
        for query in sys.argv[2:]:
            for k in (1, 1000):
                assert searcher.search(query, k)
                assert searcher.search(query, k, where="n < 150")
    list(searcher.search_many(sys.argv[2:] * 3))
print(before, [len(kernel.overloads) for kernel in kernels])
"""


@pytest.mark.skipif(NO_JIT, reason="there are no kernels")
@pytest.mark.parametrize("own", [False, True], ids=["graph", "own encoder"])
def test_use_kernels_leaves_nothing_to_be_loaded(tmp_path: Path, index: Path, own: bool) -> None:
    """Each of them is there when it returns, and no query needs another."""
    if own:
        encoder = write_transformer_artifact(tmp_path / "encoder")
        documents = [Document(f"d{n}", "", f"{WORDS[n % 8]} {WORDS[n % 5]}", {"n": n}) for n in range(200)]
        index = tmp_path / "index"
        build_index(index, documents, encoder, encoder)
    process = subprocess.run(
        [sys.executable, "-c", LOADED, str(index), WORDS[0], " ".join(WORDS[:8])], capture_output=True, encoding="utf-8"
    )
    assert process.returncode == 0, process.stderr
    before, _, after = process.stdout.strip().partition("] ")
    assert f"{before}]" == after
    assert "0" not in before


@pytest.mark.parametrize(
    ("terms", "weights", "message"),
    [
        ([0, 0], [1, 1], "names a term twice"),
        ([3, 0, 3], [1, 1, 1], "names a term twice"),
        ([0, 5], [1, 1], "term 5 of the query is outside the index's vocabulary of 5"),
        ([-1, 2], [1, 1], "term -1 of the query is outside"),
        ([0, 1], [1, np.nan], "finite and not negative"),
        ([0, 1], [1, np.inf], "finite and not negative"),
        ([0, 1], [-1, 1], "finite and not negative"),
        ([0.5], [1], "must be integers"),
        ([0, 1], [1], "two arrays of one length"),
    ],
)
def test_refuses_the_same_queries(tmp_path: Path, terms: list[Any], weights: list[float], message: str) -> None:
    index = write_index(tmp_path / "index", np.ones((3, 5), np.uint8))
    with pytest.raises(InputError, match=message):
        index.search_vector((terms, weights))
    with numpy_alone(), pytest.raises(InputError, match=message):
        index.search_vector((terms, weights))


def test_damaged_postings_are_found(tmp_path: Path) -> None:
    path = tmp_path / "index"
    write_index(path, np.arange(1, 101, dtype=np.uint8).reshape(20, 5))
    file = path / "segments/00000001/posting_impacts.u8"
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    with numpy_alone(), pytest.raises(Exception, match="do not match their checksum"):
        Index.open(path).search_vector(([0], [1.0]))


def test_an_empty_query_and_an_empty_index(tmp_path: Path) -> None:
    index = write_index(tmp_path / "a", np.ones((3, 5), np.uint8))
    empty = write_index(tmp_path / "b", np.zeros((0, 5), np.uint8))
    with numpy_alone():
        for some, terms in ((index, []), (empty, [0, 4])):
            ordinals, scores = some.search_vector((terms, [1.0] * len(terms)))
            assert ordinals.dtype == np.dtype(np.uint32)
            assert scores.dtype == np.dtype(np.float64)
            assert ordinals.size == scores.size == 0
