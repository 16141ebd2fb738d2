"""Muon: its iteration, the native update against the reference's, and which parameters are its own."""

import copy
import io
import math

import numpy as np
import pytest

import fastnn
from fastnn import Group, RowSparse, _core, schedules
from fastnn import reference as ref
from fastnn.reference.optimizers import orthogonalized
from fastnn.trainer import Trainer
from layouts import VIEWS
from native import on_each_fusing_isa
from networks import NETS
from tolerances import assert_same_bits, assert_within

A, B, C = 3.4445, -4.7750, 2.0315
SHAPES = [(1, 1), (3, 200), (200, 3), (17, 17), (257, 65), (65, 257), (96, 96)]
PACKED = [(600, 400), (300, 2100), (2100, 40)]  # in blocks, in the order of lines, in pieces
BOTH = pytest.mark.parametrize("m", [fastnn, ref], ids=["native", "reference"])


def matrix(shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def textbook(u, steps):
    """Return what becomes of the singular values, by the values themselves."""
    left, values, right = np.linalg.svd(u, full_matrices=False)
    values = values / (np.linalg.norm(u) + 1e-7)
    for _ in range(steps):
        values = A * values + B * values**3 + C * values**5
    return left * values @ right, values


def slope(values):
    """Return by how much an iteration may enlarge what is wrong with a matrix of these singular values."""
    new = A * values + B * values**3 + C * values**5
    sums, differences = np.add.outer(values, values), np.subtract.outer(values, values)
    with np.errstate(all="ignore"):
        even = np.add.outer(new, new) / sums
        odd = np.subtract.outer(new, new) / differences
    own = A + 3 * B * values**2 + 5 * C * values**4
    return max(np.abs(a[np.isfinite(a)]).max(initial=0) for a in (even, odd, own))


def rounding(u, steps, eps):
    """Return how far, in the Frobenius norm, roundings may take the iteration from what it is.

    Each product is off by roundings of its terms, the products of magnitudes; what an iteration has been
    given wrong it enlarges.
    """
    x = u if u.shape[0] >= u.shape[1] else u.T
    x = x / (np.linalg.norm(u) + 1e-7)
    norm, off = np.linalg.norm, 8 * eps
    for _ in range(steps):
        gram = x.T @ x
        square = gram @ gram
        polynomial = A * np.eye(len(gram)) + B * gram + C * square
        values = np.linalg.svd(x, compute_uv=False)
        of_gram = len(x) * eps * norm(abs(x).T @ abs(x))
        of_square = len(gram) * eps * C * norm(abs(gram) @ abs(gram))
        of_sum = 4 * eps * (A * math.sqrt(len(gram)) - B * norm(gram) + C * norm(square))
        of_product = len(gram) * eps * norm(abs(x) @ abs(polynomial))
        of_polynomial = (-B + 2 * C * values[0] ** 2) * of_gram + of_square + of_sum
        off = slope(values) * off + values[0] * of_polynomial + of_product
        x = x @ polynomial
    return off


# The reference


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steps", [1, 5, 8])
def test_the_iteration_is_that_of_singular_values(shape, steps):
    u = matrix(shape)
    expected, values = textbook(u, steps)
    np.testing.assert_allclose(orthogonalized(u, steps), expected, atol=1e-11)
    if steps == 5 and shape[0] != shape[1]:  # whose smallest value is next to nothing
        assert ((values > 0.67) & (values < 1.21)).all()


@BOTH
@pytest.mark.parametrize("nesterov", [True, False])
def test_updates_by_hand(m, nesterov):
    """Of a matrix that widens, so that the rate has a factor, and of what AdamW does."""
    W, b = matrix((5, 20)), np.ones(20)
    params = {"0.W": W.copy(), "0.b": b.copy(), "1.W": np.ones((20, 2))}
    options = {"beta1": 0.8, "beta2": 0.9, "eps": 1e-3}
    optimizer = m.Muon(0.1, 0.9, nesterov=nesterov, weight_decay=0.5, adamw_factor=0.2, **options)
    adamw = ref.AdamW(0.02, 0.8, 0.9, eps=1e-3, weight_decay=0.5)
    rest, momentum = {"b": b.copy(), "W": np.ones((20, 2))}, np.zeros((5, 20))
    for step in range(3):
        grads = {name: matrix(p.shape, seed=step) for name, p in params.items()}
        optimizer.update(params, grads)
        adamw.update(rest, {"b": grads["0.b"], "W": grads["1.W"]})
        momentum = 0.9 * momentum + 0.1 * grads["0.W"]
        u = 0.9 * momentum + 0.1 * grads["0.W"] if nesterov else momentum
        W = W - 0.1 * 0.5 * W - 0.1 * math.sqrt(20 / 5) * textbook(u, 5)[0]
    np.testing.assert_allclose(params["0.W"], W, atol=1e-12)
    np.testing.assert_allclose(optimizer.state["m"]["0.W"], momentum, atol=1e-14)
    np.testing.assert_allclose(params["0.b"], rest["b"], atol=1e-12)
    np.testing.assert_allclose(params["1.W"], rest["W"], atol=1e-12)
    assert optimizer.state["m"].keys() == params.keys()
    assert optimizer.state["v"].keys() == params.keys() - {"0.W"}


# Native against the reference


def check(shape, dtype, **options):
    """Compare two updates; what the first was off the second may be, too."""
    layer, oracle = (m.Muon(matrices=["W"], **options) for m in (fastnn, ref))
    W, before, off = matrix(shape, dtype), np.zeros(shape), 0.0
    wide, eps = W.astype(np.float64), float(np.finfo(dtype).eps) * (1 + (dtype == np.float64))
    rate, keep = layer.lr * math.sqrt(max(1, shape[1] / shape[0])), layer.momentum
    for step in range(2):
        g = matrix(shape, dtype, 1 + step)
        layer.update({"W": W}, {"W": g})
        oracle.update({"W": wide}, {"W": g.astype(np.float64)})
        m = oracle.state["m"]["W"]
        assert_within(layer.state["m"]["W"], m, terms=4 * (step + 1), scale=abs(m) + abs(g) + abs(before))
        u = keep * m + (1 - keep) * g if layer.nesterov else m
        off += rate * rounding(u, layer.ns_steps, eps) + 4 * eps * np.linalg.norm(wide)
        assert np.linalg.norm(W - wide) <= off
        before = m.copy()
    assert layer.state["v"] == oracle.state["v"] == {}


@pytest.mark.parametrize("shape", SHAPES)
def test_updates(isa, dtype, shape):
    check(shape, dtype, weight_decay=0.1)


@pytest.mark.parametrize("shape", PACKED)
def test_updates_of_large_matrices(dtype, shape):
    check(shape, dtype, ns_steps=2)


def test_more_columns_than_a_packed_block_has():
    W, wide = matrix((1100, 1090)), matrix((1100, 1090))
    g = matrix((1100, 1090), seed=1)
    for m, params in ((fastnn, W), (ref, wide)):
        m.Muon(matrices=["W"], ns_steps=1).update({"W": params}, {"W": g})
    np.testing.assert_allclose(W, wide, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [{"nesterov": False}, {"momentum": 0.0}, {"ns_steps": 1}, {"ns_steps": 9}, {"lr": 0.0}],
    ids=str,
)
def test_options(dtype, options):
    check((33, 20), dtype, **options)


@pytest.mark.parametrize("shape", [*SHAPES, *PACKED])
def test_same_bits_on_every_team_and_isa(dtype, shape):
    def compute(threads):
        params = {"W": matrix(shape, dtype)}
        layer = fastnn.Muon(matrices=["W"], weight_decay=0.1, ns_steps=2)
        with fastnn.threads(threads):
            layer.update(params, {"W": matrix(shape, dtype, 1)})
        return {"W": params["W"], "m": layer.state["m"]["W"]}

    _core.set_work_per_member(0.0)
    try:
        results = [*on_each_fusing_isa(lambda: compute(1)), *on_each_fusing_isa(lambda: compute(3))]
    finally:
        _core.set_work_per_member(-1.0)
    for other in results[1:]:
        assert_same_bits(other, results[0])


@pytest.mark.parametrize("view", VIEWS)
def test_matrices_of_any_strides(dtype, view):
    dense, strided = {"W": matrix((19, 21), dtype)}, {"W": view(matrix((19, 21), dtype))}
    one, other = (fastnn.Muon(matrices=["W"]) for _ in range(2))
    for step in range(2):
        g = matrix((19, 21), dtype, step)
        one.update(dense, {"W": g})
        other.update(strided, {"W": view(g)})
    assert_same_bits(np.array(strided["W"]), dense["W"])


def test_one_array_under_two_names_is_updated_twice(team):
    shared, expected = matrix((90, 70)), matrix((90, 70))
    grads = {"a": matrix((90, 70), seed=1), "b": matrix((90, 70), seed=2)}
    fastnn.Muon(matrices=["*"]).update({"a": shared, "b": shared}, grads)
    ref.Muon(matrices=["*"]).update({"a": expected, "b": expected}, grads)
    np.testing.assert_allclose(shared, expected, atol=1e-11)


def test_both_dtypes_in_one_dict(team):
    params = {"0.W": matrix((9, 30), np.float32), "1.W": matrix((30, 9)), "2.W": np.ones(3), "x": 1.0}
    expected = copy.deepcopy(params)
    for m, given in ((fastnn, params), (ref, expected)):
        m.Muon(matrices=["[01].W"]).update(given, {name: p * 1 for name, p in given.items()})
    for name, p in expected.items():
        np.testing.assert_allclose(params[name], p, rtol=0, atol=1e-4 if name == "0.W" else 1e-12)


@BOTH
def test_a_gradient_of_zeros_does_nothing_but_decay(m, dtype):
    params = {"W": matrix((30, 7), dtype)}
    m.Muon(0.5, matrices=["W"]).update(params, {"W": np.zeros((30, 7), dtype)})
    assert_same_bits(params["W"], matrix((30, 7), dtype))
    m.Muon(0.5, matrices=["W"], weight_decay=0.5).update(params, {"W": np.zeros((30, 7), dtype)})
    np.testing.assert_allclose(params["W"], 0.75 * matrix((30, 7), dtype), rtol=1e-6)


@BOTH
@pytest.mark.parametrize("bad", [np.nan, np.inf, "large"])
def test_a_matrix_of_a_gradient_that_is_not_finite_stays(m, dtype, bad):
    params = {"0.W": matrix((30, 7), dtype), "1.W": matrix((7, 7), dtype), "1.b": np.ones(7, dtype)}
    optimizer = m.Muon(matrices=["*.W"])
    grads = {name: np.ones_like(p) for name, p in params.items()}
    optimizer.update(params, grads)
    before, momentum = copy.deepcopy(params), optimizer.state["m"]["0.W"].copy()
    grads["0.W"] = grads["0.W"].copy()
    grads["0.W"][3, 4] = {"large": float(np.finfo(dtype).max) ** 0.5 * 30}.get(bad, bad)
    optimizer.update(params, grads)
    assert_same_bits(params["0.W"], before["0.W"])
    assert_same_bits(optimizer.state["m"]["0.W"], momentum)
    assert all((params[name] != before[name]).all() for name in ("1.W", "1.b"))


@BOTH
def test_clipping(m):
    params, plain = ({"0.W": matrix((30, 7)), "1.W": np.ones((7, 2))} for _ in range(2))
    grads = {name: matrix(p.shape, seed=1) for name, p in params.items()}
    halved = {name: g / 2 for name, g in grads.items()}
    norm = math.sqrt(sum(float(np.sum(g**2)) for g in grads.values()))
    assert m.Muon().update(params, grads, norm / 2) == pytest.approx(norm)
    m.Muon().update(plain, halved)
    for name, p in plain.items():
        np.testing.assert_allclose(params[name], p, atol=1e-12)


# Whose a parameter is


def taken(optimizer, params):
    """Return the names of those that an update takes as matrices."""
    optimizer.update(params, {name: p * 1 for name, p in params.items()})
    return optimizer.state["m"].keys() - optimizer.state["v"].keys()


@BOTH
@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["0.W", "0.b", "2.W", "2.b", "4.W"], {"0.W", "2.W"}),
        (["W"], set()),
        (["a.0.W", "a.1.W", "b.0.W", "log_std"], {"a.0.W"}),
        (["0.W", "1.0.W", "1.2.W", "2.W"], {"0.W", "1.0.W", "1.2.W"}),  # a block of layers among others
        (["W1", "W2", "W3"], set()),
    ],
)
def test_matrices_but_the_last_of_each_network(m, names, expected):
    assert taken(m.Muon(), {name: np.ones(2 if "b" in name else (3, 2)) for name in names}) == expected


