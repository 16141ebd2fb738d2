"""Passes on the plan, forward and backward, and losses of one's own in between."""

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest

import fastnn
from fastnn import reference as ref
from fastnn.reference.network import dropouts
from fastnn.trainer import Trainer
from native import on_each_fusing_isa
from networks import NETS
from tolerances import assert_same_bits

ROWS = 37
BOTH = pytest.mark.parametrize("m", [fastnn, ref], ids=["native", "reference"])


def network(m, name="plain", dtype=np.float64):
    net = m.Sequential(NETS[name](m, dtype))
    for i, layer in dropouts(net.layers):
        layer.seed, layer.stream = 7, i
    return net


def batch(name="plain", rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 30, (rows, 3)) if "embedding" in name else rng.normal(size=(rows, 12))
    return x, rng.normal(size=(rows, 5))


def plain(grads):
    return {name: np.array(getattr(g, "values", g)) for name, g in grads.items()}


def passed(net, x, dout):
    y = net.forward(x, True)
    dx = net.backward(dout)
    return {"y": y, **({} if dx is None else {"dx": dx}), **plain(net.grads), **net.state_dict()}


def assert_close(actual, expected, dtype):
    assert actual.keys() == expected.keys()
    eps = np.finfo(dtype).eps
    for name, value in expected.items():
        scale = np.abs(value).max(initial=1e-3)
        np.testing.assert_allclose(actual[name], value, rtol=0, atol=2000 * eps * scale, err_msg=name)


@pytest.fixture
def natively(monkeypatch):
    """Fail where a pass or a step is done layer by layer."""

    def refuse(*_):
        raise AssertionError("it was done layer by layer")

    for name in ("_forward", "_backward", "_backward_params", "_input_gradient"):
        monkeypatch.setattr(fastnn.Sequential, name, refuse)
    monkeypatch.setattr(Trainer, "_step_by_layers", refuse)


# Passes


@pytest.mark.parametrize("name", NETS)
@pytest.mark.usefixtures("natively", "isa")
def test_a_pass_is_that_of_the_reference(name, dtype):
    nets = network(fastnn, name, dtype), network(ref, name, dtype)
    x, dout = batch(name)
    for _ in range(2):  # dropout's counters and running statistics go on
        actual, expected = (passed(net, x, dout) for net in nets)
        assert_close(actual, expected, dtype)
        for (_, a), (_, b) in zip(*(dropouts(net.layers) for net in nets), strict=True):
            np.testing.assert_array_equal(a.mask, b.mask)
            assert (a.step, a.seed, a.stream) == (b.step, b.seed, b.stream)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.usefixtures("natively")
def test_a_pass_has_the_same_bits_however_it_is_shared(name, team):
    x, dout = batch(name, 53)
    with fastnn.threads(1):
        alone = passed(network(fastnn, name), x, dout)
    assert_same_bits(passed(network(fastnn, name), x, dout), alone)


@pytest.mark.parametrize("name", ["norm", "dropout", "embedding", "activation after activation"])
def test_a_pass_has_the_same_bits_on_each_isa(name):
    x, dout = batch(name)
    results = on_each_fusing_isa(lambda: passed(network(fastnn, name, np.float32), x, dout))
    for result in results[1:]:
        assert_same_bits(result, results[0])


@pytest.mark.parametrize("name", NETS)
@BOTH
def test_the_parts_of_backward_are_those_of_the_whole(m, name):
    x, dout = batch(name)
    net = network(m, name)
    net.forward(x)
    assert net.grads == {}
    dx = net.input_gradient(dout)
    assert net.grads == {}
    whole = net.backward(dout)
    grads = plain(net.grads)
    assert (dx is None) == (whole is None) == ("embedding" in name)
    if dx is not None:
        assert dx.shape == x.shape
        np.testing.assert_array_equal(dx, whole)
    assert net.backward_params(2 * dout) is None
    for gradient_name, g in plain(net.grads).items():
        np.testing.assert_allclose(g, 2 * grads[gradient_name], rtol=1e-12, atol=1e-12)
    kept = plain(net.grads)
    net.input_gradient(dout)
    assert_same_bits(plain(net.grads), kept)


