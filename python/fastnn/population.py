"""Many native networks trained side by side: members are tasks for a team of threads."""

from __future__ import annotations

import math
from contextlib import ExitStack
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from . import _core, callbacks
from .layers import documented
from .reference import population as reference
from .reference.history import History
from .trainer import Slice, Trainer

if TYPE_CHECKING:
    from .reference.trainer import Work

__all__ = ["Population"]


@documented
class Population(reference.Population):
    trainer_class = Trainer

    def _each_step(self, batches: list[tuple[Any, Any, Any]]) -> list[float]:
        calls = []
        for trainer, batch in zip(self.trainers, batches, strict=True):
            network = getattr(trainer.net, "_compiled", None)
            if network is None or getattr(trainer.step, "__func__", None) is not Trainer.step:
                return super()._each_step(batches)
            calls.append((network, (trainer, *batch)))
        results = _core.CompiledNetwork.step_together(calls)
        for i, result in enumerate(results):
            if type(result) is not float or not math.isfinite(result):
                results[i] = self._of_member(i, _checked, self.trainers[i], batches[i], result)
        return results

    def _run(self, fits: list[Work[History]], given: tuple[Any, ...]) -> list[History]:
        crowd = _core.Crowd(len(fits))
        with ExitStack() as held:
            for trainer in self.trainers:
                for lock in trainer._locks:  # type: ignore[attr-defined]
                    held.enter_context(lock)
            held.callback(crowd.close)
            return self._run_together(fits, crowd, all(map(_is_own, given)))

    def _run_together(self, fits: list[Work[History]], crowd: _core.Crowd, aside: bool) -> list[History]:
        """Do what the trainings of all members ask for.

        `aside`: what one asks of Python may be done while slices of others are, since it looks at no other.
        """
        histories: dict[int, History] = {}

        def go_on(results: list[tuple[int, Any]]) -> None:
            slices = []
            for i, result in results:
                task = self._of_member(i, _go_on, fits[i], result)
                if isinstance(task, Slice):
                    slices.append((i, task))
                else:
                    histories[i] = task
            for i, task in slices:
                crowd.begin(i, task.compiled, task.arguments)

        for i, fit in enumerate(fits):
            self._of_member(i, next, fit)  # arguments are looked at
        go_on([(i, None) for i in range(len(fits))])
        while (done := crowd.next()) is not None:
            results = [done]
            while not aside and (done := crowd.next()) is not None:
                results.append(done)
            go_on(sorted(results, key=itemgetter(0)))
        return [histories[i] for i in range(len(fits))]


def _is_own(callback: Any) -> bool:
    """Return whether a callback is one of fastnn's, which look at their trainer alone."""
    return type(callback).__module__ == callbacks.__name__


def _go_on(fit: Work[History], result: Any) -> Slice | History:
    """Send a training what its task has come to; return its next slice, or its history."""
    while True:
        try:
            task = fit.throw(result) if isinstance(result, BaseException) else fit.send(result)
        except StopIteration as end:
            history: History = end.value
            return history
        if isinstance(task, Slice):
            return task
        try:
            result = task()
        except BaseException as error:
            result = error


def _checked(trainer: Trainer, batch: tuple[Any, Any, Any], result: Any) -> float:
    """Return the loss of a step that was not simply done: by Python, or its error."""
    if isinstance(result, BaseException):
        raise result
    if result is None:
        return trainer._step_by_layers(*batch)
    trainer._check_loss(result)
    return float(result)
