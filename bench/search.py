"""Hyper-parameter search: a textbook's search against the reference, and samplers against each other."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import fastnn

from . import machine
from .report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

VALIDATED = 100  # images, of all; the others are trained on
TRIED = 3  # trials, to find the best number of threads for the reference


class Course(NamedTuple):
    """A search as courses have it: images like MNIST's, SGD, rate and weight decay at random."""

    images: int = 500
    sizes: tuple[int, ...] = (784, 100, 100, 100, 100, 100, 100, 10)
    epochs: int = 50
    batch: int = 100
    trials: int = 100


class Way(NamedTuple):
    """How to search: with which library, on how many threads, and whether bad trials end early."""

    name: str
    lib: Any
    threads: int
    pruned: bool


def run(threads: Sequence[int] = (1, 2), rounds: int = 3, quick: bool = False) -> Report:
    """Measure the search: the reference, one trial after another, and fastnn, a trial a thread.

    All draw the same trials, from the same wide ranges. The reference has the better of the numbers of
    threads; fastnn, which stores its trials in SQLite, has the largest, with and without pruning.
    """
    _quiet()
    course = Course(150, (784, 10, 10), 6, 50, 6) if quick else Course()
    data = images(course.images)
    tried = {n: _search(course._replace(trials=TRIED), data, _reference(n))[0] for n in threads}
    many = max(threads)
    ways = (
        _reference(min(tried, key=tried.__getitem__)),
        Way("fastnn, all trials whole", fastnn, many, False),
        Way("fastnn, bad trials end early", fastnn, many, True),
    )
    _search(course._replace(trials=1), data, ways[1])  # imports what Optuna needs for SQLite
    found: dict[str, list[tuple[float, Any]]] = {way.name: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            found[way.name].append(_search(course, data, way))
    reference = float(np.median([seconds for seconds, _ in found[ways[0].name]]))
    rows = [_row(way, found[way.name], reference) for way in ways]
    sizes = "-".join(map(str, course.sizes))
    setting = f"{course.trials} trials of {sizes}, {course.images} images, {course.epochs} epochs, SGD"
    return Report(rows, [setting])


def images(count: int) -> tuple[Any, Any]:
    """Return so many of scikit-learn's digits as rows of 28 x 28 pixels in [0, 1], and what they are."""
    from sklearn.datasets import load_digits

    x, t = load_digits(return_X_y=True)
    x = (x[:count].reshape(-1, 8, 8) / 16).astype(np.float32)
    x = np.pad(x.repeat(3, axis=1).repeat(3, axis=2), ((0, 0), (2, 2), (2, 2)))
    return x.reshape(len(x), -1), t[:count]


def _reference(threads: int) -> Way:
    return Way("NumPy reference, one after another", fastnn.reference, threads, False)


def _search(course: Course, data: tuple[Any, Any], way: Way) -> tuple[float, Any]:
    """Return the seconds of a search, and its study."""
    import optuna

    native = way.lib is fastnn
    sampler = fastnn.search.NarrowingSampler(round_size=10**9, seed=0)  # it never narrows
    pruner = None if way.pruned else optuna.pruners.NopPruner()
    with tempfile.TemporaryDirectory() as folder, machine.limited(way.threads):
        begin = perf_counter()
        study = fastnn.search.run(
            objective(course, data, way.lib),
            course.trials,
            Path(folder) / "search.db" if native else None,
            direction="maximize",
            sampler=sampler,
            pruner=pruner,
            threads=way.threads if native else 1,
            progress=False,
        )
        seconds = perf_counter() - begin
        study.trials  # noqa: B018 (it reads what is stored, before the folder goes)
    return seconds, study


def objective(course: Course, data: tuple[Any, Any], lib: Any) -> Callable[[Any], float]:
    """Return what trains a trial with the library and returns the accuracy on the last images."""
    x, t = data
    train = slice(len(x) - VALIDATED)
    validation = x[len(x) - VALIDATED :], t[len(x) - VALIDATED :]

    def call(trial: Any) -> float:
        lr = trial.suggest_float("lr", 1e-6, 1e-2, log=True)
        decay = trial.suggest_float("weight_decay", 1e-8, 1e-4, log=True)
        net = lib.mlp(course.sizes, seed=0)
        trainer = lib.Trainer(net, lib.SoftmaxCrossEntropy(), lib.SGD(lr, weight_decay=decay))
        prune = fastnn.search.PruneTrial(trial, "val_accuracy")
        history = trainer.fit(
            x[train],
            t[train],
            course.epochs,
            course.batch,
            validation=validation,
            callbacks=[prune],
            progress=False,
        )
        return float(history.val_accuracy[-1])

    return call


def _row(way: Way, found: Sequence[tuple[float, Any]], reference: float) -> dict[str, Any]:
    """Return the columns of a way: medians over the rounds, and of the accuracies the least."""
    seconds = [seconds for seconds, _ in found]
    low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75)).tolist()
    epochs = [sum(len(trial.intermediate_values) for trial in study.trials) for _, study in found]
    return {
        "search": way.name,
        "threads": way.threads,
        "trials": min(len(study.trials) for _, study in found),
        "epochs": float(np.median(epochs)),
        "best accuracy %": 100 * min(study.best_value for _, study in found),
        "seconds": median,
        "spread %": 100 * (high - low) / median,
        "over NumPy": reference / median,
    }


