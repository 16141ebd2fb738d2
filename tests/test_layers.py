"""Each native layer against the reference, computed in float64 on the same numbers."""

import copy
import pickle

import numpy as np
import pytest

import fastnn
from fastnn import reference as ref
from layouts import (
    CONSTANT_VIEWS,
    VIEWS,
    every_other_column,
    every_other_row,
    fortran,
    in_a_wider_array,
)
from native import on_each_fusing_isa, run_python
from tolerances import assert_same_bits, assert_within, exact

BATCHES = [  # N, n_in, n_out
    (0, 3, 4),
    (1, 1, 1),
    (17, 33, 65),
    (128, 100, 7),
    (3, 513, 40),
    (33, 18, 530),
    (3, 517, 258),  # a few rows times a large matrix
    (20, 2, 90),  # a shallow product
]
ROWS = [(1, 5), (2, 1), (7, 16), (33, 17), (64, 70), (1000, 37)]  # N, D
SIZES = [0, 1, 15, 16, 63, 64, 65, 1000]
ACTIVATIONS = ["ReLU", "LeakyReLU", "Sigmoid", "Tanh", "GELU", "SiLU"]


def normal(shape, dtype, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def name(value):
    return "x".join(map(str, value))


# Affine


def affine_pair(W, b):
    return fastnn.Affine(W, b), ref.Affine(W.astype(np.float64), b.astype(np.float64))


def check_affine(x, W, b, dout, train=True):
    layer, oracle = affine_pair(W, b)
    wide, d = x.astype(np.float64), dout.astype(np.float64)
    rows, slopes, weights = abs(wide.reshape(len(x), len(W))), abs(d), abs(oracle.W)
    assert_within(
        layer.forward(x, train),
        oracle.forward(wide, train),
        terms=W.shape[0] + 1,
        scale=rows @ weights + abs(oracle.b),
    )
    dx = oracle.backward(d)
    assert_within(
        layer.backward(dout), dx, terms=W.shape[1] + 1, scale=(slopes @ weights.T).reshape(dx.shape)
    )
    assert_within(layer.dW, oracle.dW, terms=len(x) + 1, scale=rows.T @ slopes)
    assert_within(layer.db, oracle.db, terms=len(x) + 1, scale=slopes.sum(axis=0))
    only = fastnn.Affine(W, b)
    only.forward(x)
    assert only.backward_params(dout) is None
    assert_same_bits(only.grads, layer.grads)


@pytest.mark.parametrize("batch", BATCHES, ids=name)
def test_affine(isa, team, dtype, batch):
    n, n_in, n_out = batch
    check_affine(
        normal((n, n_in), dtype),
        normal((n_in, n_out), dtype, 1),
        normal(n_out, dtype, 2),
        normal((n, n_out), dtype, 3),
    )


def test_the_passes_of_affine_do_not_share_scratch(team):
    """Both products of the backward pass pack blocks, of different sizes, into the same memory."""
    x, W, dout = (
        normal((500, 70), np.float32),
        normal((70, 300), np.float32, 1),
        normal((500, 300), np.float32, 2),
    )
    layer, alone = fastnn.Affine(W, W[0].copy()), fastnn.Affine(W, W[0].copy())
    with fastnn.threads(1):
        alone.forward(x)
        dx = alone.backward(dout)
    layer.forward(x)
    for _ in range(10):
        assert_same_bits(layer.backward(dout), dx)
        assert_same_bits(layer.grads, alone.grads)


@pytest.mark.parametrize("n", [19, 3])
@pytest.mark.parametrize("view", VIEWS + CONSTANT_VIEWS)
def test_affine_of_any_strides(isa, team, dtype, view, n):
    x, W, b, dout = (
        normal((n, 33), dtype),
        normal((33, 29), dtype, 1),
        normal(29, dtype, 2),
        normal((n, 29), dtype, 3),
    )
    check_affine(view(x), W, b, dout)
    check_affine(x, W, b, view(dout))
    check_affine(x, view(W), np.repeat(b, 3)[::3], dout)


def test_affine_flattens(isa, team, dtype):
    x, W, b = normal((9, 3, 2, 5), dtype), normal((30, 8), dtype, 1), normal(8, dtype, 2)
    check_affine(x, W, b, normal((9, 8), dtype, 3))
    check_affine(x.transpose(0, 2, 3, 1), W, b, normal((9, 8), dtype, 3), train=False)


def test_affine_with_one_feature_takes_a_vector(dtype):
    check_affine(normal(9, dtype), normal((1, 4), dtype, 1), normal(4, dtype, 2), normal((9, 4), dtype, 3))


# BatchNorm


class Slack:
    """What the rounding of BatchNorm's own statistics costs, to first order, for columns x (N, D) in float64.

    Rows are summed in groups of 32, whose means and variances are combined. A mean is off by at most `mean`,
    the additions of a group and its multiplication, then three operations a group; where the sums of a group
    are exact (`integers`) only the latter count. The variance takes the same number of roundings, and the
    error of the means, once in the differences between groups and once squared.
    """

    def __init__(self, x, eps, dtype, integers=False):
        n = len(x)
        self.unit = float(np.finfo(dtype).eps)
        groups = -(-n // 32)
        self.terms = min(n, 32) + 3 * groups + 6
        spread = abs(x - x.mean(axis=0)).max(axis=0)
        self.mean = (3 * groups if integers else self.terms) * self.unit * abs(x).max(axis=0)
        self.var = self.terms * self.unit * x.var(axis=0) + 8 * spread * self.mean + 5 * self.mean**2
        relative = self.var / (2 * (x.var(axis=0) + eps)) + 4 * self.unit
        self.rstd = 1 / np.sqrt(x.var(axis=0) + eps)
        self.relative = relative
        xhat = abs(x - x.mean(axis=0)) * self.rstd
        self.xhat = (self.mean * self.rstd + relative * xhat) * (2 if dtype == np.float64 else 1) * 1.1


def norm_pair(n, dtype, **options):
    rng = np.random.default_rng(5)
    gamma, beta, mean = (rng.normal(size=n).astype(dtype) for _ in range(3))
    var = rng.uniform(0.5, 2, n).astype(dtype)
    wide = [a.astype(np.float64) for a in (gamma, beta, mean, var)]
    return (
        fastnn.BatchNorm(gamma, beta, 0.75, mean, var, **options),
        ref.BatchNorm(wide[0], wide[1], 0.75, wide[2], wide[3], **options),
    )


def check_batchnorm_training(x, dout, integers=False):
    n, d = x.shape
    layer, oracle = norm_pair(d, x.dtype)
    wide, slopes = x.astype(np.float64), dout.astype(np.float64)
    slack = Slack(wide, 1e-5, x.dtype, integers)
    twice = 2 if x.dtype == np.float64 else 1
    gamma, beta = abs(oracle.gamma), abs(oracle.beta)
    old_mean, old_var = abs(oracle.running_mean), abs(oracle.running_var)

    y = oracle.forward(wide)
    xhat = abs(y - oracle.beta) / gamma
    assert_within(layer.forward(x), y, terms=4, scale=gamma * xhat + beta, plus=gamma * slack.xhat)
    assert_within(
        layer.running_mean,
        oracle.running_mean,
        terms=4,
        scale=old_mean + abs(wide.mean(axis=0)),
        plus=twice * slack.mean,
    )
    assert_within(
        layer.running_var,
        oracle.running_var,
        terms=4,
        scale=old_var + wide.var(axis=0),
        plus=twice * slack.var,
    )

    dx = oracle.backward(slopes)
    actual = layer.backward(dout)
    total, product = abs(slopes).sum(axis=0), (abs(slopes) * xhat).sum(axis=0)
    lost = (abs(slopes) * slack.xhat).sum(axis=0)
    assert_within(layer.dbeta, oracle.dbeta, terms=slack.terms, scale=total)
    assert_within(layer.dgamma, oracle.dgamma, terms=slack.terms, scale=product, plus=lost)
    scale = abs(slopes) + total / n + xhat * product / n
    inherited = slack.relative * scale * twice + (slack.xhat * product + (xhat + slack.xhat) * lost) / n
    assert_within(
        actual,
        dx,
        terms=slack.terms + 6,
        scale=gamma * slack.rstd * scale,
        plus=1.1 * gamma * slack.rstd * inherited,
    )


@pytest.mark.parametrize("shape", ROWS[1:], ids=name)
def test_batchnorm_in_training(isa, team, dtype, shape):
    check_batchnorm_training(normal(shape, dtype), normal(shape, dtype, 1))


@pytest.mark.parametrize("rows", [33, 64, 100, 1000])
def test_batchnorm_of_a_large_mean(isa, dtype, rows):
    """Integers, so that a group's sum is exact: what E[x^2] - E[x]^2 loses, 1e8 eps, shows at once."""
    x = 10000 + np.random.default_rng(0).integers(-3, 4, (rows, 19)).astype(dtype)
    check_batchnorm_training(x, normal(x.shape, dtype, 1), integers=True)


def test_batchnorm_refuses_a_single_row_in_training(dtype):
    """Its variance is 0: such batches would pull the running variance down to nothing."""
    for layer in norm_pair(9, dtype):
        before = copy.deepcopy((layer.running_mean, layer.running_var))
        with pytest.raises(ValueError, match=r"^x must have at least 2 rows in training, got shape \(1, 9\)"):
            layer.forward(normal((1, 9), dtype))
        for now, then in zip((layer.running_mean, layer.running_var), before, strict=True):
            np.testing.assert_array_equal(now, then)
        assert layer.forward(normal((1, 9), dtype), False).shape == (1, 9)


@pytest.mark.parametrize("shape", [(0, 4), *ROWS], ids=name)
def test_batchnorm_with_running_statistics(isa, team, dtype, shape):
    x, dout = normal(shape, dtype), normal(shape, dtype, 1)
    layer, oracle = norm_pair(shape[1], dtype)
    before = copy.deepcopy((layer.running_mean, layer.running_var))
    wide, slopes = x.astype(np.float64), dout.astype(np.float64)
    gamma, rstd = abs(oracle.gamma), 1 / np.sqrt(oracle.running_var + 1e-5)
    xhat = (abs(wide) + abs(oracle.running_mean)) * rstd
    assert_within(
        layer.forward(x, False), oracle.forward(wide, False), terms=6, scale=gamma * xhat + abs(oracle.beta)
    )
    assert_within(layer.backward(dout), oracle.backward(slopes), terms=6, scale=gamma * rstd * abs(slopes))
    assert_within(layer.dgamma, oracle.dgamma, terms=len(x) + 6, scale=(abs(slopes) * xhat).sum(axis=0))
    assert_within(layer.dbeta, oracle.dbeta, terms=len(x) + 6, scale=abs(slopes).sum(axis=0))
    assert_same_bits(layer.running_mean, before[0])
    assert_same_bits(layer.running_var, before[1])


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("train", [True, False])
def test_batchnorm_of_any_strides_gives_the_same_bits(isa, dtype, view, train):
    x, dout = normal((40, 19), dtype), normal((40, 19), dtype, 1)
    (layer, _), (other, _) = norm_pair(19, dtype), norm_pair(19, dtype)
    assert_same_bits(layer.forward(view(x), train), other.forward(x, train))
    assert_same_bits(layer.backward(view(dout)), other.backward(dout))
    assert_same_bits(layer.grads, other.grads)


def test_batchnorm_flattens(isa, dtype):
    x, dout = normal((9, 2, 5), dtype), normal((9, 2, 5), dtype, 1)
    (layer, _), (other, _) = norm_pair(10, dtype), norm_pair(10, dtype)
    assert_same_bits(layer.forward(x), other.forward(x.reshape(9, 10)).reshape(x.shape))
    assert_same_bits(layer.backward(dout), other.backward(dout.reshape(9, 10)).reshape(x.shape))


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_batchnorm_at_the_ends_of_momentum(isa, dtype, momentum):
    x = normal((50, 6), dtype) + 3
    layer = fastnn.BatchNorm(np.ones(6, dtype), np.zeros(6, dtype), momentum)
    layer.forward(x)
    mean, var = (x.mean(axis=0), x.var(axis=0)) if momentum == 0 else (np.zeros(6), np.ones(6))
    np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(layer.running_var, var, rtol=1e-5)


def test_running_statistics_are_updated_in_place():
    layer = fastnn.BatchNorm.create(4)
    mean, var = layer.running_mean, layer.running_var
    layer.forward(normal((8, 4), np.float32))
    assert layer.running_mean is mean
    assert layer.running_var is var
    assert mean.any()
    assert (var != 1).any()


# Dropout


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(
    ("seed", "step", "stream"),
    [(0, 0, 0), (1, 2, 3), (2**32, 0, 0), (2**64 - 1, 2**32 - 1, 2**32 - 1), (5 << 40, (7 << 32) + 3, 1)],
)
def test_dropout_masks_are_those_of_the_reference(isa, team, dtype, n, seed, step, stream):
    x = normal(n, dtype)
    layer, oracle = fastnn.Dropout(0.3, seed=seed), ref.Dropout(0.3, seed=seed)
    for dropout in (layer, oracle):
        dropout.step, dropout.stream = step, stream
    assert_same_bits(layer.forward(x), oracle.forward(x))
    assert_same_bits(layer.mask, oracle.mask)
    assert_same_bits(layer.backward(x), oracle.backward(x))
    assert layer.step == oracle.step == step + 1


def test_dropout_keeps_a_word_that_is_the_threshold(isa, dtype):
    drawn = ref.philox.words(3, 0, 0, 40)
    for i in (5, 39):
        layer = fastnn.Dropout(int(drawn[i]) / 2**32, seed=3)
        layer.forward(normal(40, dtype))
        assert_same_bits(layer.mask, drawn >= drawn[i])
        assert layer.mask[i]


@pytest.mark.parametrize("ratio", [0.0, 1e-10, 0.25, 0.5, 0.999, 1 - 2**-40])
@pytest.mark.parametrize("inverted", [True, False])
@pytest.mark.parametrize("train", [True, False])
def test_dropout(isa, dtype, ratio, inverted, train):
    x, dout = normal((13, 77), dtype), normal((13, 77), dtype, 1)
    layer, oracle = (m.Dropout(ratio, inverted=inverted, seed=9) for m in (fastnn, ref))
    for _ in range(3):
        assert_same_bits(layer.forward(x, train), oracle.forward(x, train))
        assert_same_bits(layer.backward(dout), oracle.backward(dout))
    assert layer.step == oracle.step == 3 * train
    if not train:
        assert layer.mask is None


def test_dropout_backward_is_that_of_the_last_forward(isa, dtype):
    x = normal(100, dtype)
    layer = fastnn.Dropout(0.5, seed=1)
    layer.forward(x)
    mask = layer.mask
    layer.forward(x, False)
    assert_same_bits(layer.backward(x), x)
    assert_same_bits(layer.mask, mask)


@pytest.mark.parametrize("view", VIEWS + CONSTANT_VIEWS)
def test_dropout_masks_by_position_not_by_memory(isa, dtype, view):
    x = normal((9, 20), dtype)
    layer, oracle = fastnn.Dropout(0.5, seed=1), ref.Dropout(0.5, seed=1)
    assert_same_bits(layer.forward(view(x)), oracle.forward(np.array(view(x))))
    assert_same_bits(layer.backward(view(x)), oracle.backward(np.array(view(x))))


def test_unseeded_dropouts_differ():
    assert fastnn.Dropout().seed != fastnn.Dropout().seed


# Activations


def wide_range(dtype):
    """Numbers of every magnitude and sign, and the ones that are not numbers."""
    info = np.finfo(dtype)
    magnitudes = np.exp(np.linspace(np.log(float(info.tiny)), np.log(float(info.max)), 500))
    near = np.linspace(0, 110, 700)
    special = [0.0, float(info.tiny), float(info.max), 1.0]
    positive = np.concatenate([magnitudes[1:-1], near, special])
    subnormal = [float(info.smallest_subnormal), float(info.tiny) / 2]
    values = np.concatenate(
        [positive, -positive, subnormal, np.negative(subnormal), [np.inf, -np.inf, np.nan]]
    )
    return np.random.default_rng(0).permutation(values).astype(dtype)


def activation_slack(kind, x, y, dout):
    """Return (terms, scale) of forward and of backward: the condition of each formula."""
    d, magnitude = abs(dout), abs(x)
    if kind in ("ReLU", "LeakyReLU"):
        return (2, abs(y)), (2, d)
    if kind == "Sigmoid":  # the slope y(1 - y) from the rounded y
        return (8, y), (8, d * y)
    if kind == "Tanh":
        return (8, abs(y)), (8, d)
    near = np.minimum(magnitude, 1e3)  # beyond, the result is 0 or x
    if kind == "GELU":  # the tail exp(-x^2/2) has condition x^2
        return (16 + near**2, abs(y)), (16 + near**2, d * (1 + near * np.exp(-(near**2) / 2)))
    return (16, abs(y)), (16, d * (1 + near))


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activation(isa, team, dtype, kind):
    x = wide_range(dtype)
    dout = normal(x.size, dtype)
    layer, oracle = getattr(fastnn, kind)(), getattr(ref, kind)()
    wide, slopes = exact(x), dout.astype(np.float64)
    with np.errstate(all="ignore"):
        y = oracle.forward(wide)
        forward, backward = activation_slack(kind, wide, y, slopes)
        dx = oracle.backward(slopes)
    flushed = np.finfo(dtype).tiny * np.where(
        np.isfinite(wide), abs(wide), 0
    )  # a factor of x that underflows
    for actual, expected, (terms, scale), factor in (
        (layer.forward(x), y, forward, 1),
        (layer.backward(dout), dx, backward, abs(slopes)),
    ):
        scale = np.where(np.isfinite(scale), scale, 0)
        assert_within(actual, expected, terms=np.nan_to_num(terms, nan=1), scale=scale, plus=flushed * factor)


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("n", SIZES)
def test_activation_does_not_depend_on_position(isa, team, dtype, kind, n):
    """Every element, in the tail of a vector as in its body, gets the bits that it gets alone."""
    x, dout = normal(n, dtype), normal(n, dtype, 1)
    layer, alone = getattr(fastnn, kind)(), getattr(fastnn, kind)()
    y, dx = layer.forward(x), layer.backward(dout)
    for i in {0, n // 2, n - 1} & set(range(n)):
        assert_same_bits(alone.forward(x[i : i + 1]), y[i : i + 1])
        assert_same_bits(alone.backward(dout[i : i + 1]), dx[i : i + 1])


@pytest.mark.parametrize("width", [1, 5, 16, 63, 64, 130])
@pytest.mark.parametrize("first_row", [0, 1, 7, 64])
def test_dropout_of_a_part_has_the_masks_of_the_whole(isa, width, first_row, dtype):
    x = normal((90, width), dtype, 0) + 9
    whole = ref.Dropout(0.4, seed=5)
    y = whole.forward(x)[first_row : first_row + 20]
    for library in (fastnn, ref):
        part = library.Dropout(0.4, seed=5)
        part.first_row = first_row
        rows = x[first_row : first_row + 20]
        assert_same_bits(part.forward(rows), y)
        assert_same_bits(part.mask, whole.mask[first_row : first_row + 20])
        assert_same_bits(part.backward(rows), y)


TOO_LARGE = (25 * 2**10, 256)  # 26 MB of float32: stores go around the caches (ops/cost.h)


@pytest.mark.parametrize("team", [1, 3], indirect=True)
@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("kind", ["ReLU", "GELU", "Dropout", "BatchNorm"])
def test_what_is_too_large_for_the_caches_gets_the_bits_of_its_pieces(isa, team, kind, shift):
    rows, cols = TOO_LARGE
    x, dout = (normal((rows, cols + shift), np.float32, seed) for seed in range(2))

    def passes(begin, end):
        layer = fastnn.BatchNorm.create(cols + shift) if kind == "BatchNorm" else getattr(fastnn, kind)()
        return layer.forward(x[begin:end], train=False), layer.backward(dout[begin:end])

    if kind == "Dropout":
        layer, oracle = fastnn.Dropout(seed=3), ref.Dropout(seed=3)
        pieces = (oracle.forward(x), oracle.backward(dout))
        whole = (layer.forward(x), layer.backward(dout))
    else:
        whole = passes(0, rows)
        halves = passes(0, rows // 2), passes(rows // 2, rows)
        pieces = tuple(np.concatenate(half) for half in zip(*halves, strict=True))
    for actual, expected in zip(whole, pieces, strict=True):
        assert_same_bits(actual, expected)


@pytest.mark.parametrize("size", [1024, 2**15 - 1, 2**15, 2**18, 2**21])
def test_results_lie_at_cache_lines_and_do_not_share_memory(size):
    layer, x = fastnn.ReLU(), np.ones(size, np.float32)
    for _ in range(3):
        results = [layer.forward(x * i) for i in range(4)]
        for i, y in enumerate(results):
            assert y.ctypes.data % (4096 if y.nbytes >= 2**17 else 64) == 0
            assert (y == i).all()
        assert len({y.ctypes.data for y in results}) == 4


def test_memory_of_results_is_used_again():
    layer, x = fastnn.ReLU(), np.ones(2**20, np.float32)
    addresses = {layer.forward(x).ctypes.data for _ in range(8)}
    assert len(addresses) <= 2


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("view", VIEWS + CONSTANT_VIEWS)
def test_activation_of_any_strides(isa, dtype, kind, view):
    x, dout = normal((9, 20), dtype), normal((9, 20), dtype, 1)
    layer, dense = getattr(fastnn, kind)(), getattr(fastnn, kind)()
    assert_same_bits(layer.forward(view(x)), dense.forward(np.array(view(x))))
    assert_same_bits(layer.backward(view(dout)), dense.backward(np.array(view(dout))))


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2, 3, 4, 5)])
def test_activation_of_any_rank(dtype, kind, shape):
    x = np.asarray(normal(shape, dtype))
    layer, oracle = getattr(fastnn, kind)(), getattr(ref, kind)()
    y = layer.forward(x)
    assert y.shape == layer.backward(x).shape == shape
    np.testing.assert_allclose(y, oracle.forward(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.01, 1.0, 3.5])
def test_leaky_relu(isa, dtype, alpha):
    x, dout = normal(100, dtype), normal(100, dtype, 1)
    layer, oracle = fastnn.LeakyReLU(alpha), ref.LeakyReLU(alpha)
    np.testing.assert_array_equal(layer.forward(x), oracle.forward(x))
    np.testing.assert_array_equal(layer.backward(dout), oracle.backward(dout))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("inverted", [True, False])
@pytest.mark.parametrize("ratio", [-0.5, 1.0, 2.0, float("nan")])
@pytest.mark.parametrize("library", [fastnn, ref])
def test_a_ratio_set_out_of_range_is_refused(library, ratio, inverted, train):
    layer = library.Dropout(inverted=inverted, seed=0)
    layer.ratio = ratio
    with pytest.raises(ValueError, match=r"ratio must be a number in \[0, 1\)"):
        layer.forward(np.ones(4, np.float32), train)
    assert layer.step == 0
    assert layer.mask is None


# Embedding


@pytest.mark.parametrize("integer", ["i1", "u1", "i2", "u4", "i8", "u8", ">i4"])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5), (4, 1, 30)])
def test_embedding(isa, team, dtype, integer, shape):
    W = normal((20, 6), dtype)
    x = np.asarray(np.random.default_rng(1).integers(0, 20, shape)).astype(integer)
    layer, oracle = fastnn.Embedding(W), ref.Embedding(W)
    assert_same_bits(layer.forward(x), oracle.forward(x))
    dout = np.asarray(normal((*shape, 6), dtype, 2))
    assert layer.backward(dout) is oracle.backward(dout) is None
    assert isinstance(layer.dW, fastnn.RowSparse)
    assert layer.dW.shape == W.shape
    assert_same_bits(layer.dW.rows, oracle.dW.rows)
    assert_same_bits(layer.dW.values, oracle.dW.values)  # both sum in the order of occurrence


