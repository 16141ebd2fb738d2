"""A training step of a network of dense layers."""

from __future__ import annotations

from functools import partial
from statistics import geometric_mean
from typing import TYPE_CHECKING, Any

import numpy as np

import fastnn

from . import machine, peers, shapes
from .cases import LIBRARIES, Case, agree
from .report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .shapes import Network

    Calls = dict[str, Callable[[], Any]]

TOLERANCE, MASKED = 1e-4, 0.5  # of the second loss, relative: in general, and with masks of one's own
FIT_FLOPS, FIT_EPOCHS = 1e9, 64  # a call of fit is so long, that its start counts as in a short training


def run(threads: Sequence[int] = (1, 2), rounds: int = 21, quick: bool = False) -> Report:
    """Measure the steps of seven networks: `Trainer.step`, a step within `fit`, and the peers'."""
    networks = shapes.NETWORKS_QUICK if quick else shapes.NETWORKS
    entries = [({"network": network.name}, network) for network in networks]
    return _report(entries, threads, rounds, peers.BUDGET)


def sweep(threads: Sequence[int] = (1, 2), rounds: int = 9, quick: bool = False) -> Report:
    """Measure the steps of networks from tiny to large ones."""
    keys = ("width", "depth", "batch")
    entries = [
        (dict(zip(keys, size, strict=True)), shapes.scaled(*size))
        for size in (shapes.STEPS_QUICK if quick else shapes.STEPS)
    ]
    return _report(entries, threads, rounds, peers.BUDGET / 4)


def step(network: Network) -> Case:
    """Return a step of the network in every library and way, from the same weights, on the same rows."""
    x, t = _data(network)
    calls = _of_fastnn(network, x, t)
    agree({"fastnn fit": _second(calls["fastnn fit"])}, _second_shuffled(network, x, t), TOLERANCE, 0)
    losses = {name: _second(calls[name]) for name in LIBRARIES}
    agree(losses, losses["NumPy"], TOLERANCE, 0)
    calls |= _checked_peers(network, x, t, losses["NumPy"])
    steps = {"fastnn fit": _fit_epochs(network, len(x)) * len(x), "JAX scan": len(x)}
    return Case(network.name, calls, steps=steps)


def _checked_peers(network: Network, x: Any, t: Any, expected: float) -> Calls:
    """Return the steps of the peers, the second loss of which is as expected.

    With dropout, the masks of which each draws in its own way, it only has to be of the same size, and the
    same network without dropout is checked as well.
    """
    calls = _of_peers(network, x, t)
    losses = {name: _second(call) for name, call in calls.items()}
    agree(losses, expected, MASKED if network.dropout else TOLERANCE, 0)
    if network.dropout:
        plain = network._replace(dropout=0.0)
        reference = peers.trainer(fastnn.reference, plain)
        _checked_peers(plain, x, t, _second(partial(reference.step, x[0], t[0])))
    return calls


def _data(network: Network) -> tuple[Any, Any]:
    """Return rows and labels, a batch an entry; the first two batches are the same."""
    rng = np.random.default_rng(0)
    numbers = network.batch * network.sizes[0]
    most = (shapes.BATCHES_HELD, shapes.NUMBERS_HELD // numbers, int(shapes.FLOPS_HELD / network.flops))
    batches = max(2, min(most))
    x = rng.standard_normal((batches, network.batch, network.sizes[0]), np.float32)
    t = rng.integers(0, network.sizes[-1], (batches, network.batch))
    x[1], t[1] = x[0], t[0]
    return x, t


def _fit_epochs(network: Network, batches: int) -> int:
    return int(np.clip(FIT_FLOPS / (batches * network.flops), 1, FIT_EPOCHS))


def _of_fastnn(network: Network, x: Any, t: Any) -> Calls:
    """Return the steps of fastnn and of its reference; a call returns the loss of each step it does."""
    calls: Calls = {
        name: partial(peers.trainer(lib, network).step, x[0], t[0]) for name, lib in LIBRARIES.items()
    }
    rows, labels = x.reshape(-1, x.shape[2]), t.ravel()
    fit, epochs = peers.trainer(fastnn, network).fit, _fit_epochs(network, len(x))
    calls["fastnn fit"] = lambda: fit(rows, labels, epochs, network.batch, progress=False).loss
    return calls


def _of_peers(network: Network, x: Any, t: Any) -> Calls:
    """Return the steps of the peers; a call returns the loss of each step it does."""
    calls: Calls = {}
    for name in peers.names(network):
        calls[name] = partial(peers.net(name, network).step, *peers.owned(name, x[0], t[0]))
        if name == "JAX":
            calls["JAX scan"] = partial(peers.net(name, network).scan, *peers.owned(name, x, t))
    return calls


def _second(call: Callable[[], Any]) -> float:
    """Return the loss of the second step, which is that of weights updated once."""
    losses = np.atleast_1d(call())
    return float(losses[1] if losses.size > 1 else call())


def _second_shuffled(network: Network, x: Any, t: Any) -> float:
    """Return the reference's second loss on the rows in the order of the first epoch of `fit`."""
    trainer, order = peers.trainer(fastnn.reference, network), fastnn.data.permutation(t.size, 0, 0)
    batches = iter(np.split(order, len(x)))
    rows, labels = x.reshape(-1, x.shape[2]), t.ravel()
    return _second(lambda: trainer.step(rows[some := next(batches)], labels[some]))


def _report(
    entries: Sequence[tuple[dict[str, Any], Network]], threads: Sequence[int], rounds: int, budget: float
) -> Report:
    """Measure each network; the share of the floor is that of the flops at the FMA peak.

    A peer has the best of the numbers of threads up to the row's.
    """
    measured, peak = [], dict.fromkeys(threads, 0.0)
    for columns, network in entries:
        for count in threads:  # again and again: other programs want the cores, too
            peak[count] = max(peak[count], machine.fma_peak(count))
        case = step(network)
        measured.append((columns, network, case.steps, peers.timed(case.calls, threads, rounds, budget)))
    names = list(dict.fromkeys(name for *_, times in measured for name in times[threads[0]]))
    rows = []
    for columns, network, steps, times in measured:
        for count in threads:
            seconds = peers.seconds(times, count, steps)
            floor = network.flops / peak[count]
            ratios = peers.ratios(seconds)
            rows.append(
                {"threads": count}
                | columns
                | {"MFLOP": 1e-6 * network.flops}
                | peers.microseconds(seconds, names)
                | {"spread %": times[count]["fastnn"].spread, "% of floor": 100 * floor / seconds["fastnn"]}
                | {"fit % of floor": 100 * floor / seconds["fastnn fit"]}
                | ratios
                | {"fit over best peer": seconds[ratios["best peer"]] / seconds["fastnn fit"]}
            )
    return Report(rows, [_summary(rows, count) for count in threads] + peers.notes())


def _summary(rows: list[dict[str, Any]], threads: int) -> str:
    some = [row for row in rows if row["threads"] == threads]
    figures, fit = ([row[key] for row in some] for key in ("over best peer", "fit over best peer"))
    return (
        f"threads {threads}: over the best peer {geometric_mean(figures):.2f} (geometric mean), "
        f"{min(figures):.2f} at least, below 1 in {sum(f < 1 for f in figures)} of {len(figures)}; "
        f"fit {geometric_mean(fit):.2f}, {min(fit):.2f} at least"
    )
