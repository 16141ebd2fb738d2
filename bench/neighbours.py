"""What the second core brings beside others that want it, in the same process by turns or in other processes.

Each line is measured in a process of its own, by turns with the same work alone and on one thread.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any

import numpy as np

import fastnn

from . import peers, pytorch, shapes
from .report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Call = Callable[[], object]

SIZE = 512  # of the neighbours' square products
QUIET = "NumPy, quiet"  # whose idle threads sleep at once
ENVIRONMENT = {QUIET: {"OPENBLAS_THREAD_TIMEOUT": "4"}}
TURN, LONG_TURN = (
    0.25,
    1.0,
)  # seconds; the latter beside processes, which get the processors for slices of 4 ms
LEAST = 5  # calls, of a turn
BUSY = "import os\nwhile os.getppid() == {parent}: pass"
PROCESSES = 4


# What is measured


def _product(m: int, k: int, n: int) -> Call:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    out = np.empty((m, n), np.float32)
    return lambda: fastnn.matmul(a, b, out)


def _network(quick: bool) -> tuple[Any, Any, Any]:
    network = shapes.NETWORKS_QUICK[0] if quick else shapes.GUARDED._replace(optimizer="SGD")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((network.batch, network.sizes[0]), np.float32)
    return peers.trainer(fastnn, network), x, rng.integers(0, network.sizes[-1], network.batch)


def _step(quick: bool) -> Call:
    trainer, x, t = _network(quick)
    return lambda: trainer.step(x, t)


def _fit(quick: bool) -> Call:
    trainer, x, t = _network(quick)
    return lambda: trainer.fit(x, t, epochs=FIT_STEPS, batch_size=len(x), progress=False)


FIT_STEPS = 4  # of a call of fit


WORKS: dict[str, Callable[[bool], Call]] = {
    "matmul 128x784x200": lambda quick: _product(*((8, 8, 8) if quick else (128, 784, 200))),
    "matmul 512x512x512": lambda quick: _product(*((16, 16, 16) if quick else (512, 512, 512))),
    "step": _step,
    "fit, a step": _fit,
}


# Beside what


def _numpy() -> Call:
    a = np.ones((SIZE, SIZE), np.float32)
    return lambda: a @ a


def _torch() -> Call | None:
    torch = pytorch.load()
    if not torch:
        return None
    a = torch.ones((SIZE, SIZE))
    return lambda: a @ a


def _jax() -> Call | None:
    try:
        import jax.numpy as jnp
    except ImportError:
        return None
    a = jnp.ones((SIZE, SIZE))
    return lambda: (a @ a).block_until_ready()


def _sklearn() -> Call | None:
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        return None
    x = np.random.default_rng(0).standard_normal((2000, 16))
    return lambda: KMeans(8, n_init=1, max_iter=3, random_state=0).fit(x)  # its OpenMP's, and NumPy's threads


NEIGHBOURS: dict[str, Callable[[], Call | None]] = {
    "NumPy": _numpy,
    QUIET: _numpy,
    "PyTorch": _torch,
    "JAX": _jax,
    "scikit-learn": _sklearn,
}
BUSY_PROCESSES = {"a busy process": 1, "all cores busy": len(os.sched_getaffinity(0))}


@contextmanager
def _busy(processes: int) -> Iterator[list[Any]]:
    """Keep so many processors busy."""
    command = [sys.executable, "-c", BUSY.format(parent=os.getpid())]
    running = [subprocess.Popen(command) for _ in range(processes)]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()


def _turn(work: Call, threads: int, before: Call | None, seconds: float) -> tuple[float, float]:
    """Return the median and the mean of the seconds that calls take, each after one of `before`."""
    taken: list[float] = []
    end = perf_counter() + seconds
    with fastnn.threads(threads):
        while len(taken) < LEAST or perf_counter() < end:
            if before:
                before()
            begin = perf_counter()
            work()
            taken.append(perf_counter() - begin)
    return float(np.median(taken)), float(np.mean(taken))


def measure(work: str, neighbour: str, threads: int, rounds: int, quick: bool) -> dict[str, float]:
    """Return medians over the rounds, in microseconds and as ratios, measured in this process.

    Empty where the neighbour is not installed.
    """
    call, seconds = WORKS[work](quick), 0.01 if quick else LONG_TURN if neighbour in BUSY_PROCESSES else TURN
    beside = NEIGHBOURS[neighbour]() if neighbour in NEIGHBOURS else None
    if neighbour in NEIGHBOURS and not beside:
        return {}
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for count in (threads, 1):
            found.setdefault(("alone", count), []).append(_turn(call, count, None, seconds))
            with _busy(BUSY_PROCESSES.get(neighbour, 0)):
                found.setdefault(("beside", count), []).append(_turn(call, count, beside, seconds))
            sleep(0 if quick else 0.2)  # the neighbour's threads end their spin
    figures = {key: np.array(turns) for key, turns in found.items()}
    many, one = figures["beside", threads], figures["beside", 1]
    alone = figures["alone", threads]
    us = 1e6 / (FIT_STEPS if work.startswith("fit") else 1)
    return {
        "alone us": us * float(np.median(alone[:, 0])),
        "alone over 1 thread": float(np.median(figures["alone", 1][:, 0] / alone[:, 0])),
        "beside us": us * float(np.median(many[:, 0])),
        "mean us": us * float(np.median(many[:, 1])),
        "over 1 thread": float(np.median(one[:, 0] / many[:, 0])),
        "mean over 1 thread": float(np.median(one[:, 1] / many[:, 1])),
        "of alone": float(np.median(many[:, 0] / alone[:, 0])),
    }


def throughput(work: str, threads: int, seconds: float, quick: bool) -> float:
    """Return how many calls a second this process does, once it has been told to begin."""
    call, done = WORKS[work](quick), 0
    with fastnn.threads(threads):
        for _ in range(LEAST):
            call()
        print("ready", flush=True)
        sys.stdin.readline()
        end = perf_counter() + seconds
        while perf_counter() < end:
            call()
            done += 1
    return done / seconds


def comes_back(threads: int, quick: bool) -> float:
    """Return the milliseconds after which, all cores having been busy, a step is as fast as alone."""
    call = WORKS["step"](quick)
    with fastnn.threads(threads):
        alone = _turn(call, threads, None, 0.01 if quick else TURN)[0]
        with _busy(BUSY_PROCESSES["all cores busy"]) as running:
            _turn(call, threads, None, 0.01 if quick else 2 * TURN)
            for process in running:
                process.kill()
                process.wait()
            begin = perf_counter()
            recent: list[float] = []
            while perf_counter() < begin + 1:
                before = perf_counter()
                call()
                recent = [*recent[-4:], perf_counter() - before]
                if len(recent) == 5 and float(np.median(recent)) < 1.1 * alone:
                    break
    return 1e3 * (perf_counter() - begin)


def _started(*arguments: Any, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench.neighbours", json.dumps(arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
        env={**os.environ, **environment},
    )


def _in_a_process(*arguments: Any, **environment: str) -> Any:
    return _result(_started(*arguments, **environment))


def _result(process: subprocess.Popen[str]) -> Any:
    said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"a process ended with status {process.returncode}")
    return json.loads(said)


def _together(work: str, threads: int, seconds: float, quick: bool) -> float:
    """Return the calls a second of several processes at once, all together."""
    running = [_started("throughput", work, threads, seconds, quick) for _ in range(PROCESSES)]
    for process in running:
        assert process.stdout
        process.stdout.readline()
    for process in running:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    return sum(_result(process) for process in running)


def run(threads: Sequence[int] = (1, 2), rounds: int = 5, quick: bool = False) -> Report:
    """Measure each work beside each neighbour, several processes at once, and how soon a team comes back."""
    many, works = max(2, *threads), ["step"] if quick else list(WORKS)
    rows: list[dict[str, Any]] = []
    for neighbour in (*NEIGHBOURS, *BUSY_PROCESSES):
        for work in works:
            arguments = ("measure", work, neighbour, many, rounds, quick)
            if figures := _in_a_process(*arguments, **ENVIRONMENT.get(neighbour, {})):
                rows.append({"beside": neighbour, "work": work} | figures)
    notes, seconds, turns = [], 0.05 if quick else 1.0, 1 if quick else rounds
    for work in works:
        pairs = [[_together(work, n, seconds, quick) for n in (many, 1)] for _ in range(turns)]
        ratio = float(np.median([together / alone for together, alone in pairs]))
        notes.append(f"{PROCESSES} processes of {many} threads, {work}: {ratio:.2f} of as many of one thread")
    back = [_in_a_process("comes_back", many, quick) for _ in range(turns)]
    notes.append(f"after all cores were busy, a step is as fast as alone within {max(back):.1f} ms")
    return Report(rows, notes)


def gain(rounds: int = 5) -> float:
    """Return what a second thread brings to a step beside a product of NumPy's, over what it brings alone."""
    figures = measure("step", "NumPy", 2, rounds, False)
    return figures["over 1 thread"] / figures["alone over 1 thread"]


if __name__ == "__main__":
    name, *values = json.loads(sys.argv[1])
    print(json.dumps({"measure": measure, "throughput": throughput, "comes_back": comes_back}[name](*values)))