def test_embedding_sums_many_repeats_in_order(isa, team, dtype):
    x = np.random.default_rng(0).integers(0, 5, 3000)
    dout = normal((3000, 33), dtype)
    layer, oracle = fastnn.Embedding(normal((9, 33), dtype)), ref.Embedding(normal((9, 33), dtype))
    for embedding in (layer, oracle):
        embedding.forward(x)
        embedding.backward(dout)
    assert_same_bits(layer.dW.rows, np.arange(5))
    assert_same_bits(layer.dW.values, oracle.dW.values)


@pytest.mark.parametrize(("vocab", "count"), [(100_000, 3), (100_000, 700), (2**20, 5000), (5000, 100_000)])
def test_embedding_sorts_the_indices_of_a_large_table(vocab, count):
    x = np.random.default_rng(0).integers(0, vocab, count)
    dout = normal((count, 1), np.float32)
    layer, oracle = (m.Embedding(np.zeros((vocab, 1), np.float32)) for m in (fastnn, ref))
    for embedding in (layer, oracle):
        embedding.forward(x)
        embedding.backward(dout)
    assert_same_bits(layer.dW.rows, oracle.dW.rows)
    assert_same_bits(layer.dW.values, oracle.dW.values)


def test_embedding_of_rows_around_the_caches(isa, team):
    n, dim = TOO_LARGE[0], TOO_LARGE[1] + 1  # rows that do not begin at a line
    W, dout = normal((n, dim), np.float32), normal((n, dim), np.float32, 2)
    x = np.random.default_rng(1).integers(0, n, n)  # that occur once, twice, more often
    layer, oracle = fastnn.Embedding(W), ref.Embedding(W)
    assert_same_bits(layer.forward(x), oracle.forward(x))
    layer.backward(dout)
    oracle.backward(dout)
    assert_same_bits(layer.dW.values, oracle.dW.values)


