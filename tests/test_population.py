"""Many networks side by side: each member comes to the bits of its own training."""

import signal
import threading

import numpy as np
import pytest

import fastnn
from fastnn import _interrupts
from fastnn import reference as ref
from fastnn.callbacks import EarlyStopping
from fastnn.trainer import Slice
from native import run_python
from networks import NETS
from tolerances import assert_same_bits

BOTH = pytest.mark.parametrize("m", [fastnn, ref], ids=["native", "reference"])
ROWS = 203


def data(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(ROWS, 12)).astype(np.float32), rng.integers(0, 5, ROWS)


def population(m, n=4, **options):
    return m.Population.of([12, 16, 5], n, lr=[1e-3 * (i + 1) for i in range(n)], seed=3, **options)


def everything(trainer):
    state = {
        "steps": np.array([trainer.steps, trainer.epochs, trainer.optimizer.step]),
        **trainer.net.state_dict(),
    }
    for slot, memory in trainer.optimizer.state_dict()["state"].items():
        state |= {f"{slot} {name}": array for name, array in memory.items()}
    return state


def assert_same_training(together, alone, histories, own):
    for mine, other, history, by_itself in zip(together, alone, histories, own, strict=True):
        assert_same_bits(everything(mine), everything(other))
        assert_same_bits(history.loss, by_itself.loss)
        assert_same_bits(history.epoch_steps, by_itself.epoch_steps)
        for name in history.recorded:
            assert_same_bits(history[name], by_itself[name])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_norm": True, "dropout": 0.2},
        {"clip_norm": 0.5, "average": 0.9},
        {"optimizer": "Muon"},
        {"activation": ["relu", "gelu", "tanh", "silu"], "dtype": np.float64},
    ],
    ids=["plain", "norm", "clip", "muon", "of each"],
)
def test_members_come_to_what_they_come_to_alone(options, team):
    x, t = data()
    together, alone = (population(fastnn, **options) for _ in range(2))
    weights = np.linspace(0, 2, ROWS)
    for given in (
        {"shuffle": False},
        {"sample_weight": weights},
        {"class_weight": "balanced", "accumulate": 3},
    ):
        histories = together.fit(x, t, 2, 16, **given)
        own = [trainer.fit(x, t, 2, 16, **given) for trainer in alone]
        assert_same_training(together, alone, histories, own)


@BOTH
def test_rows_are_the_members_data_sets(m):
    x, t = data()
    rng = np.random.default_rng(1)
    rows = [rng.integers(0, ROWS, 90), np.arange(50), None, rng.permutation(ROWS)]
    together, alone = (population(m) for _ in range(2))
    for given in (
        {},
        {"class_weight": "balanced"},
        {"sample_weight": np.linspace(0, 2, ROWS), "weight_mean": "data"},
    ):
        histories = together.fit(x, t, 2, 16, rows, **given)
        own = []
        for few, trainer in zip(rows, alone, strict=True):
            few = slice(None) if few is None else few
            weight = given.get("sample_weight")
            mine = given | ({} if weight is None else {"sample_weight": weight[few]})
            own.append(trainer.fit(x[few], t[few], 2, 16, **mine))
        assert_same_training(together, alone, histories, own)
    shared = np.arange(60)
    histories = together.fit(x, t, 1, 16, shared)
    own = [trainer.fit(x[shared], t[shared], 1, 16) for trainer in alone]
    assert_same_training(together, alone, histories, own)


@BOTH
def test_each_member_stops_when_its_own_callback_says_so(m):
    x, t = data()
    stopper = EarlyStopping(patience=1)
    together, alone = (population(m) for _ in range(2))
    for trainer, rate in zip((*together, *alone), [1e-3, 0.3, 3.0, 0.1] * 2, strict=True):
        trainer.optimizer.lr = rate
    seen = []
    histories = together.fit(
        x, t, 12, 32, validation=(x, t[::-1]), callbacks=[stopper, lambda trainer, _: seen.append(trainer)]
    )
    own = [
        trainer.fit(x, t, 12, 32, validation=(x, t[::-1]), callbacks=[EarlyStopping(patience=1)])
        for trainer in alone
    ]
    assert_same_training(together, alone, histories, own)
    assert len({history.epochs for history in histories}) > 1
    assert [seen.count(trainer) for trainer in together] == [history.epochs for history in histories]
    assert not stopper.stopped  # each member has had a copy


