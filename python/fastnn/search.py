"""Hyper-parameter search with Optuna: ranges that narrow, a trial a thread, bad trials ended early.

    def objective(trial):
        lr = trial.suggest_float("lr", 1e-6, 1e-2, log=True)
        net = fastnn.mlp([784, 100, 10], seed=0)
        trainer = fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), fastnn.SGD(lr))
        prune = fastnn.search.PruneTrial(trial, "val_accuracy")
        history = trainer.fit(x, t, epochs=50, validation=(xv, tv), callbacks=[prune], progress=False)
        return history.val_accuracy[-1]

    study = fastnn.search.run(objective, n_trials=100, storage="search.db", direction="maximize")

The pieces mix with Optuna's own: `NarrowingSampler` serves any study, `PruneTrial` any trial, and `run` takes
any sampler and pruner. The package optuna is the extra fastnn[search].
"""

from __future__ import annotations

import math
import os
import queue
import signal
import threading
import zlib
from contextlib import contextmanager
from functools import cache
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _checks
from .runtime import get_num_threads
from .runtime import threads as thread_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from optuna.trial import BaseTrial, FrozenTrial, Trial

    from .reference.history import History
    from .reference.trainer import Trainer

__all__ = ["NarrowingSampler", "PruneTrial", "ranges", "run"]  # noqa: F822 (__getattr__ makes the first)

SYNC_SECONDS = 1.0  # between looks at what other processes have stored; one takes SQLite some 3 ms
WORKER = "worker"  # the user attribute of a trial that says which process ran it


def _optuna() -> Any:
    """Return the package; ImportError that says what to install."""
    try:
        import optuna
    except ImportError:
        raise ImportError("fastnn.search needs the package optuna: pip install fastnn[search]") from None
    return optuna


def __getattr__(name: str) -> Any:
    """Make NarrowingSampler when it is asked for: its base class is Optuna's, which need not be installed."""
    if name == "NarrowingSampler":
        return _sampler_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _sampler_class() -> Any:
    base = _optuna().samplers.BaseSampler
    names = {"__doc__": _Narrowing.__doc__, "__module__": __name__}  # with which it can be pickled
    return type("NarrowingSampler", (_Narrowing, base), names)


# The sampler


