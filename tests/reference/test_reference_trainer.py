"""Trainer and History of the reference."""

import builtins
import re
import sys
import warnings

import numpy as np
import pytest

from fastnn import data, schedules
from fastnn import reference as ref

N, FEATURES, CLASSES = 70, 5, 3


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def xt():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, FEATURES))
    return x, (x @ rng.normal(size=(FEATURES, CLASSES))).argmax(axis=1)


def trainer(dtype=np.float64, optimizer=None, loss=None, outputs=CLASSES, **options):
    net = ref.mlp([FEATURES, 8, outputs], batch_norm=True, dropout=0.3, seed=1, dtype=dtype)
    return ref.Trainer(net, loss or ref.SoftmaxCrossEntropy(), optimizer or ref.Adam(0.01), **options)


def state(tr):
    """Return all that a step may change, copied."""
    dropouts = [layer for layer in tr.net.layers if isinstance(layer, ref.Dropout)]
    counters = [tr.steps, tr.epochs, *((d.step, d.stream, d.seed) for d in dropouts)]
    return tr.net.state_dict(), tr.optimizer.state_dict(), counters


def assert_same(a, b):
    assert a[0].keys() == b[0].keys()
    for name in a[0]:
        np.testing.assert_array_equal(a[0][name], b[0][name])
    assert a[1]["step"] == b[1]["step"]
    for slot, memory in a[1]["state"].items():
        assert memory.keys() == b[1]["state"][slot].keys()
        for name in memory:
            np.testing.assert_array_equal(memory[name], b[1]["state"][slot][name])
    assert a[2] == b[2]


# step


def test_step_is_forward_backward_update(xt):
    x, t = xt
    tr, by_hand = trainer(seed=5), trainer(seed=5)
    net, loss, optimizer = by_hand.net, ref.SoftmaxCrossEntropy(), ref.Adam(0.01)
    dropout = net.layers[3]
    for step in range(3):
        dropout.seed, dropout.stream, dropout.step = 5, 3, step
        expected = loss.forward(net.forward(x), t)
        net.backward(loss.backward())
        optimizer.update(net.params, net.grads)
        value = tr.step(x, t)
        assert type(value) is float
        assert value == expected
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, tr.net.state_dict()[name])
    assert tr.steps == 3
    assert tr.epochs == 0


