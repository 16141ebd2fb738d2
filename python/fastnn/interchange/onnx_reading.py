"""Graphs of ONNX as networks.

What a node computes element by element from one tensor is first only noted, as an expression; what takes it,
a product with weights for instance, has it made into layers: at each point through which all of it passes,
the longest piece that `functions` knows, or a product and a sum with constants. So no layer is found by the
names in a file, which exporters keep for other values, nor by the pattern of one exporter.
"""

from __future__ import annotations

from functools import reduce
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from onnx import TensorProto

from .. import _checks, layers
from ..reference import layers as reference
from . import functions, onnx_files
from .chain import Chain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._checks import Array
    from .chain import Mark

__all__ = ["read"]

DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
OLDEST = 7  # opset; those before have another broadcasting
SMALL = 64  # elements of what shapes are computed with
FOLDED, SPARE = 4, 2**22  # numbers that are made of constants: so many for each that was read, and these
LONGEST = 200  # nodes of an expression
PIECE = 16  # points in a row at which it could be cut, of what is one layer
BATCH, UNKNOWN = "batch", "unknown"  # dimensions in a computed shape
DAMAGED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE)
INPUTS = (*FLOATS, *range(TensorProto.UINT8, TensorProto.INT64 + 1), TensorProto.UINT32, TensorProto.UINT64)
PASSED = ("Identity", "Cast", "Dropout")


def _selu(x: Array, alpha: float, gamma: float) -> Array:
    return gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _gelu(x: Array, approximate: str) -> Array:
    y: Array = reference.GELU(approximate).forward(x)
    return y


def _clip(x: Array, low: Any = None, high: Any = None) -> Array:
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


# Nodes that compute element by element: the function, and the attributes that it takes with their defaults.
ELEMENTWISE: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "Add": (np.add, {}),
    "Sub": (np.subtract, {}),
    "Mul": (np.multiply, {}),
    "Div": (np.divide, {}),
    "Pow": (np.power, {}),
    "Neg": (np.negative, {}),
    "Abs": (np.abs, {}),
    "Exp": (np.exp, {}),
    "Log": (np.log, {}),
    "Sqrt": (np.sqrt, {}),
    "Reciprocal": (lambda x: 1 / x, {}),
    "Erf": (lambda x: 1 - reference.erfc(x), {}),
    "Tanh": (np.tanh, {}),
    "Sigmoid": (reference.sigmoid, {}),
    "Relu": (lambda x: np.maximum(x, 0), {}),
    "LeakyRelu": (lambda x, alpha: np.where(x > 0, x, alpha * x), {"alpha": 0.01}),
    "Elu": (lambda x, alpha: _selu(x, alpha, 1.0), {"alpha": 1.0}),
    "Selu": (_selu, {"alpha": reference.SELU_A, "gamma": reference.SELU_L}),
    "Softplus": (lambda x: np.logaddexp(0, x), {}),
    "Mish": (lambda x: x * np.tanh(np.logaddexp(0, x)), {}),
    "Gelu": (_gelu, {"approximate": "none"}),
    "Swish": (lambda x, alpha: x * reference.sigmoid(alpha * x), {"alpha": 1.0}),
    "Max": (lambda *xs: reduce(np.maximum, xs), {}),
    "Min": (lambda *xs: reduce(np.minimum, xs), {}),
    "Sum": (lambda *xs: reduce(np.add, xs), {}),
    "Clip": (_clip, {}),
    "Where": (np.where, {}),
    "Greater": (np.greater, {}),
    "GreaterOrEqual": (np.greater_equal, {}),
    "Less": (np.less, {}),
    "LessOrEqual": (np.less_equal, {}),
}


class Expression:
    """A tensor that is computed from the output of the layers so far, or that output itself.

    Attributes
    ----------
    name : str
        Of the tensor.
    where : str
        The node that computes it.
    op, function : str, callable or None
        None: the output itself.
    args : tuple of Expression or array
    base : Base
        The output that it is computed from.
    settled : Base or None
        The output of layers that it has become.
    """

    def __init__(
        self, name: str, where: str, op: str, function: Any, args: tuple[Any, ...], base: Base
    ) -> None:
        self.name, self.where, self.op, self.function, self.args = name, where, op, function, args
        self.settled: Base | None = base if function is None else None
        self.base = base

    @property
    def inputs(self) -> list[Expression]:
        """The arguments that are no constants."""
        return [arg for arg in self.args if isinstance(arg, Expression)]


