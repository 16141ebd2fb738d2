"""fastnn.estimators against scikit-learn's own: its checks, its numbers, its errors."""

import copy
import pickle
import re
import signal
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import pytest
import sklearn.neural_network as sk
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_diabetes, load_digits, load_iris, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import has_fit_parameter

import fastnn
from fastnn import estimators as fn
from fastnn.estimators import MLPClassifier, MLPRegressor
from fastnn.reference import Trainer as ReferenceTrainer
from native import run_python

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SINCE_1_7 = pytest.mark.skipif(
    not has_fit_parameter(sk.MLPClassifier(), "sample_weight"),
    reason="about what scikit-learn's own have had since 1.7: weights, loss, that check",
)

DIGITS = load_digits().data / 16, load_digits().target
FEW = DIGITS[0][:500], DIGITS[1][:500]
IRIS = scale(load_iris().data), load_iris().target
DIABETES = scale(load_diabetes().data), load_diabetes().target
LABELS = make_multilabel_classification(300, random_state=0)
LABELS = scale(LABELS[0]), LABELS[1]
SEVERAL = DIABETES[0], np.c_[scale(DIABETES[1]), DIABETES[0][:, 0] ** 2, DIABETES[0][:, 1]]
BINARY = FEW[0], FEW[1] == 3


def both(name, data, sample_weight=None, **params):
    """Return scikit-learn's estimator and ours in its dtype, both trained."""
    params = {"random_state": 0, "max_iter": 10, "alpha": 0} | params
    weights = {} if sample_weight is None else {"sample_weight": sample_weight}
    theirs = getattr(sk, name)(**params).fit(*data, **weights)
    return theirs, getattr(fn, name)(**params, dtype="float64").fit(*data, **weights)


def assert_alike(theirs, ours, x, rtol=1e-9):
    assert ours.n_iter_ == theirs.n_iter_
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=rtol)
    method = "predict_proba" if hasattr(theirs, "predict_proba") else "predict"
    np.testing.assert_allclose(
        getattr(ours, method)(x), getattr(theirs, method)(x), rtol=100 * rtol, atol=10 * rtol
    )
    for name in ("t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(ours, name) == getattr(theirs, name)
    for name in ("best_loss_", "loss_", "best_validation_score_", "validation_scores_"):
        if getattr(theirs, name) is None:
            assert getattr(ours, name) is None
        else:
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=rtol)


ADDED = ({"dropout": 0.1, "batch_norm": True}, {"dtype": "float32"}, {"n_ensemble": 2})
WEIGHT_IS_REPETITION = {
    "check_sample_weight_equivalence_on_dense_data",
    "check_sample_weight_equivalence_on_sparse_data",
    "check_sample_weights_invariance",
}


def scikit_learns_checks(*estimators, without=()):
    """Return a decorator: the checks of these estimators, but for those of the names `without`."""
    mark = parametrize_with_checks(list(estimators)).mark
    cases = [case for case in mark.args[1] if getattr(case, "values", case)[1].func.__name__ not in without]
    return pytest.mark.parametrize(mark.args[0], cases, ids=mark.kwargs["ids"])


@scikit_learns_checks(
    MLPClassifier(),
    MLPRegressor(),
    MLPClassifier(dtype="float64", hidden_layer_sizes=(20, 10)),
    MLPClassifier(activation="gelu", solver="nesterov", learning_rate_init=0.05),
    MLPRegressor(activation="silu", solver="adamw"),
    MLPRegressor(fastnn.Quantile([0.2, 0.5])),
    MLPRegressor("gaussian"),
    MLPClassifier(label_smoothing=0.1),
)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@scikit_learns_checks(
    *(cls(**params) for cls in (MLPClassifier, MLPRegressor) for params in ADDED),
    without=WEIGHT_IS_REPETITION,
)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_own_checks_but_one(estimator, check):
    """A row of weight 2 is not a row twice: in a mask, a mean over rows, a sample, float32's eighth digit."""
    check(estimator)


@scikit_learns_checks(
    MLPRegressor("poisson", learning_rate_init=0.01), without={"check_regressor_multioutput"}
)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_own_checks_of_positive_targets(estimator, check):
    """One has negative targets for all."""
    check(estimator)


# The numbers are scikit-learn's


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("hidden", [(), 20, [30, 20]], ids=str)
def test_activations_and_layers(activation, hidden):
    theirs, ours = both("MLPClassifier", FEW, activation=activation, hidden_layer_sizes=hidden, solver="sgd")
    assert_alike(theirs, ours, FEW[0])
    for name in ("coefs_", "intercepts_"):
        for a, b in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    assert (ours.predict(FEW[0]) == theirs.predict(FEW[0])).all()
    assert ours.score(*FEW) == theirs.score(*FEW)


@pytest.mark.parametrize(
    "params",
    [
        {"learning_rate_init": 0.1},
        {"momentum": 0},
        {"momentum": 0.5, "nesterovs_momentum": False},
        {"learning_rate": "invscaling", "learning_rate_init": 0.5, "power_t": 0.3},
        {"learning_rate": "adaptive", "learning_rate_init": 0.5, "max_iter": 60, "tol": 0.05}
        | {"n_iter_no_change": 2},
        {"shuffle": False},
        {"batch_size": 64},
        {"batch_size": 500},
        {"max_iter": 60, "learning_rate_init": 0.5, "tol": 1e-2, "n_iter_no_change": 3},
        {"early_stopping": True, "max_iter": 60, "learning_rate_init": 0.2, "validation_fraction": 0.3},
    ],
    ids=str,
)
def test_sgd(params):
    assert_alike(*both("MLPClassifier", FEW, solver="sgd", **params), FEW[0])


@pytest.mark.parametrize(
    ("params", "rtol"),
    [
        ({"batch_size": 500}, 1e-7),  # a batch is all rows: epsilon is right in each step
        ({}, 1e-3),
        ({"beta_1": 0.5, "beta_2": 0.9}, 1e-3),
        ({"epsilon": 1e-3}, 1e-2),
        ({"early_stopping": True, "max_iter": 60}, 1e-3),
    ],
    ids=str,
)
def test_adam(params, rtol):
    theirs, ours = both("MLPClassifier", FEW, **params)
    assert ours.n_iter_ == theirs.n_iter_
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=rtol)


