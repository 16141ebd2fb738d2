"""Layers of the reference: values by hand, dtypes, state, errors. Gradients are in test_gradients.py."""

import math
import warnings

import numpy as np
import pytest

from fastnn import reference as ref
from fastnn.reference.layers import dropout_threshold
from fastnn.reference.philox import words

DTYPES = [np.float32, np.float64]
ACTIVATIONS = [ref.ReLU, ref.LeakyReLU, ref.Sigmoid, ref.Tanh, ref.GELU, ref.SiLU]


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def layers_for(n, dtype):
    """Return one of each layer that maps (N, n) to (N, something)."""
    return [
        ref.Affine.create(n, 3, rng=0, dtype=dtype),
        ref.BatchNorm.create(n, dtype=dtype),
        ref.Dropout(0.3, seed=1),
        ref.Dropout(0.3, seed=1, inverted=False),
        *(kind() for kind in ACTIVATIONS),
    ]


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_is_kept_and_inputs_are_not_modified(dtype, train):
    rng = np.random.default_rng(0)
    for layer in layers_for(4, dtype):
        x = rng.normal(size=(5, 4)).astype(dtype)
        before = x.copy()
        y = layer.forward(x, train)
        dout = np.ones_like(y)
        dx = layer.backward(dout)
        assert y.dtype == dx.dtype == dtype, layer
        assert all(g.dtype == dtype for g in layer.grads.values())
        assert dx.shape == x.shape
        assert not np.shares_memory(y, x)
        assert not np.shares_memory(dx, dout)
        np.testing.assert_array_equal(x, before)
        np.testing.assert_array_equal(dout, 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_strides(dtype):
    wide = np.random.default_rng(0).normal(size=(8, 10)).astype(dtype)
    views = [wide[::2, ::-2][:, :4], wide.T[:4, :4], np.asfortranarray(wide[:5, :4])]
    for view in views:
        for a, b in zip(layers_for(4, dtype), layers_for(4, dtype), strict=True):
            np.testing.assert_allclose(a.forward(view), b.forward(view.copy()), rtol=1e-6)
            y = a.forward(view, False)
            b.forward(view.copy(), False)
            dout = np.asfortranarray(np.ones_like(y))
            np.testing.assert_allclose(a.backward(dout), b.backward(dout.copy(order="C")), rtol=1e-6)


@pytest.mark.parametrize("data", [np.uint8, np.int64, np.float16, np.float64, bool])
def test_other_real_dtypes_are_converted(data):
    x = np.array([[0, 1, 1, 0], [1, 1, 0, 0]]).astype(data)
    layer = ref.Affine.create(4, 2, rng=0)
    y = layer.forward(x)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, layer.forward(x.astype(np.float32)))
    assert ref.ReLU().forward(x).dtype == (np.float64 if data is np.float64 else np.float32)


@pytest.mark.parametrize("bad", [np.array([[1j] * 4]), np.array([["a"] * 4]), np.array([[None] * 4])])
def test_other_things_are_refused(bad):
    for layer in layers_for(4, np.float32):
        with pytest.raises(TypeError, match=r"^x must hold real numbers"):
            layer.forward(bad)


def test_backward_before_forward():
    for layer in [*layers_for(4, np.float32), ref.Embedding.create(3, 2)]:
        with pytest.raises(RuntimeError, match="backward before forward"):
            layer.backward(np.zeros((1, 4), np.float32))
        assert layer.grads == {}


def test_dout_of_another_shape():
    for layer in layers_for(4, np.float32):
        layer.forward(np.ones((2, 4), np.float32))
        with pytest.raises(ValueError, match=r"^dout must have the output's shape"):
            layer.backward(np.ones((3, 4), np.float32))
        assert layer.grads == {}


def test_no_rows():
    x = np.zeros((0, 4), np.float32)
    for layer in layers_for(4, np.float32):
        y = layer.forward(x, False)
        assert len(y) == 0
        assert layer.backward(y).shape == (0, 4)
        assert all((g == 0).all() for g in layer.grads.values())


def test_config_round_trip():
    for layer in [*layers_for(4, np.float64), ref.Embedding.create(3, 2, rng=0), ref.LeakyReLU(0.2)]:
        config = layer.config()
        again = type(layer).from_config(config)
        assert again.config() == config
        assert {n: (p.shape, p.dtype) for n, p in again.params.items()} == {
            n: (p.shape, p.dtype) for n, p in layer.params.items()
        }
        assert repr(again) == repr(layer)


# Affine


