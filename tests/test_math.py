"""Accuracy of the elementary functions, over the whole range of floats, in units in the last place.

The bounds are those of the formulas in simd/math.h, in ulp of the result: 1/2 for each rounding that reaches
the result undiminished, plus the error of the polynomial. Where a rounded number goes through a function of
condition c it counts c times; the baseline, which rounds a fused multiply-add twice, has more of them.

- exp = 2^n (1 + r (1 + r p(r))): the argument's reduction by n ln2 loses 1/2 ulp at most, the outer sum 1/2,
  the inner one less, |r| <= 0.35, the polynomial 0.1: 2.
- log = n ln2 + 2 atanh(s), s = (m - 1) / (m + 1): m - 1 is exact, sum, quotient and last sum round: 3.
- sigmoid = 1 / (1 + exp(-x)): the 2 of exp at weight <= 1, sum and quotient: 3.
- tanh = t / (t + 2), t = expm1(2|x|): t enters with condition <= 1, and 4 roundings follow: 4.
- softplus by log1p: the series 2 atanh(u / (2 + u)): 4.
- gelu: the tail is exp(-x^2/2) Q, x^2 exact in two parts where fma is: 7; without, half of x^2 more.
- silu = x sigmoid(x): 4.
"""

import math

import numpy as np
import pytest

import fastnn
from networks import ACTIVATIONS

F32 = np.float32
TINY = float(np.finfo(F32).tiny)


def floats(dtype, low=-110.0, high=110.0):
    """Return numbers all over the range, evenly in bits and in value, and the neighbours of powers of two."""
    info = np.finfo(dtype)
    integer = np.uint32 if dtype == F32 else np.uint64
    top = int(np.array(info.max, dtype).view(integer))
    bottom = int(np.array(info.tiny, dtype).view(integer))
    step = (top - bottom) // 60_000
    by_bits = np.arange(bottom, top, step, dtype=integer).view(dtype)
    around = np.ldexp(dtype(1), np.arange(-60, 10)).astype(dtype)
    around = np.concatenate([np.nextafter(around, dtype(0)), around, np.nextafter(around, dtype(np.inf))])
    positive = np.concatenate([by_bits, around])
    even = np.random.default_rng(0).uniform(low, high, 60_000).astype(dtype)
    return np.concatenate([positive, -positive, even, np.zeros(1, dtype)])


def ulps(actual, expected):
    """Return the largest error in ulp of the result; results that are subnormal may be flushed."""
    dtype = actual.dtype
    info = np.finfo(dtype)
    expected = np.asarray(expected, np.longdouble)
    size = np.maximum(np.abs(expected).astype(np.float64), float(info.tiny))
    ulp = np.ldexp(1.0, np.frexp(size)[1] - 1 - info.nmant)
    error = np.abs(actual.astype(np.longdouble) - expected)
    flushed = (actual == 0) & (np.abs(expected) <= float(info.tiny))
    assert np.isfinite(actual).all()
    return float(np.max(np.where(flushed, 0, error / ulp)))


def wide(x):
    """Return x with digits enough that the expected value is not in doubt: float64, or 64 bits of x87."""
    return x.astype(np.float64 if x.dtype == F32 else np.longdouble)


def longer(dtype):
    """Whether NumPy's longdouble has more digits than `dtype`."""
    return dtype == F32 or np.finfo(np.longdouble).nmant > 52


def sigmoid(x):
    small = np.exp(-np.abs(x))
    return np.where(x < 0, small, 1) / (1 + small)


def gelu(x):
    return np.array([v * math.erfc(-v * math.sqrt(0.5)) / 2 for v in x.tolist()])


@pytest.mark.parametrize(("kind", "bound"), [("Sigmoid", 3), ("Tanh", 4)])
def test_bounded(isa, dtype, kind, bound):
    if not longer(dtype):
        pytest.skip("there is no longer number to compare with")
    x = floats(dtype.type)
    y = getattr(fastnn, kind)().forward(x)
    expected = sigmoid(wide(x)) if kind == "Sigmoid" else np.tanh(wide(x))
    assert ulps(y, expected) <= bound


def test_tanh_is_odd_and_monotone(isa, dtype):
    x = np.sort(np.abs(floats(dtype.type)))
    y = fastnn.Tanh().forward(x)
    np.testing.assert_array_equal(fastnn.Tanh().forward(-x), -y)
    slack = 8 * np.finfo(dtype).eps
    assert (np.diff(y) >= -slack * y[:-1]).all()
    assert y.max() == 1
    assert y.min() == 0


def test_sigmoid_at_the_ends(isa, dtype):
    x = np.array([-1e30, -200 if dtype == F32 else -800, 0, 40, 1e30], dtype)
    np.testing.assert_array_equal(fastnn.Sigmoid().forward(x), [0, 0, 0.5, 1, 1])


def test_silu(isa, dtype):
    if not longer(dtype):
        pytest.skip("there is no longer number to compare with")
    x = floats(dtype.type)
    low = math.log(float(np.finfo(dtype).tiny)) + 1  # below, sigmoid(x) itself is subnormal
    kept = x[(x > low)]
    assert ulps(fastnn.SiLU().forward(kept), wide(kept) * sigmoid(wide(kept))) <= 4
    np.testing.assert_allclose(fastnn.SiLU().forward(x[x <= low]), 0, atol=1e-34)


@pytest.mark.parametrize(("low", "bound"), [(-1.0, 5), (-5.0, 6), (-12.8, 7)])
def test_gelu(isa, low, bound):
    x = np.random.default_rng(0).uniform(low, 20, 40_000).astype(F32)
    roundings_of_the_square = low * low / 2 if isa == "baseline" else 0
    assert ulps(fastnn.GELU().forward(x), gelu(wide(x))) <= bound + roundings_of_the_square


