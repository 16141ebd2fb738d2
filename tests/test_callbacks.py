"""Callbacks: when `fit` calls what, and what those of the package do; with both packages."""

import math
import pickle
import signal

import numpy as np
import pytest

import fastnn
from fastnn import callbacks as cb
from fastnn import reference as ref
from tolerances import assert_same_bits

ROWS, BATCH = 40, 16  # three steps an epoch


@pytest.fixture(params=[fastnn, ref], ids=["native", "reference"])
def module(request):
    return request.param


@pytest.fixture
def trainer(module):
    return build(module)


def build(module, lr=0.01):
    net = module.mlp([4, 8, 3], batch_norm=True, dropout=0.2, seed=0)
    return module.Trainer(net, module.SoftmaxCrossEntropy(), module.Adam(lr))


def data_set():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, 4))
    return x, (x @ rng.normal(size=(4, 3))).argmax(axis=1)


def fit(trainer, *callbacks, epochs=3, **options):
    return trainer.fit(*data_set(), epochs=epochs, batch_size=BATCH, callbacks=callbacks, **options)


def validated(trainer, *callbacks, **options):
    return fit(trainer, *callbacks, validation=data_set(), **options)


class Figures:
    """Puts figures of the test's own into the place of those of the validation."""

    def __init__(self, *values, name="val_loss"):
        self.values, self.name = values, name

    def __call__(self, trainer, history):
        history._figures[self.name][-1] = self.values[history.epochs - 1]


class Diary:
    """Writes down all calls; ends the training when it is told to."""

    def __init__(self, stop_at_slice=0, stop_after_epoch=0):
        self.calls, self.slices = [], 0
        self.stop_at_slice, self.stop_after_epoch = stop_at_slice, stop_after_epoch

    def on_fit_begin(self, trainer, history):
        self.calls.append(("begin", history.epochs, history.steps))
        return True  # means nothing

    def on_slice(self, trainer, history):
        self.slices += 1
        assert trainer.steps == history.steps
        return self.slices == self.stop_at_slice

    def __call__(self, trainer, history):
        self.calls.append(("epoch", history.epochs, history.steps))
        return history.epochs == self.stop_after_epoch

    def on_fit_end(self, trainer, history):
        self.calls.append(("end", history.epochs, history.steps))


# What fit calls


def test_the_order_of_the_calls(trainer):
    diary = Diary()
    fit(trainer, diary, epochs=2)
    assert diary.calls == [("begin", 0, 0), ("epoch", 1, 3), ("epoch", 2, 6), ("end", 2, 6)]
    assert 2 <= diary.slices <= 6


def test_a_true_result_after_an_epoch_ends_the_training(trainer):
    diary, other = Diary(stop_after_epoch=2), Diary()
    history = fit(trainer, diary, other, epochs=9)
    assert (history.epochs, history.interrupted, trainer.epochs) == (2, False, 2)
    assert other.calls == diary.calls
    assert diary.calls[-1] == ("end", 2, 6)


def test_no_epochs_begin_and_end(trainer):
    diary = Diary()
    fit(trainer, diary, epochs=0)
    assert diary.calls == [("begin", 0, 0), ("end", 0, 0)]


def test_a_true_result_of_a_slice_ends_the_training_within_the_epoch():
    """In the reference, where a slice is a step."""
    trainer, steps = build(ref), build(ref)
    diary = Diary(stop_at_slice=5)
    history = validated(trainer, diary)
    assert diary.calls == [("begin", 0, 0), ("epoch", 1, 3), ("end", 1, 5)]
    assert (history.epochs, history.steps, len(history.val_loss)) == (1, 5, 1)
    assert (trainer.epochs, trainer.steps) == (1, 5)
    x, t = data_set()
    for epoch, starts in ((0, (0, 16, 32)), (1, (0, 16))):
        order = fastnn.data.permutation(ROWS, 0, epoch)
        for start in starts:
            steps.step(x[order[start : start + BATCH]], t[order[start : start + BATCH]])
    assert_same_bits(trainer.net.state_dict(), steps.net.state_dict())