def test_affine_by_hand():
    W, b = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([0.5, -0.5])
    layer = ref.Affine(W, b)
    assert layer.W is W
    assert layer.params["b"] is b
    assert layer.dW is None
    assert layer.db is None
    assert layer.grads == {}
    np.testing.assert_array_equal(layer.forward([[1, 0, 2]]), [[11.5, 13.5]])
    np.testing.assert_array_equal(layer.backward([[1, -1]]), [[-1, -1, -1]])
    np.testing.assert_array_equal(layer.dW, [[1, -1], [0, 0], [2, -2]])
    np.testing.assert_array_equal(layer.db, [1, -1])


def test_affine_flattens():
    layer = ref.Affine.create(6, 2, rng=0)
    x = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    y = layer.forward(x)
    assert y.shape == (5, 2)
    np.testing.assert_array_equal(y, layer.forward(x.reshape(5, 6)))
    layer.forward(x)
    assert layer.backward(y).shape == x.shape


def test_gradients_stay_the_same_arrays():
    layer = ref.Affine.create(4, 2, rng=0)
    for rows in (3, 5):
        layer.backward(np.ones_like(layer.forward(np.ones((rows, 4)))))
        if rows == 3:
            first = layer.dW, layer.db
    assert layer.dW is first[0]
    assert layer.grads["b"] is first[1]
    np.testing.assert_array_equal(layer.db, 5)


def test_backward_params_fills_the_same_gradients():
    x, dout = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    a, b = ref.Affine.create(4, 4, rng=0), ref.Affine.create(4, 4, rng=0)
    a.forward(x)
    a.backward(dout)
    b.forward(x)
    assert b.backward_params(dout) is None
    np.testing.assert_array_equal(a.dW, b.dW)
    np.testing.assert_array_equal(a.db, b.db)


def test_assigning_a_parameter():
    layer = ref.Affine.create(4, 2, rng=0)
    W = np.ones((4, 2), np.float32)
    layer.W = W
    assert layer.params["W"] is W
    with pytest.raises(ValueError, match=r"^W must have shape"):
        layer.W = np.ones((2, 4), np.float32)
    with pytest.raises(TypeError, match=r"^W must have dtype float32"):
        layer.W = np.ones((4, 2))
    assert layer.W is W


@pytest.mark.parametrize(
    ("W", "b", "error", "message"),
    [
        (np.ones((2, 3), int), np.ones(3), TypeError, "^W must be a float32 or float64 array"),
        (np.ones((2, 3)), np.ones(3, np.float32), TypeError, "^b must have dtype float64"),
        (np.ones((2, 3)), np.ones(2), ValueError, r"^b must have shape \(3,\), got \(2,\)"),
        (np.ones(3), np.ones(3), ValueError, "^W must have 2 dimensions"),
    ],
)
def test_affine_refuses(W, b, error, message):
    with pytest.raises(error, match=message):
        ref.Affine(W, b)


@pytest.mark.parametrize("x", [np.ones((2, 3)), np.ones((2, 3, 2)), np.ones(4), np.float32(1)])
def test_affine_refuses_other_features(x):
    with pytest.raises(ValueError, match=r"^x must have shape"):
        ref.Affine.create(4, 2).forward(x)


def test_create_names_its_arguments():
    with pytest.raises(ValueError, match=r"^n_in must be an integer >= 1, got 0"):
        ref.Affine.create(0, 2)
    with pytest.raises(TypeError, match=r"^dtype must be float32 or float64"):
        ref.Affine.create(1, 2, dtype=int)
    with pytest.raises(ValueError, match=r"^init must be one of"):
        ref.Affine.create(1, 2, init="she")
    with pytest.raises(TypeError, match=r"^rng must be"):
        ref.Affine.create(1, 2, rng="x")


# BatchNorm


@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_norm_in_training(dtype):
    x = np.array([[1.0, 10], [3, 10], [5, 10]]).astype(dtype)
    layer = ref.BatchNorm(np.array([2, 1], dtype), np.array([1, 7], dtype), 0.9, eps=1e-5)
    y = layer.forward(x)
    rstd = 1 / math.sqrt(8 / 3 + 1e-5)  # biased variance, eps inside the root
    np.testing.assert_allclose(y, [[1 - 4 * rstd, 7], [1, 7], [1 + 4 * rstd, 7]], rtol=1e-6)
    np.testing.assert_allclose(layer.running_mean, [0.3, 1.0], rtol=1e-6)
    np.testing.assert_allclose(layer.running_var, [0.9 + 0.1 * 8 / 3, 0.9], rtol=1e-6)
    assert layer.running_mean.dtype == layer.running_var.dtype == dtype