@pytest.mark.parametrize("view", [fortran, every_other_row, every_other_column, in_a_wider_array])
def test_embedding_of_any_strides(isa, dtype, view):
    W, x, dout = normal((20, 6), dtype), np.arange(12).reshape(3, 4), normal((3, 4, 6), dtype)
    layer, oracle = fastnn.Embedding(view(W)), ref.Embedding(W)
    assert_same_bits(layer.forward(view(x)), oracle.forward(x))
    layer.backward(dout.transpose(1, 0, 2).copy().transpose(1, 0, 2))
    oracle.backward(dout)
    assert_same_bits(layer.dW.values, oracle.dW.values)


def test_the_users_indices_may_change_between_the_passes():
    layer = fastnn.Embedding(normal((5, 2), np.float32))
    x = np.array([3, 1])
    layer.forward(x)
    x[:] = 4
    layer.backward(np.ones((2, 2), np.float32))
    assert (layer.dW.rows < 5).all()


# All layers


def layers(dtype):
    """Return one of each layer for 6 features, and the integers or numbers to feed it."""
    x = normal((10, 6), dtype)
    made = [
        fastnn.Affine.create(6, 3, rng=0, dtype=dtype),
        fastnn.BatchNorm.create(6, dtype=dtype),
        fastnn.Dropout(0.5, seed=1),
        fastnn.Dropout(0.5, seed=1, inverted=False),
        *(getattr(fastnn, kind)() for kind in ACTIVATIONS),
    ]
    return [(layer, x) for layer in made] + [
        (fastnn.Embedding.create(9, 4, rng=0, dtype=dtype), np.arange(8))
    ]


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("i", range(11))
def test_inputs_are_not_modified_and_outputs_are_new(isa, team, dtype, i, train):
    layer, x = layers(dtype)[i]
    params = {key: p.copy() for key, p in layer.params.items()}
    before = x.copy()
    y = layer.forward(x, train)
    dout = normal(y.shape, dtype, 3)
    slopes = dout.copy()
    dx = layer.backward(dout)
    assert_same_bits(x, before)
    assert_same_bits(dout, slopes)
    assert_same_bits(layer.params, params)
    assert y.dtype == dtype
    assert not np.shares_memory(y, x)
    if dx is not None:
        assert (dx.dtype, dx.shape) == (dtype, x.shape)
        assert not np.shares_memory(dx, dout)
        assert not np.shares_memory(dx, y)


