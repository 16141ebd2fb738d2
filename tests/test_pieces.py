"""Pieces of a batch, passed as one batch: to the bits of pieces that are passed one by one."""

import numpy as np
import pytest

import fastnn
from fastnn import _core
from fastnn.distributed import DataParallel
from native import using_isa
from tolerances import assert_same_bits

affine, norm = fastnn.Affine.create, fastnn.BatchNorm.create


def layers(name, dtype):
    def full(n_in, n_out, seed):
        return affine(n_in, n_out, rng=seed, dtype=dtype)

    return {
        "plain": [full(12, 16, 0), fastnn.Tanh(), full(16, 5, 1)],
        "narrow": [full(40, 3, 0), fastnn.ReLU(), full(3, 1, 1), fastnn.Sigmoid(), full(1, 5, 2)],
        "wide": [full(12, 600, 0), fastnn.ReLU(), full(600, 33, 1), fastnn.GELU(), full(33, 5, 2)],
        "rows": [
            full(12, 30, 0),
            fastnn.LayerNorm.create(30, dtype=dtype),
            fastnn.Dropout(0.3, seed=4),
            fastnn.Residual([fastnn.RMSNorm.create(30, dtype=dtype), full(30, 30, 1), fastnn.Dropout(0.1)]),
            full(30, 5, 2),
        ],
        "norm": [full(12, 30, 0), norm(30, dtype=dtype), fastnn.ReLU(), fastnn.Dropout(0.3), full(30, 5, 2)],
    }[name]


def trained(name, dtype, n=83, pieces=5, weight=None, by=None, steps=2, optimizer=None):
    net = fastnn.Sequential(layers(name, dtype))
    trainer = fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), optimizer or fastnn.Adam(1e-2), seed=1)
    parallel = DataParallel(trainer, pieces=pieces)
    rng = np.random.default_rng(0)
    n_in = net.layers[0].W.shape[0]
    x, t = rng.normal(size=(n, n_in)).astype(dtype), rng.integers(0, 5, n)
    losses = [by(parallel, x, t, weight) if by else parallel.step(x, t, weight) for _ in range(steps)]
    memory = trainer.optimizer.state_dict()["state"]
    state = {f"{slot} {k}": a for slot, arrays in memory.items() for k, a in arrays.items()}
    return {"loss": np.array(losses), **net.state_dict(), **state}


def by_sums(parallel, x, t, weight):
    """A step whose sums lie in a room before they are used, as where there are other ranks."""
    return parallel._step(len(x), weight, lambda rows: (x[rows], t[rows]))


def one_by_one(parallel, x, t, weight):
    parallel._passes_natively = lambda _: False
    return by_sums(parallel, x, t, weight)


def assert_as_one_by_one(actual, expected):
    """The same bits; but Python multiplies the mean loss of a piece with its share."""
    np.testing.assert_allclose(actual.pop("loss"), expected["loss"], rtol=1e-13)
    assert_same_bits(actual, {name: value for name, value in expected.items() if name != "loss"})


@pytest.mark.parametrize("name", ["plain", "narrow", "wide", "rows"])
def test_pieces_have_the_bits_of_pieces_passed_one_by_one(name, isa, team, dtype):
    # 80: shares of a step, which Python multiplies losses with, are exact; a piece is one block of rows.
    n = 80 if dtype == np.float64 or name == "rows" else 83
    weight = (
        1.0 * (np.arange(n) > 20) if name == "plain" and n == 83 else None
    )  # the first piece weighs nothing
    expected = trained(name, dtype, n, weight=weight, by=one_by_one)
    for by in (None, by_sums):
        assert_as_one_by_one(trained(name, dtype, n, weight=weight, by=by), expected)


@pytest.mark.parametrize("name", ["plain", "narrow"])
def test_long_pieces(name, isa, dtype):
    """A narrow product over many rows is itself made in parts."""
    expected = trained(name, dtype, 6500, 2, by=one_by_one)
    for by in (None, by_sums):
        assert_as_one_by_one(trained(name, dtype, 6500, 2, by=by), expected)


@pytest.mark.parametrize("name", ["wide", "norm"])
def test_pieces_that_weigh_nothing_at_first(name, isa):
    """What is made room for is what all of them need."""
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(83, 12)).astype(np.float32), rng.integers(0, 5, 83)
    few, all_of_them = 1.0 * (np.arange(83) < 4), np.ones(83)
    done = []
    for by in (DataParallel.step, by_sums):
        net = fastnn.Sequential(layers(name, np.float32))
        trainer = fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), fastnn.SGD(0.1), seed=1)
        parallel = DataParallel(trainer, pieces=16)
        for weight in (few, all_of_them, few[::-1].copy(), all_of_them):
            by(parallel, x, t, weight)
        done.append(net.state_dict())
    assert_same_bits(done[1], done[0])


