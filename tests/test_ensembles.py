"""Estimators of several networks, and of several folds, trained side by side: each to the bits of its own."""

import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
import sklearn
from scipy.sparse import csr_matrix
from sklearn import model_selection
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes, load_digits, load_iris, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, make_scorer
from sklearn.model_selection import GroupKFold, KFold, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale

import fastnn
from fastnn.estimators import MLPClassifier, MLPRegressor, cross_validate

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

DIGITS = load_digits().data[:600] / 16, load_digits().target[:600]
BINARY = DIGITS[0], np.where(DIGITS[1] == 3, "three", "other")
DIABETES = scale(load_diabetes().data), scale(load_diabetes().target)
SEVERAL = DIABETES[0], np.c_[DIABETES[1], DIABETES[0][:, 0] ** 2]
LABELS = make_multilabel_classification(300, random_state=0)
LABELS = scale(LABELS[0]), LABELS[1]
WEIGHTS = np.random.default_rng(0).uniform(0.1, 2, 600)
SMALL = {"hidden_layer_sizes": (12,), "max_iter": 4, "random_state": 0, "learning_rate_init": 0.01}


def classifier(**params):
    return MLPClassifier(**SMALL | params)


def regressor(*loss, **params):
    return MLPRegressor(*loss, **SMALL | params)


def parts(model):
    """Return all that training has made of a model."""
    return [model.loss_curve_, model.n_iter_, *model.coefs_, *model.intercepts_]


def assert_same(a, b):
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, other)


def alone(model, X, y, sample_weight=None, sample=True):
    """Yield each member of an ensemble as it is trained by itself."""
    for seed, of_sample in np.random.RandomState(0).randint(2**31 - 1, size=(model.n_ensemble, 2)):
        rows = np.random.RandomState(of_sample).randint(len(y), size=len(y)) if sample else np.arange(len(y))
        weights = () if sample_weight is None else (sample_weight[rows],)
        member = clone(model).set_params(n_ensemble=1, random_state=int(seed))
        yield member.fit(X[rows], y[rows], *weights)


# Members


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (classifier(), DIGITS),
        (classifier(solver="sgd", learning_rate="adaptive", momentum=0.5), BINARY),
        (classifier(dropout=0.2, batch_norm=True, batch_size=37), DIGITS),
        (classifier(dtype="float32", shuffle=False), DIGITS),
        (classifier(), LABELS),
        (classifier(hidden_layer_sizes=(30,)), (csr_matrix(DIGITS[0]), DIGITS[1])),
        (classifier(solver="lbfgs"), DIGITS),
        (regressor(), DIABETES),
        (regressor("gaussian"), SEVERAL),
        (regressor(fastnn.Quantile([0.2, 0.5])), DIABETES),
    ],
    ids=str,
)
@pytest.mark.parametrize("weighted", [False, True])
def test_members_are_trained_as_by_themselves(model, data, weighted):
    weights = WEIGHTS[: len(data[1])] if weighted else None
    model = clone(model).set_params(n_ensemble=3).fit(*data, weights)
    assert len(model.estimators_) == 3
    for member, other in zip(model.estimators_, alone(model, *data, weights), strict=True):
        assert_same(parts(member), parts(other))
        np.testing.assert_array_equal(member.predict(data[0]), other.predict(data[0]))
    assert model.n_iter_ == max(m.n_iter_ for m in model.estimators_)
    assert model.loss_ == np.mean([m.loss_ for m in model.estimators_])


@pytest.mark.parametrize("make", [classifier, regressor])
def test_without_bootstrap_members_differ_by_their_seeds(make):
    data = DIGITS if make is classifier else DIABETES
    params = {"early_stopping": True, "n_ensemble": 2, "max_iter": 12, "n_iter_no_change": 2}
    model = make(**params, bootstrap=False).fit(*data)
    for member, other in zip(model.estimators_, alone(model, *data, sample=False), strict=True):
        assert_same(parts(member), parts(other))
        assert member.validation_scores_ == other.validation_scores_
    assert parts(model.estimators_[0])[0] != parts(model.estimators_[1])[0]


