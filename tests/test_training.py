"""The native plan: the reference's trajectory, the same bits however shared, and Python where it must."""

import contextlib
import copy
import gc
import os
import pickle
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastnn
from fastnn import _core, optimizers, schedules
from fastnn import reference as ref
from fastnn.reference.layers import each_layer
from fastnn.reference.network import dropouts
from fastnn.trainer import Trainer
from native import on_each_fusing_isa, run_python
from networks import NETS, affine
from tolerances import assert_same_bits

KINDS = list(optimizers.CLASSES)
ROWS = 100
BATCH = 32  # does not divide the rows
LR = {
    "SGD": 0.1,
    "Momentum": 0.02,
    "Nesterov": 0.02,
    "AdaGrad": 0.05,
    "RMSProp": 0.002,
    "Adam": 0.005,
    "AdamW": 0.005,
    "Muon": 0.02,
}


@pytest.fixture
def natively(monkeypatch):
    """Fail where a step is done in Python."""

    def refuse(*_):
        raise AssertionError("a step was done in Python")

    monkeypatch.setattr(Trainer, "_step_by_layers", refuse)


@pytest.fixture
def by_layers(monkeypatch):
    """A list that grows by an entry for every step done in Python."""
    steps, original = [], Trainer._step_by_layers

    def counted(*arguments):
        steps.append(None)
        return original(*arguments)

    monkeypatch.setattr(Trainer, "_step_by_layers", counted)
    return steps


def data_set(net="plain", loss="SoftmaxCrossEntropy", rows=ROWS, dtype=np.float64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 12))
    scores = x @ rng.normal(size=(12, 5))
    t = {
        "SoftmaxCrossEntropy": scores.argmax(axis=1),
        "SigmoidCrossEntropy": (scores > 0) * 1.0,
        "MeanSquaredError": np.tanh(scores),
    }[loss]
    return (rng.integers(0, 30, (rows, 3)) if "embedding" in net else x.astype(dtype)), t


def build(
    m=fastnn,
    kind="Adam",
    net="plain",
    loss="SoftmaxCrossEntropy",
    dtype=np.float64,
    lr=None,
    clip_norm=None,
    **options,
):
    optimizer = getattr(m, kind)(LR[kind] if lr is None else lr, **options)
    return m.Trainer(
        m.Sequential(NETS[net](m, dtype)), getattr(m, loss)(), optimizer, clip_norm, seed=2**40 + 1
    )


def state(trainer):
    """Return all that a step may change, but for gradients and predictions."""
    optimizer = trainer.optimizer
    return {
        **trainer.net.state_dict(),
        **{
            f"{slot}.{name}": m.copy()
            for slot, memory in optimizer.state.items()
            for name, m in memory.items()
        },
        "counters": np.array([trainer.steps, trainer.epochs, optimizer.step]),
        "dropouts": np.array(
            [[d.seed, d.stream, d.step] for _, d in dropouts(trainer.net.layers)], np.uint64
        ),
    }


def idle(net):
    """Return the names of what a BatchNorm makes irrelevant: the bias before it, and the mean that it shifts.

    The gradient of such a bias is zero but for rounding: a sum of 32 numbers below 1/32, off by 1e-16 or so.
    Adam divides it by eps = 1e-8 at least: 200 steps of lr 0.005 add up to 1e-8, those of the others to less.
    """
    names = set()
    for name, layer in each_layer(net.layers):
        if isinstance(layer, ref.BatchNorm):
            block, place = name.split(".")[:-2], int(name.split(".")[-2])
            before = ".".join([*block, str(place - 1)])
            names |= {f"{before}.b", f"{before}.beta", f"{name}running_mean"}
    return names


def assert_same_trajectory(native, oracle, history, expected, idle_limit=1e-7):
    np.testing.assert_allclose(history.loss, expected.loss, rtol=1e-9)
    actual, noise = native.net.state_dict(), idle(oracle.net)
    for name, array in oracle.net.state_dict().items():
        limit = idle_limit if name in noise else 1e-9 * abs(array).max()
        np.testing.assert_allclose(actual[name], array, rtol=0, atol=limit, err_msg=name)
    assert (native.steps, native.epochs, native.optimizer.step) == (
        oracle.steps,
        oracle.epochs,
        oracle.optimizer.step,
    )


def fitted(trainers, x, t, **options):
    options = {"epochs": 50, "batch_size": BATCH} | options
    return [trainer.fit(x, t, **options) for trainer in trainers]


# The reference's trajectory


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("net", NETS)
def test_trajectory_of_every_network(natively, kind, net):
    x, t = data_set(net)
    native, oracle = build(fastnn, kind, net), build(ref, kind, net)
    history, expected = fitted((native, oracle), x, t)
    assert native.steps == 200
    assert_same_trajectory(native, oracle, history, expected)