@pytest.mark.parametrize("pieces", [1, 2, 3, 7, 8, 83, 200])
def test_any_number_of_pieces(pieces, isa, dtype):
    """Pieces of few rows, too, whose gradients of inputs other products might make."""
    results = [
        trained(name, dtype, pieces=pieces, by=by) for name in ("rows", "norm") for by in (None, by_sums)
    ]
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[3], results[2])


def test_batch_normalization_is_that_of_the_whole_batch(isa, team):
    """In float64, so that rounding is far below what a piece's own statistics would change."""
    done = {}
    for how in (None, by_sums, one_by_one):
        done[how] = trained("norm", np.float64, by=how, optimizer=fastnn.SGD(0.1))
    assert_same_bits(done[by_sums], done[None])

    def whole(parallel, x, t, weight):
        return parallel.trainer.step(x, t, weight)

    done[whole] = trained("norm", np.float64, by=whole, optimizer=fastnn.SGD(0.1))
    for how in (one_by_one, whole):
        for key, value in done[how].items():
            np.testing.assert_allclose(done[None][key], value, rtol=1e-9, atol=1e-12, err_msg=f"{how} {key}")


@pytest.mark.parametrize("name", ["wide", "rows", "norm"])
def test_bits_do_not_depend_on_threads(name, dtype):
    before = _core.thread_limit()
    _core.set_work_per_member(0.0)
    try:
        for isa in _core.isas_supported():
            results = []
            for threads in (1, 2, 5):
                fastnn.set_num_threads(threads)
                with using_isa(isa):
                    results.append(trained(name, dtype, 200, 8))
            for other in results[1:]:
                assert_same_bits(other, results[0])
    finally:
        _core.set_work_per_member(-1.0)
        fastnn.set_num_threads(before)


@pytest.mark.parametrize("name", ["plain", "narrow", "rows", "norm"])
def test_no_piece_is_pythons(name, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("passed by Python")

    monkeypatch.setattr(DataParallel, "_parts", refuse)
    for by in (None, by_sums):
        trained(name, np.float32, by=by)


def test_pieces_that_do_not_fit_are_refused():
    net = fastnn.mlp([6, 4, 3], seed=0)
    trainer = fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), fastnn.SGD(0.1))
    x, t = np.ones((10, 6), np.float32), np.zeros(10, int)
    room, counts = np.empty((2, 43), np.float32), np.ones(2, np.uint8)
    bounds = np.array([0, 5, 10])
    for pieces, match in [
        ((bounds[:2], 0, 2, counts, 10.0, room, None), "pieces must be"),
        ((bounds, 1, 1, counts, 10.0, room, None), "pieces must be"),
        ((bounds, 0, 2, counts.astype(np.int8), 10.0, room, None), "pieces must be"),
        ((np.array([0, 5, 9]), 0, 2, counts, 10.0, room, None), "cut in order"),
        ((np.array([0, 11, 10]), 0, 2, counts, 10.0, room, None), "cut in order"),
        ((bounds, 0, 2, counts, 10.0, room[:, :40].copy(), None), "room must have"),
    ]:
        with pytest.raises(ValueError, match=match):
            net._compiled.pieces(trainer, x, t, None, 1.0, pieces)
    losses, nodes, moments = net._compiled.pieces(
        trainer, x, t, None, 1.0, (bounds, 0, 2, counts, 10.0, room, None)
    )
    assert (len(losses), nodes, moments) == (2, [(1, 0)], [])


def test_what_is_raised_while_pieces_share_comes_out():
    net = fastnn.mlp([6, 4, 3], seed=0, batch_norm=True)
    trainer = fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), fastnn.SGD(0.1))
    before = net.state_dict()
    room = np.empty((2, sum(p.size for p in net.params.values())), np.float32)

    def share(_):
        raise RuntimeError("nobody is there")

    pieces = np.array([0, 5, 10]), 0, 2, np.ones(2, np.uint8), 10.0, room, share
    with pytest.raises(RuntimeError, match="nobody is there"):
        net._compiled.pieces(trainer, np.ones((10, 6), np.float32), np.zeros(10, int), None, 1.0, pieces)
    assert_same_bits(net.state_dict(), before)
    trainer.step(np.ones((10, 6)), np.zeros(10, int))