@BOTH
def test_patterns(m):
    params = {"0.W": np.ones((3, 2)), "0.b": np.ones(2), "1.W": np.ones((2, 2))}
    assert taken(m.Muon(matrices=["*"]), params) == {"0.W", "1.W"}
    assert taken(m.Muon(matrices=("1.*",)), params) == {"1.W"}
    optimizer = m.Muon(matrices=["*.W", "0.b"])
    with pytest.raises(ValueError, match=r"matrices.*'0\.b' must fit a parameter of two dimensions.*1\.W"):
        optimizer.update(params, params)
    assert optimizer.step == 0
    assert optimizer.state == {"m": {}, "v": {}}


@BOTH
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"matrices": "*.W"}, TypeError),
        ({"matrices": []}, TypeError),
        ({"matrices": [1]}, TypeError),
        ({"nesterov": 1}, TypeError),
        ({"ns_steps": 0}, ValueError),
        ({"ns_steps": 101}, ValueError),
        ({"ns_steps": 5.0}, TypeError),
    ],
)
def test_options_refused(m, options, error):
    with pytest.raises(error, match=f"^{next(iter(options))} must be"):
        m.Muon(**options)


@BOTH
def test_tables_are_adamws(m):
    params, dense = {"0.W": np.ones((6, 3))}, {"0.W": np.ones((2, 3))}
    optimizer, adamw = m.Muon(1.0, matrices=["*.W"]), ref.AdamW(0.015, 0.9, 0.95, weight_decay=0)
    g = matrix((2, 3))
    optimizer.update(params, {"0.W": RowSparse([1, 4], g, (6, 3))})
    adamw.update(dense, {"0.W": g})
    np.testing.assert_allclose(params["0.W"][[1, 4]], dense["0.W"], rtol=1e-12)
    assert (params["0.W"][[0, 2, 3, 5]] == 1).all()
    assert optimizer.state["v"].keys() == {"0.W"}


