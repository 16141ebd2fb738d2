"""Weight decay and dropout's ratio by schedules, as the learning rate is."""

import numpy as np
import pytest

import fastnn
from fastnn import reference as ref
from fastnn.schedules import CosineDecay, StepDecay, WarmUp
from fastnn.trainer import Trainer
from tolerances import assert_same_bits

BOTH = pytest.mark.parametrize("m", [fastnn, ref], ids=["native", "reference"])
DECAY, RATIO = StepDecay(0.2, 0.5, 3), WarmUp(0.5, 10)


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(100, 12)), rng.normal(size=(100, 3))


def trainer_of(m, loss=None, optimizer="AdamW", lr=1e-2, dtype=np.float64, inverted=True):
    net = m.Sequential(
        [
            m.Dropout(RATIO, inverted=inverted),
            m.Affine.create(12, 16, rng=0, dtype=dtype),
            m.Tanh(),
            m.Dropout(0.25),
            m.Affine.create(16, 3, rng=1, dtype=dtype),
        ]
    )
    made = getattr(m, optimizer)(lr, weight_decay=DECAY)
    return m.Trainer(net, m.MeanSquaredError() if loss is None else loss, made, seed=3)


def trained(m, accumulate=1, **options):
    trainer, (x, t) = trainer_of(m, **options), data()
    losses = [trainer.step(x[:20], t[:20]) for _ in range(2)]
    losses += [*trainer.fit(x, t, epochs=4, batch_size=30, accumulate=accumulate).loss]
    return {"loss": losses, "y": trainer.net.predict(x), **trainer.net.state_dict()}


def squares(y, t):
    return float(((y - t) ** 2).mean()), 2 * (y - t) / y.size


@pytest.mark.parametrize(
    "options",
    [{"optimizer": kind} for kind in ("SGD", "Momentum", "Nesterov", "AdaGrad", "RMSProp", "Adam", "AdamW")]
    + [{"lr": CosineDecay(1e-2, 12)}, {"loss": squares}, {"accumulate": 2}, {"inverted": False}],
    ids=lambda options: next(iter(options.items()))[-1] if "optimizer" in options else next(iter(options)),
)
def test_training_is_that_of_the_reference(options, monkeypatch):
    expected = trained(ref, **options)

    def refuse(*_, **__):
        raise AssertionError("it was done layer by layer")

    for name in ("_forward", "_predict"):
        monkeypatch.setattr(fastnn.Sequential, name, refuse)
    monkeypatch.setattr(Trainer, "_step_by_parts", refuse)
    monkeypatch.setattr(Trainer, "_step_by_layers", refuse)
    actual = trained(fastnn, **options)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-8, atol=1e-9, err_msg=name)


@BOTH
def test_an_average_s_ratio_is_that_of_its_steps(m, tmp_path):
    trainer, (x, t) = trainer_of(m, inverted=False), data()
    trainer = m.Trainer(trainer.net, trainer.loss, m.SGD(0.0), average=0.5)
    trainer.step(x[:20], t[:20])
    trainer.fit(x, t, epochs=1, batch_size=30)
    assert_same_bits(trainer.predict(x), trainer.net.predict(x))
    trainer.save(tmp_path / "run.npz")
    assert_same_bits(m.Trainer.load(tmp_path / "run.npz").predict(x), trainer.predict(x))


@BOTH
def test_an_optimizer_of_ones_own_may_stand_beside_them(m):
    class Own:
        lr = staticmethod(StepDecay(0.1, 0.5, 3))

        def update(self, params, grads):
            for name, p in params.items():
                p -= 0.1 * grads[name]

    trainer, (x, t) = trainer_of(m), data()
    trainer.optimizer = Own()
    assert trainer.fit(x, t, epochs=2, batch_size=30).steps == 8


@BOTH
def test_they_are_asked_for_each_step(m):
    asked = {"lr": [], "decay": [], "ratio": []}

    def noting(name, value):
        return lambda step: asked[name].append(step) or value

    net = m.Sequential([m.Dropout(noting("ratio", 0.5)), m.Affine.create(12, 3, rng=0)])
    optimizer = m.Adam(noting("lr", 1e-3), weight_decay=noting("decay", 0.1))
    optimizer.step = 5
    trainer = m.Trainer(net, m.MeanSquaredError(), optimizer)
    x, t = data()
    trainer.fit(x, t, epochs=1, batch_size=25)
    for name, first in (("lr", 5), ("decay", 5), ("ratio", 0)):
        assert sorted({s for s in asked[name] if s >= first}) == list(range(first, first + 4)), name


