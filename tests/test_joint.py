"""Several networks under one optimizer, clipped updates, targets that follow, copies and summaries."""

import copy
import io
import pickle

import numpy as np
import pytest

import fastnn
from fastnn import RowSparse, optimizers
from fastnn import reference as ref
from networks import NETS
from tolerances import assert_same_bits

BOTH = pytest.mark.parametrize("m", [fastnn, ref], ids=["native", "reference"])


def parts(m, dtype=np.float64):
    actor = m.mlp([6, 9, 3], activation="tanh", seed=0, dtype=dtype)
    critic = m.mlp([6, 8, 1], batch_norm=True, seed=1, dtype=dtype)
    return {"actor": actor, "critic": critic, "log_std": np.zeros(3, dtype)}


def filled(m, dtype=np.float64, **changes):
    joint = m.Joint(parts(m, dtype) | changes)
    x = np.random.default_rng(0).normal(size=(20, 6))
    for name, n in (("actor", 3), ("critic", 1)):
        net = joint.parts[name]
        net.forward(x)
        net.backward_params(np.ones((20, n)))
        for g in net.grads.values():  # a bias before batch normalization has nothing but rounding errors
            g[...] = np.random.default_rng(n).normal(size=g.shape)
    joint.grads["log_std"] = [1.0, -2.0, 3.0]
    return joint


def norm_of(grads):
    return np.sqrt(sum(np.square(getattr(g, "values", g), dtype=float).sum() for g in grads.values()))


# Joint


@pytest.mark.parametrize("kind", optimizers.CLASSES)
@pytest.mark.parametrize("clip", [None, 0.5, 1e9])
def test_a_joint_update_is_that_of_the_reference(isa, dtype, kind, clip):
    states = []
    for m in (fastnn, ref):
        joint, optimizer = filled(m, dtype), getattr(m, kind)(0.01)
        expected = norm_of(joint.grads)
        norms = [joint.update(optimizer, clip_norm=clip) for _ in range(3)]
        if clip is None:
            assert norms == [None] * 3
        else:
            assert norms[0] == pytest.approx(expected, rel=1e-5)
            assert norms[1] == pytest.approx(min(clip, expected), rel=1e-5)
            assert norm_of(joint.grads) == pytest.approx(min(clip, expected), rel=1e-5)
        assert optimizer.step == 3
        states.append(joint.state_dict())
    assert list(states[0]) == list(states[1])
    for name, array in states[1].items():
        scale = 200 * np.finfo(dtype).eps
        np.testing.assert_allclose(states[0][name], array, rtol=scale, atol=scale, err_msg=name)


@BOTH
def test_names_and_live_arrays(m):
    joint = filled(m)
    actor, critic, log_std = joint.parts.values()
    names = [f"actor.{n}" for n in actor.params] + [f"critic.{n}" for n in critic.params] + ["log_std"]
    assert list(joint.params) == list(joint.grads) == names
    assert joint.params["actor.0.W"] is actor.layers[0].W
    assert joint.grads["critic.0.b"] is critic.layers[0].db
    assert joint.params["log_std"] is log_std
    joint.grads["log_std"][...] = 7
    assert (joint.grads["log_std"] == 7).all()
    assert "critic.1.running_var" in joint.state_dict()
    actor.layers = [m.Affine.create(6, 3, rng=0, dtype=np.float64)]
    assert list(joint.params)[:2] == ["actor.0.W", "actor.0.b"]
    assert "actor.2.W" not in joint.params


@BOTH
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files(m, suffix, tmp_path):
    joint = filled(m)
    joint.update(m.Adam())
    joint.save(tmp_path / f"joint{suffix}")
    loaded = m.Joint.load(tmp_path / f"joint{suffix}")
    assert_same_bits(loaded.state_dict(), joint.state_dict())
    other = (ref if m is fastnn else fastnn).Joint.load(tmp_path / f"joint{suffix}")
    assert_same_bits(other.state_dict(), joint.state_dict())
    twin = m.Joint(parts(m))
    twin.load_state_dict(joint.state_dict())
    assert_same_bits(twin.state_dict(), joint.state_dict())
    joint.parts["actor"].save(tmp_path / "net.npz")
    with pytest.raises(ValueError, match="must hold a joint"):
        m.Joint.load(tmp_path / "net.npz")


