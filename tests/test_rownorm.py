"""LayerNorm and RMSNorm: formulas, slopes, bits, shapes, files and bad input."""

import contextlib
import io

import numpy as np
import pytest

import fastnn
from fastnn import reference as ref
from native import on_each_fusing_isa
from tolerances import assert_same_bits

BOTH = pytest.mark.parametrize("m", [fastnn, ref], ids=["native", "reference"])
KINDS = pytest.mark.parametrize("kind", ["LayerNorm", "RMSNorm"])


def layer_of(m, kind, n, dtype=np.float64):
    layer = getattr(m, kind).create(n, eps=1e-4, dtype=dtype)
    rng = np.random.default_rng(1)
    for p in layer.params.values():
        p[...] = rng.normal(size=n)
    return layer


def passed(layer, x, dout):
    y = layer.forward(x)
    return {"y": y, "dx": layer.backward(dout), **{k: g.copy() for k, g in layer.grads.items()}}


@KINDS
@pytest.mark.parametrize(
    "shape", [(1, 1), (2, 3), (17, 33), (65, 16), (300, 129), (33, 5000), (4, 3, 8), (8,)]
)
def test_passes_are_those_of_the_reference(isa, dtype, kind, shape):
    rng = np.random.default_rng(0)
    x, dout = (rng.normal(3, 2, shape).astype(dtype) for _ in range(2))
    actual = passed(layer_of(fastnn, kind, shape[-1], dtype), x, dout)
    expected = passed(layer_of(ref, kind, shape[-1]), x.astype("f8"), dout.astype("f8"))
    eps, rows = float(np.finfo(dtype).eps), max(1, np.prod(shape[:-1], dtype=int))
    for name, value in expected.items():
        assert actual[name].dtype == dtype
        size = np.abs(value).max() * (np.sqrt(rows) if name.startswith(("gamma", "beta")) else 1)
        np.testing.assert_allclose(actual[name], value, rtol=0, atol=30 * eps * size + 30 * eps, err_msg=name)


@KINDS
@BOTH
def test_slopes_are_those_of_finite_differences(m, kind):
    rng = np.random.default_rng(0)
    x, dout = rng.normal(size=(5, 7)), rng.normal(size=(5, 7))
    layer = layer_of(m, kind, 7)
    layer.forward(x)
    dx = layer.backward(dout)
    for array, slope in [(x, dx), *((layer.params[k], layer.grads[k].copy()) for k in layer.params)]:
        direction = rng.normal(size=array.shape)
        values = []
        for sign in (1, -1):
            array += sign * 1e-6 * direction
            values.append(float((layer.forward(x) * dout).sum()))
            array -= sign * 1e-6 * direction
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(float((slope * direction).sum()), rel=1e-5)


@KINDS
@pytest.mark.parametrize("shape", [(37, 20), (500, 130), (3000, 8)])
def test_the_same_bits_on_any_team_and_isa(team, kind, shape):
    rng = np.random.default_rng(0)
    x, dout = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    results = on_each_fusing_isa(lambda: passed(layer_of(fastnn, kind, shape[1], np.float32), x, dout))
    with fastnn.threads(1):
        results.append(passed(layer_of(fastnn, kind, shape[1], np.float32), x, dout))
    for result in results[1:]:
        assert_same_bits(result, results[0])


@KINDS
@BOTH
def test_rows_are_normalized(m, kind):
    x = np.random.default_rng(0).normal(1e4, 3, (9, 50))
    y = getattr(m, kind).create(50, eps=1e-12, dtype=np.float64).forward(x)
    np.testing.assert_allclose(np.mean(y * y, axis=1), 1, rtol=1e-9)
    if kind == "LayerNorm":
        np.testing.assert_allclose(y.mean(axis=1), 0, atol=1e-9)
    constant = getattr(m, kind).create(4, dtype=np.float64).forward(np.full((2, 4), 5.0))
    np.testing.assert_allclose(constant, 0 if kind == "LayerNorm" else 1, atol=1e-5)


@KINDS
@BOTH
def test_data_as_they_lie(m, kind):
    x = np.random.default_rng(0).normal(size=(12, 10))
    expected = layer_of(m, kind, 5).forward(x[::2, ::2].copy())
    layer = layer_of(m, kind, 5)
    for view in (
        x[::2, ::2],
        np.asfortranarray(x[::2, ::2]),
        x[::2, ::2].tolist(),
        x[::2, ::2].astype(">f8"),
    ):
        np.testing.assert_allclose(layer.forward(view), expected, atol=1e-12)
    assert layer.forward(np.zeros((0, 5))).shape == (0, 5)
    assert layer.backward(np.zeros((0, 5))).shape == (0, 5)


