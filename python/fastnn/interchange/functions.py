"""Layers that functions are, found by what they return.

A graph of a file may have an activation as one node or as many: x sigmoid(x), or the error function between
two products. What it computes is compared with each of fastnn's, over numbers small and large.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import layers
from ..reference import layers as reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._checks import Array

__all__ = ["activation", "normalization", "shortest"]

OVERFLOWS = 80.0  # exp of more may be infinite where a function is not
CANDIDATES = ("ReLU", "Sigmoid", "Tanh", "SELU", "GELU", "SiLU", "Softplus", "Mish")


def shortest(value: float) -> float:
    """Return the number of the fewest digits that a float32 has been rounded from; others as they are."""
    with np.errstate(over="ignore"):
        rounded = np.float32(value)
    return float(str(rounded)) if float(rounded) == value else value


@cache
def _points() -> Array:
    tails = 10.0 ** np.arange(-6, 7)
    return np.concatenate([np.linspace(-30, 30, 481), tails, -tails])


@cache
def _candidates() -> list[tuple[Any, Array]]:
    """Return what makes each activation, and what it returns for the points."""
    made: list[tuple[Any, Any]] = [
        *((getattr(layers, name), getattr(reference, name)()) for name in CANDIDATES),
        (lambda: layers.GELU("tanh"), reference.GELU("tanh")),
    ]
    return [(make, own.forward(_points())) for make, own in made]


def _agree(y: Array, wanted: Array, x: Array) -> bool:
    """Whether two functions agree, to what constants in float32 leave of that."""
    close = np.isclose(y, wanted, rtol=1e-6, atol=1e-6) | (~np.isfinite(y) & (abs(x) > OVERFLOWS))
    return bool(close.all())


def activation(function: Callable[[Array], Array]) -> Any:
    """Return the activation that a function of float64 arrays, element by element, is; None: none of them."""
    x = _points()
    with np.errstate(all="ignore"):
        y = function(x)
    if y.shape != x.shape:
        return None
    for make, wanted in _candidates():
        if _agree(y, wanted, x):
            return make()
    alpha = -float(y[np.argmin(abs(x + 1))])
    if 0 < alpha < np.inf and abs(alpha - 1) > 1e-6 and _agree(y, np.where(x > 0, x, alpha * x), x):
        return layers.LeakyReLU(shortest(alpha))
    return None


def normalization(function: Callable[[Array], Array], n: int, dtype: Any) -> Any:
    """Return the LayerNorm or RMSNorm that a function of rows of n numbers is; None: neither.

    With beta = f(0), and u a row less its mean (RMSNorm: the row), of the mean square s, f(t u) is
    gamma t u / sqrt(t^2 s + eps) + beta: a large t tells gamma, and a small one then eps.
    """
    if n < 2:
        return None
    with np.errstate(all="ignore"):
        beta = function(np.zeros((1, n)))
        if beta.shape not in ((n,), (1, n)):
            return None
        centred = bool(np.allclose(function(np.ones((1, n))), beta))
        u = np.where(np.arange(n) % 2, -1.0, 1.0)
        if centred:
            u = u - u.mean()
        s = np.mean(u * u)
        large, small = 1e6, 1e-3
        gamma = (function(large * u[None]) - beta) * np.sqrt(s) / u
        squares = (gamma * small * u / (function(small * u[None]) - beta)) ** 2 - small**2 * s
        eps = float(np.median(squares[gamma != 0])) if gamma.any() else 0.0
        if not 0 < eps < np.inf:
            return None
        gamma, beta = (np.asarray(v.reshape(n), dtype) for v in (gamma, beta))
        eps = shortest(float(np.float32(eps)))
        try:
            own = layers.LayerNorm(gamma, beta, eps=eps) if centred else layers.RMSNorm(gamma, eps=eps)
        except ValueError:
            return None
        rows = np.random.default_rng(0).normal(size=(6, n)) * [[1e-3], [1e-2], [0.1], [1], [10], [100]] + 0.5
        wanted = reference_of(own).forward(rows)
        found = function(rows)
    if found.shape == wanted.shape and np.allclose(found, wanted, rtol=1e-5, atol=1e-5):
        return own
    return None


def reference_of(norm: Any) -> Any:
    """Return the layer of the reference, in float64, that a normalization is."""
    params = {name: p.astype(float) for name, p in norm.params.items()}
    return getattr(reference, type(norm).__name__)(**params, eps=norm.eps)
