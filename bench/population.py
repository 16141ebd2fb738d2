"""Many networks trained side by side: a few epochs of `Population.fit`, of threads of Python, and of JAX.

JAX's forms are a member after another in a loop on the device (`lax.map`), all at once (`vmap`), each also
with the members shared among two host devices where JAX has been started with these:

    XLA_FLAGS=--xla_force_host_platform_device_count=2 python -m bench population
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import fastnn

from . import jax_peer, machine, peers
from .report import Report
from .shapes import Network
from .timing import time_interleaved

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STEPS, EPOCHS = 56, 4  # of an epoch, and of a call
BUDGET = 60.0  # seconds for all rounds of a comparison


class Task(NamedTuple):
    """What to train, and how many of it."""

    network: Network
    members: int


NAMES = ("Population", "Python threads", *jax_peer.POPULATIONS)
TASKS = (
    *(Task(Network((64, 32, 10), 32, "Adam"), members) for members in (8, 64, 512)),
    Task(Network((24, 64, 64, 4), 64, "Adam"), 8),
    Task(Network((784, 100, 100, 10), 100, "Adam"), 8),
)


def run(threads: Sequence[int] = (1, 2), rounds: int = 7, quick: bool = False) -> Report:
    """Measure some epochs of all members; a row is a task and a number of threads."""
    rows: list[dict[str, Any]] = []
    peak = {n: machine.fma_peak(n) for n in threads}
    for network, members in [Task(TASKS[0].network, 3)] if quick else TASKS:
        steps = 3 if quick else STEPS
        for n in threads:
            calls = _calls(network, members, steps, n)
            with machine.limited(n):
                times = time_interleaved(calls, rounds=rounds, threads=n, budget=BUDGET)
            each = {name: t.median / (members * steps * EPOCHS) for name, t in times.items()}
            jax = [seconds for name, seconds in each.items() if name.startswith("JAX")]
            own = each["Population"]
            rows.append(
                {"threads": n, "population": f"{members} of {network.name}"}
                | {f"{name} us": 1e6 * each.get(name, math.nan) for name in NAMES if name in each or jax}
                | {"spread %": times["Population"].spread}
                | {"over threads": each["Python threads"] / own}
                | {"over the best JAX": min(jax) / own if jax else peers.NONE}
                | {"share of FMA peak %": 100 * network.flops / own / peak[n]}
            )
    notes = [
        f"microseconds a step of a member, in {EPOCHS} shuffled epochs of {STEPS} steps",
        "Python threads: each trains a share of the members, one after another",
    ]
    return Report(rows, [*notes, *peers.notes()])


def _calls(network: Network, members: int, steps: int, threads: int) -> dict[str, Callable[[], Any]]:
    """Return some epochs of all members as a call of each library, which agree on the first losses."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(steps * network.batch, network.sizes[0])).astype(np.float32)
    t = rng.integers(0, network.sizes[-1], len(x))

    def trainers() -> list[fastnn.Trainer]:
        made = []
        for seed in range(members):
            net = fastnn.mlp(network.sizes, seed=seed)
            optimizer = getattr(fastnn, network.optimizer)(peers.rate(network))
            made.append(fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), optimizer, seed=seed))
        return made

    options: dict[str, Any] = {"epochs": EPOCHS, "batch_size": network.batch, "progress": False}
    population, apart = fastnn.Population(trainers()), trainers()

    def by_threads() -> list[fastnn.History]:
        histories: list[Any] = [None] * members

        def train(first: int) -> None:
            with fastnn.threads(1):
                for i in range(first, members, threads):
                    histories[i] = apart[i].fit(x, t, **options)

        workers = [threading.Thread(target=train, args=(i,)) for i in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return histories

    calls = {"Population": lambda: population.fit(x, t, **options), "Python threads": by_threads}
    first = [[history.loss for history in call()] for call in calls.values()]
    np.testing.assert_array_equal(*first)
    if jax_peer.load():
        seeds, epochs = range(members), range(EPOCHS)
        orders = np.array([[fastnn.data.permutation(len(x), s, e) for e in epochs] for s in seeds])
        nets = [list(trainer.net.params.values()) for trainer in trainers()]
        for name, make in jax_peer.POPULATIONS.items():
            form = make(network, nets, peers.rate(network), x, t, orders.reshape(members, EPOCHS * steps, -1))
            if form is not None:
                np.testing.assert_allclose(form(), first[0], rtol=2e-2)
                calls[name] = form
    return calls
