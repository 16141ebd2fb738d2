"""The losses of MLPRegressor, and label smoothing of MLPClassifier."""

import pickle

import joblib
import numpy as np
import pytest
import sklearn.neural_network as sk
from sklearn.base import clone
from sklearn.datasets import load_iris, make_multilabel_classification
from sklearn.linear_model import PoissonRegressor
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.preprocessing import scale
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import has_fit_parameter

import fastnn
from fastnn import reference as ref
from fastnn.estimators import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SINCE_1_7 = pytest.mark.skipif(
    not has_fit_parameter(sk.MLPRegressor(), "sample_weight"), reason="scikit-learn has it since 1.7"
)
RNG = np.random.default_rng(0)
X = RNG.uniform(-1, 1, (400, 3))
Y = np.sin(2 * X[:, 0]) + 1.5 + RNG.uniform(0, 0.4, 400)
SEVERAL = np.c_[Y, Y**2]
COUNTS = RNG.poisson(np.exp(X[:, 0] + 0.5))
WEIGHT = RNG.uniform(0.5, 2, 400)
LOSSES = {
    "squared_error": fastnn.MeanSquaredError(),
    "absolute_error": fastnn.MeanAbsoluteError(),
    "huber": fastnn.Huber(),
    "poisson": fastnn.Poisson(),
    "quantile": fastnn.Quantile([0.1, 0.5, 0.9]),
    "gaussian": fastnn.GaussianNLL(),
}
BY_NAME = pytest.mark.parametrize("name", LOSSES)


def regressor(loss, **params):
    return MLPRegressor(**{"loss": loss, "hidden_layer_sizes": 8, "max_iter": 5, "random_state": 0} | params)


def predictions(model, x=X):
    """Return all that the model says of x."""
    if isinstance(model._trainer.loss, fastnn.Quantile):
        return np.array([model.predict(x, quantile=q) for q in model._trainer.loss.quantiles])
    if isinstance(model._trainer.loss, fastnn.GaussianNLL):
        return np.array(model.predict(x, return_std=True))
    return model.predict(x)


# scikit-learn's Poisson


@SINCE_1_7
@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("y", [COUNTS, np.c_[COUNTS, COUNTS[::-1]]], ids=["one", "two"])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighted"])
def test_poisson_is_scikit_learns(solver, early_stopping, y, weight):
    params = {"loss": "poisson", "solver": solver, "early_stopping": early_stopping, "random_state": 0}
    params |= {"hidden_layer_sizes": 8, "alpha": 0, "max_iter": 30, "learning_rate_init": 0.02}
    theirs, ours = (m(**params).fit(X, y, weight) for m in (sk.MLPRegressor, MLPRegressor))
    rtol = 1e-9 if solver == "sgd" else 2e-2
    assert ours.out_activation_ == theirs.out_activation_ == "exp"
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=rtol)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=10 * rtol)
    if early_stopping:
        np.testing.assert_allclose(ours.validation_scores_, theirs.validation_scores_, rtol=rtol, atol=rtol)
    if solver == "sgd":
        np.testing.assert_allclose(ours.coefs_[0], theirs.coefs_[0], rtol=1e-8)


@SINCE_1_7
def test_poisson_with_its_penalty_and_in_the_order_of_the_rows():
    params = {"loss": "poisson", "solver": "sgd", "shuffle": False, "random_state": 0, "max_iter": 3}
    theirs, ours = (m(**params, alpha=1).fit(X, COUNTS) for m in (sk.MLPRegressor, MLPRegressor))
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-3)


def test_poisson_of_no_hidden_layer_is_the_linear_model():
    model = regressor("poisson", hidden_layer_sizes=(), alpha=0, max_iter=500, tol=0, learning_rate_init=0.01)
    linear = PoissonRegressor(alpha=0).fit(X, COUNTS)
    np.testing.assert_allclose(model.fit(X, COUNTS).predict(X), linear.predict(X), rtol=0.01)