@pytest.mark.parametrize("name", ["plain", "blocks in a block", "embedding", "norm"])
def test_members_of_any_networks_and_losses(name):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 30, (80, 3)) if name == "embedding" else rng.normal(size=(80, 12))
    t = rng.normal(size=(80, 5))

    def own_loss(y, t):
        return float(((y - t) ** 2).mean()), 2 * (y - t) / y.size

    def members():
        def net():
            return fastnn.Sequential(NETS[name](fastnn, np.float64))

        return [
            fastnn.Trainer(net(), fastnn.MeanSquaredError(), fastnn.SGD(0.01)),
            fastnn.Trainer(net(), fastnn.Huber(), fastnn.Adam(lambda step: 1e-3 / (step + 1)), seed=5),
            fastnn.Trainer(net(), own_loss, fastnn.Momentum(0.01)),
            fastnn.Trainer(
                fastnn.Sequential(list(net().layers)), fastnn.MeanAbsoluteError(), fastnn.AdaGrad()
            ),
        ]

    together, alone = fastnn.Population(members()), members()
    histories = together.fit(x, t, 2, 16)
    assert_same_training(together, alone, histories, [trainer.fit(x, t, 2, 16) for trainer in alone])
    losses = together.step(x, t)
    assert list(losses) == [trainer.step(x, t) for trainer in alone]
    assert_same_bits(together.predict(x), np.stack([trainer.predict(x) for trainer in alone]))


def test_members_are_trained_natively_side_by_side(monkeypatch):
    def refuse(*_):
        raise AssertionError("a member was trained by itself")

    monkeypatch.setattr(Slice, "__call__", refuse)
    monkeypatch.setattr(fastnn.Trainer, "_step_by_layers", refuse)
    x, t = data()
    together = population(fastnn)
    together.fit(x, t, 2, 16)
    together.step(x, t)
    assert [trainer.steps for trainer in together] == [2 * 13 + 1] * 4


@BOTH
def test_steps_on_one_batch_or_on_each_member_s(m):
    x, t = data()
    together, alone = (population(m, dropout=0.1) for _ in range(2))
    assert_same_bits(together.step(x, t), np.array([trainer.step(x, t) for trainer in alone]))
    weight = np.random.default_rng(0).random((4, 50))
    own, targets = np.stack([x[i : i + 50] for i in range(4)]), np.stack([t[i : i + 50] for i in range(4)])
    losses = together.step(own, targets, weight)
    assert_same_bits(
        losses, np.array([a.step(*b) for a, *b in zip(alone, own, targets, weight, strict=True)])
    )
    for mine, other in zip(together, alone, strict=True):
        assert_same_bits(everything(mine), everything(other))


@BOTH
def test_outputs_their_mean_and_spread(m):
    x, _ = data()
    together = population(m)
    y = together.predict(x)
    assert y.shape == (4, ROWS, 5)
    assert_same_bits(y, np.stack([trainer.predict(x) for trainer in together]))
    assert_same_bits(together.mean(x), y.mean(axis=0))
    assert_same_bits(together.spread(x), y.std(axis=0))
    assert (m.Population(together[:1]).spread(x) == 0).all()
    other = m.Trainer(m.mlp([12, 3], seed=0), m.SoftmaxCrossEntropy(), m.SGD())
    with pytest.raises(ValueError, match=r"\(203, 5\) of member 0 and \(203, 3\) of member 1"):
        m.Population([together[0], other]).predict(x)


@BOTH
def test_a_member_is_an_ordinary_trainer(m, tmp_path):
    x, t = data()
    together = population(m)
    together.fit(x, t, 1, 32)
    together[2].save(tmp_path / "member.npz")
    again = m.Trainer.load(tmp_path / "member.npz")
    assert again.fit(x, t, epochs=1).loss[-1] == together[2].fit(x, t, epochs=1).loss[-1]
    assert len(together) == 4
    assert list(together) == list(together.trainers) == list(together[:])
    assert "Population of 4" in repr(together)


