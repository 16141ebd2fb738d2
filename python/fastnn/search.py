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
any sampler and pruner. The package optuna is the extra fastnn-cpu[search].
"""

from __future__ import annotations

import copy
import logging
import math
import os
import queue
import signal
import threading
import zlib
from collections import deque
from contextlib import contextmanager
from functools import cache, partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _checks
from ._together import Abandoned, Together
from .metrics import more_is_better
from .runtime import get_num_threads
from .runtime import threads as thread_limit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from optuna.trial import BaseTrial, FrozenTrial, Trial, TrialState

    from .reference.history import History
    from .reference.trainer import Trainer

__all__ = ["NarrowingSampler", "PruneTrial", "ranges", "run"]  # noqa: F822 (__getattr__ makes the first)

SYNC_SECONDS = 1.0  # between looks at what other processes have stored; one takes SQLite some 3 ms
WORKER = "worker"  # the user attribute of a trial that says which process ran it
ENQUEUED = (
    "fastnn:enqueued"  # the system attribute, in memory, of one that waited in the storage: its id there
)

_log = logging.getLogger(__name__)


def _optuna() -> Any:
    """Return the package; ImportError that says what to install."""
    try:
        import optuna
    except ImportError:
        raise ImportError("fastnn.search needs the package optuna: pip install fastnn-cpu[search]") from None
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
        Without the package optuna (the extra fastnn-cpu[search]).
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
    ends the trial at Ctrl-C, in the middle of an epoch too, and with it the search: within `run` as told
    there, elsewhere, in `optuna.Study.optimize` say, by KeyboardInterrupt.

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
        From `fit`, before its first step, if it does not record `monitor`, or if the study minimizes a figure
        of which more is better (see `fastnn.callbacks`) or maximizes one of which less is.
    ImportError
        From `fit`, without the package optuna (the extra fastnn-cpu[search]).
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
        more = more_is_better(self.monitor)
        better = "maximize" if more else "minimize"
        if study is not None and more is not None and study.direction.name.lower() != better:
            raise ValueError(f"monitor={self.monitor!r} needs a study with direction={better!r}")

    def on_slice(self, trainer: Trainer, history: History) -> None:
        """End the trial if the search is over."""
        over = getattr(_this_thread, "over", None)
        if over is not None and over.is_set():
            raise Interrupted

    def on_fit_end(self, trainer: Trainer, history: History) -> None:
        """Raise KeyboardInterrupt if Ctrl-C has ended the training: its figures are not those of a trial."""
        if history.interrupted:
            raise KeyboardInterrupt

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
    catch: type[Exception] | Iterable[type[Exception]] = (),
    threads: int | None = None,
    timeout: float | None = None,
    progress: bool | None = None,
    together: int | None = None,
) -> Study:
    """Search for good hyper-parameters: train trials side by side, one a thread, and keep what they found.

    A trial runs within `fastnn.threads(1)`, and training releases Python's lock, so that as many trials train
    as there are threads. Where the objective passes a `PruneTrial` to `fit`, bad trials end early.

    With `together` more trials run at a time than there are threads, as a `Population` does: the threads do
    what their `Trainer.fit`, or that of `fastnn.estimators`, have to do, one after another, so that trials of
    small networks keep them busy. An objective runs by itself but for that, and all trials go through their
    epochs in step: when each has done one, reports, ends and new trials come in the order of the trials.
    With a sampler that has a seed the same call gives the same study then, on any number of threads.

    Trials run on a study in memory, and each is stored when it has finished, at once with all that it
    reported: a report for every epoch would take a database longer (some 6 ms) than a small network takes to
    train. So all stored trials are finished ones, numbered in the order in which they finished, which need
    not be that of the `trial.number` that the objective sees: what it takes to repeat a trial, a seed say,
    belongs in its parameters or user attributes. The user attribute "worker" says which process ran it.

    Trials that were enqueued in the stored study (`optuna.Study.enqueue_trial`) come first. `trial.study` is
    the study in memory, with the user attributes of the stored one. Its `stop`, which samplers call that have
    tried all there is, lets the trials that run finish and no more begin.

    A study that is stored already goes on where it ended. Several processes, also on several machines, may
    work on one study at the same time, each by a call of its own with the same storage and name: they share
    `n_trials`, and every sampler and pruner sees the trials of all. Machines need a server's database;
    samplers with a seed need another one in each process, or they draw the same trials. Those that go through
    all there is, `GridSampler` and `BruteForceSampler`, may try some of it twice where there are several
    processes, or where Ctrl-C has dropped trials; n_trials should leave room for that.

    Ctrl-C ends the search: trials that use `PruneTrial` are dropped at once, others are waited for, and all
    that have finished are stored and returned. A second Ctrl-C raises KeyboardInterrupt. A trial that is
    dropped, or that ends the search by an exception, is not stored; if it was enqueued, it waits again. A
    storage that fails is tried again when the next trial has finished; failing then too it ends the search.

    Parameters
    ----------
    objective : function (trial) -> float
        Trains with the parameters that it asks the trial for and returns the figure that counts, whatever
        float() takes. Called by several threads. optuna.TrialPruned ends the trial, as do a loss that is not
        finite (FloatingPointError) and a result of NaN: the trial then counts as pruned. Another exception
        ends the search, unless `catch` names it.
    n_trials : int >= 1
        How many trials, complete, pruned or failed, the study shall have in the end. With several processes
        there may be a few more.
    storage : str, path, optuna storage or None
        A file for SQLite, the URL of a database that Optuna knows, such as
        "postgresql://user:password@host/database", or one of Optuna's storages; None: memory, of which an
        exception leaves nothing, but of an `optuna.storages.InMemoryStorage` of your own.
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
    catch : exception class or iterable of such
        What, raised by the objective, only fails its trial: it is logged, and the search goes on.
    threads : int >= 1 or None
        How many trials run at a time; None: `get_num_threads()`. Where the system refuses threads, fewer, and
        the calling thread if there is none.
    timeout : float > 0 or None
        Seconds after which no more trials begin.
    progress : bool or None
        Whether to show a progress bar; None: if standard error is a terminal.
    together : int >= 1 or None
        How many trials run at a time, on `threads` threads; None: one a thread.

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
        Without the package optuna (the extra fastnn-cpu[search]).
    """
    optuna = _optuna()
    _checks.function("objective", objective)
    n_trials = _checks.integer("n_trials", n_trials, 1)
    direction = _checks.choice("direction", direction, ("minimize", "maximize"))
    catch = _exceptions(catch)
    threads = get_num_threads() if threads is None else _checks.integer("threads", threads, 1)
    timeout = math.inf if timeout is None else _checks.real_number("timeout", timeout, 0, None, "(]")
    hidden = None if progress is None else not _checks.flag("progress", progress)
    together = None if together is None else _checks.integer("together", together, 1)
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
    search = _Search(objective, study, stored, n_trials, monotonic() + timeout, catch)
    search.run(threads, hidden, together)
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


def _exceptions(catch: Any) -> tuple[type[Exception], ...]:
    """Return classes of exceptions as a tuple; TypeError for anything else."""
    classes = (catch,) if isinstance(catch, type) else catch
    try:
        classes = tuple(classes)
    except TypeError:
        classes = (None,)
    if not all(isinstance(c, type) and issubclass(c, Exception) for c in classes):
        raise TypeError(f"catch must be a class of exceptions or several, got {_checks.shown(catch)}")
    return classes


class _Search:
    """One call of `run`: workers, which run trials in memory, and the thread that stores what they finish."""

    def __init__(
        self,
        objective: Callable[[Trial], float],
        study: Study,
        stored: Study,
        n_trials: int,
        end: float,
        catch: tuple[type[Exception], ...],
    ) -> None:
        self.objective = objective
        self.study = study
        self.stored = stored
        self.apart = stored is not study
        self.storage = stored._storage
        self.attributes = stored.user_attrs
        self.n_trials = n_trials
        self.end = end
        self.catch = catch
        self.worker = f"{os.uname().nodename}-{os.getpid()}-{os.urandom(4).hex()}"
        self.stopped = threading.Event()  # no more trials begin
        self.over = threading.Event()  # and those that can be dropped are
        self.lock = threading.Lock()
        self.running = 0
        self.imported: set[int] = set()  # the numbers of the stored trials that are in memory, or not wanted
        self.looked = -math.inf
        self.errors: list[BaseException] = []
        self.finished: queue.SimpleQueue[FrozenTrial | None] = queue.SimpleQueue()  # None: a worker has ended
        self.unstored: deque[FrozenTrial] = deque()
        self.storage_failed = False
        self.refusals = 0  # of the storage, one after the other
        self.waiting: deque[FrozenTrial] = deque()  # in the storage, enqueued
        self.claimed: set[int] = set()  # those that this process has taken to run, by their ids there

    def run(self, threads: int, hidden: bool | None, together: int | None) -> None:
        """Run trials until there are enough, or something ends the search."""
        if self.apart:
            for key, value in self.attributes.items():
                self.study.set_user_attr(key, value)
        self._import()
        done = self._done()
        count = min(threads, max(0, self.n_trials - done))
        work: Callable[..., None] = self._work
        if together is not None:
            work, count = partial(self._work_together, threads, together), min(count, 1)
        workers: list[threading.Thread] = []
        self.study.stop = self.stopped.set  # type: ignore[method-assign]  # Optuna's is for its own loop
        with _interrupting(self.over), _bar(self.n_trials, done, hidden) as bar:
            try:
                for i in range(count):
                    worker = threading.Thread(target=work, name=f"trial-{i}")
                    try:
                        worker.start()
                    except RuntimeError as error:  # the system refuses another
                        _log.warning("the search has %d of %d threads: %s", i, count, error)
                        break
                    workers.append(worker)
                if count and not workers:
                    work(bar)
                self._store(len(workers), bar)
            finally:
                self.over.set()
                for worker in workers:
                    worker.join()
                del self.study.stop
                if self.apart:
                    self._finish()
        if self.errors:
            raise self.errors[0]

    def _fail(self, error: BaseException) -> None:
        """End the search by an error, which belongs to the caller of run."""
        self.errors.append(error)
        self.over.set()

    # What the workers do

    def _work(self, bar: Any = None) -> None:
        """Run one trial after another; with a bar in the calling thread, and store them too."""
        _this_thread.over = self.over
        try:
            with thread_limit(1):
                while self._claim():
                    try:
                        self._attempt()
                    finally:
                        with self.lock:
                            self.running -= 1
                    if bar is not None:
                        self._store(0, bar)
        except BaseException as error:
            self._fail(error)
        _this_thread.over = None
        self.storage.remove_session()
        self.finished.put(None)

    def _work_together(self, threads: int, together: int, bar: Any = None) -> None:
        """Run so many trials at a time; with a bar in the calling thread, and store them too."""

        def begin() -> Callable[[], None] | None:
            if bar is not None:
                self._store(0, bar)
            return self._one if self._claim() else None

        _this_thread.over = self.over
        try:
            with thread_limit(threads):
                Together(together, begin).run()
        except BaseException as error:
            self._fail(error)
        _this_thread.over = None
        self.storage.remove_session()
        self.finished.put(None)

    def _one(self) -> None:
        """Run a trial that is claimed, in a thread of its own."""
        _this_thread.over = self.over
        try:
            with thread_limit(1):
                self._attempt()
        except Abandoned:  # by an error that ends the search
            pass
        except BaseException as error:
            self._fail(error)
        finally:
            with self.lock:
                self.running -= 1
            self.storage.remove_session()

    def _claim(self) -> bool:
        """Return whether there is a trial to run, and count it."""
        with self.lock:
            ended = self.over.is_set() or self.stopped.is_set() or monotonic() >= self.end
            if ended or self._done() + self.running >= self.n_trials:
                return False
            self.running += 1
            return True

    def _done(self) -> int:
        """Return how many trials have finished."""
        return sum(trial.state.is_finished() for trial in self.study.get_trials(deepcopy=False))

    def _attempt(self) -> None:
        """Run a trial and hand it over to be stored."""
        optuna = _optuna()
        state = optuna.trial.TrialState
        enqueued = self._enqueued()
        if enqueued is not None:
            self.study.add_trial(enqueued)  # which the next to ask gets
        trial = self.study.ask()
        trial.set_user_attr(WORKER, self.worker)
        if self.apart:
            _keep_tuples(trial)
        try:
            value = _number(self.objective(trial))
        except (optuna.TrialPruned, FloatingPointError):
            self._tell(trial, state.PRUNED)
        except Interrupted:
            self._tell(trial, state.FAIL, keep=False)
        except self.catch as error:
            _log.warning("trial %d failed: %r", trial.number, error, exc_info=True)
            self._tell(trial, state.FAIL)
        except BaseException:
            self._tell(trial, state.FAIL, keep=False)
            raise
        else:
            if math.isnan(value):
                self._tell(trial, state.PRUNED)
            else:
                self._tell(trial, state.COMPLETE, value)

    def _tell(self, trial: Trial, state: TrialState, value: float | None = None, keep: bool = True) -> None:
        """End a trial, and hand it over if it is to be kept, also where the sampler fails."""
        try:
            self.study.tell(trial, value, state)
        finally:
            if keep:
                self.finished.put(self.study.get_trials(deepcopy=False)[trial.number])

    def _enqueued(self) -> FrozenTrial | None:
        """Return a trial that waited in the storage, and is now this process's, or None."""
        while self.waiting:
            try:
                trial = copy.copy(self.waiting.popleft())
                running = _optuna().trial.TrialState.RUNNING
                if not self.storage.set_trial_state_values(trial._trial_id, running):
                    continue
            except (IndexError, RuntimeError):  # another has it, or has finished it
                continue
            self.claimed.add(trial._trial_id)
            fixed = _nested(trial.system_attrs.get("fixed_params", {}), tuple)
            trial.system_attrs = trial.system_attrs | {"fixed_params": fixed, ENQUEUED: trial._trial_id}
            return trial
        return None

    # What the calling thread does

    def _store(self, workers: int, bar: Any) -> None:
        """Store trials as they finish, until so many workers have ended and none is left."""
        while workers > 0 or not self.finished.empty():
            trial = self.finished.get()
            if trial is None:
                workers -= 1
                continue
            if self.apart:
                self.unstored.append(trial)
                self._sync()
            bar.update(self._done() - bar.n)

    def _sync(self) -> None:
        """Store what has finished and, now and then, look at what others have stored."""
        if self.over.is_set() and self.storage_failed:
            return  # `_finish` tries again
        try:
            while self.unstored:
                self._write(self.unstored[0])
                self.unstored.popleft()
                self.storage_failed = False
            if monotonic() - self.looked >= SYNC_SECONDS:
                self._import()
        except Exception as error:
            if self.storage_failed:
                self._fail(error)
            else:
                _log.warning("the storage failed and will be tried again: %r", error)
            self.storage_failed = True

    def _write(self, trial: FrozenTrial) -> None:
        """Store a trial: one that was enqueued in its place, any other as a new one."""
        trial = _converted(trial, list)
        trial.system_attrs = dict(trial.system_attrs)
        place: Any = trial.system_attrs.pop(ENQUEUED, None)
        if place is None:
            self.stored.add_trial(trial)
            return
        known = self.storage.get_trial(place).params  # of an attempt that failed
        for name, distribution in trial.distributions.items():
            if name not in known:
                value = distribution.to_internal_repr(trial.params[name])
                self.storage.set_trial_param(place, name, value, distribution)
        for step, figure in trial.intermediate_values.items():
            self.storage.set_trial_intermediate_value(place, step, figure)
        for key, attribute in trial.user_attrs.items():
            self.storage.set_trial_user_attr(place, key, attribute)
        for key, attribute in trial.system_attrs.items():
            self.storage.set_trial_system_attr(place, key, attribute)
        self.storage.set_trial_state_values(place, trial.state, trial.values)
        self.claimed.discard(place)

    def _import(self) -> None:
        """Copy what has been stored, but by this process, into the study in memory."""
        if not self.apart:
            return
        trials = self.stored.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state.is_finished() and trial.number not in self.imported:
                self.imported.add(trial.number)
                if trial.user_attrs.get(WORKER) != self.worker:
                    self.study.add_trial(_converted(trial, tuple))
        self.waiting = deque(trial for trial in trials if trial.state.name == "WAITING")
        self.looked = monotonic()

    def _finish(self) -> None:
        """Store, when all workers have ended, what is left; go on after an error, for what can be stored."""
        state = _optuna().trial.TrialState
        while not self.finished.empty():
            trial = self.finished.get()
            if trial is not None:
                self.unstored.append(trial)
        for trial in self.study.get_trials(deepcopy=False, states=(state.WAITING,)):
            if ENQUEUED not in trial.system_attrs:  # an objective has enqueued it
                self.unstored.append(trial)
        lost = sum(not self._try(self._write, trial) for trial in self.unstored)
        if lost:
            _log.warning("%d trials that have finished could not be stored", lost)
        for key, value in self.study.user_attrs.items():
            if key not in self.attributes or self.attributes[key] != value:
                self._try(self.stored.set_user_attr, key, value)
        for place in list(self.claimed):
            self._try(self.storage.set_trial_state_values, place, state.WAITING)

    def _try(self, do: Callable[..., Any], *arguments: Any) -> bool:
        """Do something to the storage, unless it has failed twice in a row: each failure takes seconds."""
        if self.refusals > 1:
            return False
        try:
            do(*arguments)
        except Exception as error:
            self.errors.append(error)
            self.refusals += 1
            return False
        self.refusals = 0
        return True