def test_epsilon_is_scikit_learns():
    """It is added before the correction of v: uncorrected, its steps were a third as long in the first."""
    theirs, ours = both("MLPClassifier", FEW, epsilon=0.1, batch_size=500)
    assert_alike(theirs, ours, FEW[0], 1e-7)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("MLPClassifier", BINARY),
        ("MLPClassifier", LABELS),
        ("MLPClassifier", (IRIS[0], np.array(["a", "b", "c"])[IRIS[1]])),
        ("MLPRegressor", DIABETES),
        ("MLPRegressor", SEVERAL),
    ],
    ids=["two classes", "labels", "strings", "regression", "outputs"],
)
@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_targets(name, data, solver, early_stopping):
    rate = 1e-5 if data is DIABETES and solver == "sgd" else 1e-2
    theirs, ours = both(
        name, data, solver=solver, early_stopping=early_stopping, learning_rate_init=rate, max_iter=30
    )
    assert_alike(theirs, ours, data[0], 1e-9 if solver == "sgd" else 2e-2)
    np.testing.assert_array_equal(ours.predict(data[0]).shape, theirs.predict(data[0]).shape)
    if name == "MLPClassifier":
        np.testing.assert_array_equal(ours.predict(data[0]), theirs.predict(data[0]))
        np.testing.assert_array_equal(ours.classes_, theirs.classes_)
        assert ours.predict(data[0]).dtype == theirs.predict(data[0]).dtype


@pytest.mark.parametrize("alpha", [1e-4, 0.1, 10])
def test_alpha_of_weights_and_the_loss_with_its_penalty(alpha):
    """All rows are a batch: what differs is the decay of the intercepts."""
    theirs, ours = both("MLPClassifier", FEW, alpha=alpha, batch_size=500, max_iter=60)
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=5e-3)
    assert ours.loss_curve_[0] == pytest.approx(theirs.loss_curve_[0], rel=1e-12)
    assert abs(ours.score(*DIGITS) - theirs.score(*DIGITS)) < 0.005


def test_the_penalty_of_an_epoch_of_batches():
    theirs, ours = both("MLPClassifier", FEW, alpha=1, batch_size=100, solver="sgd", learning_rate_init=0.1)
    without = both("MLPClassifier", FEW, alpha=0, batch_size=100, solver="sgd", learning_rate_init=0.1)[1]
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=2e-3)
    assert ours.loss_curve_[0] > 1.1 * without.loss_curve_[0]


def test_single_precision_learns_the_same():
    theirs, ours = both("MLPClassifier", FEW)
    ours = MLPClassifier(random_state=0, max_iter=10, alpha=0, dtype="float32").fit(*FEW)
    assert {p.dtype for p in (*ours.coefs_, *ours.intercepts_)} == {np.dtype(np.float32)}
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-3)
    assert abs(ours.score(*FEW) - theirs.score(*FEW)) < 0.005


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int64, np.int16, np.float16, bool])
@pytest.mark.parametrize("rows", [200, 201])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_dtypes(dtype, rows, method):
    """The network has scikit-learn's dtype, of however many rows and by whatever method."""
    x, y = (16 * DIGITS[0][:rows]).astype(dtype), DIGITS[1][:rows]
    classes = {"classes": np.arange(10)} if method == "partial_fit" else {}
    theirs, model = (
        getattr(lib.MLPClassifier(5, max_iter=2, random_state=0), method)(x, y, **classes) for lib in (sk, fn)
    )
    assert {p.dtype for p in (*model.coefs_, *model.intercepts_)} == {theirs.coefs_[0].dtype}
    assert model.predict_proba(x).dtype == theirs.predict_proba(x).dtype
    same = MLPClassifier(5, max_iter=2, random_state=0, dtype=model.coefs_[0].dtype)
    getattr(same, method)(x.astype(np.float64), y, **classes)
    np.testing.assert_array_equal(model.coefs_[0], same.coefs_[0])


@SINCE_1_7
@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_sample_weight(name, early_stopping):
    weight = np.random.default_rng(0).integers(1, 4, len(FEW[0])).astype(float)
    data = FEW if name == "MLPClassifier" else (FEW[0], FEW[1] / 4.5 - 1)
    theirs, ours = both(name, data, weight, solver="sgd", early_stopping=early_stopping, max_iter=30)
    assert_alike(theirs, ours, FEW[0])
    weighted, plain = (type(ours)(max_iter=10, random_state=0).fit(*data, w) for w in (weight, None))
    assert np.abs(weighted.coefs_[0] - plain.coefs_[0]).max() > 1e-4


def test_class_weight():
    """All rows are a batch, in which the weights of classes are those of rows."""
    params = {"solver": "sgd", "alpha": 0, "max_iter": 10, "random_state": 0, "batch_size": len(BINARY[1])}
    ours = MLPClassifier(**params).fit(*BINARY)
    counts = np.bincount(BINARY[1])
    weight = (len(BINARY[1]) / (2 * counts))[BINARY[1].astype(int)]
    by_hand = clone(ours).fit(*BINARY, weight)
    for class_weight in ("balanced", dict(zip([False, True], len(BINARY[1]) / (2 * counts), strict=True))):
        model = clone(ours).set_params(class_weight=class_weight).fit(*BINARY)
        np.testing.assert_allclose(model.loss_curve_, by_hand.loss_curve_, rtol=1e-12)
    twice = clone(model).fit(*BINARY, sample_weight=np.full(len(BINARY[1]), 2.0))
    np.testing.assert_allclose(twice.loss_curve_, model.loss_curve_, rtol=1e-12)
    assert model.predict(BINARY[0]).sum() > ours.predict(BINARY[0]).sum()


def test_class_weight_row_by_row():
    """A batch of one row has the weight of its class, too: it is not divided by itself."""
    params = {"solver": "sgd", "batch_size": 1, "max_iter": 3, "random_state": 0, "learning_rate_init": 0.01}
    plain = MLPClassifier(5, **params).fit(*BINARY)
    model = MLPClassifier(5, **params, class_weight={False: 1, True: 20}).fit(*BINARY)
    assert model.predict(BINARY[0]).sum() > 1.2 * plain.predict(BINARY[0]).sum()


def test_class_weight_in_parts_of_any_size():
    """A part of one row has the weight of its class, not one that its own mean cancels."""
    params = {"solver": "sgd", "random_state": 0, "learning_rate_init": 0.01, "shuffle": False}
    rows = BINARY[0][:40], BINARY[1][:40]
    assert 0 < rows[1].sum() < 40

    def stream(size, **options):
        model = MLPClassifier(5, **params, batch_size=1, **options)
        for first in range(0, 40, size):
            part = slice(first, first + size)
            model.partial_fit(rows[0][part], rows[1][part], classes=[False, True])
        return model

    weights = {False: 1.0, True: 20.0}
    one, ten, all_rows = (stream(size, class_weight=weights, momentum=0) for size in (1, 10, 40))
    np.testing.assert_array_equal(one.coefs_[0], ten.coefs_[0])
    np.testing.assert_array_equal(one.coefs_[0], all_rows.coefs_[0])
    assert one.predict(rows[0]).sum() > 1.2 * stream(1, momentum=0).predict(rows[0]).sum()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mean = np.where(rows[1], 20.0, 1.0).mean()
        rate = {"learning_rate_init": 0.01 * mean}
        whole = MLPClassifier(
            5, **params | rate, batch_size=1, class_weight=weights, max_iter=1, momentum=0
        ).fit(*rows)
    np.testing.assert_allclose(whole.coefs_[0], one.coefs_[0], rtol=1e-9)


