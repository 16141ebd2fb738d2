"""Threads: limits, side-by-side training, one object in two hands, fork, and the caller's subnormals."""

import copy
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastnn
from fastnn import _core
from native import SMALLER, run_python
from tolerances import assert_same_bits


@pytest.fixture(autouse=True)
def limit():
    before = fastnn.get_num_threads()
    yield before
    fastnn.set_num_threads(before)


def in_a_thread(f, *arguments):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(f, *arguments).result(60)


PROCESSORS = len(os.sched_getaffinity(0))


def most(n):
    """Return what of a limit of n the machine leaves."""
    return min(n, fastnn._core.thread_limits()["processors"], PROCESSORS)


def test_the_limit_holds_for_the_process():
    for n in (1, 5, np.int64(3), 1024):
        fastnn.set_num_threads(n)
        assert (
            fastnn.get_num_threads()
            == in_a_thread(fastnn.get_num_threads)
            == fastnn.show_config()["threads"]
            == most(n)
        )


def test_a_context_is_of_its_thread_and_nests(limit):
    two = most(2)
    with fastnn.threads(two):
        assert fastnn.get_num_threads() == two
        assert in_a_thread(fastnn.get_num_threads) == limit
        with fastnn.threads(1):
            assert fastnn.get_num_threads() == 1
            fastnn.set_num_threads(7)  # of the process: the context's is smaller
            assert fastnn.get_num_threads() == 1
            assert in_a_thread(fastnn.get_num_threads) == most(7)
        assert fastnn.get_num_threads() == two
        fastnn.set_num_threads(1)
        assert fastnn.get_num_threads() == 1
    fastnn.set_num_threads(7)
    assert fastnn.get_num_threads() == most(7)


def test_a_context_ends_with_an_exception_and_can_be_used_again(limit):
    context = fastnn.threads(3)
    for _ in range(2):
        with pytest.raises(KeyError), context, context:
            raise KeyError
        assert fastnn.get_num_threads() == limit


def train(seed, steps=12, width=64, threads=None):
    """Return the trained state of a network, and its losses."""
    rng = np.random.default_rng(seed)
    x, t = rng.normal(size=(100, 20)).astype(np.float32), rng.integers(0, 5, 100)
    net = fastnn.mlp([20, width, width, 5], batch_norm=True, dropout=0.2, seed=seed)
    trainer = fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), fastnn.Adam(), clip_norm=1.0, seed=seed)
    with fastnn.threads(threads or fastnn.get_num_threads()):
        losses = [trainer.step(x, t) for _ in range(steps)]
    return net.state_dict() | {"losses": np.array(losses)}


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_networks_train_side_by_side_to_the_same_bits(threads):
    _core.set_work_per_member(0.0)
    try:
        alone = [train(seed) for seed in range(6)]
        with ThreadPoolExecutor(6) as pool:
            together = [pool.submit(train, seed, threads=threads) for seed in range(6)]
            for expected, result in zip(alone, together, strict=True):
                assert_same_bits(result.result(120), expected)
    finally:
        _core.set_work_per_member(-1.0)


def test_more_threads_than_processors(team):
    """A barrier that is waited for without the core to run on gives it away."""
    fastnn.set_num_threads(64)
    a, b = (np.random.default_rng(i).normal(size=(200, 200)).astype(np.float32) for i in range(2))
    layer = fastnn.Affine(b, b[0])
    with fastnn.threads(1):
        product = fastnn.matmul(a, b)
        layer.forward(a)
        dx = layer.backward(a)
    for _ in range(5):
        assert_same_bits(fastnn.matmul(a, b), product)
        layer.forward(a)
        assert_same_bits(layer.backward(a), dx)


class Meeting:
    """A layer in whose forward a thread says that it is there and waits to be let go."""

    def __init__(self):
        self.here, self.go = threading.Event(), threading.Event()

    def forward(self, x, train=True):
        self.here.set()
        assert self.go.wait(60)
        return x

    def backward(self, dout):
        return dout


def meet(build, first, second):
    """Return what `second` raises while another thread is within `first`; `first` must then succeed."""
    meeting = Meeting()
    subject = build(meeting)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(first, subject)
        assert meeting.here.wait(60)
        try:
            with pytest.raises(RuntimeError, match="in use by another thread") as raised:
                second(subject)
        finally:
            meeting.go.set()
        result = running.result(60)
    second(subject)  # and afterwards it is free again
    return result, raised.value


X, T = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32), np.arange(8) % 3


def net_with(meeting):
    return fastnn.Sequential([fastnn.Affine.create(4, 3, rng=0), meeting])


def trainer_with(meeting):
    return fastnn.Trainer(net_with(meeting), fastnn.SoftmaxCrossEntropy(), fastnn.SGD(0.1))


