"""Matrix multiply, threads, and the configuration of the native core."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _checks, _core

if TYPE_CHECKING:
    from ._checks import Array

__all__ = ["get_num_threads", "matmul", "set_num_threads", "show_config", "threads"]


def matmul(a: Any, b: Any, out: Any = None) -> Array:
    """Return the matrix product of a and b.

    The bits of an element depend neither on the number of threads nor on the other rows (other columns, where
    `out` is column-major). They do depend on the memory layouts, which decide in which order the terms are
    summed: and where the columns of b are contiguous (`b.T` of an array), products of up to eight rows sum in
    another order than those of more.

    Parameters
    ----------
    a : array, shape (m, k)
    b : array, shape (k, n)
        Real numbers, any strides (`.T` views are not copied). float32 and float64 are multiplied as they are;
        of two dtypes the one that NumPy's promotion gives is used, integers of at most 16 bits counting as
        float32.
    out : float32 or float64 array or memoryview, shape (m, n), or None
        Where to put the product; of the product's dtype, any strides, and it may overlap a and b.

    Returns
    -------
    array, shape (m, n)
        `out`, or a new array.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; then `out` is as it was.
    """
    if isinstance(out, memoryview):
        out = np.asarray(out)
    return _core.matmul(a, b, out)


def set_num_threads(n: int) -> None:
    """Limit how many threads a call may use, in the whole process.

    It is one of several limits, of which the smallest holds: the processors that the calling thread may run
    on (its affinity), the quota of its control groups (a container's share of processor time),
    OMP_NUM_THREADS or what threadpoolctl has said to OpenMP, and `threads`. Small work stays on the calling
    thread whatever the limit, and results do not depend on it.

    Parameters
    ----------
    n : int, 1 to 1024
    """
    _core.set_thread_limit(_checks.integer("n", n, 1, _core.MAX_THREADS))


def get_num_threads() -> int:
    """Return how many threads a call from this thread may use at the moment: the smallest of all limits."""
    return _core.thread_limit()


class threads:
    """Context in which calls of this Python thread use at most n threads.

    Other Python threads are not touched: many networks can train side by side, each within `threads(1)`. Of
    the contexts that a thread is within, the innermost holds; of this and the other limits, the smallest
    (see `set_num_threads`).

    Parameters
    ----------
    n : int, 1 to 1024
    """

    def __init__(self, n: int) -> None:
        self._n = _checks.integer("n", n, 1, _core.MAX_THREADS)
        self._before = threading.local()  # one object may be entered by many threads

    def __enter__(self) -> None:
        """Set the limit."""
        self._before.__dict__.setdefault("limits", []).append(_core.thread_override())
        _core.set_thread_override(self._n)

    def __exit__(self, *error: object) -> None:
        """Set the limit that was."""
        _core.set_thread_override(self._before.limits.pop())


class Config(dict[str, Any]):
    """A dict that prints as a table."""

    def __repr__(self) -> str:
        """Return the entries, one a line."""
        width = max(map(len, self))
        lines = (
            f"{name:{width}}  {', '.join(value) if isinstance(value, tuple) else value}"
            for name, value in self.items()
        )
        return "\n".join(lines)


def show_config() -> Config:
    """Return the configuration, a dict that prints as a table.

    Returns
    -------
    dict
        "version"; "isa", the instruction set in use; "isas", those built, best first; "supported", those of
        them that this processor runs; "threads", what `get_num_threads` returns; "limits", the limits of that
        number and where each comes from, the one that holds first; "neighbours", other thread pools in this
        process whose idle threads keep processors busy for a while, each with the setting that quiets it;
        "openmp", the OpenMP runtimes in this process, whose limits hold for fastnn, too.
    """
    from . import __version__, _neighbours

    return Config(
        version=__version__,
        isa=_core.isa(),
        isas=_core.isas_built(),
        supported=_core.isas_supported(),
        threads=get_num_threads(),
        limits=tuple(
            f"{name} {n}" for name, n in sorted(_core.thread_limits().items(), key=lambda limit: limit[1])
        ),
        neighbours=_neighbours.spinning(),
        openmp=_core.openmp_runtimes(),
    )
