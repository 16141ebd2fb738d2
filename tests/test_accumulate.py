"""Steps made of several batches, whose gradients are added up."""

import numpy as np
import pytest

import fastnn
from fastnn import reference as ref
from fastnn.reference.network import dropouts
from fastnn.trainer import Trainer
from networks import NETS
from tolerances import assert_same_bits

BOTH = pytest.mark.parametrize("m", [fastnn, ref], ids=["native", "reference"])
PLANNED = [name for name in NETS if "embedding" not in name]


def data(name="", rows=103):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 30, (rows, 3)) if "embedding" in name else rng.normal(size=(rows, 12))
    return x, rng.integers(0, 5, rows)


def trainer_of(m, name="plain", dtype=np.float64, optimizer=None, loss=None, **options):
    net = m.Sequential(NETS[name](m, dtype))
    loss = m.SoftmaxCrossEntropy() if loss is None else loss
    return m.Trainer(net, loss, m.Momentum(0.05) if optimizer is None else optimizer, seed=3, **options)


def fitted(trainer, x, t, accumulate, batch_size=8, epochs=2, **options):
    history = trainer.fit(x, t, epochs=epochs, batch_size=batch_size, accumulate=accumulate, **options)
    return {"loss": history.loss, **trainer.net.state_dict()}


