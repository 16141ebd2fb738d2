"""The losses, in NumPy.

`forward(x, t, sample_weight=None)` takes the network's output x and the targets t and returns the loss, a
float: the mean over the batch, or with weights w the weighted mean sum(w_i l_i) / sum(w) of the rows' losses
l_i. `backward` returns its gradient with respect to x. Rows are averaged in float64, whatever the dtype of x.
"""

from __future__ import annotations

from itertools import pairwise
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _checks
from .layers import sigmoid

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._checks import Array

__all__ = [
    "FunctionLoss",
    "GaussianNLL",
    "Huber",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Poisson",
    "Quantile",
    "SigmoidCrossEntropy",
    "SoftmaxCrossEntropy",
]

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

    def predictions(self, x: Any) -> Array:
        """Return what the loss makes of outputs x (N, ...), its `y`, without targets.

        Probabilities for the losses of classes, exp(x) for Poisson, otherwise the outputs themselves.
        """
        return _checks.float_array("x", x)

    def config(self) -> dict[str, Any]:
        """Return the arguments that make a loss like this one, as JSON can hold them."""
        return {}

    def __repr__(self) -> str:
        """Return the class and its configuration."""
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.config().items())})"


def _row_means(a: Array) -> Array:
    return np.asarray(a.reshape(len(a), -1).mean(axis=1))