class Base(NamedTuple):
    """What the layers up to a place return."""

    number: int
    mark: Mark


class Reading:
    """A graph as it is read, node by node."""

    def __init__(self, model: Any, folder: str | None, output: str | None, logits: bool) -> None:
        graph = model.graph
        self.folder, self.logits = folder, logits
        self.opset = _opset(model)
        self.initializers = {t.name: t for t in graph.initializer}
        if graph.sparse_initializer:
            raise ValueError("the graph must have no sparse initializers")
        self.values: dict[str, Any] = {}
        self.spare = SPARE
        self.indices = False  # whether the input, of floats, has been made one of integers
        self.output = _output(graph) if output is None else output
        self.nodes, needed = _needed(graph, self.output)
        self.uses = _uses(self.nodes, self.output)
        name, self.rows, shape, elements = _input(graph, self.initializers, needed)
        self.floats = elements in FLOATS
        self.chain = Chain(shape, np.float64 if elements == TensorProto.DOUBLE else np.float32)
        self.bases = [Base(0, self.chain.mark)]
        self.values[name] = Expression(name, f"input {name!r}", "", None, (), self.bases[0])

    def read(self) -> Any:
        """Return the network."""
        for i, node in self.nodes:
            where = onnx_files.label(i, node)
            try:
                self._add(where, node)
            except DAMAGED as error:
                text = str(error)
                known = text.startswith(("node ", "initializer ", "input "))
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(text if known else f"{where}: {text}") from None
        value = self.value("the graph", self.output)
        if not isinstance(value, Expression):
            raise ValueError(f"output {self.output!r} must be computed from the input")
        self.settle("the end", value)
        return self.chain.end(self.logits)

    # Values

    def value(self, where: str, name: str) -> Any:
        """Return the constant, an array, or the Expression of a name."""
        if name not in self.values:
            if name not in self.initializers:
                raise ValueError(f"{where}: takes {name!r}, which nothing before it computes")
            place = f"initializer {name!r}"
            array = onnx_files.tensor(place, self.initializers[name], self.folder)
            self.values[name], self.spare = array, self.spare + FOLDED * array.size
        return self.values[name]

    def constant(self, where: str, name: str, what: str) -> Any:
        """Return the constant of a name; ValueError for what is computed from the input."""
        value = self.value(where, name)
        if isinstance(value, Expression):
            raise ValueError(f"{where}: {what} must be a constant, got {name!r}, computed from the input")
        return value

    def expression(self, where: str, name: str, what: str) -> Expression:
        """Return the Expression of a name; ValueError for a constant."""
        value = self.value(where, name)
        if not isinstance(value, Expression):
            raise ValueError(f"{where}: {what} must be computed from the input, got the constant {name!r}")
        return value

    def become(self, node: Any) -> None:
        """Take the output of the layers so far as that of a node."""
        name = node.output[0]
        if self.uses.get(name, 0) > 1:
            self.chain.seal()
        self.bases.append(Base(len(self.bases), self.chain.mark))
        self.values[name] = Expression(name, "", "", None, (), self.bases[-1])

    # Nodes

    def _add(self, where: str, node: Any) -> None:
        if node.domain not in DOMAINS:
            raise ValueError(f"{where}: is of the domain {node.domain!r}, which is not one of ONNX itself")
        attributes = onnx_files.attributes(where, node)
        inputs = list(node.input)
        while inputs and not inputs[-1]:
            inputs.pop()
        arguments = [self.value(where, name) if name else None for name in inputs]
        op = node.op_type
        if op == "Constant" or not any(isinstance(a, Expression) for a in arguments):
            self.values[node.output[0]] = self._folded(where, op, attributes, arguments)
        elif op in READERS:
            READERS[op](self, where, node, attributes, inputs)
        elif op in ELEMENTWISE:
            self._compute(where, node, attributes, arguments)
        else:
            raise ValueError(f"{where}: fastnn has no layer for it")
        for name in node.output[1:]:
            if self.uses.get(name):
                raise ValueError(f"{where}: must have no other output that is used, got {name!r}")

    def _folded(self, where: str, op: str, attributes: dict[str, Any], arguments: list[Any]) -> Any:
        """Return what a node makes of constants."""
        if op == "Constant":
            return self._constant(where, attributes)
        if not arguments or any(a is None for a in arguments):
            raise ValueError(f"{where}: must take something that is computed from the input")
        x, *rest = arguments
        if op in ("Identity", "Dropout") or (op == "Cast" and x.dtype.kind == "O"):
            return x
        if op == "Transpose":
            return x.transpose(attributes.get("perm"))
        if op in ("Unsqueeze", "Squeeze", "Reshape"):
            axes = tuple(int(v) for v in (rest[0] if rest else attributes.get("axes", ())))
            if op == "Reshape":
                return x.reshape([n or x.shape[i] for i, n in enumerate(axes)])
            return np.expand_dims(x, axes) if op == "Unsqueeze" else x.squeeze(axes or None)
        if op == "Gather" and x.ndim <= 1 and rest[0].size <= SMALL and rest[0].dtype.kind == "i":
            return np.asarray(x[rest[0]])
        if op == "Concat" and sum(a.size for a in arguments) <= SMALL:
            return np.concatenate([np.atleast_1d(a) for a in arguments])
        if op == "Cast" and attributes["to"] in onnx_files.FIELDS:
            self._spend(x.size)
            return x.astype(onnx_files.FIELDS[attributes["to"]][0])
        if op == "ConstantOfShape" and x.ndim == 1:
            value = attributes.get("value")
            fill = np.zeros(1, "<f4") if value is None else onnx_files.tensor(where, value, self.folder)
            shape = [int(n) for n in x]
            self._spend(prod(shape))
            return np.full(shape, fill.reshape(-1)[0])
        if op in ELEMENTWISE:
            self._spend(prod(np.broadcast_shapes(*(a.shape for a in arguments))))
            with np.errstate(all="ignore"):
                return np.asarray(_function(where, op, attributes)(*arguments))
        raise ValueError(f"{where}: must take something that is computed from the input")

    def _spend(self, count: int) -> None:
        """Refuse to make numbers of constants by far more than were read: ValueError."""
        self.spare -= count
        if self.spare < 0:
            raise ValueError("must not make so many numbers of constants")

    def _constant(self, where: str, attributes: dict[str, Any]) -> Array:
        (name, value), *others = attributes.items() or [("", None)]
        dtypes = {"value_float": "<f4", "value_floats": "<f4", "value_int": "<i8", "value_ints": "<i8"}
        if others or name not in ("value", *dtypes):
            raise ValueError(f"{where}: must have one value of numbers, got {', '.join(attributes)}")
        if name == "value":
            return onnx_files.tensor(where, value, self.folder)
        return np.array(value, dtypes[name])

    def _compute(self, where: str, node: Any, attributes: dict[str, Any], arguments: list[Any]) -> None:
        """Note what a node computes element by element."""
        given = [a for a in arguments if isinstance(a, Expression)]
        if any(isinstance(a, np.ndarray) and a.dtype.kind == "O" for a in arguments):
            raise ValueError(f"{where}: must compute with numbers")
        bases = {a.base.number: a for a in given}
        if len(bases) > 1:
            self._join(where, node, arguments)
            return
        base = given[0].base
        function = _function(where, node.op_type, attributes)
        shape = base.mark.shape
        if any(
            isinstance(a, np.ndarray) and a.ndim > (1 if shape is None else len(shape)) + 1 for a in arguments
        ):
            raise ValueError(f"{where}: constants must not have more dimensions than what is computed")
        args = tuple(a if a is None or isinstance(a, Expression) else _constant(a) for a in arguments)
        self._note(where, node, function, args, base)

    def _note(self, where: str, node: Any, function: Any, args: tuple[Any, ...], base: Base) -> None:
        expression = Expression(node.output[0], where, node.op_type, function, args, base)
        if len(_ordered(expression)) > LONGEST:
            raise ValueError(f"{where}: must compute what it does with less than {LONGEST} nodes")
        self.values[node.output[0]] = expression

    def _join(self, where: str, node: Any, arguments: list[Any]) -> None:
        """Take y = x + f(x)."""
        if node.op_type not in ("Add", "Sum") or len(arguments) != 2:
            raise ValueError(f"{where}: of what is led around layers only sums x + f(x) can be converted")
        around, inner = sorted(arguments, key=lambda a: a.base.number if isinstance(a, Expression) else -1)
        start = around.settled
        if start is None or start not in self.bases:
            raise ValueError(f"{where}: must add the x of a sum x + f(x) as it goes into f")
        self.settle(where, inner)
        self.chain.add_around(where, start.mark)
        for i, base in enumerate(self.bases):
            if base.mark.position > start.mark.position:
                self.bases[i] = Base(-1, base.mark)  # which is inside now
        self.become(node)

    # Expressions

    def settle(self, where: str, expression: Expression) -> None:
        """Have the chain end with what an expression computes."""
        if self.indices:
            raise ValueError(f"{where}: must not compute with indices")
        current = self.bases[-1]
        if expression.settled is not None:
            if expression.settled is not current:
                raise ValueError(f"{where}: takes {expression.name!r}, from where other layers went on")
            return
        if expression.base is not current:
            raise ValueError(f"{where}: takes {expression.name!r}, from where other layers went on")
        ordered = _ordered(expression)
        cuts = _cuts(ordered)
        edges: dict[int, int] = {}
        for e in ordered:
            for arg in e.inputs:
                edges[id(arg)] = edges.get(id(arg), 0) + 1
        shared = [self.uses.get(cut.name, 0) > max(edges.get(id(cut), 0), 1) for cut in cuts]
        at = 0
        while at < len(cuts) - 1:
            furthest = next((i for i in range(at + 1, len(cuts)) if shared[i]), len(cuts) - 1)
            at = self._piece(cuts, at, min(furthest, at + PIECE))
            end = cuts[at]
            if shared[at]:
                self.chain.seal()
            if end is not expression:
                self.bases.append(Base(len(self.bases), self.chain.mark))
                end.settled = self.bases[-1]
        self.bases.append(Base(len(self.bases), self.chain.mark))
        expression.settled = self.bases[-1]

    def _piece(self, cuts: list[Expression], at: int, furthest: int) -> int:
        """Add the longest piece from a cut on that is a layer; return the cut that it reaches."""
        start = cuts[at]
        for end in range(furthest, at, -1):
            layer = self._layer(start, cuts[end])
            if layer is not None:
                if isinstance(layer, (layers.LayerNorm, layers.RMSNorm)):
                    for name, p in layer.params.items():
                        self.chain.parameter(f"{cuts[end].where}, {name}", p)
                    self.chain.norm(cuts[end].where, layer)
                else:
                    self.chain.function(cuts[end].where, layer)
                return end
        scale = _affine(start, cuts[at + 1])
        if scale is None:
            raise ValueError(f"{cuts[at + 1].where}: fastnn has no layer for what is computed up to here")
        self.chain.scale(cuts[at + 1].where, *scale)
        return at + 1

    def _layer(self, start: Expression, end: Expression) -> Any:
        """Return the layer that computes one cut from another, or None."""
        piece = [e for e in _ordered(end, start) if e is not start]
        constants = [a for e in piece for a in e.args if isinstance(a, np.ndarray)]
        if any(e.op == "ReduceMean" for e in piece):
            shape = self.chain.shape
            n = (shape[-1] if shape else None) or max((a.size for a in constants), default=0)
            dtype = self.chain.dtype or next((a.dtype for a in constants if a.dtype in _checks.FLOATS), None)
            if dtype is None or not all(a.size in (1, n) for a in constants):
                return None
            self.chain.claim(end.where, n)
            return functions.normalization(lambda x: _evaluated(start, piece, x), n, dtype)
        if any(a.size != 1 for a in constants):
            return None
        layer = functions.activation(lambda x: _evaluated(start, piece, x))
        if layer is None and len(piece) > 1:
            around = functions.activation(lambda x: _evaluated(start, piece, x) - x)
            layer = None if around is None else layers.Residual([around])
        return layer


