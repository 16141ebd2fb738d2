"""Metrics: figures of predictions that people know, beside the loss, in NumPy.

Each is a function (y_true, y_pred, *, sample_weight=None) that returns a float. Its predictions are what a
loss makes of a network's outputs, `Trainer.predict_proba`: probabilities after the softmax or the sigmoid,
means after the exponential of `Poisson`, and the outputs themselves otherwise. `Trainer.fit` and
`Trainer.evaluate` take the functions, or their names, and functions of your own (argument `metrics`).

Those of classes (accuracy, f1, auc, top_k) take three forms:

    y_true (N,) or (N, 1), labels; y_pred (N, C)       C classes, one of which each row has
    y_true (N, C), one-hot; y_pred (N, C), rows of sum 1            the same
    y_true of the shape of y_pred, 0 and 1; any other y_pred        k = 1 or more yes-or-no questions a row

The labels are integers, or booleans or whole floats; a row of several questions is a case of several labels.
Those of numbers (r2, mse, rmse, mae) take y_true of the shape of y_pred, or (N,) for (N, 1).

With weights w each row counts w_i / sum(w). A prediction that is NaN makes the figure NaN; one that is not
defined is what its function says. TypeError or ValueError for what has none of these forms.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _checks

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._checks import Array

__all__ = ["accuracy", "auc", "f1", "mae", "mse", "r2", "rmse", "top_k"]

ROW_SUM_TOLERANCE = 1e-3  # as of the targets of SoftmaxCrossEntropy


# Of classes


def accuracy(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    """Return the share of what is predicted right.

    Of classes the greatest prediction counts, of several equal ones the first; of questions each by itself, a
    yes above 1/2.

    Parameters
    ----------
    y_true, y_pred : arrays
        In one of the forms of the module.
    sample_weight : array, shape (N,), or None
    """
    form = _classes("accuracy", y_true, y_pred, sample_weight)
    if form.bad:
        return np.nan
    right = (_decided(form) == form.true).astype(np.float64)
    return float(form.weights @ (right if form.labels else right.mean(axis=1)))


def top_k(y_true: Any, y_pred: Any, k: int, *, sample_weight: Any = None) -> float:
    """Return the share of rows whose class is among the k greatest predictions.

    Of equal predictions the first comes first, as in `accuracy`, which is that of k = 1 (scikit-learn's
    `top_k_accuracy_score` has the last come first). It is 1 from k = C on.

    Parameters
    ----------
    y_true, y_pred : arrays
        Of classes.
    k : int >= 1
    sample_weight : array, shape (N,), or None
    """
    k = _checks.integer("k", k, 1)
    form = _classes("top_k", y_true, y_pred, sample_weight)
    if not form.labels:
        raise ValueError(f"top_k needs predictions of several classes, (N, C), got shape {form.scores.shape}")
    if form.bad:
        return np.nan
    own = form.scores[np.arange(len(form.true)), form.true][:, None]
    before = np.arange(form.scores.shape[1]) < form.true[:, None]
    place = ((form.scores > own) | ((form.scores == own) & before)).sum(axis=1)
    return float(form.weights @ (place < k))


def f1(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    """Return the harmonic mean of precision and recall.

        F = 2 TP / (2 TP + FP + FN)

    Of two classes, and of a single question, that of class 1, or yes; of more the mean over those classes
    that occur in targets or predictions (scikit-learn's average="macro"), of several questions the mean over
    them. Predictions are decided as in `accuracy`. A class that neither occurs nor is predicted has 0.

    Parameters
    ----------
    y_true, y_pred : arrays
        In one of the forms of the module.
    sample_weight : array, shape (N,), or None
    """
    form = _classes("f1", y_true, y_pred, sample_weight)
    if form.bad:
        return np.nan
    decided, w = _decided(form), form.weights
    if form.labels:
        several = form.scores.shape[1]
        hits, true, predicted = (
            np.bincount(a, b, several)
            for a, b in ((form.true, w * (decided == form.true)), (form.true, w), (decided, w))
        )
        if several == 2:
            hits, true, predicted = hits[1:], true[1:], predicted[1:]
        else:
            occur = (np.bincount(form.true, minlength=several) + np.bincount(decided, minlength=several)) > 0
            hits, true, predicted = hits[occur], true[occur], predicted[occur]
    else:
        hits, true, predicted = w @ (form.true & decided), w @ form.true, w @ decided
    both = true + predicted
    return float(np.mean(np.where(both > 0, 2 * hits / np.where(both > 0, both, 1), 0)))


def auc(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    """Return the area under the ROC curve: how likely a positive is predicted above a negative.

        AUC = P(s+ > s-) + P(s+ = s-) / 2

    Of two classes, and of a single question, that of class 1, or yes; of more the mean over the classes, each
    against the rest (scikit-learn's multi_class="ovr"), of several questions the mean over them. Those that
    have only positives or only negatives, by their weights, do not count; NaN if none is left.

    Parameters
    ----------
    y_true, y_pred : arrays
        In one of the forms of the module.
    sample_weight : array, shape (N,), or None
    """
    form = _classes("auc", y_true, y_pred, sample_weight)
    if form.bad:
        return np.nan
    if form.labels:
        columns = [1] if form.scores.shape[1] == 2 else range(form.scores.shape[1])
        pairs = ((form.true == c, form.scores[:, c]) for c in columns)
    else:
        pairs = (pair for pair in zip(form.true.T, form.scores.T, strict=True))
    areas = [_area(positive, scores, form.weights) for positive, scores in pairs]
    areas = [area for area in areas if not np.isnan(area)]
    return float(np.mean(areas)) if areas else np.nan


def _area(positive: Array, scores: Array, weights: Array) -> float:
    """Return the area of one class; NaN if there are no positives or no negatives."""
    levels, place = np.unique(scores, return_inverse=True)
    up = np.bincount(place, weights * positive, len(levels))
    down = np.bincount(place, weights * ~positive, len(levels))
    if not (up.sum() > 0 and down.sum() > 0):
        return np.nan
    below = np.cumsum(down) - down / 2
    return float(up @ below / (up.sum() * down.sum()))


# Of numbers


def mse(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    """Return the mean of (y_true - y_pred)^2, over all elements.

    Parameters
    ----------
    y_true, y_pred : arrays
        In the form of the module.
    sample_weight : array, shape (N,), or None
    """
    _, error, weights = _numbers("mse", y_true, y_pred, sample_weight)
    return float(weights @ (error**2).mean(axis=1))


def rmse(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    """Return the square root of `mse`, in the units of the targets.

    With several outputs it is the root of the mean over all, not scikit-learn's mean of the outputs' roots.

    Parameters
    ----------
    y_true, y_pred : arrays
        In the form of the module.
    sample_weight : array, shape (N,), or None
    """
    _, error, weights = _numbers("rmse", y_true, y_pred, sample_weight)
    return float(np.sqrt(weights @ (error**2).mean(axis=1)))


def mae(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    """Return the mean of |y_true - y_pred|, over all elements.

    Parameters
    ----------
    y_true, y_pred : arrays
        In the form of the module.
    sample_weight : array, shape (N,), or None
    """
    _, error, weights = _numbers("mae", y_true, y_pred, sample_weight)
    return float(weights @ np.abs(error).mean(axis=1))


def r2(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    """Return the coefficient of determination, the mean over the outputs.

        R^2 = 1 - sum((y_true - y_pred)^2) / sum((y_true - mean(y_true))^2)

    Of targets that are all equal it is 1 where all predictions are right and 0 otherwise (as in
    scikit-learn); of a single row it is NaN.

    Parameters
    ----------
    y_true, y_pred : arrays
        In the form of the module.
    sample_weight : array, shape (N,), or None
    """
    true, error, weights = _numbers("r2", y_true, y_pred, sample_weight)
    if len(true) < 2:
        return np.nan
    left = weights @ error**2
    varied = np.ptp(true[weights > 0], axis=0) > 0
    all_of_it = weights @ (true - weights @ true) ** 2
    share = np.where(varied, left / np.where(varied, all_of_it, 1), left > 0)
    return float(np.mean(1 - np.where(np.isnan(left), np.nan, share)))


# Forms


class _Form(NamedTuple):
    """Targets and predictions of classes."""

    true: Array  # int (N,) of classes, bool (N, k) of questions
    scores: Array  # (N, C) or (N, k)
    weights: Array  # (N,), of sum 1
    labels: bool  # whether they are classes
    bad: bool  # whether a prediction is NaN


def _classes(name: str, y_true: Any, y_pred: Any, sample_weight: Any) -> _Form:
    """Return what the metric of this name is given; TypeError or ValueError if it has no form."""
    true, scores, weights = _rows(name, y_true, y_pred, sample_weight)
    bad = bool(np.isnan(scores).any())
    several = scores.shape[1] > 1
    if several and true.shape != scores.shape:
        true = _checks.as_labels(true)
        if true.ndim != 1:
            raise ValueError(
                f"{name}: y_true must have shape ({len(scores)},) or {scores.shape}, got {true.shape}"
            )
        return _Form(
            _checks.indices(f"{name}: y_true", true, scores.shape[1]).astype(np.intp),
            scores,
            weights,
            True,
            bad,
        )
    if not several:
        true = true.reshape(len(true), -1)
    if true.shape != scores.shape:
        raise ValueError(f"{name}: y_true must have the shape {scores.shape} of y_pred, got {true.shape}")
    if several and not bad and (np.abs(scores.sum(axis=1) - 1) <= ROW_SUM_TOLERANCE).all():
        return _Form(true.argmax(axis=1), scores, weights, True, bad)
    if not ((true == 0) | (true == 1)).all():
        raise ValueError(
            f"{name}: y_true must hold 0 and 1, for the probabilities y_pred of shape {scores.shape}"
        )
    return _Form(true == 1, scores, weights, False, bad)


def _numbers(name: str, y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Array, Array, Array]:
    """Return targets and errors, float64 (N, k), and weights; TypeError or ValueError if they do not fit."""
    true, predicted, weights = _rows(name, y_true, y_pred, sample_weight)
    if true.shape != predicted.shape and (true.ndim != 1 or predicted.shape[1] != 1):
        raise ValueError(f"{name}: y_true must have the shape {predicted.shape} of y_pred, got {true.shape}")
    true = true.reshape(predicted.shape).astype(np.float64)
    return true, true - predicted, weights


def _rows(name: str, y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[Array, Array, Array]:
    """Return targets (N, ...), predictions (N, k) in float64, and weights of sum 1."""
    true = _checks.real_array(f"{name}: y_true", y_true)
    predicted = _checks.float_array(f"{name}: y_pred", y_pred, _checks.FLOATS[1])
    if predicted.ndim not in (1, 2) or predicted.size == 0:
        raise ValueError(f"{name}: y_pred must have shape (N,) or (N, k) with N >= 1, got {predicted.shape}")
    predicted = predicted.reshape(len(predicted), -1)
    if true.ndim == 0 or len(true) != len(predicted):
        raise ValueError(
            f"{name}: y_true must have as many rows as y_pred, {len(predicted)}, got shape {true.shape}"
        )
    if sample_weight is None:
        return true, predicted, np.full(len(true), 1 / len(true))
    weights, total = _checks.sample_weights(f"{name}: sample_weight", sample_weight, len(true))
    return true, predicted, weights / total


def _decided(form: _Form) -> Array:
    """Return the classes predicted, or the answers."""
    return form.scores.argmax(axis=1) if form.labels else form.scores > 0.5


# How a trainer uses them

NAMED: dict[str, Callable[..., float]] = {f.__name__: f for f in (accuracy, auc, f1, mae, mse, r2, rmse)}
LESS_IS_BETTER = {"mae", "mse", "rmse"}
TOP = re.compile(r"top_([1-9]\d*)")


class Metric(NamedTuple):
    """A metric that a trainer computes."""

    name: str
    function: Callable[..., Any]
    weighs: bool  # whether it takes sample_weight
    own: bool = False  # whether it is not one of this module

    def value(self, y_true: Array, y_pred: Array, sample_weight: Array | None) -> float:
        """Return the figure; TypeError if the function returns no number."""
        if sample_weight is None:
            value = self.function(y_true, y_pred)
        elif self.weighs:
            value = self.function(y_true, y_pred, sample_weight=sample_weight)
        else:
            raise ValueError(f"sample_weight must be None for the metric {self.name}, which takes none")
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value[()]
        if isinstance(value, (bool, np.bool_)) or not isinstance(
            value, (int, float, np.integer, np.floating)
        ):
            raise TypeError(f"the metric {self.name} must return a number, got {_checks.shown(value)}")
        return float(value)


def resolved(metrics: Any) -> list[Metric]:
    """Return what the argument `metrics` stands for; TypeError or ValueError if it is none."""
    forms = (
        'a list of names ("f1"), functions (y_true, y_pred) and pairs (name, function), or a dict of these'
    )
    if isinstance(metrics, (str, bytes)) or callable(metrics):
        raise TypeError(f"metrics must be {forms}: write [{_checks.shown(metrics)}]")
    try:
        metrics = list(metrics.items() if isinstance(metrics, dict) else metrics)
    except TypeError:
        raise TypeError(f"metrics must be {forms}, got {_checks.shown(metrics)}") from None
    found: dict[str, Metric] = {}
    for i, each in enumerate(metrics):
        metric = _resolved(f"metrics[{i}]", each)
        if metric.name in found or metric.name == "loss":
            raise ValueError(f"metrics must have names of their own, got {metric.name!r} twice")
        found[metric.name] = metric
    return list(found.values())


def _resolved(name: str, metric: Any) -> Metric:
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, (tuple, list)):
        if len(metric) != 2 or not isinstance(metric[0], str):
            raise TypeError(f"{name} must be a pair (name, function), got {_checks.shown(metric)}")
        if metric[0] == "top_k" and not callable(metric[1]):
            metric = f"top_{_checks.integer('the k of top_k', metric[1], 1)}"
    if isinstance(metric, str):
        if top := TOP.fullmatch(metric):
            k = int(top[1])
            return Metric(
                metric, lambda t, y, sample_weight=None: top_k(t, y, k, sample_weight=sample_weight), True
            )
        return Metric(metric, NAMED[_checks.choice(name, metric, (*NAMED, "top_3"))], True)
    label, function = (
        metric if isinstance(metric, (tuple, list)) else (getattr(metric, "__name__", ""), metric)
    )
    _checks.function(name, function)
    if function is top_k or isinstance(function, type):
        raise TypeError(f'{name} must be a name ("top_3") or a function, got {_checks.shown(function)}')
    if not label.isidentifier():
        raise ValueError(
            f'{name} must have a name to be recorded by: write ("name", function), got {label!r}'
        )
    import inspect  # where it is needed: it takes as long as a tenth of all of fastnn

    try:
        weighs = "sample_weight" in inspect.signature(function).parameters
    except ValueError:  # without a signature
        weighs = False
    return Metric(label, function, weighs, own=function not in NAMED.values())


def more_is_better(figure: str) -> bool | None:
    """Return whether more of a figure of a history is better; None for one of somebody's own."""
    name = figure.removeprefix("val_")
    if name in LESS_IS_BETTER or name.endswith("loss"):
        return False
    return True if name in NAMED or TOP.fullmatch(name) or name.endswith("accuracy") else None
