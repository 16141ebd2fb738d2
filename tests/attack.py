"""Objects of all kinds, spoilt in all ways, at the door: python -m tests.attack [seed [rounds [threads]]].

Exceptions are as they may be; the process must live.
"""

import contextlib
import copy
import io
import random
import sys
import threading
import warnings

import numpy as np

import fastnn
from fastnn import optimizers
from fastnn.sparse import RowSparse

LAYERS = [fastnn.ReLU, fastnn.Affine, fastnn.BatchNorm, fastnn.Dropout, fastnn.LayerNorm, fastnn.RMSNorm]
LOSSES = [
    fastnn.SoftmaxCrossEntropy,
    lambda: fastnn.SoftmaxCrossEntropy(label_smoothing=0.1),
    fastnn.SigmoidCrossEntropy,
    fastnn.MeanSquaredError,
    fastnn.MeanAbsoluteError,
    fastnn.Huber,
    fastnn.Poisson,
    lambda: fastnn.Quantile([0.1, 0.5, 0.9]),
    lambda: fastnn.GaussianNLL(),
]


class Liar(np.ndarray):
    shape = property(lambda self: (random.randrange(9), random.randrange(9)), lambda self, value: None)
    dtype = property(lambda self: random.choice([np.dtype("i1"), np.dtype("f8")]), lambda self, value: None)

    def copy(self, *_):
        return np.zeros(random.randrange(9), "i1")

    def astype(self, *_, **__):
        return None

    def view(self, *_):
        return np.zeros(1)

    def reshape(self, *_):
        return np.zeros(1, "f4")

    def __array_finalize__(self, other):
        pass


class Dict(dict):
    def __getitem__(self, key):
        raise KeyError(key)


class Number:
    def __index__(self):
        raise OverflowError

    __float__ = __index__


def chance(share):
    return random.random() < share


def array():
    shape = [random.randrange(7) for _ in range(random.randrange(4))]
    a = np.random.default_rng(random.randrange(9)).normal(size=shape)
    a = a.astype(random.choice(["f4", "f8", "f4", ">f4", "i8", "u1", "O", "c8", "f2"]))
    if chance(0.3):
        a = np.ndarray.view(a, Liar)
    if chance(0.2) and a.ndim:
        a = np.ndarray.__getitem__(a, (slice(None, None, -1),) * a.ndim)
    if chance(0.1):
        a = np.ndarray.view(a)
        a.flags.writeable = False
    return a


def junk():
    return random.choice(
        [
            *(
                lambda value=value: value
                for value in (None, 0, -1, 2**70, 1e308, float("nan"), "raise", "W", True)
            ),
            Number,
            dict,
            object,
            array,
            array,
            array,
            lambda: Dict(W=array()),
            lambda: {"W": array(), "b": array()},
            lambda: lambda *_, **__: random.choice([0.1, array(), None]),
            lambda: RowSparse.trusted(array(), array(), (3, 3)),
            lambda: np.float32(0.5),
            lambda: [1, [2]],
            lambda: np.array(5),
            lambda: np.arange(40) * random.choice([1, 10**9]),
            fastnn.SGD,
            fastnn.ReLU,
            fastnn.MeanSquaredError,
            lambda: fastnn.Affine(np.ones((6, 3), "f4"), np.ones(3, "f4")),
        ]
    )()


def build():
    dtype = random.choice(["f4", "f8"])
    if chance(0.25):
        parts = [fastnn.Embedding.create(9, 2, dtype=dtype), fastnn.Affine.create(12, 3, dtype=dtype)]
        net = fastnn.Sequential(parts)
    else:
        net = fastnn.mlp(
            [6, 5, 3],
            batch_norm=chance(0.5),
            dropout=random.choice([0, 0.3]),
            dtype=dtype,
            activation=random.choice(["relu", "gelu", "leaky_relu", "mish", "selu"]),
        )
        if chance(0.3):
            norm = random.choice([fastnn.LayerNorm, fastnn.RMSNorm])
            width = random.choice([5, 5, 5, 4])
            net = fastnn.Sequential([net[0], norm.create(width, dtype=dtype), *net[1:]])
    cls = fastnn.Trainer
    if chance(0.3):
        own = ["loss", "optimizer", "clip_norm", "steps", "seed", "net", "nonfinite", "_order", "_in_use"]
        value = junk()
        ways = [property(lambda self: value, lambda self, v: None), lambda self, *_: value, value]
        cls = type("Own", (cls,), {random.choice(own): random.choice(ways)})
    kind = random.choice(list(optimizers.CLASSES.values()))
    loss = random.choice(LOSSES)() if chance(0.7) else own_loss
    groups = random.sample([fastnn.Group(p, 0.5, 0.5, chance(0.4)) for p in ("vectors", "0.*", "*.W")], 2)
    optimizer = kind(groups=groups[: random.randrange(3)])
    return cls(net, loss, optimizer, random.choice([None, 1.0]), average=random.choice([None, 0.9]))


def joint(net):
    parts = {"net": net, "other": net.copy(), "array": np.ones(3, "f4")}
    parts[random.choice(["net", "array", "more"])] = random.choice([net.copy(), junk()])
    return fastnn.Joint(parts)


