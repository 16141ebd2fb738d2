"""Native training: the reference's trajectory, the same bits everywhere, and nothing half done."""

import copy
import pickle
import tracemalloc

import numpy as np
import pytest

import fastnn
from fastnn import RowSparse, checkpoint, optimizers, schedules
from fastnn import reference as ref
from native import on_each_fusing_isa
from tolerances import assert_same_bits

BOTH = pytest.mark.parametrize("module", [fastnn, ref], ids=["native", "reference"])
KINDS = list(optimizers.CLASSES)
ROWS = 100
BATCH = 32  # does not divide the rows
LR = {
    "SGD": 0.1,
    "Momentum": 0.02,
    "Nesterov": 0.02,
    "AdaGrad": 0.05,
    "RMSProp": 0.002,
    "Adam": 0.005,
    "AdamW": 0.005,
    "Muon": 0.02,
}


def data_set(loss="SoftmaxCrossEntropy", dtype=np.float64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 12))
    direction = rng.normal(size=(12, 5))
    t = {
        "SoftmaxCrossEntropy": (x @ direction).argmax(axis=1),
        "SigmoidCrossEntropy": (x @ direction > 0) * 1.0,
        "MeanSquaredError": np.tanh(x @ direction),
    }[loss]
    return x.astype(dtype), t


def build(
    module=fastnn, kind="Adam", loss="SoftmaxCrossEntropy", dtype=np.float64, everything=True, **options
):
    extras = {"batch_norm": True, "dropout": 0.2} if everything else {}
    extras |= {name: options.pop(name) for name in ("activation",) if name in options}
    net = module.mlp([12, 24, 16, 5], seed=1, dtype=dtype, **extras)
    lr = schedules.WarmUp(schedules.CosineDecay(LR[kind], 150, LR[kind] / 10), 10) if everything else LR[kind]
    optimizer = getattr(module, kind)(lr, **options)
    return module.Trainer(
        net, getattr(module, loss)(), optimizer, 0.5 if everything else None, seed=2**40 + 1
    )


def state(trainer):
    """Return all that a step may change."""
    return {
        **trainer.net.state_dict(),
        **{
            f"{slot}.{name}": m
            for slot, memory in trainer.optimizer.state.items()
            for name, m in memory.items()
        },
        "counters": np.array([trainer.steps, trainer.epochs, trainer.optimizer.step]),
        "dropouts": np.array(
            [
                [layer.seed, layer.stream, layer.step]
                for layer in trainer.net.layers
                if hasattr(layer, "seed")
            ],
            np.uint64,
        ),
    }


def assert_same_trajectory(native, oracle, history, expected):
    """The same but for rounding, which is all of the gradient of a bias before a BatchNorm."""
    np.testing.assert_allclose(history.loss, expected.loss, rtol=1e-9)
    actual, layers = native.net.state_dict(), oracle.net.layers
    norms = [i for i, layer in enumerate(layers) if isinstance(layer, ref.BatchNorm)]
    idle = {f"{i - 1}.b" for i in norms} | {f"{i}.running_mean" for i in norms}
    for name, array in oracle.net.state_dict().items():
        limit = 1e-7 if name in idle else 1e-9 * abs(array).max()
        np.testing.assert_allclose(actual[name], array, rtol=0, atol=limit, err_msg=name)
    assert (native.steps, native.epochs) == (oracle.steps, oracle.epochs)


