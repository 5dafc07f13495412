from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from .. import checkpoints


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT checkpoint. Do not write into it."""
    return checkpoints.write_checkpoint(tmp_path_factory.mktemp("bert") / "tiny-bert")
