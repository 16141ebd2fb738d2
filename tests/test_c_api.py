"""The C interface: signatures that stay, bits that are Python's, statuses, and extensions that use it."""

import ctypes
import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

import numpy as np
import pytest

import fastnn
from fastnn import _core
from fastnn.cython import api
from native import PYTHON
from tolerances import assert_same_bits

HERE = Path(__file__).parent
PACKAGE = Path(fastnn.__file__).parent
HEADER = Path(fastnn.get_include()) / "fastnn.h"
OK, INVALID, RANGE, MEMORY, IN_USE, NONFINITE = range(6)
GIL = ("network_open", "network_close")
LL = ctypes.c_longlong
TYPES = {
    "int": ctypes.c_int,
    "unsigned int": ctypes.c_uint,
    "PY_LONG_LONG": LL,
    "unsigned PY_LONG_LONG": ctypes.c_ulonglong,
    "double": ctypes.c_double,
    "void": None,
    "char const *": ctypes.c_char_p,
}
get_name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", ctypes.pythonapi))
get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def signatures():
    return {name: get_name(capsule).decode() for name, capsule in api.__pyx_capi__.items()}


def function(name):
    """Return a function of the table, which takes arrays as pointers."""
    signature = signatures()[name]
    result, arguments = re.fullmatch(r"(.*?) ?\((.*)\)", signature).groups()
    types = [TYPES.get(text, ctypes.c_void_p) for text in [result, *arguments.split(", ")]]
    if name == "network_open":
        types[1] = ctypes.py_object
    kind = ctypes.PYFUNCTYPE if name in GIL else ctypes.CFUNCTYPE
    call = kind(*types)(get_pointer(api.__pyx_capi__[name], signature.encode()))

    def called(*values):
        return call(*(v.ctypes.data if isinstance(v, np.ndarray) else v for v in values))

    return called


class Functions:
    """The functions for one type of numbers."""

    def __init__(self, suffix):
        self.suffix = suffix

    def __getattr__(self, name):
        return function(name if name in signatures() else f"{name}_{self.suffix}")


@pytest.fixture(params=["f32", "f64"])
def c(request):
    return Functions(request.param)


@pytest.fixture
def dtype(c):
    return np.dtype({"f32": "f4", "f64": "f8"}[c.suffix])


