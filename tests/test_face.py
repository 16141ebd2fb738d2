"""Any input at the public face: native code and reference give the same results, or refuse it alike.

FASTNN_EXAMPLES=10000 pytest tests/test_face.py    # for long; without, each property is tried a few times
"""

import io
import json
import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastnn
from face import (
    FLOATS,
    INTEGERS,
    JUNK,
    SEEDS,
    SIZES,
    SOME,
    WAYS,
    arrays,
    assert_close,
    assert_near,
    attacked,
    laid,
    outcome,
    snapshot,
)
from fastnn import callbacks, init, optimizers, schedules
from fastnn import reference as ref
from fastnn.data import permutation
from tolerances import assert_same_bits, exact

ACTIVATIONS = ["ReLU", "LeakyReLU", "Sigmoid", "Tanh", "GELU", "SiLU"]
LOSSES = ["SoftmaxCrossEntropy", "SigmoidCrossEntropy", "MeanSquaredError"]
KINDS = list(optimizers.CLASSES)
WILD = ("none", "zeros", "subnormal", "huge", "no number")


# Right values: what is computed natively is what the reference computes in float64 on the same numbers


def read(a, dtype):
    """Return numbers in float64 as a kernel of `dtype` reads them."""
    with np.errstate(all="ignore"):
        return exact(np.asarray(a).astype(dtype))


def plain(data, shape, dtype):
    """Draw the values of a parameter."""
    return data.draw(arrays(shape, [dtype], ["none", "zeros"], ["plain"]))


@attacked
@given(data=st.data())
def test_matmul(data):
    m, k, n = (data.draw(SIZES) for _ in range(3))
    a, b = (data.draw(arrays(shape, wild=WILD)) for shape in ((m, k), (k, n)))
    out = None
    dtype = ref.matmul(a[:0], b).dtype
    if data.draw(st.booleans()):
        out = laid(
            np.full((m, n), np.nan, dtype), data.draw(st.sampled_from(["plain", "fortran", "every second"]))
        )
    if a.shape == (m, n) and a.dtype == dtype and a.flags.writeable and data.draw(st.booleans()):
        a = a.copy()
        wide, out = read(a, dtype), a
    else:
        wide = read(a, dtype)
    right = read(b, dtype)
    product = fastnn.matmul(a, b, out)
    assert product.dtype == dtype
    assert out is None or product is out
    with np.errstate(all="ignore"):
        assert_close(product, wide @ right, terms=k + 1, scale=abs(wide) @ abs(right))


def shape_of_rows(data, n, features):
    """Draw a shape of n rows of so many numbers."""
    shapes = [(n, features), (n, 1, features), (n, features, 1)]
    return data.draw(st.sampled_from(shapes if features != 1 else [*shapes, (n,)]))


@attacked
@given(data=st.data())
def test_affine(data):
    n, n_in, n_out, dtype = (
        data.draw(SIZES),
        data.draw(SOME),
        data.draw(SIZES),
        data.draw(st.sampled_from(FLOATS)),
    )
    W = data.draw(arrays((n_in, n_out), [dtype], WILD))
    b = data.draw(arrays(n_out, [dtype], WILD))
    x = data.draw(arrays(shape_of_rows(data, n, n_in), wild=WILD))
    dout = data.draw(arrays((n, n_out), wild=WILD))
    layer = fastnn.Affine(W, b)
    with np.errstate(all="ignore"):
        y, dx = layer.forward(x, data.draw(st.booleans())), layer.backward(dout)
    rows, weights, bias, slopes = (
        read(x, dtype).reshape(n, n_in),
        read(W, dtype),
        read(b, dtype),
        read(dout, dtype),
    )
    with np.errstate(all="ignore"):
        assert_close(y, rows @ weights + bias, terms=n_in + 1, scale=abs(rows) @ abs(weights) + abs(bias))
        expected = (slopes @ weights.T).reshape(x.shape)
        assert_close(dx, expected, terms=n_out + 1, scale=(abs(slopes) @ abs(weights.T)).reshape(x.shape))
        assert_close(layer.dW, rows.T @ slopes, terms=n + 1, scale=abs(rows).T @ abs(slopes))
        assert_close(layer.db, slopes.sum(axis=0), terms=n + 1, scale=abs(slopes).sum(axis=0))


@attacked
@given(data=st.data())
def test_batchnorm(data):
    train, dtype = data.draw(st.booleans()), data.draw(st.sampled_from(FLOATS))
    n, d = data.draw(SIZES.filter(lambda n: n > 1) if train else SIZES), data.draw(SIZES)
    x, dout = (data.draw(arrays(shape_of_rows(data, n, d))) for _ in range(2))
    dout = dout.reshape(x.shape)
    parts = [plain(data, d, dtype) for _ in range(3)] + [abs(plain(data, d, dtype))]
    options = {
        "momentum": data.draw(st.sampled_from([0.0, 0.9, 1.0])),
        "eps": data.draw(st.sampled_from([1e-5, 0.1])),
    }

    def run(m, x, dout, parts):
        layer = m.BatchNorm(*parts[:2], options["momentum"], *parts[2:], eps=options["eps"])
        y, dx = layer.forward(x, train), layer.backward(dout)
        stats = {"running_mean": layer.running_mean, "running_var": layer.running_var}
        return {"y": y, "dx": dx, "dgamma": layer.dgamma, "dbeta": layer.dbeta, **stats}

    with np.errstate(all="ignore"):
        actual = run(fastnn, x, dout, parts)
    assert {a.dtype for a in actual.values()} == {np.dtype(dtype)}
    given = {"x": read(x, dtype), "dout": read(dout, dtype)}

    def expected(given):
        return run(ref, given["x"], given["dout"], [p.astype(given["x"].dtype) for p in parts])

    assert_near(actual, expected, given, dtype=dtype)


