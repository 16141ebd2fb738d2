"""Metrics: figures beside scikit-learn's, and how `fit` and `evaluate` use them; with both packages."""

import functools
import math

import numpy as np
import pytest

import fastnn
from fastnn import callbacks as cb
from fastnn import metrics
from fastnn import reference as ref
from fastnn.metrics import accuracy, auc, f1, mae, mse, r2, rmse, top_k
from tolerances import assert_same_bits

ROWS = 60


@pytest.fixture(params=[fastnn, ref], ids=["native", "reference"])
def module(request):
    return request.param


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def classes(several, seed, ties=False):
    """Return labels and probabilities of classes, of which the last never occurs if there are many."""
    rng = np.random.default_rng(seed)
    t = rng.integers(0, several - (several > 3), ROWS)
    logits = rng.normal(size=(ROWS, several)) + 2 * np.eye(several)[t]
    return t, softmax(np.round(logits) if ties else logits)


WEIGHTS = [None, np.random.default_rng(5).integers(0, 4, ROWS).astype(float)]


# Beside scikit-learn


@pytest.mark.parametrize("w", WEIGHTS, ids=["plain", "weighted"])
@pytest.mark.parametrize("several", [2, 3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_classes(several, seed, w):
    sk = pytest.importorskip("sklearn.metrics")
    t, y = classes(several, seed)
    decided = y.argmax(axis=1)
    average = {"average": "binary"} if several == 2 else {"average": "macro"}
    expected = sk.f1_score(t, decided, sample_weight=w, zero_division=0, **average)
    assert accuracy(t, y, sample_weight=w) == pytest.approx(sk.accuracy_score(t, decided, sample_weight=w))
    assert f1(t, y, sample_weight=w) == pytest.approx(expected)
    if several > 2:
        for k in (1, 2):
            theirs = sk.top_k_accuracy_score(t, y, k=k, sample_weight=w, labels=range(several))
            assert top_k(t, y, k, sample_weight=w) == pytest.approx(theirs)
    areas = [
        sk.roc_auc_score(t == c, y[:, c], sample_weight=w)
        for c in ([1] if several == 2 else range(several))
        if 0 < (t == c).sum() < ROWS
    ]
    assert auc(t, y, sample_weight=w) == pytest.approx(np.mean(areas))
    if several == 3:
        assert auc(t, y) == pytest.approx(sk.roc_auc_score(t, y, multi_class="ovr"))
    for metric in (accuracy, f1, auc):  # in their other forms
        value = metric(t, y, sample_weight=w)
        for same in (np.eye(several)[t], t.astype(float), t[:, None], list(t)):
            assert metric(same, y, sample_weight=w) == pytest.approx(value, rel=1e-12)
        if several == 2:
            for one in (y[:, 1], y[:, 1:]):
                assert metric(t == 1, one, sample_weight=w) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("w", WEIGHTS, ids=["plain", "weighted"])
@pytest.mark.parametrize("seed", range(3))
def test_ties(seed, w):
    sk = pytest.importorskip("sklearn.metrics")
    t, y = classes(2, seed, ties=True)
    assert len(np.unique(y[:, 1])) < ROWS / 2
    assert auc(t, y, sample_weight=w) == pytest.approx(sk.roc_auc_score(t, y[:, 1], sample_weight=w))


@pytest.mark.parametrize("w", WEIGHTS, ids=["plain", "weighted"])
def test_several_labels_a_row(w):
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    t = rng.integers(0, 2, (ROWS, 3))
    y = 1 / (1 + np.exp(-rng.normal(size=t.shape) - t))
    decided = (y > 0.5).astype(int)
    by_column = np.mean([sk.accuracy_score(t[:, j], decided[:, j], sample_weight=w) for j in range(3)])
    assert accuracy(t, y, sample_weight=w) == pytest.approx(by_column)
    assert f1(t, y, sample_weight=w) == pytest.approx(
        sk.f1_score(t, decided, average="macro", sample_weight=w)
    )
    assert auc(t, y, sample_weight=w) == pytest.approx(sk.roc_auc_score(t, y, sample_weight=w))


@pytest.mark.parametrize("w", WEIGHTS, ids=["plain", "weighted"])
@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 1), (ROWS, 3)])
def test_numbers(shape, w):
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    t = rng.normal(size=shape)
    y = t + rng.normal(size=shape)
    squared = sk.mean_squared_error(t, y, sample_weight=w)
    assert mse(t, y, sample_weight=w) == pytest.approx(squared)
    assert rmse(t, y, sample_weight=w) == pytest.approx(math.sqrt(squared))
    assert mae(t, y, sample_weight=w) == pytest.approx(sk.mean_absolute_error(t, y, sample_weight=w))
    assert r2(t, y, sample_weight=w) == pytest.approx(sk.r2_score(t, y, sample_weight=w))
    if shape == (ROWS, 1):
        for metric in (mse, rmse, mae, r2):
            assert metric(t[:, 0], y, sample_weight=w) == metric(t, y, sample_weight=w)


