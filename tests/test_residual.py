"""Residual blocks: formula, names, steps on the plan, files, copies and bad input."""

import io
import json
import threading

import numpy as np
import pytest

import fastnn
from fastnn import reference as ref
from fastnn.trainer import Trainer
from networks import NETS
from tolerances import assert_same_bits

BOTH = pytest.mark.parametrize("m", [fastnn, ref], ids=["native", "reference"])
BLOCKS = [name for name in NETS if "block" in name]


def network(m, name, dtype=np.float64):
    return m.Sequential(NETS[name](m, dtype))


def data(name, rows=64, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 30, (rows, 3)) if "embedding" in name else rng.normal(size=(rows, 12))
    return x, rng.normal(size=(rows, 5))


def small(m, dtype=np.float64):
    return m.Residual(
        [m.Affine.create(4, 6, rng=0, dtype=dtype), m.Tanh(), m.Affine.create(6, 4, rng=1, dtype=dtype)]
    )


@BOTH
def test_what_the_layers_make_is_added(m):
    block = small(m)
    a, _, b = block.layers
    x = np.random.default_rng(0).normal(size=(3, 4))
    np.testing.assert_allclose(block.forward(x), x + (np.tanh(x @ a.W + a.b) @ b.W + b.b), rtol=1e-12)
    assert list(block.params) == ["0.W", "0.b", "2.W", "2.b"]
    assert block.params["2.W"] is b.W
    assert block.grads == {}
    block.backward(np.ones((3, 4)))
    assert block.grads["0.b"] is a.db


@BOTH
def test_slopes_are_those_of_finite_differences(m):
    rng = np.random.default_rng(0)
    x, dout = rng.normal(size=(5, 4)), rng.normal(size=(5, 4))
    block = m.Residual([small(m), m.LayerNorm.create(4, dtype=np.float64)])
    block.forward(x)
    dx = block.backward(dout)
    for array, slope in [(x, dx), *((p, block.grads[k].copy()) for k, p in block.params.items())]:
        direction = rng.normal(size=array.shape)
        values = []
        for sign in (1, -1):
            array += sign * 1e-6 * direction
            values.append(float((block.forward(x) * dout).sum()))
            array -= sign * 1e-6 * direction
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(float((slope * direction).sum()), rel=1e-5)


@BOTH
def test_more_axes_are_kept(m):
    x = np.random.default_rng(0).normal(size=(3, 2, 4))
    block = m.Residual([m.LayerNorm.create(4, dtype=np.float64), m.SiLU()])
    net = m.Sequential([block, m.Affine.create(8, 2, rng=0, dtype=np.float64)])
    assert block.forward(x).shape == x.shape
    assert net.backward(net.forward(x)).shape == x.shape
    flattening = m.Sequential([m.Residual([m.Affine.create(8, 8, rng=0, dtype=np.float64)])])
    for use in (flattening.forward, flattening.predict):
        with pytest.raises(ValueError, match=r"must keep the shape of x, \(3, 2, 4\), got \(3, 8\)"):
            use(x)


def trained(m, name, dtype=np.float64, **options):
    net = network(m, name, dtype)
    optimizer = m.Momentum(1e-2, weight_decay=0.01, groups=[m.Group("*.b", decay=0.0)])
    trainer = m.Trainer(net, m.MeanSquaredError(), optimizer, seed=3, **options)
    x, t = data(name)
    trainer.step(x, t)
    trainer.fit(x, t, epochs=3, batch_size=24)
    return trainer, net.predict(x)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize(
    "options", [{}, {"clip_norm": 0.5}, {"average": 0.9}], ids=["plain", "clip", "average"]
)
def test_training_is_that_of_the_reference(name, options, monkeypatch):
    expected, predictions = trained(ref, name, **options)

    def refuse(*_):
        raise AssertionError("it was done layer by layer")

    for method in ("_forward", "_predict"):
        monkeypatch.setattr(fastnn.Sequential, method, refuse)
    monkeypatch.setattr(Trainer, "_step_by_layers", refuse)
    actual, mine = trained(fastnn, name, **options)
    np.testing.assert_allclose(mine, predictions, rtol=1e-8, atol=1e-9)
    nets = [(actual.net, expected.net)]
    if "average" in options:
        nets.append((actual.averaged, expected.averaged))
    for a, b in nets:
        for key, value in b.state_dict().items():
            np.testing.assert_allclose(a.state_dict()[key], value, rtol=1e-8, atol=1e-9, err_msg=key)


@pytest.mark.parametrize("name", BLOCKS)
def test_training_has_the_same_bits_on_any_team(name, team):
    mine = trained(fastnn, name, np.float32)[0].net.state_dict()
    with fastnn.threads(1):
        alone = trained(fastnn, name, np.float32)[0].net.state_dict()
    assert_same_bits(mine, alone)


