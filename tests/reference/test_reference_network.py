"""Sequential and mlp of the reference."""

import numpy as np
import pytest

from fastnn import reference as ref


def small(dtype=np.float32):
    return ref.mlp([4, 6, 3], batch_norm=True, dropout=0.5, seed=0, dtype=dtype)


def kinds(net):
    return [type(layer).__name__ for layer in net.layers]


def test_names():
    net = small()
    assert list(net.params) == ["0.W", "0.b", "1.gamma", "1.beta", "4.W", "4.b"]
    assert net.params["0.W"] is net.layers[0].W
    assert net.grads == {}
    net.backward(net.forward(np.ones((2, 4))))
    assert net.grads.keys() == net.params.keys()
    assert net.grads["4.b"] is net.layers[4].db
    state = net.state_dict()
    assert set(state) == {*net.params, "1.running_mean", "1.running_var"}
    assert not np.shares_memory(state["0.W"], net.params["0.W"])


def test_names_follow_an_assignment():
    net = small()
    W = np.zeros((4, 6), np.float32)
    net.layers[0].W = W
    assert net.params["0.W"] is W


def test_forward_and_backward_are_those_of_the_layers():
    net, layers = small(np.float64), small(np.float64).layers
    x, dout = np.random.default_rng(0).normal(size=(5, 4)), np.random.default_rng(1).normal(size=(5, 3))
    for a, b in ((net.layers[3], layers[3]),):
        a.seed = b.seed = 1
    y = x
    for layer in layers:
        y = layer.forward(y)
    np.testing.assert_array_equal(net.forward(x), y)
    dx = dout
    for layer in reversed(layers):
        dx = layer.backward(dx)
    np.testing.assert_array_equal(net.backward(dout), dx)


def test_backward_params_skips_only_the_input():
    a, b = ref.mlp([4, 6, 3], seed=0), ref.mlp([4, 6, 3], seed=0)
    x, dout = np.ones((2, 4)), np.ones((2, 3))
    a.forward(x)
    a.backward(dout)
    b.forward(x)
    b.layers[0].backward = None  # would fail if called
    assert b.backward_params(dout) is None
    for name, g in a.grads.items():
        np.testing.assert_array_equal(g, b.grads[name])


@pytest.mark.parametrize("data", [np.uint8, np.float64, np.float16])
def test_input_is_converted_at_the_door(data):
    x = np.arange(8).reshape(2, 4).astype(data)
    net = ref.Sequential([ref.ReLU(), ref.Affine.create(4, 2, rng=0)])
    assert net.dtype == np.float32
    y = net.forward(x)
    assert y.dtype == np.float32
    assert net.layers[0].forward(x.astype(np.float32)).dtype == np.float32
    assert net.backward(y).dtype == np.float32


def test_indices_are_not_converted():
    net = ref.Sequential([ref.Embedding.create(5, 3, rng=0), ref.Affine.create(6, 2, rng=0)])
    assert net.forward(np.array([[0, 4]])).shape == (1, 2)
    with pytest.raises(TypeError, match=r"^x must hold integers"):
        net.forward(np.array([[0.0, 4.0]]))


class Plain:
    """A layer as a textbook has it: no params, no grads."""

    def forward(self, x, train_flg=True):
        self.mode = train_flg
        return 2 * x

    def backward(self, dout):
        return 2 * dout


def test_a_layer_of_your_own():
    plain = Plain()
    net = ref.Sequential([plain, ref.Affine.create(4, 2, rng=0), Plain()])
    assert net.forward(np.ones((1, 4)), False).shape == (1, 2)
    assert plain.mode is False
    assert net.backward(np.ones((1, 2))).shape == (1, 4)
    net.backward_params(np.ones((1, 2)))
    assert set(net.params) == {"1.W", "1.b"}
    assert ref.Sequential([Plain()]).dtype is None


# predict


@pytest.mark.parametrize("rows", [0, 1, 5, 1024, 1025, 2050])
@pytest.mark.parametrize("batch_size", [None, 1000])
def test_predict(rows, batch_size):
    net = small()
    x = np.random.default_rng(0).integers(0, 255, (rows, 4)).astype(np.uint8)
    y = net.predict(x, batch_size)
    assert y.shape == (rows, 3)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, net.forward(x, False), rtol=1e-5, atol=1e-4)


def test_predict_reads_a_batch_at_a_time(tmp_path):
    x = np.random.default_rng(0).integers(0, 255, (50, 4)).astype(np.uint8)
    x.tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", np.uint8, "r", shape=(50, 4))
    sizes = []

    class Spy(Plain):
        def forward(self, x, train=True):
            assert not train
            sizes.append(len(x))
            return x

    net = ref.Sequential([Spy(), ref.Affine.create(4, 2, rng=0)])
    y = net.predict(mapped, 20)
    assert sizes == [20, 20, 10]
    np.testing.assert_allclose(y, net.forward(x, False), rtol=1e-5)


