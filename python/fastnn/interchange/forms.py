"""What other libraries ask of a network and fastnn's layers do not say."""

from __future__ import annotations

from typing import Any

from .. import _checks
from ..reference import layers as reference_layers
from ..reference import network as reference

__all__ = ["check_network", "features", "tokens"]


def check_network(net: Any) -> None:
    """Refuse what is no network of fastnn's layers: TypeError."""
    if not isinstance(net, reference.Sequential):
        raise TypeError(f"net must be a Sequential of fastnn, got {_checks.shown(net)}")
    for prefix, layer in reference_layers.each_layer(net.layers):
        if net.layer_classes.get(type(layer).__name__) is not type(layer):
            raise TypeError(f"layers[{prefix[:-1]}] must be a layer of fastnn, got {_checks.shown(layer)}")


def _with_parameters(net: Any) -> list[Any]:
    layers = [layer for _, layer in reference_layers.each_layer(net.layers)]
    return [layer for layer in layers if not isinstance(layer, reference_layers.Residual) and layer.params]


def features(net: Any) -> int | None:
    """Return how many numbers a row of the input has; None for indices, and where no layer says it."""
    if net.layers[0].takes_indices:
        return None
    for layer in _with_parameters(net):
        return int(next(iter(layer.params.values())).shape[0])
    return None


def tokens(net: Any) -> int | None:
    """Return how many indices a row of the input has; None for numbers, and where no layer says it."""
    if net.layers[0].takes_indices:
        dim: int = net.layers[0].params["W"].shape[1]
        for layer in _with_parameters(net)[1:]:
            if isinstance(layer, (reference_layers.Affine, reference_layers.BatchNorm)):
                return int(next(iter(layer.params.values())).shape[0]) // dim
    return None
