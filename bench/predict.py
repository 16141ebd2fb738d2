"""Predictions for one row and for some, from arrays of NumPy to arrays of NumPy."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

import fastnn

from . import peers, shapes
from .cases import Case, agree
from .report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def run(threads: Sequence[int] = (1, 2), rounds: int = 21, quick: bool = False) -> Report:
    """Measure `predict` through two networks; scikit-learn's ends with the softmax."""
    rows: list[dict[str, Any]] = []
    for sizes in shapes.PREDICTED[: 1 if quick else None]:
        for count in shapes.PREDICTED_ROWS:
            case = predict(sizes, count)
            times = peers.timed(case.calls, threads, rounds)
            for n in threads:
                seconds = peers.seconds(times, n)
                columns = {"threads": n, "predict": case.name} | peers.microseconds(seconds, list(case.calls))
                rows.append(columns | {"spread %": times[n]["fastnn"].spread} | peers.ratios(seconds))
    return Report(rows, peers.notes())


def predict(sizes: Sequence[int], rows: int) -> Case:
    """Return the prediction for so many rows by a network of such sizes in every library."""
    network = shapes.Network(tuple(sizes), rows)
    x = np.random.default_rng(0).standard_normal((rows, sizes[0]), np.float32)
    calls: dict[str, Callable[[], Any]] = {"fastnn": partial(fastnn.mlp(sizes, seed=0).predict, x)}
    calls |= {name: partial(peers.net(name, network).predict, x) for name in peers.names(network)}
    found = {name: call() if name == "scikit-learn" else _softmax(call()) for name, call in calls.items()}
    expected = _softmax(fastnn.reference.mlp(sizes, seed=0).predict(x))
    agree(found, expected, 1e-4, 1e-6)
    return Case(f"{'-'.join(map(str, sizes))}, {rows} row{'s' * (rows > 1)}", calls)


def _softmax(y: Any) -> Any:
    e = np.exp(y - y.max(axis=1, keepdims=True), dtype=np.float64)
    return e / e.sum(axis=1, keepdims=True)
