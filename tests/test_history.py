"""What a history holds, and its picture."""

import builtins
import copy
import math
import pickle
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

import fastnn
from fastnn import reference as ref
from fastnn.reference import history as module_of_history
from tolerances import assert_same_bits

ROWS, BATCH = 40, 16


@pytest.fixture(params=[fastnn, ref], ids=["native", "reference"])
def module(request):
    return request.param


def build(module, loss="SoftmaxCrossEntropy"):
    return module.Trainer(module.mlp([4, 3], seed=0), getattr(module, loss)(), module.SGD(0.1))


def data_set():
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, 4)), rng.integers(0, 3, ROWS)


def made(steps=(3, 6, 8), loss=None, **figures):
    """Return a history with epochs that end at these steps."""
    history = fastnn.History()
    loss = np.arange(steps[-1], dtype=float) if loss is None else loss
    for begin, end in zip((0, *steps), steps, strict=False):
        history.extend(loss=loss[begin:end])
        history.end_epoch(1.5)
    history.extend(**figures)
    return history


def test_epochs_have_ends_and_times(module, monkeypatch):
    ticks = iter(range(100))
    monkeypatch.setattr(ref.trainer, "perf_counter", lambda: float(next(ticks)))
    x, t = data_set()
    weights = np.ones(ROWS)
    weights[:BATCH] = 0
    stop = [lambda trainer, history: next(ticks) >= 0]  # takes time, too, and ends the training
    history = build(module).fit(x, t, epochs=2, batch_size=BATCH, sample_weight=weights, shuffle=False)
    assert history.epoch_steps.tolist() == [2, 4]
    assert history.epoch_steps.dtype == np.int64
    history = build(module).fit(x, t, epochs=3, batch_size=BATCH, callbacks=stop)
    assert history.epoch_steps.tolist() == [3]
    assert history.seconds.tolist() == [1.0]
    assert history.seconds.dtype == np.float64


def test_an_epoch_that_is_not_whole_has_neither():
    class Stop:
        def on_slice(self, trainer, history):
            return True

        def __call__(self, trainer, history):
            pass

    x, t = data_set()
    history = build(ref).fit(x, t, callbacks=[Stop()], batch_size=BATCH)
    assert (history.steps, history.epochs) == (1, 0)
    assert history.epoch_steps.size == history.seconds.size == 0


def test_the_latest_figures():
    history = made(val_loss=[3.0, 2.0, 1.0])
    assert history.latest("loss") == (6 + 7) / 2
    assert history.latest("val_loss") == 1.0
    assert made(steps=(4,)).latest("loss") == 1.5
    assert history.last_epoch("loss") == [6.0, 7.0]
    assert history.last_epoch("val_loss") == [3.0, 2.0, 1.0]
    assert made(steps=(4,)).last_epoch("loss") == [0.0, 1.0, 2.0, 3.0]
    assert history.last_epoch("f1") == []
    for name, text in (("val_accuracy", "no val_accuracy"), ("f1", "no f1 of an epoch, it records loss")):
        with pytest.raises(ValueError, match=text):
            history.latest(name)
    begun = fastnn.History(["loss"])
    begun.extend(loss=[1.0])
    with pytest.raises(ValueError, match=r"no loss of an epoch, it records loss$"):
        begun.latest("loss")


# Figures of ones own


def test_a_callback_records_figures(module):
    x, t = data_set()
    seen = []

    def record(trainer, history):
        history.extend(f1=[0.5 + history.epochs / 10], seen=3)
        seen.append(history.recorded)
        return 7  # which ends nothing

    history = build(module).fit(x, t, 3, validation=(x, t), callbacks=[record])
    assert history.epochs == 3
    assert seen == [("loss", "val_loss", "val_accuracy", "f1", "seen")] * 3
    assert history["f1"].tolist() == history.f1.tolist() == [0.6, 0.7, 0.8]
    assert history.seen.tolist() == [3, 3, 3]
    assert history.keys() == ["loss", "val_loss", "val_accuracy", "f1", "seen"]
    assert history.latest("f1") == 0.8
    assert "f1=0.8, seen=3" in repr(history)
    assert pickle.loads(pickle.dumps(history)).f1.tolist() == history.f1.tolist()


class Recorder:
    def on_fit_begin(self, trainer, history):
        history.extend(f1=[])

    def __call__(self, trainer, history):
        history.extend(f1=[[0.2, 0.9, 0.5, 0.4][history.epochs - 1]])


def test_others_watch_a_figure_of_a_callback(module):
    x, t = data_set()
    stop = fastnn.callbacks.EarlyStopping("f1", patience=2, mode="max")
    history = build(module).fit(x, t, 9, callbacks=[Recorder(), stop])
    assert (history.epochs, stop.best, stop.best_epoch) == (4, 0.9, 2)
    with pytest.raises(
        ValueError, match=r"^monitor must be one of what this training records, loss, got 'f1'"
    ):
        build(module).fit(x, t, 9, callbacks=[stop, Recorder()])


