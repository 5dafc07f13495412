from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from splade_edge.models.opening import open_checkpoint
from splade_edge.models.reference import ReferenceEncoder
from splade_edge.models.training.bm25 import Bm25
from splade_edge.models.training.collections import Collection, read_collection
from splade_edge.models.training.mining import Miner, mine_with_bm25
from splade_edge.models.training.sampling import BatchSettings, Sampler, fragment, keywords, random_words
from splade_edge.models.training.settings import SetSettings
from splade_edge.models.training.vocabulary import STOP_WORDS, Texts, whole_words
from splade_edge.runtime.errors import InputError

from ... import checkpoints

I0 = np.empty(0, np.int64)


@pytest.fixture(scope="module")
def small(collection: Path) -> Collection:
    return read_collection(SetSettings(path=str(collection), held_out=4))


def sampler(collections: list[Collection], **changes: int) -> Sampler:
    settings = {"batch": 6, "per_query": 2, "steps": 20, "seed": 5} | changes
    return Sampler(collections, [mine_with_bm25(c, 8) for c in collections], BatchSettings(**settings))


def test_held_out_queries_are_never_drawn_and_others_once_an_epoch(small: Collection) -> None:
    assert small.held_out.size == 4
    assert not np.intersect1d(small.train, small.held_out).size
    drawn = sampler([small])
    queries = np.concatenate([drawn.batch(step).queries for step in range(20)])
    assert queries.size == 120
    assert set(queries) == set(small.train)
    for epoch in range(6):
        assert sorted(queries[epoch * 20 : epoch * 20 + 20]) == small.train.tolist()


def test_a_batch_depends_on_the_step_alone(small: Collection) -> None:
    one, other = sampler([small, small]), sampler([small, small])
    for step in (7, 3, 7):
        a, b = one.batch(step), other.batch(step)
        assert a.collection == b.collection
        np.testing.assert_array_equal(a.queries, b.queries)
        np.testing.assert_array_equal(a.documents, b.documents)


def test_the_order_of_an_epoch_is_of_the_seed(small: Collection) -> None:
    drawn = [sampler([small], seed=seed) for seed in (5, 6)]
    one, other = (np.concatenate([s._next_queries(0, step) for step in range(4)])[:20].tolist() for s in drawn)
    assert sorted(one) == sorted(other)
    assert one != other


def test_columns_hold_positives_and_mined_negatives(small: Collection) -> None:
    mined = mine_with_bm25(small, 8)
    drawn = Sampler([small], [mined], BatchSettings(batch=6, per_query=2, steps=20, seed=5))
    for step in range(20):
        batch = drawn.batch(step)
        assert np.unique(batch.documents).size == batch.documents.size
        for row, query in enumerate(batch.queries):
            assert batch.documents[batch.positive[row]] in small.positives[query]
            np.testing.assert_array_equal(batch.relevant[row], np.isin(batch.documents, small.positives[query]))
        allowed = np.concatenate([mined[batch.queries].ravel(), *[small.positives[q] for q in batch.queries]])
        assert np.isin(batch.documents, allowed).all()


def test_keywords_are_words_of_the_text_each_once() -> None:
    text = "The pump-house of the engine: an Engine, 12 steam pipes; it is what the engine is in."
    rng = np.random.default_rng(0)
    drawn = [keywords(text, rng).split() for _ in range(200)]
    assert {word for words in drawn for word in words} == {"pump-house", "engine", "Engine", "steam", "pipes"}
    assert all(2 <= len(words) == len(set(words)) for words in drawn)
    assert len({tuple(sorted(words)) for words in drawn}) < len({tuple(words) for words in drawn}), "in any order"
    assert keywords("it is in a pump", rng) == "" == keywords("", rng)
    assert set(keywords("Übergrößenträger können Насос", rng).split()) <= {"Übergrößenträger", "können", "Насос"}


def test_a_share_of_the_fragments_are_keywords(small: Collection) -> None:
    def cut(share: float) -> list[tuple[str, str]]:
        drawn = Sampler(
            [small],
            [None],
            BatchSettings(batch=200, per_query=0, everything=True, steps=3, seed=5, fragments=0.5, keywords=share),
        )
        batches = [drawn.batch(step) for step in range(3)]
        return [
            (batch.texts[row], small.documents[batch.documents[batch.positive[row]]])
            for batch in batches
            for row in np.flatnonzero(batch.queries < 0)
        ]

    assert all(text in document for text, document in cut(0.0))
    every = cut(1.0)
    assert all(set(text.split()) <= set(document.split()) for text, document in every)
    apart = np.mean([text not in document for text, document in every])
    assert apart > 0.5
    assert 0.3 * apart < np.mean([text not in document for text, document in cut(0.5)]) < 0.7 * apart