@BOTH
def test_parameters_within_blocks_can_be_frozen(m):
    name = "blocks in a block"
    net = network(m, name)
    before = net.state_dict()
    optimizer = m.Adam(1e-2, groups=[m.Group("1.*", frozen=True), m.Group("2.0.0.0.W", lr=0.5)])
    m.Trainer(net, m.MeanSquaredError(), optimizer).fit(*data(name), epochs=1, batch_size=16)
    for key, array in net.params.items():
        assert (array == before[key]).all() == key.startswith("1."), key


@pytest.mark.parametrize("name", ["blocks in a block", "normed block inside", "block after an embedding"])
@BOTH
def test_files_bring_blocks_back(m, name, tmp_path):
    trainer, _ = trained(m, name, average=0.9)
    x, t = data(name)
    trainer.save(tmp_path / "run.npz")
    again = m.Trainer.load(tmp_path / "run.npz")
    assert again.step(x, t) == trainer.step(x, t)
    assert_same_bits(again.net.state_dict(), trainer.net.state_dict())
    trainer.net.save(tmp_path / "net.npz")
    net = m.Sequential.load(tmp_path / "net.npz")
    assert repr(net) == repr(trainer.net)
    assert_same_bits(net.predict(x), trainer.net.predict(x))


@BOTH
def test_copies_are_of_their_own(m):
    net = network(m, "blocks in a block")
    x, _ = data("blocks")
    twin = net.copy()
    assert_same_bits(twin.predict(x), net.predict(x))
    assert not any(
        np.shares_memory(a, b) for a, b in zip(twin.params.values(), net.params.values(), strict=True)
    )
    twin.params["1.0.1.W"][...] = 0
    assert (net.params["1.0.1.W"] != 0).any()
    net.blend(twin, 1)
    assert (net.params["1.0.1.W"] == 0).all()


@BOTH
def test_names_are_those_of_the_way_down(m):
    net = network(m, "blocks in a block")
    assert list(net.params)[:4] == ["0.W", "0.b", "1.0.0.gamma", "1.0.0.beta"]
    joint = m.Joint({"a": net})
    assert list(joint.params) == [f"a.{name}" for name in net.params]
    lines = net.summary().splitlines()
    assert [line.split()[:2] for line in lines[2:5]] == [
        ["1", "Residual"],
        ["1.0", "Residual"],
        ["1.0.0", "LayerNorm"],
    ]
    net.forward(data("")[0])
    net.backward_params(np.ones((64, 5)))
    assert joint.grads.keys() == joint.params.keys()


@pytest.mark.parametrize("inside", ["A", "TA", "DRA", "RAR", "NA", "AR", "T", "PTP"])
def test_the_input_s_gradient_of_blocks_that_come_first(inside):
    def net(m):
        def block(kinds):
            layers = {
                "A": lambda: m.Affine.create(4, 4, rng=0, dtype=np.float64),
                "N": lambda: m.RMSNorm.create(4, dtype=np.float64),
                "D": lambda: m.Dropout(0.5, seed=1),
                "T": m.Tanh,
                "R": lambda: block("A"),
                "P": lambda: block("T"),
            }
            return m.Residual([layers[kind]() for kind in kinds])

        return m.Sequential(
            [
                block(inside),
                m.LayerNorm.create(4, dtype=np.float64),
                m.Affine.create(4, 5, rng=1, dtype=float),
            ]
        )

    rng = np.random.default_rng(0)
    x, dout = rng.normal(size=(31, 4)), rng.normal(size=(31, 5))
    native, reference = net(fastnn), net(ref)
    for passes in (native, reference):
        passes.forward(x)
    for go in ("backward", "input_gradient", "backward"):
        expected = getattr(reference, go)(dout)
        np.testing.assert_allclose(getattr(native, go)(dout), expected, rtol=1e-9, atol=1e-12)


@BOTH
def test_layers_within_that_would_not_be_trained_are_refused(m):
    class Scale:
        def __init__(self, **attributes):
            self.__dict__ |= attributes

        def forward(self, x, train=True):
            return x

        def backward(self, dout):
            return dout

    place = r"layers\[0\].layers\[1\]"
    w = np.ones(4, np.float32)
    for bad, error, match in [
        (Scale(trainable=False), ValueError, place + ".trainable must be True"),
        (Scale(W=w, dW=w), TypeError, place + " must have dicts params and grads for its W and dW"),
    ]:
        net = m.Sequential([m.Residual([m.ReLU(), bad]), m.Affine.create(4, 2)])
        with pytest.raises(error, match=match):
            m.Trainer(net, m.MeanSquaredError(), m.SGD())


@BOTH
def test_a_layer_within_goes_back_by_itself_after_a_pass_of_the_network(m):
    net = network(m, "affine block inside")
    x, _ = data("")
    net.forward(x)
    inner = net.layers[2].layers[-1]
    dx = inner.backward(np.ones((64, 24)))
    np.testing.assert_allclose(dx, np.ones((64, 24)) @ inner.W.T)