class SoftmaxCrossEntropy(Loss):
    """Softmax followed by cross-entropy, for logits x (N, C).

        y = exp(x) / sum_c exp(x_c)        l = -sum_c t_c log y_c        dl/dx = y - t

    log y is computed as x - max(x) - log(sum_c exp(x_c - max(x))), which neither overflows nor takes the
    logarithm of 0.

    Targets are labels, integers (N,) in [0, C), or rows of probabilities (N, C), numbers >= 0 that sum to 1
    (one-hot or soft). What is plainly labels is taken as such: booleans, whole floats, a column (N, 1). `y`
    holds the softmax.

    Parameters
    ----------
    label_smoothing : float in [0, 1)
        With s > 0, targets t count as (1 - s) t + s / C (Szegedy et al. 2016).

    Raises
    ------
    TypeError, ValueError
        If label_smoothing is none of these.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = _checks.real_number("label_smoothing", label_smoothing, 0, 1, "[)")

    def config(self) -> dict[str, Any]:
        """Return label_smoothing."""
        return {"label_smoothing": self.label_smoothing} if self.label_smoothing else {}

    def _smoothed(self, t: Array, x: Array) -> Array:
        """Return rows of targets, smoothed."""
        s = self.label_smoothing
        rows = t if t.ndim == 2 else np.eye(x.shape[1], dtype=x.dtype)[t]
        smoothed: Array = x.dtype.type(1 - s) * rows + x.dtype.type(s / x.shape[1])
        return smoothed

    def _targets(self, x: Array, t: Any) -> Array:
        checked = self._plain_targets(x, t)
        return self._smoothed(checked, x) if self.label_smoothing else checked

    def _plain_targets(self, x: Array, t: Any) -> Array:
        if x.ndim != 2:
            raise ValueError(f"x must have shape (N, C), got shape {x.shape}")
        t = _checks.real_array("t", t)
        if t.shape == x.shape:
            rows = _checks.float_array("t", t, x.dtype)
            if not ((rows >= 0).all() and (abs(rows.sum(axis=1) - 1) <= ROW_SUM_TOLERANCE).all()):
                raise ValueError("t must hold labels, or rows of numbers >= 0 that sum to 1")
            return rows
        t = _checks.as_labels(t)
        if t.ndim == 1 and t.dtype.kind not in "iu":
            raise TypeError(
                f"t must hold integers, or numbers of shape {x.shape}, got {_checks.shown(t)}"
                f"{_checks.nan_named('t', t)}"
            )
        if t.shape != (len(x),):
            raise ValueError(f"t must have shape ({len(x)},) or {x.shape}, got {t.shape}")
        return _checks.indices("t", t, x.shape[1])

    def predictions(self, x: Any) -> Array:
        """Return the softmax of outputs x (N, C)."""
        x = _checks.float_array("x", x)
        if x.ndim != 2:
            raise ValueError(f"x must have shape (N, C), got shape {x.shape}")
        powers = np.exp(x - x.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

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
    def plain_targets(x: Array, t: Array) -> Array:
        """Return targets t (M, ...) for logits x (N, C): labels as integers (M,), rows as they are."""
        return t if t.shape[1:] == x.shape[1:] else _checks.as_labels(t)

    @classmethod
    def check_labels(cls, x: Array, t: Array) -> None:
        """Raise ValueError unless all labels t (M,), if such they are, are classes of logits x (N, C)."""
        t = cls.plain_targets(x, t)
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
        t = np.asarray(t)
        labels = t if t.shape == y.shape else _checks.as_labels(t)
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

    def predictions(self, x: Any) -> Array:
        """Return the sigmoid of outputs x (N, ...)."""
        return sigmoid(_checks.float_array("x", x))

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


class Huber(Loss):
    """The squared error near the target, the absolute error far from it (Huber 1964), mean over all elements.

        r = x - t        l = r^2 / 2 where |r| <= delta, else delta (|r| - delta / 2)

    Its slope is r, held within [-delta, delta], divided by the elements of a row. Targets have the shape of
    x, or (N,) for x (N, 1). `y` holds x.

    Parameters
    ----------
    delta : float > 0
        Up to which distance the error is squared.

    Raises
    ------
    TypeError, ValueError
        If delta is none of these.
    """

    def __init__(self, delta: float = 1.0) -> None:
        super().__init__()
        self.delta = _checks.real_number("delta", delta, 0, None, "(]")

    def config(self) -> dict[str, Any]:
        """Return delta."""
        return {"delta": self.delta}

    def _rows(self, x: Array, t: Array) -> tuple[Array, Array]:
        size, delta = np.abs(x - t), x.dtype.type(self.delta)
        inner = np.minimum(size, delta)
        return x, _row_means(inner * (size - inner / 2))

    def _slope(self, x: Array, t: Array) -> Array:
        slope: Array = np.clip(x - t, -self.delta, self.delta) * x.dtype.type(len(x) / x.size)
        return slope


class MeanAbsoluteError(Loss):
    """The mean of |x - t| over all elements, by which outputs become medians.

    Its slope is the sign of x - t, 0 where they are equal, divided by the elements of a row. Targets have the
    shape of x, or (N,) for x (N, 1). `y` holds x.
    """

    def _rows(self, x: Array, t: Array) -> tuple[Array, Array]:
        return x, _row_means(np.abs(x - t))

    def _slope(self, x: Array, t: Array) -> Array:
        slope: Array = np.sign(x - t) * x.dtype.type(len(x) / x.size)
        return slope


class Quantile(Loss):
    """The pinball loss (Koenker, Bassett 1978), by which outputs become quantiles; mean over all elements.

        r = t - x        l = q r where r >= 0, else (q - 1) r

    Its slope is -q where r > 0, 1 - q where r < 0 and 0 where r = 0. Each target has as many outputs as there
    are quantiles, beside each other: of Q quantiles and targets t (N,) or (N, k) the outputs are (N, k Q),
    the first Q of them those of the first target. `y` holds x.

    Parameters
    ----------
    quantiles : float or sequence of floats
        In (0, 1), ascending.

    Raises
    ------
    TypeError, ValueError
        If quantiles are none of these.
    """

    def __init__(self, quantiles: Any) -> None:
        super().__init__()
        given = quantiles if isinstance(quantiles, (list, tuple, np.ndarray)) else [quantiles]
        self.quantiles = tuple(
            _checks.real_number(f"quantiles[{i}]", q, 0, 1, "()") for i, q in enumerate(given)
        )
        if not self.quantiles or any(b <= a for a, b in pairwise(self.quantiles)):
            raise ValueError(f"quantiles must ascend, got {_checks.shown(quantiles)}")

    def config(self) -> dict[str, Any]:
        """Return quantiles."""
        return {"quantiles": list(self.quantiles)}

    def _targets(self, x: Array, t: Any) -> Array:
        each = len(self.quantiles)
        t = _checks.float_array("t", t, x.dtype)
        if x.ndim != 2 or x.shape[1] % each:
            raise ValueError(f"x must have shape (N, k {each}) for {each} quantiles, got {x.shape}")
        shape = (len(x), x.shape[1] // each)
        if t.shape != shape and (t.ndim != 1 or shape != (t.size, 1)):
            raise ValueError(f"t must have shape {shape} for outputs {x.shape}, got {t.shape}")
        return np.repeat(t.reshape(shape), each, axis=1)

    def _shares(self, x: Array, t: Array) -> Array:
        q = np.resize(np.array(self.quantiles, x.dtype), x.shape[1])
        r = t - x
        return np.where(r > 0, q, np.where(r < 0, q - 1, r))

    def _rows(self, x: Array, t: Array) -> tuple[Array, Array]:
        return x, _row_means(self._shares(x, t) * (t - x))

    def _slope(self, x: Array, t: Array) -> Array:
        slope: Array = -self._shares(x, t) * x.dtype.type(len(x) / x.size)
        return slope


class Poisson(Loss):
    """Half the Poisson deviance of means y = exp(x), the log link, mean over all elements.

        l = t log(t / y) - t + y        dl/dx = y - t

    with 0 log 0 = 0: half of scikit-learn's `mean_poisson_deviance`, and the loss="poisson" of its MLP.
    Targets, numbers >= 0 such as counts, have the shape of x, or (N,) for x (N, 1). `y` holds exp(x).
    """

    def _targets(self, x: Array, t: Any) -> Array:
        array = super()._targets(x, t)
        if not ((array >= 0) & (array < np.inf)).all():
            raise ValueError(
                f"t must hold finite numbers >= 0, got a range of {array.min()} to {array.max()}"
            )
        return array

    def predictions(self, x: Any) -> Array:
        """Return the means exp(x) of outputs x (N, ...)."""
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(_checks.float_array("x", x)))

    def _rows(self, x: Array, t: Array) -> tuple[Array, Array]:
        with np.errstate(over="ignore"):
            y = np.exp(x)
        return y, _row_means(t * np.log(np.where(t > 0, t, 1)) - t * x - t + y)

    def _slope(self, x: Array, t: Array) -> Array:
        assert self.y is not None
        slope: Array = (self.y - t) * x.dtype.type(len(x) / x.size)
        return slope


class GaussianNLL(Loss):
    """The negative log-likelihood of normal distributions, of which the network says mean and variance.

        l = (s + (t - m)^2 exp(-s)) / 2    dl/dm = (m - t) exp(-s)    dl/ds = (1 - (t - m)^2 exp(-s)) / 2

    without the constant log(2 pi) / 2, mean over all targets (Nix, Weigend 1994). For targets (N,) or (N, k)
    the outputs are (N, 2 k): the k means m, then the k logarithms s of the variances. `y` holds the outputs.
    """

    def _targets(self, x: Array, t: Any) -> Array:
        t = _checks.float_array("t", t, x.dtype)
        if x.ndim != 2 or x.shape[1] % 2:
            raise ValueError(f"x must have shape (N, 2 k), means and log-variances, got {x.shape}")
        shape = (len(x), x.shape[1] // 2)
        if t.shape != shape and (t.ndim != 1 or shape != (t.size, 1)):
            raise ValueError(f"t must have shape {shape} for outputs {x.shape}, got {t.shape}")
        return np.asarray(t.reshape(shape))

    def _rows(self, x: Array, t: Array) -> tuple[Array, Array]:
        mean, s = np.split(x, 2, axis=1)
        with np.errstate(over="ignore"):
            return x, _row_means((s + (t - mean) ** 2 * np.exp(-s)) / 2)

    def _slope(self, x: Array, t: Array) -> Array:
        mean, s = np.split(x, 2, axis=1)
        with np.errstate(over="ignore"):
            precision = np.exp(-s)
        slopes = [(mean - t) * precision, (1 - (t - mean) ** 2 * precision) / 2]
        slope: Array = np.concatenate(slopes, axis=1) * x.dtype.type(len(t) / t.size)
        return slope


class FunctionLoss:
    """A loss that is a function, as an object.

    Parameters
    ----------
    function : callable (y, t) or (y, t, sample_weight)
        Given outputs y (N, ...), targets t and, if it takes them, weights (N,) or None, returns the loss, a
        number, and its gradient with respect to y, an array of the shape of y.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        import inspect

        self.function = function
        self.y: Array | None = None
        try:
            inspect.signature(function).bind(None, None, None)
            self._weighs = True
        except (TypeError, ValueError):  # ValueError: without a signature
            self._weighs = False
        self._gradient: Array | None = None

    def forward(self, y: Any, t: Any, sample_weight: Any = None) -> float:
        """Return the loss; TypeError or ValueError if the function returns anything else."""
        if self._weighs:
            result = self.function(y, t, sample_weight)
        elif sample_weight is None:
            result = self.function(y, t)
        else:
            raise ValueError("sample_weight must be None for a loss (y, t) that takes no sample_weight")
        loss, self._gradient = self.checked(y, result)
        self.y = y
        return loss

    def checked(self, y: Array, result: Any) -> tuple[float, Array]:
        """Return what the function has returned for outputs y as (float, array of their shape and dtype)."""
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(f"loss must return (loss, gradient), got {_checks.shown(result)}")
        loss, gradient = result
        if type(loss) is not float:
            if isinstance(loss, np.ndarray) and loss.ndim == 0:
                loss = loss[()]
            if isinstance(loss, (bool, np.bool_)) or not isinstance(loss, Real):
                raise TypeError(f"loss must return a number as its loss, got {_checks.shown(loss)}")
            loss = float(loss)
        if type(gradient) is not np.ndarray or gradient.dtype is not y.dtype:
            gradient = _checks.float_array("gradient that the loss returns", gradient, y.dtype)
        if gradient.shape != y.shape:
            raise ValueError(
                f"gradient that the loss returns must have the shape {y.shape} of the outputs, "
                f"got {gradient.shape}"
            )
        return loss, gradient

    def backward(self, dout: float = 1.0) -> Array:
        """Return the gradient, times `dout`, that came with the last loss."""
        if self._gradient is None:
            raise RuntimeError("FunctionLoss: backward before forward")
        return self._gradient if dout == 1 else self._gradient * self._gradient.dtype.type(dout)
