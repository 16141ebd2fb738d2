"""Wrong input: the error names the argument and what was expected, and nothing has changed.

Every row of the table is a call on a fresh world of objects that have been used before; the whole world is
compared, byte for byte, with what it was.
"""

import copy
import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest

import fastnn
from fastnn import RowSparse, optimizers, schedules
from layouts import unaligned
from native import run_python
from networks import ACTIVATIONS
from tolerances import assert_same_bits

F4, F8 = np.float32, np.float64
GIANT = np.broadcast_to(F4(0), (2**40, 2**20))  # strides 0: it takes four bytes
TALL = np.broadcast_to(F4(0), (2**58, 4))
WIDE = np.broadcast_to(F4(0), (4, 2**58))
HUGE = np.broadcast_to(F4(0), (2**60,))
TOO_MUCH = (MemoryError, ValueError)


def world():
    rng = np.random.default_rng(0)
    w = SimpleNamespace()
    w.x, w.dout = rng.normal(size=(6, 4)).astype(F4), rng.normal(size=(6, 3)).astype(F4)
    w.labels, w.index = np.array([0, 2, 1, 0, 1, 2]), np.array([[0, 8], [3, 3]])
    w.W, w.b, w.ones, w.zeros = (
        rng.normal(size=(4, 3)).astype(F4),
        np.zeros(3, F4),
        np.ones(4, F4),
        np.zeros(4, F4),
    )
    w.square = rng.normal(size=(4, 4)).astype(F4)
    w.weights = np.array([1.0, 0, 2, 1, 1, 1])
    w.affine = fastnn.Affine(w.W, w.b)
    w.affine.forward(w.x)
    w.affine.backward(w.dout)
    w.norm = fastnn.BatchNorm(w.ones, w.zeros)
    w.norm.forward(w.x)
    w.norm.backward(w.x)
    w.dropout = fastnn.Dropout(0.5, seed=1)
    w.dropout.forward(w.x)
    w.embedding = fastnn.Embedding.create(9, 3, rng=0)
    w.embedding.forward(w.index)
    w.embedding.backward(np.ones((2, 2, 3), F4))
    w.relu, w.gelu = fastnn.ReLU(), fastnn.GELU()
    w.relu.forward(w.x)
    w.gelu.forward(w.x)
    w.softmax, w.sigmoid, w.mse = (
        fastnn.SoftmaxCrossEntropy(),
        fastnn.SigmoidCrossEntropy(),
        fastnn.MeanSquaredError(),
    )
    w.softmax.forward(w.dout, w.labels, w.weights)
    w.sigmoid.forward(w.dout, np.zeros((6, 3)))
    w.mse.forward(w.dout, np.zeros((6, 3)))
    w.params = {"a": np.ones((4, 3), F4), "n": 1.5, "z": np.ones(2)}
    w.grads = {"a": np.ones((4, 3), F4), "n": 0.5, "z": np.ones(2)}
    w.adam, w.sgd = fastnn.Adam(), fastnn.SGD()
    w.adam.update(w.params, w.grads)
    w.table, w.rows = {"e": np.ones((9, 3), F4)}, RowSparse([1, 5], np.ones((2, 3), F4), (9, 3))
    w.sparse = fastnn.Momentum()
    w.sparse.update(w.table, {"e": w.rows})
    w.net = fastnn.mlp([4, 5, 3], batch_norm=True, seed=0)
    w.trainer = fastnn.Trainer(w.net, fastnn.SoftmaxCrossEntropy(), fastnn.Adam(), clip_norm=1.0)
    w.trainer.step(w.x, w.labels)
    return w


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def changed(d, **entries):
    return {**d, **entries}


def without(d, name):
    return {key: value for key, value in d.items() if key != name}


def tampered(rows):
    """A row-sparse gradient whose rows were changed after they had been checked."""
    g = RowSparse([1, 5], np.ones((2, 3), F4), (9, 3))
    g.rows = rows
    return g


RAGGED = [[1, 2], [3]]
ARRAYS = [  # what is no array of real numbers
    ("None", None),
    ("complex", np.ones((6, 4), complex)),
    ("object", np.ones((6, 4), object)),
    ("strings", np.full((6, 4), "1")),
    ("dates", np.zeros((6, 4), "M8[s]")),
    ("ragged", RAGGED),
    ("a dict", {}),
    ("a type", int),
]

