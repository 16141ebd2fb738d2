"""The rest of the public face, on any input: native code beside the reference, in float64, or beside itself.

`test_face` has layers, losses, optimizers, networks and trainers one by one; here is what is made of them.
FASTNN_EXAMPLES=1000 pytest tests/test_face_whole.py    # for long; without, a few examples of each
"""

import copy
import csv
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastnn
from face import SEEDS, alike, arrays, attacked, outcome
from fastnn import Group, callbacks, optimizers, schedules
from fastnn import reference as ref
from networks import NETS
from tolerances import assert_same_bits

MODULES = (fastnn, ref)
NAMES = sorted(NETS)
F8 = np.dtype(np.float64)
ROWS = st.integers(1, 40)
LOSSES = {  # how many targets a row of 5 outputs has (GaussianNLL and Quantile have their own), and which
    "Huber": lambda m: m.Huber(0.5),
    "MeanAbsoluteError": lambda m: m.MeanAbsoluteError(),
    "Poisson": lambda m: m.Poisson(),
    "Quantile": lambda m: m.Quantile([0.1, 0.3, 0.5, 0.7, 0.9]),
    "GaussianNLL": lambda m: m.GaussianNLL(),
    "label smoothing": lambda m: m.SoftmaxCrossEntropy(label_smoothing=0.1),
    "SoftmaxCrossEntropy": lambda m: m.SoftmaxCrossEntropy(),
    "SigmoidCrossEntropy": lambda m: m.SigmoidCrossEntropy(),
    "MeanSquaredError": lambda m: m.MeanSquaredError(),
    "function": lambda m: squares,
}
OUTPUTS = {"GaussianNLL": 6}


def squares(y, t, sample_weight=None):
    return float(((y - t) ** 2).mean()), 2 * (y - t) / y.size


