"""L-BFGS: scikit-learn's solver for the loss of all rows at once, SciPy's on the passes of the network."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning

from .. import _core
from ..sparse import RowSparse
from .compat import warn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .._checks import Array

__all__ = ["Objective", "minimized"]

PART_ROWS = 4096  # that are passed through the network together
STOPPED = "lbfgs failed to converge (status=%d): %s"


class Objective:
    """The loss of all rows, with its penalty, and its gradient, of a flat vector of all parameters.

    Parameters
    ----------
    net : Sequential
        Without layers whose outputs depend on other rows, or on chance.
    coefs, intercepts : lists of str
        Names of parameters, "0.W", in the order in which they lie in the vector; the former are penalized.
    loss : loss
    rows : (X, t, weight)
        Arrays of N rows; weight may be None.
    shares : (float, float)
        scikit-learn's gradient and loss in units of fastnn's, see `solvers`. What is minimized is what has
        that gradient.
    alpha : float
        The penalty is alpha / 2 times the sum of the squares of the coefficients, over that of the weights.
    """

    def __init__(
        self,
        net: Any,
        coefs: Sequence[str],
        intercepts: Sequence[str],
        loss: Any,
        rows: tuple[Array, Array, Array | None],
        shares: tuple[float, float],
        alpha: float,
    ) -> None:
        self._net, self._loss, self._shares = net, loss, shares
        self._X, self._t, self._weight = rows
        n = self._X.shape[0]
        self._total = float(n if self._weight is None else self._weight.sum())
        self._decay = alpha / self._total
        params = net.params
        sizes = [params[name].size for name in (*coefs, *intercepts)]
        ends = np.cumsum(sizes)
        self._places = {
            name: slice(int(end - size), int(end))
            for name, size, end in zip((*coefs, *intercepts), sizes, ends, strict=True)
        }
        self._penalized = slice(0, sum(sizes[: len(coefs)]))
        parts = -(-n // PART_ROWS)
        self._parts = [slice(n * i // parts, n * (i + 1) // parts) for i in range(parts)]
        self.loss = math.nan

    @property
    def vector(self) -> Array:
        """The parameters of the network."""
        params = self._net.params
        return np.concatenate([params[name].ravel() for name in self._places], dtype=np.float64)

    @vector.setter
    def vector(self, vector: Array) -> None:
        params = self._net.params
        for name, place in self._places.items():
            params[name][...] = vector[place].reshape(params[name].shape)

    def __call__(self, vector: Array) -> tuple[float, Array]:
        """Return the value and the gradient; `loss` is then what scikit-learn shows of it."""
        self.vector = vector
        mean, gradient = 0.0, np.zeros(len(vector))
        for share, x, t, weight in self._batches():
            y = self._net.forward(x, True)
            mean += share * self._loss.forward(y, t, weight)
            self._net.backward_params(self._loss.backward(share * self._shares[0]))
            for name, g in self._net.grads.items():
                to = gradient[self._places[name]]
                if isinstance(g, RowSparse):
                    to.reshape(g.shape)[g.rows] += g.values
                else:
                    to += g.ravel()
        gradient[self._penalized] += self._decay * vector[self._penalized]
        value = self._shares[0] * mean + self._penalty(vector)
        self.loss = self.shown(value, vector)
        return value, gradient

    def _penalty(self, vector: Array) -> float:
        return self._decay / 2 * _core.sum_of_squares([vector[self._penalized]])

    def shown(self, value: float, vector: Array) -> float:
        """Return the loss that scikit-learn shows where what is minimized has a value."""
        penalty = self._penalty(vector)
        return (value - penalty) * self._shares[1] / self._shares[0] + penalty

    def _batches(self) -> Iterator[tuple[float, Any, Array, Array | None]]:
        """Yield the share of each part of the rows in the whole, and the part."""
        for rows in self._parts:
            weight = None if self._weight is None else self._weight[rows]
            share = (rows.stop - rows.start if weight is None else float(weight.sum())) / self._total
            if share > 0:
                yield share, self._X[rows], self._t[rows], weight


def minimized(objective: Objective, model: Any) -> None:
    """Minimize, and write each iteration down in the model's attributes."""

    def note(_: Array) -> None:
        model.n_iter_ += 1
        model.loss_curve_.append(objective.loss)
        if model.verbose:
            print(f"Iteration {model.n_iter_}, loss = {objective.loss:.8f}")

    options = {"maxfun": model.max_fun, "maxiter": model.max_iter, "gtol": model.tol}
    found = minimize(objective, objective.vector, method="L-BFGS-B", jac=True, callback=note, options=options)
    objective.vector = found.x
    model.loss_ = objective.shown(found.fun, found.x)
    if found.status:
        what = found.message.decode() if isinstance(found.message, bytes) else found.message
        warn(STOPPED % (found.status, what), ConvergenceWarning)