def test_batch_norm_in_evaluation():
    mean, var = np.array([1.0, 2.0]), np.array([4.0, 9.0])
    layer = ref.BatchNorm(np.ones(2), np.zeros(2), 0.9, mean, var, eps=1e-12)
    np.testing.assert_allclose(layer.forward([[3.0, 8.0]], False), [[1, 2]])
    np.testing.assert_allclose(layer.backward([[1.0, 1.0]]), [[1 / 2, 1 / 3]])
    layer.forward([[3.0, 8.0], [3.0, 8.0]])
    np.testing.assert_array_equal(mean, [1, 2])  # the caller's arrays are copied
    np.testing.assert_allclose(layer.running_mean, [1.2, 2.6])


def test_batch_norm_keeps_the_shape_and_the_running_arrays():
    layer = ref.BatchNorm.create(6)
    running = layer.running_mean, layer.running_var
    x = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    y = layer.forward(x)
    assert y.shape == x.shape
    assert layer.backward(y).shape == x.shape
    assert layer.running_mean is running[0]
    assert layer.running_var is running[1]
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"momentum": 1.5}, ValueError, r"^momentum must be a number in \[0, 1\], got 1.5"),
        ({"momentum": "a"}, TypeError, "^momentum must be a number"),
        ({"eps": 0}, ValueError, "^eps must be a number > 0, got 0"),
        ({"running_mean": np.zeros(3)}, ValueError, r"^running_mean must have shape \(2,\)"),
        ({"running_var": [1, -1]}, ValueError, "^running_var must hold numbers >= 0"),
    ],
)
def test_batch_norm_refuses(options, error, message):
    with pytest.raises(error, match=message):
        ref.BatchNorm(np.ones(2), np.zeros(2), **options)


@pytest.mark.parametrize("rows", [0, 1])
def test_batch_norm_needs_rows_in_training(rows):
    layer = ref.BatchNorm.create(2)
    with pytest.raises(ValueError, match=r"^x must have at least 2 rows in training"):
        layer.forward(np.zeros((rows, 2)))
    np.testing.assert_array_equal(layer.running_var, 1)


# Dropout


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 13), (3, 4, 5)])
def test_dropout_mask_is_the_words(shape, dtype):
    layer = ref.Dropout(0.3, seed=2**40 + 5)
    layer.stream, layer.step = 3, 9
    x = np.random.default_rng(0).normal(size=shape).astype(dtype)
    y = layer.forward(x)
    keep = words(2**40 + 5, 9, 3, x.size).reshape(shape) >= round(0.3 * 2**32)
    np.testing.assert_array_equal(layer.mask, keep)
    np.testing.assert_array_equal(y, np.where(keep, x * dtype(1 / 0.7), 0))
    assert layer.step == 10
    np.testing.assert_array_equal(layer.backward(np.ones(shape)) != 0, keep)


def test_dropout_mask_follows_the_position_not_the_strides():
    x = np.asfortranarray(np.ones((5, 7)))
    a, b = ref.Dropout(seed=1), ref.Dropout(seed=1)
    np.testing.assert_array_equal(a.forward(x), b.forward(np.ascontiguousarray(x)))


def test_dropout_modes():
    x = np.full((50, 40), 2.0)
    inverted, classic = ref.Dropout(0.25, seed=0), ref.Dropout(0.25, inverted=False, seed=0)
    assert set(np.unique(inverted.forward(x))) == {0, 2 / 0.75}
    assert set(np.unique(classic.forward(x))) == {0, 2}
    assert abs(inverted.mask.mean() - 0.75) < 4 * math.sqrt(0.25 * 0.75 / x.size)
    np.testing.assert_array_equal(inverted.mask, classic.mask)
    np.testing.assert_array_equal(inverted.forward(x, False), x)
    np.testing.assert_array_equal(classic.forward(x, False), 1.5)
    np.testing.assert_array_equal(inverted.backward(x), x)
    np.testing.assert_array_equal(classic.backward(x), 1.5)
    assert inverted.step == classic.step == 1  # an evaluation draws nothing
    assert 0 < inverted.mask.mean() < 1


def test_dropout_of_a_dropped_infinity_is_zero():
    layer = ref.Dropout(0.5, seed=0)
    y = layer.forward(np.full(100, np.inf))
    assert set(y) == {0, np.inf}


def test_dropout_without_seed():
    a, b = ref.Dropout(), ref.Dropout()
    assert not a.seeded
    assert a.seed != b.seed
    assert 0 <= a.seed < 2**64
    assert ref.Dropout(seed=0).seeded
    assert a.config()["seed"] is None
    assert ref.Dropout(seed=0).config()["seed"] == 0
    assert a.mask is None
    assert a.step == 0
    assert a.stream == 0