# The reference's trajectory


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("everything", [False, True], ids=["plain", "norm, dropout, clipping, schedule"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_trajectory(isa, kind, everything, weight_decay):
    native, oracle = (build(m, kind, everything=everything, weight_decay=weight_decay) for m in (fastnn, ref))
    x, t = data_set()
    history, expected = (trainer.fit(x, t, epochs=50, batch_size=BATCH) for trainer in (native, oracle))
    assert native.steps == 200
    assert_same_trajectory(native, oracle, history, expected)
    assert history.loss[-20:].mean() < 0.75 * history.loss[:5].mean()


@pytest.mark.parametrize("loss", ["SoftmaxCrossEntropy", "SigmoidCrossEntropy", "MeanSquaredError"])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu"])
def test_trajectory_of_every_loss_and_activation(loss, activation):
    x, t = data_set(loss)
    weights = np.random.default_rng(1).uniform(0, 2, ROWS)
    native, oracle = (build(m, "Momentum", loss, activation=activation) for m in (fastnn, ref))
    options = {"epochs": 25, "batch_size": BATCH, "validation": (x, t), "sample_weight": weights}
    history, expected = (trainer.fit(x, t, **options) for trainer in (native, oracle))
    assert_same_trajectory(native, oracle, history, expected)
    np.testing.assert_allclose(history.val_loss, expected.val_loss, rtol=1e-9)
    np.testing.assert_array_equal(history.val_accuracy, expected.val_accuracy)
    assert native.evaluate(x, t, weights, 7) == pytest.approx(oracle.evaluate(x, t, weights), rel=1e-9)


def test_single_precision_follows_double_for_a_while(isa):
    x, t = data_set()
    single, double = build(dtype=np.float32), build(ref)
    history, expected = (trainer.fit(x, t, epochs=2, batch_size=BATCH) for trainer in (single, double))
    np.testing.assert_allclose(history.loss, expected.loss, rtol=1e-4)
    assert single.net.params["0.W"].dtype == np.float32


@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_an_embedding_in_training(team, clip_norm):
    rng = np.random.default_rng(0)
    x, t = rng.integers(0, 30, (ROWS, 4)), rng.integers(0, 3, ROWS)

    def made(module):
        net = module.Sequential(
            [
                module.Embedding.create(30, 5, rng=1, init=0.5, dtype=np.float64),
                module.Affine.create(20, 3, rng=2, dtype=np.float64),
            ]
        )
        return module.Trainer(net, module.SoftmaxCrossEntropy(), module.Adam(0.01), clip_norm)

    native, oracle = made(fastnn), made(ref)
    history, expected = (trainer.fit(x, t, epochs=12, batch_size=8) for trainer in (native, oracle))
    assert_same_trajectory(native, oracle, history, expected)
    assert isinstance(native.net.grads["0.W"], RowSparse)


def test_clipping(isa, team, dtype):
    """The norm of all gradients together becomes the limit where it was above."""
    x, t = data_set(dtype=dtype)

    def gradients(clip_norm):
        net = fastnn.mlp([12, 300, 5], seed=1, dtype=dtype)
        trainer = fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), fastnn.SGD(0.0), clip_norm)
        trainer.step(x, t)
        return net.grads

    def norm(grads):
        return np.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in grads.values()))

    free = gradients(None)
    assert_same_bits(gradients(norm(free) * 1.001), free)
    limit = norm(free) / 3
    clipped = gradients(limit)
    assert norm(clipped) == pytest.approx(limit, rel=1e-6)
    for name, g in free.items():
        np.testing.assert_allclose(clipped[name], g / 3, rtol=1e-6, atol=1e-12)


def test_huge_gradients_of_single_precision_are_clipped():
    """The squares overflow float32; the norm does not."""
    layer = fastnn.Affine(np.zeros((2, 2), np.float32), np.zeros(2, np.float32))
    trainer = fastnn.Trainer(fastnn.Sequential([layer]), fastnn.MeanSquaredError(), fastnn.SGD(1.0), 1.0)
    trainer.step(np.full((1, 2), 1e15, np.float32), np.full((1, 2), 1e15, np.float32))
    np.testing.assert_allclose(np.square(layer.dW).sum() + np.square(layer.db).sum(), 1, rtol=1e-5)


# The same bits


@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_on_every_team(team, dtype, kind):
    x, t = data_set()

    def trained():
        trainer = build(kind=kind, dtype=dtype)
        losses = trainer.fit(x, t, epochs=3, batch_size=BATCH).loss
        return state(trainer) | {"loss": losses} | trainer.evaluate(x, t)

    with fastnn.threads(1):
        alone = trained()
    assert_same_bits(trained(), alone)


