"""What belongs to a parameter: factors of the learning rate and of weight decay, by its name."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _checks

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Group", "assigned", "checked"]

VECTORS = "vectors"


class Group:
    """Parameters that an optimizer treats alike: `Adam(1e-3, groups=[Group("vectors", decay=0)])`.

    All groups of an optimizer whose patterns fit a parameter's name count: their factors are multiplied, and
    it is frozen if one of them says so.

    Parameters
    ----------
    pattern : str
        With *, ? and [...] as in the names of files: "0.*" is the first layer, "*.W" all weights. The word
        "vectors" stands for all parameters of one dimension or none: biases, and what scales and shifts in
        normalizations.
    lr : float >= 0
        Multiplies the learning rate.
    decay : float >= 0
        Multiplies the weight decay.
    frozen : bool
        Whether they are left as they are: they get no update and no state, do not count in `clip_norm`, and
        a native step computes nothing for them that nobody needs.

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these; from the first update, if no parameter fits the pattern.
    """

    def __init__(self, pattern: str, lr: float = 1.0, decay: float = 1.0, frozen: bool = False) -> None:
        if not isinstance(pattern, str) or not pattern:
            raise TypeError(f"pattern must be a text, got {_checks.shown(pattern)}")
        self.pattern = pattern
        self.lr = _checks.real_number("lr", lr, 0)
        self.decay = _checks.real_number("decay", decay, 0)
        self.frozen = _checks.flag("frozen", frozen)

    def fits(self, name: str, dimensions: int) -> bool:
        """Return whether a parameter of this name, of so many dimensions, is one of the group's."""
        if self.pattern == VECTORS:
            return dimensions < 2
        return fnmatchcase(str(name), self.pattern)

    def config(self) -> dict[str, Any]:
        """Return the arguments that make it."""
        return {"pattern": self.pattern, "lr": self.lr, "decay": self.decay, "frozen": self.frozen}

    def __eq__(self, other: object) -> bool:
        """Return whether the other is a group of the same arguments."""
        return isinstance(other, Group) and self.config() == other.config()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Return the arguments."""
        return f"Group({self.pattern!r}, lr={self.lr}, decay={self.decay}, frozen={self.frozen})"


def checked(groups: Any) -> tuple[Group, ...]:
    """Return groups as a tuple; TypeError if they are none."""
    try:
        given: tuple[Group, ...] = tuple(groups)
    except TypeError:
        raise TypeError(f"groups must be a list of Group, got {_checks.shown(groups)}") from None
    for i, group in enumerate(given):
        if not isinstance(group, Group):
            raise TypeError(f"groups[{i}] must be a Group, got {_checks.shown(group)}")
    return given


def assigned(groups: tuple[Group, ...], params: Mapping[str, Any]) -> dict[str, Group]:
    """Return what the groups of each parameter that has any come to; ValueError if a pattern fits none."""
    found: dict[str, Group] = {}
    for group in groups:
        fitting = [name for name, p in params.items() if group.fits(name, np.ndim(p))]
        if not fitting:
            names = ", ".join(map(str, params))
            raise ValueError(f"groups: the pattern {group.pattern!r} must fit a parameter, got {names}")
        for name in fitting:
            old = found.get(name, Group(name or "*"))
            found[name] = Group(
                name or "*", old.lr * group.lr, old.decay * group.decay, old.frozen or group.frozen
            )
    return found
