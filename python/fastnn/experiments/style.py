"""How the pictures of the experiments look: one frame, one set of colours, one way to write a file."""

from __future__ import annotations

from functools import wraps
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeVar

from .. import demo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from matplotlib.figure import Figure

    from .._checks import Array

R = TypeVar("R")

# After Okabe and Ito's, which readers of any colour vision can tell apart; dark enough for text on white.
BLUE, RED, GREEN, PURPLE, BLACK = COLOURS = "#0072b2", "#c75400", "#008763", "#aa4a8f", "#3c3c3c"
DARK, GREY = demo.DARK, demo.GREY  # of titles, of notes
DPI = 150
WIDTH = 9.0  # inches
STYLE: dict[Any, Any] = {
    **demo.STYLE,
    "axes.axisbelow": True,
    "axes.labelsize": 10,
    "axes.titlesize": 11,
    "font.size": 9.5,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.8,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}


def require() -> None:
    """Raise ImportError, which names the extra, if matplotlib is not there."""
    try:
        import matplotlib as matplotlib
    except ImportError:
        raise ImportError("the pictures need matplotlib: pip install 'fastnn-cpu[plot]'") from None


def styled(draw: Callable[[R], Figure]) -> Callable[[R], Figure]:
    """Return a function that draws in the style of the experiments; it raises ImportError as `require`."""

    @wraps(draw)
    def in_style(results: R) -> Figure:
        require()
        import matplotlib

        with matplotlib.rc_context(STYLE):
            return draw(results)

    return in_style


def frame(
    title: str, note: str, rows: int = 1, columns: int = 1, height: float = 5, **options: Any
) -> tuple[Figure, Any]:
    """Return a figure with its title and a note on how it was made, and its axes, shape (rows, columns).

    Parameters
    ----------
    title, note : str
        What was found, and with what settings; a line each.
    rows, columns : int
        Of axes.
    height : float
        Of the figure, in inches.
    **options
        As for `matplotlib.figure.Figure.subplots`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    figure.set_layout_engine("constrained", rect=(0.01, 0.01, 0.98, 0.98 - 0.72 / height), wspace=0.04)
    figure.text(0.018, 1 - 0.2 / height, title, fontsize=14.5, weight="bold", color=DARK, va="top")
    figure.text(0.018, 1 - 0.49 / height, note, fontsize=9.5, color=GREY, va="top")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def curves(ax: Any, x: Array, runs: Array, **options: Any) -> None:
    """Draw the mean of runs, shape (seeds, points), and pale around it what they span."""
    (line,) = ax.plot(x, runs.mean(axis=0), **options)
    if len(runs) > 1:
        ax.fill_between(
            x, runs.min(axis=0), runs.max(axis=0), color=line.get_color(), alpha=0.15, linewidth=0
        )


def label_ends(ax: Any, ends: Mapping[str, tuple[float, float, str]], gap: float) -> None:
    """Write names where their lines end, at right, moved apart vertically where they would touch.

    Parameters
    ----------
    ends : dict
        {name: (x, y, colour)}, in the coordinates of the data.
    gap : float
        Smallest vertical distance, as a share of the axes' height.
    """
    ax.autoscale_view()
    to_axes = ax.transAxes.inverted()
    taken = -1.0
    places = {name: to_axes.transform(ax.transData.transform(end[:2]))[1] for name, end in ends.items()}
    for name in sorted(places, key=places.__getitem__):
        taken = max(places[name], taken + gap)
        ax.text(1.015, taken, name, color=ends[name][2], transform=ax.transAxes, va="center", fontsize=9.5)


def save(figure: Figure, path: Path) -> None:
    """Write a figure to a PNG file of 256 colours, a third of the bytes; OSError if it cannot be written."""
    from PIL import Image

    drawn = BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, format="PNG", optimize=True)