# Edges


def test_of_equal_predictions_the_first_counts():
    y = np.full((4, 4), 0.25)
    assert [top_k(np.arange(4), y, k) for k in (1, 2, 3, 4, 9)] == [0.25, 0.5, 0.75, 1, 1]
    assert accuracy(np.arange(4), y) == 0.25
    assert accuracy([1, 0], [0.5, 0.5]) == 0.5  # not above a half: no


def test_one_class_only():
    y = np.array([0.2, 0.8, 0.6])
    for t in ([0, 0, 0], [1, 1, 1]):
        assert math.isnan(auc(t, y))
    assert math.isnan(auc([0, 1], [0.1, 0.2], sample_weight=[1, 0]))
    assert f1([0, 0, 0], [0.1, 0.2, 0.3]) == 0
    assert f1([1, 1, 1], y) == pytest.approx(0.8)
    two = auc(np.array([[0, 1], [1, 1], [0, 1]]), np.array([[0.1, 0.2], [0.9, 0.1], [0.2, 0.1]]))
    assert two == 1  # the second question has no negatives
    three = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1]])
    assert math.isnan(auc([0, 0], three))
    assert f1([0, 0], three) == 1  # the classes that do not occur do not count


def test_constant_targets():
    assert r2([0.1, 0.1, 0.1], [0.1, 0.1, 0.1]) == 1
    assert r2([0.1, 0.1, 0.1], [0.1, 0.1, 0.2]) == 0
    assert r2([5, 0.1, 0.1], [5, 0.1, 0.2], sample_weight=[0, 1, 1]) == 0
    assert math.isnan(r2([1.0], [1.0]))


@pytest.mark.parametrize("metric", [accuracy, f1, auc, mse, rmse, mae, r2])
def test_a_prediction_that_is_nan(metric):
    assert math.isnan(metric([0, 1, 1], [0.1, np.nan, 0.7]))


def test_classes_of_predictions_that_are_nan():
    y = softmax(np.zeros((3, 3)))
    y[1] = np.nan
    assert math.isnan(top_k([0, 1, 2], y, 2))
    assert math.isnan(f1([0, 1, 2], y))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: f1([0, 2], [0.1, 0.2]), ValueError, "^f1: y_true must hold 0 and 1"),
        (
            lambda: f1([0, 3], softmax(np.eye(2, 3))),
            ValueError,
            r"^f1: y_true must hold integers in \[0, 3\)",
        ),
        (lambda: auc([0, 0.5], softmax(np.eye(2, 3))), TypeError, "^auc: y_true must hold integers"),
        (lambda: accuracy([0, 1, 1], [0.1, 0.2]), ValueError, "^accuracy: y_true must have as many rows"),
        (lambda: mae(np.ones(2), np.ones((2, 2))), ValueError, "^mae: y_true must have the shape"),
        (lambda: mae([], []), ValueError, r"^mae: y_pred must have shape \(N,\) or"),
        (lambda: mse(["a"], [1.0]), TypeError, "^mse: y_true must hold real numbers"),
        (lambda: r2([1, 2], [1, 2], sample_weight=[1]), ValueError, "^r2: sample_weight must have shape"),
        (lambda: top_k([0, 1], [0.1, 0.2], 1), ValueError, "^top_k needs predictions of several"),
        (lambda: top_k([0, 1], np.eye(2), 0), ValueError, "^k must be an integer >= 1"),
    ],
)
def test_what_has_no_form(call, error, message):
    with pytest.raises(error, match=message):
        call()


