"""The regressor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions

from ..losses import MeanSquaredError
from .base import MLP, PARAMETERS, READ, refuse_sparse
from .compat import validate_data

if TYPE_CHECKING:
    from .._checks import Array
    from .course import Judge

__all__ = ["MLPRegressor"]

NO_POISSON = (
    "loss='poisson' is not there: fastnn has no Poisson deviance. The squared error of log(y), by means of a "
    "TransformedTargetRegressor, comes near; sklearn.neural_network has 'poisson'"
)


class MLPRegressor(RegressorMixin, MLP):  # type: ignore[misc]  # scikit-learn has no types
    """A regressor: scikit-learn's `MLPRegressor`, trained by fastnn.

    It minimizes half the squared error of the outputs.

    Parameters
    ----------
    loss : "squared_error"
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
    n_iter_, t_ : int
        Epochs of the last fit, and rows seen by all.
    n_features_in_, feature_names_in_, n_layers_, n_outputs_, out_activation_
        As in scikit-learn.
    """

    __doc__ = (__doc__ or "").replace("    {parameters}\n", PARAMETERS)
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **MLP._parameter_constraints,
        "loss": [StrOptions({"squared_error"})],
    }
    _loss = MeanSquaredError
    loss: str

    def __init__(
        self,
        loss: str = "squared_error",
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
        dtype: Any = "auto",
    ) -> None:
        self._take(locals())

    def _check_parameters(self) -> None:
        if self.loss == "poisson":
            raise ValueError(NO_POISSON)
        super()._check_parameters()

    def _checked(self, X: Any, y: Any, first: bool, incremental: bool) -> tuple[Array, Array]:
        refuse_sparse(X)
        X, y = validate_data(
            self, X, y, multi_output=True, y_numeric=True, dtype=READ, order="C", reset=first
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        outputs = 1 if y.ndim == 1 else y.shape[1]
        if first:
            self.n_outputs_, self.out_activation_ = outputs, "identity"
        elif outputs != self.n_outputs_:
            raise ValueError(f"y has {outputs} outputs, but the previous call had {self.n_outputs_}")
        return X, np.ascontiguousarray(y, np.float32 if y.dtype == np.float32 else np.float64)

    def _shares(self) -> tuple[float, float]:
        return self.n_outputs_ / 2, 0.5

    def _score_of(self, outputs: Array, judge: Judge) -> float:
        """Return R^2."""
        return float(r2_score(judge.t.reshape(outputs.shape), outputs, sample_weight=judge.weight))

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
        with self._draft(incremental=True) as draft:
            draft._fit(X, y, sample_weight, None, (), incremental=True)
        return self

    def predict(self, X: Any) -> Array:
        """Return the outputs, (n_samples,) or, of several, (n_samples, n_outputs)."""
        outputs = self._outputs(X)
        return outputs[:, 0] if self.n_outputs_ == 1 else outputs

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _more_tags(self) -> dict[str, Any]:
        """Return the tags for scikit-learn before 1.6."""
        return {"multioutput": True}
