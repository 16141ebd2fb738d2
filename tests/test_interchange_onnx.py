"""Networks from and to ONNX: what is converted predicts the same, the rest is refused before it is read."""

import importlib.util
import io
import os
import subprocess

import numpy as np
import pytest

import fastnn
from fastnn import reference
from fastnn.interchange import from_onnx, to_onnx
from native import PYTHON
from networks import NETS

onnx = pytest.importorskip("onnx", reason="the format's own package reads and writes it")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

F4, F8, I8 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64
DTYPES = {F4: np.float32, F8: np.float64}
MODULES = {"native": fastnn, "reference": reference}


def run(model, x):
    """Return the outputs of a graph: onnxruntime's, or where there is none those of onnx itself."""
    content = model if isinstance(model, bytes) else model.SerializeToString()
    (name, *_) = [i.name for i in onnx.ModelProto.FromString(content).graph.input]
    try:
        import onnxruntime
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        return ReferenceEvaluator(onnx.ModelProto.FromString(content)).run(None, {name: x})
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(
        None, {name: x}
    )


def rows(net, n=17, rng=0):
    rng = np.random.default_rng(rng)
    if net.layers[0].takes_indices:
        return rng.integers(0, 30, (n, 3))
    return rng.normal(size=(n, 12)).astype(net.dtype)


def trained(m, name, dtype):
    """Return a network none of whose arrays has the values that it begins with."""
    net, rng = m.Sequential(NETS[name](m, dtype)), np.random.default_rng(0)
    for key, array in net._state().items():
        if not key.endswith("W"):
            array[...] = rng.uniform(0.5, 1.5, array.shape)
    return net


def written(net, **options):
    file = io.BytesIO()
    to_onnx(net, file, **options)
    return file.getvalue()


def close(a, b):
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * max(1.0, abs(b).max()))


# To ONNX


@pytest.mark.parametrize("m", MODULES.values(), ids=MODULES)
@pytest.mark.parametrize("name", NETS)
def test_a_network_there_and_back(name, m):
    net = trained(m, name, "float32")
    content = written(net)
    for n in (1, 17):  # the number of rows is free
        x = rows(net, n)
        y = net.predict(x)
        close(run(content, x)[0], y)
        close(from_onnx(io.BytesIO(content)).predict(x), y)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.filterwarnings("ignore:onnxruntime has no error function")
def test_a_network_of_float64(name):
    net = trained(fastnn, name, "float64")
    content, x = written(net), rows(net)
    back = from_onnx(io.BytesIO(content))
    assert back.dtype == np.float64
    np.testing.assert_allclose(back.predict(x), net.predict(x), rtol=1e-6, atol=1e-6)  # an eps is a float32
    if not any(isinstance(layer, fastnn.GELU) and layer.approximate == "none" for layer in net._every):
        y = run(content, x)[0]
        assert y.dtype == np.float64
        np.testing.assert_allclose(y, net.predict(x), rtol=1e-6, atol=1e-6)


def rows_of_an_embedding():
    """Return networks that are flat inside of ONNX and Keras, and not at last."""
    start = [fastnn.Embedding.create(30, 4, seed=0, init=0.5), fastnn.BatchNorm.create(12)]
    end = [fastnn.LayerNorm.create(4), fastnn.Affine.create(12, 5, seed=1)]
    start[1].running_mean[...] = np.arange(12) / 12
    block = fastnn.Residual([fastnn.BatchNorm.create(12, eps=1.0), fastnn.Tanh()])
    return [[*start, fastnn.ReLU()], [*start, *end], [start[0], block, fastnn.ReLU()], [start[0]]]


@pytest.mark.parametrize("i", range(4))
def test_rows_of_an_embedding_stay(i):
    net = fastnn.Sequential(rows_of_an_embedding()[i])
    content, x = written(net), rows(net)
    close(run(content, x)[0], net.predict(x))
    close(from_onnx(io.BytesIO(content)).predict(x), net.predict(x))


def test_the_layers_come_back():
    layers = [
        fastnn.BatchNorm.create(12, momentum=0.7, eps=1e-3),
        fastnn.Affine.create(12, 8, seed=0),
        *(fastnn.ReLU(), fastnn.GELU(), fastnn.LayerNorm.create(8, eps=1e-4), fastnn.GELU("tanh")),
        *(fastnn.RMSNorm.create(8), fastnn.LeakyReLU(0.2), fastnn.SiLU(), fastnn.SELU(), fastnn.Mish()),
        fastnn.Residual([fastnn.Affine.create(8, 8, seed=1), fastnn.Tanh()]),
        fastnn.Residual([fastnn.Softplus()]),
        *(fastnn.Sigmoid(), fastnn.Affine.create(8, 2, seed=2)),
    ]
    back = from_onnx(io.BytesIO(written(fastnn.Sequential(layers))))
    assert list(map(repr, back.layers)) == list(map(repr, layers))


def test_what_float64_is_written_with_is_exact():
    for layer in (
        fastnn.LeakyReLU(0.1),
        fastnn.SELU(),
        fastnn.Softplus(),
        fastnn.Mish(),
        fastnn.GELU("tanh"),
    ):
        net = fastnn.Sequential([fastnn.Affine(np.eye(6), np.zeros(6)), layer])
        x = np.array([[-1e3, -1.5, 0.0, 1e-3, 2.0, 1e3]])
        np.testing.assert_allclose(run(written(net), x)[0], net.predict(x), rtol=1e-14, atol=1e-15)


