from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from splade_edge.models.checkpoint import open_checkpoint
from splade_edge.models.training import compare
from splade_edge.models.training.curves import draw_curves
from splade_edge.models.training.loop import Run
from splade_edge.models.training.middle import MiddleTraining
from splade_edge.models.training.runfile import read_run_file
from splade_edge.models.training.teacher import DenseEncoder, EmbeddingFile
from splade_edge.runtime.errors import InputError

from .conftest import RunWriter

HEADS = (
    '\n[teacher]\nlexical = 0.5\nbase = "{base}"\n[document_regularizer]\npenalty = "flops"\nweight = 0.01\nterms = 8\n'
)


def parameters(run: Run) -> dict[str, np.ndarray]:
    return {f"{m}/{n}": p.detach().numpy().copy() for m, e in run.models.items() for n, p in e.named_parameters()}


def log_of(run: Run) -> list[dict[str, float]]:
    lines = (run.output / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


@pytest.mark.parametrize("chunk", [0, 3])
def test_a_resumed_run_is_the_run_that_was_not_stopped(
    write_run: RunWriter, base: Path, tmp_path: Path, chunk: int
) -> None:
    training = (
        f"fragments = 0.3\nsteps = 6\nbatch = 4\nchunk = {chunk}\naccumulate = 2\nlearning_rate = 0.01\nwarmup = 2"
    )
    settings = read_run_file(write_run(HEADS.format(base=base), training=training))
    whole = Run(settings, tmp_path / "whole", tmp_path / "cache")
    whole.train()
    first = Run(settings, tmp_path / "parts", tmp_path / "cache")
    first.train(stop=lambda: first.step == 3)
    # A kill after the checkpoint: steps that were logged and lost, and half a line.
    with (first.output / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "loss": 9}\n{"step": 5, "lo')
    second = Run(settings, tmp_path / "parts", tmp_path / "cache")
    assert second.resume() == 3
    second.train()
    for name, value in parameters(whole).items():
        np.testing.assert_array_equal(parameters(second)[name], value, err_msg=name)
    assert log_of(whole) == log_of(second)
    assert [entry["step"] for entry in log_of(whole)] == list(range(7))
    assert whole.optimizer.param_groups[0]["lr"] == second.optimizer.param_groups[0]["lr"]


def test_gradient_caching_gives_the_same_gradients(write_run: RunWriter, base: Path, tmp_path: Path) -> None:
    found = []
    for chunk in (0, 2):
        training = f"steps = 4\nbatch = 6\nchunk = {chunk}"
        run = Run(read_run_file(write_run(HEADS.format(base=base), training=training)), tmp_path, tmp_path / "cache")
        run.objective.backward(0, 0)
        found.append({n: p.grad for m in run.models.values() for n, p in m.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


def test_training_learns_and_its_pair_opens(write_run: RunWriter, base: Path, tmp_path: Path) -> None:
    path = write_run(training="steps = 60\nbatch = 8\nlearning_rate = 0.0005\nwarmup = 2")
    head = 'head = "lexical"\nthreshold = 0.5\nfreeze = ["word_embeddings"]'
    path.write_text(path.read_text().replace("max_length = 16", f"max_length = 16\n{head}"))
    run = Run(read_run_file(path), tmp_path / "out", tmp_path / "cache")
    run.train()
    log = log_of(run)
    assert np.mean([e["contrastive"] for e in log[-5:]]) < 0.7 * np.mean([e["contrastive"] for e in log[1:6]])
    for role in ("query", "document"):
        opened = open_checkpoint(str(tmp_path / "out" / "pair"), role)
        assert opened.model.dtype == torch.float32
        trained = dict(run.models[role].model.named_parameters())
        for name, value in opened.model.named_parameters():
            np.testing.assert_allclose(value.detach(), trained[name].detach(), rtol=1e-3, atol=1e-3)
    picture = draw_curves(tmp_path / "out")
    assert picture.read_bytes().startswith(b"\x89PNG")
    table = compare.table([tmp_path / "out"])
    assert f"{log[-1]['ndcg/small']:.3f}" in table
    assert "| out | 60 |" in table


def test_one_encoder_can_serve_both_sides(write_run: RunWriter, tmp_path: Path) -> None:
    run = Run(read_run_file(write_run(query=False)), tmp_path / "out", tmp_path / "cache")
    run.train()
    assert list(run.models) == ["document"]
    assert run.objective.query is run.objective.document
    opened = open_checkpoint(str(tmp_path / "out" / "pair"))
    assert opened.role == "both"


def test_a_frozen_side_stays_as_it_is(write_run: RunWriter, tmp_path: Path) -> None:
    path = write_run("[teacher]\n")
    text = path.read_text().replace("[query]", "frozen = true\n[query]")
    path.write_text(text)
    run = Run(read_run_file(path), tmp_path / "out", tmp_path / "cache")
    before = parameters(run)
    run.train()
    changed = {name for name, value in parameters(run).items() if not np.array_equal(value, before[name])}
    assert changed
    assert all(name.startswith("query/") for name in changed)
    assert open_checkpoint(str(tmp_path / "out" / "pair"), "document").weights_sha256


def test_middle_training_masks_and_learns(write_run: RunWriter, tmp_path: Path) -> None:
    path = write_run(training="steps = 30\nbatch = 8\nlearning_rate = 0.01\nwarmup = 2", query=False)
    path.write_text('objective = "mlm"\n' + path.read_text() + "[middle]\nmask_rate = 0.4\n")
    run = Run(read_run_file(path), tmp_path / "out", tmp_path / "cache")
    assert isinstance(run.objective, MiddleTraining)
    ids = run.objective.document.ids(["the oil crisis began", "war"])
    kept = [list(text) for text in ids]
    run.objective._guess_loss(ids, np.random.default_rng(0))
    assert ids == kept
    stop_words = run.objective.document.ids(["the a of in and is"])
    assert float(run.objective._guess_loss(stop_words, np.random.default_rng(0))) == 0.0
    run.train()
    log = log_of(run)
    assert np.mean([e["masked tokens"] for e in log[-5:]]) < np.mean([e["masked tokens"] for e in log[1:6]])
    assert open_checkpoint(str(tmp_path / "out" / "pair")).role == "both"


def test_imitation_brings_the_vectors_together(write_run: RunWriter, base: Path, tmp_path: Path) -> None:
    path = write_run(training="steps = 80\nbatch = 8\nlearning_rate = 0.01\nwarmup = 2")
    text = path.read_text()
    before, after = text.index("[document]"), text.index("[query]")
    text = text[:before] + text[after:]
    text = text.replace(
        "max_length = 16", 'max_length = 16\nwidth = 16\nlayers = [0]\nhead = "identity"\nthreshold = 0.0'
    )
    path.write_text(f'objective = "imitation"\n{text}[teacher]\nquery_vectors = "{base}"\n')
    run = Run(read_run_file(path), tmp_path / "out", tmp_path / "cache")
    run.train()
    log = log_of(run)
    assert log[-1]["imitation"] < 0.5 * log[0]["imitation"]
    assert (tmp_path / "out" / "pair" / "model.safetensors").is_file()


def test_checkpoints_of_other_runs_and_damaged_ones_are_refused(write_run: RunWriter, tmp_path: Path) -> None:
    run = Run(read_run_file(write_run()), tmp_path / "out", tmp_path / "cache")
    run.train()
    phases: list[str] = []
    with pytest.raises(InputError, match="other settings"):
        Run(read_run_file(write_run("weight_decay = 0.5")), tmp_path / "out", tmp_path / "cache", phases.append)
    assert phases
    assert all("reading" in phase for phase in phases)  # refused before anything takes long
    state = run.output / "checkpoint" / "state.json"
    for what in ("weights", "collections"):
        written = json.loads(state.read_text())
        written["identity"][what] = "0" * 64
        kept = state.read_bytes()
        state.write_text(json.dumps(written))
        with pytest.raises(InputError, match=f"other {what}"):
            run.resume()
        state.write_bytes(kept)
    assert run.resume() == 4
    tensors = tmp_path / "out" / "checkpoint" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:1000])
    with pytest.raises(InputError, match="damaged"):
        run.resume()


def test_teacher_embeddings_are_computed_once(base: Path, tmp_path: Path) -> None:
    encoder = DenseEncoder(str(base), 16)
    texts = ["steam engine", "oil crisis of the first year", "war"]
    direct = encoder.encode(texts)
    np.testing.assert_allclose(np.linalg.norm(direct, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(encoder.encode(texts[:1])[0], direct[0], atol=1e-5)
    kept = EmbeddingFile(tmp_path, texts, encoder)
    np.testing.assert_allclose(kept[np.array([2, 0])], direct[[2, 0]], atol=2e-3)
    [rows] = tmp_path.glob("*.f16")
    rows.write_bytes(rows.read_bytes())  # as after a kill: what is marked is there
    encoder.encode = None  # type: ignore[method-assign, assignment]
    again = EmbeddingFile(tmp_path, texts, encoder)
    np.testing.assert_allclose(again[np.array([0, 2])], direct[[0, 2]], atol=2e-3)
    with pytest.raises(TypeError):  # not computed yet: it asks the encoder
        again[np.array([1])]
    others = EmbeddingFile(tmp_path, texts[:2], encoder)
    with pytest.raises(TypeError):
        others[np.array([0])]


def test_compare_needs_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not the directory of a run"):
        compare.last_figures(tmp_path)
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2}\n')
    with pytest.raises(InputError, match="no evaluation"):
        compare.last_figures(tmp_path)


def test_a_gradient_that_is_not_finite_stops_the_run_and_keeps_its_state(write_run: RunWriter, tmp_path: Path) -> None:
    run = Run(read_run_file(write_run()), tmp_path / "out", tmp_path / "cache")
    run.train(stop=lambda: run.step == 2)
    kept = (run.output / "checkpoint" / "tensors.safetensors").read_bytes()
    with torch.no_grad():
        next(iter(run.models["query"].parameters())).fill_(float("nan"))
    with pytest.raises(InputError, match="not finite"):
        run.train()
    assert (run.output / "checkpoint" / "tensors.safetensors").read_bytes() == kept