def test_balanced_labels_row_by_row():
    """The weights of an indicator matrix are not divided by themselves either."""
    params = {"solver": "sgd", "batch_size": 1, "max_iter": 3, "random_state": 0, "shuffle": False}
    plain = MLPClassifier(5, **params).fit(*LABELS)
    model = MLPClassifier(5, **params, class_weight="balanced").fit(*LABELS)
    assert np.abs(model.coefs_[0] - plain.coefs_[0]).max() > 1e-4


@pytest.mark.parametrize("names", [["0", "01", "1"], ["1.0", "1e0", "b"], [-1, 0, 1]], ids=str)
def test_class_weight_of_labels_to_the_letter(names):
    y = np.array(names)[IRIS[1]]
    params = {"max_iter": 2, "random_state": 0}
    weights = dict(zip(names, [1.0, 2.0, 5.0], strict=True))
    model = MLPClassifier(**params, class_weight=weights).fit(IRIS[0], y)
    numbered = MLPClassifier(**params, class_weight={0: 1, 1: 2.0, 2: 5}).fit(*IRIS)
    np.testing.assert_array_equal(model.coefs_[0], numbered.coefs_[0])
    part = MLPClassifier(**params, class_weight={names[2]: 5.0})
    part.partial_fit(IRIS[0][:100], y[:100], classes=names)
    plain = MLPClassifier(**params).partial_fit(IRIS[0][:100], y[:100], classes=names)
    np.testing.assert_array_equal(part.coefs_[0], plain.coefs_[0])


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_warm_start(name):
    data = FEW if name == "MLPClassifier" else SEVERAL
    theirs, ours = both(name, data, solver="sgd", warm_start=True)
    for _ in range(3):
        assert_alike(theirs.fit(*data), ours.fit(*data), data[0])
    assert len(ours.loss_curve_) > ours.n_iter_


def test_a_warm_start_that_gets_no_better_changes_nothing():
    model = MLPClassifier(early_stopping=True, warm_start=True, random_state=0, max_iter=20).fit(*FEW)
    before = model.predict_proba(FEW[0])
    model.set_params(solver="sgd", learning_rate_init=5.0).fit(*FEW)
    assert max(model.validation_scores_[-model.n_iter_ :]) < model.best_validation_score_
    np.testing.assert_array_equal(model.predict_proba(FEW[0]), before)


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_partial_fit_of_a_stream(name, solver):
    data = FEW if name == "MLPClassifier" else SEVERAL
    params = {"solver": solver, "random_state": 0, "alpha": 0, "learning_rate_init": 1e-2}
    theirs = getattr(sk, name)(**params)
    ours = getattr(fn, name)(**params, dtype="float64")
    for begin in range(0, 400, 80):
        rows = slice(begin, begin + 80 - begin // 8)
        for model in (theirs, ours):
            classes = {"classes": np.arange(10)} if name == "MLPClassifier" and begin == 0 else {}
            model.partial_fit(data[0][rows], data[1][rows], **classes)
        assert_alike(theirs, ours, data[0], 1e-9 if solver == "sgd" else 1e-5)
    ours.fit(*data)
    assert len(ours.loss_curve_) == ours.n_iter_


@SINCE_1_7
def test_partial_fit_goes_on_after_fit_and_pickling():
    theirs, ours = both("MLPClassifier", FEW, solver="sgd")
    ours = pickle.loads(pickle.dumps(ours))
    weight = np.linspace(1, 2, len(FEW[0]))
    assert_alike(theirs.partial_fit(*FEW, weight), ours.partial_fit(*FEW, weight), FEW[0])


def test_partial_fit_of_labels():
    theirs, ours = (cls(solver="sgd", random_state=0, alpha=0) for cls in (sk.MLPClassifier, MLPClassifier))
    for model in (theirs, ours.set_params(dtype="float64")):
        model.partial_fit(*LABELS, classes=np.arange(5)).partial_fit(*LABELS)
    assert_alike(theirs, ours, LABELS[0])


def test_log_probabilities():
    for data in (FEW, BINARY, LABELS, (LABELS[0], csr_matrix(LABELS[1]))):
        _, ours = both("MLPClassifier", data)
        p = ours.predict_proba(data[0])
        np.testing.assert_allclose(ours.predict_log_proba(data[0]), np.log(p), rtol=1e-9)
        if data is FEW or data is BINARY:
            np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-14)
    far = ours.predict_log_proba(1e4 * LABELS[0])
    assert np.isfinite(far).all()
    assert far.min() < -800


def test_one_class():
    model = MLPClassifier(max_iter=3).fit(FEW[0], ["a"] * len(FEW[0]))
    assert set(model.predict(FEW[0])) == {"a"}
    np.testing.assert_array_equal(model.predict_proba(FEW[0]), 1)


def test_verbose_prints_what_scikit_learn_does(capsys):
    for params in (
        {"early_stopping": True, "learning_rate": "adaptive", "learning_rate_init": 0.5, "max_iter": 40},
        {"tol": 1.0, "learning_rate": "adaptive", "learning_rate_init": 1e-5, "n_iter_no_change": 1},
        {"tol": 1.0, "n_iter_no_change": 1},
    ):
        texts = []
        for model in both("MLPClassifier", FEW, solver="sgd", **params):
            capsys.readouterr()
            model.set_params(verbose=True).fit(*FEW)
            texts.append(capsys.readouterr().out)
        assert texts[0] == texts[1]
        assert "Stopping" in texts[1] or "Setting" in texts[1] or "Validation" in texts[1]


def test_warnings():
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(3\) reached") as record:
        MLPClassifier(max_iter=3).fit(*FEW)
    assert record[0].filename == __file__
    with pytest.warns(UserWarning, match="clipped"):
        MLPClassifier(max_iter=3, batch_size=10**6).fit(*FEW)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MLPClassifier(max_iter=100, tol=1).fit(*FEW)


# What is added


@pytest.mark.parametrize("solver", ["momentum", "nesterov"])
def test_momentum_by_its_name(solver):
    params = {"solver": "sgd", "nesterovs_momentum": solver == "nesterov", "learning_rate": "invscaling"}
    theirs, _ = both("MLPClassifier", FEW, **params)
    ours = MLPClassifier(solver=solver, learning_rate="invscaling", alpha=0, max_iter=10, random_state=0)
    assert_alike(theirs, ours.set_params(dtype="float64").fit(*FEW), FEW[0])