@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_on_every_isa_that_fuses(dtype, kind):
    x, t = data_set()

    def trained():
        trainer = build(kind=kind, dtype=dtype)
        losses = trainer.fit(x, t, epochs=20, batch_size=BATCH).loss
        return state(trainer) | {"loss": losses}

    first, *others = on_each_fusing_isa(trained)
    for other in others:
        assert_same_bits(other, first)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_trainer_resumes_to_the_same_bits(tmp_path, dtype, kind, suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    x, t = data_set()
    straight, first = build(kind=kind, dtype=dtype), build(kind=kind, dtype=dtype)
    losses = straight.fit(x, t, epochs=5, batch_size=BATCH).loss
    first.fit(x, t, epochs=3, batch_size=BATCH)
    first.save(tmp_path / f"run{suffix}")
    second = fastnn.Trainer.load(tmp_path / f"run{suffix}")
    assert type(second.net) is fastnn.Sequential
    assert type(second.optimizer) is optimizers.CLASSES[kind]
    rest = second.fit(x, t, epochs=2, batch_size=BATCH).loss
    assert_same_bits(rest, losses[-len(rest) :])
    assert_same_bits(state(second), state(straight))


@pytest.mark.parametrize("how", [copy.deepcopy, lambda trainer: pickle.loads(pickle.dumps(trainer))])
def test_a_copied_trainer_goes_on_to_the_same_bits(how):
    x, t = data_set()
    trainer = build()
    trainer.fit(x, t, epochs=1, batch_size=BATCH)
    twin = how(trainer)
    for each in (trainer, twin):
        each.fit(x, t, epochs=2, batch_size=BATCH)
    assert_same_bits(state(twin), state(trainer))


def test_fit_is_its_steps(dtype):
    x, t = data_set()
    weights = np.arange(ROWS) % 3
    trainer, steps = build(dtype=dtype), build(dtype=dtype)
    losses = trainer.fit(x, t, epochs=2, batch_size=BATCH, sample_weight=weights).loss
    expected = []
    for epoch in range(2):
        order = fastnn.data.permutation(ROWS, steps.seed, epoch)
        for start in range(0, ROWS, BATCH):
            rows = order[start : start + BATCH]
            expected.append(steps.step(x[rows], t[rows], weights[rows]))
        steps.epochs += 1
    assert_same_bits(losses, np.array(expected))
    assert_same_bits(state(trainer), state(steps))


def test_fit_without_shuffling_goes_in_order():
    x, t = data_set()
    trainer, steps = build(), build()
    trainer.fit(x, t, epochs=1, batch_size=BATCH, shuffle=False)
    for start in range(0, ROWS, BATCH):
        steps.step(x[start : start + BATCH], t[start : start + BATCH])
    steps.epochs = 1
    assert_same_bits(state(trainer), state(steps))


@pytest.mark.parametrize("given", ["u1", "f4", "f8", "memmap", "fortran", "list"])
def test_data_of_any_form(tmp_path, given):
    x = np.random.default_rng(0).integers(0, 256, (ROWS, 12))
    t = data_set()[1]
    if given == "memmap":
        dressed = np.memmap(tmp_path / "x", np.uint8, "w+", shape=x.shape)
        dressed[...] = x
    elif given == "list":
        dressed, t = x.tolist(), t.tolist()
    else:
        dressed = np.asfortranarray(x.astype("f4")) if given == "fortran" else x.astype(given)
    trainer, plain = build(dtype=np.float32), build(dtype=np.float32)
    trainer.fit(dressed, t, epochs=2, batch_size=BATCH)
    plain.fit(x.astype(np.float32), t, epochs=2, batch_size=BATCH)
    assert_same_bits(state(trainer), state(plain))


def test_training_takes_the_memory_of_a_batch():
    x = np.broadcast_to(np.arange(100, dtype=np.uint8), (300_000, 100))
    t = np.broadcast_to(np.int64(0), 300_000)
    net = fastnn.mlp([100, 8, 2], seed=0)
    trainer = fastnn.Trainer(net, fastnn.SoftmaxCrossEntropy(), fastnn.SGD(1e-6))
    tracemalloc.start()
    trainer.fit(x, t, epochs=1, batch_size=2000, shuffle=False, validation=(x, t))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6_000_000  # of 30 MB in uint8, 120 MB in float32


# Weights of classes


def uneven(loss="SoftmaxCrossEntropy"):
    """Return data and labels of classes of which one is rare and, of three or more, one does not occur."""
    x, _ = data_set()
    rank = np.argsort(np.argsort(x[:, 0]))
    return x, (rank > 79) * 1 if loss == "SigmoidCrossEntropy" else np.array([0, 1, 1, 3, 4])[rank // 20]


def by_data(weights):
    """Return the options of fit by which weights count as those of classes do."""
    return {"sample_weight": weights, "weight_mean": "data"}


def weighted(module, loss, x, t, outputs, **options):
    net = module.mlp([12, 8, outputs], seed=0, dtype=np.float64)
    trainer = module.Trainer(net, getattr(module, loss)(), module.Adam(0.01))
    return trainer.fit(x, t, epochs=2, batch_size=BATCH, **options).loss


@BOTH
@pytest.mark.parametrize("form", ["labels", "one-hot", "one-hot bytes"])
@pytest.mark.parametrize("sample_weight", [None, np.linspace(0.1, 2, ROWS)], ids=["alone", "and of samples"])
@pytest.mark.parametrize(
    ("class_weight", "each"),
    [
        ({1: 3.0, 4: 0.5}, [1, 3, 1, 1, 0.5]),
        ({np.int64(0): np.float32(2), 2: 0}, [2, 1, 0, 1, 1]),
        ({}, [1, 1, 1, 1, 1]),
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]),
        (np.array([0, 1, 0, 0.5, 0], np.float32), [0, 1, 0, 0.5, 0]),
        ("balanced", [100 / (4 * 20), 100 / (4 * 40), 0, 100 / (4 * 20), 100 / (4 * 20)]),
    ],
    ids=["dict", "dict of NumPy numbers", "empty dict", "list", "array", "balanced"],
)
def test_class_weights_are_weights_of_samples(module, form, class_weight, each, sample_weight):
    x, labels = uneven()
    t = {
        "labels": labels.astype(np.uint64),
        "one-hot": np.eye(5)[labels],
        "one-hot bytes": np.eye(5, dtype=np.uint8)[labels],
    }[form]
    losses = weighted(
        module, "SoftmaxCrossEntropy", x, t, 5, class_weight=class_weight, sample_weight=sample_weight
    )
    weights = np.array(each)[labels] * (1 if sample_weight is None else sample_weight)
    assert_same_bits(losses, weighted(module, "SoftmaxCrossEntropy", x, t, 5, **by_data(weights)))


