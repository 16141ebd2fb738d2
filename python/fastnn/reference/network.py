"""Networks: layers one after the other.

`Sequential` asks little of a layer, so that layers of your own and native ones can stand in it alike:

    forward(x, train), backward(dout)  as in `fastnn.reference.layers`
    params, grads                      dicts of arrays, if it has any; all arrays of a network have one dtype
    backward_params(dout)              optional: fills grads only; called on the first layer instead of
                                       backward where the gradient with respect to the data is not wanted
    takes_indices                      optional: true if x must keep its integers (an embedding)
    running_mean, running_var          optional: arrays that belong to the state but are not trained
    seed, stream, step                 optional, together: what random masks are drawn from, see Dropout; the
                                       network sets stream to the layer's place
    config(), from_config(config)      for files, with the class in `Sequential.layer_classes`
"""

from __future__ import annotations

import copy
import math
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import _checks, checkpoint, data
from . import layers as _layers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from typing_extensions import Self

    from .._checks import Array
    from ..checkpoint import Path

__all__ = [
    "ACTIVATIONS",
    "RUNNING",
    "Sequential",
    "dropouts",
    "dropouts_among",
    "input_scale",
    "layers_of",
    "mlp",
    "passes_kept",
    "scaled",
]

RUNNING = ("running_mean", "running_var")
ACTIVATIONS = {name: layer.__name__ for name, layer in _layers.ACTIVATIONS.items()}
PREDICT_ROWS = 1024
ROWS_INTO = 16 * PREDICT_ROWS  # before they are put into an array that is given
REPLACED = "parameters must be the arrays of the last forward: some were replaced; call forward again"
OPTIMIZER = "optimizer."  # begins the names that a trainer adds to a network's file, as does the next
CALLBACKS = "callbacks."
AVERAGE = "average."