@pytest.mark.parametrize("second", ["forward", "predict", "load_state_dict"])
def test_a_network_in_two_threads_at_once(second):
    calls = {
        "forward": lambda net: net.forward(X),
        "predict": lambda net: net.predict(X),
        "load_state_dict": lambda net: net.load_state_dict(net.state_dict()),
    }
    y, _ = meet(net_with, lambda net: net.forward(X), calls[second])
    assert_same_bits(y, fastnn.Affine.create(4, 3, rng=0).forward(X))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("first", ["dense", "embedding"])
def test_readers_side_by_side_get_the_serial_answers(first, threads, tmp_path):
    """Each has a plan of its own; batches of several sizes by turns."""
    rng = np.random.default_rng(0)
    if first == "dense":
        net, x = (
            fastnn.mlp([30, 64, 64, 5], batch_norm=True, dropout=0.2, seed=0),
            rng.normal(size=(2000, 30)),
        )
    else:
        layers = [fastnn.Embedding.create(50, 4, rng=0), fastnn.Affine.create(24, 5, rng=1)]
        net, x = fastnn.Sequential(layers), rng.integers(0, 50, (2000, 6))
    t = rng.integers(0, 5, 2000)
    trainer = fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), fastnn.Adam())
    trainer.fit(x, t, epochs=1)
    y, figures, state = net.predict(x), trainer.evaluate(x, t), net.state_dict()
    loss_y = trainer.loss.y.copy()

    def read(i):
        with fastnn.threads(threads):
            for k in range(12):
                n = (1, 50, 300, 2000)[(i + k) % 4]
                assert_same_bits(net.predict(x[:n]), y[:n])
                assert_same_bits(net.predict(x[:n], batch_size=n // 3 + 1), y[:n])
                assert trainer.evaluate(x, t) == figures
                assert_same_bits(net.state_dict(), state)
            net.save(tmp_path / f"{i}.npz")
            trainer.save(tmp_path / f"trainer {i}.npz")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(read, range(6)))
    assert_same_bits(fastnn.Sequential.load(tmp_path / "5.npz").state_dict(), state)
    assert_same_bits(trainer.loss.y, loss_y)  # reading changes nothing
    trainer.step(x, t)


def test_reading_is_shared_and_writing_is_not():
    lock = _core.InUse()

    def refused(enter):
        with pytest.raises(RuntimeError, match="in use by another thread"):
            in_a_thread(enter)

    def write():
        with lock:
            pass

    def read():
        lock.enter_reading()
        lock.leave_reading()

    lock.enter_reading()
    in_a_thread(read)
    refused(write)
    with lock:  # the only reader may write
        refused(read)
        read()
    in_a_thread(read)
    refused(write)
    lock.leave_reading()
    in_a_thread(write)

    there, leave = threading.Event(), threading.Event()

    def stay():
        lock.enter_reading()
        there.set()
        leave.wait(60)
        lock.leave_reading()

    with ThreadPoolExecutor(1) as pool:
        staying = pool.submit(stay)
        assert there.wait(60)
        read()
        lock.enter_reading()
        with pytest.raises(RuntimeError, match="in use by another thread"):
            write()
        lock.leave_reading()
        leave.set()
        staying.result(60)
    write()


@pytest.mark.parametrize("call", ["step", "forward", "load_state_dict"])
def test_a_writer_is_refused_while_another_thread_reads(call):
    net = fastnn.mlp([200, 800, 800, 3], seed=0)
    trainer = fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), fastnn.SGD())
    rows = 6000 // SMALLER**2
    x, t, state = np.ones((rows, 200), np.float32), np.zeros(rows, int), net.state_dict()
    y = net.predict(x)
    calls = {
        "step": lambda: trainer.step(x[:2], t[:2]),
        "forward": lambda: net.forward(x[:2]),
        "load_state_dict": lambda: net.load_state_dict(state),
    }
    begun, refused = threading.Event(), 0

    def read():
        begun.set()
        return net.predict(x)

    for _ in range(20):
        begun.clear()
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(read)
            begun.wait(60)
            while not reading.done() and not refused:
                try:
                    assert_same_bits(net.predict(x[:5]), y[:5])  # another reader
                    net._in_use.enter_reading()
                    net._in_use.leave_reading()
                    with net._in_use:
                        pass
                except RuntimeError:
                    refused += 1
                    with pytest.raises(RuntimeError, match="in use by another thread"):
                        calls[call]()
            assert_same_bits(reading.result(60), y)
        if refused:
            break
    assert refused
    calls[call]()


