"""The drawings of the documents, as SVG: `python docs/figures/draw.py` writes them anew.

speed.svg shows the table of training steps in README.md, so that the two cannot differ; step.svg how a step
becomes one call.
"""

from __future__ import annotations

import math
import re
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
DARK, PALE, RED, GREY, LINE, GROUND = "#12355b", "#a3cdf2", "#d1343a", "#5c6670", "#c3cad1", "#eef4fa"
FONT = "font-family=\"system-ui, 'Segoe UI', Helvetica, Arial, sans-serif\""


class Drawing:
    """Shapes on white ground, in pixels from the upper left corner."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" {FONT}>',
            f"<title>{escape(title)}</title>",
            f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
        ]

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: int = 13,
        fill: str = GREY,
        anchor: str = "start",
        weight: int = 400,
    ) -> None:
        """Write a line of text; y is its base line."""
        style = f'font-size="{size}" fill="{fill}" text-anchor="{anchor}" font-weight="{weight}"'
        self.parts.append(f'<text x="{x:g}" y="{y:g}" {style}>{escape(text)}</text>')

    def box(
        self,
        x: float,
        y: float,
        w: float,
        h: float,
        text: str = "",
        fill: str = GROUND,
        ink: str = DARK,
        size: int = 13,
    ) -> None:
        """Fill a box, and write into its middle."""
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="4" fill="{fill}"/>')
        if text:
            self.text(x + w / 2, y + h / 2 + size * 0.36, text, size, ink, "middle")

    def line(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        stroke: str = LINE,
        width: float = 1,
        dashes: str = "",
    ) -> None:
        """Draw a line."""
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        self.parts.append(
            f'<line x1="{x0:g}" y1="{y0:g}" x2="{x1:g}" y2="{y1:g}"'
            f' stroke="{stroke}" stroke-width="{width:g}"{dashed}/>'
        )

    def dot(self, x: float, y: float, fill: str) -> None:
        """Fill a circle."""
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:g}" r="6.5" fill="{fill}"/>')

    def arrow(self, x0: float, y0: float, x1: float, y1: float, stroke: str = GREY) -> None:
        """Draw a line with a head at its end."""
        self.line(x0, y0, x1, y1, stroke, 1.4)
        a = math.atan2(y1 - y0, x1 - x0)
        ends = " ".join(f"{x1 - 8 * math.cos(a + s):.1f},{y1 - 8 * math.sin(a + s):.1f}" for s in (0.4, -0.4))
        self.parts.append(f'<polygon points="{x1:g},{y1:g} {ends}" fill="{stroke}"/>')

    def svg(self) -> str:
        """Return the file's text."""
        return "\n".join([*self.parts, "</svg>", ""])


def table(text: str) -> tuple[list[str], list[tuple[str, list[float]]]]:
    """Return names of libraries, and (network, microseconds of each), of the table of training steps."""
    found = re.search(r"^\| a step of training.*?\n\n", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError("README.md has no table of training steps")
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in found[0].split("\n") if line
    ]
    return head[1:], [(name, [float(cell.split()[0]) for cell in cells]) for name, *cells in rows]


def speed() -> str:
    """Draw how many times as fast as each library a step is."""
    text = README.read_text()
    where = re.search(r"on two cores of a ([^,()]*\([^)]*\))", text)
    if where is None:
        raise ValueError("README.md does not say where the steps were measured")
    peers, rows = table(text)
    peers = peers[1:]
    colours = dict(zip(peers, (GREY, RED, "#2f7dc4"), strict=True))
    left, right, top, step = 400, 870, 92, 50
    d = Drawing(
        920, top + step * len(rows) + 62, "A step of training: how many times as fast as other libraries"
    )
    d.text(24, 34, "A step of training is so many times as fast", 19, DARK, weight=700)
    d.text(24, 56, f"Trainer.step, float32, 2 threads; two cores of a {where[1]}", 13)
    most = max(us / own for _, (own, *others) in rows for us in others)

    def at(ratio: float) -> float:
        return left + (right - left) * math.log(ratio / 0.9) / math.log(1.1 * most / 0.9)

    bottom = top + step * len(rows)
    for tick in (1, 2, 5, 10, 20, 50):
        if tick <= 1.1 * most:
            d.line(at(tick), top - 8, at(tick), bottom, GREY if tick == 1 else "#e3e8ed")
            d.text(at(tick), bottom + 20, f"{tick}x", 12, anchor="middle")
    before = ""
    for i, (name, (own, *others)) in enumerate(rows):
        y = top + step * (i + 0.5)
        if name.startswith("the same"):
            name = name.replace("the same", before.rsplit(",", 1)[0])
        before = name
        ratios = [us / own for us in others]
        d.line(at(1), y, at(max(ratios)), y)
        d.text(24, y + 4.5, name, 12, DARK)
        for peer, ratio in zip(peers, ratios, strict=True):
            d.dot(at(ratio), y, colours[peer])
    x = left
    d.text(24, bottom + 46, "further right: fastnn is faster than", 13)
    for peer in peers:
        d.dot(x + 8, bottom + 42, colours[peer])
        d.text(x + 22, bottom + 46, peer, 13, DARK)
        x += 50 + 8 * len(peer)
    return d.svg()


