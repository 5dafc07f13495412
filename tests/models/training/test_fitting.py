"""A query encoder fitted to an index: its vectors as they are stored, the loss over all documents, and whole runs."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from splade_edge.models.opening import open_checkpoint
from splade_edge.models.training import compare, fitting
from splade_edge.models.training.collections import Collection, read_collection
from splade_edge.models.training.evaluation import ndcg_of
from splade_edge.models.training.fitting import Fitting
from splade_edge.models.training.indexed import all_scores, read_vectors
from splade_edge.models.training.loop import Run
from splade_edge.models.training.mining import Miner, _batch
from splade_edge.models.training.objective import distillation_loss, imitation_loss, penalty
from splade_edge.models.training.runfile import read_run_file
from splade_edge.models.training.settings import SetSettings
from splade_edge.models.training.vocabulary import Texts
from splade_edge.runtime.build.index_writer import IndexWriter
from splade_edge.runtime.build.passages import PassageSpan
from splade_edge.runtime.document import Document
from splade_edge.runtime.errors import CheckpointError, InputError
from splade_edge.runtime.index import Index
from splade_edge.runtime.update.updater import IndexUpdater

from ... import checkpoints
from .conftest import RunWriter
from .test_loop import log_of, parameters

SIZE = checkpoints.VOCABULARY


def read(path: Path) -> Collection:
    return read_collection(SetSettings(path=str(path), held_out=4))


def words_of(collection: Collection, base: Path) -> sp.csr_matrix:
    """A document's vector: a weight for each of its words, other for each of them."""
    dense = np.zeros((len(collection.documents), SIZE), np.float32)
    for row, ids in enumerate(Texts(str(base)).ids(collection.documents, 32)):
        dense[row, ids[1:-1]] = 1 + np.arange(len(ids) - 2) / 4
    return sp.csr_matrix(dense)


def write_index(path: Path, ids: list[str], vectors: sp.csr_matrix, *, passages: bool = False) -> Path:
    writer = IndexWriter(path, vectors.shape[1], passages=passages)
    for name in ids:
        writer.add_document(Document(name, text="a text"))
    spans = [PassageSpan(number, 0, 1) for number in range(len(ids))] if passages else None
    writer.add_vectors(_batch(vectors), spans)
    writer.finish()
    return path


@pytest.fixture
def index(collection: Path, base: Path, tmp_path: Path) -> Path:
    data = read(collection)
    return write_index(tmp_path / "index", list(data.ids), words_of(data, base))


@pytest.fixture
def write_fit(write_run: RunWriter, index: Path) -> RunWriter:
    """Writes a run file of the objective, as ``write_run`` does."""

    def write(extra: str = "", **options: str) -> Path:
        path = write_run(extra, **options)
        text = path.read_text().replace("held_out = 4", f'held_out = 4\nindex = "{index}"')
        text = text[: text.index("[document]")] + text[text.index("[query]") :]
        path.write_text(f'objective = "index"\n{text}')
        return path

    return write


def test_vectors_are_those_of_the_index_in_the_order_of_the_corpus(
    collection: Path, base: Path, tmp_path: Path
) -> None:
    data = read(collection)
    vectors = words_of(data, base)
    order = np.random.default_rng(0).permutation(len(data.ids))
    first, second = order[:25], order[25:]
    # the first segment has vectors of others, and three documents that come again in the second
    path = write_index(tmp_path / "index", [data.ids[i] for i in first], vectors[np.roll(first, 1)])
    with IndexUpdater.open(path) as updater:
        updater.delete([data.ids[i] for i in first[:3]])
        added = [*second, *first[:3]]
        updater.add_vectors([Document(data.ids[i], text="a") for i in added], _batch(vectors[added]))
        updater.commit()
    found = read_vectors(str(path), data, base / "tokenizer.json", SIZE)
    expected = vectors.toarray().copy()
    expected[first[3:]] = vectors[first[2:-1]].toarray()
    with Index.open(path) as opened:
        assert len(opened.segments) == 2
        scale = opened.manifest.scale
        np.testing.assert_allclose(found.toarray().T, expected, atol=scale)
        # to the very impact: what a search finds
        query = np.array([7, 9, 12], np.int32)
        ordinals, scores = opened.search_vector((query, np.ones(3, np.float32)), len(data.ids))
        names = [document.id for document in opened.documents(ordinals)]
    sums = dict(zip(data.ids, found[query].sum(axis=0).tolist()[0], strict=True))
    np.testing.assert_allclose([sums[name] for name in names], scores, rtol=1e-6)