@pytest.mark.parametrize(
    ("figures", "error", "message"),
    [
        ({"f1": None}, TypeError, "^f1 must be an iterable of numbers, got None"),
        ({"f1": "high"}, TypeError, "^f1 must be a number"),
        ({"good": [1.0], "f1": [True]}, TypeError, "^f1 must be a number"),
        ({"f1": [1.0, None]}, TypeError, "^f1 must be a number"),
        ({"f1": np.ones((2, 2))}, TypeError, "^f1 must be a number"),
        (
            {"good": [1.0], "epochs": [1.0]},
            ValueError,
            "^a figure needs a name that a history has not, got 'ep",
        ),
        ({"plot": [1.0]}, ValueError, "^a figure needs a name"),
        ({"epoch": [1.0]}, ValueError, "^a figure needs a name"),
    ],
)
def test_what_is_no_figure(figures, error, message):
    history = made()
    with pytest.raises(error, match=message):
        history.extend(**figures)
    assert history.keys() == ["loss", "val_loss", "val_accuracy"]
    assert history.recorded == ("loss", "val_loss", "val_accuracy")


@pytest.mark.parametrize("value", [1, 1.0, np.float32(1), np.array(1.0), [1], (1.0,), iter([1]), np.ones(1)])
def test_a_figure_is_numbers_or_a_number(value):
    history = made()
    history.extend(f1=value)
    history.extend(f1=[math.nan, np.float32("nan"), math.inf])
    np.testing.assert_array_equal(history.f1, [1, np.nan, np.nan, np.inf])


def test_no_such_figure():
    with pytest.raises(AttributeError, match=r"^a history has no 'f1'$"):
        made().f1  # noqa: B018
    with pytest.raises(KeyError):
        made()["f1"]


# In a frame and in a notebook


def test_a_frame_of_epochs(module):
    pd = pytest.importorskip("pandas")
    x, t = data_set()
    late = lambda trainer, history: history.extend(late=[1.0] * (history.epochs == 1))  # noqa: E731
    history = build(module).fit(x, t, 3, BATCH, validation=(x, t), metrics=["f1"], callbacks=[late])
    frame = history.to_pandas()
    assert list(frame) == ["loss", "val_loss", "val_accuracy", "val_f1", "late", "steps", "seconds"]
    pd.testing.assert_index_equal(frame.index, pd.RangeIndex(1, 4, name="epoch"))
    assert_same_bits(frame.loss.to_numpy(), history.epoch_loss)
    for name in ("val_loss", "val_f1", "seconds"):
        assert_same_bits(frame[name].to_numpy(), history[name] if "v" in name else history.seconds)
    assert frame.steps.tolist() == [3, 6, 9]
    np.testing.assert_array_equal(frame.late, [1, np.nan, np.nan])


def test_a_frame_of_steps():
    pd = pytest.importorskip("pandas")
    history = made((3, 6), loss=[5.0, 4, 3, 2, 1, 0])
    history.extend(loss=[7.0], norm=range(7), f1=[1, 2])
    frame = history.to_pandas(by="step")
    pd.testing.assert_index_equal(frame.index, pd.RangeIndex(1, 8, name="step"))
    assert frame.epoch.tolist() == [1, 1, 1, 2, 2, 2, 3]
    assert frame.loss.tolist() == [5, 4, 3, 2, 1, 0, 7]
    assert frame.norm.tolist() == [*range(7)]
    assert list(frame) == ["epoch", "loss", "norm"]
    assert "norm" not in history.to_pandas()
    assert list(history.to_pandas()["f1"]) == [1, 2]


def test_frames_of_nothing():
    pytest.importorskip("pandas")
    history = fastnn.History(["loss"])
    assert history.to_pandas().shape == (0, 3)
    assert history.to_pandas("step").shape == (0, 2)
    with pytest.raises(ValueError, match=r"^by must be one of epoch, step, got 'batch'"):
        history.to_pandas("batch")


def test_a_frame_without_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"^to_pandas needs the package pandas"):
        made().to_pandas()


def cells(html):
    """Return the rows of cells of the tables in HTML, which must be well formed."""
    root = ElementTree.fromstring(f"<html>{html}</html>")
    return [["".join(cell.itertext()) for cell in row] for row in root.iter("tr")]


def test_tables_for_notebooks(module):
    x, t = data_set()
    trainer = build(module)
    history = trainer.fit(x, t, 2, BATCH, validation=(x, t))
    head, first, last = cells(history._repr_html_())
    assert head == ["epoch", "loss", "val_loss", "val_accuracy", "steps", "seconds"]
    assert first[:2] == ["1", f"{history.epoch_loss[0]:.4g}"]
    assert last[4] == "6"
    assert cells(trainer.net._repr_html_())[1] == ["0", "Affine", "3", "15"]
    assert "15 parameters, float32" in trainer.net._repr_html_()
    rows = dict(row for row in cells(trainer._repr_html_()) if len(row) == 2)
    assert rows["loss"] == "SoftmaxCrossEntropy()"
    assert rows["epochs"] == "2"
    long = made((*range(1, 101),))
    assert [row[0] for row in cells(long._repr_html_())[1:]] == [str(n) for n in range(81, 101)]
    assert cells(fastnn.History()._repr_html_())[0][0] == "epoch"