def test_inputs_are_not_modified(xt):
    x, t = xt
    w = np.linspace(0, 1, N)
    before = x.copy(), t.copy(), w.copy()
    tr = trainer()
    tr.step(x, t, w)
    tr.fit(x, t, epochs=1, validation=(x, t, w), sample_weight=w)
    for now, then in zip((x, t, w), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_float32_stays(xt):
    tr = trainer(np.float32)
    tr.fit(*xt, epochs=1)
    assert all(a.dtype == np.float32 for a in tr.net.state_dict().values())
    assert all(g.dtype == np.float32 for g in tr.net.grads.values())
    assert all(a.dtype == np.float32 for m in tr.optimizer.state.values() for a in m.values())


def test_the_first_layer_computes_no_dx(xt):
    tr = trainer()
    tr.net.layers[0].backward = None  # would fail if called
    tr.step(*xt)
    assert tr.net.layers[0].dW is not None


def test_dropout_seeds(xt):
    own, given = ref.Dropout(0.5, seed=77), ref.Dropout(0.5)
    net = ref.Sequential(
        [ref.Affine.create(FEATURES, 8, rng=0), own, ref.ReLU(), given, ref.Affine.create(8, 3, rng=0)]
    )
    tr = ref.Trainer(net, ref.SoftmaxCrossEntropy(), ref.SGD(), seed=9)
    tr.step(*xt)
    tr.step(*xt)
    assert (own.seed, own.stream, own.step) == (77, 1, 2)
    assert (given.seed, given.stream, given.step) == (9, 3, 2)


def test_the_seed_decides(xt):
    a, b, c = trainer(seed=1), trainer(seed=1), trainer(seed=2)
    for tr in (a, b, c):
        tr.fit(*xt, epochs=2, batch_size=16)
    assert_same(state(a), state(b))
    assert (a.net.params["0.W"] != c.net.params["0.W"]).any()


@pytest.mark.parametrize("bad", ["label", "rows", "weights", "features", "lr"])
def test_a_failing_step_changes_nothing(xt, bad):
    x, t = xt
    tr = trainer(clip_norm=0.1)
    tr.step(x, t)
    before = state(tr)
    w = None
    if bad == "label":
        t = t + 1
    elif bad == "rows":
        t = t[1:]
    elif bad == "weights":
        w = -np.ones(N)
    elif bad == "features":
        x = x[:, 1:]
    else:
        tr.optimizer.lr = -1.0
    with pytest.raises(ValueError, match=r"^(t|sample_weight|x|lr) must"):
        tr.step(x, t, w)
    assert_same(before, state(tr))


def test_an_interrupted_step_changes_nothing(xt):
    tr = trainer()
    before = state(tr)

    def interrupt(dout):
        raise KeyboardInterrupt

    tr.net.layers[4].backward = interrupt
    with pytest.raises(KeyboardInterrupt):
        tr.step(*xt)
    assert_same(before, state(tr))


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_clip_norm(xt, share):
    free = trainer(optimizer=ref.SGD(1.0))
    start = {name: p.copy() for name, p in free.net.params.items()}
    free.step(*xt)
    grads = {name: g.copy() for name, g in free.net.grads.items()}
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    clipped = trainer(optimizer=ref.SGD(1.0), clip_norm=share * norm)
    clipped.step(*xt)
    for name, p in clipped.net.params.items():
        np.testing.assert_allclose(p, start[name] - min(1, share) * grads[name], rtol=1e-12, atol=1e-14)


def test_clip_norm_of_a_sparse_gradient():
    net = ref.Sequential(
        [ref.Embedding.create(5, 2, rng=0, dtype="f8"), ref.Affine.create(4, 1, rng=0, dtype="f8")]
    )
    tr = ref.Trainer(net, ref.MeanSquaredError(), ref.SGD(1.0), clip_norm=1e-3)
    before = net.state_dict()
    tr.step(np.array([[1, 1], [3, 1]]), np.ones((2, 1)))
    moved = {name: p - before[name] for name, p in net.params.items()}
    assert np.sqrt(sum((m**2).sum() for m in moved.values())) == pytest.approx(1e-3)
    assert (moved["0.W"][[0, 2, 4]] == 0).all()
    assert (moved["0.W"][[1, 3]] != 0).all()


def test_a_textbook_loss_without_weights(xt):
    class Loss:
        def forward(self, x, t):
            self.d = x - t[:, None]
            return np.float64((self.d**2).mean())

        def backward(self):
            return 2 * self.d / self.d.size

    x, t = xt
    a, b = trainer(loss=Loss(), outputs=1), trainer(loss=ref.MeanSquaredError(), outputs=1)
    assert a.step(x, t) == pytest.approx(b.step(x, t.astype(float)))
    assert a.evaluate(x, t) == pytest.approx(b.evaluate(x, t.astype(float)))


# fit


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [16, 35, 70, 1000])
def test_fit_is_its_steps(xt, batch_size, shuffle):
    x, t = xt
    w = np.linspace(0.5, 2, N)
    tr, by_hand = trainer(seed=4), trainer(seed=4)
    history = tr.fit(x, t, epochs=2, batch_size=batch_size, shuffle=shuffle, sample_weight=w)
    losses = []
    for epoch in range(2):
        order = data.permutation(N, 4, epoch) if shuffle else np.arange(N)
        for start in range(0, N, batch_size):
            rows = order[start : start + batch_size]
            losses.append(by_hand.step(x[rows], t[rows], w[rows]))
    by_hand.epochs = 2
    assert_same(state(tr), state(by_hand))
    np.testing.assert_array_equal(history.loss, losses)
    assert history.loss.dtype == np.float64
    assert len(losses) == 2 * -(-N // batch_size)
    assert history.epochs == 2
    assert not history.interrupted


def test_fit_learns(xt):
    tr = trainer()
    history = tr.fit(*xt, epochs=60, batch_size=16)
    assert tr.evaluate(*xt)["accuracy"] > 0.9
    assert history.loss[-5:].mean() < history.loss[:5].mean() / 2


def test_fit_goes_on_where_it_was(xt):
    a, b = trainer(), trainer()
    long = a.fit(*xt, epochs=3, batch_size=16)
    parts = [b.fit(*xt, epochs=n, batch_size=16) for n in (1, 2)]
    assert_same(state(a), state(b))
    np.testing.assert_array_equal(long.loss, np.concatenate([part.loss for part in parts]))


def test_fit_of_a_memory_map_of_bytes(xt, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (N, FEATURES)).astype(np.uint8)
    pixels.tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", np.uint8, "r", shape=pixels.shape)
    a, b = trainer(np.float32), trainer(np.float32)
    a.fit(mapped, xt[1], epochs=1)
    b.fit(pixels.astype(np.float64), xt[1], epochs=1)
    assert_same(state(a), state(b))


def test_batches_are_gathered_one_by_one(xt):
    x, t = xt
    seen = []

    class Spy(ref.Trainer):
        def _gather(self, a, rows):
            seen.append(a[rows].shape)
            return super()._gather(a, rows)

    net = ref.mlp([FEATURES, CLASSES], seed=0)
    Spy(net, ref.SoftmaxCrossEntropy(), ref.SGD()).fit(x, t, epochs=1, batch_size=40)
    first_row = [(1, FEATURES), (1,)]  # is looked at before anything is trained
    assert seen == [*first_row, (40, FEATURES), (40,), (30, FEATURES), (30,)]


def test_validation(xt):
    x, t = xt
    w = np.linspace(0, 1, N)
    tr = trainer()
    figures = []
    history = tr.fit(
        x, t, epochs=3, validation=(x[:30], t[:30], w[:30]),
        callbacks=[lambda tr, h: figures.append(tr.evaluate(x[:30], t[:30], w[:30]))],
    )  # fmt: skip
    np.testing.assert_array_equal(history.val_loss, [f["loss"] for f in figures])
    np.testing.assert_array_equal(history.val_accuracy, [f["accuracy"] for f in figures])
    without, with_it = trainer(), trainer()
    without.fit(x, t, epochs=2)
    with_it.fit(x, t, epochs=2, validation=(x, t))
    assert_same(state(without), state(with_it))


def test_history(xt):
    tr = trainer(loss=ref.MeanSquaredError(), outputs=1)
    history = tr.fit(
        xt[0], xt[1].astype(float), epochs=2, batch_size=35, validation=(xt[0], xt[1].astype(float))
    )
    assert list(history.keys()) == list(history) == ["loss", "val_loss", "val_accuracy"]
    assert len(history["loss"]) == 4
    assert len(history["val_loss"]) == 2
    assert len(history["val_accuracy"]) == 0
    assert dict(history)["val_accuracy"].dtype == np.float64
    assert "val_loss" in history
    assert "other" not in history
    with pytest.raises(KeyError):
        history["other"]
    assert repr(history).startswith("History(epochs=2, steps=4, loss=")


def test_callbacks(xt):
    calls = []

    def first(tr, history):
        calls.append(("first", tr.epochs, history.epochs, len(history.loss), len(history.val_loss)))
        return tr.epochs == 2

    def second(tr, history):
        calls.append("second")

    tr = trainer()
    history = tr.fit(*xt, epochs=10, callbacks=(first, second), validation=xt)
    assert calls == [("first", 1, 1, 1, 1), "second", ("first", 2, 2, 2, 2), "second"]
    assert history.epochs == tr.epochs == 2
    assert not history.interrupted


def test_an_error_in_a_callback_reaches_the_caller(xt):
    def fail(tr, history):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trainer().fit(*xt, callbacks=[fail])


def test_interrupt(xt):
    tr = trainer()
    step, calls = tr.step, []

    def interrupting(*arguments):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return step(*arguments)

    tr.step = interrupting
    history = tr.fit(*xt, epochs=5, batch_size=16)  # 5 steps an epoch
    assert history.interrupted
    assert history.epochs == tr.epochs == 1
    assert len(history.loss) == tr.steps == tr.optimizer.step == 6


def test_no_epochs(xt):
    tr = trainer()
    before = state(tr)
    history = tr.fit(*xt, epochs=0)
    assert history.epochs == 0
    assert history.loss.shape == (0,)
    assert_same(before, state(tr))


def test_a_batch_without_weight_is_passed_over(xt):
    x, t = xt
    w = np.ones(N)
    w[10:30] = 0
    tr = trainer()
    history = tr.fit(x, t, epochs=1, batch_size=10, shuffle=False, sample_weight=w)
    assert len(history.loss) == tr.steps == 5


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": np.zeros((0, FEATURES)), "t": np.zeros(0, int)}, ValueError, "^x must have shape"),
        ({"x": np.float64(1)}, ValueError, "^x must have shape"),
        ({"x": np.full((N, 1), "a")}, TypeError, "^x must hold real numbers"),
        ({"t": np.zeros(3, int)}, ValueError, "^t must have as many rows as x"),
        ({"epochs": -1}, ValueError, "^epochs must be an integer >= 0, got -1"),
        ({"batch_size": 0}, ValueError, "^batch_size must be an integer >= 1, got 0"),
        ({"batch_size": 1.5}, TypeError, "^batch_size must be an integer"),
        ({"shuffle": 1}, TypeError, "^shuffle must be True or False"),
        ({"validation": 3}, TypeError, "^validation must be"),
        (
            {"validation": (np.zeros((2, FEATURES)), np.zeros(3))},
            ValueError,
            "^validation t must have as many rows",
        ),
        ({"callbacks": 3}, TypeError, "^callbacks must be an iterable"),
        ({"callbacks": [3]}, TypeError, r"^callbacks\[0\] must be callable"),
        ({"sample_weight": np.ones(3)}, ValueError, "^sample_weight must have shape"),
        ({"sample_weight": np.zeros(N)}, ValueError, "^sample_weight must hold"),
        ({"progress": 1}, TypeError, "^progress must be True or False"),
    ],
)
def test_fit_refuses_and_changes_nothing(xt, change, error, message):
    tr = trainer()
    before = state(tr)
    with pytest.raises(error, match=message):
        tr.fit(**{"x": xt[0], "t": xt[1]} | change)
    assert_same(before, state(tr))