class _Live(dict[str, Any]):
    """Arrays by name: what is assigned to a name is copied into its array; a copy is a plain dict."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self:
            raise ValueError(f"params must keep its names, {', '.join(self)}, got {_checks.shown(name)}")
        array = self[name]
        if value is not array:
            array[...] = _checks.parameter(f"params[{name!r}]", value, array.ndim, shape=array.shape)

    def update(self, *args: Any, **arrays: Any) -> None:
        for name, value in dict(*args, **arrays).items():
            self[name] = value

    def __ior__(self, other: Any) -> Self:  # type: ignore[override,misc]
        self.update(other)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


class Sequential:
    """A network that passes its input through its layers in order.

    Parameters
    ----------
    layers : iterable of layers
        At least one, none twice. One of your own has `forward(x, train)` and `backward(dout)`; if it has
        parameters, the dicts `params` and `grads` of arrays of one dtype; to be saved, `config()` and
        `from_config(config)`, and its class in `layer_classes` of a subclass. docs/from-scratch.md has an
        example, help(fastnn.reference.network) what else it may have.

    Attributes
    ----------
    layers : tuple
    dtype : numpy dtype or None
        The dtype of the parameters, to which `forward` converts its input; None without parameters.
    """

    layer_classes: ClassVar[Mapping[str, Any]] = _layers.LAYERS

    def __init__(self, layers: Iterable[Any]) -> None:
        self.layers = layers

    @property
    def layers(self) -> tuple[Any, ...]:
        """The layers; others may be put in their place, which are checked as those of a new network."""
        layers: tuple[Any, ...] = self.__dict__["layers"]
        return layers

    @layers.setter
    def layers(self, layers: Iterable[Any]) -> None:
        layers = _layers.tuple_of_layers(layers, self.layer_classes.values())
        every = list(_layers.each_layer(layers))
        named = [(name, layer) for name, layer in every if not isinstance(layer, _layers.Residual)]
        with_params = [(prefix, layer) for prefix, layer in named if hasattr(layer, "params")]
        dtype: np.dtype[Any] | None = None
        params = {prefix + name: p for prefix, layer in with_params for name, p in layer.params.items()}
        for name, param in params.items():
            if not isinstance(param, np.ndarray) or param.dtype not in _checks.FLOATS:
                raise TypeError(
                    f"parameter {name} must be a float32 or float64 array, got {_checks.shown(param)}"
                )
            if dtype is not None and dtype != param.dtype:  # a dtype "equals" None: float64
                raise TypeError(
                    f"parameter {name} must have the dtype {dtype} of the others, got {param.dtype}"
                )
            dtype = param.dtype
        for i, dropout in dropouts(layers):
            dropout.stream = i
        self.__dict__["layers"] = layers
        self._every = [layer for _, layer in every]
        self._named, self._with_params = named, with_params
        self.dtype = dtype
        self._takes_indices = bool(getattr(layers[0], "takes_indices", False))

    @classmethod
    def from_sizes(
        cls,
        sizes: Sequence[int],
        *,
        activation: Any = "relu",
        batch_norm: bool = False,
        dropout: float = 0.0,
        init: Any = "he",
        seed: Any = None,
        rng: Any = None,
        dtype: Any = np.float32,
    ) -> Self:
        """Return a network of dense layers of the given sizes; see `mlp`."""
        try:
            count = 0 if isinstance(sizes, str) else len(sizes)
        except TypeError:
            count = 0
        if count < 2:
            raise ValueError(f"sizes must hold at least two integers, got {_checks.shown(sizes)}")
        sizes = [_checks.size(f"sizes[{i}]", n) for i, n in enumerate(sizes)]
        make = cls.layer_classes
        if isinstance(activation, type):
            activate = activation
            if not (hasattr(activate, "forward") and hasattr(activate, "backward")):
                raise TypeError(f"activation must be the class of a layer, got {_checks.shown(activation)}")
        else:
            activate = make[ACTIVATIONS[_checks.choice("activation", activation, tuple(ACTIVATIONS))]]
        batch_norm = _checks.flag("batch_norm", batch_norm)
        dropout = _checks.real_number("dropout", dropout, 0, 1, "[)")
        given = dropout > 0 and not (seed is None and rng is None)
        rng = _checks.seeded(seed, rng)
        layers: list[Any] = []
        for n_in, n_out in pairwise(sizes[:-1]):
            layers.append(make["Affine"].create(n_in, n_out, init=init, rng=rng, dtype=dtype))
            if batch_norm:
                layers.append(make["BatchNorm"].create(n_out, dtype=dtype))
            layers.append(activate())
            if dropout:
                layers.append(make["Dropout"](dropout))
        layers.append(make["Affine"].create(sizes[-2], sizes[-1], init=init, rng=rng, dtype=dtype))
        net = cls(layers)
        if given:
            seed = int(copy.deepcopy(rng).integers(2**64, dtype=np.uint64))  # rng stays for the weights alone
            for _, layer in dropouts(layers):
                layer.seed = seed
        return net

    @property
    def params(self) -> dict[str, Any]:
        """The parameters by name, "0.W": a new dict of the live arrays, which what is assigned goes into."""
        return _Live(
            {prefix + name: p for prefix, layer in self._with_params for name, p in layer.params.items()}
        )

    @property
    def grads(self) -> dict[str, Any]:
        """The gradients by name: a new dict of the live arrays; empty before the first backward."""
        return {prefix + name: g for prefix, layer in self._with_params for name, g in layer.grads.items()}

    def forward(self, x: Any, train: bool = True) -> Any:
        """Return the output of the last layer, and keep what `backward` needs until the next forward.

        Parameters
        ----------
        x : array, shape (N, ...)
            Converted to the network's dtype, unless the first layer takes indices. It must not be changed
            before `backward`.
        train : bool
            False: BatchNorm uses its running statistics and Dropout drops nothing.
        """
        self.__dict__["_passed"] = self._parameters()
        if self.dtype is not None and not self._takes_indices:
            x = _checks.float_array("x", x, self.dtype)
        for layer in self.layers:
            x = layer.forward(x, train)
        return x

    def _parameters(self) -> list[Any]:
        return [p for _, layer in self._with_params for p in layer.params.values()]

    def _check_passed(self) -> None:
        """Refuse to go back where the parameters are not those of the last forward: ValueError."""
        passed = self.__dict__.get("_passed")
        if passed is None:
            return
        now = self._parameters()
        if len(now) != len(passed) or any(p is not q for p, q in zip(now, passed, strict=True)):
            raise ValueError(REPLACED)

    def __call__(self, x: Any) -> Array:
        """Return `predict(x)`, of a classifier logits."""
        return self.predict(x)

    def __len__(self) -> int:
        """Return the number of layers."""
        return len(self.layers)

    def __getitem__(self, index: Any) -> Any:
        """Return a layer, or a tuple of layers for a slice."""
        return self.layers[index]

    def backward(self, dout: Any) -> Any:
        """Return the input's gradient, given that of the output; fill `grads`.

        It belongs to the last `forward`, whatever predictions, evaluations and steps came in between, and may
        be called again. (With a layer of your own, which keeps what it will, it belongs to a later step.)

        Parameters
        ----------
        dout : array, in the shape of the output

        Returns
        -------
        array or None
            In the shape of x; None for a network that begins with an embedding.

        Raises
        ------
        RuntimeError
            Before any forward.
        TypeError, ValueError
            If `dout` does not fit, or arrays of parameters were replaced since the forward (they may be
            changed in place).
        """
        self._check_passed()
        return self._back(self.layers, dout)

    def _back(self, layers: Sequence[Any], dout: Any) -> Any:
        for layer in reversed(layers):
            dout = layer.backward(dout)
        return dout

    def input_gradient(self, dout: Any) -> Any:
        """Return the input's gradient, given that of the output, and leave `grads` as they are.

        Argument, result and errors are those of `backward`.
        """
        self._check_passed()
        for layer in self._every:
            if isinstance(layer, _layers.Layer):
                layer.take_up()
        return self._back([*map(_without_grads, self.layers)], dout)

    def backward_params(self, dout: Any) -> None:
        """Fill `grads` only, all that training needs; argument and errors are those of `backward`."""
        self._check_passed()
        for layer in self.layers[:0:-1]:
            dout = layer.backward(dout)
        first = self.layers[0]
        getattr(first, "backward_params", first.backward)(dout)

    def predict(self, x: Any, batch_size: int | None = None, scale: float = 1.0, *, out: Any = None) -> Array:
        """Return the network's outputs, computed with `train=False`.

        They are what the last layer returns: for a loss of classes logits, not probabilities. These are what
        `Trainer.predict_proba` returns, or the loss's `predictions(y)`; the greatest, `y.argmax(axis=1)`, is
        the class either way.

        Parameters
        ----------
        x : array, shape (N, ...)
            May be a memory map or of another dtype: it is read and converted a batch at a time. What becomes
            an array, a tensor or a frame, may be given as to `Trainer.fit`. A single row is given as x[None].
        batch_size : int >= 1 or None
            Rows at a time; None: 1024.
        scale : float
            Multiplies x once it has the network's dtype: 1 / 255 for pixels that are bytes. Must be 1 where
            the first layer takes indices.
        out : array or None
            In the shape and dtype of the outputs, a memory map say: they are put into it, a batch at a time,
            and it is returned. It shares no memory with x. After an error it may hold those of some batches.

        Raises
        ------
        TypeError, ValueError
            If an argument does not fit.
        """
        if out is not None:
            return self._predict_into(out, x, batch_size, scale)
        x = x if type(x) is np.ndarray and x.ndim else _checks.real_array("x", x)
        rows = PREDICT_ROWS if batch_size is None else _checks.integer("batch_size", batch_size, 1)
        if x.ndim == 0:
            raise ValueError("x must have shape (N, ...), got no dimension")
        scale = input_scale(self, scale)
        with _undisturbed(self, *self._every):
            first = self.forward(scaled(x[:rows], scale, self.dtype), False)
            if len(x) <= rows:
                return np.array(first)
            y = np.empty((len(x), *first.shape[1:]), first.dtype)
            y[:rows] = first
            for batch in data.batches(len(x), rows):
                if batch.start > 0:
                    y[batch] = self.forward(scaled(x[batch], scale, self.dtype), False)
        return y

    def _predict_into(self, out: Any, x: Any, batch_size: Any, scale: Any) -> Array:
        """Put the outputs into an array; return it."""
        x = _checks.real_array("x", x)
        rows = ROWS_INTO if batch_size is None else _checks.integer("batch_size", batch_size, 1)
        if x.ndim == 0:
            raise ValueError("x must have shape (N, ...), got no dimension")
        for batch in data.batches(max(len(x), 1), rows):
            y = self.predict(x[batch], batch_size, scale)
            if batch.start == 0:
                shape = (len(x), *y.shape[1:])
                if not isinstance(out, np.ndarray) or out.dtype != y.dtype:
                    raise TypeError(f"out must be an array of dtype {y.dtype}, got {_checks.shown(out)}")
                if out.shape != shape:
                    raise ValueError(f"out must have shape {shape}, got {out.shape}")
                if not out.flags.writeable or np.may_share_memory(out, x):
                    raise ValueError("out must be writeable and share no memory with x")
            out[batch] = y
        result: Array = out
        return result

    def _state(self) -> dict[str, Array]:
        """Return the live arrays of parameters and running statistics, by name."""
        running = {
            prefix + name: getattr(layer, name)
            for prefix, layer in self._named
            for name in RUNNING
            if hasattr(layer, name)
        }
        return self.params | running

    def state_dict(self) -> dict[str, Array]:
        """Return copies of parameters and running statistics, by name: "0.W", "1.running_mean"."""
        return {name: np.array(array) for name, array in self._state().items()}

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Copy the arrays of `d` into the network's.

        `d` must hold exactly the names of `state_dict`, each an array of that shape, float32 or float64.
        TypeError or ValueError, and no change, if it does not.
        """
        _checks.copy_state("the network's state", self._state(), d)

    def blend(self, net: Any, tau: float) -> None:
        """Move parameters and running statistics towards those of another network (Polyak averaging).

            p <- (1 - tau) p + tau q        for each array p and the other's q

        Parameters
        ----------
        net : Sequential
            With arrays of the same names, shapes and dtypes, that share no memory with this network's.
        tau : float in [0, 1]
            1 copies them.

        Raises
        ------
        TypeError, ValueError
            If an argument is none of these; then nothing has changed.
        """
        tau = _checks.real_number("tau", tau, 0, 1)
        for p, q in zip(*self._pairs(net), strict=True):
            p[...] = q if tau == 1 else p.dtype.type(1 - tau) * p + p.dtype.type(tau) * q

    def _pairs(self, net: Any) -> tuple[list[Array], list[Array]]:
        """Return this network's arrays and those of another that has the same; TypeError or ValueError."""
        if not isinstance(net, Sequential):
            raise TypeError(f"net must be a network, got {_checks.shown(net)}")
        mine, others = self._state(), net._state()
        if mine.keys() != others.keys():
            odd = next(name for name in [*mine, *others] if name not in mine or name not in others)
            raise ValueError(f"net must have the arrays of this network: {odd} is in one of them only")
        for name, array in mine.items():
            other = others[name]
            if array.shape != other.shape or array.dtype != other.dtype:
                raise ValueError(
                    f"the array {name} of net must be {_checks.shown(array)}, got {_checks.shown(other)}"
                )
            if not array.flags.writeable:
                raise ValueError(f"the array {name} of this network must be writeable")
            if np.may_share_memory(array, other):
                raise ValueError(f"net must share no memory with this network, got the same {name}")
        return list(mine.values()), list(others.values())

    def copy(self) -> Self:
        """Return a network of its own with the same layers, parameters, statistics and counters.

        Gradients, and what the last forward has left for backward, are not copied.
        """
        twin = copy.copy(self)
        twin.layers = tuple(map(_layers.copied, self.layers))
        twin.__dict__.pop("_passed", None)
        return twin

    def summary(self) -> str:
        """Return a table of the layers, the numbers that leave each for a row, and their parameters.

        "T x dim" are an embedding's, of T indices a row, and "?" those of a layer of your own.
        """
        rows, total = self._table()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            f"{n:>{widths[0]}}  {name:<{widths[1]}}  {out:>{widths[2]}}  {count:>{widths[3]}}".rstrip()
            for n, name, out, count in rows
        ]
        return "\n".join([*lines, total])

    def _repr_html_(self) -> str:
        """Return `summary` as a table, for notebooks."""
        from .. import _html

        (head, *rows), total = self._table()
        return _html.table(head, rows, total)

    def _table(self) -> tuple[list[tuple[str, str, str, str]], str]:
        """Return the rows of `summary`, their heads first, and what stands below them."""
        rows, width = [("", "layer", "outputs", "parameters")], ""
        for name, layer in _layers.each_layer(self.layers):
            block = isinstance(layer, _layers.Residual)
            shapes = [] if block else [p.shape for p in getattr(layer, "params", {}).values()]
            if isinstance(layer, _layers.Affine):
                width = str(shapes[0][1])
            elif isinstance(layer, _layers.Embedding):
                width = f"T x {shapes[0][1]}"
            elif shapes and isinstance(layer, _layers.Layer):
                width = str(shapes[0][0])
            elif not isinstance(layer, _layers.Layer):
                width = "?"
            count = sum(math.prod(shape) for shape in shapes)
            parameters = f"{count:,}" if shapes else ""
            rows.append((name[:-1], type(layer).__name__, "" if block else width, parameters))
        total = sum(p.size for p in self.params.values())
        bytes_each = 0 if self.dtype is None else self.dtype.itemsize
        return rows, f"{total:,} parameters, {self.dtype}, {total * bytes_each:,} bytes"

    def architecture(self) -> list[dict[str, Any]]:
        """Return the layers as JSON can hold them, [{"layer": class name, argument: value, ...}, ...].

        Raises TypeError if a layer is not one of fastnn's own.
        """
        for name, layer in _layers.each_layer(self.layers):
            if self.layer_classes.get(type(layer).__name__) is not type(layer):
                raise TypeError(
                    f"{_layers.place_of(name)} must be a layer of fastnn to be saved, "
                    f"got a {type(layer).__name__}; state_dict() works for any"
                )
        return [{"layer": type(layer).__name__, **layer.config()} for layer in self.layers]

    def save(self, path: Path) -> None:
        """Write architecture and state to a file, .npz or .safetensors by its name; see `fastnn.checkpoint`.

        `path` may be a binary file, or an io.BytesIO, which holds a .npz. ValueError for any other suffix.
        Raises TypeError, and writes nothing, if a layer is not one of fastnn's own.
        """
        checkpoint.write(path, "network", self._state(), {"layers": self.architecture()})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the network of a file that `save`, or a trainer's `save`, has written.

        Raises OSError if it cannot be opened and ValueError, which says why, if it holds no network.
        """
        with checkpoint.opened(path, "network", "trainer") as contents:
            return cls._from_file(contents)

    @classmethod
    def _from_file(cls, contents: checkpoint.Contents) -> Self:
        beside = (OPTIMIZER, CALLBACKS, AVERAGE)
        specs = {name: spec for name, spec in contents.specs.items() if not name.startswith(beside)}
        try:
            net = cls._from_layers(contents.meta["layers"], specs)
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(
                f"{contents.path} does not describe a network: {type(error).__name__}: {error}"
            ) from None
        net.load_state_dict({name: contents[name] for name in specs})
        return net

    @classmethod
    def _from_layers(cls, layers: Any, specs: Mapping[str, checkpoint.Spec]) -> Self:
        """Return a network of such an architecture, if arrays of these specs are its state."""
        _check_specs(specs, _shapes(layers, cls.layer_classes))  # before anything large is made or read
        return cls(_layers.made(layer, cls.layer_classes) for layer in layers)

    def __repr__(self) -> str:
        """Return the layers, one a line."""
        return "Sequential([\n" + "".join(f"    {layer!r},\n" for layer in self.layers) + "])"


@contextmanager
def _undisturbed(*objects: Any) -> Iterator[None]:
    """Give these objects the attributes back that they had: among them what a forward has left."""
    before = [(o.__dict__, dict(o.__dict__)) for o in objects if hasattr(o, "__dict__")]
    try:
        yield
    finally:
        for attributes, then in before:
            for name in attributes.keys() - then.keys():
                del attributes[name]
            attributes.update(then)


@contextmanager
def passes_kept(net: Any) -> Iterator[None]:
    """Give a network back what its last forward has left for backward, if all its layers are fastnn's own."""
    layers = [layer for _, layer in _layers.each_layer(getattr(net, "layers", ()))]
    classes = getattr(net, "layer_classes", {})
    if not all(classes.get(type(layer).__name__) is type(layer) for layer in layers):
        yield
        return
    before = [(layer, layer.__dict__.get("_saved")) for layer in layers]
    passed = getattr(net, "_passed", None)
    try:
        yield
    finally:
        for layer, saved in before:
            layer._saved = saved
        if layers:
            net.__dict__["_passed"] = passed