@BOTH
def test_updates_by_hand_and_layers_by_themselves(m):
    p, decay = np.ones(3), m.SGD(0.1, weight_decay=lambda step: 0.5 * step)
    for _ in range(3):
        decay.update({"p": p}, {"p": np.zeros(3)})
    np.testing.assert_allclose(p, 0.95 * 0.9)
    layer = m.Dropout(lambda step: 0.25 * step, seed=1)
    kept = []
    for _ in range(3):
        layer.forward(np.ones(10000))
        kept.append(layer.mask.mean())
    np.testing.assert_allclose(kept, [1, 0.75, 0.5], atol=0.02)


@BOTH
def test_a_pass_goes_back_by_the_ratio_it_came_with(m):
    net = m.Sequential([m.Dropout(RATIO, seed=1), m.Affine.create(12, 3, rng=0, dtype=np.float64)])
    x = data()[0]
    net.forward(x)
    mask, ratio = net.layers[0].mask, RATIO(0)
    dx = net.backward(np.ones((100, 3)))
    W = net.params["1.W"]
    np.testing.assert_allclose(dx, mask / (1 - ratio) * W.sum(axis=1), rtol=1e-12)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@BOTH
def test_files_bring_them_back(m, suffix, tmp_path):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors", reason="the extra is not installed")
    trainer, (x, t) = trainer_of(m), data()
    trainer.fit(x, t, epochs=1, batch_size=30)
    trainer.save(tmp_path / f"run{suffix}")
    again = m.Trainer.load(tmp_path / f"run{suffix}")
    assert (again.optimizer.weight_decay, again.net.layers[0].ratio) == (DECAY, RATIO)
    for one in (again, trainer):
        one.fit(x, t, epochs=1, batch_size=30)
    assert_same_bits(again.net.state_dict(), trainer.net.state_dict())


@BOTH
def test_what_they_say_is_checked(m):
    x, t = data()
    for bad, error in ((np.nan, ValueError), (-0.1, ValueError), ("a", TypeError), (None, TypeError)):
        trainer = trainer_of(m)
        before = trainer.net.state_dict()
        trainer.optimizer.weight_decay = lambda step, bad=bad: bad
        with pytest.raises(error, match="weight_decay must be a number >= 0"):
            trainer.step(x, t)
        with pytest.raises(error, match="weight_decay must be a number >= 0"):
            trainer.fit(x, t, epochs=1)
        trainer.optimizer.weight_decay = 0.0
        trainer.net.layers[0].ratio = lambda step, bad=bad: bad
        for call in (trainer.step, trainer.fit, lambda x, t, net=trainer.net: net.forward(x)):
            with pytest.raises(error, match=r"ratio must be a number in \[0, 1\)"):
                call(x, t)
        assert_same_bits(trainer.net.state_dict(), before)
        assert (trainer.steps, trainer.optimizer.step) == (0, 0)
    with pytest.raises(ValueError, match="ratio must be"):
        m.Dropout(lambda step: 1.0).forward(x)
    with pytest.raises(
        TypeError, match=r"weight_decay must be a number or one of fastnn.schedules to be saved"
    ):
        m.Adam(weight_decay=lambda step: 0.1).config()
    with pytest.raises(TypeError, match=r"ratio must be a number or one of fastnn.schedules to be saved"):
        m.Dropout(lambda step: 0.1).config()


@BOTH
def test_steps_before_a_bad_one_stay_done(m):
    x, t = data()
    trainer = trainer_of(m)
    trainer.optimizer.weight_decay = lambda step: 0.1 if step < 2 else -1
    with pytest.raises(ValueError, match="weight_decay must be a number >= 0, got -1"):
        trainer.fit(x, t, epochs=1, batch_size=10)
    assert (trainer.steps, trainer.optimizer.step) == (2, 2)