@BOTH
def test_a_file_that_does_not_fit_is_refused(m):
    joint = m.Joint(parts(m))
    file = io.BytesIO()
    joint.save(file)
    state = joint.state_dict()
    for bad in (
        {name: a for name, a in state.items() if name != "log_std"},
        state | {"more": np.zeros(1)},
        state | {"log_std": np.zeros(4)},
        [1, 2],
    ):
        with pytest.raises((TypeError, ValueError), match=r"d must|d\["):
            joint.load_state_dict(bad)
    assert_same_bits(joint.state_dict(), state)


@BOTH
def test_parts_that_are_none(m):
    good = parts(m)
    view = good["log_std"][1:]
    for bad, error, text in [
        (None, TypeError, "parts must be a dict"),
        ({}, TypeError, "parts must be a dict"),
        ([good["actor"]], TypeError, "parts must be a dict"),
        ({"a.b": good["actor"]}, ValueError, "without '.'"),
        ({3: good["actor"]}, ValueError, "texts"),
        ({"": good["actor"]}, ValueError, "texts"),
        ({"a": 1.0}, TypeError, "must be a network or an array"),
        ({"a": np.zeros(3, int)}, TypeError, "float32 or float64"),
        ({"a": np.broadcast_to(np.zeros(1), 3)}, ValueError, "writeable"),
        ({"a": good["actor"], "b": good["actor"]}, ValueError, r"share memory, got a\.0\.W and b\.0\.W"),
        ({"a": good["log_std"], "b": view}, ValueError, "share memory, got a and b"),
        ({"a": good["actor"], "b": good["actor"].layers[0].b}, ValueError, "share memory"),
    ]:
        with pytest.raises(error, match=text):
            m.Joint(bad)
    joint = m.Joint(good)
    with pytest.raises(ValueError, match=r"actor\.0\.W must have a gradient"):
        joint.update(m.SGD())
    with pytest.raises(ValueError, match="log_std"):
        joint.grads["actor.0.W"] = 0
    with pytest.raises(ValueError, match="shape"):
        joint.grads["log_std"] = np.zeros(2)


@BOTH
def test_what_is_frozen_needs_no_gradient(m):
    joint = m.Joint(parts(m))
    actor = joint.parts["actor"]
    actor.forward(np.ones((4, 6)))
    actor.backward_params(np.ones((4, 3)))
    before = joint.state_dict()
    joint.update(m.SGD(groups=[m.Group("critic.*", frozen=True)]), clip_norm=1.0)
    changed = {n for n, a in joint.state_dict().items() if (a != before[n]).any()}
    assert changed == {n for n in joint.params if n.startswith("actor.")}
    with pytest.raises(ValueError, match=r"critic\.0\.W must have a gradient"):
        joint.update(m.SGD(groups=[m.Group("critic.1.*", frozen=True)]))


# Clipped updates


@BOTH
@pytest.mark.parametrize("bad", [0, -1.0, np.nan, "1", True])
def test_a_limit_that_is_none(m, bad):
    params = {"a": np.ones(3)}
    with pytest.raises((TypeError, ValueError), match="clip_norm"):
        m.Adam().update(params, {"a": np.ones(3)}, bad)
    assert (params["a"] == 1).all()


@BOTH
@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_norm_that_is_not_finite_is_refused(m, bad):
    optimizer, params = m.Adam(), {"a": np.ones(3), "b": np.ones(2)}
    grads = {"a": np.array([1.0, bad, 0.0]), "b": np.ones(2)}
    with pytest.raises(FloatingPointError, match="norm of the gradients"):
        optimizer.update(params, grads, clip_norm=1.0)
    assert optimizer.step == 0
    assert not optimizer.state["m"]
    assert (params["a"] == 1).all()
    np.testing.assert_array_equal(grads["a"], [1.0, bad, 0.0])


