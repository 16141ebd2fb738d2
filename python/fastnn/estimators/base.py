"""What classifier and regressor share: parameters, the network, training and its outputs."""

from __future__ import annotations

import copy
import math
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import pairwise
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, InvalidParameterError, Options, StrOptions
from sklearn.utils.validation import check_is_fitted

from .. import _checks, callbacks, layers
from .._sharing import reading
from ..network import Sequential
from ..reference.network import ACTIVATIONS
from ..sparse import CSR
from .compat import validate_data, validate_weights, warn
from .course import Course, Judge, ShuffledTrainer
from .lbfgs import Objective, minimized
from .solvers import DECOUPLED, SOLVERS, Solver
from .sparse import SparseNetwork
from .trainings import Training, alone, go_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .._checks import Array
    from .trainings import Trainings

__all__ = ["MLP", "PARAMETERS", "READ", "is_stochastic", "placed"]

HIDDEN = {"identity": None, "logistic": "Sigmoid", **ACTIVATIONS}
READ = (np.float64, np.float32, np.uint8, np.int64)  # dtypes of X that training reads as they are
LARGE = 1e6  # numbers from which training at the usual rates learns nothing
SAMPLE_ROWS = 1000  # that are looked at for such numbers
AUTO_BATCH = 200
CALLBACKS = tuple(getattr(callbacks, name) for name in callbacks.__all__)

PARAMETERS = """\
    hidden_layer_sizes : int or sequence of int >= 1
        Python's or NumPy's whole numbers; those that end in .0 are none.
    activation : str
        Of the hidden layers: scikit-learn's "identity", "logistic", "tanh" or "relu", or "leaky_relu",
        "sigmoid" (which is "logistic"), "gelu" or "silu".
    solver : str
        scikit-learn's "sgd" (with its momentum), "adam" or "lbfgs", or "momentum", "nesterov", "adagrad",
        "rmsprop", "adamw" or "muon", which is "adamw" but for the weights of all layers before the last.
        "lbfgs" minimizes the loss of all rows by SciPy's L-BFGS-B; dropout, batch_norm, early_stopping,
        validation data and callbacks are not for it.
    alpha : float >= 0
        The penalty alpha / 2 * |W|^2, over the number of rows of a batch, or the sum of their weights. It
        differs from scikit-learn's in that it shrinks the intercepts (and BatchNorm's gamma and beta), too,
        and in that the last batch of an epoch, if it is smaller, has that of the others. For "adamw" and
        "muon" it is the decoupled decay: each step takes learning rate * alpha of a weight from it. That of
        "lbfgs" is scikit-learn's.
    batch_size : int >= 1 or "auto"
        "auto": 200, or all rows if they are fewer.
    learning_rate : "constant", "invscaling" or "adaptive"
        As in scikit-learn, for the solvers "sgd", "momentum" and "nesterov".
    learning_rate_init : float > 0
        Of "muon" that of what goes as by "adamw"; the rate of the other weights is 20 times that.
    power_t : float >= 0
        The exponent of "invscaling".
    max_iter : int >= 1
        Epochs, of "lbfgs" iterations, at most.
    shuffle : bool
    random_state : None, int or numpy.random.RandomState
    tol : float >= 0
        An epoch that betters the best loss (or, with early_stopping, score) by less counts as no better.
        "lbfgs" ends where no element of the gradient is larger.
    verbose : bool
    warm_start : bool
        Whether `fit` goes on from the parameters that are there.
    momentum : float in [0, 1]
        Of "sgd", "momentum", "nesterov" and "muon".
    nesterovs_momentum : bool
        Whether that of "sgd" or "muon" is Nesterov's.
    early_stopping : bool
        Whether the score on validation data ends the training, and the best epoch's parameters come back.
    validation_fraction : float in (0, 1)
        The share of the rows that early_stopping sets aside, unless `fit` is given validation data.
    beta_1, beta_2 : float in [0, 1)
        Of "adam", "adamw" and "muon"; beta_2 is the decay of "rmsprop", too.
    epsilon : float > 0
        Of "adam", "adamw", "muon", "adagrad" and "rmsprop".
    n_iter_no_change : int >= 1 or inf
        More epochs in a row without improvement end the training.
    max_fun : int
        Calls of the function that "lbfgs" minimizes, at most.
    dropout : float in [0, 1)
        The share of each hidden layer's outputs that a step drops.
    batch_norm : bool
        Whether a BatchNorm stands before each activation.
    sparse_update : "dense" or "lazy"
        Of the first weights, on sparse X. "dense": a step updates all of them, as in scikit-learn and as for
        the same rows in an array. "lazy": only those of the columns in which the batch has entries; moments
        and penalty of the others stay as they are.
    dtype : "auto", "float32" or "float64"
        Of the parameters, in which training computes. "auto": as in scikit-learn, float32 where the X of the
        first call is float32, else float64, which takes about twice the time. Predictions are float32 where
        their X is, else float64.
    n_ensemble : int >= 1
        How many networks, which are trained side by side (by "lbfgs" one after another). With more than one
        predictions are the mean of theirs, and they are in `estimators_`.
    bootstrap : bool
        Whether each network of an ensemble has a sample of its own: as many rows, drawn with replacement, of
        those that early_stopping does not set aside (Breiman 1996). False: they differ by their seeds.
"""