SCHEDULE = {kind: schedules.WarmUp(schedules.CosineDecay(lr, 150, lr / 10), 10) for kind, lr in LR.items()}
WEIGHTS = np.random.default_rng(1).uniform(0, 2, ROWS) * (np.arange(ROWS) % 3 > 0)
SOFT = np.random.default_rng(2).dirichlet(np.ones(5), ROWS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("net", ["dropout", "norm", "embedding, norm"])
@pytest.mark.parametrize(
    "case",
    ["weight decay", "clip_norm", "schedule", "weights", "soft labels", "sigmoid", "squared", "in order"],
)
def test_trajectory_of_every_option(natively, kind, net, case):
    loss = {"sigmoid": "SigmoidCrossEntropy", "squared": "MeanSquaredError"}.get(case, "SoftmaxCrossEntropy")
    options = {
        "weight decay": {"weight_decay": 0.01},
        "clip_norm": {"clip_norm": 0.3},
        "schedule": {"lr": SCHEDULE[kind]},
    }.get(case, {})
    native, oracle = (build(m, kind, net, loss, **options) for m in (fastnn, ref))
    x, t = data_set(net, loss)
    fit = {"weights": {"sample_weight": WEIGHTS}, "in order": {"shuffle": False}}.get(case, {})
    history, expected = fitted((native, oracle), x, SOFT if case == "soft labels" else t, **fit)
    # Decay blows up what noise has made of an idle bias, to steps of lr at most; nothing else depends on it.
    idle_limit = 200 * LR["Adam"] if case == "weight decay" else 1e-7
    assert_same_trajectory(native, oracle, history, expected, idle_limit)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("net", ["plain", "norm", "activation after activation", "embedding, norm"])
def test_single_precision_is_as_near_as_numpys(natively, kind, net):
    """Both are off the trajectory of double precision by roundings that the same network blows up."""
    x, t = data_set(net)
    native, numpy, exact = (
        build(m, kind, net, dtype=d) for m, d in ((fastnn, "f4"), (ref, "f4"), (ref, "f8"))
    )
    for trainer in (numpy, exact):  # from the same numbers
        trainer.net.load_state_dict(native.net.state_dict())
    fitted((native, numpy, exact), x, t, epochs=5)

    def distance(trainer):
        here, there, noise = trainer.net.state_dict(), exact.net.state_dict(), idle(exact.net)
        return np.sqrt(sum(np.square(here[name] - there[name]).sum() for name in there if name not in noise))

    scale = np.sqrt(sum(np.square(a).sum() for a in exact.net.state_dict().values()))
    assert distance(native) <= 4 * distance(numpy) + 4 * np.finfo("f4").eps * scale
    assert distance(numpy) < 1e-3 * scale


# The same bits


@pytest.mark.parametrize("rows", [1, 3, 15, 64, 150, 513])
@pytest.mark.parametrize("net", ["norm", "embedding, norm", "activation after activation", "classic dropout"])
def test_same_bits_however_a_batch_is_shared(natively, team, dtype, rows, net):
    """By rows where each member has 16, else by columns; on every ISA; shuffled or not; in fit or not."""
    rows += rows == 1 and "norm" in net  # a single row cannot be normalized
    x, t = data_set(net, rows=2 * rows, dtype=dtype)
    order = fastnn.data.permutation(2 * rows, 2**40 + 1, 0)
    weights = np.arange(1, 2 * rows + 1) / 7

    def trained(x=x, t=t, w=weights, shuffle=True):
        trainer = build(net=net, dtype=dtype, clip_norm=0.5)
        trainer.fit(x, t, 1, rows, shuffle, sample_weight=w)
        return state(trainer) | {"y": trainer.net.predict(x[:rows])}

    def stepped():
        trainer = build(net=net, dtype=dtype, clip_norm=0.5)
        for part in (order[:rows], order[rows:]):
            trainer.step(x[part], t[part], weights[part])
        trainer.epochs = 1
        return state(trainer) | {"y": trainer.net.predict(x[:rows])}

    with fastnn.threads(1):
        alone = trained()
    for together in on_each_fusing_isa(trained):
        assert_same_bits(together, alone)
    assert_same_bits(stepped(), alone)
    gathered = trained(x[order], t[order], weights[order], shuffle=False)
    del gathered["y"], alone["y"]  # of the first rows, which are others now
    assert_same_bits(gathered, alone)


@pytest.mark.parametrize("rows", [5, 64, 257, 700])
@pytest.mark.parametrize("net", NETS)
def test_predictions_are_those_of_the_layers(team, net, rows):
    """Also beyond 256 rows, of which there is more than one batch."""
    x, _ = data_set(net, rows=rows)
    trainer = build(net=net)
    trainer.step(x[:5], np.arange(5))  # moves running statistics
    expected = trainer.net.forward(x, train=False)
    y = trainer.net.predict(x)
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    with fastnn.threads(1):
        assert_same_bits(trainer.net.predict(x), y)


# What a step leaves behind


def left_behind(trainer):
    """Return the objects' contents after a step, the gradients of an embedding among them, as arrays."""
    net = trainer.net
    grads = {f"grad {name}": np.asarray(g) for name, g in net.grads.items()}
    masks = {f"mask {i}": layer.mask for i, layer in enumerate(net.layers) if isinstance(layer, ref.Dropout)}
    return state(trainer) | grads | masks | {"y": trainer.loss.y}


@pytest.mark.parametrize("clip_norm", [None, 0.05])
@pytest.mark.parametrize("net", NETS)
def test_a_step_leaves_what_the_layers_leave(team, net, clip_norm):
    x, t = data_set(net)
    native, eager = build(net=net, clip_norm=clip_norm), build(net=net, clip_norm=clip_norm)
    for _ in range(2):
        loss, expected = native.step(x, t), eager._step_by_layers(x, t)
        assert loss == pytest.approx(expected, rel=1e-12)
    actual, expected = left_behind(native), left_behind(eager)
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        if name.startswith(("mask", "dropouts", "counters")):
            assert_same_bits(actual[name], array)
        else:
            np.testing.assert_allclose(actual[name], array, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("rows", [1, 3, 6, 40, 2100])
def test_gradients_of_a_large_network_are_not_kept(natively, team, rows):
    """8 MB of weights are the limit; what was there is dropped rather than left to grow old."""

    def made():
        net = fastnn.mlp([600, 2000, 700, 60, 5], batch_norm=rows > 1, dropout=0.2, seed=1)
        return fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), fastnn.SGD(0.01), seed=1)

    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(rows, 600)).astype("f4"), rng.integers(0, 5, rows)
    large, clipped = made(), made()
    large.net.layers[0].grads["W"] = np.zeros((600, 2000), "f4")
    assert large.step(x, t) == clipped.step(x, t)
    assert large.net.grads == {}
    assert_same_bits(state(large), state(clipped))
    clipped.clip_norm = 1e9
    large.step(x, t)
    clipped.step(x, t)
    assert clipped.net.grads.keys() == clipped.net.params.keys()
    for name, array in state(clipped).items():
        np.testing.assert_allclose(state(large)[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("fail", ["step", "fit"])
def test_a_loss_that_is_not_finite_leaves_all_as_it_was(natively, team, fail):
    x, t = data_set()
    trainer = build(net="norm")
    trainer.step(x, t)
    before = state(trainer)
    x[40] = np.nan
    with pytest.raises(FloatingPointError, match="step 1 is nan"):
        trainer.step(x, t) if fail == "step" else trainer.fit(x, t, batch_size=ROWS)
    assert_same_bits(state(trainer), before)
    trainer.nonfinite = "ignore"
    assert np.isnan(trainer.step(x, t))
    assert trainer.steps == 2


# Where Python does it


class Shifted:
    """A layer of the user's own."""

    def __init__(self, n):
        self.params, self.grads = {"s": np.zeros(n)}, {}

    def forward(self, x, train=True):
        return x + self.params["s"]

    def backward(self, dout):
        self.grads["s"] = dout.sum(axis=0)
        return dout


def replaced(layer, factor):
    """Replace an object's forward by one that doubles its output."""
    forward = layer.forward
    layer.forward = lambda *arguments, **options: factor * forward(*arguments, **options)


def with_own_layer(m):
    return trainer_of(m, [affine(m, 12, 6, "f8"), Shifted(6), m.Tanh(), affine(m, 6, 5, "f8")])


def with_subclass(m):
    class Twice(m.ReLU):
        def forward(self, x, train=True):
            return 2 * super().forward(x, train)

        def backward(self, dout):
            return 2 * super().backward(dout)

    return trainer_of(m, [affine(m, 12, 6, "f8"), Twice(), affine(m, 6, 5, "f8")])


def with_replaced_forward(m):
    trainer = build(m, "Momentum", "dropout")
    replaced(trainer.net.layers[1], 1.5)
    return trainer


def with_replaced_backward_params(m):
    trainer = build(m, "Momentum")
    first = trainer.net.layers[0]
    original = first.backward_params

    def halved(dout):
        original(dout / 2)

    first.backward_params = halved
    return trainer


def with_network_forward(m):
    trainer = build(m, "Momentum", "norm")
    trainer.net.predict(data_set()[0])  # as it was
    replaced(trainer.net, 0.5)
    return trainer


def with_replaced_rate(m):
    trainer = build(m, "Momentum")
    trainer.optimizer.rate = lambda: 0.003
    return trainer


def with_own_loss(m):
    class Scaled(m.SoftmaxCrossEntropy):
        def backward(self, dout=1.0):
            return super().backward(3.0)

    trainer = build(m, "Momentum")
    trainer.loss = Scaled()
    return trainer


def with_own_optimizer(m):
    class Halved(m.Momentum):
        def rate(self):
            return super().rate() / 2

    return trainer_of(m, NETS["norm"](m, "f8"), Halved(0.02))


def with_tied_weights(m):
    W = np.random.default_rng(3).normal(size=(12, 12)) / 4
    layers = [m.Affine(W, np.zeros(12)), m.Tanh(), m.Affine(W, np.zeros(12)), affine(m, 12, 5, "f8")]
    return trainer_of(m, layers)


def with_overlapping_views(m):
    base = np.random.default_rng(3).normal(size=200) / 4
    layers = [
        m.Affine(base[:144].reshape(12, 12), np.zeros(12)),
        m.Affine(base[120:180].reshape(12, 5), np.zeros(5)),
    ]
    return trainer_of(m, layers)


def with_fortran_order(m):
    layers = NETS["plain"](m, "f8")
    layers[0] = m.Affine(np.asfortranarray(layers[0].W), layers[0].b)
    return trainer_of(m, layers)


def with_gaps(m):
    layers = NETS["plain"](m, "f8")
    room = np.zeros((12, 48))
    room[:, ::2] = layers[0].W
    layers[0] = m.Affine(room[:, ::2], layers[0].b)
    return trainer_of(m, layers)


def with_fitting_layers_only(m):
    layers = [m.BatchNorm.create(12, dtype="f8"), m.Tanh()]
    trainer = trainer_of(m, layers)
    trainer.loss = m.MeanSquaredError()
    return trainer


def with_other_layers(m):
    trainer = build(m, "Momentum")
    trainer.net.predict(data_set()[0])
    trainer.net.layers = (*trainer.net.layers, Half())
    return trainer


class Half:
    def forward(self, x, train=True):
        return x / 2

    def backward(self, dout):
        return dout / 2


def trainer_of(m, layers, optimizer=None):
    return m.Trainer(m.Sequential(layers), m.SoftmaxCrossEntropy(), optimizer or m.Momentum(0.02), seed=5)


@pytest.mark.parametrize(
    "made",
    [
        with_own_layer,
        with_subclass,
        with_replaced_forward,
        with_replaced_backward_params,
        with_network_forward,
        with_replaced_rate,
        with_own_optimizer,
        with_tied_weights,
        with_overlapping_views,
        with_fortran_order,
        with_gaps,
        with_fitting_layers_only,
        with_other_layers,
    ],
)
def test_what_a_plan_cannot_take_is_done_by_the_layers(by_layers, made):
    native, oracle = made(fastnn), made(ref)
    x, t = data_set()
    if isinstance(native.loss, fastnn.MeanSquaredError):
        t = np.tanh(x[:, ::-1])
    history, expected = fitted((native, oracle), x, t, epochs=10)
    assert len(by_layers) == native.steps == 40
    assert_same_trajectory(native, oracle, history, expected)
    np.testing.assert_allclose(native.net.predict(x), oracle.net.predict(x), rtol=1e-8, atol=1e-8)


def test_the_replaced_parts_matter():
    """Else the test above would show nothing."""
    x, t = data_set()
    for made in (
        with_replaced_forward,
        with_replaced_backward_params,
        with_network_forward,
        with_replaced_rate,
    ):
        plain = build(
            ref,
            "Momentum",
            {"with_replaced_forward": "dropout", "with_network_forward": "norm"}.get(made.__name__, "plain"),
        )
        oracle = made(ref)
        history, plains = fitted((oracle, plain), x, t, epochs=2)
        assert abs(history.loss - plains.loss).max() > 1e-4


@pytest.mark.parametrize("part", ["step", "_clip", "_loss", "_check_loss", "_gather", "_inputs"])
def test_a_trainer_that_does_part_of_a_step_in_its_own_way(part):
    calls = []

    def made(m):
        class Own(m.Trainer):
            pass

        def counted(self, *arguments):
            calls.append(m)
            return getattr(m.Trainer, part)(self, *arguments)

        setattr(Own, part, counted)
        Own.__init_subclass__()
        trainer = build(m, "Momentum", "norm")
        return Own(trainer.net, trainer.loss, trainer.optimizer, 0.1, seed=1)

    native, oracle = made(fastnn), made(ref)
    x, t = data_set()
    history, expected = fitted((native, oracle), x, t, epochs=5)
    assert_same_trajectory(native, oracle, history, expected)
    assert calls.count(fastnn) == calls.count(ref) >= 20


def test_a_trainers_own_step_is_called_by_fit():
    trainer, calls = build(), []
    step = trainer.step
    trainer.step = lambda *arguments: calls.append(None) or step(*arguments)
    trainer.fit(*data_set(), epochs=2, batch_size=BATCH)
    assert len(calls) == trainer.steps == 8


class Meddler:
    """A callback that replaces a forward after the first slice and puts it back after the third."""

    def __init__(self):
        self.slices = 0

    def __call__(self, trainer, history):
        pass

    def on_slice(self, trainer, history):
        self.slices += 1
        if self.slices == 1:
            replaced(trainer.net.layers[1], 1.5)
        if self.slices == 3:
            del trainer.net.layers[1].forward
            trainer.net.layers[0].W = trainer.net.layers[0].W / 2


def test_callbacks_may_change_layers_between_slices(monkeypatch, by_layers):
    monkeypatch.setattr(fastnn.trainer, "SLICE_SECONDS", 0.0)  # a step each, as in the reference
    native, oracle = build(net="norm"), build(ref, net="norm")
    x, t = data_set()
    for trainer in (native, oracle):
        trainer.history = trainer.fit(x, t, epochs=3, batch_size=BATCH, callbacks=[Meddler()])
    assert_same_trajectory(native, oracle, native.history, oracle.history)
    assert len(by_layers) == 2  # those between


def test_data_that_are_a_parameter_themselves():
    """The gradient is that by the weights as they were before any of them moved."""
    trainers = []
    for m in (fastnn, ref):
        layer = m.Affine.create(200, 200, rng=1, dtype="f8")
        trainers.append(m.Trainer(m.Sequential([layer]), m.MeanSquaredError(), m.SGD(10.0)))
        for _ in range(3):
            trainers[-1].step(layer.W, np.zeros((200, 200)))
    native, oracle = trainers
    np.testing.assert_allclose(native.net.params["0.W"], oracle.net.params["0.W"], rtol=1e-9)


@pytest.mark.parametrize("rest", [0.0, 1e-310, 1.0])
@pytest.mark.parametrize("weight", [5e-324, 1e-310, 1e-308])
def test_subnormal_weights_are_weights(weight, rest):
    """Kernels flush subnormals, but a batch that weighs little weighs something."""
    x, t = data_set()
    weights = np.where(np.arange(ROWS) < 2 * BATCH, weight, rest)
    native, even = build(), build(ref)
    by_batch = [np.full(BATCH, 1.0)] * 2 + ([np.full(BATCH, 1.0), np.full(ROWS % BATCH, 1.0)] if rest else [])
    history = native.fit(x, t, 1, BATCH, shuffle=False, sample_weight=weights)
    losses = [even.step(x[i * BATCH :][:BATCH], t[i * BATCH :][:BATCH], w) for i, w in enumerate(by_batch)]
    np.testing.assert_allclose(history.loss, losses, rtol=1e-9)
    np.testing.assert_allclose(native.net.params["0.W"], even.net.params["0.W"], rtol=1e-9)
    assert native.step(x, t, np.full(ROWS, weight)) == pytest.approx(even.step(x, t), rel=1e-9)


@pytest.mark.parametrize("batch_size", [ROWS + 1, 2**40, 2**63, 2**70])
def test_a_batch_may_be_said_to_be_larger_than_the_data(natively, batch_size):
    trainer = build()
    trainer.fit(*data_set(), epochs=2, batch_size=batch_size)
    assert trainer.steps == 2


# What goes wrong


def test_a_schedule_that_fails_lets_the_steps_before_it_be_done():
    def lr(step):
        return 0.01 if step < 6 else float("nan")

    native, oracle = build(lr=lr), build(ref, lr=lr)
    for trainer in (native, oracle):
        with pytest.raises(ValueError, match="lr must be a number"):
            trainer.fit(*data_set(), batch_size=BATCH)
        assert trainer.steps == 6
    np.testing.assert_allclose(native.net.params["0.W"], oracle.net.params["0.W"], rtol=1e-9)


def test_a_schedule_may_use_the_network():
    """It is called in the middle of a step."""
    x, t = data_set()
    trainer, plain = build(), build()
    loss = fastnn.SoftmaxCrossEntropy()

    def lr(step):
        loss.forward(trainer.net.predict(x), t)
        return LR["Adam"]

    trainer.optimizer.lr = lr
    fitted((trainer, plain), x, t, epochs=2)
    assert trainer.step(x, t) == plain.step(x, t)
    assert_same_bits(state(trainer), state(plain))


def broken(**attributes):
    return lambda trainer: [setattr(trainer.optimizer, name, value) for name, value in attributes.items()]


def wrong_state(trainer):
    trainer.optimizer.state["m"]["0.W"] = np.zeros((3, 3))


def state_of_another_dtype(trainer):
    trainer.optimizer.state["v"]["0.b"] = np.zeros(24, np.float32)


def half_precision(trainer):
    trainer.net.layers[0].params["W"] = trainer.net.layers[0].W.astype(np.float16)


def read_only(trainer):
    trainer.net.layers[0].W.flags.writeable = False


def no_parameters(trainer):
    del trainer.net.layers[0].params["W"]


BROKEN = {
    "weight decay": (broken(weight_decay="much"), TypeError),
    "beta": (broken(beta1="0.9"), TypeError),
    "eps": (broken(eps=None), TypeError),
    "infinite lr": (broken(lr=float("inf")), ValueError),
    "negative lr": (broken(lr=-0.1), ValueError),
    "lr": (broken(lr="fast"), TypeError),
    "count": (broken(step="one"), TypeError),
    "state": (broken(state="none"), TypeError),
    "wrong state": (wrong_state, ValueError),
    "state of another dtype": (state_of_another_dtype, (TypeError, ValueError)),
    "no state": (lambda trainer: delattr(trainer.optimizer, "state"), AttributeError),
    "no gradients": (lambda trainer: delattr(trainer.net.layers[0], "grads"), AttributeError),
    "half precision": (half_precision, TypeError),
    "read-only": (read_only, ValueError),
    "no parameters": (no_parameters, KeyError),
}


@pytest.mark.parametrize("call", ["step", "fit"])
@pytest.mark.parametrize("what", BROKEN)
def test_broken_objects_are_refused_and_nothing_changes(what, call):
    x, t = data_set()
    trainer = build(net="plain")
    trainer.step(x, t)
    params, moments = trainer.net.params, trainer.optimizer.state
    before = {name: p.copy() for name, p in params.items()}, copy.deepcopy(moments)
    spoil, error = BROKEN[what]
    spoil(trainer)
    with pytest.raises(error):
        trainer.step(x, t) if call == "step" else trainer.fit(x, t)
    assert trainer.steps == 1
    assert_same_bits(params, before[0])
    for slot in ("m", "v"):
        for name in before[1][slot].keys() - {"0.W" if what == "wrong state" else "0.b"}:
            assert_same_bits(moments[slot][name], before[1][slot][name])


@pytest.mark.parametrize("net", ["embedding", "large"])
def test_layers_without_gradients_are_refused(net):
    """Where nothing is written to them before the step is done."""
    x, t = data_set(net)
    if net == "large":
        layers = fastnn.mlp([12, 1500, 1500, 5], seed=1, dtype=np.float64).layers
        trainer = trainer_of(fastnn, layers, fastnn.Adam())
    else:
        trainer = build(net=net)
    trainer.step(x, t)
    before = state(trainer)
    for grads in ([], None):
        trainer.net.layers[0].grads = grads
        with pytest.raises((AttributeError, TypeError)):
            trainer.step(x, t)
        assert_same_bits(state(trainer), before)
    del trainer.net.layers[0].grads
    with pytest.raises(AttributeError):
        trainer.step(x, t)
    assert_same_bits(state(trainer), before)


@pytest.mark.parametrize("index", [-1, 30, 2**62, -(2**63)])
def test_indices_out_of_the_table_are_refused(index):
    x, t = data_set("embedding")
    trainer = build(net="embedding, norm")
    trainer.step(x, t)
    before = state(trainer)
    x[70, 2] = index
    for call in (trainer.step, trainer.net.predict, trainer.evaluate):
        arguments = (x,) if call == trainer.net.predict else (x, t)
        with pytest.raises(ValueError, match="x must hold"):
            call(*arguments)
        assert_same_bits(state(trainer), before)
    with pytest.raises(ValueError, match="x must hold"):
        trainer.fit(x, t, batch_size=BATCH, shuffle=False)
    assert trainer.steps == 3  # its batches before that


@pytest.mark.parametrize("before", ["Affine", "Embedding", "ReLU"])
def test_an_embedding_in_the_middle_is_refused_its_input(before):
    """It takes indices, which no layer returns."""
    first = {
        "Affine": fastnn.Affine.create(4, 6, rng=0),
        "Embedding": fastnn.Embedding.create(9, 3, rng=0),
        "ReLU": fastnn.ReLU(),
    }[before]
    net = fastnn.Sequential([first, fastnn.Embedding.create(9, 3, rng=0), fastnn.Affine.create(18, 2, rng=0)])
    trainer = fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), fastnn.SGD())
    x = np.ones((5, 4), int if before == "Embedding" else float)
    for call in (lambda: net.predict(x), lambda: trainer.step(x, np.zeros(5, int))):
        with pytest.raises(TypeError, match="must hold integer"):
            call()