def test_an_epoch_whose_last_slice_ends_the_training_counts():
    weights = np.ones(ROWS)
    weights[BATCH : 2 * BATCH] = 0  # leaves two steps an epoch
    for stop, options in ((3, {}), (2, {"sample_weight": weights, "shuffle": False})):
        trainer, diary = build(ref), Diary(stop_at_slice=stop)
        history = validated(trainer, diary, **options)
        assert diary.calls == [("begin", 0, 0), ("epoch", 1, stop), ("end", 1, stop)]
        assert (trainer.epochs, trainer.steps, len(history.val_loss)) == (1, stop, 1)


def test_after_an_interrupt_the_end_is_called(trainer):
    diary = Diary()

    def interrupt(trainer, history):
        signal.raise_signal(signal.SIGINT)

    interrupt.uninterrupted = True
    history = fit(trainer, interrupt, diary)
    assert history.interrupted
    assert diary.calls == [("begin", 0, 0), ("epoch", 1, 3), ("end", 1, 3)]


def test_after_an_interrupt_in_a_callback_the_end_is_not_called(trainer):
    diary = Diary()

    def interrupt(trainer, history):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(trainer, interrupt, diary)
    assert diary.calls == [("begin", 0, 0)]


def test_after_an_error_the_end_is_not_called(trainer):
    diary = Diary()

    def fail(trainer, history):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(trainer, diary, fail)
    assert diary.calls == [("begin", 0, 0), ("epoch", 1, 3)]


def test_the_history_says_what_is_recorded(module):
    seen = []

    class Callback:
        def on_fit_begin(self, trainer, history):
            seen.append(history.recorded)

        def __call__(self, trainer, history):
            pass

    fit(build(module), Callback(), epochs=0)
    validated(build(module), Callback(), epochs=0)
    x = data_set()[0]
    net = module.mlp([4, 4], seed=0)
    trainer = module.Trainer(net, module.MeanSquaredError(), module.SGD())
    trainer.fit(x, x, epochs=0, validation=(x, x), callbacks=[Callback()])
    assert seen == [("loss",), ("loss", "val_loss", "val_accuracy"), ("loss", "val_loss")]


class NoFunction:
    on_slice = 3

    def __call__(self, trainer, history):
        pass


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (cb.TimeLimit(1), "^callbacks must be an iterable of functions"),
        ([print, 3], r"^callbacks\[1\] must be callable, got 3"),
        ([cb.EarlyStopping], r"^callbacks\[0\] must be an object, got the class EarlyStopping"),
        ([NoFunction()], r"^callbacks\[0\].on_slice must be callable, got 3"),
    ],
)
def test_what_is_no_callback_is_refused(trainer, callbacks, message):
    before = trainer.net.state_dict()
    with pytest.raises(TypeError, match=message):
        trainer.fit(*data_set(), callbacks=callbacks)
    assert trainer.steps == 0
    assert_same_bits(trainer.net.state_dict(), before)


# Figures that are watched

WATCHING = [
    cb.EarlyStopping,
    cb.ReduceOnPlateau,
    lambda **options: cb.Checkpoint("x.npz", best_only=True, **options),
]


@pytest.mark.parametrize("make", WATCHING)
@pytest.mark.parametrize(
    ("monitor", "options"),
    [("val_loss", {}), ("val_accuracy", {}), ("f1", {"validation": data_set()}), ("steps", {})],
)
def test_a_figure_that_is_not_recorded_is_refused_at_once(trainer, make, monitor, options):
    with pytest.raises(ValueError, match=f"^monitor must be one of what this .*, loss.*, got '{monitor}'"):
        fit(trainer, make(monitor=monitor), **options)
    assert trainer.steps == 0


@pytest.mark.parametrize(
    ("monitor", "mode", "values", "best", "epoch"),
    [
        ("val_loss", "auto", (3, 1, 2, 1), 1, 2),
        ("val_accuracy", "auto", (0.1, 0.5, 0.5, 0.4), 0.5, 2),
        ("val_loss", "max", (3, 1, 4, 2), 4, 3),
        ("val_accuracy", "min", (0.3, 0.5, 0.1, 0.4), 0.1, 3),
        ("val_loss", "auto", (math.nan, 2, math.nan, 3), 2, 2),
        ("val_loss", "auto", (math.inf, 2, 3, 1), 1, 4),
        ("val_loss", "auto", (math.nan,) * 4, None, 0),
    ],
)
def test_the_best(trainer, monitor, mode, values, best, epoch):
    stopping = cb.EarlyStopping(monitor, mode=mode, patience=9)
    validated(trainer, Figures(*values, name=monitor), stopping, epochs=4)
    assert stopping.best == best
    assert stopping.best_epoch == epoch
    assert not stopping.stopped


