"""Learning rate and weight decay, searched for in rounds that narrow their ranges.

Each round draws trials from the ranges, trains each for a few epochs, and keeps as ranges what the best fifth
of its trials span. What draws is a function, the sampler; another, that looks at the trials so far, can stand
in the place of `log_uniform`.
"""

from __future__ import annotations

from math import exp, log
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import fastnn

from .digits import Digits, read, sizes, watch
from .style import COLOURS, frame, styled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    from matplotlib.figure import Figure

    Ranges = dict[str, tuple[float, float]]
    Sampler = Callable[[Ranges, Sequence["Trial"], np.random.Generator], dict[str, float]]

RANGES: Ranges = {"lr": (1e-6, 1.0), "weight_decay": (1e-8, 1.0)}
KEPT = 5  # one of so many trials


class Trial(NamedTuple):
    """Values that were tried, and the share of the validation digits that a network trained so has right."""

    values: dict[str, float]
    accuracy: float


class Round(NamedTuple):
    """The ranges of a round, and its trials in order."""

    ranges: Ranges
    trials: list[Trial]


def log_uniform(ranges: Ranges, trials: Sequence[Trial], rng: np.random.Generator) -> dict[str, float]:
    """Return a value from each range, its logarithm uniform, whatever was tried so far."""
    return {name: exp(rng.uniform(log(low), log(high))) for name, (low, high) in ranges.items()}


def narrowed(ranges: Ranges, trials: Sequence[Trial]) -> Ranges:
    """Return the ranges that the best fifth of the trials span, at least two of them."""
    best = sorted(trials, key=lambda trial: -trial.accuracy)[: max(2, len(trials) // KEPT)]
    spans = {name: [trial.values[name] for trial in best] for name in ranges}
    return {name: (min(span), max(span)) for name, span in spans.items()}


def run(
    lib: ModuleType = fastnn,
    rounds: int = 3,
    trials: int = 40,
    epochs: int = 10,
    width: int = 100,
    sampler: Sampler = log_uniform,
    seed: int = 0,
    dtype: Any = np.float32,
) -> list[Round]:
    """Return the rounds: 500 digits to train with, the training set's other 937 to choose by."""
    x, t, *_ = read()
    digits = Digits(x[:500], t[:500], x[500:], t[500:])
    rng = np.random.default_rng(seed)

    def attempt(lr: float, weight_decay: float) -> float:
        net = lib.mlp(sizes(2, width), seed=seed, dtype=dtype)
        optimizer = lib.SGD(lr, weight_decay=weight_decay)
        return float(watch(lib, net, optimizer, digits, epochs=epochs, seed=seed).test_accuracy[-1])

    done: list[Round] = []
    ranges = RANGES
    for _ in range(rounds):
        tried: list[Trial] = []
        for _ in range(trials):
            values = sampler(ranges, tried, rng)
            tried.append(Trial(values, attempt(**values)))
        done.append(Round(ranges, tried))
        ranges = narrowed(ranges, tried)
    return done


def finding(results: list[Round]) -> str:
    """Return what was found."""
    first, last = (np.median([trial.accuracy for trial in results[i].trials]) for i in (0, -1))
    return f"Narrowed {len(results) - 1} times, the median trial is {last:.0%} right instead of {first:.0%}"


@styled
def draw(results: list[Round]) -> Figure:
    """Draw the trials of all rounds with the ranges that they came from, and each round's accuracies."""
    figure, ((field, ranks),) = frame(
        finding(results),
        "Each round draws from what the best fifth of the last one spans; 500 digits, 937 to choose by, SGD",
        1,
        2,
    )
    for number, ((ranges, trials), colour) in enumerate(zip(results, COLOURS, strict=False), start=1):
        x, y = (np.array([trial.values[name] for trial in trials]) for name in ranges)
        accuracies = np.array([trial.accuracy for trial in trials])
        field.scatter(x, y, 8 + 60 * accuracies**2, color=colour, alpha=0.6, linewidth=0)
        (left, right), (bottom, top) = ranges.values()
        field.plot((left, right, right, left, left), (bottom, bottom, top, top, bottom), color=colour)
        ranks.plot(
            np.arange(1, len(trials) + 1),
            np.sort(accuracies)[::-1],
            ".-",
            color=colour,
            label=f"round {number}",
        )
    field.set(xscale="log", yscale="log", xlabel="learning rate", ylabel="weight decay")
    field.set_title("Trials and ranges; larger: more right")
    ranks.set(xlabel="trial, the best first", ylabel="share of the validation digits right", ylim=(0, 1.01))
    ranks.set_title("Accuracies of each round")
    ranks.legend(loc="lower left")
    return figure
