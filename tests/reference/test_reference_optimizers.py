"""Optimizers of the reference: steps by hand, sparse against dense, state, errors."""

import json
import math
import warnings

import numpy as np
import pytest

from fastnn import reference as ref
from fastnn.reference import optimizers
from fastnn.schedules import CosineDecay, StepDecay, WarmUp

KINDS = [ref.SGD, ref.Momentum, ref.Nesterov, ref.AdaGrad, ref.RMSProp, ref.Adam, ref.AdamW, ref.Muon]


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# Each formula once more, on plain floats: p, memory, g, t -> p, memory


def sgd(p, memory, g, t, lr):
    return p - lr * g, memory


def momentum(p, memory, g, t, lr):
    v = 0.8 * memory - lr * g
    return p + v, v


def nesterov(p, memory, g, t, lr):
    return p + 0.8 * 0.8 * memory - (1 + 0.8) * lr * g, 0.8 * memory - lr * g


def adagrad(p, memory, g, t, lr):
    h = memory + g * g
    return p - lr * g / (math.sqrt(h) + 0.1), h


def rmsprop(p, memory, g, t, lr):
    h = 0.7 * memory + 0.3 * g * g
    return p - lr * g / (math.sqrt(h) + 0.1), h


def adam(p, memory, g, t, lr):
    m, v = memory or (0.0, 0.0)
    m, v = 0.6 * m + 0.4 * g, 0.7 * v + 0.3 * g * g
    return p - lr * (m / (1 - 0.6**t)) / (math.sqrt(v / (1 - 0.7**t)) + 0.1), (m, v)


CASES = {
    "SGD": (lambda **k: ref.SGD(0.2, **k), sgd),
    "Momentum": (lambda **k: ref.Momentum(0.2, 0.8, **k), momentum),
    "Nesterov": (lambda **k: ref.Nesterov(0.2, 0.8, **k), nesterov),
    "AdaGrad": (lambda **k: ref.AdaGrad(0.2, eps=0.1, **k), adagrad),
    "RMSProp": (lambda **k: ref.RMSProp(0.2, 0.7, eps=0.1, **k), rmsprop),
    "Adam": (lambda **k: ref.Adam(0.2, 0.6, 0.7, eps=0.1, **k), adam),
    "AdamW": (lambda **k: ref.AdamW(0.2, 0.6, 0.7, eps=0.1, **{"weight_decay": 0.0} | k), adam),
    "Muon": (lambda **k: ref.Muon(0.4, adamw_factor=0.5, beta1=0.6, beta2=0.7, eps=0.1, **k), adam),
}


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CASES)
def test_steps_by_hand(name, dtype, decay):
    make, formula = CASES[name]
    optimizer = make(weight_decay=decay)
    start, gradients = [1.5, -2.0, 0.25], [[0.5, -1.0, 2.0], [1.0, 0.0, -3.0], [0.1, 0.2, 0.3]]
    array = np.array(start, dtype)
    params = {"a": array}
    expected, memory = list(start), [0.0] * 3
    for t, g in enumerate(gradients, start=1):
        grad = np.array(g, dtype)
        optimizer.update(params, {"a": grad})
        np.testing.assert_array_equal(grad, np.array(g, dtype))
        for i in range(3):
            slope = g[i]
            if name in ("AdamW", "Muon"):
                expected[i] -= 0.2 * decay * expected[i]
            else:
                slope += decay * expected[i]
            expected[i], memory[i] = formula(expected[i], memory[i], slope, t, 0.2)
        assert params["a"] is array
        assert array.dtype == dtype
        np.testing.assert_allclose(array, expected, rtol=100 * np.finfo(dtype).eps)
    assert optimizer.step == 3
    assert all(m["a"].dtype == dtype for m in optimizer.state.values())


def test_first_adam_step_has_the_size_of_lr():
    params = {"a": np.zeros(2)}
    ref.Adam(0.001, eps=1e-12).update(params, {"a": np.array([1e-3, -50.0])})
    np.testing.assert_allclose(params["a"], [-0.001, 0.001], rtol=1e-8)


