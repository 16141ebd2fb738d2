"""A shuffled epoch of training, from rows in memory."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import fastnn

from . import peers, shapes
from .cases import LIBRARIES, Case, agree
from .report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .shapes import Network

TOLERANCE = 0.1  # of the mean loss of the first epoch, relative: each library shuffles in its own way
# The same where rows come in the same order: what float32 rounds differently grows to a few percent of a
# step's loss within 100 steps, while in float64 the losses agree to 15 digits.
SAME_ORDER = 0.02
RATE = 1e-3
DTYPES = ("float32", "uint8")
BUDGET = 120.0  # seconds for all rounds of a comparison


def run(threads: Sequence[int] = (1, 2), rounds: int = 5, quick: bool = False) -> Report:
    """Measure an epoch through one network, of float32 and, where `fit` takes a scale, of bytes."""
    count = shapes.EPOCH_ROWS_QUICK if quick else shapes.EPOCH_ROWS
    scaled = "scale" in inspect.signature(fastnn.Trainer.fit).parameters
    cases = {dtype: epoch(shapes.EPOCH, count, dtype) for dtype in DTYPES[: 1 + scaled]}
    names = list(cases["float32"].calls)
    rows: list[dict[str, Any]] = []
    for case in cases.values():
        times = peers.timed(case.calls, threads, rounds, BUDGET)
        for n in threads:
            seconds = peers.seconds(times, n)
            columns = {"threads": n, "epoch": case.name} | peers.microseconds(seconds, names)
            rows.append(columns | {"spread %": times[n]["fastnn"].spread} | peers.ratios(seconds))
    return Report(rows, [shapes.EPOCH.name, *peers.notes()])


def epoch(network: Network, rows: int, dtype: str) -> Case:
    """Return an epoch in every library that takes such rows; a call returns the mean loss of its steps.

    The labels can be learned, so that a step that goes wrong shows in the loss.
    """
    rng = np.random.default_rng(0)
    x = rng.random((rows, network.sizes[0]), np.float32)
    t = np.argmax((x - 0.5) @ rng.standard_normal((network.sizes[0], network.sizes[-1]), np.float32), axis=1)
    if dtype == "uint8":
        x = (x * 255).astype(np.uint8)
    trainers = {name: peers.trainer(lib, network, RATE) for name, lib in LIBRARIES.items()}
    calls = {name: _fit(trainer, x, t, network.batch) for name, trainer in trainers.items()}
    for name in peers.names(network):
        if dtype == "float32" or name != "scikit-learn":  # which would convert all of them
            calls[name] = partial(peers.net(name, network, RATE).epoch, *peers.owned(name, x, t))
    if "PyTorch" in calls and dtype == "float32":
        loader = peers.net("PyTorch", network, RATE).loaded_epoch
        calls["PyTorch DataLoader"] = partial(loader, *peers.owned("PyTorch", x, t))
    losses = {name: call() for name, call in calls.items()}
    agree(losses, losses["NumPy"], TOLERANCE, 0)
    agree({"fastnn": losses["fastnn"]}, losses["NumPy"], SAME_ORDER, 0)
    return Case(f"{rows} rows of {dtype}", calls)


def _fit(trainer: Any, x: Any, t: Any, batch: int) -> Callable[[], float]:
    options = {"scale": 1 / 255} if x.dtype == np.uint8 else {}
    sizes = [rows.stop - rows.start for rows in fastnn.data.batches(len(x), batch)]

    def call() -> float:
        history = trainer.fit(x, t, 1, batch, progress=False, **options)
        return float(np.average(history.loss, weights=sizes))

    return call
