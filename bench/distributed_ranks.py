"""What each rank of `bench.distributed` does; the first prints the median seconds of each call."""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

import fastnn
from fastnn.distributed import DataParallel

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST = 0.05  # seconds of a turn


def main() -> None:
    """Do the task that the argument describes, as JSON."""
    task = json.loads(sys.argv[1])
    rank, calls = {"step": _steps, "exchange": _exchanges, "network": _waits}[task["task"]](task)
    each = 100 if task["task"] == "network" else 1
    found = {name: float(np.median(times)) / each for name, times in _turns(calls, task["rounds"]).items()}
    ranks = _parallel((2, 2), True).ranks
    if ranks != task["ranks"]:
        raise RuntimeError(f"there must be {task['ranks']} ranks, got {ranks}: another MPI's mpiexec?")
    if rank == 0:
        print(json.dumps(found))


def _turns(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of a call, turn after turn; all ranks do as many calls."""
    repeats = {}
    for name, call in calls.items():
        call()
        begun = perf_counter()
        call()
        repeats[name] = max(1, int(LEAST / (perf_counter() - begun)))
    repeats = _agreed(repeats)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            call()
            begun = perf_counter()
            for _ in range(repeats[name]):
                call()
            times[name].append((perf_counter() - begun) / repeats[name])
    return times


def _agreed(value: Any) -> Any:
    """Return the first rank's value."""
    parallel = _parallel((2, 2), True)
    return value if parallel.ranks == 1 else parallel.comm.bcast(value)


def _parallel(sizes: tuple[int, ...], exact: bool) -> DataParallel:
    trainer = fastnn.Trainer(fastnn.mlp(sizes, seed=0), fastnn.SoftmaxCrossEntropy(), fastnn.Adam(1e-6))
    return DataParallel(trainer, pieces=8, exact=exact)


def _data(parallel: DataParallel, sizes: tuple[int, ...], batch: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, sizes[0])).astype(np.float32)
    own = parallel.rows(batch)
    return x[own], rng.integers(0, sizes[-1], batch)[own]


def _steps(task: dict[str, Any]) -> tuple[int, dict[str, Callable[[], Any]]]:
    fastnn.set_num_threads(task["threads"])
    sizes = tuple(task["sizes"])
    parallel = _parallel(sizes, True)
    x, t = _data(parallel, sizes, task["batch"])
    calls: dict[str, Callable[[], Any]] = {"pieces": lambda: parallel.step(x, t)}
    if parallel.ranks == 1:
        plain = fastnn.Trainer(fastnn.mlp(sizes, seed=0), fastnn.SoftmaxCrossEntropy(), fastnn.Adam(1e-6))
        calls["plain"] = lambda: plain.step(x, t)
    elif task.get("peer") and importlib.util.find_spec("torch"):
        calls["DistributedDataParallel"] = _of_torch(parallel, sizes, x, t)
    return parallel.rank, calls


def _of_torch(parallel: DataParallel, sizes: tuple[int, ...], x: Any, t: Any) -> Callable[[], Any]:
    """Return the same step by PyTorch's DistributedDataParallel over gloo with fused Adam, on one thread."""
    import torch
    from torch.distributed import init_process_group
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    folder = parallel.comm.bcast(tempfile.mkdtemp() if parallel.rank == 0 else None)
    init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=parallel.rank, world_size=parallel.ranks
    )
    layers: list[Any] = []
    for n_in, n_out in pairwise(sizes):
        layers += [torch.nn.Linear(n_in, n_out), torch.nn.ReLU()]
    net = DistributedDataParallel(torch.nn.Sequential(*layers[:-1]))
    optimizer, loss = torch.optim.Adam(net.parameters(), 1e-6, fused=True), torch.nn.CrossEntropyLoss()
    rows, labels = torch.from_numpy(x.copy()), torch.from_numpy(t.copy())

    def step() -> None:
        optimizer.zero_grad()
        loss(net(rows), labels).backward()
        optimizer.step()

    return step


def _waits(_: dict[str, Any]) -> tuple[int, dict[str, Callable[[], Any]]]:
    """Return a barrier as a step waits at it, and a message of a number to another rank and from it."""
    parallel = _parallel((2, 2), True)
    comm, number, others = parallel.comm, np.zeros(1), np.zeros(1)
    other = 1 - parallel.rank

    def both_ways() -> None:
        for _ in range(100):
            comm.Sendrecv(number, other, recvbuf=others, source=other)

    def barriers() -> None:
        for _ in range(100):
            parallel._wait(comm.Ibarrier())

    return parallel.rank, {"barrier": barriers, "message": both_ways}


def _exchanges(task: dict[str, Any]) -> tuple[int, dict[str, Callable[[], Any]]]:
    """Return steps on a row a piece: what they take is the exchange and the update."""
    width = round(task["parameters"] ** 0.5)
    sizes, calls = (width, width, 2), {}
    for name, exact in (("exact", True), ("Allreduce", False)):
        parallel = _parallel(sizes, exact)
        x, t = _data(parallel, sizes, 8)
        calls[name] = lambda parallel=parallel, x=x, t=t: parallel.step(x, t)
    return parallel.rank, calls


if __name__ == "__main__":
    main()
