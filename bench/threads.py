"""The promise that more threads are never slower than one, up a ladder of sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fastnn

from . import shapes
from .cases import MOVES, UPDATES, passes, product, update
from .report import Report
from .timing import time_interleaved

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .cases import Case


ATTEMPTS, TOLERATED = 3, 1.05


def run(threads: Sequence[int] = (1, 2), rounds: int = 21, quick: bool = False) -> Report:
    """Compare the most threads (at least two) with one; the cost model decides how many of them work.

    What is slower is measured up to three times, and the best counts: it may have been another program.
    """
    many, before = max(2, *threads), fastnn.get_num_threads()
    found: list[dict[str, Any]] = []
    try:
        for rows, cols in shapes.LADDER_QUICK if quick else shapes.LADDER:
            for case in _cases(rows, cols):
                ratio, one = _measure(case, many, rounds)
                for _ in range(ATTEMPTS - 1):
                    if ratio > TOLERATED:
                        ratio, one = min((ratio, one), _measure(case, many, rounds))
                found.append(
                    {
                        "op": case.name,
                        "size": f"{rows}x{cols}",
                        "us, 1 thread": one * 1e6,
                        f"us, {many} threads": ratio * one * 1e6,
                        "time over 1 thread": ratio,
                    }
                )
    finally:
        fastnn.set_num_threads(before)
    worst = sorted(found, key=lambda row: -row["time over 1 thread"])
    slower = sum(row["time over 1 thread"] > TOLERATED for row in found)
    summary = f"{many} threads take more than {TOLERATED} of the time of one in {slower} of {len(found)}"
    return Report(found, [f"{summary}; the worst are above"], worst[:12])


def _measure(case: Case, many: int, rounds: int) -> tuple[float, float]:
    """Return the time of a call on many threads over that on one, and the latter in seconds."""
    call = case.calls["fastnn"]
    times = time_interleaved(
        {"1": call, str(many): call},
        rounds=rounds,
        before=lambda name: fastnn.set_num_threads(int(name)),
    )
    one = times["1"].median
    return times[str(many)].median / one, one


def _cases(rows: int, cols: int) -> Iterator[Case]:
    yield product(rows, cols, cols)._replace(name="matmul")
    for name in MOVES:
        yield from passes(name, rows, cols)
    for name in UPDATES:
        yield update(name, 1, rows * cols)
