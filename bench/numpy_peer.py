"""The peer written by hand: the least that a training step costs in NumPy.

Arrays are made once for each size of batch; all parameters lie in one array, so that the optimizer is one
pass, in blocks that stay in the cache. `fastnn.reference` is the other code in NumPy, made to be read.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .shapes import Network

BLOCK = 2**15  # parameters that an optimizer's passes go over together
EPS = 1e-5


class Net:
    """A network and its optimizer, from the weights W, b, W, b... of its dense layers."""

    def __init__(self, network: Network, weights: Sequence[Any], lr: float) -> None:
        ones = [np.ones(n, np.float32) for n in network.sizes[1:-1]] if network.batch_norm else []
        initial = [*weights, *ones, *map(np.zeros_like, ones)]
        self.params, parts = _together(initial)
        self.grads, slopes = _together(initial)
        ends = len(weights), len(weights) + len(ones)
        (self.W, self.b, self.gamma, self.beta) = _named(parts, *ends)
        (self.dW, self.db, self.dgamma, self.dbeta) = _named(slopes, *ends)
        self.running = [np.stack((np.zeros_like(one), one)) for one in ones]
        self.batch = network.batch
        self.ratio, self.random = network.dropout, np.random.Generator(np.random.SFC64(0))
        self.update = {"SGD": self._sgd, "Adam": self._adam}[network.optimizer](lr)
        self._memory: dict[int, _Memory] = {}

    def step(self, x: Any, t: Any) -> float:
        """Do a step; return the loss before the update."""
        memory = self._of(len(x))
        loss = self._loss(memory, self._forward(memory, x), t)
        self._backward(memory, x)
        self.update()
        return loss

    def epoch(self, x: Any, t: Any) -> float:
        """Go through the rows once, shuffled; return the mean loss of the steps.

        Rows of an integer type are scaled by 1 / 255.
        """
        order, total = self.random.permutation(len(x)), 0.0
        taken = np.empty((self.batch, x.shape[1]), x.dtype)
        converted = taken if x.dtype == np.float32 else np.empty(taken.shape, np.float32)
        for start in range(0, len(x), self.batch):
            rows = order[start : start + self.batch]
            x.take(rows, axis=0, out=taken[: len(rows)], mode="clip")  # other modes take into a copy first
            if converted is not taken:
                np.multiply(taken, np.float32(1 / 255), out=converted)
            total += len(rows) * self.step(converted[: len(rows)], t[rows])
        return total / len(x)

    def predict(self, x: Any) -> Any:
        """Return the outputs of a network without BatchNorm, in an array that the next call overwrites."""
        outputs = self._of(len(x)).outputs
        for i, (W, b, out) in enumerate(zip(self.W, self.b, outputs, strict=True)):
            np.matmul(x, W, out=out)
            out += b
            x = np.maximum(out, 0, out=out) if i < len(self.W) - 1 else out
        return x

    def _of(self, rows: int) -> _Memory:
        if rows not in self._memory:
            self._memory[rows] = _Memory(rows, [W.shape[1] for W in self.W], len(self.gamma), self.ratio)
        return self._memory[rows]

    def _forward(self, memory: _Memory, x: Any) -> Any:
        last = len(self.W) - 1
        for i, (W, b, out) in enumerate(zip(self.W, self.b, memory.outputs, strict=True)):
            np.matmul(x, W, out=out)
            out += b
            if i < last:
                if self.gamma:
                    self._normalize(memory, i, out)
                np.maximum(out, 0, out=out)
                if self.ratio:
                    self._drop(memory, i, out)
            x = out
        return x

    def _normalize(self, memory: _Memory, i: int, x: Any) -> None:
        xhat = memory.xhat[i]
        mean = memory.mean @ x
        np.subtract(x, mean, out=xhat)
        var = np.einsum("ij,ij->j", xhat, xhat) / len(x)
        self.running[i] *= 0.9
        self.running[i][0] += 0.1 * mean
        self.running[i][1] += 0.1 * var
        memory.rstd[i] = rstd = 1 / np.sqrt(var + EPS, dtype=np.float32)
        xhat *= rstd
        np.multiply(xhat, self.gamma[i], out=x)
        x += self.beta[i]

    def _drop(self, memory: _Memory, i: int, x: Any) -> None:
        self.random.random(out=memory.draws[i], dtype=np.float32)
        np.greater_equal(memory.draws[i], self.ratio, out=memory.positive[i])
        x *= memory.positive[i]
        x *= 1 / (1 - self.ratio)

    def _loss(self, memory: _Memory, y: Any, t: Any) -> float:
        """Return the softmax cross-entropy; put its gradient in the place of y."""
        y -= np.maximum.reduce(y, axis=1, keepdims=True)  # y.max does this by way of Python
        right = y[memory.rows, t]
        np.exp(y, out=y)
        total = np.add.reduce(y, axis=1, keepdims=True)
        loss = float(np.add.reduce(np.log(total), axis=None) - np.add.reduce(right)) / len(y)
        total *= len(y)
        y /= total
        y[memory.rows, t] -= 1 / len(y)
        return loss

    def _backward(self, memory: _Memory, x: Any) -> None:
        inputs, d = [x, *memory.outputs[:-1]], memory.outputs[-1]
        for i in range(len(self.W) - 1, -1, -1):
            np.matmul(inputs[i].T, d, out=self.dW[i])
            np.matmul(memory.ones, d, out=self.db[i])
            if i == 0:
                return
            dx = np.matmul(d, self.W[i].T, out=memory.slopes[i - 1])
            np.greater(inputs[i], 0, out=memory.positive[i - 1])  # what dropout has zeroed is not, either
            dx *= memory.positive[i - 1]
            if self.ratio:
                dx *= 1 / (1 - self.ratio)
            if self.gamma:
                self._normalize_backward(memory, i - 1, dx)
            d = dx

    def _normalize_backward(self, memory: _Memory, i: int, d: Any) -> None:
        xhat = memory.xhat[i]
        np.einsum("ij,ij->j", d, xhat, out=self.dgamma[i])
        np.matmul(memory.ones, d, out=self.dbeta[i])
        xhat *= self.dgamma[i] / len(d)
        d -= self.dbeta[i] / len(d)
        d -= xhat
        d *= self.gamma[i] * memory.rstd[i]

    def _sgd(self, lr: float) -> Callable[[], None]:
        blocks = _blocks(self.params, self.grads)

        def update() -> None:
            for p, g in blocks:
                g *= lr
                p -= g

        return update

    def _adam(self, lr: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> Any:
        m, v = np.zeros_like(self.params), np.zeros_like(self.params)
        blocks, steps = _blocks(self.params, self.grads, m, v), 0

        def update() -> None:
            nonlocal steps
            steps += 1
            root = sqrt(1 - beta2**steps)
            rate = lr * root / (1 - beta1**steps)
            for p, g, m, v in blocks:
                m *= beta1
                v *= beta2
                g *= 1 - beta1
                m += g
                g *= g  # (1 - beta1)^2 g^2
                g *= (1 - beta2) / (1 - beta1) ** 2
                v += g
                np.sqrt(v, out=g)
                g += eps * root
                np.divide(m, g, out=g)
                g *= rate
                p -= g

        return update


class _Memory:
    """What a step on so many rows writes: a row of arrays for each hidden layer, and the outputs."""

    def __init__(self, rows: int, widths: Sequence[int], norms: int, ratio: float) -> None:
        def arrays(of: Sequence[int], dtype: Any = np.float32) -> list[Any]:
            return [np.empty((rows, width), dtype) for width in of]

        hidden = widths[:-1]
        self.outputs, self.slopes = arrays(widths), arrays(hidden)
        self.positive = arrays(hidden, bool)
        self.xhat = arrays(hidden[:norms])
        self.rstd: list[Any] = [None] * norms
        self.draws = arrays(hidden) if ratio else []
        self.rows = np.arange(rows)
        self.ones = np.ones(rows, np.float32)  # sums columns as a product, which the BLAS does best
        self.mean = self.ones / rows


def _together(arrays: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Return the numbers of all arrays in one, and the views in it that have their shapes."""
    flat = np.concatenate([a.ravel() for a in arrays])
    ends = np.cumsum([a.size for a in arrays])
    return flat, [flat[end - a.size : end].reshape(a.shape) for a, end in zip(arrays, ends, strict=True)]


def _named(parts: list[Any], affine: int, gammas: int) -> tuple[list[Any], ...]:
    """Return lists of all W, b, gamma and beta."""
    return parts[0:affine:2], parts[1:affine:2], parts[affine:gammas], parts[gammas:]


def _blocks(*arrays: Any) -> list[tuple[Any, ...]]:
    """Return the pieces of arrays of one length that belong together."""
    starts = range(0, arrays[0].size, BLOCK)
    return [tuple(a[start : start + BLOCK] for a in arrays) for start in starts]
