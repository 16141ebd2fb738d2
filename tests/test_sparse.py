"""RowSparse."""

import numpy as np
import pytest

from fastnn.sparse import RowSparse


def test_parts():
    rows, values = np.array([1, 3]), np.array([[1, 2], [3, 4]], np.float32)
    a = RowSparse(rows, values, (5, 2))
    assert a.rows is rows
    assert a.values is values
    assert a.shape == (5, 2)
    assert a.ndim == 2
    assert a.dtype == np.float32
    assert repr(a) == "RowSparse(2 of 5 rows, shape=(5, 2), dtype=float32)"
    expected = np.array([[0, 0], [1, 2], [0, 0], [3, 4], [0, 0]], np.float32)
    np.testing.assert_array_equal(a.to_dense(), expected)
    assert a.to_dense().dtype == np.float32
    np.testing.assert_array_equal(np.asarray(a), expected)
    np.testing.assert_array_equal(a + np.zeros((5, 2)) if hasattr(a, "__add__") else np.add(a, 0), expected)
    assert np.asarray(a, np.float64).dtype == np.float64
    assert RowSparse([1], np.ones((1, 2)), [5, np.int64(2)]).rows.dtype == np.int64


def test_no_view():
    a = RowSparse([0], np.ones((1, 1)), (1, 1))
    with pytest.raises(ValueError, match="without a copy"):
        a.__array__(copy=False)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(0,), (7,), (3, 4), (2, 0, 3), ()])
def test_from_tokens(shape, dtype):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 5, shape)
    values = rng.normal(size=(*shape, 3)).astype(dtype)
    before = tokens.copy(), values.copy()
    a = RowSparse.from_tokens(tokens, values, (5, 3))
    dense = np.zeros((5, 3), dtype)
    for i in np.ndindex(shape):
        dense[tokens[i]] += values[i]
    np.testing.assert_array_equal(a.to_dense(), dense)
    np.testing.assert_array_equal(a.rows, np.unique(tokens))
    assert a.values.dtype == dtype
    assert a.rows.dtype == np.int64
    np.testing.assert_array_equal(tokens, before[0])
    np.testing.assert_array_equal(values, before[1])


def test_sums_in_order_of_occurrence():
    values = np.array([[1e8], [1.0], [-1e8], [1.0]], np.float32)
    assert RowSparse.from_tokens([2, 2, 2, 2], values, (3, 1)).values[0, 0] == 1.0
    assert RowSparse.from_tokens([2, 2, 2, 2], values[[0, 2, 1, 3]], (3, 1)).values[0, 0] == 2.0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1, 1], np.ones((2, 2)), (5, 2)), ValueError, "^rows must be sorted"),
        (([2, 1], np.ones((2, 2)), (5, 2)), ValueError, "^rows must be sorted"),
        (([1, 5], np.ones((2, 2)), (5, 2)), ValueError, r"^rows must hold integers in \[0, 5\), got 5"),
        (([-1, 1], np.ones((2, 2)), (5, 2)), ValueError, "^rows must hold integers"),
        (([0.0, 1.0], np.ones((2, 2)), (5, 2)), TypeError, "^rows must hold integers"),
        (([[0, 1]], np.ones((2, 2)), (5, 2)), ValueError, "^rows must have 1 dimension"),
        (([0, 1], np.ones((2, 3)), (5, 2)), ValueError, r"^values must have shape \(2, 2\), got \(2, 3\)"),
        (([0, 1], np.ones((2, 2), int), (5, 2)), TypeError, "^values must be a float32 or float64"),
        (([0, 1], np.ones((2, 2)), (5,)), ValueError, "^shape must be two integers"),
        (([0, 1], np.ones((2, 2)), (5, -2)), ValueError, r"^shape\[1\] must be an integer >= 0"),
    ],
)
def test_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        RowSparse(*arguments)


def test_from_tokens_refuses():
    with pytest.raises(ValueError, match=r"^tokens must hold integers in \[0, 5\), got 7"):
        RowSparse.from_tokens([7], np.ones((1, 2)), (5, 2))
    with pytest.raises(ValueError, match=r"^values must have shape \(1, 2\), got \(1, 3\)"):
        RowSparse.from_tokens([0], np.ones((1, 3)), (5, 2))
