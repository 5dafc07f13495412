"""The encoders in models/ are of the sizes and vocabularies that the README promises. Needs no PyTorch."""

from __future__ import annotations

from pathlib import Path

import pytest

MODELS = Path(__file__).parent.parent / "models"
SIDES = ("default/query", "default/document", "v/query")


@pytest.mark.parametrize("side", SIDES)
def test_an_encoder_is_whole_and_small(side: str) -> None:
    names = {path.name for path in (MODELS / side).iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json"}
    weights = (MODELS / side / "model.safetensors").stat().st_size
    assert 1 << 20 < weights < 45 << 20


def test_files_are_small() -> None:
    for path in MODELS.rglob("*"):
        assert path.stat().st_size < 45 << 20, path
    assert (MODELS / "default/query/model.safetensors").stat().st_size < 9_000_000


def test_all_sides_have_one_tokenizer() -> None:
    assert len({(MODELS / side / "tokenizer.json").read_bytes() for side in SIDES}) == 1
