"""Pictures of hyper-parameter search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastnn.demo import DARK, GREY, PALE, RED

from .axes import column, distinct, threads_text

if TYPE_CHECKING:
    from .report import Rows

SAMPLERS = {"NarrowingSampler": DARK, "RandomSampler": GREY, "TPESampler": RED}


def search(figure: Any, rows: Rows) -> tuple[str, str]:
    """Draw the seconds of each search as bars."""
    figure.set_size_inches(12, 0.6 * len(rows) + 2)
    ax = figure.subplots()
    bars = ax.barh(
        [f"{r['search']}, {threads_text(r['threads'])}" for r in rows],
        column(rows, "seconds"),
        color=[PALE, *[DARK] * (len(rows) - 1)],
    )
    texts = [
        f"{r['seconds']:.3g} s, {r['over NumPy']:.1f} times as fast; best accuracy {r['best accuracy %']:.3g}"
        for r in rows
    ]
    ax.bar_label(bars, texts, padding=4)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.5)
    ax.set_xlabel("seconds")
    return f"A search of {rows[0]['trials']} trials", "the same trials in all; median of all rounds"


def samplers(figure: Any, rows: Rows) -> tuple[str, str]:
    """Draw the best value against the number of trials: a panel a task, a line a sampler."""
    tasks = distinct(rows, "task")
    figure.set_size_inches(6.5 * len(tasks) + 1, 6)
    for ax, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for name, colour in SAMPLERS.items():
            some = [r for r in rows if (r["task"], r["sampler"]) == (task, name)]
            x, low, best, high = (column(some, key) for key in ("trials", "low", "best", "high"))
            ax.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
            ax.semilogy(x, best, color=colour, label=name)
        ax.set_title(task)
        ax.set_xlabel("trials")
        ax.set_ylabel("least value so far")
    return "What samplers find", "median of all seeds, and quartiles; lower is better"
