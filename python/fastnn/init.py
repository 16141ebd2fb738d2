"""Initial values of weight matrices.

Each function takes (n_in, n_out, rng, dtype) and returns a matrix (n_in, n_out) of normal draws with mean 0.
They differ in the standard deviation, which keeps the spread of signals even from layer to layer:

    he       sqrt(2 / n_in)             for ReLU (He, Zhang, Ren, Sun 2015)
    xavier   sqrt(2 / (n_in + n_out))   for tanh and sigmoid (Glorot, Bengio 2010); also called glorot
    lecun    sqrt(1 / n_in)             (LeCun et al. 1998); the 1/sqrt(n) that some texts call Xavier
    normal(std)                         std

`orthogonal(gain)` keeps lengths rather than spreads.

The draws are made in float64 and then rounded, so a float32 and a float64 network of the same seed start
alike.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _checks

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._checks import Array

    Init = Callable[[int, int, np.random.Generator, np.dtype[Any]], Array]

__all__ = ["glorot", "he", "lecun", "normal", "orthogonal", "resolve", "xavier"]


def _draw(n_in: Any, n_out: Any, rng: Any, dtype: Any, std: Callable[[int, int], float]) -> Array:
    n_in = _checks.size("n_in", n_in)
    n_out = _checks.size("n_out", n_out)
    rng = _checks.generator("rng", rng)
    dtype = _checks.float_dtype("dtype", dtype)
    values: Array = std(n_in, n_out) * rng.standard_normal((n_in, n_out))
    return values.astype(dtype, copy=False)


def he(n_in: int, n_out: int, rng: Any = None, dtype: Any = np.float32) -> Array:
    """Return (n_in, n_out) normal draws with standard deviation sqrt(2 / n_in).

    Parameters
    ----------
    n_in, n_out : int >= 1
    rng : None, int or numpy.random.Generator
    dtype : float32 or float64
    """
    return _draw(n_in, n_out, rng, dtype, lambda i, o: math.sqrt(2 / i))


def xavier(n_in: int, n_out: int, rng: Any = None, dtype: Any = np.float32) -> Array:
    """Return normal draws with standard deviation sqrt(2 / (n_in + n_out)); arguments as for `he`."""
    return _draw(n_in, n_out, rng, dtype, lambda i, o: math.sqrt(2 / (i + o)))


def lecun(n_in: int, n_out: int, rng: Any = None, dtype: Any = np.float32) -> Array:
    """Return normal draws with standard deviation sqrt(1 / n_in); arguments as for `he`."""
    return _draw(n_in, n_out, rng, dtype, lambda i, o: math.sqrt(1 / i))


def normal(std: float) -> Init:
    """Return a function like `he` whose draws have the standard deviation `std` >= 0."""
    std = _checks.real_number("std", std, 0)

    def normal(n_in: int, n_out: int, rng: Any = None, dtype: Any = np.float32) -> Array:
        return _draw(n_in, n_out, rng, dtype, lambda i, o: std)

    return normal


def orthogonal(gain: float = 1.0) -> Init:
    """Return a function like `he` whose matrices are orthogonal, times `gain` >= 0 (Saxe et al. 2014).

    Columns (rows, if there are fewer) have length `gain` and are orthogonal to each other: those of Q in the
    QR decomposition of normal draws, with the signs that make them uniformly distributed. The last bits are
    those of NumPy's LAPACK.
    """
    gain = _checks.real_number("gain", gain, 0)

    def orthogonal(n_in: int, n_out: int, rng: Any = None, dtype: Any = np.float32) -> Array:
        draws = _draw(n_in, n_out, rng, np.float64, lambda i, o: 1.0)
        tall = draws if n_in >= n_out else draws.T
        q, r = np.linalg.qr(tall)
        q *= gain * np.sign(np.where(np.diag(r) == 0, 1, np.diag(r)))
        values: Array = np.ascontiguousarray(q if n_in >= n_out else q.T)
        return values.astype(_checks.float_dtype("dtype", dtype), copy=False)

    return orthogonal


glorot = xavier
NAMED: dict[str, Init] = {
    "he": he,
    "xavier": xavier,
    "glorot": glorot,
    "lecun": lecun,
    "orthogonal": orthogonal(),
}


def resolve(init: Any) -> Init:
    """Return the function (n_in, n_out, rng, dtype) -> array that `init` stands for.

    Parameters
    ----------
    init : str, float or callable
        "he", "xavier", "glorot", "lecun" or "orthogonal"; a standard deviation >= 0; or such a function of
        your own, the result of which is copied after a check of its shape, its dtype and that its values are
        finite.

    Raises
    ------
    TypeError, ValueError
        If it is none of these, now; if the function's result does not fit, when it is called.
    """
    if isinstance(init, str):
        return NAMED[_checks.choice("init", init, tuple(NAMED))]
    if not callable(init):
        try:
            return normal(_checks.real_number("init", init, 0))
        except TypeError:
            raise TypeError(
                f"init must be {', '.join(NAMED)}, a number >= 0 or a function, got {_checks.shown(init)}"
            ) from None
    if init in NAMED.values():
        return init  # type: ignore[no-any-return]

    def checked(n_in: int, n_out: int, rng: np.random.Generator, dtype: np.dtype[Any]) -> Array:
        values = np.array(init(n_in, n_out, rng, dtype))
        if values.dtype != dtype:
            raise TypeError(f"init must return an array of dtype {np.dtype(dtype)}, got {values.dtype}")
        if values.shape != (n_in, n_out):
            raise ValueError(f"init must return an array of shape {(n_in, n_out)}, got {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError("init must return finite numbers")
        return values

    return checked