def test_a_sample_has_none_of_the_rows_set_aside():
    """Rows that tell themselves: the first weights of a row that never came stay as they began."""
    X = np.eye(60)
    model = MLPClassifier(
        (4,), solver="sgd", momentum=0, alpha=0, early_stopping=True, n_ensemble=3, max_iter=3, random_state=0
    ).fit(X, np.arange(60) % 2)
    begun = MLPClassifier((4,), solver="sgd", momentum=0, alpha=0, max_iter=1, learning_rate_init=1e-300)
    for member in model.estimators_:
        begun.set_params(random_state=member.random_state).fit(X, np.arange(60) % 2)
        moved = (member.coefs_[0] != begun.coefs_[0]).any(axis=1).sum()
        assert 20 < moved <= 54  # of 54 rows some 63 %


def test_one_network_is_what_it_was():
    plain, one = classifier().fit(*DIGITS), classifier(n_ensemble=1, bootstrap=False).fit(*DIGITS)
    assert_same(parts(plain), parts(one))
    assert not hasattr(plain, "estimators_")


@pytest.mark.parametrize("n", [1, 2])
def test_bits_do_not_depend_on_threads(n):
    with fastnn.threads(n):
        model = classifier(n_ensemble=5).fit(*DIGITS)
    assert_same(
        [model.predict_proba(DIGITS[0])], [classifier(n_ensemble=5).fit(*DIGITS).predict_proba(DIGITS[0])]
    )


@pytest.mark.parametrize("data", [DIGITS, BINARY, LABELS, (DIGITS[0], np.zeros(600))], ids=str)
def test_probabilities_are_averaged(data):
    model = classifier(n_ensemble=4).fit(*data)
    mean = np.mean([m.predict_proba(data[0]) for m in model.estimators_], axis=0)
    p = model.predict_proba(data[0])
    np.testing.assert_allclose(p, mean, rtol=1e-12)
    assert p.max() <= 1
    np.testing.assert_allclose(np.exp(model.predict_log_proba(data[0])), p)
    if data is LABELS:
        expected = (mean > 0.5).astype(int)
    else:
        np.testing.assert_allclose(p.sum(axis=1), 1)
        expected = model.classes_[mean.argmax(axis=1)]
    np.testing.assert_array_equal(model.predict(data[0]), expected)


def test_logarithms_of_probabilities_are_not_rounded():
    X = np.array([[-1.0], [1.0]] * 20)
    model = classifier(n_ensemble=2, max_iter=20, alpha=0).fit(X, X[:, 0] > 0)
    log = model.predict_log_proba(np.array([[1e6]]))
    assert np.isfinite(log).all()
    assert log.min() < -800


def test_predictions_and_their_spread():
    model = regressor(n_ensemble=4).fit(*SEVERAL)
    each = [m.predict(SEVERAL[0]) for m in model.estimators_]
    np.testing.assert_array_equal(model.predict(SEVERAL[0]), np.mean(each, axis=0))
    mean, spread = model.predict(SEVERAL[0], return_std=True)
    np.testing.assert_allclose(spread, np.std(each, axis=0))
    with pytest.raises(ValueError, match="return_std"):
        regressor().fit(*DIABETES).predict(DIABETES[0], return_std=True)

    model = regressor("gaussian", n_ensemble=3).fit(*DIABETES)
    means, stds = zip(*(m.predict(DIABETES[0], return_std=True) for m in model.estimators_), strict=True)
    mean, std = model.predict(DIABETES[0], return_std=True)
    np.testing.assert_allclose(mean, np.mean(means, axis=0))
    np.testing.assert_allclose(std**2, np.mean(np.square(stds), axis=0) + np.var(means, axis=0))

    model = regressor(fastnn.Quantile([0.2, 0.5]), n_ensemble=3).fit(*DIABETES)
    each = [m.predict(DIABETES[0], quantile=0.2) for m in model.estimators_]
    np.testing.assert_allclose(model.predict(DIABETES[0], quantile=0.2), np.mean(each, axis=0))