# Of graphs


def _opset(model: Any) -> int:
    versions = {o.domain: o.version for o in model.opset_import}
    version: int = versions.get("", versions.get("ai.onnx", 0))
    if version < OLDEST:
        raise ValueError(f"the opset must be {OLDEST} or newer, got {version}")
    return version


def _output(graph: Any) -> str:
    """Return the name of the output that has the numbers; one of ZipMap has no type of elements."""
    kinds: dict[str, int] = {o.name: o.type.tensor_type.elem_type for o in graph.output}
    wanted = [name for name, kind in kinds.items() if kind in (*FLOATS, TensorProto.UNDEFINED)]
    if len(wanted) != 1:
        raise ValueError(f"output must name one of the graph's, {', '.join(kinds)}, or an inner tensor")
    return wanted[0]


def _needed(graph: Any, output: str) -> tuple[list[tuple[int, Any]], set[str]]:
    """Return the nodes, with their numbers, that an output is computed by, and the names that they take."""
    needed, nodes = {output}, []
    for i, node in reversed(list(enumerate(graph.node))):
        if any(name in needed for name in node.output if name):
            nodes.append((i, node))
            needed.update(name for name in node.input if name)
    if not nodes:
        known = ", ".join(o.name for o in graph.output)
        raise ValueError(f"output must be computed by a node of the graph, got {output!r}; it has {known}")
    return nodes[::-1], needed


