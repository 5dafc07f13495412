from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from splade_edge.models.checkpoint import open_checkpoint
from splade_edge.models.reference import ReferenceEncoder
from splade_edge.models.training.encoder import SparseEncoder, _MaxLogits
from splade_edge.models.training.initial import initial_encoder
from splade_edge.models.training.lexical_head import install_lexical_head, lexical_map
from splade_edge.models.training.runfile import EncoderSettings
from splade_edge.models.training.vocabulary import Texts, inverse_document_frequency, silent_terms
from splade_edge.runtime.errors import CheckpointError, InputError

from ... import checkpoints


@pytest.mark.parametrize("seed", range(5))
def test_backward_equals_automatic_differentiation(seed: int) -> None:
    torch.manual_seed(seed)
    lengths = [4, 1, 6]
    hidden = torch.randn(3, 6, 8, dtype=torch.float64, requires_grad=True)
    embeddings = torch.randn(20, 8, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(20, requires_grad=True)
    upstream = torch.randn(3, 20)

    def gradients(logits: torch.Tensor) -> list[torch.Tensor]:
        loss = (torch.log1p(torch.relu(logits)) * upstream).sum()
        return list(torch.autograd.grad(loss, (hidden, embeddings, bias)))

    mask = torch.arange(6) < torch.tensor(lengths).unsqueeze(1)
    plain = (hidden @ embeddings.T).masked_fill(~mask.unsqueeze(2), -torch.inf).amax(dim=1) + bias
    ours = _MaxLogits.apply(hidden, lengths, embeddings, bias)
    torch.testing.assert_close(ours.double(), plain.detach())
    for mine, theirs in zip(gradients(ours), gradients(plain), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_weights_are_those_of_the_reference_encoder(architecture: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(checkpoints.write_checkpoint(tmp_path / "c", architecture)), "document")
    texts = ["steam engine", "the oil crisis of the first year began", "war"]
    expected = ReferenceEncoder(checkpoint).encode(texts)
    ids = Texts(str(checkpoint.directory)).ids(texts, 16)
    with torch.inference_mode():
        found = SparseEncoder(checkpoint.model)(ids).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_lexical_map_is_the_least_squares_solution(base: Path) -> None:
    settings = EncoderSettings(base=str(base), head="identity", silent=[])
    encoder = initial_encoder(settings, ["the oil crisis"], 0).eval()
    rng = np.random.default_rng(0)
    texts = [rng.integers(5, 45, 12).tolist() for _ in range(200)]
    silent = torch.zeros(encoder.decoder.weight.shape[0], dtype=torch.bool)
    w, centre, own = lexical_map(encoder, texts, silent)
    with torch.inference_mode():
        states = encoder.hidden(texts).reshape(-1, w.shape[0]) - centre
    tokens = torch.tensor(texts).ravel()
    own_before = _own_rank(encoder, texts, tokens)
    install_lexical_head(encoder.model, w, centre, 6.0 / own)
    own_after = _own_rank(encoder, texts, tokens)
    # A random encoder keeps the token in its state; the fit has to bring it out.
    assert own_after < own_before
    assert own_after < 0.5
    # The constant that makes gelu linear leaves no trace: the head is the map and a layer norm.
    mapped = states @ w.T
    expected = (mapped - mapped.mean(dim=1, keepdim=True)) / mapped.std(dim=1, keepdim=True, correction=0)
    with torch.inference_mode():
        found = encoder.transform(encoder.hidden(texts)).reshape(expected.shape)
        logits = (found * encoder.decoder.weight[tokens]).sum(dim=1)
    assert float(logits.mean()) == pytest.approx(6, rel=0.01)
    torch.testing.assert_close(found, expected * 6 / own / w.shape[0] ** 0.5, atol=2e-3, rtol=1e-3)


def _own_rank(encoder: SparseEncoder, texts: list[list[int]], tokens: torch.Tensor) -> float:
    """Mean number of terms whose logit is above that of the position's own token."""
    with torch.inference_mode():
        logits = encoder.transform(encoder.hidden(texts)).flatten(0, 1) @ encoder.decoder.weight.T
    own = logits.gather(1, tokens.unsqueeze(1))
    return float((logits > own).sum(dim=1).float().mean())


def test_silent_terms_get_no_weight_and_bias_follows_idf(base: Path) -> None:
    texts = ["the steam engine", "the oil crisis", "the steam of war"]
    settings = EncoderSettings(base=str(base), head="lexical", threshold=0.1, idf_slope=0.05, sharpness=4.0)
    encoder = initial_encoder(settings, texts, 0)
    tokens = Texts(str(base))
    vocabulary = tokens.tokenizer.get_vocab()
    silent = silent_terms(tokens.tokenizer, settings.silent, len(vocabulary))
    assert {t for t, i in vocabulary.items() if silent[i]} >= {"[CLS]", "[MASK]", "the", "of", "what"}
    assert not any(silent[vocabulary[t]] for t in ("steam", "war", "##s", "1"))
    with torch.inference_mode():
        weights = encoder(tokens.ids(texts, 16)).numpy()
    assert not weights[:, silent].any()
    idf = inverse_document_frequency(tokens.ids(texts, 16), len(vocabulary))
    bias = encoder.decoder.bias.detach()
    expected = 4.0 * (0.05 * (idf - idf.median()) - 0.1)
    torch.testing.assert_close(bias[~torch.from_numpy(silent)], expected[~torch.from_numpy(silent)])


def test_punctuation_that_names_things_keeps_its_weight(tmp_path: Path) -> None:
    class Tokenizer:
        def get_vocab(self) -> dict[str, int]:
            return {
                t: i for i, t in enumerate(["+", "#", ",", "##.", "–", "…", "é", "中", "c", "[", "[unused1]", "the"])
            }

    names = list(Tokenizer().get_vocab())
    silent = silent_terms(Tokenizer(), ["punctuation"], len(names))
    assert [names[i] for i in np.flatnonzero(silent)] == [",", "##.", "–", "…", "["]
    assert [names[i] for i in np.flatnonzero(silent_terms(Tokenizer(), ["special"], len(names)))] == ["[unused1]"]
    assert [names[i] for i in np.flatnonzero(silent_terms(Tokenizer(), ["stop words"], len(names)))] == ["the"]


def test_layers_are_kept_in_the_order_given(base: Path) -> None:
    kept = initial_encoder(EncoderSettings(base=str(base), layers=[0]), [], 0)
    assert kept.model.config.num_hidden_layers == 1
    with pytest.raises(InputError, match=r"layers 0 to 0"):
        initial_encoder(EncoderSettings(base=str(base), layers=[0, 3]), [], 0)


def test_a_narrow_encoder_keeps_the_geometry_of_the_embeddings(base: Path) -> None:
    settings = EncoderSettings(base=str(base), width=32, attention_heads=2, layers=[0, 1], head="identity")
    encoder = initial_encoder(settings, ["the oil crisis"], 0)
    assert encoder.model.config.num_hidden_layers == 2
    wide = initial_encoder(EncoderSettings(base=str(base)), [], 0).decoder.weight.detach()
    wide = wide - wide.mean(dim=0)
    whitened = wide @ torch.linalg.inv(torch.linalg.cholesky(wide.T @ wide)).T
    narrow = encoder.decoder.weight.detach()
    cosine = torch.nn.functional.cosine_similarity
    torch.testing.assert_close(
        cosine(narrow[3:20], narrow[4:21]), cosine(whitened[3:20], whitened[4:21]), atol=1e-3, rtol=1e-3
    )
    for wrong in (settings.__class__(base=str(base), width=64), settings.__class__(base=str(base), width=31)):
        with pytest.raises(InputError, match="width"):
            initial_encoder(wrong, ["x"], 0)


def test_unknown_bases_are_refused_in_one_line(tmp_path: Path) -> None:
    roberta = checkpoints.write_checkpoint(tmp_path / "r", "roberta")
    with pytest.raises(InputError, match="starts from BERT or DistilBERT"):
        initial_encoder(EncoderSettings(base=str(roberta)), [], 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises((CheckpointError, InputError), match="empty"):
        initial_encoder(EncoderSettings(base=str(tmp_path / "empty")), [], 0)