@BOTH
def test_steps_of_ones_own_are_done(m):
    class Counting(m.Trainer):
        asked = 0

        def step(self, x, t, sample_weight=None):
            self.asked += 1
            return super().step(x, t, sample_weight)

    def of_ones_own(i):
        return Counting(m.mlp([12, 5], seed=i), m.SoftmaxCrossEntropy(), m.SGD())

    together, (x, t) = m.Population(map(of_ones_own, range(2))), data()
    together.step(x, t)
    together.fit(x, t, 1, 100)
    assert [trainer.asked for trainer in together] == [4, 4]


@BOTH
def test_a_step_that_fails_names_its_member(m):
    x, t = data()
    together = population(m)
    together[2].optimizer.lr = 1e30
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match=r"member 2: the .* of step \d"):
        together.fit(x, t, 5, 16)
    assert together[1].steps > 0
    assert together[2].steps > 0
    together[2].optimizer.lr = 1e-3
    together[2].net.params["0.W"][...] = np.nan
    with pytest.raises(FloatingPointError, match="member 2: "):
        together.step(x, t)


@BOTH
def test_bad_arguments_change_nothing(m):
    x, t = data()
    together = population(m)
    before = [everything(trainer) for trainer in together]
    good = np.arange(20)
    calls = [
        (lambda: together.fit(x, t[:-1]), ValueError, "t must"),
        (lambda: together.fit(x, t, epochs=-1), ValueError, "epochs must be"),
        (lambda: together.fit(x, t, batch_size=0), ValueError, "batch_size must be"),
        (
            lambda: together.fit(x, t, rows=[good] * 3),
            ValueError,
            "rows must be an array, or one for each of 4",
        ),
        (lambda: together.fit(x, t, rows=[good, good, good + ROWS, good]), ValueError, r"rows\[2\] must"),
        (lambda: together.fit(x, t, rows=-good - 1), ValueError, "rows must"),
        (lambda: together.fit(x, t, rows=good.astype(float)), TypeError, "rows must"),
        (
            lambda: together.fit(x, t, rows=[good, good, good[:0], good]),
            ValueError,
            r"rows\[2\] must have shape",
        ),
        (lambda: together.fit(x, t, rows=3), TypeError, "rows must be an iterable"),
        (lambda: together.fit(x, t, callbacks=3), TypeError, "callbacks must be"),
        (lambda: together.fit(x, t, callbacks=[3]), TypeError, "callbacks"),
        (lambda: together.fit(x, t, resume=True), TypeError, "got 'resume'"),
        (lambda: together.fit(x, t + 5), ValueError, "t must|labels"),
        (
            lambda: together.step(np.stack([x] * 4), t),
            ValueError,
            "t must have a batch for each of 4 members",
        ),
        (lambda: together.step(x[:, :5], t), ValueError, "12"),
        (lambda: together.step(x, t + 5), ValueError, "member 0: "),
    ]
    for call, error, match in calls:
        with pytest.raises(error, match=match):
            call()
        for trainer, state in zip(together, before, strict=True):
            assert_same_bits(everything(trainer), state)


def test_members_are_refused_to_other_threads_meanwhile():
    together, (x, t), said = population(fastnn), data(), []

    def elsewhere(use):
        try:
            use()
        except RuntimeError as error:
            said.append(str(error))

    def callback(trainer, _):
        if trainer is together[0]:
            other = together[2]
            for use in (lambda: other.step(x, t), lambda: other.predict(x), lambda: other.evaluate(x, t)):
                thread = threading.Thread(target=elsewhere, args=(use,))
                thread.start()
                thread.join()

    together.fit(x, t, 1, callbacks=[callback])
    assert len(said) == 3
    assert all("in use by another thread" in text for text in said)
    elsewhere(lambda: together[2].step(x, t))
    assert len(said) == 3


@BOTH
def test_ctrl_c_ends_the_training_of_all(m, monkeypatch):
    monkeypatch.setattr(_interrupts, "_last", -np.inf)
    together, (x, t) = population(m, 3), data()

    def press(step):
        if step == 3:
            signal.raise_signal(signal.SIGINT)
        return 1e-3

    together[0].optimizer.lr = press
    histories = together.fit(x, t, 50, 32)
    assert all(history.interrupted for history in histories)
    for trainer, history in zip(together, histories, strict=True):
        assert trainer.steps == trainer.optimizer.step == history.steps < 50 * 7
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.setattr(_interrupts, "_last", -np.inf)
    together[0].optimizer.lr = 1e-3
    assert [history.epochs for history in together.fit(x, t, 2, 32)] == [2, 2, 2]


