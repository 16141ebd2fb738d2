"""What a fit has to have trained: one network by itself, or several side by side."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from .._interrupts import Interrupts
from ..population import Population

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..reference.history import History
    from ..reference.trainer import Work
    from .course import ShuffledTrainer

__all__ = ["Training", "Trainings", "alone", "go_on", "side_by_side"]


class Training(NamedTuple):
    """What a trainer is to do: the options of its `fit`, and the callbacks among them that are a user's."""

    trainer: ShuffledTrainer
    callbacks: tuple[Any, ...]
    options: dict[str, Any]

    def work(self, interrupts: Interrupts | None = None) -> Work[History]:
        """Return the work; see `Trainer._fitting`."""
        return self.trainer._fitting(**self.options, interrupts=interrupts)


# A fit yields its trainings once, if it has any, and is sent their histories, or thrown what one has raised.
Trainings: TypeAlias = Generator["list[Training]", "Sequence[History]", None]


class Ended(NamedTuple):
    """How a training has ended."""

    result: History | Exception
    seconds: float  # after the beginning of all


def go_on(resume: Callable[[Any], Any], result: Any) -> None:
    """Let a fit go on to its end, by its `send` or `throw`."""
    try:
        resume(result)
    except StopIteration:
        return
    raise RuntimeError("a fit yields its trainings once")


def alone(fit: Trainings) -> None:
    """Do a fit."""
    trainings = next(fit, None)
    if trainings is None:
        return
    try:
        if len(trainings) == 1:
            histories = [trainings[0].trainer._done(trainings[0].work())]
        else:
            histories = _together(trainings, [training.work for training in trainings])
    except BaseException as error:
        go_on(fit.throw, error)
    else:
        go_on(fit.send, histories)


def side_by_side(trainings: Sequence[Training]) -> list[Ended]:
    """Do trainings of which each may fail by itself."""
    begun = perf_counter()

    def caught(training: Training, interrupts: Interrupts) -> Work[Any]:
        result: History | Exception
        try:
            result = yield from training.work(interrupts)
        except Exception as error:
            result = error
        return Ended(result, perf_counter() - begun)

    return _together(trainings, [partial(caught, t) for t in trainings]) if trainings else []


def _together(trainings: Sequence[Training], works: Sequence[Callable[[Interrupts], Work[Any]]]) -> list[Any]:
    """Return what the works of trainings come to, done side by side."""
    callbacks = tuple(c for training in trainings for c in training.callbacks)
    population = Population(training.trainer for training in trainings)
    with Interrupts() as interrupts:
        fits = [work(interrupts) for work in works]
        try:
            return population._run(fits, callbacks)
        finally:
            for fit in fits:
                fit.close()