# In a training


def data_set(several=3, rows=ROWS, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4))
    return x, (x @ rng.normal(size=(4, several))).argmax(axis=1)


def build(module, outputs=3, loss="SoftmaxCrossEntropy", **options):
    return module.Trainer(
        module.mlp([4, 8, outputs], seed=0), getattr(module, loss)(), module.Adam(0.01), **options
    )


def own(y_true, y_pred):
    assert len(y_true) == len(y_pred)
    return float(y_pred.max())


def test_figures_of_the_validation(module):
    x, t = data_set()
    names = ["f1", "auc", ("top_k", 2), "top_3", own, ("share", lambda t, y: (y.argmax(axis=1) == t).mean())]
    trainer, seen = build(module), []
    history = trainer.fit(
        *data_set(seed=1),
        epochs=3,
        validation=(x, t),
        metrics=names,
        callbacks=[lambda trainer, _: seen.append(trainer.predict_proba(x))],
    )
    recorded = ("loss", "val_loss", "val_accuracy")
    recorded += ("val_f1", "val_auc", "val_top_2", "val_top_3", "val_own", "val_share")
    assert history.recorded == recorded
    expected = {
        "val_accuracy": lambda y: accuracy(t, y),
        "val_f1": lambda y: f1(t, y),
        "val_auc": lambda y: auc(t, y),
        "val_top_2": lambda y: top_k(t, y, 2),
        "val_top_3": lambda y: 1.0,
        "val_own": np.max,
        "val_share": lambda y: accuracy(t, y),
    }
    for name, metric in expected.items():
        np.testing.assert_allclose(history[name], [metric(y) for y in seen], rtol=1e-12, err_msg=name)
        assert_same_bits(getattr(history, name), history[name])
    figures = trainer.evaluate(x, t, metrics=names, batch_size=7)
    assert {f"val_{name}": value for name, value in figures.items()} == pytest.approx(
        {name: history[name][-1] for name in history.recorded[1:]}, rel=1e-6
    )


def test_both_packages_agree():
    x, t = data_set()
    names = ["f1", "auc", "top_2"]
    native, oracle = (build(m).fit(x, t, 3, 16, validation_split=0.3, metrics=names) for m in (fastnn, ref))
    for name in ("val_loss", "val_f1", "val_auc", "val_top_2"):
        np.testing.assert_allclose(native[name], oracle[name], rtol=1e-4)


@pytest.mark.parametrize("loss", ["MeanSquaredError", "Huber", "MeanAbsoluteError", "Poisson"])
def test_figures_of_numbers(module, loss):
    x = data_set()[0]
    t = np.abs(x[:, 0])
    trainer = build(module, 1, loss)
    history = trainer.fit(x, t, epochs=2, validation=(x, t), metrics=["r2", "rmse", "mae", "mse"])
    y = trainer.predict_proba(x)
    assert history.recorded == ("loss", "val_loss", "val_r2", "val_rmse", "val_mae", "val_mse")
    for metric in (r2, rmse, mae, mse):
        assert history[f"val_{metric.__name__}"][-1] == pytest.approx(metric(t, y), rel=1e-6)
    if loss == "MeanSquaredError":
        np.testing.assert_allclose(history.val_mse, history.val_loss, rtol=1e-5)


