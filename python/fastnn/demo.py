"""Handwritten digits, learned twice: by fastnn and, from the same seed, by fastnn.reference.

`train` is the whole of it. It is handed the library to train with, and so shows that the two are used alike;
that they also learn alike, at different speeds, is what the report and the picture show.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from math import ceil, isqrt
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import fastnn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    from ._checks import Array

EXTRAS = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "tqdm": "tqdm"}
HIDDEN = (512, 256)
GALLERY = (3, 16)  # rows and columns


class Task(NamedTuple):
    """A data set, square images as rows of pixels in [0, 1] with labels from 0 to 9, and how to train on it."""

    x_train: Array
    t_train: Array
    x_test: Array
    t_test: Array
    epochs: int
    batch_size: int


class Run(NamedTuple):
    """What came of a training: its history, its time and the digits that it sees in the test images."""

    history: fastnn.History
    seconds: float
    predicted: Array


def train(lib: ModuleType, task: Task, seed: int, progress: bool = False) -> Run:
    """Train a classifier with `lib`, which is fastnn or fastnn.reference."""
    steps = task.epochs * ceil(len(task.x_train) / task.batch_size)
    rate = lib.schedules.WarmUp(lib.schedules.CosineDecay(5e-3, steps), steps // 10)
    net = lib.mlp([task.x_train.shape[1], *HIDDEN, 10], batch_norm=True, dropout=0.3, init="he", seed=seed)
    trainer = lib.Trainer(net, lib.SoftmaxCrossEntropy(), lib.Adam(rate, weight_decay=1e-4), seed=seed)
    start = perf_counter()
    history = trainer.fit(
        task.x_train,
        task.t_train,
        task.epochs,
        task.batch_size,
        validation=(task.x_test, task.t_test),
        progress=progress,
    )
    return Run(history, perf_counter() - start, net.predict(task.x_test).argmax(axis=1))


def read_digits() -> Task:
    """Return scikit-learn's digits, 8 x 8 pixels: 1437 to train, 360 to test, the same ones every time."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, t = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    x_train, x_test, t_train, t_test = train_test_split(x, t, test_size=360, stratify=t, random_state=0)
    return Task(x_train, t_train, x_test, t_test, epochs=30, batch_size=64)


def read_mnist(directory: str) -> Task:
    """Return MNIST, read from its four original files; OSError or ValueError if they are not right."""
    x_train, t_train, x_test, t_test = fastnn.data.load_mnist(directory)
    pixels = isqrt(x_train.shape[1]) ** 2
    for x, t in ((x_train, t_train), (x_test, t_test)):
        if len(x) == 0 or x.shape[1] != pixels or t.max() > 9:
            raise ValueError(f"{directory} must hold square images, all of one size, with labels from 0 to 9")
    white = np.float32(255)
    return Task(x_train / white, t_train, x_test / white, t_test, epochs=5, batch_size=128)


def warm_up(lib: ModuleType, task: Task) -> None:
    """Train for a few steps that nobody times, so that threads and memory are there when time counts."""
    train(lib, task._replace(x_train=task.x_train[:256], t_train=task.t_train[:256], epochs=1), seed=0)


def apart(a: Array, b: Array) -> Array:
    """Return the relative difference of each element of a from that of b."""
    return np.asarray(np.abs(a / b - 1))


def smooth(loss: Array, window: int) -> Array:
    """Return the running mean over `window` steps."""
    return np.convolve(loss, np.full(window, 1 / window), mode="valid")


def report(task: Task, native: Run, reference: Run, threads: int) -> str:
    """Return the comparison of the two trainings as text."""
    config = fastnn.show_config()
    samples = task.epochs * len(task.x_train)
    side = isqrt(task.x_train.shape[1])
    per_epoch = ceil(len(task.x_train) / task.batch_size)
    a, b = native.history.loss, reference.history.loss
    sizes = "-".join(map(str, (side * side, *HIDDEN, 10)))

    def row(name: str, figure: Callable[[Run], str], note: str = "") -> str:
        return f"  {name:<16}{figure(native):>12}{figure(reference):>12}   {note}".rstrip()

    return "\n".join(
        (
            f"fastnn {config['version']} ({config['isa']}) and NumPy {np.__version__}, threads: {threads}",
            f"digits of {side} x {side} pixels: {len(task.x_train)} to train, {len(task.x_test)} to test",
            f"network {sizes}, {task.epochs} epochs of {per_epoch} steps",
            "",
            f"  {'':<16}{'fastnn':>12}{'reference':>12}",
            row("test accuracy", lambda run: f"{run.history.val_accuracy[-1]:.2%}"),
            row("last epoch loss", lambda run: f"{run.history.loss[-per_epoch:].mean():.5f}"),
            row(
                "time",
                lambda run: f"{run.seconds:.2f} s",
                f"{reference.seconds / native.seconds:.1f} times as fast",
            ),
            row("samples/second", lambda run: f"{samples / run.seconds:,.0f}"),
            "",
            "relative difference of the loss curves, at most",
            f"  {'first epoch':<16}{apart(a, b)[:per_epoch].max():>12.1e}   any step",
            f"  {'whole run':<16}{apart(smooth(a, per_epoch), smooth(b, per_epoch)).max():>12.1e}   "
            "running mean over an epoch: differences in rounding grow with every step",
        )
    )


def picture(task: Task, native: Run, reference: Run, path: str) -> None:
    """Draw the comparison of the two trainings and some of the test digits; write it to a file."""
    from matplotlib.figure import Figure

    ink, pale, red, grey = "#12355b", "#9cc9f0", "#d1343a", "#5c6670"
    style = {"axes.edgecolor": "#b8c0c8", "axes.labelcolor": grey, "xtick.color": grey, "ytick.color": grey}
