"""Networks as graphs of ONNX, for predictions.

Opset 17, which onnxruntime has run since 1.12. In float64, for which onnxruntime has few functions, an
activation is written out in products, exponentials and the like, that it has; but for the error function.
"""

from __future__ import annotations

import warnings
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .. import _checks, checkpoint
from ..reference import layers as reference_layers
from ..reference import network as reference
from . import forms

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._checks import Array

__all__ = ["write"]

OPSET, IR = 17, 8
LARGEST = 2**31 - 1  # bytes of a message of protobuf
ENDS = ("softmax", "sigmoid")


class Writing:
    """A graph as it is written, node by node.

    Attributes
    ----------
    last : str
        The tensor that is reached.
    width : int or None
        The numbers in its rows; None: not known.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self.nodes: list[Any] = []
        self.initializers: dict[str, Any] = {}
        self.last = "input"
        self.width: int | None = None
        self.embedded = False  # whether a row is one of T rows of numbers, of an embedding
        self.tokens: int | None = None  # that T
        self.flat = False  # whether it is flat where fastnn's is not
        self._prefix = ""

    @property
    def double(self) -> bool:
        """Whether it computes in float64."""
        return self.dtype == np.float64

    def constant(self, name: str, array: Array) -> str:
        """Return the name of an initializer, a new one or the same that is there."""
        self.initializers.setdefault(name, numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def number(self, value: float) -> str:
        """Return the name of a scalar."""
        return self.constant(repr(value), np.array(value, self.dtype))

    def array(self, name: str, array: Array) -> str:
        """Return the name of the initializer of a parameter."""
        name = f"{self._prefix}{name}"
        with np.errstate(over="ignore"):
            values = array.astype(self.dtype)
        if np.isfinite(array).all() and not np.isfinite(values).all():
            raise ValueError(f"dtype must hold the numbers of {name}, got {self.dtype}")
        return self.constant(name, values)

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Return the output of a new node, which is reached."""
        name = f"{self._prefix}{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        self.last = name
        return name

    def add(self, prefix: str, layer: Any) -> None:
        """Add the nodes of a layer."""
        if isinstance(layer, reference_layers.Residual):
            self.as_ours()
            x = self.last
            for i, inner in enumerate(layer.layers):
                self.add(f"{prefix}{i}.", inner)
            self._prefix = prefix
            self.as_ours()
            self.node("Add", x, self.last)
            return
        self._prefix = prefix
        WRITERS[type(layer).__name__](self, layer)

    def flatten(self) -> None:
        """Make rows of numbers of what an embedding returns."""
        if self.embedded and not self.flat:
            self.node("Flatten", self.last, axis=1)
            self.flat = True

    def as_ours(self) -> None:
        """Undo that where fastnn's rows are not flat."""
        if self.flat:
            self.node("Reshape", self.last, self.constant("shape", np.array([0, -1, self.width])))
            self.flat = False


def _affine(w: Writing, layer: Any) -> None:
    w.flatten()
    w.node("Gemm", w.last, w.array("W", layer.params["W"]), w.array("b", layer.params["b"]))
    w.embedded, w.flat, w.width = False, False, layer.params["W"].shape[1]


def _batch_norm(w: Writing, layer: Any) -> None:
    w.flatten()
    arrays = [layer.params["gamma"], layer.params["beta"], layer.running_mean, layer.running_var]
    names = ("gamma", "beta", *reference.RUNNING)
    inputs = [w.array(name, array) for name, array in zip(names, arrays, strict=True)]
    w.node("BatchNormalization", w.last, *inputs, epsilon=layer.eps, momentum=layer.momentum)


def _layer_norm(w: Writing, layer: Any) -> None:
    w.as_ours()
    names = [w.array(name, p) for name, p in layer.params.items()]
    w.node("LayerNormalization", w.last, *names, epsilon=layer.eps, axis=-1)


def _rms_norm(w: Writing, layer: Any) -> None:
    w.as_ours()
    x = w.last
    w.node("ReduceMean", w.node("Mul", x, x), axes=[-1], keepdims=1)
    w.node("Sqrt", w.node("Add", w.last, w.number(layer.eps)))
    w.node("Mul", w.node("Div", x, w.last), w.array("gamma", layer.params["gamma"]))


def _embedding(w: Writing, layer: Any) -> None:
    w.node("Gather", w.array("W", layer.params["W"]), w.last, axis=0)
    w.embedded, w.width = True, layer.params["W"].shape[1]


def _dropout(w: Writing, layer: Any) -> None:
    if not layer.inverted:
        w.node("Mul", w.last, w.number(1 - layer.ratio_at(layer.step)))


def _positive(w: Writing, x: str) -> str:
    return w.node("Max", x, w.number(0.0))


def _leaky_relu(w: Writing, layer: Any) -> None:
    x = w.last
    if not w.double:
        w.node("LeakyRelu", x, alpha=layer.alpha)
        return
    negative = w.node("Mul", w.node("Min", x, w.number(0.0)), w.number(layer.alpha))
    w.node("Add", _positive(w, x), negative)


def _selu(w: Writing, layer: Any) -> None:
    x = w.last
    if not w.double:
        w.node("Selu", x)
        return
    below = w.node("Sub", w.node("Exp", w.node("Min", x, w.number(0.0))), w.number(1.0))
    below = w.node("Mul", below, w.number(reference_layers.SELU_A))
    w.node("Mul", w.node("Add", _positive(w, x), below), w.number(reference_layers.SELU_L))


def _softplus(w: Writing, layer: Any) -> None:
    x = w.last
    if not w.double:
        w.node("Softplus", x)
        return
    power = w.node("Exp", w.node("Neg", w.node("Abs", x)))
    w.node("Add", w.node("Log", w.node("Add", power, w.number(1.0))), _positive(w, x))


