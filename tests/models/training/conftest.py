"""A small world to train in: a collection of two subjects, and tiny encoders over its words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("Stemmer")

from ... import checkpoints

SUBJECTS = (
    ["country", "oil", "crisis", "kenya", "warsaw", "war", "king", "pharmacy", "only", "other", "new", "1"],
    ["prime", "number", "steam", "engine", "network", "packet", "force", "oxygen", "tesla", "2", "3", "4"],
)


@pytest.fixture(scope="session")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 documents and 24 judged queries in BEIR form; a query is three words of its document."""
    place = tmp_path_factory.mktemp("sets") / "small"
    (place / "qrels").mkdir(parents=True)
    rng = np.random.default_rng(3)
    documents, queries, qrels = [], [], ["query-id\tcorpus-id\tscore"]
    for number in range(40):
        words = rng.choice(SUBJECTS[number % 2], 5, replace=False)
        text = " ".join(["the", *words[:3], "of a", *words[3:]])
        documents.append({"_id": f"d{number}", "title": "", "text": text})
        if number < 24:
            queries.append({"_id": f"q{number}", "text": "what is " + " ".join(words[:3])})
            qrels.append(f"q{number}\td{number}\t1")
    (place / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)) + "\n")
    (place / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)) + "\n")
    (place / "qrels" / "train.tsv").write_text("\n".join(qrels) + "\n")
    return place


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with random weights, which serves as a dense teacher as well."""
    return with_pooling(checkpoints.write_checkpoint(tmp_path_factory.mktemp("base") / "tiny-bert"))


def with_pooling(path: Path, **config: object) -> Path:
    """State the pooling of a sentence encoder (default: the mean)."""
    (path / "1_Pooling").mkdir(exist_ok=True)
    checkpoints.write_json(path / "1_Pooling" / "config.json", config or {"pooling_mode_mean_tokens": True})
    return path


RunWriter = Callable[..., Path]


@pytest.fixture
def write_run(tmp_path: Path, base: Path, collection: Path) -> RunWriter:
    """Writes ``NAME.toml``; ``extra`` is appended, ``training`` replaces the [training] table."""

    def write(
        extra: str = "", *, name: str = "run", training: str = "steps = 4\nbatch = 4", query: bool = True
    ) -> Path:
        path = tmp_path / f"{name}.toml"
        encoder = f'base = "{base}"\nmax_length = 16\n'
        path.write_text(
            f'name = "{name}"\n[[sets]]\npath = "{collection}"\nheld_out = 4\n[document]\n{encoder}'
            + (f"[query]\n{encoder}" if query else "")
            + f"[training]\nevaluate_every = 2\ncheckpoint_every = 2\n{training}\n{extra}"
        )
        return path

    return write
