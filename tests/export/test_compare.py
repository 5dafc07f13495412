"""``splade-edge compare`` as a process and as a function, the example in the card, and the table of keys."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from splade_edge.export.compare import compare
from splade_edge.export.exporter import export
from splade_edge.export.request import ExportRequest
from splade_edge.models.families import FAMILIES
from splade_edge.models.keys import KEYS, support_table
from splade_edge.models.options import OpenOptions
from splade_edge.runtime import Encoder
from splade_edge.runtime.artifact import open_artifact
from splade_edge.runtime.errors import CheckpointError

from .. import checkpoints, library
from ..library import Normalize, SpladePooling, bert, mlm, splade, word_piece

pytestmark = pytest.mark.usefixtures("traced_once")
TEXTS = ["who was the king of kenya", "oil [SEP] crisis", "UPPER Kenya"]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, traced_per_module: None) -> tuple[Path, Path]:
    """(checkpoint, artifact) of an encoder with prompts and lengths of its own."""
    place = tmp_path_factory.mktemp("compare")
    encoder = mlm(bert(place / "b"), query_length=9, document_length=12)
    model = splade(encoder, SpladePooling(), prompts={"query": "query : ", "document": ""})
    model.save_pretrained(str(place / "c"))
    export(ExportRequest(place / "out", str(place / "c"), backends=("onnx",)))
    return place / "c", place / "out"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "splade_edge.runtime.cli.main", "compare", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "150"},
    )


def test_a_row_a_text_a_picture_and_what_the_exit_code_says(made: tuple[Path, Path], tmp_path: Path) -> None:
    source, artifact = made
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS) + "\n\n")
    done = run(artifact, source, "--texts", texts, "--plot", tmp_path / "plot.png")
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(("query ", "document "))]
    assert len(rows) == 6
    assert "6 vectors of onnx fp32 beside sentence-transformers: the largest difference is" in done.stdout
    assert "within the tolerance of 0.001" in done.stdout
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    beyond = run(artifact, source, "--texts", texts, "--side", "query", "--precision", "int8", "--tolerance", "1e-7",
                 "--json", "--limit", "2")  # fmt: skip
    assert beyond.returncode == 1
    told = json.loads(beyond.stdout)
    assert told["within_tolerance"] is False
    (graph,) = told["graphs"]
    assert (graph["graph"], graph["witness"], graph["failed"]) == ("kernel int8", "sentence-transformers", [])
    assert [text["text"] for text in graph["texts"]] == TEXTS[:2]
    assert all(text["cosine"] > 0.99 and text["term"] for text in graph["texts"])


def test_another_checkpoint_is_not_compared_with(made: tuple[Path, Path], tmp_path: Path) -> None:
    other = bert(tmp_path / "other", seed=5)
    with pytest.raises(CheckpointError, match="has other weights than those this artifact was made from"):
        compare(open_artifact(made[1]), str(other), TEXTS, ["query"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--texts", "no.txt"], "cannot read no.txt: No such file or directory"),
        (["--texts", "empty.txt"], "empty.txt has no text; give one a line"),
        (["--texts", "texts.txt", "--plot", "a.exe"], "--plot a.exe is no picture; name it .png, .svg or .pdf"),
        (["--texts", "texts.txt", "--tolerance", "-1"], "--tolerance -1.0 is not possible"),
        (["--texts", "texts.txt", "--backend", "openvino"], "has no openvino graph"),
    ],
)
def test_bad_input_is_one_line(made: tuple[Path, Path], tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "texts.txt").write_text("oil\n")
    (tmp_path / "empty.txt").write_text("\n\n")
    line = [sys.executable, "-m", "splade_edge.runtime.cli.main", "compare", str(made[1]), str(made[0]), *arguments]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_an_artifact_does_otherwise_than_its_checkpoint_shows(made: tuple[Path, Path], tmp_path: Path) -> None:
    """The library is told what the user asked for at the export, and nothing else that the artifact believes."""
    import msgspec
    from splade_edge.runtime.artifact import write_artifact_manifest

    source, artifact = made
    forged = checkpoints.copy(artifact, tmp_path / "forged")
    manifest = open_artifact(forged).manifest
    sides = {side: msgspec.structs.replace(settings, prompt="the ") for side, settings in manifest.sides.items()}
    write_artifact_manifest(forged, msgspec.structs.replace(manifest, sides=sides))
    assert compare(open_artifact(forged), str(source), TEXTS, ["query"]).worst > 0.01
    asked = OpenOptions(prompt_query="the ", prompt_document="the ")
    export(ExportRequest(tmp_path / "asked", str(source), backends=("onnx",), int8=False, options=asked))
    assert compare(open_artifact(tmp_path / "asked"), str(source), TEXTS, ["query", "document"]).worst < 1e-3


def test_a_checkpoint_is_reopened_with_what_was_asked_for(tmp_path: Path) -> None:
    source = checkpoints.write_checkpoint(tmp_path / "c")
    asked = OpenOptions(family="splade-v1", prompt_query="the ", max_length=20, max_active_dims=4)
    export(ExportRequest(tmp_path / "out", str(source), backends=("onnx",), int8=False, options=asked))
    artifact = open_artifact(tmp_path / "out")
    found = compare(artifact, str(source), TEXTS, ["query", "document"])
    assert found.worst < 1e-3
    assert found.witness == "transformers with our pooling"
    assert "splade-v1 is pooled otherwise" in found.reason


CARDS: dict[str, Callable[[Path], Any]] = {
    "plain": lambda p: splade(mlm(bert(p)), SpladePooling()),
    "prompt": lambda p: splade(mlm(bert(p)), SpladePooling(), prompts={"query": "query : ", "document": "the "}),
    "lengths": lambda p: splade(mlm(bert(p), query_length=6), SpladePooling()),
    "norm": lambda p: splade(mlm(bert(p)), SpladePooling(), Normalize(), max_active_dims=5),
    "cosine": lambda p: splade(mlm(bert(p)), SpladePooling(), max_active_dims=5, similarity_fn_name="cosine"),
    "cut": lambda p: splade(
        mlm(bert(p, tokenizer=word_piece(p / "w", truncation_side="left", model_max_length=8))), SpladePooling()
    ),
}


@pytest.mark.parametrize("name", CARDS)
def test_the_python_in_the_card_gives_the_runtimes_vector(name: str, tmp_path: Path) -> None:
    CARDS[name](tmp_path / "parts").save_pretrained(str(tmp_path / "c"))
    export(ExportRequest(tmp_path / "out", str(tmp_path / "c"), backends=("onnx",), int8=False))
    card = (tmp_path / "out" / "README.md").read_text()
    section = card.partition("## The graph by itself")[2]
    blocks = re.findall(r"```python\n(.*?)```", section, re.S)
    assert len(blocks) == (2 if name in ("prompt", "lengths") else 1)
    text = "who was the king of kenya in the war of the oil crisis"
    encoder = Encoder.open(tmp_path / "out", threads=1)
    for side, code in zip(("query", "document"), blocks * 2, strict=False):
        assert len(code.splitlines()) <= 12
        script = code.replace('"what is learned sparse retrieval?"', repr(text))
        assert script != code
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path / "out")
        assert done.returncode == 0, done.stderr
        told: dict[str, float] = eval(done.stdout)
        encode = encoder.encode_query if side == "query" else encoder.encode_document
        expected = dict(encoder.decode(encode(text)))
        assert told.keys() == expected.keys()
        for term, weight in expected.items():
            assert abs(told[term] - weight) <= 1e-5


def test_the_table_of_keys_in_the_readme_is_the_tables() -> None:
    assert support_table() in (REPOSITORY / "export" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("key", ["classifier_activation", "classifier_bias", "pad_token_id", "decoder_start_token_id"])
def test_keys_that_some_architecture_computes_with_are_not_without_effect(key: str) -> None:
    """ModernBERT's head, RoBERTa's positions and BART's shift read them."""
    row = next(r for r in KEYS if r.file == "config.json" and any(fnmatchcase(key, glob) for glob in r.keys))
    assert row.effect == "applied"


def test_families_are_named_by_whole_hub_ids() -> None:
    assert all("/" in glob for family in FAMILIES for glob in family.hub_ids)


def test_vectors_of_the_library_are_what_is_compared(made: tuple[Path, Path]) -> None:
    """The comparison itself against the library, asked here."""
    source, artifact = made
    found = compare(open_artifact(artifact), str(source), TEXTS, ["query"])
    expected = library.vectors(source, "query", TEXTS)
    assert [text.witness_terms for text in found.texts] == np.count_nonzero(expected, axis=1).tolist()
    assert found.largest == pytest.approx(float(expected.max()), rel=1e-5)
