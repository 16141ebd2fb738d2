"""What the experiments on digits share: the data, and a training that is watched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..demo import read_digits

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from .._checks import Array

PIXELS, CLASSES = 64, 10


class Digits(NamedTuple):
    """Images (N, 64) with pixels in [0, 1], and labels from 0 to 9."""

    x_train: Array
    t_train: Array
    x_test: Array
    t_test: Array


class Curves(NamedTuple):
    """What was seen after each epoch: arrays (epochs,); of several runs (seeds, epochs).

    `loss` is the mean over the epoch's steps, each before its update, and with what only training does,
    dropout; `train_loss` is that of all training digits at the end of the epoch, as `test_loss` is.
    """

    loss: Array
    train_loss: Array
    train_accuracy: Array
    test_loss: Array
    test_accuracy: Array


def read(train_rows: int | None = None) -> Digits:
    """Return scikit-learn's digits, split like the demo's: 1437 to train with and 360 to test.

    With `train_rows` only that many are to train with and all others to test. ImportError, which names the
    extra, without scikit-learn.
    """
    try:
        x_train, t_train, x_test, t_test, *_ = read_digits()
    except ImportError:
        raise ImportError("the digits need scikit-learn: pip install 'fastnn-cpu[demo]'") from None
    n = len(x_train) if train_rows is None else train_rows
    return Digits(
        x_train[:n],
        t_train[:n],
        np.concatenate((x_train[n:], x_test)),
        np.concatenate((t_train[n:], t_test)),
    )


def sizes(hidden: int, width: int = 100) -> list[int]:
    """Return the sizes of a network for digits with so many hidden layers."""
    return [PIXELS, *[width] * hidden, CLASSES]


def watch(
    lib: ModuleType,
    net: Any,
    optimizer: Any,
    digits: Digits,
    *,
    epochs: int,
    batch_size: int = 128,
    seed: int = 0,
) -> Curves:
    """Train a classifier with `lib`, even where its loss overflows, and return its curves."""
    trainer = lib.Trainer(net, lib.SoftmaxCrossEntropy(), optimizer, seed=seed, nonfinite="ignore")
    seen: list[tuple[float, float]] = []

    def look(trainer: Any, history: Any) -> None:
        figures = trainer.evaluate(digits.x_train, digits.t_train)
        seen.append((figures["loss"], figures["accuracy"]))

    with np.errstate(all="ignore"):  # of NumPy's, which would warn of what overflows
        history = trainer.fit(
            digits.x_train,
            digits.t_train,
            epochs,
            batch_size,
            validation=(digits.x_test, digits.t_test),
            callbacks=[look],
            progress=False,
        )
        loss = history.loss.reshape(epochs, -1).mean(axis=1)
    train_loss, train_accuracy = np.array(seen).T
    return Curves(loss, train_loss, train_accuracy, history.val_loss, history.val_accuracy)


def repeat(train: Callable[[int], Curves], seeds: int) -> Curves:
    """Return the curves of the trainings with seeds 0, 1, ..., stacked to (seeds, epochs)."""
    return Curves(*map(np.stack, zip(*map(train, range(seeds)), strict=True)))