@BOTH
def test_norms_beyond_the_squares(m):
    grads = {"a": np.array([3e200, 0.0]), "b": np.array([4e200])}
    params = {"a": np.zeros(2), "b": np.zeros(1)}
    assert m.SGD(1.0).update(params, grads, clip_norm=5.0) == pytest.approx(5e200)
    np.testing.assert_allclose(params["a"], [-3, 0])
    np.testing.assert_allclose(params["b"], [-4])


@BOTH
def test_gradients_of_any_kind_are_clipped_together(m):
    table = RowSparse(np.array([1, 4]), np.array([[3.0, 0.0], [0.0, 0.0]]), (6, 2))
    grads = {"table": table, "number": 4.0, "columns": np.zeros((4, 3))[:, ::2]}
    params = {"table": np.zeros((6, 2)), "number": 1.0, "columns": np.zeros((4, 2))}
    assert m.SGD(1.0).update(params, grads, clip_norm=0.5) == pytest.approx(5.0)
    np.testing.assert_allclose(params["table"][1], [-0.3, 0])
    assert params["number"] == pytest.approx(0.6)
    np.testing.assert_allclose(grads["table"].values[0], [0.3, 0])


def test_gradients_of_another_type_are_left_as_they_are():
    """Natively they are converted: scaled in place, integers would be cut."""
    params, grads = {"a": np.zeros(2)}, {"a": np.array([3, 4])}
    assert fastnn.SGD(1.0).update(params, grads, clip_norm=0.5) == pytest.approx(5.0)
    np.testing.assert_allclose(params["a"], [-0.3, -0.4])
    np.testing.assert_array_equal(grads["a"], [3, 4])


def test_the_norm_has_the_same_bits_on_any_team(team):
    rng = np.random.default_rng(0)
    grads = {str(n): rng.normal(size=n).astype(np.float32) for n in (1, 7, 5000, 40_000)}
    results = []
    for threads in (1, team):
        with fastnn.threads(threads):
            params = {n: np.zeros_like(g) for n, g in grads.items()}
            norm = fastnn.Adam().update(params, {n: g.copy() for n, g in grads.items()}, clip_norm=1.0)
            results.append(params | {"norm": np.array(norm)})
    assert_same_bits(*results)


# Targets that follow, copies


@pytest.mark.parametrize("name", NETS)
@BOTH
def test_blend(m, name, dtype):
    target, net = (m.Sequential(NETS[name](m, dtype)) for _ in range(2))
    rng = np.random.default_rng(0)
    for one in (target, net):
        one.load_state_dict({n: np.abs(rng.normal(size=a.shape)) for n, a in one.state_dict().items()})
    before, other = target.state_dict(), net.state_dict()
    target.blend(net, 0.25)
    for key, array in target.state_dict().items():
        np.testing.assert_allclose(
            array, 0.75 * before[key] + 0.25 * other[key], rtol=4 * np.finfo(dtype).eps
        )
    assert_same_bits(net.state_dict(), other)
    target.blend(net, 0)
    target.blend(net, 1)
    assert_same_bits(target.state_dict(), other)


def test_blend_has_the_same_bits_on_any_team(team):
    def blended():
        target, net = (fastnn.mlp([300, 200, 7], seed=s, batch_norm=True) for s in (0, 1))
        target.blend(net, 0.005)
        return target.state_dict()

    with fastnn.threads(1):
        alone = blended()
    assert_same_bits(blended(), alone)


@BOTH
def test_blending_what_does_not_fit(m):
    net = m.mlp([6, 5, 3], seed=0)
    before = net.state_dict()
    strided = m.mlp([6, 5, 3], seed=2)
    strided.layers[0].params["W"] = np.asfortranarray(strided.layers[0].W)
    for bad, error, text in [
        (m.mlp([6, 4, 3]), ValueError, "0.W of net must be"),
        (m.mlp([6, 5, 5, 3]), ValueError, "in one of them only"),
        (m.mlp([6, 5, 3], batch_norm=True), ValueError, "in one of them only"),
        (m.mlp([6, 5, 3], dtype="f8"), ValueError, "0.W of net must be"),
        (net, ValueError, "share no memory"),
        (None, TypeError, "net must be a network"),
        (net.params, TypeError, "net must be a network"),
    ]:
        with pytest.raises(error, match=text):
            net.blend(bad, 0.5)
    for bad in (-0.1, 1.1, np.nan, None, "0.5"):
        with pytest.raises((TypeError, ValueError), match="tau"):
            net.blend(m.mlp([6, 5, 3]), bad)
    assert_same_bits(net.state_dict(), before)
    net.blend(strided, 1.0)
    assert_same_bits(net.state_dict(), strided.state_dict())