def test_defaults():
    assert ref.SGD().lr == ref.Momentum().lr == ref.AdaGrad().lr == ref.RMSProp().lr == 0.01
    assert ref.Adam().lr == ref.AdamW().lr == 0.001
    assert ref.Adam().config() == {
        "optimizer": "Adam",
        "lr": 0.001,
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-8,
        "weight_decay": 0.0,
    }
    assert ref.AdamW().weight_decay == 0.01
    assert ref.RMSProp().decay_rate == 0.99
    assert ref.RMSProp().eps == ref.AdaGrad().eps == 1e-7
    assert ref.Nesterov().momentum == ref.Momentum().momentum == 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_replaced_in_the_dict(kind):
    numbers = {"x": -7.0, "y": np.float32(2), "z": np.array(3.0)}
    arrays = {"x": np.array([-7.0]), "y": np.array([2], np.float32), "z": np.array([3.0])}
    zero_d = numbers["z"]
    a, b = kind(0.1), kind(0.1)
    for _ in range(3):
        a.update(numbers, {"x": -0.7, "y": np.float32(4), "z": np.array(1.0)})
        b.update(arrays, {"x": np.array([-0.7]), "y": np.array([4], np.float32), "z": np.array([1.0])})
    assert type(numbers["x"]) is float
    assert type(numbers["y"]) is np.float32
    assert numbers["z"] is zero_d
    for name, array in arrays.items():
        assert numbers[name] == array[0] != {"x": -7, "y": 2, "z": 3}[name]


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize("kind", KINDS)
def test_sparse_is_dense_on_its_rows(kind, decay):
    rng = np.random.default_rng(0)
    sparse = {"W": rng.normal(size=(6, 3)), "b": np.ones(2)}
    dense = {"W": sparse["W"].copy(), "b": np.ones(2)}
    rows = np.array([1, 4])
    a, b = kind(0.1, weight_decay=decay), kind(0.1, weight_decay=decay)
    for _ in range(3):
        values = rng.normal(size=(2, 3))
        before = sparse["W"].copy()
        gradient = ref.RowSparse(rows, values.copy(), (6, 3))
        a.update(sparse, {"W": gradient, "b": np.ones(2)})
        b.update(dense, {"W": gradient.to_dense(), "b": np.ones(2)})
        np.testing.assert_array_equal(gradient.values, values)
        np.testing.assert_array_equal(np.delete(sparse["W"], rows, 0), np.delete(before, rows, 0))
        np.testing.assert_allclose(sparse["W"][rows], dense["W"][rows], rtol=1e-14)
        np.testing.assert_array_equal(sparse["b"], dense["b"])
    for slot, memory in a.state.items():
        np.testing.assert_allclose(memory["W"][rows], b.state[slot]["W"][rows], rtol=1e-14)
        assert (np.delete(memory["W"], rows, 0) == 0).all()


def test_sparse_uses_the_global_step():
    optimizer = ref.Adam(0.1, 0.5, 0.5, eps=1e-12)
    params = {"W": np.zeros((2, 1))}
    optimizer.update(params, {"W": ref.RowSparse([0], np.ones((1, 1)), (2, 1))})
    optimizer.update(params, {"W": ref.RowSparse([1], np.ones((1, 1)), (2, 1))})
    # row 1 sees its first gradient at t = 2: m = v = 1/2, corrected by 1 - 1/4
    assert params["W"][1, 0] == pytest.approx(-0.1 * (0.5 / 0.75) / math.sqrt(0.5 / 0.75))


@pytest.mark.parametrize("kind", KINDS)
def test_strided_parameters(kind):
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(6, 8))
    view, copy = wide[::2, ::-2], wide[::2, ::-2].copy()
    a, b = kind(0.1), kind(0.1)
    for _ in range(2):
        g = rng.normal(size=(4, 3)).T
        a.update({"W": view}, {"W": g})
        b.update({"W": copy}, {"W": g.copy()})
    np.testing.assert_array_equal(view, copy)


def test_schedule_is_called_with_the_updates_done():
    seen = []

    def schedule(step):
        seen.append(step)
        return 0.5**step

    optimizer = ref.SGD(schedule)
    params = {"a": np.zeros(1)}
    for _ in range(3):
        optimizer.update(params, {"a": np.ones(1)})
    assert seen == [0, 1, 2]
    assert optimizer.lr is schedule
    assert params["a"][0] == -1.75


def test_lr_may_be_assigned():
    optimizer = ref.SGD(1.0)
    params = {"a": np.zeros(1)}
    optimizer.lr = 0.25
    optimizer.update(params, {"a": np.ones(1)})
    assert params["a"][0] == -0.25
    for bad, error in ((-1.0, ValueError), ("a", TypeError), (lambda step: math.nan, ValueError)):
        optimizer.lr = bad
        with pytest.raises(error, match=r"^lr must be a number >= 0"):
            optimizer.update(params, {"a": np.ones(1)})
    assert params["a"][0] == -0.25
    assert optimizer.step == 1


