"""What a call costs when there is nothing to compute, and what an import costs."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np

import fastnn

from .timing import time_interleaved


def calls() -> list[dict[str, Any]]:
    """Return a row for each layer call on a 1 x 1 input, and for an update of 12 small arrays."""
    x, t = np.ones((1, 1), np.float32), np.zeros(1, np.int64)
    layers = {
        "Affine": fastnn.Affine.create(1, 1),
        "BatchNorm": fastnn.BatchNorm.create(1),
        "Dropout": fastnn.Dropout(0.5, seed=0),
        "ReLU": fastnn.ReLU(),
        "GELU": fastnn.GELU(),
    }
    candidates: dict[str, Any] = {"matmul": lambda: fastnn.matmul(x, x)}
    for name, layer in layers.items():
        candidates[f"{name}.forward"] = lambda layer=layer: layer.forward(x)
        candidates[f"{name}.backward"] = lambda layer=layer: layer.backward(x)
    loss = fastnn.SoftmaxCrossEntropy()
    candidates["SoftmaxCrossEntropy.forward"] = lambda: loss.forward(x, t)
    candidates["SoftmaxCrossEntropy.backward"] = lambda: loss.backward()
    params = {str(i): np.ones(50, np.float32) for i in range(12)}
    grads = {name: np.ones(50, np.float32) for name in params}
    optimizer = fastnn.Adam()
    candidates["Adam.update, 12 arrays of 50"] = lambda: optimizer.update(params, grads)
    times = time_interleaved(candidates, round_seconds=1e-3)
    return [{"call": name, "us": t.median * 1e6} for name, t in times.items()]


def imports(rounds: int = 15) -> list[dict[str, Any]]:
    """Return the time that a new process takes to import NumPy, and to import fastnn."""

    def seconds(module: str) -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
        return time.perf_counter() - begin

    taken: dict[str, list[float]] = {"numpy": [], "fastnn": []}
    for name in taken:
        seconds(name)
    for _ in range(rounds):
        for name, list_ in taken.items():
            list_.append(seconds(name))
    base = statistics.median(taken["numpy"])
    return [
        {"import": name, "ms": statistics.median(s) * 1e3, "of NumPy's": statistics.median(s) / base}
        for name, s in taken.items()
    ]
