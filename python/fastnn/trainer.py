"""Training of native networks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from . import _core, losses, optimizers
from .layers import documented
from .network import Sequential
from .reference import trainer as reference
from .reference.trainer import History
from .sparse import RowSparse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .checkpoint import Path

__all__ = ["History", "Trainer"]


@documented
class Trainer(reference.Trainer):
    network_class = Sequential
    loss_classes: ClassVar[Mapping[str, Any]] = {
        name: getattr(losses, name) for name in reference.Trainer.loss_classes
    }
    optimizer_classes = optimizers.CLASSES

    def __init__(
        self, net: Any, loss: Any, optimizer: Any, clip_norm: float | None = None, seed: int = 0
    ) -> None:
        super().__init__(net, loss, optimizer, clip_norm, seed)
        # A trainer works on its network all along, so they share what says that they are in use.
        self._in_use = getattr(net, "_in_use", None) or _core.InUse()

    def step(self, x: Any, t: Any, sample_weight: Any = None) -> float:
        with self._in_use:
            return super().step(x, t, sample_weight)

    def fit(
        self,
        x: Any,
        t: Any,
        epochs: int = 10,
        batch_size: int = 128,
        shuffle: bool = True,
        validation: tuple[Any, ...] | None = None,
        callbacks: Iterable[Callable[[Any, History], Any]] = (),
        progress: bool | None = None,
        sample_weight: Any = None,
    ) -> History:
        with self._in_use:
            return super().fit(
                x, t, epochs, batch_size, shuffle, validation, callbacks, progress, sample_weight
            )

    def evaluate(self, x: Any, t: Any, sample_weight: Any = None, batch_size: int = 1024) -> dict[str, float]:
        with self._in_use:
            return super().evaluate(x, t, sample_weight, batch_size)

    def save(self, path: Path) -> None:
        with self._in_use:
            super().save(path)

    def _clip(self, grads: dict[str, Any], limit: float) -> None:
        arrays = [g.values if isinstance(g, RowSparse) else g for g in grads.values()]
        norm = math.sqrt(_core.sum_of_squares(arrays))
        if norm > limit:
            for a in arrays:
                if a.flags.c_contiguous:
                    _core.scale_in_place(a, limit / norm)
                else:
                    a *= limit / norm