def test_overflow_gives_infinity_without_a_warning():
    params = {"a": np.array([1e300])}
    ref.AdaGrad().update(params, {"a": np.array([1e300])})
    ref.SGD(1e10).update(params, {"a": np.array([1e300])})
    assert params["a"][0] == -np.inf


def test_a_name_may_join_later():
    optimizer = ref.Momentum(0.1)
    a, b = np.zeros(1), np.zeros(1)
    optimizer.update({"a": a}, {"a": np.ones(1)})
    optimizer.update({"a": a, "b": b}, {"a": np.ones(1), "b": np.ones(1)})
    assert b[0] == -0.1
    assert a[0] == pytest.approx(-0.29)


# State


@pytest.mark.parametrize("kind", KINDS)
def test_state_round_trip(kind):
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(3, 2)), "b": rng.normal(size=4).astype(np.float32)}
    grads = {"a": rng.normal(size=(3, 2)), "b": rng.normal(size=4).astype(np.float32)}
    first = kind(0.1, weight_decay=0.01)
    for _ in range(3):
        first.update(params, grads)
    state = first.state_dict()
    assert state["optimizer"] == kind.__name__
    assert state["step"] == 3
    assert set(state["state"]) == set(kind.slots)
    second = kind(0.1, weight_decay=0.01)
    second.load_state_dict(state)
    for memory in state["state"].values():  # neither shares memory with the dict
        for array in memory.values():
            array[...] = 99
    other = {name: p.copy() for name, p in params.items()}
    for _ in range(2):
        first.update(params, grads)
        second.update(other, grads)
    for name in params:
        np.testing.assert_array_equal(params[name], other[name])


def test_state_names():
    assert ref.SGD.slots == ()
    assert ref.Momentum.slots == ref.Nesterov.slots == ("v",)
    assert ref.AdaGrad.slots == ref.RMSProp.slots == ("h",)
    assert ref.Adam.slots == ref.AdamW.slots == ref.Muon.slots == ("m", "v")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda d: d.pop("step"), ValueError, "^d must be a dict with optimizer, step and state"),
        (lambda d: d.update(optimizer="SGD"), ValueError, "^d must be the state of Adam, got that of 'SGD'"),
        (lambda d: d.update(step=-1), ValueError, r"^d\['step'\] must be an integer >= 0"),
        (lambda d: d.update(step=1.5), TypeError, r"^d\['step'\] must be an integer"),
        (lambda d: d["state"].pop("v"), ValueError, r"^d\['state'\] must have the entries"),
        (lambda d: d["state"].update(v=3), TypeError, r"^d\['state'\]\['v'\] must be a dict"),
        (lambda d: d["state"]["v"].pop("a"), ValueError, r"^d\['state'\]\['v'\] must have the names"),
        (
            lambda d: d["state"]["v"].update(a=np.zeros(3)),
            ValueError,
            r"^d\['state'\]\['v'\] must have the names",
        ),
        (
            lambda d: d["state"]["v"].update(a=np.zeros(2, int)),
            TypeError,
            r"^d\['state'\]\['v'\]\['a'\] must be",
        ),
    ],
)
def test_load_state_dict_refuses_and_changes_nothing(change, error, message):
    optimizer = ref.Adam()
    params = {"a": np.zeros(2)}
    optimizer.update(params, {"a": np.ones(2)})
    state = optimizer.state_dict()
    change(state)
    with pytest.raises(error, match=message):
        optimizer.load_state_dict(state)
    assert optimizer.step == 1
    np.testing.assert_allclose(optimizer.state["m"]["a"], 0.1)


@pytest.mark.parametrize("lr", [0.05, StepDecay(0.1, 0.5, 10), WarmUp(CosineDecay(0.1, 50), 5)])
@pytest.mark.parametrize("kind", KINDS)
def test_config_round_trip(kind, lr):
    optimizer = kind(lr, weight_decay=0.25)
    config = json.loads(json.dumps(optimizer.config()))
    again = optimizers.from_config(config)
    assert type(again) is kind
    assert again.lr == lr
    assert again.config() == optimizer.config()
    assert repr(again) == repr(optimizer)


