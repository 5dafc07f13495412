"""A model of an index that changes, and the index that a rebuild would give: what the real one is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from splade_edge.runtime.build.index_writer import IndexWriter
from splade_edge.runtime.build.passages import PassageSpan
from splade_edge.runtime.document import Document
from splade_edge.runtime.index import Index
from splade_edge.runtime.update.updater import IndexUpdater
from splade_edge.runtime.vectors import SparseBatch

from .oracle import csr

SCALE = 1 / 64

Made = tuple[str, dict[str, Any], np.ndarray]  # id, metadata, vectors


class Model:
    """Documents in the order of (last) insertion: id -> (metadata, float32 rows, one a passage)."""

    def __init__(self, vocab: int, seed: int = 0, *, passages: bool = False) -> None:
        self.vocab = vocab
        self.rng = np.random.default_rng(seed)
        self.passages = passages
        self.documents: dict[str, tuple[dict[str, Any], np.ndarray]] = {}
        self.made = 0

    def vectors(self) -> np.ndarray:
        """The vectors of one document; whole steps of few sizes, so that there are ties."""
        rows = int(self.rng.integers(1, 4)) if self.passages else 1
        steps = self.rng.integers(1, 5, (rows, self.vocab)) * (self.rng.random((rows, self.vocab)) < 0.4)
        return (steps * np.float32(SCALE * 20)).astype(np.float32)

    def new(self, count: int) -> list[Made]:
        """Documents that are not there yet."""
        self.made += count
        return [self.make(f"d{n}") for n in range(self.made - count, self.made)]

    def make(self, document_id: str) -> Made:
        """A document of random contents."""
        return (
            document_id,
            {"year": int(self.rng.integers(2000, 2010)), "note": f"n{self.rng.integers(5)}"},
            self.vectors(),
        )

    def some(self, count: int) -> list[str]:
        """Ids that are there."""
        ids = list(self.documents)
        return self.rng.choice(ids, min(count, len(ids)), replace=False).tolist() if ids else []

    def add(self, updater: Any, documents: list[Made], *, replace: bool = False) -> None:
        """Add to the model and to an index."""
        updater.add_vectors(*batch(documents, passages=self.passages), replace=replace)
        for document_id, metadata, rows in documents:
            self.documents.pop(document_id, None)
            self.documents[document_id] = metadata, rows

    def delete(self, updater: IndexUpdater, ids: list[str]) -> None:
        assert updater.delete(ids) == len(ids)
        for document_id in ids:
            del self.documents[document_id]

    def rebuild(self, path: Path, **options: Any) -> Index:
        """A new index of the documents that are there."""
        path.mkdir(parents=True)
        writer = IndexWriter(path, self.vocab, scale=SCALE, passages=self.passages, fields=["year"], **options)
        if self.documents:
            documents, *vectors = batch([(i, *found) for i, found in self.documents.items()], passages=self.passages)
            writer.add_documents(documents)
            writer.add_vectors(*vectors)
        writer.finish()
        return Index.open(path)


def batch(documents: list[Made], *, passages: bool) -> tuple[list[Document], SparseBatch, list[PassageSpan] | None]:
    """As IndexUpdater.add_vectors takes them. The text has a letter a passage."""
    rows = [row for _, _, vectors in documents for row in vectors]
    spans = [PassageSpan(n, i, i + 1) for n, (_, _, v) in enumerate(documents) for i in range(len(v))]
    stored = [Document(i, f"title {i}", "abc"[: len(v)], metadata) for i, metadata, v in documents]
    return stored, csr(np.array(rows)), spans if passages else None


def assert_same(index: Index, expected: Index, rng: np.random.Generator, queries: int = 6) -> None:
    """Everything that can be asked of two indexes has the same answer, to the bit; the vocabulary is small."""
    assert len(index) == len(expected)
    filters = ["year >= 2005", "note = 'n1' or year = 2003", "not note in ('n2', 'n3')", "year < 1900"]
    wheres = {where: (index.select(where).allowed, expected.select(where).allowed) for where in filters if len(index)}
    for mine, theirs in wheres.values():
        assert mine.tolist() == theirs.tolist()
    vocab = index.manifest.vocab_size
    for n in range(queries):
        terms = rng.choice(vocab, int(rng.integers(1, vocab)), replace=False)
        weights = np.ones(terms.size, np.float32) if n % 2 else rng.random(terms.size).astype(np.float32)
        masks: list[tuple[Any, Any]] = [(None, None), *(wheres.values() if n < 3 else ())]
        for k in (1, 7, 1000):
            for one, other in masks:
                found = index.search_units((terms, weights), k, allowed=one)
                wanted = expected.search_units((terms, weights), k, allowed=other)
                for a, b in zip(found, wanted, strict=True):
                    assert a.dtype == b.dtype
                    assert a.tolist() == b.tolist()
                ordinals, units, _ = found
                assert index.documents(ordinals) == expected.documents(ordinals)
                assert [index.span(u) for u in units[:5]] == [expected.span(u) for u in units[:5]]
        for unit in units[:3].tolist():
            for term in range(vocab):
                assert index._with_unit(unit).impact(term, unit) == expected._with_unit(unit).impact(term, unit)
    everything = index.documents(range(len(index)))
    assert everything == expected.documents(range(len(index)))
    for ordinal, document in list(enumerate(everything))[:: max(1, len(everything) // 10)]:
        assert index.find(document.id) == ordinal
    assert index.find("never") is None
    assert set(expected.terms.tolist()) <= set(index.terms.tolist())
