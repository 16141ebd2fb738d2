"""Losses of the reference: values by hand, weights, stability, errors. Gradients are in test_gradients.py."""

import math
import warnings

import numpy as np
import pytest

from fastnn import reference as ref

KINDS = [ref.SoftmaxCrossEntropy, ref.SigmoidCrossEntropy, ref.MeanSquaredError]


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def targets(kind, rows, features, rng):
    return (
        rng.integers(0, features, rows) if kind is ref.SoftmaxCrossEntropy else rng.random((rows, features))
    )


def test_softmax_by_hand():
    loss = ref.SoftmaxCrossEntropy()
    x = np.log([[1.0, 2.0, 1.0], [3.0, 1.0, 4.0]])
    value = loss.forward(x, [1, 2])
    assert isinstance(value, float)
    assert value == pytest.approx(math.log(2), rel=1e-14)
    np.testing.assert_allclose(loss.y, [[0.25, 0.5, 0.25], [0.375, 0.125, 0.5]], rtol=1e-14)
    np.testing.assert_allclose(loss.backward(), [[0.125, -0.25, 0.125], [0.1875, 0.0625, -0.25]], rtol=1e-14)
    assert loss.forward(x, [1, 2], [3, 1]) == pytest.approx(math.log(2), rel=1e-14)
    assert loss.forward(x, [0, 1], [3, 1]) == pytest.approx((3 * math.log(4) + math.log(8)) / 4, rel=1e-14)


def test_softmax_forms_of_targets_agree():
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(6, 4)), rng.integers(0, 4, 6)
    loss = ref.SoftmaxCrossEntropy()
    value = loss.forward(x, t)
    dx = loss.backward()
    for one_hot in (np.eye(4)[t], np.eye(4, dtype=int)[t], np.eye(4, dtype=bool)[t], np.eye(4)[t].tolist()):
        assert loss.forward(x, one_hot) == pytest.approx(value, rel=1e-14)
        np.testing.assert_allclose(loss.backward(), dx, rtol=1e-14)
    assert loss.forward(x, t.astype(np.uint8)) == value


def test_square_batch_is_not_ambiguous():
    loss = ref.SoftmaxCrossEntropy()
    x = np.log([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.2, 0.5, 0.3]])
    assert loss.forward(x, [2, 0, 1]) == pytest.approx(-np.log([0.1, 0.3, 0.5]).mean(), rel=1e-14)


def test_sigmoid_by_hand():
    loss = ref.SigmoidCrossEntropy()
    x = np.log([[1.0, 3.0], [1.0, 1 / 3]])  # predictions 1/2, 3/4, 1/2, 1/4
    t = np.array([[1.0, 1.0], [0.0, 0.5]])
    rows = [
        -(math.log(0.5) + math.log(0.75)) / 2,
        -(math.log(0.5) + math.log(0.25) / 2 + math.log(0.75) / 2) / 2,
    ]
    assert loss.forward(x, t) == pytest.approx(sum(rows) / 2, rel=1e-14)
    np.testing.assert_allclose(loss.y, [[0.5, 0.75], [0.5, 0.25]], rtol=1e-14)
    np.testing.assert_allclose(loss.backward(), np.array([[-0.5, -0.25], [0.5, -0.25]]) / 4, rtol=1e-14)
    assert loss.forward(x, t, [1, 3]) == pytest.approx((rows[0] + 3 * rows[1]) / 4, rel=1e-14)


def test_squared_error_by_hand():
    loss = ref.MeanSquaredError()
    x, t = np.array([[1.0, 2.0], [3.0, 5.0]]), np.array([[0.0, 4.0], [3.0, 4.0]])
    assert loss.forward(x, t) == 1.5
    np.testing.assert_array_equal(loss.y, x)
    np.testing.assert_array_equal(loss.backward(), [[0.5, -1], [0, 0.5]])
    np.testing.assert_array_equal(loss.backward(2.0), [[1, -2], [0, 1]])
    assert loss.forward(x, t, [1, 4]) == pytest.approx((2.5 + 4 * 0.5) / 5)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_weights_change_nothing(kind):
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(6, 4)), targets(kind, 6, 4, rng)
    loss = kind()
    value, dx = loss.forward(x, t), loss.backward()
    assert loss.forward(x, t, np.full(6, 0.3)) == pytest.approx(value, rel=1e-14)
    np.testing.assert_allclose(loss.backward(), dx, rtol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_counts_rows(kind):
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(3, 4)), targets(kind, 3, 4, rng)
    often = [0, 0, 2]
    assert kind().forward(x, t, [2, 0, 1]) == pytest.approx(kind().forward(x[often], t[often]), rel=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.5]])