@attacked
@given(data=st.data())
def test_dropout(data):
    shape = tuple(data.draw(st.lists(SIZES, max_size=3)))
    x = data.draw(arrays(shape, wild=WILD))
    train, inverted = data.draw(st.booleans()), data.draw(st.booleans())
    ratio, seed = data.draw(st.floats(0, 1, exclude_max=True)), data.draw(st.integers(0, 2**64 - 1))
    layer, oracle = (m.Dropout(ratio, inverted=inverted, seed=seed) for m in (fastnn, ref))
    layer.step = oracle.step = data.draw(st.integers(0, 2**63 - 1))
    with np.errstate(all="ignore"):
        y, expected = layer.forward(x, train), np.asarray(oracle.forward(x, train))
        dout = data.draw(arrays(shape))
        dx, expected_dx = layer.backward(dout), np.asarray(oracle.backward(dout))
    if train:
        assert_same_bits(layer.mask, np.asarray(oracle.mask))
    tiny = float(np.finfo(expected.dtype).tiny) / (1 - ratio)
    for actual, right in ((y, expected), (dx, expected_dx)):
        assert actual.dtype == right.dtype
        np.testing.assert_allclose(actual, right, rtol=2 * np.finfo(right.dtype).eps, atol=tiny)


@attacked
@given(data=st.data())
def test_embedding(data):
    vocab, dim, dtype = data.draw(SOME), data.draw(SIZES), data.draw(st.sampled_from(FLOATS))
    W = data.draw(arrays((vocab, dim), [dtype], WILD))
    shape = tuple(data.draw(st.lists(SIZES, max_size=2)))
    rng = np.random.default_rng(data.draw(SEEDS))
    x = laid(
        rng.integers(0, vocab, shape).astype(data.draw(st.sampled_from(INTEGERS))),
        data.draw(st.sampled_from(WAYS)),
    )
    layer = fastnn.Embedding(W)
    y = layer.forward(x)
    assert_same_bits(y, W[x])
    dout = data.draw(arrays((*shape, dim)))
    assert layer.backward(dout) is None
    slopes, size = np.zeros((2, vocab, dim))
    np.add.at(slopes, x.ravel(), read(dout, dtype).reshape(x.size, dim))
    np.add.at(size, x.ravel(), abs(read(dout, dtype)).reshape(x.size, dim))
    assert_close(np.asarray(layer.dW), slopes, terms=x.size + 1, scale=size)
    np.testing.assert_array_equal(layer.dW.rows, np.unique(x))


@pytest.mark.parametrize("kind", ACTIVATIONS)
@attacked
@given(data=st.data())
def test_activation(kind, data):
    shape = tuple(data.draw(st.lists(SIZES, max_size=3)))
    x, dout = (data.draw(arrays(shape, wild=WILD)) for _ in range(2))
    layer, oracle = getattr(fastnn, kind)(), getattr(ref, kind)()
    with np.errstate(all="ignore"):
        y, dx = layer.forward(x), layer.backward(dout)
    with np.errstate(all="ignore"):
        dtype = np.asarray(getattr(ref, kind)().forward(x)).dtype
        assert y.dtype == dx.dtype == dtype
        wide, slopes = read(x, dtype), read(dout, dtype)
        expected, expected_dx = np.asarray(oracle.forward(wide)), np.asarray(oracle.backward(slopes))
        near, flushed = (
            np.minimum(abs(wide), 1e3),
            float(np.finfo(dtype).tiny) * (1 + np.nan_to_num(abs(wide), posinf=0)),
        )
        terms = np.nan_to_num(16 + near**2)
        finite = np.isfinite(wide)  # elsewhere it is the limit
        assert_close(
            y[finite],
            expected[finite],
            terms=terms[finite],
            scale=abs(expected[finite]),
            plus=flushed[finite],
        )
        np.testing.assert_array_equal(y[~finite], expected[~finite])
        scale = np.where(finite, abs(slopes) * (1 + near), np.inf)
        plus = np.nan_to_num(flushed * abs(slopes), posinf=0)
        assert_close(dx, expected_dx, terms=terms, scale=scale, plus=plus)


def targets(data, kind, n, c):
    rng = np.random.default_rng(data.draw(SEEDS))
    if kind == "SoftmaxCrossEntropy":
        labels = rng.integers(0, c, n)
        if data.draw(st.booleans()):
            return laid(labels.astype(data.draw(st.sampled_from(INTEGERS))), data.draw(st.sampled_from(WAYS)))
        t = np.eye(c)[labels] * 0.75 + 0.25 / c if data.draw(st.booleans()) else np.eye(c)[labels]
    elif kind == "SigmoidCrossEntropy":
        t = rng.uniform(size=(n, c)) if data.draw(st.booleans()) else rng.integers(0, 2, (n, c))
    else:
        return data.draw(arrays((n, c) if c > 1 else (n,)))
    return laid(t.astype(data.draw(st.sampled_from(["f4", "f8", ">f8"]))), data.draw(st.sampled_from(WAYS)))


def row_weights(data, n):
    rng = np.random.default_rng(data.draw(SEEDS))
    kind = data.draw(st.sampled_from(["none", "floats", "some zero", "integers", "tiny", "large"]))
    w = {
        "none": None,
        "floats": rng.uniform(size=n).astype("f4"),
        "some zero": np.where(rng.random(n) < 0.5, rng.uniform(size=n), 0),
        "integers": rng.integers(0, 3, n),
        "tiny": rng.uniform(1e-12, 2e-12, n),
        "large": rng.uniform(1e100, 2e100, n),
    }[kind]
    if w is not None and not w.any():
        w[0] = 1
    return w


@pytest.mark.parametrize("kind", LOSSES)
@attacked
@given(data=st.data())
def test_loss(kind, data):
    n, c = data.draw(SOME), data.draw(SOME)
    x, t, w = data.draw(arrays((n, c), wild=WILD)), targets(data, kind, n, c), row_weights(data, n)
    dout = data.draw(st.sampled_from([1.0, -2.5, np.float32(0.5), 3, 0.0]))
    dtype = np.dtype(np.float64 if x.dtype in ("f8", ">f8") else np.float32)

    def run(m, x):
        loss = getattr(m, kind)()
        given = t if t.ndim == 1 and kind == LOSSES[0] else t.astype(dtype).astype(x.dtype)
        return {"loss": np.asarray(loss.forward(x, given, w)), "dx": loss.backward(dout), "y": loss.y}

    loss = getattr(fastnn, kind)()
    with np.errstate(all="ignore"):
        actual = {"loss": loss.forward(x, t, w), "dx": loss.backward(dout), "y": loss.y}
    assert actual["dx"].dtype == actual["y"].dtype == dtype
    wide = read(x, dtype)
    with np.errstate(all="ignore"):
        if np.isfinite(wide).all() and abs(wide).max() < 1e6:
            assert_near(actual, lambda given: run(ref, given["x"]), {"x": wide}, dtype=dtype)
        elif np.isnan(run(ref, wide)["loss"]):
            assert np.isnan(actual["loss"])