@pytest.mark.parametrize("i", range(2))
def test_gradients_are_the_same_arrays_for_ever(dtype, i):
    layer, x = layers(dtype)[i]
    assert layer.grads == {}
    y = layer.forward(x)
    layer.backward(y)
    grads = dict(layer.grads)
    first = {key: g.copy() for key, g in grads.items()}
    layer.forward(2 * x)
    layer.backward(3 * y)
    assert grads.keys() == layer.params.keys() == layer.grads.keys()
    assert all(layer.grads[key] is g for key, g in grads.items())
    assert all((g != first[key]).any() for key, g in grads.items())


@pytest.mark.parametrize("i", range(11))
def test_backward_before_forward(i):
    layer, _ = layers(np.float32)[i]
    with pytest.raises(RuntimeError, match="backward before forward"):
        layer.backward(np.zeros((10, 6), np.float32))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("i", range(11))
def test_backward_twice_gives_the_same(dtype, i, train):
    layer, x = layers(dtype)[i]
    dout = normal(layer.forward(x, train).shape, dtype, 3)
    first = layer.backward(dout)
    second = layer.backward(dout)
    if first is not None:
        assert_same_bits(first, second)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("i", range(11))
def test_same_bits_on_every_team(team, dtype, i, train):
    (layer, x), (alone, _) = layers(dtype)[i], layers(dtype)[i]
    if x.ndim == 2:
        x = normal((150, 6), dtype)
    y = layer.forward(x, train)
    dout = normal(y.shape, dtype, 3)
    dx = layer.backward(dout)
    with fastnn.threads(1):
        assert_same_bits(y, alone.forward(x, train))
        assert_same_bits(np.asarray(dx), np.asarray(alone.backward(dout)))
    for key, g in layer.grads.items():
        assert_same_bits(np.asarray(g), np.asarray(alone.grads[key]))


