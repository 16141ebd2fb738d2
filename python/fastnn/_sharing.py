"""Who may use an object at the same time: one thread that changes it, or any number that only read.

A method of an object that has the locks of all that it works on, `_locks` to change it and `_read_locks` to
read it, is made `exclusive` or `shared`. A thread that comes meanwhile and may not gets RuntimeError.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from . import _core

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["InUse", "exclusive", "locks_of", "reading", "shared"]

P = ParamSpec("P")
R = TypeVar("R")


class InUse:
    """Gives an object a lock of its own, which copies and pickles do not share."""

    @property
    def _in_use(self) -> _core.InUse:
        mine = self.__dict__
        lock: _core.InUse = mine.get("_in_use") or mine.setdefault(
            "_in_use", _core.InUse()
        )  # one for all threads
        return lock

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_in_use"}


def locks_of(objects: Iterable[Any]) -> list[_core.InUse]:
    """Return the locks of those objects that have one."""
    locks = (getattr(o, "_in_use", None) for o in objects)
    return [lock for lock in locks if isinstance(lock, _core.InUse)]


@contextmanager
def reading(lock: _core.InUse) -> Iterator[None]:
    """Hold a lock that others may hold at the same time, as long as none of them writes."""
    lock.enter_reading()
    try:
        yield
    finally:
        lock.leave_reading()


def shared(method: Callable[P, R]) -> Callable[P, R]:
    """Return a method that only reads what it works on: other threads may read it, too."""

    @wraps(method)
    def among_others(*args: P.args, **options: P.kwargs) -> R:
        with ExitStack() as held:
            for lock in args[0]._read_locks:  # type: ignore[attr-defined]
                held.enter_context(reading(lock))
            return method(*args, **options)

    return among_others


def exclusive(method: Callable[P, R]) -> Callable[P, R]:
    """Return a method during which what it works on is refused to other threads."""

    @wraps(method)
    def alone(*args: P.args, **options: P.kwargs) -> R:
        with ExitStack() as held:
            for lock in args[0]._locks:  # type: ignore[attr-defined]
                held.enter_context(lock)
            return method(*args, **options)

    return alone