TABLE = [
    # matmul
    ("a vector", lambda w: fastnn.matmul(w.b, w.W), ValueError, "a must be a 2-D"),
    ("a cube", lambda w: fastnn.matmul(w.x[None], w.W), ValueError, "a must be a 2-D"),
    ("b vector", lambda w: fastnn.matmul(w.W, w.b), ValueError, "b must be a 2-D"),
    ("a scalar", lambda w: fastnn.matmul(3.0, w.W), ValueError, "a must be a 2-D"),
    ("inner", lambda w: fastnn.matmul(w.x, w.x), ValueError, "a.shape[1] must equal b.shape[0]"),
    ("inner empty", lambda w: fastnn.matmul(w.x[:, :0], w.W), ValueError, "(6, 0)"),
    (
        "out shape",
        lambda w: fastnn.matmul(w.x, w.W, np.ones((3, 6), F4)),
        ValueError,
        "out must be a float32 array of shape (6, 3)",
    ),
    ("out rank", lambda w: fastnn.matmul(w.x, w.W, np.ones(18, F4)), ValueError, "out must be"),
    (
        "out dtype",
        lambda w: fastnn.matmul(w.x, w.W, np.ones((6, 3))),
        (TypeError, ValueError),
        "out must be a float32",
    ),
    ("out list", lambda w: fastnn.matmul(w.x, w.W, [[0.0] * 3] * 6), (TypeError, ValueError), "out must be"),
    (
        "out read-only",
        lambda w: fastnn.matmul(w.x, w.W, read_only(np.ones((6, 3), F4))),
        ValueError,
        "out is read-only",
    ),
    (
        "out zero strides",
        lambda w: fastnn.matmul(w.x, w.W, np.broadcast_to(F4(1), (6, 3))),
        ValueError,
        "out is read-only",
    ),
    ("giant", lambda w: fastnn.matmul(GIANT, GIANT.T), TOO_MUCH, ""),
    ("giant tall", lambda w: fastnn.matmul(TALL, w.W), TOO_MUCH, ""),
    ("giant wide", lambda w: fastnn.matmul(w.square, WIDE), TOO_MUCH, ""),
    ("giant to convert", lambda w: fastnn.matmul(np.broadcast_to(np.int8(1), (2**58, 4)), w.W), TOO_MUCH, ""),
    # threads
    *(
        (f"{f.__name__} {n!r}", lambda w, f=f, n=n: f(n), error, "n must be an integer in [1, 1024]")
        for f in (fastnn.set_num_threads, fastnn.threads)
        for n, error in (
            (0, ValueError),
            (-1, ValueError),
            (1025, ValueError),
            (2**70, ValueError),
            (1.0, TypeError),
            (True, TypeError),
            (None, TypeError),
            ("2", TypeError),
        )
    ),
    # Affine
    (
        "W int",
        lambda w: fastnn.Affine(np.ones((4, 3), int), w.b),
        TypeError,
        "W must be a float32 or float64 array, got dtype int64",
    ),
    ("W list", lambda w: fastnn.Affine([[1, 2]], w.b), TypeError, "W must be a float32 or float64 array"),
    ("W half", lambda w: fastnn.Affine(w.W.astype("f2"), w.b), TypeError, "float16"),
    ("W big-endian", lambda w: fastnn.Affine(w.W.astype(">f4"), w.b), TypeError, ">f4"),
    ("W vector", lambda w: fastnn.Affine(w.b, w.b), ValueError, "W must have 2 dimensions"),
    ("b shape", lambda w: fastnn.Affine(w.W, w.ones), ValueError, "b must have shape (3,), got (4,)"),
    ("b rank", lambda w: fastnn.Affine(w.W, w.b[None]), ValueError, "b must have 1 dimension"),
    (
        "b dtype",
        lambda w: fastnn.Affine(w.W, np.zeros(3)),
        TypeError,
        "b must have dtype float32, got float64",
    ),
    ("assign W", lambda w: setattr(w.affine, "W", w.x), ValueError, "W must have shape (4, 3)"),
    ("assign b", lambda w: setattr(w.affine, "b", np.zeros(3)), TypeError, "b must have dtype float32"),
    *(
        (f"create {args} {options}", lambda w, a=args, o=options: fastnn.Affine.create(*a, **o), error, text)
        for args, options, error, text in (
            ((0, 3), {}, ValueError, "n_in must be an integer >= 1, got 0"),
            ((3, 2.0), {}, TypeError, "n_out must be an integer"),
            ((3, True), {}, TypeError, "n_out must be an integer"),
            ((3, 3), {"init": "best"}, ValueError, "init"),
            ((3, 3), {"init": -1.0}, ValueError, "init"),
            ((3, 3), {"init": math.nan}, ValueError, "init"),
            ((3, 3), {"dtype": int}, TypeError, "dtype must be float32 or float64"),
            ((3, 3), {"dtype": "f2"}, TypeError, "dtype must be float32 or float64"),
            ((3, 3), {"rng": "seed"}, TypeError, "rng"),
            ((3, 3), {"rng": -1}, ValueError, "rng"),
        )
    ),
    ("x columns", lambda w: w.affine.forward(w.x[:, :3]), ValueError, "x must have 4 numbers a row"),
    (
        "x flattened",
        lambda w: w.affine.forward(np.ones((6, 3, 2), F4)),
        ValueError,
        "4 features a row, got shape (6, 3, 2)",
    ),
    ("x scalar", lambda w: w.affine.forward(F4(1)), ValueError, "x must"),
    ("x vector", lambda w: w.affine.forward(w.ones), ValueError, "x must"),
    ("x giant", lambda w: w.affine.forward(TALL), TOO_MUCH, ""),
    ("x huge", lambda w: fastnn.Affine(np.ones((1, 2), F4), np.ones(2, F4)).forward(HUGE), TOO_MUCH, ""),
    (
        "dout columns",
        lambda w: w.affine.backward(w.x),
        ValueError,
        "dout must have the shape of the output, (6, 3), got (6, 4)",
    ),
    (
        "dout rows",
        lambda w: w.affine.backward(w.dout[:5]),
        ValueError,
        "dout must have the shape of the output, (6, 3), got (5, 3)",
    ),
    ("dout broadcast", lambda w: w.affine.backward(w.dout[:1]), ValueError, "dout must have the shape"),
    ("dout rank", lambda w: w.affine.backward(w.b), ValueError, "dout must"),
    ("dout scalar", lambda w: w.affine.backward(1.0), ValueError, "dout must"),
    # BatchNorm
    (
        "gamma int",
        lambda w: fastnn.BatchNorm(np.ones(4, int), w.zeros),
        TypeError,
        "gamma must be a float32 or float64 array",
    ),
    ("gamma rank", lambda w: fastnn.BatchNorm(w.W, w.zeros), ValueError, "gamma must have 1 dimension"),
    ("beta shape", lambda w: fastnn.BatchNorm(w.ones, w.b), ValueError, "beta must have shape (4,)"),
    (
        "beta dtype",
        lambda w: fastnn.BatchNorm(w.ones, np.zeros(4)),
        TypeError,
        "beta must have dtype float32",
    ),
    *(
        (
            f"momentum {m!r}",
            lambda w, m=m: fastnn.BatchNorm(w.ones, w.zeros, m),
            error,
            "momentum must be a number in [0, 1]",
        )
        for m, error in (
            (1.1, ValueError),
            (-0.1, ValueError),
            (math.nan, ValueError),
            ("x", TypeError),
            (True, TypeError),
        )
    ),
    *(
        (
            f"eps {e!r}",
            lambda w, e=e: fastnn.BatchNorm(w.ones, w.zeros, eps=e),
            error,
            "eps must be a number > 0",
        )
        for e, error in (
            (0, ValueError),
            (-1e-5, ValueError),
            (math.inf, ValueError),
            (math.nan, ValueError),
            (None, TypeError),
        )
    ),
    (
        "running shape",
        lambda w: fastnn.BatchNorm(w.ones, w.zeros, 0.9, w.b),
        ValueError,
        "running_mean must have shape (4,)",
    ),
    (
        "running var < 0",
        lambda w: fastnn.BatchNorm(w.ones, w.zeros, 0.9, None, -w.ones),
        ValueError,
        "running_var must hold numbers >= 0",
    ),
    ("norm create 0", lambda w: fastnn.BatchNorm.create(0), ValueError, "n must be an integer >= 1"),
    ("norm empty batch", lambda w: w.norm.forward(w.x[:0]), ValueError, "x must have at least 2 rows"),
    ("norm of one row", lambda w: w.norm.forward(w.x[:1]), ValueError, "x must have at least 2 rows"),
    ("norm x columns", lambda w: w.norm.forward(w.dout), ValueError, "x must have 4 numbers a row"),
    ("norm x scalar", lambda w: w.norm.forward(1.0), ValueError, "x must"),
    ("norm x giant", lambda w: w.norm.forward(TALL, False), TOO_MUCH, ""),
    (
        "norm dout",
        lambda w: w.norm.backward(w.dout),
        ValueError,
        "dout must have the shape of the output, (6, 4), got (6, 3)",
    ),
    (
        "norm dout rows",
        lambda w: w.norm.backward(w.x[:1]),
        ValueError,
        "dout must have the shape of the output, (6, 4), got (1, 4)",
    ),
    ("norm dout rank", lambda w: w.norm.backward(w.ones), ValueError, "dout must"),
    # Dropout
    *(
        (f"ratio {r!r}", lambda w, r=r: fastnn.Dropout(r), error, "ratio must be a number in [0, 1)")
        for r, error in (
            (1.0, ValueError),
            (1.5, ValueError),
            (-0.1, ValueError),
            (math.nan, ValueError),
            ("half", TypeError),
            (None, TypeError),
            (True, TypeError),
        )
    ),
    *(
        (
            f"seed {s!r}",
            lambda w, s=s: fastnn.Dropout(0.5, seed=s),
            error,
            "seed must be an integer in [0, 2**64)",
        )
        for s, error in (
            (-1, ValueError),
            (2**64, ValueError),
            (1.5, TypeError),
            ("1", TypeError),
            (True, TypeError),
        )
    ),
    ("inverted", lambda w: fastnn.Dropout(0.5, inverted="yes"), TypeError, "inverted must be True or False"),
    ("dropout giant", lambda w: w.dropout.forward(HUGE), TOO_MUCH, ""),
    (
        "dropout dout",
        lambda w: w.dropout.backward(w.dout),
        ValueError,
        "dout must have the output's shape (6, 4), got (6, 3)",
    ),
    (
        "dropout dout flat",
        lambda w: w.dropout.backward(w.x.ravel()),
        ValueError,
        "dout must have the output's shape",
    ),
    # activations
    *(
        (f"alpha {a!r}", lambda w, a=a: fastnn.LeakyReLU(a), error, "alpha must be a number >= 0")
        for a, error in (
            (-0.1, ValueError),
            (math.nan, ValueError),
            (math.inf, ValueError),
            ("x", TypeError),
            (None, TypeError),
        )
    ),
    ("relu giant", lambda w: w.relu.forward(HUGE), TOO_MUCH, ""),
    (
        "relu dout",
        lambda w: w.relu.backward(w.dout),
        ValueError,
        "dout must have the shape of the output, (6, 4), got float32 array of shape (6, 3)",
    ),
    (
        "relu dout flat",
        lambda w: w.relu.backward(w.x.ravel()),
        ValueError,
        "dout must have the shape of the output",
    ),
    ("gelu dout", lambda w: w.gelu.backward(w.x.T), ValueError, "dout must have the shape of the output"),
    # Embedding
    (
        "table int",
        lambda w: fastnn.Embedding(np.ones((4, 3), int)),
        TypeError,
        "W must be a float32 or float64 array",
    ),
    ("table vector", lambda w: fastnn.Embedding(w.b), ValueError, "W must have 2 dimensions"),
    ("vocab", lambda w: fastnn.Embedding.create(0, 3), ValueError, "vocab must be an integer >= 1"),
    ("dim", lambda w: fastnn.Embedding.create(3, 0.5), TypeError, "dim must be an integer"),
    *(
        (f"index {i.dtype} {i}", lambda w, i=i: w.embedding.forward(i), ValueError, "[0, 9)")
        for i in (
            np.array([9]),
            np.array([0, -1]),
            np.array([2**62]),
            np.array([2**64 - 1], "u8"),
            np.array([2**63], "u8"),
            np.array([-128], "i1"),
            np.array([255], "u1"),
            np.array([9], ">i4"),
        )
    ),
    ("index float", lambda w: w.embedding.forward(w.x), TypeError, "x must hold integer"),
    ("index bool", lambda w: w.embedding.forward([True, False]), TypeError, "x must hold integer"),
    ("index None", lambda w: w.embedding.forward(None), TypeError, "x must"),
    ("index object", lambda w: w.embedding.forward(np.array([1, 2], object)), TypeError, "x must"),
    ("index string", lambda w: w.embedding.forward("1"), TypeError, "x must"),
    ("index ragged", lambda w: w.embedding.forward(RAGGED), (TypeError, ValueError), "x must"),
    (
        "index giant",
        lambda w: w.embedding.forward(np.broadcast_to(np.int64(1), (2**40, 2**16))),
        TOO_MUCH,
        "",
    ),
    (
        "embedding dout",
        lambda w: w.embedding.backward(w.dout),
        ValueError,
        "dout must have the shape of the output",
    ),
    (
        "embedding dout order",
        lambda w: w.embedding.backward(np.ones((4, 3), F4)),
        ValueError,
        "dout must have the shape of the output",
    ),
    (
        "embedding dout same size",
        lambda w: w.embedding.backward(np.ones((1, 4, 3), F4)),
        ValueError,
        "dout must have the shape of the output",
    ),
    # losses
    (
        "softmax rank",
        lambda w: w.softmax.forward(w.b, w.labels),
        ValueError,
        "x must have shape (N, C), got shape (3,)",
    ),
    (
        "softmax cube",
        lambda w: w.softmax.forward(w.dout[None], w.labels),
        ValueError,
        "x must have shape (N, C)",
    ),
    ("softmax empty", lambda w: w.softmax.forward(w.dout[:0], w.labels[:0]), ValueError, "x must"),
    ("softmax no classes", lambda w: w.softmax.forward(w.dout[:, :0], w.labels), ValueError, "x must"),
    ("label 3", lambda w: w.softmax.forward(w.dout, w.labels + 1), ValueError, "[0, 3), got 3"),
    ("label -1", lambda w: w.softmax.forward(w.dout, w.labels - 1), ValueError, "[0, 3), got -1"),
    ("label 2**63", lambda w: w.softmax.forward(w.dout, np.full(6, 2**63, "u8")), ValueError, "[0, 3)"),
    ("labels float", lambda w: w.softmax.forward(w.dout, w.labels + 0.5), TypeError, "t must hold integer"),
    ("labels few", lambda w: w.softmax.forward(w.dout, w.labels[:5]), ValueError, "t must"),
    ("labels columns", lambda w: w.softmax.forward(w.dout, w.labels[:, None, None]), ValueError, "t must"),
    ("labels scalar", lambda w: w.softmax.forward(w.dout, 1), (TypeError, ValueError), "t must"),
    ("labels None", lambda w: w.softmax.forward(w.dout, None), TypeError, "t must"),
    ("labels object", lambda w: w.softmax.forward(w.dout, w.labels.astype(object)), TypeError, "t must"),
    ("labels strings", lambda w: w.softmax.forward(w.dout, ["cat"] * 6), TypeError, "t must"),
    ("labels complex", lambda w: w.softmax.forward(w.dout, np.eye(3)[w.labels] * 1j), TypeError, "t must"),
    ("labels ragged", lambda w: w.softmax.forward(w.dout, RAGGED), (TypeError, ValueError), "t must"),
    ("rows sum", lambda w: w.softmax.forward(w.dout, np.full((6, 3), 0.5)), ValueError, "sum to 1"),
    (
        "rows negative",
        lambda w: w.softmax.forward(w.dout, np.tile([1.5, -0.5, 0], (6, 1))),
        ValueError,
        "t must",
    ),
    ("rows nan", lambda w: w.softmax.forward(w.dout, np.full((6, 3), math.nan)), ValueError, "t must"),
    (
        "rows inf",
        lambda w: w.softmax.forward(w.dout, np.tile([math.inf, 0, 0], (6, 1))),
        ValueError,
        "t must",
    ),
    ("rows columns", lambda w: w.softmax.forward(w.dout, np.eye(4)[w.labels]), ValueError, "t must"),
    (
        "softmax giant",
        lambda w: w.softmax.forward(TALL, np.broadcast_to(np.int64(0), (2**58,))),
        TOO_MUCH,
        "",
    ),
    *(
        (
            f"{kind} {what}",
            lambda w, k=kind, v=value: getattr(w, k).forward(
                w.dout, w.labels if k == "softmax" else np.zeros((6, 3)), v
            ),
            error,
            "sample_weight",
        )
        for kind in ("softmax", "sigmoid", "mse")
        for what, value, error in (
            ("weights few", np.ones(5), ValueError),
            ("weights column", np.ones((6, 1)), ValueError),
            ("weights scalar", 1.0, ValueError),
            ("weights negative", np.array([1, 1, 1, 1, 1, -1]), ValueError),
            ("weights nan", np.array([1, 1, 1, 1, 1, math.nan]), ValueError),
            ("weights inf", np.array([1, 1, 1, 1, 1, math.inf]), ValueError),
            ("weights zero", np.zeros(6), ValueError),
            ("weights overflow", np.full(6, 1e308), ValueError),
            ("weights complex", np.ones(6, complex), TypeError),
            ("weights strings", ["1"] * 6, TypeError),
            ("weights object", np.ones(6, object), TypeError),
        )
    ),
    *(
        (f"{kind} {what}", lambda w, k=kind, f=make: getattr(w, k).forward(*f(w)), error, text)
        for kind in ("sigmoid", "mse")
        for what, make, error, text in (
            ("empty", lambda w: (w.dout[:0], w.dout[:0]), ValueError, "x must"),
            ("scalar", lambda w: (F4(1), F4(1)), ValueError, "x must"),
            (
                "targets few",
                lambda w: (w.dout, np.zeros((5, 3))),
                ValueError,
                "t must have the shape of x, (6, 3)",
            ),
            (
                "targets broadcast",
                lambda w: (w.dout, np.zeros((1, 3))),
                ValueError,
                "t must have the shape of x",
            ),
            ("targets vector", lambda w: (w.dout, np.zeros(6)), ValueError, "t must have the shape of x"),
            ("targets flat", lambda w: (w.dout, np.zeros(18)), ValueError, "t must have the shape of x"),
            (
                "targets column for a vector",
                lambda w: (w.b, np.zeros((3, 1))),
                ValueError,
                "t must have the shape of x",
            ),
            ("targets complex", lambda w: (w.dout, w.dout * 1j), TypeError, "t must hold real numbers"),
            ("targets None", lambda w: (w.dout, None), TypeError, "t must"),
            ("giant", lambda w: (HUGE, HUGE), TOO_MUCH, ""),
        )
    ),
    *(
        (
            f"sigmoid target {v}",
            lambda w, v=v: w.sigmoid.forward(w.dout, np.full((6, 3), v)),
            ValueError,
            "t must hold numbers in [0, 1]",
        )
        for v in (1.01, -0.01, math.nan, math.inf)
    ),
    *(
        (
            f"{kind} dout {d!r}",
            lambda w, k=kind, d=d: getattr(w, k).backward(d),
            error,
            "dout must be a number",
        )
        for kind in ("softmax", "sigmoid", "mse")
        for d, error in (
            (math.nan, ValueError),
            (math.inf, ValueError),
            ("1", TypeError),
            (None, TypeError),
            (np.ones(6), TypeError),
        )
    ),
    # what is no array of real numbers, everywhere
    *(
        (f"{where}: {what}", lambda w, f=call, v=value: f(w, v), (TypeError, ValueError), name)
        for where, call, name in (
            ("matmul a", lambda w, v: fastnn.matmul(v, w.W), "a must"),
            ("matmul b", lambda w, v: fastnn.matmul(w.x, v), "b must"),
            ("Affine W", lambda w, v: fastnn.Affine(v, w.b), "W must"),
            ("Affine x", lambda w, v: w.affine.forward(v), "x must"),
            ("Affine dout", lambda w, v: w.affine.backward(v), "dout must"),
            ("BatchNorm gamma", lambda w, v: fastnn.BatchNorm(v, w.zeros), "gamma must"),
            ("BatchNorm x", lambda w, v: w.norm.forward(v), "x must"),
            ("BatchNorm dout", lambda w, v: w.norm.backward(v), "dout must"),
            ("Dropout x", lambda w, v: w.dropout.forward(v), "x must"),
            ("Dropout dout", lambda w, v: w.dropout.backward(v), "dout must"),
            ("ReLU x", lambda w, v: w.relu.forward(v), "x must"),
            ("ReLU dout", lambda w, v: w.relu.backward(v), "dout must"),
            ("Embedding x", lambda w, v: w.embedding.forward(v), "x must"),
            ("Embedding dout", lambda w, v: w.embedding.backward(v), "dout must"),
            ("softmax x", lambda w, v: w.softmax.forward(v, w.labels), "x must"),
            ("softmax t", lambda w, v: w.softmax.forward(w.x, v), "t must"),
            ("sigmoid x", lambda w, v: w.sigmoid.forward(v, w.x), "x must"),
            ("sigmoid t", lambda w, v: w.sigmoid.forward(w.x, v), "t must"),
            ("mse x", lambda w, v: w.mse.forward(v, w.x), "x must"),
            ("mse t", lambda w, v: w.mse.forward(w.x, v), "t must"),
            ("update", lambda w, v: w.sgd.update({"p": w.x}, {"p": v}), "grads['p']"),
            ("parameter", lambda w, v: w.sgd.update({"p": v}, {"p": w.x}), "params['p']"),
        )
        for what, value in ARRAYS
    ),
    # optimizers
    *(
        (f"{kind} {options}", lambda w, k=kind, o=options: optimizers.CLASSES[k](**o), error, text)
        for kind in optimizers.CLASSES
        for options, error, text in (
            ({"lr": -0.1}, ValueError, "lr must be a number >= 0, got -0.1"),
            ({"lr": math.nan}, ValueError, "lr must be a number"),
            ({"lr": math.inf}, ValueError, "lr must be a number"),
            ({"lr": "fast"}, TypeError, "lr must be a number"),
            ({"lr": None}, TypeError, "lr must be a number"),
            ({"weight_decay": -1}, ValueError, "weight_decay must be a number >= 0"),
            ({"weight_decay": math.inf}, ValueError, "weight_decay must be a number"),
        )
    ),
    *(
        (
            f"{kind} {options}",
            lambda w, k=kind, o=options: optimizers.CLASSES[k](**o),
            ValueError,
            next(iter(options)) + " must be a number",
        )
        for kind, options in (
            ("Momentum", {"momentum": 1.1}),
            ("Nesterov", {"momentum": -0.1}),
            ("Momentum", {"momentum": math.nan}),
            ("AdaGrad", {"eps": 0}),
            ("AdaGrad", {"eps": math.inf}),
            ("RMSProp", {"eps": -1}),
            ("RMSProp", {"decay_rate": 2}),
            ("Adam", {"beta1": 1.0}),
            ("Adam", {"beta2": 1.0}),
            ("Adam", {"beta2": -0.5}),
            ("AdamW", {"eps": 0.0}),
            ("Muon", {"momentum": 1.1}),
            ("Muon", {"adamw_factor": -1}),
            ("Muon", {"beta1": 1.0}),
        )
    ),
    ("params list", lambda w: w.adam.update([1], {}), TypeError, "params must be a dict"),
    ("grads None", lambda w: w.adam.update(w.params, None), TypeError, "grads must be a dict"),
    (
        "gradient missing",
        lambda w: w.adam.update(w.params, without(w.grads, "z")),
        (ValueError, KeyError),
        "'z'",
    ),
    (
        "gradient surplus",
        lambda w: w.adam.update(w.params, changed(w.grads, q=w.x)),
        (ValueError, KeyError),
        "'q'",
    ),
    (
        "gradient shape",
        lambda w: w.adam.update(w.params, changed(w.grads, z=np.ones(3))),
        ValueError,
        "grads['z'] must have the shape of its parameter, (2,)",
    ),
    (
        "gradient broadcast",
        lambda w: w.adam.update(w.params, changed(w.grads, a=np.ones((1, 3), F4))),
        ValueError,
        "grads['a']",
    ),
    (
        "gradient number",
        lambda w: w.adam.update(w.params, changed(w.grads, a=1.0)),
        (TypeError, ValueError),
        "grads['a']",
    ),
    (
        "gradient array for a number",
        lambda w: w.adam.update(w.params, changed(w.grads, n=np.ones(2))),
        (TypeError, ValueError),
        "grads['n']",
    ),
    (
        "gradient bool for a number",
        lambda w: w.adam.update(w.params, changed(w.grads, n=True)),
        TypeError,
        "grads['n']",
    ),
    (
        "gradient complex number",
        lambda w: w.adam.update(w.params, changed(w.grads, n=1j)),
        TypeError,
        "grads['n']",
    ),
    (
        "gradient string for a number",
        lambda w: w.adam.update(w.params, changed(w.grads, n="1")),
        TypeError,
        "grads['n']",
    ),
    ("gradient None", lambda w: w.adam.update(w.params, changed(w.grads, n=None)), TypeError, "grads['n']"),
    (
        "gradient sparse for a number",
        lambda w: w.adam.update(w.params, changed(w.grads, n=w.rows)),
        TypeError,
        "grads['n']",
    ),
    (
        "parameter int",
        lambda w: w.adam.update(changed(w.params, z=np.ones(2, int)), w.grads),
        TypeError,
        "params['z'] must be a float32 or float64",
    ),
    (
        "parameter half",
        lambda w: w.adam.update(changed(w.params, z=np.ones(2, "f2")), w.grads),
        TypeError,
        "params['z']",
    ),
    (
        "parameter read-only",
        lambda w: w.adam.update(changed(w.params, z=read_only(np.ones(2))), w.grads),
        ValueError,
        "params['z'] is read-only",
    ),
    ("parameter None", lambda w: w.adam.update(changed(w.params, n=None), w.grads), TypeError, "params['n']"),
    ("parameter bool", lambda w: w.adam.update(changed(w.params, n=True), w.grads), TypeError, "params['n']"),
    (
        "parameter grown",
        lambda w: w.adam.update(changed(w.params, z=np.ones(3)), changed(w.grads, z=np.ones(3))),
        ValueError,
        "'z'",
    ),
    (
        "parameter of another dtype",
        lambda w: w.adam.update(changed(w.params, z=np.ones(2, F4)), w.grads),
        ValueError,
        "'z'",
    ),
    ("parameter giant", lambda w: w.adam.update({"g": HUGE}, {"g": HUGE}), TOO_MUCH, "params['g']"),
    (
        "number now an array",
        lambda w: w.adam.update(changed(w.params, n=np.ones(1)), changed(w.grads, n=np.ones(1))),
        ValueError,
        "'n'",
    ),
    (
        "last entry wrong",
        lambda w: w.adam.update(changed(w.params, zz=np.ones(2)), changed(w.grads, zz=np.ones(3))),
        ValueError,
        "grads['zz']",
    ),
    (
        "rows of another table",
        lambda w: w.sparse.update(w.table, {"e": RowSparse([1], np.ones((1, 2), F4), (9, 2))}),
        ValueError,
        "grads['e']",
    ),
    (
        "rows beyond",
        lambda w: w.sparse.update(w.table, {"e": RowSparse([10], np.ones((1, 3), F4), (20, 3))}),
        ValueError,
        "grads['e']",
    ),
    (
        "rows tampered beyond",
        lambda w: w.sparse.update(w.table, {"e": tampered(np.array([1, 9]))}),
        ValueError,
        "grads['e']",
    ),
    (
        "rows tampered negative",
        lambda w: w.sparse.update(w.table, {"e": tampered(np.array([-1, 5]))}),
        ValueError,
        "grads['e']",
    ),
    (
        "rows tampered double",
        lambda w: w.sparse.update(w.table, {"e": tampered(np.array([5, 5]))}),
        ValueError,
        "grads['e']",
    ),
    (
        "rows tampered count",
        lambda w: w.sparse.update(w.table, {"e": tampered(np.array([1, 2, 3]))}),
        ValueError,
        "grads['e']",
    ),
    (
        "rows tampered float",
        lambda w: w.sparse.update(w.table, {"e": tampered(np.array([1.0, 5.0]))}),
        TypeError,
        "grads['e'].rows",
    ),
    (
        "rows tampered list",
        lambda w: w.sparse.update(w.table, {"e": tampered([1, 5])}),
        TypeError,
        "grads['e'].rows",
    ),
    (
        "rows tampered strided",
        lambda w: w.sparse.update(w.table, {"e": tampered(np.array([1, 0, 5])[::2])}),
        TypeError,
        "grads['e'].rows",
    ),
    (
        "rows tampered endian",
        lambda w: w.sparse.update(w.table, {"e": tampered(np.array([1, 5], ">i8"))}),
        TypeError,
        "grads['e'].rows",
    ),
    (
        "rows tampered unaligned",
        lambda w: w.sparse.update(w.table, {"e": tampered(unaligned(np.array([1, 5])))}),
        TypeError,
        "grads['e'].rows",
    ),
    ("state of another optimizer", lambda w: w.adam.load_state_dict(w.sgd.state_dict()), ValueError, "Adam"),
    ("state not a dict", lambda w: w.adam.load_state_dict(None), ValueError, "d must be a dict"),
    (
        "state without step",
        lambda w: w.adam.load_state_dict(without(w.adam.state_dict(), "step")),
        ValueError,
        "step",
    ),
    (
        "state step",
        lambda w: w.adam.load_state_dict(changed(w.adam.state_dict(), step=-1)),
        ValueError,
        "step",
    ),
    (
        "state slot",
        lambda w: w.adam.load_state_dict(changed(w.adam.state_dict(), state={"m": {}})),
        ValueError,
        "state",
    ),
    (
        "state array",
        lambda w: w.adam.load_state_dict(
            changed(w.adam.state_dict(), state={"m": {"a": "x"}, "v": {"a": "x"}})
        ),
        TypeError,
        "'a'",
    ),
    ("config", lambda w: optimizers.from_config({"optimizer": "Newton"}), ValueError, "Newton"),
    ("config None", lambda w: optimizers.from_config(None), ValueError, "config"),
    ("config of a function", lambda w: fastnn.SGD(lambda step: 0.1).config(), TypeError, "lr"),
    *(
        (
            f"schedule gives {v!r}",
            lambda w, v=v: fastnn.Adam(lambda step: v).update(w.params, w.grads),
            (TypeError, ValueError),
            "lr must be a number >= 0",
        )
        for v in (-1.0, math.nan, math.inf, None, "x", 1j)
    ),
    # Sequential and mlp
    ("layers None", lambda w: fastnn.Sequential(None), TypeError, "layers must be an iterable"),
    ("layers empty", lambda w: fastnn.Sequential([]), ValueError, "layers must hold at least one layer"),
    (
        "layers[1]",
        lambda w: fastnn.Sequential([w.relu, 3]),
        TypeError,
        "layers[1] must have forward and backward",
    ),
    ("layer twice", lambda w: fastnn.Sequential([w.relu, w.relu]), ValueError, "each layer once"),
    ("network in network", lambda w: fastnn.Sequential([w.net]), TypeError, "layers[0]"),
    (
        "dtypes differ",
        lambda w: fastnn.Sequential([w.affine, fastnn.Affine.create(3, 2, dtype=F8)]),
        TypeError,
        "1.W",
    ),
    *(
        (f"mlp {args}", lambda w, a=args: fastnn.mlp(**a), error, text)
        for args, error, text in (
            ({"sizes": []}, ValueError, "sizes must hold at least two integers"),
            ({"sizes": [3]}, ValueError, "sizes must hold at least two integers"),
            ({"sizes": 5}, ValueError, "sizes must hold at least two integers"),
            ({"sizes": "34"}, ValueError, "sizes must hold at least two integers"),
            ({"sizes": [3, 0]}, ValueError, "sizes[1] must be an integer >= 1"),
            ({"sizes": [3, 2.5]}, TypeError, "sizes[1] must be an integer"),
            ({"sizes": [3, 2], "activation": "swish"}, ValueError, "activation must be one of relu"),
            ({"sizes": [3, 2], "activation": None}, TypeError, "activation must be one of relu"),
            ({"sizes": [3, 2], "batch_norm": 1}, TypeError, "batch_norm must be True or False"),
            ({"sizes": [3, 2], "dropout": 1.0}, ValueError, "dropout must be a number in [0, 1)"),
            ({"sizes": [3, 2], "init": "magic"}, ValueError, "init"),
            ({"sizes": [3, 2], "seed": -1}, ValueError, "seed"),
            ({"sizes": [3, 2], "seed": 1.5}, TypeError, "seed"),
            ({"sizes": [3, 2], "dtype": "i4"}, TypeError, "dtype must be float32 or float64"),
        )
    ),
    # Trainer
    (
        "trainer net",
        lambda w: fastnn.Trainer(None, w.softmax, w.adam),
        TypeError,
        "net must be an object with forward and backward",
    ),
    ("trainer loss", lambda w: fastnn.Trainer(w.net, "softmax", w.adam), TypeError, "loss must be an object"),
    (
        "trainer loss class",
        lambda w: fastnn.Trainer(w.net, fastnn.SoftmaxCrossEntropy, w.adam),
        TypeError,
        "loss must be an object",
    ),
    (
        "trainer optimizer",
        lambda w: fastnn.Trainer(w.net, w.softmax, 0.1),
        TypeError,
        "optimizer must be an object with update",
    ),
    *(
        (
            f"clip_norm {c!r}",
            lambda w, c=c: fastnn.Trainer(w.net, w.softmax, w.adam, c),
            error,
            "clip_norm must be a number > 0",
        )
        for c, error in (
            (0, ValueError),
            (-1.0, ValueError),
            (math.nan, ValueError),
            ("1", TypeError),
            (True, TypeError),
        )
    ),
    *(
        (
            f"trainer seed {s!r}",
            lambda w, s=s: fastnn.Trainer(w.net, w.softmax, w.adam, seed=s),
            error,
            "seed must be an integer in [0, 2**64)",
        )
        for s, error in ((-1, ValueError), (2**64, ValueError), (None, TypeError), (0.5, TypeError))
    ),
    *(
        (
            f"nonfinite {n!r}",
            lambda w, n=n: fastnn.Trainer(w.net, w.softmax, w.adam, nonfinite=n),
            error,
            "nonfinite must be one of raise, ignore",
        )
        for n, error in (("warn", ValueError), (None, TypeError), (True, TypeError))
    ),
    *(
        (f"fit {options}", lambda w, o=options: w.trainer.fit(w.x, w.labels, **o), error, text)
        for options, error, text in (
            ({"epochs": -1}, ValueError, "epochs must be an integer >= 0"),
            ({"epochs": 1.5}, TypeError, "epochs must be an integer"),
            ({"batch_size": 0}, ValueError, "batch_size must be an integer >= 1"),
            ({"batch_size": None}, TypeError, "batch_size must be an integer"),
            ({"shuffle": "yes"}, TypeError, "shuffle must be True or False"),
            ({"validation": 0.1}, TypeError, "validation must be (x, t)"),
            ({"validation": (np.ones((2, 4)),)}, TypeError, "validation must be (x, t)"),
            (
                {"validation": (np.ones((2, 4)), np.zeros(3, int))},
                ValueError,
                "validation t must have as many rows",
            ),
            ({"validation": (np.ones((0, 4)), np.zeros(0, int))}, ValueError, "validation x must have shape"),
            ({"callbacks": print}, TypeError, "callbacks must be an iterable of functions"),
            ({"callbacks": [1]}, TypeError, "callbacks[0] must be callable"),
            ({"progress": "bar"}, TypeError, "progress must be True or False"),
            ({"sample_weight": np.ones(5)}, ValueError, "sample_weight must have shape (6,)"),
            ({"sample_weight": np.zeros(6)}, ValueError, "sample_weight"),
            ({"sample_weight": -np.ones(6)}, ValueError, "sample_weight"),
        )
    ),
    ("fit x None", lambda w: w.trainer.fit(None, w.labels), TypeError, "x must be an array"),
    (
        "fit x empty",
        lambda w: w.trainer.fit(w.x[:0], w.labels[:0]),
        ValueError,
        "x must have shape (N, ...) with N >= 1",
    ),
    ("fit x scalar", lambda w: w.trainer.fit(3.0, w.labels), ValueError, "x must have shape"),
    (
        "fit t rows",
        lambda w: w.trainer.fit(w.x, w.labels[:5]),
        ValueError,
        "t must have as many rows as x, 6",
    ),
    ("fit t strings", lambda w: w.trainer.fit(w.x, ["a"] * 6), TypeError, "t must hold real numbers"),
    (
        "evaluate rows",
        lambda w: w.trainer.evaluate(w.x, w.labels[:5]),
        ValueError,
        "t must have as many rows",
    ),
    (
        "evaluate batch",
        lambda w: w.trainer.evaluate(w.x, w.labels, batch_size=0),
        ValueError,
        "batch_size must be an integer >= 1",
    ),
]
TABLE += [
    (f"{name} scale {scale!r}", lambda w, f=f, s=scale: f(w, s), error, text)
    for name, f in (
        ("fit", lambda w, s: w.trainer.fit(w.x, w.labels, scale=s)),
        ("evaluate", lambda w, s: w.trainer.evaluate(w.x, w.labels, scale=s)),
        ("predict", lambda w, s: w.net.predict(w.x, scale=s)),
    )
    for scale, error, text in (
        ("1/255", TypeError, "scale must be a number"),
        (None, TypeError, "scale must be a number"),
        (True, TypeError, "scale must be a number"),
        (np.ones(4), TypeError, "scale must be a number"),
        (math.nan, ValueError, "scale must be a number"),
        (math.inf, ValueError, "scale must be a number"),
        (1e39, ValueError, "scale must be finite in float32, got 1e+39"),
    )
]
# These go through layers that remember their input: what may not change is the state of the training.
STEPS = [
    ("forward columns", lambda w: w.net.forward(w.dout), ValueError, "x must"),
    ("forward None", lambda w: w.net.forward(None), (TypeError, ValueError), "x must"),
    ("forward empty", lambda w: w.net.forward(w.x[:0]), ValueError, "x must have at least 2 rows"),
    ("backward alone", lambda w: w.net.backward(w.x), RuntimeError, "backward before forward"),
    ("predict scalar", lambda w: w.net.predict(1.0), ValueError, "x must have shape (N, ...)"),
    ("predict batch", lambda w: w.net.predict(w.x, 0), ValueError, "batch_size must be an integer >= 1"),
    ("state missing", lambda w: w.net.load_state_dict(without(w.net.state_dict(), "0.W")), ValueError, "0.W"),
    ("state surplus", lambda w: w.net.load_state_dict(changed(w.net.state_dict(), q=w.x)), ValueError, "q"),
    (
        "state shape",
        lambda w: w.net.load_state_dict(changed(w.net.state_dict(), **{"3.b": w.x})),
        ValueError,
        "3.b",
    ),
    (
        "state dtype",
        lambda w: w.net.load_state_dict(changed(w.net.state_dict(), **{"3.b": np.ones(3, int)})),
        TypeError,
        "3.b",
    ),
    ("state None", lambda w: w.net.load_state_dict(None), TypeError, "d must be a dict"),
    ("step label", lambda w: w.trainer.step(w.x, w.labels + 1), ValueError, "[0, 3)"),
    ("step label float", lambda w: w.trainer.step(w.x, w.labels + 0.5), TypeError, "t must"),
    ("step label rows", lambda w: w.trainer.step(w.x, w.labels[:3]), ValueError, "t must"),
    ("step weights", lambda w: w.trainer.step(w.x, w.labels, np.zeros(6)), ValueError, "sample_weight"),
    ("step x columns", lambda w: w.trainer.step(w.dout, w.labels), ValueError, "x must"),
    ("step x complex", lambda w: w.trainer.step(w.x * 1j, w.labels), TypeError, "x must hold real numbers"),
    ("step empty", lambda w: w.trainer.step(w.x[:0], w.labels[:0]), ValueError, "x must"),
    (
        "fit label in the first batch",
        lambda w: w.trainer.fit(w.x, w.labels + 1, batch_size=6),
        ValueError,
        "[0, 3)",
    ),
    *(
        (f"fit {options}", lambda w, o=options: w.trainer.fit(w.x, w.labels, **o), error, text)
        for options, error, text in (
            ({"class_weight": "even"}, ValueError, "class_weight must be one of balanced, got 'even'"),
            ({"class_weight": {3: 1.0}}, ValueError, "a label of class_weight must be an integer in [0, 2]"),
            ({"class_weight": {"0": 1.0}}, TypeError, "a label of class_weight must be an integer"),
            ({"class_weight": {0: -1}}, ValueError, "class_weight[0] must be a number >= 0"),
            ({"class_weight": {0: math.inf}}, ValueError, "class_weight[0] must be a number >= 0"),
            ({"class_weight": {0: "1"}}, TypeError, "class_weight[0] must be a number >= 0"),
            ({"class_weight": [1.0, 2.0]}, ValueError, "class_weight must be a dict,"),
            ({"class_weight": 2.0}, ValueError, "array of shape (3,), got ()"),
            ({"class_weight": ["a"] * 3}, TypeError, "class_weight must hold real numbers"),
            ({"class_weight": [1, -1, 1]}, ValueError, "class_weight must hold finite numbers >= 0"),
            ({"class_weight": [1, math.nan, 1]}, ValueError, "class_weight must hold finite numbers >= 0"),
            ({"class_weight": [1, math.inf, 1]}, ValueError, "class_weight must hold finite numbers >= 0"),
            ({"class_weight": [0, 0, 0]}, ValueError, "class_weight, times sample_weight, must hold"),
            (
                {"class_weight": {0: 0}, "sample_weight": [1, 0, 0, 1, 0, 0]},
                ValueError,
                "class_weight, times sample_weight, must hold finite numbers >= 0 with a sum > 0",
            ),
        )
    ),
]