def test_texts_in_tables_are_escaped():
    class Odd:
        def forward(self, y, t):
            return 0.0

        def backward(self):
            return 0.0

        def __repr__(self):
            return "<Odd & even>"

    trainer = ref.Trainer(ref.mlp([4, 3], seed=0), Odd(), ref.SGD())
    assert ["loss", "<Odd & even>"] in cells(trainer._repr_html_())


def test_a_history_can_be_copied():
    history = made(val_loss=[1.0])
    twin = copy.deepcopy(history)
    assert repr(twin) == repr(history)
    twin.end_epoch(1.0)
    assert (history.epochs, twin.epochs) == (3, 4)


# The picture


@pytest.fixture
def ax():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    return Figure().subplots()


def drawn(ax):
    """Return the lines by label."""
    return {line.get_label(): line for line in ax.lines}


def test_losses_are_drawn_over_the_steps(ax):
    loss = np.random.default_rng(0).normal(size=100)
    history = made((40, 80, 100), loss, val_loss=[3.0, 2.0, 1.0])
    assert history.plot(ax) is ax
    lines = drawn(ax)
    assert lines.keys() == {"loss", "mean of 5 steps", "validation loss"}
    assert_same_bits(lines["loss"].get_xydata(), np.column_stack([np.arange(1.0, 101), loss]))
    means = np.array([loss[i - 5 : i].mean() for i in range(5, 101)])
    np.testing.assert_array_equal(lines["mean of 5 steps"].get_xdata(), np.arange(5, 101))
    np.testing.assert_allclose(lines["mean of 5 steps"].get_ydata(), means, atol=1e-12)
    assert lines["validation loss"].get_xydata().tolist() == [[40, 3], [80, 2], [100, 1]]
    assert lines["loss"].get_alpha() < 0.5
    assert len(ax.figure.axes) == 1
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(lines)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "loss")


def test_accuracies_have_a_scale_of_their_own(ax):
    made(val_loss=[3.0, 2.0, 1.0], val_accuracy=[0.5, 0.6, 0.7]).plot(ax)
    left, right = ax.figure.axes
    assert left is ax
    assert drawn(right)["validation accuracy"].get_xydata().tolist() == [[3, 0.5], [6, 0.6], [8, 0.7]]
    assert right.get_ylabel() == "accuracy"
    labels = [text.get_text() for text in right.get_legend().get_texts()]
    assert labels == ["loss", "mean of 1 steps", "validation loss", "validation accuracy"]
    assert ax.get_legend() is None


def test_a_real_history(ax, module):
    x, t = data_set()
    history = build(module).fit(x, t, epochs=3, batch_size=BATCH, validation=(x, t))
    history.plot(ax)
    assert drawn(ax)["validation loss"].get_xdata().tolist() == [3, 6, 9]


@pytest.mark.parametrize("interrupted", ["at once", "in an epoch", "in a validation"])
def test_what_is_not_there_is_not_drawn(ax, interrupted):
    history = fastnn.History()
    if interrupted != "at once":
        history.extend(loss=[1.0, np.nan, np.inf, 2.0])
    if interrupted == "in a validation":
        history.end_epoch(1.0)
    history.plot(ax)
    assert "validation loss" not in drawn(ax)
    assert ("loss" in drawn(ax)) == (interrupted != "at once")
    assert (ax.get_legend() is not None) == (interrupted != "at once")


def test_a_validation_behind_the_epochs(ax):
    made(val_loss=[3.0, 2.0]).plot(ax)  # Ctrl-C came during the third
    assert drawn(ax)["validation loss"].get_xdata().tolist() == [3, 6]


def test_a_long_mean_is_not_too_long(ax, monkeypatch):
    monkeypatch.setattr(module_of_history, "LONGEST_MEAN", 7)
    made((400,)).plot(ax)
    assert "mean of 7 steps" in drawn(ax)


def test_a_figure_of_pyplot():
    matplotlib = pytest.importorskip("matplotlib")
    from matplotlib import pyplot

    with matplotlib.rc_context({"backend": "agg"}):
        ax = made().plot()
        assert ax.figure is pyplot.gcf()
        pyplot.close(ax.figure)


def test_what_is_no_axes(ax):
    for other in (3, "ax", ax.figure):
        with pytest.raises(TypeError, match=r"^ax must be axes of matplotlib, got"):
            made().plot(other)


def test_a_picture_without_matplotlib(monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install fastnn-cpu\[plot\]"):
        made().plot()