@BOTH
def test_predictions_and_steps_in_between_leave_what_backward_needs(m):
    class Square:
        def forward(self, x, train=True):
            self.x = x
            return x * x

        def backward(self, dout):
            return 2 * self.x * dout

    rng = np.random.default_rng(0)
    x, other, dout = rng.normal(size=(7, 4)), rng.normal(size=(9, 4)), rng.normal(size=(7, 2))
    for square in (Square(), m.SiLU()):
        net = m.Sequential([m.Residual([m.Residual([square]), small(m)]), m.Affine.create(4, 2, dtype=float)])
        trainer = m.Trainer(net, m.MeanSquaredError(), m.SGD(0.0))
        net.forward(x)
        dx = net.backward(dout)
        net.predict(other)
        if not isinstance(square, Square):  # which keeps what it will
            trainer.step(other, np.zeros((9, 2)))
        np.testing.assert_array_equal(net.backward(dout), dx)


def test_copies_are_used_by_other_threads():
    block = small(fastnn)
    twin, done = block.copy(), []
    x = np.ones((3, 4))
    twin.forward(x)
    with block.layers[0]._in_use:
        thread = threading.Thread(target=lambda: done.append(twin.backward(x)))
        thread.start()
        thread.join()
    assert len(done) == 1


def test_a_class_of_ones_own_may_stand_in_a_block():
    class Half(ref.layers.Layer):
        def __init__(self):
            super().__init__()

        def forward(self, x, train=True):
            return x / 2

        def backward(self, dout):
            return dout / 2

    class Net(fastnn.Sequential):
        layer_classes = {**fastnn.Sequential.layer_classes, "Half": Half}  # noqa: RUF012

    net = Net([fastnn.Residual([Half()]), fastnn.Affine.create(4, 2, rng=0)])
    file = io.BytesIO()
    net.save(file)
    file.seek(0)
    x = np.ones((3, 4), np.float32)
    np.testing.assert_array_equal(Net.load(file).predict(x), net.predict(x))
    with pytest.raises(TypeError, match=r"layers\[0\].layers\[0\] must be a layer of fastnn to be saved"):
        fastnn.Sequential(net.layers).save(io.BytesIO())


@BOTH
def test_bad_blocks_are_refused(m):
    affine = m.Affine.create(4, 4)
    for bad, error, match in [
        (3, TypeError, "layers must be an iterable"),
        ([], ValueError, "at least one"),
        ([3], TypeError, r"layers\[0\] must have forward"),
        ([m.ReLU], TypeError, r"layers\[0\] must have forward"),
        ([m.Sequential([affine])], TypeError, r"layers\[0\] is a network"),
        ([affine, affine], ValueError, "once"),
        ([m.Residual([affine]), affine], ValueError, "once"),
        ([m.Embedding.create(4, 4)], ValueError, r"layers\[0\] takes indices"),
    ]:
        with pytest.raises(error, match=match):
            m.Residual(bad)
    block = m.Residual([affine])
    with pytest.raises(ValueError, match="once"):
        m.Sequential([block, affine])
    with pytest.raises(AttributeError):
        block.layers = [m.ReLU()]
    with pytest.raises(TypeError, match=r"parameter 1.0.W must have the dtype float64"):
        m.Sequential([m.Affine.create(4, 4, dtype=np.float64), block])
    with pytest.raises(RuntimeError, match="backward before forward"):
        block.backward(np.ones((2, 4)))
    net = m.Sequential([m.Residual([m.Affine.create(4, 6)]), m.Affine.create(6, 4)])
    for call in (
        net.forward,
        net.predict,
        lambda x: m.Trainer(net, m.MeanSquaredError(), m.SGD()).step(x, x),
    ):
        with pytest.raises(ValueError, match=r"must keep the shape of x, \(3, 4\), got \(3, 6\)"):
            call(np.ones((3, 4), np.float32))


@BOTH
def test_a_file_of_endless_blocks_is_refused(m):
    file = io.BytesIO()
    m.Sequential([m.Affine.create(2, 2)]).save(file)
    entries = dict(np.load(io.BytesIO(file.getvalue())))
    name = next(
        name for name, array in entries.items() if array.dtype.kind in "US" or array.dtype == np.uint8
    )
    text = entries[name]
    meta = json.loads(bytes(text).decode() if text.dtype == np.uint8 else str(text))
    innermost = json.dumps(meta["layers"])
    nested = '[{"layer": "Residual", "layers": ' * 900 + innermost + "}]" * 900
    written = json.dumps(meta).replace(innermost, nested)
    entries[name] = np.frombuffer(written.encode(), np.uint8) if text.dtype == np.uint8 else np.array(written)
    file = io.BytesIO()
    np.savez(file, **entries)
    file.seek(0)
    with pytest.raises(ValueError, match="file"):
        m.Sequential.load(file)