def test_members_know_classes_that_their_samples_lack():
    y = np.zeros(40, int)
    y[0], y[1] = 1, 2
    model = classifier(n_ensemble=4).fit(DIGITS[0][:40], y)
    assert all(m.predict_proba(DIGITS[0]).shape == (600, 3) for m in model.estimators_)
    assert model.predict_proba(DIGITS[0]).shape == (600, 3)


def test_class_weights_are_those_of_all_rows():
    y = (DIGITS[1] == 3).astype(int)
    share = y.mean()
    balanced = classifier(n_ensemble=2, class_weight="balanced").fit(DIGITS[0], y)
    given = {0: 0.5 / (1 - share), 1: 0.5 / share}
    same = classifier(n_ensemble=2, class_weight=given).fit(DIGITS[0], y)
    np.testing.assert_allclose(balanced.predict_proba(DIGITS[0]), same.predict_proba(DIGITS[0]), rtol=1e-6)


def test_partial_fits_go_on_with_other_samples():
    model = classifier(n_ensemble=2, hidden_layer_sizes=(12,))
    draws = np.random.RandomState(0).randint(2**31 - 1, size=(2, 2))
    others = [classifier(random_state=int(seed)) for seed, _ in draws]
    samples = [np.random.RandomState(seed) for _, seed in draws]
    for part in (slice(0, 300), slice(300, 600)):
        X, y = DIGITS[0][part], DIGITS[1][part]
        model.partial_fit(X, y, classes=np.arange(10))
        for other, sample in zip(others, samples, strict=True):
            rows = sample.randint(300, size=300)
            other.partial_fit(X[rows], y[rows], classes=np.arange(10))
    for member, other in zip(model.estimators_, others, strict=True):
        assert_same(parts(member), parts(other))
    assert model.t_ == 1200


def test_a_warm_start_goes_on():
    model = classifier(n_ensemble=2, bootstrap=False, warm_start=True).fit(*DIGITS)
    members, curves = model.estimators_, [list(m.loss_curve_) for m in model.estimators_]
    model.set_params(max_iter=2).fit(*DIGITS)
    assert [len(m.loss_curve_) for m in model.estimators_] == [6, 6]
    assert [m.loss_curve_[:4] for m in model.estimators_] == curves
    assert model.n_iter_ == 2
    with pytest.raises(ValueError, match="n_ensemble must be as in the previous call, 2"):
        model.set_params(n_ensemble=3).fit(*DIGITS)
    with pytest.raises(ValueError, match="n_ensemble must be as in the previous call, 2"):
        model.set_params(n_ensemble=1).partial_fit(*DIGITS)
    assert len(members) == 2


def test_an_error_changes_nothing():
    model = classifier(n_ensemble=3, warm_start=True, solver="sgd").fit(*DIGITS)
    before, curves = model.predict_proba(DIGITS[0]), [list(m.loss_curve_) for m in model.estimators_]
    members = model.estimators_
    model.set_params(learning_rate_init=1e200)
    with pytest.raises(ValueError, match="non-finite"):
        model.fit(*DIGITS)
    with pytest.raises(ValueError, match="non-finite"):
        model.partial_fit(DIGITS[0] * 1e300, DIGITS[1])
    assert model.estimators_ is members
    np.testing.assert_array_equal(model.predict_proba(DIGITS[0]), before)
    assert [m.loss_curve_ for m in model.estimators_] == curves
    model.set_params(learning_rate_init=0.01).partial_fit(*DIGITS)
    with pytest.raises(ValueError, match="non-finite"):
        classifier(n_ensemble=3, solver="sgd", learning_rate_init=1e200).fit(*DIGITS)


def test_an_ensemble_has_what_members_have_in_members():
    model = classifier(n_ensemble=2).fit(*DIGITS)
    for name in ("coefs_", "intercepts_", "loss_curve_", "best_loss_", "validation_scores_"):
        with pytest.raises(AttributeError, match=rf"{name} is an attribute of each member.*estimators_\[0\]"):
            getattr(model, name)
        assert not hasattr(model, name)
        assert hasattr(model.estimators_[0], name)
    with pytest.raises(AttributeError, match="no attribute 'coefs_'"):
        classifier(n_ensemble=2).coefs_  # noqa: B018
    with pytest.raises(ValueError, match="n_ensemble must be 1"):
        model.to_sklearn()
    one = model.estimators_[0]
    np.testing.assert_allclose(one.to_sklearn().predict_proba(DIGITS[0]), one.predict_proba(DIGITS[0]))
    model.set_params(n_ensemble=1).fit(*DIGITS)
    assert not hasattr(model, "estimators_")
    assert_same(parts(model), parts(classifier().fit(*DIGITS)))
    model.set_params(n_ensemble=2).fit(*DIGITS)
    assert not hasattr(model, "coefs_")


