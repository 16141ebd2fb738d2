"""Models of Keras 3 as networks, and files of them, for which Keras need not be there.

A file, .keras, is an archive with the configurations of the layers in JSON and their weights in HDF5, in
groups that have the names of the layers' classes, numbered in the order of the layers, whatever their names.
"""

from __future__ import annotations

import json
import os
import re
import sys
import zipfile
import zlib
from contextlib import contextmanager, nullcontext
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _checks, layers
from ..checkpoint import DEFLATED_AT_MOST
from .chain import Chain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .._checks import Array
    from .chain import Mark

__all__ = ["read"]

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
CONFIG_BYTES, CHUNK_BYTES = 2**26, 2**20
DAMAGED = (OSError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error)  # what zipfile and h5py raise
PLACES = ("layer ", "model ", "the model", WEIGHTS)  # begin a message that has its place
DTYPES = ("float32", "float64")
MODULES = re.compile(r"keras(\.src)?\.layers(\.|$)")
ADD = re.compile(r"keras(\.src)?\.(layers(\.|$)|ops\.numpy$)")  # of x + y, too
SOFTMAX = ("softmax", "log_softmax")
ACTIVATIONS: dict[str, Callable[[], Any]] = {
    "relu": layers.ReLU,
    "leaky_relu": lambda: layers.LeakyReLU(0.2),
    "sigmoid": layers.Sigmoid,
    "tanh": layers.Tanh,
    "selu": layers.SELU,
    "gelu": layers.GELU,
    "silu": layers.SiLU,
    "swish": layers.SiLU,
    "softplus": layers.Softplus,
    "mish": layers.Mish,
}


NUMBER, LIST = (int, float), (list, tuple)
WORDS: dict[Any, str] = {
    bool: "True or False",
    int: "an integer",
    NUMBER: "a number",
    LIST: "a list",
}


# Weights


class Live:
    """The weights of a model that is there."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def arrays(self, where: str, name: str, count: int) -> list[Callable[[tuple[int, ...]], Array]]:
        """Return, for each weight of a layer, what takes its shape and returns it."""
        weights = self._model.get_layer(name).weights
        _check_count(where, len(weights), count)
        return [partial(_live, where, weight) for weight in weights]

    def inner(self, where: str, name: str, entries: Sequence[Mapping[str, Any]]) -> Live:
        """Return those of a model in the model."""
        return Live(self._model.get_layer(name))


def _live(where: str, weight: Any, shape: tuple[int, ...]) -> Array:
    if tuple(weight.shape) != shape:
        raise ValueError(f"{where}, {weight.name}: must have shape {shape}, got {tuple(weight.shape)}")
    if str(weight.dtype) not in DTYPES:
        raise TypeError(f"{where}, {weight.name}: must be float32 or float64, got {weight.dtype}")
    keras = sys.modules["keras"]
    array: Array = keras.ops.convert_to_numpy(weight)
    return array


class Stored:
    """The weights of a file, read when they are known to be there."""

    def __init__(self, group: Any, entries: Sequence[Mapping[str, Any]], size: int) -> None:
        self._size = size
        self._group = _child(group, "layers", "Group")
        self._keys: dict[str, str] = {}
        counts: dict[str, int] = {}
        for entry in entries:
            kind = _snake_case(entry["class_name"])
            i = counts[kind] = counts.get(kind, -1) + 1
            self._keys[entry["config"]["name"]] = f"{kind}_{i}" if i else kind

    def arrays(self, where: str, name: str, count: int) -> list[Callable[[tuple[int, ...]], Array]]:
        """Return, for each weight of a layer, what takes its shape and returns it."""
        own = _child(_child(self._group, self._keys[name], "Group"), "vars", "Group")
        _check_count(where, len(own), count)
        datasets = [_child(own, str(i), "Dataset") for i in range(count)]
        return [partial(self._array, f"{where}, vars/{i}", data) for i, data in enumerate(datasets)]

    def inner(self, where: str, name: str, entries: Sequence[Mapping[str, Any]]) -> Stored:
        """Return those of a model in the model."""
        return Stored(_child(self._group, self._keys[name], "Group"), entries, self._size)

    def _array(self, where: str, dataset: Any, shape: tuple[int, ...]) -> Array:
        dtype = dataset.dtype
        if dataset.shape != shape:
            raise ValueError(f"{where}: must have shape {shape}, got {dataset.shape}")
        if dtype.name not in DTYPES or not dtype.isnative:
            raise TypeError(f"{where}: must be float32 or float64, got {dtype}")
        if dataset.external or dataset.is_virtual:
            raise ValueError(f"{where}: must have its numbers in {WEIGHTS} itself")
        wanted = prod(shape) * dtype.itemsize
        if not wanted <= dataset.id.get_storage_size() <= self._size:
            raise ValueError(
                f"{where}: must hold {wanted} bytes, not compressed, got {dataset.id.get_storage_size()} in "
                f"{WEIGHTS} of {self._size}"
            )
        array: Array = dataset[()]
        return array


def _child(group: Any, name: str, kind: str) -> Any:
    """Return a group or a dataset in a group; ValueError for what is not there, or only points elsewhere."""
    import h5py

    where = f"{WEIGHTS}, {group.name}/{name}"
    if name not in group:
        raise ValueError(f"{where}: must be there: is the model built?")
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{where}: must be no link")
    child = group[name]
    if not isinstance(child, getattr(h5py, kind)):
        raise ValueError(f"{where}: must be a {kind.lower()}")
    return child


def _check_count(where: str, got: int, wanted: int) -> None:
    if got != wanted:
        raise ValueError(f"{where}: must have {wanted} weights, got {got}")


def _snake_case(name: str) -> str:
    """Return the name of a class as Keras makes one of a group of it."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


