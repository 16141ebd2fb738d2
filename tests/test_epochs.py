"""What an epoch's loss is, and what becomes of a last single row, natively and in the reference."""

import numpy as np
import pytest

import fastnn
from fastnn import callbacks, reference

TIERS = pytest.mark.parametrize("lib", [fastnn, reference], ids=["native", "reference"])


def data_set(rows, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 6)).astype(np.float32), rng.integers(0, 3, rows)


def trainer(lib, batch_norm=False, lr=0.0):
    net = lib.mlp([6, 8, 3], batch_norm=batch_norm, seed=0)
    return lib.Trainer(net, lib.SoftmaxCrossEntropy(), lib.SGD(lr))


@TIERS
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_of_an_epoch_is_that_of_its_rows(lib, weighted):
    """A last batch of one outlier, or one of hardly any weight, counts as what it is; the rate is 0."""
    x, t = data_set(129)
    x[-1] *= 1e4
    weights = np.r_[np.ones(64), np.full(65, 1e-9)] if weighted else None
    history = trainer(lib).fit(x, t, epochs=2, batch_size=64, shuffle=False, sample_weight=weights)
    expected = trainer(lib).evaluate(x, t, weights)["loss"]
    np.testing.assert_allclose(history.epoch_loss, expected, rtol=1e-5)
    assert history.latest("loss") == history.epoch_loss[-1]
    assert len(history.loss) == 6


@TIERS
def test_batches_without_weight_are_passed_over(lib):
    x, t = data_set(100)
    weights = np.repeat([1.0, 0.0, 2.0], [40, 40, 20])
    history = trainer(lib).fit(x, t, epochs=1, batch_size=40, shuffle=False, sample_weight=weights)
    assert len(history.loss) == 2
    np.testing.assert_allclose(history.epoch_loss, trainer(lib).evaluate(x, t, weights)["loss"], rtol=1e-5)


@TIERS
@pytest.mark.parametrize("rows", [1024, 1025])
def test_callbacks_see_the_loss_of_the_epoch(lib, rows):
    """One row more, an outlier, ended trainings after a third of their epochs."""
    x, t = data_set(rows)
    x[-1] *= 30
    stopping = callbacks.EarlyStopping("loss", patience=5)
    history = trainer(lib, lr=0.01).fit(x, t, epochs=25, batch_size=128, callbacks=[stopping])
    assert history.epochs == 25
    assert stopping.best == history.epoch_loss.min()


@TIERS
@pytest.mark.parametrize(("rows", "steps"), [(1024, 8), (1025, 8), (1026, 9)])
def test_a_last_single_row_joins_the_batch_before_it(lib, rows, steps):
    x, t = data_set(rows)
    trained = trainer(lib, batch_norm=True)
    history = trained.fit(x, t, epochs=60, batch_size=128)
    assert len(history.loss) == 60 * steps == trained.steps
    if rows == 1026:  # of two rows the variance is half the true one, on average
        return
    first, norm = trained.net.layers[:2]
    np.testing.assert_allclose(norm.running_var, first.forward(x).var(axis=0), rtol=0.1)


def test_joined_batches_are_the_references():
    x, t = data_set(65)
    histories = [trainer(lib, True, 0.1).fit(x, t, epochs=3, batch_size=16) for lib in (fastnn, reference)]
    np.testing.assert_allclose(*(history.loss for history in histories), rtol=2e-4)
    np.testing.assert_allclose(*(history.epoch_loss for history in histories), rtol=2e-4)


@TIERS
def test_networks_without_normalization_take_a_single_row(lib):
    x, t = data_set(33)
    assert len(trainer(lib).fit(x, t, epochs=1, batch_size=16).loss) == 3
    trainer(lib).step(x[:1], t[:1])


@TIERS
@pytest.mark.parametrize("call", ["step", "fit", "forward"])
def test_a_single_row_alone_is_refused(lib, call):
    x, t = data_set(1)
    subject = trainer(lib, batch_norm=True)
    calls = {
        "step": lambda: subject.step(x, t),
        "fit": lambda: subject.fit(*data_set(9), epochs=1, batch_size=1),
        "forward": lambda: subject.net.forward(x, True),
    }
    before = subject.net.state_dict()
    with pytest.raises(ValueError, match="at least 2 rows in training"):
        calls[call]()
    for name, array in subject.net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    assert subject.steps == 0


# Weights in batches of any size


@TIERS
@pytest.mark.parametrize("batch_size", [1, 3, 20])
@pytest.mark.parametrize("how", ["class_weight", "weight_mean", "number", "classes and number"])
def test_weights_count_in_batches_of_any_size(lib, batch_size, how):
    """In a batch of one row the weight of its class cancelled; the first step shows what it counts."""
    x, t = data_set(20)
    by_class = np.array([1.0, 2.0, 6.0])
    options = {
        "class_weight": {"class_weight": by_class},
        "weight_mean": {"sample_weight": by_class[t], "weight_mean": "data"},
        "number": {"sample_weight": by_class[t], "weight_mean": 4},
        "classes and number": {"class_weight": by_class, "weight_mean": np.float64(4)},
    }[how]
    weights = by_class[t] / (4 if "number" in how else by_class[t].mean())
    subject, oracle = trainer(lib, lr=0.1), trainer(reference, lr=0.1)
    history = subject.fit(x, t, 1, batch_size, False, **options)
    for first in range(0, 20, batch_size):
        rows = slice(first, first + batch_size)
        share = weights[rows].mean()
        loss = oracle.loss.forward(oracle.net.forward(x[rows]), t[rows], weights[rows]) * share
        oracle.net.backward(oracle.loss.backward(share))
        oracle.optimizer.update(oracle.net.params, oracle.net.grads)
        assert abs(history.loss[first // batch_size] - loss) < 1e-4 * max(1, loss)
    for name, array in oracle.net.state_dict().items():
        np.testing.assert_allclose(subject.net.state_dict()[name], array, rtol=1e-4, atol=1e-6)
    subject.step(x, t, by_class[t])  # a step by itself has the weighted average, as ever
    assert "_per_row" not in vars(subject)


@TIERS
def test_the_epochs_loss_by_classes_is_the_weighted_mean(lib):
    x, t = data_set(50)
    by_class = np.array([1.0, 2.0, 6.0])
    history = trainer(lib).fit(x, t, 1, 8, class_weight=by_class)
    expected = trainer(lib).evaluate(x, t, by_class[t])["loss"]
    np.testing.assert_allclose(history.epoch_loss, expected, rtol=1e-5)


@TIERS
def test_weight_mean_is_checked(lib):
    with pytest.raises(ValueError, match="weight_mean must be"):
        trainer(lib).fit(*data_set(9), weight_mean="epoch")
    for bad, error in ((0, ValueError), (-1.0, ValueError), (np.nan, ValueError), (None, TypeError)):
        with pytest.raises(error, match="weight_mean must be"):
            trainer(lib).fit(*data_set(9), weight_mean=bad)
    with pytest.raises(ValueError, match="sample_weight over weight_mean"):
        trainer(lib).fit(*data_set(9), sample_weight=np.ones(9), weight_mean=1e-308)