@pytest.mark.parametrize("second", ["step", "fit", "evaluate"])
def test_a_trainer_in_two_threads_at_once(second):
    calls = {
        "step": lambda trainer: trainer.step(X, T),
        "fit": lambda trainer: trainer.fit(X, T, epochs=1),
        "evaluate": lambda trainer: trainer.evaluate(X, T),
    }
    loss, _ = meet(trainer_with, lambda trainer: trainer.step(X, T), calls[second])
    free = Meeting()
    free.go.set()
    assert loss == trainer_with(free).step(X, T)


def test_an_optimizer_in_two_threads_at_once():
    """Large arrays, so that the update runs without the GIL; the schedule says when it is about to."""
    errors, updates = [], 0
    params = {"w": np.zeros(3_000_000, np.float32)}
    grads = {"w": np.ones(3_000_000, np.float32)}
    layer = fastnn.SGD(1.0)
    start = threading.Barrier(4)

    def work():
        nonlocal updates
        start.wait()
        for _ in range(30):
            try:
                layer.update(params, grads)
                updates += 1
            except RuntimeError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert updates + len(errors) == 120
    assert errors
    assert all("in use by another thread" in error for error in errors)
    np.testing.assert_array_equal(params["w"], -float(updates))


@pytest.mark.parametrize("kind", ["Affine", "BatchNorm"])
def test_a_layer_in_two_threads_at_once(kind):
    """Passes that write to the layer are whole or refused."""
    n = 1000 // SMALLER
    x = np.random.default_rng(0).normal(size=(n, n)).astype(np.float32)
    layer = fastnn.BatchNorm.create(n) if kind == "BatchNorm" else fastnn.Affine.create(n, n, rng=0)
    layer.forward(x)
    layer.backward(x)
    expected = {name: g.copy() for name, g in layer.grads.items()}
    errors, start = [], threading.Barrier(3)

    def work():
        start.wait()
        for _ in range(5):
            try:
                layer.backward(x)
            except RuntimeError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors
    assert all("in use by another thread" in error for error in errors)
    assert_same_bits(layer.grads, expected)


def test_the_gil_is_released_during_long_kernels():
    a = np.ones((1500 // SMALLER, 1500 // SMALLER))
    steps, done = 0, threading.Event()

    def work():
        with fastnn.threads(1):
            for _ in range(3):
                fastnn.matmul(a, a)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.wait(0.001):
        steps += 1
    thread.join()
    assert steps >= 5


FORK = """
    import os, sys, threading, numpy as np, fastnn
    from fastnn import _core
    _core.set_work_per_member(0.0)
    fastnn.set_num_threads(4)
    a = np.random.default_rng(0).normal(size=(300, 300)).astype(np.float32)
    if {used}:
        expected = fastnn.matmul(a, a)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        net = fastnn.mlp([300, 50, 3], batch_norm=True, dropout=0.5, seed=0)
        trainer = fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), fastnn.Adam(), seed=0)
        loss = trainer.step(a, np.arange(300) % 3)
        os.write(write, fastnn.matmul(a, a).tobytes()[:4096] + np.float64(loss).tobytes())
        os._exit(0)
    said = b""
    while len(said) < 4104:
        said += os.read(read, 4104) or sys.exit("the child is gone")
    assert os.waitpid(pid, 0)[1] == 0
    net = fastnn.mlp([300, 50, 3], batch_norm=True, dropout=0.5, seed=0)
    trainer = fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), fastnn.Adam(), seed=0)
    loss = trainer.step(a, np.arange(300) % 3)
    assert said == fastnn.matmul(a, a).tobytes()[:4096] + np.float64(loss).tobytes()
    print("right")
"""


@pytest.mark.parametrize("used", [True, False])
def test_a_forked_child_computes_the_same(used):
    warnings = {"PYTHONWARNINGS": "ignore"}  # of Python, that other threads are running
    assert run_python(FORK.format(used=used), timeout=60, **warnings).strip() == "right"


def test_a_pool_of_forked_processes():
    code = """
        import multiprocessing, numpy as np, fastnn
        from fastnn import _core
        _core.set_work_per_member(0.0)
        fastnn.set_num_threads(4)
        a = np.ones((100, 100), np.float32)
        fastnn.matmul(a, a)
        def work(i):
            return float(fastnn.matmul(a, a).sum())
        with multiprocessing.get_context("fork").Pool(3) as pool:
            assert pool.map(work, range(9)) == [1e6] * 9
    """
    run_python(code, timeout=60, PYTHONWARNINGS="ignore")


def test_the_callers_subnormals_are_left_alone(team, dtype):
    """Kernels flush them; before and after, NumPy has them."""
    tiny = np.finfo(dtype).tiny
    small = np.full(64, tiny, dtype)
    assert (small / 4 > 0).all()
    assert not fastnn.LeakyReLU(0.25).forward(-small).any()
    assert (small / 4 > 0).all()
    layer = fastnn.Affine(np.ones((4, 4), dtype), np.zeros(4, dtype))
    with pytest.raises(ValueError, match="x must"):
        layer.forward(np.ones((2, 3), dtype))
    assert (small / 4 > 0).all()


def test_subnormals_are_flushed_on_every_member(team, dtype):
    tiny = np.finfo(dtype).tiny
    x = np.full(5000, -tiny, dtype)
    assert not fastnn.LeakyReLU(0.5).forward(x).any()
    with ThreadPoolExecutor(2) as pool:
        assert not pool.submit(fastnn.LeakyReLU(0.5).forward, x).result(60).any()
        assert pool.submit(lambda: (x / 2 != 0).all()).result(60)


def test_a_network_in_use_by_a_trainer_is_refused_to_another_thread():
    """What predict does between the passes of a step would mix up what backward needs."""
    refused = []

    class Meddler:
        """A layer during whose forward another thread tries to use the network."""

        def forward(self, x, train=True):
            def meddle():
                for call in (
                    lambda: net.predict(np.ones((2, 3))),
                    lambda: trainer.evaluate(np.ones((2, 3)), np.zeros(2, int)),
                    net.state_dict,
                    lambda: trainer.step(np.ones((2, 3)), np.zeros(2, int)),
                ):
                    try:
                        call()
                    except RuntimeError as error:
                        refused.append("in use by another thread" in str(error))

            thread = threading.Thread(target=meddle)
            thread.start()
            thread.join()
            return x

        def backward(self, dout):
            return dout

    net = fastnn.Sequential([fastnn.Affine.create(3, 4, rng=0), Meddler()])
    trainer = fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), fastnn.SGD())
    trainer.step(np.ones((2, 3)), np.zeros(2, int))
    assert refused == [True] * 4
    net.state_dict()  # free again


