"""Networks on sparse rows: the entries are multiplied, and weights that they do not meet have no gradient.

An element of the first product is the chain of multiply-adds that it is in a dense one, without the terms
that are zero; so is one of the gradient. Where the optimizer is to update all weights, as for dense rows,
those that a batch does not meet wait: before they are met, or looked at, they are read once for all the
updates, by a gradient of zero, that they have missed. The numbers are those of dense training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from .._sharing import shared
from ..network import Sequential
from ..reference.layers import Layer
from ..sparse import CSR, RowSparse

if TYPE_CHECKING:
    from .._checks import Array

__all__ = ["SparseNetwork"]

PART_ROWS = 4096  # that are predicted together


class SparseAffine(Layer):
    """An affine layer, its parameters another's, on rows of few entries, of which there is no gradient."""

    takes_indices = True  # x is none that networks convert

    def __init__(self, affine: Any) -> None:
        super().__init__()
        self.params = affine.params
        self._in_use = affine._in_use
        self._late: Late | None = None
        self._sums: Array | None = None  # whose memory is used again: new pages cost as much as the sums

    def _parts(self, x: CSR) -> tuple[Array, Array, Array]:
        """Return the parts of x as native code takes them."""
        values = x.values.astype(self.params["W"].dtype, copy=False)
        return values, x.columns.astype(np.int64, copy=False), x.starts

    def product(self, x: CSR) -> Array:
        """Return x W + b, and keep nothing."""
        return _core.sparse_product(*self._parts(x), self.params["W"], self.params["b"], None)

    def forward(self, x: CSR, train: bool = True) -> Array:
        """Return x W + b."""
        W, parts = self.params["W"], self._parts(x)
        self._saved = _core.sparse_transposed(*parts, len(W))
        if self._late is not None:
            self._late.catch_up(self._saved[0])
        return _core.sparse_product(*parts, W, self.params["b"], None)

    def backward(self, dout: Any) -> None:
        """Fill grads["W"], in the rows of W that x has met, and grads["b"]."""
        met, values, rows, starts = self._recall()
        W = self.params["W"]
        if self._sums is None or len(self._sums) < len(met):
            self._sums = np.empty((len(met) + len(met) // 4, W.shape[1]), W.dtype)
        dout = _core.as_real("dout", dout, W)
        sums = _core.sparse_product(values, rows, starts, dout, None, self._sums[: len(met)])
        if self._late is not None:
            self._late.meet(met)
        self.grads["W"] = RowSparse.trusted(met, sums, W.shape)
        none, db = np.empty((len(dout), 0), W.dtype), self._grad_out("b")
        _core.affine_backward(self._in_use, none, W[:0], dout, np.empty_like(W[:0]), db, False)


class Late:
    """Updates of the rows of a weight, by a gradient of zero, that are done when the rows are needed."""

    def __init__(self, layer: SparseAffine, optimizer: Any, name: str) -> None:
        self._layer, self._optimizer, self._name = layer, optimizer, name
        self._updates = np.full(len(layer.params["W"]), optimizer.step)
        self._met = self._updates[:0], optimizer.step

    def meet(self, rows: Array) -> None:
        """Note that the next update is of these rows."""
        self._met = rows, self._optimizer.step

    def catch_up(self, rows: Array | None = None) -> None:
        """Do the updates so far of these rows, or of all."""
        optimizer, W = self._optimizer, self._layer.params["W"]
        met, before = self._met
        if optimizer.step > before:
            self._updates[met] = optimizer.step
        state = tuple(optimizer.state[slot].get(self._name) for slot in optimizer.slots)
        if any(memory is None for memory in state):  # before the first update
            return
        beta1, beta2 = (*(getattr(optimizer, name) for name in optimizer._betas), 0.0, 0.0)[:2]
        _core.catch_up(
            self._layer._in_use,
            optimizer._kind,
            W,
            state,
            self._updates,
            rows,
            optimizer.rate(),
            optimizer.decay(),
            beta1,
            beta2,
            optimizer.eps if "eps" in optimizer.options else 0.0,
            optimizer.step,
        )


class SparseNetwork(Sequential):
    """A network on rows of few entries: another's layers, and its parameters by the same names.

    Attributes
    ----------
    dense : Sequential
        The other, which begins with an affine layer.
    """

    def __init__(self, dense: Sequential) -> None:
        first, *rest = dense.layers
        self.dense = dense
        self._rest = Sequential(rest) if rest else None
        super().__init__([SparseAffine(first), *rest])
        self._in_use = dense._in_use
        if self._rest is not None:
            self._rest._in_use = dense._in_use

    def begin(self, optimizer: Any) -> None:
        """Have the updates, by this optimizer, of weights that a batch does not meet wait until `settle`."""
        self.layers[0]._late = Late(self.layers[0], optimizer, "0.W")

    def settle(self) -> None:
        """Do the updates that wait."""
        if self.layers[0]._late is not None:
            self.layers[0]._late.catch_up()

    def forward(self, x: Any, train: bool = True) -> Any:
        """Return the outputs for x, a `CSR`, and keep what `backward_params` needs."""
        y = self.layers[0].forward(x, train)
        return y if self._rest is None else self._rest.forward(y, train)

    def backward_params(self, dout: Any) -> None:
        """Fill `grads`."""
        self.layers[0].backward(dout if self._rest is None else self._rest.backward(dout))

    backward = backward_params

    @shared
    def predict(self, x: Any, batch_size: int | None = None, scale: float = 1.0, *, out: Any = None) -> Array:
        """Return the outputs, computed with `train=False`, for x, a `CSR` or an array."""
        if not isinstance(x, CSR):
            return self.dense.predict(x, batch_size, scale, out=out)
        parts = []
        for begin in range(0, max(len(x), 1), PART_ROWS):
            y = self.layers[0].product(x[begin : begin + PART_ROWS])
            parts.append(y if self._rest is None else self._rest.predict(y))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)
