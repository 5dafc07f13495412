from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from splade_edge.models.opening import open_checkpoint
from splade_edge.models.options import OpenOptions
from splade_edge.models.reference import ReferenceEncoder
from splade_edge.runtime.errors import CheckpointError, InputError

from .. import checkpoints

TEXT = ["the steam engine of warsaw"]


def opens(path: Path, **options: object):
    return open_checkpoint(str(path), options=OpenOptions(**options))


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "roberta", "modernbert"])
@pytest.mark.parametrize("tied", [True, False])
def test_tied_and_untied_heads_reload_as_they_were(tmp_path: Path, architecture: str, tied: bool) -> None:
    path = checkpoints.write_checkpoint(tmp_path / "c", architecture, tied=tied)
    checkpoint = opens(path)
    decoder, embeddings = checkpoint.model.get_output_embeddings(), checkpoint.model.get_input_embeddings()
    assert (decoder.weight.data_ptr() == embeddings.weight.data_ptr()) is tied
    assert decoder.bias.min() < -1, "the decoder's bias was lost"
    assert checkpoint.role == "both"
    assert checkpoint.max_positions == checkpoints.SIZE["positions"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_loaded_as_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoint = opens(checkpoints.write_checkpoint(tmp_path / "c", dtype=dtype))
    assert {p.dtype for p in checkpoint.model.parameters()} == {torch.float32}
    assert ReferenceEncoder(checkpoint).encode(TEXT).dtype == np.float32


@pytest.mark.parametrize(
    ("architecture", "tied", "keys"),
    [
        ("bert", True, ["cls.predictions.bias"]),
        ("bert", False, ["cls.predictions.bias", "cls.predictions.decoder.bias"]),
        ("distilbert", True, ["vocab_projector.bias"]),
        ("roberta", True, ["lm_head.bias"]),
    ],
)
def test_a_missing_decoder_bias_is_named(tmp_path: Path, architecture: str, tied: bool, keys: list[str]) -> None:
    path = checkpoints.write_checkpoint(tmp_path / "c", architecture, tied=tied)

    def remove(tensors: dict[str, torch.Tensor]) -> None:
        for key in keys:
            tensors.pop(key, None)

    checkpoints.edit_weights(path, remove)
    with pytest.raises(CheckpointError, match=r"incomplete.*" + keys[-1]):
        opens(path)


def test_an_untied_bias_under_its_old_name_is_used_and_noted(tmp_path: Path) -> None:
    """transformers 4 wrote HEAD.bias only; transformers 5 would leave the decoder's bias at zero."""
    path = checkpoints.write_checkpoint(tmp_path / "c", tied=False)
    expected = ReferenceEncoder(opens(path)).encode(TEXT)
    checkpoints.edit_weights(path, lambda tensors: tensors.pop("cls.predictions.decoder.bias"))
    checkpoint = opens(path)
    assert checkpoint.notes == ("cls.predictions.decoder.bias was taken from cls.predictions.bias, its other name",)
    np.testing.assert_array_equal(ReferenceEncoder(checkpoint).encode(TEXT), expected)


def test_known_leftovers_are_noted_and_unknown_tensors_refused(tmp_path: Path) -> None:
    path = checkpoints.write_checkpoint(tmp_path / "c")
    checkpoints.edit_weights(path, lambda t: t.update({"bert.pooler.dense.weight": torch.zeros(32, 32)}))
    assert opens(path).notes == ("bert.pooler.dense.weight is in the weights and not used",)
    checkpoints.edit_weights(path, lambda t: t.update({"bert.encoder.adapter.weight": torch.zeros(2, 2)}))
    with pytest.raises(CheckpointError, match=r"does not use: bert\.encoder\.adapter\.weight"):
        opens(path)


def test_a_missing_layer_is_named(tmp_path: Path) -> None:
    path = checkpoints.write_checkpoint(tmp_path / "c")
    checkpoints.edit_weights(path, lambda t: t.pop("bert.encoder.layer.0.output.dense.weight"))
    with pytest.raises(CheckpointError, match=r"incomplete: its weights lack bert\.encoder\.layer\.0\.output\.dense"):
        opens(path)


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "roberta"])
def test_a_model_without_a_head_is_not_splade(tmp_path: Path, architecture: str) -> None:
    import transformers

    path = checkpoints.write_checkpoint(tmp_path / "c", architecture)
    transformers.AutoModel.from_pretrained(path).save_pretrained(path)
    with pytest.raises(CheckpointError, match="no masked-language-model head"):
        opens(path)


def test_another_kind_of_model_is_not_splade(tmp_path: Path) -> None:
    path = checkpoints.write_checkpoint(tmp_path / "c")
    checkpoints.write_json(path / "config.json", {"model_type": "gpt2", "vocab_size": 10})
    with pytest.raises(CheckpointError, match="'gpt2' model, which has no masked-language-model head"):
        opens(path)


def test_code_of_the_checkpoint_is_not_run_unasked(tmp_path: Path) -> None:
    path = checkpoints.write_checkpoint(tmp_path / "c")
    marker = tmp_path / "ran"
    (path / "modeling.py").write_text(f"open({str(marker)!r}, 'w')\n")
    auto_map = {"AutoConfig": "modeling.C", "AutoModelForMaskedLM": "modeling.M"}
    checkpoints.write_json(path / "config.json", {"model_type": "new-kind", "auto_map": auto_map})
    with pytest.raises(CheckpointError, match="--trust-remote-code"):
        opens(path)
    assert not marker.exists()


