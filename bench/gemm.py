"""Matrix multiply against NumPy, as a share of the FMA peak."""

from __future__ import annotations

from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import fastnn

from . import machine, shapes
from .timing import time_interleaved


def run(thread_counts: tuple[int, ...] = (1, 2)) -> list[dict[str, Any]]:
    """Return a row for each shape, transpose and number of threads."""
    rows = []
    rng = np.random.default_rng(0)
    for threads in thread_counts:
        with threadpool_limits(threads), fastnn.threads(threads):
            peak = machine.fma_peak(threads)
            for m, n, k in shapes.GEMM:
                a = rng.standard_normal((m, k), np.float32)
                b = rng.standard_normal((k, n), np.float32)
                out = np.empty((m, n), np.float32)
                for layout, x, y in (("NN", a, b), ("TN", a.T.copy().T, b), ("NT", a, b.T.copy().T)):
                    np.testing.assert_allclose(
                        fastnn.matmul(x, y, out), a.astype(float) @ b, atol=1e-6 * k, rtol=0
                    )
                    times = time_interleaved(
                        {
                            "fastnn": lambda x=x, y=y, out=out: fastnn.matmul(x, y, out),
                            "numpy": lambda x=x, y=y, out=out: np.matmul(x, y, out=out),
                        }
                    )
                    ours, theirs = times["fastnn"].median, times["numpy"].median
                    rows.append(
                        {
                            "threads": threads,
                            "shape": f"{m}x{n}x{k}",
                            "layout": layout,
                            "us": ours * 1e6,
                            "% of peak": 200 * m * n * k / ours / peak,
                            "NumPy %": 200 * m * n * k / theirs / peak,
                            "NumPy/fastnn": theirs / ours,
                        }
                    )
    return rows
