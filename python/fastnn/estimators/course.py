"""The course of a training: scikit-learn's book-keeping, as callbacks of the trainer."""

from __future__ import annotations

import math
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _core
from ..sparse import RowSparse
from ..trainer import SLICE_SECONDS, Trainer
from .sparse import SparseNetwork

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .._checks import Array
    from ..reference.history import History
    from .solvers import Solver

__all__ = ["Course", "Judge", "ShuffledTrainer"]


class ShuffledTrainer(Trainer):
    """A trainer that visits the rows in the order in which scikit-learn does.

    A shuffle of scikit-learn's permutes the order of the epoch before. On sparse rows the optimizer updates
    all weights, or, `lazy`, the rows of the first that a batch meets.
    """

    lazy = False

    def begin(self, rows: Array, random: np.random.RandomState) -> None:
        """Start with these rows, by their numbers, in this order."""
        self._rows = np.array(rows)
        self._random = random

    def _run_epoch(self, x: Any, *batches: Any) -> Iterator[Sequence[float]]:
        if not isinstance(self.net, SparseNetwork):
            yield from super()._run_epoch(x, *batches)
            return
        if not self.lazy:
            self.net.begin(self.optimizer)
        losses: list[float] = []
        begun, looked_at = perf_counter(), any(hasattr(c, "on_slice") for c in self._serving or ())
        try:
            for more in super()._run_epoch(x, *batches):
                losses += more
                if perf_counter() - begun > SLICE_SECONDS:
                    if looked_at:
                        self.net.settle()
                    yield losses
                    losses, begun = [], perf_counter()
        finally:
            self.net.settle()
        if losses:
            yield losses

    def _check_state(self, grads: dict[str, Any]) -> None:
        arrays = [g.values if isinstance(g, RowSparse) else g for g in grads.values()]
        if self._running or not math.isfinite(_core.sum_of_squares(arrays)):  # else no square is infinite
            super()._check_state(grads)

    def description(self) -> dict[str, Any]:
        """Return what a checkpoint tells beside arrays; see `Trainer.description`."""
        net = self.net
        self.net = getattr(net, "dense", net)
        try:
            return super().description()
        finally:
            self.net = net

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_rows"}

    def _order(self, n: int, rows: Any = None) -> Array:
        self._random.shuffle(self._rows)
        return self._rows


class Judge(NamedTuple):
    """Data that a model is scored on after each epoch, targets as its loss takes them."""

    x: Array
    t: Array
    weight: Array | None


class Course:
    """Writes down each epoch in the model's attributes, and ends the training where scikit-learn does.

    Parameters
    ----------
    model : estimator
        With its attributes of the epochs before, if any.
    solver : Solver
    share : float
        What scikit-learn's loss is in units of fastnn's.
    rows, batch_size : int
    penalty : float
        alpha / 2 over the mean weight of a row; 0 where the penalty is no part of the loss.
    judge : Judge or None

    Attributes
    ----------
    converged : bool
        Whether it has ended the training.
    """

    uninterrupted = True

    def __init__(
        self,
        model: Any,
        solver: Solver,
        share: float,
        rows: int,
        batch_size: int,
        penalty: float,
        judge: Judge | None,
    ) -> None:
        self._model = model
        self._solver = solver
        self._share = share
        self._rows = rows
        self._sizes = np.empty(0)
        self._batch_size = batch_size
        self._penalty = penalty
        self._judge = judge
        self.converged = False
        self._best: dict[str, Array] | None = None
        self._squares = 0.0

    def on_fit_begin(self, trainer: Trainer, history: History) -> None:
        """Start afresh."""
        self._sizes = np.array([b.stop - b.start for b in trainer._batches(self._rows, self._batch_size)])
        if self._model.early_stopping and self._judge is not None:
            self._best = trainer.net.state_dict()
        self._squares = self._sum_of_squares()
        self._solver.begin_epoch(len(self._sizes))

    def __call__(self, trainer: Trainer, history: History) -> bool:
        """Write down the epoch just done; return whether to stop."""
        model = self._model
        model.n_iter_ += 1
        model.loss_ = self._loss(history.last_epoch("loss"))
        model.t_ += self._rows
        model.loss_curve_.append(model.loss_)
        if model.verbose:
            print(f"Iteration {model.n_iter_}, loss = {model.loss_:.8f}")
        if self._judge is not None:
            self._score(trainer, self._judge)
        no_better = self._no_better(trainer)
        model._no_improvement_count = model._no_improvement_count + 1 if no_better else 0
        self._solver.end_epoch(model)
        self._solver.begin_epoch(len(self._sizes))
        if model._no_improvement_count > model.n_iter_no_change:
            self.converged = self._solver.stops(model, self._reason())
            if not self.converged:
                model._no_improvement_count = 0
        return self.converged

    def on_fit_end(self, trainer: Trainer, history: History) -> None:
        """Bring the best epoch's parameters back, where a score has chosen one."""
        if self._best is not None:
            trainer.net.load_state_dict(self._best)

    def _loss(self, losses: Any) -> float:
        """Return the mean loss of an epoch's rows with its penalty, given the losses of its batches.

        The penalty of a batch is that of the weights before its step, the sum of squares of which is taken to
        change evenly in the epoch.
        """
        steps = len(self._sizes)
        whole = len(losses) == steps  # batches without weight are passed over
        loss = float(np.dot(losses, self._sizes)) / self._rows if whole else float(np.mean(losses))
        loss *= self._share
        if self._penalty == 0:
            return loss
        before, self._squares = self._squares, self._sum_of_squares()
        squares = before + (self._squares - before) * (steps - 1) / (2 * steps)
        return loss + self._penalty * squares * steps / self._rows

    def _sum_of_squares(self) -> float:
        weights = [layer.W for layer in self._model._affine]
        return _core.sum_of_squares(weights) if self._penalty else 0.0

    def _score(self, trainer: Trainer, judge: Judge) -> None:
        """Score the model on the validation data; FloatingPointError where that overflows."""
        model = self._model
        outputs = trainer.net.predict(judge.x)
        with np.errstate(over="ignore"):
            score = model._score_of(outputs, judge) if np.isfinite(outputs).all() else -math.inf
        if math.isinf(score):
            raise FloatingPointError("the score of the validation data is infinite")
        model.validation_scores_.append(score)
        if model.verbose:
            print(f"Validation score: {score:f}")

    def _no_better(self, trainer: Trainer) -> bool:
        """Return whether the epoch betters the best by less than tol; remember it if it is the best."""
        model, no_better = self._model, False
        if self._judge is not None:
            score, best = model.validation_scores_[-1], model.best_validation_score_
            no_better = score < best + model.tol
            if score > best:
                model.best_validation_score_ = score
                if model.early_stopping:
                    self._best = trainer.net.state_dict()
        if not model.early_stopping:
            no_better = model.loss_ > model.best_loss_ - model.tol
            model.best_loss_ = min(model.best_loss_, model.loss_)
        return no_better

    def _reason(self) -> str:
        what = "Validation score" if self._model.early_stopping else "Training loss"
        return (
            f"{what} did not improve more than tol={self._model.tol:f} for "
            f"{self._model.n_iter_no_change} consecutive epochs."
        )
