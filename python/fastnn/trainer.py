"""Training of native networks."""

from __future__ import annotations

import math
import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import _checks, _core, losses, optimizers
from ._sharing import exclusive, locks_of, shared
from .layers import documented
from .network import Sequential
from .reference import trainer as reference
from .reference.losses import FunctionLoss
from .reference.network import dropouts_among, layers_of
from .reference.optimizers import Optimizer, l2_norm
from .reference.trainer import History
from .sparse import RowSparse

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from .reference.trainer import Work

__all__ = ["History", "Trainer"]

SLICE_SECONDS = 0.05  # between looks at callbacks, the progress bar and Ctrl-C
RATES = 256

of_thread = threading.local()  # .take: does, elsewhere, the trainings that this thread begins


class Order:
    """The rows of an epoch in the order of their use: drawn by the native steps, or here where Python looks.

    Attributes
    ----------
    drawn_from : tuple
        What native steps are given: how many, seed, epoch, and the rows that are permuted or None for all.
    """

    def __init__(self, n: int, seed: int, epoch: int, rows: Any) -> None:
        self.drawn_from = n, seed, epoch, rows

    def __len__(self) -> int:
        return self.drawn_from[0]

    @cached_property
    def rows(self) -> Any:
        """Their numbers, int64 (n,)."""
        n, seed, epoch, rows = self.drawn_from
        order = _core.permutation(n, seed, epoch)
        return order if rows is None else rows[order]

    def __getitem__(self, places: Any) -> Any:
        return self.rows[places]


