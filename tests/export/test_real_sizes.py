"""The two Efficient SPLADE pairs at their real sizes, with random weights: an export fits a workstation.

    VI-BT-large   BERT-tiny (2 layers, 128) for queries, DistilBERT (6 layers, 768) for documents
    V-large       DistilBERT for both

Not in the default run: ``make test-full``.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers
from splade_edge.runtime import Encoder
from splade_edge.runtime.artifact import open_artifact

pytestmark = pytest.mark.slow

TOKENIZER = Path(__file__).parents[2] / "models" / "default" / "query"
VOCABULARY = 30_522
MINUTES, GIGABYTES = 5, 6
CONFIGURATIONS = {
    "bert-tiny": transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512
    ),
    "distilbert": transformers.DistilBertConfig(vocab_size=VOCABULARY),
}
PAIRS = {"VI-BT-large": ("bert-tiny", "distilbert"), "V-large": ("distilbert", "distilbert")}


def write(path: Path, architecture: str, seed: int) -> None:
    torch.manual_seed(seed)
    model = transformers.AutoModelForMaskedLM.from_config(CONFIGURATIONS[architecture])
    with torch.no_grad():
        # Random logits have no terms to speak of below zero and too many above.
        model.get_output_embeddings().bias.copy_(torch.randn(VOCABULARY) * 0.3 - 0.9)
    model.save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / name, path / name)


@pytest.mark.parametrize("pair", PAIRS)
def test_an_export_takes_at_most_5_minutes_and_6_gb(pair: str, tmp_path: Path) -> None:
    for seed, (side, architecture) in enumerate(zip(("query", "document"), PAIRS[pair], strict=True)):
        write(tmp_path / side, architecture, seed)
    output = tmp_path / "out"
    command: list[str | Path] = [sys.executable, "-m", "splade_edge.runtime.cli.main", "export", "-o", output]
    started = time.monotonic()
    # The peak of the largest child so far: this test runs alone in its process, or after its smaller sibling.
    done = subprocess.run(
        [*command, "--query", tmp_path / "query", "--document", tmp_path / "document"],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"{pair}: {seconds:.0f} s, {peak / 1e9:.1f} GB")
    assert done.returncode == 0, done.stderr
    assert seconds < MINUTES * 60
    assert peak < GIGABYTES * 1e9
    for side in ("query", "document"):
        assert len(open_artifact(output, side).manifest.variants) == 4
        (encoded,) = Encoder.open(output, side).encode(["a question"])
        assert encoded.vector.indices.size > 100
