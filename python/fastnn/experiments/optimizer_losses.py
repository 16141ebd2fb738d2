"""The losses of five optimizers on handwritten digits."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import fastnn

from .digits import Curves, read, repeat, sizes, watch
from .style import COLOURS, curves, frame, label_ends, styled

if TYPE_CHECKING:
    from types import ModuleType

    from matplotlib.figure import Figure

RATES = {"SGD": 0.01, "Momentum": 0.01, "AdaGrad": 0.01, "RMSProp": 0.001, "Adam": 0.001}


def run(
    lib: ModuleType = fastnn, epochs: int = 25, seeds: int = 3, width: int = 100, dtype: Any = np.float32
) -> dict[str, Curves]:
    """Return the curves of each optimizer, arrays (seeds, epochs)."""
    digits = read()

    def train(name: str, seed: int) -> Curves:
        net = lib.mlp(sizes(4, width), seed=seed, dtype=dtype)
        return watch(lib, net, getattr(lib, name)(RATES[name]), digits, epochs=epochs, seed=seed)

    return {name: repeat(partial(train, name), seeds) for name in RATES}


def finding(results: dict[str, Curves]) -> str:
    """Return what was found."""
    sgd, adam = (results[name].loss[:, -1].mean() for name in ("SGD", "Adam"))
    return f"In as many steps Adam's loss falls to 1/{sgd / adam:.0f} of SGD's"


@styled
def draw(results: dict[str, Curves]) -> Figure:
    """Draw the training losses over the epochs."""
    seeds, epochs = results["SGD"].loss.shape
    note = f"Four hidden layers, 1437 digits in batches of 128; mean and span of {seeds} seeds"
    figure, ((ax,),) = frame(finding(results), note)
    ends = {}
    for (name, result), colour in zip(results.items(), COLOURS, strict=True):
        curves(ax, np.arange(1, epochs + 1), result.loss, color=colour)
        label = f"{name}, rate {RATES[name]}"
        ends[label] = epochs, result.loss[:, -1].mean(), colour
    ax.set(yscale="log", xlabel="epoch", ylabel="training loss, mean of the epoch")
    ax.margins(x=0)
    label_ends(ax, ends, 0.05)
    return figure