# Layers


class Layer(NamedTuple):
    """A layer of Keras: the place for messages, its configuration, and its weights by their number."""

    where: str
    config: Mapping[str, Any]
    weights: Callable[[int], list[Callable[[tuple[int, ...]], Array]]]

    def option(self, name: str, kind: Any, default: Any = None) -> Any:
        """Return a part of the configuration; TypeError or ValueError if it is not of a kind."""
        value = self.config.get(name, default)
        if isinstance(value, bool) != (kind is bool) or not isinstance(value, kind):
            raise TypeError(f"{name} must be {WORDS[kind]}, got {_checks.shown(value)}")
        return value

    def must(self, name: str, *allowed: Any) -> None:
        """Refuse other values of a part of the configuration, if it is there: ValueError."""
        value = self.config.get(name, allowed[0])
        if value not in allowed:
            raise ValueError(f"{name} must be {allowed[0]!r}, got {_checks.shown(value)}")


def _dense(chain: Chain, layer: Layer) -> None:
    layer.must("quantization_config", None)
    layer.must("lora_rank", None)
    units, bias = layer.option("units", int), layer.option("use_bias", bool, True)
    n_in = _width(chain, layer)
    W, *b = layer.weights(1 + bias)
    chain.affine(layer.where, W((n_in, units)), b[0]((units,)) if bias else None)
    _activate(chain, layer)


def _width(chain: Chain, layer: Layer) -> int:
    """Return the numbers in the rows that a layer with weights takes."""
    shape = chain.shape
    if shape is None or shape[-1:] in ((), (None,)):
        raise ValueError("must take rows of a known shape: build the model")
    return int(shape[-1])  # type: ignore[arg-type]


def _activate(chain: Chain, layer: Layer) -> None:
    """Add the activation that a layer has."""
    function = layer.config.get("activation")
    if isinstance(function, dict) and function.get("class_name") in LAYERS and "config" in function:
        LAYERS[function["class_name"]](chain, layer._replace(config=function["config"]))
        return
    if isinstance(function, dict) and function.get("class_name") == "function":
        function = function.get("config")
    if function in (None, "linear"):
        return
    if function in SOFTMAX:
        chain.probabilities(f"{layer.where}, activation {function}")
    elif isinstance(function, str) and function in ACTIVATIONS:
        chain.function(layer.where, ACTIVATIONS[function]())
    else:
        raise ValueError(f"fastnn has no layer for the activation {_checks.shown(function)}")


def _check_last_axis(chain: Chain, layer: Layer) -> None:
    axis, rank = layer.config.get("axis", -1), None if chain.shape is None else len(chain.shape)
    axes = axis if isinstance(axis, (list, tuple)) else [axis]
    if len(axes) != 1 or axes[0] not in (-1, rank):
        raise ValueError(f"axis must be the last one, got {_checks.shown(axis)}")


def _norm_arrays(chain: Chain, layer: Layer, statistics: int) -> list[Array]:
    """Return gamma and beta, ones and zeros where there are none, and running statistics."""
    scale, center = layer.option("scale", bool, True), layer.option("center", bool, True)
    shape = (_width(chain, layer),)
    given = [
        chain.parameter(layer.where, get(shape), shape) for get in layer.weights(scale + center + statistics)
    ]
    if not given:
        chain.claim(layer.where, shape[0])
    dtype = given[0].dtype if given else chain.dtype or np.dtype(np.float32)
    gamma = given.pop(0) if scale else np.ones(shape, dtype)
    beta = given.pop(0) if center else np.zeros(shape, dtype)
    return [gamma, beta, *given]


