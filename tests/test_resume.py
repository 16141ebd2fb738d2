"""Callbacks go on after a file where they were; and one object serves one fit at a time."""

import copy
import json
import math
import pickle
import threading

import numpy as np
import pytest

import fastnn
from fastnn import callbacks as cb
from fastnn import checkpoint
from fastnn import reference as ref
from tolerances import assert_same_bits

BOTH = pytest.mark.parametrize("module", [fastnn, ref], ids=["native", "reference"])
RNG = np.random.default_rng(1)
W = RNG.normal(size=(6, 3))
X = RNG.random((48, 6), np.float32)
T = (X @ W + 0.3 * RNG.normal(size=(48, 3))).argmax(axis=1)
XV = RNG.random((40, 6), np.float32)
TV = (XV @ W + 0.3 * RNG.normal(size=(40, 3))).argmax(axis=1)


def build(module, seed=0):
    net = module.mlp([6, 16, 3], batch_norm=True, dropout=0.2, seed=seed)
    return module.Trainer(net, module.SoftmaxCrossEntropy(), module.Adam(0.02))


def fit(trainer, epochs, *callbacks, **options):
    data = {"validation": (XV, TV), "progress": False} | options
    return trainer.fit(X, T, epochs, 16, callbacks=callbacks, **data)


def watchers(patience=3):
    return cb.EarlyStopping(patience=patience), cb.ReduceOnPlateau(factor=0.5, patience=1)


def state(trainer):
    memory = trainer.optimizer.state_dict()["state"]
    arrays = {f"{slot}.{name}": a for slot, of in memory.items() for name, a in of.items()}
    counters = np.array([trainer.steps, trainer.epochs, trainer.optimizer.lr])
    return trainer.net.state_dict() | arrays | {"counters": counters}


def of_a_file(module, path, epoch=5, first=(), patience=3):
    """Return the trainer of a file that was written in the middle of a fit."""
    stopping, plateau = watchers(patience)
    fit(build(module), epoch, *first, stopping, cb.Checkpoint(path, every=epoch), plateau)
    return module.Trainer.load(path)


# Going on


@BOTH
@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("epoch", [2, 5, 7])
def test_a_training_that_goes_on_is_the_one_that_never_stopped(module, suffix, epoch, tmp_path):
    path = tmp_path / f"run.{suffix}"
    whole, stopping, plateau = build(module), *watchers()
    expected = fit(whole, 10, stopping, plateau)
    assert epoch < expected.epochs < 10
    assert stopping.best_epoch == 6
    resumed, again, plateau = of_a_file(module, path, epoch), *watchers()
    more = fit(resumed, 10 - epoch, again, plateau)
    assert_same_bits(more.loss, expected.loss[3 * epoch :])
    assert_same_bits(more.val_loss, expected.val_loss[epoch:])
    assert (again.best, again.best_epoch, again.stopped) == (stopping.best, stopping.best_epoch, True)
    assert_same_bits(state(resumed), state(whole))
    fit(resumed, 1, again)
    assert again._best.epochs == 1  # the next one begins afresh


@BOTH
def test_the_end_that_a_file_tells_of_is_the_end(module, tmp_path):
    whole, stopping, plateau = build(module), *watchers()
    end = fit(whole, 10, stopping, plateau).epochs
    resumed, again, plateau = of_a_file(module, tmp_path / "a.npz", end), *watchers()
    assert fit(resumed, 10, again, plateau).epochs == 0
    assert again.stopped
    assert_same_bits(resumed.net.state_dict(), whole.net.state_dict())


@BOTH
def test_what_a_user_saves_in_a_callback_tells_too(module, tmp_path):
    path = tmp_path / "a.npz"
    seen, plateau = watchers()
    fit(build(module), 4, seen, plateau, lambda t, h: h.epochs == 4 and t.save(path))
    trainer = module.Trainer.load(path)
    trainer.save(path)  # which loses nothing
    again, plateau = watchers()
    fit(module.Trainer.load(path), 0, again, plateau)
    assert (again.best, again.best_epoch) == (seen.best, seen.best_epoch)