def test_ensembles_are_copied_and_pickled():
    model = classifier(n_ensemble=2, batch_norm=True).fit(*DIGITS)
    for other in (pickle.loads(pickle.dumps(model)), clone(model).fit(*DIGITS)):
        np.testing.assert_array_equal(other.predict_proba(DIGITS[0]), model.predict_proba(DIGITS[0]))
    other = pickle.loads(pickle.dumps(model))
    assert_same(
        [other.partial_fit(*DIGITS).predict_proba(DIGITS[0])],
        [model.partial_fit(*DIGITS).predict_proba(DIGITS[0])],
    )


def test_callbacks_serve_each_member():
    seen = []
    stop = fastnn.callbacks.EarlyStopping("val_loss", patience=1)
    model = classifier(n_ensemble=3, max_iter=3).fit(
        *DIGITS, validation=DIGITS, callbacks=[lambda trainer, history: seen.append(id(trainer)), stop]
    )
    assert len(set(seen)) == 3
    assert len(seen) == 9
    assert [len(m.validation_scores_) for m in model.estimators_] == [3, 3, 3]


def test_frames_name_their_features():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(DIABETES[0], columns=[f"x{i}" for i in range(10)])
    model = regressor(n_ensemble=2).fit(frame, DIABETES[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(frame)
        model.estimators_[0].predict(frame)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame.rename(columns={"x0": "y"}))


@pytest.mark.parametrize(
    "bad", [{"n_ensemble": 0}, {"n_ensemble": 2.0}, {"bootstrap": 1}, {"n_ensemble": "2"}]
)
def test_parameters_are_checked(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        classifier(**bad).fit(*DIGITS)


# Cross-validation


def assert_alike(ours, theirs):
    """Compare results of cross_validate: all but times, and of times what they are."""
    assert list(ours) == list(theirs)
    for name, values in theirs.items():
        if name.endswith("_time"):
            assert ours[name].dtype == values.dtype
            assert ours[name].shape == values.shape
            assert (ours[name] > 0).all()
        elif name == "estimator":
            assert list(map(type, ours[name])) == list(map(type, values))
        elif name == "indices":
            for part in ("train", "test"):
                assert_same(ours[name][part], values[part])
        else:
            assert ours[name].dtype == values.dtype
            np.testing.assert_array_equal(ours[name], values, err_msg=name)


def both(estimator, X, y, **options):
    return cross_validate(estimator, X, y, **options), model_selection.cross_validate(
        estimator, X, y, **options
    )


GROUPS = np.arange(600) // 50
ALL = {"return_train_score": True, "return_estimator": True, "return_indices": True}


@pytest.mark.parametrize(
    ("estimator", "data", "options"),
    [
        (classifier(), DIGITS, {}),
        (classifier(dtype="float32", dropout=0.1, batch_norm=True), DIGITS, {"cv": 3, **ALL}),
        (classifier(early_stopping=True), DIGITS, {"cv": KFold(3, shuffle=True, random_state=1)}),
        (
            classifier(),
            BINARY,
            {"scoring": ["accuracy", "neg_log_loss"], "cv": 4, "return_train_score": True},
        ),
        (classifier(), LABELS, {"cv": 3}),
        (
            classifier(shuffle=False),
            (DIGITS[0].astype(np.float32), DIGITS[1]),
            {"groups": GROUPS, "cv": GroupKFold(3)},
        ),
        (classifier(class_weight="balanced"), DIGITS, {"params": {"sample_weight": WEIGHTS}}),
        (classifier(class_weight="balanced"), LABELS, {"params": {"sample_weight": list(WEIGHTS[:300])}}),
        (classifier(solver="lbfgs"), DIGITS, {"cv": 3}),
        (classifier(n_ensemble=2), DIGITS, {"cv": 3}),
        (classifier(), (csr_matrix(DIGITS[0]), DIGITS[1]), {"cv": 3}),
        (classifier(), (DIGITS[0].tolist(), DIGITS[1].tolist()), {"cv": 3}),
        (
            classifier(),
            DIGITS,
            {"cv": [(np.r_[0:300, 0:300], np.arange(300, 600)), (np.arange(600) < 500, [1, 2])]},
        ),
        (classifier(), (DIGITS[0], np.sort(DIGITS[1])), {"cv": KFold(5)}),  # each fold lacks classes
        (regressor(), DIABETES, {"scoring": ("r2", "neg_mean_absolute_error")}),
        (regressor("gaussian"), SEVERAL, {"cv": ShuffleSplit(3, random_state=0)}),
        (make_pipeline(StandardScaler(), classifier()), DIGITS, ALL),
        (make_pipeline(StandardScaler(), make_pipeline("passthrough", regressor())), DIABETES, {}),
        (
            make_pipeline(StandardScaler(), classifier()),
            DIGITS,
            {"params": {"mlpclassifier__sample_weight": WEIGHTS}},
        ),
    ],
    ids=lambda value: str(value)[:60] if not isinstance(value, tuple) else "",
)
def test_the_result_is_scikit_learns(estimator, data, options):
    before = estimator.get_params()
    ours, theirs = both(estimator, *data, **options)
    assert_alike(ours, theirs)
    assert not any(name in vars(estimator) for name in ("fit", "__sklearn_clone__", "estimators_", "coefs_"))
    assert estimator.get_params().keys() == before.keys()
    for one, other in zip(ours.get("estimator", ()), theirs.get("estimator", ()), strict=True):
        assert "fit" not in vars(one)
        models = [e[-1] if hasattr(e, "steps") else e for e in (one, other)]
        assert_same(*map(parts, models))
        np.testing.assert_array_equal(one.predict(data[0]), other.predict(data[0]))


def test_frames_are_taken():
    pandas = pytest.importorskip("pandas")
    frame, y = pandas.DataFrame(DIABETES[0]).add_prefix("x"), pandas.Series(DIABETES[1], index=range(5, 447))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        ours, theirs = both(regressor(), frame, y, return_estimator=True)
    assert_alike(ours, theirs)
    assert ours["estimator"][0].feature_names_in_.tolist() == list(frame.columns)


def test_a_scorer_of_ones_own_sees_the_model():
    seen = []

    def score(model, X, y):
        seen.append(type(model))
        return log_loss(y, model.predict_proba(X))

    assert_alike(*both(classifier(), *DIGITS, scoring=score))
    assert set(seen) == {MLPClassifier}
    assert_alike(*both(classifier(), *DIGITS, scoring=lambda m, X, y: {"a": m.score(X, y), "b": 1.0}))
    assert_alike(*both(regressor(), *DIABETES, scoring=make_scorer(lambda t, y: np.abs(t - y).max())))


def poisoned(rows):
    """Return data in which these rows make a training diverge."""
    X = DIABETES[0].copy()
    X[rows] = 1e300
    return X, DIABETES[1]


@pytest.mark.filterwarnings("ignore:X has values as large")
def test_a_fold_that_fails():
    first = [np.arange(0, 200), np.arange(200, 442)]
    X, y = poisoned([0])
    options = {"cv": [(first[0], first[1]), (first[1], first[0][1:])], "return_train_score": True}
    with pytest.warns(FitFailedWarning, match="1 fits failed out of a total of 2"):
        ours = cross_validate(regressor(), X, y, error_score=-7, **options)
    with pytest.warns(FitFailedWarning):
        theirs = model_selection.cross_validate(regressor(), X, y, error_score=-7, **options)
    assert list(ours) == list(theirs)
    assert ours["test_score"][0] == -7
    np.testing.assert_array_equal(ours["test_score"], theirs["test_score"])
    np.testing.assert_array_equal(ours["train_score"], theirs["train_score"])
    with pytest.raises(ValueError, match="non-finite"):
        cross_validate(regressor(), X, y, error_score="raise", **options)
    with pytest.raises(ValueError, match="All the 2 fits failed"):
        cross_validate(regressor(solver="sgd", learning_rate_init=1e200), *DIABETES, cv=2)
    with pytest.raises(ValueError, match="contains NaN"):
        cross_validate(classifier(), DIGITS[0] * np.nan, DIGITS[1], cv=2)
    X = DIABETES[0].copy()
    X[0] = np.nan  # of one fold
    with pytest.warns(FitFailedWarning, match="1 fits failed"):
        ours = cross_validate(regressor(), X, y, cv=options["cv"])
    assert np.isnan(ours["test_score"][0])
    assert np.isfinite(ours["test_score"][1])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: cross_validate(LogisticRegression(), *DIGITS),
            TypeError,
            "must be an MLPClassifier.*LogisticR",
        ),
        (lambda: cross_validate(make_pipeline(StandardScaler()), *DIGITS), TypeError, "StandardScaler"),
        (
            lambda: cross_validate(TransformedTargetRegressor(regressor()), *DIABETES),
            TypeError,
            "Transformed",
        ),
        (lambda: cross_validate(classifier(), *DIGITS, error_score="no"), ValueError, "error_score"),
        (lambda: cross_validate(classifier(), *DIGITS, scoring="no"), ValueError, "scoring"),
        (lambda: cross_validate(classifier(), *DIGITS, cv="no"), ValueError, "cv"),
        (lambda: cross_validate(classifier(), DIGITS[0], DIGITS[1][:9]), ValueError, "inconsistent"),
        (
            lambda: cross_validate(classifier(), *DIGITS, return_train_score=3),
            ValueError,
            "return_train_score",
        ),
        (lambda: cross_validate(classifier(alpha=-1), *DIGITS), ValueError, "alpha"),
        (
            lambda: cross_validate(classifier(), *DIGITS, params={"no": 1}, error_score="raise"),
            TypeError,
            "no",
        ),
    ],
)
def test_what_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_callbacks_and_validation_of_all_folds():
    calls = []
    params = {"callbacks": [lambda trainer, history: calls.append(id(trainer))], "validation": DIGITS}
    result = cross_validate(classifier(), *DIGITS, cv=3, params=params, return_estimator=True)
    assert len(calls) == 12
    assert len(set(calls)) == 3
    assert all(len(model.validation_scores_) == 4 for model in result["estimator"])