class _Narrowing:
    """Draws at random from ranges that narrow, round by round, to where the good trials lie.

    The first trials are drawn from the whole range of each parameter: log-uniformly where it is logarithmic,
    else uniformly. After each round of trials the range of a parameter becomes what the best trials of all
    rounds span, and a little more, but never more than the whole. Categories stay, all equally likely: a
    handful of trials says too little to drop one for good.

    A round is counted for each parameter by itself, so that one that only some trials have narrows when a
    round of those has finished. A pruned trial counts but is none of the best; a failed one does not count.
    The best are those of complete trials; until there are enough of them a range stays whole.

    Only the finished trials of the study are looked at, so trials may run side by side in threads or in
    processes that share a storage, and a study may be resumed. What is drawn depends on the seed, the number
    of the trial, the name of the parameter and its range: where trials run one after another, the same seed
    gives the same study.

    Parameters
    ----------
    round_size : int >= 1
        Trials in a round.
    keep : float in (0, 1]
        The share of a round, rounded up, that is how many trials are the best.
    margin : float >= 0
        A range reaches beyond the best trials by this share of what they span, on either side.
    min_width : float in [0, 1]
        A range is no narrower than this share of the whole.
    seed : int >= 0 or None
        None: fresh entropy.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; ValueError when it samples for a study of several objectives.
    ImportError
        Without the package optuna (the extra fastnn[search]).
    """

    def __init__(
        self,
        round_size: int = 10,  # on bench's synthetic function, 12 seeds, 100 trials, these find 0.016, ...
        keep: float = 0.4,
        margin: float = 0.25,  # ... rounds of 20 of which 0.2 are kept 0.022, and of 5 (0.6) 0.043
        min_width: float = 0.05,
        seed: int | None = None,
    ) -> None:
        self.round_size = _checks.integer("round_size", round_size, 1)
        self.keep = _checks.real_number("keep", keep, 0, 1, "(]")
        self.margin = _checks.real_number("margin", margin, 0)
        self.min_width = _checks.real_number("min_width", min_width, 0, 1)
        self.seed = None if seed is None else _checks.integer("seed", seed, 0)
        self._entropy = int.from_bytes(os.urandom(16), "big") if self.seed is None else self.seed

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return nothing: each parameter is drawn by itself."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return nothing: each parameter is drawn by itself."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return a value for a parameter, drawn from its present range."""
        words = (self._entropy, trial.number, zlib.crc32(param_name.encode()))
        u = np.random.default_rng(words).random()
        choices = _choices(param_distribution)
        if choices:
            return choices[int(u * len(choices))]
        low, high = self._part(study, param_name, param_distribution)
        return _Line(param_distribution).value(low + u * (high - low))

    def ranges(self, study: Study) -> dict[str, tuple[Any, ...]]:
        """Return the present ranges, see `fastnn.search.ranges`."""
        latest: dict[str, Any] = {}
        for trial in sorted(_counted(study), key=lambda trial: trial.number):
            latest |= trial.distributions
        return {name: _choices(latest[name]) or self._range(study, name, latest[name]) for name in latest}

    def _range(self, study: Study, name: str, distribution: Any) -> tuple[Any, ...]:
        low, high = self._part(study, name, distribution)
        line = _Line(distribution)
        return line.value(low), line.value(high)

    def _part(self, study: Study, name: str, distribution: BaseDistribution) -> tuple[float, float]:
        """Return what part of a parameter's line, from 0 to 1, is its range now."""
        trials = [trial for trial in _counted(study) if name in trial.params]
        rounds = trials[: len(trials) // self.round_size * self.round_size]
        complete = [trial for trial in rounds if trial.state.name == "COMPLETE"]
        count = math.ceil(self.keep * self.round_size)
        if not rounds or len(complete) < count:
            return 0.0, 1.0
        sign = -1 if study.direction.name == "MAXIMIZE" else 1
        complete.sort(key=lambda trial: sign * (trial.value or 0.0))
        line = _Line(distribution)
        cells = [line.cell(trial.params[name]) for trial in complete[:count]]
        return self._around(min(low for low, _ in cells), max(high for _, high in cells))

    def _around(self, low: float, high: float) -> tuple[float, float]:
        """Return a part of [0, 1] that is a margin wider than [low, high], and at least the least width."""
        margin = self.margin * (high - low)
        low, high = low - margin, high + margin
        lack = max(0.0, self.min_width - (high - low)) / 2
        low, high = low - lack, high + lack
        return max(0.0, min(low, 1 - self.min_width)), min(1.0, max(high, self.min_width))


class _Line:
    """The line from 0 to 1 that a range of numbers is mapped to, of which equal parts are equally likely.

    It is the range itself or, where that is logarithmic, the logarithm. A number of a range with steps has a
    cell of it, half a step to either side.
    """

    def __init__(self, distribution: Any) -> None:
        self._of = distribution
        self._half = (distribution.step or 0) / 2
        self._low = self._scaled(distribution.low - self._half)
        self._high = self._scaled(distribution.high + self._half)

    def _scaled(self, x: float) -> float:
        return math.log(x) if self._of.log else float(x)

    def cell(self, value: float) -> tuple[float, float]:
        """Return where the cell of a value begins and ends, which is the same place without steps."""
        return self._place(value - self._half), self._place(value + self._half)

    def _place(self, x: float) -> float:
        """Return the place of a number; 0 or 1 of one that an earlier, wider range had."""
        if x <= 0 and self._of.log:
            return 0.0
        width = self._high - self._low
        return min(1.0, max(0.0, (self._scaled(x) - self._low) / width)) if width else 0.0

    def value(self, place: float) -> float:
        """Return the number at a place; with steps the one that has the cell."""
        x = self._low + place * (self._high - self._low)
        x = math.exp(x) if self._of.log else x
        if self._of.step:
            x = self._of.low + max(0, round((x - self._of.low) / self._of.step)) * self._of.step
        return min(self._of.high, max(self._of.low, x))  # type: ignore[no-any-return]


def _choices(distribution: Any) -> tuple[Any, ...]:
    """Return the choices of a categorical parameter, none of one of numbers."""
    return tuple(getattr(distribution, "choices", ()))


def _counted(study: Study) -> list[FrozenTrial]:
    """Return the trials that are complete or pruned, in the order in which they came to be so."""
    if len(study.directions) > 1:
        raise ValueError(
            f"NarrowingSampler needs a study of one objective, got one of {len(study.directions)}"
        )
    state = _optuna().trial.TrialState
    trials = study.get_trials(deepcopy=False, states=(state.COMPLETE, state.PRUNED))
    return sorted(trials, key=lambda trial: (trial.datetime_complete, trial.number))


def ranges(study: Study) -> dict[str, tuple[Any, ...]]:
    """Return the ranges from which the next trial of a study is drawn, as they are now.

    Parameters
    ----------
    study : optuna.Study
        With a `NarrowingSampler`.

    Returns
    -------
    dict
        For each parameter of the finished trials (low, high), both included; for a categorical one, its
        choices.

    Raises
    ------
    TypeError
        If the study's sampler is another.
    """
    sampler = getattr(study, "sampler", None)
    if not isinstance(sampler, _Narrowing):
        raise TypeError(
            f"study must be a study with a NarrowingSampler, got "
            f"{_checks.shown(study if sampler is None else sampler)}"
        )
    return sampler.ranges(study)


# Trials that end early


class Interrupted(Exception):
    """Raised through `fit` by `PruneTrial` when Ctrl-C has ended the search that the trial is of."""


_this_thread = threading.local()  # .over: the event that ends the search that this thread works for


class PruneTrial:
    """Reports a figure of each epoch to an Optuna trial, and ends the trial when the pruner says so.

    A callback of `Trainer.fit`. It raises optuna.TrialPruned through `fit`, which Optuna understands. It also
    ends the trial at Ctrl-C within `run`, in the middle of an epoch too.

    One object may serve several fits of its trial, one after another; their epochs count on.

    Parameters
    ----------
    trial : optuna.Trial
    monitor : str
        The figure: one of the history's, see `fastnn.callbacks`.

    Raises
    ------
    TypeError
        If an argument does not fit.
    ValueError
        From `fit`, before its first step, if it does not record `monitor`, or if the study minimizes an
        accuracy or maximizes a loss.
    ImportError
        From `fit`, without the package optuna (the extra fastnn[search]).
    """

    def __init__(self, trial: BaseTrial, monitor: str = "val_loss") -> None:
        for method in ("report", "should_prune"):
            if isinstance(trial, type) or not callable(getattr(trial, method, None)):
                raise TypeError(f"trial must be a trial of Optuna, got {_checks.shown(trial)}")
        if not isinstance(monitor, str):
            raise TypeError(f"monitor must be the name of a figure, got {_checks.shown(monitor)}")
        self.trial = trial
        self.monitor = monitor
        self._epochs = 0

    def on_fit_begin(self, trainer: Trainer, history: History) -> None:
        """Check the figure."""
        if self.monitor not in history.recorded:
            raise ValueError(
                f"monitor must be one of what this training records, {', '.join(history.recorded)}, "
                f"got {self.monitor!r}"
            )
        study = getattr(self.trial, "study", None)  # a FixedTrial has none
        better = "maximize" if self.monitor.endswith("accuracy") else "minimize"
        if study is not None and study.direction.name.lower() != better:
            raise ValueError(f"monitor={self.monitor!r} needs a study with direction={better!r}")

    def on_slice(self, trainer: Trainer, history: History) -> None:
        """End the trial if the search is over."""
        over = getattr(_this_thread, "over", None)
        if over is not None and over.is_set():
            raise Interrupted

    def __call__(self, trainer: Trainer, history: History) -> None:
        """Report the epoch just done; raise optuna.TrialPruned if the pruner says so."""
        self.trial.report(history.latest(self.monitor), self._epochs)
        self._epochs += 1
        if self.trial.should_prune():
            raise _optuna().TrialPruned(f"after epoch {self._epochs}")


# The search


def run(
    objective: Callable[[Trial], float],
    n_trials: int = 100,
    storage: str | os.PathLike[str] | BaseStorage | None = "search.db",
    *,
    name: str = "search",
    direction: str = "minimize",
    sampler: BaseSampler | None = None,
    pruner: BasePruner | None = None,
    threads: int | None = None,
    timeout: float | None = None,
    progress: bool | None = None,
) -> Study:
    """Search for good hyper-parameters: train trials side by side, one a thread, and keep what they found.

    A trial runs within `fastnn.threads(1)`, and training releases Python's lock, so that as many trials train
    as there are threads. Where the objective passes a `PruneTrial` to `fit`, bad trials end early.

    Trials run on a study in memory, and each is stored when it has finished, at once with all that it
    reported: a report for every epoch would take a database longer (some 6 ms) than a small network takes to
    train. So all stored trials are finished ones, numbered in the order in which they finished, which need
    not be that of the `trial.number` that the objective sees: what it takes to repeat a trial, a seed say,
    belongs in its parameters or user attributes. The user attribute "worker" says which process ran it.

    A study that is stored already goes on where it ended. Several processes, also on several machines, may
    work on one study at the same time, each by a call of its own with the same storage and name: they share
    `n_trials`, and every sampler and pruner sees the trials of all. Machines need a server's database;
    samplers with a seed need another one in each process, or they draw the same trials.

    Ctrl-C ends the search: trials that use `PruneTrial` are dropped at once, others are waited for, and all
    that have finished are stored and returned. A second Ctrl-C raises KeyboardInterrupt.

    Parameters
    ----------
    objective : function (trial) -> float
        Trains with the parameters that it asks the trial for and returns the figure that counts. Called by
        several threads. optuna.TrialPruned ends the trial, as do a loss that is not finite
        (FloatingPointError) and a result of NaN: the trial then counts as pruned. Another exception ends the
        search.
    n_trials : int >= 1
        How many trials, complete or pruned, the study shall have in the end. With several processes there
        may be a few more.
    storage : str, path, optuna storage or None
        A file for SQLite, the URL of a database that Optuna knows, such as
        "postgresql://user:password@host/database", or one of Optuna's storages; None: memory.
    name : str
        Of the study; one storage may hold many.
    direction : "minimize" or "maximize"
    sampler : optuna sampler or None
        None: a `NarrowingSampler`.
    pruner : optuna pruner or None
        None: after 5 complete trials and from its 5th epoch on a trial must be among the best quarter of the
        complete ones at the same epoch (`optuna.pruners.PercentilePruner`). In a search of 100 trials of 50
        epochs, many of which learned nothing, this left 1040 and 1322 of 5000 epochs (two seeds) where the
        MedianPruner left 1770 and 4791: where the median trial learns nothing, nothing is worse. The best
        accuracy was that of no pruning. An `optuna.pruners.NopPruner` lets all trials run to their ends.
    threads : int >= 1 or None
        How many trials run at a time; None: `get_num_threads()`.
    timeout : float > 0 or None
        Seconds after which no more trials begin.
    progress : bool or None
        Whether to show a progress bar; None: if standard error is a terminal.

    Returns
    -------
    optuna.Study
        With all trials, the sampler and the pruner.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, the objective returns something else than a number, or the stored study
        has another direction.
    ImportError
        Without the package optuna (the extra fastnn[search]).
    """
    optuna = _optuna()
    _checks.function("objective", objective)
    n_trials = _checks.integer("n_trials", n_trials, 1)
    direction = _checks.choice("direction", direction, ("minimize", "maximize"))
    threads = get_num_threads() if threads is None else _checks.integer("threads", threads, 1)
    timeout = math.inf if timeout is None else _checks.real_number("timeout", timeout, 0, None, "(]")
    hidden = None if progress is None else not _checks.flag("progress", progress)
    options = {
        "direction": direction,
        "sampler": _sampler_class()() if sampler is None else sampler,
        "pruner": optuna.pruners.PercentilePruner(25.0, n_warmup_steps=4) if pruner is None else pruner,
    }
    study = optuna.create_study(study_name=name, **options)
    stored: Study = study
    if storage is not None:
        stored = optuna.create_study(
            storage=_database(storage), study_name=name, load_if_exists=True, **options
        )
        if stored.directions != study.directions:
            raise ValueError(f"direction must be that of the stored study {name!r}, got {direction!r}")
    search = _Search(objective, study, stored, n_trials, monotonic() + timeout)
    search.run(threads, hidden)
    return stored


def _database(storage: Any) -> Any:
    """Return a storage in the form that Optuna takes; a path becomes the URL of an SQLite file."""
    if isinstance(storage, (str, os.PathLike)):
        text = os.fsdecode(storage)
        return text if "://" in text else f"sqlite:///{os.path.abspath(text)}"
    if not isinstance(storage, _optuna().storages.BaseStorage):
        raise TypeError(
            f"storage must be a path, a URL, a storage of Optuna or None, got {_checks.shown(storage)}"
        )
    return storage


class _Search:
    """One call of `run`: workers, which run trials in memory, and the thread that stores what they finish."""

    def __init__(
        self, objective: Callable[[Trial], float], study: Study, stored: Study, n_trials: int, end: float
    ) -> None:
        self.objective = objective
        self.study = study
        self.stored = stored
        self.n_trials = n_trials
        self.end = end
        self.worker = f"{os.uname().nodename}-{os.getpid()}-{os.urandom(4).hex()}"
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.running = 0
        self.imported: set[int] = set()  # the numbers of the stored trials that are in memory, or not wanted
        self.looked = -math.inf
        self.errors: list[BaseException] = []
        self.finished: queue.SimpleQueue[FrozenTrial | None] = queue.SimpleQueue()  # None: a worker has ended

    def run(self, threads: int, hidden: bool | None) -> None:
        """Run trials until there are enough, time or Ctrl-C ends the search, or an objective raises."""
        self._import()
        done = self._done()
        count = min(threads, max(0, self.n_trials - done))
        workers = [threading.Thread(target=self._work, name=f"trial-{i}") for i in range(count)]
        with _interrupting(self.over), _bar(self.n_trials, done, hidden) as bar:
            try:
                for worker in workers:
                    worker.start()
                self._store(len(workers), bar)
            finally:
                self.over.set()
                for worker in workers:
                    worker.join()
        if self.errors:
            raise self.errors[0]

    # What the workers do

    def _work(self) -> None:
        """Run one trial after another."""
        _this_thread.over = self.over
        try:
            with thread_limit(1):
                while self._claim():
                    trial = self._attempt()
                    with self.lock:
                        self.running -= 1
                    if trial is not None:
                        self.finished.put(trial)
        except BaseException as error:  # it belongs to the caller of run, who is in another thread
            self.errors.append(error)
            self.over.set()
        self.finished.put(None)

    def _claim(self) -> bool:
        """Return whether there is a trial to run, and count it."""
        with self.lock:
            if self.over.is_set() or monotonic() >= self.end or self._done() + self.running >= self.n_trials:
                return False
            self.running += 1
            return True

    def _done(self) -> int:
        """Return how many trials are complete or pruned."""
        state = _optuna().trial.TrialState
        return len(self.study.get_trials(deepcopy=False, states=(state.COMPLETE, state.PRUNED)))

    def _attempt(self) -> FrozenTrial | None:
        """Run a trial; return it, or None where Ctrl-C has ended it."""
        optuna = _optuna()
        state = optuna.trial.TrialState
        trial = self.study.ask()
        trial.set_user_attr(WORKER, self.worker)
        try:
            value = self.objective(trial)
            if not (isinstance(value, (float, np.floating)) and math.isnan(value)):
                value = _checks.real_number("the objective's result", value, -math.inf, math.inf)
                return self.study.tell(trial, value)
        except (optuna.TrialPruned, FloatingPointError):
            pass
        except BaseException as error:
            self.study.tell(trial, state=state.FAIL)
            if isinstance(error, Interrupted):
                return None
            raise
        return self.study.tell(trial, state=state.PRUNED)

    # What the calling thread does

    def _store(self, workers: int, bar: Any) -> None:
        """Store trials as they finish, until all workers have ended."""
        while workers:
            trial = self.finished.get()
            if trial is None:
                workers -= 1
                continue
            if self.stored is not self.study:
                self.stored.add_trial(trial)
                if monotonic() - self.looked >= SYNC_SECONDS:
                    self._import()
            bar.update(self._done() - bar.n)

    def _import(self) -> None:
        """Copy what has been stored, but by this process, into the study in memory."""
        if self.stored is self.study:
            return
        for trial in self.stored.get_trials(deepcopy=False):
            if trial.state.is_finished() and trial.number not in self.imported:
                self.imported.add(trial.number)
                if trial.state.name != "FAIL" and trial.user_attrs.get(WORKER) != self.worker:
                    self.study.add_trial(trial)
        self.looked = monotonic()


@contextmanager
def _interrupting(over: threading.Event) -> Iterator[None]:
    """Have Ctrl-C set an event; a second one does what it did before."""
    before = signal.getsignal(signal.SIGINT)

    def handle(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        over.set()

    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield  # Ctrl-C does not come here
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _bar(total: int, done: int, hidden: bool | None) -> Any:
    """Return a progress bar of tqdm, which Optuna needs itself."""
    from tqdm import tqdm

    return tqdm(total=total, initial=done, unit="trial", disable=hidden)
