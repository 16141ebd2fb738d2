"""Fitted models from and to scikit-learn's own MLPs, with the state of their solvers.

scikit-learn's gradient is `share` times that of fastnn's loss, see `solvers`: first moments are divided by
it, second moments by its square. Velocities hold the rate in both, and are the same.
"""

from __future__ import annotations

import inspect
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn import neural_network
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from .. import _checks, layers, losses
from ..network import Sequential
from .classifier import MLPClassifier
from .regressor import MLPRegressor
from .solvers import Solver

if TYPE_CHECKING:
    from .._checks import Array

__all__ = ["from_sklearn", "to_sklearn"]

PAIRS: dict[type, type] = {
    neural_network.MLPClassifier: MLPClassifier,
    neural_network.MLPRegressor: MLPRegressor,
}
SOLVERS: dict[str, dict[str, Any]] = {
    "adam": {},
    "sgd": {},
    "momentum": {"solver": "sgd", "nesterovs_momentum": False},
    "nesterov": {"solver": "sgd", "nesterovs_momentum": True},
}
ACTIVATIONS = {name: name for name in ("identity", "logistic", "tanh", "relu")} | {"sigmoid": "logistic"}
LOSSES = {losses.MeanSquaredError: "squared_error", losses.Poisson: "poisson"}
COPIED = (
    *("n_features_in_", "n_outputs_", "out_activation_", "n_layers_", "n_iter_", "t_"),
    *("classes_", "feature_names_in_", "loss_"),  # where they are
)
OF_SOLVERS: dict[str, Any] = {  # and what they are where another solver has trained
    "loss_curve_": [],
    "best_loss_": None,
    "validation_scores_": None,
    "best_validation_score_": None,
    "_no_improvement_count": 0,
}


def from_sklearn(fitted: Any) -> Any:
    """Return the model of fastnn that a fitted MLP of scikit-learn is.

    It predicts the same, and `partial_fit` goes on with the moments of scikit-learn's solver (and, with
    warm_start, `fit` from its parameters). Adam's epsilon, which scikit-learn adds before the bias correction
    and fastnn after it, fits in the middle of each epoch only, so that the two go apart by what epsilon
    matters; alpha shrinks intercepts, too, as in any model of fastnn.

    Parameters
    ----------
    fitted : sklearn.neural_network.MLPClassifier or MLPRegressor
        Of solver "sgd" or "adam".

    Returns
    -------
    MLPClassifier or MLPRegressor
        With arrays of its own.

    Raises
    ------
    TypeError, ValueError
        If it is another or not fitted, or has parameters that fastnn has not.
    """
    if type(fitted) not in PAIRS:
        raise TypeError(
            f"fitted must be an MLPClassifier or MLPRegressor of sklearn.neural_network, got "
            f"{_checks.shown(fitted)}"
        )
    check_is_fitted(fitted)
    if fitted.solver not in ("sgd", "adam"):
        raise ValueError(
            f"fitted must have the solver 'sgd' or 'adam', got {fitted.solver!r}: its set_params sets "
            "another for the training to come"
        )
    make = PAIRS[type(fitted)]
    known = inspect.signature(make).parameters
    _refuse_others(fitted, known, "fastnn")
    params = fitted.get_params(deep=False)
    model = make(**{name: value for name, value in params.items() if name in known})
    model._check_parameters()
    _copy_attributes(fitted, model)
    if isinstance(model, MLPClassifier):
        model._multilabel = fitted._label_binarizer.y_type_.startswith("multilabel")
    model._made_as = model._architecture()
    arrays = _arrays(fitted, [model.n_features_in_, *model._made_as[0], model.n_outputs_])
    made: list[Any] = []
    for W, b in zip(*arrays, strict=True):
        if made:
            made += model._between(len(W), W.dtype)
        made.append(layers.Affine(W, b))
    model._net = Sequential(made)
    model._criterion = model._loss()
    model._show_parameters()
    own = getattr(fitted, "_optimizer", None)
    share, _ = model._shares()
    model._solver = Solver(model if own is None else _settings(fitted, own), share)
    model._trainer = model._made_trainer(check_random_state(model.random_state))
    if own is not None:
        _take_state(model, own, share)
    return model


def _refuse_others(model: Any, known: Any, whose: str) -> None:
    """Refuse parameters, other than at their default, that are not known: ValueError."""
    for name, parameter in inspect.signature(type(model)).parameters.items():
        value = getattr(model, name)
        if name not in known and name != "dtype" and value is not parameter.default:
            if isinstance(value, (int, float, str)) and value == parameter.default:
                continue
            raise ValueError(
                f"{name} must be {parameter.default!r}, since {whose} does not have it, got "
                f"{_checks.shown(value)}"
            )


def _copy_attributes(of: Any, to: Any) -> None:
    there = {name: getattr(of, name) for name in COPIED if hasattr(of, name)}
    curves = {name: getattr(of, name, default) for name, default in OF_SOLVERS.items()}
    for name, value in (there | curves).items():
        setattr(to, name, value.copy() if isinstance(value, (list, np.ndarray)) else value)


def _arrays(fitted: Any, sizes: list[int]) -> tuple[list[Array], list[Array]]:
    """Return copies of weights and intercepts; ValueError unless they are of these sizes and of one dtype."""
    wanted = [(*pair,) for pair in pairwise(sizes)], [(n,) for n in sizes[1:]]
    found: list[list[Array]] = []
    for name, shapes in zip(("coefs_", "intercepts_"), wanted, strict=True):
        given = [_checks.as_array(name, array) for array in getattr(fitted, name)]
        if [a.shape for a in given] != shapes:
            raise ValueError(
                f"{name} must have the shapes {shapes} of hidden_layer_sizes, inputs and outputs, got "
                f"{[a.shape for a in given]}"
            )
        found.append([np.array(a, order="C") for a in given])
    dtypes = {a.dtype for arrays in found for a in arrays}
    if len(dtypes) > 1 or not dtypes <= set(_checks.FLOATS):
        raise TypeError(f"coefs_ and intercepts_ must all be float32 or all float64, got {dtypes}")
    return found[0], found[1]


