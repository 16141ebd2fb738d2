"""Initial weights compared in training: std 0.01, Xavier and He."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

import fastnn

from .digits import Curves, read, repeat, sizes, watch
from .style import BLUE, GREEN, RED, curves, frame, label_ends, styled

if TYPE_CHECKING:
    from types import ModuleType

    from matplotlib.figure import Figure

INITS = {"std 0.01": 0.01, "Xavier": "xavier", "He": "he"}
COLOURS = {"std 0.01": RED, "Xavier": GREEN, "He": BLUE}
ACTIVATIONS = {"relu": "ReLU", "tanh": "tanh"}


def run(
    lib: ModuleType = fastnn,
    epochs: int = 30,
    seeds: int = 3,
    width: int = 100,
    lr: float = 0.05,
    dtype: Any = np.float32,
) -> dict[tuple[str, str], Curves]:
    """Return {(activation, initial weights): curves, arrays (seeds, epochs)}."""
    digits = read()

    def train(activation: str, init: str, seed: int) -> Curves:
        net = lib.mlp(sizes(4, width), activation=activation, init=INITS[init], seed=seed, dtype=dtype)
        return watch(lib, net, lib.SGD(lr), digits, epochs=epochs, seed=seed)

    return {
        (activation, init): repeat(partial(train, activation, init), seeds)
        for activation, init in product(ACTIVATIONS, INITS)
    }


def finding(results: dict[tuple[str, str], Curves]) -> str:
    """Return what was found."""
    he, small = (results["relu", init].test_accuracy[:, -1].mean() for init in ("He", "std 0.01"))
    return f"With ReLU, {small:.0%} of the test digits are right from std 0.01, {he:.0%} from He"


@styled
def draw(results: dict[tuple[str, str], Curves]) -> Figure:
    """Draw the training losses over the epochs, a panel for each activation."""
    seeds, epochs = results["relu", "He"].loss.shape
    note = f"Four hidden layers, 1437 digits, SGD in batches of 128; mean and span of {seeds} seeds"
    figure, axes = frame(finding(results), note, 1, len(ACTIVATIONS), 4.6, sharey=True)
    ends: dict[str, dict[str, tuple[float, float, str]]] = {activation: {} for activation in ACTIVATIONS}
    for (activation, init), result in results.items():
        ax = axes[0, list(ACTIVATIONS).index(activation)]
        curves(ax, np.arange(1, epochs + 1), result.loss, color=COLOURS[init])
        ends[activation][init] = epochs, result.loss[:, -1].mean(), COLOURS[init]
    for ax, (activation, name) in zip(axes[0], ACTIVATIONS.items(), strict=True):
        ax.set(yscale="log", xlabel="epoch", title=name)
        ax.margins(x=0)
        label_ends(ax, ends[activation], 0.06)
    axes[0, 0].set_ylabel("training loss, mean of the epoch")
    return figure
