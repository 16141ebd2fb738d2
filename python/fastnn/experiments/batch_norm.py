"""Networks with and without BatchNorm, over sixteen scales of the initial weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import fastnn

from .digits import read, sizes, watch
from .style import BLUE, RED, frame, styled

if TYPE_CHECKING:
    from types import ModuleType

    from matplotlib.figure import Figure

    from .._checks import Array

LEARNED = 0.8  # share of the training digits right at the end, where chance is 0.1


class Results(NamedTuple):
    """The standard deviations (16,) and the accuracies on the training digits, (16, epochs)."""

    scales: Array
    plain: Array
    batch_norm: Array


def run(
    lib: ModuleType = fastnn,
    epochs: int = 20,
    scales: int = 16,
    width: int = 100,
    lr: float = 0.05,
    seed: int = 0,
    dtype: Any = np.float32,
) -> Results:
    """Return the accuracies of networks whose initial weights have standard deviations from 1 to 0.0001."""
    digits = read()
    stds = np.logspace(0, -4, scales)

    def train(std: float, batch_norm: bool) -> Array:
        net = lib.mlp(sizes(5, width), batch_norm=batch_norm, init=std, seed=seed, dtype=dtype)
        return watch(lib, net, lib.SGD(lr), digits, epochs=epochs, seed=seed).train_accuracy

    return Results(stds, *(np.stack([train(std, bn) for std in stds]) for bn in (False, True)))


def learned(accuracy: Array) -> int:
    """Return how many of the networks have learned, by their accuracies (networks, epochs)."""
    return int(np.count_nonzero(accuracy[:, -1] > LEARNED))


def finding(results: Results) -> str:
    """Return what was found."""
    return (
        f"BatchNorm learns from {learned(results.batch_norm)} of {len(results.scales)} scales, "
        f"a plain network from {learned(results.plain)}"
    )


@styled
def draw(results: Results) -> Figure:
    """Draw the accuracies over the epochs, a panel for each scale."""
    columns = 4
    rows = -(-len(results.scales) // columns)
    epochs = np.arange(1, results.plain.shape[1] + 1)
    note = f"Share of 1437 training digits right, learned above {LEARNED}; five hidden layers, batches of 128"
    figure, axes = frame(finding(results), note, rows, columns, 1.45 * rows + 1.2, sharex=True, sharey=True)
    for ax, std, plain, batch_norm in zip(axes.flat, *results, strict=False):
        ax.plot(epochs, plain, color=RED, linestyle="--", label="plain")
        ax.plot(epochs, batch_norm, color=BLUE, label="BatchNorm")
        ax.set_title(f"std {std:.2g}", fontsize=9.5, weight="normal")
        ax.set(ylim=(0, 1.03), yticks=(0, 0.5, 1))
    for ax in axes[-1]:
        ax.set_xlabel("epoch")
    for ax in axes[:, 0]:
        ax.set_ylabel("accuracy")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