def test_the_loss_of_an_epoch_is_the_mean_of_its_rows(trainer):
    stopping = cb.EarlyStopping("loss", patience=9)
    history = fit(trainer, stopping, epochs=5)
    rows = np.diff([*range(0, ROWS, BATCH), ROWS])
    means = history.loss.reshape(5, 3) @ rows / ROWS
    np.testing.assert_allclose(history.epoch_loss, means, rtol=1e-12)
    means = history.epoch_loss
    assert stopping.best == min(means)
    assert stopping.best_epoch == means.argmin() + 1
    assert history.latest("loss") == means[-1]


# EarlyStopping


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ({"patience": 1}, 3),
        ({"patience": 2}, 6),
        ({"patience": 3}, 7),
        ({"patience": 4}, 8),
        ({"patience": 2, "min_delta": 0.1}, 6),
        ({"patience": 2, "min_delta": 0.2}, 4),
        ({"patience": 2, "mode": "max"}, 3),
    ],
)
def test_patience(trainer, options, epochs):
    values = Figures(5, 4.5, 4.6, 4.4 - 2**-10, 4.6, 4.8, 5, 4.9)
    stopping = cb.EarlyStopping(**options)
    history = validated(trainer, values, stopping, epochs=8)
    assert history.epochs == trainer.epochs == epochs
    assert stopping.stopped


def test_the_best_state_comes_back(module):
    trainer, twin = build(module), build(module)
    history = validated(trainer, Figures(3, 1, 2, 4), cb.EarlyStopping(patience=2), epochs=9)
    assert history.epochs == 4
    fit(twin, epochs=2)
    assert_same_bits(trainer.net.state_dict(), twin.net.state_dict())  # running statistics, too
    assert trainer.steps == trainer.optimizer.step == 12


@pytest.mark.parametrize("end", ["epochs", "interrupt", "slice"])
def test_the_best_state_comes_back_however_the_training_ends(end):
    trainer, twin = build(ref), build(ref)

    def interrupt(trainer, history):
        if end == "interrupt" and history.epochs == 3:
            signal.raise_signal(signal.SIGINT)

    interrupt.uninterrupted = True
    stop = Diary(stop_at_slice=8 if end == "slice" else 0)
    validated(trainer, Figures(3, 1, 2), cb.EarlyStopping(), interrupt, stop)
    fit(twin, epochs=2)
    assert_same_bits(trainer.net.state_dict(), twin.net.state_dict())


def test_an_error_leaves_the_last_state(trainer):
    def fail(trainer, history):
        if history.epochs == 2:
            raise ZeroDivisionError

    stopping = cb.EarlyStopping()
    with pytest.raises(ZeroDivisionError):
        validated(trainer, Figures(1, 2), stopping, fail)
    last = trainer.net.state_dict()
    fit(trainer, cb.EarlyStopping("loss"), epochs=0)
    assert_same_bits(trainer.net.state_dict(), last)
    validated(trainer, stopping, epochs=0)  # starts afresh
    assert_same_bits(trainer.net.state_dict(), last)


def test_the_last_state_may_stay(module):
    trainer, twin = build(module), build(module)
    validated(trainer, Figures(1, 2, 3), cb.EarlyStopping(patience=2, restore_best=False))
    fit(twin, epochs=3)
    assert_same_bits(trainer.net.state_dict(), twin.net.state_dict())


def test_a_second_fit_starts_afresh(trainer):
    stopping = cb.EarlyStopping(patience=2)
    assert validated(trainer, Figures(1, 2, 3), stopping, epochs=5).epochs == 3
    assert stopping.stopped
    assert validated(trainer, Figures(9, 8, 7, 6), stopping, epochs=4).epochs == 4
    assert (stopping.best, stopping.best_epoch, stopping.stopped) == (6, 4, False)
    validated(trainer, Figures(1, 2, 3), stopping)
    assert stopping.stopped
    validated(trainer, stopping, epochs=0)
    assert (stopping.best, stopping.best_epoch, stopping.stopped) == (None, 0, False)


