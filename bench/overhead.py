"""What a call costs when there is nothing to compute, and what an import costs."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from . import machine, pytorch
from .cases import MOVES, UPDATES, passes, product, ratios, update
from .report import Report
from .timing import time_interleaved

if TYPE_CHECKING:
    from collections.abc import Sequence


def calls(threads: Sequence[int] = (1, 2), rounds: int = 21, quick: bool = False) -> Report:
    """Measure every call on 1 x 1 (BatchNorm on 2 x 1), and updates of 12 arrays, on the fewest threads."""
    rows: list[dict[str, Any]] = []
    with machine.limited(min(threads)):
        cases = [product(1, 1, 1)._replace(name="matmul")]
        cases += [case for name in MOVES for case in passes(name, 1 + (name == "BatchNorm"), 1)]
        cases += [
            case._replace(name=f"{case.name}, 12 arrays of 50")
            for case in (update(n, 12, 50) for n in UPDATES)
        ]
        for case in cases:
            times = time_interleaved(case.calls, rounds=rounds, round_seconds=1e-3)
            rows.append(
                {"call": case.name}
                | {f"{name} us": t.median * 1e6 for name, t in times.items()}
                | {f"over {peer}": ratio for peer, ratio in ratios(times).items()}
            )
    return Report(rows)


def imports(threads: Sequence[int] = (1, 2), rounds: int = 21, quick: bool = False) -> Report:
    """Measure the time that a new process takes to import NumPy, fastnn and PyTorch."""

    def seconds(module: str) -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
        return time.perf_counter() - begin

    taken: dict[str, list[float]] = {
        name: [] for name in ("numpy", "fastnn", "torch")[: 3 if pytorch.load() else 2]
    }
    for name in taken:
        seconds(name)
    for _ in range(rounds):
        for name, list_ in taken.items():
            list_.append(seconds(name))
    medians = {name: statistics.median(list_) for name, list_ in taken.items()}
    return Report(
        [{"import": name, "ms": m * 1e3, "over NumPy": m / medians["numpy"]} for name, m in medians.items()]
    )