class Slice:
    """Some steps of an epoch, to be done by themselves or beside those of other trainers."""

    __slots__ = ("arguments", "compiled")

    def __init__(self, compiled: _core.CompiledNetwork, arguments: tuple[Any, ...]) -> None:
        self.compiled, self.arguments = compiled, arguments

    def __call__(self) -> Any:
        """Do the steps; return what `CompiledNetwork.train` does."""
        return self.compiled.train(*self.arguments)


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
        average: float | None = None,
        *,
        nonfinite: str = "raise",
    ) -> None:
        super().__init__(net, loss, optimizer, clip_norm, seed, average, nonfinite=nonfinite)
        self._alone = _core.InUse()

    @property
    def _locks(self) -> list[_core.InUse]:
        averaged = getattr(self.averaged, "_locks", ())
        return [*self._read_locks, *averaged, *locks_of((self.loss, self.optimizer))]

    @property
    def _read_locks(self) -> list[_core.InUse]:
        locks: list[_core.InUse] = getattr(self.net, "_locks", [self._alone])
        return locks

    def step(self, x: Any, t: Any, sample_weight: Any = None) -> float:
        compiled = getattr(self.net, "_compiled", None)
        loss: float | None = None
        if compiled is not None:
            x = x if type(x) is np.ndarray else _checks.as_array("x", x)
            try:
                loss = compiled.step(self, x, t, sample_weight)
            except (TypeError, ValueError):
                labels = _checks.other_labels(t) if hasattr(self.loss, "plain_targets") else None
                if labels is None:
                    raise
                return self.step(x, labels, sample_weight)
        if loss is None:
            return self._step_by_layers(x, t, sample_weight)
        if not math.isfinite(loss):
            self._check_loss(loss)
        return loss

    _step_by_layers = exclusive(reference.Trainer.step)
    _done_here = exclusive(reference.Trainer._done)

    def _done(self, work: Work[History]) -> History:
        take = getattr(of_thread, "take", None)
        return self._done_here(work) if take is None else take(self, work)

    fit_batches = exclusive(reference.Trainer.fit_batches)
    save = shared(reference.Trainer.save)
    evaluate = shared(reference.Trainer.evaluate)

    def _run_epoch(
        self, x: Any, t: Any, sample_weight: Any, order: Any, batch_size: int, scale: float
    ) -> Iterator[Any]:
        size = len(x) if order is None else len(order)
        batch_size = min(batch_size, size)
        step = yield from self._run_natively(x, t, sample_weight, order, batch_size, scale)
        if step * batch_size < size:
            rest = np.arange(size) if order is None else order
            yield from super()._run_epoch(x, t, sample_weight, rest[step * batch_size :], batch_size, scale)

    def _run_natively(
        self, x: Any, t: Any, sample_weight: Any, order: Any, batch_size: int, scale: float, cut: int = 0
    ) -> Generator[Any, Any, int]:
        """Do what steps of an epoch native code can do, in so many pieces if `cut`; return their number."""
        compiled = getattr(self.net, "_compiled", None)
        size = len(x) if order is None else len(order)
        joined = 2 * self._joins(size, batch_size)  # the last batch, a row larger, is a step of its own
        steps, step = -(-size // batch_size) - joined, 0
        rows = order.drawn_from if isinstance(order, Order) else order
        room = np.empty(steps)
        while compiled is not None and step < steps:
            rates, losses = self._rates(steps - step), room[: steps - step]
            self._lately = self.steps, losses
            arguments = (
                self,
                x,
                t,
                sample_weight,
                rows,
                step,
                batch_size,
                scale,
                rates,
                SLICE_SECONDS,
                losses,
                cut,
            )
            result = yield Slice(compiled, arguments)
            if result is None:
                break
            updates, done, bad_loss = result
            step += done
            yield losses[:updates].tolist()
            if bad_loss is not None:
                batch = slice(step * batch_size, (step + 1) * batch_size)
                try:
                    self._check_loss(bad_loss)
                except FloatingPointError as error:
                    reference.name_row(error, x, t, batch if order is None else order[batch])
                    raise
        return step

    def _order(self, n: int, rows: Any = None) -> Any:
        return Order(n, self.seed, self.epochs, rows)

    def _rates(self, steps: int) -> Any:
        """Return what changes from step to step, for a few hundred steps at most; None if nothing does.

        Each row has the learning rate, the weight decay and the ratio of each layer of dropout. Where one
        cannot be had the steps before it come first.
        """
        optimizer, layers = self.optimizer, layers_of(self.net)
        rates = [getattr(optimizer, name, None) for name in ("lr", "weight_decay")]
        if not any(map(callable, [*rates, *(getattr(layer, "ratio", None) for layer in layers)])):
            return None
        dropouts = [layer for _, layer in dropouts_among(layers)]
        if not isinstance(optimizer, Optimizer):  # with one of someone's own a step goes layer by layer
            return None
        done, rates = optimizer.step, []
        for i in range(min(steps, RATES)):
            try:
                ratios = (layer.ratio_at(self.steps + i) for layer in dropouts)
                rates.append([optimizer.rate(done + i), optimizer.decay(done + i), *ratios])
            except Exception:
                if i == 0:
                    raise
                break
        return np.array(rates)

    def _check_state(self, grads: dict[str, Any]) -> None:
        arrays = [g.values if isinstance(g, RowSparse) else g for g in grads.values()]
        floats = all(isinstance(a, np.ndarray) and a.dtype in _checks.FLOATS for a in arrays)
        most = min((float(np.finfo(a.dtype).max) for a in arrays), default=0.0) if floats else 0.0
        if (
            self._running or not floats or not _core.sum_of_squares(arrays) <= most
        ):  # else each square is, too
            super()._check_state(grads)

    def _clip(self, grads: dict[str, Any], limit: float) -> None:
        arrays = [g.values if isinstance(g, RowSparse) else g for g in grads.values()]
        norm = l2_norm(arrays, _core.sum_of_squares)
        self._check_finite("norm of the gradients", norm)
        if norm > limit:
            for a in arrays:
                if a.flags.c_contiguous:
                    _core.scale_in_place(a, limit / norm)
                else:
                    a *= limit / norm


_core.register_class("trainer", Trainer)
_core.register_class("epochs", Trainer)
_core.register_class("function", FunctionLoss)
for loss in Trainer.loss_classes.values():
    _core.register_class("loss", loss, _core.LOSSES[loss._function])
for optimizer in optimizers.CLASSES.values():
    _core.register_class("optimizer", optimizer, optimizer._kind, 0, optimizer._betas, optimizer.slots)
