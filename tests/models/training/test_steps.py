"""What a step does: gradients of its parts, rates, decay, clipping, precision; and the losses of each objective."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from splade_edge.models.training.encoder import SparseEncoder
from splade_edge.models.training.imitation import Imitation
from splade_edge.models.training.loop import Run, _rate
from splade_edge.models.training.middle import MiddleTraining
from splade_edge.models.training.objective import distillation_loss, imitation_loss, penalty
from splade_edge.models.training.retrieval import Retrieval
from splade_edge.models.training.runfile import read_run_file
from splade_edge.models.training.sampling import Batch

from .conftest import RunWriter

OBJECTIVES = ("retrieval", "mlm", "imitation")


RunMaker = Callable[..., Run]


@pytest.fixture
def make_run(write_run: RunWriter, base: Path, tmp_path: Path) -> RunMaker:
    """A run of an objective, not yet trained."""

    def make(extra: str = "", training: str = "", *, objective: str = "retrieval", document: str = "") -> Run:
        path = write_run(extra, training=f"steps = 4\nbatch = 4\n{training}", query=objective != "mlm")
        text = path.read_text().replace("[document]", f"[document]\n{document}")
        if objective == "imitation":
            text = text[: text.index("[document]")] + text[text.index("[query]") :]
            text += f'\n[teacher]\nquery_vectors = "{base}"\nidf = 1.0\n'
        path.write_text(f'objective = "{objective}"\n{text}')
        return Run(read_run_file(path), tmp_path / "out", tmp_path / "cache")

    return make


def gradients(run: Run) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for m in run.models.values() for n, p in m.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_parts_of_a_step_are_averaged(make_run: RunMaker, objective: str) -> None:
    found = []
    for accumulate in (1, 2):
        run = make_run(training=f"accumulate = {accumulate}", objective=objective)
        for part in (0, 1):
            run.objective.backward(0, part)
        found.append(gradients(run))
    assert found[0]
    for name, whole in found[0].items():
        torch.testing.assert_close(found[1][name], whole / 2, msg=name)


def test_the_rate_rises_and_falls() -> None:
    rates = [_rate(step, 10, 2) for step in (0, 1, 2, 6, 9)]
    assert rates == pytest.approx([0.5, 1, 1, 0.5, 0.125])
    assert _rate(0, 4, 0) == 1.0


def test_a_step_takes_its_rate_decay_and_clipped_gradient(make_run: RunMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(training="learning_rate = 0.02\nwarmup = 2\nweight_decay = 0.3\nclip = 0.001")
    matrices, vectors = run.optimizer.param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    assert {p.dim() > 1 for p in matrices["params"]} == {True}
    assert {p.dim() > 1 for p in vectors["params"]} == {False}
    seen: list[tuple[float, float]] = []

    def look() -> None:
        norms = [p.grad.norm() for p in run._parameters if p.grad is not None]
        seen.append((float(torch.stack(norms).norm()), run.optimizer.param_groups[0]["lr"]))

    monkeypatch.setattr(run.optimizer, "step", look)
    for run.step in (0, 3):
        assert run._train_step()["gradient"] > 0.001  # before it was clipped
    for (norm, rate), expected in zip(seen, (0.01, 0.01), strict=True):
        assert norm == pytest.approx(0.001, rel=1e-3)
        assert rate == pytest.approx(expected)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("bf16", [True, False])
def test_a_step_runs_in_the_precision_asked_for(
    make_run: RunMaker, monkeypatch: pytest.MonkeyPatch, objective: str, bf16: bool
) -> None:
    chunk = "chunk = 3" if objective == "retrieval" else ""
    run = make_run(training=f"bf16 = {str(bf16).lower()}\n{chunk}", objective=objective)
    seen: list[bool] = []
    plain = SparseEncoder.hidden

    def watched(self: SparseEncoder, texts: list[list[int]]) -> torch.Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return plain(self, texts)

    monkeypatch.setattr(SparseEncoder, "hidden", watched)
    run.objective.backward(0, 0)
    assert set(seen) == {bf16}
    assert {gradient.dtype for gradient in gradients(run).values()} == {torch.float32}


SETTINGS = """
[teacher]
base = "{base}"
weight = 0.7
query_vectors = "{base}"
vector_weight = 0.3
[query_regularizer]
penalty = "l1"
weight = 0.2
ramp = 0
terms = 8
steer = 0.5
[document_regularizer]
penalty = "flops"
weight = 0.05
ramp = 0
terms = 100
steer = 0.5
"""


def _batch() -> Batch:
    """Three queries, four documents; document 3 is relevant to query 0 as well."""
    relevant = np.eye(3, 4, dtype=bool)
    relevant[0, 3] = True
    return Batch(0, ["oil crisis", "war", "steam engine"], np.arange(3), np.arange(4), np.arange(3), relevant)


@pytest.mark.parametrize("frozen", [False, True])
def test_the_loss_of_ranking_is_the_sum_of_its_parts(make_run: RunMaker, base: Path, frozen: bool) -> None:
    training = "contrastive = 0.5\nscale = 0.25"
    run = make_run(SETTINGS.format(base=base), training, document="frozen = true" if frozen else "")
    objective = run.objective
    assert isinstance(objective, Retrieval)
    torch.manual_seed(0)
    size = objective.query.encoder.decoder.weight.shape[0]
    q, d = torch.rand(3, size).requires_grad_(), torch.rand(4, size).requires_grad_()
    batch = _batch()
    loss, parts = objective._loss(0, batch, q, d)
    scores = 0.25 * q.detach().numpy() @ d.detach().numpy().T
    cross = []
    for row in range(3):
        allowed = [column for column in range(4) if column == row or not batch.relevant[row, column]]
        cross.append(np.log(np.exp(scores[row, allowed]).sum()) - scores[row, row])
    taught = objective._teacher.scores(batch)
    wanted = objective._imitated.vectors(objective.query.ids(batch.texts), False)
    with torch.no_grad():
        sums = float(penalty("l1", q)), float(penalty("flops", d))
        imitated = float(imitation_loss(q, wanted))
    expected = {
        "contrastive": 0.5 * float(np.mean(cross)),
        "query penalty": 0.2 * sums[0],
        "document penalty": 0.0 if frozen else 0.05 * sums[1],
        "distillation": 0.7 * float(distillation_loss(torch.from_numpy(scores), taught)),
        "imitation": 0.3 * imitated,
    }
    for name, value in expected.items():
        assert parts[name] == pytest.approx(value, rel=1e-4), name
    assert float(loss.detach()) == pytest.approx(sum(expected.values()), rel=1e-4)
    assert parts["loss"] == pytest.approx(float(loss.detach()))
    assert parts["query terms"] == parts["document terms"] == size
    assert (parts["query weight"], parts["document weight"]) == (0.2, 0.0 if frozen else 0.05)
    # both sides of each part pull on the vectors
    loss.backward()
    assert q.grad.abs().sum() > 0
    assert d.grad.abs().sum() > 0


@pytest.mark.parametrize("frozen", [False, True])
def test_each_regularizer_is_steered_by_its_own_side(make_run: RunMaker, base: Path, frozen: bool) -> None:
    run = make_run(SETTINGS.format(base=base), document="frozen = true" if frozen else "")
    run.objective.observe(0, {"query terms": 32.0, "document terms": 25.0})
    query, document = run.objective.regularizers
    assert query.level == pytest.approx(0.2 * 2)
    assert document.level == pytest.approx(0.05 if frozen else 0.05 / 2)


def test_the_losses_of_imitation(make_run: RunMaker) -> None:
    extra = '[query_regularizer]\npenalty = "l1"\nweight = 0.2\nramp = 0'
    run = make_run(extra, "fragments = 0.5", objective="imitation")
    objective = run.objective
    assert isinstance(objective, Imitation)
    texts = objective._texts(np.random.default_rng([0, 5, 0, 0]))
    ids = objective.query.ids(texts)
    with torch.no_grad():
        vectors = objective.query.encode(ids, chunk=0, bf16=False)
    entry = objective.backward(0, 0)
    assert entry["query penalty"] == pytest.approx(0.2 * float(penalty("l1", vectors)), rel=1e-4)
    assert entry["imitation"] == pytest.approx(
        float(imitation_loss(vectors, objective._teacher.vectors(ids, False))), rel=1e-4
    )
    assert entry["loss"] == pytest.approx(entry["imitation"] + entry["query penalty"], rel=1e-5)
    assert entry["query terms"] == float((vectors > 0).sum(dim=1).float().mean())
    objective.observe(0, {"query terms": 16.0})
    assert objective.regularizers[0].level == pytest.approx(0.2 * 2**0.02)


def test_the_losses_of_middle_training(make_run: RunMaker) -> None:
    extra = '[document_regularizer]\npenalty = "flops"\nweight = 0.2\nramp = 0'
    objective = make_run(extra, objective="mlm").objective
    assert isinstance(objective, MiddleTraining)
    ids = objective.document.ids(objective._texts(0, 0))
    with torch.no_grad():
        flops = float(penalty("flops", objective.document.encode(ids, chunk=0, bf16=False)))
    entry = objective.backward(0, 0)
    assert flops > 0
    assert entry["document penalty"] == pytest.approx(0.2 * flops, rel=1e-4)
    assert entry["loss"] == pytest.approx(entry["masked tokens"] + entry["document penalty"], rel=1e-5)
    objective.observe(0, {"document terms": 300.0})
    assert objective.regularizers[1].level == pytest.approx(0.2 * 2**0.02)


def test_masking_is_that_of_bert(make_run: RunMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = make_run("[middle]\nmask_rate = 0.3", objective="mlm").objective
    assert isinstance(objective, MiddleTraining)
    encoder, tokenizer = objective.document.encoder, objective.document.tokens.tokenizer
    word, mask, cls, sep = (tokenizer.token_to_id(token) for token in ("kenya", "[MASK]", "[CLS]", "[SEP]"))
    texts = [[cls, *[word] * 20, sep] for _ in range(300)]
    seen: list[list[int]] = []
    plain = encoder.hidden

    def watched(masked: list[list[int]]) -> torch.Tensor:
        seen.extend(masked)
        return plain(masked)

    monkeypatch.setattr(encoder, "hidden", watched)
    targets: list[torch.Tensor] = []
    cross_entropy = torch.nn.functional.cross_entropy

    def entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        targets.append(target)
        return cross_entropy(logits, target)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", entropy)
    objective._guess_loss(texts, np.random.default_rng(0))
    assert {(text[0], text[-1]) for text in seen} == {(cls, sep)}
    inner = np.array([text[1:-1] for text in seen])
    chosen = sum(len(target) for target in targets)
    assert chosen == pytest.approx(0.3 * inner.size, rel=0.1)
    assert all((target == word).all() for target in targets)
    assert (inner == mask).sum() == pytest.approx(0.8 * chosen, rel=0.05)
    others = inner[(inner != mask) & (inner != word)]
    assert others.size == pytest.approx(0.1 * chosen, rel=0.25)
    assert not objective._silent[others].any()
    assert np.unique(others).size > 10
