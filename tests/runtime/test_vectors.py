from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from splade_edge.runtime.vectors import SparseBatch, SparseVector, from_dense

rows = hnp.arrays(np.float32, st.integers(1, 20), elements=st.sampled_from([0.0, 0.0, 0.5, 1.25, 3.0]))


@given(rows)
def test_from_dense(row: np.ndarray) -> None:
    vector = from_dense(row)
    assert vector.indices.dtype == np.int32
    assert vector.values.dtype == np.float32
    back = np.zeros_like(row)
    back[vector.indices] = vector.values
    np.testing.assert_array_equal(back, row)
    assert (np.diff(vector.indices) > 0).all()


@given(hnp.arrays(np.float32, (2, 30), elements=st.floats(0, 10, width=16)))
def test_dot(pair: np.ndarray) -> None:
    a, b = map(from_dense, pair)
    expected = float(pair[0].astype(np.float64) @ pair[1].astype(np.float64))
    assert a.dot(b) == pytest.approx(expected)
    assert b.dot(a) == pytest.approx(expected)


@given(st.lists(rows, max_size=8))
def test_stack_keeps_rows(dense_rows: list[np.ndarray]) -> None:
    vectors = [from_dense(row) for row in dense_rows]
    batch = SparseBatch.stack(vectors)
    assert len(batch) == len(vectors)
    assert [str(array.dtype) for array in (batch.indptr, batch.indices, batch.values)] == ["int64", "int32", "float32"]
    for got, want in zip(batch, vectors, strict=True):
        np.testing.assert_array_equal(got.indices, want.indices)
        np.testing.assert_array_equal(got.values, want.values)


def test_rows_by_number() -> None:
    batch = SparseBatch.stack(
        [SparseVector(np.array([1], np.int32), np.array([2.0], np.float32)), from_dense(np.zeros(3, np.float32))]
    )
    assert batch[0].indices.tolist() == [1]
    assert batch[-1].indices.size == 0
    for row in (2, -3):
        with pytest.raises(IndexError):
            batch[row]