@BOTH
@pytest.mark.parametrize("form", ["labels", "bool", "column"])
@pytest.mark.parametrize(
    ("class_weight", "each"),
    [({1: 4}, [1, 4]), ([0.5, 2], [0.5, 2]), ("balanced", [100 / (2 * 80), 100 / (2 * 20)])],
    ids=["dict", "list", "balanced"],
)
def test_class_weights_of_one_output(module, form, class_weight, each):
    x, labels = uneven("SigmoidCrossEntropy")
    t = {"labels": labels, "bool": labels == 1, "column": labels[:, None] * 1.0}[form]
    losses = weighted(module, "SigmoidCrossEntropy", x, t, 1, class_weight=class_weight)
    weights = np.array(each)[labels]
    assert_same_bits(losses, weighted(module, "SigmoidCrossEntropy", x, t, 1, **by_data(weights)))


@BOTH
def test_balanced_weights_are_scikit_learns(module, monkeypatch):
    sklearn = pytest.importorskip("sklearn.utils.class_weight")
    monkeypatch.setattr(ref.trainer, "LABEL_ROWS", 7)  # more than one piece
    x, labels = uneven()
    weights = sklearn.compute_sample_weight("balanced", labels)
    losses = weighted(module, "SoftmaxCrossEntropy", x, np.eye(5)[labels], 5, class_weight="balanced")
    assert_same_bits(losses, weighted(module, "SoftmaxCrossEntropy", x, labels, 5, **by_data(weights)))


@BOTH
def test_the_validation_takes_no_class_weights(module):
    x, t = uneven()
    trainer = build(module)
    history = trainer.fit(x, t, epochs=1, validation=(x, t), class_weight={0: 100})
    assert history.val_loss == [trainer.evaluate(x, t)["loss"]]


SOFT = np.full((ROWS, 5), 0.2)
HALF_HOT = np.eye(5)[np.arange(ROWS) % 5]
HALF_HOT[-1] = 1


@BOTH
@pytest.mark.parametrize(
    ("loss", "outputs", "t", "message"),
    [
        ("MeanSquaredError", 1, np.zeros(ROWS), "^class_weight must be None for a loss that is not one of c"),
        ("SoftmaxCrossEntropy", 5, SOFT, "^class_weight: t must hold labels or one-hot rows"),
        ("SoftmaxCrossEntropy", 5, HALF_HOT, "^class_weight: t must hold labels or one-hot rows"),
        ("SigmoidCrossEntropy", 5, SOFT, r"^class_weight: t must be the targets of one output, got shape \("),
        ("SigmoidCrossEntropy", 1, SOFT[:, 0], "^class_weight: t must hold 0 or 1, got other probabilities"),
    ],
)
def test_class_weights_need_classes(module, loss, outputs, t, message):
    with pytest.raises(ValueError, match=message):
        weighted(module, loss, data_set()[0], t, outputs, class_weight="balanced")


# A factor for the input


def pixels():
    return np.random.default_rng(0).integers(0, 256, (ROWS, 12)).astype(np.uint8), data_set()[1]