def test_scores_of_all_documents_and_their_gradient() -> None:
    rng = np.random.default_rng(0)
    documents = sp.random(30, 50, 0.2, "csr", np.float32, rng)
    queries = torch.relu(torch.tensor(rng.normal(size=(4, 50)), dtype=torch.float32)).requires_grad_()
    pull = torch.tensor(rng.normal(size=(4, 30)), dtype=torch.float32)
    dense = torch.from_numpy(documents.toarray())
    found = all_scores(queries, documents.T.tocsr())
    torch.testing.assert_close(found, queries @ dense.T)
    (found * pull).sum().backward()
    assert queries.grad is not None
    torch.testing.assert_close(queries.grad, (pull @ dense) * (queries > 0))


def test_the_loss_is_over_all_documents(write_fit: RunWriter, base: Path, tmp_path: Path) -> None:
    teacher = (
        f'[teacher]\nbase = "{base}"\nweight = 0.7\nlexical = 0.5\nquery_vectors = "{base}"\nvector_weight = 0.3\n'
        "random_words = 0.6\n"
    )
    extra = teacher + "[query_regularizer]\nweight = 0.2\nramp = 0\nsteer = 0.5"
    training = "steps = 4\nbatch = 6\ncontrastive = 0.5\nscale = 0.25\nfragments = 0.5"
    settings = read_run_file(write_fit(extra, training=training))
    run = Run(settings, tmp_path / "out", tmp_path / "cache")
    objective = run.objective
    assert isinstance(objective, Fitting)
    assert objective._teacher is not None
    assert objective._imitated is not None
    [data] = run.collections
    batch = objective._sampler.batch(0)
    np.testing.assert_array_equal(batch.documents, np.arange(40))
    assert (batch.queries < 0).any()
    assert (batch.queries >= 0).any()
    documents = objective._by_term[0].toarray().T
    with torch.no_grad():
        q = objective.query.encode(objective.query.ids(batch.texts), chunk=0, bf16=False)
    scores = 0.25 * q.numpy() @ documents.T
    cross = []
    for row, (query, text) in enumerate(zip(batch.queries, batch.texts, strict=True)):
        known = data.positives[query] if query >= 0 else [i for i, d in enumerate(data.documents) if text in d]
        gold = int(batch.positive[row])
        assert gold in known
        allowed = [d for d in range(40) if d == gold or d not in known]
        cross.append(np.log(np.exp(scores[row, allowed]).sum()) - scores[row, gold])
    wanted = objective._imitated.vectors(objective.query.ids(batch.texts), False)
    odd = objective.query.ids(
        objective._imitated.random_texts(6, np.random.default_rng([settings.training.seed, 6, 0]))
    )
    with torch.no_grad():
        strange = objective.query.encode(odd, chunk=0, bf16=False)
    # the encoder still is the one that is imitated, but for what is silent in it
    assert imitation_loss(strange, objective._imitated.vectors(odd, False)) > 0
    expected = {
        "random words": 0.6 * float(imitation_loss(strange, objective._imitated.vectors(odd, False))),
        "contrastive": 0.5 * float(np.mean(cross)),
        "query penalty": 0.2 * float(penalty("l1", q)),
        "distillation": 0.7 * float(distillation_loss(torch.tensor(scores), objective._teacher.scores(batch))),
        "imitation": 0.3 * float(imitation_loss(q, wanted)),
    }
    entry = objective.backward(0, 0)
    for name, value in expected.items():
        assert entry[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    assert entry["loss"] == pytest.approx(sum(expected.values()), rel=1e-4)
    objective.observe(0, {"query terms": 32.0})
    assert objective.regularizers[0].level == pytest.approx(0.2 * 2)


def test_a_teacher_scores_all_documents_as_it_scores_some(write_fit: RunWriter, base: Path, tmp_path: Path) -> None:
    path = write_fit(f'[teacher]\nbase = "{base}"\nlexical = 0.5', training="steps = 1\nbatch = 4")
    objective = Run(read_run_file(path), tmp_path / "out", tmp_path / "cache").objective
    assert isinstance(objective, Fitting)
    assert objective._teacher is not None
    batch = objective._sampler.batch(0)
    some = np.array([3, 5, 30])
    part = dataclasses.replace(batch, documents=some)
    torch.testing.assert_close(objective._teacher.scores(batch)[:, some], objective._teacher.scores(part))


def test_fitting_learns_and_a_resumed_run_is_the_same(write_fit: RunWriter, base: Path, tmp_path: Path) -> None:
    extra = f'[teacher]\nbase = "{base}"\nweight = 0.1\n[query_regularizer]\nweight = 0.001\nramp = 0\nsteer = 0.2'
    training = "fragments = 0.3\nsteps = 30\nbatch = 8\naccumulate = 2\nlearning_rate = 0.01\nwarmup = 2"
    path = write_fit(extra, training=training)
    head = 'head = "lexical"\nthreshold = 0.5'
    path.write_text(path.read_text().replace("max_length = 16", f"max_length = 16\n{head}"))
    settings = read_run_file(path)
    whole = Run(settings, tmp_path / "whole", tmp_path / "cache")
    whole.train()
    log = log_of(whole)
    assert np.mean([e["contrastive"] for e in log[-5:]]) < 0.7 * np.mean([e["contrastive"] for e in log[1:6]])
    first = Run(settings, tmp_path / "parts", tmp_path / "cache")
    first.train(stop=lambda: first.step == 11)
    second = Run(settings, tmp_path / "parts", tmp_path / "cache")
    assert second.resume() == 11
    second.train()
    for name, value in parameters(whole).items():
        np.testing.assert_array_equal(parameters(second)[name], value, err_msg=name)
    assert log_of(second) == log
    assert "| whole | 30 |" in compare.table([tmp_path / "whole", tmp_path / "parts"])
    with pytest.raises(CheckpointError, match="was trained as the query encoder of a pair; say --role query"):
        open_checkpoint(str(tmp_path / "whole" / "pair"))
    assert open_checkpoint(str(tmp_path / "whole" / "pair"), "query").weights_sha256


def test_held_out_queries_are_measured_on_the_whole_set(write_fit: RunWriter, base: Path, tmp_path: Path) -> None:
    run = Run(read_run_file(write_fit()), tmp_path / "out", tmp_path / "cache")
    assert isinstance(run.objective, Fitting)
    [data] = run.collections
    found = run.evaluate()
    assert found["query terms/small"] > 0
    # all vectors are as long, so a document's own finds it first
    wanted = [data.documents[data.positives[i][0]] for i in data.held_out]
    perfect = words_of(dataclasses.replace(data, documents=wanted), base)
    assert ndcg_of(data, perfect, run.objective._by_term[0]) == 1.0
    assert 0 <= found["ndcg/small"] <= 1


def test_an_index_of_another_corpus_is_refused(collection: Path, base: Path, tmp_path: Path) -> None:
    data = read(collection)
    vectors, ids, tokenizer = words_of(data, base), list(data.ids), base / "tokenizer.json"
    fewer = write_index(tmp_path / "fewer", ids[2:], vectors[2:])
    with pytest.raises(InputError, match="lacks 2 of the 40 documents of the set small, such as 'd0'; index this"):
        read_vectors(str(fewer), data, tokenizer, SIZE)
    more = write_index(tmp_path / "more", [*ids, "other"], sp.vstack([vectors, vectors[:1]], "csr"))
    with pytest.raises(InputError, match="has the document 'other', which is not in the corpus"):
        read_vectors(str(more), data, tokenizer, SIZE)
    cut = write_index(tmp_path / "cut", ids, vectors, passages=True)
    with pytest.raises(InputError, match="has passages"):
        read_vectors(str(cut), data, tokenizer, SIZE)
    same = write_index(tmp_path / "same", ids, vectors)
    with pytest.raises(InputError, match="different vocabularies"):
        read_vectors(str(same), data, tokenizer, SIZE + 1)


@pytest.mark.parametrize("change", ["other weights", "the same weights of other documents", "one deleted"])
def test_a_run_is_not_resumed_with_another_index(
    write_fit: RunWriter, index: Path, collection: Path, base: Path, tmp_path: Path, change: str
) -> None:
    settings = read_run_file(write_fit())
    Run(settings, tmp_path / "out", tmp_path / "cache").train()
    moved = index.with_name("moved")
    shutil.copytree(index, moved)
    shutil.rmtree(index)
    moved.rename(index)
    assert Run(settings, tmp_path / "out", tmp_path / "cache").resume() == 4
    data = read(collection)
    vectors = words_of(data, base)
    if change == "one deleted":
        with IndexUpdater.open(index) as updater:
            updater.delete([data.ids[0]])
    else:
        shutil.rmtree(index)
        write_index(index, list(data.ids), vectors * 2 if change == "other weights" else vectors[::-1])
    with pytest.raises(InputError, match="other weights"):
        Run(settings, tmp_path / "out", tmp_path / "cache")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("index = ", "lexical = 0.5\nindex = ", "lexical of a set does nothing without a dense teacher"),
        ('objective = "index"', 'objective = "imitation"\n[teacher]\nquery_vectors = "x"', "index of a set is for"),
        ("[query]", '[document]\nbase = "x"\n[query]', r"needs \[query\] and no \[document\], and an index in each"),
        ("index = ", "# ", r"needs \[query\] and no \[document\], and an index in each"),
        ("[training]", "[training]\nnegatives = 2", 'negatives is for objective = "retrieval"'),
        ("[training]", "[training]\nevaluation_documents = 20", "searches whole sets"),
        ("[training]", "[document_regularizer]\nterms = 9\n[training]", r"\[document_regularizer\] does nothing"),
        ("[training]", "[training]\nscale = 2.0", None),
        ("[training]", "[teacher]\nrandom_words = 1.0\n[training]", "random_words does nothing without query_vectors"),
        ("[training]", '[teacher]\nbase = "x"\nlexical = 0.5\n[training]', None),
    ],
)
def test_settings_that_do_not_fit_are_named(write_fit: RunWriter, old: str, new: str, message: str | None) -> None:
    path = write_fit()
    text = path.read_text()
    assert old in text
    if new.startswith("objective"):
        head, tables = new.split("\n", 1)
        text, old, new = text + "\n" + tables, 'objective = "index"', head
    path.write_text(text.replace(old, new, 1))
    if message is None:
        read_run_file(path)
    else:
        with pytest.raises(InputError, match=message):
            read_run_file(path)