def test_metadata_are_routed():
    with sklearn.config_context(enable_metadata_routing=True):
        model = classifier().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        options = {"params": {"sample_weight": WEIGHTS, "groups": GROUPS}, "cv": GroupKFold(3)}
        assert_alike(*both(model, *DIGITS, **options))
        pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), model)
        assert_alike(*both(pipeline, *DIGITS, **options))


def test_folds_are_read_where_they_lie():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(4000, 400)), np.arange(4000) % 2
    model = classifier(hidden_layer_sizes=(4,), max_iter=1)
    cross_validate(model, X[:100], y[:100], cv=2)
    tracemalloc.start()
    cross_validate(model, X, y, cv=10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * X.nbytes  # scikit-learn has the rows of one fold when it scores this; ten would be 9


@pytest.mark.parametrize("n", [1, 2])
def test_folds_have_their_bits_on_any_number_of_threads(n):
    with fastnn.threads(n):
        ours = cross_validate(classifier(), *DIGITS, scoring="neg_log_loss")
    theirs = model_selection.cross_validate(classifier(), *DIGITS, scoring="neg_log_loss")
    assert_alike(ours, theirs)


def test_random_states_are_copied_for_each_fold():
    model = clone(classifier()).set_params(random_state=np.random.RandomState(3))
    assert_alike(*both(model, *DIGITS))


def test_iris_by_a_course():
    X, y = load_iris(return_X_y=True)
    result = cross_validate(make_pipeline(StandardScaler(), MLPClassifier(random_state=0)), X, y)
    assert result["test_score"].mean() > 0.9
