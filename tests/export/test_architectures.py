"""Every masked language model of transformers: its artifact gives the vectors of transformers' own model, or one plain
line says why there is none.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from splade_edge.export.exporter import TESTED_ARCHITECTURES, export
from splade_edge.export.onnx_graph import open_session
from splade_edge.export.recipes import choose_recipe
from splade_edge.export.request import ExportRequest
from splade_edge.export.texts import SampleTexts
from splade_edge.export.variants import trace, write_int8
from splade_edge.models.head import find_decoder
from splade_edge.models.opening import open_checkpoint
from splade_edge.models.padding import TOLERANCE
from splade_edge.runtime.artifact import open_artifact
from splade_edge.runtime.encoder import Encoder
from splade_edge.runtime.errors import CheckpointError, InputError

from .. import architectures

SENTENCE = "when did the oil crisis of the year 1 2 3 begin in kenya and warsaw"
TEXTS = ["the steam engine", "oxygen", "", SENTENCE, "Kenya, WARSAW! prime number; café 12", f"{SENTENCE} " * 6]
# How each is refused; every other one exports.
REFUSED = {
    "big_bird/sparse": "pass --max-length 28, or set 'original_full'",
    "funnel": "does not run on a text of 2 tokens",
    "longformer": "cannot turn LongformerForMaskedLM into an ONNX graph (modeling_longformer.py line",
    "nystromformer/landmarks": "does not run on a text of 2 tokens",
    "perceiver": "gives logits of 64 positions for a text of 2 tokens",
    "reformer": "cannot turn ReformerForMaskedLM into an ONNX graph (modeling_reformer.py line",
}
PADDED = {"convbert", "fnet", "mobilebert", "nystromformer", "yoso"}
EXPORTED = [case for case in architectures.all_types() if case not in REFUSED]
RISKIEST = ["deberta/new-head", "mobilebert", "xlm-roberta"]


def dense(encoder: Encoder, text: str) -> np.ndarray:
    vector = encoder.encode_document(text)
    row = np.zeros(encoder.vocab_size, np.float32)
    row[vector.indices] = vector.values
    return row


def check(case: str, directory: Path) -> None:
    path = architectures.write(directory / "c", case)
    result = export(ExportRequest(directory / "out", str(path), options=architectures.options()))
    tested = case.partition("/")[0] in TESTED_ARCHITECTURES
    assert any("not among the architectures" in note for note in result.notes) is not tested
    expected = architectures.transformers_vectors(path, TEXTS)
    assert len({row.tobytes() for row in expected}) == len(TEXTS)
    artifact = open_artifact(directory / "out")
    made = {(v.backend, v.precision) for v in artifact.manifest.variants}
    assert made >= {(backend, precision) for backend in ("onnx", "openvino") for precision in ("fp32", "int8")}
    for variant in artifact.manifest.variants:
        encoder = Encoder(artifact, variant, 1)
        found = np.stack([dense(encoder, text) for text in TEXTS])
        together = [encoded.vector for encoded in encoder.encode(TEXTS)]
        if variant.precision == "fp32":
            assert variant.batch_invariant is (case not in PADDED)
            assert np.abs(found - expected).max() <= 1e-4 * expected.max()
            for row, vector in zip(expected, together, strict=True):
                assert np.abs(row[vector.indices] - vector.values).max() <= 1e-4 * expected.max()
        elif variant.backend != "openvino":
            norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
            assert float(((found * expected).sum(axis=1) / norms).mean()) >= 0.99


@pytest.mark.parametrize("case", RISKIEST)
def test_the_riskiest_give_the_vectors_of_transformers(tmp_path: Path, case: str) -> None:
    check(case, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in EXPORTED if case not in RISKIEST])
def test_all_others_give_the_vectors_of_transformers(tmp_path: Path, case: str) -> None:
    check(case, tmp_path)


def test_nothing_that_has_to_work_is_refused() -> None:
    assert set(architectures.REQUIRED) <= set(EXPORTED)
    assert {case.partition("/")[0] for case in architectures.REQUIRED} == TESTED_ARCHITECTURES


def refusal(case: str, directory: Path) -> str:
    """What ``splade-edge export`` prints, run as a process."""
    path = architectures.write(directory / "c", case)
    command = [sys.executable, "-m", "splade_edge.runtime.cli.main", "export", str(path), "-o", str(directory / "out")]
    options = ["--licence", "none"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=600)
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert not (directory / "out").exists()
    return done.stderr


def assert_plain(printed: str, expected: str) -> None:
    # Progress lines may come before it where an export takes long.
    last = printed.splitlines()[-1]
    assert last.startswith("splade-edge: error: ")
    assert expected in last
    assert len(last) < 400
    assert "\x1b" not in printed
    assert all(
        line.startswith(("splade-edge: ", "both: ", "opening ", "witness", "vectors of "))
        for line in printed.splitlines()
    )


def test_what_cannot_be_traced_says_so_in_a_line(tmp_path: Path) -> None:
    assert_plain(refusal("longformer", tmp_path), REFUSED["longformer"])


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in REFUSED if case != "longformer"])
def test_all_others_that_cannot_say_so_in_a_line(tmp_path: Path, case: str) -> None:
    assert_plain(refusal(case, tmp_path), REFUSED[case])


@pytest.mark.parametrize("case", ["funnel", "perceiver", "big_bird/sparse"])
def test_what_is_refused_before_it_is_traced(tmp_path: Path, case: str) -> None:
    path = architectures.write(tmp_path / "c", case)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(path), options=architectures.options())
    assert REFUSED[case] in str(caught.value)


@pytest.mark.parametrize("case", architectures.all_types())
def test_decoders_and_padding(tmp_path: Path, case: str) -> None:
    """What is found by running the models, for all that run."""
    if case in REFUSED:
        return
    checkpoint = open_checkpoint(str(architectures.write(tmp_path / "c", case)), options=architectures.options())
    assert checkpoint.depends_on_padding is (case in PADDED)
    assert any("one at a time" in note for note in checkpoint.notes) is (case in PADDED)
    assert checkpoint.vocab_size == len(checkpoint.tokenizer)
    assert checkpoint.max_positions >= architectures.POSITIONS
    assert TOLERANCE == 1e-4
    decoder = find_decoder(checkpoint.model)
    if case == "mobilebert":
        assert decoder is None
        return
    assert decoder is not None
    assert decoder.weight.shape[0] == checkpoint.vocab_size
    assert any(decoder.weight is parameter for parameter in checkpoint.model.parameters())
    if case.endswith("/new-head"):
        assert decoder.weight is checkpoint.model.get_input_embeddings().weight
        assert decoder.weight is not checkpoint.model.get_output_embeddings().weight


def test_a_decoder_as_wide_as_the_vocabulary_is_not_mistaken(tmp_path: Path) -> None:
    """Where the hidden size is the vocabulary's, every square matrix has the decoder's shape."""
    words = len(architectures.tokenizer("bert"))
    path = architectures.write(tmp_path / "c", "bert", hidden_size=words, num_attention_heads=7)
    model = open_checkpoint(str(path), options=architectures.options()).model
    decoder = find_decoder(model)
    assert decoder is not None
    assert decoder.module == "cls.predictions.decoder"
    assert decoder.weight is model.cls.predictions.decoder.weight


@pytest.mark.parametrize("case", ["bert", "bart", "deberta/new-head", "mobilebert"])
def test_int8_of_a_large_vocabulary(tmp_path: Path, case: str) -> None:
    """PyTorch's exporter folds small constants only: one tensor of a tiny graph may be computed in a real one."""
    path = architectures.write(tmp_path / "c", case, vocab_size=5000)
    checkpoint = open_checkpoint(str(path), options=architectures.options())
    decoder = find_decoder(checkpoint.model)
    if case == "bart":
        assert decoder is not None
        assert decoder.bias is checkpoint.model.final_logits_bias
    source = trace(checkpoint, tmp_path / "onnx/fp32.onnx", SampleTexts(tuple(TEXTS), tuple(TEXTS)))
    assert source.pools_first is (decoder is not None)
    recipe = choose_recipe("onnx", "max", pools_first=source.pools_first)
    variant = write_int8(recipe, source, tmp_path)
    assert (variant.decoder is not None) is (decoder is not None)
    expected = architectures.transformers_vectors(path, TEXTS)
    for row, text in zip(expected, TEXTS, strict=True):
        ids = checkpoint.tokenizer(text, truncation=True, max_length=64, return_tensors="np")["input_ids"]
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        exact, int8 = (
            open_session(onnx.load(file)).run(["weights"], feeds)[0][0]
            for file in (source.path, tmp_path / variant.path)
        )
        np.testing.assert_allclose(exact, row, atol=1e-5)
        assert int8 @ row / np.linalg.norm(int8) / np.linalg.norm(row) > 0.99


def test_recipes_of_a_graph_that_does_not_pool_first(tmp_path: Path) -> None:
    path = architectures.write(tmp_path / "c", "mobilebert")
    checkpoint = open_checkpoint(str(path), options=architectures.options())
    source = trace(checkpoint, tmp_path / "onnx/fp32.onnx", SampleTexts(tuple(TEXTS), tuple(TEXTS)))
    assert not source.pools_first
    assert choose_recipe("onnx", "max", pools_first=False).name == "logits"
    with pytest.raises(InputError, match="'vocabulary' of onnx is not for a decoder that is not one matrix"):
        choose_recipe("onnx", "max", "vocabulary", pools_first=False)
