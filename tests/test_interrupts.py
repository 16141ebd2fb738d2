"""Ctrl-C: wherever it comes, what `fit` leaves is whole; and what ends by it."""

import math
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import optuna
import pytest

import fastnn
from fastnn import _interrupts, search
from fastnn import callbacks as cb
from fastnn import reference as ref
from native import PYTHON
from tolerances import assert_same_bits

BOTH = pytest.mark.parametrize("module", [fastnn, ref], ids=["native", "reference"])
RNG = np.random.default_rng(0)
X, T = RNG.random((40, 6), np.float32), RNG.integers(0, 3, 40)
KINDS = ["native", "by layers", "reference"]


class Mine:
    """A layer of one's own, so that steps run layer by layer."""

    def forward(self, x, train):
        return 1 * x

    def backward(self, dout):
        return 1 * dout


def schedule(step):
    return 0.05 / (1 + 0.01 * step)


def build(kind, lr=schedule):
    module = ref if kind == "reference" else fastnn
    net = module.mlp([6, 8, 3], batch_norm=True, dropout=0.2, seed=0)
    if kind == "by layers":
        net = fastnn.Sequential([*net.layers, Mine()])
    return module.Trainer(net, module.SoftmaxCrossEntropy(), module.Adam(lr), clip_norm=1.0)


def fit(trainer, epochs=2, *callbacks):
    return trainer.fit(X, T, epochs, 8, validation=(X, T), callbacks=callbacks, progress=False)


def press(*_):
    signal.raise_signal(signal.SIGINT)


def uninterrupted(callback):
    callback.uninterrupted = True
    return callback


def assert_whole(trainer, history, expected):
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert len(history.loss) == trainer.steps == trainer.optimizer.step
    assert history.epochs == trainer.epochs == len(history.epoch_loss)
    assert_same_bits(history.loss, expected.loss[: trainer.steps])
    assert_same_bits(history.val_loss, expected.val_loss[: len(history.val_loss)])
    assert len(history.val_loss) == len(history.val_accuracy) <= history.epochs <= len(history.val_loss) + 1
    assert all(np.isfinite(a).all() for a in trainer.net.state_dict().values())


class PressAt:
    """A trace of what the package does in Python that presses Ctrl-C before line number `at`."""

    def __init__(self, at):
        self.at, self.lines = at, 0

    def __call__(self, frame, event, arg):
        name = frame.f_code.co_filename
        if "/fastnn/" not in name or name == _interrupts.__file__:
            return None
        if event == "line" and signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            self.lines += 1
            if self.lines == self.at:
                press()
        return self

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self)
        return self

    def __exit__(self, *_):
        sys.settrace(self.before)


