"""Callbacks: what `Trainer.fit` calls while it trains.

A callback is a function (trainer, history). It is called after each epoch, when the figures of the epoch are
in the history, and a true result ends the training. It may also be an object that can be called like that and
has any of the methods

    on_fit_begin(trainer, history)   before the first step, when all arguments of `fit` have been checked
    on_slice(trainer, history)       after every slice of steps; a true result ends the training there; an
                                     epoch that has steps left then does not count
    on_fit_end(trainer, history)     at the end, also after Ctrl-C, but not where an exception leaves `fit`

Ctrl-C in a callback, or KeyboardInterrupt that it raises, leaves `fit` like any other exception. Where the
callback has a true attribute `uninterrupted`, as those below do, Ctrl-C waits until it has returned, and then
ends the training.

A slice is some steps long, in `fastnn.reference` one. The callbacks below start afresh with every `fit`. The
figure that one of them watches, `monitor`, is one of the history's: "loss", that of the epoch (`epoch_loss`),
or, with validation data, "val_loss" and "val_accuracy". Less is better (`mode` "min"), but more of an
accuracy ("max"), which is what "auto" stands for; NaN is never better.
"""

from __future__ import annotations

import math
import os
from time import monotonic
from typing import TYPE_CHECKING, Any

from . import _checks, checkpoint

if TYPE_CHECKING:
    from .reference.history import History
    from .reference.trainer import Trainer

__all__ = ["Checkpoint", "EarlyStopping", "ReduceOnPlateau", "TimeLimit"]


class _Best:
    """The best value of a figure so far, and the epoch that it is of, counted from the start of the fit."""

    def __init__(self, monitor: str, mode: str, min_delta: float) -> None:
        if not isinstance(monitor, str):
            raise TypeError(f"monitor must be the name of a figure, got {_checks.shown(monitor)}")
        self.monitor = monitor
        mode = _checks.choice("mode", mode, ("auto", "min", "max"))
        more_is_better = mode == "max" or (mode == "auto" and monitor.endswith("accuracy"))
        self._sign = 1 if more_is_better else -1
        self._min_delta = _checks.real_number("min_delta", min_delta, 0)
        self.forget()

    def forget(self) -> None:
        self.value: float | None = None
        self.epoch = 0
        self.waited = 0  # epochs since then

    def begin(self, history: History) -> None:
        """Start afresh; ValueError if this training does not record the figure."""
        if self.monitor not in history.recorded:
            raise ValueError(
                f"monitor must be one of what this training records, {', '.join(history.recorded)}, "
                f"got {self.monitor!r}"
            )
        self.forget()

    def improved(self, history: History) -> bool:
        """Return whether the epoch just done is better than the best before, by more than min_delta."""
        value = history.latest(self.monitor)
        first = self.value is None and not math.isnan(value)
        if first or (self.value is not None and self._sign * (value - self.value) > self._min_delta):
            self.value, self.epoch, self.waited = value, history.epochs, 0
            return True
        self.waited += 1
        return False


class EarlyStopping:
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
        statistics back that it had after the best epoch. The optimizer keeps its state.

    Attributes
    ----------
    best : float or None
        The best figure so far.
    best_epoch : int
        The epoch that it is of, 1 for the first of the `fit`; 0: none.
    stopped : bool
        Whether it has ended the training.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; from `fit`, before its first step, if it does not record `monitor` or the
        network's state cannot be restored.
    """

    uninterrupted = True

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
        """Start afresh."""
        if self.restore_best:
            for method in ("state_dict", "load_state_dict"):
                if not hasattr(trainer.net, method):
                    raise TypeError(f"restore_best=True needs a network with {method}")
        self._best.begin(history)
        self.stopped = False
        self._state = None

    def __call__(self, trainer: Trainer, history: History) -> bool:
        """Look at the epoch just done; return whether to stop."""
        if self._best.improved(history) and self.restore_best:
            self._state = trainer.net.state_dict()
        self.stopped = self._best.waited >= self.patience
        return self.stopped

    def on_fit_end(self, trainer: Trainer, history: History) -> None:
        """Restore the best state."""
        if self._state is not None:
            trainer.net.load_state_dict(self._state)
            self._state = None


class Checkpoint:
    """Saves the trainer after epochs, as `Trainer.save` does.

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

    uninterrupted = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        monitor: str | None = None,
        every: int = 1,
        best_only: bool = False,
        mode: str = "auto",
    ) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"path must be a string or a path, got {_checks.shown(path)}")
        self.path = os.fsdecode(path)
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
        """Start afresh."""
        trainer.description()  # what cannot be saved is refused now rather than after an epoch
        directory = os.path.dirname(self.path_of(trainer.epochs + 1)) or "."
        if not os.path.isdir(directory):
            raise FileNotFoundError(f"path must be in a directory that exists, got {directory!r}")
        if self._best is not None:
            self._best.begin(history)
        self.saved = None

    def __call__(self, trainer: Trainer, history: History) -> None:
        """Save, if it is time."""
        if trainer.epochs % self.every:
            return
        if self._best is None or self._best.improved(history):
            path = self.path_of(trainer.epochs)
            trainer.save(path)
            self.saved = path


class ReduceOnPlateau:
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

    uninterrupted = True

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
        """Start afresh."""
        self._rate(trainer)
        self._best.begin(history)

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


class TimeLimit:
    """Ends a training that has taken so long, after the slice of steps or the validation during which it did.

    Parameters
    ----------
    seconds : float > 0
        Of wall time, from the start of each `fit`.

    Raises
    ------
    TypeError, ValueError
        If it is none.
    """

    uninterrupted = True

    def __init__(self, seconds: float) -> None:
        self.seconds = _checks.real_number("seconds", seconds, 0, None, "(]")
        self._begun = monotonic()

    def on_fit_begin(self, trainer: Trainer, history: History) -> None:
        """Start afresh."""
        self._begun = monotonic()

    def __call__(self, trainer: Trainer, history: History) -> bool:
        """Return whether the time is over."""
        return monotonic() - self._begun >= self.seconds

    on_slice = __call__
