"""What the experiments on overfitting share: training with few digits, and its picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .digits import Curves
from .style import BLUE, RED, curves, frame

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def gap(result: Curves) -> float:
    """Return by how much the loss on the test digits exceeds that on the training digits at the end."""
    return float((result.test_loss - result.train_loss)[:, -1].mean())


def draw_gaps(title: str, note: str, results: dict[str, Curves]) -> Figure:
    """Draw losses and accuracies of two ways to train, the plain one first, on training and test digits."""
    seeds, epochs = results[next(iter(results))].loss.shape
    figure, ((losses, accuracies),) = frame(title, f"{note}; mean and span of {seeds} seeds", 1, 2, 4.8)
    x = np.arange(1, epochs + 1)
    for (name, result), colour in zip(results.items(), (RED, BLUE), strict=True):
        curves(losses, x, result.test_loss, color=colour, label=f"{name}, test")
        curves(losses, x, result.train_loss, color=colour, linestyle="--", label=f"{name}, training")
        curves(accuracies, x, result.test_accuracy, color=colour)
        curves(accuracies, x, result.train_accuracy, color=colour, linestyle="--")
    losses.set(ylim=(0, 1.5), xlabel="epoch", title="Loss after each epoch")
    accuracies.set(ylim=(0.5, 1.01), xlabel="epoch", title="Share right after each epoch")
    for ax in (losses, accuracies):
        ax.margins(x=0)
    figure.legend(*losses.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