def _batch_norm(chain: Chain, layer: Layer) -> None:
    _check_last_axis(chain, layer)
    layer.must("renorm", False)
    gamma, beta, mean, var = _norm_arrays(chain, layer, 2)
    momentum, eps = layer.option("momentum", NUMBER, 0.99), layer.option("epsilon", NUMBER, 1e-3)
    chain.norm(layer.where, layers.BatchNorm(gamma, beta, momentum, mean, var, eps=eps))


def _layer_norm(chain: Chain, layer: Layer) -> None:
    _check_last_axis(chain, layer)
    layer.must("rms_scaling", False)
    gamma, beta = _norm_arrays(chain, layer, 0)
    eps = layer.option("epsilon", NUMBER, 1e-3)
    chain.norm(layer.where, layers.LayerNorm(gamma, beta, eps=eps))


def _rms_norm(chain: Chain, layer: Layer) -> None:
    _check_last_axis(chain, layer)
    shape = (_width(chain, layer),)
    gamma = chain.parameter(layer.where, layer.weights(1)[0](shape), shape)
    chain.norm(layer.where, layers.RMSNorm(gamma, eps=layer.option("epsilon", NUMBER, 1e-6)))


def _embedding(chain: Chain, layer: Layer) -> None:
    layer.must("mask_zero", False)
    layer.must("quantization_config", None)
    layer.must("lora_rank", None)
    shape = layer.option("input_dim", int), layer.option("output_dim", int)
    chain.embedding(layer.where, layer.weights(1)[0](shape))


def _dropout(chain: Chain, layer: Layer) -> None:
    layer.must("noise_shape", None)
    chain.function(layer.where, layers.Dropout(layer.option("rate", NUMBER)))


def _relu(chain: Chain, layer: Layer) -> None:
    layer.must("max_value", None)
    layer.must("threshold", 0, None)
    slope = layer.config.get("negative_slope", 0)
    chain.function(layer.where, layers.LeakyReLU(slope) if slope else layers.ReLU())


def _leaky_relu(chain: Chain, layer: Layer) -> None:
    slope = layer.option("negative_slope", NUMBER, 0.3)
    chain.function(layer.where, layers.LeakyReLU(slope))


def _softmax(chain: Chain, layer: Layer) -> None:
    _check_last_axis(chain, layer)
    chain.probabilities(layer.where)


def _rescaling(chain: Chain, layer: Layer) -> None:
    a, c = (np.asarray(layer.config.get(name, v)) for name, v in (("scale", 1), ("offset", 0)))
    if a.dtype.kind not in "fi" or c.dtype.kind not in "fi":
        raise TypeError("scale and offset must be numbers")
    chain.seal()
    chain.scale(layer.where, a, c)


def _flatten(chain: Chain, layer: Layer) -> None:
    chain.flatten(layer.where)


def _reshape(chain: Chain, layer: Layer) -> None:
    row = list(layer.option("target_shape", LIST))
    if not all(isinstance(n, int) and not isinstance(n, bool) for n in row) or not 1 <= len(row) <= 8:
        raise TypeError(f"target_shape must hold integers, got {_checks.shown(row)}")
    if row.count(-1) == 1 and chain.shape is not None and None not in chain.shape:
        row[row.index(-1)] = prod(chain.shape) // max(1, abs(prod(row)))  # type: ignore[arg-type]
    chain.reshape(layer.where, tuple(row))


LAYERS: dict[str, Callable[[Chain, Layer], None]] = {
    "Dense": _dense,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "Embedding": _embedding,
    "Dropout": _dropout,
    "Activation": _activate,
    "ReLU": _relu,
    "LeakyReLU": _leaky_relu,
    "Softmax": _softmax,
    "Rescaling": _rescaling,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Identity": lambda chain, layer: None,
}


# Models


