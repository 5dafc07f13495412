"""Documents to an index directory and back to answers, with the tiny encoder; and what interrupts it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from splade_edge.runtime import Document, Encoder, Index, Searcher, build_index, open_artifact
from splade_edge.runtime.build.corpus import BadLines, Record
from splade_edge.runtime.build.indexing import Progress, join_title
from splade_edge.runtime.build.passages import Passages
from splade_edge.runtime.errors import (
    ArtifactError,
    CorpusError,
    InputError,
    IntegrityError,
    SpladeEdgeError,
    StorageError,
)

from tests import tiny
from tests.oracle import quantize, top_k

WORDS = [w for w in tiny.WORDS if not w.startswith("##")]


def documents(n: int, seed: int = 0, length: int = 8) -> list[Document]:
    rng = np.random.default_rng(seed)
    return [
        Document(
            f"d{i}", " ".join(rng.choice(WORDS, 2)), " ".join(rng.choice(WORDS, rng.integers(0, length))), {"n": i}
        )
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def encoder(tiny_pair):
    return Encoder.open(tiny_pair, "document", threads=1)


@pytest.fixture(scope="module")
def query_artifact(tiny_pair):
    return open_artifact(tiny_pair, "query")


def dense(encoder: Encoder, texts: list[str]) -> np.ndarray:
    rows = np.zeros((len(texts), encoder.vocab_size), np.float32)
    for row, encoded in zip(rows, encoder.encode(texts), strict=True):
        if encoded.known:
            row[encoded.vector.indices] = encoded.vector.values
    return rows


class TestEndToEnd:
    def test_answers_are_those_of_the_vectors(self, tmp_path, encoder, query_artifact):
        corpus = documents(400)
        manifest = build_index(tmp_path / "index", corpus, encoder, query_artifact)
        texts = [f"{d.title} {d.text}" if d.text else d.title for d in corpus]
        impacts = quantize(dense(encoder, texts), manifest.scale)
        searcher = Searcher.open(tmp_path / "index", threads=2)
        queries = [" ".join(np.random.default_rng(i).choice(WORDS, 4)) for i in range(20)]
        for query, many in zip(queries, searcher.search_many(queries, 7), strict=True):
            vector = searcher.encode_query(query)
            expected, scores = top_k(impacts, vector.indices, vector.values, 7, manifest.scale)
            hits = searcher.search(query, 7)
            assert [hit.id for hit in hits] == [f"d{i}" for i in expected]
            assert [hit.score for hit in hits] == scores
            assert hits == many
            assert [hit.metadata["n"] for hit in hits] == expected

    def test_encoders_given_as_directories(self, tmp_path, tiny_pair, tiny_artifact, encoder, query_artifact):
        build_index(tmp_path / "opened", documents(20), encoder, query_artifact)
        build_index(tmp_path / "pair", documents(20), tiny_pair)
        build_index(tmp_path / "two", documents(20), tiny_pair / "document", tiny_pair / "query")
        manifests = [Index.open(tmp_path / name).manifest for name in ("opened", "pair", "two")]
        assert manifests[0] == manifests[1] == manifests[2]
        build_index(tmp_path / "both", documents(20), Encoder.open(tiny_artifact))
        assert Searcher.open(tmp_path / "both").search("cat dog")
        with pytest.raises(ArtifactError, match="holds a document encoder; the index carries a query encoder"):
            build_index(tmp_path / "alone", documents(20), encoder)

    def test_contributions_add_up(self, tmp_path, encoder, query_artifact):
        build_index(tmp_path / "index", documents(50), encoder, query_artifact)
        searcher = Searcher.open(tmp_path / "index", threads=1)
        for hit in searcher.search("cat dog winter bread", 10):
            explanation = searcher.explain("cat dog winter bread", hit)
            assert sum(c.score for c in explanation.contributions) == pytest.approx(hit.score, rel=1e-12)
            weights = dict(explanation.query)
            assert all(c.weight == weights[c.term] for c in explanation.contributions)

    def test_passages(self, tmp_path, encoder, query_artifact):
        text = " ".join(["flour"] * 30 + ["piano violin"] + ["snow"] * 30)
        corpus = [Document("long", "the cat", text), Document("short", "", "piano"), Document("empty", "", "")]
        manifest = build_index(
            tmp_path / "index", corpus, encoder, query_artifact, passages=Passages(8, 2), with_document_encoder=True
        )
        assert manifest.segments[0].documents == 3
        assert manifest.segments[0].units > 9
        assert manifest.text is not None
        assert manifest.text.passages is not None
        assert manifest.statistics.empty == 1
        hits = Searcher.open(tmp_path / "index").search("piano violin", 10)
        assert {hit.id for hit in hits} == {"long", "short"}
        long = next(hit for hit in hits if hit.id == "long")
        assert long.passage is not None
        assert "piano violin" in long.passage
        assert len(long.passage.split()) <= 8
        assert long.text == text
        again = Encoder.open(tmp_path / "index" / "encoder" / "document", "document")
        assert again.variant == encoder.variant

    def test_truncation_is_counted(self, tmp_path, encoder, query_artifact):
        corpus = [Document("a", "", "cat " * 100), Document("b", "", "dog"), Document("c", "dog " * 50, "cat")]
        manifest = build_index(tmp_path / "index", corpus, encoder, query_artifact)
        assert manifest.statistics.truncated == 2

    def test_progress_counts_documents_in_order(self, tmp_path, encoder, query_artifact):
        seen: list[Progress] = []
        build_index(tmp_path / "index", iter(documents(600)), encoder, query_artifact, progress=seen.append)
        assert [p.documents for p in seen] == sorted(p.documents for p in seen)
        assert seen[-1] == Progress(600, 600, 1.0)

    def test_title_and_text(self):
        assert [join_title(*pair) for pair in (("a", "b"), ("a", ""), ("", "b"), ("", ""))] == ["a b", "a", "b", ""]


class TestReplacement:
    """An open searcher keeps its snapshot while --force puts another index in its place."""

    def corpora(self) -> tuple[list[Document], list[Document]]:
        old = [Document(f"old{i}", "", f"cat {word}") for i, word in enumerate(WORDS)]
        return old, [Document(f"new{i}", "", "cat cat") for i in range(3)]

    @pytest.mark.parametrize("searched_before", [True, False])
    def test_a_searcher_keeps_its_documents(self, tmp_path, tiny_pair, searched_before):
        old, new = self.corpora()
        build_index(tmp_path / "i", old, tiny_pair)
        searcher = Searcher.open(tmp_path / "i", threads=2)
        if searched_before:
            searcher.search("cat")
        build_index(tmp_path / "i", new, tiny_pair, force=True)
        answers = [searcher.search("cat", 5), *searcher.search_many(["cat"] * 20, 5)]
        assert all(hit.id.startswith("old") and hit.text.startswith("cat") for hits in answers for hit in hits)
        with Searcher.open(tmp_path / "i") as again:
            assert {hit.id for hit in again.search("cat", 5)} == {"new0", "new1", "new2"}

    def test_opening_while_it_is_replaced(self, tmp_path, tiny_pair):
        """Every open gets one whole index, whichever it is."""
        old, new = self.corpora()
        build_index(tmp_path / "i", old, tiny_pair)
        encoder = Encoder.open(tiny_pair, "query", threads=1)
        stop = threading.Event()
        problems: list[object] = []

        def read() -> None:
            while not stop.is_set():
                try:
                    with Index.open(tmp_path / "i") as index:
                        hits = Searcher(index, encoder).search("cat", 3)
                        if len(index) != (len(new) if hits[0].id.startswith("new") else len(old)):
                            problems.append(hits)
                except SpladeEdgeError as error:
                    problems.append(error)

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for i in range(12):
            build_index(tmp_path / "i", (new, old)[i % 2], tiny_pair, force=True)
        stop.set()
        for reader in readers:
            reader.join()
        assert problems == []

    def test_an_index_does_not_replace_an_artifact(self, tmp_path, tiny_pair):
        pair = Path(shutil.copytree(tiny_pair, tmp_path / "pair"))
        with pytest.raises(InputError, match="so it is not replaced"):
            build_index(pair, documents(2), pair, force=True)
        open_artifact(pair, "query")


class TestQueriesWithoutWords:
    @pytest.fixture
    def searcher(self, tmp_path, encoder, query_artifact):
        build_index(tmp_path / "index", documents(30), encoder, query_artifact)
        return Searcher.open(tmp_path / "index", threads=1)

    @pytest.mark.parametrize("query", ["", "   ", "☃ ☃ ☃", "日本", "\x00", "\ud800", "zzzz qqqq"])
    def test_nothing_known_finds_nothing(self, searcher, query):
        assert searcher.search(query) == []

    def test_ten_thousand_words(self, searcher):
        assert searcher.search("cat " * 10_000)[0].score == searcher.search("cat " * 14)[0].score

    def test_k(self, searcher):
        assert len(searcher.search("cat the a of in and dog fish", 10_000)) <= 30
        with pytest.raises(InputError, match="at least 1"):
            searcher.search("cat", 0)

    def test_not_a_text(self, searcher):
        with pytest.raises(InputError, match="give a str"):
            searcher.search(None)


class TestRefusals:
    def test_duplicate_ids(self, tmp_path, encoder, query_artifact):
        twice = [Record(d, f"corpus.jsonl:{i + 1}") for i, d in enumerate([*documents(3), *documents(2, seed=9)])]
        with pytest.raises(CorpusError, match=r"corpus.jsonl:4: the id 'd0' was used before"):
            build_index(tmp_path / "index", twice, encoder, query_artifact)
        assert list(tmp_path.iterdir()) == []
        manifest = build_index(tmp_path / "index", twice, encoder, query_artifact, bad_lines=BadLines("skip"))
        assert manifest.segments[0].documents == 3
        assert manifest.statistics.bad_lines == 2

    def test_an_empty_corpus(self, tmp_path, encoder, query_artifact):
        with pytest.raises(InputError, match="no documents; nothing was written"):
            build_index(tmp_path / "index", [], encoder, query_artifact)
        assert list(tmp_path.iterdir()) == []

    def test_an_error_while_reading_leaves_nothing(self, tmp_path, encoder, query_artifact):
        def broken():
            yield from documents(500)
            raise RuntimeError("the source failed")

        with pytest.raises(RuntimeError, match="the source failed"):
            build_index(tmp_path / "index", broken(), encoder, query_artifact)
        assert list(tmp_path.iterdir()) == []

    def test_sides_and_vocabularies(self, tmp_path, encoder, query_artifact, tiny_pair):
        with pytest.raises(ArtifactError, match="holds a query encoder; documents need a document encoder"):
            build_index(tmp_path / "i", documents(1), Encoder.open(tiny_pair, "query"), query_artifact)
        with pytest.raises(ArtifactError, match="holds a document encoder; the index carries a query encoder"):
            build_index(tmp_path / "i", documents(1), encoder, encoder.artifact)
        other = tiny.write_artifact(tmp_path / "other", vocabulary=[*tiny.VOCABULARY, "extra"])
        with pytest.raises(ArtifactError, match="another vocabulary"):
            build_index(tmp_path / "i", documents(1), encoder, open_artifact(other))
        build_index(tmp_path / "i", documents(1), encoder, query_artifact)
        with pytest.raises(ArtifactError, match="another vocabulary than the index"):
            Searcher(Index.open(tmp_path / "i"), Encoder.open(other))
        with pytest.raises(ArtifactError, match="searching needs a query encoder"):
            Searcher(Index.open(tmp_path / "i"), encoder)

    def test_errors_of_the_source_are_its_own(self, tmp_path, encoder, query_artifact):
        def lines():
            yield from documents(2)
            (tmp_path / "no such corpus").read_text()

        with pytest.raises(FileNotFoundError, match="no such corpus"):
            build_index(tmp_path / "i", lines(), encoder, query_artifact)

    def test_bad_documents_can_be_skipped(self, tmp_path, encoder, query_artifact):
        corpus = [
            Document("a", metadata={"x": float("nan")}),
            Document("b", metadata=[1]),
            Document("c", metadata={1: 2}),
            Document("\ud800"),
            Document("e"),
        ]
        bad = BadLines("skip")
        manifest = build_index(tmp_path / "i", corpus, encoder, query_artifact, bad_lines=bad)
        assert manifest.segments[0].documents == 1
        assert manifest.statistics.bad_lines == 4
        assert Index.open(tmp_path / "i").documents([0])[0].id == "e"
        with pytest.raises(InputError, match="there is no document 1; the index has 1"):
            Index.open(tmp_path / "i").documents([1])

    def test_a_title_leaves_less_room_for_passages(self, tmp_path, encoder, query_artifact):
        text = " ".join(["cat", "dog"] * 20)
        for title, truncated in (("", 0), ("bread flour oven", 0), ("bread " * 10, 0), ("bread " * 30, None)):
            path = tmp_path / str(len(title))
            corpus = [Document("a", title.strip(), text)]
            manifest = build_index(path, corpus, encoder, query_artifact, passages=Passages(12, 2))
            cut = manifest.statistics.truncated
            assert cut == truncated if truncated is not None else cut > 0

    def test_passages_that_do_not_fit(self, tmp_path, encoder, query_artifact):
        with pytest.raises(InputError, match="the document encoder reads 14 beside its special tokens"):
            build_index(tmp_path / "i", documents(1), encoder, query_artifact, passages=Passages(15))

    def test_existing_output_is_refused_before_any_work(self, tmp_path, encoder, query_artifact):
        def untouched():
            raise AssertionError("the corpus was read")
            yield

        build_index(tmp_path / "i", documents(1), encoder, query_artifact)
        with pytest.raises(InputError, match="pass --force"):
            build_index(tmp_path / "i", untouched(), encoder, query_artifact)

    @pytest.mark.parametrize("value", [float("nan"), {1, 2}, "\ud800", b"bytes"])
    def test_metadata_that_is_not_json(self, tmp_path, encoder, query_artifact, value):
        with pytest.raises(InputError, match="the metadata of document 'a' is not JSON"):
            build_index(tmp_path / "i", [Document("a", metadata={"x": value})], encoder, query_artifact)

    def test_something_else_than_documents(self, tmp_path, encoder, query_artifact):
        with pytest.raises(InputError, match="document 0 is of type dict; give Document objects"):
            build_index(tmp_path / "i", [{"_id": "a"}], encoder, query_artifact)

    def test_a_swapped_query_encoder_is_seen(self, tmp_path, encoder, query_artifact):
        build_index(tmp_path / "i", documents(3), encoder, query_artifact)
        shutil.rmtree(tmp_path / "i/encoder/query")
        tiny.write_artifact(tmp_path / "i/encoder/query", "query", seed=7)
        with pytest.raises(IntegrityError, match=r"encoder/query/splade_edge\.json"):
            Searcher.open(tmp_path / "i")

    def test_text_that_is_not_unicode(self, tmp_path, encoder, query_artifact):
        build_index(tmp_path / "i", [Document("a", "\ud83d\ude00", "cat \ud800")], encoder, query_artifact)
        assert Index.open(tmp_path / "i").documents([0])[0] == Document("a", "\U0001f600", "cat \ufffd")
        with pytest.raises(InputError, match="ids must be valid Unicode"):
            build_index(tmp_path / "j", [Document("\ud800")], encoder, query_artifact)


WRITER = """
import resource, sys, time
from splade_edge.runtime import Document, Encoder, build_index, open_artifact

