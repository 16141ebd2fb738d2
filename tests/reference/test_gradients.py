"""Every gradient against central differences, in float64."""

import numpy as np
import pytest

from fastnn import reference as ref

STEP = 1e-5
LIMIT = 1e-6
ACTIVATIONS = [ref.ReLU, ref.LeakyReLU, ref.Sigmoid, ref.Tanh, ref.GELU, ref.SiLU]


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def differences(f, a):
    """Return the gradient of f() with respect to the array `a`, which is as it was afterwards."""
    gradient = np.zeros_like(a)
    for i in np.ndindex(a.shape):
        middle = a[i]
        a[i] = middle + STEP
        above = f()
        a[i] = middle - STEP
        below = f()
        a[i] = middle
        gradient[i] = (above - below) / (2 * STEP)
    return gradient


def error(a, b):
    """Return the distance of two gradients relative to their size."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    return np.linalg.norm(a - b) / (np.linalg.norm(a) + np.linalg.norm(b))


def check_layer(layer, x, train=True, before=lambda: None):
    """Check the gradients of sum(y * dout) with respect to x, if real, and each parameter."""

    def output():
        before()
        return layer.forward(x, train)

    dout = np.random.default_rng(1).normal(size=output().shape)
    given = x.copy(), dout.copy()
    dx = layer.backward(dout)
    assert (x == given[0]).all()
    assert (dout == given[1]).all()
    grads = {name: np.array(g) for name, g in layer.grads.items()}
    assert grads.keys() == layer.params.keys()

    def scalar():
        return np.sum(output() * dout)

    if x.dtype == np.float64:
        assert dx.dtype == np.float64
        assert error(dx, differences(scalar, x)) < LIMIT
    for name, p in layer.params.items():
        assert error(grads[name], differences(scalar, p)) < LIMIT, name


def away_from_zero(rng, shape):
    """Return numbers at least 0.1 from 0, where ReLU has its kink."""
    return rng.choice([-1.0, 1.0], shape) * rng.uniform(0.1, 3, shape)


@pytest.mark.parametrize("shape", [(1, 6), (5, 6), (4, 2, 3)])
def test_affine(rng, shape):
    check_layer(ref.Affine(rng.normal(size=(6, 3)), rng.normal(size=3)), rng.normal(size=shape))


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("shape", [(5, 6), (4, 2, 3)])
def test_batch_norm(rng, shape, train):
    mean, var = rng.normal(size=6), rng.uniform(0.5, 2, 6)
    layer = ref.BatchNorm(rng.normal(size=6), rng.normal(size=6), 0.9, mean, var, eps=1e-3)
    check_layer(layer, rng.normal(size=shape), train)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("inverted", [True, False])
def test_dropout(rng, inverted, train):
    layer = ref.Dropout(0.4, inverted=inverted, seed=3)

    def same_mask():
        layer.step = 5

    check_layer(layer, rng.normal(size=(6, 7)), train, same_mask)
    assert not train or 0 < layer.mask.sum() < layer.mask.size


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activation(rng, kind):
    check_layer(kind(), away_from_zero(rng, (4, 3, 2)))


def test_leaky_relu_of_another_slope(rng):
    check_layer(ref.LeakyReLU(0.3), away_from_zero(rng, (4, 3)))


def test_embedding_with_repeated_indices(rng):
    check_layer(ref.Embedding(rng.normal(size=(6, 3))), np.array([[1, 4, 1], [0, 1, 4]]))


def check_loss(loss, x, t, weights):
    def scalar():
        return loss.forward(x, t, weights)

    scalar()
    dx = loss.backward()
    twice = loss.backward(2.0)
    assert dx.dtype == np.float64
    assert error(dx, differences(scalar, x)) < LIMIT
    np.testing.assert_allclose(twice, 2 * dx, rtol=1e-15)


@pytest.fixture(params=[None, [0.5, 0.0, 2.0, 1.5, 3.0]], ids=["unweighted", "weighted"])
def weights(request):
    return None if request.param is None else np.array(request.param)


@pytest.mark.parametrize("form", ["labels", "one-hot", "soft"])
def test_softmax_cross_entropy(rng, form, weights):
    labels = np.array([2, 0, 1, 1, 3])
    soft = rng.uniform(0, 1, (5, 4))
    t = {"labels": labels, "one-hot": np.eye(4)[labels], "soft": soft / soft.sum(axis=1, keepdims=True)}[form]
    check_loss(ref.SoftmaxCrossEntropy(), rng.normal(size=(5, 4)), t, weights)


@pytest.mark.parametrize("shape", [(5, 1), (5, 3), (5, 2, 2)])
@pytest.mark.parametrize("kind", [ref.SigmoidCrossEntropy, ref.MeanSquaredError])
def test_elementwise_loss(rng, kind, shape, weights):
    check_loss(kind(), rng.normal(size=shape), rng.uniform(0, 1, shape), weights)


@pytest.mark.parametrize("kind", [ref.SigmoidCrossEntropy, ref.MeanSquaredError])
def test_elementwise_loss_of_flat_targets(rng, kind, weights):
    check_loss(kind(), rng.normal(size=(5, 1)), rng.uniform(0, 1, 5), weights)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu"])
def test_whole_network(rng, activation):
    net = ref.mlp([5, 7, 6, 4], activation=activation, batch_norm=True, dropout=0.3, seed=2, dtype="float64")
    loss = ref.SoftmaxCrossEntropy()
    x, t, w = rng.normal(size=(9, 5)), rng.integers(0, 4, 9), rng.uniform(0.5, 2, 9)

    def scalar():
        for i, layer in enumerate(net.layers):
            if isinstance(layer, ref.Dropout):
                layer.seed, layer.stream, layer.step = 11, i, 2
        return loss.forward(net.forward(x), t, w)

    scalar()
    dx = net.backward(loss.backward())
    grads = {name: g.copy() for name, g in net.grads.items()}
    assert error(dx, differences(scalar, x)) < LIMIT
    for name, p in net.params.items():
        numeric = differences(scalar, p)
        if name.endswith(".b") and name != "8.b":  # a BatchNorm follows, which takes the bias out again
            assert abs(grads[name]).max() < 1e-12
            assert abs(numeric).max() < 1e-9
        else:
            assert error(grads[name], numeric) < LIMIT, name


def test_network_of_an_embedding(rng):
    net = ref.Sequential(
        [ref.Embedding(rng.normal(size=(5, 3))), ref.Affine(rng.normal(size=(6, 2)), np.zeros(2))]
    )
    loss = ref.MeanSquaredError()
    x, t = np.array([[0, 3], [3, 3], [4, 0]]), rng.normal(size=(3, 2))

    def scalar():
        return loss.forward(net.forward(x), t)

    scalar()
    assert net.backward(loss.backward()) is None
    for name, p in net.params.items():
        assert error(net.grads[name], differences(scalar, p)) < LIMIT, name


def test_the_check_bites(rng):
    class Wrong(ref.Tanh):
        def backward(self, dout):
            return super().backward(dout) * (1 + 1e-5)

    with pytest.raises(AssertionError):
        check_layer(Wrong(), rng.normal(size=(3, 3)))
