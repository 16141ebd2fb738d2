"""Axes of the pictures: dots on lines, logarithms with plain numbers, and each library's colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn.demo import DARK, PALE, RED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .report import Rows

COLOURS = {
    "fastnn": DARK,
    "fastnn fit": "#4f7cac",
    "fastnn together": "#4f7cac",
    "Population": DARK,
    "Python threads": "#4f7cac",
    "NumPy": PALE,
    "NumPy by hand": "#7fb7a3",
    "PyTorch": RED,
    "PyTorch DataLoader": "#eda6a9",
    "JAX": "#e0a33e",
    "JAX scan": "#8c6a1f",
    "JAX, map": "#e0a33e",
    "JAX, vmap": "#8c6a1f",
    "JAX, map on devices": "#f2cf8f",
    "JAX, vmap on devices": "#b98b3a",
    "scikit-learn": "#8f7fb8",
    "median": DARK,
    "mean": RED,
}
LINE = "#c3cad1"


def dots(
    ax: Any, labels: Sequence[str], series: Mapping[str, Sequence[float]], stem: float | None = None
) -> None:
    """Draw a line a label, the first on top, with a dot a name; it starts at `stem`, or at the least dot."""
    y = np.arange(len(labels))
    values = np.array(list(series.values()))
    ends = values if stem is None else np.vstack((values, np.full(len(labels), stem)))
    ax.hlines(y, np.nanmin(ends, axis=0), np.nanmax(ends, axis=0), color=LINE, linewidth=1.5, zorder=1)
    for name, x in reversed(list(series.items())):  # fastnn on top
        ax.scatter(x, y, s=30, color=COLOURS[name], label=name, zorder=3 if name == "fastnn" else 2)
    ax.set_yticks(y, labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)


def log_axis(axis: Any, values: Any) -> None:
    """Make an axis logarithmic, with plain numbers on it, and wide enough for the values."""
    low, high = 0.85 * float(np.nanmin(values)), 1.2 * float(np.nanmax(values))
    axis.axes.set(**{f"{axis.axis_name}scale": "log", f"{axis.axis_name}lim": (low, high)})
    steps = range(1, 10) if high / low < 6 else (1, 2, 5) if high / low < 200 else (1,)
    ticks = [step * 10.0**e for e in range(-4, 10) for step in steps if low <= step * 10.0**e <= high]
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)


def ratio_axis(axis: Any, ratios: Any) -> None:
    """Make an axis one of ratios: logarithmic, from at most 0.5 to at least 2."""
    log_axis(axis, np.append(ratios, (0.55, 1.8)))


def column(rows: Rows, key: str) -> Any:
    """Return the numbers of a column; nan where there is none."""
    return np.array([np.nan if isinstance(row[key], str) else row[key] for row in rows], float)


def distinct(rows: Rows, key: str) -> list[Any]:
    """Return the values of a column, each once."""
    return list(dict.fromkeys(row[key] for row in rows))


def threads_text(count: int) -> str:
    """Return a number of threads in words."""
    return f"{count} thread{'s' * (count > 1)}"
