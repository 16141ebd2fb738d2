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
GALLERY = (3, 14)  # rows and columns
DARK, PALE, RED, GREY = "#12355b", "#a3cdf2", "#d1343a", "#5c6670"
STYLE: dict[Any, Any] = {
    "axes.edgecolor": "#c3cad1",
    "axes.grid": True,
    "axes.labelcolor": GREY,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": DARK,
    "axes.titlelocation": "left",
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "grid.color": "#eceff2",
    "legend.frameon": False,
    "legend.fontsize": 11,
    "text.color": DARK,
    "xtick.color": GREY,
    "ytick.color": GREY,
}


class Task(NamedTuple):
    """A data set, how often to use it, and in what batches.

    An image is a row of pixels in [0, 1] and square; labels are from 0 to 9.
    """

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
    rate = lib.schedules.WarmUp(lib.schedules.CosineDecay(2e-3, steps), steps // 10)
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
    x_train, x_test = (np.divide(x, 255, dtype=np.float32) for x in (x_train, x_test))
    return Task(x_train, t_train, x_test, t_test, epochs=5, batch_size=128)


def warm_up(lib: ModuleType, task: Task) -> None:
    """Train for a few steps that nobody times, so that threads and memory are there when time counts."""
    train(lib, task._replace(x_train=task.x_train[:256], t_train=task.t_train[:256], epochs=1), seed=0)


def apart(a: Array, b: Array) -> Array:
    """Return the relative difference of each element of a, a loss, from that of b."""
    return np.asarray(np.abs(a - b) / np.maximum(b, 1e-9))


def smooth(loss: Array, window: int) -> Array:
    """Return the running mean over `window` steps."""
    return np.convolve(loss, np.full(window, 1 / window), mode="valid")


def report(task: Task, native: Run, reference: Run, threads: int) -> str:
    """Return the comparison of the two trainings as text."""
    steps = ceil(len(task.x_train) / task.batch_size)
    samples = task.epochs * len(task.x_train)
    a, b = native.history.loss, reference.history.loss
    first, whole = apart(a[:steps], b[:steps]), apart(smooth(a, steps), smooth(b, steps))

    def row(name: str, figure: Callable[[Run], str], note: str = "") -> str:
        return f"  {name:16}{figure(native):>12}{figure(reference):>12}   {note}".rstrip()

    return "\n".join(
        (
            setting(task, threads),
            f"{len(task.x_train)} images to train, {len(task.x_test)} to test; "
            f"{task.epochs} epochs of {steps} steps",
            "",
            f"  {'':16}{'fastnn':>12}{'reference':>12}",
            row("test accuracy", lambda run: f"{run.history.val_accuracy[-1]:.2%}"),
            row("last epoch loss", lambda run: f"{run.history.loss[-steps:].mean():.5f}"),
            row("seconds", lambda run: f"{run.seconds:.2f}", f"{ratio(native, reference):.1f} times as fast"),
            row("samples a second", lambda run: f"{samples / run.seconds:.0f}"),
            "",
            "largest relative difference of the loss curves",
            f"  {first.max():.1e} in the first epoch, of any step",
            f"  {whole.max():.1e} in all epochs, of the running mean over {steps} steps",
            "",
        )
    )


def setting(task: Task, threads: int) -> str:
    """Return what was trained, and on what, in a line."""
    config = fastnn.show_config()
    sizes = "-".join(map(str, (task.x_train.shape[1], *HIDDEN, 10)))
    return (
        f"network {sizes} with BatchNorm and Dropout; fastnn {config['version']} ({config['isa']}), "
        f"NumPy {np.__version__}, {threads} thread{'s'[: threads > 1]}"
    )


def ratio(native: Run, reference: Run) -> float:
    """Return how many times as fast the native training was."""
    return reference.seconds / native.seconds


def picture(task: Task, native: Run, reference: Run, threads: int, path: str) -> None:
    """Draw the comparison of the two trainings and some of the test images; write it to a PNG file."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(16, 9), dpi=100)
        figure.text(
            0.06, 0.94, "Handwritten digits, learned by fastnn and by its NumPy reference", fontsize=22
        )
        figure.text(0.06, 0.91, f"from the same seed; {setting(task, threads)}", fontsize=12, color=GREY)
        grid = figure.add_gridspec(
            2,
            3,
            height_ratios=(3, 1),
            width_ratios=(8, 5, 3),
            left=0.06,
            right=0.98,
            top=0.85,
            bottom=0.41,
            hspace=0.1,
            wspace=0.18,
        )
        losses = figure.add_subplot(grid[0, 0])
        draw_losses(losses, figure.add_subplot(grid[1, 0], sharex=losses), native, reference)
        draw_accuracies(figure.add_subplot(grid[:, 1]), native, reference)
        draw_times(figure.add_subplot(grid[:, 2]), native, reference)
        draw_images(figure.add_axes((0.06, 0.02, 0.92, 0.285)), task, native.predicted)
        figure.savefig(path, format="png")


def draw_losses(ax: Any, below: Any, native: Run, reference: Run) -> None:
    """Draw the two loss curves and, in the axes below, how far they are apart."""
    a, b = native.history.loss, reference.history.loss
    steps = np.arange(1, len(a) + 1)
    ax.semilogy(steps, b, color=PALE, linewidth=5, solid_joinstyle="round", label="reference")
    ax.semilogy(steps, a, color=DARK, linewidth=0.9, label="fastnn")
    ax.set_title("Training loss of each step")
    ax.legend()
    ax.tick_params(labelbottom=False)
    below.semilogy(steps, np.maximum(apart(a, b), 1e-9), color=DARK, linewidth=0.8)
    below.set_ylabel("relative\ndifference")
    below.set_xlabel("step")
    below.margins(x=0.01)


def draw_accuracies(ax: Any, native: Run, reference: Run) -> None:
    """Draw the accuracies on the test images after each epoch."""
    a, b = 100 * native.history.val_accuracy, 100 * reference.history.val_accuracy
    epochs = np.arange(1, len(a) + 1)
    ax.plot(epochs, b, "o-", color=PALE, linewidth=5, markersize=4, label=f"reference: {b[-1]:.2f} %")
    ax.plot(epochs, a, ".-", color=DARK, linewidth=1.2, label=f"fastnn: {a[-1]:.2f} %")
    ax.set_ylim(max(0, np.quantile(b, 0.2) - 4), 100)
    ax.set_title("Test accuracy after each epoch, %")
    ax.set_xlabel("epoch")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(loc="lower right")


def draw_times(ax: Any, native: Run, reference: Run) -> None:
    """Draw the times as bars."""
    seconds = native.seconds, reference.seconds
    bars = ax.bar(("fastnn", "reference"), seconds, color=(DARK, PALE), width=0.6)
    ax.bar_label(bars, [f"{s:.2f} s" for s in seconds], padding=3, fontsize=12, color=DARK)
    ax.set_title(f"{ratio(native, reference):.1f} times as fast")
    ax.tick_params(axis="x", length=0, labelsize=12)
    ax.set_yticks(())
    ax.grid(False)
    ax.margins(y=0.12)
    ax.spines["left"].set_visible(False)


def draw_images(ax: Any, task: Task, predicted: Array) -> None:
    """Draw test images, each with what was read in it: at most a row of wrong ones, then right ones."""
    from matplotlib.colors import LinearSegmentedColormap

    wrong = predicted != task.t_test
    ink = LinearSegmentedColormap.from_list("ink", ("#f1f5f9", DARK))
    side = isqrt(task.x_test.shape[1])
    rows, columns = GALLERY
    shown = np.concatenate((np.flatnonzero(wrong)[:columns], np.flatnonzero(~wrong)))
    for place, i in enumerate(shown[: rows * columns]):
        row, column = divmod(place, columns)
        x, y = 1.5 * column, 1.12 * row
        ax.imshow(task.x_test[i].reshape(side, side), cmap=ink, vmin=0, vmax=1, extent=(x, x + 1, y + 1, y))
        ax.text(x + 1.06, y + 0.36, predicted[i], color=RED if wrong[i] else DARK, fontsize=17)
        if wrong[i]:
            ax.text(x + 1.06, y + 0.92, f"is {task.t_test[i]}", color=RED, fontsize=9)
    ax.set_xlim(0, 1.5 * columns - 0.15)
    ax.set_ylim(1.12 * rows, 0)
    ax.set_anchor("NW")
    ax.axis("off")
    ax.set_title(f"Test images, as fastnn reads them ({wrong.sum()} of {len(wrong)} wrong, in red)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fastnn demo",
        description="Train a classifier of handwritten digits with fastnn and with fastnn.reference, compare "
        "what they learn and how fast, and draw it. The digits are scikit-learn's, or those of MNIST.",
    )
    parser.add_argument("--mnist", metavar="DIR", help="where the four files of MNIST are, gzipped or not")
    parser.add_argument("--epochs", type=integer(1, 10**6), metavar="N", help="default: 30, for MNIST 5")
    parser.add_argument(
        "--out", default="fastnn-demo.png", metavar="FILE", help="the picture, a PNG; default: %(default)s"
    )
    parser.add_argument("--seed", type=integer(0, 2**64 - 1), default=0, metavar="S", help="default: 0")
    parser.add_argument(
        "--threads", type=integer(1, 1024), default=1, metavar="N", help="for both; default: %(default)s"
    )
    args = parser.parse_args(argv)
    try:
        require_extras()
        if not Path(args.out).absolute().parent.is_dir():
            raise FileNotFoundError(f"the directory of {args.out} does not exist")
        task = read_digits() if args.mnist is None else read_mnist(args.mnist)
    except (ImportError, OSError, ValueError) as error:
        return failed(error)
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
    native, reference = runs
    print(report(task, native, reference, args.threads))
    try:
        picture(task, native, reference, args.threads, args.out)
    except OSError as error:
        return failed(error)
    print(f"picture: {args.out}")
    return 0


def failed(error: Exception) -> int:
    """Print what is wrong, in one line; return the exit status for it."""
    print(f"fastnn demo: {error}", file=sys.stderr)
    return 2


def integer(low: int, high: int) -> Callable[[str], int]:
    """Return a reader of an argument that is an integer from `low` to `high`."""

    def read(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be from {low} to {high}, got {value}")
        return value

    return read


def require_extras() -> None:
    """Raise ImportError if a package of the extra fastnn-cpu[demo] is not there."""
    missing = [package for module, package in EXTRAS.items() if find_spec(module) is None]
    if missing:
        raise ImportError(f"{', '.join(missing)} missing: pip install 'fastnn-cpu[demo]'")