@pytest.mark.parametrize("name", ["plain", "norm", "dropout", "input activation", "input norm"])
@BOTH
def test_gradients_are_those_of_finite_differences(m, name):
    x, dout = batch(name, 6)
    net = network(m, name)

    def value(at):
        other = copy.deepcopy(net)
        return float((other.forward(at, True) * dout).sum())

    probe = copy.deepcopy(net)
    probe.forward(x)
    dx = probe.input_gradient(dout)
    rng = np.random.default_rng(5)
    for _ in range(4):
        direction = rng.normal(size=x.shape)
        slope = (value(x + 1e-6 * direction) - value(x - 1e-6 * direction)) / 2e-6
        assert slope == pytest.approx(float((dx * direction).sum()), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", NETS)
@BOTH
def test_what_comes_between_changes_nothing(m, name):
    x, dout = batch(name)
    other, t = batch(name, 9, seed=1)
    net, untouched = network(m, name), network(m, name)
    expected = passed(untouched, x, dout)
    trainer = m.Trainer(net, m.MeanSquaredError(), m.SGD())
    loss = trainer.loss
    target = np.ones((ROWS, 5))
    y = net.forward(x, True)
    loss.forward(y, target)
    slope = loss.backward()
    net.predict(other)
    net.predict(other, batch_size=2)
    trainer.evaluate(other, t, batch_size=4)
    net(other)
    assert_same_bits({"slope": loss.backward()}, {"slope": slope})
    dx = net.backward(dout)
    actual = {"y": y, **({} if dx is None else {"dx": dx}), **plain(net.grads), **net.state_dict()}
    assert_same_bits(actual, expected)


class Squares:
    """A layer of one's own."""

    def forward(self, x, train=True):
        self.x = x
        return x * x

    def backward(self, dout):
        return 2 * self.x * dout


@BOTH
def test_what_comes_between_changes_nothing_of_a_layer_of_ones_own(m):
    def made():
        return m.Sequential([m.Affine.create(12, 5, rng=1, dtype=np.float64), Squares()])

    x, dout = batch()
    net, untouched = made(), made()
    expected = passed(untouched, x, dout)
    y = net.forward(x)
    net.predict(x[:3], batch_size=1)
    m.Trainer(net, m.MeanSquaredError(), m.SGD()).evaluate(x[:7], dout[:7])
    actual = {"y": y, "dx": net.backward(dout), **plain(net.grads), **net.state_dict()}
    assert_same_bits(actual, expected)


@BOTH
@pytest.mark.parametrize("own", [False, True], ids=["built in", "function"])
def test_a_step_between_leaves_what_backward_needs(m, own):
    x, dout = batch("norm")
    net = network(m, "norm")
    loss = (lambda y, t: (float(np.square(y - t).sum()), 2 * (y - t))) if own else m.MeanSquaredError()
    trainer = m.Trainer(net, loss, m.SGD(0.0))
    expected = passed(copy.deepcopy(net), x, dout)
    net.forward(x)
    trainer.step(*batch("norm", seed=3, rows=5))
    with pytest.raises(ValueError, match=r"rows|shape"):
        trainer.step(x, dout[:3])
    np.testing.assert_array_equal(net.backward(dout), expected["dx"])


@BOTH
def test_a_step_between_leaves_what_the_layers_backward_needs(m):
    x, dout = batch()
    net = m.Sequential(
        [m.GELU(), *m.mlp([12, 9, 5], batch_norm=True, dropout=0.5, seed=1, dtype=np.float32).layers]
    )
    net.forward(x)
    expected = net.backward(dout)
    m.Trainer(net, m.MeanSquaredError(), m.SGD(0.0), seed=8).step(x, dout)
    counters = [(layer.seed, layer.step) for layer in net.layers if hasattr(layer, "stream")]
    dx = dout
    for layer in reversed(net.layers):
        dx = layer.backward(dx)
    assert dx.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(dx, expected, rtol=1e-4, atol=1e-5)
    assert counters == [(layer.seed, layer.step) for layer in net.layers if hasattr(layer, "stream")]


@BOTH
def test_a_network_that_went_forward_goes_without_the_collector(m):
    net = network(m, "norm")
    net.forward(batch("norm")[0])
    gone = [weakref.ref(net), *map(weakref.ref, net.layers)]
    gc.disable()
    try:
        del net
        assert [ref() for ref in gone] == [None] * len(gone)
    finally:
        gc.enable()


@BOTH
def test_a_step_leaves_nothing_for_backward(m):
    net = network(m)
    m.Trainer(net, m.MeanSquaredError(), m.SGD()).step(*batch())
    with pytest.raises(RuntimeError, match="backward before forward"):
        net.backward(batch()[1])


@BOTH
@pytest.mark.parametrize(
    "weights", [np.zeros(ROWS), -np.ones(ROWS), np.ones(3), np.full(ROWS, np.nan), "ones"]
)
def test_weights_that_are_none_are_refused_before_a_function_has_them(m, weights):
    called = []
    trainer = m.Trainer(network(m), lambda y, t, w: called.append(1), m.SGD())
    with pytest.raises((TypeError, ValueError), match="sample_weight"):
        trainer.step(*batch(), weights)
    assert not called


@BOTH
def test_of_two_forwards_the_last_counts(m):
    (x, dout), (other, _) = batch("norm"), batch("norm", seed=1)
    net = network(m, "norm")
    expected = passed(copy.deepcopy(net), x, dout)
    net.forward(other)
    net.layers[1].running_mean[...] = 0
    net.layers[1].running_var[...] = 1
    assert_same_bits(passed(net, x, dout), expected)


@pytest.mark.parametrize("by_hand", ["forward", "backward", "some of backward"])
def test_passes_by_hand_and_by_the_network_mix(by_hand):
    x, dout = batch("norm")
    net, other = network(fastnn, "norm"), network(ref, "norm")
    other.forward(x)
    expected = other.backward(dout)
    net.forward(batch("norm", seed=2)[0])
    for layer in net.layers:
        if hasattr(layer, "running_mean"):
            layer.running_mean[...], layer.running_var[...] = 0, 1
    if by_hand == "forward":
        y = x
        for layer in net.layers:
            y = layer.forward(y, True)
        dx = net.backward(dout)
    elif by_hand == "backward":
        net.forward(x)
        dx = dout
        for layer in reversed(net.layers):
            dx = layer.backward(dx)
    else:
        net.forward(x)
        net.layers[-1].backward(dout)
        dx = net.backward(dout)
    np.testing.assert_allclose(dx, expected, rtol=0, atol=1e-12)
    assert_close({**plain(net.grads), **net.state_dict()}, {**plain(other.grads), **other.state_dict()}, "f8")


@pytest.mark.parametrize("name", ["norm", "dropout", "plain"])
@BOTH
def test_backward_after_a_forward_without_training(m, name):
    x, dout = batch(name)
    net, other = network(m, name), network(ref, name)
    np.testing.assert_allclose(net.forward(x, False), other.forward(x, train=False), atol=1e-12)
    np.testing.assert_allclose(net.backward(dout), other.backward(dout), atol=1e-12)
    assert_close(plain(net.grads), plain(other.grads), "f8")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
@pytest.mark.parametrize("name", ["norm", "dropout"])
def test_a_copy_goes_back_for_itself(name, copied):
    x, dout = batch(name)
    net = network(fastnn, name)
    expected = passed(copy.deepcopy(net), x, dout)
    net.forward(x)
    other = copied(net)
    np.testing.assert_allclose(copied(net).input_gradient(dout), expected["dx"], atol=1e-12)
    np.testing.assert_allclose(other.backward(dout), expected["dx"], atol=1e-12)
    np.testing.assert_allclose(net.backward(dout), expected["dx"], atol=1e-12)


def test_data_of_any_kind_go_through_a_pass():
    net, other = network(fastnn), network(ref)
    x, dout = batch()
    for kind in (
        x.astype(np.float32),
        np.asfortranarray(x),
        x[:, ::-1],
        (x * 9).astype(np.int16),
        x.reshape(ROWS, 3, 4),
        x.tolist(),
        x.astype(">f8"),
    ):
        np.testing.assert_allclose(net.forward(kind), other.forward(kind), atol=1e-12)
        for given in (dout, dout.astype(np.float32), np.asfortranarray(dout), dout.tolist()):
            dx = net.backward(given)
            assert dx.shape == np.shape(kind)
            np.testing.assert_allclose(dx, other.backward(given), atol=1e-12)


@BOTH
def test_backward_is_refused_after_parameters_were_replaced(m):
    x, dout = batch()
    net = network(m)
    net.forward(x)
    net.layers[0].W = net.layers[0].W + 1
    for method in (net.backward, net.backward_params, net.input_gradient):
        with pytest.raises(ValueError, match="parameters must be the arrays of the last forward"):
            method(dout)
    assert net.grads == {}
    net.forward(x)
    net.params["0.W"] = net.params["0.W"] * 2  # in place
    net.backward(dout)


@BOTH
def test_a_wrong_gradient_is_refused(m):
    x, dout = batch()
    net = network(m)
    with pytest.raises(RuntimeError, match="backward before forward"):
        net.backward(dout)
    net.forward(x)
    for bad in (dout[:-1], dout[:, :-1], dout.T, 1.0):
        with pytest.raises(ValueError, match="dout must have the output's shape"):
            net.backward(bad)
    for bad in ("text", None, [[object()] * 5] * ROWS):
        with pytest.raises(TypeError, match="dout"):
            net.backward(bad)
    assert net.grads == {}


# Losses of one's own


def squared_error(y, t):
    r = y - np.reshape(t, y.shape)
    return float((r * r).mean()), 2 / r.size * r


def weighted_squared_error(y, t, sample_weight):
    if sample_weight is None:
        return squared_error(y, t)
    share = (sample_weight / sample_weight.sum())[:, None] / y.shape[1]
    r = y - t
    return (share * r * r).sum(), 2 * share * r


class OfTheOwn:
    """A loss with forward and backward."""

    def forward(self, y, t, sample_weight=None):
        loss, self.slope = weighted_squared_error(y, t, sample_weight)
        return loss

    def backward(self, dout=1.0):
        return dout * self.slope


LOSSES = {
    "function": lambda: squared_error,
    "with weights": lambda: weighted_squared_error,
    "object": OfTheOwn,
}
WAYS = pytest.mark.parametrize("way", ["step", "fit"])


def trained(m, loss, way, name="plain", dtype=np.float64, weights=None, optimizer="Momentum", **options):
    trainer = m.Trainer(network(m, name, dtype), loss, getattr(m, optimizer)(0.01), seed=3, **options)
    x, t = batch(name, 100)
    if way == "fit":
        trainer.fit(x, t, epochs=3, batch_size=16, sample_weight=weights)
    else:
        for i in range(0, 90, 30):
            part = slice(i, i + 30)
            trainer.step(x[part], t[part], None if weights is None else weights[part])
    return trainer


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("loss", LOSSES)
@WAYS
@pytest.mark.usefixtures("natively")
def test_a_loss_of_ones_own_is_that_of_the_built_in_one(way, loss, name):
    own = trained(fastnn, LOSSES[loss](), way, name)
    built_in = trained(ref, ref.MeanSquaredError(), way, name)
    assert_close(own.net.state_dict(), built_in.net.state_dict(), "f8")
    assert own.steps == built_in.steps == own.optimizer.step


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("clip", [None, 0.01])
@WAYS
@pytest.mark.usefixtures("natively")
def test_weights_and_clipping(way, clip, loss):
    weights = None if loss == "function" else np.arange(100) % 4 * 1.0
    for optimizer, name in (("SGD", "norm"), ("Adam", "dropout")):
        options = {"weights": weights, "optimizer": optimizer, "clip_norm": clip}
        own = trained(fastnn, LOSSES[loss](), way, name, **options)
        built_in = trained(ref, ref.MeanSquaredError(), way, name, **options)
        assert_close(own.net.state_dict(), built_in.net.state_dict(), "f8")


@pytest.mark.parametrize("mean", ["batch", "data"])
@BOTH
def test_the_mean_weight_of_the_data(m, mean):
    x, t = batch(rows=60)
    weights = np.linspace(0, 3, 60)
    results = []
    for loss in (weighted_squared_error, OfTheOwn(), m.MeanSquaredError()):
        trainer = m.Trainer(network(m), loss, m.SGD(0.1))
        history = trainer.fit(x, t, 2, 7, sample_weight=weights, weight_mean=mean)
        results.append({"loss": history.loss, "epochs": history.epoch_loss, **trainer.net.state_dict()})
    assert_close(results[0], results[2], "f8")
    assert_close(results[1], results[2], "f8")


@pytest.mark.parametrize("name", ["norm", "dropout", "embedding"])
@pytest.mark.usefixtures("natively")
def test_a_loss_of_ones_own_has_the_same_bits_however_it_is_shared(name, team):
    with fastnn.threads(1):
        alone = trained(fastnn, squared_error, "fit", name).net.state_dict()
    assert_same_bits(trained(fastnn, squared_error, "fit", name).net.state_dict(), alone)


@BOTH
def test_rates_weights_and_evaluation(m):
    x, t = batch(rows=50)
    rate = fastnn.schedules.StepDecay(0.1, every=3, factor=0.5)
    histories = []
    for loss in (weighted_squared_error, m.MeanSquaredError()):
        trainer = m.Trainer(network(m, "dropout"), loss, m.Adam(rate))
        history = trainer.fit(x, t, epochs=3, batch_size=7, shuffle=False, validation=(x, t))
        weights = np.arange(50.0)
        figures = trainer.evaluate(x, t, weights, batch_size=9)
        assert figures.keys() == {"loss"}
        histories.append({"loss": history.loss, "val": history.val_loss, "weighted": figures["loss"]})
    assert_close(histories[0], histories[1], "f8")


@BOTH
def test_a_function_sees_outputs_targets_and_weights_as_they_are(m):
    seen = []

    def loss(y, t, sample_weight):
        seen.append((y.copy(), t, sample_weight))
        y[...] = 0  # an array of its own
        return np.float32(0.5), np.zeros(y.shape)

    net = network(m, dtype=np.float32)
    trainer = m.Trainer(net, loss, m.SGD())
    x, _ = batch(rows=10)
    t = [{"any": "thing"}] * 10
    assert trainer.step(x, t) == 0.5
    np.testing.assert_array_equal(seen[0][0], net.predict(x))
    assert seen[0][0].dtype == np.float32
    assert seen[0][1] is t
    assert seen[0][2] is None
    codes = np.arange(10, dtype=np.int16) + 300
    trainer.fit(x, codes, epochs=1, batch_size=4, sample_weight=np.arange(10.0) + 1)
    rows = np.concatenate([t for _, t, _ in seen[1:]])
    assert rows.dtype == np.int16
    assert sorted(rows) == list(codes)
    assert all((w == t - 299).all() for _, t, w in seen[1:])
    order = rows - 300
    for y, t, _ in seen[1:]:
        np.testing.assert_allclose(y, net.predict(x[t - 300]), atol=1e-6)
    assert not (order == np.arange(10)).all()


BAD_RESULTS = [
    (None, TypeError, "loss must return"),
    (1.0, TypeError, "loss must return"),
    ((1.0,), TypeError, "loss must return"),
    (("1", np.zeros((ROWS, 5))), TypeError, "a number as its loss"),
    ((True, np.zeros((ROWS, 5))), TypeError, "a number as its loss"),
    ((1j, np.zeros((ROWS, 5))), TypeError, "a number as its loss"),
    ((np.zeros(2), np.zeros((ROWS, 5))), TypeError, "a number as its loss"),
    ((1.0, np.zeros((ROWS, 4))), ValueError, "the shape"),
    ((1.0, np.zeros(5)), ValueError, "the shape"),
    ((1.0, 0.0), ValueError, "the shape"),
    ((1.0, None), TypeError, "gradient"),
    ((1.0, np.full((ROWS, 5), "a")), TypeError, "gradient"),
    ((1.0, np.zeros((ROWS, 5), complex)), TypeError, "gradient"),
    ((np.nan, np.zeros((ROWS, 5))), FloatingPointError, "loss of step 0 is nan"),
    ((-np.inf, np.zeros((ROWS, 5))), FloatingPointError, "loss of step 0 is -inf"),
    ((1.0, np.full((ROWS, 5), np.nan)), FloatingPointError, "gradient that the loss returns"),
    ((1.0, np.full((ROWS, 5), np.inf)), FloatingPointError, "gradient that the loss returns"),
]


@pytest.mark.parametrize(("result", "error", "text"), BAD_RESULTS)
@WAYS
@BOTH
def test_what_a_function_must_return(m, way, result, error, text):
    trainer = m.Trainer(network(m, "norm"), lambda y, t: result, m.Adam(), seed=1)
    before = trainer.net.state_dict()
    x, t = batch("norm")
    with pytest.raises(error, match=text):
        trainer.step(x, t) if way == "step" else trainer.fit(x, t, batch_size=ROWS)
    assert_same_bits(trainer.net.state_dict(), before)
    assert trainer.steps == trainer.optimizer.step == 0


@WAYS
@BOTH
def test_an_exception_of_a_function_leaves_the_steps_before_it(m, way):
    calls = []

    def loss(y, t):
        calls.append(None)
        if len(calls) == 3:
            raise LookupError("mine")
        return squared_error(y, t)

    trainer = m.Trainer(network(m, "dropout"), loss, m.Adam(), seed=1)
    other = m.Trainer(network(m, "dropout"), m.MeanSquaredError(), m.Adam(), seed=1)
    x, t = batch(rows=40)
    if way == "fit":
        with pytest.raises(LookupError, match="mine"):
            trainer.fit(x, t, batch_size=10, shuffle=False)
    else:
        for i in range(2):
            trainer.step(x[10 * i : 10 * i + 10], t[10 * i : 10 * i + 10])
        with pytest.raises(LookupError, match="mine"):
            trainer.step(x[20:30], t[20:30])
    for i in range(2):
        other.step(x[10 * i : 10 * i + 10], t[10 * i : 10 * i + 10])
    assert trainer.steps == trainer.optimizer.step == 2
    assert_close(trainer.net.state_dict(), other.net.state_dict(), "f8")


@BOTH
def test_ctrl_c_in_a_function_keeps_what_was_done(m):
    def loss(y, t):
        if trainer.steps == 5:
            raise KeyboardInterrupt
        return squared_error(y, t)

    trainer = m.Trainer(network(m), loss, m.SGD())
    x, t = batch(rows=40)
    history = trainer.fit(x, t, batch_size=10, epochs=9)
    assert history.interrupted
    assert len(history.loss) == trainer.steps == trainer.optimizer.step == 5


@BOTH
def test_a_function_may_use_its_network(m):
    def loss(y, t):
        net.predict(x)
        probe.forward(x)
        probe.backward(np.ones((40, 5)))
        return squared_error(y, t)

    x, t = batch(rows=40)
    net, probe = network(m, "norm"), network(m)
    trainer = m.Trainer(net, loss, m.SGD(0.1))
    other = m.Trainer(network(m, "norm"), m.MeanSquaredError(), m.SGD(0.1))
    trainer.step(x, t)
    other.step(x, t)
    assert_close(net.state_dict(), other.net.state_dict(), "f8")


@BOTH
def test_losses_that_are_none(m):
    for bad in (None, 3, "mse", m.MeanSquaredError, object()):
        with pytest.raises(
            TypeError, match="loss must be an object with forward and backward, or a function"
        ):
            m.Trainer(network(m), bad, m.SGD())
    trainer = m.Trainer(network(m), squared_error, m.SGD())
    x, t = batch()
    for call in (trainer.step, trainer.evaluate):
        with pytest.raises(ValueError, match="sample_weight must be None"):
            call(x, t, sample_weight=np.ones(ROWS))
    with pytest.raises(TypeError, match="cannot be saved"):
        trainer.save("never.npz")


@BOTH
@pytest.mark.parametrize("way", ["step", "fit"])
@pytest.mark.parametrize("rate", [0.0, 0, np.float32(0)], ids=repr)
def test_a_rate_that_the_function_sets_counts_at_once(m, way, rate):
    x, t = batch()

    def loss(y, t):
        trainer.optimizer.lr = rate
        return 1.0, y - t

    trainer = m.Trainer(network(m), loss, m.SGD(0.1))
    before = trainer.net.state_dict()
    trainer.step(x, t) if way == "step" else trainer.fit(x, t, batch_size=9, progress=False)
    assert_same_bits(trainer.net.state_dict(), before)


@BOTH
@pytest.mark.parametrize("way", ["step", "fit"])
def test_a_function_that_replaces_parameters_is_refused(m, way):
    x, t = batch()

    def loss(y, t):
        trainer.net.layers[0].params["W"] = trainer.net.layers[0].params["W"].copy()
        return 1.0, y - t

    trainer = m.Trainer(network(m), loss, m.SGD(0.1))
    before = trainer.net.state_dict()
    with pytest.raises(ValueError, match="some were replaced"):
        trainer.step(x, t) if way == "step" else trainer.fit(x, t, batch_size=9, progress=False)
    assert_same_bits(trainer.net.state_dict(), before)
    assert trainer.steps == trainer.optimizer.step == 0
