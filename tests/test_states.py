"""A trainer's life in any order of events, native beside the reference: what they hold agrees at every point.

    FASTNN_EXAMPLES=2000 pytest tests/test_states.py    # for long; without, a few lives are tried

After each event the reference goes on from the native numbers, so that roundings do not add up. To add an
event, write a rule: do the same with both trainers (`each`), and compare what comes back (`alike`).
"""

import copy
import io
import pickle
import threading

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import fastnn
from face import EXAMPLES, JUNK, alike, attacked, outcome
from fastnn import callbacks, optimizers, schedules
from fastnn import reference as ref
from tolerances import assert_same_bits

MODULES = (fastnn, ref)
ROWS, FEATURES, CLASSES = 13, 4, 3
LOSSES = ["SoftmaxCrossEntropy", "SigmoidCrossEntropy", "MeanSquaredError"]
KINDS = list(optimizers.CLASSES)
RATES = st.sampled_from([0.0, 0.01, 0.1]) | st.builds(
    schedules.StepDecay, st.just(0.1), st.just(0.5), st.just(3)
)
SEEDS = st.integers(0, 2**32 - 1)


def data_set(seed, loss, rows=ROWS):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, FEATURES))
    t = rng.integers(0, CLASSES, rows) if loss == LOSSES[0] else rng.uniform(size=(rows, CLASSES))
    return x, t, rng.uniform(0.1, 2, rows)


def held(trainer):
    """Return all that a trainer keeps from one call to the next, but for gradients and predictions."""
    optimizer = trainer.optimizer
    memory = {f"{slot}.{name}": m for slot, d in optimizer.state.items() for name, m in d.items()}
    return trainer.net.state_dict() | memory


def counters(trainer):
    """Return what must be the same exactly."""
    dropouts = [(d.seed, d.stream, d.step) for d in trainer.net.layers if hasattr(d, "seed")]
    return trainer.steps, trainer.epochs, trainer.optimizer.step, trainer.seed, trainer.clip_norm, dropouts