@pytest.mark.parametrize(
    "params",
    [
        {"solver": "adamw", "alpha": 0.01},
        {"solver": "muon", "alpha": 0.01, "hidden_layer_sizes": (64, 32)},
        {"solver": "adagrad", "learning_rate_init": 0.02},
        {"solver": "rmsprop", "beta_2": 0.9},
        {"activation": "leaky_relu"},
        {"activation": "sigmoid", "learning_rate_init": 0.01},
        {"activation": "gelu"},
        {"activation": "silu"},
        {"dropout": 0.2},
        {"batch_norm": True},
        {"dropout": 0.2, "batch_norm": True, "hidden_layer_sizes": (64, 32)},
    ],
    ids=str,
)
def test_additions_learn_the_digits(params):
    model = MLPClassifier(max_iter=30, random_state=0, **params).fit(DIGITS[0][::2], DIGITS[1][::2])
    assert model.score(DIGITS[0][1::2], DIGITS[1][1::2]) > 0.9
    again = clone(model).fit(DIGITS[0][::2], DIGITS[1][::2])
    assert again.loss_curve_ == model.loss_curve_


def test_adamw_decays_by_alpha_itself():
    models = [
        MLPRegressor(solver="adamw", alpha=a, max_iter=1, shuffle=False, random_state=0).fit(*DIABETES)
        for a in (0, 10)
    ]
    start = MLPRegressor(max_iter=1, learning_rate_init=1e-30, random_state=0).fit(*DIABETES).coefs_[1]
    steps = -(-len(DIABETES[0]) // 200)
    ratio = (start - models[1].coefs_[1] + models[0].coefs_[1] - start) / start
    assert np.median(ratio) == pytest.approx(10 * 0.001 * steps, rel=0.1)
    assert models[0].loss_curve_[0] == pytest.approx(models[1].loss_curve_[0], rel=1e-3)


def test_dropout_and_batch_norm_are_where_they_should_be():
    net = MLPClassifier((4, 3), dropout=0.5, batch_norm=True, max_iter=1).fit(*IRIS)._net
    hidden = ["Affine", "BatchNorm", "ReLU", "Dropout"]
    assert [type(layer).__name__ for layer in net.layers] == [*hidden, *hidden, "Affine"]
    seeds = [
        MLPClassifier(4, dropout=0.5, max_iter=1, random_state=r).fit(*IRIS)._trainer.seed for r in (0, 1)
    ]
    assert seeds[0] != seeds[1]


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_a_validation_set_of_ones_own(name, early_stopping):
    data = DIGITS if name == "MLPClassifier" else (DIGITS[0], DIGITS[1] / 4.5 - 1)
    train, held = ((data[0][rows], data[1][rows]) for rows in (slice(900), slice(900, None)))
    model = getattr(fn, name)(max_iter=150, random_state=0, early_stopping=early_stopping, tol=1e-3)
    model.fit(*train, validation=held)
    assert len(model.validation_scores_) == model.n_iter_ < 150
    assert model.best_validation_score_ == max(model.validation_scores_)
    score = model.score(*held)
    if early_stopping:
        assert score == pytest.approx(model.best_validation_score_, abs=1e-6)
        assert model.t_ == 900 * model.n_iter_
    else:
        assert score == pytest.approx(model.validation_scores_[-1], abs=1e-6)
    weight = np.where(np.arange(len(held[1])) < 50, 1.0, 0.0)
    weighted = clone(model).fit(*train, validation=(*held, weight))
    first = (held[0][:50], held[1][:50])
    fewer = clone(model).fit(*train, validation=first)
    np.testing.assert_allclose(weighted.validation_scores_, fewer.validation_scores_, rtol=1e-6)


def test_callbacks(tmp_path):
    seen = []
    model = MLPClassifier(max_iter=50, random_state=0, learning_rate_init=0.02)
    stop = fastnn.callbacks.EarlyStopping("val_accuracy", patience=3)
    saves = fastnn.callbacks.Checkpoint(tmp_path / "best.npz", "val_loss", best_only=True)
    model.fit(*FEW, validation=DIGITS, callbacks=[stop, saves, lambda *both: seen.append(both)])
    assert stop.stopped
    assert len(seen) == model.n_iter_ < 50
    trainer, history = seen[-1]
    assert isinstance(trainer, fastnn.Trainer)
    np.testing.assert_allclose(history.val_accuracy, model.validation_scores_, rtol=1e-12)
    assert model.score(*DIGITS) == pytest.approx(stop.best)
    assert fastnn.Sequential.load(saves.saved).predict(FEW[0]).shape == (500, 10)


def test_ctrl_c_keeps_what_was_learned():
    def press(trainer, history):
        if history.epochs == 3:
            signal.raise_signal(signal.SIGINT)

    press.uninterrupted = True
    model = MLPClassifier(random_state=0, learning_rate_init=0.02)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model.fit(*FEW, callbacks=[press])
    assert model.n_iter_ == len(model.loss_curve_) == 3
    assert model.score(*FEW) > 0.3


@pytest.mark.parametrize("solver", fn.solvers.SOLVERS)
@pytest.mark.parametrize("data", [DIGITS, BINARY, LABELS, (16 * DIGITS[0].astype(np.uint8), DIGITS[1])])
def test_every_step_is_native(solver, data, monkeypatch):
    def refuse(*_):
        raise AssertionError("a step in Python")

    monkeypatch.setattr(fastnn.Trainer, "_step_by_layers", refuse)
    monkeypatch.setattr(ReferenceTrainer, "_run_epoch", refuse)
    model = MLPClassifier(8, solver=solver, max_iter=2, dropout=0.1, batch_norm=True)
    model.fit(*data, sample_weight=np.ones(len(data[0]))).partial_fit(np.asfortranarray(data[0]), data[1])


# As scikit-learn's estimators are used


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), "joblib"])
def test_copies(copied, tmp_path):
    model = MLPClassifier(20, max_iter=5, batch_norm=True, dropout=0.1, random_state=0).fit(*FEW)
    expected = model.predict_proba(FEW[0])
    if copied == "joblib":
        joblib.dump(model, tmp_path / "model.joblib")
        read = joblib.load(tmp_path / "model.joblib", mmap_mode="r")
        np.testing.assert_array_equal(read.predict_proba(FEW[0]), expected)
        other = joblib.load(tmp_path / "model.joblib")
    else:
        other = copied(model)
    np.testing.assert_array_equal(other.predict_proba(FEW[0]), expected)
    other.partial_fit(*FEW)
    assert np.abs(other.predict_proba(FEW[0]) - expected).max() > 1e-4
    np.testing.assert_array_equal(model.predict_proba(FEW[0]), expected)
    model.partial_fit(*FEW)
    np.testing.assert_array_equal(model.predict_proba(FEW[0]), other.predict_proba(FEW[0]))


def test_a_pickle_holds_parameters_and_moments_only():
    model = MLPClassifier(100, max_iter=2, dtype="float32").fit(*FEW)
    assert len(pickle.dumps(model)) < 1.5 * 3 * 4 * (64 * 100 + 100 + 100 * 10 + 10)