@BOTH
@pytest.mark.parametrize("why", ["resume", "arguments", "second", "outside", "kind"])
def test_what_begins_afresh(module, why, tmp_path):
    path = tmp_path / "a.npz"
    trainer = of_a_file(module, path)
    stopping, plateau = watchers(4 if why == "arguments" else 3)
    if why == "second":
        fit(trainer, 0)
    if why == "outside":
        trainer = build(module)
        fit(trainer, 2, *watchers())
        trainer.save(path)
        assert "callbacks" not in checkpoint.read(path, "trainer")[1]
        trainer = module.Trainer.load(path)
    if why == "kind":
        fit(trainer, 0, cb.TimeLimit(9))
    twin = module.Trainer.load(path)
    expected, told = watchers(9), fit(twin, 2, resume=False)
    fit(module.Trainer.load(path), 2, *expected, resume=False)
    fit(trainer, 2, stopping, plateau, resume=why != "resume")
    if why != "arguments":
        assert (stopping.best, stopping.best_epoch) == (expected[0].best, expected[0].best_epoch)
    assert stopping.best in told.val_loss or why == "arguments"
    assert stopping.best_epoch <= 2


@BOTH
def test_a_refused_fit_forgets_nothing(module, tmp_path):
    trainer = of_a_file(module, tmp_path / "a.npz")
    stopping, plateau = watchers()
    with pytest.raises(ValueError, match="monitor must be one of"):
        fit(trainer, 1, stopping, plateau, validation=None)
    with pytest.raises(TypeError, match="resume"):
        fit(trainer, 1, stopping, resume=1)
    fit(build(module), 1, stopping)
    assert stopping.best_epoch == 1
    fit(trainer, 0, stopping, plateau)
    assert stopping._best.epochs == 5


@BOTH
def test_the_best_file_and_the_time_go_on(module, tmp_path):
    path = tmp_path / "best.npz"

    def callbacks():
        return cb.TimeLimit(1000), cb.Checkpoint(path, "val_loss", best_only=True)

    limit, first = callbacks()
    fit(build(module), 4, limit, first)
    best = first._best.value
    limit, again = callbacks()
    before = limit._begun
    fit(module.Trainer.load(path), 0, limit, again)
    assert (again.saved, again._best.value) == (str(path), best)
    assert limit._begun != before


@BOTH
def test_a_copy_made_in_a_fit_can_be_trained(module):
    copies = []

    def make(trainer, history):
        copies.extend([copy.deepcopy(trainer), pickle.loads(pickle.dumps(trainer))])

    stopping = cb.EarlyStopping()
    fit(build(module), 1, stopping, make, lambda *_: None, class_weight={1: 3.0})
    for twin in copies:
        assert not {"_serving", "_per_row"} & vars(twin).keys()
        fit(twin, 1, copy.deepcopy(stopping))


@BOTH
def test_a_fit_within_a_fit_of_the_same_trainer(module):
    """Ends with itself what is its own, and leaves the weights of the outer one."""
    by_class, told = {0: 1.0, 1: 3.0, 2: 5.0}, []

    def inner(trainer, history):
        fit(trainer, 1, lambda t, _: told.append(("_per_row" in vars(t), len(t._serving))))
        told.append(("_per_row" in vars(trainer), len(trainer._serving)))

    fit(trainer := build(module), 1, inner, cb.TimeLimit(9), class_weight=by_class)
    assert told == [(False, 1), (True, 2)]
    assert not {"_per_row", "_serving"} & vars(trainer).keys()


# The states themselves


@BOTH
def test_a_state_goes_over_by_hand(module):
    stopping, trainer = watchers()[0], build(module)
    states = []
    fit(build(module), 3, stopping, lambda t, h: states.append(stopping.state_dict()))
    assert states[-1]["epochs"] == 3
    assert states[-1]["net"].keys() == trainer.net.state_dict().keys()
    again = cb.EarlyStopping(patience=3)
    again.load_state_dict(states[-1])
    assert again.best == states[-1]["best"]
    fit(build(module), 0, again)
    assert again.best == states[-1]["best"]
    other = module.Trainer(module.mlp([6, 3]), module.SoftmaxCrossEntropy(), module.SGD(0.1))
    again.load_state_dict(states[-1])
    with pytest.raises(ValueError, match="a network as this one is"):
        fit(other, 1, again)