# What the outputs mean


@BY_NAME
@pytest.mark.parametrize("y", [COUNTS, np.c_[COUNTS, COUNTS + 1.0]], ids=["one", "two"])
def test_the_loss_is_fastnns_over_all_targets(name, y):
    """The curve begins with the loss of the initial weights: all rows are a batch."""
    model = regressor(name, alpha=0, batch_size=400, max_iter=1).fit(X, y)
    start = regressor(name, alpha=0, batch_size=400, max_iter=1, learning_rate_init=1e-12).fit(X, y)
    outputs = start._outputs(X)[0]
    targets = 1 if y.ndim == 1 else y.shape[1]
    each = {"quantile": 3, "gaussian": 2}.get(name, 1)
    assert outputs.shape == (400, targets * each)
    loss = getattr(ref, type(LOSSES[name]).__name__)(**LOSSES[name].config()).forward(outputs, y)
    summed = {"squared_error": 0.5, "quantile": targets * 3}.get(name, targets)
    assert model.loss_ == pytest.approx(summed * loss, rel=1e-6)
    assert model.n_outputs_ == targets * each


@BY_NAME
@pytest.mark.parametrize("y", [Y, SEVERAL, Y[:, None]], ids=["one", "two", "column"])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")
def test_every_loss_learns(name, y):
    model = regressor(name, hidden_layer_sizes=16, max_iter=150, learning_rate_init=0.02, batch_size=50)
    model.fit(X, y)
    assert model.predict(X).shape == (y if y.shape[1:] != (1,) else y[:, 0]).shape
    assert model.score(X, y) == pytest.approx(r2_score(y, model.predict(X)))
    assert model.score(X, y) > 0.85
    again = regressor(
        LOSSES[name], hidden_layer_sizes=16, max_iter=150, learning_rate_init=0.02, batch_size=50
    )
    np.testing.assert_array_equal(predictions(again.fit(X, y)), predictions(model))


def test_quantiles():
    quantiles = [0.05, 0.4, 0.45, 0.95]
    model = regressor(fastnn.Quantile(quantiles), max_iter=200, learning_rate_init=0.02).fit(X, SEVERAL)
    shares = [(SEVERAL < model.predict(X, quantile=q)).mean(axis=0) for q in quantiles]
    np.testing.assert_allclose(shares, np.tile(np.array(quantiles)[:, None], 2), atol=0.07)
    np.testing.assert_array_equal(model.predict(X), model.predict(X, quantile=0.45))
    outputs = model._outputs(X)[0]
    np.testing.assert_array_equal(model.predict(X, quantile=0.95), outputs[:, [3, 7]])
    for wrong, words in (
        (0.5, r"quantile must be one of 0.05, 0.4, 0.45, 0.95, got 0.5"),
        (2, "one of 0.05"),
    ):
        with pytest.raises(ValueError, match=words):
            model.predict(X, quantile=wrong)
    with pytest.raises(TypeError, match="quantile must be a number"):
        model.predict(X, quantile="median")
    with pytest.raises(ValueError, match="return_std must be False"):
        model.predict(X, return_std=True)
    assert regressor(fastnn.Quantile(0.8)).fit(X, Y).predict(X).shape == (400,)


def test_means_and_standard_deviations():
    std = np.where(X[:, 0] > 0, 1.0, 0.1)
    y = np.c_[X[:, 1] + std * RNG.normal(size=400), X[:, 2]]
    model = regressor("gaussian", max_iter=300, learning_rate_init=0.02).fit(X, y)
    mean, sigma = model.predict(X, return_std=True)
    np.testing.assert_array_equal(mean, model.predict(X))
    assert mean.shape == sigma.shape == y.shape
    assert 0.8 < sigma[X[:, 0] > 0.2, 0].mean() < 1.2
    assert sigma[X[:, 0] < -0.2, 0].mean() < 0.2
    outputs = model._outputs(X)[0]
    np.testing.assert_array_equal(sigma, np.exp(outputs[:, 2:] / 2))
    with pytest.raises(ValueError, match="quantile must be None but for loss='quantile'"):
        model.predict(X, quantile=0.5)
    mean, sigma = (
        regressor("gaussian").fit(X.astype(np.float32), Y).predict(X.astype(np.float32), return_std=True)
    )
    assert mean.shape == sigma.shape == (400,)
    assert mean.dtype == sigma.dtype == np.float32