def _uses(nodes: list[tuple[int, Any]], output: str) -> dict[str, int]:
    """Return how many nodes take each tensor; what is only passed on is taken where it goes."""
    alias: dict[str, str] = {}
    uses = {output: 1}
    for _, node in nodes:
        for name in node.input:
            name = alias.get(name, name)
            if node.op_type in PASSED and name == alias.get(node.input[0], node.input[0]):
                alias[node.output[0]] = name
            else:
                uses[name] = uses.get(name, 0) + 1
    if output in alias:
        uses[alias[output]] = uses.get(alias[output], 0) + 1
    return uses


def _input(
    graph: Any, initializers: dict[str, Any], needed: set[str]
) -> tuple[str, int | None, tuple[int | None, ...] | None, int]:
    """Return the input's name, number of rows, shape of a row, and type; None: not known."""
    inputs = [i for i in graph.input if i.name in needed and i.name not in initializers]
    if len(inputs) != 1:
        names = ", ".join(i.name for i in inputs) or "none"
        raise ValueError(f"the graph must have one input, got {names}")
    name, kind = inputs[0].name, inputs[0].type.tensor_type
    where = f"input {name!r}"
    if kind.elem_type not in INPUTS:
        raise TypeError(
            f"{where}: must hold float32, float64 or integers, got {onnx_files.dtype_name(kind.elem_type)}"
        )
    if not kind.HasField("shape"):
        return name, None, None, kind.elem_type
    dims = [d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim]
    if len(dims) < 2:
        raise ValueError(f"{where}: must have a dimension of rows and one of numbers, got shape {dims}")
    return name, dims[0], tuple(dims[1:]), kind.elem_type