FUZZ = """
    import threading, numpy as np, fastnn
    from fastnn import trainer as native
    native.SLICE_SECONDS = 0.0005
    rng = np.random.default_rng({seed})
    done = threading.Event()
    embedded = {seed} % 2
    x = rng.integers(0, 30, (400, 3)) if embedded else rng.normal(size=(400, 12))
    t = rng.integers(0, 5, 400) if {seed} % 3 else rng.dirichlet(np.ones(5), 400)
    w = rng.uniform(0, 1, 400)
    first = [fastnn.Embedding.create(30, 4, rng=0, dtype="f8")] if embedded else []
    net = fastnn.Sequential([*first, fastnn.Affine.create(12, 40, rng=0, dtype="f8"),
        fastnn.BatchNorm.create(40, dtype="f8"), fastnn.Tanh(), fastnn.Dropout(0.2),
        fastnn.Affine.create(40, 5, rng=0, dtype="f8")])
    optimizer = fastnn.Adam()
    trainer = fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), optimizer, nonfinite="ignore")

    def meddle():
        mine = np.random.default_rng({seed} + 1)
        while not done.is_set():
            i = mine.integers(len(x))
            what = mine.integers(9)
            try:
                if what == 0: x[i] = mine.integers(-2**62, 2**62) if embedded else np.nan
                if what == 1: x[i] = 1
                if what == 2: t[i] = mine.integers(-2**62, 2**62)
                if what == 3: t[i] = 0
                if what == 4: w[i] = mine.choice([-1, 0, np.nan, 1])
                if what == 5: net.layers[-1].params["W"] = mine.normal(size=(40, mine.choice([5, 5, 5, 4])))
                if what == 6: x.shape = (200, -1)
                if what == 7: x.shape = (400, -1)
                if what == 8: optimizer.state["m"].pop("0.W", None); net.layers[-1].grads.clear()
            except (ValueError, KeyError): pass

    thread = threading.Thread(target=meddle)
    thread.start()
    ended = 0
    for _ in range({rounds}):
        try:
            trainer.fit(x, t, epochs=20, batch_size=int(rng.integers(1, 500)), sample_weight=w)
        except (ValueError, IndexError, TypeError, KeyError, RuntimeError): ended += 1
        try:
            net.predict(x)
            trainer.step(x, t)
        except (ValueError, IndexError, TypeError, KeyError, RuntimeError): ended += 1
    done.set()
    thread.join()
    print("alive")
"""


