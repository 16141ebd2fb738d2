"""Learning-rate schedules: the learning rate as a function of the number of updates done.

A schedule is called with the step, an int that counts updates from 0, and returns the learning rate of that
update. It stands wherever an optimizer takes `lr`. Schedules cannot be changed once made; two with the same
numbers are equal; `to_dict` and `from_dict` carry them through JSON. Any other function step -> float works
as well but cannot be saved.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NoReturn

from . import _checks

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "CosineDecay",
    "ExponentialDecay",
    "InverseTimeDecay",
    "Schedule",
    "StepDecay",
    "WarmUp",
    "from_dict",
]


class Schedule:
    """Base of the schedules: `__slots__` names the arguments of the constructor, in order."""

    __slots__: tuple[str, ...] = ()

    def _set(self, *values: Any) -> None:
        for name, value in zip(self.__slots__, values, strict=True):
            object.__setattr__(self, name, value)

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __call__(self, step: int) -> float:
        """Return the learning rate of update `step` >= 0."""
        return self._at(_checks.integer("step", step, 0))

    def _at(self, step: int) -> float:
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return a dict that JSON can hold: {"name": class, argument: value, ...}."""
        return {"name": type(self).__name__} | dict(zip(self.__slots__, self._values(), strict=True))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        """Refuse: a schedule is fixed."""
        raise AttributeError(f"{type(self).__name__} cannot be changed: make a new one")

    def __delattr__(self, name: str) -> NoReturn:
        """Refuse: a schedule is fixed."""
        raise AttributeError(f"{type(self).__name__} cannot be changed: make a new one")

    def __reduce__(self) -> tuple[type[Schedule], tuple[Any, ...]]:
        """Return what copy and pickle make it from."""
        return type(self), self._values()

    def __eq__(self, other: object) -> bool:
        """Return whether the other is of the same class with the same numbers."""
        return type(self) is type(other) and self._values() == other._values()

    def __hash__(self) -> int:
        """Return a hash of the class and the numbers."""
        return hash((type(self), self._values()))

    def __repr__(self) -> str:
        """Return the call that makes it."""
        arguments = ", ".join(f"{n}={v!r}" for n, v in zip(self.__slots__, self._values(), strict=True))
        return f"{type(self).__name__}({arguments})"


