from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from splade_edge.models.opening import open_checkpoint
from splade_edge.models.training.average import average, main
from splade_edge.runtime.errors import InputError

from ...checkpoints import copy, edit_weights


def test_the_average_lies_between_and_opens(base: Path, tmp_path: Path) -> None:
    other = edit_weights(copy(base, tmp_path / "other"), lambda t: t.update({n: v + 1 for n, v in t.items()}))
    average(base, other, tmp_path / "mean", 0.25)
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "mean" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        torch.testing.assert_close(after[name].float(), tensor.float() + 0.25, atol=1e-2, rtol=1e-3)
    open_checkpoint(str(tmp_path / "mean"), "query")


def test_what_does_not_fit_is_refused_in_one_line(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = copy(base, tmp_path / "fewer")
    tensors = load_file(fewer / "model.safetensors")
    tensors.popitem()
    save_file(tensors, fewer / "model.safetensors")
    with pytest.raises(InputError, match="same tensors"):
        average(base, fewer, tmp_path / "mean", 0.5)
    bare = copy(base, tmp_path / "bare")
    (bare / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"must be checkpoints with model.safetensors and tokenizer.json"):
        average(base, bare, tmp_path / "mean", 0.5)
    with pytest.raises(InputError, match="from 0 to 1"):
        average(base, base, tmp_path / "mean", 2.0)
    with pytest.raises(SystemExit) as stopped:
        main([str(base), str(tmp_path), "-o", str(tmp_path / "mean")])
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "mean").exists()