# What an estimator does


@BY_NAME
def test_copies_and_parts(name):
    for loss in (name, LOSSES[name]):
        model = regressor(loss, warm_start=True).fit(X, Y, WEIGHT)
        same = clone(model).fit(X, Y, WEIGHT)
        np.testing.assert_array_equal(predictions(same), predictions(model))
        assert repr(same.get_params()["loss"]) == repr(loss)
        twin = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(predictions(twin), predictions(model))
        for each in (model, twin):
            each.partial_fit(X[:50], Y[:50]).fit(X, Y)
        np.testing.assert_array_equal(predictions(twin), predictions(model))
    assert LOSSES[name].y is None


@BY_NAME
@pytest.mark.parametrize("early_stopping", [False, True])
def test_validation_and_callbacks(name, early_stopping):
    seen = []
    model = regressor(name, early_stopping=early_stopping)
    model.fit(
        X[:300],
        SEVERAL[:300],
        WEIGHT[:300],
        validation=(X[300:], SEVERAL[300:], WEIGHT[300:]),
        callbacks=[lambda trainer, history: seen.append(history.val_loss[-1])],
    )
    assert len(seen) == len(model.validation_scores_) == 5
    if not early_stopping:
        score = r2_score(SEVERAL[300:], model.predict(X[300:]), sample_weight=WEIGHT[300:])
        assert model.validation_scores_[-1] == pytest.approx(score)
        assert np.isfinite(seen).all()


def test_search():
    grid = {"loss": ["squared_error", "huber", fastnn.Huber(0.1), fastnn.Quantile([0.3, 0.6]), "gaussian"]}
    search = GridSearchCV(regressor("huber"), grid, cv=2, n_jobs=2)
    with joblib.parallel_backend("threading"):
        search.fit(X, Y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    alone = [cross_val_score(regressor(loss), X, Y, cv=2).mean() for loss in grid["loss"]]
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], alone)


def test_a_model_answers_as_it_was_trained():
    model = regressor("quantile").fit(X, Y)
    before = predictions(model)
    model.set_params(loss="poisson")
    np.testing.assert_array_equal(predictions(model), before)
    for go_on in (model.partial_fit, model.set_params(warm_start=True).fit):
        with pytest.raises(ValueError, match="dtype and loss must be as in the previous call"):
            go_on(X, Y)
    np.testing.assert_array_equal(predictions(model), before)
    assert model.set_params(warm_start=False).fit(X, Y).predict(X).min() > 0


@pytest.mark.parametrize("loss", ["poisson", fastnn.Poisson()], ids=str)
def test_negative_targets_are_refused(loss):
    bad = np.where(np.arange(400) == 7, -1, COUNTS)
    words = r"y must hold numbers >= 0 for loss='poisson', got -1"
    for call in (
        lambda m: m.fit(X, bad),
        lambda m: m.partial_fit(X, bad),
        lambda m: m.fit(X, COUNTS, validation=(X, bad)),
    ):
        with pytest.raises(ValueError, match=words):
            call(regressor(loss))


def test_an_explosion_is_an_error():
    for name in ("poisson", "gaussian"):
        with pytest.raises(ValueError, match="the model is as it was before the call"):
            regressor(name, solver="sgd", learning_rate_init=1e4, max_iter=50).fit(X, COUNTS * 100)
    with pytest.raises(ValueError, match="the model is as it was before the call"):
        regressor("poisson").fit(X, COUNTS, validation=(1e6 * X, COUNTS))