@BOTH
def test_groups_and_schedules(m):
    """Factors of a matrix's own, what is frozen, and one schedule for both."""
    shapes = {"0.W": (6, 4), "0.b": (4,), "1.W": (4, 4), "2.W": (4, 2)}
    params, expected = ({name: matrix(s) for name, s in shapes.items()} for _ in range(2))
    groups = [Group("0.W", lr=0.5, decay=2.0), Group("1.W", frozen=True), Group("vectors", decay=0.0)]
    grads = {name: matrix(s, seed=1) for name, s in shapes.items()}
    grouped = m.Muon(schedules.StepDecay(0.1, 0.5, 1), weight_decay=0.1, groups=groups)
    for step in range(2):
        grouped.update(params, grads)
        if step == 0:
            alone = {
                "0.W": ref.Muon(0.05, weight_decay=0.2, matrices=["0.W"]),
                "0.b": ref.Muon(0.1),
                "2.W": ref.Muon(0.1, weight_decay=0.1),
            }
        for name, optimizer in alone.items():
            optimizer.lr = optimizer.lr / 2 if step else optimizer.lr
            optimizer.update({name: expected[name]}, {name: grads[name]})
    for name, p in expected.items():
        np.testing.assert_allclose(params[name], p, atol=1e-12, err_msg=name)


