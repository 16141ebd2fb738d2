"""Timing on a shared and noisy machine: candidates take turns in one run, and medians are compared."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REST, WARM, FIGURES = 0.1, 0.1, 7  # of a turn of many threads: seconds before it, and what it yields
LEAST = 3  # rounds


class Times(NamedTuple):
    """Seconds a call, over all rounds: the least and the quartiles."""

    best: float
    low: float
    median: float
    high: float

    @property
    def spread(self) -> float:
        """The distance of the quartiles in percent of the median."""
        return 100 * (self.high - self.low) / self.median


def time_interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 21,
    round_seconds: float = 2e-3,
    threads: int = 1,
    before: Callable[[str], object] = lambda name: None,
    budget: float = math.inf,
) -> dict[str, Times]:
    """Time each call in turn, `rounds` times over; a turn lasts about `round_seconds`.

    Parameters
    ----------
    calls
        What to time, by name.
    threads
        How many each may use. The threads of one pool go on spinning for some 50 ms after its last call, in
        the way of the next pool's, which then takes many calls to find its processors. So with more than one
        thread a turn begins with rest and with calls that are not timed, and stands for several rounds.
    before
        Called with the name before each turn.
    budget
        Seconds: where all rounds would take longer there are fewer of them, but three at least.
    """
    fastest = {name: min(seconds(call, 1), seconds(call, 1)) for name, call in calls.items()}
    round_ = sum(max(round_seconds, s) for s in fastest.values())
    rounds = min(rounds, max(LEAST, int(min(rounds, budget / round_))))
    figures = min(FIGURES, rounds) if threads > 1 else 1
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(-(-rounds // figures)):
        for name, call in calls.items():
            before(name)
            if threads > 1:
                time.sleep(REST)
                end = time.perf_counter() + WARM
                while time.perf_counter() < end:
                    fastest[name] = min(fastest[name], seconds(call, 1))
            elif fastest[name] < round_seconds:  # the caches hold another's data
                fastest[name] = min(fastest[name], seconds(call, 1))
            repeats = max(1, round(round_seconds / max(fastest[name], 1e-7)))
            taken[name] += [seconds(call, repeats) for _ in range(figures)]
    return {name: Times(min(s), *np.quantile(s, (0.25, 0.5, 0.75)).tolist()) for name, s in taken.items()}


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Return what one of `repeats` calls in a row takes, on average."""
    count = range(repeats)
    begin = time.perf_counter()
    for _ in count:
        call()
    return (time.perf_counter() - begin) / repeats