@pytest.mark.parametrize("kind", KINDS)
def test_wherever_it_comes_the_training_is_whole(kind, monkeypatch):
    """At some fifty of the lines that run within `fit`, one after another."""
    monkeypatch.setattr(fastnn.trainer, "SLICE_SECONDS", 1e-9)
    reference, callbacks = build(kind), [cb.EarlyStopping(restore_best=False), cb.TimeLimit(1e9)]
    with PressAt(0) as trace:
        expected = fit(reference, 2, *callbacks)
    assert trace.lines > 50
    ended_by = set()
    for at in range(1, trace.lines + 1, max(1, trace.lines // 53)):
        _interrupts._last = -math.inf
        trainer = build(kind)
        with PressAt(at):
            history = fit(trainer, 2, *callbacks)
        assert history.interrupted
        assert_whole(trainer, history, expected)
        ended_by.add(trainer.steps)
        more = fit(trainer, 1)
        assert len(more.loss) == 5
        assert np.isfinite(more.loss).all()
    assert len(ended_by) >= 9


def stress(times):
    """Send real signals at moments that chance chooses."""
    sys.setswitchinterval(1e-5)
    chance = random.Random(0)
    for i in range(times):
        kind, lr, begun = KINDS[i % 3], [schedule, 0.01][i % 2], threading.Event()

        def send(begun=begun):
            begun.wait()
            time.sleep(0.03 * chance.random())
            os.kill(os.getpid(), signal.SIGINT)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        trainer, stopping = build(kind, lr), cb.EarlyStopping(patience=10**6, restore_best=False)
        _interrupts._last = -math.inf
        history = fit(trainer, 10**6, stopping, uninterrupted(lambda *_, begun=begun: begun.set()))
        sender.join()
        assert history.interrupted
        assert_whole(trainer, history, fit(build(kind, lr), trainer.epochs + 1))
        fit(trainer, 1)
    print("done")


def test_real_signals_leave_a_training_whole():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_interrupts; test_interrupts.stress(36)"
    done = subprocess.run(
        [*PYTHON, "-c", code, os.path.dirname(__file__)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["done"], done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_of_someones_own_finds_steps_and_losses_whole(kind, monkeypatch):
    """It raises wherever it comes, so that `fit` may be left, but what is counted was done and told."""

    def handler(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fastnn.trainer, "SLICE_SECONDS", 1e-9)
    before = signal.signal(signal.SIGINT, handler)
    try:
        trainer = build(kind)
        with PressAt(0) as trace:
            expected = fit(trainer, 2)
        for at in range(1, trace.lines + 1, max(1, trace.lines // 97)):
            trainer = build(kind)
            try:
                with PressAt(at):
                    history = fit(trainer, 2)
            except KeyboardInterrupt:
                assert trainer.steps in (0, 10)  # while arguments are looked at, and after the end
            else:
                assert history.interrupted
                assert len(history.loss) == trainer.steps
                assert_same_bits(history.loss, expected.loss[: trainer.steps])
            assert trainer.steps == trainer.optimizer.step
    finally:
        signal.signal(signal.SIGINT, before)


# What leaves fit


@BOTH
def test_a_second_one_within_a_second_leaves_fit(module):
    """Be it in the same fit or in the next, as in a search."""
    kind = "native" if module is fastnn else "reference"
    before = signal.getsignal(signal.SIGINT)

    def lr(step):
        if step == 7:
            press()
            press()
        return 0.01

    trainer = build(kind, lr)
    with pytest.raises(KeyboardInterrupt):
        fit(trainer)
    assert trainer.steps == trainer.optimizer.step <= 7
    assert signal.getsignal(signal.SIGINT) is before
    _interrupts._last = -math.inf
    assert fit(build(kind), 2, uninterrupted(lambda *_: press())).interrupted
    with pytest.raises(KeyboardInterrupt):
        fit(build(kind), 2, uninterrupted(lambda *_: press()))
    _interrupts._last -= 1
    assert fit(build(kind), 2, uninterrupted(lambda *_: press())).interrupted
    assert signal.getsignal(signal.SIGINT) is before


@BOTH
@pytest.mark.parametrize("when", ["on_fit_begin", "on_slice", "__call__", "on_fit_end"])
def test_one_in_a_callback_leaves_fit(module, when):
    class Pressing:
        def __call__(self, *_):
            pass

    setattr(Pressing, when, press)
    trainer = build("native" if module is fastnn else "reference")
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, 2, Pressing())
    assert trainer.steps == trainer.optimizer.step
    Pressing.uninterrupted = True
    _interrupts._last = -math.inf
    history = fit(trainer, 2, Pressing())
    assert history.interrupted
    assert history.epochs == {"on_fit_begin": 0, "on_slice": module is fastnn, "on_fit_end": 2}.get(when, 1)


@BOTH
def test_one_before_an_error_that_leaves_fit_is_not_lost(module):
    kind = "native" if module is fastnn else "reference"

    def failing():
        calls = []

        def loss(y, t):
            calls.append(len(y))
            if len(calls) == 7:
                press()
                raise ValueError("at the same time")
            return 0.5, 0 * y

        return module.Trainer(module.mlp([6, 8, 3], seed=0), loss, module.SGD())

    with pytest.raises(KeyboardInterrupt) as caught:
        failing().fit(X, T, 9, 8, progress=False)
    assert str(caught.value.__cause__) == "at the same time"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    _interrupts._last = -math.inf
    with pytest.raises(KeyboardInterrupt):
        module.Population([failing()]).fit(X, T, 9, 8, progress=False)
    _interrupts._last = -math.inf

    def in_another(*_):  # the error of which is caught, so that the fit around it ends by Ctrl-C
        with pytest.raises(ValueError, match="at the same time"):
            failing().fit(X, T, 9, 8, progress=False)

    assert fit(build(kind), 2, in_another).interrupted
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@BOTH
def test_a_fit_within_a_callback_has_its_own(module):
    kind, inner = "native" if module is fastnn else "reference", []

    def train(*_):
        _interrupts._last = -math.inf
        inner.append(fit(build(kind), 3, uninterrupted(lambda *_: press())))

    history = fit(build(kind), 2, train)
    assert not history.interrupted
    assert [h.interrupted for h in inner] == [True, True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# Who has the signal


@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_of_someones_own_stays(kind):
    seen = []

    def handler(*_):
        seen.append(trainer.steps)
        raise KeyboardInterrupt

    def lr(step):
        if step == 7:
            signal.raise_signal(signal.SIGINT)
        return 0.01

    trainer = build(kind, lr)
    before = signal.signal(signal.SIGINT, handler)
    try:
        history = fit(trainer)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert history.interrupted
    assert len(seen) == 1
    assert len(history.loss) == trainer.steps == trainer.optimizer.step <= 7


def test_a_handler_that_a_callback_has_set_stays():
    def handler(*_):
        pass

    before = signal.getsignal(signal.SIGINT)
    try:
        fit(build("native"), 1, lambda *_: signal.signal(signal.SIGINT, handler) and None)
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_fit_in_another_thread_is_none_of_its_business():
    histories, trainer = [], build("native")
    stop = threading.Event()

    def work():
        histories.append(fit(build("native"), 10**6, lambda *_: stop.is_set()))

    thread = threading.Thread(target=work)
    thread.start()
    history = fit(trainer, 10**6, uninterrupted(lambda t, h: h.epochs == 3 and press()))
    stop.set()
    thread.join()
    assert history.interrupted
    assert not histories[0].interrupted
    with pytest.raises(KeyboardInterrupt):
        press()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # that there are threads
def test_a_child_forked_meanwhile_has_the_usual_one():
    statuses = []

    @uninterrupted
    def fork(*_):
        if statuses:
            return
        child = os.fork()
        if child == 0:
            try:
                press()
            except KeyboardInterrupt:
                os._exit(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
            os._exit(2)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    assert not fit(build("native"), 1, fork).interrupted
    assert statuses == [1]


def test_a_long_validation_is_left():
    rows = np.zeros((50_000, 6), np.float32)
    trainer, timer = build("reference"), threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    big = np.concatenate([rows] * 20)
    history = trainer.fit(X, T, 10**6, validation=(big, np.zeros(len(big), int)), progress=False)
    timer.join()
    assert history.interrupted
    assert len(history.val_loss) == history.epochs - 1


def test_a_trainer_can_be_copied_in_a_callback():
    copies = []
    fit(build("native", 0.01), 1, lambda t, h: copies.append(pickle.loads(pickle.dumps(t))))
    assert not vars(copies[0]).keys() - vars(build("native")).keys()


# Searches


def test_ctrl_c_in_a_trial_ends_the_loop_of_optuna_too():
    def objective(trial):
        presses = uninterrupted(lambda *_: (trial.number == 2 and press()) or None)
        return fit(build("native"), 3, search.PruneTrial(trial), presses).val_loss[-1]

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(pruner=optuna.pruners.NopPruner())
    with pytest.raises(KeyboardInterrupt):
        study.optimize(objective, 10)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE", "FAIL"]
