"""What becomes of a signal over five layers, by initial weights and by activation."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

import fastnn

from .style import BLUE, GREEN, GREY, PURPLE, frame, styled

if TYPE_CHECKING:
    from types import ModuleType

    from matplotlib.figure import Figure

    from .._checks import Array

INITS = {"std 1": 1.0, "std 0.01": 0.01, "Xavier": "xavier", "He": "he"}
ACTIVATIONS = {"Sigmoid": (0, 1), "Tanh": (-1, 1), "ReLU": (0, 3)}  # and the range that is drawn
BINS = 40
LEAST = 0.05  # share of the values in a bin of full height: few, scattered ones stay low


def run(
    lib: ModuleType = fastnn,
    rows: int = 1000,
    width: int = 100,
    layers: int = 5,
    seed: int = 0,
    dtype: Any = np.float32,
) -> dict[tuple[str, str], Array]:
    """Return {(activation, initial weights): the activations of each layer, (layers, rows, width)}."""
    x = np.random.default_rng(seed).standard_normal((rows, width)).astype(dtype)
    results = {}
    for activation, init in product(ACTIVATIONS, INITS):
        rng = np.random.default_rng(seed + 1)
        signals = [x]
        for _ in range(layers):
            affine = lib.Affine.create(width, width, init=INITS[init], rng=rng, dtype=dtype)
            signals.append(getattr(lib, activation)().forward(affine.forward(signals[-1])))
        results[activation, init] = np.stack(signals[1:])
    return results


def kept(signals: Array) -> float:
    """Return the standard deviation in the last layer as a share of that in the first."""
    return float(signals[-1].std() / signals[0].std())


def finding(results: dict[tuple[str, str], Array]) -> str:
    """Return what was found."""
    he, small = (kept(results["ReLU", init]) for init in ("He", "std 0.01"))
    return f"With ReLU, He keeps {he:.0%} of the spread; {100 * small:.1g}% is left with std 0.01"


@styled
def draw(results: dict[tuple[str, str], Array]) -> Figure:
    """Draw a panel for each activation and initial weights, in it a histogram for each layer."""
    layers = len(results["ReLU", "He"])
    note = f"Histograms of the activations from layer 1 (top) to {layers}, at right their std; zeros left out"
    figure, axes = frame(finding(results), note, len(ACTIVATIONS), len(INITS), 6.6, sharex="row", sharey=True)
    for (place, ax), signals in zip(np.ndenumerate(axes), results.values(), strict=True):
        activation, init = list(ACTIVATIONS)[place[0]], list(INITS)[place[1]]
        colour = (GREEN, PURPLE, BLUE)[place[0]]
        low, high = ACTIVATIONS[activation]
        for layer, values in enumerate(signals):
            counts, edges = np.histogram(values[values != 0], BINS, (low, high))
            base = layers - 1 - layer
            bars = base + 0.8 * counts / max(counts.max(), LEAST * np.count_nonzero(values))
            ax.stairs(bars, edges, baseline=base, fill=True, color=colour, alpha=0.85)
            ax.text(high, base + 0.4, f" {values.std():.2g}", va="center", fontsize=8, color=GREY)
        ax.set_title(init if place[0] == 0 else "")
        ax.set(xlim=(low, high), ylim=(-0.1, layers), yticks=range(layers))
        ax.set_yticklabels(range(layers, 0, -1))
        ax.tick_params(left=False)
        ax.spines["left"].set_visible(False)
        ax.grid(False)
        if place[0] == len(ACTIVATIONS) - 1:
            ax.set_xlabel("activation")
        if place[1] == 0:
            ax.set_ylabel(f"{activation}\nlayer")
    return figure