def test_gelu_in_float64(isa):
    """Against Python's erfc, whose argument is rounded: its condition is x^2."""
    x = np.random.default_rng(0).uniform(-30, 10, 20_000)
    error = np.abs(fastnn.GELU().forward(x) / gelu(x) - 1)
    assert (error <= (8 + x * x) * 2.3e-16).all()


def test_softplus(isa):
    """The loss of one element for t = 0, log(1 + exp(x)); the sum of one row is exact."""
    loss = fastnn.SigmoidCrossEntropy()
    x = np.random.default_rng(0).uniform(-80, 80, 3000).astype(F32)
    y = np.array([loss.forward(v.reshape(1, 1), np.zeros((1, 1), F32)) for v in x]).astype(F32)
    assert ulps(y, np.logaddexp(0, x.astype(np.float64))) <= 4


def test_exp(isa):
    """Of two logits, the lesser at 0: softmax's ratio y0 / y1 is exp(x), after a sum and two products."""
    x = np.random.default_rng(0).uniform(-80, 0, 20_000).astype(F32)
    loss = fastnn.SoftmaxCrossEntropy()
    loss.forward(np.stack([x, np.zeros_like(x)], axis=1), np.zeros(len(x), int))
    expected = np.exp(x.astype(np.float64))
    assert ulps(np.ascontiguousarray(loss.y[:, 0]), expected / (1 + expected)) <= 5


def test_log(isa, dtype):
    """The loss of n equal logits is log(n), and their sum exact."""
    sizes = [*range(1, 300), *(2**k + d for k in range(9, 17) for d in (-1, 0, 1))]
    for n in sizes:
        loss = fastnn.SoftmaxCrossEntropy().forward(np.zeros((1, n), dtype), np.zeros(1, int))
        assert abs(loss - math.log(n)) <= 3 * np.finfo(dtype).eps * math.log(n), n


def test_exp_is_zero_where_it_is_no_normal_number(isa, dtype):
    loss = fastnn.SoftmaxCrossEntropy()
    low = math.log(float(np.finfo(dtype).tiny))
    x = np.array([[0, low - 0.1, low - 0.5, 2 * low, -np.inf]], dtype)
    loss.forward(x, np.zeros(1, int))
    np.testing.assert_array_equal(loss.y, [[1, 0, 0, 0, 0]])


def test_nan_in_nan_out(isa, dtype):
    for layer in (*(getattr(fastnn, kind)() for kind in ACTIVATIONS), fastnn.GELU(approximate="tanh")):
        for n in (1, 16, 33):
            assert np.isnan(layer.forward(np.full(n, np.nan, dtype))).all(), layer


def selu(x):
    scale, alpha = 1.0507009873554804934, 1.6732632423543772848
    return np.where(x > 0, scale * x, scale * alpha * np.expm1(np.minimum(x, 0)))


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def mish(x):
    e = np.exp(np.minimum(x, 40))
    n = e * (e + 2)
    return x * (n / (n + 2))


def gelu_tanh(x):
    u = 2 * np.sqrt(2 / np.longdouble(np.pi)).astype(x.dtype) * (x + x.dtype.type(0.044715) * x**3)
    return x / (1 + np.exp(-u))


@pytest.mark.parametrize(
    ("layer", "formula", "bound"),
    [
        (fastnn.SELU(), selu, 4),  # expm1: sum of two rounded terms of one sign, and a product
        (fastnn.Softplus(), softplus, 4),
        (fastnn.Mish(), mish, 8),  # exp twice over, four roundings more
    ],
    ids=["SELU", "Softplus", "Mish"],
)
def test_other_activations(isa, dtype, layer, formula, bound):
    x = floats(dtype.type)
    low, high = math.log(float(np.finfo(dtype).tiny)) / 2, np.finfo(dtype).max / 2
    kept = x[(x > low) & (x < high)]
    with np.errstate(over="ignore"):
        assert ulps(layer.forward(kept), formula(wide(kept))) <= bound
        below = x[x <= low]
        np.testing.assert_allclose(layer.forward(below), formula(wide(below)), atol=1e-15, rtol=1e-6)


def test_the_approximate_gelu(isa, dtype):
    """An error of v in exp(v) counts |v| times."""
    x = floats(dtype.type, -12, 12)
    x = x[np.abs(x) < 12]
    y, expected = fastnn.GELU(approximate="tanh").forward(x), gelu_tanh(wide(x))
    v = np.abs(1.6 * x * (1 + 0.045 * x * x)).astype(np.float64)
    info = np.finfo(dtype)
    assert (np.abs(y - expected) <= (4 + 2 * v) * info.eps * np.abs(expected) + 100 * info.tiny).all()
    np.testing.assert_allclose(y, fastnn.GELU().forward(x), atol=5e-4)
    far = dtype.type(1e30)
    np.testing.assert_array_equal(fastnn.GELU(approximate="tanh").forward(np.array([far, -far])), [far, 0])


@pytest.mark.parametrize("kind", ["SELU", "Softplus", "Mish", "GELU"])
def test_slopes_are_those_of_the_reference(isa, dtype, kind):
    options = {"approximate": "tanh"} if kind == "GELU" else {}
    layer, oracle = getattr(fastnn, kind)(**options), getattr(fastnn.reference, kind)(**options)
    x = floats(dtype.type, -40, 40)
    with np.errstate(over="ignore", under="ignore"):
        layer.forward(x)
        oracle.forward(wide(x).astype(np.float64))
        expected = oracle.backward(np.ones(x.shape))
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(layer.backward(np.ones_like(x)), expected, rtol=8 * eps, atol=16 * eps)
    limits = np.array([-np.inf, np.inf], dtype)
    layer.forward(limits)
