"""Callbacks: what `Trainer.fit` calls while it trains.

A callback is a function (trainer, history). It is called after each epoch, when the figures of the epoch are
in the history, and the result True ends the training; any other, a number say, means nothing. It may also be
an object that can be called like that and has any of the methods

    on_fit_begin(trainer, history)   before the first step, when all arguments of `fit` have been checked
    on_slice(trainer, history)       after every slice of steps; True ends the training there; an epoch that
                                     has steps left then does not count
    on_fit_end(trainer, history)     at the end, also after Ctrl-C, but not where an exception leaves `fit`

Ctrl-C in a callback, or KeyboardInterrupt that it raises, leaves `fit` like any other exception. Where the
callback has a true attribute `uninterrupted`, as those below do, Ctrl-C waits until it has returned, and then
ends the training.

A slice is some steps long, in `fastnn.reference` one.

The callbacks below start afresh with every `fit`, unless they go on with what a trainer's file says (the
argument `resume` of `fit`) or with what they were given by `load_state_dict`. An object serves one `fit` at a
time, and in it once: RuntimeError otherwise. The figure that one of them watches, `monitor`, is one of the
history's: "loss", that of the epoch (`epoch_loss`), or, with validation data, "val_loss", "val_accuracy" and
the metrics, "val_f1". Less is better of a loss and of mae, mse and rmse (`mode` "min"), more of the other
metrics of `fastnn.metrics` ("max"), which is what "auto" stands for; a figure of your own needs "min" or
"max". NaN is never better.

A callback may record figures of its own, `history.extend(f1=[0.9])`. One that others watch says so in its
`on_fit_begin`, `history.extend(f1=[])`, and comes before them.
"""

from __future__ import annotations

import math
import os
from itertools import count
from time import monotonic, time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _checks, checkpoint
from .metrics import more_is_better

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ._checks import Array
    from .reference.history import History
    from .reference.trainer import Trainer

__all__ = ["CSVLogger", "Checkpoint", "EarlyStopping", "ReduceOnPlateau", "TensorBoard", "TimeLimit"]


class _Best:
    """The best value of a figure so far, and the epoch that it is of, counted from the start of the fit."""

    def __init__(self, monitor: str, mode: str, min_delta: float) -> None:
        if not isinstance(monitor, str):
            raise TypeError(f"monitor must be the name of a figure, got {_checks.shown(monitor)}")
        self.monitor = monitor
        self.mode = mode = _checks.choice("mode", mode, ("auto", "min", "max"))
        more = mode == "max" if mode != "auto" else more_is_better(monitor)
        self._sign = 0 if more is None else 1 if more else -1
        self.min_delta = _checks.real_number("min_delta", min_delta, 0)
        self.forget()

    def forget(self) -> None:
        self.value: float | None = None
        self.epoch = 0
        self.waited = 0  # epochs since then
        self.epochs = 0  # all that were looked at
        self._before = 0  # of these, those that are not in this history

    def config(self) -> dict[str, Any]:
        return {"monitor": self.monitor, "mode": self.mode, "min_delta": self.min_delta}

    def state(self) -> dict[str, Any]:
        return {"best": self.value, "best_epoch": self.epoch, "waited": self.waited, "epochs": self.epochs}

    def read(self, d: Mapping[str, Any]) -> _Best:
        """Return one of the same form in this state; TypeError or ValueError if it is none."""
        read = _Best(**self.config())
        best = d["best"]
        read.value = None if best is None else _checks.real_number("d['best']", best, -math.inf, math.inf)
        read.epoch, read.waited, read.epochs = (
            _checks.integer(f"d[{name!r}]", d[name], 0) for name in ("best_epoch", "waited", "epochs")
        )
        read._before = read.epochs
        return read

    def begin(self, history: History) -> None:
        """Refuse with ValueError a training that does not record the figure."""
        if self.monitor not in history.recorded:
            raise ValueError(
                f"monitor must be one of what this training records, {', '.join(history.recorded)}, "
                f"got {self.monitor!r}"
            )
        if not self._sign:
            raise ValueError(f'mode must be "min" or "max" for {self.monitor!r}, a figure of your own')

    def improved(self, history: History) -> bool:
        """Return whether the epoch just done is better than the best before, by more than min_delta."""
        value = history.latest(self.monitor)
        self.epochs = self._before + history.epochs
        first = self.value is None and not math.isnan(value)
        if first or (self.value is not None and self._sign * (value - self.value) > self.min_delta):
            self.value, self.epoch, self.waited = value, self.epochs, 0
            return True
        self.waited += 1
        return False