@BOTH
def test_a_network_s_layers_may_share_their_weights(m):
    def members():
        def tied(i):
            W = m.Affine.create(12, 12, rng=i).W
            layers = [m.Affine(W, np.zeros(12, np.float32)), m.Tanh(), m.Affine(W, np.zeros(12, np.float32))]
            return m.Trainer(m.Sequential(layers), m.SoftmaxCrossEntropy(), m.SGD(0.01))

        return [tied(i) for i in range(2)]

    together, alone, (x, t) = m.Population(members()), members(), data()
    histories = together.fit(x, t, 1, 32)
    assert_same_training(together, alone, histories, [trainer.fit(x, t, 1, 32) for trainer in alone])


@BOTH
def test_bad_populations_are_refused(m):
    a, b = population(m, 2)
    loss, optimizer = m.SoftmaxCrossEntropy(), m.Adam()
    shared = m.Sequential([a.net.layers[0], m.ReLU(), m.Affine.create(16, 5)])
    view = m.Sequential([m.Affine(a.net.layers[0].W[:, :8], np.zeros(8, np.float32)), m.Affine.create(8, 5)])
    trainer = m.Trainer
    averaging = trainer(m.mlp([12, 5]), m.SoftmaxCrossEntropy(), m.SGD(), average=0.9)
    average = averaging.averaged.layers
    of_average = m.Sequential([m.Affine(average[0].W, np.zeros(5, np.float32))])
    for bad, error, match in [
        (3, TypeError, "trainers must be an iterable"),
        ([], ValueError, "at least one"),
        ([a, 3], TypeError, r"trainers\[1\] must be a .*Trainer, got"),
        ([a, a], ValueError, r"trainers\[0\] and trainers\[1\] must not share a Trainer"),
        ([a, trainer(a.net, loss, optimizer)], ValueError, "share a Sequential"),
        ([a, trainer(shared, loss, optimizer)], ValueError, "share a Affine"),
        ([a, trainer(b.net, a.loss, optimizer)], ValueError, "share a SoftmaxCrossEntropy"),
        ([a, trainer(b.net, loss, a.optimizer)], ValueError, "share a Adam"),
        ([a, trainer(view, loss, optimizer)], ValueError, r"0.W of trainers\[\d\] .* share memory"),
        ([averaging, trainer(m.Sequential(average), loss, optimizer)], ValueError, "share a Affine"),
        ([averaging, trainer(of_average, loss, optimizer)], ValueError, r"0.W of trainers\[\d\] .* share"),
    ]:
        with pytest.raises(error, match=match):
            m.Population(bad)
    of = m.Population.of
    for make, error, match in [
        (lambda: of([4, 2], 0), ValueError, "n must be"),
        (
            lambda: of([4, 2], 3, lr=[0.1, 0.2]),
            ValueError,
            "lr must be one value, or one for each of 3 members, got 2",
        ),
        (lambda: of([4, 2], 2, optimizer="adam"), ValueError, "optimizer must be one of"),
        (lambda: of([4, 2], 2, loss=3), TypeError, "loss must be a function"),
        (lambda: of([4], 2), ValueError, "sizes must hold"),
        (lambda: of([4, 2], 2, lr=-1.0), ValueError, "lr must be"),
        (lambda: of([4, 2], 2, layers=3), TypeError, "layers"),
    ]:
        with pytest.raises(error, match=match):
            make()
    with pytest.raises(TypeError, match="must be a fastnn"):
        fastnn.Population([ref.Trainer(ref.mlp([2, 2]), ref.SoftmaxCrossEntropy(), ref.SGD())])


@BOTH
def test_the_epochs_of_all_members_are_shown(m, capsys):
    pytest.importorskip("tqdm", reason="the extra is not installed")
    x, t = data()
    together, alone = population(m), population(m)
    histories = together.fit(x, t, 2, 50, progress=True)
    assert "8/8" in capsys.readouterr().err
    assert_same_training(together, alone, histories, alone.fit(x, t, 2, 50))
    assert capsys.readouterr() == ("", "")
    together.fit(x, t, 2, 50, progress="epochs")
    assert capsys.readouterr().out.count("epoch 2/2: loss") == 4
    with pytest.raises(TypeError, match="progress must be"):
        together.fit(x, t, 2, 50, progress=3)