BATCH_CLIPPED = "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped"
UNFINISHED = (
    "Stochastic Optimizer: Maximum iterations (%d) reached and the optimization hasn't converged yet."
)
DIVERGED = (
    "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
    "preprocessed. Scale X, and the y of a regression, as StandardScaler does, or lower learning_rate_init; "
    "the model is as it was before the call"
)
UNSCALED = (
    "%s has values as large as %.2g, from which a network learns next to nothing: scale it, as "
    "StandardScaler does"
)
OF_DATA = (  # attributes that `_checked` sets
    *("n_features_in_", "feature_names_in_", "n_outputs_", "out_activation_"),
    *("classes_", "_multilabel"),
)
OF_A_NETWORK = (  # attributes that an ensemble has not: its members have them
    *("coefs_", "intercepts_", "loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_"),
    *("_net", "_criterion", "_trainer", "_solver", "_no_improvement_count"),
)
OF_AN_ENSEMBLE = ("estimators_", "_samples")
NO_WEIGHT = "Sample weights must contain at least one non-zero number."


def is_stochastic(model: Any) -> bool:
    """Return True; AttributeError, in scikit-learn's words, for a solver of all rows at once."""
    if model.solver == "lbfgs":
        raise AttributeError(
            "partial_fit is only available for stochastic optimizers. lbfgs is not stochastic."
        )
    return True