class StepDecay(Schedule):
    """Every `every` steps the rate is multiplied by `factor`: lr * factor**(step // every).

    Parameters
    ----------
    lr : float >= 0
        The first rate.
    factor : float in [0, 1]
    every : int >= 1
    """

    __slots__ = ("lr", "factor", "every")  # noqa: RUF023 (the order of the arguments)
    lr: float
    factor: float
    every: int

    def __init__(self, lr: float, factor: float = 0.1, every: int = 1000) -> None:
        self._set(
            _checks.real_number("lr", lr, 0),
            _checks.real_number("factor", factor, 0, 1),
            _checks.integer("every", every, 1),
        )

    def _at(self, step: int) -> float:
        return self.lr * self.factor ** (step // self.every)


class ExponentialDecay(Schedule):
    """The rate shrinks by the factor `rate` over every `steps` steps, smoothly: lr * rate**(step / steps).

    Parameters
    ----------
    lr : float >= 0
        The first rate.
    rate : float in (0, 1]
    steps : float > 0
    """

    __slots__ = ("lr", "rate", "steps")
    lr: float
    rate: float
    steps: float

    def __init__(self, lr: float, rate: float, steps: float = 1) -> None:
        self._set(
            _checks.real_number("lr", lr, 0),
            _checks.real_number("rate", rate, 0, 1, "(]"),
            _checks.real_number("steps", steps, 0, None, "(]"),
        )

    def _at(self, step: int) -> float:
        return float(self.lr * self.rate ** (step / self.steps))


class InverseTimeDecay(Schedule):
    """The rate falls as one over the time: lr / (1 + rate * step / steps).

    Parameters
    ----------
    lr : float >= 0
        The first rate.
    rate : float >= 0
    steps : float > 0
    """

    __slots__ = ("lr", "rate", "steps")
    lr: float
    rate: float
    steps: float

    def __init__(self, lr: float, rate: float, steps: float = 1) -> None:
        self._set(
            _checks.real_number("lr", lr, 0),
            _checks.real_number("rate", rate, 0),
            _checks.real_number("steps", steps, 0, None, "(]"),
        )

    def _at(self, step: int) -> float:
        return self.lr / (1 + self.rate * step / self.steps)


class CosineDecay(Schedule):
    """Half a wave of the cosine from `lr` down to `final` (Loshchilov, Hutter 2017), which it then keeps.

        final + (lr - final) * (1 + cos(pi * min(step, steps) / steps)) / 2

    Parameters
    ----------
    lr : float >= 0
        The first rate.
    steps : int >= 1
    final : float >= 0
    """

    __slots__ = ("lr", "steps", "final")  # noqa: RUF023 (the order of the arguments)
    lr: float
    steps: int
    final: float

    def __init__(self, lr: float, steps: int, final: float = 0.0) -> None:
        self._set(
            _checks.real_number("lr", lr, 0),
            _checks.integer("steps", steps, 1),
            _checks.real_number("final", final, 0),
        )

    def _at(self, step: int) -> float:
        if step >= self.steps:
            return self.final
        return self.final + (self.lr - self.final) * (1 + math.cos(math.pi * step / self.steps)) / 2


class WarmUp(Schedule):
    """A linear rise over the first `steps` steps into another schedule.

        (step + 1) / steps * schedule(step)   while step < steps
        schedule(step)                        from then on

    With `delay` the other begins where the rise ends, so that all of it is seen, from its highest rate on:

        (step + 1) / steps * schedule(0)      while step < steps
        schedule(step - steps)                from then on

    as in WarmUp(CosineDecay(3e-3, 9000), 1000, delay=True), which is over after 10000 steps.

    Parameters
    ----------
    schedule : schedule, float >= 0 or function
        What follows; a number is a constant rate.
    steps : int >= 0
    delay : bool
    """

    __slots__ = ("schedule", "steps", "delay")  # noqa: RUF023 (the order of the arguments)
    schedule: float | Callable[[int], float]
    steps: int
    delay: bool

    def __init__(self, schedule: float | Callable[[int], float], steps: int, delay: bool = False) -> None:
        self._set(
            schedule if callable(schedule) else _checks.real_number("schedule", schedule, 0),
            _checks.integer("steps", steps, 0),
            _checks.flag("delay", delay),
        )

    def _at(self, step: int) -> float:
        inner = max(0, step - self.steps) if self.delay else step
        lr = self.schedule(inner) if callable(self.schedule) else self.schedule
        return lr if step >= self.steps else (step + 1) / self.steps * lr

    def to_dict(self) -> dict[str, Any]:
        """Return a dict that JSON can hold; TypeError if `schedule` is a plain function."""
        return super().to_dict() | {"schedule": rate_to_json(self.schedule)}


CLASSES = {c.__name__: c for c in (StepDecay, ExponentialDecay, InverseTimeDecay, CosineDecay, WarmUp)}


def from_dict(config: Any) -> Schedule:
    """Return the schedule that `to_dict` described; ValueError if the dict describes none."""
    arguments = dict(config) if isinstance(config, dict) else {}
    name = arguments.pop("name", None)
    if not isinstance(name, str) or name not in CLASSES:
        raise ValueError(
            f"config must be a dict with a name of {', '.join(CLASSES)}, got {_checks.shown(config)}"
        )
    try:
        return CLASSES[name](**{key: rate_from_json(value) for key, value in arguments.items()})
    except TypeError as error:
        raise ValueError(f"config does not describe a {name}: {error}") from None
    except RecursionError:
        raise ValueError("config must not have schedules within schedules so deep") from None


def rate_to_json(rate: Any, name: str = "lr") -> float | dict[str, Any]:
    """Return a rate as JSON holds it, a number or a schedule's dict; TypeError for a function."""
    if isinstance(rate, Schedule):
        return rate.to_dict()
    if callable(rate):
        raise TypeError(
            f"{name} must be a number or one of fastnn.schedules to be saved, got {_checks.shown(rate)}"
        )
    return float(rate)


def rate_from_json(rate: Any) -> Any:
    """Return the rate that `rate_to_json` wrote."""
    return from_dict(rate) if isinstance(rate, dict) else rate