def normal(dtype, *shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


# What stays as it is


def test_signatures_do_not_change():
    stored = dict(line.split(": ", 1) for line in (HERE / "c_functions.txt").read_text().splitlines())
    assert signatures() == stored  # new ones are added to the file; the others must stay


def test_the_table_is_in_the_order_of_the_header():
    class Head(ctypes.Structure):
        _fields_ = (("major", ctypes.c_int), ("minor", ctypes.c_int), ("size", ctypes.c_ulonglong))

    address = get_pointer(_core._C_API, b"fastnn._core._C_API")
    head = Head.from_address(address)
    text = HEADER.read_text()
    major, minor = (int(re.search(rf"API_{v} (\d+)", text)[1]) for v in ("MAJOR", "MINOR"))
    assert (head.major, head.minor) == (major, minor)
    kernels, table = text.split("#define FASTNN_KERNELS")[1].split("/* Handles", 1)
    table = table.split("typedef struct fastnn_api {")[1].split("} fastnn_api;")[0]
    names = []
    for line in re.findall(r"FASTNN_KERNELS\(\w+, \w+\)|\(\*\w+\)", table):
        suffix = re.search(r", (\w+)\)", line)
        names += (
            [name + suffix[1] for name in re.findall(r"\(\*(\w+)##suffix\)", kernels)]
            if suffix
            else [line[2:-1]]
        )
    assert sorted(names) == sorted(signatures())
    assert head.size == ctypes.sizeof(Head) + 8 * len(names)
    for i, name in enumerate(names):
        pointer = ctypes.c_void_p.from_address(address + ctypes.sizeof(Head) + 8 * i).value
        assert pointer == get_pointer(api.__pyx_capi__[name], signatures()[name].encode()), name


def test_the_first_header_is_what_the_header_begins_as():
    """Names and signatures of the first version, in its order, are the first of today's."""

    def fields(path):
        text = path.read_text().split("#define FASTNN_KERNELS")[1]
        return re.findall(r"\(\*\w+\)\([^;]*\);", re.sub(r"\\\n|/\*.*?\*/", " ", text, flags=re.S))

    first, now = fields(HERE / "fastnn_1_0.txt"), fields(HEADER)
    squeezed = [[re.sub(r"\s+", " ", field) for field in one] for one in (first, now)]
    assert squeezed[1][: len(squeezed[0])] == squeezed[0]


# Kernels


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_matmul(c, dtype, threads, turned):
    a, b = normal(dtype, 33, 70)[::2, 5:], normal(dtype, 20, 65, seed=1).T
    out = np.full((20, 17), np.nan, dtype).T if turned else np.full((17, 24), np.nan, dtype)[:, :20]
    strides = [s // dtype.itemsize for array in (a, b, out) for s in array.strides]
    sizes = (17, 20, 65)
    assert c.matmul(threads, *sizes, a, *strides[:2], b, *strides[2:4], out, *strides[4:]) == OK
    assert_same_bits(out, fastnn.matmul(a, b, out=np.empty_like(out)))


def test_affine(c, dtype):
    layer = fastnn.Affine.create(30, 20, rng=0, dtype=dtype)
    layer.b[...] = normal(dtype, 20)
    x, dy = normal(dtype, 60, 9).T[:, ::2], normal(dtype, 9, 20)
    y, dx, dw, db = (np.empty(shape, dtype) for shape in ((9, 20), (9, 30), (30, 20), (20,)))
    strides = [s // dtype.itemsize for s in x.strides]
    assert c.affine_forward(0, 9, 30, 20, x, *strides, layer.W, layer.b, y) == OK
    assert_same_bits(y, layer.forward(x))
    assert c.affine_backward(0, 9, 30, 20, x, *strides, layer.W, dy, dx, dw, db) == OK
    assert_same_bits(dx, layer.backward(dy))
    assert_same_bits({"W": dw, "b": db}, layer.grads)
    dw[...] = 0
    assert c.affine_backward(0, 9, 30, 20, x, *strides, layer.W, dy, None, dw, db) == OK
    assert_same_bits(dw, layer.dW)


@pytest.mark.parametrize("train", [1, 0])
def test_batchnorm(c, dtype, train):
    layer = fastnn.BatchNorm.create(20, dtype=dtype)
    layer.gamma[...], layer.beta[...] = normal(dtype, 2, 20)
    mean, var = layer.running_mean.copy(), layer.running_var.copy()
    x, dy = normal(dtype, 9, 20), normal(dtype, 9, 20, seed=1)
    y, dx = np.empty((2, 9, 20), dtype)
    saved, gradients = np.empty((2, 20), dtype), np.empty((2, 20), dtype)
    args = x, layer.gamma, layer.beta, mean, var, 0.9, 1e-5, saved[0], saved[1], y
    assert c.batchnorm_forward(0, train, 9, 20, *args) == OK
    assert_same_bits(y, layer.forward(x, bool(train)))
    assert_same_bits([mean, var], [layer.running_mean, layer.running_var])
    assert c.batchnorm_backward(0, train, 9, 20, x, layer.gamma, *saved, dy, *gradients, dx) == OK
    assert_same_bits(dx, layer.backward(dy))
    assert_same_bits([*gradients], [layer.dgamma, layer.dbeta])


def test_dropout(c, dtype):
    layer = fastnn.Dropout(0.3, seed=5)
    layer.step, layer.stream = 2**33, 7
    x = normal(dtype, 1003)
    y, dx, keep = np.empty_like(x), np.empty_like(x), np.empty(126, np.uint8)
    assert c.dropout_forward(0, 1003, x, 5, 2**33, 7, 0.3, 1 / 0.7, y, keep) == OK
    assert_same_bits(y, layer.forward(x))
    assert c.dropout_backward(0, 1003, x, keep, 1 / 0.7, dx) == OK
    assert_same_bits(dx, layer.backward(x))


@pytest.mark.parametrize("kind", _core.ACTIVATIONS)
def test_activations(c, dtype, kind):
    layers = {function: cls for cls, function in fastnn.layers.ACTIVATIONS.items()}
    layer = fastnn.GELU("tanh") if kind == "gelu_tanh" else layers[kind]()
    x, dy = 3 * normal(dtype, 101), normal(dtype, 101, seed=1)
    y, dx = np.empty_like(x), np.empty_like(x)
    number = int(re.search(rf"FASTNN_{kind.upper()} = (\d+)", HEADER.read_text())[1])
    assert c.activation_forward(0, number, 0.01, 101, x, y) == OK
    assert_same_bits(y, layer.forward(x))
    assert c.activation_backward(0, number, 0.01, 101, x, y, dy, dx) == OK
    assert_same_bits(dx, layer.backward(dy))


@pytest.mark.parametrize("weighted", [False, True])
def test_softmax_cross_entropy(c, dtype, weighted):
    loss = fastnn.SoftmaxCrossEntropy()
    x, labels = normal(dtype, 9, 20), np.arange(9, dtype=np.int64)
    weight = np.linspace(0, 2, 9) if weighted else None
    y, dx, value = np.empty_like(x), np.empty_like(x), np.empty(1)
    assert c.softmax_cross_entropy(0, 9, 20, x, labels, weight, y, value) == OK
    assert value[0] == loss.forward(x, labels, weight)
    assert_same_bits(y, loss.y)
    assert c.softmax_cross_entropy_backward(0, 9, 20, y, labels, weight, 0.5, dx) == OK
    assert_same_bits(dx, loss.backward(0.5))


@pytest.mark.parametrize("name", ["SGD", "Momentum", "Nesterov", "AdaGrad", "RMSProp", "Adam", "AdamW"])
def test_optimizers(c, dtype, name):
    optimizer = getattr(fastnn, name)(0.1, weight_decay=0.01)
    number = int(re.search(rf"FASTNN_{name.upper()} = (\d+)", HEADER.read_text())[1])
    p, mine = normal(dtype, 1003), normal(dtype, 1003)
    states = np.zeros((2, 1003), dtype)
    betas = {
        "Adam": (0.9, 0.999),
        "AdamW": (0.9, 0.999),
        "RMSProp": (0.99, 0),
        "SGD": (0, 0),
        "AdaGrad": (0, 0),
    }
    for step in range(1, 4):
        g = normal(dtype, 1003, seed=step)
        optimizer.update({"p": p}, {"p": g})
        numbers = 0.1, 0.01, *betas.get(name, (0.9, 0)), getattr(optimizer, "eps", 0.0)
        assert c.optimizer_update(0, number, *numbers, step, 1003, g, mine, *states) == OK
        assert_same_bits(mine, p)


def test_embedding(c, dtype):
    layer = fastnn.Embedding.create(30, 5, rng=0, init=1.0, dtype=dtype)
    x, dy = np.array([3, 7, 3, 29, 0, 7, 7]), normal(dtype, 7, 5)
    y, rows, values, count = (
        np.empty((7, 5), dtype),
        np.empty(7, np.int64),
        np.empty((7, 5), dtype),
        np.empty(1, np.int64),
    )
    assert c.embedding_forward(0, 7, 30, 5, x, layer.W, y) == OK
    assert_same_bits(y, layer.forward(x))
    assert c.embedding_backward(0, 7, 30, 5, x, dy, rows, values, count) == OK
    layer.backward(dy)
    assert_same_bits(values[: count[0]], layer.dW.values)
    np.testing.assert_array_equal(rows[: count[0]], layer.dW.rows)


def test_bad_arguments_change_nothing(c, dtype):
    a, ints, doubles = np.ones(64, dtype), np.zeros(8, np.int64), np.ones(8)
    out, others = np.full((3, 64), 7, dtype), np.full((3, 64), 7, dtype)
    y, z, w = out
    keep = np.zeros(64, np.uint8)
    calls = [
        (c.matmul, (0, -1, 2, 2, a, 2, 1, a, 2, 1, y, 2, 1), INVALID),
        (c.matmul, (0, 2, 2, 2, None, 2, 1, a, 2, 1, y, 2, 1), INVALID),
        (c.matmul, (-1, 2, 2, 2, a, 2, 1, a, 2, 1, y, 2, 1), INVALID),
        (c.matmul, (0, 2, 2, 2, a, 2, 1, a, 2, 1, y, 1, 1), INVALID),
        (c.matmul, (0, 2, 2, 2, a, 2, 1, a, 2, 1, y, 2, 2), INVALID),
        (c.affine_forward, (0, 2, 2, -2, a, 2, 1, a, a, y), INVALID),
        (c.affine_forward, (0, 2, 2, 2, a, 2, 1, a, None, y), INVALID),
        (c.affine_backward, (0, 2, 2, 2, a, 2, 1, a, a, None, None, w), INVALID),
        (c.batchnorm_forward, (0, 1, 1, 4, a, a, a, y, y, 0.9, 1e-5, z, z, w), INVALID),
        (c.batchnorm_forward, (0, 1, 4, 4, a, a, a, y, y, 1.5, 1e-5, z, z, w), INVALID),
        (c.batchnorm_forward, (0, 1, 4, 4, a, a, a, y, y, 0.9, float("nan"), z, z, w), INVALID),
        (c.batchnorm_backward, (0, 1, 1, 4, a, a, a, a, a, y, z, w), INVALID),
        (c.dropout_forward, (0, 8, a, 0, 0, 0, 1.0, 1.0, y, keep), INVALID),
        (c.dropout_backward, (0, 8, a, None, 1.0, y), INVALID),
        (c.activation_forward, (0, 10, 0.0, 8, a, y), INVALID),
        (c.activation_backward, (0, -1, 0.0, 8, a, a, a, y), INVALID),
        (c.activation_backward, (0, 0, 0.0, 8, a, None, a, y), INVALID),
        (c.activation_backward, (0, 5, 0.0, 8, None, a, a, y), INVALID),
        (c.softmax_cross_entropy, (0, 0, 4, a, ints, None, y, doubles), INVALID),
        (c.softmax_cross_entropy, (0, 4, 4, a, ints + 4, None, y, doubles), RANGE),
        (c.softmax_cross_entropy, (0, 4, 4, a, ints - 1, None, y, doubles), RANGE),
        (c.softmax_cross_entropy, (0, 4, 4, a, ints, 0 * doubles, y, doubles), INVALID),
        (c.softmax_cross_entropy, (0, 4, 4, a, ints, -doubles, y, doubles), INVALID),
        (c.softmax_cross_entropy_backward, (0, 4, 4, a, ints + 4, None, 1.0, y), RANGE),
        (c.optimizer_update, (0, 7, 0.1, 0.0, 0.9, 0.9, 1e-8, 1, 8, a, y, z, w), INVALID),
        (c.optimizer_update, (0, 5, 0.1, 0.0, 0.9, 0.9, 1e-8, 0, 8, a, y, z, w), INVALID),
        (c.optimizer_update, (0, 5, 0.1, 0.0, 0.9, 0.9, 1e-8, 1, 8, a, y, z, None), INVALID),
        (c.optimizer_update, (0, 5, float("nan"), 0.0, 0.9, 0.9, 1e-8, 1, 8, a, y, z, w), INVALID),
        (c.embedding_forward, (0, 8, 4, 2, ints + 4, a, y), RANGE),
        (c.embedding_backward, (0, 8, 4, 2, ints - 1, a, ints, y, ints), RANGE),
        (c.embedding_backward, (0, 8, 4, 2, ints, a, ints, y, None), INVALID),
    ]  # fmt: skip
    for call, args, status in calls:
        assert call(*args) == status, args
        assert_same_bits(out, others)
    text = function("status_text")
    assert len({text(status) for status in range(7)}) == 7


def test_nothing_of_nothing_is_done(c, dtype):
    a = np.ones(4, dtype)
    assert c.matmul(0, 0, 4, 4, None, 1, 1, None, 1, 1, None, 4, 1) == OK
    assert c.matmul(0, 2, 2, 0, None, 1, 1, None, 1, 1, a, 2, 1) == OK
    assert (a == 0).all()
    assert c.activation_forward(0, 0, 0.0, 0, None, None) == OK
    assert c.embedding_forward(0, 0, 3, 4, None, None, None) == OK


# Networks


def trainer_of(dtype, loss=None, optimizer=None, **options):
    net = fastnn.mlp([12, 16, 5], batch_norm=True, dropout=0.3, seed=0, dtype=dtype)
    loss = fastnn.SoftmaxCrossEntropy() if loss is None else loss
    return fastnn.Trainer(net, loss, fastnn.Adam(1e-2) if optimizer is None else optimizer, seed=3, **options)


def batches(dtype, steps=6, rows=20):
    return normal(dtype, steps, rows, 12), np.random.default_rng(1).integers(0, 5, (steps, rows))


def everything(trainer):
    state = {"steps": trainer.steps, "step": trainer.optimizer.step, **trainer.net.state_dict()}
    state |= {f"grad {k}": g for k, g in trainer.net.grads.items()}
    for slot, memory in trainer.optimizer.state_dict()["state"].items():
        state |= {f"{slot} {k}": a for k, a in memory.items()}
    if trainer.averaged is not None:
        state |= {f"average {k}": a for k, a in trainer.averaged.state_dict().items()}
    return {name: np.asarray(value) for name, value in state.items()}


@pytest.mark.parametrize(
    "options",
    [{}, {"clip_norm": 0.5}, {"average": 0.9}, {"groups": True}, {"weighted": True}],
    ids=lambda options: next(iter(options), "plain"),
)
def test_steps_are_python_s(c, dtype, options):
    options = dict(options)
    grouped, weighted = options.pop("groups", False), options.pop("weighted", False)
    (x, t), loss = batches(dtype), np.empty(1)
    weight = np.linspace(0, 2, 20) if weighted else None
    twins = []
    for _ in range(2):
        groups = [fastnn.Group("vectors", decay=0.0), fastnn.Group("0.W", frozen=True)] if grouped else []
        twins.append(trainer_of(dtype, optimizer=fastnn.AdamW(1e-2, groups=groups), **options))
        twins[-1].step(x[0], t[0])
    mine, other = twins
    handle = c.network_open(mine)
    assert handle
    for i in range(1, 6):
        assert c.network_step(handle, 0, 20, x[i], t[i], weight, loss) == OK
        assert loss[0] == other.step(x[i], t[i], weight)
    y = np.empty((20, 5), dtype)
    assert c.network_predict(handle, 0, 20, x[0], y) == OK
    c.network_close(handle)
    assert_same_bits(y, other.net.predict(x[0]))
    assert_same_bits(everything(mine), everything(other))
    assert mine.step(x[0], t[0]) == other.step(x[0], t[0])
    np.testing.assert_array_equal(mine.net.layers[3].mask, other.net.layers[3].mask)


@pytest.mark.parametrize("name", ["MeanSquaredError", "Huber", "SigmoidCrossEntropy", "GaussianNLL"])
def test_losses_of_targets(c, dtype, name):
    loss, targets = np.empty(1), {"GaussianNLL": 2}.get(name, 4)
    mine, other = (
        fastnn.Trainer(fastnn.mlp([12, 8, 4], seed=0, dtype=dtype), getattr(fastnn, name)(), fastnn.SGD(0.1))
        for _ in range(2)
    )
    x, t = normal(dtype, 20, 12), np.random.default_rng(1).random((20, targets)).astype(dtype)
    handle = c.network_open(mine)
    shape = [np.zeros(1, np.int64) for _ in range(3)] + [np.zeros(1, np.int32)]
    assert c.network_shape(handle, *shape) == OK
    assert [int(n[0]) for n in shape] == [12, 4, targets, dtype.itemsize]
    assert c.network_step_dense(handle, 0, 20, x, t, None, loss) == OK
    assert loss[0] == other.step(x, t)
    assert c.network_set_rate(handle, 0.5) == OK
    other.optimizer.lr = 0.5
    assert c.network_step_dense(handle, 0, 20, x, t, None, loss) == OK
    assert loss[0] == other.step(x, t)
    if name == "SigmoidCrossEntropy":
        assert c.network_step_dense(handle, 0, 20, x, t + 1, None, loss) == RANGE
    assert c.network_step(handle, 0, 20, x, np.zeros(20, int), None, loss) == INVALID
    c.network_close(handle)
    assert mine.optimizer.lr == 0.5
    assert_same_bits(everything(mine), everything(other))
    handle = c.network_open(mine)
    assert c.network_set_rate(handle, 0.25) == OK
    c.network_close(handle)  # without a step
    assert mine.optimizer.lr == 0.25


def test_what_is_lent_is_refused_to_python_until_it_comes_back(c, dtype):
    trainer, (x, t) = trainer_of(dtype, average=0.9), batches(dtype)
    handle = c.network_open(trainer)
    for use in (
        lambda: trainer.step(x[0], t[0]),
        lambda: trainer.fit(x[0], t[0], epochs=1),
        lambda: trainer.net.predict(x[0]),
        lambda: trainer.net.layers[0].backward(x[0]),
        lambda: trainer.averaged.predict(x[0]),
        lambda: trainer.optimizer.update({"p": np.ones(2)}, {"p": np.ones(2)}),
        lambda: c.network_open(trainer.net),
    ):
        with pytest.raises(
            (RuntimeError, ctypes.ArgumentError), match=r"in use by another thread|backward before"
        ):
            use()
    assert trainer.steps == 0
    c.network_close(handle)
    trainer.step(x[0], t[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="has no fork")
@pytest.mark.filterwarnings("ignore:.*fork")
def test_what_is_lent_is_refused_to_python_in_a_forked_child_too(c, dtype):
    trainer, (x, t), loss = trainer_of(dtype, average=0.9), batches(dtype), np.empty(1)
    handle = c.network_open(trainer)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            for use in (lambda: trainer.step(x[0], t[0]), lambda: trainer.net.predict(x[0])):
                with pytest.raises(RuntimeError, match="in use by another thread"):
                    use()
            assert c.network_step(handle, 1, 20, x[0], t[0], None, loss) == OK
            c.network_close(handle)
            trainer.step(x[1], t[1])
            assert trainer.steps == 2
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    c.network_close(handle)
    trainer.step(x[0], t[0])


def test_a_network_is_refused_while_python_trains_it(c, dtype):
    trainer, (x, t) = trainer_of(dtype), batches(dtype)
    handle, y, statuses = c.network_open(trainer.net), np.empty((20, 5), dtype), []
    predict = c.network_predict

    def elsewhere(*_):
        thread = threading.Thread(target=lambda: statuses.append(predict(handle, 1, 20, x[0], y)))
        thread.start()
        thread.join()

    trainer.fit(x[0], t[0], epochs=1, callbacks=[elsewhere])
    elsewhere()
    c.network_close(handle)
    assert statuses == [IN_USE, OK]
    assert_same_bits(y, trainer.net.predict(x[0]))


def test_many_threads_predict_at_once(c, dtype):
    net, x = fastnn.mlp([12, 64, 5], seed=0, dtype=dtype), normal(dtype, 500, 12)
    handle, predict, wrong = c.network_open(net), c.network_predict, []
    expected = net.predict(x)

    def work(first):
        y = np.empty((25, 5), dtype)
        for _ in range(50):
            status = predict(handle, 1, 25, x[first : first + 25], y)
            if status or not np.array_equal(y, expected[first : first + 25]):
                wrong.append(status)

    threads = [threading.Thread(target=work, args=(25 * i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    c.network_close(handle)
    assert not wrong


def test_objects_live_as_long_as_the_handle(c, dtype):
    net = fastnn.mlp([12, 8, 5], seed=0, dtype=dtype)
    x, y = normal(dtype, 4, 12), np.empty((4, 5), dtype)
    expected, handle = net.predict(x), c.network_open(net)
    net.layers[0].params["W"] = np.zeros((12, 8), dtype)  # the handle keeps what it was opened with
    del net
    assert c.network_predict(handle, 0, 4, x, y) == OK
    c.network_close(handle)
    assert_same_bits(y, expected)


def test_bad_steps_change_nothing(c, dtype):
    trainer, (x, t) = trainer_of(dtype), batches(dtype)
    before, loss, other = everything(trainer), np.empty(1), Functions({"f32": "f64", "f64": "f32"}[c.suffix])
    handle = c.network_open(trainer)
    weight = np.ones(20)
    for call, args, status in [
        (c.network_step, (handle, 0, 20, x[0], t[0] + 5, None, loss), RANGE),
        (c.network_step, (handle, 0, 20, x[0], t[0] - 5, None, loss), RANGE),
        (c.network_step, (handle, 0, 20, x[0], t[0], -weight, loss), INVALID),
        (c.network_step, (handle, 0, 20, x[0], t[0], 0 * weight, loss), INVALID),
        (c.network_step, (handle, 0, 20, x[0], t[0], np.nan * weight, loss), INVALID),
        (c.network_step, (handle, 0, 20, x[0], t[0], 1e-320 * weight, loss), INVALID),
        (c.network_step, (handle, 0, 1, x[0], t[0], None, loss), INVALID),
        (c.network_step, (handle, 0, 0, x[0], t[0], None, loss), INVALID),
        (c.network_step, (handle, -1, 20, x[0], t[0], None, loss), INVALID),
        (c.network_step, (handle, 0, 20, None, t[0], None, loss), INVALID),
        (c.network_step, (handle, 0, 20, x[0], None, None, loss), INVALID),
        (c.network_step, (handle, 0, 20, x[0], t[0], None, None), INVALID),
        (c.network_step, (None, 0, 20, x[0], t[0], None, loss), INVALID),
        (other.network_step, (handle, 0, 20, x[0], t[0], None, loss), INVALID),
        (c.network_step_dense, (handle, 0, 20, x[0], x[0], None, loss), INVALID),
        (c.network_step, (handle, 0, 20, np.inf * x[0], t[0], None, loss), NONFINITE),
        (c.network_predict, (handle, 0, -1, x[0], x[1]), INVALID),
        (c.network_predict, (handle, 0, 1, None, x[1]), INVALID),
        (other.network_predict, (handle, 0, 1, x[0], x[1]), INVALID),
        (c.network_set_rate, (handle, -1.0), INVALID),
        (c.network_set_rate, (handle, float("nan")), INVALID),
        (c.network_shape, (handle, None, None, None, None), INVALID),
    ]:
        assert call(*args) == status, args
    c.network_close(handle)
    c.network_close(None)
    assert_same_bits(everything(trainer), before)


class Own(fastnn.ReLU):
    pass


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: 3, TypeError, "must be a fastnn.Sequential, or a fastnn.Trainer"),
        (
            lambda: fastnn.Sequential([fastnn.Embedding.create(4, 2), fastnn.Affine.create(2, 2)]),
            TypeError,
            "must be",
        ),
        (lambda: fastnn.Sequential([Own(), fastnn.Affine.create(2, 2)]), TypeError, "must be"),
        (lambda: fastnn.reference.mlp([2, 2]), TypeError, "must be"),
        (lambda: trainer_of("f4", loss=lambda y, t: (0.0, y)), TypeError, "must be"),
        (lambda: trainer_of("f4", optimizer=fastnn.SGD(lambda step: 0.1)), ValueError, "lr must be a number"),
        (
            lambda: trainer_of("f4", optimizer=fastnn.Adam(weight_decay=lambda step: 0.1)),
            ValueError,
            "weight_decay must be a number",
        ),
        (
            lambda: fastnn.Trainer(
                fastnn.Sequential([fastnn.Dropout(lambda step: 0.1), fastnn.Affine.create(12, 2)]),
                fastnn.SoftmaxCrossEntropy(),
                fastnn.SGD(),
            ),
            ValueError,
            "ratio of a Dropout must be a number",
        ),
    ],
)
def test_what_cannot_be_opened_says_why(make, error, match):
    thing = make()
    with pytest.raises(error, match=match):
        function("network_open")(thing)
    if isinstance(thing, fastnn.Trainer):
        thing.net.predict(np.ones((2, 12)))  # nothing is held


# Extensions


def compiled(folder, source, *flags):
    """Compile C or C++ to a module of its name in a folder, every warning an error."""
    module = folder / (source.stem + sysconfig.get_config_var("EXT_SUFFIX"))
    include = sysconfig.get_paths()["include"]
    language = "gcc" if source.suffix == ".c" else "g++"
    command = [language, "-O1", "-shared", "-fPIC", f"-I{include}", *flags, str(source), "-o", str(module)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return module


def loaded(path):
    spec = importlib.util.spec_from_file_location(path.name.split(".")[0], path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def block(language):
    return re.search(rf"```{language}\n(.*?)```", (HERE.parent / "docs/c.md").read_text(), re.S)[1]


MODULE = """
static PyMethodDef methods[] = {{"multiply", multiply, METH_NOARGS, 0}, {0, 0, 0, 0}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "NAME", 0, -1, methods, 0, 0, 0, 0};
PyMODINIT_FUNC PyInit_NAME(void) { return PyModule_Create(&module); }
"""
STRICT = "-Wall", "-Wextra", "-Wpedantic", "-Werror"


@pytest.mark.parametrize(
    ("name", "standard"),
    [("plain.c", "c99"), ("other.cpp", "c++17"), ("first.c", "c99")],
    ids=["c", "c++", "first"],
)
def test_the_page_s_extension(name, standard, tmp_path):
    """In C, in C++, and against the first version of the header."""
    source = tmp_path / name
    source.write_text(block("c") + MODULE.replace("NAME", source.stem))
    include = fastnn.get_include()
    if source.stem == "first":
        include = tmp_path / "include"
        include.mkdir()
        (include / "fastnn.h").write_text((HERE / "fastnn_1_0.txt").read_text())
    module = loaded(compiled(tmp_path, source, f"-std={standard}", f"-I{include}", *STRICT))
    assert module.multiply() == 11.0


@pytest.mark.parametrize(("major", "size"), [(2, 0), (1, 8)], ids=["other major", "too old"])
def test_another_version_says_so(major, size, tmp_path):
    source, include = tmp_path / f"v{major}{size}.c", tmp_path / "include"
    source.write_text(block("c") + MODULE.replace("NAME", source.stem))
    include.mkdir()
    text = HEADER.read_text().replace("FASTNN_API_MAJOR 1", f"FASTNN_API_MAJOR {major}")
    if size:
        text = text.replace("} fastnn_api;", "  int (*later)(void);\n} fastnn_api;")
    (include / "fastnn.h").write_text(text)
    module = loaded(compiled(tmp_path, source, "-std=c99", f"-I{include}"))
    with pytest.raises(ImportError, match=rf"has version 1\.\d+ .* compiled for {major}\.0"):
        module.multiply()


def test_the_page_s_module_in_cython(tmp_path):
    """Built outside, against the package where it is installed, it trains and predicts without the GIL."""
    source = tmp_path / "example.pyx"
    source.write_text(block("cython"))
    command = [*PYTHON, "-m", "cython", "-3", "-I", str(PACKAGE.parent), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    example = loaded(compiled(tmp_path, source.with_suffix(".c"), "-fopenmp"))
    a, b = normal("f8", 17, 30)[:, ::2], normal("f8", 20, 15, seed=1).T
    out = np.empty((17, 20))
    example.multiply(a, b, out)
    assert_same_bits(out, fastnn.matmul(a, b))
    (x, t), losses = batches("f4"), np.empty(6)
    mine, other = trainer_of("f4"), trainer_of("f4")
    example.train(mine, x.reshape(120, 12), t.reshape(120), 20, losses)
    assert list(losses) == [other.step(x[i], t[i]) for i in range(6)]
    assert_same_bits(everything(mine), everything(other))
    y = np.empty((120, 5), np.float32)
    assert example.predict(mine.net, x.reshape(120, 12), y) == 0
    assert_same_bits(y, other.net.predict(x.reshape(120, 12)))
    with pytest.raises(TypeError, match=r"must be a fastnn.Sequential"):
        example.predict(None, x[0], y)
    with pytest.raises(ValueError, match="outside its range"):
        example.train(mine, x.reshape(120, 12), t.reshape(120) + 5, 20, losses)
    assert mine.steps == 6


def test_a_signature_that_changed_is_refused_at_import(tmp_path):
    package = tmp_path / "other"
    package.mkdir()
    (package / "__init__.py").touch()
    pxd = (
        (PACKAGE / "cython/api.pxd")
        .read_text()
        .replace("network_set_rate(void *network, double lr)", "network_set_rate(void *network, float lr)")
    )
    (package / "api.pxd").write_text(pxd)
    source = tmp_path / "changed.pyx"
    source.write_text(
        "from other.api cimport network_set_rate\ndef f():\n    return network_set_rate(NULL, 1)\n"
    )
    command = [*PYTHON, "-m", "cython", "-3", str(source)]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    module = compiled(tmp_path, source.with_suffix(".c"))
    other = type(sys)("other.api")
    other.__pyx_capi__ = api.__pyx_capi__
    sys.modules["other"], sys.modules["other.api"] = type(sys)("other"), other
    try:
        with pytest.raises(TypeError, match=r"network_set_rate has wrong signature"):
            loaded(module)
    finally:
        del sys.modules["other"], sys.modules["other.api"]