class Data(NamedTuple):
    """What a call of `fit` or `partial_fit` trains on, checked."""

    X: Any
    t: Array
    weights: tuple[Array | None, Array | None]  # of the rows, and of the classes
    rows: Array | None  # the numbers of those that are the data set; None: all
    judge: Judge | None
    callbacks: tuple[Any, ...]
    incremental: bool

    @property
    def numbers(self) -> Array:
        """The numbers of the rows that are the data set."""
        return np.arange(len(self.X)) if self.rows is None else self.rows


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
    sparse_update: str
    dtype: Any
    n_ensemble: int
    bootstrap: bool

    _own: ClassVar[str]  # the parameter that says what the network is trained for

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions(set(HIDDEN))],
        "solver": [StrOptions({*SOLVERS, "lbfgs"})],
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
        "sparse_update": [StrOptions({"dense", "lazy"})],
        "dtype": [StrOptions({"auto", "float32", "float64"}), type, np.dtype],
        "n_ensemble": [Interval(Integral, 1, None, closed="left")],
        "bootstrap": ["boolean"],
    }

    def _take(self, arguments: dict[str, Any]) -> None:
        """Keep the arguments of the constructor, as they are."""
        del arguments["self"]
        self.__dict__.update(arguments)

    # What the outputs mean

    def _checked(self, X: Any, y: Any, first: bool, incremental: bool) -> tuple[Array, Array]:
        """Return X, and y as the loss takes it, after scikit-learn's checks."""
        raise NotImplementedError

    def _loss(self) -> Any:
        """Return a loss for the trainer."""
        raise NotImplementedError

    def _shares(self) -> tuple[float, float]:
        """Return scikit-learn's gradient and loss in units of fastnn's."""
        raise NotImplementedError

    def _score_of(self, outputs: Array, judge: Judge) -> float:
        """Return the score of the network's outputs for validation data."""
        raise NotImplementedError

    def _weights_of(
        self, t: Array, sample_weight: Array | None, incremental: bool
    ) -> tuple[Array | None, Array | None]:
        """Return the weights of the rows and, where it is the loss that knows the classes, of these."""
        return sample_weight, None

    def _targets(self, t: Array) -> Array:
        """Return the targets as the trainer is to see them: t itself, or others with the same classes."""
        return t

    def _strata(self, t: Array) -> Array | None:
        """Return what the rows that early_stopping sets aside are to be balanced by."""
        return None

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

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

        Until it is done the model is what it was before, and if an error leaves it, it stays that.

        Parameters
        ----------
        X : array, shape (n_samples, n_features)
            Of real numbers. float64, float32, uint8 and int64, row after row, are read where they are, a
            batch at a time; so are tensors on the CPU. SciPy's sparse matrices and arrays are read as CSR and
            never made dense. What has no memory to share, but shape, dtype, `__len__` and `__getitem__`, is
            read whole, once, in slices. So are y and weights.
        y : array, shape (n_samples,) or (n_samples, n_outputs)
        sample_weight : array, shape (n_samples,), or None
            Numbers >= 0.
        validation : (X, y) or (X, y, sample_weight) or None
            Scored after each epoch, in `validation_scores_`; with early_stopping, in the place of rows set
            aside.
        callbacks : iterable of functions (trainer, history)
            See `fastnn.callbacks`. What they monitor, "loss", "val_loss" and "val_accuracy", are the figures
            of fastnn's loss, without the penalty. Those of `fastnn.callbacks` are copied, and take over what
            their copies have when the fit is done: one may be given to fits that run side by side.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit, worded as scikit-learn does, or if the training diverges.
        """
        alone(self._fitting(X, y, sample_weight, validation, callbacks))
        return self

    def _fitting(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        validation: tuple[Any, ...] | None = None,
        callbacks: Iterable[Callable[[Any, Any], Any]] = (),
        *,
        incremental: bool = False,
        classes: Any = None,
        rows: Array | None = None,
        seen_by: Any = None,
    ) -> Trainings:
        """Yield the trainings that a call of `fit` or, `incremental`, of `partial_fit` is made of.

        `rows`: numbers of the rows of X, y and sample_weight that are the data set; None: all.
        `seen_by`: another model, which has looked at X and y; they are what its `_checked` has returned.
        """
        with self._draft(incremental) as draft:
            draft._meet(incremental, classes)
            first = draft._begins(incremental)
            if not first:
                draft._check_architecture()
            data = draft._looked_at(X, y, sample_weight, validation, callbacks, incremental, rows, seen_by)
            yield from draft._members(data, first) if self.n_ensemble > 1 else draft._learning(data, first)

    def _meet(self, incremental: bool, classes: Any) -> None:
        """Take the classes that `partial_fit` is given."""

    @contextmanager
    def _draft(self, incremental: bool) -> Iterator[Any]:
        """Give a copy of the model to train, which takes the model's place unless an error leaves."""
        self._check_parameters()
        draft = _twin(self)
        with nullcontext() if self._begins(incremental) else self._restored():
            yield draft
        for name in vars(self).keys() - vars(draft).keys():
            delattr(self, name)
        self.__dict__.update(draft.__dict__)

    def _begins(self, incremental: bool) -> bool:
        """Return whether the training begins with a new network."""
        fitted = hasattr(self, "_net") or hasattr(self, "estimators_")
        return not fitted or not (self.warm_start or incremental)

    @contextmanager
    def _restored(self) -> Iterator[None]:
        """Bring back, if an error leaves, what a training that goes on changes in place."""
        if hasattr(self, "estimators_"):
            with ExitStack() as restored:
                for member in self.estimators_:
                    restored.enter_context(member._restored())
                yield
            return
        net, optimizers, parts = self._net, [], []
        if hasattr(self, "_trainer"):  # "lbfgs" has none
            optimizers = [self._trainer.optimizer]
            parts = [self._trainer, self._trainer.optimizer, self._solver]
        with net._in_use:
            state, memories = net.state_dict(), [optimizer.state_dict() for optimizer in optimizers]
            attributes = [dict(vars(part)) for part in parts]
            curves = [(a, len(a)) for a in (self.loss_curve_, self.validation_scores_) if a is not None]
            try:
                yield
            except BaseException:
                net.load_state_dict(state)
                for part, before in zip(parts, attributes, strict=True):
                    vars(part).update(before)
                for optimizer, memory in zip(optimizers, memories, strict=True):
                    optimizer.load_state_dict(memory)
                for curve, length in curves:
                    del curve[length:]
                raise

    def _looked_at(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        validation: tuple[Any, ...] | None,
        callbacks: Iterable[Any],
        incremental: bool,
        rows: Array | None,
        seen_by: Any,
    ) -> Data:
        """Return what to train on, checked; what goes wrong is for `_draft` to forget."""
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        if not hasattr(callbacks, "__iter__"):
            raise TypeError(f"callbacks must be an iterable of functions, got {_checks.shown(callbacks)}")
        callbacks = tuple(callbacks)
        if self.solver == "lbfgs" and (callbacks or validation is not None):
            raise ValueError("validation and callbacks are not for solver='lbfgs', which knows no epochs")
        if seen_by is None:
            X, t = self._checked(X, y, self._begins(incremental), incremental)
        else:
            X, t = X, y
            self._learn_from(seen_by)
        if self.batch_norm and len(X if rows is None else rows) == 1:
            raise ValueError("batch_norm=True needs 2 samples or more, got 1 sample")
        for name, values in (("X", X), ("y", t)):
            sample = values[:SAMPLE_ROWS] if rows is None else values[rows[:SAMPLE_ROWS]]
            largest = float(np.abs(sample.values if isinstance(sample, CSR) else sample).max(initial=0))
            if largest > LARGE:
                warn(UNSCALED % (name, largest), ConvergenceWarning)
        sample_weight = _weights("sample_weight", sample_weight, X)
        if rows is None:
            weights = self._weights_of(t, sample_weight, incremental)
        else:
            of_rows = None if sample_weight is None else sample_weight[rows]
            of_rows, of_classes = self._weights_of(t[rows], of_rows, incremental)
            weights = placed(of_rows, rows, len(t)), of_classes
        judge = self._judge(validation)
        return Data(X, t, weights, rows, judge, callbacks, incremental)

    def _learn_from(self, other: Any) -> None:
        """Take over what another model knows of the data."""
        self.__dict__.update({name: value for name, value in vars(other).items() if name in OF_DATA})

    def _members(self, data: Data, first: bool) -> Trainings:
        """Train the networks of an ensemble."""
        random = check_random_state(self.random_state)
        if first:
            for name in OF_A_NETWORK:
                self.__dict__.pop(name, None)
            self._made_as = self._architecture()
            self.n_layers_ = len(self._made_as[0]) + 2
            seeds = random.randint(2**31 - 1, size=(self.n_ensemble, 2))
            self.estimators_ = [clone(self) for _ in seeds]
            self._samples = [np.random.RandomState(seed) for _, seed in seeds]
            for member, (seed, _) in zip(self.estimators_, seeds, strict=True):
                member.random_state = int(seed)
                member._learn_from(self)
        else:
            self.estimators_ = [_twin(member) for member in self.estimators_]
            self._samples = copy.deepcopy(self._samples)
        params = self.get_params(deep=False) | {"n_ensemble": 1}
        with ExitStack() as ends:
            works, trainings = [], []
            for member, sample in zip(self.estimators_, self._samples, strict=True):
                member.__dict__.update(params | {"random_state": member.random_state})
                work = member._learning(data, first, sample if self.bootstrap else None)
                ends.callback(work.close)
                begun = next(work, None)
                if begun is not None:  # "lbfgs" is done by now
                    works.append(work)
                    trainings += begun
            if trainings:
                try:
                    histories = yield trainings
                except FloatingPointError as error:
                    raise ValueError(DIVERGED) from error
                for i, (work, history) in enumerate(zip(works, histories, strict=True)):
                    try:
                        go_on(work.send, [history])
                    except ValueError as error:
                        raise _checks.told_of(f"member {i}", error) from error
        for name, of_all in (("n_iter_", max), ("t_", sum), ("loss_", np.mean)):
            setattr(self, name, of_all([getattr(member, name) for member in self.estimators_]))

    def _learning(self, data: Data, first: bool, sample: np.random.RandomState | None = None) -> Trainings:
        """Train one network, on a bootstrap sample of the rows if `sample` is given, which draws it."""
        random = check_random_state(self.random_state)
        if first:
            for name in OF_AN_ENSEMBLE:
                self.__dict__.pop(name, None)
            self._initialize(data.X, random)
        else:
            self._resume()
        if self.solver == "lbfgs":
            self._minimize(data, sample)
        else:
            yield from self._train(data, random, sample)
        if not all(np.isfinite(p).all() for p in (*self.coefs_, *self.intercepts_)):
            raise ValueError(DIVERGED)

    def _minimize(self, data: Data, sample: np.random.RandomState | None) -> None:
        """Train by L-BFGS."""
        X, t, weight, rows = data.X, data.t, _combined(data.t, data.weights), data.rows
        if sample is not None:
            rows = _drawn(data.numbers, sample)
        if rows is not None:
            X, t, weight = X[rows], t[rows], None if weight is None else weight[rows]
            if weight is not None and not weight.any():
                raise ValueError(NO_WEIGHT)
        for name in ("_trainer", "_solver"):
            self.__dict__.pop(name, None)
        places = [i for i, layer in enumerate(self._net.layers) if isinstance(layer, layers.Affine)]
        objective = Objective(
            self._net_for(X),
            [f"{i}.W" for i in places],
            [f"{i}.b" for i in places],
            self._loss(),
            (X, self._targets(t), weight),
            self._shares(),
            float(self.alpha),
        )
        minimized(objective, self)

    def _net_for(self, X: Any) -> Sequential:
        """Return the network on such rows."""
        if not isinstance(X, CSR):
            return self._net
        if self.solver == "muon":
            raise ValueError(
                "X must be an array for solver='muon', which updates matrices as a whole, got CSR"
            )
        return SparseNetwork(self._net)

    def _check_parameters(self) -> None:
        """Raise ValueError, as scikit-learn words it, unless all parameters are right."""
        self._validate_params()
        if self.solver == "lbfgs" and (self.dropout or self.batch_norm):
            raise ValueError(
                "dropout must be 0 and batch_norm False for solver='lbfgs', which takes all rows at once, "
                f"got dropout={self.dropout} and batch_norm={self.batch_norm}"
            )
        sizes = self._hidden_sizes()
        if any(isinstance(size, bool) or not isinstance(size, Integral) for size in sizes):
            raise InvalidParameterError(
                f"The 'hidden_layer_sizes' parameter of {type(self).__name__} must be an int in the range "
                f"[1, inf) or a sequence of them. Got {self.hidden_layer_sizes!r} instead."
            )
        if any(size <= 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        if not isinstance(self.dtype, str):
            _checks.float_dtype("dtype", self.dtype)

    def _hidden_sizes(self) -> list[Any]:
        sizes = self.hidden_layer_sizes
        sizes = sizes.tolist() if isinstance(sizes, np.ndarray) else sizes
        return list(sizes) if hasattr(sizes, "__iter__") else [sizes]

    def _architecture(self) -> tuple[Any, ...]:
        """Return what a network is made from; parameters of another one cannot be used in it.

        Subclasses add what it is trained for, the value of their parameter `_own`.
        """
        sizes = list(map(int, self._hidden_sizes()))
        return (sizes, self.activation, self.dropout, self.batch_norm, str(self.dtype))

    def _initialize(self, X: Array, random: np.random.RandomState) -> None:
        """Make the network, with the initial values of scikit-learn, and all attributes as they begin."""
        self.n_iter_ = self.t_ = 0
        self.loss_curve_: list[float] = []
        self._no_improvement_count = 0
        self.best_loss_: float | None = None
        self.validation_scores_: list[float] | None = None
        self.best_validation_score_: float | None = None
        self._made_as = self._architecture()
        sizes = [X.shape[1], *self._made_as[0], self.n_outputs_]
        self.n_layers_ = len(sizes)
        dtype = _float_of(X) if self.dtype == "auto" else _checks.float_dtype("dtype", self.dtype)
        self._net = Sequential(self._layers(sizes, random, dtype))
        self._criterion = self._loss()
        self._show_parameters()

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
        """Copy what a user has put in the place of the network's arrays into these, and show these again.

        Threads that predict may do it at the same time: they write the same.
        """
        given = [*self.coefs_, *self.intercepts_]
        affine = self._affine
        own = [*(layer.W for layer in affine), *(layer.b for layer in affine)]
        if list(map(id, own)) == list(map(id, given)):
            return
        new = [_checks.real_array("coefs_ and intercepts_", array) for array in given]
        if [a.shape for a in new] != [a.shape for a in own]:
            raise ValueError(
                f"coefs_ and intercepts_ must have the shapes of the network, {[a.shape for a in own]}, got "
                f"{[a.shape for a in new]}"
            )
        for to, array in zip(own, list(map(np.array, new)), strict=True):
            to[...] = array
        self._show_parameters()

    def __getattr__(self, name: str) -> Any:
        """Refuse, in an ensemble's words, what a network has."""
        if name in OF_A_NETWORK and not name.startswith("_") and "estimators_" in vars(self):
            raise AttributeError(
                f"{name} is an attribute of each member of an ensemble: see estimators_[0].{name}"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

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

    def _check_architecture(self) -> None:
        """Raise ValueError if the parameters that are there are those of another network."""
        members = len(getattr(self, "estimators_", [self]))
        if members != self.n_ensemble:
            raise ValueError(
                f"n_ensemble must be as in the previous call, {members}, to go on from its parameters, got "
                f"{self.n_ensemble}"
            )
        if self._made_as != self._architecture():
            raise ValueError(
                f"hidden_layer_sizes, activation, dropout, batch_norm, dtype and {self._own} must be as in "
                f"the previous call, {self._made_as}, to go on from its parameters, got "
                f"{self._architecture()}"
            )

    def _resume(self) -> None:
        """Go on from the parameters that are there."""
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
        return Judge(X, t, _weights("validation[2]", (*validation, None)[2], X))

    def _set_aside(self, data: Data, random: np.random.RandomState) -> tuple[Array, Judge]:
        """Return the rows to train on, and those to stop by."""
        X, t, weights, rows = data.X, data.t, data.weights, data.numbers
        train, held = train_test_split(
            np.arange(len(rows)),
            random_state=random,
            test_size=self.validation_fraction,
            stratify=self._strata(t[rows]),
        )
        if len(held) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        train, held = rows[train], rows[held]
        weight = _combined(t, weights)
        if weight is not None and not weight[held].any():
            raise ValueError(
                "The rows set aside for validation have no weight: increase validation_fraction, or give fit "
                "validation data"
            )
        return train, Judge(X[held], t[held], None if weight is None else weight[held])

    def _train(
        self, data: Data, random: np.random.RandomState, sample: np.random.RandomState | None
    ) -> Trainings:
        """Do the epochs."""
        X, t, weights, rows, judge, callbacks, incremental = data
        if self.early_stopping and judge is None:
            rows, judge = self._set_aside(data, random)
        if sample is not None:
            rows = _drawn(data.numbers if rows is None else rows, sample)
        numbers = data.numbers if rows is None else rows
        if judge is not None and isinstance(judge.x, CSR) and not isinstance(X, CSR):
            judge = judge._replace(x=judge.x.to_dense())
        batch_size = self._batch_size(len(numbers))
        of_gradient, of_loss = self._shares()
        weight = _combined(t, weights)
        mean_weight = 1.0 if weight is None else float(weight[numbers].mean())
        if not mean_weight > 0:
            raise ValueError(NO_WEIGHT)
        weight_mean: str | float = "batch" if getattr(self, "class_weight", None) is None else "data"
        if incremental and weight_mean == "data":  # of a part of the data it is not the data's
            weight_mean = mean_weight = 1.0
        if not (incremental and hasattr(self, "_trainer")):
            self._solver = Solver(self, of_gradient)
            self._trainer = self._made_trainer(random)
        self._solver.set_penalty(self.alpha, batch_size * mean_weight)
        if judge is not None and self.validation_scores_ is None:
            self.validation_scores_, self.best_validation_score_ = [], -math.inf
        if self.early_stopping:
            self.best_loss_ = None
        elif self.best_loss_ is None:
            self.best_loss_ = math.inf
        own = [copy.deepcopy(c) if isinstance(c, CALLBACKS) else c for c in callbacks]
        penalty = 0.0 if self.solver in DECOUPLED else self.alpha / (2 * mean_weight)
        course = Course(self, self._solver, of_loss, len(numbers), batch_size, penalty, judge)
        self._trainer.begin(numbers, random)
        targets = self._targets(t)
        if targets is not t:  # of which no loss reads the classes
            weights = weight, None
        held = None
        if judge is not None and callbacks:
            held = (judge.x, self._targets(judge.t), judge.weight)[: 2 + (judge.weight is not None)]
        self._trainer.net, self._trainer.lazy = self._net_for(X), self.sparse_update == "lazy"
        try:
            (history,) = yield [
                Training(
                    self._trainer,
                    callbacks,
                    {
                        "x": X,
                        "t": targets,
                        "epochs": 1 if incremental else int(self.max_iter),
                        "batch_size": batch_size,
                        "shuffle": bool(self.shuffle),
                        "validation": held,
                        "callbacks": (course, *own),
                        "progress": False,
                        "sample_weight": weights[0],
                        "class_weight": weights[1],
                        "weight_mean": weight_mean,
                        "rows": rows,
                    },
                )
            ]
        except FloatingPointError as error:
            raise ValueError(DIVERGED) from error
        finally:
            self._trainer.net = self._net
        for given, used in zip(callbacks, own, strict=True):
            if used is not given:
                vars(given).update(vars(used))
        if history.interrupted:
            warn("Training interrupted by user.", UserWarning)
        elif self.n_iter_ == self.max_iter and not (incremental or course.converged):
            warn(UNFINISHED % self.max_iter, ConvergenceWarning)

    def _made_trainer(self, random: np.random.RandomState) -> ShuffledTrainer:
        seed = int(random.randint(2**31)) if self.dropout else 0  # a draw that scikit-learn does not make
        return ShuffledTrainer(self._net, self._loss(), self._solver.optimizer, seed=seed)

    def _batch_size(self, rows: int) -> int:
        if self.batch_size == "auto":
            return min(AUTO_BATCH, rows)
        if self.batch_size > rows:
            warn(BATCH_CLIPPED, UserWarning)
        return int(min(self.batch_size, rows))

    def to_sklearn(self) -> Any:
        """Return the fitted model of scikit-learn's own that this one is, with arrays of its own.

        It predicts the same, and goes on with the moments of the solver, see `from_sklearn`; its alpha leaves
        intercepts alone.

        Raises
        ------
        TypeError, ValueError
            If the model is not fitted, or has what scikit-learn's has not: dropout, batch_norm, other
            activations, solvers and losses, class_weight, label_smoothing.
        """
        from .conversion import to_sklearn

        return to_sklearn(self)

    # Outputs

    def _outputs(self, X: Any) -> list[Array]:
        """Return the outputs of the network, or networks, in the dtype of X if that is one of floats."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=READ)
        return [member._outputs_of(X) for member in getattr(self, "estimators_", [self])]

    def _outputs_of(self, X: Any) -> Array:
        """Return the network's outputs for X, checked."""
        self._take_parameters()
        with reading(self._net._in_use):  # a network on sparse rows is made of layers that others may train
            outputs: Array = self._net_for(X).predict(X)
        return outputs.astype(_float_of(X), copy=False)


def _twin(model: Any) -> Any:
    """Return a model with the attributes of another: the same objects."""
    twin = object.__new__(type(model))
    twin.__dict__.update(model.__dict__)
    return twin


def _float_of(X: Array) -> np.dtype[Any]:
    """Return the dtype in which scikit-learn computes with such X."""
    return _checks.FLOATS[X.dtype != np.float32]


def _weights(name: str, given: Any, X: Array) -> Array | None:
    """Return weights of the rows of X, checked as scikit-learn's estimators do."""
    if given is None:
        return None
    weights = validate_weights(given, X)
    if (weights < 0).any():
        raise ValueError(f"Negative values in data passed to `{name}`")
    if not weights.any():
        raise ValueError(NO_WEIGHT)
    return weights


def placed(weights: Array | None, rows: Array, n: int) -> Array | None:
    """Return weights of n rows, given those of some of them."""
    if weights is None:
        return None
    placed = np.zeros(n, weights.dtype)
    placed[rows] = weights
    return placed


def _drawn(rows: Array, random: np.random.RandomState) -> Array:
    """Return a bootstrap sample: as many of these rows, drawn with replacement."""
    return rows[random.randint(len(rows), size=len(rows))]


def _combined(t: Array, weights: tuple[Array | None, Array | None]) -> Array | None:
    """Return the weights of rows with targets t, given those of rows and those of classes."""
    of_rows, of_classes = weights
    if of_classes is None:
        return of_rows
    of_labels = of_classes[t.astype(np.intp, copy=False)]
    return np.asarray(of_labels if of_rows is None else of_labels * of_rows)
