"""Matrix multiply: shapes of training as a share of the FMA peak, and random shapes against the best peer."""

from __future__ import annotations

from statistics import geometric_mean
from typing import TYPE_CHECKING, Any

from . import machine, shapes
from .cases import product, ratios
from .report import Report
from .timing import time_interleaved

if TYPE_CHECKING:
    from collections.abc import Sequence


def run(threads: Sequence[int] = (1, 2), rounds: int = 21, quick: bool = False) -> Report:
    """Measure each shape in each layout; "speed-up" is over the first number of threads."""
    rows: list[dict[str, Any]] = []
    first: dict[str, float] = {}
    for count in threads:
        peak, measured = 0.0, []
        with machine.limited(count):
            for m, n, k in shapes.GEMM_QUICK if quick else shapes.GEMM:
                peak = max(
                    peak, machine.fma_peak(count)
                )  # again and again: other programs want the cores, too
                for layout in shapes.LAYOUTS:
                    case = product(m, n, k, layout)
                    times = time_interleaved(case.calls, rounds=rounds, threads=count)
                    measured.append((f"{m}x{n}x{k}", layout, 2 * m * n * k, times))
        for shape, layout, flops, times in measured:
            ours = times["fastnn"]
            rows.append(
                {
                    "threads": count,
                    "shape": shape,
                    "layout": layout,
                    "us": ours.median * 1e6,
                    "spread %": ours.spread,
                    "GFLOP/s": flops / ours.median / 1e9,
                }
                | {f"{name} % of peak": 100 * flops / t.median / peak for name, t in times.items()}
                | {
                    "over best peer": min(ratios(times).values()),
                    "speed-up": first.setdefault(shape + layout, ours.median) / ours.median,
                }
            )
    return Report(rows, [_summary(rows, count) for count in threads])


def sweep(threads: Sequence[int] = (1, 2), rounds: int = 9, quick: bool = False) -> Report:
    """Measure random shapes; those where a peer is faster are shown."""
    rows: list[dict[str, Any]] = []
    for count in threads:
        with machine.limited(count):
            for m, n, k, layout in shapes.sweep(8, 48) if quick else shapes.sweep(300):
                case = product(m, n, k, layout)
                times = time_interleaved(case.calls, rounds=rounds, threads=count)
                peers = ratios(times)
                rows.append(
                    {
                        "threads": count,
                        "shape": f"{m}x{n}x{k}",
                        "layout": layout,
                        "MFLOP": 2e-6 * m * n * k,
                        "us": times["fastnn"].median * 1e6,
                        "spread %": times["fastnn"].spread,
                        "best peer": min(peers, key=peers.__getitem__),
                        "over best peer": min(peers.values()),
                    }
                )
    slower = sorted((r for r in rows if r["over best peer"] < 1), key=lambda r: r["over best peer"])
    return Report(rows, [_summary(rows, count) for count in threads], slower)


def _summary(rows: list[dict[str, Any]], threads: int) -> str:
    figures = [row["over best peer"] for row in rows if row["threads"] == threads]
    return (
        f"threads {threads}: over the best peer {geometric_mean(figures):.2f} (geometric mean), "
        f"{min(figures):.2f} at least, below 1 in {sum(f < 1 for f in figures)} of {len(figures)}"
    )
