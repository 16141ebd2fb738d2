"""Kills in the middle of a save: python -m tests.trust kills.

A child saves one version after another and says so before each; it is killed at a moment drawn by chance. The
file must then be the version that was last begun or the one before, whole, and what was not finished go with
the next save.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
import traceback
from itertools import count

import numpy as np

import fastnn
from fastnn import checkpoint

WIDTH = 192


def network():
    return fastnn.mlp([WIDTH, WIDTH, WIDTH], seed=0)


def arrays_of(trainer):
    memory = [a for slot in trainer.optimizer.state.values() for a in slot.values()]
    return [*trainer.net.params.values(), *memory]


def save_networks(path, tell, first):
    net = network()
    for n in count(first):
        for array in net.params.values():
            array[...] = n
        tell(n)
        net.save(path)


def save_trainers(path, tell, first):
    trainer = fastnn.Trainer(network(), fastnn.MeanSquaredError(), fastnn.Adam(0.0))
    trainer.step(np.ones((2, WIDTH)), np.ones((2, WIDTH)))
    for n in count(first):
        for array in [
            *trainer.net.params.values(),
            *(a for s in trainer.optimizer.state.values() for a in s.values()),
        ]:
            array[...] = n
        trainer.epochs = n
        tell(n)
        trainer.save(path)


def fit_with_checkpoints(path, tell, first):
    trainer = fastnn.Trainer(network(), fastnn.MeanSquaredError(), fastnn.SGD(0.0))
    trainer.epochs = first - 1
    x = np.ones((8, WIDTH), np.float32)
    saving = fastnn.callbacks.Checkpoint(path)
    trainer.fit(x, x, 10**6, 8, callbacks=[lambda trainer, _: tell(trainer.epochs), saving])


def fit_estimators(path, tell, first):
    from fastnn.estimators import MLPRegressor

    seen = count(first)
    x = np.ones((8, WIDTH))
    callbacks = [lambda *_: tell(next(seen)), fastnn.callbacks.Checkpoint(path)]
    options = {"max_iter": 10**6, "tol": 0.0, "n_iter_no_change": 10**6, "batch_size": 8, "random_state": 0}
    MLPRegressor(hidden_layer_sizes=(WIDTH,), **options).fit(x, x[:, 0], callbacks=callbacks)


def search(path, tell, first):
    seen = count(first)

    def objective(trial):
        tell(next(seen))
        return trial.suggest_float("x", -1, 1) ** 2

    fastnn.search.run(objective, n_trials=10**6, storage=path, name="killed", progress=False)


def version_of_network(path):
    values = {float(v) for a in fastnn.Sequential.load(path).params.values() for v in (a.min(), a.max())}
    assert len(values) == 1, f"pieces of several versions: {sorted(values)}"
    return values.pop()


def version_of_trainer(path):
    trainer = fastnn.Trainer.load(path)
    values = {float(v) for a in arrays_of(trainer) for v in (a.min(), a.max())}
    assert values == {float(trainer.epochs)}, f"pieces of several versions: {sorted(values)}"
    return trainer.epochs


def epochs_of(path):
    return fastnn.Trainer.load(path).epochs


def check_estimator(path):
    assert np.isfinite(fastnn.Trainer.load(path).net.params["0.W"]).all()


def check_study(path):
    """Fail unless all that a study says of its finished trials is so; return how many are."""
    import optuna

    study = optuna.load_study(study_name="killed", storage=f"sqlite:///{path}")
    finished = [trial for trial in study.trials if trial.state == optuna.trial.TrialState.COMPLETE]
    for trial in finished:
        assert trial.value == trial.params["x"] ** 2, f"trial {trial.number}: {trial.value} of {trial.params}"


KINDS = {  # a file, who saves it again and again, and what looks at it and may know the version
    "network.npz": (save_networks, version_of_network),
    "network.safetensors": (save_networks, version_of_network),
    "trainer.npz": (save_trainers, version_of_trainer),
    "checkpoint.npz": (fit_with_checkpoints, epochs_of),
    "estimator.npz": (fit_estimators, check_estimator),
    "search.db": (search, check_study),
}


def in_place(target, _, fill):
    """Save as one should not."""
    with open(target, "wb", buffering=4096) as file:
        fill(file)


def forked(child):
    """Return (process, reading end of a pipe) of a child that says what it does by the pipe."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:
        os.close(reading)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        child(lambda n: os.write(writing, b"%d\n" % n))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def kill_once(child, rng, begun, longest):
    """Kill a child at some moment after it has begun that many versions; return the last one begun."""
    pid, pipe = forked(child)
    try:
        told = b""
        while told.count(b"\n") < begun:
            piece = os.read(pipe, 4096)
            assert piece, "the child has ended by itself"
            told += piece
        time.sleep(rng.uniform(0, longest))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    while piece := os.read(pipe, 4096):
        told += piece
    os.close(pipe)
    return int(told.split()[-1])


def run(kills=200, seed=0, atomic=True, kinds=tuple(KINDS)):
    """Kill so many children in turn; return the figures, with what has failed."""
    rng, failed, middle, littered, done = random.Random(seed), [], 0, 0, 0
    each = dict.fromkeys(kinds, 0)
    replace = checkpoint._replace
    if not atomic:
        checkpoint._replace = in_place
    begun = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory(prefix="fastnn-kills-") as folder:
            last = {}
            for i in range(kills):
                name = kinds[i % len(kinds)]
                save, look = KINDS[name]
                home = os.path.join(folder, name)
                os.makedirs(home, exist_ok=True)
                path = os.path.join(home, name)
                first = last.get(name, 0) + 1
                last[name] = kill_once(
                    lambda tell, save=save, path=path, first=first: save(path, tell, first),
                    rng,
                    rng.randint(2, 4),
                    0.02 if name != "search.db" else 0.05,
                )
                done += 1
                each[name] += 1
                left = [other for other in os.listdir(home) if other != name]
                middle += bool(left)
                littered = max(littered, len(left))
                try:
                    found = look(path)
                    assert found is None or last[name] - 1 <= found <= last[name], (
                        f"version {found} is there, {last[name]} was last begun"
                    )
                    assert len(left) <= 1, f"what killed saves have left piles up: {left}"
                except Exception as error:
                    failed.append(f"{name}, kill {i}: {type(error).__name__}: {error}")
            for name in each:
                failed += [f"{name}: {text}" for text in end_of(name, os.path.join(folder, name))]
    finally:
        checkpoint._replace = replace
    return {
        "kills": done,
        "in the middle of a save": middle,
        "unfinished files at most": littered,
        **{f"of {name}": n for name, n in each.items()},
        "seconds": round(time.perf_counter() - begun, 1),
        "failed": failed,
    }


def end_of(name, home):
    """Save once more, undisturbed; return what is wrong in the directory."""
    path = os.path.join(home, name)
    if not os.path.exists(path):
        return ["there is no file"]
    if name == "search.db":
        return []  # whose journal is SQLite's
    network().save(path)
    left = sorted(os.listdir(home))
    return [] if left == [name] else [f"left behind: {left}"]


if __name__ == "__main__":
    print(run(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
