"""A guard against becoming slow: ratios over NumPy in the same run, with floors far below what is usual.

No time is compared with one of another day or machine. A ratio is of the best of all rounds, and a case that
is too slow is measured up to three times: a busy machine does not fail it, but a lost vector unit does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import fastnn

from . import machine, neighbours, shapes
from .cases import Case, passes, product, update
from .step import step
from .timing import time_interleaved

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Floor(NamedTuple):
    """A case, and how many times as fast as NumPy it must be at least, on one thread."""

    name: str
    ratio: float
    case: Callable[[], Case]


FLOORS = (
    Floor("matmul 512x512x512", 0.8, lambda: product(512, 512, 512)),
    Floor("matmul 128x784x100 TN", 0.8, lambda: product(128, 784, 100, "TN")),
    Floor("BatchNorm forward 1024x256", 1.5, lambda: passes("BatchNorm", 1024, 256)[0]),
    Floor("BatchNorm backward 1024x256", 1.5, lambda: passes("BatchNorm", 1024, 256)[1]),
    Floor("Dropout forward 1024x256", 3.0, lambda: passes("Dropout", 1024, 256)[0]),
    Floor("GELU forward 1024x256", 3.0, lambda: passes("GELU", 1024, 256)[0]),
    Floor("SoftmaxCrossEntropy forward 1024x256", 1.5, lambda: passes("SoftmaxCrossEntropy", 1024, 256)[0]),
    Floor("Adam 1x1000000", 2.0, lambda: update("Adam", 1, 1_000_000)),
    Floor("Adam 12x50", 2.0, lambda: update("Adam", 12, 50)),
    Floor("training step", 1.1, lambda: step(shapes.GUARDED)),
)


GAIN = 0.7  # of what a second thread brings alone: 0.9 is usual, 0.6 where members wait for one another


def fast_beside_neighbours(attempts: int = 3) -> bool:
    """Print what two threads bring where NumPy's want the processors, too; return whether it is enough."""
    if fastnn.get_num_threads() < 2:
        print("a step beside a NumPy product: there is one processor only")
        return True
    for _ in range(attempts):
        gain = neighbours.gain()
        print(
            f"{'a step beside a NumPy product':40} {gain:6.2f} of the gain alone, at least {GAIN}", flush=True
        )
        if gain >= GAIN:
            return True
    print("too slow: a step beside a NumPy product")
    return False


def fast_enough(floors: Sequence[Floor] = FLOORS, attempts: int = 3) -> bool:
    """Print the ratio of each case; return whether all are at least as they must be."""
    slow = []
    with machine.limited(1):
        for floor in floors:
            calls = {name: call for name, call in floor.case().calls.items() if name in ("fastnn", "NumPy")}
            for _ in range(attempts):
                times = time_interleaved(calls, rounds=11, round_seconds=5e-3)
                ratio = times["NumPy"].best / times["fastnn"].best
                if ratio >= floor.ratio:
                    break
            else:
                slow.append(floor.name)
            print(f"{floor.name:40} {ratio:6.2f} times as fast as NumPy, at least {floor.ratio}", flush=True)
    if slow:
        print(f"too slow: {', '.join(slow)}")
    return not slow
