"""Pictures of the results, one PNG a benchmark, in the colours of the demo."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn.demo import DARK, GREY, PALE, RED, STYLE

from . import search_plots, training_plots
from .axes import column, distinct, dots, log_axis, ratio_axis, threads_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from .report import Rows


def draw(name: str, rows: Rows, setting: Mapping[str, str], path: Path) -> None:
    """Draw the rows of the benchmark of that name and write them to a PNG file."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE, "axes.axisbelow": True, "axes.titlesize": 12, "font.size": 9}):
        figure = Figure(dpi=110)
        title, note = PICTURES[name](figure, rows)
        width, height = figure.get_size_inches()
        where = fill("; ".join(f"{key} {value}" for key, value in setting.items()), int(14 * width))
        below = (0.01, 0.02, 0.98, 0.98 - (1.0 + 0.17 * where.count("\n")) / height)
        figure.set_layout_engine("constrained", rect=below, wspace=0.03, hspace=0.04)
        x = 0.25 / width
        figure.text(x, 1 - 0.2 / height, title, fontsize=17, va="top")
        figure.text(
            x, 1 - 0.52 / height, f"{note}\n{where}", fontsize=9, va="top", color=GREY, linespacing=1.4
        )
        handles, labels = max(
            (ax.get_legend_handles_labels() for ax in figure.axes), key=lambda both: len(both[0])
        )
        ncols = 3 if len(labels) <= 6 else 4
        figure.legend(
            handles[::-1], labels[::-1], loc="upper right", ncols=ncols, handletextpad=0.1, columnspacing=1
        )
        figure.savefig(path)


def gemm(figure: Any, rows: Rows) -> tuple[str, str]:
    """Draw the share of the peak: a panel a layout and number of threads, a line a shape."""
    counts, layouts, sizes = (distinct(rows, key) for key in ("threads", "layout", "shape"))
    figure.set_size_inches(3.4 * len(layouts) + 1, (0.23 * len(sizes) + 0.9) * len(counts) + 1.1)
    grid = figure.subplots(len(counts), len(layouts), sharex=True, sharey=True, squeeze=False)
    for line, count in zip(grid, counts, strict=True):
        for ax, layout in zip(line, layouts, strict=True):
            some = [r for r in rows if (r["threads"], r["layout"]) == (count, layout)]
            names = [key.split()[0] for key in some[0] if key.endswith("% of peak")]
            dots(ax, sizes, {name: [r[f"{name} % of peak"] for r in some] for name in names})
            ax.set_title(f"{layout}, {threads_text(count)}")
            ax.set_xlim(0, 105)
    for ax in grid[-1]:
        ax.set_xlabel("% of the FMA peak")
    return "Matrix multiply, share of the peak", "m x n x k, float32; T: that operand is a transposed view"


def sweep(figure: Any, rows: Rows) -> tuple[str, str]:
    """Draw the ratio over the best peer against the work: a panel a number of threads."""
    counts = distinct(rows, "threads")
    figure.set_size_inches(6 * len(counts) + 1, 5.6)
    for ax, count in zip(figure.subplots(1, len(counts), sharey=True, squeeze=False)[0], counts, strict=True):
        some = [r for r in rows if r["threads"] == count]
        flops, ratio = (np.array([r[key] for r in some]) for key in ("MFLOP", "over best peer"))
        slower = ratio < 1
        ratio_axis(ax.yaxis, ratio)
        ax.set_xscale("log")
        ax.axhline(1, color=GREY, linewidth=1)
        ax.scatter(1e6 * flops[~slower], ratio[~slower], s=26, color=DARK, alpha=0.6, linewidth=0)
        ax.scatter(1e6 * flops[slower], ratio[slower], s=26, color=RED, alpha=0.9, linewidth=0)
        ax.set_title(f"{threads_text(count)}: {slower.sum()} of {len(some)} below 1")
        ax.set_xlabel("flops of the product")
        ax.set_ylabel("times as fast as the best peer")
    return (
        "Products of random shapes, against the best peer",
        "m, n, k from 1 to 2048, log-uniform; all layouts",
    )


def moved(figure: Any, rows: Rows) -> tuple[str, str]:
    """Draw share of the bandwidth and ratios over the peers: two panels a size, a row a number of threads."""
    counts, sizes, ops = (distinct(rows, key) for key in ("threads", "size", "op"))
    peers = [key for key in rows[0] if key.startswith("over ")]
    figure.set_size_inches(5.2 * len(sizes) + 1.6, (0.21 * len(ops) + 0.9) * len(counts) + 1.1)
    grid = figure.subplots(len(counts), 2 * len(sizes), sharey=True, sharex="col", squeeze=False)
    for line, count in zip(grid, counts, strict=True):
        for share, ratio, size in zip(line[::2], line[1::2], sizes, strict=True):
            some = [r for r in rows if (r["threads"], r["size"]) == (count, size)]
            share.barh(range(len(ops)), [r["% of bandwidth"] for r in some], height=0.62, color=DARK)
            share.axvline(100, color=GREY, linewidth=1)
            share.set_title(f"{size}, {threads_text(count)}")
            share.grid(axis="y", visible=False)
            share.tick_params(axis="y", length=0)
            dots(ratio, ops, {peer.split()[1]: [r[peer] for r in some] for peer in peers}, stem=1)
            ratio_axis(ratio.xaxis, [r[peer] for r in some for peer in peers])
            ratio.axvline(1, color=GREY, linewidth=1)
    for i, ax in enumerate(grid[-1]):
        ax.set_xlabel("fastnn is so many times as fast" if i % 2 else "% of the bandwidth")
    return (
        "Work that moves memory: share of the bandwidth, and times as fast as the peers",
        "float32; the bandwidth is that of NumPy's plainest passes over arrays of the same size, "
        "with the same mix of reads and writes",
    )