@pytest.mark.parametrize("seed", range(6))
def test_what_other_threads_write_cannot_crash(seed):
    assert run_python(FUZZ.format(seed=seed, rounds=60), timeout=120).strip() == "alive"


# Threads, forks and Ctrl-C


def busy_trainer():
    net = fastnn.mlp([12, 64, 64, 5], batch_norm=True, dropout=0.2, seed=1)
    return fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), fastnn.Adam(1e-4), seed=1)


class Stop:
    """A callback that ends the training when it is told to."""

    def __init__(self):
        self.started, self.now = threading.Event(), threading.Event()

    def __call__(self, trainer, history):
        pass

    def on_slice(self, trainer, history):
        self.started.set()
        return self.now.is_set()


@contextlib.contextmanager
def fitting(trainer, rows=50_000):
    """Train in another thread meanwhile."""
    x, t = data_set(rows=rows, dtype=np.float32)
    stop = Stop()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(trainer.fit, x, t, 10**6, BATCH, callbacks=[stop])
        assert stop.started.wait(60)
        try:
            yield
        finally:
            stop.now.set()
        running.result(60)


@pytest.mark.parametrize("call", ["step", "predict", "fit", "evaluate", "state_dict"])
def test_a_trainer_in_use_is_refused_to_another_thread(natively, call):
    x, t = data_set()
    trainer = busy_trainer()
    calls = {
        "step": lambda: trainer.step(x, t),
        "predict": lambda: trainer.net.predict(x),
        "fit": lambda: trainer.fit(x, t, epochs=1),
        "evaluate": lambda: trainer.evaluate(x, t),
        "state_dict": lambda: trainer.net.state_dict(),
    }
    with fitting(trainer), pytest.raises(RuntimeError, match="in use by another thread"):
        calls[call]()
    calls[call]()