def test_coefs_can_be_changed_and_replaced():
    theirs, ours = both("MLPClassifier", FEW)
    for model in (theirs, ours):
        model.coefs_[0] *= 0.5
        model.coefs_[1] = np.flip(model.coefs_[1], axis=1)
        model.intercepts_ = [b + 0.1 for b in model.intercepts_]
    np.testing.assert_allclose(ours.predict_proba(FEW[0]), theirs.predict_proba(FEW[0]), rtol=0.02, atol=0.01)
    unpickled = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(unpickled.predict_proba(FEW[0]), ours.predict_proba(FEW[0]))
    ours.partial_fit(*FEW)
    theirs.partial_fit(*FEW)
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=0.02)


@SINCE_1_7
def test_parameters_are_scikit_learns_and_more():
    added = {"dropout", "batch_norm", "dtype", "sparse_update", "n_ensemble", "bootstrap"}
    for name, more in (
        (
            "MLPClassifier",
            {*added, "class_weight", "label_smoothing"},
        ),
        ("MLPRegressor", added),
    ):
        theirs, ours = (getattr(lib, name)().get_params() for lib in (sk, fn))
        assert ours.keys() - theirs.keys() == more
        assert {key: ours[key] for key in theirs} == theirs
        for key in ours:
            assert re.search(rf"\b{key}\b.* : ", getattr(fn, name).__doc__), key


def test_pipelines_and_calibration():
    pipe = make_pipeline(StandardScaler(), MLPClassifier(random_state=0, max_iter=20))
    pipe.set_output(transform="default").fit(*DIGITS)
    assert pipe.score(*DIGITS) > 0.97
    calibrated = CalibratedClassifierCV(MLPClassifier(max_iter=40, random_state=0), cv=3).fit(*FEW)
    np.testing.assert_allclose(calibrated.predict_proba(FEW[0]).sum(axis=1), 1)
    assert calibrated.score(*FEW) > 0.8


def test_feature_names():
    pandas = pytest.importorskip("pandas", reason="scikit-learn takes names from the frames of pandas")
    frame = pandas.DataFrame(IRIS[0], columns=list("abcd"))
    pipe = make_pipeline(StandardScaler(), MLPClassifier(max_iter=2)).set_output(transform="pandas")
    assert list(pipe.fit(frame, IRIS[1])[-1].feature_names_in_) == list("abcd")


GRID = {"hidden_layer_sizes": [5, (10, 5)], "alpha": [1e-4, 1.0]}


def test_grid_search_with_threads():
    one, many = (
        GridSearchCV(MLPClassifier(max_iter=10, random_state=0), GRID, cv=2, n_jobs=n_jobs)
        for n_jobs in (None, 3)
    )
    one.fit(*FEW)
    with joblib.parallel_backend("threading"):
        many.fit(*FEW)
    np.testing.assert_array_equal(one.cv_results_["mean_test_score"], many.cv_results_["mean_test_score"])


@pytest.mark.parametrize("restore_best", [False, True])
def test_a_callback_is_each_fits_own(restore_best):
    """Grid searches hand the same objects to all their fits."""
    searches = []
    for n_jobs in (None, 4):
        stop = fastnn.callbacks.EarlyStopping("val_accuracy", patience=2, restore_best=restore_best)
        model = MLPClassifier(16, max_iter=30, batch_size=16, random_state=0, learning_rate_init=0.02)
        grid = GridSearchCV(model, {"alpha": [1e-4, 1e-3, 0.1]}, cv=3, n_jobs=n_jobs, refit=False)
        with joblib.parallel_backend("threading"):
            searches.append(grid.fit(*FEW, validation=(DIGITS[0][500:], DIGITS[1][500:]), callbacks=[stop]))
        assert stop.stopped
        assert stop.best_epoch >= 1
    scores = [[search.cv_results_[f"split{i}_test_score"] for i in range(3)] for search in searches]
    np.testing.assert_array_equal(*scores)


def test_callbacks_of_ones_own_are_called_as_they_are():
    class Stop(fastnn.callbacks.EarlyStopping):
        calls = 0

        def __call__(self, trainer, history):
            self.calls += 1
            return super().__call__(trainer, history)

    class Count:
        def __init__(self):
            self.seen = []

        def __call__(self, trainer, history):
            self.seen.append(self)

    stop, count = Stop("loss", patience=100), Count()
    MLPClassifier(5, max_iter=3).fit(*IRIS, callbacks=[stop, count])
    assert stop.calls == 3
    assert stop.best is not None
    assert count.seen == [count] * 3


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
@pytest.mark.parametrize("replaced", [False, True])
def test_threads_read_what_one_reads(name, replaced):
    model = getattr(fn, name)(hidden_layer_sizes=(64, 32), max_iter=5, random_state=0, batch_norm=True).fit(
        *DIGITS
    )
    if replaced:
        model.coefs_ = [np.flip(W, axis=0).copy() for W in model.coefs_]
    methods = ["predict", "score"] + ["predict_proba", "predict_log_proba"] * (name == "MLPClassifier")
    calls = [(method, rows) for rows in (2, 7, 200, 1797) for method in methods] * 20

    def read(model, call):
        method, rows = call
        data = DIGITS if method == "score" else DIGITS[:1]
        return getattr(model, method)(*(a[:rows] for a in data))

    alone = copy.deepcopy(model)
    with ThreadPoolExecutor(8) as pool:
        read_by_many = list(pool.map(lambda call: read(model, call), calls))
    np.testing.assert_equal(read_by_many, [read(alone, call) for call in calls])


def test_grid_search_with_processes():
    code = f"""
        import warnings
        warnings.simplefilter("ignore")
        import numpy as np
        from sklearn.datasets import load_digits
        from sklearn.model_selection import GridSearchCV
        from fastnn.estimators import MLPClassifier

        x, y = load_digits(return_X_y=True)
        searches = [
            GridSearchCV(MLPClassifier(max_iter=5, random_state=0), {GRID}, cv=2, n_jobs=n) for n in (None, 2)
        ]
        a, b = (s.fit(x[:500], y[:500]).cv_results_["mean_test_score"] for s in searches)
        assert (a == b).all() and np.isfinite(a).all(), (a, b)
    """
    run_python(code, timeout=120, PYTHONWARNINGS="ignore")


def test_cross_validation_is_as_good():
    scores = [
        cross_val_score(lib.MLPClassifier((64,), max_iter=15, random_state=0), *DIGITS, cv=3).mean()
        for lib in (sk, fn)
    ]
    assert abs(scores[0] - scores[1]) < 0.005


# Errors