def test_a_callback_of_ones_own_finds_the_other_members_at_rest():
    """What it reads of them does not change while it runs, and members are called in their order."""
    x, t = data()
    many, called = population(fastnn, 6), []

    def look(trainer, history):
        called.append(list(many.trainers).index(trainer))
        before = [everything(other) for other in many]
        many.predict(x)
        for _ in range(20000):  # in which native threads would go on
            pass
        for other, state in zip(many, before, strict=True):
            assert_same_bits(everything(other), state)

    many.fit(x, t, epochs=3, batch_size=32, callbacks=[look])
    assert called == [0, 1, 2, 3, 4, 5] * 3
    alone = population(fastnn, 6)
    for trainer in alone:
        trainer.fit(x, t, epochs=3, batch_size=32)
    for one, other in zip(many, alone, strict=True):
        assert_same_bits(everything(one), everything(other))


def test_an_order_is_drawn_natively_or_where_it_is_looked_at():
    rows = np.random.default_rng(1).integers(0, ROWS, 150)
    drawn = fastnn.trainer.Order(150, 7, 2, rows)
    expected = rows[fastnn.data.permutation(150, 7, 2)]
    assert len(drawn) == 150
    np.testing.assert_array_equal(drawn[10:20], expected[10:20])
    np.testing.assert_array_equal(drawn.rows, expected)
    x, t = data()
    one, other = (population(fastnn, 1)[0] for _ in range(2))
    losses = [np.empty(5) for _ in range(2)]
    for trainer, order, to in ((one, drawn.drawn_from, losses[0]), (other, expected, losses[1])):
        compiled = trainer.net._compiled
        done = compiled.train(trainer, x, t, None, order, 0, 32, 1.0, None, 10.0, to)
        assert done == (4, 4, None)
    assert_same_bits(losses[0][:4], losses[1][:4])
    assert_same_bits(everything(one), everything(other))
    before = everything(one)
    outside = (150, 7, 2, rows + ROWS), (150, 7, 2, rows - ROWS), (151, 7, 2, rows), (ROWS + 1, 7, 2, None)
    for order in outside:
        refused = one.net._compiled.train(one, x, t, None, order, 0, 32, 1.0, None, 10.0, losses[0])
        assert refused is None, order
    assert_same_bits(everything(one), before)


def test_a_network_that_is_being_trained_is_not_begun_again():
    x, t = data()
    one, other = (population(fastnn, 1)[0] for _ in range(2))
    crowd, room = fastnn._core.Crowd(2), np.empty((3, 7))
    for i, losses in enumerate(room):
        crowd.begin(i, one.net._compiled, (one, x, t, None, None, 0, 32, 1.0, None, 10.0, losses))
    assert sorted([crowd.next(), crowd.next(), crowd.next()]) == [(0, (6, 6, None)), (1, None), (2, None)]
    assert crowd.next() is None
    crowd.close()
    other.net._compiled.train(other, x, t, None, None, 0, 32, 1.0, None, 10.0, room[1])
    assert_same_bits(room[0][:6], room[1][:6])
    assert_same_bits(everything(one), everything(other))


def test_a_child_forked_in_a_callback_is_told_that_it_cannot_go_on():
    code = """
        import os
        import numpy as np, fastnn
        x, t = np.ones((64, 12), np.float32), np.zeros(64, int)
        many, child = fastnn.Population.of([12, 16, 5], 4), []
        def fork(trainer, history):
            if trainer is many[0] and not child:
                child.append(os.fork())
        try:
            many.fit(x, t, epochs=2, callbacks=[fork])
        except RuntimeError as error:
            assert child == [0] and "the process that has begun it" in str(error), error
            os._exit(17)
        assert child[0] and os.waitstatus_to_exitcode(os.waitpid(child[0], 0)[1]) == 17
        assert [trainer.epochs for trainer in many] == [2] * 4
        print("done")
    """
    assert run_python(code).split() == ["done"]