class Life(RuleBasedStateMachine):
    """What may happen to a trainer."""

    @initialize(
        loss=st.sampled_from(LOSSES),
        kind=st.sampled_from(KINDS),
        norm=st.booleans(),
        dropout=st.sampled_from([0.0, 0.3]),
        activation=st.sampled_from(["tanh", "gelu", "relu", "silu"]),
        clip_norm=st.sampled_from([None, 0.5]),
        seed=SEEDS,
    )
    def born(self, loss, kind, norm, dropout, activation, clip_norm, seed):
        self.loss, self.norm, self.threads = loss, norm, fastnn.get_num_threads()
        options = {"batch_norm": norm, "dropout": dropout, "activation": activation}
        self.trainers = []
        for m in MODULES:
            net = m.mlp([FEATURES, 6, 5, CLASSES], seed=seed, dtype=np.float64, **options)
            for i, layer in enumerate(net.layers):
                if hasattr(layer, "seed"):  # which comes from the system
                    layer.seed = 100 + i
            self.trainers.append(
                m.Trainer(net, getattr(m, loss)(), getattr(m, kind)(0.01), clip_norm, seed=seed)
            )

    def teardown(self):
        fastnn.set_num_threads(getattr(self, "threads", 1))

    def each(self, act):
        """Do the same with both trainers; both must do it or refuse it alike, and the results agree."""
        results = []
        for trainer in self.trainers:
            before, counted = held(trainer), counters(trainer)
            before = {name: array.copy() for name, array in before.items()}
            result, error = outcome(lambda trainer=trainer: act(trainer))
            if error is not None:
                assert_same_bits(held(trainer), before)
                assert counters(trainer) == counted
            results.append((result, error))
        (native, error), (oracle, expected) = results
        assert type(error) is type(expected), f"{error!r}, the reference: {expected!r}"
        if error is None:
            alike(native, oracle)

    @invariant()
    def the_same(self):
        if not hasattr(self, "trainers"):
            return
        native, oracle = self.trainers
        assert counters(native) == counters(oracle)
        alike(held(native), held(oracle))
        for name, array in held(oracle).items():
            assert array.dtype == np.float64, name
        oracle.net.load_state_dict(native.net.state_dict())
        oracle.optimizer.load_state_dict(native.optimizer.state_dict())

    # Training

    @rule(seed=SEEDS, rows=st.sampled_from([1, 2, 5, ROWS]), weighted=st.booleans())
    def step(self, seed, rows, weighted):
        x, t, w = data_set(seed, self.loss, rows)
        self.each(lambda trainer: trainer.step(x, t, w if weighted else None))

    @rule(
        seed=SEEDS,
        epochs=st.integers(0, 2),
        batch_size=st.sampled_from([1, 3, 4, 100]),
        shuffle=st.booleans(),
        validated=st.booleans(),
        weighted=st.booleans(),
        weight_mean=st.sampled_from(["batch", "data"]),
        scale=st.sampled_from([1.0, 0.5]),
        balanced=st.booleans(),
        patience=st.sampled_from([None, 1]),
    )
    def fit(self, seed, epochs, batch_size, patience, validated, weighted, balanced, **options):
        x, t, w = data_set(seed, self.loss)
        options["validation"] = (x[:5], t[:5]) if validated else None
        options["sample_weight"] = w if weighted else None
        options["class_weight"] = "balanced" if balanced else None

        def train(trainer):
            stopping = [] if patience is None else [callbacks.EarlyStopping("loss", patience)]
            history = trainer.fit(x, t, epochs, batch_size, callbacks=stopping, **options)
            return {name: history[name] for name in ("loss", "val_loss", "val_accuracy")}

        self.each(train)

    @rule(seed=SEEDS, epochs=st.integers(0, 2), size=st.sampled_from([1, 4, ROWS]), resume=st.booleans())
    def fit_batches(self, seed, epochs, size, resume):
        x, t, w = data_set(seed, self.loss)
        batches = [
            (x[i : i + size], t[i : i + size], w[i : i + size]) for i in range(0, ROWS - size + 1, size)
        ]
        stopping = [callbacks.EarlyStopping("loss", 1)]
        self.each(
            lambda trainer: (
                trainer.fit_batches(batches, epochs=epochs, callbacks=stopping, resume=resume).loss
            )
        )

    @rule(seed=SEEDS, train=st.booleans(), params_only=st.booleans())
    def passes_and_an_update(self, seed, train, params_only):
        x, t, w = data_set(seed, self.loss)

        def by_hand(trainer):
            net, loss = trainer.net, trainer.loss
            figure = loss.forward(net.forward(x, train), t, w)
            dx = (net.backward_params if params_only else net.backward)(loss.backward())
            grads = {name: np.array(g) for name, g in net.grads.items()}
            trainer.optimizer.update(net.params, net.grads)
            return {"loss": figure, "dx": dx, **grads}

        self.each(by_hand)

    # Looking at it

    @rule(seed=SEEDS, rows=st.sampled_from([0, 1, ROWS]), batch_size=st.sampled_from([None, 1, 4]))
    def predict(self, seed, rows, batch_size):
        x = data_set(seed, self.loss, rows)[0]
        self.each(lambda trainer: trainer.net.predict(x, batch_size))
        self.each(lambda trainer: trainer.predict_proba(x, batch_size))

    @rule(seed=SEEDS, weighted=st.booleans(), batch_size=st.sampled_from([1, 4, 1024]))
    def evaluate(self, seed, weighted, batch_size):
        x, t, w = data_set(seed, self.loss)
        self.each(lambda trainer: trainer.evaluate(x, t, w if weighted else None, batch_size))

    @rule()
    def description(self):
        native, oracle = (trainer.description() for trainer in self.trainers)
        assert native == oracle
        assert len({repr(trainer) for trainer in self.trainers}) == 1

    # Leaving and coming back

    @rule(way=st.sampled_from(["memory", "file", "other tier", "pickle", "copy"]))
    def leave_and_come_back(self, way):
        if way == "pickle":
            again = [pickle.loads(pickle.dumps(trainer)) for trainer in self.trainers]
        elif way == "copy":
            again = [copy.deepcopy(trainer) for trainer in self.trainers]
        elif way == "file":
            again = []
            for trainer in self.trainers:
                path = self.directory / "run.npz"
                trainer.save(path)
                again.append(type(trainer).load(path))
        else:
            files = [io.BytesIO() for _ in self.trainers]
            for trainer, file in zip(self.trainers, files, strict=True):
                trainer.save(file)
                file.seek(0)
            if way == "other tier":
                files.reverse()
            again = [type(trainer).load(file) for trainer, file in zip(self.trainers, files, strict=True)]
        for trainer, new in zip(self.trainers, again, strict=True):
            if way != "other tier":
                assert_same_bits(held(new), held(trainer))
            assert counters(new)[:5] == counters(trainer)[:5]
            for layer, old in zip(new.net.layers, trainer.net.layers, strict=True):
                if hasattr(layer, "seed"):  # a file has it only where it was given
                    layer.seed, layer.stream, layer.step = old.seed, old.stream, old.step
        self.trainers = again

    @rule(seed=SEEDS)
    def load_another_state(self, seed):
        rng = np.random.default_rng(seed)
        for_each = {
            name: rng.uniform(0.1, 1, a.shape) for name, a in self.trainers[0].net.state_dict().items()
        }
        self.each(lambda trainer: trainer.net.load_state_dict(for_each))

    # Changing it

    @rule(lr=RATES, weight_decay=st.sampled_from([0.0, 0.1]), clip_norm=st.sampled_from([None, 0.1, 10.0]))
    def change_the_rates(self, lr, weight_decay, clip_norm):
        for trainer in self.trainers:
            squares = (
                trainer.optimizer.squares
            )  # which blow up the roundings that move a bias before a BatchNorm
            trainer.optimizer.lr = lr
            trainer.optimizer.weight_decay = 0.0 if self.norm and squares else weight_decay
            trainer.clip_norm = clip_norm

    @rule(seed=st.integers(0, 2**64 - 1), steps=st.integers(0, 2**40))
    def change_the_counters(self, seed, steps):
        for trainer in self.trainers:
            trainer.seed, trainer.steps, trainer.epochs = seed, steps, steps

    @rule(seed=SEEDS, i=st.integers(0, 20), by=st.sampled_from(["params", "layer", "in place"]))
    def assign_a_parameter(self, seed, i, by):
        names = list(self.trainers[0].net.params)
        name = names[i % len(names)]
        place, own = name.split(".")
        for trainer in self.trainers:
            value = np.random.default_rng(seed).normal(size=trainer.net.params[name].shape)
            if by == "params":
                trainer.net.params[name] = value
            elif by == "layer":
                setattr(trainer.net.layers[int(place)], own, value)
            else:
                trainer.net.params[name][...] = value

    @rule(seed=SEEDS, activation=st.sampled_from(["Tanh", "Sigmoid", "GELU"]))
    def replace_layers(self, seed, activation):
        for m, trainer in zip(MODULES, self.trainers, strict=True):
            layers = list(trainer.net.layers)
            layers[-2] = getattr(m, activation)()
            layers[-1] = m.Affine.create(5, CLASSES, seed=seed, dtype=np.float64)
            trainer.net.layers = layers
            for memory in trainer.optimizer.state.values():
                memory.clear()

    @rule(kind=st.sampled_from(KINDS), lr=RATES)
    def another_optimizer(self, kind, lr):
        for m, trainer in zip(MODULES, self.trainers, strict=True):
            trainer.optimizer = getattr(m, kind)(lr)

    @rule(loss=st.sampled_from(LOSSES))
    def another_loss(self, loss):
        self.loss = loss
        for m, trainer in zip(MODULES, self.trainers, strict=True):
            trainer.loss = getattr(m, loss)()

    @rule(n=st.integers(1, 4))
    def set_threads(self, n):
        fastnn.set_num_threads(n)

    # What is refused

    @rule(
        seed=SEEDS,
        call=st.sampled_from(
            ["step", "fit", "evaluate", "predict", "forward", "load", "optimizer", "update"]
        ),
        place=st.integers(0, 2),
        nonsense=st.sampled_from(list(JUNK)),
    )
    def nonsense(self, seed, call, place, nonsense):
        def act(trainer):
            arguments = [*data_set(seed, self.loss)]
            arguments[place] = JUNK[nonsense]()
            net = trainer.net
            if call in ("step", "fit", "evaluate"):
                arguments = {"x": arguments[0], "t": arguments[1], "sample_weight": arguments[2]}
                options = {"epochs": 1, "batch_size": 4} if call == "fit" else {}
                result = getattr(trainer, call)(**arguments, **options)
                return result if call != "fit" else result.loss
            if call in ("predict", "forward"):
                return getattr(net, call)(JUNK[nonsense]())
            if call == "update":
                return trainer.optimizer.update(JUNK[nonsense](), net.grads)
            return (net if call == "load" else trainer.optimizer).load_state_dict(JUNK[nonsense]())

        with np.errstate(all="ignore"):
            self.each(act)

    @rule(seed=SEEDS, lr=st.sampled_from([-1.0, float("nan"), "fast", None]))
    def bad_rate(self, seed, lr):
        x, t, _ = data_set(seed, self.loss)
        kept = self.trainers[0].optimizer.lr
        for trainer in self.trainers:
            trainer.optimizer.lr = lr
        self.each(lambda trainer: trainer.step(x, t))
        self.each(lambda trainer: trainer.fit(x, t, 1).loss)
        for trainer in self.trainers:
            trainer.optimizer.lr = kept

    @rule(seed=SEEDS)
    def callback_that_fails(self, seed):
        x, t, _ = data_set(seed, self.loss)

        def fail(*_):
            raise RuntimeError("from a callback")

        for trainer in self.trainers:
            with pytest.raises(RuntimeError, match="from a callback"):
                trainer.fit(x, t, 1, callbacks=[fail])

    # Another thread

    @rule(seed=SEEDS)
    def readers_in_a_second_thread(self, seed):
        x, t, _ = data_set(seed, self.loss)

        def among_others(trainer):
            results = []
            other = threading.Thread(target=lambda: results.append(trainer.net.predict(x)))
            other.start()
            y = trainer.net.predict(x)
            other.join()
            assert_same_bits(results[0], y)
            return trainer.evaluate(x, t)

        self.each(among_others)

    @rule(seed=SEEDS)
    def step_in_a_second_thread(self, seed):
        x, t, _ = data_set(seed, self.loss)

        def elsewhere(trainer):
            results = []
            other = threading.Thread(target=lambda: results.append(outcome(lambda: trainer.step(x, t))))
            other.start()
            other.join()
            result, error = results[0]
            if error is not None:
                raise error
            return result

        self.each(elsewhere)


@pytest.fixture(autouse=True)
def directory(tmp_path):
    Life.directory = tmp_path


TestLife = Life.TestCase
TestLife.settings = settings(attacked, max_examples=EXAMPLES or 15, stateful_step_count=30)
