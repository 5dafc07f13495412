"""Adapters (LoRA and its kin): merged into their base, or refused in a line; never the base alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from splade_edge.models import adapters
from splade_edge.models.opening import open_checkpoint
from splade_edge.models.options import OpenOptions
from splade_edge.models.reference import ReferenceEncoder
from splade_edge.models.weights import weights_sha256
from splade_edge.runtime.errors import CheckpointError, MissingExtraError

from .. import checkpoints

TEXTS = ["the steam engine of warsaw", "oxygen"]
QUERY = "bert.encoder.layer.0.attention.self.query"


def opened(path: Path, **options: Any) -> Any:
    return open_checkpoint(str(path), options=OpenOptions(family="splade-other", **options))


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(5, 17).reshape(2, 6)
    with torch.inference_mode():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def save_adapter(base: Path, path: Path, config: Any) -> Any:
    """Save what peft makes of ``base`` with random adapter weights to ``path``; returns peft's own model."""
    torch.manual_seed(1)
    model = peft.get_peft_model(transformers.AutoModelForMaskedLM.from_pretrained(base, dtype=torch.float32), config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (path / name).exists():
            shutil.copyfile(base / name, path / name)
    return model


LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"]}
KINDS = {
    "lora": lambda: peft.LoraConfig(**LORA),
    "rslora": lambda: peft.LoraConfig(**LORA, use_rslora=True),
    "dora": lambda: peft.LoraConfig(**LORA, use_dora=True),
    "bias": lambda: peft.LoraConfig(**LORA, bias="all"),
    "head": lambda: peft.LoraConfig(**LORA, modules_to_save=["transform"]),
    "embeddings": lambda: peft.LoraConfig(r=4, lora_alpha=8, target_modules=["word_embeddings"]),
    "decoder": lambda: peft.LoraConfig(r=4, lora_alpha=8, target_modules=["decoder", "query"]),
    "loha": lambda: peft.LoHaConfig(r=4, alpha=8, target_modules=["query"], init_weights=False),
    "ia3": lambda: peft.IA3Config(target_modules=["value"], feedforward_modules=[]),
    "masked-lm task": lambda: peft.LoraConfig(**LORA, task_type="FEATURE_EXTRACTION"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["beside", "alone"])
def test_merged_as_peft_does(tmp_path: Path, kind: str, place: str) -> None:
    base = checkpoints.write_checkpoint(tmp_path / "base", tied=True)
    path = checkpoints.copy(base, tmp_path / "c") if place == "beside" else tmp_path / "c"
    model = save_adapter(base, path, KINDS[kind]())
    assert (path / "config.json").exists() is (place == "beside")
    checkpoint = opened(path)
    expected = logits(model)
    assert float((logits(opened(base).model) - expected).abs().max()) > 0.01, "the adapter changes nothing"
    torch.testing.assert_close(logits(checkpoint.model), expected, atol=1e-5, rtol=0)
    assert not any("lora" in name or "base_layer" in name for name, _ in checkpoint.model.named_modules())
    where = "the base beside it" if place == "beside" else "its base base"
    assert any(f"adapter was merged into {where}" in note for note in checkpoint.notes)


def by_hand(base: Path, path: Path, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Write a LoRA of scale 2 on the queries to ``path``; the logits of ``base`` with 2 B A added to them."""
    path.mkdir(exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["query"], "bias": "none",
        "base_model_name_or_path": str(base),
    }))  # fmt: skip
    tensors = {f"base_model.model.{QUERY}.lora_A.weight": a, f"base_model.model.{QUERY}.lora_B.weight": b}
    save_file(tensors, path / "adapter_model.safetensors")
    shutil.copyfile(base / "tokenizer.json", path / "tokenizer.json")
    shutil.copyfile(base / "tokenizer_config.json", path / "tokenizer_config.json")
    model = transformers.AutoModelForMaskedLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        model.get_submodule(QUERY).weight += 2.0 * b @ a
    return logits(model)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, torch.Tensor]:
    """A base, its LoRA in another directory, and the logits that the two make."""
    torch.manual_seed(0)
    base = checkpoints.write_checkpoint(tmp_path / "base")
    return base, tmp_path / "lora", by_hand(base, tmp_path / "lora", torch.randn(4, 32), torch.randn(32, 4))


def test_the_scale_is_alpha_over_rank_and_added_once(pair: tuple[Path, Path, torch.Tensor]) -> None:
    base, lora, expected = pair
    torch.testing.assert_close(logits(opened(lora).model), expected, atol=1e-5, rtol=0)
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(base / name, lora / name)
    torch.testing.assert_close(logits(opened(lora).model), expected, atol=1e-5, rtol=0)
    own = transformers.AutoModelForMaskedLM.from_pretrained(lora, dtype=torch.float32)
    torch.testing.assert_close(logits(own), expected, atol=1e-5, rtol=0)


def test_vectors_are_those_of_the_merged_model(pair: tuple[Path, Path, torch.Tensor]) -> None:
    base, lora, _ = pair
    found = ReferenceEncoder(opened(lora)).encode(TEXTS)
    merged = peft.PeftModel.from_pretrained(transformers.AutoModelForMaskedLM.from_pretrained(base), lora)
    merged.merge_and_unload().save_pretrained(lora.parent / "merged")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(base / name, lora.parent / "merged" / name)
    np.testing.assert_allclose(found, ReferenceEncoder(opened(lora.parent / "merged")).encode(TEXTS), atol=1e-5)
    assert np.abs(found - ReferenceEncoder(opened(base)).encode(TEXTS)).max() > 0.01


def test_the_hash_covers_base_adapter_and_scale(pair: tuple[Path, Path, torch.Tensor]) -> None:
    base, lora, _ = pair
    seen = {weights_sha256(base), weights_sha256(lora)}
    config = json.loads((lora / "adapter_config.json").read_text())
    (lora / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 16}))
    seen.add(weights_sha256(lora))
    tensors = load_file(lora / "adapter_model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, lora / "adapter_model.safetensors")
    seen.add(weights_sha256(lora))
    checkpoints.edit_weights(base, lambda t: t["cls.predictions.bias"].add_(1))
    seen.add(weights_sha256(lora))
    assert len(seen) == 5


def test_a_cached_repository_is_a_base(
    pair: tuple[Path, Path, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, lora, expected = pair
    from huggingface_hub import constants

    revision = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "hub" / "models--someone--base"
    shutil.copytree(base, repo / "snapshots" / revision)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(revision)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    config = json.loads((lora / "adapter_config.json").read_text())
    (lora / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "someone/base"}))
    checkpoint = opened(lora)
    torch.testing.assert_close(logits(checkpoint.model), expected, atol=1e-5, rtol=0)
    assert any("merged into its base someone/base" in note for note in checkpoint.notes)


def test_a_base_that_is_not_here_is_named_with_the_way_out(pair: tuple[Path, Path, torch.Tensor]) -> None:
    _, lora, _ = pair
    config = json.loads((lora / "adapter_config.json").read_text())
    for named, message in (
        ("someone/nowhere", r"adapter of someone/nowhere, which is not here.*merge_and_unload"),
        (None, r"names no base.*merge_and_unload"),
        (str(lora), r"which is an adapter itself"),
    ):
        (lora / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": named}))
        with pytest.raises(CheckpointError, match=message) as caught:
            opened(lora)
        assert "\n" not in str(caught.value)


def test_without_peft_the_extra_is_named(
    pair: tuple[Path, Path, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"LORA adapter.*pip install 'splade-edge\[adapters\]'"):
        opened(pair[1])


def test_a_pickled_adapter_needs_leave(pair: tuple[Path, Path, torch.Tensor]) -> None:
    _, lora, expected = pair
    torch.save(load_file(lora / "adapter_model.safetensors"), lora / "adapter_model.bin")
    (lora / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"adapter only as a pickle.*--allow-pickle"):
        opened(lora)
    torch.testing.assert_close(logits(opened(lora, allow_pickle=True).model), expected, atol=1e-5, rtol=0)
    (lora / "adapter_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"adapter_config\.json and no adapter_model\.safetensors"):
        opened(lora)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: {k.replace("layer.0", "layer.7"): v for k, v in t.items()}, "lacks|no place for"),
        (lambda t: {k: v for k, v in t.items() if "lora_A" in k}, "lacks .*lora_B"),
        (lambda t: {k: v[:2] if "lora_A" in k else v for k, v in t.items()}, "does not merge this LORA adapter"),
        (lambda t: t | {"base_model.model.bert.other.weight": torch.zeros(2)}, "no place for: .*other"),
    ],
    ids=["other layers", "half", "shape", "more"],
)
def test_tensors_that_do_not_fit(pair: tuple[Path, Path, torch.Tensor], edit: Any, message: str) -> None:
    path = pair[1] / "adapter_model.safetensors"
    save_file(edit(load_file(path)), path)
    with pytest.raises(CheckpointError, match=message) as caught:
        opened(pair[1])
    assert "\n" not in str(caught.value)


def test_what_cannot_be_merged_is_refused(tmp_path: Path) -> None:
    base = checkpoints.write_checkpoint(tmp_path / "base")
    config = peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="FEATURE_EXTRACTION")
    save_adapter(base, tmp_path / "c", config)
    with pytest.raises(CheckpointError, match="PREFIX_TUNING adapter, which adds inputs and cannot be merged"):
        opened(tmp_path / "c")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"peft_type": 3}'])
def test_a_damaged_configuration(pair: tuple[Path, Path, torch.Tensor], text: str) -> None:
    (pair[1] / "adapter_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"adapter_config\.json.*get the adapter again"):
        opened(pair[1])