BAD = [
    {"hidden_layer_sizes": -1},
    {"hidden_layer_sizes": (5, 0)},
    {"alpha": -1},
    {"batch_size": 0},
    {"learning_rate": "fast"},
    {"learning_rate_init": 0},
    {"power_t": -1},
    {"max_iter": 0},
    {"shuffle": "yes"},
    {"random_state": -5},
    {"tol": -1e-3},
    {"verbose": -1},
    {"warm_start": "yes"},
    {"momentum": 2},
    {"nesterovs_momentum": "yes"},
    {"early_stopping": "yes"},
    {"validation_fraction": 1},
    {"beta_1": 1},
    {"beta_2": -0.5},
    {"epsilon": 0},
    {"n_iter_no_change": 0},
]


@pytest.mark.parametrize("params", BAD, ids=str)
@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_bad_parameters_are_refused_in_scikit_learns_words(name, params):
    texts = []
    for lib in (sk, fn):
        with pytest.raises(ValueError, match=r".") as error:
            getattr(lib, name)(**params).fit(*IRIS)
        texts.append(sorted(re.split(r"[{,} ]+", str(error.value))))  # a set of names has no order
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"solver": "newton"}, "'solver' parameter of MLP.* must be a str among"),
        ({"activation": "cube"}, "'activation' parameter of MLP.* must be a str among"),
        ({"dropout": 1}, r"'dropout' parameter of MLP.* must be a float in the range \[0.0, 1.0\)"),
        ({"batch_norm": "yes"}, "'batch_norm' parameter of MLP"),
        ({"dtype": "float16"}, "'dtype' parameter of MLP"),
        ({"dtype": np.float16}, "dtype must be float32 or float64"),
    ],
    ids=str,
)
@pytest.mark.parametrize("estimator", [MLPClassifier, MLPRegressor], ids=lambda e: e.__name__)
def test_bad_parameters_of_our_own(estimator, params, words):
    with pytest.raises((ValueError, TypeError), match=words):
        estimator(**params).fit(*IRIS)
    with pytest.raises((ValueError, TypeError), match=words):
        estimator(**params).partial_fit(*IRIS, **({"classes": [0, 1, 2]} if "Cl" in str(estimator) else {}))


def test_other_refusals():
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        MLPClassifier().fit(IRIS[0], IRIS[0][:, 0])
    with pytest.raises(ValueError, match="'loss' parameter of MLPRegressor"):
        MLPRegressor(loss="absolute").fit(*IRIS)
    with pytest.raises(ValueError, match="'class_weight' parameter of MLPClassifier"):
        MLPClassifier(class_weight="fair").fit(*IRIS)
    with pytest.raises(ValueError, match="'balanced' is not supported for partial_fit"):
        MLPClassifier(class_weight="balanced").partial_fit(*IRIS, classes=[0, 1, 2])


MISFITS = {
    "rows": lambda m: m.fit(IRIS[0], IRIS[1][:-1]),
    "no rows": lambda m: m.fit(IRIS[0][:0], IRIS[1][:0]),
    "one dimension": lambda m: m.fit(IRIS[0][:, 0], IRIS[1]),
    "nan": lambda m: m.fit(np.where(IRIS[0] > 2, np.nan, IRIS[0]), IRIS[1]),
    "features": lambda m: m.fit(*IRIS).predict(IRIS[0][:, :2]),
    "not fitted": lambda m: m.predict(IRIS[0]),
    "weights": lambda m: m.fit(*IRIS, sample_weight=np.ones(3)),
    "early": lambda m: m.set_params(early_stopping=True).partial_fit(*IRIS),
    "too few": lambda m: m.set_params(early_stopping=True, validation_fraction=0.001).fit(*IRIS),
}
OF_CLASSES = {
    "several": lambda m: m.fit(IRIS[0], np.c_[IRIS[1], IRIS[1]]),
    "unknown": lambda m: m.partial_fit(*IRIS, classes=[0, 1, 2]).partial_fit(IRIS[0], IRIS[1] + 1),
    "no classes": lambda m: m.partial_fit(*IRIS),
    "other classes": lambda m: m.partial_fit(*IRIS, classes=[0, 1, 2]).partial_fit(*IRIS, classes=[0, 1]),
    "warm": lambda m: m.set_params(warm_start=True).fit(*IRIS).fit(IRIS[0], IRIS[1] + 1),
}


@pytest.mark.parametrize(
    ("name", "case"),
    [("MLPClassifier", case) for case in OF_CLASSES]
    + [
        pytest.param(name, case, marks=[SINCE_1_7] if case in ("weights", "too few") else [])
        for name in ("MLPClassifier", "MLPRegressor")
        for case in MISFITS
    ],
)
def test_data_that_do_not_fit_are_refused_in_scikit_learns_words(name, case):
    texts = []
    for lib in (sk, fn):
        with pytest.raises((ValueError, NotFittedError)) as error:
            (MISFITS | OF_CLASSES)[case](getattr(lib, name)(max_iter=2))
        texts.append(str(error.value))
    assert texts[0] == texts[1].replace(", first in row 14.", ".")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda m: m.fit(*IRIS, sample_weight=-np.ones(150)),
            "Negative values in data passed to `sample_weight`",
        ),
        (lambda m: m.fit(*IRIS, sample_weight=np.zeros(150)), "zero"),
        (lambda m: m.fit(*IRIS, validation=IRIS[0]), r"validation must be \(X, y\)"),
        (lambda m: m.fit(*IRIS, validation=(IRIS[0][:, :2], IRIS[1])), "2 features"),
        (lambda m: m.fit(*IRIS, validation=(IRIS[0], IRIS[1] + 5)), "classes not in"),
        (lambda m: m.fit(*IRIS, validation=(*IRIS, np.zeros(150))), "at least one non-zero number"),
        (lambda m: m.fit(*IRIS, validation=(*IRIS, -np.ones(150))), "Negative values"),
        (
            lambda m: m.set_params(early_stopping=True, random_state=0).fit(*IRIS, np.arange(150) == 0),
            "rows set aside for validation have no weight",
        ),
        (
            lambda m: m.set_params(class_weight={"0": 2}).fit(*IRIS),
            r"class_weight must have the classes, \[0, 1, 2\], as keys: \['0'\] are none, and \[0, 1, 2\]",
        ),
        (lambda m: m.set_params(class_weight={0: -1}).fit(*IRIS), r"class_weight\[0\] must be a number >= 0"),
        (lambda m: m.set_params(class_weight={0: 0, 1: 0, 2: 0}).fit(*IRIS), "at least one non-zero number"),
        (lambda m: m.set_params(class_weight={0: 2}).fit(*LABELS), "must be 'balanced' or None"),
        (
            lambda m: m.partial_fit(*LABELS, classes=list("abcde")),
            r"classes must be the numbers of its columns, \[0 1 2 3 4\], got \['a' 'b'",
        ),
        (lambda m: m.fit(*IRIS, callbacks=3), "callbacks must be an iterable of functions, got 3"),
        (lambda m: m.fit(*IRIS, callbacks=[3]), r"callbacks\[1\] must be callable, got 3"),
        (
            lambda m: m.partial_fit(*IRIS, classes=[0, 1, 2]).partial_fit(IRIS[0], np.eye(3)[IRIS[1]]),
            "y has shape",
        ),
        (
            lambda m: m.set_params(warm_start=True).fit(*IRIS).set_params(hidden_layer_sizes=7).fit(*IRIS),
            "must be as in the previous call",
        ),
    ],
)
def test_what_scikit_learn_does_not_have_is_checked(call, words):
    with pytest.raises((ValueError, TypeError), match=words):
        call(MLPClassifier(max_iter=2))