def rewritten(thing):
    """Return what a file brings back."""
    file = io.BytesIO()
    thing.save(file)
    file.seek(0)
    return type(thing).load(file)


def own_loss(y, t):
    if chance(0.1):
        return junk()
    return random.choice([0.5, 0.5, 1e30, np.nan, junk()]), random.choice(
        [y, y * 1.0, np.asfortranarray(y), junk()]
    )


def spoil(trainer):
    """Change something of a trainer or its parts that should not be changed."""
    layers = list(trainer.net.layers)
    own = [trainer, trainer.loss, trainer._criterion, trainer.optimizer, trainer.net]
    if trainer.averaged is not None:
        own += [trainer.averaged, *trainer.averaged.layers]
    at = random.choice([*own, *layers, *layers])
    name = random.choice([*vars(at), "forward", "backward", "update", "rate", "params", "__class__"])
    value, way = getattr(at, name, None), random.random()
    if way < 0.15:
        delattr(at, name)
    elif way < 0.35 and isinstance(value, dict) and value:
        key = random.choice(list(value))
        if chance(0.3):
            del value[key]
        else:
            value[random.choice([key, key, 3, "W", "0.W", "m", "v"])] = junk()
    elif way < 0.5 and isinstance(value, dict):
        for a in list(value.values()):
            a.resize(random.choice([(2,), (6, 9), (0,)]))
    elif name == "__class__":
        at.__class__ = random.choice([*LAYERS, type(at)])
    else:
        setattr(at, name, junk())


def use(trainer):
    """Do something that anybody does."""
    net, optimizer = trainer.net, trainer.optimizer
    n = random.choice([1, 8, 40])
    x = random.choice(
        [np.ones((n, 6)), np.ones((n, 6), "f4"), np.ones((n, 6), int), np.full((n, 6), 2**40), junk()]
    )
    t = random.choice([np.arange(n) % 3, np.ones((n, 3)) / 3, np.full(n, 99), junk()])
    w = random.choice([None, None, np.ones(n), junk()])
    random.choice(
        [
            lambda: trainer.step(x, t, w),
            lambda: trainer.step(x, t),
            lambda: trainer.fit(x, t, 2, 8),
            lambda: trainer.fit(x, t, 1, 8, sample_weight=w),
            lambda: trainer.evaluate(x, t, w),
            lambda: net.predict(x),
            lambda: net.forward(x),
            lambda: (net.forward(x), net.backward(t)),
            lambda: net.backward(np.ones_like(net.forward(x))),
            lambda: net.backward_params(np.ones((n, 3))),
            lambda: net.input_gradient(np.ones((n, 3))),
            lambda: trainer.loss.backward(),
            net.state_dict,
            lambda: net.load_state_dict(net.state_dict()),
            lambda: (net.forward(x), trainer.step(x, t), net.backward(np.ones((n, 3)))),
            lambda: net.blend(
                random.choice([net.copy(), trainer.averaged, junk()]), random.choice([0.5, junk()])
            ),
            lambda: fastnn.Sequential([*net.layers, *random.choice([[], [fastnn.ReLU()]])]).forward(x),
            lambda: copy.deepcopy(random.choice([net, trainer, optimizer])),
            lambda: random.choice([net.summary, net.copy])(),
            lambda: rewritten(random.choice([net, trainer, joint(net)])),
            lambda: joint(net).update(optimizer, random.choice([None, 0.1, junk()])),
            lambda: joint(net).grads.__setitem__("array", junk()),
            lambda: trainer.fit(x, t, 1, 8, class_weight=random.choice(["balanced", {0: 2.0}, junk()])),
            lambda: trainer.fit(x, t, 1, 8, callbacks=[lambda *_: spoil(trainer)]),
            lambda: setattr(optimizer, "groups", random.choice([(), (fastnn.Group("*"),), junk()])),
            lambda: setattr(trainer, "averaged", random.choice([net, net.copy(), None, junk()])),
            lambda: optimizer.update(net.params, net.grads),
            lambda: optimizer.update(net.params, net.grads, random.choice([0.1, junk()])),
            lambda: optimizer.update(junk(), junk()),
            lambda: optimizer.update({"a": array(), "b": junk()}, {"a": array(), "b": junk()}),
        ]
    )()


def attempt(act, trainer):
    with contextlib.suppress(Exception):
        act(trainer)


def run(seed=0, rounds=10_000, threads=2):
    """Do it, with so many other threads at the same objects; return the number of calls."""
    random.seed(seed)
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    calls, current, done = 0, [build()], threading.Event()

    def meanwhile():
        while not done.is_set():
            attempt(random.choice([spoil, use]), current[0])

    others = [threading.Thread(target=meanwhile) for _ in range(threads)]
    for other in others:
        other.start()
    for _ in range(rounds):
        try:
            current[0] = trainer = build()
        except (TypeError, ValueError, AttributeError):  # a class that cannot be used at all
            continue
        for _ in range(12):
            calls += 1
            attempt(random.choice([spoil, use, use]), trainer)
    done.set()
    for other in others:
        other.join()
    return calls


if __name__ == "__main__":
    print(run(*map(int, sys.argv[1:])))