def training_state(w):
    return pickle.dumps(
        (
            w.net.state_dict(),
            w.trainer.optimizer.state_dict(),
            w.trainer.steps,
            w.trainer.epochs,
            w.x,
            w.labels,
            w.dout,
        )
    )


def check(call, error, text, state):
    w = world()
    threads = fastnn.get_num_threads()
    before = state(w)
    with pytest.raises(error) as raised:
        call(w)
    assert text in str(raised.value)
    assert state(w) == before
    assert fastnn.get_num_threads() == threads


@pytest.mark.parametrize(("call", "error", "text"), [pytest.param(*row, id=name) for name, *row in TABLE])
def test_refused_and_nothing_changed(call, error, text):
    check(call, error, text, pickle.dumps)


@pytest.mark.parametrize(("call", "error", "text"), [pytest.param(*row, id=name) for name, *row in STEPS])
def test_refused_in_training_and_nothing_changed(call, error, text):
    check(call, error, text, training_state)


def test_the_world_is_compared():
    w = world()
    before = pickle.dumps(w)
    assert pickle.dumps(w) == before == pickle.dumps(world())
    w.norm.running_mean[0] += 1
    assert pickle.dumps(w) != before


FRESH = {
    "Affine": lambda: fastnn.Affine.create(4, 3, rng=0),
    "BatchNorm": lambda: fastnn.BatchNorm.create(4),
    "Dropout": lambda: fastnn.Dropout(seed=1),
    "Embedding": lambda: fastnn.Embedding.create(4, 3, rng=0),
    **{kind: getattr(fastnn, kind) for kind in ACTIVATIONS},
}


