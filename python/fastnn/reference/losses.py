"""The losses, in NumPy.

`forward(x, t, sample_weight=None)` takes the network's output x and the targets t and returns the loss, a
float: the mean over the batch, or with weights w the weighted mean sum(w_i l_i) / sum(w) of the rows' losses
l_i. `backward` returns its gradient with respect to x. Rows are averaged in float64, whatever the dtype of x.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _checks
from .layers import sigmoid

if TYPE_CHECKING:
    from .._checks import Array

__all__ = ["Loss", "MeanSquaredError", "SigmoidCrossEntropy", "SoftmaxCrossEntropy"]

ROW_SUM_TOLERANCE = 1e-3  # how far from 1 the sum of a row of probabilities may be: float16 labels pass


class Loss:
    """Base of the losses: averages the rows' losses and scales the rows' gradients.

    Attributes
    ----------
    y : array or None
        The predictions of the last forward, in the shape of x.
    """

    def __init__(self) -> None:
        self.y: Array | None = None
        self._saved: Any = None

    def forward(self, x: Any, t: Any, sample_weight: Any = None) -> float:
        """Return the loss of outputs x (N, ...) for targets t.

        Parameters
        ----------
        x : array, shape (N, ...), N >= 1
        t : array
            The targets, in the form that the class describes.
        sample_weight : array, shape (N,), or None
            Finite, >= 0, with a sum > 0.

        Raises
        ------
        TypeError, ValueError
            If the batch is empty or an argument does not fit.
        """
        x = _checks.float_array("x", x)
        if x.size == 0 or x.ndim == 0:
            raise ValueError(f"x must have shape (N, ...) with at least one element, got shape {x.shape}")
        t = self._targets(x, t)
        if sample_weight is None:
            share: Any = x.dtype.type(1 / len(x))
            y, losses = self._rows(x, t)
            loss = float(np.mean(losses, dtype=np.float64))
        else:
            weights, total = _checks.sample_weights("sample_weight", sample_weight, len(x))
            parts = weights / total
            share = parts.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
            y, losses = self._rows(x, t)
            loss = float(np.dot(parts, losses))
        self.y = y
        self._saved = x, t, share
        return loss

    def backward(self, dout: float = 1.0) -> Array:
        """Return the gradient of the loss with respect to x, times `dout`, in the shape and dtype of x.

        Raises RuntimeError before any forward.
        """
        dout = _checks.real_number("dout", dout)
        x, t, share = self._recall()
        dx: Array = self._slope(x, t) * (share * x.dtype.type(dout))
        return dx

    def _recall(self) -> Any:
        if self._saved is None:
            raise RuntimeError(f"{type(self).__name__}: backward before forward")
        return self._saved

    def _targets(self, x: Array, t: Any) -> Array:
        """Return t, checked, in the shape and dtype of x; ValueError otherwise."""
        t = _checks.float_array("t", t, x.dtype)
        if t.shape != x.shape and (t.ndim != 1 or x.shape != (t.size, 1)):
            raise ValueError(f"t must have the shape {x.shape} of x, got {t.shape}")
        return np.asarray(t.reshape(x.shape))

    def _rows(self, x: Array, t: Array) -> tuple[Array, Array]:
        """Return the predictions and the loss of each row, (N,)."""
        raise NotImplementedError

    def _slope(self, x: Array, t: Array) -> Array:
        """Return the gradient of each row's loss with respect to x."""
        raise NotImplementedError

    def __repr__(self) -> str:
        """Return the class."""
        return f"{type(self).__name__}()"


def _row_means(a: Array) -> Array:
    return np.asarray(a.reshape(len(a), -1).mean(axis=1))


