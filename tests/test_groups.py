"""Factors of rate and decay by names, and frozen parameters: in updates, steps, fits and files."""

import io

import numpy as np
import pytest

import fastnn
from fastnn import Group, optimizers
from fastnn import reference as ref
from networks import NETS
from tolerances import assert_same_bits

BOTH = pytest.mark.parametrize("m", [fastnn, ref], ids=["native", "reference"])
GROUPS = {
    "rates": lambda: [Group("0.*", lr=0.1), Group("*.W", lr=3.0, decay=2.0)],
    "vectors": lambda: [Group("vectors", decay=0.0)],
    "first frozen": lambda: [Group("0.*", frozen=True), Group("*.b", lr=0.5)],
    "weights frozen": lambda: [Group("*.W", frozen=True)],
    "biases frozen": lambda: [Group("*.b", frozen=True)],
}


def batch(name, rows=50):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 30, (rows, 3)) if "embedding" in name else rng.normal(size=(rows, 12))
    return x, rng.integers(0, 5, rows)


def trainer_of(m, name, groups, kind="Momentum", clip=None, dtype=np.float64):
    net = m.Sequential(NETS[name](m, dtype))
    optimizer = getattr(m, kind)(0.01, weight_decay=0.1, groups=groups)
    return m.Trainer(net, m.SoftmaxCrossEntropy(), optimizer, clip, seed=5)


def fits_all(m, name, groups):
    params = m.Sequential(NETS[name](m, np.float64)).params
    return all(any(g.fits(n, p.ndim) for n, p in params.items()) for g in groups)


@pytest.mark.parametrize("kind", optimizers.CLASSES)
@pytest.mark.parametrize("groups", GROUPS)
def test_an_update_by_hand(isa, dtype, kind, groups):
    """Each parameter by an optimizer of its own rate and decay is the same."""
    rng = np.random.default_rng(0)
    shapes = {"0.W": (30, 7), "0.b": (7,), "2.W": (7, 5), "2.b": (5,)}
    start = {n: rng.normal(size=s).astype(dtype) for n, s in shapes.items()}
    grads = {n: rng.normal(size=s).astype(dtype) for n, s in shapes.items()}
    given, params = GROUPS[groups](), {n: p.copy() for n, p in start.items()}
    optimizer = getattr(fastnn, kind)(0.01, weight_decay=0.1, groups=given)
    for _ in range(3):
        optimizer.update(params, grads)
    for n, p in start.items():
        fitting = [g for g in given if g.fits(n, p.ndim)]
        if any(g.frozen for g in fitting):
            np.testing.assert_array_equal(params[n], p)
            assert all(n not in memory for memory in optimizer.state.values())
            continue
        rate, decay = (float(np.prod([getattr(g, f) for g in fitting])) for f in ("lr", "decay"))
        options = {"matrices": ["0.W"]} if (kind, n) == ("Muon", "0.W") else {}
        alone = getattr(fastnn, kind)(0.01 * rate, weight_decay=0.1 * decay, **options)
        for _ in range(3):
            alone.update({n: p}, {n: grads[n]})
        eps = 4 * np.finfo(dtype).eps
        np.testing.assert_allclose(params[n], p, rtol=eps, atol=eps, err_msg=n)


@pytest.mark.parametrize(
    ("name", "groups"), [(n, g) for n in NETS for g in GROUPS if fits_all(ref, n, GROUPS[g]())]
)
@pytest.mark.parametrize("clip", [None, 0.1])
def test_training_is_that_of_the_reference(name, groups, clip, monkeypatch):
    monkeypatch.setattr(fastnn.Trainer, "_step_by_layers", None)
    x, t = batch(name)
    states = []
    for m in (fastnn, ref):
        trainer = trainer_of(m, name, GROUPS[groups](), clip=clip)
        losses = [trainer.step(x[:20], t[:20]), *trainer.fit(x, t, epochs=2, batch_size=16).loss]
        states.append(trainer.net.state_dict() | {"loss": np.array(losses)})
    for key, value in states[1].items():
        np.testing.assert_allclose(states[0][key], value, rtol=1e-9, atol=1e-10, err_msg=key)