def assert_close(actual, expected, tolerance=1e-9):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.fixture
def natively(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("it was done layer by layer")

    monkeypatch.setattr(Trainer, "_step_by_parts", refuse)
    monkeypatch.setattr(Trainer, "_step_by_layers", refuse)


@pytest.mark.parametrize("name", PLANNED)
@pytest.mark.usefixtures("natively")
def test_steps_are_those_of_the_reference(name):
    trainers = trainer_of(fastnn, name), trainer_of(ref, name)
    assert_close(*(fitted(trainer, *data(), 3) for trainer in trainers))
    assert trainers[0].steps == trainers[1].steps == 2 * 5
    for (_, a), (_, b) in zip(*(dropouts(t.net.layers) for t in trainers), strict=True):
        np.testing.assert_array_equal(a.mask, b.mask)
        assert (a.step, a.stream, a.seed) == (b.step, b.stream, b.seed)
    for key, g in trainers[1].net.grads.items():
        np.testing.assert_allclose(trainers[0].net.grads[key], g, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ["embedding", "plain"])
@BOTH
def test_they_are_those_of_the_larger_batch(m, name):
    x, t = data(name)
    for weights in (None, np.random.default_rng(1).random(103) * (np.arange(103) // 8 % 3 > 0)):
        for options in ({}, {"weight_mean": "data"}):
            parts = fitted(trainer_of(m, name), x, t, 4, sample_weight=weights, **options)
            whole = fitted(trainer_of(m, name), x, t, 1, 32, sample_weight=weights, **options)
            assert_close(parts, whole)


@BOTH
def test_a_loss_of_ones_own_is_added_up_too(m):
    def squares(y, t):
        return float(((y - t) ** 2).mean()), 2 * (y - t) / y.size

    x = data()[0]
    whole, parts = (
        fitted(trainer_of(m, loss=squares), x, x[:, :5], accumulate, rows)
        for accumulate, rows in ((1, 26), (2, 13))
    )
    assert_close(parts, whole)


@pytest.mark.parametrize(
    "options",
    [
        {"clip_norm": 0.1},
        {"average": 0.9},
        {"optimizer": lambda m: m.Adam(1e-3, groups=[m.Group("0.*", frozen=True), m.Group("*.b", lr=2.0)])},
        {"optimizer": lambda m: m.RMSProp(fastnn.schedules.StepDecay(1e-3, 0.5, 3))},
    ],
    ids=["clip", "average", "groups", "schedule"],
)
@pytest.mark.usefixtures("natively")
def test_with_all_that_a_step_does(options):
    results = []
    for m in (fastnn, ref):
        made = {key: value(m) if callable(value) else value for key, value in options.items()}
        trainer = trainer_of(m, "GELU", **made)
        results.append(fitted(trainer, *data(), 4))
        if trainer.averaged is not None:
            results[-1] |= {f"average.{key}": a for key, a in trainer.averaged.state_dict().items()}
    assert_close(*results)


@pytest.mark.parametrize("rows", [97, 98, 33, 9, 8, 2])  # of which a last one may be alone
def test_batch_normalization_takes_each_batch_by_itself(rows):
    x, t = data(rows=rows)
    results = [fitted(trainer_of(m, "norm"), x, t, 4) for m in (fastnn, ref)]
    assert_close(*results)


@pytest.mark.parametrize("name", ["norm", "dropout", "blocks in a block"])
def test_the_same_bits_on_any_team(name, team):
    mine = fitted(trainer_of(fastnn, name, np.float32), *data(), 4, 17)
    with fastnn.threads(1):
        alone = fitted(trainer_of(fastnn, name, np.float32), *data(), 4, 17)
    assert_same_bits(mine, alone)


@BOTH
def test_masks_differ_from_batch_to_batch(m):
    x, t = np.ones((16, 12)), np.zeros(16, int)
    masks = []
    for accumulate in (1, 2):
        trainer = trainer_of(m, "input dropout")
        fitted(trainer, x, t, accumulate, 8, 1)
        masks.append(trainer.net.layers[0].mask)
        assert trainer.net.layers[0].stream == 0
    assert (masks[0] != masks[1]).any()


@BOTH
def test_a_step_that_fails_changes_nothing(m):
    x, t = data(rows=32)
    trainer = trainer_of(m, "norm")
    trainer.fit(x, t, epochs=1, batch_size=8, accumulate=4)
    before = trainer.net.state_dict()
    x[20] = np.nan  # the third of four
    with pytest.raises(FloatingPointError, match=r"loss of step 1 is nan.*x has NaN in row 20"):
        trainer.fit(x, t, epochs=1, batch_size=8, accumulate=4, shuffle=False)
    assert_same_bits(trainer.net.state_dict(), before)
    assert (trainer.steps, trainer.optimizer.step) == (1, 1)


@BOTH
def test_training_goes_on_from_a_file(m, tmp_path):
    x, t = data()
    trainer = trainer_of(m, "dropout")
    fitted(trainer, x, t, 4)
    trainer.save(tmp_path / "run.npz")
    again = m.Trainer.load(tmp_path / "run.npz")
    assert_same_bits(fitted(again, x, t, 4), fitted(trainer, x, t, 4))


@pytest.mark.usefixtures("natively")
def test_a_batch_that_weighs_nothing_is_passed_over():
    x, t = data(rows=96)
    weight = np.ones(len(x))
    weight[8:16] = weight[40:64] = 0
    trainers = trainer_of(fastnn, "norm"), trainer_of(ref, "norm")
    options = {"shuffle": False, "sample_weight": weight}
    assert_close(*(fitted(trainer, x, t, 3, **options) for trainer in trainers))


@BOTH
@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_a_variance_that_is_not_finite_changes_nothing(m, batch):
    net = m.Sequential([m.BatchNorm.create(12), m.Affine.create(12, 5, rng=0)])
    trainer, (x, t) = m.Trainer(net, m.SoftmaxCrossEntropy(), m.SGD()), data(rows=24)
    x = x.astype(np.float32)
    x[8 * batch : 8 * batch + 2, 0] = 1e25, -1e25
    before = net.state_dict()
    with pytest.raises(FloatingPointError, match="running_var"):
        trainer.fit(x, t, 1, 8, shuffle=False, accumulate=3)
    assert_same_bits(net.state_dict(), before)


@BOTH
def test_a_training_in_a_callback_is_one_of_its_own(m):
    x, t = data()
    within, apart = (trainer_of(m, "norm") for _ in range(2))
    weights = np.linspace(0, 2, len(x))
    outer = {"accumulate": 3, "sample_weight": weights, "weight_mean": "data"}

    def callback(trainer, history):
        if history.epochs == 1:
            trainer.fit(x, t, 1, 16)

    within.fit(x, t, 2, 8, callbacks=[callback], **outer)
    for options in (outer, {}, outer):
        apart.fit(x, t, 1, 8 if options else 16, **options)
    assert_same_bits(within.net.state_dict(), apart.net.state_dict())


@BOTH
def test_bad_counts_are_refused(m):
    x, t = data()
    trainer = trainer_of(m)
    for bad, error in (
        (0, ValueError),
        (-1, ValueError),
        (1.5, TypeError),
        ("2", TypeError),
        (True, TypeError),
    ):
        with pytest.raises(error, match="accumulate must be an integer"):
            trainer.fit(x, t, epochs=1, accumulate=bad)
    assert trainer.steps == 0
    trainer.fit(x, t, epochs=1, batch_size=50, accumulate=10**30)
    assert trainer.steps == 1
