"""solver="lbfgs" of the estimators against scikit-learn's."""

import warnings

import numpy as np
import pytest
import sklearn.neural_network as sk
from sklearn.datasets import load_digits, load_iris, make_regression
from sklearn.exceptions import ConvergenceWarning

from fastnn import estimators as fn
from fastnn.estimators import MLPClassifier, MLPRegressor, lbfgs

DIGITS, DIGIT = load_digits(return_X_y=True)
DIGITS, DIGIT = DIGITS[:400] / 16, DIGIT[:400]
IRIS = load_iris(return_X_y=True)
REGRESSION = make_regression(200, 10, random_state=0, n_targets=1)
COUNTS = np.random.default_rng(0).poisson(3, 200)
WEIGHTS = np.random.default_rng(1).uniform(0, 2, 400)
CASES = {
    "classes": ("MLPClassifier", DIGITS, DIGIT, {}),
    "two classes": ("MLPClassifier", DIGITS, DIGIT > 4, {}),
    "labels": ("MLPClassifier", DIGITS / 5, np.eye(10, dtype=int)[DIGIT], {}),
    "one target": ("MLPRegressor", REGRESSION[0], REGRESSION[1] / 100, {}),
    "counts": ("MLPRegressor", REGRESSION[0], COUNTS, {"loss": "poisson"}),
    "no hidden layer": ("MLPClassifier", DIGITS, DIGIT, {"hidden_layer_sizes": ()}),
}

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
@pytest.mark.parametrize("case", CASES)
def test_it_is_scikit_learns(case, activation, weighted):
    name, x, y, params = CASES[case]
    params = {"hidden_layer_sizes": (20,), "alpha": 0.5, "max_iter": 15, "random_state": 0} | params
    weight = WEIGHTS[: len(x)] if weighted else None
    theirs, ours = (
        getattr(module, name)(activation=activation, solver="lbfgs", **params).fit(x, y, weight)
        for module in (sk, fn)
    )
    assert ours.n_iter_ == theirs.n_iter_ == len(ours.loss_curve_)
    np.testing.assert_allclose(ours.loss_, theirs.loss_, rtol=1e-6)
    for mine, other in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", ["classes", "labels", "several targets"])
def test_the_gradient_is_that_of_the_value(case, weighted, monkeypatch):
    monkeypatch.setattr(lbfgs, "PART_ROWS", 7)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 4))
    t = {
        "classes": np.arange(20) % 3,
        "labels": rng.integers(0, 2, (20, 3)),
        "several targets": x[:, :3] ** 2,
    }
    estimator = MLPRegressor if case == "several targets" else MLPClassifier
    model = estimator(
        hidden_layer_sizes=(5,), activation="tanh", solver="lbfgs", max_iter=1, random_state=0
    ).fit(x, t[case])
    weight = rng.uniform(size=20) * (np.arange(20) > 8) if weighted else None
    targets = t[case] if case == "classes" else t[case].astype(float)
    parts = (["0.W", "2.W"], ["0.b", "2.b"], model._loss(), (x, targets, weight), model._shares(), 0.7)
    objective = lbfgs.Objective(model._net, *parts)
    vector = objective.vector
    gradient = objective(vector)[1]
    for i in rng.choice(len(vector), 10, replace=False):
        step = 1e-5 * (np.arange(len(vector)) == i)
        slope = (objective(vector + step)[0] - objective(vector - step)[0]) / 2e-5
        assert slope == pytest.approx(gradient[i], rel=1e-6, abs=1e-8)


def test_rows_in_parts_are_all_rows(monkeypatch):
    fits = []
    for rows in (400, 64):
        monkeypatch.setattr(lbfgs, "PART_ROWS", rows)
        fits.append(MLPClassifier((20,), solver="lbfgs", max_iter=20, random_state=0).fit(DIGITS, DIGIT))
    assert fits[0].loss_ == pytest.approx(fits[1].loss_, rel=1e-6)