def _number(result: Any) -> float:
    """Return the result of an objective as a float; TypeError if it is none."""
    if isinstance(result, (list, tuple)) and len(result) == 1:
        result = result[0]  # as for a study of several objectives
    try:
        if not isinstance(result, (str, bytes)):
            return float(result)
    except (TypeError, ValueError, OverflowError):
        pass
    raise TypeError(f"the objective's result must be a number, got {_checks.shown(result)}")


# Choices that are sequences: a storage makes lists of them, as JSON does. In memory they are tuples, which
# samplers can hash, so that those of all processes are equal. The objective gets what it gave.


def _nested(value: Any, kind: type) -> Any:
    """Return a value with each list or tuple, however deep, as one of a kind."""
    if isinstance(value, (list, tuple)):
        return kind(_nested(item, kind) for item in value)
    if isinstance(value, dict):
        return {key: _nested(item, kind) for key, item in value.items()}
    return value


def _converted(trial: FrozenTrial, kind: type) -> FrozenTrial:
    """Return a trial whose choices that are sequences are of a kind."""
    trial = copy.copy(trial)
    categorical = _optuna().distributions.CategoricalDistribution
    choices = {name: _choices(distribution) for name, distribution in trial.distributions.items()}
    trial.distributions = {
        name: categorical(_nested(choices[name], kind)) if choices[name] else distribution
        for name, distribution in trial.distributions.items()
    }
    trial.params = {
        name: _nested(value, kind) if choices[name] else value for name, value in trial.params.items()
    }
    return trial


def _keep_tuples(trial: Trial) -> None:
    """Have a trial keep tuples of choices that are sequences, and give the objective its own."""
    suggest = trial.suggest_categorical

    def suggest_categorical(name: str, choices: Any) -> Any:
        own = tuple(choices)
        if not any(isinstance(choice, (list, tuple, dict)) for choice in own):
            return suggest(name, own)
        kept = _nested(own, tuple)
        return own[kept.index(suggest(name, kept))]

    trial.suggest_categorical = suggest_categorical  # type: ignore[method-assign]


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
