"""Checkpoints that sentence-transformers itself saves, tiny and random, and what that library makes of texts."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules import Normalize, Router, Transformer
from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding, SpladePooling
from splade_edge.runtime import Encoder

from .checkpoints import WORDS

for name in ("sentence_transformers", "transformers"):
    logging.getLogger(name).setLevel(logging.CRITICAL)
transformers.utils.logging.disable_progress_bar()

EXTRA = ("Kenya", "KING", "query", "document", "passage", "to", "boot", ",", ":", "-", "é")
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *EXTRA]
TEXTS = (
    "who was the king of kenya",
    "",
    "  white space \t\n",
    "KENYA Kenya kénya",
    "oil [SEP] war [CLS] [MASK] [PAD] [UNK]",
    "oil \u732b war",
    "a NUL \x00 in the middle",
    "king kenya " * 60 + "oil crisis war",
    " ".join(WORDS[:15]),
    " ".join(WORDS[:16]),
)


def word_piece(place: Path, *, lower: bool = True, **settings: Any) -> Any:
    """A ``BertTokenizer`` of transformers over VOCABULARY, its files in ``place``."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return transformers.BertTokenizer.from_pretrained(str(place), do_lower_case=lower, **settings)


def bert(place: Path, *, seed: int = 0, tokenizer: Any = None, positions: int = 64, dtype: Any = None) -> Path:
    """A plain BERT checkpoint."""
    tokenizer = tokenizer or word_piece(place.with_name(place.name + "-words"))
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=positions, initializer_range=0.4,
    )  # fmt: skip
    model = transformers.BertForMaskedLM(config).eval()
    if dtype is not None:
        model.to(dtype)
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def mlm(path: Path, **settings: Any) -> Transformer:
    """The encoder module of a plain checkpoint."""
    return Transformer(str(path), transformer_task="fill-mask", **settings)


def table(place: Path, weight: Sequence[float] | None = None, **tokenizer: Any) -> SparseStaticEmbedding:
    """A look-up module; without ``weight``, random and positive."""
    words = word_piece(place.with_name(place.name + "-table"), **tokenizer)
    weights = torch.rand(len(words), generator=torch.Generator().manual_seed(7)) * 3 if weight is None else None
    return SparseStaticEmbedding(words, weights if weights is not None else torch.tensor(weight))


def splade(*modules: Any, **settings: Any) -> SparseEncoder:
    """A model of these modules on the CPU."""
    return SparseEncoder(modules=list(modules), device="cpu", **settings)


def edit(path: Path, **values: Any) -> None:
    """Change keys of a JSON file."""
    stated = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(stated | values))


def vectors(path: Path, side: str, texts: Sequence[str]) -> np.ndarray:
    """What the library gives: float32 ``[texts, vocabulary]``, one text at a time; cosine similarity's vectors are
    those that it multiplies.
    """
    with contextlib.redirect_stderr(io.StringIO()):
        model = SparseEncoder(str(path), device="cpu", model_kwargs={"dtype": torch.float32})
    encode = model.encode_query if side == "query" else model.encode_document
    rows = []
    for text in texts:
        row = encode(text, convert_to_sparse_tensor=False)
        rows.append(torch.nn.functional.normalize(row, dim=-1) if model.similarity_fn_name == "cosine" else row)
    return torch.stack(rows).float().numpy()


def difference(artifact: Path, side: str, texts: Sequence[str], expected: np.ndarray, **graph: Any) -> float:
    """The largest difference of the runtime's vectors, relative to the largest weight."""
    encoder = Encoder.open(artifact, side, threads=1, **graph)
    found = np.zeros((len(texts), encoder.vocab_size), np.float32)
    encode = encoder.encode_query if side == "query" else encoder.encode_document
    for row, vector in zip(found, encode(list(texts)), strict=True):
        row[vector.indices] = vector.values
    expected = np.pad(expected, ((0, 0), (0, encoder.vocab_size - expected.shape[1])))
    return float(np.abs(found - expected).max() / expected.max())


def hub_cache(source: Path, cache: Path, repository: str) -> str:
    """A hub cache with a snapshot of links into ``blobs/``, as huggingface_hub lays one out; returns the commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "blobs").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    for number, path in enumerate(sorted(p for p in source.rglob("*") if p.is_file())):
        blob = folder / "blobs" / f"{number:064x}"
        blob.write_bytes(path.read_bytes())
        link = folder / "snapshots" / commit / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(Path(*[".."] * (len(link.relative_to(folder).parts) - 1)) / "blobs" / blob.name)
    return commit


def asym(path: Path) -> None:
    """Rewrite a saved Router as ``Asym``, its name before sentence-transformers 5, with the files of its time."""
    config = json.loads((path / "router_config.json").read_text())
    config["parameters"] = {"allow_empty_key": True}
    (path / "config.json").write_text(json.dumps(config))
    (path / "router_config.json").unlink()
    modules = json.loads((path / "modules.json").read_text())
    modules[0]["type"] = "sentence_transformers.models.Asym"
    (path / "modules.json").write_text(json.dumps(modules))


__all__ = ["Normalize", "Router", "SparseStaticEmbedding", "SpladePooling", "Transformer"]