def test_the_gil_is_released_in_fit():
    with fitting(busy_trainer()):
        end, longest, last = time.perf_counter() + 0.5, 0.0, time.perf_counter()
        while last < end:
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
    assert longest < 0.045  # a slice is 50 ms


def test_the_gil_is_released_in_the_first_step():
    """How long it takes must be known before it is begun."""
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(4000, 400)).astype("f4"), rng.integers(0, 5, 4000)
    trainer = fastnn.Trainer(
        fastnn.mlp([400, 800, 800, 5], seed=1), fastnn.SoftmaxCrossEntropy(), fastnn.SGD()
    )
    seen, done = [], threading.Event()

    def watch():
        while not done.is_set():
            seen.append(time.perf_counter())
            time.sleep(0.0005)

    thread = threading.Thread(target=watch)
    thread.start()
    begin = time.perf_counter()
    trainer.step(x, t)
    end = time.perf_counter()
    done.set()
    thread.join()
    assert sum(begin + 0.002 < moment < end - 0.002 for moment in seen) >= 3


def test_trainers_side_by_side_give_the_bits_that_they_give_alone(natively, team):
    def trained(seed):
        trainer = build(net="norm" if seed % 2 else "embedding, norm")
        x, t = data_set("" if seed % 2 else "embedding")
        trainer.fit(x, t, 30, BATCH)
        return state(trainer)

    alone = [trained(seed) for seed in range(2)]
    with ThreadPoolExecutor(6) as pool:
        for seed, result in enumerate(pool.map(trained, range(12))):
            assert_same_bits(result, alone[seed % 2])


