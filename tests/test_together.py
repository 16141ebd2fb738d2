"""Trials of a search trained side by side: one at a time but for training, in step, to the same bits."""

import os
import signal
import subprocess
import threading
import time
from itertools import pairwise

import numpy as np
import pytest

import fastnn
from fastnn import _together, search
from fastnn.estimators import MLPClassifier
from native import PYTHON

optuna = pytest.importorskip("optuna", reason="the search is one of Optuna")
optuna.logging.set_verbosity(optuna.logging.WARNING)

NEVER = optuna.pruners.NopPruner()
COMPLETE, PRUNED, FAIL = (getattr(optuna.trial.TrialState, s) for s in ("COMPLETE", "PRUNED", "FAIL"))

RNG = np.random.default_rng(0)
T = RNG.integers(0, 3, 150)
X = (RNG.normal(size=(150, 5)) + 2 * np.eye(3, 5)[T]).astype(np.float32)


def trainer_of(lr=0.1, width=8, seed=0):
    return fastnn.Trainer(fastnn.mlp([5, width, 3], seed=seed), fastnn.SoftmaxCrossEntropy(), fastnn.SGD(lr))


def objective(trial):
    lr = trial.suggest_float("lr", 1e-5, 1.0, log=True)
    trainer = trainer_of(lr, trial.suggest_int("width", 1, 40))
    prune = search.PruneTrial(trial, "val_accuracy")
    epochs = trial.suggest_int("epochs", 4, 12)
    history = trainer.fit(X, T, epochs, 20, validation=(X, T), callbacks=[prune], progress=False)
    return history.val_accuracy[-1]


def run(function=objective, n_trials=30, storage=None, *, sampler=None, **options):
    options = {"direction": "maximize", "together": 8, "progress": False} | options
    sampler = search.NarrowingSampler(10, seed=0) if sampler is None else sampler
    return search.run(function, n_trials, storage, sampler=sampler, **options)


def told(study):
    """Return what a study has come to, but for times."""
    return [(t.number, t.params, t.state, t.value, t.intermediate_values) for t in study.get_trials()]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not [t for t in threading.enumerate() if t.name.startswith(("trial-", "together"))]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize(
    "pruner", [lambda: None, lambda: NEVER, optuna.pruners.HyperbandPruner, optuna.pruners.MedianPruner]
)
def test_the_same_call_gives_the_same_study_on_any_number_of_threads(pruner):
    studies = [told(run(pruner=pruner(), threads=n)) for n in (1, 2, 2)]
    assert studies[0] == studies[1] == studies[2]
    assert (pruner() is NEVER) != (PRUNED in {state for _, _, state, _, _ in studies[0]})


@pytest.mark.parametrize("together", [1, 3, 16])
def test_each_trial_comes_to_what_it_comes_to_alone(together):
    study = run(pruner=NEVER, together=together)
    for trial in study.trials:
        alone = optuna.create_study(direction="maximize", pruner=NEVER)
        assert objective(optuna.trial.FixedTrial(trial.params)) == trial.value
        alone.enqueue_trial(trial.params)
        alone.optimize(objective, 1)
        assert alone.trials[0].intermediate_values == trial.intermediate_values


def test_one_at_a_time_is_a_thread():
    assert told(run(together=1, threads=2)) == told(run(together=None, threads=1))


def test_a_sampler_sees_what_has_finished():
    """As many are begun as run side by side; then one for each that ends, in the order of the trials."""
    begun, ended = [], []

    def function(trial):
        begun.append((trial.number, len(ended)))
        trainer_of().fit(X, T, 2 + trial.number, 50, progress=False)
        ended.append(trial.number)
        return 0.0

    run(function, 9, together=4)
    assert ended == sorted(ended)
    assert begun == [(i, max(0, i - 3)) for i in range(9)]


def test_reports_come_in_the_order_of_the_trials():
    """Whatever an epoch takes: those of the first trial are a hundred times as long."""
    reports = []

    class Noted(search.PruneTrial):
        def __call__(self, trainer, history):
            reports.append((history.epochs, self.trial.number))
            super().__call__(trainer, history)

    def function(trial):
        trainer = trainer_of(width=300 if trial.number == 0 else 3)
        rows = 1 if trial.number == 0 else 150
        trainer.fit(X, T, 5, rows, callbacks=[Noted(trial, "loss")], progress=False)
        return 0.0

    run(function, 4, together=4, direction="minimize", pruner=NEVER)
    assert reports == sorted(reports)
    assert len(reports) == 20


