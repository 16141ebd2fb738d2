"""What a training shows while it runs: a bar of tqdm, or a line an epoch."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _checks

if TYPE_CHECKING:
    from .reference.history import History

__all__ = ["Bar", "Lines", "check", "shown"]


def check(progress: Any) -> None:
    """Refuse what is not True, False, None or "epochs": TypeError."""
    named = progress is None or (isinstance(progress, str) and progress == "epochs")
    if not named and not isinstance(progress, (bool, np.bool_)):
        raise TypeError(f'progress must be True or False, None or "epochs", got {_checks.shown(progress)}')


def shown(progress: Any, steps: int | None, epochs: int, unit: str = "step") -> Bar | Lines | None:
    """Return what shows a training of so many steps (None: not known) and epochs; None for nothing.

    ImportError for progress=True without tqdm.
    """
    if progress == "epochs":
        return Lines(epochs)
    notebook = in_notebook()
    if progress is None:
        if not notebook and (sys.stderr is None or not sys.stderr.isatty()):
            return None
    elif not progress:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a notebook lacks ipywidgets: the bar is text then
            if notebook:
                from tqdm.auto import tqdm
            else:
                from tqdm import tqdm
    except ImportError:
        if progress is None:
            return None
        raise ImportError("progress=True needs the package tqdm: pip install fastnn-cpu[progress]") from None
    return Bar(tqdm(total=steps, unit=unit), epochs)


def in_notebook() -> bool:
    """Return whether this is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return "IPKernelApp" in getattr(shell, "config", {})


class Bar:
    """A bar of steps, with the epoch, its loss, its speed and the figures of the epoch before."""

    def __init__(self, bar: Any, epochs: int) -> None:
        self.bar = bar
        self.epochs = epochs
        self._figures = ""

    def begin_epoch(self, number: int) -> None:
        """Show the number of an epoch, from 1."""
        self.bar.set_description_str(f"epoch {number}/{self.epochs}", refresh=False)

    def steps(self, steps: int, loss: float, samples_per_second: float) -> None:
        """Move on by the steps of a slice, and show their loss."""
        self.bar.update(steps)
        text = f"loss {loss:.4f}, {samples_per_second:.0f} samples/s{self._figures}"
        self.bar.set_postfix_str(text, refresh=False)

    def member_epoch(self, history: History) -> None:
        """Move on by an epoch of one of several trainings, and show its figures."""
        self.bar.update(1)
        self.bar.set_postfix_str(", ".join(_figures(history)), refresh=False)

    def end_epoch(self, history: History) -> None:
        """Show the figures of the epoch that is done."""
        figures = _figures(history)
        if len(figures) > 1:
            self._figures = "".join(f", {figure}" for figure in figures[1:])
            self.bar.set_postfix_str(", ".join(figures), refresh=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()


class Lines:
    """A line for each epoch, on standard output."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def begin_epoch(self, number: int) -> None:
        """Show nothing yet."""

    def steps(self, steps: int, loss: float, samples_per_second: float) -> None:
        """Show nothing."""

    def end_epoch(self, history: History) -> None:
        """Print the line."""
        figures = [*_figures(history), f"{history.seconds[-1]:.3g} s"]
        print(f"epoch {history.epochs}/{self.epochs}: {', '.join(figures)}", flush=True)

    member_epoch = end_epoch

    def close(self) -> None:
        """Show no more."""


def _figures(history: History) -> list[str]:
    """Return the figures of the last epoch, the loss first."""
    known = [name for name in history.recorded if name == "loss" or history[name].size]
    return [f"{name} {history.latest(name):.4f}" for name in known]
