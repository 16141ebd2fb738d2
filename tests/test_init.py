"""Initial values."""

import math

import numpy as np
import pytest

from fastnn import init

STD = {
    "he": math.sqrt(2 / 300),
    "xavier": math.sqrt(2 / 500),
    "glorot": math.sqrt(2 / 500),
    "lecun": math.sqrt(1 / 300),
}


@pytest.mark.parametrize("name", STD)
def test_standard_deviation(name):
    W = getattr(init, name)(300, 200, 0, np.float64)
    count = W.size
    assert W.shape == (300, 200)
    assert W.dtype == np.float64
    assert W.std() == pytest.approx(STD[name], rel=5 / math.sqrt(2 * count))  # five standard errors
    assert abs(W.mean()) < 5 * STD[name] / math.sqrt(count)


@pytest.mark.parametrize("name", STD)
def test_float32_and_float64_start_alike(name):
    draw = init.resolve(name)
    a, b = draw(7, 5, np.random.default_rng(3), np.float64), draw(7, 5, np.random.default_rng(3), np.float32)
    assert b.dtype == np.float32
    np.testing.assert_array_equal(a.astype(np.float32), b)


def test_normal():
    W = init.normal(0.5)(300, 200, 1, "float64")
    assert W.std() == pytest.approx(0.5, rel=0.02)
    np.testing.assert_array_equal(init.resolve(0.5)(300, 200, 1, np.dtype("float64")), W)
    assert (init.resolve(0)(2, 3, 1, np.float32) == 0).all()


def test_rng():
    a = init.he(3, 4, 5)
    assert a.dtype == np.float32
    np.testing.assert_array_equal(a, init.he(3, 4, np.random.default_rng(5)))
    assert (init.he(3, 4) != init.he(3, 4)).all()
    rng = np.random.default_rng(5)
    assert (init.he(3, 4, rng) != init.he(3, 4, rng)).all()


def test_resolve_names():
    assert init.resolve("he") is init.he is init.resolve(init.he)
    assert init.resolve("glorot") is init.resolve("xavier") is init.xavier


def test_resolve_a_function():
    kept = np.full((2, 3), 0.5, np.float32)
    seen = []

    def own(n_in, n_out, rng, dtype):
        seen.append((n_in, n_out, rng, dtype))
        return kept

    rng = np.random.default_rng(0)
    result = init.resolve(own)(2, 3, rng, np.dtype(np.float32))
    assert seen == [(2, 3, rng, np.float32)]
    np.testing.assert_array_equal(result, kept)
    assert not np.shares_memory(result, kept)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (np.ones((2, 3)), TypeError, "^init must return an array of dtype float32, got float64"),
        (
            np.ones((3, 2), np.float32),
            ValueError,
            r"^init must return an array of shape \(2, 3\), got \(3, 2\)",
        ),
        (np.full((2, 3), np.nan, np.float32), ValueError, "^init must return finite numbers"),
    ],
)
def test_a_function_that_does_not_fit(values, error, message):
    with pytest.raises(error, match=message):
        init.resolve(lambda *_: values)(2, 3, None, np.dtype(np.float32))


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ("she", ValueError, "^init must be one of he, xavier, glorot, lecun, orthogonal, got 'she'"),
        (-0.1, ValueError, "^init must be a number >= 0, got -0.1"),
        (math.nan, ValueError, "^init"),
        (None, TypeError, "^init must be he, .*orthogonal, a number >= 0 or a function, got None"),
        (True, TypeError, "^init"),
    ],
)
def test_resolve_refuses(bad, error, message):
    with pytest.raises(error, match=message):
        init.resolve(bad)


def test_arguments_are_named():
    with pytest.raises(ValueError, match=r"^n_in"):
        init.he(0, 1)
    with pytest.raises(TypeError, match=r"^n_out"):
        init.he(1, 1.5)
    with pytest.raises(TypeError, match=r"^dtype"):
        init.he(1, 1, dtype="f2")
    with pytest.raises(ValueError, match=r"^std must be a number >= 0"):
        init.normal(-1)


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (7, 3), (3, 7), (40, 12)])
@pytest.mark.parametrize("gain", [1.0, 0.01, np.sqrt(2)])
def test_orthogonal(shape, gain, dtype):
    w = init.orthogonal(gain)(*shape, 0, dtype)
    assert w.shape == shape
    assert w.dtype == dtype
    assert w.flags.c_contiguous
    wide = w.astype(np.float64)
    gram = wide.T @ wide if shape[0] >= shape[1] else wide @ wide.T
    np.testing.assert_allclose(gram, gain**2 * np.eye(min(shape)), atol=20 * np.finfo(dtype).eps * gain**2)
    again = init.resolve("orthogonal")(*shape, 0, dtype)
    np.testing.assert_allclose(w, gain * again, rtol=4 * np.finfo(dtype).eps)


def test_orthogonal_matrices_are_spread_evenly():
    signs = [np.sign(init.orthogonal()(4, 4, seed, np.float64)[0]) for seed in range(400)]
    assert np.abs(np.mean(signs, axis=0)).max() < 0.2


@pytest.mark.parametrize("bad", [-1.0, "1", None, np.nan])
def test_a_gain_that_is_none(bad):
    with pytest.raises((TypeError, ValueError), match="gain"):
        init.orthogonal(bad)