class Callback:
    """Base of the callbacks below."""

    uninterrupted = True
    place = 0  # those of a later one are called after the others at the end of an epoch
    _user: object

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy, which no `fit` uses yet."""
        return {name: value for name, value in self.__dict__.items() if name != "_user"}


class Resuming(Callback):
    """Base of those that go on with what a trainer's file says."""

    _loaded = False

    def _config(self) -> dict[str, Any]:
        """Return the arguments that make one like this."""
        raise NotImplementedError

    def _goes_on_with(self, config: Mapping[str, Any]) -> bool:
        """Return whether this one may go on with the state of one of this configuration."""
        return self._config() == config

    def state_dict(self) -> dict[str, Any]:
        """Return what it takes to go on from here: numbers, strings and, by name, arrays, all copied."""
        raise NotImplementedError

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Have the next `fit` go on from what `state_dict` returned.

        TypeError or ValueError, and no change, if it does not fit.
        """
        names = self.state_dict().keys()
        if not hasattr(d, "keys") or set(d.keys()) != names:
            raise ValueError(
                f"d must be the state of {type(self).__name__}, with {', '.join(names)}, "
                f"got {_checks.shown(d)}"
            )
        self._read(d)
        self._loaded = True

    def _read(self, d: Mapping[str, Any]) -> None:
        """Take the state of another."""
        raise NotImplementedError

    def _begin(self) -> None:
        """Start afresh, unless a state was loaded."""
        if not self._loaded:
            self._forget()
        self._loaded = False

    def _forget(self) -> None:
        """Start afresh."""
        raise NotImplementedError


class EarlyStopping(Resuming):
    """Ends a training that no longer gets better.

    Parameters
    ----------
    monitor : str
        The figure to watch, see the module.
    patience : int >= 1
        So many epochs in a row without improvement end the training.
    min_delta : float >= 0
        What improves the figure by no more than this is no improvement.
    mode : "auto", "min" or "max"
    restore_best : bool
        Whether, when the training ends, by whatever but an error, the network gets the parameters and running
        statistics back that it had after the best epoch. The optimizer keeps its state. Of a trainer with an
        average it is the average's that both networks get.

    Attributes
    ----------
    best : float or None
        The best figure so far.
    best_epoch : int
        The epoch that it is of, 1 for the first of the `fit`, or of that which it goes on with; 0: none.
    stopped : bool
        Whether it has ended the training.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; from `fit`, before its first step, if it does not record `monitor` or the
        network's state cannot be restored.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 5,
        min_delta: float = 0.0,
        mode: str = "auto",
        restore_best: bool = True,
    ) -> None:
        self._best = _Best(monitor, mode, min_delta)
        self.patience = _checks.integer("patience", patience, 1)
        self.restore_best = _checks.flag("restore_best", restore_best)
        self.stopped = False
        self._state: Any = None

    @property
    def best(self) -> float | None:
        """The best figure so far."""
        return self._best.value

    @property
    def best_epoch(self) -> int:
        """The epoch of the best figure."""
        return self._best.epoch

    def on_fit_begin(self, trainer: Trainer, history: History) -> None:
        """Start afresh, or go on."""
        if self.restore_best:
            for method in ("state_dict", "load_state_dict"):
                if not hasattr(trainer.net, method):
                    raise TypeError(f"restore_best=True needs a network with {method}")
        self._best.begin(history)
        if self._loaded and self._state is not None:
            own = {name: array.shape for name, array in trainer.net.state_dict().items()}
            if own != {name: array.shape for name, array in self._state.items()}:
                raise ValueError("the state of EarlyStopping must be that of a network as this one is")
        self._begin()

    def _config(self) -> dict[str, Any]:
        return {**self._best.config(), "patience": self.patience, "restore_best": self.restore_best}

    def state_dict(self) -> dict[str, Any]:
        """Return best, best_epoch, stopped, the epochs waited and all, and "net", the best state or None."""
        copied = None if self._state is None else {name: np.array(a) for name, a in self._state.items()}
        return {**self._best.state(), "stopped": self.stopped, "net": copied}

    def _read(self, d: Mapping[str, Any]) -> None:
        best, stopped, net = self._best.read(d), _checks.flag("d['stopped']", d["stopped"]), d["net"]
        if net is not None:
            if not isinstance(net, dict):
                raise TypeError(f"d['net'] must be a dict of arrays or None, got {_checks.shown(net)}")
            net = {name: np.array(_checks.real_array(f"d['net'][{name!r}]", net[name])) for name in net}
        self._best, self.stopped, self._state = best, stopped, net

    def _forget(self) -> None:
        self._best.forget()
        self.stopped = False
        self._state = None

    def __call__(self, trainer: Trainer, history: History) -> bool:
        """Look at the epoch just done; return whether to stop."""
        if self._best.improved(history) and self.restore_best:
            average = getattr(trainer, "averaged", None)
            self._state = (trainer.net if average is None else average).state_dict()
        self.stopped = self._best.waited >= self.patience
        return self.stopped

    def on_fit_end(self, trainer: Trainer, history: History) -> None:
        """Restore the best state."""
        if self._state is not None:
            for net in (trainer.net, getattr(trainer, "averaged", None)):
                if net is not None:
                    net.load_state_dict(self._state)
            self._state = None


