"""A training step of a network of dense layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import fastnn

from . import machine, pytorch, shapes
from .cases import LIBRARIES, Case, agree, ratios
from .report import Report
from .timing import time_interleaved

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def run(threads: Sequence[int] = (1, 2), rounds: int = 21, quick: bool = False) -> Report:
    """Measure `Trainer.step`, and the same step through the layers, with two optimizers."""
    rows: list[dict[str, Any]] = []
    for count in threads:
        for optimizer in ("SGD", "Adam"):
            with machine.limited(count):
                case = step(optimizer, shapes.NETWORK_QUICK if quick else shapes.NETWORK)
                times = time_interleaved(case.calls, rounds=rounds, threads=count)
            rows.append(
                {"threads": count, "step": case.name}
                | {f"{name} us": t.median * 1e6 for name, t in times.items()}
                | {"spread %": times["fastnn"].spread}
                | {
                    f"over {peer}": ratio
                    for peer, ratio in ratios(times).items()
                    if peer in ("NumPy", "PyTorch")
                }
            )
    return Report(rows)


def step(optimizer: str, sizes: Sequence[int] = shapes.NETWORK, batch: int = shapes.BATCH) -> Case:
    """Return the step of a network of such sizes, on one batch, from the same weights everywhere."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, sizes[0]), np.float32)
    t = rng.integers(0, sizes[-1], batch)
    calls = {name: _trainer_step(lib, optimizer, sizes, x, t) for name, lib in LIBRARIES.items()}
    calls["layer by layer"] = _layer_step(fastnn, optimizer, sizes, x, t)
    if pytorch.load():
        weights = list(fastnn.mlp(sizes, seed=0).params.values())
        calls["PyTorch"] = pytorch.train_step(weights, optimizer, 1e-3, x, t)
    for _ in range(2):  # the second loss is that of updated weights
        losses = {name: call() for name, call in calls.items()}
        agree(losses, losses["NumPy"], 1e-4, 0)
    return Case(f"{'-'.join(map(str, sizes))}, batch {batch}, {optimizer}", calls)


def _trainer_step(lib: Any, optimizer: str, sizes: Sequence[int], x: Any, t: Any) -> Callable[[], Any]:
    net = lib.mlp(sizes, seed=0)
    trainer = lib.Trainer(net, lib.SoftmaxCrossEntropy(), getattr(lib, optimizer)(1e-3))
    return lambda: trainer.step(x, t)


def _layer_step(lib: Any, optimizer: str, sizes: Sequence[int], x: Any, t: Any) -> Callable[[], Any]:
    net, loss, opt = lib.mlp(sizes, seed=0), lib.SoftmaxCrossEntropy(), getattr(lib, optimizer)(1e-3)

    def call() -> Any:
        value = loss.forward(net.forward(x), t)
        net.backward(loss.backward())
        opt.update(net.params, net.grads)
        return value

    return call