def dropouts(layers: Iterable[Any]) -> list[tuple[int, Any]]:
    """Return the places and layers of dropout: those that have a seed, a stream and a step.

    Layers count in their order, those within a `Residual` after it.
    """
    return dropouts_among([layer for _, layer in _layers.each_layer(layers)])


def dropouts_among(every: Iterable[Any]) -> list[tuple[int, Any]]:
    """Return the same of all layers, those within blocks among them."""
    names = ("seed", "stream", "step")
    return [(i, layer) for i, layer in enumerate(every) if all(hasattr(layer, name) for name in names)]


def layers_of(net: Any) -> list[Any]:
    """Return all layers of a network, those within a `Residual` after it."""
    every: list[Any] | None = getattr(net, "_every", None)
    return [layer for _, layer in _layers.each_layer(getattr(net, "layers", ()))] if every is None else every


def _without_grads(layer: Any) -> Any:
    """Return a layer that goes back as this does, and leaves its gradients as they are."""
    twin = copy.copy(layer)
    if isinstance(layer, _layers.Residual):
        twin.__dict__["layers"] = tuple(map(_without_grads, layer.layers))
    elif hasattr(layer, "grads"):
        twin.grads = {}
    return twin


def _shapes(layers: Any, classes: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, ...]]:
    """Return the shapes of parameters and running statistics of the layers that a file describes, by name."""
    shapes: dict[str, tuple[Any, ...]] = {}
    for i, layer in enumerate(layers):
        config, name = dict(layer), f"{prefix}{i}."
        layer_class = classes[config.pop("layer")]
        if issubclass(layer_class, _layers.Residual):
            shapes |= _shapes(config["layers"], classes, name)
        else:
            shapes |= {name + key: shape for key, shape in _shapes_of(layer_class, config).items()}
    return shapes


