"""Networks of native layers."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import _checks, _core, layers
from ._sharing import exclusive, locks_of, reading, shared
from .reference import network as reference
from .reference.layers import Pass, Passed, counters_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from typing_extensions import Self

    from ._checks import Array

__all__ = ["Sequential", "mlp"]

# Kind of layer, kind of activation, and the names of its parameters, as the native plan knows them.
PLANNED: dict[type, tuple[str, int, tuple[str, ...]]] = {
    layers.Affine: ("affine", 0, ("W", "b")),
    layers.BatchNorm: ("batchnorm", 0, ("gamma", "beta")),
    layers.LayerNorm: ("layernorm", 0, ("gamma", "beta")),
    layers.RMSNorm: ("rmsnorm", 0, ("gamma",)),
    layers.Dropout: ("dropout", 0, ()),
    layers.Embedding: ("embedding", 0, ("W",)),
    layers.Residual: ("residual", 0, ()),
    **{c: ("activation", _core.ACTIVATIONS[function], ()) for c, function in layers.ACTIVATIONS.items()},
}
for layer, (kind, activation, names) in PLANNED.items():
    _core.register_class("layer", layer, _core.LAYERS[kind], activation, names)

# What is known of a network, which a change of `layers` or of a method may belie.
KNOWN = ("_compiled", "_acts_in_training", "_passes", "_counting")
UNSCALED = 1.0  # which need not be checked


@layers.documented
class Sequential(reference.Sequential):
    layer_classes: ClassVar[Mapping[str, Any]] = layers.LAYERS

    def __init__(self, layers: Iterable[Any]) -> None:
        super().__init__(layers)
        self._in_use = _core.InUse()

    def __setattr__(self, name: str, value: Any) -> None:
        for known in KNOWN:
            self.__dict__.pop(known, None)
        super().__setattr__(name, value)

    @property
    def _locks(self) -> list[_core.InUse]:
        return [self._in_use, *locks_of(self._every)]

    _read_locks = _locks

    @cached_property
    def _compiled(self) -> _core.CompiledNetwork | None:
        """What runs whole steps; None where Python must, for layers or networks of other classes."""
        classes = list(map(type, self._every))
        replaced = self.__dict__.keys() & {"forward", "backward", "backward_params"}
        if type(self) is not Sequential or replaced or not PLANNED.keys() >= set(classes):
            return None
        if layers.Affine not in classes or layers.Embedding in classes[1:]:
            return None
        return _core.CompiledNetwork(self._in_use, self.layers)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in KNOWN}

    @cached_property
    def _passes(self) -> Passed:
        return Passed(self.layers, None if self._takes_indices else self.dtype)

    @cached_property
    def _counting(self) -> list[Any]:
        """The layers that draw masks."""
        return [layer for layer in self._every if hasattr(layer, "stream")]

    def forward(self, x: Any, train: bool = True) -> Any:
        compiled = self._compiled
        if compiled is not None:
            x = x if type(x) is np.ndarray else _checks.as_array("x", x)
            one_pass = Pass(self._passes, x, train, counters_of(self._counting))
            if train or not self._acts_in_training:
                try:
                    y = compiled.forward(x, one_pass)
                except ValueError:
                    if np.ndim(x) > 1:
                        raise
                    y = NotImplemented  # so that it is said how a single row is given
                if y is not NotImplemented:
                    self.__dict__["_passed"] = None
                    return y
        return self._forward(x, train)

    def backward(self, dout: Any) -> Any:
        compiled = self._compiled
        dx = NotImplemented if compiled is None else compiled.backward(dout, True, True)
        return self._backward(dout) if dx is NotImplemented else dx

    def backward_params(self, dout: Any) -> None:
        compiled = self._compiled
        if compiled is None or compiled.backward(dout, True, False) is NotImplemented:
            self._backward_params(dout)

    def input_gradient(self, dout: Any) -> Any:
        compiled = self._compiled
        dx = NotImplemented if compiled is None else compiled.backward(dout, False, True)
        return self._input_gradient(dout) if dx is NotImplemented else dx

    _forward = exclusive(reference.Sequential.forward)
    _backward = exclusive(reference.Sequential.backward)
    _backward_params = exclusive(reference.Sequential.backward_params)
    _input_gradient = exclusive(reference.Sequential.input_gradient)

    @cached_property
    def _acts_in_training(self) -> bool:
        """Whether a forward in training is another."""
        return any(isinstance(layer, (layers.BatchNorm, layers.Dropout)) for layer in self._every)

    def predict(
        self, x: Any, batch_size: int | None = None, scale: float = UNSCALED, *, out: Any = None
    ) -> Array:
        if out is not None:
            return self._predict_into(out, x, batch_size, scale)
        if batch_size is not None:  # which native code chooses itself
            _checks.integer("batch_size", batch_size, 1)
        compiled = self._compiled
        if compiled is not None:
            x = x if type(x) is np.ndarray else _checks.as_array("x", x)
            factor = scale if scale is UNSCALED else reference.input_scale(self, scale)
            try:
                y = compiled.infer(x, factor)
            except ValueError:
                if x.ndim == 0:
                    _checks.real_array("x", x)
                if x.ndim != 1:
                    raise
                y = None
            if y is not None:
                return y
        return self._predict(x, batch_size, scale)

    _predict_into = shared(reference.Sequential._predict_into)
    _predict = exclusive(reference.Sequential.predict)

    def blend(self, net: Any, tau: float) -> None:
        locks = getattr(net, "_read_locks", ())  # the other is only read
        with ExitStack() as held:
            for lock in locks:
                held.enter_context(reading(lock))
            for lock in self._locks:
                held.enter_context(lock)
            if locks:
                mine, others = self._state(), net._state()
                share = _checks.real_number("tau", tau, 0, 1)
                same = share < 1 and mine.keys() == others.keys()
                if same and _core.blend([*mine.values()], [*others.values()], share):
                    return
            super().blend(net, tau)

    def copy(self) -> Self:
        twin = self._copy()
        twin._in_use = _core.InUse()
        for layer in twin._every:
            if hasattr(layer, "_in_use"):
                layer._in_use = _core.InUse()
        return twin

    _copy = shared(reference.Sequential.copy)
    state_dict = shared(reference.Sequential.state_dict)
    load_state_dict = exclusive(reference.Sequential.load_state_dict)
    save = shared(reference.Sequential.save)


_core.register_class("network", Sequential)


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
    """Return a network of dense layers; see `fastnn.reference.mlp` for the parameters."""
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


mlp.__doc__ = reference.mlp.__doc__