def test_weights_of_the_validation(module):
    x, t = data_set()
    w = np.arange(ROWS, dtype=float)
    w[:20] = 0  # batches that weigh nothing are predicted, too
    figures = build(module).evaluate(x, t, w, batch_size=10, metrics=["f1", "accuracy"])
    y = build(module).predict_proba(x)
    assert figures["f1"] == pytest.approx(f1(t, y, sample_weight=w))
    assert figures["accuracy"] == pytest.approx(accuracy(t, y, sample_weight=w))

    def weighed(y_true, y_pred, sample_weight=None):
        return sample_weight.sum()

    history = build(module).fit(x, t, 1, validation=(x, t, w), metrics=[weighed])
    assert history.val_weighed == [w.sum()]
    trainer = build(module)
    with pytest.raises(ValueError, match=r"^metrics: own takes no sample_weight, which the validation has"):
        trainer.fit(x, t, 1, validation=(x, t, w), metrics=[own])
    assert trainer.steps == 0


def test_a_loss_that_is_a_function(module):
    def squared(y, t):
        return float(np.mean((y[:, 0] - t) ** 2)), 2 * (y - t[:, None]) / len(t)

    x = data_set()[0]
    trainer = module.Trainer(module.mlp([4, 1], seed=0), squared, module.SGD(0.1))
    history = trainer.fit(x, x[:, 0], 2, validation=(x, x[:, 0]), metrics=["mse", own])
    np.testing.assert_allclose(history.val_mse, history.val_loss, rtol=1e-5)
    assert history.val_own[-1] == trainer.predict(x).max()
    with pytest.raises(TypeError, match=r"^predict_proba needs a loss that has predictions\(y\)"):
        trainer.predict_proba(x)


def test_an_average_is_what_is_judged(module):
    x, t = data_set()
    trainer = build(module, average=0.9)
    history = trainer.fit(x, t, 2, validation=(x, t), metrics=["auc"])
    assert history.val_auc[-1] == pytest.approx(auc(t, trainer.predict_proba(x)), rel=1e-12)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("f1", TypeError, r"^metrics must be a list .*: write \['f1'\]"),
        (own, TypeError, "^metrics must be a list"),
        (3, TypeError, "^metrics must be a list .*, got 3"),
        (["F1"], ValueError, r"^metrics\[0\] must be one of accuracy, .*, got 'F1'"),
        ([own, 3], TypeError, r"^metrics\[1\] must be callable, got 3"),
        ([("top_k", 0)], ValueError, "^the k of top_k must be an integer >= 1, got 0"),
        (["top_0"], ValueError, r"^metrics\[0\] must be one of"),
        ([top_k], TypeError, r'^metrics\[0\] must be a name \("top_3"\)'),
        ([lambda t, y: 1.0], ValueError, r"^metrics\[0\] must have a name .* got '<lambda>'"),
        ([functools.partial(own)], ValueError, r"^metrics\[0\] must have a name"),
        (["f1", "f1"], ValueError, "^metrics must have names of their own, got 'f1' twice"),
        ([("loss", own)], ValueError, "^metrics must have names of their own, got 'loss'"),
        ([("accuracy", own)], ValueError, '^metrics: the loss has an "accuracy" itself'),
        ([("own", own, 3)], TypeError, r"^metrics\[0\] must be a pair"),
        (["r2"], ValueError, "^metrics: r2: y_true must have the shape"),
    ],
)
def test_what_is_no_metric_is_refused_at_once(module, value, error, message):
    trainer = build(module)
    with pytest.raises(error, match=message):
        trainer.fit(*data_set(), validation_split=0.5, metrics=value)
    assert trainer.steps == 0


def test_metrics_need_a_validation(module):
    for value in (["f1"], ["accuracy"]):
        with pytest.raises(ValueError, match=r"^metrics need validation data: give validation or valid"):
            build(module).fit(*data_set(), metrics=value)


@pytest.mark.parametrize("result", [None, "0.5", True, np.ones(2), 1j])
def test_a_metric_that_is_no_number(module, result):
    with pytest.raises(TypeError, match=r"^the metric bad must return a number, got"):
        build(module).evaluate(*data_set(), metrics=[("bad", lambda t, y: result)])


