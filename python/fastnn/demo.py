"""Handwritten digits, learned twice: by fastnn and, from the same seed, by fastnn.reference.

`train` is the whole of it. It is handed the library to train with, and so shows that the two are used alike;
that they also learn alike, at different speeds, is what the report and the picture show.
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from math import ceil, isqrt
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import fastnn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    from ._checks import Array

EXTRAS = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "tqdm": "tqdm"}
HIDDEN = (512, 256)
GALLERY = (3, 16)  # rows and columns
DARK, PALE, RED, GREY = "#12355b", "#a3cdf2", "#d1343a", "#5c6670"
STYLE = {
    "axes.edgecolor": "#c3cad1",
    "axes.grid": True,
    "axes.labelcolor": GREY,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": DARK,
    "axes.titlelocation": "left",
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "figure.titlesize": 20,
    "grid.color": "#eceff2",
    "legend.frameon": False,
    "legend.fontsize": 11,
    "text.color": DARK,
    "xtick.color": GREY,
    "ytick.color": GREY,
}


class Task(NamedTuple):
    """A data set, square images as rows of pixels in [0, 1] with labels from 0 to 9, and how to train on it."""

    x_train: Array
    t_train: Array
    x_test: Array
    t_test: Array
    epochs: int
    batch_size: int


class Run(NamedTuple):
    """What came of a training: its history, its time and the digits that it sees in the test images."""

    history: fastnn.History
    seconds: float
    predicted: Array


def train(lib: ModuleType, task: Task, seed: int, progress: bool = False) -> Run:
    """Train a classifier with `lib`, which is fastnn or fastnn.reference."""
    steps = task.epochs * ceil(len(task.x_train) / task.batch_size)
    rate = lib.schedules.WarmUp(lib.schedules.CosineDecay(5e-3, steps), steps // 10)
    net = lib.mlp([task.x_train.shape[1], *HIDDEN, 10], batch_norm=True, dropout=0.3, init="he", seed=seed)
    trainer = lib.Trainer(net, lib.SoftmaxCrossEntropy(), lib.Adam(rate, weight_decay=1e-4), seed=seed)
    start = perf_counter()
    history = trainer.fit(
        task.x_train,
        task.t_train,
        task.epochs,
        task.batch_size,
        validation=(task.x_test, task.t_test),
        progress=progress,
    )
    return Run(history, perf_counter() - start, net.predict(task.x_test).argmax(axis=1))


def read_digits() -> Task:
    """Return scikit-learn's digits, 8 x 8 pixels: 1437 to train, 360 to test, the same ones every time."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    x, t = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    x_train, x_test, t_train, t_test = train_test_split(x, t, test_size=360, stratify=t, random_state=0)
    return Task(x_train, t_train, x_test, t_test, epochs=30, batch_size=64)


def read_mnist(directory: str) -> Task:
    """Return MNIST, read from its four original files; OSError or ValueError if they are not right."""
    x_train, t_train, x_test, t_test = fastnn.data.load_mnist(directory)
    pixels = isqrt(x_train.shape[1]) ** 2
    for x, t in ((x_train, t_train), (x_test, t_test)):
        if len(x) == 0 or x.shape[1] != pixels or t.max() > 9:
            raise ValueError(f"{directory} must hold square images, all of one size, with labels from 0 to 9")
    white = np.float32(255)
    return Task(x_train / white, t_train, x_test / white, t_test, epochs=5, batch_size=128)


def warm_up(lib: ModuleType, task: Task) -> None:
    """Train for a few steps that nobody times, so that threads and memory are there when time counts."""
    train(lib, task._replace(x_train=task.x_train[:256], t_train=task.t_train[:256], epochs=1), seed=0)


def apart(a: Array, b: Array) -> Array:
    """Return the relative difference of each element of a from that of b."""
    return np.asarray(np.abs(a / b - 1))


def smooth(loss: Array, window: int) -> Array:
    """Return the running mean over `window` steps."""
    return np.convolve(loss, np.full(window, 1 / window), mode="valid")


