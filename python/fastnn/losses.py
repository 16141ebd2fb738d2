"""The losses, native: the classes of `fastnn.reference.losses` with forward and backward in C++."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _checks, _core
from ._sharing import InUse
from .layers import documented
from .reference import losses as reference

if TYPE_CHECKING:
    from ._checks import Array

__all__ = ["MeanSquaredError", "SigmoidCrossEntropy", "SoftmaxCrossEntropy"]


@documented
class SoftmaxCrossEntropy(InUse, reference.SoftmaxCrossEntropy):
    _kind = 0

    def forward(self, x: Any, t: Any, sample_weight: Any = None) -> float:
        x = _core.as_real("x", x, None)
        loss, *self._saved = _core.softmax_cross_entropy_forward(x, t, sample_weight)
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
    _kind = 1
    _sigmoid = True
    _factor = 1.0


@documented
class MeanSquaredError(_Dense, reference.MeanSquaredError):
    _kind = 2
    _sigmoid = False
    _factor = 2.0