# Of expressions


def _function(where: str, op: str, attributes: dict[str, Any]) -> Callable[..., Any]:
    """Return the function of a node with its attributes."""
    function, defaults = ELEMENTWISE[op]
    if not attributes.keys() <= defaults.keys():
        odd = sorted(attributes.keys() - defaults.keys())
        raise ValueError(f"{where}: must have no attribute {', '.join(odd)}")
    options = defaults | attributes
    if not options:
        return function
    return lambda *xs: function(*xs, **options)


def _constant(a: Array) -> Array:
    """Return a constant without the dimensions of size 1 in front: as it is added to a row."""
    while a.ndim > 0 and (a.shape[0] == 1 or a.size == 1):
        a = a[0]
    return np.asarray(a)


def _ordered(end: Expression, start: Expression | None = None) -> list[Expression]:
    """Return an expression and all that it is computed from, up to a start, each after its arguments."""
    found: list[Expression] = []
    seen: set[int] = set()
    stack: list[tuple[Expression, bool]] = [(end, False)]
    while stack:
        e, done = stack.pop()
        if done:
            found.append(e)
        elif id(e) not in seen:
            seen.add(id(e))
            stack.append((e, True))
            if e is not start:
                stack.extend((arg, False) for arg in e.inputs)
    return found


def _cuts(ordered: list[Expression]) -> list[Expression]:
    """Return the expressions through which all of the last passes, from the first on."""
    last: dict[int, int] = {}
    for i, e in enumerate(ordered):
        for arg in e.inputs:
            last[id(arg)] = i
    cuts, reach = [], 0
    for i, e in enumerate(ordered):
        if reach <= i:
            cuts.append(e)
        reach = max(reach, last.get(id(e), 0))
    return cuts