class Reading:
    """A model as it is read, layer by layer."""

    def __init__(self, shape: tuple[int | None, ...]) -> None:
        self.chain = Chain(shape)
        self._dtype = ""

    def model(self, where: str, model: Mapping[str, Any], weights: Any) -> None:
        """Add the layers of a model, or of one in it."""
        config = model["config"]
        entries = config["layers"]
        if model["class_name"] == "Sequential":
            for entry in entries:
                self.layer(entry, weights)
            return
        by_name = {entry["config"]["name"]: entry for entry in entries}
        if len(by_name) != len(entries):
            raise ValueError(f"{where}: must have layers of different names")
        start, end = (_one(f"{where}, {key}", config[key]) for key in ("input_layers", "output_layers"))
        marks: dict[str, Mark] = {start: self.chain.mark}
        inputs = {name: _inbound(entry) for name, entry in by_name.items()}
        order = _order(where, end, inputs)
        if order[0] != start:
            raise ValueError(f"{where}: must lead from {start} to {end}, got {order[0]}")
        last = start
        for name in order[1:]:
            place, given = _place(by_name[name]), inputs[name]
            if by_name[name]["class_name"] == "Add" and _of_keras(by_name[name], ADD) and len(given) == 2:
                around, inner = given if given[1] == last else given[::-1]
                if inner != last or around == last or around not in marks:
                    raise ValueError(f"{place}: must add to x what layers make of it")
                self.chain.add_around(place, marks[around])
                self._forget(marks, marks[around].position)
            elif given == [last]:
                self.layer(by_name[name], weights)
            else:
                raise ValueError(f"{place}: must take what the layer before returns, got that of {given}")
            marks[name] = self.chain.mark
            last = name

    def _forget(self, marks: dict[str, Mark], position: int) -> None:
        """Forget the places that are inside of a Residual now."""
        for name in [name for name, mark in marks.items() if mark.position > position]:
            del marks[name]

    def layer(self, entry: Mapping[str, Any], weights: Any) -> None:
        """Add the layer, or the model, that an entry describes."""
        place, kind, config = _place(entry), entry["class_name"], entry["config"]
        if kind == "InputLayer":
            if config.get("sparse") or config.get("ragged"):
                raise ValueError(f"{place}: must be of dense arrays")
            return
        if kind in ("Sequential", "Functional"):
            inner = weights.inner(place, config["name"], config["layers"])
            self.model(place, entry, inner)
            return
        if kind not in LAYERS or not _of_keras(entry):
            raise TypeError(f"{place}: fastnn has no layer for {entry.get('module')}.{kind}")
        self._check_dtype(place, config.get("dtype"))
        name = config["name"]
        try:
            LAYERS[kind](self.chain, Layer(place, config, lambda n: weights.arrays(place, name, n)))
        except (TypeError, ValueError) as error:
            text = str(error)
            error_class = TypeError if isinstance(error, TypeError) else ValueError
            raise error_class(text if text.startswith(PLACES) else f"{place}: {text}") from None

    def _check_dtype(self, where: str, policy: Any) -> None:
        """Refuse what computes in anything but float32 or float64, as all others do: TypeError."""
        name = policy.get("config", {}).get("name") if isinstance(policy, dict) else policy
        if name not in DTYPES:
            found = _checks.shown(name or policy)
            raise TypeError(f"{where}: must compute in float32 or float64, got {found}")
        if self._dtype and name != self._dtype:
            raise TypeError(f"{where}: must compute in {self._dtype} as the others do, got {name}")
        self._dtype = name


def _of_keras(entry: Mapping[str, Any], modules: re.Pattern[str] = MODULES) -> bool:
    """Whether an entry is of a class of Keras' own."""
    return bool(modules.match(str(entry.get("module"))))


def _place(entry: Mapping[str, Any]) -> str:
    return f"layer {_checks.shown(entry['config']['name']).strip(chr(39))} ({entry['class_name']})"