@KINDS
@BOTH
def test_an_embedding_is_normalized_by_its_vectors(m, kind):
    net = m.Sequential(
        [m.Embedding.create(9, 4, seed=0), layer_of(m, kind, 4, np.float32), m.Affine.create(12, 2)]
    )
    words = np.arange(6).reshape(2, 3)
    vectors = net.layers[0].forward(words)
    np.testing.assert_allclose(
        net.predict(words),
        net.layers[2].forward(layer_of(m, kind, 4, np.float32).forward(vectors)),
        rtol=1e-6,
    )
    m.Trainer(net, m.SoftmaxCrossEntropy(), m.Adam()).fit(words, [0, 1], epochs=2)


@KINDS
@BOTH
def test_files(m, kind):
    net = m.Sequential([m.Affine.create(3, 4, seed=0), layer_of(m, kind, 4, np.float32)])
    file = io.BytesIO()
    net.save(file)
    file.seek(0)
    loaded = m.Sequential.load(file)
    assert_same_bits(loaded.state_dict(), net.state_dict())
    assert loaded.layers[1].config() == {"n": 4, "eps": 1e-4, "dtype": "float32"}


@KINDS
@BOTH
def test_arguments_that_do_not_fit(m, kind):
    cls = getattr(m, kind)
    rest = [np.zeros(3)] if kind == "LayerNorm" else []
    with pytest.raises(TypeError, match="create"):
        cls(3, *([3] if rest else []))
    with pytest.raises(ValueError, match="gamma"):
        cls(np.ones((3, 1)), *rest)
    if rest:
        with pytest.raises(ValueError, match="beta"):
            cls(np.ones(3), np.zeros(4))
    for bad in (0, -1.0, "1", np.nan):
        with pytest.raises((TypeError, ValueError), match="eps"):
            cls(np.ones(3), *rest, eps=bad)
    for bad in (0, 1.5, "3", True):
        with pytest.raises((TypeError, ValueError), match="n must"):
            cls.create(bad)
    layer = cls.create(3)
    with pytest.raises(RuntimeError, match="backward before forward"):
        layer.backward(np.ones((2, 3)))
    for bad in (np.ones((2, 4)), np.float32(1), np.ones((3, 2))):
        with pytest.raises(ValueError, match="x must have shape"):
            layer.forward(bad)
    layer.forward(np.ones((2, 3)))
    with pytest.raises(ValueError, match="dout must have"):
        layer.backward(np.ones((3, 3)))
    with pytest.raises(TypeError, match="x"):
        layer.forward("text")


@BOTH
@KINDS
@pytest.mark.parametrize("first", ["axes", "embedding"])
@pytest.mark.parametrize("call", ["forward", "predict", "step", "fit"])
def test_of_rows_with_axes_a_network_normalizes_the_last(m, kind, first, call):
    made = getattr(m, kind).create
    affine = m.Affine.create(6, 2, seed=0)
    t = np.ones((4, 2), np.float32)
    if first == "axes":
        x, before = np.arange(24.0, dtype=np.float32).reshape(4, 3, 2), []
    else:
        x, before = np.arange(12).reshape(4, 3), [m.Embedding.create(12, 2, seed=0)]
    net = m.Sequential([*before, made(6), affine])
    acts = {
        "forward": net.forward,
        "predict": net.predict,
        "step": lambda x: m.Trainer(net, m.MeanSquaredError(), m.SGD()).step(x, t),
        "fit": lambda x: m.Trainer(net, m.MeanSquaredError(), m.SGD()).fit(x, t, progress=False),
    }
    with pytest.raises(ValueError, match="6"):
        acts[call](x)
    m.Sequential([*before, made(2), affine]).predict(x)


@KINDS
@pytest.mark.parametrize("junk", [None, 3, "text", [1.0, 2.0, 3.0], object()])
def test_what_is_put_in_the_place_of_parameters_is_refused(kind, junk):
    for name in layer_of(fastnn, kind, 3).params:
        layer = layer_of(fastnn, kind, 3)
        layer.forward(np.ones((2, 3)))
        layer.params[name] = junk
        with pytest.raises((TypeError, ValueError, AttributeError)):
            layer.forward(np.ones((2, 3)))
        with contextlib.suppress(TypeError, ValueError, AttributeError):  # of which beta is not asked
            layer.backward(np.ones((2, 3)))