def optimizer_options(data, kind):
    rates = {
        "momentum": [0.0, 0.9, 1.0],
        "adamw_factor": [0.0, 0.015, 1.0],
        "decay_rate": [0.5, 0.99],
        "beta1": [0.0, 0.9],
        "beta2": [0.0, 0.999],
    }
    choices = rates | {"eps": [1e-8, 1e-2], "weight_decay": [0.0, 0.1], "nesterov": [True, False]}
    choices |= {"ns_steps": [1, 2, 5], "matrices": [None]}
    names = (*getattr(ref, kind).options, *getattr(ref, kind).choices)
    options = {name: data.draw(st.sampled_from(choices[name])) for name in names}
    return options | {"lr": data.draw(st.sampled_from([0.0, 0.01, 1.0]))}


@pytest.mark.parametrize("kind", KINDS)
@attacked
@given(data=st.data())
def test_optimizer(kind, data):
    options, steps, dtype = (
        optimizer_options(data, kind),
        data.draw(st.integers(1, 3)),
        data.draw(st.sampled_from(FLOATS)),
    )
    shapes = data.draw(
        st.dictionaries(
            st.sampled_from(["a", "b", "0.W", "1.W"]), st.lists(SIZES, max_size=3).map(tuple), min_size=1
        )
    )
    ways = ["plain", "fortran", "reversed", "every second"]
    params = {
        name: np.asarray(data.draw(arrays(shape, [dtype], ways=ways))) for name, shape in shapes.items()
    }
    sparse = {
        name for name, shape in shapes.items() if len(shape) == 2 and shape[0] and data.draw(st.booleans())
    }
    rows = {
        name: np.unique(np.random.default_rng(data.draw(SEEDS)).integers(0, shapes[name][0], 5))
        for name in sparse
    }
    grads = [
        {
            name: np.asarray(data.draw(arrays((len(rows[name]), shape[1]) if name in sparse else shape)))
            for name, shape in shapes.items()
        }
        for _ in range(steps)
    ]

    def given_to(m, given, dtype):
        return {
            name: m.RowSparse(rows[name], np.asarray(g, dtype), shapes[name]) if name in sparse else g
            for name, g in given.items()
        }

    def run(given, *slopes):
        optimizer, params = getattr(ref, kind)(**options), {name: np.array(p) for name, p in given.items()}
        for g in slopes:
            optimizer.update(params, given_to(ref, g, next(iter(given.values())).dtype))
        return params | {
            f"{s}.{name}": m for s, memory in optimizer.state.items() for name, m in memory.items()
        }

    wide = [{name: read(a, dtype) for name, a in d.items()} for d in (params, *grads)]
    optimizer = getattr(fastnn, kind)(**options)
    for g in grads:
        optimizer.update(params, given_to(fastnn, g, dtype))
    assert optimizer.step == steps
    memory = {f"{s}.{name}": m for s, memory in optimizer.state.items() for name, m in memory.items()}
    assert {a.dtype for a in (params | memory).values()} == {np.dtype(dtype)}
    assert_near(params | memory, run, *wide, dtype=dtype)


SMOOTH = ["sigmoid", "tanh", "gelu", "silu"]  # none has a kink, at which a rounding would matter


def network(data, m, sizes, dtype, options):
    net = m.mlp(sizes, dtype=dtype, seed=0, **options)
    for i, layer in enumerate(net.layers):
        if hasattr(layer, "seed"):
            layer.seed, layer.stream = 7, i
    return net


def network_options(data, dtype):
    kinks = ["relu", "leaky_relu"] if dtype == "f8" else []
    return {
        "activation": data.draw(st.sampled_from(SMOOTH + kinks)),
        "batch_norm": data.draw(st.booleans()),
        "dropout": data.draw(st.sampled_from([0.0, 0.3])),
    }


def inputs(n, sizes, options, ways=WAYS):
    """Return a strategy for the inputs of a network: at a kink, zero and what is flushed to it differ."""
    wild = ["none", "zeros", *(["subnormal"] if options["activation"] in SMOOTH else [])]
    return arrays((n, sizes[0]), wild=wild, ways=ways)


def widened(d):
    return {name: np.asarray(a, np.float64) for name, a in d.items()}


@attacked
@given(data=st.data())
def test_network(data):
    dtype, train = data.draw(st.sampled_from(FLOATS)), data.draw(st.booleans())
    sizes, options = data.draw(st.lists(SOME, min_size=2, max_size=4)), network_options(data, dtype)
    n = data.draw(SIZES.filter(lambda n: n > 1))
    x, dout = data.draw(inputs(n, sizes, options)), data.draw(arrays((n, sizes[-1])))
    batch_size = data.draw(st.sampled_from([None, 1, 7, 100]))

    def run(m, x, dout, dtype, state):
        net = network(data, m, sizes, dtype, options)
        net.load_state_dict(state)
        y = net.forward(x, train)
        dx = net.backward(dout)
        grads = dict(net.grads)
        return {
            "y": y,
            "dx": dx,
            "p": net.predict(x, batch_size),
            **grads,
            **{f"s{k}": v for k, v in net.state_dict().items()},
        }

    state = network(data, fastnn, sizes, dtype, options).state_dict()
    actual = run(fastnn, x, dout, dtype, state)
    given = {"x": read(x, dtype), "dout": read(dout, dtype)}
    assert_near(
        actual,
        lambda d, state: run(ref, d["x"], d["dout"], d["x"].dtype, state),
        given,
        widened(state),
        dtype=dtype,
    )