def test_a_child_forked_in_the_middle_of_a_fit_goes_on():
    code = """
        import os, threading, time, numpy as np, fastnn
        rng = np.random.default_rng(0)
        x, t = rng.normal(size=(20000, 30)).astype("f4"), rng.integers(0, 5, 20000)
        trainer = fastnn.Trainer(fastnn.mlp([30, 64, 5], seed=0), fastnn.SoftmaxCrossEntropy(), fastnn.Adam())
        thread = threading.Thread(target=trainer.fit, args=(x, t, 40, 32))
        thread.start()
        for _ in range(5):
            time.sleep(0.02)
            pid = os.fork()
            if pid == 0:
                assert np.isfinite(trainer.step(x[:100], t[:100]))
                trainer.net.predict(x)
                net = fastnn.mlp([30, 8, 5], seed=0)
                other = fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), fastnn.Adam())
                other.fit(x[:200], t[:200], 1)
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        thread.join()
        print(trainer.epochs)
    """
    assert run_python(code, timeout=120, PYTHONWARNINGS="ignore").strip() == "40"


def test_ctrl_c_ends_a_fit_at_once_and_no_loss_is_lost(natively):
    import _thread

    trainer, steps = busy_trainer(), busy_trainer()
    x, t = data_set(rows=50_000, dtype=np.float32)
    said = []

    def interrupt():
        said.append(time.perf_counter())
        _thread.interrupt_main()

    timer = threading.Timer(0.3, interrupt)
    timer.start()
    history = trainer.fit(x, t, epochs=10**6, batch_size=BATCH)
    assert time.perf_counter() - said[0] < 0.3
    timer.join()
    assert history.interrupted
    assert len(history.loss) == trainer.steps == trainer.optimizer.step > 0
    again = steps.fit(x, t, epochs=trainer.epochs + 1, batch_size=BATCH)
    assert_same_bits(history.loss, again.loss[: trainer.steps])