class Checkpoint(Resuming):
    """Saves the trainer after epochs, as `Trainer.save` does, when all other callbacks have seen the epoch.

    Parameters
    ----------
    path : str or path
        May have the field {epoch}, the number of epochs that the trainer has done by all calls, as in
        "run-{epoch:03d}.npz"; without, each file replaces the one before. Other braces are doubled. The
        directory must exist.
    monitor : str or None
        The figure that says what is best, see the module; only with `best_only`.
    every : int >= 1
        Epochs whose number is no multiple of it are passed over.
    best_only : bool
        Whether to save only where `monitor` is better than it was at all files of this `fit`.
    mode : "auto", "min" or "max"

    Attributes
    ----------
    saved : str or None
        The last file written.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; from `fit`, before its first step, if it does not record `monitor` or
        the trainer cannot be saved.
    FileNotFoundError
        From `fit`, before its first step, if the directory does not exist.
    """

    place = 2

    def __init__(
        self,
        path: str | os.PathLike[str],
        monitor: str | None = None,
        every: int = 1,
        best_only: bool = False,
        mode: str = "auto",
    ) -> None:
        self.path = _path("path", path)
        try:
            self.path_of(1)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise ValueError(f"path may have the field {{epoch}} and no other, got {self.path!r}") from None
        checkpoint.suffix_of(self.path)
        self.every = _checks.integer("every", every, 1)
        self.best_only = _checks.flag("best_only", best_only)
        if self.best_only != (monitor is not None):
            raise ValueError("best_only=True and monitor need each other")
        _checks.choice("mode", mode, ("auto", "min", "max"))
        self._best = None if monitor is None else _Best(monitor, mode, 0.0)
        self.saved: str | None = None

    def path_of(self, epoch: int) -> str:
        """Return the path of the file of an epoch."""
        return self.path.format(epoch=epoch)

    def on_fit_begin(self, trainer: Trainer, history: History) -> None:
        """Start afresh, or go on."""
        trainer.description()  # what cannot be saved is refused now rather than after an epoch
        _check_directory(self.path_of(trainer.epochs + 1))
        if self._best is not None:
            self._best.begin(history)
        self._begin()

    def _config(self) -> dict[str, Any]:
        best = {} if self._best is None else {"monitor": self._best.monitor, "mode": self._best.mode}
        return {"path": self.path, "every": self.every, "best_only": self.best_only, **best}

    def state_dict(self) -> dict[str, Any]:
        """Return saved and, with `best_only`, best, best_epoch, the epochs waited and all."""
        return {**({} if self._best is None else self._best.state()), "saved": self.saved}

    def _read(self, d: Mapping[str, Any]) -> None:
        best, saved = None if self._best is None else self._best.read(d), d["saved"]
        if saved is not None and not isinstance(saved, str):
            raise TypeError(f"d['saved'] must be a path as a string or None, got {_checks.shown(saved)}")
        self._best, self.saved = best, saved

    def _forget(self) -> None:
        if self._best is not None:
            self._best.forget()
        self.saved = None

    def __call__(self, trainer: Trainer, history: History) -> None:
        """Save, if it is time."""
        if trainer.epochs % self.every:
            return
        if self._best is None or self._best.improved(history):
            before, self.saved = self.saved, self.path_of(trainer.epochs)  # which the file is to know
            try:
                trainer.save(self.saved)
            except BaseException:
                self.saved = before
                raise


