"""The paths of five optimizers down a long valley, f(x, y) = x^2 / 20 + y^2."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import fastnn

from .style import COLOURS, GREY, frame, label_ends, styled

if TYPE_CHECKING:
    from types import ModuleType

    from matplotlib.figure import Figure

    from .._checks import Array

START = -7.0, 2.0
OPTIMIZERS = {  # and their arguments: the learning rate, RMSProp's decay rate
    "SGD": (0.95,),
    "Momentum": (0.1,),
    "AdaGrad": (1.5,),
    "RMSProp": (0.3, 0.9),
    "Adam": (0.3,),
}


def height(x: Array, y: Array) -> Array:
    """Return f."""
    heights: Array = x**2 / 20 + y**2
    return heights


def run(lib: ModuleType = fastnn, steps: int = 30) -> dict[str, Array]:
    """Return the path of each optimizer: points (steps + 1, 2), float64, from (-7, 2)."""
    paths = {}
    for name, arguments in OPTIMIZERS.items():
        optimizer = getattr(lib, name)(*arguments)
        point = dict(zip("xy", START, strict=True))
        path = [START]
        for _ in range(steps):
            optimizer.update(point, {"x": point["x"] / 10, "y": 2 * point["y"]})
            path.append((point["x"], point["y"]))
        paths[name] = np.array(path)
    return paths


def crossings(path: Array) -> int:
    """Return how many steps lead across the floor of the valley, y = 0."""
    return int(np.count_nonzero(path[1:, 1] * path[:-1, 1] < 0))


def finding(results: dict[str, Array]) -> str:
    """Return what was found."""
    sgd, adagrad = (crossings(results[name]) for name in ("SGD", "AdaGrad"))
    steps = len(results["SGD"]) - 1
    return f"SGD crosses the valley in {sgd} of {steps} steps, AdaGrad in {adagrad or 'none'}"


@styled
def draw(results: dict[str, Array]) -> Figure:
    """Draw a map with the path of each optimizer, and the height over the steps."""
    figure, axes = frame(
        finding(results), "f(x, y) = x² / 20 + y² from (-7, 2); contours at heights 0.03, 0.1, 0.3, ...", 2, 3
    )
    *maps, last = axes.flat
    x, y = np.meshgrid(np.linspace(-8, 8, 161), np.linspace(-3.2, 3.2, 81))
    for ax, (name, path), colour in zip(maps, results.items(), COLOURS, strict=True):
        ax.contour(x, y, height(x, y), 10 ** np.arange(-1.5, 1.1, 0.5), colors="#c3cad1", linewidths=0.8)
        ax.plot(*path.T, ".-", color=colour, linewidth=1.2, markersize=4.5)
        ax.plot(*START, "o", color=GREY, markersize=6)
        ax.plot(0, 0, "+", color=GREY, markersize=9)
        ax.set_title(f"{name}, rate {OPTIMIZERS[name][0]}", color=colour)
        ax.set(xlim=(-8, 8), ylim=(-3.2, 3.2), xlabel="x", ylabel="y")
        ax.label_outer()
        ax.grid(False)
    ends = {}
    for (name, path), colour in zip(results.items(), COLOURS, strict=True):
        heights = height(*path.T)
        last.semilogy(heights, color=colour)
        ends[name] = len(path) - 1, heights[-1], colour
    last.set(xlabel="step", title="Height above the minimum")
    last.margins(x=0)
    label_ends(last, ends, 0.08)
    return figure