@pytest.mark.parametrize("kind", FRESH)
def test_backward_before_forward(kind):
    layer = FRESH[kind]()
    with pytest.raises(RuntimeError, match=f"{kind}: backward before forward"):
        layer.backward(np.ones((2, 3), F4))
    assert layer.grads == {}


@pytest.mark.parametrize("kind", ["Affine", "BatchNorm", "Embedding"])
def test_a_refused_first_backward_leaves_no_gradients(kind):
    layer = FRESH[kind]()
    layer.forward(np.zeros((2, 4), int))
    with pytest.raises(ValueError, match="dout"):
        layer.backward(np.ones((1, 1), F4))
    assert layer.grads == {}


# What the user's hands may do to the arrays and dicts that a layer shows. What crashed would take the
# tests with it, so it is another process.

NONSENSE = {
    "a parameter": """
        layer = {layer}
        layer.forward(x)
        name = next(iter(layer.params))
        layer.params[name] = {value}
        layer.forward(x)
        raise SystemExit("accepted")
    """,
    "a parameter between the passes": """
        layer = {layer}
        layer.forward(x)
        layer.params[next(iter(layer.params))] = {value}
        layer.backward(np.ones((2, 3 if type(layer).__name__ == "Affine" else 4), "f4"))
        raise SystemExit("accepted")
    """,
    "a gradient": """
        layer = {layer}
        y = layer.forward(x)
        layer.backward(y)
        layer.grads[next(iter(layer.grads))] = {value}
        layer.backward(y)
        raise SystemExit("accepted")
    """,
    "all running statistics": """
        layer = fastnn.BatchNorm.create(4)
        layer.running_var = layer.running_mean = {value}
        layer.forward(x)
        raise SystemExit("accepted")
    """,
    "the state of an optimizer": """
        adam = fastnn.Adam()
        adam.update({{"w": np.ones(3, "f4")}}, {{"w": np.ones(3, "f4")}})
        adam.state["m"]["w"] = {value}
        adam.update({{"w": np.ones(3, "f4")}}, {{"w": np.ones(3, "f4")}})
        raise SystemExit("accepted")
    """,
    "a moment of an optimizer": """
        adam = fastnn.Adam()
        adam.state["v"] = {value}
        adam.update({{"w": np.ones(3, "f4")}}, {{"w": np.ones(3, "f4")}})
        raise SystemExit("accepted")
    """,
}
VALUES = [
    "None",
    "'x'",
    "3.0",
    "[1.0]",
    "np.ones((1, 1), 'f4')",
    "np.ones(2)",
    "np.ones((2, 2), int)",
    "np.ones(4, object)",
]