def _mish(w: Writing, layer: Any) -> None:
    x = w.last
    _softplus(w, layer)
    w.node("Mul", x, w.node("Tanh", w.last))


def _silu(w: Writing, layer: Any) -> None:
    x = w.last
    w.node("Mul", x, w.node("Sigmoid", x))


def _gelu(w: Writing, layer: Any) -> None:
    x = w.last
    if layer.approximate == "tanh":
        cube = w.node("Mul", w.node("Mul", x, x), x)
        inner = w.node("Add", x, w.node("Mul", cube, w.number(0.044715)))
        share = w.node("Tanh", w.node("Mul", inner, w.number(sqrt(2 / np.pi))))
    else:
        share = w.node("Erf", w.node("Div", x, w.number(sqrt(2.0))))
    w.node("Mul", w.node("Mul", x, w.node("Add", share, w.number(1.0))), w.number(0.5))


def _function(w: Writing, layer: Any) -> None:
    w.node({"ReLU": "Relu"}.get(type(layer).__name__, type(layer).__name__), w.last)


WRITERS: dict[str, Callable[[Writing, Any], None]] = {
    "Affine": _affine,
    "BatchNorm": _batch_norm,
    "LayerNorm": _layer_norm,
    "RMSNorm": _rms_norm,
    "Embedding": _embedding,
    "Dropout": _dropout,
    **dict.fromkeys(("ReLU", "Sigmoid", "Tanh"), _function),
    "LeakyReLU": _leaky_relu,
    "SELU": _selu,
    "GELU": _gelu,
    "SiLU": _silu,
    "Softplus": _softplus,
    "Mish": _mish,
}


def write(net: Any, path: Any, scale: Any, probabilities: Any, labels: Any, dtype: Any) -> None:
    """Write a network to a file; TypeError or ValueError, and no file, if it cannot be."""
    forms.check_network(net)
    scale = reference.input_scale(net, scale)
    if probabilities is not None:
        _checks.choice("probabilities", probabilities, ENDS)
    own = net.dtype or _checks.FLOATS[0]
    writing = Writing(own if dtype is None else _checks.float_dtype("dtype", dtype))
    indices = net.layers[0].takes_indices
    writing.width = n_in = forms.features(net)
    writing.tokens = forms.tokens(net)
    if scale != 1:
        writing.node("Mul", writing.last, writing.number(scale))
    for i, layer in enumerate(net.layers):
        writing.add(f"{i}.", layer)
    writing.as_ours()
    outputs = _outputs(writing, probabilities, labels)
    kind = helper.np_dtype_to_tensor_dtype(writing.dtype)
    if indices:
        x = helper.make_tensor_value_info("input", TensorProto.INT64, ["N", writing.tokens or "T"])
    else:
        x = helper.make_tensor_value_info("input", kind, ["N", n_in or "n"])
    graph = helper.make_graph(writing.nodes, "fastnn", [x], outputs, [*writing.initializers.values()])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="fastnn"
    )
    if model.ByteSize() > LARGEST:
        raise ValueError(f"net must fit a file of {LARGEST} bytes, got {model.ByteSize()}")
    onnx.checker.check_model(model, full_check=True)
    if writing.double and any(node.op_type == "Erf" for node in writing.nodes):
        warnings.warn(
            "onnxruntime has no error function in float64, which GELU() is written with: it needs "
            "dtype=numpy.float32, or GELU('tanh')",
            UserWarning,
            stacklevel=3,
        )
    content = model.SerializeToString(deterministic=True)
    checkpoint.put(path, lambda file: file.write(content))


def _outputs(w: Writing, probabilities: str | None, labels: Any) -> list[Any]:
    """Write the end of a graph; return its outputs."""
    kind, columns = helper.np_dtype_to_tensor_dtype(w.dtype), w.width
    row = [w.tokens or "T", columns] if w.embedded else [columns or "n"]
    w._prefix = ""
    if probabilities == "softmax":
        w.node("Softmax", w.last, axis=-1)
    elif probabilities == "sigmoid":
        w.node("Sigmoid", w.last)
    elif not w.nodes:
        w.node("Identity", w.last)
    y = w.nodes[-1].output[0] = w.last = "output" if probabilities is None else "probabilities"
    outputs = [helper.make_tensor_value_info(y, kind, ["N", *row])]
    if labels is None:
        return outputs
    if w.embedded or columns is None:
        raise ValueError("labels must be None for a network whose outputs are not rows of numbers")
    names = _labels(labels, max(columns, 2))
    table = w.constant("labels", names)
    if columns > 1:
        w.node("ArgMax", y, axis=1, keepdims=0)
    elif probabilities == "softmax":
        raise ValueError("probabilities must be None or 'sigmoid' where a row has one output, got 'softmax'")
    else:
        w.node("Greater", y, w.number(0.5 if probabilities else 0.0))
        w.node("Cast", w.node("Squeeze", w.last, w.constant("columns", np.array([1]))), to=TensorProto.INT64)
    w.node("Gather", table, w.last, axis=0)
    w.nodes[-1].output[0] = "label"
    of = TensorProto.INT64 if names.dtype == np.int64 else TensorProto.STRING
    return [*outputs, helper.make_tensor_value_info("label", of, ["N"])]


def _labels(labels: Any, count: int) -> Array:
    """Return labels as an array of int64 or of strings."""
    array = _checks.as_array("labels", labels)
    if array.shape != (count,):
        raise ValueError(f"labels must hold {count}, one for each class, got shape {array.shape}")
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    if not all(isinstance(label, str) for label in array.tolist()):
        raise TypeError(f"labels must be integers or strings, got {_checks.shown(labels)}")
    return array.astype(object)