@pytest.mark.parametrize("i", range(11))
def test_same_bits_on_every_isa_that_fuses(dtype, i):
    def compute():
        layer, x = layers(dtype)[i]
        x = normal((150, 6), dtype) if x.ndim == 2 else x
        y = layer.forward(x)
        dx = layer.backward(normal(y.shape, dtype, 3))
        return y, dx, {key: np.asarray(g) for key, g in layer.grads.items()}

    first, *others = on_each_fusing_isa(compute)
    for other in others:
        assert_same_bits(first[0], other[0])
        if first[1] is not None:
            assert_same_bits(first[1], other[1])
        assert_same_bits(first[2], other[2])


@pytest.mark.parametrize("i", range(10))
@pytest.mark.parametrize("given", ["u1", "i8", "f2", ">f4", "?", "list"])
def test_data_of_another_dtype_is_converted(i, given):
    (layer, _), (other, _) = layers(np.float32)[i], layers(np.float32)[i]
    x = np.random.default_rng(0).integers(0, 2, (10, 6))
    dressed = x.tolist() if given == "list" else x.astype(given)
    y = other.forward(x.astype(np.float32))
    assert_same_bits(layer.forward(dressed), y)
    dout = (y > 0.5) + 0
    dressed = dout.tolist() if given == "list" else dout.astype(given)
    assert_same_bits(layer.backward(dressed), other.backward(dout.astype(np.float32)))