def test_it_says_what_onnxruntime_cannot_run():
    net = fastnn.mlp([4, 3, 2], activation="gelu", dtype=np.float64, seed=0)
    with pytest.warns(UserWarning, match=r"no error function in float64.*dtype=numpy\.float32") as caught:
        written(net)
    assert caught[0].filename == __file__
    x = np.random.default_rng(0).normal(size=(5, 4))
    y = run(written(net, dtype=np.float32), x.astype(np.float32))[0]
    assert y.dtype == np.float32
    close(y, net.predict(x))


@pytest.mark.parametrize("n_out", [1, 3])
def test_scale_probabilities_and_labels(n_out):
    net = fastnn.mlp([6, 5, n_out], seed=0)
    x = np.random.default_rng(0).integers(0, 256, (40, 6)).astype(np.float32)
    z = net.predict(x, scale=1 / 255)
    p = 1 / (1 + np.exp(-z))
    labels = ["cat", "dog", "owl"][: max(n_out, 2)]
    place = z.argmax(axis=1) if n_out > 1 else (z[:, 0] > 0).astype(int)
    got, names = run(written(net, scale=1 / 255, probabilities="sigmoid", labels=labels), x)
    close(got, p)
    assert names.tolist() == [labels[i] for i in place]
    got, numbers = run(written(net, scale=1 / 255, labels=np.arange(max(n_out, 2)) - 7), x)
    close(got, z)
    assert numbers.dtype == np.int64
    assert numbers.tolist() == (place - 7).tolist()
    if n_out > 1:
        got = run(written(net, scale=1 / 255, probabilities="softmax"), x)[0]
        close(got, np.exp(z) / np.exp(z).sum(axis=1, keepdims=True))