# Memory


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="asks Linux")
def test_a_shape_seen_before_allocates_nothing(natively):
    """Two sizes of batches by turns, partial batches, and predictions, from one network."""
    trainer = build(net="embedding, norm")
    x, t = data_set("embedding", rows=2000)

    def work(times):
        for i in range(times):
            trainer.step(x[: 700 + 600 * (i % 2)], t[: 700 + 600 * (i % 2)])
            if i % 50 == 0:
                trainer.fit(x, t, epochs=1, batch_size=300)
                trainer.net.predict(x)

    work(200)
    before = resident()
    work(1000)
    assert resident() - before < 4e6  # a step's arrays take 2 MB: 1000 of them would take 2 GB


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda trainer: pickle.loads(pickle.dumps(trainer))])
def test_a_copy_of_a_trainer_goes_on_to_the_same_bits(natively, copied):
    x, t = data_set()
    trainer = build(net="activation after activation", lr=schedules.CosineDecay(0.01, 50))
    trainer.fit(x, t, 2, BATCH)
    other = copied(trainer)
    before = state(trainer)
    history = other.fit(x, t, 2, BATCH)
    assert_same_bits(state(trainer), before)
    assert_same_bits(trainer.fit(x, t, 2, BATCH).loss, history.loss)
    assert_same_bits(state(other), state(trainer))
    net = copied(trainer.net)
    assert_same_bits(net.predict(x), trainer.net.predict(x))


def watched(trainer):
    """Return weak references to all that a trainer and its compiled network might keep alive."""
    arrays = [*trainer.net.params.values(), *trainer.optimizer.state["m"].values()]
    return [weakref.ref(a) for a in (trainer, trainer.net, trainer.loss, trainer.optimizer, *arrays)]


def test_a_trainer_that_is_dropped_is_gone(natively):
    """At once, without a round of the garbage collector."""
    trainer = build(net="norm")
    trainer.fit(*data_set(), 1, BATCH)
    trainer.net.predict(data_set()[0])
    kept = watched(trainer)
    gc.disable()
    try:
        del trainer
        assert [r for r in kept if r() is not None] == []
    finally:
        gc.enable()


def test_a_network_does_not_keep_what_trained_it(natively):
    """Moments are twice the size of the network, and its data set is anybody's."""
    trainer = build(net="norm")
    net = trainer.net
    x, t = data_set()
    trainer.step(x, t)
    kept = [weakref.ref(a) for a in (trainer.loss, trainer.optimizer, trainer.optimizer.state["m"]["0.W"])]
    kept.append(weakref.ref(x))
    with contextlib.suppress(ValueError):
        net.predict(x[:, :-1])  # a call that fails keeps nothing either
    del trainer, x
    assert [r for r in kept if r() is not None] == []


def test_a_cycle_through_a_layer_is_collected(natively):
    trainer = build(net="norm")
    trainer.step(*data_set())
    trainer.net.layers[0].network = trainer.net
    trainer.optimizer.lr = lambda step, trainer=trainer: 0.01
    trainer.step(*data_set())
    kept = watched(trainer)
    del trainer
    gc.collect()
    assert [r for r in kept if r() is not None] == []


# Data however they lie


def mapped(a, tmp_path):
    file = np.memmap(tmp_path / "x", a.dtype, "w+", shape=a.shape)
    file[...] = a
    return file


def wider(a):
    room = np.full((len(a), a.shape[1] + 3), 99, a.dtype)
    room[:, :-3] = a
    return room[:, :-3]


def spread(a):
    room = np.full((2 * len(a), a.shape[1]), 99, a.dtype)
    room[::2] = a
    return room[::2]