# Progress


class Bar:
    def __init__(self, total, unit):
        self.total, self.done, self.closed = total, 0, False
        Bar.last = self

    def update(self, n):
        self.done += n

    def set_postfix_str(self, text, refresh):
        self.text = text

    def set_description_str(self, text, refresh):
        self.epoch = text

    def close(self):
        self.closed = True


@pytest.mark.parametrize(("progress", "terminal", "shown"), [
    (True, False, True), (False, True, False), (None, True, True), (None, False, False),
])  # fmt: skip
def test_progress(xt, monkeypatch, progress, terminal, shown):
    module = type(sys)("tqdm")
    module.tqdm = Bar
    monkeypatch.setitem(sys.modules, "tqdm", module)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    Bar.last = None
    trainer().fit(*xt, epochs=2, batch_size=16, progress=progress)
    assert (Bar.last is not None) == shown
    if shown:
        assert Bar.last.total == Bar.last.done == 10
        assert Bar.last.closed
        assert Bar.last.epoch == "epoch 2/2"
        assert re.fullmatch(r"loss \d\.\d{4}, \d+ samples/s", Bar.last.text)


def test_progress_shows_the_loss_of_the_slice_and_the_samples_a_second(xt, monkeypatch):
    """Slices of two steps, a second each; the epoch's 70 rows are 16, 16, 16, 16 and 6."""

    class Slices(ref.Trainer):
        def _run_epoch(self, *batches):
            losses = [loss for (loss,) in super()._run_epoch(*batches)]
            yield losses[:2]
            yield []
            yield losses[2:4]
            yield losses[4:]

    module, texts, ticks = type(sys)("tqdm"), [], iter(range(0, 100, 2))
    module.tqdm = Bar
    monkeypatch.setitem(sys.modules, "tqdm", module)
    monkeypatch.setattr(Bar, "set_postfix_str", lambda bar, text, refresh: texts.append(text))
    monkeypatch.setattr(ref.trainer, "perf_counter", lambda: float(next(ticks)))
    tr = Slices(ref.mlp([FEATURES, CLASSES], seed=0), ref.SoftmaxCrossEntropy(), ref.SGD())
    loss = tr.fit(*xt, epochs=1, batch_size=16, progress=True).loss
    means = loss[:2].mean(), loss[2:4].mean(), loss[4]
    rates = 32 / 2, 64 / 4, 70 / 6
    assert texts == [f"loss {m:.4f}, {r:.0f} samples/s" for m, r in zip(means, rates, strict=True)]


