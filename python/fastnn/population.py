"""Many native networks trained side by side: members are tasks for a team of threads."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from . import _core
from .layers import documented
from .reference import population as reference
from .reference.history import History
from .trainer import SLICE_SECONDS, Slice, Trainer

if TYPE_CHECKING:
    from .reference.trainer import Work

__all__ = ["Population"]

UNDONE = object()  # the result of a task that is Python's to do
NOT_BEGUN = (0, 0, None)  # that of a slice when the time was over before its turn


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
        results = _core.CompiledNetwork.train_together(calls, math.inf)
        for i, result in enumerate(results):
            if type(result) is not float or not math.isfinite(result):
                results[i] = self._of_member(i, _checked, self.trainers[i], batches[i], result)
        return results

    def _run(self, fits: list[Work[History]]) -> list[History]:
        with ExitStack() as held:
            for trainer in self.trainers:
                for lock in trainer._locks:  # type: ignore[attr-defined]
                    held.enter_context(lock)
            return self._run_together(fits)

    def _run_together(self, fits: list[Work[History]]) -> list[History]:
        histories: dict[int, History] = {}
        tasks = {i: self._of_member(i, next, fit) for i, fit in enumerate(fits)}
        while tasks:
            natively = [i for i, task in tasks.items() if type(task) is Slice]
            calls = [(tasks[i].compiled, tasks[i].arguments) for i in natively]
            done = zip(natively, _core.CompiledNetwork.train_together(calls, SLICE_SECONDS), strict=True)
            results = dict.fromkeys(tasks, UNDONE) | dict(done)
            for i, result in results.items():
                if result == NOT_BEGUN:
                    continue
                task = self._of_member(i, _go_on, fits[i], tasks[i], result)
                if isinstance(task, History):
                    histories[i] = task
                    del tasks[i]
                else:
                    tasks[i] = task
        return [histories[i] for i in range(len(fits))]


def _go_on(fit: Work[History], task: Any, result: Any) -> Any:
    """Send a training what its task has come to; return its next task, or its history."""
    try:
        if result is UNDONE:
            result = task()
    except BaseException as error:
        result = error
    try:
        return fit.throw(result) if isinstance(result, BaseException) else fit.send(result)
    except StopIteration as end:
        return end.value


def _checked(trainer: Trainer, batch: tuple[Any, Any, Any], result: Any) -> float:
    """Return the loss of a step that was not simply done: by Python, or its error."""
    if isinstance(result, BaseException):
        raise result
    if result is None:
        return trainer._step_by_layers(*batch)
    trainer._check_loss(result)
    return float(result)