def test_documents_with_all_keywords_are_no_negatives(small: Collection) -> None:
    bm25 = Bm25(small.documents)
    drawn = Sampler(
        [small],
        [None],
        BatchSettings(batch=50, per_query=0, everything=True, steps=2, seed=1, fragments=1.0, keywords=1.0),
        [partial(bm25.rank, k=40)],
    )
    batch = drawn.batch(0)
    several = 0
    for row, text in enumerate(batch.texts):
        holding = [set(text.split()) <= set(small.documents[d].split()) for d in batch.documents]
        np.testing.assert_array_equal(batch.relevant[row], holding)
        several += sum(holding) > 1
    assert several


def test_random_words_are_of_the_vocabulary(base: Path) -> None:
    words = whole_words(Texts(str(base)).tokenizer)
    assert words == sorted(words)
    assert all(len(word) > 3 and word.isalpha() for word in words)
    assert not STOP_WORDS & set(words)
    texts = random_words(words, 100, np.random.default_rng(3))
    assert texts == random_words(words, 100, np.random.default_rng(3))
    assert {len(text.split()) for text in texts} == set(range(2, 13))
    assert {word for text in texts for word in text.split()} <= set(words)


def test_weights_choose_the_collection(small: Collection, collection: Path) -> None:
    idle = read_collection(SetSettings(path=str(collection), weight=0.0))
    assert {sampler([idle, small]).batch(step).collection for step in range(20)} == {1}


def test_mining_finds_what_bm25_ranks_first(small: Collection, tmp_path: Path) -> None:
    mined = mine_with_bm25(small, 5)
    scores = Bm25(small.documents).scores(small.queries, np.arange(len(small.documents)))
    for row, found in enumerate(mined):
        kept = found[found >= 0]
        assert kept.size == min(5, (scores[row] > 0).sum())
        # Impacts have 8 bits: documents of nearly the same score may change places.
        best = np.sort(scores[row])[::-1][: kept.size]
        np.testing.assert_allclose(scores[row, kept], best, atol=0.02 * best[0])
    miner = Miner(None, (8, 16), tmp_path / "cache", torch.device("cpu"))
    np.testing.assert_array_equal(miner.negatives(small, 5), mined)
    np.testing.assert_array_equal(miner.negatives(small, 3), mined[:, :3])


def test_mining_with_a_pair_is_its_ranking(small: Collection, tmp_path: Path) -> None:
    checkpoints.write_pair(tmp_path / "pair")
    miner = Miner(str(tmp_path / "pair"), (16, 16), tmp_path / "cache", torch.device("cpu"))
    found = miner.negatives(small, 4)
    query, document = (
        ReferenceEncoder(open_checkpoint(str(tmp_path / "pair"), side)) for side in ("query", "document")
    )
    scores = query.encode(small.queries) @ document.encode(small.documents).T
    for row, ranking in enumerate(found):
        np.testing.assert_allclose(scores[row, ranking], np.sort(scores[row])[::-1][:4], rtol=0.02)
    np.testing.assert_array_equal(miner.negatives(small, 4), found)
    with pytest.raises(InputError, match="has no query/"):
        Miner(str(tmp_path), (16, 16), tmp_path / "cache", torch.device("cpu"))


