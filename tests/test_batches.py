"""Training on batches as they come: `Trainer.fit_batches`, with both packages."""

import itertools
import os
import signal
import warnings

import numpy as np
import pytest

import fastnn
from fastnn import callbacks as cb
from fastnn import data
from fastnn import reference as ref
from tolerances import assert_same_bits

ROWS, BATCH = 60, 16  # four batches


@pytest.fixture(params=[fastnn, ref], ids=["native", "reference"])
def module(request):
    return request.param


def data_set():
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, 4)), rng.integers(0, 3, ROWS)


def build(module, **options):
    net = module.mlp([4, 8, 3], batch_norm=True, dropout=0.2, seed=0)
    return module.Trainer(net, module.SoftmaxCrossEntropy(), module.Adam(0.01), **options)


def batches(weights=None, scale=1.0):
    x, t = data_set()
    rows = list(data.batches(ROWS, BATCH))
    if weights is None:
        return [(x[r] * scale, t[r]) for r in rows]
    return [[x[r] * scale, t[r], weights[r]] for r in rows]


class Again:
    """Begins again, and does not say how long it is."""

    def __init__(self, batches):
        self.batches = batches
        self.begun = 0

    def __iter__(self):
        self.begun += 1
        return iter(self.batches)


def assert_same_training(trainer, history, other, expected):
    assert_same_bits(trainer.net.state_dict(), other.net.state_dict())
    assert (trainer.steps, trainer.epochs) == (other.steps, other.epochs)
    assert history.recorded == expected.recorded
    for name in history.recorded:
        assert_same_bits(history[name], expected[name])
    assert_same_bits(history.epoch_steps, expected.epoch_steps)
    np.testing.assert_allclose(history.epoch_loss, expected.epoch_loss, rtol=1e-12)


@pytest.mark.parametrize("form", [list, Again])
@pytest.mark.parametrize("options", [{}, {"average": 0.9, "clip_norm": 0.1}])
def test_it_is_fit_without_a_shuffle(module, form, options):
    x, t = data_set()
    trainer, other = build(module, **options), build(module, **options)
    validation = {"validation": (x, t), "metrics": ["f1"]}
    history = trainer.fit_batches(form(batches()), epochs=3, **validation)
    expected = other.fit(x, t, 3, BATCH, shuffle=False, **validation)
    assert_same_training(trainer, history, other, expected)


def test_weights(module):
    x, t = data_set()
    w = np.arange(ROWS, dtype=float)
    w[BATCH : 2 * BATCH] = 0  # a batch that is passed over
    trainer, other = build(module), build(module)
    history = trainer.fit_batches(batches(w), epochs=2)
    expected = other.fit(x, t, 2, BATCH, shuffle=False, sample_weight=w)
    assert history.epoch_steps.tolist() == [3, 6]
    assert_same_training(trainer, history, other, expected)


def test_a_scale(module):
    x, t = data_set()
    trainer, other = build(module), build(module)
    history = trainer.fit_batches(batches(scale=2), scale=0.5, validation=(2 * x, t))
    assert_same_training(trainer, history, other, other.fit_batches(batches(), validation=(x, t)))


def endless():
    x, t = data_set()
    for step in itertools.count():
        rows = np.random.default_rng(step).integers(0, ROWS, BATCH)
        yield x[rows], t[rows]


def test_a_generator(module):
    generator = endless()
    trainer, other = build(module), build(module)
    history = trainer.fit_batches(generator, steps=3, epochs=2)
    assert history.epoch_steps.tolist() == [3, 6]
    losses = [other.step(*batch) for batch in itertools.islice(endless(), 6)]
    assert_same_bits(history.loss, np.array(losses))
    np.testing.assert_array_equal(next(generator)[0], next(itertools.islice(endless(), 6, None))[0])
    assert len(trainer.fit_batches(itertools.islice(endless(), 5)).loss) == 5


@pytest.mark.parametrize("form", [list, Again])
def test_what_begins_again_goes_on_where_it_was(module, form):
    trainer, other = build(module), build(module)
    trainer.fit_batches(form(batches()), steps=3, epochs=3)
    for batch in (batches() * 3)[:9]:
        other.step(*batch)
    assert_same_bits(trainer.net.state_dict(), other.net.state_dict())


def test_each_epoch_begins_it_once(module):
    again = Again(batches())
    build(module).fit_batches(again, epochs=3)
    assert again.begun == 3


@pytest.mark.parametrize(
    ("count", "ends", "where"), [(5, [3, 5], "2 steps of epoch 2"), (6, [3, 6], "0 steps of epoch 3")]
)
def test_a_generator_that_ends(module, count, ends, where):
    seen = []
    trainer = build(module)
    with pytest.warns(UserWarning, match=f"^batches ended after {where} of 4: the training has ended there$"):
        history = trainer.fit_batches(
            itertools.islice(endless(), count),
            steps=3,
            epochs=4,
            validation=data_set(),
            callbacks=[lambda _, h: seen.append(h.val_loss[-1])],
        )
    assert history.epoch_steps.tolist() == ends
    assert trainer.epochs == 2
    assert history.val_loss.tolist() == seen
    assert not history.interrupted