def targets(rng, kind, n, outputs):
    if kind in ("label smoothing", "SoftmaxCrossEntropy"):
        return rng.integers(0, outputs, n)
    wide = {"Quantile": 1, "GaussianNLL": outputs // 2}.get(kind, outputs)
    t = rng.uniform(size=(n, wide))
    return t if wide > 1 or rng.random() < 0.5 else t[:, 0]


def rows_for(rng, name, n):
    return rng.integers(0, 30, (n, 3)) if "embedding" in name else rng.normal(size=(n, 12))


def net_of(m, name, seed=7):
    net = m.Sequential(NETS[name](m, F8))
    for i, layer in enumerate(net._every):
        if hasattr(layer, "seed"):
            layer.seed, layer.stream = seed, i
    return net


def both(act, limit=1e-7):
    """Do the same with both; they agree, or refuse it alike."""
    (native, error), (oracle, expected) = (outcome(lambda m=m: act(m)) for m in MODULES)
    assert type(error) is type(expected), f"{error!r}, the reference: {expected!r}"
    if error is None:
        alike(native, oracle, limit)
    return native


def state_of(trainer):
    memory = {f"{slot} {name}": a for slot, d in trainer.optimizer.state.items() for name, a in d.items()}
    average = {} if trainer.averaged is None else trainer.averaged.state_dict()
    return trainer.net.state_dict() | memory | {f"average {name}": a for name, a in average.items()}


# Parts


@pytest.mark.parametrize("kind", ["SELU", "Mish", "Softplus", "GELU", "LayerNorm", "RMSNorm"])
@attacked
@given(data=st.data())
def test_layer(kind, data):
    n, d = data.draw(ROWS), data.draw(st.integers(1, 40))
    x, dout = (
        data.draw(arrays((n, d), ["f8", ">f8", "f4", "i1", "u1"], ["none", "zeros"])).astype("f8")
        for _ in range(2)
    )
    gamma, beta = np.random.default_rng(data.draw(SEEDS)).normal(size=(2, d))
    options = {"eps": data.draw(st.sampled_from([1e-5, 0.1]))}

    def act(m):
        layer = {
            "GELU": lambda: m.GELU(approximate="tanh"),
            "LayerNorm": lambda: m.LayerNorm(gamma.copy(), beta.copy(), **options),
            "RMSNorm": lambda: m.RMSNorm(gamma.copy(), **options),
        }.get(kind, getattr(m, kind))()
        return {"y": layer.forward(x), "dx": layer.backward(dout), **getattr(layer, "grads", {})}

    both(act, 1e-6)


@pytest.mark.parametrize("kind", [kind for kind in LOSSES if kind != "function"])
@attacked
@given(data=st.data())
def test_loss(kind, data):
    rng, n = np.random.default_rng(data.draw(SEEDS)), data.draw(ROWS)
    outputs = OUTPUTS.get(kind, 5)
    y = data.draw(arrays((n, outputs), ["f8"], ["none", "zeros"]))
    t, w = targets(rng, kind, n, outputs), rng.uniform(0.1, 1, n) if data.draw(st.booleans()) else None
    dout = data.draw(st.sampled_from([1.0, -2.5, 0.0]))

    def act(m):
        loss = LOSSES[kind](m)
        figure = loss.forward(y, t, w)
        return {"loss": figure, "dx": loss.backward(dout), "y": loss.predictions(y)}

    both(act)


@pytest.mark.parametrize("name", NAMES)
@attacked
@given(data=st.data())
def test_network(name, data):
    rng, n = np.random.default_rng(data.draw(SEEDS)), data.draw(st.integers(0, 40))
    x, dout = rows_for(rng, name, n), rng.normal(size=(n, 5))
    train, batch_size = data.draw(st.booleans()), data.draw(st.sampled_from([None, 1, 7]))
    scale, tau = data.draw(st.sampled_from([1.0, 0.5])), data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    way = data.draw(st.sampled_from(["copy", "deepcopy", "pickle", "file"]))

    def act(m):
        net = net_of(m, name)
        y = net.forward(x, train)
        found = {"y": y, "gradient": net.input_gradient(dout), "dx": net.backward(dout), **net.grads}
        found["p"] = net.predict(x, batch_size, scale if "embedding" not in name else 1.0)
        out = np.empty((n, 5))
        assert net.predict(x, out=out) is out
        found["out"] = out
        if way == "file":
            file = io.BytesIO()
            net.save(file)
            file.seek(0)
            twin = m.Sequential.load(file)
        else:
            ways = {"copy": m.Sequential.copy, "deepcopy": copy.deepcopy}
            twin = ways.get(way, lambda net: pickle.loads(pickle.dumps(net)))(net)
        assert_same_bits(twin.state_dict(), net.state_dict())
        assert_same_bits(twin.predict(x), out)
        for array in twin.params.values():
            array[...] += 1
        net.blend(twin, tau)
        assert str(net.summary())
        return {key: None if a is None else np.asarray(a) for key, a in found.items()} | net.state_dict()

    both(act)


# Training


def options_of(data):
    """Draw how something is trained: (trainer's options, optimizer, its options, fit's options)."""
    patterns = ["*.b", "0.*", "vectors", "*.W"]
    group = st.builds(
        Group,
        st.sampled_from(patterns),
        st.sampled_from([0.5, 1.0]),
        st.sampled_from([0.0, 1.0]),
        st.booleans(),
    )
    decay = data.draw(st.sampled_from([0.0, 0.1, schedules.StepDecay(0.2, 0.5, 3)]))
    lr = data.draw(st.sampled_from([0.01, schedules.WarmUp(schedules.CosineDecay(0.02, 9), 2)]))
    return (
        {
            "clip_norm": data.draw(st.sampled_from([None, 0.5])),
            "seed": data.draw(st.integers(0, 2**64 - 1)),
            "average": data.draw(st.sampled_from([None, 0.9])),
        },
        data.draw(st.sampled_from(sorted(optimizers.CLASSES))),
        {"lr": lr, "weight_decay": decay, "groups": data.draw(st.lists(group, max_size=2))},
        {
            "epochs": data.draw(st.integers(0, 2)),
            "batch_size": data.draw(st.sampled_from([3, 8, 100])),
            "shuffle": data.draw(st.booleans()),
            "accumulate": data.draw(st.sampled_from([1, 1, 2, 3])),
        },
    )


def made(m, name, kind, drawn, ratio=None):
    of_trainer, optimizer, of_optimizer, _ = drawn
    net = net_of(m, name)
    if ratio is not None:
        dropout = m.Dropout(ratio)
        dropout.seed = 3
        net = m.Sequential([net[0], dropout, *net[1:]] if "embedding" not in name else [*net])
    if OUTPUTS.get(kind, 5) != 5:
        net = m.Sequential([*net, m.Affine.create(5, OUTPUTS[kind], seed=0, dtype=F8)])
    return m.Trainer(net, LOSSES[kind](m), getattr(m, optimizer)(**of_optimizer), **of_trainer)


SMOOTH = [  # no rounding decides which way a number goes, and none of a bias before a BatchNorm is blown up
    *("plain", "one layer", "dropout", "classic dropout", "embedding", "Tanh", "Sigmoid", "GELU", "SiLU"),
    *("Softplus", "Mish", "LayerNorm inside", "RMSNorm inside", "affine block inside"),
]


@pytest.mark.parametrize("kind", LOSSES)
@attacked
@given(data=st.data())
def test_training(kind, data, tmp_path_factory):
    name, drawn = data.draw(st.sampled_from(SMOOTH)), options_of(data)
    rng, n = np.random.default_rng(data.draw(SEEDS)), data.draw(st.integers(3, 40))
    x, t = rows_for(rng, name, n), targets(rng, kind, n, OUTPUTS.get(kind, 5))
    if kind == "function":
        t = rng.uniform(size=(n, 5))
    ratio = data.draw(st.sampled_from([None, 0.2, schedules.WarmUp(0.4, 5)]))
    batches = data.draw(st.booleans())
    measured = {"metrics": ["mae"]} if kind in ("Huber", "MeanAbsoluteError") else {}

    def act(m):
        trainer = made(m, name, kind, drawn, ratio)
        log = tmp_path_factory.mktemp("log") / "log.csv"
        own = [callbacks.CSVLogger(log), callbacks.EarlyStopping("loss", 3), callbacks.TimeLimit(100.0)]
        options = {"validation": (x, t), "callbacks": own, "progress": False, **measured}
        if batches:
            parts = [(x[i : i + 3], t[i : i + 3]) for i in range(0, n - n % 3, 3)]
            history = trainer.fit_batches(parts, epochs=drawn[3]["epochs"], **options)
        else:
            history = trainer.fit(x, t, **drawn[3], **options)
        with log.open(newline="") as file:
            assert len(list(csv.DictReader(file))) == history.epochs
        figures = trainer.evaluate(x, t)
        found = {"loss": history.loss, "val": history.val_loss, "figure": figures["loss"]}
        found["y"] = trainer.predict(x)
        if kind != "function":
            found["p"] = trainer.predict_proba(x)
        again = None
        if kind != "function":
            file = io.BytesIO()
            trainer.save(file)
            file.seek(0)
            again = m.Trainer.load(file)
            assert_same_bits(again.predict(x), found["y"])
        calm = np.abs(found["loss"]).max(initial=0) < 1e4  # or it explodes, and roundings with it
        return found | state_of(trainer) if calm else {}

    squares_blow_up = getattr(ref, drawn[1]).squares or drawn[1] == "Muon"
    both(act, 1e-4 if squares_blow_up else 1e-6)


@attacked
@given(data=st.data())
def test_population(data):
    names = data.draw(st.lists(st.sampled_from(SMOOTH[:4]), min_size=1, max_size=3))
    drawn = [options_of(data) for _ in names]
    of_fit = drawn[0][3]
    rng, n = np.random.default_rng(data.draw(SEEDS)), data.draw(st.integers(3, 30))
    x, t = rng.normal(size=(n, 12)), rng.integers(0, 5, n)
    rows = None
    if data.draw(st.booleans()):
        rows = [rng.integers(0, n, data.draw(st.integers(2, n))) for _ in names]

    def members(m):
        return [made(m, name, "SoftmaxCrossEntropy", one) for name, one in zip(names, drawn, strict=True)]

    alone, together = members(fastnn), fastnn.Population(members(fastnn))
    histories = together.fit(x, t, **of_fit, rows=rows)
    losses = together.step(x, t)
    for i, trainer in enumerate(alone):
        own = (x, t) if rows is None else (x[rows[i]], t[rows[i]])
        if rows is None:
            history = trainer.fit(*own, **of_fit)
            assert trainer.step(x, t) == losses[i]
            assert_same_bits(histories[i].loss, history.loss)
            assert_same_bits(state_of(together[i]), state_of(trainer))
            assert_same_bits(together.predict(x)[i], trainer.predict(x))

    def act(m):
        population = m.Population(members(m))
        done = population.fit(x, t, **of_fit, rows=rows)
        return {
            "loss": np.concatenate([h.loss for h in done]),
            "mean": population.mean(x),
            "spread": population.spread(x),
        }

    both(act, 1e-4)


@attacked
@given(data=st.data())
def test_joint(data):
    name, other = (data.draw(st.sampled_from(SMOOTH[:4])) for _ in range(2))
    _, optimizer, of_optimizer, _ = options_of(data)
    rng, clip = np.random.default_rng(data.draw(SEEDS)), data.draw(st.sampled_from([None, 0.1]))
    x, dout, free = rng.normal(size=(9, 12)), rng.normal(size=(9, 5)), rng.normal(size=3)

    def act(m):
        parts = {"a": net_of(m, name), "b": net_of(m, other), "free": free.copy()}
        joint = m.Joint(parts)
        made = getattr(m, optimizer)(**{**of_optimizer, "groups": ()})
        for _ in range(2):
            for part in ("a", "b"):
                parts[part].forward(x)
                parts[part].backward_params(dout)
            joint.grads["free"] = 0.1 * parts["free"]
            joint.update(made, clip)
        state = joint.state_dict()
        joint.load_state_dict(state)
        assert_same_bits(joint.state_dict(), state)
        return state

    both(act, 1e-4)


@attacked
@given(data=st.data())
def test_data_parallel_in_one_process(data):
    from fastnn.distributed import DataParallel

    name, drawn = data.draw(st.sampled_from(SMOOTH[:4])), options_of(data)
    drawn[0]["average"] = None
    rng, n = np.random.default_rng(data.draw(SEEDS)), data.draw(st.integers(8, 40))
    x, t = rng.normal(size=(n, 12)), rng.integers(0, 5, n)
    pieces, results = data.draw(st.sampled_from([1, 2, 8])), []
    for _ in range(2):
        parallel = DataParallel(made(fastnn, name, "SoftmaxCrossEntropy", drawn), pieces=pieces)
        loss = parallel.step(x, t)
        parallel.fit(x, t, epochs=1, batch_size=8)
        results.append((loss, parallel.trainer.net.state_dict(), parallel.predict(x)))
    assert_same_bits(results[0][2], results[1][2])
    assert_same_bits(results[0][1], results[1][1])
    whole = made(fastnn, name, "SoftmaxCrossEntropy", drawn)
    if "dropout" not in name:  # whose masks are of the pieces
        assert results[0][0] == pytest.approx(whole.step(x, t), rel=1e-9)


# What carries, and what counts


@pytest.mark.filterwarnings("ignore:onnxruntime has no error function")
@pytest.mark.parametrize("name", [name for name in NAMES if "embedding" not in name])
@attacked
@given(seed=SEEDS)
def test_there_and_back_by_onnx(name, seed):
    pytest.importorskip("onnx")
    net = net_of(fastnn, name)
    rng, file = np.random.default_rng(seed), io.BytesIO()
    for array in net.state_dict().values():
        assert array.dtype == F8
    for name_, array in net.params.items():
        array[...] = (
            rng.uniform(0.5, 1.5, array.shape) if name_.endswith("gamma") else rng.normal(size=array.shape)
        )
    fastnn.interchange.to_onnx(net, file)
    file.seek(0)
    again = fastnn.interchange.from_onnx(file)
    x = rng.normal(size=(7, 12))
    alike(again.predict(x), net.predict(x), 1e-9)


def slowly(name, t, y, w):
    """Return a metric as its definition says."""
    if name == "accuracy":
        return float((w * (t == y.argmax(axis=1))).sum() / w.sum())
    if name in ("mse", "rmse"):
        mean = float((w[:, None] * (t - y) ** 2).sum() / w.sum() / y.shape[1])
        return mean if name == "mse" else mean**0.5
    return float((w[:, None] * abs(t - y)).sum() / w.sum() / y.shape[1])


@pytest.mark.parametrize("name", ["accuracy", "mse", "mae"])
@attacked
@given(data=st.data())
def test_metric(name, data):
    rng, n, d = np.random.default_rng(data.draw(SEEDS)), data.draw(ROWS), data.draw(st.integers(2, 5))
    y = rng.normal(size=(n, d))
    t = rng.integers(0, d, n) if name == "accuracy" else rng.normal(size=(n, d))
    w = rng.uniform(0.1, 1, n) if data.draw(st.booleans()) else None
    found = getattr(fastnn.metrics, name)(t, y, sample_weight=w)
    assert found == pytest.approx(slowly(name, t, y, np.ones(n) if w is None else w), rel=1e-9, abs=1e-12)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["Classifier", "Regressor"])
