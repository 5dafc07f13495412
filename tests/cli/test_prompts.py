"""How texts are read, as the commands show it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from splade_edge.runtime.artifact import UNLIMITED, SideSettings
from splade_edge.runtime.numerics import NUMERICS

from .. import tiny
from .conftest import Cli

PROMPT = "find the bird: "
SIDES = {
    "query": SideSettings(prompt=PROMPT, max_length=9),
    "document": SideSettings(prompt="[b]doc[/b] ", max_length=tiny.MAX_LENGTH),
}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_artifact(tmp_path_factory.mktemp("prompts") / "both", sides=SIDES)


@pytest.fixture(scope="module")
def prompted(cli: Cli, artifact: Path, corpus: Path) -> Path:
    """An index of an encoder with prompts. Do not write into it."""
    path = artifact.parent / "index"
    cli("index", artifact, corpus, "-o", path, "--threads", 1, "--with-document-encoder")
    return path


def rows(table: str) -> dict[str, str]:
    return {line.split("  ")[0].strip(): line.split("  ")[-1].strip() for line in table.splitlines()}


def test_info_shows_what_is_not_as_usual(cli: Cli, artifact: Path, prompted: Path, tmp_path: Path) -> None:
    about = json.loads(cli("info", artifact, "--json").stdout)
    assert about["sides"] == {
        "query": {"prompt": PROMPT, "max_length": 9},
        "document": {"prompt": "[b]doc[/b] ", "max_length": tiny.MAX_LENGTH},
    }
    assert about["numerics"] == NUMERICS
    table = rows(cli("info", artifact).stdout)
    assert table["query: prompt"] == PROMPT.strip()
    assert table["query: max length"] == "9"
    assert table["document: prompt"] == "[b]doc[/b]"
    assert table["numerics"] == str(NUMERICS)
    assert "document: max length" not in table
    settings = {
        "adds_special_tokens": False, "split_special_tokens": True, "truncation_side": "left", "max_active_dims": 3,
        "normalization": "kept terms", "tokenizer": "file",
    }  # fmt: skip
    assert not {name.replace("_", " ") for name in settings} & table.keys()
    other = {("tokenizer_from" if name == "tokenizer" else name): value for name, value in settings.items()}
    path = tiny.write_artifact(tmp_path / "other", "query", **other)
    assert settings.items() <= json.loads(cli("info", path, "--json").stdout).items()
    shown = rows(cli("info", path).stdout)
    for name, value in settings.items():
        assert shown[name.replace("_", " ")] == str(value)
    assert rows(cli("info", prompted).stdout)["query encoder: query: prompt"] == PROMPT.strip()


def test_info_of_an_older_artifact(cli: Cli) -> None:
    path = Path(__file__).parents[1] / "fixtures/index-version-2/index"
    process = cli("info", path, "--json")
    about = json.loads(process.stdout)["query_encoder"]
    assert (about["numerics"], about["sides"]) == (0, {"query": {"prompt": "", "max_length": tiny.MAX_LENGTH}})
    assert process.stderr == ""


def test_explain_shows_the_text_that_was_encoded(cli: Cli, prompted: Path, index: Path) -> None:
    assert f"\nencoded: {PROMPT}cat rain\n" in cli("search", prompted, "cat rain", "--explain").stdout
    assert "\nencoded: cat [b]rain\n" in cli("search", index, "cat [b]rain", "--explain").stdout
    long = cli("search", prompted, "cat rain snow fish dog", "--explain")
    assert f"\nencoded (cut at 9 tokens): {PROMPT}cat rain snow\n" in long.stdout
    assert "the query was cut after 9 tokens" in long.stderr
    answer = json.loads(cli("search", prompted, "cat rain snow fish dog", "--explain", "--json").stdout)
    assert (answer["cut"], answer["encoded_text"]) == (True, f"{PROMPT}cat rain snow")
    answer = json.loads(cli("search", prompted, "cat", "--explain", "--json").stdout)
    assert (answer["cut"], answer["encoded_text"]) == (False, f"{PROMPT}cat")
    assert "encoded_text" not in json.loads(cli("search", prompted, "cat", "--json").stdout)


def test_a_query_cut_on_the_left(cli: Cli, corpus: Path, tmp_path: Path) -> None:
    path = tiny.write_artifact(tmp_path / "left", truncation_side="left", max_length=4)
    cli("index", path, corpus, "-o", tmp_path / "index", "--threads", 1)
    process = cli("search", tmp_path / "index", "cat rain snow fish", "--explain")
    assert "\nencoded (cut at 4 tokens): snow fish\n" in process.stdout
    assert "the query was cut before its last 4 tokens; the rest was not searched for" in process.stderr


@pytest.mark.parametrize("lengths", [(), ("--lengths", "9,11")])
def test_bench_makes_texts_behind_a_prompt(cli: Cli, artifact: Path, prompted: Path, lengths: tuple[str, ...]) -> None:
    process = cli("bench", artifact, "--backend", "onnx", "--seconds", "0.01", "--json", *lengths)
    latency = {graph["side"]: list(graph["latency"]) for graph in json.loads(process.stdout)["graphs"]}
    assert latency["query"] == ["9 tokens" if lengths else "8 tokens"]
    assert latency["document"] == ["11 tokens" if lengths else "16 tokens"]
    process = cli("bench", artifact, "--lengths", "6", "--seconds", "0.01", check=2)
    assert "the query encoder of" in process.stderr
    assert "both reads 7 to 9 tokens; give such --lengths" in process.stderr


def test_bench_of_a_look_up_without_a_limit(cli: Cli, tmp_path: Path) -> None:
    weights = np.ones(len(tiny.VOCABULARY), np.float32)
    for prompt, name in (("", "8 tokens"), ("cat " * 40, "72 tokens")):
        path = tiny.write_table_artifact(
            tmp_path / name, weights, max_length=UNLIMITED, adds_special_tokens=False,
            sides={"query": SideSettings(prompt=prompt, max_length=UNLIMITED)},
        )  # fmt: skip
        (graph,) = json.loads(cli("bench", path, "--seconds", "0.01", "--json").stdout)["graphs"]
        assert next(iter(graph["latency"])) == name