def _shapes_of(layer_class: Any, config: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Return the shapes of parameters and running statistics of the layer that a file describes."""
    if hasattr(layer_class, "shapes"):
        return layer_class.shapes(config)  # type: ignore[no-any-return]
    layer = layer_class.from_config(config)
    state = getattr(layer, "params", {}) | {n: getattr(layer, n) for n in RUNNING if hasattr(layer, n)}
    return {name: array.shape for name, array in state.items()}


def _check_specs(specs: Mapping[str, checkpoint.Spec], shapes: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse a file whose arrays are not of these names and shapes, float32 or float64."""
    if specs.keys() != shapes.keys():
        missing, surplus = sorted(shapes.keys() - specs.keys()), sorted(specs.keys() - shapes.keys())
        raise ValueError(f"missing {missing}, not expected {surplus}")
    for name, (shape, dtype) in specs.items():
        if shape != shapes[name] or dtype not in _checks.FLOATS:
            raise ValueError(
                f"{name} must have shape {shapes[name]} and a float dtype, got {shape} and {dtype}"
            )


def input_scale(net: Any, scale: Any) -> float:
    """Return the factor of a network's input as a float; TypeError or ValueError if it cannot be used."""
    factor = _checks.real_number("scale", scale)
    if factor == 1:
        return factor
    if getattr(net, "_takes_indices", False):
        raise ValueError(f"scale must be 1 for a network that takes indices, got {factor}")
    dtype = getattr(net, "dtype", None) or _checks.FLOATS[0]
    if abs(factor) > float(np.finfo(dtype).max):
        raise ValueError(f"scale must be finite in {dtype}, got {factor}")
    return factor


def scaled(x: Any, scale: float, dtype: np.dtype[Any] | None) -> Any:
    """Return x in a dtype (None: that of `_checks.float_array`) times a factor; x itself where that is 1."""
    if scale == 1:
        return x
    x = _checks.float_array("x", x, dtype)
    return x * x.dtype.type(scale)


def mlp(
    sizes: Sequence[int],
    *,
    activation: Any = "relu",
    batch_norm: bool = False,
    dropout: float = 0.0,
    init: Any = "he",
    seed: Any = None,
    rng: Any = None,
    dtype: Any = np.float32,
) -> Sequential:
    """Return a network of dense layers.

    For each hidden size Affine, BatchNorm if wanted, activation, Dropout if wanted; then a last Affine, the
    outputs of which are logits for a loss of classes: it knows what to make of them.

    Parameters
    ----------
    sizes : sequence of int >= 1
        Features in, hidden sizes, outputs: [784, 512, 10].
    activation : str or class
        "relu", "leaky_relu", "sigmoid", "tanh", "selu", "gelu", "silu", "softplus" or "mish"; or a layer's
        class, made without arguments.
    batch_norm : bool
        Whether a BatchNorm stands before each activation.
    dropout : float in [0, 1)
        The ratio of a Dropout after each activation; 0: none.
    init : str, float or callable
        The initial weights, see `fastnn.init.resolve`.
    seed : None, int or numpy.random.Generator
        Draws the weights, layer by layer, and then, without moving the generator on, the seed of the masks
        that dropout draws outside a Trainer, which has a seed of its own for them; also called `rng`.
    dtype : float32 or float64

    Raises
    ------
    TypeError, ValueError
        If an argument is none of these.
    """
    return Sequential.from_sizes(
        sizes,
        activation=activation,
        batch_norm=batch_norm,
        dropout=dropout,
        init=init,
        seed=seed,
        rng=rng,
        dtype=dtype,
    )