@pytest.mark.parametrize("loss", ["absolute", None, fastnn.SoftmaxCrossEntropy(), fastnn.Huber, 3], ids=str)
def test_other_losses_are_refused(loss):
    with pytest.raises(ValueError, match="'loss' parameter of MLPRegressor"):
        regressor(loss).fit(X, Y)


# Label smoothing

IRIS = scale(load_iris().data), load_iris().target
TWO = IRIS[0], IRIS[1] == 0
LABELS = make_multilabel_classification(150, random_state=0)
SETS = pytest.mark.parametrize("data", [IRIS, TWO, LABELS], ids=["three", "two", "labels"])


@SETS
def test_smoothed_labels(data):
    """A prediction that is sure is as sure as its targets."""
    params = {"max_iter": 300, "learning_rate_init": 0.02, "random_state": 0}
    model, plain = (MLPClassifier(20, label_smoothing=s, **params).fit(*data) for s in (0.4, 0))
    sure = 1 - 0.4 + 0.4 / (3 if data is IRIS else 2)
    smoothed, others = (np.quantile(m.predict_proba(data[0]).max(axis=1), 0.8) for m in (model, plain))
    assert smoothed < sure + 0.08 < others
    assert abs(model.score(*data) - plain.score(*data)) < 0.2
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(data[0]), model.predict(data[0]))


@SETS
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_smoothing_is_that_of_the_targets(data, class_weight):
    """All rows are a batch, and the rate is next to nothing."""
    (x, y), seen, w = data, [], WEIGHT[:150]
    model = MLPClassifier(
        8,
        label_smoothing=0.2,
        class_weight=class_weight,
        learning_rate_init=1e-12,
        batch_size=150,
        alpha=0,
        max_iter=1,
        random_state=0,
    )
    model.fit(x, y, w, validation=data, callbacks=[lambda t, h: seen.append(h.val_loss[-1])])
    z = model._outputs(x)[0]
    if data is IRIS:
        loss, t = ref.SoftmaxCrossEntropy(), 0.8 * np.eye(3)[y] + 0.2 / 3
    else:
        loss, t = ref.SigmoidCrossEntropy(), 0.8 * y.reshape(z.shape) + 0.1
    weights = w if class_weight is None else w * compute_sample_weight(class_weight, y)
    outputs = 1 if data is IRIS else z.shape[1]
    assert model.loss_ == pytest.approx(outputs * loss.forward(z, t, weights), rel=1e-5)
    assert seen[0] == pytest.approx(loss.forward(z, t), rel=1e-5)
    right = (model.predict(x) == y).reshape(150, -1).all(axis=1)
    assert model.validation_scores_ == [pytest.approx(right.mean())]


@SETS
def test_no_smoothing_is_as_before(data):
    a, b = (
        MLPClassifier(8, max_iter=3, random_state=0, **more).fit(*data)
        for more in ({}, {"label_smoothing": 0})
    )
    np.testing.assert_array_equal(a.coefs_[0], b.coefs_[0])


def test_smoothing_of_weighted_classes_and_parts():
    given = {"class_weight": {False: 1, True: 3}, "label_smoothing": 0.1, "random_state": 0}
    model = MLPClassifier(8, max_iter=3, early_stopping=True, **given).fit(*TWO)
    assert len(model.validation_scores_) == 3
    parts = MLPClassifier(8, **given).partial_fit(*TWO, classes=[False, True]).partial_fit(*TWO)
    with pytest.raises(ValueError, match="dtype and label_smoothing must be as in the previous call"):
        parts.set_params(label_smoothing=0.2).partial_fit(*TWO)
    with pytest.raises(ValueError, match="'label_smoothing' parameter of MLPClassifier"):
        MLPClassifier(label_smoothing=1).fit(*IRIS)