def test_single_precision_and_other_dtypes_of_X():
    losses = [
        MLPClassifier((20,), solver="lbfgs", max_iter=20, random_state=0, dtype=dtype).fit(x, DIGIT).loss_
        for dtype, x in (("float64", DIGITS), ("float32", DIGITS.astype(np.float32)), ("auto", DIGITS))
    ]
    assert losses[0] == losses[2] == pytest.approx(losses[1], rel=1e-2)
    pixels = (16 * DIGITS).astype(np.uint8)
    made = [
        MLPClassifier((9,), solver="lbfgs", max_iter=3, random_state=0).fit(x, DIGIT)
        for x in (pixels, 1.0 * pixels)
    ]
    assert made[0].loss_ == made[1].loss_


def test_it_warns_where_it_has_not_converged():
    for params in ({"max_iter": 3}, {"max_fun": 4}):
        with pytest.warns(ConvergenceWarning, match=r"lbfgs failed to converge \(status=1\)"):
            model = MLPClassifier(solver="lbfgs", random_state=0, **params).fit(*IRIS)
        assert model.n_iter_ <= 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MLPClassifier((1,), "identity", solver="lbfgs", max_iter=1000, random_state=0).fit(*IRIS)


def test_warm_start_and_other_solvers_go_on():
    model = MLPClassifier((8,), solver="lbfgs", max_iter=5, random_state=0, warm_start=True, tol=1e-9).fit(
        *IRIS
    )
    first = model.loss_
    assert model.fit(*IRIS).loss_ < first
    assert model.n_iter_ == 5
    assert len(model.loss_curve_) == 10
    model.set_params(solver="adam").fit(*IRIS)
    model.partial_fit(*IRIS)
    model.set_params(solver="lbfgs").fit(*IRIS)
    model.set_params(solver="sgd").partial_fit(*IRIS)
    assert type(model._trainer.optimizer).__name__ == "Nesterov"


def test_it_has_no_partial_fit():
    model = MLPClassifier(solver="lbfgs")
    assert not hasattr(model, "partial_fit")
    assert not hasattr(MLPRegressor(solver="lbfgs"), "partial_fit")
    assert hasattr(model.set_params(solver="adam"), "partial_fit")


@pytest.mark.parametrize(
    ("params", "options", "words"),
    [
        ({"dropout": 0.1}, {}, "dropout must be 0.*for solver='lbfgs'"),
        ({"batch_norm": True}, {}, "batch_norm False for solver='lbfgs'"),
        ({}, {"validation": IRIS}, "validation and callbacks are not for solver='lbfgs'"),
        ({}, {"callbacks": [print]}, "validation and callbacks are not for solver='lbfgs'"),
        ({"max_fun": 0}, {}, "'max_fun' parameter of MLPClassifier"),
    ],
)
def test_what_is_not_for_it_is_refused(params, options, words):
    with pytest.raises(ValueError, match=words):
        MLPClassifier(solver="lbfgs", **params).fit(*IRIS, **options)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_goes_wrong_changes_nothing(monkeypatch):
    model = MLPClassifier((8,), solver="lbfgs", max_iter=5, random_state=0, warm_start=True).fit(*IRIS)
    before, curve = [a.copy() for a in (*model.coefs_, *model.intercepts_)], list(model.loss_curve_)
    calls = []

    def interrupted(self, vector, call=lbfgs.Objective.__call__):
        calls.append(vector)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return call(self, vector)

    monkeypatch.setattr(lbfgs.Objective, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.fit(*IRIS)
    monkeypatch.undo()
    assert model.loss_curve_ == curve
    for array, old in zip((*model.coefs_, *model.intercepts_), before, strict=True):
        np.testing.assert_array_equal(array, old)


def test_verbose(capsys):
    MLPClassifier((8,), solver="lbfgs", max_iter=3, random_state=0, verbose=True).fit(*IRIS)
    assert "Iteration 3, loss = " in capsys.readouterr().out