@attacked
@given(data=st.data())
def test_trainer(data):
    dtype, kind = data.draw(st.sampled_from(FLOATS)), data.draw(st.sampled_from(LOSSES))
    optimizer = data.draw(st.sampled_from(KINDS if dtype == "f8" else ["SGD", "Momentum", "Nesterov"]))
    sizes, options = data.draw(st.lists(SOME, min_size=2, max_size=4)), network_options(data, dtype)
    n = data.draw(SIZES.filter(lambda n: n > 1))
    x, t = (
        data.draw(inputs(n, sizes, options, ways=[*WAYS[:4], *WAYS[5:]])),
        targets(data, kind, n, sizes[-1]),
    )
    w = row_weights(data, n)
    arguments = {
        "epochs": data.draw(st.integers(0, 3)),
        "batch_size": data.draw(st.sampled_from([2, 3, 8, 100])),
        "shuffle": data.draw(st.booleans()),
        "sample_weight": w,
        "scale": data.draw(st.sampled_from([1.0, 0.125])),
        "weight_mean": data.draw(st.sampled_from(["batch", "data"])),
        "validation": (x, t) if data.draw(st.booleans()) else None,
    }
    if kind == LOSSES[0] and t.ndim == 1 and data.draw(st.booleans()):
        arguments["class_weight"] = data.draw(st.sampled_from(["balanced", {0: 2.0}]))
    clip_norm, first = data.draw(st.sampled_from([None, 0.1])), data.draw(st.integers(0, 1))
    rate = schedules.StepDecay(0.01, 0.5, 2) if data.draw(st.booleans()) else 0.01

    def run(m, dtype, state):
        net = network(data, m, sizes, dtype, options)
        net.load_state_dict(state)
        trainer = m.Trainer(
            net, getattr(m, kind)(), getattr(m, optimizer)(rate), clip_norm, seed=5, nonfinite="ignore"
        )
        losses = [trainer.step(x, t, w) for _ in range(first)]
        history = trainer.fit(x, t, **arguments)
        figures = trainer.evaluate(x, t, w, 5)
        numbers = {"loss": [*losses, *history.loss], "epoch": history.epoch_loss, "val": history.val_loss}
        counts = [trainer.steps, trainer.epochs, trainer.optimizer.step, *history.epoch_steps]
        accuracy = [*history.val_accuracy, figures.get("accuracy", 0.0)]
        return {
            **net.state_dict(),
            **{k: np.asarray(v, np.float64) for k, v in numbers.items()},
            "evaluated": np.asarray(figures["loss"]),
            "counts": np.asarray(counts, np.float64),
            "accuracy": np.asarray(accuracy),
        }

    state = network(data, fastnn, sizes, dtype, options).state_dict()
    with np.errstate(all="ignore"):
        actual = run(fastnn, dtype, state)
        expected = run(ref, "f8", widened(state))
        np.testing.assert_array_equal(actual.pop("counts"), expected["counts"])
        if not all((np.abs(expected[name]) < 1e4).all() for name in ("loss", "evaluated")):
            return  # it explodes, and roundings with it

        def figures(state):
            result = run(ref, next(iter(state.values())).dtype, state)
            return {name: result[name] for name in actual}

        # dp/dg = lr / eps where a gradient is next to nothing, as behind a saturated tanh
        plus = 64 * np.finfo(dtype).eps * 0.01 / 1e-8 if getattr(ref, optimizer).squares else 0.0
        assert_near(actual, figures, widened(state), dtype=dtype, slack=256, plus=plus)


@attacked
@given(data=st.data())
def test_files(data):
    """What one tier saves the other loads, to the same bits; a damaged file is refused or is still right."""
    dtype, m, other = (
        data.draw(st.sampled_from(FLOATS)),
        *data.draw(st.sampled_from([(fastnn, ref), (ref, fastnn)])),
    )
    sizes, options = data.draw(st.lists(SOME, min_size=2, max_size=3)), network_options(data, dtype)
    kind, optimizer = data.draw(st.sampled_from(LOSSES)), data.draw(st.sampled_from(KINDS))
    trainer = m.Trainer(
        network(data, m, sizes, dtype, options), getattr(m, kind)(), getattr(m, optimizer)(), seed=3
    )
    x, t = data.draw(arrays((5, sizes[0]))), targets(data, kind, 5, sizes[-1])
    for _ in range(data.draw(st.integers(0, 2))):
        trainer.step(x, t)
    file = io.BytesIO()
    trainer.save(file)
    content = bytearray(file.getvalue())
    loaded = other.Trainer.load(io.BytesIO(content))
    assert loaded.description() == trainer.description()
    assert_same_bits(loaded.net.state_dict(), trainer.net.state_dict())
    assert_same_bits(loaded.optimizer.state_dict()["state"], trainer.optimizer.state_dict()["state"])
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= data.draw(st.integers(1, 255))
    else:
        del content[place:]
    for loads in (other.Trainer.load, m.Sequential.load):
        try:
            again = loads(io.BytesIO(content))
        except (ValueError, OSError):
            continue
        net = again.net if hasattr(again, "net") else again
        assert {name: a.shape for name, a in net.state_dict().items()} == {
            name: a.shape for name, a in trainer.net.state_dict().items()
        }


@attacked
@given(data=st.data())
def test_callbacks(data):
    monitor = data.draw(st.sampled_from(["loss", "val_loss", "val_accuracy"]))
    patience, min_delta = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([1e-5, 1e-2]))
    rate, restore = data.draw(st.sampled_from([0.0, 0.1, 3.0])), data.draw(st.booleans())
    x, t = data.draw(arrays((8, 3))), np.arange(8) % 2
    results = []
    for m in (fastnn, ref):
        trainer = m.Trainer(
            network(data, m, [3, 4, 2], "f8", {"activation": "tanh"}), m.SoftmaxCrossEntropy(), m.SGD(rate)
        )
        stopping = callbacks.EarlyStopping(monitor, patience + 1, min_delta, restore_best=restore)
        reducing = callbacks.ReduceOnPlateau(monitor, 0.5, patience, 1e-3, min_delta)
        history = trainer.fit(
            x, t, 8, 4, False, validation=(x, t), callbacks=[stopping, reducing], scale=1 / 64
        )
        results.append((stopping.best_epoch, history.epochs, trainer.optimizer.lr, trainer.net.state_dict()))
    (*native, state), (*oracle, expected) = results
    assert native == oracle
    for name, array in expected.items():
        np.testing.assert_allclose(state[name], array, rtol=1e-6, atol=1e-6)