@pytest.mark.parametrize("result", [1, np.float32(1), np.array(1.0), np.int64(1)])
def test_a_metric_that_is_a_number(module, result):
    assert build(module).evaluate(*data_set(), metrics=[("good", lambda t, y: result)])["good"] == 1


def test_a_dict_of_metrics(module):
    figures = build(module).evaluate(*data_set(), metrics={"f1": own, "best": f1, "top_k": 2})
    y = build(module).predict_proba(data_set()[0])
    assert list(figures) == ["loss", "accuracy", "f1", "best", "top_2"]
    assert figures["f1"] == y.max()


def test_a_metric_cannot_change_the_targets(module):
    x, t = data_set()
    before = t.copy()
    with pytest.raises(ValueError, match="read-only"):
        build(module).evaluate(x, t, metrics=[("bad", lambda y_true, y_pred: y_true.fill(0))])
    assert_same_bits(t, before)
    assert t.flags.writeable


def test_callbacks_watch_metrics(module):
    x, t = data_set()
    stop = cb.EarlyStopping("val_f1", patience=2)
    history = build(module).fit(x, t, 30, validation_split=0.3, metrics=["f1"], callbacks=[stop])
    assert stop.best == history.val_f1.max()
    assert stop.best_epoch == history.val_f1.argmax() + 1
    loss = cb.EarlyStopping("val_rmse", patience=2)
    history = build(module, 1, "MeanSquaredError").fit(
        x, x[:, 0], 5, validation=(x, x[:, 0]), metrics=["rmse"], callbacks=[loss]
    )
    assert loss.best == history.val_rmse.min()


@pytest.mark.parametrize("make", [cb.EarlyStopping, cb.ReduceOnPlateau])
def test_a_figure_of_ones_own_needs_a_mode(module, make):
    x, t = data_set()
    trainer = build(module)
    with pytest.raises(ValueError, match=r"^mode must be .min. or .max. for 'val_own', a figure of you"):
        trainer.fit(x, t, 2, validation=(x, t), metrics=[own], callbacks=[make("val_own")])
    assert trainer.steps == 0
    watching = cb.EarlyStopping("val_own", mode="max")
    history = trainer.fit(x, t, 2, validation=(x, t), metrics=[own], callbacks=[watching])
    assert watching.best == history.val_own.max()


@pytest.mark.parametrize(
    ("figure", "more"),
    [
        *((f"val_{name}", True) for name in ("accuracy", "auc", "f1", "r2", "top_5", "my_accuracy")),
        *((f"val_{name}", False) for name in ("loss", "mse", "rmse", "mae", "my_loss")),
        ("loss", False),
        ("val_own", None),
    ],
)
def test_what_is_better(figure, more):
    assert metrics.more_is_better(figure) is more


def test_a_trial_is_pruned_by_a_metric():
    optuna = pytest.importorskip("optuna")
    x, t = data_set()
    for direction, monitor, fits in (
        ("maximize", "val_f1", True),
        ("minimize", "val_f1", False),
        ("minimize", "val_own", True),
        ("maximize", "val_own", True),
    ):
        trial = optuna.create_study(direction=direction).ask()
        fit = functools.partial(
            build(fastnn).fit,
            *(x, t, 2),
            validation=(x, t),
            metrics=["f1", own],
            callbacks=[fastnn.search.PruneTrial(trial, monitor)],
        )
        if fits:
            fit()
        else:
            with pytest.raises(ValueError, match="needs a study with direction='maximize'"):
                fit()


# A share of the rows


def test_the_last_rows_are_held_out(module):
    x, t = data_set(rows=50)
    w = np.linspace(1, 2, 50)
    trainer, other = build(module), build(module)
    history = trainer.fit(x, t, 3, 16, validation_split=0.2, sample_weight=w)
    same = other.fit(x[:40], t[:40], 3, 16, validation=(x[40:], t[40:], w[40:]), sample_weight=w[:40])
    assert_same_bits(history.loss, same.loss)
    assert_same_bits(history.val_loss, same.val_loss)
    assert_same_bits(trainer.net.state_dict(), other.net.state_dict())