def test_progress_shows_the_figures_of_the_epoch(xt, monkeypatch):
    module, texts = type(sys)("tqdm"), []
    module.tqdm = Bar
    monkeypatch.setitem(sys.modules, "tqdm", module)
    monkeypatch.setattr(Bar, "set_postfix_str", lambda bar, text, refresh: texts.append((text, refresh)))
    history = trainer().fit(*xt, 2, 35, validation=xt, progress=True, metrics=["f1"])
    figures = [
        f"val_loss {loss:.4f}, val_accuracy {accuracy:.4f}, val_f1 {f1:.4f}"
        for loss, accuracy, f1 in zip(history.val_loss, history.val_accuracy, history.val_f1, strict=True)
    ]
    assert [text.partition("/s, ")[2] for text, refresh in texts if not refresh] == ["", ""] + [
        figures[0]
    ] * 2
    assert [text for text, refresh in texts if refresh] == [
        f"loss {loss:.4f}, {figure}" for loss, figure in zip(history.epoch_loss, figures, strict=True)
    ]


@pytest.mark.parametrize("kernel", [True, False])
def test_progress_in_a_notebook(xt, monkeypatch, kernel):
    """What tqdm.auto shows there."""
    ipython, package, auto = type(sys)("IPython"), type(sys)("tqdm"), type(sys)("tqdm.auto")
    shell = type("Shell", (), {"config": {"IPKernelApp": {}} if kernel else {}})
    ipython.get_ipython = shell
    package.auto, auto.tqdm = auto, Bar
    for module in (ipython, package, auto):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    Bar.last = None
    trainer().fit(*xt, epochs=1)
    assert (Bar.last is not None) == kernel