POSITIVE = st.floats(1e-6, 1e3)


@attacked
@given(data=st.data())
def test_schedules(data):
    lr, steps = data.draw(POSITIVE), data.draw(st.integers(1, 1000))
    schedule = data.draw(
        st.sampled_from(
            [
                schedules.StepDecay(lr, data.draw(st.floats(0, 1)), steps),
                schedules.ExponentialDecay(lr, data.draw(st.floats(0.01, 1)), data.draw(POSITIVE)),
                schedules.InverseTimeDecay(lr, data.draw(st.floats(0, 10)), data.draw(POSITIVE)),
                schedules.CosineDecay(lr, steps, data.draw(st.floats(0, 1)) * lr),
            ]
        )
    )
    if data.draw(st.booleans()):
        schedule = schedules.WarmUp(schedule, data.draw(st.integers(0, 100)), data.draw(st.booleans()))
    assert schedules.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    step = data.draw(st.integers(0, 2**63))
    assert 0 <= schedule(step) <= lr * (1 + 1e-12)


@attacked
@given(st.integers(0, 500), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_permutation(n, seed, epoch):
    order = permutation(n, seed, epoch)
    assert_same_bits(np.sort(order), np.arange(n))
    trainer = fastnn.Trainer(fastnn.mlp([1, 1]), fastnn.MeanSquaredError(), fastnn.SGD(), seed=seed)
    trainer.epochs = epoch
    assert_same_bits(trainer._order(n)[:], order)


@attacked
@given(SOME, SOME, SEEDS, st.sampled_from(["he", "xavier", "lecun", "glorot", 0.1, 0]))
def test_init(n_in, n_out, seed, kind):
    single, double = (
        init.resolve(kind)(n_in, n_out, np.random.default_rng(seed), dtype)
        for dtype in (np.float32, np.float64)
    )
    assert_same_bits(single, double.astype(np.float32))
    assert_same_bits(fastnn.Affine.create(n_in, n_out, init=kind, seed=seed).W, single)
    assert_same_bits(ref.Affine.create(n_in, n_out, init=kind, seed=seed).W, single)


# Nonsense: a call of each kind, (objects whose state may not change, call, arguments), the arguments spoilt


def _affine(m, rng):
    return m.Affine(rng.normal(size=(4, 3)).astype("f4"), rng.normal(size=3).astype("f4"))


def _norm(m, rng):
    return m.BatchNorm(*rng.normal(size=(2, 4)).astype("f4"))


def _table(m, rng):
    return m.Embedding(rng.normal(size=(9, 3)).astype("f4"))


def _rows(rng, columns=4):
    return rng.normal(size=(6, columns)).astype("f4")


def _constructor(make, **arguments):
    return lambda m, rng: ((), lambda **a: make(m)(**a), dict(arguments))


def _passes(make, x, dout):
    """Return the doors forward and backward of a layer."""

    def forward(m, rng):
        layer = make(m, rng)
        return (layer,), layer.forward, {"x": x(rng)}

    def backward(m, rng):
        layer = make(m, rng)
        layer.forward(x(rng))
        return (layer,), layer.backward, {"dout": dout(rng)}

    return forward, backward


def _loss(kind):
    def forward(m, rng):
        loss = getattr(m, kind)()
        t = rng.integers(0, 4, 6) if kind == LOSSES[0] else rng.uniform(size=(6, 4))
        return (loss,), loss.forward, {"x": _rows(rng), "t": t, "sample_weight": rng.uniform(0, 2, 6)}

    def backward(m, rng):
        loss, call, arguments = forward(m, rng)
        call(**arguments)
        return loss, loss[0].backward, {"dout": 1.0}

    return forward, backward


def _dicts(rng):
    shapes = {"a": (4, 3), "b": (3,)}
    return [{name: rng.normal(size=shape).astype("f4") for name, shape in shapes.items()} for _ in range(2)]


def _update(kind):
    def update(m, rng):
        optimizer, (params, grads) = getattr(m, kind)(), _dicts(rng)
        optimizer.update(params, grads)
        return (optimizer, params), optimizer.update, {"params": params, "grads": grads}

    return update


def _update_entry(m, rng):
    optimizer, (params, grads) = m.Adam(), _dicts(rng)

    def call(param, grad):
        optimizer.update(params | {"a": param}, grads | {"a": grad})

    return (optimizer, params), call, {"param": params["a"], "grad": grads["a"]}


def _load_optimizer(m, rng):
    optimizer, (params, grads) = m.Adam(), _dicts(rng)
    optimizer.update(params, grads)
    state = optimizer.state_dict()

    def call(d, step, state):
        optimizer.load_state_dict({"optimizer": "Adam", "step": step, "state": state} if d is None else d)

    return (optimizer,), call, {"d": None, "step": 3, "state": state["state"]}


def _load_memory(m, rng):
    optimizer, _, arguments = _load_optimizer(m, rng)
    state = arguments["state"]

    def call(d, array):
        given = state | {"m": d} if array is None else state | {"m": state["m"] | {"a": array}}
        optimizer[0].load_state_dict({"optimizer": "Adam", "step": 3, "state": given})

    return optimizer, call, {"d": state["m"], "array": None}


class _State:
    """Pickled for what a refused call may not change in a network."""

    def __init__(self, net):
        self.net = net

    def __reduce__(self):
        return dict, (self.net.state_dict(),)


class _Counters:
    def __init__(self, trainer):
        self.trainer = trainer

    def __reduce__(self):
        return list, ([self.trainer.steps, self.trainer.epochs],)


def _net(m, rng, **options):
    options = {"batch_norm": True, "activation": "tanh"} | options
    return m.mlp([4, 5, 3], seed=int(rng.integers(99)), **options)


def _net_method(name, **arguments):
    def door(m, rng):
        net = _net(m, rng)
        y = net.forward(_rows(rng))
        given = {key: {"dout": y, "x": _rows(rng)}.get(key, value) for key, value in arguments.items()}
        return (_State(net),), getattr(net, name), given

    return door


def _load_net(m, rng):
    net = _net(m, rng)
    state = net.state_dict()

    def call(d, array):
        net.load_state_dict(state | {"0.W": array} if d is None else d)

    return (_State(net),), call, {"d": None, "array": state["0.W"]}


def _assign(m, rng):
    net = _net(m, rng)

    def call(params):
        net.params["0.W"] = params

    return (_State(net),), call, {"params": _rows(rng, 5)[:4]}


def _trainer(m, rng):
    return m.Trainer(_net(m, rng), m.SoftmaxCrossEntropy(), m.Momentum(), clip_norm=1.0, seed=3)


def _trainer_method(name, **arguments):
    def door(m, rng):
        trainer, x, t = _trainer(m, rng), _rows(rng), rng.integers(0, 3, 6)
        w = rng.uniform(size=6)
        trainer.step(x, t)
        given = {"x": x, "t": t, "sample_weight": w, **arguments}
        if name == "fit":
            given["validation"] = (x, t)
        return (_State(trainer.net), trainer.optimizer, _Counters(trainer)), getattr(trainer, name), given

    return door


def _make_trainer(m, rng):
    arguments = {
        "net": _net(m, rng),
        "loss": m.SoftmaxCrossEntropy(),
        "optimizer": m.SGD(),
        "clip_norm": 1.0,
        "seed": 0,
        "nonfinite": "raise",
    }
    return (), m.Trainer, arguments


def _product(m, rng):
    out = np.ones((6, 3), "f4")
    return (out,), m.matmul, {"a": _rows(rng), "b": _rows(rng, 3)[:4], "out": out}


def _file(m, rng):
    file = io.BytesIO()
    _trainer(m, rng).save(file)
    content = file.getvalue()

    def load(path):
        return m.Trainer.load(io.BytesIO(content) if path is None else path)

    return (), load, {"path": None}


DOORS = {
    "matmul": _product,
    "set_num_threads": lambda m, rng: ((), m.set_num_threads, {"n": m.get_num_threads()}),
    "threads": lambda m, rng: ((), m.threads, {"n": 2}),
    "Affine": lambda m, rng: ((), m.Affine, {"W": _rows(rng), "b": _rows(rng)[0]}),
    "Affine.create": _constructor(lambda m: m.Affine.create, n_in=3, n_out=2, init="he", seed=0, dtype="f4"),
    "BatchNorm": lambda m, rng: (
        (),
        m.BatchNorm,
        {
            "gamma": np.ones(4, "f4"),
            "beta": np.ones(4, "f4"),
            "momentum": 0.5,
            "running_mean": np.ones(4, "f4"),
            "running_var": np.ones(4, "f4"),
            "eps": 1e-3,
        },
    ),
    "BatchNorm.create": _constructor(lambda m: m.BatchNorm.create, n=3, momentum=0.5, eps=0.1, dtype="f8"),
    "Dropout": _constructor(lambda m: m.Dropout, ratio=0.5, inverted=False, seed=1),
    "Embedding": lambda m, rng: ((), m.Embedding, {"W": _rows(rng)}),
    "Embedding.create": _constructor(
        lambda m: m.Embedding.create, vocab=3, dim=2, init=0.1, seed=0, dtype="f4"
    ),
    "LeakyReLU": _constructor(lambda m: m.LeakyReLU, alpha=0.5),
    "Sequential": lambda m, rng: ((), m.Sequential, {"layers": [_affine(m, rng), m.ReLU()]}),
    "mlp": _constructor(
        lambda m: m.mlp,
        sizes=[3, 4, 2],
        activation="relu",
        batch_norm=True,
        dropout=0.5,
        init="he",
        seed=0,
        dtype="f4",
    ),
    "Trainer": _make_trainer,
    "Optimizer.update of an entry": _update_entry,
    "Optimizer.load_state_dict": _load_optimizer,
    "Optimizer.load_state_dict of a memory": _load_memory,
    "Sequential.forward": _net_method("forward", x=None),
    "Sequential.backward": _net_method("backward", dout=None),
    "Sequential.backward_params": _net_method("backward_params", dout=None),
    "Sequential.predict": _net_method("predict", x=None, batch_size=4, scale=0.5),
    "Sequential.load_state_dict": _load_net,
    "Sequential.params": _assign,
    "Trainer.step": _trainer_method("step"),
    "Trainer.evaluate": _trainer_method("evaluate", batch_size=4, scale=0.5),
    "Trainer.fit": _trainer_method(
        "fit",
        epochs=1,
        batch_size=4,
        shuffle=True,
        callbacks=(),
        progress=False,
        class_weight={0: 2.0},
        scale=0.5,
        weight_mean="batch",
    ),
    "Trainer.load": _file,
    "RowSparse": lambda m, rng: (
        (),
        m.RowSparse,
        {"rows": [0, 2], "values": np.ones((2, 3)), "shape": (4, 3)},
    ),
    "permutation": lambda m, rng: ((), m.data.permutation, {"n": 5, "seed": 1, "epoch": 2}),
    **{
        f"init.{name}": _constructor(
            lambda m, name=name: getattr(m.init, name), n_in=3, n_out=2, rng=0, dtype="f4"
        )
        for name in ("he", "xavier", "lecun")
    },
    "StepDecay": _constructor(lambda m: m.schedules.StepDecay, lr=0.1, factor=0.5, every=3),
    "ExponentialDecay": _constructor(lambda m: m.schedules.ExponentialDecay, lr=0.1, rate=0.5, steps=3),
    "InverseTimeDecay": _constructor(lambda m: m.schedules.InverseTimeDecay, lr=0.1, rate=0.5, steps=3),
    "CosineDecay": _constructor(lambda m: m.schedules.CosineDecay, lr=0.1, steps=3, final=0.01),
    "WarmUp": _constructor(lambda m: m.schedules.WarmUp, schedule=0.1, steps=3, delay=True),
    "EarlyStopping": _constructor(
        lambda m: m.callbacks.EarlyStopping,
        monitor="loss",
        patience=2,
        min_delta=0.1,
        mode="auto",
        restore_best=True,
    ),
    "ReduceOnPlateau": _constructor(
        lambda m: m.callbacks.ReduceOnPlateau, factor=0.5, patience=2, min_lr=0.1, min_delta=0.1
    ),
    "TimeLimit": _constructor(lambda m: m.callbacks.TimeLimit, seconds=1.0),
    "Checkpoint": _constructor(lambda m: m.callbacks.Checkpoint, path="a.npz", every=2, best_only=False),
}
for kind in KINDS:
    options = dict.fromkeys(getattr(ref, kind).options, 0.5)
    options |= {"nesterov": True, "ns_steps": 2, "matrices": None} if kind == "Muon" else {}
    DOORS[kind] = _constructor(lambda m, kind=kind: getattr(m, kind), lr=0.1, **options)
    DOORS[f"{kind}.update"] = _update(kind)
for kind in LOSSES:
    DOORS[f"{kind}.forward"], DOORS[f"{kind}.backward"] = _loss(kind)
for name, make, x, dout in [
    ("Affine", _affine, _rows, lambda rng: _rows(rng, 3)),
    ("BatchNorm", _norm, _rows, _rows),
    ("Dropout", lambda m, rng: m.Dropout(0.5, seed=1), _rows, _rows),
    ("Embedding", _table, lambda rng: rng.integers(0, 9, (2, 2)), lambda rng: np.ones((2, 2, 3), "f4")),
    *((kind, lambda m, rng, kind=kind: getattr(m, kind)(), _rows, _rows) for kind in ACTIVATIONS),
]:
    DOORS[f"{name}.forward"], DOORS[f"{name}.backward"] = _passes(make, x, dout)

# What is not tried: work without end, what is drawn anew each time, functions that fail in their own way.
UNTRIED = {
    **{(door, "epochs"): {repr(2**70)} for door in DOORS},
    **{(door, name): {"None"} for door in DOORS for name in ("seed", "rng")},
    **{(door, "init"): {repr(int), repr(np.float32), "function"} for door in DOORS},
}
CONVERTED = {("Optimizer.update of an entry", "grad")}  # natively, see fastnn.optimizers


def _comparable(result):
    """Return what is to agree of a result, as arrays by name."""
    if isinstance(result, (int, float, np.ndarray, np.generic)):
        return {"": np.asarray(result)}
    if isinstance(result, dict):
        return {name: np.asarray(value) for name, value in result.items()}
    if hasattr(result, "epoch_loss"):
        return {name: result[name] for name in ("loss", "val_loss", "val_accuracy")}
    if hasattr(result, "state_dict") and hasattr(result, "layers"):
        return result.state_dict()
    return getattr(result, "params", {})


def _assert_alike(native, oracle):
    native, oracle = _comparable(native), _comparable(oracle)
    assert native.keys() == oracle.keys()
    for name, expected in oracle.items():
        assert native[name].shape == expected.shape
        assert native[name].dtype == expected.dtype
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(native[name], expected, rtol=1e-3, atol=1e-3)
        else:
            np.testing.assert_array_equal(native[name], expected)


def _assert_told(error, arguments):
    """Fail unless an error names an argument, or is one that says something else."""
    if not isinstance(error, (OSError, FloatingPointError)) and "takes arrays" not in str(error):
        assert any(re.search(rf"\b{name}", str(error)) for name in arguments), f"no argument named: {error!r}"


@pytest.mark.parametrize("door", DOORS)
@attacked
@given(data=st.data())
def test_nonsense_is_refused_alike(door, data):
    seed = data.draw(SEEDS)
    names = DOORS[door](ref, np.random.default_rng(seed))[2]
    spoilt = data.draw(
        st.dictionaries(st.sampled_from(list(names)), st.sampled_from(list(JUNK)), min_size=1, max_size=2)
    )
    if any(text in UNTRIED.get((door, name), ()) for name, text in spoilt.items()):
        return
    threads = fastnn.get_num_threads()
    results = []
    for m in (fastnn, ref):
        objects, call, arguments = DOORS[door](m, np.random.default_rng(seed))
        before = snapshot(*objects)
        arguments |= {name: JUNK[text]() for name, text in spoilt.items()}
        result, error = outcome(lambda call=call, arguments=arguments: call(**arguments))
        if error is not None:
            assert snapshot(*objects) == before, "a refused call has changed something"
            _assert_told(error, arguments)
        results.append((result, error))
    fastnn.set_num_threads(threads)
    ref.set_num_threads(threads)
    (result, error), (expected, expected_error) = results
    if any((door, name) in CONVERTED for name in spoilt):
        return
    told = f"{error!r}, the reference: {expected_error!r}"
    assert (error is None) == (expected_error is None), told
    assert len(spoilt) > 1 or type(error) is type(expected_error), (
        told
    )  # of two faults either may be found first
    if error is None:
        _assert_alike(result, expected)


# Estimators, which there are natively only


def estimator(kind):
    made = getattr(fastnn.estimators, f"MLP{kind}")
    return made(hidden_layer_sizes=(3,), max_iter=2, batch_size=4, random_state=0, tol=0.0)


def rows_for(kind, rng):
    return rng.normal(size=(10, 2)), rng.normal(size=10) if kind == "Regressor" else np.arange(10) % 3


PARAMETERS = sorted(estimator("Classifier").get_params())
JUNK_ARRAYS = [text for text, make in JUNK.items() if isinstance(make(), np.ndarray)]
UNTRIED_PARAMETERS = {  # endless, loud, or refused in other words
    ("max_iter", repr(2**70)),
    ("hidden_layer_sizes", repr(2**70)),
    *(
        (name, text)
        for name in ("verbose", "early_stopping")
        for text in ("True", "1", "np.True_", "np.int64(3)")
    ),
    ("alpha", "1e+308"),
    ("epsilon", "1e+308"),
    *((name, "Fraction(1, 2)") for name in PARAMETERS),
    *((name, text) for name in ("solver", "loss", "learning_rate", "activation") for text in JUNK_ARRAYS),
}
KEPT_APART = ("_net", "_trainer")  # where passes may leave what they like


def shown(model):
    """Return all of an estimator that a refused call may not change."""
    return snapshot({name: value for name, value in vars(model).items() if name not in KEPT_APART})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["Classifier", "Regressor"])
