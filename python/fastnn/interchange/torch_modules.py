"""Modules of PyTorch and networks of fastnn.

torch has the weights of a Linear as (n_out, n_in), fastnn as (n_in, n_out); torch's momentum of running
statistics is the share of the new batch, fastnn's that of the old; torch's running variance is an average of
variances with the divisor N - 1, fastnn's of those with N. The values that are stored stay as they are, so
that predictions are the same.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from .. import _checks, layers
from ..network import Sequential
from ..reference import layers as reference_layers
from ..reference import network as reference

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from .._checks import Array

__all__ = ["Reading", "Source", "Writing", "check_network", "check_plain", "floats", "read", "write"]

DTYPES: dict[Any, np.dtype[Any]] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
LOGITS = "leave it out, fastnn's losses take logits"
INSTEAD = {
    "Softmax": LOGITS,
    "LogSoftmax": LOGITS,
    "OptimizedModule": "pass the module that was compiled, its _orig_mod",
    "LazyLinear": "pass an input through it first",
    "LazyBatchNorm1d": "pass an input through it first",
}


class Source(NamedTuple):
    """What an array of a network stands for: a tensor, or None where torch's module has none.

    `where` is "module 0 (Linear), weight", for messages.
    """

    where: str
    tensor: Any
    transposed: bool = False

    @property
    def trained(self) -> bool:
        """Whether it would get a gradient."""
        return self.tensor is not None and self.tensor.requires_grad

    def like(self, array: Array) -> Any:
        """Return a tensor of an array's values in the tensor's shape; it may share the array's memory."""
        return torch.from_numpy(array.T if self.transposed else array)

    def fill(self, array: Array) -> None:
        """Copy an array's values into the tensor."""
        with torch.no_grad():
            self.tensor.copy_(self.like(array))


def floats(where: str, tensor: Any, dtype: np.dtype[Any]) -> Array:
    """Return the values of a tensor, not copied; TypeError or ValueError unless it is plain and of the dtype.

    `where` is for messages.
    """
    if tensor.device.type != "cpu":
        raise ValueError(f"{where}: must be on the CPU, got {tensor.device}: move it by .cpu()")
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise TypeError(f"{where}: must be a dense tensor, got {tensor.layout}, {tensor.dtype}")
    if tensor.dtype not in DTYPES:
        raise TypeError(f"{where}: must be float32 or float64, got {tensor.dtype}: convert it by .float()")
    if DTYPES[tensor.dtype] != dtype:
        raise TypeError(f"{where}: must have the dtype {dtype} of the others, got {tensor.dtype}")
    if any(stride == 0 and n > 1 for stride, n in zip(tensor.stride(), tensor.shape, strict=True)):
        raise ValueError(f"{where}: must have memory for each element, got an expanded tensor")
    array: Array = tensor.detach().resolve_neg().numpy()
    return array


def check_plain(where: str, module: Any) -> None:
    """Refuse a module that computes, or does, more than its class says: ValueError."""
    if "forward" in vars(module):
        raise ValueError(f"{where}: must have the forward of its class, got another")
    for hooks in HOOKS:
        if getattr(module, hooks, None):
            raise ValueError(f"{where}: has {hooks.strip('_').replace('_', ' ')}, which nobody would call")


# From torch


