"""Losses of counts, quantiles, spreads and outliers, and smoothed labels: formulas, slopes, plans, files."""

import io
import math

import numpy as np
import pytest

import fastnn
from fastnn import reference as ref
from native import on_each_fusing_isa
from tolerances import assert_same_bits

BOTH = pytest.mark.parametrize("m", [fastnn, ref], ids=["native", "reference"])
LOSSES = {
    "huber": lambda m: m.Huber(0.7),
    "absolute": lambda m: m.MeanAbsoluteError(),
    "quantile": lambda m: m.Quantile(0.3),
    "quantiles": lambda m: m.Quantile([0.1, 0.5, 0.9]),
    "poisson": lambda m: m.Poisson(),
    "gaussian": lambda m: m.GaussianNLL(),
    "smoothed": lambda m: m.SoftmaxCrossEntropy(label_smoothing=0.1),
    "smoothed rows": lambda m: m.SoftmaxCrossEntropy(label_smoothing=0.3),
}
EACH = pytest.mark.parametrize("name", LOSSES)


def outputs_of(name, k):
    return k * {"quantiles": 3, "gaussian": 2}.get(name, 1)


def batch(name, rows, k, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    x = 2 * rng.normal(size=(rows, outputs_of(name, k)))
    if name == "smoothed":
        t = rng.integers(0, k, rows)
    elif name == "smoothed rows":
        t = rng.dirichlet(np.ones(k), rows)
    elif name == "poisson":
        t = rng.poisson(2.0, (rows, k)) * 1.0
    else:
        t = rng.normal(size=(rows, k))
    return x.astype(dtype), t


@EACH
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (17, 5), (33, 16), (64, 37)])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_are_those_of_the_reference(isa, dtype, name, shape, weighted):
    x, t = batch(name, *shape, dtype)
    weights = np.arange(shape[0]) % 3 + 0.5 if weighted else None
    loss, oracle = LOSSES[name](fastnn), LOSSES[name](ref)
    eps = float(np.finfo(dtype).eps)
    expected = oracle.forward(x.astype(np.float64), t, weights)
    assert loss.forward(x, t, weights) == pytest.approx(expected, rel=50 * eps, abs=50 * eps)
    np.testing.assert_allclose(loss.y, oracle.y, rtol=20 * eps, atol=20 * eps)
    slope = oracle.backward(2.0)
    scale = 50 * eps * np.abs(slope).max()
    np.testing.assert_allclose(loss.backward(2.0), slope, rtol=0, atol=scale)
    assert loss.backward().dtype == dtype


@EACH
@BOTH
def test_slopes_are_those_of_finite_differences(m, name):
    x, t = batch(name, 7, 4)
    weights = np.arange(7.0) + 1
    loss = LOSSES[name](m)
    loss.forward(x, t, weights)
    slope = loss.backward()
    for i, j in [(0, 0), (3, 1), (6, x.shape[1] - 1)]:
        step = np.zeros_like(x)
        step[i, j] = 1e-6
        higher, lower = (LOSSES[name](m).forward(x + s * step, t, weights) for s in (1, -1))
        assert (higher - lower) / 2e-6 == pytest.approx(slope[i, j], rel=1e-5, abs=1e-8)


@EACH
def test_the_same_bits_on_any_team_and_isa(name, team):
    x, t = batch(name, 501, 9, np.float32)

    def passed():
        loss = LOSSES[name](fastnn)
        return {"loss": np.array(loss.forward(x, t)), "dx": loss.backward()}

    results = on_each_fusing_isa(passed)
    with fastnn.threads(1):
        results.append(passed())
    for result in results[1:]:
        assert_same_bits(result, results[0])


@BOTH
def test_values(m):
    x, t = np.array([[0.5, -3.0]]), np.array([[0.0, 0.0]])
    assert m.Huber().forward(x, t) == pytest.approx((0.125 + 2.5) / 2)
    loss = m.MeanAbsoluteError()
    assert loss.forward(x, t) == pytest.approx(1.75)
    np.testing.assert_allclose(loss.backward(), [[0.5, -0.5]])
    loss.forward(t, t)
    assert not loss.backward().any()
    assert m.Quantile([0.1, 0.9]).forward(x, [0.0]) == pytest.approx((0.9 * 0.5 + 0.9 * 3) / 2)
    assert m.Poisson().forward(x, t) == pytest.approx((math.exp(0.5) + math.exp(-3)) / 2)
    assert m.Poisson().forward(x, t + 2.0) == pytest.approx(
        2 * math.log(2) - 2 - 2 * (0.5 - 3) / 2 + (math.exp(0.5) + math.exp(-3)) / 2
    )
    assert m.GaussianNLL().forward(x, [1.0]) == pytest.approx((-3 + 0.25 * math.exp(3)) / 2)
    logits = np.array([[2.0, 0.0, -1.0]])
    log_p = logits - np.log(np.exp(logits).sum())
    expected = -(log_p * [0.1, 0.1, 0.8]).sum()
    assert m.SoftmaxCrossEntropy(label_smoothing=0.3).forward(logits, [2]) == pytest.approx(expected)
    with np.errstate(over="ignore"):
        assert m.Poisson().forward(np.array([[1e4]]), np.ones((1, 1))) == math.inf
    assert m.Poisson().forward(np.array([[-1e3]]), np.zeros((1, 1))) == 0