@attacked
@given(data=st.data())
def test_an_estimator_that_refuses_is_as_it_was(kind, data):
    rng = np.random.default_rng(data.draw(SEEDS))
    X, y = rows_for(kind, rng)
    model = estimator(kind).fit(X, y)
    expected, before = model.predict(X), shown(model)
    text = data.draw(st.sampled_from(list(JUNK)))
    way = data.draw(st.sampled_from(["fit", "partial_fit", "predict", "parameter"]))
    if way == "parameter":
        name = data.draw(st.sampled_from([n for n in PARAMETERS if n in model.get_params()]))
        if (name, text) in UNTRIED_PARAMETERS:
            return
        changed = pickle.loads(pickle.dumps(model))
        result, error = outcome(lambda: changed.set_params(**{name: JUNK[text]()}).fit(X, y))
        assert error is None or name in str(error), f"{name} not named: {error!r}"
        if error is not None:
            assert_same_bits(changed.predict(X), expected)
        return
    arguments = {"X": X, "y": y, "sample_weight": None} if way != "predict" else {"X": X}
    arguments[data.draw(st.sampled_from(list(arguments)))] = JUNK[text]()
    result, error = outcome(lambda: getattr(model, way)(**arguments))
    if error is not None or way == "predict":
        assert shown(model) == before
        assert_same_bits(model.predict(X), expected)
    elif result is model:
        assert np.isfinite(model.coefs_[0]).all()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["Classifier", "Regressor"])
