"""The losses, native: the classes of `fastnn.reference.losses` with forward and backward in C++."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import _checks, _core
from ._sharing import InUse
from .layers import documented
from .reference import losses as reference

if TYPE_CHECKING:
    from ._checks import Array

__all__ = [
    "GaussianNLL",
    "Huber",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Poisson",
    "Quantile",
    "SigmoidCrossEntropy",
    "SoftmaxCrossEntropy",
]


@documented
class SoftmaxCrossEntropy(InUse, reference.SoftmaxCrossEntropy):
    _function = "softmax"  # as the native table names it

    def forward(self, x: Any, t: Any, sample_weight: Any = None) -> float:
        x = _core.as_real("x", x, None)
        if self.label_smoothing and x.ndim == 2 and x.size:
            t = self._smoothed(self._plain_targets(x, t), x)
        try:
            loss, *self._saved = _core.softmax_cross_entropy_forward(x, t, sample_weight)
        except (TypeError, ValueError):
            labels = _checks.other_labels(t)
            if labels is None:
                raise
            return self.forward(x, labels, sample_weight)
        self.y = self._saved[0].view()
        return loss

    def backward(self, dout: float = 1.0) -> Array:
        y, labels, weights, scale = self._recall()
        scale *= _checks.real_number("dout", dout)
        return _core.softmax_cross_entropy_backward(y, labels, weights, scale)


class _Dense(InUse, reference.Loss):
    """A loss whose gradient is a weighted difference of predictions and targets of the same shape."""

    _sigmoid: bool
    _factor: float  # of the difference, in the gradient

    def forward(self, x: Any, t: Any, sample_weight: Any = None) -> float:
        x = _core.as_real("x", x, None)
        loss, *self._saved = _core.dense_loss_forward(self._sigmoid, x, t, sample_weight)
        self.y = self._saved[0].view()
        return loss

    def backward(self, dout: float = 1.0) -> Array:
        y, t, weights, scale = self._recall()
        scale *= self._factor * _checks.real_number("dout", dout)
        return _core.dense_loss_backward(y, t, weights, scale)


@documented
class SigmoidCrossEntropy(_Dense, reference.SigmoidCrossEntropy):
    _function = "sigmoid"
    _sigmoid = True
    _factor = 1.0


@documented
class MeanSquaredError(_Dense, reference.MeanSquaredError):
    _function = "squared"
    _sigmoid = False
    _factor = 2.0


class _WithSlope(InUse, reference.Loss):
    """A loss whose kernel finds its slope, too, in the forward."""

    _function: str

    def _numbers(self, x: Array) -> Array:
        """Return what the loss is made with: one number, or one a column."""
        return np.zeros(0, x.dtype)

    def forward(self, x: Any, t: Any, sample_weight: Any = None) -> float:
        x = _core.as_real("x", x, None)
        if x.size == 0 or x.ndim == 0:
            raise ValueError(f"x must have shape (N, ...) with at least one element, got shape {x.shape}")
        t = self._targets(x, t)
        kind = _core.LOSSES[self._function]
        loss, y, *self._saved = _core.kernel_loss(kind, x, t, self._numbers(x), sample_weight)
        self.y = y
        return loss

    def backward(self, dout: float = 1.0) -> Array:
        slope, weights, scale = self._recall()
        return _core.scaled_rows(slope, weights, scale * _checks.real_number("dout", dout))


@documented
class Huber(_WithSlope, reference.Huber):
    _function = "huber"

    def _numbers(self, x: Array) -> Array:
        return np.array([self.delta], x.dtype)


@documented
class MeanAbsoluteError(_WithSlope, reference.MeanAbsoluteError):
    _function = "absolute"


@documented
class Quantile(_WithSlope, reference.Quantile):
    _function = "quantile"

    def _numbers(self, x: Array) -> Array:
        return np.resize(np.array(self.quantiles, x.dtype), x.shape[1])


@documented
class Poisson(_WithSlope, reference.Poisson):
    _function = "poisson"


@documented
class GaussianNLL(_WithSlope, reference.GaussianNLL):
    _function = "gaussian"