LAYERS = {"Affine": "fastnn.Affine.create(4, 3, rng=0)", "BatchNorm": "fastnn.BatchNorm.create(4)"}


@pytest.mark.parametrize(
    ("what", "layer"),
    [(what, layer) for what, code in NONSENSE.items() for layer in (LAYERS if "{layer}" in code else [""])],
)
def test_nonsense_put_in_place_of(what, layer):
    """An error, and never a crash: no input from Python can end the process."""
    code = NONSENSE[what].format(layer=LAYERS.get(layer), value="@")
    run_python(f"""
        import textwrap, numpy as np, fastnn
        x = np.ones((2, 4), "f4")
        for value in {VALUES}:
            try:
                exec(textwrap.dedent({code!r}).replace("@", value))
            except SystemExit as error:
                raise SystemExit(f"{{error}}: {{value}}")
            except Exception:
                pass
    """)


def test_shapes_changed_in_place_between_the_passes():
    run_python(
        """
        import contextlib, numpy as np, fastnn
        makers = [lambda: fastnn.Affine.create(4, 3), lambda: fastnn.BatchNorm.create(4), fastnn.ReLU]
        for make in [*makers, fastnn.GELU, lambda: fastnn.Embedding.create(4, 3)]:
            for shape in ((16,), (2, 8), (8, 2), (4, 2, 2)):
                layer = make()
                x = np.ones((4, 4), np.int64 if isinstance(layer, fastnn.Embedding) else np.float32)
                layer.forward(x)
                x.shape = shape
                for columns in (3, 4):
                    with contextlib.suppress(ValueError):
                        layer.backward(np.ones((4, columns), np.float32))
    """,
        PYTHONWARNINGS="ignore",
    )