def step() -> str:
    """Draw a step, layer by layer on the left and as one call on the right."""
    d = Drawing(920, 560, "A step of training, layer by layer and as one native call")
    d.text(24, 34, "Layer by layer", 19, DARK, weight=700)
    d.text(24, 56, "an array, a call and a team of threads for each", 13)
    d.text(24, 88, "Python", 12, weight=700)
    d.text(205, 88, "native", 12, weight=700)
    forward = ("Affine forward", "BatchNorm forward", "ReLU forward", "Affine forward", "loss")
    backward = ("loss backward", "Affine backward", "ReLU backward", "BatchNorm backward", "Affine backward")
    calls = (*forward, *backward, "Adam, each array")
    y = 102.0
    for call in calls:
        d.box(205, y, 170, 26, call, size=12)
        d.arrow(80, y + 8, 201, y + 8)
        d.arrow(201, y + 19, 80, y + 19)
        y += 33
    d.line(72, 98, 72, y, GREY, 2)
    d.text(24, y + 24, "Every arrow right is a call that checks its arguments;", 13)
    d.text(24, y + 42, "every array is written, and read again from the cache", 13)
    d.text(24, y + 60, "or the memory, by the next.", 13)

    x0 = 450
    d.line(420, 20, 420, 540)
    d.text(x0, 34, "Trainer.step, and each step within fit", 19, DARK, weight=700)
    d.text(x0, 56, "one call, one team, one plan over one block of memory", 13)
    d.text(x0, 88, "thread 1", 12, weight=700)
    d.text(x0 + 225, 88, "thread 2", 12, weight=700)

    def both(y: float, texts: tuple[str, str], h: float = 26, fill: str = GROUND, ink: str = DARK) -> None:
        for i, text in enumerate(texts):
            d.box(x0 + 225 * i, y, 210, h, text, fill, ink, 12)

    def meet(y: float) -> None:
        d.line(x0, y, x0 + 435, y, RED, 1.5, "5 4")

    both(102, ("rows 1 to 64: gather, convert", "rows 65 to 128: gather, convert"))
    both(132, ("x W + b", "x W + b"))
    meet(166)
    both(174, ("BatchNorm of columns 1 to 50", "BatchNorm of columns 51 to 100"), fill=PALE)
    meet(208)
    both(216, ("ReLU, x W + b, softmax, loss", "ReLU, x W + b, softmax, loss"))
    both(246, ("gradients: loss, dy W\u1d40, ReLU", "gradients: loss, dy W\u1d40, ReLU"))
    meet(280)
    both(288, ("BatchNorm's gradient, by columns", "BatchNorm's gradient, by columns"), fill=PALE)
    meet(322)
    both(
        330,
        ("a tile of dW = x\u1d40 dy, and at once", "a tile of dW = x\u1d40 dy, and at once"),
        fill=DARK,
        ink="#ffffff",
    )
    both(
        356,
        ("Adam on it, while it is in cache", "Adam on it, while it is in cache"),
        fill=DARK,
        ink="#ffffff",
    )
    d.line(x0, 398, x0 + 14, 398, RED, 1.5, "5 4")
    d.text(x0 + 22, 402, "the threads meet; what is to be done is claimed piece by piece,", 13)
    d.text(x0 + 22, 420, "so that nobody waits for a thread that the system does not run", 13)
    d.text(x0, 456, "the arena", 12, weight=700)
    x = float(x0)
    for name, w in (
        ("outputs", 110),
        ("their gradients", 110),
        ("masks", 60),
        ("statistics", 75),
        ("scratch", 80),
    ):
        d.box(x, 466, w - 3, 26, name, size=12)
        x += w
    d.text(x0, 516, "Made once: the next step finds everything where it was.", 13)
    d.text(x0, 534, "The interpreter's lock is free meanwhile.", 13)
    return d.svg()


DRAWINGS = {"speed.svg": speed, "step.svg": step}

if __name__ == "__main__":
    for name, draw in DRAWINGS.items():
        (HERE / name).write_text(draw())