def test_one_that_ends_with_the_training(module):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert build(module).fit_batches(itertools.islice(endless(), 6), 3, 2).epochs == 2


def test_callbacks(module):
    stop = cb.EarlyStopping("val_loss", patience=1, min_delta=100)
    history = build(module).fit_batches(batches(), epochs=9, validation=data_set(), callbacks=[stop])
    assert history.epochs == 2

    class AtSlice:
        def __init__(self, at):
            self.left = at

        def on_slice(self, trainer, history):
            self.left -= 1
            return self.left == 0

        def __call__(self, trainer, history):
            pass

    for at, epochs in ((3, 0), (4, 1), (6, 1)):
        history = build(module).fit_batches(batches(), epochs=9, callbacks=[AtSlice(at)])
        assert (history.steps, history.epochs) == (at, epochs)
    history = build(module).fit_batches(endless(), steps=4, epochs=9, callbacks=[AtSlice(4)])
    assert (history.steps, history.epochs) == (4, 1)


def test_resuming(module, tmp_path):
    path = tmp_path / "run.npz"
    whole = build(module)
    expected = whole.fit_batches(batches(), epochs=4)
    trainer = build(module)
    trainer.fit_batches(batches(), epochs=2, callbacks=[cb.Checkpoint(path)])
    loaded = module.Trainer.load(path)
    history = loaded.fit_batches(batches(), epochs=2)
    assert_same_bits(history.loss, expected.loss[8:])
    assert_same_bits(loaded.net.state_dict(), whole.net.state_dict())


def test_a_line_an_epoch(module, capsys):
    build(module).fit_batches(batches(), epochs=2, progress="epochs")
    assert [line[:9] for line in capsys.readouterr().out.splitlines()] == ["epoch 1/2", "epoch 2/2"]


def test_no_epochs(module):
    assert build(module).fit_batches(batches(), epochs=0).steps == 0


def test_targets_as_a_function_takes_them(module):
    x, _ = data_set()
    seen = []

    def loss(y, t):
        seen.append(t)
        return 0.0, np.zeros_like(y)

    trainer = module.Trainer(module.mlp([4, 2], seed=0), loss, module.SGD(0.1))
    trainer.fit_batches([(x, {"a": 1}), (x, (1, 2))])
    assert seen == [{"a": 1}, (1, 2)]


def test_ctrl_c(module):
    def interrupted():
        for i, batch in enumerate(endless()):
            if i == 5:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    trainer = build(module)
    history = trainer.fit_batches(interrupted(), steps=4, epochs=9)
    assert history.interrupted
    assert (history.steps, history.epochs, trainer.steps) == (6, 1, 6)


def test_what_a_generator_raises(module):
    def broken():
        yield from batches()[:2]
        raise OSError("no more disk")

    trainer = build(module)
    with pytest.raises(OSError, match=r"^no more disk"):
        trainer.fit_batches(broken())
    assert trainer.steps == 2


def test_a_batch_that_does_not_fit(module):
    x, t = data_set()
    for bad in ((x[:, :3], t), (x, t[1:]), (x, t + 3), (x, t, t - 5)):
        for first in ([], batches()[:2]):
            trainer = build(module)
            before = trainer.net.state_dict()
            with pytest.raises(ValueError, match=r"\b(x|t|sample_weight) must"):
                trainer.fit_batches([*first, bad])
            assert trainer.steps == len(first)
            if not first:
                assert_same_bits(trainer.net.state_dict(), before)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3,), TypeError, "^batches must be an iterable of"),
        (([],), ValueError, "^batches must yield at least one batch, got none"),
        ((iter([]), 3), ValueError, "^batches must yield at least one batch, got none"),
        ((data_set(),), TypeError, r"^batches must yield \(x, t\) or \(x, t, sample_weight\), got an array"),
        (([(1, 2, 3, 4)],), TypeError, r"^batches must yield \(x, t\)"),
        (([{"x": 1}],), TypeError, r"^batches must yield \(x, t\)"),
        ((iter(batches()), None, 2), ValueError, "^steps must be given for 2 epochs of batches that cannot"),
        ((batches(), 0), ValueError, "^steps must be an integer >= 1"),
        ((batches(), 2.0), TypeError, "^steps must be an integer"),
        ((batches(), 2, -1), ValueError, "^epochs must be an integer"),
        ((batches(), 2, 1, 3), TypeError, "^validation must be"),
        ((batches(), 2, 1, None, 3), TypeError, "^callbacks must be"),
        ((batches(), 2, 1, None, (), "x"), TypeError, "^progress must be"),
        ((batches(), 2, 1, None, (), None, "x"), TypeError, "^scale must be"),
    ],
)
def test_what_is_refused_at_once(module, arguments, error, message):
    trainer, begun = build(module), []

    class Callback:
        def on_fit_begin(self, trainer, history):
            begun.append(1)

        def __call__(self, trainer, history):
            pass

    options = {} if len(arguments) > 4 else {"callbacks": [Callback()]}
    with pytest.raises(error, match=message):
        trainer.fit_batches(*arguments, **options)
    assert trainer.steps == 0
    assert not begun
    with pytest.raises(ValueError, match=r"^metrics need validation data"):
        trainer.fit_batches(batches(), metrics=["f1"])
