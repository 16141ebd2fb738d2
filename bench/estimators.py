"""The estimators against scikit-learn's, from the same random_state, on its handwritten digits."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from . import peers
from .cases import Case
from .report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EPOCHS, EPOCHS_QUICK = 30, 5
TOLERANCE = 0.005  # of the mean accuracy
TOGETHER = "fastnn together"
NAMES = ("fastnn", TOGETHER, "scikit-learn")
BUDGET = 120.0  # seconds for all rounds of a comparison


class Task(NamedTuple):
    """What to fit: hidden sizes, rows a batch, and the folds of a cross-validation, 0 for a single fit."""

    hidden: tuple[int, ...]
    batch: int
    folds: int

    @property
    def name(self) -> str:
        """The task in words."""
        sizes = "-".join(map(str, (64, *self.hidden, 10)))
        return f"{sizes}, batch {self.batch}, {f'{self.folds} folds' if self.folds else 'one fit'}"


TASKS = (
    Task((128, 64), 200, 5),
    Task((128, 64), 200, 0),
    Task((32,), 200, 5),
    Task((32,), 200, 0),
    Task((32,), 32, 5),
    Task((32,), 32, 0),
)


def run(threads: Sequence[int] = (1, 2), rounds: int = 7, quick: bool = False) -> Report:
    """Measure fits and cross-validations by both; a row is a task and a number of threads."""
    rows: list[dict[str, Any]] = []
    for task in TASKS[4:] if quick else TASKS:
        case, accuracies = compared(task, EPOCHS_QUICK if quick else EPOCHS)
        times = peers.timed(case.calls, threads, rounds, BUDGET)
        for n in threads:
            seconds = peers.seconds(times, n)
            columns = {"threads": n, "estimator": case.name} | peers.microseconds(seconds, NAMES)
            ratio = seconds["scikit-learn"] / seconds["fastnn"]
            columns |= {"spread %": times[n]["fastnn"].spread, "over scikit-learn": ratio}
            gained = seconds["fastnn"] / seconds[TOGETHER] if TOGETHER in seconds else peers.NONE
            columns |= {"together, over one by one": gained}
            rows.append(
                columns | {f"accuracy, {name}": accuracies[name] for name in ("fastnn", "scikit-learn")}
            )
    note = "the digits of scikit-learn, Adam; float64 given, fastnn with dtype='float32'; "
    return Report(rows, [note + "fastnn together: cross_validate of fastnn.estimators"])


def compared(task: Task, epochs: int) -> tuple[Case, dict[str, float]]:
    """Return the task as calls of both, which have agreed on the accuracy, and their accuracies."""
    import sklearn.neural_network
    from sklearn.datasets import load_digits

    import fastnn.estimators  # which takes scikit-learn, that the other benchmarks can do without

    x, t = load_digits(return_X_y=True)
    x /= 16
    libraries = {"fastnn": fastnn.estimators, "scikit-learn": sklearn.neural_network}
    calls = {name: _fit(lib, task, epochs, x, t) for name, lib in libraries.items()}
    if task.folds:
        calls[TOGETHER] = _fit(fastnn.estimators, task, epochs, x, t, together=True)
    accuracies = {name: call() for name, call in calls.items()}
    if abs(accuracies["fastnn"] - accuracies["scikit-learn"]) > TOLERANCE:
        raise AssertionError(f"{task.name}: accuracies {accuracies} are further apart than {TOLERANCE}")
    if accuracies.get(TOGETHER, accuracies["fastnn"]) != accuracies["fastnn"]:
        raise AssertionError(f"{task.name}: folds together come to other accuracies, {accuracies}")
    return Case(task.name, calls), accuracies


def _fit(lib: Any, task: Task, epochs: int, x: Any, t: Any, together: bool = False) -> Callable[[], float]:
    from sklearn.model_selection import cross_val_score

    model = lib.MLPClassifier(task.hidden, batch_size=task.batch, max_iter=epochs, random_state=0)
    if "dtype" in model.get_params():
        model.set_params(dtype="float32")

    def call() -> float:
        with warnings.catch_warnings():  # that so few epochs have not converged
            warnings.simplefilter("ignore")
            if together:
                return float(lib.cross_validate(model, x, t, cv=task.folds)["test_score"].mean())
            if task.folds:
                return float(cross_val_score(model, x, t, cv=task.folds).mean())
            return float(model.fit(x, t).score(x, t))

    return call