def _evaluated(start: Expression, piece: Sequence[Expression], x: Array) -> Array:
    """Return what expressions compute of x in the place of their start, in float64."""
    values: dict[int, Any] = {id(start): x}
    for e in piece:
        arguments = [
            values[id(a)]
            if isinstance(a, Expression)
            else a.astype(float)
            if isinstance(a, np.ndarray) and a.dtype.kind == "f"
            else a
            for a in e.args
        ]
        values[id(e)] = e.function(*arguments)
    result: Array = values[id(piece[-1])]
    return result


def _affine(start: Expression, end: Expression) -> tuple[Any, Any] | None:
    """Return a and c if an expression is a x + c of another, with constants."""
    if end.op == "Scaler":
        offset, scale = end.args[1:]
        return scale, -offset.astype(float) * scale
    if end.op == "Neg":
        return -1.0, 0.0
    if end.op not in ("Add", "Sub", "Mul", "Div") or end.inputs != [start]:
        return None
    first = end.args[0] is start
    constant = end.args[1 if first else 0].astype(float)
    if end.op == "Add":
        return 1.0, constant
    if end.op == "Sub":
        return (1.0, -constant) if first else (-1.0, constant)
    if end.op == "Mul":
        return constant, 0.0
    with np.errstate(all="ignore"):
        return (1 / constant, 0.0) if first else None


# Readers of nodes, each (reading, where, node, attributes, names of inputs)


def _gemm(r: Reading, where: str, node: Any, attributes: dict[str, Any], inputs: list[str]) -> None:
    x = r.expression(where, inputs[0], "A")
    W = r.constant(where, inputs[1], "B")
    c = r.constant(where, inputs[2], "C") if len(inputs) > 2 and inputs[2] else None
    if attributes.get("transA", 0):
        raise ValueError("transA must be 0")
    if W.ndim != 2:
        raise ValueError(f"B must have two dimensions, got shape {W.shape}")
    W = W.T if attributes.get("transB", 0) else W
    r.settle(where, x)
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    b = None
    if c is not None:
        r.chain.parameter(f"{where}, C {inputs[2]!r}", c)
        try:
            b = np.broadcast_to(_constant(c), (W.shape[1],))
        except ValueError:
            raise ValueError(f"C must be a row of {W.shape[1]}, got shape {c.shape}") from None
        b = b if beta == 1 else b * b.dtype.type(beta)
    r.chain.affine(f"{where}, B {inputs[1]!r}", W if alpha == 1 else W * W.dtype.type(alpha), b)
    r.become(node)


def _matmul(r: Reading, where: str, node: Any, attributes: dict[str, Any], inputs: list[str]) -> None:
    x = r.expression(where, inputs[0], "A")
    W = r.constant(where, inputs[1], "B")
    if W.ndim != 2:
        raise ValueError(f"B must have two dimensions, got shape {W.shape}")
    r.settle(where, x)
    r.chain.affine(f"{where}, B {inputs[1]!r}", W)
    r.become(node)


def _batch_norm(r: Reading, where: str, node: Any, attributes: dict[str, Any], inputs: list[str]) -> None:
    outputs = [name for name in node.output if name]
    if attributes.get("training_mode", 0) or (r.opset < 14 and len(outputs) > 1):
        raise ValueError(
            "is in training mode, where each batch has statistics of its own: export in eval mode"
        )
    x = r.expression(where, inputs[0], "X")
    names = ("scale", "B", "mean", "var")
    gamma, beta, mean, var = (
        r.constant(where, given, name) for name, given in zip(names, inputs[1:], strict=True)
    )
    r.settle(where, x)
    n = (gamma.size,)
    gamma, beta, mean, var = (
        r.chain.parameter(f"{where}, {name}", array, n)
        for name, array in zip(names, (gamma, beta, mean, var), strict=True)
    )
    momentum = functions.shortest(attributes.get("momentum", 0.9))
    eps = functions.shortest(attributes.get("epsilon", 1e-5))
    r.chain.norm(where, layers.BatchNorm(gamma, beta, momentum, mean, var, eps=eps))
    r.become(node)


