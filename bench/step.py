"""A training step of a network of dense layers against the NumPy reference."""

from __future__ import annotations

from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import fastnn

from . import shapes
from .timing import time_interleaved


def layer_tier_step(lib: Any, optimizer: str) -> Any:
    """Return a function that does one step through the layers of `lib`, forward, backward and update."""
    net = lib.mlp(shapes.NETWORK, seed=0)
    loss, opt = lib.SoftmaxCrossEntropy(), getattr(lib, optimizer)()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((shapes.BATCH, shapes.NETWORK[0]), np.float32)
    t = rng.integers(0, shapes.NETWORK[-1], shapes.BATCH)

    def step() -> float:
        value: float = loss.forward(net.forward(x), t)
        net.backward(loss.backward())
        opt.update(net.params, net.grads)
        return value

    return step


def run(thread_counts: tuple[int, ...] = (1, 2)) -> list[dict[str, Any]]:
    """Return a row for each optimizer and number of threads."""
    rows = []
    for threads in thread_counts:
        for optimizer in ("SGD", "Adam"):
            with threadpool_limits(threads), fastnn.threads(threads):
                ours, theirs = (layer_tier_step(lib, optimizer) for lib in (fastnn, fastnn.reference))
                assert abs(ours() - theirs()) < 1e-4
                times = time_interleaved({"fastnn": ours, "numpy": theirs}, rounds=31, round_seconds=1e-2)
            rows.append(
                {
                    "network": "-".join(map(str, shapes.NETWORK)),
                    "batch": shapes.BATCH,
                    "optimizer": optimizer,
                    "threads": threads,
                    "us": times["fastnn"].median * 1e6,
                    "NumPy us": times["numpy"].median * 1e6,
                    "NumPy/fastnn": times["numpy"].median / times["fastnn"].median,
                }
            )
    return rows