@attacked
@given(data=st.data())
def test_an_estimator_of_any_numbers(kind, data):
    n, features = data.draw(SOME.filter(lambda n: n > 2)), data.draw(SOME)
    X = data.draw(arrays((n, features)))
    _, y = rows_for(kind, np.random.default_rng(0))
    y = np.resize(y, n)
    models = [estimator(kind) for _ in range(2)]
    if data.draw(st.booleans()):
        models = [model.fit(X, y) for model in models]
    else:
        for model in models:
            for _ in range(2):
                model.partial_fit(X, y, **({"classes": np.unique(y)} if kind == "Classifier" else {}))
    assert_same_bits(models[0].predict(X), models[1].predict(np.array(X)))
    assert models[0].predict(X).shape == (n,)
    if kind == "Classifier":
        shares = models[0].predict_proba(X)
        np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
        assert_same_bits(models[0].predict(X), models[0].classes_[shares.argmax(axis=1)])


# What was found, by both tiers refused alike

BOTH = pytest.mark.parametrize("module", [fastnn, ref], ids=["native", "reference"])
ONES, RAGGED = np.ones((2, 2), np.float32), [[1, 2], [3]]
LABELS = "^t must"
FOUND = {
    "too many threads": (
        lambda m: m.set_num_threads(1025),
        ValueError,
        r"^n must be an integer in \[1, 1024\]",
    ),
    "rows of two lengths": (lambda m: m.matmul(RAGGED, ONES), TypeError, "^a must be an array"),
    "indices of two lengths": (lambda m: m.Embedding(ONES).forward(RAGGED), TypeError, "^x must be an array"),
    "out of another dtype": (lambda m: m.matmul(ONES, ONES, np.ones((2, 2))), TypeError, "^out must"),
    "out that is none": (lambda m: m.matmul(ONES, ONES, True), TypeError, "^out must"),
    "a size beyond all arrays": (lambda m: m.Affine.create(3, 2**70), ValueError, "^n_out must"),
    "sizes that are one": (lambda m: m.mlp(np.array(5)), ValueError, "^sizes must"),
    "sizes beyond all arrays": (lambda m: m.mlp([2**70, 2]), ValueError, r"^sizes\[0\] must"),
    "an activation that is none": (lambda m: m.mlp([3, 3], activation=int), TypeError, "^activation must"),
    "no labels": (lambda m: m.SoftmaxCrossEntropy().forward(ONES, None), TypeError, LABELS),
    "labels that are text": (lambda m: m.SoftmaxCrossEntropy().forward(ONES, ["a", "b"]), TypeError, LABELS),
    "labels of two lengths": (lambda m: m.SoftmaxCrossEntropy().forward(ONES, RAGGED), TypeError, LABELS),
    "a matrix for a number": (
        lambda m: m.SGD().update({"a": 1.0}, {"a": np.ones((1, 1))}),
        ValueError,
        r"^grads\['a'\] must",
    ),
    "a complex number for rows": (
        lambda m: m.mlp([3, 2], seed=0).predict(1j),
        TypeError,
        "^x must hold real numbers",
    ),
    "a complex number for a batch": (
        lambda m: m.mlp([3, 2], seed=0).forward(1j),
        TypeError,
        "^x must hold real numbers",
    ),
    "a number for rows": (lambda m: m.mlp([3, 2], seed=0).predict(1.5), ValueError, "^x must have shape"),
    "a bool of NumPy for a number": (
        lambda m: m.SGD().update({"a": np.True_}, {"a": 1.0}),
        TypeError,
        r"^params\['a'\] must",
    ),
}


@BOTH
@pytest.mark.parametrize(("call", "error", "text"), FOUND.values(), ids=FOUND)
def test_refused(module, call, error, text):
    with pytest.raises(error, match=text):
        call(module)


@pytest.mark.filterwarnings("ignore")
def test_parameters_of_an_estimator_that_are_numbers_all_the_same():
    X, y = rows_for("Classifier", np.random.default_rng(0))
    model = estimator("Classifier").set_params(hidden_layer_sizes=np.array(5), max_iter=True, beta_1=False)
    assert model.fit(X, y).coefs_[0].shape == (2, 5)


@BOTH
def test_big_endian_numbers_keep_their_precision(module):
    x = np.full((2, 2), 1 / 3, ">f8")
    assert_same_bits(module.ReLU().forward(x), x.astype(np.float64))
    assert module.MeanSquaredError().forward(x, np.zeros((2, 2))) == pytest.approx(1 / 9, rel=1e-15)


@BOTH
def test_no_indices_need_no_integers(module):
    assert module.Embedding(ONES).forward([]).shape == (0, 2)