@BOTH
@pytest.mark.parametrize("given", ["u1", "i8", "f8", "memmap"])
def test_a_scale_is_that_of_the_converted_batch(module, dtype, given, tmp_path):
    x, t = pixels()
    by_hand = x.astype(dtype) * dtype.type(1 / 255)
    if given == "memmap":
        x.tofile(tmp_path / "x")
        x = np.memmap(tmp_path / "x", np.uint8, "r", shape=x.shape)
    else:
        x = x.astype(given)
    options = {"epochs": 2, "batch_size": BATCH}
    trainer, plain = build(module, dtype=dtype), build(module, dtype=dtype)
    history = trainer.fit(x, t, validation=(x[:20], t[:20]), scale=1 / 255, **options)
    expected = plain.fit(by_hand, t, validation=(by_hand[:20], t[:20]), **options)
    assert_same_bits(state(trainer), state(plain))
    assert_same_bits(dict(history), dict(expected))
    assert_same_bits(trainer.evaluate(x, t, batch_size=7, scale=1 / 255), plain.evaluate(by_hand, t, None, 7))
    for batch_size in (None, 7):
        y = trainer.net.predict(x, batch_size, scale=1 / 255)
        assert_same_bits(y, plain.net.predict(by_hand, batch_size))


@BOTH
def test_a_network_without_parameters_is_scaled_in_its_datas_dtype(module):
    net = module.Sequential([module.ReLU()])
    y = net.predict(np.array([[3.0, -1.0]]), scale=0.1)
    assert_same_bits(y, np.array([[3.0 * 0.1, 0.0]]))
    assert_same_bits(net.predict(np.array([[3]]), scale=0.1), np.array([[np.float32(3) * np.float32(0.1)]]))


@BOTH
def test_scaled_training_takes_the_memory_of_a_batch(module):
    x = np.broadcast_to(np.arange(100, dtype=np.uint8), (100_000, 100))
    t = np.broadcast_to(np.int64(0), 100_000)
    trainer = module.Trainer(module.mlp([100, 8, 2], seed=0), module.SoftmaxCrossEntropy(), module.SGD(1e-6))
    tracemalloc.start()
    trainer.fit(x, t, epochs=1, batch_size=2000, shuffle=False, validation=(x, t), scale=1 / 255)
    trainer.net.predict(x, scale=1 / 255)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000  # of 10 MB in uint8, 40 MB in float32


@BOTH
def test_indices_are_not_scaled(module):
    net = module.Sequential([module.Embedding.create(9, 3, rng=0), module.Affine.create(6, 2, rng=0)])
    trainer = module.Trainer(net, module.SoftmaxCrossEntropy(), module.SGD())
    x, t = np.array([[1, 2], [3, 8]]), np.array([0, 1])
    trainer.fit(x, t, epochs=1, scale=1)
    calls = (
        lambda: trainer.fit(x, t, scale=0.5),
        lambda: trainer.evaluate(x, t, scale=0.5),
        lambda: net.predict(x, scale=0.5),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"^scale must be 1 for a network that takes indices, got 0\.5"):
            call()
    assert trainer.steps == 1


# Layers of the user's own, and what goes wrong


class Own:
    """A layer with a parameter, which fails when it is told to."""

    def __init__(self, n, dtype=np.float64):
        self.params, self.grads = {"s": np.ones(n, dtype)}, {}
        self.fail_in, self.fail_at, self.error = "", 0, ValueError
        self.calls = 0

    def _maybe(self, where):
        if where == self.fail_in:
            self.calls += 1
            if self.calls == self.fail_at:
                raise self.error("on purpose")

    def forward(self, x, train=True):
        self._maybe("forward")
        self._x = x
        return x * self.params["s"]

    def backward(self, dout):
        self._maybe("backward")
        self.grads["s"] = (dout * self._x).sum(axis=0)
        return dout * self.params["s"]


def build_own(module=fastnn, own=None):
    net = module.mlp([12, 24, 5], seed=1, dtype=np.float64, batch_norm=True, dropout=0.2)
    net = module.Sequential([*net.layers[:2], own or Own(24), *net.layers[2:]])
    return module.Trainer(net, module.SoftmaxCrossEntropy(), module.Adam(0.01), 1.0, seed=4)


def test_a_layer_of_the_users_own_in_between(team):
    native, oracle = build_own(fastnn), build_own(ref)
    x, t = data_set()
    history, expected = (trainer.fit(x, t, epochs=30, batch_size=BATCH) for trainer in (native, oracle))
    assert_same_trajectory(native, oracle, history, expected)
    assert (native.net.params["2.s"] != 1).any()