@pytest.mark.parametrize(
    "sizes",
    [(10.7,), (1e3,), (10, 5.0), ("100",), "100", (True, 5), True, 10.0, [[5, 5]], np.array([5.0]), None],
)
@pytest.mark.parametrize("estimator", [MLPClassifier, MLPRegressor], ids=lambda e: e.__name__)
def test_sizes_are_whole_numbers(estimator, sizes):
    with pytest.raises(ValueError, match=r"'hidden_layer_sizes' parameter of MLP.* Got .* instead"):
        estimator(hidden_layer_sizes=sizes).fit(*IRIS)
    for good in (np.int64(4), [np.int32(4), np.uint8(3)], np.array([4, 3]), (), 4):
        estimator(hidden_layer_sizes=good, max_iter=1).fit(*IRIS)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["X", "y", "sample_weight"])
def test_the_first_row_that_is_not_finite_is_named(name, value):
    given = {"X": IRIS[0].copy(), "y": IRIS[0][:, 0].copy(), "sample_weight": np.ones(150)}
    given[name][[7, 90]] = value
    texts = []
    for model in (sk.MLPRegressor(max_iter=1), MLPRegressor(max_iter=1)):
        with pytest.raises(ValueError, match=f"Input {name} contains") as error:
            model.fit(**given)
        texts.append(str(error.value))
    line, end, rest = texts[0].partition("\n")
    assert texts[1] == f"{line.rstrip('.')}, first in row 7.{end}{rest}"
    if name == "X":
        for x in (given["X"], given["X"].tolist(), given["X"].astype(object)):
            with pytest.raises(ValueError, match=r"Input X contains .*, first in row 7\."):
                MLPRegressor(max_iter=1).fit(*IRIS).predict(x)


# What is refused changes nothing


REFUSED = {
    "rows": lambda m, x, y: m.fit(x, y[:-1]),
    "nan": lambda m, x, y: m.fit(np.where(x > 2, np.nan, x), y),
    "nan in sparse rows": lambda m, x, y: m.fit(csr_matrix(np.where(x > 2, np.nan, x)), y),
    "a callback that raises, of sparse rows": lambda m, x, y: m.fit(
        csr_matrix(x), y, callbacks=[lambda *_: 1 / 0]
    ),
    "weights": lambda m, x, y: m.fit(x, y, np.ones(3)),
    "negative weights": lambda m, x, y: m.fit(x, y, -np.ones(len(x))),
    "validation": lambda m, x, y: m.fit(x, y, validation=3),
    "features of the validation": lambda m, x, y: m.fit(x, y, validation=(x[:, :2], y)),
    "callbacks": lambda m, x, y: m.fit(x, y, callbacks=3),
    "a callback": lambda m, x, y: m.fit(x, y, callbacks=[3]),
    "no such figure": lambda m, x, y: m.fit(x, y, callbacks=[fastnn.callbacks.EarlyStopping("val_loss")]),
    "a callback that raises": lambda m, x, y: m.fit(x, y, callbacks=[lambda *_: 1 / 0]),
    "too few for early stopping": lambda m, x, y: m.fit(x[:3], y[:3]),
    "features": lambda m, x, y: m.partial_fit(x[:, :2], y),
    "rows of a part": lambda m, x, y: m.partial_fit(x, y[:-1]),
    "weights of a part": lambda m, x, y: m.partial_fit(x, y, np.ones(3)),
    "early stopping of a part": lambda m, x, y: m.partial_fit(x, y),
    "divergence of a fit": lambda m, x, y: m.fit(x, y),
    "divergence of a part": lambda m, x, y: m.partial_fit(x, 1e300 * y),
    "divergence of validation": lambda m, x, y: m.fit(x, y, validation=(1e200 * x, y)),
    "other labels": lambda m, x, y: m.fit(x, y + 1),
    "other labels of a part": lambda m, x, y: m.partial_fit(x, y + 1),
    "other classes": lambda m, x, y: m.partial_fit(x, y, classes=[0, 1]),
    "class_weight": lambda m, x, y: m.fit(x, y),
}
WITH = {
    "too few for early stopping": {"early_stopping": True},
    "early stopping of a part": {"early_stopping": True},
    "class_weight": {"class_weight": {"a": 1}},
}
OF_CLASSIFIERS = {"other labels", "other labels of a part", "other classes", "class_weight"}


def picture(model):
    """Return all that can be seen of a model, and what the next part of a stream would make of it."""
    seen = {name: copy.deepcopy(value) for name, value in vars(model).items() if not name.startswith("_")}
    if "coefs_" in seen:
        other = copy.deepcopy(model).set_params(early_stopping=False)
        if isinstance(model, MLPClassifier):
            other.set_params(class_weight=None)
        seen["predictions"] = model.predict(IRIS[0])
        seen["next"] = [*other.partial_fit(*IRIS).coefs_, other.loss_curve_, other.n_iter_]
    return seen


@pytest.mark.parametrize("warm_start", [False, True])
@pytest.mark.parametrize("begun", [None, "fit", "partial_fit"])
@pytest.mark.parametrize(
    ("name", "case"),
    [("MLPClassifier", case) for case in REFUSED if not case.startswith("divergence")]
    + [("MLPRegressor", case) for case in REFUSED if case not in OF_CLASSIFIERS],
)
def test_a_refused_call_changes_nothing(name, case, begun, warm_start):
    model = getattr(fn, name)(hidden_layer_sizes=(6,), batch_norm=True, dropout=0.1, random_state=0)
    model.set_params(solver="momentum", max_iter=3, batch_size=32, warm_start=warm_start)
    known = {"classes": [0, 1, 2]} if name == "MLPClassifier" else {}
    if begun == "fit":
        model.fit(*IRIS, validation=IRIS).partial_fit(*IRIS)
    elif begun:
        model.partial_fit(*IRIS, **known).partial_fit(*IRIS)
    elif case.startswith("other") or "part" in case or case == "features":
        pytest.skip("a stream must have begun")
    model.set_params(**WITH.get(case, {}))
    if case == "divergence of a fit":
        model.set_params(learning_rate_init=1e300)
    if begun and case == "other labels" and not warm_start:
        pytest.skip("a fit may have other labels")
    before = picture(model)
    with pytest.raises((ValueError, TypeError, ZeroDivisionError)) as error:
        REFUSED[case](model, *IRIS)
    if case.startswith("divergence"):
        assert "the model is as it was before the call" in str(error.value)
    np.testing.assert_equal(picture(model), before)
    if begun is None:
        with pytest.raises(NotFittedError):
            model.predict(IRIS[0])


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_two_threads_do_not_train_one_estimator(method):
    """The second one is refused, and spoils nothing of what the first one does."""
    models = [MLPClassifier(5, max_iter=3, warm_start=True, random_state=0).fit(*IRIS) for _ in range(2)]

    def intrude(trainer, history):
        with ThreadPoolExecutor(1) as other, pytest.raises(RuntimeError, match="in use by another thread"):
            other.submit(getattr(models[0], method), *IRIS).result()

    for model, callbacks in zip(models, ([intrude], []), strict=True):
        model.fit(*IRIS, callbacks=callbacks)
    np.testing.assert_equal(picture(models[0]), picture(models[1]))


