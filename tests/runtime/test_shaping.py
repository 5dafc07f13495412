"""Vectors cut to their largest weights, or of length 1: alone, and for some terms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splade_edge.runtime import Document, Searcher, build_index
from splade_edge.runtime.artifact import Normalization
from splade_edge.runtime.encoder import Encoder
from splade_edge.runtime.encoder.shaping import Shaping, largest, normalized
from splade_edge.runtime.vectors import SparseVector

from .. import split, tiny
from ..oracle import numpy_alone
from ..transformers import write_transformer_artifact

TEXTS = ["cat", "", "the supersonic boundary layer of a river and the engine wing flow heat", "dog fish bird tree"]
KINDS: dict[str, Callable[..., Path]] = {
    "graph": tiny.write_artifact,
    "split": split.write_split_artifact,
    "kernel": write_transformer_artifact,
}

vectors = st.dictionaries(st.integers(0, 60), st.floats(2.0**-149, 2.0**100, width=32), max_size=30).map(
    lambda weights: SparseVector(
        np.array(sorted(weights), np.int32), np.array([weights[t] for t in sorted(weights)], np.float32)
    )
)
few = st.sampled_from([np.float32(0.5), np.float32(1), np.float32(2)])
ties = st.lists(few, max_size=30).map(lambda w: SparseVector(np.arange(len(w), dtype=np.int32) * 3, np.float32(w)))


@given(st.one_of(vectors, ties), st.integers(1, 31))
def test_the_largest_weights_and_of_equal_ones_the_lower_terms(vector: SparseVector, count: int) -> None:
    found = largest(vector, count)
    ranked = sorted(zip((-vector.values).tolist(), vector.indices.tolist(), strict=True))[:count]
    assert found.indices.tolist() == sorted(term for _, term in ranked)
    assert dict(zip(*map(np.ndarray.tolist, found), strict=True)) == {term: -value for value, term in ranked}
    assert found.indices.dtype == np.int32


@settings(deadline=None)
@given(vectors)
def test_a_norm_as_torch_divides_by_it(vector: SparseVector) -> None:
    import torch

    found = normalized(vector)
    dense = np.zeros(61, np.float32)
    dense[vector.indices] = vector.values
    # In float64: torch's own sum in float32 overflows for large weights.
    expected = torch.nn.functional.normalize(torch.from_numpy(dense.astype(np.float64)), dim=0).numpy()
    row = np.zeros(61, np.float32)
    row[found.indices] = found.values
    np.testing.assert_allclose(row, expected, rtol=2e-7, atol=2e-45)
    assert (found.values > 0).all()
    assert found.values.dtype == np.float32


def test_both_in_either_order() -> None:
    vector = SparseVector(np.arange(3, dtype=np.int32), np.float32([3, 4, 12]))
    assert Shaping(2, "all terms").apply(vector).values.tolist() == np.float32([4 / 13, 12 / 13]).tolist()
    assert (
        Shaping(2, "kept terms").apply(vector).values.tolist()
        == (np.float32([4, 12]) / np.sqrt(np.float32(160))).tolist()
    )
    assert Shaping(2, "none").apply(vector).values.tolist() == [4, 12]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("count", "normalization"),
    [(4, "none"), (None, "all terms"), (None, "kept terms"), (4, "all terms"), (4, "kept terms")],
)
@pytest.mark.parametrize("dropped", [(), (tiny.VOCABULARY.index("cat"), tiny.VOCABULARY.index("flow"))])
def test_some_terms_have_the_weights_that_all_give_them(
    tmp_path: Path, kind: str, count: int | None, normalization: Normalization, dropped: tuple[int, ...]
) -> None:
    extra = {} if kind == "kernel" else {"dropped_terms": dropped}
    path = KINDS[kind](tmp_path / "a", max_active_dims=count, normalization=normalization, **extra)
    plain = Encoder.open(KINDS[kind](tmp_path / "plain", **extra), threads=1)
    encoder = Encoder.open(path, threads=1)
    rng = np.random.default_rng(0)
    shaping, cut = Shaping(count, normalization), 0
    for share in (0.0, 0.3, 0.7, 1.0):
        terms = np.flatnonzero(rng.random(encoder.vocab_size) < share)
        some = encoder.restricted(terms)
        twice = encoder.restricted(np.arange(encoder.vocab_size)).restricted(terms)
        for text, batched in zip(TEXTS, some.encode(TEXTS), strict=True):
            whole = encoder.encode_query(text)
            expected = shaping.apply(plain.encode_query(text))
            np.testing.assert_array_equal(whole.indices, expected.indices)
            np.testing.assert_array_equal(whole.values, expected.values)
            cut += plain.encode_query(text).indices.size > whole.indices.size
            keep = np.isin(whole.indices, terms)
            for part in (some.encode_query(text), twice.encode_query(text)):
                np.testing.assert_array_equal(part.indices, whole.indices[keep])
                np.testing.assert_array_equal(part.values, whole.values[keep])
            np.testing.assert_allclose(batched.vector.values, whole.values[keep], rtol=1e-4)
    assert bool(cut) == (count is not None)
    with numpy_alone():
        for text in TEXTS:
            np.testing.assert_array_equal(Encoder.open(path, threads=1).encode_query(text), encoder.encode_query(text))


def test_own_terms_are_cut_too(tmp_path: Path) -> None:
    weights = np.arange(len(tiny.VOCABULARY), dtype=np.float32)
    path = tiny.write_table_artifact(tmp_path / "a", weights, max_active_dims=2, normalization="kept terms")
    encoder = Encoder.open(path, threads=1)
    vector = encoder.encode_query("cat dog fish")
    terms = [tiny.VOCABULARY.index(word) for word in ("dog", "fish")]
    assert vector.indices.tolist() == terms
    assert vector.values == pytest.approx(np.array(terms) / np.hypot(*terms))
    assert (
        encoder.restricted(np.array(terms[:1])).encode_query("cat dog fish").values.tolist()
        == vector.values[:1].tolist()
    )


def test_a_search_has_the_weights_of_the_whole_vector(tmp_path: Path) -> None:
    path = split.write_split_artifact(tmp_path / "a", max_active_dims=3, normalization="kept terms")
    build_index(tmp_path / "index", [Document("1", "", "cat river"), Document("2", "", "dog fish")], path)
    with Searcher.open(tmp_path / "index", threads=1) as searcher:
        missing = 0
        for query in [*TEXTS, "cat snow sun winter", "river bird dog"]:
            whole, part = searcher.encode_query(query), searcher.encode_for_search(query)
            keep = np.isin(whole.indices, searcher.index.terms)
            missing += int((~keep).sum())
            np.testing.assert_array_equal(part.indices, whole.indices[keep])
            np.testing.assert_array_equal(part.values, whole.values[keep])
            assert searcher.search(query) == searcher.search_vector(whole) == next(searcher.search_many([query]))
        assert missing