# Within a network


@pytest.fixture
def natively(monkeypatch):
    """Fail where a step is done in Python."""
    monkeypatch.setattr(Trainer, "_step_by_layers", None)


def data_set(rows=60):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 12))
    return x, (x @ rng.normal(size=(12, 5))).argmax(axis=1)


def trainer_of(m, dtype=np.float64, average=None, clip=None, sizes=(12, 24, 24, 5), **options):
    net = m.mlp(sizes, seed=0, dtype=dtype)
    optimizer = m.Muon(schedules.CosineDecay(0.05, 100), weight_decay=0.01, **options)
    return m.Trainer(net, m.SoftmaxCrossEntropy(), optimizer, clip, seed=3, average=average)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip": 0.1},
        {"average": 0.9},
        {"average": 0.9, "clip": 0.1},
        {"nesterov": False, "momentum": 0.5, "ns_steps": 3},
        {"matrices": ["*.W"]},
        {"groups": [Group("0.*", lr=0.5, decay=3.0), Group("2.*", frozen=True)]},
    ],
    ids=str,
)
def test_a_fit_is_that_of_the_reference(natively, options):
    x, t = data_set()
    states = []
    for m in (fastnn, ref):
        trainer = trainer_of(m, **options)
        trainer.step(x, t)
        trainer.fit(x, t, epochs=4, batch_size=16)
        average = trainer.averaged.state_dict() if "average" in options else {}
        states.append([trainer.net.state_dict(), average, *trainer.optimizer.state.values()])
    for native, expected in zip(*states, strict=True):
        assert native.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(native[name], value, rtol=1e-8, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("clip", [None, 0.1])
def test_a_step_is_its_passes_and_an_update(natively, team, dtype, clip):
    """The same bits, whether a plan or `update` does it."""
    x, t = data_set()
    trainer = trainer_of(fastnn, dtype, clip=clip)
    params, optimizer = trainer.net.state_dict(), fastnn.Muon(trainer.optimizer.lr, weight_decay=0.01)
    for _ in range(3):
        trainer.step(x, t)
        optimizer.update(params, dict(trainer.net.grads))  # which the step has left, clipped
        assert_same_bits(trainer.net.state_dict(), params)
    assert_same_bits(trainer.optimizer.state_dict()["state"], optimizer.state_dict()["state"])


def test_same_bits_on_every_team_in_a_fit(natively, team, dtype):
    x, t = data_set()

    def trained():
        trainer = trainer_of(fastnn, dtype, clip=0.3)
        trainer.fit(x, t, epochs=2, batch_size=32)
        return trainer.net.state_dict()

    with fastnn.threads(1):
        alone = trained()
    assert_same_bits(trained(), alone)


@pytest.mark.parametrize("name", ["embedding", "embedding, norm", "norm", "LayerNorm inside", "one layer"])
def test_networks_of_other_layers(natively, name):
    x, t = data_set()
    if "embedding" in name:
        x = np.random.default_rng(0).integers(0, 30, (60, 3))
    states = []
    for m in (fastnn, ref):
        net = m.Sequential(NETS[name](m, np.float64))
        trainer = m.Trainer(net, m.SoftmaxCrossEntropy(), m.Muon(0.02, matrices=["*.W"]), seed=3)
        trainer.fit(x, t, epochs=3, batch_size=16)
        states.append(trainer.net.state_dict())
    for key, value in states[1].items():
        np.testing.assert_allclose(states[0][key], value, rtol=1e-8, atol=1e-9, err_msg=key)


def test_a_network_whose_gradients_are_not_kept_otherwise(natively):
    sizes = (64, 33000, 2)
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(4, 64)), np.array([0, 1, 0, 1])
    trainer = trainer_of(fastnn, np.float32, sizes=sizes)
    params, optimizer = trainer.net.state_dict(), fastnn.Muon(trainer.optimizer.lr, weight_decay=0.01)
    trainer.step(x, t)
    optimizer.update(params, dict(trainer.net.grads))
    assert_same_bits(trainer.net.state_dict(), params)