def times(label: str, title: str) -> Callable[[Any, Rows], tuple[str, str]]:
    """Return what draws microseconds: a line a call, which the key `label` names, and a dot a library."""

    def picture(figure: Any, rows: Rows) -> tuple[str, str]:
        names = [key.removesuffix(" us") for key in rows[0] if key.endswith(" us")]
        labels = [r[label] + (f", {threads_text(r['threads'])}" if "threads" in r else "") for r in rows]
        figure.set_size_inches(12, 0.24 * len(rows) + 2)
        ax = figure.subplots()
        series = {name: column(rows, f"{name} us") for name in names}
        dots(ax, labels, series)
        log_axis(ax.xaxis, list(series.values()))
        ax.set_xlabel("microseconds")
        return title, "median of all rounds; further left is faster"

    return picture


def imports(figure: Any, rows: Rows) -> tuple[str, str]:
    """Draw the times of imports as bars."""
    figure.set_size_inches(9, 0.5 * len(rows) + 1.7)
    ax = figure.subplots()
    colours = {"fastnn": DARK, "numpy": PALE, "torch": RED}
    bars = ax.barh(
        [r["import"] for r in rows], [r["ms"] for r in rows], color=[colours[r["import"]] for r in rows]
    )
    ax.bar_label(bars, [f"{r['ms']:.0f} ms" for r in rows], padding=4)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.1)
    ax.set_xlabel("milliseconds")
    return "A new process that imports", "median"


def threads(figure: Any, rows: Rows) -> tuple[str, str]:
    """Draw the time of many threads over that of one against the latter."""
    many = next(key for key in rows[0] if key.startswith("us, ") and key != "us, 1 thread")
    figure.set_size_inches(9, 5.6)
    ax = figure.subplots()
    one, ratio = (np.array([r[key] for r in rows]) for key in ("us, 1 thread", "time over 1 thread"))
    slower = ratio > 1.05
    ratio_axis(ax.yaxis, ratio)
    ax.set_xscale("log")
    ax.axhline(1, color=GREY, linewidth=1)
    ax.scatter(one[~slower], ratio[~slower], s=26, color=DARK, alpha=0.6, linewidth=0)
    ax.scatter(one[slower], ratio[slower], s=26, color=RED, linewidth=0)
    for i in np.argsort(-ratio)[:4]:
        if slower[i]:
            text = f"{rows[i]['op']} {rows[i]['size']}"
            ax.annotate(text, (one[i], ratio[i]), (6, 0), textcoords="offset points", va="center", fontsize=8)
    ax.set_xlabel("microseconds on one thread")
    ax.set_ylabel("time over that of one thread")
    return (
        f"Every operation with {many.removeprefix('us, ')} over one",
        "below 1: faster; red: slower by more than 5 %",
    )


def beside(figure: Any, rows: Rows) -> tuple[str, str]:
    """Draw what all threads bring over one beside each neighbour: a panel a work, a line a neighbour."""
    works, names = (distinct(rows, key) for key in ("work", "beside"))
    figure.set_size_inches(3.4 * len(works) + 1.4, 0.3 * len(names) + 2)
    panels = figure.subplots(1, len(works), sharey=True, sharex=True, squeeze=False)[0]
    for ax, work in zip(panels, works, strict=True):
        some = [r for r in rows if r["work"] == work]
        keys = {"median": "over 1 thread", "mean": "mean over 1 thread"}
        dots(
            ax,
            [r["beside"] for r in some],
            {name: [r[key] for r in some] for name, key in keys.items()},
            stem=1,
        )
        ax.axvline(1, color=GREY, linewidth=1)
        ax.set_title(work)
        ax.set_xlabel("times as fast as one thread")
    return "What more threads bring beside others", "each against one thread beside the same neighbour"


def history(figure: Any, rows: Rows) -> tuple[str, str]:
    """Draw the ratios of this run, and a line from what is usual to the least that is within the noise."""
    figure.set_size_inches(9, 0.32 * len(rows) + 2)
    ax = figure.subplots()
    y, now = range(len(rows)), column(rows, "over NumPy")
    usual, least = column(rows, "usual"), column(rows, "least")
    colours = [RED if r["verdict"] == "fallen" else DARK for r in rows]
    ax.hlines(y, least, usual, color=PALE, linewidth=7, label="usual, down to the noise")
    ax.scatter(now, y, s=34, c=colours, zorder=2, label="now")
    log_axis(ax.xaxis, [now, usual, least])
    ax.set_yticks(y, [r["case"] for r in rows])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("times as fast as NumPy, 1 thread")
    return "Against earlier runs on this machine", "red: fallen"


PICTURES: dict[str, Callable[[Any, Rows], tuple[str, str]]] = {
    "gemm": gemm,
    "sweep": sweep,
    "kernels": moved,
    "optimizers": moved,
    "step": training_plots.step,
    "step-sweep": training_plots.sweep,
    "epoch": times("epoch", "A shuffled epoch of training"),
    "predict": times("predict", "A prediction"),
    "memory": training_plots.memory,
    "search": search_plots.search,
    "samplers": search_plots.samplers,
    "estimators": times("estimator", "A fit of the estimators"),
    "distributed": training_plots.distributed,
    "population": times("population", "A step of a member of a population"),
    "overhead": times("call", "What a call costs with nothing to compute"),
    "import": imports,
    "threads": threads,
    "neighbours": beside,
    "history": history,
}
