"""Tokenizers as transformers builds them, and as their files say: the artifact has the one that is meant, or none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from splade_edge.export.exporter import ExportResult, export
from splade_edge.export.request import ExportRequest
from splade_edge.models.options import OpenOptions
from splade_edge.runtime import Encoder
from splade_edge.runtime.artifact import open_artifact
from splade_edge.runtime.errors import CheckpointError
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from .. import checkpoints, library

pytestmark = pytest.mark.usefixtures("traced_once")
VOCABULARY = {token: term for term, token in enumerate(library.VOCABULARY)}
NAMES = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
TEXTS = ["Kenya KING kénya", "who was the king", "oil [SEP] war", ""]


def run(source: Path, output: Path, **options: Any) -> ExportResult:
    asked = OpenOptions(**options)
    return export(ExportRequest(output, str(source), backends=("onnx",), int8=False, options=asked))


def word_piece(*, lower: bool = False, types: int = 0) -> Tokenizer:
    """WordPiece over VOCABULARY, with other steps than ``BertTokenizer`` builds by itself."""
    tokenizer = Tokenizer(models.WordPiece(VOCABULARY, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"[CLS]:{types} $A:{types} [SEP]:{types}",
        special_tokens=[(token, VOCABULARY[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.add_special_tokens(list(NAMES.values()))  # as files of the hub have them
    return tokenizer


def with_tokenizer(path: Path, tokenizer: Tokenizer, kind: str, **settings: Any) -> Path:
    """A BERT checkpoint whose tokenizer is a file, and the name of a class that is to read it."""
    library.bert(path)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        (path / name).unlink(missing_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    stated = {key: value for key, value in (NAMES | settings).items() if value is not None}
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, "model_max_length": 32, **stated}))
    return path


def by_hand(path: Path, text: str) -> np.ndarray:
    """The vector of a text with the ids of ``tokenizer.json`` itself."""
    import torch

    model = transformers.AutoModelForMaskedLM.from_pretrained(path).eval()
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.enable_truncation(32)
    ids = torch.tensor([tokenizer.encode(text).ids])
    with torch.inference_mode():
        return torch.log1p(torch.relu(model(input_ids=ids).logits)).amax(dim=1)[0].numpy()


def found(artifact: Path, text: str) -> np.ndarray:
    encoder = Encoder.open(artifact, threads=1)
    vector = encoder.encode_document(text)
    row = np.zeros(encoder.vocab_size, np.float32)
    row[vector.indices] = vector.values
    return row


def test_a_file_that_the_class_reads_otherwise_needs_a_word_of_the_user(tmp_path: Path) -> None:
    source = with_tokenizer(tmp_path / "c", word_piece(lower=False), "BertTokenizer")
    with pytest.raises(CheckpointError) as caught:
        run(source, tmp_path / "out")
    for part in ("tokenizer.json", "BertTokenizer", "--tokenizer class", "--tokenizer file"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()

    result = run(source, tmp_path / "class", tokenizer="class")
    assert result.report.witnesses[0].name == "sentence-transformers"
    expected = library.vectors(source, "document", TEXTS)
    assert library.difference(tmp_path / "class", "document", TEXTS, expected) < 1e-3

    result = run(source, tmp_path / "file", tokenizer="file")
    assert result.report.witnesses[0].name == "sentence-transformers with tokenizer.json as it is"
    for text in TEXTS:
        np.testing.assert_allclose(found(tmp_path / "file", text), by_hand(source, text), atol=1e-4)
    assert np.abs(found(tmp_path / "file", TEXTS[0]) - found(tmp_path / "class", TEXTS[0])).max() > 0.01
    for name in ("class", "file"):
        assert open_artifact(tmp_path / name).manifest.tokenizer_from == name
        assert f"--tokenizer '{name}'" in (tmp_path / name / "README.md").read_text()


@pytest.mark.parametrize("kind", ["PreTrainedTokenizerFast", "TokenizersBackend"])
def test_a_class_that_honours_the_file_asks_nothing(tmp_path: Path, kind: str) -> None:
    """``do_lower_case`` of tokenizer_config.json is then nobody's to apply."""
    source = with_tokenizer(tmp_path / "c", word_piece(lower=False), kind, do_lower_case=True)
    result = run(source, tmp_path / "out")
    assert result.report.witnesses[0].name == "sentence-transformers"
    expected = library.vectors(source, "document", TEXTS)
    assert library.difference(tmp_path / "out", "document", TEXTS, expected) < 1e-3
    np.testing.assert_allclose(found(tmp_path / "out", TEXTS[0]), by_hand(source, TEXTS[0]), atol=1e-4)


