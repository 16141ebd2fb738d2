"""Fitted MLPs from and to scikit-learn's own: predictions, and the training that goes on."""

import pickle
import re

import numpy as np
import pytest

import fastnn

neural_network = pytest.importorskip("sklearn.neural_network", reason="the other side is scikit-learn")
from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402

from fastnn import estimators  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore:Stochastic Optimizer", "ignore:.*Maximum iterations", "ignore:lbfgs failed to converge"
)
ROWS = 120
TASKS = ("classes", "two classes", "labels", "number", "numbers")


def data(task, dtype=np.float64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 5)).astype(dtype)
    return x, {
        "classes": np.array(list("abcd"))[rng.integers(0, 4, ROWS)],
        "two classes": rng.integers(3, 5, ROWS),
        "labels": rng.integers(0, 2, (ROWS, 3)),
        "number": x[:, 0] ** 2,
        "numbers": 2 * x[:, :2],
    }[task]


def classifies(task):
    return task in ("classes", "two classes", "labels")


def theirs(task, **params):
    make = neural_network.MLPClassifier if classifies(task) else neural_network.MLPRegressor
    plain = {"hidden_layer_sizes": (8, 6), "max_iter": 3, "batch_size": 50, "random_state": 1}
    return make(**plain | params)


def ours(task, **params):
    make = estimators.MLPClassifier if classifies(task) else estimators.MLPRegressor
    plain = {"hidden_layer_sizes": (8, 6), "max_iter": 3, "batch_size": 50, "random_state": 1}
    return make(**plain | params)


def predicted(model, x):
    return model.predict_proba(x) if hasattr(model, "predict_proba") else model.predict(x)


def assert_close(a, b, rtol):
    a, b = np.asarray(a), np.asarray(b)
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-12), (np.float32, 1e-6)])
@pytest.mark.parametrize("task", TASKS)
def test_predictions_are_the_same_both_ways(task, dtype, rtol):
    x, y = data(task, dtype)
    for activation in ("relu", "tanh", "logistic", "identity"):
        fitted = theirs(task, activation=activation).fit(x, y)
        model = estimators.from_sklearn(fitted)
        assert_close(predicted(model, x), predicted(fitted, x), rtol)
        assert model.coefs_[0].dtype == dtype
        back = model.to_sklearn()
        np.testing.assert_array_equal(predicted(back, x), predicted(fitted, x))
        assert vars(back).keys() >= vars(fitted).keys()
        assert back.get_params() == fitted.get_params()
        if classifies(task):
            np.testing.assert_array_equal(model.predict(x), fitted.predict(x))
            np.testing.assert_array_equal(back.predict(x), fitted.predict(x))


SOLVERS = [
    {"solver": "adam"},
    {"solver": "sgd"},
    {"solver": "sgd", "nesterovs_momentum": False, "learning_rate": "invscaling"},
    {"solver": "sgd", "momentum": 0},
    {"solver": "sgd", "learning_rate": "adaptive", "tol": 10.0, "n_iter_no_change": 1, "max_iter": 4},
]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("params", SOLVERS, ids=str)
def test_training_goes_on_from_scikit_learns(task, params):
    """With alpha = 0, which shrinks intercepts in fastnn; Adam's epsilon is what is left."""
    x, y = data(task)
    fitted = theirs(task, alpha=0.0, **params).fit(x, y)
    models = [fitted, estimators.from_sklearn(fitted)]
    models.append(models[1].to_sklearn())
    for _ in range(3):
        for model in models:
            model.partial_fit(x, y)
    rtol = 1e-8 if params["solver"] == "adam" else 1e-12
    for model in models[1:]:
        assert_close(predicted(model, x), predicted(fitted, x), rtol)
        assert_close(model.loss_curve_, fitted.loss_curve_, rtol)
        assert (model.t_, model._no_improvement_count) == (fitted.t_, fitted._no_improvement_count)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "params", [{"solver": "adam"}, {"solver": "momentum"}, {"solver": "nesterov"}], ids=str
)
def test_training_goes_on_in_scikit_learn(task, params):
    x, y = data(task)
    model = ours(task, alpha=0.0, **params).fit(x, y)
    fitted = model.to_sklearn()
    assert fitted.solver == ("adam" if params["solver"] == "adam" else "sgd")
    for _ in range(3):
        model.partial_fit(x, y)
        fitted.partial_fit(x, y)
    rtol = 1e-8 if params["solver"] == "adam" else 1e-12
    assert_close(predicted(fitted, x), predicted(model, x), rtol)
    assert_close(fitted.loss_curve_, model.loss_curve_, rtol)


def test_a_warm_start_begins_with_the_parameters_and_a_new_solver():
    x, y = data("classes")
    fitted = theirs("classes", early_stopping=True, alpha=0.0).fit(x, y)
    model = estimators.from_sklearn(fitted)
    assert model.best_validation_score_ == fitted.best_validation_score_
    for either in (fitted, model):
        either.set_params(warm_start=True).fit(x, y)
    assert_close(model.loss_curve_, fitted.loss_curve_, 1e-8)