def report(task: Task, native: Run, reference: Run, threads: int) -> str:
    """Return the comparison of the two trainings as text."""
    config = fastnn.show_config()
    samples = task.epochs * len(task.x_train)
    side = isqrt(task.x_train.shape[1])
    per_epoch = ceil(len(task.x_train) / task.batch_size)
    a, b = native.history.loss, reference.history.loss
    sizes = "-".join(map(str, (side * side, *HIDDEN, 10)))

    def row(name: str, figure: Callable[[Run], str], note: str = "") -> str:
        return f"  {name:<16}{figure(native):>12}{figure(reference):>12}   {note}".rstrip()

    return "\n".join(
        (
            f"fastnn {config['version']} ({config['isa']}) and NumPy {np.__version__}, threads: {threads}",
            f"digits of {side} x {side} pixels: {len(task.x_train)} to train, {len(task.x_test)} to test",
            f"network {sizes}, {task.epochs} epochs of {per_epoch} steps",
            "",
            f"  {'':<16}{'fastnn':>12}{'reference':>12}",
            row("test accuracy", lambda run: f"{run.history.val_accuracy[-1]:.2%}"),
            row("last epoch loss", lambda run: f"{run.history.loss[-per_epoch:].mean():.5f}"),
            row(
                "time",
                lambda run: f"{run.seconds:.2f} s",
                f"{reference.seconds / native.seconds:.1f} times as fast",
            ),
            row("samples/second", lambda run: f"{samples / run.seconds:,.0f}"),
            "",
            "relative difference of the loss curves, at most",
            f"  {'first epoch':<16}{apart(a, b)[:per_epoch].max():>12.1e}   any step",
            f"  {'whole run':<16}{apart(smooth(a, per_epoch), smooth(b, per_epoch)).max():>12.1e}   "
            "running mean over an epoch: differences in rounding grow with every step",
        )
    )