pair, output, mode, limit = sys.argv[1:]
def corpus():
    for i in range(3000 if mode == "limit" else 10**9):
        yield Document(f"d{i}", "cat", "dog bread flour winter " * 3, {"i": i})
        if i == 1000 and mode == "kill":
            print("indexing", flush=True)
encoder = Encoder.open(pair, "document", threads=1)
if mode == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
build_index(output, corpus(), encoder, open_artifact(pair, "query"), force=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and limits")
class TestInterruption:
    def start(self, pair: Path, output: Path, mode: str, limit: int = 0) -> subprocess.Popen[str]:
        script = textwrap.dedent(WRITER)
        arguments = [str(pair), str(output), mode, str(limit)]
        return subprocess.Popen(
            [sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def test_kill_9_leaves_the_old_index(self, tmp_path, tiny_pair, encoder, query_artifact):
        output = tmp_path / "index"
        build_index(output, documents(5), encoder, query_artifact)
        process = self.start(tiny_pair, output, "kill")
        assert process.stdout is not None
        assert process.stdout.readline() == "indexing\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        Index.open(output).check()
        assert len(Index.open(output)) == 5
        build_index(output, documents(6), encoder, query_artifact, force=True)
        assert len(Index.open(output)) == 6
        assert [p.name for p in tmp_path.iterdir()] == ["index"]  # the killed writer's staging directory is gone

    @pytest.mark.parametrize("limit", [4096, 20_000, 60_000, 200_000])
    def test_a_full_disk_leaves_the_old_index(self, tmp_path, tiny_pair, encoder, query_artifact, limit):
        output = tmp_path / "index"
        build_index(output, documents(5), encoder, query_artifact)
        process = self.start(tiny_pair, output, "limit", limit)
        _, errors = process.communicate()
        assert process.returncode == 1
        assert f"{StorageError.__name__}: cannot write" in errors.splitlines()[-1]
        assert len(Index.open(output)) == 5
        assert [p.name for p in tmp_path.iterdir()] == ["index"]
