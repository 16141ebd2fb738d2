"""Training of native networks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from . import _core, losses, optimizers
from .layers import documented
from .network import Sequential, exclusive
from .reference import trainer as reference
from .reference.trainer import History
from .sparse import RowSparse

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["History", "Trainer"]


@documented
class Trainer(reference.Trainer):
    network_class = Sequential
    loss_classes: ClassVar[Mapping[str, Any]] = {
        name: getattr(losses, name) for name in reference.Trainer.loss_classes
    }
    optimizer_classes = optimizers.CLASSES

    def __init__(
        self,
        net: Any,
        loss: Any,
        optimizer: Any,
        clip_norm: float | None = None,
        seed: int = 0,
        *,
        nonfinite: str = "raise",
    ) -> None:
        super().__init__(net, loss, optimizer, clip_norm, seed, nonfinite=nonfinite)
        # A trainer works on its network all along, so they share what says that they are in use.
        self._in_use = getattr(net, "_in_use", None) or _core.InUse()

    step = exclusive(reference.Trainer.step)
    fit = exclusive(reference.Trainer.fit)
    evaluate = exclusive(reference.Trainer.evaluate)
    save = exclusive(reference.Trainer.save)

    def _clip(self, grads: dict[str, Any], limit: float) -> None:
        arrays = [g.values if isinstance(g, RowSparse) else g for g in grads.values()]
        norm = math.sqrt(_core.sum_of_squares(arrays))
        if norm > limit:
            for a in arrays:
                if a.flags.c_contiguous:
                    _core.scale_in_place(a, limit / norm)
                else:
                    a *= limit / norm