@pytest.mark.parametrize(
    "make",
    [
        cb.EarlyStopping,
        cb.ReduceOnPlateau,
        lambda: cb.TimeLimit(1),
        lambda: cb.Checkpoint("a.npz"),
        lambda: cb.Checkpoint("a.npz", "loss", best_only=True),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(make):
    callback = make()
    good = callback.state_dict()
    for bad in (
        None,
        3,
        {},
        good | {"more": 1},
        *({**good, name: value} for name in good for value in (object(), math.nan)),
        *({**good, name: -1} for name in good if name != "best"),
    ):
        with pytest.raises((TypeError, ValueError), match=r"^d"):
            callback.load_state_dict(bad)
        assert not callback._loaded
    callback.load_state_dict(good)
    assert make()._config() == callback._config()
    if "best" in good:
        callback.load_state_dict(good | {"best": -math.inf})


@BOTH
def test_an_infinite_best_figure_can_be_saved(module, tmp_path):
    stopping = cb.EarlyStopping("val_loss", mode="max")

    def make_infinite(trainer, history):
        history._figures["val_loss"][-1] = math.inf

    fit(build(module), 1, make_infinite, stopping, cb.Checkpoint(tmp_path / "a.npz"))
    trainer = module.Trainer.load(tmp_path / "a.npz")
    again = cb.EarlyStopping("val_loss", mode="max")
    fit(trainer, 0, again)
    assert again.best == math.inf


# Files


def edited(path, edit):
    arrays, meta = checkpoint.read(path, "trainer")
    edit(arrays, meta["callbacks"])
    kind = meta.pop("kind")
    del meta["format"], meta["version"]
    checkpoint.write(path, kind, arrays, meta)


EDITS = {
    "a class": lambda a, m: m[0].update(callback="Magic"),
    "no class": lambda a, m: m[0].pop("callback"),
    "arguments": lambda a, m: m[0]["arguments"].update(patience=0),
    "more arguments": lambda a, m: m[0]["arguments"].update(more=0),
    "a figure": lambda a, m: m[0]["state"].update(best="nan"),
    "a count": lambda a, m: m[0]["state"].update(waited=-1),
    "no count": lambda a, m: m[0]["state"].pop("waited"),
    "a list": lambda a, m: m.append(3),
    "an array too many": lambda a, m: a.update({"callbacks.7.0.W": np.zeros(3)}),
    "an array of nobody": lambda a, m: a.update({"callbacks.x": np.zeros(3)}),
    "an array too few": lambda a, m: a.pop("callbacks.0.0.W"),
    "a name too few": lambda a, m: m[0]["state"]["net"].pop(),
    "no names": lambda a, m: m[0]["state"].update(net=None),
    "a shape": lambda a, m: a.update({"callbacks.0.0.W": np.zeros((6, 15), np.float32)}),
    "a dtype": lambda a, m: a.update({"callbacks.0.0.W": np.zeros((6, 16))}),
}


@BOTH
@pytest.mark.parametrize("edit", EDITS)
def test_a_file_that_does_not_fit_is_refused(module, edit, tmp_path):
    path = tmp_path / "a.npz"
    of_a_file(module, path, 2)
    edited(path, lambda arrays, meta: None)
    module.Trainer.load(path)
    edited(path, EDITS[edit])
    with pytest.raises(ValueError, match="does not describe a trainer"):
        module.Trainer.load(path)


@BOTH
def test_a_network_is_read_from_such_a_file(module, tmp_path):
    trainer = of_a_file(module, tmp_path / "a.npz")
    meta = checkpoint.read(tmp_path / "a.npz", "trainer")[1]
    assert [each["callback"] for each in meta["callbacks"]] == [
        "EarlyStopping",
        "Checkpoint",
        "ReduceOnPlateau",
    ]
    assert json.loads(json.dumps(meta)) == meta
    net = module.Sequential.load(tmp_path / "a.npz")
    assert_same_bits(net.state_dict(), trainer.net.state_dict())


# One fit at a time


@BOTH
def test_an_object_in_two_fits_at_once_is_refused(module):
    stopping, first, go = cb.EarlyStopping(), threading.Event(), threading.Event()

    def wait(*_):
        first.set()
        go.wait(10)

    results = []
    thread = threading.Thread(target=lambda: results.append(fit(build(module), 3, stopping, wait)))
    thread.start()
    first.wait(10)
    other, limit = build(module), cb.TimeLimit(9)
    before = state(other)
    with pytest.raises(RuntimeError, match=r"^this EarlyStopping is in use"):
        fit(other, 1, limit, stopping)
    assert_same_bits(state(other), before)
    fit(other, 1, limit, copy.deepcopy(stopping))  # and what was taken has been given back
    go.set()
    thread.join()
    assert results[0].epochs == 3
    fit(other, 1, stopping)


@BOTH
def test_an_object_twice_in_a_fit_is_refused(module):
    stopping = cb.EarlyStopping()
    with pytest.raises(RuntimeError, match="in use"):
        fit(build(module), 1, stopping, stopping)
    with pytest.raises(RuntimeError, match="in use"):
        fit(build(module), 1, stopping, lambda *_: fit(build(module), 1, stopping) and None)
    fit(build(module), 1, stopping)