@pytest.mark.parametrize("add_prefix_space", [True, False])
def test_a_byte_level_tokenizer_with_and_without_a_space_in_front(tmp_path: Path, add_prefix_space: bool) -> None:
    source = checkpoints.write_checkpoint(tmp_path / "c", "roberta")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).unlink()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*checkpoints.ROBERTA_SPECIAL, *alphabet])}
    tokenizer = transformers.RobertaTokenizer(
        vocab=vocabulary, merges=[], add_prefix_space=add_prefix_space, model_max_length=30,
        pad_token="<pad>", unk_token="<unk>", cls_token="<s>", bos_token="<s>", sep_token="</s>", eos_token="</s>",
        mask_token="<mask>",
    )  # fmt: skip
    tokenizer.save_pretrained(source)
    result = run(source, tmp_path / "out")
    assert result.report.witnesses[0].name == "sentence-transformers"
    texts = ["king of kenya", " king", "", "<mask> oil </s>"]
    expected = library.vectors(source, "document", texts)
    assert library.difference(tmp_path / "out", "document", texts, expected) < 1e-3
    ids = [tokenizer(text)["input_ids"] for text in ("king", " king")]
    assert (ids[0] == ids[1]) is add_prefix_space


def test_without_a_padding_token_the_library_cannot_encode_and_we_can(tmp_path: Path) -> None:
    source = with_tokenizer(tmp_path / "c", word_piece(), "PreTrainedTokenizerFast", pad_token=None)
    result = run(source, tmp_path / "out")
    assert result.report.witnesses[0].name == "transformers with our pooling"
    assert any("needs a padding token, and the tokenizer has none" in note for note in result.notes)
    for text in TEXTS:
        np.testing.assert_allclose(found(tmp_path / "out", text), by_hand(source, text), atol=1e-4)


def test_token_types_other_than_0_are_refused(tmp_path: Path) -> None:
    source = with_tokenizer(
        tmp_path / "c", word_piece(types=1), "PreTrainedTokenizerFast",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    with pytest.raises(CheckpointError, match=r"another type than 0 \(token_type_ids\), which an exported graph"):
        run(source, tmp_path / "out")


def test_added_tokens_beyond_the_model_are_refused_with_the_way_out(tmp_path: Path) -> None:
    source = library.bert(tmp_path / "c")
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    tokenizer.add_tokens(["brandnew"])
    tokenizer.save_pretrained(source)
    with pytest.raises(CheckpointError, match=r"do not belong together \(if tokens were added, resize the model's"):
        run(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("BertJapaneseTokenizer", r"runs in Python alone|needs the package \w+: pip install \w+"),
    ],
)
def test_a_class_that_needs_a_package_or_has_no_fast_form(tmp_path: Path, kind: str, message: str) -> None:
    source = library.bert(tmp_path / "c", tokenizer=library.word_piece(tmp_path / "w"))
    (source / "vocab.txt").write_text("\n".join(library.VOCABULARY), encoding="utf-8")
    (source / "tokenizer.json").unlink()
    library.edit(source / "tokenizer_config.json", tokenizer_class=kind)
    with pytest.raises(CheckpointError, match=message) as caught:
        run(source, tmp_path / "out")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "steps",
    [
        lambda: None,
        lambda: normalizers.Lowercase(),
        lambda: normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
        lambda: normalizers.Sequence([normalizers.Lowercase(), normalizers.NFD()]),
    ],
)
def test_do_lower_case_of_the_encoder_module_is_put_before_every_kind_of_normalizer(
    tmp_path: Path, steps: Callable[[], Any]
) -> None:
    tokenizer = word_piece()
    if (normalizer := steps()) is not None:
        tokenizer.normalizer = normalizer
    plain = with_tokenizer(tmp_path / "plain", tokenizer, "PreTrainedTokenizerFast")
    library.splade(library.mlm(plain), library.SpladePooling()).save_pretrained(str(tmp_path / "c"))
    library.edit(tmp_path / "c" / "sentence_bert_config.json", do_lower_case=True)
    run(tmp_path / "c", tmp_path / "out")
    expected = library.vectors(tmp_path / "c", "document", TEXTS)
    assert library.difference(tmp_path / "out", "document", TEXTS, expected) < 1e-3