def test_predict_changes_nothing():
    net = small()
    before = net.state_dict()
    x = np.ones((3, 4))
    net.predict(x)
    assert net.layers[3].step == 0
    np.testing.assert_array_equal(x, 1)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_predict_of_a_list_and_errors():
    net = small()
    assert net.predict([[1, 2, 3, 4]]).shape == (1, 3)
    with pytest.raises(ValueError, match=r"^batch_size must be an integer >= 1, got 0"):
        net.predict(np.ones((1, 4)), 0)
    with pytest.raises(ValueError, match=r"^x must have shape"):
        net.predict(1.0)


# Construction


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ([], ValueError, "^layers must hold at least one"),
        (3, TypeError, "^layers must be an iterable"),
        ([ref.ReLU], TypeError, r"^layers\[0\] must have forward and backward"),
        ([object()], TypeError, r"^layers\[0\] must have forward and backward"),
        ([ref.mlp([2, 2])], TypeError, r"^layers\[0\] is a network"),
        (
            [ref.Affine.create(2, 2), ref.Affine.create(2, 2, dtype="f8")],
            TypeError,
            "^parameter 1.W must have the dtype",
        ),
    ],
)
def test_sequential_refuses(layers, error, message):
    with pytest.raises(error, match=message):
        ref.Sequential(layers)


def test_a_layer_only_once():
    layer = ref.ReLU()
    with pytest.raises(ValueError, match=r"^layers must hold each layer once"):
        ref.Sequential([layer, layer])


def test_mlp_layers():
    assert kinds(ref.mlp([4, 2])) == ["Affine"]
    assert kinds(ref.mlp([4, 5, 2])) == ["Affine", "ReLU", "Affine"]
    full = ref.mlp([4, 5, 6, 2], activation="gelu", batch_norm=True, dropout=0.25)
    assert kinds(full) == [*["Affine", "BatchNorm", "GELU", "Dropout"] * 2, "Affine"]
    assert full.layers[3].ratio == 0.25
    assert not full.layers[3].seeded
    assert [layer.W.shape for layer in full.layers[::4]] == [(4, 5), (5, 6), (6, 2)]


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu"])
def test_mlp_activations(name):
    layer = ref.mlp([2, 2, 2], activation=name).layers[1]
    assert type(layer).__name__.lower() == name.replace("_", "")


def test_mlp_draws_layer_by_layer():
    a, b = ref.mlp([4, 5, 3], seed=7), ref.mlp([4, 5, 3], seed=7, dtype=np.float64)
    rng = np.random.default_rng(7)
    np.testing.assert_array_equal(b.params["0.W"], ref.init.he(4, 5, rng, np.float64))
    np.testing.assert_array_equal(b.params["2.W"], ref.init.he(5, 3, rng, np.float64))
    for name, p in a.params.items():
        np.testing.assert_array_equal(p, b.params[name].astype(np.float32))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ([4], {}, ValueError, "^sizes must hold at least two"),
        (4, {}, ValueError, "^sizes must hold at least two"),
        ([4, 0], {}, ValueError, r"^sizes\[1\] must be an integer >= 1, got 0"),
        ([4, 2.5], {}, TypeError, r"^sizes\[1\] must be an integer"),
        ([4, 2], {"activation": "step"}, ValueError, "^activation must be one of relu"),
        ([4, 2], {"dropout": 1}, ValueError, "^dropout must be a number"),
        ([4, 2], {"batch_norm": 1}, TypeError, "^batch_norm must be True or False"),
        ([4, 2], {"init": "x"}, ValueError, "^init"),
        ([4, 2], {"dtype": "f2"}, TypeError, "^dtype"),
        ([4, 2], {"seed": -1}, ValueError, "^seed"),
    ],
)
def test_mlp_refuses(arguments, options, error, message):
    with pytest.raises(error, match=message):
        ref.mlp(arguments, **options)


# State