class Reading:
    """A module of torch as it is read, layer by layer.

    Attributes
    ----------
    module
        The whole.
    net : Sequential
        There when all is read.
    sources : dict of str to Source
        What parameters and running statistics stand for, by their names in the network.
    dtype : numpy dtype
    """

    net: Sequential

    def __init__(self, module: Any) -> None:
        self.module = module
        self.sources: dict[str, Source] = {}
        tensors = [t for t in (*module.parameters(), *module.buffers()) if t.dtype in DTYPES]
        self.dtype = DTYPES[tensors[0].dtype if tensors else torch.get_default_dtype()]
        self._layers: list[Any] = []
        self._where = ""  # the module that is being read
        self._rows = False  # whether its input is (N, n) whatever that of the whole is
        self._flatten = ""  # a Flatten that counts only if a Linear takes what comes of it

    def add(self, where: str, module: Any) -> None:
        """Add the layer that a module stands for."""
        self._where = where
        if type(module) not in READERS:
            raise TypeError(f"{where}: {_reason(module)}")
        check_plain(where, module)
        try:
            layer = READERS[type(module)](self, module)
        except (TypeError, ValueError) as error:
            text = str(error)
            raise type(error)(text if text.startswith("module") else f"{where}: {text}") from None
        if isinstance(layer, layers.Affine):
            self._rows, self._flatten = True, ""
        elif isinstance(layer, (layers.LayerNorm, layers.RMSNorm)):
            self._check_flattened()
        elif isinstance(layer, layers.Embedding) and (self._layers or self._flatten):
            raise ValueError(f"{where}: must come first: fastnn looks up rows of the data only")
        if layer is not None:
            self._layers.append(layer)

    def flatten(self, module: Any) -> None:
        """Take a Flatten: a layer of fastnn does it where a Linear takes its input."""
        if (module.start_dim, module.end_dim) != (1, -1):
            raise ValueError(
                f"start_dim and end_dim must be 1 and -1, got {module.start_dim} and {module.end_dim}"
            )
        if not self._rows:
            self._flatten = self._where

    def _check_flattened(self) -> None:
        if self._flatten:
            raise ValueError(
                f"{self._flatten}: must be followed by a Linear, with nothing but activations, Dropout and "
                "BatchNorm1d between: fastnn flattens where that takes its input"
            )

    def array(
        self,
        name: str,
        tensor: Any,
        torch_name: str,
        n: int = 0,
        value: float = 0.0,
        transposed: bool = False,
    ) -> Array:
        """Return a new array of a tensor's values, or n times the value for None, and note its source."""
        where = f"{self._where}, {torch_name}"
        if tensor is None:
            self.sources[f"{len(self._layers)}.{name}"] = Source(where, None)
            return np.full(n, value, self.dtype)
        if not tensor.is_leaf:
            raise ValueError(f"{where}: must be a parameter, got what was computed from others")
        if any(getattr(tensor, hooks, None) for hooks in TENSOR_HOOKS):
            raise ValueError(f"{where}: has hooks, which nobody would call")
        array = floats(where, tensor, self.dtype)
        self.sources[f"{len(self._layers)}.{name}"] = Source(where, tensor, transposed)
        return np.array(array.T if transposed else array, order="C")

    def check_mode(self, module: Any) -> None:
        """Refuse a module in another mode than the whole: ValueError."""
        if module.training != self.module.training:
            modes = ["eval", "training"]
            raise ValueError(
                f"must be in the {modes[self.module.training]} mode of the whole, got "
                f"{modes[module.training]} mode"
            )

    def end(self) -> None:
        """Make the network."""
        self._check_flattened()
        if not self._layers:
            raise ValueError("module must hold at least one layer that computes something")
        _check_own_memory(self.sources.values())
        self.net = Sequential(self._layers)

    def check_trained(self) -> None:
        """Refuse a module in training mode some of which is not trained: ValueError."""
        if not self.module.training:
            return
        for name in self.net.params:
            source = self.sources[name]
            if not source.trained:
                why = "has requires_grad=False" if source.tensor is not None else "is not there"
                raise ValueError(
                    f"{source.where}: {why}, and in fastnn an optimizer freezes what is not trained: pass "
                    "that of torch, too; or call module.eval() first for a network that predicts (it trains "
                    f'alike with Group("{name}", frozen=True))'
                )


def _reason(module: Any) -> str:
    """Return why a module cannot be converted."""
    name = type(module).__name__
    if hasattr(module, "parametrizations"):
        return "is parametrized: remove_parametrizations makes it plain"
    if name in INSTEAD:
        return f"cannot be converted: {INSTEAD[name]}"
    return f"fastnn has no layer for {type(module).__module__}.{name}"


def _check_own_memory(sources: Collection[Source]) -> None:
    """Refuse tensors that share memory: ValueError."""
    spans = []
    for where, t, _ in sources:
        if t is not None and t.numel():
            last = sum((n - 1) * stride for n, stride in zip(t.shape, t.stride(), strict=True))
            spans.append((t.data_ptr(), t.data_ptr() + (last + 1) * t.element_size(), where))
    for (_, end, one), (start, _, other) in pairwise(sorted(spans)):
        if start < end:
            raise ValueError(f"{other}: must have memory of its own, but shares that of {one}")


def _linear(r: Reading, m: Any) -> Any:
    W = r.array("W", m.weight, "weight", transposed=True)
    return layers.Affine(W, r.array("b", m.bias, "bias", W.shape[1]))


def _batch_norm(r: Reading, m: Any) -> Any:
    r.check_mode(m)
    if m.running_mean is None or m.running_var is None or not m.track_running_stats:
        raise ValueError("track_running_stats must be True: fastnn predicts by running statistics")
    if m.momentum is None:
        raise ValueError("momentum must be a number: fastnn has no plain average of all batches")
    if not 0 <= m.momentum <= 1:
        raise ValueError(f"momentum must be in [0, 1], got {m.momentum}")
    gamma = r.array("gamma", m.weight, "weight", m.num_features, 1.0)
    beta = r.array("beta", m.bias, "bias", m.num_features)
    mean = r.array("running_mean", m.running_mean, "running_mean")
    var = r.array("running_var", m.running_var, "running_var")
    return layers.BatchNorm(gamma, beta, 1 - m.momentum, mean, var, eps=m.eps)