@pytest.mark.parametrize("name", NETS)
@BOTH
def test_a_copy_is_a_network_of_its_own(m, name):
    net = m.Sequential(NETS[name](m, np.float64))
    x = np.random.default_rng(0).integers(0, 30, (9, 3)) if "embedding" in name else np.ones((9, 12))
    net.forward(x)
    net.backward_params(np.ones((9, 5)))
    twin = net.copy()
    assert type(twin) is type(net)
    assert twin.grads == {}
    with pytest.raises(RuntimeError, match="backward before forward"):
        twin.backward(np.ones((9, 5)))
    assert_same_bits(twin.state_dict(), net.state_dict())
    assert_same_bits({"y": twin.forward(x)}, {"y": copy.deepcopy(net).forward(x)})
    for a, b in zip(twin._state().values(), net._state().values(), strict=True):
        assert not np.shares_memory(a, b)
    net.backward_params(np.ones((9, 5)))


@BOTH
def test_a_copy_with_a_layer_of_ones_own(m):
    class Scale:
        def __init__(self):
            self.params, self.grads = {"s": np.full(3, 2.0)}, {}

        def forward(self, x, train=True):
            return x * self.params["s"]

        def backward(self, dout):
            return dout

    net = m.Sequential([m.Affine.create(4, 3, rng=0, dtype=np.float64), Scale()])
    twin = net.copy()
    twin.params["1.s"] = np.ones(3)
    assert (net.params["1.s"] == 2).all()


@BOTH
def test_summary(m):
    net = m.mlp([784, 100, 10], batch_norm=True, dropout=0.5, seed=0)
    assert net.summary().splitlines() == [
        "   layer      outputs  parameters",
        "0  Affine         100      78,500",
        "1  BatchNorm      100         200",
        "2  ReLU           100",
        "3  Dropout        100",
        "4  Affine          10       1,010",
        "79,710 parameters, float32, 318,840 bytes",
    ]


@BOTH
def test_a_gradient_that_cannot_be_clipped_leaves_the_others(m):
    params = {"a": np.ones(2), "b": np.ones(2)}
    grads = {"a": np.full(2, 5.0), "b": np.full(2, 5.0)}
    grads["b"].flags.writeable = False
    with pytest.raises(ValueError, match="grads must be writeable with clip_norm"):
        m.SGD(0.1).update(params, grads, clip_norm=1.0)
    np.testing.assert_array_equal([*params.values(), *grads.values()], [[1, 1], [1, 1], [5, 5], [5, 5]])


@BOTH
def test_a_share_of_one_copies_whatever_was_there(m, dtype):
    net, target = (m.mlp([4, 3, 2], batch_norm=True, seed=seed, dtype=dtype) for seed in (0, 1))
    for array in target._state().values():
        array[...] = np.inf
    target.blend(net, 1.0)
    assert_same_bits(target.state_dict(), net.state_dict())


@BOTH
def test_a_network_in_the_place_of_another_is_the_part(m):
    joint = filled(m)
    actor = joint.parts["actor"] = joint.parts["actor"].copy()
    assert joint.params["actor.0.W"] is actor.layers[0].params["W"]
    with pytest.raises(ValueError, match="call backward of its network first"):
        joint.update(m.SGD())


@BOTH
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda joint: pickle.loads(pickle.dumps(joint))])
def test_a_copy_of_a_joint_updates_itself(m, copied):
    joint = filled(m)
    before = joint.state_dict()
    twin = copied(joint)
    twin.update(m.SGD(0.1))
    assert_same_bits(joint.state_dict(), before)
    joint.update(m.SGD(0.1))
    assert_same_bits(twin.state_dict(), joint.state_dict())
    assert twin.params["actor.0.W"] is twin.parts["actor"].layers[0].params["W"]