def test_a_line_an_epoch(xt, capsys):
    trained = trainer().fit(
        *xt, 2, validation=xt, progress="epochs", callbacks=[lambda _, h: h.extend(late=[h.epochs])]
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for i, line in enumerate(lines):
        loss, val_loss, right = (trained[n][i] for n in ("loss", "val_loss", "val_accuracy"))
        figures = f"loss {loss:.4f}, val_loss {val_loss:.4f}, val_accuracy {right:.4f}, late {i + 1}.0000, "
        assert line.startswith(f"epoch {i + 1}/2: {figures}")
        assert line.endswith(" s")


@pytest.mark.parametrize("progress", ["lines", 1, np.array([True, False])])
def test_no_progress_of_another_kind(xt, progress):
    with pytest.raises((TypeError, ValueError), match=r"^progress must be"):
        trainer().fit(*xt, 1, progress=progress)


def test_progress_without_tqdm(xt, monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name == "tqdm":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    trainer().fit(*xt, epochs=1)
    with pytest.raises(ImportError, match=r"fastnn-cpu\[progress\]"):
        trainer().fit(*xt, epochs=1, progress=True)


# evaluate


@pytest.mark.parametrize("batch_size", [1, 16, 1024])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", [ref.SoftmaxCrossEntropy, ref.SigmoidCrossEntropy, ref.MeanSquaredError])
def test_evaluate_is_that_of_all_rows(xt, kind, weighted, batch_size):
    x, labels = xt
    t = labels if kind is ref.SoftmaxCrossEntropy else np.eye(CLASSES)[labels]
    w = np.where(np.arange(N) % 20 < 16, np.linspace(0.1, 3, N), 0) if weighted else None
    tr = trainer(loss=kind())
    result = tr.evaluate(x, t, w, batch_size)
    y = tr.net.forward(x, False)
    assert result["loss"] == pytest.approx(kind().forward(y, t, w), rel=1e-12)
    if kind is ref.MeanSquaredError:
        assert "accuracy" not in result
        return
    if kind is ref.SoftmaxCrossEntropy:
        right = (y.argmax(axis=1) == labels).astype(float)
        assert tr.evaluate(x, np.eye(CLASSES)[labels], w, batch_size) == pytest.approx(result, rel=1e-12)
    else:
        right = ((y > 0) == (t > 0.5)).mean(axis=1)
    assert result["accuracy"] == pytest.approx(np.average(right, weights=w), rel=1e-12)
    assert type(result["accuracy"]) is type(result["loss"]) is float


def test_evaluate_changes_nothing(xt):
    tr = trainer()
    before = state(tr)
    tr.evaluate(*xt)
    assert_same(before, state(tr))


def test_evaluate_refuses(xt):
    with pytest.raises(ValueError, match=r"^t must have as many rows"):
        trainer().evaluate(xt[0], xt[1][1:])
    with pytest.raises(ValueError, match=r"^batch_size"):
        trainer().evaluate(*xt, batch_size=0)


# Construction


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (3, ref.MeanSquaredError(), ref.SGD()),
            TypeError,
            "^net must be an object with forward and backward",
        ),
        ((ref.mlp([2, 2]), ref.MeanSquaredError, ref.SGD()), TypeError, "^loss must be an object"),
        (
            (ref.mlp([2, 2]), ref.MeanSquaredError(), "sgd"),
            TypeError,
            "^optimizer must be an object with update",
        ),
        (
            (ref.mlp([2, 2]), ref.MeanSquaredError(), ref.SGD(), 0),
            ValueError,
            "^clip_norm must be a number > 0, got 0",
        ),
        ((ref.mlp([2, 2]), ref.MeanSquaredError(), ref.SGD(), None, -1), ValueError, "^seed must be"),
    ],
)
def test_trainer_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        ref.Trainer(*arguments)