def _row_norm(r: Reading, where: str, node: Any, attributes: dict[str, Any], inputs: list[str]) -> None:
    x = r.expression(where, inputs[0], "X")
    arrays = [r.constant(where, name, "scale and B") for name in inputs[1:] if name]
    r.settle(where, x)
    shape = r.chain.shape
    if attributes.get("axis", -1) not in (-1, None if shape is None else len(shape)):
        raise ValueError(f"axis must be the last one, got {attributes['axis']}")
    if attributes.get("stash_type", TensorProto.FLOAT) not in FLOATS:
        raise ValueError("stash_type must be float32")
    names = ("scale", "B")
    arrays = [
        r.chain.parameter(f"{where}, {name}", a.reshape(-1)) for name, a in zip(names, arrays, strict=False)
    ]
    eps = functions.shortest(attributes.get("epsilon", 1e-5))
    if node.op_type == "RMSNormalization":
        layer: Any = layers.RMSNorm(*arrays, eps=eps)
    else:
        layer = layers.LayerNorm(arrays[0], arrays[1] if len(arrays) > 1 else 0 * arrays[0], eps=eps)
    r.chain.norm(where, layer)
    r.become(node)


def _softmax(r: Reading, where: str, node: Any, attributes: dict[str, Any], inputs: list[str]) -> None:
    r.settle(where, r.expression(where, inputs[0], "input"))
    rank = None if r.chain.shape is None else len(r.chain.shape)
    if attributes.get("axis", -1 if r.opset >= 13 else 1) not in (-1, 1 if rank is None else rank):
        raise ValueError(f"axis must be the last one, got {attributes['axis']}")
    r.chain.probabilities(where)
    r.become(node)


def _gather(r: Reading, where: str, node: Any, attributes: dict[str, Any], inputs: list[str]) -> None:
    W = r.constant(where, inputs[0], "data")
    x = r.expression(where, inputs[1], "indices")
    if attributes.get("axis", 0) != 0 or W.ndim != 2:
        raise ValueError(f"must look up rows of a table, got axis {attributes.get('axis', 0)} of {W.shape}")
    if x.base is not r.bases[0] or r.bases[-1] is not r.bases[0] or not _same(x, len(W)):
        raise ValueError("must come first: fastnn looks up rows of the data only")
    r.indices = False
    r.chain.embedding(f"{where}, data {inputs[0]!r}", W)
    r.become(node)


def _same(x: Expression, count: int) -> bool:
    """Whether an expression returns the indices that it is given, as one does that wraps negative ones."""
    start, *piece = _ordered(x)
    indices = np.arange(count)
    scalars = all(a.size == 1 for e in piece for a in e.args if isinstance(a, np.ndarray))
    return not piece or (scalars and np.array_equal(_evaluated(start, piece, indices), indices))


def _flatten(r: Reading, where: str, node: Any, attributes: dict[str, Any], inputs: list[str]) -> None:
    x = r.expression(where, inputs[0], "input")
    if attributes.get("axis", 1) != 1:
        raise ValueError(f"axis must be 1, got {attributes['axis']}")
    r.settle(where, x)
    r.chain.flatten(where)
    r.become(node)


def _reshape(r: Reading, where: str, node: Any, attributes: dict[str, Any], inputs: list[str]) -> None:
    x = r.expression(where, inputs[0], "data")
    target = r.constant(where, inputs[1], "shape")
    if target.ndim != 1 or not 2 <= target.size <= 8:
        raise ValueError(f"shape must be of rows, got {_checks.shown(target.tolist())}")
    rows, *row = (n if n in (BATCH, UNKNOWN) else int(n) for n in target.tolist())
    r.settle(where, x)
    shape = r.chain.shape
    if not attributes.get("allowzero", 0):
        rows = BATCH if rows == 0 else rows
        row = [n if n != 0 or shape is None or i >= len(shape) else shape[i] for i, n in enumerate(row)]
    n = None if shape is None or None in shape else prod(shape)  # type: ignore[arg-type]
    if rows not in (BATCH, r.rows) and (rows != -1 or n is None):
        raise ValueError(f"shape must keep the rows, of shape {shape}, got {target.tolist()}")
    if row == [-1] and rows != -1:
        r.chain.flatten(where)
    else:
        if n is None or not all(isinstance(m, int) for m in row):
            raise ValueError(f"must be of rows of a known shape, got {shape}")
        if row.count(-1) == 1 and rows != -1:
            row[row.index(-1)] = n // max(1, abs(prod(row)))
        r.chain.reshape(where, tuple(row))
    r.become(node)


