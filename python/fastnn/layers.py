"""The layers, native: the classes of `fastnn.reference.layers` with forward and backward in C++.

Arguments, attributes and formulas are those of the reference, from which the constructors, properties and
configurations come; what computes is overridden here, each pass one native call.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from . import _core
from .reference import layers as reference
from .sparse import RowSparse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

    from ._checks import Array

__all__ = [
    "GELU",
    "SELU",
    "Affine",
    "BatchNorm",
    "Dropout",
    "Embedding",
    "LayerNorm",
    "LeakyReLU",
    "Mish",
    "RMSNorm",
    "ReLU",
    "Residual",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Tanh",
]

C = TypeVar("C", bound="type[Any]")


def documented(cls: C) -> C:
    """Give a native class, and its methods, the docstrings of the reference class that it speeds up."""
    base = next(base for base in cls.__mro__[1:] if base.__name__ == cls.__name__)
    cls.__doc__ = base.__doc__
    for part in cls.__mro__[: cls.__mro__.index(base)]:
        for name, method in vars(part).items():
            if callable(method) and method.__doc__ is None and hasattr(base, name):
                method.__doc__ = getattr(base, name).__doc__
    return cls


@documented
class Affine(reference.Affine):
    @reference.of_arrays
    def __init__(self, W: Any, b: Any = None) -> None:
        super().__init__(W, b)
        self._in_use = _core.InUse()

    def forward(self, x: Any, train: bool = True) -> Array:
        W = self.params["W"]
        x = _core.as_real("x", x, W)
        rows = x if x.ndim == 2 else reference.flattened(x, W.shape[0])
        y = _core.affine_forward(rows, W, self.params["b"])
        self._saved = x.shape, rows
        return y

    def backward(self, dout: Any) -> Array:
        shape, rows = self._recall()
        dx: Array = self._native_backward(rows, dout, True)
        return dx if len(shape) == 2 else dx.reshape(shape)

    def backward_params(self, dout: Any) -> None:
        self._native_backward(self._recall()[1], dout, False)

    def _native_backward(self, rows: Array, dout: Any, want_dx: bool) -> Any:  # dx, or None
        W, grads = self.params["W"], self.grads
        dW = grads["W"] if "W" in grads else np.empty(W.shape, W.dtype)
        db = grads["b"] if "b" in grads else np.empty(W.shape[1], W.dtype)
        dout = _core.as_real("dout", dout, W)
        dx = _core.affine_backward(self._in_use, rows, W, dout, dW, db, want_dx)
        grads["W"], grads["b"] = dW, db
        return dx


@documented
class BatchNorm(reference.BatchNorm):
    @reference.of_arrays
    def __init__(
        self,
        gamma: Any,
        beta: Any,
        momentum: float = 0.9,
        running_mean: Any = None,
        running_var: Any = None,
        *,
        eps: float = 1e-5,
    ) -> None:
        super().__init__(gamma, beta, momentum, running_mean, running_var, eps=eps)
        self._in_use = _core.InUse()

    def forward(self, x: Any, train: bool = True) -> Array:
        gamma = self.params["gamma"]
        x = _core.as_real("x", x, gamma)
        rows = x if x.ndim == 2 else reference.flattened(x, gamma.size)
        y, mean, rstd = _core.batchnorm_forward(
            self._in_use,
            rows,
            gamma,
            self.params["beta"],
            self.running_mean,
            self.running_var,
            self.momentum,
            self.eps,
            bool(train),
        )
        self._saved = x.shape, rows, mean, rstd, bool(train)
        return y if x.ndim == 2 else y.reshape(x.shape)

    def backward(self, dout: Any) -> Array:
        shape, rows, mean, rstd, train = self._recall()
        gamma, grads = self.params["gamma"], self.grads
        dgamma = grads["gamma"] if "gamma" in grads else np.empty(gamma.shape, gamma.dtype)
        dbeta = grads["beta"] if "beta" in grads else np.empty(gamma.shape, gamma.dtype)
        dout = _core.as_real("dout", dout, gamma)
        if len(shape) != 2:
            dout = reference.matched(dout, shape, gamma.dtype).reshape(rows.shape)
        dx = _core.batchnorm_backward(self._in_use, train, rows, mean, rstd, gamma, dout, dgamma, dbeta)
        grads["gamma"], grads["beta"] = dgamma, dbeta
        return dx if len(shape) == 2 else dx.reshape(shape)


class _RowNorm(reference.Layer):
    """Passes of a normalization by rows; without beta they are not centred."""

    eps: float
    _centred: bool
    _in_use: _core.InUse

    def forward(self, x: Any, train: bool = True) -> Array:
        """Return the rows of x (..., D), normalized, times gamma and, with one, plus beta, in its shape."""
        gamma, beta = self.params["gamma"], self.params["beta"] if self._centred else None
        if self._centred and beta is None:
            raise TypeError("beta must be an array, got None")
        x = _core.as_real("x", x, gamma)
        if x.ndim == 0 or x.shape[-1] != gamma.size:
            raise ValueError(f"x must have shape (..., {gamma.size}), got shape {x.shape}")
        rows = x.reshape(-1, gamma.size)
        y, mean, rstd = _core.rownorm_forward(rows, gamma, beta, self.eps)
        self._saved = x.shape, rows, mean, rstd
        return y if y.shape == x.shape else y.reshape(x.shape)

    def backward(self, dout: Any) -> Array:
        """Return the gradient with respect to x; fill the `grads` of all parameters."""
        shape, rows, mean, rstd = self._recall()
        gamma = self.params["gamma"]
        dout = reference.matched(_core.as_real("dout", dout, gamma), shape, gamma.dtype)
        sums = {name: self._grad_out(name) for name in self.params}
        dx: Array = _core.rownorm_backward(
            self._in_use, rows, mean, rstd, gamma, dout.reshape(rows.shape), sums["gamma"], sums.get("beta")
        )
        return dx if dx.shape == shape else dx.reshape(shape)


@documented
class LayerNorm(_RowNorm, reference.LayerNorm):
    _centred = True

    @reference.of_arrays
    def __init__(self, gamma: Any, beta: Any, *, eps: float = 1e-5) -> None:
        super().__init__(gamma, beta, eps=eps)
        self._in_use = _core.InUse()


@documented
class RMSNorm(_RowNorm, reference.RMSNorm):
    _centred = False

    @reference.of_arrays
    def __init__(self, gamma: Any, *, eps: float = 1e-5) -> None:
        super().__init__(gamma, eps=eps)
        self._in_use = _core.InUse()


@documented
class Dropout(reference.Dropout):
    def forward(self, x: Any, train: bool = True) -> Array:
        x = _core.as_real("x", x, None)
        shape, ratio, kept = x.shape, self.ratio, None
        if callable(ratio) or not 0 <= ratio < 1:
            ratio = self.ratio_at(self.step)
        if train:
            scale = 1 / (1 - ratio) if self.inverted else 1.0
            first = self.first_row * (x.size // max(1, len(x))) if self.first_row else 0
            y, kept = _core.dropout_forward(x, self.seed, self.step, self.stream, ratio, scale, first)
            self._kept = kept, shape
            self.step += 1
        else:
            scale = 1.0 if self.inverted else 1 - ratio
            y = _core.scaled(x, scale)
        self._saved = shape, x.dtype, kept, scale
        return y

    def backward(self, dout: Any) -> Array:
        shape, dtype, kept, scale = self._recall()
        dout = reference.matched(dout, shape, dtype)
        return _core.scaled(dout, scale) if kept is None else _core.dropout_backward(kept, scale, dout)

    @property
    def mask(self) -> Array | None:
        """What the last forward in training kept: a bool array in the shape of x, or None before any."""
        if self._kept is None:
            return None
        bits, shape = self._kept
        mask: Array = np.unpackbits(bits, count=math.prod(shape), bitorder="little").view(bool).reshape(shape)
        return mask


@documented
class Embedding(reference.Embedding):
    @reference.of_arrays
    def __init__(self, W: Any) -> None:
        super().__init__(W)
        self._in_use = _core.InUse()

    def forward(self, x: Any, train: bool = True) -> Array:
        y, self._saved = _core.embedding_forward(x, self.params["W"])
        return y

    def backward(self, dout: Any) -> None:
        x = self._recall()
        W = self.params["W"]
        rows, values = _core.embedding_backward(x, _core.as_real("dout", dout, W), W.shape[1])
        self.grads["W"] = RowSparse.trusted(rows, values, W.shape)


class _Activation(reference.Layer):
    """Passes of an element-wise function; `_saved` is its output or, `_from_input`, its input."""

    _function: str  # as the native table names it
    _from_input = False
    alpha = 0.0

    @property
    def _kind(self) -> int:
        return _core.ACTIVATIONS[self._function]

    def forward(self, x: Any, train: bool = True) -> Array:
        """Return y, the function of each element of x, in the shape of x; NaN stays NaN."""
        x = _core.as_real("x", x, None)
        y = _core.activation_forward(self._kind, x, self.alpha)
        self._saved = x if self._from_input else y
        return y

    def backward(self, dout: Any) -> Array:
        """Return dx, the gradient with respect to x, given that of y, in the shape of both."""
        saved = self._recall()
        return _core.activation_backward(self._kind, saved, _core.as_real("dout", dout, saved), self.alpha)


@documented
class ReLU(_Activation, reference.ReLU):
    _function = "relu"


@documented
class LeakyReLU(_Activation, reference.LeakyReLU):
    _function = "leaky_relu"


@documented
class Sigmoid(_Activation, reference.Sigmoid):
    _function = "sigmoid"


@documented
class Tanh(_Activation, reference.Tanh):
    _function = "tanh"


@documented
class SELU(_Activation, reference.SELU):
    _function = "selu"


@documented
class GELU(_Activation, reference.GELU):
    _function = "gelu"
    _from_input = True

    @property
    def _kind(self) -> int:
        return _core.ACTIVATIONS["gelu_tanh" if self.approximate == "tanh" else "gelu"]


@documented
class SiLU(_Activation, reference.SiLU):
    _function = "silu"
    _from_input = True


@documented
class Softplus(_Activation, reference.Softplus):
    _function = "softplus"
    _from_input = True


@documented
class Mish(_Activation, reference.Mish):
    _function = "mish"
    _from_input = True


@documented
class Residual(reference.Residual):
    @staticmethod
    def _classes() -> Mapping[str, Any]:
        return LAYERS

    def copy(self) -> Self:
        twin = super().copy()
        for _, layer in reference.each_layer(twin.layers):
            if hasattr(layer, "_in_use"):
                layer._in_use = _core.InUse()
        return twin


LAYERS: dict[str, Any] = {name: globals()[name] for name in reference.LAYERS}
ACTIVATIONS: dict[type[Any], str] = {LAYERS[c.__name__]: name for name, c in reference.ACTIVATIONS.items()}