def test_classes_are_weighed_in_the_training_only(module):
    x, t = data_set(rows=50)
    history = build(module).fit(x, t, 1, 16, validation_split=0.2, class_weight="balanced")
    same = build(module).fit(x[:40], t[:40], 1, 16, validation=(x[40:], t[40:]), class_weight="balanced")
    assert_same_bits(history.val_loss, same.val_loss)


@pytest.mark.parametrize(
    ("rows", "share", "kept"), [(10, 0.2, 8), (7, 0.2, 5), (10, 0.9, 1), (100, 0.29, 71), (3, 0.01, 2)]
)
def test_how_many_rows_are_held_out(rows, share, kept):
    """As in Keras, floor(n (1 - share)) are kept, but 1 - 0.9 is a tenth."""
    seen = []

    class Spy(ref.Trainer):
        def evaluate(self, x, t, *args, **options):
            seen.append(len(x))
            return super().evaluate(x, t, *args, **options)

    trainer = Spy(ref.mlp([4, 3], seed=0), ref.SoftmaxCrossEntropy(), ref.SGD(0.1))
    trainer.fit(*data_set(rows=rows), epochs=1, batch_size=1, validation_split=share)
    assert seen == [rows - kept]
    assert trainer.steps == kept


def test_no_rows_are_copied():
    x, t = data_set()
    (kept, labels, none), (held, *_) = ref.trainer._split(x, t, None, 0.25)
    assert none is None
    assert all(np.shares_memory(a, b) for a, b in ((kept, x), (held, x), (labels, t)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"validation_split": 1.0}, ValueError, r"^validation_split must be a number in \[0, 1\)"),
        ({"validation_split": -0.1}, ValueError, "^validation_split must be a number"),
        ({"validation_split": "0.2"}, TypeError, "^validation_split must be a number"),
        (
            {"validation_split": 0.999},
            ValueError,
            "^validation_split must leave rows on both sides, got 0.999",
        ),
        (
            {"validation_split": 0.2, "validation": data_set()},
            ValueError,
            "^validation_split must be 0 where",
        ),
        (
            {"validation_split": 0.5, "sample_weight": np.repeat([0.0, 1.0], ROWS // 2)},
            ValueError,
            "^sample_weight must hold finite numbers >= 0 with a sum > 0",
        ),
    ],
)
def test_a_share_that_cannot_be(module, options, error, message):
    trainer = build(module)
    with pytest.raises(error, match=message):
        trainer.fit(*data_set(), **options)
    assert trainer.steps == 0


# Predictions


@pytest.mark.parametrize(
    ("loss", "t"),
    [
        ("SoftmaxCrossEntropy", np.arange(6) % 3),
        ("SigmoidCrossEntropy", np.ones((6, 3))),
        ("Poisson", np.ones((6, 3))),
        ("MeanSquaredError", np.ones((6, 3))),
        ("Huber", np.ones((6, 3))),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predictions_are_what_the_loss_calls_y(module, loss, t, dtype):
    x = np.random.default_rng(0).normal(size=(6, 3), scale=5).astype(dtype)
    criterion = getattr(module, loss)()
    criterion.forward(x, t)
    y = criterion.predictions(x)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, criterion.y, rtol=1e-5 if dtype == np.float32 else 1e-12)


def test_predict_proba(module):
    x, _ = data_set()
    trainer = build(module)
    y = trainer.predict_proba(x)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, softmax(trainer.predict(x)), rtol=1e-5)
    assert_same_bits(trainer.predict_proba(x, batch_size=7), y)
    np.testing.assert_allclose(trainer.predict_proba(x, scale=0.5), trainer.predict_proba(x / 2), rtol=1e-5)
    one = build(module, 1, "SigmoidCrossEntropy")
    np.testing.assert_allclose(one.predict_proba(x), 1 / (1 + np.exp(-one.predict(x))), rtol=1e-5)
