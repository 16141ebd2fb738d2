"""What is measured: an operation as a call of fastnn, of NumPy and, where it is installed, of PyTorch.

NumPy's is `fastnn.reference`, but for the product. A case is checked as it is made: one that exists has given
the same result everywhere.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import fastnn

from . import pytorch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .timing import Times

VOCABULARY = 10_000
LIBRARIES = {"fastnn": fastnn, "NumPy": fastnn.reference}

# What must move at least, in arrays of the size of the batch: (reads, writes) of forward and of backward.
# Left out are labels, bits of a mask and rows of statistics.
MOVES = {
    "BatchNorm": ((1, 1), (2, 1)),
    "Dropout": ((1, 1), (1, 1)),
    "ReLU": ((1, 1), (2, 1)),
    "LeakyReLU": ((1, 1), (2, 1)),
    "Sigmoid": ((1, 1), (2, 1)),
    "Tanh": ((1, 1), (2, 1)),
    "GELU": ((1, 1), (2, 1)),
    "SiLU": ((1, 1), (2, 1)),
    "SoftmaxCrossEntropy": ((1, 1), (1, 1)),
    "SigmoidCrossEntropy": ((2, 1), (2, 1)),
    "MeanSquaredError": ((2, 0), (2, 1)),
    "Embedding": ((1, 1), (1, 1)),
}
# The same of an update, in arrays of the size of the parameters, which are written in place.
UPDATES = {
    "SGD": (2, 1),
    "Momentum": (3, 2),
    "Nesterov": (3, 2),
    "AdaGrad": (3, 2),
    "RMSProp": (3, 2),
    "Adam": (4, 3),
    "AdamW": (4, 3),
}


class Case(NamedTuple):
    """An operation, the library's name -> a call of it, and what it must move, in float32 numbers."""

    name: str
    calls: dict[str, Callable[[], Any]]
    size: int = 0
    reads: int = 0  # arrays of `size` numbers
    writes: int = 0
    steps: Mapping[str, int] = MappingProxyType({})  # of training that a call does, where it is not one

    @property
    def bytes(self) -> int:
        """The bytes that must move."""
        return 4 * self.size * (self.reads + self.writes)


def ratios(times: Mapping[str, Times]) -> dict[str, float]:
    """Return for each peer how many times as long as fastnn it takes."""
    return {peer: t.median / times["fastnn"].median for peer, t in times.items() if peer != "fastnn"}


def agree(results: Mapping[str, Any], expected: Any, rtol: float, atol: float) -> None:
    """Raise AssertionError, naming the library, unless all results are as expected."""
    for name, result in results.items():
        np.testing.assert_allclose(np.asarray(result), np.asarray(expected), rtol, atol, err_msg=name)


def product(m: int, n: int, k: int, layout: str = "NN") -> Case:
    """Return the product of m x k and k x n; a T in `layout` is a view that is transposed."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    x, y = (v if letter == "N" else v.T.copy().T for v, letter in zip((a, b), layout, strict=True))
    outs = [np.full((m, n), np.nan, np.float32) for _ in range(3)]
    calls: dict[str, Callable[[], Any]] = {
        "fastnn": lambda: fastnn.matmul(x, y, outs[0]),
        "NumPy": lambda: np.matmul(x, y, out=outs[1]),
    }
    if pytorch.load():
        calls["PyTorch"] = pytorch.product(x, y, outs[2])
    agree({name: call() for name, call in calls.items()}, a.astype(float) @ b, 1e-6, 1e-6 * k)
    return Case(f"{m}x{n}x{k} {layout}", calls)


def passes(name: str, rows: int, cols: int) -> tuple[Case, Case]:
    """Return forward and backward of the layer or loss of that name on a batch of rows x cols."""
    rng = np.random.default_rng(0)
    x, dout = (rng.standard_normal((rows, cols), np.float32) for _ in range(2))
    targets: Any = None
    W: Any = None
    if name == "Embedding":
        targets, W = rng.integers(0, VOCABULARY, rows), rng.standard_normal((VOCABULARY, cols), np.float32)
    elif name == "SoftmaxCrossEntropy":
        targets = rng.integers(0, cols, rows)
    elif MOVES[name][0][0] == 2:
        targets = rng.random((rows, cols), np.float32)
    loss = targets is not None and W is None
    both = {library: _passes(lib, name, x, dout, targets, W) for library, lib in LIBRARIES.items()}
    if pytorch.load():
        both["PyTorch"] = pytorch.passes(name, x, dout, targets, W)
    moved = x.size
    if W is not None:  # a row that occurs again is read, or written, only once: the mean of both
        moved = (rows + np.unique(targets).size) * cols // 2
    cases = []
    for i, direction in enumerate(("forward", "backward")):
        calls = {library: pair[i] for library, pair in both.items()}
        results = {library: call() for library, call in calls.items()}
        if name == "Dropout":
            results.pop("PyTorch", None)  # which draws a mask of its own
        expected = results["NumPy"]
        size = float(np.abs(expected).max()) if loss else 1.0  # of the numbers that were added up
        agree(results, expected, 1e-4, 1e-5 * size)
        cases.append(Case(f"{name} {direction}", calls, moved, *MOVES[name][i]))
    return cases[0], cases[1]


def _passes(lib: Any, name: str, x: Any, dout: Any, targets: Any, W: Any) -> tuple[Callable[[], Any], ...]:
    if name == "Embedding":
        table = lib.Embedding(W)

        def backward() -> Any:
            table.backward(dout)
            return table.grads["W"].values

        return lambda: table.forward(targets), backward
    if name == "BatchNorm":
        layer = lib.BatchNorm.create(x.shape[1])
    elif name == "Dropout":
        layer = lib.Dropout(0.5, seed=0)
    else:
        layer = getattr(lib, name)()
    if targets is not None:
        return lambda: layer.forward(x, targets), lambda: layer.backward()
    return lambda: layer.forward(x), lambda: layer.backward(dout)


def update(name: str, arrays: int, size: int) -> Case:
    """Return the update of so many arrays of so many numbers by the optimizer of that name."""
    rng = np.random.default_rng(0)
    params = {str(i): rng.standard_normal(size, np.float32) for i in range(arrays)}
    grads = {key: rng.standard_normal(size, np.float32) for key in params}
    calls = {library: _update(lib, name, _copies(params), grads) for library, lib in LIBRARIES.items()}
    if pytorch.load():
        calls["PyTorch"] = pytorch.update(name, 1e-3, _copies(params), grads)
    results = {library: call() for library, call in calls.items()}
    agree(results, results["NumPy"], 0, 1e-6)  # of a step of 1e-3
    return Case(name, calls, arrays * size, *UPDATES[name])


def _update(lib: Any, name: str, params: dict[str, Any], grads: dict[str, Any]) -> Callable[[], Any]:
    optimizer = getattr(lib, name)(1e-3)

    def call() -> Any:
        optimizer.update(params, grads)
        return params["0"]

    return call


def _copies(params: dict[str, Any]) -> dict[str, Any]:
    return {key: p.copy() for key, p in params.items()}