def test_weights_replaced_by_a_layer_of_another_shape_between_the_passes():
    layer = fastnn.Affine.create(4, 3, rng=0)
    layer.forward(np.ones((2, 4), F4))
    layer.params["W"] = np.ones((5, 3), F4)
    layer.grads.clear()
    with pytest.raises(ValueError, match="W must"):
        layer.backward(np.ones((2, 3), F4))


def test_a_fit_on_a_bad_row_is_refused_before_the_first_step():
    w = world()
    before = w.net.state_dict(), copy.deepcopy(w.trainer.optimizer.state)
    labels = np.eye(3, dtype=F4)[np.concatenate([w.labels, [0, 1, 0]])]
    labels[-2] = 0.9
    x = np.concatenate([w.x, w.x[:3]])
    with pytest.raises(ValueError, match="sum to 1"):
        w.trainer.fit(x, labels, batch_size=3, shuffle=False)
    assert (w.trainer.steps, w.trainer.epochs) == (1, 0)
    assert_same_bits(w.net.state_dict(), before[0])
    assert_same_bits(w.trainer.optimizer.state, before[1])


@pytest.mark.parametrize("part", ["x", "validation"])
def test_a_fit_on_wrong_data_is_refused_before_the_first_step(part):
    w = world()
    before = w.net.state_dict()
    labels = w.labels.copy()
    labels[-1] = 9
    wrong = {"x": (w.x, labels, None), "validation": (w.x, w.labels, (w.x[:, :2], w.labels))}[part]
    with pytest.raises(ValueError, match=r"validation x must|\[0, 3\)"):
        w.trainer.fit(wrong[0], wrong[1], batch_size=1, validation=wrong[2])
    assert w.trainer.steps == 1
    assert_same_bits(w.net.state_dict(), before)


