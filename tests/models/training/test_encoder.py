from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from splade_edge.models.opening import open_checkpoint
from splade_edge.models.reference import ReferenceEncoder
from splade_edge.models.training.encoder import SparseEncoder, _MaxLogits
from splade_edge.models.training.initial import initial_encoder
from splade_edge.models.training.lexical_head import install_lexical_head, lexical_map
from splade_edge.models.training.settings import EncoderSettings, Head
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
    texts = [rng.integers(5, 45, int(rng.integers(2, 12))).tolist() for _ in range(200)]
    silent = torch.zeros(encoder.decoder.weight.shape[0], dtype=torch.bool)
    silent[7:9] = True
    w, centre, own = lexical_map(encoder, texts, silent, batch=32)
    states = _states_of(encoder, texts)
    tokens = torch.tensor([token for text in texts for token in text])
    torch.testing.assert_close(centre, states.mean(dim=0), atol=1e-5, rtol=1e-4)
    expected = _least_squares(encoder, states - centre, tokens, silent)
    similar = torch.nn.functional.cosine_similarity(w.ravel().double(), expected.ravel(), dim=0)
    assert float(similar) > 0.9999  # its length is free
    own_before = _own_rank(encoder, states, tokens)
    install_lexical_head(encoder, w, centre, 6.0 / own)
    # A random encoder keeps the token in its state; the fit has to bring it out.
    assert _own_rank(encoder, states, tokens) < min(0.5, own_before)
    # The constant that makes gelu linear leaves no trace: the head is the map and a layer norm.
    mapped = (states - centre) @ w.T
    normalized = (mapped - mapped.mean(dim=1, keepdim=True)) / mapped.std(dim=1, keepdim=True, correction=0)
    with torch.inference_mode():
        found = encoder.transformed(states)
        logits = (found * encoder.decoder.weight[tokens]).sum(dim=1)[~silent[tokens]]
    torch.testing.assert_close(found, normalized * 6 / own / w.shape[0] ** 0.5, atol=2e-2, rtol=2e-3)
    assert float(logits.mean()) == pytest.approx(6, rel=0.02)


