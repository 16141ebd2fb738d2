"""Pictures of training: steps of networks, how they scale, and the memory they take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn.demo import GREY, RED

from . import shapes
from .axes import COLOURS, column, distinct, dots, log_axis, ratio_axis, threads_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .report import Rows


def step(figure: Any, rows: Rows) -> tuple[str, str]:
    """Draw microseconds, ratios over the peers and the share of the floor: a line a network and threads."""
    names = [key.removesuffix(" us") for key in rows[0] if key.endswith(" us")]
    labels = [f"{r['network']}, {threads_text(r['threads'])}" for r in rows]
    figure.set_size_inches(17, 0.3 * len(rows) + 2.4)
    cost, ratio, share = figure.subplots(1, 3, sharey=True, width_ratios=(4, 3, 2))
    series = {name: column(rows, f"{name} us") for name in names}
    dots(cost, labels, series)
    log_axis(cost.xaxis, list(series.values()))
    cost.set_xlabel("microseconds a step")
    over = {name: series[name] / series["fastnn"] for name in names if name not in ("fastnn", "fastnn fit")}
    dots(ratio, labels, over, stem=1)
    ratio_axis(ratio.xaxis, list(over.values()))
    ratio.axvline(1, color=GREY, linewidth=1)
    ratio.set_xlabel("fastnn's Trainer.step is so many times as fast")
    dots(
        share,
        labels,
        {"fastnn": column(rows, "% of floor"), "fastnn fit": column(rows, "fit % of floor")},
        stem=0,
    )
    share.set_xlabel("% of the flops at the FMA peak")
    note = "median of all rounds; peers with one or two threads, as is best; JAX scan: up to 16 steps a call"
    return "A training step", note


# Columns of the picture: the axis, and which sizes (width, depth, batch) are on its line.
_WIDTH, _DEPTH, _BATCH = shapes.CENTRE
LINES = {
    "width": {"depth": _DEPTH, "batch": _BATCH},
    "depth": {"width": _WIDTH, "batch": _BATCH},
    "batch": {"width": _WIDTH, "depth": _DEPTH},
}


def sweep(figure: Any, rows: Rows) -> tuple[str, str]:
    """Draw ratio, share of the floor and cost against width, depth and batch, and all against the work."""
    figure.set_size_inches(17, 11)
    grid = figure.subplots(3, len(LINES) + 1, sharex="col", sharey="row", squeeze=False)
    for axes, (key, fixed) in zip(grid.T, LINES.items(), strict=False):
        some = [r for r in rows if all(r[name] == value for name, value in fixed.items())]
        _panels(axes, sorted(some, key=lambda r: r[key]), key, "-")
        axes[0].set_title(f"{key}; {', '.join(f'{name} {value}' for name, value in fixed.items())}")
        log_axis(axes[-1].xaxis, column(some, key))
        axes[-1].set_xticks(sizes := distinct(some, key), sizes, fontsize=8)
        axes[-1].set_xlabel(key)
    _panels(grid[:, -1], rows, "MFLOP", "")
    grid[0, -1].set_title("all sizes")
    log_axis(grid[-1, -1].xaxis, column(rows, "MFLOP"))
    grid[-1, -1].set_xlabel("MFLOP a step")
    ratio_axis(grid[0, 0].yaxis, [column(rows, key) for key in ("over best peer", "fit over best peer")])
    log_axis(grid[2, 0].yaxis, [_best(rows), column(rows, "fastnn us")])
    for ax, label in zip(
        grid[:, 0], ("times as fast as the best peer", "% of the floor", "microseconds a step"), strict=True
    ):
        ax.set_ylabel(label)
    for ax in grid[0]:
        ax.axhline(1, color=GREY, linewidth=1)
    return "How a training step scales", "SGD; filled, solid: the most threads; open, dashed: one"


def _panels(axes: Iterable[Any], rows: Rows, key: str, line: str) -> None:
    """Draw ratio, share and cost against the key."""
    many = max(distinct(rows, "threads"))
    for count in sorted(distinct(rows, "threads")):
        some = [r for r in rows if r["threads"] == count]
        look = {"linestyle": "", "marker": "o", "markersize": 4.5}
        if line:
            look["linestyle"] = "-" if count == many else "--"
        panels = (
            {"fastnn": column(some, "over best peer"), "fastnn fit": column(some, "fit over best peer")},
            {"fastnn": column(some, "% of floor"), "fastnn fit": column(some, "fit % of floor")},
            {name: column(some, f"{name} us") for name in ("fastnn", "fastnn fit")}
            | {"best peer": _best(some)},
        )
        for ax, series in zip(axes, panels, strict=True):
            for name, y in reversed(list(series.items())):  # fastnn on top
                colour = RED if name == "best peer" else COLOURS[name]
                face = colour if count == many else "white"
                label = f"{name}, {threads_text(count)}"
                ax.plot(column(some, key), y, color=colour, markerfacecolor=face, label=label, **look)


def _best(rows: Rows) -> Any:
    """Return the microseconds of the best peer of each row."""
    return np.array([r[f"{r['best peer']} us"] for r in rows])


def memory(figure: Any, rows: Rows) -> tuple[str, str]:
    """Draw the bytes a parameter as bars."""
    figure.set_size_inches(12, 0.45 * len(rows) + 2)
    ax = figure.subplots()
    labels = [f"{r['network']}, {r['library']}" for r in rows]
    colours = [COLOURS[r["library"]] for r in rows]
    bars = ax.barh(range(len(rows)), column(rows, "bytes a parameter"), color=colours)
    ax.bar_label(bars, [f"{r['bytes a parameter']:.1f}" for r in rows], padding=4)
    ax.set_yticks(range(len(rows)), labels)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.1)
    ax.axvline(16, color=GREY, linewidth=1)
    ax.set_xlabel("bytes a parameter")
    return (
        "Memory that training takes",
        "peak of a process, over what it was before; the line: four arrays of float32",
    )


def distributed(figure: Any, rows: Rows) -> tuple[str, str]:
    """Draw efficiency over ranks: a panel a kind of scaling, the model as lines, measurements as dots."""
    figure.set_size_inches(11, 5)
    colours = ("#e0a33e", "#4f7cac", "#1d3557")
    for ax, scaling in zip(
        figure.subplots(1, 2, sharey=True), ("strong scaling", "weak scaling"), strict=True
    ):
        some = [r for r in rows if r["what"] == scaling]
        networks = distinct([r for r in some if r["kind"] == "model"], "how")
        for network, colour in zip(networks, colours, strict=True):
            line = [r for r in some if r["how"] == network]
            ax.plot(
                column(line, "ranks"), column(line, "efficiency"), color=colour, label=f"model, {network}"
            )
        dots = [r for r in some if r["kind"] == "measured"]
        if dots:
            ax.scatter(
                column(dots, "ranks"), column(dots, "efficiency"), color=RED, zorder=3, label="measured here"
            )
        ax.set_title(scaling)
        ax.set_xscale("log", base=2)
        ax.set_xlabel("ranks")
    figure.axes[0].set_ylabel("efficiency")
    return "Training by many ranks", "lines are a model, dots were measured on this machine"