def _layer_norm(r: Reading, m: Any) -> Any:
    n = _features(m)
    gamma, beta = r.array("gamma", m.weight, "weight", n, 1.0), r.array("beta", m.bias, "bias", n)
    return layers.LayerNorm(gamma, beta, eps=m.eps)


def _rms_norm(r: Reading, m: Any) -> Any:
    gamma = r.array("gamma", m.weight, "weight", _features(m), 1.0)
    return layers.RMSNorm(gamma, eps=float(np.finfo(r.dtype).eps) if m.eps is None else m.eps)


def _features(m: Any) -> int:
    if len(m.normalized_shape) != 1:
        raise ValueError(f"normalized_shape must have one dimension, got {m.normalized_shape}")
    return int(m.normalized_shape[0])


def _embedding(r: Reading, m: Any) -> Any:
    for option in ("padding_idx", "max_norm"):
        if getattr(m, option) is not None:
            raise ValueError(f"{option} must be None, got {getattr(m, option)}")
    if m.scale_grad_by_freq:
        raise ValueError("scale_grad_by_freq must be False")
    return layers.Embedding(r.array("W", m.weight, "weight"))


def _dropout(r: Reading, m: Any) -> Any:
    r.check_mode(m)
    return layers.Dropout(m.p)


def _softplus(r: Reading, m: Any) -> Any:
    if (m.beta, m.threshold) != (1, 20):
        raise ValueError(f"beta and threshold must be 1 and 20, got {m.beta} and {m.threshold}")
    return layers.Softplus()


READERS: dict[type, Callable[[Reading, Any], Any]] = {
    nn.Linear: _linear,
    nn.BatchNorm1d: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.RMSNorm: _rms_norm,
    nn.Embedding: _embedding,
    nn.Dropout: _dropout,
    nn.Flatten: Reading.flatten,
    nn.Identity: lambda r, m: None,
    nn.ReLU: lambda r, m: layers.ReLU(),
    nn.LeakyReLU: lambda r, m: layers.LeakyReLU(m.negative_slope),
    nn.Sigmoid: lambda r, m: layers.Sigmoid(),
    nn.Tanh: lambda r, m: layers.Tanh(),
    nn.SELU: lambda r, m: layers.SELU(),
    nn.GELU: lambda r, m: layers.GELU(m.approximate),
    nn.SiLU: lambda r, m: layers.SiLU(),
    nn.Softplus: _softplus,
    nn.Mish: lambda r, m: layers.Mish(),
}


def read(module: Any) -> Reading:
    """Return a module of torch, read; TypeError or ValueError, with the place, if it cannot be converted."""
    if isinstance(module, type) or not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {_checks.shown(module)}")
    reading = Reading(module)
    for where, leaf in _leaves("", module):
        reading.add(where, leaf)
    reading.end()
    return reading


def _leaves(name: str, module: Any) -> Iterator[tuple[str, Any]]:
    """Yield the places and the modules that compute, in their order."""
    where = f"module {name} ({type(module).__name__})" if name else f"module ({type(module).__name__})"
    if not (isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward):
        yield where, module
        return
    check_plain(where, module)
    for child, part in module._modules.items():
        yield from _leaves(f"{name}.{child}" if name else child, part)


# To torch


class Writing:
    """A network as it becomes a module of torch, layer by layer.

    Attributes
    ----------
    module : torch.nn.Sequential
        There when all is written.
    sources : dict of str to Source
        As for `Reading`.
    """

    module: Any

    def __init__(self, frozen: Collection[str]) -> None:
        self.sources: dict[str, Source] = {}
        self._frozen = frozen
        self._modules: list[Any] = []
        self._rows = True
        self._flattened = ""  # a layer that has flattened in torch, and in fastnn has not
        self._i = 0  # the layer that is being written

    def add(self, i: int, layer: Any) -> None:
        """Add the modules that a layer stands for."""
        self._i = i
        where = f"layers[{i}] ({type(layer).__name__})"
        if isinstance(layer, (reference_layers.Affine, reference_layers.BatchNorm)):
            if not (self._rows or self._flattened):
                self._modules.append(nn.Flatten())
                self._flattened = where
            if isinstance(layer, reference_layers.Affine):
                self._rows, self._flattened = True, ""
        elif layer.takes_indices:
            self._rows = False
        elif layer.params:
            self.check_flattened()
        module = WRITERS[type(layer).__name__](self, layer)
        self._modules.append(module)
        for name, array in (
            *layer.params.items(),
            *((name, getattr(layer, name)) for name in reference.RUNNING if hasattr(layer, name)),
        ):
            torch_name = TORCH_NAMES.get(name, name)
            tensor = getattr(module, torch_name)
            transposed = isinstance(module, nn.Linear) and name == "W"
            source = Source(f"module {len(self._modules) - 1}, {torch_name}", tensor, transposed)
            self.sources[f"{i}.{name}"] = source
            if tensor is not None:
                source.fill(array)
                if f"{i}.{name}" in self._frozen:
                    tensor.requires_grad_(False)

    def check_flattened(self) -> None:
        """Refuse to go on with what is flat in torch only: ValueError."""
        if self._flattened:
            raise ValueError(
                f"{self._flattened}: must be followed by an Affine: in torch what it returns is flat"
            )

    def absent(self, layer: Any, name: str, value: float) -> bool:
        """Return whether a parameter is a constant that a module without it computes with."""
        return f"{self._i}.{name}" in self._frozen and bool((layer.params[name] == value).all())

    def end(self) -> None:
        """Make the module."""
        self.check_flattened()
        self.module = nn.Sequential(*self._modules)


