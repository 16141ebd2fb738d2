"""The package of the reference: its names, matrix multiply, thread settings, imports."""

import subprocess

import numpy as np
import pytest

import fastnn
from fastnn import reference as ref
from native import PYTHON

NAMES = [
    "Affine",
    "BatchNorm",
    "LayerNorm",
    "RMSNorm",
    "Dropout",
    "ReLU",
    "LeakyReLU",
    "Sigmoid",
    "Tanh",
    "GELU",
    "SiLU",
    "SELU",
    "Softplus",
    "Mish",
    "Embedding",
    "SoftmaxCrossEntropy",
    "SigmoidCrossEntropy",
    "MeanSquaredError",
    "MeanAbsoluteError",
    "Huber",
    "Quantile",
    "Poisson",
    "Population",
    "GaussianNLL",
    "SGD",
    "Momentum",
    "Nesterov",
    "AdaGrad",
    "RMSProp",
    "Adam",
    "AdamW",
    "Muon",
    "Sequential",
    "mlp",
    "Joint",
    "Group",
    "Trainer",
    "History",
    "RowSparse",
    "matmul",
    "set_num_threads",
    "get_num_threads",
    "threads",
    "show_config",
    "init",
    "schedules",
    "data",
    "callbacks",
    "metrics",
    "Residual",
]


def test_names():
    assert set(NAMES) == set(ref.__all__)
    assert all(hasattr(ref, name) for name in NAMES)


def test_docstring_lists_where_textbooks_differ():
    for topic in ("ReLU", "Dropout", "Epsilon", "1e-7", "modulo"):
        assert topic in ref.__doc__


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matmul(dtype):
    a, b = np.arange(6, dtype=dtype).reshape(2, 3), np.arange(12, dtype=dtype).reshape(4, 3).T
    expected = [[5, 14, 23, 32], [14, 50, 86, 122]]
    result = ref.matmul(a, b)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, expected)
    out = np.empty((4, 2), dtype).T
    assert ref.matmul(a, b, out) is out
    np.testing.assert_array_equal(out, expected)
    assert ref.matmul(a[:0], b).shape == (0, 4)
    np.testing.assert_array_equal(ref.matmul(a[:, :0], b[:0]), np.zeros((2, 4)))


@pytest.mark.parametrize(
    ("a", "b", "out", "error", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 3)), None, ValueError, r"^b must have a.shape\[1\] = 3 rows"),
        (np.ones(3), np.ones((3, 2)), None, ValueError, "^a must have 2 dimensions"),
        (np.ones((2, 3), complex), np.ones((3, 2)), None, TypeError, "^a must hold real numbers"),
        (np.ones((2, 3)), np.ones((3, 2)), np.ones((2, 3)), ValueError, r"^out must have shape \(2, 2\)"),
        (np.ones((2, 3)), np.ones((3, 2)), np.ones((2, 2), "f4"), TypeError, "^out must have dtype float64"),
        (np.ones((2, 3)), np.ones((3, 2)), [[0.0] * 2] * 2, TypeError, "^out must be an array"),
        (
            np.ones((2, 3)),
            np.ones((3, 2)),
            np.broadcast_to(0.0, (2, 2)),
            ValueError,
            "^out must be writeable",
        ),
    ],
)
def test_matmul_refuses(a, b, out, error, message):
    with pytest.raises(error, match=message):
        ref.matmul(a, b, out)


@pytest.mark.parametrize(
    ("left", "right"), [("f4", "f8"), ("u1", "f4"), ("i8", "f4"), ("i2", "i2"), ("f2", "f4"), ("?", "?")]
)
def test_matmul_converts_as_the_native_one(left, right):
    a, b = np.ones((2, 3), left), np.ones((3, 2), right)
    ours, native = ref.matmul(a, b), fastnn.matmul(a, b)
    assert ours.dtype == native.dtype
    np.testing.assert_array_equal(ours, native)


def test_threads():
    before = ref.get_num_threads()
    assert before >= 1
    with ref.threads(3):
        assert ref.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError), ref.threads(5):
            raise ZeroDivisionError
        assert ref.get_num_threads() == 3
    assert ref.get_num_threads() == before
    ref.set_num_threads(2)
    assert ref.get_num_threads() == ref.show_config()["threads"] == 2
    ref.set_num_threads(before)
    for bad, error in ((0, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match=r"^n must be an integer in \[1, 1024\]"):
            ref.set_num_threads(bad)
        with pytest.raises(error, match=r"^n must be an integer in \[1, 1024\]"):
            ref.threads(bad)


def test_show_config():
    config = ref.show_config()
    assert config["isa"] == "numpy"
    assert config["version"] == fastnn.__version__


def test_import_is_light():
    """NumPy and nothing heavy that it does not bring itself."""
    heavy = [
        "json",
        "gzip",
        "zipfile",
        "tempfile",
        "dataclasses",
        "inspect",
        "tqdm",
        "safetensors",
        "typing_extensions",
    ]
    code = f"""if True:
        import sys, numpy
        before = set(sys.modules)
        import fastnn.reference
        print(*[name for name in {heavy} if name in sys.modules and name not in before])
    """
    result = subprocess.run([*PYTHON, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