@pytest.mark.parametrize("kind", optimizers.CLASSES)
@BOTH
def test_what_is_frozen_stays(m, kind):
    x, t = batch("norm")
    trainer = trainer_of(m, "norm", [Group("0.*", frozen=True), Group("1.gamma", frozen=True)], kind)
    before = trainer.net.state_dict()
    trainer.fit(x, t, epochs=2, batch_size=16)
    after = trainer.net.state_dict()
    for name in ("0.W", "0.b", "1.gamma"):
        np.testing.assert_array_equal(after[name], before[name])
    for name in ("1.beta", "3.W", "3.b", "1.running_mean"):
        assert (after[name] != before[name]).any()
    assert all(set(memory) == {"1.beta", "3.W", "3.b"} for memory in trainer.optimizer.state.values())


def test_the_same_bits_on_any_team(team):
    x, t = batch("norm")

    def trained():
        trainer = trainer_of(fastnn, "norm", GROUPS["first frozen"](), "Adam", 0.1, np.float32)
        trainer.fit(x, t, epochs=2, batch_size=16)
        return trainer.net.state_dict()

    with fastnn.threads(1):
        alone = trained()
    assert_same_bits(trained(), alone)


@BOTH
def test_a_loss_of_ones_own(m):
    x, _ = batch("plain")
    target = np.random.default_rng(1).normal(size=(50, 5))
    states = []
    for loss in (m.MeanSquaredError(), lambda y, t: (((y - t) ** 2).mean(), 2 * (y - t) / y.size)):
        trainer = trainer_of(m, "plain", GROUPS["first frozen"]())
        trainer.loss = loss
        trainer.fit(x, target, epochs=2, batch_size=16)
        states.append(trainer.net.state_dict())
    for key, value in states[1].items():
        np.testing.assert_allclose(states[0][key], value, rtol=1e-9, atol=1e-12, err_msg=key)


@BOTH
def test_files_keep_the_groups(m):
    x, t = batch("plain")
    groups = [Group("vectors", lr=0.5, decay=0.0), Group("2.*", frozen=True)]
    trainer = trainer_of(m, "plain", groups)
    trainer.fit(x, t, epochs=1)
    file = io.BytesIO()
    trainer.save(file)
    file.seek(0)
    loaded = m.Trainer.load(file)
    assert loaded.optimizer.groups == tuple(groups)
    assert repr(loaded.optimizer) == repr(trainer.optimizer)
    for one in (trainer, loaded):
        one.fit(x, t, epochs=2)
    assert_same_bits(loaded.net.state_dict(), trainer.net.state_dict())


@BOTH
def test_arguments_that_do_not_fit(m):
    for bad in (None, 3, "", b"*"):
        with pytest.raises(TypeError, match="pattern"):
            m.Group(bad)
    for name in ("lr", "decay"):
        for bad in (-1.0, "1", None, np.nan):
            with pytest.raises((TypeError, ValueError), match=name):
                m.Group("*", **{name: bad})
    with pytest.raises(TypeError, match="frozen"):
        m.Group("*", frozen=1)
    for bad in (3, [3], ["*"], m.Group("*")):
        with pytest.raises(TypeError, match="groups"):
            m.Adam(groups=bad)
    trainer = trainer_of(m, "plain", [Group("9.*", frozen=True)])
    before = trainer.net.state_dict()
    x, t = batch("plain")
    for call in (trainer.step, trainer.fit):
        with pytest.raises(ValueError, match=r"'9\.\*' must fit a parameter"):
            call(x, t)
    with pytest.raises(ValueError, match="must fit a parameter"):
        m.SGD(groups=[Group("b")]).update({"a": np.ones(2)}, {"a": np.ones(2)})
    assert_same_bits(trainer.net.state_dict(), before)
    assert trainer.steps == 0