def _dtype(layer: Any) -> Any:
    return {dtype: of_torch for of_torch, dtype in DTYPES.items()}[layer.dtype]


def _to_linear(w: Writing, layer: Any) -> Any:
    n_in, n_out = layer.params["W"].shape
    bias = not w.absent(layer, "b", 0)
    return nn.utils.skip_init(nn.Linear, n_in, n_out, bias=bias, dtype=_dtype(layer))


def _to_batch_norm(w: Writing, layer: Any) -> Any:
    affine = not (w.absent(layer, "gamma", 1) and w.absent(layer, "beta", 0))
    n, momentum = layer.params["gamma"].size, round(1 - layer.momentum, 15)
    return nn.BatchNorm1d(n, layer.eps, momentum, affine, dtype=_dtype(layer))


def _to_layer_norm(w: Writing, layer: Any) -> Any:
    bias = not w.absent(layer, "beta", 0)
    affine = bias or not w.absent(layer, "gamma", 1)
    return nn.LayerNorm(layer.params["gamma"].size, layer.eps, affine, bias, dtype=_dtype(layer))


def _to_rms_norm(w: Writing, layer: Any) -> Any:
    affine = not w.absent(layer, "gamma", 1)
    return nn.RMSNorm(layer.params["gamma"].size, layer.eps, affine, dtype=_dtype(layer))


def _to_embedding(w: Writing, layer: Any) -> Any:
    return nn.utils.skip_init(nn.Embedding, *layer.params["W"].shape, dtype=_dtype(layer))


def _to_dropout(w: Writing, layer: Any) -> Any:
    if not layer.inverted:
        raise ValueError(f"layers[{w._i}] (Dropout): inverted must be True: torch has no other")
    return nn.Dropout(layer.ratio)


TORCH_NAMES = {"W": "weight", "b": "bias", "gamma": "weight", "beta": "bias"}
WRITERS: dict[str, Callable[[Writing, Any], Any]] = {
    "Affine": _to_linear,
    "BatchNorm": _to_batch_norm,
    "LayerNorm": _to_layer_norm,
    "RMSNorm": _to_rms_norm,
    "Embedding": _to_embedding,
    "Dropout": _to_dropout,
    "ReLU": lambda w, layer: nn.ReLU(),
    "LeakyReLU": lambda w, layer: nn.LeakyReLU(layer.alpha),
    "Sigmoid": lambda w, layer: nn.Sigmoid(),
    "Tanh": lambda w, layer: nn.Tanh(),
    "SELU": lambda w, layer: nn.SELU(),
    "GELU": lambda w, layer: nn.GELU(layer.approximate),
    "SiLU": lambda w, layer: nn.SiLU(),
    "Softplus": lambda w, layer: nn.Softplus(),
    "Mish": lambda w, layer: nn.Mish(),
}


def check_network(net: Any) -> None:
    """Refuse what is no network of fastnn's layers: TypeError."""
    if not isinstance(net, reference.Sequential):
        raise TypeError(f"net must be a Sequential of fastnn, got {_checks.shown(net)}")
    for i, layer in enumerate(net.layers):
        name = type(layer).__name__
        if net.layer_classes.get(name) is not type(layer) or name not in WRITERS:
            raise TypeError(
                f"layers[{i}] must be a layer of fastnn that torch has, got {_checks.shown(layer)}"
            )


def write(net: Any, frozen: Collection[str] = ()) -> Writing:
    """Return a network, written as a module of torch; `frozen` has the names of what is not trained."""
    check_network(net)
    writing = Writing(frozen)
    for i, layer in enumerate(net.layers):
        writing.add(i, layer)
    writing.end()
    return writing