@pytest.mark.parametrize("i", range(11))
def test_layers_can_be_copied_and_pickled(i):
    layer, x = layers(np.float32)[i]
    y = layer.forward(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(twin) is type(layer)
        assert_same_bits(np.asarray(twin.backward(y)), np.asarray(layer.backward(y)))
        assert all(twin.params[key] is not p for key, p in layer.params.items())


@pytest.mark.parametrize("i", range(11))
def test_layers_are_documented_and_described_as_the_references(i):
    layer, _ = layers(np.float32)[i]
    oracle = getattr(ref, type(layer).__name__)
    assert isinstance(layer, oracle)
    assert type(layer).__doc__ == oracle.__doc__
    twin = type(layer).from_config(layer.config())
    assert type(twin) is type(layer)
    assert twin.config() == layer.config()


@pytest.mark.parametrize("guard", ["ends_at_a_guard", "begins_at_a_guard"])
def test_nothing_beyond_the_arrays_is_touched(guard):
    """Not even by lanes whose numbers nobody uses."""
    run_python(f"""
        import numpy as np
        import fastnn
        from fastnn import _core
        from layouts import {guard} as guarded
        from test_layers import BATCHES, normal

        fastnn.set_num_threads(1)
        for isa in _core.isas_supported():
            _core.use_isa(isa)
            for n, n_in, n_out in BATCHES[1:]:
                for dtype, order in (("f4", "C"), ("f4", "F"), ("f8", "C"), ("f8", "F")):
                    W, b = guarded(normal((n_in, n_out), dtype).copy(order)), guarded(normal(n_out, dtype))
                    layer = fastnn.Affine(W, b)
                    for rows in (n, 2):
                        layer.forward(guarded(normal((rows, n_in), dtype)))
                        layer.backward(guarded(normal((rows, n_out), dtype)))
                    layer = fastnn.Embedding(guarded(normal((n, n_out), dtype)))
                    layer.forward(np.arange(3 * n) % n)
                    layer.backward(guarded(normal((3 * n, n_out), dtype)))
    """)


@pytest.mark.parametrize(("kind", "arguments"), [("Affine", (5, 4)), ("Embedding", (5, 4))])
def test_create_draws_what_the_reference_draws(dtype, kind, arguments):
    layer, oracle = (getattr(m, kind).create(*arguments, rng=3, dtype=dtype) for m in (fastnn, ref))
    assert_same_bits(layer.params, oracle.params)


def test_embedding_keeps_its_own_indices():
    index = np.array([0, 2, 2])
    layer = fastnn.Embedding(np.ones((4, 2), np.float32))
    layer.forward(index)
    index[:] = 3
    layer.backward(np.ones((3, 2), np.float32))
    assert layer.dW.rows.tolist() == [0, 2]