def test_a_search_s_idf_is_measured_and_handed_on(
    write_fit: RunWriter, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated = tmp_path / "stated"
    shutil.copytree(base, stated)
    config = json.loads((stated / "config.json").read_text())
    (stated / "config.json").write_text(json.dumps(config | {"query_idf": 0.75}))
    path = write_fit(training="steps = 1")
    path.write_text(path.read_text().replace(str(base), str(stated)))
    run = Run(read_run_file(path), tmp_path / "out", tmp_path / "cache")
    assert run.objective.query.query_idf == 0.75
    powers = []

    def measured(collection: Collection, q: sp.csr_matrix, by_term: sp.csr_matrix, idf: float) -> float:
        powers.append(idf)
        return ndcg_of(collection, q, by_term, idf)

    monkeypatch.setattr(fitting, "ndcg_of", measured)
    run.train()
    assert set(powers) == {0.75}
    assert open_checkpoint(str(tmp_path / "out" / "pair"), "query").query_idf == 0.75
    (stated / "config.json").write_text(json.dumps(config | {"query_idf": "much"}))
    run = Run(read_run_file(path), tmp_path / "other", tmp_path / "cache")
    with pytest.raises(CheckpointError, match="has query_idf 'much'"):
        run.evaluate()


def test_ndcg_with_the_idf_of_the_documents(collection: Path, base: Path) -> None:
    """A rare term of little weight beats a common one of more, with the idf only."""
    data = dataclasses.replace(read(collection), documents=["right", "wrong", *["other"] * 38])
    data = dataclasses.replace(data, positives=[np.array([0]) for _ in data.queries])
    by_term = sp.csr_matrix(np.array([[1.0, 0, *[0] * 38], [0, 1, *[1] * 38]]))
    queries = sp.csr_matrix(np.tile([1.0, 1.5], (data.held_out.size, 1)))
    assert ndcg_of(data, queries, by_term) == 0
    assert ndcg_of(data, queries, by_term, 1.0) == 1


def test_a_miner_searches_with_the_idf_that_it_states(collection: Path, tmp_path: Path) -> None:
    pair = checkpoints.write_pair(tmp_path / "pair")
    data, cpu = read(collection), torch.device("cpu")
    plain = Miner(str(pair), (16, 16), tmp_path / "cache", cpu).negatives(data, 6)
    config = json.loads((pair / "query" / "config.json").read_text())
    (pair / "query" / "config.json").write_text(json.dumps(config | {"query_idf": 2.0}))
    found = Miner(str(pair), (16, 16), tmp_path / "cache", cpu).negatives(data, 6)
    assert not np.array_equal(found, plain)