def test_dropout_threshold():
    assert dropout_threshold(0) == 0
    assert dropout_threshold(0.5) == 2**31
    assert dropout_threshold(1 - 2**-50) == 2**32 - 1  # rounds to 2^32, which no word reaches
    assert ref.Dropout(0.0, seed=0).forward(np.ones(1000)).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ratio": 1.0}, ValueError, r"^ratio must be a number in \[0, 1\), got 1.0"),
        ({"ratio": -0.1}, ValueError, "^ratio"),
        ({"ratio": math.nan}, ValueError, "^ratio"),
        ({"ratio": True}, TypeError, "^ratio"),
        ({"inverted": 1}, TypeError, "^inverted must be True or False"),
        ({"seed": -1}, ValueError, r"^seed must be an integer in \[0, 2\*\*64\), got -1"),
        ({"seed": 1.5}, TypeError, "^seed"),
    ],
)
def test_dropout_refuses(options, error, message):
    with pytest.raises(error, match=message):
        ref.Dropout(**options)


# Activations


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("layer", "formula"),
    [
        (ref.ReLU(), lambda x: max(x, 0.0)),
        (ref.LeakyReLU(0.1), lambda x: x if x > 0 else 0.1 * x),
        (ref.Sigmoid(), lambda x: 1 / (1 + math.exp(-x))),
        (ref.Tanh(), math.tanh),
        (ref.GELU(), lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2)))),
        (ref.SiLU(), lambda x: x / (1 + math.exp(-x))),
    ],
    ids=lambda value: type(value).__name__,
)
def test_activation_formula(layer, formula, dtype):
    x = np.linspace(-5, 5, 41).reshape(41, 1).astype(dtype)
    expected = np.array([[formula(float(v))] for v in x[:, 0]])
    np.testing.assert_allclose(layer.forward(x), expected, rtol=0, atol=20 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activation_far_out_and_nan(kind, dtype):
    layer = kind()
    y = layer.forward(np.array([-1e4, -800, -100, 0, 100, 800, 1e4, math.nan], dtype))
    dx = layer.backward(np.ones(8, dtype))
    assert np.isfinite(y[:7]).all()
    assert np.isfinite(dx[:7]).all()
    assert math.isnan(y[7])
    right = 1 if kind in (ref.Sigmoid, ref.Tanh) else 1e4
    assert y[6] == right
    assert y[3] == (0.5 if kind is ref.Sigmoid else 0)


def test_sigmoid_keeps_small_values():
    y = ref.Sigmoid().forward(np.array([-700.0]))
    assert y[0] == pytest.approx(math.exp(-700), rel=1e-13)


def test_gelu_does_not_cancel_on_the_left():
    y = ref.GELU().forward(np.array([-10.0]))
    assert y[0] == pytest.approx(-10 * 0.5 * math.erfc(10 / math.sqrt(2)), rel=1e-13)
    assert y[0] < 0


@pytest.mark.parametrize(("layer", "slope"), [(ref.ReLU(), 0), (ref.LeakyReLU(0.1), 0.1)])
def test_slope_at_zero(layer, slope):
    layer.forward(np.zeros(3))
    np.testing.assert_array_equal(layer.backward(np.ones(3)), slope)


def test_leaky_relu_refuses():
    with pytest.raises(ValueError, match=r"^alpha must be a number >= 0, got -1"):
        ref.LeakyReLU(-1)


# Embedding


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.int32, np.uint64])
def test_embedding(dtype, kind):
    W = np.arange(12, dtype=dtype).reshape(4, 3)
    layer = ref.Embedding(W)
    x = np.array([[3, 1], [1, 1]], dtype=kind)
    y = layer.forward(x)
    assert layer.W is W
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, W[[[3, 1], [1, 1]]])
    assert layer.dW is None
    assert layer.backward(np.arange(12).reshape(2, 2, 3)) is None
    grad = layer.dW
    assert isinstance(grad, ref.RowSparse)
    assert grad.dtype == dtype
    assert grad.shape == (4, 3)
    np.testing.assert_array_equal(grad.rows, [1, 3])
    np.testing.assert_array_equal(grad.values, [[18, 21, 24], [0, 1, 2]])


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
def test_embedding_of_nothing(shape):
    layer = ref.Embedding.create(4, 3)
    y = layer.forward(np.zeros(shape, int))
    assert y.shape == (*shape, 3)
    layer.backward(y)
    assert layer.dW.rows.size == 0


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([0, 4], ValueError, r"^x must hold integers in \[0, 4\), got 4"),
        ([-1, 0], ValueError, r"^x must hold integers in \[0, 4\), got -1"),
        ([0.0], TypeError, "^x must hold integers"),
        ([True], TypeError, "^x must hold integers"),
    ],
)
def test_embedding_refuses(x, error, message):
    with pytest.raises(error, match=message):
        ref.Embedding.create(4, 3).forward(np.array(x))


def test_embedding_initial_values():
    W = ref.Embedding.create(1000, 20, rng=0, dtype=np.float64).W
    assert W.std() == pytest.approx(0.01, rel=0.03)
