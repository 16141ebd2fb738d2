"""The classifier."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import (
    _check_partial_fit_first_call,
    check_classification_targets,
    type_of_target,
    unique_labels,
)

from .. import _checks
from ..losses import SigmoidCrossEntropy, SoftmaxCrossEntropy
from .base import MLP, PARAMETERS, READ, is_stochastic
from .compat import validate_data
from .trainings import alone

if TYPE_CHECKING:
    from .._checks import Array
    from .course import Judge

__all__ = ["MLPClassifier"]


class MLPClassifier(ClassifierMixin, MLP):  # type: ignore[misc]  # scikit-learn has no types
    """A classifier: scikit-learn's `MLPClassifier`, trained by fastnn.

    It minimizes the cross-entropy of the softmax of the outputs or, for two classes and for several labels a
    row, of their sigmoid.

    Parameters
    ----------
    {parameters}
    class_weight : dict of class: weight, "balanced" or None
        Multiplies the weights of a class's rows, as in scikit-learn's other classifiers: a row of twice the
        weight counts twice in whatever batch it comes. `fit` divides the weights by their mean; partial_fit,
        which does not see all rows, by nothing, so that it is the same in however small parts they come.
    label_smoothing : float in [0, 1)
        With s > 0 training takes 1 - s of the true class, or label, and s of all alike (Szegedy et al. 2016).
        Scores are those of the true ones.

    Attributes
    ----------
    classes_ : array, shape (n_classes,)
    loss_curve_ : list of float
        The mean loss of each epoch's batches, with the penalty.
    loss_, best_loss_ : float
        The last and the least of them; best_loss_ is None with early_stopping.
    validation_scores_, best_validation_score_ : list of float, float, or None
        Accuracies on the validation data.
    coefs_, intercepts_ : lists of arrays
        Those of the network: what is changed in them, or put in their place, counts.
    estimators_ : list of MLPClassifier
        Of an ensemble: its members, models by themselves. It has no curves, scores and weights of its own;
        its loss_ is their mean, t_ their sum, and n_iter_ that of the member that went on longest.
    n_iter_, t_ : int
        Epochs of the last fit, and rows seen by all.
    n_features_in_, feature_names_in_, n_layers_, n_outputs_, out_activation_
        As in scikit-learn.
    """

    __doc__ = (__doc__ or "").replace("    {parameters}\n", PARAMETERS)
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **MLP._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
    }
    _own = "label_smoothing"
    class_weight: Any
    label_smoothing: float

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: Any = 10,
        max_fun: int = 15000,
        dropout: float = 0.0,
        batch_norm: bool = False,
        sparse_update: str = "dense",
        class_weight: Any = None,
        label_smoothing: float = 0.0,
        dtype: Any = "auto",
        n_ensemble: int = 1,
        bootstrap: bool = True,
    ) -> None:
        self._take(locals())

    # Targets

    def _checked(self, X: Any, y: Any, first: bool, incremental: bool) -> tuple[Array, Array]:
        X, y = validate_data(self, X, y, multi_output=True, dtype=READ, order="C", reset=first)
        if hasattr(y, "toarray"):  # a sparse matrix of labels
            y = y.toarray()
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if first:
            self._learn_classes(y, given=incremental)
        else:
            self._compare_classes(y, incremental)
        if self._multilabel:
            return X, np.ascontiguousarray(y, np.float32)
        codes = np.searchsorted(self.classes_, y)
        return X, codes if self.out_activation_ == "softmax" else codes.astype(np.float32)

    def _learn_classes(self, y: Array, given: bool) -> None:
        """Set what depends on the classes: those of y, unless partial_fit was given them."""
        check_classification_targets(y)
        kind = type_of_target(y)
        if kind == "multiclass-multioutput":
            raise ValueError("Multioutput target data is not supported with label binarization")
        self._multilabel = kind == "multilabel-indicator"
        if not given:
            self.classes_ = unique_labels(y)
        elif self._multilabel and not np.array_equal(self.classes_, unique_labels(y)):
            raise ValueError(
                "where y is an indicator matrix classes must be the numbers of its columns, "
                f"{unique_labels(y)}, got {self.classes_}"
            )
        self._check_known(y)
        several = self._multilabel or len(self.classes_) > 2
        self.n_outputs_ = len(self.classes_) if several else 1
        self.out_activation_ = "logistic" if self._multilabel or not several else "softmax"

    def _compare_classes(self, y: Array, incremental: bool) -> None:
        """Raise ValueError unless y is of the classes that are known; of all of them, to start warm."""
        if (y.ndim == 2) != self._multilabel or (y.ndim == 2 and y.shape[1] != self.n_outputs_):
            raise ValueError(f"y has shape {y.shape}, which does not fit the {self.n_outputs_} outputs")
        classes = unique_labels(y)
        if not incremental and set(classes) != set(self.classes_):
            raise ValueError(
                "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                f"Previously got {self.classes_}, `y` has {classes}"
            )
        self._check_known(y)

    def _check_known(self, y: Array) -> None:
        classes = unique_labels(y)
        if len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. "
                f"'y' has {classes}."
            )

    def _loss(self) -> Any:
        if self.out_activation_ == "softmax":
            return SoftmaxCrossEntropy(float(self.label_smoothing))
        return SigmoidCrossEntropy()

    def _architecture(self) -> tuple[Any, ...]:
        return (*super()._architecture(), float(self.label_smoothing))

    def _targets(self, t: Array) -> Array:
        if self.label_smoothing == 0 or self.out_activation_ == "softmax":  # whose loss smooths
            return t
        smoothed: Array = (1 - self.label_smoothing) * t + self.label_smoothing / 2
        return smoothed.astype(t.dtype, copy=False)

    def _shares(self) -> tuple[float, float]:
        share = 1.0 if self.out_activation_ == "softmax" else float(self.n_outputs_)
        return share, share

    def _weights_of(
        self, t: Array, sample_weight: Array | None, incremental: bool
    ) -> tuple[Array | None, Array | None]:
        if self.class_weight is None:
            return sample_weight, None
        if incremental and self.class_weight == "balanced":
            raise ValueError(
                "class_weight 'balanced' is not supported for partial_fit: a part of the rows does not tell "
                "how common the classes are. Pass a dict of weights"
            )
        if not self._multilabel:
            return sample_weight, self._class_weights(t)
        if self.class_weight != "balanced":
            raise ValueError(
                "class_weight must be 'balanced' or None where y is an indicator matrix: its columns are no "
                f"classes, each of its numbers is a label's. Got {self.class_weight!r}"
            )
        weights: Array = compute_sample_weight("balanced", t)
        return weights if sample_weight is None else weights * sample_weight, None

    def _class_weights(self, t: Array) -> Array:
        """Return the weights of the classes, two at least; ValueError if class_weight means others."""
        known = self.classes_.tolist()
        weights = np.ones(max(len(known), 2))
        if isinstance(self.class_weight, str):
            counts = np.bincount(t.astype(np.intp), minlength=len(weights))
            return np.asarray(len(t) / (np.count_nonzero(counts) * np.maximum(counts, 1)))
        others = []
        for label, weight in self.class_weight.items():
            number = _checks.real_number(f"class_weight[{label!r}]", weight, 0)
            if label in known:
                weights[known.index(label)] = number
            else:
                others.append(label)
        missing = [label for label in known if label not in self.class_weight]
        if others and missing:  # of classes that a part of the data lacks the weights may be there
            raise ValueError(
                f"class_weight must have the classes, {known}, as keys: {others} are none, and {missing} are "
                "not there"
            )
        return weights

    def _strata(self, t: Array) -> Array | None:
        return t.astype(bool)[:, None] if self.n_outputs_ == 1 else None

    def _score_of(self, outputs: Array, judge: Judge) -> float:
        """Return the accuracy: the share of the rows of which all labels are right."""
        if self.out_activation_ == "softmax":
            right = outputs.argmax(axis=1) == judge.t
        else:
            right = ((outputs > 0) == judge.t.reshape(outputs.shape)).all(axis=1)
        return float(np.average(right, weights=judge.weight))

    @available_if(is_stochastic)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Any:
        """Train for one epoch on these rows; the optimizer goes on from the call before.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        classes : array, shape (n_classes,)
            All classes that will come; needed by the first call only.

        Returns
        -------
        self
        """
        alone(self._fitting(X, y, sample_weight, incremental=True, classes=classes))
        return self

    def _meet(self, incremental: bool, classes: Any) -> None:
        if incremental:
            _check_partial_fit_first_call(self, classes)

    # Predictions

    def predict(self, X: Any) -> Array:
        """Return the class of each row, (n_samples,), or 0 or 1 for each label, (n_samples, n_outputs)."""
        outputs = self._outputs(X)
        if len(outputs) == 1:
            likelier = outputs[0]
        else:  # a mean of probabilities, not of logits
            likelier = self._log_mean(outputs)
            if self._multilabel:
                likelier = likelier - math.log(0.5)
            elif self.n_outputs_ == 1 and len(self.classes_) > 1:
                likelier = likelier[:, 1:] - likelier[:, :1]
        if self._multilabel:
            return (likelier > 0).astype(int)
        if self.out_activation_ == "softmax":
            return np.asarray(self.classes_[likelier.argmax(axis=1)])
        one = len(self.classes_) - 1  # of a single class there is no other
        return np.asarray(self.classes_[np.where(likelier[:, 0] > 0, one, 0)])

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, (n_samples, n_classes), in the order of `classes_`."""
        probabilities: Array = np.exp(self.predict_log_proba(X))
        return probabilities

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithms of the probabilities, without rounding these to 0 before."""
        return self._log_mean(self._outputs(X))

    def _log_mean(self, outputs: list[Array]) -> Array:
        """Return the logarithms of the probabilities that networks with these outputs give on average."""
        logs = [self._logs(z) for z in outputs]
        if len(logs) == 1:
            return logs[0]
        mean: Array = np.logaddexp.reduce(logs, axis=0) - math.log(len(logs))
        return np.minimum(mean, 0, out=mean)

    def _logs(self, z: Array) -> Array:
        if self.out_activation_ == "softmax":
            z -= z.max(axis=1, keepdims=True)
            return np.asarray(z - np.log(np.exp(z).sum(axis=1, keepdims=True)))
        if self._multilabel:
            return np.asarray(-np.logaddexp(0, -z))
        if len(self.classes_) == 1:
            return np.zeros_like(z)
        return np.asarray(-np.logaddexp(0, np.hstack((z, -z))))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _more_tags(self) -> dict[str, Any]:
        """Return the tags for scikit-learn before 1.6."""
        return {"multilabel": True}