def picture(task: Task, native: Run, reference: Run, path: str) -> None:
    """Draw the comparison of the two trainings and some of the test digits; write it to a file."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(16, 9), dpi=100)
        figure.suptitle("Handwritten digits, learned by fastnn and by its NumPy reference from the same seed")
        top, bottom = figure.add_gridspec(
            2, 1, height_ratios=(11, 7), left=0.055, right=0.975, top=0.875, bottom=0.03, hspace=0.26
        )
        left, middle, right = top.subgridspec(1, 3, width_ratios=(8, 5, 3.2), wspace=0.24)
        upper, lower = left.subgridspec(2, 1, height_ratios=(3, 1), hspace=0.08)
        loss = figure.add_subplot(upper)
        draw_losses(loss, figure.add_subplot(lower, sharex=loss), native, reference)
        draw_accuracies(figure.add_subplot(middle), native, reference)
        draw_times(figure.add_subplot(right), native, reference)
        draw_digits(figure.add_subplot(bottom), task, native.predicted)
        figure.savefig(path)


def draw_losses(ax: Any, below: Any, native: Run, reference: Run) -> None:
    """Draw the two loss curves and, in the axes below, how far they are apart."""
    a, b = native.history.loss, reference.history.loss
    steps = np.arange(1, len(a) + 1)
    ax.semilogy(steps, b, color=PALE, linewidth=5, label="fastnn.reference", solid_joinstyle="round")
    ax.semilogy(steps, a, color=DARK, linewidth=0.9, label="fastnn")
    ax.set_title("Training loss, step by step")
    ax.legend()
    ax.tick_params(labelbottom=False)
    below.semilogy(steps, np.maximum(apart(a, b), 1e-9), color=DARK, linewidth=0.8)
    below.set_ylabel("relative\ndifference")
    below.set_xlabel("step")
    below.margins(x=0.01)


def draw_accuracies(ax: Any, native: Run, reference: Run) -> None:
    """Draw the accuracy on the test images after each epoch."""
    a, b = 100 * native.history.val_accuracy, 100 * reference.history.val_accuracy
    epochs = np.arange(1, len(a) + 1)
    ax.plot(epochs, b, color=PALE, linewidth=5, label=f"fastnn.reference  {b[-1]:.2f} %")
    ax.plot(epochs, a, color=DARK, linewidth=1.2, marker=".", label=f"fastnn  {a[-1]:.2f} %")
    ax.set_ylim(max(0, np.percentile(b, 20) - 4), 100)
    ax.set_title("Test accuracy after each epoch, %")
    ax.set_xlabel("epoch")
    ax.legend(loc="lower right")


def draw_times(ax: Any, native: Run, reference: Run) -> None:
    """Draw the times as bars."""
    seconds = native.seconds, reference.seconds
    bars = ax.bar(("fastnn", "reference"), seconds, color=(DARK, PALE), width=0.6)
    ax.bar_label(bars, [f"{s:.2f} s" for s in seconds], padding=3, fontsize=12, color=DARK)
    ax.set_title(f"Time: {seconds[1] / seconds[0]:.1f} times as fast")
    ax.set_yticks(())
    ax.margins(y=0.12)
    ax.spines["left"].set_visible(False)
    ax.grid(False)


def draw_digits(ax: Any, task: Task, predicted: Array) -> None:
    """Draw test images, the wrongly read ones first, each with what was read."""
    rows, columns = GALLERY
    wrong = predicted != task.t_test
    side = isqrt(task.x_test.shape[1])
    for place, i in enumerate(np.argsort(~wrong, kind="stable")[: rows * columns]):
        row, column = divmod(place, columns)
        x, y = 1.45 * column, 1.15 * row
        ax.imshow(task.x_test[i].reshape(side, side), cmap="gray_r", extent=(x, x + 1, y + 1, y))
        ax.text(x + 1.06, y + 0.35, predicted[i], color=RED if wrong[i] else DARK, fontsize=15, weight="bold")
        if wrong[i]:
            ax.text(x + 1.06, y + 0.8, f"not {task.t_test[i]}", color=RED, fontsize=8)
    ax.set_xlim(0, 1.45 * columns)
    ax.set_ylim(1.15 * rows, 0)
    ax.set_aspect("equal")
    ax.axis("off")
    ax.set_title(
        f"Test images as fastnn reads them: {wrong.sum()} of {len(wrong)} wrong, in red", loc="center"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fastnn demo",
        description="Train a classifier of handwritten digits with fastnn and with fastnn.reference, compare "
        "what they learn and how fast, and draw it. The digits are scikit-learn's, or those of MNIST.",
    )
    parser.add_argument("--mnist", metavar="DIR", help="where the four files of MNIST are, gzipped or not")
    parser.add_argument("--epochs", type=integer(1, 10**6), metavar="N", help="default: 30, for MNIST 5")
    parser.add_argument("--out", default="fastnn-demo.png", metavar="FILE", help="default: %(default)s")
    parser.add_argument("--seed", type=integer(0, 2**64 - 1), default=0, metavar="S", help="default: 0")
    parser.add_argument(
        "--threads",
        type=integer(1, 1024),
        default=fastnn.get_num_threads(),
        metavar="N",
        help="for both; default: %(default)s",
    )
    args = parser.parse_args(argv)
    try:
        require_extras()
        if not Path(args.out).absolute().parent.is_dir():
            raise FileNotFoundError(f"the directory of {args.out} does not exist")
        task = read_digits() if args.mnist is None else read_mnist(args.mnist)
    except (ImportError, OSError, ValueError) as error:
        print(f"fastnn demo: {error}", file=sys.stderr)
        return 2
    if args.epochs is not None:
        task = task._replace(epochs=args.epochs)

    from threadpoolctl import threadpool_limits

    runs = []
    with fastnn.threads(args.threads), threadpool_limits(args.threads, "blas"):
        for lib in (fastnn, fastnn.reference):
            print(f"training with {lib.__name__}", file=sys.stderr, flush=True)
            warm_up(lib, task)
            runs.append(train(lib, task, args.seed, progress=True))
            if runs[-1].history.interrupted:
                return 130
    print(report(task, *runs, args.threads))
    picture(task, *runs, args.out)
    print(f"picture: {args.out}")
    return 0


def integer(low: int, high: int) -> Callable[[str], int]:
    """Return a reader of an argument that is an integer from `low` to `high`."""

    def read(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be from {low} to {high}, got {value}")
        return value

    return read


def require_extras() -> None:
    """Raise ImportError if a package of the extra fastnn[demo] is not there."""
    missing = [package for module, package in EXTRAS.items() if find_spec(module) is None]
    if missing:
        raise ImportError(f"{', '.join(missing)} missing: pip install 'fastnn[demo]'")
