from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from splade_edge.models.training.collections import Collection, read_collection
from splade_edge.models.training.imitation import Imitated
from splade_edge.models.training.rarity import rarity
from splade_edge.models.training.settings import EncoderSettings, SetSettings, TeacherSettings
from splade_edge.models.training.side import Side
from splade_edge.models.training.vocabulary import Texts
from splade_edge.runtime.errors import InputError

from ...checkpoints import copy

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def small(collection: Path) -> Collection:
    return read_collection(SetSettings(path=str(collection)))


def test_rarity_is_idf_of_words_and_of_what_the_document_encoder_emits(small: Collection, base: Path) -> None:
    tokens = Texts(str(base))
    size = len(tokens.tokenizer.get_vocab())
    ignored = dataclasses.replace(small, settings=SetSettings(path="other", weight=0.0), documents=["oil"] * 99)
    words = rarity([small, ignored], tokens, size, None)
    for term in ("the", "kenya", "pharmacy"):
        df = sum(f" {term} " in f" {text} " for text in small.documents)
        expected = math.log(1 + (40 - df + 0.5) / (df + 0.5)) / math.log(1000)
        assert words[tokens.tokenizer.token_to_id(term)] == pytest.approx(expected, abs=1e-6), term
    document = Side(EncoderSettings(base=str(base), frozen=True, max_length=16, silent=[]), [], 0, CPU)
    both = rarity([small], tokens, size, document)
    with torch.no_grad():
        df = (document.encoder(document.ids(list(small.documents))) > 0).sum(dim=0).numpy()
    emitted = np.log1p((40 - df + 0.5) / (df + 0.5)) / np.log(1000)
    np.testing.assert_allclose(both, (words + emitted) / 2, rtol=1e-5)


def test_imitated_vectors_are_multiplied_by_a_power_of_rarity(small: Collection, base: Path, tmp_path: Path) -> None:
    like = EncoderSettings(base=str(base), max_length=16)
    plain = Imitated(TeacherSettings(query_vectors=str(base)), like, [small], CPU)
    settings = TeacherSettings(query_vectors=str(base), document_vectors=str(base), idf=1.5)
    weighted = Imitated(settings, like, [small], CPU)
    ids = plain.ids(small.queries)
    before, after = plain.vectors(ids, False), weighted.vectors(ids, False)
    document = Side(EncoderSettings(base=str(base), frozen=True, max_length=128, silent=[]), [], 0, CPU)
    factor = rarity([small], Texts(str(base)), before.shape[1], document) ** 1.5
    torch.testing.assert_close(after, before * torch.from_numpy(factor))
    assert (before > 0).any()
    other = copy(base, tmp_path / "other")
    words = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(words.replace('"kenya"', '"kenia"'))
    with pytest.raises(InputError, match="different vocabularies"):
        Imitated(TeacherSettings(query_vectors=str(base), document_vectors=str(other), idf=1.0), like, [small], CPU)
