"""The native optimizers against the reference, computed in float64 on the same numbers."""

import copy
import math
import pickle

import numpy as np
import pytest

import fastnn
from fastnn import RowSparse, optimizers, schedules
from fastnn import reference as ref
from layouts import CONSTANT_VIEWS, VIEWS, every_other_column, fortran, in_a_wider_array
from native import on_each_fusing_isa
from tolerances import assert_same_bits, assert_within

KINDS = list(optimizers.CLASSES)
STEPS = 6
SHAPES = {
    "vector": (7,),
    "matrix": (33, 17),
    "one": (1,),
    "none": (0, 3),
    "scalar": (),
    "page": (1030,),
    "4d": (2, 3, 4, 5),
}


def arrays(shapes, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.normal(size=shape)).astype(dtype) for name, shape in shapes.items()}


def gradients(shapes, dtype, seed=1):
    """Magnitudes in [0.5, 1.5], either sign: far enough from zero that weight decay never cancels them."""
    rng = np.random.default_rng(seed)
    return {
        name: np.asarray(rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape)).astype(dtype)
        for name, shape in shapes.items()
    }


def widened(d):
    return {name: a.astype(np.float64) for name, a in d.items()}


def check(kind, dtype, shapes, **options):
    """Compare parameters and state after each of several steps.

    The reference run on the magnitudes of the gradients, from zero, gives the sum of the magnitudes of all
    that was added to each number; a step takes at most 16 operations on it.
    """
    layer, oracle = optimizers.CLASSES[kind](**options), getattr(ref, kind)(**options)
    sizes = getattr(ref, kind)(**options | {"weight_decay": 0.0})
    params = arrays(shapes, dtype)
    wide, moved = widened(params), {name: np.zeros(p.shape) for name, p in params.items()}
    start = {name: abs(p) for name, p in wide.items()}
    for step in range(STEPS):
        grads = gradients(shapes, dtype, step)
        magnitudes = {
            name: abs(g) * (1 + 4 * options.get("weight_decay", 0)) for name, g in widened(grads).items()
        }
        layer.update(params, grads)
        oracle.update(wide, widened(grads))
        sizes.update(moved, magnitudes)
        terms = 16 * (step + 1)
        for name, p in params.items():
            assert_within(p, wide[name], terms=terms, scale=2 * start[name] + 2 * abs(moved[name]))
        for slot, memory in layer.state.items():
            for name, m in memory.items():
                assert_within(m, oracle.state[slot][name], terms=terms, scale=abs(sizes.state[slot][name]))
    assert layer.step == oracle.step == STEPS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
def test_updates(isa, team, dtype, kind, weight_decay):
    check(kind, dtype, SHAPES, weight_decay=weight_decay)


OPTIONS = [
    ("Momentum", {"momentum": 0.0}),
    ("Nesterov", {"momentum": 0.5}),
    ("AdaGrad", {"eps": 1e-3}),
    ("RMSProp", {"decay_rate": 0.5, "eps": 1e-2}),
    ("RMSProp", {"decay_rate": 0.0}),
    ("Adam", {"beta1": 0.5, "beta2": 0.9, "eps": 1e-2}),
    ("Adam", {"beta1": 0.0, "beta2": 0.0}),
    ("AdamW", {"weight_decay": 0.0}),
    *((kind, {"lr": 0.0}) for kind in KINDS),
    *((kind, {"lr": schedules.WarmUp(schedules.CosineDecay(0.1, 5, 0.01), 3)}) for kind in KINDS),
    *((kind, {"lr": lambda step: 0.1 / (step + 1)}) for kind in KINDS),
]