@pytest.mark.parametrize("error", [ValueError, RuntimeError, MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_step_that_fails_changes_nothing(where, error):
    own = Own(24)
    trainer, untouched = build_own(own=own), build_own()
    x, t = data_set()
    for each in (trainer, untouched):
        each.step(x, t)
    before = state(trainer)
    own.fail_in, own.fail_at, own.error = where, 1, error
    with pytest.raises(error, match="on purpose"):
        trainer.step(x, t)
    assert_same_bits(state(trainer), before)
    assert trainer.step(x, t) == untouched.step(x, t)
    assert_same_bits(state(trainer), state(untouched))


def read_only_parameter(trainer, x, t):
    trainer.net.params["1.beta"].flags.writeable = False
    trainer.step(x, t)


def bad_schedule(trainer, x, t):
    trainer.optimizer.lr = lambda step: float("nan")
    trainer.step(x, t)


BAD_STEPS = {
    "labels": lambda trainer, x, t: trainer.step(x, t + 1),
    "few labels": lambda trainer, x, t: trainer.step(x, t[:-1]),
    "weights": lambda trainer, x, t: trainer.step(x, t, -np.ones(ROWS)),
    "columns": lambda trainer, x, t: trainer.step(x[:, :-1], t),
    "complex": lambda trainer, x, t: trainer.step(x * 1j, t),
    "read-only parameter": read_only_parameter,
    "schedule": bad_schedule,
}


@pytest.mark.parametrize("bad", BAD_STEPS)
def test_a_refused_step_changes_nothing(bad):
    trainer = build()
    x, t = data_set()
    trainer.step(x, t)
    before = state(trainer)
    with pytest.raises((TypeError, ValueError)):
        BAD_STEPS[bad](trainer, x, t)
    assert_same_bits(state(trainer), before)


def test_an_interrupted_fit_keeps_whole_steps():
    own = Own(24)
    trainer, steps = build_own(own=own), build_own()
    x, t = data_set()
    own.fail_in, own.fail_at, own.error = "backward", 6, KeyboardInterrupt
    history = trainer.fit(x, t, epochs=5, batch_size=BATCH)
    assert history.interrupted
    assert (history.epochs, len(history.loss), trainer.steps, trainer.epochs) == (1, 5, 5, 1)
    own.fail_in = ""
    for epoch, count in ((0, 4), (1, 1)):
        order = fastnn.data.permutation(ROWS, steps.seed, epoch)
        for i in range(count):
            steps.step(x[order[BATCH * i : BATCH * (i + 1)]], t[order[BATCH * i : BATCH * (i + 1)]])
    steps.epochs = 1
    assert_same_bits(state(trainer), state(steps))


def test_callbacks_see_each_epoch_and_may_stop():
    seen = []

    def callback(trainer, history):
        seen.append((trainer.epochs, history.epochs, len(history.loss), len(history.val_loss)))
        return trainer.epochs == 3

    x, t = data_set()
    history = build().fit(x, t, epochs=9, batch_size=BATCH, validation=(x, t), callbacks=[callback])
    assert seen == [(1, 1, 4, 1), (2, 2, 8, 2), (3, 3, 12, 3)]
    assert not history.interrupted
    assert history.keys() == ["loss", "val_loss", "val_accuracy"]
    assert all(history[name].dtype == np.float64 for name in history)


def test_a_callback_may_use_the_trainer():
    x, t = data_set()
    figures = []
    build().fit(x, t, epochs=2, callbacks=[lambda trainer, _: figures.append(trainer.evaluate(x, t))])
    assert len(figures) == 2
    assert figures[0].keys() == {"loss", "accuracy"}


class Backwards(fastnn.Trainer):
    def _order(self, n):
        return np.arange(n)[::-1].copy()


class Doubled(Backwards):
    def _gather(self, a, rows):
        return 2 * a[rows]


def test_an_order_of_ones_own_is_gone_through_natively(monkeypatch):
    x, t = data_set("MeanSquaredError")
    nets = [fastnn.mlp([12, 8, 5], seed=0) for _ in range(3)]
    backwards, plain, doubled = (
        make(net, fastnn.MeanSquaredError(), fastnn.SGD())
        for make, net in zip((Backwards, fastnn.Trainer, Doubled), nets, strict=True)
    )
    plain.fit(2 * x[::-1], 2 * t[::-1], epochs=2, shuffle=False)
    doubled.fit(x, t, epochs=2)  # in Python, which asks for its rows
    np.testing.assert_allclose(nets[2].params["0.W"], nets[1].params["0.W"], rtol=1e-5)
    monkeypatch.setattr(fastnn.Trainer, "_step_by_layers", None)
    monkeypatch.setattr(ref.Trainer, "_run_epoch", None)
    backwards.fit(2 * x, 2 * t, epochs=2)
    np.testing.assert_array_equal(nets[0].params["0.W"], nets[1].params["0.W"])


def test_evaluation_changes_nothing(team):
    x, t = data_set()
    trainer = build()
    trainer.step(x, t)
    before = state(trainer)
    whole = trainer.evaluate(x, t)
    for batch_size in (1, 7, 99):
        assert trainer.evaluate(x, t, batch_size=batch_size) == pytest.approx(whole, rel=1e-12)
    assert_same_bits(state(trainer), before)


def test_dropouts_take_the_trainers_seed_their_place_and_its_step():
    trainer = build()
    x, t = data_set()
    trainer.step(x, t)
    trainer.step(x, t)
    layers = {i: layer for i, layer in enumerate(trainer.net.layers) if isinstance(layer, fastnn.Dropout)}
    assert len(layers) == 2
    for i, layer in layers.items():
        words = ref.philox.words(trainer.seed, 1, i, layer.mask.size).reshape(layer.mask.shape)
        np.testing.assert_array_equal(layer.mask, words >= round(0.2 * 2**32))


def test_a_file_of_the_reference_goes_on_natively(tmp_path):
    x, t = data_set()
    oracle = build(ref)
    oracle.fit(x, t, epochs=2, batch_size=BATCH)
    oracle.save(tmp_path / "run.npz")
    native = fastnn.Trainer.load(tmp_path / "run.npz")
    history, expected = (trainer.fit(x, t, epochs=5, batch_size=BATCH) for trainer in (native, oracle))
    assert_same_trajectory(native, oracle, history, expected)


def test_losses_and_optimizers_of_the_users_own(tmp_path):
    class Loss:
        def forward(self, y, t):
            self.d = y - t
            return float(np.sum(self.d**2))

        def backward(self):
            return 2 * self.d

    class Optimizer:
        def update(self, params, grads):
            for name, p in params.items():
                p -= 0.001 * grads[name]

    x, t = data_set("MeanSquaredError")
    net = fastnn.mlp([12, 8, 5], seed=0, dtype=np.float64)
    trainer = fastnn.Trainer(net, Loss(), Optimizer())
    losses = trainer.fit(x, t, epochs=20, batch_size=BATCH).loss
    assert losses[-4:].sum() < 0.7 * losses[:4].sum()
    with pytest.raises(TypeError, match="loss"):
        trainer.save(tmp_path / "run.npz")


def test_an_interrupted_update_is_counted():
    """Ctrl-C during the native call is raised after it, when the parameters have moved."""
    trainer = fastnn.Trainer(fastnn.mlp([3, 2], seed=0), fastnn.SoftmaxCrossEntropy(), fastnn.Adam())
    before = trainer.net.state_dict()
    update = trainer.optimizer.update

    def interrupted(params, grads):
        update(params, grads)
        raise KeyboardInterrupt

    trainer.optimizer.update = interrupted
    with pytest.raises(KeyboardInterrupt):
        trainer.step(np.ones((2, 3)), np.zeros(2, int))
    assert trainer.steps == trainer.optimizer.step == 1
    assert any((trainer.net.state_dict()[name] != before[name]).any() for name in before)


# A loss that is not finite


def not_finite(x):
    x = x.copy()
    x[3, 2] = np.nan
    return x


@BOTH
def test_a_loss_that_is_not_finite_ends_the_step_and_changes_nothing(module):
    x, t = data_set()
    trainer, untouched = build(module), build(module)
    for each in (trainer, untouched):
        each.step(x, t)
    before = state(trainer)
    with pytest.raises(FloatingPointError, match=r"^the loss of step 1 is nan: .*nonfinite"):
        trainer.step(not_finite(x), t)
    assert_same_bits(state(trainer), before)
    assert trainer.step(x, t) == untouched.step(x, t)
    assert_same_bits(state(trainer), state(untouched))


@BOTH
def test_a_fit_ends_with_the_last_good_step(module):
    x, t = data_set()
    trainer, untouched = build(module), build(module)
    bad = x.copy()
    bad[BATCH + 1] = np.nan
    with pytest.raises(FloatingPointError, match="step 1 "):
        trainer.fit(bad, t, batch_size=BATCH, shuffle=False)
    untouched.step(x[:BATCH], t[:BATCH])
    assert_same_bits(state(trainer), state(untouched))


@BOTH
@pytest.mark.parametrize("what", ["NaN", "infinity"])
@pytest.mark.parametrize("where", ["x", "t"])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_fit_names_the_row_that_is_not_finite(module, what, where, shuffle, weighted):
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(70, 4)), rng.normal(size=(70, 2))
    for row in (7, 37, 69):
        data = {"x": x.copy(), "t": t.copy()}
        data[where][row, 1] = np.nan if what == "NaN" else np.inf
        trainer = module.Trainer(
            module.mlp([4, 2], dtype=np.float64, seed=0), module.MeanSquaredError(), module.SGD(0.01)
        )
        weight = (np.arange(70) > 5).astype(float) if weighted else None  # a batch that is passed over
        with pytest.raises(FloatingPointError, match=f"; {where} has {what} in row {row} of the data$"):
            trainer.fit(**data, batch_size=5, shuffle=shuffle, sample_weight=weight)
    trainer = module.Trainer(module.mlp([4, 2], seed=0), module.MeanSquaredError(), module.SGD(1e30))
    with pytest.raises(FloatingPointError) as error:
        trainer.fit(x, t, batch_size=5)
    assert "of the data" not in str(error.value)


@BOTH
def test_an_infinite_loss_is_not_finite_either(module):
    class Loss(module.MeanSquaredError):
        def forward(self, x, t, sample_weight=None):
            super().forward(x, t, sample_weight)
            return float("inf")

    net = module.mlp([3, 2], seed=0)
    trainer = module.Trainer(net, Loss(), module.SGD())
    with pytest.raises(FloatingPointError, match="step 0 is inf"):
        trainer.step(np.ones((2, 3)), np.ones((2, 2)))


@BOTH
@pytest.mark.parametrize("way", ["step", "fit", "step by layers"])
def test_a_norm_that_is_not_finite_ends_the_step_and_changes_nothing(module, way):
    """A huge input times a tiny weight gives a finite loss, and an infinite gradient."""
    x, t = data_set()
    x[:BATCH, 0] = 0  # so that the first step leaves that weight as it is
    x[BATCH + 1, 0] = 1e308
    W = np.random.default_rng(0).normal(size=(12, 5))
    W[0] = 1e-308

    def trainer_for(**options):
        layers = [module.Affine(W.copy(), np.zeros(5)), module.BatchNorm(np.full(5, 1e4), np.zeros(5))]
        return module.Trainer(
            module.Sequential(layers), module.SoftmaxCrossEntropy(), module.Adam(), clip_norm=1.0, **options
        )

    trainer, untouched, ignoring = trainer_for(), trainer_for(), trainer_for(nonfinite="ignore")
    if way == "step by layers":
        trainer._loss = trainer._loss  # a method of its own
    parts = [slice(BATCH), slice(BATCH, 2 * BATCH)]

    def train(trainer):
        if way == "fit":
            return trainer.fit(x, t, batch_size=BATCH, shuffle=False)
        return [trainer.step(x[part], t[part]) for part in parts]

    with np.errstate(over="ignore", invalid="ignore"):
        with pytest.raises(FloatingPointError, match=r"^the norm of the gradients of step 1 is inf: "):
            train(trainer)
        train(ignoring)
    untouched.step(x[parts[0]], t[parts[0]])
    assert_same_bits(state(trainer), state(untouched))
    assert ignoring.steps >= 2


@BOTH
def test_a_loss_that_is_not_finite_may_be_ignored(module, tmp_path):
    x, t = data_set()
    net = module.mlp([12, 5], seed=0)
    trainer = module.Trainer(net, module.SoftmaxCrossEntropy(), module.SGD(), nonfinite="ignore")
    assert np.isnan(trainer.step(not_finite(x), t))
    assert trainer.steps == 1
    assert np.isnan(net.params["0.W"]).any()
    trainer.save(tmp_path / "run.npz")
    assert module.Trainer.load(tmp_path / "run.npz").nonfinite == "ignore"


@BOTH
def test_a_file_that_says_nothing_of_it_raises(module, tmp_path):
    path = tmp_path / "run.npz"
    build(module).save(path)
    arrays, meta = checkpoint.read(path, "trainer")
    assert meta.pop("nonfinite") == "raise"
    checkpoint.write(path, "trainer", arrays, meta)
    assert module.Trainer.load(path).nonfinite == "raise"
    checkpoint.write(path, "trainer", arrays, meta | {"nonfinite": "shrug"})
    with pytest.raises(ValueError, match="does not describe a trainer: ValueError: nonfinite"):
        module.Trainer.load(path)