def test_one_threads_object_in_two_threads():
    both = fastnn.threads(1)
    entered, leave = threading.Barrier(2), threading.Event()
    seen = []

    def enter():
        before = fastnn.get_num_threads()
        with both:
            entered.wait()
            seen.append(fastnn.get_num_threads())
            leave.wait()
        seen.append(fastnn.get_num_threads() == before)

    workers = [threading.Thread(target=enter) for _ in range(2)]
    for worker in workers:
        worker.start()
    leave.set()
    for worker in workers:
        worker.join()
    assert sorted(seen) == sorted([1, 1, True, True])


def shared_by(part, first):
    """Two trainers that have one part in common."""
    layer, optimizer, loss = fastnn.Affine.create(3, 4, rng=0), fastnn.Adam(), fastnn.MeanSquaredError()

    def made():
        return fastnn.Trainer(
            fastnn.Sequential(
                [
                    layer if part == "layer" else fastnn.Affine.create(3, 4, rng=0),
                    *([first.pop()] if first else []),
                    fastnn.Tanh(),
                    fastnn.Affine.create(4, 2, rng=1),
                ]
            ),
            loss if part == "loss" else fastnn.MeanSquaredError(),
            optimizer if part == "optimizer" else fastnn.Adam(),
        )

    return made(), made()


@pytest.mark.parametrize("part", ["layer", "optimizer", "loss"])
@pytest.mark.parametrize("of_ones_own", [False, True], ids=["native", "by layers"])
def test_a_part_of_two_trainers_is_refused_while_one_of_them_fits(part, of_ones_own):
    """One layer, optimizer or loss in two trainings at once would give other results from run to run."""
    x, t = np.random.default_rng(0).normal(size=(40, 3)), np.ones((40, 2))

    class Same:
        def forward(self, x, train=True):
            return x

        def backward(self, dout):
            return dout

    one, other = shared_by(part, [Same()] if of_ones_own else [])
    alone = copy.deepcopy(one)
    refused = []

    def meanwhile(trainer, history):
        def meddle():
            for call in (lambda: other.fit(x, t, 1, 8), lambda: other._step_by_layers(x, t)):
                try:
                    call()
                except RuntimeError as error:
                    refused.append("in use by another thread" in str(error))
            if part != "loss":  # of which a native step needs nothing but its class
                with pytest.raises(RuntimeError, match="in use by another thread"):
                    other.step(x, t)

        thread = threading.Thread(target=meddle)
        thread.start()
        thread.join()

    history = one.fit(x, t, 3, 8, callbacks=[meanwhile])
    assert refused == [True] * 6
    assert_same_bits({"loss": history.loss}, {"loss": alone.fit(x, t, 3, 8).loss})
    other.fit(x, t, 1, 8)  # free again


def test_layers_in_two_networks_may_be_read_by_many():
    layer = fastnn.Affine.create(3, 4, rng=0)
    one, other = fastnn.Sequential([layer, fastnn.Tanh()]), fastnn.Sequential([layer, fastnn.ReLU()])
    x = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: (one if i % 2 else other).predict(x), range(400)))
