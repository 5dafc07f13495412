"""What a checkpoint's weights are stored as, and how those that cannot be right are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from splade_edge.models.opening import open_checkpoint
from splade_edge.models.options import OpenOptions
from splade_edge.models.weights import stored_dtype
from splade_edge.runtime.errors import CheckpointError

from .. import checkpoints


def opens(path: Path) -> Any:
    return open_checkpoint(str(path), options=OpenOptions(family="splade-other")).model


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(path), options=OpenOptions(family="splade-other", **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", [lambda p: p, checkpoints.to_shards, checkpoints.to_pickle])
def test_the_stored_dtype_is_that_of_the_tensors(tmp_path: Path, dtype: torch.dtype, form: Any) -> None:
    path = checkpoints.write_checkpoint(tmp_path / "c", dtype=dtype)
    config = json.loads((path / "config.json").read_text())
    checkpoints.write_json(path / "config.json", config | {"dtype": "float64"})
    # A few of another dtype do not change what it is.
    checkpoints.edit_weights(path, lambda t: t.update({"cls.predictions.bias": t["cls.predictions.bias"].double()}))
    assert stored_dtype(form(path)) == dtype


def test_the_dtype_of_no_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no weights"):
        stored_dtype(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="does not load"):
        stored_dtype(tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "gptq", "bits": 4, "group_size": 128},
        {"quant_method": "awq", "bits": 4},
        {"quant_method": "fp8"},
        {"quant_method": "one of tomorrow"},
        {"bits": 4},
    ],
    ids=lambda settings: settings.get("quant_method", "unnamed"),
)
def test_quantized_weights_are_refused(tmp_path: Path, settings: dict) -> None:
    path = checkpoints.write_checkpoint(tmp_path / "c")
    config = json.loads((path / "config.json").read_text())
    checkpoints.write_json(path / "config.json", config | {"quantization_config": settings})
    message = refused(path)
    assert str(path / "config.json") in message
    assert "quantization_config" in message
    assert settings.get("quant_method", "unknown") in message
    assert "dequantize" in message


@pytest.mark.parametrize(
    ("prefix", "cause"),
    [
        ("module.", "DistributedDataParallel"),
        ("_orig_mod.", r"torch.compile"),
        ("model.", "Lightning"),
        ("base_model.model.", "peft model that was not merged"),
        ("encoder.bert_model.", "a class that the encoder was wrapped in"),
    ],
)
@pytest.mark.parametrize("architecture", ["bert", "distilbert", "modernbert"])
def test_a_wrapper_is_named_with_its_cause(tmp_path: Path, architecture: str, prefix: str, cause: str) -> None:
    path = checkpoints.write_checkpoint(tmp_path / "c", architecture)

    def wrap(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[prefix + name] = tensors.pop(name)

    before = opens(path).state_dict()
    checkpoints.edit_weights(path, wrap)
    if (architecture, prefix) == ("modernbert", "model."):
        # transformers takes its own base_model_prefix off; all tensors find their places.
        assert all(torch.equal(tensor, before[name]) for name, tensor in opens(path).state_dict().items())
        return
    message = refused(path)
    assert repr(prefix) in message
    assert cause in message
    assert "take the prefix off" in message


def test_a_package_that_the_class_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    path = checkpoints.write_checkpoint(tmp_path / "c")
    config = json.loads((path / "config.json").read_text())
    names = {"AutoConfig": "own_config.OwnConfig", "AutoModelForMaskedLM": "own_model.OwnForMaskedLM"}
    checkpoints.write_json(path / "config.json", config | {"model_type": "own", "auto_map": names})
    (path / "own_config.py").write_text(
        "from transformers import BertConfig\n\n\nclass OwnConfig(BertConfig):\n    model_type = 'own'\n"
    )
    (path / "own_model.py").write_text(
        "import a_package_nobody_has\nfrom transformers import BertForMaskedLM\n"
        "from .own_config import OwnConfig\n\n\nclass OwnForMaskedLM(BertForMaskedLM):\n    config_class = OwnConfig\n"
    )
    message = refused(path, trust_remote_code=True)
    assert "needs a package: pip install a_package_nobody_has" in message
