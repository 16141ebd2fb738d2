"""The native network: its layers one after the other, its names, its files."""

import copy
import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import fastnn
from fastnn import reference as ref
from native import on_each_fusing_isa
from networks import ACTIVATIONS as CLASSES
from tolerances import assert_same_bits

ACTIVATIONS = list(ref.network.ACTIVATIONS)


def normal(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def full_net(module=fastnn, dtype=np.float32, seed=0):
    """One layer of every kind that takes numbers."""
    rng = np.random.default_rng(seed)
    return module.Sequential(
        [
            module.Affine.create(6, 9, rng=rng, dtype=dtype),
            module.BatchNorm.create(9, dtype=dtype),
            *(getattr(module, kind)() for kind in CLASSES),
            module.Dropout(0.25, seed=3),
            module.Affine.create(9, 4, rng=rng, dtype=dtype),
        ]
    )


class Shift:
    """A layer of the user's own, with a parameter."""

    def __init__(self, n, dtype=np.float32):
        self.params, self.grads = {"s": np.full(n, 0.5, dtype)}, {}

    def forward(self, x, train=True):
        return x + self.params["s"]

    def backward(self, dout):
        self.grads["s"] = dout.sum(axis=0)
        return dout


@pytest.mark.parametrize("train", [True, False])
def test_it_is_its_layers_one_after_the_other(isa, team, dtype, train):
    net, layers = full_net(dtype=dtype), full_net(dtype=dtype).layers
    x, dout = normal((20, 6), dtype), normal((20, 4), dtype, 1)
    y = x
    for layer in layers:
        y = layer.forward(y, train)
    assert_same_bits(net.forward(x, train), y)
    dx = dout
    for layer in layers[::-1]:
        dx = layer.backward(dx)
    assert_same_bits(net.backward(dout), dx)
    grads = {f"{i}.{name}": g for i, layer in enumerate(layers) for name, g in layer.grads.items()}
    assert_same_bits(net.grads, grads)
    net.backward_params(dout)
    assert_same_bits(net.grads, grads)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_is_that_of_the_reference(isa, train, activation):
    options = {"activation": activation, "batch_norm": True, "dropout": 0.3, "seed": 7, "dtype": np.float64}
    net, oracle = (m.mlp([6, 20, 10, 4], **options) for m in (fastnn, ref))
    for layer, twin in zip(net.layers, oracle.layers, strict=True):
        if hasattr(layer, "seed"):
            layer.seed = twin.seed = 5
    x, dout = normal((30, 6), np.float64), normal((30, 4), np.float64, 1)
    np.testing.assert_allclose(net.forward(x, train), oracle.forward(x, train), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(net.backward(dout), oracle.backward(dout), rtol=1e-9, atol=1e-12)
    assert net.grads.keys() == oracle.grads.keys()
    for name, g in oracle.grads.items():
        np.testing.assert_allclose(net.grads[name], g, rtol=1e-9, atol=1e-11)


def test_names_and_live_arrays():
    net = fastnn.mlp([4, 5, 3], batch_norm=True, seed=0)
    assert list(net.params) == ["0.W", "0.b", "1.gamma", "1.beta", "3.W", "3.b"]
    assert net.grads == {}
    assert list(net.state_dict()) == [*net.params, "1.running_mean", "1.running_var"]
    assert all(net.params[name] is net.layers[int(name[0])].params[name[2:]] for name in net.params)
    assert net.dtype == np.float32
    net.params["0.W"][...] = 0
    assert not net.forward(np.ones((2, 4)), False)[:, 0].std()


@pytest.mark.parametrize("given", ["u1", "i8", "f2", "f8", ">f4", "list"])
def test_data_are_converted_to_the_dtype_of_the_network(given):
    net = fastnn.mlp([4, 5, 3], seed=0)
    x = np.random.default_rng(0).integers(0, 100, (6, 4))
    dressed = x.tolist() if given == "list" else x.astype(given)
    assert_same_bits(net.forward(dressed), net.forward(x.astype(np.float32)))
    assert_same_bits(net.predict(dressed), net.forward(x.astype(np.float32), False))


@pytest.mark.parametrize("batch_size", [1, 7, 64, None])
def test_predictions_do_not_depend_on_the_batch(isa, team, dtype, batch_size):
    net = full_net(dtype=dtype)
    x = normal((65, 6), dtype)
    net.forward(x)
    before = net.state_dict()
    assert_same_bits(net.predict(x, batch_size), net.forward(x, False))
    assert_same_bits(net.state_dict(), before)


def test_predictions_of_no_rows():
    assert fastnn.mlp([4, 5, 3], batch_norm=True, seed=0).predict(np.ones((0, 4))).shape == (0, 3)


def test_predictions_take_the_memory_of_a_batch():
    x = np.broadcast_to(np.arange(100, dtype=np.uint8), (400_000, 100))
    net = fastnn.mlp([100, 8, 1], seed=0)

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    tracemalloc.start()  # of what Python allocates
    y = net.predict(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(y) == len(x)
    assert peak < 4_000_000
    assert resident() - before < y.nbytes + 20_000_000  # what the core keeps; x as float32 would take 160 MB


def test_same_bits_on_every_team_and_isa_that_fuses(team, dtype):
    def compute():
        net = full_net(dtype=dtype)
        y = net.forward(normal((40, 6), dtype))
        dx = net.backward(normal((40, 4), dtype, 1))
        return {"y": y, "dx": dx, **net.grads}

    with fastnn.threads(1):
        alone = compute()
    for result in on_each_fusing_isa(compute):
        assert_same_bits(result, alone)


def test_a_layer_of_the_users_own(team):
    first, last = fastnn.Affine.create(6, 9, rng=0), fastnn.Affine.create(9, 4, rng=1)
    net = fastnn.Sequential([first, Shift(9), fastnn.ReLU(), last])
    oracle = ref.Sequential([ref.Affine(first.W, first.b), Shift(9), ref.ReLU(), ref.Affine(last.W, last.b)])
    x, dout = normal((20, 6)), normal((20, 4), seed=1)
    np.testing.assert_allclose(net.forward(x), oracle.forward(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(net.backward(dout), oracle.backward(dout), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(net.grads["1.s"], oracle.grads["1.s"], rtol=1e-5, atol=1e-5)
    assert "1.s" in net.state_dict()
    with pytest.raises(TypeError, match=r"layers\[1\] must be a layer of fastnn to be saved, got a Shift"):
        net.save("never.npz")


def test_an_embedding_takes_integers(dtype):
    rng = np.random.default_rng(0)
    table, dense = rng.normal(size=(9, 3)).astype(dtype), rng.normal(size=(6, 2)).astype(dtype)
    net, oracle = (
        m.Sequential([m.Embedding(table), m.Affine(dense, np.zeros(2, dtype))]) for m in (fastnn, ref)
    )
    x = np.array([[0, 8], [3, 3], [1, 0]])
    np.testing.assert_allclose(net.forward(x), oracle.forward(x), rtol=1e-5)
    dout = normal((3, 2), dtype)
    assert net.backward(dout) is oracle.backward(dout) is None
    assert_same_bits(net.grads["0.W"].rows, oracle.grads["0.W"].rows)
    np.testing.assert_allclose(net.grads["0.W"].values, oracle.grads["0.W"].values, rtol=1e-5)
    with pytest.raises(TypeError, match="integer"):
        net.forward(x * 1.0)


@pytest.fixture(params=[".npz", ".safetensors"])
def path(request, tmp_path):
    if request.param == ".safetensors":
        pytest.importorskip("safetensors")
    return tmp_path / f"net{request.param}"


def test_files_keep_the_bits(path, dtype):
    net = full_net(dtype=dtype)
    net.forward(normal((20, 6), dtype))
    net.save(path)
    twin = fastnn.Sequential.load(path)
    assert type(twin) is fastnn.Sequential
    assert [type(layer) for layer in twin.layers] == [type(layer) for layer in net.layers]
    assert_same_bits(twin.state_dict(), net.state_dict())
    x = normal((20, 6), dtype, 1)
    assert_same_bits(twin.predict(x), net.predict(x))
    assert list(path.parent.iterdir()) == [path]


def test_files_pass_between_native_and_reference(path):
    net = full_net()
    net.forward(normal((20, 6)))
    net.save(path)
    oracle = ref.Sequential.load(path)
    assert type(oracle.layers[0]) is ref.Affine
    assert_same_bits(oracle.state_dict(), net.state_dict())
    oracle.save(path)
    twin = fastnn.Sequential.load(path)
    assert type(twin.layers[0]) is fastnn.Affine
    assert_same_bits(twin.state_dict(), net.state_dict())


def test_a_truncated_file_is_refused(path):
    full_net().save(path)
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="net"):
            fastnn.Sequential.load(path)


def test_states_are_copied_in_and_out():
    net = full_net()
    state = net.state_dict()
    W = net.params["0.W"]
    state["0.W"][...] = 7
    assert not (W == 7).any()
    net.load_state_dict(state)
    assert net.params["0.W"] is W
    assert (W == 7).all()
    state["0.W"][...] = 8
    assert (W == 7).all()


@pytest.mark.parametrize("how", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_networks_can_be_copied_and_pickled(how):
    net = full_net()
    net.forward(normal((20, 6)))
    twin = how(net)
    x = normal((20, 6), seed=1)
    assert_same_bits(twin.forward(x), net.forward(x))
    assert_same_bits(twin.backward(normal((20, 4))), net.backward(normal((20, 4))))
    assert twin.params["0.W"] is not net.params["0.W"]
    twin.forward(x)
    assert twin.layers[-2].step == net.layers[-2].step + 1