@attacked
@given(data=st.data())
def test_sparse_rows(kind, data):
    ss = pytest.importorskip("scipy.sparse")
    pytest.importorskip("sklearn")
    rng, n, d = (
        np.random.default_rng(data.draw(SEEDS)),
        data.draw(st.integers(4, 30)),
        data.draw(st.integers(1, 20)),
    )
    X = ss.random(
        n, d, data.draw(st.sampled_from([0.0, 0.2, 1.0])), format="csr", random_state=int(rng.integers(99))
    )
    X = X.asformat(data.draw(st.sampled_from(["csr", "csc"])))
    y = np.arange(n) % 3 if kind == "Classifier" else rng.normal(size=n)
    options = {"hidden_layer_sizes": (4,), "max_iter": 2, "batch_size": 3, "random_state": 0, "tol": 0.0}
    model = getattr(fastnn.estimators, f"MLP{kind}")
    few, whole = model(**options).fit(X, y), model(**options).fit(X.toarray(), y)
    for a, b in zip(few.coefs_, whole.coefs_, strict=True):
        alike(a, b, 1e-6)
    alike(few.predict(X), few.predict(X.toarray()), 1e-9)


# Whether this is the whole


UNTRIED = {  # these are tried by tests of their own, or are no computation
    *("History", "__version__", "get_include", "reference", "search", "show_config", "get_num_threads"),
}


def test_every_public_name_is_tried():
    texts = [
        Path(path).read_text()
        for path in (__file__, *(Path(__file__).with_name(name) for name in ("test_face.py", "networks.py")))
    ]
    lists = [*optimizers.CLASSES, *LOSSES]
    for name in set(fastnn.__all__) - UNTRIED:
        assert name in lists or any(name in text for text in texts), f"{name} is tried by no property"


def test_a_wrong_result_is_found(monkeypatch):
    """With a reference that is off by little the properties fail."""

    class Off(ref.Mish):
        def forward(self, x, train=True):
            return super().forward(x, train) * (1 + 1e-4)

    monkeypatch.setattr(ref, "Mish", Off)
    with pytest.raises(AssertionError):
        test_layer("Mish")
