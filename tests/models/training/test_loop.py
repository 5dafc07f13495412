from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
import torch
from splade_edge.models.opening import open_checkpoint
from splade_edge.models.training import compare
from splade_edge.models.training.checkpoints import identity_of
from splade_edge.models.training.curves import draw_curves
from splade_edge.models.training.loop import Run
from splade_edge.models.training.middle import MiddleTraining
from splade_edge.models.training.output import write_pair
from splade_edge.models.training.runfile import read_run_file
from splade_edge.models.training.settings import EncoderSettings, MiddleSettings, RunFile, TrainingSettings
from splade_edge.models.training.side import Side
from splade_edge.models.training.teacher import DenseEncoder, EmbeddingFile
from splade_edge.runtime.errors import CheckpointError, InputError

from ... import checkpoints
from ...checkpoints import copy
from .conftest import RunWriter, with_pooling

HEADS = (
    '\n[teacher]\nlexical = 0.5\nbase = "{base}"\n[query_regularizer]\nramp = 0\nsteer = 0.2\n'
    '[document_regularizer]\npenalty = "flops"\nweight = 0.01\nramp = 0\nsteer = 0.2\nterms = 8\n'
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
    for one, other in zip(first.objective.regularizers, second.objective.regularizers, strict=True):
        assert one.level == other.level != one.settings.weight
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


@pytest.mark.parametrize("damage", ["gone", "shorter"])
def test_marks_of_embeddings_that_are_gone_do_not_count(base: Path, tmp_path: Path, damage: str) -> None:
    encoder = DenseEncoder(str(base), 16)
    texts = ["steam engine", "war"]
    before = EmbeddingFile(tmp_path, texts, encoder)[np.array([0, 1])]
    [rows] = tmp_path.glob("*.f16")
    if damage == "gone":
        rows.unlink()
    else:
        rows.write_bytes(rows.read_bytes()[:-2])
    np.testing.assert_array_equal(EmbeddingFile(tmp_path, texts, encoder)[np.array([0, 1])], before)
    assert before.any()


def test_a_teacher_pools_as_its_files_say(base: Path, tmp_path: Path) -> None:
    texts = ["steam engine of war", "war"]
    mean, first = (
        DenseEncoder(str(base), 16),
        DenseEncoder(
            str(
                with_pooling(copy(base, tmp_path / "cls"), pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
            ),
            16,
        ),
    )
    assert first.key != mean.key
    for encoder in (mean, first):
        for text, vector in zip(texts, encoder.encode(texts), strict=True):
            with torch.inference_mode():
                states = encoder.model(input_ids=torch.tensor(encoder.texts.ids([text], 16))).last_hidden_state[0]
            pooled = (states[0] if encoder is first else states.mean(dim=0)).numpy()
            np.testing.assert_allclose(vector, pooled / np.linalg.norm(pooled), atol=1e-5)
    named = with_pooling(copy(base, tmp_path / "named"), pooling_mode="cls")
    np.testing.assert_array_equal(DenseEncoder(str(named), 16).encode(texts), first.encode(texts))
    bare = copy(base, tmp_path / "bare")
    shutil.rmtree(bare / "1_Pooling")
    with pytest.raises(CheckpointError, match="masked-language model without 1_Pooling"):
        DenseEncoder(str(bare), 16)
    config = json.loads((bare / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))
    np.testing.assert_array_equal(DenseEncoder(str(bare), 16).encode(texts), mean.encode(texts))
    (base_with_dense := copy(base, tmp_path / "dense") / "2_Dense").mkdir()
    with pytest.raises(CheckpointError, match="dense layer after pooling"):
        DenseEncoder(str(base_with_dense.parent), 16)
    both = with_pooling(copy(base, tmp_path / "max"), pooling_mode_max_tokens=True, pooling_mode_mean_tokens=True)
    with pytest.raises(CheckpointError, match="pools by max_tokens and mean_tokens; name one with mean or cls"):
        DenseEncoder(str(both), 16)


def test_a_new_key_with_a_default_leaves_a_run_what_it_is(write_run: RunWriter) -> None:
    run = read_run_file(write_run())
    longer: Any = msgspec.defstruct(
        "Longer", [("new_key", int, 3)], bases=(TrainingSettings,), frozen=True, kw_only=True
    )
    tables: Any = msgspec.defstruct(
        "More", [("new_table", MiddleSettings, msgspec.field(default_factory=MiddleSettings))],
        bases=(RunFile,), frozen=True, kw_only=True,
    )  # fmt: skip

    def with_key(**changes: int) -> Any:
        training = longer(**msgspec.structs.asdict(run.training), **changes)
        return tables(**msgspec.structs.asdict(run) | {"training": training})

    assert identity_of(with_key(), []) == identity_of(run, [])
    assert identity_of(with_key(new_key=4), []) != identity_of(run, [])


@pytest.mark.parametrize("side", ["query", "document"])
def test_the_licence_of_a_pair_goes_on_to_what_starts_from_a_side(
    tmp_path: Path, side: Literal["query", "document"]
) -> None:
    pair = checkpoints.write_pair(tmp_path / "base-pair")
    encoder = Side(EncoderSettings(base=str(pair / side), frozen=True), [], 0, torch.device("cpu"))
    write_pair(tmp_path / "out", {side: encoder}, {"step": 1})
    assert open_checkpoint(str(tmp_path / "out"), side).licence == "apache-2.0"
    # a README beside another checkpoint is not about it
    (pair / side).rename(pair / "other")
    encoder = Side(EncoderSettings(base=str(pair / "other"), frozen=True), [], 0, torch.device("cpu"))
    write_pair(tmp_path / "out2", {side: encoder}, {"step": 1})
    assert open_checkpoint(str(tmp_path / "out2"), side).licence == "unknown"


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
