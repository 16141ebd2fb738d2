"""What classifier and regressor share: parameters, the network, training and its outputs."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from .. import _checks, layers
from ..network import Sequential
from ..reference.network import ACTIVATIONS
from .compat import validate_data
from .course import Course, Judge, ShuffledTrainer
from .solvers import SOLVERS, Solver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .._checks import Array

__all__ = ["MLP", "PARAMETERS"]

HIDDEN = {"identity": None, "logistic": "Sigmoid", **ACTIVATIONS}
READ = (np.float64, np.float32, np.uint8, np.int64)  # dtypes of X that training reads as they are
FEW_ROWS = 200  # that are trained on in the dtype of X
AUTO_BATCH = 200
CALLS_OF_LBFGS = 15000

PARAMETERS = """\
    hidden_layer_sizes : int or sequence of int >= 1
    activation : str
        Of the hidden layers: scikit-learn's "identity", "logistic", "tanh" or "relu", or "leaky_relu",
        "sigmoid" (which is "logistic"), "gelu" or "silu".
    solver : str
        scikit-learn's "sgd" (with its momentum) or "adam", or "momentum", "nesterov", "adagrad", "rmsprop" or
        "adamw".
    alpha : float >= 0
        The penalty alpha / 2 * |W|^2, over the number of rows of a batch, or the sum of their weights. It
        differs from scikit-learn's in that it shrinks the intercepts (and BatchNorm's gamma and beta), too,
        and in that the last batch of an epoch, if it is smaller, has that of the others. For "adamw" it is
        the decoupled decay: each step takes learning rate * alpha of a weight from it.
    batch_size : int >= 1 or "auto"
        "auto": 200, or all rows if they are fewer.
    learning_rate : "constant", "invscaling" or "adaptive"
        As in scikit-learn, for the solvers "sgd", "momentum" and "nesterov".
    learning_rate_init : float > 0
    power_t : float >= 0
        The exponent of "invscaling".
    max_iter : int >= 1
        Epochs at most.
    shuffle : bool
    random_state : None, int or numpy.random.RandomState
    tol : float >= 0
        An epoch that betters the best loss (or, with early_stopping, score) by less counts as no better.
    verbose : bool
    warm_start : bool
        Whether `fit` goes on from the parameters that are there.
    momentum : float in [0, 1]
        Of "sgd", "momentum" and "nesterov".
    nesterovs_momentum : bool
        Whether that of "sgd" is Nesterov's.
    early_stopping : bool
        Whether the score on validation data ends the training, and the best epoch's parameters come back.
    validation_fraction : float in (0, 1)
        The share of the rows that early_stopping sets aside, unless `fit` is given validation data.
    beta_1, beta_2 : float in [0, 1)
        Of "adam" and "adamw"; beta_2 is the decay of "rmsprop", too.
    epsilon : float > 0
        Of "adam", "adamw", "adagrad" and "rmsprop".
    n_iter_no_change : int >= 1 or inf
        More epochs in a row without improvement end the training.
    max_fun : int
        There for the sake of scikit-learn's signature: belongs to "lbfgs".
    dropout : float in [0, 1)
        The share of each hidden layer's outputs that a step drops.
    batch_norm : bool
        Whether a BatchNorm stands before each activation.
    dtype : "auto", "float32" or "float64"
        Of the parameters, in which training computes. "auto": float32, but for a `fit` on 200 rows or fewer
        the dtype of X, as in scikit-learn: there it costs little, and what ought to be equal is so to the
        last digits. Predictions have the dtype of X in any case.
