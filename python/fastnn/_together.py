"""Functions that train networks of their own, run side by side: the trainings of all are one crowd's.

Each has a thread, of which only one runs at a time: until it calls `Trainer.fit`, which is done by the thread
that conducts all, its native slices side by side with those of the others. When all have done an epoch, or
ended, they go on in their order. So what they do besides training, and when, depends on no clock.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, closing
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from . import _core
from .reference.trainer import turn
from .trainer import Slice, of_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from .reference.history import History
    from .reference.trainer import Work
    from .trainer import Trainer

    Function = Callable[[], None]

__all__ = ["Abandoned", "Together"]


class Abandoned(BaseException):
    """Raised in a function whose training nobody goes on with."""


class Together:
    """Conducts functions.

    Parameters
    ----------
    most : int >= 1
        How many run side by side.
    begin : function () -> function or None
        Returns the next one, which raises nothing; None: no more for now. It is asked when one has ended.
    """

    def __init__(self, most: int, begin: Callable[[], Function | None]) -> None:
        self._most, self._begin = most, begin
        self._told: SimpleQueue[Any] = SimpleQueue()  # by the one whose turn it is
        self._locked: set[_core.InUse] = set()  # which this thread may enter once more

    def run(self) -> None:
        """Run functions until there are no more."""
        running: list[_One] = []
        with closing(_core.Crowd(self._most)) as self._crowd:
            try:
                while True:
                    self._fill(running)
                    if not running:
                        return
                    while (done := self._crowd.next()) is not None:
                        self._go_on(*done)
                    for one in running:
                        if one.result is None:
                            self._go_on(one, None)
                        self._answer(one)
                    running = [one for one in running if not one.over]
            finally:
                for one in running:
                    one.abandon(self._told)

    def _fill(self, running: list[_One]) -> None:
        while len(running) < self._most and (function := self._begin()) is not None:
            one = _One(function, self._told)
            try:
                one.start()
            except RuntimeError:  # the system refuses another thread
                function()
                continue
            self._listen(one)
            if not one.over:
                running.append(one)

    def _listen(self, one: _One) -> None:
        """Let one run until it trains, or is over."""
        told = self._told.get()
        if told is None:
            one.over = True
            return
        trainer, work = told
        one.train(trainer, work, self._locked)
        if one.result is None:
            self._go_on(one, None)
        self._answer(one)

    def _answer(self, one: _One) -> None:
        """Let one run, if its training has ended."""
        if one.result is not None:
            one.answer()
            self._listen(one)

    def _go_on(self, one: _One, result: Any) -> None:
        """Go on with a training until it has a slice to be done, waits for its turn, or ends."""
        while one.work is not None:
            try:
                resume = one.work.throw if isinstance(result, BaseException) else one.work.send
                task = resume(result)
            except StopIteration as end:
                one.end(end.value)
            except BaseException as error:
                one.end(error)
            else:
                if isinstance(task, Slice):
                    self._crowd.begin(one, task.compiled, task.arguments)
                    return
                if task is turn:
                    return
                try:
                    result = task()
                except BaseException as error:
                    result = error


class _One(threading.Thread):
    """The thread of a function.

    Attributes
    ----------
    work : Work or None
        The training that it waits for.
    result : History, exception or None
        What that has come to.
    over : bool
    """

    def __init__(self, function: Function, told: SimpleQueue[Any]) -> None:
        super().__init__(name="together")
        self._function, self._told = function, told
        self._answers: SimpleQueue[Any] = SimpleQueue()
        self._held = ExitStack()  # the locks of the trainer
        self.work: Work[History] | None = None
        self.result: History | BaseException | None = None
        self.over = False

    def run(self) -> None:
        """Run the function, in its thread."""
        of_thread.take = self._take
        try:
            self._function()
        finally:
            self._told.put(None)

    def _take(self, trainer: Trainer, work: Work[History]) -> History:
        """Have a training of this thread done."""
        self._told.put((trainer, work))
        result = self._answers.get()
        if isinstance(result, BaseException):
            raise result
        return result  # type: ignore[no-any-return]

    # What the conductor does

    def train(self, trainer: Trainer, work: Work[History], locked: set[_core.InUse]) -> None:
        """Begin a training, unless others, whose locks are `locked`, train some of the same."""
        self.work = work
        try:
            for lock in set(trainer._locks):
                if lock in locked:
                    raise RuntimeError("an object is in use in another trial: networks are for one at a time")
                self._held.enter_context(lock)
                locked.add(lock)
                self._held.callback(locked.remove, lock)
        except BaseException as error:
            self.end(error)

    def end(self, result: History | BaseException) -> None:
        """End it."""
        if self.work is not None:
            self.work.close()
        self.work, self.result = None, result
        self._held.close()

    def answer(self) -> None:
        """Let the function have what its training has come to."""
        result, self.result = self.result, None
        self._answers.put(result)

    def abandon(self, told: SimpleQueue[Any]) -> None:
        """Let the function end, whatever it trains."""
        while not self.over:
            self.end(Abandoned())
            self.answer()
            self.over = told.get() is None
