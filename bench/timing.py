"""Timing on a shared and noisy machine: candidates take turns in one run, and medians are compared."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Times(NamedTuple):
    """Seconds a call: the quartiles over all rounds."""

    low: float
    median: float
    high: float


def time_interleaved(
    calls: Mapping[str, Callable[[], object]], *, rounds: int = 21, round_seconds: float = 2e-3
) -> dict[str, Times]:
    """Time each call in turn, `rounds` times over; a turn lasts about `round_seconds`.

    Each call is run twice before, so that caches, pages and threads are warm, and checks belong there too.
    """
    repeats = {}
    for name, call in calls.items():
        call()
        begin = time.perf_counter()
        call()
        repeats[name] = max(1, round(round_seconds / max(time.perf_counter() - begin, 1e-7)))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            count = range(repeats[name])
            begin = time.perf_counter()
            for _ in count:
                call()
            seconds[name].append((time.perf_counter() - begin) / repeats[name])
    return {name: Times(*statistics.quantiles(s, n=4)) for name, s in seconds.items()}