def test_until_a_fit_is_done_the_model_answers_as_before():
    model = MLPClassifier(5, max_iter=2, random_state=0).fit(*IRIS)
    before, seen = model.predict_proba(IRIS[0]), []
    model.set_params(random_state=1).fit(
        *FEW, callbacks=[lambda *_: seen.append(model.predict_proba(IRIS[0]))]
    )
    np.testing.assert_array_equal(seen, [before] * 2)
    assert model.predict_proba(FEW[0]).shape == (500, 10)


def test_replaced_coefs_that_do_not_fit_are_refused():
    model = MLPClassifier(5, max_iter=2, random_state=0).fit(*IRIS)
    before = model.predict_proba(IRIS[0])
    fitting = model.coefs_, model.coefs_[0]
    for coefs in (
        [fitting[1], np.zeros(3)],
        [fitting[1]],
        [np.zeros(5), fitting[0][1]],
        [[["a"] * 5] * 4, fitting[0][1]],
    ):
        model.coefs_ = coefs
        with pytest.raises((ValueError, TypeError), match="coefs_ and intercepts_ must"):
            model.predict(IRIS[0])
    model.coefs_ = fitting[0]
    np.testing.assert_array_equal(model.predict_proba(IRIS[0]), before)


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_training_goes_on_after_early_stopping(name, method):
    model = getattr(fn, name)(max_iter=5, warm_start=True, early_stopping=True, random_state=0).fit(*IRIS)
    before = model.best_validation_score_
    getattr(model.set_params(early_stopping=False), method)(*IRIS)
    assert model.best_loss_ == min(model.loss_curve_[5:])
    assert model.best_validation_score_ == before
    model.set_params(early_stopping=True).fit(*IRIS)
    assert model.best_loss_ is None


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_a_training_that_diverges(name):
    data = FEW if name == "MLPClassifier" else (1e6 * FEW[0], 1e6 * FEW[1])
    with pytest.raises(ValueError, match=r"Solver produced non-finite parameter weights.*StandardScaler"):
        getattr(fn, name)(solver="sgd", learning_rate_init=1e30, max_iter=20).fit(*data)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("by", [{"early_stopping": True}, {"validation": IRIS}], ids=str)
def test_a_regression_that_explodes_says_so(by, dtype):
    validation = {} if "early_stopping" in by else by
    model = MLPRegressor(
        activation="identity", solver="sgd", learning_rate_init=1, max_iter=200, random_state=0, dtype=dtype,
        early_stopping=not validation,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"Solver produced non-finite parameter weights.*StandardScaler"):
        model.fit(*IRIS, **validation)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", fn.solvers.SOLVERS)
@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_column_of_huge_numbers(name, solver, dtype, method):
    """What trains on it says that it is to be scaled; what it overflows for is as it was before."""
    x = np.c_[IRIS[0], 1e10 * np.random.default_rng(0).random(150)].astype(dtype)
    classes = {"classes": [0, 1, 2]} if name == "MLPClassifier" and method == "partial_fit" else {}
    model = getattr(fn, name)(solver=solver, random_state=0)
    words = r"X has values as large as 1e\+10, .*: scale it, as StandardScaler does"

    def train():
        try:
            getattr(model, method)(x, IRIS[1], **classes)
        except ValueError as error:
            return "Scale X" in str(error) and not hasattr(model, "coefs_")
        return True

    with pytest.warns(ConvergenceWarning, match=words) as record:
        assert train()
    assert record[0].filename == __file__


def test_huge_targets():
    with pytest.warns(ConvergenceWarning, match=r"y has values as large as 2e\+07, .*scale it"):
        MLPRegressor(max_iter=1).fit(IRIS[0], 1e7 * IRIS[1])


def test_outputs_must_stay_as_many():
    with pytest.raises(ValueError, match="y has 2 outputs, but the previous call had 3"):
        MLPRegressor().partial_fit(*SEVERAL).partial_fit(SEVERAL[0], SEVERAL[1][:, :2])


# The page of the manual


PAGE = (Path(__file__).parents[1] / "docs" / "estimators.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", PAGE, re.DOTALL)


def run_snippet(code):
    scope = {}
    exec(code, scope)
    return scope


@pytest.mark.parametrize("i", range(4))
def test_one_changed_line(i, capsys):
    code, text = SNIPPETS[i]
    assert code.count("fastnn") == 1
    ours = run_snippet(code)
    said, written = (
        [float(number) for number in re.findall(r"-?\d+\.\d*", out)]
        for out in (capsys.readouterr().out, text)
    )
    np.testing.assert_allclose(said, written, atol=0.11 if i == 1 else 0.02)  # weights in tenths
    theirs = run_snippet(code.replace("fastnn.estimators", "sklearn.neural_network"))
    if i == 0:
        for name, losses in theirs["losses"].items():
            np.testing.assert_allclose(ours["losses"][name], losses, rtol=0.05 if name == "Adam" else 1e-4)
    elif i == 1:
        assert ours["accuracy"] == theirs["accuracy"]
        np.testing.assert_allclose(ours["filters"], theirs["filters"], atol=0.01)
    elif i == 3:
        np.testing.assert_allclose(ours["model"].loss_, theirs["model"].loss_, rtol=1e-6)
    else:
        np.testing.assert_allclose(ours["scores"], theirs["scores"], atol=0.02)


def test_the_additions_of_the_page(capsys):
    model = run_snippet(SNIPPETS[4][0])["model"]
    assert model.score(DIGITS[0][1400:], DIGITS[1][1400:]) > 0.93
    assert len(SNIPPETS) >= 7


def test_without_scikit_learn():
    run_python(
        """
        import sys
        sys.modules["sklearn"] = None
        import fastnn
        try:
            import fastnn.estimators
        except ImportError as error:
            assert "pip install fastnn-cpu[sklearn]" in str(error), error
        else:
            raise AssertionError
        """
    )
