"""The machine: what it is, how many threads of it to use, and what it can do at most.

The limits are measured in the same run as what is compared with them.
"""

from __future__ import annotations

import os
import platform
import threading
from contextlib import contextmanager, suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

import fastnn
from fastnn import _core

from . import pytorch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

CORES = os.sched_getaffinity(0)
OWN_CACHE = 2**18  # float32 numbers that a core's own cache may hold


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Have fastnn, NumPy's BLAS and PyTorch use so many threads."""
    with threadpool_limits(threads, "blas"), fastnn.threads(threads), pytorch.limited(threads):
        yield


def confine(cores: int | None = None) -> None:
    """Have all threads of this process run on so many of its cores; None: on all that it had.

    This is for JAX, whose threads are as many as there were cores when it started.
    """
    allowed = set(sorted(CORES)[:cores])
    for task in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # the thread has ended
            os.sched_setaffinity(int(task.name), allowed)


def setting() -> dict[str, str]:
    """Return what is measured, and on what."""
    config, torch = fastnn.show_config(), pytorch.load()
    blas = [
        f"{pool['internal_api']} {pool['version']}"
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    ]
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [
        line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")
    ]
    return {
        "processor": f"{(models or [platform.machine()])[0]}, {len(os.sched_getaffinity(0))} cores, "
        f"load {os.getloadavg()[0]:.1f} before",
        "fastnn": f"{config['version']} ({config['isa']})",
        "NumPy": f"{np.__version__} ({', '.join(blas)})",
        "PyTorch": torch.__version__ if torch else "none",
        "JAX": _installed("jax"),
        "scikit-learn": _installed("scikit-learn"),
    }


def _installed(package: str) -> str:
    """Return the version of a package, which is not imported for it, or "none"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def side_by_side(calls: Sequence[Callable[[], object]], attempts: int = 15) -> float:
    """Return the least seconds a call, of several attempts, when each call repeats in a thread of its own.

    The calls should release the GIL and take equally long; an attempt lasts some milliseconds.
    """
    calls[0]()
    begin = perf_counter()
    calls[0]()
    repeats = max(1, round(3e-3 / (perf_counter() - begin)))
    best = float("inf")
    for _ in range(attempts):
        gate, spans = threading.Barrier(len(calls)), list[Any]()

        def work(
            call: Callable[[], object], gate: threading.Barrier = gate, spans: list[Any] = spans
        ) -> None:
            gate.wait()
            begin = perf_counter()
            for _ in range(repeats):
                call()
            spans.append((begin, perf_counter()))

        workers = [threading.Thread(target=work, args=(call,)) for call in calls]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        begins, ends = zip(*spans, strict=True)
        best = min(best, (max(ends) - min(begins)) / repeats)
    return best


def fma_peak(threads: int = 1, single: bool = True) -> float:
    """Return the flops a second of independent fused multiply-adds in registers, on so many threads."""
    rounds = 100_000
    flops = _core.fma_chains(single, rounds)
    return threads * flops / side_by_side([lambda: _core.fma_chains(single, rounds)] * threads)


def streaming(size: int, reads: int, writes: int, threads: int = 1, in_place: bool = False) -> float:
    """Return the seconds that NumPy's plainest passes take to read and write so many arrays of float32.

    The passes are sums of two arrays (two reads, one write), copies (one and one) and dot products (two and
    none); in place, sums and copies go to an array that they read, as an optimizer's do. Each thread has
    arrays of its own, of its share of `size`: what is measured is the bandwidth of the cache, or of the
    memory, that arrays of this size live in. For small arrays it includes what a call of NumPy costs. On a
    machine that is shared it changes within a run: measure it beside what is compared with it.

    Where all arrays fit a core's own cache, one thread streams, and the figure is divided by `threads`: calls
    so short would only wait for Python's lock.
    """
    sums = min(writes, reads - writes)
    copies, dots = writes - sums, (reads - writes - sums) // 2
    own = size * (reads + writes * (not in_place)) <= OWN_CACHE
    share = size if own else -(-size // threads)

    def array() -> Any:
        return np.full(share, 0, np.float32)  # written, or its pages would all be the one page of zeros

    def passes() -> Callable[[], object]:
        calls: list[Callable[[], object]] = []
        for _ in range(sums):
            calls.append(partial(np.add, x := array(), array(), out=x if in_place else array()))
        for _ in range(copies):
            calls.append(
                partial(np.negative, x := array(), out=x)
                if in_place
                else partial(np.copyto, array(), array())
            )
        for _ in range(dots):
            calls.append(partial(np.dot, array(), array()))
        return lambda: [call() for call in calls]

    with threadpool_limits(1, "blas"):
        seconds = side_by_side([passes() for _ in range(1 if own else threads)], attempts=7)
    return seconds / threads if own else seconds
