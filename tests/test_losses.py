"""Each native loss against the reference, computed in float64 on the same numbers."""

import copy

import numpy as np
import pytest

import fastnn
from fastnn import reference as ref
from layouts import VIEWS
from native import on_each_fusing_isa
from tolerances import assert_same_bits, assert_within

SHAPES = [(1, 1), (1, 2), (5, 3), (16, 16), (33, 10), (7, 65), (300, 17), (2, 2000)]
DENSE = ["SigmoidCrossEntropy", "MeanSquaredError"]
WEIGHTS = ["none", "some zero", "float32", "int"]


def logits(shape, dtype, spread=3.0):
    return (spread * np.random.default_rng(0).normal(size=shape)).astype(dtype)


def weights_for(kind, n):
    w = np.random.default_rng(2).uniform(0.1, 2, n)
    if kind == "some zero" and n > 1:
        w[::2] = 0
    return {"none": None, "some zero": w, "float32": w.astype(np.float32), "int": np.arange(1, n + 1)}[kind]


def labels_for(kind, n, c):
    rng = np.random.default_rng(1)
    if kind == "soft":
        t = rng.uniform(size=(n, c))
        t[:, : c // 2] *= rng.integers(0, 2, (n, c // 2))  # zeros among them
        return t / t.sum(axis=1, keepdims=True)
    hard = rng.integers(0, c, n)
    return hard.astype(kind) if kind != "one-hot" else np.eye(c, dtype=np.int64)[hard]


def shares(weights, n):
    w = np.ones(n) if weights is None else np.asarray(weights, np.float64)
    return w / w.sum()


def name(shape):
    return "x".join(map(str, shape))


def check_softmax(x, t, w):
    n, c = x.shape
    layer, oracle = fastnn.SoftmaxCrossEntropy(), ref.SoftmaxCrossEntropy()
    wide = x.astype(np.float64)
    probabilities = t.astype(x.dtype).astype(np.float64) if t.ndim == 2 else t
    share = shares(w, n)
    expected = oracle.forward(wide, probabilities, w)
    depth = abs(wide - wide.max(axis=1, keepdims=True))  # x - max is rounded before its exponential is taken
    t = t if t.ndim == 1 else t.astype(x.dtype)
    loss = layer.forward(x, t, w)
    dense = probabilities if probabilities.ndim == 2 else np.eye(c)[probabilities]
    sizes = (dense * (depth + np.log(c) + 1)).sum(axis=1)
    assert_within(loss, expected, terms=c + n + 8, scale=float(share @ sizes), dtype=x.dtype)
    assert_within(layer.y, oracle.y, terms=c + 8 + depth, scale=oracle.y)
    for dout in (1.0, -2.5, np.float32(0.5)):
        dx = oracle.backward(dout)
        size = abs(dout) * share[:, None] * (oracle.y + dense)
        assert_within(layer.backward(dout), dx, terms=c + 12 + depth, scale=size)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("labels", ["i1", "i8", "u8", "one-hot", "soft"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (33, 10), (7, 65), (300, 17)], ids=name)
def test_softmax(isa, dtype, shape, labels, weights):
    check_softmax(logits(shape, dtype), labels_for(labels, *shape), weights_for(weights, shape[0]))


@pytest.mark.parametrize("labels", ["i4", "soft"])
@pytest.mark.parametrize("shape", SHAPES, ids=name)
def test_softmax_on_a_team(isa, team, dtype, shape, labels):
    check_softmax(logits(shape, dtype), labels_for(labels, *shape), None)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("labels", ["i8", "soft"])
def test_softmax_of_any_strides(isa, dtype, view, labels):
    x, t = logits((19, 21), dtype), labels_for(labels, 19, 21)
    layer, dense = fastnn.SoftmaxCrossEntropy(), fastnn.SoftmaxCrossEntropy()
    strided = view(t.astype(dtype)) if t.ndim == 2 else np.repeat(t, 2)[::2]
    w = np.arange(19.0)
    assert layer.forward(view(x), strided, np.repeat(w, 3)[::3]) == dense.forward(x, t, w)
    assert_same_bits(layer.backward(), dense.backward())


def test_softmax_of_extreme_logits(isa, dtype):
    big = float(np.finfo(dtype).max) / 4
    x = np.array([[big, 0, -big], [-big, -big, -big], [0, -np.inf, 1], [700, 800, 750]], dtype)
    layer, oracle = fastnn.SoftmaxCrossEntropy(), ref.SoftmaxCrossEntropy()
    t = np.array([0, 1, 2, 1])
    expected = oracle.forward(x.astype(np.float64), t)
    assert_within(layer.forward(x, t), expected, terms=20, scale=2.0, dtype=dtype)
    assert_within(layer.y, oracle.y, terms=200)
    assert_within(layer.backward(), oracle.backward(), terms=200, scale=np.ones((4, 3)))


def test_softmax_skips_labels_of_zero_at_minus_infinity(isa, dtype):
    x = np.array([[0, -np.inf, 0]], dtype)
    loss = fastnn.SoftmaxCrossEntropy().forward(x, np.array([[0.5, 0, 0.5]], dtype))
    assert loss == pytest.approx(np.log(2), rel=1e-6)


def test_softmax_of_nan_is_nan_in_its_row_only(isa, dtype):
    x = logits((3, 20), dtype)
    x[1, 17] = np.nan
    layer = fastnn.SoftmaxCrossEntropy()
    assert np.isnan(layer.forward(x, np.array([0, 1, 2])))
    assert np.isnan(layer.y).any(axis=1).tolist() == [False, True, False]


def check_dense(kind, x, t, w):
    n, d = len(x), x.size // len(x)
    layer, oracle = getattr(fastnn, kind)(), getattr(ref, kind)()
    wide, target = x.astype(np.float64), t.astype(x.dtype).astype(np.float64).reshape(x.shape)
    expected = oracle.forward(wide, target, w)
    share = shares(w, n)
    sizes = abs(wide) * (1 + target) + 1 if kind == "SigmoidCrossEntropy" else (abs(wide) + abs(target)) ** 2
    size = float(share @ sizes.reshape(n, d).mean(axis=1))
    assert_within(layer.forward(x, t, w), expected, terms=64 + 16 + n, scale=size, dtype=x.dtype)
    assert_within(layer.y, oracle.y, terms=8, scale=abs(oracle.y))
    share = share.reshape(-1, *[1] * (x.ndim - 1))
    for dout in (1.0, -2.5):
        dx = oracle.backward(dout)
        size = abs(dout) * share * (abs(oracle.y) + abs(target)) * 2 / d
        assert_within(layer.backward(dout), dx, terms=12, scale=size)


def targets_for(kind, shape, dtype):
    rng = np.random.default_rng(1)
    return (rng.uniform(size=shape) if kind == "SigmoidCrossEntropy" else rng.normal(size=shape)).astype(
        dtype
    )


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("kind", DENSE)
@pytest.mark.parametrize("shape", [(1,), (9,), *SHAPES, (6, 3, 50), (3, 2000, 3)], ids=name)
def test_dense(isa, dtype, kind, shape, weights):
    check_dense(kind, logits(shape, dtype), targets_for(kind, shape, dtype), weights_for(weights, shape[0]))


@pytest.mark.parametrize("kind", DENSE)
@pytest.mark.parametrize("shape", SHAPES, ids=name)
def test_dense_on_a_team(isa, team, dtype, kind, shape):
    check_dense(kind, logits(shape, dtype), targets_for(kind, shape, dtype), None)


@pytest.mark.parametrize("kind", DENSE)
def test_a_vector_of_targets_fits_a_column(isa, dtype, kind):
    check_dense(kind, logits((9, 1), dtype), targets_for(kind, (9,), dtype), np.arange(9))


@pytest.mark.parametrize("kind", DENSE)
@pytest.mark.parametrize("view", VIEWS)
def test_dense_of_any_strides(isa, dtype, kind, view):
    x, t = logits((19, 21), dtype), targets_for(kind, (19, 21), dtype)
    layer, dense = getattr(fastnn, kind)(), getattr(fastnn, kind)()
    assert layer.forward(view(x), view(t)) == dense.forward(x, t)
    assert_same_bits(layer.backward(), dense.backward())


def test_sigmoid_of_extreme_logits(isa, dtype):
    x = np.array([[1e30, -1e30, 88.5, -88.5, 0, -0.0, 200, -200]], dtype)
    for target in (0.0, 1.0, 0.5):
        layer, oracle = fastnn.SigmoidCrossEntropy(), ref.SigmoidCrossEntropy()
        t = np.full(x.shape, target, dtype)
        expected = oracle.forward(x.astype(np.float64), t.astype(np.float64))
        assert_within(layer.forward(x, t), expected, terms=20, scale=1e30, dtype=dtype)
        assert_within(layer.y, oracle.y, terms=8)


def test_a_perfect_prediction_costs_what_is_left(isa, dtype):
    """log(1 + exp(-x)) keeps its digits where 1 + exp(-x) is 1."""
    x = np.full((1, 1), 60.0, dtype)
    assert fastnn.SigmoidCrossEntropy().forward(x, np.ones((1, 1))) == pytest.approx(np.exp(-60.0), rel=1e-5)


LOSSES = ["SoftmaxCrossEntropy", *DENSE]


def targets(kind, shape, dtype):
    return labels_for("i8", *shape) if kind == "SoftmaxCrossEntropy" else targets_for(kind, shape, dtype)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("shape", SHAPES, ids=name)
@pytest.mark.parametrize("weighted", [False, True])
def test_same_bits_on_every_team(team, dtype, kind, shape, weighted):
    x, t = logits(shape, dtype), targets(kind, shape, dtype)
    w = weights_for("float32", shape[0]) if weighted else None
    loss, alone = getattr(fastnn, kind)(), getattr(fastnn, kind)()
    with fastnn.threads(1):
        figure, dx = alone.forward(x, t, w), alone.backward()
    assert loss.forward(x, t, w) == figure
    assert_same_bits(loss.y, alone.y)
    assert_same_bits(loss.backward(), dx)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("shape", SHAPES, ids=name)
def test_same_bits_on_every_isa_that_fuses(dtype, kind, shape):
    x, t = logits(shape, dtype), targets(kind, shape, dtype)

    def compute():
        loss = getattr(fastnn, kind)()
        return {"loss": loss.forward(x, t), "y": loss.y, "dx": loss.backward()}

    first, *others = on_each_fusing_isa(compute)
    for other in others:
        assert_same_bits(other, first)


@pytest.mark.parametrize("kind", LOSSES)
def test_inputs_are_not_modified(isa, team, dtype, kind):
    x, t, w = logits((40, 7), dtype), targets(kind, (40, 7), dtype), np.ones(40)
    before = copy.deepcopy((x, t, w))
    loss = getattr(fastnn, kind)()
    loss.forward(x, t, w)
    dx = loss.backward()
    for array, was in zip((x, t, w), before, strict=True):
        assert_same_bits(array, was)
    assert dx.dtype == dtype
    assert not np.shares_memory(dx, loss.y)


@pytest.mark.parametrize("kind", LOSSES)
def test_labels_and_weights_may_change_between_the_passes(dtype, kind):
    """They are remembered as they were checked, since they may no longer be in range."""
    t, w = targets(kind, (40, 7), dtype), np.ones(40)
    loss = getattr(fastnn, kind)()
    loss.forward(logits((40, 7), dtype), t, w)
    dx = loss.backward()
    w[...] = np.nan
    if t.dtype.kind == "i":
        t[...] = 100
    assert_same_bits(loss.backward(), dx)


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_are_floats_and_other_dtypes_are_converted(kind):
    x = np.random.default_rng(0).integers(0, 2, (6, 3))
    t = targets(kind, (6, 3), np.float32)
    loss = getattr(fastnn, kind)()
    figure = loss.forward(x.astype(np.float32), t)
    assert type(figure) is float
    for dtype in ("u1", "i8", "f2", ">f4"):
        assert loss.forward(x.astype(dtype), t) == figure
    assert loss.forward(x.tolist(), t.tolist()) == figure
    assert loss.backward().dtype == np.float32


@pytest.mark.parametrize("kind", LOSSES)
def test_integer_weights_keep_their_value(kind):
    x, t = np.array([[1.0, 2.0], [5.0, 3.0]]), targets(kind, (2, 2), np.float64)
    w = np.array([2**24 + 1, 2**24 - 1])
    loss = getattr(fastnn, kind)()
    assert loss.forward(x, t, w) == pytest.approx(getattr(ref, kind)().forward(x, t, w), rel=1e-14)


def test_same_accuracy_as_the_reference():
    for kind in ("SoftmaxCrossEntropy", "SigmoidCrossEntropy"):
        assert getattr(fastnn, kind).correct is getattr(ref, kind).correct


def test_backward_before_forward():
    for kind in LOSSES:
        with pytest.raises(RuntimeError, match="backward before forward"):
            getattr(fastnn, kind)().backward()


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_are_documented_as_the_references(kind):
    assert getattr(fastnn, kind).__doc__ == getattr(ref, kind).__doc__
