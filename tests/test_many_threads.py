"""Python threads at once, with the GIL and without: objects distinct, shared, read, dropped and changed."""

import gc
import sys
import sysconfig
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastnn
from native import run_python
from tolerances import assert_same_bits

THREADS = 4
RNG = np.random.default_rng(0)
X, T = RNG.normal(size=(60, 12)).astype(np.float32), RNG.integers(0, 5, 60)


@pytest.fixture(autouse=True)
def switching():
    """With a GIL, threads are switched as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(*works):
    """Return what functions return that threads begin at the same moment."""
    start = threading.Barrier(len(works))

    def run(work):
        start.wait(60)
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [result.result(300) for result in [pool.submit(run, work) for work in works]]


def refused(call):
    """Return whether a call was refused since another thread has the object, which is the one way to fail."""
    try:
        call()
    except RuntimeError as error:
        if "in use by another thread" not in str(error):
            raise
        return True
    return False


def trainer_of(seed=0, **options):
    net = fastnn.mlp([12, 16, 5], seed=seed, **options)
    return fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), fastnn.Adam(0.01), seed=seed)


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python needs its GIL")
def test_a_python_without_a_gil_stays_without():
    code = "import sys, fastnn\nfastnn.matmul([[1.0]], [[2.0]])\nprint(sys._is_gil_enabled())"
    assert run_python(code, PYTHONWARNINGS="error").strip() == "False"


# Distinct objects


def absolute(y, t):
    return float(np.abs(y).mean()), np.sign(y) / y.size


def trained(seed):
    """Return what a trainer of everything has come to."""
    trainer = trainer_of(seed, batch_norm=True, dropout=0.3)
    losses = [trainer.step(X, T) for _ in range(5)]
    history = trainer.fit(X, T, epochs=3, batch_size=16, validation=(X, T))
    return trainer.net.state_dict() | {"step": np.array(losses), "fit": history.loss, "y": trainer.predict(X)}


def trained_by_a_function(seed):
    trainer = fastnn.Trainer(fastnn.mlp([12, 8, 3], seed=seed), absolute, fastnn.SGD(0.1))
    trainer.fit(X, np.zeros((60, 3), np.float32), epochs=3, batch_size=20)
    return trainer.net.state_dict()


def trained_words(seed):
    rng = np.random.default_rng(seed)
    words = np.random.default_rng(1).integers(0, 40, (60, 3))
    net = fastnn.Sequential(
        [
            fastnn.Embedding.create(40, 4, rng=rng),
            fastnn.LayerNorm.create(4),
            fastnn.Affine.create(12, 5, rng=rng),
        ]
    )
    trainer = fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(label_smoothing=0.1), fastnn.RMSProp())
    trainer.fit(words, T, epochs=3, batch_size=20)
    return net.state_dict()


def trained_layer_by_layer(seed):
    rng = np.random.default_rng(seed)
    layers = [
        fastnn.Affine.create(12, 8, rng=rng),
        fastnn.BatchNorm.create(8),
        fastnn.GELU(),
        fastnn.Dropout(seed=seed),
    ]
    loss, optimizer = fastnn.MeanSquaredError(), fastnn.Muon(0.01)
    for _ in range(5):
        y = X
        for layer in layers:
            y = layer.forward(y)
        loss.forward(y, np.zeros_like(y))
        dout = loss.backward()
        for layer in reversed(layers):
            dout = layer.backward(dout)
        optimizer.update(layers[0].params, layers[0].grads, clip_norm=1.0)
    return layers[0].params | {"b": layers[0].params["b"].copy()}


@pytest.mark.parametrize("train", [trained, trained_by_a_function, trained_words, trained_layer_by_layer])
def test_distinct_objects_come_to_the_bits_that_they_come_to_alone(train):
    expected = [train(seed) for seed in range(THREADS)]
    for _ in range(3):
        together = at_once(*(lambda seed=seed: train(seed) for seed in range(THREADS)))
        for result, alone in zip(together, expected, strict=True):
            assert_same_bits(result, alone)


# One object


def test_a_trainer_of_all_threads_makes_whole_steps_or_none():
    """What it comes to is what as many steps come to alone, and who reads sees what one of them has left."""
    alone, shared = trainer_of(), trainer_of()
    expected = {0: alone.predict(X)}
    seen = []

    def train():
        steps = 0
        while steps < 10:  # somebody has it, and comes to an end
            steps += not refused(lambda: shared.step(X, T))
        return steps

    def read():
        for _ in range(50):
            refused(lambda: seen.append(shared.predict(X)))
        return 0

    steps = sum(at_once(*[train] * THREADS, *[read] * 2))
    for step in range(1, steps + 1):
        alone.step(X, T)
        expected[step] = alone.predict(X)
    assert steps == shared.steps == shared.optimizer.step
    assert_same_bits(shared.net.state_dict(), alone.net.state_dict())
    possible = {y.tobytes() for y in expected.values()}
    assert all(y.tobytes() in possible for y in seen)


def test_an_optimizer_of_all_threads_updates_as_often_as_it_counts():
    """Each is new, so that its lock and its state are made by whoever comes first."""
    for _ in range(50):
        optimizer, params = fastnn.SGD(1.0), {"w": np.zeros(1000, np.float32)}
        grads = {"w": np.ones(1000, np.float32)}

        def update(optimizer=optimizer, params=params, grads=grads):
            return sum(not refused(lambda: optimizer.update(params, grads)) for _ in range(5))

        updates = sum(at_once(*[update] * THREADS))
        assert updates == optimizer.step
        np.testing.assert_array_equal(params["w"], -float(updates))


def test_losses_and_layers_of_all_threads_answer_or_refuse():
    layer, loss = fastnn.Affine.create(12, 5, rng=0), fastnn.SoftmaxCrossEntropy()
    y = layer.forward(X)
    value = loss.forward(y, T)
    dx = layer.backward(loss.backward())
    dout, grads = loss.backward(), {name: g.copy() for name, g in layer.grads.items()}

    def work():
        for _ in range(50):
            assert_same_bits(layer.forward(X), y)
            assert loss.forward(y, T) == value
            refused(lambda: assert_same_bits(layer.backward(dout), dx))

    at_once(*[work] * THREADS)
    assert_same_bits(layer.grads, grads)


# Reading


def test_a_new_network_is_read_by_all_threads():
    """What runs it is made by whoever comes first."""
    expected = trainer_of().predict(X)
    for _ in range(30):
        trainer = trainer_of()

        def read(trainer=trainer):
            for n in (60, 1, 17):
                assert_same_bits(trainer.predict(X[:n]), expected[:n])
                assert_same_bits(trainer.net.predict(X[:n], batch_size=7), expected[:n])
            return trainer.evaluate(X, T)

        assert len({str(figures) for figures in at_once(*[read] * THREADS)}) == 1


# Making and dropping


def test_networks_on_the_same_layers_are_made_trained_and_dropped():
    """Trainings of theirs take turns: none sees the layers in the middle of another."""
    body = fastnn.Affine.create(12, 8, rng=0)
    steps = [0] * THREADS

    def work(i):
        rng = np.random.default_rng(i)
        for k in range(40):
            made = []

            def make(made=made, rng=rng):
                net = fastnn.Sequential([body, fastnn.ReLU(), fastnn.Affine.create(8, 5, rng=rng)])
                made.append(fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), fastnn.SGD(0.01)))
                made[0].predict(X)

            if not refused(make) or made:
                steps[i] += not refused(lambda made=made: made[0].step(X, T))
            if k % 10 == 0:
                gc.collect()

    at_once(*(lambda i=i: work(i) for i in range(THREADS)))
    assert sum(steps) > 0
    last = fastnn.Sequential([body, fastnn.Affine.create(8, 5, rng=0)])
    assert np.isfinite(last.forward(X)).all()  # nobody has it


def test_networks_come_and_go_in_all_threads():
    expected = [trainer_of(seed).predict(X) for seed in range(THREADS)]

    def work(seed):
        for _ in range(30):
            twin = trainer_of(seed).net.copy()
            assert_same_bits(twin.predict(X), expected[seed])

    at_once(*(lambda seed=seed: work(seed) for seed in range(THREADS)))


# Changing


def test_arrays_may_be_exchanged_while_others_read():
    """Each array that is in a dict at some moment is whole, and lives as long as a call works on it."""
    net = fastnn.mlp([12, 16, 5], seed=0)
    layer, y, done = net.layers[0], net.predict(X), threading.Event()
    W = layer.params["W"].copy()

    def exchange():
        while not done.is_set():
            layer.params["W"] = W.copy()
            layer.grads["W"] = W.copy()
            layer.grads.pop("W", None)

    def read():
        for _ in range(200):
            assert_same_bits(net.predict(X), y)

    def read_all():
        try:
            at_once(*[read] * (THREADS - 1))
        finally:
            done.set()

    at_once(exchange, read_all)


def test_a_class_may_change_while_others_predict():
    net = fastnn.mlp([12, 16, 5], seed=0)
    y, done, forward = net.predict(X), threading.Event(), fastnn.Affine.forward

    def change():
        while not done.is_set():
            fastnn.Affine.forward = lambda self, x, train=True: forward(self, x, train)
            fastnn.Affine.forward = forward

    def read():
        try:
            for _ in range(100):
                np.testing.assert_allclose(net.predict(X), y, rtol=1e-5, atol=1e-6)
        finally:
            done.set()

    try:
        at_once(change, read)
    finally:
        fastnn.Affine.forward = forward
    assert_same_bits(net.predict(X), y)
