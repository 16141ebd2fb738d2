"""Matrix multiply and thread settings, by NumPy.

The number of threads is checked and remembered and governs nothing: NumPy multiplies matrices with a BLAS
that has settings of its own.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _checks

if TYPE_CHECKING:
    from .._checks import Array

__all__ = ["get_num_threads", "matmul", "set_num_threads", "show_config", "threads"]

MAX_THREADS = 1024
_threads = os.cpu_count() or 1


def matmul(a: Any, b: Any, out: Any = None) -> Array:
    """Return the matrix product of a (m, k) and b (k, n).

    Parameters
    ----------
    a, b : arrays of real numbers, any strides
        Multiplied as float32, if that holds what NumPy's promotion of the two gives, or else as float64.
    out : array or memoryview, shape (m, n), or None
        Where to put the product.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit.
    """
    a, b = _checks.real_array("a", a), _checks.real_array("b", b)
    single = np.can_cast(np.result_type(a, b), np.float32)
    a, b = (x.astype(np.float32 if single else np.float64, copy=False) for x in (a, b))
    for name, x in (("a", a), ("b", b)):
        if x.ndim != 2:
            raise ValueError(f"{name} must have 2 dimensions, got shape {x.shape}")
    if a.shape[1] != b.shape[0]:
        raise ValueError(f"b must have a.shape[1] = {a.shape[1]} rows, got shape {b.shape}")
    if out is None:
        return np.asarray(a @ b)
    if isinstance(out, memoryview):
        out = np.asarray(out)
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an array, got {_checks.shown(out)}")
    _checks.parameter("out", out, 2, like=a, shape=(a.shape[0], b.shape[1]))
    if not out.flags.writeable:
        raise ValueError("out must be writeable")
    return np.matmul(a, b, out=out)


def set_num_threads(n: int) -> None:
    """Remember n, 1 to 1024, as the number of threads; NumPy's own threads do not follow it."""
    global _threads
    _threads = _checks.integer("n", n, 1, MAX_THREADS)


def get_num_threads() -> int:
    """Return the number of threads last set, at first the number of processors."""
    return _threads


class threads:
    """Context in which the number of threads is n, 1 to 1024; NumPy's own threads do not follow it."""

    def __init__(self, n: int) -> None:
        self._n = _checks.integer("n", n, 1, MAX_THREADS)
        self._before: list[int] = []

    def __enter__(self) -> None:
        """Set the number of threads."""
        self._before.append(get_num_threads())
        set_num_threads(self._n)

    def __exit__(self, *error: object) -> None:
        """Set the number that it was."""
        set_num_threads(self._before.pop())


def show_config() -> dict[str, Any]:
    """Return what the native one does, as far as it applies: no limits, no neighbours, no OpenMP."""
    from .. import __version__

    return {
        "version": __version__,
        "isa": "numpy",
        "isas": ("numpy",),
        "supported": ("numpy",),
        "threads": _threads,
        "limits": (),
        "neighbours": (),
        "openmp": None,
    }