def test_the_model_has_arrays_of_its_own_and_is_one_like_any():
    x, y = data("classes")
    fitted = theirs("classes").fit(x, y)
    before = pickle.dumps(fitted)
    model = estimators.from_sklearn(fitted)
    model.partial_fit(x, y)
    back = model.to_sklearn()
    back.partial_fit(x, y)
    assert pickle.dumps(fitted) == before
    assert_close(model.coefs_[0], pickle.loads(pickle.dumps(model)).coefs_[0], 0)
    assert not hasattr(clone(model), "coefs_")
    model.coefs_ = [W * 0 for W in model.coefs_]
    assert not model.to_sklearn().coefs_[0].any()


def test_a_solver_that_was_changed():
    """scikit-learn goes on with the rate that it was fitted with, and so does the model."""
    x, y = data("number")
    fitted = theirs("number", alpha=0.0).fit(x, y).set_params(learning_rate_init=0.5)
    model = estimators.from_sklearn(fitted)
    fitted.partial_fit(x, y)
    model.partial_fit(x, y)
    assert_close(model.coefs_[0], fitted.coefs_[0], 1e-8)
    fitted.solver = "sgd"
    with pytest.raises(ValueError, match=r"^solver must be that which fitted was trained with, got 'sgd'"):
        estimators.from_sklearn(fitted)
    of_lbfgs = theirs("number", solver="lbfgs").fit(x, y)
    with pytest.raises(ValueError, match=r"^fitted must have the solver 'sgd' or 'adam', got 'lbfgs'"):
        estimators.from_sklearn(of_lbfgs)
    model = estimators.from_sklearn(of_lbfgs.set_params(solver="adam"))
    assert_close(model.predict(x), of_lbfgs.predict(x), 1e-12)
    assert len(model.partial_fit(x, y).loss_curve_) == 1


def test_losses_and_names_of_features():
    pandas = pytest.importorskip("pandas", reason="scikit-learn takes names from the frames of pandas")
    x, y = data("number")
    frame = pandas.DataFrame(x, columns=list("abcde"))
    fitted = theirs("number").fit(frame, y)
    model = estimators.from_sklearn(fitted)
    assert list(model.feature_names_in_) == list(model.to_sklearn().feature_names_in_) == list("abcde")
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["b", "a", "c", "d", "e"]])
    for loss in ("poisson", fastnn.Poisson(), fastnn.MeanSquaredError()):
        model = ours("number", loss=loss).fit(x, y)
        try:
            fitted = model.to_sklearn()
        except ValueError:
            assert not hasattr(neural_network.MLPRegressor(), "loss")  # before 1.7
            continue
        assert_close(fitted.predict(x), model.predict(x), 1e-12)


def misshapen():
    fitted = theirs("classes").fit(*data("classes"))
    fitted.coefs_[0] = fitted.coefs_[0][:, :4]
    return fitted


def of_two_dtypes():
    fitted = theirs("classes").fit(*data("classes"))
    fitted.coefs_[0] = fitted.coefs_[0].astype(np.float32)
    return fitted


REFUSED = [
    (lambda: neural_network.MLPClassifier, TypeError, "fitted must be an MLPClassifier or MLPRegressor of"),
    (lambda: "model", TypeError, "fitted must be an MLPClassifier or MLPRegressor of"),
    (lambda: ours("classes"), TypeError, "fitted must be an MLPClassifier or MLPRegressor of"),
    (lambda: theirs("classes"), NotFittedError, "This MLPClassifier instance is not fitted"),
    (misshapen, ValueError, "coefs_ must have the shapes [(5, 8), (8, 6), (6, 4)]"),
    (of_two_dtypes, TypeError, "coefs_ and intercepts_ must all be float32 or all float64"),
]


@pytest.mark.parametrize(("make", "error", "text"), REFUSED, ids=[text[:50] for *_, text in REFUSED])
def test_models_that_are_refused(make, error, text):
    with pytest.raises(error, match="^" + re.escape(text)):
        estimators.from_sklearn(make())


KEPT = [
    ({"dropout": 0.1}, "dropout must be 0.0, since scikit-learn does not have it, got 0.1"),
    ({"batch_norm": True}, "batch_norm must be False"),
    ({"class_weight": "balanced"}, "class_weight must be None"),
    ({"label_smoothing": 0.1}, "label_smoothing must be 0.0"),
    ({"solver": "adamw"}, "solver must be one of adam, sgd, momentum, nesterov"),
    ({"activation": "gelu"}, "activation must be one of identity, logistic, tanh, relu, sigmoid"),
]


@pytest.mark.parametrize(("params", "text"), KEPT, ids=str)
def test_what_scikit_learn_does_not_have_stays_here(params, text):
    model = ours("classes", **params).fit(*data("classes"))
    with pytest.raises(ValueError, match="^" + re.escape(text)):
        model.to_sklearn()


def test_other_models_that_stay_here():
    with pytest.raises(NotFittedError):
        ours("classes").to_sklearn()
    x, y = data("number")
    with pytest.raises(ValueError, match=r"^loss must be one that scikit-learn has, got 'huber'"):
        ours("number", loss="huber").fit(x, y).to_sklearn()
    model = ours("number").fit(x, y).set_params(activation="tanh")
    with pytest.raises(ValueError, match="must be as in the previous call"):
        model.to_sklearn()