def test_only_one_objective_runs_at_a_time():
    inside, most = [], []

    def function(trial):
        for _ in range(3):
            inside.append(1)
            time.sleep(0.002)
            most.append(len(inside))
            inside.pop()
            trainer_of().fit(X, T, 2, 20, progress=False)
        return 0.0

    run(function, 12)
    assert max(most) == 1


def test_trials_are_trained_side_by_side():
    """All are in their first epoch when one has its second."""
    fits, seen = set(), []

    def look(trainer, history):
        if history.epochs == 2:
            seen.append(len(fits))

    def function(trial):
        fits.add(trial.number)
        trainer_of().fit(X, T, 2, 20, callbacks=[look], progress=False)
        return 0.0

    run(function, 6, together=6)
    assert seen == [6] * 6


def test_errors_of_a_fit_are_the_objectives():
    caught = []

    def function(trial):
        trainer = trainer_of(1e30 if trial.number % 2 else 0.1)
        try:
            trainer.fit(X, T, 30, 20, progress=False)
        except FloatingPointError as error:
            caught.append(trial.number)
            with pytest.raises(ValueError, match="t must have as many rows"):
                trainer.fit(X, T[:5], progress=False)
            raise error
        return 1.0

    study = run(function, 8)
    assert caught == [1, 3, 5, 7]
    assert [t.state for t in study.trials].count(COMPLETE) == 4
    assert [t.state for t in study.trials].count(PRUNED) == 4


def test_a_trainer_is_free_again():
    trainers = []

    def function(trial):
        trainer = trainer_of()
        trainers.append(trainer)
        trainer.fit(X, T, 2, 20, progress=False)
        trainer.step(X, T)
        trainer.fit(X, T, 1, 20, callbacks=[lambda trainer, _: trainer.evaluate(X, T)], progress=False)
        return trainer.evaluate(X, T)["accuracy"]

    run(function, 6)
    for trainer in trainers:
        trainer.step(X, T)
        assert trainer.epochs == 3


def test_a_trainer_that_another_trial_has_is_refused():
    shared = trainer_of()

    def function(trial):
        shared.fit(X, T, 5, 20, progress=False)
        return 0.0

    study = run(function, 2, catch=RuntimeError, together=2)
    assert [t.state for t in study.trials] == [COMPLETE, FAIL]
    assert shared.epochs == 5
    with pytest.raises(RuntimeError, match="in use in another trial"):
        run(function, 2, together=2)
    shared.fit(X, T, 1, 20, progress=False)


def test_any_fit_within_an_objective():
    """Of estimators and their ensembles, of the reference, of other threads, and in callbacks."""

    def function(trial):
        model = MLPClassifier((4,), max_iter=2, random_state=0).fit(X, T)
        model.set_params(n_ensemble=2).fit(X, T)
        fastnn.Population.of([5, 4, 3], 2).fit(X, T, 1, progress=False)
        other = trainer_of()
        thread = threading.Thread(target=lambda: other.fit(X, T, 2, 20, progress=False))
        thread.start()
        thread.join()
        inner = trainer_of()
        trainer_of().fit(
            X, T, 1, callbacks=[lambda *_: inner.fit(X, T, 1, progress=False) and None], progress=False
        )
        lib = fastnn.reference
        slow = lib.Trainer(lib.mlp([5, 3], seed=0), lib.SoftmaxCrossEntropy(), lib.SGD(0.1))
        slow.fit(X, T, 1, progress=False)
        return float(other.epochs + inner.epochs + slow.epochs)

    with pytest.warns(Warning, match="Maximum iterations"):
        study = run(function, 6)
    assert [t.value for t in study.trials] == [4.0] * 6


def test_networks_that_python_drives_take_part():
    class Own(fastnn.SGD):
        def update(self, params, grads, **options):
            super().update(params, grads, **options)

    def function(trial):
        lr = trial.suggest_float("lr", 1e-3, 1.0)
        make = Own if trial.number % 2 else fastnn.SGD
        trainer = fastnn.Trainer(fastnn.mlp([5, 4, 3], seed=0), fastnn.SoftmaxCrossEntropy(), make(lr))
        history = trainer.fit(X, T, 3, 20, callbacks=[search.PruneTrial(trial, "loss")], progress=False)
        return history.epoch_loss[-1]

    assert told(run(function, 12, direction="minimize", threads=2)) == told(
        run(function, 12, direction="minimize", threads=1)
    )


