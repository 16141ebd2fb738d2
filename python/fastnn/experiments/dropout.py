"""Overfitting of a few digits, with and without dropout."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import fastnn

from .digits import Curves, read, repeat, sizes, watch
from .overfitting import draw_gaps
from .style import styled

if TYPE_CHECKING:
    from types import ModuleType

    from matplotlib.figure import Figure

ROWS, HIDDEN, RATIO = 100, 4, 0.15


def run(
    lib: ModuleType = fastnn,
    epochs: int = 150,
    seeds: int = 5,
    width: int = 100,
    lr: float = 0.01,
    dtype: Any = np.float32,
) -> dict[str, Curves]:
    """Return the curves without and with dropout, arrays (seeds, epochs)."""
    digits = read(ROWS)

    def train(ratio: float, seed: int) -> Curves:
        net = lib.mlp(sizes(HIDDEN, width), dropout=ratio, seed=seed, dtype=dtype)
        return watch(lib, net, lib.Momentum(lr), digits, epochs=epochs, batch_size=50, seed=seed)

    return {
        "no dropout": repeat(partial(train, 0.0), seeds),
        f"dropout {RATIO}": repeat(partial(train, RATIO), seeds),
    }


def finding(results: dict[str, Curves]) -> str:
    """Return what was found."""
    without, dropped = (result.test_accuracy[:, -1].mean() for result in results.values())
    return f"Dropout lifts the share of test digits right from {without:.1%} to {dropped:.1%}"


@styled
def draw(results: dict[str, Curves]) -> Figure:
    """Draw losses and accuracies over the epochs."""
    note = f"{HIDDEN} hidden layers, {ROWS} training digits, Momentum"
    return draw_gaps(finding(results), note, results)
