"""What a training leaves behind: its figures, and a picture of them."""

from __future__ import annotations

import math
from contextlib import suppress
from operator import mul
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _checks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .._checks import Array

__all__ = ["History"]

FIGURES = ("loss", "val_loss", "val_accuracy")  # that have a name even where they are not recorded
SHOWN_EPOCHS = 20  # in a notebook, the last ones
LONGEST_MEAN = 1000  # steps; longer sums take longer to draw than to look at


class History:
    """What happened during `Trainer.fit`.

    The figures can be had as attributes or by name, history["loss"]; so can metrics, history.val_f1, and what
    a callback has added by `extend`.

    Parameters
    ----------
    recorded : iterable of str
        The figures that the training records.

    Attributes
    ----------
    loss : float64 array
        The training loss of each step.
    epoch_loss : float64 array
        The training loss of each epoch: the mean over its rows, by their weights, each as it was at its step.
    val_loss, val_accuracy : float64 arrays
        The figures on the validation data after each epoch; empty without such data, or where the loss has no
        accuracy.
    epochs : int
        Epochs completed.
    epoch_steps : int64 array
        The number of steps done at the end of each of them.
    seconds : float64 array
        How long the steps of each of them took, without validation and callbacks after it.
    interrupted : bool
        Whether Ctrl-C ended the training.
    recorded : tuple of str
        As given, and what `extend` has added since.
    """

    def __init__(self, recorded: Iterable[str] = FIGURES) -> None:
        recorded = tuple(recorded)
        self._figures: dict[str, list[float]] = {name: [] for name in (*FIGURES, *recorded)}
        self._shares: list[float] = []  # of the steps: their rows, or the sums of their weights
        self._epoch_steps: list[int] = []
        self._epoch_loss: list[float] = []
        self._seconds: list[float] = []
        self.recorded = recorded
        self.interrupted = False

    def __getitem__(self, name: str) -> Array:
        """Return the figure of that name; KeyError if there is none."""
        return np.array(self._figures[name], dtype=np.float64)

    def __getattr__(self, name: str) -> Array:
        """Return the figure of that name."""
        if name in self.__dict__.get("_figures", ()):
            return self[name]
        raise AttributeError(f"a history has no {name!r}")

    def keys(self) -> list[str]:
        """Return the names of the figures."""
        return list(self._figures)

    def __iter__(self) -> Iterator[str]:
        """Return an iterator over the names of the figures."""
        return iter(self.keys())

    @property
    def loss(self) -> Array:
        """The training loss of each step."""
        return self["loss"]

    @property
    def epoch_loss(self) -> Array:
        """The training loss of each epoch, the mean over its rows by their weights."""
        return np.array(self._epoch_loss, dtype=np.float64)

    @property
    def val_loss(self) -> Array:
        """The loss on the validation data after each epoch."""
        return self["val_loss"]

    @property
    def val_accuracy(self) -> Array:
        """The accuracy on the validation data after each epoch."""
        return self["val_accuracy"]

    @property
    def steps(self) -> int:
        """Steps done."""
        return len(self._figures["loss"])

    @property
    def epochs(self) -> int:
        """Epochs completed."""
        return len(self._epoch_steps)

    @property
    def epoch_steps(self) -> Array:
        """The number of steps done at the end of each epoch."""
        return np.array(self._epoch_steps, dtype=np.int64)

    @property
    def seconds(self) -> Array:
        """How long the steps of each epoch took."""
        return np.array(self._seconds, dtype=np.float64)

    def extend(self, **figures: Any) -> None:
        """Add to the figures named; a new name is recorded from then on.

        Parameters
        ----------
        **figures : iterables of numbers
            Or numbers. Each figure is as long as what was added to it: a callback that is to be drawn, and
            read beside the epochs, adds one number after each.

        Raises
        ------
        TypeError, ValueError
            If one is none, or its name is that of something else of a history; then nothing was added.
        """
        given = {}
        for name, values in figures.items():
            if name != "loss":  # of the steps, which are many
                values = _numbers(name, values)
            if name not in self._figures and (hasattr(self, name) or name in ("epoch", "step")):
                raise ValueError(f"a figure needs a name that a history has not, got {name!r}")
            given[name] = values
        for name, values in given.items():
            self._figures.setdefault(name, []).extend(values)
            if name not in self.recorded:
                self.recorded += (name,)

    def weigh(self, shares: Iterable[float]) -> None:
        """Say what further steps count in the loss of their epoch: rows, or sums of weights."""
        self._shares.extend(shares)

    def mean_loss(self, first: int) -> float:
        """Return the mean loss of the steps from this one on, by what they count; NaN if there are none."""
        losses = self._figures["loss"][first:]
        shares = self._shares[first : self.steps]
        if len(shares) < len(losses):  # steps of a trainer that does not say count alike
            shares = [1.0] * len(losses)
        if not losses:
            return math.nan
        with suppress(OverflowError, ValueError):
            return math.fsum(map(mul, losses, shares)) / math.fsum(shares)
        return float(np.average(losses, weights=shares))  # of what is not finite, or too large to be added

    def end_epoch(self, seconds: float) -> None:
        """Count an epoch, the steps of which took that long."""
        self._epoch_loss.append(self.mean_loss(self._epoch_steps[-1] if self._epoch_steps else 0))
        self._epoch_steps.append(self.steps)
        self._seconds.append(seconds)

    def latest(self, name: str) -> float:
        """Return a figure of the last epoch: of "loss" that of the epoch, of others the last one.

        Raises ValueError if there is none.
        """
        values = self._epoch_loss if name == "loss" else self.last_epoch(name)
        if not values:
            raise ValueError(f"the history has no {name} of an epoch, it records {', '.join(self.recorded)}")
        return values[-1]

    def last_epoch(self, name: str) -> list[float]:
        """Return what a figure has of the last epoch: of "loss" those of its steps, of others all so far."""
        values = self._figures.get(name, [])
        if name != "loss":
            return values
        first, last = [0, 0, *self._epoch_steps[-2:]][-2:]
        return values[first:last]

    def to_pandas(self, by: str = "epoch") -> Any:
        """Return the figures as a frame of pandas.

        Parameters
        ----------
        by : "epoch" or "step"

        Returns
        -------
        DataFrame
            A row an epoch, from 1: "loss", the mean `epoch_loss`, the other figures recorded, and "steps" and
            "seconds", see `epoch_steps`; NaN where a figure has no number yet. A figure of more numbers than
            epochs is left out. Or a row a step, from 1: "epoch", to which it belongs, and the figures that
            have a number for each step, "loss" first.

        Raises
        ------
        ImportError
            Without the package pandas.
        TypeError, ValueError
            If `by` is neither.
        """
        columns = (
            self._by_epoch() if _checks.choice("by", by, ("epoch", "step")) == "epoch" else self._by_step()
        )
        try:
            import pandas as pd
        except ImportError:
            raise ImportError("to_pandas needs the package pandas") from None
        rows = self.epochs if by == "epoch" else self.steps
        return pd.DataFrame(columns, index=pd.RangeIndex(1, rows + 1, name=by))

    def _by_epoch(self) -> dict[str, Array]:
        """Return the figures of the epochs by name, each as long as there are epochs."""
        columns = {"loss": self.epoch_loss} if "loss" in self.recorded else {}
        for name in self.recorded:
            values = self[name]
            if name != "loss" and len(values) <= self.epochs:
                columns[name] = np.pad(values, (0, self.epochs - len(values)), constant_values=np.nan)
        return columns | {"steps": self.epoch_steps, "seconds": self.seconds}

    def _by_step(self) -> dict[str, Array]:
        """Return the figures of the steps by name."""
        epochs = np.searchsorted(self.epoch_steps, np.arange(1, self.steps + 1)) + 1
        figures = {name: self[name] for name in self.recorded if len(self._figures[name]) == self.steps}
        return {"epoch": epochs} | figures

    def _repr_html_(self) -> str:
        """Return the last epochs as a table, for notebooks."""
        from .. import _html

        columns = self._by_epoch()
        shown = range(max(0, self.epochs - SHOWN_EPOCHS), self.epochs)
        rows = [[str(i + 1), *(f"{column[i]:.4g}" for column in columns.values())] for i in shown]
        return _html.table(["epoch", *columns], rows, repr(self))

    def plot(self, ax: Any = None) -> Any:
        """Draw the loss of each step, its moving average and the figures on the validation data.

        Parameters
        ----------
        ax : matplotlib Axes or None
            Where to draw; None: in a new figure of pyplot.

        Returns
        -------
        Axes
            Those of the losses. Accuracies, if there are any, have a scale of their own on the right.

        Raises
        ------
        ImportError
            Without the package matplotlib (the extra fastnn-cpu[plot]).
        TypeError
            If `ax` cannot be drawn on.
        """
        ax = top = _axes(ax)
        lines = self._plot_losses(ax)
        if self._figures["val_accuracy"]:
            top = ax.twinx()
            top.set_ylabel("accuracy")
            lines += self._plot_epochs(top, "val_accuracy", "validation accuracy", "C2")
        if lines:
            top.legend(handles=lines, loc="center right")  # losses fall and accuracies rise past it
        return ax

    def _plot_losses(self, ax: Any) -> list[Any]:
        """Draw all losses; return the lines."""
        loss, lines = self.loss, []
        if loss.size:
            window = min(max(1, loss.size // 20), LONGEST_MEAN)
            mean = np.convolve(loss, np.full(window, 1 / window), mode="valid")
            steps = np.arange(1, loss.size + 1)
            lines += ax.plot(steps, loss, color="C0", alpha=0.3, linewidth=0.8, label="loss")
            lines += ax.plot(steps[window - 1 :], mean, color="C0", label=f"mean of {window} steps")
        ax.set_xlabel("step")
        ax.set_ylabel("loss")
        return lines + self._plot_epochs(ax, "val_loss", "validation loss", "C1")

    def _plot_epochs(self, ax: Any, name: str, label: str, color: str) -> list[Any]:
        """Draw a figure of the epochs, each at the epoch's last step; return the line, if there is one."""
        values = self._figures[name]
        if not values:
            return []
        lines: list[Any] = ax.plot(
            self._epoch_steps[: len(values)], values, "o-", color=color, markersize=3, label=label
        )
        return lines

    def __repr__(self) -> str:
        """Return the number of epochs and steps and the last of each figure."""
        last = "".join(f", {name}={values[-1]:.4g}" for name, values in self._figures.items() if values)
        return f"History(epochs={self.epochs}, steps={self.steps}{last})"


def _numbers(name: str, values: Any) -> list[float]:
    """Return numbers, or one, as a list; TypeError if they are none."""
    if isinstance(values, (float, int, np.generic)) or getattr(values, "ndim", 1) == 0:
        values = [values[()] if isinstance(values, np.ndarray) else values]
    try:
        values = list(values)
    except TypeError:
        raise TypeError(f"{name} must be an iterable of numbers, got {_checks.shown(values)}") from None
    return [_number(name, value) for value in values]


def _number(name: str, value: Any) -> float:
    if isinstance(value, (float, np.floating)) and math.isnan(value):
        return math.nan
    return _checks.real_number(name, value, -math.inf, math.inf)


def _axes(ax: Any) -> Any:
    """Return axes to draw on; new ones for None."""
    try:
        from matplotlib import pyplot
        from matplotlib.axes import Axes
    except ImportError:
        raise ImportError("a plot needs the package matplotlib: pip install fastnn-cpu[plot]") from None
    if ax is None:
        return pyplot.subplots()[1]
    if not isinstance(ax, Axes):
        raise TypeError(f"ax must be axes of matplotlib, got {_checks.shown(ax)}")
    return ax
