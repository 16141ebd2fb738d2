"""The regressor."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if

from .. import _checks, losses
from .base import MLP, PARAMETERS, READ, is_stochastic
from .compat import validate_data
from .trainings import alone

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._checks import Array
    from .course import Judge

__all__ = ["MLPRegressor"]

LOSSES: dict[str, Callable[[], Any]] = {
    "squared_error": losses.MeanSquaredError,
    "absolute_error": losses.MeanAbsoluteError,
    "huber": losses.Huber,
    "poisson": losses.Poisson,
    "quantile": partial(losses.Quantile, (0.1, 0.5, 0.9)),
    "gaussian": losses.GaussianNLL,
}
CLASSES = (
    losses.MeanSquaredError,
    losses.MeanAbsoluteError,
    losses.Huber,
    losses.Poisson,
    losses.Quantile,
    losses.GaussianNLL,
)


class MLPRegressor(RegressorMixin, MLP):  # type: ignore[misc]  # scikit-learn has no types
    """A regressor: scikit-learn's `MLPRegressor`, trained by fastnn.

    Parameters
    ----------
    loss : str or loss
        scikit-learn's "squared_error", half of it, or "poisson", half the Poisson deviance of means that are
        the exponential of the outputs, for y >= 0; or "absolute_error", by which predictions become medians,
        "huber", which is squared near the target and absolute far from it, "quantile", of the quantiles 0.1,
        0.5 and 0.9, or "gaussian", the likelihood of normal distributions. Or one of `fastnn.losses`, as
        `Huber(2.0)` or `Quantile([0.05, 0.5, 0.95])`. Of several targets, and quantiles, it is the sum (of
        "squared_error", as in scikit-learn, the mean).
    {parameters}

    Attributes
    ----------
    loss_curve_ : list of float
        The mean loss of each epoch's batches, with the penalty.
    loss_, best_loss_ : float
        The last and the least of them; best_loss_ is None with early_stopping.
    validation_scores_, best_validation_score_ : list of float, float, or None
        Coefficients of determination, R^2, on the validation data.
    coefs_, intercepts_ : lists of arrays
        Those of the network: what is changed in them, or put in their place, counts.
    estimators_ : list of MLPRegressor
        Of an ensemble: its members, models by themselves. It has no curves, scores and weights of its own;
        its loss_ is their mean, t_ their sum, and n_iter_ that of the member that went on longest.
    n_iter_, t_ : int
        Epochs of the last fit, and rows seen by all.
    n_outputs_ : int
        Outputs of the network: of a target one, or as many as there are quantiles, or mean and variance.
    n_features_in_, feature_names_in_, n_layers_, out_activation_
        As in scikit-learn.
    """

    __doc__ = (__doc__ or "").replace("    {parameters}\n", PARAMETERS)
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **MLP._parameter_constraints,
        "loss": [StrOptions(set(LOSSES)), *CLASSES],
    }
    _own = "loss"
    loss: Any

    def __init__(
        self,
        loss: Any = "squared_error",
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
        dtype: Any = "auto",
        n_ensemble: int = 1,
        bootstrap: bool = True,
    ) -> None:
        self._take(locals())

    def _loss(self) -> Any:
        """Return a loss of the trainer's own: threads may fit models that were given the same."""
        if isinstance(self.loss, str):
            return LOSSES[self.loss]()
        return type(self.loss)(**self.loss.config())

    def _architecture(self) -> tuple[Any, ...]:
        return (*super()._architecture(), repr(self._loss()))

    def _checked(self, X: Any, y: Any, first: bool, incremental: bool) -> tuple[Array, Array]:
        X, y = validate_data(
            self, X, y, multi_output=True, y_numeric=True, dtype=READ, order="C", reset=first
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        loss, targets = self._loss(), 1 if y.ndim == 1 else y.shape[1]
        poisson = isinstance(loss, losses.Poisson)
        if poisson and y.min() < 0:
            raise ValueError(f"y must hold numbers >= 0 for loss='poisson', got {y.min()}")
        if first:
            self.n_outputs_ = targets * _width(loss)
            self.out_activation_ = "exp" if poisson else "identity"
        elif targets != self.n_outputs_ // _width(loss):
            before = self.n_outputs_ // _width(loss)
            raise ValueError(f"y has {targets} outputs, but the previous call had {before}")
        return X, np.ascontiguousarray(y, np.float32 if y.dtype == np.float32 else np.float64)

    def _shares(self) -> tuple[float, float]:
        loss = self._loss()
        if isinstance(loss, losses.MeanSquaredError):
            return self.n_outputs_ / 2, 0.5
        averaged = self.n_outputs_ / (2 if isinstance(loss, losses.GaussianNLL) else 1)
        return averaged, averaged

    def _score_of(self, outputs: Array, judge: Judge) -> float:
        """Return R^2 of what is predicted, -inf where that overflows."""
        predicted = self._predicted(outputs, self._loss(), None)
        if not np.isfinite(predicted).all():
            return -math.inf
        return float(r2_score(judge.t.reshape(predicted.shape), predicted, sample_weight=judge.weight))

    @available_if(is_stochastic)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train for one epoch on these rows; the optimizer goes on from the call before.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.

        Returns
        -------
        self
        """
        alone(self._fitting(X, y, sample_weight, incremental=True))
        return self

    def predict(self, X: Any, *, quantile: float | None = None, return_std: bool = False) -> Any:
        """Return the predictions, (n_samples,) or, of several targets, (n_samples, n_targets).

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
        quantile : float or None
            Which one, of a model that was trained for it; None: that nearest to 0.5. Quantiles may cross.
        return_std : bool
            Whether to return the standard deviations, too: of a model of loss="gaussian" those that it knows,
            of an ensemble those of its members' predictions, and of an ensemble of loss="gaussian" those of
            the mixture of its members' distributions (Lakshminarayanan, Pritzel, Blundell 2017).

        Returns
        -------
        array, or of return_std (means, standard deviations)

        Raises
        ------
        ValueError
            Also for what the model does not know: another quantile, or a standard deviation.
        """
        outputs = self._outputs(X)
        loss = getattr(self, "estimators_", [self])[0]._criterion
        each = [self._predicted(y, loss, quantile) for y in outputs]
        mean = each[0] if len(each) == 1 else np.mean(each, axis=0)
        if not return_std:
            return self._shaped(mean)
        gaussian = isinstance(loss, losses.GaussianNLL)
        if len(each) == 1 and not gaussian:
            raise ValueError(
                f"return_std must be False but for loss='gaussian' and for ensembles, got a model of {loss!r}"
            )
        if len(each) == 1:
            return self._shaped(mean), self._shaped(np.exp(outputs[0][:, self.n_outputs_ // 2 :] / 2))
        variance = np.var(each, axis=0)
        if gaussian:
            variance += np.mean([np.exp(y[:, self.n_outputs_ // 2 :]) for y in outputs], axis=0)
        return self._shaped(mean), self._shaped(np.sqrt(variance))

    @staticmethod
    def _predicted(outputs: Array, loss: Any, quantile: Any) -> Array:
        """Return the predictions (n_samples, n_targets) of the network's outputs."""
        if isinstance(loss, losses.Quantile):
            return outputs[:, _place(loss.quantiles, quantile) :: len(loss.quantiles)]
        if quantile is not None:
            raise ValueError(f"quantile must be None but for loss='quantile', got a model of {loss!r}")
        if isinstance(loss, losses.Poisson):
            with np.errstate(over="ignore"):
                means: Array = np.exp(outputs)
            return means
        return outputs[:, : outputs.shape[1] // _width(loss)]

    @staticmethod
    def _shaped(predicted: Array) -> Array:
        return np.ascontiguousarray(predicted[:, 0] if predicted.shape[1] == 1 else predicted)

    def _takes_negative(self) -> bool:
        return not (self.loss == "poisson" or isinstance(self.loss, losses.Poisson))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.target_tags.positive_only = not self._takes_negative()
        return tags

    def _more_tags(self) -> dict[str, Any]:
        """Return the tags for scikit-learn before 1.6."""
        return {"multioutput": True, "requires_positive_y": not self._takes_negative()}


def _width(loss: Any) -> int:
    """Return the number of outputs that a target has."""
    if isinstance(loss, losses.Quantile):
        return len(loss.quantiles)
    return 2 if isinstance(loss, losses.GaussianNLL) else 1


def _place(quantiles: tuple[float, ...], quantile: Any) -> int:
    """Return the place of a quantile among those that there are; None: of that nearest to 0.5."""
    if quantile is None:
        return min(range(len(quantiles)), key=lambda i: abs(quantiles[i] - 0.5))
    wanted = _checks.real_number("quantile", quantile)
    for i, q in enumerate(quantiles):
        if math.isclose(q, wanted, rel_tol=1e-9):
            return i
    raise ValueError(f"quantile must be one of {', '.join(map(str, quantiles))}, got {quantile}")