def test_load_state_dict():
    a, b = small(), ref.mlp([4, 6, 3], batch_norm=True, dropout=0.5, seed=1)
    a.forward(np.random.default_rng(0).normal(size=(5, 4)))
    live = b.params["0.W"]
    b.load_state_dict(a.state_dict())
    assert b.params["0.W"] is live
    for name, array in a.state_dict().items():
        np.testing.assert_array_equal(array, b.state_dict()[name])
    c = small(np.float64)
    c.load_state_dict(a.state_dict())
    assert c.params["0.W"].dtype == np.float64


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda d: d.pop("4.b"), ValueError, r"missing \['4.b'\]"),
        (lambda d: d.update(z=np.zeros(1)), ValueError, r"not expected \['z'\]"),
        (
            lambda d: d.update({"4.b": np.zeros(4, np.float32)}),
            ValueError,
            r"^d\['4.b'\] must have shape \(3,\)",
        ),
        (
            lambda d: d.update({"4.b": np.zeros(3, int)}),
            TypeError,
            r"^d\['4.b'\] must be a float32 or float64",
        ),
    ],
)
def test_load_state_dict_refuses_and_changes_nothing(change, error, message):
    net = small()
    before, state = net.state_dict(), {name: array + 1 for name, array in net.state_dict().items()}
    change(state)
    with pytest.raises(error, match=message):
        net.load_state_dict(state)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_load_state_dict_of_something_else():
    with pytest.raises(TypeError, match=r"^d must be a dict"):
        small().load_state_dict(3)


# Files


@pytest.fixture(params=["npz", "safetensors"])
def suffix(request):
    if request.param == "safetensors":
        pytest.importorskip("safetensors")
    return request.param


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_save_and_load(tmp_path, suffix, dtype):
    layers = [
        ref.Affine.create(4, 6, rng=0, dtype=dtype),
        ref.BatchNorm.create(6, momentum=0.75, eps=1e-3, dtype=dtype),
        ref.LeakyReLU(0.3),
        ref.Dropout(0.25, inverted=False, seed=2**63),
        *(ref.ReLU(), ref.Sigmoid(), ref.Tanh(), ref.GELU(), ref.SiLU(), ref.Dropout(0.1)),
    ]
    net = ref.Sequential(layers)
    net.forward(np.random.default_rng(0).normal(size=(5, 4)))
    path = tmp_path / f"model.{suffix}"
    net.save(path)
    again = ref.Sequential.load(path)
    assert again.architecture() == net.architecture()
    assert again.dtype == dtype
    assert again.layers[3].seed == 2**63
    assert not again.layers[9].seeded
    assert again.state_dict().keys() == net.state_dict().keys()
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], array)
    assert list(tmp_path.iterdir()) == [path]
    x = np.random.default_rng(1).normal(size=(3, 4))
    np.testing.assert_array_equal(again.predict(x), net.predict(x))


def test_save_an_embedding(tmp_path, suffix):
    net = ref.Sequential([ref.Embedding.create(5, 3, rng=0), ref.Affine.create(6, 2, rng=0)])
    net.save(tmp_path / f"m.{suffix}")
    x = np.array([[1, 2]])
    np.testing.assert_array_equal(ref.Sequential.load(tmp_path / f"m.{suffix}").predict(x), net.predict(x))


def test_a_layer_of_your_own_cannot_be_saved(tmp_path):
    class ReLU(ref.ReLU):
        pass

    for layer in (Plain(), ReLU()):
        net = ref.Sequential([ref.Affine.create(4, 2), layer])
        with pytest.raises(TypeError, match=r"^layers\[1\] must be a layer of fastnn to be saved"):
            net.save(tmp_path / "m.npz")
        assert "0.W" in net.state_dict()
    assert list(tmp_path.iterdir()) == []


def test_load_refuses_what_does_not_fit(tmp_path):
    from fastnn import checkpoint

    path = tmp_path / "m.npz"
    net = ref.mlp([4, 2], seed=0)
    good = net.architecture()
    for layers, arrays in [
        (None, net.params),
        ([{"layer": "Magic"}], {}),
        ([{}], {}),
        ([3], {}),
        ([good[0] | {"n_in": 5}], net.params),
        ([good[0] | {"n_in": -5}], net.params),
        ([good[0] | {"n_in": 10**15}], net.params),
        ([good[0] | {"extra": 1}], net.params),
        ([good[0] | {"dtype": "float16"}], net.params),
        (good, {"0.W": net.params["0.W"]}),
        (good, net.params | {"0.x": np.zeros(1)}),
        (good, net.params | {"0.b": np.zeros(2, int)}),
    ]:
        checkpoint.write(path, "network", arrays, {"layers": layers})
        with pytest.raises(ValueError, match="does not describe a network"):
            ref.Sequential.load(path)
    checkpoint.write(path, "network", net.params, {"layers": good})
    assert ref.Sequential.load(path).dtype == np.float32


def test_repr():
    assert repr(ref.mlp([4, 2])) == "Sequential([\n    Affine(n_in=4, n_out=2, dtype='float32'),\n])"