def test_a_network_that_cannot_be_restored_is_refused(module):
    class Net:
        def __init__(self):
            self.layer = module.Affine.create(4, 3, rng=0)
            self.params, self.grads = self.layer.params, self.layer.grads

        def forward(self, x, train):
            return self.layer.forward(x, train)

        def backward(self, dout):
            self.layer.backward(dout)

    trainer = module.Trainer(Net(), module.SoftmaxCrossEntropy(), module.SGD())
    with pytest.raises(TypeError, match=r"^restore_best=True needs a network with state_dict$"):
        validated(trainer, cb.EarlyStopping())
    assert trainer.steps == 0
    validated(trainer, cb.EarlyStopping(restore_best=False))
    assert trainer.steps == 9


# Checkpoint


def test_a_file_an_epoch(module, tmp_path):
    trainer, twin = build(module), build(module)
    checkpoint = cb.Checkpoint(tmp_path / "run-{epoch:02d}.npz")
    fit(trainer, checkpoint)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run-01.npz", "run-02.npz", "run-03.npz"]
    assert checkpoint.saved == str(tmp_path / "run-03.npz")
    fit(twin, epochs=2)
    loaded = module.Trainer.load(tmp_path / "run-02.npz")
    assert (loaded.steps, loaded.epochs) == (6, 2)
    assert_same_bits(loaded.net.state_dict(), twin.net.state_dict())
    fit(loaded, epochs=1)
    assert_same_bits(loaded.net.state_dict(), trainer.net.state_dict())


def test_a_file_every_other_epoch_of_all_fits(trainer, tmp_path):
    checkpoint = cb.Checkpoint(tmp_path / "{epoch}.npz", every=2)
    fit(trainer, checkpoint, epochs=3)
    fit(trainer, checkpoint, epochs=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2.npz", "4.npz"]


def test_one_file_is_replaced(module, tmp_path):
    trainer = build(module)
    fit(trainer, cb.Checkpoint(str(tmp_path / "{{run}}.npz")))
    assert [p.name for p in tmp_path.iterdir()] == ["{run}.npz"]
    assert module.Trainer.load(tmp_path / "{run}.npz").epochs == 3


@pytest.mark.parametrize(
    ("every", "mode", "files"), [(1, "auto", [1, 3, 4]), (2, "auto", [2, 4]), (1, "max", [1, 2])]
)
def test_the_best_files(trainer, tmp_path, every, mode, files):
    checkpoint = cb.Checkpoint(tmp_path / "{epoch}.npz", "val_loss", every, best_only=True, mode=mode)
    validated(trainer, Figures(3, 4, 2, 1, 1), checkpoint, epochs=5)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{n}.npz" for n in files]
    assert checkpoint.saved == str(tmp_path / f"{files[-1]}.npz")


def test_a_checkpoint_starts_afresh(trainer, tmp_path):
    checkpoint = cb.Checkpoint(tmp_path / "{epoch}.npz", "val_loss", best_only=True)
    validated(trainer, Figures(1), checkpoint, epochs=1)
    validated(trainer, Figures(2), checkpoint, epochs=1)
    assert (tmp_path / "2.npz").exists()
    fit(trainer, cb.Checkpoint(tmp_path / "other.npz"), epochs=0)
    validated(trainer, checkpoint, epochs=0)
    assert checkpoint.saved is None


def test_what_cannot_be_saved_is_refused_at_once(module, tmp_path):
    trainer = build(module, lr=lambda step: 0.1)
    with pytest.raises(TypeError, match=r"^lr must be a number or one of fastnn\.schedules"):
        fit(trainer, cb.Checkpoint(tmp_path / "run.npz"))
    with pytest.raises(FileNotFoundError, match=r"^path must be in a directory that exists, got .*nowhere"):
        fit(build(module), cb.Checkpoint(tmp_path / "nowhere" / "run.npz"))
    assert trainer.steps == 0
    assert list(tmp_path.iterdir()) == []


# ReduceOnPlateau


def rates(trainer, plateau, *values):
    seen = []
    validated(
        trainer, Figures(*values), plateau, lambda tr, _: seen.append(tr.optimizer.lr), epochs=len(values)
    )
    return seen


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"patience": 2}, [1, 1, 1, 0.1, 0.1, 0.1 * 0.1, 0.1 * 0.1]),
        ({"patience": 2, "factor": 0.5}, [1, 1, 1, 0.5, 0.5, 0.25, 0.25]),
        ({"patience": 2, "factor": 0.5, "min_lr": 0.3}, [1, 1, 1, 0.5, 0.5, 0.3, 0.3]),
        ({"patience": 2, "factor": 0.5, "min_lr": 2}, [1] * 7),
        ({"patience": 3, "factor": 0.5}, [1, 1, 1, 1, 0.5, 0.5, 0.5]),
        ({"patience": 1, "factor": 0.5, "min_delta": 5}, [1, 0.5, 0.25, 0.125, 2**-4, 2**-5, 2**-6]),
        ({"patience": 2, "factor": 0.5, "mode": "max"}, [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125]),
    ],
)
def test_a_plateau_lowers_the_rate(module, options, expected):
    trainer = build(module, lr=1.0)
    assert rates(trainer, cb.ReduceOnPlateau(**options), 5, 4, 4, 4, 4, 4, 4) == expected