def test_bad_sets_are_refused(collection: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a directory"):
        read_collection(SetSettings(path=str(tmp_path / "none")))
    with pytest.raises(InputError, match="held_out = 24"):
        read_collection(SetSettings(path=str(collection), held_out=24))


def test_what_answers_a_held_out_query_is_not_taught(tmp_path: Path) -> None:
    place = tmp_path / "shared"
    (place / "qrels").mkdir(parents=True)
    documents = [json.dumps({"_id": f"d{i}", "text": f"word{i}"}) for i in range(10)]
    queries = [json.dumps({"_id": f"q{i}", "text": f"query {i}"}) for i in range(30)]
    (place / "corpus.jsonl").write_text("\n".join(documents))
    (place / "queries.jsonl").write_text("\n".join(queries))
    (place / "qrels" / "train.tsv").write_text("\n".join(f"q{i}\td{i % 10}\t1" for i in range(30)))
    read = read_collection(SetSettings(path=str(place), held_out=3))
    known = {int(d) for q in read.held_out for d in read.positives[q]}
    assert read.train.size > 0
    assert not any(int(d) in known for q in read.train for d in read.positives[q])
    with pytest.raises(InputError, match="leaves no query"):
        read_collection(SetSettings(path=str(place), held_out=29))
    (place / "qrels" / "train.tsv").write_text("q1\tnone\t1")
    with pytest.raises(InputError, match="none of the documents judged relevant"):
        read_collection(SetSettings(path=str(place)))


def _set(place: Path, queries: dict[str, str], **splits: dict[str, list[str]]) -> Path:
    (place / "qrels").mkdir(parents=True)
    (place / "corpus.jsonl").write_text("\n".join(json.dumps({"_id": f"d{i}", "text": f"word{i}"}) for i in range(9)))
    lines = [json.dumps({"_id": name, "text": text}) for name, text in queries.items()]
    (place / "queries.jsonl").write_text("\n".join(lines))
    for split, judged in splits.items():
        rows = [f"{query}\t{document}\t1" for query, found in judged.items() for document in found]
        (place / "qrels" / f"{split}.tsv").write_text("\n".join(rows))
    return place


def test_queries_of_one_text_share_their_answers(tmp_path: Path) -> None:
    queries = {"a": "same", "b": "other", "c": "same"}
    place = _set(tmp_path / "s", queries, train={"a": ["d1"], "b": ["d2"], "c": ["d3", "d1"]})
    read = read_collection(SetSettings(path=str(place)))
    assert [sorted(p.tolist()) for p in read.positives] == [[1, 3], [2], [1, 3]]


def test_a_dev_split_measures_and_is_not_trained_on(tmp_path: Path) -> None:
    queries = {f"q{i}": f"question {i}" for i in range(8)} | {"twin": "question 0"}
    train = {f"q{i}": [f"d{i}"] for i in (1, 2, 3)} | {"twin": ["d5"]}
    dev = {"q0": ["d0"], "q4": ["d1"], "q5": ["d2"]}
    place = _set(tmp_path / "s", queries, train=train, dev=dev)
    read = read_collection(SetSettings(path=str(place), dev="dev"))
    assert {read.queries[q] for q in read.held_out} == {"question 0", "question 4", "question 5"}
    # the twin of a dev query is not taught; a document may answer a query of each split
    assert {read.queries[q] for q in read.train} == {"question 1", "question 2", "question 3"}
    assert {read.queries[q]: read.positives[q].tolist() for q in read.held_out}["question 0"] == [0]
    assert read_collection(SetSettings(path=str(place), dev="dev", held_out=2)).held_out.size == 2
    other = place / "dev-queries.jsonl"
    other.write_text(json.dumps({"_id": "q4", "text": "asked otherwise"}))
    read = read_collection(SetSettings(path=str(place), dev="dev", dev_queries=other.name))
    assert [read.queries[q] for q in read.held_out] == ["asked otherwise"]
    assert read.train.size == 4


def test_a_corpus_without_words_has_no_negatives(tmp_path: Path) -> None:
    assert (mine_with_bm25(Collection("x", SetSettings(path="x"), ["!", "?"], ["a"], [], I0, I0), 2) == -1).all()


def test_fragments_are_cut_from_the_document_they_ask_for(small: Collection) -> None:
    mined = mine_with_bm25(small, 8)
    plain = sampler([small])
    cut = 0
    for step in range(20):
        batch = Sampler([small], [mined], BatchSettings(batch=6, per_query=1, steps=20, seed=5, fragments=0.5)).batch(
            step
        )
        assert plain.batch(step).texts == [small.queries[q] for q in plain.batch(step).queries]
        for row, query in enumerate(batch.queries):
            document = batch.documents[batch.positive[row]]
            if query < 0:
                cut += 1
                assert batch.texts[row] in small.documents[document]
                assert batch.documents[batch.relevant[row]].tolist() == [document]
            else:
                assert query == plain.batch(step).queries[row]
                assert batch.texts[row] == small.queries[query]
    assert 30 < cut < 90


def test_the_negatives_of_a_fragment_are_near_it_and_do_not_hold_it(small: Collection) -> None:
    twins = dataclasses.replace(small, documents=[*small.documents, *small.documents])
    search = partial(Bm25(twins.documents).rank, k=6)
    drawn = Sampler([twins], [None], BatchSettings(batch=6, per_query=2, steps=9, seed=5, fragments=1.0), [search])
    negatives = 0
    for step in range(9):
        batch = drawn.batch(step)
        for row, text in enumerate(batch.texts):
            column = batch.positive[row]
            assert batch.relevant[row, column]
            held = [text in small.documents[d % len(small.documents)] for d in batch.documents]
            near = Bm25(twins.documents).rank([text], 6)[0]
            for d in batch.documents[~np.array(held)]:
                negatives += int(d) in near
            # its twin in the batch, if BM25 found it, is not a wrong answer
            for column in np.flatnonzero(held):
                assert batch.relevant[row, column] or int(batch.documents[column]) not in near
    assert negatives > 20


def test_a_fragment_of_nothing_is_nothing() -> None:
    assert fragment("", np.random.default_rng(0)) == ""