class ReduceOnPlateau(Resuming):
    """Multiplies the learning rate by a factor where the training no longer gets better.

    It changes `trainer.optimizer.lr`, which must be a number and not a schedule, and which keeps its last
    value when the training ends.

    Parameters
    ----------
    monitor : str
        The figure to watch, see the module.
    factor : float in (0, 1)
    patience : int >= 1
        So many epochs in a row without improvement lower the rate; then the count begins again.
    min_lr : float >= 0
        The rate is not lowered below this.
    min_delta : float >= 0
        What improves the figure by no more than this is no improvement.
    mode : "auto", "min" or "max"

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; from `fit`, before its first step, if it does not record `monitor` or the
        optimizer's lr is no number.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 3,
        min_lr: float = 0.0,
        min_delta: float = 0.0,
        mode: str = "auto",
    ) -> None:
        self._best = _Best(monitor, mode, min_delta)
        self.factor = _checks.real_number("factor", factor, 0, 1, "()")
        self.patience = _checks.integer("patience", patience, 1)
        self.min_lr = _checks.real_number("min_lr", min_lr, 0)

    def on_fit_begin(self, trainer: Trainer, history: History) -> None:
        """Start afresh, or go on."""
        self._rate(trainer)
        self._best.begin(history)
        self._begin()

    def _config(self) -> dict[str, Any]:
        form = {"factor": self.factor, "patience": self.patience, "min_lr": self.min_lr}
        return {**self._best.config(), **form}

    def state_dict(self) -> dict[str, Any]:
        """Return best, best_epoch, the epochs waited and all."""
        return self._best.state()

    def _read(self, d: Mapping[str, Any]) -> None:
        self._best = self._best.read(d)

    def _forget(self) -> None:
        self._best.forget()

    def __call__(self, trainer: Trainer, history: History) -> None:
        """Look at the epoch just done; lower the rate, if it is time."""
        if self._best.improved(history) or self._best.waited < self.patience:
            return
        self._best.waited = 0
        rate = self._rate(trainer)
        trainer.optimizer.lr = min(rate, max(rate * self.factor, self.min_lr))

    @staticmethod
    def _rate(trainer: Trainer) -> float:
        """Return the learning rate; TypeError if it is no number."""
        lr = getattr(trainer.optimizer, "lr", None)
        if lr is None or callable(lr):
            raise TypeError(
                f"ReduceOnPlateau needs an optimizer whose lr is a number, got {_checks.shown(lr)}"
            )
        return _checks.real_number("lr", lr, 0)


class TimeLimit(Resuming):
    """Ends a training that has taken so long, after the slice of steps or the validation during which it did.

    Parameters
    ----------
    seconds : float > 0
        Of wall time, from the start of each `fit`; one that goes on counts what was taken before.

    Raises
    ------
    TypeError, ValueError
        If it is none.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = _checks.real_number("seconds", seconds, 0, None, "(]")
        self._begun = monotonic()

    def on_fit_begin(self, trainer: Trainer, history: History) -> None:
        """Start afresh, or go on."""
        self._begin()

    def _config(self) -> dict[str, Any]:
        return {"seconds": self.seconds}

    def _goes_on_with(self, config: Mapping[str, Any]) -> bool:
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds taken."""
        return {"taken": monotonic() - self._begun}

    def _read(self, d: Mapping[str, Any]) -> None:
        self._begun = monotonic() - _checks.real_number("d['taken']", d["taken"], 0)

    def _forget(self) -> None:
        self._begun = monotonic()

    def __call__(self, trainer: Trainer, history: History) -> bool:
        """Return whether the time is over."""
        return monotonic() - self._begun >= self.seconds

    on_slice = __call__


class _Log(Callback):
    """Writes down the figures of each epoch, when others have recorded theirs."""

    place = 1

    def on_fit_begin(self, trainer: Trainer, history: History) -> None:
        """Begin to write."""
        self._counts: dict[str, int] = {}
        self._begin(trainer)

    def __call__(self, trainer: Trainer, history: History) -> None:
        """Write the figures that the epoch just done has brought."""
        figures = {"loss": history.latest("loss")}
        for name in history.recorded:
            known = len(history.last_epoch(name))
            if name != "loss" and known > self._counts.get(name, 0):
                figures[name] = history.latest(name)
                self._counts[name] = known
        self._write(trainer, history, figures)

    def _begin(self, trainer: Trainer) -> None:
        raise NotImplementedError

    def _write(self, trainer: Trainer, history: History, figures: dict[str, float]) -> None:
        raise NotImplementedError


class CSVLogger(_Log):
    """Writes a table, comma-separated: a row an epoch, as soon as it is done.

    The columns are "epoch", the number of epochs that the trainer has done by all calls, the figures recorded
    ("loss" is the epoch's mean), and "seconds". A figure that comes later gets a column of its own, for which
    the file is written again; where a row has no such figure it is empty. Numbers are read back as they were.

    Parameters
    ----------
    path : str or path
        The directory must exist.
    append : bool
        Whether rows that the file has stay, those of the `fit` that this one goes on with, say. False: it
        begins anew.

    Raises
    ------
    TypeError
        If an argument does not fit.
    FileNotFoundError, ValueError
        From `fit`, before its first step, if the directory does not exist, or the rows of the file are not of
        such a table.
    """

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        self.path = _path("path", path)
        self.append = _checks.flag("append", append)

    def _begin(self, trainer: Trainer) -> None:
        import csv

        _check_directory(self.path)
        self._rows: list[dict[str, Any]] = []
        self._columns = ["epoch", "seconds"]
        self._afresh = True
        if self.append and os.path.exists(self.path) and os.path.getsize(self.path):
            with open(self.path, newline="", encoding="utf-8") as file:
                table = csv.DictReader(file)
                self._columns = list(table.fieldnames or ())
                self._rows = list(table)
            whole = all(None not in row and None not in row.values() for row in self._rows)
            if self._columns[:1] != ["epoch"] or self._columns[-1:] != ["seconds"] or not whole:
                raise ValueError(f"{self.path} must be a table of CSVLogger to be gone on with")
        else:
            with open(self.path, "w", encoding="utf-8"):
                pass

    def _write(self, trainer: Trainer, history: History, figures: dict[str, float]) -> None:
        import csv

        row = {"epoch": trainer.epochs, **figures, "seconds": float(history.seconds[-1])}
        new = [name for name in figures if name not in self._columns]
        self._columns[-1:-1] = new
        afresh, self._afresh = self._afresh or bool(new), False
        self._rows.append(row)
        with open(self.path, "w" if afresh else "a", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, self._columns, restval="", lineterminator="\n")
            if afresh:
                table.writeheader()
            table.writerows(self._rows if afresh else [row])


class TensorBoard(_Log):
    """Writes the figures of each epoch for TensorBoard, without that package.

    A file of each `fit`, "events.out.tfevents...", has a curve for each figure recorded, over the epochs that
    the trainer has done by all calls ("loss" is the epoch's mean). Show them with `tensorboard --logdir`.

    Parameters
    ----------
    logdir : str or path
        The run's directory, which is made if it is not there. Runs are compared that are beside each other,
        "logs/a" and "logs/b".
    steps : bool
        Whether the loss of each step is written, too, at the end of its epoch: "step_loss", over the steps
        that the trainer has done.

    Attributes
    ----------
    path : str or None
        The last file.

    Raises
    ------
    TypeError
        If an argument does not fit.
    OSError
        From `fit`, before its first step, if the file cannot be written.
    """

    def __init__(self, logdir: str | os.PathLike[str], steps: bool = False) -> None:
        self.logdir = _path("logdir", logdir)
        self.steps = _checks.flag("steps", steps)
        self.path: str | None = None

    def _begin(self, trainer: Trainer) -> None:
        import socket

        from . import _events

        os.makedirs(self.logdir, exist_ok=True)
        name = f"events.out.tfevents.{int(time())}.{socket.gethostname()}.{os.getpid()}"
        for number in count():
            path = os.path.join(self.logdir, f"{name}.{number}")
            try:
                with open(path, "xb") as file:
                    file.write(_events.record(_events.version(time())))
            except FileExistsError:
                continue
            break
        self.path = path

    def _write(self, trainer: Trainer, history: History, figures: dict[str, float]) -> None:
        from . import _events

        now = time()
        events = [_events.scalars(now, trainer.epochs, figures)]
        if self.steps:
            losses = history.last_epoch("loss")
            first = trainer.steps - len(losses) + 1
            events += [_events.scalars(now, first + i, {"step_loss": loss}) for i, loss in enumerate(losses)]
        assert self.path is not None
        with open(self.path, "ab") as file:
            file.write(b"".join(map(_events.record, events)))


def _path(name: str, value: Any) -> str:
    """Return a path as a string; TypeError if it is none."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be a string or a path, got {_checks.shown(value)}")
    return os.fsdecode(value)


def _check_directory(path: str) -> None:
    """Raise FileNotFoundError unless a file can be in its directory."""
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        raise FileNotFoundError(f"path must be in a directory that exists, got {directory!r}")


# How a fit uses them


def entered(callbacks: Iterable[Any], user: object) -> list[Callback]:
    """Return the callbacks that are the package's, taken for a fit, by its object `user`, until `left`.

    RuntimeError, and none is taken, if one is in use.
    """
    own = [callback for callback in callbacks if isinstance(callback, Callback)]
    for i, callback in enumerate(own):
        if callback.__dict__.setdefault("_user", user) is not user or any(callback is c for c in own[:i]):
            left(own, user)
            raise RuntimeError(
                f"this {type(callback).__name__} is in use: give each fit, and each place in it, its own"
            )
    return own


def in_order(callback: Any) -> int:
    """Return the place in which a callback is called at the end of an epoch: logs late, Checkpoints last."""
    return callback.place if isinstance(callback, Callback) else 0


def left(callbacks: Iterable[Callback], user: object) -> None:
    """Give back what `entered` has taken."""
    for callback in callbacks:
        if callback.__dict__.get("_user") is user:
            del callback._user


# What a trainer's file says of them

PREFIX = "callbacks."  # begins the names of their arrays, see `fastnn.reference.network`
CLASSES = {c.__name__: c for c in (Checkpoint, EarlyStopping, ReduceOnPlateau, TimeLimit)}


class Told(NamedTuple):
    """What is told of a callback: its class, arguments and state."""

    name: str
    config: dict[str, Any]
    state: dict[str, Any]


def tell(callbacks: Iterable[Any]) -> list[Told]:
    """Return what there is to tell of callbacks, but of those that are not of this module's classes."""
    own = (c for c in callbacks if CLASSES.get(type(c).__name__) is type(c))
    return [Told(type(c).__name__, c._config(), c.state_dict()) for c in own]


def take_up(callbacks: Iterable[Any], told: Iterable[Told]) -> list[Resuming]:
    """Load states into the callbacks that may go on with them, one of a class after another; return these."""
    taken: list[Resuming] = []
    for name, kind in CLASSES.items():
        states = [each for each in told if each.name == name]
        for callback, each in zip((c for c in callbacks if type(c) is kind), states, strict=False):
            if callback._goes_on_with(each.config) and not callback._loaded:
                callback.load_state_dict(each.state)
                taken.append(callback)
    return taken


def packed(told: Iterable[Told]) -> tuple[list[dict[str, Any]], dict[str, Array]]:
    """Return it as JSON can hold it, and the arrays."""
    described: list[dict[str, Any]] = []
    arrays: dict[str, Array] = {}
    for i, (name, config, state) in enumerate(told):
        net = state.get("net")
        if net is not None:
            arrays |= {f"{PREFIX}{i}.{key}": array for key, array in net.items()}
            state = state | {"net": sorted(net)}
        if math.isinf(state.get("best") or 0):
            state = state | {"best": str(state["best"])}  # JSON has no infinity
        described.append({"callback": name, "arguments": config, "state": state})
    return described, arrays


def unpacked(described: Any, contents: checkpoint.Contents, like: Mapping[str, Array]) -> list[Told]:
    """Return what a file tells; an exception of almost any kind where that is not right.

    `like` are the arrays of its network.
    """
    told: list[Told] = []
    expected: dict[str, Array] = {}
    for i, each in enumerate(described):
        config, state = dict(each["arguments"]), dict(each["state"])
        if isinstance(state.get("best"), str):
            state["best"] = float(state["best"])
        names = state.get("net")
        if names is not None:
            if sorted(names) != sorted(like):
                raise ValueError(f"callback {i} must hold a state of the network, got {_checks.shown(names)}")
            specs = {name: f"{PREFIX}{i}.{name}" for name in names}
            expected |= {spec: like[name] for name, spec in specs.items()}
            state["net"] = specs
        told.append(Told(each["callback"], config, state))
    given = {name: spec for name, spec in contents.specs.items() if name.startswith(PREFIX)}
    if given != {name: (array.shape, array.dtype) for name, array in expected.items()}:
        raise ValueError(f"the arrays of callbacks must be {sorted(expected)}, got {sorted(given)}")
    for name, config, state in told:
        if state.get("net") is not None:
            state["net"] = {key: contents[spec] for key, spec in state["net"].items()}
        CLASSES[name](**config).load_state_dict(state)  # which looks at all of it
    return told