def _one(where: str, value: Any) -> str:
    """Return the name of the one layer in a configuration's list of inputs or outputs."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, list) or len(value) != 3 or not isinstance(value[0], str):
        raise ValueError(f"{where}: must be one tensor, got {_checks.shown(value)}")
    return value[0]


def _inbound(entry: Mapping[str, Any]) -> list[str]:
    """Return the names of the layers that a layer takes its inputs from."""
    nodes = entry.get("inbound_nodes") or []
    if len(nodes) > 1:
        raise ValueError(f"{_place(entry)}: must be called once, got {len(nodes)} calls")
    if not nodes:
        return []
    if any(value not in (None, False) for value in nodes[0].get("kwargs", {}).values()):
        raise ValueError(f"{_place(entry)}: must be called with its input alone, got {nodes[0]['kwargs']}")
    args = nodes[0]["args"]
    while len(args) == 1 and isinstance(args[0], list):
        args = args[0]
    return [tensor["config"]["keras_history"][0] for tensor in args]


def _order(where: str, end: str, inputs: Mapping[str, list[str]]) -> list[str]:
    """Return the names of the layers that lead to one, each after those that it takes its inputs from."""
    order: list[str] = []
    done: dict[str, bool] = {}
    stack = [(end, False)]
    while stack:
        name, ready = stack.pop()
        if ready:
            done[name] = True
            order.append(name)
        elif name not in inputs:
            raise ValueError(f"{where}: must have the layer {name!r}")
        elif name not in done:
            done[name] = False
            stack.append((name, True))
            stack.extend((before, False) for before in inputs[name])
        elif not done[name]:
            raise ValueError(f"{where}: must have no circles, got one at {name!r}")
    return order


def _shape(model: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Return the shape of a row of a model's input."""
    while model["class_name"] in ("Sequential", "Functional"):
        entries = model["config"]["layers"]
        if not entries:
            raise ValueError("the model must hold layers")
        if model["class_name"] == "Functional":
            name = _one("the model, input_layers", model["config"]["input_layers"])
            entries = [entry for entry in entries if entry["config"]["name"] == name] or entries
        model = entries[0]
    shape = model["config"].get("batch_shape") or (model.get("build_config") or {}).get("input_shape")
    if not isinstance(shape, (list, tuple)) or len(shape) < 2:
        raise ValueError(f"{_place(model)}: must tell the shape of its input: build the model")
    return tuple(n if isinstance(n, int) and n > 0 else None for n in shape[1:])


def _network(model: Any, weights: Callable[[Any], Any], logits: bool) -> Any:
    """Return the network of a configuration."""
    try:
        if model["class_name"] not in ("Sequential", "Functional"):
            raise TypeError(
                f"model must be a Sequential or functional model of Keras, got {model['class_name']}"
            )
        reading = Reading(_shape(model))
        reading.model("the model", model, weights(model["config"]["layers"]))
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        if isinstance(error, (TypeError, ValueError)) and str(error).startswith(PLACES):
            raise
        raise ValueError(
            f"the model has no configuration of Keras 3: {type(error).__name__}: {error}"
        ) from None
    return reading.chain.end(logits)


def read(model: Any, logits: bool) -> Any:
    """Return the network of a model of Keras, or of a file; TypeError or ValueError, with the place."""
    if isinstance(model, (str, os.PathLike)) or (not isinstance(model, type) and hasattr(model, "read")):
        return _read_file(model, logits)
    keras = sys.modules.get("keras")
    if keras is None or not isinstance(model, keras.Model):
        raise TypeError(
            f"model must be a model of Keras 3, a path or a binary file, got {_checks.shown(model)}"
        )
    config = keras.saving.serialize_keras_object(model)
    return _network(config, lambda entries: Live(model), logits)


def _read_file(path: Any, logits: bool) -> Any:
    import h5py

    name = os.fsdecode(path) if isinstance(path, (str, os.PathLike)) else "the file"
    with open(path, "rb") if isinstance(path, (str, os.PathLike)) else nullcontext(path) as source:
        try:
            archive = zipfile.ZipFile(source)
        except zipfile.BadZipFile:
            raise ValueError(f"{name} is not a .keras file of Keras 3, or is truncated") from None
        entries = {entry.filename: entry for entry in archive.infolist()}
        for part in (CONFIG, WEIGHTS):
            if part not in entries:
                raise ValueError(f"{name} is not a .keras file of Keras 3: it has no {part}")
        with _reading(name, CONFIG), archive.open(CONFIG) as file:
            text = file.read(CONFIG_BYTES + 1)
            if len(text) > CONFIG_BYTES:
                raise OSError(f"it has more than {CONFIG_BYTES} bytes")
            config = json.loads(text)
        with _reading(name, WEIGHTS), archive.open(WEIGHTS) as file:
            while file.read(CHUNK_BYTES):  # at the end its checksum is looked at
                pass
        inflated = 1 if entries[WEIGHTS].compress_type == zipfile.ZIP_STORED else DEFLATED_AT_MOST
        size = inflated * source.seek(0, os.SEEK_END)
        try:
            with archive.open(WEIGHTS) as file, h5py.File(file, "r") as stored:
                return _network(config, lambda entries: Stored(stored, entries, size), logits)
        except DAMAGED as error:
            raise ValueError(f"{name}: {WEIGHTS} is damaged: {error}") from None


@contextmanager
def _reading(path: str, part: str) -> Iterator[None]:
    """Make a ValueError of what damaged bytes make zipfile and JSON raise."""
    try:
        yield
    except (*DAMAGED, ValueError) as error:
        raise ValueError(f"{path}: {part} is damaged: {error}") from None