@pytest.mark.parametrize(("kind", "options"), OPTIONS)
def test_options_and_schedules(isa, dtype, kind, options):
    check(kind, dtype, {"w": (33, 3)}, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_one_large_array_among_many_small(team, dtype, kind):
    check(kind, dtype, {"big": (700, 130), **{f"small{i}": (i,) for i in range(50)}})


@pytest.mark.parametrize("kind", KINDS)
def test_steps_far_along(isa, dtype, kind):
    """The bias corrections of step 10**6, where the powers vanish."""
    layer, oracle = optimizers.CLASSES[kind](), getattr(ref, kind)()
    layer.step = oracle.step = 10**6
    params, grads = arrays({"w": (50,)}, dtype), gradients({"w": (50,)}, dtype)
    wide = widened(params)
    layer.update(params, grads)
    oracle.update(wide, widened(grads))
    assert_within(params["w"], wide["w"], terms=16, scale=abs(wide["w"]) + 1)


@pytest.mark.parametrize("kind", KINDS)
def test_lr_may_be_assigned(kind):
    layer, oracle = optimizers.CLASSES[kind](), getattr(ref, kind)()
    params, wide = arrays({"w": (5,)}, np.float64), arrays({"w": (5,)}, np.float64)
    for rate in (0.5, schedules.StepDecay(0.25, every=1), 0.0):
        layer.lr = oracle.lr = rate
        grads = gradients({"w": (5,)}, np.float64)
        layer.update(params, grads)
        oracle.update(wide, grads)
    np.testing.assert_allclose(params["w"], wide["w"], rtol=1e-13)


# Numbers


@pytest.mark.parametrize("kind", KINDS)
def test_plain_floats_are_replaced(kind):
    layer, oracle = optimizers.CLASSES[kind](0.1), getattr(ref, kind)(0.1)
    params = {"x": -7.0, "y": 2, "w": np.ones(3, np.float32)}
    expected = copy.deepcopy(params)
    for _ in range(30):
        layer.update(params, {"x": params["x"] / 10, "y": 2.0 * params["y"], "w": np.ones(3, np.float32)})
        oracle.update(
            expected, {"x": expected["x"] / 10, "y": 2.0 * expected["y"], "w": np.ones(3, np.float32)}
        )
    assert type(params["x"]) is type(params["y"]) is float
    assert params["x"] == pytest.approx(expected["x"], rel=1e-12)
    assert params["y"] == pytest.approx(expected["y"], rel=1e-12)
    np.testing.assert_allclose(params["w"], expected["w"], rtol=1e-5)


@pytest.mark.parametrize("number", [np.float32(1.5), np.float64(1.5), 2])
def test_numbers_of_numpy_are_replaced_too(number):
    params = {"x": number}
    fastnn.SGD(0.1).update(params, {"x": number})
    assert params["x"] == pytest.approx(0.9 * number, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_both_dtypes_in_one_dict(team, kind):
    layer, oracle = optimizers.CLASSES[kind](), getattr(ref, kind)()
    params = {
        "a": np.ones(2000, np.float32),
        "b": np.ones(2000),
        "c": np.full((3, 5), 2, np.float32),
        "d": 1.0,
    }
    expected = copy.deepcopy(params)
    for _ in range(3):
        layer.update(params, {name: p * 1 for name, p in params.items()})
        oracle.update(expected, {name: p * 1 for name, p in expected.items()})
    for name in params:
        np.testing.assert_allclose(params[name], expected[name], rtol=1e-5 if name in "ac" else 1e-13)


# Memory


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("view", VIEWS)
def test_parameters_of_any_strides_are_updated_in_place(dtype, kind, view):
    dense, strided = (arrays({"w": (19, 21)}, dtype) for _ in range(2))
    strided["w"] = kept = view(strided["w"])
    one, other = optimizers.CLASSES[kind](), optimizers.CLASSES[kind]()
    for step in range(3):
        grads = gradients({"w": (19, 21)}, dtype, step)
        one.update(dense, grads)
        other.update(strided, grads)
    assert strided["w"] is kept
    assert_same_bits(kept, dense["w"])


@pytest.mark.parametrize("view", VIEWS + CONSTANT_VIEWS)
def test_gradients_of_any_strides(dtype, view):
    grads = gradients({"w": (19, 21)}, dtype)
    params, expected = arrays({"w": (19, 21)}, dtype), arrays({"w": (19, 21)}, dtype)
    fastnn.SGD().update(params, {"w": view(grads["w"])})
    fastnn.SGD().update(expected, {"w": np.array(view(grads["w"]))})
    assert_same_bits(params, expected)


@pytest.mark.parametrize("given", ["f8", "f2", "i4", ">f4", "list"])
def test_gradients_of_another_dtype_are_converted(given):
    params, expected = {"w": np.ones(4, np.float32)}, {"w": np.ones(4, np.float32)}
    grad = np.arange(4)
    fastnn.Adam().update(params, {"w": grad.tolist() if given == "list" else grad.astype(given)})
    fastnn.Adam().update(expected, {"w": grad.astype(np.float32)})
    assert_same_bits(params, expected)


def test_gradients_are_not_modified(isa, team, dtype):
    for kind in KINDS:
        params, grads = arrays(SHAPES, dtype), gradients(SHAPES, dtype)
        optimizers.CLASSES[kind](weight_decay=0.1).update(params, grads)
        assert_same_bits(grads, gradients(SHAPES, dtype))


def in_turn(kind, make, grads, steps=3):
    """Return params and reference after updates that do not commute; what `make` gives shares memory."""
    params, expected = make(), make()
    layer, oracle = (m(0.1, weight_decay=0.3) for m in (optimizers.CLASSES[kind], getattr(ref, kind)))
    for _ in range(steps):
        layer.update(params, grads)
        oracle.update(expected, grads)
    return params, expected


@pytest.mark.parametrize("kind", KINDS)
def test_one_array_under_two_names_is_updated_twice(team, kind):
    def make():
        w = arrays({"w": (90, 70)}, np.float64)["w"]
        return {"a": w, "b": w, "c": w[10:50]}

    shapes = {"a": (90, 70), "b": (90, 70), "c": (40, 70)}
    params, expected = in_turn(kind, make, gradients(shapes, np.float64))
    np.testing.assert_allclose(params["a"], expected["a"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("order", ["ab", "ba"])
@pytest.mark.parametrize("view", ["transposed", "every other row"])
def test_a_strided_view_of_another_parameter(team, kind, order, view):
    def make():
        w = arrays({"w": (40, 40)}, np.float64)["w"]
        both = {"a": w, "b": w.T if view == "transposed" else w[::2]}
        return {name: both[name] for name in order}

    grads = gradients({name: p.shape for name, p in make().items()}, np.float64)
    params, expected = in_turn(kind, make, grads)
    np.testing.assert_allclose(params["a"], expected["a"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_table_tied_to_a_dense_parameter(team, kind, order):
    def make():
        w = arrays({"w": (3000, 40)}, np.float64)["w"]
        return dict.fromkeys(order, w)

    grads = gradients({"a": (3000, 40)}, np.float64)
    rows = np.arange(0, 3000, 3)
    grads["b"] = RowSparse(rows, grads["a"][rows] / 2, (3000, 40))
    params, expected = in_turn(kind, make, grads)
    np.testing.assert_allclose(params["a"], expected["a"], rtol=1e-9, atol=1e-12)


def test_a_parameter_may_be_its_own_gradient(isa, team, dtype):
    """The gradient of |w|^2 / 2."""
    for kind in KINDS:
        w = arrays({"w": (3000,)}, dtype)["w"]
        params, expected = {"w": w}, {"w": w.copy()}
        optimizers.CLASSES[kind]().update(params, {"w": w})
        optimizers.CLASSES[kind]().update(expected, {"w": expected["w"].copy()})
        assert_same_bits(params, expected)


def test_a_gradient_may_overlap_its_parameter(team, dtype):
    w = arrays({"w": (5001,)}, dtype)["w"]
    expected = w[1:] - dtype.type(0.5) * w[:-1]
    fastnn.SGD(0.5).update({"w": w[1:]}, {"w": w[:-1]})
    assert_same_bits(w[1:], expected)


# Row-sparse gradients


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
@pytest.mark.parametrize("dim", [1, 16, 33])
def test_row_sparse(isa, team, dtype, kind, weight_decay, dim):
    layer, oracle = (m(weight_decay=weight_decay) for m in (optimizers.CLASSES[kind], getattr(ref, kind)))
    params = arrays({"E": (50, dim), "w": (20,)}, dtype)
    before, wide = params["E"].copy(), widened(params)
    touched = set()
    for step, rows in enumerate([[0, 3, 49], [], [3, 4], list(range(50))[::2]]):
        grads = gradients({"E": (len(rows), dim), "w": (20,)}, dtype, step)
        values = grads["E"].astype(np.float64)
        layer.update(params, {**grads, "E": RowSparse(np.array(rows, int), grads["E"], (50, dim))})
        oracle.update(wide, {**widened(grads), "E": RowSparse(np.array(rows, int), values, (50, dim))})
        touched |= set(rows)
        assert_within(params["E"], wide["E"], terms=16 * (step + 1), scale=2 * abs(wide["E"]) + 1)
        for slot in layer.slots:
            m = oracle.state[slot]["E"]
            assert_within(layer.state[slot]["E"], m, terms=16 * (step + 1), scale=abs(m) + 3)
    untouched = [row for row in range(50) if row not in touched]
    assert untouched
    assert_same_bits(params["E"][untouched], before[untouched])
    for slot in layer.slots:
        assert not layer.state[slot]["E"][untouched].any()


@pytest.mark.parametrize("kind", KINDS)
def test_row_sparse_into_a_strided_table(team, dtype, kind):
    for view in (fortran, every_other_column, in_a_wider_array):
        dense, strided = arrays({"E": (20, 7)}, dtype), arrays({"E": (20, 7)}, dtype)
        strided["E"] = view(strided["E"])
        one, other = optimizers.CLASSES[kind](), optimizers.CLASSES[kind]()
        for rows in ([1, 5, 19], [5]):
            values = gradients({"E": (len(rows), 7)}, dtype)["E"]
            one.update(dense, {"E": RowSparse(rows, values, (20, 7))})
            other.update(strided, {"E": RowSparse(rows, values, (20, 7))})
        assert_same_bits(strided["E"], dense["E"])


@pytest.mark.parametrize("kind", KINDS)
def test_dense_and_sparse_gradients_may_take_turns(dtype, kind):
    params, expected = arrays({"E": (6, 3)}, dtype), arrays({"E": (6, 3)}, dtype)
    layer, oracle = optimizers.CLASSES[kind](), getattr(ref, kind)()
    for step in range(4):
        g = gradients({"E": (6, 3)}, dtype, step)["E"]
        g = RowSparse([1, 4], g[:2], (6, 3)) if step % 2 else g
        layer.update(params, {"E": g})
        oracle.update(expected, {"E": g})
    np.testing.assert_allclose(params["E"], expected["E"], rtol=1e-4 if dtype == np.float32 else 1e-12)


# Promises


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("many", [True, False])
def test_same_bits_on_every_team(team, dtype, kind, many):
    shapes = {str(i): (i * 37,) for i in range(60)} if many else {"w": (300, 111)}
    params, alone = arrays(shapes, dtype), arrays(shapes, dtype)
    layer, single = optimizers.CLASSES[kind](weight_decay=0.1), optimizers.CLASSES[kind](weight_decay=0.1)
    for step in range(3):
        layer.update(params, gradients(shapes, dtype, step))
        with fastnn.threads(1):
            single.update(alone, gradients(shapes, dtype, step))
    assert_same_bits(params, alone)
    assert_same_bits(layer.state_dict()["state"], single.state_dict()["state"])


@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_on_every_isa_that_fuses(dtype, kind):
    def compute():
        params, layer = arrays(SHAPES, dtype), optimizers.CLASSES[kind](weight_decay=0.1)
        for step in range(3):
            layer.update(params, gradients(SHAPES, dtype, step))
        return {"params": params, "state": layer.state}

    first, *others = on_each_fusing_isa(compute)
    for other in others:
        assert_same_bits(other, first)


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_does_not_depend_on_its_place(isa, dtype, kind):
    p, g = arrays({"w": (100,)}, dtype)["w"], gradients({"w": (100,)}, dtype)["w"]
    whole = {"w": p.copy()}
    optimizers.CLASSES[kind]().update(whole, {"w": g})
    for part in (slice(0, 1), slice(3, 20), slice(50, 67)):
        alone = {"w": p[part].copy()}
        optimizers.CLASSES[kind]().update(alone, {"w": g[part]})
        assert_same_bits(alone["w"], whole["w"][part])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["state_dict", "pickle", "deepcopy"])
def test_a_restored_optimizer_goes_on_to_the_same_bits(dtype, kind, how):
    params = arrays(SHAPES, dtype)
    layer = optimizers.CLASSES[kind](lr=schedules.StepDecay(0.1, 0.5, 2))
    for step in range(3):
        layer.update(params, gradients(SHAPES, dtype, step))
    if how == "state_dict":
        twin = optimizers.from_config(layer.config())
        state = layer.state_dict()
        twin.load_state_dict(state)
        for memory in state["state"].values():
            for m in memory.values():
                m[...] = np.nan  # what was loaded is a copy
    else:
        twin = copy.deepcopy(layer) if how == "deepcopy" else pickle.loads(pickle.dumps(layer))
    assert type(twin) is type(layer)
    others = copy.deepcopy(params)
    for step in range(3, 6):
        layer.update(params, gradients(SHAPES, dtype, step))
        twin.update(others, gradients(SHAPES, dtype, step))
    assert_same_bits(others, params)
    assert twin.step == layer.step == 6


@pytest.mark.parametrize("kind", KINDS)
def test_states_pass_between_native_and_reference(kind):
    layer, oracle = optimizers.CLASSES[kind](), getattr(ref, kind)()
    params = arrays({"w": (5,)}, np.float64)
    layer.update(params, gradients({"w": (5,)}, np.float64))
    oracle.load_state_dict(layer.state_dict())
    expected = copy.deepcopy(params)
    layer.update(params, gradients({"w": (5,)}, np.float64, 2))
    oracle.update(expected, gradients({"w": (5,)}, np.float64, 2))
    np.testing.assert_allclose(params["w"], expected["w"], rtol=1e-13)
    back = optimizers.CLASSES[kind]()
    back.load_state_dict(oracle.state_dict())
    assert back.step == 2


@pytest.mark.parametrize("kind", KINDS)
def test_new_names_may_come_later(kind):
    params, grads = arrays({"a": (3,)}, np.float64), gradients({"a": (3,)}, np.float64)
    layer, oracle = optimizers.CLASSES[kind](), getattr(ref, kind)()
    expected = copy.deepcopy(params)
    layer.update(params, grads)
    oracle.update(expected, grads)
    for d in (params, expected):
        d["b"] = np.ones(2)
    layer.update(params, {**grads, "b": np.ones(2)})
    oracle.update(expected, {**grads, "b": np.ones(2)})
    np.testing.assert_allclose(params["a"], expected["a"], rtol=1e-13)
    np.testing.assert_allclose(params["b"], expected["b"], rtol=1e-13)


def test_zero_gradients_do_nothing_but_decay(isa, dtype):
    for kind in KINDS:
        params = arrays({"w": (40,)}, dtype)
        optimizers.CLASSES[kind](weight_decay=0).update(params, {"w": np.zeros(40, dtype)})
        assert_same_bits(params, arrays({"w": (40,)}, dtype))


def test_nan_and_infinity_stay_in_their_place(isa, team, dtype):
    for kind in KINDS:
        params, grads = arrays({"w": (100,)}, dtype), gradients({"w": (100,)}, dtype)
        grads["w"][[3, 70]] = np.nan, np.inf
        optimizers.CLASSES[kind]().update(params, grads)
        finite = np.isfinite(params["w"])
        assert not finite[3], kind
        assert finite.sum() >= 98, kind


def test_empty_dicts_count_as_an_update():
    layer = fastnn.Adam()
    layer.update({}, {})
    assert layer.step == 1


def test_quadratic_is_minimized():
    for kind in KINDS:
        params = {"x": np.array([-7.0, 2.0])}
        rate = 20.0 if kind == "Muon" else 0.3  # of which a vector sees a share
        layer = optimizers.CLASSES[kind](rate, weight_decay=0.0)
        for _ in range(300):
            layer.update(params, {"x": params["x"] * [0.1, 2]})
        assert math.hypot(*params["x"]) < 1.0, kind


def test_optimizers_are_documented_as_the_references():
    for kind in KINDS:
        assert optimizers.CLASSES[kind].__doc__ == getattr(ref, kind).__doc__
        assert optimizers.CLASSES[kind](0.5).config() == getattr(ref, kind)(0.5).config()