def test_a_plateau_starts_afresh(module):
    trainer, plateau = build(module, lr=1.0), cb.ReduceOnPlateau(factor=0.5, patience=2)
    assert rates(trainer, plateau, 1, 2) == [1, 1]
    assert rates(trainer, plateau, 9, 9, 9) == [1, 1, 0.5]


def test_a_schedule_has_no_plateau(module):
    trainer = build(module, lr=module.schedules.CosineDecay(0.1, 100))
    with pytest.raises(
        TypeError, match=r"^ReduceOnPlateau needs an optimizer whose lr is a number, got Cosine"
    ):
        validated(trainer, cb.ReduceOnPlateau())
    assert trainer.steps == 0


def test_the_lowered_rate_is_the_one_in_use(module):
    trainer, twin = build(module), build(module)
    validated(trainer, Figures(1, 1, 1), cb.ReduceOnPlateau(patience=1))
    for lr in (0.01, 0.01, 0.01 * 0.1):
        twin.optimizer.lr = lr
        fit(twin, epochs=1)
    assert_same_bits(trainer.net.state_dict(), twin.net.state_dict())


# TimeLimit


class Clock:
    """A clock that each look moves on by a second."""

    now = 0.0

    def __call__(self):
        self.now += 1
        return self.now


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(cb, "monotonic", Clock())


@pytest.mark.usefixtures("clock")
def test_a_time_limit_ends_within_an_epoch():
    """Each slice and each epoch takes a second: three slices and the first epoch, then two slices."""
    trainer, limit = build(ref), cb.TimeLimit(6)
    for fits in (1, 2):  # the second starts afresh
        history = fit(trainer, limit, epochs=9)
        assert (history.epochs, history.steps) == (1, 5)
        assert (trainer.epochs, trainer.steps) == (fits, 5 * fits)


@pytest.mark.usefixtures("clock")
def test_a_time_limit_ends_after_an_epoch(trainer):
    class Validation:
        def __call__(self, trainer, history):
            cb.monotonic.now += 100

    history = fit(trainer, Validation(), cb.TimeLimit(50), epochs=9)
    assert (history.epochs, history.steps) == (1, 3)


def test_a_time_that_is_not_over_ends_nothing(trainer):
    assert fit(trainer, cb.TimeLimit(1e6)).epochs == 3
    assert fit(trainer, cb.TimeLimit(1e-9), epochs=9).steps <= 3