LAYOUTS = {
    "as it is": lambda a, _: a,
    "memory map": mapped,
    "first columns": lambda a, _: wider(a),
    "every other row": lambda a, _: spread(a),
    "backwards": lambda a, _: np.ascontiguousarray(a[::-1])[::-1],
    "mirrored": lambda a, _: np.ascontiguousarray(a[:, ::-1])[:, ::-1],
    "Fortran": lambda a, _: np.asfortranarray(a),
    "deep": lambda a, _: a.reshape(len(a), 3, 4),
    "read-only": lambda a, _: (a.setflags(write=False), a)[1],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("given", ["u1", "f4", "f8", "i8", "i4", "f2"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_data_however_they_lie(team, dtype, layout, given, shuffle, tmp_path):
    """The same bits as from rows of the network's own dtype that lie one after the other."""
    x = np.random.default_rng(0).integers(0, 256, (ROWS, 12))
    _, t = data_set()
    scale = 1 / 255
    dressed = LAYOUTS[layout](x.astype(given), tmp_path)
    plain, other = build(net="norm", dtype=dtype), build(net="norm", dtype=dtype)
    plain.fit(x.astype(dtype) * dtype.type(scale), t, 2, BATCH, shuffle)
    other.fit(dressed, t.astype(np.int32), 2, BATCH, shuffle, scale=scale)
    assert_same_bits(state(other), state(plain))
    assert_same_bits(
        other.net.predict(dressed, scale=scale), plain.net.predict(x.astype(dtype) * dtype.type(scale))
    )


@pytest.fixture
def in_place(natively, monkeypatch):
    """Fail where a step is done in Python, or rows are gathered or predicted there."""

    def refuse(*_):
        raise AssertionError("rows went through Python")

    monkeypatch.setattr(ref.Trainer, "_run_epoch", refuse)
    monkeypatch.setattr(fastnn.Sequential, "_predict", refuse)


WHOLE_ROWS = ["as it is", "memory map", "first columns", "every other row", "backwards", "read-only"]


@pytest.mark.parametrize("layout", WHOLE_ROWS)
@pytest.mark.parametrize(
    ("net", "given"),
    [("norm", given) for given in ("u1", "i4", "i8", "f4", "f8")]
    + [("embedding, norm", given) for given in ("u1", "i4", "i8")],
)
def test_whole_rows_are_read_where_they_lie(in_place, net, given, layout, tmp_path):
    """Whatever lies between them."""
    shape = (600, 3 if "embedding" in net else 12)
    x, t = np.random.default_rng(0).integers(0, 30, shape), np.arange(600) % 5
    dressed = LAYOUTS[layout](x.astype(given), tmp_path)
    plain, other = build(net=net), build(net=net)
    losses = [plain.fit(x, t, 2, BATCH).loss, other.fit(dressed, t, 2, BATCH).loss]
    assert_same_bits(*losses)
    assert_same_bits(state(other), state(plain))
    assert plain.step(x, t) == other.step(dressed, t)
    assert_same_bits(other.net.predict(dressed), plain.net.predict(x))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("given", ["u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i4"])
def test_indices_however_they_lie(natively, monkeypatch, layout, given, tmp_path):
    """A batch of any integers, with gaps or not, is one native step."""
    shape = (ROWS, 12 if layout == "deep" else 3)
    x, t = np.random.default_rng(0).integers(0, 30, shape), np.arange(ROWS) % 5

    def trainer_for(m):
        layers = [m.Embedding.create(30, 4, rng=3), affine(m, 4 * shape[1], 5, np.float32)]
        return trainer_of(m, layers, m.Adam())

    dressed = LAYOUTS[layout](x.astype(given), tmp_path)
    plain, other, oracle = trainer_for(fastnn), trainer_for(fastnn), trainer_for(ref)
    assert plain.step(x, t) == other.step(dressed, t) == pytest.approx(oracle.step(dressed, t), rel=1e-5)
    assert_same_bits(plain.fit(x, t, 2, BATCH).loss, other.fit(dressed, t, 2, BATCH).loss)
    assert_same_bits(state(other), state(plain))
    expected = other.net._predict(dressed)
    monkeypatch.setattr(fastnn.Sequential, "_predict", None)  # which is not called
    y = other.net.predict(dressed)
    assert_same_bits(y, plain.net.predict(x))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("given", ["i4", "u4", "i8"])
@pytest.mark.parametrize("layout", ["as it is", "first columns", "Fortran"])
@pytest.mark.parametrize("index", [-1, 30, 2**31 - 1])
def test_indices_of_any_type_out_of_the_table_are_refused(given, layout, index, tmp_path):
    x, t = data_set("embedding")
    trainer = build(net="embedding, norm")
    trainer.step(x, t)
    before = state(trainer)
    x[70, 2] = index
    dressed = LAYOUTS[layout](x.astype(given), tmp_path)
    for call in (lambda: trainer.step(dressed, t), lambda: trainer.net.predict(dressed)):
        with pytest.raises(ValueError, match="x must hold"):
            call()
        assert_same_bits(state(trainer), before)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "deep"])
@pytest.mark.parametrize("given", ["u1", "f4", "f8", "i4"])
@pytest.mark.parametrize("loss", ["SoftmaxCrossEntropy", "SigmoidCrossEntropy", "MeanSquaredError"])
def test_targets_however_they_lie(layout, given, loss, tmp_path):
    x, _ = data_set()
    t = np.eye(5)[np.arange(ROWS) % 5]
    plain, other = (build(ref, "Momentum", loss=loss), build(fastnn, "Momentum", loss=loss))
    history = other.fit(x, LAYOUTS[layout](t.astype(given), tmp_path), 5, BATCH)
    assert_same_trajectory(other, plain, history, plain.fit(x, t, 5, BATCH))


@pytest.mark.parametrize("bad", [2, -1, float("nan")])
@pytest.mark.parametrize("loss", ["SoftmaxCrossEntropy", "SigmoidCrossEntropy"])
def test_a_bad_target_far_down_is_refused(monkeypatch, loss, bad):
    """Targets are checked some thousand rows at a time: the message names the row of the data set."""
    x, t = data_set(rows=9000)
    dense = np.eye(5, dtype=np.float32)[t]
    dense[8999, 4] = bad
    trainer = build(loss=loss)
    where = "row 8999" if loss == "SoftmaxCrossEntropy" else f"position {8999 * 5 + 4}"
    with pytest.raises(ValueError, match=where):
        trainer.fit(x, dense, 1, BATCH)
    assert trainer.steps == 0


def test_targets_of_another_dtype_are_not_copied_whole(natively):
    import tracemalloc

    x = np.broadcast_to(np.arange(100, dtype=np.uint8), (100_000, 100))
    net = fastnn.mlp([100, 8, 100], seed=0)
    trainer = fastnn.Trainer(net, fastnn.MeanSquaredError(), fastnn.SGD(1e-6))
    tracemalloc.start()
    trainer.fit(x, x, 1, 2000, shuffle=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6  # of 40 MB in float32


def test_every_isa_does_it_natively(natively, isa):
    trainer, oracle = build(net="norm"), build(ref, net="norm")
    history, expected = fitted((trainer, oracle), *data_set(), epochs=10)
    assert_same_trajectory(trainer, oracle, history, expected)
    assert _core.isa() == isa


def test_layers_whose_arrays_are_replaced_in_the_middle_of_a_step(natively):
    """A schedule, called in the middle, drops what the step has found: it is held until the step is done."""
    x, t = data_set("embedding, norm")
    trainer = build(net="embedding, norm")

    def lr(step):
        for layer in trainer.net.layers:
            layer.grads = {}
            layer.params = {name: np.full_like(p, 0.1) for name, p in layer.params.items()}
        return [np.ones(n) for n in range(1, 2000)] and 0.01

    trainer.optimizer.lr = lr
    for _ in range(20):
        assert np.isfinite(trainer.step(x, t))