def test_a_loss_of_ones_own(natively):
    x, t = data_set()

    def squared(y, t):
        r = y - np.eye(5)[t]
        return float((r**2).mean()), 2 * r / r.size

    states = []
    for m in (fastnn, ref):
        net = m.mlp([12, 16, 5], seed=0, dtype=np.float64)
        trainer = m.Trainer(net, squared, m.Muon(0.05), seed=3)
        trainer.fit(x, t, epochs=3, batch_size=16)
        states.append(trainer.net.state_dict())
    for key, value in states[1].items():
        np.testing.assert_allclose(states[0][key], value, rtol=1e-8, atol=1e-9, err_msg=key)


# Files and copies


@BOTH
def test_a_trainer_goes_on_from_its_file_to_the_same_bits(m):
    x, t = data_set()
    trainer = trainer_of(m, matrices=["0.W"], nesterov=False, average=0.9)
    trainer.fit(x, t, epochs=2, batch_size=16)
    file = io.BytesIO()
    trainer.save(file)
    file.seek(0)
    again = m.Trainer.load(file)
    assert again.optimizer.config() == trainer.optimizer.config()
    assert repr(again.optimizer) == repr(trainer.optimizer)
    assert again.optimizer.state["v"].keys() == trainer.optimizer.state["v"].keys()
    for one in (trainer, again):
        one.fit(x, t, epochs=2, batch_size=16)
    assert_same_bits(again.net.state_dict(), trainer.net.state_dict())