# Arguments


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: cb.EarlyStopping(3), TypeError, "^monitor must be the name of a figure, got 3"),
        (lambda: cb.EarlyStopping(patience=0), ValueError, "^patience must be an integer >= 1, got 0"),
        (lambda: cb.EarlyStopping(patience=1.5), TypeError, "^patience must be an integer"),
        (lambda: cb.EarlyStopping(min_delta=-1), ValueError, "^min_delta must be a number >= 0, got -1"),
        (lambda: cb.EarlyStopping(min_delta=math.nan), ValueError, "^min_delta must be a number >= 0"),
        (lambda: cb.EarlyStopping(mode="best"), ValueError, "^mode must be one of auto, min, max, got"),
        (lambda: cb.EarlyStopping(mode=None), TypeError, "^mode must be one of"),
        (lambda: cb.EarlyStopping(restore_best=1), TypeError, "^restore_best must be True or False"),
        (lambda: cb.ReduceOnPlateau(None), TypeError, "^monitor must be the name of a figure, got None"),
        (lambda: cb.ReduceOnPlateau(factor=1), ValueError, r"^factor must be a number in \(0, 1\), got 1"),
        (lambda: cb.ReduceOnPlateau(factor=0), ValueError, r"^factor must be a number in \(0, 1\), got 0"),
        (lambda: cb.ReduceOnPlateau(factor="0.1"), TypeError, "^factor must be a number"),
        (lambda: cb.ReduceOnPlateau(patience=0), ValueError, "^patience must be an integer >= 1"),
        (lambda: cb.ReduceOnPlateau(min_lr=-0.1), ValueError, "^min_lr must be a number >= 0"),
        (lambda: cb.ReduceOnPlateau(min_delta="0"), TypeError, "^min_delta must be a number >= 0"),
        (lambda: cb.ReduceOnPlateau(mode="up"), ValueError, "^mode must be one of"),
        (lambda: cb.TimeLimit(0), ValueError, "^seconds must be a number > 0, got 0"),
        (lambda: cb.TimeLimit(math.inf), ValueError, "^seconds must be a number > 0"),
        (lambda: cb.TimeLimit("1h"), TypeError, "^seconds must be a number > 0, got '1h'"),
        (lambda: cb.Checkpoint(3), TypeError, "^path must be a string or a path, got 3"),
        (lambda: cb.Checkpoint("{step}.npz"), ValueError, "^path may have the field {epoch} and no other"),
        (lambda: cb.Checkpoint("{}.npz"), ValueError, "^path may have the field {epoch} and no other"),
        (lambda: cb.Checkpoint("{epoch.npz"), ValueError, "^path may have the field {epoch} and no other"),
        (lambda: cb.Checkpoint("{epoch:x!}"), ValueError, "^path may have the field {epoch} and no other"),
        (lambda: cb.Checkpoint("{epoch.a}"), ValueError, "^path may have the field {epoch} and no other"),
        (lambda: cb.Checkpoint("{epoch[a]}"), ValueError, "^path may have the field {epoch} and no other"),
        (lambda: cb.Checkpoint("x", every=0), ValueError, "^every must be an integer >= 1, got 0"),
        (lambda: cb.Checkpoint("x", every=None), TypeError, "^every must be an integer >= 1"),
        (lambda: cb.Checkpoint("x", best_only="yes"), TypeError, "^best_only must be True or False"),
        (lambda: cb.Checkpoint("x", best_only=True), ValueError, "^best_only=True and monitor need each"),
        (lambda: cb.Checkpoint("x", "val_loss"), ValueError, "^best_only=True and monitor need each"),
        (lambda: cb.Checkpoint("x", 3, best_only=True), TypeError, "^monitor must be the name of a figure"),
        (lambda: cb.Checkpoint("x", mode="up"), ValueError, "^mode must be one of"),
    ],
)  # fmt: skip
def test_arguments_are_checked(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_callbacks_can_be_pickled(trainer):
    stopping = cb.EarlyStopping(patience=2)
    validated(trainer, Figures(2, 1, 3), stopping)
    twin = pickle.loads(pickle.dumps(stopping))
    assert (twin.best, twin.best_epoch, twin.patience) == (1, 2, 2)


def test_a_checkpoint_of_no_known_format_is_refused_at_once():
    with pytest.raises(ValueError, match=r"path must end in .npz or .safetensors, got 'run-\{epoch\}.h5'"):
        cb.Checkpoint("run-{epoch}.h5")