def _states_of(encoder: SparseEncoder, texts: list[list[int]]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([encoder.hidden([text])[0] for text in texts])


def _least_squares(
    encoder: SparseEncoder, states: torch.Tensor, tokens: torch.Tensor, silent: torch.Tensor
) -> torch.Tensor:
    """``W`` by a general solver: onehot over the terms that are fitted, rows weighted, then the two projections."""
    embeddings = encoder.decoder.weight.detach().double()
    common = embeddings[~silent].mean(dim=0)
    e = embeddings - common
    weight = torch.bincount(tokens, minlength=len(e)).clamp(min=1).double().rsqrt()[tokens] * ~silent[tokens]
    target = torch.nn.functional.one_hot(tokens, len(e)).double()[:, ~silent]
    root = weight.sqrt().unsqueeze(1)
    # The ridge as more rows; E W H' = target' in two steps, which is the same for an E of full rank.
    ridge = (1e-3 * weight.sum()).sqrt() * torch.eye(states.shape[1], dtype=torch.float64)
    rows = torch.cat([root * states.double(), ridge])
    goals = torch.cat([root * target, torch.zeros(len(ridge), target.shape[1], dtype=torch.float64)])
    per_term = torch.linalg.lstsq(rows, goals).solution.T  # [terms, width]
    w = torch.linalg.lstsq(e[~silent], per_term).solution
    w = w - w.mean(dim=0, keepdim=True)
    unit = common / common.norm()
    return w - torch.outer(unit, unit @ w)


def _own_rank(encoder: SparseEncoder, states: torch.Tensor, tokens: torch.Tensor) -> float:
    """Mean number of terms whose logit is above that of the position's own token."""
    with torch.inference_mode():
        logits = encoder.transformed(states) @ encoder.decoder.weight.T
    own = logits.gather(1, tokens.unsqueeze(1))
    return float((logits > own).sum(dim=1).float().mean())


@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
@pytest.mark.parametrize("head", ["lexical", "identity"])
def test_new_heads_fit_both_architectures(architecture: str, head: Head, tmp_path: Path) -> None:
    base = checkpoints.write_checkpoint(tmp_path / "c", architecture)
    encoder = initial_encoder(EncoderSettings(base=str(base), head=head, threshold=0.1), ["the oil crisis"] * 9, 0)
    assert float(encoder([[2, 8, 9, 3]]).detach().max()) > 0


@pytest.mark.parametrize("freeze", [[], ["word_embeddings"], ["encoder"]])
def test_bf16_gives_nearly_the_same_gradients(base: Path, freeze: list[str]) -> None:
    found = []
    for bf16 in (False, True):
        encoder = initial_encoder(EncoderSettings(base=str(base), freeze=freeze), [], 0)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            weights = encoder([[2, 8, 9, 10, 3], [2, 12, 3]])
        assert weights.dtype == torch.float32
        weights.sum().backward()
        found.append({n: p.grad for n, p in encoder.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert {gradient.dtype for gradient in found[1].values()} == {torch.float32}
    flat = [torch.cat([gradient.ravel() for gradient in gradients.values()]) for gradients in found]
    assert float(torch.nn.functional.cosine_similarity(flat[0], flat[1], dim=0)) > 0.99


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


def test_layers_are_kept_in_the_order_given(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checkpoints.SIZE, "layers", 2)
    two = checkpoints.write_checkpoint(tmp_path / "two")
    before = open_checkpoint(str(two)).model.base_model.encoder.layer
    swapped = initial_encoder(EncoderSettings(base=str(two), layers=[1, 0]), [], 0).model.base_model.encoder.layer
    assert len(swapped) == 2
    for new, old in zip(swapped, (before[1], before[0]), strict=True):
        for name, value in old.state_dict().items():
            torch.testing.assert_close(new.state_dict()[name], value, msg=name)
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
    for wrong in (replace(settings, width=64), replace(settings, width=31)):
        with pytest.raises(InputError, match="width"):
            initial_encoder(wrong, ["x"], 0)


def test_settings_that_a_base_cannot_satisfy(base: Path, tmp_path: Path) -> None:
    roberta = checkpoints.write_checkpoint(tmp_path / "r", "roberta")
    (tmp_path / "empty").mkdir()
    damaged = tmp_path / "damaged"
    shutil.copytree(base, damaged)
    (damaged / "model.safetensors").write_bytes((base / "model.safetensors").read_bytes()[:2000])
    cases = {
        "starts from BERT or DistilBERT": EncoderSettings(base=str(roberta)),
        "not a directory": EncoderSettings(base=str(tmp_path / "none")),
        "empty": EncoderSettings(base=str(tmp_path / "empty")),
        "damaged": EncoderSettings(base=str(damaged)),
        "no parameter of": EncoderSettings(base=str(base), freeze=["word_embedings"]),
        "leaves nothing of": EncoderSettings(base=str(base), freeze=["e", "a", "o", "i"]),
        "head must be new": EncoderSettings(base=str(base), width=16),
    }
    for message, settings in cases.items():
        with pytest.raises((CheckpointError, InputError), match=message):
            initial_encoder(settings, ["x"], 0)


def test_a_base_without_a_head_is_told_to_take_a_new_one(base: Path, tmp_path: Path) -> None:
    def drop_head(tensors: dict[str, torch.Tensor]) -> None:
        for name in [n for n in tensors if n.startswith("cls.")]:
            del tensors[name]

    headless = checkpoints.edit_weights(checkpoints.copy(base, tmp_path / "headless"), drop_head)
    with pytest.raises(CheckpointError, match=r'has no head to keep; give it a new one: head = "lexical"$'):
        initial_encoder(EncoderSettings(base=str(headless)), [], 0)
    initial_encoder(EncoderSettings(base=str(headless), head="lexical"), ["the oil crisis"], 0)


def test_the_decoder_multiplies_in_the_precision_of_autocast(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = initial_encoder(EncoderSettings(base=str(base)), [], 0)
    seen: list[torch.dtype] = []
    plain = _MaxLogits.apply

    def watched(hidden: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(hidden.dtype)
        return plain(hidden, *rest)

    monkeypatch.setattr(_MaxLogits, "apply", watched)
    # CUDA's autocast gives float32 after a layer norm, the CPU's need not: said here for both.
    monkeypatch.setattr(encoder, "transformed", lambda states: states.float())
    with torch.autocast("cpu", torch.bfloat16):
        encoder([[2, 8, 9, 3]])
    encoder([[2, 8, 9, 3]])
    assert seen == [torch.bfloat16, torch.float32]


def test_a_frozen_encoder_is_not_silenced(base: Path) -> None:
    frozen = initial_encoder(EncoderSettings(base=str(base), frozen=True), [], 0)
    assert float(frozen.decoder.bias.min()) > -100
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