def test_pickles_need_permission(tmp_path: Path, bert: Path) -> None:
    path = checkpoints.to_pickle(checkpoints.copy(bert, tmp_path / "c"))
    with pytest.raises(CheckpointError, match="--allow-pickle"):
        opens(path)
    expected = ReferenceEncoder(opens(bert)).encode(TEXT)
    np.testing.assert_array_equal(ReferenceEncoder(opens(path, allow_pickle=True)).encode(TEXT), expected)


def test_shards_are_one_model(tmp_path: Path, bert: Path) -> None:
    path = checkpoints.to_shards(checkpoints.copy(bert, tmp_path / "c"))
    expected = ReferenceEncoder(opens(bert)).encode(TEXT)
    checkpoint = opens(path)
    np.testing.assert_array_equal(ReferenceEncoder(checkpoint).encode(TEXT), expected)
    (path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="does not load"):
        opens(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda p: (p / "model.safetensors").write_bytes((p / "model.safetensors").read_bytes()[:900]),
            "does not load",
        ),
        (lambda p: (p / "model.safetensors").write_bytes(b"\xff" * 64), "does not load"),
        (lambda p: (p / "model.safetensors").unlink(), "has no weights"),
        (lambda p: (p / "config.json").write_text("{"), "config.json does not load"),
        (lambda p: (p / "tokenizer.json").write_text("{}"), "tokenizer of .* does not load"),
        (lambda p: [f.unlink() for f in p.glob("tokenizer*")], "has no tokenizer"),
        (lambda p: checkpoints.edit_weights(p, lambda t: t["cls.predictions.bias"].fill_(float("nan"))), "not finite"),
        (
            lambda p: checkpoints.edit_weights(p, lambda t: t.update({"cls.predictions.bias": torch.zeros(7)})),
            "shape|does not load",
        ),
    ],
)
def test_damage_gets_one_clear_error(tmp_path: Path, bert: Path, damage, message: str) -> None:
    path = checkpoints.copy(bert, tmp_path / "c")
    damage(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        opens(path)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path, bert: Path) -> None:
    path = checkpoints.copy(bert, tmp_path / "c")
    tokenizer = checkpoints.tokenizer()
    tokenizer.add_tokens(["extra"])
    tokenizer.save_pretrained(path)
    with pytest.raises(CheckpointError, match="do not belong together"):
        opens(path)


def test_maximum_length(tmp_path: Path, bert: Path) -> None:
    assert opens(bert).max_length == 32
    assert opens(bert, max_length=64).max_length == 64
    with pytest.raises(CheckpointError, match="up to 64 tokens"):
        opens(bert, max_length=65)
    with pytest.raises(CheckpointError, match="--max-length 2"):
        opens(bert, max_length=2)
    silent = checkpoints.write_checkpoint(tmp_path / "silent", max_length=None)
    assert opens(silent).max_length == 64, "the family's 256, but no more than the model's positions"


def test_licence_from_front_matter_option_or_unknown(tmp_path: Path, bert: Path) -> None:
    path = checkpoints.copy(bert, tmp_path / "c")
    assert opens(path).licence == "unknown"
    (path / "README.md").write_text("---\nlicense: cc-by-nc-sa-4.0\nlanguage: en\n---\n# x\n")
    assert opens(path).licence == "cc-by-nc-sa-4.0"
    assert opens(path, licence="mine").licence == "mine"


def test_the_name_in_the_artifact_has_no_machine_path(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert opens(bert).located.name == bert.name
    monkeypatch.chdir(bert.parent)
    assert opens(Path(bert.name)).located.name == bert.name


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nobody/nothing", "not in the hub cache, and the hub may not be asked"),
        ("/no/such/dir", "neither a directory nor a hub id"),
        ("a/b/c", "neither a directory nor a hub id"),
        ("", "neither a directory nor a hub id"),
    ],
)
def test_what_is_neither_here_nor_reachable(spec: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(spec, options=OpenOptions(offline=True))


def test_a_cached_snapshot_opens_offline(tmp_path: Path, bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--tiny"
    checkpoints.copy(bert, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    checkpoint = open_checkpoint("someone/tiny", options=OpenOptions(offline=True))
    assert (checkpoint.located.name, checkpoint.located.revision) == ("someone/tiny", commit)


def test_the_power_of_the_idf_is_stated_by_the_configuration_or_asked(tmp_path: Path) -> None:
    pair = checkpoints.write_pair(tmp_path / "pair")
    assert opens(checkpoints.write_checkpoint(tmp_path / "both")).query_idf == 0.0
    for side in ("query", "document"):
        config = pair / side / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"query_idf": 0.25}))
    assert open_checkpoint(str(pair), "query").query_idf == 0.25
    assert open_checkpoint(str(pair), "document").query_idf == 0.0, "a document's weights are not multiplied"
    assert open_checkpoint(str(pair), "query", OpenOptions(query_idf=0.0)).query_idf == 0.0
    with pytest.raises(InputError, match="the power of the idf is 9"):
        open_checkpoint(str(pair), "query", OpenOptions(query_idf=9))
    for bad in ("much", "0.4", -1, True, None, [1]):
        config = pair / "query" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"query_idf": bad}))
        with pytest.raises(CheckpointError, match=r"config\.json has query_idf .*, which is no number from 0 to 4"):
            open_checkpoint(str(pair), "query")


def test_a_query_encoder_that_training_wrote_says_so(tmp_path: Path) -> None:
    path = checkpoints.write_checkpoint(tmp_path / "c")
    (path / "training.json").write_text('{"run": "fit", "step": 3, "role": "query"}')
    with pytest.raises(CheckpointError, match="c was trained as the query encoder of a pair; say --role query"):
        opens(path)
    assert open_checkpoint(str(path), "query").role == "query"
    (path / "training.json").write_text('{"run": "fit", "step": 3}')
    assert opens(path).role == "both"