def test_a_file_is_the_same_each_time_and_names_its_tensors(tmp_path):
    net = fastnn.mlp([6, 5, 3], batch_norm=True, seed=0)
    to_onnx(net, tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == written(net)
    model = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [i.name for i in model.graph.input] == ["input"]
    assert [o.name for o in model.graph.output] == ["output"]
    assert {t.name for t in model.graph.initializer} == set(net.state_dict())
    close(from_onnx(tmp_path / "a.onnx").predict(np.ones((2, 6))), net.predict(np.ones((2, 6))))


class Own(fastnn.ReLU):
    pass


@pytest.mark.parametrize(
    ("net", "options", "error", "match"),
    [
        (None, {}, TypeError, "^net must be a Sequential"),
        (fastnn.Sequential([Own()]), {}, TypeError, r"^layers\[0\] must be a layer of fastnn"),
        (
            fastnn.Sequential([fastnn.LayerNorm.create(4), fastnn.Affine.create(12, 3)]),  # of (N, 3, 4)
            {},
            ValueError,
            r"^layers\[1\] must take rows of 4 numbers, .* got one for 12",
        ),
        (fastnn.mlp([2, 1]), {"scale": "2"}, TypeError, "^scale must be a number"),
        (fastnn.mlp([2, 1]), {"probabilities": "soft"}, ValueError, "^probabilities must be one of"),
        (fastnn.mlp([2, 1]), {"probabilities": "softmax", "labels": [0, 1]}, ValueError, "'sigmoid'"),
        (fastnn.mlp([2, 3]), {"labels": [0, 1]}, ValueError, r"^labels must hold 3.*got shape \(2,\)"),
        (fastnn.mlp([2, 2]), {"labels": [0.5, 1]}, TypeError, "^labels must be integers or strings"),
        (fastnn.Sequential([fastnn.ReLU()]), {"labels": [0, 1]}, ValueError, "^labels must be None"),
        (fastnn.mlp([2, 1]), {"dtype": "float16"}, TypeError, "^dtype must be float32 or float64"),
        (
            fastnn.Sequential([fastnn.Affine(np.full((1, 1), 1e300), np.zeros(1))]),
            {"dtype": "float32"},
            ValueError,
            r"^dtype must hold the numbers of 0\.W, got float32",
        ),
        (
            fastnn.Sequential(NETS["embedding"](fastnn, "float32")),
            {"scale": 2.0},
            ValueError,
            "^scale must be 1",
        ),
    ],
)
def test_what_cannot_be_written(net, options, error, match, tmp_path):
    with pytest.raises(error, match=match):
        to_onnx(net, tmp_path / "a.onnx", **options)
    assert not os.listdir(tmp_path)


# From ONNX


RNG = np.random.default_rng(1)
W, B, V = RNG.normal(size=(4, 3)), RNG.normal(size=3), RNG.normal(size=(3, 3))


def made(nodes, constants=(), kind=F4, shape=("N", 4), out=("y",), opset=20, input_kind=None):
    """Return a model; nodes are (op, inputs, output, attributes), constants are (name, array)."""
    dtype = DTYPES[kind]
    made = [
        helper.make_node(op, inputs.split(), outputs.split(), f"n{i}", **attributes)
        for i, (op, inputs, outputs, attributes) in enumerate(nodes)
    ]
    for node in made:
        if node.op_type in ("Scaler", "ZipMap"):
            node.domain = "ai.onnx.ml"
    tensors = [
        numpy_helper.from_array(np.asarray(a, dtype if np.asarray(a).dtype.kind == "f" else None), name)
        for name, a in (("W", W), ("B", B), ("V", V), *constants)
        if any(name in node.input for node in made)
    ]
    outputs = [helper.make_tensor_value_info(name, kind, [None, None]) for name in out]
    x = helper.make_tensor_value_info("x", input_kind or kind, shape)
    graph = helper.make_graph(made, "g", [x], outputs, tensors)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def agree(model, x=None, **options):
    """A graph and what is read of it compute the same; return the network."""
    x = np.random.default_rng(2).normal(size=(9, 4)) if x is None else x
    kind = model.graph.input[0].type.tensor_type.elem_type
    x = x.astype(DTYPES.get(kind, x.dtype))
    net = from_onnx(model, **options)
    close(net.predict(x), run(model, x)[0])
    return net


def names(net):
    return [type(layer).__name__ for layer in net.layers]


@pytest.mark.parametrize("kind", [F4, F8])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("trans", [0, 1])
@pytest.mark.parametrize("c", [None, np.array(2.0), np.array([2.0]), B, B[None]])
def test_gemm(kind, alpha, trans, c):
    attributes = {"alpha": alpha, "beta": 2.0, "transB": trans}
    given = [("w", W.T if trans else W), *([("c", c)] if c is not None else [])]
    net = agree(made([("Gemm", "x w c" if c is not None else "x w", "y", attributes)], given, kind))
    assert names(net) == ["Affine"]


def linear(*nodes):
    """Return nodes before and after which weights stand: from x to h, and from k to y."""
    return [("Gemm", "x W B", "h", {}), *nodes, ("MatMul", "k V", "m", {}), ("Add", "m B", "y", {})]


ACTIVATIONS = {
    "ReLU": [("Relu", "h", "k", {})],
    "ReLU by Max": [("Max", "h zero", "k", {})],
    "ReLU by Clip": [("Clip", "h zero", "k", {})],
    "LeakyReLU": [("LeakyRelu", "h", "k", {"alpha": 0.3})],
    "LeakyReLU by Where": [
        ("Greater", "h zero", "g", {}),
        ("Mul", "h third", "t", {}),
        ("Where", "g h t", "k", {}),
    ],
    "Tanh": [("Tanh", "h", "k", {})],
    "Sigmoid": [("Sigmoid", "h", "k", {})],
    "SELU": [("Selu", "h", "k", {})],
    "SELU by Elu": [("Elu", "h", "t", {"alpha": reference.layers.SELU_A}), ("Mul", "t l", "k", {})],
    "GELU": [("Gelu", "h", "k", {})],
    "GELU('tanh')": [("Gelu", "h", "k", {"approximate": "tanh"})],
    "GELU by Erf": [
        ("Div", "h root", "a", {}),
        ("Erf", "a", "b", {}),
        ("Add", "b one", "c", {}),
        ("Mul", "h c", "d", {}),
        ("Mul", "d half", "k", {}),
    ],
    "GELU by Erf, halved first": [
        ("Mul", "h half", "a", {}),
        ("Mul", "h rooted", "b", {}),
        ("Erf", "b", "c", {}),
        ("Add", "c one", "d", {}),
        ("Mul", "a d", "k", {}),
    ],
    "SiLU": [("Sigmoid", "h", "s", {}), ("Mul", "h s", "k", {})],
    "Softplus": [("Softplus", "h", "k", {})],
    "Softplus with a threshold": [
        ("Softplus", "h", "s", {}),
        ("Greater", "h twenty", "g", {}),
        ("Where", "g h s", "k", {}),
    ],
    "Softplus by Log": [("Exp", "h", "e", {}), ("Add", "e one", "s", {}), ("Log", "s", "k", {})],
    "Mish": [("Mish", "h", "k", {})],
    "Mish by Tanh": [("Softplus", "h", "s", {}), ("Tanh", "s", "t", {}), ("Mul", "h t", "k", {})],
    "Residual of ReLU": [("Relu", "h", "r", {}), ("Add", "h r", "k", {})],
}
SCALARS = {
    **{"zero": 0.0, "third": 0.3, "one": 1.0, "half": 0.5, "root": 2**0.5, "rooted": 0.5**0.5},
    **{"twenty": 20.0, "l": reference.layers.SELU_L},
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_by_what_they_compute(name):
    model = made(linear(*ACTIVATIONS[name]), [(k, np.array(v)) for k, v in SCALARS.items()])
    net = agree(model)
    assert names(net) == ["Affine", name.split()[0].split("(")[0], "Affine"]
    if name.startswith("LeakyReLU"):
        assert net.layers[1].alpha == 0.3
    if "tanh" in name:
        assert net.layers[1].approximate == "tanh"


def test_a_slope_of_float64_stays():
    nodes = [("Min", "x zero", "n", {}), ("Max", "x zero", "p", {}), ("Mul", "n a", "m", {})]
    constants = [("zero", np.array(0.0)), ("a", np.array(0.1234567890123))]
    net = agree(made([*nodes, ("Add", "m p", "y", {})], constants, F8))
    assert net.layers[0].alpha == 0.1234567890123


@pytest.mark.parametrize(
    "nodes",
    [
        [("Elu", "h", "k", {})],
        [("Clip", "h zero six", "k", {})],
        [("HardSigmoid", "h", "k", {})],
        [("Abs", "h", "k", {})],
        [("Mul", "h q", "t", {}), ("Sigmoid", "t", "s", {}), ("Mul", "h s", "k", {})],  # a quick GELU
        [("Pow", "h B", "k", {})],
    ],
)
def test_functions_that_are_none_of_fastnns(nodes):
    constants = [("zero", np.array(0.0)), ("six", np.array(6.0)), ("q", np.array(1.702))]
    with pytest.raises(ValueError, match=r"^node 'n\d' \(\w+\): fastnn has no layer for"):
        from_onnx(made(linear(*nodes), constants))


NORMS = {
    "LayerNorm": [
        *[("ReduceMean", "h", "mean", {"axes": [-1]}), ("Sub", "h mean", "d", {}), ("Pow", "d two", "q", {})],
        *[("ReduceMean", "q", "v", {"axes": [-1]}), ("Add", "v eps", "w", {}), ("Sqrt", "w", "s", {})],
        *[("Div", "d s", "n", {}), ("Mul", "n g", "k1", {}), ("Add", "k1 B", "k", {})],
    ],
    "LayerNorm by folded constants": [  # h a + (B - mean a), a = g / sqrt(v + eps)
        *[("ReduceMean", "h", "mean", {"axes": [1]}), ("Sub", "h mean", "d", {}), ("Mul", "d d", "q", {})],
        *[("ReduceMean", "q", "v", {"axes": [1]}), ("Add", "v eps", "w", {}), ("Sqrt", "w", "s", {})],
        *[("Reciprocal", "s", "r", {}), ("Mul", "r g", "a", {}), ("Mul", "mean a", "m1", {})],
        *[("Sub", "B m1", "c", {}), ("Mul", "h a", "k1", {}), ("Add", "k1 c", "k", {})],
    ],
    "RMSNorm": [
        *[("Pow", "h two", "q", {}), ("ReduceMean", "q", "v", {"axes": [-1]}), ("Add", "v eps", "w", {})],
        *[("Sqrt", "w", "s", {}), ("Reciprocal", "s", "r", {}), ("Mul", "h r", "n", {})],
        ("Mul", "n g", "k", {}),
    ],
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("eps", [1e-5, 1e-3, 1.1920929e-07])
def test_normalizations_by_what_they_compute(name, eps):
    constants = [("two", np.array(2.0)), ("eps", np.array(eps)), ("g", B + 3)]
    net = agree(made(linear(*NORMS[name]), constants, opset=17))
    assert names(net) == ["Affine", name.split()[0], "Affine"]
    assert net.layers[1].eps == pytest.approx(eps, rel=1e-5)


def test_a_sum_after_an_rms_norm_goes_into_the_next_weights():
    constants = [("two", np.array(2.0)), ("eps", np.array(1e-5)), ("g", B + 3), ("one", np.array(1.0))]
    nodes = [
        *NORMS["RMSNorm"][:-1],
        ("Mul", "n g", "k1", {}),
        ("Add", "k1 B", "k2", {}),
        ("Mul", "k2 one", "k", {}),
    ]
    assert names(agree(made(linear(*nodes), constants, opset=17))) == ["Affine", "RMSNorm", "Affine"]


def test_normalizations_as_nodes():
    constants = [("g", B + 3), ("mean", B), ("var", B * B)]
    nodes = [
        ("BatchNormalization", "h g B mean var", "k1", {"epsilon": 1e-3, "momentum": 0.8}),
        ("LayerNormalization", "k1 g", "k2", {"epsilon": 1e-4}),
        ("LayerNormalization", "k2 g B", "k", {"axis": 1}),
    ]
    net = agree(made(linear(*nodes), constants))
    assert names(net) == ["Affine", "BatchNorm", "LayerNorm", "LayerNorm", "Affine"]
    assert (net.layers[1].momentum, net.layers[1].eps, net.layers[2].eps) == (0.8, 1e-3, 1e-4)


def test_constants_go_into_the_weights_beside_them():
    nodes = [
        *[("Cast", "x", "x0", {"to": F4}), ("Sub", "x0 s4", "x1", {}), ("Div", "x1 d", "x2", {})],
        *[("Gemm", "x2 W B", "h", {}), ("Sub", "h b", "h1", {}), ("Mul", "h1 g", "h2", {})],
        *[("Add", "h2 b", "h3", {}), ("Relu", "h3", "r", {}), ("Mul", "r g", "k", {})],
        *[("MatMul", "k V", "m", {}), ("Add", "m B", "y", {})],
    ]
    constants = [("s4", RNG.normal(size=4)), ("d", np.array(0.25)), ("b", B[None]), ("g", B + 2)]
    assert names(agree(made(nodes, constants))) == ["Affine", "ReLU", "Affine"]


def test_constants_without_weights_beside_them_become_a_batch_norm():
    nodes = [("Mul", "x g", "a", {}), ("Tanh", "a", "b", {}), ("Sub", "c b", "y", {})]
    net = agree(made(nodes, [("g", RNG.normal(size=4)), ("c", RNG.normal(size=4))]))
    assert names(net) == ["BatchNorm", "Tanh", "BatchNorm"]
    net = agree(made(nodes, [("g", RNG.normal(size=4)), ("c", RNG.normal(size=4))], F8))
    assert net.dtype == np.float64


def test_pixels_that_are_bytes():
    nodes = [("Cast", "x", "h", {"to": F4}), ("Div", "h d", "g", {}), ("MatMul", "g W", "y", {})]
    model = made(nodes, [("d", np.array(255.0))], input_kind=TensorProto.UINT8)
    assert names(agree(model, RNG.integers(0, 256, (9, 4)).astype(np.uint8))) == ["Affine"]


def test_an_input_scale_of_channels_before_a_flatten():
    nodes = [("Mul", "x g", "a", {}), ("Flatten", "a", "f", {}), ("MatMul", "f U", "y", {})]
    constants = [("g", RNG.normal(size=(2, 1, 1))), ("U", RNG.normal(size=(12, 3)))]
    agree(made(nodes, constants, shape=("N", 2, 3, 2)), RNG.normal(size=(5, 2, 3, 2)))


RESIDUALS = {
    "plain": ([("Tanh", "h", "t", {}), ("Gemm", "t V B", "f", {}), ("Add", "h f", "y", {})], 3),
    "other side": ([("Gemm", "h V B", "f", {}), ("Add", "f h", "y", {})], 2),
    "scaled input of f": ([("Mul", "h g", "t", {}), ("Gemm", "t V", "f", {}), ("Add", "h f", "y", {})], 2),
    "scaled output of f": ([("MatMul", "h V", "f", {}), ("Mul", "f g", "t", {}), ("Add", "h t", "y", {})], 2),
    "behind a Reshape": (
        [
            ("Reshape", "h flat", "r", {}),
            *[("Mul", "r g", "t", {}), ("Gemm", "t V", "f", {}), ("Add", "h f", "y", {})],
        ],
        2,
    ),
    "around scaled rows": (
        [
            *[("Relu", "h", "r", {}), ("Mul", "r g", "t", {})],
            *[("Gemm", "t V", "f", {}), ("Add", "t f", "y", {})],
        ],
        4,
    ),
    "around scaled rows behind a Reshape": (
        [
            *[("Relu", "h", "r", {}), ("Mul", "r g", "u", {}), ("Reshape", "u flat", "t", {})],
            *[("Gemm", "t V", "f", {}), ("Add", "t f", "y", {})],
        ],
        4,
    ),
    "around an activation within": (
        [
            *[("LeakyRelu", "h", "r", {}), ("Relu", "r", "t", {}), ("Gemm", "t V", "f", {})],
            ("Add", "r f", "y", {}),
        ],
        3,
    ),
    "nested": (
        [
            *[("Gemm", "h V", "a", {}), ("Tanh", "a", "b", {}), ("Gemm", "b V", "c", {})],
            *[("Add", "b c", "d", {}), ("Add", "h d", "y", {})],
        ],
        2,
    ),
    "in a row": (
        [
            *[("Gemm", "h V", "a", {}), ("Add", "h a", "b", {})],
            *[("Gemm", "b V B", "c", {}), ("Sum", "c b", "y", {})],
        ],
        3,
    ),
}


@pytest.mark.parametrize("name", RESIDUALS)
def test_residuals(name):
    nodes, count = RESIDUALS[name]
    constants = [("g", B + 2), ("flat", np.array([-1, 3]))]
    net = agree(made([("Gemm", "x W B", "h", {}), *nodes], constants))
    assert sum(type(layer).__name__ == "Residual" for layer in net._every) in (1, 2)
    assert len(net.layers) <= count


@pytest.mark.parametrize(
    "nodes",
    [
        [("Gemm", "h V", "a", {}), ("Sub", "h a", "y", {})],
        [("Gemm", "h V", "a", {}), ("Mul", "h a", "y", {})],
        [("Gemm", "h V", "a", {}), ("Gemm", "h V B", "b", {}), ("Add", "a b", "y", {})],
        [("Gemm", "h V", "a", {}), ("Concat", "h a", "y", {"axis": 1})],
        [("Tanh", "h", "t", {}), ("Gemm", "h V", "a", {}), ("Add", "t a", "y", {})],
        [("Gemm", "x W", "a", {}), ("Add", "h a", "y", {})],
        [("MatMul", "h V1", "a", {}), ("Add", "h a", "y", {})],
        [  # a, which is in the first Residual
            *[("Gemm", "h V", "a", {}), ("Add", "h a", "b", {}), ("Gemm", "b V B", "c", {})],
            ("Add", "a c", "y", {}),
        ],
    ],
)
def test_other_branches_are_refused(nodes):
    with pytest.raises(ValueError, match=r"^node 'n\d' \(\w+\): "):
        from_onnx(made([("Gemm", "x W B", "h", {}), *nodes], [("V1", V[:, :1])]))


@pytest.mark.parametrize(
    "reshape",
    [
        [("Flatten", "e", "f", {})],
        [("Reshape", "e keep", "f", {})],
        [("Reshape", "e flat", "f", {})],
        [  # e.view(e.size(0), -1)
            *[("Shape", "e", "s", {}), ("Gather", "s zero", "s0", {}), ("Unsqueeze", "s0 axis", "s1", {})],
            *[("Concat", "s1 free", "s2", {"axis": 0}), ("Reshape", "e s2", "f", {})],
        ],
        [("Flatten", "e", "f1", {}), ("Reshape", "f1 back", "f2", {}), ("Flatten", "f2", "f", {})],
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_embeddings(reshape, wrapped):
    constants = [
        *[("T", RNG.normal(size=(10, 4))), ("U", RNG.normal(size=(12, 3)))],
        *[("keep", np.array([0, -1])), ("flat", np.array([-1, 12])), ("back", np.array([-1, 3, 4]))],
        *[("zero", np.array(0)), ("axis", np.array([0])), ("free", np.array([-1])), ("ten", np.array(10))],
    ]
    negative = [("Less", "x zero", "l", {}), ("Add", "x ten", "w", {}), ("Where", "l w x", "i", {})]
    nodes = [
        *(negative if wrapped else [("Cast", "x", "i", {"to": I8})]),
        *[("Gather", "T i", "e", {}), *reshape, ("MatMul", "f U", "y", {})],
    ]
    net = agree(made(nodes, constants, shape=("N", 3), input_kind=I8), RNG.integers(0, 10, (7, 3)))
    assert names(net) == ["Embedding", "Affine"]


def test_names_say_nothing():
    model = made(linear(("Relu", "h", "k", {})))
    for tensor, name in zip(model.graph.initializer, ("0.running_var", "0.gamma", "bias"), strict=True):
        for node in model.graph.node:
            node.input[:] = [name if i == tensor.name else i for i in node.input]
        tensor.name = name
    agree(model)


def test_the_end():
    nodes = [*linear(("Relu", "h", "k", {})), ("Softmax", "y", "p", {})]
    model = made(nodes, out=("p",))
    with pytest.raises(ValueError, match=r"^node 'n4' \(Softmax\): .*logits=True"):
        from_onnx(model)
    x = RNG.normal(size=(9, 4)).astype(np.float32)
    p = run(model, x)[0]
    z = from_onnx(model, logits=True).predict(x)
    close(np.exp(z) / np.exp(z).sum(axis=1, keepdims=True), p)
    close(from_onnx(model, output="y").predict(x), z)
    assert names(from_onnx(model, output="h")) == ["Affine"]
    assert names(from_onnx(model, output="k")) == ["Affine", "ReLU"]
    nodes[-1] = ("Sigmoid", "y", "p", {})
    assert names(agree(made(nodes, out=("p",)))) == ["Affine", "ReLU", "Affine", "Sigmoid"]
    assert names(from_onnx(made(nodes, out=("p",)), logits=True)) == ["Affine", "ReLU", "Affine"]
    zipped = [*nodes[:-1], ("Softmax", "y", "p", {}), ("ZipMap", "p", "z", {"classlabels_int64s": [3, 4, 5]})]
    model = made(zipped, out=("z",))
    model.graph.output[0].type.Clear()
    model.graph.output[0].type.sequence_type.elem_type.map_type.key_type = I8
    model.graph.output[0].type.sequence_type.elem_type.map_type.value_type.tensor_type.elem_type = F4
    close(from_onnx(model, logits=True).predict(x), z)


def test_a_pair_of_probabilities_is_of_one_logit():
    nodes = [
        *[("Gemm", "x w", "z", {}), ("Sigmoid", "z", "p", {}), ("Sub", "one p", "q", {})],
        ("Concat", "q p", "y", {"axis": 1}),
    ]
    model = made(nodes, [("w", W[:, :1]), ("one", np.array(1.0))])
    with pytest.raises(ValueError, match="logits=True"):
        from_onnx(model)
    x = RNG.normal(size=(9, 4)).astype(np.float32)
    z = from_onnx(model, logits=True).predict(x)
    close(1 / (1 + np.exp(-z[:, 0])), run(model, x)[0][:, 1])


@pytest.mark.parametrize(
    ("nodes", "options", "match"),
    [
        ([("Conv", "x w", "y", {})], {"shape": ("N", 4, 4)}, r"^node 'n0' \(Conv\): fastnn has no layer"),
        ([("Gemm", "x W", "y", {"transA": 1})], {}, r"^node 'n0' \(Gemm\): transA must be 0"),
        ([("Gemm", "x W", "y", {})], {"shape": ("N", 5)}, r"^node 'n0' \(Gemm\), B 'W': must take rows of 4"),
        ([("MatMul", "x W", "y", {})], {"shape": ("N", 2, 4)}, "a Flatten must come before"),
        ([("MatMul", "W x", "y", {})], {}, r"^node 'n0' \(MatMul\): A must be computed from the input"),
        ([("Relu", "x", "h", {}), ("MatMul", "x h", "y", {})], {}, "B must be a constant, got 'h'"),
        ([("Dropout", "x r on", "y", {})], {}, r"^node 'n0' \(Dropout\): is in training mode"),
        (
            [("BatchNormalization", "x g g g g", "y", {"training_mode": 1})],
            {},
            r"^node 'n0' \(BatchNormalization\): is in training mode",
        ),
        ([("Cast", "x", "y", {"to": TensorProto.FLOAT16})], {}, r"Cast\): must be to float32 .*got float16"),
        ([("Softmax", "x", "h", {}), ("Gemm", "h W", "y", {})], {}, r"Softmax\): must be the end"),
        ([("Softmax", "x", "y", {"axis": 0})], {}, "axis must be the last one, got 0"),
        ([("Reshape", "x two", "h", {}), ("Gemm", "h V", "y", {})], {}, r"must keep the \(4,\) of a row"),
        ([("Add", "x column", "h", {}), ("Gemm", "h W", "y", {})], {}, "constants must fit rows"),
        ([("Add", "x B", "h", {}), ("Gemm", "h V", "y", {})], {"shape": ("N", 1)}, "constants must fit rows"),
        ([("Add", "x deep", "h", {}), ("Gemm", "h W", "y", {})], {}, "must not have more dimensions"),
        ([("Div", "x none", "h", {}), ("Gemm", "h W", "y", {})], {}, "must leave finite numbers"),
        (
            [("Flatten", "x", "f", {}), ("Gemm", "f U", "h", {}), ("Add", "f h", "y", {})],
            {"shape": ("N", 2, 2)},
            r"must add what no node 'n0' \(Flatten\) has flattened",
        ),
        (
            [("Add", "x i1", "h", {}), ("Gather", "W h", "e", {}), ("Flatten", "e", "y", {})],
            {"input_kind": I8},
            "must come first",
        ),
        (
            [("Cast", "x", "i", {"to": I8}), ("Cast", "i", "h", {"to": F4}), ("Flatten", "h", "y", {})],
            {},
            "must not compute with indices",
        ),
        (
            [
                *[("Gemm", "x W", "z", {}), ("Sigmoid", "z", "p", {}), ("Sub", "o p", "q", {})],
                ("Concat", "q p", "y", {"axis": 1}),
            ],
            {},
            r"^node 'n3' \(Concat\): fastnn has no layer",
        ),
        ([("Gemm", "x half", "y", {})], {}, r"^initializer 'half': must be float32 or float64, got float16"),
        ([("Relu", "x", "y", {})], {"opset": 6}, "^the opset must be 7 or newer, got 6"),
        ([("Gemm", "x W", "y", {})], {"out": ("y", "x")}, "^output must name one of the graph's, y, x"),
        ([("Gemm", "x W", "y", {})], {"shape": (4,)}, r"^input 'x': must have a dimension of rows"),
        ([("Gather", "W x", "e", {}), ("LayerNormalization", "e V", "y", {})], {"input_kind": I8}, "must"),
    ],
)
def test_what_cannot_be_read(nodes, options, match):
    constants = [
        *[("w", RNG.normal(size=(2, 4, 1))), ("r", np.array(0.5)), ("on", np.array(True)), ("g", np.ones(4))],
        *[("two", np.array([-1, 2])), ("column", np.ones((4, 1))), ("deep", np.ones((1, 1, 1)))],
        *[("none", np.array(0.0)), ("o", np.array(1.0)), ("i1", np.array(1)), ("U", np.ones((4, 4)))],
    ]
    model = made(nodes, constants, **options)
    model.graph.initializer.append(numpy_helper.from_array(W.astype(np.float16), "half"))
    with pytest.raises((TypeError, ValueError), match=match):
        from_onnx(model)


# Files


def test_truncated_and_foreign_files(tmp_path):
    content = written(fastnn.mlp([6, 5, 3], batch_norm=True, seed=0))
    path = tmp_path / "a.onnx"
    for part in (
        b"",
        b"\x93NUMPY",
        b"PK\x03\x04abc",
        b"{}",
        *(content[:n] for n in range(1, len(content), 7)),
    ):
        path.write_bytes(part)
        with pytest.raises(ValueError, match=r"a\.onnx is not "):
            from_onnx(path)
    with pytest.raises(FileNotFoundError):
        from_onnx(tmp_path / "b.onnx")
    for wrong in (None, 3, onnx.ModelProto, b"abc"):
        with pytest.raises(TypeError, match=r"^path must be"):
            from_onnx(wrong)
    with pytest.raises(TypeError, match=r"^output must be"):
        from_onnx(path, output=3)
    with pytest.raises(TypeError, match=r"^logits must be"):
        from_onnx(path, logits=1)


def test_damaged_bytes_are_refused_or_change_numbers_only():
    content = bytearray(written(fastnn.mlp([6, 5, 3], batch_norm=True, seed=0)))
    rng, read = np.random.default_rng(0), 0
    for _ in range(300):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        try:
            net = from_onnx(io.BytesIO(damaged))
        except (TypeError, ValueError):
            continue
        assert all(p.size < 100 for p in net.params.values())
        read += 1
    assert read > 0


def test_numbers_of_other_types_are_refused():
    model = made([("Gemm", "x W", "y", {})])
    tensor = model.graph.initializer[0]
    tensor.data_type, tensor.raw_data = TensorProto.BFLOAT16, tensor.raw_data[:24]
    with pytest.raises(TypeError, match=r"^initializer 'W': must be float32 or float64, got bfloat16"):
        from_onnx(model)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.BFLOAT16
    with pytest.raises(TypeError, match=r"^input 'x': must hold .*, got bfloat16"):
        from_onnx(model)


@pytest.mark.parametrize("dims", [[4, 2**40], [2**40, 2**40], [0, 3], [-4, 3], [4, 4]])
def test_claimed_shapes_are_refused(dims):
    for raw in (True, False):
        model = made([("Gemm", "x W", "y", {})])
        tensor = model.graph.initializer[0]
        if not raw:
            tensor.float_data.extend(W.ravel().tolist())
            tensor.ClearField("raw_data")
        tensor.dims[:] = dims
        with pytest.raises(ValueError, match=r"W|dim"):
            from_onnx(model)


def test_small_files_do_not_make_large_arrays():
    """None of what is there only as a number of something takes memory."""
    constants = [
        *[
            ("big", np.array([2**20, 2**20])),
            ("one", np.ones(1)),
            ("eps", np.array(1e-5)),
            ("two", np.array(2.0)),
        ],
        *[("row", np.ones((1, 4096))), ("column", np.ones((4096, 1)))],
    ]
    doubled = [("Add", f"c{i} c{i}", f"c{i + 1}", {}) for i in range(6)]
    norm = [
        *[("Mul", "x x", "q", {}), ("ReduceMean", "q", "v", {"axes": [-1]}), ("Add", "v eps", "w", {})],
        *[("Sqrt", "w", "s", {}), ("Div", "x s", "y", {})],
    ]
    for nodes in (
        [("ConstantOfShape", "big", "c", {}), ("Gemm", "x c", "y", {})],
        [("Expand", "one big", "c", {}), ("Gemm", "x c", "y", {})],
        [("Add", "row column", "c0", {}), *doubled, ("Gemm", "x c6", "y", {})],
        [("Mul", "x two", "h", {}), ("Tanh", "h", "y", {})],
        norm,
    ):
        with pytest.raises(ValueError, match=r"^node "):
            from_onnx(made(nodes, constants, shape=("N", 2**40), opset=17))


def external(tmp_path, **changes):
    """Write a model whose weights are in a file of their own; return its path."""
    model = made([("Gemm", "x W", "y", {})])
    tensor = model.graph.initializer[0]
    (tmp_path / "data").write_bytes(b"....." + tensor.raw_data)
    entries = {"location": "data", "offset": "5", "length": "48"} | changes
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    return tmp_path / "a.onnx"


def test_weights_in_a_file_of_their_own(tmp_path):
    path = external(tmp_path)
    np.testing.assert_array_equal(from_onnx(path).params["0.W"], W.astype(np.float32))
    np.testing.assert_array_equal(from_onnx(external(tmp_path, length=None)).params["0.W"], W.astype("f4"))
    with open(path, "rb") as file, pytest.raises(ValueError, match="pass the model's path"):
        from_onnx(file)


@pytest.mark.parametrize("location", ["../data", "/etc/hostname", "../inner/../data", "link"])
def test_no_file_elsewhere_is_read(location, tmp_path):
    """Whatever onnx itself lets pass."""
    from fastnn.interchange import onnx_files

    (tmp_path / "data").write_bytes(bytes(100))
    inner = tmp_path / "inner"
    inner.mkdir()
    os.symlink(tmp_path / "data", inner / "link")
    tensor = TensorProto(dims=[2], data_type=F4, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    with pytest.raises(ValueError, match=r"^W: must have its data in the folder of the model"):
        onnx_files.tensor("W", tensor, str(inner))


@pytest.mark.parametrize(
    "changes",
    [
        *({"location": place} for place in ("../data", "/etc/hostname", "", "none", ".", "link")),
        *({"offset": number} for number in ("6", "-1", "x", str(2**63))),
        *({"length": number} for number in ("4", str(2**60), "x")),
    ],
    ids=str,
)
def test_where_weights_may_not_be(changes, tmp_path):
    (tmp_path / "data").write_bytes(bytes(100))
    inner = tmp_path / "inner"
    inner.mkdir()
    os.symlink(tmp_path / "data", inner / "link")
    with pytest.raises(ValueError, match=r"W|external|location|not valid"):
        from_onnx(external(inner, **changes))


# The exporters of others


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [False, True])
def test_torch(dynamo, tmp_path):
    torch = pytest.importorskip("torch", reason="the exporters are PyTorch's")
    if dynamo:
        pytest.importorskip("onnxscript", reason="which that exporter needs")
    from torch import nn

    torch.manual_seed(0)
    module = nn.Sequential(
        *(nn.Flatten(), nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.5)),
        *(nn.Linear(8, 8), nn.Softplus(), nn.SiLU(), nn.LayerNorm(8), nn.LeakyReLU(0.1), nn.Mish()),
        *(nn.Linear(8, 3), nn.Sigmoid()),
    )
    x = torch.randn(5, 2, 3)
    with torch.no_grad():
        module(x)  # running statistics of its own
        module[2].weight.uniform_()
    path = str(tmp_path / "a.onnx")
    rows = {"dynamic_shapes": ({0: torch.export.Dim("n")},)} if dynamo else {"dynamic_axes": {"x": {0: "n"}}}
    options = {"dynamo": dynamo, "verbose": False, "input_names": ["x"], **rows}
    torch.onnx.export(module.eval(), (x,), path, **options)
    found = from_onnx(path)
    close(found.predict(x.numpy()), module(x).detach().numpy())
    wanted = ["Affine", "GELU", "Affine", "Softplus", "SiLU", "LayerNorm", "LeakyReLU", "Mish", "Affine"]
    assert [name for name in names(found) if name != "BatchNorm"] == [*wanted, "Sigmoid"]
    module.train()
    training = {} if dynamo else {"training": torch.onnx.TrainingMode.TRAINING}
    torch.onnx.export(module, (x,), path, **options, **training)
    with pytest.raises(ValueError, match="is in training mode"):
        from_onnx(path)


@pytest.mark.filterwarnings("ignore")
def test_keras(tmp_path):
    """In a process of its own, where Keras computes with torch, as its exporter needs."""
    pytest.importorskip("torch", reason="Keras exports by PyTorch's exporter")
    if importlib.util.find_spec("keras") is None:
        pytest.skip("the exporter is that of Keras")

    code = """
import keras, numpy as np, sys
from keras import layers as L
model = keras.Sequential([
    L.Input((6,)), L.Rescaling(1 / 255, -0.5), L.Dense(8), L.BatchNormalization(), L.ReLU(), L.Dropout(0.5),
    L.Dense(8, activation="gelu"), L.Dense(8, activation="leaky_relu"), L.Activation("mish"), L.Dense(3),
])
model.compile("sgd", "mse")
x = np.random.default_rng(0).uniform(0, 255, (20, 6)).astype("float32")
model.fit(x, np.zeros((20, 3)), epochs=2, verbose=0)
model.export(sys.argv[1], format="onnx", verbose=False)
np.save(sys.argv[2], model.predict(x, verbose=0))
"""
    path, out = tmp_path / "a.onnx", tmp_path / "y.npy"
    environment = os.environ | {"KERAS_BACKEND": "torch"}
    done = subprocess.run([*PYTHON, "-c", code, path, out], env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    net = from_onnx(path)
    assert names(net) == ["Affine", "ReLU", "Affine", "GELU", "Affine", "LeakyReLU", "Mish", "Affine"]
    x = np.random.default_rng(0).uniform(0, 255, (20, 6)).astype(np.float32)
    close(net.predict(x), np.load(out))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_skl2onnx(dtype):
    skl2onnx = pytest.importorskip("skl2onnx", reason="the exporter is skl2onnx")
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    x, t = rng.normal(3, 2, size=(60, 6)).astype(dtype), rng.integers(0, 3, 60)
    options = {"hidden_layer_sizes": (5,), "max_iter": 5, "random_state": 0}
    regressor = make_pipeline(StandardScaler(), MLPRegressor(activation="tanh", **options)).fit(x, x[:, 0])
    net = from_onnx(skl2onnx.to_onnx(regressor, x[:1]))
    assert (names(net), net.dtype) == (["Affine", "Tanh", "Affine"], dtype)
    close(net.predict(x)[:, 0], regressor.predict(x))
    for classes in (2, 3):
        classifier = make_pipeline(StandardScaler(), MLPClassifier(**options)).fit(x, t % classes)
        net = from_onnx(skl2onnx.to_onnx(classifier, x[:1]), logits=True)
        loss = fastnn.SigmoidCrossEntropy() if classes == 2 else fastnn.SoftmaxCrossEntropy()
        loss.forward(net.predict(x), (t % classes)[:, None] if classes == 2 else t)
        close(loss.y, classifier.predict_proba(x)[:, -loss.y.shape[1] :])