def test_predictions_may_be_changed_between_the_passes():
    """`y` is for the user: backward does not look at what it is replaced by, or at its shape."""
    for value in (None, np.zeros((1, 1), F4), np.zeros(3)):
        loss = fastnn.SoftmaxCrossEntropy()
        loss.forward(np.ones((2, 3), F4), np.array([0, 2]))
        expected = loss.backward()
        loss.y.shape = (6, 1)
        loss.y = value
        assert_same_bits(loss.backward(), expected)


def test_keyword_only_options():
    for call in (
        lambda: fastnn.Dropout(0.5, True),
        lambda: fastnn.Adam(0.1, 0.9, 0.99, 1e-8),
        lambda: fastnn.SGD(0.1, 0.2),
        lambda: fastnn.BatchNorm(np.ones(1), np.ones(1), 0.9, None, None, 1e-5),
        lambda: fastnn.mlp([1, 2], "relu"),
        lambda: fastnn.Trainer(world().net, fastnn.Huber(), fastnn.SGD(), None, 0, None, "raise"),
        lambda: schedules.StepDecay(0.1, 0.5, 10, 1),
    ):
        with pytest.raises(TypeError, match="positional"):
            call()


def test_errors_leave_an_object_usable():
    w = world()
    expected = copy.deepcopy(w.norm).backward(w.x)
    for _ in range(3):
        with pytest.raises(ValueError, match="dout"):
            w.norm.backward(w.dout)
    assert_same_bits(w.norm.backward(w.x), expected)
