from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from splade_edge.models.opening import open_checkpoint
from splade_edge.models.options import OpenOptions
from splade_edge.models.reference import ReferenceEncoder

from .. import checkpoints

TEXTS = ["the steam engine of warsaw", "", "oxygen", "what is the prime number of the oil crisis in kenya"]


def by_hand(path: Path, text: str, pooling: str, double: bool) -> np.ndarray:
    """One unpadded text, position by position, in NumPy from the logits on."""
    opened = open_checkpoint(str(path), options=OpenOptions(family="splade-other"))
    ids = opened.tokenizer(text, return_tensors="pt", truncation=True, max_length=opened.max_length)["input_ids"]
    with torch.inference_mode():
        logits = opened.model(input_ids=ids).logits[0].numpy().astype(np.float64)
    weights = np.log1p(np.maximum(logits, 0))
    if double:
        weights = np.log1p(weights)
    return weights.max(axis=0) if pooling == "max" else weights.sum(axis=0)


@pytest.mark.parametrize(("pooling", "activation"), [("max", "relu"), ("sum", "relu"), ("max", "log1p_relu")])
@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_a_padded_batch_is_the_formula_text_by_text(
    tmp_path: Path, architecture: str, pooling: str, activation: str
) -> None:
    path = checkpoints.write_sentence_transformers(
        tmp_path / "c", pooling=pooling, activation=activation, architecture=architecture
    )
    encoder = ReferenceEncoder(open_checkpoint(str(path)))
    found = encoder.encode(TEXTS)
    vocabulary = checkpoints.vocabulary(architecture)
    assert found.shape == (len(TEXTS), vocabulary)
    assert found.dtype == np.float32
    for row, text in zip(found, TEXTS, strict=True):
        expected = by_hand(path, text, pooling, double=activation == "log1p_relu")
        np.testing.assert_allclose(row, expected, atol=2e-5)
        assert 0 < (row > 0).sum() < vocabulary


def test_dropped_terms_have_no_weight(tmp_path: Path) -> None:
    path = checkpoints.write_checkpoint(tmp_path / "c")
    checkpoints.edit_weights(path, lambda tensors: tensors["cls.predictions.bias"][:5].fill_(1))
    kept = ReferenceEncoder(open_checkpoint(str(path))).encode(["the [SEP] engine"])
    opened = open_checkpoint(str(path), options=OpenOptions(family="opensearch"))
    assert opened.dropped_terms == (0, 1, 2, 3, 4)
    dropped = ReferenceEncoder(opened).encode(["the [SEP] engine"])
    assert kept[:, :5].any()
    assert not dropped[:, :5].any()
    np.testing.assert_array_equal(kept[:, 5:], dropped[:, 5:])


def test_no_texts_give_no_rows(bert: Path) -> None:
    assert ReferenceEncoder(open_checkpoint(str(bert))).encode([]).shape == (0, checkpoints.VOCABULARY)