# Samplers

NAMES = ("NarrowingSampler", "RandomSampler", "TPESampler")
SHOWN = (10, 20, 50, 100)  # trials


def samplers(threads: Sequence[int] = (1, 2), rounds: int = 9, quick: bool = False) -> Report:
    """Compare what samplers have found after so many trials, one after another; a round is a seed."""
    _quiet()
    trials = 6 if quick else 100
    rows: list[dict[str, Any]] = []
    for task, call in {"synthetic function": synthetic, "digits": digits(1 if quick else 10)}.items():
        for name in NAMES:
            best = np.array([_best_so_far(call, name, seed, trials) for seed in range(rounds)])
            quartiles = np.quantile(best, (0.25, 0.5, 0.75), axis=0)
            for i, (low, median, high) in enumerate(quartiles.T.tolist(), 1):
                row = {"task": task, "sampler": name, "trials": i, "best": median, "low": low, "high": high}
                rows.append(row)
    shown = [row for row in rows if row["trials"] in SHOWN]
    return Report(rows, [f"median and quartiles of {rounds} seeds; less is better"], shown)


def _best_so_far(call: Callable[[Any], float], name: str, seed: int, trials: int) -> Any:
    """Return the least value after each trial."""
    import optuna

    of = fastnn.search if name == "NarrowingSampler" else optuna.samplers
    study = optuna.create_study(sampler=getattr(of, name)(seed=seed))
    with fastnn.threads(1):
        study.optimize(call, trials)
    return np.minimum.accumulate([trial.value for trial in study.trials])


def synthetic(trial: Any) -> float:
    """Return a value with its least, 0.01, at lr = 3e-3, decay = 1e-5, width = 70 and dropout = 0.2.

    Decay and dropout matter less than the others, as they often do.
    """
    lr = math.log10(trial.suggest_float("lr", 1e-6, 1.0, log=True) / 3e-3)
    decay = math.log10(trial.suggest_float("decay", 1e-8, 1e-1, log=True) / 1e-5)
    width = math.log2(trial.suggest_int("width", 8, 512, log=True) / 70)
    dropout = trial.suggest_float("dropout", 0.0, 0.8) - 0.2
    return 0.01 + lr**2 + 0.05 * decay**2 + 0.2 * width**2 + 0.5 * dropout**2


def digits(epochs: int) -> Callable[[Any], float]:
    """Return what trains a network on scikit-learn's digits and returns the validation loss."""
    from fastnn.demo import read_digits

    task = read_digits()

    def call(trial: Any) -> float:
        lr = trial.suggest_float("lr", 1e-6, 1.0, log=True)
        decay = trial.suggest_float("weight_decay", 1e-8, 1e-1, log=True)
        width = trial.suggest_int("width", 8, 128, log=True)
        net = fastnn.mlp([64, width, 10], dropout=trial.suggest_float("dropout", 0.0, 0.8), seed=0)
        trainer = fastnn.Trainer(
            net, fastnn.SoftmaxCrossEntropy(), fastnn.AdamW(lr, weight_decay=decay), nonfinite="ignore"
        )
        trainer.fit(task.x_train, task.t_train, epochs, task.batch_size, progress=False)
        loss = trainer.evaluate(task.x_test, task.t_test)["loss"]
        return loss if math.isfinite(loss) else 1e9

    return call


def _quiet() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