@BOTH
@pytest.mark.parametrize("change", ["shape", "dtype", "surplus"])
def test_states_that_do_not_fit_are_refused(m, change):
    optimizer = m.Muon()
    optimizer.update(
        {"0.W": np.ones((3, 2)), "1.W": np.ones((2, 2))}, {"0.W": matrix((3, 2)), "1.W": matrix((2, 2))}
    )
    state = optimizer.state_dict()
    v = state["state"]["v"]
    v["1.W"] = {"shape": np.ones(4), "dtype": np.ones((2, 2), np.float32)}.get(change, v["1.W"])
    if change == "surplus":
        v["2.W"] = np.ones((2, 2))
    with pytest.raises(
        ValueError, match=r"d\['state'\]\['v'\] must have the names, shapes and dtypes of 'm'"
    ):
        optimizer.load_state_dict(state)
    assert optimizer.state["v"].keys() == {"1.W"}


@pytest.mark.parametrize("name", ["_matrices", "update"])
def test_methods_of_ones_own_are_asked(name):
    """A native step goes by nothing else."""
    x, t = data_set()
    trainer = trainer_of(fastnn)
    trainer.step(x, t)
    calls, original = [], getattr(trainer.optimizer, name)
    setattr(trainer.optimizer, name, lambda *given: calls.append(name) or original(*given))
    trainer.step(x, t)
    assert calls


def test_what_is_assigned_counts():
    x, t = data_set()
    states = []
    for m in (fastnn, ref):
        trainer = trainer_of(m)
        trainer.step(x, t)
        trainer.optimizer.nesterov, trainer.optimizer.ns_steps = False, 2
        trainer.optimizer.momentum, trainer.optimizer.adamw_factor = 0.5, 1.0
        trainer.step(x, t)
        states.append(trainer.net.state_dict())
    for key, value in states[1].items():
        np.testing.assert_allclose(states[0][key], value, rtol=1e-9, atol=1e-10, err_msg=key)