def _shape(r: Reading, where: str, node: Any, attributes: dict[str, Any], inputs: list[str]) -> None:
    x = r.expression(where, inputs[0], "data")
    shape = (x.settled or x.base).mark.shape
    if shape is None:
        raise ValueError("must be of rows of a known shape")
    dims = np.array([BATCH, *(UNKNOWN if n is None else n for n in shape)], dtype=object)
    r.values[node.output[0]] = dims[attributes.get("start", 0) : attributes.get("end", len(dims))]


def _mean(r: Reading, where: str, node: Any, attributes: dict[str, Any], inputs: list[str]) -> None:
    x = r.expression(where, inputs[0], "data")
    axes = r.constant(where, inputs[1], "axes").tolist() if len(inputs) > 1 else attributes.get("axes", [])
    shape = x.base.mark.shape
    rank = None if shape is None else len(shape)
    if (
        len(axes) != 1
        or axes[0] not in (-1, 1 if rank is None else rank)
        or not attributes.get("keepdims", 1)
    ):
        raise ValueError(f"must be over the last axis, and keep it, got {axes}")
    r._note(where, node, lambda a: a.mean(axis=-1, keepdims=True), (x,), x.base)


def _pass(r: Reading, where: str, node: Any, attributes: dict[str, Any], inputs: list[str]) -> None:
    x = r.expression(where, inputs[0], "input")
    r.values[node.output[0]] = x


def _cast(r: Reading, where: str, node: Any, attributes: dict[str, Any], inputs: list[str]) -> None:
    x = r.expression(where, inputs[0], "input")
    to = attributes["to"]
    if to in (TensorProto.INT32, TensorProto.INT64) and x.settled is r.bases[0] and len(r.bases) == 1:
        r.indices = r.floats
    elif to not in FLOATS:
        raise ValueError(f"must be to float32 or float64, got {onnx_files.dtype_name(to)}")
    r.values[node.output[0]] = x


def _dropout(r: Reading, where: str, node: Any, attributes: dict[str, Any], inputs: list[str]) -> None:
    training = bool(r.constant(where, inputs[2], "training_mode")) if len(inputs) > 2 and inputs[2] else False
    if training:
        raise ValueError("is in training mode, and drops at random: export in eval mode")
    _pass(r, where, node, attributes, inputs)


def _scaler(r: Reading, where: str, node: Any, attributes: dict[str, Any], inputs: list[str]) -> None:
    x = r.expression(where, inputs[0], "X")
    offset, scale = (
        _constant(np.array(attributes.get(name, v), "<f4")) for name, v in (("offset", 0), ("scale", 1))
    )
    r._note(where, node, lambda a, o, s: (a - o) * s, (x, offset, scale), x.base)


def _concat(r: Reading, where: str, node: Any, attributes: dict[str, Any], inputs: list[str]) -> None:
    """Take 1 - p and p of a logit, side by side."""
    q, p = (r.expression(where, name, "input") for name in (inputs[0], inputs[-1]))
    pair = len(inputs) == 2 and (q.op, p.op) == ("Sub", "Sigmoid") and q.args[1] is p
    if not pair or np.asarray(q.args[0]).tolist() != 1 or attributes["axis"] not in (1, -1):
        raise ValueError("fastnn has no layer for it")
    r.settle(where, p.args[0])
    if r.chain.shape != (1,):
        raise ValueError("fastnn has no layer for it")
    r.chain.probabilities(where)
    r.become(node)


READERS: dict[str, Callable[[Reading, str, Any, dict[str, Any], list[str]], None]] = {
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _row_norm,
    "RMSNormalization": _row_norm,
    "Softmax": _softmax,
    "LogSoftmax": _softmax,
    "Gather": _gather,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Shape": _shape,
    "ReduceMean": _mean,
    "Identity": _pass,
    "Cast": _cast,
    "Dropout": _dropout,
    "Scaler": _scaler,
    "Concat": _concat,
    "ZipMap": _pass,
}


def read(path: Any, output: str | None, logits: bool) -> Any:
    """Return the network that a file is; TypeError or ValueError, with the place, if it cannot be one."""
    model, folder = onnx_files.read(path)
    return Reading(model, folder, output, logits).read()
