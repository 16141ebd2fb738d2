"""What the machine can do at most, measured in the same run as what is compared with it."""

from __future__ import annotations

import threading
import time

import fastnn
from fastnn import _core


def fma_peak(threads: int = 1, single: bool = True) -> float:
    """Return the flops a second of independent fused multiply-adds in registers, on so many threads."""
    rounds, best = 300_000, 0.0
    done: list[float] = []
    for _ in range(15):
        done.clear()
        workers = [
            threading.Thread(target=lambda: done.append(_core.fma_chains(single, rounds)))
            for _ in range(threads)
        ]
        begin = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(best, sum(done) / (time.perf_counter() - begin))
    return best


def header() -> str:
    """Return a line that says what is measured, and on what."""
    import numpy as np

    config = fastnn.show_config()
    return f"fastnn {config['version']} ({config['isa']}), NumPy {np.__version__}"