def _settings(fitted: Any, own: Any) -> Any:
    """Return what a Solver is made of: the settings of scikit-learn's, whatever the model's are by now."""
    if not isinstance(own, AdamOptimizer if fitted.solver == "adam" else SGDOptimizer):
        raise ValueError(
            f"solver must be that which fitted was trained with, got {fitted.solver!r} and the state of "
            f"{type(own).__name__}"
        )
    settings = dict(vars(fitted)) | {"learning_rate_init": own.learning_rate_init}
    if fitted.solver == "adam":
        settings |= {"beta_1": own.beta_1, "beta_2": own.beta_2, "epsilon": own.epsilon}
    else:
        settings |= {"momentum": own.momentum, "nesterovs_momentum": own.nesterov}
    return SimpleNamespace(**settings)


def _names(model: Any) -> list[str]:
    """Return the names of the parameters in scikit-learn's order."""
    places = [i for i, layer in enumerate(model._net.layers) if isinstance(layer, layers.Affine)]
    return [f"{i}.W" for i in places] + [f"{i}.b" for i in places]


def _take_state(model: Any, own: Any, share: float) -> None:
    """Give a model's solver the state of scikit-learn's."""
    optimizer, names = model._solver.optimizer, _names(model)
    if isinstance(own, AdamOptimizer):
        step, memory = own.t, {"m": [m / share for m in own.ms], "v": [v / share**2 for v in own.vs]}
    else:
        model._solver.set_rate(float(own.learning_rate))
        step, memory = 0, {"v": own.velocities}
    params = model._net.params
    state = {
        slot: {
            name: np.array(array, dtype=params[name].dtype)
            for name, array in zip(names, memory[slot], strict=True)
        }
        for slot in optimizer.slots
    }
    optimizer.load_state_dict({"optimizer": type(optimizer).__name__, "step": int(step), "state": state})


def to_sklearn(model: Any) -> Any:
    """Return the model of scikit-learn that a fitted model of fastnn is; see `MLPClassifier.to_sklearn`."""
    makes = {ours: theirs for theirs, ours in PAIRS.items()}
    if type(model) not in makes:
        raise TypeError(f"model must be an MLPClassifier or MLPRegressor, got {_checks.shown(model)}")
    check_is_fitted(model)
    make = makes[type(model)]
    if hasattr(model, "estimators_"):
        raise ValueError(
            f"n_ensemble must be 1, since scikit-learn does not have it, got {len(model.estimators_)}; each "
            "of estimators_ has a to_sklearn"
        )
    model._check_parameters()
    model._check_architecture()
    model._take_parameters()
    known = inspect.signature(make).parameters
    params = model.get_params(deep=False)
    for name, there in (("solver", SOLVERS), ("activation", ACTIVATIONS)):
        if params[name] not in there:
            raise ValueError(
                f"{name} must be one of {', '.join(there)}, which scikit-learn has, got {params[name]!r}"
            )
    params["activation"] = ACTIVATIONS[params["activation"]]
    params |= SOLVERS[params["solver"]]
    if "loss" in params:
        kind = LOSSES.get(type(model._loss()))
        if kind is None or (kind != "squared_error" and "loss" not in known):
            raise ValueError(f"loss must be one that scikit-learn has, got {params['loss']!r}")
        params["loss"] = kind
    _refuse_others(model, {*known, "loss", "bootstrap"}, "scikit-learn")  # one network has no bootstrap
    fitted = make(**{name: value for name, value in params.items() if name in known})
    _copy_attributes(model, fitted)
    fitted.coefs_ = [np.array(W) for W in model.coefs_]
    fitted.intercepts_ = [np.array(b) for b in model.intercepts_]
    fitted._best_coefs = [W.copy() for W in fitted.coefs_]
    fitted._best_intercepts = [b.copy() for b in fitted.intercepts_]
    fitted._random_state = check_random_state(fitted.random_state)
    if isinstance(model, MLPClassifier):
        of_labels = np.eye(model.n_outputs_, dtype=int) if model._multilabel else model.classes_
        fitted._label_binarizer = LabelBinarizer().fit(of_labels)
    fitted._optimizer = _optimizer(model, fitted)
    return fitted


def _optimizer(model: Any, fitted: Any) -> Any:
    """Return scikit-learn's optimizer with the state of a model's solver."""
    solver, own = model._solver, model._solver.optimizer
    arrays = [*fitted.coefs_, *fitted.intercepts_]
    memory = {
        slot: [
            np.zeros_like(p) if own.state[slot].get(name) is None else own.state[slot][name].copy()
            for name, p in zip(_names(model), arrays, strict=True)
        ]
        for slot in own.slots
    }
    if fitted.solver == "adam":
        adam = AdamOptimizer(arrays, solver.rate, own.beta1, own.beta2, solver.epsilon * solver.share)
        adam.t = own.step
        adam.ms = [m * solver.share for m in memory["m"]]
        adam.vs = [v * solver.share**2 for v in memory["v"]]
        return adam
    options = fitted.learning_rate, fitted.momentum, fitted.nesterovs_momentum, fitted.power_t
    sgd = SGDOptimizer(arrays, fitted.learning_rate_init, *options)
    sgd.learning_rate = solver.rate
    sgd.velocities = memory.get("v", sgd.velocities)
    return sgd
