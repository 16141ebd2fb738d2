"""Work that moves memory: layers, losses, optimizers, as a share of the bandwidth and against the peers."""

from __future__ import annotations

from statistics import geometric_mean
from typing import TYPE_CHECKING, Any

from . import machine, shapes
from .cases import MOVES, UPDATES, Case, passes, ratios, update
from .report import Report
from .timing import time_interleaved

if TYPE_CHECKING:
    from collections.abc import Sequence


def layers(threads: Sequence[int] = (1, 2), rounds: int = 21, quick: bool = False) -> Report:
    """Measure forward and backward of every layer and loss but Affine, which is a product.

    The reference's GELU and SiLU find their slopes in the forward: over NumPy, both passes count together.
    """
    rows: list[dict[str, Any]] = []
    for count in threads:
        with machine.limited(count):
            for batch in shapes.BATCHES_QUICK if quick else shapes.BATCHES:
                for name in MOVES:
                    for case in passes(name, *batch):
                        rows.append(_row(case, "x".join(map(str, batch)), count, rounds))
    return Report(rows, _summary(rows))


def optimizers(threads: Sequence[int] = (1, 2), rounds: int = 21, quick: bool = False) -> Report:
    """Measure an update by every optimizer."""
    rows: list[dict[str, Any]] = []
    for count in threads:
        with machine.limited(count):
            for arrays, size in shapes.PARAMETERS_QUICK if quick else shapes.PARAMETERS:
                for name in UPDATES:
                    case = update(name, arrays, size)
                    rows.append(_row(case, f"{arrays}x{size}", count, rounds, in_place=True))
    return Report(rows, _summary(rows))


def _row(case: Case, size: str, threads: int, rounds: int, in_place: bool = False) -> dict[str, Any]:
    limit = machine.streaming(case.size, case.reads, case.writes, threads, in_place)
    times = time_interleaved(case.calls, rounds=rounds, threads=threads)
    ours = times["fastnn"]
    return {
        "threads": threads,
        "size": size,
        "op": case.name,
        "us": ours.median * 1e6,
        "spread %": ours.spread,
        "GB/s": case.bytes / ours.median / 1e9,
        "% of bandwidth": 100 * limit / ours.median,
    } | {f"over {peer}": ratio for peer, ratio in ratios(times).items()}


def _summary(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    peer = list(rows[0])[-1]
    for threads in dict.fromkeys(row["threads"] for row in rows):
        figures = {f"{r['op']} {r['size']}": r[peer] for r in rows if r["threads"] == threads}
        least = min(figures, key=figures.__getitem__)
        lines.append(
            f"threads {threads}: {peer} {geometric_mean(figures.values()):.2f} (geometric mean), "
            f"{figures[least]:.2f} at least ({least}), "
            f"below 1 in {sum(f < 1 for f in figures.values())} of {len(figures)}"
        )
    return lines