"""

BATCH_CLIPPED = "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped"
UNFINISHED = (
    "Stochastic Optimizer: Maximum iterations (%d) reached and the optimization hasn't converged yet."
)
DIVERGED = (
    "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
    "preprocessed."
)
NO_LBFGS = (
    "solver='lbfgs' is not there: fastnn trains in mini-batches, and L-BFGS needs the exact gradient of all "
    "rows at once. solver='adam' gets as far; sklearn.neural_network has 'lbfgs'"
)


class MLP(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Base of the estimators, with all that does not depend on what the outputs mean."""

    hidden_layer_sizes: Any
    activation: str
    solver: str
    alpha: float
    batch_size: Any
    learning_rate: str
    learning_rate_init: float
    power_t: float
    max_iter: int
    shuffle: bool
    random_state: Any
    tol: float
    verbose: Any
    warm_start: bool
    momentum: float
    nesterovs_momentum: bool
    early_stopping: bool
    validation_fraction: float
    beta_1: float
    beta_2: float
    epsilon: float
    n_iter_no_change: Any
    max_fun: int
    dropout: float
    batch_norm: bool
    dtype: Any

    _loss: Callable[[], Any]

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(HIDDEN))],
        "solver": [StrOptions(set(SOLVERS))],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "batch_norm": ["boolean"],
        "dtype": [StrOptions({"auto", "float32", "float64"}), type, np.dtype],
    }

    def _take(self, arguments: dict[str, Any]) -> None:
        """Keep the arguments of the constructor, as they are."""
        del arguments["self"]
        self.__dict__.update(arguments)

    # What the outputs mean

    def _checked(self, X: Any, y: Any, first: bool, incremental: bool) -> tuple[Array, Array]:
        """Return X, and y as the loss takes it, after scikit-learn's checks."""
        raise NotImplementedError

    def _shares(self) -> tuple[float, float]:
        """Return scikit-learn's gradient and loss in units of fastnn's."""
        raise NotImplementedError

    def _score_of(self, outputs: Array, judge: Judge) -> float:
        """Return the score of the network's outputs for validation data."""
        raise NotImplementedError

    def _weights_of(self, y: Any, sample_weight: Array | None, incremental: bool) -> Array | None:
        """Return the weights of the rows."""
        return sample_weight

    def _strata(self, t: Array) -> Array | None:
        """Return what the rows that early_stopping sets aside are to be balanced by."""
        return None

    # Training

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        validation: tuple[Any, ...] | None = None,
        callbacks: Iterable[Callable[[Any, Any], Any]] = (),
    ) -> Any:
        """Train on a data set.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            Of real numbers. float64, float32, uint8 and int64, row after row, are read where they are, a
            batch at a time.
        y : array, shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array, shape (n_samples,), or None
            Numbers >= 0.
        validation : (X, y) or (X, y, sample_weight) or None
            Scored after each epoch, in `validation_scores_`; with early_stopping, in the place of rows set
            aside.
        callbacks : iterable of functions (trainer, history)
            See `fastnn.callbacks`. What they monitor, "loss", "val_loss" and "val_accuracy", are the figures
            of fastnn's loss, without the penalty.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit, worded as scikit-learn does, or if the training diverges.
        """
        return self._fit(X, y, sample_weight, validation, callbacks, incremental=False)

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        validation: tuple[Any, ...] | None,
        callbacks: Iterable[Any],
        incremental: bool,
    ) -> Any:
        self._check_parameters()
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        if not hasattr(callbacks, "__iter__"):
            raise TypeError(f"callbacks must be an iterable of functions, got {_checks.shown(callbacks)}")
        first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        X, t = self._checked(X, y, first, incremental)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X)
            if (sample_weight < 0).any():
                raise ValueError("Negative values in data passed to `sample_weight`")
        weight = self._weights_of(y, sample_weight, incremental)
        random = check_random_state(self.random_state)
        if first:
            self._initialize(X, t, random, incremental)
        else:
            self._resume()
        judge = self._judge(validation)
        if self.early_stopping and judge is None:
            X, t, weight, judge = self._set_aside(X, t, weight, random)
        self._train(X, t, weight, random, judge, tuple(callbacks), incremental)
        if not all(np.isfinite(p).all() for p in (*self.coefs_, *self.intercepts_)):
            raise ValueError(DIVERGED)
        return self

    def _check_parameters(self) -> None:
        """Raise ValueError, as scikit-learn words it, unless all parameters are right."""
        if self.solver == "lbfgs":
            raise ValueError(NO_LBFGS)
        if isinstance(self.max_fun, Integral) and self.max_fun != CALLS_OF_LBFGS:
            raise ValueError(f"max_fun belongs to solver='lbfgs', which is not there; got {self.max_fun}")
        self._validate_params()
        if any(size <= 0 for size in self._hidden_sizes()):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {self._hidden_sizes()}.")
        if not isinstance(self.dtype, str):
            _checks.float_dtype("dtype", self.dtype)

    def _hidden_sizes(self) -> list[int]:
        return [int(size) for size in np.atleast_1d(np.asarray(self.hidden_layer_sizes, dtype=int))]

    def _architecture(self) -> tuple[Any, ...]:
        """Return what a network is made from; parameters of another one cannot be used in it."""
        return (self._hidden_sizes(), self.activation, self.dropout, self.batch_norm, str(self.dtype))

    def _initialize(self, X: Array, t: Array, random: np.random.RandomState, incremental: bool) -> None:
        """Make the network, with the initial values of scikit-learn, and all attributes as they begin."""
        self.n_iter_ = self.t_ = 0
        self.loss_curve_: list[float] = []
        self._no_improvement_count = 0
        self.best_loss_ = None if self.early_stopping else math.inf
        self.validation_scores_: list[float] | None = None
        self.best_validation_score_: float | None = None
        self._made_as = self._architecture()
        sizes = [X.shape[1], *self._hidden_sizes(), self.n_outputs_]
        self.n_layers_ = len(sizes)
        dtype = self._dtype(X, incremental)
        self._net = Sequential(self._layers(sizes, random, dtype))
        self._show_parameters()

    def _dtype(self, X: Array, incremental: bool) -> np.dtype[Any]:
        if self.dtype != "auto":
            return _checks.float_dtype("dtype", self.dtype)
        few = len(X) <= FEW_ROWS and not incremental
        exact = few and X.dtype != np.float32
        return _checks.FLOATS[exact]

    def _layers(self, sizes: list[int], random: np.random.RandomState, dtype: np.dtype[Any]) -> list[Any]:
        """Return the layers: uniform initial values (Glorot, Bengio 2010), also of the intercepts."""
        factor = 2.0 if self.activation in ("logistic", "sigmoid") else 6.0
        made: list[Any] = []
        for n_in, n_out in pairwise(sizes):
            if made:
                made += self._between(n_in, dtype)
            bound = math.sqrt(factor / (n_in + n_out))
            W, b = random.uniform(-bound, bound, (n_in, n_out)), random.uniform(-bound, bound, n_out)
            made.append(layers.Affine(W.astype(dtype), b.astype(dtype)))
        return made

    def _between(self, size: int, dtype: np.dtype[Any]) -> list[Any]:
        """Return what follows a hidden layer of a network."""
        between: list[Any] = [layers.BatchNorm.create(size, dtype=dtype)] if self.batch_norm else []
        activation = HIDDEN[self.activation]
        if activation is not None:
            between.append(getattr(layers, activation)())
        return [*between, layers.Dropout(float(self.dropout))] if self.dropout else between

    @property
    def _affine(self) -> list[Any]:
        return [layer for layer in self._net.layers if isinstance(layer, layers.Affine)]

    def _show_parameters(self) -> None:
        """Let `coefs_` and `intercepts_` be the arrays of the network."""
        self.coefs_ = [layer.W for layer in self._affine]
        self.intercepts_ = [layer.b for layer in self._affine]

    def _take_parameters(self) -> None:
        """Copy what a user has put in the place of the network's arrays into these, and show these again."""
        given = [*self.coefs_, *self.intercepts_]
        affine = self._affine
        own = [*(layer.W for layer in affine), *(layer.b for layer in affine)]
        if any(a is not b for a, b in zip(own, given, strict=True)):
            for to, new in zip(own, map(np.array, given), strict=True):
                to[...] = new
            self._show_parameters()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state; the parameters are in it once, those of the network."""
        state = dict(super().__getstate__())
        if "coefs_" in state:
            self._take_parameters()
            del state["coefs_"], state["intercepts_"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_net" in state:
            for layer in self._net.layers:  # BatchNorm refuses a memory map that is read-only
                if isinstance(layer, layers.BatchNorm) and not layer.running_mean.flags.writeable:
                    layer.running_mean, layer.running_var = map(
                        np.array, (layer.running_mean, layer.running_var)
                    )
            self._show_parameters()

    def _resume(self) -> None:
        """Go on from the parameters that are there; ValueError if they are those of another network."""
        if self._made_as != self._architecture():
            raise ValueError(
                "hidden_layer_sizes, activation, dropout, batch_norm and dtype must be as in the previous "
                f"call, {self._made_as}, to go on from its parameters, got {self._architecture()}"
            )
        self._take_parameters()
        self.n_iter_ = 0

    def _judge(self, validation: tuple[Any, ...] | None) -> Judge | None:
        """Return the validation data that `fit` was given, checked."""
        if validation is None:
            return None
        if not isinstance(validation, (tuple, list)) or len(validation) not in (2, 3):
            raise TypeError(
                f"validation must be (X, y) or (X, y, sample_weight), got {_checks.shown(validation)}"
            )
        X, t = self._checked(validation[0], validation[1], first=False, incremental=True)
        weight = None if len(validation) == 2 else _check_sample_weight(validation[2], X)
        return Judge(X, t, weight)

    def _set_aside(
        self, X: Array, t: Array, weight: Array | None, random: np.random.RandomState
    ) -> tuple[Array, Array, Array | None, Judge]:
        """Return the rows to train on, and those to stop by."""
        train, held = train_test_split(
            np.arange(len(X)),
            random_state=random,
            test_size=self.validation_fraction,
            stratify=self._strata(t),
        )
        if len(held) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        weights = (None, None) if weight is None else (weight[train], weight[held])
        return X[train], t[train], weights[0], Judge(X[held], t[held], weights[1])

    def _train(
        self,
        X: Array,
        t: Array,
        weight: Array | None,
        random: np.random.RandomState,
        judge: Judge | None,
        callbacks: tuple[Any, ...],
        incremental: bool,
    ) -> None:
        """Do the epochs."""
        batch_size = self._batch_size(len(X))
        of_gradient, of_loss = self._shares()
        mean_weight = 1.0 if weight is None else float(weight.mean())
        if not mean_weight > 0:
            raise ValueError("Sample weights must contain at least one non-zero number.")
        if not (incremental and hasattr(self, "_trainer")):
            self._solver = Solver(self, of_gradient)
            self._trainer = self._made_trainer(random)
        self._solver.set_penalty(self.alpha, batch_size * mean_weight)
        if judge is not None and self.validation_scores_ is None:
            self.validation_scores_, self.best_validation_score_ = [], -math.inf
        penalty = 0.0 if self.solver == "adamw" else self.alpha / (2 * mean_weight)
        course = Course(self, self._solver, of_loss, len(X), batch_size, penalty, judge)
        self._trainer.begin(len(X), random)
        try:
            history = self._trainer.fit(
                X,
                t,
                1 if incremental else self.max_iter,
                batch_size,
                bool(self.shuffle),
                judge[: 2 + (judge.weight is not None)] if judge is not None and callbacks else None,
                (course, *callbacks),
                progress=False,
                sample_weight=weight,
            )
        except FloatingPointError:
            raise ValueError(DIVERGED) from None
        if history.interrupted:
            warnings.warn("Training interrupted by user.", stacklevel=4)
        elif self.n_iter_ == self.max_iter and not (incremental or course.converged):
            warnings.warn(UNFINISHED % self.max_iter, ConvergenceWarning, stacklevel=4)

    def _made_trainer(self, random: np.random.RandomState) -> ShuffledTrainer:
        seed = int(random.randint(2**31)) if self.dropout else 0  # a draw that scikit-learn does not make
        return ShuffledTrainer(self._net, self._loss(), self._solver.optimizer, seed=seed)

    def _batch_size(self, rows: int) -> int:
        if self.batch_size == "auto":
            return min(AUTO_BATCH, rows)
        if self.batch_size > rows:
            warnings.warn(BATCH_CLIPPED, stacklevel=5)
        return int(min(self.batch_size, rows))

    # Outputs

    def _outputs(self, X: Any) -> Array:
        """Return the network's outputs, in the dtype of X if that is one of floats."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=READ)
        self._take_parameters()
        outputs: Array = self._net.predict(X).astype(
            np.float32 if X.dtype == np.float32 else np.float64, copy=False
        )
        return outputs
