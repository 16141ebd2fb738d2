"""Overfitting of a few digits, with and without weight decay."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import fastnn

from .digits import Curves, read, repeat, sizes, watch
from .overfitting import draw_gaps, gap
from .style import styled

if TYPE_CHECKING:
    from types import ModuleType

    from matplotlib.figure import Figure

ROWS, HIDDEN, DECAY = 100, 4, 0.01


def run(
    lib: ModuleType = fastnn,
    epochs: int = 150,
    seeds: int = 5,
    width: int = 100,
    lr: float = 0.02,
    dtype: Any = np.float32,
) -> dict[str, Curves]:
    """Return the curves without and with weight decay, arrays (seeds, epochs)."""
    digits = read(ROWS)

    def train(decay: float, seed: int) -> Curves:
        net = lib.mlp(sizes(HIDDEN, width), seed=seed, dtype=dtype)
        optimizer = lib.Momentum(lr, weight_decay=decay)
        return watch(lib, net, optimizer, digits, epochs=epochs, batch_size=50, seed=seed)

    return {
        "no weight decay": repeat(partial(train, 0.0), seeds),
        f"weight decay {DECAY}": repeat(partial(train, DECAY), seeds),
    }


def finding(results: dict[str, Curves]) -> str:
    """Return what was found."""
    without, decayed = map(gap, results.values())
    return f"With weight decay test loss exceeds training loss by {decayed:.2f}, not {without:.2f}"


@styled
def draw(results: dict[str, Curves]) -> Figure:
    """Draw losses and accuracies over the epochs."""
    note = f"{HIDDEN} hidden layers, {ROWS} training digits, Momentum"
    return draw_gaps(finding(results), note, results)