class SoftmaxCrossEntropy(Loss):
    """Softmax followed by cross-entropy, for logits x (N, C).

        y = exp(x) / sum_c exp(x_c)        l = -sum_c t_c log y_c        dl/dx = y - t

    log y is computed as x - max(x) - log(sum_c exp(x_c - max(x))), which neither overflows nor takes the
    logarithm of 0.

    Targets are labels, integers (N,) in [0, C), or rows of probabilities (N, C), numbers >= 0 that sum to 1
    (one-hot or soft). `y` holds the softmax.
    """

    def _targets(self, x: Array, t: Any) -> Array:
        if x.ndim != 2:
            raise ValueError(f"x must have shape (N, C), got shape {x.shape}")
        t = _checks.real_array("t", t)
        if t.shape == x.shape:
            rows = _checks.float_array("t", t, x.dtype)
            if not ((rows >= 0).all() and (abs(rows.sum(axis=1) - 1) <= ROW_SUM_TOLERANCE).all()):
                raise ValueError("t must hold labels, or rows of numbers >= 0 that sum to 1")
            return rows
        if t.ndim == 1 and t.dtype.kind not in "iu":
            raise TypeError(f"t must hold integers, or numbers of shape {x.shape}, got {_checks.shown(t)}")
        if t.shape != (len(x),):
            raise ValueError(f"t must have shape ({len(x)},) or {x.shape}, got {t.shape}")
        return _checks.indices("t", t, x.shape[1])

    def _rows(self, x: Array, t: Array) -> tuple[Array, Array]:
        shifted = x - x.max(axis=1, keepdims=True)
        powers = np.exp(shifted)
        sums = powers.sum(axis=1, keepdims=True)
        log_y = shifted - np.log(sums)
        if t.ndim == 1:
            losses = -log_y[np.arange(len(t)), t]
        else:
            losses = -np.sum(t * np.where(t > 0, log_y, 0), axis=1)  # 0 log 0 = 0
        return powers / sums, losses

    def _slope(self, x: Array, t: Array) -> Array:
        assert self.y is not None
        if t.ndim == 2:
            return np.asarray(self.y - t)
        slope: Array = self.y.copy()
        slope[np.arange(len(t)), t] -= 1
        return slope

    @staticmethod
    def check_labels(x: Array, t: Array) -> None:
        """Raise ValueError unless all labels t (M,), if such they are, are classes of logits x (N, C)."""
        if t.ndim == 1:
            _checks.indices("t", t, x.shape[1])

    @staticmethod
    def labels(t: Array) -> Array:
        """Return the classes (M,) of labels (M,) or one-hot rows (M, C); ValueError for other rows."""
        if t.ndim == 1:
            return t
        if not (((t == 0) | (t == 1)).all() and (t.sum(axis=1) == 1).all()):
            raise ValueError("t must hold labels or one-hot rows, got rows of other probabilities")
        return np.asarray(t.argmax(axis=1))

    @staticmethod
    def correct(y: Array, t: Any) -> Array:
        """Return, for each row, 1.0 if the greatest prediction is that of the label, else 0.0."""
        labels = np.asarray(t)
        return np.asarray(
            y.argmax(axis=1) == (labels if labels.ndim == 1 else labels.argmax(axis=1)), dtype=np.float64
        )


class SigmoidCrossEntropy(Loss):
    """Sigmoid followed by binary cross-entropy, for logits x (N, ...), averaged over all elements.

        y = 1 / (1 + exp(-x))        l = -t log y - (1 - t) log(1 - y)        dl/dx = y - t

    l is computed as max(x, 0) - x t + log(1 + exp(-|x|)), which neither overflows nor takes the logarithm of
    0.

    Targets have the shape of x, or (N,) for x (N, 1), and lie in [0, 1]. `y` holds the sigmoid.
    """

    def _targets(self, x: Array, t: Any) -> Array:
        array = super()._targets(x, t)
        if not ((array >= 0) & (array <= 1)).all():
            raise ValueError(f"t must hold numbers in [0, 1], got a range of {array.min()} to {array.max()}")
        return array

    def _rows(self, x: Array, t: Array) -> tuple[Array, Array]:
        losses = np.maximum(x, x.dtype.type(0)) - x * t + np.log1p(np.exp(-np.abs(x)))
        return sigmoid(x), _row_means(losses)

    def _slope(self, x: Array, t: Array) -> Array:
        assert self.y is not None
        slope: Array = (self.y - t) * x.dtype.type(len(x) / x.size)
        return slope

    @staticmethod
    def labels(t: Array) -> Array:
        """Return the classes (M,) of one output's targets, (M,) or (M, 1); ValueError unless 0 and 1."""
        if t.size != len(t):
            raise ValueError(f"t must be the targets of one output, got shape {t.shape}")
        if not ((t == 0) | (t == 1)).all():
            raise ValueError("t must hold 0 or 1, got other probabilities")
        return t.reshape(-1).astype(np.int64)

    @staticmethod
    def correct(y: Array, t: Any) -> Array:
        """Return, for each row, the share of elements with (y > 0.5) == (t > 0.5)."""
        return _row_means((y > 0.5) == (np.asarray(t).reshape(y.shape) > 0.5))


class MeanSquaredError(Loss):
    """The mean of (x - t)^2 over all elements, without a factor 1/2; dl/dx = 2 (x - t) / (elements of a row).

    Targets have the shape of x, or (N,) for x (N, 1). `y` holds x.
    """

    def _rows(self, x: Array, t: Array) -> tuple[Array, Array]:
        return x, _row_means((x - t) ** 2)

    def _slope(self, x: Array, t: Array) -> Array:
        slope: Array = (x - t) * x.dtype.type(2 * len(x) / x.size)
        return slope
