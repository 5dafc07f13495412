"""A search tokenizes its query once, whatever is asked besides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from splade_edge.runtime import Document, Searcher, build_index
from splade_edge.runtime.encoder.cutting import Cutter

QUERY = "cat in the rain"


@pytest.fixture
def tokenized(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that the tokenizers library was given."""
    texts: list[str] = []
    encode = Cutter._encode

    def counted(self: Cutter, tokenizer: Any, text: str) -> Any:
        texts.append(text)
        return encode(self, tokenizer, text)

    monkeypatch.setattr(Cutter, "_encode", counted)
    return texts


@pytest.fixture(params=[0.0, 0.5])
def searcher(request: pytest.FixtureRequest, tmp_path: Path, tiny_pair: Path) -> Iterator[Searcher]:
    build_index(tmp_path / "index", [Document("a", "", "cat dog"), Document("b", "", "rain")], tiny_pair)
    with Searcher.open(tmp_path / "index", threads=1, idf=request.param) as found:
        yield found


def test_a_search_tokenizes_its_query_once(searcher: Searcher, tokenized: list[str]) -> None:
    hits = searcher.search(QUERY, 2)
    assert hits
    assert tokenized == [QUERY]
    tokenized.clear()
    searcher.explain(QUERY, hits[0])
    assert tokenized == [QUERY]
    tokenized.clear()
    assert list(searcher.search_many([QUERY, "dog"], 2))
    assert tokenized == [QUERY, "dog"]


def test_a_vector_is_searched_and_explained_without_its_text(searcher: Searcher, tokenized: list[str]) -> None:
    vector = searcher.encode_query(QUERY)
    (hit, *_) = searcher.search_vector(vector, 2)
    searcher.explain(vector, hit)
    assert tokenized == [QUERY]