@pytest.mark.parametrize("kind", KINDS)
def test_dtype_is_kept_and_inputs_are_not_modified(kind, weights, dtype):
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(3, 4)).astype(dtype), targets(kind, 3, 4, rng)
    w = None if weights is None else np.array(weights)
    before = x.copy(), t.copy(), None if w is None else w.copy()
    loss = kind()
    assert type(loss.forward(x, t, w)) is float
    dx = loss.backward(2)
    assert loss.y.dtype == dx.dtype == dtype
    assert dx.shape == loss.y.shape == x.shape
    for now, then in zip((x, t, w), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_logits(dtype):
    x = np.array([[1e4, -1e4], [-1e4, 1e4]], dtype)
    softmax = ref.SoftmaxCrossEntropy()
    assert softmax.forward(x, [0, 1]) == 0
    assert softmax.forward(x, [1, 0]) == 2e4
    sigmoid = ref.SigmoidCrossEntropy()
    assert sigmoid.forward(x, [[1, 0], [0, 1]]) == 0
    assert sigmoid.forward(x, [[0, 1], [1, 0]]) == 1e4
    np.testing.assert_array_equal(sigmoid.y, [[1, 0], [0, 1]])
    assert np.isfinite(softmax.backward()).all()
    assert np.isfinite(sigmoid.backward()).all()


@pytest.mark.parametrize("t", [[0, 1], [[1, 0, 0], [0, 1, 0]]])
def test_masked_logits(t):
    x = np.array([[0.0, 0.0, -np.inf], [0.0, 0.0, -np.inf]])
    loss = ref.SoftmaxCrossEntropy()
    assert loss.forward(x, t) == pytest.approx(math.log(2))
    assert np.isfinite(loss.backward()).all()


def test_small_loss_is_not_lost():
    assert ref.SoftmaxCrossEntropy().forward(np.array([[40.0, 0.0]]), [0]) < 1e-17
    assert ref.SigmoidCrossEntropy().forward(np.array([[40.0]]), [1]) == pytest.approx(
        math.exp(-40), rel=1e-10
    )


def test_float32_rows_are_averaged_in_float64():
    x, t = np.zeros((3, 1), np.float32), np.array([[1], [1], [0]], np.float32)
    assert ref.MeanSquaredError().forward(x, t) == 2 / 3
    assert ref.MeanSquaredError().forward(x, t, [1, 1, 5]) == 2 / 7


def test_correct():
    y = np.array([[0.2, 0.8], [0.6, 0.4], [0.5, 0.5]])
    np.testing.assert_array_equal(ref.SoftmaxCrossEntropy.correct(y, [1, 1, 0]), [1, 0, 1])
    np.testing.assert_array_equal(ref.SoftmaxCrossEntropy.correct(y, [[0, 1], [0, 1], [1, 0]]), [1, 0, 1])
    np.testing.assert_array_equal(ref.SigmoidCrossEntropy.correct(y, [[0, 1], [0, 1], [0, 1]]), [1, 0, 0.5])
    np.testing.assert_array_equal(ref.SigmoidCrossEntropy.correct(y[:, :1], [0, 1, 0]), [1, 1, 1])
    assert not hasattr(ref.MeanSquaredError(), "correct")


@pytest.mark.parametrize("kind", KINDS)
def test_backward_before_forward(kind):
    loss = kind()
    assert loss.y is None
    with pytest.raises(RuntimeError, match="backward before forward"):
        loss.backward()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("x", [np.zeros((0, 3)), np.zeros((3, 0)), np.float64(1)])
def test_empty_batch(kind, x):
    with pytest.raises(ValueError, match=r"^x must have shape"):
        kind().forward(x, x)


@pytest.mark.parametrize(
    ("t", "error", "message"),
    [
        ([0, 3], ValueError, r"^t must hold integers in \[0, 3\), got 3"),
        ([-1, 0], ValueError, r"^t must hold integers in \[0, 3\), got -1"),
        ([0.5, 1.0], TypeError, "^t must hold integers"),
        ([0, 1, 2], ValueError, r"^t must have shape \(2,\) or \(2, 3\), got \(3,\)"),
        ([[0, 1], [1, 0]], ValueError, "^t must have shape"),
        ([[0, 1, 1], [1, 0, 0]], ValueError, "^t must hold labels, or rows of numbers >= 0 that sum to 1"),
        ([[-1, 1, 1], [1, 0, 0]], ValueError, "^t must hold labels"),
        ([[math.nan, 1, 0], [1, 0, 0]], ValueError, "^t must hold labels"),
        ([["a"] * 3] * 2, TypeError, "^t must hold real numbers"),
    ],
)
def test_softmax_refuses(t, error, message):
    with pytest.raises(error, match=message):
        ref.SoftmaxCrossEntropy().forward(np.zeros((2, 3)), t)


def test_softmax_needs_two_dimensions():
    with pytest.raises(ValueError, match=r"^x must have shape \(N, C\)"):
        ref.SoftmaxCrossEntropy().forward(np.zeros((2, 3, 4)), [0, 1])


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_sigmoid_refuses_targets_out_of_range(bad):
    with pytest.raises(ValueError, match=r"^t must hold numbers in \[0, 1\]"):
        ref.SigmoidCrossEntropy().forward(np.zeros((2, 1)), [[0.5], [bad]])


@pytest.mark.parametrize("kind", [ref.SigmoidCrossEntropy, ref.MeanSquaredError])
@pytest.mark.parametrize("shape", [(2,), (3, 2), (2, 3, 1)])
def test_elementwise_losses_refuse_other_shapes(kind, shape):
    with pytest.raises(ValueError, match=r"^t must have the shape"):
        kind().forward(np.zeros((2, 3)), np.zeros(shape))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("weights", "error"),
    [
        ([1, 2, 3], ValueError),
        ([[1], [2]], ValueError),
        ([2, -1], ValueError),
        ([0, 0], ValueError),
        ([1, math.nan], ValueError),
        ([1, math.inf], ValueError),
        (["a", "b"], TypeError),
    ],
)
def test_sample_weights_refused(kind, weights, error):
    t = [0, 1] if kind is ref.SoftmaxCrossEntropy else np.zeros((2, 3))
    with pytest.raises(error, match=r"^sample_weight must"):
        kind().forward(np.zeros((2, 3)), t, weights)


@pytest.mark.parametrize("bad", ["a", None, True])
def test_dout_must_be_a_number(bad):
    loss = ref.MeanSquaredError()
    loss.forward(np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(TypeError, match=r"^dout must be a number"):
        loss.backward(bad)