@pytest.mark.parametrize(
    "config",
    [None, {}, {"optimizer": "Magic", "lr": 1}, {"optimizer": "SGD"}, {"optimizer": "SGD", "lr": 1, "x": 1}],
)
def test_from_config_refuses(config):
    with pytest.raises(ValueError, match=r"^config"):
        optimizers.from_config(config)


def test_a_function_cannot_be_saved():
    with pytest.raises(TypeError, match=r"^lr must be a number or one of fastnn.schedules"):
        ref.SGD(lambda step: 0.1).config()


# Errors


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ref.SGD(-0.1), ValueError, "^lr must be a number >= 0, got -0.1"),
        (lambda: ref.SGD("fast"), TypeError, "^lr must be a number >= 0, got 'fast'"),
        (lambda: ref.SGD(math.nan), ValueError, "^lr"),
        (lambda: ref.SGD(weight_decay=-1), ValueError, "^weight_decay must be a number >= 0, got -1"),
        (lambda: ref.Momentum(momentum=1.5), ValueError, r"^momentum must be a number in \[0, 1\], got 1.5"),
        (lambda: ref.AdaGrad(eps=0), ValueError, "^eps must be a number > 0, got 0"),
        (lambda: ref.RMSProp(decay_rate=-0.5), ValueError, "^decay_rate"),
        (lambda: ref.Adam(beta1=1), ValueError, r"^beta1 must be a number in \[0, 1\), got 1"),
        (lambda: ref.Adam(beta2=True), TypeError, "^beta2"),
        (lambda: ref.AdamW(eps=-1), ValueError, "^eps"),
    ],
)
def test_options_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def read_only():
    array = np.zeros(2)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("params", "grads", "error", "message"),
    [
        ({"b": np.zeros(2)}, {}, ValueError, "'b' is in params, not in grads"),
        ({}, {"b": np.zeros(2)}, ValueError, "'b' is in grads, not in params"),
        (
            {"b": np.zeros(2)},
            {"b": np.zeros(3)},
            ValueError,
            r"^grads\['b'\] must have its parameter's shape",
        ),
        (
            {"b": np.zeros(2)},
            {"b": np.zeros(2, np.float32)},
            TypeError,
            r"^grads\['b'\] must have its parameter's dtype",
        ),
        (
            {"b": np.zeros(2, int)},
            {"b": np.zeros(2, int)},
            TypeError,
            r"^params\['b'\] must be float32 or float64",
        ),
        ({"b": np.zeros(2)}, {"b": [0.0, 0.0]}, TypeError, r"^grads\['b'\] must be an array"),
        ({"b": [0.0, 0.0]}, {"b": np.zeros(2)}, TypeError, r"^params\['b'\] must be a number"),
        ({"b": read_only()}, {"b": np.zeros(2)}, ValueError, r"^params\['b'\] must be writeable"),
        ({"b": 1.0}, {"b": "x"}, TypeError, r"^grads\['b'\] must be a number"),
        (
            {"b": np.zeros((3, 2))},
            {"b": ref.RowSparse([0], np.zeros((1, 2)), (4, 2))},
            ValueError,
            r"^grads\['b'\]",
        ),
        ([], {}, TypeError, "^params must be a dict"),
        ({}, [], TypeError, "^grads must be a dict"),
    ],
)
def test_update_refuses_and_changes_nothing(params, grads, error, message):
    optimizer = ref.Adam()
    a = np.ones(2)
    optimizer.update({"a": a}, {"a": np.ones(2)})
    before, state = a.copy(), optimizer.state_dict()
    if isinstance(params, dict) and isinstance(grads, dict):
        params, grads = {"a": a} | params, {"a": np.ones(2)} | grads
    with pytest.raises(error, match=message):
        optimizer.update(params, grads)
    np.testing.assert_array_equal(a, before)
    assert optimizer.step == 1
    assert list(optimizer.state["m"]) == ["a"]
    np.testing.assert_array_equal(optimizer.state["m"]["a"], state["state"]["m"]["a"])


def test_a_parameter_may_not_change_its_form():
    optimizer = ref.Momentum()
    optimizer.update({"a": np.zeros(2)}, {"a": np.zeros(2)})
    for other in (np.zeros(3), np.zeros(2, np.float32)):
        with pytest.raises(ValueError, match=r"^params\['a'\] must be what it was"):
            optimizer.update({"a": other}, {"a": other.copy()})