def test_the_deviance_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is an extra")
    x, t = batch("poisson", 50, 1)
    expected = metrics.mean_poisson_deviance(t[:, 0], np.exp(x[:, 0])) / 2
    assert fastnn.Poisson().forward(x, t) == pytest.approx(expected)
    q = metrics.mean_pinball_loss(t[:, 0], x[:, 0], alpha=0.3)
    assert fastnn.Quantile(0.3).forward(x, t) == pytest.approx(q)


@EACH
@pytest.mark.parametrize("clip", [None, 0.5])
def test_training_is_that_of_the_reference(name, clip, dtype, monkeypatch):
    """Steps and a fit in one native call each, weighted rows among them."""
    monkeypatch.setattr(fastnn.Trainer, "_step_by_layers", None)
    x, _ = batch(name, 90, 4, dtype)
    _, t = batch(name, 90, 4, seed=3)
    inputs = np.random.default_rng(1).normal(size=(90, 6)).astype(dtype)
    weights = np.arange(90) % 4 * 1.0
    states = []
    for m in (fastnn, ref):
        net = m.mlp([6, 16, x.shape[1]], activation="tanh", seed=0, dtype=dtype)
        trainer = m.Trainer(net, LOSSES[name](m), m.Momentum(0.01), clip)
        losses = [trainer.step(inputs[:30], t[:30], weights[:30])]
        losses += list(trainer.fit(inputs, t, epochs=2, batch_size=16, sample_weight=weights).loss)
        figures = trainer.evaluate(inputs, t)
        states.append(net.state_dict() | {"loss": np.array(losses), "after": np.array(figures["loss"])})
    for key, value in states[1].items():
        scale = 500 * np.finfo(dtype).eps * max(1, np.abs(value).max())
        np.testing.assert_allclose(states[0][key], value, rtol=0, atol=scale, err_msg=key)


@EACH
@BOTH
def test_files_keep_what_a_loss_is_made_with(m, name):
    loss = LOSSES[name](m)
    trainer = m.Trainer(m.mlp([3, outputs_of(name, 2)]), loss, m.SGD())
    file = io.BytesIO()
    trainer.save(file)
    file.seek(0)
    loaded = m.Trainer.load(file)
    assert repr(loaded.loss) == repr(loss)
    assert loaded.loss.config() == loss.config()


@BOTH
def test_arguments_that_do_not_fit(m):
    for bad in (0, -1.0, "1", None, math.nan):
        with pytest.raises((TypeError, ValueError), match="delta"):
            m.Huber(bad)
    for bad in (0.0, 1.0, [], [0.5, 0.5], [0.9, 0.1], "0.5", [0.5, None], None):
        with pytest.raises((TypeError, ValueError), match="quantiles"):
            m.Quantile(bad)
    for bad in (1.0, -0.1, "0.1", None, math.nan):
        with pytest.raises((TypeError, ValueError), match="label_smoothing"):
            m.SoftmaxCrossEntropy(label_smoothing=bad)
    x = np.zeros((4, 6))
    for loss, outputs, t in [
        (m.Huber(), x, np.zeros((4, 5))),
        (m.MeanAbsoluteError(), x, np.zeros(4)),
        (m.Quantile([0.1, 0.5, 0.9]), x, np.zeros((4, 3))),
        (m.Poisson(), x, np.full((4, 6), -1.0)),
        (m.Poisson(), x, np.full((4, 6), np.nan)),
        (m.Poisson(), x, np.full((4, 6), np.inf)),
        (m.GaussianNLL(), x, np.zeros((4, 6))),
    ]:
        with pytest.raises(ValueError, match="t must"):
            loss.forward(outputs, t)
        trainer = m.Trainer(m.mlp([2, 6]), loss, m.SGD())
        before = trainer.net.state_dict()
        for call in (trainer.step, trainer.fit):
            with pytest.raises(ValueError, match="t must"):
                call(np.zeros((4, 2)), t)
        assert_same_bits(trainer.net.state_dict(), before)
    for loss, width in ((m.Quantile([0.1, 0.9]), 3), (m.GaussianNLL(), 3)):
        with pytest.raises(ValueError, match="x must"):
            loss.forward(np.zeros((4, width)), np.zeros(4))
        with pytest.raises(ValueError, match="x must"):
            m.Trainer(m.mlp([2, width]), loss, m.SGD()).step(np.zeros((4, 2)), np.zeros(4))
    for loss in (m.Huber(), m.GaussianNLL()):
        with pytest.raises(RuntimeError, match="backward before forward"):
            loss.backward()


@BOTH
def test_quantiles_are_found(m):
    """The outputs of a constant network become the quantiles of the targets."""
    t = np.random.default_rng(0).exponential(size=4000)
    net = m.Sequential([m.Affine(np.zeros((1, 3)), np.full(3, 0.5))])
    trainer = m.Trainer(net, m.Quantile([0.1, 0.5, 0.9]), m.SGD(0.5))
    for _ in range(300):
        trainer.step(np.zeros((4000, 1)), t)
    np.testing.assert_allclose(net.layers[0].b, np.quantile(t, [0.1, 0.5, 0.9]), atol=0.08)