def test_an_error_ends_the_search_and_what_was_done_is_stored(tmp_path):
    def function(trial):
        if trial.number == 12:
            raise KeyError("a mistake")
        return objective(trial)

    with pytest.raises(KeyError, match="a mistake"):
        run(function, 100, tmp_path / "a.db")
    stored = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'a.db'}")
    assert 5 <= len(stored.trials) <= 12
    assert len(run(objective, 20, tmp_path / "a.db").trials) == 20


def test_an_error_of_the_conductor_lets_all_threads_go(monkeypatch):
    class Broken(fastnn._core.Crowd):
        def next(self):
            raise MemoryError("none left")

    monkeypatch.setattr(_together._core, "Crowd", Broken)
    with pytest.raises(MemoryError, match="none left"):
        run(n_trials=5, together=3)


def test_a_search_goes_on_where_the_system_refuses_threads(monkeypatch):
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "together" and len(refused) < 5:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    refused = []
    monkeypatch.setattr(threading.Thread, "start", refuse)
    study = run(n_trials=12, pruner=NEVER)
    assert len(refused) == 5
    assert [t.state for t in study.trials] == [COMPLETE] * 12


@pytest.mark.parametrize("stored", [False, True], ids=["memory", "sqlite"])
def test_a_search_is_resumed(stored, tmp_path):
    storage = tmp_path / "a.db" if stored else optuna.storages.InMemoryStorage()
    run(n_trials=10, storage=storage)
    study = run(n_trials=25, storage=storage)
    assert len(study.trials) == 25
    assert len(run(n_trials=25, storage=storage).trials) == 25


def test_a_search_may_be_stopped_by_time_and_by_a_trial():
    assert 1 <= len(run(n_trials=10**6, timeout=0.3).trials) < 10**5

    def function(trial):
        if trial.number == 5:
            trial.study.stop()
        return objective(trial)

    assert 6 <= len(run(function, 10**6).trials) <= 5 + 8


INTERRUPTED = """
import os, signal, sys, threading
import numpy as np
import fastnn
from fastnn import search
x, t = np.zeros((100, 64)), np.zeros(100, int)
def objective(trial):
    lr = trial.suggest_float("lr", 1e-4, 1.0, log=True)
    if trial.number < 3:
        return lr
    trainer = fastnn.Trainer(fastnn.mlp([64, 64, 10], seed=0), fastnn.SoftmaxCrossEntropy(), fastnn.SGD(lr))
    if trial.number == 6:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    trainer.fit(x, t, 10**6, 100, callbacks=[search.PruneTrial(trial, "loss")], progress=False)
study = search.run(objective, 100, sys.argv[1], together=5, progress=False)
print(len(study.trials), signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


def test_ctrl_c_ends_the_search_and_keeps_what_was_done(tmp_path):
    command = [*PYTHON, "-c", INTERRUPTED, str(tmp_path / "a.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["3", "True"], done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_waits_for_other_trials():
    def function(trial):
        trainer_of().fit(X, T, 5, 20, progress=False)
        if trial.number == 0:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
        trainer_of().fit(X, T, 5, 20, progress=False)
        return 0.0

    study = run(function, 1000, together=4)
    assert [t.state for t in study.trials] == [COMPLETE] * 4


@pytest.mark.parametrize(
    ("together", "error", "words"),
    [(0, ValueError, "together must be"), (2.5, TypeError, "together must be"), ("3", TypeError, "together")],
)
def test_what_is_refused(together, error, words):
    with pytest.raises(error, match=words):
        run(together=together)


def test_trials_are_stored_in_the_order_in_which_they_finished(tmp_path):
    study = run(storage=tmp_path / "a.db", n_trials=20)
    assert all(a.datetime_complete <= b.datetime_complete for a, b in pairwise(study.trials))
    assert [t[1:] for t in told(study)] == [t[1:] for t in told(run(n_trials=20, storage=tmp_path / "b.db"))]
