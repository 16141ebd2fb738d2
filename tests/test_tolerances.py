"""The tolerance module accepts what rounding explains and nothing else."""

import math

import numpy as np
import pytest

from layouts import CONSTANT_VIEWS, VIEWS
from tolerances import FLOATS, assert_same_bits, assert_within, bound, exact

EPS = float(np.finfo(np.float32).eps)


def check(value, expected=1.0, terms=8, scale=1.0, **options):
    assert_within(np.array([value], np.float32), np.array([expected]), terms=terms, scale=scale, **options)


@pytest.mark.parametrize("good", [1.0, 1 + 7 * EPS, 1 - 8 * EPS])
def test_rounding_is_accepted(good):
    check(good)


@pytest.mark.parametrize("bad", [1 + 9 * EPS, 1 - 9 * EPS, 1.001, 0.0, -1.0, math.nan, math.inf, -math.inf])
def test_what_rounding_does_not_explain_is_refused(bad):
    with pytest.raises(AssertionError):
        check(bad)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (1.0, math.nan),
        (math.nan, 1.0),
        (math.inf, -math.inf),
        (math.inf, math.nan),
        (1.0, math.inf),
        (3e38, math.inf),
    ],
)
def test_nan_and_infinity_must_match(actual, expected):
    check(expected, expected)
    with pytest.raises(AssertionError):
        check(actual, expected)


def test_one_wrong_element_of_many_is_found():
    expected = np.linspace(-1, 1, 1000)
    actual = expected.astype(np.float32)
    assert_within(actual, expected, terms=1)
    actual[500] *= 1.00001
    with pytest.raises(AssertionError, match="1 of 1000 off"):
        assert_within(actual, expected, terms=1)


def test_a_bound_that_would_accept_anything_is_refused():
    for scale in (math.inf, math.nan, -1.0):
        with pytest.raises(AssertionError):
            check(1.0, scale=scale)


def test_the_bound_grows_with_terms_and_scale_and_holds_the_flushed_subnormals():
    tiny = float(np.finfo(np.float32).tiny)
    assert bound(np.float32, 3, 5) == 3 * (EPS * 5 + tiny)
    assert bound(np.float64, 3, 5) == pytest.approx(2 * 3 * 5 * np.finfo(np.float64).eps)
    check(0.0, tiny, terms=1, scale=0.0)
    with pytest.raises(AssertionError):
        check(0.0, 1.1 * tiny, terms=1, scale=0.0)


def test_an_inherited_error_is_added():
    check(1.5, plus=0.5)
    with pytest.raises(AssertionError):
        check(1.501, plus=0.5)


def test_the_default_scale_is_the_expected_value():
    a, b = np.array([1e-6], np.float32), np.array([1.1e-6])
    with pytest.raises(AssertionError):
        assert_within(a, b, terms=100)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (np.ones(2, np.float32), np.ones(3)),
        (np.ones((2, 1), np.float32), np.ones(2)),
        (np.ones(1, np.float32), np.ones(())),
        (np.ones(2, np.float16), np.ones(2)),
        (np.ones(2, np.int64), np.ones(2)),
        (np.ones(2, np.float32), np.ones(2, np.float32)),
        (1.0, np.ones(())),
    ],
)
def test_other_shapes_dtypes_and_types_are_refused(actual, expected):
    with pytest.raises(AssertionError):
        assert_within(actual, expected, terms=1e9)


def test_python_floats_take_the_dtype_of_the_arithmetic():
    assert_within(1 + 2 * EPS, 1.0, terms=4, dtype=np.float32)
    with pytest.raises(AssertionError):
        assert_within(1 + 2 * EPS, 1.0, terms=4, dtype=np.float64)
    with pytest.raises(AssertionError):
        assert_within(np.ones(()), 1.0, terms=4, dtype=np.float64)


@pytest.mark.parametrize(
    ("a", "b"),
    [(0.0, -0.0), (1.0, np.nextafter(1.0, 2)), (math.nan, 1.0), (np.float32(1), 1.0), ([1.0], [[1.0]])],
)
def test_same_bits_bites(a, b):
    assert_same_bits({"x": a}, {"x": a})
    with pytest.raises(AssertionError):
        assert_same_bits({"x": a}, {"x": b})
    with pytest.raises(AssertionError):
        assert_same_bits({"x": a}, {})


def test_exact_flushes_subnormals_only():
    np.testing.assert_array_equal(
        exact(np.array([1e-40, -1e-40, 1.2e-38], np.float32)) == 0, [True, True, False]
    )
    np.testing.assert_array_equal(exact(np.array([1e-40, 1e-310])) == 0, [False, True])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("view", VIEWS + CONSTANT_VIEWS)
def test_layouts_keep_the_numbers(view, dtype):
    a = np.random.default_rng(0).normal(size=(7, 11)).astype(dtype)
    seen = view(a)
    if view in CONSTANT_VIEWS:
        assert 0 in seen.strides
    else:
        np.testing.assert_array_equal(seen, a)
    assert seen.flags.aligned == (view.__name__ != "unaligned")