# Checkpoints


@pytest.fixture(params=["npz", "safetensors"])
def path(request, tmp_path):
    if request.param == "safetensors":
        pytest.importorskip("safetensors")
    return tmp_path / f"run.{request.param}"


OPTIMIZERS = [
    lambda: ref.SGD(0.1),
    lambda: ref.Momentum(schedules.StepDecay(0.1, 0.5, 3), weight_decay=0.01),
    lambda: ref.Nesterov(0.01),
    lambda: ref.AdaGrad(0.05),
    lambda: ref.RMSProp(0.01),
    lambda: ref.Adam(schedules.WarmUp(schedules.CosineDecay(0.01, 12), 4)),
    lambda: ref.AdamW(0.01, 0.8, 0.95, eps=1e-6, weight_decay=0.1),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", OPTIMIZERS, ids=lambda make: type(make()).__name__)
def test_exact_resume(xt, path, make, dtype):
    whole = trainer(dtype, make(), clip_norm=0.5, seed=2**64 - 1)
    losses = whole.fit(*xt, epochs=3, batch_size=16).loss
    part = trainer(dtype, make(), clip_norm=0.5, seed=2**64 - 1)
    first = part.fit(*xt, epochs=1, batch_size=16).loss
    part.save(path)
    resumed = ref.Trainer.load(path)
    assert (resumed.steps, resumed.epochs, resumed.seed, resumed.clip_norm) == (5, 1, 2**64 - 1, 0.5)
    assert resumed.optimizer.config() == part.optimizer.config()
    second = resumed.fit(*xt, epochs=2, batch_size=16).loss
    np.testing.assert_array_equal(losses, np.concatenate([first, second]))
    assert_same(state(whole), state(resumed))


@pytest.mark.parametrize("kind", [ref.SoftmaxCrossEntropy, ref.SigmoidCrossEntropy, ref.MeanSquaredError])
def test_a_checkpoint_before_the_first_step(path, kind):
    tr = trainer(loss=kind())
    tr.save(path)
    again = ref.Trainer.load(path)
    assert type(again.loss) is kind
    assert again.clip_norm is None
    assert again.optimizer.state == {"m": {}, "v": {}}
    assert again.steps == 0


def test_a_network_out_of_a_checkpoint(xt, path):
    tr = trainer()
    tr.fit(*xt, epochs=1)
    tr.save(path)
    np.testing.assert_array_equal(ref.Sequential.load(path).predict(xt[0]), tr.net.predict(xt[0]))


def test_a_network_is_no_checkpoint(path):
    ref.mlp([2, 2]).save(path)
    with pytest.raises(ValueError, match="must hold a trainer, got 'network'"):
        ref.Trainer.load(path)


def test_what_cannot_be_saved(tmp_path):
    class Loss(ref.MeanSquaredError):
        pass

    class Optimizer(ref.SGD):
        pass

    class Net(ref.Sequential):
        pass

    net = ref.mlp([2, 2])
    mean = ref.MeanSquaredError()
    for tr, message in (
        (ref.Trainer(net, Loss(), ref.SGD()), "^loss, a Loss, is not one of fastnn's own"),
        (ref.Trainer(net, mean, Optimizer()), "^optimizer, a Optimizer, is not"),
        (ref.Trainer(Net(net.layers), mean, ref.SGD()), "^net, a Net, is not"),
        (
            ref.Trainer(net, mean, ref.SGD(lambda step: 0.1)),
            "^lr must be a number or one of fastnn.schedules",
        ),
    ):
        with pytest.raises(TypeError, match=message):
            tr.save(tmp_path / "x.npz")
    assert list(tmp_path.iterdir()) == []


def test_load_refuses_what_does_not_fit(xt, tmp_path):
    from fastnn import checkpoint

    path = tmp_path / "run.npz"
    tr = trainer()
    tr.fit(*xt, epochs=1)
    tr.save(path)
    arrays, meta = checkpoint.read(path, "trainer")
    W = arrays["optimizer.m.0.W"]
    for new_arrays, new_meta in [
        ({}, {"loss": "Magic"}),
        ({}, {"optimizer": {"optimizer": "Magic"}}),
        ({}, {"optimizer": 3}),
        ({}, {"optimizer": {"optimizer": "SGD", "lr": 0.1}}),
        ({}, {"updates": -1}),
        ({}, {"steps": 1.5}),
        ({}, {"seed": -1}),
        ({}, {"clip_norm": "a"}),
        ({"optimizer.m.0.W": W[1:]}, {}),
        ({"optimizer.m.0.W": W.astype(np.float32)}, {}),
        ({"optimizer.m.9.W": W}, {}),
        ({"optimizer.x.0.W": W}, {}),
        ({"optimizer.m": W}, {}),
    ]:
        checkpoint.write(path, "trainer", arrays | new_arrays, meta | new_meta)
        with pytest.raises(ValueError, match="does not describe a trainer"):
            ref.Trainer.load(path)
    checkpoint.write(
        path, "trainer", arrays, {name: value for name, value in meta.items() if name != "steps"}
    )
    with pytest.raises(ValueError, match="does not describe a trainer: KeyError: 'steps'"):
        ref.Trainer.load(path)
    checkpoint.write(path, "trainer", arrays, meta)
    assert_same((*state(tr)[:2], []), (*state(ref.Trainer.load(path))[:2], []))
