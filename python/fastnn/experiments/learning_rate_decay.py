"""Schedules of the learning rate compared."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import fastnn

from .digits import Curves, read, repeat, sizes, watch
from .style import COLOURS, curves, frame, label_ends, styled

if TYPE_CHECKING:
    from types import ModuleType

    from matplotlib.figure import Figure

    from .._checks import Array

BATCH = 32


class Result(NamedTuple):
    """The learning rate of each step, (steps,), and the curves, (seeds, epochs)."""

    rates: Array
    curves: Curves


def schedules(lib: ModuleType, lr: float, steps: int) -> dict[str, Any]:
    """Return the schedules of a training of so many steps that begins with the rate `lr`."""
    made = lib.schedules
    return {
        "constant": lambda step: lr,
        "step decay": made.StepDecay(lr, 0.3, -(-steps // 4)),
        "exponential decay": made.ExponentialDecay(lr, 0.02, steps),
        "inverse-time decay": made.InverseTimeDecay(lr, 20, steps),
        "warm-up, cosine decay": made.WarmUp(made.CosineDecay(lr, steps), steps // 10),
    }


def run(
    lib: ModuleType = fastnn,
    epochs: int = 20,
    seeds: int = 3,
    width: int = 100,
    lr: float = 0.2,
    dtype: Any = np.float32,
) -> dict[str, Result]:
    """Return rates and curves of each schedule."""
    digits = read()
    steps = epochs * -(-len(digits.x_train) // BATCH)

    def train(rate: Any, seed: int) -> Curves:
        net = lib.mlp(sizes(2, width), seed=seed, dtype=dtype)
        return watch(lib, net, lib.Momentum(rate), digits, epochs=epochs, batch_size=BATCH, seed=seed)

    return {
        name: Result(np.array([rate(step) for step in range(steps)]), repeat(partial(train, rate), seeds))
        for name, rate in schedules(lib, lr, steps).items()
    }


def finding(results: dict[str, Result]) -> str:
    """Return what was found."""
    ends = {name: result.curves.loss[:, -1].mean() for name, result in results.items()}
    best = min(ends, key=ends.__getitem__)
    return f"A constant rate ends at {ends['constant'] / ends[best]:.0f} times the loss of {best}"


@styled
def draw(results: dict[str, Result]) -> Figure:
    """Draw the rates and the training losses over the epochs."""
    seeds, epochs = results["constant"].curves.loss.shape
    note = f"Two hidden layers, 1437 digits, Momentum in batches of {BATCH}; mean and span of {seeds} seeds"
    figure, ((rates, losses),) = frame(finding(results), note, 1, 2, 4.6)
    x = np.arange(1, epochs + 1)
    ends = {}
    for (name, result), colour in zip(results.items(), COLOURS, strict=True):
        rates.plot(np.linspace(0, epochs, len(result.rates)), result.rates, color=colour)
        curves(losses, x, result.curves.loss, color=colour)
        ends[name] = epochs, result.curves.loss[:, -1].mean(), colour
    rates.set(ylim=(0, None), xlabel="epoch", title="Learning rate")
    losses.set(yscale="log", xlabel="epoch", title="Training loss, mean of the epoch")
    for ax in (rates, losses):
        ax.margins(x=0)
    label_ends(losses, ends, 0.06)
    return figure
