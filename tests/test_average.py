"""The moving average of the weights: in steps and fits, predictions, validation, files and early stopping."""

import io

import numpy as np
import pytest

import fastnn
from fastnn import reference as ref
from networks import NETS
from tolerances import assert_same_bits

BOTH = pytest.mark.parametrize("m", [fastnn, ref], ids=["native", "reference"])


def batch(name, rows=70):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 30, (rows, 3)) if "embedding" in name else rng.normal(size=(rows, 12))
    return x, rng.integers(0, 5, rows)


def trainer_of(m, name="plain", average=0.9, kind="SGD", clip=None, dtype=np.float64):
    net = m.Sequential(NETS[name](m, dtype))
    return m.Trainer(net, m.SoftmaxCrossEntropy(), getattr(m, kind)(0.05), clip, 3, average)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("clip", [None, 0.1])
def test_training_is_that_of_the_reference(name, clip, monkeypatch):
    monkeypatch.setattr(fastnn.Trainer, "_step_by_layers", None)
    x, t = batch(name)
    states = []
    for m in (fastnn, ref):
        trainer = trainer_of(m, name, clip=clip)
        trainer.step(x[:20], t[:20])
        history = trainer.fit(x, t, epochs=2, batch_size=16, validation=(x, t))
        states.append(
            {f"net.{n}": a for n, a in trainer.net.state_dict().items()}
            | {f"average.{n}": a for n, a in trainer.averaged.state_dict().items()}
            | {"val": history.val_loss, "y": trainer.predict(x)}
        )
    for key, value in states[1].items():
        np.testing.assert_allclose(states[0][key], value, rtol=1e-8, atol=1e-9, err_msg=key)


@pytest.mark.parametrize("name", ["norm", "embedding, norm", "dropout"])
@BOTH
def test_the_average_is_that_of_the_formula(m, name):
    x, t = batch(name)
    trainer = trainer_of(m, name, 0.8)
    expected = trainer.net.state_dict()
    for i in range(0, 60, 20):
        trainer.step(x[i : i + 20], t[i : i + 20])
        now = trainer.net.state_dict()
        expected = {n: 0.8 * a + 0.2 * now[n] for n, a in expected.items()}
    for n, a in trainer.averaged.state_dict().items():
        np.testing.assert_allclose(a, expected[n], rtol=1e-9, atol=1e-12, err_msg=n)


@BOTH
def test_what_uses_the_average(m):
    x, t = batch("plain")
    trainer, plain = trainer_of(m), trainer_of(m, average=None)
    history, without = (one.fit(x, t, 3, 16, validation=(x, t)) for one in (trainer, plain))
    assert_same_bits(trainer.net.state_dict(), plain.net.state_dict())
    np.testing.assert_array_equal(history.loss, without.loss)
    assert plain.averaged is None
    assert_same_bits({"y": trainer.predict(x)}, {"y": trainer.averaged.predict(x)})
    assert_same_bits({"y": plain.predict(x)}, {"y": plain.net.predict(x)})
    assert (trainer.predict(x) != trainer.net.predict(x)).any()
    assert history.val_loss[-1] == trainer.evaluate(x, t)["loss"] != without.val_loss[-1]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@BOTH
def test_training_resumes_to_the_same_bits(m, suffix, tmp_path):
    x, t = batch("norm")
    trainer = trainer_of(m, "norm", kind="Adam", dtype=np.float32)
    trainer.fit(x, t, 2, 16)
    trainer.save(tmp_path / f"run{suffix}")
    loaded = m.Trainer.load(tmp_path / f"run{suffix}")
    for one in (trainer, loaded):
        one.fit(x, t, 2, 16)
    assert loaded.average == 0.9
    assert_same_bits(loaded.averaged.state_dict(), trainer.averaged.state_dict())
    assert_same_bits(loaded.net.state_dict(), trainer.net.state_dict())
    net = m.Sequential.load(tmp_path / f"run{suffix}")
    assert net.state_dict().keys() == trainer.net.state_dict().keys()


@BOTH
def test_early_stopping_brings_the_best_average_back(m):
    x, t = batch("plain")
    trainer = trainer_of(m)
    stopping = fastnn.callbacks.EarlyStopping(patience=1)
    history = trainer.fit(x, 4 - t, 30, 16, validation=(x, t), callbacks=[stopping])
    assert stopping.stopped
    assert trainer.evaluate(x, t)["loss"] == pytest.approx(history.val_loss.min(), rel=1e-12)
    assert_same_bits(trainer.averaged.state_dict(), trainer.net.state_dict())


def test_the_same_bits_on_any_team(team):
    def trained():
        trainer = trainer_of(fastnn, "embedding, norm", kind="Adam", clip=0.5, dtype=np.float32)
        trainer.fit(*batch("embedding, norm"), 2, 16)
        return trainer.averaged.state_dict()

    with fastnn.threads(1):
        alone = trained()
    assert_same_bits(trained(), alone)


@BOTH
def test_a_loss_of_ones_own_and_a_layer_of_ones_own(m):
    class Same:
        def forward(self, x, train=True):
            return x

        def backward(self, dout):
            return dout

    x = np.random.default_rng(0).normal(size=(40, 4))
    states = []
    for extra in ([], [Same()]):
        for loss in (m.MeanSquaredError(), lambda y, t: (((y - t) ** 2).mean(), 2 * (y - t) / y.size)):
            net = m.Sequential([m.Affine.create(4, 4, rng=0, dtype=np.float64), *extra])
            trainer = m.Trainer(net, loss, m.SGD(0.1), average=0.7)
            trainer.fit(x, x, 2, 16)
            states.append(trainer.averaged.state_dict())
    for state in states[1:]:
        for n, a in states[0].items():
            np.testing.assert_allclose(state[n], a, rtol=1e-9, atol=1e-12)


@BOTH
def test_arguments_that_do_not_fit(m):
    net = m.mlp([3, 2])
    for bad in (0, 1, 0.0, 1.0, -0.5, "0.9", np.nan, True):
        with pytest.raises((TypeError, ValueError), match="average"):
            m.Trainer(net, m.MeanSquaredError(), m.SGD(), average=bad)

    class Own:
        layers = ()

        def forward(self, x, train=True):
            return x

        def backward(self, dout):
            return dout

    with pytest.raises(TypeError, match="average needs a network with copy and blend"):
        m.Trainer(Own(), m.MeanSquaredError(), m.SGD(), average=0.9)
    trainer = trainer_of(m)
    file = io.BytesIO()
    trainer.save(file)
    assert "average=0.9" in repr(trainer)


@BOTH
@pytest.mark.parametrize("spoilt", ["share", "itself", "another"])
def test_an_average_that_does_not_fit_is_refused_before_the_update(m, spoilt):
    net = m.mlp([4, 3, 2], seed=0)
    trainer = m.Trainer(net, m.MeanSquaredError(), m.SGD(0.1), average=0.9)
    if spoilt == "share":
        trainer.average = 2.0
    else:
        trainer.averaged = net if spoilt == "itself" else m.mlp([4, 5, 2], seed=0)
    before = net.state_dict()
    with pytest.raises(ValueError, match=r"average|memory|array"):
        trainer.step(np.ones((5, 4)), np.ones((5, 2)))
    assert_same_bits(net.state_dict(), before)
    assert trainer.steps == trainer.optimizer.step == 0
